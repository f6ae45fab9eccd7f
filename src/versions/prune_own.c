/*
 * prune_own.c
 *	  Pruning tables that poser_track() gives a history, and rows that are gone.
 *
 * Each own table is pruned with the rights of the owner of its versions, so that code in
 * its indexes and triggers runs with no other rights.  A call that prunes all tables goes
 * on if one of them raises an error or is locked, and reports this as a WARNING.  So the
 * owner of one table cannot keep another one from being pruned.
 *
 * A database can have a thousand own tables, and most of them have little to prune.  So a
 * small table of versions is read without a query, in the order of its index on key and
 * change_id.  Of other tables:
 *
 * Without max_versions a query reads all versions.  With max_versions a call must not read
 * again what earlier calls have read.  The keys of an own table can have any types, and a
 * position in their order could not be stored as text.  So the changes are read in the
 * order of change_id, and each one removes the version of its row that comes directly
 * before it.  The position is a change_id.  A change that is not old when a round passes
 * it has a change_id that is greater than the round's transaction.  So the next round begins
 * behind that transaction.
 *
 * The horizon of an own table is the comment of its trigger poser_versions_of, see
 * poser_history_horizon().  Its transaction is not the one up to which versions were
 * pruned, but the last one that has replaced a removed version: the states after that one
 * are complete.  So erasing one old row leaves the states of all others.
 *
 * Invariant: for each removed version the horizon is not less than the change that has
 * replaced it, nor less than the transaction of this change.  A row that is gone has been
 * replaced by its delete.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/nbtree.h"
#include "access/table.h"
#include "catalog/pg_am.h"
#include "catalog/pg_index.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/comment.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "rewrite/prs2lock.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "versions/prune_internal.h"

/* A table of versions with at most so many pages is read without a query. */
#define SMALL_TABLE_PAGES 128

/*
 * Returns the query for at most $2 last versions of rows whose delete is old, as
 * poser_prune_found() expects it:
 *
 *	SELECT v.change_id, v.change_id, v.transaction_id
 *	  FROM customer_version AS v
 *	 WHERE v.operation_type = 2 AND v.transaction_id <= $1 [AND <it matches>]
 *	   AND NOT EXISTS (SELECT FROM customer_version AS other
 *	                    WHERE other.id = v.id
 *	                      AND (other.change_id > v.change_id OR other.transaction_id > $1))
 *	 LIMIT $2
 */
static char *
gone_query(const PoserPruning *pruning, const PoserVersioned *versioned, int nargs)
{
	const char *versions = poser_relation_name(versioned->versions);
	const char *change_id = poser_history_column(versioned, versioned->change_id);
	const char *transaction_id = poser_history_column(versioned, versioned->transaction_id);
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql,
					 "SELECT v.%1$s, v.%1$s, v.%2$s\n"
					 "  FROM %3$s AS v\n"
					 " WHERE v.%4$s OPERATOR(pg_catalog.=) 2 AND v.%2$s OPERATOR(pg_catalog.<=) $%5$d",
					 change_id, transaction_id, versions,
					 poser_history_column(versioned, versioned->operation_type), nargs + 1);
	poser_prune_append_match(&sql, pruning, versioned);
	appendStringInfo(&sql, "\n   AND NOT EXISTS (SELECT FROM %s AS other\n                    WHERE ", versions);
	poser_history_append_keys(&sql, versioned, " AND ", "other.%n %= v.%n");
	appendStringInfo(&sql,
					 "\n                      AND (other.%1$s OPERATOR(pg_catalog.>) v.%1$s OR other.%2$s OPERATOR(pg_catalog.>) $%3$d))\n"
					 " LIMIT $%4$d",
					 change_id, transaction_id, nargs + 1, nargs + 2);
	return sql.data;
}

/*
 * Remove at most "limit" last versions of rows whose delete is old.  Raises the horizon
 * accordingly.  Returns how many were removed.
 */
int64
poser_prune_gone(const PoserPruning *pruning, const PoserVersioned *versioned, int64 transaction_id, int64 limit,
				 PoserHorizon *horizon)
{
	PoserPruneQuery query;
	int64 result;
	int64 total;

	poser_prune_query_begin(&query, pruning);
	query.query.sql = gone_query(pruning, versioned, query.query.nargs);
	poser_prune_query_add(&query, transaction_id);
	poser_prune_query_add(&query, limit);
	result = poser_prune_found(pruning, versioned, &query.query, &total, NULL, horizon);
	if (total > 0 && !versioned->own)
		horizon->transaction_id = Max(horizon->transaction_id, transaction_id);
	return result;
}

