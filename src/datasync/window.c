/*
 * window.c
 *	  The positions of consumers, and what comes next.
 *
 * The history is what there is to give: a consumer is a name and a position in
 * it.  Changes have an order, change_id, but get it before they are committed,
 * so that nobody can say "up to here" by it alone.  Nor by transaction ids: of
 * two transactions the younger can be over before the older has made its last
 * changes.  By snapshots one can.  A position is a snapshot; what it has seen is
 * confirmed.  The next window is what a later one has seen and it has not, and
 * is given in the order of change_id; once all of it is confirmed, the later
 * snapshot is the position.  Who is running when the one is taken comes in a
 * window after it; so no change is missed, and nobody waits for anybody.  Who
 * changes a row has waited for those who changed it before, has a greater
 * change_id, and is seen by no snapshot that does not see them: in one window or
 * in several, the changes of a row come in their order.
 *
 * Snapshots mean something in one cluster only.  What is kept for a restore is a
 * change_id, "settled": what the position has not seen comes after it.  It is got
 * from the sequence, at a moment when nobody who is running has taken ids from it;
 * or else later: whoever gets his transaction id after the sequence has been looked
 * at takes his ids of changes from it later, too.
 *
 * Consumers are read and written as the owner of their table, and so is history
 * for them.  Who may work for a consumer is written in its row.  A handler is
 * called as whoever calls poser_datasync_run().
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
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/snapmgr.h"
#include "utils/xid8.h"

#include "datasync/consumer.h"

PG_FUNCTION_INFO_V1(poser_datasync_arrive);

/*
 * Snapshots
 */

static int
compare_xids(const void *a, const void *b)
{
	uint64 x = *(const uint64 *) a;
	uint64 y = *(const uint64 *) b;

	if (x == y)
		return 0;
	return x < y ? -1 : 1;
}

/* A transaction id of about now, with its epoch. */
static uint64
full_xid(TransactionId xid, FullTransactionId next)
{
	return U64FromFullTransactionId(next) - (uint32) (XidFromFullTransactionId(next) - xid);
}

/*
 * The active snapshot as a value that can be kept, in which our own transaction
 * is running, too; *xmin is the first that is.
 */
static struct varlena *
copy_snapshot(uint64 *xmin)
{
	Snapshot snapshot = GetActiveSnapshot();
	FullTransactionId next = ReadNextFullTransactionId();
	TransactionId own = GetTopTransactionIdIfAny();
	uint64 xmax = full_xid(snapshot->xmax, next);
	uint64 *xids = palloc((snapshot->xcnt + 1) * sizeof(uint64));
	int n = 0;
	StringInfoData text;

	for (uint32 i = 0; i < snapshot->xcnt; i++)
		xids[n++] = full_xid(snapshot->xip[i], next);
	if (TransactionIdIsValid(own) && full_xid(own, next) < xmax)
		xids[n++] = full_xid(own, next);
	qsort(xids, n, sizeof(uint64), compare_xids);
	*xmin = n > 0 ? xids[0] : xmax;

	initStringInfo(&text);
	appendStringInfo(&text, UINT64_FORMAT ":" UINT64_FORMAT ":", *xmin, xmax);
	for (int i = 0; i < n; i++)
		appendStringInfo(&text, "%s" UINT64_FORMAT, i == 0 ? "" : ",", xids[i]);
	return (struct varlena *) DatumGetPointer(DirectFunctionCall1(pg_snapshot_in, CStringGetDatum(text.data)));
}

/* Where the sequence of changes is. */
int64
poser_last_change_id(Oid nspid)
{
	poser_execute(psprintf("SELECT CASE WHEN is_called THEN last_value ELSE last_value OPERATOR(pg_catalog.-) 1 END\n"
						   "  FROM %s",
						   poser_datasync_relation(nspid, "poser_change_id_seq")),
				  0, NULL, NULL, NULL, true);
	return poser_datasync_int64(1);
}

/*
 * Queries over the history
 */

