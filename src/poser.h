/*
 * poser.h
 *	  What Poser's files share.
 */
#ifndef POSER_H
#define POSER_H

#include "access/skey.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/rel.h"
#include "utils/snapshot.h"
#include "utils/timestamp.h"

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

/* The history of a table: where it is, and which column is which. */
typedef struct PoserVersioned
{
	Oid tgoid; /* hash key */
	bool valid;
	Oid relid;			/* the table */
	Oid versions;		/* of its rows */
	Oid versions_index; /* on their key and change_id; may be missing */
	Oid transactions;
	Oid horizon;
	Oid sequence;
	AttrNumber transaction_id; /* columns of versions */
	AttrNumber operation_type;
	AttrNumber change_id;
	bool unique;  /* the key of the table always is */
	bool coerces; /* some columns differ from the table's in length or such */
	int nkeys;
	AttrNumber keys[INDEX_MAX_KEYS]; /* columns of versions, too */
	int natts;
	AttrNumber source[MaxHeapAttributeNumber]; /* for each, the table's column or 0 */
} PoserVersioned;

/* As in the column operation_type. */
typedef enum PoserOperation
{
	POSER_INSERT = 0,
	POSER_UPDATE = 1,
	POSER_DELETE = 2
} PoserOperation;

typedef struct PoserVersionWriter PoserVersionWriter;
typedef struct PoserHistory PoserHistory;
typedef struct PoserPayload PoserPayload;

/* A statement between its BEFORE and its AFTER trigger, see statement.c. */
typedef struct PoserStatement
{
	Oid relid;
	int16 event;	 /* a bit of tgtype */
	bool must_end;	 /* a trigger will fire when it is over */
	bool overlapped; /* another one has written the same table meanwhile */
	CommandId cid;	 /* its snapshot's, and that of its rows */
	SubTransactionId subid;
	int64 since; /* the last change recorded before it */
	struct PoserStatement *outer;
} PoserStatement;

/* poser.c */
extern char *poser_runas;
extern char *poser_comment;
extern void poser_check_setting(const char *name, const char *value);

/* catalog.c */
extern void poser_catalog_init(void);
extern uint64 poser_relation_changes(void);
extern const PoserCountTrigger *poser_count_trigger(TriggerData *trigdata, Oid fnoid);
extern const PoserCount *poser_count_locked(TriggerData *trigdata);
extern void poser_count_describe(PoserCount *count, Oid counts, Oid deltas);
extern const PoserCountState *poser_count_state(Oid parent, Oid child, Oid nspid);
extern void poser_versioned_describe(PoserVersioned *versioned, Relation rel, Oid nspid,
									 const char *versions, int nkeys, char **keys, LOCKMODE lockmode);
extern const PoserVersioned *poser_versioned_by_trigger(TriggerData *trigdata, Oid fnoid);
extern Oid poser_relation_by_name(const char *name, Oid nspid);
extern Relation poser_open_by_name(const char *name, Oid nspid, LOCKMODE lockmode);
extern Oid poser_unique_index(Relation rel, int ncolumns, const AttrNumber *columns, bool *immediate);
extern Oid poser_id_index(Relation transactions);
extern char *poser_equality(Oid type);
extern void poser_scan_key(ScanKey key, Relation index, int column, Datum value);
extern bool poser_fetch_row(Relation rel, int nkeys, const AttrNumber *columns, const Datum *values,
							TupleTableSlot *slot, bool *found);
extern void poser_structure_error(Relation rel);
extern void poser_check_type(TupleDesc desc, int column, Oid type);
extern char *poser_relation_name(Oid relid);
extern bool poser_is_always_identity(Oid relid, AttrNumber column);
extern bool poser_is_owner(Oid relid, Oid roleid);
extern void poser_check_owner(Oid relid);
extern bool poser_may_read(Oid relid);
extern void poser_check_readable(Oid owned, Oid relid);
extern void poser_become_owner(Oid relid, Oid *save_userid, int *save_sec_context);

/* count.c */
extern void poser_count_init(void);
extern bool poser_count_serves(Oid parent, Oid child, Oid nspid);
extern int64 poser_count_rebuild(Oid parent, const char *parent_key, Oid child, const char *child_key,
								 const char *flag, Oid counts, Oid deltas);
