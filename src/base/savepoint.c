/*
 * savepoint.c
 *	  Subtransactions.
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "base/base.h"

void
poser_savepoint_set(PoserSavepoint *savepoint)
{
	savepoint->context = CurrentMemoryContext;
	savepoint->owner = CurrentResourceOwner;
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(savepoint->context);
}

void
poser_savepoint_release(PoserSavepoint *savepoint)
{
	ReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(savepoint->context);
	CurrentResourceOwner = savepoint->owner;
}

void
poser_savepoint_rollback(PoserSavepoint *savepoint)
{
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(savepoint->context);
	CurrentResourceOwner = savepoint->owner;
}

/* Catch the error that is being raised, which is rolled back to the savepoint. */
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
