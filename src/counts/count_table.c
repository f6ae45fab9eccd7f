/*
 * count_table.c
 *	  The rows of a count.
 *
 * A count has settled rows and deltas.  They are in two tables with the same columns, or in
 * one table with the column "delta", see counts_internal.h.  Each of the two kinds is opened
 * as a CountTable.  The functions here find, insert, update and delete its rows.  None of
 * them waits for another transaction.
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
#include "access/htup_details.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_type_d.h"
#include "common/pg_prng.h"
#include "executor/executor.h"
#include "storage/bufmgr.h"
#include "storage/procarray.h"
#include "utils/hsearch.h"
#include "utils/snapmgr.h"
#include "utils/typcache.h"

#include "counts/counts_internal.h"

/* How many rows a session remembers before it forgets all of them and starts anew. */
#define MAX_KNOWN_ROWS 16384

/*
 * Where this session has last put a row, by the table, the kind and the hash of the row's key.
 *
 * An entry is only a hint.  Whatever is found there is used only if it is the newest
 * version of a row and has the key.  So an entry that is wrong costs time only: two
 * keys may have the same hash, another session may have replaced the row, or the space
 * may have been used again.
 *
 * "root" is where the row's entries in the indexes point to.  A HOT update leaves them as they
 * are.  So the newest version is found from there, too, after other sessions have replaced the
 * row, or after a rollback.
 */
typedef struct KnownRowKey
{
	Oid relid;
	uint32 hash; /* inverted for deltas, which can be in the same table as settled rows */
} KnownRowKey;

typedef struct KnownRow
{
	KnownRowKey key;
	ItemPointerData newest;
	ItemPointerData root; /* invalid if it is not known */
	TransactionId top;	  /* the transaction that has put the row there, or a subtransaction of it */
} KnownRow;

static HTAB *known_rows = NULL;

/* Open a table of a count for writing.  The caller has locked it, see poser_count_open(). */
void
poser_count_open_relation(CountRelation *relation, Oid relid)
{
	poser_direct_open(&relation->direct, relid, NoLock);
	relation->nblocks = RelationGetNumberOfBlocks(relation->direct.rel);
	relation->counts_index = NULL;
	relation->deltas_index = NULL;
	relation->settled_index = NULL;
}

/* Close a table of a count, and its indexes.  All locks are kept until the transaction ends. */
void
poser_count_close_relation(CountRelation *relation)
{
	Relation indexes[] = {relation->counts_index, relation->deltas_index, relation->settled_index};

	for (int i = 0; i < lengthof(indexes); i++)
		if (indexes[i] != NULL)
			index_close(indexes[i], NoLock);
	poser_direct_close(&relation->direct);
}

/* Open the settled rows or the deltas of a writer with this snapshot.  They are in "relation". */
void
poser_count_open_table(CountTable *table, CountRelation *relation, const CountWriter *writer,
					   bool is_deltas, Snapshot snapshot)
{
	table->relation = relation;
	table->rel = relation->direct.rel;
	table->count = writer->count;
	table->is_deltas = is_deltas;
	table->snapshot = snapshot;
	table->context = writer->context;
	table->scan = NULL;
	ItemPointerSetInvalid(&table->root);
	table->found = NULL;
	table->formed = NULL;
}

/* Close the settled rows or the deltas. */
void
poser_count_close_table(CountTable *table)
{
	if (table->scan != NULL)
	{
		index_endscan(table->scan);
		pfree(table->scankeys);
	}
	if (table->found != NULL)
		ExecDropSingleTupleTableSlot(table->found);
	if (table->formed != NULL)
		ExecDropSingleTupleTableSlot(table->formed);
}

/*
 * The row that was found
 */

/* Returns the slot for a row to be found.  It is made here, because often no delta is searched. */
TupleTableSlot *
poser_count_found_slot(CountTable *table)
{
	if (table->found == NULL)
		table->found = table_slot_create(table->rel, NULL);
	return table->found;
}

