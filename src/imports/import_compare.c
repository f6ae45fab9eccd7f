/*
 * import_compare.c
 *	  Comparing the rows of an import with its target.
 *
 * One query joins the rows that were read with the target by key.  For each row of its
 * result a function decides what is to be done.  This is decide_by_difference(), or
 * poser_batch_decide() for batches.  Two values are the same if all their bytes are equal.
 *
 * The rows for which there is something to do go into a sort by a tag and the row's
 * number.  The tag has the rank of the operation and the columns to be written.  So the
 * sort gives groups of rows that one statement can write, in the order in which they
 * must be written.
 *
 * If no unique index ensures the target's key, a row may match several rows of the
 * target.  This is noted as a problem, because it is not known which row is meant.
 *
 * The invariant: the sort has the old values of each row as the query's snapshot saw
 * them.  So the writer can find out whether they have changed since.
 */
#include "postgres.h"

#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "imports/import_internal.h"

/*
 * Deciding
 */

/* Are two values of a column the same? */
bool
poser_import_same(const PoserImportColumn *column, Datum value, bool isnull, Datum other, bool other_isnull)
{
	if (isnull || other_isnull)
		return isnull == other_isnull;
	return datum_image_eq(value, other, column->byval, column->len);
}

/*
 * Decide what is to be done for a row of the comparison by the fields that differ, and add
 * these to "columns".  The row is (row, c1, ..., x1, ..., there, t.c1, ...).  "row" is null
 * if the source has no row with the key, and "there" is null if the target has none.
 */
static PoserImportOperation
decide_by_difference(PoserImport *import, TupleTableSlot *slot, uint8 *columns)
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

	/* both have the row: which fields differ? */
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

/*
 * Returns the rank of an operation: operations are done in the order of their ranks.  Rows
 * are deleted first, so that their unique values are free for other rows.  But if the
 * target references itself, rows are deleted last, because other rows may still reference
 * them until these are updated.
 *
 * The function is its own inverse: for a rank it returns the operation.
 */
char
poser_import_rank(PoserImport *import, PoserImportOperation operation)
{
	if (!import->target.references_itself && operation <= POSER_IMPORT_DELETE)
		return POSER_IMPORT_DELETE - operation;
	return operation;
}

/* Did the caller ask for the operation? */
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
			return import->deletes || import->decide != decide_by_difference;
		default:
			return true;
	}
}

/*
 * Comparing
 */

/* Put a row of the comparison into the sort: (tag, row, c1, ..., o1, ...). */
static void
sort_change(PoserImport *import, TupleTableSlot *slot, bytea *tag)
{
	const int there = import->row_desc->natts;
	const bool is_delete = slot->tts_isnull[ROW_NUMBER];
	TupleTableSlot *change = import->change_slot;

	ExecClearTuple(change);
	change->tts_values[CHANGE_TAG] = PointerGetDatum(tag);
	change->tts_isnull[CHANGE_TAG] = false;
	change->tts_values[CHANGE_ROW] = slot->tts_values[ROW_NUMBER];
	change->tts_isnull[CHANGE_ROW] = slot->tts_isnull[ROW_NUMBER];
	for (int i = 0; i < import->ncolumns; i++)
	{
		const int new = CHANGE_NEW(i);
		const int old = CHANGE_OLD(import, i);
		const int from = is_delete ? there + 1 + i : ROW_COLUMN(i);

		/* a row to be deleted has its key among the new values, too, where the statement looks for it */
		change->tts_isnull[new] = slot->tts_isnull[from] || (is_delete && i >= import->nkeys);
		change->tts_values[new] =
			poser_import_flatten(&import->columns[i], slot->tts_values[from], change->tts_isnull[new]);
		change->tts_isnull[old] = slot->tts_isnull[there + 1 + i];
		change->tts_values[old] =
			poser_import_flatten(&import->columns[i], slot->tts_values[there + 1 + i], change->tts_isnull[old]);
	}
	ExecStoreVirtualTuple(change);
	tuplesort_puttupleslot(import->sort, change);
	ExecClearTuple(change);
}

