/*
 * history_query.c
 *	  Queries over the history: parts of their SQL, the locks and the rights they need.
 *
 * Queries are built for tables with any columns.  A comment above the code shows the
 * finished SQL as it looks for poser_widget.  The comments leave out the schemas of
 * relations and functions, and OPERATOR(pg_catalog...) around operators.  The SQL has
 * them, so that it means the same under any search_path.
 *
 * The tables of versions are read with the caller's privileges and policies.  A history
 * must not show what row-level security on the table hides.  But the policies of the table
 * cannot decide about rows as they were in the past.  So:
 * - If row-level security applies to the table of versions, too, its policies decide.
 * - If it applies to the table only, the user sees a version only if it is the last one of
 *   its row, and if the user sees the row with the same values.
 *
 * The bookkeeping of the history (transactions and the horizon) is read with the rights
 * of its owner.
 *
 * A query can run code of the owners of the two tables: in policies, in expressions of
 * indexes, in checks of domains, in casts.  For poser_history(), poser_as_of() and
 * poser_revert() of any table, such code must not run with the rights of a superuser.  So
 * a query runs as the caller only if row-level security applies to the caller, and
 * otherwise as the owner of the versions, after a check of the caller's privileges.
 * Values are converted as the owner of the table.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/pg_description.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "parser/parse_coerce.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"

#include "versions/versions.h"
#include "versions/version_internal.h"

/* Returns the quoted name of a column of the table of versions. */
const char *
poser_history_column(const PoserVersioned *versioned, AttrNumber column)
{
	return quote_identifier(get_attname(versioned->versions, column, false));
}

/*
 * Returns the column by which rows are looked up: the one with this name or, if it is
 * NULL, the first column of the key.  Raises an error if the column is not recorded, or
 * if a value of "keytype" cannot be used as a value of the column.
 */
AttrNumber
poser_history_lookup_column(const PoserVersioned *versioned, const char *name, Oid keytype)
{
	AttrNumber column = name != NULL ? get_attnum(versioned->versions, name) : versioned->keys[0];
	Oid type;

	if (column <= 0 || versioned->source[column - 1] == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("column \"%s\" of relation \"%s\" is not recorded", name,
						get_rel_name(versioned->relid)),
				 errhint("poser_check() says what was changed.")));
	type = get_atttype(versioned->versions, column);
	if (!IsBinaryCoercible(keytype, getBaseType(type)) && !IsBinaryCoercible(type, keytype))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" of relation \"%s\" is of type %s, but it is looked up by a value of type %s",
						get_attname(versioned->versions, column, false), get_rel_name(versioned->versions),
						format_type_be(type), format_type_be(keytype)),
				 errhint("poser_check() says what was changed.")));
	return column;
}

/* Returns the qualified name of a type without length or precision: bpchar and not char, which means char(1). */
static const char *
sql_type(Oid type)
{
	return format_type_extended(type, -1, FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY);
}

/*
 * Append a template for a column of the table of versions.  In the template
 *	%n	is the column's name,
 *	%l	the name of the table's column that it records,
 *	%i	its number,
 *	%t	its type, without length or precision,
 *	%c	a cast to that type if the column of the table has another type, otherwise nothing,
 *	%=	the equality operator of the type.
 */
void
poser_history_append_column(StringInfo sql, const PoserVersioned *versioned, AttrNumber column,
							const char *template)
{
	Oid type = get_atttype(versioned->versions, column);

	/* copy the template, and replace each placeholder */
	for (const char *c = template; *c != '\0'; c++)
	{
		if (*c != '%')
		{
			appendStringInfoCharMacro(sql, *c);
			continue;
		}
		switch (*++c)
		{
			case 'n':
				appendStringInfoString(sql, poser_history_column(versioned, column));
				break;
			case 'l':
				appendStringInfoString(sql, quote_identifier(get_attname(versioned->relid, versioned->source[column - 1], false)));
				break;
			case 'i':
				appendStringInfo(sql, "%d", column);
				break;
			case 't':
				appendStringInfoString(sql, sql_type(type));
				break;
			case 'c':
				if (get_atttype(versioned->relid, versioned->source[column - 1]) != type)
					appendStringInfo(sql, "::%s", sql_type(type));
				break;
			case '=':
				appendStringInfoString(sql, poser_equality(type));
				break;
			default:
				elog(ERROR, "unknown placeholder in template \"%s\"", template);
		}
	}
}

