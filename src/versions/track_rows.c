/*
 * track_rows.c
 *	  The first versions of the rows of a tracked table, and the indexes of the versions.
 *
 * A row that is there when poser_track() makes a table of versions gets a version.  The
 * rows are read in physical order, and their versions are inserted in large groups before
 * the indexes are made.  This runs no code of users: rows are read and written without SQL.
 *
 * If the table of versions has rows already, if a column is recorded from now on, or if the
 * key has changed, the rows are compared with their last versions, as
 * poser_record_versions() does it.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/tupconvert.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/comment.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/acl.h"
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

	poser_progress_begin(&progress, "poser_track");
	poser_progress_table(&progress, "poser_track", track->relid);
	PG_TRY();
	{
		poser_progress_report(&progress, "writing versions", 0);
		foreach(lc, track->tree)
		{
			write_versions_of(versioned, lfirst_oid(lc), snapshot, writer, &progress);
		}
		poser_version_end(writer);
	}
	PG_FINALLY();
	{
		poser_progress_end(&progress);
	}
	PG_END_TRY();
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

/* Returns the horizon that a query finds, as the text for a comment; NULL if it finds none. */
static char *
find_horizon(const PoserTrack *track, const char *sql)
{
	MemoryContext context = CurrentMemoryContext;
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	PoserCaller caller;
	char *result = NULL;

	PushActiveSnapshot(snapshot);
	SPI_connect();
	poser_become_owner(track->versions, &caller);
	if (poser_run(&(PoserQuery) {.sql = sql, .once = true, .read_only = true, .limit = 1}) > 0)
		result = MemoryContextStrdup(context, psprintf(POSER_HORIZON_FORMAT, (long long) poser_result_int64(1, NULL),
													   (long long) poser_result_int64(2, NULL)));
	poser_become_caller(&caller);
	SPI_finish();
	PopActiveSnapshot();
	UnregisterSnapshot(snapshot);
	return result;
}

/*
 * How far a history was pruned is noted at its binding, which is gone when a history is
 * taken up again.  Then poser_untrack() has noted it at the column change_id.  If the table
 * was dropped instead, this looks for the last version that pruning must have made the first
 * one of its row, because it is an update:
 *
 *	SELECT v.transaction_id, v.change_id FROM customer_version AS v
 *	 WHERE v.operation_type = 1
 *	   AND NOT EXISTS (SELECT FROM customer_version AS b WHERE b.id = v.id AND b.change_id < v.change_id)
 *	 ORDER BY v.change_id DESC LIMIT 1
 */
