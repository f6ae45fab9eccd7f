/*
 * batch_compare.c
 *	  Comparing the rows of a batch with the target.
 */
#include "postgres.h"

#include "executor/executor.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"

#include "batches/batch_internal.h"

/* A value as jsonb. */
static Datum
as_json(PoserImport *import, PoserImportColumn *column, Datum value, bool isnull)
{
	ExprContext *econtext = GetPerTupleExprContext(import->estate);

	if (isnull)
		return DirectFunctionCall1(jsonb_in, CStringGetDatum("null"));
	econtext->caseValue_datum = value;
	econtext->caseValue_isNull = false;
	return ExecEvalExpr(column->as_json, econtext, &isnull);
}

/*
 * Are they the same, as far as a batch can tell?  What JSON has no words for,
 * such as an array's lower bounds, it does not know.
 */
static bool
is_same(PoserImport *import, PoserImportColumn *column, Datum value, bool isnull,
		Datum other, bool other_isnull)
{
	if (poser_import_same(column, value, isnull, other, other_isnull))
		return true;
	return datum_image_eq(as_json(import, column, value, isnull),
						  as_json(import, column, other, other_isnull), false, -1);
}

/* What is to be done for a row of the batch, if what it was, is to be and is are these. */
PoserImportOperation
poser_batch_judge(PoserImport *import, TupleTableSlot *slot, uint8 *columns)
{
	const int there = import->row_desc->natts;
	const uint8 *given = (uint8 *) VARDATA_ANY(DatumGetByteaPP(slot->tts_values[POSER_BATCH_GIVEN(import)]));
	const uint8 *based = (uint8 *) VARDATA_ANY(DatumGetByteaPP(slot->tts_values[POSER_BATCH_BASED(import)]));
	int operation = DatumGetInt32(slot->tts_values[POSER_BATCH_OPERATION(import)]);
	bool overwrites = (operation == POSER_BATCH_OVERWRITE);
	bool updates = false;
	bool conflicts = false;
	uint8 *changed;
	uint8 *learned = columns + POSER_IMPORT_BYTES(import);

	if (operation == POSER_BATCH_NOTHING)
		return POSER_IMPORT_UNCHANGED;
	if (slot->tts_isnull[there])
	{
		if (operation == POSER_IMPORT_CREATE || overwrites)
		{
			memcpy(columns, given, POSER_IMPORT_BYTES(import));
			return POSER_IMPORT_CREATE;
		}
		return operation == POSER_IMPORT_DELETE ? POSER_IMPORT_UNCHANGED : POSER_IMPORT_IS_GONE;
	}

	changed = palloc0(POSER_IMPORT_BYTES(import));
	for (int i = import->nkeys; i < import->ncolumns; i++)
	{
		PoserImportColumn *column = &import->columns[i];
		Datum is = slot->tts_values[there + 1 + i];
		bool is_null = slot->tts_isnull[there + 1 + i];
		bool as_before = (!POSER_IMPORT_HAS(based, i) ||
						  is_same(import, column, is, is_null, slot->tts_values[POSER_BATCH_OLD(import, i)],
								  slot->tts_isnull[POSER_BATCH_OLD(import, i)]));
		bool as_wanted = (!POSER_IMPORT_HAS(given, i) ||
						  is_same(import, column, is, is_null, slot->tts_values[1 + i],
								  slot->tts_isnull[1 + i]));

		/* what was not known to be there is known from now on */
		if (POSER_IMPORT_HAS(given, i) && !POSER_IMPORT_HAS(based, i) &&
			(operation == POSER_IMPORT_UPDATE || operation == POSER_IMPORT_UNCHANGED || overwrites))
			POSER_IMPORT_ADD(learned, i);
		if (operation == POSER_IMPORT_DELETE ? as_before : as_wanted)
			continue;
		if (operation == POSER_IMPORT_DELETE || operation == POSER_IMPORT_CREATE || !as_before)
		{
			POSER_IMPORT_ADD(changed, i);
			conflicts = true;
		}
		else
		{
			POSER_IMPORT_ADD(columns, i);
			updates = true;
		}
	}
	if (conflicts)
	{
		memcpy(columns, changed, POSER_IMPORT_BYTES(import));
		return operation == POSER_IMPORT_CREATE ? POSER_IMPORT_IS_THERE : POSER_IMPORT_CONFLICT;
	}
	if (operation == POSER_IMPORT_DELETE)
		return POSER_IMPORT_DELETE;
	return updates ? POSER_IMPORT_UPDATE : POSER_IMPORT_UNCHANGED;
}

/* The number of rows that others have changed. */
int64
poser_batch_count_conflicts(PoserImport *import)
{
	return import->found[POSER_IMPORT_CONFLICT] + import->found[POSER_IMPORT_IS_GONE] +
		   import->found[POSER_IMPORT_IS_THERE];
}

