/*
 * catalog.c
 *	  Which relation is which, cached and invalidated.
 *
 * A function of Poser's finds its relations in the schema that the function
 * itself is in.  What a trigger needs to know is kept by the trigger's OID and
 * looked up again after any relcache invalidation of a relation it names; so is
 * whether a table's counts can be relied on, kept by the table's OID.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/relation.h"
#include "access/table.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/relcache.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "poser.h"

static HTAB *count_triggers = NULL;
static HTAB *count_states = NULL;
static HTAB *versioned_tables = NULL;
static uint64 invalidations = 0;

static void
relation_changed(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS seq;
	PoserCountTrigger *trigger;
	PoserCountState *state;
	PoserVersioned *versioned;

	invalidations++;
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

	hash_seq_init(&seq, versioned_tables);
	while ((versioned = hash_seq_search(&seq)) != NULL)
		if (!OidIsValid(relid) || relid == versioned->relid || relid == versioned->versions ||
			relid == versioned->transactions || relid == versioned->sequence)
			versioned->valid = false;
}

void
poser_catalog_init(void)
{
	HASHCTL ctl = {0};

	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(PoserCountTrigger);
	count_triggers = hash_create("poser count triggers", 16, &ctl, HASH_ELEM | HASH_BLOBS);
	ctl.entrysize = sizeof(PoserCountState);
	count_states = hash_create("poser count states", 16, &ctl, HASH_ELEM | HASH_BLOBS);

	ctl.entrysize = sizeof(PoserVersioned);
	versioned_tables = hash_create("poser versioned tables", 16, &ctl, HASH_ELEM | HASH_BLOBS);

	CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
}

/* How many invalidations of relations this session has received. */
uint64
poser_relation_changes(void)
{
	return invalidations;
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
	uint64 started = invalidations;

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
	looked_up.valid = (started == invalidations);

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
static void
table_kind_error(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("relation \"%s\" is not an ordinary table", name),
			 errhint("poser_check() says what was changed.")));
}

/* The table of this name in this schema; an error if it is something else. */
static Oid
table_by_name(const char *name, Oid nspid)
{
	Oid relid = poser_relation_by_name(name, nspid);

	if (get_rel_relkind(relid) != RELKIND_RELATION)
		table_kind_error(name);
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

/* The version table's own column of this name. */
static AttrNumber
history_column(Relation versions, const char *name, Oid type)
{
	AttrNumber attno = get_attnum(RelationGetRelid(versions), name);

	if (attno <= 0 || TupleDescAttr(RelationGetDescr(versions), attno - 1)->atttypid != type)
		poser_structure_error(versions);
	return attno;
}

static bool
is_text(Oid type)
{
	return type == TEXTOID || type == VARCHAROID;
}

/* The table's column that a column of its versions has the values of, or 0. */
static AttrNumber
source_column(Relation rel, Form_pg_attribute column, bool *coerce)
{
	AttrNumber attno = column->attisdropped ? 0 : get_attnum(RelationGetRelid(rel), NameStr(column->attname));
	Form_pg_attribute att;

	if (attno <= 0)
		return 0;
	att = TupleDescAttr(RelationGetDescr(rel), attno - 1);
	if (att->attgenerated != '\0' && att->attgenerated != ATTRIBUTE_GENERATED_STORED)
		return 0;

	/* another length of text is a matter of what fits; other values would be changed */
	if (is_text(att->atttypid) && is_text(column->atttypid))
		*coerce = *coerce || (column->atttypmod >= 0 && att->atttypmod != column->atttypmod);
	else if (att->atttypid != column->atttypid ||
			 (column->atttypmod >= 0 && att->atttypmod != column->atttypmod))
		return 0;
	return attno;
}

/* Are these, in any order, all columns of the index's key? */
static bool
has_columns(Relation index, int ncolumns, const AttrNumber *columns)
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
			has_columns(index, ncolumns, columns))
		{
			result = RelationGetRelid(index);
			*immediate = form->indimmediate;
		}
		index_close(index, AccessShareLock);
	}
	list_free(indexes);
	return result;
}

