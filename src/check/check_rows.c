/*
 * check_rows.c
 *	  Checking the rows of the extension's tables: counts, history, batches and
 *	  consumers.
 *
 * The queries qualify the columns of tables, because users may add columns with any name.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "check/check_internal.h"
#include "counts/counts.h"
#include "versions/versions.h"

/*
 * Counts
 */

/* Wrong counts.  %s is the query of poser_count_comparison(). */
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

/* Check the counts of all widgets. */
void
poser_check_counts(const PoserCheck *check)
{
	char *comparison =
		poser_count_comparison(get_relname_relid("poser_widget", check->nspid), "uuid",
							   get_relname_relid("poser_component", check->nspid), "widget_uuid", "active",
							   get_relname_relid("poser_component_count", check->nspid),
							   get_relname_relid("poser_component_count_delta", check->nspid));

	poser_check_run(check, psprintf(check_counts, comparison));
}

/*
 * History
 */

/*
 * Rows that differ from the last version in their history.  %1$s is a literal, the word
 * for a row; %2$s is the key's column; %3$s is the query of
 * poser_history_append_comparison().
 */
static const char *const check_last_versions =
	"SELECT format('%%s %%s', %1$s, compared.%2$s),\n"
	"       CASE WHEN operation = 2 THEN 'is gone, but its history does not end in a delete'\n"
	"            WHEN operation = 1 THEN 'differs from its last version'\n"
	"            WHEN operation_type = 2 THEN 'is there, but its history ends in a delete'\n"
	"            ELSE 'has no version' END\n"
	"  FROM (%3$s) AS compared\n"
	" ORDER BY compared.%2$s::text COLLATE \"C\"";

/*
 * Versions with an operation that cannot follow that of the version before.  %1$s is the
 * schema, %2$s the table of versions, %3$s its key column; %4$s is a literal, the word for
 * a row, and %5$s a literal, the qualified name of the table of versions.
 *
 * poser_record_versions() corrects these operations.  It does not correct a delete
 * of a row that was not there, because it removes no versions.
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
	/* versions before the first one may have been pruned */
	"    OR (before IS NULL AND operation_type <> 0\n"
	"        AND change_id > COALESCE((SELECT max(h.change_id) FROM %1$s.poser_version_horizon AS h), 0))\n"
	" ORDER BY change_id";

/*
 * Transactions that are missing.  %1$s is the schema, %2$s the table of versions,
 * and %3$s its name as a literal.
 */
static const char *const check_transactions =
	"SELECT format('transaction %%s', version.transaction_id),\n"
	"       format('is missing, and %%s has changes of it', %3$s)\n"
	"  FROM (SELECT DISTINCT v.transaction_id FROM %1$s.%2$s AS v) AS version\n"
	" WHERE NOT EXISTS (SELECT FROM %1$s.poser_transaction AS t WHERE t.id = version.transaction_id)\n"
	" ORDER BY version.transaction_id";

/*
 * A sequence of ids that is behind, and transaction IDs that no transaction has had yet.
 * %1$s is the schema; %2$s is a list of the greatest ids in the tables of the history.
 */
static const char *const check_ids =
	"SELECT 'sequence poser_change_id_seq',\n"
	"       format('is behind: %%s is in use', greatest_id)\n"
	"  FROM (SELECT greatest(%2$s) AS greatest_id) AS used,\n"
	"       %1$s.poser_change_id_seq\n"
	" WHERE greatest_id >= last_value + is_called::int\n"
	/* on a subscriber the sequence is behind until the subscriber becomes the writer */
	"   AND NOT EXISTS (SELECT FROM pg_subscription_rel\n"
	"                    WHERE srrelid = (SELECT oid FROM pg_class\n"
	"                                      WHERE relnamespace = $1 AND relname = 'poser_transaction'))\n"
	"UNION ALL\n"
	"SELECT format('transaction %%s', t.id), format('has an xact that is yet to come: %%s', t.xact)\n"
	"  FROM %1$s.poser_transaction AS t\n"
	" WHERE t.xact >= pg_snapshot_xmax(pg_current_snapshot())\n"
	"   AND t.xact IS DISTINCT FROM pg_current_xact_id_if_assigned()\n"
	" ORDER BY 1";

/*
 * Add a problem to the result for each column of a table that is not recorded, or has values
 * too long to be recorded.
 */
static void
add_unrecorded_columns(const PoserCheck *check, const PoserVersioned *versioned)
{
	Relation rel = table_open(versioned->relid, AccessShareLock);
	Relation versions = table_open(versioned->versions, AccessShareLock);

	for (int i = 0; i < RelationGetDescr(rel)->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), i);
		Form_pg_attribute recorded = NULL;
		const char *problem;

		for (int j = 0; j < versioned->natts; j++)
			if (versioned->source[j] == i + 1)
				recorded = TupleDescAttr(RelationGetDescr(versions), j);
		/* a virtual generated column has no value of its own to record */
		if (att->attisdropped || (att->attgenerated != '\0' && att->attgenerated != ATTRIBUTE_GENERATED_STORED))
			continue;
		if (recorded == NULL)
			problem = "is not recorded: %s has no such column of its type";
		else if (recorded->atttypmod >= 0 && (att->atttypmod < 0 || att->atttypmod > recorded->atttypmod))
			problem = "is longer than in %s: a longer value is an error";
		else
			continue;
		poser_check_add(check, psprintf("column %s of %s", NameStr(att->attname), RelationGetRelationName(rel)),
						psprintf(problem, RelationGetRelationName(versions)));
	}
	table_close(versions, AccessShareLock);
	table_close(rel, AccessShareLock);
}

