/*
 * payload.c
 *	  A row as jsonb: the payload of a change, and the rows of poser_history().
 *
 * A payload is the result of to_jsonb() for a row, with two exceptions.  If a value's type
 * is not the server's, see poser_is_system_type(), the value is written as text by the
 * type's output function.  to_jsonb() would use the type's cast to json if there is one,
 * and the cast's function would run with the owner's rights.  The caller sets
 * poser_begin_text_settings(), so that the text is the same in all sessions.
 *
 * The other exception is a value of type json that jsonb cannot hold, such as the character
 * \u0000, or a number that is too large.  In a history it is written as text, too: one such
 * value must not make the history of a row unreadable.  In the payload of a change it is an
 * error: a consumer might mistake the text for a string.
 *
 * to_jsonb() looks up the columns and their types anew for each row.  This would take
 * most of the time of a delivery.  So the columns of a row are looked up once here,
 * and to_jsonb() is called only for values of less common types.
 *
 * For the same reason the jsonb is written here, without a tree of JsonbValues.  The keys
 * are the same in each row, and so are the bytes of the jsonb up to the first value.  They
 * are made once, and copied.  The format is that of utils/jsonb.h: the number of pairs, an
 * entry for each key, an entry for each value, the keys, and the values.  Numbers and
 * nested containers are aligned to four bytes.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgroids.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/typcache.h"

#include "base/base.h"

/* How a value is converted. */
typedef enum PayloadKind
{
	PAYLOAD_TEXT,
	PAYLOAD_NAME,
	PAYLOAD_BOOL,
	PAYLOAD_INT2,
	PAYLOAD_INT4,
	PAYLOAD_INT8,
	PAYLOAD_NUMERIC,
	PAYLOAD_TIME,  /* a date, or a timestamp with or without time zone */
	PAYLOAD_JSON,  /* to_jsonb() makes it */
	PAYLOAD_OUTPUT /* text that the type's output function makes */
} PayloadKind;

/* A column of a row. */
typedef struct PayloadColumn
{
	int attno; /* of the row, from 0 */
	const char *name;
	int len; /* of the name */
	PayloadKind kind;
	Oid type;		   /* not that of a domain */
	FmgrInfo function; /* to_jsonb() */
	FmgrInfo output;   /* the output function */
} PayloadColumn;

/* The columns of rows that become payloads. */
struct PoserPayload
{
	int32 typmod; /* of records with these columns; used by poser_payload_make() only */
	TupleDesc desc;
	int ncolumns;
	PayloadColumn *columns; /* in the order of the keys in a jsonb object */
	StringInfoData start;	/* of each jsonb, up to the first value; the entries of values are 0 */
	uint32 key_bytes;		/* the length of all keys */
	bool strict;			/* is a value of type json that jsonb cannot hold an error? */
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
		case NUMERICOID:
			return PAYLOAD_NUMERIC;
		case DATEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			return PAYLOAD_TIME;
		default:
			return poser_is_system_type(type) ? PAYLOAD_JSON : PAYLOAD_OUTPUT;
	}
}

/* For qsort(): the order of keys in jsonb, which is by length first. */
static int
compare_keys(const void *a, const void *b)
{
	const PayloadColumn *x = a;
	const PayloadColumn *y = b;

	if (x->len != y->len)
		return x->len < y->len ? -1 : 1;
	return memcmp(x->name, y->name, x->len);
}

/*
 * Returns the entry number "index" of a jsonb object, for a key or value of this type and
 * length.  *total is the length of all keys and values before it, and is increased.
 */
static JEntry
make_entry(int index, uint32 type, Size len, uint32 *total)
{
	if (len > JENTRY_OFFLENMASK - *total)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("total size of jsonb object elements exceeds the maximum of %d bytes", JENTRY_OFFLENMASK)));
	*total += len;
	/* some entries have the offset of their end instead of the length */
	return type | (index % JB_OFFSET_STRIDE == 0 ? JENTRY_HAS_OFF | *total : (uint32) len);
}

