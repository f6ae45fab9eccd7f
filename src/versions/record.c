/*
 * record.c
 *	  poser_record_versions(): recording changes that have bypassed the triggers.
 *
 * Changes bypass the triggers while these are disabled or missing.  Rows can also be
 * older than the triggers.  So each row is compared with its last version.  If they
 * differ, a version is written, as the trigger would have done it.
 *
 * A row may have been changed again later, with the triggers enabled.  Then its last
 * version is right, and the values in between are lost.  But the later version may have
 * an operation that cannot follow the version before it.  Such operations are corrected.
 *
 * Writers of the tables wait meanwhile, so that the tables and their versions can be
 * compared with one snapshot.
 *
 * The invariant: afterwards the last version of each row has the values of the row.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "versions/versions.h"
#include "versions/version_internal.h"

PG_FUNCTION_INFO_V1(poser_record_versions);

/* How many rows are fetched from the comparison at a time. */
#define FETCHED_AT_A_TIME 1000

/* Lock all tables against writers, and the history against what could arrive. */
static void
lock_against_writers(const PoserVersioned *tables, int ntables)
{
	Oid relids[POSER_VERSIONED_TABLES + 1];
	LOCKMODE modes[POSER_VERSIONED_TABLES + 1];

	Assert(ntables <= POSER_VERSIONED_TABLES);
	for (int i = 0; i < ntables; i++)
	{
		relids[i] = tables[i].relid;
		modes[i] = ShareRowExclusiveLock;
	}
	relids[ntables] = tables[0].transactions;
	modes[ntables] = RowExclusiveLock;
	poser_lock_together(relids, modes, ntables + 1);
}

/*
 * Correct operations that cannot follow the operation of the version before.  Returns how
 * many versions were changed.
 *
 * - A row was inserted past the triggers and then updated.  Its history has an update of
 *   a row that was not there.  The update becomes an insert.
 * - A row was deleted past the triggers and then inserted again.  Its history has an
 *   insert of a row that was there.  The insert becomes an update.
 * - A row was inserted past the triggers and then deleted.  The delete stays as it is,
 *   because there is no version that could become the insert.
 *
 * The first version of a row is not corrected if pruning may have removed a version
 * before it.  $1 is the change_id of the horizon.
 *
 *	UPDATE poser_widget_version AS v
 *	   SET operation_type = CASE WHEN wrong.operation_type = 0 THEN 1 ELSE 0 END
 *	  FROM (SELECT version.change_id, version.operation_type,
 *	               lag(version.operation_type) OVER (PARTITION BY version.uuid
 *	                                                 ORDER BY version.change_id) AS before
 *	          FROM poser_widget_version AS version) AS wrong
 *	 WHERE v.change_id = wrong.change_id
 *	   AND (wrong.operation_type = 0 AND wrong.before <> 2
 *	        OR wrong.operation_type = 1
 *	           AND (wrong.before = 2
 *	                OR wrong.before IS NULL AND wrong.change_id > $1))
 */
static int64
correct_operations(const PoserVersioned *versioned, PoserHorizon horizon)
{
	Oid argtypes[] = {INT8OID};
	Datum values[] = {Int64GetDatum(horizon.change_id)};
	const char *versions = poser_relation_name(versioned->versions);
	StringInfoData sql;
	PoserQuery query;

	initStringInfo(&sql);
	appendStringInfo(&sql,
					 "UPDATE %s AS v\n"
					 "   SET operation_type = CASE WHEN wrong.operation_type OPERATOR(pg_catalog.=) 0 THEN 1 ELSE 0 END\n"
					 "  FROM (SELECT version.change_id, version.operation_type,\n"
					 "               pg_catalog.lag(version.operation_type) OVER (PARTITION BY ",
					 versions);
	poser_history_append_keys(&sql, versioned, ", ", "version.%n");
	appendStringInfo(&sql,
					 " ORDER BY version.change_id) AS before\n"
					 "          FROM %s AS version) AS wrong\n"
					 " WHERE v.change_id OPERATOR(pg_catalog.=) wrong.change_id\n"
					 "   AND (wrong.operation_type OPERATOR(pg_catalog.=) 0 AND wrong.before OPERATOR(pg_catalog.<>) 2\n"
					 "        OR wrong.operation_type OPERATOR(pg_catalog.=) 1\n"
					 "           AND (wrong.before OPERATOR(pg_catalog.=) 2\n"
					 "                OR wrong.before IS NULL AND wrong.change_id OPERATOR(pg_catalog.>) $1))",
					 versions);
	/* the active snapshot is newer than the lock, even in REPEATABLE READ */
	query = (PoserQuery) {.sql = sql.data, .nargs = 1, .argtypes = argtypes, .values = values, .once = true, .snapshot = GetActiveSnapshot()};
	return (int64) poser_run(&query);
}

