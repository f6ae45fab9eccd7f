/*
 * as_of.c
 *	  The rows of a table as they were at a time.
 *
 * Let T be the greatest id of a transaction that was issued by that time, see
 * transaction_read.c.  The state as of the time has the changes of all transactions with
 * ids up to T.  So it has, of each row, the last version by these transactions, unless
 * this is a delete.
 *
 * One row that is given by its key needs neither T nor a query.  Its versions are read by
 * the index on the key, newest first, until one is found that belongs to the state.
 *
 * The result has the table's row type as it is now.  A column is found by its number, so
 * it may have been renamed, and its recorded values are cast if it has another type now.
 * A column that is not recorded is null.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relscan.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/parse_coerce.h"
#include "tcop/dest.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "versions/versions.h"
#include "versions/version_internal.h"

/* A row has so many versions read one by one; if it has more, T is found first. */
#define MAX_SINGLE_VERSIONS 16

/* A receiver of versions, which returns them as rows of the table. */
typedef struct RowReceiver
{
	DestReceiver pub;
	ReturnSetInfo *rsinfo;
	const PoserVersioned *versioned;
	AttrNumber *columns; /* by column of the result: the version's column, or 0 */
	ExprState **casts;	 /* by column of the result: the cast of the version's value, or NULL */
	EState *estate;		 /* of the casts; NULL if there are none */
	bool as_owner;		 /* a cast can run code of a user */
	Datum *values;		 /* of one row */
	bool *nulls;
} RowReceiver;

/*
 * Returns, by column of the versions, the table's column that it records or has recorded.
 * These are the columns of the description, and those that have another type now.
 */
static AttrNumber *
recorded_columns(const PoserVersioned *versioned, TupleDesc desc)
{
	AttrNumber *result = palloc0(desc->natts * sizeof(AttrNumber));
	bool complete = true;
	PoserBinding binding;

	for (int i = 0; i < versioned->natts; i++)
		if (versioned->source[i] != 0 && versioned->source[i] <= desc->natts)
			result[versioned->source[i] - 1] = i + 1;
	for (int i = 0; i < desc->natts; i++)
		complete = complete && (result[i] != 0 || TupleDescAttr(desc, i)->attisdropped);
	if (complete || !poser_own_binding(versioned, &binding))
		return result;
	for (int i = 0; i < binding.ncolumns; i++)
	{
		PoserBoundColumn *column = &binding.columns[i];

		if (column->attnum <= desc->natts && result[column->attnum - 1] == 0 && column->versions_attnum != 0 &&
			OidIsValid(get_atttype(versioned->versions, column->versions_attnum)))
			result[column->attnum - 1] = column->versions_attnum;
	}
	return result;
}

/* Prepare the cast of a recorded column to a column of the result.  A cast for a user's type runs as the table's owner, also here. */
static void
prepare_cast(RowReceiver *receiver, int i)
{
	Form_pg_attribute att = TupleDescAttr(receiver->rsinfo->setDesc, i);
	AttrNumber column = receiver->columns[i];
	CaseTestExpr *value = makeNode(CaseTestExpr);
	PoserReader owner = {false};
	Node *cast;

	get_atttypetypmodcoll(receiver->versioned->versions, column, &value->typeId, &value->typeMod, &value->collation);
	if (value->typeId == att->atttypid && (att->atttypmod == -1 || att->atttypmod == value->typeMod))
		return;
	if (value->typeId >= FirstNormalObjectId || att->atttypid >= FirstNormalObjectId)
	{
		receiver->as_owner = true;
		poser_history_become_owner(&owner, receiver->versioned->relid);
	}
	cast = coerce_to_target_type(NULL, (Node *) value, value->typeId, att->atttypid, att->atttypmod,
								 COERCION_EXPLICIT, COERCE_EXPLICIT_CAST, -1);
	if (cast == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CANNOT_COERCE),
				 errmsg("column \"%s\" of relation \"%s\" was recorded as type %s, which cannot be cast to %s",
						NameStr(att->attname), get_rel_name(receiver->versioned->relid),
						format_type_be(value->typeId), format_type_be(att->atttypid))));
	if (receiver->estate == NULL)
		receiver->estate = CreateExecutorState();
	receiver->casts[i] = ExecPrepareExpr((Expr *) cast, receiver->estate);
	poser_history_become_caller(&owner);
}

