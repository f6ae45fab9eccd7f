/*
 * rewrite.c
 *	  Tables that were rewritten since a snapshot.
 *
 * ALTER TABLE can write all rows of a table anew, and TRUNCATE removes all of
 * them at once.  An older snapshot sees none of the rows that the table has
 * afterwards.  A function that reads with such a snapshot finds no rows, although
 * the table has some.  (REFRESH MATERIALIZED VIEW writes frozen rows, which older
 * snapshots see.)
 *
 * The rule for readers is "lock, then look".  A reader locks the table first.  In
 * READ COMMITTED it then reads with a snapshot that is newer than the lock.  In
 * REPEATABLE READ and SERIALIZABLE there is no newer snapshot.  There the reader calls
 * poser_check_rewritten() after the lock and before it reads.
 *
 * poser_lock_to_read() does all of this for a reader that uses the active snapshot.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "base/base.h"

/* The file of a table, as one version of its row in pg_class names it. */
typedef struct TableFile
{
	bool found;
	Oid relfilenode;
} TableFile;

/*
 * Find two files of a table.  *seen is the file in the row of pg_class that "others" sees.
 * *others_last is the last file that another transaction gave the table.  It is set
 * only if this transaction has changed the table's row in pg_class.
 *
 * "others" must have the command ID of the transaction's first command.  So it sees only
 * changes of other transactions, and at most one row of the table in pg_class.
 */
static void
find_files(Oid relid, Snapshot others, TableFile *seen, TableFile *others_last)
{
	Relation catalog = table_open(RelationRelationId, AccessShareLock);
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple tuple;

	ScanKeyInit(&key, Anum_pg_class_oid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relid));
	scan = systable_beginscan(catalog, ClassOidIndexId, true, others, 1, &key);
	if (HeapTupleIsValid(tuple = systable_getnext(scan)))
		*seen = (TableFile) {true, ((Form_pg_class) GETSTRUCT(tuple))->relfilenode};
	systable_endscan(scan);

	/* find the row version that another transaction made and this one has replaced */
	scan = systable_beginscan(catalog, ClassOidIndexId, true, SnapshotAny, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		HeapTupleHeader header = tuple->t_data;

		if (!(header->t_infomask & HEAP_XMAX_INVALID) &&
			!HEAP_XMAX_IS_LOCKED_ONLY(header->t_infomask) &&
			TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetUpdateXid(header)) &&
			!TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(header)))
			*others_last = (TableFile) {true, ((Form_pg_class) GETSTRUCT(tuple))->relfilenode};
	}
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
}

/*
 * Does the snapshot see any row of the table?  The scan uses SnapshotAny and tests
 * each row version, because a scan with an MVCC snapshot would take a predicate lock
 * on the whole table in a SERIALIZABLE transaction.
 */
static bool
sees_rows(Relation rel, Snapshot snapshot)
{
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TableScanDesc scan = table_beginscan(rel, SnapshotAny, 0, NULL, SO_NONE);
	bool result = false;

	while (!result && table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		CHECK_FOR_INTERRUPTS();
		result = table_tuple_satisfies_snapshot(rel, slot, snapshot);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	return result;
}

/*
 * Returns whether the table was rewritten since the snapshot was taken, so that the
 * snapshot no longer sees its rows.  The caller holds a lock on the table.  The result
 * is false for relations without rows of their own, such as views.
 *
 * VACUUM FULL, CLUSTER and a change of the tablespace make a new file, too, but
 * they keep row versions as they are.  After them the snapshot still sees the rows
 * that it saw before.  After a rewrite it sees no row, because all rows are newer.
 *
 * If the table has a new file and the snapshot sees no row in it, the result is true,
 * because it is unknown whether the snapshot saw a row before.  There is one exception:
 * a table without pages and with reltuples 0 in pg_class.  VACUUM FULL leaves an empty
 * table in this state.  TRUNCATE followed by ANALYZE leaves a table in the same state,
 * although it had rows.  With "even_empty" the exception does not apply.
 */
static bool
is_rewritten(Oid relid, Snapshot snapshot, bool even_empty)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	SnapshotData others = *snapshot;
	TableFile seen = {false};
	TableFile others_last = {false};
	FormData_pg_class form;
	TransactionId xmin;
	Relation rel;
	bool is_own;
	bool result;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));
	xmin = HeapTupleHeaderGetXmin(tuple->t_data);
	form = *(Form_pg_class) GETSTRUCT(tuple);
	ReleaseSysCache(tuple);

	/* a view has no rows; a table is unchanged if the snapshot sees its present row in pg_class */
	if (!RELKIND_HAS_TABLE_AM(form.relkind) || !IsMVCCSnapshot(snapshot))
		return false;
	is_own = TransactionIdIsCurrentTransactionId(xmin);
	if (!TransactionIdIsNormal(xmin) || (!is_own && !XidInMVCCSnapshot(xmin, snapshot)))
		return false;

	/* compare the file that the snapshot saw with the last one that another transaction made */
	others.curcid = FirstCommandId;
	find_files(relid, &others, &seen, &others_last);
	if (!is_own)
		others_last = (TableFile) {true, form.relfilenode};
	if (!others_last.found || (seen.found && seen.relfilenode == others_last.relfilenode))
		return false;

	/* does the snapshot see a row in the new file? */
	rel = table_open(relid, NoLock);
	if (form.relfilenode != others_last.relfilenode)
	{
		/* this transaction made the present file: it is empty after TRUNCATE, and has the old rows after CLUSTER */
		result = RelationGetNumberOfBlocks(rel) > 0 && !sees_rows(rel, snapshot);
	}
	else
		result = !sees_rows(rel, &others) &&
				 (even_empty || form.reltuples != 0 || RelationGetNumberOfBlocks(rel) > 0);
	table_close(rel, NoLock);
	return result;
}

