/*
 * plan.c
 *	  Running SQL, by saved plans.
 *
 * All SQL of the extension is run here.  A session keeps the plans of queries that it
 * runs repeatedly.  A saved plan is found by the text of its query, which names all
 * relations and columns, by the types of its parameters and by its options.  So a query
 * gets another plan after the type of a parameter's column has changed.  A plan that is
 * no longer valid is made again when the query runs next.  When a new plan is saved,
 * invalid plans are freed, and if there are MAX_SAVED_PLANS, also the least recently
 * used one.  A plan that is running is not freed.
 *
 * A query with "once" gets no saved plan.  This is for queries over transition tables or
 * registered rows, because their columns can differ from one call to the next.  It is also
 * for rare queries, and for those whose best plan depends on the parameters.
 *
 * A query with "no_seqscan" is for a table that can become much larger while the plan is
 * used: a plan made while the table has one page would read the whole table.
 *
 * The caller calls SPI_connect() before and SPI_finish() after the functions here.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "executor/tstoreReceiver.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#include "base/base.h"

#define MAX_SAVED_PLANS 64

typedef struct SavedPlan
{
	char *sql;
	uint32 hash; /* of the SQL */
	int nargs;
	Oid *argtypes;
	int cursor_options;
	SPIPlanPtr plan;
	int users; /* calls that are running it */
	struct SavedPlan *next;
} SavedPlan;

/* The most recently used plan comes first. */
static SavedPlan *saved_plans = NULL;

/* Free invalid plans, and the least recently used ones, until there is room for one more. */
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
		pfree(saved->sql);
		pfree(saved->argtypes);
		pfree(saved);
	}
}

/* Plan a query.  The plan lives until SPI_finish(), unless it is kept. */
static SPIPlanPtr
prepare(const PoserQuery *query)
{
	SPIPlanPtr result = SPI_prepare_cursor(query->sql, query->nargs, (Oid *) query->argtypes,
										   query->cursor_options |
											   (query->no_seqscan ? CURSOR_OPT_GENERIC_PLAN : 0));

	if (result == NULL)
		elog(ERROR, "SPI_prepare_cursor failed: %s", SPI_result_code_string(SPI_result));
	return result;
}

/* Find the saved plan of a query, or make it. */
static SavedPlan *
saved_plan(const PoserQuery *query)
{
	uint32 hash = hash_bytes((const unsigned char *) query->sql, strlen(query->sql));
	SavedPlan *saved;
	SPIPlanPtr plan;

	for (SavedPlan **link = &saved_plans; *link != NULL; link = &(*link)->next)
	{
		saved = *link;
		if (saved->hash != hash || saved->cursor_options != query->cursor_options ||
			saved->nargs != query->nargs ||
			(query->nargs > 0 && memcmp(saved->argtypes, query->argtypes, query->nargs * sizeof(Oid)) != 0) ||
			strcmp(saved->sql, query->sql) != 0)
			continue;
		/* an invalid plan that is running stays: SPI plans it again when it runs next */
		if (saved->users == 0 && !SPI_plan_is_valid(saved->plan))
			break;
		*link = saved->next;
		saved->next = saved_plans;
		saved_plans = saved;
		return saved;
	}

	/* an error in here must leave nothing behind, so the plan is kept last */
	plan = prepare(query);
	make_room();
	saved = MemoryContextAllocZero(TopMemoryContext, sizeof(SavedPlan));
	saved->sql = MemoryContextStrdup(TopMemoryContext, query->sql);
	saved->hash = hash;
	saved->nargs = query->nargs;
	saved->argtypes = MemoryContextAlloc(TopMemoryContext, Max(query->nargs, 1) * sizeof(Oid));
	if (query->nargs > 0)
		memcpy(saved->argtypes, query->argtypes, query->nargs * sizeof(Oid));
	saved->cursor_options = query->cursor_options;
	SPI_keepplan(plan);
	saved->plan = plan;
	saved->next = saved_plans;
	saved_plans = saved;
	return saved;
}

/*
 * Returns a query's parameters, as SPI_execute_plan_extended() takes them: NULL if there
 * are none.  With an empty list the plan cache would plan the query again.
 */
static ParamListInfo
parameters(const PoserQuery *query)
{
	ParamListInfo result;

	if (query->nargs == 0)
		return NULL;
	result = makeParamList(query->nargs);
	for (int i = 0; i < query->nargs; i++)
	{
		result->params[i].value = query->values[i];
		result->params[i].isnull = (query->nulls != NULL && query->nulls[i] == 'n');
		result->params[i].pflags = PARAM_FLAG_CONST;
		result->params[i].ptype = query->argtypes[i];
	}
	return result;
}

/* Raises an error if SPI has failed, or if a rule has replaced the statement. */
static void
check_result(const PoserQuery *query, int result)
{
	if (result < 0)
		elog(ERROR, "could not run a query: %s", SPI_result_code_string(result));
	if (query->expected != 0 && result != query->expected)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a rule replaces a statement that extension \"poser\" needs"),
				 errdetail("The statement is: %s", query->sql),
				 errhint("Drop the rule.")));
}

