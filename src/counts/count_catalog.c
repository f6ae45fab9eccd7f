/*
 * count_catalog.c
 *	  Which tables hold a count, and whether its triggers maintain it.
 *
 * Two caches live until the session ends.  One has an entry for each trigger: what its
 * arguments mean.  The other has an entry for each child table: whether its counts are
 * maintained.  A relcache invalidation marks the entries that use the relation as
 * invalid.  They are looked up again when they are needed next.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "nodes/nodeFuncs.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/relcache.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "counts/counts_internal.h"

#define ALL_EVENTS (TRIGGER_TYPE_INSERT | TRIGGER_TYPE_UPDATE | TRIGGER_TYPE_DELETE | TRIGGER_TYPE_TRUNCATE)

static HTAB *count_triggers = NULL;
static HTAB *count_maintenances = NULL;

/* Relcache callback: mark the entries that use this relation as invalid; with InvalidOid, all entries. */
static void
invalidate_entries(Oid relid)
{
	HASH_SEQ_STATUS seq;
	PoserCountTrigger *trigger;
	PoserCountMaintenance *maintenance;

	hash_seq_init(&seq, count_triggers);
	while ((trigger = hash_seq_search(&seq)) != NULL)
		if (!OidIsValid(relid) || relid == trigger->relid ||
			relid == trigger->count.counts || relid == trigger->count.deltas)
			trigger->valid = false;

	hash_seq_init(&seq, count_maintenances);
	while ((maintenance = hash_seq_search(&seq)) != NULL)
		if (!OidIsValid(relid) || relid == maintenance->child || relid == maintenance->parent ||
			relid == maintenance->counts || relid == maintenance->deltas)
			maintenance->valid = false;
}

/* Make the caches, when the module is loaded. */
void
poser_count_catalog_init(void)
{
	HASHCTL ctl = {0};

	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(PoserCountTrigger);
	count_triggers = hash_create("poser count triggers", 16, &ctl, HASH_ELEM | HASH_BLOBS);
	ctl.entrysize = sizeof(PoserCountMaintenance);
	count_maintenances = hash_create("poser count maintenance", 16, &ctl, HASH_ELEM | HASH_BLOBS);
	poser_relation_register(invalidate_entries);
}

/*
 * The tables of a count
 */

/* The indexes of a count, see counts_internal.h. */
typedef enum KeyIndex
{
	INDEX_OF_COUNTS,
	INDEX_OF_DELTAS,
	INDEX_OF_SETTLED
} KeyIndex;

/*
 * Is the index's predicate a comparison of "delta" with 0 by one of these two functions?  They
 * are for the two types that the 0 can have.  The index was made by Poser.  An owner can have
 * made another one.  So the predicate is read as it is stored: RelationGetIndexPredicate()
 * evaluates what is constant in it, and that would run the owner's functions as any user.
 */
static bool
compares_delta(Relation index, AttrNumber delta, Oid with_int8, Oid with_int4)
{
	bool isnull;
	Datum predicate = SysCacheGetAttr(INDEXRELID, index->rd_indextuple, Anum_pg_index_indpred, &isnull);
	OpExpr *opr = isnull ? NULL : stringToNode(TextDatumGetCString(predicate));
	Var *var;
	Const *zero;

	if (opr == NULL || !IsA(opr, OpExpr) || list_length(opr->args) != 2)
		return false;
	set_opfuncid(opr);
	var = linitial(opr->args);
	zero = lsecond(opr->args);
	return (opr->opfuncid == with_int8 || opr->opfuncid == with_int4) &&
		   IsA(var, Var) && var->varattno == delta && IsA(zero, Const) && !zero->constisnull &&
		   (opr->opfuncid == with_int8 ? DatumGetInt64(zero->constvalue) : DatumGetInt32(zero->constvalue)) == 0;
}

/* Has the index the predicate, or none, of this index of a count? */
static bool
has_right_predicate(Relation index, const PoserCount *count, KeyIndex which)
{
	if (count->delta == 0 || which == INDEX_OF_COUNTS)
		return heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL);
	if (which == INDEX_OF_DELTAS)
		return compares_delta(index, count->delta, F_INT8GT, F_INT84GT);
	return compares_delta(index, count->delta, F_INT8EQ, F_INT84EQ);
}

