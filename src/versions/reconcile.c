/*
 * reconcile.c
 *	  Recording a statement that overlaps with others on the same table.
 *
 * Usually the old row of each change in a statement's transition tables is the last
 * version of the row.  This is not so if another statement writes the table between the
 * BEFORE and the AFTER trigger of the statement.  The other statement can be in a row
 * trigger, in a function that the statement calls, or in the same query.  Then a row can
 * have changes before this statement's change that are not recorded yet.  It can also
 * have changes after this statement's change that are recorded already.
 *
 * So the versions of a row are read before a change of it is recorded:
 * - If another statement has recorded the same change meanwhile, it is not recorded again.
 * - If the last version is not the row that the statement has found, a change is missing
 *   in between.  A version for that change is written first.
 * When all changes are recorded, the last version of each row is compared with the row
 * in the table.  If they differ, another version is written.
 *
 * The invariant: when the statement has been recorded, the last version of each row
 * that it has changed has the values of the row.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "versions/versions.h"
#include "versions/version_internal.h"

struct PoserReconciler
{
	const PoserVersioned *versioned;
	PoserVersionWriter *writer;
	int64 since;			 /* the last change_id before the statement began */
	bool replaced;			 /* see poser_reconcile_begin() */
	MemoryContext context;	 /* of the fields below, which are set when needed */
	PoserLookup lookup;		 /* of versions; not open until versions are read */
	TupleTableSlot *version; /* the version that was read last */
	PoserRowLookup rows;	 /* of the table's rows; not open until rows are read */
};

/*
 * Begin to record a statement that overlaps with others.  "since" is the last change_id
 * before it began.  With "replaced" a missing change of a row is recorded as a DELETE and
 * an INSERT, otherwise as an UPDATE.
 */
PoserReconciler *
poser_reconcile_begin(const PoserVersioned *versioned, PoserVersionWriter *writer, int64 since, bool replaced)
{
	PoserReconciler *reconciler = palloc0(sizeof(PoserReconciler));

	reconciler->versioned = versioned;
	reconciler->writer = writer;
	reconciler->since = since;
	reconciler->replaced = replaced;
	reconciler->context = CurrentMemoryContext;
	return reconciler;
}

/* Free a reconciler.  Its writer is ended after it. */
void
poser_reconcile_end(PoserReconciler *reconciler)
{
	if (reconciler->lookup.slot != NULL)
		poser_lookup_close(&reconciler->lookup);
	if (reconciler->rows.rel != NULL)
		poser_row_lookup_close(&reconciler->rows);
	pfree(reconciler);
}

/*
 * Begin to read the versions of the row in the slot, newest first.  The slot has a row
 * of the table or, with "is_version", a row of the table of versions.
 */
static void
begin_versions(PoserReconciler *reconciler, TupleTableSlot *row, bool is_version)
{
	Relation versions = poser_version_flush(reconciler->writer);

	if (reconciler->lookup.slot == NULL)
	{
		/* what the look-ups allocate must live as long as they do */
		MemoryContext old = MemoryContextSwitchTo(reconciler->context);

		poser_version_lookup_open(&reconciler->lookup, reconciler->versioned, versions);
		MemoryContextSwitchTo(old);
		reconciler->version = reconciler->lookup.slot;
	}
	poser_version_lookup_begin(&reconciler->lookup, reconciler->versioned, row, is_version);
}

/* Get the next version into reconciler->version; returns false if there is none. */
static bool
next_version(PoserReconciler *reconciler)
{
	return poser_version_lookup_next(&reconciler->lookup);
}

/*
 * Is the version that was read last one that this transaction has recorded since this
 * statement began?  Other sessions draw change_ids, too, so the change_id does not tell it.
 */
static bool
is_of_other_statement(PoserReconciler *reconciler)
{
	const PoserVersioned *versioned = reconciler->versioned;

	return poser_version_change_id(versioned, reconciler->version) > reconciler->since &&
		   poser_transaction_has_written(poser_version_transaction_id(versioned, reconciler->version));
}

/* Has another statement recorded this change since this statement began?  "row" is the new row or, for a DELETE, the old one. */
static bool
is_recorded(PoserReconciler *reconciler, PoserOperation operation, TupleTableSlot *row)
{
	const PoserVersioned *versioned = reconciler->versioned;
	bool others = false;
	bool found;

	begin_versions(reconciler, row, false);
	while ((found = next_version(reconciler)) && is_of_other_statement(reconciler))
	{
		bool deleted = poser_version_operation(versioned, reconciler->version) == POSER_DELETE;

		if (deleted == (operation == POSER_DELETE) &&
			poser_versioned_is_version_of(versioned, reconciler->version, row))
			return true;
		others = true;
	}

	/*
	 * A DELETE needs no version of its own if other statements have recorded the row that
	 * replaced the deleted one.  Then the version before theirs is the deleted row.
	 */
	return operation == POSER_DELETE && others && found &&
		   poser_versioned_is_version_of(versioned, reconciler->version, row);
}

/*
 * Record a change of the statement, unless another statement has recorded it.  "old"
 * and "new" are the row before and after it; "old" is not read for an INSERT, and
 * "new" is not read for a DELETE.
 */
