/*
 * datasync.c
 *	  Giving every change to every consumer, in order, at least once.
 *
 * The history is what there is to give: a consumer is a name and a position in
 * it.  Changes have an order, change_id, but get it before they are committed,
 * so that nobody can say "up to here" by it alone.  Nor by transaction ids: of
 * two transactions the younger can be over before the older has made its last
 * changes.  By snapshots one can.  A position is a snapshot; what it has seen is
 * confirmed.  The next window is what a later one has seen and it has not, and
 * is given in the order of change_id; once all of it is confirmed, the later
 * snapshot is the position.  Who is running when the one is taken comes in a
 * window after it; so no change is missed, and nobody waits for anybody.  Who
 * changes a row has waited for those who changed it before, has a greater
 * change_id, and is seen by no snapshot that does not see them: in one window or
 * in several, the changes of a row come in their order.
 *
 * Snapshots mean something in one cluster only.  What is kept for a restore is a
 * change_id, "settled": what the position has not seen comes after it.  It is got
 * from the sequence, at a moment when nobody who is running has taken ids from it;
 * or else later: whoever gets his transaction id after the sequence has been looked
 * at takes his ids of changes from it later, too.
 *
 * Consumers are read and written as the owner of their table, and so is history
 * for them.  Who may work for a consumer is written in its row.  A handler is
 * called as whoever calls poser_datasync_run().
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_class.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/async.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "parser/parse_func.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "tcop/dest.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"
#include "utils/typcache.h"
#include "utils/xid8.h"

#include "datasync/datasync.h"
#include "datasync/payload.h"

PG_FUNCTION_INFO_V1(poser_datasync_add);
PG_FUNCTION_INFO_V1(poser_datasync_drop);
PG_FUNCTION_INFO_V1(poser_datasync_grant);
PG_FUNCTION_INFO_V1(poser_datasync_revoke);
PG_FUNCTION_INFO_V1(poser_datasync_changes);
PG_FUNCTION_INFO_V1(poser_datasync_confirm);
PG_FUNCTION_INFO_V1(poser_datasync_run);
PG_FUNCTION_INFO_V1(poser_datasync_skip);
PG_FUNCTION_INFO_V1(poser_datasync_pending);
PG_FUNCTION_INFO_V1(poser_datasync_arrive);
PG_FUNCTION_INFO_V1(poser_datasync_changed);

#define CHANNEL "poser_datasync"

/* Columns of poser_change. */
#define CHANGE_ID 1
#define CHANGE_PAYLOAD 8
#define CHANGE_COLUMNS 8

static int stale_after;

/* The row of a consumer.  What is not by value is in the context. */
typedef struct Consumer
{
	Oid nspid; /* the extension's schema */
	Oid relid; /* the table of consumers */
	Name name;
	MemoryContext context;
	Oid caller; /* on whose behalf we act as the owner */
	int caller_context;

	char *handler;
	char *runas;
	bool own_changes;
	int64 own_after;	  /* its handler's transactions are after this one */
	struct varlena *from; /* snapshots; NULL for the beginning */
	struct varlena *to;	  /* NULL if there is no window */
	int64 confirmed;
	int64 delivered;
	int64 last_change;
	int64 settled;
	uint64 next_settled_xact; /* 0 if there is none */
	int64 next_settled;
	bool has_confirmed; /* in this call */
	int32 attempts;
	char *last_error;
	bool failed; /* last_failed_at is now */
	int64 failed_change;
	bool changed; /* and not saved */
} Consumer;

/* Consumers whose handlers this session is running, the innermost first. */
typedef struct Running
{
	Name name;
	struct Running *outer;
} Running;

static Running *running = NULL;

/* The consumer whose row we are writing, or NULL. */
static const Consumer *writing = NULL;

/* Whether a consumer asks for NOTIFY, as far as this session knows. */
static Oid notify_relid = InvalidOid;
static bool notify_known = false;
static bool notify_wanted = false;

/*
 * Acting as the owner
 */

/* What the transaction may see now. */
static Snapshot
current_snapshot(void)
{
	return IsolationUsesXactSnapshot() ? GetTransactionSnapshot() : GetLatestSnapshot();
}

/*
 * Act as the owner of the table of consumers, with SPI and a new snapshot.  The
 * table is locked before the snapshot is taken, so that the snapshot sees all rows.
 * If the transaction cannot have a newer one, a rewrite since then is an error.
 */
static void
become_owner(Consumer *consumer)
{
	poser_become_owner(consumer->relid, &consumer->caller, &consumer->caller_context);
	SPI_connect();
	PushActiveSnapshot(current_snapshot());
	poser_check_rewritten(consumer->relid, GetActiveSnapshot());
}

/* Go back to the caller, whom become_owner() was called by. */
static void
become_caller(Consumer *consumer)
{
	PopActiveSnapshot();
	SPI_finish();
	SetUserIdAndSecContext(consumer->caller, consumer->caller_context);
}

/* See what has been written since, also by ourselves. */
static void
renew_snapshot(void)
{
	PopActiveSnapshot();
	PushActiveSnapshot(current_snapshot());
}

/* A number in the first row of the last result; 0 for null. */
static int64
result_int64(int column)
{
	bool isnull;
	Datum value;

	if (SPI_processed == 0)
		return 0;
	poser_check_type(SPI_tuptable->tupdesc, column, INT8OID);
	value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column, &isnull);
	return isnull ? 0 : DatumGetInt64(value);
}

/* The qualified name of a relation of ours. */
static char *
relation_name(Oid nspid, const char *name)
{
	return poser_relation_name(poser_relation_by_name(name, nspid));
}

/*
 * Rows of consumers
 */

/* A consumer that is not looked up yet. */
static void
init_consumer(Consumer *consumer, Name name, Oid relid)
{
	memset(consumer, 0, sizeof(Consumer));
	consumer->name = name;
	consumer->nspid = get_rel_namespace(relid);
	consumer->relid = relid;
	consumer->context = CurrentMemoryContext;
}

/* The table of consumers that is beside a function. */
static Oid
consumers_of(FunctionCallInfo fcinfo)
{
	return poser_relation_by_name("poser_datasync_consumer", get_func_namespace(fcinfo->flinfo->fn_oid));
}

/* The consumer that a function was called for. */
static void
begin_consumer(Consumer *consumer, FunctionCallInfo fcinfo, const char *function)
{
	PreventCommandIfReadOnly(function);
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("consumer must not be null")));
	init_consumer(consumer, PG_GETARG_NAME(0), consumers_of(fcinfo));
}

static void
no_such_consumer(Consumer *consumer)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("consumer \"%s\" does not exist", NameStr(*consumer->name))));
}

/* The value in a column of a row that has been taken apart; 0 or NULL for null. */
#define INT64_AT(column) (nulls[(column) -1] ? 0 : DatumGetInt64(values[(column) -1]))
#define XID8_AT(column) \
	(nulls[(column) -1] ? 0 : U64FromFullTransactionId(DatumGetFullTransactionId(values[(column) -1])))
#define TEXT_AT(column) (nulls[(column) -1] ? NULL : TextDatumGetCString(values[(column) -1]))
#define SNAPSHOT_AT(column) (nulls[(column) -1] ? NULL : PG_DETOAST_DATUM_COPY(values[(column) -1]))

/*
 * Read the row of the consumer.  Where a snapshot is for the whole transaction,
 * the row can be locked, so that it is an error if another session has changed it
 * since.
 */
