/*
 * handler.c
 *	  Giving changes to handlers.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_proc.h"
#include "commands/trigger.h"
#include "executor/tuptable.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/parse_func.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/tuplestore.h"

#include "datasync/consumer.h"

PG_FUNCTION_INFO_V1(poser_datasync_run);

/* The name of a function that can be a handler, qualified. */
char *
poser_handler_name(Oid fnoid, Oid nspid)
{
	HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(fnoid));
	Form_pg_proc form;
	char *result;
	int level;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function with OID %u does not exist", fnoid)));
	form = (Form_pg_proc) GETSTRUCT(tuple);
	/* as poser_check() expects it, whatever the session's settings */
	level = NewGUCNestLevel();
	(void) set_config_option("quote_all_identifiers", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	result = quote_qualified_identifier(get_namespace_name(form->pronamespace), NameStr(form->proname));
	AtEOXact_GUC(true, level);
	if (form->prokind != PROKIND_FUNCTION || form->proretset || isAnyTempNamespace(form->pronamespace) ||
		form->pronargs != 1 ||
		form->proargtypes.values[0] != get_rel_type_id(poser_relation_by_name("poser_change", nspid)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("function \"%s\" cannot be a handler", result),
				 errdetail("A handler is a function with one argument, of type poser_change, that returns no set and is not temporary.")));
	ReleaseSysCache(tuple);
	return result;
}

/* Call the handler, whose result may be null. */
static void
call_function(FmgrInfo *handler, Datum change)
{
	LOCAL_FCINFO(fcinfo, 1);

	InitFunctionCallInfoData(*fcinfo, handler, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = change;
	fcinfo->args[0].isnull = false;
	(void) FunctionCallInvoke(fcinfo);
}

/* Check deferred constraints, and have them checked at once from now on. */
static void
check_constraints(void)
{
	ConstraintsSetStmt *stmt = makeNode(ConstraintsSetStmt);

	stmt->constraints = NIL;
	stmt->deferred = false;
	AfterTriggerSetState(stmt);
}

/*
 * Find the handler, which the caller must be allowed to call.  It is looked up
 * by its name and its very argument, so that no other function is taken for it.
 */
static void
find_handler(PoserConsumer *consumer, Oid type, FmgrInfo *handler)
{
	List *name = stringToQualifiedNameList(consumer->handler, NULL);
	Oid fnoid = list_length(name) > 1 ? LookupFuncName(name, 1, &type, true) : InvalidOid;
	AclResult aclresult;

	if (!OidIsValid(fnoid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("handler %s(poser_change) does not exist", consumer->handler)));
	(void) poser_handler_name(fnoid, consumer->nspid);
	aclresult = object_aclcheck(ProcedureRelationId, fnoid, GetUserId(), ACL_EXECUTE);
	if (aclresult != ACLCHECK_OK)
		aclcheck_error(aclresult, OBJECT_FUNCTION, consumer->handler);
	InvokeFunctionExecuteHook(fnoid);
	fmgr_info_cxt(fnoid, handler, consumer->context);
}

/*
 * Call the handler for one change, in a subtransaction.  Returns the error that
 * it has been rolled back for, or NULL.
 *
 * It is found with the first change, so that it is its error if it is not there;
 * and again should it have dropped itself.  A cancel is its error, too: it ends
 * what is done for the change, and the rest is done soon.
 */
static ErrorData *
call_handler(PoserConsumer *consumer, FmgrInfo *handler, Datum change, Oid type)
{
	const char *outer = poser_handling_consumer;
	PoserSavepoint savepoint;
	ErrorData *volatile error = NULL;

	poser_savepoint_set(&savepoint);
	PG_TRY();
	{
		int level = NewGUCNestLevel();

		if (consumer->runas != NULL)
			(void) set_config_option("poser.runas", consumer->runas, PGC_USERSET, PGC_S_SESSION,
									 GUC_ACTION_SAVE, true, 0, false);
		poser_handling_consumer = NameStr(*consumer->name);
		if (!OidIsValid(handler->fn_oid) || !SearchSysCacheExists1(PROCOID, ObjectIdGetDatum(handler->fn_oid)))
			find_handler(consumer, type, handler);
		CommandCounterIncrement();
		PushActiveSnapshot(GetTransactionSnapshot());
		call_function(handler, change);
		PopActiveSnapshot();
		check_constraints();
		AtEOXact_GUC(true, level);
		poser_handling_consumer = outer;
		poser_savepoint_release(&savepoint);
	}
	PG_CATCH();
	{
		poser_handling_consumer = outer;
		error = poser_savepoint_catch_any(&savepoint);
	}
	PG_END_TRY();
	return error;
}

/*
 * Call the handler for all changes in the store.  Returns the last one for which
 * it was done, or 0; if it stopped before the end, the error is in *error, and
 * the change that it is about in *failed.
 */
static int64
call_handlers(PoserConsumer *consumer, FmgrInfo *handler, Tuplestorestate *store, TupleDesc desc,
			  int64 *handled, ErrorData **error, int64 *failed)
{
	PoserRunningHandler self = {consumer->name, poser_running_handlers};
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "poser change", ALLOCSET_DEFAULT_SIZES);
	MemoryContext outer = CurrentMemoryContext;
	TupleTableSlot *slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	int64 last = 0;

	poser_running_handlers = &self;
	PG_TRY();
	{
		check_constraints();
		while (*error == NULL && tuplestore_gettupleslot(store, true, false, slot))
		{
			bool isnull;
			int64 change_id = DatumGetInt64(slot_getattr(slot, CHANGE_ID, &isnull));

			CHECK_FOR_INTERRUPTS();
			MemoryContextReset(context);
			MemoryContextSwitchTo(context);
			*error = call_handler(consumer, handler, ExecFetchSlotHeapTupleDatum(slot), desc->tdtypeid);
			MemoryContextSwitchTo(outer);
			if (*error == NULL)
			{
				last = change_id;
				(*handled)++;
			}
			else
				*failed = change_id;
		}
	}
	PG_FINALLY();
	{
		poser_running_handlers = self.outer;
	}
	PG_END_TRY();
	ExecDropSingleTupleTableSlot(slot);
	return last;
}

