/*
 * serve.c
 *	  Whether the counts can be relied on here and now.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relscan.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/pg_class.h"
#include "catalog/pg_operator_d.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/bitmapset.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/tuplesort.h"

#include "counts/counts.h"
#include "counts/counts_internal.h"

/*
 * How much a transaction remembers, for older snapshots that it may still use:
 * commands (8 MB), snapshots (3 MB), and decisions (16 MB).  Nothing is forgotten
 * before the transaction ends.  When one of these limits is reached, queries with
 * newer snapshots count the rows themselves.
 */
#define MAX_COMMANDS (64 * 1024 * 1024)
#define MAX_SETTLED_UNDER (256 * 1024)
#define MAX_DECISIONS (256 * 1024)

/*
 * Statements on a child or parent that are under way and have not been counted
 * yet.  Reads that come meanwhile, of other triggers for instance, may see their
 * rows; so as long as there is one, snapshots from its command on are counted
 * live.
 */
static PoserStatement *uncounted = NULL;

/*
 * Commands whose snapshots were taken while such a statement was in progress.
 * These snapshots see rows of the statement that their counts do not include.
 * They may be used much later, by a cursor that a trigger has opened.  In
 * TopTransactionContext.
 */
static Bitmapset *uncounted_commands = NULL;

/*
 * Snapshots under which this transaction has built upon rows of others, in the
 * order of time, and the command that did: as a snapshot's xmax and its number
 * of running transactions.  Of two snapshots the one with the greater xmax is
 * newer, and if they are the same, the one that has fewer running.  An older
 * snapshot that is after the command sees our rows, and not what they are made
 * from.  In TopTransactionContext.
 */
typedef struct SettledUnder
{
	TransactionId xmax;
	uint32 xcnt;
	CommandId cid;
} SettledUnder;

static SettledUnder *settled_under = NULL;
static int num_settled_under = 0;
static int max_settled_under = 0;

/*
 * From which command on, if any, this transaction has written counts that do
 * not go with what its snapshots see of the rows of others.
 */
static CommandId unfit_from = InvalidCommandId;

/*
 * What poser_count_serves() has decided in this transaction, for whom and for
 * which snapshot.
 */
typedef struct DecisionKey
{
	Oid child;
	Oid userid;
	TransactionId xmin;
	TransactionId xmax;
	uint32 running;
	CommandId curcid;
} DecisionKey;

typedef struct Decision
{
	DecisionKey key;
	bool serves;
	char status;
} Decision;

#define SH_PREFIX decisions
#define SH_ELEMENT_TYPE Decision
#define SH_KEY_TYPE DecisionKey
#define SH_KEY key
#define SH_HASH_KEY(tb, key) hash_bytes((unsigned char *) &(key), sizeof(DecisionKey))
#define SH_EQUAL(tb, a, b) (memcmp(&(a), &(b), sizeof(DecisionKey)) == 0)
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

#define FEW_DECISIONS 64

static decisions_hash *decisions = NULL;

/* Is the remembered snapshot older than this one? */
static bool
is_older(const SettledUnder *under, Snapshot snapshot)
{
	return TransactionIdPrecedes(under->xmax, snapshot->xmax) ||
		   (under->xmax == snapshot->xmax && under->xcnt > snapshot->xcnt);
}

/* Is this snapshot older than the remembered one? */
static bool
is_newer(const SettledUnder *under, Snapshot snapshot)
{
	return TransactionIdPrecedes(snapshot->xmax, under->xmax) ||
		   (under->xmax == snapshot->xmax && under->xcnt < snapshot->xcnt);
}

/* From this command on, the counts that the transaction writes do not fit its snapshots. */
void
poser_count_note_inconsistent(CommandId from)
{
	if (unfit_from == InvalidCommandId || unfit_from > from)
		unfit_from = from;
}

/*
 * Remember under which snapshot rows of others were built upon, see
 * sees_settled().
 */
void
poser_count_note_replaced(Snapshot snapshot)
{
	SettledUnder *last;

	if (IsolationUsesXactSnapshot())
		return;
	if (num_settled_under > 0 && !is_older(&settled_under[num_settled_under - 1], snapshot))
		return;
	if (num_settled_under == MAX_SETTLED_UNDER)
	{
		poser_count_note_inconsistent(GetCurrentCommandId(false));
		return;
	}
	if (settled_under == NULL)
	{
		max_settled_under = 16;
		settled_under = MemoryContextAlloc(TopTransactionContext,
										   max_settled_under * sizeof(SettledUnder));
	}
	else if (num_settled_under == max_settled_under)
	{
		settled_under = repalloc(settled_under, 2 * max_settled_under * sizeof(SettledUnder));
		max_settled_under *= 2;
	}
	last = &settled_under[num_settled_under++];
	last->xmax = snapshot->xmax;
	last->xcnt = snapshot->xcnt;
	last->cid = GetCurrentCommandId(false);
}

void
poser_count_begin_statement(TriggerData *trigdata)
{
	poser_statement_begin(&uncounted, trigdata);
}

/*
 * A statement has been counted.  Note the commands since it began: their snapshots
 * do not see its counts.  Mark the current command as used, so that the next
 * snapshot belongs to another one.
 */