static void
read_consumer(Consumer *consumer, bool lock)
{
	static const Oid types[] = {TEXTOID, TEXTOID, BOOLOID, PG_SNAPSHOTOID, PG_SNAPSHOTOID, INT8OID, INT8OID, INT8OID,
								INT8OID, INT8OID, XID8OID, INT4OID, TEXTOID, INT8OID, INT8OID};
	const Oid argtypes[] = {NAMEOID};
	Datum name = NameGetDatum(consumer->name);
	Datum values[lengthof(types)];
	bool nulls[lengthof(types)];
	MemoryContext old;

	lock = lock && IsolationUsesXactSnapshot();
	if (poser_execute(psprintf("SELECT handler, runas, own_changes,\n"
							   "       from_snapshot, to_snapshot, confirmed, delivered, last_change,\n"
							   "       settled, next_settled, next_settled_xact, attempts, last_error, failed_change_id, own_after\n"
							   "  FROM %s\n"
							   " WHERE consumer OPERATOR(pg_catalog.=) $1%s",
							   poser_relation_name(consumer->relid), lock ? " FOR NO KEY UPDATE" : ""),
					  lengthof(argtypes), argtypes, &name, NULL, !lock) == 0)
		no_such_consumer(consumer);
	for (int i = 0; i < lengthof(types); i++)
		poser_check_type(SPI_tuptable->tupdesc, i + 1, types[i]);
	heap_deform_tuple(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, values, nulls);

	old = MemoryContextSwitchTo(consumer->context);
	consumer->handler = TEXT_AT(1);
	consumer->runas = TEXT_AT(2);
	consumer->own_changes = !nulls[2] && DatumGetBool(values[2]);
	consumer->from = SNAPSHOT_AT(4);
	consumer->to = SNAPSHOT_AT(5);
	consumer->confirmed = INT64_AT(6);
	consumer->delivered = INT64_AT(7);
	consumer->last_change = INT64_AT(8);
	consumer->settled = INT64_AT(9);
	consumer->next_settled = INT64_AT(10);
	consumer->next_settled_xact = XID8_AT(11);
	consumer->attempts = nulls[11] ? 0 : DatumGetInt32(values[11]);
	consumer->last_error = TEXT_AT(13);
	consumer->failed_change = INT64_AT(14);
	consumer->own_after = INT64_AT(15);
	consumer->changed = false;
	MemoryContextSwitchTo(old);
	SPI_freetuptable(SPI_tuptable);
}

/*
 * Update the row of the consumer; returns whether it was there, and the query's
 * condition true.
 */
static bool
update_consumer(Consumer *consumer, const char *query, int nargs, const Oid *argtypes, const Datum *values,
				const char *nulls)
{
	bool result;

	writing = consumer;
	PG_TRY();
	{
		result = poser_execute(query, nargs, argtypes, values, nulls, false) > 0;
	}
	PG_FINALLY();
	{
		writing = NULL;
	}
	PG_END_TRY();
	return result;
}

/* A snapshot as a parameter of a query. */
static void
put_snapshot(struct varlena *snapshot, Datum *value, char *null)
{
	*value = PointerGetDatum(snapshot);
	*null = snapshot == NULL ? 'n' : ' ';
}

/* Write where the consumer is. */
static void
save_consumer(Consumer *consumer)
{
	const Oid argtypes[] = {NAMEOID, PG_SNAPSHOTOID, PG_SNAPSHOTOID, INT8OID, INT8OID, INT8OID,
							INT8OID, INT8OID, XID8OID, BOOLOID, INT4OID, TEXTOID, BOOLOID, INT8OID};
	Datum values[lengthof(argtypes)];
	char nulls[] = "              ";

	if (!consumer->changed)
		return;
	values[0] = NameGetDatum(consumer->name);
	put_snapshot(consumer->from, &values[1], &nulls[1]);
	put_snapshot(consumer->to, &values[2], &nulls[2]);
	values[3] = Int64GetDatum(consumer->confirmed);
	values[4] = Int64GetDatum(consumer->delivered);
	values[5] = Int64GetDatum(consumer->last_change);
	values[6] = Int64GetDatum(consumer->settled);
	values[7] = Int64GetDatum(consumer->next_settled);
	values[8] = FullTransactionIdGetDatum(FullTransactionIdFromU64(consumer->next_settled_xact));
	nulls[7] = nulls[8] = consumer->next_settled_xact == 0 ? 'n' : ' ';
	values[9] = BoolGetDatum(consumer->has_confirmed);
	values[10] = Int32GetDatum(consumer->attempts);
	values[11] = consumer->last_error == NULL ? (Datum) 0 : CStringGetTextDatum(consumer->last_error);
	nulls[11] = consumer->last_error == NULL ? 'n' : ' ';
	values[12] = BoolGetDatum(consumer->failed);
	values[13] = Int64GetDatum(consumer->failed_change);
	nulls[13] = consumer->failed_change == 0 ? 'n' : ' ';
	if (!update_consumer(consumer,
						 psprintf("UPDATE %s\n"
								  "   SET from_snapshot = $2, to_snapshot = $3, confirmed = $4, delivered = $5, last_change = $6,\n"
								  "       settled = $7, next_settled = $8, next_settled_xact = $9,\n"
								  "       last_confirmed_at = CASE WHEN $10 THEN pg_catalog.clock_timestamp() ELSE last_confirmed_at END,\n"
								  "       attempts = $11, last_error = $12,\n"
								  "       last_failed_at = CASE WHEN $13 THEN pg_catalog.clock_timestamp() ELSE last_failed_at END,\n"
								  "       failed_change_id = $14\n"
								  " WHERE consumer OPERATOR(pg_catalog.=) $1",
								  poser_relation_name(consumer->relid)),
						 lengthof(argtypes), argtypes, values, nulls))
		no_such_consumer(consumer);
	consumer->changed = false;
}

/*
 * Raises an error unless the caller has been granted the consumer, who is not the
 * owner.
 */
static void
check_granted(Consumer *consumer)
{
	const Oid argtypes[] = {NAMEOID};
	Datum name = NameGetDatum(consumer->name);
	Datum value;
	Datum *names;
	bool *nulls;
	bool isnull;
	int n = 0;

	if (poser_execute(psprintf("SELECT roles FROM %s WHERE consumer OPERATOR(pg_catalog.=) $1",
							   poser_relation_name(consumer->relid)),
					  lengthof(argtypes), argtypes, &name, NULL, true) == 0)
		no_such_consumer(consumer);
	poser_check_type(SPI_tuptable->tupdesc, 1, NAMEARRAYOID);
	value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	if (!isnull)
		deconstruct_array(DatumGetArrayTypeP(value), NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR, &names, &nulls, &n);
	for (int i = 0; i < n; i++)
	{
		const char *role = nulls[i] ? "" : NameStr(*DatumGetName(names[i]));
		Oid roleid = get_role_oid(role, true);

		if (strcmp(role, "public") == 0 ||
			(OidIsValid(roleid) && has_privs_of_role(consumer->caller, roleid)))
			return;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied for consumer \"%s\"", NameStr(*consumer->name)),
			 errhint("The owner can allow it by poser_datasync_grant().")));
}

/*
 * Lock the consumer until the end of the transaction.  The lock is one of an
 * object that belongs to the table; it needs no transaction id.
 */
static void
lock_consumer(Consumer *consumer)
{
	uint64 hash = DatumGetUInt64(hash_any_extended((unsigned char *) NameStr(*consumer->name),
												   strlen(NameStr(*consumer->name)), 0));
	LOCKTAG tag;

	for (Running *outer = running; outer != NULL; outer = outer->outer)
		if (namestrcmp(outer->name, NameStr(*consumer->name)) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("consumer \"%s\" is running its handler in this session",
							NameStr(*consumer->name))));

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, consumer->relid, (uint32) hash, (uint16) (hash >> 32));
	if (LockAcquire(&tag, ExclusiveLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("another session is working for consumer \"%s\"", NameStr(*consumer->name)),
				 errhint("A consumer has one worker at a time.  Try again when that session's transaction has ended.")));
}

/*
 * Become the owner, and take hold of a consumer that the caller may work for; or
 * that he may do with what he likes, if that is only for the owner.
 */