extern void poser_count_append_comparison(StringInfo sql, Oid parent, const char *parent_key,
										  Oid child, const char *child_key, const char *flag,
										  Oid counts, Oid deltas);

/* plan.c */
extern ParamListInfo poser_params(int nargs, const Oid *argtypes, const Datum *values, const char *nulls);
extern uint64 poser_execute(const char *query, int nargs, const Oid *argtypes, const Datum *values,
							const char *nulls, bool read_only);
extern void poser_execute_for(DestReceiver *dest, const char *query, int options, int nargs,
							  const Oid *argtypes, const Datum *values, const char *nulls, long limit);
extern Portal poser_open_cursor(const char *query, int nargs, const Oid *argtypes, const Datum *values);
extern DestReceiver *poser_result_receiver(ReturnSetInfo *rsinfo);
extern void poser_lock_query(const char *query, int options, int nargs, const Oid *argtypes);
extern Oid poser_query_rewritten(const char *query, int options, int nargs, const Oid *argtypes,
								 Snapshot snapshot, const Oid *others, int nothers);

/* widget.c */
#define POSER_VERSIONED_TABLES 2
extern const char *poser_versioned_label(int i);
extern void poser_describe_versioned(PoserVersioned *tables, Oid nspid);

/* statement.c */
extern TriggerData *poser_check_trigger(FunctionCallInfo fcinfo);
extern PoserStatement *poser_statement_begin(PoserStatement **list, TriggerData *trigdata);
extern PoserStatement *poser_statement_end(PoserStatement **list, TriggerData *trigdata);
extern void poser_statement_abort(PoserStatement **list, SubTransactionId subid);
extern void poser_statement_check(PoserStatement *list);

/* version.c */
extern void poser_version_init(void);
extern void poser_version_forget(void);
extern bool poser_version_is_busy(void);
extern bool poser_version_is_writing(void);
extern const char *poser_username(void);
extern PoserVersionWriter *poser_version_begin(const PoserVersioned *versioned, const char *comment);
extern void poser_version_write(PoserVersionWriter *writer, PoserOperation operation,
								TupleTableSlot *row, bool is_version);
extern void poser_version_end(PoserVersionWriter *writer);

/* history.c */
extern PoserHistory *poser_history_begin(FunctionCallInfo fcinfo, const PoserVersioned *tables, int ntables);
extern void poser_history_add(PoserHistory *history, const PoserVersioned *versioned,
							  Datum key, Oid keytype, const char *parent);
extern void poser_history_end(PoserHistory *history);
extern void poser_history_as_of(FunctionCallInfo fcinfo, const PoserVersioned *versioned,
								TimestampTz at);
extern int64 poser_history_revert(const PoserVersioned *versioned, Datum key, Oid keytype,
								  int64 transaction_id, const PoserVersioned *children,
								  const char *parent);
extern int64 poser_history_prune(const PoserVersioned *tables, int ntables, TimestampTz before,
								 int64 limit);
extern int64 poser_history_record(const PoserVersioned *tables, int ntables, const char *comment);
extern void poser_history_append_comparison(StringInfo sql, const PoserVersioned *versioned);

/* batch.c */
extern void poser_batch_init(void);

/* datasync.c */
extern int poser_datasync_stale_after;
extern const char *poser_datasync_handling; /* the consumer whose handler is running, or NULL */
extern void poser_datasync_init(void);
extern int64 poser_datasync_needed(const PoserVersioned *tables);
extern void poser_datasync_notify(Oid transactions, int64 transaction_id);

/* payload.c */
extern Datum poser_payload_make(PoserPayload **payloads, MemoryContext context, Datum record);

/* restore.c */
extern bool poser_is_restore(Relation rel);
extern void poser_restore_wait(Relation rel);

/* rewrite.c */
extern bool poser_is_rewritten(Oid relid, Snapshot snapshot);
extern bool poser_is_rewritten_or_emptied(Oid relid, Snapshot snapshot);
extern void poser_rewritten_error(Oid relid);
extern void poser_check_rewritten(Oid relid, Snapshot snapshot);
extern List *poser_lock_tree(Oid relid);
extern void poser_lock_to_read(const Oid *relids, int n);

#endif /* POSER_H */
