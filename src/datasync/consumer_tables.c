/*
 * consumer_tables.c
 *	  Which tables a consumer gets the changes of, and which of these may have changed.
 *
 * Which tables.  A consumer without tables gets all tracked tables that the extension's
 * owner owns, those of the extension included.  A consumer with tables gets these.  The
 * extension's owner needs SELECT on their versions: the owner of the versions consents to
 * the feed by this grant.  A listed table that is gone, is not tracked any more, or cannot
 * be read raises an error when the consumer asks for changes, and is the consumer's
 * problem in poser_datasync_status.  So it is always reported when changes are left out.
 *
 * Lists and dumps.  The list is a regclass[]: a dump has the tables by name.  But a table
 * that was dropped is in a dump as a number, and the restored database may have another
 * table with this number.  So the column table_names has the numbers and the names of the
 * tables, and what identifies the database.  When a consumer arrives in another database,
 * poser_tables_arrive() puts 0 in the place of a number that means another table now, and
 * brings table_names up to date.
 *
 * Which have changed.  There may be a thousand tables, and most have no new changes.  The
 * end of the index on change_id tells.  It is looked at directly, with SnapshotAny: each
 * change that a snapshot sees has had its entry before the snapshot was taken.  Nothing is
 * locked for longer than the look.  A table that cannot be locked at once, or has no such
 * index, counts as changed.  Only changed tables are locked and read.  So ALTER TABLE on
 * one table does not stop consumers as long as the table has no new changes.
 *
 * Rights.  The indexes and types of a table can have code that belongs to its owner.
 * So each query over a table of versions runs as the owner of that table, restricted, and never
 * as the extension's owner.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/relscan.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_opfamily.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/comment.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/relcache.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "datasync/datasync_internal.h"

PG_FUNCTION_INFO_V1(poser_datasync_tables);

/*
 * Lists of tables
 */

/* Returns the OIDs in a list of tables.  Raises an error if one is null. */
static Oid *
table_oids(ArrayType *tables, int *n)
{
	Datum *values;
	bool *nulls;
	Oid *result;

	deconstruct_array(tables, REGCLASSOID, sizeof(Oid), true, TYPALIGN_INT, &values, &nulls, n);
	result = palloc(Max(*n, 1) * sizeof(Oid));
	for (int i = 0; i < *n; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("tables must not contain nulls")));
		result[i] = DatumGetObjectId(values[i]);
	}
	return result;
}

static ArrayType *
make_list(const Oid *tables, int n)
{
	Datum *values = palloc(Max(n, 1) * sizeof(Datum));

	for (int i = 0; i < n; i++)
		values[i] = ObjectIdGetDatum(tables[i]);
	return construct_array(values, n, REGCLASSOID, sizeof(Oid), true, TYPALIGN_INT);
}

/* Returns the texts of an array as strings; NULL for null.  The array can be NULL. */
static char **
array_strings(ArrayType *array, int *n)
{
	Datum *values;
	bool *nulls;
	char **result;

	*n = 0;
	if (array == NULL)
		return NULL;
	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &values, &nulls, n);
	result = palloc(Max(*n, 1) * sizeof(char *));
	for (int i = 0; i < *n; i++)
		result[i] = nulls[i] ? NULL : TextDatumGetCString(values[i]);
	return result;
}

/* Returns the qualified name of a relation, or NULL if there is none with this OID. */
static char *
name_if_exists(Oid relid)
{
	return OidIsValid(relid) && SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)) ? poser_relation_name(relid) : NULL;
}

/* Returns what identifies this database. */
static char *
database_identity(void)
{
	return psprintf(UINT64_FORMAT ".%u", GetSystemIdentifier(), MyDatabaseId);
}

/* Make what poser_tables_name() returns from numbers and names; a name can be NULL. */
static ArrayType *
make_names(const Oid *tables, const char *const *names, int n)
{
	Datum *values = palloc((n + 1) * sizeof(Datum));

	values[0] = CStringGetTextDatum(database_identity());
	for (int i = 0; i < n; i++)
		values[i + 1] = CStringGetTextDatum(psprintf("%u %s", tables[i], names[i] != NULL ? names[i] : ""));
	return construct_array(values, n + 1, TEXTOID, -1, false, TYPALIGN_INT);
}

