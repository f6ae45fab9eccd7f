/*
 * change.c
 *	  Delivering the changes of a window, and confirming them.
 *
 * Each version of a row is a change.  A query reads the versions after the last confirmed
 * change, in the order of change_id.  Those that are not in the window are left out, and
 * those that the consumer's own handler has made, see change_transaction.c.  The others
 * go straight into a tuplestore, with the row that was changed as jsonb, see payload.c.
 *
 * A client calls poser_datasync_changes() and, when it has done its work,
 * poser_datasync_confirm().  The invariant: changes that were delivered and not confirmed
 * are delivered again by the next call, in the same order.  poser_datasync_skip() confirms
 * one change without delivering it, and records this.
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
#include "utils/tuplestore.h"
#include "utils/typcache.h"

#include "datasync/datasync_internal.h"

PG_FUNCTION_INFO_V1(poser_datasync_changes);
PG_FUNCTION_INFO_V1(poser_datasync_confirm);
PG_FUNCTION_INFO_V1(poser_datasync_skip);

/*
 * The query for changes
 */

/*
 * Append a query for the changes of all tables for which the condition "where" is true.
 * It has a branch for each table, each in the order of change_id.  The payload is the
 * changed row as a record or, without "with_payload", null.
 *
 * The owner runs the query, so a key must be cast to text by the server's own code.  If
 * the cast may be a user's, the key is written by its type's output function instead.
 * For poser_widget:
 *
 *		(SELECT v.change_id, v.transaction_id, 'poser_widget'::name AS payload_type,
 *				v.uuid::text AS payload_key,
 *				v.operation_type = 2::int2 AS deletion,
 *				(payload.*)::record AS payload
 *		   FROM poser_widget_version AS v,
 *				LATERAL (SELECT v.uuid, v.description, v.active) AS payload
 *		  WHERE [where]
 *		  ORDER BY v.change_id)
 *
 * Columns of the version table that the table does not have are not in the payload.
 * The key of a table with several key columns is jsonb_build_array(v.a, v.b)::text.
 */
static void
append_changes(StringInfo sql, const PoserVersioned *tables, const char *where, bool with_payload)
{
	for (int i = 0; i < POSER_VERSIONED_TABLES; i++)
	{
		const PoserVersioned *versioned = &tables[i];
		const char *separator = "";

		appendStringInfo(sql,
						 "%s(SELECT v.change_id, v.transaction_id, %s::pg_catalog.name AS payload_type,\n"
						 "        ",
						 i == 0 ? "" : "\n UNION ALL\n ",
						 quote_literal_cstr(get_rel_name(versioned->relid)));

		/* the key */
		if (versioned->nkeys > 1)
			appendStringInfoString(sql, "pg_catalog.jsonb_build_array(");
		for (int j = 0; j < versioned->nkeys; j++)
		{
			bool castable = poser_has_system_casts(get_atttype(versioned->versions, versioned->keys[j]));

			appendStringInfo(sql, castable ? "%sv.%s" : "%spg_catalog.format('%%s', v.%s)",
							 j == 0 ? "" : ", ",
							 quote_identifier(get_attname(versioned->versions, versioned->keys[j], false)));
		}
		appendStringInfo(sql,
						 "%s::pg_catalog.text AS payload_key,\n"
						 "        v.operation_type OPERATOR(pg_catalog.=) 2::pg_catalog.int2 AS deletion,\n"
						 "        %s AS payload\n"
						 "   FROM %s AS v,\n"
						 "        LATERAL (SELECT ",
						 versioned->nkeys > 1 ? ")" : "",
						 with_payload ? "(payload.*)::pg_catalog.record" : "NULL::pg_catalog.record",
						 poser_relation_name(versioned->versions));

		/* the columns that the table and its versions have in common */
		for (int j = 0; j < versioned->natts; j++)
			if (versioned->source[j] != 0)
			{
				appendStringInfo(sql, "%sv.%s", separator,
								 quote_identifier(get_attname(versioned->versions, j + 1, false)));
				separator = ", ";
			}
		appendStringInfo(sql,
						 ") AS payload\n"
						 "  WHERE %s\n"
						 "  ORDER BY v.change_id)",
						 where);
	}
}

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
 * As poser_begin_reading(), for a query that returns changes.  Under these settings joins
 * keep the order of change_id, so that the first rows come without a sort of the window.
 * And the text of a value does not depend on the session's settings.  The level that is
 * returned ends all of these settings.
 */
