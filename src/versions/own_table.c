/*
 * own_table.c
 *	  Describing the tables that poser_track() has bound to tables of versions.
 *
 * In the database where poser_track() has matched them, columns are found by their
 * numbers, which RENAME does not change.  A dump does not keep the numbers.  So in any other
 * database, or if a table is another one, columns are found by name.  Names can have
 * been exchanged, and then values would get into the wrong column.  So this is done only if
 *
 * - both tables have all columns that the binding names,
 * - their columns are in the order in which they were bound, none is further behind than
 *   it was, and no other column of the table is between them.
 *
 * Columns of a table only come at its end.  So a column that was renamed, or dropped and
 * added, breaks one of these rules.  Otherwise nothing is recorded, and the writer gets
 * an error.
 *
 * A column is not recorded if it is excluded, if it was added since, or if it now has
 * another type.  The key is read from the catalogs each time.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/relcache.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "versions/versions.h"
#include "versions/version_internal.h"

/* Is the column GENERATED and virtual, so that a row has no value of it? */
static bool
is_virtual(Form_pg_attribute att)
{
	return att->attgenerated != '\0' && att->attgenerated != ATTRIBUTE_GENERATED_STORED;
}

/*
 * Find the bound columns by name, into the columns of the binding.  Returns NULL, or what
 * is wrong.
 */
const char *
poser_own_match_by_name(PoserBinding *binding, Relation target, Relation versions)
{
	AttrNumber last = 0;
	Bitmapset *bound = NULL;
	Bitmapset *used = NULL;

	for (int i = 0; i < binding->ncolumns; i++)
	{
		PoserBoundColumn *column = &binding->columns[i];
		AttrNumber attnum = get_attnum(RelationGetRelid(target), column->name);

		if (attnum <= 0)
			return psprintf("it has no column %s any more, as when poser_track() was called last", quote_identifier(column->name));
		if (attnum <= last || attnum > column->attnum)
			return psprintf("column %s is not the one that it was when poser_track() was called last", quote_identifier(column->name));
		last = column->attnum = attnum;
		bound = bms_add_member(bound, attnum);
		if (column->versions_attnum != 0)
		{
			attnum = get_attnum(RelationGetRelid(versions), column->versions_name);
			if (attnum <= 0 || attnum > column->versions_attnum || bms_is_member(attnum, used))
				return psprintf("column %s of %s is not the one that it was when poser_track() was called last",
								quote_identifier(column->versions_name), poser_relation_name(RelationGetRelid(versions)));
			used = bms_add_member(used, attnum);
			column->versions_attnum = attnum;
		}
	}
	for (AttrNumber attnum = 1; attnum < last; attnum++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(target), attnum - 1);

		if (!att->attisdropped && !is_virtual(att) && !bms_is_member(attnum, bound))
			return psprintf("column %s is not one that it had when poser_track() was called last", quote_identifier(NameStr(att->attname)));
	}
	bms_free(bound);
	bms_free(used);
	return NULL;
}

/* Can a column of a table give its values to this column of the versions?  The types text and varchar are stored alike. */
static bool
is_recordable(Form_pg_attribute att, Form_pg_attribute column)
{
	if (att->attisdropped || is_virtual(att) || column->attisdropped || column->attgenerated != '\0')
		return false;
	return (getBaseType(att->atttypid) == getBaseType(column->atttypid) ||
			(poser_is_text(getBaseType(att->atttypid)) && poser_is_text(getBaseType(column->atttypid)))) &&
		   (column->atttypmod < 0 || column->atttypmod == att->atttypmod);
}

/*
 * Returns the index of a table's key: of its primary key, or of its replica identity.
 * InvalidOid if it has neither, or if the index compares the columns in another way than
 * their types do.
 */
Oid
poser_own_key_index(Relation target)
{
	Oid result = InvalidOid;
	List *indexes = RelationGetIndexList(target);
	ListCell *lc;

	foreach(lc, indexes)
	{
		Relation index = index_open(lfirst_oid(lc), AccessShareLock);
		Form_pg_index form = index->rd_index;
		bool is_key = form->indisprimary ||
					  (form->indisreplident && target->rd_rel->relreplident == REPLICA_IDENTITY_INDEX && !OidIsValid(result));

		is_key = is_key && form->indisvalid && form->indisunique && index->rd_rel->relam == BTREE_AM_OID &&
				 heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL);
		for (int i = 0; is_key && i < form->indnkeyatts; i++)
		{
			AttrNumber attnum = form->indkey.values[i];
			Form_pg_attribute att = attnum > 0 ? TupleDescAttr(RelationGetDescr(target), attnum - 1) : NULL;
			Oid type = index->rd_opcintype[i];

			is_key = att != NULL && index->rd_indcollation[i] == att->attcollation &&
					 get_opfamily_member(index->rd_opfamily[i], type, type, BTEqualStrategyNumber) ==
						 lookup_type_cache(att->atttypid, TYPECACHE_EQ_OPR)->eq_opr;
		}
		if (is_key)
			result = lfirst_oid(lc);
		index_close(index, AccessShareLock);
	}
	list_free(indexes);
	return result;
}

