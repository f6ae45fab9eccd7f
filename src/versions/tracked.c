/*
 * tracked.c
 *	  poser_tracked(), the function behind the view poser_tables: the tables that have a
 *	  history, and what is wrong with them.
 *
 * It reads catalogs only, see tracked_state.c.
 *
 * A table is listed if it is one of the extension, if it is bound to a table of versions,
 * or if it has a trigger of poser_version() although it is not bound: then its table of
 * versions was dropped, or it is a partition that was detached.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "versions/track_internal.h"

PG_FUNCTION_INFO_V1(poser_tracked);

/* Make an array of text from a list of names. */
static Datum
name_array(const List *names)
{
	Datum *values = palloc(Max(list_length(names), 1) * sizeof(Datum));
	int n = 0;
	ListCell *lc;

	foreach(lc, names)
	{
		values[n++] = CStringGetTextDatum(lfirst(lc));
	}
	return PointerGetDatum(construct_array(values, n, TEXTOID, -1, false, TYPALIGN_INT));
}

/* Put a row into the result.  "versions" can be InvalidOid, and "problem" NULL. */
static void
put_row(ReturnSetInfo *rsinfo, Oid relid, Oid versions, const PoserTrackedState *state, const char *problem)
{
	Datum values[7];
	bool nulls[7] = {false};

	values[0] = ObjectIdGetDatum(relid);
	values[1] = ObjectIdGetDatum(versions);
	nulls[1] = !OidIsValid(versions);
	values[2] = name_array(state->columns.key);
	values[3] = name_array(state->columns.excluded);
	values[4] = name_array(state->columns.unrecorded);
	values[5] = BoolGetDatum(state->recording);
	nulls[5] = state->locked;
	nulls[6] = problem == NULL;
	values[6] = nulls[6] ? (Datum) 0 : CStringGetTextDatum(problem);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* Is a binding left out, because it does not count, and another one of the same table does? */
static bool
is_replaced(const PoserTracked *tracked, const List *bindings)
{
	ListCell *lc;

	foreach(lc, bindings)
	{
		if (!tracked->counts && ((PoserTracked *) lfirst(lc))->counts)
			return true;
	}
	return false;
}

/*
 * Tables that have triggers and no binding
 */

/* Returns the tables that have a trigger of poser_version(), as a list of OIDs. */
static List *
tables_with_triggers(Oid nspid)
{
	Oid function = poser_trigger_function("poser_version", nspid);
	List *result = NIL;
	ListCell *lc;

	foreach(lc, poser_triggers_depending_on(ProcedureRelationId, function, function))
	{
		Form_pg_trigger form = (Form_pg_trigger) GETSTRUCT((HeapTuple) lfirst(lc));

		if (form->tgnargs < 2)
			result = lappend_oid(result, form->tgrelid);
	}
	list_sort(result, list_oid_cmp);
	list_deduplicate_oid(result);
	return result;
}

/* For bsearch() */
static int
compare_oids(const void *a, const void *b)
{
	return list_oid_cmp(a, b);
}

/* Is an OID in a list that is sorted? */
static bool
contains(const List *sorted, Oid oid)
{
	const ListCell cell = {.oid_value = oid};

	return sorted != NIL &&
		   bsearch(&cell, sorted->elements, list_length(sorted), sizeof(ListCell), compare_oids) != NULL;
}

/* Is a table above this partition among these tables, which are sorted? */
static bool
belongs_to(Oid relid, const List *tables)
{
	List *ancestors = get_rel_relispartition(relid) ? get_partition_ancestors(relid) : NIL;
	ListCell *lc;

	foreach(lc, ancestors)
	{
		if (contains(tables, lfirst_oid(lc)))
			return true;
	}
	return false;
}

/* Put the row of one table into the result, if the table is still there.  "bindings" are those of the table. */
static void
put_table(ReturnSetInfo *rsinfo, const PoserTracked *tracked, const List *bindings, Oid nspid, MemoryContext context)
{
	MemoryContext outer = MemoryContextSwitchTo(context);
	PoserTrackedState state;

	if (!is_replaced(tracked, bindings) && poser_tracked_state(&state, tracked, bindings, nspid))
		put_row(rsinfo, tracked->relid, tracked->versions, &state, poser_tracked_problem(&state));
	MemoryContextSwitchTo(outer);
	MemoryContextReset(context);
}

/*
 * poser_tracked() returns table (target regclass, versions regclass, key text[], excluded text[],
 *								  unrecorded text[], recording boolean, problem text)
 */
Datum
poser_tracked(PG_FUNCTION_ARGS)
{
	Oid nspid = get_func_namespace(fcinfo->flinfo->fn_oid);
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	List *bindings = poser_tracked_bindings(nspid);
	List *bound = NIL;
	List *unbound = tables_with_triggers(nspid);
	MemoryContext context;
	ListCell *lc;

	InitMaterializedSRF(fcinfo, 0);
	context = AllocSetContextCreate(CurrentMemoryContext, "poser tracked table", ALLOCSET_DEFAULT_SIZES);

	/* the tables of the extension, then all that are bound */
	for (int i = 0; i < POSER_VERSIONED_TABLES; i++)
	{
		PoserTracked tracked = {.counts = true};

		if (!poser_versioned_find_names(i, nspid, &tracked.relid, &tracked.versions))
			continue;
		bound = lappend_oid(bound, tracked.relid);
		put_table(rsinfo, &tracked, NIL, nspid, context);
	}
	for (int next = 0; next < list_length(bindings);)
	{
		Oid relid = ((PoserTracked *) list_nth(bindings, next))->relid;
		List *of_table = NIL;

		CHECK_FOR_INTERRUPTS();
		/* the bindings of one table are neighbours */
		while (next < list_length(bindings) && ((PoserTracked *) list_nth(bindings, next))->relid == relid)
			of_table = lappend(of_table, list_nth(bindings, next++));
		foreach(lc, of_table)
		{
			put_table(rsinfo, lfirst(lc), of_table, nspid, context);
		}
		bound = lappend_oid(bound, relid);
		list_free(of_table);
	}

	/* those that have the triggers only */
	list_sort(bound, list_oid_cmp);
	foreach(lc, unbound)
	{
		Oid relid = lfirst_oid(lc);
		PoserTrackedState state = {0};

		CHECK_FOR_INTERRUPTS();
		if (!contains(bound, relid) && !belongs_to(relid, bound) && !belongs_to(relid, unbound))
			put_row(rsinfo, relid, InvalidOid, &state,
					"no table of versions is bound to it, although it has triggers: call poser_track() or poser_untrack()");
	}
	return (Datum) 0;
}
