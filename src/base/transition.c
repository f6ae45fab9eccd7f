/*
 * transition.c
 *	  Reading the transition tables of a statement.
 */
#include "postgres.h"

#include "commands/trigger.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/rel.h"
#include "utils/tuplestore.h"

#include "base/base.h"

/* Raises an error unless the trigger has the transition tables of its event. */
void
poser_check_transitions(TriggerData *trigdata)
{
	bool needs_old = !TRIGGER_FIRED_BY_INSERT(trigdata->tg_event);
	bool needs_new = !TRIGGER_FIRED_BY_DELETE(trigdata->tg_event);

	if ((needs_old && trigdata->tg_oldtable == NULL) || (needs_new && trigdata->tg_newtable == NULL))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" must have transition tables",
						trigdata->tg_trigger->tgname)));
}

/*
 * Open one of the trigger's transition tables, to be read from its first row.  If
 * "store" is NULL, there is no such table; it is read like an empty one.
 */
void
poser_transition_open(PoserTransition *rows, Tuplestorestate *store, TriggerData *trigdata)
{
	rows->store = store;
	rows->slot = NULL;
	if (store == NULL)
		return;
	rows->slot = MakeSingleTupleTableSlot(RelationGetDescr(trigdata->tg_relation), &TTSOpsMinimalTuple);
	poser_transition_rewind(rows);
}

/* Go back to the first row.  Other triggers may have read the table in between. */
void
poser_transition_rewind(PoserTransition *rows)
{
	if (rows->slot == NULL)
		return;
	tuplestore_select_read_pointer(rows->store, 0);
	tuplestore_rescan(rows->store);
}

/*
 * Get the next row into the slot; returns false if there is none.  The row is
 * allocated in the current memory context, and freed with the next one.
 */
bool
poser_transition_next(PoserTransition *rows)
{
	CHECK_FOR_INTERRUPTS();
	return rows->slot != NULL && tuplestore_gettupleslot(rows->store, true, false, rows->slot);
}

/* Free the slot. */
void
poser_transition_close(PoserTransition *rows)
{
	if (rows->slot != NULL)
		ExecDropSingleTupleTableSlot(rows->slot);
	rows->slot = NULL;
}
