/*
 * check_own.c
 *	  Checking the tables that users have tracked by poser_track().
 *
 * versions/tracked_state.c says what is wrong with the binding, the triggers, the key and
 * the names of columns.  The queries here check the rest of the structure and, if the
 * history can be described, the rows.
 *
 * Each table is checked in a subtransaction of its own, which is rolled back at the end.
 * So the locks on 1,000 tables are not held at the same time, and an error in one table
 * becomes a line of the result.  If all tables are checked, a table that cannot be locked
 * at once is named and left out.
 *
 * The invariant: a query over a table, or its table of versions, runs with the rights of
 * the table's owner, restricted.  Only the ids of versions are compared with
 * poser_transaction with the rights of the owner of that table.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "executor/tstoreReceiver.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "check/check_internal.h"
#include "versions/versions.h"

/*
 * Tables with triggers of the history that have no table of versions: those that were bound,
 * and partitions that were, with the argument 'partition'.  $1 is the schema of the extension.
 */
static const char *const unbound_tables =
	"SELECT DISTINCT t.tgrelid\n"
	"  FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid\n"
	" WHERE p.pronamespace = $1 AND p.proname = 'poser_version'\n"
	"   AND (t.tgnargs = 0 OR encode(t.tgargs, 'hex') = '706172746974696f6e00')\n"
	" ORDER BY t.tgrelid";

/*
 * What is wrong with the structure of a table and its table of versions.  %1$u is the table,
 * %2$u the table of versions, %3$u the trigger that binds them, %4$u the column change_id.
 */
static const char *const check_own_structure =
	"SELECT format('table %%s', c.oid::regclass),\n"
	"       CASE WHEN c.relpersistence <> 'p' THEN 'is not kept over a crash'\n"
	"            ELSE 'is part of an inheritance tree, so that not all changes are seen' END\n"
	"  FROM pg_class AS c\n"
	" WHERE c.oid IN (%1$u, %2$u)\n"
	"   AND (c.relpersistence <> 'p'\n"
	"        OR EXISTS (SELECT FROM pg_inherits\n"
	"                    WHERE (inhparent = c.oid AND c.relkind = 'r') OR (inhrelid = c.oid AND NOT c.relispartition)))\n"
	"UNION ALL\n"
	"SELECT format('table %%s', granted.oid::regclass),\n"
	"       format('can be written by %%s, which has %%s',\n"
	"              CASE granted.grantee WHEN 0 THEN 'PUBLIC' ELSE granted.grantee::regrole::text END,\n"
	"              string_agg(DISTINCT granted.privilege_type, ', ' ORDER BY granted.privilege_type))\n"
	"  FROM (SELECT v.oid, v.relowner, acl.grantee, acl.privilege_type\n"
	"          FROM pg_class AS v, aclexplode(v.relacl) AS acl\n"
	"         WHERE v.oid = %2$u\n"
	"        UNION ALL\n"
	"        SELECT v.oid, v.relowner, acl.grantee, acl.privilege_type\n"
	"          FROM pg_class AS v JOIN pg_attribute AS a ON a.attrelid = v.oid, aclexplode(a.attacl) AS acl\n"
	"         WHERE v.oid = %2$u) AS granted\n"
	" WHERE granted.privilege_type IN ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'TRIGGER')\n"
	"   AND granted.grantee NOT IN (granted.relowner, (SELECT c.relowner FROM pg_class AS c WHERE c.oid = %1$u))\n"
	" GROUP BY granted.oid, granted.grantee\n"
	"UNION ALL\n"
	"SELECT format('table %%s', v.oid::regclass),\n"
	"       format('has no primary key or other unique index on %%s', a.attname)\n"
	"  FROM pg_class AS v JOIN pg_attribute AS a ON a.attrelid = v.oid\n"
	" WHERE v.oid = %2$u AND a.attnum = %4$u\n"
	"   AND NOT EXISTS (SELECT FROM pg_index AS i\n"
	"                    WHERE i.indrelid = v.oid AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL\n"
	/* a unique index of a partitioned table also has the columns of its partition key */
	"                      AND i.indkey[0] = a.attnum AND (i.indnkeyatts = 1 OR v.relkind = 'p'))\n"
	"UNION ALL\n"
	"SELECT format('trigger %%s of %%s', t.tgname, t.tgrelid::regclass),\n"
	"       format('has a comment that does not say how far the history was pruned: %%s', obj_description(t.oid, 'pg_trigger'))\n"
	"  FROM pg_trigger AS t\n"
	" WHERE t.oid = %3$u AND obj_description(t.oid, 'pg_trigger') !~ '^pruned up to transaction [0-9]{1,18}, change [0-9]{1,18}$'\n"
	" ORDER BY 1, 2";

