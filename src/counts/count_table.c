/*
 * count_table.c
 *	  The rows of one table of a count.
 *
 * Both tables of a count, that of settled counts and that of deltas, have the columns
 * (key, total, active).  The functions here find, insert, update and delete their rows.
 * None of them waits for another transaction.
 *
 * Look-ups use SnapshotSelf, which finds the newest version that is committed or is the
 * transaction's own.  It takes no predicate locks, so that SERIALIZABLE writers of one
 * parent's children do not fail because of the parent's count.
 *
 * A row can be replaced very often.  Its older versions stay as long as a snapshot
 * may see them.  The versions that one transaction has written stay at least until it
 * ends.  A look-up by the index would visit all of them.  Therefore a session remembers
 * where it has put rows, and looks there first.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/pg_operator_d.h"
#include "executor/executor.h"
#include "storage/bufmgr.h"
#include "utils/hsearch.h"
#include "utils/snapmgr.h"

#include "counts/counts_internal.h"

/* How many rows a session remembers before it forgets all of them and starts anew. */
#define MAX_KNOWN_ROWS 16384

/*
 * Where this session has last put a row, by the table and the hash of the row's key.
 *
 * An entry is only a hint.  Whatever is found there is used only if it is the newest
 * version of a row and has the key.  So an entry that is wrong costs time only: two
 * keys may have the same hash, another session may have replaced the row, or the space
 * may have been used again.
 *
 * "before" is the row's place before the (sub)transaction "xid" replaced the row.  After a
 * rollback the newest version is there again.
 */
typedef struct KnownRowKey
{
	Oid relid;
	uint32 hash;
} KnownRowKey;

typedef struct KnownRow
{
	KnownRowKey key;
	ItemPointerData newest;
	ItemPointerData before;
	TransactionId xid;
} KnownRow;

static HTAB *known_rows = NULL;

/*
 * Open a table of "count" for a writer with this snapshot.  "indexid" is the table's
 * index on the key.  The caller has locked the table, see poser_count_open().
 */
void
poser_count_open_table(CountTable *table, const PoserCount *count, Oid relid, Oid indexid,
					   Snapshot snapshot)
{
	poser_direct_open(&table->direct, relid, NoLock);
	table->count = count;
	table->snapshot = snapshot;
	table->relid = relid;
	table->indexid = indexid;
	table->index = NULL;
	table->scan = NULL;
	table->nblocks = RelationGetNumberOfBlocks(table->direct.rel);
	table->found = table_slot_create(table->direct.rel, NULL);
	table->formed = NULL;
}

/* Close the table.  Its lock is kept until the transaction ends. */
void
poser_count_close_table(CountTable *table)
{
	if (table->scan != NULL)
		index_endscan(table->scan);
	if (table->index != NULL)
		index_close(table->index, NoLock);
	ExecDropSingleTupleTableSlot(table->found);
	if (table->formed != NULL)
		ExecDropSingleTupleTableSlot(table->formed);
	poser_direct_close(&table->direct);
}

/*
 * The row that was found
 */

/* Returns the key of the row that was found.  It is valid until the next row is found. */
Datum
poser_count_found_key(CountTable *table)
{
	bool isnull;

	return slot_getattr(table->found, COUNT_KEY, &isnull);
}

/* Returns the numbers of the row that was found.  Null counts as 0; only an owner of the table can write it. */
Tally
poser_count_found_tally(CountTable *table)
{
	Tally result;
	bool isnull;

	result.total = DatumGetInt64(slot_getattr(table->found, COUNT_TOTAL, &isnull));
	if (isnull)
		result.total = 0;
	result.active = DatumGetInt64(slot_getattr(table->found, COUNT_ACTIVE, &isnull));
	if (isnull)
		result.active = 0;
	return result;
}

/* Has this transaction, or one of its subtransactions, written the row that was found? */
bool
poser_count_found_is_own(CountTable *table)
{
	bool isnull;
	Datum xmin = slot_getsysattr(table->found, MinTransactionIdAttributeNumber, &isnull);

	return TransactionIdIsCurrentTransactionId(DatumGetTransactionId(xmin));
}

