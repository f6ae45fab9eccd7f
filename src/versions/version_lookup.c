/*
 * version_lookup.c
 *	  Looking up the versions of a row, newest first.
 *
 * The index of a table of versions on the key and change_id finds them.  They are read as
 * they are now, not as of a snapshot: committed versions, and this transaction's own.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "versions/versions.h"
#include "versions/version_internal.h"

/* Returns the tables that hold the rows of a table of versions: the table itself, or its partitions. */
List *
poser_version_leaves(Relation versions)
{
	List *relids = NIL;
	ListCell *lc;

	if (versions->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		return list_make1_oid(RelationGetRelid(versions));
	foreach(lc, find_all_inheritors(RelationGetRelid(versions), AccessShareLock, NULL))
	{
		if (get_rel_relkind(lfirst_oid(lc)) == RELKIND_RELATION)
			relids = lappend_oid(relids, lfirst_oid(lc));
	}
	return relids;
}

/*
 * Open the index of a table of versions on the key, for look-ups in this memory context.
 * "versions" is that table, open and locked.  If the key of an own table was changed since
 * poser_track() was called, there is no index yet, and the versions are read.  Otherwise
 * it is an error.
 */
void
poser_version_lookup_open(PoserLookup *lookup, const PoserVersioned *versioned, Relation versions)
{
	if (!OidIsValid(versioned->versions_index) && versioned->own)
	{
		poser_lookup_open_unindexed(lookup, versions, poser_version_leaves(versions), versioned->nkeys, versioned->keys,
									versioned->key_equal, versioned->key_collation, versioned->change_id);
		return;
	}
	if (!OidIsValid(versioned->versions_index))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("relation \"%s\" has no usable index on its key",
						RelationGetRelationName(versions)),
				 errhint("poser_check() says what was changed.")));
	poser_lookup_open(lookup, versions, versioned->versions_index, versioned->nkeys);
	lookup->order = versioned->change_id;
}

/*
 * Begin to read the versions of the row in the slot.  The slot has a row of the table or,
 * with "is_version", a row of the table of versions.
 */
void
poser_version_lookup_begin(PoserLookup *lookup, const PoserVersioned *versioned, TupleTableSlot *row, bool is_version)
{
	Datum values[INDEX_MAX_KEYS];
	bool nulls[INDEX_MAX_KEYS];

	/* keys can be null while a constraint is missing */
	for (int i = 0; i < versioned->nkeys; i++)
	{
		AttrNumber column = versioned->keys[i];

		values[i] = slot_getattr(row, is_version ? column : versioned->source[column - 1], &nulls[i]);
	}
	poser_lookup_begin(lookup, BTEqualStrategyNumber, values, nulls);
}

/* Get the next version into lookup->slot; returns false if there is none. */
bool
poser_version_lookup_next(PoserLookup *lookup)
{
	return poser_lookup_next(lookup, BackwardScanDirection);
}

/* Returns the operation of a version. */
PoserOperation
poser_version_operation(const PoserVersioned *versioned, TupleTableSlot *version)
{
	bool isnull;

	return DatumGetInt16(slot_getattr(version, versioned->operation_type, &isnull));
}

/* Returns the change_id of a version. */
int64
poser_version_change_id(const PoserVersioned *versioned, TupleTableSlot *version)
{
	bool isnull;

	return DatumGetInt64(slot_getattr(version, versioned->change_id, &isnull));
}

/* Returns the transaction of a version. */
int64
poser_version_transaction_id(const PoserVersioned *versioned, TupleTableSlot *version)
{
	bool isnull;

	return DatumGetInt64(slot_getattr(version, versioned->transaction_id, &isnull));
}

/* Does the history of this row of the table end in the row as it is in the slot? */
bool
poser_version_lookup_ends_in(PoserLookup *lookup, const PoserVersioned *versioned, TupleTableSlot *row)
{
	poser_version_lookup_begin(lookup, versioned, row, false);
	return poser_version_lookup_next(lookup) &&
		   poser_version_operation(versioned, lookup->slot) != POSER_DELETE &&
		   poser_versioned_is_version_of(versioned, lookup->slot, row);
}

/*
 * Rows of the table
 */

/* Open the unique index of the table on its key, for look-ups in this memory context.  Locks the table until the transaction ends. */
void
poser_row_lookup_open(PoserRowLookup *rows, const PoserVersioned *versioned)
{
	AttrNumber columns[INDEX_MAX_KEYS];
	bool immediate;
	Oid indexid = InvalidOid;

	memset(rows, 0, sizeof(PoserRowLookup));
	rows->rel = table_open(versioned->relid, AccessShareLock);
	for (int i = 0; i < versioned->nkeys; i++)
		columns[i] = versioned->source[versioned->keys[i] - 1];
	if (versioned->nkeys > 0)
		indexid = poser_unique_index(rows->rel, versioned->nkeys, columns, &immediate);
	if (!OidIsValid(indexid))
		return;
	poser_lookup_open(&rows->lookup, rows->rel, indexid, versioned->nkeys);
	/* the columns of the index can be in another order */
	for (int i = 0; i < versioned->nkeys; i++)
		for (int j = 0; j < versioned->nkeys; j++)
			if (rows->lookup.index->rd_index->indkey.values[i] == columns[j])
				rows->keys[i] = j;
}

/*
 * Look up the row with the key that the slot has, into rows->lookup.slot.  The slot has a row
 * of the table or, with "is_version", a row of the table of versions.  Returns false if
 * there is none.  The key must have no null.
 */
bool
poser_row_lookup_find(PoserRowLookup *rows, const PoserVersioned *versioned, TupleTableSlot *row, bool is_version)
{
	Datum values[INDEX_MAX_KEYS];

	for (int i = 0; i < versioned->nkeys; i++)
	{
		AttrNumber column = versioned->keys[rows->keys[i]];
		bool isnull;

		values[i] = slot_getattr(row, is_version ? column : versioned->source[column - 1], &isnull);
	}
	poser_lookup_begin(&rows->lookup, BTEqualStrategyNumber, values, NULL);
	return poser_lookup_next(&rows->lookup, ForwardScanDirection);
}

/* Wait until no other transaction is writing a row with the key of this row of the table. */
void
poser_row_lookup_wait(PoserRowLookup *rows, const PoserVersioned *versioned, TupleTableSlot *row)
{
	(void) poser_row_lookup_find(rows, versioned, row, false);
	poser_lookup_wait(&rows->lookup, rows->rel);
}

void
poser_row_lookup_close(PoserRowLookup *rows)
{
	if (rows->lookup.slot != NULL)
		poser_lookup_close(&rows->lookup);
	table_close(rows->rel, NoLock);
	rows->rel = NULL;
}
