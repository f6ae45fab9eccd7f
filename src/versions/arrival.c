/*
 * arrival.c
 *	  History that arrives: the rows that SQL inserts into the tables of the history.
 *
 * Poser writes its history directly, and no trigger fires for it.  So the triggers on the
 * tables of versions and on poser_transaction see what a restore, or another tool, brings
 * from elsewhere.  (They do not fire on a subscriber, where nothing is recorded.)
 *
 * The rows of a restore are recorded like any others, because nothing tells reliably that
 * a session restores.  When the history of a row arrives, it replaces what was recorded of
 * the row:
 *
 * - If exactly one version of the row was recorded, and it is an insert that is equal to
 *   the row as it is now, this version is set aside.  Otherwise what was recorded stays.
 * - A change_id that arrives may be in use by such a version of another row.  Then that
 *   version is set aside, too.
 * - A version that was set aside is removed.  If its row has no history when the statement
 *   has ended, it is written again, with a new change_id.
 * - An id of a transaction that arrives, or that a version names, may be in use by a
 *   transaction that has recorded only such versions.  Then the latter gets a new id, see
 *   arrival_settle.c.
 * - A transaction that was recorded and has no versions left is removed.
 * - If an id is in use by any other history, there is no right way to go on, and the
 *   statement fails.
 *
 * History and rows can arrive in two sessions at the same time.  So a statement that brings
 * history locks poser_transaction in SHARE ROW EXCLUSIVE mode until its transaction ends.
 * A session that records changes locks that table in ROW EXCLUSIVE mode, before it draws
 * ids or looks at versions.  One of the two waits for the other, and sees what it has
 * written.  All look-ups here see rows as they are now, not as of a snapshot.
 *
 * A version was recorded here if its transaction was, see arrival_ids.c, unless it was in its
 * table before the table had triggers, see arrival_bound.c.  While a statement is running
 * this is not true for the versions that it has brought.  Their command ID tells them from
 * the others.  A version that arrives can also name a transaction that has recorded other
 * changes here.  Then the version counts as recorded, because a user may have taken it out of
 * the table and put it back.  If a restore has brought it, the restore fails when the
 * transaction arrives.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/tupconvert.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/xid8.h"

#include "versions/arrival_internal.h"

PG_FUNCTION_INFO_V1(poser_arrive);
PG_FUNCTION_INFO_V1(poser_transaction_arrive);

/* After so many look-ups that have found no recorded version, see whether there are any. */
#define LOOKUPS_BEFORE_READING 1000

/* Statements that insert history, the innermost first. */
static PoserStatement *arriving = NULL;

/* Raises the error for an id that is in use by other history. */
void
poser_arrival_in_use_error(PoserArrival *arrival, const char *what, int64 id)
{
	Oid relid = arrival->own != NULL ? arrival->own->versioned.versions : arrival->versioned->transactions;

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot insert history into \"%s\", because %s %lld is in use",
					get_rel_name(relid), what, (long long) id),
			 errdetail("This database has a history already, which is more than the inserts of rows that are still the same."),
			 errhint("Restore into a database without history.  To replace this database's rows and history, empty \"%s\" and the tables of versions and of rows first.",
					 get_rel_name(arrival->versioned->transactions))));
}

/*
 * Raises an error unless the current user may remove and change what was recorded in this
 * table: the owner may, and so may a role with these privileges that row-level security does
 * not restrict.  A privilege to INSERT is not enough.
 */
static void
check_may_change(Oid relid)
{
	if (poser_is_owner(relid, GetUserId()))
		return;
	if (pg_class_aclmask(relid, GetUserId(), ACL_UPDATE | ACL_DELETE, ACLMASK_ALL) != (ACL_UPDATE | ACL_DELETE) ||
		check_enable_rls(relid, InvalidOid, true) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for table %s", get_rel_name(relid)),
				 errdetail("The history that arrives replaces what was recorded in this table.")));
}

/*
 * Check the privileges on the extension's tables, and on the table into which the statement
 * inserts.  In the other tracked tables only ids change.  For that the privileges on
 * poser_transaction are enough, because it has the ids.
 */
void
poser_arrival_check_privileges(PoserArrival *arrival)
{
	if (arrival->may_replace)
		return;
	for (int i = 0; i < arrival->ntables; i++)
		if (!arrival->tables[i]->versioned.own || arrival->tables[i] == arrival->own)
			check_may_change(arrival->tables[i]->versioned.versions);
	check_may_change(arrival->versioned->transactions);
	arrival->may_replace = true;
}

/*
 * Open the unique index on the key of a table, or of one of its partitions, for look-ups of
 * rows.  Returns false if there is none.
 */
