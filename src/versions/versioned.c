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

#include "access/detoast.h"
#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/relcache.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

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

/* Descriptions of tables with triggers that name their versions, by trigger. */
static HTAB *versioned_by_trigger = NULL;

/* A table that is bound by poser_track(), or a partition of one. */
typedef struct OwnTable
{
	Oid relid;				   /* the table; hash key */
	Oid target;				   /* the tracked table, which is the table itself or above it */
	bool valid;				   /* is "target" still valid? */
	uint64 checked;			   /* poser_relation_changes() when the binding was looked up last */
	uint32 warned;			   /* stands for the columns that the session was warned of; 0 if of none */
	bool warned_detached;	   /* the session was warned that it is not recorded any more */
	PoserVersioned *versioned; /* its description; NULL if it is a partition */
} OwnTable;

static HTAB *own_tables = NULL;

/* Does a description use this relation?  InvalidOid stands for any. */
static bool
uses(const PoserVersioned *versioned, Oid relid)
{
	return !OidIsValid(relid) || relid == versioned->relid || relid == versioned->versions ||
		   relid == versioned->transactions || relid == versioned->sequence;
}

/* Relcache callback: the descriptions that use this relation become invalid; with InvalidOid, all. */
static void
invalidate_descriptions(Oid relid)
{
	HASH_SEQ_STATUS seq;
	PoserVersioned *versioned;
	OwnTable *own;

	hash_seq_init(&seq, versioned_by_trigger);
	while ((versioned = hash_seq_search(&seq)) != NULL)
		if (uses(versioned, relid))
			versioned->valid = false;
	hash_seq_init(&seq, own_tables);
	while ((own = hash_seq_search(&seq)) != NULL)
	{
		if (!OidIsValid(relid) || own->relid == relid)
			own->valid = false;
		if (own->versioned != NULL && uses(own->versioned, relid))
			own->versioned->valid = false;
	}
}

/* Syscache callback: a role was altered, or became a member of another one.  So privileges can have changed. */
static void
roles_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	invalidate_descriptions(InvalidOid);
}

/* Make the caches, when the module is loaded. */
void
poser_versioned_init(void)
{
	HASHCTL ctl = {0};

	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(PoserVersioned);
	versioned_by_trigger = hash_create("poser versioned tables", 16, &ctl, HASH_ELEM | HASH_BLOBS);
	ctl.entrysize = sizeof(OwnTable);
	own_tables = hash_create("poser own tables", 16, &ctl, HASH_ELEM | HASH_BLOBS);
	poser_relation_register(invalidate_descriptions);
	CacheRegisterSyscacheCallback(AUTHOID, roles_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHMEMMEMROLE, roles_changed, (Datum) 0);
}

/*
 * Is a table still bound as its description says?  Another binding of it makes no
 * invalidation of the table itself.  So if any relation has changed since the last
 * look, this looks again.
 */
static bool
is_still_bound(OwnTable *own, const PoserVersioned *versioned, Oid nspid)
{
	uint64 changes = poser_relation_changes();
	PoserTracked tracked;

	if (own->checked == changes)
		return true;
	if (!poser_tracked_find(own->relid, nspid, &tracked) || tracked.relid != versioned->relid ||
		tracked.versions != versioned->versions)
		return false;
	own->checked = changes;
	return true;
}

/* Raises an error unless the relation is an ordinary table. */
static void
check_ordinary(Relation rel)
{
	if (rel->rd_rel->relkind != RELKIND_RELATION)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot record versions of relation \"%s\"", RelationGetRelationName(rel)),
				 errdetail("It is not an ordinary table.")));
}

/* Is this one of the two types of text that are stored alike? */
bool
poser_is_text(Oid type)
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
	if (poser_is_text(att->atttypid) && poser_is_text(column->atttypid))
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

/* Returns the index of a table of versions on the key and change_id, in ascending order; InvalidOid if there is none.  Looks at no expression, because that would run functions in it. */
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
					 heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL) &&
					 form->indkey.values[versioned->nkeys] == versioned->change_id);

		for (int i = 0; fits && i <= versioned->nkeys; i++)
			fits = (index->rd_indoption[i] == 0 &&
					(i == versioned->nkeys ||
					 (form->indkey.values[i] == versioned->keys[i] &&
					  index->rd_indcollation[i] == versioned->key_collation[i])));
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

	if (live != type && !(poser_is_text(live) && poser_is_text(type)))
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

