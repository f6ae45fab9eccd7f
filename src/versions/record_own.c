/*
 * record_own.c
 *	  poser_record_versions() for one table in steps, and for tables that poser_track() gives a history.
 *
 * Without max_versions an own table is compared with its versions as record.c does it, under
 * a lock that makes its writers wait.
 *
 * With max_versions each call records at most so many versions, and makes writers wait
 * only while it writes these:
 *
 * 1. It reads the rows of the table in physical order.  The index of the versions tells
 *    whether the last version of a row is equal to it.  Rows for which it is not are noted.
 * 2. Then it locks the table, and looks at the noted rows again with a new snapshot.  A
 *    row that was changed meanwhile is no longer there: its trigger has recorded it.  A
 *    version is written for each of the others.
 * 3. When all rows have been read, a query finds the rows that have versions but are no
 *    longer there, and another one the operations that cannot follow each other.  What
 *    they find is looked at again under the lock, too.
 *
 * A later call goes on where the last one has stopped: at a block of the table or of one of
 * its partitions.  poser_prune_position has this block; its row has the OID of the table as
 * name.  If a partition was rewritten since, it is read from its beginning.  Rows that are
 * written behind that block meanwhile are recorded by the triggers.
 *
 * The invariant: a call that returns 0 is the last one of a pass through all rows, none of
 * which differed from its last version when the pass came to it.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/tupconvert.h"
#include "catalog/indexing.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "versions/prune_internal.h"
#include "versions/record_internal.h"

/* How many rows or versions are noted before they are looked at again. */
#define NOTED_AT_A_TIME 100000

/* A position of rows that bypassed the triggers later is not gone on from after this time. */
#define POSITION_IS_OLD_AFTER (INT64CONST(3600) * USECS_PER_SEC)

/* Where a pass goes on: with this block of this table or partition. */
typedef struct Place
{
	Oid relid;
	RelFileNumber file; /* which is another one after a rewrite */
	BlockNumber block;
} Place;

/*
 * Read where the pass through this table goes on.  Without a position, or with one that is
 * too old, it is the beginning.
 */
static void
read_place(const PoserPruning *bookkeeping, const PoserVersioned *versioned, const char *relation, Place *place)
{
	PoserPosition position;
	unsigned int relid;
	unsigned int file;

	*place = (Place) {InvalidOid, 0, 0};
	if (!OidIsValid(bookkeeping->positions) || !poser_prune_read_position(bookkeeping, relation, &position))
		return;
	if (!versioned->partial && position.before < GetCurrentTimestamp() - POSITION_IS_OLD_AFTER)
		return;
	if (position.key != NULL && sscanf(position.key, "%u.%u", &relid, &file) == 2 &&
		position.change_id >= 0 && position.change_id <= MaxBlockNumber)
		*place = (Place) {relid, file, (BlockNumber) position.change_id};
}

/* Write where the pass goes on or, with NULL, that there is none. */
static void
write_place(const PoserPruning *bookkeeping, const char *relation, const Place *place)
{
	PoserPosition position;

	if (!OidIsValid(bookkeeping->positions))
		return;
	if (place == NULL)
	{
		poser_prune_write_position(bookkeeping, relation, NULL);
		return;
	}
	poser_prune_begin_round(&position, 0, GetCurrentTimestamp());
	position.key = psprintf("%u.%u", place->relid, (unsigned int) place->file);
	position.change_id = place->block;
	poser_prune_write_position(bookkeeping, relation, &position);
}

/* Lock a table and its partitions against writers, and the history against what could arrive. */
void
poser_record_lock(Oid relid, Oid transactions)
{
	List *tree = poser_lock_tree(relid);
	int n = list_length(tree);
	Oid *relids = palloc((n + 1) * sizeof(Oid));
	LOCKMODE *modes = palloc((n + 1) * sizeof(LOCKMODE));

	for (int i = 0; i < n; i++)
	{
		relids[i] = list_nth_oid(tree, i);
		modes[i] = ShareRowExclusiveLock;
	}
	relids[n] = transactions;
	modes[n] = RowExclusiveLock;
	poser_lock_together(relids, modes, n + 1);
	list_free(tree);
	pfree(relids);
	pfree(modes);
}

