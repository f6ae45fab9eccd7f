/*
 * check.c
 *	  poser_check(), which finds what is wrong and changes nothing.
 *
 * Each check is one query that gives a row (object, problem) for each problem
 * it finds; $1 is the OID of the extension's schema, $2 the version that it has
 * here.  What is expected, and from which version on, stands in the query.  The function's search_path is pg_catalog alone.
 *
 * What users may add (columns, indexes, constraints, triggers) or choose (how
 * the foreign key acts) is no problem.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/pg_class.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "counts/counts.h"
#include "versions/versions.h"

PG_FUNCTION_INFO_V1(poser_check);

/* Does the installed version have this object?  Versions are compared as numbers: 1.10 comes after 1.9. */
#define IS_EXPECTED "string_to_array(expected.version, '.')::int[] <= string_to_array($2, '.')::int[]"

static const char *const check_columns =
	"SELECT format('column %s of %s', expected.name, expected.relation),\n"
	"       CASE WHEN a.attname IS NULL THEN 'is missing'\n"
	"            WHEN format_type(a.atttypid, a.atttypmod) <> expected.type\n"
	"            THEN format('is of type %s instead of %s',\n"
	"                        format_type(a.atttypid, a.atttypmod), expected.type)\n"
	"            WHEN NOT a.attnotnull AND expected.kind = 'r' THEN 'allows NULL'\n"
	"            ELSE 'has no default' END\n"
	"  FROM (VALUES\n"
	"        ('poser_widget', 'r', 'uuid', 'character varying(32)', true, '1.1'),\n"
	"        ('poser_widget', 'r', 'description', 'character varying(255)', false, '1.1'),\n"
	"        ('poser_widget', 'r', 'active', 'boolean', true, '1.1'),\n"
	"        ('poser_component', 'r', 'uuid', 'character varying(32)', true, '1.1'),\n"
	"        ('poser_component', 'r', 'widget_uuid', 'character varying(32)', false, '1.1'),\n"
	"        ('poser_component', 'r', 'item_code', 'character varying(20)', false, '1.1'),\n"
	"        ('poser_component', 'r', 'description', 'character varying(255)', false, '1.1'),\n"
	"        ('poser_component', 'r', 'active', 'boolean', true, '1.1'),\n"
	"        ('poser_component_count', 'r', 'widget_uuid', 'character varying(32)', false, '1.1'),\n"
	"        ('poser_component_count', 'r', 'total', 'bigint', false, '1.1'),\n"
	"        ('poser_component_count', 'r', 'active', 'bigint', false, '1.1'),\n"
	"        ('poser_component_count_delta', 'r', 'widget_uuid', 'character varying(32)', false, '1.1'),\n"
	"        ('poser_component_count_delta', 'r', 'total', 'bigint', false, '1.1'),\n"
	"        ('poser_component_count_delta', 'r', 'active', 'bigint', false, '1.1'),\n"
	"        ('poser_component_count_settled', 'v', 'widget_uuid', 'character varying(32)', false, '1.1'),\n"
	"        ('poser_component_count_unsettled', 'v', 'widget_uuid', 'character varying(32)', false, '1.1'),\n"
	"        ('poser_component_count_settled', 'v', 'total', 'bigint', false, '1.1'),\n"
	"        ('poser_component_count_unsettled', 'v', 'total', 'bigint', false, '1.1'),\n"
	"        ('poser_component_count_settled', 'v', 'active', 'bigint', false, '1.1'),\n"
	"        ('poser_component_count_unsettled', 'v', 'active', 'bigint', false, '1.1'),\n"
	"        ('poser_widget_summary', 'v', 'uuid', 'character varying(32)', false, '1.1'),\n"
	"        ('poser_widget_summary', 'v', 'description', 'character varying(255)', false, '1.1'),\n"
	"        ('poser_widget_summary', 'v', 'active', 'boolean', false, '1.1'),\n"
	"        ('poser_widget_summary', 'v', 'component_count', 'bigint', false, '1.1'),\n"
	"        ('poser_widget_summary', 'v', 'active_component_count', 'bigint', false, '1.1'),\n"
	"        ('poser_transaction', 'r', 'id', 'bigint', false, '1.2'),\n"
	"        ('poser_transaction', 'r', 'issued_at', 'timestamp with time zone', false, '1.2'),\n"
	"        ('poser_transaction', 'r', 'username', 'text', false, '1.2'),\n"
	"        ('poser_transaction', 'r', 'role_name', 'name', false, '1.2'),\n"
	"        ('poser_transaction', 'n', 'remote_addr', 'inet', false, '1.2'),\n"
	"        ('poser_transaction', 'n', 'application_name', 'text', false, '1.2'),\n"
	"        ('poser_transaction', 'n', 'comment', 'text', false, '1.2'),\n"
	"        ('poser_transaction', 'r', 'xact', 'xid8', false, '1.2'),\n"
	"        ('poser_widget_version', 'n', 'uuid', 'character varying(32)', false, '1.2'),\n"
	"        ('poser_widget_version', 'n', 'description', 'character varying(255)', false, '1.2'),\n"
	"        ('poser_widget_version', 'n', 'active', 'boolean', false, '1.2'),\n"
	"        ('poser_widget_version', 'r', 'operation_type', 'smallint', false, '1.2'),\n"
	"        ('poser_widget_version', 'r', 'transaction_id', 'bigint', false, '1.2'),\n"
	"        ('poser_widget_version', 'r', 'change_id', 'bigint', false, '1.2'),\n"
	"        ('poser_component_version', 'n', 'uuid', 'character varying(32)', false, '1.2'),\n"
	"        ('poser_component_version', 'n', 'widget_uuid', 'character varying(32)', false, '1.2'),\n"
	"        ('poser_component_version', 'n', 'item_code', 'character varying(20)', false, '1.2'),\n"
	"        ('poser_component_version', 'n', 'description', 'character varying(255)', false, '1.2'),\n"
	"        ('poser_component_version', 'n', 'active', 'boolean', false, '1.2'),\n"
	"        ('poser_component_version', 'r', 'operation_type', 'smallint', false, '1.2'),\n"
	"        ('poser_component_version', 'r', 'transaction_id', 'bigint', false, '1.2'),\n"
	"        ('poser_component_version', 'r', 'change_id', 'bigint', false, '1.2'),\n"
	"        ('poser_version_horizon', 'r', 'transaction_id', 'bigint', false, '1.2'),\n"
	"        ('poser_version_horizon', 'r', 'change_id', 'bigint', false, '1.2'),\n"
	"        ('poser_batch', 'r', 'uuid', 'character varying(32)', true, '1.3'),\n"
	"        ('poser_batch', 'r', 'id', 'bigint', false, '1.3'),\n"
	"        ('poser_batch', 'r', 'target', 'regclass', false, '1.3'),\n"
	"        ('poser_batch', 'n', 'key', 'text[]', false, '1.3'),\n"
	"        ('poser_batch', 'n', 'description', 'text', false, '1.3'),\n"
	"        ('poser_batch', 'r', 'created', 'timestamp with time zone', true, '1.3'),\n"
	"        ('poser_batch', 'r', 'created_by', 'text', false, '1.3'),\n"
	"        ('poser_batch', 'r', 'role_name', 'name', false, '1.3'),\n"
	"        ('poser_batch', 'r', 'row_count', 'bigint', true, '1.3'),\n"
	"        ('poser_batch', 'r', 'complete', 'boolean', true, '1.3'),\n"
	"        ('poser_batch', 'n', 'executed', 'timestamp with time zone', false, '1.3'),\n"
	"        ('poser_batch', 'n', 'executed_by', 'text', false, '1.3'),\n"
	"        ('poser_batch', 'r', 'is_mutable', 'boolean', true, '1.3'),\n"
	"        ('poser_batch', 'n', 'status', 'text', false, '1.3'),\n"
	"        ('poser_batch', 'n', 'notes', 'text', false, '1.3'),\n"
	"        ('poser_batch', 'n', 'params', 'jsonb', false, '1.3'),\n"
	"        ('poser_batch_row', 'r', 'batch_uuid', 'character varying(32)', false, '1.3'),\n"
	"        ('poser_batch_row', 'r', 'sequence', 'bigint', false, '1.3'),\n"
	"        ('poser_batch_row', 'r', 'operation', 'text', true, '1.3'),\n"
	"        ('poser_batch_row', 'r', 'key', 'jsonb', false, '1.3'),\n"
	"        ('poser_batch_row', 'n', 'old', 'jsonb', false, '1.3'),\n"
	"        ('poser_batch_row', 'n', 'new', 'jsonb', false, '1.3'),\n"
	"        ('poser_batch_row', 'r', 'status', 'text', true, '1.3'),\n"
	"        ('poser_batch_row', 'n', 'status_text', 'text', false, '1.3'),\n"
	"        ('poser_batch_row', 'r', 'removed', 'boolean', true, '1.3'),\n"
	"        ('poser_transaction', 'n', 'consumer', 'name', false, '1.4'),\n"
	"        ('poser_datasync_consumer', 'r', 'consumer', 'name', false, '1.4'),\n"
	"        ('poser_datasync_consumer', 'n', 'handler', 'text', false, '1.4'),\n"
	"        ('poser_datasync_consumer', 'n', 'runas', 'text', false, '1.4'),\n"
	"        ('poser_datasync_consumer', 'r', 'notify', 'boolean', true, '1.4'),\n"
	"        ('poser_datasync_consumer', 'r', 'own_changes', 'boolean', true, '1.4'),\n"
	"        ('poser_datasync_consumer', 'r', 'own_after', 'bigint', true, '1.4'),\n"
	"        ('poser_datasync_consumer', 'r', 'roles', 'name[]', true, '1.4'),\n"
	"        ('poser_datasync_consumer', 'n', 'from_snapshot', 'pg_snapshot', false, '1.4'),\n"
	"        ('poser_datasync_consumer', 'n', 'to_snapshot', 'pg_snapshot', false, '1.4'),\n"
	"        ('poser_datasync_consumer', 'r', 'confirmed', 'bigint', true, '1.4'),\n"
	"        ('poser_datasync_consumer', 'r', 'delivered', 'bigint', true, '1.4'),\n"
	"        ('poser_datasync_consumer', 'r', 'last_change', 'bigint', true, '1.4'),\n"
	"        ('poser_datasync_consumer', 'r', 'settled', 'bigint', true, '1.4'),\n"
	"        ('poser_datasync_consumer', 'n', 'next_settled', 'bigint', false, '1.4'),\n"
	"        ('poser_datasync_consumer', 'n', 'next_settled_xact', 'xid8', false, '1.4'),\n"
	"        ('poser_datasync_consumer', 'n', 'last_confirmed_at', 'timestamp with time zone', false, '1.4'),\n"
	"        ('poser_datasync_consumer', 'r', 'attempts', 'integer', true, '1.4'),\n"
	"        ('poser_datasync_consumer', 'n', 'last_error', 'text', false, '1.4'),\n"
	"        ('poser_datasync_consumer', 'n', 'last_failed_at', 'timestamp with time zone', false, '1.4'),\n"
	"        ('poser_datasync_consumer', 'n', 'failed_change_id', 'bigint', false, '1.4'),\n"
	"        ('poser_datasync_skipped', 'r', 'consumer', 'name', false, '1.4'),\n"
	"        ('poser_datasync_skipped', 'r', 'change_id', 'bigint', false, '1.4'),\n"
	"        ('poser_datasync_skipped', 'r', 'reason', 'text', false, '1.4'),\n"
	"        ('poser_datasync_skipped', 'r', 'skipped_at', 'timestamp with time zone', false, '1.4'),\n"
	"        ('poser_datasync_skipped', 'r', 'username', 'text', false, '1.4'),\n"
	"        ('poser_datasync_skipped', 'r', 'role_name', 'name', false, '1.4'),\n"
	"        ('poser_datasync_skipped', 'n', 'error', 'text', false, '1.4'),\n"
	"        ('poser_change', 'c', 'change_id', 'bigint', false, '1.4'),\n"
	"        ('poser_change', 'c', 'transaction_id', 'bigint', false, '1.4'),\n"
	"        ('poser_change', 'c', 'issued_at', 'timestamp with time zone', false, '1.4'),\n"
	"        ('poser_change', 'c', 'username', 'text', false, '1.4'),\n"
	"        ('poser_change', 'c', 'payload_type', 'name', false, '1.4'),\n"
	"        ('poser_change', 'c', 'payload_key', 'text', false, '1.4'),\n"
	"        ('poser_change', 'c', 'deletion', 'boolean', false, '1.4'),\n"
	"        ('poser_change', 'c', 'payload', 'jsonb', false, '1.4'),\n"
	"        ('poser_datasync_status', 'v', 'consumer', 'name', false, '1.4'),\n"
	"        ('poser_datasync_status', 'v', 'handler', 'text', false, '1.4'),\n"
	"        ('poser_datasync_status', 'v', 'runas', 'text', false, '1.4'),\n"
	"        ('poser_datasync_status', 'v', 'notify', 'boolean', false, '1.4'),\n"
	"        ('poser_datasync_status', 'v', 'pending', 'bigint', false, '1.4'),\n"
	"        ('poser_datasync_status', 'v', 'oldest', 'timestamp with time zone', false, '1.4'),\n"
	"        ('poser_datasync_status', 'v', 'age', 'interval', false, '1.4'),\n"
	"        ('poser_datasync_status', 'v', 'stale', 'boolean', false, '1.4'),\n"
	"        ('poser_datasync_status', 'v', 'holds_pruning', 'boolean', false, '1.4'),\n"
	"        ('poser_datasync_status', 'v', 'last_confirmed_at', 'timestamp with time zone', false, '1.4'),\n"
	"        ('poser_datasync_status', 'v', 'attempts', 'integer', false, '1.4'),\n"
	"        ('poser_datasync_status', 'v', 'last_error', 'text', false, '1.4'),\n"
	"        ('poser_datasync_status', 'v', 'last_failed_at', 'timestamp with time zone', false, '1.4'),\n"
	"        ('poser_datasync_status', 'v', 'failed_change_id', 'bigint', false, '1.4'))\n"
	"       AS expected (relation, kind, name, type, has_default, version)\n"
	"       LEFT JOIN pg_class AS c\n"
	"       ON c.relnamespace = $1 AND c.relname = expected.relation\n"
	"       LEFT JOIN pg_attribute AS a\n"
	"       ON a.attrelid = c.oid AND a.attname = expected.name AND a.attnum > 0\n"
	" WHERE " IS_EXPECTED "\n"
	"   AND (a.attname IS NULL\n"
	"    OR format_type(a.atttypid, a.atttypmod) <> expected.type\n"
	"    OR (expected.kind = 'r' AND NOT a.attnotnull)\n"
	"    OR (expected.has_default AND NOT a.atthasdef))\n"
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
	"SELECT format('%s %s', CASE expected.kind WHEN 'r' THEN 'table' WHEN 'v' THEN 'view' WHEN 'c' THEN 'type' ELSE 'sequence' END, expected.name),\n"
	"       CASE WHEN c.oid IS NULL THEN 'is missing'\n"
	"            WHEN c.relkind::text <> expected.kind\n"
	"            THEN 'has been replaced by a relation of another kind'\n"
	"            WHEN c.relpersistence <> 'p' THEN 'is not kept over a crash'\n"
	"            WHEN expected.options <> '{}' AND (c.reloptions @> expected.options) IS NOT TRUE\n"
	"            THEN format('does not have the option %s', expected.options[1])\n"
	"            ELSE 'is part of a partitioned table or of an inheritance tree, so that not all changes are seen' END\n"
	"  FROM (VALUES\n"
	"        ('poser_widget', 'r', '{}'::text[], '1.1'),\n"
	"        ('poser_component', 'r', '{}', '1.1'),\n"
	"        ('poser_component_count', 'r', '{}', '1.1'),\n"
	"        ('poser_component_count_delta', 'r', '{}', '1.1'),\n"
	"        ('poser_component_count_settled', 'v', '{}', '1.1'),\n"
	"        ('poser_component_count_unsettled', 'v', '{}', '1.1'),\n"
	"        ('poser_widget_summary', 'v', '{security_invoker=true}', '1.1'),\n"
	"        ('poser_change_id_seq', 'S', '{}', '1.2'),\n"
	"        ('poser_transaction', 'r', '{}', '1.2'),\n"
	"        ('poser_widget_version', 'r', '{}', '1.2'),\n"
	"        ('poser_component_version', 'r', '{}', '1.2'),\n"
	"        ('poser_version_horizon', 'r', '{}', '1.2'),\n"
	"        ('poser_batch_id_seq', 'S', '{}', '1.3'),\n"
	"        ('poser_batch', 'r', '{}', '1.3'),\n"
	"        ('poser_batch_row', 'r', '{}', '1.3'),\n"
	"        ('poser_datasync_consumer', 'r', '{}', '1.4'),\n"
	"        ('poser_datasync_skipped', 'r', '{}', '1.4'),\n"
	"        ('poser_datasync_status', 'v', '{}', '1.4'),\n"
	"        ('poser_change', 'c', '{}', '1.4'))\n"
	"       AS expected (name, kind, options, version)\n"
	"       LEFT JOIN pg_class AS c\n"
	"       ON c.relnamespace = $1 AND c.relname = expected.name\n"
	" WHERE " IS_EXPECTED "\n"
	"   AND (c.oid IS NULL\n"
	"    OR c.relkind::text <> expected.kind\n"
	"    OR c.relpersistence <> 'p'\n"
	"    OR (expected.options <> '{}' AND (c.reloptions @> expected.options) IS NOT TRUE)\n"
	"    OR (expected.kind = 'r' AND EXISTS (SELECT FROM pg_inherits\n"
	"                                         WHERE inhrelid = c.oid OR inhparent = c.oid)))\n"
	" ORDER BY expected.name COLLATE \"C\"";

