/*
 * record.c
 *	  poser_record_versions(): recording changes that have bypassed the triggers.
 *
 * Changes bypass the triggers while these are disabled or missing.  Rows can also be
 * older than the triggers.  So each row is compared with its last version.  If they
 * differ, a version is written, as the trigger would have done it.
 *
 * A row may have been changed again later, with the triggers enabled.  Then its last
 * version is right, and the values in between are lost.  But the later version may have
 * an operation that cannot follow the version before it.  Such operations are corrected.
 *
 * Writers of the tables wait meanwhile, so that the tables and their versions can be
 * compared with one snapshot.
 *
 * The invariant: afterwards the last version of each row has the values of the row.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "versions/record_internal.h"

PG_FUNCTION_INFO_V1(poser_record_versions);

/* How many rows are fetched from the comparison at a time. */
#define FETCHED_AT_A_TIME 1000

/*
 * Append the query for versions whose operation cannot follow that of the version before,
 * see correct_operations().  $1 is the change_id of the horizon.
 *
 *	SELECT wrong.change_id, wrong.operation_type
 *	  FROM (SELECT version.change_id, version.operation_type,
 *	               lag(version.operation_type) OVER (PARTITION BY version.uuid
 *	                                                 ORDER BY version.change_id)
 *	          FROM poser_widget_version AS version) AS wrong (change_id, operation_type, before)
 *	 WHERE wrong.operation_type = 0 AND wrong.before <> 2
 *	    OR wrong.operation_type = 1
 *	       AND (wrong.before = 2
 *	            OR wrong.before IS NULL AND wrong.change_id > $1)
 */
static void
append_wrong_operations(StringInfo sql, const PoserVersioned *versioned)
{
	const char *operation = poser_history_column(versioned, versioned->operation_type);
	const char *change_id = poser_history_column(versioned, versioned->change_id);

	appendStringInfo(sql,
					 "SELECT wrong.change_id, wrong.operation_type\n"
					 "  FROM (SELECT version.%1$s, version.%2$s,\n"
					 "               pg_catalog.lag(version.%2$s) OVER (PARTITION BY ",
					 change_id, operation);
	poser_history_append_keys(sql, versioned, ", ", "version.%n");
	appendStringInfo(sql,
					 " ORDER BY version.%s)\n"
					 "          FROM %s AS version) AS wrong (change_id, operation_type, before)\n"
					 " WHERE wrong.operation_type OPERATOR(pg_catalog.=) 0 AND wrong.before OPERATOR(pg_catalog.<>) 2\n"
					 "    OR wrong.operation_type OPERATOR(pg_catalog.=) 1\n"
					 "       AND (wrong.before OPERATOR(pg_catalog.=) 2\n"
					 "            OR wrong.before IS NULL AND wrong.change_id OPERATOR(pg_catalog.>) $1)",
					 change_id, poser_relation_name(versioned->versions));
}

/*
 * Correct operations that cannot follow the operation of the version before.  Returns how
 * many versions were changed.
 *
 * - A row was inserted past the triggers and then updated.  Its history has an update of
 *   a row that was not there.  The update becomes an insert.
 * - A row was deleted past the triggers and then inserted again.  Its history has an
 *   insert of a row that was there.  The insert becomes an update.
 * - A row was inserted past the triggers and then deleted.  The delete stays as it is,
 *   because there is no version that could become the insert.
 *
 * The first version of a row is not corrected if pruning may have removed a version
 * before it.  $1 is the change_id of the horizon.
 *
 *	UPDATE poser_widget_version AS v
 *	   SET operation_type = CASE WHEN wrong.operation_type = 0 THEN 1 ELSE 0 END
 *	  FROM (<wrong operations>) AS wrong
 *	 WHERE v.change_id = wrong.change_id
 */