static void
open_consumer(Consumer *consumer, bool only_owner)
{
	bool is_owner = poser_is_owner(consumer->relid, GetUserId());

	if (only_owner)
		poser_check_owner(consumer->relid);
	become_owner(consumer);
	if (!is_owner)
		check_granted(consumer);
	lock_consumer(consumer);
	/* whoever had the lock may have moved it on */
	renew_snapshot();
	read_consumer(consumer, true);
}

/*
 * Snapshots
 */

static int
compare_xids(const void *a, const void *b)
{
	uint64 x = *(const uint64 *) a;
	uint64 y = *(const uint64 *) b;

	if (x == y)
		return 0;
	return x < y ? -1 : 1;
}

/* A transaction id of about now, with its epoch. */
static uint64
full_xid(TransactionId xid, FullTransactionId next)
{
	return U64FromFullTransactionId(next) - (uint32) (XidFromFullTransactionId(next) - xid);
}

/*
 * The active snapshot as a value that can be kept, in which our own transaction
 * is running, too; *xmin is the first that is.
 */
static struct varlena *
copy_snapshot(uint64 *xmin)
{
	Snapshot snapshot = GetActiveSnapshot();
	FullTransactionId next = ReadNextFullTransactionId();
	TransactionId own = GetTopTransactionIdIfAny();
	uint64 xmax = full_xid(snapshot->xmax, next);
	uint64 *xids = palloc((snapshot->xcnt + 1) * sizeof(uint64));
	int n = 0;
	StringInfoData text;

	for (uint32 i = 0; i < snapshot->xcnt; i++)
		xids[n++] = full_xid(snapshot->xip[i], next);
	if (TransactionIdIsValid(own) && full_xid(own, next) < xmax)
		xids[n++] = full_xid(own, next);
	qsort(xids, n, sizeof(uint64), compare_xids);
	*xmin = n > 0 ? xids[0] : xmax;

	initStringInfo(&text);
	appendStringInfo(&text, UINT64_FORMAT ":" UINT64_FORMAT ":", *xmin, xmax);
	for (int i = 0; i < n; i++)
		appendStringInfo(&text, "%s" UINT64_FORMAT, i == 0 ? "" : ",", xids[i]);
	return (struct varlena *) DatumGetPointer(DirectFunctionCall1(pg_snapshot_in, CStringGetDatum(text.data)));
}

/* Where the sequence of changes is. */
static int64
sequence_value(Oid nspid)
{
	poser_execute(psprintf("SELECT CASE WHEN is_called THEN last_value ELSE last_value OPERATOR(pg_catalog.-) 1 END\n"
						   "  FROM %s",
						   relation_name(nspid, "poser_change_id_seq")),
				  0, NULL, NULL, NULL, true);
	return result_int64(1);
}

/*
 * Queries over the history
 */

/* A column of a table of ours, by name; an error if it is not what it was made as. */
static int
column_of(Relation rel, const char *name, Oid type)
{
	int column = SPI_fnumber(RelationGetDescr(rel), name);

	if (column <= 0 || SPI_gettypeid(RelationGetDescr(rel), column) != type)
		poser_structure_error(rel);
	return column;
}

/*
 * Describe all tables that have a history, and lock the tables of versions and of
 * transactions, to be read with the active snapshot, see poser_lock_to_read().
 * Check the types of the transactions' columns: with other types the query would
 * need a cast, which could be one that another user has made.
 */
static void
describe_history(PoserVersioned *tables, Oid nspid)
{
	static const struct
	{
		const char *name;
		Oid type;
	} columns[] = {{"id", INT8OID}, {"issued_at", TIMESTAMPTZOID}, {"username", TEXTOID}, {"xact", XID8OID}, {"consumer", NAMEOID}};
	Relation rel;

	poser_versioned_describe_all(tables, nspid);
	rel = table_open(tables[0].transactions, AccessShareLock);
	for (int i = 0; i < lengthof(columns); i++)
		(void) column_of(rel, columns[i].name, columns[i].type);
	table_close(rel, NoLock);

	for (int i = 0; i < POSER_VERSIONED_TABLES; i++)
		poser_lock_to_read(&tables[i].versions, 1);
	poser_lock_to_read(&tables[0].transactions, 1);
}

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

/* That a transaction "t" is not that of the handler of the consumer $1, which is later than $4. */
#define NOT_ITS_OWN \
	"(t.consumer IS NULL OR t.consumer OPERATOR(pg_catalog.<>) $1" \
	" OR t.id OPERATOR(pg_catalog.<=) $4)"

/* That it is one that the snapshot $2 has not seen, if there is one. */
#define NOT_BEFORE "($2 IS NULL OR NOT pg_catalog.pg_visible_in_snapshot(t.xact, $2))"

/* The values of $1 to $4; $1 is nobody, if he gets his own, too. */
static void
put_consumer(Consumer *consumer, Datum *values, char *nulls)
{
	static NameData nobody;

	values[0] = NameGetDatum(consumer->own_changes ? &nobody : consumer->name);
	put_snapshot(consumer->from, &values[1], &nulls[1]);
	put_snapshot(consumer->to, &values[2], &nulls[2]);
	values[3] = Int64GetDatum(consumer->own_after);
}

/*
 * Have the planner go by the indexes: what comes first is wanted, and statistics
 * do not tell it where in their order we are.  That something is hidden from the
 * owner is an error, and no gap.  AtEOXact_GUC() ends it.
 */
static int
begin_reading(void)
{
	static const PoserSetting settings[] = {
		{"enable_seqscan", "off"}, {"enable_bitmapscan", "off"}, {"enable_indexscan", "on"}, {"row_security", "off"}};

	return poser_begin_settings(settings, lengthof(settings));
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
	int level = begin_reading();

	(void) poser_begin_text_settings();
	(void) poser_begin_settings(settings, lengthof(settings));
	return level;
}

/*
 * The least id of a transaction that the snapshot "from" has not seen; and "to"
 * has, if it is not NULL.  0 if there is none.
 */
static int64
first_transaction(Oid nspid, struct varlena *from, struct varlena *to)
{
	const Oid argtypes[] = {PG_SNAPSHOTOID, PG_SNAPSHOTOID};
	const char *transactions = relation_name(nspid, "poser_transaction");
	Datum values[lengthof(argtypes)];
	char nulls[] = "  ";
	int level = begin_reading();

	put_snapshot(from, &values[0], &nulls[0]);
	put_snapshot(to, &values[1], &nulls[1]);
	poser_execute(psprintf("SELECT pg_catalog.min(id)\n"
						   "  FROM (SELECT id, xact FROM %s\n"
						   "         WHERE xact OPERATOR(pg_catalog.>=) pg_catalog.pg_snapshot_xmax($1)\n"
						   "        UNION ALL\n"
						   "        SELECT id, xact FROM %s\n"
						   "         WHERE xact OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT pg_catalog.pg_snapshot_xip($1)))\n"
						   "        OFFSET 0) AS t\n"
						   " WHERE $2 IS NULL OR pg_catalog.pg_visible_in_snapshot(xact, $2)",
						   transactions, transactions),
				  lengthof(argtypes), argtypes, values, nulls, true);
	AtEOXact_GUC(true, level);
	return result_int64(1);
}

/*
 * Is there no transaction that a snapshot has not seen, as far as that is found
 * out at little cost?  It is when none was running then.
 */
static bool
is_newest(Oid nspid, struct varlena *snapshot)
{
	const Oid argtypes[] = {XID8OID};
	Datum xmin = DirectFunctionCall1(pg_snapshot_xmin, PointerGetDatum(snapshot));
	Datum xmax = DirectFunctionCall1(pg_snapshot_xmax, PointerGetDatum(snapshot));
	bool result;
	int level;

	if (!FullTransactionIdEquals(DatumGetFullTransactionId(xmin), DatumGetFullTransactionId(xmax)))
		return false;
	level = begin_reading();
	result = poser_execute(psprintf("SELECT id FROM %s WHERE xact OPERATOR(pg_catalog.>=) $1 LIMIT 1",
									relation_name(nspid, "poser_transaction")),
						   lengthof(argtypes), argtypes, &xmax, NULL, true) == 0;
	AtEOXact_GUC(true, level);
	return result;
}

