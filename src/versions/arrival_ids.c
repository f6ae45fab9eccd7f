/*
 * arrival_ids.c
 *	  Which transactions have been recorded here, and which have arrived from elsewhere.
 *
 * poser_arrival has the ids of the transactions that have arrived, as ranges.  The ids in
 * a gap of a range are those of transactions that are not there.  So a range is extended
 * over a gap only if no transaction in the gap was recorded, and an id that is given later
 * is greater than all ranges, see change_id.c.  After a whole dump has been restored there
 * is usually one range.
 *
 * The invariant: a row of poser_transaction was recorded here if and only if its id is in
 * no range.  Ranges do not overlap.
 *
 * A statement collects the ids that it inserts in a range in memory, and saves it when it
 * ends, or when an id comes that cannot be added.  Only one session at a time inserts
 * history, and none records changes meanwhile, see arrival.c.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "versions/arrival_internal.h"

/* The columns of poser_arrival. */
#define ARRIVAL_FIRST 1
#define ARRIVAL_LAST 2
#define ARRIVAL_NATTS 2

/* Open poser_transaction and poser_arrival for look-ups.  Their locks are held already. */
void
poser_arrival_open_ids(PoserArrival *arrival)
{
	MemoryContext old;
	AttrNumber first = ARRIVAL_FIRST;
	TupleDesc desc;
	Oid indexid;
	bool immediate;

	if (arrival->transactions != NULL)
		return;
	old = MemoryContextSwitchTo(arrival->context);
	arrival->arrivals = table_open(arrival->versioned->arrivals, RowExclusiveLock);
	desc = RelationGetDescr(arrival->arrivals);
	indexid = poser_unique_index(arrival->arrivals, 1, &first, &immediate);
	if (desc->natts != ARRIVAL_NATTS || !OidIsValid(indexid) ||
		TupleDescAttr(desc, ARRIVAL_FIRST - 1)->atttypid != INT8OID ||
		TupleDescAttr(desc, ARRIVAL_LAST - 1)->atttypid != INT8OID)
		poser_structure_error(arrival->arrivals);
	poser_lookup_open(&arrival->range, arrival->arrivals, indexid, 1);
	poser_direct_open(&arrival->direct_arrivals, arrival->versioned->arrivals);

	arrival->transactions = table_open(arrival->versioned->transactions, RowExclusiveLock);
	poser_lookup_open(&arrival->transaction, arrival->transactions,
					  poser_transaction_id_index(arrival->transactions), 1);
	MemoryContextSwitchTo(old);
}

/* Close them. */
void
poser_arrival_close_ids(PoserArrival *arrival)
{
	if (arrival->transactions == NULL)
		return;
	poser_lookup_close(&arrival->range);
	poser_lookup_close(&arrival->transaction);
	poser_direct_close(&arrival->direct_arrivals);
	if (arrival->writes)
		poser_direct_close(&arrival->direct);
	table_close(arrival->arrivals, NoLock);
	table_close(arrival->transactions, NoLock);
	arrival->transactions = NULL;
}

/* Get the first transaction with this id or a greater one into arrival->transaction.slot.  Returns its id in *found, or false if there is none. */
static bool
next_transaction(PoserArrival *arrival, int64 id, int64 *found)
{
	Datum value = Int64GetDatum(id);
	bool isnull;

	poser_arrival_open_ids(arrival);
	poser_lookup_begin(&arrival->transaction, BTGreaterEqualStrategyNumber, &value, NULL);
	if (!poser_lookup_next(&arrival->transaction, ForwardScanDirection))
		return false;
	*found = DatumGetInt64(slot_getattr(arrival->transaction.slot, poser_own_column(arrival->transactions, "id", INT8OID), &isnull));
	return true;
}

/* Get the transaction with this id into arrival->transaction.slot; returns false if there is none. */
bool
poser_arrival_find_transaction(PoserArrival *arrival, int64 id)
{
	Datum value = Int64GetDatum(id);

	poser_arrival_open_ids(arrival);
	poser_lookup_begin(&arrival->transaction, BTEqualStrategyNumber, &value, NULL);
	return poser_lookup_next(&arrival->transaction, ForwardScanDirection);
}

/* Get a range into arrival->range.slot, and read it. */
static bool
next_range(PoserArrival *arrival, StrategyNumber strategy, int64 id, int64 *first, int64 *last)
{
	Datum value = Int64GetDatum(id);
	bool isnull;

	poser_arrival_open_ids(arrival);
	poser_lookup_begin(&arrival->range, strategy, &value, NULL);
	if (!poser_lookup_next(&arrival->range,
						   strategy == BTLessEqualStrategyNumber ? BackwardScanDirection : ForwardScanDirection))
		return false;
	*first = DatumGetInt64(slot_getattr(arrival->range.slot, ARRIVAL_FIRST, &isnull));
	*last = DatumGetInt64(slot_getattr(arrival->range.slot, ARRIVAL_LAST, &isnull));
	return true;
}

/* Is the id in a range of ids that have arrived?  If so, *last is the range's last id. */
bool
poser_arrival_in_range(PoserArrival *arrival, int64 id, int64 *last)
{
	int64 first;

	if (id >= arrival->noted_first && id <= arrival->noted_last)
	{
		*last = arrival->noted_last;
		return true;
	}
	if (id < arrival->range_first || id > arrival->range_last)
	{
		if (!next_range(arrival, BTLessEqualStrategyNumber, id, &first, last) || *last < id)
			return false;
		arrival->range_first = first;
		arrival->range_last = *last;
	}
	*last = arrival->range_last;
	return true;
}

