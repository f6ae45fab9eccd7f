/*
 * batch_read.c
 *	  Reading the rows of a batch, to compare them with the target.
 *
 * A row of a batch has three JSON objects: its key, the old values and the new
 * values of its fields.  jsonb_populate_record() converts each object to a record
 * of the target's type, by the input functions of the columns' types.  A column that
 * an object does not name has no value in the row.  Two sets say which columns have a
 * new value and which have an old value.
 *
 * The columns of the import are the key and all fields that any row of the batch
 * names.  The comparison is that of an import, with two differences.  batch_compare.c
 * decides what to do with a row.  And each column has an expression that converts a
 * value to jsonb, because values of a batch are compared as jsonb, too.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "nodes/makefuncs.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"

#include "batches/batch_internal.h"

/*
 * The rows
 */

/* Returns the value that an object has for a name, or NULL. */
static JsonbValue *
get_member(Jsonb *object, const char *name)
{
	return getKeyJsonValueFromContainer(&object->root, name, strlen(name), NULL);
}

/* Returns an object with one member. */
static Datum
make_object(const char *name, JsonbValue *value)
{
	JsonbInState state = {0};
	JsonbValue key;

	key.type = jbvString;
	key.val.string.val = unconstify(char *, name);
	key.val.string.len = strlen(name);
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	pushJsonbValue(&state, WJB_KEY, &key);
	pushJsonbValue(&state, WJB_VALUE, value);
	pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	return JsonbPGetDatum(JsonbValueToJsonb(state.result));
}

/*
 * Returns the first name in an object that is not the name of one of the columns from
 * "first" to "last" - 1, or NULL if there is none.
 */
static char *
find_unknown_name(const PoserImport *import, Jsonb *object, int first, int last)
{
	JsonbIterator *iterator = JsonbIteratorInit(&object->root);
	JsonbIteratorToken token;
	JsonbValue value;

	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		bool found = false;

		if (token != WJB_KEY)
			continue;
		for (int i = first; i < last; i++)
			found = found || (strlen(import->columns[i].label) == value.val.string.len &&
							  strncmp(import->columns[i].label, value.val.string.val, value.val.string.len) == 0);
		if (!found)
			return pnstrdup(value.val.string.val, value.val.string.len);
	}
	return NULL;
}

/*
 * Convert an object to values of the columns from "first" to "last" - 1.  Adds the columns
 * that the object names to "set", and sets their elements of "values" and "nulls".
 * Returns false if the object has another name, or if a value cannot be converted; then
 * "problem" describes this.
 */
static bool
read_object(PoserImport *import, Jsonb *object, int first, int last, Datum *values, bool *nulls,
			uint8 *set, PoserImportProblem *problem)
{
	PoserBatch *batch = import->private;
	Datum record = JsonbPGetDatum(object);
	ErrorData *error;
	bool isnull = false;
	int n = 0;

	/* which columns does it name? */
	for (int i = first; i < last; i++)
		if (get_member(object, import->columns[i].label) != NULL)
		{
			POSER_IMPORT_ADD(set, i);
			n++;
		}
	if (n < JsonContainerSize(&object->root))
	{
		problem->reason = psprintf("there is no such column to be written: \"%s\"",
								   find_unknown_name(import, object, first, last));
		problem->kind = "no such column";
		problem->sqlstate = ERRCODE_INVALID_PARAMETER_VALUE;
		return false;
	}
	if (n == 0)
		return true;

	/* convert it to a record; if that fails, try each member alone to find the wrong one */
	if (!poser_import_evaluate(import, batch->to_record, &record, &isnull, &error))
	{
		for (int i = first; i < last; i++)
		{
			JsonbValue *value = get_member(object, import->columns[i].label);
			Datum single;

			if (value == NULL)
				continue;
			single = make_object(import->columns[i].label, value);
			isnull = false;
			if (!poser_import_evaluate(import, batch->to_record, &single, &isnull, &error))
			{
				poser_import_describe(import, problem, import->columns[i].label, error);
				return false;
			}
		}
		poser_import_describe(import, problem, NULL, error);
		return false;
	}

	/* take the values out of the record */
	for (int i = first; i < last; i++)
	{
		if (!POSER_IMPORT_HAS(set, i))
			continue;
		values[i] = GetAttributeByNum(DatumGetHeapTupleHeader(record), import->columns[i].attno, &nulls[i]);
		values[i] = poser_import_flatten(&import->columns[i], values[i], nulls[i]);
	}
	return true;
}

