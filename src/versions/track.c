/*
 * track.c
 *	  poser_track(): giving a table a history and, after ALTER TABLE, making the history follow.
 *
 * The function compares what is there with what should be there, and makes the difference.
 * So it can be called again at any time.  It compares twice:
 *
 * - First it only looks, with the weakest locks.  If nothing is to be done, it ends here.
 *   So a migration can call it each time.
 * - Then it locks the table and its partitions against writers, and the table of versions
 *   if that is to be altered.  It looks again, because another session may have changed
 *   something before the lock, and does what is missing.
 *
 * Each step asks poser_track_must() before it does something.  This function notes in the
 * first pass that there is something to do, and sends the NOTICE in the second pass.
 *
 * The statements run as the owner of the relation that they change, in a
 * security-restricted operation.  So code of the owner, for instance in the type of a
 * column, gets the owner's rights only, even if a superuser calls the function.
 *
 * The invariant: when poser_track() returns, the table has all its triggers, its binding
 * has the table's columns as they are, and the last version of each row has the values of
 * the row.  With existing => false the last part holds for rows that have a version.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/catalog.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

#include "versions/track_internal.h"

PG_FUNCTION_INFO_V1(poser_track);

/*
 * Doing something
 */

/*
 * Must this be done, which the message describes?  In the first pass the answer is no,
 * and the call is noted.  In the second one it is yes, and there is a NOTICE, unless the
 * table was not tracked before.  "alters" says that the table of versions must be locked
 * exclusively.
 */
bool
poser_track_must(PoserTrack *track, bool alters, const char *format, ...)
{
	StringInfoData message;
	va_list args;
	int needed;

	track->todo = true;
	track->alters = track->alters || alters;
	if (track->looking)
		return false;
	/* what is done to a new table of versions needs no NOTICE of its own */
	if (track->quiet || (alters && track->is_new))
		return true;
	initStringInfo(&message);
	for (;;)
	{
		va_start(args, format);
		needed = appendStringInfoVA(&message, format, args);
		va_end(args);
		if (needed == 0)
			break;
		enlargeStringInfo(&message, needed);
	}
	ereport(NOTICE, errmsg_internal("%s", message.data));
	track->noticed = true;
	return true;
}

/* Run a statement as the caller of poser_track(), in a security-restricted operation. */
static void
run_as_caller(const char *sql)
{
	PoserCaller caller;

	poser_become_role(GetUserId(), SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION, &caller);
	poser_run_utility(sql);
	poser_become_caller(&caller);
}

/*
 * Run a statement that changes this relation, as the relation's owner.  If the caller does
 * not have the owner's rights, it runs as the caller, and the server checks what the
 * caller may do.
 */
void
poser_track_run(const PoserTrack *track, Oid relid, const char *sql)
{
	PoserCaller caller;

	if (!poser_is_owner(relid, GetUserId()) && !poser_have_one_owner(relid, track->relid))
	{
		run_as_caller(sql);
		return;
	}
	poser_become_owner(relid, &caller);
	poser_run_utility(sql);
	poser_become_caller(&caller);
}

/*
 * Run a statement that needs rights on both the table and its versions.  If they have two
 * owners, the caller needs the rights.
 */
void
poser_track_run_on_both(const PoserTrack *track, const char *sql)
{
	if (poser_have_one_owner(track->relid, track->versions))
		poser_track_run(track, track->relid, sql);
	else
		run_as_caller(sql);
}

/*
 * Does a query give a row?  It reads this relation, with the rights of the relation's owner
 * and with a snapshot that is newer than the lock on it.
 */
bool
poser_track_finds_row(const PoserTrack *track, Oid relid, const char *sql)
{
	PoserCaller caller;
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	bool result;

	PushActiveSnapshot(snapshot);
	SPI_connect();
	poser_become_owner(relid, &caller);
	result = poser_run(&(PoserQuery) {.sql = sql, .once = true, .read_only = true, .limit = 1}) > 0;
	poser_become_caller(&caller);
	SPI_finish();
	PopActiveSnapshot();
	UnregisterSnapshot(snapshot);
	return result;
}

