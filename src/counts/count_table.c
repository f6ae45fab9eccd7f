/*
 * count_table.c
 *	  The two tables of a count, opened for writing.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relscan.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/pg_class.h"
#include "catalog/pg_operator_d.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/bitmapset.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/tuplesort.h"

#include "counts/counts.h"
#include "counts/counts_internal.h"

/* How many rows a backend remembers before it starts afresh. */
#define MAX_KNOWN_ROWS 16384

/*
 * Where this backend has last put a row, by table and hash of the row's key.
 * An entry is a hint, and checked when it is used: a row that is valid now and
 * has the key is the one.  So two keys of one hash, rows that others have
 * replaced since, and space that was used again cost time only.  "before" is
 * the place before the (sub)transaction "xid", for when that is rolled back.
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

static void
open_table(CountTable *table, Oid relid, Oid indexid)
{
	table->relid = relid;
	table->indexid = indexid;
	table->rel = table_open(relid, RowExclusiveLock);
	table->index = NULL;
	table->scan = NULL;
	table->nblocks = RelationGetNumberOfBlocks(table->rel);
	table->indexes = NULL;
	table->estate = NULL;
	table->found = table_slot_create(table->rel, NULL);
	table->formed = NULL;
}

/* Locks are kept until the end of the transaction, as for any writer. */
static void
close_table(CountTable *table)
{
	if (table->scan != NULL)
		index_endscan(table->scan);
	if (table->index != NULL)
		index_close(table->index, NoLock);
	if (table->indexes != NULL)
	{
		ExecCloseIndices(table->indexes);
		FreeExecutorState(table->estate);
	}
	ExecDropSingleTupleTableSlot(table->found);
	if (table->formed != NULL)
		ExecDropSingleTupleTableSlot(table->formed);
	table_close(table->rel, NoLock);
}

void
poser_count_open(CountWriter *writer, const PoserCount *count)
{
	writer->count = count;
	writer->snapshot = IsolationUsesXactSnapshot() ? GetTransactionSnapshot() : GetActiveSnapshot();
	open_table(&writer->settled, count->counts, count->counts_index);
	open_table(&writer->deltas, count->deltas, count->deltas_index);

	/* a committed row that our snapshot sees has its page by now */
	writer->deltas_empty = (writer->deltas.nblocks == 0);

	/* what this command has written before can then be replaced as well */
	CommandCounterIncrement();
}

void
poser_count_close(CountWriter *writer)
{
	close_table(&writer->deltas);
	close_table(&writer->settled);
}

Tally
poser_count_slot_tally(TupleTableSlot *slot)
{
	Tally result;
	bool isnull;

	result.total = DatumGetInt64(slot_getattr(slot, COUNT_TOTAL, &isnull));
	if (isnull)
		result.total = 0;
	result.active = DatumGetInt64(slot_getattr(slot, COUNT_ACTIVE, &isnull));
	if (isnull)
		result.active = 0;
	return result;
}

static TransactionId
slot_xmin(TupleTableSlot *slot)
{
	bool isnull;

	return DatumGetTransactionId(slot_getsysattr(slot, MinTransactionIdAttributeNumber,
												 &isnull));
}

bool
poser_count_slot_is_own(TupleTableSlot *slot)
{
	return TransactionIdIsCurrentTransactionId(slot_xmin(slot));
}

static bool
slot_has_key(CountTable *table, const PoserCount *count, Datum key)
{
	bool isnull;
	Datum found = slot_getattr(table->found, COUNT_KEY, &isnull);

	return !isnull && equal_keys(count, found, key);
}

static KnownRow *
known_row(CountTable *table, uint32 hash)
{
	KnownRowKey key = {table->relid, hash};

	return known_rows == NULL ? NULL : hash_search(known_rows, &key, HASH_FIND, NULL);
}

bool
poser_count_knows_row(CountTable *table, uint32 hash)
{
	return known_row(table, hash) != NULL;
}

static void
remember_row(CountTable *table, uint32 hash, ItemPointer tid)
{
	KnownRowKey key = {table->relid, hash};
	KnownRow *row;
	TransactionId xid = GetCurrentTransactionId();
	bool found;

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

	row = hash_search(known_rows, &key, HASH_ENTER, &found);
	if (!found)
		ItemPointerSetInvalid(&row->before);
	else if (row->xid != xid)
		row->before = row->newest;
	row->xid = xid;
	row->newest = *tid;

	if (ItemPointerGetBlockNumber(tid) >= table->nblocks)
		table->nblocks = ItemPointerGetBlockNumber(tid) + 1;
}

/* Is the key's row, as it is now, at this place?  Then it is found. */
static bool
fetch_row(CountTable *table, const PoserCount *count, Datum key, ItemPointer tid)
{
	return ItemPointerIsValid(tid) &&
		   ItemPointerGetBlockNumber(tid) < table->nblocks &&
		   table_tuple_fetch_row_version(table->rel, tid, SnapshotSelf, table->found) &&
		   slot_has_key(table, count, key);
}

