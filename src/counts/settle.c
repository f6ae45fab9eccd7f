/*
 * settle.c
 *	  Changing a count without blocking other writers.
 *
 * Each parent has one settled row.  A change that cannot be added to this row at once becomes
 * a row of another kind, a delta.  The invariant: in every snapshot, for every key, and for
 * each amount such as the number of children
 *
 *		settled + sum(deltas) = amount of the children
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
 * A new parent gets its settled row at once, unless another transaction is making or deleting
 * one.  Then the parent has a delta of zero instead, a mark.  The next change of the count makes
 * the settled row.  So each parent has a settled row or a delta.
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

/* Is it certain that no delta is visible to the writer's snapshot? */
static bool
has_no_deltas(CountWriter *writer)
{
	if (!writer->deltas_checked)
		writer->deltas_empty = poser_count_has_no_delta(&writer->deltas);
	writer->deltas_checked = true;
	return writer->deltas_empty;
}

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
	 * snapshot.  The active one can be newer, as in poser_recount().
	 */
	Snapshot snapshot = IsolationUsesXactSnapshot() ? GetTransactionSnapshot() : GetActiveSnapshot();
	bool one_table = (count->delta != 0);

	writer->count = count;
	writer->context = CurrentMemoryContext;
	writer->home = CurrentMemoryContext;
	writer->parents = NULL;
	if (count->nnumeric > 0)
		writer->context = AllocSetContextCreate(CurrentMemoryContext, "poser amounts", ALLOCSET_SMALL_SIZES);
	writer->sum = poser_amounts_make(count);
	writer->taken = poser_amounts_make(count);
	poser_count_open_relation(&writer->relations[0], count->counts);
	if (!one_table)
		poser_count_open_relation(&writer->relations[1], count->deltas);
	poser_count_open_table(&writer->settled, &writer->relations[0], writer, false, snapshot);
	poser_count_open_table(&writer->deltas, &writer->relations[one_table ? 0 : 1], writer, true, snapshot);

	/* In a table of their own this is known already. */
	writer->deltas_checked = false;
	if (!one_table)
		(void) has_no_deltas(writer);

	/* Now rows that this command has written before can be replaced. */
	CommandCounterIncrement();
}

/* Close the count.  The locks on its tables are kept until the transaction ends. */
void
poser_count_close(CountWriter *writer)
{
	if (writer->parents != NULL)
	{
		poser_parents_close(writer->parents);
		pfree(writer->parents);
	}
	poser_count_close_table(&writer->deltas);
	poser_count_close_table(&writer->settled);
	if (writer->count->delta == 0)
		poser_count_close_relation(&writer->relations[1]);
	poser_count_close_relation(&writer->relations[0]);
	pfree(writer->taken);
	pfree(writer->sum);
	if (writer->count->nnumeric > 0)
		MemoryContextDelete(writer->context);
}

/* Returns the look-up of parents, which is opened when it is first needed. */
static PoserParents *
parents_of(CountWriter *writer)
{
	if (writer->parents == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(writer->home);

		writer->parents = palloc0(sizeof(PoserParents));
		poser_parents_open_for(writer->parents, writer->count);
		MemoryContextSwitchTo(old);
	}
	return writer->parents;
}

/* Begin to change a key: free the numerics that the work for the last key has left. */
static void
begin_key(CountWriter *writer)
{
	if (writer->count->nnumeric > 0)
		MemoryContextReset(writer->context);
}

/* Add a change to writer->sum, and return it. */
static const PoserAmount *
sum_plus(CountWriter *writer, const PoserAmount *change)
{
	MemoryContext old = MemoryContextSwitchTo(writer->context);

	poser_amounts_add(writer->count, writer->sum, change, 1);
	MemoryContextSwitchTo(old);
	return writer->sum;
}

/* Returns the amounts of the row that was found, plus a change.  They are in writer->sum. */
static const PoserAmount *
found_plus(CountWriter *writer, CountTable *table, const PoserAmount *change)
{
	MemoryContext old = MemoryContextSwitchTo(writer->context);

	poser_amounts_clear(writer->count, writer->sum);
	poser_count_add_found(table, writer->sum);
	MemoryContextSwitchTo(old);
	return sum_plus(writer, change);
}

