/*
 * import_columns.c
 *	  The source and the target of an import, and the columns that are compared.
 *
 * The columns are those of the key, which identifies a row, and the fields, which are
 * written.  Each column of the target gets its value from the source's column with the
 * same name, by an assignment cast.  If there is no such cast, a text is converted by the
 * input function of the target's type, as COPY does it.
 *
 * The invariant: both relations stay open and locked from the beginning to the end of
 * an import.  So their columns do not change while it runs, whatever code it calls.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "parser/parse_coerce.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/typcache.h"

#include "imports/import_internal.h"

/* The hint if no key is found, or if the source lacks a column. */
#define SOURCE_HINT \
	"Name as \"key\" columns that both relations have, or import from a view that has the columns of the target."

/* Is the relkind one of these? */
static bool
has_relkind(char relkind, const char *kinds)
{
	return strchr(kinds, relkind) != NULL;
}

/* Raises an error if an argument of a function is null. */
void
poser_import_check_argument(bool is_null, const char *name)
{
	if (is_null)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", name)));
}

/*
 * Names
 */

/* Returns the names in an array of text, or NIL if the array is 0.  Raises an error if a name is null or occurs twice. */
static List *
read_names(Datum array, const char *argument)
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
		{
			if (strcmp(lfirst(lc), name) == 0)
				ereport(ERROR,
						(errcode(ERRCODE_DUPLICATE_COLUMN),
						 errmsg("column \"%s\" is in %s twice", name, argument)));
		}
		result = lappend(result, name);
	}
	return result;
}

/*
 * Returns the columns of a relation's primary key or, without "primary", of its only
 * unique index.  Returns NIL if there is no such index, or more than one unique index.
 */
static List *
find_key_columns(Relation rel, bool primary)
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

/* Does the relation have all these columns?  False for an empty list. */
static bool
relation_has_columns(Oid relid, List *names)
{
	ListCell *lc;

	foreach(lc, names)
	{
		if (get_attnum(relid, lfirst(lc)) <= 0)
			return false;
	}
	return names != NIL;
}

/*
 * Returns the columns of the key if the caller has named none.  These are the target's
 * primary key, or else the source's primary key if the target has its columns, or else the
 * target's only unique index.  Raises an error if there is none of these.
 */
static List *
default_key(Relation source, Relation target)
{
	List *result = find_key_columns(target, true);

	if (result == NIL && source != NULL)
	{
		result = find_key_columns(source, true);
		if (!relation_has_columns(RelationGetRelid(target), result))
			result = NIL;
	}
	if (result == NIL)
		result = find_key_columns(target, false);
	if (result == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_COLUMN_REFERENCE),
				 errmsg("no key is given, and relation \"%s\" has no primary key",
						RelationGetRelationName(target)),
				 source != NULL ? errhint(SOURCE_HINT)
								: errhint("Name the columns by which rows are to be told from each other as \"key\".")));
	return result;
}

/* Returns a column of the source or the target.  Raises an error if there is none. */
static Form_pg_attribute
find_attribute(PoserImport *import, Relation rel, const char *name)
{
	AttrNumber attno = poser_user_column(rel, name, import->source_name != NULL ? SOURCE_HINT : NULL);

	return TupleDescAttr(RelationGetDescr(rel), attno - 1);
}

/*
 * Columns
 */

/* Can a statement set the column? */
bool
poser_import_can_be_written(Form_pg_attribute att)
{
	return att->attgenerated == '\0' && att->attidentity != ATTRIBUTE_IDENTITY_ALWAYS;
}

/* Is the column one of the key's? */
static bool
is_in_key(PoserImport *import, Form_pg_attribute att)
{
	for (int i = 0; i < import->nkeys; i++)
		if (import->columns[i].attno == att->attnum)
			return true;
	return false;
}

/*
 * Returns an expression that converts a text by the input function of the column's type,
 * as COPY does it.  Returns NULL if the value is not of a text type.
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

/*
 * Add a column of the target to the import, with the coercion of the source's values to
 * the column's type.  Raises an error if a relation lacks the column, or if there is no
 * coercion.
 */
static PoserImportColumn *
add_column(PoserImport *import, const char *name)
{
	PoserImportColumn *column = &import->columns[import->ncolumns++];
	Form_pg_attribute att = find_attribute(import, import->target.rel, name);
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
	if (import->source_rel == NULL)
		return column;

	/* the coercion: a cast for assignment, or the input function */
	from = find_attribute(import, import->source_rel, name);
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
						name, import->source_label,
						format_type_with_typemod(from->atttypid, from->atttypmod),
						format_type_with_typemod(att->atttypid, att->atttypmod),
						import->target.label),
				 errhint(SOURCE_HINT)));

	/* a cast that keeps the value as it is (binary-coercible) needs no evaluation */
	while (IsA(expr, RelabelType))
		expr = (Node *) ((RelabelType *) expr)->arg;
	if (!IsA(expr, CaseTestExpr))
	{
		column->coerce = ExecPrepareExpr((Expr *) expr, import->estate);
		import->coerces = true;
	}
	return column;
}