/* Make what all payloads of a row type begin with.  Its columns are in order. */
static void
make_start(PoserPayload *payload)
{
	uint32 header = payload->ncolumns | JB_FOBJECT;
	const JEntry none = 0;

	initStringInfo(&payload->start);
	appendStringInfoSpaces(&payload->start, VARHDRSZ); /* the length of the whole */
	appendBinaryStringInfo(&payload->start, (const char *) &header, sizeof(header));
	for (int i = 0; i < payload->ncolumns; i++)
	{
		JEntry entry = make_entry(i, JENTRY_ISSTRING, payload->columns[i].len, &payload->key_bytes);

		appendBinaryStringInfo(&payload->start, (const char *) &entry, sizeof(entry));
	}
	for (int i = 0; i < payload->ncolumns; i++)
		appendBinaryStringInfo(&payload->start, (const char *) &none, sizeof(none));
	for (int i = 0; i < payload->ncolumns; i++)
		appendBinaryStringInfo(&payload->start, payload->columns[i].name, payload->columns[i].len);
}

/* Is this the type json, or an array of it?  Its values are text, and jsonb cannot hold each of them. */
static bool
is_json(Oid type)
{
	return type == JSONOID || type == JSONARRAYOID;
}

/* Describe a column: how its values become JSON. */
static void
describe_column(PayloadColumn *column, Form_pg_attribute att, int attno, const char *name)
{
	column->attno = attno;
	column->name = name;
	column->len = strlen(name);
	column->kind = payload_kind(att->atttypid);
	column->type = getBaseType(att->atttypid);
	if (column->kind == PAYLOAD_JSON)
	{
		/* to_jsonb() finds out its argument's type from an expression */
		Node *arg = (Node *) makeNullConst(att->atttypid, att->atttypmod, att->attcollation);

		fmgr_info(F_TO_JSONB, &column->function);
		fmgr_info_set_expr((Node *) makeFuncExpr(F_TO_JSONB, JSONBOID, list_make1(arg), InvalidOid, InvalidOid,
												 COERCE_EXPLICIT_CALL),
						   &column->function);
	}
	if (column->kind == PAYLOAD_OUTPUT || is_json(column->type))
	{
		Oid output;
		bool is_varlena;

		getTypeOutputInfo(att->atttypid, &output, &is_varlena);
		fmgr_info(output, &column->output);
	}
}

/*
 * Describe rows with these columns for poser_payload_form().  "names" has the key of each
 * column, or NULL for a column that is left out; no two are the same.  The result is in
 * the current memory context, and uses "desc" and "names" as they are.
 */
PoserPayload *
poser_payload_describe(TupleDesc desc, const char *const *names)
{
	PoserPayload *result = palloc0(sizeof(PoserPayload));

	result->desc = desc;
	result->columns = palloc0(Max(desc->natts, 1) * sizeof(PayloadColumn));
	for (int i = 0; i < desc->natts; i++)
		if (names[i] != NULL)
			describe_column(&result->columns[result->ncolumns++], TupleDescAttr(desc, i), i, names[i]);
	qsort(result->columns, result->ncolumns, sizeof(PayloadColumn), compare_keys);
	make_start(result);
	return result;
}

/* Describe records with this typmod.  The result is in the current memory context. */
static PoserPayload *
describe_records(int32 typmod)
{
	TupleDesc desc = lookup_rowtype_tupdesc_copy(RECORDOID, typmod);
	const char **names = palloc(Max(desc->natts, 1) * sizeof(char *));
	PoserPayload *result;

	for (int i = 0; i < desc->natts; i++)
		names[i] = NameStr(TupleDescAttr(desc, i)->attname);
	result = poser_payload_describe(desc, names);
	result->typmod = typmod;
	result->strict = true;
	result->values = palloc(Max(desc->natts, 1) * sizeof(Datum));
	result->nulls = palloc(Max(desc->natts, 1) * sizeof(bool));
	return result;
}

