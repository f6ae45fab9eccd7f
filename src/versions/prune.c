/*
 * prune.c
 *	  poser_prune_versions(): removing old versions, and recording how far.
 *
 * Pruning goes up to a transaction P: the last one that is older than the limit and that
 * no consumer of datasync needs.  A version by a transaction up to P is removed if the
 * same row has a later version by a transaction up to P.  What stays is the state after
 * P and all changes since.  Then transactions before P without versions are removed,
 * too.
 *
 * The horizon is one row with the greatest P so far and the greatest change_id that has
 * replaced a removed version.  The state as of a transaction before P is no longer
 * known, nor is the state after a change before that change_id.
 *
 * Only one session prunes at a time.  Pruning waits for transactions that have reverted
 * rows or added a consumer of datasync, and these wait for pruning.  Other readers and
 * writers do not wait.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "versions/versions.h"
#include "versions/version_internal.h"

PG_FUNCTION_INFO_V1(poser_prune_versions);

int64 (*poser_first_needed_hook)(const PoserVersioned *tables) = NULL;

/* How many versions are deleted by one statement. */
#define DELETED_AT_A_TIME 1000

/*
 * Returns the horizon of the history, zeros if nothing has been pruned:
 *
 *	SELECT max(transaction_id), max(change_id) FROM poser_version_horizon
 *
 * With "read_only" it is read with the active snapshot.
 */
PoserHorizon
poser_history_horizon(const PoserVersioned *versioned, bool read_only)
{
	PoserHorizon result;
	char *sql = psprintf("SELECT pg_catalog.max(transaction_id), pg_catalog.max(change_id)\n"
						 "  FROM %s",
						 poser_relation_name(versioned->horizon));

	(void) poser_history_run_as_owner(versioned, &(PoserQuery) {.sql = sql, .read_only = read_only});
	result.transaction_id = poser_history_position(1, NULL);
	result.change_id = poser_history_position(2, NULL);
	return result;
}

/*
 * Returns the transaction up to which versions are pruned.  If there is none, *isnull is
 * true:
 *
 *	SELECT max(id)
 *	  FROM poser_transaction
 *	 WHERE id < COALESCE((SELECT min(id) FROM poser_transaction WHERE issued_at >= $1),
 *	                     9223372036854775807)
 *	   AND id < $2
 *
 * $1 is the time before which a change is old, $2 the first transaction that a consumer
 * needs.
 */
static int64
last_pruned_transaction(const PoserVersioned *tables, TimestampTz before, bool *isnull)
{
	const char *transactions = poser_relation_name(tables[0].transactions);
	Oid argtypes[] = {TIMESTAMPTZOID, INT8OID};
	Datum values[2];
	char *sql = psprintf("SELECT pg_catalog.max(id)\n"
						 "  FROM %s\n"
						 " WHERE id OPERATOR(pg_catalog.<)\n"
						 "       COALESCE((SELECT pg_catalog.min(id) FROM %s\n"
						 "                  WHERE issued_at OPERATOR(pg_catalog.>=) $1), 9223372036854775807)\n"
						 "   AND id OPERATOR(pg_catalog.<) $2",
						 transactions, transactions);

	values[0] = TimestampTzGetDatum(before);
	values[1] = Int64GetDatum(poser_first_needed_hook != NULL ? poser_first_needed_hook(tables) : PG_INT64_MAX);
	(void) poser_run(&(PoserQuery) {.sql = sql, .nargs = 2, .argtypes = argtypes, .values = values, .read_only = true});
	return poser_history_position(1, isnull);
}

/*
 * Returns the query for at most $2 versions that can be pruned up to transaction $1,
 * each with the change that has replaced it:
 *
 *	SELECT change_id, next
 *	  FROM (SELECT change_id, lead(change_id) OVER (PARTITION BY uuid ORDER BY change_id) AS next
 *	          FROM poser_widget_version
 *	         WHERE transaction_id <= $1) AS version
 *	 WHERE next IS NOT NULL
 *	 LIMIT $2
 */
