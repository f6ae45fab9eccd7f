/*
 * serve.c
 *	  Whether a query may read the maintained counts.
 *
 * The views of counts ask poser_count_serves().  If its answer is no, they count the
 * child's rows instead.  The answer is yes if the counts are what the current user would
 * count under the active snapshot:
 *
 * - the user may see all rows of both tables;
 * - the triggers have maintained the counts for everything that the snapshot sees;
 * - the snapshot sees no row of a statement without the count of that row;
 * - the snapshot sees every change folded into the count rows that it sees.
 *
 * Count rows of another transaction satisfy the last two conditions in every snapshot:
 * its children and its counts become visible together.  Count rows of our own
 * transaction need not, because a snapshot can see some of its commands only.  So this
 * file remembers, until the transaction ends, which of the transaction's snapshots do not
 * fit its counts.  The triggers and settle.c tell it by the functions
 * poser_count_begin_statement() to poser_count_note_inconsistent().
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "nodes/bitmapset.h"
#include "utils/acl.h"
#include "utils/memutils.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "counts/counts_internal.h"

/*
 * How much a transaction remembers: command numbers (8 MB), snapshots (3 MB) and
 * decisions (16 MB).  Nothing is forgotten before the transaction ends, because older
 * snapshots may still be used.  From the moment when one of these limits is reached,
 * queries with newer snapshots count the rows.
 */
#define MAX_COMMANDS (64 * 1024 * 1024)
#define MAX_REPLACEMENTS (256 * 1024)
#define MAX_DECISIONS (256 * 1024)

/*
 * Statements on a child or a parent that have begun and are not counted yet.  Queries
 * of other triggers, for instance, can see their rows meanwhile.
 */
static PoserStatement *statements = NULL;

/*
 * Commands whose snapshots were taken while such a statement was in progress.  These
 * snapshots see rows of the statement and not their counts.  A trigger can open a cursor
 * with such a snapshot, so it can be used after the statement.  In TopTransactionContext.
 */
static Bitmapset *mid_statement_commands = NULL;

/*
 * A command that has replaced or deleted a count row of another transaction, and a
 * snapshot that fits the result.  A snapshot that is older than this one, but later than
 * the command, sees our own row.  It may not see the changes that the other row contained.
 *
 * Of the snapshot, xmax and the number of running transactions are kept.  Of two
 * snapshots of a session, the one with the greater xmax is newer.  If these are equal,
 * the one with fewer running transactions is newer.
 */
typedef struct Replacement
{
	TransactionId xmax;
	uint32 xcnt;
	CommandId cid;
} Replacement;

/* The replacements in the order of time, one for each snapshot.  In TopTransactionContext. */
static Replacement *replacements = NULL;
static int num_replacements = 0;
static int max_replacements = 0;

/*
 * The first command, if any, that has written counts inconsistent with all snapshots of
 * this transaction.
 */
static CommandId inconsistent_from = InvalidCommandId;

/*
 * What poser_count_serves() has answered in this transaction, by table, user and
 * snapshot.  In TopMemoryContext.
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

/*
 * What the transaction remembers
 */

/* A statement that can change counts has begun: its BEFORE trigger has fired. */
void
poser_count_begin_statement(TriggerData *trigdata)
{
	poser_statement_begin(&statements, trigdata);
}

/* The statement has been counted: its AFTER trigger is about to return. */
void
poser_count_end_statement(TriggerData *trigdata)
{
	PoserStatement *statement = poser_statement_end(&statements, trigdata);

	if (statement == NULL)
		return;

	/*
	 * Remember the commands since the statement began: their snapshots do not see its
	 * counts.  The current command is marked as used, so that the next snapshot has
	 * another command number.
	 */
	if (GetCurrentCommandId(false) > statement->cid)
	{
		CommandId last = Min(GetCurrentCommandId(true), MAX_COMMANDS - 1);
		MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);

		if (statement->cid < last)
			mid_statement_commands = bms_add_range(mid_statement_commands, statement->cid + 1, last);
		MemoryContextSwitchTo(old);
	}
	pfree(statement);
}

/*
 * Which of the two snapshots is older?  The result is less than 0 if it is the one of
 * the replacement, greater than 0 if it is "snapshot", and 0 if they are the same.
 */
static inline int
compare_age(const Replacement *replacement, Snapshot snapshot)
{
	if (replacement->xmax != snapshot->xmax)
		return TransactionIdPrecedes(replacement->xmax, snapshot->xmax) ? -1 : 1;
	if (replacement->xcnt != snapshot->xcnt)
		return replacement->xcnt > snapshot->xcnt ? -1 : 1;
	return 0;
}

/*
 * The counts that the current transaction writes from the command "from" on are
 * inconsistent with its own snapshots.
 */
void
poser_count_note_inconsistent(CommandId from)
{
	if (inconsistent_from == InvalidCommandId || inconsistent_from > from)
		inconsistent_from = from;
}

/*
 * The current command has replaced or deleted a count row of another transaction.  The
 * result fits "snapshot" and newer ones; older ones must not be used to read it.
 */
