/*
 * settle.c
 *	  Counting the rows of a child table by parent, without blocking.
 *
 * For each parent there is a row in the table of settled counts; changes that
 * cannot be added to it at once are rows of the table of deltas.  What always
 * holds, in every snapshot and for every key, is
 *
 *		settled + sum(deltas) = number of children
 *
 * whether the parent exists or not.  Whatever is done here keeps that sum, so
 * that no two writers need to agree on anything but who may replace a row.
 *
 * A writer finds the newest version of the settled row.  If its own snapshot
 * sees that version, and nobody else has replaced or is replacing it, then it
 * replaces it, which can fail but never waits.  Having done so it holds the
 * row, and takes up those deltas of the key that its snapshot sees.  Otherwise
 * it records a delta.  (A version that the snapshot does not see includes rows
 * of others that it does not see either; a version of our own made from it
 * would bring them into our own reads.)
 *
 * The look-ups use SnapshotSelf, which finds the newest committed or own
 * version, and takes no predicate locks: SERIALIZABLE writers of one parent
 * must not fail on account of its count.
 *
 * The same row may be replaced very often, and its older versions stay as long
 * as somebody might see them: those of one transaction at least until its end.
 * To find the newest through the index one would walk all of them, so a backend
 * remembers where it has put rows, see KnownRow.
 *
 * Reads go through views, which ask poser_count_serves() whether the counts
 * can be relied on here and now, and count the rows themselves otherwise.
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

/*
 * Add a change to the delta that was found; false if somebody else has it.
 */
static bool
change_delta(CountWriter *writer, uint32 hash, Tally change)
{
	Tally tally = add(poser_count_slot_tally(writer->deltas.found), change);

	return is_zero(tally) ? poser_count_delete_row(writer, &writer->deltas) : poser_count_update_row(writer, &writer->deltas, hash, tally);
}

/*
 * Record a change as a delta: in our own, if we have one, or in one that we
 * may have, so that there are not many more deltas of a key than there have
 * been writers at one time, however long somebody holds its settled row.  The
 * index is asked only if this backend knows none, for it has all the versions
 * that cannot be removed while that lasts.
 */
void
poser_count_defer(CountWriter *writer, Datum key, uint32 hash, Tally change)
{
	CountTable *deltas = &writer->deltas;

	if (is_zero(change))
		return;
	if (poser_count_find_own_row(deltas, writer->count, key, hash) &&
		change_delta(writer, hash, change))
		return;
	if (poser_count_knows_row(deltas, hash))
	{
		if (poser_count_find_known_row(deltas, writer->count, key, hash) &&
			poser_count_may_replace(writer, deltas) && change_delta(writer, hash, change))
			return;
	}
	else if (!writer->deltas_empty)
	{
		poser_count_begin_scan(deltas, writer->count, key, SnapshotSelf);
		while (poser_count_next_row(deltas))
		{
			CHECK_FOR_INTERRUPTS();
			if (poser_count_may_replace(writer, deltas) && change_delta(writer, hash, change))
				return;
		}
	}
	(void) poser_count_insert_row(deltas, key, hash, change);
}

/* Delete the deltas of a key that this transaction may build upon, and return their sum. */
Tally
poser_count_take_deltas(CountWriter *writer, Datum key)
{
	CountTable *deltas = &writer->deltas;
	Tally sum = {0, 0};

	poser_count_begin_scan(deltas, writer->count, key, SnapshotSelf);
	while (poser_count_next_row(deltas))
	{
		Tally tally;

		CHECK_FOR_INTERRUPTS();
		if (!poser_count_may_replace(writer, deltas))
			continue;
		tally = poser_count_slot_tally(deltas->found);
		if (poser_count_delete_row(writer, deltas))
			sum = add(sum, tally);
	}
	return sum;
}

/*
 * Having replaced the settled row of "key", which is in writer->settled.found
 * no more, take up its deltas.
 */
static void
absorb_deltas(CountWriter *writer, Datum key, uint32 hash)
{
	Tally sum = poser_count_take_deltas(writer, key);

	if (is_zero(sum))
		return;

	/* the row that we have just written can be replaced by a later command */
	CommandCounterIncrement();
	if (!poser_count_find_row(&writer->settled, writer->count, key, hash) ||
		!poser_count_update_row(writer, &writer->settled, hash,
					add(poser_count_slot_tally(writer->settled.found), sum)))
		elog(ERROR, "could not replace a row of our own in relation \"%s\"",
			 RelationGetRelationName(writer->settled.rel));
}

/*
 * Change the count of one key.  Within one opening of the writer a key comes
 * only once.  A change of nothing still takes up deltas.
 */
void
poser_count_change(CountWriter *writer, Datum key, uint32 hash, Tally change)
{
	CountTable *settled = &writer->settled;

	if (poser_count_find_row(settled, writer->count, key, hash) &&
		poser_count_may_replace(writer, settled) &&
		poser_count_update_row(writer, settled, hash, add(poser_count_slot_tally(settled->found), change)))
	{
		if (!writer->deltas_empty)
			absorb_deltas(writer, key, hash);
	}
	else
		poser_count_defer(writer, key, hash, change);
}

