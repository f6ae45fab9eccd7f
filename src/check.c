/*
 * check.c
 *	  poser_check(), which finds what is wrong and changes nothing, and
 *	  poser_recount(), which mends the counts.
 *
 * Each check is one query that gives a row (object, problem) for each problem
 * it finds; $1 is the OID of the extension's schema.  What is expected stands
 * in the query.  The function's search_path is pg_catalog alone.
 *
 * What users may add (columns, indexes, constraints, triggers) or choose (how
 * the foreign key acts) is no problem.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "poser.h"

PG_FUNCTION_INFO_V1(poser_check);
PG_FUNCTION_INFO_V1(poser_recount);

static const char *const check_columns =
	"SELECT format('column %s of %s', expected.name, expected.relation),\n"
	"       CASE WHEN a.attname IS NULL THEN 'is missing'\n"
	"            WHEN format_type(a.atttypid, a.atttypmod) <> expected.type\n"
	"            THEN format('is of type %s instead of %s',\n"
	"                        format_type(a.atttypid, a.atttypmod), expected.type)\n"
	"            WHEN NOT a.attnotnull AND expected.kind = 'r' THEN 'allows NULL'\n"
	"            ELSE 'has no default' END\n"
	"  FROM (VALUES\n"
	"        ('poser_widget', 'r', 'uuid', 'character varying(32)', true),\n"
	"        ('poser_widget', 'r', 'description', 'character varying(255)', false),\n"
	"        ('poser_widget', 'r', 'active', 'boolean', true),\n"
	"        ('poser_component', 'r', 'uuid', 'character varying(32)', true),\n"
	"        ('poser_component', 'r', 'widget_uuid', 'character varying(32)', false),\n"
	"        ('poser_component', 'r', 'item_code', 'character varying(20)', false),\n"
	"        ('poser_component', 'r', 'description', 'character varying(255)', false),\n"
	"        ('poser_component', 'r', 'active', 'boolean', true),\n"
	"        ('poser_component_count', 'r', 'widget_uuid', 'character varying(32)', false),\n"
	"        ('poser_component_count', 'r', 'total', 'bigint', false),\n"
	"        ('poser_component_count', 'r', 'active', 'bigint', false),\n"
	"        ('poser_component_count_delta', 'r', 'widget_uuid', 'character varying(32)', false),\n"
	"        ('poser_component_count_delta', 'r', 'total', 'bigint', false),\n"
	"        ('poser_component_count_delta', 'r', 'active', 'bigint', false),\n"
	"        ('poser_component_count_settled', 'v', 'widget_uuid', 'character varying(32)', false),\n"
	"        ('poser_component_count_unsettled', 'v', 'widget_uuid', 'character varying(32)', false),\n"
	"        ('poser_component_count_settled', 'v', 'total', 'bigint', false),\n"
	"        ('poser_component_count_unsettled', 'v', 'total', 'bigint', false),\n"
	"        ('poser_component_count_settled', 'v', 'active', 'bigint', false),\n"
	"        ('poser_component_count_unsettled', 'v', 'active', 'bigint', false),\n"
	"        ('poser_widget_summary', 'v', 'uuid', 'character varying(32)', false),\n"
	"        ('poser_widget_summary', 'v', 'description', 'character varying(255)', false),\n"
	"        ('poser_widget_summary', 'v', 'active', 'boolean', false),\n"
	"        ('poser_widget_summary', 'v', 'component_count', 'bigint', false),\n"
	"        ('poser_widget_summary', 'v', 'active_component_count', 'bigint', false))\n"
	"       AS expected (relation, kind, name, type, has_default)\n"
	"       LEFT JOIN pg_class AS c\n"
	"       ON c.relnamespace = $1 AND c.relname = expected.relation\n"
	"       LEFT JOIN pg_attribute AS a\n"
	"       ON a.attrelid = c.oid AND a.attname = expected.name AND a.attnum > 0\n"
	" WHERE a.attname IS NULL\n"
	"    OR format_type(a.atttypid, a.atttypmod) <> expected.type\n"
	"    OR (expected.kind = 'r' AND NOT a.attnotnull)\n"
	"    OR (expected.has_default AND NOT a.atthasdef)\n"
	" ORDER BY expected.relation COLLATE \"C\", expected.name COLLATE \"C\"";

static const char *const check_foreign_columns =
	"SELECT format('column %s of %s', a.attname, c.relname), 'does not belong there'\n"
	"  FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid\n"
	" WHERE c.relnamespace = $1\n"
	"   AND c.relname IN ('poser_component_count', 'poser_component_count_delta')\n"
	"   AND a.attnum > 0 AND NOT a.attisdropped\n"
	"   AND a.attname NOT IN ('widget_uuid', 'total', 'active')\n"
	" ORDER BY c.relname COLLATE \"C\", a.attname COLLATE \"C\"";

static const char *const check_relations =
	"SELECT format('%s %s', CASE expected.kind WHEN 'r' THEN 'table' ELSE 'view' END, expected.name),\n"
	"       CASE WHEN c.oid IS NULL THEN 'is missing'\n"
	"            WHEN c.relkind::text <> expected.kind\n"
	"            THEN 'has been replaced by a relation of another kind'\n"
	"            WHEN c.relpersistence <> 'p' THEN 'is not kept over a crash'\n"
	"            WHEN expected.options <> '{}' AND (c.reloptions @> expected.options) IS NOT TRUE\n"
	"            THEN format('does not have the option %s', expected.options[1])\n"
	"            ELSE 'is part of a partitioned table or of an inheritance tree, so that its counts are not maintained' END\n"
	"  FROM (VALUES\n"
	"        ('poser_widget', 'r', '{}'::text[]),\n"
	"        ('poser_component', 'r', '{}'),\n"
	"        ('poser_component_count', 'r', '{}'),\n"
	"        ('poser_component_count_delta', 'r', '{}'),\n"
	"        ('poser_component_count_settled', 'v', '{}'),\n"
	"        ('poser_component_count_unsettled', 'v', '{}'),\n"
	"        ('poser_widget_summary', 'v', '{security_invoker=true}'))\n"
	"       AS expected (name, kind, options)\n"
	"       LEFT JOIN pg_class AS c\n"
	"       ON c.relnamespace = $1 AND c.relname = expected.name\n"
	" WHERE c.oid IS NULL\n"
	"    OR c.relkind::text <> expected.kind\n"
	"    OR c.relpersistence <> 'p'\n"
	"    OR (expected.options <> '{}' AND (c.reloptions @> expected.options) IS NOT TRUE)\n"
	"    OR (expected.kind = 'r' AND EXISTS (SELECT FROM pg_inherits\n"
	"                                         WHERE inhrelid = c.oid OR inhparent = c.oid))\n"
	" ORDER BY expected.name COLLATE \"C\"";

static const char *const check_view_owner =
	"SELECT format('view %s', v.relname),\n"
	"       format('belongs to %s, who may not read %s', v.relowner::regrole, c.relname)\n"
	"  FROM (VALUES\n"
	"        ('poser_component_count_settled', 'poser_component_count'),\n"
	"        ('poser_component_count_unsettled', 'poser_component_count_delta'))\n"
	"       AS expected (name, reads)\n"
	"       JOIN pg_class AS v ON v.relnamespace = $1 AND v.relname = expected.name\n"
	"       JOIN pg_class AS c ON c.relnamespace = $1 AND c.relname = expected.reads\n"
	" WHERE NOT has_table_privilege(v.relowner, c.oid, 'SELECT')\n"
	" ORDER BY v.relname COLLATE \"C\"";

static const char *const check_constraints =
	"SELECT format('constraint %s of %s', expected.name, expected.relation),\n"
	"       CASE WHEN con.oid IS NULL THEN 'is missing'\n"
	"            WHEN NOT con.convalidated THEN 'is not validated'\n"
	"            ELSE 'has been changed' END\n"
	"  FROM (VALUES\n"
	"        ('poser_widget', 'poser_widget_pkey', 'p', 'uuid', NULL),\n"
	"        ('poser_component', 'poser_component_pkey', 'p', 'uuid', NULL),\n"
	"        ('poser_component', 'poser_component_fk_widget', 'f', 'widget_uuid', 'poser_widget'),\n"
	"        ('poser_component_count', 'poser_component_count_pkey', 'p', 'widget_uuid', NULL))\n"
	"       AS expected (relation, name, type, col, referenced)\n"
	"       LEFT JOIN pg_class AS c\n"
	"       ON c.relnamespace = $1 AND c.relname = expected.relation\n"
	"       LEFT JOIN pg_class AS r\n"
	"       ON r.relnamespace = $1 AND r.relname = expected.referenced\n"
	"       LEFT JOIN pg_constraint AS con\n"
	"       ON con.conrelid = c.oid AND con.conname = expected.name\n"
	"       LEFT JOIN pg_attribute AS a\n"
	"       ON a.attrelid = c.oid AND a.attname = expected.col\n"
	" WHERE (con.contype::text = expected.type AND con.convalidated\n"
	"        AND con.conkey = ARRAY[a.attnum]\n"
	"        AND con.confrelid = COALESCE(r.oid, 0)) IS NOT TRUE\n"
	" ORDER BY expected.relation COLLATE \"C\", expected.name COLLATE \"C\"";

static const char *const check_indexes =
	"SELECT format('index %s', expected.name),\n"
	"       CASE WHEN i.indexrelid IS NULL THEN 'is missing'\n"
	"            WHEN NOT i.indisvalid THEN 'is not valid'\n"
	"            ELSE 'has been changed' END\n"
	"  FROM (VALUES\n"
	"        ('poser_widget', 'poser_widget_pkey', true, 'uuid'),\n"
	"        ('poser_component', 'poser_component_pkey', true, 'uuid'),\n"
	"        ('poser_component', 'poser_component_idx_widget', false, 'widget_uuid'),\n"
	"        ('poser_component_count', 'poser_component_count_pkey', true, 'widget_uuid'),\n"
	"        ('poser_component_count_delta', 'poser_component_count_delta_idx_widget', false, 'widget_uuid'))\n"
	"       AS expected (relation, name, is_unique, col)\n"
	"       LEFT JOIN pg_class AS c\n"
	"       ON c.relnamespace = $1 AND c.relname = expected.relation\n"
	"       LEFT JOIN (pg_index AS i JOIN pg_class AS ic ON ic.oid = i.indexrelid)\n"
	"       ON i.indrelid = c.oid AND ic.relname = expected.name\n"
	" WHERE (i.indisvalid AND i.indisready AND i.indisunique = expected.is_unique\n"
	"        AND i.indpred IS NULL AND i.indnatts = 1\n"
	"        AND pg_get_indexdef(i.indexrelid, 1, false) = expected.col) IS NOT TRUE\n"
	" ORDER BY expected.relation COLLATE \"C\", expected.name COLLATE \"C\"";

static const char *const check_triggers =
	"SELECT format('trigger %s of %s', expected.name, expected.relation),\n"
	"       CASE WHEN t.oid IS NULL THEN 'is missing'\n"
	"            WHEN t.tgenabled = 'D' THEN 'is disabled'\n"
	"            WHEN t.tgenabled = 'R' THEN 'fires for replication only'\n"
	"            ELSE 'has been changed' END\n"
	"  FROM (VALUES\n"
	/* type: 1 row, 2 before, 4 insert, 8 delete, 16 update, 32 truncate */
	"        ('poser_component', 'poser_count_before', 2 + 4 + 8 + 16 + 32, false, false),\n"
	"        ('poser_component', 'poser_count_insert', 4, false, true),\n"
	"        ('poser_component', 'poser_count_update', 16, true, true),\n"
	"        ('poser_component', 'poser_count_delete', 8, true, false),\n"
	"        ('poser_component', 'poser_count_truncate', 32, false, false),\n"
	"        ('poser_widget', 'poser_count_before', 2 + 4 + 16, false, false),\n"
	"        ('poser_widget', 'poser_count_insert', 4, false, true),\n"
	"        ('poser_widget', 'poser_count_update', 16, false, false),\n"
	"        ('poser_widget', 'poser_count_update_key', 1 + 16, false, false),\n"
	"        ('poser_widget', 'poser_count_delete', 8, true, false),\n"
	"        ('poser_widget', 'poser_count_truncate', 32, false, false))\n"
	"       AS expected (relation, name, type, old_rows, new_rows)\n"
	"       LEFT JOIN pg_class AS c\n"
	"       ON c.relnamespace = $1 AND c.relname = expected.relation\n"
	"       LEFT JOIN pg_trigger AS t\n"
	"       ON t.tgrelid = c.oid AND t.tgname = expected.name\n"
	"       LEFT JOIN pg_proc AS p\n"
	"       ON p.oid = t.tgfoid\n"
	" WHERE (t.tgenabled IN ('O', 'A') AND t.tgtype = expected.type\n"
	"        AND cardinality(t.tgattr) = 0\n"
	"        AND (t.tgqual IS NOT NULL) = (expected.name = 'poser_count_update_key')\n"
	"        AND (t.tgoldtable IS NOT NULL) = expected.old_rows\n"
	"        AND (t.tgnewtable IS NOT NULL) = expected.new_rows\n"
	"        AND p.pronamespace = $1\n"
	"        AND (expected.relation, p.proname::text, encode(t.tgargs, 'escape')) IN\n"
	"            (VALUES ('poser_component', 'poser_count_child',\n"
	"                     'poser_component_count\\000poser_component_count_delta\\000widget_uuid\\000active\\000'),\n"
	"                    ('poser_widget', 'poser_count_parent',\n"
	"                     'poser_component_count\\000poser_component_count_delta\\000uuid\\000'))) IS NOT TRUE\n"
	" ORDER BY expected.relation COLLATE \"C\", expected.name COLLATE \"C\"";

