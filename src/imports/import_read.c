/*
 * import_read.c
 *	  Reading the rows of an import.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "imports/import_internal.h"

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
begin_reading(PoserImport *import)
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
		poser_register_rows(&import->rows, "poser_import_row", import->row_desc, NULL, 0);
	}

	if (import->rows.reldata != NULL)
		tuplestore_end(import->rows.reldata);
	if (import->hashes != NULL)
		tuplesort_end(import->hashes);
	import->rows.reldata = tuplestore_begin_heap(false, false, work_mem);
	import->nrows = 0;
	poser_import_forget_problems(import);
	if (import->problems.rejects != NULL)
		tuplestore_clear(import->problems.rejects);
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
int
poser_import_find_twice(Tuplesortstate *sort, int64 *twice, int limit, int64 *total)
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

/* Note that the key of a row occurs several times.  The problem stands for "noted" rows of this key. */
static void
note_duplicate(PoserImport *import, int64 row, int64 noted, int64 times, const Datum *values, const bool *nulls)
{
	PoserImportProblem problem = {
		.row = row,
		.nrows = noted,
		.sqlstate = ERRCODE_UNIQUE_VIOLATION,
		.subject = poser_import_shown_key(import, values, nulls, false),
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
		(void) poser_import_find_twice(import->hashes, NULL, 0, &total);
		tuplesort_end(import->hashes);
		import->hashes = NULL;
		if (total == 0)
			return;
	}

	/* who wants all problems wants them of all rows */
	initStringInfo(&sql);
	if (import->problems.all != NULL)
	{
		appendStringInfoString(&sql, "SELECT r.row, r.n, ");
		poser_import_append_key(&sql, import);
		appendStringInfoString(&sql, " FROM (SELECT *, pg_catalog.count(*) OVER (PARTITION BY ");
		poser_import_append_key(&sql, import);
		appendStringInfoString(&sql, ") AS n FROM poser_import_row) AS r WHERE r.n OPERATOR(pg_catalog.>) 1");
		poser_import_execute(import, sql.data, poser_import_receiver(import, receive_duplicate), 0, NULL, NULL);
		return;
	}
	appendStringInfoString(&sql,
						   "SELECT pg_catalog.sum(pg_catalog.count(*)) OVER ()::pg_catalog.int8,"
						   " pg_catalog.min(r.row), pg_catalog.count(*), ");
	poser_import_append_key(&sql, import);
	appendStringInfoString(&sql, " FROM poser_import_row AS r GROUP BY ");
	poser_import_append_key(&sql, import);
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
	Datum values[4] = {Int64GetDatum(problem->row), CStringGetTextDatum(poser_import_problem_text(problem))};
	bool nulls[4] = {false, false};

	/* its values as they came are only there when reading with care */
	if (import->problems.rejects == NULL || !import->careful)
		return;
	values[2] = slot_getattr(slot, import->ncolumns + 1, &nulls[2]);
	values[3] = slot_getattr(slot, import->ncolumns + 2, &nulls[3]);
	tuplestore_putvalues(import->problems.rejects, import->problems.reject_desc, values, nulls);
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
			problem.subject = poser_import_shown_key(import, slot->tts_values, slot->tts_isnull, true);
			poser_import_describe(import, &problem, column->label, error);
		}
		else if (isnull && i < import->nkeys)
		{
			problem.subject = psprintf("Row " INT64_FORMAT, row);
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
	for (int i = 0; i < import->ncolumns; i++)
		appendStringInfo(&sql, "%ss.%s", i > 0 ? ", " : "", import->columns[i].name);
	if (import->problems.rejects != NULL && import->careful)
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
	begin_reading(import);
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
	again = again || (import->problems.rejects != NULL && import->problems.nrows > 0);
	if (again)
	{
		/* what it has sorted on disk has been rolled back */
		import->hashes = NULL;
		begin_reading(import);
		import->careful = true;
		import->read(import);
		import->careful = false;
	}
}
