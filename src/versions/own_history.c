/*
 * own_history.c
 *	  poser_history(), poser_as_of() and poser_revert(): the history of any table.
 *
 * A history has the changes whose old or new row matches.  For one row these are all its
 * versions, and the index on the key gives them in order.  Otherwise a query gives each
 * change together with the version before it, newest first, so that it can end after
 * some of them.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "versions/versions.h"
#include "versions/version_internal.h"

PG_FUNCTION_INFO_V1(poser_history);
PG_FUNCTION_INFO_V1(poser_as_of);
PG_FUNCTION_INFO_V1(poser_revert);

/* Raises the error for an argument that is null. */
static void
check_argument(FunctionCallInfo fcinfo, int i, const char *name)
{
	if (PG_ARGISNULL(i))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", name)));
}

/* Returns the argument "match", or NULL if it is null. */
static Jsonb *
match_argument(FunctionCallInfo fcinfo, int i)
{
	return PG_ARGISNULL(i) ? NULL : PG_GETARG_JSONB_P(i);
}

/*
 * Lock a table and its history for reading until the transaction ends, and describe it, in
 * the current memory context.
 *
 * The last description is kept, because making it takes longer than reading one row.  It
 * is used again if no relation has changed since then, as far as this session knows after
 * the locks.
 */
static const PoserVersioned *
describe_target(FunctionCallInfo fcinfo, Oid relid)
{
	static PoserVersioned last;
	static uint64 last_changes;
	PoserVersioned *result = palloc(sizeof(PoserVersioned));
	Oid nspid = get_func_namespace(fcinfo->flinfo->fn_oid);
	uint64 changes;

	LockRelationOid(relid, AccessShareLock);
	if (last.relid == relid && last.nspid == nspid)
	{
		LockRelationOid(last.versions, AccessShareLock);
		if (last_changes == poser_relation_changes())
		{
			memcpy(result, &last, sizeof(PoserVersioned));
			return result;
		}
	}
	if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));
	changes = poser_relation_changes();
	poser_tracked_describe(result, relid, nspid, AccessShareLock);
	if (result->relid != relid)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("table \"%s\" has no history of its own", get_rel_name(relid)),
				 errdetail("It is a partition, and its rows are in the history of table \"%s\".",
						   get_rel_name(result->relid))));
	memcpy(&last, result, sizeof(PoserVersioned));
	last_changes = changes;
	return result;
}

/*
 * Append a query for the versions "v" that match, or whose version before matches.
 * Without a condition on other columns than those of the key these are
 *
 *	SELECT * FROM invoice_line_version AS v WHERE v.invoice_id = $1
 *
 * Otherwise also the versions that follow one that matches:
 *
 *	SELECT * FROM invoice_line_version AS v WHERE v.item = $1
 *	 UNION ALL
 *	SELECT next.*
 *	  FROM (SELECT * FROM invoice_line_version AS v WHERE v.item = $1 AND v.operation_type <> 2) AS v
 *	       CROSS JOIN LATERAL (SELECT * FROM invoice_line_version AS next
 *	                            WHERE next.invoice_id = v.invoice_id AND next.line = v.line
 *	                              AND next.change_id > v.change_id
 *	                            ORDER BY next.change_id LIMIT 1) AS next
 *	 WHERE next.operation_type = 1 AND (next.item = $1) IS NOT TRUE
 *
 * OFFSET 0 lets the planner use the index for the condition, even if it takes the
 * index on change_id for better because few rows are wanted.
 */
static void
append_candidates(StringInfo sql, const PoserVersioned *versioned, const PoserMatch *match, bool indexed)
{
	const char *versions = poser_relation_name(versioned->versions);
	const char *operation_type = poser_history_column(versioned, versioned->operation_type);
	const char *change_id = poser_history_column(versioned, versioned->change_id);

	appendStringInfo(sql, "SELECT * FROM %s AS v WHERE ", versions);
	poser_match_append(sql, versioned, match, "v", false);
	if (match->only_key)
	{
		appendStringInfoString(sql, indexed ? " OFFSET 0" : "");
		return;
	}
	appendStringInfo(sql, "\n UNION ALL\nSELECT next.*\n  FROM (SELECT * FROM %s AS v WHERE ", versions);
	poser_match_append(sql, versioned, match, "v", false);
	appendStringInfo(sql,
					 " AND v.%s OPERATOR(pg_catalog.<>) 2) AS v\n"
					 "       CROSS JOIN LATERAL (SELECT * FROM %s AS next WHERE ",
					 operation_type, versions);
	poser_history_append_keys(sql, versioned, " AND ", "next.%n %= v.%n");
	appendStringInfo(sql,
					 " AND next.%s OPERATOR(pg_catalog.>) v.%s\n"
					 "                            ORDER BY next.%s LIMIT 1) AS next\n"
					 " WHERE next.%s OPERATOR(pg_catalog.=) 1 AND (",
					 change_id, change_id, change_id, operation_type);
	poser_match_append(sql, versioned, match, "next", false);
	appendStringInfoString(sql, ") IS NOT TRUE OFFSET 0");
}

