/*
 * count_changes.c
 *	  What a statement changes, added up by key.
 *
 * A hash table adds up the changes, so that each key's count is written once, however
 * many rows the statement has.  When the table takes more memory than
 * get_hash_memory_limit() allows, its content goes to a sort by hash value.  At the end
 * the sort brings equal keys together, because they have the same hash value.
 *
 * Most statements change the count of one key only.  So the hash table is not made before
 * there is a second key.
 *
 * The invariant: memory is bounded, and each key is written once, whatever the number of
 * keys.
 */
#include "postgres.h"

#include "catalog/pg_operator_d.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/datum.h"
#include "utils/memutils.h"

#include "counts/counts_internal.h"

/* When the hash table has so many keys, sorted changes are written. */
#define SORTED_BATCH 1000

/* The columns of the sort. */
#define SORT_HASH 1
#define SORT_KEY 2
#define SORT_TOTAL 3
#define SORT_ACTIVE 4
#define SORT_NATTS 4

/* The change of one key. */
typedef struct Change
{
	Datum key;
	Tally tally;
	uint32 hash;
	char status;
} Change;

/* A hash table of changes.  Its private data is the count. */
#define SH_PREFIX changes
#define SH_ELEMENT_TYPE Change
#define SH_KEY_TYPE Datum
#define SH_KEY key
#define SH_HASH_KEY(tb, key) hash_count_key((tb)->private_data, key)
#define SH_EQUAL(tb, a, b) equal_count_keys((tb)->private_data, a, b)
#define SH_SCOPE static inline
#define SH_STORE_HASH
#define SH_GET_HASH(tb, a) (a)->hash
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* Begin to collect the changes of the statement for which the trigger has fired. */
void
poser_count_begin_changes(CountChanges *changes, TriggerData *trigdata, const PoserCount *count)
{
	changes->trigdata = trigdata;
	changes->count = count;
	changes->has_first = false;
	changes->context = NULL;
	changes->hash = NULL;
	changes->sort = NULL;
	changes->slot = NULL;
}

/* Empty the hash table. */
static void
clear_hash(CountChanges *changes)
{
	MemoryContextReset(changes->context);
	changes->hash = changes_create(changes->context, 16, (void *) changes->count);
}

/* Add a change to the hash table. */
static void
add_to_hash(CountChanges *changes, Datum key, Tally tally)
{
	bool found;
	Change *change = changes_insert(changes->hash, key, &found);

	if (!found)
	{
		MemoryContext old = MemoryContextSwitchTo(changes->context);

		change->key = datumCopy(key, changes->count->keybyval, changes->count->keylen);
		change->tally = (Tally) {0, 0};
		MemoryContextSwitchTo(old);
	}
	change->tally = tally_add(change->tally, tally);
}

/* Make the sort.  It orders by the hash value only, so a key's type needs no order. */
static void
begin_sort(CountChanges *changes)
{
	AttrNumber attno = SORT_HASH;
	Oid lt = Int4LessOperator;
	Oid collation = InvalidOid;
	bool nulls_first = false;
	TupleDesc desc = CreateTemplateTupleDesc(SORT_NATTS);

	TupleDescInitEntry(desc, SORT_HASH, "hash", INT4OID, -1, 0);
	TupleDescInitEntry(desc, SORT_KEY, "key", changes->count->keytype, -1, 0);
	TupleDescInitEntry(desc, SORT_TOTAL, "total", INT8OID, -1, 0);
	TupleDescInitEntry(desc, SORT_ACTIVE, "active", INT8OID, -1, 0);
	TupleDescFinalize(desc);
	changes->slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	changes->sort = tuplesort_begin_heap(desc, 1, &attno, &lt, &collation, &nulls_first,
										 work_mem, NULL, TUPLESORT_NONE);
}

