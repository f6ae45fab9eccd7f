/*
 * direct.c
 *	  Reading and writing rows without a query.
 *
 * Triggers write the bookkeeping tables through the table access method, and make the
 * index entries themselves.  No query is planned, and no trigger fires.  Privileges and
 * row-level security of these tables do not apply, so that a user can write a widget
 * without a privilege on the tables behind it.
 *
 * Only Poser's own bookkeeping tables and tables of versions are written in this way.
 * An index with expressions or a predicate runs code of the table's owner.  So its
 * entries are made with the owner's rights.  A predicate that only calls functions of the
 * server is not such code.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/tupconvert.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/partition.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/tuplesort.h"
#include "utils/typcache.h"

#include "base/base.h"

/*
 * Open a table for writing.  Its lock is kept until the transaction ends, as for any
 * writer.  "lockmode" is RowExclusiveLock, or NoLock if the caller holds that lock.
 */
void
poser_direct_open(PoserDirectTable *table, Oid relid, LOCKMODE lockmode)
{
	table->rel = table_open(relid, lockmode);
	table->plain = NULL;
	table->nplain = 0;
	table->indexes = NULL;
	table->estate = NULL;
	table->runs_code = false;
}

/* For check_functions_in_node(): is this a function that initdb did not make? */
static bool
is_made_function(Oid function, void *context)
{
	return function >= FirstNormalObjectId;
}

/*
 * Does an expression of an index run code that initdb did not make?  A domain can have a
 * constraint with such code.  A function of the server can call such code for values of a
 * type that a user has made.
 */
static bool
runs_made_code(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, CoerceToDomain) || check_functions_in_node(node, is_made_function, NULL) ||
		((IsA(node, Var) || IsA(node, Const)) && !poser_is_system_type(exprType(node))))
		return true;
	return expression_tree_walker(node, runs_made_code, context);
}

/* Does the index have expressions or a predicate?  They are not looked at, because that would run functions in them. */
static bool
has_expressions(Relation index)
{
	return !heap_attisnull(index->rd_indextuple, Anum_pg_index_indexprs, NULL) ||
		   !heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL);
}

/*
 * Does the index have expressions, or a predicate that runs code of the table's owner?  Neither
 * is evaluated or simplified here, because that would run functions.
 */
static bool
has_code(Relation index)
{
	Datum predicate;
	bool isnull;
	char *string;
	Node *node;
	bool result;

	if (!heap_attisnull(index->rd_indextuple, Anum_pg_index_indexprs, NULL))
		return true;
	predicate = SysCacheGetAttr(INDEXRELID, index->rd_indextuple, Anum_pg_index_indpred, &isnull);
	if (isnull)
		return false;
	string = TextDatumGetCString(predicate);
	node = stringToNode(string);
	result = runs_made_code(node, NULL);
	pfree(string);
	return result;
}

/*
 * Expressions and predicates of indexes are the code of the table's owner.  They run with the
 * rights of the owner, and leave no setting behind.  Ends with poser_become_caller().
 */
static void
begin_code(PoserDirectTable *table, PoserCaller *caller)
{
	poser_become_role(table->rel->rd_rel->relowner, SECURITY_RESTRICTED_OPERATION | SECURITY_NOFORCE_RLS, caller);
}

/* Close the plain indexes.  Their locks are released, as the executor does. */
static void
close_plain(PoserDirectTable *table)
{
	for (int i = 0; i < table->nplain; i++)
	{
		index_close(table->plain[i].rel, RowExclusiveLock);
		if (table->plain[i].info != NULL)
			pfree(table->plain[i].info);
	}
	pfree(table->plain);
	table->plain = NULL;
	table->nplain = 0;
}

/* Close a table, and free what was needed for its indexes.  The lock stays. */
void
poser_direct_close(PoserDirectTable *table)
{
	if (table->plain != NULL)
		close_plain(table);
	if (table->indexes != NULL)
	{
		ExecCloseIndices(table->indexes);
		pfree(table->indexes);
		FreeExecutorState(table->estate);
	}
	table_close(table->rel, NoLock);
}