/*
 * Does the writer's snapshot see the row that was found?  The transaction's own rows
 * count as visible, whichever command has written them, because they are made from
 * visible rows only.
 */
bool
poser_count_found_is_visible(CountTable *table)
{
	return poser_count_found_is_own(table) ||
		   table_tuple_satisfies_snapshot(table->direct.rel, table->found, table->snapshot);
}

/* Does the row that was found have this key? */
static bool
found_has_key(CountTable *table, Datum key)
{
	bool isnull;
	Datum found = slot_getattr(table->found, COUNT_KEY, &isnull);

	return !isnull && equal_count_keys(table->count, found, key);
}

/*
 * Known rows
 */

/* Returns the entry for a key with this hash, or NULL. */
static KnownRow *
known_row(CountTable *table, uint32 hash)
{
	KnownRowKey key = {table->relid, hash};

	return known_rows == NULL ? NULL : hash_search(known_rows, &key, HASH_FIND, NULL);
}

/* Does the session remember a row for a key with this hash? */
bool
poser_count_knows_row(CountTable *table, uint32 hash)
{
	return known_row(table, hash) != NULL;
}

/* Remember that the row of a key with this hash is now at "tid". */
static void
remember_row(CountTable *table, uint32 hash, ItemPointer tid)
{
	KnownRowKey key = {table->relid, hash};
	KnownRow *row;
	TransactionId xid = GetCurrentTransactionId();
	bool found;

	/* Make the hash table, or empty it when it is full. */
	if (known_rows != NULL && hash_get_num_entries(known_rows) >= MAX_KNOWN_ROWS)
	{
		hash_destroy(known_rows);
		known_rows = NULL;
	}
	if (known_rows == NULL)
	{
		HASHCTL ctl = {0};

		ctl.keysize = sizeof(KnownRowKey);
		ctl.entrysize = sizeof(KnownRow);
		known_rows = hash_create("poser known rows", 64, &ctl, HASH_ELEM | HASH_BLOBS);
	}

	/* Within one (sub)transaction "before" stays the place that the row had when it began. */
	row = hash_search(known_rows, &key, HASH_ENTER, &found);
	if (!found)
		ItemPointerSetInvalid(&row->before);
	else if (row->xid != xid)
		row->before = row->newest;
	row->xid = xid;
	row->newest = *tid;

	/* The new row can have made the table larger. */
	if (ItemPointerGetBlockNumber(tid) >= table->nblocks)
		table->nblocks = ItemPointerGetBlockNumber(tid) + 1;
}

/* Find the newest version of the key's row, if it is at this place.  Returns whether it is. */
static bool
fetch_row(CountTable *table, Datum key, ItemPointer tid)
{
	return ItemPointerIsValid(tid) &&
		   ItemPointerGetBlockNumber(tid) < table->nblocks &&
		   table_tuple_fetch_row_version(table->direct.rel, tid, SnapshotSelf, table->found) &&
		   found_has_key(table, key);
}

/*
 * Find the key's row if this transaction has written it.  Returns false if it has not, or
 * if the session does not remember the row.
 */
bool
poser_count_find_own_row(CountTable *table, Datum key, uint32 hash)
{
	KnownRow *row = known_row(table, hash);

	return row != NULL &&
		   ((fetch_row(table, key, &row->newest) && poser_count_found_is_own(table)) ||
			(fetch_row(table, key, &row->before) && poser_count_found_is_own(table)));
}

/*
 * Find the key's row by what the session remembers.  Returns false if the row is not found
 * in this way.  It may exist nevertheless.
 */
bool
poser_count_find_known_row(CountTable *table, Datum key, uint32 hash)
{
	KnownRow *row = known_row(table, hash);
	TableScanDesc scan;
	ItemPointerData tid;

	/* Usually the row is where this session has put it. */
	if (row == NULL)
		return false;
	if (fetch_row(table, key, &row->newest) || fetch_row(table, key, &row->before))
		return true;
	if (ItemPointerGetBlockNumber(&row->newest) >= table->nblocks)
		return false;

	/* Other sessions may have replaced the row: follow its versions to the newest one. */
	tid = row->newest;
	scan = table_beginscan_tid(table->direct.rel, SnapshotSelf);
	table_tuple_get_latest_tid(scan, &tid);
	table_endscan(scan);
	return !ItemPointerEquals(&tid, &row->newest) && fetch_row(table, key, &tid);
}

