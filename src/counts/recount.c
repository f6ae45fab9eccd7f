/*
 * recount.c
 *	  Comparing the counts with the rows, and rebuilding them.
 *
 * A rebuild works while other sessions write.  A writer changes the count and the
 * number of children by the same number, see settle.c.  So a count that is wrong in one
 * snapshot is wrong by the same number in all later ones, until a rebuild corrects it.  A
 * rebuild finds the differences under one snapshot, and adds them to the counts as any
 * other writer does.  Two rebuilds at a time would both add them.  So a rebuild takes a
 * lock on the table of settled counts that only one transaction can have.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "counts/counts_internal.h"

/* Rows of the comparison that are fetched at a time. */
#define REBUILD_BATCH 1000

/* A row of the comparison. */
typedef struct Compared
{
	const Datum *keys;
	PoserAmount *live;		 /* of the child's rows */
	PoserAmount *kept;		 /* by the count */
	PoserAmount *difference; /* live - kept */
	MemoryContext context;	 /* of numerics in the amounts */
	int64 parents;
	int64 settled;
	int64 deltas;
} Compared;

/*
 * Returns a query for the keys that a rebuild has to change.  The count of such a key is
 * wrong, or lacks a settled row, or has a settled row without a parent and children, or
 * has deltas.  The query must be run with search_path = pg_catalog.  Its columns are those
 * that poser_count_rebuild() needs.  For the components of widgets it is
 *
 *		SELECT key,
 *		       sum(live_total)::bigint AS live_total, sum(live_active)::bigint AS live_active,
 *		       sum(kept_total)::bigint AS kept_total, sum(kept_active)::bigint AS kept_active,
 *		       sum(parents) AS parents, sum(settled) AS settled, sum(deltas) AS deltas
 *		  FROM (SELECT uuid AS key, 0 AS live_total, 0 AS live_active,
 *		               0 AS kept_total, 0 AS kept_active,
 *		               1 AS parents, 0 AS settled, 0 AS deltas
 *		          FROM public.poser_widget
 *		        UNION ALL
 *		        SELECT widget_uuid, count(*), count(*) FILTER (WHERE active), 0, 0, 0, 0, 0
 *		          FROM public.poser_component WHERE widget_uuid IS NOT NULL GROUP BY widget_uuid
 *		        UNION ALL
 *		        SELECT widget_uuid, 0, 0, total, active, 0, 1, 0 FROM public.poser_component_count
 *		        UNION ALL
 *		        SELECT widget_uuid, 0, 0, total, active, 0, 0, 1
 *		          FROM public.poser_component_count_delta) AS counted
 *		 GROUP BY key
 *		HAVING sum(live_total) <> sum(kept_total)
 *		    OR sum(live_active) <> sum(kept_active)
 *		    OR sum(parents) > sum(settled)
 *		    OR (sum(parents) < sum(settled) AND sum(live_total) = 0)
 *		    OR sum(deltas) > 0
 */