/*
 * Checks
 */

/* Returns why the relation cannot be tracked because of what it is, as a sentence; NULL if it can be. */
const char *
poser_track_no_table(Relation rel)
{
	switch (rel->rd_rel->relkind)
	{
		case RELKIND_RELATION:
		case RELKIND_PARTITIONED_TABLE:
			return NULL;
		case RELKIND_VIEW:
			return "It is a view.";
		case RELKIND_MATVIEW:
			return "It is a materialized view.";
		case RELKIND_FOREIGN_TABLE:
			return "It is a foreign table.";
		case RELKIND_SEQUENCE:
			return "It is a sequence.";
		case RELKIND_INDEX:
		case RELKIND_PARTITIONED_INDEX:
			return "It is an index.";
		case RELKIND_TOASTVALUE:
			return "It is a TOAST table.";
		case RELKIND_COMPOSITE_TYPE:
			return "It is a composite type.";
		default:
			return "It is not a table.";
	}
}

/* Raises the error for a table that cannot be tracked. */
static void
not_supported(Relation rel, const char *detail, const char *hint)
{
	ereport(ERROR,
			errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			errmsg("cannot track relation \"%s\"", RelationGetRelationName(rel)),
			errdetail_internal("%s", detail),
			hint != NULL ? errhint("%s", hint) : 0);
}

/* Does a trigger on this relation bind it, as a table of versions, to an existing table? */
static bool
is_table_of_versions(Oid relid, Oid nspid)
{
	return poser_triggers_of_function(relid, poser_trigger_function("poser_versions_of", nspid)) != NIL;
}

/* Raises an error unless the table can be tracked.  It is open and locked. */
static void
check_table(Relation rel, Oid nspid)
{
	const char *no_table = poser_track_no_table(rel);
	Oid extension = getExtensionOfObject(RelationRelationId, RelationGetRelid(rel));

	if (no_table != NULL)
		ereport(ERROR,
				errcode(ERRCODE_WRONG_OBJECT_TYPE),
				errmsg("cannot track relation \"%s\"", RelationGetRelationName(rel)),
				errdetail_internal("%s", no_table));
	if (RelationGetRelid(rel) < FirstNormalObjectId || IsSystemRelation(rel))
		not_supported(rel, "It belongs to the system.", NULL);
	if (OidIsValid(extension))
		not_supported(rel, psprintf("It belongs to extension \"%s\".", get_extension_name(extension)), NULL);
	if (rel->rd_rel->relispartition)
		not_supported(rel, "It is a partition.",
					  psprintf("Track \"%s\", and its partitions are tracked.",
							   get_rel_name(llast_oid(get_partition_ancestors(RelationGetRelid(rel))))));
	if (rel->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		not_supported(rel, "It is a temporary table.", NULL);
	if (rel->rd_rel->relpersistence == RELPERSISTENCE_UNLOGGED)
		not_supported(rel, "It is an unlogged table.", NULL);
	if (has_superclass(RelationGetRelid(rel)))
		not_supported(rel, "It inherits from another table.", NULL);
	if (rel->rd_rel->relkind == RELKIND_RELATION && find_inheritance_children(RelationGetRelid(rel), NoLock) != NIL)
		not_supported(rel, "Other tables inherit from it.", NULL);
	if (is_table_of_versions(RelationGetRelid(rel), nspid))
		not_supported(rel, "It is a table of versions.", NULL);
}

/* Raises an error unless the partition of a tracked table can be tracked with it. */
static void
check_partition(const PoserTrack *track, Relation rel)
{
	Relation root;
	const char *detail = NULL;
	PoserTracked tracked;

	if (rel->rd_rel->relkind == RELKIND_FOREIGN_TABLE)
		detail = "Its partition \"%s\" is a foreign table.";
	else if (rel->rd_rel->relpersistence == RELPERSISTENCE_UNLOGGED)
		detail = "Its partition \"%s\" is an unlogged table.";
	else if (OidIsValid(getExtensionOfObject(RelationRelationId, RelationGetRelid(rel))))
		detail = "Its partition \"%s\" belongs to an extension.";
	if (detail != NULL)
	{
		root = relation_open(track->relid, NoLock);
		not_supported(root, psprintf(detail, RelationGetRelationName(rel)), NULL);
	}
	if (poser_tracked_find(RelationGetRelid(rel), track->nspid, &tracked) && tracked.relid == RelationGetRelid(rel))
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("partition \"%s\" of relation \"%s\" has a history of its own", RelationGetRelationName(rel),
					   get_rel_name(track->relid)),
				errhint("Call poser_untrack() for the partition first."));
}

