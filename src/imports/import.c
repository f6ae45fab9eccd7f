/*
 * import.c
 *	  Making the rows of a table those of another relation.
 *
 * An import has three steps, each of which takes rows one by one from the
 * executor and keeps no more of them in memory than work_mem allows:
 *
 * 1. The source is read, once.  Its values become those of the target's types,
 *	  as in an assignment; keys must not be null or occur twice.
 * 2. These rows are joined with the target by key, and compared: a value is the
 *	  same if its stored image is.  What differs goes into a sort, by what is to be
 *	  done and which columns are to be written.
 * 3. Each such group is written by plain INSERT, UPDATE or DELETE statements,
 *	  with the caller's own privileges.
 *
 * Writers are not locked out, but nothing that they do meanwhile is lost: each
 * UPDATE and DELETE checks again, in its condition, that the row is what it was
 * compared as, and if one was not the second and third step are done again
 * with a newer snapshot.  Imports into one target wait for each other, so that
 * they cannot deadlock.  Where no index makes the key unique nothing else
 * would keep a row from being made twice, so other writers must wait then.
 *
 * What is wrong with rows is found out where it shows: in the coercions, and
 * in the statements.  First they are run without any precaution.  If one fails,
 * then all is done again carefully: a statement that fails is rolled back to
 * a savepoint and run again with parts of its rows, until the rows that cannot
 * be written are found, or POSER_IMPORT_TOLD_APART of them.  So the error can
 * name a row, whatever refuses it (a constraint, a trigger, another unique key).
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "executor/tstoreReceiver.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/parse_coerce.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/backend_status.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/resowner.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/typcache.h"

#include "imports/imports.h"

PG_FUNCTION_INFO_V1(poser_import);
PG_FUNCTION_INFO_V1(poser_import_diff);

/*
 * Rows written by one statement.  More would let the queue of its row triggers,
 * those of foreign keys for instance, grow in memory.
 */
#define MAX_ROWS_WRITTEN 100000

/* Into how many parts rows are divided if they cannot be written together. */
#define PARTS 8

/* For a table that references itself: the search ends when so many rows have failed. */
#define MAX_ROWS_FAILED (10 * POSER_IMPORT_TOLD_APART)

/* Rows between two reports of progress. */
#define PROGRESS_INTERVAL 10000

/* Attempts without, and in all, if others change the rows under our hands. */
#define ATTEMPTS_WITHOUT_LOCK 2
#define MAX_ATTEMPTS 5

/* The longest key or such that is shown in a message, in bytes. */
#define MAX_SHOWN 100

/* The longest text that is kept of a problem, in bytes. */
#define MAX_MESSAGE 500

/* How many offenders of each kind are named if there are several. */
#define NAMED_OF_MANY_KINDS 3

/* The hint if a source lacks a key or a column. */
#define SOURCE_HINT \
	"Name as \"key\" columns that both relations have, or import from a view that has the columns of the target."

/* How the server's own message for it begins. */
#define POLICY_MESSAGE "new row violates row-level security policy"

/* Columns of the rows read. */
#define ROW_NUMBER 0
#define ROW_COLUMN(i) (1 + (i))

/* Columns of the changes. */
#define CHANGE_TAG 0
#define CHANGE_ROW 1
#define CHANGE_NEW(i) (2 + (i))
#define CHANGE_OLD(import, i) (2 + (import)->ncolumns + (i))

/*
 * Progress
 */

/*
 * Show in pg_stat_activity what we are doing, before what the client has asked for.
 */
void
poser_import_progress(PoserImport *import, const char *phase, int64 rows)
{
	char *activity;

	if (phase != NULL)
		import->phase = phase;
	import->done = rows;
	activity = psprintf("/* %s into %s: %s, " INT64_FORMAT " rows */ %s", import->function,
						import->target_label, import->phase, rows, import->activity);
	pgstat_report_activity(STATE_RUNNING, activity);
	pfree(activity);
}

/* One more row has been taken. */
void
poser_import_count(PoserImport *import)
{
	if (++import->done % PROGRESS_INTERVAL == 0)
		poser_import_progress(import, NULL, import->done);
	CHECK_FOR_INTERRUPTS();
}

/*
 * Problems
 */

/* Does an error say something of a row? */
static bool
is_of_a_row(const PoserImport *import, const ErrorData *error)
{
	/* what a policy refuses has the code of what is not permitted at all */
	if (error->sqlerrcode == ERRCODE_INSUFFICIENT_PRIVILEGE)
		return error->message_id != NULL &&
			   strncmp(error->message_id, POLICY_MESSAGE, strlen(POLICY_MESSAGE)) == 0;
	/* some types' input functions say so, indexes of what is too long, and what users make up */
	if (error->sqlerrcode == ERRCODE_SYNTAX_ERROR ||
		(import->writing && error->sqlerrcode == ERRCODE_PROGRAM_LIMIT_EXCEEDED) ||
		strchr("IJKLMNOPQRSTUVWYZ", unpack_sql_state(error->sqlerrcode)[0]) != NULL)
		return true;
	/* of objects that a value names, or without a code of its own */
	if (import->coercing && (error->sqlerrcode == ERRCODE_UNDEFINED_TABLE ||
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

/* "who, columns: reason (detail)" */
static char *
problem_text(const PoserImportProblem *problem)
{
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfoString(&text, problem->who);
	if (problem->columns != NULL)
		appendStringInfo(&text, ", %s", problem->columns);
	appendStringInfo(&text, ": %s", problem->reason);
	if (problem->detail != NULL)
		appendStringInfo(&text, " (%s)", problem->detail);
	return text.data;
}

/* A copy of a text, cut to MAX_MESSAGE bytes; NULL for NULL. */
static char *
copy_text(const char *text)
{
	if (text == NULL)
		return NULL;
	if (strlen(text) <= MAX_MESSAGE)
		return pstrdup(text);
	return psprintf("%.*s...", pg_mbcliplen(text, strlen(text), MAX_MESSAGE), text);
}

static void
copy_problem(PoserImportProblem *copy, const PoserImportProblem *problem)
{
	*copy = *problem;
	copy->who = copy_text(problem->who);
	/* copied whole, because kinds are compared by it */
	copy->columns = problem->columns != NULL ? pstrdup(problem->columns) : NULL;
	copy->reason = copy_text(problem->reason);
	copy->detail = copy_text(problem->detail);
}

static void
free_problem(PoserImportProblem *problem)
{
	pfree(unconstify(char *, problem->who));
	if (problem->columns != NULL)
		pfree(unconstify(char *, problem->columns));
	pfree(unconstify(char *, problem->reason));
	if (problem->detail != NULL)
		pfree(unconstify(char *, problem->detail));
}

/* Find the kind of a problem, or make it; NULL if there are too many kinds. */
static PoserImportKind *
kind_of(PoserImport *import, const PoserImportProblem *problem)
{
	PoserImportKind *result;

	for (int i = 0; i < import->nkinds; i++)
	{
		const PoserImportProblem *common = &import->kinds[i]->common;

		if (common->sqlstate == problem->sqlstate && strcmp(common->kind, problem->kind) == 0 &&
			strcmp(common->columns != NULL ? common->columns : "",
				   problem->columns != NULL ? problem->columns : "") == 0)
			return import->kinds[i];
	}
	if (import->nkinds == POSER_IMPORT_KINDS)
		return NULL;
	result = palloc0(sizeof(PoserImportKind));
	copy_problem(&result->common, problem);
	result->common.kind = pstrdup(problem->kind);
	import->kinds[import->nkinds++] = result;
	return result;
}

/* Shorten a kind's reason to the beginning that it has in common with this one. */
static void
share_reason(PoserImportKind *kind, const char *reason)
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

/* Keep a problem if it is among the first ones of its kind. */
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

/* Note that something is wrong with a row. */
void
poser_import_problem(PoserImport *import, const PoserImportProblem *problem)
{
	MemoryContext old_context;

	if (import->verdicts != NULL)
	{
		Datum values[] = {Int64GetDatum(problem->row), CStringGetTextDatum(problem_text(problem))};
		bool nulls[] = {false, false};

		tuplestore_putvalues(import->verdicts, import->verdict_desc, values, nulls);
		pfree(DatumGetPointer(values[1]));
	}

	if (import->nproblems == 0 || problem->row < import->first_row)
	{
		import->first_row = problem->row;
		import->first_sqlstate = problem->sqlstate;
	}
	old_context = MemoryContextSwitchTo(import->problem_context);
	import->last_kind = kind_of(import, problem);
	if (import->last_kind != NULL)
	{
		share_reason(import->last_kind, problem->reason);
		keep_sample(import->last_kind, problem);
	}
	MemoryContextSwitchTo(old_context);
	poser_import_more_problems(import, problem->nrows);
}

/* Add rows to the number of those that have the last problem. */
void
poser_import_more_problems(PoserImport *import, int64 nrows)
{
	import->nproblems += nrows;
	if (import->last_kind != NULL)
		import->last_kind->nrows += nrows;
}

void
poser_import_forget_problems(PoserImport *import)
{
	import->nproblems = 0;
	import->at_least = false;
	import->nkinds = 0;
	import->last_kind = NULL;
	MemoryContextReset(import->problem_context);
	if (import->verdicts != NULL)
		tuplestore_clear(import->verdicts);
}

static int
compare_kinds(const void *a, const void *b)
{
	int64 row = (*(PoserImportKind *const *) a)->samples[0].row;
	int64 other = (*(PoserImportKind *const *) b)->samples[0].row;

	return row < other ? -1 : (row > other ? 1 : 0);
}

/* Append how many rows have this problem, and which are the first ones. */
static void
append_kind(StringInfo text, const PoserImportKind *kind, int nsamples)
{
	bool says_reason = kind->varies || kind->common.title != NULL;
	int64 more = kind->nrows;

	appendStringInfo(text, INT64_FORMAT " %s", kind->nrows, kind->nrows == 1 ? "row" : "rows");
	if (kind->common.columns != NULL)
		appendStringInfo(text, ", %s", kind->common.columns);
	if (kind->common.title != NULL)
		appendStringInfo(text, ": %s", kind->common.title);
	else
		appendStringInfo(text, ": %s%s", kind->common.reason, kind->varies ? "..." : "");

	for (int i = 0; i < Min(nsamples, kind->nsamples); i++)
	{
		const PoserImportProblem *sample = &kind->samples[i];

		appendStringInfo(text, "\n  %s", sample->who);
		if (says_reason)
			appendStringInfo(text, ": %s", sample->reason);
		if (sample->detail != NULL)
			appendStringInfo(text, says_reason ? " (%s)" : ": %s", sample->detail);
		more -= sample->nrows;
	}
	if (more > 0)
		appendStringInfo(text, "\n  and " INT64_FORMAT " more", more);
}

/* The problems, kind by kind, in the order of the rows. */
char *
poser_import_detail(PoserImport *import)
{
	StringInfoData detail;
	int64 others = import->nproblems;

	if (import->nproblems == 1)
		return problem_text(&import->kinds[0]->samples[0]);
	initStringInfo(&detail);
	qsort(import->kinds, import->nkinds, sizeof(PoserImportKind *), compare_kinds);
	for (int i = 0; i < import->nkinds; i++)
	{
		if (i > 0)
			appendStringInfoChar(&detail, '\n');
		append_kind(&detail, import->kinds[i], import->nkinds == 1 ? POSER_IMPORT_NAMED : NAMED_OF_MANY_KINDS);
		others -= import->kinds[i]->nrows;
	}
	if (others > 0)
		appendStringInfo(&detail, "\n" INT64_FORMAT " %s for other reasons", others, others == 1 ? "row" : "rows");
	return detail.data;
}

/* If there are problems, raise them. */
void
poser_import_raise(PoserImport *import)
{
	if (import->nproblems > 0)
		ereport(ERROR,
				(errcode(import->first_sqlstate),
				 errmsg_plural("%s" INT64_FORMAT " row of %s cannot be imported into \"%s\"",
							   "%s" INT64_FORMAT " rows of %s cannot be imported into \"%s\"",
							   import->nproblems, import->at_least ? "at least " : "", import->nproblems,
							   import->source_shown, import->target_label),
				 errdetail_internal("%s", poser_import_detail(import)),
				 errhint("Nothing has been changed.")));
}

/* A text, not too long. */
char *
poser_import_shown(char *text)
{
	if (strlen(text) > MAX_SHOWN)
		text = psprintf("%.*s...", pg_mbcliplen(text, strlen(text), MAX_SHOWN), text);
	return text;
}

/* A value as text, not too long. */
static char *
shown(Oid type, Datum value, bool isnull)
{
	Oid output;
	bool is_varlena;

	if (isnull)
		return pstrdup("null");
	getTypeOutputInfo(type, &output, &is_varlena);
	return poser_import_shown(OidOutputFunctionCall(output, value));
}

/* "Key (a, b)=(1, 2)" */
static char *
shown_key(PoserImport *import, const Datum *values, const bool *nulls, bool of_source)
{
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfoString(&text, "Key (");
	for (int i = 0; i < import->nkeys; i++)
		appendStringInfo(&text, "%s%s", i > 0 ? ", " : "", import->columns[i].label);
	appendStringInfoString(&text, ")=(");
	for (int i = 0; i < import->nkeys; i++)
		appendStringInfo(&text, "%s%s", i > 0 ? ", " : "",
						 shown(of_source ? import->columns[i].source_type : import->columns[i].type,
							   values[i], nulls[i]));
	appendStringInfoChar(&text, ')');
	return text.data;
}

/* Columns as a problem names them: 'column "a"' or 'columns "a", "b"'. */
static char *
shown_columns(int n, const char *names)
{
	return psprintf("column%s %s", n > 1 ? "s" : "", names);
}

char *
poser_import_column(PoserImport *import, int i)
{
	return shown_columns(1, psprintf("\"%s\"", import->columns[i].label));
}

char *
poser_import_columns(PoserImport *import, const uint8 *columns)
{
	StringInfoData names;
	int n = 0;

	initStringInfo(&names);
	for (int i = import->nkeys; i < import->ncolumns; i++)
		if (POSER_IMPORT_HAS(columns, i))
			appendStringInfo(&names, "%s\"%s\"", n++ > 0 ? ", " : "", import->columns[i].label);
	return shown_columns(n, names.data);
}

/* The columns that a constraint of the target is on, or NULL. */
static char *
columns_of_constraint(PoserImport *import, const char *name)
{
	Oid constraint = get_relation_constraint_oid(import->target, name, true);
	StringInfoData text;
	Bitmapset *columns;
	int attno = -1;
	int n = 0;

	if (!OidIsValid(constraint))
		return NULL;
	columns = get_relation_constraint_attnos(import->target, name, true, &constraint);
	initStringInfo(&text);
	while ((attno = bms_next_member(columns, attno)) >= 0)
	{
		char *column = get_attname(import->target, attno + FirstLowInvalidHeapAttributeNumber, true);

		if (column != NULL)
			appendStringInfo(&text, "%s\"%s\"", n++ > 0 ? ", " : "", column);
	}
	return n > 0 ? shown_columns(n, text.data) : NULL;
}

/*
 * Describe an error in a problem, which then points into the error.  "column" is
 * the column that the error comes from, NULL if that is not known.
 */
void
poser_import_describe(PoserImport *import, PoserImportProblem *problem, const char *column, const ErrorData *error)
{
	bool is_ours = true;

	if (error->table_name != NULL && strcmp(error->table_name, import->target_label) != 0 &&
		import->target_kind != RELKIND_PARTITIONED_TABLE)
		is_ours = false;
	if (column == NULL && is_ours && error->column_name != NULL)
		column = error->column_name;
	problem->sqlstate = error->sqlerrcode;
	if (column != NULL)
		problem->columns = shown_columns(1, psprintf("\"%s\"", column));
	else if (is_ours && error->constraint_name != NULL)
		problem->columns = columns_of_constraint(import, error->constraint_name);
	problem->reason = error->message;
	/* which key of the other row it is */
	if (error->sqlerrcode == ERRCODE_FOREIGN_KEY_VIOLATION || error->sqlerrcode == ERRCODE_UNIQUE_VIOLATION)
		problem->detail = error->detail;
	/* the message before values are put into it */
	problem->kind = psprintf("%s %s", error->message_id != NULL ? error->message_id : "",
							 error->constraint_name != NULL ? error->constraint_name : "");
}

/* The same, but it is raised again unless it says something of a row. */
ErrorData *
poser_import_catch(PoserImport *import, PoserSavepoint *savepoint)
{
	ErrorData *error = poser_savepoint_catch_any(savepoint);

	if (!is_of_a_row(import, error))
		ReThrowError(error);
	return error;
}

/*
 * What the import is from and to
 */

static bool
is_relkind(char relkind, const char *kinds)
{
	return strchr(kinds, relkind) != NULL;
}

/* The texts in an array, NULL for a null array; no nulls, none twice. */
static List *
names_in(Datum array, const char *argument)
{
	Datum *elements;
	bool *nulls;
	int n;
	List *result = NIL;

	if (DatumGetPointer(array) == NULL)
		return NIL;
	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT,
					  &elements, &nulls, &n);
	for (int i = 0; i < n; i++)
	{
		char *name;
		ListCell *lc;

		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("%s must not contain nulls", argument)));
		name = TextDatumGetCString(elements[i]);
		foreach(lc, result)
			if (strcmp(lfirst(lc), name) == 0)
				ereport(ERROR,
						(errcode(ERRCODE_DUPLICATE_COLUMN),
						 errmsg("column \"%s\" is in %s twice", name, argument)));
		result = lappend(result, name);
	}
	return result;
}

