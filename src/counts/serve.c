/*
 * serve.c
 *	  Whether a query may read the maintained counts.
 *
 * The views of the counts call poser_count_serves().  If the result is false, they have no
 * rows, and poser_widget_summary counts the child's rows itself.  The result is true if
 * the counts are what the current user would count under the active snapshot.  For this
 * all of these must hold:
 *
 * - the user may see all rows of both tables;
 * - the triggers have maintained the counts for everything that the snapshot sees;
 * - the snapshot sees no row of a statement without the count of that row;
 * - the snapshot sees every change folded into the count rows that it sees.
 *
 * For count rows of other transactions the last two conditions hold in every snapshot,
 * because the children and the counts of one transaction become visible together.  For
 * count rows of our own transaction they may not hold, because a snapshot can see some of
 * its commands and not others.  So this file remembers, until the transaction ends, which
 * of the transaction's snapshots are inconsistent with its counts.  The other files of
 * this folder report this by poser_count_begin_statement(), poser_count_end_statement(),
 * poser_count_note_replaced() and poser_count_note_inconsistent().
 *
 * Maintained views ask in the same way, see serve_view.c.  All parts of a query must get the
 * same answer.  A later query with the same snapshot can get another one: the user may have
 * lost a privilege, or a table may have been truncated after ROLLBACK TO SAVEPOINT has
 * released the lock on it.  So a decision is kept for one run of a plan, as long as the
 * plan's state exists: see poser_serve_run().
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "nodes/bitmapset.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "counts/counts_internal.h"

/*
 * How much a transaction remembers: command IDs (8 MB for each table of the list below) and
 * snapshots (3 MB).  Nothing is forgotten before the transaction ends, because older
 * snapshots may still be used.  When one of these limits is reached, queries with newer
 * snapshots count the rows.
 */
#define MAX_COMMANDS (64 * 1024 * 1024)
#define MAX_REPLACEMENTS (256 * 1024)
#define MAX_MID_STATEMENT_TABLES 8

/*
 * Statements on a child or a parent that have begun and are not counted yet.  Queries in
 * other triggers, for instance, can see their rows meanwhile.
 */
static PoserStatement *statements = NULL;

/*
 * The IDs of commands with snapshots taken while such a statement was in progress.  These
 * snapshots can see rows of the statement and do not see their counts.  A trigger can open
 * a cursor with such a snapshot, and the cursor can be read after the statement.
 *
 * There is a set for each table that such statements have written.  If there are many
 * tables, the last set has the commands of all others, and its table is InvalidOid.  The
 * sets are in TopTransactionContext.
 */
static struct
{
	Oid relid;
	Bitmapset *commands;
} mid_statement[MAX_MID_STATEMENT_TABLES + 1];
static int num_mid_statement = 0;

/*
 * A command that has replaced or deleted a count row of another transaction, and the
 * snapshot that it used.  This snapshot and newer ones see all changes in the new row.  An
 * older snapshot with a later command ID sees the new row, but it may not see the changes
 * that the replaced row contained.
 *
 * Of the snapshot, xmax and the number of running transactions are kept.  Of two
 * snapshots of a session, the one with the greater xmax is newer.  If both have the same
 * xmax, the one with fewer running transactions is newer.
 */
typedef struct Replacement
{
	TransactionId xmax;
	uint32 xcnt;
	CommandId cid;
} Replacement;

/* The replacements in the order of time, one for each snapshot, in TopTransactionContext. */
static Replacement *replacements = NULL;
static int num_replacements = 0;
static int max_replacements = 0;

/*
 * The first command, if there is one, that has written counts inconsistent with all
 * snapshots of this transaction.
 */
static CommandId inconsistent_from = InvalidCommandId;

/* The decisions for all runs; the last run is the first in the list. */
static PoserRun *runs = NULL;

/*
 * What the transaction remembers
 */

/* Put a statement that can change counts into the list.  Returns false if it is there already. */
static bool
begin_statement(TriggerData *trigdata, const void *arg)
{
	if (poser_statement_is_listed(statements, trigdata))
		return false;
	poser_statement_begin(&statements, trigdata);
	return true;
}

/* A statement that can change counts has begun: its BEFORE trigger has fired. */
void
poser_count_begin_statement(TriggerData *trigdata)
{
	(void) begin_statement(trigdata, NULL);
	if (TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event))
		poser_statement_fire_moves(&statements, trigdata, begin_statement, NULL);
}

/* Add commands to the set of a table. */
static void
note_mid_statement(Oid relid, CommandId first, CommandId last)
{
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);
	int i = 0;

	while (i < num_mid_statement && OidIsValid(mid_statement[i].relid) && mid_statement[i].relid != relid)
		i++;
	if (i == num_mid_statement)
	{
		mid_statement[i].relid = i < MAX_MID_STATEMENT_TABLES ? relid : InvalidOid;
		mid_statement[i].commands = NULL;
		num_mid_statement++;
	}
	mid_statement[i].commands = bms_add_range(mid_statement[i].commands, first, last);
	MemoryContextSwitchTo(old);
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
	 * counts.  The current command ID is marked as used, so that the next snapshot has
	 * another one.
	 */
	if (GetCurrentCommandId(false) > statement->cid)
	{
		CommandId last = Min(GetCurrentCommandId(true), MAX_COMMANDS - 1);

		if (statement->cid < last)
			note_mid_statement(statement->relid, statement->cid + 1, last);
	}
	pfree(statement);
}

