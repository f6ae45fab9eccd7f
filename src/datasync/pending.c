/*
 * pending.c
 *	  The changes that a consumer has not confirmed (pending changes).
 *
 * The view poser_datasync_status shows their number and age for each consumer.  Pruning
 * keeps them: it calls poser_first_needed_hook, which returns the first transaction that
 * a consumer still needs.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "executor/tstoreReceiver.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "datasync/datasync_internal.h"
#include "datasync/datasync.h"

PG_FUNCTION_INFO_V1(poser_datasync_pending);
PG_FUNCTION_INFO_V1(poser_datasync_problem);

/* The setting poser.datasync_stale_after, in seconds. */
static int stale_after;

/* What is known about a consumer's pending changes. */
typedef struct PoserPending
{
	int64 n;
	TimestampTz oldest;	  /* the earliest time of their transactions */
	int64 transaction_id; /* the least id of these */
} PoserPending;

/* Add a result of a query: the number, the earliest time and the least id. */
static void
add_pending(PoserPending *pending)
{
	int64 n = poser_result_int64(1, NULL);
	TimestampTz oldest;
	int64 transaction_id;
	bool isnull;

	if (n == 0)
		return;
	oldest = DatumGetTimestampTz(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull));
	transaction_id = poser_result_int64(3, NULL);
	if (pending->n == 0 || oldest < pending->oldest)
		pending->oldest = oldest;
	if (pending->n == 0 || transaction_id < pending->transaction_id)
		pending->transaction_id = transaction_id;
	pending->n += n;
}

/*
 * Add the pending changes of the extension's own tables.
 *
 *		SELECT count(*), min(t.issued_at), min(t.id)
 *		  FROM (SELECT change_id, transaction_id FROM poser_widget_version
 *				 WHERE change_id > $5
 *				UNION ALL
 *				SELECT change_id, transaction_id FROM poser_component_version
 *				 WHERE change_id > $5) AS v
 *			   JOIN poser_transaction AS t ON t.id = v.transaction_id
 *		 WHERE [IS_NOT_SEEN]
 *		   AND ([there is no to_snapshot ($3)] OR v.change_id > [confirmed: $6]
 *				OR NOT [to_snapshot sees t])
 *		   AND [IS_NOT_OWN]
 *
 * All pending changes have a greater change_id than $5, so an index finds them.
 */