/* The columns of a relation's primary key, or of its only unique index; NIL if there is none. */
static List *
columns_of_key(Relation rel, bool primary)
{
	List *indexes = RelationGetIndexList(rel);
	List *result = NIL;
	int n = 0;
	ListCell *lc;

	foreach(lc, indexes)
	{
		Relation index = index_open(lfirst_oid(lc), AccessShareLock);
		Form_pg_index form = index->rd_index;

		if (form->indisvalid && form->indisunique && (form->indisprimary || !primary) &&
			heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL) &&
			heap_attisnull(index->rd_indextuple, Anum_pg_index_indexprs, NULL))
		{
			n++;
			result = NIL;
			for (int i = 0; i < form->indnkeyatts; i++)
				result = lappend(result, get_attname(RelationGetRelid(rel), form->indkey.values[i], false));
		}
		index_close(index, AccessShareLock);
	}
	list_free(indexes);
	return n == 1 ? result : NIL;
}

/* Has the relation all these columns? */
static bool
has_columns(Oid relid, List *names)
{
	ListCell *lc;

	foreach(lc, names)
		if (get_attnum(relid, lfirst(lc)) <= 0)
			return false;
	return names != NIL;
}

/* The key if none is given: the target's, or else the source's if there is one. */
static List *
default_key(Relation source, Relation target)
{
	List *result = columns_of_key(target, true);

	if (result == NIL && source != NULL)
	{
		result = columns_of_key(source, true);
		if (!has_columns(RelationGetRelid(target), result))
			result = NIL;
	}
	if (result == NIL)
		result = columns_of_key(target, false);
	if (result == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_COLUMN_REFERENCE),
				 errmsg("no key is given, and relation \"%s\" has no primary key",
						RelationGetRelationName(target)),
				 source != NULL ? errhint(SOURCE_HINT)
								: errhint("Name the columns by which rows are to be told from each other as \"key\".")));
	return result;
}

/* An attribute of the source or the target by name, an error if there is none. */
static Form_pg_attribute
attribute(PoserImport *import, Relation rel, const char *name)
{
	AttrNumber attno = get_attnum(RelationGetRelid(rel), name);

	if (attno <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of relation \"%s\" does not exist",
						name, RelationGetRelationName(rel)),
				 import->source_name != NULL ? errhint(SOURCE_HINT) : 0));
	return TupleDescAttr(RelationGetDescr(rel), attno - 1);
}

/* Can a column be given values? */
bool
poser_import_can_be_written(Form_pg_attribute att)
{
	return att->attgenerated == '\0' && att->attidentity != ATTRIBUTE_IDENTITY_ALWAYS;
}

/* Has a type, or has something in it, a cast to json of its own? */
static bool
has_cast_to_json(Oid type)
{
	CoercionPathType path;
	Oid function;
	Oid element;
	bool result = false;

	check_stack_depth();
	type = getBaseType(type);
	element = get_element_type(type);
	if (OidIsValid(element))
		return has_cast_to_json(element);
	if (type < FirstNormalObjectId)
		return false;
	path = find_coercion_pathway(JSONOID, type, COERCION_EXPLICIT, &function);
	if (path == COERCION_PATH_FUNC)
		return true;
	if (get_typtype(type) == TYPTYPE_COMPOSITE)
	{
		TupleDesc desc = lookup_rowtype_tupdesc(type, -1);

		for (int i = 0; i < desc->natts && !result; i++)
			result = !TupleDescAttr(desc, i)->attisdropped && has_cast_to_json(TupleDescAttr(desc, i)->atttypid);
		ReleaseTupleDesc(desc);
	}
	return result;
}

static bool
is_in_key(PoserImport *import, Form_pg_attribute att)
{
	for (int i = 0; i < import->nkeys; i++)
		if (import->columns[i].attno == att->attnum)
			return true;
	return false;
}

/*
 * An expression by which the type's input function reads a text, as COPY does.
 * NULL if the value is not of a text type.
 */
static Node *
coerce_text(Node *value, Oid source_type, Form_pg_attribute att)
{
	CoerceViaIO *read = makeNode(CoerceViaIO);
	Oid function;

	read->arg = (Expr *) value;
	read->resulttype = getBaseType(att->atttypid);
	read->resultcollid = get_typcollation(read->resulttype);
	read->coerceformat = COERCE_IMPLICIT_CAST;
	read->location = -1;
	if (find_coercion_pathway(read->resulttype, source_type, COERCION_EXPLICIT, &function) != COERCION_PATH_COERCEVIAIO)
		return NULL;
	return coerce_to_target_type(NULL, (Node *) read, read->resulttype, att->atttypid, att->atttypmod,
								 COERCION_ASSIGNMENT, COERCE_IMPLICIT_CAST, -1);
}

/* Describe the target's column, and how the source's value becomes one. */
static void
add_column(PoserImport *import, Relation source, Relation target, const char *name)
{
	PoserImportColumn *column = &import->columns[import->ncolumns++];
	Form_pg_attribute att = attribute(import, target, name);
	Form_pg_attribute from;
	CaseTestExpr *value;
	Node *expr;

	column->label = pstrdup(name);
	column->name = quote_identifier(column->label);
	column->attno = att->attnum;
	column->type = att->atttypid;
	column->typmod = att->atttypmod;
	column->collation = att->attcollation;
	column->len = att->attlen;
	column->byval = att->attbyval;
	column->as_text = has_cast_to_json(att->atttypid);
	if (source == NULL)
		return;

	from = attribute(import, source, name);
	column->source_type = from->atttypid;

	value = makeNode(CaseTestExpr);
	value->typeId = from->atttypid;
	value->typeMod = from->atttypmod;
	value->collation = from->attcollation;
	expr = coerce_to_target_type(NULL, (Node *) value, from->atttypid, att->atttypid, att->atttypmod,
								 COERCION_ASSIGNMENT, COERCE_IMPLICIT_CAST, -1);
	if (expr == NULL)
		expr = coerce_text((Node *) value, from->atttypid, att);
	if (expr == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" of relation \"%s\" is of type %s, which cannot be assigned to type %s of relation \"%s\"",
						name, RelationGetRelationName(source),
						format_type_with_typemod(from->atttypid, from->atttypmod),
						format_type_with_typemod(att->atttypid, att->atttypmod),
						RelationGetRelationName(target)),
				 errhint(SOURCE_HINT)));
	while (IsA(expr, RelabelType))
		expr = (Node *) ((RelabelType *) expr)->arg;
	if (!IsA(expr, CaseTestExpr))
	{
		column->coerce = ExecPrepareExpr((Expr *) expr, import->estate);
		import->coerces = true;
	}
}

