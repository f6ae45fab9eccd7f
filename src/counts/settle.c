/*
 * settle.c
 *	  Changing a count without blocking other writers.
 *
 * Each parent has one row in the table of settled counts.  A change that cannot be added
 * to this row at once becomes a row in the table of deltas.  The invariant: in every
 * snapshot and for every key
 *
 *		settled + sum(deltas) = number of children
 *
 * This holds whether the parent exists or not.  A settled row that does not exist counts
 * as 0.  A transaction's changes of the children become visible together with its changes
 * of the sum, and both are equal.  So two writers of one key need to agree only on which
 * of them replaces a row.
 *
 * A writer finds the newest version of the settled row.  If the writer's snapshot sees
 * this version, and no other transaction has replaced or locked it, the writer replaces
 * it.  This can fail, but it never waits.  After this the writer holds the row until its
 * transaction ends.  It also adds the deltas of the key that its snapshot sees to the row,
 * and deletes them.  In all other cases the writer records a delta.
 *
 * A version that the writer's snapshot does not see contains changes by transactions that
 * this snapshot does not see.  If the writer made a new version from it, queries of the
 * writer's transaction would see these changes in the count and not in the children.  That
 * is why such a version is not replaced.
 *
 * The invariant has exceptions: some snapshots of the transaction that writes.  These are
 * older snapshots that it still uses, and in a few cases all of its snapshots.  serve.c
 * remembers them, and queries with these snapshots count the children themselves.
 */
#include "postgres.h"

#include "access/tableam.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "utils/snapmgr.h"

#include "counts/counts_internal.h"

/*
 * Open a count for writing.  The caller holds RowExclusiveLock on both of its tables,
 * and keeps it until the transaction ends.
 *
 * Between two changes of one key the writer must be closed and opened again, or
 * CommandCounterIncrement() must be called: only a later command can replace a row that a
 * command has written.
 */
void
poser_count_open(CountWriter *writer, const PoserCount *count)
{
	/*
	 * In REPEATABLE READ and SERIALIZABLE all queries of a user use the transaction's
	 * snapshot.  Only in an action of a foreign key the active one can be newer.
	 */
	Snapshot snapshot = IsolationUsesXactSnapshot() ? GetTransactionSnapshot() : GetActiveSnapshot();

	writer->count = count;
	poser_count_open_table(&writer->settled, count, count->counts, count->counts_index, snapshot);
	poser_count_open_table(&writer->deltas, count, count->deltas, count->deltas_index, snapshot);

	/* If a snapshot sees a committed row, the table has a page already. */
	writer->deltas_empty = (writer->deltas.nblocks == 0);

	/* Now rows that this command has written before can be replaced. */
	CommandCounterIncrement();
}

/* Close the count.  The locks on its tables are kept until the transaction ends. */
void
poser_count_close(CountWriter *writer)
{
	poser_count_close_table(&writer->deltas);
	poser_count_close_table(&writer->settled);
}

/*
 * Add a change to the delta that was found.  A delta that becomes zero is deleted.
 * Returns false, and has changed nothing, if another transaction has replaced or locked
 * the delta.
 */
static bool
change_delta(CountTable *deltas, uint32 hash, Tally change)
{
	Tally tally = tally_add(poser_count_found_tally(deltas), change);

	if (tally_is_zero(tally))
		return poser_count_delete_row(deltas);
	return poser_count_update_row(deltas, hash, tally);
}

/*
 * Record a change as a delta.  If there is a delta that can be replaced, the change is
 * added to it.  So a key does not get many more deltas than it has writers at one time,
 * even if another transaction holds its settled row for a long time.
 */