static int
begin_delivery(void)
{
	static const PoserSetting settings[] = {
		{"enable_nestloop", "on"},
		{"enable_hashjoin", "off"},
		{"enable_mergejoin", "off"},
		{"enable_sort", "off"},
		{"enable_material", "off"},
		{"jit", "off"},
		{"timezone", "UTC"},
		{"bytea_output", "hex"},
		{"lc_monetary", "C"},
		{"quote_all_identifiers", "off"},
		{"search_path", "pg_catalog, pg_temp"}};
	int level = poser_begin_reading();

	(void) poser_begin_text_settings();
	(void) poser_begin_settings(settings, lengthof(settings));
	return level;
}

/*
 * Receiving its rows
 */

/* Receives changes from the executor and puts them into a tuplestore. */
typedef struct ChangeReceiver
{
	DestReceiver pub;
	Tuplestorestate *store;
	TupleDesc desc; /* of poser_change */
	int64 limit;	/* receive at most so many */
	Datum *values;	/* of one change */
	bool *nulls;
	PoserChangeTransactions *transactions;
	PoserPayload *payloads; /* in "context" */
	MemoryContext context;
	MemoryContext row; /* reset after each change */
	int64 first;	   /* the first and the last change_id received */
	int64 last;
	int64 n;
} ChangeReceiver;

/* The rStartup method: prepare to receive changes. */
static void
start_receiving(DestReceiver *self, int operation, TupleDesc typeinfo)
{
	ChangeReceiver *receiver = (ChangeReceiver *) self;

	receiver->context = CurrentMemoryContext;
	receiver->row = AllocSetContextCreate(CurrentMemoryContext, "poser payload", ALLOCSET_DEFAULT_SIZES);
	receiver->payloads = NULL;
	receiver->values = palloc0(receiver->desc->natts * sizeof(Datum));
	receiver->nulls = palloc(receiver->desc->natts * sizeof(bool));
	/* a user may have added columns to poser_change, and they are null */
	memset(receiver->nulls, true, receiver->desc->natts * sizeof(bool));
}

/*
 * The receiveSlot method: put a change, with its transaction and its payload as jsonb, into
 * the tuplestore.  Returns false if no more changes are wanted.
 */
static bool
receive_change(TupleTableSlot *slot, DestReceiver *self)
{
	ChangeReceiver *receiver = (ChangeReceiver *) self;
	MemoryContext old = MemoryContextSwitchTo(receiver->row);
	int payload = CHANGE_PAYLOAD - 1;
	const PoserChangeTransaction *transaction;

	/* leave it out if its transaction is not delivered */
	slot_getallattrs(slot);
	transaction = poser_change_transaction(receiver->transactions,
										   DatumGetInt64(slot->tts_values[CHANGE_TRANSACTION - 1]));
	if (!transaction->delivered)
	{
		MemoryContextSwitchTo(old);
		return true;
	}

	memcpy(receiver->values, slot->tts_values, CHANGE_COLUMNS * sizeof(Datum));
	memcpy(receiver->nulls, slot->tts_isnull, CHANGE_COLUMNS * sizeof(bool));
	receiver->values[CHANGE_ISSUED_AT - 1] = transaction->issued_at;
	receiver->nulls[CHANGE_ISSUED_AT - 1] = transaction->issued_at_isnull;
	receiver->values[CHANGE_USERNAME - 1] = transaction->username;
	receiver->nulls[CHANGE_USERNAME - 1] = transaction->username_isnull;
	receiver->last = DatumGetInt64(receiver->values[CHANGE_ID - 1]);
	if (receiver->n++ == 0)
		receiver->first = receiver->last;
	if (!receiver->nulls[payload])
	{
		Datum record = receiver->values[payload];

		receiver->values[payload] = poser_payload_make(&receiver->payloads, receiver->context, record);
	}
	tuplestore_putvalues(receiver->store, receiver->desc, receiver->values, receiver->nulls);
	MemoryContextSwitchTo(old);
	MemoryContextReset(receiver->row);
	return receiver->n < receiver->limit;
}

