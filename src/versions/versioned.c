/*
 * versioned.c
 *	  Tables with a history: their tables of versions, and how the columns of both match.
 *
 * Columns are matched by name.  A column of the table is recorded if the table of
 * versions has a column with its name and type.  Other columns of the table are not
 * recorded, and poser_check() reports them.  Other columns of the versions are null.
 * So a column can be added to or dropped from either table at any time.
 *
 * A PoserVersioned describes a table, its table of versions and this match of columns.  A
 * trigger needs the description at every statement.  So descriptions are kept in
 * a hash table, by the trigger's OID.  A relcache invalidation of a relation that the
 * trigger uses makes its description invalid.  An invalidation can arrive while the
 * trigger waits for a lock.  So it checks the description once more when it has the lock.
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
#include "utils/lsyscache.h"
#include "utils/relcache.h"

#include "versions/versions.h"
#include "versions/version_internal.h"

/* The tables that have a history. */
static const struct
{
	const char *name;
	const char *versions;
	char *key;
	const char *label; /* what a row is called in messages */
} versioned_tables[POSER_VERSIONED_TABLES] = {
	[POSER_WIDGET] = {"poser_widget", "poser_widget_version", "uuid", "widget"},
	[POSER_COMPONENT] = {"poser_component", "poser_component_version", "uuid", "component"}};

/* Descriptions by trigger. */
static HTAB *versioned_by_trigger = NULL;

/* Relcache callback: the descriptions of triggers that use this relation become invalid; with InvalidOid, all. */
static void
invalidate_descriptions(Oid relid)
{
	HASH_SEQ_STATUS seq;
	PoserVersioned *versioned;

	hash_seq_init(&seq, versioned_by_trigger);
	while ((versioned = hash_seq_search(&seq)) != NULL)
		if (!OidIsValid(relid) || relid == versioned->relid || relid == versioned->versions ||
			relid == versioned->transactions || relid == versioned->sequence)
			versioned->valid = false;
}

/* Make the cache, when the module is loaded. */
void
poser_versioned_init(void)
{
	HASHCTL ctl = {0};

	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(PoserVersioned);
	versioned_by_trigger = hash_create("poser versioned tables", 16, &ctl, HASH_ELEM | HASH_BLOBS);
	poser_relation_register(invalidate_descriptions);
}

static bool
is_text(Oid type)
{
	return type == TEXTOID || type == VARCHAROID;
}

/*
 * Returns the column of the table that gives its values to this column of the versions,
 * or 0.  Sets *coerces to true if the values must be coerced to another length.
 */
static AttrNumber
source_column(Relation rel, Form_pg_attribute column, bool *coerces)
{
	AttrNumber attno = column->attisdropped ? 0 : get_attnum(RelationGetRelid(rel), NameStr(column->attname));
	Form_pg_attribute att;

	if (attno <= 0)
		return 0;
	att = TupleDescAttr(RelationGetDescr(rel), attno - 1);
	/* a virtual generated column has no value in the row */
	if (att->attgenerated != '\0' && att->attgenerated != ATTRIBUTE_GENERATED_STORED)
		return 0;

	/* text is coerced, which raises an error if it is too long; a column of another type or precision is not recorded, because a coercion could change values */
	if (is_text(att->atttypid) && is_text(column->atttypid))
		*coerces = *coerces || (column->atttypmod >= 0 && att->atttypmod != column->atttypmod);
	else if (att->atttypid != column->atttypid ||
			 (column->atttypmod >= 0 && att->atttypmod != column->atttypmod))
		return 0;
	return attno;
}

/* Returns the unique index of poser_transaction on its id.  Raises an error if there is none. */
Oid
poser_transaction_id_index(Relation transactions)
{
	AttrNumber id = poser_own_column(transactions, "id", INT8OID);
	bool immediate;
	Oid result = poser_unique_index(transactions, 1, &id, &immediate);

	if (!OidIsValid(result))
		poser_structure_error(transactions);
	return result;
}

/* Returns the index of a table of versions on the key and change_id, in ascending order; InvalidOid if there is none. */
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

/* Does the trigger poser_arrive() of this schema fire for each row that SQL inserts into a table of versions? */
static bool
has_arrival_trigger(Relation versions, Oid nspid)
{
	TriggerDesc *desc = versions->trigdesc;

	for (int i = 0; desc != NULL && i < desc->numtriggers; i++)
	{
		Trigger *tg = &desc->triggers[i];
		char *name;

		if (TRIGGER_FOR_ROW(tg->tgtype) && TRIGGER_FOR_INSERT(tg->tgtype) && tg->tgenabled != TRIGGER_DISABLED &&
			get_func_namespace(tg->tgfoid) == nspid && (name = get_func_name(tg->tgfoid)) != NULL &&
			strcmp(name, "poser_arrive") == 0)
			return true;
	}
	return false;
}

