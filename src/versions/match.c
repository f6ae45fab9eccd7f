/*
 * match.c
 *	  The rows that a JSON object of columns and values stands for.
 *
 * The names in the object are those that the columns of the table have now.  Each value
 * is converted by the input function of the column's type, and becomes a parameter of a
 * query.  A domain is replaced by its base type, as the versions have it.  A null stands
 * for rows in which the column is null.  The object {} stands for all rows.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "funcapi.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/typcache.h"

#include "versions/versions.h"
#include "versions/version_internal.h"

/*
 * Convert the member "name" of an object to a value of a type, as jsonb_populate_record()
 * does.  Sets *isnull if the member is null.
 */
static Datum
convert(Datum object, const char *name, Oid type, bool *isnull)
{
	TupleDesc desc = CreateTemplateTupleDesc(1);
	bool null = true;
	Datum none = (Datum) 0;
	LOCAL_FCINFO(fcinfo, 2);
	FmgrInfo function;
	Node *row;
	Datum record;

	/* a record with one column, which is null */
	TupleDescInitEntry(desc, 1, name, type, -1, 0);
	TupleDescFinalize(desc);
	record = HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), &none, &null));

	/* the function finds out the type of its first argument from an expression */
	row = (Node *) makeConst(RECORDOID, -1, InvalidOid, -1, record, false, false);
	fmgr_info(F_JSONB_POPULATE_RECORD, &function);
	fmgr_info_set_expr((Node *) makeFuncExpr(F_JSONB_POPULATE_RECORD, RECORDOID,
											 list_make2(row, makeNullConst(JSONBOID, -1, InvalidOid)),
											 InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL),
					   &function);
	InitFunctionCallInfoData(*fcinfo, &function, 2, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = record;
	fcinfo->args[0].isnull = false;
	fcinfo->args[1].value = object;
	fcinfo->args[1].isnull = false;
	return GetAttributeByNum(DatumGetHeapTupleHeader(FunctionCallInvoke(fcinfo)), 1, isnull);
}

/*
 * As convert().  An error that is about the value names the column.  The input of a user's
 * type can run code, such as checks of domains in a composite type.  It runs as the table's
 * owner.
 */
static Datum
convert_member(const PoserVersioned *versioned, Datum object, const char *name, Oid type, bool *isnull)
{
	MemoryContext context = CurrentMemoryContext;
	Datum result = (Datum) 0;
	PoserReader owner = {false};

	if (type >= FirstNormalObjectId)
		poser_history_become_owner(&owner, versioned->relid);
	PG_TRY();
	{
		result = convert(object, name, type, isnull);
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (ERRCODE_TO_CATEGORY(error->sqlerrcode) != ERRCODE_DATA_EXCEPTION &&
			ERRCODE_TO_CATEGORY(error->sqlerrcode) != ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION)
			PG_RE_THROW();
		FlushErrorState();
		ereport(ERROR,
				(errcode(error->sqlerrcode),
				 errmsg("match has no valid value of column \"%s\": %s", name, error->message),
				 error->detail != NULL ? errdetail_internal("%s", error->detail) : 0,
				 error->hint != NULL ? errhint("%s", error->hint) : 0));
	}
	PG_END_TRY();
	poser_history_become_caller(&owner);
	return result;
}

/* Returns the column of the versions for a name of the table's column. */
static AttrNumber
find_column(const PoserVersioned *versioned, const char *name)
{
	AttrNumber attno = get_attnum(versioned->relid, name);

	if (attno <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of relation \"%s\" does not exist",
						name, get_rel_name(versioned->relid))));
	for (int i = 0; i < versioned->natts; i++)
		if (versioned->source[i] == attno)
			return i + 1;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("column \"%s\" of relation \"%s\" is not recorded",
					name, get_rel_name(versioned->relid))));
	return 0;
}

/* Add a column and its value. */
static void
add_value(PoserMatch *match, const PoserVersioned *versioned, AttrNumber column, Datum value, bool isnull)
{
	bool is_key = false;

	match->columns[match->ncolumns] = column;
	match->parameters[match->ncolumns++] = isnull ? 0 : match->nargs + 1;
	if (!isnull)
	{
		match->argtypes[match->nargs] = getBaseType(get_atttype(versioned->versions, column));
		match->values[match->nargs++] = value;
	}
	for (int i = 0; i < versioned->nkeys; i++)
		is_key = is_key || versioned->keys[i] == column;
	match->only_key = match->only_key && is_key;
	match->whole_key = match->only_key && match->nargs == versioned->nkeys;
}

