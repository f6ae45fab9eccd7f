/*
 * check_internal.h
 *	  What the files of this folder share, and no other folder uses.
 */
#ifndef POSER_CHECK_INTERNAL_H
#define POSER_CHECK_INTERNAL_H

#include "nodes/execnodes.h"

#include "base/base.h"

/* A call of poser_check(). */
typedef struct PoserCheck
{
	ReturnSetInfo *rsinfo; /* gets the problems */
	Oid nspid;			   /* the schema of the extension */
	const char *schema;	   /* its name, quoted */
	const char *version;   /* the version that is installed */
} PoserCheck;

/* check.c */
extern uint64 poser_check_run(const PoserCheck *check, const char *sql);

/* check_structure.c */
extern bool poser_check_structure(const PoserCheck *check);

/* check_rows.c */
extern void poser_check_counts(const PoserCheck *check);
extern void poser_check_history(const PoserCheck *check);
extern void poser_check_batches(const PoserCheck *check);
extern void poser_check_consumers(const PoserCheck *check);

#endif /* POSER_CHECK_INTERNAL_H */
