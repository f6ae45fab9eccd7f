/*
 * catalog.c
 *	  Which relation is which, cached and invalidated.
 *
 * A function of Poser's finds its relations in the schema that the function
 * itself is in.  What a trigger needs to know is kept by the trigger's OID and
 * looked up again after any relcache invalidation of a relation it names;
 * whether a table's counts can be relied on, by the table's OID.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/relcache.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "poser.h"

/* Whether all triggers that maintain a table's counts are there. */
typedef struct MaintainedTable
{
	Oid relid; /* hash key */
	bool valid;
	Oid nspid;
	bool maintained;
} MaintainedTable;

static HTAB *count_triggers = NULL;
static HTAB *maintained_tables = NULL;
static uint64 generation = 0; /* of schema names */
static uint64 invalidations = 0;

/* A number that changes whenever a schema may have got another name. */
uint64
poser_catalog_generation(void)
{
	return generation;
}

static void
relation_changed(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS seq;
	PoserCountTrigger *trigger;
	MaintainedTable *table;

	invalidations++;
	hash_seq_init(&seq, count_triggers);
	while ((trigger = hash_seq_search(&seq)) != NULL)
		if (!OidIsValid(relid) || relid == trigger->relid ||
			relid == trigger->count.counts || relid == trigger->count.deltas)
			trigger->valid = false;

	hash_seq_init(&seq, maintained_tables);
	while ((table = hash_seq_search(&seq)) != NULL)
		if (!OidIsValid(relid) || relid == table->relid)
			table->valid = false;
}

static void
schema_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	generation++;
	relation_changed(arg, InvalidOid);
}

void
poser_catalog_init(void)
{
	HASHCTL ctl = {0};

	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(PoserCountTrigger);
	count_triggers = hash_create("poser count triggers", 16, &ctl, HASH_ELEM | HASH_BLOBS);
	ctl.entrysize = sizeof(MaintainedTable);
	maintained_tables = hash_create("poser maintained tables", 16, &ctl, HASH_ELEM | HASH_BLOBS);

	CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, schema_changed, (Datum) 0);
}

/* The index of "rel" whose only or first column is its first column. */
static Oid
key_index(Relation rel, bool unique)
{
	Oid result = InvalidOid;
	List *indexes = RelationGetIndexList(rel);
	ListCell *lc;

	foreach(lc, indexes)
	{
		Relation index = index_open(lfirst_oid(lc), AccessShareLock);
		Form_pg_index form = index->rd_index;

		if (form->indisvalid && form->indnatts == 1 &&
			form->indkey.values[0] == 1 &&
			index->rd_rel->relam == BTREE_AM_OID &&
			RelationGetIndexPredicate(index) == NIL &&
			(!unique || (form->indisunique && form->indimmediate)))
			result = RelationGetRelid(index);
		index_close(index, AccessShareLock);
		if (OidIsValid(result))
			break;
	}
	list_free(indexes);

	if (!OidIsValid(result))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("relation \"%s\" has no usable index on its key",
						RelationGetRelationName(rel)),
				 errhint("poser_check() says what was changed.")));
	return result;
}

static void
check_bookkeeping(Relation rel, Oid keytype)
{
	TupleDesc desc = RelationGetDescr(rel);

	if (rel->rd_rel->relkind != RELKIND_RELATION ||
		desc->natts != 3 ||
		TupleDescAttr(desc, 0)->atttypid != keytype ||
		TupleDescAttr(desc, 1)->atttypid != INT8OID ||
		TupleDescAttr(desc, 2)->atttypid != INT8OID)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("relation \"%s\" does not have the columns of a count",
						RelationGetRelationName(rel)),
				 errhint("poser_check() says what was changed.")));
}

/* Describe the count that is kept in "counts" and "deltas". */
void
poser_count_describe(PoserCount *count, Oid counts, Oid deltas)
{
	Relation rel = table_open(counts, AccessShareLock);
	Form_pg_attribute att;
	TypeCacheEntry *type;

	if (RelationGetDescr(rel)->natts == 0)
		elog(ERROR, "relation \"%s\" has no column", RelationGetRelationName(rel));
	att = TupleDescAttr(RelationGetDescr(rel), 0);

	check_bookkeeping(rel, att->atttypid);
	type = lookup_type_cache(att->atttypid,
							 TYPECACHE_EQ_OPR_FINFO | TYPECACHE_HASH_PROC_FINFO);
	if (!OidIsValid(type->eq_opr_finfo.fn_oid) || !OidIsValid(type->hash_proc_finfo.fn_oid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("type %s cannot be hashed", format_type_be(att->atttypid))));

	count->counts = counts;
	count->counts_index = key_index(rel, true);
	count->deltas = deltas;
	count->keytype = att->atttypid;
	count->keycollation = att->attcollation;
	count->keylen = att->attlen;
	count->keybyval = att->attbyval;
	count->key_eq = &type->eq_opr_finfo;
	count->key_hash = &type->hash_proc_finfo;
	table_close(rel, AccessShareLock);

	rel = table_open(deltas, AccessShareLock);
	check_bookkeeping(rel, count->keytype);
	count->deltas_index = key_index(rel, false);
	table_close(rel, AccessShareLock);
}

static Oid
relation_by_name(const char *name, Oid nspid)
{
	Oid relid = get_relname_relid(name, nspid);

	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"%s\" does not exist in schema \"%s\"",
						name, get_namespace_name(nspid))));
	return relid;
}