static void
restore_horizon(const PoserTrack *track, const PoserVersioned *versioned)
{
	char *comment = GetComment(track->versions, RelationRelationId, versioned->change_id);
	long long transaction_id;
	long long change_id;
	const char *versions = poser_relation_name(track->versions);
	char *change = pstrdup(quote_identifier(track->change_id));
	StringInfoData sql;

	if (comment == NULL || sscanf(comment, POSER_HORIZON_FORMAT, &transaction_id, &change_id) != 2)
	{
		initStringInfo(&sql);
		appendStringInfo(&sql,
						 "SELECT v.%s, v.%s FROM %s AS v\n"
						 " WHERE v.%s OPERATOR(pg_catalog.=) 1\n"
						 "   AND NOT EXISTS (SELECT FROM %s AS b WHERE b.%s OPERATOR(pg_catalog.<) v.%s",
						 pstrdup(quote_identifier(track->transaction_id)), change, versions, quote_identifier(track->operation_type),
						 versions, change, change);
		for (int i = 0; i < versioned->nkeys; i++)
		{
			const char *key = pstrdup(quote_identifier(get_attname(track->versions, versioned->keys[i], false)));

			appendStringInfo(&sql, " AND b.%s %s v.%s", key, poser_equality(get_atttype(track->versions, versioned->keys[i])), key);
		}
		appendStringInfo(&sql, ")\n ORDER BY v.%s DESC", change);
		comment = find_horizon(track, sql.data);
	}
	if (comment != NULL)
		poser_track_run(track, track->versions,
						psprintf("COMMENT ON TRIGGER poser_versions_of ON %s IS %s", versions, quote_literal_cstr(comment)));
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
 * Make the index on the key and change_id, unless there is one.  Returns whether it was made.
 *
 *	CREATE INDEX ON customer_version (id, change_id)
 */
static bool
make_key_index(PoserTrack *track, const PoserVersioned *versioned)
{
	StringInfoData sql;

	if (OidIsValid(versioned->versions_index) ||
		!poser_track_must(track, true, "index on the key of relation \"%s\" is made", get_rel_name(track->versions)))
		return false;
	initStringInfo(&sql);
	appendStringInfo(&sql, "CREATE INDEX ON %s (", poser_relation_name(track->versions));
	for (int i = 0; i < versioned->nkeys; i++)
		appendStringInfo(&sql, "%s, ", quote_identifier(get_attname(track->versions, versioned->keys[i], false)));
	appendStringInfo(&sql, "%s)", quote_identifier(track->change_id));
	poser_track_run(track, track->versions, sql.data);
	return true;
}

/*
 * Must rows be compared after this index was made?  Under a new key, versions from before
 * can be of a row that is there no more: a column of the new key was updated then.  If the
 * table's owner cannot read the versions, nothing can be compared.
 */
static bool
has_new_key(const PoserTrack *track)
{
	return track->bound && pg_class_aclcheck(track->versions, poser_owner_of(track->relid), ACL_SELECT) == ACLCHECK_OK;
}

/* Returns the last id that this database has given to a transaction or a change, or 0. */
static int64
last_given_id(const PoserVersioned *versioned)
{
	const char *sql = psprintf("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM %s",
							   poser_relation_name(versioned->sequence));
	int64 result;

	SPI_connect();
	(void) poser_history_run_as_owner(versioned, &(PoserQuery) {.sql = sql, .once = true});
	result = poser_history_position(1, NULL);
	SPI_finish();
	return result;
}

/* Raises an error if a version in a history that is taken up has no value in a column that only the versions have. */
static void
check_bookkeeping(const PoserVersioned *versioned, Relation versions, TupleTableSlot *version)
{
	const AttrNumber columns[] = {versioned->operation_type, versioned->transaction_id, versioned->change_id};

	for (int i = 0; i < lengthof(columns); i++)
		if (slot_attisnull(version, columns[i]))
			ereport(ERROR,
					errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					errmsg("cannot take up the history in relation \"%s\"", RelationGetRelationName(versions)),
					errdetail("A version has no value in column \"%s\".",
							  NameStr(TupleDescAttr(RelationGetDescr(versions), columns[i] - 1)->attname)));
}

/*
 * Raises an error if a history that is taken up is not complete, or belongs to other
 * transactions than those of this database.  The history stays, for instance, when the extension is dropped with
 * CASCADE.  When it is created again, ids begin anew, and the versions would seem to be of
 * the new transactions.  Two things tell such a history: a change_id that has not been given
 * here, and one that has been given to a transaction, because a sequence gives both.
 */
static void
check_history(const PoserTrack *track, const PoserVersioned *versioned)
{
	Relation versions = table_open(track->versions, AccessShareLock);
	PoserTransactions *transactions = poser_transactions_open(versioned->transactions);
	List *relids = NIL;
	PoserTableScan scan;
	int64 greatest = 0;
	bool found = false;
	bool others = false;
	ListCell *lc;

	foreach(lc, find_all_inheritors(track->versions, AccessShareLock, NULL))
	{
		if (RELKIND_HAS_TABLE_AM(get_rel_relkind(lfirst_oid(lc))))
			relids = lappend_oid(relids, lfirst_oid(lc));
	}
	PushActiveSnapshot(GetLatestSnapshot());
	poser_transactions_begin(transactions, true);
	poser_scan_begin(&scan, relids, versions);
	while (!others && poser_scan_next(&scan))
	{
		int64 change_id = poser_version_change_id(versioned, scan.slot);

		check_bookkeeping(versioned, versions, scan.slot);
		greatest = Max(greatest, change_id);
		if (poser_transactions_find(transactions, poser_version_transaction_id(versioned, scan.slot)))
		{
			found = true;
			others = poser_transactions_find(transactions, change_id);
		}
	}
	poser_scan_end(&scan);
	poser_transactions_end(transactions);
	PopActiveSnapshot();
	if (others || (found && greatest > last_given_id(versioned)))
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("cannot take up the history in relation \"%s\"", RelationGetRelationName(versions)),
				errdetail("It names transactions of another database, or of an extension that was dropped, and their ids are in use here."),
				errhint("Take up such histories before anything else is recorded, the one with the greatest change_id first, or name another table of versions."));
	poser_transactions_close(transactions);
	table_close(versions, AccessShareLock);
}

/* The history of a table begins, or begins again: make the first versions, or note that rows must be compared. */
static void
begin_rows(PoserTrack *track, const PoserVersioned *versioned)
{
	bool has_history = has_versions(track);

	if (has_history)
	{
		check_history(track, versioned);
		restore_horizon(track, versioned);
	}
	track->compare = track->existing && has_history;
	if (track->existing && !has_history)
		write_first_versions(track, versioned);
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
	if (!track->looking && !track->bound)
		begin_rows(track, &versioned);
	make_change_index(track);
	if (make_key_index(track, &versioned) && has_new_key(track))
		track->compare = true;
	if (!track->looking && (track->compare || (track->bound && added_columns_have_values(track))))
		compare(track);
}