/* Run a plan until its end, or until the query's limit of rows. */
static void
run_plan(const PoserQuery *query, SPIPlanPtr plan)
{
	SPIExecuteOptions options = {0};
	int result;

	if (query->snapshot != InvalidSnapshot)
	{
		Assert(query->dest == NULL);
		result = SPI_execute_snapshot(plan, (Datum *) query->values, query->nulls, query->snapshot,
									  InvalidSnapshot, query->read_only, true, query->limit);
	}
	else
	{
		options.params = parameters(query);
		options.read_only = query->read_only;
		options.tcount = query->limit;
		options.dest = query->dest;
		result = SPI_execute_plan_extended(plan, &options);
	}
	check_result(query, result);
}

/*
 * Error context callback: add a hint to the error that a write in a parallel query
 * raises.  Up to 1.4 the functions that read are PARALLEL RESTRICTED, so that the leader
 * of a parallel query can call them.  But a policy of a table that they read may write,
 * which a parallel query does not allow.
 */
static void
explain_parallel(void *arg)
{
	if (geterrcode() == ERRCODE_INVALID_TRANSACTION_STATE)
		errhint("If a policy is to write, set \"max_parallel_workers_per_gather\" to 0, or mark the function of extension \"poser\" PARALLEL UNSAFE.");
}

/*
 * Make the plan of a query unless it is there, with enable_seqscan off.  The query itself
 * runs without this setting, because it can call users' triggers, and the server keeps
 * their plans.  If the plan becomes invalid before the query has locked its tables, the
 * server makes another one, possibly with a sequential scan.
 */
static void
plan_without_seqscan(SPIPlanPtr plan)
{
	static const PoserSetting settings[] = {{"enable_seqscan", "off"}};
	int level = poser_begin_settings(settings, lengthof(settings));
	CachedPlan *cached = SPI_plan_get_cached_plan(plan);

	if (cached == NULL)
		elog(ERROR, "SPI_plan_get_cached_plan failed");
	ReleaseCachedPlan(cached, CurrentResourceOwner);
	AtEOXact_GUC(true, level);
}

/* Run a query by its saved plan or, with "portal", open a cursor for it in *portal. */
static void
run_saved(const PoserQuery *query, Portal *portal)
{
	SavedPlan *saved = saved_plan(query);
	ErrorContextCallback callback;

	callback.callback = explain_parallel;
	callback.arg = NULL;
	callback.previous = error_context_stack;
	if (IsInParallelMode())
		error_context_stack = &callback;
	saved->users++;
	PG_TRY();
	{
		if (query->no_seqscan)
			plan_without_seqscan(saved->plan);
		if (portal != NULL)
			*portal = SPI_cursor_open_with_paramlist(NULL, saved->plan, parameters(query), query->read_only);
		else
			run_plan(query, saved->plan);
	}
	PG_FINALLY();
	{
		saved->users--;
	}
	PG_END_TRY();
	error_context_stack = callback.previous;
}

/*
 * Returns the relations that a plan reads: those that the query names, those of views
 * and policies, partitions and tables that inherit.  They are locked until the
 * transaction ends.
 */
static List *
relations_of(SPIPlanPtr plan, bool is_saved)
{
	CachedPlan *cached = SPI_plan_get_cached_plan(plan);
	List *result = NIL;
	ListCell *lc;

	if (cached == NULL)
		elog(ERROR, "SPI_plan_get_cached_plan failed");
	foreach(lc, cached->stmt_list)
	{
		PlannedStmt *statement = lfirst_node(PlannedStmt, lc);

		result = list_concat(result, statement->relationOids);
	}
	ReleaseCachedPlan(cached, is_saved ? CurrentResourceOwner : NULL);
	return result;
}

/*
 * Lock the tables that a plan reads.  If one was rewritten or emptied since the
 * query's snapshot was taken, push a newer snapshot, which the caller pops, and return
 * true.  In REPEATABLE READ and SERIALIZABLE there is no newer snapshot, and the function
 * raises an error.
 *
 * In READ COMMITTED a query that is not read_only takes its snapshot later, after the
 * locks, so there is nothing to do for it.
 */
static bool
push_newer_snapshot(const PoserQuery *query, SPIPlanPtr plan)
{
	Snapshot snapshot;
	bool result = false;
	ListCell *lc;

	if (!query->read_only && !IsolationUsesXactSnapshot())
		return false;
	snapshot = query->read_only ? GetActiveSnapshot() : GetTransactionSnapshot();
	foreach(lc, relations_of(plan, false))
	{
		if (!poser_is_rewritten_or_emptied(lfirst_oid(lc), snapshot))
			continue;
		if (IsolationUsesXactSnapshot())
			poser_rewritten_error(lfirst_oid(lc));
		result = true;
	}
	if (result)
		PushActiveSnapshot(GetTransactionSnapshot());
	return result;
}