static int64
correct_operations(const PoserVersioned *versioned, PoserHorizon horizon)
{
	Oid argtypes[] = {INT8OID};
	Datum values[] = {Int64GetDatum(horizon.change_id)};
	int64 result;
	StringInfoData sql;
	PoserQuery query;

	initStringInfo(&sql);
	appendStringInfo(&sql,
					 "UPDATE %1$s AS v\n"
					 "   SET %2$s = CASE WHEN wrong.operation_type OPERATOR(pg_catalog.=) 0 THEN 1 ELSE 0 END\n"
					 "  FROM (",
					 poser_relation_name(versioned->versions), poser_history_column(versioned, versioned->operation_type));
	append_wrong_operations(&sql, versioned);
	appendStringInfo(&sql, ") AS wrong\n WHERE v.%s OPERATOR(pg_catalog.=) wrong.change_id",
					 poser_history_column(versioned, versioned->change_id));
	/* the active snapshot is newer than the lock, even in REPEATABLE READ */
	query = (PoserQuery) {.sql = sql.data, .nargs = 1, .argtypes = argtypes, .values = values, .once = true, .snapshot = GetActiveSnapshot(), .expected = SPI_OK_UPDATE};
	if (versioned->own)
		poser_binding_begin_changes(versioned->versions);
	result = (int64) poser_run(&query);
	if (versioned->own)
		poser_binding_end_changes();
	return result;
}

/*
 * Correct operations of a table, if there are any that must be.  The caller has the rights
 * of the table's owner, and a lock is taken only if there are.  Returns how many versions
 * were changed.
 */
int64
poser_record_corrections(const PoserVersioned *versioned, PoserProgress *progress)
{
	Oid argtypes[] = {INT8OID};
	Datum values[1];
	StringInfoData sql;
	PoserCaller caller;
	int64 result = 0;
	bool found;

	poser_progress_report(progress, "checking operations", 0);
	poser_become_owner(versioned->versions, &caller);
	PushActiveSnapshot(GetLatestSnapshot());
	values[0] = Int64GetDatum(poser_history_horizon(versioned, true).change_id);
	initStringInfo(&sql);
	append_wrong_operations(&sql, versioned);
	appendStringInfoString(&sql, "\n LIMIT 1");
	found = poser_run(&(PoserQuery) {.sql = sql.data, .nargs = 1, .argtypes = argtypes, .values = values, .read_only = true}) > 0;
	PopActiveSnapshot();
	if (found)
	{
		poser_record_lock(versioned->relid, versioned->transactions);
		PushActiveSnapshot(GetLatestSnapshot());
		result = correct_operations(versioned, poser_history_horizon(versioned, true));
		PopActiveSnapshot();
	}
	poser_become_caller(&caller);
	return result;
}

/* Put a row of the comparison into a slot of the table of versions. */
static void
store_row(TupleTableSlot *slot, const PoserVersioned *versioned, HeapTuple tuple, TupleDesc desc)
{
	int column = 3;

	ExecClearTuple(slot);
	for (int i = 0; i < versioned->natts; i++)
	{
		slot->tts_isnull[i] = true;
		if (versioned->source[i] != 0)
			slot->tts_values[i] = SPI_getbinval(tuple, desc, column++, &slot->tts_isnull[i]);
	}
	ExecStoreVirtualTuple(slot);
}

/*
 * Write a version for each row that differs from its last version, and for each row that
 * no longer exists and has no version for its delete.  Returns how many versions were
 * written.  The rows are compared with the rights of the table's owner.
 */
static int64
record_differences(const PoserVersioned *versioned, const char *comment, PoserProgress *progress)
{
	PoserVersionWriter *writer = poser_version_begin(versioned, comment);
	Relation versions = table_open(versioned->versions, RowExclusiveLock);
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(versions), &TTSOpsVirtual);
	StringInfoData sql;
	Portal portal;
	PoserCaller caller;
	int64 result = 0;

	/* read the differences as the owner; see poser_history_append_comparison() for the query */
	initStringInfo(&sql);
	poser_history_append_comparison(&sql, versioned);
	poser_become_owner(versioned->relid, &caller);
	poser_check_readable(versioned->relid, versioned->versions);
	portal = poser_open_cursor_for(&(PoserQuery) {.sql = sql.data, .read_only = true});

	/* write a version for each of them */
	for (;;)
	{
		SPI_cursor_fetch(portal, true, FETCHED_AT_A_TIME);
		if (SPI_processed == 0)
			break;
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			HeapTuple tuple = SPI_tuptable->vals[i];
			bool isnull;
			PoserOperation operation = DatumGetInt16(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 1, &isnull));

			poser_progress_count(progress, 1);
			store_row(slot, versioned, tuple, SPI_tuptable->tupdesc);
			poser_version_write(writer, operation, slot, true);
			result++;
		}
		SPI_freetuptable(SPI_tuptable);
	}
	SPI_cursor_close(portal);
	poser_version_end(writer);
	poser_become_caller(&caller);
	ExecDropSingleTupleTableSlot(slot);
	table_close(versions, NoLock);
	return result;
}

