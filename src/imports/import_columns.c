/*
 * import_columns.c
 *	  What an import is from and to.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "parser/parse_coerce.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/backend_status.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/typcache.h"

#include "imports/import_internal.h"

/* The hint if a source lacks a key or a column. */
#define SOURCE_HINT \
	"Name as \"key\" columns that both relations have, or import from a view that has the columns of the target."

static bool
is_relkind(char relkind, const char *kinds)
{
	return strchr(kinds, relkind) != NULL;
}

/* Raise an error if an argument is null. */
void
poser_import_check_argument(bool is_null, const char *name)
{
	if (is_null)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", name)));
}

/* The texts in an array, NULL for a null array; no nulls, none twice. */
static List *
names_in(Datum array, const char *argument)
{
	Datum *elements;
	bool *nulls;
	int n;
	List *result = NIL;

	if (DatumGetPointer(array) == NULL)
		return NIL;
	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT,
					  &elements, &nulls, &n);
	for (int i = 0; i < n; i++)
	{
		char *name;
		ListCell *lc;

		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("%s must not contain nulls", argument)));
		name = TextDatumGetCString(elements[i]);
		foreach(lc, result)
			if (strcmp(lfirst(lc), name) == 0)
				ereport(ERROR,
						(errcode(ERRCODE_DUPLICATE_COLUMN),
						 errmsg("column \"%s\" is in %s twice", name, argument)));
		result = lappend(result, name);
	}
	return result;
}

/* The columns of a relation's primary key, or of its only unique index; NIL if there is none. */
static List *
columns_of_key(Relation rel, bool primary)
{
	List *indexes = RelationGetIndexList(rel);
	List *result = NIL;
	int n = 0;
	ListCell *lc;

	foreach(lc, indexes)
	{
		Relation index = index_open(lfirst_oid(lc), AccessShareLock);
		Form_pg_index form = index->rd_index;

		if (form->indisvalid && form->indisunique && (form->indisprimary || !primary) &&
			heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL) &&
			heap_attisnull(index->rd_indextuple, Anum_pg_index_indexprs, NULL))
		{
			n++;
			result = NIL;
			for (int i = 0; i < form->indnkeyatts; i++)
				result = lappend(result, get_attname(RelationGetRelid(rel), form->indkey.values[i], false));
		}
		index_close(index, AccessShareLock);
	}
	list_free(indexes);
	return n == 1 ? result : NIL;
}

/* Has the relation all these columns? */
static bool
relation_has_columns(Oid relid, List *names)
{
	ListCell *lc;

	foreach(lc, names)
		if (get_attnum(relid, lfirst(lc)) <= 0)
			return false;
	return names != NIL;
}

/* The key if none is given: the target's, or else the source's if there is one. */
static List *
default_key(Relation source, Relation target)
{
	List *result = columns_of_key(target, true);

	if (result == NIL && source != NULL)
	{
		result = columns_of_key(source, true);
		if (!relation_has_columns(RelationGetRelid(target), result))
			result = NIL;
	}
	if (result == NIL)
		result = columns_of_key(target, false);
	if (result == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_COLUMN_REFERENCE),
				 errmsg("no key is given, and relation \"%s\" has no primary key",
						RelationGetRelationName(target)),
				 source != NULL ? errhint(SOURCE_HINT)
								: errhint("Name the columns by which rows are to be told from each other as \"key\".")));
	return result;
}

/* An attribute of the source or the target by name, an error if there is none. */
static Form_pg_attribute
attribute(PoserImport *import, Relation rel, const char *name)
{
	AttrNumber attno = poser_find_column(rel, name, import->source_name != NULL ? SOURCE_HINT : NULL);

	return TupleDescAttr(RelationGetDescr(rel), attno - 1);
}

/* Can a column be given values? */
bool
poser_import_can_be_written(Form_pg_attribute att)
{
	return att->attgenerated == '\0' && att->attidentity != ATTRIBUTE_IDENTITY_ALWAYS;
}

static bool
is_in_key(PoserImport *import, Form_pg_attribute att)
{
	for (int i = 0; i < import->nkeys; i++)
		if (import->columns[i].attno == att->attnum)
			return true;
	return false;
}

/*
 * An expression by which the type's input function reads a text, as COPY does.
 * NULL if the value is not of a text type.
 */
