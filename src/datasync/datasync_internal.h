/*
 * datasync_internal.h
 *	  What the files of this folder share, and no other folder uses.
 *
 * window.c explains positions and windows.
 */
#ifndef POSER_DATASYNC_INTERNAL_H
#define POSER_DATASYNC_INTERNAL_H

#include "access/sdir.h"
#include "fmgr.h"
#include "nodes/pg_list.h"
#include "utils/array.h"
#include "utils/tuplestore.h"

#include "versions/versions.h"

/* A consumer for which a function is working. */
typedef struct PoserConsumer
{
	Oid nspid;			   /* the extension's schema */
	Oid relid;			   /* poser_datasync_consumer */
	Name name;			   /* its key */
	MemoryContext context; /* has the strings and snapshots of this struct */
	PoserCaller caller;	   /* the caller of the function, see poser_consumer_become_caller() */

	/* Columns of its row.  0 and NULL stand for null, unless noted. */
	char *handler;
	char *runas;
	bool own_changes;		  /* the consumer also gets the changes that its own handler makes */
	int64 own_after;		  /* the consumer was added after this transaction_id or change_id */
	struct varlena *from;	  /* from_snapshot, the position; NULL at the beginning */
	struct varlena *to;		  /* to_snapshot, the end of the open window; NULL if none is open */
	int64 confirmed;		  /* changes of the window up to this one are confirmed; without snapshots, the position */
	int64 delivered;		  /* the last change of the window that was delivered */
	int64 last_change;		  /* the greatest change_id that the window can have */
	int64 settled;			  /* a position without snapshots, see window.c */
	int64 next_settled;		  /* see next_settled_xact */
	uint64 next_settled_xact; /* when all transactions before this one have ended, "settled" becomes "next_settled" */
	int32 attempts;			  /* of the handler at "failed_change" */
	char *last_error;		  /* of the handler */
	int64 failed_change;	  /* failed_change_id */

	/* which tables it gets the changes of, see consumer_tables.c */
	ArrayType *tables;		/* of regclass; NULL for all that the owner owns */
	ArrayType *table_names; /* of text, see poser_tables_name() */
	bool old_values;		/* it also gets the rows before the changes */

	/* what poser_consumer_save() has to do */
	bool changed;		/* write the columns */
	bool has_confirmed; /* set last_confirmed_at to now */
	bool has_failed;	/* set last_failed_at to now */
} PoserConsumer;

/* A handler that this session is running. */
typedef struct PoserRunningHandler
{
	Name consumer;
	struct PoserRunningHandler *outer; /* the handler that has called poser_datasync_run() for this one, or NULL */
} PoserRunningHandler;

/* consumer.c */
extern PoserRunningHandler *poser_running_handlers; /* the innermost first */

extern void poser_consumer_become_owner(PoserConsumer *consumer);
extern void poser_consumer_become_caller(PoserConsumer *consumer);
extern void poser_consumer_renew_snapshot(void);
extern Oid poser_consumer_table(FunctionCallInfo fcinfo);
extern Oid poser_consumer_table_beside(Oid transactions);
extern void poser_consumer_init(PoserConsumer *consumer, Name name, Oid relid);
extern void poser_consumer_from_argument(PoserConsumer *consumer, FunctionCallInfo fcinfo, const char *function);
extern void poser_consumer_read(PoserConsumer *consumer, bool lock);
extern void poser_consumer_read_tables(PoserConsumer *consumer);
extern bool poser_consumer_update(PoserConsumer *consumer, const PoserQuery *query);
extern bool poser_consumer_is_updating(Oid relid);
extern void poser_consumer_save(PoserConsumer *consumer);
extern void poser_consumer_lock(PoserConsumer *consumer);
extern void poser_consumer_open(PoserConsumer *consumer, bool only_owner);
extern void poser_snapshot_parameter(struct varlena *snapshot, Datum *value, char *null);
extern char *poser_datasync_relation_name(Oid nspid, const char *name);

/* consumer_tables.c */

/* A table that a consumer gets the changes of. */
typedef struct PoserFeedTable
{
	PoserTracked tracked;
	int64 greatest; /* no version has a greater change_id; set by poser_feed_changed() */
} PoserFeedTable;