/* Is it a valid B-tree index on exactly the first columns of a count's table, by the keys' own equality? */
static bool
is_key_index(Relation index, const PoserCount *count, int natts)
{
	Form_pg_index form = index->rd_index;

	if (!form->indisvalid || form->indnatts != natts || form->indnkeyatts != natts || form->indisexclusion ||
		index->rd_rel->relam != BTREE_AM_OID)
		return false;
	for (int i = 0; i < natts; i++)
	{
		if (form->indkey.values[i] != i + 1)
			return false;
		if (i < count->nkeys &&
			(index->rd_indcollation[i] != count->keys[i].collation ||
			 index->rd_opfamily[i] != lookup_type_cache(count->keys[i].type, TYPECACHE_BTREE_OPFAMILY)->btree_opf))
			return false;
	}
	return true;
}

/* Returns an index of a count, see counts_internal.h; InvalidOid if there is none. */
static Oid
find_index(Relation rel, const PoserCount *count, KeyIndex which)
{
	int natts = count->nkeys + (count->delta != 0 && which == INDEX_OF_COUNTS ? 1 : 0);
	Oid result = InvalidOid;
	List *indexes = RelationGetIndexList(rel);
	ListCell *lc;

	foreach(lc, indexes)
	{
		Relation index = index_open(lfirst_oid(lc), AccessShareLock);

		if (is_key_index(index, count, natts) && has_right_predicate(index, count, which) &&
			(which == INDEX_OF_DELTAS || (index->rd_index->indisunique && index->rd_index->indimmediate)))
			result = RelationGetRelid(index);
		index_close(index, AccessShareLock);
		if (OidIsValid(result))
			break;
	}
	list_free(indexes);
	return result;
}

/* The same for an index by which rows are looked up.  Raises an error if there is none. */
static Oid
find_key_index(Relation rel, const PoserCount *count, KeyIndex which)
{
	Oid result = find_index(rel, count, which);

	if (!OidIsValid(result))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("relation \"%s\" has no usable index on its key",
						RelationGetRelationName(rel)),
				 errhint("poser_check() says what was changed.")));
	return result;
}

/* Raises an error unless the table has the columns of the count and no others. */
static void
check_columns(Relation rel, const PoserCount *count)
{
	TupleDesc desc = RelationGetDescr(rel);
	int natts = count->amount - 1 + count->namounts;
	bool valid = (rel->rd_rel->relkind == RELKIND_RELATION && desc->natts >= natts);

	for (int i = 0; valid && i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (i < count->nkeys)
			valid = att->atttypid == count->keys[i].type && att->attcollation == count->keys[i].collation;
		else if (i + 1 == count->delta)
			valid = att->atttypid == INT8OID;
		else if (i < natts)
			valid = att->atttypid == (count->numeric[i - (count->amount - 1)] ? NUMERICOID : INT8OID);
		else
			valid = att->attisdropped;
	}
	if (!valid)
		poser_structure_error(rel);
}

/* Describe a key column of this type and collation. */
static void
describe_key(PoserCountKey *key, Oid type, Oid collation)
{
	TypeCacheEntry *entry = lookup_type_cache(type, TYPECACHE_EQ_OPR_FINFO | TYPECACHE_HASH_PROC_FINFO);

	if (!OidIsValid(entry->eq_opr_finfo.fn_oid) || !OidIsValid(entry->hash_proc_finfo.fn_oid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("type %s cannot be hashed", format_type_be(type))));
	key->type = type;
	key->collation = collation;
	key->length = entry->typlen;
	key->byvalue = entry->typbyval;
	key->equal = &entry->eq_opr_finfo;
	key->hash = &entry->hash_proc_finfo;
}

/* The amounts of the component counts, total and active: both are bigint. */
static const bool component_amounts[] = {false, false};

/*
 * Describe the component count in the tables "counts" and "deltas"; "key" gets its key.
 * Raises an error if their columns or indexes are not as they must be.  Unless the caller has
 * locked the tables, the description may be out of date when this function returns.
 */