/*
 * Rows that differ from their last version.  %1$s is the table as a literal, %2$s the key as
 * arguments of jsonb_build_object(), %3$s the query of poser_history_append_comparison(),
 * and %4$s whether rows that have no version are left out.
 */
static const char *const check_own_rows =
	"SELECT format('%%s %%s', %1$s, differing.key),\n"
	"       CASE WHEN operation = 2 THEN 'is gone, but its history does not end in a delete'\n"
	"            WHEN operation = 1 THEN 'differs from its last version'\n"
	"            WHEN operation_type = 2 THEN 'is there, but its history ends in a delete'\n"
	"            ELSE 'has no version' END\n"
	"  FROM (SELECT jsonb_build_object(%2$s) AS key, operation, operation_type\n"
	"          FROM (%3$s) AS compared\n"
	"         WHERE operation_type IS NOT NULL OR NOT %4$s) AS differing\n"
	" ORDER BY differing.key";

/*
 * Versions with an operation that cannot follow that of the version before.  %1$s is the
 * table as a literal, %2$s the key as arguments of jsonb_build_object(), %3$s the columns of
 * the key as column_1 and so on, %4$s the columns by which versions are of one row, %5$s the
 * table of versions, %6$s and %7$s its columns change_id and operation_type, %8$u the trigger
 * that binds it.
 */
static const char *const check_own_operations =
	"SELECT format('%%s %%s', %1$s, jsonb_build_object(%2$s)),\n"
	"       CASE WHEN operation NOT BETWEEN 0 AND 2\n"
	"            THEN format('change %%s has the operation_type %%s', change, operation)\n"
	"            WHEN operation = 0\n"
	"            THEN format('change %%s is an insert of a row that was there', change)\n"
	"            WHEN operation = 2\n"
	"            THEN format('change %%s is a delete of a row that was not there', change)\n"
	"            ELSE format('change %%s is of a row that was not there', change) END\n"
	"  FROM (SELECT %3$s, v.%6$s AS change, v.%7$s AS operation,\n"
	"               lag(v.%7$s) OVER (PARTITION BY %4$s ORDER BY v.%6$s) AS before\n"
	"          FROM %5$s AS v) AS version\n"
	" WHERE operation NOT BETWEEN 0 AND 2\n"
	"    OR (before IN (0, 1) AND operation = 0)\n"
	"    OR (before = 2 AND operation <> 0)\n"
	/* versions before the first one may have been pruned */
	"    OR (before IS NULL AND operation <> 0\n"
	"        AND change > COALESCE(substring(obj_description(%8$u, 'pg_trigger'),\n"
	"                                        '^pruned up to transaction [0-9]{1,18}, change ([0-9]{1,18})$')::int8, 0))\n"
	" ORDER BY change";

/* The ids that versions have.  %1$s is the table of versions, %2$s and %3$s its columns transaction_id and change_id. */
static const char *const own_ids =
	"SELECT DISTINCT v.%2$s AS id, false AS is_change FROM %1$s AS v\n"
	"UNION ALL\n"
	"SELECT v.%3$s, true FROM %1$s AS v";