/* Receive a row of the comparison: decide what is to be done, count this, and put the row into the sort. */
static void
receive_compared_row(PoserImport *import, TupleTableSlot *slot)
{
	const int there = import->row_desc->natts;
	const int tag_size = VARHDRSZ + 1 + 2 * POSER_IMPORT_BYTES(import);
	bytea *tag = palloc0(tag_size);
	uint8 *mark = (uint8 *) VARDATA(tag);
	PoserImportOperation operation;

	/* the tag: the rank, the columns, and another set of columns for a batch */
	SET_VARSIZE(tag, tag_size);
	operation = import->decide(import, slot, mark + 1);
	mark[0] = poser_import_rank(import, operation);

	/* remember that the row matches a row of the target, see check_matches() */
	if (!import->target.unique && !slot->tts_isnull[ROW_NUMBER] && !slot->tts_isnull[there])
		tuplesort_putdatum(import->matches, slot->tts_values[ROW_NUMBER], false);

	/* unchanged rows are only counted, unless the caller needs them */
	if (is_wanted(import, operation))
	{
		import->found[operation]++;
		if (operation != POSER_IMPORT_UNCHANGED || import->sorts_unchanged)
			sort_change(import, slot, tag);
	}
	poser_progress_count(&import->progress, 1);
}

