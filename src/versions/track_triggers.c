/*
 * track_triggers.c
 *	  The triggers of tracked tables and of their tables of versions.
 *
 * A table has the triggers of poser_version(), without arguments; each partition has
 * them with the argument 'partition', so that a detached partition does nothing.  A table of
 * versions has the triggers of poser_versions_of(), of which one is the binding, and those
 * of poser_arrive().  The server clones the binding to the partitions of a table of versions,
 * but not the statement trigger for TRUNCATE.  So each partition gets one of its own.
 *
 * A trigger is recognized by its name.  It must have the function, events and arguments
 * that are listed here, and must fire in sessions; otherwise it is made again or enabled.
 *
 * The comment on the trigger poser_versions_of says how far the history was pruned.  So
 * the comment is copied when the trigger is made again.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_trigger.h"
#include "commands/comment.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "versions/track_internal.h"

/* The triggers on a table. */
static const PoserTriggerKind table_triggers[] = {
	{"poser_version_before", "poser_version",
	 TRIGGER_TYPE_BEFORE | TRIGGER_TYPE_INSERT | TRIGGER_TYPE_UPDATE | TRIGGER_TYPE_DELETE | TRIGGER_TYPE_TRUNCATE,
	 "BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE", NULL, NULL, "STATEMENT", TRIGGER_FIRES_ON_ORIGIN},
	{"poser_version_insert", "poser_version", TRIGGER_TYPE_INSERT, "AFTER INSERT", NULL, "new_rows", "STATEMENT",
	 TRIGGER_FIRES_ON_ORIGIN},
	{"poser_version_update", "poser_version", TRIGGER_TYPE_UPDATE, "AFTER UPDATE", "old_rows", "new_rows", "STATEMENT",
	 TRIGGER_FIRES_ON_ORIGIN},
	{"poser_version_delete", "poser_version", TRIGGER_TYPE_DELETE, "AFTER DELETE", "old_rows", NULL, "STATEMENT",
	 TRIGGER_FIRES_ON_ORIGIN},
	{"poser_version_truncate", "poser_version", TRIGGER_TYPE_TRUNCATE, "AFTER TRUNCATE", NULL, NULL, "STATEMENT",
	 TRIGGER_FIRES_ON_ORIGIN}};

/* The binding. */
static const PoserTriggerKind binding_trigger = {
	"poser_versions_of", "poser_versions_of", TRIGGER_TYPE_ROW | TRIGGER_TYPE_UPDATE | TRIGGER_TYPE_DELETE,
	"AFTER UPDATE OR DELETE", NULL, NULL, "ROW", TRIGGER_FIRES_ALWAYS};

/* The trigger on a table of versions, and on its partitions, that refuses TRUNCATE. */
static const PoserTriggerKind truncate_trigger = {
	"poser_versions_of_truncate", "poser_versions_of", TRIGGER_TYPE_BEFORE | TRIGGER_TYPE_TRUNCATE,
	"BEFORE TRUNCATE", NULL, NULL, "STATEMENT", TRIGGER_FIRES_ALWAYS};

/* The other triggers on a table of versions that is not partitioned. */
static const PoserTriggerKind arrival_triggers[] = {
	{"poser_arrive_before", "poser_arrive", TRIGGER_TYPE_BEFORE | TRIGGER_TYPE_INSERT, "BEFORE INSERT", NULL, NULL,
	 "STATEMENT", TRIGGER_FIRES_ON_ORIGIN},
	{"poser_arrive_row", "poser_arrive", TRIGGER_TYPE_BEFORE | TRIGGER_TYPE_ROW | TRIGGER_TYPE_INSERT, "BEFORE INSERT",
	 NULL, NULL, "ROW", TRIGGER_FIRES_ON_ORIGIN},
	{"poser_arrive_after", "poser_arrive", TRIGGER_TYPE_INSERT, "AFTER INSERT", NULL, NULL, "STATEMENT",
	 TRIGGER_FIRES_ON_ORIGIN}};

