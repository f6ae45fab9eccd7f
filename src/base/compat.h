/*
 * compat.h
 *	  What differs between the major versions of PostgreSQL.
 *
 * The code is written for the newest major version.  This file gives older ones
 * what they lack: functions get the arguments that they have there.  No other file
 * looks at PG_VERSION_NUM.
 */
#ifndef POSER_COMPAT_H
#define POSER_COMPAT_H

#include "access/genam.h"
#include "access/tableam.h"
#include "catalog/pg_namespace.h"
#include "executor/executor.h"
#include "utils/acl.h"
#include "utils/backend_status.h"
#include "utils/hsearch.h"
#include "utils/jsonb.h"
#include "utils/regproc.h"
#include "utils/tuplesort.h"
#include "utils/tuplestore.h"

#if PG_VERSION_NUM < 190000

#define TupleDescFinalize(desc) ((void) 0)

#define SO_NONE 0
#define table_beginscan(rel, snapshot, nkeys, keys, flags) \
	table_beginscan(rel, snapshot, nkeys, keys)
#define table_tuple_update(rel, tid, slot, cid, options, snapshot, crosscheck, wait, tmfd, lockmode, indexes) \
	table_tuple_update(rel, tid, slot, cid, snapshot, crosscheck, wait, tmfd, lockmode, indexes)
#define table_tuple_delete(rel, tid, cid, options, snapshot, crosscheck, wait, tmfd) \
	table_tuple_delete(rel, tid, cid, snapshot, crosscheck, wait, tmfd, false)

#if PG_VERSION_NUM >= 180000
#define index_beginscan(rel, index, snapshot, instrument, nkeys, norderbys, flags) \
	index_beginscan(rel, index, snapshot, instrument, nkeys, norderbys)
#else
#define index_beginscan(rel, index, snapshot, instrument, nkeys, norderbys, flags) \
	index_beginscan(rel, index, snapshot, nkeys, norderbys)
#endif

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

/* Before 19 each call returns what is complete so far. */
typedef struct JsonbInState
{
	JsonbValue *result;
	JsonbParseState *parseState;
} JsonbInState;
#define pushJsonbValue(state, token, value) \
	((void) ((state)->result = pushJsonbValue(&(state)->parseState, token, value)))

#endif /* before 19 */

#if PG_VERSION_NUM < 160000

/* Before 16 an index that only summarizes is like any other. */
typedef bool TU_UpdateIndexes;
#define TU_None false
#define UPDATES_ONLY_SUMMARIZING(indexes) false

/* Poser asks for the owner of relations only, and for privileges on schemas and functions. */
#define object_ownercheck(classid, objectid, roleid) pg_class_ownercheck(objectid, roleid)
#define object_aclcheck(classid, objectid, roleid, mode) \
	((classid) == NamespaceRelationId ? pg_namespace_aclcheck(objectid, roleid, mode) \
									  : pg_proc_aclcheck(objectid, roleid, mode))
#define pgstat_get_local_beentry_by_index(i) pgstat_fetch_stat_local_beentry(i)
#define stringToQualifiedNameList(string, escontext) stringToQualifiedNameList(string)
#define tuplesort_getdatum(sort, forward, copy, value, isnull, abbrev) \
	tuplesort_getdatum(sort, forward, value, isnull, abbrev)

#else

#define UPDATES_ONLY_SUMMARIZING(indexes) ((indexes) == TU_Summarizing)

#endif /* before 16 */

#endif /* POSER_COMPAT_H */
