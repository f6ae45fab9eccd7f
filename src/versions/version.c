/*
 * version.c
 *	  Recording the versions of rows: who changed what, when and why.
 *
 * A table with a key has a table of versions with the same columns, where each
 * change of a row adds one row: the new values, or for a delete the last ones,
 * with the transaction, the operation, and a change_id.  One sequence gives the
 * ids of transactions and changes; whoever changes a row holds it until he has
 * ended, so for one row the order of change_ids is the order of the changes.
 * A column of the table that its versions have not, or have of another type, is
 * not recorded (poser_check() tells); other columns of the versions are null.
 *
 * Statement triggers record from the transition tables.  That is after rows of
 * a statement have been written, and other code may come before it that writes
 * the same table: a trigger for each row, a function that the statement calls,
 * another part of its query.  Such statements find each other in a list, and
 * record carefully: what has happened before is recorded first, what somebody
 * has recorded already is not recorded again, and in the end the last version
 * is made to be the row as it is.
 *
 * History is bookkeeping: it is written by direct access, past privileges and
 * row-level security.  Its tables are append-only, so writers do not meet.
 */
#include "postgres.h"

#include "access/genam.h"

#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_trigger.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "versions/versions.h"
#include "versions/version_internal.h"

PG_FUNCTION_INFO_V1(poser_version);

/* Statements that have not been recorded yet, see statement.c. */
static PoserStatement *unrecorded = NULL;

/*
 * Is a row under way that has taken the key of one that was deleted?  Of a row
 * that is not what it was, an INSERT and a DELETE that have not been recorded
 * are the reason if no UPDATE can be.
 */
static bool
replaces_rows(Oid relid)
{
	int16 events = 0;

	for (PoserStatement *statement = unrecorded; statement != NULL; statement = statement->outer)
		if (statement->relid == relid)
			events |= statement->event;
	return (events & TRIGGER_TYPE_INSERT) && (events & TRIGGER_TYPE_DELETE) && !(events & TRIGGER_TYPE_UPDATE);
}

/* A statement's rows, as they were and as they are; either may be missing. */
typedef struct Rows
{
	Tuplestorestate *stores[2];
	TupleTableSlot *slots[2]; /* NULL without a store */
	MemoryContext context;	  /* of what is done with one row */
} Rows;

static void
open_rows(Rows *rows, TriggerData *trigdata)
{
	bool complete = true;

	rows->context = AllocSetContextCreate(CurrentMemoryContext, "poser row", ALLOCSET_SMALL_SIZES);
	rows->stores[0] = trigdata->tg_oldtable;
	rows->stores[1] = trigdata->tg_newtable;
	if (!TRIGGER_FIRED_BY_INSERT(trigdata->tg_event))
		complete = complete && rows->stores[0] != NULL;
	if (!TRIGGER_FIRED_BY_DELETE(trigdata->tg_event))
		complete = complete && rows->stores[1] != NULL;
	if (!complete)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" must have transition tables",
						trigdata->tg_trigger->tgname)));
	for (int i = 0; i < 2; i++)
		rows->slots[i] = rows->stores[i] == NULL ? NULL : MakeSingleTupleTableSlot(RelationGetDescr(trigdata->tg_relation), &TTSOpsMinimalTuple);
}

/* Begin with the first row, also when other triggers have read them. */
static void
rewind_rows(Rows *rows)
{
	for (int i = 0; i < 2; i++)
		if (rows->slots[i] != NULL)
		{
			tuplestore_select_read_pointer(rows->stores[i], 0);
			tuplestore_rescan(rows->stores[i]);
		}
}

static bool
next_rows(Rows *rows)
{
	bool found[2] = {false, false};
	MemoryContext old;

	CHECK_FOR_INTERRUPTS();
	MemoryContextReset(rows->context);
	/* a slot frees its row itself, with the next one */
	old = MemoryContextSwitchTo(MemoryContextGetParent(rows->context));
	for (int i = 0; i < 2; i++)
		if (rows->slots[i] != NULL)
			found[i] = tuplestore_gettupleslot(rows->stores[i], true, false, rows->slots[i]);
	MemoryContextSwitchTo(old);
	if (rows->slots[0] != NULL && rows->slots[1] != NULL && found[0] != found[1])
		elog(ERROR, "transition tables of an UPDATE do not have the same number of rows");
	return found[0] || found[1];
}

static void
close_rows(Rows *rows)
{
	MemoryContextDelete(rows->context);
	for (int i = 0; i < 2; i++)
		if (rows->slots[i] != NULL)
			ExecDropSingleTupleTableSlot(rows->slots[i]);
}

/*
 * Record the rows of an INSERT, UPDATE or DELETE.  An update of a key is a
 * delete of the old and an insert of the new; all the deletes come first, for
 * one row may have got the key that another had.
 */
