/*
 * maintained_views.c
 *	  poser_maintained(), the function behind the view poser_views: the maintained views, and
 *	  what is wrong with them.
 *
 * It reads catalogs only, and waits for no lock of another session.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "counts/maintain_internal.h"

PG_FUNCTION_INFO_V1(poser_maintained);

/* Put the row of one view into the result. */
static void
put_view(ReturnSetInfo *rsinfo, const PoserMaintained *maintained, Oid nspid)
{
	const Oid relids[] = {maintained->view, maintained->query, maintained->bookkeeping, maintained->parent, maintained->child};
	PoserMaintainedState state;
	Datum values[7];
	bool nulls[7] = {false};
	char *problem;

	/* it can be dropped at any time */
	if (!poser_maintained_state(&state, maintained, nspid))
		return;
	problem = poser_maintained_problem(&state);
	for (int i = 0; i < lengthof(relids); i++)
	{
		values[i] = ObjectIdGetDatum(relids[i]);
		nulls[i] = !OidIsValid(relids[i]);
	}
	values[5] = BoolGetDatum(!state.locked && OidIsValid(maintained->query) && poser_view_is_served(maintained->query, nspid));
	values[6] = problem == NULL ? (Datum) 0 : CStringGetTextDatum(problem);
	nulls[6] = problem == NULL;
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/*
 * poser_maintained() returns table (view regclass, query regclass, bookkeeping regclass, parent regclass,
 *									 child regclass, served boolean, problem text)
 */
Datum
poser_maintained(PG_FUNCTION_ARGS)
{
	Oid nspid = get_func_namespace(fcinfo->flinfo->fn_oid);
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	List *views = poser_maintained_list(nspid);
	MemoryContext context;
	ListCell *lc;

	InitMaterializedSRF(fcinfo, 0);
	context = AllocSetContextCreate(CurrentMemoryContext, "poser maintained view", ALLOCSET_DEFAULT_SIZES);
	foreach(lc, views)
	{
		MemoryContext outer = MemoryContextSwitchTo(context);

		CHECK_FOR_INTERRUPTS();
		put_view(rsinfo, lfirst(lc), nspid);
		MemoryContextSwitchTo(outer);
		MemoryContextReset(context);
	}
	return (Datum) 0;
}