void
poser_count_describe(PoserCount *count, PoserCountKey *key, Oid counts, Oid deltas)
{
	Relation rel = table_open(counts, AccessShareLock);
	Form_pg_attribute att;

	*count = (PoserCount) {.counts = counts,
						   .deltas = deltas,
						   .nkeys = 1,
						   .keys = key,
						   .amount = COUNT_TOTAL,
						   .namounts = lengthof(component_amounts),
						   .numeric = component_amounts};

	/* The type of the key is that of the first column. */
	if (RelationGetDescr(rel)->natts == 0)
		elog(ERROR, "relation \"%s\" has no column", RelationGetRelationName(rel));
	att = TupleDescAttr(RelationGetDescr(rel), COUNT_KEY - 1);
	*key = (PoserCountKey) {.type = att->atttypid, .collation = att->attcollation};
	check_columns(rel, count);
	describe_key(key, att->atttypid, att->attcollation);
	count->counts_index = find_key_index(rel, count, INDEX_OF_COUNTS);
	table_close(rel, AccessShareLock);

	/* The deltas have the same columns, but a key can have several rows. */
	rel = table_open(deltas, AccessShareLock);
	check_columns(rel, count);
	count->deltas_index = find_key_index(rel, count, INDEX_OF_DELTAS);
	table_close(rel, AccessShareLock);
}

/*
 * Describe the count of a maintained view, in the current memory context.  Raises an error if
 * the columns or indexes of its bookkeeping are not as they must be for this query.  Unless
 * the caller has locked the bookkeeping, the description may be out of date when this
 * function returns.
 */
void
poser_maintained_count(PoserCount *count, const PoserMaintained *maintained, const PoserViewForm *form)
{
	Relation rel = table_open(maintained->bookkeeping, AccessShareLock);
	bool *numeric = palloc(Max(2 * form->naggregates, 1) * sizeof(bool));

	*count = (PoserCount) {.counts = maintained->bookkeeping,
						   .deltas = maintained->bookkeeping,
						   .nkeys = form->nkeys,
						   .keys = palloc(form->nkeys * sizeof(PoserCountKey)),
						   .delta = form->nkeys + 1,
						   .amount = form->nkeys + 2,
						   .numeric = numeric,
						   .parent = maintained->parent,
						   .parent_keys = palloc(form->nkeys * sizeof(AttrNumber))};
	for (int i = 0; i < form->nkeys; i++)
	{
		describe_key(&count->keys[i], form->keys[i].type, form->keys[i].collation);
		count->parent_keys[i] = form->keys[i].parent;
	}

	/* the amounts of each aggregate: its value and, for a sum, its rows or its tally */
	for (int i = 0; i < form->naggregates; i++)
	{
		PoserViewKind kind = form->aggregates[i].kind;

		numeric[count->namounts++] = (kind == POSER_SUM_BIGINT || kind == POSER_SUM_NUMERIC);
		if (kind != POSER_COUNT)
			numeric[count->namounts++] = (kind == POSER_SUM_NUMERIC);
	}
	for (int i = 0; i < count->namounts; i++)
		count->nnumeric += numeric[i];

	check_columns(rel, count);
	count->counts_index = find_key_index(rel, count, INDEX_OF_COUNTS);
	count->deltas_index = find_key_index(rel, count, INDEX_OF_DELTAS);
	count->settled_index = find_index(rel, count, INDEX_OF_SETTLED);
	table_close(rel, AccessShareLock);
}

/*
 * The arguments of a trigger
 */

/* Returns the column that a trigger names by an argument. */
static AttrNumber
find_argument_column(TriggerData *trigdata, int argument)
{
	return poser_user_column(trigdata->tg_relation, trigdata->tg_trigger->tgargs[argument],
							 "poser_check() says what was changed.");
}

/*
 * Returns what the arguments of a count trigger mean: the table of settled counts, the
 * table of deltas, the column with the parent's key and, on the child, the column of the
 * flag.  The tables are in the schema of the trigger's function "fnoid".  Raises an error
 * if an argument names nothing suitable.
 *
 * The result lives until the session ends.  Its description of the two tables may be out
 * of date until they are locked, see poser_count_locked().
 */