void
poser_reconcile_change(PoserReconciler *reconciler, PoserOperation operation,
					   TupleTableSlot *old, TupleTableSlot *new)
{
	const PoserVersioned *versioned = reconciler->versioned;
	PoserVersionWriter *writer = reconciler->writer;
	TupleTableSlot *row = operation == POSER_DELETE ? old : new;
	bool exists;

	if (is_recorded(reconciler, operation, row))
		return;

	/* a missing change, if the last version is not the row that the statement has found */
	begin_versions(reconciler, row, false);
	exists = next_version(reconciler) &&
			 poser_version_operation(versioned, reconciler->version) != POSER_DELETE;
	if (operation == POSER_INSERT && exists)
		poser_version_write(writer, POSER_DELETE, reconciler->version, true);
	else if (operation != POSER_INSERT && !exists)
		poser_version_write(writer, POSER_INSERT, old, false);
	else if (operation != POSER_INSERT &&
			 !poser_versioned_is_version_of(versioned, reconciler->version, old))
	{
		if (reconciler->replaced)
		{
			poser_version_write(writer, POSER_DELETE, reconciler->version, true);
			poser_version_write(writer, POSER_INSERT, old, false);
		}
		else
			poser_version_write(writer, POSER_UPDATE, old, false);
	}

	/* the change itself; the next look-up must find it */
	poser_version_write(writer, operation, row, false);
	(void) poser_version_flush(writer);
}

/* Has a row a null in its key?  The slot has a row of the table or, with "is_version", of the table of versions. */
static bool
has_null_key(const PoserVersioned *versioned, TupleTableSlot *row, bool is_version)
{
	for (int i = 0; i < versioned->nkeys; i++)
	{
		AttrNumber column = versioned->keys[i];
		bool isnull;

		(void) slot_getattr(row, is_version ? column : versioned->source[column - 1], &isnull);
		if (isnull)
			return true;
	}
	return false;
}

/* Open the look-up of the table's rows, if it is not open.  Returns false if the key has no unique index. */
static bool
open_rows(PoserReconciler *reconciler)
{
	if (reconciler->rows.rel == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(reconciler->context);

		poser_row_lookup_open(&reconciler->rows, reconciler->versioned);
		MemoryContextSwitchTo(old);
	}
	return reconciler->rows.lookup.slot != NULL;
}

/*
 * Before a key that comes or goes is recorded under a deferrable constraint, wait for other
 * transactions that are writing a row with this key.  The server waits for them only when it
 * checks the constraint.  But the versions that they have written could not be read here, and
 * the order of change_ids would not be that of the rows.
 */
void
poser_reconcile_wait(PoserReconciler *reconciler, TupleTableSlot *row)
{
	if (!has_null_key(reconciler->versioned, row, false) && open_rows(reconciler))
		poser_row_lookup_wait(&reconciler->rows, reconciler->versioned, row);
}

/*
 * Compare the last version of a row with the row in the table, and record a difference.
 * The row is found by the key in the slot.  The slot has a row of the table or, with
 * "is_version", of the table of versions.
 */
void
poser_reconcile_row(PoserReconciler *reconciler, TupleTableSlot *row, bool is_version)
{
	const PoserVersioned *versioned = reconciler->versioned;
	PoserVersionWriter *writer = reconciler->writer;
	TupleTableSlot *live;
	bool recorded;
	bool exists;

	/* several rows can have a null key, and cannot be told apart */
	if (has_null_key(versioned, row, is_version))
		return;

	/* the last version */
	begin_versions(reconciler, row, is_version);
	recorded = next_version(reconciler) &&
			   poser_version_operation(versioned, reconciler->version) != POSER_DELETE;

	/* the row in the table */
	if (!open_rows(reconciler))
		return;
	live = reconciler->rows.lookup.slot;
	exists = poser_row_lookup_find(&reconciler->rows, versioned, row, is_version);

	/* record the difference */
	if (exists && !recorded)
		poser_version_write(writer, POSER_INSERT, live, false);
	else if (exists && !poser_versioned_is_version_of(versioned, reconciler->version, live))
		poser_version_write(writer, POSER_UPDATE, live, false);
	else if (!exists && recorded)
		poser_version_write(writer, POSER_DELETE, reconciler->version, true);
	(void) poser_version_flush(writer);
}

/*
 * Reconcile all rows that have a version with a greater change_id than "since".  Called
 * after a TRUNCATE if other triggers have written the table before or after it.  A
 * TRUNCATE has no transition tables, so the rows are found by their versions.
 */
void
poser_reconcile_since(const PoserVersioned *versioned, int64 since)
{
	PoserVersionWriter *writer = poser_version_begin(versioned, NULL);
	PoserReconciler *reconciler = poser_reconcile_begin(versioned, writer, since, false);
	Relation versions = table_open(versioned->versions, RowExclusiveLock);
	PoserTableScan scan;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "poser row", ALLOCSET_SMALL_SIZES);
	MemoryContext outer;

	poser_scan_begin(&scan, poser_version_leaves(versions), versions);
	while (poser_scan_next(&scan))
	{
		MemoryContextReset(context);
		outer = MemoryContextSwitchTo(context);
		if (poser_version_change_id(versioned, scan.slot) > since)
			poser_reconcile_row(reconciler, scan.slot, true);
		MemoryContextSwitchTo(outer);
	}
	MemoryContextDelete(context);
	poser_scan_end(&scan);
	table_close(versions, NoLock);
	poser_reconcile_end(reconciler);
	poser_version_end(writer);
}