/* Look up the equality operator and the hash function of a column of the key.  Raises an error if there is no equality operator. */
static void
set_key_operators(PoserImportColumn *column)
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

/*
 * Does an index of the key's columns use the same equality as the import?  With another
 * operator class or collation, two keys may be equal in the index and different in the
 * import, or the other way round.
 */
static bool
has_same_equality(PoserImport *import, Oid indexid)
{
	Relation index = index_open(indexid, AccessShareLock);
	bool result = true;

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
references_itself(Relation rel)
{
	ListCell *lc;

	foreach(lc, RelationGetFKeyList(rel))
	{
		if (lfirst_node(ForeignKeyCacheInfo, lc)->confrelid == RelationGetRelid(rel))
			return true;
	}
	return false;
}

/* For qsort(): the order of the columns in the table. */
static int
compare_columns(const void *a, const void *b)
{
	return ((const PoserImportColumn *) a)->attno - ((const PoserImportColumn *) b)->attno;
}

/*
 * Opening
 */

/* Raises an error unless the caller has a privilege to write the table.  Called before the table is locked. */
static void
check_may_write(Oid relid)
{
	const AclMode modes = ACL_INSERT | ACL_UPDATE | ACL_DELETE;

	if (pg_class_aclmask(relid, GetUserId(), modes, ACLMASK_ANY) == 0 &&
		pg_attribute_aclcheck_all(relid, GetUserId(), ACL_INSERT | ACL_UPDATE, ACLMASK_ANY) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, get_relkind_objtype(get_rel_relkind(relid)), get_rel_name(relid));
}

/* Open a relation with AccessShareLock.  Raises an error if it is dropped while this waits for the lock. */
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

/* Open the table that is written, and describe it. */
static void
open_target(PoserImport *import, Oid relid, bool writes)
{
	PoserImportTarget *target = &import->target;

	/* raises an error if there is no relation with this OID */
	(void) poser_relation_name(relid);
	if (!has_relkind(get_rel_relkind(relid), "rpf"))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot import into relation \"%s\"", get_rel_name(relid)),
				 errdetail("It is not a table or foreign table.")));
	if (writes)
		check_may_write(relid);

	/* the locks for writing come later, see poser_import_lock_target() */
	target->rel = open_locked(relid);
	target->relid = relid;
	target->written_before = CheckRelationLockedByMe(target->rel, RowExclusiveLock, true);
	target->relkind = target->rel->rd_rel->relkind;
	target->references_itself = references_itself(target->rel);
	target->label = pstrdup(RelationGetRelationName(target->rel));
	target->name = poser_relation_name(relid);
	target->only_name = target->name;
	if (target->relkind != RELKIND_PARTITIONED_TABLE)
		target->only_name = psprintf("ONLY %s", target->name);
}

/* Open the relation that is read, and describe it. */
static void
open_source(PoserImport *import, Oid relid)
{
	Relation rel = open_locked(relid);
	bool found_some = false;

	import->source_rel = rel;
	import->source_name = poser_relation_name(relid);
	if (!has_relkind(rel->rd_rel->relkind, "rpfvm"))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot import from relation \"%s\"", RelationGetRelationName(rel)),
				 errdetail("It is not a table, foreign table, view or materialized view.")));
	import->source_label = pstrdup(RelationGetRelationName(rel));
	import->source_shown = psprintf("\"%s\"", import->source_label);

	/* without a common column the error about a missing key would not help */
	for (int i = 0; i < RelationGetDescr(rel)->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), i);

		found_some = found_some ||
					 (!att->attisdropped && get_attnum(import->target.relid, NameStr(att->attname)) > 0);
	}
	if (!found_some)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("relations \"%s\" and \"%s\" have no column in common",
						import->source_label, import->target.label),
				 errhint(SOURCE_HINT)));
}

/* Add the columns of the key: those named in the array, or the default. */
static void
add_key(PoserImport *import, Datum key)
{
	List *names = read_names(key, "key");
	AttrNumber attnos[INDEX_MAX_KEYS];
	bool immediate = false;
	ListCell *lc;

	if (names == NIL)
		names = default_key(import->source_rel, import->target.rel);
	if (list_length(names) > INDEX_MAX_KEYS)
		ereport(ERROR,
				(errcode(ERRCODE_TOO_MANY_COLUMNS),
				 errmsg("a key cannot have more than %d columns", INDEX_MAX_KEYS)));
	foreach(lc, names)
	{
		PoserImportColumn *column = add_column(import, lfirst(lc));

		set_key_operators(column);
		attnos[import->nkeys++] = column->attno;
	}
	if (import->target.relkind != RELKIND_FOREIGN_TABLE)
	{
		Oid index = poser_unique_index(import->target.rel, import->nkeys, attnos, &immediate);

		import->target.unique = OidIsValid(index) && immediate && has_same_equality(import, index);
	}
}

