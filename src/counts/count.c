/*
 * count.c
 *	  Counting the rows of a child table by parent, without blocking.
 *
 * For each parent there is a row in the table of settled counts; changes that
 * cannot be added to it at once are rows of the table of deltas.  What always
 * holds, in every snapshot and for every key, is
 *
 *		settled + sum(deltas) = number of children
 *
 * whether the parent exists or not.  Whatever is done here keeps that sum, so
 * that no two writers need to agree on anything but who may replace a row.
 *
 * A writer finds the newest version of the settled row.  If its own snapshot
 * sees that version, and nobody else has replaced or is replacing it, then it
 * replaces it, which can fail but never waits.  Having done so it holds the
 * row, and takes up those deltas of the key that its snapshot sees.  Otherwise
 * it records a delta.  (A version that the snapshot does not see includes rows
 * of others that it does not see either; a version of our own made from it
 * would bring them into our own reads.)
 *
 * The look-ups use SnapshotSelf, which finds the newest committed or own
 * version, and takes no predicate locks: SERIALIZABLE writers of one parent
 * must not fail on account of its count.
 *
 * The same row may be replaced very often, and its older versions stay as long
 * as somebody might see them: those of one transaction at least until its end.
 * To find the newest through the index one would walk all of them, so a backend
 * remembers where it has put rows, see KnownRow.
 *
 * Reads go through views, which ask poser_count_serves() whether the counts
 * can be relied on here and now, and count the rows themselves otherwise.
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
#include "versions/versions.h"

PG_FUNCTION_INFO_V1(poser_count_child);
PG_FUNCTION_INFO_V1(poser_count_parent);
PG_FUNCTION_INFO_V1(poser_recount);

/* Columns of the tables of settled counts and of deltas. */
#define COUNT_KEY 1
#define COUNT_TOTAL 2
#define COUNT_ACTIVE 3
#define COUNT_NATTS 3

/* How many rows a backend remembers before it starts afresh. */
#define MAX_KNOWN_ROWS 16384

/*
 * How much a transaction remembers, for older snapshots that it may still use:
 * commands (8 MB), snapshots (3 MB), and decisions (16 MB).  Nothing is forgotten
 * before the transaction ends.  When one of these limits is reached, queries with
 * newer snapshots count the rows themselves.
 */
#define MAX_COMMANDS (64 * 1024 * 1024)
#define MAX_SETTLED_UNDER (256 * 1024)
#define MAX_DECISIONS (256 * 1024)

/* Keys of a sort that are changed together. */
#define SORTED_BATCH 1000

/* Rows fetched at a time by poser_count_rebuild. */
#define REBUILD_BATCH 1000

/* A number of children, or a change of it. */
typedef struct Tally
{
	int64 total;
	int64 active;
} Tally;

/*
 * What one statement changes, by key.
 */
typedef struct Change
{
	Datum key;
	Tally tally;
	uint32 hash;
	char status;
} Change;

static uint32 hash_key(const PoserCount *count, Datum key);
static bool equal_keys(const PoserCount *count, Datum a, Datum b);

#define SH_PREFIX changes
#define SH_ELEMENT_TYPE Change
#define SH_KEY_TYPE Datum
#define SH_KEY key
#define SH_HASH_KEY(tb, key) hash_key((tb)->private_data, key)
#define SH_EQUAL(tb, a, b) equal_keys((tb)->private_data, a, b)
#define SH_SCOPE static inline
#define SH_STORE_HASH
#define SH_GET_HASH(tb, a) (a)->hash
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

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

/*
 * Statements on a child or parent that are under way and have not been counted
 * yet.  Reads that come meanwhile, of other triggers for instance, may see their
 * rows; so as long as there is one, snapshots from its command on are counted
 * live.
 */
static PoserStatement *uncounted = NULL;

/*
 * Commands whose snapshots were taken while such a statement was in progress.
 * These snapshots see rows of the statement that their counts do not include.
 * They may be used much later, by a cursor that a trigger has opened.  In
 * TopTransactionContext.
 */
static Bitmapset *uncounted_commands = NULL;

/*
 * Snapshots under which this transaction has built upon rows of others, in the
 * order of time, and the command that did: as a snapshot's xmax and its number
 * of running transactions.  Of two snapshots the one with the greater xmax is
 * newer, and if they are the same, the one that has fewer running.  An older
 * snapshot that is after the command sees our rows, and not what they are made
 * from.  In TopTransactionContext.
 */
typedef struct SettledUnder
{
	TransactionId xmax;
	uint32 xcnt;
	CommandId cid;
} SettledUnder;

static SettledUnder *settled_under = NULL;
static int num_settled_under = 0;
static int max_settled_under = 0;

/*
 * From which command on, if any, this transaction has written counts that do
 * not go with what its snapshots see of the rows of others.
 */
static CommandId unfit_from = InvalidCommandId;

/*
 * What poser_count_serves() has decided in this transaction, for whom and for
 * which snapshot.
 */
typedef struct DecisionKey
{
	Oid child;
	Oid userid;
	TransactionId xmin;
	TransactionId xmax;
	uint32 running;
	CommandId curcid;
} DecisionKey;

typedef struct Decision
{
	DecisionKey key;
	bool serves;
	char status;
} Decision;

#define SH_PREFIX decisions
#define SH_ELEMENT_TYPE Decision
#define SH_KEY_TYPE DecisionKey
#define SH_KEY key
#define SH_HASH_KEY(tb, key) hash_bytes((unsigned char *) &(key), sizeof(DecisionKey))
#define SH_EQUAL(tb, a, b) (memcmp(&(a), &(b), sizeof(DecisionKey)) == 0)
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

#define FEW_DECISIONS 64

static decisions_hash *decisions = NULL;

/* One of the two tables of a count, opened for writing. */
typedef struct CountTable
{
	Oid relid;
	Oid indexid;
	Relation rel;
	Relation index;
	IndexScanDesc scan;
	BlockNumber nblocks;	/* places beyond are out of date */
	TupleTableSlot *found;	/* what find_row() has found */
	TupleTableSlot *formed; /* what is to be written */
	ResultRelInfo *indexes; /* set up when an index must be changed */
	EState *estate;
} CountTable;

typedef struct CountWriter
{
	const PoserCount *count;
	Snapshot snapshot; /* may only settle what this sees */
	CountTable settled;
	CountTable deltas;
	bool deltas_empty; /* it had no page, so there is no delta to take up */
} CountWriter;