/* A column of a table of ours, by name; an error if it is not what it was made as. */
static int
column_of(Relation rel, const char *name, Oid type)
{
	int column = SPI_fnumber(RelationGetDescr(rel), name);

	if (column <= 0 || SPI_gettypeid(RelationGetDescr(rel), column) != type)
		poser_structure_error(rel);
	return column;
}

/*
 * Describe all tables that have a history, and lock the tables of versions and of
 * transactions, to be read with the active snapshot, see poser_lock_to_read().
 * Check the types of the transactions' columns: with other types the query would
 * need a cast, which could be one that another user has made.
 */
void
poser_datasync_describe(PoserVersioned *tables, Oid nspid)
{
	static const struct
	{
		const char *name;
		Oid type;
	} columns[] = {{"id", INT8OID}, {"issued_at", TIMESTAMPTZOID}, {"username", TEXTOID}, {"xact", XID8OID}, {"consumer", NAMEOID}};
	Relation rel;

	poser_versioned_describe_all(tables, nspid);
	rel = table_open(tables[0].transactions, AccessShareLock);
	for (int i = 0; i < lengthof(columns); i++)
		(void) column_of(rel, columns[i].name, columns[i].type);
	table_close(rel, NoLock);

	for (int i = 0; i < POSER_VERSIONED_TABLES; i++)
		poser_lock_to_read(&tables[i].versions, 1);
	poser_lock_to_read(&tables[0].transactions, 1);
}

/*
 * Have the planner go by the indexes: what comes first is wanted, and statistics
 * do not tell it where in their order we are.  That something is hidden from the
 * owner is an error, and no gap.  AtEOXact_GUC() ends it.
 */
int
poser_begin_reading(void)
{
	static const PoserSetting settings[] = {
		{"enable_seqscan", "off"}, {"enable_bitmapscan", "off"}, {"enable_indexscan", "on"}, {"row_security", "off"}};

	return poser_begin_settings(settings, lengthof(settings));
}

/*
 * The least id of a transaction that the snapshot "from" has not seen; and "to"
 * has, if it is not NULL.  0 if there is none.
 */
int64
poser_first_unseen_transaction(Oid nspid, struct varlena *from, struct varlena *to)
{
	const Oid argtypes[] = {PG_SNAPSHOTOID, PG_SNAPSHOTOID};
	const char *transactions = poser_datasync_relation(nspid, "poser_transaction");
	Datum values[lengthof(argtypes)];
	char nulls[] = "  ";
	int level = poser_begin_reading();

	poser_snapshot_parameter(from, &values[0], &nulls[0]);
	poser_snapshot_parameter(to, &values[1], &nulls[1]);
	poser_execute(psprintf("SELECT pg_catalog.min(id)\n"
						   "  FROM (SELECT id, xact FROM %s\n"
						   "         WHERE xact OPERATOR(pg_catalog.>=) pg_catalog.pg_snapshot_xmax($1)\n"
						   "        UNION ALL\n"
						   "        SELECT id, xact FROM %s\n"
						   "         WHERE xact OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT pg_catalog.pg_snapshot_xip($1)))\n"
						   "        OFFSET 0) AS t\n"
						   " WHERE $2 IS NULL OR pg_catalog.pg_visible_in_snapshot(xact, $2)",
						   transactions, transactions),
				  lengthof(argtypes), argtypes, values, nulls, true);
	AtEOXact_GUC(true, level);
	return poser_datasync_int64(1);
}

/*
 * Is there no transaction that a snapshot has not seen, as far as that is found
 * out at little cost?  It is when none was running then.
 */
static bool
is_newest(Oid nspid, struct varlena *snapshot)
{
	const Oid argtypes[] = {XID8OID};
	Datum xmin = DirectFunctionCall1(pg_snapshot_xmin, PointerGetDatum(snapshot));
	Datum xmax = DirectFunctionCall1(pg_snapshot_xmax, PointerGetDatum(snapshot));
	bool result;
	int level;

	if (!FullTransactionIdEquals(DatumGetFullTransactionId(xmin), DatumGetFullTransactionId(xmax)))
		return false;
	level = poser_begin_reading();
	result = poser_execute(psprintf("SELECT id FROM %s WHERE xact OPERATOR(pg_catalog.>=) $1 LIMIT 1",
									poser_datasync_relation(nspid, "poser_transaction")),
						   lengthof(argtypes), argtypes, &xmax, NULL, true) == 0;
	AtEOXact_GUC(true, level);
	return result;
}

