/*
 * relation.c
 *	  Relations: their names, columns, indexes, rows and owners.
 *
 * The extension's relations are found by their names, in the schema of the function
 * that is called.  Users' relations are found by OID.  So the search_path does not
 * matter.  While a session waits for a lock, another session can give a name to another
 * relation.  So a relation that was looked up before a lock is looked up again after it.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/catalog.h"
#include "catalog/namespace.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/relcache.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "base/base.h"

/* How often a lock is tried at once, a millisecond apart. */
#define LOCK_TRIES 100

/* Relcache invalidations that this session has received. */
static uint64 invalidations = 0;

/* The functions that poser_relation_register() has registered. */
static PoserRelationCallback callbacks[8];
static int ncallbacks = 0;

/* The relcache callback. */
static void
relation_changed(Datum arg, Oid relid)
{
	invalidations++;
	for (int i = 0; i < ncallbacks; i++)
		callbacks[i](relid);
}

/* Register the callback, when the module is loaded. */
void
poser_relation_init(void)
{
	CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
}

/*
 * Register a function that is called at each relcache invalidation.  Called when the
 * module is loaded.  The server has only ten places for relcache callbacks in a session,
 * for itself and all extensions.  So Poser uses one place, and calls its own functions
 * from there.
 */
void
poser_relation_register(PoserRelationCallback callback)
{
	if (ncallbacks == lengthof(callbacks))
		elog(ERROR, "too many relcache callbacks");
	callbacks[ncallbacks++] = callback;
}

/*
 * Returns how many relcache invalidations this session has received.  If the number
 * is the same before and after a look-up, the look-up's result is not out of date.
 */
uint64
poser_relation_changes(void)
{
	return invalidations;
}

/* Returns the relation of this name in this schema.  Raises an error if there is none. */
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
 * Lock the relation of this name in this schema, and open it.  Raises an error if there
 * is none.  While this waits for the lock, another session can drop the relation or give
 * its name to another one.  Then it locks the other one instead.
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

/* Does this transaction hold a lock on the relation, in this mode or one of a higher number? */
static bool
holds_lock(Oid relid, LOCKMODE mode)
{
	LOCKTAG tag;

	SET_LOCKTAG_RELATION(tag, IsSharedRelation(relid) ? InvalidOid : MyDatabaseId, relid);
	for (; mode <= MaxLockMode; mode++)
		if (LockHeldByMe(&tag, mode, false))
			return true;
	return false;
}

/*
 * Lock relations, each in its mode, until the transaction ends.  Other transactions lock
 * them in any order.  So this function never waits for one of them while it holds the
 * lock on another one: it could then be part of a deadlock.
 *
 * A conditional request fails if others wait for the relation, although the transaction
 * holds a lock on it already, for which they wait.  An ordinary request is then granted at
 * once.  So this makes an ordinary request if the lock that is held includes this one.  If
 * it is a weaker lock, it does so after it has failed a few times.
 */
void
poser_lock_together(const Oid *relids, const LOCKMODE *modes, int n)
{
	int first = 0;
	int locked = 0;
	int failures = 0;

	while (locked < n)
	{
		int i = (first + locked) % n;

		CHECK_FOR_INTERRUPTS();
		if (locked == 0 || holds_lock(relids[i], failures > 2 * n ? AccessShareLock : Max(modes[i], ShareRowExclusiveLock)))
			LockRelationOid(relids[i], modes[i]);
		else if (!ConditionalLockRelationOid(relids[i], modes[i]))
		{
			/* release the others, and begin again by waiting for this one */
			while (locked > 0)
			{
				int j = (first + --locked) % n;

				UnlockRelationOid(relids[j], modes[j]);
			}
			first = i;
			failures++;
			continue;
		}
		locked++;
	}
}

/*
 * Lock a relation without waiting in the queue.  Returns false if another transaction keeps a
 * lock.  One that is held for a moment does not count, such as that of VACUUM when it
 * truncates a table.
 */
bool
poser_lock_at_once(Oid relid, LOCKMODE mode)
{
	for (int tries = 0; !ConditionalLockRelationOid(relid, mode); tries++)
	{
		if (tries == LOCK_TRIES)
			return false;
		CHECK_FOR_INTERRUPTS();
		pg_usleep(1000);
	}
	return true;
}

/* Raises the error for a relation that must be an ordinary table and is not. */
void
poser_table_kind_error(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("relation \"%s\" is not an ordinary table", name),
			 errhint("poser_check() says what was changed.")));
}

/* Returns the table of this name in this schema.  Raises an error if there is none, or if it is no ordinary table. */
Oid
poser_table_by_name(const char *name, Oid nspid)
{
	Oid relid = poser_relation_by_name(name, nspid);

	if (get_rel_relkind(relid) != RELKIND_RELATION)
		poser_table_kind_error(name);
	return relid;
}

/* Raises the error for one of the extension's own tables that lacks a column or its key. */
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
 * the type is not checked.
 */
AttrNumber
poser_own_column(Relation rel, const char *name, Oid type)
{
	AttrNumber attno = get_attnum(RelationGetRelid(rel), name);

	if (attno <= 0)
		poser_structure_error(rel);
	if (OidIsValid(type))
		poser_check_type(rel, RelationGetDescr(rel), attno, type);
	return attno;
}

/*
 * Returns the number of a column of a user's table.  Raises an error if the table has no
 * column of this name.  The error has this hint unless it is NULL.
 */
AttrNumber
poser_user_column(Relation rel, const char *name, const char *hint)
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

