/*
 * import_query.c
 *	  Queries of an import: progress, running them, and parts of their SQL.
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/backend_status.h"
#include "utils/builtins.h"
#include "utils/plancache.h"
#include "utils/snapmgr.h"

#include "imports/import_internal.h"

/* Rows between two reports of progress. */
#define PROGRESS_INTERVAL 10000

/*
 * Show in pg_stat_activity what we are doing, before what the client has asked for.
 */
void
poser_import_progress(PoserImport *import, const char *phase, int64 rows)
{
	char *activity;

	if (phase != NULL)
		import->phase = phase;
	import->done = rows;
	activity = psprintf("/* %s into %s: %s, " INT64_FORMAT " rows */ %s", import->function,
						import->target.label, import->phase, rows, import->activity);
	pgstat_report_activity(STATE_RUNNING, activity);
	pfree(activity);
}

/* One more row has been taken. */
void
poser_import_count(PoserImport *import)
{
	if (++import->done % PROGRESS_INTERVAL == 0)
		poser_import_progress(import, NULL, import->done);
	CHECK_FOR_INTERRUPTS();
}

/* Show again what the session was doing. */
void
poser_import_restore_activity(PoserImport *import)
{
	pgstat_report_activity(STATE_RUNNING, import->activity);
	pgstat_report_query_id(import->query_id, true);
}

/*
 * Lock all relations that a plan reads, among them partitions and the tables of
 * views.  A relation that was rewritten since the snapshot would look empty.  In
 * READ COMMITTED a newer snapshot is then pushed, which the caller pops, and the
 * result is true.  In REPEATABLE READ and SERIALIZABLE it is an error.
 *
 * A function that writes needs none of this in READ COMMITTED: SPI takes a new
 * snapshot for each query, after the locks.
 */
static bool
check_rewritten(PoserImport *import, SPIPlanPtr plan)
{
	Snapshot snapshot;
	CachedPlan *planned;
	ListCell *lc;
	ListCell *lc2;
	bool result = false;

	if (!import->read_only && !IsolationUsesXactSnapshot())
		return false;
	snapshot = import->read_only ? GetActiveSnapshot() : GetTransactionSnapshot();
	planned = SPI_plan_get_cached_plan(plan);
	if (planned == NULL)
		elog(ERROR, "SPI_plan_get_cached_plan failed");
	foreach(lc, planned->stmt_list)
	{
		PlannedStmt *statement = lfirst_node(PlannedStmt, lc);

		foreach(lc2, statement->relationOids)
		{
			if (!poser_is_rewritten_or_emptied(lfirst_oid(lc2), snapshot))
				continue;
			if (IsolationUsesXactSnapshot())
				poser_rewritten_error(lfirst_oid(lc2));
			result = true;
		}
	}
	ReleaseCachedPlan(planned, NULL);
	if (result)
		PushActiveSnapshot(GetTransactionSnapshot());
	return result;
}

/* Run a query, and give its rows to "dest" if that is not NULL. */
void
poser_import_execute(PoserImport *import, const char *query, DestReceiver *dest,
					 int nargs, Oid *argtypes, Datum *values)
{
	SPIExecuteOptions options = {0};
	SPIPlanPtr plan;
	bool has_snapshot;

	/* of a statement that fails nothing must stay in memory */
	if (nargs == 0 && dest == NULL)
	{
		if (SPI_execute(query, import->read_only, 0) < 0)
			elog(ERROR, "SPI_execute failed: %s", SPI_result_code_string(SPI_result));
		return;
	}

	/* what we do with each row need not be what can be done while others work for us in parallel */
	plan = SPI_prepare_cursor(query, nargs, argtypes,
							  import->careful || import->coerces ? 0 : CURSOR_OPT_PARALLEL_OK);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare_cursor failed: %s", SPI_result_code_string(SPI_result));
	if (nargs > 0)
	{
		options.params = makeParamList(nargs);
		for (int i = 0; i < nargs; i++)
		{
			options.params->params[i].value = values[i];
			options.params->params[i].isnull = false;
			options.params->params[i].pflags = PARAM_FLAG_CONST;
			options.params->params[i].ptype = argtypes[i];
		}
	}
	options.read_only = import->read_only;
	options.dest = dest;
	has_snapshot = check_rewritten(import, plan);
	if (SPI_execute_plan_extended(plan, &options) < 0)
		elog(ERROR, "SPI_execute_plan_extended failed: %s", SPI_result_code_string(SPI_result));
	if (has_snapshot)
		PopActiveSnapshot();
	SPI_freeplan(plan);
}