/* Returns the keys of the row that was found.  They are valid until the next row is found. */
const Datum *
poser_count_found_keys(CountTable *table)
{
	slot_getsomeattrs(table->found, table->count->nkeys);
	return table->found->tts_values;
}

/* Returns "delta" of the row that was found.  Null is the mark of a delta, too; only an owner of the table can write it. */
static int64
found_delta(CountTable *table)
{
	bool isnull;
	Datum delta = slot_getattr(table->found, table->count->delta, &isnull);

	return isnull ? -1 : DatumGetInt64(delta);
}

/* Is the row that was found a delta?  Needed where the table has settled rows, too. */
bool
poser_count_found_is_delta(CountTable *table)
{
	return table->count->delta == 0 ? table->is_deltas : found_delta(table) != 0;
}

/* Add the amounts of the row that was found.  See poser_amounts_add() for the memory. */
void
poser_count_add_found(CountTable *table, PoserAmount *amounts)
{
	const PoserCount *count = table->count;
	AttrNumber first = count->amount - 1;

	slot_getsomeattrs(table->found, first + count->namounts);
	for (int i = 0; i < count->namounts; i++)
		poser_amount_add_datum(count, amounts, i, table->found->tts_values[first + i], table->found->tts_isnull[first + i]);
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
		   table_tuple_satisfies_snapshot(table->rel, table->found, table->snapshot);
}

/* Is the row that was found one of this kind, and with this key? */
static bool
found_has_keys(CountTable *table, const Datum *keys)
{
	const Datum *found = poser_count_found_keys(table);

	for (int i = 0; i < table->count->nkeys; i++)
		if (table->found->tts_isnull[i])
			return false;
	return poser_count_found_is_delta(table) == table->is_deltas && equal_count_keys(table->count, found, keys);
}

/*
 * Known rows
 */

/* Returns the entry for a key with this hash, or NULL. */
static KnownRow *
known_row(CountTable *table, uint32 hash)
{
	KnownRowKey key = {RelationGetRelid(table->rel), table->is_deltas ? ~hash : hash};

	return known_rows == NULL ? NULL : hash_search(known_rows, &key, HASH_FIND, NULL);
}

/* Does the session remember a row for a key with this hash? */
bool
poser_count_knows_row(CountTable *table, uint32 hash)
{
	return known_row(table, hash) != NULL;
}

/* Remember that the row of a key with this hash is now at "tid", and its entries in the indexes point to "root". */
static void
remember_row(CountTable *table, uint32 hash, ItemPointer tid, ItemPointer root)
{
	KnownRowKey key = {RelationGetRelid(table->rel), table->is_deltas ? ~hash : hash};
	KnownRow *row;

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

	row = hash_search(known_rows, &key, HASH_ENTER, NULL);
	row->top = GetTopTransactionId();
	row->newest = *tid;
	row->root = *root;

	/* The new row can have made the table larger. */
	if (ItemPointerGetBlockNumber(tid) >= table->relation->nblocks)
		table->relation->nblocks = ItemPointerGetBlockNumber(tid) + 1;
}

/* Can a row be at this place? */
static bool
is_place(CountTable *table, ItemPointer tid)
{
	return ItemPointerIsValid(tid) && ItemPointerGetBlockNumber(tid) < table->relation->nblocks;
}

/* Find the newest version of the key's row, if it is where this session has put it. */
static bool
fetch_known(CountTable *table, const Datum *keys, KnownRow *row)
{
	table->root = row->root;
	return is_place(table, &row->newest) &&
		   table_tuple_fetch_row_version(table->rel, &row->newest, SnapshotSelf, poser_count_found_slot(table)) &&
		   found_has_keys(table, keys);
}

