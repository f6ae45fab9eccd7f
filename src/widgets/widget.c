/*
 * widget.c
 *	  Widgets: their summaries with component counts, and their history.
 *
 * The view poser_widget_summary defines the summary of a widget.  The functions that
 * read summaries run queries over this view, and return the rows of these queries
 * unchanged.  So privileges, row-level security, planning and parallel execution are
 * those of any query.
 *
 * The functions for the history only name the tables and keys of widgets and components.
 * versions/ does the work.
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "counts/counts.h"
#include "versions/versions.h"

PG_FUNCTION_INFO_V1(poser_component_live_from);
PG_FUNCTION_INFO_V1(poser_widget_get);
PG_FUNCTION_INFO_V1(poser_widget_list);
PG_FUNCTION_INFO_V1(poser_widget_history);
PG_FUNCTION_INFO_V1(poser_component_history);
PG_FUNCTION_INFO_V1(poser_widget_as_of);
PG_FUNCTION_INFO_V1(poser_component_as_of);
PG_FUNCTION_INFO_V1(poser_widget_revert);

#define MAX_PAGE_SIZE 1000

/*
 * What find_rewritten() remembers of an earlier call that found no rewritten table.
 */
static struct
{
	Oid nspid;
	Oid userid;			/* the current user, because policies can name other tables */
	uint64 changes;		/* poser_relation_changes() at that time */
	TransactionId xmax; /* of the snapshot at that time; InvalidTransactionId if there was no such call */
} last_look;

/* The query of poser_widget_get().  %s is the schema. */
static const char *const get_query =
	"SELECT uuid, description, active, component_count, active_component_count\n"
	"  FROM %s.poser_widget_summary\n"
	" WHERE uuid OPERATOR(pg_catalog.=) $1";

/*
 * The query of poser_widget_list().  Each %s is the schema.
 *
 * The inner query finds the keys of the page first.  So the counts are looked up
 * only for these widgets, even where the view counts their components itself.
 *
 * The limit is a constant, MAX_PAGE_SIZE, so that the planner knows that it is
 * small.  The caller fetches only as many rows as its page has.
 */
static const char *const list_query =
	"SELECT summary.uuid, summary.description, summary.active,\n"
	"       summary.component_count, summary.active_component_count\n"
	"  FROM (SELECT uuid\n"
	"          FROM %s.poser_widget\n"
	"         WHERE ($1 IS NULL\n"
	"                OR pg_catalog.strpos(pg_catalog.lower(description), pg_catalog.lower($1)) OPERATOR(pg_catalog.>) 0)\n"
	"           AND ($2 IS NULL OR active OPERATOR(pg_catalog.=) $2)\n"
	"           AND uuid OPERATOR(pg_catalog.>=) COALESCE($3, '')\n"
	"           AND ($3 IS NULL OR uuid OPERATOR(pg_catalog.<>) $3)\n"
	"         ORDER BY uuid\n"
	"         LIMIT 1000) AS page,\n"
	"       LATERAL (SELECT *\n"
	"                  FROM %s.poser_widget_summary\n"
	"                 WHERE uuid OPERATOR(pg_catalog.=) page.uuid\n"
	"                OFFSET 0) AS summary\n"
	" ORDER BY page.uuid";

/*
 * poser_component_live_from(widget regclass, component regclass)
 * returns varchar
 *
 * The view calls this function, and itself counts the components of widgets with uuids
 * from the result on.  The result is NULL if the maintained counts are what the current
 * user would count now: then the view counts no components.  Otherwise it is the empty
 * string, which is the least possible uuid: then the view counts the components of all
 * widgets.
 *
 * The planner calls the function, too, to estimate for how many rows the view counts.
 * It could not estimate this from a boolean.
 *
 * The arguments are the tables that the view reads.  It is an error if other relations
 * now have their names: the view would count the components of another table than the
 * one that the user sees under the name.
 */