/* Find the key of "target".  Returns NULL, or what is wrong with it. */
static const char *
describe_key(PoserVersioned *versioned, Relation target, Relation versions)
{
	Oid indexid = poser_own_key_index(target);
	const char *problem = NULL;
	Relation index;

	versioned->nkeys = 0;
	versioned->unique = true;
	if (!OidIsValid(indexid))
		return NULL;
	index = index_open(indexid, AccessShareLock);
	versioned->unique = index->rd_index->indimmediate;
	for (int i = 0; i < index->rd_index->indnkeyatts && problem == NULL; i++)
	{
		AttrNumber attnum = index->rd_index->indkey.values[i];
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(target), attnum - 1);
		AttrNumber column = 0;

		for (int j = 0; j < versioned->natts; j++)
			if (versioned->source[j] == attnum)
				column = j + 1;
		if (column == 0 || TupleDescAttr(RelationGetDescr(versions), column - 1)->attcollation != att->attcollation)
			problem = psprintf("column %s of its key is not recorded", quote_identifier(NameStr(att->attname)));
		else
			versioned->keys[versioned->nkeys++] = column;
	}
	index_close(index, AccessShareLock);
	return problem;
}

/* Returns a column that Poser itself has in a table of versions; 0 if there is none of this name and type. */
static AttrNumber
bookkeeping_column(Relation versions, const char *name, Oid type)
{
	AttrNumber attnum = get_attnum(RelationGetRelid(versions), name);

	return attnum > 0 && TupleDescAttr(RelationGetDescr(versions), attnum - 1)->atttypid == type ? attnum : 0;
}

/* Describe the columns and the key of a table, see poser_own_describe(). */
static const char *
describe_columns(PoserVersioned *versioned, Relation target, Relation versions, PoserBinding *binding,
				 PoserOwnColumns *columns)
{
	TupleDesc desc = RelationGetDescr(versions);
	const char *problem = NULL;
	bool *bound = palloc0((RelationGetDescr(target)->natts + 1) * sizeof(bool));

	/* the columns that only the versions have */
	versioned->natts = desc->natts;
	memset(versioned->source, 0, desc->natts * sizeof(AttrNumber));
	versioned->operation_type = bookkeeping_column(versions, binding->operation_type, INT2OID);
	versioned->transaction_id = bookkeeping_column(versions, binding->transaction_id, INT8OID);
	versioned->change_id = bookkeeping_column(versions, binding->change_id, INT8OID);
	if (versioned->operation_type == 0 || versioned->transaction_id == 0 || versioned->change_id == 0)
		return psprintf("relation %s does not have the columns that are Poser's", poser_relation_name(RelationGetRelid(versions)));

	/* the bound columns */
	if (!binding->here && (problem = poser_own_match_by_name(binding, target, versions)) != NULL)
		return problem;
	for (int i = 0; i < binding->ncolumns; i++)
	{
		PoserBoundColumn *column = &binding->columns[i];

		if (column->attnum > RelationGetDescr(target)->natts || column->versions_attnum > desc->natts ||
			TupleDescAttr(RelationGetDescr(target), column->attnum - 1)->attisdropped)
			continue;
		if (column->versions_attnum == 0)
		{
			bound[column->attnum] = true;
			columns->excluded = lappend(columns->excluded, pstrdup(NameStr(TupleDescAttr(RelationGetDescr(target), column->attnum - 1)->attname)));
			continue;
		}
		if (column->versions_attnum == versioned->operation_type ||
			column->versions_attnum == versioned->transaction_id || column->versions_attnum == versioned->change_id ||
			!is_recordable(TupleDescAttr(RelationGetDescr(target), column->attnum - 1), TupleDescAttr(desc, column->versions_attnum - 1)))
			continue;
		bound[column->attnum] = true;
		versioned->source[column->versions_attnum - 1] = column->attnum;
	}

	/* what is not recorded, and not excluded either */
	for (AttrNumber attnum = 1; attnum <= RelationGetDescr(target)->natts; attnum++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(target), attnum - 1);

		if (!bound[attnum] && !att->attisdropped && !is_virtual(att))
			columns->unrecorded = lappend(columns->unrecorded, pstrdup(NameStr(att->attname)));
	}
	pfree(bound);
	problem = describe_key(versioned, target, versions);
	for (int i = 0; i < versioned->nkeys; i++)
		columns->key = lappend(columns->key, pstrdup(NameStr(TupleDescAttr(RelationGetDescr(target), versioned->source[versioned->keys[i] - 1] - 1)->attname)));
	return problem;
}