static uint32
hash_key(const PoserCount *count, Datum key)
{
	return murmurhash32(DatumGetUInt32(FunctionCall1Coll(count->key_hash,
														 count->keycollation, key)));
}

static bool
equal_keys(const PoserCount *count, Datum a, Datum b)
{
	return DatumGetBool(FunctionCall2Coll(count->key_eq, count->keycollation, a, b));
}

/*
 * Tables of a count
 */

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

static void
open_writer(CountWriter *writer, const PoserCount *count)
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

static void
close_writer(CountWriter *writer)
{
	close_table(&writer->deltas);
	close_table(&writer->settled);
}

static Tally
slot_tally(TupleTableSlot *slot)
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

static bool
slot_is_own(TupleTableSlot *slot)
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

/*
 * Known rows
 */

static KnownRow *
known_row(CountTable *table, uint32 hash)
{
	KnownRowKey key = {table->relid, hash};

	return known_rows == NULL ? NULL : hash_search(known_rows, &key, HASH_FIND, NULL);
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
static bool
find_own_row(CountTable *table, const PoserCount *count, Datum key, uint32 hash)
{
	KnownRow *row = known_row(table, hash);

	return row != NULL &&
		   ((fetch_row(table, count, key, &row->newest) && slot_is_own(table->found)) ||
			(fetch_row(table, count, key, &row->before) && slot_is_own(table->found)));
}

/*
 * Find the key's row where we have put it, or where others who have replaced
 * it since have.
 */
static bool
find_known_row(CountTable *table, const PoserCount *count, Datum key, uint32 hash)
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
 * Begin to look a key up in the table's index, next_row() gives the rows.
 * "snapshot" is one that does not depend on time.
 */
static void
begin_rows(CountTable *table, const PoserCount *count, Datum key, Snapshot snapshot)
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

static bool
next_row(CountTable *table)
{
	return index_getnext_slot(table->scan, ForwardScanDirection, table->found);
}

/*
 * Find the newest version of a key's row, for a table that has only one.
 */
static bool
find_row(CountTable *table, const PoserCount *count, Datum key, uint32 hash)
{
	if (find_known_row(table, count, key, hash))
		return true;
	begin_rows(table, count, key, SnapshotSelf);
	return next_row(table);
}

/*
 * May the row that was found be built upon?  Our own always, for it was made
 * from what we may see.
 */
static bool
may_settle(CountWriter *writer, CountTable *table)
{
	if (slot_is_own(table->found))
		return true;
	return table_tuple_satisfies_snapshot(table->rel, table->found, writer->snapshot);
}

/* Is the remembered snapshot older than this one? */
static bool
is_older(const SettledUnder *under, Snapshot snapshot)
{
	return TransactionIdPrecedes(under->xmax, snapshot->xmax) ||
		   (under->xmax == snapshot->xmax && under->xcnt > snapshot->xcnt);
}

/* Is this snapshot older than the remembered one? */
static bool
is_newer(const SettledUnder *under, Snapshot snapshot)
{
	return TransactionIdPrecedes(snapshot->xmax, under->xmax) ||
		   (under->xmax == snapshot->xmax && under->xcnt < snapshot->xcnt);
}

/* From this command on, the counts that the transaction writes do not fit its snapshots. */
static void
note_unfit(void)
{
	if (unfit_from == InvalidCommandId)
		unfit_from = GetCurrentCommandId(false);
}

/*
 * Remember under which snapshot rows of others were built upon, see
 * sees_settled().
 */
static void
note_settled(Snapshot snapshot)
{
	SettledUnder *last;

	if (IsolationUsesXactSnapshot())
		return;
	if (num_settled_under > 0 && !is_older(&settled_under[num_settled_under - 1], snapshot))
		return;
	if (num_settled_under == MAX_SETTLED_UNDER)
	{
		note_unfit();
		return;
	}
	if (settled_under == NULL)
	{
		max_settled_under = 16;
		settled_under = MemoryContextAlloc(TopTransactionContext,
										   max_settled_under * sizeof(SettledUnder));
	}
	else if (num_settled_under == max_settled_under)
	{
		settled_under = repalloc(settled_under, 2 * max_settled_under * sizeof(SettledUnder));
		max_settled_under *= 2;
	}
	last = &settled_under[num_settled_under++];
	last->xmax = snapshot->xmax;
	last->xcnt = snapshot->xcnt;
	last->cid = GetCurrentCommandId(false);
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
static bool
insert_row(CountTable *table, Datum key, uint32 hash, Tally tally)
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
static bool
update_row(CountWriter *writer, CountTable *table, uint32 hash, Tally tally)
{
	TM_FailureData tmfd;
	LockTupleMode lockmode;
	bool own;
	bool isnull;
	TU_UpdateIndexes update_indexes;

	own = slot_is_own(table->found);
	if (!own && !lock_row(writer, table, LockTupleNoKeyExclusive))
		return false;
	form_row(table, slot_getattr(table->found, COUNT_KEY, &isnull), tally);
	if (table_tuple_update(table->rel, &table->found->tts_tid, table->formed,
						   GetCurrentCommandId(true), 0, writer->snapshot, InvalidSnapshot,
						   true, &tmfd, &lockmode, &update_indexes) != TM_Ok)
		return false;
	if (!own)
		note_settled(writer->snapshot);

	if (update_indexes != TU_None)
		insert_index_entries(table, true, UPDATES_ONLY_SUMMARIZING(update_indexes));
	remember_row(table, hash, &table->formed->tts_tid);
	return true;
}

/*
 * Delete the row that was found.  Returns false if another transaction has
 * replaced or locked it.
 */
static bool
delete_row(CountWriter *writer, CountTable *table)
{
	TM_FailureData tmfd;
	bool own = slot_is_own(table->found);
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
		note_settled(writer->snapshot);
	return true;
}

/*
 * Changing a count
 */

static bool
is_zero(Tally tally)
{
	return tally.total == 0 && tally.active == 0;
}

static Tally
add(Tally a, Tally b)
{
	return (Tally) {a.total + b.total, a.active + b.active};
}

/*
 * Add a change to the delta that was found; false if somebody else has it.
 */
static bool
change_delta(CountWriter *writer, uint32 hash, Tally change)
{
	Tally tally = add(slot_tally(writer->deltas.found), change);

	return is_zero(tally) ? delete_row(writer, &writer->deltas) : update_row(writer, &writer->deltas, hash, tally);
}

/*
 * Record a change as a delta: in our own, if we have one, or in one that we
 * may have, so that there are not many more deltas of a key than there have
 * been writers at one time, however long somebody holds its settled row.  The
 * index is asked only if this backend knows none, for it has all the versions
 * that cannot be removed while that lasts.
 */
static void
defer(CountWriter *writer, Datum key, uint32 hash, Tally change)
{
	CountTable *deltas = &writer->deltas;

	if (is_zero(change))
		return;
	if (find_own_row(deltas, writer->count, key, hash) &&
		change_delta(writer, hash, change))
		return;
	if (known_row(deltas, hash) != NULL)
	{
		if (find_known_row(deltas, writer->count, key, hash) &&
			may_settle(writer, deltas) && change_delta(writer, hash, change))
			return;
	}
	else if (!writer->deltas_empty)
	{
		begin_rows(deltas, writer->count, key, SnapshotSelf);
		while (next_row(deltas))
		{
			CHECK_FOR_INTERRUPTS();
			if (may_settle(writer, deltas) && change_delta(writer, hash, change))
				return;
		}
	}
	(void) insert_row(deltas, key, hash, change);
}

/* Delete the deltas of a key that this transaction may build upon, and return their sum. */
static Tally
take_deltas(CountWriter *writer, Datum key)
{
	CountTable *deltas = &writer->deltas;
	Tally sum = {0, 0};

	begin_rows(deltas, writer->count, key, SnapshotSelf);
	while (next_row(deltas))
	{
		Tally tally;

		CHECK_FOR_INTERRUPTS();
		if (!may_settle(writer, deltas))
			continue;
		tally = slot_tally(deltas->found);
		if (delete_row(writer, deltas))
			sum = add(sum, tally);
	}
	return sum;
}

/*
 * Having replaced the settled row of "key", which is in writer->settled.found
 * no more, take up its deltas.
 */
static void
absorb_deltas(CountWriter *writer, Datum key, uint32 hash)
{
	Tally sum = take_deltas(writer, key);

	if (is_zero(sum))
		return;

	/* the row that we have just written can be replaced by a later command */
	CommandCounterIncrement();
	if (!find_row(&writer->settled, writer->count, key, hash) ||
		!update_row(writer, &writer->settled, hash,
					add(slot_tally(writer->settled.found), sum)))
		elog(ERROR, "could not replace a row of our own in relation \"%s\"",
			 RelationGetRelationName(writer->settled.rel));
}

/*
 * Change the count of one key.  Within one opening of the writer a key comes
 * only once.  A change of nothing still takes up deltas.
 */
static void
change_count(CountWriter *writer, Datum key, uint32 hash, Tally change)
{
	CountTable *settled = &writer->settled;

	if (find_row(settled, writer->count, key, hash) &&
		may_settle(writer, settled) &&
		update_row(writer, settled, hash, add(slot_tally(settled->found), change)))
	{
		if (!writer->deltas_empty)
			absorb_deltas(writer, key, hash);
	}
	else
		defer(writer, key, hash, change);
}

/*
 * Insert the settled row of a key.  Returns false, and leaves no row, if there
 * is one already, or if another transaction is inserting or deleting one.  So no
 * session waits or fails here.  A parent can do without the row: its count is
 * then the sum of its deltas.
 *
 * An older snapshot may still see a row that another transaction has deleted.
 * With such a snapshot the counts must not be read, since it would see two rows.
 */
static bool
make_settled_row(CountWriter *writer, Datum key, uint32 hash, Tally tally)
{
	CountTable *settled = &writer->settled;
	bool gone = false;
	bool sees_gone = false;

	if (find_known_row(settled, writer->count, key, hash))
		return false;
	begin_rows(settled, writer->count, key, SnapshotAny);
	while (next_row(settled))
	{
		CHECK_FOR_INTERRUPTS();
		if (table_tuple_satisfies_snapshot(settled->rel, settled->found, SnapshotSelf))
			return false;
		if (slot_is_own(settled->found))
			continue;
		gone = true;
		if (!sees_gone)
			sees_gone = table_tuple_satisfies_snapshot(settled->rel, settled->found,
													   writer->snapshot);
	}

	if (!insert_row(settled, key, hash, tally))
		return false;
	if (IsolationUsesXactSnapshot())
	{
		if (sees_gone)
			note_unfit();
	}
	else if (gone)
	{
		/* snapshots that are older than the latest may see the deleted row */
		note_settled(GetLatestSnapshot());
	}
	return true;
}

/*
 * Make the settled row of a new parent, unless there is one: a parent may have
 * gone while somebody held the row.
 */
static void
begin_count(CountWriter *writer, Datum key)
{
	uint32 hash = hash_key(writer->count, key);
	Tally tally = {0, 0};
	bool own;

	/* one query may make a parent and its children, and count these first */
	own = find_own_row(&writer->deltas, writer->count, key, hash);
	if (own)
		tally = slot_tally(writer->deltas.found);
	if (make_settled_row(writer, key, hash, tally) && own &&
		!delete_row(writer, &writer->deltas))
		elog(ERROR, "could not delete a row of our own in relation \"%s\"",
			 RelationGetRelationName(writer->deltas.rel));
}

/*
 * Delete the settled row that was found, of a parent that is gone.  Children
 * that it still has, to be deleted by a cascade or without a foreign key, are
 * counted by a delta.  If somebody holds the row then it stays, and does no
 * harm.
 */
static void
end_found_count(CountWriter *writer, Datum key, uint32 hash)
{
	Tally left = slot_tally(writer->settled.found);
	bool visible = may_settle(writer, &writer->settled);

	if (!delete_row(writer, &writer->settled))
		return;
	if (!visible)
		note_unfit();
	defer(writer, key, hash, left);
}

static void
end_count(CountWriter *writer, Datum key)
{
	uint32 hash = hash_key(writer->count, key);

	if (find_row(&writer->settled, writer->count, key, hash))
		end_found_count(writer, key, hash);
}

/*
 * TRUNCATE of the child, which nobody else has open: all counts are zero.
 */
static void
zero_counts(CountWriter *writer)
{
	CountTable *tables[] = {&writer->settled, &writer->deltas};

	for (int i = 0; i < lengthof(tables); i++)
	{
		CountTable *table = tables[i];
		TableScanDesc scan = table_beginscan(table->rel, SnapshotSelf, 0, NULL, SO_NONE);

		while (table_scan_getnextslot(scan, ForwardScanDirection, table->found))
		{
			Datum key;
			bool isnull;
			bool done;

			CHECK_FOR_INTERRUPTS();
			key = slot_getattr(table->found, COUNT_KEY, &isnull);
			if (table == &writer->deltas)
				done = delete_row(writer, table);
			else
				done = is_zero(slot_tally(table->found)) ||
					   update_row(writer, table, hash_key(writer->count, key), (Tally) {0, 0});
			if (!done)
				ereport(ERROR,
						(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
						 errmsg("could not reset the counts in relation \"%s\"",
								RelationGetRelationName(table->rel)),
						 errdetail("Another transaction holds one of its rows.")));
		}
		table_endscan(scan);
	}
}

/*
 * TRUNCATE of the parent.
 */
static void
end_all_counts(CountWriter *writer)
{
	CountTable *settled = &writer->settled;
	TableScanDesc scan = table_beginscan(settled->rel, SnapshotSelf, 0, NULL, SO_NONE);

	while (table_scan_getnextslot(scan, ForwardScanDirection, settled->found))
	{
		bool isnull;
		Datum key = slot_getattr(settled->found, COUNT_KEY, &isnull);

		CHECK_FOR_INTERRUPTS();
		end_found_count(writer, key, hash_key(writer->count, key));
	}
	table_endscan(scan);
}

/*
 * Triggers
 */

/* Rows of a transition table. */
typedef struct Source
{
	Tuplestorestate *store;
	TupleTableSlot *slot;
	const PoserCountTrigger *trigger;
	Datum key;
	bool active;
} Source;

static bool
open_source(Source *source, Tuplestorestate *store, TriggerData *trigdata,
			const PoserCountTrigger *trigger)
{
	source->store = store;
	source->trigger = trigger;
	source->slot = NULL;
	if (store == NULL)
		return false;
	/* other triggers may have read it */
	tuplestore_select_read_pointer(store, 0);
	tuplestore_rescan(store);
	source->slot = MakeSingleTupleTableSlot(RelationGetDescr(trigdata->tg_relation),
											&TTSOpsMinimalTuple);
	return true;
}

static void
close_source(Source *source)
{
	if (source->slot != NULL)
		ExecDropSingleTupleTableSlot(source->slot);
}

/* Read the row in the slot; false if it has no parent. */
static bool
read_source_row(Source *source)
{
	bool isnull;

	source->key = slot_getattr(source->slot, source->trigger->key, &isnull);
	if (isnull)
		return false;
	if (source->trigger->count.keylen == -1)
		source->key = PointerGetDatum(PG_DETOAST_DATUM_PACKED(source->key));
	source->active = false;
	if (source->trigger->flag != 0)
	{
		Datum flag = slot_getattr(source->slot, source->trigger->flag, &isnull);

		source->active = !isnull && DatumGetBool(flag);
	}
	return true;
}

/* The next row that refers to a parent; the key lives until the one after. */
static bool
next_source_row(Source *source)
{
	if (source->slot == NULL)
		return false;
	while (tuplestore_gettupleslot(source->store, true, false, source->slot))
	{
		CHECK_FOR_INTERRUPTS();
		if (read_source_row(source))
			return true;
	}
	ExecDropSingleTupleTableSlot(source->slot);
	source->slot = NULL;
	return false;
}

/*
 * Changes by key, in a memory context of their own.  When they take more
 * memory than a hash table may, they go to a sort by hash value; in the end
 * the sums of equal keys come out of it next to each other.  So whatever the
 * number of keys, each is changed once, and memory is bounded.
 */
typedef struct Changes
{
	TriggerData *trigdata;
	const PoserCount *count;
	MemoryContext context;
	changes_hash *hash;
	Size limit;
	Tuplesortstate *sort; /* rows of (hash, key, total, active) */
	TupleTableSlot *slot;
} Changes;

#define SORT_NATTS 4

static void
begin_changes(Changes *changes, TriggerData *trigdata, const PoserCount *count)
{
	changes->trigdata = trigdata;
	changes->count = count;
	changes->context = AllocSetContextCreate(CurrentMemoryContext, "poser changes",
											 ALLOCSET_DEFAULT_SIZES);
	changes->hash = changes_create(changes->context, 16, (void *) count);
	changes->limit = get_hash_memory_limit();
	changes->sort = NULL;
}

static void
forget_changes(Changes *changes)
{
	MemoryContextReset(changes->context);
	changes->hash = changes_create(changes->context, 16, (void *) changes->count);
}

/* Apply what is in the hash table. */
static void
apply_changes(Changes *changes)
{
	CountWriter writer;
	bool opened = false;
	changes_iterator it;
	Change *change;

	changes_start_iterate(changes->hash, &it);
	while ((change = changes_iterate(changes->hash, &it)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		if (is_zero(change->tally))
			continue;
		if (!opened)
			open_writer(&writer, poser_count_locked(changes->trigdata));
		opened = true;
		change_count(&writer, change->key, change->hash, change->tally);
	}
	if (opened)
		close_writer(&writer);
}

/* Move what is in the hash table to the sort. */
static void
spill_changes(Changes *changes)
{
	TupleTableSlot *slot;
	changes_iterator it;
	Change *change;

	if (changes->sort == NULL)
	{
		AttrNumber attno = 1;
		Oid lt = Int4LessOperator;
		Oid collation = InvalidOid;
		bool nulls_first = false;
		TupleDesc desc = CreateTemplateTupleDesc(SORT_NATTS);

		TupleDescInitEntry(desc, 1, "hash", INT4OID, -1, 0);
		TupleDescInitEntry(desc, 2, "key", changes->count->keytype, -1, 0);
		TupleDescInitEntry(desc, 3, "total", INT8OID, -1, 0);
		TupleDescInitEntry(desc, 4, "active", INT8OID, -1, 0);
		TupleDescFinalize(desc);
		changes->slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
		changes->sort = tuplesort_begin_heap(desc, 1, &attno, &lt, &collation, &nulls_first,
											 work_mem, NULL, TUPLESORT_NONE);
	}

	slot = MakeSingleTupleTableSlot(changes->slot->tts_tupleDescriptor, &TTSOpsVirtual);
	changes_start_iterate(changes->hash, &it);
	while ((change = changes_iterate(changes->hash, &it)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		if (is_zero(change->tally))
			continue;
		ExecClearTuple(slot);
		slot->tts_values[0] = Int32GetDatum((int32) change->hash);
		slot->tts_values[1] = change->key;
		slot->tts_values[2] = Int64GetDatum(change->tally.total);
		slot->tts_values[3] = Int64GetDatum(change->tally.active);
		memset(slot->tts_isnull, 0, SORT_NATTS * sizeof(bool));
		ExecStoreVirtualTuple(slot);
		tuplesort_puttupleslot(changes->sort, slot);
	}
	ExecDropSingleTupleTableSlot(slot);
	forget_changes(changes);
}

static void
add_change(Changes *changes, Datum key, Tally tally)
{
	bool found;
	Change *change = changes_insert(changes->hash, key, &found);

	if (!found)
	{
		MemoryContext old = MemoryContextSwitchTo(changes->context);

		change->key = datumCopy(key, changes->count->keybyval, changes->count->keylen);
		change->tally = (Tally) {0, 0};
		MemoryContextSwitchTo(old);
	}
	change->tally = add(change->tally, tally);
}

static void
end_changes(Changes *changes)
{
	if (changes->sort != NULL)
	{
		int32 hash = 0;

		spill_changes(changes);
		tuplesort_performsort(changes->sort);
		while (tuplesort_gettupleslot(changes->sort, true, false, changes->slot, NULL))
		{
			bool isnull;
			Tally tally;

			CHECK_FOR_INTERRUPTS();
			if (changes->hash->members >= SORTED_BATCH &&
				hash != DatumGetInt32(slot_getattr(changes->slot, 1, &isnull)))
			{
				apply_changes(changes);
				forget_changes(changes);
			}
			hash = DatumGetInt32(slot_getattr(changes->slot, 1, &isnull));
			tally.total = DatumGetInt64(slot_getattr(changes->slot, 3, &isnull));
			tally.active = DatumGetInt64(slot_getattr(changes->slot, 4, &isnull));
			add_change(changes, slot_getattr(changes->slot, 2, &isnull), tally);
		}
		tuplesort_end(changes->sort);
		ExecDropSingleTupleTableSlot(changes->slot);
	}
	apply_changes(changes);
	MemoryContextDelete(changes->context);
}

/* Count one row, "sign" being 1 or -1. */
static void
count_row(Changes *changes, const Source *source, int sign)
{
	add_change(changes, source->key, (Tally) {sign, source->active ? sign : 0});
	if (MemoryContextMemAllocated(changes->context, false) > changes->limit)
		spill_changes(changes);
}

/*
 * Add up a statement's transition tables and apply the sums.
 *
 * The two tables of an UPDATE are read side by side: most often a row's old
 * and new version stand at the same place and count alike.  Rows that do
 * cancel out, whether they belong together or not.
 */
static void
count_statement(TriggerData *trigdata, const PoserCountTrigger *trigger)
{
	Changes changes;
	Source olds;
	Source news;
	bool has_old;
	bool has_new;

	has_old = open_source(&olds, trigdata->tg_oldtable, trigdata, trigger);
	has_new = open_source(&news, trigdata->tg_newtable, trigdata, trigger);
	if ((TRIGGER_FIRED_BY_INSERT(trigdata->tg_event) && !has_new) ||
		(TRIGGER_FIRED_BY_DELETE(trigdata->tg_event) && !has_old) ||
		(TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event) && !(has_old && has_new)))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" must have transition tables",
						trigdata->tg_trigger->tgname)));

	begin_changes(&changes, trigdata, &trigger->count);
	do
	{
		has_old = next_source_row(&olds);
		has_new = next_source_row(&news);
		if (has_old && has_new && olds.active == news.active &&
			equal_keys(&trigger->count, olds.key, news.key))
			continue;
		if (has_old)
			count_row(&changes, &olds, -1);
		if (has_new)
			count_row(&changes, &news, 1);
	} while (has_old || has_new);
	end_changes(&changes);
	close_source(&olds);
	close_source(&news);
}