/* Return a version as a row of the table. */
static void
put_row(RowReceiver *receiver, TupleTableSlot *version)
{
	TupleDesc desc = receiver->rsinfo->setDesc;
	PoserReader owner = {false};

	for (int i = 0; i < desc->natts; i++)
	{
		AttrNumber column = receiver->columns[i];

		receiver->nulls[i] = true;
		if (column != 0)
			receiver->values[i] = slot_getattr(version, column, &receiver->nulls[i]);
	}

	/* casts, and checks of domains, are code of the table's owner */
	if (receiver->estate != NULL)
	{
		ExprContext *econtext = GetPerTupleExprContext(receiver->estate);

		if (receiver->as_owner)
			poser_history_become_owner(&owner, receiver->versioned->relid);
		ResetExprContext(econtext);
		for (int i = 0; i < desc->natts; i++)
		{
			if (receiver->casts[i] == NULL)
				continue;
			econtext->caseValue_datum = receiver->values[i];
			econtext->caseValue_isNull = receiver->nulls[i];
			receiver->values[i] = ExecEvalExprSwitchContext(receiver->casts[i], econtext, &receiver->nulls[i]);
		}
		poser_history_become_caller(&owner);
	}
	tuplestore_putvalues(receiver->rsinfo->setResult, desc, receiver->values, receiver->nulls);
}

static bool
receive_row(TupleTableSlot *slot, DestReceiver *self)
{
	put_row((RowReceiver *) self, slot);
	return true;
}

static void
start_rows(DestReceiver *self, int operation, TupleDesc desc)
{
}

static void
end_rows(DestReceiver *self)
{
}

/* Make a receiver of versions in the order of poser_history_append_versions(). */
static RowReceiver *
make_receiver(ReturnSetInfo *rsinfo, const PoserVersioned *versioned)
{
	RowReceiver *receiver = palloc0(sizeof(RowReceiver));
	TupleDesc desc = rsinfo->setDesc;

	receiver->pub.receiveSlot = receive_row;
	receiver->pub.rStartup = start_rows;
	receiver->pub.rShutdown = end_rows;
	receiver->pub.rDestroy = end_rows;
	receiver->pub.mydest = DestNone;
	receiver->rsinfo = rsinfo;
	receiver->versioned = versioned;
	receiver->columns = recorded_columns(versioned, desc);
	receiver->casts = palloc0(desc->natts * sizeof(ExprState *));
	receiver->values = palloc0(desc->natts * sizeof(Datum));
	receiver->nulls = palloc0(desc->natts * sizeof(bool));

	for (int i = 0; i < desc->natts; i++)
		if (TupleDescAttr(desc, i)->attisdropped)
			receiver->columns[i] = 0;
		else if (receiver->columns[i] != 0)
			prepare_cast(receiver, i);
	return receiver;
}

/* Raises the error for a time before the horizon. */
static void
pruned_error(TimestampTz at)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("history as of %s has been pruned",
					DatumGetCString(DirectFunctionCall1(timestamptz_out, TimestampTzGetDatum(at))))));
}

/*
 * Returns the query for the versions that match, as they were after transaction $n, which
 * is the last parameter.  The last version of each row is the one that must match:
 *
 *	SELECT v.uuid, v.description, v.active, ...
 *	  FROM (<last versions with transaction_id <= $n>) AS v
 *	 WHERE v.operation_type <> 2 AND v.description = $1
 *
 * A condition on the key holds for all versions of a row or for none, so it goes into the
 * inner query, which can use the index on the key.  If there is an index for the condition:
 *
 *	SELECT v.uuid, v.description, v.active, ...
 *	  FROM poser_widget_version AS v
 *	 WHERE v.operation_type <> 2 AND v.description = $1 AND v.transaction_id <= $n
 *	   AND v.change_id = (SELECT last.change_id FROM poser_widget_version AS last
 *	                       WHERE last.uuid = v.uuid AND last.transaction_id <= $n
 *	                       ORDER BY last.change_id DESC LIMIT 1)
 */
