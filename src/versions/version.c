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
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/relcache.h"
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
	PoserTransition old_rows;
	PoserTransition new_rows;
	TupleTableSlot *old; /* the current row before and after the change; NULL if the event has none */
	TupleTableSlot *new;
	Relation whole;			   /* the tracked table, if the statement has written a partition of it; or NULL */
	TupleConversionMap *map;   /* from the partition's row type; NULL if it is the same */
	MemoryContext row_context; /* reset for each row */
} Recording;

/* Is a statement in progress that is not recorded yet? */
bool
poser_version_is_busy(void)
{
	return unrecorded != NULL;
}

/*
 * Put the statement of a BEFORE trigger into the list.  Returns false if it is there
 * already: poser_statement_fire_moves() begins statements before the triggers of MERGE fire for them.
 *
 * It overlaps with the statements on the same table that are in the list already.  Parts
 * of the same query have the same command ID and do not count as overlapping here, see
 * comes_too_early().
 */
static bool
begin_statement(TriggerData *trigdata, const void *arg)
{
	const PoserVersioned *versioned = arg;
	PoserStatement *statement;

	if (poser_statement_is_listed(unrecorded, trigdata))
		return false;
	statement = poser_statement_begin(&unrecorded, trigdata);
	statement->tracked = versioned->relid;
	statement->since = poser_version_last_change(versioned);
	for (PoserStatement *outer = statement->outer; outer != NULL; outer = outer->outer)
		if (outer->tracked == statement->tracked && outer->cid != statement->cid)
			outer->overlapped = statement->overlapped = true;
	return true;
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
		if (other->tracked == statement->tracked && other->cid == statement->cid &&
			((statement->event == TRIGGER_TYPE_INSERT && other->event != TRIGGER_TYPE_INSERT) ||
			 (statement->event == TRIGGER_TYPE_UPDATE && other->event == TRIGGER_TYPE_DELETE)))
			other->overlapped = result = true;
	return result;
}

/* An overlapping statement may record changes that others in the list have made.  So these overlap, too. */
static void
mark_overlapped(const PoserVersioned *versioned)
{
	for (PoserStatement *other = unrecorded; other != NULL; other = other->outer)
		if (other->tracked == versioned->relid)
			other->overlapped = true;
}

/* Does another part of the query, which is not recorded yet, insert into the same partitioned table? */
static bool
inserts_in_same_query(const PoserStatement *statement)
{
	for (PoserStatement *other = unrecorded; other != NULL; other = other->outer)
		if (other->tracked == statement->tracked && other->cid == statement->cid &&
			other->event == TRIGGER_TYPE_INSERT)
			return true;
	return false;
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
		if (statement->tracked == relid)
			events |= statement->event;
	return (events & TRIGGER_TYPE_INSERT) && (events & TRIGGER_TYPE_DELETE) && !(events & TRIGGER_TYPE_UPDATE);
}

/* Give the current row of a transition table the row type of the tracked table, if it has another one. */
static void
convert_row(Recording *recording, PoserTransition *rows, TupleTableSlot *slot, bool exists)
{
	if (recording->map == NULL || slot == NULL)
		return;
	if (exists)
		(void) execute_attr_map_slot(recording->map->attrMap, rows->slot, slot);
	else
		ExecClearTuple(slot);
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
	has_old = poser_transition_next(&recording->old_rows);
	has_new = poser_transition_next(&recording->new_rows);
	MemoryContextSwitchTo(old);
	convert_row(recording, &recording->old_rows, recording->old, has_old);
	convert_row(recording, &recording->new_rows, recording->new, has_new);
	return has_old || has_new;
}

/*
 * Open the transition tables.  The rows of a partition get the row type of the tracked
 * table, whose description is in use.
 */
static void
open_rows(Recording *recording, TriggerData *trigdata)
{
	Relation rel = trigdata->tg_relation;

	poser_check_transitions(trigdata);
	poser_transition_open(&recording->old_rows, trigdata->tg_oldtable, trigdata);
	poser_transition_open(&recording->new_rows, trigdata->tg_newtable, trigdata);
	recording->old = recording->old_rows.slot;
	recording->new = recording->new_rows.slot;
	if (RelationGetRelid(rel) == recording->versioned->relid)
		return;
	recording->whole = poser_tracked_relation(recording->versioned);
	recording->map = convert_tuples_by_name(RelationGetDescr(rel), RelationGetDescr(recording->whole));
	if (recording->map == NULL)
		return;
	if (recording->old != NULL)
		recording->old = MakeSingleTupleTableSlot(RelationGetDescr(recording->whole), &TTSOpsVirtual);
	if (recording->new != NULL)
		recording->new = MakeSingleTupleTableSlot(RelationGetDescr(recording->whole), &TTSOpsVirtual);
}