/* For list_sort(). */
static int
compare_oids(const ListCell *a, const ListCell *b)
{
	return lfirst_oid(a) < lfirst_oid(b) ? -1 : lfirst_oid(a) > lfirst_oid(b);
}

/* Begin to read a table from a block on, in physical order; an access method that cannot do this reads all. */
static TableScanDesc
begin_scan(Relation rel, Snapshot snapshot, BlockNumber block, bool *by_tid)
{
	ItemPointerData first;
	ItemPointerData last;

	*by_tid = rel->rd_tableam->scan_set_tidrange != NULL;
	if (!*by_tid)
		return table_beginscan(rel, snapshot, 0, NULL, SO_NONE);
	ItemPointerSet(&first, block, FirstOffsetNumber);
	ItemPointerSet(&last, MaxBlockNumber, PG_UINT16_MAX);
	return table_beginscan_tidrange(rel, snapshot, &first, &last, SO_NONE);
}

/* A table or partition whose rows are read. */
typedef struct Source
{
	Relation rel;
	TupleTableSlot *row;	   /* NULL if it has no rows of its own */
	TupleConversionMap *map;   /* to a row of the tracked table; NULL if it has the same columns */
	TupleTableSlot *converted; /* NULL without a map */
} Source;

static void
open_source(Source *source, Oid relid, const PoserVersioned *versioned)
{
	Relation target = table_open(versioned->relid, NoLock);

	source->rel = table_open(relid, NoLock);
	source->row = NULL;
	source->map = NULL;
	source->converted = NULL;
	if (RELKIND_HAS_TABLE_AM(source->rel->rd_rel->relkind))
	{
		source->row = table_slot_create(source->rel, NULL);
		source->map = convert_tuples_by_name(RelationGetDescr(source->rel), RelationGetDescr(target));
	}
	if (source->map != NULL)
		source->converted = MakeSingleTupleTableSlot(RelationGetDescr(target), &TTSOpsVirtual);
	table_close(target, NoLock);
}

/* Returns the row that was read, as a row of the tracked table. */
static TupleTableSlot *
source_row(Source *source)
{
	return source->map != NULL ? execute_attr_map_slot(source->map->attrMap, source->row, source->converted) : source->row;
}

static void
close_source(Source *source)
{
	if (source->row != NULL)
		ExecDropSingleTupleTableSlot(source->row);
	if (source->map != NULL)
	{
		ExecDropSingleTupleTableSlot(source->converted);
		free_conversion_map(source->map);
	}
	table_close(source->rel, NoLock);
}

/*
 * Note at most "limit" rows of one table or partition, from a block on, whose last version
 * is not equal to them.  *block becomes the block of the last row that was read.  Returns
 * how many were noted; if it is "limit", there can be more.
 */
static int
note_rows(const PoserVersioned *versioned, Source *source, BlockNumber *block, ItemPointerData *noted, int limit,
		  PoserProgress *progress)
{
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	Relation versions = table_open(versioned->versions, NoLock);
	TupleTableSlot *row = source->row;
	PoserLookup lookup;
	bool by_tid;
	TableScanDesc scan = begin_scan(source->rel, snapshot, *block, &by_tid);
	int result = 0;

	/* without an index each row would read all versions */
	if (!OidIsValid(versioned->versions_index))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("relation \"%s\" has no usable index on its key", RelationGetRelationName(versions)),
				 errhint("Call poser_track() for table \"%s\".", get_rel_name(versioned->relid))));
	poser_version_lookup_open(&lookup, versioned, versions);
	while (result < limit && (by_tid ? table_scan_getnextslot_tidrange(scan, ForwardScanDirection, row)
									 : table_scan_getnextslot(scan, ForwardScanDirection, row)))
	{
		poser_progress_count(progress, 1);
		*block = ItemPointerGetBlockNumber(&row->tts_tid);
		if (!poser_version_lookup_ends_in(&lookup, versioned, source_row(source)))
			noted[result++] = row->tts_tid;
	}
	poser_lookup_close(&lookup);
	table_endscan(scan);
	ExecClearTuple(row);
	table_close(versions, NoLock);
	UnregisterSnapshot(snapshot);
	return result;
}