/* Append the template for each recorded column, with commas in between. */
void
poser_history_append_columns(StringInfo sql, const PoserVersioned *versioned, const char *template)
{
	const char *separator = "";

	for (int i = 0; i < versioned->natts; i++)
		if (versioned->source[i] != 0)
		{
			appendStringInfoString(sql, separator);
			poser_history_append_column(sql, versioned, i + 1, template);
			separator = ", ";
		}
}

/*
 * Append all columns of a row of the table of versions, in the order of their numbers.  A
 * dropped column is null:
 *
 *	v.uuid, v.description, v.active, v.operation_type, v.transaction_id, v.change_id
 */
void
poser_history_append_versions(StringInfo sql, const PoserVersioned *versioned, const char *alias)
{
	for (int i = 0; i < versioned->natts; i++)
	{
		appendStringInfoString(sql, i > 0 ? ", " : "");
		if (OidIsValid(get_atttype(versioned->versions, i + 1)))
			appendStringInfo(sql, "%s.%s", alias, poser_history_column(versioned, i + 1));
		else
			appendStringInfoString(sql, "NULL");
	}
}

/* Append the template for each column of the key, with the separator in between. */
void
poser_history_append_keys(StringInfo sql, const PoserVersioned *versioned, const char *separator,
						  const char *template)
{
	for (int i = 0; i < versioned->nkeys; i++)
	{
		if (i > 0)
			appendStringInfoString(sql, separator);
		poser_history_append_column(sql, versioned, versioned->keys[i], template);
	}
}

/*
 * Append a query for the last version of each row.  Only versions for which the condition
 * is true are considered:
 *
 *	SELECT DISTINCT ON (uuid) *
 *	  FROM poser_widget_version AS version
 *	 WHERE <condition>
 *	 ORDER BY uuid, change_id DESC
 */
void
poser_history_append_last_versions(StringInfo sql, const PoserVersioned *versioned, const char *condition)
{
	appendStringInfo(sql, "SELECT DISTINCT ON (");
	poser_history_append_keys(sql, versioned, ", ", "%n");
	appendStringInfo(sql, ") *\n  FROM %s AS version\n WHERE %s\n ORDER BY ",
					 poser_relation_name(versioned->versions), condition);
	poser_history_append_keys(sql, versioned, ", ", "%n");
	appendStringInfo(sql, ", %s DESC", poser_history_column(versioned, versioned->change_id));
}

/*
 * Append a query for all rows that differ from their last version.  Its columns are the
 * operation that is missing in the history, the operation of the last version, and the
 * recorded columns.  Their names have their numbers, because a recorded column could have
 * the name of one of the first two.  "IS NULL" is IS NOT DISTINCT FROM NULL, which is not
 * true for a key of a composite type with nulls in it:
 *
 *	SELECT CASE WHEN live.uuid IS NULL THEN 2
 *	            WHEN last.operation_type IS NULL OR last.operation_type = 2 THEN 0
 *	            ELSE 1 END::int2 AS operation,
 *	       last.operation_type,
 *	       CASE WHEN live.uuid IS NULL THEN last.uuid ELSE live.uuid END AS column_1,
 *	       CASE WHEN live.uuid IS NULL THEN last.description ELSE live.description END AS column_2,
 *	       CASE WHEN live.uuid IS NULL THEN last.active ELSE live.active END AS column_3
 *	  FROM (SELECT uuid::varchar AS uuid, description::varchar AS description,
 *	               active::bool AS active
 *	          FROM poser_widget) AS live
 *	       FULL JOIN (<last versions>) AS last
 *	       ON live.uuid = last.uuid
 *	 WHERE CASE WHEN live.uuid IS NULL THEN last.operation_type <> 2
 *	            WHEN last.operation_type IS NULL OR last.operation_type = 2 THEN true
 *	            ELSE ROW(live.uuid, live.description, live.active)::record *<>
 *	                 ROW(last.uuid, last.description, last.active)::record END
 */