/* Find the newest version of the key's row, if index entries with the remembered place lead to it. */
static bool
fetch_from_root(CountTable *table, const Datum *keys, KnownRow *row)
{
	ItemPointerData tid = row->root;
	IndexFetchTableData *fetch;
	bool again = false;
	bool found;

	table->root = row->root;
	if (!is_place(table, &tid))
		return false;
	fetch = table_index_fetch_begin(table->rel, SO_NONE);
	found = table_index_fetch_tuple(fetch, &tid, SnapshotSelf, poser_count_found_slot(table), &again, NULL);
	table_index_fetch_end(fetch);
	return found && found_has_keys(table, keys);
}

/* Has this transaction put the row there, or a subtransaction that may have been rolled back? */
static bool
is_of_this_transaction(const KnownRow *row)
{
	return row->top == GetTopTransactionIdIfAny();
}

/*
 * Find the key's row if this transaction has written it.  Returns false if it has not, or
 * if the session does not remember the row.
 */
bool
poser_count_find_own_row(CountTable *table, const Datum *keys, uint32 hash)
{
	KnownRow *row = known_row(table, hash);

	return row != NULL && is_of_this_transaction(row) &&
		   (fetch_known(table, keys, row) || fetch_from_root(table, keys, row)) && poser_count_found_is_own(table);
}

/*
 * Find the key's row by what the session remembers.  Returns false if the row is not found
 * in this way.  It may exist nevertheless.
 *
 * Usually the row is where this session has put it.  Otherwise another session has replaced it,
 * if it is a settled row.  A delta of an earlier transaction was probably deleted.
 */
bool
poser_count_find_known_row(CountTable *table, const Datum *keys, uint32 hash)
{
	KnownRow *row = known_row(table, hash);

	if (row == NULL)
		return false;
	return fetch_known(table, keys, row) ||
		   ((!table->is_deltas || is_of_this_transaction(row)) && fetch_from_root(table, keys, row));
}

/*
 * Look-ups by the index
 */

/* Returns an index of the count that has "place" in the relation, where it stays open. */
static Relation
open_index(Relation *place, Oid indexid)
{
	if (*place == NULL)
		*place = index_open(indexid, RowExclusiveLock);
	return *place;
}

/* Returns the index by which keys are looked up. */
static Relation
open_key_index(CountTable *table)
{
	if (table->is_deltas)
		return open_index(&table->relation->deltas_index, table->count->deltas_index);
	return open_index(&table->relation->counts_index, table->count->counts_index);
}

/* Make the scan, and its scan keys: all keys and, for settled rows in one table with the deltas, delta = 0. */
static void
make_scan(CountTable *table, Snapshot snapshot)
{
	const PoserCount *count = table->count;

	table->nscankeys = count->nkeys;
	table->scankeys = palloc((count->nkeys + 1) * sizeof(ScanKeyData));
	for (int i = 0; i < count->nkeys; i++)
		ScanKeyEntryInitializeWithInfo(&table->scankeys[i], 0, i + 1, BTEqualStrategyNumber, InvalidOid,
									   count->keys[i].collation, count->keys[i].equal, (Datum) 0);
	if (count->delta != 0 && !table->is_deltas)
		ScanKeyEntryInitializeWithInfo(&table->scankeys[table->nscankeys++], 0, count->delta, BTEqualStrategyNumber,
									   InvalidOid, InvalidOid,
									   &lookup_type_cache(INT8OID, TYPECACHE_EQ_OPR_FINFO)->eq_opr_finfo,
									   Int64GetDatum(0));
	table->scan = index_beginscan(table->rel, open_key_index(table), snapshot, NULL, table->nscankeys, 0, SO_NONE);
}

/*
 * Begin to look a key up in the table's index.  poser_count_next_row() gives the rows
 * that "snapshot" sees: SnapshotSelf or SnapshotAny.
 */
void
poser_count_begin_scan(CountTable *table, const Datum *keys, Snapshot snapshot)
{
	/* One scan serves all keys, so that the index is opened once. */
	if (table->scan == NULL)
		make_scan(table, snapshot);
	table->scan->xs_snapshot = snapshot;
	for (int i = 0; i < table->count->nkeys; i++)
		table->scankeys[i].sk_argument = keys[i];
	index_rescan(table->scan, table->scankeys, table->nscankeys, NULL, 0);
}