static void
close_rows(Recording *recording)
{
	if (recording->map != NULL && recording->old != NULL)
		ExecDropSingleTupleTableSlot(recording->old);
	if (recording->map != NULL && recording->new != NULL)
		ExecDropSingleTupleTableSlot(recording->new);
	if (recording->map != NULL)
		free_conversion_map(recording->map);
	if (recording->whole != NULL)
		RelationClose(recording->whole);
	poser_transition_close(&recording->old_rows);
	poser_transition_close(&recording->new_rows);
}

/*
 * Has an UPDATE not left a new row for each old one?  In a partitioned table an update can
 * move a row to another partition.  If a trigger there suppresses the insert, the row is
 * deleted, and only the old row is in the transition tables.
 */
static bool
has_lost_rows(TriggerData *trigdata)
{
	return trigdata->tg_oldtable != NULL && trigdata->tg_newtable != NULL &&
		   tuplestore_tuple_count(trigdata->tg_oldtable) != tuplestore_tuple_count(trigdata->tg_newtable);
}

/* Are the transition tables empty? */
static bool
has_no_rows(TriggerData *trigdata)
{
	Tuplestorestate *old = trigdata->tg_oldtable;
	Tuplestorestate *new = trigdata->tg_newtable;

	return (old != NULL || new != NULL) && (old == NULL || tuplestore_tuple_count(old) == 0) &&
		   (new == NULL || tuplestore_tuple_count(new) == 0);
}

/* Go back to the first row. */
static void
rewind_rows(Recording *recording)
{
	poser_transition_rewind(&recording->old_rows);
	poser_transition_rewind(&recording->new_rows);
}

/* Record a change of the current row. */
static void
record_row(Recording *recording, PoserOperation operation)
{
	TupleTableSlot *old = recording->old;
	TupleTableSlot *new = recording->new;

	if (recording->reconciler != NULL && operation != POSER_UPDATE && !recording->versioned->unique)
		poser_reconcile_wait(recording->reconciler, operation == POSER_DELETE ? old : new);
	if (recording->reconciler != NULL)
		poser_reconcile_change(recording->reconciler, operation, old, new);
	else
		poser_version_write(recording->writer, operation, operation == POSER_DELETE ? old : new, false);
}

/* Close the look-up of versions, if it is open. */
static void
end_history(Recording *recording)
{
	if (recording->history.slot != NULL)
		poser_lookup_close(&recording->history);
	if (recording->versions != NULL)
		table_close(recording->versions, NoLock);
	recording->versions = NULL;
}

/* Open the look-up of versions.  It stays closed if there are none. */
static void
open_history(Recording *recording)
{
	const PoserVersioned *versioned = recording->versioned;

	/* from here on no history arrives in another session */
	poser_transaction_lock(versioned);
	recording->versions = table_open(versioned->versions, RowExclusiveLock);
	if (versioned->partitioned || RelationGetNumberOfBlocks(recording->versions) > 0)
		poser_version_lookup_open(&recording->history, versioned, recording->versions);
	else
		end_history(recording);
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

	if (!(versioned->arrives || versioned->own) || versioned->nkeys == 0 || !poser_restore_is_likely())
		return;
	open_history(recording);
}

/* Does the history of the current row end in the row as it is?  Then it is not recorded again. */
static bool
has_arrived(Recording *recording)
{
	return recording->history.slot != NULL &&
		   poser_version_lookup_ends_in(&recording->history, recording->versioned, recording->new);
}

/* Has the key of the current row been updated? */
static bool
has_moved(Recording *recording)
{
	return !poser_versioned_same_key(recording->versioned, recording->old, recording->new);
}

/*
 * Record the old row of each change as an insert, if it has no history.  While a table is
 * "partial", rows are older than poser_track(), and nothing is known of them.
 */
static void
record_unknown_rows(Recording *recording)
{
	const PoserVersioned *versioned = recording->versioned;
	PoserVersionWriter *writer = poser_version_begin(versioned, POSER_TRACK_COMMENT);
	MemoryContext outer;

	open_history(recording);
	outer = MemoryContextSwitchTo(recording->row_context);
	while (next_row(recording))
	{
		if (recording->new != NULL && poser_versioned_same_row(versioned, recording->old, recording->new))
			continue;
		if (recording->history.slot != NULL)
		{
			poser_version_lookup_begin(&recording->history, versioned, recording->old, false);
			if (poser_version_lookup_next(&recording->history))
				continue;
		}
		poser_version_write(writer, POSER_INSERT, recording->old, false);
	}
	MemoryContextSwitchTo(outer);
	end_history(recording);
	poser_version_end(writer);
	rewind_rows(recording);
}

