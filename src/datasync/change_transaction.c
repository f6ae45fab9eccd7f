/*
 * change_transaction.c
 *	  The transactions of the changes that are delivered, read ahead.
 *
 * A change is delivered with the time and the user of its transaction, and only if the
 * window has the transaction.  A join would look up each transaction in the index on id
 * by itself.  This takes a quarter of the time of a delivery.  But changes come in the
 * order of change_id, and so their transactions come almost in the order of id.
 *
 * So the transactions are kept in a hash table.  If one is not there, a query reads it
 * and those that follow it in the order of id.  The number of rows that are read ahead
 * doubles while at least half of them are used.  Otherwise it is halved: the changes of a
 * long transaction come late, and between its id and theirs there may be many transactions
 * that have no changes in the window.
 *
 * The invariant: the result does not depend on what was read ahead, because all rows are
 * read with the same snapshot, that of the window.  Memory is bounded: the hash table is
 * emptied when it is full.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "tcop/dest.h"
#include "utils/datum.h"
#include "utils/memutils.h"

#include "datasync/datasync_internal.h"

/* How many transactions are read together, and how many are kept, at most. */
#define MAX_AHEAD 256
#define MAX_KEPT 1024

/* How much memory their names may take, in bytes.  The last ones that were read can exceed it. */
#define MAX_KEPT_BYTES (1024 * 1024)

#define SH_PREFIX transactions
#define SH_ELEMENT_TYPE PoserChangeTransaction
#define SH_KEY_TYPE int64
#define SH_KEY id
#define SH_HASH_KEY(tb, key) murmurhash32((uint32) (key))
#define SH_EQUAL(tb, a, b) ((a) == (b))
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* The columns of the query in read_ahead(). */
enum
{
	AHEAD_ID,
	AHEAD_ISSUED_AT,
	AHEAD_USERNAME,
	AHEAD_DELIVERED
};

struct PoserChangeTransactions
{
	DestReceiver receiver; /* of the rows that read_ahead() reads */
	PoserConsumer *consumer;
	char *sql;			   /* of read_ahead() */
	MemoryContext context; /* has the hash table and its values; reset when they are too many */
	transactions_hash *hash;
	Datum username; /* the last one that was copied into the context; 0 if none was */
	long ahead;		/* how many transactions the next query reads */
	long read;		/* how many the last query has read */
	long used;		/* and how many of these have been asked for */
};

/* Empty the hash table. */
static void
clear(PoserChangeTransactions *transactions)
{
	MemoryContextReset(transactions->context);
	transactions->hash = transactions_create(transactions->context, 2 * MAX_AHEAD, NULL);
	transactions->username = (Datum) 0;
}

/* The receiveSlot method: keep a transaction. */
static bool
receive_transaction(TupleTableSlot *slot, DestReceiver *self)
{
	PoserChangeTransactions *transactions = (PoserChangeTransactions *) self;
	PoserChangeTransaction *transaction;
	bool found;

	slot_getallattrs(slot);
	transaction = transactions_insert(transactions->hash, DatumGetInt64(slot->tts_values[AHEAD_ID]), &found);
	transactions->read++;
	/* it was read before, and pointers to it may be in use */
	if (found)
		return true;

	transaction->delivered = !slot->tts_isnull[AHEAD_DELIVERED] && DatumGetBool(slot->tts_values[AHEAD_DELIVERED]);
	transaction->used = false;
	transaction->issued_at = slot->tts_values[AHEAD_ISSUED_AT];
	transaction->issued_at_isnull = slot->tts_isnull[AHEAD_ISSUED_AT];
	transaction->username_isnull = slot->tts_isnull[AHEAD_USERNAME];
	if (!transaction->username_isnull)
	{
		Datum username = slot->tts_values[AHEAD_USERNAME];

		/* usually it is that of the transaction before.  A long name is not fetched from where TOAST has put it. */
		if (transactions->username == (Datum) 0 || !datumIsEqual(transactions->username, username, false, -1))
		{
			MemoryContext old = MemoryContextSwitchTo(transactions->context);

			transactions->username = datumCopy(username, false, -1);
			MemoryContextSwitchTo(old);
		}
		transaction->username = transactions->username;
	}
	return true;
}

/* The other methods of the receiver, which have nothing to do. */
static void
start_receiving(DestReceiver *self, int operation, TupleDesc typeinfo)
{
}

static void
stop_receiving(DestReceiver *self)
{
}

static const DestReceiver transaction_receiver = {
	receive_transaction, start_receiving, stop_receiving, stop_receiving, DestNone};

/*
 * Read the transaction with this id, and those that follow it.
 *
 *		SELECT t.id, t.issued_at, t.username,
 *			   [to_snapshot ($3) sees t] AND [IS_NOT_SEEN] AND [IS_NOT_OWN]
 *		  FROM poser_transaction AS t
 *		 WHERE t.id >= $5
 *		 ORDER BY t.id
 *
 * Another query is being run, so this one runs in a level of SPI of its own.
 */
static void
read_ahead(PoserChangeTransactions *transactions, int64 id)
{
	/* how many are read: more if the last ones were used */
	if (transactions->used * 2 >= transactions->read)
		transactions->ahead = Min(transactions->ahead * 2, MAX_AHEAD);
	else
		transactions->ahead = Max(transactions->ahead / 2, 1);
	transactions->read = 0;
	transactions->used = 0;
	if (transactions->hash->members + transactions->ahead > MAX_KEPT ||
		MemoryContextMemAllocated(transactions->context, false) > MAX_KEPT_BYTES)
		clear(transactions);

	SPI_connect();
	(void) poser_consumer_query(transactions->consumer,
								(PoserQuery) {
									.sql = transactions->sql,
									.cursor_options = CURSOR_OPT_GENERIC_PLAN | CURSOR_OPT_FAST_PLAN,
									.limit = transactions->ahead,
									.dest = &transactions->receiver},
								1, &id);
	SPI_finish();
}

/*
 * Begin to look up transactions of the consumer's open window.  The active snapshot is the
 * window's, and the table is locked.  The result is in the current memory context.
 */
PoserChangeTransactions *
poser_change_transactions(PoserConsumer *consumer, Oid relid)
{
	PoserChangeTransactions *result = palloc0(sizeof(PoserChangeTransactions));

	result->receiver = transaction_receiver;
	result->consumer = consumer;
	result->sql = psprintf("SELECT t.id, t.issued_at, t.username,\n"
						   "       pg_catalog.pg_visible_in_snapshot(t.xact, $3) AND " IS_NOT_SEEN " AND " IS_NOT_OWN "\n"
						   "  FROM %s AS t\n"
						   " WHERE t.id OPERATOR(pg_catalog.>=) $5\n"
						   " ORDER BY t.id",
						   poser_relation_name(relid));
	result->context = AllocSetContextCreate(CurrentMemoryContext, "poser transactions", ALLOCSET_DEFAULT_SIZES);
	result->ahead = 1;
	clear(result);
	return result;
}

/*
 * Returns the transaction with this id.  If there is no such transaction, "delivered" is
 * false.  The result is valid until the next call.
 */
const PoserChangeTransaction *
poser_change_transaction(PoserChangeTransactions *transactions, int64 id)
{
	PoserChangeTransaction *result = transactions_lookup(transactions->hash, id);

	if (result == NULL)
	{
		bool found;

		read_ahead(transactions, id);
		/* if it was not found, note that there is none */
		result = transactions_insert(transactions->hash, id, &found);
		if (!found)
		{
			result->delivered = false;
			result->used = false;
		}
	}
	if (!result->used)
	{
		result->used = true;
		transactions->used++;
	}
	return result;
}