/* Is an index of columns over all rows a B-tree that checks its keys at once? */
static bool
is_plain(Relation index, const IndexInfo *info)
{
	return index->rd_rel->relam == BTREE_AM_OID && info->ii_ReadyForInserts &&
		   index->rd_index->indimmediate && info->ii_ExclusionOps == NULL;
}

/*
 * Open the table's indexes for poser_direct_index_new_row(), unless they are open.  They
 * live in the current memory context.
 *
 * Usually all indexes are plain.  Their entries are made without an executor state, which
 * would cost more than to form the entries of a single row.  A user can add an index
 * that is not plain: then the executor makes the entries of all indexes.
 */
void
poser_direct_open_plain(PoserDirectTable *table)
{
	List *indexes;
	ListCell *lc;
	bool all_plain = true;

	if (table->plain != NULL || table->indexes != NULL)
		return;
	indexes = RelationGetIndexList(table->rel);
	table->plain = palloc((list_length(indexes) + 1) * sizeof(PoserPlainIndex));
	foreach(lc, indexes)
	{
		PoserPlainIndex *index = &table->plain[table->nplain++];

		index->rel = index_open(lfirst_oid(lc), RowExclusiveLock);
		index->info = has_expressions(index->rel) ? NULL : BuildIndexInfo(index->rel);
		all_plain = all_plain && index->info != NULL && is_plain(index->rel, index->info);
	}
	list_free(indexes);
	if (!all_plain)
	{
		close_plain(table);
		poser_direct_open_indexes(table);
	}
}

/*
 * Make the index entries of a new row, which was inserted from the slot.  Raises an error
 * if a unique index has the key already.
 */
void
poser_direct_index_new_row(PoserDirectTable *table, TupleTableSlot *slot)
{
	Datum values[INDEX_MAX_KEYS];
	bool isnull[INDEX_MAX_KEYS];

	poser_direct_open_plain(table);
	if (table->plain == NULL)
	{
		(void) poser_direct_insert_index_entries(table, slot, 0);
		return;
	}
	for (int i = 0; i < table->nplain; i++)
	{
		PoserPlainIndex *index = &table->plain[i];

		FormIndexDatum(index->info, slot, NULL, values, isnull);
		(void) index_insert(index->rel, values, isnull, &slot->tts_tid, table->rel,
							index->info->ii_Unique ? UNIQUE_CHECK_YES : UNIQUE_CHECK_NO,
							false, index->info);
	}
}

/*
 * Open the table's indexes for poser_direct_insert_index_entries(), unless they are open.
 * They live in the current memory context.
 */
void
poser_direct_open_indexes(PoserDirectTable *table)
{
	List *indexes;
	ListCell *lc;
	PoserCaller caller;

	if (table->indexes != NULL)
		return;
	indexes = RelationGetIndexList(table->rel);
	foreach(lc, indexes)
	{
		Relation index = index_open(lfirst_oid(lc), RowExclusiveLock);

		table->runs_code = table->runs_code || has_code(index);
		index_close(index, NoLock);
	}
	list_free(indexes);
	table->estate = CreateExecutorState();
	table->indexes = makeNode(ResultRelInfo);
	InitResultRelInfo(table->indexes, table->rel, 0, NULL, 0);
	/* this already evaluates what is constant in the expressions */
	if (table->runs_code)
		begin_code(table, &caller);
	ExecOpenIndices(table->indexes, false);
	if (table->runs_code)
		poser_become_caller(&caller);
}

/*
 * Check a deferrable constraint for the row in the slot, which has its index entries.
 * Raises an error if another row conflicts with it.
 */