/* Has the slot a row?  A transition table can end before the other one, see has_lost_rows(). */
static bool
has_current(TupleTableSlot *slot)
{
	return slot != NULL && !TTS_EMPTY(slot);
}

/*
 * Is the key of any row updated?  If the same MERGE also inserts into the partitioned table,
 * the new rows may be wrong: some servers (15.18 and 19rc1, but not 15.20) put the inserted
 * row in the place of the updated one into the transition table.  This looks like an updated
 * key.
 */
static bool
has_moved_rows(Recording *recording)
{
	bool result = false;
	MemoryContext outer = MemoryContextSwitchTo(recording->row_context);

	while (!result && next_row(recording))
		result = has_moved(recording);
	MemoryContextSwitchTo(outer);
	rewind_rows(recording);
	return result;
}

/*
 * Record the rows of an INSERT, UPDATE or DELETE.  With "overlaps" other statements may
 * have written the table meanwhile; "since" is the last change_id before the statement.
 * With "inserts" the same query inserts into the partitioned table, too.
 */
static void
record_statement(TriggerData *trigdata, const PoserVersioned *versioned, bool overlaps, int64 since, bool inserts)
{
	Recording recording = {.versioned = versioned};
	PoserOperation operation = POSER_UPDATE;
	bool lost = has_lost_rows(trigdata);
	bool moved = false;
	MemoryContext outer;

	/* the transition tables, and what writes the versions */
	open_rows(&recording, trigdata);
	recording.row_context = AllocSetContextCreate(CurrentMemoryContext, "poser row", ALLOCSET_SMALL_SIZES);
	if (recording.old == NULL)
		operation = POSER_INSERT;
	else if (recording.new == NULL)
		operation = POSER_DELETE;
	if (inserts && operation == POSER_UPDATE && !lost && !overlaps && has_moved_rows(&recording))
	{
		overlaps = true;
		mark_overlapped(versioned);
	}
	if (versioned->partial && operation != POSER_INSERT)
		record_unknown_rows(&recording);
	recording.writer = poser_version_begin(versioned, NULL);
	/* what reconciles looks at versions before it records, and no history must arrive in between */
	if (overlaps || lost)
	{
		poser_transaction_lock(versioned);
		recording.reconciler = poser_reconcile_begin(versioned, recording.writer, since, replaces_rows(versioned->relid));
	}
	if (operation == POSER_INSERT)
		begin_history(&recording);
	outer = MemoryContextSwitchTo(recording.row_context);

	/*
	 * An update of the key is recorded as a delete of the old key and an insert of the
	 * new one.  All deletes come first, because a row can get the key that another row
	 * had before.  If rows were lost, old and new rows are no pairs.
	 */
	while (!lost && next_row(&recording))
	{
		if (operation != POSER_UPDATE)
		{
			if (!has_arrived(&recording))
				record_row(&recording, operation);
		}
		else if (poser_versioned_same_row(versioned, recording.old, recording.new))
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
	if (overlaps || lost)
	{
		rewind_rows(&recording);
		while (next_row(&recording))
		{
			if (has_current(recording.old))
				poser_reconcile_row(recording.reconciler, recording.old, false);
			if (has_current(recording.new) && (operation == POSER_INSERT || lost || has_moved(&recording)))
				poser_reconcile_row(recording.reconciler, recording.new, false);
		}
	}

	MemoryContextSwitchTo(outer);
	MemoryContextDelete(recording.row_context);
	end_history(&recording);
	close_rows(&recording);
	if (recording.reconciler != NULL)
		poser_reconcile_end(recording.reconciler);
	poser_version_end(recording.writer);
}

/* Does a trigger with this function fire before a TRUNCATE of this table? */
static bool
records_truncate(Oid relid, Oid function)
{
	Relation rel = table_open(relid, AccessShareLock);
	TriggerDesc *desc = rel->trigdesc;
	bool result = false;

	for (int i = 0; desc != NULL && i < desc->numtriggers; i++)
	{
		Trigger *tg = &desc->triggers[i];

		if (tg->tgfoid == function && poser_trigger_is_enabled(tg) && TRIGGER_FOR_TRUNCATE(tg->tgtype) &&
			TRIGGER_FOR_BEFORE(tg->tgtype))
			result = true;
	}
	table_close(rel, NoLock);
	return result;
}

/*
 * Returns the tables with the rows that the trigger of this table records at a TRUNCATE:
 * the table itself or, of a partitioned one, the partitions below it.  Partitions are
 * truncated with it, and their triggers fire, too.  So those are left out that have a
 * trigger, or that belong to a table in between that has one.
 */
static List *
truncated_tables(Relation rel, Oid function)
{
	List *result = NIL;
	ListCell *lc;

	if (rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		return list_make1_oid(RelationGetRelid(rel));
	foreach(lc, find_all_inheritors(RelationGetRelid(rel), AccessShareLock, NULL))
	{
		Oid relid = lfirst_oid(lc);
		bool recorded = false;
		ListCell *above;

		CHECK_FOR_INTERRUPTS();
		if (get_rel_relkind(relid) == RELKIND_FOREIGN_TABLE)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot record the TRUNCATE of foreign table \"%s\"", get_rel_name(relid)),
					 errhint("Truncate the other partitions of table \"%s\".", RelationGetRelationName(rel))));
		if (get_rel_relkind(relid) != RELKIND_RELATION)
			continue;
		foreach(above, lcons_oid(relid, get_partition_ancestors(relid)))
		{
			if (lfirst_oid(above) == RelationGetRelid(rel) || recorded)
				break;
			recorded = records_truncate(lfirst_oid(above), function);
		}
		if (!recorded)
			result = lappend_oid(result, relid);
	}
	return result;
}