/* Was the transaction with this id recorded here?  Returns false if there is none. */
bool
poser_arrival_is_recorded(PoserArrival *arrival, int64 id)
{
	int64 last;

	if (!arrival->known || arrival->known_id != id)
	{
		arrival->known_recorded = !poser_arrival_in_range(arrival, id, &last) &&
								  poser_arrival_find_transaction(arrival, id);
		arrival->known_id = id;
		arrival->known = true;
	}
	return arrival->known_recorded;
}

/* Find the first transaction from this id on, up to "last", that was recorded here.  Returns false if there is none. */
bool
poser_arrival_next_recorded(PoserArrival *arrival, int64 id, int64 last, int64 *found)
{
	int64 range_last;

	while (id <= last && next_transaction(arrival, id, found) && *found <= last)
	{
		CHECK_FOR_INTERRUPTS();
		if (!poser_arrival_in_range(arrival, *found, &range_last))
			return true;
		id = range_last + 1;
	}
	return false;
}

/* Was a transaction recorded here whose id is between these two? */
static bool
are_recorded_between(PoserArrival *arrival, int64 after, int64 before)
{
	int64 id;

	return poser_arrival_next_recorded(arrival, after + 1, Min(before - 1, arrival->in_use), &id);
}

/* Write a range: in place of the one in arrival->range.slot with "replace", otherwise a new one. */
static void
write_range(PoserArrival *arrival, bool replace, int64 first, int64 last)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(arrival->arrivals), &TTSOpsVirtual);
	TU_UpdateIndexes update_indexes = TU_None;

	slot->tts_values[ARRIVAL_FIRST - 1] = Int64GetDatum(first);
	slot->tts_values[ARRIVAL_LAST - 1] = Int64GetDatum(last);
	slot->tts_isnull[ARRIVAL_FIRST - 1] = slot->tts_isnull[ARRIVAL_LAST - 1] = false;
	ExecStoreVirtualTuple(slot);
	if (replace)
	{
		TM_FailureData failure;
		LockTupleMode lockmode;

		if (table_tuple_update(arrival->arrivals, &arrival->range.slot->tts_tid, slot, GetCurrentCommandId(true), 0,
							   SnapshotSelf, InvalidSnapshot, true, &failure, &lockmode, &update_indexes) != TM_Ok)
			elog(ERROR, "range of transactions was updated concurrently");
		/* no indexed column changes, so a summarizing index that somebody has made is all that could need an entry */
		if (update_indexes != TU_None)
			(void) poser_direct_insert_index_entries(&arrival->direct_arrivals, slot,
													 EIIT_IS_UPDATE | (UPDATES_ONLY_SUMMARIZING(update_indexes) ? EIIT_ONLY_SUMMARIZING : 0));
	}
	else
	{
		table_tuple_insert(arrival->arrivals, slot, GetCurrentCommandId(true), 0, NULL);
		(void) poser_direct_insert_index_entries(&arrival->direct_arrivals, slot, 0);
	}
	ExecDropSingleTupleTableSlot(slot);
}

/* Save the range of this statement's ids, joined with the ranges beside it. */
void
poser_arrival_save_range(PoserArrival *arrival)
{
	int64 first = arrival->noted_first;
	int64 last = arrival->noted_last;
	bool has_before;
	int64 before_first;
	int64 before_last;
	int64 other_first;
	int64 other_last;
	MemoryContext old;

	if (first > last)
		return;
	old = MemoryContextSwitchTo(arrival->context);
	/* a range that an earlier command of this transaction has written can be replaced */
	CommandCounterIncrement();

	/* the range before it is extended, if possible */
	has_before = next_range(arrival, BTLessEqualStrategyNumber, first, &before_first, &before_last) &&
				 (before_last >= first || !are_recorded_between(arrival, before_last, first));
	if (has_before)
	{
		first = before_first;
		last = Max(last, before_last);
	}

	/* those after it become part of it */
	while (next_range(arrival, BTGreaterStrategyNumber, first, &other_first, &other_last) &&
		   (other_first <= last || !are_recorded_between(arrival, last, other_first)))
	{
		CHECK_FOR_INTERRUPTS();
		last = Max(last, other_last);
		(void) next_range(arrival, BTGreaterStrategyNumber, first, &other_first, &other_last);
		if (!poser_direct_delete(arrival->arrivals, &arrival->range.slot->tts_tid))
			elog(ERROR, "range of transactions was deleted concurrently");
	}

	/* are_recorded_between() may have looked at other ranges */
	if (!has_before)
		write_range(arrival, false, first, last);
	else if (last > before_last)
	{
		(void) next_range(arrival, BTLessEqualStrategyNumber, first, &other_first, &other_last);
		write_range(arrival, true, first, last);
	}

	arrival->noted_first = arrival->range_first = 1;
	arrival->noted_last = arrival->range_last = 0;
	MemoryContextSwitchTo(old);
}

/* The statement inserts a transaction with this id. */
void
poser_arrival_note(PoserArrival *arrival, int64 id)
{
	int64 first = arrival->noted_first;
	int64 last = arrival->noted_last;

	arrival->known = false;
	if (first <= last && id >= first && id <= last)
		return;
	if (first <= last && id > last && !are_recorded_between(arrival, last, id))
		arrival->noted_last = id;
	else if (first <= last && id < first && !are_recorded_between(arrival, id, first))
		arrival->noted_first = id;
	else
	{
		poser_arrival_save_range(arrival);
		arrival->noted_first = arrival->noted_last = id;
	}
}