/* Write a version of each noted row that is still there and still differs.  The caller has locked the table.  Returns how many. */
static int64
record_noted_rows(const PoserVersioned *versioned, Source *source, const ItemPointerData *noted, int n, const char *comment)
{
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	PoserVersionWriter *writer = poser_version_begin(versioned, comment);
	Relation versions = table_open(versioned->versions, NoLock);
	PoserLookup lookup;
	int64 result = 0;

	poser_version_lookup_open(&lookup, versioned, versions);
	for (int i = 0; i < n; i++)
	{
		ItemPointerData tid = noted[i];
		PoserOperation operation = POSER_INSERT;
		TupleTableSlot *row;

		CHECK_FOR_INTERRUPTS();
		if (!table_tuple_fetch_row_version(source->rel, &tid, snapshot, source->row))
			continue;
		row = source_row(source);
		poser_version_lookup_begin(&lookup, versioned, row, false);
		if (poser_version_lookup_next(&lookup) && poser_version_operation(versioned, lookup.slot) != POSER_DELETE)
		{
			if (poser_versioned_is_version_of(versioned, lookup.slot, row))
				continue;
			operation = POSER_UPDATE;
		}
		poser_version_write(writer, operation, row, false);
		result++;
	}
	poser_lookup_close(&lookup);
	ExecClearTuple(source->row);
	table_close(versions, NoLock);
	poser_version_end(writer);
	UnregisterSnapshot(snapshot);
	return result;
}

/*
 * Go on with the pass through one table or partition.  "place" is in it, or is changed to
 * its beginning.  Returns how many versions were written, at most "limit".  If they are
 * fewer, the table has been read to its end.
 */
static int64
record_rows(const PoserVersioned *root, Oid relid, Place *place, int64 limit, const char *comment, PoserProgress *progress)
{
	Source source;
	ItemPointerData *noted;
	int64 result = 0;
	int at_a_time;
	int n;

	/* a foreign table has no triggers of Poser, and a partitioned one no rows */
	open_source(&source, relid, root);
	if (source.row == NULL)
	{
		close_source(&source);
		return 0;
	}
	if (place->relid != relid || place->file != relation_file(source.rel))
		*place = (Place) {relid, relation_file(source.rel), 0};
	noted = palloc(Min(limit, NOTED_AT_A_TIME) * sizeof(ItemPointerData));
	do
	{
		at_a_time = (int) Min(limit - result, NOTED_AT_A_TIME);
		n = note_rows(root, &source, &place->block, noted, at_a_time, progress);
		if (n > 0)
		{
			poser_record_lock(root->relid, root->transactions);
			result += record_noted_rows(root, &source, noted, n, comment);
		}
	} while (n == at_a_time && result < limit);
	pfree(noted);
	close_source(&source);
	return result;
}

/*
 * Returns the query for the last versions of rows that are no longer in the table: their
 * change_ids or, with "again", their rows among those in the array $2.  $1 limits them.
 *
 *	SELECT last.change_id [or: last.*]
 *	  FROM customer_version AS last
 *	 WHERE last.operation_type <> 2 [AND last.change_id = ANY ($2)]
 *	   AND NOT EXISTS (SELECT FROM customer_version AS newer
 *	                    WHERE newer.id = last.id AND newer.change_id > last.change_id)
 *	   AND NOT EXISTS (SELECT FROM customer AS live WHERE live.id = last.id)
 *	 LIMIT $1
 */