static const char *const structure_checks[] = {
	check_relations, check_columns, check_foreign_columns, check_view_owner,
	check_constraints, check_indexes, check_triggers};

/* %s is the comparison of counts, see poser_count_append_comparison() */
static const char *const check_counts =
	"SELECT format('widget %%s', key),\n"
	"       CASE WHEN live_total <> kept_total\n"
	"            THEN format('component_count is %%s instead of %%s', kept_total, live_total)\n"
	"            WHEN live_active <> kept_active\n"
	"            THEN format('active_component_count is %%s instead of %%s', kept_active, live_active)\n"
	"            ELSE 'has no settled count' END\n"
	"  FROM (%s) AS compared\n"
	" WHERE live_total <> kept_total OR live_active <> kept_active\n"
	"    OR parents > settled\n"
	" ORDER BY key COLLATE \"C\"";

/* Add a query's rows to the function's result; returns how many. */
static uint64
add_problems(ReturnSetInfo *rsinfo, const char *query, Oid nspid)
{
	Oid argtypes[] = {OIDOID};
	Datum values[] = {ObjectIdGetDatum(nspid)};
	SPIPlanPtr plan = SPI_prepare(query, lengthof(argtypes), argtypes);

	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	return poser_execute_into(rsinfo, plan, lengthof(argtypes), argtypes, values, " ", 0);
}