static bool
open_rows(PoserArrivalRows *rows, const PoserArrivalTable *table, Relation rel)
{
	const PoserVersioned *versioned = &table->versioned;
	AttrNumber columns[INDEX_MAX_KEYS];
	bool immediate;
	Oid indexid;

	memset(rows, 0, sizeof(PoserArrivalRows));
	rows->rel = rel;
	for (int i = 0; i < versioned->nkeys; i++)
	{
		columns[i] = versioned->source[versioned->keys[i] - 1];
		if (rel != table->rel)
			columns[i] = get_attnum(RelationGetRelid(rel), NameStr(TupleDescAttr(RelationGetDescr(table->rel), columns[i] - 1)->attname));
	}
	indexid = poser_unique_index(rel, versioned->nkeys, columns, &immediate);
	if (!OidIsValid(indexid))
		return false;

	/* the columns of the index can be in another order */
	poser_lookup_open(&rows->lookup, rel, indexid, versioned->nkeys);
	for (int i = 0; i < versioned->nkeys; i++)
		for (int j = 0; j < versioned->nkeys; j++)
			if (rows->lookup.index->rd_index->indkey.values[i] == columns[j])
				rows->keys[i] = j;
	if (rel != table->rel)
		rows->map = convert_tuples_by_name(RelationGetDescr(rel), RelationGetDescr(table->rel));
	if (rows->map != NULL)
		rows->slot = MakeSingleTupleTableSlot(RelationGetDescr(table->rel), &TTSOpsVirtual);
	return true;
}

/* Open a table of versions and its table for look-ups.  Returns false, and opens nothing, if its change_ids have no unique index. */
static bool
open_table(PoserArrivalTable *table)
{
	const PoserVersioned *versioned = &table->versioned;
	AttrNumber change_id = versioned->change_id;
	Relation versions = table_open(versioned->versions, NoLock);
	bool immediate;
	Oid indexid = poser_unique_index(versions, 1, &change_id, &immediate);

	/* versions by change_id and by key */
	if (!OidIsValid(indexid))
	{
		table_close(versions, NoLock);
		return false;
	}
	table->versions = versions;
	if (versioned->own)
		poser_arrival_find_bound(&table->bound, versions, versions, versioned->nspid);
	table->rel = table_open(versioned->relid, NoLock);
	poser_lookup_open(&table->by_id, table->versions, indexid, 1);
	table->has_key = !versioned->own || (versioned->nkeys > 0 && OidIsValid(versioned->versions_index));
	if (table->has_key)
		poser_version_lookup_open(&table->by_key, versioned, table->versions);

	/* rows by key */
	if (table->has_key && table->rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
	{
		List *partitions = find_all_inheritors(versioned->relid, AccessShareLock, NULL);
		ListCell *lc;

		table->rows = palloc(list_length(partitions) * sizeof(PoserArrivalRows));
		foreach(lc, partitions)
		{
			Relation partition;

			if (get_rel_relkind(lfirst_oid(lc)) != RELKIND_RELATION)
				continue;
			partition = table_open(lfirst_oid(lc), NoLock);
			if (open_rows(&table->rows[table->nrows], table, partition))
				table->nrows++;
			else
				table_close(partition, NoLock);
		}
	}
	else if (table->has_key)
	{
		table->rows = palloc(sizeof(PoserArrivalRows));
		if (open_rows(table->rows, table, table->rel))
			table->nrows = 1;
	}
	table->greatest = poser_change_id_last(table->versions, get_attname(versioned->versions, change_id, false),
										   get_attname(versioned->versions, change_id, false));
	table->clean_first = table->clean_end = PG_INT64_MIN;
	table->horizon = PG_INT64_MIN;
	return true;
}

static void
close_table(PoserArrivalTable *table)
{
	if (table->writes)
		poser_direct_close(&table->direct);
	for (int i = 0; i < table->nrows; i++)
	{
		PoserArrivalRows *rows = &table->rows[i];

		poser_lookup_close(&rows->lookup);
		if (rows->slot != NULL)
			ExecDropSingleTupleTableSlot(rows->slot);
		if (rows->rel != table->rel)
			table_close(rows->rel, NoLock);
	}
	poser_lookup_close(&table->by_id);
	if (table->has_key)
		poser_lookup_close(&table->by_key);
	table_close(table->versions, NoLock);
	table_close(table->rel, NoLock);
}

/* Add a table of which "versioned" is the description.  Returns NULL if it cannot be opened. */
static PoserArrivalTable *
add_table(PoserArrival *arrival, const PoserVersioned *versioned)
{
	PoserArrivalTable *table = palloc0(sizeof(PoserArrivalTable));

	table->versioned = *versioned;
	if (!open_table(table))
	{
		pfree(table);
		return NULL;
	}
	arrival->tables = arrival->tables == NULL ? palloc(sizeof(PoserArrivalTable *))
											  : repalloc(arrival->tables, (arrival->ntables + 1) * sizeof(PoserArrivalTable *));
	arrival->tables[arrival->ntables++] = table;
	return table;
}

/*
 * Open all tables that users have tracked, too.  This is needed where a version of any of
 * them could have been recorded here, and be in the way.  A table that cannot be described
 * is left out: then arrival_settle.c finds its transactions in use by another table, and
 * leaves them as they are.
 */
void
poser_arrival_open_all(PoserArrival *arrival)
{
	MemoryContext old;
	List *bindings;
	ListCell *lc;

	if (arrival->has_all)
		return;
	arrival->has_all = true;
	old = MemoryContextSwitchTo(arrival->context);
	bindings = poser_tracked_bindings(arrival->versioned->nspid);
	foreach(lc, bindings)
	{
		PoserTracked *tracked = lfirst(lc);
		PoserVersioned versioned;
		PoserArrivalTable *table;
		bool known = !tracked->counts;

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < arrival->ntables; i++)
			known = known || arrival->tables[i]->versioned.versions == tracked->versions;
		if (known || !poser_own_try_describe(&versioned, tracked, arrival->versioned->nspid, RowExclusiveLock) ||
			versioned.partitioned)
			continue;
		table = add_table(arrival, &versioned);
		if (table != NULL)
			table->horizon = poser_history_horizon(&versioned, false).transaction_id;
	}
	MemoryContextSwitchTo(old);
}

