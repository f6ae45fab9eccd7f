/*
 * base.h
 *	  What all other folders build on.
 */
#ifndef POSER_BASE_H
#define POSER_BASE_H

#include "access/skey.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/snapshot.h"

#include "base/compat.h"

/* relation.c */
extern void poser_relation_init(void);
extern uint64 poser_relation_changes(void);
extern Oid poser_relation_by_name(const char *name, Oid nspid);
extern Relation poser_open_by_name(const char *name, Oid nspid, LOCKMODE lockmode);
extern Oid poser_unique_index(Relation rel, int ncolumns, const AttrNumber *columns, bool *immediate);
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
extern Oid poser_table_by_name(const char *name, Oid nspid);
extern void poser_table_kind_error(const char *name);

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

/* rewrite.c */
extern bool poser_is_rewritten(Oid relid, Snapshot snapshot);
extern bool poser_is_rewritten_or_emptied(Oid relid, Snapshot snapshot);
extern void poser_rewritten_error(Oid relid);
extern void poser_check_rewritten(Oid relid, Snapshot snapshot);
extern List *poser_lock_tree(Oid relid);
extern void poser_lock_to_read(const Oid *relids, int n);

/* statement.c */

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

extern TriggerData *poser_check_trigger(FunctionCallInfo fcinfo);
extern PoserStatement *poser_statement_begin(PoserStatement **list, TriggerData *trigdata);
extern PoserStatement *poser_statement_end(PoserStatement **list, TriggerData *trigdata);
extern void poser_statement_abort(PoserStatement **list, SubTransactionId subid);
extern void poser_statement_check(PoserStatement *list);

/* setting.c */

/* A setting and the value that it has for a while. */
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

/* savepoint.c */

/* Where to go back to. */
typedef struct PoserSavepoint
{
	MemoryContext context;
	ResourceOwner owner;
} PoserSavepoint;

extern void poser_savepoint_set(PoserSavepoint *savepoint);
extern void poser_savepoint_release(PoserSavepoint *savepoint);
extern void poser_savepoint_rollback(PoserSavepoint *savepoint);
extern ErrorData *poser_savepoint_catch_any(PoserSavepoint *savepoint);

#endif /* POSER_BASE_H */