/*
 * Look-ups by the index
 */

/*
 * Begin to look a key up in the table's index.  poser_count_next_row() gives the rows
 * that "snapshot" sees: SnapshotSelf or SnapshotAny.
 */
void
poser_count_begin_scan(CountTable *table, Datum key, Snapshot snapshot)
{
	ScanKeyData scankey;

	/* One scan serves all keys, so that the index is opened once. */
	if (table->scan == NULL)
	{
		table->index = index_open(table->indexid, RowExclusiveLock);
		table->scan = index_beginscan(table->direct.rel, table->index, snapshot, NULL, 1, 0, SO_NONE);
	}
	table->scan->xs_snapshot = snapshot;
	ScanKeyEntryInitializeWithInfo(&scankey, 0, 1, BTEqualStrategyNumber, InvalidOid,
								   table->count->keycollation, table->count->key_eq, key);
	index_rescan(table->scan, &scankey, 1, NULL, 0);
}

/* Find the next row of the key; returns false if there is none. */
bool
poser_count_next_row(CountTable *table)
{
	return index_getnext_slot(table->scan, ForwardScanDirection, table->found);
}

/* Find the newest version of a key's row, in a table that has at most one for each key. */
bool
poser_count_find_row(CountTable *table, Datum key, uint32 hash)
{
	if (poser_count_find_known_row(table, key, hash))
		return true;
	poser_count_begin_scan(table, key, SnapshotSelf);
	return poser_count_next_row(table);
}

/*
 * Writing
 */

/* Put a new row into table->formed. */
static void
form_row(CountTable *table, Datum key, Tally tally)
{
	TupleTableSlot *slot;

	if (table->formed == NULL)
		table->formed = MakeSingleTupleTableSlot(RelationGetDescr(table->direct.rel), &TTSOpsVirtual);
	slot = table->formed;
	ExecClearTuple(slot);
	slot->tts_values[COUNT_KEY - 1] = key;
	slot->tts_values[COUNT_TOTAL - 1] = Int64GetDatum(tally.total);
	slot->tts_values[COUNT_ACTIVE - 1] = Int64GetDatum(tally.active);
	/* Any further columns are dropped ones. */
	for (int i = 0; i < slot->tts_tupleDescriptor->natts; i++)
		slot->tts_isnull[i] = (i >= COUNT_NATTS);
	ExecStoreVirtualTuple(slot);
}

/*
 * Make the index entry of a new version of a row, without a check that its key is
 * unique.  The version has the key of the row that it replaces, so the check is not
 * needed.  It would visit all older versions that this transaction has written.
 */
static void
insert_index_entry_unchecked(CountTable *table)
{
	ResultRelInfo *indexes = table->direct.indexes;
	Datum values[INDEX_MAX_KEYS];
	bool isnull[INDEX_MAX_KEYS];

	FormIndexDatum(indexes->ri_IndexRelationInfo[0], table->formed, table->direct.estate, values, isnull);
	index_insert(indexes->ri_IndexRelationDescs[0], values, isnull,
				 &table->formed->tts_tid, table->direct.rel,
				 UNIQUE_CHECK_NO, true, indexes->ri_IndexRelationInfo[0]);
	ResetPerTupleExprContext(table->direct.estate);
}

/*
 * Insert a row, and return true.  In a table with one row for each key there may be a row
 * with the key already, or another transaction may be inserting or deleting one.  Then
 * the new row is deleted again, and the result is false.  Never waits.
 */
