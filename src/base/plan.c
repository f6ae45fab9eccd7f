/*
 * plan.c
 *	  Queries that are run by saved plans.
 *
 * A session keeps the plans of the queries that it runs again and again.  A
 * plan is found by its query, which names all relations and columns, by the
 * types of its parameters and by its options.  So a column that has changed its
 * type gets another plan.  A plan that is no longer valid is made again when it
 * is needed.  When a plan is made, invalid ones are freed, and if there are
 * MAX_SAVED_PLANS, the one that was used least recently.  A plan that is being
 * run is not freed.
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "executor/tstoreReceiver.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/resowner.h"

#include "base/base.h"

#define MAX_SAVED_PLANS 64

typedef struct SavedPlan
{
	char *query;
	uint32 hash; /* of the query */
	int nargs;
	Oid *argtypes;
	int options;
	SPIPlanPtr plan;
	int users; /* calls that are running it */
	struct SavedPlan *next;
} SavedPlan;

/* The one that was used last comes first. */
static SavedPlan *saved_plans = NULL;

/* Free plans that are no longer valid, and the least recently used ones, so that there is room for another one. */
static void
make_room(void)
{
	SavedPlan **link = &saved_plans;
	int kept = 0;

	while (*link != NULL)
	{
		SavedPlan *saved = *link;

		if (saved->users > 0 || (kept < MAX_SAVED_PLANS - 1 && SPI_plan_is_valid(saved->plan)))
		{
			kept++;
			link = &saved->next;
			continue;
		}
		*link = saved->next;
		SPI_freeplan(saved->plan);
		pfree(saved->query);
		pfree(saved->argtypes);
		pfree(saved);
	}
}

/* Find the plan of a query, or make it.  "options" are those of cursors. */
static SavedPlan *
saved_plan(const char *query, int options, int nargs, const Oid *argtypes)
{
	uint32 hash = hash_bytes((const unsigned char *) query, strlen(query));
	SavedPlan *saved;
	SPIPlanPtr plan;

	for (SavedPlan **link = &saved_plans; *link != NULL; link = &(*link)->next)
	{
		saved = *link;
		if (saved->hash != hash || saved->options != options || saved->nargs != nargs ||
			(nargs > 0 && memcmp(saved->argtypes, argtypes, nargs * sizeof(Oid)) != 0) ||
			strcmp(saved->query, query) != 0)
			continue;
		/* an invalid plan that is being run stays: SPI plans it again when it is next run */
		if (saved->users == 0 && !SPI_plan_is_valid(saved->plan))
			break;
		*link = saved->next;
		saved->next = saved_plans;
		saved_plans = saved;
		return saved;
	}

	plan = SPI_prepare_cursor(query, nargs, (Oid *) argtypes, options);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare_cursor failed: %s", SPI_result_code_string(SPI_result));
	make_room();
	saved = MemoryContextAllocZero(TopMemoryContext, sizeof(SavedPlan));
	saved->query = MemoryContextStrdup(TopMemoryContext, query);
	saved->hash = hash;
	saved->nargs = nargs;
	saved->argtypes = MemoryContextAlloc(TopMemoryContext, Max(nargs, 1) * sizeof(Oid));
	if (nargs > 0)
		memcpy(saved->argtypes, argtypes, nargs * sizeof(Oid));
	saved->options = options;
	SPI_keepplan(plan);
	saved->plan = plan;
	saved->next = saved_plans;
	saved_plans = saved;
	return saved;
}

/*
 * Functions that read are PARALLEL RESTRICTED: the leader of a parallel query
 * can call them.  The policies of the tables that they read may write, and a
 * parallel query does not allow that.
 */
static void
explain_parallel(void *arg)
{
	if (geterrcode() == ERRCODE_INVALID_TRANSACTION_STATE)
		errhint("If a policy is to write, set \"max_parallel_workers_per_gather\" to 0, or mark the function of extension \"poser\" PARALLEL UNSAFE.");
}

/* Run a saved plan: all of it or, with "portal", open a cursor for it. */
static void
run(SavedPlan *saved, SPIExecuteOptions *options, Portal *portal)
{
	ErrorContextCallback callback;

	callback.callback = explain_parallel;
	callback.arg = NULL;
	callback.previous = error_context_stack;
	if (IsInParallelMode())
		error_context_stack = &callback;
	saved->users++;
	PG_TRY();
	{
		if (portal != NULL)
			*portal = SPI_cursor_open_with_paramlist(NULL, saved->plan, options->params, options->read_only);
		else if (SPI_execute_plan_extended(saved->plan, options) < 0)
			elog(ERROR, "SPI_execute_plan_extended failed: %s", SPI_result_code_string(SPI_result));
	}
	PG_FINALLY();
	{
		saved->users--;
	}
	PG_END_TRY();
	error_context_stack = callback.previous;
}

