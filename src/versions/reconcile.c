/*
 * reconcile.c
 *	  Recording statements beside others that are under way on the same table.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relscan.h"
#include "access/table.h"
#include "access/tableam.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "versions/versions.h"
#include "versions/version_internal.h"

static PoserOperation
version_operation(const PoserVersioned *versioned, TupleTableSlot *version)
{
	bool isnull;

	return DatumGetInt16(slot_getattr(version, versioned->operation_type, &isnull));
}

static int64
version_change(const PoserVersioned *versioned, TupleTableSlot *version)
{
	bool isnull;

	return DatumGetInt64(slot_getattr(version, versioned->change_id, &isnull));
}

/*
 * Begin to look up the versions of the row in the slot, newest first.
 */
static void
begin_versions(PoserVersionWriter *writer, TupleTableSlot *row, bool is_version)
{
	const PoserVersioned *versioned = writer->versioned;
	ScanKeyData keys[INDEX_MAX_KEYS];
	MemoryContext old;

	if (!writer->opened)
		poser_version_open(writer);
	poser_version_flush(writer);

	/* what the scan allocates stays as long as the scan */
	old = MemoryContextSwitchTo(writer->context);
	if (writer->scan == NULL)
	{
		if (!OidIsValid(versioned->versions_index))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("relation \"%s\" has no usable index on its key",
							RelationGetRelationName(writer->table.rel)),
					 errhint("poser_check() says what was changed.")));
		writer->index = index_open(versioned->versions_index, RowExclusiveLock);
		writer->last = table_slot_create(writer->table.rel, NULL);
		writer->scan = index_beginscan(writer->table.rel, writer->index, SnapshotSelf, NULL,
									   versioned->nkeys, 0, SO_NONE);
	}
	for (int i = 0; i < versioned->nkeys; i++)
	{
		AttrNumber column = versioned->keys[i];
		bool isnull;
		Datum value = slot_getattr(row, is_version ? column : versioned->source[column - 1], &isnull);

		poser_scan_key(&keys[i], writer->index, i + 1, value);
		if (isnull)
			keys[i].sk_flags |= SK_ISNULL | SK_SEARCHNULL;
	}
	index_rescan(writer->scan, keys, versioned->nkeys, NULL, 0);
	MemoryContextSwitchTo(old);
}

/* The next of them, in writer->last. */
static bool
next_version(PoserVersionWriter *writer)
{
	MemoryContext old = MemoryContextSwitchTo(writer->context);
	bool found = index_getnext_slot(writer->scan, BackwardScanDirection, writer->last);

	MemoryContextSwitchTo(old);
	return found;
}

/*
 * Make the last version of a row what the row is now.  The slot has its key.
 */
void
poser_reconcile(PoserVersionWriter *writer, Relation rel, TupleTableSlot *row, bool is_version)
{
	const PoserVersioned *versioned = writer->versioned;
	AttrNumber columns[INDEX_MAX_KEYS];
	Datum values[INDEX_MAX_KEYS];
	bool recorded_live;
	bool live;

	begin_versions(writer, row, is_version);
	recorded_live = next_version(writer) &&
					version_operation(versioned, writer->last) != POSER_DELETE;
	for (int i = 0; i < versioned->nkeys; i++)
	{
		AttrNumber column = versioned->keys[i];
		bool isnull;

		columns[i] = versioned->source[column - 1];
		values[i] = slot_getattr(row, is_version ? column : columns[i], &isnull);
		/* such rows cannot be told from each other */
		if (isnull)
			return;
	}
	if (writer->live == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(writer->context);

		writer->live = table_slot_create(rel, NULL);
		MemoryContextSwitchTo(old);
	}
	if (!poser_fetch_row(rel, versioned->nkeys, columns, values, writer->live, &live))
		return;
	if (live && !recorded_live)
		poser_version_write(writer, POSER_INSERT, writer->live, false);
	else if (live && !poser_versioned_is_version_of(versioned, writer->last, writer->live))
		poser_version_write(writer, POSER_UPDATE, writer->live, false);
	else if (!live && recorded_live)
		poser_version_write(writer, POSER_DELETE, writer->last, true);
	poser_version_flush(writer);
}

/*
 * Record a change of a statement beside others that were under way with it.
 * "since" is the last change_id before it began.
 */
void
poser_record_carefully(PoserVersionWriter *writer, PoserOperation operation,
					   TupleTableSlot *old, TupleTableSlot *new, int64 since, bool replaced)
{
	const PoserVersioned *versioned = writer->versioned;
	TupleTableSlot *row = operation == POSER_DELETE ? old : new;
	bool gone_on = false;
	bool found;

	/* another statement has found the row like this, and recorded it */
	begin_versions(writer, row, false);
	while ((found = next_version(writer)) && version_change(versioned, writer->last) > since)
	{
		bool deleted = version_operation(versioned, writer->last) == POSER_DELETE;

		if (deleted == (operation == POSER_DELETE) && poser_versioned_is_version_of(versioned, writer->last, row))
			return;
		gone_on = true;
	}
	/* or has found what came after it */
	if (operation == POSER_DELETE && gone_on && found && poser_versioned_is_version_of(versioned, writer->last, row))
		return;

	/* another statement has made the row what this one has found */
	begin_versions(writer, row, false);
	found = next_version(writer) && version_operation(versioned, writer->last) != POSER_DELETE;
	if (operation == POSER_INSERT && found)
		poser_version_write(writer, POSER_DELETE, writer->last, true);
	else if (operation != POSER_INSERT && !found)
		poser_version_write(writer, POSER_INSERT, old, false);
	else if (operation != POSER_INSERT && !poser_versioned_is_version_of(versioned, writer->last, old))
	{
		if (replaced)
		{
			poser_version_write(writer, POSER_DELETE, writer->last, true);
			poser_version_write(writer, POSER_INSERT, old, false);
		}
		else
			poser_version_write(writer, POSER_UPDATE, old, false);
	}

	poser_version_write(writer, operation, row, false);
	poser_version_flush(writer);
}

/*
 * After TRUNCATE: other triggers have changed rows before or after it.
 */
void
poser_reconcile_since(Relation rel, const PoserVersioned *versioned, int64 since)
{
	PoserVersionWriter *writer = poser_version_begin(versioned, NULL);
	Relation versions = table_open(versioned->versions, RowExclusiveLock);
	TupleTableSlot *slot = table_slot_create(versions, NULL);
	TableScanDesc scan = table_beginscan(versions, SnapshotSelf, 0, NULL, SO_NONE);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "poser row", ALLOCSET_SMALL_SIZES);
	MemoryContext outer = MemoryContextSwitchTo(context);

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(context);
		if (version_change(versioned, slot) > since)
			poser_reconcile(writer, rel, slot, true);
	}
	MemoryContextSwitchTo(outer);
	MemoryContextDelete(context);
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	table_close(versions, NoLock);
	poser_version_end(writer);
}
