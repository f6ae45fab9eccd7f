/*
 * window.c
 *	  Positions in the history, and windows of changes.
 *
 * A consumer gets every change at least once.  The history keeps all changes, so a
 * consumer needs no queue of its own, only a position in the history.
 *
 * Position.  A position is a snapshot.  Every change that the snapshot sees is
 * confirmed, and every other change is still to come.  A change_id alone could not be
 * a position: a transaction draws its change_ids from a sequence before it commits.
 * When change 5 is visible, change 3 may belong to a transaction that is still
 * running.  A transaction id has the same problem.
 *
 * Window.  When a consumer asks for changes, a second snapshot is taken.  The window
 * is the set of changes that the second snapshot sees and the position does not.  The
 * changes of a window are delivered in the order of change_id, in one call or in
 * several, and "confirmed" is the last change of the window that is confirmed.  When
 * all of them are confirmed, the second snapshot becomes the position, and the window
 * is closed.  The changes of a transaction that is running when a snapshot is taken
 * come in a later window.  So no change is lost, and no session waits for another.
 *
 * An example with three transactions A, B and C.  (The transactions' own ids, which
 * come from the same sequence, are left out.)
 *
 *		A makes change 1.
 *		B makes change 2 and commits.
 *		C makes change 3.
 *		The consumer opens a window.  Its snapshot sees B alone: the window is 2.
 *		A makes change 4 and commits.
 *		The consumer confirms 2, which closes the window, and opens the next one.
 *		Its snapshot sees A and B, and the position sees B: the window is 1, 4.
 *		C commits.
 *		The consumer confirms 4 and opens the next window, which is 3.
 *
 * The consumer gets 2, then 1 and 4, then 3.  If its position were "after change 2",
 * change 1 would be lost.
 *
 * Nothing new.  Most calls find no new transaction, and must be cheap.  A new transaction
 * is one that the position does not see: it began after the position's snapshot was taken,
 * or it was running then and has ended since.  An index on xact finds both.  Transactions
 * that are still running are not looked up, however many they are.  And a session
 * remembers for a position up to which later snapshot it has found nothing, so that it
 * looks up each transaction that has ended only once.
 *
 * Order.  The changes of one row come in the order in which they were made, in one
 * window or in several.  A second writer of a row waits for the first.  So its change
 * has the greater change_id, and every snapshot that sees the second sees the first.
 *
 * Settled.  A snapshot has a meaning only in the cluster in which it was taken.  When a
 * consumer is restored or replicated elsewhere, its position becomes a change_id, and
 * some changes may be delivered again.  For this the consumer keeps "settled": each
 * change that its last snapshot does not see has a greater change_id.  (The last
 * snapshot is the window's if a window is open, and otherwise the position.)  "settled"
 * is found when a snapshot is taken:
 *
 * 1. Read the sequence; let its value be V.
 * 2. If no running transaction has drawn a change_id, V is settled.  The new snapshot
 *    sees each change up to V, unless its transaction was rolled back.  (In REPEATABLE
 *    READ the snapshot may be older than that: then the id of the first transaction
 *    that it does not see is settled.)
 * 3. Otherwise keep V as "next_settled", and the next transaction ID, N, as
 *    "next_settled_xact".  A transaction gets its transaction ID before it draws
 *    change_ids, so all changes up to V belong to transactions before N.  V is settled
 *    once a snapshot is taken when all transactions before N have ended.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/xid8.h"

#include "datasync/datasync_internal.h"

PG_FUNCTION_INFO_V1(poser_datasync_arrive);

/*
 * Snapshots as values
 */

/*
 * A value of the type pg_snapshot.  The server's header files do not have this format, but
 * it is the one on disk, which stays.  "xip" is in order.
 */
typedef struct StoredSnapshot
{
	int32 vl_len_;
	uint32 nxip;
	FullTransactionId xmin;
	FullTransactionId xmax;
	FullTransactionId xip[FLEXIBLE_ARRAY_MEMBER]; /* the running transactions */
} StoredSnapshot;