static void
count_in_fixed_tables(PoserConsumer *consumer, List *tables, int64 after, PoserPending *pending)
{
	StringInfoData sql;
	ListCell *lc;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT pg_catalog.count(*), pg_catalog.min(t.issued_at), pg_catalog.min(t.id)\n  FROM (");
	foreach(lc, tables)
	{
		PoserVersioned versioned;

		/* an error if the columns are not those that the script has made */
		poser_feed_describe(&versioned, consumer, lfirst(lc));
		appendStringInfo(&sql,
						 "%sSELECT change_id, transaction_id FROM %s\n"
						 "         WHERE change_id OPERATOR(pg_catalog.>) $5",
						 lc == list_head(tables) ? "" : "\n        UNION ALL\n        ", poser_relation_name(versioned.versions));
	}
	appendStringInfo(&sql,
					 ") AS v\n"
					 "       JOIN %s AS t ON t.id OPERATOR(pg_catalog.=) v.transaction_id\n"
					 " WHERE " IS_NOT_SEEN "\n"
					 "   AND ($3 IS NULL OR v.change_id OPERATOR(pg_catalog.>) $6\n"
					 "        OR NOT pg_catalog.pg_visible_in_snapshot(t.xact, $3))\n"
					 "   AND " IS_NOT_OWN,
					 poser_datasync_relation_name(consumer->nspid, "poser_transaction"));

	/* no plan is kept, because the best plan depends on these values: there may be millions of pending changes, or none */
	(void) poser_consumer_query(consumer,
								(PoserQuery) {.sql = sql.data, .once = true, .cursor_options = CURSOR_OPT_PARALLEL_OK},
								2, (int64[]) {after, consumer->confirmed});
	add_pending(pending);
}

/*
 * Add the pending changes of another table.  Its owner may not read the transactions, so
 * two roles count.  First the owner of the versions counts the changes of each transaction:
 *
 *		SELECT transaction_id, count(*) AS changes, count(*) FILTER (WHERE change_id > $2) AS after
 *		  FROM customer_version
 *		 WHERE change_id > [after: $1]
 *		 GROUP BY transaction_id
 *
 * And then, with these rows as "counted", the owner of the extension:
 *
 *		SELECT sum(changes)::int8, min(t.issued_at), min(t.id)
 *		  FROM (SELECT t.id, t.issued_at,
 *					   CASE WHEN [there is no to_snapshot ($3)] OR NOT [to_snapshot sees t]
 *							THEN v.changes ELSE v.after END AS changes
 *				  FROM counted AS v JOIN poser_transaction AS t ON t.id = v.transaction_id
 *				 WHERE [IS_NOT_SEEN] AND [IS_NOT_OWN]) AS t
 *		 WHERE changes > 0
 */
static void
count_in_table(PoserConsumer *consumer, const PoserFeedTable *table, int64 after, PoserPending *pending)
{
	const Oid argtypes[] = {INT8OID, INT8OID};
	const Datum values[] = {Int64GetDatum(after), Int64GetDatum(consumer->confirmed)};
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "poser pending", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	TupleDesc desc = CreateTemplateTupleDesc(3);
	Tuplestorestate *store = tuplestore_begin_heap(true, false, work_mem);
	DestReceiver *dest = CreateDestReceiver(DestTuplestore);
	EphemeralNamedRelationData counted;
	PoserVersioned versioned;
	const char *change_id;
	const char *transaction_id;
	char *sql;

	TupleDescInitEntry(desc, 1, "transaction_id", INT8OID, -1, 0);
	TupleDescInitEntry(desc, 2, "changes", INT8OID, -1, 0);
	TupleDescInitEntry(desc, 3, "after", INT8OID, -1, 0);
	TupleDescFinalize(desc);
	SetTuplestoreDestReceiverParams(dest, store, context, false, NULL, NULL);
	poser_feed_describe(&versioned, consumer, table);
	change_id = quote_identifier(get_attname(versioned.versions, versioned.change_id, false));
	transaction_id = quote_identifier(get_attname(versioned.versions, versioned.transaction_id, false));
	sql = psprintf("SELECT %s, pg_catalog.count(*),\n"
				   "       pg_catalog.count(*) FILTER (WHERE %s OPERATOR(pg_catalog.>) $2)\n"
				   "  FROM %s\n"
				   " WHERE %s OPERATOR(pg_catalog.>) $1\n"
				   " GROUP BY %s",
				   transaction_id, change_id, poser_relation_name(versioned.versions), change_id, transaction_id);
	(void) poser_feed_run(table,
						  &(PoserQuery) {
							  .sql = sql,
							  .nargs = lengthof(argtypes),
							  .argtypes = argtypes,
							  .values = values,
							  .read_only = true,
							  .once = true,
							  .cursor_options = CURSOR_OPT_PARALLEL_OK,
							  .dest = dest});

	poser_register_rows(&counted, "counted", desc, store, tuplestore_tuple_count(store));
	(void) poser_consumer_query(consumer,
								(PoserQuery) {
									.sql = psprintf("SELECT COALESCE(pg_catalog.sum(t.changes), 0)::pg_catalog.int8,\n"
													"       pg_catalog.min(t.issued_at), pg_catalog.min(t.id)\n"
													"  FROM (SELECT t.id, t.issued_at,\n"
													"               CASE WHEN $3 IS NULL OR NOT pg_catalog.pg_visible_in_snapshot(t.xact, $3)\n"
													"                    THEN v.changes ELSE v.after END AS changes\n"
													"          FROM counted AS v\n"
													"               JOIN %s AS t ON t.id OPERATOR(pg_catalog.=) v.transaction_id\n"
													"         WHERE " IS_NOT_SEEN " AND " IS_NOT_OWN ") AS t\n"
													" WHERE t.changes OPERATOR(pg_catalog.>) 0",
													poser_datasync_relation_name(consumer->nspid, "poser_transaction")),
									.once = true},
								0, NULL);
	add_pending(pending);
	SPI_unregister_relation("counted");
	dest->rDestroy(dest);
	tuplestore_end(store);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/*
 * Lock the tables that may have changes after this one.  If one was rewritten since the
 * active snapshot was taken, a newer snapshot replaces it.  With "latest" this is the latest
 * one, and otherwise it is as in poser_lock_to_read().
 */
static List *
lock_changed(PoserConsumer *consumer, List *tables, int64 after, bool latest)
{
	List *result = NIL;
	Oid rewritten;
	ListCell *lc;

	/* "greatest" is known already */
	foreach(lc, tables)
	{
		if (((PoserFeedTable *) lfirst(lc))->greatest > after)
			result = lappend(result, lfirst(lc));
	}
	rewritten = poser_feed_lock(consumer, &result);
	if (OidIsValid(rewritten))
	{
		PopActiveSnapshot();
		PushActiveSnapshot(latest ? GetLatestSnapshot() : GetTransactionSnapshot());
		if (!latest && get_rel_name(rewritten) != NULL)
			poser_check_rewritten(rewritten, GetActiveSnapshot());
	}
	return result;
}

/*
 * Count the consumer's pending changes that the active snapshot sees, in these tables, for
 * which poser_feed_changed() was called.  The caller acts as the owner.  A newer snapshot
 * may replace the active one, see lock_changed().
 */
static PoserPending
count_pending(PoserConsumer *consumer, List *tables, bool latest)
{
	struct varlena *last_snapshot = poser_window_is_open(consumer) ? consumer->to : consumer->from;
	int64 after = consumer->confirmed;
	PoserPending result = {0};
	List *fixed = NIL;
	List *changed;
	ListCell *lc;
	int level;

	/*
	 * Find "after".  Pending changes of an open window come after "confirmed".  All others
	 * come after the id of the first transaction that the last snapshot does not see.
	 * Without a snapshot all come after "confirmed".
	 */
	if (last_snapshot != NULL)
	{
		int64 first = poser_first_unseen_transaction(consumer->nspid, last_snapshot, NULL);

		if (first == 0 && !poser_window_is_open(consumer))
			return result;
		if (!poser_window_is_open(consumer) || (first > 0 && first < after))
			after = first;
	}

	changed = lock_changed(consumer, tables, after, latest);
	level = poser_begin_reading();
	foreach(lc, changed)
	{
		PoserFeedTable *table = lfirst(lc);

		CHECK_FOR_INTERRUPTS();
		if (!OidIsValid(table->tracked.binding))
			fixed = lappend(fixed, table);
		else
			count_in_table(consumer, table, after, &result);
	}
	if (fixed != NIL)
		count_in_fixed_tables(consumer, fixed, after, &result);
	AtEOXact_GUC(true, level);
	return result;
}

/*
 * Begin to read a consumer's row for the view poser_datasync_status, as the owner.  The
 * caller needs the privilege to read a column of the view.  The active snapshot stays the
 * caller's, so that all rows of the view are consistent.  Undone by PopActiveSnapshot() and
 * poser_consumer_become_caller().
 */
static void
open_for_status(PoserConsumer *consumer, FunctionCallInfo fcinfo)
{
	Snapshot snapshot = GetActiveSnapshot();

	poser_consumer_init(consumer, PG_GETARG_NAME(0), poser_consumer_table(fcinfo));
	/* a privilege on the view is enough, and so is one on a column of the view */
	if (!poser_is_owner(consumer->relid, GetUserId()))
	{
		Oid status = poser_relation_by_name("poser_datasync_status", consumer->nspid);

		if (pg_class_aclcheck(status, GetUserId(), ACL_SELECT) != ACLCHECK_OK &&
			pg_attribute_aclcheck_all(status, GetUserId(), ACL_SELECT, ACLMASK_ANY) != ACLCHECK_OK)
			aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_VIEW, "poser_datasync_status");
	}
	poser_consumer_become_owner(consumer);
	PushActiveSnapshot(snapshot);
	poser_lock_to_read(&consumer->relid, 1);
}

/*
 * poser_datasync_problem(consumer name) returns text
 *
 * Which of the consumer's tables it cannot get the changes of, and why; null if there is
 * none.  The view poser_datasync_status calls this function for each consumer.
 */
Datum
poser_datasync_problem(PG_FUNCTION_ARGS)
{
	PoserConsumer consumer;
	char *problem = NULL;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	open_for_status(&consumer, fcinfo);
	poser_consumer_read_tables(&consumer);
	(void) poser_feed_tables(&consumer, &problem, false);
	if (problem != NULL)
		problem = MemoryContextStrdup(consumer.context, problem);
	PopActiveSnapshot();
	poser_consumer_become_caller(&consumer);
	if (problem == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(problem));
}

/*
 * poser_datasync_pending(consumer name) returns record
 *
 * The view poser_datasync_status calls this function for each consumer.  A table that is gone
 * has no pending changes; poser_datasync_problem() names it.
 */
Datum
poser_datasync_pending(PG_FUNCTION_ARGS)
{
	PoserConsumer consumer;
	PoserPending pending;
	Datum values[5];
	bool isnull[5] = {false, true, true, false, true};
	TupleDesc desc;
	List *tables;
	char *problem = NULL;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");

	open_for_status(&consumer, fcinfo);
	poser_consumer_read(&consumer, false);
	(void) poser_lock_transactions(consumer.nspid);
	tables = poser_feed_tables(&consumer, &problem, false);
	(void) poser_feed_changed(tables, 0);
	pending = count_pending(&consumer, tables, false);
	PopActiveSnapshot();
	poser_consumer_become_caller(&consumer);

	/* the result: pending, oldest, age, stale, transaction_id */
	values[0] = Int64GetDatum(pending.n);
	values[3] = BoolGetDatum(false);
	if (pending.n > 0)
	{
		TimestampTz now = GetCurrentTimestamp();

		values[1] = TimestampTzGetDatum(pending.oldest);
		values[2] = DirectFunctionCall2(timestamp_mi, TimestampTzGetDatum(now), TimestampTzGetDatum(pending.oldest));
		values[3] = BoolGetDatum(now - pending.oldest > (int64) stale_after * USECS_PER_SEC);
		values[4] = Int64GetDatum(pending.transaction_id);
		memset(isnull, false, sizeof(isnull));
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, isnull)));
}

