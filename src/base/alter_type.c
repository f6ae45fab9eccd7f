/*
 * alter_type.c
 *	  poser_alter_type(): another type for a column that a view of the extension shows.
 */
#include "postgres.h"

#include "base/base.h"

PG_FUNCTION_INFO_V1(poser_alter_type);

Datum
poser_alter_type(PG_FUNCTION_ARGS)
{
	PG_RETURN_VOID();
}