const PoserCountTrigger *
poser_count_trigger(TriggerData *trigdata, Oid fnoid)
{
	Trigger *tg = trigdata->tg_trigger;
	Relation rel = trigdata->tg_relation;
	PoserCountTrigger *trigger = hash_search(count_triggers, &tg->tgoid, HASH_FIND, NULL);
	PoserCountTrigger looked_up = {.tgoid = tg->tgoid, .relid = RelationGetRelid(rel)};
	Oid nspid;
	uint64 started = poser_relation_changes();

	if (trigger != NULL && trigger->valid)
		return trigger;

	if (rel->rd_rel->relkind != RELKIND_RELATION)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot count rows of relation \"%s\"", RelationGetRelationName(rel)),
				 errdetail("It is not an ordinary table.")));
	if (tg->tgnargs != 3 && tg->tgnargs != 4)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" must have three or four arguments", tg->tgname)));

	/* Find what the arguments name. */
	nspid = get_func_namespace(fnoid);
	looked_up.key = find_argument_column(trigdata, 2);
	looked_up.flag = tg->tgnargs == 4 ? find_argument_column(trigdata, 3) : 0;
	poser_count_describe(&looked_up.count, &looked_up.count_key,
						 poser_relation_by_name(tg->tgargs[0], nspid),
						 poser_relation_by_name(tg->tgargs[1], nspid));
	if (TupleDescAttr(RelationGetDescr(rel), looked_up.key - 1)->atttypid != looked_up.count_key.type ||
		(looked_up.flag != 0 &&
		 TupleDescAttr(RelationGetDescr(rel), looked_up.flag - 1)->atttypid != BOOLOID))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("columns of relation \"%s\" do not have the types that trigger \"%s\" counts by",
						RelationGetRelationName(rel), tg->tgname),
				 errhint("poser_check() says what was changed.")));

	/* If a relation has changed since the look-up began, the next call looks up again. */
	looked_up.valid = (started == poser_relation_changes());

	/* An outer statement may be using the entry, so it is replaced in one step. */
	trigger = hash_search(count_triggers, &tg->tgoid, HASH_ENTER, NULL);
	*trigger = looked_up;
	trigger->count.keys = &trigger->count_key;
	return trigger;
}

/*
 * The PoserCountLock of the component counts.  Its argument is the TriggerData.
 *
 * Lock the two tables of a trigger's count for writing until the transaction ends, and
 * return the count.  While they are locked, the description of the tables and of their
 * indexes stays true: a command that drops or replaces an index takes a lock that
 * conflicts, or waits for transactions that have locked the table.
 */
const PoserCount *
poser_count_locked(void *arg)
{
	TriggerData *trigdata = arg;
	Oid counts = InvalidOid;
	Oid deltas = InvalidOid;

	/*
	 * Before the tables were locked, other sessions can have given their names to other
	 * tables.  Look the names up again until they are those of the locked tables.
	 */
	for (;;)
	{
		const PoserCountTrigger *trigger = poser_count_trigger(trigdata,
															   trigdata->tg_trigger->tgfoid);

		if (trigger->count.counts == counts && trigger->count.deltas == deltas)
			return &trigger->count;
		counts = trigger->count.counts;
		deltas = trigger->count.deltas;
		LockRelationOid(counts, RowExclusiveLock);
		LockRelationOid(deltas, RowExclusiveLock);
	}
}

/*
 * Whether triggers maintain a count
 */

/* Does the function have this name, and is it in this schema? */
static bool
is_function(Oid fnoid, const char *function, Oid nspid)
{
	char *name = get_func_name(fnoid);

	return name != NULL && strcmp(name, function) == 0 && get_func_namespace(fnoid) == nspid;
}

/* Do all changes of the table's rows fire its own triggers, and do the rows survive a crash? */
static bool
is_independent(Relation rel)
{
	return rel->rd_rel->relkind == RELKIND_RELATION &&
		   rel->rd_rel->relpersistence == RELPERSISTENCE_PERMANENT &&
		   !rel->rd_rel->relispartition &&
		   !has_subclass(RelationGetRelid(rel)) && !has_superclass(RelationGetRelid(rel));
}

/* The events, as bits of tgtype, for which a table's triggers always fire. */
typedef struct TriggerEvents
{
	int before;	   /* BEFORE triggers for statements */
	int after;	   /* AFTER triggers for statements */
	int after_row; /* AFTER triggers for rows */
} TriggerEvents;

/*
 * Collect the events of the triggers that call the function, and put the tables of the
 * count that they name into "maintenance".  A trigger that is disabled, or has a condition
 * or a list of columns, does not always fire and is left out.  Only a row trigger may have
 * a condition, because it is needed only for rows with an updated key.
 */
