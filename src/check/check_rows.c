/*
 * check_rows.c
 *	  Are the rows of the tables right: counts, history, batches, consumers?
 */
#include "postgres.h"

#include "access/table.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "check/check_internal.h"
#include "counts/counts.h"
#include "versions/versions.h"

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

/* Check the counts: those of "child" for "parent". */
void
poser_check_counts(ReturnSetInfo *rsinfo, Oid nspid, const char *version, Oid parent, Oid child,
				   Oid counts, Oid deltas)
{
	StringInfoData sql;

	initStringInfo(&sql);
	poser_count_append_comparison(&sql, parent, "uuid", child, "widget_uuid", "active", counts, deltas);
	poser_check_add_problems(rsinfo, psprintf(check_counts, sql.data), nspid, version);
}

/* Check the batches. */
void
poser_check_batches(ReturnSetInfo *rsinfo, Oid nspid, const char *version)
{
	poser_check_add_problems(rsinfo, psprintf(check_batches, quote_identifier(get_namespace_name(nspid))),
							 nspid, version);
}

/* Check the consumers of datasync. */
void
poser_check_consumers(ReturnSetInfo *rsinfo, Oid nspid, const char *version)
{
	poser_check_add_problems(rsinfo, psprintf(check_consumers, quote_identifier(get_namespace_name(nspid))),
							 nspid, version);
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
void
poser_check_history(ReturnSetInfo *rsinfo, Oid nspid, const char *version)
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
		poser_check_add_problems(rsinfo, psprintf(check_last_versions, label, psprintf("column_%d", tables[i].keys[0]), sql.data),
								 nspid, version);
		poser_check_add_problems(rsinfo, psprintf(check_operations, schema, versions, key, label, quote_literal_cstr(whole_name)),
								 nspid, version);
		poser_check_add_problems(rsinfo, psprintf(check_transactions, schema, versions, quote_literal_cstr(name)), nspid, version);
	}
	poser_check_add_problems(rsinfo, psprintf(check_ids, schema, ids.data), nspid, version);
}