static Node *
coerce_text(Node *value, Oid source_type, Form_pg_attribute att)
{
	CoerceViaIO *read = makeNode(CoerceViaIO);
	Oid function;

	read->arg = (Expr *) value;
	read->resulttype = getBaseType(att->atttypid);
	read->resultcollid = get_typcollation(read->resulttype);
	read->coerceformat = COERCE_IMPLICIT_CAST;
	read->location = -1;
	if (find_coercion_pathway(read->resulttype, source_type, COERCION_EXPLICIT, &function) != COERCION_PATH_COERCEVIAIO)
		return NULL;
	return coerce_to_target_type(NULL, (Node *) read, read->resulttype, att->atttypid, att->atttypmod,
								 COERCION_ASSIGNMENT, COERCE_IMPLICIT_CAST, -1);
}

/* Describe the target's column, and how the source's value becomes one. */
static void
add_column(PoserImport *import, Relation source, Relation target, const char *name)
{
	PoserImportColumn *column = &import->columns[import->ncolumns++];
	Form_pg_attribute att = attribute(import, target, name);
	Form_pg_attribute from;
	CaseTestExpr *value;
	Node *expr;

	column->label = pstrdup(name);
	column->name = quote_identifier(column->label);
	column->attno = att->attnum;
	column->type = att->atttypid;
	column->typmod = att->atttypmod;
	column->collation = att->attcollation;
	column->len = att->attlen;
	column->byval = att->attbyval;
	column->as_text = poser_has_json_cast(att->atttypid);
	if (source == NULL)
		return;

	from = attribute(import, source, name);
	column->source_type = from->atttypid;

	value = makeNode(CaseTestExpr);
	value->typeId = from->atttypid;
	value->typeMod = from->atttypmod;
	value->collation = from->attcollation;
	expr = coerce_to_target_type(NULL, (Node *) value, from->atttypid, att->atttypid, att->atttypmod,
								 COERCION_ASSIGNMENT, COERCE_IMPLICIT_CAST, -1);
	if (expr == NULL)
		expr = coerce_text((Node *) value, from->atttypid, att);
	if (expr == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" of relation \"%s\" is of type %s, which cannot be assigned to type %s of relation \"%s\"",
						name, RelationGetRelationName(source),
						format_type_with_typemod(from->atttypid, from->atttypmod),
						format_type_with_typemod(att->atttypid, att->atttypmod),
						RelationGetRelationName(target)),
				 errhint(SOURCE_HINT)));
	while (IsA(expr, RelabelType))
		expr = (Node *) ((RelabelType *) expr)->arg;
	if (!IsA(expr, CaseTestExpr))
	{
		column->coerce = ExecPrepareExpr((Expr *) expr, import->estate);
		import->coerces = true;
	}
}

/* How the column of a key is compared. */
static void
describe_key(PoserImportColumn *column)
{
	TypeCacheEntry *type = lookup_type_cache(column->type, TYPECACHE_EQ_OPR |
															   TYPECACHE_HASH_EXTENDED_PROC_FINFO);

	if (!OidIsValid(type->eq_opr))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("column \"%s\" cannot be part of a key, for type %s has no equality operator",
						column->label, format_type_be(column->type))));
	column->equals = poser_equality(column->type);
	if (OidIsValid(type->hash_extended_proc_finfo.fn_oid))
		column->hash = &type->hash_extended_proc_finfo;
}

/* Are keys that are the same to an index of these columns, if there is one, those that are to us? */
static bool
sees_to_key(PoserImport *import, Oid indexid)
{
	Relation index;
	bool result = true;

	if (!OidIsValid(indexid))
		return false;
	index = index_open(indexid, AccessShareLock);
	for (int i = 0; i < import->nkeys; i++)
	{
		PoserImportColumn *column = &import->columns[i];
		Oid type;

		for (int j = 0; j < import->nkeys; j++)
			if (index->rd_index->indkey.values[j] == column->attno)
			{
				type = index->rd_opcintype[j];
				result = result && index->rd_indcollation[j] == column->collation &&
						 get_opfamily_member(index->rd_opfamily[j], type, type, BTEqualStrategyNumber) ==
							 lookup_type_cache(column->type, TYPECACHE_EQ_OPR)->eq_opr;
			}
	}
	index_close(index, AccessShareLock);
	return result;
}