/*
 * Add what the table holds to counts that are zero.  Nobody else has it open.
 */
static void
count_table(TriggerData *trigdata, const PoserCountTrigger *trigger)
{
	Relation rel = trigdata->tg_relation;
	Changes changes;
	Source source = {.trigger = trigger, .slot = table_slot_create(rel, NULL)};
	TableScanDesc scan = table_beginscan(rel, SnapshotSelf, 0, NULL, SO_NONE);

	begin_changes(&changes, trigdata, &trigger->count);
	while (table_scan_getnextslot(scan, ForwardScanDirection, source.slot))
	{
		CHECK_FOR_INTERRUPTS();
		if (read_source_row(&source))
			count_row(&changes, &source, 1);
	}
	table_endscan(scan);
	end_changes(&changes);
	ExecDropSingleTupleTableSlot(source.slot);
}

/*
 * A statement has been counted.  Note the commands since it began: their snapshots
 * do not see its counts.  Mark the current command as used, so that the next
 * snapshot belongs to another one.
 */
static void
end_uncounted(TriggerData *trigdata)
{
	PoserStatement *entry = poser_statement_end(&uncounted, trigdata);

	if (entry == NULL)
		return;
	if (GetCurrentCommandId(false) > entry->cid)
	{
		CommandId last = Min(GetCurrentCommandId(true), MAX_COMMANDS - 1);
		MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);

		if (entry->cid < last)
			uncounted_commands = bms_add_range(uncounted_commands, entry->cid + 1, last);
		MemoryContextSwitchTo(old);
	}
	pfree(entry);
}

