/*
 * statement.c
 *	  Statements between their BEFORE and their AFTER trigger.
 *
 * The AFTER trigger of a statement processes the rows that the statement has
 * written.  Other code can run before that: row triggers, functions that the
 * statement calls, cascades, and the other parts of a query with several writes.
 * Such code must know that there are unprocessed rows.
 *
 * So the BEFORE trigger puts the statement into a list, and the AFTER trigger takes
 * it out.  A statement in the list may have written rows that are not processed yet.
 * Counts, versions and batches have a list each.
 *
 * The AFTER trigger finds the rows in the statement's transition tables, which are read
 * by the functions at the end of this file.
 *
 * The invariant: no transaction commits while a statement in a list waits for its AFTER
 * trigger.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "base/base.h"

/* The lists, as pointers to their first statements. */
static List *lists = NIL;

/* Returns the data of a trigger function.  Raises an error if it was not called as one. */
TriggerData *
poser_check_trigger(FunctionCallInfo fcinfo)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" was not called by trigger manager",
						get_func_name(fcinfo->flinfo->fn_oid))));
	return (TriggerData *) fcinfo->context;
}

/* Returns the event that a trigger fires for, as a bit of tgtype. */
static int16
event_type(TriggerEvent event)
{
	if (TRIGGER_FIRED_BY_INSERT(event))
		return TRIGGER_TYPE_INSERT;
	if (TRIGGER_FIRED_BY_UPDATE(event))
		return TRIGGER_TYPE_UPDATE;
	if (TRIGGER_FIRED_BY_DELETE(event))
		return TRIGGER_TYPE_DELETE;
	return TRIGGER_TYPE_TRUNCATE;
}

/* Does the trigger fire in this session?  The server has the same rule. */
bool
poser_trigger_is_enabled(const Trigger *tg)
{
	if (SessionReplicationRole == SESSION_REPLICATION_ROLE_REPLICA)
		return tg->tgenabled == TRIGGER_FIRES_ON_REPLICA || tg->tgenabled == TRIGGER_FIRES_ALWAYS;
	return tg->tgenabled == TRIGGER_FIRES_ON_ORIGIN || tg->tgenabled == TRIGGER_FIRES_ALWAYS;
}

/* Will an AFTER trigger call the function of this BEFORE trigger again for the statement? */
static bool
fires_after(TriggerData *trigdata, int16 event)
{
	TriggerDesc *desc = trigdata->tg_relation->trigdesc;

	for (int i = 0; i < desc->numtriggers; i++)
	{
		Trigger *tg = &desc->triggers[i];

		if (tg->tgfoid == trigdata->tg_trigger->tgfoid &&
			poser_trigger_is_enabled(tg) &&
			!TRIGGER_FOR_ROW(tg->tgtype) && TRIGGER_FOR_AFTER(tg->tgtype) && (tg->tgtype & event))
			return true;
	}
	return false;
}

/*
 * Returns what the server knows about the DELETEs or the INSERTs of a query on a partitioned
 * table, as a pointer to compare.  It is the same for all parts of the query and for the
 * actions of foreign keys, because the server fires the AFTER triggers once for all of them.
 * Returns NULL for other tables and events.
 */
