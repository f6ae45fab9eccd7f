/*
 * prune.c
 *	  Pruning the history.
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

/* The least id of a transaction that must not be pruned, see versions.h. */
int64 (*poser_first_needed_hook)(const PoserVersioned *tables) = NULL;

/* Rows fetched or deleted at a time. */
#define BATCH 1000

Horizon
poser_history_horizon(const PoserVersioned *versioned, bool read_only)
{
	Horizon result;
	bool isnull;

	poser_history_execute_as_owner(versioned,
								   psprintf("SELECT pg_catalog.max(transaction_id), pg_catalog.max(change_id)\n"
											"  FROM %s",
											poser_relation_name(versioned->horizon)),
								   0, NULL, NULL, read_only);
	result.transaction_id = poser_history_int64(1, &isnull);
	if (isnull)
		result.transaction_id = 0;
	result.change_id = poser_history_int64(2, &isnull);
	if (isnull)
		result.change_id = 0;
	return result;
}

/*
 * Remove versions of one table that have been followed by another one, both of
 * transactions up to this one, at most "limit" of them.  What was the state
 * after that transaction, and what came later, stays.  Raises the horizon.
 */
static int64
prune_versions(const PoserVersioned *versioned, int64 transaction_id, int64 limit, Horizon *horizon)
{
	Oid argtypes[] = {INT8OID, INT8OID};
	Datum values[] = {Int64GetDatum(transaction_id), Int64GetDatum(limit)};
	Oid array_type[] = {INT8ARRAYOID};
	char *delete_query = psprintf("DELETE FROM %s WHERE change_id OPERATOR(pg_catalog.=) ANY ($1)",
								  poser_relation_name(versioned->versions));
	StringInfoData sql;
	Portal portal;
	int64 result = 0;

	initStringInfo(&sql);
	appendStringInfoString(&sql,
						   "SELECT change_id, next\n"
						   "  FROM (SELECT change_id, pg_catalog.lead(change_id) OVER (PARTITION BY ");
	poser_history_append_keys(&sql, versioned, "");
	appendStringInfo(&sql,
					 " ORDER BY change_id) AS next\n"
					 "          FROM %s\n"
					 "         WHERE transaction_id OPERATOR(pg_catalog.<=) $1) AS version\n"
					 " WHERE next IS NOT NULL\n"
					 " LIMIT $2",
					 poser_relation_name(versioned->versions));
	portal = poser_open_cursor(sql.data, lengthof(argtypes), argtypes, values);
	for (;;)
	{
		Datum ids[BATCH];
		Datum array;
		SPITupleTable *batch;

		SPI_cursor_fetch(portal, true, BATCH);
		batch = SPI_tuptable;
		if (SPI_processed == 0)
			break;
		CHECK_FOR_INTERRUPTS();
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			bool isnull;

			ids[i] = SPI_getbinval(batch->vals[i], batch->tupdesc, 1, &isnull);
			horizon->change_id = Max(horizon->change_id,
									 DatumGetInt64(SPI_getbinval(batch->vals[i], batch->tupdesc, 2, &isnull)));
		}
		array = PointerGetDatum(construct_array(ids, SPI_processed, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
		result += poser_history_execute(delete_query, 1, array_type, &array, false);
		SPI_freetuptable(batch);
		pfree(DatumGetPointer(array));
	}
	SPI_cursor_close(portal);
	return result;
}

/* Append the condition that a table has no version of transaction "t". */
static void
append_no_version(StringInfo sql, Oid versions)
{
	appendStringInfo(sql,
					 "\n   AND NOT EXISTS (SELECT FROM %s AS v\n"
					 "                    WHERE v.transaction_id OPERATOR(pg_catalog.=) t.id)",
					 poser_relation_name(versions));
}

/*
 * Collect the transactions, up to this one, of which other tables have versions.
 * Each table with the columns of a table of versions counts, whoever owns it: a
 * trigger may record to it now, or may have done so before it was renamed.  Tables
 * are scanned without a query, because a query could run their owners' code.
 *
 * Returns false if one of the tables cannot be locked at once.  Pruning does not
 * wait for it, because its owner could then block pruning.
 */
static bool
collect_transactions(Tuplestorestate *used, TupleDesc desc, const PoserVersioned *tables, int ntables,
					 int64 transaction_id)
{
	SPITupleTable *found;
	bool result = true;

	poser_history_execute("SELECT c.oid\n"
						  "  FROM pg_catalog.pg_class AS c\n"
						  "       JOIN pg_catalog.pg_attribute AS a ON a.attrelid OPERATOR(pg_catalog.=) c.oid\n"
						  " WHERE c.relkind OPERATOR(pg_catalog.=) 'r' AND c.relpersistence OPERATOR(pg_catalog.<>) 't'\n"
						  "   AND (a.attname OPERATOR(pg_catalog.=) ANY ('{transaction_id,change_id}'::pg_catalog.name[])\n"
						  "        AND a.atttypid OPERATOR(pg_catalog.=) 'pg_catalog.int8'::pg_catalog.regtype\n"
						  "        OR a.attname OPERATOR(pg_catalog.=) 'operation_type'\n"
						  "        AND a.atttypid OPERATOR(pg_catalog.=) 'pg_catalog.int2'::pg_catalog.regtype)\n"
						  " GROUP BY c.oid\n"
						  "HAVING pg_catalog.count(*) OPERATOR(pg_catalog.=) 3",
						  0, NULL, NULL, true);
	found = SPI_tuptable;
	for (uint64 i = 0; result && i < found->numvals; i++)
	{
		bool isnull;
		Oid relid = DatumGetObjectId(SPI_getbinval(found->vals[i], found->tupdesc, 1, &isnull));
		bool known = false;
		AttrNumber column;
		Relation rel;
		Snapshot snapshot;
		TableScanDesc scan;
		TupleTableSlot *slot;
		int64 last = 0;

		for (int j = 0; j < ntables; j++)
			known = known || tables[j].versions == relid;
		if (known)
			continue;
		if (!ConditionalLockRelationOid(relid, AccessShareLock))
		{
			result = false;
			continue;
		}
		rel = try_table_open(relid, NoLock);
		if (rel == NULL)
			continue;
		column = get_attnum(relid, "transaction_id");
		if (column > 0 && get_atttype(relid, column) == INT8OID)
		{
			snapshot = RegisterSnapshot(GetLatestSnapshot());
			slot = table_slot_create(rel, NULL);
			scan = table_beginscan(rel, snapshot, 0, NULL, SO_NONE);
			while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
			{
				Datum value = slot_getattr(slot, column, &isnull);

				CHECK_FOR_INTERRUPTS();
				if (isnull || DatumGetInt64(value) > transaction_id || DatumGetInt64(value) == last)
					continue;
				last = DatumGetInt64(value);
				tuplestore_putvalues(used, desc, &value, &isnull);
			}
			table_endscan(scan);
			ExecDropSingleTupleTableSlot(slot);
			UnregisterSnapshot(snapshot);
		}
		table_close(rel, AccessShareLock);
	}
	SPI_freetuptable(found);
	return result;
}

/* Remove the transactions before this one of which no table has a version. */
static void
prune_transactions(const PoserVersioned *tables, int ntables, int64 transaction_id)
{
	Oid argtypes[] = {INT8OID};
	Datum values[] = {Int64GetDatum(transaction_id)};
	EphemeralNamedRelationData used = {0};
	TupleDesc desc = CreateTemplateTupleDesc(1);
	StringInfoData sql;

	TupleDescInitEntry(desc, 1, "id", INT8OID, -1, 0);
	TupleDescFinalize(desc);
	used.reldata = tuplestore_begin_heap(false, false, work_mem);
	if (collect_transactions(used.reldata, desc, tables, ntables, transaction_id))
	{
		used.md.name = "poser_used";
		used.md.reliddesc = InvalidOid;
		used.md.tupdesc = desc;
		used.md.enrtype = ENR_NAMED_TUPLESTORE;
		used.md.enrtuples = tuplestore_tuple_count(used.reldata);
		if (SPI_register_relation(&used) != SPI_OK_REL_REGISTER)
			elog(ERROR, "could not register the transactions that are used");
		initStringInfo(&sql);
		appendStringInfo(&sql,
						 "DELETE FROM %s AS t\n"
						 " WHERE t.id OPERATOR(pg_catalog.<) $1\n"
						 "   AND NOT EXISTS (SELECT FROM poser_used AS used WHERE used.id OPERATOR(pg_catalog.=) t.id)",
						 poser_relation_name(tables[0].transactions));
		for (int i = 0; i < ntables; i++)
			append_no_version(&sql, tables[i].versions);
		if (SPI_execute_with_args(sql.data, 1, argtypes, values, NULL, false, 0) != SPI_OK_DELETE)
			elog(ERROR, "could not remove transactions");
		SPI_unregister_relation(used.md.name);
	}
	tuplestore_end(used.reldata);
}

/*
 * Remove old versions of all these tables, and the transactions that have none
 * any more.  "before" is the time before which a change is old.  The current
 * user must have the owner's rights on all tables of the history.
 */
int64
poser_history_prune(const PoserVersioned *tables, int ntables, TimestampTz before, int64 limit)
{
	const PoserVersioned *first = &tables[0];
	Oid limit_types[] = {TIMESTAMPTZOID, INT8OID};
	Datum limits[2];
	Oid position_types[] = {INT8OID, INT8OID};
	Datum position[2];
	const char *transactions = poser_relation_name(first->transactions);
	const char *horizons = poser_relation_name(first->horizon);
	Oid save_userid;
	int save_sec_context;
	Horizon horizon;
	int64 transaction_id;
	int64 result = 0;
	bool isnull;

	poser_check_owner(first->transactions);
	poser_check_owner(first->horizon);
	for (int i = 0; i < ntables; i++)
		poser_check_owner(tables[i].versions);

	/* one at a time */
	LockRelationOid(first->horizon, ShareUpdateExclusiveLock);
	poser_become_owner(first->transactions, &save_userid, &save_sec_context);
	PushActiveSnapshot(GetTransactionSnapshot());
	poser_history_lock(tables, ntables);
	SPI_connect();

	/* should the row of this transaction go, then another is written when needed */
	poser_version_forget();

	/* the last transaction before the first that is not old, or that a consumer needs */
	limits[0] = TimestampTzGetDatum(before);
	limits[1] = Int64GetDatum(poser_first_needed_hook != NULL ? poser_first_needed_hook(tables) : PG_INT64_MAX);
	poser_history_execute(psprintf("SELECT pg_catalog.max(id)\n"
								   "  FROM %s\n"
								   " WHERE id OPERATOR(pg_catalog.<)\n"
								   "       COALESCE((SELECT pg_catalog.min(id) FROM %s\n"
								   "                  WHERE issued_at OPERATOR(pg_catalog.>=) $1), 9223372036854775807)\n"
								   "   AND id OPERATOR(pg_catalog.<) $2",
								   transactions, transactions),
						  2, limit_types, limits, true);
	transaction_id = poser_history_int64(1, &isnull);
	if (!isnull)
	{
		horizon = poser_history_horizon(first, true);
		horizon.transaction_id = Max(horizon.transaction_id, transaction_id);
		for (int i = 0; i < ntables && result < limit; i++)
			result += prune_versions(&tables[i], transaction_id, limit - result, &horizon);
		position[0] = Int64GetDatum(horizon.transaction_id);
		position[1] = Int64GetDatum(horizon.change_id);
		if (result > 0)
		{
			poser_history_execute(psprintf("DELETE FROM %s", horizons), 0, NULL, NULL, false);
			poser_history_execute(psprintf("INSERT INTO %s (transaction_id, change_id) VALUES ($1, $2)", horizons),
								  2, position_types, position, false);
		}
		/* the last one stays, as the place in time of what is left */
		if (result < limit)
			prune_transactions(tables, ntables, transaction_id);
	}

	SPI_finish();
	PopActiveSnapshot();
	SetUserIdAndSecContext(save_userid, save_sec_context);
	return result;
}

/*
 * poser_prune_versions(older_than interval, max_versions bigint) returns bigint
 */
Datum
poser_prune_versions(PG_FUNCTION_ARGS)
{
	PoserVersioned tables[POSER_VERSIONED_TABLES];
	Interval zero = {0};
	int64 limit = PG_INT64_MAX;
	Datum before;

	PreventCommandIfReadOnly("poser_prune_versions()");
	if (PG_ARGISNULL(0) ||
		DatumGetBool(DirectFunctionCall2(interval_lt, PG_GETARG_DATUM(0), IntervalPGetDatum(&zero))))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("older_than must be an interval that is not negative")));
	if (!PG_ARGISNULL(1))
		limit = PG_GETARG_INT64(1);
	if (limit < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_versions must be at least 1")));

	before = DirectFunctionCall2(timestamptz_mi_interval,
								 TimestampTzGetDatum(GetCurrentTimestamp()), PG_GETARG_DATUM(0));
	poser_versioned_describe_all(tables, get_func_namespace(fcinfo->flinfo->fn_oid));
	PG_RETURN_INT64(poser_history_prune(tables, POSER_VERSIONED_TABLES,
										DatumGetTimestampTz(before), limit));
}
