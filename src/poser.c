/*
 * poser.c
 *	  Module start.
 */
#include "postgres.h"

#include "poser.h"

PG_MODULE_MAGIC;

void _PG_init(void);

void
_PG_init(void)
{
	poser_catalog_init();
	poser_count_init();
}