/* The tables, parent, child, counts and deltas. */
static const char *const tables[] = {
	"poser_widget", "poser_component", "poser_component_count", "poser_component_count_delta"};

/*
 * poser_check() returns table (object text, problem text)
 *
 * For the owner of all the tables, who must see all rows: even under FORCE ROW
 * LEVEL SECURITY.
 */
Datum
poser_check(PG_FUNCTION_ARGS)
{
	Oid nspid = get_func_namespace(fcinfo->flinfo->fn_oid);
	Oid relids[lengthof(tables)];
	bool complete = true;
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid save_userid;
	int save_sec_context;

	for (int i = 0; i < lengthof(tables); i++)
	{
		relids[i] = get_relname_relid(tables[i], nspid);
		if (OidIsValid(relids[i]))
			poser_check_owner(relids[i]);
		else
			complete = false;
	}

	InitMaterializedSRF(fcinfo, 0);
	if (complete)
		poser_become_owner(relids[1], &save_userid, &save_sec_context);
	else
		GetUserIdAndSecContext(&save_userid, &save_sec_context);
	SPI_connect();

	for (int i = 0; i < lengthof(structure_checks); i++)
		if (add_problems(rsinfo, structure_checks[i], nspid) > 0 &&
			structure_checks[i] == check_columns)
			complete = false;

	/* without its columns a table cannot be counted */
	if (complete)
	{
		StringInfoData sql;

		initStringInfo(&sql);
		poser_count_append_comparison(&sql, relids[0], "uuid", relids[1], "widget_uuid",
									  "active", relids[2], relids[3]);
		add_problems(rsinfo, psprintf(check_counts, sql.data), nspid);
	}

	SPI_finish();
	SetUserIdAndSecContext(save_userid, save_sec_context);
	return (Datum) 0;
}

/*
 * poser_recount() returns bigint
 */
Datum
poser_recount(PG_FUNCTION_ARGS)
{
	Oid nspid = get_func_namespace(fcinfo->flinfo->fn_oid);
	Oid relids[lengthof(tables)];

	PreventCommandIfReadOnly("poser_recount()");
	for (int i = 0; i < lengthof(tables); i++)
	{
		relids[i] = get_relname_relid(tables[i], nspid);
		if (!OidIsValid(relids[i]))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_TABLE),
					 errmsg("relation \"%s\" does not exist in schema \"%s\"",
							tables[i], get_namespace_name(nspid))));
	}
	PG_RETURN_INT64(poser_count_rebuild(relids[0], "uuid", relids[1], "widget_uuid", "active",
										relids[2], relids[3]));
}
