/*
 * import_problem.c
 *	  Problems of rows, and the error about them.
 *
 * A problem is noted for each row that cannot be imported, and the import goes on with
 * the next row.  At the end one error reports all problems.  There can be a million of
 * them.  So problems with the same columns and the same kind of reason are counted
 * together, and only the first few are kept.  If there are more than POSER_IMPORT_KINDS
 * kinds, the rows of further kinds are only counted.
 *
 * The invariant: problems.nrows is the exact number of rows with problems, unless at_least
 * is set.  For a batch all problems are also kept as rows, in problems.all.
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "imports/import_internal.h"

/* The longest value that a message shows, in bytes. */
#define MAX_SHOWN 100

/* The longest text of a problem that is kept, in bytes. */
#define MAX_MESSAGE 500

/* How many rows of each kind the error names if there are several kinds. */
#define NAMED_OF_MANY_KINDS 3

/* How the server's message begins if a policy refuses a row. */
#define POLICY_MESSAGE "new row violates row-level security policy"

/*
 * Errors of rows
 */

/*
 * Is the error about the row that was being coerced or written?  Otherwise it is about
 * the whole import, for instance a missing privilege or a lack of memory, and the caller
 * raises it.
 */
bool
poser_import_is_row_error(const PoserImport *import, const ErrorData *error)
{
	/* a missing privilege is not about a row; a policy's refusal is, and it has the same SQLSTATE */
	if (error->sqlerrcode == ERRCODE_INSUFFICIENT_PRIVILEGE)
		return error->message_id != NULL &&
			   strncmp(error->message_id, POLICY_MESSAGE, strlen(POLICY_MESSAGE)) == 0;
	/*
	 * Input functions of some types raise a syntax error.  An index raises "program limit
	 * exceeded" if a value is too long.  SQLSTATEs that begin with one of these letters
	 * are those of PL/pgSQL, or are defined by users.
	 */
	if (error->sqlerrcode == ERRCODE_SYNTAX_ERROR ||
		(import->in_statement && error->sqlerrcode == ERRCODE_PROGRAM_LIMIT_EXCEEDED) ||
		strchr("IJKLMNOPQRSTUVWYZ", unpack_sql_state(error->sqlerrcode)[0]) != NULL)
		return true;
	/* a value can name an object that is missing, and some input functions set no SQLSTATE */
	if (import->in_coercion && (error->sqlerrcode == ERRCODE_UNDEFINED_TABLE ||
								error->sqlerrcode == ERRCODE_UNDEFINED_OBJECT ||
								error->sqlerrcode == ERRCODE_UNDEFINED_FUNCTION ||
								error->sqlerrcode == ERRCODE_INTERNAL_ERROR))
		return true;
	switch (ERRCODE_TO_CATEGORY(error->sqlerrcode))
	{
		case ERRCODE_DATA_EXCEPTION:
		case ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION:
		case ERRCODE_WITH_CHECK_OPTION_VIOLATION:
		case ERRCODE_PLPGSQL_ERROR:
		case ERRCODE_TRIGGERED_ACTION_EXCEPTION:
			return true;
		default:
			return false;
	}
}

/*
 * Called in PG_CATCH(): roll back to the savepoint, and return the error if it is about
 * a row.  Any other error is raised again.
 */
ErrorData *
poser_import_catch(PoserImport *import, PoserSavepoint *savepoint)
{
	ErrorData *error = poser_savepoint_catch_any(savepoint);

	if (!poser_import_is_row_error(import, error))
		ReThrowError(error);
	return error;
}

/*
 * Noting problems
 */

/* Returns "subject, columns: reason (detail)". */
char *
poser_import_problem_text(const PoserImportProblem *problem)
{
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfoString(&text, problem->subject);
	if (problem->columns != NULL)
		appendStringInfo(&text, ", %s", problem->columns);
	appendStringInfo(&text, ": %s", problem->reason);
	if (problem->detail != NULL)
		appendStringInfo(&text, " (%s)", problem->detail);
	return text.data;
}

/* Returns a copy of a text, cut to MAX_MESSAGE bytes; NULL for NULL. */
static char *
copy_text(const char *text)
{
	if (text == NULL)
		return NULL;
	if (strlen(text) <= MAX_MESSAGE)
		return pstrdup(text);
	return psprintf("%.*s...", pg_mbcliplen(text, strlen(text), MAX_MESSAGE), text);
}

