/*
 * count_trigger.c
 *	  The trigger functions that count.
 *
 * poser_count_child() counts what each statement changes in the child table.
 * poser_count_parent() makes and deletes the settled rows of parents.  Both are
 * statement triggers, so that a statement of a million rows calls them once.  Only an
 * update of a parent's key calls poser_count_parent() for each row.
 *
 * Other triggers of the same statement can fire before these, and can write the same
 * tables.  They may have inserted a deleted parent again, for instance.  Where this
 * matters, the functions look at the rows that the table has now.
 *
 * The invariant is the one of settle.c.  It holds for a row from the moment when its
 * statement is counted.
 */
#include "postgres.h"

#include "access/tableam.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/snapmgr.h"

#include "counts/counts_internal.h"
#include "versions/versions.h"

PG_FUNCTION_INFO_V1(poser_count_child);
PG_FUNCTION_INFO_V1(poser_count_parent);

/* A row of the trigger's table: the key of a parent, and whether it counts as active. */
typedef struct CountedRow
{
	Datum key;
	PoserAmount amounts[2]; /* total: 1; active: 1 if the flag is true, else 0 */
} CountedRow;

/*
 * Read the row in the slot; returns false if it has no parent.  A key that is passed by
 * reference is valid as long as the slot has the row.
 */
static bool
read_row(CountedRow *row, TupleTableSlot *slot, const PoserCountTrigger *trigger)
{
	bool isnull;

	row->key = slot_getattr(slot, trigger->key, &isnull);
	if (isnull)
		return false;
	/* The key is hashed, compared and copied, so detoast it once. */
	row->key = detoast_count_key(&trigger->count_key, row->key);
	row->amounts[0].integer = 1;
	row->amounts[1].integer = 0;
	if (trigger->flag != 0)
	{
		Datum flag = slot_getattr(slot, trigger->flag, &isnull);

		row->amounts[1].integer = !isnull && DatumGetBool(flag);
	}
	return true;
}

/* Read the next row of a transition table that has a parent; returns false at its end. */
static bool
next_row(CountedRow *row, PoserTransition *rows, const PoserCountTrigger *trigger)
{
	while (poser_transition_next(rows))
		if (read_row(row, rows->slot, trigger))
			return true;
	return false;
}

/* Add one row to the changes, or take it away: "sign" is 1 or -1. */
static void
count_row(CountChanges *changes, const CountedRow *row, int sign)
{
	poser_count_add_change(changes, &row->key, row->amounts, sign);
}

/*
 * The child
 */

/*
 * Count what a statement has changed, by its transition tables.
 *
 * An UPDATE has two transition tables, which are read side by side.  Usually the old and
 * the new version of a row are at the same place in both, and have the same parent and
 * flag.  A pair with the same parent and flag changes no count, so it is skipped.  This is
 * right even if its two rows are not versions of one row.
 */
static void
count_statement(TriggerData *trigdata, const PoserCountTrigger *trigger)
{
	CountChanges changes;
	PoserTransition old_rows;
	PoserTransition new_rows;
	CountedRow old_row;
	CountedRow new_row;
	bool has_old;
	bool has_new;

	poser_check_transitions(trigdata);
	poser_transition_open(&old_rows, trigdata->tg_oldtable, trigdata);
	poser_transition_open(&new_rows, trigdata->tg_newtable, trigdata);
	poser_count_begin_changes(&changes, &trigger->count, poser_count_locked, trigdata);
	do
	{
		has_old = next_row(&old_row, &old_rows, trigger);
		has_new = next_row(&new_row, &new_rows, trigger);
		if (has_old && has_new && old_row.amounts[1].integer == new_row.amounts[1].integer &&
			equal_count_keys(&trigger->count, &old_row.key, &new_row.key))
			continue;
		if (has_old)
			count_row(&changes, &old_row, -1);
		if (has_new)
			count_row(&changes, &new_row, 1);
	} while (has_old || has_new);
	poser_count_apply_changes(&changes);
	poser_transition_close(&old_rows);
	poser_transition_close(&new_rows);
}

