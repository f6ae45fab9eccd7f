/*
 * change.c
 *	  Delivering the changes of a window, and confirming them.
 *
 * A client calls poser_datasync_changes() and, when it has done its work,
 * poser_datasync_confirm().  change_read.c reads the changes.  The invariant: changes that
 * were delivered and not confirmed are delivered again by the next call, in the same order.
 * poser_datasync_skip() confirms one change without delivering it, and records this.
 *
 * Comments show SQL statements without the schemas of relations and functions, and with
 * plain operators instead of OPERATOR(pg_catalog...).  A part in brackets is described
 * only.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "tcop/dest.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"
#include "utils/typcache.h"

#include "datasync/datasync_internal.h"

PG_FUNCTION_INFO_V1(poser_datasync_changes);
PG_FUNCTION_INFO_V1(poser_datasync_confirm);
PG_FUNCTION_INFO_V1(poser_datasync_skip);

/*
 * Run a query with the parameters $1 to $4 of IS_NOT_OWN and IS_NOT_SEEN, and with "nmore"
 * further ones of type bigint.  "query" has all but the parameters.  The query reads with the
 * active snapshot.  Returns how many rows it gave.
 *
 * If the consumer also gets the changes of its own handler, $1 is the empty name, so that
 * no transaction counts as the handler's.
 */
uint64
poser_consumer_query(PoserConsumer *consumer, PoserQuery query, int nmore, const int64 *more)
{
	static NameData empty;
	const Oid argtypes[] = {NAMEOID, PG_SNAPSHOTOID, PG_SNAPSHOTOID, INT8OID, INT8OID, INT8OID};
	Datum values[lengthof(argtypes)];
	char nulls[] = "      ";

	Assert(4 + nmore <= lengthof(argtypes));
	values[0] = NameGetDatum(consumer->own_changes ? &empty : consumer->name);
	poser_snapshot_parameter(consumer->from, &values[1], &nulls[1]);
	poser_snapshot_parameter(consumer->to, &values[2], &nulls[2]);
	values[3] = Int64GetDatum(consumer->own_after);
	for (int i = 0; i < nmore; i++)
		values[4 + i] = Int64GetDatum(more[i]);
	query.nargs = 4 + nmore;
	query.argtypes = argtypes;
	query.values = values;
	query.nulls = nulls;
	query.read_only = true;
	return poser_run(&query);
}

/*
 * Returns an empty tuplestore for changes.  Its rows are in a generation context below
 * "parent", where they follow each other without gaps.  Before version 17 each row takes a
 * power of two otherwise.  So more changes have room in work_mem, before the tuplestore
 * goes to disk.
 */
Tuplestorestate *
poser_change_store(MemoryContext parent, bool random_access)
{
	MemoryContext old = MemoryContextSwitchTo(GenerationContextCreate(parent, "poser changes", ALLOCSET_DEFAULT_SIZES));
	Tuplestorestate *result = tuplestore_begin_heap(random_access, false, work_mem);

	MemoryContextSwitchTo(old);
	return result;
}

/*
 * Put the next changes of the consumer into the store, at most "limit" of them.  Returns
 * how many; *first and *last are the change_ids of the first and the last one.  The next
 * changes are the unconfirmed changes of the open window.  If no window is open, or if no
 * such change is left, the next window is opened.
 *
 * The caller acts as the owner.  Afterwards it notes which changes are delivered, by
 * poser_window_deliver(), and saves the consumer.
 */
int64
poser_fetch_changes(PoserConsumer *consumer, Tuplestorestate *store, int64 limit, bool with_payload, int64 *first, int64 *last)
{
	int64 n;

	/* an error if a table of the consumer is gone, even if there is nothing new */
	poser_feed_check(consumer);

	/* the transactions are read before the tables that have changed are locked */
	(void) poser_lock_transactions(consumer->nspid);
	for (;;)
	{
		List *changed;

		CHECK_FOR_INTERRUPTS();
		if (poser_window_is_open(consumer))
			changed = poser_window_changed(consumer);
		else if (!poser_window_open(consumer, &changed))
			return 0;

		n = poser_read_window(consumer, changed, store, limit, with_payload, first, last);
		if (n > 0)
			break;
		/* the rest of the window has only the handler's own changes, so go on with the next window */
		poser_window_close(consumer);
		poser_consumer_renew_snapshot();
	}

	/* these are the last changes of the window: a confirmation of the last one closes the window */
	if (n < limit && consumer->last_change != *last)
	{
		consumer->last_change = *last;
		consumer->changed = true;
	}
	return n;
}

/*
 * Functions for clients
 */

/* Returns the argument max_changes, the second one of a function. */
int64
poser_max_changes_argument(FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(1) || PG_GETARG_INT32(1) < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_changes must be at least 1")));
	return PG_GETARG_INT32(1);
}

/*
 * poser_datasync_changes(consumer name, max_changes integer)
 * returns setof poser_change
 */