/* Is this transaction delivered to the consumer, and not made by its own handler? */
static bool
is_not_own(PoserConsumer *consumer, int64 transaction_id)
{
	char *sql = psprintf("SELECT FROM %s AS t WHERE t.id OPERATOR(pg_catalog.=) $5 AND " IS_NOT_OWN,
						 poser_datasync_relation_name(consumer->nspid, "poser_transaction"));

	return poser_consumer_query(consumer, (PoserQuery) {.sql = sql}, 1, &transaction_id) > 0;
}

/*
 * Does this transaction have a change that the consumer gets?  Only the next changes of each
 * table after the transaction's id are searched, so false can also mean that its changes
 * come later.  For a table:
 *
 *		SELECT FROM (SELECT transaction_id FROM poser_widget_version
 *					  WHERE change_id > $1 ORDER BY change_id LIMIT 100) AS v
 *		 WHERE v.transaction_id = $1
 */
static bool
has_change_soon(PoserConsumer *consumer, List *tables, int64 transaction_id)
{
	const Oid argtypes[] = {INT8OID};
	const Datum values[] = {Int64GetDatum(transaction_id)};
	bool result = false;
	ListCell *lc;
	int level = poser_begin_reading();

	if (is_not_own(consumer, transaction_id))
		foreach(lc, lock_changed(consumer, tables, transaction_id, true))
		{
			PoserVersioned versioned;
			const char *change_id;
			const char *transaction;
			char *sql;

			CHECK_FOR_INTERRUPTS();
			poser_feed_describe(&versioned, consumer, lfirst(lc));
			change_id = quote_identifier(get_attname(versioned.versions, versioned.change_id, false));
			transaction = quote_identifier(get_attname(versioned.versions, versioned.transaction_id, false));
			sql = psprintf("SELECT FROM (SELECT %s AS transaction_id FROM %s\n"
						   "              WHERE %s OPERATOR(pg_catalog.>) $1 ORDER BY %s LIMIT 100) AS v\n"
						   " WHERE v.transaction_id OPERATOR(pg_catalog.=) $1",
						   transaction, poser_relation_name(versioned.versions), change_id, change_id);
			result = poser_feed_run(lfirst(lc),
									&(PoserQuery) {
										.sql = sql,
										.nargs = lengthof(argtypes),
										.argtypes = argtypes,
										.values = values,
										.read_only = true}) > 0;
			if (result)
				break;
		}
	AtEOXact_GUC(true, level);
	return result;
}