/* The rShutdown and rDestroy methods, which have nothing to do. */
static void
stop_receiving(DestReceiver *self)
{
}

static const DestReceiver change_receiver = {
	receive_change, start_receiving, stop_receiving, stop_receiving, DestTuplestore};

/* Returns the row type of poser_change.  Raises an error if its columns do not have their types. */
TupleDesc
poser_change_desc(PoserConsumer *consumer)
{
	static const Oid types[CHANGE_COLUMNS] = {INT8OID, INT8OID, TIMESTAMPTZOID, TEXTOID, NAMEOID, TEXTOID, BOOLOID, JSONBOID};
	Oid relid = poser_relation_by_name("poser_change", consumer->nspid);
	TupleDesc result = lookup_rowtype_tupdesc_copy(get_rel_type_id(relid), -1);

	/* a dropped column stays in the descriptor, so there are enough; poser_check_type() raises an error for it */
	Assert(result->natts >= lengthof(types));
	for (int i = 0; i < lengthof(types); i++)
		poser_check_type(NULL, result, i + 1, types[i]);
	return result;
}

/*
 * Give the next changes of the open window to the receiver, which leaves out those that
 * are not delivered, and stops when it has enough.
 *
 *		SELECT v.change_id, v.transaction_id, NULL::timestamptz AS issued_at, NULL::text AS username,
 *			   v.payload_type, v.payload_key, v.deletion, v.payload
 *		  FROM ([append_changes(): changes after "confirmed" ($1), up to "last_change" ($2)]) AS v
 *		 ORDER BY v.change_id
 *
 * The plan is a generic one for all windows, and returns its first rows soon.
 */
static void
read_window(PoserConsumer *consumer, const PoserVersioned *tables, ChangeReceiver *receiver, bool with_payload)
{
	const Oid argtypes[] = {INT8OID, INT8OID};
	const Datum values[] = {Int64GetDatum(consumer->confirmed), Int64GetDatum(consumer->last_change)};
	StringInfoData sql;
	int level;

	initStringInfo(&sql);
	appendStringInfoString(&sql,
						   "SELECT v.change_id, v.transaction_id,\n"
						   "       NULL::pg_catalog.timestamptz AS issued_at, NULL::pg_catalog.text AS username,\n"
						   "       v.payload_type, v.payload_key, v.deletion, v.payload\n"
						   "  FROM (");
	append_changes(&sql, tables,
				   "v.change_id OPERATOR(pg_catalog.>) $1 AND v.change_id OPERATOR(pg_catalog.<=) $2",
				   with_payload);
	appendStringInfoString(&sql, ") AS v\n ORDER BY v.change_id");
	receiver->transactions = poser_change_transactions(consumer, tables[0].transactions);

	/* run it under settings of its own */
	level = begin_delivery();
	poser_run(&(PoserQuery) {
		.sql = sql.data,
		.nargs = lengthof(argtypes),
		.argtypes = argtypes,
		.values = values,
		.read_only = true,
		.cursor_options = CURSOR_OPT_GENERIC_PLAN | CURSOR_OPT_FAST_PLAN,
		.dest = &receiver->pub,
	});
	AtEOXact_GUC(true, level);
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
	PoserVersioned tables[POSER_VERSIONED_TABLES];
	ChangeReceiver receiver = {.pub = change_receiver, .store = store, .limit = limit, .desc = poser_change_desc(consumer)};
	Oid transactions = poser_relation_by_name("poser_transaction", consumer->nspid);
	bool described = false;

	/* poser_window_open() reads this table before it describes the history */
	poser_lock_to_read(&transactions, 1);
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		if (!poser_window_is_open(consumer))
		{
			if (!poser_window_open(consumer, tables))
				return 0;
		}
		else if (!described)
			poser_describe_history(tables, consumer->nspid);
		described = true;

		read_window(consumer, tables, &receiver, with_payload);
		if (receiver.n > 0)
			break;
		/* the rest of the window has only the handler's own changes, so go on with the next window */
		poser_window_close(consumer);
		poser_consumer_renew_snapshot();
	}

	/* these are the last changes of the window: a confirmation of the last one closes the window */
	if (receiver.n < limit && consumer->last_change != receiver.last)
	{
		consumer->last_change = receiver.last;
		consumer->changed = true;
	}
	*first = receiver.first;
	*last = receiver.last;
	return receiver.n;
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
 * Returns the greatest change_id that may have been pruned, or 0.  A newer snapshot may
 * replace the active one, see poser_lock_to_read().
 */