static void
check_deferrable(PoserDirectTable *table, Oid indexid, TupleTableSlot *slot)
{
	for (int i = 0; i < table->indexes->ri_NumIndices; i++)
	{
		Relation index = table->indexes->ri_IndexRelationDescs[i];
		IndexInfo *info = table->indexes->ri_IndexRelationInfo[i];
		ItemPointerData tid = slot->tts_tid;
		Datum values[INDEX_MAX_KEYS];
		bool isnull[INDEX_MAX_KEYS];

		if (RelationGetRelid(index) != indexid)
			continue;
		GetPerTupleExprContext(table->estate)->ecxt_scantuple = slot;
		FormIndexDatum(info, slot, table->estate, values, isnull);
		if (info->ii_ExclusionOps == NULL)
			(void) index_insert(index, values, isnull, &tid, table->rel, UNIQUE_CHECK_EXISTING, false, info);
		else
			check_exclusion_constraint(table->rel, index, info, &tid, values, isnull, table->estate, false);
	}
}

/*
 * Make the index entries of the row that was written from the slot.  "flags" are
 * those of ExecInsertIndexTuples().  Returns true, or raises an error if a unique index
 * has the key already.  A deferrable constraint is checked at once, too: no trigger would
 * check it later.
 *
 * With EIIT_NO_DUPE_ERROR the check of unique indexes neither waits nor raises an error.
 * Then the result is false if there is another row with the key, or if another
 * transaction is inserting or deleting one.
 */
bool
poser_direct_insert_index_entries(PoserDirectTable *table, TupleTableSlot *slot, uint32 flags)
{
	List *conflicts;
	ListCell *lc;
	bool result = true;
	PoserCaller caller;

	poser_direct_open_indexes(table);
	if (table->runs_code)
		begin_code(table, &caller);
	conflicts = ExecInsertIndexTuples(table->indexes, table->estate, flags, slot, NIL, NULL);
	foreach(lc, conflicts)
	{
		if (flags & EIIT_NO_DUPE_ERROR)
			result = false;
		else
			check_deferrable(table, lfirst_oid(lc), slot);
	}
	if (table->runs_code)
		poser_become_caller(&caller);
	list_free(conflicts);
	ResetPerTupleExprContext(table->estate);
	return result;
}

/*
 * Make a scan key for the rows that have this value in a column of a B-tree index, or a
 * value on one side of it, as the strategy says.  "column" counts from 1.
 */
void
poser_scan_key(ScanKey key, Relation index, int column, StrategyNumber strategy, Datum value)
{
	Oid type = index->rd_opcintype[column - 1];
	Oid opr = get_opfamily_member(index->rd_opfamily[column - 1], type, type, strategy);

	if (!OidIsValid(opr))
		elog(ERROR, "missing operator of type %u in index \"%s\"", type,
			 RelationGetRelationName(index));
	ScanKeyEntryInitialize(key, 0, column, strategy, InvalidOid,
						   index->rd_indcollation[column - 1], get_opcode(opr), value);
}

/*
 * Find the row that has these values in the key columns, and put it into the slot: its
 * newest version that is committed or is this transaction's own.  *found says whether
 * there is one.  Returns false if the columns have no unique index; then *found is not
 * set.  The caller holds a lock on the table.
 */
bool
poser_fetch_row(Relation rel, int nkeys, const AttrNumber *columns, const Datum *values,
				TupleTableSlot *slot, bool *found)
{
	ScanKeyData keys[INDEX_MAX_KEYS];
	bool immediate;
	Oid indexid = poser_unique_index(rel, nkeys, columns, &immediate);
	Relation index;
	IndexScanDesc scan;

	/* an index of a partitioned table has no entries, see poser_lookup_open() */
	if (!OidIsValid(indexid) || rel->rd_rel->relkind != RELKIND_RELATION)
		return false;
	index = index_open(indexid, AccessShareLock);
	for (int i = 0; i < nkeys; i++)
		for (int j = 0; j < nkeys; j++)
			if (index->rd_index->indkey.values[i] == columns[j])
				poser_scan_key(&keys[i], index, i + 1, BTEqualStrategyNumber, values[j]);
	scan = index_beginscan(rel, index, SnapshotSelf, NULL, nkeys, 0, SO_NONE);
	index_rescan(scan, keys, nkeys, NULL, 0);
	*found = index_getnext_slot(scan, ForwardScanDirection, slot);
	index_endscan(scan);
	index_close(index, AccessShareLock);
	return true;
}

