/*
 * script_lock.c
 *	  Locks of an update script: how a script locks tables while others write them, and
 *	  what it looks at once it has the locks.
 *
 * A script changes several tables, and writers lock these tables in any order.  A script
 * that waited for one lock while it holds another one could be part of a deadlock, and
 * the server could then cancel a writer.  So a script takes all its locks at its
 * beginning, by one call of poser_lock_tables().  It waits for the first lock while it
 * holds none.  It takes the others without waiting, or fails with lock_not_available.
 * A failed script has changed nothing, and can be run again.  ALTER EXTENSION itself
 * locks nothing before the script that an application uses: a row of pg_extension and, in
 * newer minor versions of the server, the extension.
 *
 * A transaction that ends releases its locks one after the other.  The script may get
 * the first lock before the same transaction has released the next one.  So the script
 * tries again for a moment.  It is not in the queue of waiters then, so no deadlock can
 * include it.
 *
 * Invariant: after poser_lock_tables() no statement of the script waits for a lock for
 * longer than OTHER_LOCK_TIMEOUT.  test/t/update_locks.pl shows that none waits at all.
 *
 * A script runs as a superuser.  The owner of a table may have given a column a type of
 * its own, and a cast of that type is a function of the owner's.  So before a script
 * evaluates an expression over a column, it calls poser_check_column().
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/index.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "base/base.h"

PG_FUNCTION_INFO_V1(poser_check_column);
PG_FUNCTION_INFO_V1(poser_lock_tables);
PG_FUNCTION_INFO_V1(poser_set_replica_identity);

/* The setting lock_timeout for the rest of the script. */
#define OTHER_LOCK_TIMEOUT "100ms"

/* The names of the modes in the statement LOCK. */
static const struct
{
	const char *name;
	LOCKMODE mode;
} modes[] = {
	{"ACCESS SHARE", AccessShareLock},
	{"ROW SHARE", RowShareLock},
	{"ROW EXCLUSIVE", RowExclusiveLock},
	{"SHARE UPDATE EXCLUSIVE", ShareUpdateExclusiveLock},
	{"SHARE", ShareLock},
	{"SHARE ROW EXCLUSIVE", ShareRowExclusiveLock},
	{"EXCLUSIVE", ExclusiveLock},
	{"ACCESS EXCLUSIVE", AccessExclusiveLock}};

/* The lock mode of this name. */
static LOCKMODE
mode_by_name(const char *name)
{
	for (int i = 0; i < lengthof(modes); i++)
	{
		if (strcmp(modes[i].name, name) == 0)
			return modes[i].mode;
	}
	ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			errmsg("\"%s\" is not a lock mode", name));
}

/*
 * Does the transaction hold a lock on a relation that is not the server's own?  The
 * caller is between SPI_connect() and SPI_finish().
 */
bool
poser_holds_lock(void)
{
	return poser_run(&(PoserQuery) {
			   .sql = "SELECT FROM pg_catalog.pg_locks\n"
					  " WHERE locktype OPERATOR(pg_catalog.=) 'relation'\n"
					  "   AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()\n"
					  "   AND relation OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid",
			   .once = true,
			   .limit = 1}) > 0;
}

/* Lock a table for a script at once.  Raises lock_not_available. */
static void
lock_at_once(Oid relid, LOCKMODE mode)
{
	if (!poser_lock_at_once(relid, mode))
		ereport(ERROR, errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				errmsg("could not obtain lock on relation \"%s\"", get_rel_name(relid)),
				errdetail("Another transaction uses the table, and the update waits for no lock while it holds another one."),
				errhint("Run the update again when that transaction has ended."));
}

/* Has this transaction created the relation, which it has locked? */
static bool
is_new(Oid relid)
{
	Relation rel = relation_open(relid, NoLock);
	bool result = rel->rd_createSubid != InvalidSubTransactionId;

	relation_close(rel, NoLock);
	return result;
}

