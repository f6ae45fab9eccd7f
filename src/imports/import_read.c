/*
 * import_read.c
 *	  Reading the rows of an import, and finding keys that occur more than once.
 *
 * The source is read by one query.  Each of its rows gets a number.  Its values are
 * coerced to the types of the target's columns, as in an assignment.  Then the row is put
 * into the tuplestore poser_import_row.  A key must not be null or occur twice.  Batches
 * read their rows in another way, and use the same functions to add them.
 *
 * First the rows are read without subtransactions.  If a coercion fails, all rows are read
 * again in careful mode: each coercion runs in a subtransaction, and each row that cannot
 * be read is noted as a problem.
 *
 * Duplicate keys are found by their hashes.  While rows are added, the hashes of their
 * keys go into a sort.  Only if a hash occurs twice does a query compare the keys.
 *
 * The invariant: if there is no problem after reading, poser_import_row has all rows of
 * the source, and each key once.
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

/*
 * Adding rows
 */

/*
 * Returns a value that can be read even after its row was deleted: a value that is stored
 * out of line is fetched.  "isnull" says whether the value is null.
 */
Datum
poser_import_flatten(const PoserImportColumn *column, Datum value, bool isnull)
{
	if (!isnull && column->len == -1 && VARATT_IS_EXTERNAL(DatumGetPointer(value)))
		return PointerGetDatum(detoast_external_attr((struct varlena *) DatumGetPointer(value)));
	return value;
}

/*
 * Replace a value by the result of an expression over it, and return true.  In careful mode
 * an error that is about the row is not raised.  Instead *error is set, and the result is
 * false.
 */
