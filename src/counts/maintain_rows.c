/*
 * maintain_rows.c
 *	  The trigger function that keeps the counts and sums of maintained views.
 *
 * One set of triggers on a table serves all maintained views that have the table as child,
 * as parent or, in a tree, as both.  Each partition has the set, too, because a statement
 * fires the triggers of the table that it names.  The rows that it writes through the
 * partitioned table are then in that table's transition tables.
 *
 * Each view is maintained on its own: the statement's rows are read once for each, and
 * added up by key in its own CountChanges.  So the memory for one view is in use at a time.
 *
 * In a session with session_replication_role = replica the triggers for statements count
 * nothing, and the trigger for rows counts each row.  A subscription writes in this way: its rows
 * fire no statement triggers.  The rest of such a transaction reads live, because no trigger says
 * where a statement begins and ends.
 *
 * Before TRUNCATE of a partition, the rows of the partition are taken away from the counts.
 * TRUNCATE of the whole table fires the triggers of the partitions, too.  These then do nothing.
 *
 * The invariant is the one of settle.c.  It holds for a row from the moment when its
 * statement is counted.
 */
#include "postgres.h"

#include "access/tableam.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"

#include "counts/rows_internal.h"

PG_FUNCTION_INFO_V1(poser_maintain_rows);

/* A call of the trigger function. */
typedef struct Call
{
	TriggerData *trigdata;
	Oid nspid;			   /* schema of the extension's functions */
	MemoryContext context; /* is reset after the call */
	const PoserTableView *view;
} Call;

/*
 * TRUNCATEs of partitions and of partitioned tables that are in progress: not all of their triggers
 * have fired.
 */
static PoserStatement *truncates = NULL;

/* Called when the module is loaded. */
void
poser_maintain_rows_init(void)
{
	poser_table_views_init();
	poser_statement_register(&truncates);
}

/*
 * Lock the bookkeeping of the call's view, and return its count as it is described under the
 * lock; NULL if the view is not maintained any more.  See PoserCountLock.
 */
static const PoserCount *
lock_count(void *arg)
{
	Call *call = arg;
	const PoserCount *before = &call->view->count;
	const PoserTableView *view = poser_table_view_locked(call->trigdata->tg_relation, call->nspid,
														 call->view->relations.bookkeeping, call->context);
	bool same;

	if (view == NULL)
		return NULL;

	/* The lock on the table keeps poser_maintain() away, but not CREATE OR REPLACE VIEW of the query. */
	same = view->count.nkeys == before->nkeys && view->count.namounts == before->namounts &&
		   memcmp(view->count.numeric, before->numeric, before->namounts * sizeof(bool)) == 0;
	for (int i = 0; same && i < before->nkeys; i++)
		same = view->count.keys[i].type == before->keys[i].type && view->count.keys[i].collation == before->keys[i].collation;
	if (!same)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("maintained view \"%s\" was changed concurrently", get_rel_name(view->relations.view)),
				 errhint("The transaction might succeed if retried.")));
	return &view->count;
}

/* Lock the bookkeeping, and open it for writing.  Returns false if the view is not maintained any more. */
static bool
open_writer(Call *call, CountWriter *writer)
{
	const PoserCount *count = lock_count(call);

	if (count == NULL)
		return false;
	poser_count_open(writer, count);
	return true;
}

/*
 * The child
 */

/*
 * Add two versions of a row to the changes, or take them away.  "old_row" and "new_row" can
 * be any two rows.  If they have the same key and amounts, nothing changes.
 */
static void
add_pair(CountChanges *changes, const PoserCount *count, const PoserRow *old_row, const PoserRow *new_row)
{
	if (old_row->counts && new_row->counts &&
		poser_amounts_are_equal(count, old_row->amounts, new_row->amounts) &&
		equal_count_keys(count, old_row->keys, new_row->keys))
		return;
	if (old_row->counts)
		poser_count_add_change(changes, old_row->keys, old_row->amounts, -1);
	if (new_row->counts)
		poser_count_add_change(changes, new_row->keys, new_row->amounts, 1);
}

