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
 * A version was recorded here if its transaction was, see arrival_ids.c.  While a statement
 * is running this is not true for the versions that it has brought.  Their command ID tells
 * them from the others.  A version that arrives can also name a transaction that has
 * recorded other changes here.  Then the version counts as recorded, because a user may have
 * taken it out of the table and put it back.  If a restore has brought it, the restore fails
 * when the transaction arrives.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
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
 * Raises an error unless the current user may remove and change what was recorded: the
 * owner may, and so may a role with these privileges that row-level security does not
 * restrict.  A privilege to INSERT is not enough.
 */
void
poser_arrival_check_privileges(PoserArrival *arrival)
{
	if (arrival->may_replace)
		return;
	for (int i = 0; i <= arrival->ntables; i++)
	{
		Oid relid = i < arrival->ntables ? arrival->tables[i].versioned.versions : arrival->versioned->transactions;

		if (poser_is_owner(relid, GetUserId()))
			continue;
		if (pg_class_aclmask(relid, GetUserId(), ACL_UPDATE | ACL_DELETE, ACLMASK_ALL) != (ACL_UPDATE | ACL_DELETE) ||
			check_enable_rls(relid, InvalidOid, true) == RLS_ENABLED)
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("permission denied for table %s", get_rel_name(relid)),
					 errdetail("The history that arrives replaces what was recorded in this table.")));
	}
	arrival->may_replace = true;
}

/* Open a table of versions and its table for look-ups. */
static void
open_table(PoserArrivalTable *table)
{
	const PoserVersioned *versioned = &table->versioned;
	AttrNumber columns[INDEX_MAX_KEYS];
	AttrNumber change_id = versioned->change_id;
	bool immediate;
	Oid indexid;

	/* versions by key and by change_id */
	table->rel = table_open(versioned->relid, NoLock);
	table->versions = table_open(versioned->versions, NoLock);
	poser_version_lookup_open(&table->by_key, versioned, table->versions);
	indexid = poser_unique_index(table->versions, 1, &change_id, &immediate);
	if (!OidIsValid(indexid))
		poser_structure_error(table->versions);
	poser_lookup_open(&table->by_id, table->versions, indexid, 1);

	/* rows by key; the columns of the index can be in another order */
	for (int i = 0; i < versioned->nkeys; i++)
		columns[i] = versioned->source[versioned->keys[i] - 1];
	indexid = poser_unique_index(table->rel, versioned->nkeys, columns, &immediate);
	if (!OidIsValid(indexid))
		return;
	poser_lookup_open(&table->live, table->rel, indexid, versioned->nkeys);
	for (int i = 0; i < versioned->nkeys; i++)
		for (int j = 0; j < versioned->nkeys; j++)
			if (table->live.index->rd_index->indkey.values[i] == columns[j])
				table->live_keys[i] = j;
}

static void
close_table(PoserArrivalTable *table)
{
	if (table->writes)
		poser_direct_close(&table->direct);
	if (table->live.scan != NULL)
		poser_lookup_close(&table->live);
	poser_lookup_close(&table->by_id);
	poser_lookup_close(&table->by_key);
	table_close(table->versions, NoLock);
	table_close(table->rel, NoLock);
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
	Datum values[INDEX_MAX_KEYS];
	bool result;

	if (table->live.scan == NULL)
		return false;
	for (int i = 0; i < versioned->nkeys; i++)
	{
		bool isnull;

		values[i] = slot_getattr(version, versioned->keys[table->live_keys[i]], &isnull);
		/* several rows can have a null key, and cannot be told apart */
		if (isnull)
			return false;
	}
	poser_lookup_begin(&table->live, BTEqualStrategyNumber, values, NULL);
	result = poser_lookup_next(&table->live, ForwardScanDirection) &&
			 poser_versioned_is_version_of(versioned, version, table->live.slot);
	ExecClearTuple(table->live.slot);
	return result;
}

/* Is the version, which was recorded here, the only one of its row, an insert, and equal to the row as it is now? */
bool
poser_arrival_is_lone(PoserArrivalTable *table, TupleTableSlot *version)
{
	bool result;

	if (poser_version_operation(&table->versioned, version) != POSER_INSERT)
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
	const PoserVersioned *versioned = arrival->versioned;
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
				poser_arrival_is_recorded(arrival, poser_version_transaction_id(versioned, slot));
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
		poser_arrival_is_recorded(arrival, poser_version_transaction_id(&table->versioned, version)) &&
		is_live(table, version))
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

/*
 * If an id that arrives is in use by a version that can be written again, set that version
 * aside; otherwise raise an error.  Transactions and changes have their ids from one
 * sequence, so the id can be that of a transaction.
 */