/* Has this statement inserted the version?  It can be one that the executor has inserted, but not one that was written directly. */
bool
poser_arrival_is_of_statement(PoserArrival *arrival, TupleTableSlot *version)
{
	bool should_free;
	HeapTuple tuple = ExecFetchSlotHeapTuple(version, false, &should_free);
	HeapTupleHeader header = tuple->t_data;
	bool result = false;

	if (TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetRawXmin(header)))
	{
		/* a row of COPY FREEZE is frozen at once, and has no combo command ID */
		CommandId cid = HeapTupleHeaderXminFrozen(header) ? HeapTupleHeaderGetRawCommandId(header) : HeapTupleHeaderGetCmin(header);

		result = cid == arrival->statement->cid;
	}
	if (should_free)
		heap_freetuple(tuple);
	return result;
}

/* Is the row of this version in its table, with the values of the version? */
static bool
is_live(PoserArrivalTable *table, TupleTableSlot *version)
{
	const PoserVersioned *versioned = &table->versioned;
	bool result = false;

	for (int i = 0; i < table->nrows && !result; i++)
	{
		PoserArrivalRows *rows = &table->rows[i];
		TupleTableSlot *row = rows->lookup.slot;
		Datum values[INDEX_MAX_KEYS];

		for (int j = 0; j < versioned->nkeys; j++)
		{
			bool isnull;

			values[j] = slot_getattr(version, versioned->keys[rows->keys[j]], &isnull);
			/* several rows can have a null key, and cannot be told apart */
			if (isnull)
				return false;
		}
		poser_lookup_begin(&rows->lookup, BTEqualStrategyNumber, values, NULL);
		if (poser_lookup_next(&rows->lookup, ForwardScanDirection))
		{
			if (rows->map != NULL)
				row = execute_attr_map_slot(rows->map->attrMap, row, rows->slot);
			result = poser_versioned_is_version_of(versioned, version, row);
		}
		if (rows->slot != NULL)
			ExecClearTuple(rows->slot);
		ExecClearTuple(rows->lookup.slot);
	}
	return result;
}

/* Is the version, which was recorded here, the only one of its row, an insert, and equal to the row as it is now? */
bool
poser_arrival_is_lone(PoserArrivalTable *table, TupleTableSlot *version)
{
	bool result;

	if (!table->has_key || poser_version_operation(&table->versioned, version) != POSER_INSERT)
		return false;
	poser_version_lookup_begin(&table->by_key, &table->versioned, version, true);
	result = poser_version_lookup_next(&table->by_key) &&
			 ItemPointerEquals(&table->by_key.slot->tts_tid, &version->tts_tid) &&
			 !poser_version_lookup_next(&table->by_key);
	ExecClearTuple(table->by_key.slot);
	return result && is_live(table, version);
}

/* Get the version with this change_id into table->by_id.slot; returns false if there is none. */
bool
poser_arrival_find_version(PoserArrivalTable *table, int64 change_id)
{
	Datum value = Int64GetDatum(change_id);

	poser_lookup_begin(&table->by_id, BTEqualStrategyNumber, &value, NULL);
	return poser_lookup_next(&table->by_id, ForwardScanDirection);
}