/* Check the partitions of a tracked table.  They are locked. */
static void
check_partitions(const PoserTrack *track)
{
	for (int i = 1; i < list_length(track->tree); i++)
	{
		Relation rel = relation_open(list_nth_oid(track->tree, i), NoLock);

		check_partition(track, rel);
		relation_close(rel, NoLock);
	}
}

/*
 * Raises an error if the session's own queries use the table or a partition.  A statement
 * that is writing it was begun without the triggers, and its rows would not be recorded.
 */
static void
check_not_in_use(const PoserTrack *track)
{
	ListCell *lc;

	foreach(lc, track->tree)
	{
		Relation rel = relation_open(lfirst_oid(lc), NoLock);
		bool in_use = rel->rd_refcnt > 1;

		relation_close(rel, NoLock);
		if (in_use)
			ereport(ERROR,
					errcode(ERRCODE_OBJECT_IN_USE),
					errmsg("cannot track relation \"%s\" because it is being used by active queries in this session",
						   get_rel_name(lfirst_oid(lc))));
	}
}

/*
 * The table of versions
 */

/* Find the schema and the name of the table of versions that the caller wants.  The name is that of a new table or of one that is there. */
static void
versions_name(const PoserTrack *track, Oid *nspid, char **name)
{
	RangeVar *range;

	*nspid = get_rel_namespace(track->relid);
	if (track->versions_name == NULL)
	{
		*name = makeObjectName(get_rel_name(track->relid), NULL, "version");
		return;
	}
	range = makeRangeVarFromNameList(stringToQualifiedNameList(track->versions_name, NULL));
	if (range->catalogname != NULL && strcmp(range->catalogname, get_database_name(MyDatabaseId)) != 0)
		ereport(ERROR,
				errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				errmsg("cross-database references are not implemented: %s", quote_literal_cstr(track->versions_name)));
	if (range->schemaname != NULL)
		*nspid = get_namespace_oid(range->schemaname, false);
	*name = range->relname;
}

/* Is this name "poser_operation_type" or "poser_operation_type_1", with any number, for "operation_type"? */
static bool
is_longer_name(const char *name, const char *longer)
{
	const char *rest = name + strlen(longer);

	if (strncmp(name, longer, strlen(longer)) != 0)
		return false;
	return *rest == '\0' || (rest[0] == '_' && rest[1] != '\0' && strspn(rest + 1, "0123456789") == strlen(rest + 1));
}

/*
 * Find a column of an existing table of versions that is not one of the table's:
 * "operation_type" or, if the table has or had columns of such names,
 * "poser_operation_type" or "poser_operation_type_1".  Where poser_track() has made it, it
 * is NOT NULL, and the recorded columns are not.
 */
static char *
find_bookkeeping_column(const PoserTrack *track, Relation versions, const char *name, Oid type)
{
	char *longer = psprintf("poser_%s", name);
	TupleDesc desc = RelationGetDescr(versions);

	for (int not_null = 1; not_null >= 0; not_null--)
	{
		char *found = NULL;

		for (int i = 0; i < desc->natts; i++)
		{
			Form_pg_attribute att = TupleDescAttr(desc, i);
			char *candidate = NameStr(att->attname);

			if (att->attisdropped || att->atttypid != type || (not_null && !att->attnotnull))
				continue;
			if (not_null ? is_longer_name(candidate, longer) : strcmp(candidate, longer) == 0)
				return pstrdup(candidate);
			if (strcmp(candidate, name) == 0 && get_attnum(track->relid, name) == InvalidAttrNumber)
				found = pstrdup(candidate);
		}
		if (found != NULL)
			return found;
	}
	return NULL;
}