/* sort_xids(): there may be hundreds of running transactions, so compare them inline. */
#define ST_SORT sort_xids
#define ST_ELEMENT_TYPE FullTransactionId
#define ST_COMPARE(a, b) ((a)->value < (b)->value ? -1 : (a)->value > (b)->value)
#define ST_SCOPE static
#define ST_DEFINE
#include "lib/sort_template.h"

/* Add the epoch to a transaction ID.  It must be less than 2^32 before the next one. */
static FullTransactionId
full_xid(TransactionId xid, FullTransactionId next)
{
	return FullTransactionIdFromU64(U64FromFullTransactionId(next) - (uint32) (XidFromFullTransactionId(next) - xid));
}

/*
 * Returns the active snapshot as a pg_snapshot, in the current memory context.  With
 * "own_is_running" the current transaction counts as running, so the result does not see
 * its changes.
 */
static StoredSnapshot *
copy_active_snapshot(bool own_is_running)
{
	Snapshot snapshot = GetActiveSnapshot();
	FullTransactionId next = ReadNextFullTransactionId();
	TransactionId own = GetTopTransactionIdIfAny();
	StoredSnapshot *result = palloc(offsetof(StoredSnapshot, xip) + (snapshot->xcnt + 1) * sizeof(FullTransactionId));
	uint32 n = 0;

	result->xmax = full_xid(snapshot->xmax, next);
	for (uint32 i = 0; i < snapshot->xcnt; i++)
		result->xip[n++] = full_xid(snapshot->xip[i], next);
	/* a snapshot does not list its own transaction, so add it */
	if (own_is_running && TransactionIdIsValid(own) && FullTransactionIdPrecedes(full_xid(own, next), result->xmax))
		result->xip[n++] = full_xid(own, next);

	/* in order, and each one once: a transaction that is just being prepared occurs twice */
	sort_xids(result->xip, n);
	result->nxip = 0;
	for (uint32 i = 0; i < n; i++)
		if (i == 0 || !FullTransactionIdEquals(result->xip[i], result->xip[i - 1]))
			result->xip[result->nxip++] = result->xip[i];
	result->xmin = n > 0 ? result->xip[0] : result->xmax;
	SET_VARSIZE(result, offsetof(StoredSnapshot, xip) + result->nxip * sizeof(FullTransactionId));
	return result;
}

/*
 * Returns the active snapshot as a pg_snapshot, in the current memory context.  It does not
 * see the current transaction's changes.  *xmin is the first running transaction.
 */
static struct varlena *
copy_snapshot(uint64 *xmin)
{
	StoredSnapshot *result = copy_active_snapshot(true);

	*xmin = U64FromFullTransactionId(result->xmin);
	return (struct varlena *) result;
}

/*
 * Returns, as an array of xid8, the transactions that are running for the snapshot "from"
 * and not for the snapshot "now", which is NULL for the active one.  *n is how many.
 */
