/*
 * batch_read.c
 *	  Reading the rows of a batch to compare them with the target.
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

/* The value of a name in an object, or NULL. */
static JsonbValue *
member(Jsonb *object, const char *name)
{
	return getKeyJsonValueFromContainer(&object->root, name, strlen(name), NULL);
}

/* An object with just one of another's members. */
static Datum
object_of(const char *name, JsonbValue *value)
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

/* The first name in an object that is none of these columns. */
static char *
stranger(PoserImport *import, Jsonb *object, int first, int last)
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
 * Take the columns from "first" to before "last" out of an object; "found" gets
 * which there are.  If that cannot be done, describes why in "problem" and returns
 * false.
 */
static bool
read_object(PoserImport *import, Jsonb *object, int first, int last, Datum *values, bool *nulls,
			uint8 *found, PoserImportProblem *problem)
{
	PoserBatch *batch = import->private;
	Datum record = JsonbPGetDatum(object);
	ErrorData *error;
	bool isnull = false;
	int n = 0;

	for (int i = first; i < last; i++)
		if (member(object, import->columns[i].label) != NULL)
		{
			POSER_IMPORT_ADD(found, i);
			n++;
		}
	if (n < JsonContainerSize(&object->root))
	{
		problem->reason = psprintf("there is no such column to be written: \"%s\"", stranger(import, object, first, last));
		problem->kind = "no such column";
		problem->sqlstate = ERRCODE_INVALID_PARAMETER_VALUE;
		return false;
	}
	if (n == 0)
		return true;

	if (!poser_import_evaluate(import, batch->populate, &record, &isnull, &error))
	{
		/* by itself each of them says whether it is the one */
		for (int i = first; i < last; i++)
		{
			JsonbValue *value = member(object, import->columns[i].label);
			Datum single;

			if (value == NULL)
				continue;
			single = object_of(import->columns[i].label, value);
			isnull = false;
			if (!poser_import_evaluate(import, batch->populate, &single, &isnull, &error))
			{
				poser_import_describe(import, problem, import->columns[i].label, error);
				return false;
			}
		}
		poser_import_describe(import, problem, NULL, error);
		return false;
	}

	for (int i = first; i < last; i++)
	{
		if (!POSER_IMPORT_HAS(found, i))
			continue;
		values[i] = GetAttributeByNum(DatumGetHeapTupleHeader(record), import->columns[i].attno, &nulls[i]);
		values[i] = poser_import_flatten(&import->columns[i], values[i], nulls[i]);
	}
	return true;
}

static int
intention(int operation, bool no_old, bool no_new)
{
	if (operation != POSER_IMPORT_UPDATE && operation != POSER_IMPORT_UNCHANGED)
		return operation;
	if (no_new)
		return POSER_BATCH_NOTHING;
	if (no_old)
		/* what was to be created and has been found to be there still is */
		return operation == POSER_IMPORT_UPDATE ? POSER_BATCH_OVERWRITE : POSER_IMPORT_CREATE;
	return operation;
}

/* Take a row of the batch: (sequence, operation, key, old, new). */
static bool
receive_batch_row(TupleTableSlot *slot, DestReceiver *self)
{
	PoserImport *import = ((PoserImportReceiver *) self)->import;
	MemoryContext old_context = MemoryContextSwitchTo(import->row_context);
	const int natts = POSER_BATCH_OPERATION(import) + 1;
	Datum *values = palloc0(sizeof(Datum) * natts);
	bool *nulls = palloc(sizeof(bool) * natts);
	uint8 *given;
	uint8 *based;
	bytea *masks[2];
	char *operation;
	PoserImportProblem problem = {.nrows = 1};
	bool is_good;
	int code = POSER_IMPORT_UNCHANGED;

	slot_getallattrs(slot);
	memset(nulls, true, sizeof(bool) * natts);
	for (int i = 0; i < lengthof(masks); i++)
	{
		masks[i] = palloc0(VARHDRSZ + POSER_IMPORT_BYTES(import));
		SET_VARSIZE(masks[i], VARHDRSZ + POSER_IMPORT_BYTES(import));
	}
	given = (uint8 *) VARDATA(masks[0]);
	based = (uint8 *) VARDATA(masks[1]);

	problem.row = DatumGetInt64(slot->tts_values[0]);
	operation = TextDatumGetCString(slot->tts_values[1]);
	for (int i = 0; i < lengthof(poser_batch_operations); i++)
		if (strcmp(operation, poser_batch_operations[i]) == 0)
			code = i;

	is_good = read_object(import, DatumGetJsonbP(slot->tts_values[2]), 0, import->nkeys,
						  values + 1, nulls + 1, given, &problem);
	for (int i = 0; i < import->nkeys && is_good; i++)
		if (nulls[1 + i])
		{
			problem.columns = poser_import_column(import, i);
			problem.reason = POSER_IMPORT_HAS(given, i) ? "the key is null" : "the key is missing";
			problem.kind = problem.reason;
			problem.sqlstate = ERRCODE_INVALID_PARAMETER_VALUE;
			is_good = false;
		}
	if (is_good && !slot->tts_isnull[4] && code != POSER_IMPORT_DELETE)
		is_good = read_object(import, DatumGetJsonbP(slot->tts_values[4]), import->nkeys, import->ncolumns,
							  values + 1, nulls + 1, given, &problem);
	if (is_good && !slot->tts_isnull[3])
		is_good = read_object(import, DatumGetJsonbP(slot->tts_values[3]), import->nkeys, import->ncolumns,
							  values + POSER_BATCH_OLD(import, 0), nulls + POSER_BATCH_OLD(import, 0), based, &problem);

	if (is_good)
	{
		values[0] = Int64GetDatum(problem.row);
		values[POSER_BATCH_GIVEN(import)] = PointerGetDatum(masks[0]);
		values[POSER_BATCH_BASED(import)] = PointerGetDatum(masks[1]);
		values[POSER_BATCH_OPERATION(import)] =
			Int32GetDatum(intention(code, slot->tts_isnull[3], slot->tts_isnull[4]));
		nulls[0] = nulls[POSER_BATCH_GIVEN(import)] = nulls[POSER_BATCH_BASED(import)] =
			nulls[POSER_BATCH_OPERATION(import)] = false;
		poser_import_add_row(import, values, nulls);
	}
	else
	{
		problem.subject = psprintf("Row " INT64_FORMAT ", key %s", problem.row,
								   poser_import_shown(JsonbToCString(NULL, &DatumGetJsonbP(slot->tts_values[2])->root, 0)));
		poser_import_problem(import, &problem);
	}
	MemoryContextSwitchTo(old_context);
	MemoryContextReset(import->row_context);
	ResetPerTupleExprContext(import->estate);
	poser_import_count(import);
	return true;
}

