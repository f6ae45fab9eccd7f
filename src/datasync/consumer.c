/*
 * consumer.c
 *	  The rows of consumers: reading, writing and locking them.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/xid8.h"

#include "datasync/consumer.h"

PoserRunningHandler *poser_running_handlers = NULL;

/* The consumer whose row we are writing, or NULL. */
static const PoserConsumer *writing = NULL;

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
void
poser_consumer_become_owner(PoserConsumer *consumer)
{
	poser_become_owner(consumer->relid, &consumer->caller, &consumer->caller_context);
	SPI_connect();
	PushActiveSnapshot(current_snapshot());
	poser_check_rewritten(consumer->relid, GetActiveSnapshot());
}

/* Go back to the caller, whom poser_consumer_become_owner() was called by. */
void
poser_consumer_become_caller(PoserConsumer *consumer)
{
	PopActiveSnapshot();
	SPI_finish();
	SetUserIdAndSecContext(consumer->caller, consumer->caller_context);
}

/* See what has been written since, also by ourselves. */
void
poser_renew_snapshot(void)
{
	PopActiveSnapshot();
	PushActiveSnapshot(current_snapshot());
}

/* A number in the first row of the last result; 0 for null. */
int64
poser_datasync_int64(int column)
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
char *
poser_datasync_relation(Oid nspid, const char *name)
{
	return poser_relation_name(poser_relation_by_name(name, nspid));
}

/*
 * Rows of consumers
 */

/* A consumer that is not looked up yet. */
void
poser_consumer_init(PoserConsumer *consumer, Name name, Oid relid)
{
	memset(consumer, 0, sizeof(PoserConsumer));
	consumer->name = name;
	consumer->nspid = get_rel_namespace(relid);
	consumer->relid = relid;
	consumer->context = CurrentMemoryContext;
}

/* The table of consumers that is beside a function. */
Oid
poser_consumer_table(FunctionCallInfo fcinfo)
{
	return poser_relation_by_name("poser_datasync_consumer", get_func_namespace(fcinfo->flinfo->fn_oid));
}

/*
 * The table of consumers of the extension that has this table of transactions, or
 * InvalidOid: before 1.4 another relation may have the name.
 */
Oid
poser_consumer_table_beside(Oid transactions)
{
	Oid relid = get_relname_relid("poser_datasync_consumer", get_rel_namespace(transactions));
	Oid extension = getExtensionOfObject(RelationRelationId, transactions);

	if (OidIsValid(relid) && OidIsValid(extension) && get_rel_relkind(relid) == RELKIND_RELATION &&
		getExtensionOfObject(RelationRelationId, relid) == extension)
		return relid;
	return InvalidOid;
}

/* The consumer that a function was called for. */
void
poser_consumer_argument(PoserConsumer *consumer, FunctionCallInfo fcinfo, const char *function)
{
	PreventCommandIfReadOnly(function);
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("consumer must not be null")));
	poser_consumer_init(consumer, PG_GETARG_NAME(0), poser_consumer_table(fcinfo));
}

static void
no_such_consumer(PoserConsumer *consumer)
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
void
poser_consumer_read(PoserConsumer *consumer, bool lock)
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
bool
poser_consumer_update(PoserConsumer *consumer, const char *query, int nargs, const Oid *argtypes, const Datum *values,
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

/* Is the row of a consumer of this table being written by poser_consumer_update()? */
bool
poser_consumer_is_updating(Oid relid)
{
	return writing != NULL && writing->relid == relid;
}

/* A snapshot as a parameter of a query. */
void
poser_snapshot_parameter(struct varlena *snapshot, Datum *value, char *null)
{
	*value = PointerGetDatum(snapshot);
	*null = snapshot == NULL ? 'n' : ' ';
}

/* Write where the consumer is. */
void
poser_consumer_save(PoserConsumer *consumer)
{
	const Oid argtypes[] = {NAMEOID, PG_SNAPSHOTOID, PG_SNAPSHOTOID, INT8OID, INT8OID, INT8OID,
							INT8OID, INT8OID, XID8OID, BOOLOID, INT4OID, TEXTOID, BOOLOID, INT8OID};
	Datum values[lengthof(argtypes)];
	char nulls[] = "              ";

	if (!consumer->changed)
		return;
	values[0] = NameGetDatum(consumer->name);
	poser_snapshot_parameter(consumer->from, &values[1], &nulls[1]);
	poser_snapshot_parameter(consumer->to, &values[2], &nulls[2]);
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
	if (!poser_consumer_update(consumer,
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
check_granted(PoserConsumer *consumer)
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
void
poser_consumer_lock(PoserConsumer *consumer)
{
	uint64 hash = DatumGetUInt64(hash_any_extended((unsigned char *) NameStr(*consumer->name),
												   strlen(NameStr(*consumer->name)), 0));
	LOCKTAG tag;

	for (PoserRunningHandler *outer = poser_running_handlers; outer != NULL; outer = outer->outer)
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
void
poser_consumer_open(PoserConsumer *consumer, bool only_owner)
{
	bool is_owner = poser_is_owner(consumer->relid, GetUserId());

	if (only_owner)
		poser_check_owner(consumer->relid);
	poser_consumer_become_owner(consumer);
	if (!is_owner)
		check_granted(consumer);
	poser_consumer_lock(consumer);
	/* whoever had the lock may have moved it on */
	poser_renew_snapshot();
	poser_consumer_read(consumer, true);
}
