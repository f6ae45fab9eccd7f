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
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "datasync/datasync_internal.h"
#include "datasync/datasync.h"

PG_FUNCTION_INFO_V1(poser_datasync_pending);

/* The setting poser.datasync_stale_after, in seconds. */
static int stale_after;

/*
 * Returns the number of the consumer's pending changes that the active snapshot sees.  If
 * there are any, *oldest is the earliest time of their transactions, and *transaction_id
 * is the least id of these.  The caller acts as the owner, and has described and locked
 * the tables.
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
static int64
count_pending(PoserConsumer *consumer, const PoserVersioned *tables, TimestampTz *oldest, int64 *transaction_id)
{
	StringInfoData sql;
	struct varlena *last_snapshot = poser_window_is_open(consumer) ? consumer->to : consumer->from;
	int64 after = consumer->confirmed;
	int64 result;
	int level;
	bool isnull;

	/*
	 * Find $5.  Pending changes of an open window come after "confirmed".  All others come
	 * after the id of the first transaction that the last snapshot does not see.  Without a
	 * snapshot all come after "confirmed".
	 */
	if (last_snapshot != NULL)
	{
		int64 first = poser_first_unseen_transaction(consumer->nspid, last_snapshot, NULL);

		if (first == 0 && !poser_window_is_open(consumer))
			return 0;
		if (!poser_window_is_open(consumer) || (first > 0 && first < after))
			after = first;
	}

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT pg_catalog.count(*), pg_catalog.min(t.issued_at), pg_catalog.min(t.id)\n  FROM (");
	for (int i = 0; i < POSER_VERSIONED_TABLES; i++)
		appendStringInfo(&sql,
						 "%sSELECT change_id, transaction_id FROM %s\n"
						 "         WHERE change_id OPERATOR(pg_catalog.>) $5",
						 i == 0 ? "" : "\n        UNION ALL\n        ", poser_relation_name(tables[i].versions));
	appendStringInfo(&sql,
					 ") AS v\n"
					 "       JOIN %s AS t ON t.id OPERATOR(pg_catalog.=) v.transaction_id\n"
					 " WHERE " IS_NOT_SEEN "\n"
					 "   AND ($3 IS NULL OR v.change_id OPERATOR(pg_catalog.>) $6\n"
					 "        OR NOT pg_catalog.pg_visible_in_snapshot(t.xact, $3))\n"
					 "   AND " IS_NOT_OWN,
					 poser_relation_name(tables[0].transactions));
	/* no plan is kept, because the best plan depends on these values: there may be millions of pending changes, or none */
	level = poser_begin_reading();
	(void) poser_consumer_query(consumer,
								(PoserQuery) {.sql = sql.data, .once = true, .cursor_options = CURSOR_OPT_PARALLEL_OK},
								2, (int64[]) {after, consumer->confirmed});
	AtEOXact_GUC(true, level);
	result = poser_result_int64(1, NULL);
	if (result > 0)
	{
		*oldest = DatumGetTimestampTz(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull));
		*transaction_id = poser_result_int64(3, NULL);
	}
	return result;
}

/*
 * poser_datasync_pending(consumer name) returns record
 *
 * The view poser_datasync_status calls this function for each consumer.  The caller needs
 * the privilege to read a column of the view.
 */
Datum
poser_datasync_pending(PG_FUNCTION_ARGS)
{
	PoserVersioned tables[POSER_VERSIONED_TABLES];
	PoserConsumer consumer;
	Datum values[5];
	bool isnull[5] = {false, true, true, false, true};
	TupleDesc desc;
	Snapshot snapshot = GetActiveSnapshot();
	Oid status;
	TimestampTz oldest;
	int64 pending;
	int64 transaction_id;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");

	/* a privilege on the view is enough, and so is one on a column of the view */
	poser_consumer_init(&consumer, PG_GETARG_NAME(0), poser_consumer_table(fcinfo));
	status = poser_relation_by_name("poser_datasync_status", consumer.nspid);
	if (!poser_is_owner(consumer.relid, GetUserId()) &&
		pg_class_aclcheck(status, GetUserId(), ACL_SELECT) != ACLCHECK_OK &&
		pg_attribute_aclcheck_all(status, GetUserId(), ACL_SELECT, ACLMASK_ANY) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_VIEW, "poser_datasync_status");

	/* count with the snapshot of the calling query, so that all rows of the view are consistent */
	poser_consumer_become_owner(&consumer);
	PushActiveSnapshot(snapshot);
	poser_lock_to_read(&consumer.relid, 1);
	poser_consumer_read(&consumer, false);
	poser_describe_history(tables, consumer.nspid);
	pending = count_pending(&consumer, tables, &oldest, &transaction_id);
	PopActiveSnapshot();
	poser_consumer_become_caller(&consumer);

	/* the result: pending, oldest, age, stale, transaction_id */
	values[0] = Int64GetDatum(pending);
	values[3] = BoolGetDatum(false);
	if (pending > 0)
	{
		TimestampTz now = GetCurrentTimestamp();

		values[1] = TimestampTzGetDatum(oldest);
		values[2] = DirectFunctionCall2(timestamp_mi, TimestampTzGetDatum(now), TimestampTzGetDatum(oldest));
		values[3] = BoolGetDatum(now - oldest > (int64) stale_after * USECS_PER_SEC);
		values[4] = Int64GetDatum(transaction_id);
		memset(isnull, false, sizeof(isnull));
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, isnull)));
}

