/*
 * count_trigger.c
 *	  The triggers that count.
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
#include "versions/versions.h"

PG_FUNCTION_INFO_V1(poser_count_child);
PG_FUNCTION_INFO_V1(poser_count_parent);

/* Rows of a transition table. */
typedef struct Source
{
	Tuplestorestate *store;
	TupleTableSlot *slot;
	const PoserCountTrigger *trigger;
	Datum key;
	bool active;
} Source;

static bool
open_source(Source *source, Tuplestorestate *store, TriggerData *trigdata,
			const PoserCountTrigger *trigger)
{
	source->store = store;
	source->trigger = trigger;
	source->slot = NULL;
	if (store == NULL)
		return false;
	/* other triggers may have read it */
	tuplestore_select_read_pointer(store, 0);
	tuplestore_rescan(store);
	source->slot = MakeSingleTupleTableSlot(RelationGetDescr(trigdata->tg_relation),
											&TTSOpsMinimalTuple);
	return true;
}

static void
close_source(Source *source)
{
	if (source->slot != NULL)
		ExecDropSingleTupleTableSlot(source->slot);
}

/* Read the row in the slot; false if it has no parent. */
static bool
read_source_row(Source *source)
{
	bool isnull;

	source->key = slot_getattr(source->slot, source->trigger->key, &isnull);
	if (isnull)
		return false;
	if (source->trigger->count.keylen == -1)
		source->key = PointerGetDatum(PG_DETOAST_DATUM_PACKED(source->key));
	source->active = false;
	if (source->trigger->flag != 0)
	{
		Datum flag = slot_getattr(source->slot, source->trigger->flag, &isnull);

		source->active = !isnull && DatumGetBool(flag);
	}
	return true;
}

/* The next row that refers to a parent; the key lives until the one after. */
static bool
next_source_row(Source *source)
{
	if (source->slot == NULL)
		return false;
	while (tuplestore_gettupleslot(source->store, true, false, source->slot))
	{
		CHECK_FOR_INTERRUPTS();
		if (read_source_row(source))
			return true;
	}
	ExecDropSingleTupleTableSlot(source->slot);
	source->slot = NULL;
	return false;
}

/* Count one row, "sign" being 1 or -1. */
static void
count_row(Changes *changes, const Source *source, int sign)
{
	poser_count_add_change(changes, source->key, (Tally) {sign, source->active ? sign : 0});
	if (MemoryContextMemAllocated(changes->context, false) > changes->limit)
		poser_count_spill_changes(changes);
}

/*
 * Add up a statement's transition tables and apply the sums.
 *
 * The two tables of an UPDATE are read side by side: most often a row's old
 * and new version stand at the same place and count alike.  Rows that do
 * cancel out, whether they belong together or not.
 */
static void
count_statement(TriggerData *trigdata, const PoserCountTrigger *trigger)
{
	Changes changes;
	Source olds;
	Source news;
	bool has_old;
	bool has_new;

	has_old = open_source(&olds, trigdata->tg_oldtable, trigdata, trigger);
	has_new = open_source(&news, trigdata->tg_newtable, trigdata, trigger);
	if ((TRIGGER_FIRED_BY_INSERT(trigdata->tg_event) && !has_new) ||
		(TRIGGER_FIRED_BY_DELETE(trigdata->tg_event) && !has_old) ||
		(TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event) && !(has_old && has_new)))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" must have transition tables",
						trigdata->tg_trigger->tgname)));

	poser_count_begin_changes(&changes, trigdata, &trigger->count);
	do
	{
		has_old = next_source_row(&olds);
		has_new = next_source_row(&news);
		if (has_old && has_new && olds.active == news.active &&
			equal_keys(&trigger->count, olds.key, news.key))
			continue;
		if (has_old)
			count_row(&changes, &olds, -1);
		if (has_new)
			count_row(&changes, &news, 1);
	} while (has_old || has_new);
	poser_count_apply_changes(&changes);
	close_source(&olds);
	close_source(&news);
}

/*
 * Add what the table holds to counts that are zero.  Nobody else has it open.
 */
static void
count_table(TriggerData *trigdata, const PoserCountTrigger *trigger)
{
	Relation rel = trigdata->tg_relation;
	Changes changes;
	Source source = {.trigger = trigger, .slot = table_slot_create(rel, NULL)};
	TableScanDesc scan = table_beginscan(rel, SnapshotSelf, 0, NULL, SO_NONE);

	poser_count_begin_changes(&changes, trigdata, &trigger->count);
	while (table_scan_getnextslot(scan, ForwardScanDirection, source.slot))
	{
		CHECK_FOR_INTERRUPTS();
		if (read_source_row(&source))
			count_row(&changes, &source, 1);
	}
	table_endscan(scan);
	poser_count_apply_changes(&changes);
	ExecDropSingleTupleTableSlot(source.slot);
}

/*
 * poser_count_child(counts, deltas, key column, flag column) on the child,
 * for each statement of every kind, before and after.
 */
