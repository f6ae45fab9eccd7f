/*
 * check_structure.c
 *	  Checking that the extension's relations are as its scripts have made them.
 *
 * Each query has a list of the objects that it expects.  The list says with which version
 * of the extension an object was added.
 */
#include "postgres.h"

#include "check/check_internal.h"

/*
 * The columns that the scripts have made.  Kind 'r' is a NOT NULL column of a table, 'n' a
 * column of a table that may be null, 'v' a column of a view, and 'c' a column of a
 * composite type.
 */
const char *const poser_own_columns =
	"(VALUES\n"
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
	"        ('poser_prune_position', 'r', 'relation', 'name', false, '1.5'),\n"
	"        ('poser_prune_position', 'r', 'transaction_id', 'bigint', false, '1.5'),\n"
	"        ('poser_prune_position', 'n', 'change_id', 'bigint', false, '1.5'),\n"
	"        ('poser_prune_position', 'n', 'key', 'text', false, '1.5'),\n"
	"        ('poser_prune_position', 'r', 'seen', 'pg_snapshot', false, '1.5'),\n"
	"        ('poser_prune_position', 'r', 'full_until', 'bigint', false, '1.5'),\n"
	"        ('poser_prune_position', 'r', 'issued_before', 'timestamp with time zone', false, '1.5'),\n"
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
	"        ('poser_batch', 'r', 'unchanged_count', 'bigint', true, '1.5'),\n"
	"        ('poser_batch_row', 'r', 'batch_uuid', 'character varying(32)', false, '1.3'),\n"
	"        ('poser_batch_row', 'r', 'sequence', 'bigint', false, '1.3'),\n"
	"        ('poser_batch_row', 'r', 'operation', 'text', true, '1.3'),\n"
	"        ('poser_batch_row', 'r', 'key', 'jsonb', false, '1.3'),\n"
	"        ('poser_batch_row', 'n', 'old', 'jsonb', false, '1.3'),\n"
	"        ('poser_batch_row', 'n', 'new', 'jsonb', false, '1.3'),\n"
	"        ('poser_batch_row', 'r', 'status', 'text', true, '1.3'),\n"
	"        ('poser_batch_row', 'n', 'status_text', 'text', false, '1.3'),\n"
	"        ('poser_batch_row', 'r', 'removed', 'boolean', true, '1.3'),\n"
	"        ('poser_batch_row', 'r', 'row_id', 'text', true, '1.5'),\n"
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
	"        ('poser_datasync_status', 'v', 'failed_change_id', 'bigint', false, '1.4'))";

/*
 * Has the column the type that a script has given it?  A text of the user's may be longer:
 * users widen it by poser_alter_type().
 */
#define HAS_TYPE \
	"(format_type(a.atttypid, a.atttypmod) = expected.type\n" \
	"             OR (expected.name IN ('description', 'item_code') AND a.atttypid IN ('varchar'::regtype, 'text'::regtype)\n" \
	"                 AND COALESCE(NULLIF(a.atttypmod, -1) - 4 > substring(expected.type, '[0-9]+')::int, true)))"

/* Columns that are missing or have been changed.  %s is the list of columns. */
static const char *const check_columns =
	"SELECT format('column %%s of %%s', expected.name, expected.relation),\n"
	"       CASE WHEN a.attname IS NULL THEN 'is missing'\n"
	"            WHEN NOT " HAS_TYPE "\n"
	"            THEN format('is of type %%s instead of %%s',\n"
	"                        format_type(a.atttypid, a.atttypmod), expected.type)\n"
	"            WHEN NOT a.attnotnull AND expected.kind = 'r' THEN 'allows NULL'\n"
	"            ELSE 'has no default' END\n"
	"  FROM %s\n"
	"       AS expected (relation, kind, name, type, has_default, version)\n"
	"       LEFT JOIN pg_class AS c\n"
	"       ON c.relnamespace = $1 AND c.relname = expected.relation\n"
	"       LEFT JOIN pg_attribute AS a\n"
	"       ON a.attrelid = c.oid AND a.attname = expected.name AND a.attnum > 0\n"
	" WHERE " IS_EXPECTED "\n"
	"   AND (a.attname IS NULL\n"
	"    OR NOT " HAS_TYPE "\n"
	"    OR (expected.kind = 'r' AND NOT a.attnotnull)\n"
	"    OR (expected.has_default AND NOT a.atthasdef))\n"
	" ORDER BY expected.relation COLLATE \"C\", expected.name COLLATE \"C\"";