/* Does the index's key have these columns, in any order, and no others? */
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
 * Returns a unique B-tree index of all rows of the table on exactly these columns, or
 * InvalidOid.  *immediate is false if the index belongs to a deferrable constraint: then
 * two rows can have the same key until the constraint is checked.  Such an index is
 * returned only if there is no other one.
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

/*
 * Returns the equality operator of a type, for use in SQL under any search_path:
 * "OPERATOR(pg_catalog.=)" for text.  Raises an error if the type has none.
 */
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

/*
 * Raises an error unless a column has the type that the extension's scripts gave it.
 * The type text is accepted instead of varchar, because both are stored alike.  "rel" is
 * the table, or NULL if the column is one of a query's result.
 */
void
poser_check_type(Relation rel, TupleDesc desc, int column, Oid type)
{
	Form_pg_attribute att = TupleDescAttr(desc, column - 1);

	if (!att->attisdropped &&
		(att->atttypid == type || (type == VARCHAROID && att->atttypid == TEXTOID)))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 rel != NULL ? errmsg("column \"%s\" of relation \"%s\" is of type %s instead of %s", NameStr(att->attname),
								  RelationGetRelationName(rel), format_type_be(att->atttypid), format_type_be(type))
						 : errmsg("column \"%s\" is of type %s instead of %s", NameStr(att->attname),
								  format_type_be(att->atttypid), format_type_be(type)),
			 errhint("poser_check() says what was changed.")));
}

/* Returns the relation's qualified name, quoted for use in SQL. */
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

/* Returns the owner of a relation; InvalidOid if the relation is gone. */
Oid
poser_owner_of(Oid relid)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid result;

	if (!HeapTupleIsValid(tuple))
		return InvalidOid;
	result = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return result;
}

/* Do two relations have one owner? */
bool
poser_have_one_owner(Oid a, Oid b)
{
	Oid owner = poser_owner_of(a);

	return OidIsValid(owner) && owner == poser_owner_of(b);
}

/* Does the role have the rights of the relation's owner? */
bool
poser_is_owner(Oid relid, Oid roleid)
{
	return object_ownercheck(RelationRelationId, relid, roleid);
}

/* Raises an error unless the current user has the rights of the relation's owner. */
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
 * Raises an error unless the current user may read all rows of "relid".  The current
 * user is the owner of "owned".  Tables of the extension can have different owners, and
 * the owner of one table may have no privilege to read another one.
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
 * Make this role the current user, as poser_become_owner() says.  "context" is added to the
 * security context.
 */
void
poser_become_role(Oid roleid, int context, PoserCaller *caller)
{
	static const PoserSetting settings[] = {{"search_path", "pg_catalog, pg_temp"}};

	GetUserIdAndSecContext(&caller->userid, &caller->sec_context);
	SetUserIdAndSecContext(roleid, caller->sec_context | context);
	caller->level = 0;
	if (roleid != caller->userid)
		caller->level = strcmp(namespace_search_path, settings[0].value) == 0 ? NewGUCNestLevel()
																			  : poser_begin_settings(settings, lengthof(settings));
}

/*
 * Make the relation's owner the current user.  The owner sees all rows of the table,
 * even under FORCE ROW LEVEL SECURITY.  Code that belongs to the owner, in types,
 * casts and policies, then runs with the owner's rights and not with the caller's.
 *
 * If the owner is another role than the caller, this code must not find functions and
 * operators of the caller.  So it gets a search_path of its own.  And settings that it
 * changes end with poser_become_caller(): otherwise they could change what the caller's
 * next statements mean.
 *
 * The former user becomes the current one again by poser_become_caller().  After an error the
 * rollback of the transaction or subtransaction does this.
 */
void
poser_become_owner(Oid relid, PoserCaller *caller)
{
	Relation rel = table_open(relid, AccessShareLock);

	poser_become_role(rel->rd_rel->relowner, POSER_AS_OWNER, caller);
	table_close(rel, NoLock);
}

/*
 * Take away all privileges on a new table but the owner's: default privileges may have given
 * some.  It runs as the owner.
 */
void
poser_close_to_others(Oid relid)
{
	const char *name = poser_relation_name(relid);
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	bool isnull;
	Datum datum = SysCacheGetAttr(RELOID, tuple, Anum_pg_class_relacl, &isnull);
	Acl *acl = isnull ? NULL : DatumGetAclPCopy(datum);
	PoserCaller caller;

	ReleaseSysCache(tuple);
	if (acl == NULL)
		return;
	poser_become_owner(relid, &caller);
	for (int i = 0; i < ACL_NUM(acl); i++)
	{
		Oid grantee = ACL_DAT(acl)[i].ai_grantee;

		if (grantee != owner)
			poser_run_utility(psprintf("REVOKE ALL ON TABLE %s FROM %s", name,
									   grantee == ACL_ID_PUBLIC ? "PUBLIC" : quote_identifier(GetUserNameFromId(grantee, false))));
	}
	poser_run_utility(psprintf("GRANT ALL ON TABLE %s TO %s", name, quote_identifier(GetUserNameFromId(owner, false))));
	poser_become_caller(&caller);
}

/* Undo poser_become_owner().  All settings that were made since end. */
void
poser_become_caller(PoserCaller *caller)
{
	if (caller->level != 0)
		AtEOXact_GUC(false, caller->level);
	caller->level = 0;
	SetUserIdAndSecContext(caller->userid, caller->sec_context);
}
