/*
 * type.c
 *	  Types: which code converts their values to text or JSON, and their names in SQL.
 *
 * to_jsonb() uses a cast to json where a type has one, and a cast to text may be a
 * function, too.  The owner of a type can make such casts.  They must not run with
 * the rights of another role.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "parser/parse_coerce.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "base/base.h"

/* Is a type one that initdb made, or a domain over one?  Then its casts are the server's. */
bool
poser_has_system_casts(Oid type)
{
	return getBaseType(type) < FirstNormalObjectId;
}

/*
 * Does the test hold for the type or for a part of it?  The parts are a domain's base
 * type, an array's element type and a composite type's columns.  The test is not called
 * for domains and arrays themselves.
 */
static bool
any_part(Oid type, bool (*test)(Oid type))
{
	Oid element;
	TupleDesc desc;
	bool result;

	check_stack_depth();
	type = getBaseType(type);
	element = get_element_type(type);
	if (OidIsValid(element))
		return any_part(element, test);

	result = test(type);
	if (result || !type_is_rowtype(type))
		return result;
	desc = lookup_rowtype_tupdesc_noerror(type, -1, true);
	/* if the columns cannot be looked up, take the safe side */
	if (desc == NULL)
		return true;
	for (int i = 0; !result && i < desc->natts; i++)
		result = !TupleDescAttr(desc, i)->attisdropped && any_part(TupleDescAttr(desc, i)->atttypid, test);
	ReleaseTupleDesc(desc);
	return result;
}

/* Can a user make a cast that to_jsonb() uses for the type?  It uses none for a composite type, but uses those of its columns. */
static bool
can_get_cast(Oid type)
{
	/* the columns of a record are not known */
	return type_is_rowtype(type) ? type == RECORDOID : type >= FirstNormalObjectId;
}

/* Has a user made a cast of the type to json, by a function? */
static bool
has_cast(Oid type)
{
	Oid function;

	return type >= FirstNormalObjectId &&
		   find_coercion_pathway(JSONOID, type, COERCION_EXPLICIT, &function) == COERCION_PATH_FUNC;
}

/*
 * Does to_jsonb() run only the server's own code for values of the type?  This is so if
 * initdb made all parts of the type.  It stays so, because only a superuser can make a
 * cast for them.
 */
bool
poser_is_system_type(Oid type)
{
	return !any_part(type, can_get_cast);
}

/* Does to_jsonb() use a cast that a user has made, for values of the type? */
bool
poser_has_json_cast(Oid type)
{
	return any_part(type, has_cast);
}

/* The type of a column as SQL, with the collation if that is not the type's own: "pg_catalog.text COLLATE ...". */
char *
poser_type_sql(Oid type, int32 typmod, Oid collation)
{
	char *name = format_type_extended(type, typmod, FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY);
	HeapTuple tuple;
	Form_pg_collation form;
	char *result;

	if (!OidIsValid(collation) || collation == get_typcollation(type))
		return name;
	tuple = SearchSysCache1(COLLOID, ObjectIdGetDatum(collation));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for collation %u", collation);
	form = (Form_pg_collation) GETSTRUCT(tuple);
	result = psprintf("%s COLLATE %s", name,
					  quote_qualified_identifier(get_namespace_name(form->collnamespace), NameStr(form->collname)));
	ReleaseSysCache(tuple);
	return result;
}