/* Write a version as the one in the slot, with this transaction and a new change_id. */
void
poser_arrival_write_version(PoserArrival *arrival, PoserArrivalTable *table, TupleTableSlot *version,
							int64 transaction_id)
{
	const PoserVersioned *versioned = &table->versioned;
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(table->versions), &TTSOpsVirtual);
	int natts = slot->tts_tupleDescriptor->natts;

	if (!table->writes)
		poser_direct_open(&table->direct, versioned->versions, RowExclusiveLock);
	table->writes = true;
	slot_getallattrs(version);
	memcpy(slot->tts_values, version->tts_values, natts * sizeof(Datum));
	memcpy(slot->tts_isnull, version->tts_isnull, natts * sizeof(bool));
	arrival->in_use = table->greatest = poser_change_id_next(versioned);
	slot->tts_values[versioned->transaction_id - 1] = Int64GetDatum(transaction_id);
	slot->tts_values[versioned->change_id - 1] = Int64GetDatum(arrival->in_use);
	ExecStoreVirtualTuple(slot);
	table_tuple_insert(table->versions, slot, GetCurrentCommandId(true), 0, NULL);
	(void) poser_direct_insert_index_entries(&table->direct, slot, 0);
	ExecDropSingleTupleTableSlot(slot);
}

/*
 * Remove a version, and remember it until the statement ends.  Returns false if another
 * command has removed it, or has written it just now.
 */
static bool
set_aside(PoserArrival *arrival, PoserArrivalTable *table, ItemPointer tid)
{
	Datum value = PointerGetDatum(tid);
	bool isnull = false;

	poser_arrival_check_privileges(arrival);
	if (!poser_direct_delete(table->versions, tid))
		return false;
	arrival->nremoved++;
	if (table->aside == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(arrival->context);

		table->aside_desc = CreateTemplateTupleDesc(1);
		TupleDescInitEntry(table->aside_desc, 1, "tid", TIDOID, -1, 0);
		TupleDescFinalize(table->aside_desc);
		table->aside = tuplestore_begin_heap(false, false, work_mem);
		MemoryContextSwitchTo(old);
	}
	tuplestore_putvalues(table->aside, table->aside_desc, &value, &isnull);
	return true;
}

/*
 * Read the table of versions to see whether there are any that were recorded here.  If not,
 * no more are looked up.  If there are, the first one usually comes early; and it is not
 * read again before twice as many look-ups.
 */