void
poser_count_defer(CountWriter *writer, Datum key, uint32 hash, Tally change)
{
	CountTable *deltas = &writer->deltas;

	if (tally_is_zero(change))
		return;

	/* A delta of this transaction can always be replaced. */
	if (poser_count_find_own_row(deltas, key, hash) && change_delta(deltas, hash, change))
		return;

	/*
	 * Otherwise try the delta that this session remembers.  Search the index only if
	 * the session remembers none.  The index has entries for all versions of the deltas,
	 * and while a transaction holds the settled row, none of them can be removed.
	 */
	if (poser_count_knows_row(deltas, hash))
	{
		if (poser_count_find_known_row(deltas, key, hash) &&
			poser_count_found_is_visible(deltas) && change_delta(deltas, hash, change))
			return;
	}
	else if (!writer->deltas_empty)
	{
		poser_count_begin_scan(deltas, key, SnapshotSelf);
		while (poser_count_next_row(deltas))
		{
			CHECK_FOR_INTERRUPTS();
			if (poser_count_found_is_visible(deltas) && change_delta(deltas, hash, change))
				return;
		}
	}

	/* No delta can be replaced, so insert one. */
	(void) poser_count_insert_row(deltas, key, hash, change);
}

/*
 * Delete the deltas of a key that the writer's snapshot sees, except those that other
 * transactions have replaced or locked.  Returns the sum of the deleted ones, which the
 * caller must add to the count.
 */
Tally
poser_count_take_deltas(CountWriter *writer, Datum key)
{
	CountTable *deltas = &writer->deltas;
	Tally sum = {0, 0};

	poser_count_begin_scan(deltas, key, SnapshotSelf);
	while (poser_count_next_row(deltas))
	{
		Tally tally;

		CHECK_FOR_INTERRUPTS();
		if (!poser_count_found_is_visible(deltas))
			continue;
		tally = poser_count_found_tally(deltas);
		if (poser_count_delete_row(deltas))
			sum = tally_add(sum, tally);
	}
	return sum;
}

/*
 * Move the deltas of a key that the writer's snapshot sees to the key's settled row, which
 * this command has just replaced.
 */
static void
settle_deltas(CountWriter *writer, Datum key, uint32 hash)
{
	CountTable *settled = &writer->settled;
	Tally sum = poser_count_take_deltas(writer, key);

	if (tally_is_zero(sum))
		return;

	/* Only a later command can replace the row that this one has written. */
	CommandCounterIncrement();
	if (!poser_count_find_row(settled, key, hash) ||
		!poser_count_update_row(settled, hash, tally_add(poser_count_found_tally(settled), sum)))
		elog(ERROR, "could not replace a row of our own in relation \"%s\"",
			 RelationGetRelationName(settled->direct.rel));
}

/*
 * Add a change to the count of a key.  It goes to the key's settled row, together with the
 * key's deltas, or becomes a delta.  Even a change of zero moves deltas to the settled row.
 */
void
poser_count_change(CountWriter *writer, Datum key, uint32 hash, Tally change)
{
	CountTable *settled = &writer->settled;

	if (poser_count_find_row(settled, key, hash) &&
		poser_count_found_is_visible(settled) &&
		poser_count_update_row(settled, hash, tally_add(poser_count_found_tally(settled), change)))
	{
		if (!writer->deltas_empty)
			settle_deltas(writer, key, hash);
	}
	else
		poser_count_defer(writer, key, hash, change);
}

/*
 * Insert the settled row of a key.  Returns false, and inserts nothing, if there is one
 * already, or if another transaction is inserting or deleting one.  This function neither
 * waits nor raises an error.  A parent without the row has a right count, too: the sum of
 * its deltas.
 */
bool
poser_count_make_settled_row(CountWriter *writer, Datum key, uint32 hash, Tally tally)
{
	CountTable *settled = &writer->settled;
	bool was_deleted = false;
	bool sees_deleted = false;

	/* Look for a row, and also for rows that other transactions have deleted. */
	if (poser_count_find_known_row(settled, key, hash))
		return false;
	poser_count_begin_scan(settled, key, SnapshotAny);
	while (poser_count_next_row(settled))
	{
		CHECK_FOR_INTERRUPTS();
		if (table_tuple_satisfies_snapshot(settled->direct.rel, settled->found, SnapshotSelf))
			return false;
		if (poser_count_found_is_own(settled))
			continue;
		was_deleted = true;
		if (!sees_deleted)
			sees_deleted = table_tuple_satisfies_snapshot(settled->direct.rel, settled->found,
														  settled->snapshot);
	}

	if (!poser_count_insert_row(settled, key, hash, tally))
		return false;

	/*
	 * A snapshot that still sees a deleted row would see two rows of the key from now on.
	 * In READ COMMITTED only snapshots older than the latest one can see a deleted row.
	 */
	if (IsolationUsesXactSnapshot())
	{
		if (sees_deleted)
			poser_count_note_inconsistent(GetCurrentCommandId(false));
	}
	else if (was_deleted)
		poser_count_note_replaced(GetLatestSnapshot());
	return true;
}