/* How the column of a key is compared. */
static void
describe_key(PoserImportColumn *column)
{
	TypeCacheEntry *type = lookup_type_cache(column->type, TYPECACHE_EQ_OPR |
															   TYPECACHE_HASH_EXTENDED_PROC_FINFO);

	if (!OidIsValid(type->eq_opr))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("column \"%s\" cannot be part of a key, for type %s has no equality operator",
						column->label, format_type_be(column->type))));
	column->equals = poser_equality(column->type);
	if (OidIsValid(type->hash_extended_proc_finfo.fn_oid))
		column->hash = &type->hash_extended_proc_finfo;
}

/* Are keys that are the same to an index of these columns, if there is one, those that are to us? */
static bool
sees_to_key(PoserImport *import, Oid indexid)
{
	Relation index;
	bool result = true;

	if (!OidIsValid(indexid))
		return false;
	index = index_open(indexid, AccessShareLock);
	for (int i = 0; i < import->nkeys; i++)
	{
		PoserImportColumn *column = &import->columns[i];
		Oid type;

		for (int j = 0; j < import->nkeys; j++)
			if (index->rd_index->indkey.values[j] == column->attno)
			{
				type = index->rd_opcintype[j];
				result = result && index->rd_indcollation[j] == column->collation &&
						 get_opfamily_member(index->rd_opfamily[j], type, type, BTEqualStrategyNumber) ==
							 lookup_type_cache(column->type, TYPECACHE_EQ_OPR)->eq_opr;
			}
	}
	index_close(index, AccessShareLock);
	return result;
}

/* Does the table have a foreign key to itself? */
static bool
has_key_to_itself(Relation rel)
{
	ListCell *lc;

	foreach(lc, RelationGetFKeyList(rel))
		if (lfirst_node(ForeignKeyCacheInfo, lc)->confrelid == RelationGetRelid(rel))
			return true;
	return false;
}

static int
compare_columns(const void *a, const void *b)
{
	return ((const PoserImportColumn *) a)->attno - ((const PoserImportColumn *) b)->attno;
}

/* The current user must have something to write there, or else nothing is to be locked. */
static void
check_may_write(Oid relid)
{
	const AclMode modes = ACL_INSERT | ACL_UPDATE | ACL_DELETE;

	if (pg_class_aclmask(relid, GetUserId(), modes, ACLMASK_ANY) == 0 &&
		pg_attribute_aclcheck_all(relid, GetUserId(), ACL_INSERT | ACL_UPDATE, ACLMASK_ANY) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, get_relkind_objtype(get_rel_relkind(relid)), get_rel_name(relid));
}

/* Open and lock a relation.  While this waits, the relation may be renamed, or dropped, which is an error. */
static Relation
open_locked(Oid relid)
{
	char *name = get_rel_name(relid);
	Relation result = try_relation_open(relid, AccessShareLock);

	if (result == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"%s\" does not exist", name != NULL ? name : psprintf("%u", relid))));
	return result;
}

/*
 * Begin an import by "function" from the relation "source", InvalidOid if the
 * rows come from elsewhere, into "target".  "key" and "fields" are arrays of
 * names, or 0.
 *
 * Between this and poser_import_end() there is a connection to SPI.  The result
 * lives in a context of its own in the current one.
 */
PoserImport *
poser_import_begin(const char *function, Oid source, Oid target, Datum key, Datum fields, bool writes)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "import", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old_context = MemoryContextSwitchTo(context);
	PoserImport *import = palloc0(sizeof(PoserImport));
	Relation from = NULL;
	Relation to;
	List *names;
	List *field_names;
	ListCell *lc;
	AttrNumber keys[INDEX_MAX_KEYS];
	bool immediate = false;
	bool found_some = false;

	import->function = function;
	import->context = context;
	import->row_context = AllocSetContextCreate(context, "row", ALLOCSET_DEFAULT_SIZES);
	import->problem_context = AllocSetContextCreate(context, "problems", ALLOCSET_DEFAULT_SIZES);
	import->read_only = !writes;
	import->estate = CreateExecutorState();
	import->phase = "reading";
	import->creates = import->updates = true;

	/* an OID may be of no relation, which is an error here */
	(void) poser_relation_name(target);
	if (!is_relkind(get_rel_relkind(target), "rpf"))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot import into relation \"%s\"", get_rel_name(target)),
				 errdetail("It is not a table or foreign table.")));
	if (writes)
		check_may_write(target);
	/* stronger locks come in their order, see lock_target() */
	to = open_locked(target);
	import->target = target;
	import->target_plain = poser_relation_name(target);
	import->written_before = CheckRelationLockedByMe(to, RowExclusiveLock, true);
	import->target_kind = to->rd_rel->relkind;
	import->target_label = pstrdup(RelationGetRelationName(to));
	import->target_name = import->target_plain;
	if (import->target_kind != RELKIND_PARTITIONED_TABLE)
		import->target_name = psprintf("ONLY %s", import->target_plain);
	if (OidIsValid(source))
	{
		from = open_locked(source);
		import->source_name = poser_relation_name(source);
		if (!is_relkind(from->rd_rel->relkind, "rpfvm"))
			ereport(ERROR,
					(errcode(ERRCODE_WRONG_OBJECT_TYPE),
					 errmsg("cannot import from relation \"%s\"", RelationGetRelationName(from)),
					 errdetail("It is not a table, foreign table, view or materialized view.")));
		import->source_label = pstrdup(RelationGetRelationName(from));
		import->source_shown = psprintf("\"%s\"", import->source_label);

		for (int i = 0; i < RelationGetDescr(from)->natts; i++)
		{
			Form_pg_attribute att = TupleDescAttr(RelationGetDescr(from), i);

			found_some = found_some || (!att->attisdropped && get_attnum(target, NameStr(att->attname)) > 0);
		}
		if (!found_some)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("relations \"%s\" and \"%s\" have no column in common",
							import->source_label, import->target_label),
					 errhint(SOURCE_HINT)));
	}

	import->columns = palloc0(sizeof(PoserImportColumn) * (RelationGetDescr(to)->natts + 1));

	/* the key */
	names = names_in(key, "key");
	if (names == NIL)
		names = default_key(from, to);
	if (list_length(names) > INDEX_MAX_KEYS)
		ereport(ERROR,
				(errcode(ERRCODE_TOO_MANY_COLUMNS),
				 errmsg("a key cannot have more than %d columns", INDEX_MAX_KEYS)));
	foreach(lc, names)
	{
		add_column(import, from, to, lfirst(lc));
		describe_key(&import->columns[import->ncolumns - 1]);
		keys[import->nkeys++] = import->columns[import->ncolumns - 1].attno;
	}
	if (import->target_kind != RELKIND_FOREIGN_TABLE)
		import->unique = sees_to_key(import, poser_unique_index(to, import->nkeys, keys, &immediate)) && immediate;

	/* the fields: those given, or all that both have */
	field_names = names_in(fields, "fields");
	foreach(lc, field_names)
	{
		Form_pg_attribute att = attribute(import, to, lfirst(lc));

		if (is_in_key(import, att))
			continue;
		if (!poser_import_can_be_written(att))
			ereport(ERROR,
					(errcode(ERRCODE_GENERATED_ALWAYS),
					 errmsg("column \"%s\" of relation \"%s\" cannot be written, for it is always generated",
							NameStr(att->attname), import->target_label)));
		add_column(import, from, to, lfirst(lc));
	}
	for (int i = 0; DatumGetPointer(fields) == NULL && i < RelationGetDescr(to)->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(to), i);

		if (!att->attisdropped && !is_in_key(import, att) && poser_import_can_be_written(att) &&
			(from == NULL || get_attnum(source, NameStr(att->attname)) > 0))
			add_column(import, from, to, NameStr(att->attname));
	}
	qsort(import->columns + import->nkeys, import->ncolumns - import->nkeys,
		  sizeof(PoserImportColumn), compare_columns);
	if (2 + 2 * import->ncolumns > MaxTupleAttributeNumber)
		ereport(ERROR,
				(errcode(ERRCODE_TOO_MANY_COLUMNS),
				 errmsg("cannot compare more than %d columns", (MaxTupleAttributeNumber - 2) / 2)));
	import->references_itself = has_key_to_itself(to);

	import->activity = "";
	if (MyBEEntry != NULL)
	{
		import->activity = pstrdup(MyBEEntry->st_activity_raw);
		import->query_id = MyBEEntry->st_query_id;
	}
	for (int i = 0; i < lengthof(import->limits); i++)
		import->limits[i] = PG_INT64_MAX;
	/* they stay open, so that no code that we run can make them something else */
	import->from_relation = from;
	import->to_relation = to;
	MemoryContextSwitchTo(old_context);

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	MemoryContextSwitchTo(old_context);
	return import;
}

/* Show again what the session was doing. */
void
poser_import_restore_activity(PoserImport *import)
{
	pgstat_report_activity(STATE_RUNNING, import->activity);
	pgstat_report_query_id(import->query_id, true);
}

void
poser_import_end(PoserImport *import)
{
	if (import->rows.reldata != NULL)
		tuplestore_end(import->rows.reldata);
	SPI_finish();
	if (import->from_relation != NULL)
		relation_close(import->from_relation, NoLock);
	relation_close(import->to_relation, NoLock);
	FreeExecutorState(import->estate);
	MemoryContextDelete(import->context);
}

/*
 * Keep other imports away from the target until the transaction ends; and
 * other writers, too, if no index keeps them from making rows twice.  Imports
 * must hold no lock that conflicts with the latter before they have the first.
 */
static void
lock_target(PoserImport *import, bool exclusively)
{
	const AclMode modes = ACL_UPDATE | ACL_DELETE | ACL_TRUNCATE;

	LockDatabaseObject(RelationRelationId, import->target, 0, ExclusiveLock);
	/* as LOCK TABLE has it, not anybody who may insert something can lock others out */
	if (pg_class_aclmask(import->target, GetUserId(), modes, ACLMASK_ANY) == 0)
		exclusively = false;
	import->locked = exclusively && import->target_kind != RELKIND_FOREIGN_TABLE;
	LockRelationOid(import->target,
					import->locked ? ShareRowExclusiveLock : RowExclusiveLock);
}

/*
 * Queries
 */

/*
 * Lock all relations that a plan reads, among them partitions and the tables of
 * views.  A relation that was rewritten since the snapshot would look empty.  In
 * READ COMMITTED a newer snapshot is then pushed, which the caller pops, and the
 * result is true.  In REPEATABLE READ and SERIALIZABLE it is an error.
 *
 * A function that writes needs none of this in READ COMMITTED: SPI takes a new
 * snapshot for each query, after the locks.
 */
static bool
check_rewritten(PoserImport *import, SPIPlanPtr plan)
{
	Snapshot snapshot;
	CachedPlan *planned;
	ListCell *lc;
	ListCell *lc2;
	bool result = false;

	if (!import->read_only && !IsolationUsesXactSnapshot())
		return false;
	snapshot = import->read_only ? GetActiveSnapshot() : GetTransactionSnapshot();
	planned = SPI_plan_get_cached_plan(plan);
	if (planned == NULL)
		elog(ERROR, "SPI_plan_get_cached_plan failed");
	foreach(lc, planned->stmt_list)
	{
		PlannedStmt *statement = lfirst_node(PlannedStmt, lc);

		foreach(lc2, statement->relationOids)
		{
			if (!poser_is_rewritten_or_emptied(lfirst_oid(lc2), snapshot))
				continue;
			if (IsolationUsesXactSnapshot())
				poser_rewritten_error(lfirst_oid(lc2));
			result = true;
		}
	}
	ReleaseCachedPlan(planned, NULL);
	if (result)
		PushActiveSnapshot(GetTransactionSnapshot());
	return result;
}