/*
 * Count what a statement has changed in the child, by its transition tables.  An UPDATE has
 * two, which are read side by side: usually both versions of a row are at the same place.
 */
static void
count_statement(Call *call)
{
	TriggerData *trigdata = call->trigdata;
	const PoserTableView *view = call->view;
	PoserTransition old_rows;
	PoserTransition new_rows;
	PoserRowReader reader;
	CountChanges changes;
	PoserRow old_row;
	PoserRow new_row;

	poser_check_transitions(trigdata);
	poser_transition_open(&old_rows, trigdata->tg_oldtable, trigdata);
	poser_transition_open(&new_rows, trigdata->tg_newtable, trigdata);
	poser_count_begin_changes(&changes, &view->count, lock_count, call);
	poser_row_make(&old_row, view);
	poser_row_make(&new_row, view);
	poser_row_reader_open(&reader, view);
	for (;;)
	{
		bool has_old = poser_transition_next(&old_rows);
		bool has_new = poser_transition_next(&new_rows);

		if (!has_old && !has_new)
			break;
		poser_row_reset(&reader);
		old_row.counts = new_row.counts = false;
		if (has_old)
			poser_row_read(&reader, old_rows.slot, &old_row);
		if (has_new)
			poser_row_read(&reader, new_rows.slot, &new_row);
		add_pair(&changes, &view->count, &old_row, &new_row);
	}
	poser_row_reader_close(&reader);
	poser_count_apply_changes(&changes);
	poser_transition_close(&old_rows);
	poser_transition_close(&new_rows);
}

/* Count one row of the child. */
static void
count_row(Call *call)
{
	TriggerData *trigdata = call->trigdata;
	TriggerEvent event = trigdata->tg_event;
	const PoserTableView *view = call->view;
	PoserRowReader reader;
	CountChanges changes;
	PoserRow old_row;
	PoserRow new_row;

	poser_count_begin_changes(&changes, &view->count, lock_count, call);
	poser_row_make(&old_row, view);
	poser_row_make(&new_row, view);
	poser_row_reader_open(&reader, view);
	if (!TRIGGER_FIRED_BY_INSERT(event))
		poser_row_read(&reader, trigdata->tg_trigslot, &old_row);
	if (TRIGGER_FIRED_BY_INSERT(event))
		poser_row_read(&reader, trigdata->tg_trigslot, &new_row);
	else if (TRIGGER_FIRED_BY_UPDATE(event))
		poser_row_read(&reader, trigdata->tg_newslot, &new_row);
	add_pair(&changes, &view->count, &old_row, &new_row);
	poser_row_reader_close(&reader);
	poser_count_apply_changes(&changes);
}

/*
 * Add all rows of some tables to the counts, or take them away.  The tables are the trigger's
 * table, or "whole" and its partitions.
 */
static void
count_tables(Call *call, List *relids, Relation whole, int sign)
{
	const PoserTableView *view = call->view;
	PoserRowReader reader;
	PoserTableScan scan;
	CountChanges changes;
	PoserRow row;

	poser_count_begin_changes(&changes, &view->count, lock_count, call);
	poser_row_make(&row, view);
	poser_scan_begin(&scan, relids, whole);
	poser_row_reader_open(&reader, view);
	while (poser_scan_next(&scan))
	{
		poser_row_reset(&reader);
		poser_row_read(&reader, scan.slot, &row);
		if (row.counts)
			poser_count_add_change(&changes, row.keys, row.amounts, sign);
	}
	poser_row_reader_close(&reader);
	poser_scan_end(&scan);
	poser_count_apply_changes(&changes);
}