extern ArrayType *poser_tables_check(ArrayType *tables, Oid nspid);
extern ArrayType *poser_tables_name(ArrayType *tables);
extern void poser_tables_arrive(ArrayType **tables, ArrayType **names);
extern List *poser_feed_tables(PoserConsumer *consumer, char **problem, bool ungranted);
extern void poser_feed_check(PoserConsumer *consumer);
extern bool poser_feed_look(const PoserFeedTable *table, Snapshot snapshot, ScanDirection direction, int64 after,
							int64 *change_id);
extern List *poser_feed_changed(List *tables, int64 after);
extern Oid poser_feed_lock(PoserConsumer *consumer, List **changed);
extern void poser_feed_describe(PoserVersioned *versioned, PoserConsumer *consumer, const PoserFeedTable *table);
extern int64 poser_feed_pruned(const PoserFeedTable *table);
extern uint64 poser_feed_run(const PoserFeedTable *table, const PoserQuery *query);

/* window.c */
extern int poser_begin_reading(void);
extern Oid poser_lock_transactions(Oid nspid);
extern int64 poser_last_change_id(Oid nspid);
extern int64 poser_first_unseen_transaction(Oid nspid, struct varlena *from, struct varlena *to);
extern struct varlena *poser_take_snapshot(PoserConsumer *consumer);
extern bool poser_window_is_open(const PoserConsumer *consumer);
extern bool poser_window_open(PoserConsumer *consumer, List **changed);
extern List *poser_window_changed(PoserConsumer *consumer);
extern void poser_window_close(PoserConsumer *consumer);
extern void poser_window_deliver(PoserConsumer *consumer, int64 change_id);
extern void poser_window_confirm(PoserConsumer *consumer, int64 change_id);

/* change_transaction.c */

/* What a consumer gets of the transaction of a change. */
typedef struct PoserChangeTransaction
{
	int64 id;
	Datum issued_at;
	Datum username;
	bool issued_at_isnull;
	bool username_isnull;
	bool delivered; /* the window has its changes, and they are not the consumer's own */
	bool used;		/* this and the next one are private to change_transaction.c */
	char status;
} PoserChangeTransaction;

typedef struct PoserChangeTransactions PoserChangeTransactions;

extern PoserChangeTransactions *poser_change_transactions(PoserConsumer *consumer, Oid relid);
extern const PoserChangeTransaction *poser_change_transaction(PoserChangeTransactions *transactions, int64 id);

/* change_read.c */
extern TupleDesc poser_change_desc(PoserConsumer *consumer);
extern int64 poser_read_window(PoserConsumer *consumer, List *changed, Tuplestorestate *store, int64 limit,
							   bool with_payload, int64 *first, int64 *last);

/* change.c */

/* Columns of poser_change.  Those that 1.6 has added are found by their names. */
#define CHANGE_ID 1
#define CHANGE_TRANSACTION 2
#define CHANGE_ISSUED_AT 3
#define CHANGE_USERNAME 4
#define CHANGE_PAYLOAD_TYPE 5
#define CHANGE_PAYLOAD_KEY 6
#define CHANGE_DELETION 7
#define CHANGE_PAYLOAD 8
#define CHANGE_COLUMNS 8

/*
 * Conditions on a row "t" of poser_transaction.  poser_consumer_query() sets
 * their parameters: $1 is the consumer's name, $2 its from_snapshot, $3 its to_snapshot
 * and $4 its own_after.
 */

/* The transaction's changes were not made by the consumer's own handler. */
#define IS_NOT_OWN \
	"(t.consumer IS NULL OR t.consumer OPERATOR(pg_catalog.<>) $1" \
	" OR t.id OPERATOR(pg_catalog.<=) $4)"

/* The position does not see the transaction. */
#define IS_NOT_SEEN "($2 IS NULL OR NOT pg_catalog.pg_visible_in_snapshot(t.xact, $2))"

extern uint64 poser_consumer_query(PoserConsumer *consumer, PoserQuery query, int nmore, const int64 *more);
extern Tuplestorestate *poser_change_store(MemoryContext parent, bool random_access);
extern int64 poser_fetch_changes(PoserConsumer *consumer, Tuplestorestate *store, int64 limit, bool with_payload,
								 int64 *first, int64 *last);
extern int64 poser_max_changes_argument(FunctionCallInfo fcinfo);

/* handler.c */
extern char *poser_handler_name(Oid fnoid, Oid nspid);

#endif /* POSER_DATASYNC_INTERNAL_H */