char *
poser_count_comparison(Oid parent, const char *parent_key, Oid child, const char *child_key,
					   const char *flag, Oid counts, Oid deltas)
{
	const char *key = quote_identifier(get_attname(counts, COUNT_KEY, false));
	const char *total = quote_identifier(get_attname(counts, COUNT_TOTAL, false));
	const char *active = quote_identifier(get_attname(counts, COUNT_ACTIVE, false));

	return psprintf("SELECT key,\n"
					"       sum(live_total)::bigint AS live_total, sum(live_active)::bigint AS live_active,\n"
					"       sum(kept_total)::bigint AS kept_total, sum(kept_active)::bigint AS kept_active,\n"
					"       sum(parents) AS parents, sum(settled) AS settled, sum(deltas) AS deltas\n"
					"  FROM (SELECT %1$s AS key, 0 AS live_total, 0 AS live_active,\n"
					"               0 AS kept_total, 0 AS kept_active,\n"
					"               1 AS parents, 0 AS settled, 0 AS deltas\n"
					"          FROM %2$s\n"
					"        UNION ALL\n"
					"        SELECT %3$s, count(*), count(*) FILTER (WHERE %4$s), 0, 0, 0, 0, 0\n"
					"          FROM %5$s WHERE %3$s IS NOT NULL GROUP BY %3$s\n"
					"        UNION ALL\n"
					"        SELECT %6$s, 0, 0, %7$s, %8$s, 0, 1, 0 FROM %9$s\n"
					"        UNION ALL\n"
					"        SELECT %6$s, 0, 0, %7$s, %8$s, 0, 0, 1 FROM %10$s) AS counted\n"
					" GROUP BY key\n"
					"HAVING sum(live_total) <> sum(kept_total)\n"
					"    OR sum(live_active) <> sum(kept_active)\n"
					"    OR sum(parents) > sum(settled)\n"
					"    OR (sum(parents) < sum(settled) AND sum(live_total) = 0)\n"
					"    OR sum(deltas) > 0",
					quote_identifier(parent_key), poser_relation_name(parent),
					quote_identifier(child_key), quote_identifier(flag), poser_relation_name(child),
					key, total, active, poser_relation_name(counts), poser_relation_name(deltas));
}

/* Read a row of the comparison; returns false if one of its keys is null.  "row" has room for it. */
static bool
read_compared(Compared *row, const PoserCount *count, const Datum *values, const bool *nulls)
{
	int64 *const numbers[] = {&row->parents, &row->settled, &row->deltas};
	MemoryContext old;

	for (int i = 0; i < count->nkeys; i++)
		if (nulls[i])
			return false;
	row->keys = values;
	values += count->nkeys;
	nulls += count->nkeys;

	MemoryContextReset(row->context);
	old = MemoryContextSwitchTo(row->context);
	poser_amounts_clear(count, row->live);
	poser_amounts_clear(count, row->kept);
	poser_amounts_clear(count, row->difference);
	for (int i = 0; i < count->namounts; i++)
	{
		poser_amount_add_datum(count, row->live, i, values[i], nulls[i]);
		poser_amount_add_datum(count, row->kept, i, values[count->namounts + i], nulls[count->namounts + i]);
	}
	poser_amounts_add(count, row->difference, row->live, 1);
	poser_amounts_add(count, row->difference, row->kept, -1);
	MemoryContextSwitchTo(old);
	for (int i = 0; i < lengthof(numbers); i++)
		*numbers[i] = DatumGetInt64(values[2 * count->namounts + i]);
	return true;
}

/*
 * Correct the count of one key.  Returns whether it was wrong.  Not inlined: the caller has a
 * PG_TRY(), and the compiler would warn of a variable that is changed here.
 */
static pg_noinline bool
repair_count(CountWriter *writer, const Compared *row)
{
	const PoserCount *count = writer->count;
	bool wrong = !poser_amounts_are_zero(count, row->difference);
	bool rest = wrong; /* whether the difference is still to be added */
	uint32 hash = hash_count_keys(count, row->keys);

	/*
	 * A parent without a settled row gets one, which holds the difference.  If another
	 * transaction is making one at this moment, a mark stays in case that it is rolled back.
	 */
	if (row->settled == 0 && row->parents > 0)
	{
		if (poser_count_make_settled_row(writer, row->keys, hash, row->difference))
			rest = false;
		else if (!poser_count_find_row(&writer->settled, row->keys, hash))
			poser_count_mark_missing(writer, row->keys, hash);
		CommandCounterIncrement();
	}

	/*
	 * Without a parent make no settled row, because it could conflict with the one of a
	 * transaction that inserts the parent.  All deltas become one.
	 */
	if (!rest)
		poser_amounts_clear(count, row->difference);
	if (row->settled == 0 && row->parents == 0)
	{
		const PoserAmount *taken = poser_count_take_deltas(writer, row->keys);
		MemoryContext old = MemoryContextSwitchTo(row->context);

		poser_amounts_add(count, row->difference, taken, 1);
		MemoryContextSwitchTo(old);
		poser_count_defer(writer, row->keys, hash, row->difference);
	}
	else if (row->deltas > 0 || rest)
		poser_count_change(writer, row->keys, hash, row->difference);

	/* Delete a settled row without a parent and children. */
	if (row->settled > 0 && row->parents == 0 && poser_amounts_are_zero(count, row->live))
	{
		CommandCounterIncrement();
		poser_count_end_unused(writer, row->keys);
	}
	return wrong;
}