/*
 * Delete the row at "tid", which the caller has found with SnapshotSelf.  Returns false if
 * it has been deleted since.  The command that is running must not have written it.
 */
bool
poser_direct_delete(Relation rel, ItemPointer tid)
{
	TM_FailureData failure;
	TM_Result result = table_tuple_delete(rel, tid, GetCurrentCommandId(true), 0, SnapshotSelf,
										  InvalidSnapshot, true, &failure);

	if (result == TM_Updated)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to concurrent update")));
	return result == TM_Ok;
}

/*
 * Delete the row at "tid" if the snapshot sees it, as DELETE does.  Returns false if it does
 * not, or if the row was changed or deleted since.  No trigger fires.
 */
bool
poser_direct_delete_seen(Relation rel, ItemPointer tid, Snapshot snapshot)
{
	TM_FailureData failure;

	/* the second snapshot is the one that must see the row */
	return table_tuple_delete(rel, tid, GetCurrentCommandId(true), 0, snapshot, snapshot, true, &failure) == TM_Ok;
}

/* A partition of a table in which rows are looked up. */
typedef struct PoserLookupPartition
{
	Relation rel;
	PoserLookup lookup;
	TupleConversionMap *map; /* to the row type of the whole table; NULL if it is the same */
	bool has_row;			 /* lookup.slot has a row that was not returned yet */
	bool at_end;
} PoserLookupPartition;

/* Returns the index of a partition that belongs to this index of a table above it, at any level; InvalidOid if there is none. */
static Oid
index_of_partition(Relation partition, Oid indexid)
{
	Oid result = InvalidOid;
	List *indexes = RelationGetIndexList(partition);
	ListCell *lc;

	foreach(lc, indexes)
	{
		if (get_rel_relispartition(lfirst_oid(lc)) && list_member_oid(get_partition_ancestors(lfirst_oid(lc)), indexid))
			result = lfirst_oid(lc);
	}
	list_free(indexes);
	return result;
}

/* Open the partitions of a table, and the index of each that belongs to the table's index.  Locks them until the transaction ends. */
static void
open_partitions(PoserLookup *lookup, Relation rel, Oid indexid, int nkeys)
{
	List *relids = find_all_inheritors(RelationGetRelid(rel), AccessShareLock, NULL);
	ListCell *lc;

	lookup->partitions = palloc(list_length(relids) * sizeof(PoserLookupPartition));
	lookup->npartitions = 0;
	foreach(lc, relids)
	{
		PoserLookupPartition *partition = &lookup->partitions[lookup->npartitions];
		Oid partition_index;

		/* a foreign table has no index, and rows of it cannot be looked up */
		if (get_rel_relkind(lfirst_oid(lc)) != RELKIND_RELATION)
			continue;
		partition->rel = table_open(lfirst_oid(lc), NoLock);
		partition_index = index_of_partition(partition->rel, indexid);
		if (!OidIsValid(partition_index))
		{
			table_close(partition->rel, NoLock);
			continue;
		}
		poser_lookup_open(&partition->lookup, partition->rel, partition_index, nkeys);
		partition->map = convert_tuples_by_name(RelationGetDescr(partition->rel), RelationGetDescr(rel));
		lookup->npartitions++;
	}
	list_free(relids);
}

/*
 * Open an index of a table, to look up rows by its first "nkeys" columns.  What the
 * look-ups need is allocated in the current memory context.  The caller holds a lock on
 * the table, and keeps it open.
 */
