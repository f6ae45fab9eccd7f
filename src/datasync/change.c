/*
 * change.c
 *	  Reading the changes of a window, and confirming them.
 */
#include "postgres.h"

#include "access/transam.h"
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

#include "datasync/consumer.h"

PG_FUNCTION_INFO_V1(poser_datasync_changes);
PG_FUNCTION_INFO_V1(poser_datasync_confirm);
PG_FUNCTION_INFO_V1(poser_datasync_skip);

/*
 * Are the casts of a type the system's?  Who owns another type may have made some,
 * which must not run with the owner's rights.
 */
static bool
is_cast_safely(Oid type)
{
	return getBaseType(type) < FirstNormalObjectId;
}

/*
 * Append a query for the changes of all tables, as poser_change has them, but
 * with the payload as a record, each with its condition "where", in the order of
 * change_id.  The payload can be left out.
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
		if (versioned->nkeys > 1)
			appendStringInfoString(sql, "pg_catalog.jsonb_build_array(");
		for (int j = 0; j < versioned->nkeys; j++)
			appendStringInfo(sql,
							 is_cast_safely(get_atttype(versioned->versions, versioned->keys[j])) ? "%sv.%s" : "%spg_catalog.format('%%s', v.%s)",
							 j == 0 ? "" : ", ",
							 quote_identifier(get_attname(versioned->versions, versioned->keys[j], false)));
		appendStringInfo(sql,
						 "%s::pg_catalog.text AS payload_key,\n"
						 "        v.operation_type OPERATOR(pg_catalog.=) 2::pg_catalog.int2 AS deletion,\n"
						 "        %s AS payload\n"
						 "   FROM %s AS v,\n"
						 "        LATERAL (SELECT ",
						 versioned->nkeys > 1 ? ")" : "",
						 with_payload ? "(payload.*)::pg_catalog.record" : "NULL::pg_catalog.record",
						 poser_relation_name(versioned->versions));
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

/* The values of $1 to $4; $1 is nobody, if he gets his own, too. */
void
poser_consumer_parameters(PoserConsumer *consumer, Datum *values, char *nulls)
{
	static NameData nobody;

	values[0] = NameGetDatum(consumer->own_changes ? &nobody : consumer->name);
	poser_snapshot_parameter(consumer->from, &values[1], &nulls[1]);
	poser_snapshot_parameter(consumer->to, &values[2], &nulls[2]);
	values[3] = Int64GetDatum(consumer->own_after);
}

/*
 * The same for what is to be shown: joins keep the order of change_id, and values
 * are written alike whatever the session's settings.  AtEOXact_GUC() of the level
 * that is returned ends all of it.
 */
static int
begin_showing(void)
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
 * What takes changes from the executor: into a tuplestore, with their payload as
 * jsonb, noting the first and the last.
 */
typedef struct ChangeReceiver
{
	DestReceiver pub;
	Tuplestorestate *store;
	TupleDesc desc; /* of poser_change */
	Datum *values;	/* of one */
	bool *nulls;
	PoserPayload *payloads;
	MemoryContext context; /* of the receiver */
	MemoryContext row;
	int64 first;
	int64 last;
	int64 n;
} ChangeReceiver;

/* The receiver's methods: before the first change, for each, and after the last */
static void
start_changes(DestReceiver *self, int operation, TupleDesc typeinfo)
{
	ChangeReceiver *receiver = (ChangeReceiver *) self;

	receiver->context = CurrentMemoryContext;
	receiver->row = AllocSetContextCreate(CurrentMemoryContext, "poser payload", ALLOCSET_DEFAULT_SIZES);
	receiver->payloads = NULL;
	receiver->values = palloc0(receiver->desc->natts * sizeof(Datum));
	receiver->nulls = palloc(receiver->desc->natts * sizeof(bool));
	/* columns that somebody has added stay null */
	memset(receiver->nulls, true, receiver->desc->natts * sizeof(bool));
}

static bool
receive_change(TupleTableSlot *slot, DestReceiver *self)
{
	ChangeReceiver *receiver = (ChangeReceiver *) self;
	MemoryContext old = MemoryContextSwitchTo(receiver->row);
	int payload = CHANGE_PAYLOAD - 1;

	slot_getallattrs(slot);
	memcpy(receiver->values, slot->tts_values, CHANGE_COLUMNS * sizeof(Datum));
	memcpy(receiver->nulls, slot->tts_isnull, CHANGE_COLUMNS * sizeof(bool));
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
	return true;
}

static void
end_changes(DestReceiver *self)
{
}

static const DestReceiver change_receiver = {
	receive_change, start_changes, end_changes, end_changes, DestTuplestore};