static Datum
ended_since(const StoredSnapshot *from, const StoredSnapshot *now, int *n)
{
	Datum *ended = palloc(Max(from->nxip, 1) * sizeof(Datum));
	uint32 j = 0;

	if (now == NULL)
		now = copy_active_snapshot(false);
	*n = 0;
	for (uint32 i = 0; i < from->nxip && FullTransactionIdPrecedes(from->xip[i], now->xmax); i++)
	{
		while (j < now->nxip && FullTransactionIdPrecedes(now->xip[j], from->xip[i]))
			j++;
		if (j == now->nxip || !FullTransactionIdEquals(now->xip[j], from->xip[i]))
			ended[(*n)++] = FullTransactionIdGetDatum(from->xip[i]);
	}
	return PointerGetDatum(construct_array(ended, *n, XID8OID, sizeof(FullTransactionId), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/*
 * Queries over the history
 *
 * The caller acts as the owner.  The queries use the active snapshot.
 */

/*
 * Begin settings for such a query.  Returns a level, as poser_begin_settings() does.
 *
 * The planner must use the indexes: only the first rows in index order are needed, and
 * the planner does not know from statistics how many rows come after the position.  With
 * row_security off it is an error if a policy would hide rows from the owner.  Otherwise
 * changes would be left out.
 */
int
poser_begin_reading(void)
{
	static const PoserSetting settings[] = {
		{"enable_seqscan", "off"}, {"enable_bitmapscan", "off"}, {"enable_indexscan", "on"}, {"row_security", "off"}};

	return poser_begin_settings(settings, lengthof(settings));
}

/*
 * Lock the table of transactions, to be read with the active snapshot, and return it.  A
 * newer snapshot may replace the active one, see poser_lock_to_read().
 *
 * Raises an error if a column does not have the type that the script gave it.  With another
 * type the queries would use casts, which may be a user's code.
 */
Oid
poser_lock_transactions(Oid nspid)
{
	static const struct
	{
		const char *name;
		Oid type;
	} columns[] = {{"id", INT8OID}, {"issued_at", TIMESTAMPTZOID}, {"username", TEXTOID}, {"xact", XID8OID}, {"consumer", NAMEOID}};
	Oid result = poser_table_by_name("poser_transaction", nspid);
	Relation rel = table_open(result, AccessShareLock);

	for (int i = 0; i < lengthof(columns); i++)
		(void) poser_own_column(rel, columns[i].name, columns[i].type);
	table_close(rel, NoLock);
	poser_lock_to_read(&result, 1);
	return result;
}

/* Returns the last value that the sequence of change_ids has given. */
int64
poser_last_change_id(Oid nspid)
{
	char *sql = psprintf("SELECT CASE WHEN is_called THEN last_value ELSE last_value OPERATOR(pg_catalog.-) 1 END\n"
						 "  FROM %s",
						 poser_datasync_relation_name(nspid, "poser_change_id_seq"));

	poser_run(&(PoserQuery) {.sql = sql, .read_only = true});
	return poser_result_int64(1, NULL);
}

/*
 * Returns the least id of a transaction in the history that the snapshot "from" does
 * not see, or 0 if there is none.  If "to" is not NULL, only transactions that "to" sees
 * are considered.
 *
 *		SELECT min(id)
 *		  FROM (SELECT id, xact FROM poser_transaction WHERE xact >= pg_snapshot_xmax($1)
 *				UNION ALL
 *				SELECT id, xact FROM poser_transaction WHERE xact = ANY ([ended_since()])
 *				OFFSET 0) AS t
 *		 WHERE $2 IS NULL OR pg_visible_in_snapshot(xact, $2)
 *
 * The query uses the index on xact: a snapshot does not see the transactions from its
 * xmax on, nor those in its list.  Of these only those are looked up that have ended for
 * "to" or, without it, for the active snapshot.  OFFSET 0 keeps the planner from scanning the index on id instead.
 */
int64
poser_first_unseen_transaction(Oid nspid, struct varlena *from, struct varlena *to)
{
	const Oid argtypes[] = {XID8OID, PG_SNAPSHOTOID, XID8ARRAYOID};
	const char *transactions = poser_datasync_relation_name(nspid, "poser_transaction");
	Datum values[lengthof(argtypes)];
	char nulls[] = "   ";
	int nended;
	char *sql;
	int level;
	bool none;

	values[0] = FullTransactionIdGetDatum(((StoredSnapshot *) from)->xmax);
	poser_snapshot_parameter(to, &values[1], &nulls[1]);
	values[2] = ended_since((StoredSnapshot *) from, (StoredSnapshot *) to, &nended);
	level = poser_begin_reading();

	/* usually no transaction has ended, and there is no later one; this is the cheap query for it */
	sql = psprintf("SELECT id FROM %s WHERE xact OPERATOR(pg_catalog.>=) $1 LIMIT 1", transactions);
	none = nended == 0 &&
		   poser_run(&(PoserQuery) {.sql = sql, .nargs = 1, .argtypes = argtypes, .values = values, .read_only = true}) == 0;
	if (!none)
	{
		sql = psprintf("SELECT pg_catalog.min(id)\n"
					   "  FROM (SELECT id, xact FROM %s\n"
					   "         WHERE xact OPERATOR(pg_catalog.>=) $1\n"
					   "        UNION ALL\n"
					   "        SELECT id, xact FROM %s\n"
					   "         WHERE xact OPERATOR(pg_catalog.=) ANY ($3)\n"
					   "        OFFSET 0) AS t\n"
					   " WHERE $2 IS NULL OR pg_catalog.pg_visible_in_snapshot(xact, $2)",
					   transactions, transactions);
		poser_run(&(PoserQuery) {
			.sql = sql,
			.nargs = lengthof(argtypes),
			.argtypes = argtypes,
			.values = values,
			.nulls = nulls,
			.read_only = true,
		});
	}
	AtEOXact_GUC(true, level);
	return none ? 0 : poser_result_int64(1, NULL);
}

/*
 * What a session remembers
 */

/* No transaction in the history is seen by "seen" and not by "position". */
typedef struct NothingNew
{
	Oid transactions; /* poser_transaction; InvalidOid if the entry is not in use */
	struct varlena *position;
	struct varlena *seen;
} NothingNew;

#define MAX_REMEMBERED 8

static NothingNew remembered[MAX_REMEMBERED]; /* their values are in TopMemoryContext */
static int last_remembered = 0;

static bool
is_same_snapshot(struct varlena *a, struct varlena *b)
{
	return VARSIZE(a) == VARSIZE(b) && memcmp(a, b, VARSIZE(a)) == 0;
}

/* Returns what is remembered for a position, or NULL. */
static NothingNew *
recall(Oid transactions, struct varlena *position)
{
	for (int i = 0; i < MAX_REMEMBERED; i++)
		if (remembered[i].transactions == transactions && is_same_snapshot(remembered[i].position, position))
			return &remembered[i];
	return NULL;
}

static struct varlena *
copy_for_session(struct varlena *snapshot)
{
	void *result = MemoryContextAlloc(TopMemoryContext, VARSIZE(snapshot));

	return memcpy(result, snapshot, VARSIZE(snapshot));
}

/*
 * Remember that no transaction in the history is seen by "seen" and not by "position".
 * This stays true, because all transactions that "seen" sees have ended: their rows can
 * be pruned, but they write no more.  The least recently made entry is replaced.
 *
 * A transaction that has written poser_transaction may have removed rows, by DELETE or
 * TRUNCATE.  They are there again when it is rolled back, so it remembers nothing.
 */
static void
remember_nothing_new(Oid transactions, struct varlena *position, struct varlena *seen)
{
	NothingNew *entry = recall(transactions, position);
	Relation rel = table_open(transactions, AccessShareLock);
	bool is_written = CheckRelationLockedByMe(rel, RowExclusiveLock, true);
	struct varlena *copy;

	table_close(rel, NoLock);
	if (is_written)
		return;
	copy = copy_for_session(seen);
	if (entry != NULL)
	{
		pfree(entry->seen);
		entry->seen = copy;
		return;
	}
	entry = &remembered[last_remembered = (last_remembered + 1) % MAX_REMEMBERED];
	if (OidIsValid(entry->transactions))
	{
		entry->transactions = InvalidOid;
		pfree(entry->position);
		pfree(entry->seen);
	}
	entry->seen = copy;
	entry->position = copy_for_session(position);
	entry->transactions = transactions;
}

/*
 * Returns the greatest change_id in these tables that the active snapshot sees, or 0.  For a
 * table that cannot be looked at, the result can be greater.
 */
static int64
greatest_change(List *changed)
{
	int64 result = 0;
	ListCell *lc;

	foreach(lc, changed)
	{
		PoserFeedTable *table = lfirst(lc);
		int64 last;

		CHECK_FOR_INTERRUPTS();
		if (!poser_feed_look(table, GetActiveSnapshot(), BackwardScanDirection, 0, &last))
			last = table->greatest;
		result = Max(result, last);
	}
	return result;
}

/*
 * Taking a snapshot
 */

/*
 * Returns true if no running transaction, this one included, has drawn a change_id.  A
 * transaction locks poser_transaction before it draws its first change_id, and keeps the
 * lock until it ends.  So the locks tell whether there is such a transaction.
 */
static bool
is_sequence_at_rest(Oid nspid)
{
	LOCKTAG tag;
	int n;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, poser_relation_by_name("poser_transaction", nspid));
	pfree(GetLockConflicts(&tag, ShareLock, &n));
	return n == 0 && !poser_transaction_is_writing();
}

/*
 * Move "settled" on, as the head of this file explains.  For the consumer's new snapshot
 * all transactions before "xmin" have ended.  "value" was read from the sequence before
 * any transaction got the transaction ID "next".
 */
static void
advance_settled(PoserConsumer *consumer, uint64 xmin, int64 value, uint64 next)
{
	if (consumer->next_settled_xact != 0 && consumer->next_settled_xact <= xmin)
	{
		consumer->settled = consumer->next_settled;
		consumer->next_settled_xact = 0;
	}
	if (next <= xmin)
	{
		consumer->settled = value;
		consumer->next_settled_xact = 0;
	}
	else if (consumer->next_settled_xact == 0 && consumer->settled < value)
	{
		consumer->next_settled = value;
		consumer->next_settled_xact = next;
	}
}

/*
 * Returns "settled" for a snapshot that may be older than the moment when "value" was read
 * from the sequence.  It is the greatest change_id, at most "value", such that each change
 * that the snapshot does not see has a greater change_id.  All transactions that have drawn
 * ids up to "value" have ended.
 */
static int64
settled_for_older_snapshot(Oid nspid, struct varlena *snapshot, int64 value)
{
	int64 first;

	/* lock the table before the snapshot is taken, so that it sees all rows */
	LockRelationOid(poser_relation_by_name("poser_transaction", nspid), AccessShareLock);
	PushActiveSnapshot(GetLatestSnapshot());
	first = poser_first_unseen_transaction(nspid, snapshot, NULL);
	PopActiveSnapshot();
	/* a transaction's change_ids are greater than its id */
	return first > 0 && first < value ? first : value;
}

/*
 * Take a new snapshot for the consumer, and move its "settled" on.  The snapshot
 * becomes the active one, and is returned as a pg_snapshot in the consumer's memory.
 */
struct varlena *
poser_take_snapshot(PoserConsumer *consumer)
{
	/* the order matters: the sequence, the locks, the next transaction ID, and then the snapshot */
	int64 value = poser_last_change_id(consumer->nspid);
	bool at_rest = is_sequence_at_rest(consumer->nspid);
	uint64 next = U64FromFullTransactionId(ReadNextFullTransactionId());
	MemoryContext old;
	struct varlena *result;
	uint64 xmin;

	poser_consumer_renew_snapshot();
	old = MemoryContextSwitchTo(consumer->context);
	result = copy_snapshot(&xmin);
	MemoryContextSwitchTo(old);

	/*
	 * If the sequence is at rest, all transactions that have drawn ids up to "value" have
	 * ended, and a new snapshot sees them.  In REPEATABLE READ and SERIALIZABLE the
	 * snapshot is the transaction's.  It does not see transactions that have committed
	 * since it was taken.
	 */
	if (at_rest)
	{
		consumer->settled = IsolationUsesXactSnapshot() ? settled_for_older_snapshot(consumer->nspid, result, value) : value;
		consumer->next_settled_xact = 0;
	}
	else
		advance_settled(consumer, xmin, value, next);
	return result;
}

/*
 * Windows
 */

/* Has the consumer an open window? */
bool
poser_window_is_open(const PoserConsumer *consumer)
{
	return consumer->to != NULL;
}

/* Close the window when all its changes are confirmed: its snapshot becomes the position. */
void
poser_window_close(PoserConsumer *consumer)
{
	consumer->from = consumer->to;
	consumer->to = NULL;
	consumer->changed = true;
}

/*
 * Lock the tables that have changed, to be read with the active snapshot.  Returns false if
 * a newer snapshot is needed.  In REPEATABLE READ and SERIALIZABLE there is no newer one,
 * and a table that was rewritten is an error.
 */
static bool
lock_changed(PoserConsumer *consumer, List **changed)
{
	Oid rewritten = poser_feed_lock(consumer, changed);

	if (!OidIsValid(rewritten))
		return true;
	if (IsolationUsesXactSnapshot() && get_rel_name(rewritten) != NULL)
		poser_check_rewritten(rewritten, GetActiveSnapshot());
	return false;
}

/*
 * Returns the tables that may have unconfirmed changes of the open window, as a list of
 * PoserFeedTable.  They are locked, and the active snapshot sees all changes of the window;
 * it can be newer than the window's.
 */
List *
poser_window_changed(PoserConsumer *consumer)
{
	for (;;)
	{
		List *result = poser_feed_changed(poser_feed_tables(consumer, NULL, false), consumer->confirmed);

		CHECK_FOR_INTERRUPTS();
		if (lock_changed(consumer, &result))
			return result;
		poser_consumer_renew_snapshot();
	}
}

/*
 * Open the next window.  The table of transactions is locked.  Returns false if there are no
 * new changes.  Otherwise the active snapshot is the window's, and *changed are the tables
 * that may have changes in it, as a list of PoserFeedTable.  They are locked.  An error leaves
 * the consumer as it was.
 */
bool
poser_window_open(PoserConsumer *consumer, List **changed)
{
	Oid transactions = poser_relation_by_name("poser_transaction", consumer->nspid);
	struct varlena *seen = consumer->from;
	uint64 xmin;
	struct varlena *to = copy_snapshot(&xmin);
	int64 first = consumer->confirmed;
	int64 last;

	Assert(!poser_window_is_open(consumer));
	/* Most calls find nothing new.  Test this first, by the active snapshot. */
	if (consumer->from != NULL)
	{
		NothingNew *before = recall(transactions, consumer->from);

		/* look only for what this session did not see when it last found nothing */
		if (before != NULL)
			seen = before->seen;
		if (poser_first_unseen_transaction(consumer->nspid, seen, to) == 0)
		{
			if (!is_same_snapshot(seen, to))
			{
				remember_nothing_new(transactions, consumer->from, to);
				seen = to;
			}
			if (consumer->next_settled_xact == 0 || consumer->next_settled_xact > xmin ||
				consumer->next_settled <= consumer->settled)
				return false;
		}
	}

	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		to = poser_take_snapshot(consumer);
		if (consumer->from != NULL)
		{
			/* a transaction draws its own id before its change_ids, so all changes have greater ones */
			first = poser_first_unseen_transaction(consumer->nspid, seen, to);
			if (first == 0)
			{
				/* there are no changes, but the position and "settled" move on */
				consumer->from = to;
				consumer->changed = true;
				return false;
			}
		}

		/*
		 * Look at the consumer's tables with the window's snapshot.  If another session has
		 * added a table to the list, and then a row of it was changed, and the window has this
		 * change, then the window has the table.
		 */
		poser_consumer_read_tables(consumer);

		/*
		 * Look at the tables after the snapshot was taken: each change that it sees is there.
		 * Then lock those that have changes.  If one was rewritten before the lock, begin again
		 * with a newer snapshot; the locks stay.
		 */
		*changed = poser_feed_changed(poser_feed_tables(consumer, NULL, false), first);
		if (lock_changed(consumer, changed))
			break;
	}
	last = greatest_change(*changed);

	/* no error can occur from here on */
	consumer->to = to;
	consumer->confirmed = consumer->delivered = first;
	consumer->last_change = last;
	consumer->changed = true;
	return true;
}

/* Note that the changes of the window up to this one are delivered. */
void
poser_window_deliver(PoserConsumer *consumer, int64 change_id)
{
	if (consumer->delivered < change_id)
	{
		consumer->delivered = change_id;
		consumer->changed = true;
	}
}

/* Note that the changes of the window up to this one are confirmed.  If it is the last one, the window is closed. */
void
poser_window_confirm(PoserConsumer *consumer, int64 change_id)
{
	Assert(poser_window_is_open(consumer) && change_id > consumer->confirmed);
	poser_window_deliver(consumer, change_id);
	consumer->confirmed = change_id;
	consumer->has_confirmed = true;
	consumer->attempts = 0;
	consumer->last_error = NULL;
	consumer->failed_change = 0;
	consumer->changed = true;
	if (change_id == consumer->last_change)
		poser_window_close(consumer);
}

/*
 * Consumers from other clusters
 */

/*
 * Returns the consumer's row with a list of tables that is right in this database, see
 * poser_tables_arrive().  Before 1.6 there is no list.
 */
static HeapTuple
let_tables_arrive(Relation rel, HeapTuple tuple)
{
	TupleDesc desc = RelationGetDescr(rel);
	int columns[2];
	Datum values[2];
	bool nulls[2];
	ArrayType *tables;
	ArrayType *names;

	if (get_attnum(RelationGetRelid(rel), "tables") == InvalidAttrNumber)
		return tuple;
	columns[0] = poser_own_column(rel, "tables", REGCLASSARRAYOID);
	columns[1] = poser_own_column(rel, "table_names", TEXTARRAYOID);
	for (int i = 0; i < lengthof(columns); i++)
		values[i] = heap_getattr(tuple, columns[i], desc, &nulls[i]);
	if (nulls[0])
		return tuple;
	tables = DatumGetArrayTypeP(values[0]);
	names = nulls[1] ? NULL : DatumGetArrayTypeP(values[1]);
	poser_tables_arrive(&tables, &names);
	values[0] = PointerGetDatum(tables);
	values[1] = PointerGetDatum(names);
	nulls[1] = false;
	return heap_modify_tuple_by_cols(tuple, desc, lengthof(columns), columns, values, nulls);
}

/*
 * poser_datasync_arrive() is a trigger before each row of poser_datasync_consumer that
 * is inserted or that replication updates.
 *
 * Such a row may come from another cluster, by a restore or by replication.  Its
 * snapshots and transaction IDs mean nothing in this cluster.  So the position becomes a
 * change_id: from_snapshot is null, and the consumer goes on after the change in
 * "confirmed".  Its list of tables must not have a table that only has the number of one
 * that was dropped.
 */
Datum
poser_datasync_arrive(PG_FUNCTION_ARGS)
{
	enum
	{
		CONFIRMED,
		DELIVERED,
		LAST_CHANGE,
		SETTLED,
		FROM_SNAPSHOT, /* this and the following are nullable */
		TO_SNAPSHOT,
		NEXT_SETTLED,
		NEXT_SETTLED_XACT,
		POSITION_COLUMNS
	};
	static const struct
	{
		const char *name;
		Oid type;
	} columns[POSITION_COLUMNS] = {
		[CONFIRMED] = {"confirmed", INT8OID},
		[DELIVERED] = {"delivered", INT8OID},
		[LAST_CHANGE] = {"last_change", INT8OID},
		[SETTLED] = {"settled", INT8OID},
		[FROM_SNAPSHOT] = {"from_snapshot", PG_SNAPSHOTOID},
		[TO_SNAPSHOT] = {"to_snapshot", PG_SNAPSHOTOID},
		[NEXT_SETTLED] = {"next_settled", INT8OID},
		[NEXT_SETTLED_XACT] = {"next_settled_xact", XID8OID},
	};
	TriggerData *trigdata = poser_check_trigger(fcinfo);
	TriggerEvent event = trigdata->tg_event;
	Relation rel = trigdata->tg_relation;
	TupleDesc desc = RelationGetDescr(rel);
	HeapTuple tuple = TRIGGER_FIRED_BY_UPDATE(event) ? trigdata->tg_newtuple : trigdata->tg_trigtuple;
	int attnos[POSITION_COLUMNS];
	Datum values[POSITION_COLUMNS];
	bool isnull[POSITION_COLUMNS];
	int64 position;
	int notify;
	bool ignored;

	if (!TRIGGER_FIRED_FOR_ROW(event) || !TRIGGER_FIRED_BEFORE(event) ||
		!(TRIGGER_FIRED_BY_INSERT(event) || TRIGGER_FIRED_BY_UPDATE(event)))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" must fire before each row of INSERT or UPDATE",
						trigdata->tg_trigger->tgname)));

	/*
	 * Make all sessions look again whether a consumer asks for NOTIFY, and for which tables,
	 * as poser_datasync_changed() does.  Replication fires no statement triggers.
	 */
	notify = poser_own_column(rel, "notify", BOOLOID);
	if (TRIGGER_FIRED_BY_INSERT(event) ||
		heap_getattr(tuple, notify, desc, &ignored) != heap_getattr(trigdata->tg_trigtuple, notify, desc, &ignored) ||
		SessionReplicationRole == SESSION_REPLICATION_ROLE_REPLICA)
		CacheInvalidateRelcacheByRelid(RelationGetRelid(rel));

	/* The trigger for UPDATE is for replication only, but ALTER TABLE can have enabled it for all updates. */
	if (TRIGGER_FIRED_BY_UPDATE(event) &&
		(poser_consumer_is_updating(RelationGetRelid(rel)) ||
		 SessionReplicationRole != SESSION_REPLICATION_ROLE_REPLICA))
		return PointerGetDatum(tuple);
	tuple = let_tables_arrive(rel, tuple);

	/* read the columns of the position */
	for (int i = 0; i < POSITION_COLUMNS; i++)
	{
		attnos[i] = poser_own_column(rel, columns[i].name, columns[i].type);
		values[i] = heap_getattr(tuple, attnos[i], desc, &isnull[i]);
		/* leave the row as it is: its constraint NOT NULL raises the error */
		if (i < FROM_SNAPSHOT && isnull[i])
			return PointerGetDatum(tuple);
	}

	/*
	 * Every change that is not confirmed must have a greater change_id than "position".
	 * A change in the open window comes after "confirmed", and a change after the last
	 * snapshot comes after "settled".  Without a snapshot "confirmed" is the position
	 * already.
	 */
	position = DatumGetInt64(values[CONFIRMED]);
	if (!isnull[TO_SNAPSHOT])
		position = Min(position, DatumGetInt64(values[SETTLED]));
	else if (!isnull[FROM_SNAPSHOT])
		position = DatumGetInt64(values[SETTLED]);

	/* write it, without snapshots and transaction IDs */
	for (int i = 0; i < FROM_SNAPSHOT; i++)
		values[i] = Int64GetDatum(position);
	for (int i = FROM_SNAPSHOT; i < POSITION_COLUMNS; i++)
		isnull[i] = true;
	return PointerGetDatum(heap_modify_tuple_by_cols(tuple, desc, POSITION_COLUMNS, attnos, values, isnull));
}