static const char *const check_view_owner =
	"SELECT format('view %s', v.relname),\n"
	"       format('belongs to %s, who may not read %s', v.relowner::regrole, c.relname)\n"
	"  FROM (VALUES\n"
	"        ('poser_component_count_settled', 'poser_component_count'),\n"
	"        ('poser_component_count_unsettled', 'poser_component_count_delta'),\n"
	"        ('poser_datasync_status', 'poser_datasync_consumer'))\n"
	"       AS expected (name, reads)\n"
	"       JOIN pg_class AS v ON v.relnamespace = $1 AND v.relname = expected.name\n"
	"       JOIN pg_class AS c ON c.relnamespace = $1 AND c.relname = expected.reads\n"
	" WHERE NOT has_table_privilege(v.relowner, c.oid, 'SELECT')\n"
	" ORDER BY v.relname COLLATE \"C\"";

static const char *const check_table_owner =
	"SELECT format('table %s', c.relname),\n"
	"       format('belongs to %s instead of %s', c.relowner::regrole, t.relowner::regrole)\n"
	"  FROM (VALUES ('poser_datasync_consumer', '1.4'), ('poser_datasync_skipped', '1.4')) AS expected (name, version)\n"
	"       JOIN pg_class AS c ON c.relnamespace = $1 AND c.relname = expected.name\n"
	"       JOIN pg_class AS t ON t.relnamespace = $1 AND t.relname = 'poser_transaction'\n"
	" WHERE " IS_EXPECTED " AND c.relowner <> t.relowner\n"
	"UNION ALL\n"
	"SELECT format('table %s', c.relname), 'has row-level security enabled'\n"
	"  FROM (VALUES ('poser_datasync_consumer', '1.4')) AS expected (name, version)\n"
	"       JOIN pg_class AS c ON c.relnamespace = $1 AND c.relname = expected.name\n"
	" WHERE " IS_EXPECTED " AND c.relrowsecurity\n"
	" ORDER BY 1, 2";