/* The greatest change_id that can be seen. */
static int64
greatest_change(const PoserVersioned *tables)
{
	int64 result = 0;

	for (int i = 0; i < POSER_VERSIONED_TABLES; i++)
	{
		poser_execute(psprintf("SELECT pg_catalog.max(change_id) FROM %s", poser_relation_name(tables[i].versions)),
					  0, NULL, NULL, NULL, true);
		result = Max(result, result_int64(1));
	}
	return result;
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

/*
 * Windows
 */

/* Is there a window? */
static bool
is_open(const Consumer *consumer)
{
	return consumer->to != NULL;
}

/* All changes in the window are confirmed. */
static void
close_window(Consumer *consumer)
{
	consumer->from = consumer->to;
	consumer->to = NULL;
	consumer->changed = true;
}

/*
 * "value" is where the sequence was before "next" was the next transaction id.
 * What the consumer's last snapshot has not seen is of transactions from "xmin"
 * on.
 */
static void
note_settled(Consumer *consumer, uint64 xmin, int64 value, uint64 next)
{
	if (consumer->next_settled_xact != 0 && consumer->next_settled_xact <= xmin)
	{
		consumer->settled = consumer->next_settled;
		consumer->next_settled_xact = 0;
	}
	if (next <= xmin)
	{
		consumer->settled = value;
		consumer->next_settled_xact = 0;
	}
	else if (consumer->next_settled_xact == 0 && consumer->settled < value)
	{
		consumer->next_settled = value;
		consumer->next_settled_xact = next;
	}
}

/*
 * Has no transaction that is running, ours among them, got an id of a change here?
 * Whoever gets one has locked poser_transaction before, until he has ended.
 */
static bool
nobody_writes(Oid nspid)
{
	LOCKTAG tag;
	int n;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, poser_relation_by_name("poser_transaction", nspid));
	pfree(GetLockConflicts(&tag, ShareLock, &n));
	return n == 0 && !poser_version_is_writing();
}

/*
 * Take a snapshot of now for the consumer, in its memory.
 */
static struct varlena *
take_snapshot(Consumer *consumer)
{
	int64 value = sequence_value(consumer->nspid);
	bool quiet = nobody_writes(consumer->nspid);
	uint64 next = U64FromFullTransactionId(ReadNextFullTransactionId());
	MemoryContext old = MemoryContextSwitchTo(consumer->context);
	struct varlena *result;
	uint64 xmin;

	renew_snapshot();
	result = copy_snapshot(&xmin);
	MemoryContextSwitchTo(old);
	/* who had an id of up to "value" was over then, so that the snapshot sees him */
	if (quiet)
	{
		consumer->settled = value;
		consumer->next_settled_xact = 0;
	}
	else
		note_settled(consumer, xmin, value, next);
	return result;
}

/*
 * Open the next window, if there is something in it; "tables" is described then.
 */
static bool
open_window(Consumer *consumer, PoserVersioned *tables)
{
	uint64 xmin;
	struct varlena *to = copy_snapshot(&xmin);
	int64 first = consumer->confirmed;
	int64 last;

	Assert(!is_open(consumer));
	/* what is done most often, and mostly in vain, comes first */
	if (consumer->from != NULL &&
		(is_newest(consumer->nspid, consumer->from) ||
		 first_transaction(consumer->nspid, consumer->from, to) == 0) &&
		(consumer->next_settled_xact == 0 || consumer->next_settled_xact > xmin ||
		 consumer->next_settled <= consumer->settled))
		return false;

	/* before the snapshot of the window is taken, so that it sees all rows */
	describe_history(tables, consumer->nspid);
	to = take_snapshot(consumer);
	if (consumer->from != NULL)
	{
		/* a transaction's changes come after it */
		first = first_transaction(consumer->nspid, consumer->from, to);
		/* nothing but that all is settled */
		if (first == 0)
		{
			consumer->from = to;
			consumer->changed = true;
			return false;
		}
	}
	last = greatest_change(tables);

	/* all of it, or an error has come before */
	consumer->to = to;
	consumer->confirmed = consumer->delivered = first;
	consumer->last_change = last;
	consumer->changed = true;
	return true;
}

/* Read the next changes of the window. */
static void
read_window(Consumer *consumer, const PoserVersioned *tables, ChangeReceiver *receiver, int64 limit,
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

	put_consumer(consumer, values, nulls);
	values[4] = Int64GetDatum(consumer->confirmed);
	values[5] = Int64GetDatum(consumer->last_change);

	level = begin_showing();
	poser_execute_for(&receiver->pub, sql.data, CURSOR_OPT_GENERIC_PLAN | CURSOR_OPT_FAST_PLAN,
					  lengthof(argtypes), argtypes, values, nulls, limit);
	AtEOXact_GUC(true, level);
}

/* The row type of poser_change. */
static TupleDesc
change_desc(Consumer *consumer)
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
static int64
fetch_changes(Consumer *consumer, Tuplestorestate *store, int64 limit, bool with_payload, int64 *first, int64 *last)
{
	PoserVersioned tables[POSER_VERSIONED_TABLES];
	ChangeReceiver receiver = {.pub = change_receiver, .store = store, .desc = change_desc(consumer)};
	Oid transactions = poser_relation_by_name("poser_transaction", consumer->nspid);
	bool described = false;

	poser_lock_to_read(&transactions, 1);
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		if (!is_open(consumer))
		{
			if (!open_window(consumer, tables))
				return 0;
		}
		else if (!described)
			describe_history(tables, consumer->nspid);
		described = true;

		read_window(consumer, tables, &receiver, limit, with_payload);
		if (receiver.n > 0)
			break;
		/* there was nothing in it for this consumer */
		close_window(consumer);
		renew_snapshot();
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

/* The consumer has been given the changes of the window up to this one. */
static void
deliver_change(Consumer *consumer, int64 change_id)
{
	if (consumer->delivered < change_id)
	{
		consumer->delivered = change_id;
		consumer->changed = true;
	}
}

/* It is done with them. */
static void
confirm_change(Consumer *consumer, int64 change_id)
{
	Assert(is_open(consumer) && change_id > consumer->confirmed);
	deliver_change(consumer, change_id);
	consumer->confirmed = change_id;
	consumer->has_confirmed = true;
	consumer->attempts = 0;
	consumer->last_error = NULL;
	consumer->failed_change = 0;
	consumer->changed = true;
	if (change_id == consumer->last_change)
		close_window(consumer);
}

/*
 * Working for a consumer
 */

/* The second argument of those that give changes. */
static int64
max_changes_argument(FunctionCallInfo fcinfo)
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
	Consumer consumer;
	int64 limit;
	int64 first;
	int64 last;

	begin_consumer(&consumer, fcinfo, "poser_datasync_changes()");
	limit = max_changes_argument(fcinfo);
	InitMaterializedSRF(fcinfo, 0);
	open_consumer(&consumer, false);
	if (fetch_changes(&consumer, rsinfo->setResult, limit, true, &first, &last) > 0)
		deliver_change(&consumer, last);
	save_consumer(&consumer);
	become_caller(&consumer);
	return (Datum) 0;
}

/* The last change that may have been pruned.  A newer snapshot may replace the active one, see poser_lock_to_read(). */
static int64
pruned_change(Oid nspid)
{
	Oid horizon = poser_relation_by_name("poser_version_horizon", nspid);

	poser_lock_to_read(&horizon, 1);
	poser_execute(psprintf("SELECT pg_catalog.max(change_id) FROM %s", relation_name(nspid, "poser_version_horizon")),
				  0, NULL, NULL, NULL, true);
	return result_int64(1);
}

