/*
 * change_id.c
 *	  Ids of transactions and changes, which one sequence gives.
 *
 * An id must be greater than all that are in use, or the order of ids is not the order of
 * changes.  But a restore can set the sequence below ids that are in use: a dump's
 * setval() sets it to what it was in another database.  So a session compares an id with
 * the greatest ones in the tables
 *
 * - when it draws its first id, and its first one for each table that poser_track() has bound,
 * - when an id is not greater than its last one, and
 * - when it draws its first id after history has arrived, see arrival.c.
 *
 * If the id is not greater, the sequence is moved on.  Other ids cost nothing more than
 * the sequence.
 *
 * The caller has locked poser_transaction for writing, so that no history arrives meanwhile.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_am.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/fmgrprotos.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/relcache.h"

#include "versions/versions.h"
#include "versions/version_internal.h"

/* Up to here the sequence is moved on for tables of any owner.  It is far more than a database needs, and leaves as good as all ids. */
#define MAX_OWN_CHANGE_ID (INT64CONST(1) << 52)

/* The last id that this session has drawn, and the sequence that gave it. */
static int64 last_id = 0;
static Oid last_sequence = InvalidOid;

/* The table that is invalidated when history arrives, and whether the session has compared an id since. */
static Oid signal_relid = InvalidOid;
static bool is_compared = false;

/*
 * Own tables of versions with which an id was compared.  There can be thousands, so a
 * session compares its id only with those that it writes.
 */
typedef struct ComparedTable
{
	Oid versions;	   /* hash key */
	uint64 comparison; /* the comparison that it was part of */
} ComparedTable;

static HTAB *compared_tables = NULL;
static Oid last_compared = InvalidOid; /* the one that the last id was for */
static uint64 comparison = 1;		   /* begins anew when all must be compared again */

/* From here on all tables are compared again. */
static void
compare_again(void)
{
	is_compared = false;
	last_compared = InvalidOid;
	comparison++;
}

/* Relcache callback: history has arrived. */
static void
forget_comparison(Oid relid)
{
	if (!OidIsValid(relid) || relid == signal_relid)
		compare_again();
}

/* Make the table and register the callback, when the module is loaded. */
void
poser_change_id_init(void)
{
	HASHCTL ctl = {0};

	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(ComparedTable);
	compared_tables = hash_create("poser compared tables", 16, &ctl, HASH_ELEM | HASH_BLOBS);
	poser_relation_register(forget_comparison);
}

/*
 * Returns the last id that this session has drawn for this history, or 0.  Later changes
 * of the session have greater ones.
 */
int64
poser_version_last_change(const PoserVersioned *versioned)
{
	return last_sequence == versioned->sequence ? last_id : 0;
}

/* Returns a B-tree index of all rows whose first column is this one; InvalidOid if there is none. */
static Oid
index_on(Relation rel, AttrNumber column)
{
	Oid result = InvalidOid;
	List *indexes = RelationGetIndexList(rel);
	ListCell *lc;

	foreach(lc, indexes)
	{
		Relation index = index_open(lfirst_oid(lc), AccessShareLock);

		if (index->rd_index->indisvalid && index->rd_rel->relam == BTREE_AM_OID &&
			index->rd_index->indkey.values[0] == column && index->rd_indoption[0] == 0 &&
			heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL))
			result = lfirst_oid(lc);
		index_close(index, AccessShareLock);
	}
	list_free(indexes);
	return result;
}

/*
 * Returns the value of a column of type bigint in the last row by this index of a table that
 * is open and locked; 0 if there is no index or no row, or if the value is too great.
 */
static int64
last_by_index(Relation rel, Oid indexid, AttrNumber column)
{
	PoserLookup lookup;
	int64 result = 0;
	bool isnull;

	if (!OidIsValid(indexid))
		return 0;
	poser_lookup_open(&lookup, rel, indexid, 0);
	poser_lookup_begin(&lookup, InvalidStrategy, NULL, NULL);
	if (poser_lookup_next(&lookup, BackwardScanDirection))
		result = DatumGetInt64(slot_getattr(lookup.slot, column, &isnull));
	poser_lookup_close(&lookup);
	return result <= POSER_MAX_CHANGE_ID ? result : 0;
}

/*
 * Returns the value of column "value" in the last row by the unique index on column "key"
 * of a table that is open and locked; 0 if there is none, or if it is too great.
 */
int64
poser_change_id_last(Relation rel, const char *key, const char *value)
{
	AttrNumber column = poser_own_column(rel, key, INT8OID);
	AttrNumber result_column = poser_own_column(rel, value, INT8OID);
	bool immediate;

	return last_by_index(rel, poser_unique_index(rel, 1, &column, &immediate), result_column);
}

/* As poser_change_id_last(), for a table that may be dropped or locked.  Does not wait for a lock, and returns 0 instead. */
static int64
last_value_unless_locked(Oid relid, const char *key, const char *value)
{
	Relation rel;
	int64 result = 0;

	if (!OidIsValid(relid) || !ConditionalLockRelationOid(relid, AccessShareLock))
		return 0;
	rel = try_table_open(relid, NoLock);
	if (rel != NULL)
	{
		result = poser_change_id_last(rel, key, value);
		table_close(rel, NoLock);
	}
	UnlockRelationOid(relid, AccessShareLock);
	return result;
}