/*
 * Describe the history of the tracked table "target" in its table of versions; both are open
 * and locked.  Returns NULL, or a text that says why nothing can be recorded; then the
 * description cannot be used.  "columns" gets the names of columns in any case.
 */
const char *
poser_own_describe(PoserVersioned *versioned, Relation target, Relation versions,
				   const PoserTracked *tracked, Oid nspid, PoserOwnColumns *columns)
{
	const Trigger *trigger = poser_binding_trigger(versions, tracked->binding);
	PoserBinding binding;
	const char *problem;

	memset(columns, 0, sizeof(PoserOwnColumns));
	if (trigger == NULL)
		return "no table of versions is bound to it";
	if (!poser_binding_parse(&binding, trigger, RelationGetRelid(target), RelationGetRelid(versions)))
		return psprintf("the arguments of trigger %s on %s are not those that poser_track() makes",
						quote_identifier(trigger->tgname), poser_relation_name(RelationGetRelid(versions)));
	if (versions->rd_rel->relkind != RELKIND_RELATION && versions->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		return psprintf("relation %s is not a table", poser_relation_name(RelationGetRelid(versions)));

	poser_versioned_describe_relations(versioned, target, versions, nspid);
	versioned->own = true;
	versioned->partial = binding.partial;
	versioned->partitioned = versions->rd_rel->relkind == RELKIND_PARTITIONED_TABLE;
	versioned->coerces = false;
	problem = describe_columns(versioned, target, versions, &binding, columns);
	pfree(binding.columns);
	if (problem != NULL)
		return problem;
	poser_versioned_describe_indexes(versioned, target, versions);
	return NULL;
}

/* Raises the error for a table whose changes cannot be recorded, or whose history cannot be used as it is. */
void
poser_own_error(Oid relid, const char *problem)
{
	char *detail = pstrdup(problem);
	char *name = get_rel_name(relid);
	bool no_key = strcmp(problem, POSER_NO_KEY) == 0;

	/* it can have been dropped meanwhile */
	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));
	detail[0] = pg_toupper((unsigned char) detail[0]);
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("table \"%s\" has no usable history", name),
			 errdetail("%s.", detail),
			 no_key ? errhint("Add a primary key.") : errhint("Call poser_track() for the table.")));
}

/* Returns why a table is not tracked, for an error or a check. */
const char *
poser_own_unbound_problem(Oid relid, Oid nspid)
{
	List *bindings = poser_tracked_bindings_of(relid, nspid);

	if (bindings == NIL)
		return "no table of versions is bound to it";
	return psprintf("its owner has no privilege to insert into %s",
					poser_relation_name(((PoserTracked *) linitial(bindings))->versions));
}

/*
 * Returns the tracked table of a description, for a session that has locked one of its
 * partitions.  The caller closes it by RelationClose().
 *
 * The table above a partition is not locked: whatever changes its columns or its key
 * locks the partition, too.  And a lock on it after one on the partition could be part of
 * a deadlock.
 */
Relation
poser_tracked_relation(const PoserVersioned *versioned)
{
	Relation result = RelationIdGetRelation(versioned->relid);

	if (result == NULL)
		elog(ERROR, "relation %u is gone", versioned->relid);
	return result;
}

/*
 * Find the binding of a table that is locked or, for a partition, that of the tracked table
 * above it.  Locks the table of versions with "lockmode" until the transaction ends.
 * Returns false if the table is not tracked.
 */
bool
poser_own_lock(Oid relid, Oid nspid, LOCKMODE lockmode, PoserTracked *tracked)
{
	PoserTracked again;

	/* lock, then look again: the table can have been bound anew, or to other versions, meanwhile */
	for (;;)
	{
		uint64 changes = poser_relation_changes();

		if (!poser_tracked_find(relid, nspid, tracked))
			return false;
		LockRelationOid(tracked->versions, lockmode);
		if (changes == poser_relation_changes() ||
			(poser_tracked_find(relid, nspid, &again) && again.binding == tracked->binding))
			return true;
		UnlockRelationOid(tracked->versions, lockmode);
	}
}