/* Raises an error unless the table has a column of this name and type. */
static void
check_column(Oid relid, const char *column, Oid type)
{
	Relation rel = table_open(relid, NoLock);
	AttrNumber attno = poser_user_column(rel, column, NULL);
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), attno - 1);

	if (att->atttypid != type)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" of relation \"%s\" is of type %s instead of %s",
						column, RelationGetRelationName(rel), format_type_be(att->atttypid),
						format_type_be(type))));
	table_close(rel, NoLock);
}

/* Lock a relation.  It can have been dropped before it was locked: then raise an error. */
static void
lock_existing(Oid relid, LOCKMODE mode)
{
	LockRelationOid(relid, mode);
	if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));
}

/*
 * Lock the relations that a comparison reads, in this order, and then the tables of the count,
 * so that a rebuild can begin.  Raises an error if one has been dropped.
 *
 * The order of the relations is that in which writers lock them, so that there is no deadlock.
 * They are locked before the snapshot is taken, so that it sees all rows of a table that was
 * rewritten.
 */
static void
lock_compared(int nrelations, const Oid *relids, Oid counts, Oid deltas)
{
	for (int i = 0; i < nrelations; i++)
		lock_existing(relids[i], AccessShareLock);
	lock_existing(counts, ShareUpdateExclusiveLock);
	lock_existing(deltas, AccessShareLock);
}

/*
 * Correct all counts, and settle all deltas that no other transaction holds.  Returns how many
 * keys had a wrong count.  The caller has locked what is compared, and has
 * described the count after it.
 *
 * "sql" is the comparison: it has a row for each key that may have to be changed.  Its columns
 * are the keys, the amounts of the child's rows, the amounts that the count has, and as bigint
 * the number of parents, of settled rows and of deltas.  It is run with search_path =
 * pg_catalog, as the owner of the relation "owned".  The current user must have the rights of
 * the owner of all the tables.
 *
 * Not inlined into a function with PG_TRY(), where compilers warn of its variables.
 */
