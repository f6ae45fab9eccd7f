/*
 * base.h
 *	  What all other folders build on.
 */
#ifndef POSER_BASE_H
#define POSER_BASE_H

#include "access/genam.h"
#include "access/relscan.h"
#include "access/sdir.h"
#include "access/skey.h"
#include "access/stratnum.h"
#include "access/tupconvert.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "nodes/execnodes.h"
#include "utils/queryenvironment.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/snapshot.h"
#include "utils/tuplestore.h"

#include "base/compat.h"

/* relation.c */
/* Called at a relcache invalidation of this relation or, with InvalidOid, of all. */
typedef void (*PoserRelationCallback)(Oid relid);

extern void poser_relation_init(void);
extern void poser_relation_register(PoserRelationCallback callback);
extern uint64 poser_relation_changes(void);
extern Oid poser_relation_by_name(const char *name, Oid nspid);
extern Relation poser_open_by_name(const char *name, Oid nspid, LOCKMODE lockmode);
extern void poser_lock_together(const Oid *relids, const LOCKMODE *modes, int n);
extern bool poser_lock_at_once(Oid relid, LOCKMODE mode);
extern Oid poser_unique_index(Relation rel, int ncolumns, const AttrNumber *columns, bool *immediate);
extern char *poser_equality(Oid type);
extern AttrNumber poser_own_column(Relation rel, const char *name, Oid type);
extern AttrNumber poser_user_column(Relation rel, const char *name, const char *hint);
extern void poser_structure_error(Relation rel);
extern void poser_check_type(Relation rel, TupleDesc desc, int column, Oid type);
extern char *poser_relation_name(Oid relid);
extern bool poser_is_always_identity(Oid relid, AttrNumber column);
extern Oid poser_owner_of(Oid relid);
extern bool poser_have_one_owner(Oid a, Oid b);
extern bool poser_is_owner(Oid relid, Oid roleid);
extern void poser_check_owner(Oid relid);
extern bool poser_may_read(Oid relid);
extern void poser_check_readable(Oid owned, Oid relid);

/* The user that was current before poser_become_owner(). */
typedef struct PoserCaller
{
	Oid userid;
	int sec_context;
	int level; /* of settings; 0 if there are none */
} PoserCaller;

/* How code of a relation's owner runs, see poser_become_owner().  Needs miscadmin.h. */
#define POSER_AS_OWNER (SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION | SECURITY_NOFORCE_RLS)

extern void poser_become_role(Oid roleid, int context, PoserCaller *caller);
extern void poser_become_owner(Oid relid, PoserCaller *caller);
extern void poser_become_caller(PoserCaller *caller);
extern void poser_close_to_others(Oid relid);
extern Oid poser_table_by_name(const char *name, Oid nspid);
extern void poser_table_kind_error(const char *name);

/* plan.c */

/* A query or statement, and how it runs. */
typedef struct PoserQuery
{
	const char *sql;
	int nargs;
	const Oid *argtypes;
	const Datum *values;
	const char *nulls;	  /* as for SPI_execute_plan(); NULL if no value is null */
	bool read_only;		  /* use the active snapshot, and see no later command */
	bool once;			  /* keep no plan, see plan.c */
	bool no_seqscan;	  /* not with "once": read no whole table if there is another way */
	int cursor_options;	  /* CURSOR_OPT_PARALLEL_OK or 0; a parallel plan must run to its end */
	Snapshot snapshot;	  /* if given, a statement that writes uses it instead of a new one */
	bool check_rewritten; /* only with "once"; see poser_run() */
	int expected;		  /* if not 0, the SPI result that must come, such as SPI_OK_UPDATE */
	long limit;			  /* at most so many rows; 0 for all */
	DestReceiver *dest;	  /* gets the rows; if NULL, they are in SPI_tuptable */
} PoserQuery;

extern uint64 poser_run(const PoserQuery *query);
extern void poser_run_utility(const char *sql);
extern Portal poser_open_cursor_for(const PoserQuery *query);
extern DestReceiver *poser_result_receiver(ReturnSetInfo *rsinfo);
extern int64 poser_result_int64(int column, bool *isnull);
extern void poser_register_rows(EphemeralNamedRelation enr, const char *name, TupleDesc desc,
								Tuplestorestate *rows, double nrows);
extern void poser_register_trigger_rows(TriggerData *trigdata);
extern void poser_lock_query_tables(const PoserQuery *query);
extern Oid poser_find_rewritten(const PoserQuery *query, Snapshot snapshot, const Oid *others, int nothers);

/* rewrite.c */
extern bool poser_is_rewritten(Oid relid, Snapshot snapshot);
extern bool poser_is_rewritten_or_emptied(Oid relid, Snapshot snapshot);
extern void poser_rewritten_error(Oid relid);
extern void poser_check_rewritten(Oid relid, Snapshot snapshot);
extern void poser_check_transaction_snapshot(Oid relid);
extern List *poser_lock_tree(Oid relid);
extern void poser_lock_to_read(const Oid *relids, int n);

/* statement.c */

