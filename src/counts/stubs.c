/*
 * stubs.c
 *	  Functions of 1.7 that are not written yet.  Remove yours from here.
 */
#include "postgres.h"

#include "counts/counts_internal.h"

PG_FUNCTION_INFO_V1(poser_maintained);

Datum
poser_maintained(PG_FUNCTION_ARGS)
{
	PG_RETURN_NULL();
}