/* Make a match of no columns, with room for "n" of them and for one more parameter. */
static PoserMatch *
make_match(int n)
{
	PoserMatch *result = palloc0(sizeof(PoserMatch));

	result->columns = palloc((n + 1) * sizeof(AttrNumber));
	result->parameters = palloc((n + 1) * sizeof(int));
	result->argtypes = palloc((n + 1) * sizeof(Oid));
	result->values = palloc((n + 1) * sizeof(Datum));
	result->only_key = true;
	return result;
}

/* Returns the match of rows in which a column of the versions has this value. */
PoserMatch *
poser_match_value(const PoserVersioned *versioned, AttrNumber column, Datum value)
{
	PoserMatch *result = make_match(1);

	add_value(result, versioned, column, value, false);
	return result;
}

/*
 * Returns the match that a JSON object stands for; NULL stands for all rows.  Raises an
 * error if it is no such object, if a column is not recorded, or if a value is not valid.
 */
PoserMatch *
poser_match_read(const PoserVersioned *versioned, Jsonb *object)
{
	PoserMatch *result;
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue member;

	if (object == NULL)
		return make_match(0);
	if (!JB_ROOT_IS_OBJECT(object))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("match must be a JSON object of columns and their values")));
	if (JB_ROOT_COUNT(object) > versioned->natts)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("match has more columns than relation \"%s\"", get_rel_name(versioned->relid))));
	result = make_match(JB_ROOT_COUNT(object));
	iterator = JsonbIteratorInit(&object->root);
	while ((token = JsonbIteratorNext(&iterator, &member, true)) != WJB_DONE)
	{
		char *name;
		AttrNumber column;
		Oid type;
		Datum value;
		bool isnull;

		if (token != WJB_KEY)
			continue;
		name = pnstrdup(member.val.string.val, member.val.string.len);
		column = find_column(versioned, name);
		type = getBaseType(get_atttype(versioned->versions, column));
		value = convert_member(versioned, JsonbPGetDatum(object), name, type, &isnull);
		if (!isnull && !OidIsValid(lookup_type_cache(type, TYPECACHE_EQ_OPR)->eq_opr))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_FUNCTION),
					 errmsg("match cannot have a value of column \"%s\"", name),
					 errdetail("There is no equality operator for type %s.", format_type_be(type))));
		add_value(result, versioned, column, value, isnull);
	}
	return result;
}

/*
 * Append the condition that a row matches.  "alias" stands for a row of the table of
 * versions or, with "live", for a row of the table:
 *
 *	v.invoice_id = $1 AND v.item IS NOT DISTINCT FROM NULL
 *
 * A value of a composite type with nulls in it is not null, so this is not IS NULL.
 */
void
poser_match_append(StringInfo sql, const PoserVersioned *versioned, const PoserMatch *match,
				   const char *alias, bool live)
{
	if (match->ncolumns == 0)
		appendStringInfoString(sql, "true");
	for (int i = 0; i < match->ncolumns; i++)
	{
		appendStringInfo(sql, "%s%s.", i > 0 ? " AND " : "", alias);
		poser_history_append_column(sql, versioned, match->columns[i], live ? "%l%c" : "%n");
		if (match->parameters[i] == 0)
			appendStringInfoString(sql, " IS NOT DISTINCT FROM NULL");
		else
		{
			poser_history_append_column(sql, versioned, match->columns[i], " %= ");
			appendStringInfo(sql, "$%d", match->parameters[i]);
		}
	}
}

/* Add a parameter for the position or the number of rows in a query; returns its number. */
int
poser_match_add_parameter(PoserMatch *match, int64 value)
{
	match->argtypes[match->nargs] = INT8OID;
	match->values[match->nargs] = Int64GetDatum(value);
	return match->nargs + 1;
}

/* Does an index of the versions begin with a column that has a value in the match? */
bool
poser_match_is_indexed(const PoserVersioned *versioned, const PoserMatch *match)
{
	Relation versions = RelationIdGetRelation(versioned->versions);
	List *indexes = RelationGetIndexList(versions);
	bool result = false;
	ListCell *lc;

	foreach(lc, indexes)
	{
		Relation index = index_open(lfirst_oid(lc), AccessShareLock);

		if (index->rd_index->indisvalid && heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL))
			for (int i = 0; i < match->ncolumns; i++)
				result = result || (match->parameters[i] != 0 && index->rd_index->indkey.values[0] == match->columns[i]);
		index_close(index, AccessShareLock);
	}
	list_free(indexes);
	RelationClose(versions);
	return result;
}