/* Returns the amounts of the row that was found.  They are in writer->taken. */
static const PoserAmount *
found_amounts(CountWriter *writer, CountTable *table)
{
	MemoryContext old = MemoryContextSwitchTo(writer->context);

	poser_amounts_clear(writer->count, writer->taken);
	poser_count_add_found(table, writer->taken);
	MemoryContextSwitchTo(old);
	return writer->taken;
}

/*
 * Add a change to the delta that was found.  A delta that becomes zero is deleted, unless
 * "stays" is true.  Returns false, and has changed nothing, if another transaction has replaced
 * or locked the delta.
 */
static bool
change_delta(CountWriter *writer, uint32 hash, const PoserAmount *change, bool stays)
{
	const PoserAmount *sum = found_plus(writer, &writer->deltas, change);

	if (!stays && poser_amounts_are_zero(writer->count, sum))
		return poser_count_delete_row(&writer->deltas);
	return poser_count_update_row(&writer->deltas, hash, sum);
}

/*
 * Record a change as a delta.  If there is a delta that can be replaced, the change is
 * added to it.  So a key does not get many more deltas than it has writers at one time,
 * even if another transaction holds its settled row for a long time.  If "stays" is true, a delta
 * that becomes zero stays.
 */
static void
defer(CountWriter *writer, const Datum *keys, uint32 hash, const PoserAmount *change, bool stays)
{
	CountTable *deltas = &writer->deltas;

	if (poser_amounts_are_zero(writer->count, change))
		return;

	/* A delta of this transaction can always be replaced. */
	if (poser_count_find_own_row(deltas, keys, hash) && change_delta(writer, hash, change, stays))
		return;

	/*
	 * Otherwise try the delta that this session remembers.  Search the index only if
	 * the session remembers none.  The index has entries for all versions of the deltas,
	 * and while a transaction holds the settled row, none of them can be removed.
	 */
	if (poser_count_knows_row(deltas, hash))
	{
		if (poser_count_find_known_row(deltas, keys, hash) &&
			poser_count_found_is_visible(deltas) && change_delta(writer, hash, change, stays))
			return;
	}
	else if (!has_no_deltas(writer))
	{
		poser_count_begin_scan(deltas, keys, SnapshotSelf);
		while (poser_count_next_row(deltas))
		{
			CHECK_FOR_INTERRUPTS();
			if (poser_count_found_is_visible(deltas) && change_delta(writer, hash, change, stays))
				return;
		}
	}

	/* No delta can be replaced, so insert one. */
	(void) poser_count_insert_row(deltas, keys, hash, change);
}

/* Record a change as a delta. */
void
poser_count_defer(CountWriter *writer, const Datum *keys, uint32 hash, const PoserAmount *change)
{
	defer(writer, keys, hash, change, false);
}

/* As poser_count_take_deltas(), while a key is being changed. */
static const PoserAmount *
take_deltas(CountWriter *writer, const Datum *keys)
{
	CountTable *deltas = &writer->deltas;

	poser_amounts_clear(writer->count, writer->taken);
	poser_count_begin_scan(deltas, keys, SnapshotSelf);
	while (poser_count_next_row(deltas))
	{
		CHECK_FOR_INTERRUPTS();
		if (poser_count_found_is_visible(deltas) && poser_count_delete_row(deltas))
		{
			MemoryContext old = MemoryContextSwitchTo(writer->context);

			poser_count_add_found(deltas, writer->taken);
			MemoryContextSwitchTo(old);
		}
	}
	return writer->taken;
}

/*
 * Delete the deltas of a key that the writer's snapshot sees, except those that other
 * transactions have replaced or locked.  Returns the sum of the deleted ones, which the
 * caller must add to the count.  It is valid until the writer changes another key.
 */
const PoserAmount *
poser_count_take_deltas(CountWriter *writer, const Datum *keys)
{
	begin_key(writer);
	return take_deltas(writer, keys);
}