void
poser_history_append_comparison(StringInfo sql, const PoserVersioned *versioned)
{
	const char *key = poser_history_column(versioned, versioned->keys[0]);
	const char *operation = poser_history_column(versioned, versioned->operation_type);

	/* the operation, and the columns of the row or, if there is none, of its last version */
	appendStringInfo(sql,
					 "SELECT CASE WHEN live.%s IS NOT DISTINCT FROM NULL THEN 2\n"
					 "            WHEN last.%s IS NULL OR last.%s OPERATOR(pg_catalog.=) 2 THEN 0\n"
					 "            ELSE 1 END::pg_catalog.int2 AS operation,\n"
					 "       last.%s AS operation_type",
					 key, operation, operation, operation);
	for (int i = 0; i < versioned->natts; i++)
		if (versioned->source[i] != 0)
		{
			/* the key's name can contain a percent sign, so it is not put into the template */
			appendStringInfo(sql, ",\n       CASE WHEN live.%s IS NOT DISTINCT FROM NULL", key);
			poser_history_append_column(sql, versioned, i + 1, " THEN last.%n ELSE live.%n END AS column_%i");
		}

	/* the rows, and the last version of each row, by the key */
	appendStringInfoString(sql, "\n  FROM (SELECT ");
	poser_history_append_columns(sql, versioned, "%l::%t AS %n");
	appendStringInfo(sql, "\n          FROM %s) AS live\n       FULL JOIN (",
					 poser_relation_name(versioned->relid));
	poser_history_append_last_versions(sql, versioned, "true");
	appendStringInfoString(sql, ") AS last\n       ON ");
	poser_history_append_keys(sql, versioned, " AND ", "live.%n %= last.%n");

	/* where one of them is missing, or they differ */
	appendStringInfo(sql,
					 "\n WHERE CASE WHEN live.%s IS NOT DISTINCT FROM NULL THEN last.%s OPERATOR(pg_catalog.<>) 2\n"
					 "            WHEN last.%s IS NULL OR last.%s OPERATOR(pg_catalog.=) 2 THEN true\n"
					 "            ELSE ROW(",
					 key, operation, operation, operation);
	poser_history_append_columns(sql, versioned, "live.%n");
	appendStringInfoString(sql, ")::pg_catalog.record OPERATOR(pg_catalog.*<>)\n                 ROW(");
	poser_history_append_columns(sql, versioned, "last.%n");
	appendStringInfoString(sql, ")::pg_catalog.record END");
}

/* Must a query over the versions show the current user last versions only, as the head of this file says? */
bool
poser_history_is_restricted(const PoserVersioned *versioned)
{
	return check_enable_rls(versioned->relid, InvalidOid, true) == RLS_ENABLED &&
		   check_enable_rls(versioned->versions, InvalidOid, true) != RLS_ENABLED;
}

/*
 * Append the restriction to a query over versions "v".  A version is shown only if it is
 * the last one of its row, and if the user sees the row with the same values:
 *
 *	   AND v.operation_type <> 2
 *	   AND NOT EXISTS (SELECT FROM poser_widget_version AS newer
 *	                    WHERE newer.uuid = v.uuid AND newer.change_id > v.change_id)
 *	   AND EXISTS (SELECT FROM poser_widget AS live
 *	                WHERE live.uuid = v.uuid
 *	                  AND ROW(live.uuid, live.description, live.active)::record *=
 *	                      ROW(v.uuid, v.description, v.active)::record)
 */
