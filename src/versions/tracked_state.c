/*
 * tracked_state.c
 *	  What is wrong with a table that has a history.
 *
 * poser_tables, poser_check() and errors say the same, because all of them ask here.
 * Nothing raises an error, and no lock is kept: a table is opened only to look at its
 * columns, triggers and indexes.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "nodes/pg_list.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "versions/versions.h"
#include "versions/version_internal.h"

/* A trigger that a tracked table or its table of versions must have. */
typedef struct NeededTrigger
{
	const char *name;
	const char *function;
	int16 type;	   /* the bits of tgtype that must be the same, see TYPE_BITS */
	bool always;   /* must it be ENABLE ALWAYS? */
	bool old_rows; /* must it have these transition tables? */
	bool new_rows;
} NeededTrigger;

/* For the events of a trigger; it can fire for more. */
#define EVENT_BITS (TRIGGER_TYPE_INSERT | TRIGGER_TYPE_UPDATE | TRIGGER_TYPE_DELETE | TRIGGER_TYPE_TRUNCATE)

static const NeededTrigger table_triggers[] = {
	{"poser_version_before", "poser_version", TRIGGER_TYPE_BEFORE | EVENT_BITS, false, false, false},
	{"poser_version_insert", "poser_version", TRIGGER_TYPE_INSERT, false, false, true},
	{"poser_version_update", "poser_version", TRIGGER_TYPE_UPDATE, false, true, true},
	{"poser_version_delete", "poser_version", TRIGGER_TYPE_DELETE, false, true, false},
	{"poser_version_truncate", "poser_version", TRIGGER_TYPE_TRUNCATE, false, false, false}};

/* These keep the history append-only.  The server clones the first one to partitions of the versions, and not the second one. */
static const NeededTrigger guard_triggers[] = {
	{"poser_versions_of", "poser_versions_of", TRIGGER_TYPE_ROW | TRIGGER_TYPE_UPDATE | TRIGGER_TYPE_DELETE, true, false, false},
	{"poser_versions_of_truncate", "poser_versions_of", TRIGGER_TYPE_BEFORE | TRIGGER_TYPE_TRUNCATE, true, false, false}};

static const NeededTrigger arrival_triggers[] = {
	{"poser_arrive_before", "poser_arrive", TRIGGER_TYPE_BEFORE | TRIGGER_TYPE_INSERT, false, false, false},
	{"poser_arrive_row", "poser_arrive", TRIGGER_TYPE_ROW | TRIGGER_TYPE_BEFORE | TRIGGER_TYPE_INSERT, false, false, false},
	{"poser_arrive_after", "poser_arrive", TRIGGER_TYPE_INSERT, false, false, false}};

static void
add_problem(PoserTrackedState *state, char *problem)
{
	state->problems = lappend(state->problems, problem);
}

/* The names in a list, as a text: "a, b". */
static char *
names_text(const List *names)
{
	StringInfoData result;
	ListCell *lc;

	initStringInfo(&result);
	foreach(lc, names)
	{
		appendStringInfo(&result, "%s%s", result.len > 0 ? ", " : "", quote_identifier(lfirst(lc)));
	}
	return result.data;
}

/* Is this the trigger that is needed, whatever its name is? */
static bool
is_needed(const Trigger *tg, const NeededTrigger *needed, Oid nspid)
{
	char *function = get_func_name(tg->tgfoid);

	return function != NULL && strcmp(function, needed->function) == 0 && get_func_namespace(tg->tgfoid) == nspid &&
		   (tg->tgtype & ~EVENT_BITS) == (needed->type & ~EVENT_BITS) &&
		   (tg->tgtype & needed->type & EVENT_BITS) == (needed->type & EVENT_BITS) && tg->tgqual == NULL &&
		   tg->tgnattr == 0 && (!needed->old_rows || tg->tgoldtable != NULL) &&
		   (!needed->new_rows || tg->tgnewtable != NULL);
}

/* Add a problem for each trigger that a table lacks, or that is disabled.  Returns whether there is none. */
static bool
check_triggers(PoserTrackedState *state, Relation rel, const NeededTrigger *triggers, int n, Oid nspid)
{
	TriggerDesc *desc = rel->trigdesc;
	bool result = true;

	if (desc == NULL)
	{
		add_problem(state, psprintf("relation %s has none of the triggers that it needs", poser_relation_name(RelationGetRelid(rel))));
		return false;
	}
	for (int i = 0; i < n; i++)
	{
		const NeededTrigger *needed = &triggers[i];
		bool found = false;
		bool enabled = false;

		for (int j = 0; j < desc->numtriggers; j++)
			if (is_needed(&desc->triggers[j], needed, nspid))
			{
				char fires = desc->triggers[j].tgenabled;

				found = true;
				enabled = enabled || fires == TRIGGER_FIRES_ALWAYS || (!needed->always && fires == TRIGGER_FIRES_ON_ORIGIN);
			}
		if (enabled)
			continue;
		result = false;
		if (!found)
			add_problem(state, psprintf("trigger %s of %s is missing", needed->name,
										poser_relation_name(RelationGetRelid(rel))));
		else
			add_problem(state, psprintf("trigger %s of %s is not enabled%s", needed->name,
										poser_relation_name(RelationGetRelid(rel)), needed->always ? " always" : ""));
	}
	return result;
}