/* As is_rewritten(); false for a table without pages and with reltuples 0. */
bool
poser_is_rewritten(Oid relid, Snapshot snapshot)
{
	return is_rewritten(relid, snapshot, false);
}

/*
 * As is_rewritten(); can be true also for a table without pages and with reltuples 0.  For
 * a caller that deletes rows elsewhere if it finds the table empty.
 */
bool
poser_is_rewritten_or_emptied(Oid relid, Snapshot snapshot)
{
	return is_rewritten(relid, snapshot, true);
}

/* Raises the error for a table that was rewritten since the transaction's snapshot. */
void
poser_rewritten_error(Oid relid)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not serialize access due to concurrent rewrite of relation \"%s\"",
					get_rel_name(relid)),
			 errhint("The transaction might succeed if retried.")));
}

/*
 * Raises an error if the table was rewritten since the snapshot was taken.
 * The caller holds a lock on the table.
 */
void
poser_check_rewritten(Oid relid, Snapshot snapshot)
{
	if (poser_is_rewritten(relid, snapshot))
		poser_rewritten_error(relid);
}

/*
 * For a function that takes the transaction's snapshot after it has locked a table.
 * In READ COMMITTED that snapshot is newer than the lock, and there is nothing to
 * check.  In REPEATABLE READ and SERIALIZABLE it is an error if the table was
 * rewritten since the snapshot was taken.
 */
void
poser_check_transaction_snapshot(Oid relid)
{
	if (IsolationUsesXactSnapshot())
		poser_check_rewritten(relid, GetTransactionSnapshot());
}

/*
 * Lock a table and the tables that inherit from it with AccessShareLock, until the
 * transaction ends.  Returns all of them, or NIL if the table was dropped while this
 * waited for the lock.
 */
List *
poser_lock_tree(Oid relid)
{
	LockRelationOid(relid, AccessShareLock);
	if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
		return NIL;
	if (!has_subclass(relid))
		return list_make1_oid(relid);
	return find_all_inheritors(relid, AccessShareLock, NULL);
}

/*
 * Lock tables, and those that inherit from them, to be read with the active snapshot.
 * The caller has pushed that snapshot.  If a table was rewritten since the snapshot was
 * taken, a newer snapshot replaces the active one.  In REPEATABLE READ and SERIALIZABLE
 * there is no newer one, and the function raises an error.
 */
void
poser_lock_to_read(const Oid *relids, int n)
{
	List *locked = NIL;
	ListCell *lc;

	for (int i = 0; i < n; i++)
		locked = list_concat(locked, poser_lock_tree(relids[i]));
	foreach(lc, locked)
		if (poser_is_rewritten(lfirst_oid(lc), GetActiveSnapshot()))
		{
			PopActiveSnapshot();
			/* not GetLatestSnapshot(), which is an error in parallel mode */
			PushActiveSnapshot(GetTransactionSnapshot());
			poser_check_rewritten(lfirst_oid(lc), GetActiveSnapshot());
		}
	list_free(locked);
}
