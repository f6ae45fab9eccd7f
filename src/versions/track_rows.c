/*
 * track_rows.c
 *	  The first versions of the rows of a tracked table, and the indexes of the versions.
 *
 * A row that is there when poser_track() makes a table of versions gets a version.  The
 * rows are read in physical order, and their versions are inserted in large groups before
 * the indexes are made.  This runs no code of users: rows are read and written without SQL.
 *
 * If the table of versions has rows already, or if a column is recorded from now on, the
 * rows are compared with their last versions, as poser_record_versions() does it.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/tupconvert.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "versions/track_internal.h"

/* Does the table, or one of its partitions, have storage that is not empty? */
bool
poser_track_has_rows(const PoserTrack *track)
{
	ListCell *lc;

	foreach(lc, track->tree)
	{
		Relation rel = table_open(lfirst_oid(lc), NoLock);
		bool result = RELKIND_HAS_TABLE_AM(rel->rd_rel->relkind) && RelationGetNumberOfBlocks(rel) > 0;

		table_close(rel, NoLock);
		if (result)
			return true;
	}
	return false;
}

/* Does the table of versions have rows?  A partitioned one is taken to have some. */
static bool
has_versions(const PoserTrack *track)
{
	Relation versions = table_open(track->versions, AccessShareLock);
	bool result = !RELKIND_HAS_TABLE_AM(versions->rd_rel->relkind) || RelationGetNumberOfBlocks(versions) > 0;

	table_close(versions, AccessShareLock);
	return result;
}

/* The comment of the versions: poser.comment or, if it is not set, this one. */
static const char *
comment_of_versions(void)
{
	return poser_comment == NULL || poser_comment[0] == '\0' ? "recorded by poser_track()" : NULL;
}

/* Write a version for each row of the table or of one partition. */
static void
write_versions_of(const PoserVersioned *versioned, Oid relid, Snapshot snapshot, PoserVersionWriter *writer, PoserProgress *progress)
{
	Relation rel = table_open(relid, NoLock);
	Relation target = table_open(versioned->relid, NoLock);
	TupleTableSlot *row;
	TupleTableSlot *converted = NULL;
	TupleConversionMap *map;
	TableScanDesc scan;

	if (!RELKIND_HAS_TABLE_AM(rel->rd_rel->relkind))
	{
		table_close(target, NoLock);
		table_close(rel, NoLock);
		return;
	}
	row = table_slot_create(rel, NULL);
	map = convert_tuples_by_name(RelationGetDescr(rel), RelationGetDescr(target));
	if (map != NULL)
		converted = MakeSingleTupleTableSlot(RelationGetDescr(target), &TTSOpsVirtual);
	scan = table_beginscan(rel, snapshot, 0, NULL, SO_NONE);
	while (table_scan_getnextslot(scan, ForwardScanDirection, row))
	{
		poser_version_write(writer, POSER_INSERT, map != NULL ? execute_attr_map_slot(map->attrMap, row, converted) : row, false);
		poser_progress_count(progress, 1);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(row);
	if (converted != NULL)
		ExecDropSingleTupleTableSlot(converted);
	table_close(target, NoLock);
	table_close(rel, NoLock);
}

/* Write a version for each row of the table and its partitions. */
static void
write_first_versions(const PoserTrack *track, const PoserVersioned *versioned)
{
	PoserVersionWriter *writer = poser_version_begin(versioned, comment_of_versions());
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	PoserProgress progress;
	ListCell *lc;

	poser_progress_begin(&progress, psprintf("poser_track for %s", get_rel_name(track->relid)));
	poser_progress_report(&progress, "writing versions", 0);
	foreach(lc, track->tree)
	{
		write_versions_of(versioned, lfirst_oid(lc), snapshot, writer, &progress);
	}
	poser_version_end(writer);
	poser_progress_end(&progress);
	UnregisterSnapshot(snapshot);
}

/*
 * Compare the rows with their last versions, and record the differences, with the caller's
 * rights:
 *
 *	SELECT poser_record_versions($1, NULL)
 */
static void
compare(const PoserTrack *track)
{
	const Oid argtypes[] = {REGCLASSOID};
	const Datum values[] = {ObjectIdGetDatum(track->relid)};
	const char *sql = psprintf("SELECT %s.poser_record_versions($1, NULL::pg_catalog.int8)",
							   quote_identifier(get_namespace_name(track->nspid)));
	int64 n;

	SPI_connect();
	poser_run(&(PoserQuery) {.sql = sql, .nargs = 1, .argtypes = argtypes, .values = values, .once = true});
	n = poser_result_int64(1, NULL);
	SPI_finish();
	if (n > 0)
		ereport(NOTICE, errmsg_plural(INT64_FORMAT " version of relation \"%s\" is recorded",
									  INT64_FORMAT " versions of relation \"%s\" are recorded", n, n, get_rel_name(track->relid)));
}

/* Does any row have a value in a column that is recorded from now on? */
static bool
added_columns_have_values(const PoserTrack *track)
{
	StringInfoData sql;
	bool has_added = false;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT FROM %s WHERE ", poser_relation_name(track->relid));
	for (int i = 0; i < track->ncolumns; i++)
	{
		if (!track->columns[i].is_added)
			continue;
		appendStringInfo(&sql, "%s%s IS DISTINCT FROM NULL", has_added ? " OR " : "", quote_identifier(track->columns[i].name));
		has_added = true;
	}
	return has_added && poser_track_finds_row(track, track->relid, sql.data);
}

/* Make the index that finds versions by change_id, unless there is one. */
static void
make_change_index(PoserTrack *track)
{
	Relation versions = table_open(track->versions, AccessShareLock);
	AttrNumber change_id = get_attnum(track->versions, track->change_id);
	List *indexes = RelationGetIndexList(versions);
	bool has_primary_key = OidIsValid(versions->rd_pkindex);
	bool partitioned = versions->rd_rel->relkind == RELKIND_PARTITIONED_TABLE;
	bool found = false;
	ListCell *lc;

	foreach(lc, indexes)
	{
		Relation index = index_open(lfirst_oid(lc), AccessShareLock);

		found = found || (index->rd_index->indisvalid && index->rd_index->indkey.values[0] == change_id &&
						  heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL));
		index_close(index, AccessShareLock);
	}
	list_free(indexes);
	table_close(versions, AccessShareLock);
	if (found || !poser_track_must(track, true, "index on \"%s\" of relation \"%s\" is made", track->change_id, get_rel_name(track->versions)))
		return;
	if (partitioned || has_primary_key)
		poser_track_run(track, track->versions,
						psprintf("CREATE %sINDEX ON %s (%s)", partitioned ? "" : "UNIQUE ", poser_relation_name(track->versions),
								 quote_identifier(track->change_id)));
	else
		poser_track_run(track, track->versions,
						psprintf("ALTER TABLE %s ADD PRIMARY KEY (%s)", poser_relation_name(track->versions), quote_identifier(track->change_id)));
}