static void
look_for_recorded(PoserArrival *arrival)
{
	Relation versions = arrival->own->versions;
	TupleTableSlot *slot = table_slot_create(versions, NULL);
	TableScanDesc scan = table_beginscan(versions, SnapshotSelf, 0, NULL, SO_NONE);
	int64 nread = 0;
	bool found = false;

	while (!found && table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		CHECK_FOR_INTERRUPTS();
		nread++;
		found = !poser_arrival_is_of_statement(arrival, slot) &&
				poser_arrival_is_recorded_version(arrival, arrival->own, slot);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	arrival->replaces = found;
	arrival->nmissed = 0;
	arrival->may_miss = Max(arrival->may_miss, nread) * 2;
}

/* If one version of this row was recorded, an insert that is equal to the row as it is now, remove it. */
static void
replace_recorded(PoserArrival *arrival, TupleTableSlot *arrived)
{
	PoserArrivalTable *table = arrival->own;
	TupleTableSlot *version = table->by_key.slot;
	ItemPointerData tid;
	int64 nremoved = arrival->nremoved;

	poser_version_lookup_begin(&table->by_key, &table->versioned, arrived, true);
	if (poser_version_lookup_next(&table->by_key) &&
		poser_version_operation(&table->versioned, version) == POSER_INSERT &&
		!poser_arrival_is_of_statement(arrival, version) &&
		poser_arrival_is_recorded_version(arrival, table, version) && is_live(table, version))
	{
		tid = version->tts_tid;
		if (!poser_version_lookup_next(&table->by_key))
			(void) set_aside(arrival, table, &tid);
	}
	ExecClearTuple(version);
	if (arrival->nremoved > nremoved)
		arrival->nmissed = 0;
	else if (++arrival->nmissed > arrival->may_miss)
		look_for_recorded(arrival);
}

/* Can a version that was recorded here have this change_id?  It has a greater one than its transaction. */
static bool
can_be_recorded(PoserArrival *arrival, int64 change_id)
{
	if (!arrival->found_first &&
		!poser_arrival_next_recorded(arrival, PG_INT64_MIN, PG_INT64_MAX, &arrival->first_recorded))
		arrival->first_recorded = PG_INT64_MAX;
	arrival->found_first = true;
	return change_id > arrival->first_recorded;
}

/*
 * Has a tracked table a version with this change_id that was recorded here?  Then it is in
 * table->by_id.slot.  Versions that were not are remembered as a range, because the ids that
 * arrive usually follow each other.
 */
static bool
find_recorded(PoserArrival *arrival, PoserArrivalTable *table, int64 change_id)
{
	Datum value = Int64GetDatum(change_id);

	if (change_id >= table->clean_first && change_id < table->clean_end)
		return false;
	table->clean_first = change_id;
	table->clean_end = table->greatest + 1;
	poser_lookup_begin(&table->by_id, BTGreaterEqualStrategyNumber, &value, NULL);
	while (poser_lookup_next(&table->by_id, ForwardScanDirection))
	{
		TupleTableSlot *version = table->by_id.slot;

		CHECK_FOR_INTERRUPTS();
		if (!poser_arrival_is_recorded_version(arrival, table, version))
			continue;
		table->clean_end = poser_version_change_id(&table->versioned, version);
		break;
	}
	if (table->clean_end == change_id)
		return true;
	ExecClearTuple(table->by_id.slot);
	return false;
}

/*
 * If an id that arrives is in use by a version that can be written again, set that version
 * aside; otherwise raise an error.  Transactions and changes have their ids from one
 * sequence, so the id can be that of a transaction.
 */
static void
free_change_id(PoserArrival *arrival, int64 change_id)
{
	if (!arrival->has_all && can_be_recorded(arrival, change_id))
		poser_arrival_open_all(arrival);
	for (int i = 0; i < arrival->ntables; i++)
	{
		PoserArrivalTable *table = arrival->tables[i];
		TupleTableSlot *version = table->by_id.slot;

		if (change_id > table->greatest)
			continue;
		/* what has arrived in another tracked table is no reason for an error: poser_check() reports it */
		if (table->versioned.own && table != arrival->own
				? !find_recorded(arrival, table, change_id)
				: !poser_arrival_find_version(table, change_id))
			continue;
		/* the unique index raises the error for an id that the statement brings twice */
		if (!poser_arrival_is_of_statement(arrival, version))
		{
			bool recorded = poser_arrival_is_recorded_version(arrival, table, version);

			/* what has arrived may be wrong, but it was so elsewhere */
			if (arrival->own == NULL && !recorded)
				continue;
			if (!recorded || !poser_arrival_is_lone(table, version))
				poser_arrival_in_use_error(arrival, "change_id", change_id);
			if (!set_aside(arrival, table, &version->tts_tid))
				poser_arrival_in_use_error(arrival, "change_id", change_id);
		}
		ExecClearTuple(version);
	}
}

/*
 * Write the versions again that were set aside, unless their rows have got a history.  A row
 * that has arrived may not have been inserted: another trigger, or ON CONFLICT, can prevent it.
 */
void
poser_arrival_write_set_aside(PoserArrival *arrival, PoserArrivalTable *table)
{
	TupleTableSlot *place;
	TupleTableSlot *version = table->by_id.slot;

	if (table->aside == NULL)
		return;
	/* tells these versions from those that the statement has brought */
	CommandCounterIncrement();
	place = MakeSingleTupleTableSlot(table->aside_desc, &TTSOpsMinimalTuple);
	while (tuplestore_gettupleslot(table->aside, true, false, place))
	{
		bool isnull;

		CHECK_FOR_INTERRUPTS();
		/* this transaction has removed it, so it is still there */
		if (!table_tuple_fetch_row_version(table->versions, (ItemPointer) DatumGetPointer(slot_getattr(place, 1, &isnull)),
										   SnapshotAny, version))
			elog(ERROR, "version was not found again");
		poser_version_lookup_begin(&table->by_key, &table->versioned, version, true);
		if (!poser_version_lookup_next(&table->by_key))
		{
			poser_arrival_write_version(arrival, table, version, poser_version_transaction_id(&table->versioned, version));
			arrival->nremoved--;
		}
		ExecClearTuple(table->by_key.slot);
		ExecClearTuple(version);
	}
	/* and what follows can move them */
	CommandCounterIncrement();
	ExecDropSingleTupleTableSlot(place);
	tuplestore_end(table->aside);
	table->aside = NULL;
}

/* Is an id one that the sequence can have given?  Others are not handled, and poser_check() reports them. */
static bool
is_usable(int64 id)
{
	return id >= -POSER_MAX_CHANGE_ID && id <= POSER_MAX_CHANGE_ID;
}

/* A version arrives. */
static void
arrive_version(PoserArrival *arrival, TupleTableSlot *slot)
{
	const PoserVersioned *versioned = arrival->versioned;
	bool no_transaction;
	bool no_change;
	int64 transaction_id = DatumGetInt64(slot_getattr(slot, versioned->transaction_id, &no_transaction));
	int64 change_id = DatumGetInt64(slot_getattr(slot, versioned->change_id, &no_change));

	/* NOT NULL raises the error */
	if (no_transaction || no_change || !is_usable(transaction_id) || !is_usable(change_id))
		return;
	arrival->greatest = Max(arrival->greatest, Max(transaction_id, change_id));
	arrival->narrived++;

	if (arrival->replaces && arrival->own->has_key)
		replace_recorded(arrival, slot);
	if (change_id <= arrival->in_use)
	{
		free_change_id(arrival, change_id);
		arrival->first_change = Min(arrival->first_change, change_id);
		arrival->last_change = Max(arrival->last_change, change_id);
	}

	/* when the statement ends, the versions that were recorded with a transaction of this id get another one */
	if (transaction_id <= arrival->in_use && transaction_id != arrival->last_claimed)
	{
		if (poser_arrival_is_recorded(arrival, transaction_id))
		{
			arrival->claimed = arrival->claims ? Max(arrival->claimed, transaction_id) : transaction_id;
			arrival->claims = true;
		}
		arrival->last_claimed = transaction_id;
	}
}

/* A transaction with this id arrives. */
static void
arrive_transaction(PoserArrival *arrival, int64 id)
{
	if (!is_usable(id))
		return;
	arrival->greatest = Max(arrival->greatest, id);
	arrival->narrived++;
	if (id > arrival->in_use)
		;
	else if (id >= arrival->noted.first && id <= arrival->noted.last)
		/* the unique index raises the error for an id that the statement brings twice */
		return;
	else if (poser_arrival_is_awaited(arrival, id))
	{
		/* the transaction of versions that have arrived already */
		poser_arrival_check_privileges(arrival);
		if (poser_arrival_find_transaction(arrival, id) &&
			!poser_direct_delete(arrival->transactions, &arrival->transaction.slot->tts_tid))
			poser_arrival_in_use_error(arrival, "transaction", id);
		poser_transaction_forget();
	}
	else if (poser_arrival_is_recorded(arrival, id))
	{
		/* move all that are in the way up to twice the id: so this is done a few times for a whole restore */
		poser_arrival_check_privileges(arrival);
		if (id > arrival->room)
			poser_arrival_settle(arrival, Max(id, 1) * 2);
		if (poser_arrival_find_transaction(arrival, id))
			poser_arrival_in_use_error(arrival, "transaction", id);
	}
	else if (poser_arrival_has_arrived(arrival, id))
		poser_arrival_in_use_error(arrival, "transaction", id);
	if (id <= arrival->in_use)
		free_change_id(arrival, id);
	poser_arrival_note(arrival, id);
}

/*
 * Lock what a statement that brings history reads and writes.  "own" and "versions" are the
 * tables of a trigger on a table of versions, or InvalidOid.
 */
static void
lock_for_arrival(Oid nspid, Oid own, Oid versions)
{
	static const char *const history[] = {"poser_transaction", "poser_arrival", "poser_version_horizon"};
	static const LOCKMODE modes[] = {ShareRowExclusiveLock, RowExclusiveLock, AccessShareLock};
	Oid relids[lengthof(history) + 2 * POSER_VERSIONED_TABLES + 2];
	LOCKMODE lockmodes[lengthof(relids)];
	int n = 0;

	for (int i = 0; i < lengthof(history); i++)
	{
		relids[n] = poser_relation_by_name(history[i], nspid);
		lockmodes[n++] = modes[i];
	}
	for (int i = 0; i < POSER_VERSIONED_TABLES; i++)
	{
		poser_versioned_names(i, nspid, &relids[n], &relids[n + 1]);
		lockmodes[n] = AccessShareLock;
		lockmodes[n + 1] = RowExclusiveLock;
		n += 2;
	}
	if (OidIsValid(own))
	{
		relids[n] = own;
		lockmodes[n++] = AccessShareLock;
		relids[n] = versions;
		lockmodes[n++] = RowExclusiveLock;
	}
	poser_lock_together(relids, lockmodes, n);
}

/*
 * Returns the table to which a table of versions is bound.  Without a binding, for instance
 * because the table was dropped, returns InvalidOid: nothing is recorded there, and nothing
 * can be in the way.
 */
static Oid
bound_table(Relation versions, Oid nspid)
{
	TriggerDesc *desc = versions->trigdesc;

	for (int i = 0; i < desc->numtriggers; i++)
	{
		Trigger *tg = &desc->triggers[i];
		char *function = OidIsValid(tg->tgconstrrelid) ? get_func_name(tg->tgfoid) : NULL;

		if (function != NULL && strcmp(function, "poser_versions_of") == 0 && get_func_namespace(tg->tgfoid) == nspid)
			return tg->tgconstrrelid;
	}
	return InvalidOid;
}

/*
 * Raises an error unless the table that a trigger names has the owner of the trigger's table.
 * The extension's own tables may have different owners.
 */
static void
check_named_table(TriggerData *trigdata, Oid nspid)
{
	Oid named = get_relname_relid(trigdata->tg_trigger->tgargs[0], nspid);

	for (int i = 0; i < POSER_VERSIONED_TABLES; i++)
	{
		Oid relid;
		Oid versions;

		if (poser_versioned_find_names(i, nspid, &relid, &versions) && relid == named &&
			versions == RelationGetRelid(trigdata->tg_relation))
			return;
	}
	if (OidIsValid(named) && !poser_have_one_owner(RelationGetRelid(trigdata->tg_relation), named))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("trigger \"%s\" names a table of another owner", trigdata->tg_trigger->tgname),
				 errdetail("Tables \"%s\" and \"%s\" must have the same owner.",
						   RelationGetRelationName(trigdata->tg_relation), get_rel_name(named))));
}