/* Does the table have a foreign key to itself? */
static bool
has_key_to_itself(Relation rel)
{
	ListCell *lc;

	foreach(lc, RelationGetFKeyList(rel))
		if (lfirst_node(ForeignKeyCacheInfo, lc)->confrelid == RelationGetRelid(rel))
			return true;
	return false;
}

static int
compare_columns(const void *a, const void *b)
{
	return ((const PoserImportColumn *) a)->attno - ((const PoserImportColumn *) b)->attno;
}

/* The current user must have something to write there, or else nothing is to be locked. */
static void
check_may_write(Oid relid)
{
	const AclMode modes = ACL_INSERT | ACL_UPDATE | ACL_DELETE;

	if (pg_class_aclmask(relid, GetUserId(), modes, ACLMASK_ANY) == 0 &&
		pg_attribute_aclcheck_all(relid, GetUserId(), ACL_INSERT | ACL_UPDATE, ACLMASK_ANY) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, get_relkind_objtype(get_rel_relkind(relid)), get_rel_name(relid));
}

/* Open and lock a relation.  While this waits, the relation may be renamed, or dropped, which is an error. */
static Relation
open_locked(Oid relid)
{
	char *name = get_rel_name(relid);
	Relation result = try_relation_open(relid, AccessShareLock);

	if (result == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"%s\" does not exist", name != NULL ? name : psprintf("%u", relid))));
	return result;
}

/*
 * Begin an import by "function" from the relation "source", InvalidOid if the
 * rows come from elsewhere, into "target".  "key" and "fields" are arrays of
 * names, or 0.
 *
 * Between this and poser_import_end() there is a connection to SPI.  The result
 * lives in a context of its own in the current one.
 */
