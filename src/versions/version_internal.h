/*
 * version_internal.h
 *	  What the files of this folder share, and no other folder uses.
 */
#ifndef POSER_VERSION_INTERNAL_H
#define POSER_VERSION_INTERNAL_H

#include "utils/jsonb.h"

#include "versions/versions.h"

/* versioned.c */
extern const PoserVersioned *poser_versioned_by_trigger(TriggerData *trigdata, Oid fnoid);
extern void poser_versioned_version_tables(Oid *versions, Oid nspid);
extern void poser_versioned_names(int i, Oid nspid, Oid *relid, Oid *versions);
extern void poser_versioned_describe(PoserVersioned *versioned, Relation versions, Oid nspid, const char *table,
									 int nkeys, char **keys);
extern Oid poser_transaction_id_index(Relation transactions);
extern bool poser_versioned_same_row(const PoserVersioned *versioned, TupleTableSlot *a, TupleTableSlot *b);
extern bool poser_versioned_same_key(const PoserVersioned *versioned, TupleTableSlot *a, TupleTableSlot *b);
extern bool poser_versioned_is_version_of(const PoserVersioned *versioned, TupleTableSlot *version,
										  TupleTableSlot *row);

extern bool poser_is_text(Oid type);
extern bool poser_versioned_find_names(int i, Oid nspid, Oid *relid, Oid *versions);
extern void poser_versioned_fixed_columns(PoserOwnColumns *columns, Relation rel, Relation versions, Oid nspid);
extern bool poser_versioned_describe_fixed(PoserVersioned *versioned, Oid relid, Oid nspid, LOCKMODE lockmode);
extern void poser_versioned_describe_relations(PoserVersioned *versioned, Relation rel, Relation versions, Oid nspid);
extern void poser_versioned_describe_indexes(PoserVersioned *versioned, Relation rel, Relation versions);

/* own_table.c */

/* The comment of transactions that record rows as they were when poser_track() found them. */
#define POSER_TRACK_COMMENT "recorded by poser_track()"

/* Why UPDATE and DELETE of a table are not possible. */
#define POSER_NO_KEY "it has neither a primary key nor the index of a replica identity, so UPDATE and DELETE are errors"

extern const char *poser_own_describe(PoserVersioned *versioned, Relation target, Relation versions,
									  const PoserTracked *tracked, Oid nspid, PoserOwnColumns *columns);
extern bool poser_own_lock(Oid relid, Oid nspid, LOCKMODE lockmode, PoserTracked *tracked);
extern bool poser_own_open(PoserVersioned *versioned, Relation rel, Oid nspid, LOCKMODE lockmode,
						   PoserOwnColumns *columns);
extern bool poser_own_binding(const PoserVersioned *versioned, PoserBinding *binding);
extern const char *poser_own_match_by_name(PoserBinding *binding, Relation target, Relation versions);
extern Oid poser_own_key_index(Relation target);
extern char *poser_own_transaction_column(const PoserTracked *tracked);
extern bool poser_own_try_describe(PoserVersioned *versioned, const PoserTracked *tracked, Oid nspid, LOCKMODE lockmode);
extern const char *poser_own_unbound_problem(Oid relid, Oid nspid);
extern Relation poser_tracked_relation(const PoserVersioned *versioned);
extern void poser_own_error(Oid relid, const char *problem);

/* binding.c */
extern List *poser_binding_detached(Oid relid, Oid nspid, const List *tree);

/* For what changes or removes versions, such as pruning: the trigger poser_versions_of lets it pass. */
extern void poser_binding_begin_changes(Oid versions);
extern void poser_binding_end_changes(void);

/* transaction.c */
extern Oid poser_acting_role(void);
extern int64 poser_transaction_record(const PoserVersioned *versioned, Oid role, const char *comment);
extern void poser_transaction_lock(const PoserVersioned *versioned);
extern void poser_transaction_renumber(Oid relid, int64 id, int64 new_id);
extern void poser_transaction_forget(void);

/* transaction_read.c */

