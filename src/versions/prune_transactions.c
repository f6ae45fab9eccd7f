/*
 * prune_transactions.c
 *	  Removing the transactions that have no versions.
 *
 * All tables of versions are read once in a call, whatever table they belong to.  A query
 * over them could run their owners' code, so they are scanned without one, and none of
 * their owners' locks is waited for.
 *
 * Invariant: a transaction is removed only if no table has a version of it, and no
 * horizon is at it.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "versions/prune_internal.h"

/*
 * Add the ids, before this one, of the transactions of the versions in a table.  The
 * table is scanned without a query: reading one column is all there is to do.
 */
static void
read_transactions(Relation versions, AttrNumber column, Tuplestorestate *used, TupleDesc desc,
				  int64 transaction_id)
{
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	TupleTableSlot *slot = table_slot_create(versions, NULL);
	TableScanDesc scan = table_beginscan(versions, snapshot, 0, NULL, SO_NONE);
	int64 last = 0;

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		bool isnull;
		Datum value = slot_getattr(slot, column, &isnull);

		CHECK_FOR_INTERRUPTS();
		/* the versions of a transaction usually follow each other, so this leaves out most repetitions */
		if (isnull || DatumGetInt64(value) >= transaction_id || DatumGetInt64(value) == last)
			continue;
		last = DatumGetInt64(value);
		tuplestore_putvalues(used, desc, &value, &isnull);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
}

/*
 * All tables with the columns of a table of versions.  A table that has columns of such
 * names itself has versions in which they are called poser_... or even poser_..._1.
 */
static const char *const version_tables_query =
	"SELECT c.oid\n"
	"  FROM pg_catalog.pg_class AS c\n"
	"       JOIN pg_catalog.pg_attribute AS a ON a.attrelid OPERATOR(pg_catalog.=) c.oid\n"
	" WHERE c.relkind OPERATOR(pg_catalog.=) 'r' AND c.relpersistence OPERATOR(pg_catalog.<>) 't'\n"
	"   AND (a.atttypid OPERATOR(pg_catalog.=) 'pg_catalog.int8'::pg_catalog.regtype\n"
	"        AND a.attname OPERATOR(pg_catalog.~) '^(poser_)?(transaction_id|change_id)(_[0-9]+)?$'\n"
	"        OR a.atttypid OPERATOR(pg_catalog.=) 'pg_catalog.int2'::pg_catalog.regtype\n"
	"        AND a.attname OPERATOR(pg_catalog.~) '^(poser_)?operation_type(_[0-9]+)?$')\n"
	" GROUP BY c.oid\n"
	"HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>=) 3";

/* Can this be the column of a version's transaction?  It has one of the names that the query looks for. */
static bool
is_transaction_column(Form_pg_attribute att)
{
	const char *name = NameStr(att->attname);

	if (att->attisdropped || att->atttypid != INT8OID)
		return false;
	if (strncmp(name, "poser_", strlen("poser_")) == 0)
		name += strlen("poser_");
	if (strncmp(name, "transaction_id", strlen("transaction_id")) != 0)
		return false;
	name += strlen("transaction_id");
	return *name == '\0' || (name[0] == '_' && name[1] != '\0' && strspn(name + 1, "0123456789") == strlen(name + 1));
}

/*
 * Collect the transactions, before this one, with versions in other tables of versions.
 * These are all tables with the columns of a table of versions, whatever their owner: a
 * trigger may record to such a table now, or may have done so before it was renamed.
 *
 * A query over these tables could run their owners' code, but a scan does not.  Returns
 * false if one of them cannot be locked at once.  Pruning does not wait for such a table,
 * because its owner could then block pruning.
 */
bool
poser_collect_transactions(Tuplestorestate *used, TupleDesc desc, const PoserVersioned *tables, int ntables,
						   int64 transaction_id)
{
	SPITupleTable *found;
	bool result = true;

	/* find the tables that look like tables of versions */
	(void) poser_run(&(PoserQuery) {.sql = version_tables_query, .read_only = true});
	found = SPI_tuptable;
	for (uint64 i = 0; result && i < found->numvals; i++)
	{
		bool isnull;
		Oid relid = DatumGetObjectId(SPI_getbinval(found->vals[i], found->tupdesc, 1, &isnull));
		bool known = false;
		Relation rel;

		/* the caller looks at the extension's own ones */
		for (int j = 0; j < ntables; j++)
			known = known || tables[j].versions == relid;
		if (known)
			continue;
		if (!poser_lock_at_once(relid, AccessShareLock))
		{
			result = false;
			continue;
		}

		/* the table may have been dropped or altered before we had the lock */
		rel = try_table_open(relid, NoLock);
		if (rel == NULL)
			continue;
		for (int j = 0; j < RelationGetDescr(rel)->natts; j++)
			if (is_transaction_column(TupleDescAttr(RelationGetDescr(rel), j)))
				read_transactions(rel, j + 1, used, desc, transaction_id);
		table_close(rel, AccessShareLock);
	}
	SPI_freetuptable(found);
	return result;
}

/* Has a table of versions the three columns that its binding names, with their types, so that it was found by them? */
static bool
has_named_columns(Relation versions, const Trigger *trigger)
{
	const Oid types[] = {INT2OID, INT8OID, INT8OID};

	if (trigger == NULL || trigger->tgnargs < POSER_BINDING_FIXED)
		return false;
	for (int i = 0; i < lengthof(types); i++)
	{
		AttrNumber column = get_attnum(RelationGetRelid(versions), trigger->tgargs[2 + i]);

		if (column <= 0 || TupleDescAttr(RelationGetDescr(versions), column - 1)->atttypid != types[i])
			return false;
	}
	return true;
}