/*
 * A call that is to erase certain rows must not leave them silently.  Raises an error
 * (55006) if a consumer of datasync still needs the delete of such a row, which is
 * otherwise old enough: it is by a transaction after this one, up to which versions can be
 * removed.
 */
void
poser_prune_check_needed(const PoserPruning *pruning, const PoserVersioned *versioned, int64 transaction_id)
{
	PoserPruneQuery query;
	int64 old;
	bool isnull;

	if (!pruning->gone || pruning->match == NULL || versioned->nkeys == 0)
		return;
	old = poser_prune_until(pruning, NULL, PG_INT64_MAX, &isnull);
	if (isnull || old <= transaction_id)
		return;
	poser_prune_query_begin(&query, pruning);
	query.query.sql = gone_query(pruning, versioned, query.query.nargs);
	poser_prune_query_add(&query, old);
	poser_prune_query_add(&query, PG_INT64_MAX);
	(void) poser_run(&query.query);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool null;

		if (DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 3, &null)) > transaction_id)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("consumers of datasync have not confirmed all changes of table \"%s\"", get_rel_name(versioned->relid)),
					 errdetail("The history of rows that are to be erased is still needed."),
					 errhint("Call the function again when they have.")));
	}
	SPI_freetuptable(SPI_tuptable);
}

/*
 * Returns the query for the next changes after change $2 by transactions up to $1, each
 * with the version of its row that comes before it, and whether the row is gone with it.
 * With "gone":
 *
 *	SELECT change.change_id, change.transaction_id, before.change_id,
 *	       change.operation_type = 2
 *	       AND NOT EXISTS (SELECT FROM customer_version AS other
 *	                        WHERE other.id = change.id
 *	                          AND (other.change_id > change.change_id OR other.transaction_id > $1))
 *	  FROM (SELECT v.change_id, v.transaction_id, v.operation_type, v.id
 *	          FROM customer_version AS v
 *	         WHERE v.change_id > $2 AND v.transaction_id <= $1
 *	         ORDER BY v.change_id
 *	         LIMIT 1000) AS change
 *	       LEFT JOIN LATERAL (SELECT v.change_id FROM customer_version AS v
 *	                           WHERE v.id = change.id AND v.change_id < change.change_id AND v.transaction_id <= $1
 *	                           ORDER BY v.change_id DESC
 *	                           LIMIT 1) AS before ON true
 *	 ORDER BY change.change_id
 */
static char *
changes_query(const PoserPruning *pruning, const PoserVersioned *versioned)
{
	const char *versions = poser_relation_name(versioned->versions);
	const char *change_id = poser_history_column(versioned, versioned->change_id);
	const char *transaction_id = poser_history_column(versioned, versioned->transaction_id);
	const char *operation = poser_history_column(versioned, versioned->operation_type);
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT change.%1$s, change.%2$s, before.%1$s, ", change_id, transaction_id);
	if (pruning->gone)
	{
		appendStringInfo(&sql,
						 "change.%s OPERATOR(pg_catalog.=) 2\n"
						 "       AND NOT EXISTS (SELECT FROM %s AS other\n"
						 "                        WHERE ",
						 operation, versions);
		poser_history_append_keys(&sql, versioned, " AND ", "other.%n %= change.%n");
		appendStringInfo(&sql,
						 "\n                          AND (other.%1$s OPERATOR(pg_catalog.>) change.%1$s OR other.%2$s OPERATOR(pg_catalog.>) $1))\n",
						 change_id, transaction_id);
	}
	else
		appendStringInfoString(&sql, "false\n");
	appendStringInfo(&sql, "  FROM (SELECT v.%s, v.%s, v.%s, ", change_id, transaction_id, operation);
	poser_history_append_keys(&sql, versioned, ", ", "v.%n");
	appendStringInfo(&sql,
					 "\n          FROM %1$s AS v\n"
					 "         WHERE v.%2$s OPERATOR(pg_catalog.>) $2 AND v.%3$s OPERATOR(pg_catalog.<=) $1\n"
					 "         ORDER BY v.%2$s\n"
					 "         LIMIT %4$d) AS change\n"
					 "       LEFT JOIN LATERAL (SELECT v.%2$s FROM %1$s AS v\n"
					 "                           WHERE ",
					 versions, change_id, transaction_id, PRUNED_AT_A_TIME / 2);
	poser_history_append_keys(&sql, versioned, " AND ", "v.%n %= change.%n");
	appendStringInfo(&sql,
					 " AND v.%1$s OPERATOR(pg_catalog.<) change.%1$s AND v.%2$s OPERATOR(pg_catalog.<=) $1\n"
					 "                           ORDER BY v.%1$s DESC\n"
					 "                           LIMIT 1) AS before ON true\n"
					 " ORDER BY change.%1$s",
					 change_id, transaction_id);
	return sql.data;
}

