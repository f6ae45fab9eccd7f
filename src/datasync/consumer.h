/*
 * consumer.h
 *	  What the files of datasync share.
 */
#ifndef POSER_CONSUMER_H
#define POSER_CONSUMER_H

#include "fmgr.h"
#include "utils/tuplestore.h"

#include "versions/versions.h"

/* The row of a consumer.  What is not by value is in the context. */
typedef struct PoserConsumer
{
	Oid nspid; /* the extension's schema */
	Oid relid; /* the table of consumers */
	Name name;
	MemoryContext context;
	Oid caller; /* on whose behalf we act as the owner */
	int caller_context;

	char *handler;
	char *runas;
	bool own_changes;
	int64 own_after;	  /* its handler's transactions are after this one */
	struct varlena *from; /* snapshots; NULL for the beginning */
	struct varlena *to;	  /* NULL if there is no window */
	int64 confirmed;
	int64 delivered;
	int64 last_change;
	int64 settled;
	uint64 next_settled_xact; /* 0 if there is none */
	int64 next_settled;
	bool has_confirmed; /* in this call */
	int32 attempts;
	char *last_error;
	bool failed; /* last_failed_at is now */
	int64 failed_change;
	bool changed; /* and not saved */
} PoserConsumer;

/* Consumers whose handlers this session is running, the innermost first. */
typedef struct PoserRunningHandler
{
	Name name;
	struct PoserRunningHandler *outer;
} PoserRunningHandler;

/* consumer.c */
extern PoserRunningHandler *poser_running_handlers;

extern void poser_consumer_become_owner(PoserConsumer *consumer);
extern void poser_consumer_become_caller(PoserConsumer *consumer);
extern void poser_renew_snapshot(void);
extern int64 poser_datasync_int64(int column);
extern char *poser_datasync_relation(Oid nspid, const char *name);
extern void poser_consumer_init(PoserConsumer *consumer, Name name, Oid relid);
extern Oid poser_consumer_table(FunctionCallInfo fcinfo);
extern Oid poser_consumer_table_beside(Oid transactions);
extern void poser_consumer_argument(PoserConsumer *consumer, FunctionCallInfo fcinfo, const char *function);
extern void poser_consumer_read(PoserConsumer *consumer, bool lock);
extern bool poser_consumer_update(PoserConsumer *consumer, const char *query, int nargs, const Oid *argtypes,
								  const Datum *values, const char *nulls);
extern bool poser_consumer_is_updating(Oid relid);
extern void poser_snapshot_parameter(struct varlena *snapshot, Datum *value, char *null);
extern void poser_consumer_save(PoserConsumer *consumer);
extern void poser_consumer_lock(PoserConsumer *consumer);
extern void poser_consumer_open(PoserConsumer *consumer, bool only_owner);

/* window.c */
extern int64 poser_last_change_id(Oid nspid);
extern void poser_datasync_describe(PoserVersioned *tables, Oid nspid);
extern int poser_begin_reading(void);
extern int64 poser_first_unseen_transaction(Oid nspid, struct varlena *from, struct varlena *to);
extern bool poser_window_is_open(const PoserConsumer *consumer);
extern void poser_window_close(PoserConsumer *consumer);
extern struct varlena *poser_take_position(PoserConsumer *consumer);
extern bool poser_window_open(PoserConsumer *consumer, PoserVersioned *tables);
extern void poser_window_deliver(PoserConsumer *consumer, int64 change_id);
extern void poser_window_confirm(PoserConsumer *consumer, int64 change_id);

/* payload.c */
typedef struct PoserPayload PoserPayload;

extern Datum poser_payload_make(PoserPayload **payloads, MemoryContext context, Datum record);

/* change.c */
/* Columns of poser_change. */
#define CHANGE_ID 1
#define CHANGE_PAYLOAD 8
#define CHANGE_COLUMNS 8

/* That a transaction "t" is not that of the handler of the consumer $1, which is later than $4. */
#define NOT_ITS_OWN \
	"(t.consumer IS NULL OR t.consumer OPERATOR(pg_catalog.<>) $1" \
	" OR t.id OPERATOR(pg_catalog.<=) $4)"

/* That it is one that the snapshot $2 has not seen, if there is one. */
#define NOT_BEFORE "($2 IS NULL OR NOT pg_catalog.pg_visible_in_snapshot(t.xact, $2))"

extern void poser_consumer_parameters(PoserConsumer *consumer, Datum *values, char *nulls);
extern TupleDesc poser_change_desc(PoserConsumer *consumer);
extern int64 poser_fetch_changes(PoserConsumer *consumer, Tuplestorestate *store, int64 limit, bool with_payload,
								 int64 *first, int64 *last);
extern int64 poser_max_changes_argument(FunctionCallInfo fcinfo);
extern int64 poser_last_pruned_change(Oid nspid);

/* handler.c */
extern char *poser_handler_name(Oid fnoid, Oid nspid);

#endif /* POSER_CONSUMER_H */