/* The parameters of a plan; "nulls" as for SPI_execute_plan(). */
ParamListInfo
poser_params(int nargs, const Oid *argtypes, const Datum *values, const char *nulls)
{
	ParamListInfo result = makeParamList(nargs);

	for (int i = 0; i < nargs; i++)
	{
		result->params[i].value = values[i];
		result->params[i].isnull = (nulls != NULL && nulls[i] == 'n');
		result->params[i].pflags = PARAM_FLAG_CONST;
		result->params[i].ptype = argtypes[i];
	}
	return result;
}

/*
 * Run a query; returns how many rows it gave or changed.  This and the following
 * functions are to be called between SPI_connect() and SPI_finish().
 */
uint64
poser_execute(const char *query, int nargs, const Oid *argtypes, const Datum *values, const char *nulls,
			  bool read_only)
{
	SPIExecuteOptions options = {0};

	options.params = poser_params(nargs, argtypes, values, nulls);
	options.read_only = read_only;
	run(saved_plan(query, 0, nargs, argtypes), &options, NULL);
	return SPI_processed;
}

/*
 * Run a query that reads, with the active snapshot, and give its rows to "dest":
 * at most "limit" of them, or all if "limit" is 0.  "options" are those of cursors.
 * With CURSOR_OPT_PARALLEL_OK the plan may be parallel; it must be run to its end.
 */
void
poser_execute_for(DestReceiver *dest, const char *query, int options, int nargs, const Oid *argtypes,
				  const Datum *values, const char *nulls, long limit)
{
	SPIExecuteOptions execute = {0};

	execute.params = poser_params(nargs, argtypes, values, nulls);
	execute.read_only = true;
	execute.tcount = limit;
	execute.dest = dest;
	run(saved_plan(query, options, nargs, argtypes), &execute, NULL);
}

/* A receiver that puts rows into the result of a set-returning function. */
DestReceiver *
poser_result_receiver(ReturnSetInfo *rsinfo)
{
	DestReceiver *result = CreateDestReceiver(DestTuplestore);

	SetTuplestoreDestReceiverParams(result, rsinfo->setResult, rsinfo->econtext->ecxt_per_query_memory,
									false, rsinfo->setDesc,
									"result of the query does not match the function's result type");
	return result;
}

/* Open a cursor for a query that reads. */
Portal
poser_open_cursor(const char *query, int nargs, const Oid *argtypes, const Datum *values)
{
	SPIExecuteOptions options = {0};
	Portal portal;

	options.params = poser_params(nargs, argtypes, values, NULL);
	options.read_only = true;
	run(saved_plan(query, 0, nargs, argtypes), &options, &portal);
	return portal;
}

/*
 * The relations that a query reads: those that it names, those of policies,
 * partitions and tables that inherit.  They are locked until the transaction ends.
 */
static List *
relations_of(const char *query, int options, int nargs, const Oid *argtypes)
{
	SavedPlan *saved = saved_plan(query, options, nargs, argtypes);
	List *result = NIL;

	saved->users++;
	PG_TRY();
	{
		CachedPlan *cached = SPI_plan_get_cached_plan(saved->plan);
		ListCell *lc;

		foreach(lc, cached->stmt_list)
		{
			PlannedStmt *statement = lfirst_node(PlannedStmt, lc);

			result = list_concat(result, statement->relationOids);
		}
		ReleaseCachedPlan(cached, CurrentResourceOwner);
	}
	PG_FINALLY();
	{
		saved->users--;
	}
	PG_END_TRY();
	return result;
}

/*
 * Lock all tables that a query reads, as poser_lock_to_read() does.
 */
void
poser_lock_query(const char *query, int options, int nargs, const Oid *argtypes)
{
	ListCell *lc;

	foreach(lc, relations_of(query, options, nargs, argtypes))
	{
		Oid relid = lfirst_oid(lc);

		poser_lock_to_read(&relid, 1);
	}
}

/*
 * Returns a table that a query reads and that was rewritten since the snapshot was
 * taken; InvalidOid if there is none.  The tables in "others" are left out.
 */
Oid
poser_query_rewritten(const char *query, int options, int nargs, const Oid *argtypes, Snapshot snapshot,
					  const Oid *others, int nothers)
{
	ListCell *lc;

	foreach(lc, relations_of(query, options, nargs, argtypes))
	{
		Oid relid = lfirst_oid(lc);
		bool is_other = false;

		for (int i = 0; i < nothers; i++)
			is_other = is_other || relid == others[i];
		if (!is_other && poser_is_rewritten(relid, snapshot))
			return relid;
	}
	return InvalidOid;
}