/*
 * Append the join of versions "v" with the version of the same row before each, "before":
 *
 *	LEFT JOIN LATERAL (SELECT * FROM invoice_line_version AS before
 *	                    WHERE before.invoice_id = v.invoice_id AND before.line = v.line
 *	                      AND before.change_id < v.change_id
 *	                    ORDER BY before.change_id DESC LIMIT 1) AS before ON true
 */
static void
append_before(StringInfo sql, const PoserVersioned *versioned)
{
	const char *change_id = poser_history_column(versioned, versioned->change_id);

	appendStringInfo(sql, "\n       LEFT JOIN LATERAL (SELECT * FROM %s AS before WHERE ",
					 poser_relation_name(versioned->versions));
	poser_history_append_keys(sql, versioned, " AND ", "before.%n %= v.%n");
	appendStringInfo(sql,
					 " AND before.%s OPERATOR(pg_catalog.<) v.%s\n"
					 "                           ORDER BY before.%s DESC LIMIT 1) AS before ON true",
					 change_id, change_id, change_id);
}

/* Append the order of a history and, unless it is 0, the parameter with the number of rows. */
static void
append_order(StringInfo sql, const PoserVersioned *versioned, int limit)
{
	appendStringInfo(sql, "\n ORDER BY v.%s DESC", poser_history_column(versioned, versioned->change_id));
	if (limit != 0)
		appendStringInfo(sql, " LIMIT $%d", limit);
}

/* Returns the query for the versions of the one row that matches, newest first. */
static char *
row_query(const PoserVersioned *versioned, const PoserMatch *match)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	poser_history_append_versions(&sql, versioned, "v");
	appendStringInfo(&sql, "\n  FROM %s AS v WHERE ", poser_relation_name(versioned->versions));
	poser_match_append(&sql, versioned, match, "v", false);
	append_order(&sql, versioned, 0);
	return sql.data;
}

/*
 * Returns the query for the changes whose old or new row matches, each with the version
 * before it, newest first.  "limit" is the parameter with the number of rows, or 0.
 *
 *	SELECT v.invoice_id, ..., before.invoice_id, ...
 *	  FROM (<candidates>) AS v <join with the versions before>
 *	 ORDER BY v.change_id DESC LIMIT $2
 *
 * The limit applies to the candidates first.  With "newest" the query looks at the newest
 * versions only, each with the version before.  If it finds as many changes as are wanted,
 * these are the right ones:
 *
 *	SELECT v.invoice_id, ..., before.invoice_id, ...
 *	  FROM (SELECT * FROM invoice_line_version AS v
 *	         ORDER BY v.change_id DESC LIMIT 20000 + (10 * LEAST($2, 1000000))) AS v
 *	       <join with the versions before>
 *	 WHERE v.item = $1 OR v.operation_type = 1 AND before.operation_type <> 2 AND before.item = $1
 *	 ORDER BY v.change_id DESC LIMIT $2
 *
 * If the caller may see last versions of rows only, there are no versions before.
 */
static char *
changes_query(const PoserVersioned *versioned, const PoserMatch *match, int limit, bool restricted, bool newest)
{
	const char *versions = poser_relation_name(versioned->versions);
	const char *operation_type = poser_history_column(versioned, versioned->operation_type);
	bool indexed = match->ncolumns > 0 && poser_match_is_indexed(versioned, match);
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	poser_history_append_versions(&sql, versioned, "v");
	if (restricted || versioned->nkeys == 0)
	{
		appendStringInfo(&sql, "\n  FROM %s AS v WHERE ", versions);
		poser_match_append(&sql, versioned, match, "v", false);
		if (restricted)
			poser_history_append_restriction(&sql, versioned);
	}
	else
	{
		bool as_record = poser_history_pairs_are_wide(versioned);

		appendStringInfoString(&sql, as_record ? ",\n       ROW(" : ",\n       ");
		poser_history_append_versions(&sql, versioned, "before");
		appendStringInfoString(&sql, as_record ? ")" : "");
		if (newest)
		{
			appendStringInfo(&sql, "\n  FROM (SELECT * FROM %s AS v ORDER BY v.%s DESC LIMIT 20000 OPERATOR(pg_catalog.+) (10 OPERATOR(pg_catalog.*) LEAST($%d, 1000000))) AS v",
							 versions, poser_history_column(versioned, versioned->change_id), limit);
			append_before(&sql, versioned);
			appendStringInfoString(&sql, "\n WHERE (");
			poser_match_append(&sql, versioned, match, "v", false);
			appendStringInfo(&sql, ") OR (v.%s OPERATOR(pg_catalog.=) 1 AND before.%s OPERATOR(pg_catalog.<>) 2 AND ",
							 operation_type, operation_type);
			poser_match_append(&sql, versioned, match, "before", false);
			appendStringInfoString(&sql, ")");
		}
		else
		{
			appendStringInfoString(&sql, "\n  FROM (SELECT * FROM (");
			append_candidates(&sql, versioned, match, indexed);
			appendStringInfoString(&sql, ") AS v");
			append_order(&sql, versioned, limit);
			appendStringInfoString(&sql, ") AS v");
			append_before(&sql, versioned);
		}
	}
	append_order(&sql, versioned, limit);
	return sql.data;
}

