/*
 * subscription.c
 *	  Adding and dropping consumers, and granting roles the right to work for them.
 *
 * The caller of these functions must have the rights of the owner of the table of
 * consumers.
 *
 * The invariant: no change that comes after a new consumer's position has been pruned.  So
 * poser_datasync_add() locks pruning out until the consumer is committed.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "datasync/datasync_internal.h"

PG_FUNCTION_INFO_V1(poser_datasync_add);
PG_FUNCTION_INFO_V1(poser_datasync_drop);
PG_FUNCTION_INFO_V1(poser_datasync_grant);
PG_FUNCTION_INFO_V1(poser_datasync_revoke);

/*
 * Returns a number that stays the same until the history is pruned again: each pruning
 * that removes versions writes the horizon of their table anew.  The horizons' values tell
 * less, because a pruning can remove only changes before the last one that was pruned.  The
 * horizon of an own table is the comment of its binding, in pg_description.
 *
 *		SELECT (COALESCE((SELECT sum(xmin::text::int8) FROM poser_version_horizon), 0)
 *				+ COALESCE((SELECT sum(xmin::text::int8) FROM pg_description
 *							 WHERE classoid = 'pg_trigger'::regclass AND objoid = ANY ([the bindings: $1])), 0))::int8
 *
 * A newer snapshot may replace the active one, see poser_lock_to_read().
 */
static int64
last_pruning(Oid nspid)
{
	const Oid argtypes[] = {OIDARRAYOID};
	Oid horizon = poser_relation_by_name("poser_version_horizon", nspid);
	List *bindings = poser_tracked_bindings(nspid);
	Datum *oids = palloc(Max(list_length(bindings), 1) * sizeof(Datum));
	Datum values[1];
	int n = 0;
	ListCell *lc;

	foreach(lc, bindings)
	{
		oids[n++] = ObjectIdGetDatum(((PoserTracked *) lfirst(lc))->binding);
	}
	values[0] = PointerGetDatum(construct_array(oids, n, OIDOID, sizeof(Oid), true, TYPALIGN_INT));

	poser_lock_to_read(&horizon, 1);
	poser_run(&(PoserQuery) {
		.sql = psprintf("SELECT (COALESCE((SELECT pg_catalog.sum(xmin::pg_catalog.text::pg_catalog.int8) FROM %s), 0)\n"
						"        OPERATOR(pg_catalog.+)\n"
						"        COALESCE((SELECT pg_catalog.sum(xmin::pg_catalog.text::pg_catalog.int8)\n"
						"                    FROM pg_catalog.pg_description\n"
						"                   WHERE classoid OPERATOR(pg_catalog.=) 'pg_catalog.pg_trigger'::pg_catalog.regclass\n"
						"                     AND objoid OPERATOR(pg_catalog.=) ANY ($1)), 0))::pg_catalog.int8",
						poser_relation_name(horizon)),
		.nargs = lengthof(argtypes),
		.argtypes = argtypes,
		.values = values,
		.read_only = true,
	});
	return poser_result_int64(1, NULL);
}

/*
 * Raises an error if the history has been pruned since the active snapshot was taken.  A
 * consumer with this snapshot as its position may need changes that pruning has removed.
 * The caller acts as the owner, and has locked pruning out.
 */
static void
check_not_pruned(PoserConsumer *consumer)
{
	int64 seen = last_pruning(consumer->nspid);

	PushActiveSnapshot(GetLatestSnapshot());
	if (last_pruning(consumer->nspid) != seen)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to versions that have been pruned")));
	PopActiveSnapshot();
}

/*
 * Make sure that the transaction can copy the tables with its snapshot.
 *
 * In REPEATABLE READ and SERIALIZABLE a consumer can begin with a copy of the tables:
 * the transaction copies them, and the consumer gets the changes that the transaction's
 * snapshot does not see.  If a table was rewritten since the snapshot was taken, the copy
 * would be empty, so this is an error.  The tables are locked, so that no table is
 * rewritten before the copy is made.
 */
static void
check_copy(PoserConsumer *consumer)
{
	ListCell *lc;

	foreach(lc, poser_feed_tables(consumer, NULL, false))
	{
		CHECK_FOR_INTERRUPTS();
		poser_lock_to_read(&((PoserFeedTable *) lfirst(lc))->tracked.relid, 1);
	}
}

/*
 * poser_datasync_add(consumer name, start text, handler regprocedure, runas text,
 *					  notify boolean, own_changes boolean, tables regclass[], old_values boolean)
 *
 * Before 1.6 it has no tables and old_values.
 */