/*
 * Returns what the column table_names has for these tables, for example
 * {7437290381.16384,"16412 public.customer"}: what identifies the database, and the number
 * and name of each table, in the order of the list.
 */
ArrayType *
poser_tables_name(ArrayType *tables)
{
	int n;
	Oid *relids;
	const char **names;

	if (tables == NULL)
		return NULL;
	relids = table_oids(tables, &n);
	names = palloc(Max(n, 1) * sizeof(char *));
	for (int i = 0; i < n; i++)
		names[i] = name_if_exists(relids[i]);
	return make_names(relids, names, n);
}

/*
 * Returns the name that table_names has for the table at this index of the list, and sets
 * *number.  Returns NULL if there is none.
 */
static const char *
noted_name(char **names, int n, int index, Oid *number)
{
	char *end;

	if (index + 1 >= n || names[index + 1] == NULL || !isdigit((unsigned char) names[index + 1][0]))
		return NULL;
	*number = strtoul(names[index + 1], &end, 10);
	return end[0] == ' ' && end[1] != '\0' ? end + 1 : NULL;
}

/*
 * Make the list of tables of a consumer that comes from elsewhere right in this database.  In
 * a dump a table is a name, and a table that had been dropped is a number.  If the number
 * means no table here, or one of another name, 0 takes its place.
 *
 * *names is the column table_names, which can be NULL: if a table has the same number here as
 * there, its name tells whether it is the same one.  It gets the numbers and names of this
 * database, so that this can be told again when the consumer goes on to a third one.
 */
void
poser_tables_arrive(ArrayType **tables, ArrayType **names)
{
	int n;
	int nnames;
	Oid *relids = table_oids(*tables, &n);
	char **strings = array_strings(*names, &nnames);
	const char **found;

	/* in the same database a number means the same table */
	if (nnames > 0 && strings[0] != NULL && strcmp(strings[0], database_identity()) == 0)
		return;
	found = palloc(Max(n, 1) * sizeof(char *));
	for (int i = 0; i < n; i++)
	{
		Oid number = InvalidOid;
		const char *noted = noted_name(strings, nnames, i, &number);

		found[i] = name_if_exists(relids[i]);
		if (found[i] == NULL || (noted != NULL && number == relids[i] && strcmp(noted, found[i]) != 0))
		{
			relids[i] = InvalidOid;
			found[i] = noted;
		}
	}
	*tables = make_list(relids, n);
	*names = make_names(relids, found, n);
}

/*
 * Problems
 */

/*
 * Raise an error or, if "problem" is not NULL, note the message in *problem unless there
 * is one already.
 */
static void
complain(char **problem, int sqlstate, char *message, char *hint)
{
	if (problem == NULL)
		ereport(ERROR,
				(errcode(sqlstate),
				 errmsg_internal("%s", message),
				 errhint("%s", hint)));
	else if (*problem == NULL)
		*problem = message;
}

/*
 * May the extension's owner, as which the caller acts, read all versions of the table?
 * The tables of the extension are not asked about: the queries over them check it.
 */
static bool
is_granted(const PoserTracked *tracked, char **problem)
{
	char *name = get_rel_name(tracked->versions);

	if (!OidIsValid(tracked->binding) || name == NULL)
		return true;
	if (pg_class_aclcheck(tracked->versions, GetUserId(), ACL_SELECT) != ACLCHECK_OK)
	{
		complain(problem, ERRCODE_INSUFFICIENT_PRIVILEGE,
				 psprintf("owner of extension \"poser\" may not read table \"%s\"", name),
				 psprintf("The owner of the table can allow it: GRANT SELECT ON %s TO %s.",
						  poser_relation_name(tracked->versions), quote_identifier(GetUserNameFromId(GetUserId(), false))));
		return false;
	}
	if (check_enable_rls(tracked->versions, InvalidOid, true) == RLS_ENABLED)
	{
		complain(problem, ERRCODE_INSUFFICIENT_PRIVILEGE,
				 psprintf("row-level security hides rows of table \"%s\" from the owner of extension \"poser\"", name),
				 psprintf("A consumer gets the changes of a table only if the role %s may read all of them.",
						  quote_identifier(GetUserNameFromId(GetUserId(), false))));
		return false;
	}
	return true;
}