void
poser_lookup_open(PoserLookup *lookup, Relation rel, Oid indexid, int nkeys)
{
	memset(lookup, 0, sizeof(PoserLookup));
	lookup->context = CurrentMemoryContext;
	lookup->nkeys = nkeys;
	lookup->strategy = InvalidStrategy;
	lookup->index = index_open(indexid, RowExclusiveLock);
	lookup->keys = palloc(Max(nkeys, 1) * sizeof(ScanKeyData));
	if (rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
	{
		lookup->slot = MakeSingleTupleTableSlot(RelationGetDescr(rel), &TTSOpsVirtual);
		open_partitions(lookup, rel, indexid, nkeys);
		return;
	}
	lookup->slot = table_slot_create(rel, NULL);
	lookup->scan = index_beginscan(rel, lookup->index, SnapshotSelf, NULL, nkeys, 0, SO_NONE);
}

/* Looking up rows in a table without an index: the table is read, and the rows are sorted. */
typedef struct PoserLookupReading
{
	Relation rel;
	List *relids; /* the table, or its partitions */
	int nkeys;
	AttrNumber columns[INDEX_MAX_KEYS];
	FmgrInfo equal[INDEX_MAX_KEYS];
	Oid collations[INDEX_MAX_KEYS];
	AttrNumber order;
	Tuplesortstate *sort; /* the rows that were found; NULL before the first look-up */
} PoserLookupReading;

/*
 * As poser_lookup_open() where no index has the columns.  The rows with equal values in
 * "columns" come in descending order of the column "order" (bigint), so only
 * BackwardScanDirection and BTEqualStrategyNumber can be used.  Each look-up reads all of
 * "relids", which are the table or its partitions, so this is slow.
 */
void
poser_lookup_open_unindexed(PoserLookup *lookup, Relation rel, List *relids, int nkeys, const AttrNumber *columns,
							const Oid *equal, const Oid *collations, AttrNumber order)
{
	PoserLookupReading *reading = palloc0(sizeof(PoserLookupReading));

	memset(lookup, 0, sizeof(PoserLookup));
	lookup->context = CurrentMemoryContext;
	lookup->slot = MakeSingleTupleTableSlot(RelationGetDescr(rel), &TTSOpsMinimalTuple);
	lookup->reading = reading;
	reading->rel = rel;
	reading->relids = relids;
	reading->nkeys = nkeys;
	reading->order = order;
	for (int i = 0; i < nkeys; i++)
	{
		reading->columns[i] = columns[i];
		reading->collations[i] = collations[i];
		fmgr_info(equal[i], &reading->equal[i]);
	}
}

/* Free the rows that were found. */
static void
end_reading(PoserLookupReading *reading)
{
	if (reading->sort != NULL)
		tuplesort_end(reading->sort);
	reading->sort = NULL;
}

/* As poser_lookup_begin(), without an index. */
static void
read_rows(PoserLookup *lookup, const Datum *values, const bool *nulls)
{
	PoserLookupReading *reading = lookup->reading;
	Oid greater = lookup_type_cache(INT8OID, TYPECACHE_GT_OPR)->gt_opr;
	Oid collation = InvalidOid;
	bool nulls_first = true;
	PoserTableScan scan;
	MemoryContext old;

	ExecClearTuple(lookup->slot);
	end_reading(reading);
	old = MemoryContextSwitchTo(lookup->context);
	reading->sort = tuplesort_begin_heap(RelationGetDescr(reading->rel), 1, &reading->order, &greater, &collation,
										 &nulls_first, work_mem, NULL, TUPLESORT_NONE);
	MemoryContextSwitchTo(old);
	poser_scan_begin(&scan, list_copy(reading->relids), reading->rel);
	while (poser_scan_next(&scan))
	{
		bool same = true;

		for (int i = 0; same && i < reading->nkeys; i++)
		{
			bool isnull;
			Datum value = slot_getattr(scan.slot, reading->columns[i], &isnull);

			same = nulls != NULL && nulls[i] ? isnull
											 : !isnull && DatumGetBool(FunctionCall2Coll(&reading->equal[i], reading->collations[i],
																						 value, values[i]));
		}
		if (same)
			tuplesort_puttupleslot(reading->sort, scan.slot);
	}
	poser_scan_end(&scan);
	tuplesort_performsort(reading->sort);
}

/*
 * Begin to look up rows: newest versions that are committed or this transaction's own.
 * "nulls" says which values are null; NULL if none is.  A null is only looked up with
 * BTEqualStrategyNumber.
 */
void
poser_lookup_begin(PoserLookup *lookup, StrategyNumber strategy, const Datum *values, const bool *nulls)
{
	MemoryContext old;

	if (lookup->reading != NULL)
	{
		Assert(strategy == BTEqualStrategyNumber);
		read_rows(lookup, values, nulls);
		return;
	}
	for (int i = 0; i < lookup->npartitions; i++)
	{
		poser_lookup_begin(&lookup->partitions[i].lookup, strategy, values, nulls);
		lookup->partitions[i].has_row = lookup->partitions[i].at_end = false;
	}
	if (lookup->scan == NULL)
		return;
	old = MemoryContextSwitchTo(lookup->context);
	for (int i = 0; i < lookup->nkeys; i++)
	{
		/* finding the operators takes longer than the look-up */
		if (lookup->strategy != strategy)
			poser_scan_key(&lookup->keys[i], lookup->index, i + 1, strategy, values[i]);
		lookup->keys[i].sk_argument = values[i];
		lookup->keys[i].sk_flags = (nulls != NULL && nulls[i]) ? SK_ISNULL | SK_SEARCHNULL : 0;
	}
	lookup->strategy = strategy;
	index_rescan(lookup->scan, lookup->keys, lookup->nkeys, NULL, 0);
	MemoryContextSwitchTo(old);
}

/* Put the row of a partition into a virtual slot of the whole table.  "map" is NULL if both have one row type. */
static void
put_row(TupleTableSlot *row, TupleConversionMap *map, TupleTableSlot *slot)
{
	if (map != NULL)
	{
		(void) execute_attr_map_slot(map->attrMap, row, slot);
		return;
	}
	ExecClearTuple(slot);
	slot_getallattrs(row);
	memcpy(slot->tts_values, row->tts_values, slot->tts_tupleDescriptor->natts * sizeof(Datum));
	memcpy(slot->tts_isnull, row->tts_isnull, slot->tts_tupleDescriptor->natts * sizeof(bool));
	ExecStoreVirtualTuple(slot);
}

/* As poser_lookup_next(), in a partitioned table: the first of the partitions' next rows. */
static bool
next_of_partitions(PoserLookup *lookup, ScanDirection direction)
{
	PoserLookupPartition *first = NULL;
	int64 first_value = 0;

	for (int i = 0; i < lookup->npartitions; i++)
	{
		PoserLookupPartition *partition = &lookup->partitions[i];
		int64 value = 0;

		if (!partition->has_row && !partition->at_end)
		{
			partition->has_row = poser_lookup_next(&partition->lookup, direction);
			partition->at_end = !partition->has_row;
		}
		if (!partition->has_row)
			continue;
		if (lookup->order != 0)
		{
			AttrNumber column = lookup->order;
			bool isnull;

			if (partition->map != NULL)
				column = partition->map->attrMap->attnums[column - 1];
			value = DatumGetInt64(slot_getattr(partition->lookup.slot, column, &isnull));
		}
		if (first == NULL || (ScanDirectionIsBackward(direction) ? value > first_value : value < first_value))
		{
			first = partition;
			first_value = value;
		}
	}
	if (first == NULL)
		return false;
	first->has_row = false;
	put_row(first->lookup.slot, first->map, lookup->slot);
	return true;
}

/* Get the next row into lookup->slot, in the index's order or against it; returns false if there is none. */
bool
poser_lookup_next(PoserLookup *lookup, ScanDirection direction)
{
	MemoryContext old;
	bool found;

	if (lookup->reading != NULL)
	{
		Assert(ScanDirectionIsBackward(direction));
		return tuplesort_gettupleslot(lookup->reading->sort, true, false, lookup->slot, NULL);
	}
	if (lookup->scan == NULL)
		return next_of_partitions(lookup, direction);
	old = MemoryContextSwitchTo(lookup->context);
	found = index_getnext_slot(lookup->scan, direction, lookup->slot);
	MemoryContextSwitchTo(old);
	return found;
}

/*
 * Returns another transaction that is inserting, updating or deleting a row which the last
 * look-up searches; InvalidTransactionId if there is none.
 */
static TransactionId
other_writer(const PoserLookup *lookup, Relation rel)
{
	TransactionId result = InvalidTransactionId;
	SnapshotData dirty;
	TupleTableSlot *slot;
	IndexScanDesc scan;

	for (int i = 0; i < lookup->npartitions && !TransactionIdIsValid(result); i++)
		result = other_writer(&lookup->partitions[i].lookup, lookup->partitions[i].rel);
	if (lookup->scan == NULL)
		return result;

	/* for each row, this snapshot says which transaction has not ended yet */
	InitDirtySnapshot(dirty);
	slot = table_slot_create(rel, NULL);
	scan = index_beginscan(rel, lookup->index, &dirty, NULL, lookup->nkeys, 0, SO_NONE);
	index_rescan(scan, lookup->keys, lookup->nkeys, NULL, 0);
	while (!TransactionIdIsValid(result) && index_getnext_slot(scan, ForwardScanDirection, slot))
		result = TransactionIdIsValid(dirty.xmin) ? dirty.xmin : dirty.xmax;
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	return result;
}

/* Wait until no other transaction is writing a row that the last look-up searches.  "rel" is the table of the look-up. */
void
poser_lookup_wait(const PoserLookup *lookup, Relation rel)
{
	TransactionId other;

	while (TransactionIdIsValid(other = other_writer(lookup, rel)))
		XactLockTableWait(other, rel, NULL, XLTW_None);
}

/* Close what poser_lookup_open() or poser_lookup_open_unindexed() has opened.  Locks stay. */
void
poser_lookup_close(PoserLookup *lookup)
{
	for (int i = 0; i < lookup->npartitions; i++)
	{
		poser_lookup_close(&lookup->partitions[i].lookup);
		table_close(lookup->partitions[i].rel, NoLock);
	}
	if (lookup->scan != NULL)
		index_endscan(lookup->scan);
	if (lookup->index != NULL)
		index_close(lookup->index, NoLock);
	ExecDropSingleTupleTableSlot(lookup->slot);
	if (lookup->reading != NULL)
	{
		end_reading(lookup->reading);
		list_free(lookup->reading->relids);
		pfree(lookup->reading);
	}
	else
		pfree(lookup->keys);
	memset(lookup, 0, sizeof(PoserLookup));
}

/*
 * Begin to read all rows of some tables, which are "whole" itself or partitions of it, as
 * they are now.  The rows get the row type of "whole".  Locks the tables until the
 * transaction ends.
 */
void
poser_scan_begin(PoserTableScan *scan, List *relids, Relation whole)
{
	memset(scan, 0, sizeof(PoserTableScan));
	scan->relids = relids;
	scan->whole = whole;
	scan->slot = MakeSingleTupleTableSlot(RelationGetDescr(whole), &TTSOpsVirtual);
}

/* Close the table that is being read. */
static void
end_table(PoserTableScan *scan)
{
	table_endscan(scan->scan);
	ExecDropSingleTupleTableSlot(scan->row);
	table_close(scan->rel, NoLock);
	scan->rel = NULL;
}

/* Get the next row into scan->slot; returns false if there is none. */
bool
poser_scan_next(PoserTableScan *scan)
{
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		if (scan->rel == NULL)
		{
			if (scan->relids == NIL)
				return false;
			scan->rel = table_open(linitial_oid(scan->relids), AccessShareLock);
			scan->relids = list_delete_first(scan->relids);
			scan->scan = table_beginscan(scan->rel, SnapshotSelf, 0, NULL, SO_NONE);
			scan->row = table_slot_create(scan->rel, NULL);
			scan->map = convert_tuples_by_name(RelationGetDescr(scan->rel), RelationGetDescr(scan->whole));
		}
		if (table_scan_getnextslot(scan->scan, ForwardScanDirection, scan->row))
		{
			put_row(scan->row, scan->map, scan->slot);
			return true;
		}
		end_table(scan);
	}
}

void
poser_scan_end(PoserTableScan *scan)
{
	if (scan->rel != NULL)
		end_table(scan);
	ExecDropSingleTupleTableSlot(scan->slot);
}