/* Find the bookkeeping columns of an existing table of versions.  Returns what is wrong, as a sentence; NULL if nothing is. */
static const char *
find_bookkeeping_columns(PoserTrack *track, Relation versions)
{
	TupleDesc desc = RelationGetDescr(versions);

	track->operation_type = find_bookkeeping_column(track, versions, "operation_type", INT2OID);
	track->transaction_id = find_bookkeeping_column(track, versions, "transaction_id", INT8OID);
	track->change_id = find_bookkeeping_column(track, versions, "change_id", INT8OID);
	if (track->operation_type == NULL)
		return "It has no column \"operation_type\" of type smallint.";
	if (track->transaction_id == NULL)
		return "It has no column \"transaction_id\" of type bigint.";
	if (track->change_id == NULL)
		return "It has no column \"change_id\" of type bigint.";
	for (int i = 0; i < desc->natts; i++)
		if (!TupleDescAttr(desc, i)->attisdropped && TupleDescAttr(desc, i)->attgenerated != '\0')
			return psprintf("Its column \"%s\" is generated.", NameStr(TupleDescAttr(desc, i)->attname));
	return NULL;
}

/* Returns the table that a relation has the versions of, by a binding that counts or not; InvalidOid if it has none. */
static Oid
bound_to(Oid versions, Oid nspid)
{
	List *triggers = poser_triggers_of_function(versions, poser_trigger_function("poser_versions_of", nspid));
	ListCell *lc;

	foreach(lc, triggers)
	{
		Form_pg_trigger form = (Form_pg_trigger) GETSTRUCT((HeapTuple) lfirst(lc));

		if (OidIsValid(form->tgconstrrelid))
			return form->tgconstrrelid;
	}
	return InvalidOid;
}

/* Returns which partition keeps a relation from being a table of versions, as a sentence; NULL if none does. */
static const char *
no_versions_partition(Relation versions)
{
	ListCell *lc;

	foreach(lc, find_all_inheritors(RelationGetRelid(versions), NoLock, NULL))
	{
		if (get_rel_relkind(lfirst_oid(lc)) == RELKIND_FOREIGN_TABLE)
			return psprintf("Its partition \"%s\" is a foreign table.", get_rel_name(lfirst_oid(lc)));
		if (get_rel_persistence(lfirst_oid(lc)) != RELPERSISTENCE_PERMANENT)
			return psprintf("Its partition \"%s\" is a temporary or an unlogged table.", get_rel_name(lfirst_oid(lc)));
	}
	return NULL;
}

/* Returns why this relation cannot have the versions of the table, as a sentence; NULL if it can.  It is open and locked. */
static const char *
no_versions(PoserTrack *track, Relation versions)
{
	Oid relid = RelationGetRelid(versions);
	Oid owner = poser_owner_of(track->relid);
	Oid other = bound_to(relid, track->nspid);
	const char *no_table = poser_track_no_table(versions);
	const char *no_partition;
	PoserTracked tracked;

	if (no_table != NULL)
		return no_table;
	if (versions->rd_rel->relpersistence != RELPERSISTENCE_PERMANENT)
		return "It is a temporary or an unlogged table.";
	if (has_superclass(relid))
		return "It inherits from another table, or is a partition.";
	if (relid < FirstNormalObjectId || OidIsValid(getExtensionOfObject(RelationRelationId, relid)))
		return "It belongs to the system or to an extension.";
	no_partition = no_versions_partition(versions);
	if (no_partition != NULL)
		return no_partition;
	if (list_member_oid(track->tree, relid) || poser_tracked_find(relid, track->nspid, &tracked))
		return "It is a table that is tracked.";
	if (OidIsValid(other) && other != track->relid)
		return psprintf("It has the versions of relation \"%s\".", get_rel_name(other));
	/* a stranger can make a table of this name, so only a table of the same owner is taken up without being named */
	if (track->versions_name == NULL && !OidIsValid(other) && !poser_have_one_owner(track->relid, relid))
		return "It has another owner.";
	if (pg_class_aclcheck(relid, owner, ACL_INSERT) != ACLCHECK_OK)
		return psprintf("Role \"%s\", which owns relation \"%s\", has no INSERT privilege on it.",
						GetUserNameFromId(owner, false), get_rel_name(track->relid));
	return find_bookkeeping_columns(track, versions);
}

