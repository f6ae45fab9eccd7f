/*
 * batch_compare.c
 *	  Comparing the rows of a batch with the target, and writing what is found.
 *
 * Each field of a row has up to three values: the old one and the new one, which
 * the row of the batch says, and the current one in the target.
 *
 *	  current = new			  nothing to do
 *	  current = old			  update
 *	  current is neither	  conflict: another transaction has changed the field
 *
 * An update of a field without an old value overwrites any current value.  A row to be
 * created is in conflict if the target has the row with other values than the new ones.
 * A row to be deleted is in conflict if the target has the row with other values than
 * the old ones.
 *
 * Fields that the row of the batch does not name keep their values, and are not in
 * conflict.
 */
#include "postgres.h"

#include "executor/executor.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"

#include "batches/batch_internal.h"

/* Returns a value of a column as jsonb. */
static Datum
as_json(PoserImport *import, const PoserImportColumn *column, Datum value, bool isnull)
{
	ExprContext *econtext = GetPerTupleExprContext(import->estate);

	if (isnull)
		return DirectFunctionCall1(jsonb_in, CStringGetDatum("null"));
	econtext->caseValue_datum = value;
	econtext->caseValue_isNull = false;
	return ExecEvalExpr(column->as_json, econtext, &isnull);
}

/*
 * Are two values of a column the same?  The values of a batch were stored as jsonb,
 * which does not keep all of a value: for instance, the lower bounds of an array are
 * lost.  So two values are also the same if they are the same as jsonb.
 */
static bool
is_same(PoserImport *import, const PoserImportColumn *column, Datum value, bool isnull,
		Datum other, bool other_isnull)
{
	if (poser_import_same(column, value, isnull, other, other_isnull))
		return true;
	return datum_image_eq(as_json(import, column, value, isnull),
						  as_json(import, column, other, other_isnull), false, -1);
}

/*
 * The "decide" of the import: decide what to do with a row of the comparison.
 *
 * "columns" gets the fields that are to be written, or those in conflict.  The
 * second set, behind it, gets the fields for which the row of the batch has a new
 * value but no old one.  Their current values become old values of the row, so that a
 * later comparison finds a change as a conflict.
 */
PoserImportOperation
poser_batch_decide(PoserImport *import, TupleTableSlot *slot, uint8 *columns)
{
	const uint8 *new_set = (uint8 *) VARDATA_ANY(DatumGetByteaPP(slot->tts_values[ROW_NEW_SET(import)]));
	const uint8 *old_set = (uint8 *) VARDATA_ANY(DatumGetByteaPP(slot->tts_values[ROW_OLD_SET(import)]));
	PoserBatchIntention intention = DatumGetInt32(slot->tts_values[ROW_INTENTION(import)]);
	bool is_update = (intention == POSER_BATCH_UPDATE || intention == POSER_BATCH_OVERWRITE);
	bool updates = false;
	bool conflicts = false;
	uint8 *conflicting;
	uint8 *without_old = columns + POSER_IMPORT_BYTES(import);

	if (intention == POSER_BATCH_NOTHING)
		return POSER_IMPORT_UNCHANGED;

	/* the target has no row with this key */
	if (slot->tts_isnull[ROW_FOUND(import)])
	{
		if (intention == POSER_BATCH_CREATE || intention == POSER_BATCH_OVERWRITE)
		{
			memcpy(columns, new_set, POSER_IMPORT_BYTES(import));
			return POSER_IMPORT_CREATE;
		}
		return intention == POSER_BATCH_DELETE ? POSER_IMPORT_UNCHANGED : POSER_IMPORT_WAS_DELETED;
	}

	/* the target has the row: compare the fields; a value that the batch's row does not have counts as equal */
	conflicting = palloc0(POSER_IMPORT_BYTES(import));
	for (int i = import->nkeys; i < import->ncolumns; i++)
	{
		PoserImportColumn *column = &import->columns[i];
		Datum current = slot->tts_values[ROW_CURRENT(import, i)];
		bool isnull = slot->tts_isnull[ROW_CURRENT(import, i)];
		bool has_old = POSER_IMPORT_HAS(old_set, i);
		bool has_new = POSER_IMPORT_HAS(new_set, i);
		bool is_old = (!has_old || is_same(import, column, current, isnull,
										   slot->tts_values[ROW_OLD(import, i)],
										   slot->tts_isnull[ROW_OLD(import, i)]));
		bool is_new = (!has_new || is_same(import, column, current, isnull,
										   slot->tts_values[ROW_NEW(i)],
										   slot->tts_isnull[ROW_NEW(i)]));

		/* decide for this field by the table at the head of this file */
		if (is_update && has_new && !has_old)
			POSER_IMPORT_ADD(without_old, i);
		if (intention == POSER_BATCH_DELETE ? is_old : is_new)
			continue;
		if (is_update && is_old)
		{
			POSER_IMPORT_ADD(columns, i);
			updates = true;
		}
		else
		{
			POSER_IMPORT_ADD(conflicting, i);
			conflicts = true;
		}
	}

	/* if one field is in conflict, no field is written */
	if (conflicts)
	{
		memcpy(columns, conflicting, POSER_IMPORT_BYTES(import));
		return intention == POSER_BATCH_CREATE ? POSER_IMPORT_WAS_CREATED : POSER_IMPORT_CONFLICT;
	}
	if (intention == POSER_BATCH_DELETE)
		return POSER_IMPORT_DELETE;
	return updates ? POSER_IMPORT_UPDATE : POSER_IMPORT_UNCHANGED;
}