/*
 * Remove at most "limit" versions of an own table, by changes after the position, up to its
 * transaction, and raise the horizon accordingly.  Returns how many were removed.  The
 * position becomes the last change that was looked at; it is complete if there are no
 * more.
 *
 * All queries read with the active snapshot, which does not see what is deleted here.  But
 * no version is found twice, because each has one change that follows it directly.
 */
int64
poser_prune_changes(const PoserPruning *pruning, const PoserVersioned *versioned, int64 limit, PoserPosition *position,
					PoserHorizon *horizon)
{
	const Oid argtypes[] = {INT8OID, INT8OID};
	char *sql = changes_query(pruning, versioned);
	int64 result = 0;

	/* what has become old since the last round is by changes behind its transaction */
	position->change_id = Max(position->change_id, position->since);
	while (!position->complete && result < limit)
	{
		const Datum values[] = {Int64GetDatum(position->transaction_id), Int64GetDatum(position->change_id)};
		int nrows = poser_run(&(PoserQuery) {.sql = sql, .nargs = lengthof(argtypes), .argtypes = argtypes, .values = values, .read_only = true, .no_seqscan = true});
		SPITupleTable *found = SPI_tuptable;
		Datum ids[PRUNED_AT_A_TIME];
		int nids = 0;
		int looked_at = 0;

		for (; looked_at < nrows; looked_at++)
		{
			HeapTuple tuple = found->vals[looked_at];
			bool no_before;
			bool isnull;
			int64 change_id = DatumGetInt64(SPI_getbinval(tuple, found->tupdesc, 1, &isnull));
			int64 transaction_id = DatumGetInt64(SPI_getbinval(tuple, found->tupdesc, 2, &isnull));
			int64 before = DatumGetInt64(SPI_getbinval(tuple, found->tupdesc, 3, &no_before));
			bool is_gone = DatumGetBool(SPI_getbinval(tuple, found->tupdesc, 4, &isnull));

			/* without room for both, a row's delete is left for the next call, which then looks at it again */
			if (!no_before || is_gone)
			{
				if (result + nids == limit)
					break;
				horizon->change_id = Max(horizon->change_id, change_id);
				horizon->transaction_id = Max(horizon->transaction_id, transaction_id);
			}
			if (!no_before)
				ids[nids++] = Int64GetDatum(before);
			if (is_gone)
			{
				if (result + nids == limit)
					break;
				ids[nids++] = Int64GetDatum(change_id);
			}
			position->change_id = change_id;
		}
		SPI_freetuptable(found);
		result += poser_prune_delete_ids(pruning, versioned, ids, nids);
		if (looked_at < nrows)
			break;
		position->complete = (nrows < PRUNED_AT_A_TIME / 2);
	}
	pfree(sql);
	return result;
}

/* Is the table of versions small, and can prune_small_table() read it? */
static bool
is_small(const PoserVersioned *versioned)
{
	Relation versions = table_open(versioned->versions, NoLock);
	bool result = (!versioned->partitioned && OidIsValid(versioned->versions_index) &&
				   RelationGetNumberOfBlocks(versions) <= SMALL_TABLE_PAGES);

	table_close(versions, NoLock);
	return result;
}

