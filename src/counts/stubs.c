/*
 * stubs.c
 *	  Functions of 1.7 that are not written yet.  Remove yours from here.
 */
#include "postgres.h"

#include "storage/itemptr.h"

#include "counts/counts_internal.h"

PG_FUNCTION_INFO_V1(poser_maintain_rows);
PG_FUNCTION_INFO_V1(poser_serves);
PG_FUNCTION_INFO_V1(poser_live_from);
PG_FUNCTION_INFO_V1(poser_sum_of);
PG_FUNCTION_INFO_V1(poser_maintained);

Datum
poser_maintain_rows(PG_FUNCTION_ARGS)
{
	PG_RETURN_NULL();
}

Datum
poser_serves(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(false);
}

Datum
poser_live_from(PG_FUNCTION_ARGS)
{
	ItemPointer result = palloc0(sizeof(ItemPointerData));

	ItemPointerSet(result, 0, 0);
	PG_RETURN_POINTER(result);
}

Datum
poser_sum_of(PG_FUNCTION_ARGS)
{
	PG_RETURN_NULL();
}

Datum
poser_maintained(PG_FUNCTION_ARGS)
{
	PG_RETURN_NULL();
}