/* Relations whose rows are checked, and that the owner of poser_component may not read.  Run as that owner. */
static const char *const check_readable =
	"SELECT format('table %s', t.relname), format('belongs to %s, who may not read %s', t.relowner::regrole, c.relname)\n"
	"  FROM pg_class AS t\n"
	"       JOIN pg_class AS c ON c.relnamespace = t.relnamespace\n"
	" WHERE t.relnamespace = $1 AND t.relname = 'poser_component'\n"
	"   AND c.relname IN ('poser_widget', 'poser_component_count', 'poser_component_count_delta',\n"
	"                     'poser_change_id_seq', 'poser_transaction', 'poser_version_horizon',\n"
	"                     'poser_widget_version', 'poser_component_version',\n"
	"                     'poser_batch', 'poser_batch_row', 'poser_batch_id_seq', 'poser_datasync_consumer')\n"
	"   AND (NOT has_schema_privilege(c.relnamespace, 'USAGE')\n"
	"        OR NOT has_table_privilege(c.oid, 'SELECT')\n"
	"        OR row_security_active(c.oid))\n"
	" ORDER BY c.relname COLLATE \"C\"";

static const char *const check_constraints =
	"SELECT format('constraint %s of %s', expected.name, expected.relation),\n"
	"       CASE WHEN con.oid IS NULL THEN 'is missing'\n"
	"            WHEN NOT con.convalidated THEN 'is not validated'\n"
	"            WHEN expected.type = 'p' AND con.condeferrable\n"
	"            THEN 'is deferrable, so that the history of a key may not be that of one row'\n"
	"            ELSE 'has been changed' END\n"
	"  FROM (VALUES\n"
	"        ('poser_widget', 'poser_widget_pkey', 'p', 'uuid', NULL, '1.1'),\n"
	"        ('poser_component', 'poser_component_pkey', 'p', 'uuid', NULL, '1.1'),\n"
	"        ('poser_component', 'poser_component_fk_widget', 'f', 'widget_uuid', 'poser_widget', '1.1'),\n"
	"        ('poser_component_count', 'poser_component_count_pkey', 'p', 'widget_uuid', NULL, '1.1'),\n"
	"        ('poser_transaction', 'poser_transaction_pkey', 'p', 'id', NULL, '1.2'),\n"
	"        ('poser_widget_version', 'poser_widget_version_pkey', 'p', 'change_id', NULL, '1.2'),\n"
	"        ('poser_component_version', 'poser_component_version_pkey', 'p', 'change_id', NULL, '1.2'),\n"
	"        ('poser_version_horizon', 'poser_version_horizon_pkey', 'p', 'transaction_id', NULL, '1.2'),\n"
	"        ('poser_batch', 'poser_batch_pkey', 'p', 'uuid', NULL, '1.3'),\n"
	"        ('poser_batch', 'poser_batch_uq_id', 'u', 'id', NULL, '1.3'),\n"
	"        ('poser_batch_row', 'poser_batch_row_fk_batch', 'f', 'batch_uuid', 'poser_batch', '1.3'),\n"
	"        ('poser_datasync_consumer', 'poser_datasync_consumer_pkey', 'p', 'consumer', NULL, '1.4'))\n"
	"       AS expected (relation, name, type, col, referenced, version)\n"
	"       LEFT JOIN pg_class AS c\n"
	"       ON c.relnamespace = $1 AND c.relname = expected.relation\n"
	"       LEFT JOIN pg_class AS r\n"
	"       ON r.relnamespace = $1 AND r.relname = expected.referenced\n"
	"       LEFT JOIN pg_constraint AS con\n"
	"       ON con.conrelid = c.oid AND con.conname = expected.name\n"
	"       LEFT JOIN pg_attribute AS a\n"
	"       ON a.attrelid = c.oid AND a.attname = expected.col\n"
	" WHERE " IS_EXPECTED "\n"
	"   AND (con.contype::text = expected.type AND con.convalidated\n"
	"        AND NOT (expected.type = 'p' AND con.condeferrable)\n"
	"        AND con.conkey = ARRAY[a.attnum]\n"
	"        AND con.confrelid = COALESCE(r.oid, 0)) IS NOT TRUE\n"
	" ORDER BY expected.relation COLLATE \"C\", expected.name COLLATE \"C\"";