static char *
lost_rows_query(const PoserVersioned *versioned, bool again)
{
	const char *versions = poser_relation_name(versioned->versions);
	const char *change_id = poser_history_column(versioned, versioned->change_id);
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	if (again)
		poser_history_append_versions(&sql, versioned, "last");
	else
		appendStringInfo(&sql, "last.%s", change_id);
	appendStringInfo(&sql, "\n  FROM %s AS last\n WHERE last.%s OPERATOR(pg_catalog.<>) 2",
					 versions, poser_history_column(versioned, versioned->operation_type));
	if (again)
		appendStringInfo(&sql, " AND last.%s OPERATOR(pg_catalog.=) ANY ($2)", change_id);
	appendStringInfo(&sql, "\n   AND NOT EXISTS (SELECT FROM %s AS newer\n                    WHERE ", versions);
	poser_history_append_keys(&sql, versioned, " AND ", "newer.%n %= last.%n");
	appendStringInfo(&sql, " AND newer.%1$s OPERATOR(pg_catalog.>) last.%1$s)", change_id);
	appendStringInfo(&sql, "\n   AND NOT EXISTS (SELECT FROM %s AS live WHERE ", poser_relation_name(versioned->relid));
	poser_history_append_keys(&sql, versioned, " AND ", "live.%l%c %= last.%n");
	appendStringInfoString(&sql, ")\n LIMIT $1");
	return sql.data;
}

/* Write a version for the delete of at most "limit" rows that are no longer there.  Returns how many. */
static int64
record_lost_rows(const PoserVersioned *versioned, int64 limit, const char *comment, PoserProgress *progress)
{
	static const PoserSetting settings[] = {{"enable_nestloop", "off"}};
	const Oid argtypes[] = {INT8OID, INT8ARRAYOID};
	Datum values[] = {Int64GetDatum(Min(limit, NOTED_AT_A_TIME)), (Datum) 0};
	char *sql = lost_rows_query(versioned, false);
	int level;
	int n;
	Datum *ids;
	PoserVersionWriter *writer;
	TupleTableSlot *slot;
	Relation versions;

	/*
	 * Note them without a lock.  The versions can be new, and the statistics older.  Then the
	 * planner takes the table for empty, and could read all versions for each row.
	 */
	poser_progress_report(progress, "looking for deleted rows", 0);
	PushActiveSnapshot(GetLatestSnapshot());
	level = poser_begin_settings(settings, lengthof(settings));
	n = (int) poser_run(&(PoserQuery) {.sql = sql, .nargs = 1, .argtypes = argtypes, .values = values, .read_only = true});
	AtEOXact_GUC(true, level);
	PopActiveSnapshot();
	if (n == 0)
		return 0;
	ids = palloc(n * sizeof(Datum));
	for (int i = 0; i < n; i++)
	{
		bool isnull;

		ids[i] = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull);
	}
	SPI_freetuptable(SPI_tuptable);
	values[1] = PointerGetDatum(construct_array(ids, n, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));

	/* look at them again */
	poser_record_lock(versioned->relid, versioned->transactions);
	PushActiveSnapshot(GetLatestSnapshot());
	n = (int) poser_run(&(PoserQuery) {.sql = lost_rows_query(versioned, true), .nargs = 2, .argtypes = argtypes, .values = values, .read_only = true});
	PopActiveSnapshot();
	writer = poser_version_begin(versioned, comment);
	versions = table_open(versioned->versions, NoLock);
	slot = MakeSingleTupleTableSlot(RelationGetDescr(versions), &TTSOpsVirtual);
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		ExecClearTuple(slot);
		heap_deform_tuple(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, slot->tts_values, slot->tts_isnull);
		ExecStoreVirtualTuple(slot);
		poser_version_write(writer, POSER_DELETE, slot, true);
	}
	poser_version_end(writer);
	ExecDropSingleTupleTableSlot(slot);
	table_close(versions, NoLock);
	return n;
}

/*
 * All rows have versions: change the second argument of the binding from 'partial' to ''.
 * The lock keeps others from replacing the trigger meanwhile, but no writer waits for it: a
 * writer that still has the old argument only looks for versions that are there.
 */
