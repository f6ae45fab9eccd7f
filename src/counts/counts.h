/*
 * counts.h
 *	  What other folders use of the counts.
 */
#ifndef POSER_COUNTS_H
#define POSER_COUNTS_H

#include "base/base.h"

/*
 * The bookkeeping of one count: which tables hold it, and how its key
 * compares.  The columns of both tables are (key, total, active).
 */
typedef struct PoserCount
{
	Oid counts;		  /* one settled row for each parent */
	Oid counts_index; /* its unique index on the key */
	Oid deltas;		  /* changes not settled yet */
	Oid deltas_index; /* its index on the key */
	Oid keytype;
	Oid keycollation;
	int16 keylen;
	bool keybyval;
	FmgrInfo *key_eq; /* of the type cache, which never goes away */
	FmgrInfo *key_hash;
} PoserCount;

/* A trigger's arguments, looked up. */
typedef struct PoserCountTrigger
{
	Oid tgoid; /* hash key */
	bool valid;
	AttrNumber key;	 /* of the table that has the trigger */
	AttrNumber flag; /* the same; 0 on the parent */
	Oid relid;		 /* that table */
	PoserCount count;
} PoserCountTrigger;

/* Whether the counts of a child table are maintained, and since when. */
typedef struct PoserCountState
{
	Oid child; /* hash key */
	bool valid;
	Oid parent;
	Oid nspid; /* of the functions that maintain them */
	bool maintained;
	Oid counts;
	Oid deltas;
	int num_xids;
	TransactionId xids[24]; /* transactions that have made the triggers what they are */
} PoserCountState;

/* count_catalog.c */
extern void poser_count_catalog_init(void);
extern const PoserCountTrigger *poser_count_trigger(TriggerData *trigdata, Oid fnoid);
extern const PoserCount *poser_count_locked(TriggerData *trigdata);
extern void poser_count_describe(PoserCount *count, Oid counts, Oid deltas);
extern const PoserCountState *poser_count_state(Oid parent, Oid child, Oid nspid);

/* count.c */
extern void poser_count_init(void);
extern bool poser_count_serves(Oid parent, Oid child, Oid nspid);
extern int64 poser_count_rebuild(Oid parent, const char *parent_key, Oid child, const char *child_key,
								 const char *flag, Oid counts, Oid deltas);
extern void poser_count_append_comparison(StringInfo sql, Oid parent, const char *parent_key,
										  Oid child, const char *child_key, const char *flag,
										  Oid counts, Oid deltas);

#endif /* POSER_COUNTS_H */