/*
 * poser_count_child(counts, deltas, key column, flag column) on the child,
 * for each statement of every kind, before and after.
 */
Datum
poser_count_child(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = poser_check_trigger(fcinfo);
	TriggerEvent event = trigdata->tg_event;
	const PoserCountTrigger *trigger;

	if (!TRIGGER_FIRED_FOR_STATEMENT(event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" must fire for each statement",
						trigdata->tg_trigger->tgname)));
	trigger = poser_count_trigger(trigdata, fcinfo->flinfo->fn_oid);

	if (TRIGGER_FIRED_BEFORE(event))
	{
		if (TRIGGER_FIRED_BY_INSERT(event))
			poser_restore_wait(trigdata->tg_relation);
		poser_statement_begin(&uncounted, trigdata);
	}
	else if (!TRIGGER_FIRED_BY_TRUNCATE(event))
		count_statement(trigdata, trigger);

	/*
	 * Before, so that the parent's trigger finds zeros; and after, for what
	 * other triggers have written in between, which may have gone or be there.
	 */
	if (TRIGGER_FIRED_BY_TRUNCATE(event))
	{
		CountWriter writer;

		open_writer(&writer, poser_count_locked(trigdata));
		zero_counts(&writer);
		close_writer(&writer);
		if (TRIGGER_FIRED_AFTER(event))
			count_table(trigdata, trigger);
	}

	if (TRIGGER_FIRED_AFTER(event))
		end_uncounted(trigdata);
	return PointerGetDatum(NULL);
}

