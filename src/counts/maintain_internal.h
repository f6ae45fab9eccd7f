/*
 * maintain_internal.h
 *	  What the files of poser_maintain() and poser_unmaintain() share.
 */
#ifndef POSER_MAINTAIN_INTERNAL_H
#define POSER_MAINTAIN_INTERNAL_H

#include "counts/counts_internal.h"

/*
 * A call of poser_maintain().  First it only looks, with the weakest locks, what is to be
 * done; then it looks again under locks, and does it.
 */
typedef struct PoserMaintain
{
	/* what the caller wants */
	Oid nspid; /* the schema of the extension */
	Oid view;
	bool existing;

	/* what it does */
	bool looking; /* do nothing, only set "todo" and "missed" */
	bool quiet;	  /* the view was not maintained before, so no NOTICE is needed */
	bool todo;
	bool missed;   /* changes of rows may not have been counted */
	bool replaced; /* the query may have been replaced, so the view needs its own query anew */
	List *broken;  /* OIDs of the tables of which this is so, for each view that has them */

	/* called for each trigger that is not as it should be; the name is NULL if a partition has none; or NULL */
	void (*report)(void *arg, Oid relid, const char *trigger, PoserTriggerState state);
	void *report_arg;

	/* what it has found */
	PoserMaintained of; /* the view's relations; InvalidOid for those that are not made yet */
	PoserViewForm *form;
	List *parents;	 /* OIDs of the parent and its partitions, the parent first */
	List *children;	 /* the same of the child */
	List *exclusive; /* tables of both that must be locked exclusively, because a trigger is dropped */
} PoserMaintain;

/* Relations that are locked together. */
typedef struct PoserLocks
{
	int n;
	Oid *relids;
	LOCKMODE *modes;
} PoserLocks;

/* maintain.c */
extern bool poser_maintain_must(PoserMaintain *maintain, const char *format, ...) pg_attribute_printf(2, 3);
extern void poser_maintain_run(Oid relid, const char *sql);
extern void poser_maintain_add_lock(PoserLocks *locks, Oid relid, LOCKMODE mode);
extern void poser_maintain_add_locks(PoserLocks *locks, const List *relids, LOCKMODE mode);
extern void poser_maintain_lock(const PoserLocks *locks);
extern void poser_maintain_unlock(const PoserLocks *locks);
extern void poser_maintain_check_not_in_use(const PoserLocks *locks);
extern void poser_maintain_view(Oid nspid, Oid view, bool existing);
extern void poser_maintain_mend(Oid nspid, Oid view);
extern bool poser_maintained_is_prepared(const PoserMaintained *maintained);

/* maintain_relations.c */
extern void poser_maintain_replace_query(Oid view, const char *query);
extern void poser_maintain_switch_view(const PoserMaintain *maintain);
extern void poser_maintain_make_relations(PoserMaintain *maintain);
extern void poser_maintain_repair_served(PoserMaintain *maintain);
extern void poser_maintain_fill(PoserMaintain *maintain, PoserProgress *progress);

/* maintain_follow.c */
extern void poser_maintain_set_running(bool running);

/* maintain_triggers.c */
extern void poser_maintain_table_triggers(PoserMaintain *maintain);
extern void poser_maintain_bindings(PoserMaintain *maintain);
extern void poser_maintain_drop_triggers(List *tables, Oid nspid);

/* unmaintain.c */
extern List *poser_unmaintain_tables(const PoserMaintained *maintained, Oid nspid, const List *needed);
extern void poser_unmaintain_drop(const PoserMaintained *maintained, bool is_switched);
extern void poser_unmaintain_view(Oid nspid, Oid relid);

#endif /* POSER_MAINTAIN_INTERNAL_H */