/*
 * Returns the least id of a transaction with pending changes of the consumer in these
 * tables, for which poser_feed_changed() was called, or PG_INT64_MAX.
 *
 * Between windows every transaction that the position does not see is pending.  The first
 * one of these is usually the result, and then the pending changes, which may be millions,
 * are not counted.  They are counted if it has no changes or the consumer's own, and while
 * a window is open.
 */
static int64
first_pending_transaction(PoserConsumer *consumer, List *tables)
{
	PoserPending pending;
	int64 result = 0;

	if (!poser_window_is_open(consumer) && consumer->from != NULL)
	{
		result = poser_first_unseen_transaction(consumer->nspid, consumer->from, NULL);
		if (result == 0)
			return PG_INT64_MAX;
	}
	else if (!poser_window_is_open(consumer) && consumer->confirmed == 0)
	{
		/* it is at the beginning */
		poser_run(&(PoserQuery) {
			.sql = psprintf("SELECT pg_catalog.min(id) FROM %s",
							poser_datasync_relation_name(consumer->nspid, "poser_transaction")),
			.read_only = true,
		});
		result = poser_result_int64(1, NULL);
	}
	if (result > 0 && has_change_soon(consumer, tables, result))
		return result;
	pending = count_pending(consumer, tables, true);
	return pending.n > 0 ? pending.transaction_id : PG_INT64_MAX;
}