/*
 * Find the table of versions of a table in a consumer's list.  Returns false if the table
 * is gone or is not tracked.  "consumer" is NULL while the list is being set.
 */
static bool
find_listed(PoserConsumer *consumer, Oid nspid, Oid relid, int index, PoserTracked *tracked, char **problem)
{
	char *name = name_if_exists(relid);
	char *of = consumer == NULL ? "" : psprintf(" of consumer \"%s\"", NameStr(*consumer->name));
	char *hint = consumer == NULL || consumer->tables == NULL ? "Call poser_track() for it." : "Call poser_track() for it, or change the column \"tables\" of poser_datasync_consumer.";
	List *bindings;
	ListCell *lc;
	int n = 0;

	if (name == NULL)
	{
		int nnames;
		char **strings = array_strings(consumer == NULL ? NULL : consumer->table_names, &nnames);
		Oid number;
		const char *noted = noted_name(strings, nnames, index, &number);

		complain(problem, ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
				 noted != NULL ? psprintf("table %s%s does not exist", noted, of)
							   : psprintf("table with OID %u%s does not exist", relid, of),
				 consumer == NULL ? "A consumer can only get the changes of a table that has a history."
								  : "Change the column \"tables\" of poser_datasync_consumer.");
		return false;
	}

	/* the tables of the extension, and bindings that count */
	foreach(lc, bindings = poser_tracked_bindings_of(relid, nspid))
	{
		PoserTracked *binding = lfirst(lc);

		if (!binding->counts)
			continue;
		*tracked = *binding;
		n++;
	}
	/* this raises an error if there are two, which is left out where problems are only noted */
	if (n != 1 && !(n > 1 && problem != NULL))
		n = poser_tracked_find(relid, nspid, tracked) ? 1 : 0;
	if (n == 1)
		return true;
	complain(problem, ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
			 n == 0 ? psprintf("table %s%s is not tracked", name, of)
					: psprintf("table %s%s has more than one table of versions", name, of),
			 hint);
	return false;
}

/*
 * Returns the list of tables for a consumer, with the tracked table in the place of each
 * partition.  Raises an error unless all tables are tracked, different and allowed.  The
 * caller acts as the owner of the extension.
 */
ArrayType *
poser_tables_check(ArrayType *tables, Oid nspid)
{
	int n;
	Oid *relids = table_oids(tables, &n);

	if (n == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("tables must not be empty"),
				 errhint("Without tables a consumer gets the changes of all tables that the extension's owner owns.")));
	for (int i = 0; i < n; i++)
	{
		PoserTracked tracked;

		CHECK_FOR_INTERRUPTS();
		/* lock, then look: nothing of it is dropped until the list is stored */
		if (OidIsValid(relids[i]))
			LockRelationOid(relids[i], AccessShareLock);
		(void) find_listed(NULL, nspid, relids[i], i, &tracked, NULL);
		(void) is_granted(&tracked, NULL);
		relids[i] = tracked.relid;
		for (int j = 0; j < i; j++)
			if (relids[j] == relids[i])
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("tables contains table %s twice", poser_relation_name(relids[i]))));
	}
	return make_list(relids, n);
}

/*
 * poser_datasync_tables() is a trigger before UPDATE OF tables on the table of consumers.
 * It checks the new list, and notes the names.  All sessions look again which consumers ask
 * for NOTIFY, and for which tables.
 */
Datum
poser_datasync_tables(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = poser_check_trigger(fcinfo);
	Relation rel = trigdata->tg_relation;
	TupleDesc desc = RelationGetDescr(rel);
	HeapTuple tuple = trigdata->tg_newtuple;
	int columns[2];
	Datum values[2] = {0};
	bool nulls[2] = {true, true};

	if (!TRIGGER_FIRED_FOR_ROW(trigdata->tg_event) || !TRIGGER_FIRED_BEFORE(trigdata->tg_event) ||
		!TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" must fire before each row of UPDATE",
						trigdata->tg_trigger->tgname)));
	columns[0] = poser_own_column(rel, "tables", REGCLASSARRAYOID);
	columns[1] = poser_own_column(rel, "table_names", TEXTARRAYOID);
	values[0] = heap_getattr(tuple, columns[0], desc, &nulls[0]);
	if (!nulls[0])
	{
		PoserCaller caller;
		ArrayType *tables;

		poser_become_owner(RelationGetRelid(rel), &caller);
		tables = poser_tables_check(DatumGetArrayTypeP(values[0]), RelationGetNamespace(rel));
		poser_become_caller(&caller);
		values[0] = PointerGetDatum(tables);
		values[1] = PointerGetDatum(poser_tables_name(tables));
		nulls[1] = false;
	}
	CacheInvalidateRelcacheByRelid(RelationGetRelid(rel));
	return PointerGetDatum(heap_modify_tuple_by_cols(tuple, desc, lengthof(columns), columns, values, nulls));
}