void
poser_history_append_restriction(StringInfo sql, const PoserVersioned *versioned)
{
	const char *change_id = poser_history_column(versioned, versioned->change_id);

	appendStringInfo(sql,
					 "\n   AND v.%s OPERATOR(pg_catalog.<>) 2"
					 "\n   AND NOT EXISTS (SELECT FROM %s AS newer WHERE ",
					 poser_history_column(versioned, versioned->operation_type),
					 poser_relation_name(versioned->versions));
	poser_history_append_keys(sql, versioned, " AND ", "newer.%n %= v.%n");
	appendStringInfo(sql,
					 " AND newer.%s OPERATOR(pg_catalog.>) v.%s)"
					 "\n   AND EXISTS (SELECT FROM %s AS live WHERE ",
					 change_id, change_id, poser_relation_name(versioned->relid));
	poser_history_append_keys(sql, versioned, " AND ", "live.%l %= v.%n");
	appendStringInfoString(sql, " AND ROW(");
	poser_history_append_columns(sql, versioned, "live.%l%c");
	appendStringInfoString(sql, ")::pg_catalog.record OPERATOR(pg_catalog.*=) ROW(");
	poser_history_append_columns(sql, versioned, "v.%n");
	appendStringInfoString(sql, ")::pg_catalog.record)");
}

/* Raises an error if the table has no key, so that its versions cannot be told to be of one row. */
void
poser_history_check_key(const PoserVersioned *versioned)
{
	if (versioned->nkeys == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" has no primary key", get_rel_name(versioned->relid)),
				 errdetail("Its history does not say which versions are of one row.")));
}

/* Raises an error unless the current user may read the versions, all columns of them. */
void
poser_history_check_select(const PoserVersioned *versioned)
{
	Oid nspid = get_rel_namespace(versioned->versions);

	if (object_aclcheck(NamespaceRelationId, nspid, GetUserId(), ACL_USAGE) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_SCHEMA, get_namespace_name(nspid));
	if (pg_class_aclcheck(versioned->versions, GetUserId(), ACL_SELECT) == ACLCHECK_OK)
		return;
	for (int i = 1; i <= versioned->natts; i++)
		if (OidIsValid(get_atttype(versioned->versions, i)) &&
			pg_attribute_aclcheck(versioned->versions, i, GetUserId(), ACL_SELECT) != ACLCHECK_OK)
			aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, get_rel_name(versioned->versions));
}

/* Make a relation's owner the current user, until poser_history_become_caller(). */
void
poser_history_become_owner(PoserReader *reader, Oid relid)
{
	poser_become_owner(relid, &reader->caller);
	reader->is_owner = true;
}

/*
 * Make the current user the role that reads the history, see the head of this file, until
 * poser_history_become_caller().  Raises an error if the caller has no privilege to read it.
 */
void
poser_history_become_reader(PoserReader *reader, const PoserVersioned *versioned)
{
	reader->is_owner = false;
	if (check_enable_rls(versioned->relid, InvalidOid, true) == RLS_ENABLED ||
		check_enable_rls(versioned->versions, InvalidOid, true) == RLS_ENABLED)
		return;
	poser_history_check_select(versioned);
	poser_history_become_owner(reader, versioned->versions);
}

/* The caller is the current user again. */
void
poser_history_become_caller(PoserReader *reader)
{
	if (!reader->is_owner)
		return;
	poser_become_caller(&reader->caller);
	reader->is_owner = false;
}

/*
 * Lock the tables of versions and the bookkeeping, to be read with the active snapshot.
 * The caller has pushed that snapshot, and a newer one may replace it; see
 * poser_lock_to_read().
 */
void
poser_history_lock(const PoserVersioned *tables, int ntables)
{
	Oid bookkeeping[] = {tables[0].transactions, tables[0].horizon};

	for (int i = 0; i < ntables; i++)
		poser_lock_to_read(&tables[i].versions, 1);
	poser_lock_to_read(bookkeeping, lengthof(bookkeeping));
}

/* Run a query over the bookkeeping with its owner's rights.  Returns what poser_run() does. */
uint64
poser_history_run_as_owner(const PoserVersioned *versioned, const PoserQuery *query)
{
	PoserCaller caller;
	uint64 result;

	poser_become_owner(versioned->transactions, &caller);
	result = poser_run(query);
	poser_become_caller(&caller);
	return result;
}