/* Do two versions have the same key? */
static bool
same_key(const PoserVersioned *versioned, FmgrInfo *equal, TupleTableSlot *a, TupleTableSlot *b)
{
	for (int i = 0; i < versioned->nkeys; i++)
	{
		bool anull;
		bool bnull;
		Datum avalue = slot_getattr(a, versioned->keys[i], &anull);
		Datum bvalue = slot_getattr(b, versioned->keys[i], &bnull);

		if (anull || bnull || !DatumGetBool(FunctionCall2Coll(&equal[i], versioned->key_collation[i], avalue, bvalue)))
			return false;
	}
	return true;
}

/*
 * Can versions be deleted without a statement, because it would do nothing else?  The
 * owner of the versions, which is the current user, must have the privilege, and no trigger
 * but Poser's own may fire.  Policies do not apply to the owner here.
 */
static bool
can_delete_directly(const PoserVersioned *versioned, Relation versions)
{
	TriggerDesc *triggers = versions->trigdesc;

	if (versions->rd_rules != NULL || pg_class_aclcheck(versioned->versions, GetUserId(), ACL_DELETE) != ACLCHECK_OK)
		return false;
	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		const Trigger *trigger = &triggers->triggers[i];

		/* poser_versions_of() only lets Poser pass */
		if (TRIGGER_FOR_DELETE(trigger->tgtype) &&
			(get_func_namespace(trigger->tgfoid) != versioned->nspid ||
			 strcmp(get_func_name(trigger->tgfoid), "poser_versions_of") != 0))
			return false;
	}
	CheckCmdReplicaIdentity(versions, CMD_DELETE);
	return true;
}

/*
 * Do what poser_prune_pass() does, and then poser_prune_gone() if rows that are gone are to
 * be removed, for a small table.  Its index is read from the beginning to the end, so that
 * the versions of a row come one after the other.  They are read as they are now; what the
 * snapshot does not see is not deleted.
 */
static int64
prune_small_table(const PoserPruning *pruning, const PoserVersioned *versioned, int64 transaction_id, int64 limit,
				  PoserHorizon *horizon)
{
	Relation versions = table_open(versioned->versions, NoLock);
	FmgrInfo equal[INDEX_MAX_KEYS];
	Datum ids[PRUNED_AT_A_TIME];
	PoserLookup lookup;
	TupleTableSlot *before = table_slot_create(versions, NULL); /* the version that was read before */
	TupleTableSlot *last = table_slot_create(versions, NULL);	/* the last old version of the row */
	bool has_before = false;
	bool has_last = false;
	bool has_younger = false; /* has the row a version that is not old? */
	bool found = true;
	bool directly = can_delete_directly(versioned, versions);
	ItemPointerData last_tid;
	int nids = 0;
	int64 result = 0;

	ItemPointerSetInvalid(&last_tid);
	for (int i = 0; i < versioned->nkeys; i++)
		fmgr_info(versioned->key_equal[i], &equal[i]);
	poser_lookup_open(&lookup, versions, versioned->versions_index, 0);
	poser_lookup_begin(&lookup, BTGreaterEqualStrategyNumber, NULL, NULL);
	while (found && result + nids < limit)
	{
		TupleTableSlot *next = NULL; /* what replaces the last old version */
		bool same;
		bool old;

		CHECK_FOR_INTERRUPTS();
		found = poser_lookup_next(&lookup, ForwardScanDirection);
		old = found && poser_version_transaction_id(versioned, lookup.slot) <= transaction_id;
		same = found && has_before && same_key(versioned, equal, lookup.slot, before);
		if (same)
			next = old && has_last ? lookup.slot : NULL;
		else
		{
			/* this is another row, and the one before can be gone */
			if (has_last && pruning->gone && !has_younger && poser_version_operation(versioned, last) == POSER_DELETE)
				next = last;
			has_younger = false;
		}
		if (next != NULL)
		{
			if (!directly)
				ids[nids++] = Int64GetDatum(poser_version_change_id(versioned, last));
			else if (poser_direct_delete_seen(versions, &last_tid, GetActiveSnapshot()))
			{
				poser_progress_count(pruning->progress, 1);
				result++;
			}
			horizon->change_id = Max(horizon->change_id, poser_version_change_id(versioned, next));
			horizon->transaction_id = Max(horizon->transaction_id, poser_version_transaction_id(versioned, next));
		}
		if (nids == PRUNED_AT_A_TIME)
		{
			result += poser_prune_delete_ids(pruning, versioned, ids, nids);
			nids = 0;
		}
		if (!found)
			break;
		has_last = old || (same && has_last);
		if (old)
		{
			ExecCopySlot(last, lookup.slot);
			last_tid = lookup.slot->tts_tid;
		}
		has_younger = has_younger || !old;
		ExecCopySlot(before, lookup.slot);
		has_before = true;
	}
	result += poser_prune_delete_ids(pruning, versioned, ids, nids);
	if (directly && result > 0)
		CommandCounterIncrement();
	poser_lookup_close(&lookup);
	ExecDropSingleTupleTableSlot(before);
	ExecDropSingleTupleTableSlot(last);
	table_close(versions, NoLock);
	return result;
}