/* Note the rows that match more than one row of the target as problems. */
static void
check_matches(PoserImport *import)
{
	/* a batch needs a problem for each row, but an error names only the first ones */
	int limit = import->problems.all != NULL ? POSER_IMPORT_TOLD_APART : POSER_IMPORT_NAMED;
	int64 *twice = palloc(sizeof(int64) * limit);
	Datum *rows = palloc(sizeof(Datum) * limit);
	int64 total;
	int n = poser_import_find_twice(import->matches, twice, limit, &total);
	Oid argtypes[] = {INT8ARRAYOID};
	Datum args[1];
	StringInfoData sql;

	tuplesort_end(import->matches);
	import->matches = NULL;
	if (n == 0)
		return;

	/* fetch their keys: SELECT r.row, r.c1, r.c2, r.c3 FROM poser_import_row AS r WHERE r.row = ANY ($1) ORDER BY r.row */
	for (int i = 0; i < n; i++)
		rows[i] = Int64GetDatum(twice[i]);
	args[0] = PointerGetDatum(construct_array(rows, n, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT r.row, ");
	poser_import_append_list(&sql, import, 0, "r.c");
	appendStringInfoString(&sql, " FROM poser_import_row AS r WHERE r.row OPERATOR(pg_catalog.=) ANY ($1) ORDER BY r.row");
	poser_import_execute(import, sql.data, NULL, 1, argtypes, args);
	if (SPI_processed != n)
		elog(ERROR, "rows of an import are missing");

	/* note them */
	for (int i = 0; i < n; i++)
	{
		Datum values[INDEX_MAX_KEYS];
		bool nulls[INDEX_MAX_KEYS];
		PoserImportProblem problem = {
			.row = twice[i],
			.nrows = 1,
			.sqlstate = ERRCODE_CARDINALITY_VIOLATION,
			.reason = psprintf("matches more than one row of \"%s\"", import->target.label),
			.kind = "matches"};

		for (int j = 0; j < import->nkeys; j++)
			values[j] = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, j + 2, &nulls[j]);
		problem.subject = poser_import_shown_key(import, values, nulls, false);
		poser_import_problem(import, &problem);
	}
	SPI_freetuptable(SPI_tuptable);

	/* count the other rows, too; a batch says only that there are more */
	if (import->problems.all == NULL)
		poser_import_more_problems(import, total - n);
	else
		import->problems.at_least = total > n;
}

/* Make the stores for the rows of the comparison, in the current memory context, and set the numbers of rows to 0. */
static void
begin_comparing(PoserImport *import)
{
	AttrNumber sort_columns[] = {CHANGE_TAG + 1, CHANGE_ROW + 1};
	Oid sort_operators[] = {ByteaLessOperator, Int8LessOperator};
	Oid sort_collations[] = {InvalidOid, InvalidOid};
	bool nulls_first[] = {false, false};

	/* (tag, row, c1, ..., o1, ...) */
	if (import->change_desc == NULL)
	{
		MemoryContext old_context = MemoryContextSwitchTo(import->context);
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
		poser_register_rows(&import->changes, "poser_import_change", import->change_desc, NULL, 0);
		MemoryContextSwitchTo(old_context);
	}

	/* the sort, and the numbers of the rows that match a row of the target */
	import->sort = tuplesort_begin_heap(import->change_desc, lengthof(sort_columns), sort_columns,
										sort_operators, sort_collations, nulls_first,
										work_mem, NULL, TUPLESORT_NONE);
	if (!import->target.unique)
		import->matches = tuplesort_begin_datum(INT8OID, Int8LessOperator, InvalidOid, false,
												work_mem, NULL, TUPLESORT_NONE);
	memset(import->found, 0, sizeof(import->found));
}

/*
 * Append the query that joins the rows with the target:
 *
 *	SELECT r.*, t.there, t.c1, t.c2, t.c3
 *	  FROM poser_import_row AS r
 *	  LEFT JOIN (SELECT true AS there, t.uuid AS c1, t.description AS c2, t.active AS c3
 *				   FROM ONLY poser_widget AS t) AS t ON r.c1 = t.c1
 *
 * If rows are to be deleted, the query also finds rows that only the target has.  Rows of
 * the target with a null in their key are left out:
 *
 *	  FULL JOIN (SELECT ... FROM ONLY poser_widget AS t WHERE t.uuid IS DISTINCT FROM NULL) AS t ...
 *
 * If rows with duplicate keys are skipped:
 *
 *	  FROM poser_import_row AS r
 *	  LEFT JOIN (SELECT q.row
 *				   FROM (SELECT row, count(*) OVER (PARTITION BY c1) AS n FROM poser_import_row) AS q
 *				  WHERE q.n > 1) AS d ON d.row = r.row
 *	  LEFT JOIN (...) AS t ON r.c1 = t.c1
 *	 WHERE d.row IS NULL
 */
static void
append_comparison(StringInfo sql, PoserImport *import)
{
	appendStringInfoString(sql, "SELECT r.*, t.there, ");
	poser_import_append_list(sql, import, 0, "t.c");
	appendStringInfoString(sql, " FROM poser_import_row AS r");
	if (import->skips_duplicates)
	{
		appendStringInfoString(sql, " LEFT JOIN (SELECT q.row FROM (SELECT row, pg_catalog.count(*) OVER (PARTITION BY ");
		poser_import_append_key(sql, import);
		appendStringInfoString(sql,
							   ") AS n FROM poser_import_row) AS q WHERE q.n OPERATOR(pg_catalog.>) 1) AS d"
							   " ON d.row OPERATOR(pg_catalog.=) r.row");
	}
	appendStringInfo(sql, " %s JOIN (SELECT true AS there", import->deletes ? "FULL" : "LEFT");
	for (int i = 0; i < import->ncolumns; i++)
		appendStringInfo(sql, ", t.%s AS c%d", import->columns[i].name, i + 1);
	appendStringInfo(sql, " FROM %s AS t", import->target.only_name);
	for (int i = 0; import->deletes && i < import->nkeys; i++)
		appendStringInfo(sql, " %s t.%s IS DISTINCT FROM NULL", i == 0 ? "WHERE" : "AND", import->columns[i].name);
	appendStringInfoString(sql, ") AS t ON ");
	poser_import_append_join(sql, import, "r", false);
	if (import->skips_duplicates)
		appendStringInfoString(sql, " WHERE d.row IS NULL");
}

/*
 * Compare the rows with the target.  Afterwards import->sort has the rows for which there
 * is something to do, and import->found has how many rows there are for each operation.
 * Rows that match more than one row of the target are noted as problems.
 */
void
poser_import_compare(PoserImport *import)
{
	DestReceiver *receiver = poser_import_receiver(import, receive_compared_row);
	StringInfoData sql;

	if (import->decide == NULL)
		import->decide = decide_by_difference;
	begin_comparing(import);
	poser_progress_report(&import->progress, "comparing", 0);
	initStringInfo(&sql);
	append_comparison(&sql, import);
	if (import->decide == decide_by_difference)
		poser_import_execute(import, sql.data, receiver, 0, NULL, NULL);
	else
	{
		/* a batch compares values as text, too */
		int level = poser_begin_text_settings();

		poser_import_execute(import, sql.data, receiver, 0, NULL, NULL);
		AtEOXact_GUC(true, level);
	}
	if (!import->target.unique)
		check_matches(import);
}
