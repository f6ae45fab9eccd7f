/*
 * prune_internal.h
 *	  What the files about pruning share.
 */
#ifndef POSER_PRUNE_INTERNAL_H
#define POSER_PRUNE_INTERNAL_H

#include "utils/jsonb.h"

#include "versions/version_internal.h"

/* A call of poser_prune_versions(). */
typedef struct PoserPruning
{
	Oid nspid;			/* the schema of the extension */
	Oid transactions;	/* poser_transaction */
	Oid horizon;		/* poser_version_horizon */
	Oid positions;		/* poser_prune_position, or InvalidOid */
	TimestampTz before; /* the time before which a transaction is old */
	int64 limit;		/* at most so many versions, or PG_INT64_MAX */
	int64 removed;		/* so many versions so far */
	Jsonb *object;		/* the argument "match", or NULL */
	PoserMatch *match;	/* the same for the table that is being pruned */
	bool gone;			/* also the last versions of rows that were deleted */
	PoserProgress *progress;

	/* computed for the first own table: */
	int64 needed; /* the first transaction that any consumer needs; 0 before it is known */
	bool has_until;
	bool until_is_null;
	int64 until; /* up to where own tables are pruned that no consumer needs */
} PoserPruning;

/* A query with the parameters of the match, and others behind them. */
typedef struct PoserPruneQuery
{
	PoserQuery query;
	Oid *argtypes;
	Datum *values;
} PoserPruneQuery;

/* How far a round has come, see the head of prune.c. */
typedef struct PoserPosition
{
	int64 transaction_id; /* up to which it prunes */
	char *seen;			  /* the snapshot with which it began, as text */
	TimestampTz before;	  /* the transactions up to there that "seen" sees were issued before this */
	bool complete;		  /* has it come to the end?  Then the fields below mean nothing. */
	char *key;			  /* the last version that was removed, or one before all others; own tables: not used */
	int64 change_id;	  /* of that version; own tables: the last change that was looked at */
	int64 full_until;	  /* the last round that looked at all rows went up to this transaction; for transactions: transaction_id + PoserPruneHorizons.state */
	int64 since;		  /* if not 0, only rows with versions by later transactions are looked at; it is not kept */
} PoserPosition;

/* The horizons of all own tables, see poser_prune_read_horizons(). */
typedef struct PoserPruneHorizons
{
	int n;
	int64 *transactions; /* those that are not 0 */
	uint32 state;
} PoserPruneHorizons;

/* How many versions are deleted by one statement. */
#define PRUNED_AT_A_TIME 1000

/* prune.c */
extern int64 poser_prune_found(const PoserPruning *pruning, const PoserVersioned *versioned, const PoserQuery *query,
							   int64 *total, PoserPosition *position, PoserHorizon *horizon);
extern int64 poser_prune_delete_ids(const PoserPruning *pruning, const PoserVersioned *versioned, Datum *ids, int n);
extern int64 poser_prune_pass(const PoserPruning *pruning, const PoserVersioned *versioned, int64 transaction_id,
							  int64 limit, PoserPosition *position, PoserHorizon *horizon);
extern int64 poser_prune_in_rounds(const PoserPruning *pruning, const PoserVersioned *versioned, const char *relation,
								   int64 transaction_id, int64 limit, PoserHorizon *horizon);
extern int64 poser_prune_until(const PoserPruning *pruning, const char *relation, int64 first_needed, bool *isnull);
extern void poser_prune_query_begin(PoserPruneQuery *query, const PoserPruning *pruning);
extern void poser_prune_query_add(PoserPruneQuery *query, int64 value);
extern void poser_prune_append_match(StringInfo sql, const PoserPruning *pruning, const PoserVersioned *versioned);

/* prune_position.c */
extern uint64 poser_prune_run(const PoserPruning *pruning, const PoserQuery *query);
extern bool poser_prune_read_position(const PoserPruning *pruning, const char *relation, PoserPosition *position);
extern void poser_prune_write_position(const PoserPruning *pruning, const char *relation, const PoserPosition *position);
extern void poser_prune_begin_round(PoserPosition *position, int64 transaction_id, TimestampTz before);
extern bool poser_prune_has_seen_all(const PoserPruning *pruning, const PoserPosition *position, int64 transaction_id,
									 bool with_own);
extern bool poser_prune_is_covered(const PoserPruning *pruning, const PoserPosition *position, int64 transaction_id);

/* prune_own.c */
extern int64 poser_prune_gone(const PoserPruning *pruning, const PoserVersioned *versioned, int64 transaction_id,
							  int64 limit, PoserHorizon *horizon);
extern int64 poser_prune_changes(const PoserPruning *pruning, const PoserVersioned *versioned, int64 limit,
								 PoserPosition *position, PoserHorizon *horizon);
extern void poser_prune_check_needed(const PoserPruning *pruning, const PoserVersioned *versioned, int64 transaction_id);
extern void poser_prune_own_table(PoserPruning *pruning, const PoserTracked *tracked, bool wait);
extern void poser_prune_own_tables(PoserPruning *pruning, List *tables);

/* prune_transactions.c */
extern void poser_prune_read_horizons(const PoserPruning *pruning, PoserPruneHorizons *horizons);
extern bool poser_prune_transactions(const PoserPruning *pruning, const PoserPruneHorizons *horizons, int64 transaction_id);

#endif /* POSER_PRUNE_INTERNAL_H */
