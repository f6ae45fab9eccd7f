/*
 * settle.c
 *	  Changing a count without blocking other writers.
 *
 * Each parent has one row in the table of settled counts.  A change that cannot be added
 * to this row at once becomes a row in the table of deltas.  In every snapshot and for
 * every key
 *
 *		settled + sum(deltas) = number of children
 *
 * The parent may exist or not, and a settled row that does not exist counts as 0.  A
 * transaction's changes to the children become visible together with its changes to the
 * sum, and both are equal.  So writers of one key need to agree on nothing but which of
 * them may replace a row.
 *
 * A writer finds the newest version of the settled row.  If the writer's snapshot sees
 * this version, and no other transaction has replaced or locked it, the writer replaces
 * it.  This can fail, but it never waits.  The writer then holds the row until it ends.
 * It also adds the deltas of the key that its snapshot sees, and deletes them.  In all
 * other cases the writer records a delta.
 *
 * A version that the snapshot does not see contains changes by transactions that the
 * snapshot does not see.  A new version made from it would show these changes to our own
 * reads, which do not see the children.  That is why such a version is not replaced.
 *
 * The sum can be wrong for some snapshots of the transaction that writes: for older ones
 * that it still uses, and in a few cases for all of its snapshots.  serve.c is told about
 * these, and queries that use them count the children themselves.
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
 * A key may be changed only once before the writer is closed, or a call of
 * CommandCounterIncrement() must come in between: a row that a command has written can
 * be replaced by a later command only.
 */
void
poser_count_open(CountWriter *writer, const PoserCount *count)
{
	/*
	 * In REPEATABLE READ and SERIALIZABLE all queries of a user use the transaction's
	 * snapshot.  The active one can be newer, in an action of a foreign key.
	 */
	Snapshot snapshot = IsolationUsesXactSnapshot() ? GetTransactionSnapshot() : GetActiveSnapshot();

	writer->count = count;
	poser_count_open_table(&writer->settled, count, count->counts, count->counts_index, snapshot);
	poser_count_open_table(&writer->deltas, count, count->deltas, count->deltas_index, snapshot);

	/* A committed row that the snapshot sees already has its page. */
	writer->deltas_empty = (writer->deltas.nblocks == 0);

	/* Rows that this command has written before can then be replaced. */
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
 * Record a change as a delta.  It goes into a row that is there already, if one can be
 * replaced.  So a key does not get many more deltas than it has had writers at one time,
 * however long another transaction holds its settled row.
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
	 * Otherwise try the delta that this session remembers.  Ask the index only if it
	 * remembers none: the index has entries for all versions of the deltas, and while
	 * the settled row is held, none of them can be removed.
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

	/* There is none to be had. */
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
 * Move the deltas of a key to its settled row, which this command has just replaced.
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
 * Add a change to the count of a key: to its settled row, together with its deltas, or
 * as a delta.  A change of zero moves deltas to the settled row all the same.
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
 * Insert the settled row of a key.  Returns false, and leaves no row, if there is one
 * already, or if another transaction is inserting or deleting one.  So this function
 * neither waits nor fails.  A parent can do without the row: its count is then the sum
 * of its deltas.
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
	 * A snapshot that still sees a deleted row sees two rows of the key from now on.  In
	 * READ COMMITTED only snapshots that are older than the latest one can see it.
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
 * be one that poser_count_end() has not deleted, because another transaction held it.
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
 * End the count of a deleted parent by deleting the settled row that was found.  If
 * another transaction has replaced or locked the row, it stays, and does no harm.
 */
static void
end_found_count(CountWriter *writer, Datum key, uint32 hash)
{
	Tally left = poser_count_found_tally(&writer->settled);
	bool visible = poser_count_found_is_visible(&writer->settled);

	if (!poser_count_delete_row(&writer->settled))
		return;

	/* The deleted row's number can contain changes that our snapshot does not see. */
	if (!visible)
		poser_count_note_inconsistent(GetCurrentCommandId(false));

	/*
	 * The parent can have children left, which a cascade deletes later, or which no
	 * foreign key forbids.  A delta counts them.
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
 * Make all counts zero, for TRUNCATE of the child.  No other session can have the child
 * open.  Another transaction can hold a row of a count all the same, for it may have
 * inserted or deleted the parent; this is an error.
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