static AttrNumber
column_by_name(Relation rel, const char *name)
{
	AttrNumber attno = get_attnum(RelationGetRelid(rel), name);

	if (attno <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of relation \"%s\" does not exist",
						name, RelationGetRelationName(rel)),
				 errhint("poser_check() says what was changed.")));
	return attno;
}

/*
 * What the arguments of a count trigger mean: the table of settled counts, the
 * table of deltas, the column that is (or refers to) the parent's key and, on
 * the child, the column whose true values are counted as well.  "fnoid" is the
 * trigger's function; the tables are in its schema.
 *
 * The result stays where it is as long as the backend lives.
 */
const PoserCountTrigger *
poser_count_trigger(TriggerData *trigdata, Oid fnoid)
{
	Trigger *tg = trigdata->tg_trigger;
	Relation rel = trigdata->tg_relation;
	PoserCountTrigger *trigger;
	PoserCount count;
	Oid nspid;
	bool found;
	uint64 started = invalidations;

	trigger = hash_search(count_triggers, &tg->tgoid, HASH_ENTER, &found);
	if (found && trigger->valid)
		return trigger;
	trigger->valid = false;

	if (tg->tgnargs != 3 && tg->tgnargs != 4)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" must have three or four arguments", tg->tgname)));

	nspid = get_func_namespace(fnoid);
	trigger->relid = RelationGetRelid(rel);
	trigger->key = column_by_name(rel, tg->tgargs[2]);
	trigger->flag = tg->tgnargs == 4 ? column_by_name(rel, tg->tgargs[3]) : 0;

	trigger->count.counts = trigger->count.deltas = InvalidOid;
	poser_count_describe(&count,
						 relation_by_name(tg->tgargs[0], nspid),
						 relation_by_name(tg->tgargs[1], nspid));
	if (TupleDescAttr(RelationGetDescr(rel), trigger->key - 1)->atttypid != count.keytype ||
		(trigger->flag != 0 &&
		 TupleDescAttr(RelationGetDescr(rel), trigger->flag - 1)->atttypid != BOOLOID))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("columns of relation \"%s\" do not have the types that trigger \"%s\" counts by",
						RelationGetRelationName(rel), tg->tgname),
				 errhint("poser_check() says what was changed.")));

	trigger->count = count;
	/* what changed while we looked is looked up again the next time */
	trigger->valid = (started == invalidations);
	return trigger;
}

/* Does trigger "tg" call a function of this name in this schema, always? */
static bool
fires_always(const Trigger *tg, const char *function, Oid nspid)
{
	char *name;

	if ((tg->tgenabled != TRIGGER_FIRES_ON_ORIGIN && tg->tgenabled != TRIGGER_FIRES_ALWAYS) ||
		tg->tgqual != NULL || tg->tgnattr != 0 || TRIGGER_FOR_ROW(tg->tgtype) ||
		get_func_namespace(tg->tgfoid) != nspid)
		return false;
	name = get_func_name(tg->tgfoid);
	return name != NULL && strcmp(name, function) == 0;
}

/*
 * Whether every change of table "child" goes through the triggers that count
 * its rows: it is an ordinary table on its own (rows that come through a
 * partitioned or parent table fire other triggers, or none) that a crash does
 * not empty, and each of the triggers is there and enabled.
 *
 * The caller holds a lock on the table.
 */
bool
poser_count_maintained(Oid child, Oid nspid)
{
	MaintainedTable *table;
	Relation rel;
	bool found;
	uint64 started = invalidations;
	int before = 0;
	int after = 0;
	const int all = (TRIGGER_TYPE_INSERT | TRIGGER_TYPE_UPDATE |
					 TRIGGER_TYPE_DELETE | TRIGGER_TYPE_TRUNCATE);

	table = hash_search(maintained_tables, &child, HASH_ENTER, &found);
	if (found && table->valid && table->nspid == nspid)
		return table->maintained;
	table->valid = false;

	rel = table_open(child, AccessShareLock);
	if (rel->trigdesc != NULL)
		for (int i = 0; i < rel->trigdesc->numtriggers; i++)
		{
			Trigger *tg = &rel->trigdesc->triggers[i];

			if (!fires_always(tg, "poser_count_child", nspid))
				continue;
			if (TRIGGER_FOR_BEFORE(tg->tgtype))
				before |= tg->tgtype & all;
			else if (TRIGGER_FOR_AFTER(tg->tgtype))
				after |= tg->tgtype & all;
		}
	table->nspid = nspid;
	table->maintained = (rel->rd_rel->relkind == RELKIND_RELATION &&
						 rel->rd_rel->relpersistence == RELPERSISTENCE_PERMANENT &&
						 !rel->rd_rel->relispartition &&
						 !has_subclass(child) && !has_superclass(child) &&
						 before == all && after == all);
	table_close(rel, AccessShareLock);

	table->valid = (started == invalidations);
	return table->maintained;
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

/* Has the current user the relation's owner's rights? */
bool
poser_is_owner(Oid relid)
{
#if PG_VERSION_NUM >= 160000
	return object_ownercheck(RelationRelationId, relid, GetUserId());
#else
	return pg_class_ownercheck(relid, GetUserId());
#endif
}

/* Raises an error unless the current user has the relation's owner's rights. */
void
poser_check_owner(Oid relid)
{
	if (!poser_is_owner(relid))
		aclcheck_error(ACLCHECK_NOT_OWNER, get_relkind_objtype(get_rel_relkind(relid)),
					   get_rel_name(relid));
}