void
poser_count_note_replaced(Snapshot snapshot)
{
	Replacement *last;

	/* In REPEATABLE READ and SERIALIZABLE all queries use one snapshot. */
	if (IsolationUsesXactSnapshot())
		return;

	/* One entry for a snapshot is enough: that of the first command. */
	if (num_replacements > 0 && compare_age(&replacements[num_replacements - 1], snapshot) >= 0)
		return;

	if (num_replacements == MAX_REPLACEMENTS)
	{
		poser_count_note_inconsistent(GetCurrentCommandId(false));
		return;
	}
	if (replacements == NULL)
	{
		max_replacements = 16;
		replacements = MemoryContextAlloc(TopTransactionContext, max_replacements * sizeof(Replacement));
	}
	else if (num_replacements == max_replacements)
	{
		replacements = repalloc(replacements, 2 * max_replacements * sizeof(Replacement));
		max_replacements *= 2;
	}
	last = &replacements[num_replacements++];
	last->xmax = snapshot->xmax;
	last->xcnt = snapshot->xcnt;
	last->cid = GetCurrentCommandId(false);
}

/* Forget all decisions.  A hash table that has become large is freed. */
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

/*
 * The transaction ends.  (A subtransaction that is rolled back changes nothing but the
 * list of statements.  The rest can only make queries count the rows where they need
 * not.)
 */
static void
end_transaction(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_PARALLEL_COMMIT:
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PARALLEL_ABORT:
		case XACT_EVENT_PREPARE:
			/* What is in TopTransactionContext is freed with the context. */
			mid_statement_commands = NULL;
			replacements = NULL;
			num_replacements = 0;
			inconsistent_from = InvalidCommandId;
			forget_decisions();
			break;
		default:
			break;
	}
}

/* Called once in a session, when the library is loaded. */
void
poser_count_init(void)
{
	poser_count_catalog_init();
	poser_statement_register(&statements);
	RegisterXactCallback(end_transaction, NULL);
}

/*
 * What a snapshot sees
 */

/* Does it see every change folded into the count rows of our own that it sees? */
static bool
sees_folded_changes(Snapshot snapshot)
{
	if (inconsistent_from != InvalidCommandId && snapshot->curcid > inconsistent_from)
		return false;

	/* Look at replacements under newer snapshots only; these are the last ones. */
	for (int i = num_replacements - 1; i >= 0; i--)
	{
		if (compare_age(&replacements[i], snapshot) <= 0)
			break;
		if (snapshot->curcid > replacements[i].cid)
			return false;
	}
	return true;
}

/* Does it see what this transaction has done? */
static bool
sees_transaction(TransactionId xid, Snapshot snapshot)
{
	return !TransactionIdIsNormal(xid) || TransactionIdIsCurrentTransactionId(xid) ||
		   !XidInMVCCSnapshot(xid, snapshot);
}

/*
 * Does it see all rows that the table had when it was taken?  TRUNCATE and commands that
 * rewrite a table do not keep them for older snapshots, nor for those of their own
 * transaction.  They write the table's row in pg_class, which tells their transaction.
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

/* Have triggers maintained the counts for everything that it sees? */
static bool
sees_maintained(Oid parent, Oid child, Oid nspid, Snapshot snapshot)
{
	const PoserCountMaintenance *maintenance = poser_count_maintenance(parent, child, nspid);

	if (!maintenance->maintained)
		return false;
	for (int i = 0; i < maintenance->num_xids; i++)
		if (!sees_transaction(maintenance->xids[i], snapshot))
			return false;
	return sees_relation(child, snapshot) &&
		   sees_relation(maintenance->counts, snapshot) &&
		   sees_relation(maintenance->deltas, snapshot);
}

/* May it see rows of a statement, and not that they are counted? */
static bool
sees_uncounted(Snapshot snapshot)
{
	for (PoserStatement *statement = statements; statement != NULL; statement = statement->outer)
		if (snapshot->curcid > statement->cid)
			return true;
	return snapshot->curcid >= MAX_COMMANDS ||
		   bms_is_member(snapshot->curcid, mid_statement_commands);
}

/*
 * May the current user see all rows of the table?  The parent is asked about, too: a
 * user that may not see a parent must not learn of it by its count.
 */
static bool
may_see_all(Oid relid)
{
	return pg_class_aclcheck(relid, GetUserId(), ACL_SELECT) == ACLCHECK_OK &&
		   check_enable_rls(relid, InvalidOid, true) != RLS_ENABLED;
}

/*
 * Returns whether the maintained counts of "child" are what the current user would count
 * under the active snapshot.  "nspid" is the schema of the functions that maintain
 * them.  The caller holds a lock on both tables.
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

	/*
	 * A decision about a snapshot is kept, so that all parts of one query get the same
	 * answer.  It can be kept, because what a snapshot sees stays the same.
	 */
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
			  sees_folded_changes(snapshot) &&
			  sees_maintained(parent, child, nspid, snapshot));

	decision = decisions_insert(decisions, key, &found);
	decision->serves = serves;
	return serves;
}