/* Check the history of the extension's tables that have one; with "target", of this one only. */
void
poser_check_history(const PoserCheck *check, Oid target)
{
	PoserVersioned tables[POSER_VERSIONED_TABLES];
	StringInfoData ids;

	poser_versioned_describe_all(tables, check->nspid);
	initStringInfo(&ids);
	appendStringInfo(&ids, "(SELECT max(t.id) FROM %s.poser_transaction AS t)", check->schema);
	for (int i = 0; i < POSER_VERSIONED_TABLES; i++)
	{
		char *name = get_rel_name(tables[i].versions);
		char *qualified_name = poser_relation_name(tables[i].versions);
		const char *versions = quote_identifier(name);
		const char *key = quote_identifier(get_attname(tables[i].versions, tables[i].keys[0], false));
		const char *label = quote_literal_cstr(poser_versioned_label(i));
		StringInfoData comparison;

		if (OidIsValid(target) && tables[i].relid != target)
			continue;
		add_unrecorded_columns(check, &tables[i]);
		initStringInfo(&comparison);
		poser_history_append_comparison(&comparison, &tables[i]);
		poser_check_run(check, psprintf(check_last_versions, label, psprintf("column_%d", tables[i].keys[0]),
										comparison.data));
		poser_check_run(check, psprintf(check_operations, check->schema, versions, key, label,
										quote_literal_cstr(qualified_name)));
		poser_check_run(check, psprintf(check_transactions, check->schema, versions, quote_literal_cstr(name)));
		appendStringInfo(&ids, ", (SELECT max(v.change_id) FROM %s.%s AS v)", check->schema, versions);
	}
	poser_check_run(check, psprintf(check_ids, check->schema, ids.data));
}

/*
 * Batches
 */

/* Wrong row counts, targets that were dropped, and a sequence that is behind.  %1$s is the schema. */
static const char *const check_batches =
	"SELECT format('batch %%s (\"%%s\")', b.id, b.uuid),\n"
	"       format('row_count is %%s instead of %%s', b.row_count, count(r.sequence))\n"
	"  FROM %1$s.poser_batch AS b LEFT JOIN %1$s.poser_batch_row AS r\n"
	"       ON r.batch_uuid = b.uuid AND NOT r.removed\n"
	" GROUP BY b.uuid, b.id, b.row_count\n"
	"HAVING b.row_count <> count(r.sequence)\n"
	"UNION ALL\n"
	"SELECT format('batch %%s (\"%%s\")', b.id, b.uuid), 'is for a table that is gone'\n"
	"  FROM %1$s.poser_batch AS b\n"
	" WHERE NOT EXISTS (SELECT FROM pg_class AS c WHERE c.oid = b.target)\n"
	"UNION ALL\n"
	"SELECT 'sequence poser_batch_id_seq', format('is behind: %%s is in use', max(b.id))\n"
	"  FROM %1$s.poser_batch AS b\n"
	/* on a subscriber the sequence is behind until the subscriber becomes the writer */
	" WHERE NOT EXISTS (SELECT FROM pg_subscription_rel\n"
	"                    WHERE srrelid = (SELECT oid FROM pg_class\n"
	"                                      WHERE relnamespace = $1 AND relname = 'poser_batch'))\n"
	"HAVING max(b.id) >= (SELECT s.last_value + s.is_called::int FROM %1$s.poser_batch_id_seq AS s)\n"
	" ORDER BY 1, 2";

/* Check row counts and targets of batches, and the sequence of their ids. */
void
poser_check_batches(const PoserCheck *check)
{
	poser_check_run(check, psprintf(check_batches, check->schema));
}

/*
 * Consumers
 */

/* Positions in the future, and handlers and roles that do not exist.  %1$s is the schema. */
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

/* Tables that are gone, not tracked or not granted, since 1.6. */
static const char *const check_consumer_tables =
	"SELECT format('consumer %%s', c.consumer), found.problem\n"
	"  FROM %1$s.poser_datasync_consumer AS c, %1$s.poser_datasync_problem(c.consumer) AS found (problem)\n"
	" WHERE found.problem IS NOT NULL\n"
	" ORDER BY 1";

/* Check positions, handlers, roles and tables of consumers. */
void
poser_check_consumers(const PoserCheck *check)
{
	static const struct
	{
		const char *name;
		Oid type;
	} columns[] = {{"tables", REGCLASSARRAYOID}, {"old_values", BOOLOID}, {"table_names", TEXTARRAYOID}};
	Oid relid = get_relname_relid("poser_datasync_consumer", check->nspid);
	bool has_tables = true;

	poser_check_run(check, psprintf(check_consumers, check->schema));
	for (int i = 0; i < lengthof(columns); i++)
	{
		AttrNumber attno = get_attnum(relid, columns[i].name);

		has_tables = has_tables && attno != InvalidAttrNumber && get_atttype(relid, attno) == columns[i].type;
	}
	if (has_tables)
		poser_check_run(check, psprintf(check_consumer_tables, check->schema));
}