/* Returns the relations that hold the rows of a table: the table itself, or its partitions. */
static List *
tables_with_rows(Relation rel)
{
	List *result = NIL;
	ListCell *lc;

	if (rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		return list_make1_oid(RelationGetRelid(rel));
	foreach(lc, find_all_inheritors(RelationGetRelid(rel), AccessShareLock, NULL))
	{
		if (get_rel_relkind(lfirst_oid(lc)) == RELKIND_RELATION)
			result = lappend_oid(result, lfirst_oid(lc));
	}
	return result;
}

/*
 * Before TRUNCATE of the whole child the counts become zero, so that a parent that is
 * truncated as well has zeros.  After it they become zero again, and the rows that the child
 * has then are counted.  This corrects counts that other triggers have changed in between:
 * TRUNCATE may have removed their rows.
 */
static void
count_whole_truncate(Call *call)
{
	Relation rel = call->trigdata->tg_relation;
	CountWriter writer;

	if (!open_writer(call, &writer))
		return;
	poser_count_reset_all(&writer);
	poser_count_close(&writer);
	if (TRIGGER_FIRED_AFTER(call->trigdata->tg_event))
		count_tables(call, tables_with_rows(rel), rel, 1);
}

/* Is this partitioned table being truncated?  Then so are its partitions. */
static bool
is_truncated(Oid relid)
{
	for (PoserStatement *statement = truncates; statement != NULL; statement = statement->outer)
		if (statement->relid == relid)
			return true;
	return false;
}

/* TRUNCATE of the child, or of one of its partitions. */
static void
count_truncate(Call *call)
{
	Relation rel = call->trigdata->tg_relation;
	Oid child = call->view->relations.child;

	if (RelationGetRelid(rel) == child)
		count_whole_truncate(call);
	else if (TRIGGER_FIRED_BEFORE(call->trigdata->tg_event) && rel->rd_rel->relkind == RELKIND_RELATION &&
			 !is_truncated(child))
		count_tables(call, list_make1_oid(RelationGetRelid(rel)), rel, -1);
}

/*
 * Parents
 */

/* The rows of parents that a statement has written, or one row. */
typedef struct ParentRows
{
	Call *call;
	PoserTransition old_rows;
	PoserTransition new_rows;
	bool one;	  /* it is one row, in the slots of the trigger */
	bool at_end;  /* ... which was read */
	bool has_old; /* the last row read has a key that ends */
	bool has_new; /* ... and a key that begins */
	Datum *old_keys;
	Datum *new_keys;
	MemoryContext context; /* of the keys */
} ParentRows;

static void
open_parents(ParentRows *rows, Call *call)
{
	TriggerData *trigdata = call->trigdata;

	memset(rows, 0, sizeof(ParentRows));
	rows->call = call;
	rows->one = TRIGGER_FIRED_FOR_ROW(trigdata->tg_event);
	rows->old_keys = palloc(call->view->nkeys * sizeof(Datum));
	rows->new_keys = palloc(call->view->nkeys * sizeof(Datum));
	rows->context = AllocSetContextCreate(CurrentMemoryContext, "poser parents", ALLOCSET_SMALL_SIZES);
	if (rows->one)
		return;
	poser_check_transitions(trigdata);
	poser_transition_open(&rows->old_rows, trigdata->tg_oldtable, trigdata);
	poser_transition_open(&rows->new_rows, trigdata->tg_newtable, trigdata);
}

/* Begin to read the rows again. */
static void
rewind_parents(ParentRows *rows)
{
	rows->at_end = false;
	poser_transition_rewind(&rows->old_rows);
	poser_transition_rewind(&rows->new_rows);
}

/* Get the next row whose key ends or begins.  Returns false if there is none. */
static bool
next_parent(ParentRows *rows)
{
	TriggerData *trigdata = rows->call->trigdata;
	const PoserTableView *view = rows->call->view;

	for (;;)
	{
		TupleTableSlot *old_slot = NULL;
		TupleTableSlot *new_slot = NULL;
		MemoryContext old;

		if (rows->one)
		{
			if (rows->at_end)
				return false;
			rows->at_end = true;
			if (!TRIGGER_FIRED_BY_INSERT(trigdata->tg_event))
				old_slot = trigdata->tg_trigslot;
			if (TRIGGER_FIRED_BY_INSERT(trigdata->tg_event))
				new_slot = trigdata->tg_trigslot;
			else if (TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event))
				new_slot = trigdata->tg_newslot;
		}
		else
		{
			if (poser_transition_next(&rows->old_rows))
				old_slot = rows->old_rows.slot;
			if (poser_transition_next(&rows->new_rows))
				new_slot = rows->new_rows.slot;
			if (old_slot == NULL && new_slot == NULL)
				return false;
		}

		MemoryContextReset(rows->context);
		old = MemoryContextSwitchTo(rows->context);
		rows->has_old = old_slot != NULL && poser_row_parent_keys(view, old_slot, view->parent_keys, rows->old_keys);
		rows->has_new = new_slot != NULL && poser_row_parent_keys(view, new_slot, view->parent_keys, rows->new_keys);
		if (rows->has_old && rows->has_new && equal_count_keys(&view->count, rows->old_keys, rows->new_keys))
			rows->has_old = rows->has_new = false;
		MemoryContextSwitchTo(old);
		if (rows->has_old || rows->has_new)
			return true;
	}
}