/* Copy a problem, with its texts, into the current memory context. */
static void
copy_problem(PoserImportProblem *copy, const PoserImportProblem *problem)
{
	*copy = *problem;
	copy->subject = copy_text(problem->subject);
	/* not cut, because the columns distinguish kinds */
	copy->columns = problem->columns != NULL ? pstrdup(problem->columns) : NULL;
	copy->reason = copy_text(problem->reason);
	copy->detail = copy_text(problem->detail);
}

/* Free the texts of a copied problem. */
static void
free_problem(PoserImportProblem *problem)
{
	pfree(unconstify(char *, problem->subject));
	if (problem->columns != NULL)
		pfree(unconstify(char *, problem->columns));
	pfree(unconstify(char *, problem->reason));
	if (problem->detail != NULL)
		pfree(unconstify(char *, problem->detail));
}

/* Find the kind of a problem, or make it in the current memory context.  Returns NULL if there are too many kinds. */
static PoserImportKind *
find_kind(PoserImport *import, const PoserImportProblem *problem)
{
	PoserImportKind *result;

	for (int i = 0; i < import->problems.nkinds; i++)
	{
		const PoserImportProblem *common = &import->problems.kinds[i]->common;

		if (common->sqlstate == problem->sqlstate && strcmp(common->kind, problem->kind) == 0 &&
			strcmp(common->columns != NULL ? common->columns : "",
				   problem->columns != NULL ? problem->columns : "") == 0)
			return import->problems.kinds[i];
	}
	if (import->problems.nkinds == POSER_IMPORT_KINDS)
		return NULL;
	result = palloc0(sizeof(PoserImportKind));
	copy_problem(&result->common, problem);
	result->common.kind = pstrdup(problem->kind);
	import->problems.kinds[import->problems.nkinds++] = result;
	return result;
}

/* Cut the reason of a kind to the beginning that it has in common with this reason. */
static void
shorten_reason(PoserImportKind *kind, const char *reason)
{
	char *shared = unconstify(char *, kind->common.reason);
	int n = 0;

	while (shared[n] != '\0' && shared[n] == reason[n])
		n++;
	if (shared[n] == reason[n])
		return;
	shared[pg_mbcliplen(shared, strlen(shared), n)] = '\0';
	kind->varies = true;
}

/* Keep a problem if its row is one of the first rows of the kind. */
static void
keep_sample(PoserImportKind *kind, const PoserImportProblem *problem)
{
	int at = kind->nsamples;

	while (at > 0 && kind->samples[at - 1].row > problem->row)
		at--;
	if (at == POSER_IMPORT_NAMED)
		return;
	if (kind->nsamples == POSER_IMPORT_NAMED)
		free_problem(&kind->samples[--kind->nsamples]);
	memmove(&kind->samples[at + 1], &kind->samples[at], (kind->nsamples - at) * sizeof(PoserImportProblem));
	copy_problem(&kind->samples[at], problem);
	kind->nsamples++;
}

/* Note a problem, and count its rows.  The problem is copied. */
void
poser_import_problem(PoserImport *import, const PoserImportProblem *problem)
{
	MemoryContext old_context;

	/* a batch needs all problems */
	if (import->problems.all != NULL)
	{
		Datum values[] = {Int64GetDatum(problem->row), CStringGetTextDatum(poser_import_problem_text(problem))};
		bool nulls[] = {false, false};

		tuplestore_putvalues(import->problems.all, import->problems.all_desc, values, nulls);
		pfree(DatumGetPointer(values[1]));
	}

	/* the error has the SQLSTATE of the first row's problem */
	if (import->problems.nrows == 0 || problem->row < import->problems.first_row)
	{
		import->problems.first_row = problem->row;
		import->problems.first_sqlstate = problem->sqlstate;
	}

	/* count it with the others of its kind */
	old_context = MemoryContextSwitchTo(import->problems.context);
	import->problems.last_kind = find_kind(import, problem);
	if (import->problems.last_kind != NULL)
	{
		shorten_reason(import->problems.last_kind, problem->reason);
		keep_sample(import->problems.last_kind, problem);
	}
	MemoryContextSwitchTo(old_context);
	poser_import_more_problems(import, problem->nrows);
}

/* Count more rows that have the same kind of problem as the last one. */
void
poser_import_more_problems(PoserImport *import, int64 nrows)
{
	import->problems.nrows += nrows;
	if (import->problems.last_kind != NULL)
		import->problems.last_kind->nrows += nrows;
}

