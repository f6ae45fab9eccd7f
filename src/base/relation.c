/*
 * relation.c
 *	  Relations: their names, columns, indexes, rows and owners.
 *
 * A function of Poser finds the extension's relations in its own schema.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/relcache.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "base/base.h"

static uint64 invalidations = 0;

static void
relation_changed(Datum arg, Oid relid)
{
	invalidations++;
}

void
poser_relation_init(void)
{
	CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
}

/* How many invalidations of relations this session has received. */
uint64
poser_relation_changes(void)
{
	return invalidations;
}

/* The relation of this name in this schema; an error if there is none. */
Oid
poser_relation_by_name(const char *name, Oid nspid)
{
	Oid relid = get_relname_relid(name, nspid);

	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"%s\" does not exist in schema \"%s\"",
						name, get_namespace_name(nspid))));
	return relid;
}

/*
 * Open the relation of this name in this schema, and lock it.  While the lock is
 * waited for, another session can drop the relation or give its name to another one.
 */
Relation
poser_open_by_name(const char *name, Oid nspid, LOCKMODE lockmode)
{
	for (;;)
	{
		Oid relid = poser_relation_by_name(name, nspid);

		LockRelationOid(relid, lockmode);
		if (get_relname_relid(name, nspid) == relid)
			return relation_open(relid, NoLock);
		UnlockRelationOid(relid, lockmode);
	}
}

/* Raises an error: a relation of this name is something else than a table. */
void
poser_table_kind_error(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("relation \"%s\" is not an ordinary table", name),
			 errhint("poser_check() says what was changed.")));
}

/* The table of this name in this schema; an error if it is something else. */
Oid
poser_table_by_name(const char *name, Oid nspid)
{
	Oid relid = poser_relation_by_name(name, nspid);

	if (get_rel_relkind(relid) != RELKIND_RELATION)
		poser_table_kind_error(name);
	return relid;
}

/* Raises an error: a table of the extension's own is not what it was. */
void
poser_structure_error(Relation rel)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("relation \"%s\" does not have the columns and the key that it should have",
					RelationGetRelationName(rel)),
			 errhint("poser_check() says what was changed.")));
}

/*
 * Returns the number of a column of one of the extension's own tables.  Raises an error
 * unless the column exists and has the type that it was made with.  With InvalidOid
 * the type is not looked at.
 */
int
poser_column(Relation rel, const char *name, Oid type)
{
	AttrNumber attno = get_attnum(RelationGetRelid(rel), name);

	if (attno <= 0)
		poser_structure_error(rel);
	if (OidIsValid(type))
		poser_check_type(RelationGetDescr(rel), attno, type);
	return attno;
}

/*
 * Returns the number of a column that a user has named.  Raises an error if there is
 * none, with this hint unless it is NULL.
 */
AttrNumber
poser_find_column(Relation rel, const char *name, const char *hint)
{
	AttrNumber attno = get_attnum(RelationGetRelid(rel), name);

	if (attno <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of relation \"%s\" does not exist",
						name, RelationGetRelationName(rel)),
				 hint != NULL ? errhint("%s", hint) : 0));
	return attno;
}

/* Are these, in any order, all columns of the index's key? */
static bool
has_key_columns(Relation index, int ncolumns, const AttrNumber *columns)
{
	bool result = (index->rd_index->indnkeyatts == ncolumns);

	for (int i = 0; i < ncolumns; i++)
	{
		bool found = false;

		for (int j = 0; j < index->rd_index->indnkeyatts; j++)
			found = found || index->rd_index->indkey.values[j] == columns[i];
		result = result && found;
	}
	return result;
}

/*
 * An index of the table in which these columns are unique, or InvalidOid; and
 * whether they always are, or only when a deferrable constraint has been checked.
 */
Oid
poser_unique_index(Relation rel, int ncolumns, const AttrNumber *columns, bool *immediate)
{
	Oid result = InvalidOid;
	List *indexes = RelationGetIndexList(rel);
	ListCell *lc;

	*immediate = false;
	foreach(lc, indexes)
	{
		Relation index = index_open(lfirst_oid(lc), AccessShareLock);
		Form_pg_index form = index->rd_index;

		if (form->indisvalid && form->indisunique && (!OidIsValid(result) || form->indimmediate) &&
			index->rd_rel->relam == BTREE_AM_OID &&
			heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL) &&
			has_key_columns(index, ncolumns, columns))
		{
			result = RelationGetRelid(index);
			*immediate = form->indimmediate;
		}
		index_close(index, AccessShareLock);
	}
	list_free(indexes);
	return result;
}

/* The operator in SQL by which a type's values are equal, whatever the search_path. */
char *
poser_equality(Oid type)
{
	Oid opr = lookup_type_cache(type, TYPECACHE_EQ_OPR)->eq_opr;
	HeapTuple tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(opr));
	Form_pg_operator form;
	char *result;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("could not identify an equality operator for type %s", format_type_be(type))));
	form = (Form_pg_operator) GETSTRUCT(tuple);
	result = psprintf("OPERATOR(%s.%s)", quote_identifier(get_namespace_name(form->oprnamespace)),
					  NameStr(form->oprname));
	ReleaseSysCache(tuple);
	return result;
}