static void
close_parents(ParentRows *rows)
{
	poser_transition_close(&rows->old_rows);
	poser_transition_close(&rows->new_rows);
	MemoryContextDelete(rows->context);
}

/*
 * End the counts of parents that are gone, or have another key now, and begin those of new
 * ones.  For an UPDATE this can be one row, or the rows of a statement.
 *
 * All counts end before any begins, because an UPDATE can give the key of one parent to
 * another one.  Other triggers may have inserted a parent again, before this one fired, so
 * its count begins again.
 */
static void
count_parents(Call *call)
{
	PoserParents parents = {0};
	ParentRows rows;
	CountWriter writer;
	const PoserCount *count = NULL;
	bool opened = false;

	open_parents(&rows, call);
	if (!TRIGGER_FIRED_BY_INSERT(call->trigdata->tg_event))
	{
		while (next_parent(&rows))
		{
			if (!rows.has_old)
				continue;
			if (!opened && !open_writer(call, &writer))
				break;
			opened = true;
			poser_count_end(&writer, rows.old_keys);
		}
		/* The writer is opened anew, because it may change a key only once. */
		if (opened)
		{
			count = writer.count;
			poser_count_close(&writer);
			poser_parents_open(&parents, call->trigdata->tg_relation, call->view->nkeys, call->view->parent_keys);
			opened = false;
		}
		rewind_parents(&rows);
	}

	while (next_parent(&rows))
	{
		bool exists = rows.has_old && poser_parents_have(&parents, rows.old_keys);

		if (!rows.has_new && !exists)
			continue;
		if (!opened)
		{
			if (count != NULL)
				poser_count_open(&writer, count);
			else if (!open_writer(call, &writer))
				break;
			opened = true;
		}
		if (rows.has_new)
			poser_count_begin(&writer, rows.new_keys);
		if (exists)
			poser_count_begin(&writer, rows.old_keys);
	}
	if (opened)
		poser_count_close(&writer);
	poser_parents_close(&parents);
	close_parents(&rows);
}

/* Begin or end the counts of all parents that are in some tables now: the trigger's table or its partitions. */
static void
count_parents_of_tables(Call *call, CountWriter *writer, List *relids, void (*count)(CountWriter *writer, const Datum *keys))
{
	const PoserTableView *view = call->view;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "poser parents", ALLOCSET_SMALL_SIZES);
	Datum *keys = palloc(view->nkeys * sizeof(Datum));
	PoserTableScan scan;

	poser_scan_begin(&scan, relids, call->trigdata->tg_relation);
	while (poser_scan_next(&scan))
	{
		MemoryContext old;
		bool found;

		MemoryContextReset(context);
		old = MemoryContextSwitchTo(context);
		found = poser_row_parent_keys(view, scan.slot, view->parent_keys, keys);
		MemoryContextSwitchTo(old);
		if (found)
			count(writer, keys);
	}
	poser_scan_end(&scan);
	MemoryContextDelete(context);
}

/*
 * TRUNCATE of the parent, or of one of its partitions.  The counts of a partition's parents
 * end before it, while their keys can be read.  Other triggers may have inserted parents, so
 * those that are there afterwards begin.
 */
