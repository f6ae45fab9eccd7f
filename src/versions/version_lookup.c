/*
 * version_lookup.c
 *	  Looking up the versions of a row, newest first.
 *
 * The index of a table of versions on the key and change_id finds them.  They are read as
 * they are now, not as of a snapshot: committed versions, and this transaction's own.
 */
#include "postgres.h"

#include "access/tableam.h"
#include "utils/rel.h"

#include "versions/versions.h"
#include "versions/version_internal.h"

/*
 * Open the index of a table of versions on the key, for look-ups in this memory context.
 * "versions" is that table, open and locked.  Raises an error if it has no such index.
 */
void
poser_version_lookup_open(PoserLookup *lookup, const PoserVersioned *versioned, Relation versions)
{
	if (!OidIsValid(versioned->versions_index))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("relation \"%s\" has no usable index on its key",
						RelationGetRelationName(versions)),
				 errhint("poser_check() says what was changed.")));
	poser_lookup_open(lookup, versions, versioned->versions_index, versioned->nkeys);
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