static const void *
find_transitions(Relation rel, int16 event)
{
	TriggerDesc desc = {.trig_delete_old_table = true, .trig_insert_new_table = true};

	if (rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		return NULL;
	if (event == TRIGGER_TYPE_DELETE)
		return MakeTransitionCaptureState(&desc, RelationGetRelid(rel), CMD_DELETE)->tcs_delete_private;
	if (event == TRIGGER_TYPE_INSERT)
		return MakeTransitionCaptureState(&desc, RelationGetRelid(rel), CMD_INSERT)->tcs_insert_private;
	return NULL;
}

/*
 * Put the statement of a BEFORE trigger into the list, and return its entry.  The entry
 * lives until poser_statement_end(), or until the (sub)transaction is rolled back.
 */
PoserStatement *
poser_statement_begin(PoserStatement **list, TriggerData *trigdata)
{
	PoserStatement *statement = MemoryContextAllocZero(TopTransactionContext,
													   sizeof(PoserStatement));

	statement->relid = RelationGetRelid(trigdata->tg_relation);
	statement->function = trigdata->tg_trigger->tgfoid;
	statement->event = event_type(trigdata->tg_event);
	statement->must_end = fires_after(trigdata, statement->event);
	statement->cid = GetActiveSnapshot()->curcid;
	statement->transitions = find_transitions(trigdata->tg_relation, statement->event);
	statement->subid = GetCurrentSubTransactionId();
	statement->outer = *list;
	*list = statement;
	return statement;
}

/*
 * Is there an entry of the trigger's function in the list already with which this statement has its
 * AFTER trigger and its transition tables in common?
 *
 * An entry whose AFTER trigger is disabled stays until the transaction ends, and its pointer can be
 * that of a later query.  So the table and the event are compared, too.
 */
bool
poser_statement_is_listed(const PoserStatement *list, TriggerData *trigdata)
{
	int16 event = event_type(trigdata->tg_event);
	const void *transitions = find_transitions(trigdata->tg_relation, event);

	if (transitions == NULL)
		return false;
	for (; list != NULL; list = list->outer)
		if (list->function == trigdata->tg_trigger->tgfoid && list->transitions == transitions &&
			list->relid == RelationGetRelid(trigdata->tg_relation) && list->event == event)
			return true;
	return false;
}

/*
 * Take the statement of an AFTER trigger out of the list, and return its entry, which
 * the caller frees.  It is the innermost statement with this table, event and trigger
 * function.  Returns NULL if there is none, for instance because the BEFORE trigger is missing.
 */
PoserStatement *
poser_statement_end(PoserStatement **list, TriggerData *trigdata)
{
	int16 event = event_type(trigdata->tg_event);

	for (PoserStatement **link = list; *link != NULL; link = &(*link)->outer)
	{
		PoserStatement *statement = *link;

		if (statement->relid == RelationGetRelid(trigdata->tg_relation) && statement->event == event &&
			statement->function == trigdata->tg_trigger->tgfoid)
		{
			*link = statement->outer;
			return statement;
		}
	}
	return NULL;
}

/* Take the statements of a subtransaction that is rolled back out of the lists. */
static void
end_subtransaction(SubXactEvent event, SubTransactionId mySubid, SubTransactionId parentSubid, void *arg)
{
	ListCell *lc;

	if (event != SUBXACT_EVENT_ABORT_SUB)
		return;
	foreach(lc, lists)
	{
		PoserStatement **list = lfirst(lc);

		while (*list != NULL && (*list)->subid >= mySubid)
		{
			PoserStatement *statement = *list;

			*list = statement->outer;
			pfree(statement);
		}
	}
}

/*
 * Raises an error if a statement in the list still waits for its AFTER trigger.
 *
 * A procedural language can stop a statement after a number of rows.  Then the
 * AFTER trigger does not fire.  The rows must not be committed, because they have
 * not been processed.
 */
static void
check_ended(const PoserStatement *list)
{
	for (const PoserStatement *statement = list; statement != NULL; statement = statement->outer)
		if (statement->must_end)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("a statement on table \"%s\" was not run to its end",
							get_rel_name(statement->relid)),
					 errdetail("What its triggers have to do has not been done."),
					 errhint("Run it without a limit to the rows that it returns.")));
}

/* Check the lists before the transaction commits or is prepared, and empty them when it has ended. */
static void
end_transaction(XactEvent event, void *arg)
{
	ListCell *lc;

	foreach(lc, lists)
	{
		PoserStatement **list = lfirst(lc);

		if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE)
			check_ended(*list);
		/* the statements are in the transaction's memory */
		else if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
			*list = NULL;
	}
}

/*
 * Register a list, so that it is checked and emptied when transactions and
 * subtransactions end.  Called once for each list, when the module is loaded.
 */
void
poser_statement_register(PoserStatement **list)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	if (lists == NIL)
	{
		RegisterXactCallback(end_transaction, NULL);
		RegisterSubXactCallback(end_subtransaction, NULL);
	}
	lists = lappend(lists, list);
	MemoryContextSwitchTo(old);
}

