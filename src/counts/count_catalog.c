/*
 * count_catalog.c
 *	  Which tables hold a count, and whether its triggers maintain it.
 *
 * What a trigger needs to know is kept by the trigger's OID and looked up again
 * after any relcache invalidation of a relation it names; so is whether a table's
 * counts can be relied on, kept by the table's OID.
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
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/relcache.h"
#include "utils/typcache.h"

#include "counts/counts.h"

static HTAB *count_triggers = NULL;
static HTAB *count_states = NULL;

static void
relation_changed(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS seq;
	PoserCountTrigger *trigger;
	PoserCountState *state;

	hash_seq_init(&seq, count_triggers);
	while ((trigger = hash_seq_search(&seq)) != NULL)
		if (!OidIsValid(relid) || relid == trigger->relid ||
			relid == trigger->count.counts || relid == trigger->count.deltas)
			trigger->valid = false;

	hash_seq_init(&seq, count_states);
	while ((state = hash_seq_search(&seq)) != NULL)
		if (!OidIsValid(relid) || relid == state->child || relid == state->parent ||
			relid == state->counts || relid == state->deltas)
			state->valid = false;
}

void
poser_count_catalog_init(void)
{
	HASHCTL ctl = {0};

	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(PoserCountTrigger);
	count_triggers = hash_create("poser count triggers", 16, &ctl, HASH_ELEM | HASH_BLOBS);
	ctl.entrysize = sizeof(PoserCountState);
	count_states = hash_create("poser count states", 16, &ctl, HASH_ELEM | HASH_BLOBS);
	CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
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
	bool valid = (rel->rd_rel->relkind == RELKIND_RELATION &&
				  desc->natts >= 3 &&
				  TupleDescAttr(desc, 0)->atttypid == keytype &&
				  TupleDescAttr(desc, 1)->atttypid == INT8OID &&
				  TupleDescAttr(desc, 2)->atttypid == INT8OID);

	for (int i = 3; i < desc->natts; i++)
		if (!TupleDescAttr(desc, i)->attisdropped)
			valid = false;
	if (!valid)
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
 * The result stays where it is as long as the backend lives.  Its description of
 * the two tables may be out of date until they are locked, see
 * poser_count_locked().
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
				 errdetail("Rows of ordinary tables only can be counted.")));
	if (tg->tgnargs != 3 && tg->tgnargs != 4)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" must have three or four arguments", tg->tgname)));

	nspid = get_func_namespace(fnoid);
	looked_up.key = column_by_name(rel, tg->tgargs[2]);
	looked_up.flag = tg->tgnargs == 4 ? column_by_name(rel, tg->tgargs[3]) : 0;

	poser_count_describe(&looked_up.count,
						 poser_relation_by_name(tg->tgargs[0], nspid),
						 poser_relation_by_name(tg->tgargs[1], nspid));
	if (TupleDescAttr(RelationGetDescr(rel), looked_up.key - 1)->atttypid != looked_up.count.keytype ||
		(looked_up.flag != 0 &&
		 TupleDescAttr(RelationGetDescr(rel), looked_up.flag - 1)->atttypid != BOOLOID))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("columns of relation \"%s\" do not have the types that trigger \"%s\" counts by",
						RelationGetRelationName(rel), tg->tgname),
				 errhint("poser_check() says what was changed.")));

	/* what changed while we looked is looked up again the next time */
	looked_up.valid = (started == poser_relation_changes());

	/* a statement in progress may be using the entry, so it is replaced as a whole */
	trigger = hash_search(count_triggers, &tg->tgoid, HASH_ENTER, NULL);
	*trigger = looked_up;
	return trigger;
}

/*
 * Returns the count of a trigger that has fired, and locks its two tables for
 * writing until the end of the transaction.  The tables may have changed before
 * they were locked, so they are described again afterwards.  From then on their
 * indexes stay as they are, too: a command that drops or replaces an index takes
 * a lock that conflicts, or waits for transactions that have locked the table.
 */