/* Find the row that this transaction has made for the key, if it knows one. */
bool
poser_count_find_own_row(CountTable *table, const PoserCount *count, Datum key, uint32 hash)
{
	KnownRow *row = known_row(table, hash);

	return row != NULL &&
		   ((fetch_row(table, count, key, &row->newest) && poser_count_slot_is_own(table->found)) ||
			(fetch_row(table, count, key, &row->before) && poser_count_slot_is_own(table->found)));
}

/*
 * Find the key's row where we have put it, or where others who have replaced
 * it since have.
 */
bool
poser_count_find_known_row(CountTable *table, const PoserCount *count, Datum key, uint32 hash)
{
	KnownRow *row = known_row(table, hash);
	TableScanDesc scan;
	ItemPointerData tid;

	if (row == NULL)
		return false;
	if (fetch_row(table, count, key, &row->newest) ||
		fetch_row(table, count, key, &row->before))
		return true;
	if (ItemPointerGetBlockNumber(&row->newest) >= table->nblocks)
		return false;

	tid = row->newest;
	scan = table_beginscan_tid(table->rel, SnapshotSelf);
	table_tuple_get_latest_tid(scan, &tid);
	table_endscan(scan);
	return !ItemPointerEquals(&tid, &row->newest) && fetch_row(table, count, key, &tid);
}

/*
 * Begin to look a key up in the table's index, poser_count_next_row() gives the rows.
 * "snapshot" is one that does not depend on time.
 */
void
poser_count_begin_scan(CountTable *table, const PoserCount *count, Datum key, Snapshot snapshot)
{
	ScanKeyData scankey;

	if (table->scan == NULL)
	{
		table->index = index_open(table->indexid, RowExclusiveLock);
		table->scan = index_beginscan(table->rel, table->index, snapshot, NULL, 1, 0, SO_NONE);
	}
	table->scan->xs_snapshot = snapshot;
	ScanKeyEntryInitializeWithInfo(&scankey, 0, 1, BTEqualStrategyNumber, InvalidOid,
								   count->keycollation, count->key_eq, key);
	index_rescan(table->scan, &scankey, 1, NULL, 0);
}

bool
poser_count_next_row(CountTable *table)
{
	return index_getnext_slot(table->scan, ForwardScanDirection, table->found);
}

/*
 * Find the newest version of a key's row, for a table that has only one.
 */
bool
poser_count_find_row(CountTable *table, const PoserCount *count, Datum key, uint32 hash)
{
	if (poser_count_find_known_row(table, count, key, hash))
		return true;
	poser_count_begin_scan(table, count, key, SnapshotSelf);
	return poser_count_next_row(table);
}

/*
 * May the row that was found be built upon?  Our own always, for it was made
 * from what we may see.
 */
bool
poser_count_may_replace(CountWriter *writer, CountTable *table)
{
	if (poser_count_slot_is_own(table->found))
		return true;
	return table_tuple_satisfies_snapshot(table->rel, table->found, writer->snapshot);
}

static void
form_row(CountTable *table, Datum key, Tally tally)
{
	TupleTableSlot *slot;

	if (table->formed == NULL)
		table->formed = MakeSingleTupleTableSlot(RelationGetDescr(table->rel), &TTSOpsVirtual);
	slot = table->formed;
	ExecClearTuple(slot);
	slot->tts_values[COUNT_KEY - 1] = key;
	slot->tts_values[COUNT_TOTAL - 1] = Int64GetDatum(tally.total);
	slot->tts_values[COUNT_ACTIVE - 1] = Int64GetDatum(tally.active);
	/* there may be dropped columns */
	for (int i = 0; i < slot->tts_tupleDescriptor->natts; i++)
		slot->tts_isnull[i] = (i >= COUNT_NATTS);
	ExecStoreVirtualTuple(slot);
}

/*
 * Make index entries for the row just written.
 *
 * A new version of the row that holds a key needs no check that the key is
 * unique, and must not have one: it would visit all our older versions.  For a
 * new row the check neither waits nor fails.  The result is false if the key has
 * another row, or another transaction is inserting or deleting one.
 */