static int64
last_pruned_change(Oid nspid)
{
	Oid horizon = poser_relation_by_name("poser_version_horizon", nspid);

	poser_lock_to_read(&horizon, 1);
	poser_run(&(PoserQuery) {
		.sql = psprintf("SELECT pg_catalog.max(change_id) FROM %s", poser_relation_name(horizon)),
		.read_only = true,
	});
	return poser_result_int64(1, NULL);
}

/*
 * Returns true if the change was delivered and is not confirmed, and false if it is
 * confirmed.  Raises an error if it was not delivered.
 *
 *		SELECT [the position sees t], [to_snapshot ($3) sees t]
 *		  FROM (SELECT transaction_id FROM poser_widget_version WHERE change_id = $5
 *				UNION ALL SELECT transaction_id FROM poser_component_version WHERE change_id = $5) AS v
 *			   JOIN poser_transaction AS t ON t.id = v.transaction_id
 *		 WHERE [IS_NOT_OWN]
 */
static bool
is_delivered(PoserConsumer *consumer, int64 change_id)
{
	PoserVersioned tables[POSER_VERSIONED_TABLES];
	StringInfoData sql;
	bool found;
	bool is_seen = false;
	bool is_in_window = false;
	bool confirmed;

	/* usually a client confirms the last change that was delivered */
	if (poser_window_is_open(consumer) && change_id == consumer->delivered && change_id > consumer->confirmed)
		return true;

	/* otherwise look the change up in the history */
	poser_describe_history(tables, consumer->nspid);
	initStringInfo(&sql);
	appendStringInfoString(&sql,
						   "SELECT NOT " IS_NOT_SEEN ",\n"
						   "       COALESCE(pg_catalog.pg_visible_in_snapshot(t.xact, $3), false)\n"
						   "  FROM (");
	for (int i = 0; i < POSER_VERSIONED_TABLES; i++)
		appendStringInfo(&sql, "%sSELECT transaction_id FROM %s WHERE change_id OPERATOR(pg_catalog.=) $5",
						 i == 0 ? "" : "\n        UNION ALL ", poser_relation_name(tables[i].versions));
	appendStringInfo(&sql,
					 ") AS v\n"
					 "       JOIN %s AS t ON t.id OPERATOR(pg_catalog.=) v.transaction_id\n"
					 " WHERE " IS_NOT_OWN,
					 poser_relation_name(tables[0].transactions));
	found = poser_consumer_query(consumer, (PoserQuery) {.sql = sql.data}, 1, &change_id) > 0;
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
		is_seen = change_id > 0 && change_id <= last_pruned_change(consumer->nspid);

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