/* With pg_get_indexdef() an index that was dropped since the snapshot, and made again, would have no columns. */
static const char *const check_indexes =
	"SELECT format('index %s', expected.name),\n"
	"       CASE WHEN i.indexrelid IS NULL THEN 'is missing'\n"
	"            WHEN NOT i.indisvalid THEN 'is not valid'\n"
	"            ELSE 'has been changed' END\n"
	"  FROM (VALUES\n"
	"        ('poser_widget', 'poser_widget_pkey', true, 'uuid', '1.1'),\n"
	"        ('poser_component', 'poser_component_pkey', true, 'uuid', '1.1'),\n"
	"        ('poser_component', 'poser_component_idx_widget', false, 'widget_uuid', '1.1'),\n"
	"        ('poser_component_count', 'poser_component_count_pkey', true, 'widget_uuid', '1.1'),\n"
	"        ('poser_component_count_delta', 'poser_component_count_delta_idx_widget', false, 'widget_uuid', '1.1'),\n"
	"        ('poser_transaction', 'poser_transaction_pkey', true, 'id', '1.2'),\n"
	"        ('poser_transaction', 'poser_transaction_idx_issued_at', false, 'issued_at, id', '1.2'),\n"
	"        ('poser_widget_version', 'poser_widget_version_pkey', true, 'change_id', '1.2'),\n"
	"        ('poser_widget_version', 'poser_widget_version_idx_key', false, 'uuid, change_id', '1.2'),\n"
	"        ('poser_component_version', 'poser_component_version_pkey', true, 'change_id', '1.2'),\n"
	"        ('poser_component_version', 'poser_component_version_idx_key', false, 'uuid, change_id', '1.2'),\n"
	"        ('poser_component_version', 'poser_component_version_idx_widget', false, 'widget_uuid', '1.2'),\n"
	"        ('poser_batch', 'poser_batch_pkey', true, 'uuid', '1.3'),\n"
	"        ('poser_batch', 'poser_batch_uq_id', true, 'id', '1.3'),\n"
	"        ('poser_batch_row', 'poser_batch_row_pkey', true, 'batch_uuid, sequence', '1.3'),\n"
	"        ('poser_transaction', 'poser_transaction_idx_xact', false, 'xact', '1.4'),\n"
	"        ('poser_datasync_consumer', 'poser_datasync_consumer_pkey', true, 'consumer', '1.4'))\n"
	"       AS expected (relation, name, is_unique, cols, version)\n"
	"       LEFT JOIN pg_class AS c\n"
	"       ON c.relnamespace = $1 AND c.relname = expected.relation\n"
	"       LEFT JOIN (pg_index AS i JOIN pg_class AS ic ON ic.oid = i.indexrelid)\n"
	"       ON i.indrelid = c.oid AND ic.relname = expected.name\n"
	" WHERE " IS_EXPECTED "\n"
	"   AND (i.indisvalid AND i.indisready AND i.indisunique = expected.is_unique\n"
	"        AND i.indpred IS NULL AND i.indexprs IS NULL\n"
	"        AND (SELECT string_agg(a.attname, ', ' ORDER BY k.n)\n"
	"               FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, n)\n"
	"                    JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum) = expected.cols) IS NOT TRUE\n"
	" ORDER BY expected.relation COLLATE \"C\", expected.name COLLATE \"C\"";

