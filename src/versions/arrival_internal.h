/*
 * arrival_internal.h
 *	  What the files about arriving history share.
 */
#ifndef POSER_ARRIVAL_INTERNAL_H
#define POSER_ARRIVAL_INTERNAL_H

#include "versions/version_internal.h"

/* A range of ids of transactions that are not counted as recorded here, see arrival_ids.c.  It is empty if "first" is greater. */
typedef struct PoserArrivalRange
{
	int64 first;
	int64 last;
	bool awaited;
} PoserArrivalRange;

#define EMPTY_RANGE ((PoserArrivalRange) {1, 0, false})

/* The rows of a table by their key: of the table itself, or of one of its partitions. */
typedef struct PoserArrivalRows
{
	Relation rel;
	PoserLookup lookup;
	int keys[INDEX_MAX_KEYS]; /* by column of the index: the number of the key's column */
	TupleConversionMap *map;  /* from the partition's rows to those of the table; NULL if they are alike */
	TupleTableSlot *slot;	  /* gets the row as one of the table, if there is a map */
} PoserArrivalRows;

/* When a table of versions was bound, see arrival_bound.c. */
typedef struct PoserArrivalBound
{
	bool elsewhere;			 /* its binding was made in another database; otherwise the rest is not set */
	TransactionId triggers;	 /* has made its triggers; InvalidTransactionId if there are none */
	TransactionId extension; /* has made the extension */
} PoserArrivalBound;

/* A table with a history, while history arrives. */
typedef struct PoserArrivalTable
{
	PoserVersioned versioned;
	Relation rel;	   /* the table with the rows */
	Relation versions; /* its table of versions */
	PoserArrivalBound bound;
	bool has_key;		/* can versions be looked up by the key?  Otherwise by_key is not open */
	PoserLookup by_key; /* versions, newest first */
	PoserLookup by_id;	/* a version by its change_id */
	int nrows;
	PoserArrivalRows *rows; /* none for a table whose key has no unique index */
	PoserDirectTable direct;
	bool writes;	   /* is "direct" open? */
	int64 greatest;	   /* no change_id that was in use before the statement, or was given since, is greater */
	int64 clean_first; /* a tracked table: no version from here on, up to before clean_end, was recorded here */
	int64 clean_end;
	int64 horizon;			/* the transaction up to which a tracked table was pruned; PG_INT64_MIN for others */
	Tuplestorestate *aside; /* where versions are that were set aside; NULL if there are none */
	TupleDesc aside_desc;
} PoserArrivalTable;

/* A statement that inserts history, see arrival.c. */
typedef struct PoserArrival
{
	const PoserStatement *statement;
	MemoryContext context; /* of all that it allocates */
	int ntables;
	PoserArrivalTable **tables;
	bool has_all;					 /* have all tracked tables been opened? */
	PoserArrivalTable *own;			 /* the table into which it inserts versions; NULL for poser_transaction */
	const PoserVersioned *versioned; /* one of the tables' */
	bool may_replace;				 /* have the privileges on the extension's tables been checked? */
	bool found_first;				 /* is the next one known? */
	int64 first_recorded;			 /* no transaction that was recorded here has a smaller id */
	bool replaces;					 /* can there be recorded versions in the table? */
	int64 nmissed;					 /* look-ups that have found none since the table was read to see whether there are any */
	int64 may_miss;					 /* after so many it is read again */
	int64 in_use;					 /* no id that was in use before the statement, or was given since, is greater */
	int64 greatest;					 /* the greatest id that has arrived */
	int64 narrived;					 /* how many rows have arrived */
	int64 nremoved;					 /* how many recorded versions were removed */
	int64 last_claimed;				 /* the last transaction that a version has named */
	int64 claimed;					 /* the greatest of them that is recorded */
	bool claims;					 /* is there one? */
	int64 first_change;				 /* the least and the greatest change_id that has arrived and was not greater than "in_use" */
	int64 last_change;
	int64 room; /* no recorded transaction up to this id can be moved any more */

	/* arrival_ids.c */
	Relation transactions;
	PoserLookup transaction; /* by id */
	PoserLookup reader;		 /* in the order of ids, for a pass */
	PoserDirectTable direct;
	bool writes; /* is "direct" open? */
	Relation arrivals;
	PoserDirectTable direct_arrivals;
	PoserLookup range; /* by its first id */
	int64 known_id;	   /* the last id that poser_arrival_is_recorded() was asked for */
	bool known_recorded;
	bool known;
	PoserArrivalRange known_range; /* the saved range that was found last */
	PoserArrivalRange known_gap;   /* ids between two saved ranges, where one was looked for last */
	uint64 known_changes;		   /* these two are true as long as the ranges have been changed so often */
	PoserArrivalRange noted;	   /* ids that this statement has inserted */
	PoserArrivalRange awaiting;	   /* ids that are awaited, and are not saved yet */
} PoserArrival;

/* arrival_ids.c */
extern void poser_arrival_open_ids(PoserArrival *arrival);
extern void poser_arrival_close_ids(PoserArrival *arrival);
extern bool poser_arrival_find_transaction(PoserArrival *arrival, int64 id);
extern bool poser_arrival_has_arrived(PoserArrival *arrival, int64 id);
extern bool poser_arrival_is_awaited(PoserArrival *arrival, int64 id);
extern bool poser_arrival_next_recorded(PoserArrival *arrival, int64 id, int64 last, int64 *found);
extern void poser_arrival_read_recorded(PoserArrival *arrival);
extern bool poser_arrival_read_next(PoserArrival *arrival, int64 last, int64 *found);
extern bool poser_arrival_is_recorded(PoserArrival *arrival, int64 id);
extern void poser_arrival_note(PoserArrival *arrival, int64 id);
extern void poser_arrival_await(PoserArrival *arrival, int64 id);
extern void poser_arrival_save_ranges(PoserArrival *arrival);

/* arrival.c */
extern void poser_arrival_check_privileges(PoserArrival *arrival);
extern bool poser_arrival_is_of_statement(PoserArrival *arrival, TupleTableSlot *version);
extern void poser_arrival_open_all(PoserArrival *arrival);
extern bool poser_arrival_is_lone(PoserArrivalTable *table, TupleTableSlot *version);
extern bool poser_arrival_find_version(PoserArrivalTable *table, int64 change_id);
extern void poser_arrival_write_version(PoserArrival *arrival, PoserArrivalTable *table, TupleTableSlot *version,
										int64 transaction_id);
extern void poser_arrival_write_set_aside(PoserArrival *arrival, PoserArrivalTable *table);
extern void poser_arrival_in_use_error(PoserArrival *arrival, const char *what, int64 id);

/* arrival_bound.c */
extern void poser_arrival_find_bound(PoserArrivalBound *bound, Relation versions, Relation rel, Oid nspid);
extern bool poser_arrival_came_before(PoserArrival *arrival, const PoserArrivalBound *bound, TupleTableSlot *version, int64 id);
extern bool poser_arrival_is_recorded_version(PoserArrival *arrival, const PoserArrivalTable *table, TupleTableSlot *version);

/* arrival_settle.c */
extern void poser_arrival_settle(PoserArrival *arrival, int64 limit);
extern void poser_arrival_settle_at_end(PoserArrival *arrival);

#endif /* POSER_ARRIVAL_INTERNAL_H */
