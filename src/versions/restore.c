/*
 * restore.c
 *	  Recognizing that a dump is being restored, and waiting for rows of it.
 *
 * A dump has the rows of an extension's tables, but not their definitions.  CREATE
 * EXTENSION makes the tables with all constraints and triggers before the rows come.  So
 * the triggers fire for the rows, and foreign keys are checked while other rows are
 * still missing.
 *
 * The rows of a restore are recorded like any others.  arrival.c replaces what was recorded
 * when their history arrives.  So nothing depends on recognizing a restore but these:
 *
 * - Rows that refer to other rows wait for them, see poser_restore_wait().
 * - In a session that is likely to restore, inserted rows are looked up in the history,
 *   which can come before them, see version.c.  In any other session this would cost
 *   every INSERT.
 * - A table of versions without the triggers of arrival.c belongs to a schema before 1.5,
 *   or is a user's own.  Nothing replaces there what was recorded, and a restore's history
 *   would collide with it.  So the rows of a restore are not recorded there, as before 1.5.
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
#include "tcop/tcopprot.h"
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

/* The part of a wait event that is its class. */
#define WAIT_EVENT_CLASS 0xFF000000U

/* How often to look for the rows, in milliseconds. */
#define LOOK_INTERVAL 50

/* How long no other session must have loaded a table before we give up, in milliseconds. */
#define QUIET_INTERVAL 1000

/* Does a snapshot that is taken now see no row in the table? */
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
 * Is another session, which seems to belong to the same pg_restore, loading a table of
 * this database?  A session that waits for a lock does not count, because we may hold
 * that lock.  Nor does a session that waits in poser_restore_wait().
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

		/* running COPY, by the same role and with the same application_name */
		if (backend->st_procpid == MyProcPid || backend->st_backendType != B_BACKEND ||
			backend->st_databaseid != MyDatabaseId ||
			backend->st_userid != GetSessionUserId() ||
			backend->st_state != STATE_RUNNING ||
			strncmp(backend->st_activity_raw, "COPY ", 5) != 0 ||
			strcmp(backend->st_appname, application_name) != 0)
			continue;

		/* and not waiting */
		proc = BackendPidGetProc(backend->st_procpid);
		if (proc != NULL && (proc->wait_event_info & WAIT_EVENT_CLASS) != PG_WAIT_LOCK &&
			(proc->wait_event_info & WAIT_EVENT_CLASS) != PG_WAIT_EXTENSION)
			return true;
	}
	return false;
}

/*
 * May the session be restoring a dump?  The scripts of pg_dump and pg_restore always empty
 * search_path.  Other sessions can do that, too, so nothing must be lost for them.  After
 * SET search_path = '' it has one schema with an empty name.
 */
bool
poser_restore_is_likely(void)
{
	return namespace_search_path[0] == '\0' || strcmp(namespace_search_path, "\"\"") == 0;
}

/*
 * Can the session be restoring a dump into this table?  The scripts of pg_dump and
 * pg_restore always set search_path to '', which is not what SET search_path = '' does.
 *
 * Both the outer user (the session's, or that of SET ROLE) and the current user must have
 * the rights of the table's owner.  So these settings do not let a user bypass anything
 * by calling a SECURITY DEFINER function of the owner.  Nor do they let a SECURITY DEFINER
 * function of another role bypass it when the owner calls the function.
 */
static bool
may_be_restore(Relation rel)
{
	return namespace_search_path[0] == '\0' &&
		   poser_is_owner(RelationGetRelid(rel), GetOuterUserId()) &&
		   poser_is_owner(RelationGetRelid(rel), GetUserId());
}

/* Is the session restoring a dump into this table, without --enable-row-security?  Then the scripts set row_security to off, too. */
bool
poser_is_restore(Relation rel)
{
	return !row_security && may_be_restore(rel);
}

/*
 * Is the session loading this table for a restore?  With --enable-row-security this is seen
 * only if the session itself runs COPY, which is what a parallel pg_restore does.
 */
static bool
is_loading(Relation rel)
{
	return poser_is_restore(rel) ||
		   (may_be_restore(rel) && debug_query_string != NULL && strncmp(debug_query_string, "COPY ", 5) == 0);
}

/*
 * Does a table have a foreign key to another one, directly or through other tables?
 * Reads the catalog without locking these tables, because parallel workers that wait for
 * such locks could deadlock.
 */
static bool
refers_to(Oid relid, Oid other)
{
	Relation catalog = table_open(ConstraintRelationId, AccessShareLock);
	List *relids = list_make1_oid(relid);
	bool result = false;
	ListCell *lc;

	/* the list grows during the loop */
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
 * If a dump is being restored, wait for the rows to which the rows of "rel" will refer.
 * Called before rows are inserted into "rel".
 *
 * "pg_restore -j" loads tables in parallel.  A dump has an extension's tables in the order
 * of their foreign keys.  But one worker can begin to load a table before another worker
 * has committed, or even begun to load, the table to which it refers.  So this function
 * waits for each table to which "rel" refers, while that table is empty and other workers
 * are loading tables.  It waits for QUIET_INTERVAL longer, because a worker may just be
 * starting.  If the rows do not come, the foreign key raises its error.
 *
 * The function looks again and again, because there is no event to wait for when a worker
 * is about to begin.
 */
void
poser_restore_wait(Relation rel)
{
	List *keys;
	ListCell *lc;

	if (!is_loading(rel) || application_name == NULL)
		return;

	/* a copy, because the relcache can free its list while we wait */
	keys = copyObject(RelationGetFKeyList(rel));
	foreach(lc, keys)
	{
		Oid parent = lfirst_node(ForeignKeyCacheInfo, lc)->confrelid;
		TimestampTz quiet_since = GetCurrentTimestamp();

		/* in a circle of foreign keys both sides would wait; and only an ordinary table can be scanned */
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
