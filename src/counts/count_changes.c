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

/*
 * The greatest block of the memory contexts.  A context counts whole blocks, so larger ones would
 * reach the limit while they are half empty.
 */
#define MAX_BLOCK_SIZE (128 * 1024)

/* The columns of the sort: the hash value, then the keys, then the amounts. */
#define SORT_HASH 1

/*
 * An entry of the hash table.  Its keys are the beginning of a change, see make_change(),
 * except while the table looks them up.
 */
typedef struct Change
{
	const Datum *keys;
	uint32 hash;
	char status;
} Change;

/* A hash table of changes.  Its private data is the count. */
#define SH_PREFIX changes
#define SH_ELEMENT_TYPE Change
#define SH_KEY_TYPE const Datum *
#define SH_KEY keys
#define SH_HASH_KEY(tb, key) hash_count_keys((tb)->private_data, key)
#define SH_EQUAL(tb, a, b) equal_count_keys((tb)->private_data, a, b)
#define SH_SCOPE static inline
#define SH_STORE_HASH
#define SH_GET_HASH(tb, a) (a)->hash
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/*
 * Begin to collect changes of a count.  What is collected lives in the current memory
 * context.  "lock" is called with "lock_arg" before the first change is written.
 */
void
poser_count_begin_changes(CountChanges *changes, const PoserCount *count, PoserCountLock lock, void *lock_arg)
{
	memset(changes, 0, sizeof(CountChanges));
	changes->count = count;
	changes->lock = lock;
	changes->lock_arg = lock_arg;
	changes->home = CurrentMemoryContext;
}

/*
 * Make the hash table.  Its changes have a context of a kind that adds little to each piece of
 * memory.  So more keys fit into the limit.
 */
static void
make_hash(CountChanges *changes)
{
	changes->hash = changes_create(changes->context, 16, (void *) changes->count);
	changes->made = GenerationContextCreate(changes->context, "poser changes of keys", 0, ALLOCSET_DEFAULT_INITSIZE, MAX_BLOCK_SIZE);
}

/* Empty the hash table. */
static void
clear_hash(CountChanges *changes)
{
	MemoryContextReset(changes->context);
	make_hash(changes);
}

/* Returns the amounts of a change that make_change() has made. */
static inline PoserAmount *
amounts_of(const PoserCount *count, const Datum *change)
{
	return (PoserAmount *) ((char *) change + MAXALIGN(count->nkeys * sizeof(Datum)));
}

/*
 * Returns a change of zero, with a copy of the keys, in the current memory context.  It is
 * one piece of memory, because there can be very many: the keys, then the amounts, then the
 * values of keys that are passed by reference.
 */
static Datum *
make_change(const PoserCount *count, const Datum *keys)
{
	Size start = MAXALIGN(count->nkeys * sizeof(Datum)) + MAXALIGN(poser_amounts_size(count));
	Size size = start;
	Datum *result;
	char *end;

	for (int i = 0; i < count->nkeys; i++)
		if (!count->keys[i].byvalue)
			size = MAXALIGN(size) + datumGetSize(keys[i], false, count->keys[i].length);
	result = palloc(size);
	(void) poser_amounts_place(count, amounts_of(count, result));
	end = (char *) result + start;
	for (int i = 0; i < count->nkeys; i++)
	{
		Size length;

		result[i] = keys[i];
		if (count->keys[i].byvalue)
			continue;
		length = datumGetSize(keys[i], false, count->keys[i].length);
		end = (char *) MAXALIGN(end);
		memcpy(end, DatumGetPointer(keys[i]), length);
		result[i] = PointerGetDatum(end);
		end += length;
	}
	return result;
}

/* Add a change to the hash table. */
static void
add_to_hash(CountChanges *changes, const Datum *keys, const PoserAmount *amounts, int sign)
{
	MemoryContext old = MemoryContextSwitchTo(changes->made);
	bool found;
	Change *change = changes_insert(changes->hash, keys, &found);

	if (!found)
		change->keys = make_change(changes->count, keys);
	MemoryContextSwitchTo(changes->context);
	poser_amounts_add(changes->count, amounts_of(changes->count, change->keys), amounts, sign);
	MemoryContextSwitchTo(old);
}