/*
 * Record what has bypassed the triggers of these tables, with this comment or, if it is
 * NULL, poser.comment.  Returns how many versions were written or corrected.  The caller
 * has connected to SPI.  Raises an error unless the current user has the rights of the
 * owner of all these tables.
 */
static int64
record(const PoserVersioned *tables, int ntables, const char *comment, PoserProgress *progress)
{
	Oid relids[POSER_VERSIONED_TABLES + 1];
	LOCKMODE modes[POSER_VERSIONED_TABLES + 1];
	Snapshot latest;
	PoserHorizon horizon;
	int64 result = 0;

	Assert(ntables <= POSER_VERSIONED_TABLES);
	for (int i = 0; i < ntables; i++)
	{
		poser_check_owner(tables[i].relid);
		if (!tables[i].own)
			poser_check_owner(tables[i].versions);
		relids[i] = tables[i].relid;
		modes[i] = ShareRowExclusiveLock;
	}
	relids[ntables] = tables[0].transactions;
	modes[ntables] = RowExclusiveLock;

	/* lock all that is read, then take the snapshot, so that no table is rewritten in between */
	poser_progress_report(progress, "comparing", 0);
	if (tables[0].own)
		poser_record_lock(tables[0].relid, tables[0].transactions);
	else
	{
		LockRelationOid(tables[0].horizon, AccessShareLock);
		poser_lock_together(relids, modes, ntables + 1);
		/* tables that inherit from these are read, too */
		for (int i = 0; i < ntables; i++)
			list_free(poser_lock_tree(tables[i].relid));
	}
	latest = RegisterSnapshot(GetLatestSnapshot());
	PushActiveSnapshot(latest);

	/* each step with the rights of the owner of the table that it reads or changes */
	horizon = poser_history_horizon(&tables[0], true);
	for (int i = 0; i < ntables; i++)
	{
		PoserCaller caller;

		poser_become_owner(tables[i].versions, &caller);
		result += correct_operations(&tables[i], horizon);
		poser_become_caller(&caller);
		result += record_differences(&tables[i], comment, progress);
	}
	PopActiveSnapshot();
	UnregisterSnapshot(latest);
	return result;
}

/* A call of poser_record_versions(). */
typedef struct Recording
{
	Oid nspid;			 /* the schema of the extension */
	int64 limit;		 /* at most so many versions, or PG_INT64_MAX */
	const char *comment; /* of the versions, or NULL */
	int64 recorded;
	PoserProgress progress;
} Recording;

/* Record what has bypassed the triggers of one table, in steps if the call has a limit. */
static void
record_table(Recording *recording, const PoserTracked *tracked)
{
	PoserVersioned versioned;
	PoserCaller caller;
	int64 recorded = 0;

	poser_progress_table(&recording->progress, "poser_record_versions", tracked->relid);

	/* lock, then look: the table can have been dropped, or have another owner */
	LockRelationOid(tracked->relid, AccessShareLock);
	if (get_rel_name(tracked->relid) == NULL)
		return;
	poser_check_owner(tracked->relid);

	poser_become_owner(tracked->relid, &caller);
	poser_tracked_describe(&versioned, tracked->relid, recording->nspid, RowExclusiveLock);
	if (versioned.nkeys > 0)
	{
		poser_check_readable(tracked->relid, versioned.versions);
		if (recording->limit == PG_INT64_MAX || versioned.partitioned)
		{
			poser_become_caller(&caller);
			recorded = record(&versioned, 1, recording->comment, &recording->progress);
			poser_record_end_partial(&versioned);
		}
		else
			recorded = poser_record_step(&versioned, recording->limit - recording->recorded, recording->comment, &recording->progress);
	}
	poser_become_caller(&caller);
	recording->recorded += recorded;
}

/*
 * Record what has bypassed the triggers of these own tables, as a list of PoserTracked.  An
 * error of one table, which its owner's code can raise, becomes a WARNING.
 */