/* poser_transaction while it is read. */
typedef struct PoserTransactions
{
	MemoryContext context;
	Relation rel;
	Relation index; /* on the id */
	bool ascending; /* the index is in the order of the ids */
	IndexScanDesc scan;
	ScanKeyData equal;		   /* id = $1 */
	ScanKeyData less_or_equal; /* id <= $1 */
	ScanKeyData greater;	   /* id > $1 */
	AttrNumber id;			   /* columns */
	AttrNumber issued_at;
	int gain;		/* of going on in the index, see poser_transactions_find() */
	bool looked_up; /* the fields below, and the slot, are of the last look-up by an id */
	int64 looked_up_id;
	bool found;
	TupleTableSlot *slot;
} PoserTransactions;

extern PoserTransactions *poser_transactions_open(Oid relid);
extern void poser_transactions_begin(PoserTransactions *transactions, bool many);
extern void poser_transactions_end(PoserTransactions *transactions);
extern void poser_transactions_close(PoserTransactions *transactions);
extern bool poser_transactions_find(PoserTransactions *transactions, int64 id);
extern int64 poser_transactions_at(PoserTransactions *transactions, TimestampTz at);
extern bool poser_transactions_counts(PoserTransactions *transactions, int64 id, TimestampTz at);

/* change_id.c */

/* Greater ids are ignored, because the sequence could not go on from them. */
#define POSER_MAX_CHANGE_ID (PG_INT64_MAX / 2)

extern int64 poser_version_last_change(const PoserVersioned *versioned);
extern int64 poser_change_id_last(Relation rel, const char *key, const char *value);
extern int64 poser_change_id_greatest(const PoserVersioned *versioned);
extern int64 poser_change_id_given(const PoserVersioned *versioned);
extern int64 poser_change_id_next(const PoserVersioned *versioned);
extern void poser_change_id_advance(const PoserVersioned *versioned, int64 id);
extern void poser_change_id_signal(const PoserVersioned *versioned);

/* version_writer.c */
typedef struct PoserVersionWriter PoserVersionWriter;

extern PoserVersionWriter *poser_version_begin(const PoserVersioned *versioned, const char *comment);
extern void poser_version_write(PoserVersionWriter *writer, PoserOperation operation,
								TupleTableSlot *row, bool is_version);
extern Relation poser_version_flush(PoserVersionWriter *writer);
extern void poser_version_end(PoserVersionWriter *writer);

/* version_lookup.c */
extern List *poser_version_leaves(Relation versions);
extern void poser_version_lookup_open(PoserLookup *lookup, const PoserVersioned *versioned, Relation versions);
extern void poser_version_lookup_begin(PoserLookup *lookup, const PoserVersioned *versioned, TupleTableSlot *row,
									   bool is_version);
extern bool poser_version_lookup_next(PoserLookup *lookup);
extern PoserOperation poser_version_operation(const PoserVersioned *versioned, TupleTableSlot *version);
extern int64 poser_version_change_id(const PoserVersioned *versioned, TupleTableSlot *version);
extern int64 poser_version_transaction_id(const PoserVersioned *versioned, TupleTableSlot *version);
extern bool poser_version_lookup_ends_in(PoserLookup *lookup, const PoserVersioned *versioned, TupleTableSlot *row);

/* Look-ups of the rows of a table by the key of its history. */
typedef struct PoserRowLookup
{
	PoserLookup lookup;		  /* "slot" is NULL if the key has no unique index */
	Relation rel;			  /* the table */
	int keys[INDEX_MAX_KEYS]; /* by column of the index: which column of the key it is */
} PoserRowLookup;

extern void poser_row_lookup_open(PoserRowLookup *rows, const PoserVersioned *versioned);
extern bool poser_row_lookup_find(PoserRowLookup *rows, const PoserVersioned *versioned, TupleTableSlot *row,
								  bool is_version);
extern void poser_row_lookup_wait(PoserRowLookup *rows, const PoserVersioned *versioned, TupleTableSlot *row);
extern void poser_row_lookup_close(PoserRowLookup *rows);

/* reconcile.c */
typedef struct PoserReconciler PoserReconciler;

extern PoserReconciler *poser_reconcile_begin(const PoserVersioned *versioned, PoserVersionWriter *writer,
											  int64 since, bool replaced);
extern void poser_reconcile_change(PoserReconciler *reconciler, PoserOperation operation,
								   TupleTableSlot *old, TupleTableSlot *new);
extern void poser_reconcile_wait(PoserReconciler *reconciler, TupleTableSlot *row);
extern void poser_reconcile_row(PoserReconciler *reconciler, TupleTableSlot *row, bool is_version);
extern void poser_reconcile_end(PoserReconciler *reconciler);
extern void poser_reconcile_since(const PoserVersioned *versioned, int64 since);