/* The arguments of the triggers on a tracked table or on a partition of it. */
static List *
table_arguments(bool is_partition)
{
	return is_partition ? list_make1("partition") : NIL;
}

/*
 * Making triggers
 */

/* Drop a trigger. */
static void
drop_trigger(const PoserTrack *track, Oid relid, const char *name)
{
	poser_track_run(track, relid, psprintf("DROP TRIGGER %s ON %s", pstrdup(quote_identifier(name)), poser_relation_name(relid)));
}

/* Make a trigger right. */
static void
make_trigger(PoserTrack *track, const PoserTriggerKind *kind, Oid relid, const List *arguments)
{
	const char *relname = get_rel_name(relid);
	bool alters = relid == track->versions;
	bool is_new = false;
	PoserTriggerState state = poser_trigger_state(kind, relid, track->nspid, arguments, InvalidOid);

	/* what was written without the trigger is not recorded */
	if (state != POSER_TRIGGER_RIGHT && relid == track->relid && track->bound)
		track->compare = true;
	switch (state)
	{
		case POSER_TRIGGER_RIGHT:
			break;
		case POSER_TRIGGER_NOT_FIRING:
			if (poser_track_must(track, alters, "trigger \"%s\" of relation \"%s\" is enabled", kind->name, relname))
				poser_track_run(track, relid, poser_trigger_enable_sql(kind, relid));
			break;
		case POSER_TRIGGER_WRONG:
			is_new = poser_track_must(track, alters, "trigger \"%s\" of relation \"%s\" is made again", kind->name, relname);
			/* if a user's trigger has the name, the server says so when this one is made */
			if (is_new && poser_trigger_calls_function(relid, kind, track->nspid))
				drop_trigger(track, relid, kind->name);
			break;
		case POSER_TRIGGER_MISSING:
			is_new = poser_track_must(track, alters, "trigger \"%s\" of relation \"%s\" is made", kind->name, relname);
			break;
	}
	if (!is_new)
		return;
	poser_track_run(track, relid, poser_trigger_create_sql(kind, relid, track->nspid, arguments, InvalidOid));
	if (kind->enabled != TRIGGER_FIRES_ON_ORIGIN)
		poser_track_run(track, relid, poser_trigger_enable_sql(kind, relid));
}

/* Make the triggers on the table and on its partitions. */
void
poser_track_table_triggers(PoserTrack *track)
{
	bool quiet = track->quiet;
	ListCell *lc;

	foreach(lc, track->tree)
	{
		List *arguments = table_arguments(lfirst_oid(lc) != track->relid);

		CHECK_FOR_INTERRUPTS();
		/* one NOTICE for all triggers of a new partition */
		if (poser_triggers_of_function(lfirst_oid(lc), poser_trigger_function("poser_version", track->nspid)) == NIL)
		{
			if (!poser_track_must(track, false, "triggers of relation \"%s\" are made", get_rel_name(lfirst_oid(lc))))
				continue;
			track->quiet = true;
		}
		for (int i = 0; i < lengthof(table_triggers); i++)
			make_trigger(track, &table_triggers[i], lfirst_oid(lc), arguments);
		track->quiet = quiet;
	}
}

/* The arguments of the binding, as it should be. */
static List *
binding_arguments(const PoserTrack *track)
{
	PoserBinding binding = {.partial = track->partial,
							.operation_type = track->operation_type,
							.transaction_id = track->transaction_id,
							.change_id = track->change_id};

	binding.columns = palloc0(Max(track->ncolumns, 1) * sizeof(PoserBoundColumn));
	for (int i = 0; i < track->ncolumns; i++)
	{
		const PoserTrackColumn *column = &track->columns[i];
		PoserBoundColumn *bound = &binding.columns[binding.ncolumns];

		if (!column->excluded && column->version == 0)
			continue;
		bound->attnum = column->attnum;
		bound->versions_attnum = column->excluded ? 0 : column->version;
		bound->name = column->name;
		bound->versions_name = "";
		if (!column->excluded || column->former != 0)
			bound->versions_name = get_attname(track->versions, column->excluded ? column->former : column->version, false);
		binding.ncolumns++;
	}
	return poser_binding_format(&binding, track->relid, track->versions);
}