void
poser_count_end_statement(TriggerData *trigdata)
{
	PoserStatement *entry = poser_statement_end(&uncounted, trigdata);

	if (entry == NULL)
		return;
	if (GetCurrentCommandId(false) > entry->cid)
	{
		CommandId last = Min(GetCurrentCommandId(true), MAX_COMMANDS - 1);
		MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);

		if (entry->cid < last)
			uncounted_commands = bms_add_range(uncounted_commands, entry->cid + 1, last);
		MemoryContextSwitchTo(old);
	}
	pfree(entry);
}

/* Does the snapshot see all that those of our rows are made from that it sees? */
static bool
sees_settled(Snapshot snapshot)
{
	if (unfit_from != InvalidCommandId && snapshot->curcid > unfit_from)
		return false;
	for (int i = num_settled_under - 1; i >= 0; i--)
	{
		if (!is_newer(&settled_under[i], snapshot))
			break;
		if (snapshot->curcid > settled_under[i].cid)
			return false;
	}
	return true;
}

/* Does the snapshot see what a transaction has done? */
static bool
sees_transaction(TransactionId xid, Snapshot snapshot)
{
	return !TransactionIdIsNormal(xid) || TransactionIdIsCurrentTransactionId(xid) ||
		   !XidInMVCCSnapshot(xid, snapshot);
}

/*
 * Is the table, for this snapshot, what it is now?  TRUNCATE and commands that
 * rewrite a table do not keep what older snapshots would see of it, among them
 * those of this transaction.
 */
static bool
sees_relation(Oid relid, Snapshot snapshot)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	TransactionId xmin;

	if (!HeapTupleIsValid(tuple))
		return false;
	xmin = HeapTupleHeaderGetXmin(tuple->t_data);
	ReleaseSysCache(tuple);
	return !TransactionIdIsCurrentTransactionId(xmin) && sees_transaction(xmin, snapshot);
}

/* Have the counts been maintained for all that this snapshot sees? */
static bool
sees_maintained(Oid parent, Oid child, Oid nspid, Snapshot snapshot)
{
	const PoserCountState *state = poser_count_state(parent, child, nspid);

	if (!state->maintained)
		return false;
	for (int i = 0; i < state->num_xids; i++)
		if (!sees_transaction(state->xids[i], snapshot))
			return false;
	return sees_relation(child, snapshot) &&
		   sees_relation(state->counts, snapshot) &&
		   sees_relation(state->deltas, snapshot);
}

/* May the snapshot see rows of a statement, and not that they are counted? */
static bool
sees_uncounted(Snapshot snapshot)
{
	for (PoserStatement *entry = uncounted; entry != NULL; entry = entry->outer)
		if (snapshot->curcid > entry->cid)
			return true;
	return snapshot->curcid >= MAX_COMMANDS ||
		   bms_is_member(snapshot->curcid, uncounted_commands);
}

/*
 * May the current user see all rows of the table?  Whoever may not see all
 * parents must not learn of them by their counts.
 */
static bool
may_see_all(Oid relid)
{
	return pg_class_aclcheck(relid, GetUserId(), ACL_SELECT) == ACLCHECK_OK &&
		   check_enable_rls(relid, InvalidOid, true) != RLS_ENABLED;
}

/*
 * Whether the maintained counts of "child" are what the current user would
 * count under the active snapshot.  "nspid" is the schema of the functions
 * that maintain them.
 *
 * What was decided for a snapshot stays, so that the parts of one query agree
 * about it; and they may, for what a snapshot sees stays as well.
 */
bool
poser_count_serves(Oid parent, Oid child, Oid nspid)
{
	Snapshot snapshot;
	DecisionKey key;
	Decision *decision;
	bool serves;
	bool found;

	if (!ActiveSnapshotSet())
		return false;
	snapshot = GetActiveSnapshot();
	if (sees_uncounted(snapshot))
		return false;

	key.child = child;
	key.userid = GetUserId();
	key.xmin = snapshot->xmin;
	key.xmax = snapshot->xmax;
	key.running = snapshot->xcnt + snapshot->subxcnt;
	key.curcid = snapshot->curcid;
	if (decisions == NULL)
		decisions = decisions_create(TopMemoryContext, FEW_DECISIONS, NULL);
	decision = decisions_lookup(decisions, key);
	if (decision != NULL)
		return decision->serves;
	if (decisions->members >= MAX_DECISIONS)
		return false;

	serves = (may_see_all(parent) && may_see_all(child) &&
			  sees_settled(snapshot) &&
			  sees_maintained(parent, child, nspid, snapshot));

	decision = decisions_insert(decisions, key, &found);
	decision->serves = serves;
	return serves;
}

static void
forget_decisions(void)
{
	if (decisions == NULL || decisions->members == 0)
		return;
	if (decisions->size > 16 * FEW_DECISIONS)
	{
		decisions_destroy(decisions);
		decisions = NULL;
	}
	else
		decisions_reset(decisions);
}

static void
forget_transaction(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			poser_statement_check(uncounted);
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_PARALLEL_COMMIT:
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PARALLEL_ABORT:
		case XACT_EVENT_PREPARE:
			/* their memory goes with the transaction */
			uncounted = NULL;
			settled_under = NULL;
			num_settled_under = 0;
			uncounted_commands = NULL;
			unfit_from = InvalidCommandId;
			forget_decisions();
			break;
		default:
			break;
	}
}

static void
forget_subtransaction(SubXactEvent event, SubTransactionId mySubid,
					  SubTransactionId parentSubid, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		poser_statement_abort(&uncounted, mySubid);
}

void
poser_count_init(void)
{
	RegisterXactCallback(forget_transaction, NULL);
	RegisterSubXactCallback(forget_subtransaction, NULL);
}