/*
 * Is an index of versions one on a key and change_id?  Returns how many columns the key
 * has, or 0.
 */
static int
key_columns_of_index(Oid indexid, AttrNumber change_id)
{
	HeapTuple tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(indexid));
	Form_pg_index form;
	int result = 0;

	if (!HeapTupleIsValid(tuple))
		return 0;
	form = (Form_pg_index) GETSTRUCT(tuple);
	if (form->indisvalid && form->indnkeyatts >= 2 && form->indkey.values[form->indnkeyatts - 1] == change_id &&
		heap_attisnull(tuple, Anum_pg_index_indpred, NULL) && heap_attisnull(tuple, Anum_pg_index_indexprs, NULL))
		result = form->indnkeyatts - 1;
	ReleaseSysCache(tuple);
	return result;
}

/*
 * Does an index of versions have two versions one after the other that are the same in its
 * first "nkeys" columns or, if rows that are gone are to be removed, a delete?
 */
static bool
index_has_old_versions(const PoserPruning *pruning, Relation versions, Oid indexid, int nkeys, AttrNumber operation_type)
{
	TupleTableSlot *before = table_slot_create(versions, NULL);
	PoserLookup lookup;
	bool has_before = false;
	bool result;

	poser_lookup_open(&lookup, versions, indexid, 0);
	result = lookup.index->rd_rel->relam != BTREE_AM_OID;
	if (!result)
		poser_lookup_begin(&lookup, BTGreaterEqualStrategyNumber, NULL, NULL);
	while (!result && poser_lookup_next(&lookup, ForwardScanDirection))
	{
		bool null;

		CHECK_FOR_INTERRUPTS();
		result = has_before;
		for (int i = 0; result && i < nkeys; i++)
		{
			AttrNumber column = lookup.index->rd_index->indkey.values[i];
			bool before_null;
			Datum value = slot_getattr(lookup.slot, column, &null);
			Datum before_value = slot_getattr(before, column, &before_null);

			result = null || before_null ||
					 DatumGetInt32(FunctionCall2Coll(index_getprocinfo(lookup.index, i + 1, BTORDER_PROC),
													 lookup.index->rd_indcollation[i], value, before_value)) == 0;
		}
		if (pruning->gone && DatumGetInt16(slot_getattr(lookup.slot, operation_type, &null)) == POSER_DELETE)
			result = true;
		ExecCopySlot(before, lookup.slot);
		has_before = true;
	}
	poser_lookup_close(&lookup);
	ExecDropSingleTupleTableSlot(before);
	return result;
}

/*
 * Can a table of versions have something to prune?  To describe a table takes longer than
 * to look at a small one.  So this looks at its indexes on a key and change_id, whatever
 * the key is now.  The caller has locked the table, and has its owner's rights.
 */
static bool
can_have_old_versions(const PoserPruning *pruning, const PoserTracked *tracked)
{
	Relation versions = table_open(tracked->versions, NoLock);
	const Trigger *trigger = poser_binding_trigger(versions, tracked->binding);
	List *indexes = NIL;
	AttrNumber operation_type = 0;
	AttrNumber change_id = 0;
	bool result = true;
	ListCell *lc;

	if (trigger != NULL && trigger->tgnargs >= POSER_BINDING_FIXED && versions->rd_rel->relkind == RELKIND_RELATION &&
		RelationGetNumberOfBlocks(versions) <= SMALL_TABLE_PAGES)
	{
		operation_type = get_attnum(tracked->versions, trigger->tgargs[2]);
		change_id = get_attnum(tracked->versions, trigger->tgargs[4]);
		if (operation_type > 0 && get_atttype(tracked->versions, operation_type) == INT2OID && change_id > 0)
			indexes = RelationGetIndexList(versions);
	}
	foreach(lc, indexes)
	{
		int nkeys = key_columns_of_index(lfirst_oid(lc), change_id);

		if (nkeys == 0)
			continue;
		result = index_has_old_versions(pruning, versions, lfirst_oid(lc), nkeys, operation_type);
		if (result)
			break;
	}
	list_free(indexes);
	table_close(versions, NoLock);
	return result;
}

