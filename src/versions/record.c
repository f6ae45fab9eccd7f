/*
 * record.c
 *	  Recording changes that have bypassed the triggers.
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

/* Rows fetched or deleted at a time. */
#define BATCH 1000

/*
 * Lock tables against writers, all of them before anything is done.  Writers
 * lock the tables in any order, so this never waits for one table while it holds
 * the lock on another.  Otherwise it could deadlock with a writer.
 */
static void
lock_against_writers(const PoserVersioned *tables, int ntables)
{
	int first = 0;
	int locked = 0;

	while (locked < ntables)
	{
		Oid relid = tables[(first + locked) % ntables].relid;

		if (locked == 0)
			LockRelationOid(relid, ShareRowExclusiveLock);
		else if (!ConditionalLockRelationOid(relid, ShareRowExclusiveLock))
		{
			/* release the others, and begin again by waiting for this table */
			while (locked > 0)
				UnlockRelationOid(tables[(first + --locked) % ntables].relid, ShareRowExclusiveLock);
			for (first = 0; tables[first].relid != relid;)
				first++;
			continue;
		}
		locked++;
	}
}

/*
 * Correct operations that cannot follow the one before.  If a row was inserted
 * past the triggers and then updated, its history has an update of a row that was
 * not there: it becomes an insert.  If a row was deleted past the triggers and then
 * inserted again, its history has an insert of a row that was there: it becomes an
 * update.  If a row was inserted past the triggers and then deleted, its delete
 * stays as it is, because there is no version that could become the insert.
 * Returns how many versions were changed.
 */
static int64
mend_operations(const PoserVersioned *versioned, Horizon horizon)
{
	Oid argtypes[] = {INT8OID};
	Datum values[] = {Int64GetDatum(horizon.change_id)};
	const char *versions = poser_relation_name(versioned->versions);
	StringInfoData sql;
	SPIPlanPtr plan;

	initStringInfo(&sql);
	appendStringInfo(&sql,
					 "UPDATE %s AS v\n"
					 "   SET operation_type = CASE WHEN wrong.operation_type OPERATOR(pg_catalog.=) 0 THEN 1 ELSE 0 END\n"
					 "  FROM (SELECT version.change_id, version.operation_type,\n"
					 "               pg_catalog.lag(version.operation_type) OVER (PARTITION BY ",
					 versions);
	poser_history_append_keys(&sql, versioned, "version.");
	appendStringInfo(&sql,
					 " ORDER BY version.change_id) AS before\n"
					 "          FROM %s AS version) AS wrong\n"
					 " WHERE v.change_id OPERATOR(pg_catalog.=) wrong.change_id\n"
					 "   AND (wrong.operation_type OPERATOR(pg_catalog.=) 0 AND wrong.before OPERATOR(pg_catalog.<>) 2\n"
					 "        OR wrong.operation_type OPERATOR(pg_catalog.=) 1\n"
					 "           AND (wrong.before OPERATOR(pg_catalog.=) 2\n"
					 "                OR wrong.before IS NULL AND wrong.change_id OPERATOR(pg_catalog.>) $1))",
					 versions);
	plan = SPI_prepare(sql.data, lengthof(argtypes), argtypes);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	if (SPI_execute_snapshot(plan, values, NULL, GetActiveSnapshot(), InvalidSnapshot, false, true, 0) < 0)
		elog(ERROR, "SPI_execute_snapshot failed: %s", SPI_result_code_string(SPI_result));
	return (int64) SPI_processed;
}

/* Write a version for each row that differs from its last version, or is gone without a delete; returns how many. */
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

	initStringInfo(&sql);
	poser_history_append_comparison(&sql, versioned);
	poser_become_owner(versioned->relid, &save_userid, &save_sec_context);
	poser_check_readable(versioned->relid, versioned->versions);
	portal = poser_open_cursor(sql.data, 0, NULL, NULL);
	for (;;)
	{
		SPI_cursor_fetch(portal, true, BATCH);
		if (SPI_processed == 0)
			break;
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			TupleDesc desc = SPI_tuptable->tupdesc;
			HeapTuple tuple = SPI_tuptable->vals[i];
			bool isnull;
			PoserOperation operation = DatumGetInt16(SPI_getbinval(tuple, desc, 1, &isnull));
			int column = 3;

			CHECK_FOR_INTERRUPTS();
			ExecClearTuple(slot);
			for (int j = 0; j < versioned->natts; j++)
			{
				slot->tts_isnull[j] = true;
				if (versioned->source[j] != 0)
					slot->tts_values[j] = SPI_getbinval(tuple, desc, column++, &slot->tts_isnull[j]);
			}
			ExecStoreVirtualTuple(slot);
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
 * Record the changes of these tables that have bypassed the triggers, or were made
 * before there were any.  If such a row was changed again later, correct its
 * versions, see mend_operations().  Writers wait.  The current user must have the owner's rights
 * on the tables.  Returns how many versions were written or corrected.
 */
int64
poser_history_record(const PoserVersioned *tables, int ntables, const char *comment)
{
	Snapshot latest;
	Horizon horizon;
	int64 result = 0;

	poser_check_owner(tables[0].transactions);
	for (int i = 0; i < ntables; i++)
	{
		poser_check_owner(tables[i].relid);
		poser_check_owner(tables[i].versions);
	}
	/* read below, so it must not be rewritten after the snapshot */
	LockRelationOid(tables[0].horizon, AccessShareLock);
	lock_against_writers(tables, ntables);
	/* tables that inherit from these are read, too */
	for (int i = 0; i < ntables; i++)
		list_free(poser_lock_tree(tables[i].relid));

	latest = RegisterSnapshot(GetLatestSnapshot());
	PushActiveSnapshot(latest);
	SPI_connect();
	horizon = poser_history_horizon(&tables[0], true);
	for (int i = 0; i < ntables; i++)
	{
		Oid save_userid;
		int save_sec_context;

		poser_become_owner(tables[i].versions, &save_userid, &save_sec_context);
		result += mend_operations(&tables[i], horizon);
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
	PG_RETURN_INT64(poser_history_record(tables, POSER_VERSIONED_TABLES, comment));
}