/* Find the next row of the key; returns false if there is none. */
bool
poser_count_next_row(CountTable *table)
{
	IndexScanDesc scan = table->scan;

	/* as index_getnext_slot() does, but the place to which the index points is kept */
	for (;;)
	{
		if (!scan->xs_heap_continue)
		{
			if (index_getnext_tid(scan, ForwardScanDirection) == NULL)
				return false;
			table->root = scan->xs_heaptid;
		}
		if (index_fetch_heap(scan, poser_count_found_slot(table)))
			return true;
	}
}

/* Find the newest version of a key's row, in a table that has at most one for each key. */
bool
poser_count_find_row(CountTable *table, const Datum *keys, uint32 hash)
{
	if (poser_count_find_known_row(table, keys, hash))
		return true;
	poser_count_begin_scan(table, keys, SnapshotSelf);
	return poser_count_next_row(table);
}

/*
 * Writing
 */

/*
 * Is it certain that no snapshot sees a delta?  A committed one has left a page in its own
 * table, or else in the index, which has a first page for itself.
 */
bool
poser_count_has_no_delta(CountTable *deltas)
{
	if (deltas->count->delta == 0)
		return deltas->relation->nblocks == 0;
	return RelationGetNumberOfBlocks(open_key_index(deltas)) <= 1;
}

/* Put a new row into table->formed.  "delta" is ignored if the table does not have this column. */
static void
form_row(CountTable *table, const Datum *keys, int64 delta, const PoserAmount *amounts)
{
	const PoserCount *count = table->count;
	AttrNumber end = count->amount - 1 + count->namounts;
	MemoryContext old;
	TupleTableSlot *slot;

	if (table->formed == NULL)
		table->formed = MakeSingleTupleTableSlot(RelationGetDescr(table->rel), &TTSOpsVirtual);
	slot = table->formed;
	ExecClearTuple(slot);
	for (int i = 0; i < count->nkeys; i++)
		slot->tts_values[i] = keys[i];
	if (count->delta != 0)
		slot->tts_values[count->delta - 1] = Int64GetDatum(delta);
	old = MemoryContextSwitchTo(table->context);
	for (int i = 0; i < count->namounts; i++)
		slot->tts_values[count->amount - 1 + i] = poser_amount_get_datum(count, amounts, i);
	MemoryContextSwitchTo(old);
	/* Any further columns are dropped ones. */
	for (int i = 0; i < slot->tts_tupleDescriptor->natts; i++)
		slot->tts_isnull[i] = (i >= end);
	ExecStoreVirtualTuple(slot);
}

/*
 * Does the table have no other indexes than those of the count?  An owner can have added some.
 * The lock on the table keeps the description of the count's own indexes true; see
 * count_catalog.c.
 */
static bool
has_own_indexes_only(CountTable *table)
{
	const PoserCount *count = table->count;
	List *indexes = RelationGetIndexList(table->rel);
	ListCell *lc;
	bool result = true;

	foreach(lc, indexes)
	{
		Oid index = lfirst_oid(lc);

		result = result && (index == count->counts_index || index == count->deltas_index || index == count->settled_index);
	}
	list_free(indexes);
	return result;
}

/*
 * Make the entry of table->formed in one of the count's own indexes.  Its columns are the first
 * ones of the table.  Returns false if the index is unique, and there can be another row with
 * the key.  This is not checked for a new version of a row, which has the key of the row that it
 * replaces.
 */
static bool
insert_own_entry(CountTable *table, Relation index, bool is_update)
{
	TupleTableSlot *row = table->formed;
	bool is_checked = !is_update && index->rd_index->indisunique;
	IndexInfo info = {.type = T_IndexInfo}; /* nothing in it matters to a B-tree without expressions */
	bool is_unique = index_insert(index, row->tts_values, row->tts_isnull, &row->tts_tid, table->rel,
								  is_checked ? UNIQUE_CHECK_PARTIAL : UNIQUE_CHECK_NO, is_update, &info);

	return is_unique || !is_checked;
}

