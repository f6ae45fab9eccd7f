/*
 * handler.c
 *	  poser_datasync_run(): delivering changes to a handler.
 *
 * A handler is a function with one argument, a change.  poser_datasync_run() fetches
 * changes as the owner, and calls the handler for each change as the role that has called
 * poser_datasync_run().  Each call runs in a subtransaction.  If it raises an error, the
 * subtransaction is rolled back, and the run stops at this change.  The error is written
 * into the consumer's row, and the caller gets it as a WARNING.  The changes before this
 * one stay confirmed.
 *
 * The invariant: the changes that a handler makes and the new position commit in the same
 * transaction, so both or neither of them are committed.
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
#include "nodes/parsenodes.h"
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

#include "datasync/datasync_internal.h"

PG_FUNCTION_INFO_V1(poser_datasync_run);

/*
 * Finding and calling a handler
 */

/*
 * Returns the qualified name of a function.  Raises an error if the function does not
 * exist or cannot be a handler.
 */
char *
poser_handler_name(Oid fnoid, Oid nspid)
{
	static const PoserSetting settings[] = {{"quote_all_identifiers", "off"}};
	HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(fnoid));
	Form_pg_proc form;
	char *result;
	int level;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function with OID %u does not exist", fnoid)));
	form = (Form_pg_proc) GETSTRUCT(tuple);

	/* poser_check() compares the name, which must not depend on the session's settings */
	level = poser_begin_settings(settings, lengthof(settings));
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

/*
 * Find the consumer's handler.  Raises an error if there is none, or if the current user
 * has no privilege to call it.  The handler is looked up by its name and by exactly its
 * argument type, so that no other function of the same name is called.  What *handler
 * points to lives as long as the consumer.
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

/* Call a function with one argument.  Unlike FunctionCall1() it allows a null result. */
static void
call_function(FmgrInfo *function, Datum argument)
{
	LOCAL_FCINFO(fcinfo, 1);

	InitFunctionCallInfoData(*fcinfo, function, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = argument;
	fcinfo->args[0].isnull = false;
	(void) FunctionCallInvoke(fcinfo);
}

/* As SET CONSTRAINTS ALL IMMEDIATE: check deferred constraints now, and from now on after each statement. */
static void
check_constraints(void)
{
	ConstraintsSetStmt *stmt = makeNode(ConstraintsSetStmt);

	stmt->constraints = NIL;
	stmt->deferred = false;
	AfterTriggerSetState(stmt);
}

/*
 * Call the handler for one change, in a subtransaction.  Returns NULL or, if the
 * subtransaction was rolled back, the error.
 *
 * An error in finding the handler counts as the handler's own error.  So does a cancel
 * request: poser_datasync_run() stops at this change.
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
		const PoserSetting runas = {"poser.runas", consumer->runas};
		int level = poser_begin_settings(&runas, consumer->runas != NULL ? 1 : 0);

		/* from here on the consumer is recorded with each change */
		poser_handling_consumer = NameStr(*consumer->name);

		/* find the handler at the first change, and again if it was dropped since */
		if (!OidIsValid(handler->fn_oid) || !SearchSysCacheExists1(PROCOID, ObjectIdGetDatum(handler->fn_oid)))
			find_handler(consumer, type, handler);

		/* the handler sees what it has written for the changes before */
		CommandCounterIncrement();
		PushActiveSnapshot(GetTransactionSnapshot());
		call_function(handler, change);
		PopActiveSnapshot();

		/* a violated constraint is an error of this change, not of the commit */
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
 * Call the handler for the changes in the store, until it raises an error.  Returns the
 * change_id of the last change that was handled, or 0.  Adds the number of handled changes
 * to *handled.  If there was an error, *error is the error, and *failed is the change_id.
 */
static int64
call_for_all(PoserConsumer *consumer, FmgrInfo *handler, Tuplestorestate *store, TupleDesc desc,
			 int64 *handled, ErrorData **error, int64 *failed)
{
	PoserRunningHandler self = {consumer->name, poser_running_handlers};
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "poser change", ALLOCSET_DEFAULT_SIZES);
	MemoryContext outer = CurrentMemoryContext;
	TupleTableSlot *slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	int64 last = 0;

	/* while the handler runs, the session must not work for this consumer in another way */
	poser_running_handlers = &self;
	PG_TRY();
	{
		/* a constraint that the transaction has violated before is not an error of the handler, so check now */
		check_constraints();

		/* stop at the first change that fails */
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

/*
 * Running a handler
 */

/* Can the reason for an error be a value that cannot be converted to a payload? */
static bool
is_about_a_value(const ErrorData *error)
{
	return ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_DATA_EXCEPTION ||
		   ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_PROGRAM_LIMIT_EXCEEDED;
}

/*
 * Fetch changes for the handler, as the owner, by poser_fetch_changes().  An error about a
 * value is not raised: then *error is set, the result is 0, and the consumer is unchanged.
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
		if (!is_about_a_value(*error))
			ReThrowError(*error);
	}
	PG_END_TRY();
	return result;
}

/*
 * poser_datasync_run(consumer name, max_changes integer) returns bigint
 *
 * The result is the number of changes that were handled.
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

	poser_consumer_from_argument(&consumer, fcinfo, "poser_datasync_run()");
	limit = poser_max_changes_argument(fcinfo);

	/*
	 * If a statement that changes a table with history calls this function, its changes
	 * are not recorded yet.  A handler's statement on the same table may record them, and
	 * would record them as changes of the handler.
	 */
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

	/* each turn handles the changes of one window or, with "one_by_one", one change */
	while (handled < limit && error == NULL)
	{
		int64 wanted = one_by_one ? 1 : limit - handled;
		Tuplestorestate *store;
		int64 first;
		int64 last;
		int64 n;

		MemoryContextReset(turn);
		MemoryContextSwitchTo(turn);
		store = poser_change_store(turn, false);
		n = fetch_for_handler(&consumer, store, wanted, true, &first, &last, &error);
		if (error != NULL && wanted > 1)
		{
			/* one payload raises an error: go on one by one, to handle the changes before it */
			one_by_one = true;
			FreeErrorData(error);
			error = NULL;
		}
		else if (error != NULL)
		{
			/* the payload of this change raises the error: find its change_id without the payload */
			ErrorData *none = NULL;

			if (fetch_for_handler(&consumer, store, 1, false, &failed, &last, &none) == 0)
				ReThrowError(error);
		}
		else if (n == 0)
			/* no change is left: end the loop */
			limit = handled;
		else if ((last = call_for_all(&consumer, &handler, store, desc, &handled, &error, &failed)) > 0)
			poser_window_confirm(&consumer, last);
		tuplestore_end(store);
	}

	/* save the position once, at the end; it commits together with the handlers' changes */
	MemoryContextSwitchTo(consumer.context);
	poser_consumer_become_owner(&consumer);
	if (error != NULL)
	{
		poser_window_deliver(&consumer, failed);
		consumer.attempts++;
		consumer.last_error = error->message != NULL ? error->message : "unknown error";
		consumer.has_failed = true;
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