/*
 * A statement that brings history begins.
 *
 * The table of versions of a tracked table belongs to a user, and nothing is recorded
 * anywhere while a transaction brings history.  So history can be inserted there only by a role
 * that may change poser_transaction.
 */
static void
begin_arrival(TriggerData *trigdata, Oid nspid, bool is_versions)
{
	Trigger *tg = trigdata->tg_trigger;
	Relation rel = trigdata->tg_relation;
	bool is_own = is_versions && tg->tgnargs == 0;
	Oid table = InvalidOid;
	MemoryContext context;
	MemoryContext old;
	PoserArrival *arrival;
	PoserStatement *statement;
	PoserVersioned *described;

	if (is_own)
	{
		table = bound_table(rel, nspid);
		if (!OidIsValid(table))
			return;
		check_may_change(RelationGetRelid(rel));
		check_may_change(poser_relation_by_name("poser_transaction", nspid));
	}
	else if (is_versions)
	{
		check_named_table(trigdata, nspid);
		table = poser_relation_by_name(tg->tgargs[0], nspid);
	}

	/* after this lock nothing is recorded until the transaction ends */
	lock_for_arrival(nspid, table, RelationGetRelid(rel));

	/* it lives until the AFTER trigger, or until a rollback */
	context = AllocSetContextCreate(CurTransactionContext, "poser arrival", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	arrival = palloc0(sizeof(PoserArrival));
	arrival->context = context;
	arrival->noted = arrival->awaiting = arrival->known_range = arrival->known_gap = EMPTY_RANGE;
	arrival->greatest = PG_INT64_MIN;
	arrival->room = arrival->last_claimed = arrival->last_change = PG_INT64_MIN;
	arrival->first_change = PG_INT64_MAX;

	/* the extension's tables with a history, and the trigger's own one if it is none of these */
	described = palloc(POSER_VERSIONED_TABLES * sizeof(PoserVersioned));
	poser_versioned_describe_all(described, nspid);
	for (int i = 0; i < POSER_VERSIONED_TABLES; i++)
	{
		PoserArrivalTable *added = add_table(arrival, &described[i]);

		if (added == NULL)
			poser_structure_error(rel);
		if (is_versions && described[i].versions == RelationGetRelid(rel))
			arrival->own = added;
	}
	if (is_versions && arrival->own == NULL)
	{
		if (is_own)
			poser_tracked_describe(&described[0], table, nspid, RowExclusiveLock);
		else
			poser_versioned_describe(&described[0], rel, nspid, tg->tgargs[0], tg->tgnargs - 1, tg->tgargs + 1);
		/* the binding can have been changed before the lock */
		if (described[0].versions == RelationGetRelid(rel))
			arrival->own = add_table(arrival, &described[0]);
		if (arrival->own == NULL)
			poser_structure_error(rel);
	}
	pfree(described);
	arrival->versioned = arrival->own != NULL ? &arrival->own->versioned : &arrival->tables[0]->versioned;

	/* versions of other tracked tables can have greater ids than all transactions */
	arrival->in_use = Max(poser_change_id_greatest(arrival->versioned), poser_change_id_given(arrival->versioned));
	arrival->replaces = arrival->own != NULL && RelationGetNumberOfBlocks(rel) > 0;
	arrival->may_miss = LOOKUPS_BEFORE_READING;
	statement = poser_statement_begin(&arriving, trigdata);
	statement->data = arrival;
	arrival->statement = statement;
	MemoryContextSwitchTo(old);
}

/* A statement that brings history has ended. */
static void
end_arrival(TriggerData *trigdata)
{
	PoserStatement *statement = poser_statement_end(&arriving, trigdata);
	PoserArrival *arrival;
	MemoryContext old;

	if (statement == NULL)
		return;
	arrival = statement->data;
	old = MemoryContextSwitchTo(arrival->context);

	/* ids that are given from here on are greater */
	if (arrival->narrived > 0)
	{
		poser_change_id_advance(arrival->versioned, arrival->greatest);
		poser_change_id_signal(arrival->versioned);
		arrival->in_use = Max(arrival->in_use, arrival->greatest);
	}
	poser_arrival_save_ranges(arrival);
	for (int i = 0; i < arrival->ntables; i++)
		poser_arrival_write_set_aside(arrival, arrival->tables[i]);
	poser_arrival_settle_at_end(arrival);

	for (int i = 0; i < arrival->ntables; i++)
		close_table(arrival->tables[i]);
	poser_arrival_close_ids(arrival);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(arrival->context);
	pfree(statement);
}

/*
 * Returns the statement that inserts the row of this trigger.  Raises an error if its BEFORE
 * trigger has not fired.  Returns NULL for a table of versions that is not bound.
 */
static PoserArrival *
find_arrival(TriggerData *trigdata, Oid nspid)
{
	for (PoserStatement *statement = arriving; statement != NULL; statement = statement->outer)
		if (statement->relid == RelationGetRelid(trigdata->tg_relation))
			return statement->data;
	if (trigdata->tg_trigger->tgnargs == 0 && !OidIsValid(bound_table(trigdata->tg_relation, nspid)))
		return NULL;
	poser_structure_error(trigdata->tg_relation);
	return NULL; /* not reached */
}

/* Raises an error unless the trigger fires for INSERT. */
static void
check_fires_for_insert(TriggerData *trigdata)
{
	if (!TRIGGER_FIRED_BY_INSERT(trigdata->tg_event) ||
		(TRIGGER_FIRED_FOR_ROW(trigdata->tg_event) && !TRIGGER_FIRED_BEFORE(trigdata->tg_event)))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" must fire for INSERT, and before each row or for each statement",
						trigdata->tg_trigger->tgname)));
}