/* After TRUNCATE, when all counts are zero: add the rows that the child has now. */
static void
count_table(TriggerData *trigdata, const PoserCountTrigger *trigger)
{
	Relation rel = trigdata->tg_relation;
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TableScanDesc scan = table_beginscan(rel, SnapshotSelf, 0, NULL, SO_NONE);
	CountChanges changes;
	CountedRow row;

	poser_count_begin_changes(&changes, &trigger->count, poser_count_locked, trigdata);
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		CHECK_FOR_INTERRUPTS();
		if (read_row(&row, slot, trigger))
			count_row(&changes, &row, 1);
	}
	table_endscan(scan);
	poser_count_apply_changes(&changes);
	ExecDropSingleTupleTableSlot(slot);
}

/* TRUNCATE of the child. */
static void
count_truncate(TriggerData *trigdata, const PoserCountTrigger *trigger)
{
	CountWriter writer;

	/*
	 * Before TRUNCATE the counts become zero, so that the trigger on a parent that is
	 * truncated as well finds zeros.  After TRUNCATE they become zero again, and the
	 * rows that the child has then are counted.  This corrects counts that other
	 * triggers have changed in between: TRUNCATE may have removed their rows.
	 */
	poser_count_open(&writer, poser_count_locked(trigdata));
	poser_count_reset_all(&writer);
	poser_count_close(&writer);
	if (TRIGGER_FIRED_AFTER(trigdata->tg_event))
		count_table(trigdata, trigger);
}

/*
 * poser_count_child(counts, deltas, key column, flag column) returns trigger
 *
 * A trigger on the child, before and after each INSERT, UPDATE, DELETE and TRUNCATE.
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

	/* From here on queries can see rows of the statement that are not counted yet. */
	if (TRIGGER_FIRED_BEFORE(event))
	{
		if (TRIGGER_FIRED_BY_INSERT(event))
			poser_restore_wait(trigdata->tg_relation);
		poser_count_begin_statement(trigdata);
	}

	if (TRIGGER_FIRED_BY_TRUNCATE(event))
		count_truncate(trigdata, trigger);
	else if (TRIGGER_FIRED_AFTER(event))
		count_statement(trigdata, trigger);

	if (TRIGGER_FIRED_AFTER(event))
		poser_count_end_statement(trigdata);
	return PointerGetDatum(NULL);
}

/*
 * The parent
 */

/* Is there a parent with this key now?  The slot is for its row. */
static bool
parent_exists(Relation rel, const PoserCountTrigger *trigger, Datum key, TupleTableSlot *slot)
{
	bool found;

	return poser_fetch_row(rel, 1, &trigger->key, &key, slot, &found) && found;
}

/* Begin the counts of the parents that a statement has inserted. */
static void
count_inserted(TriggerData *trigdata, const PoserCountTrigger *trigger)
{
	CountWriter writer;
	PoserTransition rows;
	CountedRow row;

	poser_count_open(&writer, poser_count_locked(trigdata));
	poser_transition_open(&rows, trigdata->tg_newtable, trigdata);
	while (next_row(&row, &rows, trigger))
		poser_count_begin(&writer, &row.key);
	poser_transition_close(&rows);
	poser_count_close(&writer);
}

/* End the counts of the parents that a statement has deleted. */
static void
count_deleted(TriggerData *trigdata, const PoserCountTrigger *trigger)
{
	TupleTableSlot *slot = table_slot_create(trigdata->tg_relation, NULL);
	CountWriter writer;
	PoserTransition rows;
	CountedRow row;
	bool opened = false;

	poser_count_open(&writer, poser_count_locked(trigdata));
	poser_transition_open(&rows, trigdata->tg_oldtable, trigdata);
	while (next_row(&row, &rows, trigger))
		poser_count_end(&writer, &row.key);
	poser_count_close(&writer);

	/*
	 * Other triggers may have inserted some of the parents again, before this one
	 * fired.  The loop above has ended the counts of these, too, so begin them again.
	 * The writer is opened anew, because it may change a key only once.
	 */
	poser_transition_rewind(&rows);
	while (next_row(&row, &rows, trigger))
	{
		if (!parent_exists(trigdata->tg_relation, trigger, row.key, slot))
			continue;
		if (!opened)
			poser_count_open(&writer, poser_count_locked(trigdata));
		opened = true;
		poser_count_begin(&writer, &row.key);
	}
	if (opened)
		poser_count_close(&writer);
	poser_transition_close(&rows);
	ExecDropSingleTupleTableSlot(slot);
}