/* Move the content of the hash table to the sort. */
static void
move_to_sort(CountChanges *changes)
{
	TupleTableSlot *slot;
	changes_iterator it;
	Change *change;

	if (changes->sort == NULL)
		begin_sort(changes);
	slot = MakeSingleTupleTableSlot(changes->slot->tts_tupleDescriptor, &TTSOpsVirtual);
	changes_start_iterate(changes->hash, &it);
	while ((change = changes_iterate(changes->hash, &it)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		if (tally_is_zero(change->tally))
			continue;
		ExecClearTuple(slot);
		slot->tts_values[SORT_HASH - 1] = Int32GetDatum((int32) change->hash);
		slot->tts_values[SORT_KEY - 1] = change->key;
		slot->tts_values[SORT_TOTAL - 1] = Int64GetDatum(change->tally.total);
		slot->tts_values[SORT_ACTIVE - 1] = Int64GetDatum(change->tally.active);
		memset(slot->tts_isnull, 0, SORT_NATTS * sizeof(bool));
		ExecStoreVirtualTuple(slot);
		tuplesort_puttupleslot(changes->sort, slot);
	}
	ExecDropSingleTupleTableSlot(slot);
	clear_hash(changes);
}

/* Make the hash table, with the first key's change. */
static void
begin_hash(CountChanges *changes)
{
	changes->context = AllocSetContextCreate(CurrentMemoryContext, "poser changes", ALLOCSET_DEFAULT_SIZES);
	changes->hash = changes_create(changes->context, 16, (void *) changes->count);
	changes->limit = get_hash_memory_limit();
	add_to_hash(changes, changes->first_key, changes->first);
}

/* Add a change.  The key is copied. */
void
poser_count_add_change(CountChanges *changes, Datum key, Tally tally)
{
	/* without a hash table, as long as all changes are of the first key */
	if (!changes->has_first)
	{
		changes->has_first = true;
		changes->first_key = datumCopy(key, changes->count->keybyval, changes->count->keylen);
		changes->first = tally;
		return;
	}
	if (changes->hash == NULL)
	{
		if (equal_count_keys(changes->count, changes->first_key, key))
		{
			changes->first = tally_add(changes->first, tally);
			return;
		}
		begin_hash(changes);
	}

	add_to_hash(changes, key, tally);
	if (MemoryContextMemAllocated(changes->context, false) > changes->limit)
		move_to_sort(changes);
}

/*
 * Write the first key's change.  The tables of the count are locked only here and in
 * write_hash(), and only if there is a change.  So a statement that changes no count takes
 * no lock on them.
 */
static void
write_first(CountChanges *changes)
{
	CountWriter writer;

	if (!changes->has_first || tally_is_zero(changes->first))
		return;
	poser_count_open(&writer, poser_count_locked(changes->trigdata));
	poser_count_change(&writer, changes->first_key, hash_count_key(changes->count, changes->first_key),
					   changes->first);
	poser_count_close(&writer);
}

/* Write the changes in the hash table. */
static void
write_hash(CountChanges *changes)
{
	CountWriter writer;
	bool opened = false;
	changes_iterator it;
	Change *change;

	changes_start_iterate(changes->hash, &it);
	while ((change = changes_iterate(changes->hash, &it)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		if (tally_is_zero(change->tally))
			continue;
		if (!opened)
			poser_count_open(&writer, poser_count_locked(changes->trigdata));
		opened = true;
		poser_count_change(&writer, change->key, change->hash, change->tally);
	}
	if (opened)
		poser_count_close(&writer);
}

/*
 * Put the sorted changes into the hash table, which adds up those of equal keys, and write
 * them in batches.  The last batch stays in the hash table.
 */
static void
write_sorted(CountChanges *changes)
{
	int32 last_hash = 0;

	move_to_sort(changes);
	tuplesort_performsort(changes->sort);
	while (tuplesort_gettupleslot(changes->sort, true, false, changes->slot, NULL))
	{
		bool isnull;
		int32 hash = DatumGetInt32(slot_getattr(changes->slot, SORT_HASH, &isnull));
		Tally tally;

		CHECK_FOR_INTERRUPTS();

		/* A batch ends only where the hash value changes, so that all changes of a key are in one batch. */
		if (changes->hash->members >= SORTED_BATCH && hash != last_hash)
		{
			write_hash(changes);
			clear_hash(changes);
		}
		last_hash = hash;
		tally.total = DatumGetInt64(slot_getattr(changes->slot, SORT_TOTAL, &isnull));
		tally.active = DatumGetInt64(slot_getattr(changes->slot, SORT_ACTIVE, &isnull));
		add_to_hash(changes, slot_getattr(changes->slot, SORT_KEY, &isnull), tally);
	}
	tuplesort_end(changes->sort);
	ExecDropSingleTupleTableSlot(changes->slot);
}

/* Write all changes, and free what was needed to collect them. */
void
poser_count_apply_changes(CountChanges *changes)
{
	if (changes->hash == NULL)
	{
		write_first(changes);
		return;
	}
	if (changes->sort != NULL)
		write_sorted(changes);
	write_hash(changes);
	MemoryContextDelete(changes->context);
}