static const char *const check_triggers =
	"SELECT format('trigger %s of %s', expected.name, expected.relation),\n"
	"       CASE WHEN t.oid IS NULL THEN 'is missing'\n"
	"            WHEN t.tgenabled = 'D' THEN 'is disabled'\n"
	"            WHEN t.tgenabled = 'R' AND expected.enabled <> 'R' THEN 'fires for replication only'\n"
	"            WHEN t.tgenabled = 'O' AND expected.enabled = 'A' THEN 'does not fire for replication'\n"
	"            ELSE 'has been changed' END\n"
	"  FROM (VALUES\n"
	/* type: 1 row, 2 before, 4 insert, 8 delete, 16 update, 32 truncate */
	"        ('poser_component', 'poser_count_before', 2 + 4 + 8 + 16 + 32, false, false, 'poser_count_child', 'OA', '1.1'),\n"
	"        ('poser_component', 'poser_count_insert', 4, false, true, 'poser_count_child', 'OA', '1.1'),\n"
	"        ('poser_component', 'poser_count_update', 16, true, true, 'poser_count_child', 'OA', '1.1'),\n"
	"        ('poser_component', 'poser_count_delete', 8, true, false, 'poser_count_child', 'OA', '1.1'),\n"
	"        ('poser_component', 'poser_count_truncate', 32, false, false, 'poser_count_child', 'OA', '1.1'),\n"
	"        ('poser_widget', 'poser_count_before', 2 + 4 + 16, false, false, 'poser_count_parent', 'OA', '1.1'),\n"
	"        ('poser_widget', 'poser_count_insert', 4, false, true, 'poser_count_parent', 'OA', '1.1'),\n"
	"        ('poser_widget', 'poser_count_update', 16, false, false, 'poser_count_parent', 'OA', '1.1'),\n"
	"        ('poser_widget', 'poser_count_update_key', 1 + 16, false, false, 'poser_count_parent', 'OA', '1.1'),\n"
	"        ('poser_widget', 'poser_count_delete', 8, true, false, 'poser_count_parent', 'OA', '1.1'),\n"
	"        ('poser_widget', 'poser_count_truncate', 32, false, false, 'poser_count_parent', 'OA', '1.1'),\n"
	"        ('poser_component', 'poser_version_before', 2 + 4 + 8 + 16 + 32, false, false, 'poser_version', 'OA', '1.2'),\n"
	"        ('poser_component', 'poser_version_insert', 4, false, true, 'poser_version', 'OA', '1.2'),\n"
	"        ('poser_component', 'poser_version_update', 16, true, true, 'poser_version', 'OA', '1.2'),\n"
	"        ('poser_component', 'poser_version_delete', 8, true, false, 'poser_version', 'OA', '1.2'),\n"
	"        ('poser_component', 'poser_version_truncate', 32, false, false, 'poser_version', 'OA', '1.2'),\n"
	"        ('poser_widget', 'poser_version_before', 2 + 4 + 8 + 16 + 32, false, false, 'poser_version', 'OA', '1.2'),\n"
	"        ('poser_widget', 'poser_version_insert', 4, false, true, 'poser_version', 'OA', '1.2'),\n"
	"        ('poser_widget', 'poser_version_update', 16, true, true, 'poser_version', 'OA', '1.2'),\n"
	"        ('poser_widget', 'poser_version_delete', 8, true, false, 'poser_version', 'OA', '1.2'),\n"
	"        ('poser_widget', 'poser_version_truncate', 32, false, false, 'poser_version', 'OA', '1.2'),\n"
	"        ('poser_transaction', 'poser_transaction_arrive', 1 + 2 + 4, false, false, 'poser_transaction_arrive', 'A', '1.2'),\n"
	"        ('poser_batch', 'poser_batch_guard', 1 + 2 + 4 + 8 + 16, false, false, 'poser_batch_guard', 'OA', '1.3'),\n"
	"        ('poser_batch_row', 'poser_batch_row_before', 2 + 4 + 8 + 16, false, false, 'poser_batch_row_guard', 'OA', '1.3'),\n"
	"        ('poser_batch_row', 'poser_batch_row_insert', 4, false, true, 'poser_batch_row_guard', 'OA', '1.3'),\n"
	"        ('poser_batch_row', 'poser_batch_row_update', 16, true, true, 'poser_batch_row_guard', 'OA', '1.3'),\n"
	"        ('poser_batch_row', 'poser_batch_row_delete', 8, true, false, 'poser_batch_row_guard', 'OA', '1.3'),\n"
	"        ('poser_batch_row', 'poser_batch_row_truncate', 32, false, false, 'poser_batch_row_guard', 'OA', '1.3'),\n"
	"        ('poser_datasync_consumer', 'poser_datasync_arrive', 1 + 2 + 4, false, false, 'poser_datasync_arrive', 'A', '1.4'),\n"
	"        ('poser_datasync_consumer', 'poser_datasync_arrive_update', 1 + 2 + 16, false, false, 'poser_datasync_arrive', 'R', '1.4'),\n"
	"        ('poser_datasync_consumer', 'poser_datasync_changed', 4 + 8 + 16 + 32, false, false, 'poser_datasync_changed', 'A', '1.4'))\n"
	"       AS expected (relation, name, type, old_rows, new_rows, function, enabled, version)\n"
	/* E'' means the same under standard_conforming_strings = on and off */
	"       JOIN (VALUES\n"
	"        ('poser_component', 'poser_count_child',\n"
	"         E'poser_component_count\\\\000poser_component_count_delta\\\\000widget_uuid\\\\000active\\\\000'),\n"
	"        ('poser_widget', 'poser_count_parent',\n"
	"         E'poser_component_count\\\\000poser_component_count_delta\\\\000uuid\\\\000'),\n"
	"        ('poser_component', 'poser_version', E'poser_component_version\\\\000uuid\\\\000'),\n"
	"        ('poser_widget', 'poser_version', E'poser_widget_version\\\\000uuid\\\\000'),\n"
	"        ('poser_transaction', 'poser_transaction_arrive', ''),\n"
	"        ('poser_batch', 'poser_batch_guard', ''),\n"
	"        ('poser_batch_row', 'poser_batch_row_guard', ''),\n"
	"        ('poser_datasync_consumer', 'poser_datasync_arrive', ''),\n"
	"        ('poser_datasync_consumer', 'poser_datasync_changed', ''))\n"
	"       AS arguments (relation, function, args)\n"
	"       USING (relation, function)\n"
	"       LEFT JOIN pg_class AS c\n"
	"       ON c.relnamespace = $1 AND c.relname = relation\n"
	"       LEFT JOIN pg_trigger AS t\n"
	"       ON t.tgrelid = c.oid AND t.tgname = expected.name\n"
	"       LEFT JOIN pg_proc AS p\n"
	"       ON p.oid = t.tgfoid\n"
	" WHERE " IS_EXPECTED "\n"
	"   AND (strpos(expected.enabled, t.tgenabled::text) > 0 AND t.tgtype = expected.type\n"
	"        AND (cardinality(t.tgattr) > 0) = (expected.name = 'poser_datasync_changed')\n"
	"        AND (t.tgqual IS NOT NULL) = (expected.name = 'poser_count_update_key')\n"
	"        AND (t.tgoldtable IS NOT NULL) = expected.old_rows\n"
	"        AND (t.tgnewtable IS NOT NULL) = expected.new_rows\n"
	"        AND p.pronamespace = $1 AND p.proname = function\n"
	"        AND encode(t.tgargs, 'escape') = arguments.args) IS NOT TRUE\n"
	" ORDER BY relation COLLATE \"C\", expected.name COLLATE \"C\"";

static const char *const check_sequence =
	"SELECT 'sequence poser_change_id_seq', 'has been changed'\n"
	"  FROM pg_class AS c JOIN pg_sequence AS s ON s.seqrelid = c.oid\n"
	" WHERE c.relnamespace = $1 AND c.relname = 'poser_change_id_seq'\n"
	"   AND (seqtypid <> 'int8'::regtype OR seqincrement <> 1 OR seqcache <> 1 OR seqcycle)";