/* Raise the horizon of an own table, see poser_own_horizon().  It is not lowered if an older snapshot was used. */
static void
raise_own_horizon(const PoserVersioned *versioned, PoserHorizon horizon)
{
	PoserHorizon before = poser_history_horizon(versioned, false);

	CreateComments(get_trigger_oid(versioned->versions, "poser_versions_of", false), TriggerRelationId, 0,
				   psprintf(POSER_HORIZON_FORMAT, (long long) Max(horizon.transaction_id, before.transaction_id),
							(long long) Max(horizon.change_id, before.change_id)));
}

/* Lock an object; without "wait" only if nothing is in the way. */
static bool
lock_object(Oid relid, LOCKMODE mode, bool wait)
{
	if (!wait)
		return ConditionalLockRelationOid(relid, mode);
	LockRelationOid(relid, mode);
	return true;
}

/*
 * Take the lock that keeps others from pruning these versions, or from reverting rows
 * meanwhile.  It is a lock on the object, and not on the table, so VACUUM does not take it.
 */
static bool
lock_versions(Oid versions, LOCKMODE mode, bool wait)
{
	LOCKTAG tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, RelationRelationId, versions, 0);
	return LockAcquire(&tag, mode, false, !wait) != LOCKACQUIRE_NOT_AVAIL;
}

/* Revert calls this for an own table: pruning waits until the transaction ends. */
void
poser_prune_lock_out(const PoserVersioned *versioned)
{
	(void) lock_versions(versioned->versions, ShareLock, true);
}

/* Lock a tracked table.  Returns false if it is no longer the same or, without "wait", if it is locked. */
static bool
lock_own_table(const PoserPruning *pruning, const PoserTracked *tracked, bool wait)
{
	char *name = get_rel_name(tracked->relid);

	if (name == NULL)
		return false;
	if (!lock_object(tracked->relid, AccessShareLock, wait) || !lock_object(tracked->versions, RowExclusiveLock, wait) ||
		!lock_versions(tracked->versions, ExclusiveLock, wait))
	{
		ereport(WARNING,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("versions of table \"%s\" were not pruned", name),
				 errdetail("Another transaction has locked it.")));
		return false;
	}

	/* lock, then look; the name is gone if the table is */
	return get_rel_name(tracked->relid) != NULL && get_rel_name(tracked->versions) != NULL &&
		   poser_is_owner(tracked->versions, GetUserId());
}

/* Returns the transaction up to which versions of an own table are pruned.  If there is none, *isnull is true. */
static int64
own_until(PoserPruning *pruning, const PoserTracked *tracked, const char *relation, bool *isnull)
{
	PoserCaller caller;
	int64 needed = PG_INT64_MAX;

	/* most databases have no consumer that needs anything; then all tables have the same answer */
	poser_become_owner(pruning->transactions, &caller);
	if (poser_first_needed_hook != NULL && pruning->needed == 0)
		pruning->needed = poser_first_needed_hook(pruning->nspid, InvalidOid);
	if (poser_first_needed_hook != NULL && pruning->needed < PG_INT64_MAX)
		needed = poser_first_needed_hook(pruning->nspid, tracked->relid);
	poser_become_caller(&caller);
	if (needed != PG_INT64_MAX)
		return poser_prune_until(pruning, relation, needed, isnull);
	if (!pruning->has_until)
		pruning->until = poser_prune_until(pruning, relation, needed, &pruning->until_is_null);
	pruning->has_until = true;
	*isnull = pruning->until_is_null;
	return pruning->until;
}