/* Read the next changes of the window. */
static void
read_window(PoserConsumer *consumer, const PoserVersioned *tables, ChangeReceiver *receiver, int64 limit,
			bool with_payload)
{
	const Oid argtypes[] = {NAMEOID, PG_SNAPSHOTOID, PG_SNAPSHOTOID, INT8OID, INT8OID, INT8OID};
	Datum values[lengthof(argtypes)];
	char nulls[] = "      ";
	StringInfoData sql;
	int level;

	initStringInfo(&sql);
	appendStringInfoString(&sql,
						   "SELECT v.change_id, v.transaction_id, t.issued_at, t.username,\n"
						   "       v.payload_type, v.payload_key, v.deletion, v.payload\n"
						   "  FROM (");
	append_changes(&sql, tables,
				   "v.change_id OPERATOR(pg_catalog.>) $5 AND v.change_id OPERATOR(pg_catalog.<=) $6",
				   with_payload);
	appendStringInfo(&sql,
					 ") AS v\n"
					 "       JOIN %s AS t ON t.id OPERATOR(pg_catalog.=) v.transaction_id\n"
					 " WHERE pg_catalog.pg_visible_in_snapshot(t.xact, $3)\n"
					 "   AND " NOT_BEFORE "\n"
					 "   AND " NOT_ITS_OWN "\n"
					 " ORDER BY v.change_id",
					 poser_relation_name(tables[0].transactions));

	poser_consumer_parameters(consumer, values, nulls);
	values[4] = Int64GetDatum(consumer->confirmed);
	values[5] = Int64GetDatum(consumer->last_change);

	level = begin_showing();
	poser_execute_for(&receiver->pub, sql.data, CURSOR_OPT_GENERIC_PLAN | CURSOR_OPT_FAST_PLAN,
					  lengthof(argtypes), argtypes, values, nulls, limit);
	AtEOXact_GUC(true, level);
}

/* The row type of poser_change. */
TupleDesc
poser_change_desc(PoserConsumer *consumer)
{
	static const Oid types[CHANGE_COLUMNS] = {INT8OID, INT8OID, TIMESTAMPTZOID, TEXTOID, NAMEOID, TEXTOID, BOOLOID, JSONBOID};
	Oid relid = poser_relation_by_name("poser_change", consumer->nspid);
	TupleDesc result = lookup_rowtype_tupdesc_copy(get_rel_type_id(relid), -1);

	/* columns can only be added */
	Assert(result->natts >= lengthof(types));
	for (int i = 0; i < lengthof(types); i++)
		poser_check_type(result, i + 1, types[i]);
	return result;
}

/*
 * Put the next changes of the consumer into the store, at most "limit" of them.
 * Returns how many; the first and the last are in *first and *last.
 *
 * They are those of the open window that are not confirmed; or else another
 * window is opened.  Not all of them need be delivered; the consumer is not saved.
 */
int64
poser_fetch_changes(PoserConsumer *consumer, Tuplestorestate *store, int64 limit, bool with_payload, int64 *first, int64 *last)
{
	PoserVersioned tables[POSER_VERSIONED_TABLES];
	ChangeReceiver receiver = {.pub = change_receiver, .store = store, .desc = poser_change_desc(consumer)};
	Oid transactions = poser_relation_by_name("poser_transaction", consumer->nspid);
	bool described = false;

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
			poser_datasync_describe(tables, consumer->nspid);
		described = true;

		read_window(consumer, tables, &receiver, limit, with_payload);
		if (receiver.n > 0)
			break;
		/* there was nothing in it for this consumer */
		poser_window_close(consumer);
		poser_renew_snapshot();
	}

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
 * Working for a consumer
 */

/* The second argument of those that give changes. */
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

	poser_consumer_argument(&consumer, fcinfo, "poser_datasync_changes()");
	limit = poser_max_changes_argument(fcinfo);
	InitMaterializedSRF(fcinfo, 0);
	poser_consumer_open(&consumer, false);
	if (poser_fetch_changes(&consumer, rsinfo->setResult, limit, true, &first, &last) > 0)
		poser_window_deliver(&consumer, last);
	poser_consumer_save(&consumer);
	poser_consumer_become_caller(&consumer);
	return (Datum) 0;
}

/* The last change that may have been pruned.  A newer snapshot may replace the active one, see poser_lock_to_read(). */
int64
poser_last_pruned_change(Oid nspid)
{
	Oid horizon = poser_relation_by_name("poser_version_horizon", nspid);

	poser_lock_to_read(&horizon, 1);
	poser_execute(psprintf("SELECT pg_catalog.max(change_id) FROM %s", poser_datasync_relation(nspid, "poser_version_horizon")),
				  0, NULL, NULL, NULL, true);
	return poser_datasync_int64(1);
}