/* Fill in the relations of a description.  "rel" and its table of versions are open and locked. */
void
poser_versioned_describe_relations(PoserVersioned *versioned, Relation rel, Relation versions, Oid nspid)
{
	versioned->nspid = nspid;
	versioned->own = versioned->partial = versioned->partitioned = false;
	versioned->relid = versioned->target = RelationGetRelid(rel);
	versioned->versions = RelationGetRelid(versions);
	versioned->transactions = poser_table_by_name("poser_transaction", nspid);
	versioned->horizon = poser_table_by_name("poser_version_horizon", nspid);
	versioned->sequence = poser_relation_by_name("poser_change_id_seq", nspid);
	versioned->arrivals = get_relname_relid("poser_arrival", nspid);
	versioned->arrives = has_arrival_trigger(versions, nspid);
}

/* Fill in how the columns of the key are compared, and the index of the versions on them.  The other columns are described already. */
void
poser_versioned_describe_indexes(PoserVersioned *versioned, Relation rel, Relation versions)
{
	for (int i = 0; i < versioned->nkeys; i++)
	{
		AttrNumber attnum = versioned->source[versioned->keys[i] - 1];
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), attnum - 1);

		versioned->key_equal[i] = get_opcode(lookup_type_cache(att->atttypid, TYPECACHE_EQ_OPR)->eq_opr);
		versioned->key_collation[i] = att->attcollation;
	}
	versioned->versions_index = versioned->nkeys > 0 ? find_versions_index(versions, versioned) : InvalidOid;
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
	if (vrel->rd_rel->relkind != RELKIND_RELATION)
		poser_table_kind_error(RelationGetRelationName(vrel));
	poser_versioned_describe_relations(versioned, rel, vrel, nspid);

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
	poser_versioned_describe_indexes(versioned, rel, vrel);
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

/* Are this table and its versions two that belong together in the extension?  These may have different owners. */
static bool
is_fixed_pair(const PoserVersioned *versioned)
{
	Oid relid;
	Oid versions;

	for (int i = 0; i < POSER_VERSIONED_TABLES; i++)
		if (poser_versioned_find_names(i, versioned->nspid, &relid, &versions) && relid == versioned->relid &&
			versions == versioned->versions)
		{
			Oid extension = getExtensionOfObject(RelationRelationId, relid);

			return OidIsValid(extension) && extension == getExtensionOfObject(RelationRelationId, versions);
		}
	return false;
}

/*
 * Returns the description of a table whose trigger names its table of versions and the
 * columns of its key.  EXECUTE on poser_version() is PUBLIC, so these names are obeyed only
 * if both tables have one owner, or belong together in the extension.
 */
static const PoserVersioned *
describe_by_trigger(TriggerData *trigdata, Oid nspid)
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
	check_ordinary(rel);
	if (tg->tgnargs > INDEX_MAX_KEYS)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" must have as arguments a table of versions and the columns of a key",
						tg->tgname)));
	describe(&described, rel, nspid, tg->tgargs[0], tg->tgnargs - 1, tg->tgargs + 1, RowExclusiveLock);
	if (!poser_have_one_owner(described.relid, described.versions) && !is_fixed_pair(&described))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("trigger \"%s\" names a table of another owner", tg->tgname),
				 errdetail("Tables \"%s\" and \"%s\" must have the same owner.", RelationGetRelationName(rel),
						   get_rel_name(described.versions))));
	described.tgoid = tg->tgoid;
	/* if a relation was invalidated meanwhile, the next call makes a new one again */
	described.valid = (started == poser_relation_changes());

	/* an outer statement may be using the entry, so it is replaced in one step */
	versioned = hash_search(versioned_by_trigger, &tg->tgoid, HASH_ENTER, NULL);
	*versioned = described;
	return versioned;
}

