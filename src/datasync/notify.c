/*
 * notify.c
 *	  NOTIFY poser_datasync, for consumers that ask for it.
 *
 * If a consumer has "notify", each transaction that has recorded a change sends a NOTIFY
 * before it commits.  Transactions that send one commit one after the other, and cannot
 * be prepared.  So no transaction sends one unless a consumer asks for it.
 *
 * Each session remembers whether a consumer asks for NOTIFY.  When this may have changed,
 * triggers on the table of consumers invalidate the table's relcache entry.  Then each
 * session looks again before its next commit.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/async.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/inval.h"
#include "utils/snapmgr.h"

#include "datasync/datasync_internal.h"
#include "datasync/datasync.h"

PG_FUNCTION_INFO_V1(poser_datasync_changed);

#define CHANNEL "poser_datasync"

/* What this session remembers. */
static bool notify_wanted = false;
static bool notify_known = false;	  /* is notify_wanted up to date? */
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

/*
 * Returns whether a consumer in this table asks for NOTIFY.  *certain says whether the
 * result holds until the table's relcache entry is invalidated.
 *
 * A superfluous NOTIFY does no harm, but a missing one does.  So the result is also true
 * if the table cannot be locked at once, or if an uncommitted row asks for NOTIFY.
 */
static bool
look_for_notify(Oid relid, bool *certain)
{
	Relation rel;
	int column;
	SnapshotData snapshot;
	TupleTableSlot *slot;
	TableScanDesc scan;
	bool result = false;

	/* a commit must not wait for a lock on this table */
	*certain = false;
	if (!ConditionalLockRelationOid(relid, AccessShareLock))
		return true;
	rel = try_relation_open(relid, NoLock);
	if (rel == NULL)
		return false;

	/*
	 * A dirty snapshot sees uncommitted rows.  In a SERIALIZABLE transaction a scan with
	 * it takes no predicate lock, which could make the transaction fail.
	 */
	*certain = true;
	column = SPI_fnumber(RelationGetDescr(rel), "notify");
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
		/* not certain if only uncommitted rows ask for it: a rollback of their transactions invalidates nothing */
		*certain = (result && *certain) || !TransactionIdIsValid(snapshot.xmin);
		result = true;
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	relation_close(rel, AccessShareLock);
	return result;
}

/*
 * The callback for a transaction's events.  Before a transaction that has recorded a change
 * commits, send a NOTIFY if a consumer asks for it.  The payload is the id of the
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
		notify_wanted = OidIsValid(notify_relid) && look_for_notify(notify_relid, &notify_known);
	}
	if (notify_wanted)
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
