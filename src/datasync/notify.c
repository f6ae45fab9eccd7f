/*
 * notify.c
 *	  NOTIFY poser_datasync, for consumers that ask for it.
 *
 * If a consumer has "notify", each transaction that has recorded a change of one of its
 * tables sends a NOTIFY before it commits.  Transactions that send one commit one after the
 * other, and cannot be prepared.  So no transaction sends one unless a consumer asks for it.
 *
 * Each session remembers whether a consumer asks for NOTIFY, and for which tables.  When
 * this may have changed, triggers on the table of consumers invalidate the table's relcache
 * entry.  Then each session looks again before its next commit.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/async.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "datasync/datasync_internal.h"
#include "datasync/datasync.h"

PG_FUNCTION_INFO_V1(poser_datasync_changed);

#define CHANNEL "poser_datasync"

/* For changes of which tables do consumers ask for NOTIFY? */
typedef struct NotifyTables
{
	bool all;	  /* of any table */
	bool owned;	  /* of those that the owner of the extension owns, and of the extension's own */
	List *relids; /* and of these, in TopMemoryContext */
} NotifyTables;

/* What this session remembers. */
static NotifyTables notify_tables = {false, false, NIL};
static bool notify_known = false;	  /* is notify_tables up to date? */
static Oid notify_relid = InvalidOid; /* the table of consumers in which the session has looked */

/*
 * poser_datasync_changed() is a trigger after statements that may change which consumers
 * ask for NOTIFY.  All sessions look again before their next commit.
 */
Datum
poser_datasync_changed(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = poser_check_trigger(fcinfo);

	CacheInvalidateRelcacheByRelid(RelationGetRelid(trigdata->tg_relation));
	return PointerGetDatum(NULL);
}

/* The relcache callback: before the next commit look again, if this is the table of consumers. */
static void
forget_notify(Oid relid)
{
	if (!OidIsValid(relid) || relid == notify_relid)
		notify_known = false;
}

/* Add the tables of a consumer's row in the slot. */
static void
add_tables(NotifyTables *tables, TupleTableSlot *slot, int column)
{
	bool isnull = true;
	Datum value = column > 0 ? slot_getattr(slot, column, &isnull) : (Datum) 0;
	ArrayType *array;
	Datum *values;
	bool *nulls;
	int n;

	if (isnull)
	{
		tables->owned = true;
		return;
	}
	/* the row may be uncommitted, so a long list is not fetched from where TOAST has put it */
	if (VARATT_IS_EXTERNAL(DatumGetPointer(value)))
	{
		tables->all = true;
		return;
	}
	array = DatumGetArrayTypeP(value);
	deconstruct_array(array, REGCLASSOID, sizeof(Oid), true, TYPALIGN_INT, &values, &nulls, &n);
	for (int i = 0; i < n; i++)
		if (!nulls[i])
		{
			MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

			tables->relids = list_append_unique_oid(tables->relids, DatumGetObjectId(values[i]));
			MemoryContextSwitchTo(old);
		}
}

/*
 * Find out for which tables consumers in this table ask for NOTIFY.  Returns whether the
 * result holds until the table's relcache entry is invalidated.
 *
 * A superfluous NOTIFY does no harm, but a missing one does.  So the result is also all
 * tables if the table of consumers cannot be locked at once, and uncommitted rows count.
 */
static bool
look_for_notify(Oid relid, NotifyTables *tables)
{
	Relation rel;
	int column;
	int tables_column;
	SnapshotData snapshot;
	TupleTableSlot *slot;
	TableScanDesc scan;
	bool certain = true;

	/* a commit must not wait for a lock on this table */
	if (!ConditionalLockRelationOid(relid, AccessShareLock))
	{
		tables->all = true;
		return false;
	}
	rel = try_relation_open(relid, NoLock);
	if (rel == NULL)
		return false;

	/*
	 * A dirty snapshot sees uncommitted rows.  In a SERIALIZABLE transaction a scan with
	 * it takes no predicate lock, which could make the transaction fail.
	 */
	column = SPI_fnumber(RelationGetDescr(rel), "notify");
	tables_column = SPI_fnumber(RelationGetDescr(rel), "tables");
	if (tables_column > 0 && SPI_gettypeid(RelationGetDescr(rel), tables_column) != REGCLASSARRAYOID)
		tables_column = 0;
	InitDirtySnapshot(snapshot);
	slot = table_slot_create(rel, NULL);
	scan = table_beginscan(rel, &snapshot, 0, NULL, SO_NONE);
	/* a column that is missing or has another type is not an error for a writer, but poser_check() reports it */
	while (column > 0 && SPI_gettypeid(RelationGetDescr(rel), column) == BOOLOID &&
		   table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		bool isnull;

		CHECK_FOR_INTERRUPTS();
		if (!DatumGetBool(slot_getattr(slot, column, &isnull)))
			continue;
		/* not certain with an uncommitted row: a rollback of its transaction invalidates nothing */
		if (TransactionIdIsValid(snapshot.xmin))
			certain = false;
		add_tables(tables, slot, tables_column);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	relation_close(rel, AccessShareLock);
	return certain;
}

/* Does a consumer that asks for NOTIFY get the changes that this transaction has made? */
static bool
is_wanted(void)
{
	const Oid *relids;
	int n;

	if (!notify_tables.owned && !notify_tables.all && notify_tables.relids == NIL)
		return false;
	n = poser_transaction_changed_tables(&relids);
	if (notify_tables.all || n < 0)
		return true;
	for (int i = 0; i < n; i++)
	{
		if (list_member_oid(notify_tables.relids, relids[i]))
			return true;
		/* the tables of the extension may have another owner, and are in its schema */
		if (notify_tables.owned &&
			(poser_have_one_owner(relids[i], notify_relid) ||
			 getExtensionOfObject(RelationRelationId, relids[i]) == getExtensionOfObject(RelationRelationId, notify_relid)))
			return true;
	}
	return false;
}

/*
 * The callback for a transaction's events.  Before a transaction that has recorded a change
 * commits, send a NOTIFY if a consumer asks for it and gets the change.  The payload is the id of the
 * transaction's last row in poser_transaction.  A transaction that is prepared sends none.
 */
static void
notify_before_commit(XactEvent event, void *arg)
{
	Oid transactions;
	int64 transaction_id;

	if (event != XACT_EVENT_PRE_COMMIT)
		return;
	transaction_id = poser_transaction_last_written(&transactions);
	if (transaction_id == 0)
		return;

	/* receive invalidations that other sessions have committed */
	AcceptInvalidationMessages();
	if (!notify_known)
	{
		notify_relid = poser_consumer_table_beside(transactions);
		list_free(notify_tables.relids);
		notify_tables = (NotifyTables) {false, false, NIL};
		notify_known = OidIsValid(notify_relid) && look_for_notify(notify_relid, &notify_tables);
	}
	if (is_wanted())
	{
		char *payload = psprintf("%lld", (long long) transaction_id);

		Async_Notify(CHANNEL, payload);
		pfree(payload);
	}
}

/* Register the callbacks, when the module is loaded. */
void
poser_notify_init(void)
{
	RegisterXactCallback(notify_before_commit, NULL);
	poser_relation_register(forget_notify);
}