/* Append an expression for what a conflict is: what was there, and what is there now. */
static void
append_conflict(StringInfo sql, PoserImport *import, PoserImportOperation operation, const uint8 *columns)
{
	const char *separator = "";

	if (operation == POSER_IMPORT_IS_GONE)
		appendStringInfoString(sql, "pg_catalog.format('was %s and is gone', r.old)");
	else if (operation == POSER_IMPORT_IS_THERE)
	{
		appendStringInfoString(sql, "pg_catalog.format('was not there and is now %s', ");
		poser_import_append_object(sql, import, import->nkeys, import->ncolumns, NULL, "c.o", false);
		appendStringInfoChar(sql, ')');
	}
	else
		for (int i = import->nkeys; i < import->ncolumns; i++)
			if (POSER_IMPORT_HAS(columns, i))
			{
				const char *label = quote_literal_cstr(import->columns[i].label);

				appendStringInfo(sql,
								 "%spg_catalog.format('%%s was %%s and is now %%s', %s::pg_catalog.text,"
								 " r.old OPERATOR(pg_catalog.->) %s::pg_catalog.text,"
								 " COALESCE(pg_catalog.to_jsonb(",
								 separator, label, label);
				poser_import_append_value(sql, import, i, psprintf("c.o%d", i + 1));
				appendStringInfoString(sql, "), 'null'))");
				separator = " OPERATOR(pg_catalog.||) '; ' OPERATOR(pg_catalog.||) ";
			}
}

/* Write what the rows in "poser_import_change" are found to be into the rows of the batch. */
void
poser_batch_write_findings(PoserImport *import, PoserImportOperation operation, const uint8 *columns, int64 nrows)
{
	PoserBatch *batch = import->private;
	bool is_conflict = (operation >= POSER_IMPORT_CONFLICT);
	const char *found;
	const char *status = "ready";
	const uint8 *learned = columns + POSER_IMPORT_BYTES(import);
	bool learns = false;
	StringInfoData old;
	StringInfoData text;

	if (is_conflict)
		found = "r.operation";
	else if (operation == POSER_IMPORT_UNCHANGED)
		/* what is to be deleted and is gone already still is to be deleted */
		found = "CASE WHEN r.operation OPERATOR(pg_catalog.=) 'delete' THEN 'delete' ELSE 'unchanged' END::pg_catalog.text";
	else
		found = psprintf("'%s'::pg_catalog.text", poser_batch_operations[operation]);
	if (is_conflict)
		status = batch->skip_conflicts ? "skipped" : "conflict";
	for (int i = import->nkeys; i < import->ncolumns; i++)
		learns = learns || (POSER_IMPORT_HAS(learned, i) && !is_conflict);
	initStringInfo(&old);
	initStringInfo(&text);
	if (operation == POSER_IMPORT_DELETE)
		poser_import_append_object(&old, import, import->nkeys, import->ncolumns, NULL, "c.o", false);
	else if (learns)
		poser_import_append_object(&old, import, import->nkeys, import->ncolumns, learned, "c.o", false);
	if (operation == POSER_IMPORT_DELETE || learns)
		appendStringInfoString(&old, " OPERATOR(pg_catalog.||) COALESCE(r.old, '{}')");
	else if (operation == POSER_IMPORT_UNCHANGED)
		/* that tells what was to be created from what was to be updated */
		appendStringInfoString(&old, "CASE WHEN r.operation OPERATOR(pg_catalog.=) 'create' THEN NULL ELSE r.old END");
	else
		appendStringInfoString(&old, "r.old");
	if (is_conflict)
		append_conflict(&text, import, operation, columns);
	else
		appendStringInfoString(&text, "NULL::pg_catalog.text");

	poser_batch_run(import,
					psprintf("UPDATE %1$s.poser_batch_row AS r"
							 "   SET operation = %2$s, old = %3$s, status = '%4$s', status_text = %5$s"
							 "  FROM poser_import_change AS c"
							 " WHERE r.batch_uuid OPERATOR(pg_catalog.=) $1 AND r.sequence OPERATOR(pg_catalog.=) c.row"
							 "   AND NOT pg_catalog.record_image_eq(ROW(r.operation, r.old, r.status, r.status_text),"
							 "                                      ROW(%2$s, %3$s, '%4$s'::pg_catalog.text, %5$s))",
							 batch->schema, found, old.data, status, text.data));
}

/* Note the conflicts in "poser_import_change" as problems. */
void
poser_batch_note_conflicts(PoserImport *import, PoserImportOperation operation, const uint8 *columns, int64 nrows)
{
	static const char *const titles[] = {
		"changed by others", "deleted by others", "created by others"};
	PoserBatch *batch = import->private;
	StringInfoData sql;
	uint64 n;

	if (operation < POSER_IMPORT_CONFLICT)
		return;
	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT c.row, pg_catalog.format('Row %s, key %s', c.row, r.key), ");
	append_conflict(&sql, import, operation, columns);
	appendStringInfo(&sql,
					 " FROM poser_import_change AS c JOIN %s.poser_batch_row AS r"
					 "   ON r.batch_uuid OPERATOR(pg_catalog.=) $1 AND r.sequence OPERATOR(pg_catalog.=) c.row"
					 " ORDER BY c.row LIMIT %d",
					 batch->schema, POSER_IMPORT_NAMED);
	n = poser_batch_run(import, sql.data);
	for (uint64 i = 0; i < n; i++)
	{
		HeapTuple tuple = SPI_tuptable->vals[i];
		TupleDesc desc = SPI_tuptable->tupdesc;
		bool isnull;
		PoserImportProblem problem = {
			.row = DatumGetInt64(SPI_getbinval(tuple, desc, 1, &isnull)),
			.nrows = 1,
			.sqlstate = ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
			.subject = SPI_getvalue(tuple, desc, 2),
			.columns = operation == POSER_IMPORT_CONFLICT ? poser_import_columns(import, columns) : NULL,
			.reason = SPI_getvalue(tuple, desc, 3),
			.kind = titles[operation - POSER_IMPORT_CONFLICT],
			.title = titles[operation - POSER_IMPORT_CONFLICT]};

		poser_import_problem(import, &problem);
	}
	if (n > 0)
		poser_import_more_problems(import, nrows - n);
}