/*
 * Is a change among those that were delivered and not confirmed?  Raises an error
 * if it is neither that nor confirmed already.
 */
static bool
is_delivered(PoserConsumer *consumer, int64 change_id)
{
	PoserVersioned tables[POSER_VERSIONED_TABLES];
	const Oid argtypes[] = {NAMEOID, PG_SNAPSHOTOID, PG_SNAPSHOTOID, INT8OID, INT8OID};
	Datum values[lengthof(argtypes)];
	char nulls[] = "     ";
	StringInfoData sql;
	bool found;
	bool before = false;
	bool within = false;

	/* as a rule it is the last one of those */
	if (poser_window_is_open(consumer) && change_id == consumer->delivered && change_id > consumer->confirmed)
		return true;

	poser_datasync_describe(tables, consumer->nspid);
	initStringInfo(&sql);
	appendStringInfoString(&sql,
						   "SELECT NOT " NOT_BEFORE ",\n"
						   "       COALESCE(pg_catalog.pg_visible_in_snapshot(t.xact, $3), false)\n"
						   "  FROM (");
	for (int i = 0; i < POSER_VERSIONED_TABLES; i++)
		appendStringInfo(&sql, "%sSELECT transaction_id FROM %s WHERE change_id OPERATOR(pg_catalog.=) $5",
						 i == 0 ? "" : "\n        UNION ALL ", poser_relation_name(tables[i].versions));
	appendStringInfo(&sql,
					 ") AS v\n"
					 "       JOIN %s AS t ON t.id OPERATOR(pg_catalog.=) v.transaction_id\n"
					 " WHERE " NOT_ITS_OWN,
					 poser_relation_name(tables[0].transactions));
	poser_consumer_parameters(consumer, values, nulls);
	values[4] = Int64GetDatum(change_id);
	found = poser_execute(sql.data, lengthof(argtypes), argtypes, values, nulls, true) > 0;
	if (found)
	{
		HeapTuple tuple = SPI_tuptable->vals[0];
		TupleDesc desc = SPI_tuptable->tupdesc;
		bool isnull;

		before = DatumGetBool(SPI_getbinval(tuple, desc, 1, &isnull));
		within = !before && DatumGetBool(SPI_getbinval(tuple, desc, 2, &isnull));
	}
	else
		/* it may have been pruned since */
		before = change_id > 0 && change_id <= poser_last_pruned_change(consumer->nspid);

	if (within && change_id > consumer->confirmed && change_id <= consumer->delivered)
		return true;
	/* what has been restored is confirmed up to there, whatever its transaction */
	if (!before && !(within && change_id <= consumer->confirmed) &&
		!(found && consumer->from == NULL && !poser_window_is_open(consumer) && change_id <= consumer->confirmed))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("change %lld has not been delivered to consumer \"%s\"",
						(long long) change_id, NameStr(*consumer->name))));
	return false;
}

/*
 * poser_datasync_confirm(consumer name, change_id bigint)
 */
Datum
poser_datasync_confirm(PG_FUNCTION_ARGS)
{
	PoserConsumer consumer;

	poser_consumer_argument(&consumer, fcinfo, "poser_datasync_confirm()");
	poser_consumer_open(&consumer, false);
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

	poser_consumer_argument(&consumer, fcinfo, "poser_datasync_skip()");
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("change_id must not be null")));
	if (PG_ARGISNULL(2) || VARSIZE_ANY_EXHDR(PG_GETARG_TEXT_PP(2)) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a reason must be given")));
	change_id = PG_GETARG_INT64(1);

	poser_consumer_open(&consumer, false);
	/* two, to know whether it is the last of the window; that they cannot be shown is no reason to keep them */
	store = tuplestore_begin_heap(false, false, work_mem);
	if (poser_fetch_changes(&consumer, store, 2, false, &first, &last) == 0 || first != change_id)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("change %lld is not the next one of consumer \"%s\"",
						(long long) change_id, NameStr(*consumer.name))));
	tuplestore_end(store);

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
	poser_execute(psprintf("INSERT INTO %s (consumer, change_id, reason, skipped_at, username, role_name, error)\n"
						   "VALUES ($1, $2, $3, pg_catalog.clock_timestamp(), $4, $5, $6)",
						   poser_datasync_relation(consumer.nspid, "poser_datasync_skipped")),
				  lengthof(argtypes), argtypes, values, nulls, false);
	poser_window_confirm(&consumer, change_id);
	poser_consumer_save(&consumer);
	poser_consumer_become_caller(&consumer);
	PG_RETURN_VOID();
}
