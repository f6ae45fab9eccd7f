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

/* maintain_follow.c */
extern void poser_maintain_follow_init(void);

/* recount.c */
extern char *poser_count_comparison(Oid parent, const char *parent_key, Oid child, const char *child_key,
									const char *flag, Oid counts, Oid deltas);

/* The relations of a maintained view, see maintained.c.  What was dropped is InvalidOid. */
typedef struct PoserMaintained
{
	Oid bookkeeping;
	Oid view;
	Oid query;
	Oid served; /* the view that shows the bookkeeping while it may be read */
	Oid parent;
	Oid child;
} PoserMaintained;

/* maintained.c */
extern List *poser_maintained_list(Oid nspid);
extern List *poser_maintained_of_table(Oid relid, Oid nspid);
extern bool poser_maintained_find(Oid relid, Oid nspid, PoserMaintained *result);

/* What is wrong with a maintained view, see maintained_state.c. */
typedef struct PoserMaintainedState
{
	List *problems; /* texts (char *) */
	bool locked;	/* another transaction has locked a relation, so nothing else is known */
	bool described; /* its counts and sums can be compared with the rows */
} PoserMaintainedState;

/* recount_view.c */
extern char *poser_view_check_sql(const PoserMaintained *maintained, Oid nspid);

/* maintained_state.c */
extern List *poser_maintained_relations(const PoserMaintained *maintained);
extern bool poser_maintained_state(PoserMaintainedState *state, const PoserMaintained *maintained, Oid nspid);
extern char *poser_maintained_problem(const PoserMaintainedState *state);

#endif /* POSER_COUNTS_H */
