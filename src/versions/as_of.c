/*
 * as_of.c
 *	  All rows of a table as they were at a time.
 *
 * Let T be the greatest id of a transaction that was issued by that time.  The state as
 * of the time has the changes of all transactions with ids up to T.  So it has, of each
 * row, the last version by these transactions, unless this is a delete.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "tcop/dest.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "versions/versions.h"
#include "versions/version_internal.h"

/*
 * Returns the greatest id of the transactions issued by this time, or 0:
 *
 *	SELECT max(id) FROM poser_transaction WHERE issued_at <= $1
 *
 * Of two concurrent transactions the one with the lesser id can have the later time.  So
 * the state can include a transaction that was issued shortly after the time.
 */
static int64
transaction_at(const PoserVersioned *versioned, Datum at)
{
	Oid argtypes[] = {TIMESTAMPTZOID};
	char *sql = psprintf("SELECT pg_catalog.max(id)\n"
						 "  FROM %s\n"
						 " WHERE issued_at OPERATOR(pg_catalog.<=) $1",
						 poser_relation_name(versioned->transactions));
	PoserQuery query = {.sql = sql, .nargs = 1, .argtypes = argtypes, .values = &at, .read_only = true};

	(void) poser_history_run_as_owner(versioned, &query);
	return poser_history_position(1, NULL);
}

/*
 * Returns the query for the rows as they were after transaction $1, with the columns of
 * "desc".  A column that is not recorded is null.
 *
 *	SELECT v.uuid::varchar(32), v.description::varchar(255), v.active::bool
 *	  FROM (<last versions with transaction_id <= $1>) AS v
 *	 WHERE v.operation_type <> 2
 */
static char *
as_of_query(const PoserVersioned *versioned, TupleDesc desc)
{
	StringInfoData sql;
	const char *separator = "";

	/* each column of the table, from the column of the versions that records it */
	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		AttrNumber column = 0;

		if (att->attisdropped)
			continue;
		for (int j = 0; j < versioned->natts && column == 0; j++)
			if (versioned->source[j] == i + 1)
				column = j + 1;
		appendStringInfoString(&sql, separator);
		if (column != 0)
			poser_history_append_column(&sql, versioned, column, "v.%n");
		else
			appendStringInfoString(&sql, "NULL");
		appendStringInfo(&sql, "::%s",
						 format_type_extended(att->atttypid, att->atttypmod,
											  FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY));
		separator = ", ";
	}
	/* the last versions */
	appendStringInfoString(&sql, "\n  FROM (");
	poser_history_append_last_versions(&sql, versioned, "transaction_id OPERATOR(pg_catalog.<=) $1");
	appendStringInfoString(&sql, ") AS v\n WHERE v.operation_type OPERATOR(pg_catalog.<>) 2");
	if (poser_history_is_restricted(versioned))
		poser_history_append_restriction(&sql, versioned);
	return sql.data;
}

/*
 * Return all rows of the table as they were at a time, as the result of a set-returning
 * function that returns the table's row type.  Raises an error if that part of the
 * history has been pruned.
 */
void
poser_history_as_of(FunctionCallInfo fcinfo, const PoserVersioned *versioned, TimestampTz at)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid argtypes[] = {INT8OID};
	Datum value;
	PoserQuery query = {.nargs = 1, .argtypes = argtypes, .values = &value, .read_only = true, .cursor_options = CURSOR_OPT_PARALLEL_OK};
	int64 transaction_id;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	SPI_connect();
	query.sql = as_of_query(versioned, rsinfo->setDesc);

	/* all queries read with one snapshot, so that pruning does not change the history in between */
	PushActiveSnapshot(GetActiveSnapshot());
	poser_history_lock(versioned, 1);
	poser_lock_query_tables(&query);
	transaction_id = transaction_at(versioned, TimestampTzGetDatum(at));
	if (transaction_id < poser_history_horizon(versioned, true).transaction_id)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("history as of %s has been pruned",
						DatumGetCString(DirectFunctionCall1(timestamptz_out, TimestampTzGetDatum(at))))));

	value = Int64GetDatum(transaction_id);
	query.dest = poser_result_receiver(rsinfo);
	(void) poser_run(&query);
	query.dest->rDestroy(query.dest);
	PopActiveSnapshot();
	SPI_finish();
}