/* Run a query, and give its rows to "dest" if that is not NULL. */
void
poser_import_execute(PoserImport *import, const char *query, DestReceiver *dest,
					 int nargs, Oid *argtypes, Datum *values)
{
	SPIExecuteOptions options = {0};
	SPIPlanPtr plan;
	bool has_snapshot;

	/* of a statement that fails nothing must stay in memory */
	if (nargs == 0 && dest == NULL)
	{
		if (SPI_execute(query, import->read_only, 0) < 0)
			elog(ERROR, "SPI_execute failed: %s", SPI_result_code_string(SPI_result));
		return;
	}

	/* what we do with each row need not be what can be done while others work for us in parallel */
	plan = SPI_prepare_cursor(query, nargs, argtypes,
							  import->careful || import->coerces ? 0 : CURSOR_OPT_PARALLEL_OK);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare_cursor failed: %s", SPI_result_code_string(SPI_result));
	if (nargs > 0)
	{
		options.params = makeParamList(nargs);
		for (int i = 0; i < nargs; i++)
		{
			options.params->params[i].value = values[i];
			options.params->params[i].isnull = false;
			options.params->params[i].pflags = PARAM_FLAG_CONST;
			options.params->params[i].ptype = argtypes[i];
		}
	}
	options.read_only = import->read_only;
	options.dest = dest;
	has_snapshot = check_rewritten(import, plan);
	if (SPI_execute_plan_extended(plan, &options) < 0)
		elog(ERROR, "SPI_execute_plan_extended failed: %s", SPI_result_code_string(SPI_result));
	if (has_snapshot)
		PopActiveSnapshot();
	SPI_freeplan(plan);
}

/* The first value of the last query's first row. */
static int64
result_number(void)
{
	bool isnull;
	int64 result = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));

	SPI_freetuptable(SPI_tuptable);
	return result;
}

static void
no_startup(DestReceiver *self, int operation, TupleDesc desc)
{
}

static void
no_shutdown(DestReceiver *self)
{
}

/* A receiver that hands each row to a function. */
DestReceiver *
poser_import_receiver(PoserImport *import, bool (*receive)(TupleTableSlot *slot, DestReceiver *self))
{
	PoserImportReceiver *result = MemoryContextAllocZero(import->context, sizeof(PoserImportReceiver));

	result->pub.receiveSlot = receive;
	result->pub.rStartup = no_startup;
	result->pub.rShutdown = no_shutdown;
	result->pub.rDestroy = no_shutdown;
	result->pub.mydest = DestNone;
	result->import = import;
	return &result->pub;
}

/* Append "c1, c2, ..." with a prefix, for the columns from "first" on. */
static void
append_list(StringInfo sql, PoserImport *import, int first, const char *prefix)
{
	for (int i = first; i < import->ncolumns; i++)
		appendStringInfo(sql, "%s%s%d", i > first ? ", " : "", prefix, i + 1);
}

static void
append_names(StringInfo sql, PoserImport *import, const char *alias)
{
	for (int i = 0; i < import->ncolumns; i++)
		appendStringInfo(sql, "%s%s%s", i > 0 ? ", " : "", alias, import->columns[i].name);
}

/* Append the condition that the keys are the same; names of "t" may be the table's own. */
void
poser_import_append_join(StringInfo sql, PoserImport *import, const char *rows, bool own_names)
{
	for (int i = 0; i < import->nkeys; i++)
	{
		appendStringInfo(sql, "%s%s.c%d %s t.", i > 0 ? " AND " : "", rows, i + 1,
						 import->columns[i].equals);
		if (own_names)
			appendStringInfoString(sql, import->columns[i].name);
		else
			appendStringInfo(sql, "c%d", i + 1);
	}
}

/*
 * Append a column's value, called by this expression, as it is to be in an object.
 *
 * A type's own cast to json need not be undone by its input function, and may
 * be anybody's code: such types are in an object by their text.
 */
void
poser_import_append_value(StringInfo sql, PoserImport *import, int column, const char *value)
{
	if (import->columns[column].as_text)
		appendStringInfo(sql, "CASE WHEN %s IS DISTINCT FROM NULL THEN pg_catalog.format('%%s', %s) END", value, value);
	else
		appendStringInfoString(sql, value);
}

/*
 * Append an object of the columns from "first" to before "last" that are in
 * "columns", NULL for all: their names and the values called by the prefix and
 * number, or name.
 */
void
poser_import_append_object(StringInfo sql, PoserImport *import, int first, int last,
						   const uint8 *columns, const char *prefix, bool by_name)
{
	int n = 0;

	for (int i = first; i < last; i++)
	{
		if (columns != NULL && !POSER_IMPORT_HAS(columns, i))
			continue;
		/* a function has at most 100 arguments */
		if (n % 50 == 0)
			appendStringInfoString(sql, n == 0 ? "pg_catalog.jsonb_build_object(" : ") OPERATOR(pg_catalog.||) pg_catalog.jsonb_build_object(");
		appendStringInfo(sql, "%s%s, ", n % 50 == 0 ? "" : ", ",
						 quote_literal_cstr(import->columns[i].label));
		poser_import_append_value(sql, import, i,
								  by_name ? psprintf("%s%s", prefix, import->columns[i].name)
										  : psprintf("%s%d", prefix, i + 1));
		n++;
	}
	appendStringInfoString(sql, n == 0 ? "'{}'::pg_catalog.jsonb" : ")");
}

/*
 * Reading
 */

/* What is kept must not depend on what others may remove. */
Datum
poser_import_flatten(const PoserImportColumn *column, Datum value, bool isnull)
{
	if (!isnull && column->len == -1 && VARATT_IS_EXTERNAL(DatumGetPointer(value)))
		return PointerGetDatum(detoast_external_attr((struct varlena *) DatumGetPointer(value)));
	return value;
}

/* Evaluate a coercion; if it fails and that is of the row, return false and the error. */
bool
poser_import_evaluate(PoserImport *import, ExprState *expr, Datum *value, bool *isnull, ErrorData **error)
{
	ExprContext *econtext = GetPerTupleExprContext(import->estate);
	bool result = true;
	PoserSavepoint savepoint;

	econtext->caseValue_datum = *value;
	econtext->caseValue_isNull = *isnull;
	import->coercing = true;
	if (!import->careful)
	{
		*value = ExecEvalExpr(expr, econtext, isnull);
		import->coercing = false;
		return true;
	}

	poser_savepoint_set(&savepoint);
	PG_TRY();
	{
		*value = ExecEvalExpr(expr, econtext, isnull);
		poser_savepoint_release(&savepoint);
	}
	PG_CATCH();
	{
		*error = poser_import_catch(import, &savepoint);
		result = false;
	}
	PG_END_TRY();
	import->coercing = false;
	return result;
}

/* Get ready for rows to be added. */
static void
begin_rows(PoserImport *import)
{
	MemoryContext old_context = MemoryContextSwitchTo(import->context);
	bool hashable = true;

	if (import->row_desc == NULL)
	{
		TupleDesc desc = CreateTemplateTupleDesc(1 + import->ncolumns + import->nextra);

		TupleDescInitEntry(desc, ROW_NUMBER + 1, "row", INT8OID, -1, 0);
		for (int i = 0; i < import->ncolumns; i++)
		{
			PoserImportColumn *column = &import->columns[i];

			TupleDescInitEntry(desc, ROW_COLUMN(i) + 1, psprintf("c%d", i + 1), column->type, column->typmod, 0);
			TupleDescInitEntryCollation(desc, ROW_COLUMN(i) + 1, column->collation);
		}
		for (int i = 0; i < import->nextra; i++)
			TupleDescInitEntry(desc, ROW_COLUMN(import->ncolumns + i) + 1, psprintf("x%d", i + 1),
							   import->extra[i], -1, 0);
		TupleDescFinalize(desc);
		import->row_desc = BlessTupleDesc(desc);
		import->rows.md.name = "poser_row";
		import->rows.md.enrtype = ENR_NAMED_TUPLESTORE;
		import->rows.md.tupdesc = import->row_desc;
		if (SPI_register_relation(&import->rows) != SPI_OK_REL_REGISTER)
			elog(ERROR, "could not register the rows of an import");
	}

	if (import->rows.reldata != NULL)
		tuplestore_end(import->rows.reldata);
	if (import->hashes != NULL)
		tuplesort_end(import->hashes);
	import->rows.reldata = tuplestore_begin_heap(false, false, work_mem);
	import->nrows = 0;
	poser_import_forget_problems(import);
	if (import->rejects != NULL)
		tuplestore_clear(import->rejects);
	for (int i = 0; i < import->nkeys; i++)
		hashable = hashable && import->columns[i].hash != NULL;
	import->hashes = hashable ? tuplesort_begin_datum(INT8OID, Int8LessOperator, InvalidOid, false,
													  work_mem, NULL, TUPLESORT_NONE)
							  : NULL;
	MemoryContextSwitchTo(old_context);
}

/* Add a row, whose key has no nulls. */
void
poser_import_add_row(PoserImport *import, Datum *values, bool *nulls)
{
	tuplestore_putvalues(import->rows.reldata, import->row_desc, values, nulls);
	import->nrows++;
	if (import->hashes != NULL)
	{
		uint64 hash = 0;

		for (int i = 0; i < import->nkeys; i++)
			hash = hash_combine64(hash, DatumGetUInt64(FunctionCall2Coll(import->columns[i].hash,
																		 import->columns[i].collation,
																		 values[ROW_COLUMN(i)],
																		 UInt64GetDatum(0))));
		tuplesort_putdatum(import->hashes, UInt64GetDatum(hash), false);
	}
}

/*
 * Which numbers of a sort occur twice?  "twice" gets the first of them, up to
 * "limit", and "total" how many they are.  Returns how many were put there.
 */
static int
find_twice(Tuplesortstate *sort, int64 *twice, int limit, int64 *total)
{
	int n = 0;
	bool before = false;
	bool reported = false;
	int64 last = 0;
	Datum value;
	bool isnull;

	*total = 0;
	tuplesort_performsort(sort);
	while (tuplesort_getdatum(sort, true, false, &value, &isnull, NULL))
	{
		CHECK_FOR_INTERRUPTS();
		if (before && DatumGetInt64(value) == last)
		{
			if (!reported)
			{
				(*total)++;
				if (n < limit)
					twice[n++] = last;
			}
			reported = true;
		}
		else
			reported = false;
		before = true;
		last = DatumGetInt64(value);
	}
	return n;
}

static void
append_key(StringInfo sql, PoserImport *import)
{
	for (int i = 0; i < import->nkeys; i++)
		appendStringInfo(sql, "%sc%d", i > 0 ? ", " : "", i + 1);
}

/* Note that the key of a row occurs several times.  The problem stands for "noted" rows of this key. */
static void
note_duplicate(PoserImport *import, int64 row, int64 noted, int64 times, const Datum *values, const bool *nulls)
{
	PoserImportProblem problem = {
		.row = row,
		.nrows = noted,
		.sqlstate = ERRCODE_UNIQUE_VIOLATION,
		.who = shown_key(import, values, nulls, false),
		.reason = psprintf("occurs " INT64_FORMAT " times", times),
		.kind = "duplicate",
		.title = "the key occurs more than once"};

	poser_import_problem(import, &problem);
}

/* Take a row (row, number of rows, key) whose key is that of others, too. */
static bool
receive_duplicate(TupleTableSlot *slot, DestReceiver *self)
{
	PoserImport *import = ((PoserImportReceiver *) self)->import;
	MemoryContext old_context = MemoryContextSwitchTo(import->row_context);

	CHECK_FOR_INTERRUPTS();
	slot_getallattrs(slot);
	note_duplicate(import, DatumGetInt64(slot->tts_values[0]), 1, DatumGetInt64(slot->tts_values[1]),
				   slot->tts_values + 2, slot->tts_isnull + 2);
	MemoryContextSwitchTo(old_context);
	MemoryContextReset(import->row_context);
	return true;
}