static TriggerEvents
collect_events(PoserCountMaintenance *maintenance, Relation rel, const char *function)
{
	TriggerEvents result = {0};
	/* A copy, because a look-up in the catalogs may free the descriptor in the relation cache. */
	TriggerDesc *triggers = CopyTriggerDesc(rel->trigdesc);

	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		Trigger *tg = &triggers->triggers[i];

		if ((tg->tgenabled != TRIGGER_FIRES_ON_ORIGIN && tg->tgenabled != TRIGGER_FIRES_ALWAYS) ||
			tg->tgnattr != 0 || tg->tgnargs < 3 ||
			!is_function(tg->tgfoid, function, maintenance->nspid))
			continue;
		maintenance->counts = get_relname_relid(tg->tgargs[0], maintenance->nspid);
		maintenance->deltas = get_relname_relid(tg->tgargs[1], maintenance->nspid);
		if (TRIGGER_FOR_ROW(tg->tgtype))
			result.after_row |= TRIGGER_FOR_AFTER(tg->tgtype) ? tg->tgtype & ALL_EVENTS : 0;
		else if (tg->tgqual == NULL && TRIGGER_FOR_BEFORE(tg->tgtype))
			result.before |= tg->tgtype & ALL_EVENTS;
		else if (tg->tgqual == NULL && TRIGGER_FOR_AFTER(tg->tgtype))
			result.after |= tg->tgtype & ALL_EVENTS;
	}
	FreeTriggerDesc(triggers);
	return result;
}

/*
 * Collect the transactions that wrote the catalog rows of the triggers that call the
 * function.  A snapshot that does not see one of these transactions can see rows from the
 * time before the counts were maintained.  Returns false if there are too many.
 */
static bool
collect_xids(PoserCountMaintenance *maintenance, Relation rel, const char *function)
{
	bool result = true;
	Relation catalog = table_open(TriggerRelationId, AccessShareLock);
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple tuple;

	ScanKeyInit(&key, Anum_pg_trigger_tgrelid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(RelationGetRelid(rel)));
	scan = systable_beginscan(catalog, TriggerRelidNameIndexId, true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		if (!is_function(((Form_pg_trigger) GETSTRUCT(tuple))->tgfoid, function, maintenance->nspid))
			continue;
		if (maintenance->num_xids == lengthof(maintenance->xids))
			result = false;
		else
			maintenance->xids[maintenance->num_xids++] = HeapTupleHeaderGetXmin(tuple->t_data);
	}
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return result;
}

/*
 * Do the table's triggers that call this function fire for exactly these events?  If
 * "after_row" is 0, its row triggers do not matter.  Adds the triggers' transactions, and
 * the tables of the count, to "maintenance".
 */
static bool
has_triggers(PoserCountMaintenance *maintenance, Oid relid, const char *function,
			 int before, int after, int after_row)
{
	Relation rel = table_open(relid, AccessShareLock);
	TriggerEvents events = collect_events(maintenance, rel, function);
	bool result = collect_xids(maintenance, rel, function) && is_independent(rel) &&
				  events.before == before && events.after == after &&
				  (after_row == 0 || events.after_row == after_row);

	table_close(rel, AccessShareLock);
	return result;
}

/*
 * Returns an entry that says whether the triggers see every change of "child" and
 * "parent".  This is so if all triggers exist and are enabled, and if each table is an
 * ordinary, permanent one without partitions or inheritance.  Rows that are written
 * through another table fire other triggers, or none, and a crash empties an unlogged
 * table.
 * "nspid" is the schema of the triggers' functions.
 *
 * The caller holds a lock on both tables.  The result lives until the session ends, but
 * the next call may change its content.
 */
const PoserCountMaintenance *
poser_count_maintenance(Oid parent, Oid child, Oid nspid)
{
	PoserCountMaintenance *maintenance = hash_search(count_maintenances, &child, HASH_FIND, NULL);
	PoserCountMaintenance looked_up = {.child = child, .parent = parent, .nspid = nspid};
	uint64 started = poser_relation_changes();

	if (maintenance != NULL && maintenance->valid && maintenance->parent == parent &&
		maintenance->nspid == nspid)
		return maintenance;

	looked_up.maintained =
		has_triggers(&looked_up, child, "poser_count_child", ALL_EVENTS, ALL_EVENTS, 0) &&
		has_triggers(&looked_up, parent, "poser_count_parent",
					 TRIGGER_TYPE_INSERT | TRIGGER_TYPE_UPDATE, ALL_EVENTS, TRIGGER_TYPE_UPDATE) &&
		OidIsValid(looked_up.counts) && OidIsValid(looked_up.deltas);

	/* If a relation has changed since the look-up began, the next call looks up again. */
	looked_up.valid = (started == poser_relation_changes());
	maintenance = hash_search(count_maintenances, &child, HASH_ENTER, NULL);
	*maintenance = looked_up;
	return maintenance;
}