/*
 * Rows that MERGE moves
 */

/* Is there an entry with this function for the rows that MERGE may move into these transition tables? */
static bool
has_moves(Oid function, const void *transitions)
{
	ListCell *lc;

	foreach(lc, lists)
	{
		for (PoserStatement *statement = *(PoserStatement **) lfirst(lc); statement != NULL; statement = statement->outer)
			if (statement->moves && statement->function == function && statement->transitions == transitions)
				return true;
	}
	return false;
}

/* Copy the AFTER triggers of an event whose functions have entries for rows that MERGE may move. */
static void
copy_triggers(TriggerDesc *copy, Relation rel, int16 event)
{
	const void *transitions = find_transitions(rel, event);
	TriggerDesc *desc = rel->trigdesc;

	copy->triggers = palloc(desc->numtriggers * sizeof(Trigger));
	for (int i = 0; i < desc->numtriggers; i++)
	{
		Trigger *tg = &desc->triggers[i];

		if (tg->tgtype == (TRIGGER_TYPE_AFTER | event) && tg->tgqual == NULL && poser_trigger_is_enabled(tg) &&
			has_moves(tg->tgfoid, transitions))
			copy->triggers[copy->numtriggers++] = *tg;
	}
}

/*
 * After an UPDATE of a partitioned table, fire the AFTER triggers of DELETE and INSERT with the
 * function of this BEFORE trigger, too.
 *
 * The UPDATE can be an action of a MERGE.  If such an action moves a row to another
 * partition, the minor releases before November 2026 put the row into the transition tables
 * of DELETE and INSERT.  But they fire the triggers of DELETE and INSERT only if the MERGE
 * has such actions.  A trigger cannot see whether its statement is a MERGE, so this is done
 * for each UPDATE.  In later releases these transition tables are empty.
 *
 * The server queues the triggers of an event once for each of its transition tables.  When
 * they are queued again, it cancels those that are in the queue.  So nothing is queued here
 * if the list has a DELETE or INSERT with the same transition tables.  If one comes later,
 * the server queues all triggers.  Lists of other functions can have had triggers queued
 * here, and these are queued again.
 *
 * "begin" puts the statement of an event into the list, and returns false if
 * poser_statement_is_listed().  The server can cancel the trigger, so nothing waits for it.
 */
void
poser_statement_fire_moves(PoserStatement **list, TriggerData *trigdata, bool (*begin)(TriggerData *moves, const void *arg), const void *arg)
{
	static const TriggerEvent events[] = {TRIGGER_EVENT_DELETE, TRIGGER_EVENT_INSERT};
	Relation rel = trigdata->tg_relation;

	if (rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		return;
	for (int i = 0; i < lengthof(events); i++)
	{
		TriggerEvent event = events[i];
		TriggerData moves = *trigdata;
		TriggerDesc desc = {0};
		ResultRelInfo info = {.type = T_ResultRelInfo, .ri_RelationDesc = rel, .ri_TrigDesc = &desc};
		TransitionCaptureState *capture;

		moves.tg_event = event;
		if (!fires_after(&moves, event_type(event)) || !begin(&moves, arg))
			continue;
		(*list)->moves = true;
		(*list)->must_end = false;
		copy_triggers(&desc, rel, event_type(event));
		desc.trig_delete_after_statement = desc.trig_delete_old_table = TRIGGER_FIRED_BY_DELETE(event);
		desc.trig_insert_after_statement = desc.trig_insert_new_table = TRIGGER_FIRED_BY_INSERT(event);
		capture = MakeTransitionCaptureState(&desc, RelationGetRelid(rel), CMD_MERGE);
		ExecASDeleteTriggers(NULL, &info, capture);
		ExecASInsertTriggers(NULL, &info, capture);
	}
}

/*
 * Transition tables
 */

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
 * Open one of the trigger's transition tables, to be read from its first row.  "store"
 * can be NULL: then the trigger has no such table, and there are no rows to read.
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