/* Forget all problems, before rows are read or written again. */
void
poser_import_forget_problems(PoserImport *import)
{
	import->problems.nrows = 0;
	import->problems.at_least = false;
	import->problems.nkinds = 0;
	import->problems.last_kind = NULL;
	MemoryContextReset(import->problems.context);
	if (import->problems.all != NULL)
		tuplestore_clear(import->problems.all);
}

/*
 * The error
 */

/* For qsort(): the order of the kinds' first rows. */
static int
compare_kinds(const void *a, const void *b)
{
	int64 row = (*(PoserImportKind *const *) a)->samples[0].row;
	int64 other = (*(PoserImportKind *const *) b)->samples[0].row;

	return row < other ? -1 : (row > other ? 1 : 0);
}

/*
 * Append how many rows have this kind of problem, and the first ones:
 *
 *	3 rows, column "uuid": value too long for type character varying(32)
 *	  Key (uuid)=(...)
 *	  and 2 more
 */
static void
append_kind(StringInfo text, const PoserImportKind *kind, int nsamples)
{
	bool says_reason = kind->varies || kind->common.title != NULL;
	int64 more = kind->nrows;

	/* what all rows of the kind have in common */
	appendStringInfo(text, INT64_FORMAT " %s", kind->nrows, kind->nrows == 1 ? "row" : "rows");
	if (kind->common.columns != NULL)
		appendStringInfo(text, ", %s", kind->common.columns);
	if (kind->common.title != NULL)
		appendStringInfo(text, ": %s", kind->common.title);
	else
		appendStringInfo(text, ": %s%s", kind->common.reason, kind->varies ? "..." : "");

	/* the first rows, with their own reasons and details */
	for (int i = 0; i < Min(nsamples, kind->nsamples); i++)
	{
		const PoserImportProblem *sample = &kind->samples[i];

		appendStringInfo(text, "\n  %s", sample->subject);
		if (says_reason)
			appendStringInfo(text, ": %s", sample->reason);
		if (sample->detail != NULL)
			appendStringInfo(text, says_reason ? " (%s)" : ": %s", sample->detail);
		more -= sample->nrows;
	}
	if (more > 0)
		appendStringInfo(text, "\n  and " INT64_FORMAT " more", more);
}

/* Returns the detail of the error: the problems, kind by kind, ordered by their first rows. */
char *
poser_import_detail(PoserImport *import)
{
	StringInfoData detail;
	int64 others = import->problems.nrows;

	if (import->problems.nrows == 1)
		return poser_import_problem_text(&import->problems.kinds[0]->samples[0]);
	initStringInfo(&detail);
	qsort(import->problems.kinds, import->problems.nkinds, sizeof(PoserImportKind *), compare_kinds);
	for (int i = 0; i < import->problems.nkinds; i++)
	{
		if (i > 0)
			appendStringInfoChar(&detail, '\n');
		append_kind(&detail, import->problems.kinds[i], import->problems.nkinds == 1 ? POSER_IMPORT_NAMED : NAMED_OF_MANY_KINDS);
		others -= import->problems.kinds[i]->nrows;
	}
	if (others > 0)
		appendStringInfo(&detail, "\n" INT64_FORMAT " %s for other reasons", others, others == 1 ? "row" : "rows");
	return detail.data;
}

/* Raises an error if there are problems. */
void
poser_import_raise(PoserImport *import)
{
	if (import->problems.nrows > 0)
		ereport(ERROR,
				(errcode(import->problems.first_sqlstate),
				 errmsg_plural("%s" INT64_FORMAT " row of %s cannot be imported into \"%s\"",
							   "%s" INT64_FORMAT " rows of %s cannot be imported into \"%s\"",
							   import->problems.nrows, import->problems.at_least ? "at least " : "", import->problems.nrows,
							   import->source_shown, import->target.label),
				 errdetail_internal("%s", poser_import_detail(import)),
				 errhint("Nothing has been changed.")));
}

/*
 * Parts of problems
 */

/* Returns a text as a message shows it, cut to MAX_SHOWN bytes.  A text that is not longer is returned itself. */
char *
poser_import_shown(char *text)
{
	if (strlen(text) > MAX_SHOWN)
		text = psprintf("%.*s...", pg_mbcliplen(text, strlen(text), MAX_SHOWN), text);
	return text;
}