/*
 * Make the index on the key and change_id, unless there is one.
 *
 *	CREATE INDEX ON customer_version (id, change_id)
 */
static void
make_key_index(PoserTrack *track, const PoserVersioned *versioned)
{
	StringInfoData sql;

	if (OidIsValid(versioned->versions_index) ||
		!poser_track_must(track, true, "index on the key of relation \"%s\" is made", get_rel_name(track->versions)))
		return;
	initStringInfo(&sql);
	appendStringInfo(&sql, "CREATE INDEX ON %s (", poser_relation_name(track->versions));
	for (int i = 0; i < versioned->nkeys; i++)
		appendStringInfo(&sql, "%s, ", quote_identifier(get_attname(track->versions, versioned->keys[i], false)));
	appendStringInfo(&sql, "%s)", quote_identifier(track->change_id));
	poser_track_run(track, track->versions, sql.data);
}

/*
 * What comes after the binding: versions of the rows that are there, and the indexes.  In
 * the first pass of a call that has something else to do, this is left out: the binding
 * does not hold yet.
 */
void
poser_track_finish(PoserTrack *track)
{
	PoserVersioned versioned;

	if (track->looking && track->todo)
		return;
	poser_tracked_describe(&versioned, track->relid, track->nspid, track->looking ? AccessShareLock : RowExclusiveLock);
	if (!track->looking && !track->bound && track->existing && !has_versions(track))
		write_first_versions(track, &versioned);
	else if (!track->looking && !track->bound && track->existing)
		track->compare = true;
	else if (!track->looking && !track->bound)
		track->compare = false;
	make_change_index(track);
	make_key_index(track, &versioned);
	if (!track->looking && (track->compare || added_columns_have_values(track)))
		compare(track);
}