/*
 * Is a change among those that were delivered and not confirmed?  Raises an error
 * if it is neither that nor confirmed already.
 */
static bool
is_delivered(Consumer *consumer, int64 change_id)
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
	if (is_open(consumer) && change_id == consumer->delivered && change_id > consumer->confirmed)
		return true;

	describe_history(tables, consumer->nspid);
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
	put_consumer(consumer, values, nulls);
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
		before = change_id > 0 && change_id <= pruned_change(consumer->nspid);

	if (within && change_id > consumer->confirmed && change_id <= consumer->delivered)
		return true;
	/* what has been restored is confirmed up to there, whatever its transaction */
	if (!before && !(within && change_id <= consumer->confirmed) &&
		!(found && consumer->from == NULL && !is_open(consumer) && change_id <= consumer->confirmed))
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
	Consumer consumer;

	begin_consumer(&consumer, fcinfo, "poser_datasync_confirm()");
	open_consumer(&consumer, false);
	if (!PG_ARGISNULL(1))
	{
		if (is_delivered(&consumer, PG_GETARG_INT64(1)))
			confirm_change(&consumer, PG_GETARG_INT64(1));
		save_consumer(&consumer);
	}
	become_caller(&consumer);
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
	Consumer consumer;
	NameData role;
	Tuplestorestate *store;
	int64 first;
	int64 last;
	int64 change_id;

	begin_consumer(&consumer, fcinfo, "poser_datasync_skip()");
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("change_id must not be null")));
	if (PG_ARGISNULL(2) || VARSIZE_ANY_EXHDR(PG_GETARG_TEXT_PP(2)) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a reason must be given")));
	change_id = PG_GETARG_INT64(1);

	open_consumer(&consumer, false);
	/* two, to know whether it is the last of the window; that they cannot be shown is no reason to keep them */
	store = tuplestore_begin_heap(false, false, work_mem);
	if (fetch_changes(&consumer, store, 2, false, &first, &last) == 0 || first != change_id)
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
						   relation_name(consumer.nspid, "poser_datasync_skipped")),
				  lengthof(argtypes), argtypes, values, nulls, false);
	confirm_change(&consumer, change_id);
	save_consumer(&consumer);
	become_caller(&consumer);
	PG_RETURN_VOID();
}

/*
 * Handlers
 */

/* The name of a function that can be a handler, qualified. */
static char *
handler_name(Oid fnoid, Oid nspid)
{
	HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(fnoid));
	Form_pg_proc form;
	char *result;
	int level;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function with OID %u does not exist", fnoid)));
	form = (Form_pg_proc) GETSTRUCT(tuple);
	/* as poser_check() expects it, whatever the session's settings */
	level = NewGUCNestLevel();
	(void) set_config_option("quote_all_identifiers", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	result = quote_qualified_identifier(get_namespace_name(form->pronamespace), NameStr(form->proname));
	AtEOXact_GUC(true, level);
	if (form->prokind != PROKIND_FUNCTION || form->proretset || isAnyTempNamespace(form->pronamespace) ||
		form->pronargs != 1 ||
		form->proargtypes.values[0] != get_rel_type_id(poser_relation_by_name("poser_change", nspid)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("function \"%s\" cannot be a handler", result),
				 errdetail("A handler is a function with one argument, of type poser_change, that returns no set and is not temporary.")));
	ReleaseSysCache(tuple);
	return result;
}

/* Call the handler, whose result may be null. */
static void
call_function(FmgrInfo *handler, Datum change)
{
	LOCAL_FCINFO(fcinfo, 1);

	InitFunctionCallInfoData(*fcinfo, handler, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = change;
	fcinfo->args[0].isnull = false;
	(void) FunctionCallInvoke(fcinfo);
}

/* Check deferred constraints, and have them checked at once from now on. */
static void
check_constraints(void)
{
	ConstraintsSetStmt *stmt = makeNode(ConstraintsSetStmt);

	stmt->constraints = NIL;
	stmt->deferred = false;
	AfterTriggerSetState(stmt);
}

/*
 * Find the handler, which the caller must be allowed to call.  It is looked up
 * by its name and its very argument, so that no other function is taken for it.
 */
static void
find_handler(Consumer *consumer, Oid type, FmgrInfo *handler)
{
	List *name = stringToQualifiedNameList(consumer->handler, NULL);
	Oid fnoid = list_length(name) > 1 ? LookupFuncName(name, 1, &type, true) : InvalidOid;
	AclResult aclresult;

	if (!OidIsValid(fnoid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("handler %s(poser_change) does not exist", consumer->handler)));
	(void) handler_name(fnoid, consumer->nspid);
	aclresult = object_aclcheck(ProcedureRelationId, fnoid, GetUserId(), ACL_EXECUTE);
	if (aclresult != ACLCHECK_OK)
		aclcheck_error(aclresult, OBJECT_FUNCTION, consumer->handler);
	InvokeFunctionExecuteHook(fnoid);
	fmgr_info_cxt(fnoid, handler, consumer->context);
}

/*
 * Call the handler for one change, in a subtransaction.  Returns the error that
 * it has been rolled back for, or NULL.
 *
 * It is found with the first change, so that it is its error if it is not there;
 * and again should it have dropped itself.  A cancel is its error, too: it ends
 * what is done for the change, and the rest is done soon.
 */
static ErrorData *
call_handler(Consumer *consumer, FmgrInfo *handler, Datum change, Oid type)
{
	const char *outer = poser_handling_consumer;
	PoserSavepoint savepoint;
	ErrorData *volatile error = NULL;

	poser_savepoint_set(&savepoint);
	PG_TRY();
	{
		int level = NewGUCNestLevel();

		if (consumer->runas != NULL)
			(void) set_config_option("poser.runas", consumer->runas, PGC_USERSET, PGC_S_SESSION,
									 GUC_ACTION_SAVE, true, 0, false);
		poser_handling_consumer = NameStr(*consumer->name);
		if (!OidIsValid(handler->fn_oid) || !SearchSysCacheExists1(PROCOID, ObjectIdGetDatum(handler->fn_oid)))
			find_handler(consumer, type, handler);
		CommandCounterIncrement();
		PushActiveSnapshot(GetTransactionSnapshot());
		call_function(handler, change);
		PopActiveSnapshot();
		check_constraints();
		AtEOXact_GUC(true, level);
		poser_handling_consumer = outer;
		poser_savepoint_release(&savepoint);
	}
	PG_CATCH();
	{
		poser_handling_consumer = outer;
		error = poser_savepoint_catch_any(&savepoint);
	}
	PG_END_TRY();
	return error;
}

/*
 * Call the handler for all changes in the store.  Returns the last one for which
 * it was done, or 0; if it stopped before the end, the error is in *error, and
 * the change that it is about in *failed.
 */
static int64
call_handlers(Consumer *consumer, FmgrInfo *handler, Tuplestorestate *store, TupleDesc desc,
			  int64 *handled, ErrorData **error, int64 *failed)
{
	Running self = {consumer->name, running};
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "poser change", ALLOCSET_DEFAULT_SIZES);
	MemoryContext outer = CurrentMemoryContext;
	TupleTableSlot *slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	int64 last = 0;

	running = &self;
	PG_TRY();
	{
		check_constraints();
		while (*error == NULL && tuplestore_gettupleslot(store, true, false, slot))
		{
			bool isnull;
			int64 change_id = DatumGetInt64(slot_getattr(slot, CHANGE_ID, &isnull));

			CHECK_FOR_INTERRUPTS();
			MemoryContextReset(context);
			MemoryContextSwitchTo(context);
			*error = call_handler(consumer, handler, ExecFetchSlotHeapTupleDatum(slot), desc->tdtypeid);
			MemoryContextSwitchTo(outer);
			if (*error == NULL)
			{
				last = change_id;
				(*handled)++;
			}
			else
				*failed = change_id;
		}
	}
	PG_FINALLY();
	{
		running = self.outer;
	}
	PG_END_TRY();
	ExecDropSingleTupleTableSlot(slot);
	return last;
}