/*
 * Does this transaction have a change that the consumer gets?  Only the next changes after
 * the transaction's id are searched, so false can also mean that its changes come later.
 *
 *		SELECT
 *		  FROM poser_transaction AS t
 *		 WHERE t.id = $5 AND [IS_NOT_OWN]
 *		   AND ($5 = ANY (ARRAY(SELECT transaction_id FROM poser_widget_version
 *								 WHERE change_id > $5 ORDER BY change_id LIMIT 100))
 *				OR $5 = ANY (ARRAY([the same for poser_component_version])))
 */
static bool
has_change_soon(PoserConsumer *consumer, const PoserVersioned *tables, int64 transaction_id)
{
	StringInfoData sql;
	bool result;
	int level;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT\n  FROM %s AS t\n WHERE t.id OPERATOR(pg_catalog.=) $5 AND " IS_NOT_OWN "\n   AND (",
					 poser_relation_name(tables[0].transactions));
	for (int i = 0; i < POSER_VERSIONED_TABLES; i++)
		appendStringInfo(&sql,
						 "%s$5 OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT transaction_id FROM %s\n"
						 "         WHERE change_id OPERATOR(pg_catalog.>) $5 ORDER BY change_id LIMIT 100))",
						 i == 0 ? "" : "\n        OR ", poser_relation_name(tables[i].versions));
	appendStringInfoString(&sql, ")");
	level = poser_begin_reading();
	result = poser_consumer_query(consumer, (PoserQuery) {.sql = sql.data}, 1, &transaction_id) > 0;
	AtEOXact_GUC(true, level);
	return result;
}

/*
 * Returns the least id of a transaction with pending changes of the consumer, or
 * PG_INT64_MAX.
 *
 * Between windows every transaction that the position does not see is pending.  The first
 * one of these is usually the result, and then the pending changes, which may be millions,
 * are not counted.  They are counted if it has no changes or the consumer's own, and while
 * a window is open.
 */
static int64
first_pending_transaction(PoserConsumer *consumer, const PoserVersioned *tables)
{
	TimestampTz oldest;
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
			.sql = psprintf("SELECT pg_catalog.min(id) FROM %s", poser_relation_name(tables[0].transactions)),
			.read_only = true,
		});
		result = poser_result_int64(1, NULL);
	}
	if (result > 0 && has_change_soon(consumer, tables, result))
		return result;
	return count_pending(consumer, tables, &oldest, &result) > 0 ? result : PG_INT64_MAX;
}

/*
 * The function in poser_first_needed_hook, see versions.h.  Returns the least id of a
 * transaction with pending changes of a consumer, or PG_INT64_MAX.
 */
static int64
first_needed(Oid nspid, Oid target)
{
	PoserVersioned tables[POSER_VERSIONED_TABLES];
	Oid relid;
	SPITupleTable *consumers;
	int64 result = PG_INT64_MAX;
	char *sql;

	poser_versioned_describe_all(tables, nspid);
	relid = poser_consumer_table_beside(tables[0].transactions);
	if (!OidIsValid(relid))
		return result;

	/* with the latest snapshot, because a consumer may have been added since the transaction's snapshot */
	LockRelationOid(relid, AccessShareLock);
	PushActiveSnapshot(GetLatestSnapshot());
	sql = psprintf("SELECT consumer FROM %s", poser_relation_name(relid));
	poser_run(&(PoserQuery) {.sql = sql, .read_only = true});
	consumers = SPI_tuptable;
	for (uint64 i = 0; i < consumers->numvals; i++)
	{
		PoserConsumer consumer;
		bool isnull;

		CHECK_FOR_INTERRUPTS();
		poser_check_type(NULL, consumers->tupdesc, 1, NAMEOID);
		poser_consumer_init(&consumer, DatumGetName(SPI_getbinval(consumers->vals[i], consumers->tupdesc, 1, &isnull)), relid);
		poser_consumer_read(&consumer, false);
		result = Min(result, first_pending_transaction(&consumer, tables));
	}
	PopActiveSnapshot();
	return result;
}

/* Define the setting and set the hook, when the module is loaded. */
void
poser_pending_init(void)
{
	DefineCustomIntVariable("poser.datasync_stale_after",
							"How old a change must be for a consumer that has not confirmed it to be stale.",
							"In poser_datasync_status and poser_datasync_stale().",
							&stale_after, 3600, 0, INT_MAX, PGC_USERSET, GUC_UNIT_S,
							NULL, NULL, NULL);
	poser_first_needed_hook = first_needed;
}