/* Is there a parent with this key?  The slot is for its row. */
static bool
parent_exists(Relation rel, const PoserCountTrigger *trigger, Datum key, TupleTableSlot *slot)
{
	bool found;

	return poser_fetch_row(rel, 1, &trigger->key, &key, slot, &found) && found;
}

/*
 * Of parents that a statement has deleted, other triggers may have made some
 * again before this one came, and their counts are gone with the old ones'.
 */
static void
begin_again(TriggerData *trigdata, const PoserCountTrigger *trigger)
{
	TupleTableSlot *slot = table_slot_create(trigdata->tg_relation, NULL);
	CountWriter writer;
	bool opened = false;
	Source source;

	open_source(&source, trigdata->tg_oldtable, trigdata, trigger);
	while (next_source_row(&source))
	{
		if (!parent_exists(trigdata->tg_relation, trigger, source.key, slot))
			continue;
		if (!opened)
			open_writer(&writer, poser_count_locked(trigdata));
		opened = true;
		begin_count(&writer, source.key);
	}
	if (opened)
		close_writer(&writer);
	close_source(&source);
	ExecDropSingleTupleTableSlot(slot);
}

/*
 * The same after TRUNCATE.
 */
static void
begin_all_counts(CountWriter *writer, Relation rel, const PoserCountTrigger *trigger)
{
	Source source = {.trigger = trigger, .slot = table_slot_create(rel, NULL)};
	TableScanDesc scan = table_beginscan(rel, SnapshotSelf, 0, NULL, SO_NONE);

	while (table_scan_getnextslot(scan, ForwardScanDirection, source.slot))
	{
		CHECK_FOR_INTERRUPTS();
		if (read_source_row(&source))
			begin_count(writer, source.key);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(source.slot);
}

/*
 * The keys of parents that a statement has made or deleted.
 */
static void
count_parents(TriggerData *trigdata, const PoserCountTrigger *trigger)
{
	bool inserted = TRIGGER_FIRED_BY_INSERT(trigdata->tg_event);
	CountWriter writer;
	Source source;

	if (!open_source(&source, inserted ? trigdata->tg_newtable : trigdata->tg_oldtable,
					 trigdata, trigger))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" must have transition tables",
						trigdata->tg_trigger->tgname)));

	open_writer(&writer, poser_count_locked(trigdata));
	while (next_source_row(&source))
	{
		if (inserted)
			begin_count(&writer, source.key);
		else
			end_count(&writer, source.key);
	}
	close_writer(&writer);
	close_source(&source);
	if (!inserted)
		begin_again(trigdata, trigger);
}