/* Returns the greatest change_id in a table of versions that its description has locked; 0 if no index finds it. */
static int64
greatest_version(const PoserVersioned *versioned)
{
	Relation rel = table_open(versioned->versions, NoLock);
	const char *name = NameStr(TupleDescAttr(RelationGetDescr(rel), versioned->change_id - 1)->attname);
	int64 result = 0;
	ListCell *lc;

	foreach(lc, poser_version_leaves(rel))
	{
		Relation leaf = table_open(lfirst_oid(lc), AccessShareLock);
		AttrNumber column = get_attnum(RelationGetRelid(leaf), name);

		result = Max(result, last_by_index(leaf, index_on(leaf, column), column));
		table_close(leaf, NoLock);
	}
	table_close(rel, NoLock);
	return result;
}

/* Returns the greatest id that is in use in this history. */
int64
poser_change_id_greatest(const PoserVersioned *versioned)
{
	Oid versions[POSER_VERSIONED_TABLES];
	int64 result = last_value_unless_locked(versioned->transactions, "id", "id");

	result = Max(result, last_value_unless_locked(versioned->arrivals, "first", "last"));
	result = Max(result, greatest_version(versioned));
	poser_versioned_version_tables(versions, get_rel_namespace(versioned->transactions));
	for (int i = 0; i < POSER_VERSIONED_TABLES; i++)
		if (versions[i] != versioned->versions)
			result = Max(result, last_value_unless_locked(versions[i], "change_id", "change_id"));
	return result;
}

/* Set the sequence.  The caller needs no privilege on it. */
static void
set_sequence(const PoserVersioned *versioned, int64 value)
{
	PoserCaller caller;

	poser_become_owner(versioned->sequence, &caller);
	(void) DirectFunctionCall2(setval_oid, ObjectIdGetDatum(versioned->sequence), Int64GetDatum(value));
	poser_become_caller(&caller);
}

/*
 * The sequence is about to be moved on.  Raises an error if this is for an id that the owner
 * of a tracked table may have invented: all histories share the sequence, and one role must
 * not use it up for the others.
 */
static void
check_may_move(const PoserVersioned *versioned)
{
	int64 greatest;

	if (!versioned->own || poser_is_owner(versioned->sequence, poser_owner_of(versioned->versions)))
		return;
	greatest = greatest_version(versioned);
	if (greatest > MAX_OWN_CHANGE_ID)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("change_id %lld of table \"%s\" is too great", (long long) greatest, get_rel_name(versioned->versions)),
				 errhint("Only a table that the owner of extension \"poser\" owns can move the sequence of ids so far on.")));
}

/* Returns "id" or, if it is in use or less than an id that is, a greater one. */
static int64
compare(const PoserVersioned *versioned, int64 id)
{
	int64 greatest = poser_change_id_greatest(versioned);

	if (id <= greatest)
	{
		/* only one session moves the sequence on; it may have been moved while this one waited */
		LockRelationOid(versioned->sequence, ShareUpdateExclusiveLock);
		id = nextval_internal(versioned->sequence, false);
		if (id <= greatest)
		{
			check_may_move(versioned);
			set_sequence(versioned, greatest);
			id = nextval_internal(versioned->sequence, false);
		}
		UnlockRelationOid(versioned->sequence, ShareUpdateExclusiveLock);
	}
	return id;
}

/* Must an id be compared with those of this own table of versions? */
static bool
is_new_table(const PoserVersioned *versioned)
{
	ComparedTable *table;
	bool found;
	bool result;

	table = hash_search(compared_tables, &versioned->versions, HASH_ENTER, &found);
	result = !found || table->comparison != comparison;
	table->comparison = comparison;
	last_compared = versioned->versions;
	return result;
}

/* Returns a new id, which is greater than all that are in use. */
int64
poser_change_id_next(const PoserVersioned *versioned)
{
	int64 id = nextval_internal(versioned->sequence, false);
	bool is_new;

	if (unlikely(last_sequence != versioned->sequence || id <= last_id))
		compare_again();
	is_new = versioned->own && versioned->versions != last_compared && is_new_table(versioned);
	if (unlikely(is_new || !is_compared))
	{
		/* set first, so that an invalidation that arrives meanwhile is not lost */
		signal_relid = versioned->arrivals;
		is_compared = true;
		/* if an error ends the comparison, the next id is compared again */
		last_sequence = InvalidOid;
		id = compare(versioned, id);
		last_sequence = versioned->sequence;
	}
	last_id = id;
	return id;
}

/* Returns the last id that the sequence has given; 0 if it has given none yet. */
int64
poser_change_id_given(const PoserVersioned *versioned)
{
	PoserCaller caller;
	Datum value;
	LOCAL_FCINFO(fcinfo, 1);

	/* pg_sequence_last_value() is null if the sequence has given no value yet */
	poser_become_owner(versioned->sequence, &caller);
	InitFunctionCallInfoData(*fcinfo, NULL, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = ObjectIdGetDatum(versioned->sequence);
	fcinfo->args[0].isnull = false;
	value = pg_sequence_last_value(fcinfo);
	poser_become_caller(&caller);
	return fcinfo->isnull ? 0 : DatumGetInt64(value);
}

/* Move the sequence on, so that it gives ids that are greater than this one. */
void
poser_change_id_advance(const PoserVersioned *versioned, int64 id)
{
	if (poser_change_id_given(versioned) < id)
		set_sequence(versioned, id);
}

/* Let all sessions compare their next id, when this transaction commits. */
void
poser_change_id_signal(const PoserVersioned *versioned)
{
	CacheInvalidateRelcacheByRelid(versioned->arrivals);
}