/* Raises the error for a relation that cannot have the versions of the table. */
static void
versions_error(const PoserTrack *track, Relation versions, const char *detail)
{
	/* bound, but the owner of the versions has withdrawn its consent */
	if (bound_to(RelationGetRelid(versions), track->nspid) == track->relid)
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("relation \"%s\" cannot have the versions of relation \"%s\"",
					   RelationGetRelationName(versions), get_rel_name(track->relid)),
				errdetail_internal("%s", detail),
				errhint("Grant the privilege."));
	if (track->versions_name == NULL)
		ereport(ERROR,
				errcode(ERRCODE_DUPLICATE_TABLE),
				errmsg("relation \"%s\" already exists, and cannot have the versions of relation \"%s\"",
					   RelationGetRelationName(versions), get_rel_name(track->relid)),
				errdetail_internal("%s", detail),
				errhint("Give another name with the argument \"versions\"."));
	ereport(ERROR,
			errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			errmsg("relation \"%s\" cannot have the versions of relation \"%s\"",
				   RelationGetRelationName(versions), get_rel_name(track->relid)),
			errdetail_internal("%s", detail));
}

/* The lock for altering the table of versions.  A caller without the rights of its owner gets no exclusive lock. */
static LOCKMODE
versions_lock(const PoserTrack *track)
{
	return poser_have_one_owner(track->relid, track->versions) || poser_is_owner(track->versions, GetUserId())
			   ? AccessExclusiveLock
			   : RowExclusiveLock;
}

/* Find the relation of this name, and lock it.  track->versions is InvalidOid if there is none. */
static void
lock_versions_by_name(PoserTrack *track, Oid nspid, const char *name)
{
	for (;;)
	{
		LOCKMODE lockmode;

		track->versions = get_relname_relid(name, nspid);
		if (!OidIsValid(track->versions))
			return;
		lockmode = track->looking ? AccessShareLock : versions_lock(track);
		LockRelationOid(track->versions, lockmode);
		/* lock, then look again: it can have been dropped or renamed meanwhile */
		if (get_relname_relid(name, nspid) == track->versions)
			return;
		UnlockRelationOid(track->versions, lockmode);
	}
}

/* Take a table of versions that is there, or make a new one. */
static void
begin_versions(PoserTrack *track)
{
	Oid nspid;
	char *name;
	Relation versions;
	const char *detail;
	bool quiet;

	versions_name(track, &nspid, &name);
	lock_versions_by_name(track, nspid, name);
	track->partial = !track->existing && poser_track_has_rows(track);
	if (!OidIsValid(track->versions))
	{
		if (poser_track_must(track, true, "table of versions \"%s\" is made", name))
			poser_track_make_versions(track, nspid, name);
		return;
	}
	versions = relation_open(track->versions, NoLock);
	detail = no_versions(track, versions);
	if (detail != NULL)
		versions_error(track, versions, detail);
	/* this is said in any case, unless the caller has named the table */
	quiet = track->quiet;
	track->quiet = quiet && track->versions_name != NULL;
	if (poser_track_must(track, true, "relation \"%s\" is taken up as table of versions", name))
		poser_track_match_by_name(track);
	track->quiet = quiet;
	relation_close(versions, track->looking ? AccessShareLock : NoLock);
}