/*
 * Transactions of versions that are missing, ids of versions that a transaction has, and a
 * sequence that is behind.  Rows "ids" are those of the query above.  %1$s is the schema,
 * %2$s the table of versions as a literal, %3$u its OID.
 */
static const char *const check_own_ids =
	"SELECT format('transaction %%s', v.id), format('is missing, and %%s has changes of it', %2$s)\n"
	"  FROM ids AS v\n"
	" WHERE NOT v.is_change AND NOT EXISTS (SELECT FROM %1$s.poser_transaction AS t WHERE t.id = v.id)\n"
	"UNION ALL\n"
	"SELECT format('table %%s', %2$s),\n"
	"       format('has history of another database: change %%s has the id of a transaction', v.id)\n"
	"  FROM ids AS v\n"
	" WHERE v.is_change AND EXISTS (SELECT FROM %1$s.poser_transaction AS t WHERE t.id = v.id)\n"
	"UNION ALL\n"
	"SELECT 'sequence poser_change_id_seq', format('is behind: %%s is in use in %%s', used.id, %2$s)\n"
	"  FROM (SELECT max(v.id) AS id FROM ids AS v) AS used, %1$s.poser_change_id_seq AS s\n"
	" WHERE used.id >= s.last_value + s.is_called::int\n"
	/* on a subscriber the sequence is behind until the subscriber becomes the writer */
	"   AND NOT EXISTS (SELECT FROM pg_subscription_rel WHERE srrelid = %3$u)\n"
	" ORDER BY 1, 2";

/* Find the tables to check, without a lock: those that are bound, and those that have lost their table of versions. */
List *
poser_check_find_own(Oid nspid)
{
	List *bindings = poser_tracked_bindings(nspid);
	List *result = NIL;
	Oid argtypes[] = {OIDOID};
	Datum values[] = {ObjectIdGetDatum(nspid)};
	MemoryContext context = CurrentMemoryContext;
	ListCell *lc;

	foreach(lc, bindings)
	{
		result = list_append_unique_oid(result, ((PoserTracked *) lfirst(lc))->relid);
	}
	PushActiveSnapshot(GetLatestSnapshot());
	SPI_connect();
	(void) poser_run(&(PoserQuery) {
		.sql = unbound_tables,
		.nargs = lengthof(argtypes),
		.argtypes = argtypes,
		.values = values,
		.read_only = true,
		.once = true});
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool isnull;
		Oid relid = DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));
		PoserTracked tracked;
		MemoryContext old;

		/* a partition that has a tracked table above it is checked with that one */
		if (get_rel_relispartition(relid) && poser_tracked_find(relid, nspid, &tracked) && tracked.relid != relid)
			continue;
		old = MemoryContextSwitchTo(context);
		result = list_append_unique_oid(result, relid);
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	PopActiveSnapshot();
	return result;
}

/* Lock a relation.  Without "wait", returns false if this is not possible at once. */
static bool
lock_relation(Oid relid, bool wait)
{
	if (!wait)
		return poser_lock_at_once(relid, AccessShareLock);
	LockRelationOid(relid, AccessShareLock);
	return true;
}

/* Returns the columns of the key as arguments of jsonb_build_object(), with the names that they have in the table. */
static const char *
key_arguments(const PoserVersioned *versioned)
{
	StringInfoData result;

	initStringInfo(&result);
	for (int i = 0; i < versioned->nkeys; i++)
	{
		AttrNumber column = versioned->keys[i];

		appendStringInfo(&result, "%s%s, column_%d", i > 0 ? ", " : "",
						 quote_literal_cstr(get_attname(versioned->relid, versioned->source[column - 1], false)), column);
	}
	return result.data;
}

