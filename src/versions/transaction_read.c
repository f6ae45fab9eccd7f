/*
 * transaction_read.c
 *	  Reading rows of poser_transaction: by their ids, and by time.
 *
 * The rows are read directly by the index on the id, without a check of privileges: a
 * user that may read a version may also read its transaction.
 *
 * The history as of a time has the changes of all transactions with ids up to T, and T is
 * the greatest id of a transaction that was issued by that time.  A transaction gets its
 * id and its time together, when it first changes something.  So ids and times rise
 * together, except that of two concurrent transactions the one with the lesser id can
 * have the later time.  Poser relies on a disorder of less than MAX_DISORDER.  So T is
 * found by bisection, and then corrected by the transactions that were issued shortly
 * after the time.  To decide whether one transaction belongs to the state, it is enough to
 * look at this transaction and, if it was issued shortly after the time, at those that
 * follow it.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relscan.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "versions/versions.h"
#include "versions/version_internal.h"

/* By how much the times of two transactions can be in another order than their ids. */
#define MAX_DISORDER USECS_PER_SEC

/* See poser_transactions_find(): how far it goes on, and what it counts. */
#define MAX_STEPS 8
#define MAX_GAIN 16
#define COST_OF_BEGINNING 4

/* Open poser_transaction to read from it.  Locks it until poser_transactions_close(). */
PoserTransactions *
poser_transactions_open(Oid relid)
{
	PoserTransactions *result = palloc0(sizeof(PoserTransactions));

	result->context = CurrentMemoryContext;
	result->rel = table_open(relid, AccessShareLock);
	result->slot = table_slot_create(result->rel, NULL);
	result->id = poser_own_column(result->rel, "id", INT8OID);
	result->issued_at = poser_own_column(result->rel, "issued_at", TIMESTAMPTZOID);
	result->index = index_open(poser_transaction_id_index(result->rel), AccessShareLock);
	result->ascending = (result->index->rd_indoption[0] & INDOPTION_DESC) == 0;

	poser_scan_key(&result->equal, result->index, 1, BTEqualStrategyNumber, Int64GetDatum(0));
	result->less_or_equal = result->equal;
	result->less_or_equal.sk_strategy = BTLessEqualStrategyNumber;
	fmgr_info(F_INT8LE, &result->less_or_equal.sk_func);
	result->greater = result->equal;
	result->greater.sk_strategy = BTGreaterStrategyNumber;
	fmgr_info(F_INT8GT, &result->greater.sk_func);
	return result;
}

/*
 * Begin to read, with the active snapshot, which must be kept until
 * poser_transactions_end().  "many" says that the transactions of many versions are looked
 * up, so that the next one is often the next in the index.
 */
void
poser_transactions_begin(PoserTransactions *transactions, bool many)
{
	transactions->scan = index_beginscan(transactions->rel, transactions->index, GetActiveSnapshot(),
										 NULL, 1, 0, SO_NONE);
	transactions->looked_up = false;
	transactions->gain = (many && transactions->ascending) ? MAX_GAIN : 0;
}

/* End what poser_transactions_begin() has begun. */
void
poser_transactions_end(PoserTransactions *transactions)
{
	index_endscan(transactions->scan);
}

/* Close poser_transaction, and release its lock. */
void
poser_transactions_close(PoserTransactions *transactions)
{
	ExecDropSingleTupleTableSlot(transactions->slot);
	index_close(transactions->index, AccessShareLock);
	table_close(transactions->rel, AccessShareLock);
}

/* Returns the id of the row in the slot, or -1 if there is none. */
static int64
fetched_id(PoserTransactions *transactions)
{
	bool isnull;

	if (TTS_EMPTY(transactions->slot))
		return -1;
	return DatumGetInt64(slot_getattr(transactions->slot, transactions->id, &isnull));
}

/* Returns the time of the row in the slot. */
static TimestampTz
fetched_time(PoserTransactions *transactions)
{
	bool isnull;
	Datum result = slot_getattr(transactions->slot, transactions->issued_at, &isnull);

	/* the column has NOT NULL; if a user has dropped that, the row belongs to the beginning */
	return isnull ? DT_NOBEGIN : DatumGetTimestampTz(result);
}

/*
 * Look up a transaction by its id, unless it was the last one that was looked up.  Returns
 * whether there is one, and then transactions->slot has it.
 *
 * The transactions of a row's versions come in descending order.  Often the next one is
 * the next in the index, too, and going on there is much cheaper than to begin again at
 * the root.  But where many transactions lie between, beginning again is cheaper, with a
 * condition for one row only.  "gain" decides between the two: it grows with each
 * transaction that was found by going on, and falls with each for which the scan began
 * again.
 */