/* Read the batch's rows. */
static void
read_batch(PoserImport *import)
{
	PoserBatch *batch = import->private;

	poser_import_progress(import, "reading", 0);
	poser_batch_query(import,
					  psprintf("SELECT sequence, operation, key, old, new FROM %s.poser_batch_row"
							   " WHERE batch_uuid OPERATOR(pg_catalog.=) $1 AND NOT removed"
							   " ORDER BY sequence",
							   batch->schema),
					  poser_import_receiver(import, receive_batch_row));
	poser_import_check_keys(import);
}

/* The columns of the target that can be written.  It stays locked, so that they do not change. */
static Datum
columns_of_target(Oid target)
{
	Relation rel = try_relation_open(target, AccessShareLock);
	Datum *names;
	int n = 0;

	/* the target is gone: poser_import_begin() raises the error */
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

/* The columns that can be written and that the rows' new or old values name; all if a row is to be deleted and has no old values. */
static Datum
field_names(PoserBatch *batch)
{
	Oid argtypes[] = {VARCHAROID, TEXTARRAYOID};
	Datum args[] = {batch->uuid, columns_of_target(batch->target)};
	MemoryContext context = CurrentMemoryContext;
	MemoryContext old_context;
	Datum result;
	bool isnull;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute_with_args(
			psprintf("SELECT CASE WHEN pg_catalog.bool_or(r.operation OPERATOR(pg_catalog.=) 'delete' AND r.old IS NULL) THEN $2"
					 "            ELSE COALESCE(pg_catalog.array_agg(DISTINCT field.name)"
					 "                          FILTER (WHERE field.name OPERATOR(pg_catalog.=) ANY ($2)), '{}') END"
					 "  FROM %s.poser_batch_row AS r"
					 "  LEFT JOIN LATERAL pg_catalog.jsonb_object_keys("
					 "       COALESCE(r.old, '{}') OPERATOR(pg_catalog.||) COALESCE(r.new, '{}')) AS field (name) ON true"
					 " WHERE r.batch_uuid OPERATOR(pg_catalog.=) $1 AND NOT r.removed",
					 batch->schema),
			2, argtypes, args, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read the fields of a batch");
	old_context = MemoryContextSwitchTo(context);
	result = PointerGetDatum(DatumGetArrayTypePCopy(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
																  1, &isnull)));
	MemoryContextSwitchTo(old_context);
	SPI_finish();
	return result;
}

/* The text of a value, by its output function. */
static Node *
text_of(CaseTestExpr *value)
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
 * A row of the target that has nothing in it.  Of a null row the input functions
 * would ask all domains whether they allow for that.
 */
static Const *
nothing(Oid target)
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

/* Begin to compare a batch with its target. */
PoserImport *
poser_batch_begin(PoserBatch *batch, const char *function, bool writes)
{
	PoserImport *import = poser_import_begin(function, InvalidOid, batch->target, batch->key,
											 field_names(batch), writes);
	MemoryContext old_context = MemoryContextSwitchTo(import->context);
	Oid rowtype = get_rel_type_id(batch->target);
	CaseTestExpr *object = makeNode(CaseTestExpr);

	object->typeId = JSONBOID;
	object->typeMod = -1;
	batch->populate =
		ExecPrepareExpr((Expr *) makeFuncExpr(F_JSONB_POPULATE_RECORD, rowtype,
											  list_make2(nothing(batch->target), object),
											  InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL),
						import->estate);
	poser_batch_check_width(import);
	import->read_only = false;
	import->private = batch;
	import->source_shown = poser_batch_name(batch->id, batch->uuid);
	import->read = read_batch;
	import->decide = poser_batch_judge;
	import->coerces = true;
	import->nextra = import->ncolumns + 3;
	import->extra = palloc(sizeof(Oid) * import->nextra);
	for (int i = 0; i < import->ncolumns; i++)
	{
		PoserImportColumn *column = &import->columns[i];
		CaseTestExpr *value = makeNode(CaseTestExpr);

		value->typeId = column->type;
		value->typeMod = column->typmod;
		value->collation = column->collation;
		column->as_json =
			ExecPrepareExpr((Expr *) makeFuncExpr(F_TO_JSONB, JSONBOID,
												  list_make1(column->as_text ? text_of(value) : (Node *) value),
												  InvalidOid, column->collation, COERCE_EXPLICIT_CALL),
							import->estate);
		import->extra[i] = column->type;
	}
	import->extra[import->ncolumns] = BYTEAOID;
	import->extra[import->ncolumns + 1] = BYTEAOID;
	import->extra[import->ncolumns + 2] = INT4OID;
	MemoryContextSwitchTo(old_context);
	return import;
}