/*
 * Make the binding.  A binding that is there is replaced, and its comment copied.  This also
 * removes clones of it from partitions that were detached, which could not be attached again
 * otherwise.  "tree" is the table of versions and its partitions.
 */
static void
make_binding(PoserTrack *track, const List *tree)
{
	List *arguments = binding_arguments(track);
	PoserTriggerState state = poser_trigger_state(&binding_trigger, track->versions, track->nspid, arguments, track->relid);
	const char *versions = get_rel_name(track->versions);
	char *comment = NULL;
	bool already = track->todo;

	if (track->bound && poser_binding_detached(track->relid, track->nspid, tree) != NIL)
		state = POSER_TRIGGER_WRONG;
	if (state == POSER_TRIGGER_RIGHT)
		return;
	if (state == POSER_TRIGGER_NOT_FIRING)
	{
		if (poser_track_must(track, true, "trigger \"%s\" of relation \"%s\" is enabled", binding_trigger.name, versions))
			poser_track_run(track, track->versions, poser_trigger_enable_sql(&binding_trigger, track->versions));
		return;
	}

	/* what has changed in the binding was mostly said before */
	if (already && !track->looking)
		track->alters = true;
	else if (!poser_track_must(track, true, "relation \"%s\" is bound to relation \"%s\" anew", versions, get_rel_name(track->relid)))
		return;
	if (track->looking)
		return;
	if (state == POSER_TRIGGER_WRONG)
	{
		if (track->bound)
			comment = GetComment(track->binding_trigger, TriggerRelationId, 0);
		if (poser_trigger_calls_function(track->versions, &binding_trigger, track->nspid))
			drop_trigger(track, track->versions, binding_trigger.name);
	}
	poser_track_run_on_both(track, poser_trigger_create_sql(&binding_trigger, track->versions, track->nspid, arguments, track->relid));
	poser_track_run(track, track->versions, poser_trigger_enable_sql(&binding_trigger, track->versions));
	if (comment != NULL)
		poser_track_run(track, track->versions,
						psprintf("COMMENT ON TRIGGER %s ON %s IS %s", binding_trigger.name, poser_relation_name(track->versions),
								 quote_literal_cstr(comment)));
}

/* Make the triggers on the table of versions and on its partitions. */
void
poser_track_versions_triggers(PoserTrack *track)
{
	List *tree = find_all_inheritors(track->versions, NoLock, NULL);
	ListCell *lc;

	make_binding(track, tree);
	foreach(lc, tree)
	{
		CHECK_FOR_INTERRUPTS();
		make_trigger(track, &truncate_trigger, lfirst_oid(lc), NIL);
	}
	if (get_rel_relkind(track->versions) == RELKIND_PARTITIONED_TABLE)
		return;
	for (int i = 0; i < lengthof(arrival_triggers); i++)
		make_trigger(track, &arrival_triggers[i], track->versions, NIL);
}

/* Drop all triggers of a relation that call this function of the extension. */
void
poser_track_drop_triggers(const PoserTrack *track, Oid relid, const char *function)
{
	List *triggers = poser_triggers_of_function(relid, poser_trigger_function(function, track->nspid));
	ListCell *lc;

	foreach(lc, triggers)
	{
		Form_pg_trigger form = (Form_pg_trigger) GETSTRUCT((HeapTuple) lfirst(lc));

		/* a partition's trigger goes with that of the table above it */
		if (!OidIsValid(form->tgparentid))
			drop_trigger(track, relid, NameStr(form->tgname));
	}
}