static char *
old_versions_query(const PoserVersioned *versioned)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql,
						   "SELECT change_id, next\n"
						   "  FROM (SELECT change_id, pg_catalog.lead(change_id) OVER (PARTITION BY ");
	poser_history_append_keys(&sql, versioned, ", ", "%n");
	appendStringInfo(&sql,
					 " ORDER BY change_id) AS next\n"
					 "          FROM %s\n"
					 "         WHERE transaction_id OPERATOR(pg_catalog.<=) $1) AS version\n"
					 " WHERE next IS NOT NULL\n"
					 " LIMIT $2",
					 poser_relation_name(versioned->versions));
	return sql.data;
}

/*
 * Remove at most "limit" versions of one table, by transactions up to this one, and raise
 * the horizon's change_id accordingly.  Returns how many were removed.  They are read by a
 * cursor and deleted in parts, so that memory stays bounded:
 *
 *	DELETE FROM poser_widget_version WHERE change_id = ANY ($1)
 */
static int64
prune_versions(const PoserVersioned *versioned, int64 transaction_id, int64 limit, PoserHorizon *horizon)
{
	Oid argtypes[] = {INT8OID, INT8OID};
	Datum values[] = {Int64GetDatum(transaction_id), Int64GetDatum(limit)};
	Oid array_type[] = {INT8ARRAYOID};
	char *delete_sql = psprintf("DELETE FROM %s WHERE change_id OPERATOR(pg_catalog.=) ANY ($1)",
								poser_relation_name(versioned->versions));
	PoserQuery query = {.sql = old_versions_query(versioned), .nargs = 2, .argtypes = argtypes, .values = values, .read_only = true};
	Portal portal = poser_open_cursor_for(&query);
	int64 result = 0;

	for (;;)
	{
		Datum ids[DELETED_AT_A_TIME];
		Datum array;
		SPITupleTable *found;

		/* the next versions, and the horizon that results */
		SPI_cursor_fetch(portal, true, DELETED_AT_A_TIME);
		found = SPI_tuptable;
		if (SPI_processed == 0)
			break;
		CHECK_FOR_INTERRUPTS();
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			HeapTuple tuple = found->vals[i];
			bool isnull;
			int64 next = DatumGetInt64(SPI_getbinval(tuple, found->tupdesc, 2, &isnull));

			ids[i] = SPI_getbinval(tuple, found->tupdesc, 1, &isnull);
			horizon->change_id = Max(horizon->change_id, next);
		}

		/* delete them */
		array = PointerGetDatum(construct_array(ids, SPI_processed, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
		result += poser_run(&(PoserQuery) {.sql = delete_sql, .nargs = 1, .argtypes = array_type, .values = &array});
		SPI_freetuptable(found);
		pfree(DatumGetPointer(array));
	}
	SPI_cursor_close(portal);
	return result;
}

/* Add the ids, up to this one, of the transactions of the versions in a table. */
static void
read_transactions(Relation versions, AttrNumber column, Tuplestorestate *used, TupleDesc desc,
				  int64 transaction_id)
{
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	TupleTableSlot *slot = table_slot_create(versions, NULL);
	TableScanDesc scan = table_beginscan(versions, snapshot, 0, NULL, SO_NONE);
	int64 last = 0;

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		bool isnull;
		Datum value = slot_getattr(slot, column, &isnull);

		CHECK_FOR_INTERRUPTS();
		/* the versions of a transaction usually follow each other, so this leaves out most repetitions */
		if (isnull || DatumGetInt64(value) > transaction_id || DatumGetInt64(value) == last)
			continue;
		last = DatumGetInt64(value);
		tuplestore_putvalues(used, desc, &value, &isnull);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
}

/* All tables with the columns of a table of versions. */
static const char *const version_tables_query =
	"SELECT c.oid\n"
	"  FROM pg_catalog.pg_class AS c\n"
	"       JOIN pg_catalog.pg_attribute AS a ON a.attrelid OPERATOR(pg_catalog.=) c.oid\n"
	" WHERE c.relkind OPERATOR(pg_catalog.=) 'r' AND c.relpersistence OPERATOR(pg_catalog.<>) 't'\n"
	"   AND (a.attname OPERATOR(pg_catalog.=) ANY ('{transaction_id,change_id}'::pg_catalog.name[])\n"
	"        AND a.atttypid OPERATOR(pg_catalog.=) 'pg_catalog.int8'::pg_catalog.regtype\n"
	"        OR a.attname OPERATOR(pg_catalog.=) 'operation_type'\n"
	"        AND a.atttypid OPERATOR(pg_catalog.=) 'pg_catalog.int2'::pg_catalog.regtype)\n"
	" GROUP BY c.oid\n"
	"HAVING pg_catalog.count(*) OPERATOR(pg_catalog.=) 3";

/*
 * Collect the transactions, up to this one, with versions in other tables of versions.
 * These are all tables with the columns of a table of versions, whatever their owner: a
 * trigger may record to such a table now, or may have done so before it was renamed.
 *
 * The tables are scanned without a query, because a query could run their owners' code.
 * Returns false if one of them cannot be locked at once.  Pruning does not wait for such a
 * table, because its owner could then block pruning.
 */
bool
poser_collect_transactions(Tuplestorestate *used, TupleDesc desc, const PoserVersioned *tables, int ntables,
						   int64 transaction_id)
{
	SPITupleTable *found;
	bool result = true;

	/* find the tables that look like tables of versions */
	(void) poser_run(&(PoserQuery) {.sql = version_tables_query, .read_only = true});
	found = SPI_tuptable;
	for (uint64 i = 0; result && i < found->numvals; i++)
	{
		bool isnull;
		Oid relid = DatumGetObjectId(SPI_getbinval(found->vals[i], found->tupdesc, 1, &isnull));
		bool known = false;
		AttrNumber column;
		Relation rel;

		/* the caller looks at the extension's own ones */
		for (int j = 0; j < ntables; j++)
			known = known || tables[j].versions == relid;
		if (known)
			continue;
		if (!ConditionalLockRelationOid(relid, AccessShareLock))
		{
			result = false;
			continue;
		}

		/* the table may have been dropped or altered before we had the lock */
		rel = try_table_open(relid, NoLock);
		if (rel == NULL)
			continue;
		column = get_attnum(relid, "transaction_id");
		if (column > 0 && get_atttype(relid, column) == INT8OID)
			read_transactions(rel, column, used, desc, transaction_id);
		table_close(rel, AccessShareLock);
	}
	SPI_freetuptable(found);
	return result;
}

/*
 * Remove the transactions before this one to which no version in any table belongs:
 *
 *	DELETE FROM poser_transaction AS t
 *	 WHERE t.id < $1
 *	   AND NOT EXISTS (SELECT FROM poser_used AS used WHERE used.id = t.id)
 *	   AND NOT EXISTS (SELECT FROM poser_widget_version AS v WHERE v.transaction_id = t.id)
 *	   AND NOT EXISTS (SELECT FROM poser_component_version AS v WHERE v.transaction_id = t.id)
 *
 * "poser_used" has the transactions that poser_collect_transactions() has found.  If it has not
 * seen all tables, no transaction is removed.
 */
static void
prune_transactions(const PoserVersioned *tables, int ntables, int64 transaction_id)
{
	Oid argtypes[] = {INT8OID};
	Datum values[] = {Int64GetDatum(transaction_id)};
	EphemeralNamedRelationData enr;
	Tuplestorestate *used = tuplestore_begin_heap(false, false, work_mem);
	TupleDesc desc = CreateTemplateTupleDesc(1);
	StringInfoData sql;

	TupleDescInitEntry(desc, 1, "id", INT8OID, -1, 0);
	TupleDescFinalize(desc);
	if (poser_collect_transactions(used, desc, tables, ntables, transaction_id))
	{
		poser_register_rows(&enr, "poser_used", desc, used, tuplestore_tuple_count(used));
		initStringInfo(&sql);
		appendStringInfo(&sql,
						 "DELETE FROM %s AS t\n"
						 " WHERE t.id OPERATOR(pg_catalog.<) $1\n"
						 "   AND NOT EXISTS (SELECT FROM poser_used AS used WHERE used.id OPERATOR(pg_catalog.=) t.id)",
						 poser_relation_name(tables[0].transactions));
		for (int i = 0; i < ntables; i++)
			appendStringInfo(&sql,
							 "\n   AND NOT EXISTS (SELECT FROM %s AS v\n"
							 "                    WHERE v.transaction_id OPERATOR(pg_catalog.=) t.id)",
							 poser_relation_name(tables[i].versions));
		(void) poser_run(&(PoserQuery) {.sql = sql.data, .nargs = 1, .argtypes = argtypes, .values = values, .once = true, .expected = SPI_OK_DELETE});
		SPI_unregister_relation(enr.md.name);
	}
	tuplestore_end(used);
}

/*
 * Replace the horizon:
 *
 *	DELETE FROM poser_version_horizon
 *	INSERT INTO poser_version_horizon (transaction_id, change_id) VALUES ($1, $2)
 */
static void
set_horizon(const PoserVersioned *versioned, PoserHorizon horizon)
{
	const char *name = poser_relation_name(versioned->horizon);
	Oid argtypes[] = {INT8OID, INT8OID};
	Datum values[] = {Int64GetDatum(horizon.transaction_id), Int64GetDatum(horizon.change_id)};
	char *sql;

	(void) poser_run(&(PoserQuery) {.sql = psprintf("DELETE FROM %s", name)});
	sql = psprintf("INSERT INTO %s (transaction_id, change_id) VALUES ($1, $2)", name);
	(void) poser_run(&(PoserQuery) {.sql = sql, .nargs = 2, .argtypes = argtypes, .values = values});
}

/*
 * Remove at most "limit" versions of these tables, by transactions before this time, and
 * then transactions without versions.  Returns how many versions were removed.  Raises
 * an error unless the current user has the rights of the owner of all these tables.
 */
static int64
prune(const PoserVersioned *tables, int ntables, TimestampTz before, int64 limit)
{
	Oid save_userid;
	int save_sec_context;
	int64 transaction_id;
	int64 result = 0;
	bool isnull;

	poser_check_owner(tables[0].transactions);
	poser_check_owner(tables[0].horizon);
	for (int i = 0; i < ntables; i++)
		poser_check_owner(tables[i].versions);

	/* only one session prunes at a time; all queries that read use one snapshot */
	LockRelationOid(tables[0].horizon, ShareUpdateExclusiveLock);
	poser_become_owner(tables[0].transactions, &save_userid, &save_sec_context);
	PushActiveSnapshot(GetTransactionSnapshot());
	poser_history_lock(tables, ntables);
	SPI_connect();

	/* the row of this transaction may be removed */
	poser_transaction_forget();

	transaction_id = last_pruned_transaction(tables, before, &isnull);
	if (!isnull)
	{
		PoserHorizon horizon = poser_history_horizon(&tables[0], true);

		horizon.transaction_id = Max(horizon.transaction_id, transaction_id);
		for (int i = 0; i < ntables && result < limit; i++)
			result += prune_versions(&tables[i], transaction_id, limit - result, &horizon);
		if (result > 0)
			set_horizon(&tables[0], horizon);
		/* the transaction itself stays: it gives the time of the oldest state that is left */
		if (result < limit)
			prune_transactions(tables, ntables, transaction_id);
	}

	SPI_finish();
	PopActiveSnapshot();
	SetUserIdAndSecContext(save_userid, save_sec_context);
	return result;
}

/*
 * Returns the time before which something is older than the argument "older_than" of a
 * function, which is an interval.  Raises an error if the argument is null or negative.
 */
TimestampTz
poser_older_than_argument(FunctionCallInfo fcinfo, int arg)
{
	Interval zero = {0};

	if (PG_ARGISNULL(arg) ||
		DatumGetBool(DirectFunctionCall2(interval_lt, PG_GETARG_DATUM(arg), IntervalPGetDatum(&zero))))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("older_than must be an interval that is not negative")));
	return DatumGetTimestampTz(DirectFunctionCall2(timestamptz_mi_interval,
												   TimestampTzGetDatum(GetCurrentTimestamp()),
												   PG_GETARG_DATUM(arg)));
}

/*
 * poser_prune_versions(older_than interval, max_versions bigint) returns bigint
 *
 * The result is how many versions were removed.
 */
Datum
poser_prune_versions(PG_FUNCTION_ARGS)
{
	PoserVersioned tables[POSER_VERSIONED_TABLES];
	int64 limit = PG_INT64_MAX;
	TimestampTz before;

	PreventCommandIfReadOnly("poser_prune_versions()");
	before = poser_older_than_argument(fcinfo, 0);
	if (!PG_ARGISNULL(1))
		limit = PG_GETARG_INT64(1);
	if (limit < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_versions must be at least 1")));

	poser_versioned_describe_all(tables, get_func_namespace(fcinfo->flinfo->fn_oid));
	PG_RETURN_INT64(prune(tables, POSER_VERSIONED_TABLES, before, limit));
}