/* Compare the ids of versions with those of the transactions and the sequence. */
static void
check_ids(const PoserCheck *check, const PoserVersioned *versioned, const char *versions)
{
	Tuplestorestate *store = tuplestore_begin_heap(false, false, work_mem);
	TupleDesc desc = CreateTemplateTupleDesc(2);
	DestReceiver *dest = CreateDestReceiver(DestTuplestore);
	EphemeralNamedRelationData enr;
	PoserCaller caller;

	TupleDescInitEntry(desc, 1, "id", INT8OID, -1, 0);
	TupleDescInitEntry(desc, 2, "is_change", BOOLOID, -1, 0);
	TupleDescFinalize(desc);
	SetTuplestoreDestReceiverParams(dest, store, CurrentMemoryContext, false, NULL, NULL);
	(void) poser_run(&(PoserQuery) {
		.sql = psprintf(own_ids, versions,
						quote_identifier(get_attname(versioned->versions, versioned->transaction_id, false)),
						quote_identifier(get_attname(versioned->versions, versioned->change_id, false))),
		.read_only = true,
		.once = true,
		.dest = dest});
	dest->rDestroy(dest);

	poser_register_rows(&enr, "ids", desc, store, tuplestore_tuple_count(store));
	poser_become_owner(versioned->transactions, &caller);
	poser_check_run(check, psprintf(check_own_ids, check->schema, quote_literal_cstr(versions), versioned->versions));
	poser_become_caller(&caller);
	SPI_unregister_relation("ids");
	tuplestore_end(store);
}

/* Check the rows of a table and of its table of versions.  Both are locked. */
static void
check_rows(const PoserCheck *check, const PoserTracked *tracked, const char *table)
{
	char *versions = poser_relation_name(tracked->versions);
	const char *label = quote_literal_cstr(table);
	PoserVersioned versioned;
	StringInfoData comparison;
	StringInfoData columns;
	StringInfoData keys;
	const char *key;

	poser_tracked_describe(&versioned, tracked->relid, check->nspid, AccessShareLock);
	poser_check_run(check, psprintf(check_own_structure, tracked->relid, tracked->versions, tracked->binding,
									(Oid) versioned.change_id));
	if (versioned.partial)
		poser_check_add(check, psprintf("table %s", table),
						"can have rows that are older than its history and have no version: poser_record_versions() records them");

	/* can the owner of the table read everything? */
	if (!poser_may_read(tracked->relid) || !poser_may_read(tracked->versions))
	{
		poser_check_add(check, psprintf("table %s", poser_may_read(tracked->relid) ? versions : table),
						psprintf("cannot be read completely by %s, so the rows are not checked", GetUserNameFromId(GetUserId(), false)));
		return;
	}
	check_ids(check, &versioned, versions);
	if (versioned.nkeys == 0)
		return;

	/* the rows, and the order of operations */
	key = key_arguments(&versioned);
	initStringInfo(&comparison);
	poser_history_append_comparison(&comparison, &versioned);
	poser_check_run(check, psprintf(check_own_rows, label, key, comparison.data, versioned.partial ? "true" : "false"));
	initStringInfo(&columns);
	initStringInfo(&keys);
	for (int i = 0; i < versioned.nkeys; i++)
	{
		const char *name = quote_identifier(get_attname(versioned.versions, versioned.keys[i], false));

		appendStringInfo(&columns, "%sv.%s AS column_%d", i > 0 ? ", " : "", name, versioned.keys[i]);
		appendStringInfo(&keys, "%sv.%s", i > 0 ? ", " : "", name);
	}
	poser_check_run(check, psprintf(check_own_operations, label, key, columns.data, keys.data, versions,
									quote_identifier(get_attname(versioned.versions, versioned.change_id, false)),
									quote_identifier(get_attname(versioned.versions, versioned.operation_type, false)),
									tracked->binding));
}