/* Columns that were added to the tables of the counts.  Poser writes these tables by column number. */
static const char *const check_extra_columns =
	"SELECT format('column %s of %s', a.attname, c.relname), 'does not belong there'\n"
	"  FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid\n"
	" WHERE c.relnamespace = $1\n"
	"   AND c.relname IN ('poser_component_count', 'poser_component_count_delta')\n"
	"   AND a.attnum > 0 AND NOT a.attisdropped\n"
	"   AND a.attname NOT IN ('widget_uuid', 'total', 'active')\n"
	" ORDER BY c.relname COLLATE \"C\", a.attname COLLATE \"C\"";

/* Relations that are missing, or have another kind, persistence, option or inheritance. */
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
	"        ('poser_prune_position', 'r', '{}', '1.5'),\n"
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

/* Views with an owner that may not read the tables behind them. */
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

/* Tables of datasync and of pruning with another owner than the history, and row-level security on consumers. */
static const char *const check_table_owner =
	"SELECT format('table %s', c.relname),\n"
	"       format('belongs to %s instead of %s', c.relowner::regrole, t.relowner::regrole)\n"
	"  FROM (VALUES ('poser_datasync_consumer', '1.4'), ('poser_datasync_skipped', '1.4'), ('poser_prune_position', '1.5')) AS expected (name, version)\n"
	"       JOIN pg_class AS c ON c.relnamespace = $1 AND c.relname = expected.name\n"
	"       JOIN pg_class AS t ON t.relnamespace = $1 AND t.relname = 'poser_transaction'\n"
	" WHERE " IS_EXPECTED " AND c.relowner <> t.relowner\n"
	"UNION ALL\n"
	"SELECT format('table %s', c.relname), 'has row-level security enabled'\n"
	"  FROM (VALUES ('poser_datasync_consumer', '1.4')) AS expected (name, version)\n"
	"       JOIN pg_class AS c ON c.relnamespace = $1 AND c.relname = expected.name\n"
	" WHERE " IS_EXPECTED " AND c.relrowsecurity\n"
	" ORDER BY 1, 2";

/*
 * Relations with rows to be checked that the owner of poser_component may not read.
 * The query runs with the rights of that owner.
 */
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

/* Keys and foreign keys that are missing or have been changed. */
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
	"        ('poser_prune_position', 'poser_prune_position_pkey', 'p', 'relation', NULL, '1.5'),\n"
	"        ('poser_batch', 'poser_batch_pkey', 'p', 'uuid', NULL, '1.3'),\n"
	"        ('poser_batch', 'poser_batch_uq_id', 'u', 'id', NULL, '1.3'),\n"
	"        ('poser_batch_row', 'poser_batch_row_pkey', 'p', 'row_id', NULL, '1.5'),\n"
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

/*
 * Indexes that are missing or have been changed.  The query reads their columns from
 * pg_attribute.  pg_get_indexdef() would show no columns for an index that another
 * session has dropped and made again since the snapshot was taken.
 */