/* Warn, once a session, that columns are not recorded; again if they are other columns. */
static void
warn_unrecorded(OwnTable *own, List *unrecorded)
{
	StringInfoData names;
	ListCell *lc;
	uint32 hash;

	initStringInfo(&names);
	foreach(lc, unrecorded)
	{
		appendStringInfo(&names, "%s%s", names.len > 0 ? ", " : "", quote_identifier(lfirst(lc)));
	}
	hash = names.len > 0 ? DatumGetUInt32(hash_any((unsigned char *) names.data, names.len)) : 0;
	if (hash != 0 && hash != own->warned)
		ereport(WARNING,
				(errmsg("columns of table \"%s\" are not recorded: %s", get_rel_name(own->relid), names.data),
				 errhint("Call poser_track() for the table.")));
	own->warned = hash;
	pfree(names.data);
}

/* Returns the entry of a table, which is made if there is none. */
static OwnTable *
own_table(Oid relid)
{
	bool found;
	OwnTable *result = hash_search(own_tables, &relid, HASH_ENTER, &found);

	if (!found)
		memset((char *) result + sizeof(Oid), 0, sizeof(OwnTable) - sizeof(Oid));
	return result;
}

/* Returns the description in the cache, if it is valid; otherwise NULL. */
static PoserVersioned *
cached_description(const OwnTable *own)
{
	if (own == NULL || !own->valid)
		return NULL;
	if (own->target != own->relid)
		own = hash_search(own_tables, &own->target, HASH_FIND, NULL);
	return own != NULL && own->versioned != NULL && own->versioned->valid ? own->versioned : NULL;
}

/*
 * Returns the description of a table that is bound by poser_track() or, for a partition,
 * that of the bound table above it.  Returns NULL for a partition that does not belong to
 * such a table any more.
 */
static const PoserVersioned *
describe_own(TriggerData *trigdata, Oid nspid)
{
	Relation rel = trigdata->tg_relation;
	Oid relid = RelationGetRelid(rel);
	OwnTable *own = hash_search(own_tables, &relid, HASH_FIND, NULL);
	bool is_partition = trigdata->tg_trigger->tgnargs == 1;
	PoserVersioned *versioned = cached_description(own);
	PoserVersioned described;
	PoserOwnColumns columns;
	OwnTable *target;
	uint64 started;

	/* the description in the cache, if it is still valid after the lock, and the only one */
	if (versioned != NULL)
	{
		LockRelationOid(versioned->versions, RowExclusiveLock);
		if (cached_description(own) == versioned && is_still_bound(own, versioned, nspid))
			return versioned;
	}

	/* otherwise a new one */
	started = poser_relation_changes();
	if (rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		check_ordinary(rel);
	if (!poser_own_open(&described, rel, nspid, RowExclusiveLock, &columns))
	{
		if (!is_partition)
			poser_own_error(relid, poser_own_unbound_problem(relid, nspid));
		own = own_table(relid);
		own->valid = false;
		if (!own->warned_detached)
			ereport(WARNING,
					(errmsg("changes of table \"%s\" are not recorded", RelationGetRelationName(rel)),
					 errdetail("It is no longer a partition of a table that is tracked."),
					 errhint("Call poser_track() for it, or drop its triggers poser_version_*.")));
		own->warned_detached = true;
		return NULL;
	}
	described.valid = (started == poser_relation_changes());

	/* an outer statement may be using the description, so it is replaced in one step */
	target = own_table(described.relid);
	if (target->versioned == NULL)
		target->versioned = MemoryContextAlloc(TopMemoryContext, sizeof(PoserVersioned));
	*target->versioned = described;
	target->target = target->relid;
	target->valid = true;
	own = own_table(relid);
	own->target = described.relid;
	own->valid = described.valid;
	own->checked = started;
	warn_unrecorded(target, columns.unrecorded);
	return target->versioned;
}

/*
 * Returns the description of a trigger's table.  "fnoid" is the trigger's function, and
 * Poser's tables are in its schema.  Locks the table of versions for writing, until the
 * transaction ends.  Returns NULL if nothing is to be recorded, which only a partition
 * that was detached allows.
 *
 * The result lives as long as the session.  A later call for the same table can change
 * its content.
 */
const PoserVersioned *
poser_versioned_by_trigger(TriggerData *trigdata, Oid fnoid)
{
	Trigger *tg = trigdata->tg_trigger;
	Oid nspid = get_func_namespace(fnoid);

	if (tg->tgnargs >= 2)
		return describe_by_trigger(trigdata, nspid);
	if (tg->tgnargs == 1 && strcmp(tg->tgargs[0], "partition") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" must have as arguments a table of versions and the columns of a key",
						tg->tgname)));
	return describe_own(trigdata, nspid);
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