/* Convert the key, as read_object() does.  It is a problem if a column of the key has no value. */
static bool
read_key(PoserImport *import, Jsonb *key, Datum *values, bool *nulls, uint8 *set,
		 PoserImportProblem *problem)
{
	if (!read_object(import, key, 0, import->nkeys, values, nulls, set, problem))
		return false;
	for (int i = 0; i < import->nkeys; i++)
		if (nulls[i])
		{
			problem->columns = poser_import_column(import, i);
			problem->reason = POSER_IMPORT_HAS(set, i) ? "the key is null" : "the key is missing";
			problem->kind = problem->reason;
			problem->sqlstate = ERRCODE_INVALID_PARAMETER_VALUE;
			return false;
		}
	return true;
}

/* Returns an empty set of columns. */
static bytea *
make_set(const PoserImport *import)
{
	bytea *result = palloc0(VARHDRSZ + POSER_IMPORT_BYTES(import));

	SET_VARSIZE(result, VARHDRSZ + POSER_IMPORT_BYTES(import));
	return result;
}

/* Returns the operation with this name; "unchanged" for any other name. */
static PoserImportOperation
find_operation(const char *name)
{
	for (int i = 0; i < lengthof(poser_batch_operations); i++)
		if (strcmp(name, poser_batch_operations[i]) == 0)
			return (PoserImportOperation) i;
	return POSER_IMPORT_UNCHANGED;
}

/* Returns what a row with this operation, and with or without old and new values, asks for. */
static PoserBatchIntention
find_intention(PoserImportOperation operation, bool has_old, bool has_new)
{
	if (operation == POSER_IMPORT_CREATE)
		return POSER_BATCH_CREATE;
	if (operation == POSER_IMPORT_DELETE)
		return POSER_BATCH_DELETE;
	if (!has_new)
		return POSER_BATCH_NOTHING;
	if (has_old)
		return POSER_BATCH_UPDATE;
	/* a refresh changes the operation of a row to be created to "unchanged" if the target has the row already */
	return operation == POSER_IMPORT_UNCHANGED ? POSER_BATCH_CREATE : POSER_BATCH_OVERWRITE;
}

/* Receive a row of the batch (sequence, operation, key, old, new): add it to the import, or note a problem. */
static void
receive_batch_row(PoserImport *import, TupleTableSlot *slot)
{
	Datum *values = palloc0(sizeof(Datum) * ROW_COLUMNS(import));
	bool *nulls = palloc(sizeof(bool) * ROW_COLUMNS(import));
	bytea *new_set = make_set(import);
	bytea *old_set = make_set(import);
	PoserImportProblem problem = {.nrows = 1};
	PoserImportOperation operation;
	Jsonb *key;
	Jsonb *old;
	Jsonb *new;

	/* the row as it is stored */
	problem.row = DatumGetInt64(slot->tts_values[0]);
	operation = find_operation(TextDatumGetCString(slot->tts_values[1]));
	key = DatumGetJsonbP(slot->tts_values[2]);
	old = slot->tts_isnull[3] ? NULL : DatumGetJsonbP(slot->tts_values[3]);
	new = slot->tts_isnull[4] ? NULL : DatumGetJsonbP(slot->tts_values[4]);

	/* convert its objects and add it; new values of a row to be deleted are not used */
	memset(nulls, true, sizeof(bool) * ROW_COLUMNS(import));
	if (read_key(import, key, values + ROW_NEW(0), nulls + ROW_NEW(0), (uint8 *) VARDATA(new_set), &problem) &&
		(new == NULL || operation == POSER_IMPORT_DELETE ||
		 read_object(import, new, import->nkeys, import->ncolumns, values + ROW_NEW(0), nulls + ROW_NEW(0),
					 (uint8 *) VARDATA(new_set), &problem)) &&
		(old == NULL ||
		 read_object(import, old, import->nkeys, import->ncolumns, values + ROW_OLD(import, 0),
					 nulls + ROW_OLD(import, 0), (uint8 *) VARDATA(old_set), &problem)))
	{
		values[ROW_SEQUENCE] = Int64GetDatum(problem.row);
		values[ROW_NEW_SET(import)] = PointerGetDatum(new_set);
		values[ROW_OLD_SET(import)] = PointerGetDatum(old_set);
		values[ROW_INTENTION(import)] = Int32GetDatum(find_intention(operation, old != NULL, new != NULL));
		nulls[ROW_SEQUENCE] = nulls[ROW_NEW_SET(import)] = nulls[ROW_OLD_SET(import)] =
			nulls[ROW_INTENTION(import)] = false;
		poser_import_add_row(import, values, nulls);
	}
	else
	{
		problem.subject = psprintf("Row " INT64_FORMAT ", key %s", problem.row,
								   poser_import_shown(JsonbToCString(NULL, &key->root, 0)));
		poser_import_problem(import, &problem);
	}

	poser_progress_count(&import->progress, 1);
}