/* Make a key that finds the rows with this value in the index's column. */
void
poser_scan_key(ScanKey key, Relation index, int column, Datum value)
{
	Oid type = index->rd_opcintype[column - 1];
	Oid opr = get_opfamily_member(index->rd_opfamily[column - 1], type, type,
								  BTEqualStrategyNumber);

	if (!OidIsValid(opr))
		elog(ERROR, "missing operator of type %u in index \"%s\"", type,
			 RelationGetRelationName(index));
	ScanKeyEntryInitialize(key, 0, column, BTEqualStrategyNumber, InvalidOid,
						   index->rd_indcollation[column - 1], get_opcode(opr), value);
}

/*
 * Find the row of a table, as it is now, whose key columns have these values.
 * Returns false if that cannot be found out, because they are not a key.
 */
bool
poser_fetch_row(Relation rel, int nkeys, const AttrNumber *columns, const Datum *values,
				TupleTableSlot *slot, bool *found)
{
	ScanKeyData keys[INDEX_MAX_KEYS];
	bool immediate;
	Oid indexid = poser_unique_index(rel, nkeys, columns, &immediate);
	Relation index;
	IndexScanDesc scan;

	if (!OidIsValid(indexid))
		return false;
	index = index_open(indexid, AccessShareLock);
	for (int i = 0; i < nkeys; i++)
		for (int j = 0; j < nkeys; j++)
			if (index->rd_index->indkey.values[i] == columns[j])
				poser_scan_key(&keys[i], index, i + 1, values[j]);
	scan = index_beginscan(rel, index, SnapshotSelf, NULL, nkeys, 0, SO_NONE);
	index_rescan(scan, keys, nkeys, NULL, 0);
	*found = index_getnext_slot(scan, ForwardScanDirection, slot);
	index_endscan(scan);
	index_close(index, AccessShareLock);
	return true;
}

/*
 * Raises an error unless a column is of the type that it was made as.  A text is
 * stored like a varchar, and passes for one.
 */
void
poser_check_type(TupleDesc desc, int column, Oid type)
{
	Form_pg_attribute att = TupleDescAttr(desc, column - 1);

	if (att->attisdropped ||
		(att->atttypid != type && !(type == VARCHAROID && att->atttypid == TEXTOID)))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("column \"%s\" is of type %s instead of %s", NameStr(att->attname),
						format_type_be(att->atttypid), format_type_be(type)),
				 errhint("poser_check() says what was changed.")));
}

/* The relation's qualified name, quoted for use in SQL. */
char *
poser_relation_name(Oid relid)
{
	char *name = get_rel_name(relid);

	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)), name);
}

/* Is the column GENERATED ALWAYS AS IDENTITY? */
bool
poser_is_always_identity(Oid relid, AttrNumber column)
{
	HeapTuple tuple = SearchSysCache2(ATTNUM, ObjectIdGetDatum(relid), Int16GetDatum(column));
	bool result;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for attribute %d of relation %u", column, relid);
	result = ((Form_pg_attribute) GETSTRUCT(tuple))->attidentity == ATTRIBUTE_IDENTITY_ALWAYS;
	ReleaseSysCache(tuple);
	return result;
}

/* Has the role the relation's owner's rights? */
bool
poser_is_owner(Oid relid, Oid roleid)
{
	return object_ownercheck(RelationRelationId, relid, roleid);
}

/* Raises an error unless the current user has the relation's owner's rights. */
void
poser_check_owner(Oid relid)
{
	if (!poser_is_owner(relid, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, get_relkind_objtype(get_rel_relkind(relid)),
					   get_rel_name(relid));
}

/* May the current user read all rows of the relation? */
bool
poser_may_read(Oid relid)
{
	Oid nspid = get_rel_namespace(relid);

	if (object_aclcheck(NamespaceRelationId, nspid, GetUserId(), ACL_USAGE) != ACLCHECK_OK)
		return false;
	return pg_class_aclcheck(relid, GetUserId(), ACL_SELECT) == ACLCHECK_OK &&
		   check_enable_rls(relid, InvalidOid, true) != RLS_ENABLED;
}

/*
 * Raises an error unless the current user, who is the owner of "owned", may read
 * all rows of "relid".  Tables of the extension may have different owners, and one
 * owner may lack the right to read a table of another.
 */
void
poser_check_readable(Oid owned, Oid relid)
{
	if (!poser_may_read(relid))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("owner of relation \"%s\" cannot read relation \"%s\"",
						get_rel_name(owned), get_rel_name(relid)),
				 errhint("poser_check() says what was changed.")));
}

/*
 * Act as the relation's owner, who sees all its rows even under FORCE ROW LEVEL
 * SECURITY, and whose code (in types, casts or policies of his) must not run
 * with the rights of whoever calls.  The caller goes back by
 * SetUserIdAndSecContext(); an error does so by itself.
 */
void
poser_become_owner(Oid relid, Oid *save_userid, int *save_sec_context)
{
	Relation rel = table_open(relid, AccessShareLock);

	GetUserIdAndSecContext(save_userid, save_sec_context);
	SetUserIdAndSecContext(rel->rd_rel->relowner,
						   *save_sec_context | SECURITY_LOCAL_USERID_CHANGE |
							   SECURITY_RESTRICTED_OPERATION | SECURITY_NOFORCE_RLS);
	table_close(rel, NoLock);
}