/*
 * Add a change to the count of a key.  It goes to the key's settled row, together with the
 * key's deltas, or becomes a delta.  Even a change of zero moves deltas to the settled row.  A
 * parent without a settled row gets one.
 *
 * The settled row is locked before the deltas are taken, so it can be replaced afterwards,
 * once for both.
 *
 * Another transaction may be deleting the settled row that is found.  So a delta of zero stays
 * where there is a parent.  The next change takes it.
 */
void
poser_count_change(CountWriter *writer, const Datum *keys, uint32 hash, const PoserAmount *change)
{
	CountTable *settled = &writer->settled;
	bool found;
	bool has_parent;

	begin_key(writer);
	found = poser_count_find_row(settled, keys, hash);
	has_parent = OidIsValid(writer->count->parent) && (found || poser_parents_have(parents_of(writer), keys));
	if (found && poser_count_found_is_visible(settled) && poser_count_lock_row(settled))
	{
		const PoserAmount *sum = found_plus(writer, settled, change);

		if (!has_no_deltas(writer))
			sum = sum_plus(writer, take_deltas(writer, keys));
		poser_count_replace_row(settled, hash, sum);
	}
	else if (found || !has_parent || !poser_count_make_settled_row(writer, keys, hash, change))
		defer(writer, keys, hash, change, has_parent);
}

/*
 * Insert the settled row of a key.  Returns false, and inserts nothing, if there is one
 * already, or if another transaction is inserting or deleting one.  This function neither
 * waits nor raises an error.  A parent without the row has a right count, too: the sum of
 * its deltas.
 */