/*
 * Begin the count of a new parent: make its settled row, unless there is one.  There can
 * be one, because poser_count_end() does not delete a row that another transaction holds.
 */
void
poser_count_begin(CountWriter *writer, Datum key)
{
	uint32 hash = hash_count_key(writer->count, key);
	Tally tally = {0, 0};
	bool own;

	/*
	 * One query can insert a parent and its children, and the trigger on the child can
	 * fire first.  Then the children are in a delta, which becomes the settled row.
	 */
	own = poser_count_find_own_row(&writer->deltas, key, hash);
	if (own)
		tally = poser_count_found_tally(&writer->deltas);
	if (poser_count_make_settled_row(writer, key, hash, tally) && own &&
		!poser_count_delete_row(&writer->deltas))
		elog(ERROR, "could not delete a row of our own in relation \"%s\"",
			 RelationGetRelationName(writer->deltas.direct.rel));
}

/*
 * End the count of a deleted parent: delete the settled row that was found.  If another
 * transaction has replaced or locked the row, the row stays.  It does no harm, because
 * queries look for the counts of existing parents only.
 */
static void
end_found_count(CountWriter *writer, Datum key, uint32 hash)
{
	Tally left = poser_count_found_tally(&writer->settled);
	bool visible = poser_count_found_is_visible(&writer->settled);

	if (!poser_count_delete_row(&writer->settled))
		return;

	/* The numbers in the deleted row can contain changes that the snapshot does not see. */
	if (!visible)
		poser_count_note_inconsistent(GetCurrentCommandId(false));

	/*
	 * There can be children left: a cascade deletes them later, or there is no foreign
	 * key.  A delta counts them.
	 */
	poser_count_defer(writer, key, hash, left);
}

/* End the count of a deleted parent. */
void
poser_count_end(CountWriter *writer, Datum key)
{
	uint32 hash = hash_count_key(writer->count, key);

	if (poser_count_find_row(&writer->settled, key, hash))
		end_found_count(writer, key, hash);
}

/*
 * Make all counts zero, for TRUNCATE of the child.  TRUNCATE has locked the child, so no
 * other transaction writes it.  But another transaction may have inserted or deleted a
 * parent, and then holds a row of the counts.  This function does not wait for it, but
 * raises an error.
 */
void
poser_count_reset_all(CountWriter *writer)
{
	CountTable *tables[] = {&writer->settled, &writer->deltas};

	for (int i = 0; i < lengthof(tables); i++)
	{
		CountTable *table = tables[i];
		TableScanDesc scan = table_beginscan(table->direct.rel, SnapshotSelf, 0, NULL, SO_NONE);

		while (table_scan_getnextslot(scan, ForwardScanDirection, table->found))
		{
			bool done;

			CHECK_FOR_INTERRUPTS();
			if (table == &writer->deltas)
				done = poser_count_delete_row(table);
			else
				done = tally_is_zero(poser_count_found_tally(table)) ||
					   poser_count_update_row(table, hash_count_key(writer->count, poser_count_found_key(table)),
											  (Tally) {0, 0});
			if (!done)
				ereport(ERROR,
						(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
						 errmsg("could not reset the counts in relation \"%s\"",
								RelationGetRelationName(table->direct.rel)),
						 errdetail("Another transaction holds one of its rows.")));
		}
		table_endscan(scan);
	}
}

/* End the counts of all parents, for TRUNCATE of the parent. */
void
poser_count_end_all(CountWriter *writer)
{
	CountTable *settled = &writer->settled;
	TableScanDesc scan = table_beginscan(settled->direct.rel, SnapshotSelf, 0, NULL, SO_NONE);

	while (table_scan_getnextslot(scan, ForwardScanDirection, settled->found))
	{
		Datum key = poser_count_found_key(settled);

		CHECK_FOR_INTERRUPTS();
		end_found_count(writer, key, hash_count_key(writer->count, key));
	}
	table_endscan(scan);
}