/* Append a number or a container to a jsonb, aligned to four bytes.  Returns by how much it has grown. */
static Size
append_aligned(StringInfo jsonb, const void *data, Size len)
{
	int padding = INTALIGN(jsonb->len) - jsonb->len;

	appendStringInfoSpaces(jsonb, padding);
	memset(jsonb->data + jsonb->len - padding, 0, padding);
	appendBinaryStringInfo(jsonb, data, len);
	return padding + len;
}

/* Append a string to a jsonb.  Returns its length. */
static Size
append_string(StringInfo jsonb, const char *string, Size len)
{
	appendBinaryStringInfo(jsonb, string, len);
	return len;
}

/* Append the value of a jsonb to another one.  Returns by how much that has grown, and the type in *type. */
static Size
append_jsonb(StringInfo jsonb, Jsonb *value, uint32 *type)
{
	JsonbValue scalar;

	if (!JB_ROOT_IS_SCALAR(value))
	{
		*type = JENTRY_ISCONTAINER;
		return append_aligned(jsonb, &value->root, VARSIZE(value) - VARHDRSZ);
	}
	(void) JsonbExtractScalar(&value->root, &scalar);
	switch (scalar.type)
	{
		case jbvString:
			*type = JENTRY_ISSTRING;
			return append_string(jsonb, scalar.val.string.val, scalar.val.string.len);
		case jbvNumeric:
			*type = JENTRY_ISNUMERIC;
			return append_aligned(jsonb, scalar.val.numeric, VARSIZE_ANY(scalar.val.numeric));
		case jbvBool:
			*type = scalar.val.boolean ? JENTRY_ISBOOL_TRUE : JENTRY_ISBOOL_FALSE;
			return 0;
		default:
			*type = JENTRY_ISNULL;
			return 0;
	}
}

/* Append an integer to a jsonb.  Returns by how much that has grown. */
static Size
append_integer(StringInfo jsonb, int64 value)
{
	Numeric numeric = int64_to_numeric(value);

	return append_aligned(jsonb, numeric, VARSIZE_ANY(numeric));
}

/* Append a numeric value to a jsonb.  Returns by how much that has grown, and the type in *type. */
static Size
append_numeric(StringInfo jsonb, Numeric numeric, uint32 *type)
{
	const char *string;

	if (!numeric_is_nan(numeric) && !numeric_is_inf(numeric))
	{
		*type = JENTRY_ISNUMERIC;
		return append_aligned(jsonb, numeric, VARSIZE_ANY(numeric));
	}
	*type = JENTRY_ISSTRING;
	string = DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(numeric)));
	return append_string(jsonb, string, strlen(string));
}

/*
 * Returns what to_jsonb() makes of a value of the type json or json[].  jsonb cannot hold
 * all values of these types, for instance not the character \u0000.  Then the result is
 * NULL.  Such an error is caught without a subtransaction.  This is safe because the value
 * is not toasted: the function only reads its text, and has no locks, buffers or other
 * resources when it raises the error.
 */
static Jsonb *
try_jsonb(PayloadColumn *column, Datum value)
{
	MemoryContext context = CurrentMemoryContext;
	Jsonb *volatile result = NULL;

	PG_TRY();
	{
		result = DatumGetJsonbP(FunctionCall1(&column->function, value));
	}
	PG_CATCH();
	{
		int category;

		MemoryContextSwitchTo(context);
		category = ERRCODE_TO_CATEGORY(geterrcode());
		if (category != ERRCODE_DATA_EXCEPTION && category != ERRCODE_PROGRAM_LIMIT_EXCEEDED)
			PG_RE_THROW();
		FlushErrorState();
	}
	PG_END_TRY();
	return result;
}

/*
 * Append a column's value, which is not null, to a jsonb.  Returns by how much that has
 * grown, and the type in *type.
 * With "strict" a value that jsonb cannot hold is an error.
 */
