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
 * Versions can arrive before their transactions, with the id of a transaction that was
 * recorded here.  Such a transaction is awaited: its versions count as arrived, and its
 * row stays until the row arrives that belongs to them.  If none arrives, the versions were
 * those of the transaction that was recorded here: a user has taken them out of their table,
 * and has put them back.
 *
 * The invariant: a row of poser_transaction was recorded here, and is not awaited, if and
 * only if its id is in no range.  Ranges do not overlap.
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
#define ARRIVAL_AWAITED 3
#define ARRIVAL_NATTS 3

/* How often this session has changed poser_arrival. */
static uint64 range_changes = 0;

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
		TupleDescAttr(desc, ARRIVAL_LAST - 1)->atttypid != INT8OID ||
		TupleDescAttr(desc, ARRIVAL_AWAITED - 1)->atttypid != BOOLOID)
		poser_structure_error(arrival->arrivals);
	poser_lookup_open(&arrival->range, arrival->arrivals, indexid, 1);
	poser_direct_open(&arrival->direct_arrivals, arrival->versioned->arrivals, RowExclusiveLock);

	arrival->transactions = table_open(arrival->versioned->transactions, RowExclusiveLock);
	indexid = poser_transaction_id_index(arrival->transactions);
	poser_lookup_open(&arrival->transaction, arrival->transactions, indexid, 1);
	poser_lookup_open(&arrival->reader, arrival->transactions, indexid, 1);
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
	poser_lookup_close(&arrival->reader);
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

/* Get a range into arrival->range.slot, and read it.  The strategy says how its first id compares with "id". */
static bool
next_range(PoserArrival *arrival, StrategyNumber strategy, int64 id, PoserArrivalRange *range)
{
	Datum value = Int64GetDatum(id);
	bool isnull;

	poser_arrival_open_ids(arrival);
	poser_lookup_begin(&arrival->range, strategy, &value, NULL);
	if (!poser_lookup_next(&arrival->range,
						   strategy == BTLessEqualStrategyNumber ? BackwardScanDirection : ForwardScanDirection))
		return false;
	range->first = DatumGetInt64(slot_getattr(arrival->range.slot, ARRIVAL_FIRST, &isnull));
	range->last = DatumGetInt64(slot_getattr(arrival->range.slot, ARRIVAL_LAST, &isnull));
	range->awaited = DatumGetBool(slot_getattr(arrival->range.slot, ARRIVAL_AWAITED, &isnull));
	return true;
}

static bool
has_id(const PoserArrivalRange *range, int64 id)
{
	return id >= range->first && id <= range->last;
}

/* Look for the saved range that has this id, unless known_range or known_gap has it. */
static void
look_for_range(PoserArrival *arrival, int64 id)
{
	PoserArrivalRange range;

	/* another statement can have changed the ranges, for instance one in a user's trigger */
	if (arrival->known_changes != range_changes)
		arrival->known_range = arrival->known_gap = EMPTY_RANGE;
	arrival->known_changes = range_changes;
	if (has_id(&arrival->known_range, id) || has_id(&arrival->known_gap, id))
		return;

	arrival->known_gap = (PoserArrivalRange) {PG_INT64_MIN, PG_INT64_MAX, false};
	if (next_range(arrival, BTLessEqualStrategyNumber, id, &range))
	{
		if (has_id(&range, id))
		{
			arrival->known_range = range;
			arrival->known_gap = EMPTY_RANGE;
			return;
		}
		arrival->known_gap.first = range.last + 1;
	}
	if (next_range(arrival, BTGreaterStrategyNumber, id, &range))
		arrival->known_gap.last = range.first - 1;
}

/* Find the range that has this id; returns false if there is none. */
static bool
find_range(PoserArrival *arrival, int64 id, PoserArrivalRange *range)
{
	if (has_id(&arrival->noted, id))
		*range = arrival->noted;
	else if (has_id(&arrival->awaiting, id))
		*range = arrival->awaiting;
	else
	{
		look_for_range(arrival, id);
		if (!has_id(&arrival->known_range, id))
			return false;
		*range = arrival->known_range;
	}
	return true;
}

/* Has the transaction with this id arrived? */
bool
poser_arrival_has_arrived(PoserArrival *arrival, int64 id)
{
	PoserArrivalRange range;

	return find_range(arrival, id, &range) && !range.awaited && poser_arrival_find_transaction(arrival, id);
}

