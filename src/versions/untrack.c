/*
 * untrack.c
 *	  poser_untrack(): ending the history of a table.
 *
 * The triggers of the table, of its partitions and of its table of versions are dropped,
 * and with them the binding.  The table of versions stays, as an ordinary table.
 *
 * A partition that was detached still has its triggers, which do nothing.  For it the
 * function drops only these.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "commands/comment.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "versions/track_internal.h"

PG_FUNCTION_INFO_V1(poser_untrack);

/* See versions.h. */
void (*poser_untrack_hook)(const PoserTracked *tracked, Oid nspid) = NULL;

/* Raises the error for a table that is not tracked. */
static void
not_tracked_error(Oid relid)
{
	ereport(ERROR,
			errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			errmsg("relation \"%s\" is not tracked", get_rel_name(relid)));
}

/* Raises an error unless the relation can be untracked as what it is: the caller's own table, and no partition of a tracked one. */
static void
check_table(Oid relid, Oid nspid)
{
	Relation rel = try_relation_open(relid, AccessShareLock);
	Oid extension = getExtensionOfObject(RelationRelationId, relid);
	PoserTracked tracked;

	if (rel == NULL)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_TABLE),
				errmsg("relation with OID %u does not exist", relid));
	poser_check_owner(relid);
	if (poser_track_no_table(rel) != NULL)
		ereport(ERROR,
				errcode(ERRCODE_WRONG_OBJECT_TYPE),
				errmsg("cannot untrack relation \"%s\"", RelationGetRelationName(rel)),
				errdetail_internal("%s", poser_track_no_table(rel)));
	if (OidIsValid(extension))
		ereport(ERROR,
				errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				errmsg("cannot untrack relation \"%s\"", RelationGetRelationName(rel)),
				errdetail("It belongs to extension \"%s\".", get_extension_name(extension)));
	if (poser_tracked_find(relid, nspid, &tracked) && tracked.relid != relid)
		ereport(ERROR,
				errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				errmsg("cannot untrack relation \"%s\"", RelationGetRelationName(rel)),
				errdetail("It is a partition."),
				errhint("Untrack \"%s\", or detach the partition.", get_rel_name(tracked.relid)));
	relation_close(rel, AccessShareLock);
}

/* Lock the table, its partitions and its table of versions exclusively.  Returns the table and its partitions. */
static List *
lock_all(Oid relid, Oid nspid)
{
	for (;;)
	{
		List *tree = find_all_inheritors(relid, NoLock, NULL);
		PoserTracked tracked;
		bool bound = poser_tracked_find(relid, nspid, &tracked);
		int n = list_length(tree);
		Oid *relids = palloc((n + 1) * sizeof(Oid));
		LOCKMODE *modes = palloc((n + 1) * sizeof(LOCKMODE));
		PoserTracked again;

		for (int i = 0; i < n; i++)
			relids[i] = list_nth_oid(tree, i);
		if (bound)
			relids[n++] = tracked.versions;
		for (int i = 0; i < n; i++)
			modes[i] = AccessExclusiveLock;
		poser_lock_together(relids, modes, n);

		/* lock, then look: are these still all? */
		if (SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)) && equal(tree, find_all_inheritors(relid, NoLock, NULL)) &&
			poser_tracked_find(relid, nspid, &again) == bound && (!bound || again.binding == tracked.binding))
			return tree;
		for (int i = 0; i < n; i++)
			UnlockRelationOid(relids[i], modes[i]);
		check_table(relid, nspid);
	}
}

/* Has the table, or a partition of it, a trigger of poser_version()? */
static bool
has_triggers(const List *tree, Oid nspid)
{
	Oid function = poser_trigger_function("poser_version", nspid);
	ListCell *lc;

	foreach(lc, tree)
	{
		if (poser_triggers_of_function(lfirst_oid(lc), function) != NIL)
			return true;
	}
	return false;
}

/*
 * The comment on the binding says how far the history was pruned.  Keep it at the column
 * change_id, in case that poser_track() takes the history up again, unless that has a
 * comment of its own.
 */
static void
keep_horizon(const PoserTrack *track, const PoserTracked *tracked)
{
	char *comment = GetComment(tracked->binding, TriggerRelationId, 0);
	Relation versions = table_open(track->versions, NoLock);
	const Trigger *trigger = poser_binding_trigger(versions, tracked->binding);
	PoserBinding binding;
	AttrNumber change_id = InvalidAttrNumber;
	char *other;
	long long transaction_id;
	long long change;

	if (comment != NULL && trigger != NULL && poser_binding_parse(&binding, trigger, track->relid, track->versions))
		change_id = get_attnum(track->versions, binding.change_id);
	table_close(versions, NoLock);
	if (change_id <= 0)
		return;
	other = GetComment(track->versions, RelationRelationId, change_id);
	if (other == NULL || sscanf(other, POSER_HORIZON_FORMAT, &transaction_id, &change) == 2)
		poser_track_run(track, track->versions,
						psprintf("COMMENT ON COLUMN %s.%s IS %s", poser_relation_name(track->versions),
								 quote_identifier(get_attname(track->versions, change_id, false)), quote_literal_cstr(comment)));
}

/*
 * poser_untrack(target regclass) returns void
 */
Datum
poser_untrack(PG_FUNCTION_ARGS)
{
	PoserTrack track = {.nspid = get_func_namespace(fcinfo->flinfo->fn_oid)};
	PoserTracked tracked;
	bool bound;
	ListCell *lc;

	PreventCommandIfReadOnly("poser_untrack()");
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				errmsg("%s must not be null", "target"));
	track.relid = PG_GETARG_OID(0);
	check_table(track.relid, track.nspid);
	track.tree = lock_all(track.relid, track.nspid);
	check_table(track.relid, track.nspid);
	bound = poser_tracked_find(track.relid, track.nspid, &tracked);
	if (!bound && !has_triggers(track.tree, track.nspid))
		not_tracked_error(track.relid);
	if (bound && poser_untrack_hook != NULL)
		poser_untrack_hook(&tracked, track.nspid);

	foreach(lc, track.tree)
	{
		CHECK_FOR_INTERRUPTS();
		poser_track_drop_triggers(&track, lfirst_oid(lc), "poser_version");
	}
	if (bound)
	{
		track.versions = tracked.versions;
		keep_horizon(&track, &tracked);
		foreach(lc, find_all_inheritors(track.versions, NoLock, NULL))
		{
			CHECK_FOR_INTERRUPTS();
			poser_track_drop_triggers(&track, lfirst_oid(lc), "poser_versions_of");
		}
		poser_track_drop_triggers(&track, track.versions, "poser_arrive");
	}
	PG_RETURN_VOID();
}
