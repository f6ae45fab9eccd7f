/*
 * payload.c
 *	  The payload of a change: a row as jsonb.
 *
 * A payload is the result of to_jsonb() for a row, with one exception.  If a value's type
 * is not the server's, see poser_is_system_type(), the value is written as text by the
 * type's output function.  to_jsonb() would use the type's cast to json if there is one,
 * and the cast's function would run with the owner's rights.
 *
 * to_jsonb() looks up the columns and their types anew for each row.  This would take
 * most of the time of a delivery.  So the columns of a row type are looked up once here,
 * and to_jsonb() is called only for values of less common types.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "nodes/makefuncs.h"
#include "utils/fmgroids.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/typcache.h"

#include "datasync/datasync_internal.h"

/* How a value is converted. */
typedef enum PayloadKind
{
	PAYLOAD_TEXT,
	PAYLOAD_NAME,
	PAYLOAD_BOOL,
	PAYLOAD_INT2,
	PAYLOAD_INT4,
	PAYLOAD_INT8,
	PAYLOAD_JSON,  /* to_jsonb() makes it */
	PAYLOAD_OUTPUT /* text that the type's output function makes */
} PayloadKind;

/* A column of a row type. */
typedef struct PayloadColumn
{
	int attno;		/* from 0 */
	JsonbValue key; /* its name */
	PayloadKind kind;
	FmgrInfo function; /* to_jsonb() or the output function */
} PayloadColumn;

/* The columns of a row type. */
struct PoserPayload
{
	int32 typmod; /* of records with these columns */
	TupleDesc desc;
	int ncolumns;
	PayloadColumn *columns; /* in the order of the keys in a jsonb object */
	Datum *values;			/* of one row */
	bool *nulls;
	PoserPayload *next;
};

/* Returns how the values of a type are converted. */
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
			return poser_is_system_type(type) ? PAYLOAD_JSON : PAYLOAD_OUTPUT;
	}
}

/* For qsort(): the order of keys in jsonb, which is by length first. */
static int
compare_keys(const void *a, const void *b)
{
	const JsonbValue *x = &((const PayloadColumn *) a)->key;
	const JsonbValue *y = &((const PayloadColumn *) b)->key;

	if (x->val.string.len != y->val.string.len)
		return x->val.string.len < y->val.string.len ? -1 : 1;
	return memcmp(x->val.string.val, y->val.string.val, x->val.string.len);
}

/* Look up the columns of records with this typmod.  The result is in the current memory context. */
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

	/* each column's key, and how its values become JSON */
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
			/* to_jsonb() finds out its argument's type from an expression */
			Node *arg = (Node *) makeNullConst(att->atttypid, att->atttypmod, att->attcollation);

			fmgr_info(F_TO_JSONB, &column->function);
			fmgr_info_set_expr((Node *) makeFuncExpr(F_TO_JSONB, JSONBOID, list_make1(arg), InvalidOid, InvalidOid,
													 COERCE_EXPLICIT_CALL),
							   &column->function);
		}
		else if (column->kind == PAYLOAD_OUTPUT)
		{
			Oid output;
			bool is_varlena;

			getTypeOutputInfo(att->atttypid, &output, &is_varlena);
			fmgr_info(output, &column->function);
		}
	}

	/* jsonb sorts the keys of each row in this order, which is cheap if they are sorted */
	qsort(result->columns, result->ncolumns, sizeof(PayloadColumn), compare_keys);
	return result;
}

/*
 * Convert a value that is not null to jsonb.  The result may point into the value, or to
 * memory in the current context.
 */
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
		case PAYLOAD_OUTPUT:
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
 * Returns the payload of a record, in the current memory context.  *payloads is a list
 * of the row types known so far; a new row type is added to it in "context", which must
 * live as long as the list.
 */
Datum
poser_payload_make(PoserPayload **payloads, MemoryContext context, Datum record)
{
	HeapTupleHeader header = DatumGetHeapTupleHeader(record);
	int32 typmod = HeapTupleHeaderGetTypMod(header);
	PoserPayload *payload = *payloads;
	HeapTupleData tuple;
	JsonbInState state = {0};

	/* the columns of this row type */
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

	/* the values, and an object of them */
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