Datum
poser_datasync_changes(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	PoserConsumer consumer;
	int64 limit;
	int64 first;
	int64 last;

	poser_consumer_from_argument(&consumer, fcinfo, "poser_datasync_changes()");
	limit = poser_max_changes_argument(fcinfo);

	/* the result is a tuplestore, which replaces the one that is made here */
	InitMaterializedSRF(fcinfo, 0);
	tuplestore_end(rsinfo->setResult);
	rsinfo->setResult = poser_change_store(rsinfo->econtext->ecxt_per_query_memory,
										   (rsinfo->allowedModes & SFRM_Materialize_Random) != 0);

	poser_consumer_open(&consumer, false);
	if (poser_fetch_changes(&consumer, rsinfo->setResult, limit, true, &first, &last) > 0)
		poser_window_deliver(&consumer, last);
	poser_consumer_save(&consumer);
	poser_consumer_become_caller(&consumer);
	return (Datum) 0;
}

/*
 * Returns whether a change with this id may have been pruned.  A newer snapshot may replace
 * the active one, see poser_lock_to_read().
 */
static bool
may_be_pruned(PoserConsumer *consumer, List *tables, int64 change_id)
{
	Oid horizon = poser_relation_by_name("poser_version_horizon", consumer->nspid);
	ListCell *lc;

	if (change_id <= 0)
		return false;
	poser_lock_to_read(&horizon, 1);
	poser_run(&(PoserQuery) {
		.sql = psprintf("SELECT pg_catalog.max(change_id) FROM %s", poser_relation_name(horizon)),
		.read_only = true,
	});
	if (change_id <= poser_result_int64(1, NULL))
		return true;
	foreach(lc, tables)
	{
		const PoserFeedTable *table = lfirst(lc);

		if (change_id <= poser_feed_pruned(table))
			return true;
	}
	return false;
}

/*
 * Returns the id of the transaction of a change in one of these tables, or 0 if none of them
 * has it.  Reads with the active snapshot, which a newer one may replace.
 *
 *		SELECT transaction_id FROM poser_widget_version WHERE change_id = $1
 */
static int64
find_transaction(PoserConsumer *consumer, List *tables, int64 change_id)
{
	const Oid argtypes[] = {INT8OID};
	const Datum values[] = {Int64GetDatum(change_id)};
	ListCell *lc;

	foreach(lc, tables)
	{
		PoserFeedTable *table = lfirst(lc);
		List *candidate = list_make1(table);
		PoserVersioned versioned;
		Oid rewritten;
		int64 found;
		char *sql;
		uint64 n;
		int level;

		CHECK_FOR_INTERRUPTS();
		if (poser_feed_look(table, SnapshotAny, ForwardScanDirection, change_id - 1, &found) && found != change_id)
			continue;
		rewritten = poser_feed_lock(consumer, &candidate);
		if (OidIsValid(rewritten))
		{
			/* in REPEATABLE READ and SERIALIZABLE there is no newer snapshot, and this is an error */
			poser_consumer_renew_snapshot();
			if (get_rel_name(rewritten) != NULL)
				poser_check_rewritten(rewritten, GetActiveSnapshot());
		}
		if (candidate == NIL)
			continue;
		poser_feed_describe(&versioned, consumer, table);
		level = poser_begin_reading();
		sql = psprintf("SELECT %s FROM %s WHERE %s OPERATOR(pg_catalog.=) $1",
					   quote_identifier(get_attname(versioned.versions, versioned.transaction_id, false)),
					   poser_relation_name(versioned.versions),
					   quote_identifier(get_attname(versioned.versions, versioned.change_id, false)));
		n = poser_feed_run(table,
						   &(PoserQuery) {
							   .sql = sql,
							   .nargs = lengthof(argtypes),
							   .argtypes = argtypes,
							   .values = values,
							   .read_only = true});
		AtEOXact_GUC(true, level);
		if (n > 0)
			return poser_result_int64(1, NULL);
	}
	return 0;
}

/*
 * Returns true if the change was delivered and is not confirmed, and false if it is
 * confirmed.  Raises an error if it was not delivered.
 *
 *		SELECT [the position sees t], [to_snapshot ($3) sees t]
 *		  FROM poser_transaction AS t
 *		 WHERE t.id = [the transaction of the change: $5] AND [IS_NOT_OWN]
 */