static char *
as_of_query(const PoserVersioned *versioned, const PoserMatch *match, int n)
{
	const char *versions = poser_relation_name(versioned->versions);
	const char *operation_type = poser_history_column(versioned, versioned->operation_type);
	const char *transaction_id = poser_history_column(versioned, versioned->transaction_id);
	const char *change_id = poser_history_column(versioned, versioned->change_id);
	bool indexed = !match->only_key && poser_match_is_indexed(versioned, match);
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	poser_history_append_versions(&sql, versioned, "v");
	if (indexed)
		appendStringInfo(&sql, "\n  FROM %s AS v", versions);
	else
	{
		StringInfoData condition;

		initStringInfo(&condition);
		if (match->only_key && match->ncolumns > 0)
		{
			poser_match_append(&condition, versioned, match, "version", false);
			appendStringInfoString(&condition, " AND ");
		}
		appendStringInfo(&condition, "%s OPERATOR(pg_catalog.<=) $%d", transaction_id, n);
		appendStringInfoString(&sql, "\n  FROM (");
		poser_history_append_last_versions(&sql, versioned, condition.data);
		appendStringInfoString(&sql, ") AS v");
	}
	appendStringInfo(&sql, "\n WHERE v.%s OPERATOR(pg_catalog.<>) 2", operation_type);
	if (!match->only_key)
	{
		appendStringInfoString(&sql, " AND ");
		poser_match_append(&sql, versioned, match, "v", false);
	}
	if (indexed)
	{
		appendStringInfo(&sql,
						 " AND v.%s OPERATOR(pg_catalog.<=) $%d\n"
						 "   AND v.%s OPERATOR(pg_catalog.=) (SELECT last.%s FROM %s AS last WHERE ",
						 transaction_id, n, change_id, change_id, versions);
		poser_history_append_keys(&sql, versioned, " AND ", "last.%n %= v.%n");
		appendStringInfo(&sql, " AND last.%s OPERATOR(pg_catalog.<=) $%d ORDER BY last.%s DESC LIMIT 1)",
						 transaction_id, n, change_id);
	}
	if (poser_history_is_restricted(versioned))
		poser_history_append_restriction(&sql, versioned);
	return sql.data;
}

/*
 * Raises an error if the history up to a transaction has been pruned, unless the match is
 * of one row with a version that is as old:
 *
 *	SELECT FROM poser_widget_version AS v WHERE v.uuid = $1 AND v.transaction_id <= $2
 */
static void
check_horizon(const PoserVersioned *versioned, const PoserMatch *match, PoserQuery query, int n,
			  int64 transaction_id, TimestampTz at)
{
	StringInfoData sql;

	if (transaction_id >= poser_history_horizon(versioned, true).transaction_id)
		return;
	if (!match->whole_key)
		pruned_error(at);
	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT FROM %s AS v WHERE ", poser_relation_name(versioned->versions));
	poser_match_append(&sql, versioned, match, "v", false);
	appendStringInfo(&sql, " AND v.%s OPERATOR(pg_catalog.<=) $%d",
					 poser_history_column(versioned, versioned->transaction_id), n);
	query.sql = sql.data;
	query.limit = 1;
	query.cursor_options = 0;
	if (poser_run(&query) == 0)
		pruned_error(at);
}

/* Return the rows that match, by a query, which the current user runs. */
static void
return_by_query(ReturnSetInfo *rsinfo, const PoserVersioned *versioned, PoserMatch *match,
				PoserTransactions *transactions, TimestampTz at)
{
	RowReceiver *receiver = make_receiver(rsinfo, versioned);
	int n = poser_match_add_parameter(match, 0);
	PoserQuery query = {.sql = as_of_query(versioned, match, n), .nargs = n, .argtypes = match->argtypes, .values = match->values, .read_only = true, .cursor_options = CURSOR_OPT_PARALLEL_OK};
	int64 transaction_id;

	SPI_connect();
	poser_lock_query_tables(&query);
	poser_transactions_begin(transactions, false);
	transaction_id = poser_transactions_at(transactions, at);
	poser_transactions_end(transactions);
	match->values[n - 1] = Int64GetDatum(transaction_id);
	check_horizon(versioned, match, query, n, transaction_id, at);
	query.dest = &receiver->pub;
	(void) poser_run(&query);
	SPI_finish();
	if (receiver->estate != NULL)
		FreeExecutorState(receiver->estate);
}