static const char *const check_policies =
	"SELECT format('table %s', expected.name),\n"
	"       CASE WHEN c.relrowsecurity THEN format('has no policy %s', expected.policy)\n"
	"            ELSE 'does not have row-level security enabled' END\n"
	"  FROM (VALUES\n"
	"        ('poser_batch', 'poser_batch_policy', '1.3'),\n"
	"        ('poser_batch_row', 'poser_batch_row_policy', '1.3'))\n"
	"       AS expected (name, policy, version)\n"
	"       JOIN pg_class AS c\n"
	"       ON c.relnamespace = $1 AND c.relname = expected.name\n"
	" WHERE " IS_EXPECTED "\n"
	"   AND NOT (c.relrowsecurity\n"
	"            AND EXISTS (SELECT FROM pg_policy\n"
	"                         WHERE polrelid = c.oid AND polname = expected.policy AND polcmd = '*'))\n"
	" ORDER BY expected.name COLLATE \"C\"";

static const char *const structure_checks[] = {
	check_relations, check_columns, check_foreign_columns, check_view_owner, check_table_owner, check_readable,
	check_constraints, check_indexes, check_triggers, check_policies, check_sequence};

/* %s is the comparison of counts, see poser_count_comparison() */
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

/*
 * The following checks are of the history of one table.  Columns of tables are
 * qualified, because users may add columns of any name.  %1$s is the schema,
 * quoted; %2$s the table of versions; %3$s its key column; %4$s a literal, what to
 * call a row; %5$s a literal, the qualified name of the table of versions.
 * poser_record_versions() corrects wrong operations except deletes, because it
 * removes no versions.
 */
static const char *const check_operations =
	"SELECT format('%%s %%s', %4$s, version.key),\n"
	"       CASE WHEN operation_type NOT BETWEEN 0 AND 2\n"
	"            THEN format('change %%s has the operation_type %%s', change_id, operation_type)\n"
	"            WHEN operation_type = 0\n"
	"            THEN format('change %%s is an insert of a row that was there', change_id)\n"
	"            WHEN operation_type = 2\n"
	"            THEN format('change %%s is a delete of a row that was not there (DELETE FROM %%s WHERE change_id = %%s removes it)',\n"
	"                        change_id, %5$s, change_id)\n"
	"            ELSE format('change %%s is of a row that was not there', change_id) END\n"
	"  FROM (SELECT v.%3$s::text AS key, v.change_id, v.operation_type,\n"
	"               lag(v.operation_type) OVER (PARTITION BY v.%3$s ORDER BY v.change_id) AS before\n"
	"          FROM %1$s.%2$s AS v) AS version\n"
	" WHERE operation_type NOT BETWEEN 0 AND 2\n"
	"    OR (before IN (0, 1) AND operation_type = 0)\n"
	"    OR (before = 2 AND operation_type <> 0)\n"
	/* what was before the first version may have been pruned */
	"    OR (before IS NULL AND operation_type <> 0\n"
	"        AND change_id > COALESCE((SELECT max(h.change_id) FROM %1$s.poser_version_horizon AS h), 0))\n"
	" ORDER BY change_id";

/* %3$s is a literal, the name of the table of versions */
static const char *const check_transactions =
	"SELECT format('transaction %%s', version.transaction_id),\n"
	"       format('is missing, and %%s has changes of it', %3$s)\n"
	"  FROM (SELECT DISTINCT v.transaction_id FROM %1$s.%2$s AS v) AS version\n"
	" WHERE NOT EXISTS (SELECT FROM %1$s.poser_transaction AS t WHERE t.id = version.transaction_id)\n"
	" ORDER BY version.transaction_id";

/* %1$s is a literal, what to call a row; %2$s its key; %3$s the comparison of the table with its history */
static const char *const check_last_versions =
	"SELECT format('%%s %%s', %1$s, compared.%2$s),\n"
	"       CASE WHEN operation = 2 THEN 'is gone, but its history does not end in a delete'\n"
	"            WHEN operation = 1 THEN 'differs from its last version'\n"
	"            WHEN operation_type = 2 THEN 'is there, but its history ends in a delete'\n"
	"            ELSE 'has no version' END\n"
	"  FROM (%3$s) AS compared\n"
	" ORDER BY compared.%2$s::text COLLATE \"C\"";

/* Of all the history; %1$s is the schema, quoted, %2$s its greatest id. */
static const char *const check_ids =
	"SELECT 'sequence poser_change_id_seq',\n"
	"       format('is behind: %%s is in use', greatest_id)\n"
	"  FROM (SELECT greatest(%2$s) AS greatest_id) AS used,\n"
	"       %1$s.poser_change_id_seq\n"
	" WHERE greatest_id >= last_value + is_called::int\n"
	/* a subscriber's is, until it becomes the writer */
	"   AND NOT EXISTS (SELECT FROM pg_subscription_rel\n"
	"                    WHERE srrelid = (SELECT oid FROM pg_class\n"
	"                                      WHERE relnamespace = $1 AND relname = 'poser_transaction'))\n"
	"UNION ALL\n"
	"SELECT format('transaction %%s', t.id), format('has an xact that is yet to come: %%s', t.xact)\n"
	"  FROM %1$s.poser_transaction AS t\n"
	" WHERE t.xact >= pg_snapshot_xmax(pg_current_snapshot())\n"
	"   AND t.xact IS DISTINCT FROM pg_current_xact_id_if_assigned()\n"
	" ORDER BY 1";

/* Of batches; %1$s is the schema, quoted. */
static const char *const check_batches =
	"SELECT format('batch %%s', b.uuid),\n"
	"       format('row_count is %%s instead of %%s', b.row_count, count(r.sequence))\n"
	"  FROM %1$s.poser_batch AS b LEFT JOIN %1$s.poser_batch_row AS r\n"
	"       ON r.batch_uuid = b.uuid AND NOT r.removed\n"
	" GROUP BY b.uuid, b.row_count\n"
	"HAVING b.row_count <> count(r.sequence)\n"
	"UNION ALL\n"
	"SELECT format('batch %%s', b.uuid), 'is for a table that is gone'\n"
	"  FROM %1$s.poser_batch AS b\n"
	" WHERE NOT EXISTS (SELECT FROM pg_class AS c WHERE c.oid = b.target)\n"
	"UNION ALL\n"
	"SELECT 'sequence poser_batch_id_seq', format('is behind: %%s is in use', max(b.id))\n"
	"  FROM %1$s.poser_batch AS b\n"
	"HAVING max(b.id) >= (SELECT s.last_value + s.is_called::int FROM %1$s.poser_batch_id_seq AS s)\n"
	" ORDER BY 1, 2";

