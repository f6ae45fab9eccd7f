/*
 * recount.c
 *	  Rebuilding the counts.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relscan.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/pg_class.h"
#include "catalog/pg_operator_d.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/bitmapset.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/tuplesort.h"

#include "counts/counts.h"
#include "counts/counts_internal.h"

PG_FUNCTION_INFO_V1(poser_recount);

/* Rows fetched at a time by poser_count_rebuild. */
#define REBUILD_BATCH 1000

/*
 * Append a query for all keys whose count is wrong, that lack a settled row or
 * have one for nothing, or that have deltas: key, number of children (total,
 * active), count (total, active), number of parents (0 or 1), of settled rows,
 * and of deltas.  To be run with search_path = pg_catalog.
 */
void
poser_count_append_comparison(StringInfo sql, Oid parent, const char *parent_key,
							  Oid child, const char *child_key, const char *flag,
							  Oid counts, Oid deltas)
{
	char *key = pstrdup(quote_identifier(get_attname(counts, COUNT_KEY, false)));
	char *total = pstrdup(quote_identifier(get_attname(counts, COUNT_TOTAL, false)));
	char *active = pstrdup(quote_identifier(get_attname(counts, COUNT_ACTIVE, false)));

	parent_key = pstrdup(quote_identifier(parent_key));
	child_key = pstrdup(quote_identifier(child_key));
	flag = pstrdup(quote_identifier(flag));

	appendStringInfo(sql,
					 "SELECT key,\n"
					 "       sum(live_total)::bigint AS live_total, sum(live_active)::bigint AS live_active,\n"
					 "       sum(kept_total)::bigint AS kept_total, sum(kept_active)::bigint AS kept_active,\n"
					 "       sum(parents) AS parents, sum(settled) AS settled, sum(deltas) AS deltas\n"
					 "  FROM (SELECT %s AS key, 0 AS live_total, 0 AS live_active,\n"
					 "               0 AS kept_total, 0 AS kept_active,\n"
					 "               1 AS parents, 0 AS settled, 0 AS deltas\n"
					 "          FROM %s\n",
					 parent_key, poser_relation_name(parent));
	appendStringInfo(sql,
					 "        UNION ALL\n"
					 "        SELECT %s, count(*), count(*) FILTER (WHERE %s), 0, 0, 0, 0, 0\n"
					 "          FROM %s WHERE %s IS NOT NULL GROUP BY %s\n",
					 child_key, flag, poser_relation_name(child), child_key, child_key);
	appendStringInfo(sql,
					 "        UNION ALL\n"
					 "        SELECT %s, 0, 0, %s, %s, 0, 1, 0 FROM %s\n",
					 key, total, active, poser_relation_name(counts));
	appendStringInfo(sql,
					 "        UNION ALL\n"
					 "        SELECT %s, 0, 0, %s, %s, 0, 0, 1 FROM %s) AS counted\n",
					 key, total, active, poser_relation_name(deltas));
	appendStringInfoString(sql,
						   " GROUP BY key\n"
						   "HAVING sum(live_total) <> sum(kept_total)\n"
						   "    OR sum(live_active) <> sum(kept_active)\n"
						   "    OR sum(parents) > sum(settled)\n"
						   "    OR (sum(parents) < sum(settled) AND sum(live_total) = 0)\n"
						   "    OR sum(deltas) > 0");
}

static void
check_column_type(Oid relid, const char *column, Oid type)
{
	AttrNumber attno = get_attnum(relid, column);

	if (attno == InvalidAttrNumber)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of relation \"%s\" does not exist",
						column, get_rel_name(relid))));
	if (get_atttype(relid, attno) != type)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" of relation \"%s\" must be of type %s",
						column, get_rel_name(relid), format_type_be(type))));
}

/*
 * Make all counts of one pair of tables right, settle all deltas that nobody
 * holds, and return how many keys had a wrong count.  The current user must
 * have the rights of the owner of all the tables.
 *
 * What is wrong with a count under one snapshot is wrong with it under all
 * later ones, whatever writers do, until it is mended.  So this is a writer
 * like any other, whose changes are the differences; only one at a time may
 * find them, which the lock on the settled counts sees to.
 */
