/*
 * history_query.c
 *	  Parts of queries over the history.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "parser/parse_coerce.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"

#include "versions/versions.h"
#include "versions/version_internal.h"

/* Run a query none of whose parameters is null. */
uint64
poser_history_execute(const char *query, int nargs, Oid *argtypes, Datum *values, bool read_only)
{
	return poser_execute(query, nargs, argtypes, values, NULL, read_only);
}

/* A number in the first row of the last result. */
int64
poser_history_int64(int column, bool *isnull)
{
	Oid type;

	if (SPI_processed == 0)
	{
		*isnull = true;
		return 0;
	}
	type = SPI_gettypeid(SPI_tuptable->tupdesc, column);
	if (type != INT8OID)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("a position in the history is of type %s instead of %s",
						format_type_be(type), format_type_be(INT8OID)),
				 errhint("poser_check() says what was changed.")));
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column, isnull));
}

const char *
poser_history_column(const PoserVersioned *versioned, AttrNumber column)
{
	return quote_identifier(get_attname(versioned->versions, column, false));
}

/*
 * The column by which rows are looked up: "name" or, if that is NULL, the first
 * column of the key.  Raises an error if a value of "keytype" cannot be used as one
 * of the column's type.
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

/* Append the names of the recorded columns, each after this prefix. */
void
poser_history_append_columns(StringInfo sql, const PoserVersioned *versioned, const char *prefix)
{
	const char *separator = "";

	for (int i = 0; i < versioned->natts; i++)
		if (versioned->source[i] != 0)
		{
			appendStringInfo(sql, "%s%s%s", separator, prefix, poser_history_column(versioned, i + 1));
			separator = ", ";
		}
}

/* The same of the table, as values that the columns of its versions can hold. */
void
poser_history_append_values(StringInfo sql, const PoserVersioned *versioned, const char *prefix)
{
	const char *separator = "";

	for (int i = 0; i < versioned->natts; i++)
		if (versioned->source[i] != 0)
		{
			Oid type = get_atttype(versioned->versions, i + 1);

			appendStringInfo(sql, "%s%s%s", separator, prefix, poser_history_column(versioned, i + 1));
			if (get_atttype(versioned->relid, versioned->source[i]) != type)
				appendStringInfo(sql, "::%s", format_type_extended(type, -1, FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY));
			separator = ", ";
		}
}

void
poser_history_append_keys(StringInfo sql, const PoserVersioned *versioned, const char *prefix)
{
	for (int i = 0; i < versioned->nkeys; i++)
		appendStringInfo(sql, "%s%s%s", i > 0 ? ", " : "", prefix,
						 poser_history_column(versioned, versioned->keys[i]));
}

/* Append "left = right" for a column's type, whatever the search_path. */
void
poser_history_append_equality(StringInfo sql, const char *left, const char *right, Oid type)
{
	appendStringInfo(sql, "%s %s %s", left, poser_equality(type), right);
}

/* Append the condition that two rows have the same key. */
void
poser_history_append_same_key(StringInfo sql, const PoserVersioned *versioned, const char *left, const char *right)
{
	for (int i = 0; i < versioned->nkeys; i++)
	{
		const char *name = poser_history_column(versioned, versioned->keys[i]);

		if (i > 0)
			appendStringInfoString(sql, " AND ");
		poser_history_append_equality(sql, psprintf("%s%s", left, name), psprintf("%s%s", right, name),
									  get_atttype(versioned->versions, versioned->keys[i]));
	}
}

/*
 * Append a query for the last version of each row, all columns of it:
 * of the versions for which the condition holds.
 */
void
poser_history_append_last_versions(StringInfo sql, const PoserVersioned *versioned, const char *condition)
{
	appendStringInfo(sql, "SELECT DISTINCT ON (");
	poser_history_append_keys(sql, versioned, "");
	appendStringInfo(sql, ") *\n  FROM %s\n WHERE %s\n ORDER BY ",
					 poser_relation_name(versioned->versions), condition);
	poser_history_append_keys(sql, versioned, "");
	appendStringInfoString(sql, ", change_id DESC");
}

/*
 * Append a query for all rows that are not what their last version says:
 * operation, what should be recorded of the row, which is an insert, update or
 * delete; operation_type of the last version; and the recorded columns.  These are
 * called "column_" and their number in the table of versions, because their own
 * names could be the same as another one here.
 */
