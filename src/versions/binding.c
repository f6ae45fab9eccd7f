/*
 * binding.c
 *	  Which table of versions belongs to which table.
 */
#include "postgres.h"

#include "fmgr.h"

#include "versions/versions.h"
#include "versions/version_internal.h"

PG_FUNCTION_INFO_V1(poser_versions_of);

Datum
poser_versions_of(PG_FUNCTION_ARGS)
{
	elog(ERROR, "not yet");
}