/* One parent has got another key. */
static void
count_key_update(TriggerData *trigdata, const PoserCountTrigger *trigger)
{
	TupleTableSlot *slot = table_slot_create(trigdata->tg_relation, NULL);
	CountWriter writer;
	Datum key;
	bool isnull;

	poser_count_open(&writer, poser_count_locked(trigdata));

	/* If another parent has the old key now, the count of that key goes on. */
	key = slot_getattr(trigdata->tg_trigslot, trigger->key, &isnull);
	if (!isnull && !parent_exists(trigdata->tg_relation, trigger, key, slot))
		poser_count_end(&writer, &key);

	/* Begin the count of the new key. */
	key = slot_getattr(trigdata->tg_newslot, trigger->key, &isnull);
	if (!isnull)
		poser_count_begin(&writer, &key);
	poser_count_close(&writer);
	ExecDropSingleTupleTableSlot(slot);
}

/* After TRUNCATE of the parent: end all counts, and begin those of parents that are there. */
static void
recount_parents(TriggerData *trigdata, const PoserCountTrigger *trigger)
{
	Relation rel = trigdata->tg_relation;
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TableScanDesc scan;
	CountWriter writer;
	CountedRow row;

	poser_count_open(&writer, poser_count_locked(trigdata));
	poser_count_end_all(&writer);
	poser_count_close(&writer);

	/* Other triggers of TRUNCATE may have inserted parents. */
	poser_count_open(&writer, poser_count_locked(trigdata));
	scan = table_beginscan(rel, SnapshotSelf, 0, NULL, SO_NONE);
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		CHECK_FOR_INTERRUPTS();
		if (read_row(&row, slot, trigger))
			poser_count_begin(&writer, &row.key);
	}
	table_endscan(scan);
	poser_count_close(&writer);
	ExecDropSingleTupleTableSlot(slot);
}

/*
 * poser_count_parent(counts, deltas, key column) returns trigger
 *
 * A trigger on the parent: after each INSERT, UPDATE, DELETE and TRUNCATE, before each
 * INSERT and UPDATE, and after each row with an updated key.
 */
Datum
poser_count_parent(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = poser_check_trigger(fcinfo);
	TriggerEvent event = trigdata->tg_event;
	const PoserCountTrigger *trigger = poser_count_trigger(trigdata, fcinfo->flinfo->fn_oid);

	/*
	 * While a statement inserts parents or changes their keys, queries can see parents
	 * without counts.  So the statement is in the list until its counts have begun.  For
	 * an UPDATE the row triggers begin them, and they fire before the AFTER trigger of
	 * the statement.
	 */
	if (TRIGGER_FIRED_FOR_ROW(event))
	{
		if (!TRIGGER_FIRED_AFTER(event) || !TRIGGER_FIRED_BY_UPDATE(event))
			ereport(ERROR,
					(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
					 errmsg("trigger \"%s\" must fire for each statement or after each row of UPDATE",
							trigdata->tg_trigger->tgname)));
		count_key_update(trigdata, trigger);
	}
	else if (TRIGGER_FIRED_BEFORE(event))
		poser_count_begin_statement(trigdata);
	else if (TRIGGER_FIRED_BY_TRUNCATE(event))
		recount_parents(trigdata, trigger);
	else if (TRIGGER_FIRED_BY_UPDATE(event))
		poser_count_end_statement(trigdata);
	else
	{
		poser_check_transitions(trigdata);
		if (TRIGGER_FIRED_BY_INSERT(event))
		{
			count_inserted(trigdata, trigger);
			poser_count_end_statement(trigdata);
		}
		else
			count_deleted(trigdata, trigger);
	}
	return PointerGetDatum(NULL);
}