/* The index that finds a transaction by its id. */
Oid
poser_id_index(Relation transactions)
{
	AttrNumber id = history_column(transactions, "id", INT8OID);
	bool immediate;
	Oid result = poser_unique_index(transactions, 1, &id, &immediate);

	if (!OidIsValid(result))
		poser_structure_error(transactions);
	return result;
}

/* The index on the key and the change_id, by which a row's versions are found. */
static Oid
find_versions_index(Relation versions, const PoserVersioned *versioned)
{
	Oid result = InvalidOid;
	List *indexes = RelationGetIndexList(versions);
	ListCell *lc;

	foreach(lc, indexes)
	{
		Relation index = index_open(lfirst_oid(lc), AccessShareLock);
		Form_pg_index form = index->rd_index;
		bool fits = (form->indisvalid && form->indnkeyatts == versioned->nkeys + 1 &&
					 index->rd_rel->relam == BTREE_AM_OID &&
					 RelationGetIndexPredicate(index) == NIL &&
					 form->indkey.values[versioned->nkeys] == versioned->change_id);

		for (int i = 0; fits && i <= versioned->nkeys; i++)
			fits = (index->rd_indoption[i] == 0 &&
					(i == versioned->nkeys || form->indkey.values[i] == versioned->keys[i]));
		index_close(index, AccessShareLock);
		if (fits)
			result = lfirst_oid(lc);
	}
	list_free(indexes);
	return result;
}

/* Raises an error if a column of the key has one type in the table and another in its versions. */
static void
check_key_type(Relation rel, Relation versions, const char *name)
{
	Oid type = get_atttype(RelationGetRelid(versions), get_attnum(RelationGetRelid(versions), name));
	AttrNumber attno = get_attnum(RelationGetRelid(rel), name);
	Oid live = attno > 0 ? get_atttype(RelationGetRelid(rel), attno) : type;

	if (live != type && !(is_text(live) && is_text(type)))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" is of type %s in relation \"%s\" and of type %s in relation \"%s\"",
						name, format_type_be(live), RelationGetRelationName(rel),
						format_type_be(type), RelationGetRelationName(versions)),
				 errhint("poser_check() says what was changed.")));
}

/*
 * Describe the history that "rel" has in the table "versions" of the schema,
 * its key being these columns.  The table of versions is locked, so that it
 * stays as it is described, until the end of the transaction.
 */
void
poser_versioned_describe(PoserVersioned *versioned, Relation rel, Oid nspid,
						 const char *versions, int nkeys, char **keys, LOCKMODE lockmode)
{
	Relation vrel;
	TupleDesc desc;
	AttrNumber columns[INDEX_MAX_KEYS];

	Assert(nkeys >= 1 && nkeys <= INDEX_MAX_KEYS);
	versioned->relid = RelationGetRelid(rel);
	vrel = poser_open_by_name(versions, nspid, lockmode);
	versioned->versions = RelationGetRelid(vrel);
	if (vrel->rd_rel->relkind != RELKIND_RELATION)
		table_kind_error(versions);
	versioned->transactions = table_by_name("poser_transaction", nspid);
	versioned->horizon = table_by_name("poser_version_horizon", nspid);
	versioned->sequence = poser_relation_by_name("poser_change_id_seq", nspid);

	desc = RelationGetDescr(vrel);
	versioned->transaction_id = history_column(vrel, "transaction_id", INT8OID);
	versioned->operation_type = history_column(vrel, "operation_type", INT2OID);
	versioned->change_id = history_column(vrel, "change_id", INT8OID);

	versioned->natts = desc->natts;
	versioned->coerces = false;
	for (int i = 0; i < desc->natts; i++)
		versioned->source[i] = source_column(rel, TupleDescAttr(desc, i), &versioned->coerces);
	versioned->source[versioned->transaction_id - 1] = 0;
	versioned->source[versioned->operation_type - 1] = 0;
	versioned->source[versioned->change_id - 1] = 0;

	versioned->nkeys = nkeys;
	for (int i = 0; i < nkeys; i++)
	{
		versioned->keys[i] = get_attnum(versioned->versions, keys[i]);
		if (versioned->keys[i] <= 0)
			poser_structure_error(vrel);
		check_key_type(rel, vrel, keys[i]);
		if (versioned->source[versioned->keys[i] - 1] == 0)
			poser_structure_error(vrel);
	}
	versioned->versions_index = find_versions_index(vrel, versioned);

	for (int i = 0; i < nkeys; i++)
		columns[i] = versioned->source[versioned->keys[i] - 1];
	if (!OidIsValid(poser_unique_index(rel, nkeys, columns, &versioned->unique)))
		versioned->unique = false;
	table_close(vrel, NoLock);
}