static void
record_own_tables(Recording *recording, List *tables)
{
	ListCell *lc;

	foreach(lc, tables)
	{
		PoserTracked *tracked = lfirst(lc);
		PoserSavepoint savepoint;
		int64 recorded = recording->recorded;
		char *name;

		CHECK_FOR_INTERRUPTS();
		if (recorded >= recording->limit)
			break;
		/* it can have been dropped meanwhile, and later, too */
		name = get_rel_name(tracked->relid);
		if (name == NULL)
			continue;
		if (!OidIsValid(tracked->binding) || !poser_is_owner(tracked->relid, GetUserId()))
			continue;
		poser_savepoint_set(&savepoint);
		PG_TRY();
		{
			int level = poser_begin_impatience(tracked->relid);

			SPI_connect();
			record_table(recording, tracked);
			SPI_finish();
			AtEOXact_GUC(true, level);
			poser_savepoint_release(&savepoint);
		}
		PG_CATCH();
		{
			ErrorData *error;

			recording->recorded = recorded;
			error = poser_savepoint_catch_any(&savepoint);
			if (poser_is_cancel_request(error))
				ReThrowError(error);
			ereport(WARNING,
					(errcode(error->sqlerrcode),
					 errmsg("versions of table \"%s\" were not recorded", name),
					 errdetail("The error was: %s", error->message)));
			FreeErrorData(error);
		}
		PG_END_TRY();
	}
}

/* May the current user record all of the extension's own tables? */
static bool
may_record_fixed(const PoserVersioned *tables)
{
	bool result = poser_is_owner(tables[0].transactions, GetUserId());

	for (int i = 0; i < POSER_VERSIONED_TABLES; i++)
		result = result && poser_is_owner(tables[i].relid, GetUserId()) && poser_is_owner(tables[i].versions, GetUserId());
	return result;
}

/* Record all tables that the current user may record: the extension's own ones together, so that they are compared with one snapshot. */
static void
record_all(Recording *recording)
{
	PoserVersioned tables[POSER_VERSIONED_TABLES];
	List *tracked = poser_tracked_tables(recording->nspid, false);
	bool has_own = false;
	ListCell *lc;

	foreach(lc, tracked)
	{
		PoserTracked *table = lfirst(lc);

		has_own = has_own || (OidIsValid(table->binding) && poser_is_owner(table->relid, GetUserId()));
	}
	poser_versioned_describe_all(tables, recording->nspid);
	if (may_record_fixed(tables) || !has_own)
	{
		poser_check_owner(tables[0].transactions);
		if (recording->limit == PG_INT64_MAX)
			recording->recorded = record(tables, POSER_VERSIONED_TABLES, recording->comment, &recording->progress);
		else
		{
			foreach(lc, tracked)
			{
				PoserTracked *table = lfirst(lc);

				if (!OidIsValid(table->binding) && recording->recorded < recording->limit)
					record_table(recording, table);
			}
		}
	}
	record_own_tables(recording, tracked);
}

/*
 * poser_record_versions(target regclass, max_versions bigint) returns bigint
 *
 * The comment of these versions is poser.comment or, if it is not set, says where they
 * come from.  The scripts of the extension call the function, too.  Before 1.6 it has no
 * arguments.
 */
Datum
poser_record_versions(PG_FUNCTION_ARGS)
{
	Recording recording = {.nspid = get_func_namespace(fcinfo->flinfo->fn_oid), .limit = PG_INT64_MAX};
	bool has_target = (PG_NARGS() > 0 && !PG_ARGISNULL(0));
	PoserTracked tracked;

	PreventCommandIfReadOnly("poser_record_versions()");
	if (PG_NARGS() > 1 && !PG_ARGISNULL(1))
		recording.limit = PG_GETARG_INT64(1);
	if (recording.limit < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_versions must be at least 1")));
	if (creating_extension)
		recording.comment = "history begins with version 1.2 of extension \"poser\"";
	else if (poser_comment == NULL || poser_comment[0] == '\0')
		recording.comment = "recorded by poser_record_versions()";
	if (has_target && !poser_tracked_find(PG_GETARG_OID(0), recording.nspid, &tracked))
		poser_own_error(PG_GETARG_OID(0), poser_own_unbound_problem(PG_GETARG_OID(0), recording.nspid));

	poser_progress_begin(&recording.progress, "poser_record_versions");
	PG_TRY();
	{
		SPI_connect();
		if (has_target)
			record_table(&recording, &tracked);
		else
			record_all(&recording);
		SPI_finish();
	}
	PG_FINALLY();
	{
		poser_progress_end(&recording.progress);
	}
	PG_END_TRY();
	PG_RETURN_INT64(recording.recorded);
}