/*
 * Open and lock a relation.  *rel is NULL if it is gone.  Returns false if another transaction
 * has locked it: a session that looks at all tables must not wait for the owner of one of them.
 */
static bool
open_unless_locked(Relation *rel, Oid relid)
{
	ListCell *lc;

	*rel = NULL;
	if (!poser_lock_at_once(relid, AccessShareLock))
		return false;
	*rel = try_relation_open(relid, NoLock);
	if (*rel == NULL)
	{
		UnlockRelationOid(relid, AccessShareLock);
		return true;
	}

	/* REINDEX locks indexes only; they are opened for a moment to find the key */
	foreach(lc, RelationGetIndexList(*rel))
	{
		if (!poser_lock_at_once(lfirst_oid(lc), AccessShareLock))
		{
			relation_close(*rel, AccessShareLock);
			*rel = NULL;
			return false;
		}
		UnlockRelationOid(lfirst_oid(lc), AccessShareLock);
	}
	return true;
}

/* Check the partitions below a tracked table. */
static void
check_partitions(PoserTrackedState *state, Relation rel, Oid nspid)
{
	List *partitions = find_all_inheritors(RelationGetRelid(rel), NoLock, NULL);
	ListCell *lc;

	foreach(lc, partitions)
	{
		Relation partition;

		CHECK_FOR_INTERRUPTS();
		if (lfirst_oid(lc) == RelationGetRelid(rel))
			continue;
		if (!open_unless_locked(&partition, lfirst_oid(lc)))
		{
			if (get_rel_name(lfirst_oid(lc)) != NULL)
				add_problem(state, psprintf("partition %s is locked by another transaction", poser_relation_name(lfirst_oid(lc))));
			state->locked = true;
			continue;
		}
		if (partition == NULL)
			continue;
		if (partition->rd_rel->relkind == RELKIND_FOREIGN_TABLE)
		{
			add_problem(state, psprintf("partition %s is a foreign table, and its changes cannot be recorded",
										poser_relation_name(RelationGetRelid(partition))));
			state->recording = false;
		}
		else if (!check_triggers(state, partition, table_triggers, lengthof(table_triggers), nspid))
			state->recording = false;
		relation_close(partition, AccessShareLock);
	}
}

/* Check the triggers on the partitions below a table of versions, and on those that were detached. */
static void
check_versions_partitions(PoserTrackedState *state, Oid relid, Relation versions, Oid nspid)
{
	List *partitions = find_all_inheritors(RelationGetRelid(versions), NoLock, NULL);
	List *detached = poser_binding_detached(relid, nspid, partitions);
	ListCell *lc;

	foreach(lc, partitions)
	{
		Relation partition;

		CHECK_FOR_INTERRUPTS();
		if (lfirst_oid(lc) == RelationGetRelid(versions))
			continue;
		partition = try_relation_open(lfirst_oid(lc), AccessShareLock);
		if (partition == NULL)
			continue;
		(void) check_triggers(state, partition, guard_triggers, lengthof(guard_triggers), nspid);
		relation_close(partition, AccessShareLock);
	}
	foreach(lc, detached)
	{
		add_problem(state, psprintf("relation %s is no longer a partition of the versions, and keeps a trigger that stops it from becoming one again",
									poser_relation_name(lfirst_oid(lc))));
	}
}

/* Add a problem for each column that no longer has the name or the place that the binding has. */
static void
check_names(PoserTrackedState *state, const PoserBinding *binding, Relation rel, Relation versions)
{
	for (int i = 0; binding->here && i < binding->ncolumns; i++)
	{
		const PoserBoundColumn *column = &binding->columns[i];
		const struct
		{
			Relation rel;
			AttrNumber attnum;
			const char *name;
		} sides[] = {{rel, column->attnum, column->name}, {versions, column->versions_attnum, column->versions_name}};

		for (int j = 0; j < lengthof(sides); j++)
		{
			TupleDesc desc = RelationGetDescr(sides[j].rel);
			Form_pg_attribute att;

			if (sides[j].attnum == 0 || sides[j].attnum > desc->natts)
				continue;
			att = TupleDescAttr(desc, sides[j].attnum - 1);
			if (att->attisdropped)
				add_problem(state, psprintf("column %s of %s was dropped: after a dump and restore nothing is recorded unless poser_track() is called before",
											quote_identifier(sides[j].name), poser_relation_name(RelationGetRelid(sides[j].rel))));
			else if (strcmp(NameStr(att->attname), sides[j].name) != 0)
				add_problem(state, psprintf("column %s of %s was renamed to %s: after a dump and restore nothing is recorded unless poser_track() is called before",
											quote_identifier(sides[j].name), poser_relation_name(RelationGetRelid(sides[j].rel)),
											quote_identifier(NameStr(att->attname))));
		}
	}
}

