/*
 * counts.h
 *	  The counts, for other folders.
 */
#ifndef POSER_COUNTS_H
#define POSER_COUNTS_H

#include "base/base.h"

/* serve.c */
extern void poser_count_init(void);
extern bool poser_count_serves(FunctionCallInfo fcinfo, Oid parent, Oid child, Oid nspid);

/* maintain_rows.c */
extern void poser_maintain_rows_init(void);

/* recount.c */
extern char *poser_count_comparison(Oid parent, const char *parent_key, Oid child, const char *child_key,
									const char *flag, Oid counts, Oid deltas);

#endif /* POSER_COUNTS_H */