bool
poser_import_evaluate(PoserImport *import, ExprState *expr, Datum *value, bool *isnull, ErrorData **error)
{
	ExprContext *econtext = GetPerTupleExprContext(import->estate);
	bool result = true;
	PoserSavepoint savepoint;

	econtext->caseValue_datum = *value;
	econtext->caseValue_isNull = *isnull;
	import->in_coercion = true;
	if (!import->careful)
	{
		*value = ExecEvalExpr(expr, econtext, isnull);
		import->in_coercion = false;
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
	import->in_coercion = false;
	return result;
}

/* Make the stores for the rows, or empty them, and forget the rows' problems. */
static void
begin_reading(PoserImport *import)
{
	MemoryContext old_context = MemoryContextSwitchTo(import->context);
	bool hashable = true;

	/* (row, c1, c2, ..., x1, ...) */
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

	/* the rows */
	if (import->rows.reldata != NULL)
		tuplestore_end(import->rows.reldata);
	import->rows.reldata = tuplestore_begin_heap(false, false, work_mem);
	import->nrows = 0;
	poser_import_forget_problems(import);
	if (import->problems.rejects != NULL)
		tuplestore_clear(import->problems.rejects);

	/* the hashes of their keys, if all columns of the key have a hash function */
	if (import->hashes != NULL)
		tuplesort_end(import->hashes);
	for (int i = 0; i < import->nkeys; i++)
		hashable = hashable && import->columns[i].hash != NULL;
	import->hashes = hashable ? tuplesort_begin_datum(INT8OID, Int8LessOperator, InvalidOid, false,
													  work_mem, NULL, TUPLESORT_NONE)
							  : NULL;
	MemoryContextSwitchTo(old_context);
}

/*
 * Add a row.  "values" and "nulls" have the row's number, the columns of the import, and
 * the caller's own columns.  No column of the key may be null.
 */
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
 * Duplicate keys
 */

/*
 * Find the numbers that occur more than once in a sort.  Puts the smallest of them into
 * "twice", at most "limit", and returns how many it has put there.  *total is the number of
 * all of them.
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

/*
 * Note the problem that the key of a row occurs several times ("times").  The problem
 * counts as that of "noted" rows.
 */
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

/* Receive a row with a duplicate key: (row, number of rows with this key, key). */
static void
receive_duplicate(PoserImport *import, TupleTableSlot *slot)
{
	note_duplicate(import, DatumGetInt64(slot->tts_values[0]), 1, DatumGetInt64(slot->tts_values[1]),
				   slot->tts_values + 2, slot->tts_isnull + 2);
}

/* Note the rows with duplicate keys as problems.  Called when all rows have been added. */
void
poser_import_check_keys(PoserImport *import)
{
	int64 total;
	int64 more = 0;
	StringInfoData sql;

	import->rows.md.enrtuples = import->nrows;

	/* if all hash values are different, all keys are different */
	if (import->hashes != NULL)
	{
		(void) poser_import_find_twice(import->hashes, NULL, 0, &total);
		tuplesort_end(import->hashes);
		import->hashes = NULL;
		if (total == 0)
			return;
	}

	initStringInfo(&sql);
	if (import->problems.all != NULL)
	{
		/*
		 * A batch needs a problem for each row.
		 *
		 *	SELECT r.row, r.n, c1
		 *	  FROM (SELECT *, count(*) OVER (PARTITION BY c1) AS n FROM poser_import_row) AS r
		 *	 WHERE r.n > 1
		 */
		appendStringInfoString(&sql, "SELECT r.row, r.n, ");
		poser_import_append_key(&sql, import);
		appendStringInfoString(&sql, " FROM (SELECT *, pg_catalog.count(*) OVER (PARTITION BY ");
		poser_import_append_key(&sql, import);
		appendStringInfoString(&sql, ") AS n FROM poser_import_row) AS r WHERE r.n OPERATOR(pg_catalog.>) 1");
		poser_import_execute(import, sql.data, poser_import_receiver(import, receive_duplicate), 0, NULL, NULL);
		return;
	}

	/*
	 * An error names only the first keys.  The query gives, for each of them, its first row
	 * and its number of rows, and the number of rows of all such keys.
	 *
	 *	SELECT sum(count(*)) OVER ()::int8, min(r.row), count(*), c1
	 *	  FROM poser_import_row AS r
	 *	 GROUP BY c1 HAVING count(*) > 1
	 *	 ORDER BY min(r.row) LIMIT 5
	 */
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

	/* note each key; "more" is the number of rows that are left */
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
	/* the rows of the keys that the query left out */
	if (more > 0)
		poser_import_more_problems(import, more);
	SPI_freetuptable(SPI_tuptable);
}

/*
 * Reading the source
 */

/*
 * For a batch, keep a row that cannot be read: (row, text, key, new).  In careful mode the
 * slot has the row's key and its fields as JSON, behind the columns of the import.
 */
static void
reject_row(PoserImport *import, TupleTableSlot *slot, const PoserImportProblem *problem)
{
	Datum values[4] = {Int64GetDatum(problem->row), CStringGetTextDatum(poser_import_problem_text(problem))};
	bool nulls[4] = {false, false};

	if (import->problems.rejects == NULL || !import->careful)
		return;
	values[2] = slot_getattr(slot, import->ncolumns + 1, &nulls[2]);
	values[3] = slot_getattr(slot, import->ncolumns + 2, &nulls[3]);
	tuplestore_putvalues(import->problems.rejects, import->problems.reject_desc, values, nulls);
}

/* Receive a row of the source: the columns of the import, and what reject_row() needs. */
static void
receive_source_row(PoserImport *import, TupleTableSlot *slot)
{
	int64 row = import->progress.done + 1;
	Datum *values = palloc(sizeof(Datum) * (1 + import->ncolumns));
	bool *nulls = palloc(sizeof(bool) * (1 + import->ncolumns));
	PoserImportProblem problem = {.row = row, .nrows = 1};

	values[ROW_NUMBER] = Int64GetDatum(row);
	nulls[ROW_NUMBER] = false;

	/* coerce the values to the types of the target's columns, until there is a problem */
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

	/* add the row, or note the problem */
	if (problem.reason == NULL)
		poser_import_add_row(import, values, nulls);
	else
	{
		poser_import_problem(import, &problem);
		reject_row(import, slot, &problem);
	}
	poser_progress_count(&import->progress, 1);
}

/* Read the source.  The rows that can be read are added, and the others are noted as problems. */
static void
read_source(PoserImport *import)
{
	StringInfoData sql;

	poser_progress_report(&import->progress, "reading", 0);

	/*
	 * SELECT s.uuid, s.description, s.active FROM supplier_widget AS s
	 *
	 * For a batch, in careful mode:
	 *
	 *	SELECT s.uuid, s.description, s.active,
	 *		   jsonb_build_object('uuid', s.uuid),
	 *		   jsonb_build_object('description', s.description, 'active', s.active)
	 *	  FROM supplier_widget AS s
	 */
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
 * Read the rows, by import->read() or from the source.  The rows that cannot be read, and
 * the rows with duplicate keys, are noted as problems.
 */
void
poser_import_read(PoserImport *import)
{
	PoserSavepoint savepoint;
	volatile bool again = false;

	if (import->read == NULL)
		import->read = read_source;
	import->careful = import->in_coercion = import->in_statement = false;

	/* before the savepoint, so that the store's files belong to the outer transaction */
	begin_reading(import);

	/* read without careful mode; an error can be about a row only if there is something to coerce */
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
			/* the error may come from the source itself, for instance from a view; then reading again raises it */
			FreeErrorData(poser_import_catch(import, &savepoint));
			import->in_coercion = false;
			again = true;
		}
		PG_END_TRY();
	}

	/* read in careful mode after an error, or if a batch needs the rows that cannot be read */
	again = again || (import->problems.rejects != NULL && import->problems.nrows > 0);
	if (again)
	{
		/* the rollback may have removed the files of this sort */
		import->hashes = NULL;
		begin_reading(import);
		import->careful = true;
		import->read(import);
		import->careful = false;
	}
}