/* Is the transaction with this id awaited? */
bool
poser_arrival_is_awaited(PoserArrival *arrival, int64 id)
{
	PoserArrivalRange range;

	return find_range(arrival, id, &range) && range.awaited;
}

/* Was the transaction with this id recorded here?  Returns false if there is none. */
bool
poser_arrival_is_recorded(PoserArrival *arrival, int64 id)
{
	PoserArrivalRange range;

	if (!arrival->known || arrival->known_id != id)
	{
		arrival->known_recorded = !find_range(arrival, id, &range) &&
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
	PoserArrivalRange range;

	while (id <= last && next_transaction(arrival, id, found) && *found <= last)
	{
		CHECK_FOR_INTERRUPTS();
		if (!find_range(arrival, *found, &range))
			return true;
		id = range.last + 1;
	}
	return false;
}

/* Go to a transaction with this id or a greater one. */
static void
read_from(PoserArrival *arrival, int64 id)
{
	Datum value = Int64GetDatum(id);

	poser_lookup_begin(&arrival->reader, BTGreaterEqualStrategyNumber, &value, NULL);
}

/*
 * Begin to read all transactions that were recorded here, in the order of their ids.  This
 * is cheaper than a look-up for each, but does not see those that are inserted meanwhile.
 */
void
poser_arrival_read_recorded(PoserArrival *arrival)
{
	poser_arrival_open_ids(arrival);
	read_from(arrival, PG_INT64_MIN);
}

/* Read the next one, up to "last".  Returns false if there is none. */
bool
poser_arrival_read_next(PoserArrival *arrival, int64 last, int64 *found)
{
	AttrNumber column = poser_own_column(arrival->transactions, "id", INT8OID);

	while (poser_lookup_next(&arrival->reader, ForwardScanDirection))
	{
		PoserArrivalRange range;
		bool isnull;

		CHECK_FOR_INTERRUPTS();
		*found = DatumGetInt64(slot_getattr(arrival->reader.slot, column, &isnull));
		if (*found > last)
			return false;
		if (!find_range(arrival, *found, &range))
			return true;
		read_from(arrival, range.last + 1);
	}
	return false;
}

/* Can a range be extended from one of these ids to the other?  Is there no other range between them, and no transaction that was recorded here? */
static bool
are_neighbours(PoserArrival *arrival, int64 first, int64 last)
{
	PoserArrivalRange range;
	int64 id;

	return !(next_range(arrival, BTGreaterStrategyNumber, first, &range) && range.first < last) &&
		   !poser_arrival_next_recorded(arrival, first + 1, Min(last - 1, arrival->in_use), &id);
}

/*
 * Can the range in memory be extended from one of these ids to the other?  An awaited id
 * that has arrived just now is still in the ranges of awaited ones.
 */
static bool
may_extend(PoserArrival *arrival, int64 first, int64 last)
{
	PoserArrivalRange range;
	int64 id = first;

	/* are there transactions between them that are there, but have not arrived with this statement? */
	while (id + 1 < last && id < arrival->in_use && next_transaction(arrival, id + 1, &id) && id < last)
	{
		CHECK_FOR_INTERRUPTS();
		if (!find_range(arrival, id, &range) || range.awaited)
			return false;
		id = Min(range.last, last - 1);
	}
	return true;
}

/* Write a range: in place of the one in arrival->range.slot with "replace", otherwise a new one. */
static void
write_range(PoserArrival *arrival, bool replace, int64 first, int64 last, bool awaited)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(arrival->arrivals), &TTSOpsVirtual);
	TU_UpdateIndexes update_indexes = TU_None;

	range_changes++;
	slot->tts_values[ARRIVAL_FIRST - 1] = Int64GetDatum(first);
	slot->tts_values[ARRIVAL_LAST - 1] = Int64GetDatum(last);
	slot->tts_values[ARRIVAL_AWAITED - 1] = BoolGetDatum(awaited);
	memset(slot->tts_isnull, false, ARRIVAL_NATTS * sizeof(bool));
	ExecStoreVirtualTuple(slot);
	if (replace)
	{
		TM_FailureData failure;
		LockTupleMode lockmode;

		if (table_tuple_update(arrival->arrivals, &arrival->range.slot->tts_tid, slot, GetCurrentCommandId(true), 0,
							   SnapshotSelf, InvalidSnapshot, true, &failure, &lockmode, &update_indexes) != TM_Ok)
			elog(ERROR, "range of transactions was updated concurrently");
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

/* Delete the range in arrival->range.slot. */
static void
delete_range(PoserArrival *arrival)
{
	range_changes++;
	if (!poser_direct_delete(arrival->arrivals, &arrival->range.slot->tts_tid))
		elog(ERROR, "range of transactions was deleted concurrently");
}

/* Take these ids out of the ranges of awaited transactions. */
static void
stop_awaiting(PoserArrival *arrival, int64 first, int64 last)
{
	PoserArrivalRange range;

	/* a range that begins before these ids is divided */
	if (next_range(arrival, BTLessEqualStrategyNumber, first, &range) && range.awaited && range.last >= first)
	{
		if (range.first < first)
			write_range(arrival, true, range.first, first - 1, true);
		else
			delete_range(arrival);
		if (range.last > last)
			write_range(arrival, false, last + 1, range.last, true);
	}
	while (next_range(arrival, BTGreaterStrategyNumber, first, &range) && range.awaited && range.first <= last)
	{
		CHECK_FOR_INTERRUPTS();
		delete_range(arrival);
		if (range.last > last)
			write_range(arrival, false, last + 1, range.last, true);
	}
}

/*
 * Add these ids to the ranges.  They are joined with the ranges beside them that are of
 * the same kind.  No range has one of these ids, unless it is of the same kind.
 */
static void
add_range(PoserArrival *arrival, int64 first, int64 last, bool awaited)
{
	PoserArrivalRange before;
	PoserArrivalRange after;
	bool has_before;

	/* the range before it is extended, if possible */
	has_before = next_range(arrival, BTLessEqualStrategyNumber, first, &before) && before.awaited == awaited &&
				 (before.last >= first || are_neighbours(arrival, before.last, first));
	if (has_before)
	{
		first = before.first;
		last = Max(last, before.last);
	}

	/* those after it become part of it */
	while (next_range(arrival, BTGreaterStrategyNumber, first, &after) && after.awaited == awaited &&
		   (after.first <= last || are_neighbours(arrival, last, after.first)))
	{
		CHECK_FOR_INTERRUPTS();
		last = Max(last, after.last);
		/* are_neighbours() may have looked at another range */
		(void) next_range(arrival, BTGreaterStrategyNumber, first, &after);
		delete_range(arrival);
	}

	if (!has_before)
		write_range(arrival, false, first, last, awaited);
	else if (last > before.last)
	{
		(void) next_range(arrival, BTLessEqualStrategyNumber, first, &before);
		write_range(arrival, true, first, last, awaited);
	}
}

/* Save the ranges that are in memory. */
void
poser_arrival_save_ranges(PoserArrival *arrival)
{
	PoserArrivalRange noted = arrival->noted;
	PoserArrivalRange awaiting = arrival->awaiting;
	MemoryContext old = MemoryContextSwitchTo(arrival->context);

	arrival->noted = arrival->awaiting = EMPTY_RANGE;
	if (noted.first <= noted.last)
	{
		/* a range that an earlier command of this transaction has written can be replaced */
		CommandCounterIncrement();
		stop_awaiting(arrival, noted.first, noted.last);
		CommandCounterIncrement();
		add_range(arrival, noted.first, noted.last, false);
	}
	if (awaiting.first <= awaiting.last)
	{
		CommandCounterIncrement();
		add_range(arrival, awaiting.first, awaiting.last, true);
	}
	MemoryContextSwitchTo(old);
}

/* The statement inserts a transaction with this id. */
void
poser_arrival_note(PoserArrival *arrival, int64 id)
{
	PoserArrivalRange *noted = &arrival->noted;

	arrival->known = false;
	if (id >= noted->first && id <= noted->last)
		return;
	/* awaited ids between these two are in a range, so the range in memory is not extended over them */
	if (noted->first <= noted->last && id > noted->last && may_extend(arrival, noted->last, id))
		noted->last = id;
	else if (noted->first <= noted->last && id < noted->first && may_extend(arrival, id, noted->first))
		noted->first = id;
	else
	{
		poser_arrival_save_ranges(arrival);
		noted->first = noted->last = id;
	}
}

/* From now on the transaction with this id, which was recorded here, is awaited.  Called in the order of ids. */
void
poser_arrival_await(PoserArrival *arrival, int64 id)
{
	PoserArrivalRange *awaiting = &arrival->awaiting;

	arrival->known = false;
	if (awaiting->first > awaiting->last || !are_neighbours(arrival, awaiting->last, id))
	{
		poser_arrival_save_ranges(arrival);
		awaiting->first = id;
	}
	awaiting->last = id;
	awaiting->awaited = true;
	poser_transaction_forget();
}