/* Check a table that is bound by poser_track().  "bindings" are all of the table. */
static void
check_own(PoserTrackedState *state, const PoserTracked *tracked, Relation rel, Relation versions, const List *bindings,
		  Oid nspid)
{
	PoserVersioned versioned;
	PoserBinding binding;
	const Trigger *trigger = poser_binding_trigger(versions, tracked->binding);
	const char *problem;
	ListCell *lc;

	/* the binding */
	if (!tracked->counts)
		add_problem(state, pstrdup(poser_own_unbound_problem(tracked->relid, nspid)));
	foreach(lc, bindings)
	{
		PoserTracked *other = lfirst(lc);

		if (other->counts && tracked->counts && other->binding != tracked->binding)
			add_problem(state, psprintf("it also has the table of versions %s", poser_relation_name(other->versions)));
	}
	problem = poser_own_describe(&versioned, rel, versions, tracked, nspid, &state->columns);
	if (problem != NULL)
		add_problem(state, pstrdup(problem));
	state->recording = state->described = (state->problems == NIL);

	/* the table */
	if (!check_triggers(state, rel, table_triggers, lengthof(table_triggers), nspid))
		state->recording = false;
	if (problem == NULL && versioned.nkeys == 0)
	{
		add_problem(state, pstrdup(POSER_NO_KEY));
		state->recording = false;
	}
	if (state->columns.unrecorded != NIL)
		add_problem(state, psprintf("columns are not recorded: %s", names_text(state->columns.unrecorded)));
	if (rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
		check_partitions(state, rel, nspid);

	/* the versions */
	(void) check_triggers(state, versions, guard_triggers, lengthof(guard_triggers), nspid);
	if (versions->rd_rel->relkind == RELKIND_RELATION)
		(void) check_triggers(state, versions, arrival_triggers, lengthof(arrival_triggers), nspid);
	else
		check_versions_partitions(state, tracked->relid, versions, nspid);
	if (problem == NULL && versioned.nkeys > 0 && !OidIsValid(versioned.versions_index))
		add_problem(state, psprintf("relation %s has no index on the key and change_id", poser_relation_name(tracked->versions)));
	if (rel->rd_rel->relrowsecurity && !versions->rd_rel->relrowsecurity)
		add_problem(state, psprintf("relation %s has no row-level security, and its table has", poser_relation_name(tracked->versions)));
	if (trigger != NULL && poser_binding_parse(&binding, trigger, tracked->relid, tracked->versions))
	{
		if (!binding.here)
			add_problem(state, pstrdup("it was bound in another database, and columns are matched by their names until poser_track() is called"));
		check_names(state, &binding, rel, versions);
	}
}

/*
 * Find out whether changes of a table are recorded, and what is wrong.  "tracked" is from
 * poser_tracked_tables() or poser_tracked_bindings(), and "bindings" are all bindings of the
 * table, also those that do not count.  Returns false if one of its tables is gone.
 */
bool
poser_tracked_state(PoserTrackedState *state, const PoserTracked *tracked, const List *bindings, Oid nspid)
{
	Relation rel;
	Relation versions = NULL;
	bool result;

	memset(state, 0, sizeof(PoserTrackedState));
	state->locked = !open_unless_locked(&rel, tracked->relid) ||
					(rel != NULL && !open_unless_locked(&versions, tracked->versions));
	result = rel != NULL && versions != NULL;
	if (state->locked)
	{
		add_problem(state, pstrdup("it is locked by another transaction"));
		result = true;
	}
	else if (result && OidIsValid(tracked->binding))
		check_own(state, tracked, rel, versions, bindings, nspid);
	else if (result)
	{
		poser_versioned_fixed_columns(&state->columns, rel, versions, nspid);
		state->recording = check_triggers(state, rel, table_triggers, lengthof(table_triggers), nspid);
		state->described = true;
	}
	if (versions != NULL)
		relation_close(versions, AccessShareLock);
	if (rel != NULL)
		relation_close(rel, AccessShareLock);
	return result;
}

/* Returns all problems as one text, or NULL if there is none. */
char *
poser_tracked_problem(const PoserTrackedState *state)
{
	StringInfoData result;
	ListCell *lc;

	if (state->problems == NIL)
		return NULL;
	initStringInfo(&result);
	foreach(lc, state->problems)
	{
		appendStringInfo(&result, "%s%s", result.len > 0 ? "; " : "", (char *) lfirst(lc));
	}
	return result.data;
}