void
poser_history_append_comparison(StringInfo sql, const PoserVersioned *versioned)
{
	const char *key = poser_history_column(versioned, versioned->keys[0]);
	const char *separator = "";

	appendStringInfo(sql,
					 "SELECT CASE WHEN live.%s IS NULL THEN 2\n"
					 "            WHEN last.operation_type IS NULL OR last.operation_type OPERATOR(pg_catalog.=) 2 THEN 0\n"
					 "            ELSE 1 END::pg_catalog.int2 AS operation,\n"
					 "       last.operation_type,\n       ",
					 key);
	for (int i = 0; i < versioned->natts; i++)
		if (versioned->source[i] != 0)
		{
			const char *name = poser_history_column(versioned, i + 1);

			appendStringInfo(sql, "%sCASE WHEN live.%s IS NULL THEN last.%s ELSE live.%s END AS column_%d",
							 separator, key, name, name, i + 1);
			separator = ", ";
		}
	appendStringInfoString(sql, "\n  FROM (SELECT ");
	separator = "";
	for (int i = 0; i < versioned->natts; i++)
		if (versioned->source[i] != 0)
		{
			const char *name = poser_history_column(versioned, i + 1);

			appendStringInfo(sql, "%s%s::%s AS %s", separator, name,
							 format_type_extended(get_atttype(versioned->versions, i + 1), -1,
												  FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY),
							 name);
			separator = ", ";
		}
	appendStringInfo(sql, "\n          FROM %s) AS live\n       FULL JOIN (",
					 poser_relation_name(versioned->relid));
	poser_history_append_last_versions(sql, versioned, "true");
	appendStringInfoString(sql, ") AS last\n       ON ");
	poser_history_append_same_key(sql, versioned, "live.", "last.");
	appendStringInfo(sql,
					 "\n WHERE CASE WHEN live.%s IS NULL THEN last.operation_type OPERATOR(pg_catalog.<>) 2\n"
					 "            WHEN last.operation_type IS NULL OR last.operation_type OPERATOR(pg_catalog.=) 2 THEN true\n"
					 "            ELSE ROW(",
					 key);
	poser_history_append_columns(sql, versioned, "live.");
	appendStringInfoString(sql, ")::pg_catalog.record OPERATOR(pg_catalog.*<>) ROW(");
	poser_history_append_columns(sql, versioned, "last.");
	appendStringInfoString(sql, ")::pg_catalog.record END");
}

/* Is a role that may not see all rows of the table reading? */
bool
poser_history_is_restricted(const PoserVersioned *versioned)
{
	return check_enable_rls(versioned->relid, InvalidOid, true) == RLS_ENABLED &&
		   check_enable_rls(versioned->versions, InvalidOid, true) != RLS_ENABLED;
}

/* Append, for such a role, that a version is what a row that he sees is. */
void
poser_history_append_restriction(StringInfo sql, const PoserVersioned *versioned)
{
	const char *versions = poser_relation_name(versioned->versions);

	appendStringInfo(sql,
					 "\n   AND v.operation_type OPERATOR(pg_catalog.<>) 2"
					 "\n   AND NOT EXISTS (SELECT FROM %s AS newer WHERE ",
					 versions);
	poser_history_append_same_key(sql, versioned, "newer.", "v.");
	appendStringInfo(sql, " AND newer.change_id OPERATOR(pg_catalog.>) v.change_id)\n   AND EXISTS (SELECT FROM %s AS live WHERE ",
					 poser_relation_name(versioned->relid));
	poser_history_append_same_key(sql, versioned, "live.", "v.");
	appendStringInfoString(sql, "\n   AND ROW(");
	poser_history_append_values(sql, versioned, "live.");
	appendStringInfoString(sql, ")::pg_catalog.record OPERATOR(pg_catalog.*=) ROW(");
	poser_history_append_columns(sql, versioned, "v.");
	appendStringInfoString(sql, ")::pg_catalog.record)");
}

/*
 * Lock the history of these tables and its horizon, to be read with the active
 * snapshot, which the caller has pushed, see poser_lock_to_read().
 */
void
poser_history_lock(const PoserVersioned *tables, int ntables)
{
	Oid bookkeeping[] = {tables[0].transactions, tables[0].horizon};

	for (int i = 0; i < ntables; i++)
		poser_lock_to_read(&tables[i].versions, 1);
	poser_lock_to_read(bookkeeping, lengthof(bookkeeping));
}

/*
 * Bookkeeping is read with its owner's rights.  To be called between
 * SPI_connect() and SPI_finish(), as the rest of this.
 */
void
poser_history_execute_as_owner(const PoserVersioned *versioned, const char *query, int nargs, Oid *argtypes, Datum *values,
							   bool read_only)
{
	Oid save_userid;
	int save_sec_context;

	poser_become_owner(versioned->transactions, &save_userid, &save_sec_context);
	poser_history_execute(query, nargs, argtypes, values, read_only);
	SetUserIdAndSecContext(save_userid, save_sec_context);
}
