/*
 * consumer.c
 *	  A consumer's row: reading, writing and locking it, and acting as its owner.
 *
 * poser_datasync_consumer has a row for each consumer: its position in the history, and
 * the state of its handler.  No role but the owner has privileges on the table.  A
 * function that works for a consumer first checks its caller, which must be the owner or
 * a member of a role in the consumer's column "roles".  Then the function acts as the
 * owner: it reads and writes the table, and reads the history, with the owner's rights.
 *
 * The invariant: a consumer has one worker at a time.  A function that moves the position
 * locks the consumer until the end of its transaction, and reads the position after the
 * lock.  So no other session moves the position in between.
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

#include "datasync/datasync_internal.h"

PoserRunningHandler *poser_running_handlers = NULL;

/* The consumer while poser_consumer_update() writes its row, otherwise NULL. */
static const PoserConsumer *updated_consumer = NULL;

/*
 * Acting as the owner
 */

/* Returns the latest snapshot; in REPEATABLE READ and SERIALIZABLE, the transaction's. */
static Snapshot
current_snapshot(void)
{
	return IsolationUsesXactSnapshot() ? GetTransactionSnapshot() : GetLatestSnapshot();
}

/*
 * Become the owner of the consumer's table, connect to SPI and push a snapshot.  The
 * table is locked before the snapshot is taken.  So the snapshot sees all of its rows,
 * even if the table has just been rewritten.  In REPEATABLE READ and SERIALIZABLE the
 * snapshot is the transaction's, and it is an error if the table was rewritten since.
 *
 * poser_consumer_become_caller() undoes all of this, and so does an error.
 */
void
poser_consumer_become_owner(PoserConsumer *consumer)
{
	poser_become_owner(consumer->relid, &consumer->caller);
	SPI_connect();
	PushActiveSnapshot(current_snapshot());
	poser_check_rewritten(consumer->relid, GetActiveSnapshot());
}

/* Undo poser_consumer_become_owner(). */
void
poser_consumer_become_caller(PoserConsumer *consumer)
{
	PopActiveSnapshot();
	SPI_finish();
	poser_become_caller(&consumer->caller);
}

/* Replace the active snapshot by a new one, which sees what has been written since, also by this command. */
void
poser_consumer_renew_snapshot(void)
{
	PopActiveSnapshot();
	PushActiveSnapshot(current_snapshot());
}

/*
 * Finding a consumer
 */

/* Returns the qualified name of one of the extension's relations, for use in SQL. */
char *
poser_datasync_relation_name(Oid nspid, const char *name)
{
	return poser_relation_name(poser_relation_by_name(name, nspid));
}

/* Returns the table of consumers in the schema of the function that is called. */
Oid
poser_consumer_table(FunctionCallInfo fcinfo)
{
	return poser_relation_by_name("poser_datasync_consumer", get_func_namespace(fcinfo->flinfo->fn_oid));
}

/*
 * Returns the table of consumers that belongs to the same extension as this table of
 * transactions, or InvalidOid.  Versions before 1.4 have no such table, and a user's
 * relation may have its name.
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

/* Initialize the struct for a consumer.  Its row is not read. */
void
poser_consumer_init(PoserConsumer *consumer, Name name, Oid relid)
{
	memset(consumer, 0, sizeof(PoserConsumer));
	consumer->name = name;
	consumer->nspid = get_rel_namespace(relid);
	consumer->relid = relid;
	consumer->context = CurrentMemoryContext;
}

/*
 * Initialize the struct for the consumer that a function's first argument names.  Raises an
 * error if the argument is null, or if the transaction is read-only.  The message has the
 * name "function".
 */
void
poser_consumer_from_argument(PoserConsumer *consumer, FunctionCallInfo fcinfo, const char *function)
{
	PreventCommandIfReadOnly(function);
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("consumer must not be null")));
	poser_consumer_init(consumer, PG_GETARG_NAME(0), poser_consumer_table(fcinfo));
}

/* Raises the error for a consumer without a row. */
static void
no_such_consumer(PoserConsumer *consumer)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("consumer \"%s\" does not exist", NameStr(*consumer->name))));
}

/*
 * Reading and writing its row
 */

/* The value in a column of a deformed row; 0 or NULL for null. */
#define INT64_AT(column) (nulls[(column) -1] ? 0 : DatumGetInt64(values[(column) -1]))
#define XID8_AT(column) \
	(nulls[(column) -1] ? 0 : U64FromFullTransactionId(DatumGetFullTransactionId(values[(column) -1])))