/*
 * poser_lock_tables(tables text[]) returns void
 *
 * "tables" has a row for each table of the extension: its name, and the mode of LOCK.
 * Tables that inherit from it are locked as well, as LOCK does it.  The locks are held
 * until the end of the transaction.
 */
Datum
poser_lock_tables(PG_FUNCTION_ARGS)
{
	ArrayType *tables = PG_GETARG_ARRAYTYPE_P(0);
	Oid nspid = get_func_namespace(fcinfo->flinfo->fn_oid);
	Datum *words;
	int nwords;
	bool wait;
	bool all_new = true;

	if (!superuser())
		ereport(ERROR, errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				errmsg("must be superuser to lock tables for an update"));
	if (ARR_NDIM(tables) != 2 || ARR_DIMS(tables)[1] != 2 || array_contains_nulls(tables))
		ereport(ERROR, errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				errmsg("tables must be an array of names and lock modes"));
	deconstruct_array(tables, TEXTOID, -1, false, TYPALIGN_INT, &words, NULL, &nwords);

	SPI_connect();
	wait = !poser_holds_lock();
	SPI_finish();
	for (int i = 0; i < nwords; i += 2)
	{
		char *name = TextDatumGetCString(words[i]);
		LOCKMODE mode = mode_by_name(TextDatumGetCString(words[i + 1]));
		Oid relid;
		List *children;
		ListCell *lc;

		/* lock, then look: the name may be another relation's after a wait */
		for (;;)
		{
			relid = poser_relation_by_name(name, nspid);
			if (wait)
				LockRelationOid(relid, mode);
			else
				lock_at_once(relid, mode);
			if (get_relname_relid(name, nspid) == relid)
				break;
			UnlockRelationOid(relid, mode);
		}
		wait = false;
		all_new = all_new && is_new(relid);

		children = find_all_inheritors(relid, NoLock, NULL);
		foreach(lc, children)
		{
			lock_at_once(lfirst_oid(lc), mode);
		}
	}

	/* CREATE EXTENSION holds up no other session, so it may wait, for instance for VACUUM of a catalog */
	if (all_new)
		PG_RETURN_VOID();
	/* the server resets the setting at the end of the script */
	set_config_option("lock_timeout", OTHER_LOCK_TIMEOUT, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	PG_RETURN_VOID();
}

/*
 * poser_check_column(relation regclass, column_name name, type regtype) returns void
 *
 * Raises an error unless a column of one of the extension's tables has the type that the
 * scripts gave it.  The script has locked the table.
 */
Datum
poser_check_column(PG_FUNCTION_ARGS)
{
	Relation rel = relation_open(PG_GETARG_OID(0), AccessShareLock);

	(void) poser_own_column(rel, NameStr(*PG_GETARG_NAME(1)), PG_GETARG_OID(2));
	relation_close(rel, AccessShareLock);
	PG_RETURN_VOID();
}

/*
 * poser_set_replica_identity(index regclass) returns void
 *
 * Makes an index the replica identity of its table, unless a user has chosen another one:
 * a publication may need that one.  The script has locked the table.
 */
Datum
poser_set_replica_identity(PG_FUNCTION_ARGS)
{
	Oid index = PG_GETARG_OID(0);
	Relation rel = relation_open(IndexGetRelation(index, false), AccessShareLock);
	char identity = rel->rd_rel->relreplident;

	/* an index that is gone is no choice */
	if (identity == REPLICA_IDENTITY_DEFAULT ||
		(identity == REPLICA_IDENTITY_INDEX && !OidIsValid(RelationGetReplicaIndex(rel))))
	{
		char *sql = psprintf("ALTER TABLE %s REPLICA IDENTITY USING INDEX %s",
							 poser_relation_name(RelationGetRelid(rel)), quote_identifier(get_rel_name(index)));

		relation_close(rel, AccessShareLock);
		SPI_connect();
		poser_run(&(PoserQuery) {.sql = sql, .once = true, .expected = SPI_OK_UTILITY});
		SPI_finish();
	}
	else
		relation_close(rel, AccessShareLock);
	PG_RETURN_VOID();
}
