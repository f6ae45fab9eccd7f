/*
 * versioned.c
 *	  Which tables have a history, and where it is.
 *
 * What a trigger needs to know is kept by the trigger's OID and looked up again
 * after any relcache invalidation of a relation it names.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/pg_am.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/relcache.h"

#include "versions/versions.h"
#include "versions/version_internal.h"

static HTAB *versioned_by_trigger = NULL;

static void
relation_changed(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS seq;
	PoserVersioned *versioned;

	hash_seq_init(&seq, versioned_by_trigger);
	while ((versioned = hash_seq_search(&seq)) != NULL)
		if (!OidIsValid(relid) || relid == versioned->relid || relid == versioned->versions ||
			relid == versioned->transactions || relid == versioned->sequence)
			versioned->valid = false;
}

void
poser_versioned_init(void)
{
	HASHCTL ctl = {0};

	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(PoserVersioned);
	versioned_by_trigger = hash_create("poser versioned tables", 16, &ctl, HASH_ELEM | HASH_BLOBS);
	CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
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
		poser_table_kind_error(versions);
	versioned->transactions = poser_table_by_name("poser_transaction", nspid);
	versioned->horizon = poser_table_by_name("poser_version_horizon", nspid);
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
	PoserVersioned *versioned = hash_search(versioned_by_trigger, &tg->tgoid, HASH_FIND, NULL);
	PoserVersioned described;
	uint64 started;

	/* once it is locked, what we know of it is what it is */
	if (versioned != NULL && versioned->valid)
		LockRelationOid(versioned->versions, RowExclusiveLock);
	if (versioned != NULL && versioned->valid)
		return versioned;
	started = poser_relation_changes();

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
	described.valid = (started == poser_relation_changes());

	/* a statement in progress may be using the entry, so it is replaced as a whole */
	versioned = hash_search(versioned_by_trigger, &tg->tgoid, HASH_ENTER, NULL);
	*versioned = described;
	return versioned;
}

/* The tables that have a history, with their versions. */
static const struct
{
	const char *name;
	const char *versions;
	char *key;
	const char *label; /* what a row is called */
} versioned_tables[POSER_VERSIONED_TABLES] = {
	[POSER_WIDGET] = {"poser_widget", "poser_widget_version", "uuid", "widget"},
	[POSER_COMPONENT] = {"poser_component", "poser_component_version", "uuid", "component"}};

const char *
poser_versioned_label(int i)
{
	return versioned_tables[i].label;
}

/* Describe all of them, in this order; they are locked against redefinition. */
void
poser_versioned_describe_all(PoserVersioned *tables, Oid nspid)
{
	for (int i = 0; i < POSER_VERSIONED_TABLES; i++)
	{
		char *key = versioned_tables[i].key;
		Relation rel = poser_open_by_name(versioned_tables[i].name, nspid, AccessShareLock);

		poser_versioned_describe(&tables[i], rel, nspid, versioned_tables[i].versions, 1, &key,
								 AccessShareLock);
		table_close(rel, NoLock);
	}
}

/* Has one column of a row the same value in two slots? */
static bool
same_value(TupleTableSlot *a, AttrNumber acolumn, TupleTableSlot *b, AttrNumber bcolumn)
{
	Form_pg_attribute att = TupleDescAttr(a->tts_tupleDescriptor, acolumn - 1);
	bool anull;
	bool bnull;
	Datum avalue = slot_getattr(a, acolumn, &anull);
	Datum bvalue = slot_getattr(b, bcolumn, &bnull);

	return anull == bnull && (anull || datum_image_eq(avalue, bvalue, att->attbyval, att->attlen));
}

/* Are the recorded columns of two rows of the table the same? */
bool
poser_versioned_same_rows(const PoserVersioned *versioned, TupleTableSlot *a, TupleTableSlot *b)
{
	for (int i = 0; i < versioned->natts; i++)
		if (versioned->source[i] != 0 &&
			!same_value(a, versioned->source[i], b, versioned->source[i]))
			return false;
	return true;
}

bool
poser_versioned_same_keys(const PoserVersioned *versioned, TupleTableSlot *a, TupleTableSlot *b)
{
	for (int i = 0; i < versioned->nkeys; i++)
	{
		AttrNumber column = versioned->source[versioned->keys[i] - 1];

		if (!same_value(a, column, b, column))
			return false;
	}
	return true;
}

/* Is a version that of the row as it is? */
bool
poser_versioned_is_version_of(const PoserVersioned *versioned, TupleTableSlot *version, TupleTableSlot *row)
{
	for (int i = 0; i < versioned->natts; i++)
		if (versioned->source[i] != 0 && !same_value(version, i + 1, row, versioned->source[i]))
			return false;
	return true;
}
