/*
 * restore.c
 *	  What is different while a dump is restored.
 *
 * The rows of an extension's tables are dumped, their definitions are not: the
 * constraints and triggers are there before the rows come.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/backend_status.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/relcache.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "versions/versions.h"

/* The part of a wait event that is its kind. */
#define WAIT_EVENT_CLASS 0xFF000000U

/* How often to look whether the rows have come, in milliseconds. */
#define LOOK_INTERVAL 50

/* How long nobody else must have done anything before we give up. */
#define QUIET_INTERVAL 1000

/* Is a table empty in a snapshot taken now? */
static bool
is_empty(Oid relid)
{
	Relation rel = table_open(relid, AccessShareLock);
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TableScanDesc scan = table_beginscan(rel, snapshot, 0, NULL, SO_NONE);
	bool result = !table_scan_getnextslot(scan, ForwardScanDirection, slot);

	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
	table_close(rel, NoLock);
	return result;
}

/*
 * Does another session that may be of the same pg_restore load a table here?
 * Not if it waits for a lock, which might be ours, or waits just as we do.
 */
static bool
others_load(void)
{
	int n;

	pgstat_clear_backend_activity_snapshot();
	n = pgstat_fetch_stat_numbackends();
	for (int i = 1; i <= n; i++)
	{
		PgBackendStatus *backend = &pgstat_get_local_beentry_by_index(i)->backendStatus;
		PGPROC *proc;

		if (backend->st_procpid == MyProcPid || backend->st_backendType != B_BACKEND ||
			backend->st_databaseid != MyDatabaseId ||
			backend->st_userid != GetSessionUserId() ||
			backend->st_state != STATE_RUNNING ||
			strncmp(backend->st_activity_raw, "COPY ", 5) != 0 ||
			strcmp(backend->st_appname, application_name) != 0)
			continue;
		proc = BackendPidGetProc(backend->st_procpid);
		if (proc != NULL && (proc->wait_event_info & WAIT_EVENT_CLASS) != PG_WAIT_LOCK &&
			(proc->wait_event_info & WAIT_EVENT_CLASS) != PG_WAIT_EXTENSION)
			return true;
	}
	return false;
}

/*
 * Is a dump restored, into a table of the session's own role?  Its scripts and
 * pg_restore always set both of these.  What runs with somebody else's rights
 * is not meant: neither must who calls an owner's function switch this on, nor
 * somebody whose function an owner comes to call.
 */
bool
poser_is_restore(Relation rel)
{
	return !row_security && namespace_search_path[0] == '\0' &&
		   poser_is_owner(RelationGetRelid(rel), GetOuterUserId()) &&
		   poser_is_owner(RelationGetRelid(rel), GetUserId());
}

/*
 * Do rows of a table refer to rows of another one, directly or by way of other
 * tables?  The catalog is read without a lock on these tables, because workers that
 * wait for such locks could deadlock.
 */
static bool
refers_to(Oid relid, Oid other)
{
	Relation catalog = table_open(ConstraintRelationId, AccessShareLock);
	List *relids = list_make1_oid(relid);
	bool result = false;
	ListCell *lc;

	/* the list grows while we go through it */
	foreach(lc, relids)
	{
		SysScanDesc scan;
		ScanKeyData key;
		HeapTuple tuple;

		ScanKeyInit(&key, Anum_pg_constraint_conrelid, BTEqualStrategyNumber, F_OIDEQ,
					ObjectIdGetDatum(lfirst_oid(lc)));
		scan = systable_beginscan(catalog, ConstraintRelidTypidNameIndexId, true, NULL, 1, &key);
		while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		{
			Form_pg_constraint form = (Form_pg_constraint) GETSTRUCT(tuple);

			if (form->contype != CONSTRAINT_FOREIGN)
				continue;
			result = result || form->confrelid == other;
			relids = list_append_unique_oid(relids, form->confrelid);
		}
		systable_endscan(scan);
	}
	list_free(relids);
	table_close(catalog, AccessShareLock);
	return result;
}

/*
 * Wait for the rows that the rows of "rel" will refer to.
 *
 * "pg_restore -j" loads tables in parallel.  It keeps an order of tables that
 * refer to each other only where it makes the constraint itself, afterwards.
 * A dump has an extension's tables in order, but one worker can come to a table
 * before another has come to, or has committed, what it refers to.  So as long
 * as that is empty and other workers are loading, or may be starting to, its rows
 * may be still to come.  If they do not, then the foreign key will say so.
 *
 * This can only be found out by looking again and again: nothing tells us that
 * a worker that has not begun will begin.
 */
void
poser_restore_wait(Relation rel)
{
	List *keys;
	ListCell *lc;

	if (!poser_is_restore(rel) || application_name == NULL)
		return;

	/* a copy, for the relcache may drop its own while we wait */
	keys = copyObject(RelationGetFKeyList(rel));
	foreach(lc, keys)
	{
		Oid parent = lfirst_node(ForeignKeyCacheInfo, lc)->confrelid;
		TimestampTz quiet_since = GetCurrentTimestamp();

		/* tables that refer to each other, or a table that refers to itself, have no order in which to wait */
		if (refers_to(parent, RelationGetRelid(rel)) || get_rel_relkind(parent) != RELKIND_RELATION)
			continue;
		while (is_empty(parent))
		{
			TimestampTz now = GetCurrentTimestamp();

			if (others_load())
				quiet_since = now;
			else if (TimestampDifferenceExceeds(quiet_since, now, QUIET_INTERVAL))
				break;
			(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 LOOK_INTERVAL, PG_WAIT_EXTENSION);
			ResetLatch(MyLatch);
			CHECK_FOR_INTERRUPTS();
		}
	}
}
