/*
 * follow.c
 *	  poser_follow(): calling poser_track() after each ALTER TABLE of a tracked table, and
 *	  poser_maintain() for each view that it concerns.
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
 * Both functions run with the rights of the role that alters the table.  Nothing is done
 * while a dump is restored, because the tables and their triggers are not complete then.
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

/* See versions.h. */
List *(*poser_followed_views_hook)(Oid relid, Oid nspid) = NULL;
void (*poser_follow_view_hook)(Oid nspid, Oid view) = NULL;

/* Is this function running, so that statements of poser_track() or poser_maintain() have called it again? */
static bool following = false;

/* Tables and views that were followed already after this statement. */
static List *done;

/* Returns the relations that the statement has made or altered, as a list of OIDs. */
static List *
altered_relations(void)
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

/* Call poser_track() for the table of this relation, if it is tracked and was not followed already. */
static void
follow_table(Oid nspid, Oid relid)
{
	Oid target = followed_table(relid, nspid);

	if (!OidIsValid(target) || list_member_oid(done, target))
		return;
	done = lappend_oid(done, target);
	poser_track_table(nspid, target, NIL, false, NULL, true);
}

/* Call this function for a relation, in a subtransaction.  An error becomes a WARNING with this hint. */
static void
follow(void (*function)(Oid nspid, Oid relid), Oid nspid, Oid relid, const char *what, const char *hint)
{
	PoserSavepoint savepoint;
	char *name = get_rel_name(relid);

	poser_savepoint_set(&savepoint);
	PG_TRY();
	{
		function(nspid, relid);
		poser_savepoint_release(&savepoint);
	}
	PG_CATCH();
	{
		ErrorData *error = poser_savepoint_catch_any(&savepoint);

		if (poser_is_cancel_request(error))
			ReThrowError(error);
		ereport(WARNING,
				errcode(error->sqlerrcode),
				errmsg("%s \"%s\" does not follow: %s", what, name, error->message),
				error->detail != NULL ? errdetail_internal("%s", error->detail) : 0,
				errhint("%s", error->hint != NULL ? error->hint : hint));
		FreeErrorData(error);
	}
	PG_END_TRY();
}

/* Call poser_maintain() for the views that this relation concerns and that were not followed already. */
static void
follow_views(Oid nspid, Oid relid)
{
	List *views = poser_followed_views_hook != NULL ? poser_followed_views_hook(relid, nspid) : NIL;
	ListCell *lc;

	foreach(lc, views)
	{
		if (list_member_oid(done, lfirst_oid(lc)))
			continue;
		done = lappend_oid(done, lfirst_oid(lc));
		follow(poser_follow_view_hook, nspid, lfirst_oid(lc), "view", "Call poser_maintain() for it.");
	}
}

/*
 * poser_follow() returns event_trigger
 */
Datum
poser_follow(PG_FUNCTION_ARGS)
{
	Oid nspid = get_func_namespace(fcinfo->flinfo->fn_oid);
	EventTriggerData *data = (EventTriggerData *) fcinfo->context;

	if (!CALLED_AS_EVENT_TRIGGER(fcinfo) || strcmp(data->event, "ddl_command_end") != 0)
		ereport(ERROR,
				errcode(ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED),
				errmsg("function \"%s\" must be called by an event trigger on \"%s\"", "poser_follow", "ddl_command_end"));
	if (following || creating_extension || IsBinaryUpgrade || poser_restore_is_likely())
		PG_RETURN_VOID();

	following = true;
	done = NIL;
	PG_TRY();
	{
		List *relations = altered_relations();
		ListCell *lc;

		foreach(lc, relations)
		{
			follow(follow_table, nspid, lfirst_oid(lc), "the history of relation", "Call poser_track() for it.");
			follow_views(nspid, lfirst_oid(lc));
		}
	}
	PG_FINALLY();
	{
		following = false;
	}
	PG_END_TRY();
	PG_RETURN_VOID();
}