#define TEXT_AT(column) (nulls[(column) -1] ? NULL : TextDatumGetCString(values[(column) -1]))
#define SNAPSHOT_AT(column) (nulls[(column) -1] ? NULL : PG_DETOAST_DATUM_COPY(values[(column) -1]))

/*
 * Read the consumer's row with the active snapshot.  Raises an error if there is no
 * such row.  The caller acts as the owner.
 *
 * With "lock", in REPEATABLE READ and SERIALIZABLE, the row is locked, too.  This raises a
 * serialization failure if another session has changed the row since the transaction's
 * snapshot was taken.
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
	char *sql;

	lock = lock && IsolationUsesXactSnapshot();
	sql = psprintf("SELECT handler, runas, own_changes,\n"
				   "       from_snapshot, to_snapshot, confirmed, delivered, last_change,\n"
				   "       settled, next_settled, next_settled_xact, attempts, last_error, failed_change_id, own_after\n"
				   "  FROM %s\n"
				   " WHERE consumer OPERATOR(pg_catalog.=) $1%s",
				   poser_relation_name(consumer->relid), lock ? " FOR NO KEY UPDATE" : "");
	if (poser_run(&(PoserQuery) {.sql = sql, .nargs = 1, .argtypes = argtypes, .values = &name, .read_only = !lock}) == 0)
		no_such_consumer(consumer);

	/* a user may have changed the columns' types */
	for (int i = 0; i < lengthof(types); i++)
		poser_check_type(NULL, SPI_tuptable->tupdesc, i + 1, types[i]);
	heap_deform_tuple(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, values, nulls);

	/* copies, because the row is freed */
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
	poser_consumer_read_tables(consumer);
}

/*
 * Read which tables the consumer gets the changes of, with the active snapshot.  Raises an
 * error if the consumer has no row.  The caller acts as the owner.  Before 1.6 the table has
 * no such columns, and a consumer gets the changes of all tables that there are.
 */
void
poser_consumer_read_tables(PoserConsumer *consumer)
{
	static const Oid types[] = {REGCLASSARRAYOID, BOOLOID, TEXTARRAYOID};
	const Oid argtypes[] = {NAMEOID};
	Datum name = NameGetDatum(consumer->name);
	Datum values[lengthof(types)];
	bool nulls[lengthof(types)];
	MemoryContext old;

	consumer->tables = NULL;
	consumer->table_names = NULL;
	consumer->old_values = false;
	if (get_attnum(consumer->relid, "tables") == InvalidAttrNumber)
		return;
	if (poser_run(&(PoserQuery) {
			.sql = psprintf("SELECT tables, old_values, table_names\n"
							"  FROM %s\n"
							" WHERE consumer OPERATOR(pg_catalog.=) $1",
							poser_relation_name(consumer->relid)),
			.nargs = 1,
			.argtypes = argtypes,
			.values = &name,
			.read_only = true}) == 0)
		no_such_consumer(consumer);

	/* a user may have changed the columns' types */
	for (int i = 0; i < lengthof(types); i++)
		poser_check_type(NULL, SPI_tuptable->tupdesc, i + 1, types[i]);
	heap_deform_tuple(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, values, nulls);
	old = MemoryContextSwitchTo(consumer->context);
	if (!nulls[0])
		consumer->tables = DatumGetArrayTypePCopy(values[0]);
	consumer->old_values = !nulls[1] && DatumGetBool(values[1]);
	if (!nulls[2])
		consumer->table_names = DatumGetArrayTypePCopy(values[2]);
	MemoryContextSwitchTo(old);
	SPI_freetuptable(SPI_tuptable);
}

/*
 * Run a statement that updates the consumer's row.  Returns whether it has updated a
 * row.  While it runs, poser_consumer_is_updating() returns true.
 */
bool
poser_consumer_update(PoserConsumer *consumer, const PoserQuery *query)
{
	bool result;

	updated_consumer = consumer;
	PG_TRY();
	{
		result = poser_run(query) > 0;
	}
	PG_FINALLY();
	{
		updated_consumer = NULL;
	}
	PG_END_TRY();
	return result;
}

/* Is poser_consumer_update() writing a row of this table? */
bool
poser_consumer_is_updating(Oid relid)
{
	return updated_consumer != NULL && updated_consumer->relid == relid;
}

/* Set a query's parameter to a snapshot, or to null if it is NULL. */
void
poser_snapshot_parameter(struct varlena *snapshot, Datum *value, char *null)
{
	*value = PointerGetDatum(snapshot);
	*null = snapshot == NULL ? 'n' : ' ';
}