/*
 * The tables of a consumer
 */

/* Does the current user own the relation itself?  The rights of a superuser do not count. */
static bool
is_owned(Oid relid)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	bool result;

	if (!HeapTupleIsValid(tuple))
		return false;
	result = ((Form_pg_class) GETSTRUCT(tuple))->relowner == GetUserId();
	ReleaseSysCache(tuple);
	return result;
}

/* Add a table to the list, unless the list has it: a table and its partition are one tracked table. */
static List *
add_table(List *result, const PoserTracked *tracked)
{
	PoserFeedTable *table;
	ListCell *lc;

	foreach(lc, result)
	{
		if (((PoserFeedTable *) lfirst(lc))->tracked.versions == tracked->versions)
			return result;
	}
	table = palloc0(sizeof(PoserFeedTable));
	table->tracked = *tracked;
	return lappend(result, table);
}

/*
 * Returns the tables that the consumer gets the changes of, as a list of PoserFeedTable.
 * The catalogs are read as they are now, and nothing is locked.  The caller acts as the
 * owner.
 *
 * The list is made anew each time, although that takes time for a thousand tables.  A
 * session gets the invalidations of a transaction after snapshots see the transaction.  So a
 * list that a session keeps can lack a table whose changes a new snapshot sees, and these
 * would be left out for good.
 *
 * A table that is gone, not tracked or not granted raises an error.  If "problem" is not
 * NULL, such a table is left out, and *problem is the message for the first one.  With
 * "ungranted" a table that is not granted is not left out: its changes are still to come.
 */
List *
poser_feed_tables(PoserConsumer *consumer, char **problem, bool ungranted)
{
	List *result = NIL;

	/* a table that was tracked before the active snapshot was taken must be found */
	InvalidateCatalogSnapshot();
	if (consumer->tables == NULL)
	{
		ListCell *lc;

		foreach(lc, poser_tracked_tables(consumer->nspid, true))
		{
			PoserTracked *tracked = lfirst(lc);
			PoserTracked other;
			PoserFeedTable *table;

			CHECK_FOR_INTERRUPTS();
			if (OidIsValid(tracked->binding) && !is_owned(tracked->relid))
				continue;
			/* it may count again, so its changes are not passed over, unless another one has taken its place */
			if (!tracked->counts)
			{
				(void) find_listed(consumer, consumer->nspid, tracked->relid, 0, &other, problem);
				continue;
			}
			if (OidIsValid(tracked->binding) && !(is_granted(tracked, problem) || ungranted))
				continue;
			table = palloc0(sizeof(PoserFeedTable));
			table->tracked = *tracked;
			result = lappend(result, table);
		}
	}
	else
	{
		int n;
		Oid *relids = table_oids(consumer->tables, &n);

		for (int i = 0; i < n; i++)
		{
			PoserTracked tracked;

			CHECK_FOR_INTERRUPTS();
			if (find_listed(consumer, consumer->nspid, relids[i], i, &tracked, problem) &&
				(is_granted(&tracked, problem) || ungranted))
				result = add_table(result, &tracked);
		}
	}
	return result;
}

/*
 * Raises an error if the consumer cannot get the changes of one of its listed tables.  Most
 * calls come when there is nothing new, so a session remembers for which list there was no
 * error, until a relation changes.  When there is something new, poser_feed_tables() looks
 * in any case.
 */