/*
 * Describe the history of "rel" in the table of versions "vrel"; both are open and locked.
 * Poser's own tables are in the schema "nspid"; "keys" are the columns of the key.
 */
static void
describe_tables(PoserVersioned *versioned, Relation rel, Relation vrel, Oid nspid, int nkeys, char **keys)
{
	TupleDesc desc;
	AttrNumber columns[INDEX_MAX_KEYS];

	Assert(nkeys >= 1 && nkeys <= INDEX_MAX_KEYS);

	/* the relations */
	versioned->nspid = nspid;
	versioned->own = versioned->partial = versioned->partitioned = false;
	versioned->relid = RelationGetRelid(rel);
	versioned->versions = RelationGetRelid(vrel);
	if (vrel->rd_rel->relkind != RELKIND_RELATION)
		poser_table_kind_error(RelationGetRelationName(vrel));
	versioned->transactions = poser_table_by_name("poser_transaction", nspid);
	versioned->horizon = poser_table_by_name("poser_version_horizon", nspid);
	versioned->sequence = poser_relation_by_name("poser_change_id_seq", nspid);
	versioned->arrivals = get_relname_relid("poser_arrival", nspid);
	versioned->arrives = has_arrival_trigger(vrel, nspid);

	/* the columns that only the versions have; the table may have columns of the same names */
	desc = RelationGetDescr(vrel);
	versioned->transaction_id = poser_own_column(vrel, "transaction_id", INT8OID);
	versioned->operation_type = poser_own_column(vrel, "operation_type", INT2OID);
	versioned->change_id = poser_own_column(vrel, "change_id", INT8OID);

	/* the recorded columns */
	versioned->natts = desc->natts;
	versioned->coerces = false;
	for (int i = 0; i < desc->natts; i++)
		versioned->source[i] = source_column(rel, TupleDescAttr(desc, i), &versioned->coerces);
	versioned->source[versioned->transaction_id - 1] = 0;
	versioned->source[versioned->operation_type - 1] = 0;
	versioned->source[versioned->change_id - 1] = 0;

	/* the key, which must be recorded */
	versioned->nkeys = nkeys;
	for (int i = 0; i < nkeys; i++)
	{
		versioned->keys[i] = poser_own_column(vrel, keys[i], InvalidOid);
		check_key_type(rel, vrel, keys[i]);
		columns[i] = versioned->source[versioned->keys[i] - 1];
		if (columns[i] == 0)
			poser_structure_error(vrel);
	}

	/* the indexes on the key */
	versioned->versions_index = find_versions_index(vrel, versioned);
	if (!OidIsValid(poser_unique_index(rel, nkeys, columns, &versioned->unique)))
		versioned->unique = false;
}

/*
 * Describe the history of "rel".  Its table of versions is called "versions", and is in
 * the schema "nspid"; "keys" are the columns of its key.  Locks the table of versions with
 * "lockmode" until the transaction ends, so that the description stays true.
 */
static void
describe(PoserVersioned *versioned, Relation rel, Oid nspid, const char *versions,
		 int nkeys, char **keys, LOCKMODE lockmode)
{
	Relation vrel = poser_open_by_name(versions, nspid, lockmode);

	describe_tables(versioned, rel, vrel, nspid, nkeys, keys);
	table_close(vrel, NoLock);
}

/*
 * Returns the description of a trigger's table.  The arguments of the trigger are the
 * table of versions and the columns of the key.  "fnoid" is the trigger's function, and
 * Poser's tables are in its schema.  Locks the table of versions for writing, until the
 * transaction ends.
 *
 * The result lives as long as the session.  A later call for the same trigger can change
 * its content.
 */