/* The greatest change_id that can be seen. */
static int64
greatest_change(const PoserVersioned *tables)
{
	int64 result = 0;

	for (int i = 0; i < POSER_VERSIONED_TABLES; i++)
	{
		poser_execute(psprintf("SELECT pg_catalog.max(change_id) FROM %s", poser_relation_name(tables[i].versions)),
					  0, NULL, NULL, NULL, true);
		result = Max(result, poser_datasync_int64(1));
	}
	return result;
}

/*
 * Windows
 */

/* Is there a window? */
bool
poser_window_is_open(const PoserConsumer *consumer)
{
	return consumer->to != NULL;
}

/* All changes in the window are confirmed. */
void
poser_window_close(PoserConsumer *consumer)
{
	consumer->from = consumer->to;
	consumer->to = NULL;
	consumer->changed = true;
}

/*
 * "value" is where the sequence was before "next" was the next transaction id.
 * What the consumer's last snapshot has not seen is of transactions from "xmin"
 * on.
 */
static void
note_settled(PoserConsumer *consumer, uint64 xmin, int64 value, uint64 next)
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
 * Has no transaction that is running, ours among them, got an id of a change here?
 * Whoever gets one has locked poser_transaction before, until he has ended.
 */
static bool
nobody_writes(Oid nspid)
{
	LOCKTAG tag;
	int n;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, poser_relation_by_name("poser_transaction", nspid));
	pfree(GetLockConflicts(&tag, ShareLock, &n));
	return n == 0 && !poser_version_is_writing();
}

/*
 * Take a snapshot of now for the consumer, in its memory.
 */
struct varlena *
poser_take_position(PoserConsumer *consumer)
{
	int64 value = poser_last_change_id(consumer->nspid);
	bool quiet = nobody_writes(consumer->nspid);
	uint64 next = U64FromFullTransactionId(ReadNextFullTransactionId());
	MemoryContext old = MemoryContextSwitchTo(consumer->context);
	struct varlena *result;
	uint64 xmin;

	poser_renew_snapshot();
	result = copy_snapshot(&xmin);
	MemoryContextSwitchTo(old);
	/* who had an id of up to "value" was over then, so that the snapshot sees him */
	if (quiet)
	{
		consumer->settled = value;
		consumer->next_settled_xact = 0;
	}
	else
		note_settled(consumer, xmin, value, next);
	return result;
}

/*
 * Open the next window, if there is something in it; "tables" is described then.
 */
bool
poser_window_open(PoserConsumer *consumer, PoserVersioned *tables)
{
	uint64 xmin;
	struct varlena *to = copy_snapshot(&xmin);
	int64 first = consumer->confirmed;
	int64 last;

	Assert(!poser_window_is_open(consumer));
	/* what is done most often, and mostly in vain, comes first */
	if (consumer->from != NULL &&
		(is_newest(consumer->nspid, consumer->from) ||
		 poser_first_unseen_transaction(consumer->nspid, consumer->from, to) == 0) &&
		(consumer->next_settled_xact == 0 || consumer->next_settled_xact > xmin ||
		 consumer->next_settled <= consumer->settled))
		return false;

	/* before the snapshot of the window is taken, so that it sees all rows */
	poser_datasync_describe(tables, consumer->nspid);
	to = poser_take_position(consumer);
	if (consumer->from != NULL)
	{
		/* a transaction's changes come after it */
		first = poser_first_unseen_transaction(consumer->nspid, consumer->from, to);
		/* nothing but that all is settled */
		if (first == 0)
		{
			consumer->from = to;
			consumer->changed = true;
			return false;
		}
	}
	last = greatest_change(tables);

	/* all of it, or an error has come before */
	consumer->to = to;
	consumer->confirmed = consumer->delivered = first;
	consumer->last_change = last;
	consumer->changed = true;
	return true;
}