/* Raises an error if the caller names another table of versions than the one that is bound. */
static void
check_versions_argument(const PoserTrack *track)
{
	Oid nspid;
	char *name;

	if (track->versions_name == NULL)
		return;
	versions_name(track, &nspid, &name);
	if (get_relname_relid(name, nspid) != track->versions)
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("relation \"%s\" has its versions in relation %s", get_rel_name(track->relid),
					   poser_relation_name(track->versions)),
				errhint("Leave out the argument \"versions\", or call poser_untrack() first."));
}

/* Go on with the table of versions that is bound.  It is locked. */
static void
continue_versions(PoserTrack *track, Relation rel)
{
	Relation versions = table_open(track->versions, NoLock);
	const Trigger *trigger = poser_binding_trigger(versions, track->binding_trigger);
	PoserBinding binding;

	check_versions_argument(track);
	if (trigger == NULL || !poser_binding_parse(&binding, trigger, track->relid, track->versions))
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("trigger \"%s\" of relation \"%s\" has arguments that poser_track() has not made",
					   "poser_versions_of", RelationGetRelationName(versions)),
				errhint("Drop the trigger, and call poser_track()."));
	track->partial = binding.partial;
	track->operation_type = pstrdup(binding.operation_type);
	track->transaction_id = pstrdup(binding.transaction_id);
	track->change_id = pstrdup(binding.change_id);
	poser_track_match_columns(track, &binding, rel, versions);
	table_close(versions, NoLock);
}

/* Has a table row-level security? */
static bool
has_row_security(Oid relid)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	bool result = HeapTupleIsValid(tuple) && ((Form_pg_class) GETSTRUCT(tuple))->relrowsecurity;

	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	return result;
}

/* Enable row-level security for the versions if the table has it: without policies only the owner sees them. */
static void
hide_versions(PoserTrack *track)
{
	if (has_row_security(track->relid) && !has_row_security(track->versions) &&
		poser_track_must(track, true, "row-level security of relation \"%s\" is enabled", get_rel_name(track->versions)))
		poser_track_run(track, track->versions,
						psprintf("ALTER TABLE %s ENABLE ROW LEVEL SECURITY", poser_relation_name(track->versions)));
}

/*
 * The call
 */

/* Is the table tracked for the first time?  Then its triggers are missing, too. */
static bool
is_first_call(const PoserTrack *track)
{
	return !track->bound &&
		   poser_triggers_of_function(track->relid, poser_trigger_function("poser_version", track->nspid)) == NIL;
}

/* Open the table.  Raises an error if it is gone. */
static Relation
open_table(Oid relid, LOCKMODE lockmode)
{
	Relation rel = try_relation_open(relid, lockmode);

	if (rel == NULL)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_TABLE),
				errmsg("relation with OID %u does not exist", relid));
	return rel;
}

/*
 * Compare what is there with what should be there.  In the second pass the difference is
 * made.  The table and its partitions are locked.
 */
static void
compare_and_make(PoserTrack *track)
{
	Relation rel = open_table(track->relid, NoLock);
	PoserTracked tracked;

	poser_check_owner(track->relid);
	check_table(rel, track->nspid);
	check_partitions(track);
	track->todo = track->alters = track->compare = track->is_new = false;
	track->bound = poser_own_lock(track->relid, track->nspid, track->looking ? AccessShareLock : RowExclusiveLock, &tracked);
	track->versions = track->bound ? tracked.versions : InvalidOid;
	track->binding_trigger = track->bound ? tracked.binding : InvalidOid;
	track->quiet = is_first_call(track);
	poser_track_find_columns(track, rel);

	if (track->bound)
		continue_versions(track, rel);
	poser_track_check_key(track, rel);
	/* ALTER TABLE refuses a table that is open */
	relation_close(rel, NoLock);
	if (!track->looking)
		check_not_in_use(track);
	if (!track->bound)
		begin_versions(track);
	/* in the first pass there is no table of versions to look at, and there is something to do anyway */
	if (track->looking && !track->bound)
		return;
	poser_track_alter_columns(track);
	hide_versions(track);
	poser_track_versions_triggers(track);
	poser_track_table_triggers(track);
	poser_track_finish(track);
}