const PoserVersioned *
poser_versioned_by_trigger(TriggerData *trigdata, Oid fnoid)
{
	Trigger *tg = trigdata->tg_trigger;
	Relation rel = trigdata->tg_relation;
	PoserVersioned *versioned = hash_search(versioned_by_trigger, &tg->tgoid, HASH_FIND, NULL);
	PoserVersioned described;
	uint64 started;

	/* the description in the cache, if it is still valid after the lock */
	if (versioned != NULL && versioned->valid)
		LockRelationOid(versioned->versions, RowExclusiveLock);
	if (versioned != NULL && versioned->valid)
		return versioned;
	started = poser_relation_changes();

	/* otherwise a new one */
	if (rel->rd_rel->relkind != RELKIND_RELATION)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot record versions of relation \"%s\"", RelationGetRelationName(rel)),
				 errdetail("It is not an ordinary table.")));
	if (tg->tgnargs < 2 || tg->tgnargs > INDEX_MAX_KEYS)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" must have as arguments a table of versions and the columns of a key",
						tg->tgname)));
	describe(&described, rel, get_func_namespace(fnoid), tg->tgargs[0], tg->tgnargs - 1, tg->tgargs + 1,
			 RowExclusiveLock);
	described.tgoid = tg->tgoid;
	/* if a relation was invalidated meanwhile, the next call makes a new one again */
	described.valid = (started == poser_relation_changes());

	/* an outer statement may be using the entry, so it is replaced in one step */
	versioned = hash_search(versioned_by_trigger, &tg->tgoid, HASH_ENTER, NULL);
	*versioned = described;
	return versioned;
}

/* Returns what a row of the table with this number is called in messages. */
const char *
poser_versioned_label(int i)
{
	return versioned_tables[i].label;
}

/*
 * Describe all tables that have a history in this schema, into an array of
 * POSER_VERSIONED_TABLES.  Locks them and their tables of versions with AccessShareLock
 * until the transaction ends.
 */
void
poser_versioned_describe_all(PoserVersioned *tables, Oid nspid)
{
	for (int i = 0; i < POSER_VERSIONED_TABLES; i++)
	{
		char *key = versioned_tables[i].key;
		Relation rel = poser_open_by_name(versioned_tables[i].name, nspid, AccessShareLock);

		describe(&tables[i], rel, nspid, versioned_tables[i].versions, 1, &key, AccessShareLock);
		table_close(rel, NoLock);
	}
}

/* Find the tables of versions of this schema, without locking them: an array of POSER_VERSIONED_TABLES; InvalidOid for one that is missing. */
void
poser_versioned_version_tables(Oid *versions, Oid nspid)
{
	for (int i = 0; i < POSER_VERSIONED_TABLES; i++)
		versions[i] = get_relname_relid(versioned_tables[i].versions, nspid);
}

/* Find a table with a history in this schema, and its table of versions, without locking them.  Raises an error if one is missing. */
void
poser_versioned_names(int i, Oid nspid, Oid *relid, Oid *versions)
{
	*relid = poser_table_by_name(versioned_tables[i].name, nspid);
	*versions = poser_table_by_name(versioned_tables[i].versions, nspid);
}

/*
 * Describe the history in a table of versions that is open and locked, for a trigger on
 * it.  "table" is the table with the rows; it is locked with AccessShareLock until the
 * transaction ends.  "keys" are the columns of its key.
 */
void
poser_versioned_describe(PoserVersioned *versioned, Relation versions, Oid nspid, const char *table,
						 int nkeys, char **keys)
{
	Relation rel = poser_open_by_name(table, nspid, AccessShareLock);

	if (rel->rd_rel->relkind != RELKIND_RELATION)
		poser_table_kind_error(table);
	describe_tables(versioned, rel, versions, nspid, nkeys, keys);
	table_close(rel, NoLock);
}

/* Is a column of one row the same as a column of another row, byte for byte? */
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
poser_versioned_same_row(const PoserVersioned *versioned, TupleTableSlot *a, TupleTableSlot *b)
{
	for (int i = 0; i < versioned->natts; i++)
		if (versioned->source[i] != 0 &&
			!same_value(a, versioned->source[i], b, versioned->source[i]))
			return false;
	return true;
}

/* Are the keys of two rows of the table the same? */
bool
poser_versioned_same_key(const PoserVersioned *versioned, TupleTableSlot *a, TupleTableSlot *b)
{
	for (int i = 0; i < versioned->nkeys; i++)
	{
		AttrNumber column = versioned->source[versioned->keys[i] - 1];

		if (!same_value(a, column, b, column))
			return false;
	}
	return true;
}

/* Does a version have the values of this row of the table? */
bool
poser_versioned_is_version_of(const PoserVersioned *versioned, TupleTableSlot *version, TupleTableSlot *row)
{
	for (int i = 0; i < versioned->natts; i++)
		if (versioned->source[i] != 0 && !same_value(version, i + 1, row, versioned->source[i]))
			return false;
	return true;
}