static Size
append_value(StringInfo jsonb, PayloadColumn *column, Datum value, bool strict, uint32 *type)
{
	const char *string;
	char time[MAXDATELEN + 1];
	Jsonb *result;

	switch (column->kind)
	{
		case PAYLOAD_TEXT:
			*type = JENTRY_ISSTRING;
			value = PointerGetDatum(PG_DETOAST_DATUM_PACKED(value));
			return append_string(jsonb, VARDATA_ANY(DatumGetPointer(value)), VARSIZE_ANY_EXHDR(DatumGetPointer(value)));
		case PAYLOAD_NAME:
			*type = JENTRY_ISSTRING;
			string = NameStr(*DatumGetName(value));
			return append_string(jsonb, string, strlen(string));
		case PAYLOAD_BOOL:
			*type = DatumGetBool(value) ? JENTRY_ISBOOL_TRUE : JENTRY_ISBOOL_FALSE;
			return 0;
		case PAYLOAD_INT2:
			*type = JENTRY_ISNUMERIC;
			return append_integer(jsonb, DatumGetInt16(value));
		case PAYLOAD_INT4:
			*type = JENTRY_ISNUMERIC;
			return append_integer(jsonb, DatumGetInt32(value));
		case PAYLOAD_INT8:
			*type = JENTRY_ISNUMERIC;
			return append_integer(jsonb, DatumGetInt64(value));
		case PAYLOAD_NUMERIC:
			return append_numeric(jsonb, DatumGetNumeric(value), type);
		case PAYLOAD_TIME:
			*type = JENTRY_ISSTRING;
			string = JsonEncodeDateTime(time, value, column->type, NULL);
			return append_string(jsonb, string, strlen(string));
		case PAYLOAD_JSON:
			if (strict || !is_json(column->type))
				result = DatumGetJsonbP(FunctionCall1(&column->function, value));
			else
			{
				value = PointerGetDatum(PG_DETOAST_DATUM(value));
				result = try_jsonb(column, value);
			}
			if (result != NULL)
				return append_jsonb(jsonb, result, type);
			break;
		case PAYLOAD_OUTPUT:
			break;
	}
	*type = JENTRY_ISSTRING;
	string = OutputFunctionCall(&column->output, value);
	return append_string(jsonb, string, strlen(string));
}

/* Returns the payload of a row with these values, in the current memory context. */
Datum
poser_payload_form(PoserPayload *payload, const Datum *values, const bool *nulls)
{
	StringInfoData jsonb;
	uint32 total = payload->key_bytes;

	/* what all begin with, and then each value and its entry */
	initStringInfo(&jsonb);
	appendBinaryStringInfo(&jsonb, payload->start.data, payload->start.len);
	for (int i = 0; i < payload->ncolumns; i++)
	{
		PayloadColumn *column = &payload->columns[i];
		int index = payload->ncolumns + i;
		uint32 type = JENTRY_ISNULL;
		Size len = 0;

		if (!nulls[column->attno])
			len = append_value(&jsonb, column, values[column->attno], payload->strict, &type);
		((JsonbContainer *) (jsonb.data + VARHDRSZ))->children[index] = make_entry(index, type, len, &total);
	}
	SET_VARSIZE(jsonb.data, jsonb.len);
	return PointerGetDatum(jsonb.data);
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

	/* the columns of this row type */
	while (payload != NULL && payload->typmod != typmod)
		payload = payload->next;
	if (payload == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(context);

		payload = describe_records(typmod);
		payload->next = *payloads;
		*payloads = payload;
		MemoryContextSwitchTo(old);
	}

	/* the values */
	tuple.t_len = HeapTupleHeaderGetDatumLength(header);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_tableOid = InvalidOid;
	tuple.t_data = header;
	heap_deform_tuple(&tuple, payload->desc, payload->values, payload->nulls);

	return poser_payload_form(payload, payload->values, payload->nulls);
}