static void
record_statement(TriggerData *trigdata, const PoserVersioned *versioned, bool careful, int64 since)
{
	Relation rel = trigdata->tg_relation;
	PoserVersionWriter *writer = poser_version_begin(versioned, NULL);
	bool replaced = careful && replaces_rows(RelationGetRelid(rel));
	bool moved = false;
	Rows rows;
	TupleTableSlot *old;
	TupleTableSlot *new;
	MemoryContext outer;

	open_rows(&rows, trigdata);
	old = rows.slots[0];
	new = rows.slots[1];
	outer = MemoryContextSwitchTo(rows.context);

	rewind_rows(&rows);
	while (next_rows(&rows))
	{
		PoserOperation operation = old == NULL ? POSER_INSERT : new == NULL ? POSER_DELETE
																			: POSER_UPDATE;

		if (operation == POSER_UPDATE)
		{
			if (poser_versioned_same_rows(versioned, old, new))
				continue;
			if (!poser_versioned_same_keys(versioned, old, new))
			{
				operation = POSER_DELETE;
				moved = true;
			}
		}
		if (careful)
			poser_record_carefully(writer, operation, old, new, since, replaced);
		else
			poser_version_write(writer, operation, operation == POSER_DELETE ? old : new, false);
	}

	if (moved)
	{
		rewind_rows(&rows);
		while (next_rows(&rows))
			if (!poser_versioned_same_keys(versioned, old, new))
			{
				if (careful)
					poser_record_carefully(writer, POSER_INSERT, NULL, new, since, replaced);
				else
					poser_version_write(writer, POSER_INSERT, new, false);
			}
	}

	if (careful)
	{
		rewind_rows(&rows);
		while (next_rows(&rows))
		{
			if (old != NULL)
				poser_reconcile(writer, rel, old, false);
			if (new != NULL && (old == NULL || !poser_versioned_same_keys(versioned, old, new)))
				poser_reconcile(writer, rel, new, false);
		}
	}

	MemoryContextSwitchTo(outer);
	close_rows(&rows);
	poser_version_end(writer);
}

/*
 * Before TRUNCATE: a delete of every row.  Nobody else has the table open.
 */
static void
record_truncate(Relation rel, const PoserVersioned *versioned)
{
	PoserVersionWriter *writer = poser_version_begin(versioned, NULL);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TableScanDesc scan = table_beginscan(rel, SnapshotSelf, 0, NULL, SO_NONE);

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		CHECK_FOR_INTERRUPTS();
		poser_version_write(writer, POSER_DELETE, slot, false);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	poser_version_end(writer);
}

/* Is a statement under way that has changes to be recorded? */
bool
poser_version_is_busy(void)
{
	return unrecorded != NULL;
}

static void
begin_statement(TriggerData *trigdata, const PoserVersioned *versioned)
{
	PoserStatement *statement = poser_statement_begin(&unrecorded, trigdata);

	statement->since = poser_version_last_change(versioned);
	for (PoserStatement *outer = statement->outer; outer != NULL; outer = outer->outer)
		if (outer->relid == statement->relid && outer->cid != statement->cid)
			outer->overlapped = statement->overlapped = true;
}

/*
 * The parts of one query have triggers fire in the order in which the parts
 * have ended.  Within a part the order is DELETE, UPDATE, INSERT, which is
 * right for rows that take each other's keys.  Is there another part that
 * should have come before this one?
 */
static bool
comes_too_early(PoserStatement *statement)
{
	bool result = false;

	for (PoserStatement *other = unrecorded; other != NULL; other = other->outer)
		if (other->relid == statement->relid && other->cid == statement->cid &&
			((statement->event == TRIGGER_TYPE_INSERT && other->event != TRIGGER_TYPE_INSERT) ||
			 (statement->event == TRIGGER_TYPE_UPDATE && other->event == TRIGGER_TYPE_DELETE)))
			other->overlapped = result = true;
	return result;
}

/*
 * poser_version(versions, key column...) for each statement of every kind,
 * before and after.
 */
Datum
poser_version(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = poser_check_trigger(fcinfo);
	TriggerEvent event = trigdata->tg_event;
	Relation rel = trigdata->tg_relation;
	const PoserVersioned *versioned;
	PoserStatement *statement;
	bool careful;
	int64 since;

	if (!TRIGGER_FIRED_FOR_STATEMENT(event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" must fire for each statement",
						trigdata->tg_trigger->tgname)));
	versioned = poser_versioned_by_trigger(trigdata, fcinfo->flinfo->fn_oid);

	if (TRIGGER_FIRED_BEFORE(event))
	{
		if (TRIGGER_FIRED_BY_TRUNCATE(event))
			record_truncate(rel, versioned);
		begin_statement(trigdata, versioned);
		return PointerGetDatum(NULL);
	}

	statement = poser_statement_end(&unrecorded, trigdata);
	/* two rows may have one key for a while, if it is not always unique */
	careful = !versioned->unique;
	if (statement != NULL && (comes_too_early(statement) || statement->overlapped))
		careful = true;
	/* which may record what others are still to record */
	for (PoserStatement *other = unrecorded; careful && other != NULL; other = other->outer)
		if (other->relid == RelationGetRelid(rel))
			other->overlapped = true;
	since = statement != NULL ? statement->since : poser_version_last_change(versioned);
	if (statement != NULL)
		pfree(statement);

	if (TRIGGER_FIRED_BY_TRUNCATE(event))
	{
		if (careful)
			poser_reconcile_since(rel, versioned, since);
	}
	/* a restore brings the versions of the rows that it inserts */
	else if (!TRIGGER_FIRED_BY_INSERT(event) || !poser_is_restore(rel))
		record_statement(trigdata, versioned, careful, since);
	return PointerGetDatum(NULL);
}

static void
end_transaction(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE)
		poser_statement_check(unrecorded);
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
	{
		/* their memory goes with the transaction */
		unrecorded = NULL;
	}
}

static void
end_subtransaction(SubXactEvent event, SubTransactionId mySubid,
				   SubTransactionId parentSubid, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		poser_statement_abort(&unrecorded, mySubid);
}

void
poser_version_init(void)
{
	RegisterXactCallback(end_transaction, NULL);
	RegisterSubXactCallback(end_subtransaction, NULL);
}