static bool
insert_index_entries(CountTable *table, bool update, bool onlySummarizing)
{
	ResultRelInfo *indexes;
	List *conflicts = NIL;

	if (table->indexes == NULL)
	{
		table->estate = CreateExecutorState();
		table->indexes = makeNode(ResultRelInfo);
		InitResultRelInfo(table->indexes, table->rel, 0, NULL, 0);
		ExecOpenIndices(table->indexes, false);
	}
	indexes = table->indexes;

	if (update && indexes->ri_NumIndices == 1 &&
		RelationGetRelid(indexes->ri_IndexRelationDescs[0]) == table->indexid)
	{
		Datum values[INDEX_MAX_KEYS];
		bool isnull[INDEX_MAX_KEYS];

		FormIndexDatum(indexes->ri_IndexRelationInfo[0], table->formed, table->estate,
					   values, isnull);
		index_insert(indexes->ri_IndexRelationDescs[0], values, isnull,
					 &table->formed->tts_tid, table->rel,
					 UNIQUE_CHECK_NO, true, indexes->ri_IndexRelationInfo[0]);
	}
	else
	{
		conflicts = ExecInsertIndexTuples(indexes, table->estate,
										  (update ? EIIT_IS_UPDATE : EIIT_NO_DUPE_ERROR) |
											  (onlySummarizing ? EIIT_ONLY_SUMMARIZING : 0),
										  table->formed, NIL, NULL);
	}
	ResetPerTupleExprContext(table->estate);
	return conflicts == NIL;
}

/*
 * Insert a row.  If the key must be unique and has another row, or another
 * transaction is inserting or deleting one, the new row is deleted again and the
 * result is false.
 */
bool
poser_count_insert_row(CountTable *table, Datum key, uint32 hash, Tally tally)
{
	TM_FailureData tmfd;

	form_row(table, key, tally);
	table_tuple_insert(table->rel, table->formed, GetCurrentCommandId(true), 0, NULL);
	if (insert_index_entries(table, false, false))
	{
		remember_row(table, hash, &table->formed->tts_tid);
		return true;
	}

	/* only a later command can delete the row */
	CommandCounterIncrement();
	if (table_tuple_delete(table->rel, &table->formed->tts_tid, GetCurrentCommandId(true), 0,
						   SnapshotSelf, InvalidSnapshot, false, &tmfd) != TM_Ok)
		elog(ERROR, "could not delete a row of our own in relation \"%s\"",
			 RelationGetRelationName(table->rel));
	return false;
}

/*
 * Lock the row that was found, without waiting.  Returns false if another
 * transaction has replaced or locked it.
 */
static bool
lock_row(CountWriter *writer, CountTable *table, LockTupleMode mode)
{
	TM_FailureData tmfd;

	return table_tuple_lock(table->rel, &table->found->tts_tid, writer->snapshot, table->found,
							GetCurrentCommandId(true), mode, LockWaitSkip, 0, &tmfd) == TM_Ok;
}

/*
 * Replace the row that was found by one with this tally.  Returns false, and
 * has done nothing, if another transaction has replaced or locked it.
 *
 * table_tuple_update() cannot be told not to wait.  So the row is locked first,
 * with the lock that an update takes that does not change the key.  A row of this
 * transaction needs no lock, because others do not see it.  (Besides, a lock stays
 * on the newer versions, so that locks of many subtransactions would add up.)
 */
bool
poser_count_update_row(CountWriter *writer, CountTable *table, uint32 hash, Tally tally)
{
	TM_FailureData tmfd;
	LockTupleMode lockmode;
	bool own;
	bool isnull;
	TU_UpdateIndexes update_indexes;

	own = poser_count_slot_is_own(table->found);
	if (!own && !lock_row(writer, table, LockTupleNoKeyExclusive))
		return false;
	form_row(table, slot_getattr(table->found, COUNT_KEY, &isnull), tally);
	if (table_tuple_update(table->rel, &table->found->tts_tid, table->formed,
						   GetCurrentCommandId(true), 0, writer->snapshot, InvalidSnapshot,
						   true, &tmfd, &lockmode, &update_indexes) != TM_Ok)
		return false;
	if (!own)
		poser_count_note_replaced(writer->snapshot);

	if (update_indexes != TU_None)
		insert_index_entries(table, true, UPDATES_ONLY_SUMMARIZING(update_indexes));
	remember_row(table, hash, &table->formed->tts_tid);
	return true;
}

/*
 * Delete the row that was found.  Returns false if another transaction has
 * replaced or locked it.
 */
bool
poser_count_delete_row(CountWriter *writer, CountTable *table)
{
	TM_FailureData tmfd;
	bool own = poser_count_slot_is_own(table->found);
	TM_Result result;

	result = table_tuple_delete(table->rel, &table->found->tts_tid,
								GetCurrentCommandId(true), 0, writer->snapshot, InvalidSnapshot,
								false, &tmfd);
	/* a lock of this transaction stays on newer versions of the row, and may be what is in the way */
	if (result == TM_BeingModified && own && lock_row(writer, table, LockTupleExclusive))
		result = table_tuple_delete(table->rel, &table->found->tts_tid,
									GetCurrentCommandId(true), 0, writer->snapshot, InvalidSnapshot,
									true, &tmfd);
	if (result != TM_Ok)
		return false;
	if (!own)
		poser_count_note_replaced(writer->snapshot);
	return true;
}