/* Returns those of a consumer's tables that are this one. */
static List *
only_table(List *tables, Oid relid)
{
	List *result = NIL;
	ListCell *lc;

	foreach(lc, tables)
	{
		if (((PoserFeedTable *) lfirst(lc))->tracked.relid == relid)
			result = lappend(result, lfirst(lc));
	}
	return result;
}

/*
 * The function in poser_first_needed_hook, see versions.h.  Consumers without tables get the
 * same ones, so these are looked at once.
 */
static int64
first_needed(Oid nspid, Oid target)
{
	Oid transactions = poser_relation_by_name("poser_transaction", nspid);
	Oid relid = poser_consumer_table_beside(transactions);
	PoserTracked tracked;
	SPITupleTable *consumers;
	List *owned = NIL;
	bool is_known = false;
	int64 result = PG_INT64_MAX;
	PoserCaller caller;

	if (!OidIsValid(relid))
		return result;
	if (OidIsValid(target) && poser_tracked_find(target, nspid, &tracked))
		target = tracked.relid;

	/* with the latest snapshot, because a consumer may have been added since the transaction's snapshot */
	poser_become_owner(relid, &caller);
	(void) poser_lock_tree(transactions);
	PushActiveSnapshot(GetLatestSnapshot());
	poser_run(&(PoserQuery) {.sql = psprintf("SELECT consumer FROM %s", poser_relation_name(relid)), .read_only = true});
	consumers = SPI_tuptable;
	for (uint64 i = 0; i < consumers->numvals; i++)
	{
		PoserConsumer consumer;
		List *tables;
		char *problem = NULL;
		bool isnull;

		CHECK_FOR_INTERRUPTS();
		poser_check_type(NULL, consumers->tupdesc, 1, NAMEOID);
		poser_consumer_init(&consumer, DatumGetName(SPI_getbinval(consumers->vals[i], consumers->tupdesc, 1, &isnull)), relid);
		poser_consumer_read(&consumer, false);
		if (consumer.tables == NULL && is_known)
			tables = owned;
		else
		{
			/* a table that is not granted keeps its changes, too: it may be granted again */
			tables = poser_feed_tables(&consumer, &problem, true);
			if (OidIsValid(target))
				tables = only_table(tables, target);
			(void) poser_feed_changed(tables, 0);
		}
		if (consumer.tables == NULL)
		{
			owned = tables;
			is_known = true;
		}
		result = Min(result, first_pending_transaction(&consumer, tables));
	}
	PopActiveSnapshot();
	poser_become_caller(&caller);
	return result;
}

/*
 * The function in poser_untrack_hook, see versions.h.  Raises an error while a consumer has
 * not confirmed all changes of the table.
 */
static void
check_untrack(const PoserTracked *tracked, Oid nspid)
{
	int64 needed;

	SPI_connect();
	needed = first_needed(nspid, tracked->relid);
	SPI_finish();
	if (needed < PG_INT64_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("a consumer has not confirmed all changes of table \"%s\"", get_rel_name(tracked->relid)),
				 errhint("poser_datasync_status shows which consumers have pending changes.")));
}

/* Define the setting and set the hooks, when the module is loaded. */
void
poser_pending_init(void)
{
	DefineCustomIntVariable("poser.datasync_stale_after",
							"How old a change must be for a consumer that has not confirmed it to be stale.",
							"In poser_datasync_status and poser_datasync_stale().",
							&stale_after, 3600, 0, INT_MAX, PGC_USERSET, GUC_UNIT_S,
							NULL, NULL, NULL);
	poser_first_needed_hook = first_needed;
	poser_untrack_hook = check_untrack;
}