/* A statement between its BEFORE and its AFTER trigger, see statement.c. */
typedef struct PoserStatement
{
	Oid relid;
	Oid tracked;			 /* versions: the table that has the history, if "relid" is a partition of it */
	Oid function;			 /* the trigger function */
	int16 event;			 /* a bit of tgtype */
	bool must_end;			 /* an AFTER trigger must still fire for it */
	bool moves;				 /* it is there for rows that a MERGE may move, see poser_statement_fire_moves() */
	bool overlapped;		 /* another statement wrote the same table before this one was processed */
	CommandId cid;			 /* the statement's command ID; its rows have it, too */
	const void *transitions; /* see poser_statement_is_listed() */
	SubTransactionId subid;
	int64 since; /* versions: the last change_id before it */
	void *data;	 /* arriving history: what arrival.c knows about it */
	struct PoserStatement *outer;
} PoserStatement;

extern TriggerData *poser_check_trigger(FunctionCallInfo fcinfo);
extern bool poser_trigger_is_enabled(const Trigger *tg);
extern PoserStatement *poser_statement_begin(PoserStatement **list, TriggerData *trigdata);
extern bool poser_statement_is_listed(const PoserStatement *list, TriggerData *trigdata);
extern PoserStatement *poser_statement_end(PoserStatement **list, TriggerData *trigdata);
extern void poser_statement_register(PoserStatement **list);
extern void poser_statement_fire_moves(PoserStatement **list, TriggerData *trigdata, bool (*begin)(TriggerData *moves, const void *arg),
									   const void *arg);

/* One of a statement's transition tables while it is read. */
typedef struct PoserTransition
{
	Tuplestorestate *store;
	TupleTableSlot *slot; /* NULL without a store */
} PoserTransition;

extern void poser_check_transitions(TriggerData *trigdata);
extern void poser_transition_open(PoserTransition *rows, Tuplestorestate *store, TriggerData *trigdata);
extern void poser_transition_rewind(PoserTransition *rows);
extern bool poser_transition_next(PoserTransition *rows);
extern void poser_transition_close(PoserTransition *rows);

/* direct.c */

/* An index whose entries need no executor, see poser_direct_open_plain(). */
typedef struct PoserPlainIndex
{
	Relation rel;
	IndexInfo *info;
} PoserPlainIndex;

/* A table that is open for direct writing. */
typedef struct PoserDirectTable
{
	Relation rel;
	PoserPlainIndex *plain; /* all indexes of the table, if all are plain and are open; or NULL */
	int nplain;
	ResultRelInfo *indexes; /* all indexes, if they are open for the executor; or NULL */
	EState *estate;			/* NULL as long as indexes is */
	bool runs_code;			/* "indexes" has expressions or predicates, which are the owner's code */
} PoserDirectTable;

extern void poser_direct_open(PoserDirectTable *table, Oid relid, LOCKMODE lockmode);
extern void poser_direct_close(PoserDirectTable *table);
extern void poser_direct_open_plain(PoserDirectTable *table);
extern void poser_direct_index_new_row(PoserDirectTable *table, TupleTableSlot *slot);
extern void poser_direct_open_indexes(PoserDirectTable *table);
extern bool poser_direct_insert_index_entries(PoserDirectTable *table, TupleTableSlot *slot, uint32 flags);
extern void poser_scan_key(ScanKey key, Relation index, int column, StrategyNumber strategy, Datum value);
extern bool poser_fetch_row(Relation rel, int nkeys, const AttrNumber *columns, const Datum *values,
							TupleTableSlot *slot, bool *found);
extern bool poser_direct_delete(Relation rel, ItemPointer tid);
extern bool poser_direct_delete_seen(Relation rel, ItemPointer tid, Snapshot snapshot);

/*
 * An index of a table, to look up rows.  The index of a partitioned table is looked up in
 * all partitions; then "scan" is NULL, and the rows come in the order of a column.  Without
 * an index, "reading" finds the rows by reading the table.
 */
typedef struct PoserLookup
{
	Relation index;
	IndexScanDesc scan;
	TupleTableSlot *slot; /* NULL when it is not open */
	struct PoserLookupPartition *partitions;
	int npartitions;
	struct PoserLookupReading *reading;
	AttrNumber order; /* the column (bigint) that follows the looked-up ones in the index; 0 if the order does not matter */
	int nkeys;
	ScanKey keys;			 /* of the last look-up, to be used again */
	StrategyNumber strategy; /* InvalidStrategy before the first one */
	MemoryContext context;
} PoserLookup;

extern void poser_lookup_open(PoserLookup *lookup, Relation rel, Oid indexid, int nkeys);
extern void poser_lookup_open_unindexed(PoserLookup *lookup, Relation rel, List *relids, int nkeys, const AttrNumber *columns,
										const Oid *equal, const Oid *collations, AttrNumber order);
extern void poser_lookup_begin(PoserLookup *lookup, StrategyNumber strategy, const Datum *values, const bool *nulls);
extern bool poser_lookup_next(PoserLookup *lookup, ScanDirection direction);
extern void poser_lookup_wait(const PoserLookup *lookup, Relation rel);
extern void poser_lookup_close(PoserLookup *lookup);

