/*
 * binding.c
 *	  Which table of versions belongs to which table.
 *
 * A tracked table and its table of versions are bound by a trigger on the versions:
 *
 *	CREATE CONSTRAINT TRIGGER poser_versions_of AFTER UPDATE OR DELETE ON customer_version
 *		FROM customer FOR EACH ROW EXECUTE FUNCTION poser_versions_of(...)
 *
 * The server stores the table behind FROM as an OID, makes the trigger depend on it, and
 * has both in a dump.  So the binding follows renames, and is found by pg_depend.  The
 * trigger itself keeps the history append-only.
 *
 * The arguments hold how the columns of both match:
 *
 *	[0]  what identifies the cluster, the database and the two tables; see poser_binding_identity()
 *	[1]  'partial' while rows that are older than poser_track() can have no version yet; else ''
 *	[2], [3], [4]  the names of the columns operation_type, transaction_id and change_id
 *	and for each column that is recorded or excluded, in the order of the table's columns:
 *	[5 + 3n]  its number in the table and, after a space, in the versions (0: it is excluded)
 *	[6 + 3n]  its name in the table
 *	[7 + 3n]  its name in the versions; if it is excluded: the name of the column with its
 *			  values from before, or ''
 *
 * A binding counts only while the owner of the table has INSERT on the table of versions.
 * So no role can bind a table to versions that its owner could not write.
 *
 * The invariant: rows of a bound table of versions are changed or removed only by Poser
 * itself, or by logical replication.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/dependency.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_trigger.h"
#include "miscadmin.h"
#include "replication/logicalworker.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "versions/versions.h"
#include "versions/version_internal.h"

PG_FUNCTION_INFO_V1(poser_versions_of);

/* The table of versions that Poser itself is changing, and the subtransaction that does so; see poser_binding_begin_changes(). */
static Oid changing = InvalidOid;
static SubTransactionId changing_subid = InvalidSubTransactionId;

/*
 * The arguments
 */

/* Returns the first argument of a binding of these two tables in this database. */
char *
poser_binding_identity(Oid relid, Oid versions)
{
	return psprintf(UINT64_FORMAT ".%u.%u.%u", GetSystemIdentifier(), MyDatabaseId, relid, versions);
}

/* Read two numbers of columns, with a space between them.  Returns false if it is something else. */
static bool
parse_pair(const char *argument, PoserBoundColumn *column)
{
	char *end;
	long attnum = strtol(argument, &end, 10);
	long versions_attnum;

	if (end == argument || *end != ' ')
		return false;
	argument = end + 1;
	versions_attnum = strtol(argument, &end, 10);
	if (end == argument || *end != '\0' || attnum <= 0 || attnum > MaxHeapAttributeNumber ||
		versions_attnum < 0 || versions_attnum > MaxHeapAttributeNumber)
		return false;
	column->attnum = attnum;
	column->versions_attnum = versions_attnum;
	return true;
}

/*
 * Read the arguments of the trigger that binds a table of versions.  Returns false if they
 * are not those that poser_binding_format() makes.  The result is allocated in the current
 * memory context; its names are those of the trigger, which must live as long.
 */
bool
poser_binding_parse(PoserBinding *binding, const Trigger *trigger, Oid relid, Oid versions)
{
	char **arguments = trigger->tgargs;

	if (trigger->tgnargs < POSER_BINDING_FIXED || (trigger->tgnargs - POSER_BINDING_FIXED) % 3 != 0)
		return false;
	binding->here = strcmp(arguments[0], poser_binding_identity(relid, versions)) == 0;
	binding->partial = strcmp(arguments[1], "partial") == 0;
	if (!binding->partial && arguments[1][0] != '\0')
		return false;
	binding->operation_type = arguments[2];
	binding->transaction_id = arguments[3];
	binding->change_id = arguments[4];
	binding->ncolumns = (trigger->tgnargs - POSER_BINDING_FIXED) / 3;
	binding->columns = palloc(Max(binding->ncolumns, 1) * sizeof(PoserBoundColumn));
	for (int i = 0; i < binding->ncolumns; i++)
	{
		char **group = arguments + POSER_BINDING_FIXED + 3 * i;
		PoserBoundColumn *column = &binding->columns[i];

		if (!parse_pair(group[0], column) || (i > 0 && column->attnum <= binding->columns[i - 1].attnum))
			return false;
		column->name = group[1];
		column->versions_name = group[2];
	}
	return true;
}

/* Returns the arguments of a trigger that binds these two tables in this way, as a list of strings (char *). */
List *
poser_binding_format(const PoserBinding *binding, Oid relid, Oid versions)
{
	List *result = list_make2(poser_binding_identity(relid, versions), pstrdup(binding->partial ? "partial" : ""));

	result = lappend(result, pstrdup(binding->operation_type));
	result = lappend(result, pstrdup(binding->transaction_id));
	result = lappend(result, pstrdup(binding->change_id));
	for (int i = 0; i < binding->ncolumns; i++)
	{
		const PoserBoundColumn *column = &binding->columns[i];

		result = lappend(result, psprintf("%d %d", column->attnum, column->versions_attnum));
		result = lappend(result, pstrdup(column->name));
		result = lappend(result, pstrdup(column->versions_name));
	}
	return result;
}

