/*
 * version.c
 *	  The trigger poser_version(), which records the changes of a table.
 *
 * The trigger fires before and after each INSERT, UPDATE, DELETE and TRUNCATE.  The AFTER
 * trigger writes a version for each row of the transition tables.  So a statement that
 * changes a million rows calls it once.
 *
 * Between the two triggers other statements can write the same table: in a row
 * trigger, in a function that the statement calls, or in another part of the same
 * query.  So the BEFORE trigger puts its statement into a list, see statement.c.  If the
 * list shows that statements overlap, they are recorded by reconcile.c, which is slower.
 *
 * The invariant: when no statement is in the list, the last version of each row has the
 * values of the row.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_trigger.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "versions/versions.h"
#include "versions/version_internal.h"

PG_FUNCTION_INFO_V1(poser_version);

/* Statements that wait for their AFTER trigger, the innermost first. */
static PoserStatement *unrecorded = NULL;

/* A statement while its rows are recorded. */
typedef struct Recording
{
	const PoserVersioned *versioned;
	PoserVersionWriter *writer;
	PoserReconciler *reconciler; /* NULL unless the statement overlaps with others */
	Relation versions;			 /* NULL unless rows can have a history already */
	PoserLookup history;		 /* open if "versions" is */
	PoserTransition old;
	PoserTransition new;
	MemoryContext row_context; /* reset for each row */
} Recording;

/* Is a statement in progress that is not recorded yet? */
bool
poser_version_is_busy(void)
{
	return unrecorded != NULL;
}

/*
 * Put the statement of a BEFORE trigger into the list.  It overlaps with the statements
 * on the same table that are in the list already.  Parts of the same query have the
 * same command ID and do not count as overlapping here, see comes_too_early().
 */
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
 * Does another part of the same query have to be recorded before this statement?  If so,
 * that part is marked as overlapping.
 *
 * The AFTER triggers of a query with several writing parts fire in the order in which
 * the parts have ended.  Rows of one part can take over the keys of rows of another
 * part.  So a DELETE must be recorded before an UPDATE, and both before an INSERT.
 * Within one part (MERGE, INSERT ON CONFLICT) the server has this order.
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
 * Can rows of this table have been replaced, but not updated, by statements that are
 * not recorded yet?  If an INSERT and a DELETE are pending and no UPDATE, a changed row
 * was replaced.
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

/* Get the next row, or the next pair of rows of an UPDATE; returns false if there is none. */
static bool
next_row(Recording *recording)
{
	MemoryContext old;
	bool has_old;
	bool has_new;

	/* a slot frees its row when it gets the next one, so a row must not be in the context that is reset here */
	MemoryContextReset(recording->row_context);
	old = MemoryContextSwitchTo(MemoryContextGetParent(recording->row_context));
	has_old = poser_transition_next(&recording->old);
	has_new = poser_transition_next(&recording->new);
	MemoryContextSwitchTo(old);
	if (has_old != has_new && recording->old.slot != NULL && recording->new.slot != NULL)
		elog(ERROR, "transition tables of an UPDATE do not have the same number of rows");
	return has_old || has_new;
}

/* Go back to the first row. */
static void
rewind_rows(Recording *recording)
{
	poser_transition_rewind(&recording->old);
	poser_transition_rewind(&recording->new);
}

/* Record a change of the current row. */
static void
record_row(Recording *recording, PoserOperation operation)
{
	TupleTableSlot *old = recording->old.slot;
	TupleTableSlot *new = recording->new.slot;

	if (recording->reconciler != NULL)
		poser_reconcile_change(recording->reconciler, operation, old, new);
	else
		poser_version_write(recording->writer, operation, operation == POSER_DELETE ? old : new, false);
}

/* Close the look-up of versions, if it is open. */
static void
end_history(Recording *recording)
{
	if (recording->history.scan != NULL)
		poser_lookup_close(&recording->history);
	if (recording->versions != NULL)
		table_close(recording->versions, NoLock);
	recording->versions = NULL;
}

/*
 * Can the rows of an INSERT have a history already?  In a restore history can come before
 * the rows.  The scripts of pg_dump and pg_restore set an empty search_path, and only then
 * this is looked up.  If there can be a history, this opens the look-up of versions.
 */
static void
begin_history(Recording *recording)
{
	const PoserVersioned *versioned = recording->versioned;

	if (!versioned->arrives || !poser_restore_is_likely())
		return;
	/* from here on no history arrives in another session */
	poser_transaction_lock(versioned);
	recording->versions = table_open(versioned->versions, RowExclusiveLock);
	if (RelationGetNumberOfBlocks(recording->versions) > 0)
		poser_version_lookup_open(&recording->history, versioned, recording->versions);
	else
		end_history(recording);
}

/* Does the history of the current row end in the row as it is?  Then it is not recorded again. */
static bool
has_arrived(Recording *recording)
{
	return recording->history.scan != NULL &&
		   poser_version_lookup_ends_in(&recording->history, recording->versioned, recording->new.slot);
}

/* Has the key of the current row been updated? */
static bool
has_moved(Recording *recording)
{
	return !poser_versioned_same_key(recording->versioned, recording->old.slot, recording->new.slot);
}

/*
 * Record the rows of an INSERT, UPDATE or DELETE.  With "overlaps" other statements may
 * have written the table meanwhile; "since" is the last change_id before the statement.
 */