/*
 * Make the index entries of table->formed, a new row or, if "is_update" is true, a new version
 * of one.  Returns false if there can be another row with the key.  Never waits.
 *
 * Usually there are no other indexes than the count's own ones.  Then the entries are made without the
 * executor: its state would cost more than the entries of a row.  And a new version of a row
 * needs no check that its key is unique, which would visit all older versions that this
 * transaction has written.
 */
static bool
insert_index_entries(CountTable *table, bool is_update, uint32 flags)
{
	CountRelation *relation = table->relation;
	const PoserCount *count = table->count;
	bool result = true;

	if (!has_own_indexes_only(table))
		return poser_direct_insert_index_entries(&relation->direct, table->formed, flags);
	if (count->delta != 0 || !table->is_deltas)
		result = insert_own_entry(table, open_index(&relation->counts_index, count->counts_index), is_update);
	if (table->is_deltas)
		result = insert_own_entry(table, open_index(&relation->deltas_index, count->deltas_index), is_update) && result;
	else if (OidIsValid(count->settled_index))
		result = insert_own_entry(table, open_index(&relation->settled_index, count->settled_index), is_update) && result;
	return result;
}

/* Delete the row that this command has inserted last. */
static void
delete_inserted(CountTable *table)
{
	TM_FailureData tmfd;

	/* Only a later command can delete the row. */
	CommandCounterIncrement();
	if (table_tuple_delete(table->rel, &table->formed->tts_tid, GetCurrentCommandId(true), 0,
						   SnapshotSelf, InvalidSnapshot, false, &tmfd) != TM_Ok)
		elog(ERROR, "could not delete a row of our own in relation \"%s\"",
			 RelationGetRelationName(table->rel));
}

/*
 * Insert a row, and return true.  There can be a settled row with the key already, or another
 * transaction can be inserting or deleting one.  Then the new row is deleted again, and the
 * result is false.  A delta can always be inserted.  Never waits.
 */
bool
poser_count_insert_row(CountTable *table, const Datum *keys, uint32 hash, const PoserAmount *amounts)
{
	bool numbered = table->is_deltas && table->count->delta != 0;

	for (;;)
	{
		/* a random number, so that deltas of a key do not meet; the greatest is not used, see view_query.c */
		int64 delta = numbered ? (int64) pg_prng_uint64_range(&pg_global_prng_state, 1, PG_INT64_MAX - 1) : 0;

		CHECK_FOR_INTERRUPTS();
		form_row(table, keys, delta, amounts);
		table_tuple_insert(table->rel, table->formed, GetCurrentCommandId(true), 0, NULL);
		if (insert_index_entries(table, false, EIIT_NO_DUPE_ERROR))
		{
			remember_row(table, hash, &table->formed->tts_tid, &table->formed->tts_tid);
			return true;
		}
		delete_inserted(table);
		if (!numbered)
			return false;
	}
}

/*
 * Lock the row that was found, without waiting.  Returns false if another transaction
 * has replaced or locked it.
 */
static bool
lock_row(CountTable *table, LockTupleMode mode)
{
	TM_FailureData tmfd;

	return table_tuple_lock(table->rel, &table->found->tts_tid, table->snapshot, table->found,
							GetCurrentCommandId(true), mode, LockWaitSkip, 0, &tmfd) == TM_Ok;
}

/*
 * Does another transaction that has not ended hold the row that was found?  This is only a hint,
 * because to try the lock and fail takes much longer: another transaction can replace or lock
 * the row at any time.  FOR KEY SHARE does not hold a row, as its key stays.  If several
 * transactions have locked the row, xmax is not the ID of a transaction, and the lock is tried.
 */