/* Returns the trigger that binds a table of versions which is open, and has this OID; NULL if it is gone. */
const Trigger *
poser_binding_trigger(Relation versions, Oid tgoid)
{
	TriggerDesc *desc = versions->trigdesc;

	for (int i = 0; desc != NULL && i < desc->numtriggers; i++)
		if (desc->triggers[i].tgoid == tgoid)
			return &desc->triggers[i];
	return NULL;
}

/*
 * Finding bindings
 */

/* May the owner of a table insert into its table of versions? */
static bool
is_consented(Oid relid, Oid versions)
{
	Oid owner = poser_owner_of(relid);

	if (!OidIsValid(owner) || !OidIsValid(poser_owner_of(versions)))
		return false;
	return owner == poser_owner_of(versions) || pg_class_aclcheck(versions, owner, ACL_INSERT) == ACLCHECK_OK;
}

/*
 * Returns the bindings among the triggers that depend on this object, as a list of
 * PoserTracked.  The object is poser_versions_of(), or a table.  With "clones" these are the
 * clones of bindings instead, on partitions of tables of versions.
 */
static List *
find_bindings(Oid classid, Oid objid, Oid function, bool clones)
{
	List *result = NIL;
	ListCell *lc;

	foreach(lc, poser_triggers_depending_on(classid, objid, function))
	{
		Form_pg_trigger form = (Form_pg_trigger) GETSTRUCT((HeapTuple) lfirst(lc));
		PoserTracked *tracked;

		if (!OidIsValid(form->tgconstrrelid) || OidIsValid(form->tgparentid) != clones ||
			(classid == RelationRelationId && form->tgconstrrelid != objid))
			continue;
		tracked = palloc0(sizeof(PoserTracked));
		tracked->relid = form->tgconstrrelid;
		tracked->versions = form->tgrelid;
		tracked->binding = form->oid;
		tracked->counts = is_consented(tracked->relid, tracked->versions);
		result = lappend(result, tracked);
	}
	return result;
}

/* For list_sort(): by the OID of the table. */
static int
compare_tables(const ListCell *a, const ListCell *b)
{
	const PoserTracked *atable = lfirst(a);
	const PoserTracked *btable = lfirst(b);

	if (atable->relid != btable->relid)
		return atable->relid < btable->relid ? -1 : 1;
	if (atable->binding != btable->binding)
		return atable->binding < btable->binding ? -1 : 1;
	return 0;
}

/* All bindings of this schema, also those that do not count, as a list of PoserTracked in the order of the tables' OIDs. */
List *
poser_tracked_bindings(Oid nspid)
{
	Oid function = poser_trigger_function("poser_versions_of", nspid);
	List *result;

	if (!OidIsValid(function))
		return NIL;
	result = find_bindings(ProcedureRelationId, function, function, false);
	list_sort(result, compare_tables);
	return result;
}

/* The bindings of one table, also those that do not count. */
List *
poser_tracked_bindings_of(Oid relid, Oid nspid)
{
	Oid function = poser_trigger_function("poser_versions_of", nspid);

	return OidIsValid(function) ? find_bindings(RelationRelationId, relid, function, false) : NIL;
}

/*
 * Returns the relations that were partitions of a table's versions and were detached, as a
 * list of OIDs.  "tree" is the table of versions and its partitions.  DETACH leaves the
 * binding's clone on the partition, because the server takes each constraint trigger with
 * FROM for one of a foreign key.
 */
List *
poser_binding_detached(Oid relid, Oid nspid, const List *tree)
{
	Oid function = poser_trigger_function("poser_versions_of", nspid);
	List *clones = OidIsValid(function) ? find_bindings(RelationRelationId, relid, function, true) : NIL;
	List *result = NIL;
	ListCell *lc;

	foreach(lc, clones)
	{
		Oid partition = ((PoserTracked *) lfirst(lc))->versions;

		if (!list_member_oid(tree, partition))
			result = lappend_oid(result, partition);
	}
	list_free_deep(clones);
	return result;
}

List *
poser_tracked_tables(Oid nspid, bool all)
{
	List *result = NIL;
	List *bindings = poser_tracked_bindings(nspid);
	ListCell *lc;

	for (int i = 0; i < POSER_VERSIONED_TABLES; i++)
	{
		PoserTracked *tracked = palloc0(sizeof(PoserTracked));

		if (poser_versioned_find_names(i, nspid, &tracked->relid, &tracked->versions))
		{
			tracked->counts = true;
			result = lappend(result, tracked);
		}
	}
	foreach(lc, bindings)
	{
		PoserTracked *tracked = lfirst(lc);

		if (all || tracked->counts)
			result = lappend(result, tracked);
	}
	return result;
}