/* Make the sort.  It orders by the hash value only, so a key's type needs no order. */
static void
begin_sort(CountChanges *changes)
{
	const PoserCount *count = changes->count;
	AttrNumber attno = SORT_HASH;
	Oid lt = Int4LessOperator;
	Oid collation = InvalidOid;
	bool nulls_first = false;
	TupleDesc desc = CreateTemplateTupleDesc(1 + count->nkeys + count->namounts);
	MemoryContext old = MemoryContextSwitchTo(changes->home);

	TupleDescInitEntry(desc, SORT_HASH, "hash", INT4OID, -1, 0);
	for (int i = 0; i < count->nkeys; i++)
		TupleDescInitEntry(desc, SORT_HASH + 1 + i, NULL, count->keys[i].type, -1, 0);
	for (int i = 0; i < count->namounts; i++)
		TupleDescInitEntry(desc, SORT_HASH + 1 + count->nkeys + i, NULL, count->numeric[i] ? NUMERICOID : INT8OID, -1, 0);
	TupleDescFinalize(desc);
	changes->slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	changes->sort = tuplesort_begin_heap(desc, 1, &attno, &lt, &collation, &nulls_first,
										 work_mem, NULL, TUPLESORT_NONE);
	changes->amounts = poser_amounts_make(count);
	changes->reading = AllocSetContextCreate(changes->home, "poser sorted changes", ALLOCSET_SMALL_SIZES);
	MemoryContextSwitchTo(old);
}

/* Move the content of the hash table to the sort. */
static void
move_to_sort(CountChanges *changes)
{
	const PoserCount *count = changes->count;
	TupleTableSlot *slot;
	changes_iterator it;
	Change *change;
	MemoryContext old;

	if (changes->sort == NULL)
		begin_sort(changes);
	slot = MakeSingleTupleTableSlot(changes->slot->tts_tupleDescriptor, &TTSOpsVirtual);
	old = MemoryContextSwitchTo(changes->reading);
	memset(slot->tts_isnull, 0, slot->tts_tupleDescriptor->natts * sizeof(bool));
	changes_start_iterate(changes->hash, &it);
	while ((change = changes_iterate(changes->hash, &it)) != NULL)
	{
		Datum *values = slot->tts_values;

		CHECK_FOR_INTERRUPTS();
		if (poser_amounts_are_zero(count, amounts_of(count, change->keys)))
			continue;
		ExecClearTuple(slot);
		*values++ = Int32GetDatum((int32) change->hash);
		for (int i = 0; i < count->nkeys; i++)
			*values++ = change->keys[i];
		for (int i = 0; i < count->namounts; i++)
			*values++ = poser_amount_get_datum(count, amounts_of(count, change->keys), i);
		ExecStoreVirtualTuple(slot);
		tuplesort_puttupleslot(changes->sort, slot);
		MemoryContextReset(changes->reading);
	}
	MemoryContextSwitchTo(old);
	ExecDropSingleTupleTableSlot(slot);
	clear_hash(changes);
}

/* Make the hash table, with the first key's change. */
static void
begin_hash(CountChanges *changes)
{
	changes->context = AllocSetContextCreate(changes->home, "poser changes", 0, ALLOCSET_DEFAULT_INITSIZE, MAX_BLOCK_SIZE);
	make_hash(changes);
	changes->limit = get_hash_memory_limit();
	add_to_hash(changes, changes->first, amounts_of(changes->count, changes->first), 1);
}