/*
 * Is it worth while to look at the newest versions first?  Without an index for the
 * condition, all versions must be read.  But a few changes are often found among the newest
 * versions.
 */
static bool
tries_newest(const PoserVersioned *versioned, const PoserMatch *match, bool restricted)
{
	return !restricted && versioned->nkeys > 0 && !match->only_key && !poser_match_is_indexed(versioned, match);
}

/*
 * poser_history(target regclass, match jsonb, max_versions bigint)
 * returns table (...)
 */
Datum
poser_history(PG_FUNCTION_ARGS)
{
	int64 max_versions = PG_ARGISNULL(2) ? -1 : PG_GETARG_INT64(2);
	const PoserVersioned *versioned;
	PoserHistory *history;
	PoserMatch *match;
	PoserReader reader;
	PoserQuery query = {.read_only = true};
	bool restricted;
	bool pairs;
	bool complete = false;
	int level;

	check_argument(fcinfo, 0, "target");
	if (!PG_ARGISNULL(2) && max_versions < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_versions must be at least 1")));
	versioned = describe_target(fcinfo, PG_GETARG_OID(0));
	match = poser_match_read(versioned, match_argument(fcinfo, 1));
	poser_history_become_reader(&reader, versioned);
	level = poser_begin_text_settings();
	history = poser_history_begin(fcinfo, versioned, 1, true);
	restricted = poser_history_is_restricted(versioned);
	if (restricted)
		poser_history_check_key(versioned);
	pairs = !match->whole_key || restricted;
	query.nargs = match->nargs;
	if (!pairs)
	{
		query.sql = row_query(versioned, match);
		query.cursor_options = CURSOR_OPT_FAST_PLAN;
	}
	else if (max_versions < 0)
		query.sql = changes_query(versioned, match, 0, restricted, false);
	else
		query.nargs = poser_match_add_parameter(match, max_versions);
	query.argtypes = match->argtypes;
	query.values = match->values;
	if (query.sql == NULL && tries_newest(versioned, match, restricted))
	{
		query.sql = changes_query(versioned, match, query.nargs, restricted, true);
		complete = poser_history_receive(history, versioned, &query, pairs, max_versions);
		query.sql = NULL;
	}
	if (!complete)
	{
		if (query.sql == NULL)
			query.sql = changes_query(versioned, match, query.nargs, restricted, false);
		(void) poser_history_receive(history, versioned, &query, pairs, max_versions);
	}
	poser_history_end(history);
	AtEOXact_GUC(true, level);
	poser_history_become_caller(&reader);
	return (Datum) 0;
}

/*
 * poser_as_of("row" anyelement, at timestamptz, match jsonb)
 * returns setof anyelement
 *
 * The value of "row" does not matter, only its type.
 */
Datum
poser_as_of(PG_FUNCTION_ARGS)
{
	Oid type = get_fn_expr_argtype(fcinfo->flinfo, 0);
	Oid relid = OidIsValid(type) ? get_typ_typrelid(type) : InvalidOid;
	char relkind = OidIsValid(relid) ? get_rel_relkind(relid) : '\0';
	const PoserVersioned *versioned;

	if (relkind != RELKIND_RELATION && relkind != RELKIND_PARTITIONED_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("type %s is not the row type of a table", format_type_be(type)),
				 errhint("Name the table as in poser_as_of(NULL::customer, ...).")));
	check_argument(fcinfo, 1, "at");
	versioned = describe_target(fcinfo, relid);
	poser_history_check_key(versioned);
	poser_history_as_of_matching(fcinfo, versioned, PG_GETARG_TIMESTAMPTZ(1), match_argument(fcinfo, 2));
	return (Datum) 0;
}

/*
 * poser_revert(target regclass, match jsonb, transaction_id bigint)
 * returns bigint
 *
 * Rows are read and written as the caller, because writing them runs code of the table's
 * owner in any case, such as triggers.
 */
Datum
poser_revert(PG_FUNCTION_ARGS)
{
	const PoserVersioned *versioned;
	PoserMatch *match;

	check_argument(fcinfo, 0, "target");
	check_argument(fcinfo, 2, "transaction_id");
	PreventCommandIfReadOnly("poser_revert()");
	versioned = describe_target(fcinfo, PG_GETARG_OID(0));
	poser_history_check_key(versioned);
	match = poser_match_read(versioned, match_argument(fcinfo, 1));
	if (match->ncolumns == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("match must name at least one column"),
				 errdetail("A whole table is not set back.")));
	PG_RETURN_INT64(poser_history_revert_matching(versioned, match, PG_GETARG_INT64(2)));
}