/* Find the one binding of this very table that counts.  Raises an error (55000) if there are two. */
static bool
find_own_binding(Oid relid, Oid nspid, PoserTracked *tracked)
{
	List *bindings = poser_tracked_bindings_of(relid, nspid);
	bool found = false;
	ListCell *lc;

	foreach(lc, bindings)
	{
		PoserTracked *binding = lfirst(lc);

		if (!binding->counts)
			continue;
		if (found)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("table \"%s\" has more than one table of versions", get_rel_name(relid)),
					 errdetail("They are %s and %s.", poser_relation_name(tracked->versions),
							   poser_relation_name(binding->versions)),
					 errhint("Drop the trigger poser_versions_of of one of them.")));
		*tracked = *binding;
		found = true;
	}
	list_free_deep(bindings);
	return found;
}

bool
poser_tracked_find(Oid relid, Oid nspid, PoserTracked *tracked)
{
	List *ancestors;
	ListCell *lc;
	bool found = false;

	for (int i = 0; i < POSER_VERSIONED_TABLES; i++)
	{
		memset(tracked, 0, sizeof(PoserTracked));
		if (poser_versioned_find_names(i, nspid, &tracked->relid, &tracked->versions) && tracked->relid == relid)
		{
			tracked->counts = true;
			return true;
		}
	}
	if (find_own_binding(relid, nspid, tracked))
		return true;
	if (!get_rel_relispartition(relid))
		return false;
	ancestors = get_partition_ancestors(relid);
	foreach(lc, ancestors)
	{
		if (!found)
			found = find_own_binding(lfirst_oid(lc), nspid, tracked);
	}
	list_free(ancestors);
	return found;
}

/*
 * The trigger
 */

/*
 * Poser itself begins to change or remove rows of this table of versions, for instance to
 * prune it.  This ends with poser_binding_end_changes(), or with the rollback of the
 * subtransaction.
 */
void
poser_binding_begin_changes(Oid versions)
{
	changing = versions;
	changing_subid = GetCurrentSubTransactionId();
}

void
poser_binding_end_changes(void)
{
	changing = InvalidOid;
	changing_subid = InvalidSubTransactionId;
}

static void
end_transaction(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT || event == XACT_EVENT_COMMIT || event == XACT_EVENT_PREPARE)
		poser_binding_end_changes();
}

static void
end_subtransaction(SubXactEvent event, SubTransactionId mySubid, SubTransactionId parentSubid, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB && OidIsValid(changing) && changing_subid >= mySubid)
		poser_binding_end_changes();
}

/* Register the callbacks, when the module is loaded. */
void
poser_binding_init(void)
{
	RegisterXactCallback(end_transaction, NULL);
	RegisterSubXactCallback(end_subtransaction, NULL);
}

/* Is Poser itself changing this table, or the partitioned table that it belongs to? */
static bool
is_changing(Relation rel)
{
	if (!OidIsValid(changing))
		return false;
	return RelationGetRelid(rel) == changing ||
		   (rel->rd_rel->relispartition && list_member_oid(get_partition_ancestors(RelationGetRelid(rel)), changing));
}

/*
 * Does a relation have versions: is it bound, or a partition of a table of versions that is?
 * A partition that was detached keeps both triggers, see poser_binding_detached(), and is an
 * ordinary table.  If the tracked table was dropped, only the trigger for TRUNCATE is left.
 */
static bool
has_versions(Relation rel, Oid function)
{
	TriggerDesc *desc = rel->trigdesc;

	for (int i = 0; i < desc->numtriggers; i++)
	{
		const Trigger *trigger = &desc->triggers[i];
		ListCell *lc;

		if (trigger->tgfoid != function || !TRIGGER_FOR_ROW(trigger->tgtype))
			continue;
		if (!trigger->tgisclone)
			return true;
		if (!rel->rd_rel->relispartition)
			continue;
		foreach(lc, poser_tracked_bindings_of(trigger->tgconstrrelid, get_func_namespace(function)))
		{
			if (list_member_oid(get_partition_ancestors(RelationGetRelid(rel)), ((PoserTracked *) lfirst(lc))->versions))
				return true;
		}
	}
	return false;
}

/*
 * poser_versions_of(identity, ...) returns trigger
 *
 * After each row of an UPDATE or DELETE of a table of versions, and before its TRUNCATE.
 */
Datum
poser_versions_of(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = poser_check_trigger(fcinfo);
	Relation rel = trigdata->tg_relation;

	if (!is_changing(rel) && !IsLogicalWorker() && has_versions(rel, fcinfo->flinfo->fn_oid))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("history in table \"%s\" can only be added to", RelationGetRelationName(rel)),
				 errhint("poser_prune_versions() removes versions that are no longer needed.")));
	return PointerGetDatum(TRIGGER_FIRED_FOR_ROW(trigdata->tg_event) ? trigdata->tg_trigtuple : NULL);
}