/* Run a query by a plan that is not kept. */
static void
run_once(const PoserQuery *query)
{
	bool has_snapshot = false;
	SPIPlanPtr plan;

	/* a simple query: SPI_execute() leaves no plan in memory if the query raises an error */
	if (query->nargs == 0 && query->dest == NULL && query->snapshot == InvalidSnapshot && !query->check_rewritten)
	{
		check_result(query, SPI_execute(query->sql, query->read_only, query->limit));
		return;
	}

	plan = prepare(query);
	if (query->check_rewritten)
		has_snapshot = push_newer_snapshot(query, plan);
	run_plan(query, plan);
	if (has_snapshot)
		PopActiveSnapshot();
	SPI_freeplan(plan);
}

/*
 * Run a query.  Returns how many rows it gave or changed, as SPI_processed does.
 * Without "dest" a query that gives rows leaves them in SPI_tuptable.
 *
 * With "check_rewritten" the tables that the query reads are locked first.  If one of
 * them was rewritten or emptied since the query's snapshot was taken, the query uses a
 * newer snapshot.  In REPEATABLE READ and SERIALIZABLE this is an error instead.
 */
uint64
poser_run(const PoserQuery *query)
{
	Assert(query->once ? !query->no_seqscan : !query->check_rewritten);
	if (query->once)
		run_once(query);
	else
		run_saved(query, NULL);
	return SPI_processed;
}

/*
 * Run a utility statement as the current user, and let the next command see what it has done.
 * Unlike the other functions, this one connects to SPI itself.
 */
void
poser_run_utility(const char *sql)
{
	SPI_connect();
	poser_run(&(PoserQuery) {.sql = sql, .once = true, .expected = SPI_OK_UTILITY});
	SPI_finish();
	CommandCounterIncrement();
}

/* Open a cursor for a query, which reads with the active snapshot.  The caller closes the cursor. */
Portal
poser_open_cursor_for(const PoserQuery *query)
{
	Portal portal;

	Assert(query->read_only && !query->once);
	run_saved(query, &portal);
	return portal;
}

/* Returns a receiver that puts rows into the result of a set-returning function. */
DestReceiver *
poser_result_receiver(ReturnSetInfo *rsinfo)
{
	DestReceiver *result = CreateDestReceiver(DestTuplestore);

	SetTuplestoreDestReceiverParams(result, rsinfo->setResult, rsinfo->econtext->ecxt_per_query_memory,
									false, rsinfo->setDesc,
									"result of the query does not match the function's result type");
	return result;
}

/*
 * Returns a bigint in the first row of the last result.  If it is null, or if there
 * is no row, *isnull is true and the result is 0; "isnull" may be NULL.  Raises an
 * error if the column is of another type.
 */
int64
poser_result_int64(int column, bool *isnull)
{
	bool is_null = true;
	Datum value = (Datum) 0;

	if (SPI_processed > 0)
	{
		poser_check_type(NULL, SPI_tuptable->tupdesc, column, INT8OID);
		value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column, &is_null);
	}
	if (isnull != NULL)
		*isnull = is_null;
	return is_null ? 0 : DatumGetInt64(value);
}

/*
 * Make rows readable by queries of this SPI connection, as a table of this name.
 * "enr" and "desc" must live as long as the connection.
 */
void
poser_register_rows(EphemeralNamedRelation enr, const char *name, TupleDesc desc,
					Tuplestorestate *rows, double nrows)
{
	memset(enr, 0, sizeof(EphemeralNamedRelationData));
	enr->md.name = unconstify(char *, name);
	enr->md.reliddesc = InvalidOid;
	enr->md.tupdesc = desc;
	enr->md.enrtype = ENR_NAMED_TUPLESTORE;
	enr->md.enrtuples = nrows;
	enr->reldata = rows;
	if (SPI_register_relation(enr) != SPI_OK_REL_REGISTER)
		elog(ERROR, "could not register rows \"%s\"", name);
}

/* Make a trigger's transition tables readable by queries of this SPI connection. */
void
poser_register_trigger_rows(TriggerData *trigdata)
{
	if (SPI_register_trigger_data(trigdata) < 0)
		elog(ERROR, "could not register the transition tables of trigger \"%s\"",
			 trigdata->tg_trigger->tgname);
}

/* Returns the relations that a query reads by its saved plan. */
static List *
relations_of_query(const PoserQuery *query)
{
	SavedPlan *saved = saved_plan(query);
	List *result = NIL;

	saved->users++;
	PG_TRY();
	{
		result = relations_of(saved->plan, true);
	}
	PG_FINALLY();
	{
		saved->users--;
	}
	PG_END_TRY();
	return result;
}

/* Lock all tables that a query reads, as poser_lock_to_read() does. */
void
poser_lock_query_tables(const PoserQuery *query)
{
	ListCell *lc;

	foreach(lc, relations_of_query(query))
	{
		Oid relid = lfirst_oid(lc);

		poser_lock_to_read(&relid, 1);
	}
}

/*
 * Returns a table that a query reads and that was rewritten since the snapshot was
 * taken, or InvalidOid.  The tables in "others" are left out.
 */
Oid
poser_find_rewritten(const PoserQuery *query, Snapshot snapshot, const Oid *others, int nothers)
{
	ListCell *lc;

	foreach(lc, relations_of_query(query))
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