/*
 * All rows have been added: note those whose keys occur more than once as
 * problems.
 *
 * That the keys' hashes are all different is quickly seen.  If they are not,
 * then a query says whether it is the keys.
 */
void
poser_import_check_keys(PoserImport *import)
{
	int64 total;
	int64 more = 0;
	StringInfoData sql;

	import->rows.md.enrtuples = import->nrows;
	if (import->hashes != NULL)
	{
		(void) find_twice(import->hashes, NULL, 0, &total);
		tuplesort_end(import->hashes);
		import->hashes = NULL;
		if (total == 0)
			return;
	}

	/* who wants all problems wants them of all rows */
	initStringInfo(&sql);
	if (import->verdicts != NULL)
	{
		appendStringInfoString(&sql, "SELECT r.row, r.n, ");
		append_key(&sql, import);
		appendStringInfoString(&sql, " FROM (SELECT *, pg_catalog.count(*) OVER (PARTITION BY ");
		append_key(&sql, import);
		appendStringInfoString(&sql, ") AS n FROM poser_row) AS r WHERE r.n OPERATOR(pg_catalog.>) 1");
		poser_import_execute(import, sql.data, poser_import_receiver(import, receive_duplicate), 0, NULL, NULL);
		return;
	}
	appendStringInfoString(&sql,
						   "SELECT pg_catalog.sum(pg_catalog.count(*)) OVER ()::pg_catalog.int8,"
						   " pg_catalog.min(r.row), pg_catalog.count(*), ");
	append_key(&sql, import);
	appendStringInfoString(&sql, " FROM poser_row AS r GROUP BY ");
	append_key(&sql, import);
	appendStringInfo(&sql,
					 " HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 1"
					 " ORDER BY pg_catalog.min(r.row) LIMIT %d",
					 POSER_IMPORT_NAMED);
	poser_import_execute(import, sql.data, NULL, 0, NULL, NULL);

	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple tuple = SPI_tuptable->vals[i];
		TupleDesc desc = SPI_tuptable->tupdesc;
		Datum values[INDEX_MAX_KEYS];
		bool nulls[INDEX_MAX_KEYS];
		bool isnull;
		int64 row = DatumGetInt64(SPI_getbinval(tuple, desc, 2, &isnull));
		int64 times = DatumGetInt64(SPI_getbinval(tuple, desc, 3, &isnull));

		for (int j = 0; j < import->nkeys; j++)
			values[j] = SPI_getbinval(tuple, desc, 4 + j, &nulls[j]);
		note_duplicate(import, row, times, times, values, nulls);
		if (i == 0)
			more = DatumGetInt64(SPI_getbinval(tuple, desc, 1, &isnull));
		more -= times;
	}
	/* those that were not fetched are problems as well */
	if (more > 0)
		poser_import_more_problems(import, more);
	SPI_freetuptable(SPI_tuptable);
}

/* Take a row that cannot be read, if somebody wants it. */
static void
reject_row(PoserImport *import, TupleTableSlot *slot, const PoserImportProblem *problem)
{
	Datum values[4] = {Int64GetDatum(problem->row), CStringGetTextDatum(problem_text(problem))};
	bool nulls[4] = {false, false};

	/* its values as they came are only there when reading with care */
	if (import->rejects == NULL || !import->careful)
		return;
	values[2] = slot_getattr(slot, import->ncolumns + 1, &nulls[2]);
	values[3] = slot_getattr(slot, import->ncolumns + 2, &nulls[3]);
	tuplestore_putvalues(import->rejects, import->reject_desc, values, nulls);
}

/* Take a row of the source. */
static bool
receive_source_row(TupleTableSlot *slot, DestReceiver *self)
{
	PoserImport *import = ((PoserImportReceiver *) self)->import;
	MemoryContext old_context = MemoryContextSwitchTo(import->row_context);
	int64 row = import->done + 1;
	Datum *values = palloc(sizeof(Datum) * (1 + import->ncolumns));
	bool *nulls = palloc(sizeof(bool) * (1 + import->ncolumns));
	PoserImportProblem problem = {.row = row, .nrows = 1};

	slot_getallattrs(slot);
	values[ROW_NUMBER] = Int64GetDatum(row);
	nulls[ROW_NUMBER] = false;
	for (int i = 0; i < import->ncolumns && problem.reason == NULL; i++)
	{
		PoserImportColumn *column = &import->columns[i];
		Datum value = slot->tts_values[i];
		bool isnull = slot->tts_isnull[i];
		ErrorData *error = NULL;

		if (column->coerce != NULL &&
			!poser_import_evaluate(import, column->coerce, &value, &isnull, &error))
		{
			problem.who = shown_key(import, slot->tts_values, slot->tts_isnull, true);
			poser_import_describe(import, &problem, column->label, error);
		}
		else if (isnull && i < import->nkeys)
		{
			problem.who = psprintf("Row " INT64_FORMAT, row);
			problem.columns = poser_import_column(import, i);
			problem.reason = problem.kind = "the key is null";
			problem.sqlstate = ERRCODE_NOT_NULL_VIOLATION;
		}
		values[ROW_COLUMN(i)] = poser_import_flatten(column, value, isnull || problem.reason != NULL);
		nulls[ROW_COLUMN(i)] = isnull;
	}
	if (problem.reason == NULL)
		poser_import_add_row(import, values, nulls);
	else
	{
		poser_import_problem(import, &problem);
		reject_row(import, slot, &problem);
	}
	MemoryContextSwitchTo(old_context);
	MemoryContextReset(import->row_context);
	ResetPerTupleExprContext(import->estate);
	poser_import_count(import);
	return true;
}

static void
read_source(PoserImport *import)
{
	StringInfoData sql;

	poser_import_progress(import, "reading", 0);
	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	append_names(&sql, import, "s.");
	if (import->rejects != NULL && import->careful)
	{
		appendStringInfoString(&sql, ", ");
		poser_import_append_object(&sql, import, 0, import->nkeys, NULL, "s.", true);
		appendStringInfoString(&sql, ", ");
		poser_import_append_object(&sql, import, import->nkeys, import->ncolumns, NULL, "s.", true);
	}
	appendStringInfo(&sql, " FROM %s AS s", import->source_name);
	poser_import_execute(import, sql.data, poser_import_receiver(import, receive_source_row), 0, NULL, NULL);
	poser_import_check_keys(import);
}

/*
 * Read the rows: those of the source, unless the caller has something else.
 * What is wrong with them are problems afterwards.
 */
void
poser_import_read(PoserImport *import)
{
	PoserSavepoint savepoint;
	volatile bool again = false;

	if (import->read == NULL)
		import->read = read_source;
	import->careful = import->coercing = import->writing = false;
	/* the store must belong to the resource owner that will read it */
	begin_rows(import);
	if (!import->coerces)
		import->read(import);
	else
	{
		poser_savepoint_set(&savepoint);
		PG_TRY();
		{
			import->read(import);
			poser_savepoint_release(&savepoint);
		}
		PG_CATCH();
		{
			/* it might be an error of the source's own, which then comes again */
			FreeErrorData(poser_import_catch(import, &savepoint));
			import->coercing = false;
			again = true;
		}
		PG_END_TRY();
	}
	/* who wants the rows that cannot be read gets them only with care */
	again = again || (import->rejects != NULL && import->nproblems > 0);
	if (again)
	{
		/* what it has sorted on disk has been rolled back */
		import->hashes = NULL;
		begin_rows(import);
		import->careful = true;
		import->read(import);
		import->careful = false;
	}
}

/*
 * Comparing
 */

/* Are two values of a column the same? */
bool
poser_import_same(const PoserImportColumn *column, Datum value, bool isnull, Datum other, bool other_isnull)
{
	if (isnull || other_isnull)
		return isnull == other_isnull;
	return datum_image_eq(value, other, column->byval, column->len);
}

/* What an import does with a row. */
static PoserImportOperation
judge(PoserImport *import, TupleTableSlot *slot, uint8 *columns)
{
	const int there = import->row_desc->natts;
	PoserImportOperation result = POSER_IMPORT_UNCHANGED;

	if (slot->tts_isnull[ROW_NUMBER])
		return POSER_IMPORT_DELETE;
	if (slot->tts_isnull[there])
	{
		memset(columns, 0xFF, POSER_IMPORT_BYTES(import));
		return POSER_IMPORT_CREATE;
	}
	for (int i = import->nkeys; i < import->ncolumns; i++)
		if (!poser_import_same(&import->columns[i],
							   slot->tts_values[ROW_COLUMN(i)], slot->tts_isnull[ROW_COLUMN(i)],
							   slot->tts_values[there + 1 + i], slot->tts_isnull[there + 1 + i]))
		{
			POSER_IMPORT_ADD(columns, i);
			result = POSER_IMPORT_UPDATE;
		}
	return result;
}

/* The order in which they are done. */
static char
rank(PoserImport *import, PoserImportOperation operation)
{
	if (import->references_itself && operation <= POSER_IMPORT_CREATE)
		return POSER_IMPORT_CREATE - operation;
	return operation;
}

static bool
is_wanted(PoserImport *import, PoserImportOperation operation)
{
	switch (operation)
	{
		case POSER_IMPORT_CREATE:
			return import->creates;
		case POSER_IMPORT_UPDATE:
			return import->updates;
		case POSER_IMPORT_DELETE:
			return import->deletes || import->judge != judge;
		default:
			return true;
	}
}

/* Take a row of the comparison. */
static bool
receive_compared_row(TupleTableSlot *slot, DestReceiver *self)
{
	PoserImport *import = ((PoserImportReceiver *) self)->import;
	const int there = import->row_desc->natts;
	MemoryContext old_context = MemoryContextSwitchTo(import->row_context);
	const int tag_size = VARHDRSZ + 1 + 2 * POSER_IMPORT_BYTES(import);
	bytea *tag = palloc0(tag_size);
	char *mark = VARDATA(tag);
	PoserImportOperation operation;

	slot_getallattrs(slot);
	SET_VARSIZE(tag, tag_size);
	operation = import->judge(import, slot, (uint8 *) mark + 1);
	mark[0] = rank(import, operation);
	if (!import->unique && !slot->tts_isnull[ROW_NUMBER] && !slot->tts_isnull[there])
		tuplesort_putdatum(import->matches, slot->tts_values[ROW_NUMBER], false);

	if (is_wanted(import, operation))
	{
		import->found[operation]++;
		if (operation != POSER_IMPORT_UNCHANGED || import->judge != judge || import->rejects != NULL)
		{
			TupleTableSlot *change = import->change_slot;

			ExecClearTuple(change);
			change->tts_values[CHANGE_TAG] = PointerGetDatum(tag);
			change->tts_isnull[CHANGE_TAG] = false;
			change->tts_values[CHANGE_ROW] = slot->tts_values[ROW_NUMBER];
			change->tts_isnull[CHANGE_ROW] = slot->tts_isnull[ROW_NUMBER];
			for (int i = 0; i < import->ncolumns; i++)
			{
				int from = slot->tts_isnull[ROW_NUMBER] ? there + 1 + i : ROW_COLUMN(i);

				/* of a row that is only there, the new values are none, but for its key */
				change->tts_isnull[CHANGE_NEW(i)] = slot->tts_isnull[from] ||
													(slot->tts_isnull[ROW_NUMBER] && i >= import->nkeys);
				change->tts_values[CHANGE_NEW(i)] =
					poser_import_flatten(&import->columns[i], slot->tts_values[from], change->tts_isnull[CHANGE_NEW(i)]);
				change->tts_isnull[CHANGE_OLD(import, i)] = slot->tts_isnull[there + 1 + i];
				change->tts_values[CHANGE_OLD(import, i)] =
					poser_import_flatten(&import->columns[i], slot->tts_values[there + 1 + i],
										 slot->tts_isnull[there + 1 + i]);
			}
			ExecStoreVirtualTuple(change);
			tuplesort_puttupleslot(import->sort, change);
			ExecClearTuple(change);
		}
	}
	MemoryContextSwitchTo(old_context);
	MemoryContextReset(import->row_context);
	poser_import_count(import);
	return true;
}