/* Add the fields: the columns named in the array or, without an array, all columns that both relations have and that can be written. */
static void
add_fields(PoserImport *import, Datum fields)
{
	TupleDesc desc = RelationGetDescr(import->target.rel);
	ListCell *lc;

	/* the fields that the caller names */
	foreach(lc, read_names(fields, "fields"))
	{
		Form_pg_attribute att = find_attribute(import, import->target.rel, lfirst(lc));

		if (is_in_key(import, att))
			continue;
		if (!poser_import_can_be_written(att))
			ereport(ERROR,
					(errcode(ERRCODE_GENERATED_ALWAYS),
					 errmsg("column \"%s\" of relation \"%s\" cannot be written, for it is always generated",
							NameStr(att->attname), import->target.label)));
		(void) add_column(import, lfirst(lc));
	}

	/* or all columns that can be written and that the source has, too */
	for (int i = 0; DatumGetPointer(fields) == NULL && i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped && !is_in_key(import, att) && poser_import_can_be_written(att) &&
			(import->source_rel == NULL ||
			 get_attnum(RelationGetRelid(import->source_rel), NameStr(att->attname)) > 0))
			(void) add_column(import, NameStr(att->attname));
	}

	/* in the order of the table, whatever the order of the names */
	qsort(import->columns + import->nkeys, import->ncolumns - import->nkeys,
		  sizeof(PoserImportColumn), compare_columns);
	if (2 + 2 * import->ncolumns > MaxTupleAttributeNumber)
		ereport(ERROR,
				(errcode(ERRCODE_TOO_MANY_COLUMNS),
				 errmsg("cannot compare more than %d columns", (MaxTupleAttributeNumber - 2) / 2)));
}

/*
 * Begin an import by a function of this name, from the relation "source" into the table
 * "target".  "source" is InvalidOid if the rows come from elsewhere.  "key" and "fields"
 * are arrays of column names, or 0 for the default.  With "writes" the caller must have a
 * privilege to write the target, and queries see what the import has written.
 *
 * Both relations get an AccessShareLock until the transaction ends.  The import lives in
 * a memory context of its own under the current one.  From here to poser_import_end()
 * there is a connection to SPI.
 */
PoserImport *
poser_import_begin(const char *function, Oid source, Oid target, Datum key, Datum fields, bool writes)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "import", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old_context = MemoryContextSwitchTo(context);
	PoserImport *import = palloc0(sizeof(PoserImport));

	import->context = context;
	import->row_context = AllocSetContextCreate(context, "row", ALLOCSET_DEFAULT_SIZES);
	import->problems.context = AllocSetContextCreate(context, "problems", ALLOCSET_DEFAULT_SIZES);
	import->read_only = !writes;
	import->estate = CreateExecutorState();
	import->creates = import->updates = true;
	for (int i = 0; i < lengthof(import->limits); i++)
		import->limits[i] = PG_INT64_MAX;

	/* the relations and their columns */
	open_target(import, target, writes);
	if (OidIsValid(source))
		open_source(import, source);
	import->columns = palloc0(sizeof(PoserImportColumn) * (RelationGetDescr(import->target.rel)->natts + 1));
	add_key(import, key);
	add_fields(import, fields);

	poser_progress_begin(&import->progress, psprintf("%s into %s", function, import->target.label));

	/* SPI_finish() returns to the present memory context; SPI_connect() leaves it */
	MemoryContextSwitchTo(old_context);
	SPI_connect();
	MemoryContextSwitchTo(old_context);
	return import;
}

/* End an import, and free it.  The locks stay until the transaction ends. */
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
 * Lock the target for writing until the transaction ends.
 *
 * Take the import lock first.  It is a lock on the object, and only imports take it.  So
 * imports into one table wait for each other here, and cannot deadlock later.  Then lock
 * the table itself.  With "exclusively" no other transaction can write it, if the caller
 * has the privileges for such a lock; import->target.locked says so.
 */
void
poser_import_lock_target(PoserImport *import, bool exclusively)
{
	const AclMode modes = ACL_UPDATE | ACL_DELETE | ACL_TRUNCATE;

	LockDatabaseObject(RelationRelationId, import->target.relid, 0, ExclusiveLock);

	/* the privilege to insert is not enough to lock out other writers; LOCK TABLE has the same rule */
	if (pg_class_aclmask(import->target.relid, GetUserId(), modes, ACLMASK_ANY) == 0)
		exclusively = false;
	import->target.locked = exclusively && import->target.relkind != RELKIND_FOREIGN_TABLE;
	LockRelationOid(import->target.relid,
					import->target.locked ? ShareRowExclusiveLock : RowExclusiveLock);
}