/* Before a TRUNCATE, which has locked the table exclusively: record a delete of every row. */
static void
record_truncate(Relation rel, const PoserVersioned *versioned, Oid function)
{
	List *relids = truncated_tables(rel, function);
	bool is_whole = RelationGetRelid(rel) == versioned->relid;
	Relation whole = is_whole ? rel : poser_tracked_relation(versioned);
	PoserVersionWriter *writer;
	PoserTableScan scan;

	/* rows without history are recorded as inserts before */
	if (versioned->partial)
	{
		Recording recording = {.versioned = versioned};

		writer = poser_version_begin(versioned, POSER_TRACK_COMMENT);
		open_history(&recording);
		poser_scan_begin(&scan, list_copy(relids), whole);
		while (poser_scan_next(&scan))
		{
			bool known = false;

			if (recording.history.slot != NULL)
			{
				poser_version_lookup_begin(&recording.history, versioned, scan.slot, false);
				known = poser_version_lookup_next(&recording.history);
			}
			if (!known)
				poser_version_write(writer, POSER_INSERT, scan.slot, false);
		}
		poser_scan_end(&scan);
		end_history(&recording);
		poser_version_end(writer);
	}

	writer = poser_version_begin(versioned, NULL);
	poser_scan_begin(&scan, relids, whole);
	while (poser_scan_next(&scan))
		poser_version_write(writer, POSER_DELETE, scan.slot, false);
	poser_scan_end(&scan);
	poser_version_end(writer);
	if (!is_whole)
		RelationClose(whole);
}

/*
 * poser_version(), poser_version('partition') and poser_version(versions, key column...):
 * a trigger before and after each statement.  "versions" is the table of versions; without
 * it the table must be bound by poser_track(), or be a partition of one that is.
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
	bool inserts;
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
			record_truncate(rel, versioned, fcinfo->flinfo->fn_oid);
		(void) begin_statement(trigdata, versioned);
		if (TRIGGER_FIRED_BY_UPDATE(event))
			poser_statement_fire_moves(&unrecorded, trigdata, begin_statement, versioned);
		return PointerGetDatum(NULL);
	}

	statement = poser_statement_end(&unrecorded, trigdata);
	/* without rows this statement has nothing to do with others */
	if (has_no_rows(trigdata))
	{
		if (statement != NULL)
			pfree(statement);
		return PointerGetDatum(NULL);
	}
	/* under a deferrable constraint two rows can have the same key for a while: record as if statements overlapped */
	overlaps = !versioned->unique;
	if (statement != NULL && (comes_too_early(statement) || statement->overlapped))
		overlaps = true;
	/* without a key only rows of an INSERT are recorded, and there is nothing to compare them with */
	overlaps = overlaps && versioned->nkeys > 0;
	if (overlaps)
		mark_overlapped(versioned);
	inserts = statement != NULL && rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE && inserts_in_same_query(statement);
	since = statement != NULL ? statement->since : poser_version_last_change(versioned);
	if (statement != NULL)
		pfree(statement);

	/* before 1.5 an INSERT that restores a dump is not recorded, see restore.c */
	if (TRIGGER_FIRED_BY_TRUNCATE(event))
	{
		if (overlaps)
			poser_reconcile_since(versioned, since);
	}
	else if (versioned->own || versioned->arrives || !TRIGGER_FIRED_BY_INSERT(event) || !poser_is_restore(rel))
		record_statement(trigdata, versioned, overlaps, since, inserts);
	return PointerGetDatum(NULL);
}

/* Register the list, when the module is loaded. */
void
poser_version_init(void)
{
	poser_statement_register(&unrecorded);
}