/* Returns the last version of the row that belongs to the state, in the scan's slot.  Returns false if there is none. */
static bool
find_version(const PoserVersioned *versioned, PoserTransactions *transactions, TimestampTz at, IndexScanDesc scan,
			 TupleTableSlot *slot)
{
	int64 last = 0;

	for (int n = 0; index_getnext_slot(scan, BackwardScanDirection, slot); n++)
	{
		int64 id = poser_version_transaction_id(versioned, slot);

		CHECK_FOR_INTERRUPTS();
		if (n == MAX_SINGLE_VERSIONS)
			last = poser_transactions_at(transactions, at);
		if (n < MAX_SINGLE_VERSIONS ? poser_transactions_counts(transactions, id, at) : id <= last)
			return true;
	}
	return false;
}

/* Return the row with this key, without a query: the current user may read all versions. */
static void
return_by_key(ReturnSetInfo *rsinfo, const PoserVersioned *versioned, const PoserMatch *match,
			  PoserTransactions *transactions, TimestampTz at)
{
	Relation versions = table_open(versioned->versions, AccessShareLock);
	Relation index = index_open(versioned->versions_index, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(versions, NULL);
	ScanKeyData keys[INDEX_MAX_KEYS];
	IndexScanDesc scan;

	for (int i = 0; i < versioned->nkeys; i++)
		for (int j = 0; j < match->ncolumns; j++)
			if (match->columns[j] == versioned->keys[i])
				poser_scan_key(&keys[i], index, i + 1, BTEqualStrategyNumber, match->values[match->parameters[j] - 1]);
	poser_transactions_begin(transactions, false);
	scan = index_beginscan(versions, index, GetActiveSnapshot(), NULL, versioned->nkeys, 0, SO_NONE);
	index_rescan(scan, keys, versioned->nkeys, NULL, 0);
	if (find_version(versioned, transactions, at, scan, slot))
	{
		if (poser_version_operation(versioned, slot) != POSER_DELETE)
		{
			RowReceiver *receiver = make_receiver(rsinfo, versioned);

			put_row(receiver, slot);
			if (receiver->estate != NULL)
				FreeExecutorState(receiver->estate);
		}
	}
	else
	{
		int64 horizon;

		SPI_connect();
		horizon = poser_history_horizon(versioned, true).transaction_id;
		SPI_finish();
		if (horizon > 0 && poser_transactions_at(transactions, at) < horizon)
			pruned_error(at);
	}
	index_endscan(scan);
	poser_transactions_end(transactions);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
	table_close(versions, AccessShareLock);
}

/*
 * Return the rows that match as they were at a time, as the result of a set-returning
 * function that returns the table's row type.  Raises an error if that part of the
 * history has been pruned.  The current user is the reader; "is_owner" says that no
 * row-level security applies to it.
 */
static void
return_rows(FunctionCallInfo fcinfo, const PoserVersioned *versioned, PoserMatch *match, TimestampTz at, bool is_owner)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	PoserTransactions *transactions;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);

	/* all is read with one snapshot, so that pruning does not change the history in between */
	PushActiveSnapshot(GetActiveSnapshot());
	poser_history_lock(versioned, 1);
	poser_history_check_position(get_atttype(versioned->transactions, get_attnum(versioned->transactions, "id")));
	transactions = poser_transactions_open(versioned->transactions);
	if (is_owner && match->whole_key && OidIsValid(versioned->versions_index) && !versioned->partitioned)
		return_by_key(rsinfo, versioned, match, transactions, at);
	else
		return_by_query(rsinfo, versioned, match, transactions, at);
	poser_transactions_close(transactions);
	PopActiveSnapshot();
}

/* Return all rows of one of the extension's tables as they were at a time.  All is read with the caller's privileges. */
void
poser_history_as_of(FunctionCallInfo fcinfo, const PoserVersioned *versioned, TimestampTz at)
{
	return_rows(fcinfo, versioned, poser_match_read(versioned, NULL), at, false);
}

/* Return the rows of any table that match a JSON object as they were at a time. */
void
poser_history_as_of_matching(FunctionCallInfo fcinfo, const PoserVersioned *versioned, TimestampTz at, Jsonb *object)
{
	PoserMatch *match = poser_match_read(versioned, object);
	PoserReader reader;

	poser_history_become_reader(&reader, versioned);
	return_rows(fcinfo, versioned, match, at, reader.is_owner);
	poser_history_become_caller(&reader);
}