/*
 * poser_arrive(table, key column...) returns trigger
 *
 * The triggers on a table of versions: before each INSERT, before each of its rows, and
 * after it.  "table" is the table with the rows.  Without arguments it is the table to which
 * the versions are bound.
 */
Datum
poser_arrive(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = poser_check_trigger(fcinfo);
	Trigger *tg = trigdata->tg_trigger;
	Oid nspid = get_func_namespace(fcinfo->flinfo->fn_oid);

	check_fires_for_insert(trigdata);
	if (tg->tgnargs == 1 || tg->tgnargs > INDEX_MAX_KEYS)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" must have as arguments a table and the columns of its key",
						tg->tgname)));

	if (TRIGGER_FIRED_FOR_ROW(trigdata->tg_event))
	{
		PoserArrival *arrival = find_arrival(trigdata, nspid);

		if (arrival != NULL)
			arrive_version(arrival, trigdata->tg_trigslot);
		return PointerGetDatum(trigdata->tg_trigtuple);
	}
	if (TRIGGER_FIRED_BEFORE(trigdata->tg_event))
		begin_arrival(trigdata, nspid, true);
	else
		end_arrival(trigdata);
	return PointerGetDatum(NULL);
}

/*
 * poser_transaction_arrive() returns trigger
 *
 * The triggers on poser_transaction: before each INSERT, before each of its rows, and
 * after it.  The one for rows also fires on a subscriber, and in schemas before 1.5 it is
 * the only one.
 *
 * The xact of a row that arrives is a transaction ID of another cluster, or of an earlier
 * time.  The trigger replaces it by the ID of the transaction that inserts the row.
 */