/* Of consumers; %1$s is the schema, quoted. */
static const char *const check_consumers =
	"SELECT format('consumer %%s', c.consumer), 'is at a transaction that is yet to come'\n"
	"  FROM %1$s.poser_datasync_consumer AS c\n"
	" WHERE greatest(pg_snapshot_xmax(c.from_snapshot), pg_snapshot_xmax(c.to_snapshot))\n"
	"       > pg_snapshot_xmax(pg_current_snapshot())\n"
	"UNION ALL\n"
	"SELECT format('consumer %%s', c.consumer), format('is at change %%s, which is yet to come', c.confirmed)\n"
	"  FROM %1$s.poser_datasync_consumer AS c\n"
	" WHERE c.confirmed > (SELECT s.last_value FROM %1$s.poser_change_id_seq AS s)\n"
	"   AND NOT EXISTS (SELECT FROM pg_subscription_rel\n"
	"                    WHERE srrelid = (SELECT oid FROM pg_class\n"
	"                                      WHERE relnamespace = $1 AND relname = 'poser_transaction'))\n"
	"UNION ALL\n"
	"SELECT format('consumer %%s', c.consumer), format('has the handler %%s, which does not exist', c.handler)\n"
	"  FROM %1$s.poser_datasync_consumer AS c\n"
	" WHERE c.handler IS NOT NULL\n"
	"   AND NOT EXISTS (SELECT FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace\n"
	"                    WHERE format('%%I.%%I', n.nspname, p.proname) = c.handler\n"
	"                      AND p.prokind = 'f' AND NOT p.proretset AND p.pronargs = 1\n"
	"                      AND p.proargtypes[0] = (SELECT reltype FROM pg_class\n"
	"                                               WHERE relnamespace = $1 AND relname = 'poser_change'))\n"
	"UNION ALL\n"
	"SELECT format('consumer %%s', c.consumer), format('is granted to role %%s, which does not exist', granted.role)\n"
	"  FROM %1$s.poser_datasync_consumer AS c, unnest(c.roles) AS granted (role)\n"
	" WHERE granted.role <> 'public' AND NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = granted.role)\n"
	" ORDER BY 1, 2";

/* Add a query's rows to the function's result; returns how many. */
static uint64
add_problems(ReturnSetInfo *rsinfo, const char *query, Oid nspid, const char *version)
{
	Oid argtypes[] = {OIDOID, TEXTOID};
	Datum values[] = {ObjectIdGetDatum(nspid), CStringGetTextDatum(version)};
	SPIExecuteOptions options = {0};

	options.params = poser_params(lengthof(argtypes), argtypes, values, NULL);
	options.read_only = true;
	options.dest = poser_result_receiver(rsinfo);
	if (SPI_execute_extended(query, &options) < 0)
		elog(ERROR, "SPI_execute_extended failed: %s", SPI_result_code_string(SPI_result));
	options.dest->rDestroy(options.dest);
	return SPI_processed;
}

/*
 * The installed version of the extension that a function belongs to.  If it is
 * unknown, a very high version is returned, so that all objects are checked.
 */
static char *
installed_version(Oid fnoid)
{
	Oid argtypes[] = {OIDOID};
	Datum values[] = {ObjectIdGetDatum(getExtensionOfObject(ProcedureRelationId, fnoid))};
	char *result = NULL;

	if (SPI_execute_with_args("SELECT substring(extversion, '^[0-9]+(?:[.][0-9]+)*') FROM pg_extension WHERE oid = $1",
							  lengthof(argtypes), argtypes, values, NULL, true, 1) == SPI_OK_SELECT &&
		SPI_processed > 0)
		result = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	return result != NULL ? result : "2147483647";
}

/* Is a version 1.minor, or a later one? */
static bool
is_from(const char *version, int minor)
{
	int numbers[] = {0, 0};

	(void) sscanf(version, "%d.%d", &numbers[0], &numbers[1]);
	return numbers[0] > 1 || (numbers[0] == 1 && numbers[1] >= minor);
}

static bool
has_column(Oid relid, const char *name, Oid type)
{
	AttrNumber attno = get_attnum(relid, name);

	return attno > 0 && get_atttype(relid, attno) == type;
}

/* Columns of the table that are not recorded. */
static void
add_unrecorded_columns(ReturnSetInfo *rsinfo, const PoserVersioned *versioned)
{
	Relation rel = table_open(versioned->relid, AccessShareLock);

	for (int i = 0; i < RelationGetDescr(rel)->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), i);
		bool recorded = att->attisdropped;
		Datum values[2];
		bool isnull[2] = {false, false};

		for (int j = 0; j < versioned->natts; j++)
			recorded = recorded || versioned->source[j] == i + 1;
		/* what is not stored cannot be recorded, and follows from the rest */
		if (recorded || (att->attgenerated != '\0' && att->attgenerated != ATTRIBUTE_GENERATED_STORED))
			continue;
		values[0] = CStringGetTextDatum(psprintf("column %s of %s", NameStr(att->attname),
												 RelationGetRelationName(rel)));
		values[1] = CStringGetTextDatum(psprintf("is not recorded: %s has no such column of its type",
												 get_rel_name(versioned->versions)));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, isnull);
	}
	table_close(rel, AccessShareLock);
}

/* The history: is it that of the rows, and whole? */
static void
check_history(ReturnSetInfo *rsinfo, Oid nspid, const char *version)
{
	const char *schema = quote_identifier(get_namespace_name(nspid));
	PoserVersioned tables[POSER_VERSIONED_TABLES];
	StringInfoData ids;

	poser_versioned_describe_all(tables, nspid);
	initStringInfo(&ids);
	appendStringInfo(&ids, "(SELECT max(t.id) FROM %s.poser_transaction AS t)", schema);
	for (int i = 0; i < POSER_VERSIONED_TABLES; i++)
	{
		char *name = get_rel_name(tables[i].versions);
		char *whole_name = poser_relation_name(tables[i].versions);
		const char *versions = quote_identifier(name);
		const char *key = quote_identifier(get_attname(tables[i].versions, tables[i].keys[0], false));
		const char *label = quote_literal_cstr(poser_versioned_label(i));
		StringInfoData sql;

		appendStringInfo(&ids, ", (SELECT max(v.change_id) FROM %s.%s AS v)", schema, versions);
		add_unrecorded_columns(rsinfo, &tables[i]);
		initStringInfo(&sql);
		poser_history_append_comparison(&sql, &tables[i]);
		add_problems(rsinfo, psprintf(check_last_versions, label, psprintf("column_%d", tables[i].keys[0]), sql.data),
					 nspid, version);
		add_problems(rsinfo, psprintf(check_operations, schema, versions, key, label, quote_literal_cstr(whole_name)),
					 nspid, version);
		add_problems(rsinfo, psprintf(check_transactions, schema, versions, quote_literal_cstr(name)), nspid, version);
	}
	add_problems(rsinfo, psprintf(check_ids, schema, ids.data), nspid, version);
}

/* The tables, parent, child, counts and deltas. */
static const char *const tables[] = {
	"poser_widget", "poser_component", "poser_component_count", "poser_component_count_delta"};

/* Those of the history, which must have these columns to be looked at. */
static const struct
{
	const char *name;
	char kind;
	const char *columns[4];
	Oid types[4];
} history_tables[] = {
	{"poser_widget_version", RELKIND_RELATION, {"uuid", "transaction_id", "operation_type", "change_id"}, {VARCHAROID, INT8OID, INT2OID, INT8OID}},
	{"poser_component_version", RELKIND_RELATION, {"uuid", "transaction_id", "operation_type", "change_id"}, {VARCHAROID, INT8OID, INT2OID, INT8OID}},
	{"poser_transaction", RELKIND_RELATION, {"id", "xact"}, {INT8OID, XID8OID}},
	{"poser_version_horizon", RELKIND_RELATION, {"transaction_id", "change_id"}, {INT8OID, INT8OID}},
	{"poser_change_id_seq", RELKIND_SEQUENCE, {"last_value"}, {INT8OID}},
	{"poser_widget", RELKIND_RELATION, {"uuid"}, {VARCHAROID}},
	{"poser_component", RELKIND_RELATION, {"uuid"}, {VARCHAROID}}};

