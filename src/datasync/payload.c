/*
 * payload.c
 *	  Making jsonb of rows, for those who are given changes.
 *
 * A payload is what to_jsonb() makes of a row, but that values of types which are
 * not the system's are written as text.  That function finds out for every row
 * what the columns are, which is most of what draining would cost; so here it is
 * done once, and it is asked for the values of unusual types only.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/typcache.h"

#include "base/base.h"
#include "datasync/consumer.h"

typedef enum PayloadKind
{
	PAYLOAD_TEXT,
	PAYLOAD_NAME,
	PAYLOAD_BOOL,
	PAYLOAD_INT2,
	PAYLOAD_INT4,
	PAYLOAD_INT8,
	PAYLOAD_JSON,	/* by to_jsonb() */
	PAYLOAD_WRITTEN /* by its output function */
} PayloadKind;

typedef struct PayloadColumn
{
	int attno;
	JsonbValue key;
	PayloadKind kind;
	FmgrInfo function;
} PayloadColumn;

/* The columns of one table's rows, in the order of jsonb's keys. */
struct PoserPayload
{
	int32 typmod; /* of the record */
	TupleDesc desc;
	int ncolumns;
	PayloadColumn *columns;
	Datum *values;
	bool *nulls;
	PoserPayload *next;
};

/*
 * Is a type made of the system's own ones only?  Of others to_jsonb() would use a
 * cast to json, which whoever owns the type may have made; it must not run with
 * the owner's rights.  That there is none now, which is all that an import asks,
 * is not enough: it could be made meanwhile.
 */
static bool
is_system_type(Oid type)
{
	Oid element;

	check_stack_depth();
	type = getBaseType(type);
	element = get_element_type(type);
	if (OidIsValid(element))
		return is_system_type(element);
	if (type_is_rowtype(type))
	{
		TupleDesc desc = lookup_rowtype_tupdesc_noerror(type, -1, true);
		bool result = (desc != NULL);

		for (int i = 0; result && i < desc->natts; i++)
			result = TupleDescAttr(desc, i)->attisdropped || is_system_type(TupleDescAttr(desc, i)->atttypid);
		if (desc != NULL)
			ReleaseTupleDesc(desc);
		return result;
	}
	return type < FirstNormalObjectId;
}

/* How values of a type are made. */
static PayloadKind
payload_kind(Oid type)
{
	switch (getBaseType(type))
	{
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
			return PAYLOAD_TEXT;
		case NAMEOID:
			return PAYLOAD_NAME;
		case BOOLOID:
			return PAYLOAD_BOOL;
		case INT2OID:
			return PAYLOAD_INT2;
		case INT4OID:
			return PAYLOAD_INT4;
		case INT8OID:
			return PAYLOAD_INT8;
		default:
			return is_system_type(type) ? PAYLOAD_JSON : PAYLOAD_WRITTEN;
	}
}

/* As jsonb sorts the keys of an object: the shorter first. */
static int
compare_columns(const void *a, const void *b)
{
	const JsonbValue *x = &((const PayloadColumn *) a)->key;
	const JsonbValue *y = &((const PayloadColumn *) b)->key;

	if (x->val.string.len != y->val.string.len)
		return x->val.string.len < y->val.string.len ? -1 : 1;
	return memcmp(x->val.string.val, y->val.string.val, x->val.string.len);
}

/* Describe the rows that are records with this typmod. */
static PoserPayload *
describe_payload(int32 typmod)
{
	PoserPayload *result = palloc0(sizeof(PoserPayload));
	TupleDesc desc = lookup_rowtype_tupdesc_copy(RECORDOID, typmod);

	result->typmod = typmod;
	result->desc = desc;
	result->ncolumns = desc->natts;
	result->columns = palloc0(desc->natts * sizeof(PayloadColumn));
	result->values = palloc(desc->natts * sizeof(Datum));
	result->nulls = palloc(desc->natts * sizeof(bool));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		PayloadColumn *column = &result->columns[i];

		column->attno = i;
		column->key.type = jbvString;
		column->key.val.string.val = NameStr(att->attname);
		column->key.val.string.len = strlen(NameStr(att->attname));
		column->kind = payload_kind(att->atttypid);
		if (column->kind == PAYLOAD_JSON)
		{
			Node *arg = (Node *) makeNullConst(att->atttypid, att->atttypmod, att->attcollation);

			fmgr_info(F_TO_JSONB, &column->function);
			fmgr_info_set_expr((Node *) makeFuncExpr(F_TO_JSONB, JSONBOID, list_make1(arg), InvalidOid, InvalidOid,
													 COERCE_EXPLICIT_CALL),
							   &column->function);
		}
		else if (column->kind == PAYLOAD_WRITTEN)
		{
			Oid output;
			bool is_varlena;

			getTypeOutputInfo(att->atttypid, &output, &is_varlena);
			fmgr_info(output, &column->function);
		}
	}
	qsort(result->columns, result->ncolumns, sizeof(PayloadColumn), compare_columns);
	return result;
}