pg_noinline int64
poser_count_rebuild(PoserProgress *progress, const PoserCount *count, const char *sql, Oid owned)
{
	int natts = count->nkeys + 2 * count->namounts + 3;
	Compared row = {.live = poser_amounts_make(count),
					.kept = poser_amounts_make(count),
					.difference = poser_amounts_make(count),
					.context = AllocSetContextCreate(CurrentMemoryContext, "poser recount", ALLOCSET_SMALL_SIZES)};
	Datum *values = palloc(natts * sizeof(Datum));
	bool *nulls = palloc(natts * sizeof(bool));
	CountWriter writer;
	Snapshot latest;
	Portal portal;
	PoserCaller caller;
	int64 wrong = 0;
	bool first = true;
	CommandId first_cid;

	/* Compare with the latest snapshot, which sees what an earlier rebuild has corrected. */
	poser_become_owner(owned, &caller);
	latest = RegisterSnapshot(GetLatestSnapshot());
	PushActiveSnapshot(latest);
	SPI_connect();
	portal = poser_open_cursor_for(&(PoserQuery) {.sql = sql, .read_only = true});

	/* Correct the counts while the query runs: its snapshot does not see what is written. */
	poser_count_open(&writer, count);
	first_cid = GetCurrentCommandId(false);
	for (;;)
	{
		SPI_cursor_fetch(portal, true, REBUILD_BATCH);
		if (SPI_processed == 0)
			break;
		if (SPI_tuptable->tupdesc->natts != natts)
			elog(ERROR, "a comparison of counts has %d columns instead of %d", SPI_tuptable->tupdesc->natts, natts);
		if (first)
			poser_progress_report(progress, "correcting", 0);
		first = false;
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			poser_progress_count(progress, 1);
			heap_deform_tuple(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, values, nulls);
			if (read_compared(&row, count, values, nulls) && repair_count(&writer, &row))
				wrong++;
		}
		SPI_freetuptable(SPI_tuptable);
	}
	poser_count_close(&writer);

	SPI_cursor_close(portal);
	SPI_finish();
	PopActiveSnapshot();
	UnregisterSnapshot(latest);
	poser_become_caller(&caller);
	MemoryContextDelete(row.context);

	/*
	 * An older snapshot, such as that of a REPEATABLE READ transaction, may not see the
	 * wrong counts.  So it must not be used to read the counts with their corrections.
	 */
	if (wrong > 0)
		poser_count_note_inconsistent(first_cid);
	return wrong;
}

/* Correct the counts of the components.  Not inlined, as poser_count_rebuild(). */
static pg_noinline int64
rebuild(PoserProgress *progress, Oid parent, const char *parent_key, Oid child, const char *child_key,
		const char *flag, Oid counts, Oid deltas)
{
	Oid relations[] = {child, parent};
	PoserCount count;
	PoserCountKey key;
	AttrNumber parent_column;

	poser_progress_report(progress, "comparing", 0);
	lock_compared(lengthof(relations), relations, counts, deltas);
	poser_count_describe(&count, &key, counts, deltas);
	check_column(parent, parent_key, key.type);
	check_column(child, child_key, key.type);
	check_column(child, flag, BOOLOID);
	parent_column = get_attnum(parent, parent_key);
	count.parent = parent;
	count.parent_keys = &parent_column;
	return poser_count_rebuild(progress, &count,
							   poser_count_comparison(parent, parent_key, child, child_key, flag, counts, deltas), child);
}

/* The tables: parent, child, counts and deltas. */
static const char *const recounted_tables[] = {
	"poser_widget", "poser_component", "poser_component_count", "poser_component_count_delta"};

/* Is this the view that shows the component counts? */
bool
poser_recount_is_components(Oid relid, Oid nspid)
{
	return OidIsValid(relid) && relid == get_relname_relid("poser_widget_summary", nspid);
}

/* Has the current user the rights of the owners of the tables of the component counts? */
bool
poser_recount_owns_components(Oid nspid)
{
	for (int i = 0; i < lengthof(recounted_tables); i++)
		if (!poser_is_owner(poser_relation_by_name(recounted_tables[i], nspid), GetUserId()))
			return false;
	return true;
}

/*
 * Correct all counts of components.  Returns the number of widgets with a wrong count.  Raises an
 * error unless the current user has the rights of the tables' owners.
 */
int64
poser_recount_components(PoserProgress *progress, Oid nspid)
{
	Oid relids[lengthof(recounted_tables)];
	PoserCaller caller;

	for (int i = 0; i < lengthof(recounted_tables); i++)
	{
		relids[i] = poser_relation_by_name(recounted_tables[i], nspid);
		poser_check_owner(relids[i]);
	}

	/* The comparison runs with the rights of the child's owner.  It must see all rows. */
	poser_become_owner(relids[1], &caller);
	for (int i = 0; i < lengthof(recounted_tables); i++)
		poser_check_readable(relids[1], relids[i]);
	poser_become_caller(&caller);
	return rebuild(progress, relids[0], "uuid", relids[1], "widget_uuid", "active", relids[2], relids[3]);
}
