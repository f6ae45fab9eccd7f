/*
 * notify.c
 *	  NOTIFY for consumers that ask for it.
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

#include "datasync/consumer.h"
#include "datasync/datasync.h"

PG_FUNCTION_INFO_V1(poser_datasync_changed);

#define CHANNEL "poser_datasync"

/* Whether a consumer asks for NOTIFY, as far as this session knows. */
static Oid notify_relid = InvalidOid;
static bool notify_known = false;
static bool notify_wanted = false;

/*
 * poser_datasync_changed() after statements that may change which consumers ask
 * for NOTIFY: all sessions hear of it when they are to commit next.
 */
Datum
poser_datasync_changed(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = poser_check_trigger(fcinfo);

	CacheInvalidateRelcacheByRelid(RelationGetRelid(trigdata->tg_relation));
	return PointerGetDatum(NULL);
}

/* Look again with the next commit, if the relation is the consumers'. */
static void
forget_notify(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == notify_relid)
		notify_known = false;
}

/*
 * Look whether a consumer asks for NOTIFY; *certain says whether that is so until
 * somebody says otherwise.  What others have not committed counts, and so does a
 * table that cannot be looked at now: a NOTIFY too many does no harm.
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

	*certain = false;
	/* nobody waits for this at his commit */
	if (!ConditionalLockRelationOid(relid, AccessShareLock))
		return true;
	rel = try_relation_open(relid, NoLock);
	if (rel == NULL)
		return false;

	*certain = true;
	column = SPI_fnumber(RelationGetDescr(rel), "notify");
	/* it is no read that a SERIALIZABLE transaction would have to answer for */
	InitDirtySnapshot(snapshot);
	slot = table_slot_create(rel, NULL);
	scan = table_beginscan(rel, &snapshot, 0, NULL, SO_NONE);
	/* a column that is not what it should be is poser_check()'s to tell, not every writer's */
	while (column > 0 && SPI_gettypeid(RelationGetDescr(rel), column) == BOOLOID &&
		   table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		bool isnull;

		CHECK_FOR_INTERRUPTS();
		if (!DatumGetBool(slot_getattr(slot, column, &isnull)))
			continue;
		/* what is not committed may be undone, of which nobody hears */
		*certain = (result && *certain) || !TransactionIdIsValid(snapshot.xmin);
		result = true;
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	relation_close(rel, AccessShareLock);
	return result;
}

/*
 * A transaction that has changed something is about to be committed: notify if a
 * consumer asks for it.  NOTIFY has commits wait for each other.  A transaction that
 * has notified could not be prepared.
 */
static void
notify_before_commit(XactEvent event, void *arg)
{
	Oid transactions;
	int64 transaction_id;

	if (event != XACT_EVENT_PRE_COMMIT)
		return;
	transaction_id = poser_version_last_written(&transactions);
	if (transaction_id == 0)
		return;
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

void
poser_notify_init(void)
{
	RegisterXactCallback(notify_before_commit, NULL);
	CacheRegisterRelcacheCallback(forget_notify, (Datum) 0);
}