/*
 * Compare the age of two snapshots.  The result is less than 0 if the replacement's is
 * older, greater than 0 if "snapshot" is older, and 0 if they are the same.
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
 * Note that the counts that the current transaction writes from the command "from" on are
 * inconsistent with its own snapshots.
 */
void
poser_count_note_inconsistent(CommandId from)
{
	if (inconsistent_from == InvalidCommandId || inconsistent_from > from)
		inconsistent_from = from;
}

/*
 * Note that the current command has replaced or deleted a count row of another
 * transaction.  "snapshot" and newer ones are consistent with the result.  Older ones must
 * not be used to read it.
 */
void
poser_count_note_replaced(Snapshot snapshot)
{
	Replacement *last;

	/* In REPEATABLE READ and SERIALIZABLE all queries use one snapshot. */
	if (IsolationUsesXactSnapshot())
		return;

	/* One entry for a snapshot is enough, that of the first command.  It is there already. */
	if (num_replacements > 0 && compare_age(&replacements[num_replacements - 1], snapshot) >= 0)
		return;

	/* Otherwise add one, unless there are too many. */
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

/*
 * Transaction callback: forget all at its end.  The end of a subtransaction needs no
 * callback here: base/statement.c takes care of the list of statements.  Other entries of a
 * subtransaction that was rolled back do no harm.  They only make queries count the rows
 * although they need not.
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
			num_mid_statement = 0;
			replacements = NULL;
			num_replacements = 0;
			inconsistent_from = InvalidCommandId;
			break;
		default:
			break;
	}
}

/* Called when the module is loaded. */
void
poser_count_init(void)
{
	poser_count_catalog_init();
	poser_serve_view_init();
	poser_statement_register(&statements);
	RegisterXactCallback(end_transaction, NULL);
}

/*
 * What a snapshot sees
 */

/* Does the snapshot see every change folded into our own count rows visible to it? */
static bool
sees_folded_changes(Snapshot snapshot)
{
	if (inconsistent_from != InvalidCommandId && snapshot->curcid > inconsistent_from)
		return false;

	/* Only replacements with newer snapshots matter, and these are the last ones. */
	for (int i = num_replacements - 1; i >= 0; i--)
	{
		if (compare_age(&replacements[i], snapshot) <= 0)
			break;
		if (snapshot->curcid > replacements[i].cid)
			return false;
	}
	return true;
}

/* Does the snapshot see the changes of the transaction with this ID? */
bool
poser_serve_sees_transaction(TransactionId xid, Snapshot snapshot)
{
	return !TransactionIdIsNormal(xid) || TransactionIdIsCurrentTransactionId(xid) ||
		   !XidInMVCCSnapshot(xid, snapshot);
}

/*
 * Does the snapshot see all rows that the table had when it was taken?  TRUNCATE, and
 * commands that rewrite a table, do not keep these rows for older snapshots, nor for older
 * snapshots of their own transaction.  Such a command writes a new version of the table's
 * row in pg_class, and xmin of this version is its transaction.
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
	return !TransactionIdIsCurrentTransactionId(xmin) && poser_serve_sees_transaction(xmin, snapshot);
}

/* Have triggers maintained the counts for all rows that the snapshot sees? */
static bool
sees_maintained(Oid parent, Oid child, Oid nspid, Snapshot snapshot)
{
	const PoserCountMaintenance *maintenance = poser_count_maintenance(parent, child, nspid);

	if (!maintenance->maintained)
		return false;
	for (int i = 0; i < maintenance->num_xids; i++)
		if (!poser_serve_sees_transaction(maintenance->xids[i], snapshot))
			return false;
	return sees_relation(child, snapshot) &&
		   sees_relation(maintenance->counts, snapshot) &&
		   sees_relation(maintenance->deltas, snapshot);
}

/* Is the table one of these?  They are sorted. */
static bool
is_one_of(Oid relid, const Oid *relids, int n)
{
	return bsearch(&relid, relids, n, sizeof(Oid), oid_cmp) != NULL;
}

/*
 * Can the snapshot see rows of a statement without their counts?  Only statements that write
 * one of the tables matter.  The tables are sorted by OID.
 */
static bool
sees_uncounted(Snapshot snapshot, const Oid *relids, int n)
{
	for (PoserStatement *statement = statements; statement != NULL; statement = statement->outer)
		if (snapshot->curcid > statement->cid && is_one_of(statement->relid, relids, n))
			return true;
	for (int i = 0; i < num_mid_statement; i++)
		if ((!OidIsValid(mid_statement[i].relid) || is_one_of(mid_statement[i].relid, relids, n)) &&
			bms_is_member(snapshot->curcid, mid_statement[i].commands))
			return true;
	return snapshot->curcid >= MAX_COMMANDS;
}

/*
 * Decisions
 */

static PoserServeKey
decision_key(Oid of, Snapshot snapshot)
{
	return (PoserServeKey) {of, snapshot->xmin, snapshot->xmax, snapshot->xcnt + snapshot->subxcnt, snapshot->curcid};
}

/*
 * Does the snapshot see no row of this transaction without its count, and no count without
 * the rows that are counted in it?  "relids" are the tables of the count, sorted by OID.
 */
bool
poser_serve_is_consistent(Snapshot snapshot, const Oid *relids, int n)
{
	return !sees_uncounted(snapshot, relids, n) && sees_folded_changes(snapshot);
}

/* Memory context callback: the state of a plan is freed. */
static void
end_run(void *arg)
{
	for (PoserRun **link = &runs; *link != NULL; link = &(*link)->next)
		if (*link == arg)
		{
			*link = (*link)->next;
			return;
		}
}

/* Returns the last decision about this in a memory context, or NULL. */
static PoserRun *
find_run(MemoryContext context, Oid of)
{
	for (PoserRun *run = runs; run != NULL; run = run->next)
		if (run->context == context && run->key.of == of)
			return run;
	return NULL;
}

/*
 * Returns the decision for the run that the calling function is part of.  If *is_new is true,
 * nothing was decided for the active snapshot, and the caller decides and sets "serves".  "of"
 * is the child table or the query of a maintained view.
 *
 * A run of a plan is known by the memory context of the functions that it calls.  The
 * snapshot is compared, because PL/pgSQL evaluates simple expressions of several statements
 * in one such context.
 *
 * In READ COMMITTED a row that another session has changed meanwhile is checked again, by a copy
 * of the plan.  It reads no rows anew, except the changed one, so the decision must stay.  The
 * context of the copy's functions is below that of the plan's.
 */
PoserRun *
poser_serve_run(FunctionCallInfo fcinfo, Oid of, bool *is_new)
{
	PoserServeKey key = decision_key(of, GetActiveSnapshot());
	MemoryContext context = fcinfo->flinfo->fn_mcxt;
	PoserRun *run = fcinfo->flinfo->fn_extra;

	if (run == NULL || run->key.of != of)
		run = find_run(context, of);
	*is_new = (run == NULL || memcmp(&run->key, &key, sizeof(PoserServeKey)) != 0);
	if (run == NULL)
	{
		run = MemoryContextAlloc(context, sizeof(PoserRun));
		run->context = context;
		run->callback.func = end_run;
		run->callback.arg = run;
		run->next = runs;
		MemoryContextRegisterResetCallback(context, &run->callback);
		runs = run;
	}
	if (*is_new)
	{
		PoserRun *plan = find_run(MemoryContextGetParent(context), of);

		run->key = key;
		run->serves = false; /* if deciding raises an error */
		if (plan != NULL && memcmp(&plan->key, &key, sizeof(PoserServeKey)) == 0)
		{
			run->serves = plan->serves;
			*is_new = false;
		}
		else
			/* without this, a session that holds all the locks that it needs would not notice changes */
			AcceptInvalidationMessages();
	}
	fcinfo->flinfo->fn_extra = run;
	return run;
}

/*
 * May the role see all rows of the table?  This is checked for the parent, too: a user that
 * may not see a parent must not learn of it from its count.
 */
bool
poser_serve_may_see_all(Oid relid, Oid roleid)
{
	return pg_class_aclcheck(relid, roleid, ACL_SELECT) == ACLCHECK_OK &&
		   check_enable_rls(relid, roleid, true) != RLS_ENABLED;
}

/*
 * Returns whether the maintained counts of "child" are what the current user would count
 * under the active snapshot.  "fcinfo" is of the function that a query calls, and "nspid"
 * the schema of the functions that maintain the counts.  The caller holds a lock on both
 * tables.
 */
bool
poser_count_serves(FunctionCallInfo fcinfo, Oid parent, Oid child, Oid nspid)
{
	Oid relids[] = {Min(parent, child), Max(parent, child)};
	PoserRun *run;
	Snapshot snapshot;
	bool is_new;

	if (!ActiveSnapshotSet())
		return false;
	run = poser_serve_run(fcinfo, child, &is_new);
	if (!is_new)
		return run->serves;

	/* Decide, see the head of this file. */
	if (!poser_serve_may_see_all(parent, GetUserId()) || !poser_serve_may_see_all(child, GetUserId()))
		return false;
	snapshot = GetActiveSnapshot();
	run->serves = poser_serve_is_consistent(snapshot, relids, lengthof(relids)) &&
				  sees_maintained(parent, child, nspid, snapshot);
	return run->serves;
}