/* Can an error be about a value that cannot be shown? */
static bool
is_of_a_value(const ErrorData *error)
{
	return ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_DATA_EXCEPTION ||
		   ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_PROGRAM_LIMIT_EXCEEDED;
}

/*
 * Fetch changes for the handler, as the owner.  Returns how many; with an error
 * about a value, which is caught, 0, and the consumer is what it was.
 */
static int64
fetch_for_handler(Consumer *consumer, Tuplestorestate *store, int64 limit, bool with_payload,
				  int64 *first, int64 *last, ErrorData **error)
{
	const Consumer before = *consumer;
	PoserSavepoint savepoint;
	volatile int64 result = 0;

	poser_savepoint_set(&savepoint);
	PG_TRY();
	{
		become_owner(consumer);
		result = fetch_changes(consumer, store, limit, with_payload, first, last);
		become_caller(consumer);
		poser_savepoint_release(&savepoint);
	}
	PG_CATCH();
	{
		*consumer = before;
		*error = poser_savepoint_catch_any(&savepoint);
		if (!is_of_a_value(*error))
			ReThrowError(*error);
	}
	PG_END_TRY();
	return result;
}

/*
 * poser_datasync_run(consumer name, max_changes integer) returns bigint
 */
Datum
poser_datasync_run(PG_FUNCTION_ARGS)
{
	Consumer consumer;
	TupleDesc desc;
	FmgrInfo handler = {0};
	MemoryContext turn;
	ErrorData *error = NULL;
	bool one_by_one = false;
	int64 limit;
	int64 handled = 0;
	int64 failed = 0;

	begin_consumer(&consumer, fcinfo, "poser_datasync_run()");
	limit = max_changes_argument(fcinfo);
	/* a handler's statement might have to record what that one has done, in the handler's name */
	if (poser_version_is_busy())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("poser_datasync_run() cannot be called by a statement that changes a table with history")));
	open_consumer(&consumer, false);
	become_caller(&consumer);
	if (consumer.handler == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("consumer \"%s\" has no handler", NameStr(*consumer.name))));
	desc = change_desc(&consumer);
	turn = AllocSetContextCreate(consumer.context, "poser handlers", ALLOCSET_DEFAULT_SIZES);

	/* what the handler does, and that it has done it, is of one transaction: saved at the end */
	while (handled < limit && error == NULL)
	{
		int64 wanted = one_by_one ? 1 : limit - handled;
		Tuplestorestate *store;
		int64 first;
		int64 last;
		int64 n;

		MemoryContextReset(turn);
		MemoryContextSwitchTo(turn);
		store = tuplestore_begin_heap(false, false, work_mem);
		n = fetch_for_handler(&consumer, store, wanted, true, &first, &last, &error);
		if (error != NULL && wanted > 1)
		{
			/* up to the change that cannot be shown, all others can be handled */
			one_by_one = true;
			FreeErrorData(error);
			error = NULL;
		}
		else if (error != NULL)
		{
			ErrorData *none = NULL;

			if (fetch_for_handler(&consumer, store, 1, false, &failed, &last, &none) == 0)
				ReThrowError(error);
		}
		else if (n == 0)
			limit = handled;
		else if ((last = call_handlers(&consumer, &handler, store, desc, &handled, &error, &failed)) > 0)
			confirm_change(&consumer, last);
		tuplestore_end(store);
	}

	MemoryContextSwitchTo(consumer.context);
	become_owner(&consumer);
	if (error != NULL)
	{
		deliver_change(&consumer, failed);
		consumer.attempts++;
		consumer.last_error = error->message != NULL ? error->message : "unknown error";
		consumer.failed = true;
		consumer.failed_change = failed;
		consumer.changed = true;
	}
	save_consumer(&consumer);
	become_caller(&consumer);
	if (error != NULL)
		ereport(WARNING,
				(errcode(error->sqlerrcode),
				 errmsg("consumer \"%s\" has stopped at change %lld: %s",
						NameStr(*consumer.name), (long long) failed, consumer.last_error),
				 error->context != NULL ? errcontext("%s", error->context) : 0));
	PG_RETURN_INT64(handled);
}

/*
 * Making and removing consumers
 */

/*
 * An older snapshot must not have changes after it that have been pruned since.
 */
static void
check_not_pruned(Consumer *consumer)
{
	int64 seen = pruned_change(consumer->nspid);

	PushActiveSnapshot(GetLatestSnapshot());
	if (pruned_change(consumer->nspid) != seen)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to versions that have been pruned")));
	PopActiveSnapshot();
}

/*
 * A consumer may begin with a copy of the tables, which the transaction makes with
 * its snapshot.  It gets the changes that this snapshot does not see.  A table that
 * was rewritten since the snapshot would look empty to the copy, so it is an error.
 * The tables are locked, so that none is rewritten before the copy is made.
 */
static void
check_copy(Oid nspid)
{
	PoserVersioned tables[POSER_VERSIONED_TABLES];

	poser_versioned_describe_all(tables, nspid);
	for (int i = 0; i < POSER_VERSIONED_TABLES; i++)
		poser_lock_to_read(&tables[i].relid, 1);
}

/*
 * poser_datasync_add(consumer name, start text, handler regprocedure, runas text,
 *					  notify boolean, own_changes boolean)
 */
Datum
poser_datasync_add(PG_FUNCTION_ARGS)
{
	const Oid argtypes[] = {NAMEOID, TEXTOID, TEXTOID, BOOLOID, BOOLOID, INT8OID};
	Datum values[lengthof(argtypes)];
	char nulls[] = "      ";
	Consumer consumer;
	char *start;
	char *runas = NULL;

	begin_consumer(&consumer, fcinfo, "poser_datasync_add()");
	poser_check_owner(consumer.relid);
	if (NameStr(*consumer.name)[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("consumer must have a name")));
	if (PG_ARGISNULL(1) || PG_ARGISNULL(4) || PG_ARGISNULL(5))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("start, notify and own_changes must not be null")));
	start = text_to_cstring(PG_GETARG_TEXT_PP(1));
	if (strcmp(start, "now") != 0 && strcmp(start, "beginning") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("start must be \"now\" or \"beginning\"")));
	values[0] = NameGetDatum(consumer.name);
	nulls[1] = nulls[2] = 'n';
	if (!PG_ARGISNULL(2))
	{
		values[1] = CStringGetTextDatum(handler_name(PG_GETARG_OID(2), consumer.nspid));
		nulls[1] = ' ';
	}
	if (!PG_ARGISNULL(3))
		runas = text_to_cstring(PG_GETARG_TEXT_PP(3));
	if (runas != NULL && runas[0] != '\0')
	{
		poser_check_setting("poser.runas", runas);
		values[2] = CStringGetTextDatum(runas);
		nulls[2] = ' ';
	}
	values[3] = PG_GETARG_DATUM(4);
	values[4] = PG_GETARG_DATUM(5);

	lock_consumer(&consumer);
	/* pruning must not go on that does not know of it */
	LockRelationOid(poser_relation_by_name("poser_version_horizon", consumer.nspid), ShareUpdateExclusiveLock);
	become_owner(&consumer);
	check_not_pruned(&consumer);
	/* before it is in its table, so that our own transaction may be none of those that are running */
	if (strcmp(start, "now") == 0)
	{
		if (IsolationUsesXactSnapshot())
			check_copy(consumer.nspid);
		consumer.from = take_snapshot(&consumer);
		consumer.changed = true;
	}
	/* what a former consumer of its name has changed is not its own */
	values[5] = Int64GetDatum(sequence_value(consumer.nspid));
	if (poser_execute(psprintf("INSERT INTO %s (consumer, handler, runas, notify, own_changes, own_after)\n"
							   "VALUES ($1, $2, $3, $4, $5, $6)\n"
							   "ON CONFLICT DO NOTHING",
							   poser_relation_name(consumer.relid)),
					  lengthof(argtypes), argtypes, values, nulls, false) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("consumer \"%s\" already exists", NameStr(*consumer.name))));
	save_consumer(&consumer);
	become_caller(&consumer);
	PG_RETURN_VOID();
}