void
poser_record_end_partial(const PoserVersioned *versioned)
{
	static const char partial[] = "partial";
	PoserTracked tracked;
	Relation triggers;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple tuple;

	if (!versioned->partial)
		return;
	LockRelationOid(versioned->versions, ShareUpdateExclusiveLock);
	if (!poser_tracked_find(versioned->relid, versioned->nspid, &tracked) || tracked.versions != versioned->versions)
		return;
	triggers = table_open(TriggerRelationId, RowExclusiveLock);
	ScanKeyInit(&key, Anum_pg_trigger_oid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(tracked.binding));
	scan = systable_beginscan(triggers, TriggerOidIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		TupleDesc desc = RelationGetDescr(triggers);
		bool isnull;
		bytea *arguments = DatumGetByteaPP(heap_getattr(tuple, Anum_pg_trigger_tgargs, desc, &isnull));
		Size size = VARSIZE_ANY_EXHDR(arguments);
		const char *first = VARDATA_ANY(arguments);
		Size before = strnlen(first, size) + 1;

		if (before + sizeof(partial) <= size && strcmp(first + before, partial) == 0)
		{
			Size rest = size - before - strlen(partial);
			bytea *changed = palloc(VARHDRSZ + before + rest);
			Datum values[Natts_pg_trigger] = {0};
			bool nulls[Natts_pg_trigger] = {0};
			bool replaces[Natts_pg_trigger] = {0};
			HeapTuple new_tuple;

			SET_VARSIZE(changed, VARHDRSZ + before + rest);
			memcpy(VARDATA(changed), first, before);
			memcpy(VARDATA(changed) + before, first + before + strlen(partial), rest);
			values[Anum_pg_trigger_tgargs - 1] = PointerGetDatum(changed);
			replaces[Anum_pg_trigger_tgargs - 1] = true;
			new_tuple = heap_modify_tuple(tuple, desc, values, nulls, replaces);
			CatalogTupleUpdate(triggers, &new_tuple->t_self, new_tuple);
			CacheInvalidateRelcacheByRelid(versioned->versions);
			CommandCounterIncrement();
		}
	}
	systable_endscan(scan);
	table_close(triggers, RowExclusiveLock);
}

/*
 * Record at most "limit" versions of one table, as the head of this file says.  Returns how
 * many were written or corrected; 0 if the pass is complete.  The caller has connected to
 * SPI, has described the table and has the rights of its owner.
 */
int64
poser_record_step(const PoserVersioned *versioned, int64 limit, const char *comment, PoserProgress *progress)
{
	PoserPruning bookkeeping = {.nspid = versioned->nspid, .transactions = versioned->transactions};
	char relation[NAMEDATALEN];
	List *tree = poser_lock_tree(versioned->relid);
	Place place;
	int64 result = 0;
	ListCell *lc;

	bookkeeping.positions = get_relname_relid("poser_prune_position", versioned->nspid);
	snprintf(relation, sizeof(relation), "%u", versioned->relid);
	poser_progress_report(progress, "comparing", 0);
	PushActiveSnapshot(GetLatestSnapshot());
	read_place(&bookkeeping, versioned, relation, &place);
	PopActiveSnapshot();

	/* the rows of the table and its partitions, in the order of their OIDs, so that the place stands for what comes before it */
	list_sort(tree, compare_oids);
	foreach(lc, tree)
	{
		if (result < limit && (!OidIsValid(place.relid) || lfirst_oid(lc) >= place.relid))
			result += record_rows(versioned, lfirst_oid(lc), &place, limit - result, comment, progress);
	}
	list_free(tree);

	/* what has versions, but no row; and what the versions say */
	if (result < limit)
		result += record_lost_rows(versioned, limit - result, comment, progress);
	if (result < limit)
		result += poser_record_corrections(versioned, progress);

	PushActiveSnapshot(GetLatestSnapshot());
	if (result > 0)
		write_place(&bookkeeping, relation, &place);
	else
	{
		write_place(&bookkeeping, relation, NULL);
		poser_record_end_partial(versioned);
	}
	PopActiveSnapshot();
	return result;
}