Datum
poser_datasync_add(PG_FUNCTION_ARGS)
{
	const Oid argtypes[] = {NAMEOID, TEXTOID, TEXTOID, BOOLOID, BOOLOID, INT8OID, REGCLASSARRAYOID, BOOLOID, TEXTARRAYOID};
	const int nargs = PG_NARGS() > 6 ? lengthof(argtypes) : 6;
	Datum values[lengthof(argtypes)];
	char nulls[] = "         ";
	PoserConsumer consumer;
	char *start;
	char *runas = NULL;
	char *sql;

	/* check the arguments */
	poser_consumer_from_argument(&consumer, fcinfo, "poser_datasync_add()");
	poser_check_owner(consumer.relid);
	if (NameStr(*consumer.name)[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("consumer must have a name")));
	if (PG_ARGISNULL(1) || PG_ARGISNULL(4) || PG_ARGISNULL(5))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("start, notify and own_changes must not be null")));
	if (PG_NARGS() > 7 && PG_ARGISNULL(7))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("old_values must not be null")));
	start = text_to_cstring(PG_GETARG_TEXT_PP(1));
	if (strcmp(start, "now") != 0 && strcmp(start, "beginning") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("start must be \"now\" or \"beginning\"")));
	/* the values of the consumer's row */
	values[0] = NameGetDatum(consumer.name);
	nulls[1] = nulls[2] = 'n';
	if (!PG_ARGISNULL(2))
	{
		values[1] = CStringGetTextDatum(poser_handler_name(PG_GETARG_OID(2), consumer.nspid));
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

	/* Lock pruning out until the consumer is committed, because pruning does not see it before. */
	poser_consumer_lock(&consumer);
	LockRelationOid(poser_relation_by_name("poser_version_horizon", consumer.nspid), ShareUpdateExclusiveLock);
	poser_consumer_become_owner(&consumer);
	check_not_pruned(&consumer);

	/* the tables */
	if (nargs > 6)
	{
		nulls[6] = nulls[8] = 'n';
		values[7] = PG_GETARG_DATUM(7);
		if (!PG_ARGISNULL(6))
		{
			consumer.tables = poser_tables_check(PG_GETARG_ARRAYTYPE_P(6), consumer.nspid);
			consumer.table_names = poser_tables_name(consumer.tables);
			values[6] = PointerGetDatum(consumer.tables);
			values[8] = PointerGetDatum(consumer.table_names);
			nulls[6] = nulls[8] = ' ';
		}
	}

	/*
	 * Take the position before the row is inserted.  The INSERT gives this transaction a
	 * transaction ID, which the snapshot would list as running.  Later calls are cheaper
	 * if the snapshot lists no transaction.
	 */
	if (strcmp(start, "now") == 0)
	{
		if (IsolationUsesXactSnapshot())
			check_copy(&consumer);
		consumer.from = poser_take_snapshot(&consumer);
		consumer.changed = true;
	}

	/* an earlier consumer may have had this name; changes of its handler do not count as this consumer's own */
	values[5] = Int64GetDatum(poser_last_change_id(consumer.nspid));
	sql = psprintf("INSERT INTO %s (consumer, handler, runas, notify, own_changes, own_after%s)\n"
				   "VALUES ($1, $2, $3, $4, $5, $6%s)\n"
				   "ON CONFLICT DO NOTHING",
				   poser_relation_name(consumer.relid),
				   nargs > 6 ? ", tables, old_values, table_names" : "", nargs > 6 ? ", $7, $8, $9" : "");
	if (poser_run(&(PoserQuery) {.sql = sql, .nargs = nargs, .argtypes = argtypes, .values = values, .nulls = nulls}) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("consumer \"%s\" already exists", NameStr(*consumer.name))));

	/* write the position by an UPDATE: at the INSERT the trigger poser_datasync_arrive removes a snapshot */
	poser_consumer_save(&consumer);
	poser_consumer_become_caller(&consumer);
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
	PoserConsumer consumer;
	char *sql;

	poser_consumer_from_argument(&consumer, fcinfo, "poser_datasync_drop()");
	poser_consumer_open(&consumer, true);
	values[0] = NameGetDatum(consumer.name);
	sql = psprintf("DELETE FROM %s WHERE consumer OPERATOR(pg_catalog.=) $1", poser_relation_name(consumer.relid));
	poser_run(&(PoserQuery) {.sql = sql, .nargs = lengthof(argtypes), .argtypes = argtypes, .values = values});
	poser_consumer_become_caller(&consumer);
	PG_RETURN_VOID();
}

/*
 * Change a consumer's column "roles".  "format" is the UPDATE with %s for the table.  Its
 * parameters are the function's arguments: $1 is the consumer, and $2 is the role.
 */
static void
change_roles(FunctionCallInfo fcinfo, const char *function, const char *format)
{
	const Oid argtypes[] = {NAMEOID, NAMEOID};
	Datum values[lengthof(argtypes)];
	PoserConsumer consumer;
	char *sql;

	poser_consumer_from_argument(&consumer, fcinfo, function);
	poser_check_owner(consumer.relid);
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("role must not be null")));
	poser_consumer_become_owner(&consumer);
	/* this raises an error if there is no such consumer */
	poser_consumer_read(&consumer, false);
	values[0] = NameGetDatum(consumer.name);
	values[1] = PG_GETARG_DATUM(1);
	sql = psprintf(format, poser_relation_name(consumer.relid));
	(void) poser_consumer_update(&consumer, &(PoserQuery) {.sql = sql, .nargs = lengthof(argtypes), .argtypes = argtypes, .values = values});
	poser_consumer_become_caller(&consumer);
}

/*
 * poser_datasync_grant(consumer name, role name)
 */
Datum
poser_datasync_grant(PG_FUNCTION_ARGS)
{
	/* it must be a role, or "public" */
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