int64
poser_count_rebuild(Oid parent, const char *parent_key, Oid child, const char *child_key,
					const char *flag, Oid counts, Oid deltas)
{
	Oid relations[] = {parent, child, counts, deltas};
	PoserCount count;
	CountWriter writer;
	StringInfoData sql;
	Snapshot latest;
	SPIPlanPtr plan;
	Portal portal;
	Oid save_userid;
	int save_sec_context;
	int64 wrong = 0;
	CommandId first_cid;

	for (int i = 0; i < lengthof(relations); i++)
		poser_check_owner(relations[i]);

	/* in the order in which writers lock, and before the snapshot, so that it sees all rows of a rewritten table */
	LockRelationOid(child, AccessShareLock);
	LockRelationOid(parent, AccessShareLock);
	LockRelationOid(counts, ShareUpdateExclusiveLock);
	LockRelationOid(deltas, AccessShareLock);
	for (int i = 0; i < lengthof(relations); i++)
		if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relations[i])))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_TABLE),
					 errmsg("relation with OID %u does not exist", relations[i])));
	poser_count_describe(&count, counts, deltas);
	check_column_type(parent, parent_key, count.keytype);
	check_column_type(child, child_key, count.keytype);
	check_column_type(child, flag, BOOLOID);

	initStringInfo(&sql);
	poser_count_append_comparison(&sql, parent, parent_key, child, child_key, flag, counts, deltas);

	poser_become_owner(child, &save_userid, &save_sec_context);

	/*
	 * The latest snapshot sees what an earlier rebuild has mended.
	 */
	latest = RegisterSnapshot(GetLatestSnapshot());
	PushActiveSnapshot(latest);

	SPI_connect();
	plan = SPI_prepare(sql.data, 0, NULL);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	portal = SPI_cursor_open(NULL, plan, NULL, NULL, true);

	poser_count_open(&writer, &count);
	first_cid = GetCurrentCommandId(false);
	for (;;)
	{
		SPI_cursor_fetch(portal, true, REBUILD_BATCH);
		if (SPI_processed == 0)
			break;
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			HeapTuple tuple = SPI_tuptable->vals[i];
			int64 n[8];
			Datum key;
			bool isnull;
			uint32 hash;
			Tally difference;

			CHECK_FOR_INTERRUPTS();
			key = SPI_getbinval(tuple, SPI_tuptable->tupdesc, 1, &isnull);
			if (isnull)
				continue;
			hash = hash_key(&count, key);
			for (int j = 1; j < lengthof(n); j++)
				n[j] = DatumGetInt64(SPI_getbinval(tuple, SPI_tuptable->tupdesc, j + 1, &isnull));

			difference = (Tally) {n[1] - n[3], n[2] - n[4]};
			if (!is_zero(difference))
				wrong++;

			if (n[6] == 0 && n[5] > 0 && poser_count_make_settled_row(&writer, key, hash, difference))
			{
				difference = (Tally) {0, 0};
				CommandCounterIncrement();
			}

			/* without a parent, make no settled row: it would be in the way of a session that inserts the parent */
			if (n[6] == 0 && n[5] == 0)
				poser_count_defer(&writer, key, hash, add(poser_count_take_deltas(&writer, key), difference));
			else if (n[7] > 0 || !is_zero(difference))
				poser_count_change(&writer, key, hash, difference);
			if (n[6] > 0 && n[5] == 0 && n[1] == 0)
			{
				CommandCounterIncrement();
				poser_count_end(&writer, key);
			}
		}
		SPI_freetuptable(SPI_tuptable);
	}
	poser_count_close(&writer);

	SPI_cursor_close(portal);
	SPI_finish();
	PopActiveSnapshot();
	UnregisterSnapshot(latest);
	SetUserIdAndSecContext(save_userid, save_sec_context);

	/* older snapshots, such as the transaction's, do not see what was wrong */
	if (wrong > 0)
		poser_count_note_inconsistent(first_cid);
	return wrong;
}

/* The tables, parent, child, counts and deltas. */
static const char *const recounted_tables[] = {
	"poser_widget", "poser_component", "poser_component_count", "poser_component_count_delta"};

/*
 * poser_recount() returns bigint
 */
Datum
poser_recount(PG_FUNCTION_ARGS)
{
	Oid nspid = get_func_namespace(fcinfo->flinfo->fn_oid);
	Oid relids[lengthof(recounted_tables)];
	Oid save_userid;
	int save_sec_context;

	PreventCommandIfReadOnly("poser_recount()");
	for (int i = 0; i < lengthof(recounted_tables); i++)
	{
		relids[i] = get_relname_relid(recounted_tables[i], nspid);
		if (!OidIsValid(relids[i]))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_TABLE),
					 errmsg("relation \"%s\" does not exist in schema \"%s\"",
							recounted_tables[i], get_namespace_name(nspid))));
		poser_check_owner(relids[i]);
	}
	poser_become_owner(relids[1], &save_userid, &save_sec_context);
	for (int i = 0; i < lengthof(recounted_tables); i++)
		poser_check_readable(relids[1], relids[i]);
	SetUserIdAndSecContext(save_userid, save_sec_context);
	PG_RETURN_INT64(poser_count_rebuild(relids[0], "uuid", relids[1], "widget_uuid", "active",
										relids[2], relids[3]));
}