/* Raises an error unless a position in the history is of type bigint. */
void
poser_history_check_position(Oid type)
{
	if (type != INT8OID)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("a position in the history is of type %s instead of %s",
						format_type_be(type), format_type_be(INT8OID)),
				 errhint("poser_check() says what was changed.")));
}

/*
 * Returns a position in the history (the id of a transaction or of a change) from the
 * first row of the last result.  If it is null, or if there is no row, the result is 0
 * and *isnull is true; "isnull" may be NULL.  Raises an error if it is no bigint.
 */
int64
poser_history_position(int column, bool *isnull)
{
	poser_history_check_position(SPI_processed > 0 ? SPI_gettypeid(SPI_tuptable->tupdesc, column) : INT8OID);
	return poser_result_int64(column, isnull);
}

/* Returns whether a snapshot sees a trigger. */
static bool
sees_trigger(Snapshot snapshot, Oid trigger)
{
	Relation rel = table_open(TriggerRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	bool result;

	ScanKeyInit(&key, Anum_pg_trigger_oid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(trigger));
	scan = systable_beginscan(rel, TriggerOidIndexId, true, snapshot, 1, &key);
	result = HeapTupleIsValid(systable_getnext(scan));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return result;
}

/*
 * Returns the horizon of the history of an own table in this table of versions.  It is the
 * comment of the trigger poser_versions_of on that table, so it is in a dump of it, and
 * follows when the table is renamed.
 *
 * With "read_only" it is read with the active snapshot.  poser_track() can have made the
 * trigger again since.  Then the comment of the new one holds, which is not less.
 */
PoserHorizon
poser_own_horizon(Oid versions, bool read_only)
{
	Oid trigger = get_trigger_oid(versions, "poser_versions_of", true);
	Snapshot snapshot = read_only ? GetActiveSnapshot() : NULL;
	Relation rel = table_open(DescriptionRelationId, AccessShareLock);
	PoserHorizon result = {0};
	ScanKeyData keys[3];
	SysScanDesc scan;
	HeapTuple tuple;

	if (snapshot != NULL && !sees_trigger(snapshot, trigger))
		snapshot = NULL;
	ScanKeyInit(&keys[0], Anum_pg_description_objoid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(trigger));
	ScanKeyInit(&keys[1], Anum_pg_description_classoid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(TriggerRelationId));
	ScanKeyInit(&keys[2], Anum_pg_description_objsubid, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(0));
	scan = systable_beginscan(rel, DescriptionObjIndexId, true, snapshot, lengthof(keys), keys);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool isnull;
		Datum comment = heap_getattr(tuple, Anum_pg_description_description, RelationGetDescr(rel), &isnull);
		long long transaction_id;
		long long change_id;

		result.written_by = HeapTupleHeaderGetRawXmin(tuple->t_data);
		/* another comment is a user's */
		if (!isnull && sscanf(TextDatumGetCString(comment), POSER_HORIZON_FORMAT, &transaction_id, &change_id) == 2)
		{
			result.transaction_id = transaction_id;
			result.change_id = change_id;
		}
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return result;
}

/*
 * Returns the horizon of the history, zeros if nothing has been pruned.  For the
 * extension's own tables it is
 *
 *	SELECT max(transaction_id), max(change_id) FROM poser_version_horizon
 *
 * With "read_only" it is read with the active snapshot.
 */
PoserHorizon
poser_history_horizon(const PoserVersioned *versioned, bool read_only)
{
	PoserHorizon result = {0};
	char *sql;

	if (versioned->own)
		return poser_own_horizon(versioned->versions, read_only);
	sql = psprintf("SELECT pg_catalog.max(transaction_id), pg_catalog.max(change_id)\n"
				   "  FROM %s",
				   poser_relation_name(versioned->horizon));
	(void) poser_history_run_as_owner(versioned, &(PoserQuery) {.sql = sql, .read_only = read_only});
	result.transaction_id = poser_history_position(1, NULL);
	result.change_id = poser_history_position(2, NULL);
	return result;
}