/*
 * Insert the settled row of a key.  Returns false, and leaves no row, if there
 * is one already, or if another transaction is inserting or deleting one.  So no
 * session waits or fails here.  A parent can do without the row: its count is
 * then the sum of its deltas.
 *
 * An older snapshot may still see a row that another transaction has deleted.
 * With such a snapshot the counts must not be read, since it would see two rows.
 */
bool
poser_count_make_settled_row(CountWriter *writer, Datum key, uint32 hash, Tally tally)
{
	CountTable *settled = &writer->settled;
	bool gone = false;
	bool sees_gone = false;

	if (poser_count_find_known_row(settled, writer->count, key, hash))
		return false;
	poser_count_begin_scan(settled, writer->count, key, SnapshotAny);
	while (poser_count_next_row(settled))
	{
		CHECK_FOR_INTERRUPTS();
		if (table_tuple_satisfies_snapshot(settled->rel, settled->found, SnapshotSelf))
			return false;
		if (poser_count_slot_is_own(settled->found))
			continue;
		gone = true;
		if (!sees_gone)
			sees_gone = table_tuple_satisfies_snapshot(settled->rel, settled->found,
													   writer->snapshot);
	}

	if (!poser_count_insert_row(settled, key, hash, tally))
		return false;
	if (IsolationUsesXactSnapshot())
	{
		if (sees_gone)
			poser_count_note_inconsistent(GetCurrentCommandId(false));
	}
	else if (gone)
	{
		/* snapshots that are older than the latest may see the deleted row */
		poser_count_note_replaced(GetLatestSnapshot());
	}
	return true;
}

/*
 * Make the settled row of a new parent, unless there is one: a parent may have
 * gone while somebody held the row.
 */
void
poser_count_begin(CountWriter *writer, Datum key)
{
	uint32 hash = hash_key(writer->count, key);
	Tally tally = {0, 0};
	bool own;

	/* one query may make a parent and its children, and count these first */
	own = poser_count_find_own_row(&writer->deltas, writer->count, key, hash);
	if (own)
		tally = poser_count_slot_tally(writer->deltas.found);
	if (poser_count_make_settled_row(writer, key, hash, tally) && own &&
		!poser_count_delete_row(writer, &writer->deltas))
		elog(ERROR, "could not delete a row of our own in relation \"%s\"",
			 RelationGetRelationName(writer->deltas.rel));
}

/*
 * Delete the settled row that was found, of a parent that is gone.  Children
 * that it still has, to be deleted by a cascade or without a foreign key, are
 * counted by a delta.  If somebody holds the row then it stays, and does no
 * harm.
 */
static void
end_found_count(CountWriter *writer, Datum key, uint32 hash)
{
	Tally left = poser_count_slot_tally(writer->settled.found);
	bool visible = poser_count_may_replace(writer, &writer->settled);

	if (!poser_count_delete_row(writer, &writer->settled))
		return;
	if (!visible)
		poser_count_note_inconsistent(GetCurrentCommandId(false));
	poser_count_defer(writer, key, hash, left);
}

void
poser_count_end(CountWriter *writer, Datum key)
{
	uint32 hash = hash_key(writer->count, key);

	if (poser_count_find_row(&writer->settled, writer->count, key, hash))
		end_found_count(writer, key, hash);
}

/*
 * TRUNCATE of the child, which nobody else has open: all counts are zero.
 */
void
poser_count_reset_all(CountWriter *writer)
{
	CountTable *tables[] = {&writer->settled, &writer->deltas};

	for (int i = 0; i < lengthof(tables); i++)
	{
		CountTable *table = tables[i];
		TableScanDesc scan = table_beginscan(table->rel, SnapshotSelf, 0, NULL, SO_NONE);

		while (table_scan_getnextslot(scan, ForwardScanDirection, table->found))
		{
			Datum key;
			bool isnull;
			bool done;

			CHECK_FOR_INTERRUPTS();
			key = slot_getattr(table->found, COUNT_KEY, &isnull);
			if (table == &writer->deltas)
				done = poser_count_delete_row(writer, table);
			else
				done = is_zero(poser_count_slot_tally(table->found)) ||
					   poser_count_update_row(writer, table, hash_key(writer->count, key), (Tally) {0, 0});
			if (!done)
				ereport(ERROR,
						(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
						 errmsg("could not reset the counts in relation \"%s\"",
								RelationGetRelationName(table->rel)),
						 errdetail("Another transaction holds one of its rows.")));
		}
		table_endscan(scan);
	}
}

/*
 * TRUNCATE of the parent.
 */
void
poser_count_end_all(CountWriter *writer)
{
	CountTable *settled = &writer->settled;
	TableScanDesc scan = table_beginscan(settled->rel, SnapshotSelf, 0, NULL, SO_NONE);

	while (table_scan_getnextslot(scan, ForwardScanDirection, settled->found))
	{
		bool isnull;
		Datum key = slot_getattr(settled->found, COUNT_KEY, &isnull);

		CHECK_FOR_INTERRUPTS();
		end_found_count(writer, key, hash_key(writer->count, key));
	}
	table_endscan(scan);
}