static void
record_statement(TriggerData *trigdata, const PoserVersioned *versioned, bool overlaps, int64 since)
{
	Relation rel = trigdata->tg_relation;
	Recording recording = {.versioned = versioned};
	PoserOperation operation = POSER_UPDATE;
	bool moved = false;
	MemoryContext outer;

	/* the transition tables, and what writes the versions */
	poser_check_transitions(trigdata);
	recording.writer = poser_version_begin(versioned, NULL);
	/* what reconciles looks at versions before it records, and no history must arrive in between */
	if (overlaps)
	{
		poser_transaction_lock(versioned);
		recording.reconciler = poser_reconcile_begin(versioned, rel, recording.writer, since,
													 replaces_rows(RelationGetRelid(rel)));
	}
	poser_transition_open(&recording.old, trigdata->tg_oldtable, trigdata);
	poser_transition_open(&recording.new, trigdata->tg_newtable, trigdata);
	if (recording.old.slot == NULL)
		operation = POSER_INSERT;
	else if (recording.new.slot == NULL)
		operation = POSER_DELETE;
	if (operation == POSER_INSERT)
		begin_history(&recording);
	recording.row_context = AllocSetContextCreate(CurrentMemoryContext, "poser row", ALLOCSET_SMALL_SIZES);
	outer = MemoryContextSwitchTo(recording.row_context);

	/*
	 * An update of the key is recorded as a delete of the old key and an insert of the
	 * new one.  All deletes come first, because a row can get the key that another row
	 * had before.
	 */
	while (next_row(&recording))
	{
		if (operation != POSER_UPDATE)
		{
			if (!has_arrived(&recording))
				record_row(&recording, operation);
		}
		else if (poser_versioned_same_row(versioned, recording.old.slot, recording.new.slot))
			continue;
		else if (!has_moved(&recording))
			record_row(&recording, POSER_UPDATE);
		else
		{
			record_row(&recording, POSER_DELETE);
			moved = true;
		}
	}

	/* the inserts of the updated keys */
	if (moved)
	{
		rewind_rows(&recording);
		while (next_row(&recording))
			if (has_moved(&recording))
				record_row(&recording, POSER_INSERT);
	}

	/* other statements may have changed these rows, too: compare the last version of each row with the row */
	if (overlaps)
	{
		rewind_rows(&recording);
		while (next_row(&recording))
		{
			if (operation != POSER_INSERT)
				poser_reconcile_row(recording.reconciler, recording.old.slot, false);
			if (operation == POSER_INSERT || (operation == POSER_UPDATE && has_moved(&recording)))
				poser_reconcile_row(recording.reconciler, recording.new.slot, false);
		}
	}

	MemoryContextSwitchTo(outer);
	MemoryContextDelete(recording.row_context);
	poser_transition_close(&recording.old);
	poser_transition_close(&recording.new);
	end_history(&recording);
	if (overlaps)
		poser_reconcile_end(recording.reconciler);
	poser_version_end(recording.writer);
}

/* Before a TRUNCATE, which has locked the table exclusively: record a delete of every row. */
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

/*
 * poser_version(versions, key column...): a trigger before and after each statement.
 * "versions" is the table of versions.
 */
Datum
poser_version(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = poser_check_trigger(fcinfo);
	TriggerEvent event = trigdata->tg_event;
	Relation rel = trigdata->tg_relation;
	const PoserVersioned *versioned;
	PoserStatement *statement;
	bool overlaps;
	int64 since;

	if (!TRIGGER_FIRED_FOR_STATEMENT(event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" must fire for each statement",
						trigdata->tg_trigger->tgname)));
	versioned = poser_versioned_by_trigger(trigdata, fcinfo->flinfo->fn_oid);
	if (versioned == NULL)
		return PointerGetDatum(NULL);
	if (versioned->own && versioned->nkeys == 0 && (TRIGGER_FIRED_BY_UPDATE(event) || TRIGGER_FIRED_BY_DELETE(event)))
		poser_own_error(RelationGetRelid(rel), POSER_NO_KEY);

	/* the rows of a TRUNCATE are recorded before it, because they cannot be read afterwards */
	if (TRIGGER_FIRED_BEFORE(event))
	{
		if (TRIGGER_FIRED_BY_TRUNCATE(event))
			record_truncate(rel, versioned);
		begin_statement(trigdata, versioned);
		return PointerGetDatum(NULL);
	}

	/* under a deferrable constraint two rows can have the same key for a while: record as if statements overlapped */
	statement = poser_statement_end(&unrecorded, trigdata);
	overlaps = !versioned->unique;
	if (statement != NULL && (comes_too_early(statement) || statement->overlapped))
		overlaps = true;
	/* an overlapping statement may record changes that others in the list have made, so these overlap, too */
	for (PoserStatement *other = unrecorded; overlaps && other != NULL; other = other->outer)
		if (other->relid == RelationGetRelid(rel))
			other->overlapped = true;
	since = statement != NULL ? statement->since : poser_version_last_change(versioned);
	if (statement != NULL)
		pfree(statement);

	/* before 1.5 an INSERT that restores a dump is not recorded, see restore.c */
	if (TRIGGER_FIRED_BY_TRUNCATE(event))
	{
		if (overlaps)
			poser_reconcile_since(versioned, rel, since);
	}
	else if (versioned->arrives || !TRIGGER_FIRED_BY_INSERT(event) || !poser_is_restore(rel))
		record_statement(trigdata, versioned, overlaps, since);
	return PointerGetDatum(NULL);
}

/* Register the list, when the module is loaded. */
void
poser_version_init(void)
{
	poser_statement_register(&unrecorded);
}
