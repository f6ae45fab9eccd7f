/*
 * change_id.c
 *	  Ids of transactions and changes, which one sequence gives.
 *
 * An id must be greater than all that are in use, or the order of ids is not the order of
 * changes.  But a restore can set the sequence below ids that are in use: a dump's
 * setval() sets it to what it was in another database.  So a session compares an id with
 * the greatest ones in the tables
 *
 * - when it draws its first id,
 * - when an id is not greater than its last one, and
 * - when it draws its first id after history has arrived, see arrival.c.
 *
 * If the id is not greater, the sequence is moved on.  Other ids cost nothing more than
 * the sequence.
 *
 * The caller has locked poser_transaction for writing, so that no history arrives meanwhile.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/fmgrprotos.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"

#include "versions/versions.h"
#include "versions/version_internal.h"

/* The last id that this session has drawn, and the sequence that gave it. */
static int64 last_id = 0;
static Oid last_sequence = InvalidOid;

/* The table that is invalidated when history arrives, and whether the session has compared an id since. */
static Oid signal_relid = InvalidOid;
static bool is_compared = false;

/* Relcache callback: history has arrived. */
static void
forget_comparison(Oid relid)
{
	if (!OidIsValid(relid) || relid == signal_relid)
		is_compared = false;
}

/* Register the callback, when the module is loaded. */
void
poser_change_id_init(void)
{
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
	Oid indexid = poser_unique_index(rel, 1, &column, &immediate);
	PoserLookup lookup;
	int64 result = 0;
	bool isnull;

	if (!OidIsValid(indexid))
		return 0;
	poser_lookup_open(&lookup, rel, indexid, 0);
	poser_lookup_begin(&lookup, InvalidStrategy, NULL, NULL);
	if (poser_lookup_next(&lookup, BackwardScanDirection))
		result = DatumGetInt64(slot_getattr(lookup.slot, result_column, &isnull));
	poser_lookup_close(&lookup);
	return result <= POSER_MAX_CHANGE_ID ? result : 0;
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

/* Returns the greatest id that is in use in this history. */
int64
poser_change_id_greatest(const PoserVersioned *versioned)
{
	Oid versions[POSER_VERSIONED_TABLES];
	int64 result = last_value_unless_locked(versioned->transactions, "id", "id");

	result = Max(result, last_value_unless_locked(versioned->arrivals, "first", "last"));
	result = Max(result, last_value_unless_locked(versioned->versions, "change_id", "change_id"));
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
	Oid save_userid;
	int save_sec_context;

	poser_become_owner(versioned->sequence, &save_userid, &save_sec_context);
	(void) DirectFunctionCall2(setval_oid, ObjectIdGetDatum(versioned->sequence), Int64GetDatum(value));
	SetUserIdAndSecContext(save_userid, save_sec_context);
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
			set_sequence(versioned, greatest);
			id = nextval_internal(versioned->sequence, false);
		}
		UnlockRelationOid(versioned->sequence, ShareUpdateExclusiveLock);
	}
	return id;
}

/* Returns a new id, which is greater than all that are in use. */
int64
poser_change_id_next(const PoserVersioned *versioned)
{
	int64 id = nextval_internal(versioned->sequence, false);

	if (unlikely(last_sequence != versioned->sequence || id <= last_id || !is_compared))
	{
		/* set first, so that an invalidation that arrives meanwhile is not lost */
		signal_relid = versioned->arrivals;
		is_compared = true;
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
	Oid save_userid;
	int save_sec_context;
	Datum value;
	LOCAL_FCINFO(fcinfo, 1);

	/* pg_sequence_last_value() is null if the sequence has given no value yet */
	poser_become_owner(versioned->sequence, &save_userid, &save_sec_context);
	InitFunctionCallInfoData(*fcinfo, NULL, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = ObjectIdGetDatum(versioned->sequence);
	fcinfo->args[0].isnull = false;
	value = pg_sequence_last_value(fcinfo);
	SetUserIdAndSecContext(save_userid, save_sec_context);
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