/* Note the rows that more than one row of the target matches. */
static void
check_matches(PoserImport *import)
{
	/* if rows of a batch are to be marked, more of them are named */
	int limit = import->verdicts != NULL ? POSER_IMPORT_TOLD_APART : POSER_IMPORT_NAMED;
	int64 *twice = palloc(sizeof(int64) * limit);
	Datum *rows = palloc(sizeof(Datum) * limit);
	int64 total;
	int n = find_twice(import->matches, twice, limit, &total);
	Oid argtypes[] = {INT8ARRAYOID};
	Datum args[1];
	StringInfoData sql;

	tuplesort_end(import->matches);
	import->matches = NULL;
	if (n == 0)
		return;
	for (int i = 0; i < n; i++)
		rows[i] = Int64GetDatum(twice[i]);
	args[0] = PointerGetDatum(construct_array(rows, n, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT r.row, ");
	append_list(&sql, import, 0, "r.c");
	appendStringInfoString(&sql, " FROM poser_row AS r WHERE r.row OPERATOR(pg_catalog.=) ANY ($1) ORDER BY r.row");
	poser_import_execute(import, sql.data, NULL, 1, argtypes, args);
	if (SPI_processed != n)
		elog(ERROR, "rows of an import are missing");
	for (int i = 0; i < n; i++)
	{
		Datum values[INDEX_MAX_KEYS];
		bool nulls[INDEX_MAX_KEYS];
		PoserImportProblem problem = {
			.row = twice[i],
			.nrows = 1,
			.sqlstate = ERRCODE_CARDINALITY_VIOLATION,
			.reason = psprintf("matches more than one row of \"%s\"", import->target_label),
			.kind = "matches"};

		for (int j = 0; j < import->nkeys; j++)
			values[j] = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, j + 2, &nulls[j]);
		problem.who = shown_key(import, values, nulls, false);
		poser_import_problem(import, &problem);
	}
	SPI_freetuptable(SPI_tuptable);
	if (import->verdicts == NULL)
		poser_import_more_problems(import, total - n);
	else
		import->at_least = total > n;
}

/*
 * Compare the rows with the target.  What there is to do is in import->sort
 * afterwards, and counted in import->found.
 */
void
poser_import_compare(PoserImport *import)
{
	MemoryContext old_context = MemoryContextSwitchTo(import->context);
	AttrNumber sort_columns[] = {CHANGE_TAG + 1, CHANGE_ROW + 1};
	Oid sort_operators[] = {ByteaLessOperator, Int8LessOperator};
	Oid sort_collations[] = {InvalidOid, InvalidOid};
	bool nulls_first[] = {false, false};
	StringInfoData sql;

	if (import->judge == NULL)
		import->judge = judge;
	if (import->change_desc == NULL)
	{
		TupleDesc desc = CreateTemplateTupleDesc(2 + 2 * import->ncolumns);

		TupleDescInitEntry(desc, CHANGE_TAG + 1, "tag", BYTEAOID, -1, 0);
		TupleDescInitEntry(desc, CHANGE_ROW + 1, "row", INT8OID, -1, 0);
		for (int i = 0; i < import->ncolumns; i++)
		{
			PoserImportColumn *column = &import->columns[i];
			AttrNumber new = CHANGE_NEW(i) + 1;
			AttrNumber old = CHANGE_OLD(import, i) + 1;

			TupleDescInitEntry(desc, new, psprintf("c%d", i + 1), column->type, column->typmod, 0);
			TupleDescInitEntryCollation(desc, new, column->collation);
			TupleDescInitEntry(desc, old, psprintf("o%d", i + 1), column->type, column->typmod, 0);
			TupleDescInitEntryCollation(desc, old, column->collation);
		}
		TupleDescFinalize(desc);
		import->change_desc = BlessTupleDesc(desc);
		import->change_slot = MakeSingleTupleTableSlot(import->change_desc, &TTSOpsVirtual);
		import->changes.md.name = "poser_change";
		import->changes.md.enrtype = ENR_NAMED_TUPLESTORE;
		import->changes.md.tupdesc = import->change_desc;
		if (SPI_register_relation(&import->changes) != SPI_OK_REL_REGISTER)
			elog(ERROR, "could not register the changes of an import");
	}
	MemoryContextSwitchTo(old_context);
	import->sort = tuplesort_begin_heap(import->change_desc, lengthof(sort_columns), sort_columns,
										sort_operators, sort_collations, nulls_first,
										work_mem, NULL, TUPLESORT_NONE);
	if (!import->unique)
		import->matches = tuplesort_begin_datum(INT8OID, Int8LessOperator, InvalidOid, false,
												work_mem, NULL, TUPLESORT_NONE);
	memset(import->found, 0, sizeof(import->found));

	poser_import_progress(import, "comparing", 0);
	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT r.*, t.there, ");
	append_list(&sql, import, 0, "t.c");
	/* only rows that are to be deleted are missed in the source */
	appendStringInfoString(&sql, " FROM poser_row AS r");
	if (import->skips_duplicates)
	{
		appendStringInfoString(&sql, " LEFT JOIN (SELECT q.row FROM (SELECT row, pg_catalog.count(*) OVER (PARTITION BY ");
		append_key(&sql, import);
		appendStringInfoString(&sql,
							   ") AS n FROM poser_row) AS q WHERE q.n OPERATOR(pg_catalog.>) 1) AS d"
							   " ON d.row OPERATOR(pg_catalog.=) r.row");
	}
	appendStringInfo(&sql, " %s JOIN (SELECT true AS there", import->deletes ? "FULL" : "LEFT");
	for (int i = 0; i < import->ncolumns; i++)
		appendStringInfo(&sql, ", t.%s AS c%d", import->columns[i].name, i + 1);
	appendStringInfo(&sql, " FROM %s AS t", import->target_name);
	for (int i = 0; import->deletes && i < import->nkeys; i++)
		appendStringInfo(&sql, " %s t.%s IS DISTINCT FROM NULL", i == 0 ? "WHERE" : "AND", import->columns[i].name);
	appendStringInfoString(&sql, ") AS t ON ");
	poser_import_append_join(&sql, import, "r", false);
	if (import->skips_duplicates)
		appendStringInfoString(&sql, " WHERE d.row IS NULL");
	if (import->judge == judge)
		poser_import_execute(import, sql.data, poser_import_receiver(import, receive_compared_row), 0, NULL, NULL);
	else
	{
		/* a batch compares values that have been text */
		int level = poser_begin_text_settings();

		poser_import_execute(import, sql.data, poser_import_receiver(import, receive_compared_row), 0, NULL, NULL);
		AtEOXact_GUC(true, level);
	}
	if (!import->unique)
		check_matches(import);
}

/*
 * Writing
 */

/* Append the condition that a row of the target has these fields. */
static void
append_has_fields(StringInfo sql, PoserImport *import, const char *fields)
{
	if (import->nkeys == import->ncolumns)
		return;
	appendStringInfoString(sql, " AND pg_catalog.record_image_eq(ROW(");
	for (int i = import->nkeys; i < import->ncolumns; i++)
		appendStringInfo(sql, "%st.%s", i > import->nkeys ? ", " : "", import->columns[i].name);
	appendStringInfoString(sql, "), ROW(");
	append_list(sql, import, import->nkeys, fields);
	appendStringInfoString(sql, "))");
}

/* The statement that writes the rows in "poser_change". */
static char *
statement(PoserImport *import, PoserImportOperation operation, const uint8 *columns)
{
	StringInfoData sql;
	const char *separator = "";

	initStringInfo(&sql);
	if (operation == POSER_IMPORT_CREATE)
	{
		StringInfoData values;

		initStringInfo(&values);
		appendStringInfo(&sql, "INSERT INTO %s (", import->target_plain);
		for (int i = 0; i < import->ncolumns; i++)
		{
			if (i >= import->nkeys && !POSER_IMPORT_HAS(columns, i))
				continue;
			appendStringInfo(&sql, "%s%s", separator, import->columns[i].name);
			appendStringInfo(&values, "%sc.c%d", separator, i + 1);
			separator = ", ";
		}
		appendStringInfo(&sql, ") OVERRIDING SYSTEM VALUE SELECT %s FROM poser_change AS c", values.data);
		return sql.data;
	}

	if (operation == POSER_IMPORT_UPDATE)
	{
		appendStringInfo(&sql, "UPDATE %s AS t SET ", import->target_name);
		for (int i = import->nkeys; i < import->ncolumns; i++)
			if (POSER_IMPORT_HAS(columns, i))
			{
				appendStringInfo(&sql, "%s%s = c.c%d", separator, import->columns[i].name, i + 1);
				separator = ", ";
			}
		appendStringInfoString(&sql, " FROM poser_change AS c WHERE ");
	}
	else
		appendStringInfo(&sql, "DELETE FROM %s AS t USING poser_change AS c WHERE ", import->target_name);
	poser_import_append_join(&sql, import, "c", true);
	append_has_fields(&sql, import, "c.o");
	return sql.data;
}

/*
 * The same for a row of a foreign table, whose wrapper may be able to hand a
 * statement with parameters over as it is.  $1, $2, ... are all columns.
 */
static SPIPlanPtr
foreign_statement(PoserImport *import, PoserImportOperation operation, const uint8 *columns, int *map)
{
	StringInfoData sql;
	Oid argtypes[MaxTupleAttributeNumber];
	int nargs = 0;
	const char *separator = "";
	SPIPlanPtr result;

	initStringInfo(&sql);
	if (operation == POSER_IMPORT_UPDATE)
	{
		appendStringInfo(&sql, "UPDATE %s SET ", import->target_name);
		for (int i = import->nkeys; i < import->ncolumns; i++)
			if (POSER_IMPORT_HAS(columns, i))
			{
				argtypes[nargs] = import->columns[i].type;
				map[nargs++] = i;
				appendStringInfo(&sql, "%s%s = $%d", separator, import->columns[i].name, nargs);
				separator = ", ";
			}
	}
	else
		appendStringInfo(&sql, "DELETE FROM %s", import->target_name);
	for (int i = 0; i < import->nkeys; i++)
	{
		argtypes[nargs] = import->columns[i].type;
		map[nargs++] = i;
		appendStringInfo(&sql, " %s %s %s $%d", i == 0 ? "WHERE" : "AND", import->columns[i].name,
						 import->columns[i].equals, nargs);
	}
	result = SPI_prepare(sql.data, nargs, argtypes);
	if (result == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	map[nargs] = -1;
	return result;
}

/* Write rows of a foreign table; returns how many. */
static int64
write_foreign(PoserImport *import, PoserImportOperation operation, const uint8 *columns)
{
	int map[MaxTupleAttributeNumber + 1];
	SPIPlanPtr plan;
	TupleTableSlot *slot;
	Datum *values;
	char *nulls;
	int64 result = 0;

	/* an own connection goes, with its plan, if a row fails */
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	plan = foreign_statement(import, operation, columns, map);
	slot = MakeSingleTupleTableSlot(import->change_desc, &TTSOpsMinimalTuple);
	values = palloc(sizeof(Datum) * import->ncolumns);
	nulls = palloc(import->ncolumns);
	tuplestore_rescan(import->changes.reldata);
	while (tuplestore_gettupleslot(import->changes.reldata, true, false, slot))
	{
		CHECK_FOR_INTERRUPTS();
		slot_getallattrs(slot);
		for (int i = 0; map[i] >= 0; i++)
		{
			values[i] = slot->tts_values[CHANGE_NEW(map[i])];
			nulls[i] = slot->tts_isnull[CHANGE_NEW(map[i])] ? 'n' : ' ';
		}
		if (SPI_execute_plan(plan, values, nulls, false, 0) < 0)
			elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(SPI_result));
		result += SPI_processed;
	}
	ExecDropSingleTupleTableSlot(slot);
	SPI_finish();
	return result;
}

/* Has the target by now a row with the key of one in "poser_change", whatever our snapshot shows? */
static bool
is_there_by_now(PoserImport *import)
{
	StringInfoData sql;
	SPIPlanPtr plan;
	bool result;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT FROM poser_change AS c JOIN %s AS t ON ", import->target_name);
	poser_import_append_join(&sql, import, "c", true);
	plan = SPI_prepare(sql.data, 0, NULL);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	if (SPI_execute_snapshot(plan, NULL, NULL, GetLatestSnapshot(), InvalidSnapshot, true, false, 1) < 0)
		elog(ERROR, "SPI_execute_snapshot failed: %s", SPI_result_code_string(SPI_result));
	result = (SPI_processed > 0);
	SPI_freetuptable(SPI_tuptable);
	SPI_freeplan(plan);
	return result;
}

static void
serialization_failure(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not serialize access due to concurrent update")));
}

/* How many of the rows in "poser_change" have these fields in the target? */
static int64
count_rows(PoserImport *import, const char *fields)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT pg_catalog.count(*) FROM poser_change AS c JOIN %s AS t ON ",
					 import->target_name);
	poser_import_append_join(&sql, import, "c", true);
	append_has_fields(&sql, import, fields);
	poser_import_execute(import, sql.data, NULL, 0, NULL, NULL);
	return result_number();
}