static bool
is_delivered(PoserConsumer *consumer, int64 change_id)
{
	Oid transactions;
	List *tables;
	char *problem = NULL;
	int64 transaction_id;
	bool found;
	bool is_seen = false;
	bool is_in_window = false;
	bool confirmed;

	/* usually a client confirms the last change that was delivered */
	if (poser_window_is_open(consumer) && change_id == consumer->delivered && change_id > consumer->confirmed)
		return true;

	/* otherwise look the change up in the history; a table that is gone is no error here */
	transactions = poser_lock_transactions(consumer->nspid);
	tables = poser_feed_tables(consumer, &problem, false);
	transaction_id = find_transaction(consumer, tables, change_id);
	found = transaction_id != 0 &&
			poser_consumer_query(consumer,
								 (PoserQuery) {.sql = psprintf("SELECT NOT " IS_NOT_SEEN ",\n"
															   "       COALESCE(pg_catalog.pg_visible_in_snapshot(t.xact, $3), false)\n"
															   "  FROM %s AS t\n"
															   " WHERE t.id OPERATOR(pg_catalog.=) $5 AND " IS_NOT_OWN,
															   poser_relation_name(transactions))},
								 1, &transaction_id) > 0;
	if (found)
	{
		HeapTuple tuple = SPI_tuptable->vals[0];
		TupleDesc desc = SPI_tuptable->tupdesc;
		bool isnull;

		is_seen = DatumGetBool(SPI_getbinval(tuple, desc, 1, &isnull));
		is_in_window = !is_seen && DatumGetBool(SPI_getbinval(tuple, desc, 2, &isnull));
	}
	else
		/* it may have been pruned, and then it was confirmed: pruning keeps unconfirmed changes */
		is_seen = may_be_pruned(consumer, tables, change_id);

	/* decide: delivered, confirmed, or neither */
	if (is_in_window && change_id > consumer->confirmed && change_id <= consumer->delivered)
		return true;

	/* after a restore there may be no snapshot, and the position is "confirmed" alone */
	confirmed = is_seen || (is_in_window && change_id <= consumer->confirmed) ||
				(found && consumer->from == NULL && !poser_window_is_open(consumer) && change_id <= consumer->confirmed);
	if (!confirmed)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("change %lld has not been delivered to consumer \"%s\"",
						(long long) change_id, NameStr(*consumer->name))));
	return false;
}

/*
 * poser_datasync_confirm(consumer name, change_id bigint)
 *
 * Confirms all changes that were delivered, up to this one.
 */
Datum
poser_datasync_confirm(PG_FUNCTION_ARGS)
{
	PoserConsumer consumer;

	poser_consumer_from_argument(&consumer, fcinfo, "poser_datasync_confirm()");
	poser_consumer_open(&consumer, false);
	/* a null is the greatest change_id of an empty result: then there is nothing to confirm */
	if (!PG_ARGISNULL(1))
	{
		if (is_delivered(&consumer, PG_GETARG_INT64(1)))
			poser_window_confirm(&consumer, PG_GETARG_INT64(1));
		poser_consumer_save(&consumer);
	}
	poser_consumer_become_caller(&consumer);
	PG_RETURN_VOID();
}

/*
 * poser_datasync_skip(consumer name, change_id bigint, reason text)
 *
 * Confirms the next change without delivering it.
 */
Datum
poser_datasync_skip(PG_FUNCTION_ARGS)
{
	const Oid argtypes[] = {NAMEOID, INT8OID, TEXTOID, TEXTOID, NAMEOID, TEXTOID};
	Datum values[lengthof(argtypes)];
	char nulls[] = "      ";
	PoserConsumer consumer;
	NameData role;
	Tuplestorestate *store;
	int64 first;
	int64 last;
	int64 change_id;
	char *sql;

	poser_consumer_from_argument(&consumer, fcinfo, "poser_datasync_skip()");
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("change_id must not be null")));
	if (PG_ARGISNULL(2) || VARSIZE_ANY_EXHDR(PG_GETARG_TEXT_PP(2)) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a reason must be given")));
	change_id = PG_GETARG_INT64(1);

	/*
	 * It must be the next change.  Two changes are fetched, to find out whether it is
	 * the last one of the window.  The payload is left out, because it may raise an error,
	 * and that error may be the reason to skip the change.
	 */
	poser_consumer_open(&consumer, false);
	store = tuplestore_begin_heap(false, false, work_mem);
	if (poser_fetch_changes(&consumer, store, 2, false, &first, &last) == 0 || first != change_id)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("change %lld is not the next one of consumer \"%s\"",
						(long long) change_id, NameStr(*consumer.name))));
	tuplestore_end(store);

	/* record it, with the handler's error if it has failed at this change */
	namestrcpy(&role, GetUserNameFromId(GetOuterUserId(), false));
	values[0] = NameGetDatum(consumer.name);
	values[1] = Int64GetDatum(change_id);
	values[2] = PG_GETARG_DATUM(2);
	values[3] = CStringGetTextDatum(poser_username());
	values[4] = NameGetDatum(&role);
	nulls[5] = 'n';
	if (consumer.failed_change == change_id && consumer.last_error != NULL)
	{
		values[5] = CStringGetTextDatum(consumer.last_error);
		nulls[5] = ' ';
	}
	sql = psprintf("INSERT INTO %s (consumer, change_id, reason, skipped_at, username, role_name, error)\n"
				   "VALUES ($1, $2, $3, pg_catalog.clock_timestamp(), $4, $5, $6)",
				   poser_datasync_relation_name(consumer.nspid, "poser_datasync_skipped"));
	poser_run(&(PoserQuery) {.sql = sql, .nargs = lengthof(argtypes), .argtypes = argtypes, .values = values, .nulls = nulls});

	poser_window_confirm(&consumer, change_id);
	poser_consumer_save(&consumer);
	poser_consumer_become_caller(&consumer);
	PG_RETURN_VOID();
}