/* Returns how many rows of the last comparison are in conflict. */
int64
poser_batch_count_conflicts(const PoserImport *import)
{
	return import->found[POSER_IMPORT_CONFLICT] + import->found[POSER_IMPORT_WAS_DELETED] +
		   import->found[POSER_IMPORT_WAS_CREATED];
}

/*
 * Append an expression for the text that describes a conflict.  In the query "r" is the
 * row of the batch, and "c" is the row in "poser_import_change".
 */
static void
append_conflict(StringInfo sql, PoserImport *import, PoserImportOperation operation, const uint8 *columns)
{
	const char *separator = "";

	if (operation == POSER_IMPORT_WAS_DELETED)
	{
		/* format('was %s and is gone', r.old) */
		appendStringInfoString(sql, "pg_catalog.format('was %s and is gone', r.old)");
		return;
	}
	if (operation == POSER_IMPORT_WAS_CREATED)
	{
		/* format('was not there and is now %s', jsonb_build_object('description', c.o2, 'active', c.o3)) */
		appendStringInfoString(sql, "pg_catalog.format('was not there and is now %s', ");
		poser_import_append_object(sql, import, import->nkeys, import->ncolumns, NULL, "c.o", false);
		appendStringInfoChar(sql, ')');
		return;
	}

	/*
	 * format('%s was %s and is now %s', 'description'::text,
	 *        r.old -> 'description'::text, COALESCE(to_jsonb(c.o2), 'null'))
	 * || '; ' || format(...)
	 */
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

/*
 * Append an expression for the old values that a row of the batch has after a
 * comparison.  Old values that it has already stay as they are.
 */
static void
append_old(StringInfo sql, PoserImport *import, PoserImportOperation operation, const uint8 *without_old)
{
	bool adds_some = false;

	for (int i = import->nkeys; i < import->ncolumns; i++)
		adds_some = adds_some || POSER_IMPORT_HAS(without_old, i);
	if (operation == POSER_IMPORT_DELETE || (operation < POSER_IMPORT_CONFLICT && adds_some))
	{
		/* a row to be deleted gets all fields as old values */
		poser_import_append_object(sql, import, import->nkeys, import->ncolumns,
								   operation == POSER_IMPORT_DELETE ? NULL : without_old, "c.o", false);
		appendStringInfoString(sql, " OPERATOR(pg_catalog.||) COALESCE(r.old, '{}')");
	}
	else if (operation == POSER_IMPORT_UNCHANGED)
		/* an unchanged row without old values is one that was to be created, see find_intention() in batch_read.c */
		appendStringInfoString(sql, "CASE WHEN r.operation OPERATOR(pg_catalog.=) 'create' THEN NULL ELSE r.old END");
	else
		appendStringInfoString(sql, "r.old");
}

/*
 * A writer of imports: write into the rows of the batch what the comparison has found for
 * the rows in "poser_import_change".
 */
void
poser_batch_write_findings(PoserImport *import, PoserImportOperation operation, const uint8 *columns, int64 nrows)
{
	PoserBatch *batch = import->private;
	bool is_conflict = (operation >= POSER_IMPORT_CONFLICT);
	const char *status = "ready";
	const char *new_operation;
	StringInfoData old;
	StringInfoData text;

	/* the operation stays the same after a conflict, and for a row to be deleted that the target no longer has */
	if (is_conflict)
		new_operation = "r.operation";
	else if (operation == POSER_IMPORT_UNCHANGED)
		new_operation = "CASE WHEN r.operation OPERATOR(pg_catalog.=) 'delete' THEN 'delete' ELSE 'unchanged' END::pg_catalog.text";
	else
		new_operation = psprintf("'%s'::pg_catalog.text", poser_batch_operations[operation]);
	initStringInfo(&old);
	append_old(&old, import, operation, columns + POSER_IMPORT_BYTES(import));
	initStringInfo(&text);
	if (is_conflict)
	{
		status = batch->skips_conflicts ? "skipped" : "conflict";
		append_conflict(&text, import, operation, columns);
	}
	else
		appendStringInfoString(&text, "NULL::pg_catalog.text");

	/*
	 * A row that has the same values already is not updated again.
	 *
	 * UPDATE poser_batch_row AS r
	 *    SET operation = 'update'::text, old = jsonb_build_object('description', c.o2) || COALESCE(r.old, '{}'),
	 *        status = 'ready', status_text = NULL::text
	 *   FROM poser_import_change AS c
	 *  WHERE r.batch_uuid = $1 AND r.sequence = c.row
	 *    AND NOT record_image_eq(ROW(r.operation, r.old, r.status, r.status_text),
	 *                            ROW('update'::text, ..., 'ready'::text, NULL::text))
	 */
	poser_batch_query(import,
					  psprintf("UPDATE %1$s.poser_batch_row AS r"
							   "   SET operation = %2$s, old = %3$s, status = '%4$s', status_text = %5$s"
							   "  FROM poser_import_change AS c"
							   " WHERE r.batch_uuid OPERATOR(pg_catalog.=) $1 AND r.sequence OPERATOR(pg_catalog.=) c.row"
							   "   AND NOT pg_catalog.record_image_eq(ROW(r.operation, r.old, r.status, r.status_text),"
							   "                                      ROW(%2$s, %3$s, '%4$s'::pg_catalog.text, %5$s))",
							   batch->schema, new_operation, old.data, status, text.data),
					  NULL);
}

/*
 * A writer of imports: note the conflicts in "poser_import_change" as problems, so that an
 * error can report them.  Other operations are ignored.
 */
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

	/*
	 * An error names only the first rows of a kind.
	 *
	 * SELECT c.row, format('Row %s, key %s', c.row, r.key), format('was %s and is gone', r.old)
	 *   FROM poser_import_change AS c JOIN poser_batch_row AS r
	 *        ON r.batch_uuid = $1 AND r.sequence = c.row
	 *  ORDER BY c.row LIMIT 5
	 */
	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT c.row, pg_catalog.format('Row %s, key %s', c.row, r.key), ");
	append_conflict(&sql, import, operation, columns);
	appendStringInfo(&sql,
					 " FROM poser_import_change AS c JOIN %s.poser_batch_row AS r"
					 "   ON r.batch_uuid OPERATOR(pg_catalog.=) $1 AND r.sequence OPERATOR(pg_catalog.=) c.row"
					 " ORDER BY c.row LIMIT %d",
					 batch->schema, POSER_IMPORT_NAMED);
	n = poser_batch_query(import, sql.data, NULL);

	/* note these rows */
	for (uint64 i = 0; i < n; i++)
	{
		HeapTuple tuple = SPI_tuptable->vals[i];
		TupleDesc desc = SPI_tuptable->tupdesc;
		const char *title = titles[operation - POSER_IMPORT_CONFLICT];
		bool isnull;
		PoserImportProblem problem = {
			.row = DatumGetInt64(SPI_getbinval(tuple, desc, 1, &isnull)),
			.nrows = 1,
			.sqlstate = ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
			.subject = SPI_getvalue(tuple, desc, 2),
			.columns = operation == POSER_IMPORT_CONFLICT ? poser_import_columns(import, columns) : NULL,
			.reason = SPI_getvalue(tuple, desc, 3),
			.kind = title,
			.title = title};

		poser_import_problem(import, &problem);
	}
	/* count the rows that the query has not fetched, too */
	if (n > 0)
		poser_import_more_problems(import, nrows - n);
}
