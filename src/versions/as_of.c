/*
 * as_of.c
 *	  Tables as they were at a time.
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
 * The last transaction issued by this time, or 0: in the order of ids, for
 * times of transactions side by side may be in another.
 */
static int64
transaction_at(const PoserVersioned *versioned, Datum at)
{
	Oid argtypes[] = {TIMESTAMPTZOID};
	bool isnull;
	int64 result;

	poser_history_execute_as_owner(versioned,
								   psprintf("SELECT pg_catalog.max(id)\n"
											"  FROM %s\n"
											" WHERE issued_at OPERATOR(pg_catalog.<=) $1",
											poser_relation_name(versioned->transactions)),
								   lengthof(argtypes), argtypes, &at, true);
	result = poser_history_int64(1, &isnull);
	return isnull ? 0 : result;
}

/*
 * Return all rows of the table as they were at a time, as the result of a
 * set-returning function whose type is the table's.
 */
void
poser_history_as_of(FunctionCallInfo fcinfo, const PoserVersioned *versioned, TimestampTz at)
{
	Oid argtypes[] = {INT8OID};
	Datum value = TimestampTzGetDatum(at);
	TupleDesc desc;
	DestReceiver *dest;
	StringInfoData sql;
	int64 transaction_id;
	const char *separator = "";

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	desc = ((ReturnSetInfo *) fcinfo->resultinfo)->setDesc;
	SPI_connect();

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		const char *name = NULL;

		if (att->attisdropped)
			continue;
		for (int j = 0; j < versioned->natts && name == NULL; j++)
			if (versioned->source[j] == i + 1)
				name = psprintf("v.%s", poser_history_column(versioned, j + 1));
		appendStringInfo(&sql, "%s%s::%s", separator, name != NULL ? name : "NULL",
						 format_type_extended(att->atttypid, att->atttypmod,
											  FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY));
		separator = ", ";
	}
	appendStringInfoString(&sql, "\n  FROM (");
	poser_history_append_last_versions(&sql, versioned, "transaction_id OPERATOR(pg_catalog.<=) $1");
	appendStringInfoString(&sql, ") AS v\n WHERE v.operation_type OPERATOR(pg_catalog.<>) 2");
	if (poser_history_is_restricted(versioned))
		poser_history_append_restriction(&sql, versioned);

	/* everything is read with one snapshot, so that pruning cannot come in between */
	PushActiveSnapshot(GetActiveSnapshot());
	poser_history_lock(versioned, 1);
	poser_lock_query(sql.data, CURSOR_OPT_PARALLEL_OK, lengthof(argtypes), argtypes);
	transaction_id = transaction_at(versioned, value);
	if (transaction_id < poser_history_horizon(versioned, true).transaction_id)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("history as of %s has been pruned",
						DatumGetCString(DirectFunctionCall1(timestamptz_out, value)))));

	value = Int64GetDatum(transaction_id);
	dest = poser_result_receiver((ReturnSetInfo *) fcinfo->resultinfo);
	poser_execute_for(dest, sql.data, CURSOR_OPT_PARALLEL_OK, lengthof(argtypes), argtypes, &value, NULL, 0);
	dest->rDestroy(dest);
	PopActiveSnapshot();
	SPI_finish();
}