void
poser_feed_check(PoserConsumer *consumer)
{
	static Oid checked_relid = InvalidOid;
	static uint32 checked_list;
	static uint64 checked_changes;
	uint64 changes = poser_relation_changes();
	uint32 hash;

	if (consumer->tables == NULL)
		return;
	hash = hash_bytes((unsigned char *) consumer->tables, VARSIZE(consumer->tables));
	if (checked_relid == consumer->relid && checked_list == hash && checked_changes == changes)
		return;
	/* a relation that changes while this looks is looked at again by the next call */
	list_free_deep(poser_feed_tables(consumer, NULL, false));
	checked_relid = consumer->relid;
	checked_list = hash;
	checked_changes = changes;
}

/*
 * Looking at the end of an index
 */

/* Returns the column change_id of a table of versions that is open, or InvalidAttrNumber. */
static AttrNumber
change_id_column(const PoserTracked *tracked, Relation versions)
{
	const char *name = "change_id";
	AttrNumber result;

	if (OidIsValid(tracked->binding))
	{
		const Trigger *trigger = poser_binding_trigger(versions, tracked->binding);

		if (trigger == NULL || trigger->tgnargs < POSER_BINDING_FIXED)
			return InvalidAttrNumber;
		name = trigger->tgargs[POSER_BINDING_FIXED - 1];
	}
	result = get_attnum(RelationGetRelid(versions), name);
	return result > 0 && get_atttype(RelationGetRelid(versions), result) == INT8OID ? result : InvalidAttrNumber;
}

/* Can the index be scanned in the order of this column, and does it have all rows? */
static bool
has_order(Relation index, AttrNumber column)
{
	return index->rd_index->indisvalid && index->rd_rel->relam == BTREE_AM_OID &&
		   index->rd_index->indkey.values[0] == column && index->rd_indoption[0] == 0 &&
		   index->rd_opfamily[0] == INTEGER_BTREE_FAM_OID &&
		   heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL);
}