/* history_query.c */

/* The role that reads a history, see the head of that file. */
typedef struct PoserReader
{
	bool is_owner; /* the current user is not the caller, but an owner */
	PoserCaller caller;
} PoserReader;

extern void poser_history_become_owner(PoserReader *reader, Oid relid);
extern void poser_history_become_reader(PoserReader *reader, const PoserVersioned *versioned);
extern void poser_history_become_caller(PoserReader *reader);
extern void poser_history_check_key(const PoserVersioned *versioned);
extern void poser_history_check_select(const PoserVersioned *versioned);
extern const char *poser_history_column(const PoserVersioned *versioned, AttrNumber column);
extern AttrNumber poser_history_lookup_column(const PoserVersioned *versioned, const char *name, Oid keytype);
extern void poser_history_append_column(StringInfo sql, const PoserVersioned *versioned, AttrNumber column,
										const char *template);
extern void poser_history_append_columns(StringInfo sql, const PoserVersioned *versioned, const char *template);
extern void poser_history_append_keys(StringInfo sql, const PoserVersioned *versioned, const char *separator,
									  const char *template);
extern void poser_history_append_last_versions(StringInfo sql, const PoserVersioned *versioned,
											   const char *condition);
extern void poser_history_append_versions(StringInfo sql, const PoserVersioned *versioned, const char *alias);
extern bool poser_history_is_restricted(const PoserVersioned *versioned);
extern void poser_history_append_restriction(StringInfo sql, const PoserVersioned *versioned);
extern void poser_history_lock(const PoserVersioned *tables, int ntables);
extern uint64 poser_history_run_as_owner(const PoserVersioned *versioned, const PoserQuery *query);
extern void poser_history_check_position(Oid type);
extern int64 poser_history_position(int column, bool *isnull);

/* The position up to which the history has been pruned; zeros if it has not been. */
typedef struct PoserHorizon
{
	int64 transaction_id;
	int64 change_id;
	TransactionId written_by; /* own tables: the server's transaction that has written it */
} PoserHorizon;

extern PoserHorizon poser_own_horizon(Oid versions, bool read_only);
extern PoserHorizon poser_history_horizon(const PoserVersioned *versioned, bool read_only);

/* history.c */
extern bool poser_history_pairs_are_wide(const PoserVersioned *versioned);
extern bool poser_history_receive(PoserHistory *history, const PoserVersioned *versioned, PoserQuery *query,
								  bool pairs, int64 max_versions);

/* match.c */

/* The rows in which columns have these values, see match.c. */
typedef struct PoserMatch
{
	int ncolumns;
	AttrNumber *columns; /* of the versions */
	int *parameters;	 /* by column: the number of the query's parameter; 0 if the column must be null */
	int nargs;
	Oid *argtypes; /* of the parameters; with room for one more, see poser_match_add_parameter() */
	Datum *values;
	bool only_key;	/* no other columns than those of the key */
	bool whole_key; /* a value for each column of the key, and no other columns */
} PoserMatch;

extern PoserMatch *poser_match_read(const PoserVersioned *versioned, Jsonb *object);
extern PoserMatch *poser_match_value(const PoserVersioned *versioned, AttrNumber column, Datum value);
extern void poser_match_append(StringInfo sql, const PoserVersioned *versioned, const PoserMatch *match,
							   const char *alias, bool live);
extern int poser_match_add_parameter(PoserMatch *match, int64 value);
extern bool poser_match_is_indexed(const PoserVersioned *versioned, const PoserMatch *match);

/* revert.c */
extern int64 poser_history_revert_matching(const PoserVersioned *versioned, PoserMatch *match, int64 transaction_id);

/* as_of.c */
extern void poser_history_as_of_matching(FunctionCallInfo fcinfo, const PoserVersioned *versioned, TimestampTz at,
										 Jsonb *object);

/* prune.c */
extern void poser_prune_lock_out(const PoserVersioned *versioned);
extern bool poser_collect_transactions(Tuplestorestate *used, TupleDesc desc, const PoserVersioned *tables,
									   int ntables, int64 transaction_id);

#endif /* POSER_VERSION_INTERNAL_H */
