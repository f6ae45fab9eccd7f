/*
 * savepoint.c
 *	  Running code in a subtransaction, and catching its errors.
 *
 * PoserSavepoint remembers the memory context and the resource owner that were current
 * before the subtransaction.  The memory context is current again after each of these
 * functions, and the resource owner after those that end the subtransaction.
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "base/base.h"

/* Begin a subtransaction. */
void
poser_savepoint_set(PoserSavepoint *savepoint)
{
	savepoint->context = CurrentMemoryContext;
	savepoint->owner = CurrentResourceOwner;
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(savepoint->context);
}

/* Commit the subtransaction. */
void
poser_savepoint_release(PoserSavepoint *savepoint)
{
	ReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(savepoint->context);
	CurrentResourceOwner = savepoint->owner;
}

/* Roll the subtransaction back. */
void
poser_savepoint_rollback(PoserSavepoint *savepoint)
{
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(savepoint->context);
	CurrentResourceOwner = savepoint->owner;
}

/*
 * Called in PG_CATCH(): roll the subtransaction back, and return a copy of the error
 * in the memory context that was current before the subtransaction.
 */
ErrorData *
poser_savepoint_catch_any(PoserSavepoint *savepoint)
{
	ErrorData *error;

	MemoryContextSwitchTo(savepoint->context);
	error = CopyErrorData();
	FlushErrorState();
	poser_savepoint_rollback(savepoint);
	return error;
}

/*
 * Is this error a request to cancel the statement?  A function of a user can raise an error
 * with the same SQLSTATE, and must not end the work on tables of others.  So this looks at
 * the function of the server that has raised it.
 */
bool
poser_is_cancel_request(const ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_QUERY_CANCELED && error->funcname != NULL &&
		   strcmp(error->funcname, "ProcessInterrupts") == 0;
}