/*
 * poser_count_parent(counts, deltas, key column) on the parent: after each
 * statement of every kind, before those that make or rename parents, and after
 * each row whose key is updated.
 */
Datum
poser_count_parent(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = poser_check_trigger(fcinfo);
	TriggerEvent event = trigdata->tg_event;
	const PoserCountTrigger *trigger = poser_count_trigger(trigdata, fcinfo->flinfo->fn_oid);
	CountWriter writer;

	if (TRIGGER_FIRED_FOR_ROW(event))
	{
		TupleTableSlot *slot = table_slot_create(trigdata->tg_relation, NULL);
		Datum key;
		bool isnull;

		if (!TRIGGER_FIRED_AFTER(event) || !TRIGGER_FIRED_BY_UPDATE(event))
			ereport(ERROR,
					(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
					 errmsg("trigger \"%s\" must fire for each statement or after each row of UPDATE",
							trigdata->tg_trigger->tgname)));
		open_writer(&writer, poser_count_locked(trigdata));
		key = slot_getattr(trigdata->tg_trigslot, trigger->key, &isnull);
		/* another row may have got the key */
		if (!isnull && !parent_exists(trigdata->tg_relation, trigger, key, slot))
			end_count(&writer, key);
		key = slot_getattr(trigdata->tg_newslot, trigger->key, &isnull);
		if (!isnull)
			begin_count(&writer, key);
		close_writer(&writer);
		ExecDropSingleTupleTableSlot(slot);
	}
	else if (TRIGGER_FIRED_BEFORE(event))
		poser_statement_begin(&uncounted, trigdata);
	else if (TRIGGER_FIRED_BY_UPDATE(event))
		end_uncounted(trigdata);
	else if (TRIGGER_FIRED_BY_TRUNCATE(event))
	{
		open_writer(&writer, poser_count_locked(trigdata));
		end_all_counts(&writer);
		close_writer(&writer);
		open_writer(&writer, poser_count_locked(trigdata));
		begin_all_counts(&writer, trigdata->tg_relation, trigger);
		close_writer(&writer);
	}
	else
	{
		count_parents(trigdata, trigger);
		if (TRIGGER_FIRED_BY_INSERT(event))
			end_uncounted(trigdata);
	}
	return PointerGetDatum(NULL);
}

/*
 * Reading
 */

/* Does the snapshot see all that those of our rows are made from that it sees? */
static bool
sees_settled(Snapshot snapshot)
{
	if (unfit_from != InvalidCommandId && snapshot->curcid > unfit_from)
		return false;
	for (int i = num_settled_under - 1; i >= 0; i--)
	{
		if (!is_newer(&settled_under[i], snapshot))
			break;
		if (snapshot->curcid > settled_under[i].cid)
			return false;
	}
	return true;
}

/* Does the snapshot see what a transaction has done? */
static bool
sees_transaction(TransactionId xid, Snapshot snapshot)
{
	return !TransactionIdIsNormal(xid) || TransactionIdIsCurrentTransactionId(xid) ||
		   !XidInMVCCSnapshot(xid, snapshot);
}

/*
 * Is the table, for this snapshot, what it is now?  TRUNCATE and commands that
 * rewrite a table do not keep what older snapshots would see of it, among them
 * those of this transaction.
 */
static bool
sees_relation(Oid relid, Snapshot snapshot)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	TransactionId xmin;

	if (!HeapTupleIsValid(tuple))
		return false;
	xmin = HeapTupleHeaderGetXmin(tuple->t_data);
	ReleaseSysCache(tuple);
	return !TransactionIdIsCurrentTransactionId(xmin) && sees_transaction(xmin, snapshot);
}