/*
 * poser_datasync_drop(consumer name)
 */
Datum
poser_datasync_drop(PG_FUNCTION_ARGS)
{
	const Oid argtypes[] = {NAMEOID};
	Datum values[lengthof(argtypes)];
	Consumer consumer;

	begin_consumer(&consumer, fcinfo, "poser_datasync_drop()");
	open_consumer(&consumer, true);
	values[0] = NameGetDatum(consumer.name);
	poser_execute(psprintf("DELETE FROM %s WHERE consumer OPERATOR(pg_catalog.=) $1",
						   poser_relation_name(consumer.relid)),
				  lengthof(argtypes), argtypes, values, NULL, false);
	become_caller(&consumer);
	PG_RETURN_VOID();
}

/* Change who may work for a consumer. */
static void
change_roles(FunctionCallInfo fcinfo, const char *function, const char *query)
{
	const Oid argtypes[] = {NAMEOID, NAMEOID};
	Datum values[lengthof(argtypes)];
	Consumer consumer;

	begin_consumer(&consumer, fcinfo, function);
	poser_check_owner(consumer.relid);
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("role must not be null")));
	become_owner(&consumer);
	read_consumer(&consumer, false);
	values[0] = NameGetDatum(consumer.name);
	values[1] = PG_GETARG_DATUM(1);
	(void) update_consumer(&consumer, psprintf(query, poser_relation_name(consumer.relid)),
						   lengthof(argtypes), argtypes, values, NULL);
	become_caller(&consumer);
}

/*
 * poser_datasync_grant(consumer name, role name)
 */
Datum
poser_datasync_grant(PG_FUNCTION_ARGS)
{
	if (!PG_ARGISNULL(1) && strcmp(NameStr(*PG_GETARG_NAME(1)), "public") != 0)
		(void) get_role_oid(NameStr(*PG_GETARG_NAME(1)), false);
	change_roles(fcinfo, "poser_datasync_grant()",
				 "UPDATE %s SET roles = pg_catalog.array_append(roles, $2)\n"
				 " WHERE consumer OPERATOR(pg_catalog.=) $1\n"
				 "   AND NOT $2 OPERATOR(pg_catalog.=) ANY (roles)");
	PG_RETURN_VOID();
}

/*
 * poser_datasync_revoke(consumer name, role name)
 */
Datum
poser_datasync_revoke(PG_FUNCTION_ARGS)
{
	change_roles(fcinfo, "poser_datasync_revoke()",
				 "UPDATE %s SET roles = pg_catalog.array_remove(roles, $2)\n"
				 " WHERE consumer OPERATOR(pg_catalog.=) $1\n"
				 "   AND $2 OPERATOR(pg_catalog.=) ANY (roles)");
	PG_RETURN_VOID();
}

/*
 * Watching
 */

/*
 * How many changes the consumer has not confirmed, as the active snapshot sees
 * it; if there are any, when the oldest transaction of them was issued, and the
 * least id of one.
 */
static int64
count_pending(Consumer *consumer, const PoserVersioned *tables, TimestampTz *oldest, int64 *transaction_id)
{
	const Oid argtypes[] = {NAMEOID, PG_SNAPSHOTOID, PG_SNAPSHOTOID, INT8OID, INT8OID, INT8OID};
	Datum values[lengthof(argtypes)];
	char nulls[] = "      ";
	StringInfoData sql;
	struct varlena *seen = is_open(consumer) ? consumer->to : consumer->from;
	int64 least = consumer->confirmed;
	int64 result;
	int level;
	bool isnull;

	/* what is confirmed in the window, or by a restore, is by its change_id */
	if (seen != NULL)
	{
		int64 first = first_transaction(consumer->nspid, seen, NULL);

		if (first == 0 && !is_open(consumer))
			return 0;
		if (!is_open(consumer) || (first > 0 && first < least))
			least = first;
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
					 " WHERE " NOT_BEFORE "\n"
					 "   AND ($3 IS NULL OR v.change_id OPERATOR(pg_catalog.>) $6\n"
					 "        OR NOT pg_catalog.pg_visible_in_snapshot(t.xact, $3))\n"
					 "   AND " NOT_ITS_OWN,
					 poser_relation_name(tables[0].transactions));
	put_consumer(consumer, values, nulls);
	values[4] = Int64GetDatum(least);
	values[5] = Int64GetDatum(consumer->confirmed);
	/* planned for these values: there may be none or millions */
	level = begin_reading();
	if (SPI_execute_with_args(sql.data, lengthof(argtypes), (Oid *) argtypes, values, nulls, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "SPI_execute_with_args failed: %s", SPI_result_code_string(SPI_result));
	AtEOXact_GUC(true, level);
	result = result_int64(1);
	if (result > 0)
	{
		*oldest = DatumGetTimestampTz(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull));
		*transaction_id = result_int64(3);
	}
	return result;
}

/*
 * poser_datasync_pending(consumer name) returns record
 *
 * For whoever may read poser_datasync_status, which calls it for each consumer.
 */