static void
truncate_parents(Call *call)
{
	Relation rel = call->trigdata->tg_relation;
	bool whole = RelationGetRelid(rel) == call->view->relations.parent;
	bool before = TRIGGER_FIRED_BEFORE(call->trigdata->tg_event);
	CountWriter writer;

	if (whole ? before : rel->rd_rel->relkind != RELKIND_RELATION)
		return;
	if (!open_writer(call, &writer))
		return;
	if (whole)
		poser_count_end_all(&writer);
	else if (before && !is_truncated(call->view->relations.parent))
		count_parents_of_tables(call, &writer, list_make1_oid(RelationGetRelid(rel)), poser_count_end);
	if (!before)
	{
		const PoserCount *count = writer.count;

		/* the writer may change a key only once */
		poser_count_close(&writer);
		poser_count_open(&writer, count);
		count_parents_of_tables(call, &writer, tables_with_rows(rel), poser_count_begin);
	}
	poser_count_close(&writer);
}

/*
 * TRUNCATE of partitions
 */

/*
 * Before TRUNCATE of a partitioned table or of a partition: put it into the list.  A partition
 * of a whole table that is being truncated is not needed there.
 */
static void
begin_truncate(TriggerData *trigdata)
{
	Relation rel = trigdata->tg_relation;

	if (rel->rd_rel->relispartition ? !is_truncated(llast_oid(get_partition_ancestors(RelationGetRelid(rel))))
									: rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
		(void) poser_statement_begin(&truncates, trigdata);
}

/*
 * A statement has written a table.  If a partition of the table is being truncated, the rows
 * that it has now are not those that were taken away from the counts.
 */
static void
note_written(Relation rel)
{
	for (PoserStatement *statement = truncates; statement != NULL; statement = statement->outer)
		if (statement->relid == RelationGetRelid(rel) ||
			(get_rel_relispartition(statement->relid) &&
			 list_member_oid(get_partition_ancestors(statement->relid), RelationGetRelid(rel))))
			statement->overlapped = true;
}

/*
 * After TRUNCATE: take it out of the list.  Raises an error if triggers have written a partition
 * that was truncated alone.
 */
static void
end_truncate(TriggerData *trigdata, const PoserTableViews *views)
{
	Relation rel = trigdata->tg_relation;
	PoserStatement *statement = poser_statement_end(&truncates, trigdata);
	bool overlapped;

	if (statement == NULL)
		return;
	overlapped = statement->overlapped;
	pfree(statement);
	if (!overlapped || !rel->rd_rel->relispartition || rel->rd_rel->relkind != RELKIND_RELATION)
		return;
	for (int i = 0; i < views->nviews; i++)
	{
		const PoserMaintained *relations = &views->views[i].relations;

		if (views->views[i].is_child && !is_truncated(relations->child))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot truncate partition \"%s\" while a trigger writes its table", RelationGetRelationName(rel)),
					 errdetail("View \"%s\" is maintained, and Poser cannot tell rows that the trigger has written from those that were there before.",
							   get_rel_name(relations->view)),
					 errhint("Use DELETE, or truncate the whole table.")));
	}
}

/*
 * The trigger function
 */

/* One row was written: by a subscription, or its parent's key was updated. */
static void
maintain_row(Call *call, bool is_key_trigger)
{
	const PoserTableView *view = call->view;
	bool inserted = TRIGGER_FIRED_BY_INSERT(call->trigdata->tg_event);

	if (view->is_parent && inserted)
		count_parents(call);
	if (view->is_child && !is_key_trigger)
		count_row(call);
	if (view->is_parent && !inserted)
		count_parents(call);
}

/*
 * A statement has written the table.  In a tree the counts of new parents begin before their
 * children are counted, so that these go to settled rows.
 */
static void
maintain_statement(Call *call)
{
	TriggerData *trigdata = call->trigdata;
	const PoserTableView *view = call->view;
	bool inserted = TRIGGER_FIRED_BY_INSERT(trigdata->tg_event);

	if (view->is_parent && inserted)
		count_parents(call);
	if (view->is_child)
		count_statement(call);
	/* on an ordinary table that is only a parent, a row trigger looks after updated keys */
	if (view->is_parent && !inserted &&
		!(TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event) && !view->is_child && trigdata->tg_newtable == NULL))
		count_parents(call);
}