/* The first value of the last query's first row. */
int64
poser_import_result_number(void)
{
	bool isnull;
	int64 result = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));

	SPI_freetuptable(SPI_tuptable);
	return result;
}

static void
no_startup(DestReceiver *self, int operation, TupleDesc desc)
{
}

static void
no_shutdown(DestReceiver *self)
{
}

/* A receiver that hands each row to a function. */
DestReceiver *
poser_import_receiver(PoserImport *import, bool (*receive)(TupleTableSlot *slot, DestReceiver *self))
{
	PoserImportReceiver *result = MemoryContextAllocZero(import->context, sizeof(PoserImportReceiver));

	result->pub.receiveSlot = receive;
	result->pub.rStartup = no_startup;
	result->pub.rShutdown = no_shutdown;
	result->pub.rDestroy = no_shutdown;
	result->pub.mydest = DestNone;
	result->import = import;
	return &result->pub;
}

/* Append "c1, c2, ..." with a prefix, for the columns from "first" on. */
void
poser_import_append_list(StringInfo sql, PoserImport *import, int first, const char *prefix)
{
	for (int i = first; i < import->ncolumns; i++)
		appendStringInfo(sql, "%s%s%d", i > first ? ", " : "", prefix, i + 1);
}

void
poser_import_append_names(StringInfo sql, PoserImport *import, const char *alias)
{
	for (int i = 0; i < import->ncolumns; i++)
		appendStringInfo(sql, "%s%s%s", i > 0 ? ", " : "", alias, import->columns[i].name);
}

void
poser_import_append_key(StringInfo sql, PoserImport *import)
{
	for (int i = 0; i < import->nkeys; i++)
		appendStringInfo(sql, "%sc%d", i > 0 ? ", " : "", i + 1);
}

/* Append the condition that the keys are the same; names of "t" may be the table's own. */
void
poser_import_append_join(StringInfo sql, PoserImport *import, const char *rows, bool own_names)
{
	for (int i = 0; i < import->nkeys; i++)
	{
		appendStringInfo(sql, "%s%s.c%d %s t.", i > 0 ? " AND " : "", rows, i + 1,
						 import->columns[i].equals);
		if (own_names)
			appendStringInfoString(sql, import->columns[i].name);
		else
			appendStringInfo(sql, "c%d", i + 1);
	}
}

/*
 * Append a column's value, called by this expression, as it is to be in an object.
 *
 * A type's own cast to json need not be undone by its input function, and may
 * be anybody's code: such types are in an object by their text.
 */
void
poser_import_append_value(StringInfo sql, PoserImport *import, int column, const char *value)
{
	if (import->columns[column].as_text)
		appendStringInfo(sql, "CASE WHEN %s IS DISTINCT FROM NULL THEN pg_catalog.format('%%s', %s) END", value, value);
	else
		appendStringInfoString(sql, value);
}

/*
 * Append an object of the columns from "first" to before "last" that are in
 * "columns", NULL for all: their names and the values called by the prefix and
 * number, or name.
 */
void
poser_import_append_object(StringInfo sql, PoserImport *import, int first, int last,
						   const uint8 *columns, const char *prefix, bool by_name)
{
	int n = 0;

	for (int i = first; i < last; i++)
	{
		if (columns != NULL && !POSER_IMPORT_HAS(columns, i))
			continue;
		/* a function has at most 100 arguments */
		if (n % 50 == 0)
			appendStringInfoString(sql, n == 0 ? "pg_catalog.jsonb_build_object(" : ") OPERATOR(pg_catalog.||) pg_catalog.jsonb_build_object(");
		appendStringInfo(sql, "%s%s, ", n % 50 == 0 ? "" : ", ",
						 quote_literal_cstr(import->columns[i].label));
		poser_import_append_value(sql, import, i,
								  by_name ? psprintf("%s%s", prefix, import->columns[i].name)
										  : psprintf("%s%d", prefix, i + 1));
		n++;
	}
	appendStringInfoString(sql, n == 0 ? "'{}'::pg_catalog.jsonb" : ")");
}