Datum
poser_datasync_pending(PG_FUNCTION_ARGS)
{
	PoserVersioned tables[POSER_VERSIONED_TABLES];
	Consumer consumer;
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
	init_consumer(&consumer, PG_GETARG_NAME(0), consumers_of(fcinfo));
	status = poser_relation_by_name("poser_datasync_status", consumer.nspid);
	if (!poser_is_owner(consumer.relid, GetUserId()) &&
		pg_class_aclcheck(status, GetUserId(), ACL_SELECT) != ACLCHECK_OK &&
		pg_attribute_aclcheck_all(status, GetUserId(), ACL_SELECT, ACLMASK_ANY) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_VIEW, "poser_datasync_status");

	become_owner(&consumer);
	/* what the query sees */
	PushActiveSnapshot(snapshot);
	poser_lock_to_read(&consumer.relid, 1);
	read_consumer(&consumer, false);
	describe_history(tables, consumer.nspid);
	pending = count_pending(&consumer, tables, &oldest, &transaction_id);
	PopActiveSnapshot();
	become_caller(&consumer);

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
 * The table of consumers of the extension that has this table of transactions, or
 * InvalidOid: before 1.4 another relation may have the name.
 */
static Oid
consumers_beside(Oid transactions)
{
	Oid relid = get_relname_relid("poser_datasync_consumer", get_rel_namespace(transactions));
	Oid extension = getExtensionOfObject(RelationRelationId, transactions);

	if (OidIsValid(relid) && OidIsValid(extension) && get_rel_relkind(relid) == RELKIND_RELATION &&
		getExtensionOfObject(RelationRelationId, relid) == extension)
		return relid;
	return InvalidOid;
}

/*
 * The least id of a transaction with changes that a consumer has not confirmed,
 * or PG_INT64_MAX.  To be called between SPI_connect() and SPI_finish(), with the
 * owner's rights and with the tables locked.
 */
static int64
first_needed(const PoserVersioned *tables)
{
	Oid relid = consumers_beside(tables[0].transactions);
	SPITupleTable *consumers;
	int64 result = PG_INT64_MAX;

	if (!OidIsValid(relid))
		return result;
	LockRelationOid(relid, AccessShareLock);
	PushActiveSnapshot(GetLatestSnapshot());
	poser_execute(psprintf("SELECT consumer FROM %s", poser_relation_name(relid)), 0, NULL, NULL, NULL, true);
	consumers = SPI_tuptable;
	for (uint64 i = 0; i < consumers->numvals; i++)
	{
		Consumer consumer;
		TimestampTz oldest;
		int64 transaction_id;
		bool isnull;

		CHECK_FOR_INTERRUPTS();
		poser_check_type(consumers->tupdesc, 1, NAMEOID);
		init_consumer(&consumer, DatumGetName(SPI_getbinval(consumers->vals[i], consumers->tupdesc, 1, &isnull)), relid);
		read_consumer(&consumer, false);
		if (count_pending(&consumer, tables, &oldest, &transaction_id) > 0)
			result = Min(result, transaction_id);
	}
	PopActiveSnapshot();
	return result;
}

/*
 * Restoring and replicating consumers
 */

/*
 * poser_datasync_arrive() before each row that is inserted, or that replication
 * updates: transaction ids mean something only in the cluster where they were
 * given, so the position becomes one without them.
 */
Datum
poser_datasync_arrive(PG_FUNCTION_ARGS)
{
	static const struct
	{
		const char *name;
		Oid type;
	} attributes[] = {
		{"confirmed", INT8OID}, {"delivered", INT8OID}, {"last_change", INT8OID}, {"settled", INT8OID}, /* not null */
		{"from_snapshot", PG_SNAPSHOTOID},
		{"to_snapshot", PG_SNAPSHOTOID},
		{"next_settled", INT8OID},
		{"next_settled_xact", XID8OID}};
	TriggerData *trigdata = poser_check_trigger(fcinfo);
	TriggerEvent event = trigdata->tg_event;
	Relation rel = trigdata->tg_relation;
	TupleDesc desc = RelationGetDescr(rel);
	HeapTuple tuple = TRIGGER_FIRED_BY_UPDATE(event) ? trigdata->tg_newtuple : trigdata->tg_trigtuple;
	int columns[lengthof(attributes)];
	Datum values[lengthof(attributes)];
	bool isnull[lengthof(attributes)] = {false};
	int64 confirmed;
	int column;

	if (!TRIGGER_FIRED_FOR_ROW(event) || !TRIGGER_FIRED_BEFORE(event) ||
		!(TRIGGER_FIRED_BY_INSERT(event) || TRIGGER_FIRED_BY_UPDATE(event)))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" must fire before each row of INSERT or UPDATE",
						trigdata->tg_trigger->tgname)));
	/* sessions that have looked hear of it; statements' triggers do not fire for replication */
	column = column_of(rel, "notify", BOOLOID);
	if (TRIGGER_FIRED_BY_INSERT(event) ||
		heap_getattr(tuple, column, desc, &isnull[0]) != heap_getattr(trigdata->tg_trigtuple, column, desc, &isnull[0]))
		CacheInvalidateRelcacheByRelid(RelationGetRelid(rel));

	/* when all of a table's triggers have been enabled, this one fires for what is no replication */
	if (TRIGGER_FIRED_BY_UPDATE(event) &&
		((writing != NULL && writing->relid == RelationGetRelid(rel)) ||
		 SessionReplicationRole != SESSION_REPLICATION_ROLE_REPLICA))
		return PointerGetDatum(tuple);

	for (int i = 0; i < lengthof(attributes); i++)
	{
		columns[i] = column_of(rel, attributes[i].name, attributes[i].type);
		values[i] = heap_getattr(tuple, columns[i], desc, &isnull[i]);
		/* the constraint will say so */
		if (i < 4 && isnull[i])
			return PointerGetDatum(tuple);
	}

	/* what is not confirmed comes after this; where there has been no snapshot it says so itself */
	confirmed = DatumGetInt64(values[0]);
	if (!isnull[5])
		confirmed = Min(confirmed, DatumGetInt64(values[3]));
	else if (!isnull[4])
		confirmed = DatumGetInt64(values[3]);
	for (int i = 0; i < 4; i++)
		values[i] = Int64GetDatum(confirmed);
	for (int i = 4; i < lengthof(attributes); i++)
		isnull[i] = true;
	return PointerGetDatum(heap_modify_tuple_by_cols(tuple, desc, lengthof(attributes), columns, values, isnull));
}

/*
 * NOTIFY
 */

/*
 * poser_datasync_changed() after statements that may change which consumers ask
 * for NOTIFY: all sessions hear of it when they are to commit next.
 */
Datum
poser_datasync_changed(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = poser_check_trigger(fcinfo);

	CacheInvalidateRelcacheByRelid(RelationGetRelid(trigdata->tg_relation));
	return PointerGetDatum(NULL);
}

/* Look again with the next commit, if the relation is the consumers'. */
static void
forget_notify(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == notify_relid)
		notify_known = false;
}

/*
 * Look whether a consumer asks for NOTIFY; *certain says whether that is so until
 * somebody says otherwise.  What others have not committed counts, and so does a
 * table that cannot be looked at now: a NOTIFY too many does no harm.
 */
static bool
look_for_notify(Oid relid, bool *certain)
{
	Relation rel;
	int column;
	SnapshotData snapshot;
	TupleTableSlot *slot;
	TableScanDesc scan;
	bool result = false;

	*certain = false;
	/* nobody waits for this at his commit */
	if (!ConditionalLockRelationOid(relid, AccessShareLock))
		return true;
	rel = try_relation_open(relid, NoLock);
	if (rel == NULL)
		return false;

	*certain = true;
	column = SPI_fnumber(RelationGetDescr(rel), "notify");
	/* it is no read that a SERIALIZABLE transaction would have to answer for */
	InitDirtySnapshot(snapshot);
	slot = table_slot_create(rel, NULL);
	scan = table_beginscan(rel, &snapshot, 0, NULL, SO_NONE);
	/* a column that is not what it should be is poser_check()'s to tell, not every writer's */
	while (column > 0 && SPI_gettypeid(RelationGetDescr(rel), column) == BOOLOID &&
		   table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		bool isnull;

		CHECK_FOR_INTERRUPTS();
		if (!DatumGetBool(slot_getattr(slot, column, &isnull)))
			continue;
		/* what is not committed may be undone, of which nobody hears */
		*certain = (result && *certain) || !TransactionIdIsValid(snapshot.xmin);
		result = true;
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	relation_close(rel, AccessShareLock);
	return result;
}

/*
 * A transaction that has changed something is about to be committed: notify if a
 * consumer asks for it.  NOTIFY has commits wait for each other.  A transaction that
 * has notified could not be prepared.
 */
static void
notify_before_commit(XactEvent event, void *arg)
{
	Oid transactions;
	int64 transaction_id;

	if (event != XACT_EVENT_PRE_COMMIT)
		return;
	transaction_id = poser_version_last_written(&transactions);
	if (transaction_id == 0)
		return;
	AcceptInvalidationMessages();
	if (!notify_known)
	{
		notify_relid = consumers_beside(transactions);
		notify_wanted = OidIsValid(notify_relid) && look_for_notify(notify_relid, &notify_known);
	}
	if (notify_wanted)
	{
		char *payload = psprintf("%lld", (long long) transaction_id);

		Async_Notify(CHANNEL, payload);
		pfree(payload);
	}
}

void
poser_datasync_init(void)
{
	DefineCustomIntVariable("poser.datasync_stale_after",
							"How old a change must be for a consumer that has not confirmed it to be stale.",
							"In poser_datasync_status and poser_datasync_stale().",
							&stale_after, 3600, 0, INT_MAX, PGC_USERSET, GUC_UNIT_S,
							NULL, NULL, NULL);
	poser_first_needed_hook = first_needed;
	RegisterXactCallback(notify_before_commit, NULL);
	CacheRegisterRelcacheCallback(forget_notify, (Datum) 0);
}