/* The value of a column, in memory of the row's. */
static void
put_value(PayloadColumn *column, Datum value, JsonbValue *result)
{
	Jsonb *jsonb;

	switch (column->kind)
	{
		case PAYLOAD_TEXT:
			result->type = jbvString;
			value = PointerGetDatum(PG_DETOAST_DATUM_PACKED(value));
			result->val.string.val = VARDATA_ANY(DatumGetPointer(value));
			result->val.string.len = VARSIZE_ANY_EXHDR(DatumGetPointer(value));
			break;
		case PAYLOAD_NAME:
			result->type = jbvString;
			result->val.string.val = NameStr(*DatumGetName(value));
			result->val.string.len = strlen(result->val.string.val);
			break;
		case PAYLOAD_BOOL:
			result->type = jbvBool;
			result->val.boolean = DatumGetBool(value);
			break;
		case PAYLOAD_INT2:
			result->type = jbvNumeric;
			result->val.numeric = int64_to_numeric(DatumGetInt16(value));
			break;
		case PAYLOAD_INT4:
			result->type = jbvNumeric;
			result->val.numeric = int64_to_numeric(DatumGetInt32(value));
			break;
		case PAYLOAD_INT8:
			result->type = jbvNumeric;
			result->val.numeric = int64_to_numeric(DatumGetInt64(value));
			break;
		case PAYLOAD_WRITTEN:
			result->type = jbvString;
			result->val.string.val = OutputFunctionCall(&column->function, value);
			result->val.string.len = strlen(result->val.string.val);
			break;
		case PAYLOAD_JSON:
			jsonb = DatumGetJsonbP(FunctionCall1(&column->function, value));
			if (JB_ROOT_IS_SCALAR(jsonb))
				(void) JsonbExtractScalar(&jsonb->root, result);
			else
			{
				result->type = jbvBinary;
				result->val.binary.data = &jsonb->root;
				result->val.binary.len = VARSIZE(jsonb) - VARHDRSZ;
			}
			break;
	}
}

/*
 * The object with a record's columns, in the current memory context.  What is found
 * out about such records is added to *payloads, in "context".
 */
Datum
poser_payload_make(PoserPayload **payloads, MemoryContext context, Datum record)
{
	HeapTupleHeader header = DatumGetHeapTupleHeader(record);
	int32 typmod = HeapTupleHeaderGetTypMod(header);
	PoserPayload *payload = *payloads;
	HeapTupleData tuple;
	JsonbInState state = {0};

	while (payload != NULL && payload->typmod != typmod)
		payload = payload->next;
	if (payload == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(context);

		payload = describe_payload(typmod);
		payload->next = *payloads;
		*payloads = payload;
		MemoryContextSwitchTo(old);
	}

	tuple.t_len = HeapTupleHeaderGetDatumLength(header);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_tableOid = InvalidOid;
	tuple.t_data = header;
	heap_deform_tuple(&tuple, payload->desc, payload->values, payload->nulls);

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < payload->ncolumns; i++)
	{
		PayloadColumn *column = &payload->columns[i];
		JsonbValue value;

		value.type = jbvNull;
		if (!payload->nulls[column->attno])
			put_value(column, payload->values[column->attno], &value);
		pushJsonbValue(&state, WJB_KEY, &column->key);
		pushJsonbValue(&state, WJB_VALUE, &value);
	}
	pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	return JsonbPGetDatum(JsonbValueToJsonb(state.result));
}