/* Find one of the extension's tables with a history, and its table of versions, without locking them; returns false if one is missing. */
bool
poser_versioned_find_names(int i, Oid nspid, Oid *relid, Oid *versions)
{
	*relid = get_relname_relid(versioned_tables[i].name, nspid);
	*versions = get_relname_relid(versioned_tables[i].versions, nspid);
	return OidIsValid(*relid) && OidIsValid(*versions);
}

/* Find the names of columns of one of the extension's tables.  Both tables are open and locked, and may have been changed in any way. */
void
poser_versioned_fixed_columns(PoserOwnColumns *columns, Relation rel, Relation versions, Oid nspid)
{
	for (int i = 0; i < POSER_VERSIONED_TABLES; i++)
		if (get_relname_relid(versioned_tables[i].name, nspid) == RelationGetRelid(rel))
			columns->key = list_make1(versioned_tables[i].key);
	for (AttrNumber attnum = 1; attnum <= RelationGetDescr(rel)->natts; attnum++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), attnum - 1);
		AttrNumber column = att->attisdropped ? 0 : get_attnum(RelationGetRelid(versions), NameStr(att->attname));
		bool coerces = false;

		if (!att->attisdropped && (att->attgenerated == '\0' || att->attgenerated == ATTRIBUTE_GENERATED_STORED) &&
			(column <= 0 || source_column(rel, TupleDescAttr(RelationGetDescr(versions), column - 1), &coerces) == 0))
			columns->unrecorded = lappend(columns->unrecorded, pstrdup(NameStr(att->attname)));
	}
}

/* Describe the history of a table that is locked, if it is one of the extension's.  Returns false if it is not. */
bool
poser_versioned_describe_fixed(PoserVersioned *versioned, Oid relid, Oid nspid, LOCKMODE lockmode)
{
	for (int i = 0; i < POSER_VERSIONED_TABLES; i++)
		if (get_relname_relid(versioned_tables[i].name, nspid) == relid)
		{
			char *key = versioned_tables[i].key;
			Relation rel = table_open(relid, NoLock);

			describe(versioned, rel, nspid, versioned_tables[i].versions, 1, &key, lockmode);
			table_close(rel, NoLock);
			return true;
		}
	return false;
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

	if (anull || bnull)
		return anull == bnull;
	if (att->attbyval)
		return avalue == bvalue;
	/* an UPDATE keeps the toasted values that it does not change, so these need not be fetched */
	if (att->attlen == -1 && VARATT_IS_EXTERNAL_ONDISK(DatumGetPointer(avalue)) &&
		VARATT_IS_EXTERNAL_ONDISK(DatumGetPointer(bvalue)) &&
		memcmp(DatumGetPointer(avalue), DatumGetPointer(bvalue), TOAST_POINTER_SIZE) == 0)
		return true;
	return datum_image_eq(avalue, bvalue, false, att->attlen);
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

/*
 * Are the keys of two rows of the table the same?  Their types decide: numeric 1 and 1.0
 * are the same, and so are texts that a nondeterministic collation does not distinguish.
 */
bool
poser_versioned_same_key(const PoserVersioned *versioned, TupleTableSlot *a, TupleTableSlot *b)
{
	for (int i = 0; i < versioned->nkeys; i++)
	{
		AttrNumber column = versioned->source[versioned->keys[i] - 1];
		bool anull;
		bool bnull;
		Datum avalue = slot_getattr(a, column, &anull);
		Datum bvalue = slot_getattr(b, column, &bnull);

		if (same_value(a, column, b, column))
			continue;
		if (anull || bnull ||
			!DatumGetBool(OidFunctionCall2Coll(versioned->key_equal[i], versioned->key_collation[i], avalue, bvalue)))
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