Datum
poser_component_live_from(PG_FUNCTION_ARGS)
{
	static const char *const names[] = {"poser_widget", "poser_component"};
	Oid nspid = get_func_namespace(fcinfo->flinfo->fn_oid);

	for (int i = 0; i < lengthof(names); i++)
	{
		Oid relid = get_relname_relid(names[i], nspid);

		if (OidIsValid(relid) && relid != PG_GETARG_OID(i))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("relation \"%s\" is not the table of extension \"poser\"", names[i]),
					 errdetail("The counts in view \"poser_widget_summary\" are of relation \"%s\".",
							   get_rel_name(PG_GETARG_OID(i))),
					 errhint("Give the relations their own names back, or query the new one directly.")));
	}

	if (poser_count_serves(fcinfo, PG_GETARG_OID(0), PG_GETARG_OID(1), nspid))
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(""));
}

/*
 * Returns a table that the query over the summaries reads and that was rewritten
 * since the snapshot was taken, or InvalidOid.  The query has just run, so its
 * tables are locked.
 *
 * Suppose that no table was rewritten since one snapshot was taken, and that the session
 * has received no relcache invalidation since then.  Then no table was rewritten since a
 * later snapshot either, and nothing is looked up.  A snapshot is later if its xmin is not
 * before the xmax of the other one.
 *
 * The tables of the counts are left out: if they were rewritten, the view counts the
 * components itself.
 */
static Oid
find_rewritten(Oid nspid, const PoserQuery *query, Snapshot snapshot)
{
	uint64 changes = poser_relation_changes();
	bool unchanged = TransactionIdIsValid(last_look.xmax) && last_look.changes == changes &&
					 last_look.nspid == nspid && last_look.userid == GetUserId();
	Oid counts[2];
	Oid result;

	if (unchanged && TransactionIdFollowsOrEquals(snapshot->xmin, last_look.xmax))
		return InvalidOid;

	counts[0] = get_relname_relid("poser_component_count", nspid);
	counts[1] = get_relname_relid("poser_component_count_delta", nspid);
	result = poser_find_rewritten(query, snapshot, counts, lengthof(counts));
	if (OidIsValid(result))
		return result;

	/* remember the earliest snapshot, because most other snapshots are later than it */
	if (!unchanged || TransactionIdPrecedes(snapshot->xmax, last_look.xmax))
		last_look.xmax = snapshot->xmax;
	last_look.changes = changes;
	last_look.nspid = nspid;
	last_look.userid = GetUserId();
	return InvalidOid;
}

/*
 * Run a query over the summaries, and return its rows as the result of a set-returning
 * function.  The SQL has %s for the schema.  "limit" is 0 for all rows.
 */
static void
return_summaries(FunctionCallInfo fcinfo, const char *sql, int nargs, const Oid *argtypes,
				 const Datum *values, const char *nulls, long limit)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid nspid = get_func_namespace(fcinfo->flinfo->fn_oid);
	const char *schema = quote_identifier(get_namespace_name(nspid));
	PoserQuery query = {
		.nargs = nargs,
		.argtypes = argtypes,
		.values = values,
		.nulls = nulls,
		.read_only = true,
		.limit = limit};

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	SPI_connect();
	query.sql = psprintf(sql, schema, schema);
	query.dest = poser_result_receiver(rsinfo);
	(void) poser_run(&query);

	/*
	 * The query may have waited for a rewrite of a table, and then have read with an
	 * older snapshot.  If so, run it again with a newer snapshot.  In REPEATABLE READ
	 * and SERIALIZABLE there is no newer one, and this is an error.
	 */
	if (OidIsValid(find_rewritten(nspid, &query, GetActiveSnapshot())))
	{
		Oid relid;

		PushActiveSnapshot(GetTransactionSnapshot());
		relid = find_rewritten(nspid, &query, GetActiveSnapshot());
		if (OidIsValid(relid))
			poser_check_rewritten(relid, GetActiveSnapshot());
		tuplestore_clear(rsinfo->setResult);
		(void) poser_run(&query);
		PopActiveSnapshot();
	}
	query.dest->rDestroy(query.dest);
	SPI_finish();
}

/*
 * poser_widget_get(uuid varchar) returns setof poser_widget_summary
 */
Datum
poser_widget_get(PG_FUNCTION_ARGS)
{
	Oid argtypes[] = {VARCHAROID};
	Datum values[] = {PG_GETARG_DATUM(0)};

	return_summaries(fcinfo, get_query, 1, argtypes, values, NULL, 0);
	return (Datum) 0;
}

/*
 * poser_widget_list(search text, active boolean, after varchar, page_size integer)
 * returns setof poser_widget_summary
 */