/* Find the first or, with BackwardScanDirection, the last change after "after" in an index. */
static int64
look_in_index(Relation versions, Relation index, AttrNumber column, Snapshot snapshot, ScanDirection direction, int64 after)
{
	TupleTableSlot *slot = table_slot_create(versions, NULL);
	IndexScanDesc scan = index_beginscan(versions, index, snapshot, NULL, 1, 0, SO_NONE);
	ScanKeyData key;
	int64 result = 0;

	ScanKeyInit(&key, 1, BTGreaterStrategyNumber, F_INT8GT, Int64GetDatum(after));
	index_rescan(scan, &key, 1, NULL, 0);
	if (index_getnext_slot(scan, direction, slot))
	{
		bool isnull;

		result = DatumGetInt64(slot_getattr(slot, column, &isnull));
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	return result;
}

/*
 * Find the first change after "after" in a table of versions or, with
 * BackwardScanDirection, the last one; *change_id is 0 if there is none.  With SnapshotAny
 * it can be one that no snapshot sees.  Returns false if the table cannot be looked at: it
 * is locked, it is partitioned, or it has no index on change_id.  Never waits.
 */
bool
poser_feed_look(const PoserFeedTable *table, Snapshot snapshot, ScanDirection direction, int64 after, int64 *change_id)
{
	Oid relid = table->tracked.versions;
	Relation versions;
	AttrNumber column;
	bool result = false;

	if (!ConditionalLockRelationOid(relid, AccessShareLock))
		return false;
	versions = try_relation_open(relid, NoLock);
	if (versions != NULL && versions->rd_rel->relkind == RELKIND_RELATION &&
		(column = change_id_column(&table->tracked, versions)) != InvalidAttrNumber)
	{
		List *indexes = RelationGetIndexList(versions);
		ListCell *lc;

		foreach(lc, indexes)
		{
			Relation index;

			if (result || !ConditionalLockRelationOid(lfirst_oid(lc), AccessShareLock))
				continue;
			index = index_open(lfirst_oid(lc), NoLock);
			if (has_order(index, column))
			{
				*change_id = look_in_index(versions, index, column, snapshot, direction, after);
				result = true;
			}
			index_close(index, AccessShareLock);
		}
		list_free(indexes);
	}
	if (versions != NULL)
		relation_close(versions, NoLock);
	UnlockRelationOid(relid, AccessShareLock);
	return result;
}

/* Returns those of the tables that may have changes after this one, and sets "greatest" of all tables. */
List *
poser_feed_changed(List *tables, int64 after)
{
	List *result = NIL;
	ListCell *lc;

	foreach(lc, tables)
	{
		PoserFeedTable *table = lfirst(lc);

		CHECK_FOR_INTERRUPTS();
		if (!poser_feed_look(table, SnapshotAny, BackwardScanDirection, after, &table->greatest))
			table->greatest = PG_INT64_MAX;
		if (table->greatest > after)
			result = lappend(result, table);
	}
	return result;
}

/* Is the table still tracked in the same way? */
static bool
is_unchanged(PoserConsumer *consumer, const PoserFeedTable *table)
{
	PoserTracked tracked;

	if (!OidIsValid(table->tracked.binding))
		return name_if_exists(table->tracked.versions) != NULL;
	return name_if_exists(table->tracked.relid) != NULL &&
		   poser_tracked_find(table->tracked.relid, consumer->nspid, &tracked) &&
		   tracked.binding == table->tracked.binding && tracked.versions == table->tracked.versions;
}

/*
 * Lock tables and their versions with AccessShareLock until the transaction ends, to be
 * read with the active snapshot.  Removes a table from the list that is no longer tracked
 * in the same way.
 *
 * Returns InvalidOid if the tables can be read.  Otherwise it is one of the tables of
 * versions: it was rewritten since the active snapshot was taken, or its table was removed
 * from the list.  Then the caller takes a newer snapshot and looks again.
 */
Oid
poser_feed_lock(PoserConsumer *consumer, List **changed)
{
	int n = 2 * list_length(*changed);
	Oid *relids = palloc(Max(n, 1) * sizeof(Oid));
	LOCKMODE *modes = palloc(Max(n, 1) * sizeof(LOCKMODE));
	Oid result = InvalidOid;
	List *kept = NIL;
	ListCell *lc;

	n = 0;
	foreach(lc, *changed)
	{
		PoserFeedTable *table = lfirst(lc);

		relids[n++] = table->tracked.relid;
		relids[n++] = table->tracked.versions;
	}
	for (int i = 0; i < n; i++)
		modes[i] = AccessShareLock;
	poser_lock_together(relids, modes, n);

	foreach(lc, *changed)
	{
		PoserFeedTable *table = lfirst(lc);
		ListCell *child;

		CHECK_FOR_INTERRUPTS();
		if (!is_unchanged(consumer, table))
		{
			result = table->tracked.versions;
			continue;
		}
		kept = lappend(kept, table);
		/* a table of versions may have partitions */
		foreach(child, poser_lock_tree(table->tracked.versions))
		{
			if (poser_is_rewritten(lfirst_oid(child), GetActiveSnapshot()))
				result = lfirst_oid(child);
		}
	}
	*changed = kept;
	return result;
}

/*
 * Reading a table
 */

/* Describe a table that is locked. */
void
poser_feed_describe(PoserVersioned *versioned, PoserConsumer *consumer, const PoserFeedTable *table)
{
	poser_tracked_describe(versioned, table->tracked.relid, consumer->nspid, AccessShareLock);
}

/*
 * Returns up to which change_id the history of an own table may have been pruned, or 0.  It
 * is in the comment of the binding.  The history of the extension's tables is pruned up to
 * what poser_version_horizon has.
 */
int64
poser_feed_pruned(const PoserFeedTable *table)
{
	char *comment = OidIsValid(table->tracked.binding) ? GetComment(table->tracked.binding, TriggerRelationId, 0) : NULL;
	long long transaction_id;
	long long change_id;

	if (comment != NULL &&
		sscanf(comment, POSER_HORIZON_FORMAT, &transaction_id, &change_id) == 2)
		return change_id;
	return 0;
}

/*
 * Run a query over the versions of one table, as their owner.  The caller acts as the
 * owner of the extension, which runs queries over the extension's own tables itself.
 */
uint64
poser_feed_run(const PoserFeedTable *table, const PoserQuery *query)
{
	PoserCaller caller;
	uint64 result;

	if (!OidIsValid(table->tracked.binding))
		return poser_run(query);
	poser_become_owner(table->tracked.versions, &caller);
	result = poser_run(query);
	poser_become_caller(&caller);
	return result;
}
