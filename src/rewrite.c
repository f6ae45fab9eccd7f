/*
 * rewrite.c
 *	  Tables that were rewritten since a snapshot.
 *
 * ALTER TABLE can write all rows of a table anew, and TRUNCATE removes all of
 * them at once.  An older snapshot sees none of the rows that the table has
 * afterwards.  To a function that uses it a full table looks empty.  (REFRESH
 * MATERIALIZED VIEW writes frozen rows, which older snapshots see.)
 *
 * The rule for readers: lock the table first.  In READ COMMITTED read it with
 * a snapshot that is newer than the lock.  In REPEATABLE READ and SERIALIZABLE
 * there is no newer one: call poser_check_rewritten() before reading.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "poser.h"

/* The file that the table has for the snapshot; InvalidOid if it has none. */
static Oid
file_in_snapshot(Oid relid, Snapshot snapshot)
{
	Relation catalog = table_open(RelationRelationId, AccessShareLock);
	Oid result = InvalidOid;
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple tuple;

	ScanKeyInit(&key, Anum_pg_class_oid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relid));
	scan = systable_beginscan(catalog, ClassOidIndexId, true, snapshot, 1, &key);
	if (HeapTupleIsValid(tuple = systable_getnext(scan)))
		result = ((Form_pg_class) GETSTRUCT(tuple))->relfilenode;
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return result;
}

/* Does the snapshot see any row of the table that other transactions have written? */
static bool
sees_others_rows(Relation rel, Snapshot snapshot)
{
	SnapshotData others = *snapshot;
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TableScanDesc scan;
	bool result;

	/* a snapshot of the first command sees the table as it was before this transaction wrote */
	others.curcid = FirstCommandId;
	scan = table_beginscan(rel, &others, 0, NULL);
	result = table_scan_getnextslot(scan, ForwardScanDirection, slot);
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	return result;
}

/*
 * Was the table rewritten since the snapshot was taken, so that the snapshot no
 * longer sees its rows?  The caller holds a lock on the table.  The result is
 * false for relations without rows of their own, such as views.
 *
 * VACUUM FULL, CLUSTER and a change of the tablespace make a new file, too,
 * but keep row versions as they are.  After these the snapshot sees rows of
 * others if it saw any before.  After a rewrite it sees none, because all rows
 * have been written since.
 *
 * If a table has a new file and the snapshot sees no row in it, it cannot be
 * known whether it saw one before.  Such a table counts as rewritten.  The
 * exception is a table without pages that pg_class says is empty, as VACUUM
 * FULL leaves it.
 */
bool
poser_is_rewritten(Oid relid, Snapshot snapshot)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	FormData_pg_class form;
	TransactionId xmin;
	Relation rel;
	bool result;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));
	xmin = HeapTupleHeaderGetXmin(tuple->t_data);
	form = *(Form_pg_class) GETSTRUCT(tuple);
	ReleaseSysCache(tuple);

	if (!RELKIND_HAS_TABLE_AM(form.relkind) || !IsMVCCSnapshot(snapshot))
		return false;
	if (!TransactionIdIsNormal(xmin) ||
		(!TransactionIdIsCurrentTransactionId(xmin) && !XidInMVCCSnapshot(xmin, snapshot)))
		return false;
	if (file_in_snapshot(relid, snapshot) == form.relfilenode)
		return false;

	rel = table_open(relid, NoLock);
	result = !sees_others_rows(rel, snapshot) &&
			 !(form.reltuples == 0 && RelationGetNumberOfBlocks(rel) == 0);
	table_close(rel, NoLock);
	return result;
}

/*
 * Raises an error if the table was rewritten since the snapshot was taken.
 * The caller holds a lock on the table.
 */
void
poser_check_rewritten(Oid relid, Snapshot snapshot)
{
	if (poser_is_rewritten(relid, snapshot))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to concurrent rewrite of relation \"%s\"",
						get_rel_name(relid)),
				 errhint("The transaction might succeed if retried.")));
}

/*
 * Locks tables that are to be read with the active snapshot, which the caller
 * has pushed.  If one of them was rewritten since that snapshot was taken, it is
 * replaced by a newer one.  In REPEATABLE READ and SERIALIZABLE there is no newer
 * one, and it is an error.
 */
void
poser_lock_to_read(const Oid *relids, int n)
{
	for (int i = 0; i < n; i++)
		LockRelationOid(relids[i], AccessShareLock);
	for (int i = 0; i < n; i++)
		if (poser_is_rewritten(relids[i], GetActiveSnapshot()))
		{
			PopActiveSnapshot();
			/* not GetLatestSnapshot(), which is an error in parallel mode */
			PushActiveSnapshot(GetTransactionSnapshot());
			poser_check_rewritten(relids[i], GetActiveSnapshot());
		}
}