PoserImport *
poser_import_begin(const char *function, Oid source, Oid target, Datum key, Datum fields, bool writes)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "import", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old_context = MemoryContextSwitchTo(context);
	PoserImport *import = palloc0(sizeof(PoserImport));
	Relation from = NULL;
	Relation to;
	List *names;
	List *field_names;
	ListCell *lc;
	AttrNumber keys[INDEX_MAX_KEYS];
	bool immediate = false;
	bool found_some = false;

	import->function = function;
	import->context = context;
	import->row_context = AllocSetContextCreate(context, "row", ALLOCSET_DEFAULT_SIZES);
	import->problems.context = AllocSetContextCreate(context, "problems", ALLOCSET_DEFAULT_SIZES);
	import->read_only = !writes;
	import->estate = CreateExecutorState();
	import->phase = "reading";
	import->creates = import->updates = true;

	/* an OID may be of no relation, which is an error here */
	(void) poser_relation_name(target);
	if (!is_relkind(get_rel_relkind(target), "rpf"))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot import into relation \"%s\"", get_rel_name(target)),
				 errdetail("It is not a table or foreign table.")));
	if (writes)
		check_may_write(target);
	/* stronger locks come in their order, see poser_import_lock_target() */
	to = open_locked(target);
	import->target.relid = target;
	import->target.name = poser_relation_name(target);
	import->target.written_before = CheckRelationLockedByMe(to, RowExclusiveLock, true);
	import->target.relkind = to->rd_rel->relkind;
	import->target.label = pstrdup(RelationGetRelationName(to));
	import->target.only_name = import->target.name;
	if (import->target.relkind != RELKIND_PARTITIONED_TABLE)
		import->target.only_name = psprintf("ONLY %s", import->target.name);
	if (OidIsValid(source))
	{
		from = open_locked(source);
		import->source_name = poser_relation_name(source);
		if (!is_relkind(from->rd_rel->relkind, "rpfvm"))
			ereport(ERROR,
					(errcode(ERRCODE_WRONG_OBJECT_TYPE),
					 errmsg("cannot import from relation \"%s\"", RelationGetRelationName(from)),
					 errdetail("It is not a table, foreign table, view or materialized view.")));
		import->source_label = pstrdup(RelationGetRelationName(from));
		import->source_shown = psprintf("\"%s\"", import->source_label);

		for (int i = 0; i < RelationGetDescr(from)->natts; i++)
		{
			Form_pg_attribute att = TupleDescAttr(RelationGetDescr(from), i);

			found_some = found_some || (!att->attisdropped && get_attnum(target, NameStr(att->attname)) > 0);
		}
		if (!found_some)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("relations \"%s\" and \"%s\" have no column in common",
							import->source_label, import->target.label),
					 errhint(SOURCE_HINT)));
	}

	import->columns = palloc0(sizeof(PoserImportColumn) * (RelationGetDescr(to)->natts + 1));

	/* the key */
	names = names_in(key, "key");
	if (names == NIL)
		names = default_key(from, to);
	if (list_length(names) > INDEX_MAX_KEYS)
		ereport(ERROR,
				(errcode(ERRCODE_TOO_MANY_COLUMNS),
				 errmsg("a key cannot have more than %d columns", INDEX_MAX_KEYS)));
	foreach(lc, names)
	{
		add_column(import, from, to, lfirst(lc));
		describe_key(&import->columns[import->ncolumns - 1]);
		keys[import->nkeys++] = import->columns[import->ncolumns - 1].attno;
	}
	if (import->target.relkind != RELKIND_FOREIGN_TABLE)
		import->target.unique = sees_to_key(import, poser_unique_index(to, import->nkeys, keys, &immediate)) && immediate;

	/* the fields: those given, or all that both have */
	field_names = names_in(fields, "fields");
	foreach(lc, field_names)
	{
		Form_pg_attribute att = attribute(import, to, lfirst(lc));

		if (is_in_key(import, att))
			continue;
		if (!poser_import_can_be_written(att))
			ereport(ERROR,
					(errcode(ERRCODE_GENERATED_ALWAYS),
					 errmsg("column \"%s\" of relation \"%s\" cannot be written, for it is always generated",
							NameStr(att->attname), import->target.label)));
		add_column(import, from, to, lfirst(lc));
	}
	for (int i = 0; DatumGetPointer(fields) == NULL && i < RelationGetDescr(to)->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(to), i);

		if (!att->attisdropped && !is_in_key(import, att) && poser_import_can_be_written(att) &&
			(from == NULL || get_attnum(source, NameStr(att->attname)) > 0))
			add_column(import, from, to, NameStr(att->attname));
	}
	qsort(import->columns + import->nkeys, import->ncolumns - import->nkeys,
		  sizeof(PoserImportColumn), compare_columns);
	if (2 + 2 * import->ncolumns > MaxTupleAttributeNumber)
		ereport(ERROR,
				(errcode(ERRCODE_TOO_MANY_COLUMNS),
				 errmsg("cannot compare more than %d columns", (MaxTupleAttributeNumber - 2) / 2)));
	import->target.references_itself = has_key_to_itself(to);

	import->activity = "";
	if (MyBEEntry != NULL)
	{
		import->activity = pstrdup(MyBEEntry->st_activity_raw);
		import->query_id = MyBEEntry->st_query_id;
	}
	for (int i = 0; i < lengthof(import->limits); i++)
		import->limits[i] = PG_INT64_MAX;
	/* they stay open, so that no code that we run can make them something else */
	import->source_rel = from;
	import->target.rel = to;
	MemoryContextSwitchTo(old_context);

	SPI_connect();
	MemoryContextSwitchTo(old_context);
	return import;
}

void
poser_import_end(PoserImport *import)
{
	if (import->rows.reldata != NULL)
		tuplestore_end(import->rows.reldata);
	SPI_finish();
	if (import->source_rel != NULL)
		relation_close(import->source_rel, NoLock);
	relation_close(import->target.rel, NoLock);
	FreeExecutorState(import->estate);
	MemoryContextDelete(import->context);
}

/*
 * Keep other imports away from the target until the transaction ends; and
 * other writers, too, if no index keeps them from making rows twice.  Imports
 * must hold no lock that conflicts with the latter before they have the first.
 */
void
poser_import_lock_target(PoserImport *import, bool exclusively)
{
	const AclMode modes = ACL_UPDATE | ACL_DELETE | ACL_TRUNCATE;

	LockDatabaseObject(RelationRelationId, import->target.relid, 0, ExclusiveLock);
	/* as LOCK TABLE has it, not anybody who may insert something can lock others out */
	if (pg_class_aclmask(import->target.relid, GetUserId(), modes, ACLMASK_ANY) == 0)
		exclusively = false;
	import->target.locked = exclusively && import->target.relkind != RELKIND_FOREIGN_TABLE;
	LockRelationOid(import->target.relid,
					import->target.locked ? ShareRowExclusiveLock : RowExclusiveLock);
}