/*
 * Write the rows in "poser_change".  If some of them have been changed by
 * others, import->moved is set; if something else keeps them from being
 * written, it is an error.
 */
static void
write_rows(PoserImport *import, PoserImportOperation operation, const uint8 *columns, int64 nrows)
{
	int64 written;

	/* where neither an index nor our snapshot keeps rows from being made twice */
	if (operation == POSER_IMPORT_CREATE && !import->unique && IsolationUsesXactSnapshot() &&
		import->target_kind != RELKIND_FOREIGN_TABLE && is_there_by_now(import))
		serialization_failure();

	if (import->target_kind == RELKIND_FOREIGN_TABLE && operation != POSER_IMPORT_CREATE)
		written = write_foreign(import, operation, columns);
	else
	{
		import->writing = true;
		poser_import_execute(import, statement(import, operation, columns), NULL, 0, NULL, NULL);
		import->writing = false;
		written = SPI_processed;
	}
	if (written == nrows)
		return;

	if (operation != POSER_IMPORT_CREATE && import->target_kind != RELKIND_FOREIGN_TABLE)
	{
		int64 before = count_rows(import, "c.o");

		/* if it was not others, it was a foreign key's action or a trigger */
		if (import->locked && operation == POSER_IMPORT_UPDATE && count_rows(import, "c.c") == nrows)
			return;
		if (import->locked && operation == POSER_IMPORT_DELETE && before == 0)
			return;
		if (written + before < nrows)
		{
			import->moved = true;
			return;
		}
	}
	ereport(ERROR,
			(errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION),
			 errmsg("a trigger, a rule or a policy of relation \"%s\" keeps it from being written",
					import->target_label)));
}

/* Note what is wrong with the one row in "poser_change". */
static void
note_problem(PoserImport *import, ErrorData *error)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(import->change_desc, &TTSOpsMinimalTuple);
	PoserImportProblem problem = {.nrows = 1};

	tuplestore_rescan(import->changes.reldata);
	if (!tuplestore_gettupleslot(import->changes.reldata, true, false, slot))
		elog(ERROR, "row of an import is missing");
	slot_getallattrs(slot);
	if (error->sqlerrcode == ERRCODE_TRIGGERED_ACTION_EXCEPTION &&
		check_enable_rls(import->target, InvalidOid, true) == RLS_ENABLED)
		error->sqlerrcode = ERRCODE_INSUFFICIENT_PRIVILEGE;
	poser_import_describe(import, &problem, NULL, error);
	/* rows that are only in the target come last */
	problem.row = slot->tts_isnull[CHANGE_ROW] ? PG_INT64_MAX : DatumGetInt64(slot->tts_values[CHANGE_ROW]);
	problem.who = shown_key(import, slot->tts_values + CHANGE_NEW(0), slot->tts_isnull + CHANGE_NEW(0), false);
	if (slot->tts_isnull[CHANGE_ROW])
		problem.who = psprintf("%s, to be deleted", problem.who);
	poser_import_problem(import, &problem);
	import->at_least = (import->nproblems >= POSER_IMPORT_TOLD_APART);
	ExecDropSingleTupleTableSlot(slot);
}

/* Write rows behind a savepoint; returns the error if that fails, or NULL. */
static ErrorData *
try_to_write(PoserImport *import, PoserImportOperation operation, const uint8 *columns,
			 Tuplestorestate *rows, int64 nrows)
{
	ErrorData *volatile error = NULL;
	PoserSavepoint savepoint;

	import->changes.reldata = rows;
	import->changes.md.enrtuples = nrows;
	poser_savepoint_set(&savepoint);
	PG_TRY();
	{
		write_rows(import, operation, columns, nrows);
		poser_savepoint_release(&savepoint);
	}
	PG_CATCH();
	{
		error = poser_import_catch(import, &savepoint);
		import->writing = false;
	}
	PG_END_TRY();
	return error;
}

static int64 write_carefully(PoserImport *import, PoserImportOperation operation, const uint8 *columns,
							 Tuplestorestate *rows, int64 nrows, Tuplestorestate *failed);

/*
 * These rows could not be written together: write them in parts, down to the
 * single row that is the problem.  Returns how many rows have failed.
 */
static int64
write_parts(PoserImport *import, PoserImportOperation operation, const uint8 *columns,
			Tuplestorestate *rows, int64 nrows, ErrorData *error, Tuplestorestate *failed)
{
	TupleTableSlot *slot;
	int64 result = 0;
	int64 left = nrows;

	/* that somebody else has just made the row is no problem of this one */
	if (nrows == 1 && operation == POSER_IMPORT_CREATE && error->sqlerrcode == ERRCODE_UNIQUE_VIOLATION &&
		import->target_kind != RELKIND_FOREIGN_TABLE && !import->locked && is_there_by_now(import))
	{
		if (IsolationUsesXactSnapshot())
			serialization_failure();
		import->moved = true;
		return 0;
	}
	if (nrows == 1 && failed == NULL)
	{
		note_problem(import, error);
		return 1;
	}

	/* queries have read pointers of their own, the first one stays where it is */
	slot = MakeSingleTupleTableSlot(import->change_desc, &TTSOpsMinimalTuple);
	tuplestore_rescan(rows);
	if (nrows == 1)
	{
		if (tuplestore_gettupleslot(rows, true, false, slot))
			tuplestore_puttupleslot(failed, slot);
		import->at_least = (tuplestore_tuple_count(failed) >= MAX_ROWS_FAILED);
		ExecDropSingleTupleTableSlot(slot);
		return 1;
	}
	for (int part = 0; part < PARTS && left > 0; part++)
	{
		int64 n = (left + PARTS - part - 1) / (PARTS - part);
		MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "part", ALLOCSET_SMALL_SIZES);
		MemoryContext old_context = MemoryContextSwitchTo(context);
		Tuplestorestate *store = tuplestore_begin_heap(false, false, work_mem);

		left -= n;
		for (int64 i = 0; i < n && tuplestore_gettupleslot(rows, true, false, slot); i++)
			tuplestore_puttupleslot(store, slot);
		ExecClearTuple(slot);
		result += write_carefully(import, operation, columns, store, n, failed);
		tuplestore_end(store);
		MemoryContextSwitchTo(old_context);
		MemoryContextDelete(context);
	}
	ExecDropSingleTupleTableSlot(slot);
	return result;
}

/*
 * Write rows or, if that fails, parts of them.  A row that cannot be written is
 * noted as a problem, or put into "failed" if that is not NULL.  Returns how
 * many rows have failed.
 *
 * If import->at_least is set afterwards, enough of them have been found, and the
 * other rows have not been tried.
 */
static int64
write_carefully(PoserImport *import, PoserImportOperation operation, const uint8 *columns,
				Tuplestorestate *rows, int64 nrows, Tuplestorestate *failed)
{
	ErrorData *error;
	int64 result;

	if (import->moved || import->at_least)
		return 0;
	CHECK_FOR_INTERRUPTS();
	error = try_to_write(import, operation, columns, rows, nrows);
	if (error == NULL)
		return 0;
	result = write_parts(import, operation, columns, rows, nrows, error, failed);
	FreeErrorData(error);
	return result;
}

/*
 * The same for a table that references itself: a row that fails may only have
 * to wait for another one, so go on with those that failed as long as that
 * leads to anything.
 */
static void
write_patiently(PoserImport *import, PoserImportOperation operation, const uint8 *columns,
				Tuplestorestate *rows, int64 nrows)
{
	Tuplestorestate *first = rows;
	ErrorData *error = try_to_write(import, operation, columns, rows, nrows);
	int64 nfailed;

	if (error == NULL)
		return;
	for (;;)
	{
		Tuplestorestate *failed = tuplestore_begin_heap(false, false, work_mem);

		if (rows == first)
			nfailed = write_parts(import, operation, columns, rows, nrows, error, failed);
		else
		{
			nfailed = write_carefully(import, operation, columns, rows, nrows, failed);
			tuplestore_end(rows);
		}
		rows = failed;
		if (import->moved || import->at_least || nfailed == 0 || nfailed == nrows)
			break;
		nrows = nfailed;
	}
	if (import->at_least)
	{
		/*
		 * It is not known which of the rows only wait for others.  But the error of
		 * all rows together is not about these, so it is the one to be raised.
		 */
		PoserImportProblem problem = {.row = PG_INT64_MAX, .nrows = 1, .who = "A row"};

		poser_import_describe(import, &problem, NULL, error);
		problem.detail = error->detail;
		poser_import_problem(import, &problem);
	}
	else if (nfailed > 0)
		(void) write_carefully(import, operation, columns, rows, nfailed, NULL);
	tuplestore_end(rows);
	FreeErrorData(error);
}

/* Write what is gathered to the target; other operations than its are nothing to do. */
void
poser_import_write_rows(PoserImport *import, PoserImportOperation operation, const uint8 *columns, int64 nrows)
{
	if (operation > POSER_IMPORT_CREATE)
		return;
	if (import->careful && import->references_itself)
		write_patiently(import, operation, columns, import->changes.reldata, nrows);
	else if (import->careful)
		(void) write_carefully(import, operation, columns, import->changes.reldata, nrows, NULL);
	else
		write_rows(import, operation, columns, nrows);
}

/* Hand the rows that have been gathered to the writer. */
static void
write_gathered(PoserImport *import, bytea *tag, Tuplestorestate *rows, int64 nrows)
{
	static const char *const phases[POSER_IMPORT_OPERATIONS] = {"deleting", "updating", "creating"};
	PoserImportOperation operation = rank(import, VARDATA_ANY(tag)[0]);

	if (import->moved || import->at_least)
		return;
	poser_import_progress(import, phases[operation] != NULL ? phases[operation] : "comparing", nrows);
	import->changes.reldata = rows;
	import->changes.md.enrtuples = nrows;
	import->write(import, operation, (uint8 *) VARDATA_ANY(tag) + 1, nrows);
	import->changes.reldata = NULL;
}

