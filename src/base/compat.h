/*
 * compat.h
 *	  Differences between the major versions of PostgreSQL.
 *
 * The code is written for the newest major version, which is 19.  This file defines
 * what older versions lack.  Where only the arguments of a function differ, a macro
 * with the function's name takes the arguments of 19, and passes on those that the
 * older function has.  The header that declares the function is included above, before
 * the macro: otherwise the macro would change the declaration, too.
 *
 * No other file looks at PG_VERSION_NUM, and test/run check-static makes sure.
 */
#ifndef POSER_COMPAT_H
#define POSER_COMPAT_H

#include "access/genam.h"
#include "access/tableam.h"
#include "catalog/pg_namespace.h"
#include "executor/executor.h"
#include "optimizer/optimizer.h"
#include "storage/lock.h"
#include "utils/acl.h"
#include "utils/backend_status.h"
#include "utils/jsonb.h"
#include "utils/regproc.h"
#include "utils/tuplesort.h"

/* Before 19 the headers above include these. */
#include "utils/hsearch.h"
#include "utils/tuplestore.h"

/* Later minor releases have a member for each event.  The Makefile looks which one this is. */
#ifdef POSER_ONE_TCS_PRIVATE
#define tcs_insert_private tcs_private
#define tcs_delete_private tcs_private
#endif

#if PG_VERSION_NUM < 190000

/* In 19 this must be called when a tuple descriptor that is made by hand is complete. */
#define TupleDescFinalize(desc) ((void) 0)

/* 19 adds flags to the functions that begin a scan, and options to those that write. */
#define SO_NONE 0
#define table_beginscan(rel, snapshot, nkeys, keys, flags) \
	table_beginscan(rel, snapshot, nkeys, keys)
#define table_index_fetch_begin(rel, flags) \
	table_index_fetch_begin(rel)
#define table_beginscan_tidrange(rel, snapshot, first, last, flags) \
	table_beginscan_tidrange(rel, snapshot, first, last)
#define table_tuple_update(rel, tid, slot, cid, options, snapshot, crosscheck, wait, tmfd, lockmode, indexes) \
	table_tuple_update(rel, tid, slot, cid, snapshot, crosscheck, wait, tmfd, lockmode, indexes)
#define table_tuple_delete(rel, tid, cid, options, snapshot, crosscheck, wait, tmfd) \
	table_tuple_delete(rel, tid, cid, snapshot, crosscheck, wait, tmfd, false)

/* 18 added "instrument", which counts the index searches of a scan. */
#if PG_VERSION_NUM >= 180000
#define index_beginscan(rel, index, snapshot, instrument, nkeys, norderbys, flags) \
	index_beginscan(rel, index, snapshot, instrument, nkeys, norderbys)
#else
#define index_beginscan(rel, index, snapshot, instrument, nkeys, norderbys, flags) \
	index_beginscan(rel, index, snapshot, nkeys, norderbys)
#endif

/* 19 has flags, and older versions have a bool for each flag.  The last flag exists since 16. */
#define EIIT_IS_UPDATE (1 << 0)
#define EIIT_NO_DUPE_ERROR (1 << 1)
#define EIIT_ONLY_SUMMARIZING (1 << 2)
#if PG_VERSION_NUM >= 160000
#define ExecInsertIndexTuples(indexes, estate, flags, slot, arbiters, conflict) \
	ExecInsertIndexTuples(indexes, slot, estate, ((flags) &EIIT_IS_UPDATE) != 0, \
						  ((flags) &EIIT_NO_DUPE_ERROR) != 0, conflict, arbiters, \
						  ((flags) &EIIT_ONLY_SUMMARIZING) != 0)
#else
#define ExecInsertIndexTuples(indexes, estate, flags, slot, arbiters, conflict) \
	ExecInsertIndexTuples(indexes, slot, estate, ((flags) &EIIT_IS_UPDATE) != 0, \
						  ((flags) &EIIT_NO_DUPE_ERROR) != 0, conflict, arbiters)
#endif

/* 19 keeps the value that is being built in one struct, and its last call returns nothing. */
typedef struct JsonbInState
{
	JsonbValue *result;
	JsonbParseState *parseState;
} JsonbInState;
#define pushJsonbValue(state, token, value) \
	((void) ((state)->result = pushJsonbValue(&(state)->parseState, token, value)))

#endif /* before 19 */

#if PG_VERSION_NUM < 180000

/* 18 has separate expressions for GROUP BY, virtual columns, and constraints that are not enforced or not valid. */
#define flatten_group_exprs(root, query, node) (node)
#define ATTRIBUTE_GENERATED_VIRTUAL 'v'
#define fk_is_enforced(fk) true
#define column_is_not_null(desc, column) (TupleDescAttr(desc, (column) -1)->attnotnull)

#else

#define fk_is_enforced(fk) ((fk)->conenforced)
#define column_is_not_null(desc, column) \
	(TupleDescCompactAttr(desc, (column) -1)->attnullability == ATTNULLABLE_VALID)

#endif /* before 18 */

#if PG_VERSION_NUM < 170000

/* 17 added "orstronger". */
#define LockHeldByMe(locktag, lockmode, orstronger) LockHeldByMe(locktag, lockmode)

#endif /* before 17 */

#if PG_VERSION_NUM < 160000

/* Since 16 table_tuple_update() can ask for new entries in summarizing indexes only. */
typedef bool TU_UpdateIndexes;
#define TU_None false
#define UPDATES_ONLY_SUMMARIZING(indexes) false

/* 16 gave the number of a relation's file a type of its own. */
typedef Oid RelFileNumber;
#define relation_file(rel) ((rel)->rd_node.relNode)

/* Since 16 one function serves every class of objects.  These macros have the classes that Poser asks about. */
#define object_ownercheck(classid, objectid, roleid) pg_class_ownercheck(objectid, roleid)
#define object_aclcheck(classid, objectid, roleid, mode) \
	((classid) == NamespaceRelationId ? pg_namespace_aclcheck(objectid, roleid, mode) \
									  : pg_proc_aclcheck(objectid, roleid, mode))

/* 16 renamed this function. */
#define pgstat_get_local_beentry_by_index(i) pgstat_fetch_stat_local_beentry(i)

/* 16 added "root", which is NULL outside of the planner, and the outer joins that can make a column null. */
#define flatten_join_alias_vars(root, query, node) flatten_join_alias_vars(query, node)
#define clear_nulling_rels(var) ((void) 0)

/* 16 added the argument "escontext" to the first function, and "copy" to the second. */
#define stringToQualifiedNameList(string, escontext) stringToQualifiedNameList(string)
#define tuplesort_getdatum(sort, forward, copy, value, isnull, abbrev) \
	tuplesort_getdatum(sort, forward, value, isnull, abbrev)

#else

#define clear_nulling_rels(var) ((var)->varnullingrels = NULL)
#define UPDATES_ONLY_SUMMARIZING(indexes) ((indexes) == TU_Summarizing)
#define relation_file(rel) ((rel)->rd_locator.relNumber)

#endif /* before 16 */

#endif /* POSER_COMPAT_H */