static const char *const check_indexes =
	"SELECT format('index %s', expected.name),\n"
	"       CASE WHEN i.indexrelid IS NULL THEN 'is missing'\n"
	"            WHEN NOT i.indisvalid THEN 'is not valid'\n"
	"            ELSE 'has been changed' END\n"
	"  FROM (VALUES\n"
	"        ('poser_widget', 'poser_widget_pkey', true, 'uuid', '1.1', NULL),\n"
	"        ('poser_component', 'poser_component_pkey', true, 'uuid', '1.1', NULL),\n"
	"        ('poser_component', 'poser_component_idx_widget', false, 'widget_uuid', '1.1', NULL),\n"
	"        ('poser_component_count', 'poser_component_count_pkey', true, 'widget_uuid', '1.1', NULL),\n"
	"        ('poser_component_count_delta', 'poser_component_count_delta_idx_widget', false, 'widget_uuid', '1.1', NULL),\n"
	"        ('poser_transaction', 'poser_transaction_pkey', true, 'id', '1.2', NULL),\n"
	"        ('poser_transaction', 'poser_transaction_idx_issued_at', false, 'issued_at, id', '1.2', '1.5'),\n"
	"        ('poser_widget_version', 'poser_widget_version_pkey', true, 'change_id', '1.2', NULL),\n"
	"        ('poser_widget_version', 'poser_widget_version_idx_key', false, 'uuid, change_id', '1.2', NULL),\n"
	"        ('poser_component_version', 'poser_component_version_pkey', true, 'change_id', '1.2', NULL),\n"
	"        ('poser_component_version', 'poser_component_version_idx_key', false, 'uuid, change_id', '1.2', NULL),\n"
	"        ('poser_component_version', 'poser_component_version_idx_widget', false, 'widget_uuid', '1.2', NULL),\n"
	"        ('poser_batch', 'poser_batch_pkey', true, 'uuid', '1.3', NULL),\n"
	"        ('poser_batch', 'poser_batch_uq_id', true, 'id', '1.3', NULL),\n"
	"        ('poser_batch_row', 'poser_batch_row_pkey', true, 'batch_uuid, sequence', '1.3', '1.5'),\n"
	"        ('poser_batch_row', 'poser_batch_row_pkey', true, 'row_id', '1.5', NULL),\n"
	"        ('poser_batch_row', 'poser_batch_row_uq_sequence', true, 'batch_uuid, sequence', '1.5', NULL),\n"
	"        ('poser_transaction', 'poser_transaction_idx_xact', false, 'xact', '1.4', NULL),\n"
	"        ('poser_datasync_consumer', 'poser_datasync_consumer_pkey', true, 'consumer', '1.4', NULL))\n"
	"       AS expected (relation, name, is_unique, cols, version, until)\n"
	"       LEFT JOIN pg_class AS c\n"
	"       ON c.relnamespace = $1 AND c.relname = expected.relation\n"
	"       LEFT JOIN (pg_index AS i JOIN pg_class AS ic ON ic.oid = i.indexrelid)\n"
	"       ON i.indrelid = c.oid AND ic.relname = expected.name\n"
	" WHERE " IS_EXPECTED " AND " IS_NOT_REPLACED "\n"
	"   AND (i.indisvalid AND i.indisready AND i.indisunique = expected.is_unique\n"
	"        AND i.indpred IS NULL AND i.indexprs IS NULL\n"
	"        AND (SELECT string_agg(a.attname, ', ' ORDER BY k.n)\n"
	"               FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, n)\n"
	"                    JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum) = expected.cols) IS NOT TRUE\n"
	" ORDER BY expected.relation COLLATE \"C\", expected.name COLLATE \"C\"";

/* Triggers that are missing or have been changed.  "enabled" has the right values of tgenabled. */
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

/* A change of the sequence of change_ids, which must count by 1, without a cache or a cycle. */
static const char *const check_sequence =
	"SELECT 'sequence poser_change_id_seq', 'has been changed'\n"
	"  FROM pg_class AS c JOIN pg_sequence AS s ON s.seqrelid = c.oid\n"
	" WHERE c.relnamespace = $1 AND c.relname = 'poser_change_id_seq'\n"
	"   AND (seqtypid <> 'int8'::regtype OR seqincrement <> 1 OR seqcache <> 1 OR seqcycle)";

/* Row-level security of batches that is not enabled, or lacks its policy. */
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

/* All checks of the structure, in the order of their results. */
static const char *const structure_checks[] = {
	check_relations, check_columns, check_extra_columns, check_view_owner, check_table_owner, check_readable,
	check_constraints, check_indexes, check_triggers, check_policies, check_sequence};

/* Check the structure.  Returns whether all columns are as they should be. */
bool
poser_check_structure(const PoserCheck *check)
{
	bool result = true;

	for (int i = 0; i < lengthof(structure_checks); i++)
	{
		if (structure_checks[i] != check_columns)
			poser_check_run(check, structure_checks[i]);
		else if (poser_check_run(check, psprintf(check_columns, poser_own_columns)) > 0)
			result = false;
	}
	return result;
}