Datum
poser_transaction_arrive(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = poser_check_trigger(fcinfo);
	Relation rel = trigdata->tg_relation;
	Oid nspid = get_func_namespace(fcinfo->flinfo->fn_oid);
	Datum xact = FullTransactionIdGetDatum(GetTopFullTransactionId());
	bool isnull = false;
	int column;

	check_fires_for_insert(trigdata);
	if (!TRIGGER_FIRED_FOR_ROW(trigdata->tg_event))
	{
		if (TRIGGER_FIRED_BEFORE(trigdata->tg_event))
			begin_arrival(trigdata, nspid, false);
		else
			end_arrival(trigdata);
		return PointerGetDatum(NULL);
	}

	if (SessionReplicationRole != SESSION_REPLICATION_ROLE_REPLICA &&
		OidIsValid(get_relname_relid("poser_arrival", nspid)))
	{
		Datum id = slot_getattr(trigdata->tg_trigslot, poser_own_column(rel, "id", INT8OID), &isnull);

		/* NOT NULL raises the error */
		if (!isnull)
			arrive_transaction(find_arrival(trigdata, nspid), DatumGetInt64(id));
		isnull = false;
	}
	column = poser_own_column(rel, "xact", XID8OID);
	return PointerGetDatum(heap_modify_tuple_by_cols(trigdata->tg_trigtuple, RelationGetDescr(rel),
													 1, &column, &xact, &isnull));
}

/* Register the list of statements, when the module is loaded. */
void
poser_arrival_init(void)
{
	poser_statement_register(&arriving);
}