/* The "read" of the import: read the rows of the batch that are not removed. */
static void
read_batch(PoserImport *import)
{
	PoserBatch *batch = import->private;

	/*
	 * SELECT sequence, operation, key, old, new FROM poser_batch_row
	 *  WHERE batch_uuid = $1 AND NOT removed ORDER BY sequence
	 */
	poser_progress_report(&import->progress, "reading", 0);
	poser_batch_query(import,
					  psprintf("SELECT sequence, operation, key, old, new FROM %s.poser_batch_row"
							   " WHERE batch_uuid OPERATOR(pg_catalog.=) $1 AND NOT removed"
							   " ORDER BY sequence",
							   batch->schema),
					  poser_import_receiver(import, receive_batch_row));
	poser_import_check_keys(import);
}

/*
 * The columns
 */

/*
 * Returns the names of the target's columns that can be written, as text[].  The
 * target stays locked, so that its columns do not change.  If the target has been
 * dropped, the array is empty, and poser_import_begin() raises the error.
 */
static Datum
writable_columns(Oid target)
{
	Relation rel = try_relation_open(target, AccessShareLock);
	Datum *names;
	int n = 0;

	if (rel == NULL)
		return PointerGetDatum(construct_empty_array(TEXTOID));
	names = palloc(sizeof(Datum) * RelationGetDescr(rel)->natts);
	for (int i = 0; i < RelationGetDescr(rel)->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), i);

		if (!att->attisdropped && poser_import_can_be_written(att))
			names[n++] = CStringGetTextDatum(NameStr(att->attname));
	}
	relation_close(rel, NoLock);
	return PointerGetDatum(construct_array(names, n, TEXTOID, -1, false, TYPALIGN_INT));
}

/*
 * Returns the columns that the batch compares, as text[].  These are the columns that can
 * be written and that occur in the old or new values of a row.  If a row to be deleted has
 * no old values, these are all columns that can be written: the comparison gives such a
 * row all fields as old values.
 */
static Datum
compared_columns(const PoserBatch *batch)
{
	Oid argtypes[] = {VARCHAROID, TEXTARRAYOID};
	Datum values[] = {batch->uuid, writable_columns(batch->target)};
	MemoryContext context = CurrentMemoryContext;
	MemoryContext old_context;
	Datum result;
	bool isnull;

	/*
	 * SELECT CASE WHEN bool_or(r.operation = 'delete' AND r.old IS NULL) THEN $2
	 *             ELSE COALESCE(array_agg(DISTINCT field.name)
	 *                           FILTER (WHERE field.name = ANY ($2)), '{}') END
	 *   FROM poser_batch_row AS r
	 *   LEFT JOIN LATERAL jsonb_object_keys(
	 *        COALESCE(r.old, '{}') || COALESCE(r.new, '{}')) AS field (name) ON true
	 *  WHERE r.batch_uuid = $1 AND NOT r.removed
	 *
	 * No plan is kept, because a batch can have one row or millions.
	 */
	SPI_connect();
	(void) poser_run(&(PoserQuery) {
		.sql = psprintf("SELECT CASE WHEN pg_catalog.bool_or(r.operation OPERATOR(pg_catalog.=) 'delete' AND r.old IS NULL) THEN $2"
						"            ELSE COALESCE(pg_catalog.array_agg(DISTINCT field.name)"
						"                          FILTER (WHERE field.name OPERATOR(pg_catalog.=) ANY ($2)), '{}') END"
						"  FROM %s.poser_batch_row AS r"
						"  LEFT JOIN LATERAL pg_catalog.jsonb_object_keys("
						"       COALESCE(r.old, '{}') OPERATOR(pg_catalog.||) COALESCE(r.new, '{}')) AS field (name) ON true"
						" WHERE r.batch_uuid OPERATOR(pg_catalog.=) $1 AND NOT r.removed",
						batch->schema),
		.nargs = lengthof(argtypes),
		.argtypes = argtypes,
		.values = values,
		.once = true,
		.cursor_options = CURSOR_OPT_PARALLEL_OK});
	old_context = MemoryContextSwitchTo(context);
	result = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	result = PointerGetDatum(DatumGetArrayTypePCopy(result));
	MemoryContextSwitchTo(old_context);
	SPI_finish();
	return result;
}

/*
 * The expressions
 */