static bool
is_held(CountTable *table)
{
	bool is_copy;
	HeapTuple tuple = ExecFetchSlotHeapTuple(table->found, false, &is_copy);
	uint16 infomask = tuple->t_data->t_infomask;
	TransactionId xid = HeapTupleHeaderGetRawXmax(tuple->t_data);

	if (is_copy)
		heap_freetuple(tuple);
	if ((infomask & (HEAP_XMAX_INVALID | HEAP_XMAX_IS_MULTI)) != 0 || HEAP_XMAX_IS_KEYSHR_LOCKED(infomask))
		return false;
	return TransactionIdIsNormal(xid) && !TransactionIdIsCurrentTransactionId(xid) && TransactionIdIsInProgress(xid);
}

/*
 * Make sure that poser_count_replace_row() can replace the row that was found.  Returns false,
 * and changes nothing, if another transaction has replaced or locked the row.  Never waits.
 *
 * table_tuple_update() has no option not to wait.  So the row is locked first, with the lock of
 * an update that does not change the key.  A row of our own needs no lock, because no other
 * transaction sees it.  It must not get one either: newer versions of a row inherit its locks,
 * and the locks of many subtransactions would accumulate.
 */
bool
poser_count_lock_row(CountTable *table)
{
	return poser_count_found_is_own(table) || (!is_held(table) && lock_row(table, LockTupleNoKeyExclusive));
}

/*
 * Replace the row that was found, after poser_count_lock_row(), by one with these amounts.
 *
 * After this call the row in table->found is an old version.
 */
void
poser_count_replace_row(CountTable *table, uint32 hash, const PoserAmount *amounts)
{
	TM_FailureData tmfd;
	LockTupleMode lockmode;
	TU_UpdateIndexes update_indexes;
	bool is_hot;

	form_row(table, poser_count_found_keys(table), table->count->delta != 0 ? found_delta(table) : 0, amounts);
	if (table_tuple_update(table->rel, &table->found->tts_tid, table->formed,
						   GetCurrentCommandId(true), 0, table->snapshot, InvalidSnapshot,
						   true, &tmfd, &lockmode, &update_indexes) != TM_Ok)
		elog(ERROR, "could not replace a locked row in relation \"%s\"", RelationGetRelationName(table->rel));
	if (!poser_count_found_is_own(table))
		poser_count_note_replaced(table->snapshot);

	/* A HOT update needs no index entry: those of the old version lead to the new one. */
	is_hot = update_indexes == TU_None || UPDATES_ONLY_SUMMARIZING(update_indexes);
	if (update_indexes != TU_None)
		(void) insert_index_entries(table, true, EIIT_IS_UPDATE | (is_hot ? EIIT_ONLY_SUMMARIZING : 0));
	remember_row(table, hash, &table->formed->tts_tid, is_hot ? &table->root : &table->formed->tts_tid);
}

/*
 * Replace the row that was found by one with these amounts.  Returns false, and changes
 * nothing, if another transaction has replaced or locked the row.  Never waits.
 */
bool
poser_count_update_row(CountTable *table, uint32 hash, const PoserAmount *amounts)
{
	if (!poser_count_lock_row(table))
		return false;
	poser_count_replace_row(table, hash, amounts);
	return true;
}

/* Try to delete the row that was found, without waiting unless "wait" is true. */
static TM_Result
try_delete(CountTable *table, bool wait)
{
	TM_FailureData tmfd;

	return table_tuple_delete(table->rel, &table->found->tts_tid, GetCurrentCommandId(true), 0,
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
	 * A lock of this transaction itself can be the reason for TM_BeingModified; newer versions
	 * of a row inherit its locks.  lock_row() takes the lock that a delete needs, or fails.
	 * With this lock the delete has nothing to wait for.
	 */
	if (result == TM_BeingModified && (own || !is_held(table)) && lock_row(table, LockTupleExclusive))
		result = try_delete(table, true);
	if (result != TM_Ok)
		return false;
	if (!own)
		poser_count_note_replaced(table->snapshot);
	return true;
}