/*
 * Collect the values of all columns of type bigint, one of which can be that with the
 * transactions, in a table of versions and its partitions.  Returns false if one of them cannot
 * be locked at once.
 */
static bool
collect_from_all_columns(Tuplestorestate *used, TupleDesc desc, Oid versions, int64 transaction_id)
{
	List *relids = find_all_inheritors(versions, NoLock, NULL);
	ListCell *lc;

	foreach(lc, relids)
	{
		Relation rel;

		if (!poser_lock_at_once(lfirst_oid(lc), AccessShareLock))
			return false;
		rel = try_table_open(lfirst_oid(lc), NoLock);
		if (rel == NULL)
			continue;
		for (int i = 0; rel->rd_rel->relkind == RELKIND_RELATION && i < RelationGetDescr(rel)->natts; i++)
		{
			Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), i);

			if (!att->attisdropped && att->atttypid == INT8OID)
				read_transactions(rel, i + 1, used, desc, transaction_id);
		}
		table_close(rel, AccessShareLock);
	}
	list_free(relids);
	return true;
}

/*
 * Collect the transactions of bound tables of versions in which one of the three columns was
 * renamed or has another type, so that poser_collect_transactions() does not find them.
 * Returns false as that function does.
 */
static bool
collect_from_renamed(Tuplestorestate *used, TupleDesc desc, const PoserPruning *pruning, int64 transaction_id)
{
	List *bindings = poser_tracked_bindings(pruning->nspid);
	ListCell *lc;

	foreach(lc, bindings)
	{
		PoserTracked *tracked = lfirst(lc);
		Relation rel;
		bool renamed;

		CHECK_FOR_INTERRUPTS();
		if (!poser_lock_at_once(tracked->versions, AccessShareLock))
			return false;
		rel = try_table_open(tracked->versions, NoLock);
		if (rel == NULL)
			continue;
		renamed = !has_named_columns(rel, poser_binding_trigger(rel, tracked->binding));
		table_close(rel, AccessShareLock);
		if (renamed && !collect_from_all_columns(used, desc, tracked->versions, transaction_id))
			return false;
	}
	list_free_deep(bindings);
	return true;
}

/*
 * Read the horizons of all own tables.  *state becomes a number that differs after an own
 * table was pruned, tracked or dropped.  It depends on the transactions that have written the
 * horizons, and not only on the horizons, because pruning need not raise a horizon.
 */
void
poser_prune_read_horizons(const PoserPruning *pruning, PoserPruneHorizons *horizons)
{
	List *bindings = poser_tracked_bindings(pruning->nspid);
	ListCell *lc;

	horizons->n = 0;
	horizons->transactions = palloc(Max(list_length(bindings), 1) * sizeof(int64));
	horizons->state = 0;
	foreach(lc, bindings)
	{
		PoserTracked *tracked = lfirst(lc);
		PoserHorizon horizon = poser_own_horizon(tracked->versions, false);

		CHECK_FOR_INTERRUPTS();
		horizons->state = hash_combine(horizons->state, hash_combine(murmurhash32(tracked->binding), murmurhash32(horizon.written_by)));
		if (horizon.transaction_id != 0)
			horizons->transactions[horizons->n++] = horizon.transaction_id;
	}
	list_free_deep(bindings);
}

/*
 * Remove the transactions before this one to which no version in any table belongs:
 *
 *	DELETE FROM poser_transaction AS t
 *	 WHERE t.id < $1
 *	   AND NOT EXISTS (SELECT FROM poser_used AS used WHERE used.id = t.id)
 *
 * "poser_used" has the transactions of all versions that there are, and of the horizons of
 * own tables: these give the time of the oldest state that is left.  The statement uses the
 * active snapshot, which is older than the look at the versions.  So it does not see
 * transactions that have committed since.  If not all tables of versions could be read, no
 * transaction is removed, and the result is false.
 */
bool
poser_prune_transactions(const PoserPruning *pruning, const PoserPruneHorizons *horizons, int64 transaction_id)
{
	Oid argtypes[] = {INT8OID};
	Datum values[] = {Int64GetDatum(transaction_id)};
	EphemeralNamedRelationData enr;
	Tuplestorestate *used = tuplestore_begin_heap(false, false, work_mem);
	TupleDesc desc = CreateTemplateTupleDesc(1);
	char *sql = psprintf("DELETE FROM %s AS t\n"
						 " WHERE t.id OPERATOR(pg_catalog.<) $1\n"
						 "   AND NOT EXISTS (SELECT FROM poser_used AS used WHERE used.id OPERATOR(pg_catalog.=) t.id)",
						 poser_relation_name(pruning->transactions));
	bool result;

	TupleDescInitEntry(desc, 1, "id", INT8OID, -1, 0);
	TupleDescFinalize(desc);
	poser_progress_table(pruning->progress, "poser_prune_versions", InvalidOid);
	poser_progress_report(pruning->progress, "reading the transactions of versions", 0);
	result = poser_collect_transactions(used, desc, NULL, 0, transaction_id) &&
			 collect_from_renamed(used, desc, pruning, transaction_id);
	if (result)
	{
		for (int i = 0; i < horizons->n; i++)
		{
			Datum value = Int64GetDatum(horizons->transactions[i]);
			bool isnull = false;

			tuplestore_putvalues(used, desc, &value, &isnull);
		}
		poser_progress_report(pruning->progress, "removing transactions", 0);
		poser_register_rows(&enr, "poser_used", desc, used, tuplestore_tuple_count(used));
		(void) poser_prune_run(pruning, &(PoserQuery) {.sql = sql, .nargs = 1, .argtypes = argtypes, .values = values, .snapshot = GetActiveSnapshot(), .once = true, .expected = SPI_OK_DELETE});
		SPI_unregister_relation(enr.md.name);
	}
	tuplestore_end(used);
	return result;
}
