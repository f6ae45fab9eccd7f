/*
 * own_history.c
 *	  poser_history(), poser_as_of() and poser_revert(): the history of any table.
 */
#include "postgres.h"

#include "fmgr.h"

#include "versions/versions.h"
#include "versions/version_internal.h"

PG_FUNCTION_INFO_V1(poser_history);
PG_FUNCTION_INFO_V1(poser_as_of);
PG_FUNCTION_INFO_V1(poser_revert);

Datum
poser_history(PG_FUNCTION_ARGS)
{
	elog(ERROR, "not yet");
}

Datum
poser_as_of(PG_FUNCTION_ARGS)
{
	elog(ERROR, "not yet");
}

Datum
poser_revert(PG_FUNCTION_ARGS)
{
	elog(ERROR, "not yet");
}