/* Can an error be about a value that cannot be shown? */
static bool
is_of_a_value(const ErrorData *error)
{
	return ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_DATA_EXCEPTION ||
		   ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_PROGRAM_LIMIT_EXCEEDED;
}

/*
 * Fetch changes for the handler, as the owner.  Returns how many; with an error
 * about a value, which is caught, 0, and the consumer is what it was.
 */
static int64
fetch_for_handler(PoserConsumer *consumer, Tuplestorestate *store, int64 limit, bool with_payload,
				  int64 *first, int64 *last, ErrorData **error)
{
	const PoserConsumer before = *consumer;
	PoserSavepoint savepoint;
	volatile int64 result = 0;

	poser_savepoint_set(&savepoint);
	PG_TRY();
	{
		poser_consumer_become_owner(consumer);
		result = poser_fetch_changes(consumer, store, limit, with_payload, first, last);
		poser_consumer_become_caller(consumer);
		poser_savepoint_release(&savepoint);
	}
	PG_CATCH();
	{
		*consumer = before;
		*error = poser_savepoint_catch_any(&savepoint);
		if (!is_of_a_value(*error))
			ReThrowError(*error);
	}
	PG_END_TRY();
	return result;
}

/*
 * poser_datasync_run(consumer name, max_changes integer) returns bigint
 */
Datum
poser_datasync_run(PG_FUNCTION_ARGS)
{
	PoserConsumer consumer;
	TupleDesc desc;
	FmgrInfo handler = {0};
	MemoryContext turn;
	ErrorData *error = NULL;
	bool one_by_one = false;
	int64 limit;
	int64 handled = 0;
	int64 failed = 0;

	poser_consumer_argument(&consumer, fcinfo, "poser_datasync_run()");
	limit = poser_max_changes_argument(fcinfo);
	/* a handler's statement might have to record what that one has done, in the handler's name */
	if (poser_version_is_busy())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("poser_datasync_run() cannot be called by a statement that changes a table with history")));
	poser_consumer_open(&consumer, false);
	poser_consumer_become_caller(&consumer);
	if (consumer.handler == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("consumer \"%s\" has no handler", NameStr(*consumer.name))));
	desc = poser_change_desc(&consumer);
	turn = AllocSetContextCreate(consumer.context, "poser handlers", ALLOCSET_DEFAULT_SIZES);

	/* what the handler does, and that it has done it, is of one transaction: saved at the end */
	while (handled < limit && error == NULL)
	{
		int64 wanted = one_by_one ? 1 : limit - handled;
		Tuplestorestate *store;
		int64 first;
		int64 last;
		int64 n;

		MemoryContextReset(turn);
		MemoryContextSwitchTo(turn);
		store = tuplestore_begin_heap(false, false, work_mem);
		n = fetch_for_handler(&consumer, store, wanted, true, &first, &last, &error);
		if (error != NULL && wanted > 1)
		{
			/* up to the change that cannot be shown, all others can be handled */
			one_by_one = true;
			FreeErrorData(error);
			error = NULL;
		}
		else if (error != NULL)
		{
			ErrorData *none = NULL;

			if (fetch_for_handler(&consumer, store, 1, false, &failed, &last, &none) == 0)
				ReThrowError(error);
		}
		else if (n == 0)
			limit = handled;
		else if ((last = call_handlers(&consumer, &handler, store, desc, &handled, &error, &failed)) > 0)
			poser_window_confirm(&consumer, last);
		tuplestore_end(store);
	}

	MemoryContextSwitchTo(consumer.context);
	poser_consumer_become_owner(&consumer);
	if (error != NULL)
	{
		poser_window_deliver(&consumer, failed);
		consumer.attempts++;
		consumer.last_error = error->message != NULL ? error->message : "unknown error";
		consumer.failed = true;
		consumer.failed_change = failed;
		consumer.changed = true;
	}
	poser_consumer_save(&consumer);
	poser_consumer_become_caller(&consumer);
	if (error != NULL)
		ereport(WARNING,
				(errcode(error->sqlerrcode),
				 errmsg("consumer \"%s\" has stopped at change %lld: %s",
						NameStr(*consumer.name), (long long) failed, consumer.last_error),
				 error->context != NULL ? errcontext("%s", error->context) : 0));
	PG_RETURN_INT64(handled);
}
