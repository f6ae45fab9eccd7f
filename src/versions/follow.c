/*
 * follow.c
 *	  poser_follow(): calling poser_track() after each ALTER TABLE of a tracked table.
 *
 * The extension has no event trigger.  A user can make one with this function:
 *
 *	CREATE EVENT TRIGGER follow ON ddl_command_end WHEN TAG IN ('ALTER TABLE', 'CREATE TABLE')
 *		EXECUTE FUNCTION poser_follow()
 *
 * An event trigger fires for every table of the database, so an error in it would stop
 * work that has nothing to do with Poser.  So each table is followed in a subtransaction,
 * and an error becomes a WARNING.  Only a cancelled query stays cancelled.
 *
 * poser_track() runs with the rights of the role that alters the table.  It does nothing
 * while a dump is restored, because the table's history is not complete then.
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/event_trigger.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"

#include "versions/track_internal.h"

PG_FUNCTION_INFO_V1(poser_follow);

/* Is poser_track() running, so that its own statements have called the function? */
static bool following = false;

/* Returns the tables that the statement has made or altered, as a list of OIDs. */
static List *
altered_tables(void)
{
	List *result = NIL;
	MemoryContext context = CurrentMemoryContext;

	SPI_connect();
	poser_run(&(PoserQuery) {.sql = "SELECT DISTINCT objid FROM pg_catalog.pg_event_trigger_ddl_commands()\n"
									" WHERE classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass\n"
									" ORDER BY objid",
							 .once = true});
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool isnull;
		Oid relid = DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));
		MemoryContext old = MemoryContextSwitchTo(context);

		result = lappend_oid(result, relid);
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	return result;
}

/* Returns the own table that is to be followed after this relation was altered; InvalidOid if there is none. */
static Oid
followed_table(Oid relid, Oid nspid)
{
	char relkind = get_rel_relkind(relid);
	PoserTracked tracked;

	if ((relkind != RELKIND_RELATION && relkind != RELKIND_PARTITIONED_TABLE) ||
		!poser_tracked_find(relid, nspid, &tracked) || !OidIsValid(tracked.binding))
		return InvalidOid;
	return tracked.relid;
}

/* Call poser_track() for the table of this relation, if it is tracked, and note it in the list.  An error becomes a WARNING. */
static void
follow(Oid relid, Oid nspid, List **done)
{
	PoserSavepoint savepoint;
	char *name = get_rel_name(relid);

	poser_savepoint_set(&savepoint);
	PG_TRY();
	{
		Oid target = followed_table(relid, nspid);

		if (OidIsValid(target) && !list_member_oid(*done, target))
		{
			MemoryContext old = MemoryContextSwitchTo(savepoint.context);

			*done = lappend_oid(*done, target);
			MemoryContextSwitchTo(old);
			poser_track_table(nspid, target, NIL, false, NULL, true);
		}
		poser_savepoint_release(&savepoint);
	}
	PG_CATCH();
	{
		ErrorData *error = poser_savepoint_catch_any(&savepoint);

		if (poser_is_cancel_request(error))
			ReThrowError(error);
		ereport(WARNING,
				errcode(error->sqlerrcode),
				errmsg("the history of relation \"%s\" does not follow: %s", name, error->message),
				error->detail != NULL ? errdetail_internal("%s", error->detail) : 0,
				error->hint != NULL ? errhint("%s", error->hint) : errhint("Call poser_track() for it."));
		FreeErrorData(error);
	}
	PG_END_TRY();
}

/*
 * poser_follow() returns event_trigger
 */
Datum
poser_follow(PG_FUNCTION_ARGS)
{
	Oid nspid = get_func_namespace(fcinfo->flinfo->fn_oid);
	EventTriggerData *data = (EventTriggerData *) fcinfo->context;
	List *done = NIL;
	List *tables;
	ListCell *lc;

	if (!CALLED_AS_EVENT_TRIGGER(fcinfo) || strcmp(data->event, "ddl_command_end") != 0)
		ereport(ERROR,
				errcode(ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED),
				errmsg("function \"%s\" must be called by an event trigger on \"%s\"", "poser_follow", "ddl_command_end"));
	if (following || creating_extension || IsBinaryUpgrade || poser_restore_is_likely())
		PG_RETURN_VOID();

	following = true;
	PG_TRY();
	{
		tables = altered_tables();
		foreach(lc, tables)
		{
			follow(lfirst_oid(lc), nspid, &done);
		}
	}
	PG_FINALLY();
	{
		following = false;
	}
	PG_END_TRY();
	PG_RETURN_VOID();
}