/* Have the counts been maintained for all that this snapshot sees? */
static bool
sees_maintained(Oid parent, Oid child, Oid nspid, Snapshot snapshot)
{
	const PoserCountState *state = poser_count_state(parent, child, nspid);

	if (!state->maintained)
		return false;
	for (int i = 0; i < state->num_xids; i++)
		if (!sees_transaction(state->xids[i], snapshot))
			return false;
	return sees_relation(child, snapshot) &&
		   sees_relation(state->counts, snapshot) &&
		   sees_relation(state->deltas, snapshot);
}

/* May the snapshot see rows of a statement, and not that they are counted? */
static bool
sees_uncounted(Snapshot snapshot)
{
	for (PoserStatement *entry = uncounted; entry != NULL; entry = entry->outer)
		if (snapshot->curcid > entry->cid)
			return true;
	return snapshot->curcid >= MAX_COMMANDS ||
		   bms_is_member(snapshot->curcid, uncounted_commands);
}

/*
 * May the current user see all rows of the table?  Whoever may not see all
 * parents must not learn of them by their counts.
 */
static bool
may_see_all(Oid relid)
{
	return pg_class_aclcheck(relid, GetUserId(), ACL_SELECT) == ACLCHECK_OK &&
		   check_enable_rls(relid, InvalidOid, true) != RLS_ENABLED;
}

/*
 * Whether the maintained counts of "child" are what the current user would
 * count under the active snapshot.  "nspid" is the schema of the functions
 * that maintain them.
 *
 * What was decided for a snapshot stays, so that the parts of one query agree
 * about it; and they may, for what a snapshot sees stays as well.
 */
bool
poser_count_serves(Oid parent, Oid child, Oid nspid)
{
	Snapshot snapshot;
	DecisionKey key;
	Decision *decision;
	bool serves;
	bool found;

	if (!ActiveSnapshotSet())
		return false;
	snapshot = GetActiveSnapshot();
	if (sees_uncounted(snapshot))
		return false;

	key.child = child;
	key.userid = GetUserId();
	key.xmin = snapshot->xmin;
	key.xmax = snapshot->xmax;
	key.running = snapshot->xcnt + snapshot->subxcnt;
	key.curcid = snapshot->curcid;
	if (decisions == NULL)
		decisions = decisions_create(TopMemoryContext, FEW_DECISIONS, NULL);
	decision = decisions_lookup(decisions, key);
	if (decision != NULL)
		return decision->serves;
	if (decisions->members >= MAX_DECISIONS)
		return false;

	serves = (may_see_all(parent) && may_see_all(child) &&
			  sees_settled(snapshot) &&
			  sees_maintained(parent, child, nspid, snapshot));

	decision = decisions_insert(decisions, key, &found);
	decision->serves = serves;
	return serves;
}

/*
 * Rebuilding
 */

/*
 * Append a query for all keys whose count is wrong, that lack a settled row or
 * have one for nothing, or that have deltas: key, number of children (total,
 * active), count (total, active), number of parents (0 or 1), of settled rows,
 * and of deltas.  To be run with search_path = pg_catalog.
 */
void
poser_count_append_comparison(StringInfo sql, Oid parent, const char *parent_key,
							  Oid child, const char *child_key, const char *flag,
							  Oid counts, Oid deltas)
{
	char *key = pstrdup(quote_identifier(get_attname(counts, COUNT_KEY, false)));
	char *total = pstrdup(quote_identifier(get_attname(counts, COUNT_TOTAL, false)));
	char *active = pstrdup(quote_identifier(get_attname(counts, COUNT_ACTIVE, false)));

	parent_key = pstrdup(quote_identifier(parent_key));
	child_key = pstrdup(quote_identifier(child_key));
	flag = pstrdup(quote_identifier(flag));

	appendStringInfo(sql,
					 "SELECT key,\n"
					 "       sum(live_total)::bigint AS live_total, sum(live_active)::bigint AS live_active,\n"
					 "       sum(kept_total)::bigint AS kept_total, sum(kept_active)::bigint AS kept_active,\n"
					 "       sum(parents) AS parents, sum(settled) AS settled, sum(deltas) AS deltas\n"
					 "  FROM (SELECT %s AS key, 0 AS live_total, 0 AS live_active,\n"
					 "               0 AS kept_total, 0 AS kept_active,\n"
					 "               1 AS parents, 0 AS settled, 0 AS deltas\n"
					 "          FROM %s\n",
					 parent_key, poser_relation_name(parent));
	appendStringInfo(sql,
					 "        UNION ALL\n"
					 "        SELECT %s, count(*), count(*) FILTER (WHERE %s), 0, 0, 0, 0, 0\n"
					 "          FROM %s WHERE %s IS NOT NULL GROUP BY %s\n",
					 child_key, flag, poser_relation_name(child), child_key, child_key);
	appendStringInfo(sql,
					 "        UNION ALL\n"
					 "        SELECT %s, 0, 0, %s, %s, 0, 1, 0 FROM %s\n",
					 key, total, active, poser_relation_name(counts));
	appendStringInfo(sql,
					 "        UNION ALL\n"
					 "        SELECT %s, 0, 0, %s, %s, 0, 0, 1 FROM %s) AS counted\n",
					 key, total, active, poser_relation_name(deltas));
	appendStringInfoString(sql,
						   " GROUP BY key\n"
						   "HAVING sum(live_total) <> sum(kept_total)\n"
						   "    OR sum(live_active) <> sum(kept_active)\n"
						   "    OR sum(parents) > sum(settled)\n"
						   "    OR (sum(parents) < sum(settled) AND sum(live_total) = 0)\n"
						   "    OR sum(deltas) > 0");
}

static void
check_column_type(Oid relid, const char *column, Oid type)
{
	AttrNumber attno = get_attnum(relid, column);

	if (attno == InvalidAttrNumber)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of relation \"%s\" does not exist",
						column, get_rel_name(relid))));
	if (get_atttype(relid, attno) != type)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" of relation \"%s\" must be of type %s",
						column, get_rel_name(relid), format_type_be(type))));
}

/*
 * Make all counts of one pair of tables right, settle all deltas that nobody
 * holds, and return how many keys had a wrong count.  The current user must
 * have the rights of the owner of all the tables.
 *
 * What is wrong with a count under one snapshot is wrong with it under all
 * later ones, whatever writers do, until it is mended.  So this is a writer
 * like any other, whose changes are the differences; only one at a time may
 * find them, which the lock on the settled counts sees to.
 */