/* Lock the table, its partitions and the table of versions together.  Sets the list of partitions. */
static void
lock_all(PoserTrack *track)
{
	for (;;)
	{
		int n = list_length(track->tree);
		Oid *relids = palloc((n + 1) * sizeof(Oid));
		LOCKMODE *modes = palloc((n + 1) * sizeof(LOCKMODE));
		PoserTracked tracked;
		List *tree;
		bool same;

		for (int i = 0; i < n; i++)
		{
			relids[i] = list_nth_oid(track->tree, i);
			modes[i] = ShareRowExclusiveLock;
		}
		relids[n] = track->versions;
		modes[n] = OidIsValid(track->versions) && track->alters ? versions_lock(track) : RowExclusiveLock;
		n += OidIsValid(track->versions) ? 1 : 0;
		poser_lock_together(relids, modes, n);

		/* lock, then look: are these still the partitions and the versions? */
		if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(track->relid)))
			return;
		tree = find_all_inheritors(track->relid, NoLock, NULL);
		same = equal(tree, track->tree);
		if (same && track->bound)
			same = poser_tracked_find(track->relid, track->nspid, &tracked) && tracked.versions == track->versions;
		if (same)
			return;
		for (int i = 0; i < n; i++)
			UnlockRelationOid(relids[i], modes[i]);
		list_free(track->tree);
		track->tree = tree;
		track->bound = poser_tracked_find(track->relid, track->nspid, &tracked);
		track->versions = track->bound ? tracked.versions : InvalidOid;
	}
}

/*
 * Track a table, or make its history follow.  Returns the table of versions.  "exclude"
 * are columns, or NULL for those that are excluded already; "versions" is a name, or NULL.
 * Raises an error unless the current user has the rights of the table's owner.
 */
Oid
poser_track_table(Oid nspid, Oid relid, List *exclude, bool has_exclude, const char *versions, bool existing)
{
	PoserTrack track = {.nspid = nspid, .relid = relid, .exclude = exclude, .has_exclude = has_exclude, .versions_name = versions, .existing = existing};

	/* look */
	relation_close(open_table(relid, AccessShareLock), NoLock);
	poser_check_owner(relid);
	track.looking = true;
	track.tree = find_all_inheritors(relid, AccessShareLock, NULL);
	compare_and_make(&track);
	if (track.bound)
		UnlockRelationOid(track.versions, AccessShareLock);
	for (int i = 0; i < list_length(track.tree); i++)
		UnlockRelationOid(list_nth_oid(track.tree, i), AccessShareLock);
	if (!track.todo)
		return track.versions;

	/* lock, look again, and do it */
	track.looking = false;
	lock_all(&track);
	compare_and_make(&track);
	return track.versions;
}

/*
 * poser_track(target regclass, exclude text[], versions text, existing boolean) returns regclass
 */
Datum
poser_track(PG_FUNCTION_ARGS)
{
	List *exclude = NIL;
	bool has_exclude = !PG_ARGISNULL(1);

	PreventCommandIfReadOnly("poser_track()");
	if (PG_ARGISNULL(0) || PG_ARGISNULL(3))
		ereport(ERROR,
				errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				errmsg("%s must not be null", PG_ARGISNULL(0) ? "target" : "existing"));
	if (has_exclude)
	{
		ArrayType *array = PG_GETARG_ARRAYTYPE_P(1);
		Datum *names;
		bool *nulls;
		int n;

		deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &names, &nulls, &n);
		for (int i = 0; i < n; i++)
		{
			if (nulls[i])
				ereport(ERROR,
						errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("exclude must not contain null"));
			exclude = list_append_unique(exclude, makeString(TextDatumGetCString(names[i])));
		}
	}
	PG_RETURN_OID(poser_track_table(get_func_namespace(fcinfo->flinfo->fn_oid), PG_GETARG_OID(0), exclude, has_exclude,
									PG_ARGISNULL(2) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(2)), PG_GETARG_BOOL(3)));
}
