/*
 * import_compare.c
 *	  Comparing the rows of an import with its target.
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
char
poser_import_rank(PoserImport *import, PoserImportOperation operation)
{
	if (!import->target.references_itself && operation <= POSER_IMPORT_DELETE)
		return POSER_IMPORT_DELETE - operation;
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
			return import->deletes || import->decide != decide_by_difference;
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
	operation = import->decide(import, slot, (uint8 *) mark + 1);
	mark[0] = poser_import_rank(import, operation);
	if (!import->target.unique && !slot->tts_isnull[ROW_NUMBER] && !slot->tts_isnull[there])
		tuplesort_putdatum(import->matches, slot->tts_values[ROW_NUMBER], false);

	if (is_wanted(import, operation))
	{
		import->found[operation]++;
		if (operation != POSER_IMPORT_UNCHANGED || import->decide != decide_by_difference || import->problems.rejects != NULL)
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
	if (import->problems.all == NULL)
		poser_import_more_problems(import, total - n);
	else
		import->problems.at_least = total > n;
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

	if (import->decide == NULL)
		import->decide = decide_by_difference;
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
		poser_register_rows(&import->changes, "poser_import_change", import->change_desc, NULL, 0);
	}
	MemoryContextSwitchTo(old_context);
	import->sort = tuplesort_begin_heap(import->change_desc, lengthof(sort_columns), sort_columns,
										sort_operators, sort_collations, nulls_first,
										work_mem, NULL, TUPLESORT_NONE);
	if (!import->target.unique)
		import->matches = tuplesort_begin_datum(INT8OID, Int8LessOperator, InvalidOid, false,
												work_mem, NULL, TUPLESORT_NONE);
	memset(import->found, 0, sizeof(import->found));

	poser_import_progress(import, "comparing", 0);
	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT r.*, t.there, ");
	poser_import_append_list(&sql, import, 0, "t.c");
	/* only rows that are to be deleted are missed in the source */
	appendStringInfoString(&sql, " FROM poser_import_row AS r");
	if (import->skips_duplicates)
	{
		appendStringInfoString(&sql, " LEFT JOIN (SELECT q.row FROM (SELECT row, pg_catalog.count(*) OVER (PARTITION BY ");
		poser_import_append_key(&sql, import);
		appendStringInfoString(&sql,
							   ") AS n FROM poser_import_row) AS q WHERE q.n OPERATOR(pg_catalog.>) 1) AS d"
							   " ON d.row OPERATOR(pg_catalog.=) r.row");
	}
	appendStringInfo(&sql, " %s JOIN (SELECT true AS there", import->deletes ? "FULL" : "LEFT");
	for (int i = 0; i < import->ncolumns; i++)
		appendStringInfo(&sql, ", t.%s AS c%d", import->columns[i].name, i + 1);
	appendStringInfo(&sql, " FROM %s AS t", import->target.only_name);
	for (int i = 0; import->deletes && i < import->nkeys; i++)
		appendStringInfo(&sql, " %s t.%s IS DISTINCT FROM NULL", i == 0 ? "WHERE" : "AND", import->columns[i].name);
	appendStringInfoString(&sql, ") AS t ON ");
	poser_import_append_join(&sql, import, "r", false);
	if (import->skips_duplicates)
		appendStringInfoString(&sql, " WHERE d.row IS NULL");
	if (import->decide == decide_by_difference)
		poser_import_execute(import, sql.data, poser_import_receiver(import, receive_compared_row), 0, NULL, NULL);
	else
	{
		/* a batch compares values that have been text */
		int level = poser_begin_text_settings();

		poser_import_execute(import, sql.data, poser_import_receiver(import, receive_compared_row), 0, NULL, NULL);
		AtEOXact_GUC(true, level);
	}
	if (!import->target.unique)
		check_matches(import);
}