int64
poser_count_rebuild(Oid parent, const char *parent_key, Oid child, const char *child_key,
					const char *flag, Oid counts, Oid deltas)
{
	Oid relations[] = {parent, child, counts, deltas};
	PoserCount count;
	CountWriter writer;
	StringInfoData sql;
	Snapshot latest;
	SPIPlanPtr plan;
	Portal portal;
	Oid save_userid;
	int save_sec_context;
	int64 wrong = 0;
	CommandId first_cid;

	for (int i = 0; i < lengthof(relations); i++)
		poser_check_owner(relations[i]);

	/* in the order in which writers lock, and before the snapshot, so that it sees all rows of a rewritten table */
	LockRelationOid(child, AccessShareLock);
	LockRelationOid(parent, AccessShareLock);
	LockRelationOid(counts, ShareUpdateExclusiveLock);
	LockRelationOid(deltas, AccessShareLock);
	for (int i = 0; i < lengthof(relations); i++)
		if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relations[i])))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_TABLE),
					 errmsg("relation with OID %u does not exist", relations[i])));
	poser_count_describe(&count, counts, deltas);
	check_column_type(parent, parent_key, count.keytype);
	check_column_type(child, child_key, count.keytype);
	check_column_type(child, flag, BOOLOID);

	initStringInfo(&sql);
	poser_count_append_comparison(&sql, parent, parent_key, child, child_key, flag, counts, deltas);

	poser_become_owner(child, &save_userid, &save_sec_context);

	/*
	 * The latest snapshot sees what an earlier rebuild has mended.
	 */
	latest = RegisterSnapshot(GetLatestSnapshot());
	PushActiveSnapshot(latest);

	SPI_connect();
	plan = SPI_prepare(sql.data, 0, NULL);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	portal = SPI_cursor_open(NULL, plan, NULL, NULL, true);

	open_writer(&writer, &count);
	first_cid = GetCurrentCommandId(false);
	for (;;)
	{
		SPI_cursor_fetch(portal, true, REBUILD_BATCH);
		if (SPI_processed == 0)
			break;
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			HeapTuple tuple = SPI_tuptable->vals[i];
			int64 n[8];
			Datum key;
			bool isnull;
			uint32 hash;
			Tally difference;

			CHECK_FOR_INTERRUPTS();
			key = SPI_getbinval(tuple, SPI_tuptable->tupdesc, 1, &isnull);
			if (isnull)
				continue;
			hash = hash_key(&count, key);
			for (int j = 1; j < lengthof(n); j++)
				n[j] = DatumGetInt64(SPI_getbinval(tuple, SPI_tuptable->tupdesc, j + 1, &isnull));

			difference = (Tally) {n[1] - n[3], n[2] - n[4]};
			if (!is_zero(difference))
				wrong++;

			if (n[6] == 0 && n[5] > 0 && make_settled_row(&writer, key, hash, difference))
			{
				difference = (Tally) {0, 0};
				CommandCounterIncrement();
			}

			/* without a parent, make no settled row: it would be in the way of a session that inserts the parent */
			if (n[6] == 0 && n[5] == 0)
				defer(&writer, key, hash, add(take_deltas(&writer, key), difference));
			else if (n[7] > 0 || !is_zero(difference))
				change_count(&writer, key, hash, difference);
			if (n[6] > 0 && n[5] == 0 && n[1] == 0)
			{
				CommandCounterIncrement();
				end_count(&writer, key);
			}
		}
		SPI_freetuptable(SPI_tuptable);
	}
	close_writer(&writer);

	SPI_cursor_close(portal);
	SPI_finish();
	PopActiveSnapshot();
	UnregisterSnapshot(latest);
	SetUserIdAndSecContext(save_userid, save_sec_context);

	/* older snapshots, such as the transaction's, do not see what was wrong */
	if (wrong > 0 && (unfit_from == InvalidCommandId || unfit_from > first_cid))
		unfit_from = first_cid;
	return wrong;
}

/* The tables, parent, child, counts and deltas. */
static const char *const recounted_tables[] = {
	"poser_widget", "poser_component", "poser_component_count", "poser_component_count_delta"};

/*
 * poser_recount() returns bigint
 */
Datum
poser_recount(PG_FUNCTION_ARGS)
{
	Oid nspid = get_func_namespace(fcinfo->flinfo->fn_oid);
	Oid relids[lengthof(recounted_tables)];
	Oid save_userid;
	int save_sec_context;

	PreventCommandIfReadOnly("poser_recount()");
	for (int i = 0; i < lengthof(recounted_tables); i++)
	{
		relids[i] = get_relname_relid(recounted_tables[i], nspid);
		if (!OidIsValid(relids[i]))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_TABLE),
					 errmsg("relation \"%s\" does not exist in schema \"%s\"",
							recounted_tables[i], get_namespace_name(nspid))));
		poser_check_owner(relids[i]);
	}
	poser_become_owner(relids[1], &save_userid, &save_sec_context);
	for (int i = 0; i < lengthof(recounted_tables); i++)
		poser_check_readable(relids[1], relids[i]);
	SetUserIdAndSecContext(save_userid, save_sec_context);
	PG_RETURN_INT64(poser_count_rebuild(relids[0], "uuid", relids[1], "widget_uuid", "active",
										relids[2], relids[3]));
}

/*
 * Ends of transactions
 */

static void
forget_decisions(void)
{
	if (decisions == NULL || decisions->members == 0)
		return;
	if (decisions->size > 16 * FEW_DECISIONS)
	{
		decisions_destroy(decisions);
		decisions = NULL;
	}
	else
		decisions_reset(decisions);
}

static void
forget_transaction(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			poser_statement_check(uncounted);
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_PARALLEL_COMMIT:
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PARALLEL_ABORT:
		case XACT_EVENT_PREPARE:
			/* their memory goes with the transaction */
			uncounted = NULL;
			settled_under = NULL;
			num_settled_under = 0;
			uncounted_commands = NULL;
			unfit_from = InvalidCommandId;
			forget_decisions();
			break;
		default:
			break;
	}
}

static void
forget_subtransaction(SubXactEvent event, SubTransactionId mySubid,
					  SubTransactionId parentSubid, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		poser_statement_abort(&uncounted, mySubid);
}

void
poser_count_init(void)
{
	RegisterXactCallback(forget_transaction, NULL);
	RegisterSubXactCallback(forget_subtransaction, NULL);
}