/* Add a change of one key that is not in the hash table.  Returns false, and does nothing, if it needs that table. */
static bool
add_to_first(CountChanges *changes, const Datum *keys, const PoserAmount *amounts, int sign)
{
	MemoryContext old;

	if (changes->first != NULL && !equal_count_keys(changes->count, changes->first, keys))
		return false;
	old = MemoryContextSwitchTo(changes->home);
	if (changes->first == NULL)
		changes->first = make_change(changes->count, keys);
	poser_amounts_add(changes->count, amounts_of(changes->count, changes->first), amounts, sign);
	MemoryContextSwitchTo(old);
	return true;
}

/*
 * Add a change, or take it away: "sign" is 1 or -1.  No key is null, and none is compressed,
 * see detoast_count_key().  Keys and amounts are copied, so they can be in a memory context
 * that is reset for each row.
 */
void
poser_count_add_change(CountChanges *changes, const Datum *keys, const PoserAmount *amounts, int sign)
{
	/* without a hash table, as long as all changes are of the first key */
	if (changes->hash == NULL)
	{
		if (add_to_first(changes, keys, amounts, sign))
			return;
		begin_hash(changes);
	}

	add_to_hash(changes, keys, amounts, sign);
	if (MemoryContextMemAllocated(changes->context, true) > changes->limit)
		move_to_sort(changes);
}

/*
 * Lock the count, and open it for writing.  This is done only if there is a change.  So a
 * statement that changes no count takes no lock on the tables of the count.  Returns false if
 * the count is not kept any more.
 */
static bool
open_locked(CountChanges *changes, CountWriter *writer)
{
	const PoserCount *count = changes->lock(changes->lock_arg);

	if (count == NULL)
		return false;
	/* the statement's lock on the child does not let this happen */
	if (count->nkeys != changes->count->nkeys || count->namounts != changes->count->namounts ||
		memcmp(count->numeric, changes->count->numeric, count->namounts * sizeof(bool)) != 0)
		elog(ERROR, "a count was changed while it was not locked");
	poser_count_open(writer, count);
	return true;
}

/* Write the first key's change. */
static void
write_first(CountChanges *changes)
{
	const Datum *first = changes->first;
	CountWriter writer;

	if (first == NULL || poser_amounts_are_zero(changes->count, amounts_of(changes->count, first)))
		return;
	if (!open_locked(changes, &writer))
		return;
	poser_count_change(&writer, first, hash_count_keys(changes->count, first), amounts_of(changes->count, first));
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
		if (poser_amounts_are_zero(changes->count, amounts_of(changes->count, change->keys)))
			continue;
		if (!opened && !open_locked(changes, &writer))
			return;
		opened = true;
		poser_count_change(&writer, change->keys, change->hash, amounts_of(changes->count, change->keys));
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
	const PoserCount *count = changes->count;
	TupleTableSlot *slot = changes->slot;
	int32 last_hash = 0;

	move_to_sort(changes);
	tuplesort_performsort(changes->sort);
	while (tuplesort_gettupleslot(changes->sort, true, false, slot, NULL))
	{
		const Datum *values = slot->tts_values;
		MemoryContext old;
		int32 hash;

		CHECK_FOR_INTERRUPTS();
		slot_getallattrs(slot);
		hash = DatumGetInt32(values[SORT_HASH - 1]);

		/* A batch ends only where the hash value changes, so that all changes of a key are in one batch. */
		if (changes->hash->members >= SORTED_BATCH && hash != last_hash)
		{
			write_hash(changes);
			clear_hash(changes);
		}
		last_hash = hash;

		old = MemoryContextSwitchTo(changes->reading);
		poser_amounts_clear(count, changes->amounts);
		for (int i = 0; i < count->namounts; i++)
			poser_amount_add_datum(count, changes->amounts, i, values[SORT_HASH + count->nkeys + i], false);
		MemoryContextSwitchTo(old);
		add_to_hash(changes, &values[SORT_HASH], changes->amounts, 1);
		MemoryContextReset(changes->reading);
	}
	tuplesort_end(changes->sort);
	ExecDropSingleTupleTableSlot(slot);
	MemoryContextDelete(changes->reading);
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