/* Check a table with these bindings.  All are locked, and the current user is the owner of the table. */
static void
check_table(const PoserCheck *check, Oid relid, List *bindings, const char *table)
{
	ListCell *lc;

	if (bindings == NIL)
		poser_check_add(check, psprintf("table %s", table), "is not recorded: no table of versions is bound to it");
	foreach(lc, bindings)
	{
		PoserTracked *tracked = lfirst(lc);
		PoserTrackedState state;
		ListCell *problem;

		poser_check_transaction_snapshot(relid);
		poser_check_transaction_snapshot(tracked->versions);
		if (!poser_tracked_state(&state, tracked, bindings, check->nspid))
			continue;
		foreach(problem, state.problems)
		{
			poser_check_add(check, psprintf("table %s", table), lfirst(problem));
		}
		if (state.described)
			check_rows(check, tracked, table);
	}
}

/*
 * Lock a table and the tables of versions that are bound to it, and check them.  Without
 * "wait", a table that cannot be locked at once is only named.
 */
static void
lock_and_check(const PoserCheck *check, Oid relid, const char *table, bool wait)
{
	const char *locked = NULL;
	List *bindings = NIL;
	PoserCaller caller;
	ListCell *lc;

	if (!lock_relation(relid, wait))
		locked = table;
	else if (get_rel_name(relid) == NULL || !poser_is_owner(relid, GetUserId()))
		return; /* dropped, or given to another role */
	else
		bindings = poser_tracked_bindings_of(relid, check->nspid);
	foreach(lc, bindings)
	{
		Oid versions = ((PoserTracked *) lfirst(lc))->versions;

		if (locked == NULL && !lock_relation(versions, wait))
			locked = poser_relation_name(versions);
	}
	if (locked != NULL)
	{
		poser_check_add(check, psprintf("table %s", locked), "is locked by another transaction, and was not checked");
		return;
	}

	/* in READ COMMITTED this snapshot is newer than the locks */
	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();
	poser_become_owner(relid, &caller);
	check_table(check, relid, bindings, table);
	poser_become_caller(&caller);
	SPI_finish();
	PopActiveSnapshot();
}

/* Is this a tracked table, or a partition of one? */
bool
poser_check_is_own(Oid target, Oid nspid)
{
	PoserTracked tracked;

	return list_member_oid(poser_check_find_own(nspid), target) ||
		   (get_rel_relispartition(target) && poser_tracked_find(target, nspid, &tracked));
}

/*
 * Returns the table to check for a target: itself or, for a partition, the tracked table
 * above it.  Raises an error if it is not tracked, or if the caller has not the rights of
 * its owner.
 */
Oid
poser_check_find_target(Oid target, Oid nspid)
{
	PoserTracked tracked;

	if (list_member_oid(poser_check_find_own(nspid), target))
		return target;
	if (get_rel_relkind(target) == RELKIND_VIEW)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("relation \"%s\" is not maintained", get_rel_name(target)),
				 errhint("poser_maintain() maintains a view.")));
	if (!get_rel_relispartition(target) || !poser_tracked_find(target, nspid, &tracked))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" is not tracked", get_rel_name(target)),
				 errhint("poser_track() gives it a history.")));
	poser_check_owner(tracked.relid);
	return tracked.relid;
}

/*
 * Check a table that is not one of the extension's.  Without "wait" it is one of many: if it
 * cannot be locked or checked, this is a line of the result, and if it is gone, it is left out.
 */
void
poser_check_own(const PoserCheck *check, Oid relid, bool wait)
{
	PoserSavepoint savepoint;
	const char *table;

	if (get_rel_name(relid) == NULL)
		return;
	table = poser_relation_name(relid);
	poser_savepoint_set(&savepoint);
	PG_TRY();
	{
		if (!wait)
			(void) poser_begin_impatience(relid);
		lock_and_check(check, relid, table, wait);
		poser_savepoint_rollback(&savepoint);
	}
	PG_CATCH();
	{
		ErrorData *error = poser_savepoint_catch_any(&savepoint);

		/* a request to stop is obeyed */
		if (wait || poser_is_cancel_request(error))
			ReThrowError(error);
		poser_check_add(check, psprintf("table %s", table), psprintf("cannot be checked: %s", error->message));
		FreeErrorData(error);
	}
	PG_END_TRY();
}