/*
 * What the arguments of a version trigger mean: the table of versions, and the
 * columns of the key.  "fnoid" is the trigger's function; the tables are in its
 * schema.
 *
 * The result stays where it is as long as the backend lives.
 */
const PoserVersioned *
poser_versioned_by_trigger(TriggerData *trigdata, Oid fnoid)
{
	Trigger *tg = trigdata->tg_trigger;
	Relation rel = trigdata->tg_relation;
	PoserVersioned *versioned = hash_search(versioned_tables, &tg->tgoid, HASH_FIND, NULL);
	PoserVersioned described;
	uint64 started;

	/* once it is locked, what we know of it is what it is */
	if (versioned != NULL && versioned->valid)
		LockRelationOid(versioned->versions, RowExclusiveLock);
	if (versioned != NULL && versioned->valid)
		return versioned;
	started = invalidations;

	if (rel->rd_rel->relkind != RELKIND_RELATION)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot record versions of relation \"%s\"", RelationGetRelationName(rel)),
				 errdetail("Versions can be recorded of ordinary tables only.")));
	if (tg->tgnargs < 2 || tg->tgnargs > INDEX_MAX_KEYS)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" must have as arguments a table of versions and the columns of a key",
						tg->tgname)));
	poser_versioned_describe(&described, rel, get_func_namespace(fnoid),
							 tg->tgargs[0], tg->tgnargs - 1, tg->tgargs + 1, RowExclusiveLock);
	described.tgoid = tg->tgoid;
	/* what changed while we looked is looked up again the next time */
	described.valid = (started == invalidations);

	/* a statement in progress may be using the entry, so it is replaced as a whole */
	versioned = hash_search(versioned_tables, &tg->tgoid, HASH_ENTER, NULL);
	*versioned = described;
	return versioned;
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
#if PG_VERSION_NUM >= 180000
	scan = index_beginscan(rel, index, SnapshotSelf, NULL, nkeys, 0);
#else
	scan = index_beginscan(rel, index, SnapshotSelf, nkeys, 0);
#endif
	index_rescan(scan, keys, nkeys, NULL, 0);
	*found = index_getnext_slot(scan, ForwardScanDirection, slot);
	index_endscan(scan);
	index_close(index, AccessShareLock);
	return true;
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
	uint64 started = invalidations;
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
	looked_at.valid = (started == invalidations);
	state = hash_search(count_states, &child, HASH_ENTER, NULL);
	*state = looked_at;
	return state;
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
#if PG_VERSION_NUM >= 160000
	return object_ownercheck(RelationRelationId, relid, roleid);
#else
	return pg_class_ownercheck(relid, roleid);
#endif
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

#if PG_VERSION_NUM >= 160000
	if (object_aclcheck(NamespaceRelationId, nspid, GetUserId(), ACL_USAGE) != ACLCHECK_OK)
		return false;
#else
	if (pg_namespace_aclcheck(nspid, GetUserId(), ACL_USAGE) != ACLCHECK_OK)
		return false;
#endif
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