bool
poser_count_insert_row(CountTable *table, Datum key, uint32 hash, Tally tally)
{
	TM_FailureData tmfd;

	form_row(table, key, tally);
	table_tuple_insert(table->direct.rel, table->formed, GetCurrentCommandId(true), 0, NULL);
	if (poser_direct_insert_index_entries(&table->direct, table->formed, EIIT_NO_DUPE_ERROR))
	{
		remember_row(table, hash, &table->formed->tts_tid);
		return true;
	}

	/* Only a later command can delete the row. */
	CommandCounterIncrement();
	if (table_tuple_delete(table->direct.rel, &table->formed->tts_tid, GetCurrentCommandId(true), 0,
						   SnapshotSelf, InvalidSnapshot, false, &tmfd) != TM_Ok)
		elog(ERROR, "could not delete a row of our own in relation \"%s\"",
			 RelationGetRelationName(table->direct.rel));
	return false;
}

/*
 * Lock the row that was found, without waiting.  Returns false if another transaction
 * has replaced or locked it.
 */
static bool
lock_row(CountTable *table, LockTupleMode mode)
{
	TM_FailureData tmfd;

	return table_tuple_lock(table->direct.rel, &table->found->tts_tid, table->snapshot, table->found,
							GetCurrentCommandId(true), mode, LockWaitSkip, 0, &tmfd) == TM_Ok;
}

/*
 * Replace the row that was found by one with this tally.  Returns false, and changes
 * nothing, if another transaction has replaced or locked the row.  Never waits.
 *
 * After this call the row in table->found is an old version.
 */
bool
poser_count_update_row(CountTable *table, uint32 hash, Tally tally)
{
	TM_FailureData tmfd;
	LockTupleMode lockmode;
	TU_UpdateIndexes update_indexes;
	bool own = poser_count_found_is_own(table);

	/*
	 * table_tuple_update() has no option not to wait.  So lock the row first, with the
	 * lock of an update that does not change the key.  A row of our own needs no lock,
	 * because no other transaction sees it.  It must not get one either: newer versions of
	 * a row inherit its locks, and the locks of many subtransactions would accumulate.
	 */
	if (!own && !lock_row(table, LockTupleNoKeyExclusive))
		return false;

	form_row(table, poser_count_found_key(table), tally);
	if (table_tuple_update(table->direct.rel, &table->found->tts_tid, table->formed,
						   GetCurrentCommandId(true), 0, table->snapshot, InvalidSnapshot,
						   true, &tmfd, &lockmode, &update_indexes) != TM_Ok)
		return false;
	if (!own)
		poser_count_note_replaced(table->snapshot);

	/* A HOT update needs no index entry.  The usual table has one index, on the key. */
	if (update_indexes != TU_None)
	{
		uint32 flags = EIIT_IS_UPDATE;

		if (UPDATES_ONLY_SUMMARIZING(update_indexes))
			flags |= EIIT_ONLY_SUMMARIZING;
		poser_direct_open_indexes(&table->direct);
		if (table->direct.indexes->ri_NumIndices == 1 &&
			RelationGetRelid(table->direct.indexes->ri_IndexRelationDescs[0]) == table->indexid)
			insert_index_entry_unchecked(table);
		else
			poser_direct_insert_index_entries(&table->direct, table->formed, flags);
	}
	remember_row(table, hash, &table->formed->tts_tid);
	return true;
}

/* Try to delete the row that was found, without waiting unless "wait" is true. */
static TM_Result
try_delete(CountTable *table, bool wait)
{
	TM_FailureData tmfd;

	return table_tuple_delete(table->direct.rel, &table->found->tts_tid, GetCurrentCommandId(true), 0,
							  table->snapshot, InvalidSnapshot, wait, &tmfd);
}

/*
 * Delete the row that was found.  Returns false, and changes nothing, if another
 * transaction has replaced or locked the row.  Never waits.
 */
bool
poser_count_delete_row(CountTable *table)
{
	bool own = poser_count_found_is_own(table);
	TM_Result result = try_delete(table, false);

	/*
	 * Newer versions of a row inherit its locks, so a lock of this transaction itself can
	 * be the reason for TM_BeingModified.  lock_row() takes the lock that a delete needs,
	 * or fails.  With this lock the delete has nothing to wait for.
	 */
	if (result == TM_BeingModified && own && lock_row(table, LockTupleExclusive))
		result = try_delete(table, true);
	if (result != TM_Ok)
		return false;
	if (!own)
		poser_count_note_replaced(table->snapshot);
	return true;
}