Datum
poser_widget_list(PG_FUNCTION_ARGS)
{
	Oid argtypes[] = {TEXTOID, BOOLOID, VARCHAROID};
	Datum values[lengthof(argtypes)];
	char nulls[lengthof(argtypes)];

	if (PG_ARGISNULL(3) || PG_GETARG_INT32(3) < 1 || PG_GETARG_INT32(3) > MAX_PAGE_SIZE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("page_size must be between 1 and %d", MAX_PAGE_SIZE)));

	for (int i = 0; i < lengthof(argtypes); i++)
	{
		nulls[i] = PG_ARGISNULL(i) ? 'n' : ' ';
		values[i] = PG_ARGISNULL(i) ? (Datum) 0 : PG_GETARG_DATUM(i);
	}
	return_summaries(fcinfo, list_query, lengthof(argtypes), argtypes, values, nulls,
					 PG_GETARG_INT32(3));
	return (Datum) 0;
}

/*
 * History
 */

/* Describe the versioned tables in the schema of the function that is called. */
static void
describe_tables(FunctionCallInfo fcinfo, PoserVersioned *tables)
{
	poser_versioned_describe_all(tables, get_func_namespace(fcinfo->flinfo->fn_oid));
}

/*
 * poser_widget_history(uuid varchar [, with_components boolean])
 * returns table (...)
 */
Datum
poser_widget_history(PG_FUNCTION_ARGS)
{
	bool with_components = PG_NARGS() > 1 && PG_GETARG_BOOL(1);
	PoserVersioned tables[POSER_VERSIONED_TABLES];
	PoserHistory *history;

	describe_tables(fcinfo, tables);
	history = poser_history_begin(fcinfo, &tables[POSER_WIDGET], with_components ? 2 : 1, false);
	poser_history_add(history, &tables[POSER_WIDGET], PG_GETARG_DATUM(0), VARCHAROID, NULL);
	if (with_components)
		poser_history_add(history, &tables[POSER_COMPONENT], PG_GETARG_DATUM(0), VARCHAROID, "widget_uuid");
	poser_history_end(history);
	return (Datum) 0;
}

/*
 * poser_component_history(uuid varchar) returns table (...)
 */
Datum
poser_component_history(PG_FUNCTION_ARGS)
{
	PoserVersioned tables[POSER_VERSIONED_TABLES];
	PoserHistory *history;

	describe_tables(fcinfo, tables);
	history = poser_history_begin(fcinfo, &tables[POSER_COMPONENT], 1, false);
	poser_history_add(history, &tables[POSER_COMPONENT], PG_GETARG_DATUM(0), VARCHAROID, NULL);
	poser_history_end(history);
	return (Datum) 0;
}

/*
 * poser_widget_as_of(at timestamptz) returns setof poser_widget
 */
Datum
poser_widget_as_of(PG_FUNCTION_ARGS)
{
	PoserVersioned tables[POSER_VERSIONED_TABLES];

	describe_tables(fcinfo, tables);
	poser_history_as_of(fcinfo, &tables[POSER_WIDGET], PG_GETARG_TIMESTAMPTZ(0));
	return (Datum) 0;
}

/*
 * poser_component_as_of(at timestamptz) returns setof poser_component
 */
Datum
poser_component_as_of(PG_FUNCTION_ARGS)
{
	PoserVersioned tables[POSER_VERSIONED_TABLES];

	describe_tables(fcinfo, tables);
	poser_history_as_of(fcinfo, &tables[POSER_COMPONENT], PG_GETARG_TIMESTAMPTZ(0));
	return (Datum) 0;
}

/*
 * poser_widget_revert(uuid varchar, transaction_id bigint, with_components boolean)
 * returns bigint
 */
Datum
poser_widget_revert(PG_FUNCTION_ARGS)
{
	PoserVersioned tables[POSER_VERSIONED_TABLES];

	for (int i = 0; i < 3; i++)
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("uuid, transaction_id and with_components must not be null")));
	PreventCommandIfReadOnly("poser_widget_revert()");
	describe_tables(fcinfo, tables);
	PG_RETURN_INT64(poser_history_revert(&tables[POSER_WIDGET], PG_GETARG_DATUM(0), VARCHAROID, PG_GETARG_INT64(1),
										 PG_GETARG_BOOL(2) ? &tables[POSER_COMPONENT] : NULL, "widget_uuid"));
}