/* Remove versions of a table that is described and locked, with the rights of their owner, which the caller has taken. */
static int64
prune_described(PoserPruning *pruning, const PoserVersioned *versioned, const PoserTracked *tracked)
{
	char relation[NAMEDATALEN];
	int64 limit = pruning->limit - pruning->removed;
	int64 transaction_id;
	int64 result;
	PoserHorizon horizon = {0, 0};
	bool isnull;

	poser_progress_table(pruning->progress, "poser_prune_versions", tracked->relid);
	poser_progress_report(pruning->progress, "removing", pruning->removed);
	snprintf(relation, sizeof(relation), "%u%s", versioned->versions, pruning->gone ? " gone" : "");
	transaction_id = own_until(pruning, tracked, pruning->limit < PG_INT64_MAX ? relation : NULL, &isnull);
	if (pruning->object != NULL)
		pruning->match = poser_match_read(versioned, pruning->object);
	poser_prune_check_needed(pruning, versioned, isnull ? 0 : transaction_id);
	if (isnull)
		return 0;

	if (pruning->match == NULL && is_small(versioned))
		result = prune_small_table(pruning, versioned, transaction_id, limit, &horizon);
	else if (pruning->limit < PG_INT64_MAX && pruning->match == NULL && OidIsValid(pruning->positions) &&
			 OidIsValid(versioned->versions_index))
		result = poser_prune_in_rounds(pruning, versioned, relation, transaction_id, limit, &horizon);
	else
	{
		result = poser_prune_pass(pruning, versioned, transaction_id, limit, NULL, &horizon);
		if (pruning->gone && result < limit)
			result += poser_prune_gone(pruning, versioned, transaction_id, limit - result, &horizon);
	}
	if (result > 0)
		raise_own_horizon(versioned, horizon);
	return result;
}

/*
 * Remove versions of an own table, with the rights of their owner.  If the table is
 * locked, the function waits or, without "wait", leaves it to a later call.
 */
void
poser_prune_own_table(PoserPruning *pruning, const PoserTracked *tracked, bool wait)
{
	PoserVersioned versioned;
	PoserCaller caller;
	int64 removed = 0;

	if (!lock_own_table(pruning, tracked, wait))
		return;
	poser_become_owner(tracked->versions, &caller);
	if (!wait && !can_have_old_versions(pruning, tracked))
	{
		poser_become_caller(&caller);
		return;
	}
	poser_tracked_describe(&versioned, tracked->relid, pruning->nspid, RowExclusiveLock);
	/* a call that is to erase certain rows must not leave them silently */
	if (pruning->object != NULL)
		poser_history_check_key(&versioned);
	/* it can have been bound to other versions before it was locked; a later call prunes these */
	if (versioned.nkeys > 0 && versioned.versions == tracked->versions)
	{
		PushActiveSnapshot(GetTransactionSnapshot());
		poser_lock_to_read(&versioned.versions, 1);
		removed = prune_described(pruning, &versioned, tracked);
		PopActiveSnapshot();
	}
	poser_become_caller(&caller);
	pruning->removed += removed;
}

/*
 * Remove versions of these own tables, as a list of PoserTracked.  An error of one table,
 * which its owner's code can raise, becomes a WARNING, and ends the work on this table only.
 */
void
poser_prune_own_tables(PoserPruning *pruning, List *tables)
{
	ListCell *lc;

	foreach(lc, tables)
	{
		PoserTracked *tracked = lfirst(lc);
		PoserSavepoint savepoint;
		int64 removed = pruning->removed;
		char *name;

		CHECK_FOR_INTERRUPTS();
		if (removed >= pruning->limit)
			break;
		/* it can have been dropped meanwhile, and later, too */
		name = get_rel_name(tracked->relid);
		if (name == NULL)
			continue;
		poser_savepoint_set(&savepoint);
		PG_TRY();
		{
			int level = poser_begin_impatience(tracked->versions);

			SPI_connect();
			poser_prune_own_table(pruning, tracked, false);
			SPI_finish();
			AtEOXact_GUC(true, level);
			poser_savepoint_release(&savepoint);
		}
		PG_CATCH();
		{
			ErrorData *error;

			pruning->removed = removed;
			error = poser_savepoint_catch_any(&savepoint);
			if (poser_is_cancel_request(error))
				ReThrowError(error);
			ereport(WARNING,
					(errcode(error->sqlerrcode),
					 errmsg("versions of table \"%s\" were not pruned", name),
					 errdetail("The error was: %s", error->message)));
			FreeErrorData(error);
		}
		PG_END_TRY();
	}
}
