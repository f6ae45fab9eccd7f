/*
 * check_internal.h
 *	  What the files of this folder share.
 */
#ifndef POSER_CHECK_INTERNAL_H
#define POSER_CHECK_INTERNAL_H

#include "nodes/execnodes.h"

#include "base/base.h"

/* check.c */
extern uint64 poser_check_add_problems(ReturnSetInfo *rsinfo, const char *query, Oid nspid,
									   const char *version);

/* check_structure.c */
extern bool poser_check_structure(ReturnSetInfo *rsinfo, Oid nspid, const char *version);

/* check_rows.c */
extern void poser_check_counts(ReturnSetInfo *rsinfo, Oid nspid, const char *version, Oid parent,
							   Oid child, Oid counts, Oid deltas);
extern void poser_check_history(ReturnSetInfo *rsinfo, Oid nspid, const char *version);
extern void poser_check_batches(ReturnSetInfo *rsinfo, Oid nspid, const char *version);
extern void poser_check_consumers(ReturnSetInfo *rsinfo, Oid nspid, const char *version);

#endif /* POSER_CHECK_INTERNAL_H */