const PoserCount *
poser_count_locked(TriggerData *trigdata)
{
	Oid counts = InvalidOid;
	Oid deltas = InvalidOid;

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

/* Is it the OID of the function of this name in this schema? */
static bool
is_function(Oid fnoid, const char *function, Oid nspid)
{
	char *name = get_func_name(fnoid);

	return name != NULL && strcmp(name, function) == 0 && get_func_namespace(fnoid) == nspid;
}

/*
 * Look at the triggers of one table that call "function" of schema "nspid":
 * what they fire for always, as bits of tgtype, before and after statements and
 * after rows.  "state" gets the tables of the count that they name, and which
 * transactions have made them what they are.
 *
 * Returns whether it is a table all of whose changes fire its own triggers.
 */
static bool
look_at_triggers(PoserCountState *state, Oid relid, const char *function, Oid nspid,
				 int *before, int *after, int *after_row)
{
	Relation rel = table_open(relid, AccessShareLock);
	bool result = (rel->rd_rel->relkind == RELKIND_RELATION &&
				   rel->rd_rel->relpersistence == RELPERSISTENCE_PERMANENT &&
				   !rel->rd_rel->relispartition &&
				   !has_subclass(relid) && !has_superclass(relid));
	const int events = (TRIGGER_TYPE_INSERT | TRIGGER_TYPE_UPDATE |
						TRIGGER_TYPE_DELETE | TRIGGER_TYPE_TRUNCATE);
	/* a copy, because any look-up in the catalogs may free the relcache's */
	TriggerDesc *triggers = CopyTriggerDesc(rel->trigdesc);
	Relation catalog;
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple tuple;

	*before = *after = *after_row = 0;
	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		Trigger *tg = &triggers->triggers[i];

		if ((tg->tgenabled != TRIGGER_FIRES_ON_ORIGIN && tg->tgenabled != TRIGGER_FIRES_ALWAYS) ||
			tg->tgnattr != 0 || tg->tgnargs < 3 || !is_function(tg->tgfoid, function, nspid))
			continue;
		state->counts = get_relname_relid(tg->tgargs[0], nspid);
		state->deltas = get_relname_relid(tg->tgargs[1], nspid);
		if (TRIGGER_FOR_ROW(tg->tgtype))
			*after_row |= TRIGGER_FOR_AFTER(tg->tgtype) ? tg->tgtype & events : 0;
		else if (tg->tgqual == NULL && TRIGGER_FOR_BEFORE(tg->tgtype))
			*before |= tg->tgtype & events;
		else if (tg->tgqual == NULL && TRIGGER_FOR_AFTER(tg->tgtype))
			*after |= tg->tgtype & events;
	}
	FreeTriggerDesc(triggers);

	catalog = table_open(TriggerRelationId, AccessShareLock);
	ScanKeyInit(&key, Anum_pg_trigger_tgrelid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	scan = systable_beginscan(catalog, TriggerRelidNameIndexId, true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		if (!is_function(((Form_pg_trigger) GETSTRUCT(tuple))->tgfoid, function, nspid))
			continue;
		if (state->num_xids == lengthof(state->xids))
			result = false;
		else
			state->xids[state->num_xids++] = HeapTupleHeaderGetXmin(tuple->t_data);
	}
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	table_close(rel, AccessShareLock);
	return result;
}

/*
 * Whether every change of "child" and "parent" goes through the triggers that
 * count: each is an ordinary table on its own (rows that come through a
 * partitioned or parent table fire other triggers, or none) that a crash does
 * not empty, and all the triggers are there and enabled.
 *
 * The caller holds a lock on both.  The result stays where it is as long as
 * the backend lives, but what it says may change.
 */
const PoserCountState *
poser_count_state(Oid parent, Oid child, Oid nspid)
{
	PoserCountState *state = hash_search(count_states, &child, HASH_FIND, NULL);
	PoserCountState looked_at = {.child = child, .parent = parent, .nspid = nspid};
	uint64 started = poser_relation_changes();
	int before;
	int after;
	int after_row;

	if (state != NULL && state->valid && state->parent == parent && state->nspid == nspid)
		return state;

	looked_at.maintained =
		look_at_triggers(&looked_at, child, "poser_count_child", nspid, &before, &after, &after_row) &&
		before == (TRIGGER_TYPE_INSERT | TRIGGER_TYPE_UPDATE |
				   TRIGGER_TYPE_DELETE | TRIGGER_TYPE_TRUNCATE) &&
		after == before &&
		look_at_triggers(&looked_at, parent, "poser_count_parent", nspid, &before, &after, &after_row) &&
		before == (TRIGGER_TYPE_INSERT | TRIGGER_TYPE_UPDATE) &&
		after == (TRIGGER_TYPE_INSERT | TRIGGER_TYPE_UPDATE |
				  TRIGGER_TYPE_DELETE | TRIGGER_TYPE_TRUNCATE) &&
		after_row == TRIGGER_TYPE_UPDATE &&
		OidIsValid(looked_at.counts) && OidIsValid(looked_at.deltas);

	/* what changed while we looked is looked at again the next time */
	looked_at.valid = (started == poser_relation_changes());
	state = hash_search(count_states, &child, HASH_ENTER, NULL);
	*state = looked_at;
	return state;
}