bool
poser_transactions_find(PoserTransactions *transactions, int64 id)
{
	MemoryContext old;
	bool go_on = transactions->gain > 0;

	if (transactions->looked_up && transactions->looked_up_id == id)
		return transactions->found;

	/* not in the current context, which the executor resets while the scan is open */
	old = MemoryContextSwitchTo(transactions->context);

	/* go on in the index, from a later transaction */
	transactions->found = false;
	if (go_on && transactions->looked_up && fetched_id(transactions) > id)
	{
		for (int i = 0; i < MAX_STEPS && fetched_id(transactions) > id; i++)
			(void) index_getnext_slot(transactions->scan, BackwardScanDirection, transactions->slot);
		transactions->found = (fetched_id(transactions) == id);
	}

	/* or begin again */
	if (transactions->found)
		transactions->gain = Min(transactions->gain + 1, MAX_GAIN);
	else
	{
		ScanKey key = go_on ? &transactions->less_or_equal : &transactions->equal;

		key->sk_argument = Int64GetDatum(id);
		index_rescan(transactions->scan, key, 1, NULL, 0);
		(void) index_getnext_slot(transactions->scan, BackwardScanDirection, transactions->slot);
		transactions->found = (fetched_id(transactions) == id);
		transactions->gain -= COST_OF_BEGINNING;
	}
	transactions->looked_up = true;
	transactions->looked_up_id = id;
	MemoryContextSwitchTo(old);
	return transactions->found;
}

/* Get the transaction with the greatest id up to this one.  Returns false if there is none. */
static bool
find_up_to(PoserTransactions *transactions, int64 id)
{
	MemoryContext old = MemoryContextSwitchTo(transactions->context);
	bool result;

	transactions->looked_up = false;
	transactions->less_or_equal.sk_argument = Int64GetDatum(id);
	index_rescan(transactions->scan, &transactions->less_or_equal, 1, NULL, 0);
	result = index_getnext_slot(transactions->scan,
								transactions->ascending ? BackwardScanDirection : ForwardScanDirection,
								transactions->slot);
	MemoryContextSwitchTo(old);
	return result;
}

/*
 * Read the transactions after this id, up to the first one that was issued so late that
 * none after it can have been issued by the time.  Returns the greatest id of those that
 * were issued by the time, or 0.  With "any" it is the first id that is found.
 */
static int64
find_after(PoserTransactions *transactions, int64 id, TimestampTz at, bool any)
{
	MemoryContext old = MemoryContextSwitchTo(transactions->context);
	int64 result = 0;

	transactions->looked_up = false;
	transactions->greater.sk_argument = Int64GetDatum(id);
	index_rescan(transactions->scan, &transactions->greater, 1, NULL, 0);
	while (!(any && result != 0) &&
		   index_getnext_slot(transactions->scan,
							  transactions->ascending ? ForwardScanDirection : BackwardScanDirection,
							  transactions->slot))
	{
		TimestampTz issued_at = fetched_time(transactions);

		CHECK_FOR_INTERRUPTS();
		if (issued_at <= at)
			result = fetched_id(transactions);
		else if (TIMESTAMP_NOT_FINITE(at) || issued_at - at > MAX_DISORDER)
			break;
	}
	MemoryContextSwitchTo(old);
	return result;
}

/*
 * Returns the greatest id of the transactions issued by this time, or 0; see the head of
 * this file.  If none was issued later, all changes belong to the state, and the result is
 * PG_INT64_MAX.  There can be versions with greater ids than any transaction: those of a
 * table that was dumped and restored alone, or that has outlived the extension.
 */
int64
poser_transactions_at(PoserTransactions *transactions, TimestampTz at)
{
	int64 before = 0; /* transactions up to this id were issued by the time */
	int64 after;	  /* transactions from this id on were issued later */
	int64 corrected;

	if (!find_up_to(transactions, PG_INT64_MAX))
		return at >= GetCurrentTransactionStartTimestamp() ? PG_INT64_MAX : 0;
	if (fetched_time(transactions) <= at)
		return PG_INT64_MAX;
	after = fetched_id(transactions);
	while (after - before > 1)
	{
		int64 middle = before + (after - before) / 2;

		if (!find_up_to(transactions, middle) || fetched_id(transactions) <= before ||
			fetched_time(transactions) <= at)
			before = middle;
		else
			after = fetched_id(transactions);
	}

	/* "before" need not be the id of a transaction */
	corrected = find_after(transactions, before, at, false);
	if (corrected != 0)
		return corrected;
	return find_up_to(transactions, before) ? fetched_id(transactions) : 0;
}

/*
 * Are the changes of this transaction in the history as of this time?  The result is the
 * same as that of comparing its id with poser_transactions_at(), but takes one look-up
 * unless the transaction was issued shortly after the time.
 */
bool
poser_transactions_counts(PoserTransactions *transactions, int64 id, TimestampTz at)
{
	TimestampTz issued_at;

	/* a version can be without its transaction if users have deleted that */
	if (!poser_transactions_find(transactions, id))
		return id <= poser_transactions_at(transactions, at);
	issued_at = fetched_time(transactions);
	if (issued_at <= at)
		return true;
	if (TIMESTAMP_NOT_FINITE(at) || issued_at - at > MAX_DISORDER)
		return false;
	return find_after(transactions, id, at, true) != 0;
}