/* The consumer has been given the changes of the window up to this one. */
void
poser_window_deliver(PoserConsumer *consumer, int64 change_id)
{
	if (consumer->delivered < change_id)
	{
		consumer->delivered = change_id;
		consumer->changed = true;
	}
}

/* It is done with them. */
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
 * Restoring and replicating consumers
 */

/*
 * poser_datasync_arrive() before each row that is inserted, or that replication
 * updates: transaction ids mean something only in the cluster where they were
 * given, so the position becomes one without them.
 */
Datum
poser_datasync_arrive(PG_FUNCTION_ARGS)
{
	static const struct
	{
		const char *name;
		Oid type;
	} attributes[] = {
		{"confirmed", INT8OID}, {"delivered", INT8OID}, {"last_change", INT8OID}, {"settled", INT8OID}, /* not null */
		{"from_snapshot", PG_SNAPSHOTOID},
		{"to_snapshot", PG_SNAPSHOTOID},
		{"next_settled", INT8OID},
		{"next_settled_xact", XID8OID}};
	TriggerData *trigdata = poser_check_trigger(fcinfo);
	TriggerEvent event = trigdata->tg_event;
	Relation rel = trigdata->tg_relation;
	TupleDesc desc = RelationGetDescr(rel);
	HeapTuple tuple = TRIGGER_FIRED_BY_UPDATE(event) ? trigdata->tg_newtuple : trigdata->tg_trigtuple;
	int columns[lengthof(attributes)];
	Datum values[lengthof(attributes)];
	bool isnull[lengthof(attributes)] = {false};
	int64 confirmed;
	int column;

	if (!TRIGGER_FIRED_FOR_ROW(event) || !TRIGGER_FIRED_BEFORE(event) ||
		!(TRIGGER_FIRED_BY_INSERT(event) || TRIGGER_FIRED_BY_UPDATE(event)))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" must fire before each row of INSERT or UPDATE",
						trigdata->tg_trigger->tgname)));
	/* sessions that have looked hear of it; statements' triggers do not fire for replication */
	column = column_of(rel, "notify", BOOLOID);
	if (TRIGGER_FIRED_BY_INSERT(event) ||
		heap_getattr(tuple, column, desc, &isnull[0]) != heap_getattr(trigdata->tg_trigtuple, column, desc, &isnull[0]))
		CacheInvalidateRelcacheByRelid(RelationGetRelid(rel));

	/* when all of a table's triggers have been enabled, this one fires for what is no replication */
	if (TRIGGER_FIRED_BY_UPDATE(event) &&
		(poser_consumer_is_updating(RelationGetRelid(rel)) ||
		 SessionReplicationRole != SESSION_REPLICATION_ROLE_REPLICA))
		return PointerGetDatum(tuple);

	for (int i = 0; i < lengthof(attributes); i++)
	{
		columns[i] = column_of(rel, attributes[i].name, attributes[i].type);
		values[i] = heap_getattr(tuple, columns[i], desc, &isnull[i]);
		/* the constraint will say so */
		if (i < 4 && isnull[i])
			return PointerGetDatum(tuple);
	}

	/* what is not confirmed comes after this; where there has been no snapshot it says so itself */
	confirmed = DatumGetInt64(values[0]);
	if (!isnull[5])
		confirmed = Min(confirmed, DatumGetInt64(values[3]));
	else if (!isnull[4])
		confirmed = DatumGetInt64(values[3]);
	for (int i = 0; i < 4; i++)
		values[i] = Int64GetDatum(confirmed);
	for (int i = 4; i < lengthof(attributes); i++)
		isnull[i] = true;
	return PointerGetDatum(heap_modify_tuple_by_cols(tuple, desc, lengthof(attributes), columns, values, isnull));
}