bool
poser_count_make_settled_row(CountWriter *writer, const Datum *keys, uint32 hash, const PoserAmount *amounts)
{
	CountTable *settled = &writer->settled;
	bool was_deleted = false;
	bool sees_deleted = false;

	/* Look for a row, and also for rows that other transactions have deleted. */
	if (poser_count_find_known_row(settled, keys, hash))
		return false;
	poser_count_begin_scan(settled, keys, SnapshotAny);
	while (poser_count_next_row(settled))
	{
		CHECK_FOR_INTERRUPTS();
		if (table_tuple_satisfies_snapshot(settled->rel, settled->found, SnapshotSelf))
			return false;
		if (poser_count_found_is_own(settled))
			continue;
		was_deleted = true;
		if (!sees_deleted)
			sees_deleted = table_tuple_satisfies_snapshot(settled->rel, settled->found,
														  settled->snapshot);
	}

	if (!poser_count_insert_row(settled, keys, hash, amounts))
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

/* Insert a delta of zero for a parent whose settled row is missing.  poser_check() does not report such a parent. */
void
poser_count_mark_missing(CountWriter *writer, const Datum *keys, uint32 hash)
{
	begin_key(writer);
	poser_amounts_clear(writer->count, writer->taken);
	(void) poser_count_insert_row(&writer->deltas, keys, hash, writer->taken);
}

/*
 * Begin the count of a new parent: make its settled row, unless there is one.  There can
 * be one, because poser_count_end() does not delete a row that another transaction holds.
 * It is locked, so that poser_count_end_unused() in another transaction does not delete it.  If
 * this is impossible, a delta marks that the row may be missing.
 */
void
poser_count_begin(CountWriter *writer, const Datum *keys)
{
	uint32 hash = hash_count_keys(writer->count, keys);
	const PoserAmount *amounts = writer->taken;
	bool own;

	/*
	 * One query can insert a parent and its children, and the trigger on the child can
	 * fire first.  Then the children are in a delta, which becomes the settled row.
	 */
	begin_key(writer);
	own = poser_count_find_own_row(&writer->deltas, keys, hash);
	if (own)
		amounts = found_amounts(writer, &writer->deltas);
	else
		poser_amounts_clear(writer->count, writer->taken);
	if (poser_count_make_settled_row(writer, keys, hash, amounts))
	{
		if (own && !poser_count_delete_row(&writer->deltas))
			elog(ERROR, "could not delete a row of our own in relation \"%s\"",
				 RelationGetRelationName(writer->deltas.rel));
	}
	else if (!(poser_count_find_row(&writer->settled, keys, hash) && poser_count_lock_row(&writer->settled)) && !own)
		poser_count_mark_missing(writer, keys, hash);
}

/*
 * End the count of a deleted parent: delete the settled row that was found.  If another
 * transaction has replaced or locked the row, the row stays.  It does no harm, because
 * queries look for the counts of existing parents only.
 */
static void
end_found_count(CountWriter *writer, const Datum *keys, uint32 hash)
{
	bool visible = poser_count_found_is_visible(&writer->settled);
	const PoserAmount *left;

	begin_key(writer);
	left = found_amounts(writer, &writer->settled);

	if (!poser_count_delete_row(&writer->settled))
		return;

	/* The numbers in the deleted row can contain changes that the snapshot does not see. */
	if (!visible)
		poser_count_note_inconsistent(GetCurrentCommandId(false));

	/*
	 * There can be children left: a cascade deletes them later, or there is no foreign
	 * key.  A delta counts them.
	 */
	poser_count_defer(writer, keys, hash, left);
}

/* End the count of a deleted parent. */
void
poser_count_end(CountWriter *writer, const Datum *keys)
{
	uint32 hash = hash_count_keys(writer->count, keys);

	if (poser_count_find_row(&writer->settled, keys, hash))
		end_found_count(writer, keys, hash);
}

/*
 * Delete the settled row of a key that had no parent and no children in the caller's snapshot.
 * The row is locked first, and then the parent is looked for again, because it may have come
 * since.  A transaction that inserts it later finds the row locked, see poser_count_begin().
 */
void
poser_count_end_unused(CountWriter *writer, const Datum *keys)
{
	uint32 hash = hash_count_keys(writer->count, keys);
	PoserParents *parents = parents_of(writer);

	if (parents->usable && poser_count_find_row(&writer->settled, keys, hash) &&
		poser_count_lock_row(&writer->settled) && !poser_parents_have(parents, keys))
		end_found_count(writer, keys, hash);
}

/* Make the count of the settled row that was found zero.  Returns false if another transaction holds the row. */
static bool
reset_found_row(CountWriter *writer)
{
	CountTable *settled = &writer->settled;

	begin_key(writer);
	if (poser_amounts_are_zero(writer->count, found_amounts(writer, settled)))
		return true;
	poser_amounts_clear(writer->count, writer->sum);
	return poser_count_update_row(settled, hash_count_keys(writer->count, poser_count_found_keys(settled)), writer->sum);
}

/* Make the settled rows of a table zero, and delete its deltas. */
static void
reset_table(CountWriter *writer, CountTable *table)
{
	TableScanDesc scan = table_beginscan(table->rel, SnapshotSelf, 0, NULL, SO_NONE);

	while (table_scan_getnextslot(scan, ForwardScanDirection, poser_count_found_slot(table)))
	{
		CHECK_FOR_INTERRUPTS();
		if (poser_count_found_is_delta(table) ? !poser_count_delete_row(table) : !reset_found_row(writer))
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("could not reset the counts in relation \"%s\"",
							RelationGetRelationName(table->rel)),
					 errdetail("Another transaction holds one of its rows.")));
	}
	table_endscan(scan);
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
	/* settled rows first; in one table the first loop finds the deltas, too */
	reset_table(writer, &writer->settled);
	if (writer->count->delta == 0)
		reset_table(writer, &writer->deltas);
}

/* End the counts of all parents, for TRUNCATE of the parent. */
void
poser_count_end_all(CountWriter *writer)
{
	CountTable *settled = &writer->settled;
	TableScanDesc scan = table_beginscan(settled->rel, SnapshotSelf, 0, NULL, SO_NONE);

	while (table_scan_getnextslot(scan, ForwardScanDirection, poser_count_found_slot(settled)))
	{
		const Datum *keys = poser_count_found_keys(settled);

		/* the table can have deltas, too, and end_found_count() makes more */
		CHECK_FOR_INTERRUPTS();
		if (!poser_count_found_is_delta(settled))
			end_found_count(writer, keys, hash_count_keys(writer->count, keys));
	}
	table_endscan(scan);
}