/* Write the consumer's row if the struct was changed.  Raises an error if the row no longer exists. */
void
poser_consumer_save(PoserConsumer *consumer)
{
	const Oid argtypes[] = {NAMEOID, PG_SNAPSHOTOID, PG_SNAPSHOTOID, INT8OID, INT8OID, INT8OID,
							INT8OID, INT8OID, XID8OID, BOOLOID, INT4OID, TEXTOID, BOOLOID, INT8OID};
	Datum values[lengthof(argtypes)];
	char nulls[] = "              ";
	char *sql;
	PoserQuery query;

	/* nothing has changed, so write nothing */
	if (!consumer->changed)
		return;

	/* the parameters; null is written for the values that can be null */
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
	values[12] = BoolGetDatum(consumer->has_failed);
	values[13] = Int64GetDatum(consumer->failed_change);
	nulls[13] = consumer->failed_change == 0 ? 'n' : ' ';
	/* the statement */
	sql = psprintf("UPDATE %s\n"
				   "   SET from_snapshot = $2, to_snapshot = $3, confirmed = $4, delivered = $5, last_change = $6,\n"
				   "       settled = $7, next_settled = $8, next_settled_xact = $9,\n"
				   "       last_confirmed_at = CASE WHEN $10 THEN pg_catalog.clock_timestamp() ELSE last_confirmed_at END,\n"
				   "       attempts = $11, last_error = $12,\n"
				   "       last_failed_at = CASE WHEN $13 THEN pg_catalog.clock_timestamp() ELSE last_failed_at END,\n"
				   "       failed_change_id = $14\n"
				   " WHERE consumer OPERATOR(pg_catalog.=) $1",
				   poser_relation_name(consumer->relid));
	query = (PoserQuery) {.sql = sql, .nargs = lengthof(argtypes), .argtypes = argtypes, .values = values, .nulls = nulls};
	if (!poser_consumer_update(consumer, &query))
		no_such_consumer(consumer);
	consumer->changed = false;
}

/*
 * Taking hold of a consumer
 */

/*
 * Raises an error unless the caller is a member of a role in the consumer's column
 * "roles", or "public" is in this column.  The calling function acts as the owner.
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
	char *sql;

	/* read the roles of the consumer */
	sql = psprintf("SELECT roles FROM %s WHERE consumer OPERATOR(pg_catalog.=) $1",
				   poser_relation_name(consumer->relid));
	if (poser_run(&(PoserQuery) {.sql = sql, .nargs = 1, .argtypes = argtypes, .values = &name, .read_only = true}) == 0)
		no_such_consumer(consumer);
	poser_check_type(NULL, SPI_tuptable->tupdesc, 1, NAMEARRAYOID);
	value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	if (!isnull)
		deconstruct_array(DatumGetArrayTypeP(value), NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR, &names, &nulls, &n);

	/* the caller must be a member of one of them */
	for (int i = 0; i < n; i++)
	{
		/* a role that has been dropped since is ignored */
		const char *role = nulls[i] ? "" : NameStr(*DatumGetName(names[i]));
		Oid roleid = get_role_oid(role, true);

		if (strcmp(role, "public") == 0 ||
			(OidIsValid(roleid) && has_privs_of_role(consumer->caller.userid, roleid)))
			return;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied for consumer \"%s\"", NameStr(*consumer->name)),
			 errhint("The owner can allow it by poser_datasync_grant().")));
}

/*
 * Lock the consumer until the end of the transaction.  Never waits: raises an error if
 * another session has the lock, or if this session is running the consumer's handler.
 *
 * It is a lock on an object, given by the table and a hash of the name.  Unlike a lock on
 * a row, it writes nothing and needs no transaction ID.
 */
void
poser_consumer_lock(PoserConsumer *consumer)
{
	uint64 hash = DatumGetUInt64(hash_any_extended((unsigned char *) NameStr(*consumer->name),
												   strlen(NameStr(*consumer->name)), 0));
	LOCKTAG tag;

	/* locks of one session do not conflict, so look at the handlers that this session is running */
	for (PoserRunningHandler *handler = poser_running_handlers; handler != NULL; handler = handler->outer)
		if (namestrcmp(handler->consumer, NameStr(*consumer->name)) == 0)
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
 * Begin to work for a consumer: check the caller, become the owner, lock the consumer and
 * read its row.  With "only_owner" the caller must have the owner's rights.  Undone by
 * poser_consumer_become_caller(); the lock stays until the transaction ends.
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
	/* the last holder of the lock may have moved the position, so take a newer snapshot */
	poser_consumer_renew_snapshot();
	poser_consumer_read(consumer, true);
}