static void
free_change_id(PoserArrival *arrival, int64 change_id)
{
	for (int i = 0; i < arrival->ntables; i++)
	{
		PoserArrivalTable *table = &arrival->tables[i];
		TupleTableSlot *version = table->by_id.slot;

		if (change_id > table->greatest || !poser_arrival_find_version(table, change_id))
			continue;
		/* the unique index raises the error for an id that the statement brings twice */
		if (!poser_arrival_is_of_statement(arrival, version))
		{
			bool recorded = poser_arrival_is_recorded(arrival, poser_version_transaction_id(&table->versioned, version));

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

	if (arrival->replaces)
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

/* Lock what a statement that brings history reads and writes.  "own" is the table of a trigger on a table of versions, or NULL. */
static void
lock_for_arrival(Oid nspid, const char *own)
{
	static const char *const history[] = {"poser_transaction", "poser_arrival", "poser_version_horizon"};
	static const LOCKMODE modes[] = {ShareRowExclusiveLock, RowExclusiveLock, AccessShareLock};
	Oid relids[lengthof(history) + 2 * POSER_VERSIONED_TABLES + 1];
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
	if (own != NULL)
	{
		relids[n] = poser_relation_by_name(own, nspid);
		lockmodes[n++] = AccessShareLock;
	}
	poser_lock_together(relids, lockmodes, n);
}

/* A statement that brings history begins. */
static void
begin_arrival(TriggerData *trigdata, Oid nspid, bool is_versions)
{
	Trigger *tg = trigdata->tg_trigger;
	Relation rel = trigdata->tg_relation;
	MemoryContext context;
	MemoryContext old;
	PoserArrival *arrival;
	PoserStatement *statement;
	PoserVersioned *described;

	/* after this lock nothing is recorded until the transaction ends */
	lock_for_arrival(nspid, is_versions ? tg->tgargs[0] : NULL);

	/* it lives until the AFTER trigger, or until a rollback */
	context = AllocSetContextCreate(CurTransactionContext, "poser arrival", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	arrival = palloc0(sizeof(PoserArrival));
	arrival->context = context;
	arrival->noted = arrival->awaiting = arrival->known_range = arrival->known_gap = EMPTY_RANGE;
	arrival->greatest = PG_INT64_MIN;
	arrival->room = arrival->last_claimed = arrival->last_change = PG_INT64_MIN;
	arrival->first_change = PG_INT64_MAX;
	arrival->tables = palloc0((POSER_VERSIONED_TABLES + 1) * sizeof(PoserArrivalTable));

	/* the tables with a history, and the trigger's own one if it is none of these */
	described = palloc(POSER_VERSIONED_TABLES * sizeof(PoserVersioned));
	poser_versioned_describe_all(described, nspid);
	for (int i = 0; i < POSER_VERSIONED_TABLES; i++)
	{
		arrival->tables[i].versioned = described[i];
		if (is_versions && described[i].versions == RelationGetRelid(rel))
			arrival->own = &arrival->tables[i];
	}
	arrival->ntables = POSER_VERSIONED_TABLES;
	if (is_versions && arrival->own == NULL)
	{
		arrival->own = &arrival->tables[arrival->ntables++];
		poser_versioned_describe(&arrival->own->versioned, rel, nspid, tg->tgargs[0], tg->tgnargs - 1, tg->tgargs + 1);
	}
	arrival->versioned = arrival->own != NULL ? &arrival->own->versioned : &arrival->tables[0].versioned;
	for (int i = 0; i < arrival->ntables; i++)
	{
		open_table(&arrival->tables[i]);
		arrival->tables[i].greatest = poser_change_id_last(arrival->tables[i].versions, "change_id", "change_id");
	}

	arrival->in_use = poser_change_id_greatest(arrival->versioned);
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
		poser_arrival_write_set_aside(arrival, &arrival->tables[i]);
	poser_arrival_settle_at_end(arrival);

	for (int i = 0; i < arrival->ntables; i++)
		close_table(&arrival->tables[i]);
	poser_arrival_close_ids(arrival);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(arrival->context);
	pfree(statement);
}

/* Returns the statement that inserts the row of this trigger.  Raises an error if its BEFORE trigger has not fired. */
static PoserArrival *
find_arrival(TriggerData *trigdata)
{
	for (PoserStatement *statement = arriving; statement != NULL; statement = statement->outer)
		if (statement->relid == RelationGetRelid(trigdata->tg_relation))
			return statement->data;
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
 * after it.  "table" is the table with the rows.
 */
Datum
poser_arrive(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = poser_check_trigger(fcinfo);
	Trigger *tg = trigdata->tg_trigger;

	check_fires_for_insert(trigdata);
	if (tg->tgnargs < 2 || tg->tgnargs > INDEX_MAX_KEYS)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" must have as arguments a table and the columns of its key",
						tg->tgname)));

	if (TRIGGER_FIRED_FOR_ROW(trigdata->tg_event))
	{
		arrive_version(find_arrival(trigdata), trigdata->tg_trigslot);
		return PointerGetDatum(trigdata->tg_trigtuple);
	}
	if (TRIGGER_FIRED_BEFORE(trigdata->tg_event))
		begin_arrival(trigdata, get_func_namespace(fcinfo->flinfo->fn_oid), true);
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
			arrive_transaction(find_arrival(trigdata), DatumGetInt64(id));
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
