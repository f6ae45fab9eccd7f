/*
 * count_changes.c
 *	  What a statement changes, by key.
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

/* Keys of a sort that are changed together. */
#define SORTED_BATCH 1000

/*
 * What one statement changes, by key.
 */
typedef struct Change
{
	Datum key;
	Tally tally;
	uint32 hash;
	char status;
} Change;

#define SH_PREFIX changes
#define SH_ELEMENT_TYPE Change
#define SH_KEY_TYPE Datum
#define SH_KEY key
#define SH_HASH_KEY(tb, key) hash_key((tb)->private_data, key)
#define SH_EQUAL(tb, a, b) equal_keys((tb)->private_data, a, b)
#define SH_SCOPE static inline
#define SH_STORE_HASH
#define SH_GET_HASH(tb, a) (a)->hash
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

#define SORT_NATTS 4

void
poser_count_begin_changes(Changes *changes, TriggerData *trigdata, const PoserCount *count)
{
	changes->trigdata = trigdata;
	changes->count = count;
	changes->context = AllocSetContextCreate(CurrentMemoryContext, "poser changes",
											 ALLOCSET_DEFAULT_SIZES);
	changes->hash = changes_create(changes->context, 16, (void *) count);
	changes->limit = get_hash_memory_limit();
	changes->sort = NULL;
}

static void
forget_changes(Changes *changes)
{
	MemoryContextReset(changes->context);
	changes->hash = changes_create(changes->context, 16, (void *) changes->count);
}

/* Apply what is in the hash table. */
static void
apply_changes(Changes *changes)
{
	CountWriter writer;
	bool opened = false;
	changes_iterator it;
	Change *change;

	changes_start_iterate(changes->hash, &it);
	while ((change = changes_iterate(changes->hash, &it)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		if (is_zero(change->tally))
			continue;
		if (!opened)
			poser_count_open(&writer, poser_count_locked(changes->trigdata));
		opened = true;
		poser_count_change(&writer, change->key, change->hash, change->tally);
	}
	if (opened)
		poser_count_close(&writer);
}

/* Move what is in the hash table to the sort. */
void
poser_count_spill_changes(Changes *changes)
{
	TupleTableSlot *slot;
	changes_iterator it;
	Change *change;

	if (changes->sort == NULL)
	{
		AttrNumber attno = 1;
		Oid lt = Int4LessOperator;
		Oid collation = InvalidOid;
		bool nulls_first = false;
		TupleDesc desc = CreateTemplateTupleDesc(SORT_NATTS);

		TupleDescInitEntry(desc, 1, "hash", INT4OID, -1, 0);
		TupleDescInitEntry(desc, 2, "key", changes->count->keytype, -1, 0);
		TupleDescInitEntry(desc, 3, "total", INT8OID, -1, 0);
		TupleDescInitEntry(desc, 4, "active", INT8OID, -1, 0);
		TupleDescFinalize(desc);
		changes->slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
		changes->sort = tuplesort_begin_heap(desc, 1, &attno, &lt, &collation, &nulls_first,
											 work_mem, NULL, TUPLESORT_NONE);
	}

	slot = MakeSingleTupleTableSlot(changes->slot->tts_tupleDescriptor, &TTSOpsVirtual);
	changes_start_iterate(changes->hash, &it);
	while ((change = changes_iterate(changes->hash, &it)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		if (is_zero(change->tally))
			continue;
		ExecClearTuple(slot);
		slot->tts_values[0] = Int32GetDatum((int32) change->hash);
		slot->tts_values[1] = change->key;
		slot->tts_values[2] = Int64GetDatum(change->tally.total);
		slot->tts_values[3] = Int64GetDatum(change->tally.active);
		memset(slot->tts_isnull, 0, SORT_NATTS * sizeof(bool));
		ExecStoreVirtualTuple(slot);
		tuplesort_puttupleslot(changes->sort, slot);
	}
	ExecDropSingleTupleTableSlot(slot);
	forget_changes(changes);
}

void
poser_count_add_change(Changes *changes, Datum key, Tally tally)
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
	change->tally = add(change->tally, tally);
}

void
poser_count_apply_changes(Changes *changes)
{
	if (changes->sort != NULL)
	{
		int32 hash = 0;

		poser_count_spill_changes(changes);
		tuplesort_performsort(changes->sort);
		while (tuplesort_gettupleslot(changes->sort, true, false, changes->slot, NULL))
		{
			bool isnull;
			Tally tally;

			CHECK_FOR_INTERRUPTS();
			if (changes->hash->members >= SORTED_BATCH &&
				hash != DatumGetInt32(slot_getattr(changes->slot, 1, &isnull)))
			{
				apply_changes(changes);
				forget_changes(changes);
			}
			hash = DatumGetInt32(slot_getattr(changes->slot, 1, &isnull));
			tally.total = DatumGetInt64(slot_getattr(changes->slot, 3, &isnull));
			tally.active = DatumGetInt64(slot_getattr(changes->slot, 4, &isnull));
			poser_count_add_change(changes, slot_getattr(changes->slot, 2, &isnull), tally);
		}
		tuplesort_end(changes->sort);
		ExecDropSingleTupleTableSlot(changes->slot);
	}
	apply_changes(changes);
	MemoryContextDelete(changes->context);
}