/* Returns a value's text as a message shows it. */
static char *
show_value(Oid type, Datum value, bool isnull)
{
	Oid output;
	bool is_varlena;

	if (isnull)
		return pstrdup("null");
	getTypeOutputInfo(type, &output, &is_varlena);
	return poser_import_shown(OidOutputFunctionCall(output, value));
}

/* Returns "Key (a, b)=(1, 2)".  With "of_source" the values are of the source's types. */
char *
poser_import_shown_key(PoserImport *import, const Datum *values, const bool *nulls, bool of_source)
{
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfoString(&text, "Key (");
	for (int i = 0; i < import->nkeys; i++)
		appendStringInfo(&text, "%s%s", i > 0 ? ", " : "", import->columns[i].label);
	appendStringInfoString(&text, ")=(");
	for (int i = 0; i < import->nkeys; i++)
		appendStringInfo(&text, "%s%s", i > 0 ? ", " : "",
						 show_value(of_source ? import->columns[i].source_type : import->columns[i].type,
									values[i], nulls[i]));
	appendStringInfoChar(&text, ')');
	return text.data;
}

/* Returns 'column "a"' or 'columns "a", "b"' for names that are quoted already. */
static char *
name_columns(int n, const char *names)
{
	return psprintf("column%s %s", n > 1 ? "s" : "", names);
}

/* Returns 'column "a"' for a column of the import. */
char *
poser_import_column(PoserImport *import, int i)
{
	return name_columns(1, psprintf("\"%s\"", import->columns[i].label));
}

/* Returns 'columns "a", "b"' for the fields in a set of columns. */
char *
poser_import_columns(PoserImport *import, const uint8 *columns)
{
	StringInfoData names;
	int n = 0;

	initStringInfo(&names);
	for (int i = import->nkeys; i < import->ncolumns; i++)
		if (POSER_IMPORT_HAS(columns, i))
			appendStringInfo(&names, "%s\"%s\"", n++ > 0 ? ", " : "", import->columns[i].label);
	return name_columns(n, names.data);
}

/* Returns 'columns "a", "b"' for the columns of a constraint of the target, or NULL. */
static char *
name_constraint_columns(PoserImport *import, const char *name)
{
	Oid constraint = get_relation_constraint_oid(import->target.relid, name, true);
	StringInfoData text;
	Bitmapset *columns;
	int attno = -1;
	int n = 0;

	if (!OidIsValid(constraint))
		return NULL;
	columns = get_relation_constraint_attnos(import->target.relid, name, true, &constraint);
	initStringInfo(&text);
	while ((attno = bms_next_member(columns, attno)) >= 0)
	{
		char *column = get_attname(import->target.relid, attno + FirstLowInvalidHeapAttributeNumber, true);

		if (column != NULL)
			appendStringInfo(&text, "%s\"%s\"", n++ > 0 ? ", " : "", column);
	}
	return n > 0 ? name_columns(n, text.data) : NULL;
}

/*
 * Set the fields of a problem from an error: all but its row and subject.  The problem
 * points into the error, which must live as long as the problem.  "column" is the column
 * that was being coerced, or NULL.
 */
void
poser_import_describe(PoserImport *import, PoserImportProblem *problem, const char *column, const ErrorData *error)
{
	bool is_ours = true;

	/* an error about another table, which a trigger has written, has columns of that table; partitions have the target's columns */
	if (error->table_name != NULL && strcmp(error->table_name, import->target.label) != 0 &&
		import->target.relkind != RELKIND_PARTITIONED_TABLE)
		is_ours = false;
	if (column == NULL && is_ours && error->column_name != NULL)
		column = error->column_name;
	if (column != NULL)
		problem->columns = name_columns(1, psprintf("\"%s\"", column));
	else if (is_ours && error->constraint_name != NULL)
		problem->columns = name_constraint_columns(import, error->constraint_name);

	problem->sqlstate = error->sqlerrcode;
	problem->reason = error->message;
	/* the detail names the key that another row has or should have */
	if (error->sqlerrcode == ERRCODE_FOREIGN_KEY_VIOLATION || error->sqlerrcode == ERRCODE_UNIQUE_VIOLATION)
		problem->detail = error->detail;
	/* a kind is identified by the message without its values and by the constraint */
	problem->kind = psprintf("%s %s", error->message_id != NULL ? error->message_id : "",
							 error->constraint_name != NULL ? error->constraint_name : "");
}