Datum
poser_count_child(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = poser_check_trigger(fcinfo);
	TriggerEvent event = trigdata->tg_event;
	const PoserCountTrigger *trigger;

	if (!TRIGGER_FIRED_FOR_STATEMENT(event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" must fire for each statement",
						trigdata->tg_trigger->tgname)));
	trigger = poser_count_trigger(trigdata, fcinfo->flinfo->fn_oid);

	if (TRIGGER_FIRED_BEFORE(event))
	{
		if (TRIGGER_FIRED_BY_INSERT(event))
			poser_restore_wait(trigdata->tg_relation);
		poser_count_begin_statement(trigdata);
	}
	else if (!TRIGGER_FIRED_BY_TRUNCATE(event))
		count_statement(trigdata, trigger);

	/*
	 * Before, so that the parent's trigger finds zeros; and after, for what
	 * other triggers have written in between, which may have gone or be there.
	 */
	if (TRIGGER_FIRED_BY_TRUNCATE(event))
	{
		CountWriter writer;

		poser_count_open(&writer, poser_count_locked(trigdata));
		poser_count_reset_all(&writer);
		poser_count_close(&writer);
		if (TRIGGER_FIRED_AFTER(event))
			count_table(trigdata, trigger);
	}

	if (TRIGGER_FIRED_AFTER(event))
		poser_count_end_statement(trigdata);
	return PointerGetDatum(NULL);
}

/* Is there a parent with this key?  The slot is for its row. */
static bool
parent_exists(Relation rel, const PoserCountTrigger *trigger, Datum key, TupleTableSlot *slot)
{
	bool found;

	return poser_fetch_row(rel, 1, &trigger->key, &key, slot, &found) && found;
}

/*
 * Of parents that a statement has deleted, other triggers may have made some
 * again before this one came, and their counts are gone with the old ones'.
 */
static void
begin_again(TriggerData *trigdata, const PoserCountTrigger *trigger)
{
	TupleTableSlot *slot = table_slot_create(trigdata->tg_relation, NULL);
	CountWriter writer;
	bool opened = false;
	Source source;

	open_source(&source, trigdata->tg_oldtable, trigdata, trigger);
	while (next_source_row(&source))
	{
		if (!parent_exists(trigdata->tg_relation, trigger, source.key, slot))
			continue;
		if (!opened)
			poser_count_open(&writer, poser_count_locked(trigdata));
		opened = true;
		poser_count_begin(&writer, source.key);
	}
	if (opened)
		poser_count_close(&writer);
	close_source(&source);
	ExecDropSingleTupleTableSlot(slot);
}

/*
 * The same after TRUNCATE.
 */
static void
begin_all_counts(CountWriter *writer, Relation rel, const PoserCountTrigger *trigger)
{
	Source source = {.trigger = trigger, .slot = table_slot_create(rel, NULL)};
	TableScanDesc scan = table_beginscan(rel, SnapshotSelf, 0, NULL, SO_NONE);

	while (table_scan_getnextslot(scan, ForwardScanDirection, source.slot))
	{
		CHECK_FOR_INTERRUPTS();
		if (read_source_row(&source))
			poser_count_begin(writer, source.key);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(source.slot);
}

/*
 * The keys of parents that a statement has made or deleted.
 */
static void
count_parents(TriggerData *trigdata, const PoserCountTrigger *trigger)
{
	bool inserted = TRIGGER_FIRED_BY_INSERT(trigdata->tg_event);
	CountWriter writer;
	Source source;

	if (!open_source(&source, inserted ? trigdata->tg_newtable : trigdata->tg_oldtable,
					 trigdata, trigger))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" must have transition tables",
						trigdata->tg_trigger->tgname)));

	poser_count_open(&writer, poser_count_locked(trigdata));
	while (next_source_row(&source))
	{
		if (inserted)
			poser_count_begin(&writer, source.key);
		else
			poser_count_end(&writer, source.key);
	}
	poser_count_close(&writer);
	close_source(&source);
	if (!inserted)
		begin_again(trigdata, trigger);
}

/*
 * poser_count_parent(counts, deltas, key column) on the parent: after each
 * statement of every kind, before those that make or rename parents, and after
 * each row whose key is updated.
 */
Datum
poser_count_parent(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = poser_check_trigger(fcinfo);
	TriggerEvent event = trigdata->tg_event;
	const PoserCountTrigger *trigger = poser_count_trigger(trigdata, fcinfo->flinfo->fn_oid);
	CountWriter writer;

	if (TRIGGER_FIRED_FOR_ROW(event))
	{
		TupleTableSlot *slot = table_slot_create(trigdata->tg_relation, NULL);
		Datum key;
		bool isnull;

		if (!TRIGGER_FIRED_AFTER(event) || !TRIGGER_FIRED_BY_UPDATE(event))
			ereport(ERROR,
					(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
					 errmsg("trigger \"%s\" must fire for each statement or after each row of UPDATE",
							trigdata->tg_trigger->tgname)));
		poser_count_open(&writer, poser_count_locked(trigdata));
		key = slot_getattr(trigdata->tg_trigslot, trigger->key, &isnull);
		/* another row may have got the key */
		if (!isnull && !parent_exists(trigdata->tg_relation, trigger, key, slot))
			poser_count_end(&writer, key);
		key = slot_getattr(trigdata->tg_newslot, trigger->key, &isnull);
		if (!isnull)
			poser_count_begin(&writer, key);
		poser_count_close(&writer);
		ExecDropSingleTupleTableSlot(slot);
	}
	else if (TRIGGER_FIRED_BEFORE(event))
		poser_count_begin_statement(trigdata);
	else if (TRIGGER_FIRED_BY_UPDATE(event))
		poser_count_end_statement(trigdata);
	else if (TRIGGER_FIRED_BY_TRUNCATE(event))
	{
		poser_count_open(&writer, poser_count_locked(trigdata));
		poser_count_end_all(&writer);
		poser_count_close(&writer);
		poser_count_open(&writer, poser_count_locked(trigdata));
		begin_all_counts(&writer, trigdata->tg_relation, trigger);
		poser_count_close(&writer);
	}
	else
	{
		count_parents(trigdata, trigger);
		if (TRIGGER_FIRED_BY_INSERT(event))
			poser_count_end_statement(trigdata);
	}
	return PointerGetDatum(NULL);
}