/* Returns a node that stands for the value to be converted, see poser_import_evaluate(). */
static CaseTestExpr *
make_argument(Oid type, int32 typmod, Oid collation)
{
	CaseTestExpr *result = makeNode(CaseTestExpr);

	result->typeId = type;
	result->typeMod = typmod;
	result->collation = collation;
	return result;
}

/* Returns an expression for the text of a value, by the output function of its type. */
static Node *
make_text_of(CaseTestExpr *value)
{
	CoerceViaIO *result = makeNode(CoerceViaIO);

	result->arg = (Expr *) value;
	result->resulttype = TEXTOID;
	result->resultcollid = DEFAULT_COLLATION_OID;
	result->coerceformat = COERCE_EXPLICIT_CAST;
	result->location = -1;
	return (Node *) result;
}

/*
 * Returns a row of the target with nulls only, as the first argument of
 * jsonb_populate_record().  With this row the function calls input functions only for
 * the columns that the object names.  With a null instead of the row, it would also check
 * the other columns, and a column of a domain with NOT NULL would raise an error.
 */
static Const *
make_empty_row(Oid target)
{
	Relation rel = relation_open(target, AccessShareLock);
	TupleDesc desc = RelationGetDescr(rel);
	Datum *values = palloc0(sizeof(Datum) * desc->natts);
	bool *nulls = palloc(sizeof(bool) * desc->natts);
	Const *result;

	memset(nulls, true, sizeof(bool) * desc->natts);
	result = makeConst(rel->rd_rel->reltype, -1, InvalidOid, -1,
					   HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)), false, false);
	relation_close(rel, NoLock);
	return result;
}

/*
 * Returns the expression jsonb_populate_record(ROW(NULL, ...)::poser_widget, object),
 * which converts a JSON object to a record of the target's type.
 */
static ExprState *
prepare_to_record(PoserImport *import)
{
	List *arguments = list_make2(make_empty_row(import->target.relid), make_argument(JSONBOID, -1, InvalidOid));

	return ExecPrepareExpr((Expr *) makeFuncExpr(F_JSONB_POPULATE_RECORD, get_rel_type_id(import->target.relid),
												 arguments, InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL),
						   import->estate);
}

/* Returns the expression to_jsonb(value) or to_jsonb(value::text) for a column. */
static ExprState *
prepare_as_json(PoserImport *import, const PoserImportColumn *column)
{
	CaseTestExpr *value = make_argument(column->type, column->typmod, column->collation);
	List *arguments = list_make1(column->as_text ? make_text_of(value) : (Node *) value);

	return ExecPrepareExpr((Expr *) makeFuncExpr(F_TO_JSONB, JSONBOID, arguments, InvalidOid,
												 column->collation, COERCE_EXPLICIT_CALL),
						   import->estate);
}

/*
 * Begin the import that compares a batch with its target.  With "writes" the caller
 * must have a privilege to write the target.  The caller ends the import by
 * poser_import_end().
 */
PoserImport *
poser_batch_begin(PoserBatch *batch, const char *function, bool writes)
{
	PoserImport *import = poser_import_begin(function, InvalidOid, batch->target, batch->key,
											 compared_columns(batch), writes);
	MemoryContext old_context = MemoryContextSwitchTo(import->context);

	/* the differences from an import: rows come from the batch, and queries see what the import writes */
	poser_batch_check_width(batch, import);
	import->private = batch;
	import->source_shown = poser_batch_name(batch->id, batch->uuid);
	import->read = read_batch;
	import->decide = poser_batch_decide;
	import->read_only = false;

	/* the expressions; they can raise an error because of a value */
	batch->to_record = prepare_to_record(import);
	for (int i = 0; i < import->ncolumns; i++)
		import->columns[i].as_json = prepare_as_json(import, &import->columns[i]);
	import->coerces = true;

	/* the further columns of the rows, behind the new values: see ROW_OLD() to ROW_INTENTION() */
	import->nextra = ROW_COLUMNS(import) - ROW_OLD(import, 0);
	import->extra = palloc(sizeof(Oid) * import->nextra);
	for (int i = 0; i < import->ncolumns; i++)
		import->extra[i] = import->columns[i].type;
	import->extra[ROW_NEW_SET(import) - ROW_OLD(import, 0)] = BYTEAOID;
	import->extra[ROW_OLD_SET(import) - ROW_OLD(import, 0)] = BYTEAOID;
	import->extra[ROW_INTENTION(import) - ROW_OLD(import, 0)] = INT4OID;
	MemoryContextSwitchTo(old_context);
	return import;
}