/* The rows of some tables, as rows of a table that they are partitions of. */
typedef struct PoserTableScan
{
	List *relids; /* the tables that are left */
	Relation whole;
	TupleTableSlot *slot; /* the row, in the row type of "whole" */
	Relation rel;		  /* the table that is being read; NULL if none is */
	TableScanDesc scan;
	TupleTableSlot *row; /* its row */
	TupleConversionMap *map;
} PoserTableScan;

extern void poser_scan_begin(PoserTableScan *scan, List *relids, Relation whole);
extern bool poser_scan_next(PoserTableScan *scan);
extern void poser_scan_end(PoserTableScan *scan);

/* trigger.c */

/* A trigger that Poser makes. */
typedef struct PoserTriggerKind
{
	const char *name;
	const char *function;
	int16 type; /* tgtype */
	const char *event;
	const char *old_rows; /* transition tables, or NULL */
	const char *new_rows;
	const char *level;
	char enabled;		   /* tgenabled */
	const char *condition; /* of WHEN, or NULL */
} PoserTriggerKind;

/* The state of such a trigger. */
typedef enum PoserTriggerState
{
	POSER_TRIGGER_RIGHT,
	POSER_TRIGGER_MISSING,
	POSER_TRIGGER_WRONG,	 /* it has another definition */
	POSER_TRIGGER_NOT_FIRING /* it is disabled, or fires in other sessions than it should */
} PoserTriggerState;

extern Oid poser_trigger_function(const char *name, Oid nspid);
extern List *poser_triggers_of_function(Oid relid, Oid function);
extern HeapTuple poser_trigger_of_name(Oid relid, const char *name);
extern List *poser_triggers_depending_on(Oid classid, Oid objid, Oid function);
extern Datum poser_trigger_attribute(HeapTuple tuple, AttrNumber column, bool *isnull);
extern PoserTriggerState poser_trigger_tuple_state(const PoserTriggerKind *kind, HeapTuple tuple, Oid nspid,
												   bool compare_arguments, const List *arguments, Oid of);
extern PoserTriggerState poser_trigger_state(const PoserTriggerKind *kind, Oid relid, Oid nspid, const List *arguments, Oid of);
extern bool poser_trigger_calls_function(Oid relid, const PoserTriggerKind *kind, Oid nspid);
extern char *poser_trigger_create_sql(const PoserTriggerKind *kind, Oid relid, Oid nspid, const List *arguments, Oid of);
extern char *poser_trigger_enable_sql(const PoserTriggerKind *kind, Oid relid);

/* type.c */
extern char *poser_type_sql(Oid type, int32 typmod, Oid collation);
extern bool poser_has_system_casts(Oid type);
extern bool poser_is_system_type(Oid type);
extern bool poser_has_json_cast(Oid type);

/* payload.c */
typedef struct PoserPayload PoserPayload;

extern PoserPayload *poser_payload_describe(TupleDesc desc, const char *const *names);
extern Datum poser_payload_form(PoserPayload *payload, const Datum *values, const bool *nulls);
extern Datum poser_payload_make(PoserPayload **payloads, MemoryContext context, Datum record);

/* script_lock.c */
extern bool poser_holds_lock(void);

/* setting.c */

/* A setting and its value until poser_begin_settings()'s level ends. */
typedef struct PoserSetting
{
	const char *name;
	const char *value;
} PoserSetting;

extern char *poser_runas;
extern char *poser_comment;

extern void poser_setting_init(void);
extern void poser_check_setting(const char *name, const char *value);
extern int poser_begin_settings(const PoserSetting *settings, int n);
extern int poser_begin_text_settings(void);
extern int poser_begin_impatience(Oid relid);

/* progress.c */

/* Long work, as pg_stat_activity shows it. */
typedef struct PoserProgress
{
	const char *what; /* the function and its table */
	const char *phase;
	int64 done;						/* rows in this phase */
	const char *activity;			/* the query that the session showed before */
	char text[2 * NAMEDATALEN + 8]; /* see poser_progress_table() */
	uint64 query_id;
} PoserProgress;

extern void poser_progress_begin(PoserProgress *progress, const char *what);
extern void poser_progress_table(PoserProgress *progress, const char *function, Oid relid);
extern void poser_progress_report(PoserProgress *progress, const char *phase, int64 rows);
extern void poser_progress_count(PoserProgress *progress, int64 rows);
extern void poser_progress_end(PoserProgress *progress);

/* savepoint.c */

/* What is current again after the subtransaction. */
typedef struct PoserSavepoint
{
	MemoryContext context;
	ResourceOwner owner;
} PoserSavepoint;

extern void poser_savepoint_set(PoserSavepoint *savepoint);
extern void poser_savepoint_release(PoserSavepoint *savepoint);
extern void poser_savepoint_rollback(PoserSavepoint *savepoint);
extern ErrorData *poser_savepoint_catch_any(PoserSavepoint *savepoint);
extern bool poser_is_cancel_request(const ErrorData *error);

#endif /* POSER_BASE_H */