/* Do what the comparison has found, group by group. */
void
poser_import_write(PoserImport *import)
{
	MemoryContext context = AllocSetContextCreate(import->context, "group", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old_context = MemoryContextSwitchTo(context);
	TupleTableSlot *slot;
	Tuplestorestate *rows = NULL;
	bytea *tag = NULL;
	int64 n = 0;

	if (import->write == NULL)
		import->write = poser_import_write_rows;
	MemoryContextSwitchTo(import->context);
	slot = MakeSingleTupleTableSlot(import->change_desc, &TTSOpsMinimalTuple);
	MemoryContextSwitchTo(context);
	tuplesort_performsort(import->sort);
	while (!import->moved && !import->at_least &&
		   tuplesort_gettupleslot(import->sort, true, false, slot, NULL))
	{
		bool isnull;
		bytea *next = DatumGetByteaPP(slot_getattr(slot, CHANGE_TAG + 1, &isnull));

		CHECK_FOR_INTERRUPTS();
		if (rows != NULL &&
			((n >= MAX_ROWS_WRITTEN && !import->references_itself) ||
			 memcmp(VARDATA_ANY(tag), VARDATA_ANY(next), VARSIZE_ANY_EXHDR(tag)) != 0))
		{
			write_gathered(import, tag, rows, n);
			tuplestore_end(rows);
			rows = NULL;
			MemoryContextReset(context);
		}
		if (rows == NULL)
		{
			n = 0;
			tag = (bytea *) DatumGetPointer(datumCopy(PointerGetDatum(next), false, -1));
			rows = tuplestore_begin_heap(false, false, work_mem);
		}
		tuplestore_puttupleslot(rows, slot);
		n++;
	}
	if (rows != NULL)
	{
		write_gathered(import, tag, rows, n);
		tuplestore_end(rows);
	}
	ExecDropSingleTupleTableSlot(slot);
	tuplesort_end(import->sort);
	import->sort = NULL;
	MemoryContextSwitchTo(old_context);
	MemoryContextDelete(context);
}

/*
 * Compare and write.  If others have changed rows between the two, or we and they
 * wait for each other, both are done again; if rows cannot be written, then carefully.  Returns false, with
 * nothing done, if there are problems.  Without "keep" it is only a try.
 */
bool
poser_import_apply(PoserImport *import, bool keep)
{
	MemoryContext old_context = CurrentMemoryContext;
	volatile int attempt = 1;

	import->careful = false;
	for (;;)
	{
		MemoryContext context = AllocSetContextCreate(import->context, "attempt", ALLOCSET_DEFAULT_SIZES);
		ErrorData *volatile error = NULL;
		volatile bool done = false;
		PoserSavepoint savepoint;

		import->moved = false;
		poser_import_forget_problems(import);
		MemoryContextSwitchTo(import->context);
		poser_savepoint_set(&savepoint);
		MemoryContextSwitchTo(context);
		PG_TRY();
		{
			/* who waits for rows that we have written must not be waited for */
			lock_target(import, !import->unique ||
									(attempt > ATTEMPTS_WITHOUT_LOCK && !import->written_before));
			poser_import_compare(import);
			if (import->check != NULL)
				import->check(import);
			if (import->nproblems == 0)
				poser_import_write(import);
			done = !import->moved && import->nproblems == 0;
			if (done && keep)
				poser_savepoint_release(&savepoint);
			else
				poser_savepoint_rollback(&savepoint);
		}
		PG_CATCH();
		{
			error = poser_savepoint_catch_any(&savepoint);
		}
		PG_END_TRY();
		/* what it has sorted on disk has gone with its resource owner */
		MemoryContextSwitchTo(old_context);
		MemoryContextDelete(context);
		import->sort = import->matches = NULL;

		if (error != NULL && error->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED &&
			!IsolationUsesXactSnapshot() && attempt < MAX_ATTEMPTS)
			import->moved = true;
		else if (error != NULL)
		{
			if (import->careful || !is_of_a_row(import, error))
				ReThrowError(error);
			FreeErrorData(error);
			import->writing = false;
			import->careful = true;
			continue;
		}
		if (!import->moved)
			return done;
		if (import->locked && error == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
					 errmsg("triggers or foreign keys of relation \"%s\" change rows that are to be imported",
							import->target_label)));
		if (attempt++ == MAX_ATTEMPTS)
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("rows of relation \"%s\" are changed by others all the time",
							import->target_label)));
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * The functions
 */

/* The arguments of an import that limit it. */
enum
{
	ARG_SOURCE,
	ARG_TARGET,
	ARG_KEY,
	ARG_FIELDS,
	ARG_CREATES,
	ARG_UPDATES,
	ARG_DELETES,
	ARG_MAX_CREATE,
	ARG_MAX_UPDATE,
	ARG_MAX_DELETE,
	ARG_MAX_TOTAL,
	ARG_DIFF_DELETES = ARG_CREATES
};

static const char *const argument_names[] = {
	"source", "target", "key", "fields", "creates", "updates", "deletes",
	"max_create", "max_update", "max_delete", "max_total"};

/* Raise an error if an argument is null. */
void
poser_import_argument(bool is_null, const char *name)
{
	if (is_null)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", name)));
}

/* Raise an error if there is more to do than the caller allows. */
static void
check_limits(PoserImport *import)
{
	static const char *const verbs[] = {"create", "update", "delete", "change"};
	int64 numbers[] = {import->found[POSER_IMPORT_CREATE], import->found[POSER_IMPORT_UPDATE],
					   import->found[POSER_IMPORT_DELETE], 0};

	numbers[3] = numbers[0] + numbers[1] + numbers[2];
	for (int i = 0; i < lengthof(numbers); i++)
		if (numbers[i] > import->limits[i])
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("import into \"%s\" would %s " INT64_FORMAT " %s, more than %s " INT64_FORMAT,
							import->target_label, verbs[i], numbers[i], numbers[i] == 1 ? "row" : "rows",
							argument_names[ARG_MAX_CREATE + i], import->limits[i]),
					 errhint("Nothing has been changed.")));
}

/*
 * poser_import(source regclass, target regclass, key text[], fields text[],
 *				creates boolean, updates boolean, deletes boolean,
 *				max_create bigint, max_update bigint, max_delete bigint, max_total bigint)
 * returns table (created bigint, updated bigint, deleted bigint, unchanged bigint)
 */
Datum
poser_import(PG_FUNCTION_ARGS)
{
	PoserImport *import;
	Datum values[4];
	bool nulls[4] = {false, false, false, false};
	int64 limits[4];

	for (int i = 0; i < lengthof(argument_names); i++)
		if (i != ARG_KEY && i != ARG_FIELDS && i < ARG_MAX_CREATE)
			poser_import_argument(PG_ARGISNULL(i), argument_names[i]);
	for (int i = 0; i < lengthof(limits); i++)
	{
		limits[i] = PG_ARGISNULL(ARG_MAX_CREATE + i) ? PG_INT64_MAX : PG_GETARG_INT64(ARG_MAX_CREATE + i);
		if (limits[i] < 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("%s must not be negative", argument_names[ARG_MAX_CREATE + i])));
	}
	PreventCommandIfReadOnly("poser_import()");
	InitMaterializedSRF(fcinfo, 0);

	(void) poser_relation_name(PG_GETARG_OID(ARG_SOURCE));
	import = poser_import_begin("poser_import", PG_GETARG_OID(ARG_SOURCE), PG_GETARG_OID(ARG_TARGET),
								PG_ARGISNULL(ARG_KEY) ? (Datum) 0 : PG_GETARG_DATUM(ARG_KEY),
								PG_ARGISNULL(ARG_FIELDS) ? (Datum) 0 : PG_GETARG_DATUM(ARG_FIELDS), true);
	import->creates = PG_GETARG_BOOL(ARG_CREATES);
	import->updates = PG_GETARG_BOOL(ARG_UPDATES);
	import->deletes = PG_GETARG_BOOL(ARG_DELETES);
	memcpy(import->limits, limits, sizeof(limits));
	import->check = check_limits;
	PG_TRY();
	{
		poser_import_read(import);
		poser_import_raise(import);
		if (!poser_import_apply(import, true))
			poser_import_raise(import);
	}
	PG_FINALLY();
	{
		poser_import_restore_activity(import);
	}
	PG_END_TRY();

	values[0] = Int64GetDatum(import->found[POSER_IMPORT_CREATE]);
	values[1] = Int64GetDatum(import->found[POSER_IMPORT_UPDATE]);
	values[2] = Int64GetDatum(import->found[POSER_IMPORT_DELETE]);
	values[3] = Int64GetDatum(import->found[POSER_IMPORT_UNCHANGED]);
	poser_import_end(import);
	tuplestore_putvalues(((ReturnSetInfo *) fcinfo->resultinfo)->setResult,
						 ((ReturnSetInfo *) fcinfo->resultinfo)->setDesc, values, nulls);
	return (Datum) 0;
}

/* Give the rows in "poser_change" to the caller. */
static void
write_diff(PoserImport *import, PoserImportOperation operation, const uint8 *columns, int64 nrows)
{
	static const char *const names[] = {"delete", "update", "create"};
	ReturnSetInfo *rsinfo = import->rsinfo;
	DestReceiver *dest;
	StringInfoData sql;

	if (operation > POSER_IMPORT_CREATE)
		return;
	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT '%s'::pg_catalog.text, ", names[operation]);
	poser_import_append_object(&sql, import, 0, import->nkeys, NULL, "c.c", false);
	appendStringInfoString(&sql, ", ");
	if (operation == POSER_IMPORT_CREATE)
		appendStringInfoString(&sql, "NULL::pg_catalog.jsonb");
	else
		poser_import_append_object(&sql, import, import->nkeys, import->ncolumns,
								   operation == POSER_IMPORT_UPDATE ? columns : NULL, "c.o", false);
	appendStringInfoString(&sql, ", ");
	if (operation == POSER_IMPORT_DELETE)
		appendStringInfoString(&sql, "NULL::pg_catalog.jsonb");
	else
		poser_import_append_object(&sql, import, import->nkeys, import->ncolumns,
								   operation == POSER_IMPORT_UPDATE ? columns : NULL, "c.c", false);
	appendStringInfoString(&sql, " FROM poser_change AS c");

	dest = CreateDestReceiver(DestTuplestore);
	SetTuplestoreDestReceiverParams(dest, rsinfo->setResult, rsinfo->econtext->ecxt_per_query_memory,
									false, rsinfo->setDesc,
									"result of the query does not match the function's result type");
	poser_import_execute(import, sql.data, dest, 0, NULL, NULL);
	dest->rDestroy(dest);
}

/*
 * poser_import_diff(source regclass, target regclass, key text[], fields text[], deletes boolean)
 * returns table (operation text, key jsonb, old jsonb, new jsonb)
 */
Datum
poser_import_diff(PG_FUNCTION_ARGS)
{
	PoserImport *import;

	poser_import_argument(PG_ARGISNULL(ARG_SOURCE), "source");
	poser_import_argument(PG_ARGISNULL(ARG_TARGET), "target");
	poser_import_argument(PG_ARGISNULL(ARG_DIFF_DELETES), "deletes");
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);

	(void) poser_relation_name(PG_GETARG_OID(ARG_SOURCE));
	import = poser_import_begin("poser_import_diff", PG_GETARG_OID(ARG_SOURCE), PG_GETARG_OID(ARG_TARGET),
								PG_ARGISNULL(ARG_KEY) ? (Datum) 0 : PG_GETARG_DATUM(ARG_KEY),
								PG_ARGISNULL(ARG_FIELDS) ? (Datum) 0 : PG_GETARG_DATUM(ARG_FIELDS), false);
	import->deletes = PG_GETARG_BOOL(ARG_DIFF_DELETES);
	import->rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	import->write = write_diff;
	PG_TRY();
	{
		poser_import_read(import);
		poser_import_raise(import);
		poser_import_compare(import);
		poser_import_raise(import);
		poser_import_write(import);
	}
	PG_FINALLY();
	{
		poser_import_restore_activity(import);
	}
	PG_END_TRY();
	poser_import_end(import);
	return (Datum) 0;
}