/* TRUNCATE.  It counts whatever session_replication_role is: a subscription fires no other triggers for it. */
static void
maintain_truncate(Call *call)
{
	if (call->view->is_parent)
		truncate_parents(call);
	if (call->view->is_child)
		count_truncate(call);
}

/* Raises an error unless the trigger is of a kind that the function is made for. */
static void
check_kind(TriggerData *trigdata)
{
	TriggerEvent event = trigdata->tg_event;

	if (TRIGGER_FIRED_FOR_ROW(event) && !TRIGGER_FIRED_AFTER(event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" must fire for each statement or after each row",
						trigdata->tg_trigger->tgname)));
}

/*
 * poser_maintain_rows() returns trigger
 *
 * A trigger on parents and children of maintained views and on their partitions: before and
 * after each INSERT, UPDATE, DELETE and TRUNCATE, after each row in a session with
 * session_replication_role = replica, and after each row with an updated key of an ordinary
 * parent.  ALTER TABLE ... ENABLE TRIGGER ALL lets all of them fire always, so the function
 * itself looks at session_replication_role.
 */
Datum
poser_maintain_rows(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = poser_check_trigger(fcinfo);
	TriggerEvent event = trigdata->tg_event;
	Call call = {.trigdata = trigdata,
				 .nspid = get_func_namespace(fcinfo->flinfo->fn_oid),
				 .context = CurrentMemoryContext};
	bool is_replica = SessionReplicationRole == SESSION_REPLICATION_ROLE_REPLICA;
	bool is_key_trigger = TRIGGER_FIRED_FOR_ROW(event) && !TRIGGER_FOR_INSERT(trigdata->tg_trigger->tgtype);
	const PoserTableViews *views;
	bool acts;
	bool lists;

	check_kind(trigdata);
	views = poser_table_views(trigdata->tg_relation, call.nspid, call.context);

	/* the rest of such a transaction reads live */
	if (is_replica && views->nviews > 0)
		poser_count_note_inconsistent(FirstCommandId);

	/* Which of the triggers count? */
	if (TRIGGER_FIRED_FOR_ROW(event))
		acts = is_replica != is_key_trigger;
	else
		acts = !is_replica || TRIGGER_FIRED_BY_TRUNCATE(event);
	if (!acts)
		return PointerGetDatum(NULL);

	/* While children are written, or parents come, queries can see rows that are not counted yet. */
	lists = TRIGGER_FIRED_FOR_STATEMENT(event) &&
			(views->has_child || TRIGGER_FIRED_BY_INSERT(event) || TRIGGER_FIRED_BY_UPDATE(event));
	if (lists && views->nviews > 0 && TRIGGER_FIRED_BEFORE(event))
		poser_count_begin_statement(trigdata);

	for (int i = 0; i < views->nviews; i++)
	{
		call.view = &views->views[i];
		if (TRIGGER_FIRED_FOR_ROW(event))
			maintain_row(&call, is_key_trigger);
		else if (TRIGGER_FIRED_BY_TRUNCATE(event))
			maintain_truncate(&call);
		else if (TRIGGER_FIRED_AFTER(event))
			maintain_statement(&call);
	}

	if (TRIGGER_FIRED_BY_TRUNCATE(event) && TRIGGER_FIRED_BEFORE(event) && views->nviews > 0)
		begin_truncate(trigdata);
	else if (TRIGGER_FIRED_BY_TRUNCATE(event) && TRIGGER_FIRED_AFTER(event))
		end_truncate(trigdata, views);
	else if (TRIGGER_FIRED_AFTER(event) && truncates != NULL)
		note_written(trigdata->tg_relation);

	/* whatever the views are by now */
	if (TRIGGER_FIRED_FOR_STATEMENT(event) && TRIGGER_FIRED_AFTER(event))
		poser_count_end_statement(trigdata);
	return PointerGetDatum(NULL);
}