/* Relations of batches and consumers. */
static const char *const other_relations[] = {
	"poser_batch", "poser_batch_row", "poser_batch_id_seq", "poser_datasync_consumer"};

/* May the current user read all rows of this relation of the schema? */
static bool
is_readable(const char *name, Oid nspid)
{
	Oid relid = get_relname_relid(name, nspid);

	return OidIsValid(relid) && poser_may_read(relid);
}

/*
 * Lock a relation, if it exists, so that it is not rewritten while it is read.
 * In READ COMMITTED the caller then takes a new snapshot, which sees all its rows.
 * In REPEATABLE READ and SERIALIZABLE it is an error if the relation was rewritten
 * since the transaction's snapshot.
 */
static void
lock_relation(const char *name, Oid nspid)
{
	Oid relid = get_relname_relid(name, nspid);
	List *locked;
	ListCell *lc;

	if (!OidIsValid(relid))
		return;
	locked = poser_lock_tree(relid);
	if (!IsolationUsesXactSnapshot())
		return;
	foreach(lc, locked)
	{
		poser_check_rewritten(lfirst_oid(lc), GetActiveSnapshot());
	}
}

/* Lock all relations that are read. */
static void
lock_relations(Oid nspid)
{
	for (int i = 0; i < lengthof(tables); i++)
		lock_relation(tables[i], nspid);
	for (int i = 0; i < lengthof(history_tables); i++)
		lock_relation(history_tables[i].name, nspid);
	for (int i = 0; i < lengthof(other_relations); i++)
		lock_relation(other_relations[i], nspid);
}

/* Raises an error unless the current user owns all of the tables there are. */
static bool
find_history(Oid nspid)
{
	bool result = true;

	for (int i = 0; i < lengthof(history_tables); i++)
	{
		Oid relid = get_relname_relid(history_tables[i].name, nspid);

		if (!OidIsValid(relid))
		{
			result = false;
			continue;
		}
		poser_check_owner(relid);
		if (get_rel_relkind(relid) != history_tables[i].kind)
			result = false;
		for (int j = 0; j < lengthof(history_tables[i].columns); j++)
			if (history_tables[i].columns[j] != NULL &&
				!has_column(relid, history_tables[i].columns[j], history_tables[i].types[j]))
				result = false;
	}
	return result;
}

/* Are the batches' tables there, with the columns that are counted? */
static bool
find_batches(Oid nspid)
{
	Oid batches = get_relname_relid("poser_batch", nspid);
	Oid rows = get_relname_relid("poser_batch_row", nspid);

	return is_readable("poser_batch", nspid) && is_readable("poser_batch_row", nspid) &&
		   is_readable("poser_batch_id_seq", nspid) && has_column(batches, "uuid", VARCHAROID) &&
		   has_column(batches, "id", INT8OID) && has_column(batches, "row_count", INT8OID) &&
		   has_column(rows, "batch_uuid", VARCHAROID) &&
		   has_column(rows, "sequence", INT8OID) && has_column(rows, "removed", BOOLOID) &&
		   get_rel_relkind(get_relname_relid("poser_batch_id_seq", nspid)) == RELKIND_SEQUENCE;
}

/* Is the consumers' table there, with the columns that are looked at? */
static bool
find_consumers(Oid nspid)
{
	Oid consumers = get_relname_relid("poser_datasync_consumer", nspid);

	return is_readable("poser_datasync_consumer", nspid) && poser_is_owner(consumers, GetUserId()) && has_column(consumers, "consumer", NAMEOID) &&
		   has_column(consumers, "handler", TEXTOID) && has_column(consumers, "roles", NAMEARRAYOID) &&
		   has_column(consumers, "confirmed", INT8OID) && has_column(consumers, "from_snapshot", PG_SNAPSHOTOID) && has_column(consumers, "to_snapshot", PG_SNAPSHOTOID);
}

/*
 * poser_check() returns table (object text, problem text)
 *
 * The caller must have the rights of the owners of all tables.  Rows are checked
 * as the owner of poser_component, who sees all of them even under FORCE ROW LEVEL
 * SECURITY.  If the tables have different owners, and the owner of poser_component
 * may not read a table, then this is reported as a problem.  The checks that read
 * the rows of that table are left out.
 */
Datum
poser_check(PG_FUNCTION_ARGS)
{
	Oid nspid = get_func_namespace(fcinfo->flinfo->fn_oid);
	Oid relids[lengthof(tables)];
	bool complete = true;
	bool has_history;
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid save_userid;
	int save_sec_context;
	char *version;
	int level;

	/* the owner alone may make others wait */
	for (int i = 0; i < lengthof(tables); i++)
		if (OidIsValid(get_relname_relid(tables[i], nspid)))
			poser_check_owner(get_relname_relid(tables[i], nspid));
	lock_relations(nspid);
	for (int i = 0; i < lengthof(tables); i++)
	{
		relids[i] = get_relname_relid(tables[i], nspid);
		if (OidIsValid(relids[i]))
			poser_check_owner(relids[i]);
		else
			complete = false;
	}
	has_history = find_history(nspid);
	/* in READ COMMITTED this snapshot is newer than the locks */
	PushActiveSnapshot(GetTransactionSnapshot());

	InitMaterializedSRF(fcinfo, 0);
	if (OidIsValid(relids[1]))
		poser_become_owner(relids[1], &save_userid, &save_sec_context);
	else
		GetUserIdAndSecContext(&save_userid, &save_sec_context);
	for (int i = 0; i < lengthof(tables); i++)
		complete = complete && poser_may_read(relids[i]);
	for (int i = 0; i < lengthof(history_tables); i++)
		has_history = has_history && is_readable(history_tables[i].name, nspid);

	/* what is expected is written without quotes */
	level = NewGUCNestLevel();
	(void) set_config_option("quote_all_identifiers", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	SPI_connect();
	version = installed_version(fcinfo->flinfo->fn_oid);

	for (int i = 0; i < lengthof(structure_checks); i++)
		if (add_problems(rsinfo, structure_checks[i], nspid, version) > 0 &&
			structure_checks[i] == check_columns)
			complete = false;

	/* without its columns a table cannot be counted */
	if (complete)
	{
		char *comparison = poser_count_comparison(relids[0], "uuid", relids[1], "widget_uuid", "active",
												  relids[2], relids[3]);

		add_problems(rsinfo, psprintf(check_counts, comparison), nspid, version);
	}
	if (has_history && is_from(version, 2))
		check_history(rsinfo, nspid, version);
	if (is_from(version, 3) && find_batches(nspid))
		add_problems(rsinfo, psprintf(check_batches, quote_identifier(get_namespace_name(nspid))),
					 nspid, version);
	if (has_history && is_from(version, 4) && find_consumers(nspid))
		add_problems(rsinfo, psprintf(check_consumers, quote_identifier(get_namespace_name(nspid))),
					 nspid, version);

	SPI_finish();
	AtEOXact_GUC(true, level);
	SetUserIdAndSecContext(save_userid, save_sec_context);
	PopActiveSnapshot();
	return (Datum) 0;
}