/*
 * Describe the history of a table that is open and locked or, for a partition, that of the
 * tracked table above it.  Locks the table of versions with "lockmode" until the
 * transaction ends.  Returns false if the table is not tracked.  Raises an error (55000) if
 * nothing can be recorded.  The tracked table itself is locked by nothing but the lock on
 * "rel", see poser_tracked_relation().
 */
bool
poser_own_open(PoserVersioned *versioned, Relation rel, Oid nspid, LOCKMODE lockmode, PoserOwnColumns *columns)
{
	PoserTracked tracked;
	Relation target;
	Relation versions;
	const char *problem;

	if (!poser_own_lock(RelationGetRelid(rel), nspid, lockmode, &tracked))
		return false;
	Assert(OidIsValid(tracked.binding));
	versions = table_open(tracked.versions, NoLock);
	target = RelationIdGetRelation(tracked.relid);
	if (target == NULL)
		elog(ERROR, "relation %u is gone", tracked.relid);
	problem = poser_own_describe(versioned, target, versions, &tracked, nspid, columns);
	if (problem != NULL)
		poser_own_error(tracked.relid, problem);
	RelationClose(target);
	table_close(versions, NoLock);
	return true;
}

/*
 * As poser_tracked_describe(), for a binding that was found without a lock, and locks both
 * tables.  Returns false if one of them is gone, or cannot be described.
 */
bool
poser_own_try_describe(PoserVersioned *versioned, const PoserTracked *tracked, Oid nspid, LOCKMODE lockmode)
{
	Relation rel = try_relation_open(tracked->relid, AccessShareLock);
	Relation versions = rel != NULL ? try_relation_open(tracked->versions, lockmode) : NULL;
	PoserOwnColumns columns;
	bool result = versions != NULL &&
				  poser_own_describe(versioned, rel, versions, tracked, nspid, &columns) == NULL;

	if (versions != NULL)
		relation_close(versions, NoLock);
	if (rel != NULL)
		relation_close(rel, NoLock);
	return result;
}

/* Returns the name of the column transaction_id in a bound table of versions; NULL if the binding is gone or cannot be read. */
char *
poser_own_transaction_column(const PoserTracked *tracked)
{
	Relation versions = try_relation_open(tracked->versions, AccessShareLock);
	PoserBinding binding;
	const Trigger *trigger;
	char *result = NULL;

	if (versions == NULL)
		return NULL;
	trigger = poser_binding_trigger(versions, tracked->binding);
	if (trigger != NULL && poser_binding_parse(&binding, trigger, tracked->relid, tracked->versions))
		result = pstrdup(binding.transaction_id);
	relation_close(versions, NoLock);
	return result;
}

void
poser_tracked_describe(PoserVersioned *versioned, Oid relid, Oid nspid, LOCKMODE lockmode)
{
	Relation rel;
	PoserOwnColumns columns;

	if (poser_versioned_describe_fixed(versioned, relid, nspid, lockmode))
		return;
	rel = table_open(relid, NoLock);
	if (!poser_own_open(versioned, rel, nspid, lockmode, &columns))
		poser_own_error(relid, poser_own_unbound_problem(relid, nspid));
	table_close(rel, NoLock);
}

/*
 * Find the columns that a table's binding has, also those that are not recorded any more.
 * Their numbers are those of the tables as they are now.  Returns false for a table
 * without a binding.  The table is described, so that it is locked.
 */
bool
poser_own_binding(const PoserVersioned *versioned, PoserBinding *binding)
{
	PoserTracked tracked;
	Relation versions;
	Relation target;
	const Trigger *trigger;
	bool result;

	if (!versioned->own || !poser_tracked_find(versioned->relid, versioned->nspid, &tracked))
		return false;
	versions = table_open(versioned->versions, NoLock);
	target = table_open(versioned->relid, NoLock);
	trigger = poser_binding_trigger(versions, tracked.binding);
	result = trigger != NULL && poser_binding_parse(binding, trigger, versioned->relid, versioned->versions) &&
			 (binding->here || poser_own_match_by_name(binding, target, versions) == NULL);
	table_close(target, NoLock);
	table_close(versions, NoLock);
	return result;
}