/* Put a row of the comparison into a slot of the table of versions. */
static void
store_row(TupleTableSlot *slot, const PoserVersioned *versioned, HeapTuple tuple, TupleDesc desc)
{
	int column = 3;

	ExecClearTuple(slot);
	for (int i = 0; i < versioned->natts; i++)
	{
		slot->tts_isnull[i] = true;
		if (versioned->source[i] != 0)
			slot->tts_values[i] = SPI_getbinval(tuple, desc, column++, &slot->tts_isnull[i]);
	}
	ExecStoreVirtualTuple(slot);
}

/*
 * Write a version for each row that differs from its last version, and for each row that
 * no longer exists and has no version for its delete.  Returns how many versions were
 * written.  The rows are compared with the rights of the table's owner.
 */
static int64
record_differences(const PoserVersioned *versioned, const char *comment)
{
	PoserVersionWriter *writer = poser_version_begin(versioned, comment);
	Relation versions = table_open(versioned->versions, RowExclusiveLock);
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(versions), &TTSOpsVirtual);
	StringInfoData sql;
	Portal portal;
	Oid save_userid;
	int save_sec_context;
	int64 result = 0;

	/* read the differences as the owner; see poser_history_append_comparison() for the query */
	initStringInfo(&sql);
	poser_history_append_comparison(&sql, versioned);
	poser_become_owner(versioned->relid, &save_userid, &save_sec_context);
	poser_check_readable(versioned->relid, versioned->versions);
	portal = poser_open_cursor_for(&(PoserQuery) {.sql = sql.data, .read_only = true});

	/* write a version for each of them */
	for (;;)
	{
		SPI_cursor_fetch(portal, true, FETCHED_AT_A_TIME);
		if (SPI_processed == 0)
			break;
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			HeapTuple tuple = SPI_tuptable->vals[i];
			bool isnull;
			PoserOperation operation = DatumGetInt16(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 1, &isnull));

			CHECK_FOR_INTERRUPTS();
			store_row(slot, versioned, tuple, SPI_tuptable->tupdesc);
			poser_version_write(writer, operation, slot, true);
			result++;
		}
		SPI_freetuptable(SPI_tuptable);
	}
	SPI_cursor_close(portal);
	poser_version_end(writer);
	SetUserIdAndSecContext(save_userid, save_sec_context);
	ExecDropSingleTupleTableSlot(slot);
	table_close(versions, NoLock);
	return result;
}

/*
 * Record what has bypassed the triggers of these tables, with this comment or, if it is
 * NULL, poser.comment.  Returns how many versions were written or corrected.  Raises an
 * error unless the current user has the rights of the owner of all these tables.
 */
static int64
record(const PoserVersioned *tables, int ntables, const char *comment)
{
	Snapshot latest;
	PoserHorizon horizon;
	int64 result = 0;

	poser_check_owner(tables[0].transactions);
	for (int i = 0; i < ntables; i++)
	{
		poser_check_owner(tables[i].relid);
		poser_check_owner(tables[i].versions);
	}

	/* lock all that is read, then take the snapshot, so that no table is rewritten in between */
	LockRelationOid(tables[0].horizon, AccessShareLock);
	lock_against_writers(tables, ntables);
	/* tables that inherit from these are read, too */
	for (int i = 0; i < ntables; i++)
		list_free(poser_lock_tree(tables[i].relid));
	latest = RegisterSnapshot(GetLatestSnapshot());
	PushActiveSnapshot(latest);
	SPI_connect();

	/* each step with the rights of the owner of the table that it reads or changes */
	horizon = poser_history_horizon(&tables[0], true);
	for (int i = 0; i < ntables; i++)
	{
		Oid save_userid;
		int save_sec_context;

		poser_become_owner(tables[i].versions, &save_userid, &save_sec_context);
		result += correct_operations(&tables[i], horizon);
		SetUserIdAndSecContext(save_userid, save_sec_context);
		result += record_differences(&tables[i], comment);
	}
	SPI_finish();
	PopActiveSnapshot();
	UnregisterSnapshot(latest);
	return result;
}

/*
 * poser_record_versions() returns bigint
 *
 * The comment of these versions is poser.comment or, if it is not set, says where they
 * come from.  The scripts of the extension call the function, too.
 */
Datum
poser_record_versions(PG_FUNCTION_ARGS)
{
	PoserVersioned tables[POSER_VERSIONED_TABLES];
	const char *comment = NULL;

	PreventCommandIfReadOnly("poser_record_versions()");
	if (creating_extension)
		comment = "history begins with version 1.2 of extension \"poser\"";
	else if (poser_comment == NULL || poser_comment[0] == '\0')
		comment = "recorded by poser_record_versions()";
	poser_versioned_describe_all(tables, get_func_namespace(fcinfo->flinfo->fn_oid));
	PG_RETURN_INT64(record(tables, POSER_VERSIONED_TABLES, comment));
}
