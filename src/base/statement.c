/*
 * statement.c
 *	  Statements that are under way, from their BEFORE to their AFTER trigger.
 *
 * What a statement has written is dealt with when its AFTER trigger fires.
 * Other code may run in between: triggers for rows, functions that the
 * statement calls, cascades, the rest of one query with several writes.  So a
 * BEFORE trigger makes a note here, which the AFTER trigger takes away; what is
 * in the list has written, or may have, and has not been dealt with.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_trigger.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/base.h"

/* A trigger function's data; an error if it is called otherwise. */
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

/* The event of a trigger that has fired, as a bit of tgtype. */
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

/* Does the trigger fire in this session?  The server decides it in the same way. */
static bool
is_enabled(const Trigger *tg)
{
	if (SessionReplicationRole == SESSION_REPLICATION_ROLE_REPLICA)
		return tg->tgenabled == TRIGGER_FIRES_ON_REPLICA || tg->tgenabled == TRIGGER_FIRES_ALWAYS;
	return tg->tgenabled == TRIGGER_FIRES_ON_ORIGIN || tg->tgenabled == TRIGGER_FIRES_ALWAYS;
}

/* Will this trigger's function be called after the statement, too? */
static bool
fires_after(TriggerData *trigdata, int16 event)
{
	TriggerDesc *desc = trigdata->tg_relation->trigdesc;

	for (int i = 0; i < desc->numtriggers; i++)
	{
		Trigger *tg = &desc->triggers[i];

		if (tg->tgfoid == trigdata->tg_trigger->tgfoid &&
			is_enabled(tg) &&
			!TRIGGER_FOR_ROW(tg->tgtype) && TRIGGER_FOR_AFTER(tg->tgtype) && (tg->tgtype & event))
			return true;
	}
	return false;
}

/*
 * Note in "list" the statement whose BEFORE trigger has fired.  The note lives
 * until the AFTER trigger, or the end of the (sub)transaction.
 */
PoserStatement *
poser_statement_begin(PoserStatement **list, TriggerData *trigdata)
{
	PoserStatement *statement = MemoryContextAllocZero(TopTransactionContext,
													   sizeof(PoserStatement));

	statement->relid = RelationGetRelid(trigdata->tg_relation);
	statement->event = event_type(trigdata->tg_event);
	statement->must_end = fires_after(trigdata, statement->event);
	statement->cid = GetActiveSnapshot()->curcid;
	statement->subid = GetCurrentSubTransactionId();
	statement->outer = *list;
	*list = statement;
	return statement;
}

/*
 * Take the statement whose AFTER trigger has fired, the innermost of its kind,
 * out of the list; NULL if there was no BEFORE trigger.  The caller frees it.
 */
PoserStatement *
poser_statement_end(PoserStatement **list, TriggerData *trigdata)
{
	int16 event = event_type(trigdata->tg_event);

	for (PoserStatement **link = list; *link != NULL; link = &(*link)->outer)
		if ((*link)->relid == RelationGetRelid(trigdata->tg_relation) && (*link)->event == event)
		{
			PoserStatement *statement = *link;

			*link = statement->outer;
			return statement;
		}
	return NULL;
}

/* Forget the statements of a subtransaction that is rolled back. */
void
poser_statement_abort(PoserStatement **list, SubTransactionId subid)
{
	while (*list != NULL && (*list)->subid >= subid)
	{
		PoserStatement *statement = *list;

		*list = statement->outer;
		pfree(statement);
	}
}

/*
 * Before a transaction commits or is prepared: a procedural language can run a
 * statement until it has returned so many rows, and no further.  Then its
 * triggers do not fire, and what it has written must not stay.
 */
void
poser_statement_check(PoserStatement *list)
{
	for (PoserStatement *statement = list; statement != NULL; statement = statement->outer)
		if (statement->must_end)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("a statement on table \"%s\" was not run to its end",
							get_rel_name(statement->relid)),
					 errdetail("What its triggers have to do has not been done."),
					 errhint("Run it without a limit to the rows that it returns.")));
}
