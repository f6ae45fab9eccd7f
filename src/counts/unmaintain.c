/*
 * unmaintain.c
 *	  poser_unmaintain(): giving a maintained view its query back.
 *
 * The function also removes what is left of a maintained view after a part of it was dropped.
 * So it accepts any relation of the view, and also a table with triggers that no view needs
 * any more.  A table's triggers go with the last view that needs them.
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

#include "counts/maintain_internal.h"

PG_FUNCTION_INFO_V1(poser_unmaintain);

/* Find the maintained view that this relation belongs to.  Raises an error if there is none. */
static void
find_view(Oid relid, Oid nspid, PoserMaintained *maintained)
{
	Oid *relids;

	poser_maintained_check_owner(relid);
	if (!poser_maintained_find(relid, nspid, maintained))
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("relation \"%s\" is not maintained", get_rel_name(relid)));
	relids = (Oid[]) {maintained->bookkeeping, maintained->view, maintained->query, maintained->served};
	for (int i = 0; i < 4; i++)
		if (OidIsValid(relids[i]))
			poser_check_owner(relids[i]);
	poser_maintained_check_owners(maintained, false);
}

/*
 * Returns the tables that need no triggers without this view, with their partitions, as a
 * list of OIDs.  Tables of the list "needed" keep them.  So does a table of which the current
 * user has not the rights of the owner: it was given to another role.
 */
List *
poser_unmaintain_tables(const PoserMaintained *maintained, Oid nspid, const List *needed)
{
	const Oid tables[] = {maintained->child, maintained->parent};
	List *result = NIL;

	for (int i = 0; i < lengthof(tables); i++)
	{
		if (!OidIsValid(tables[i]) || list_member_oid(needed, tables[i]) ||
			!poser_is_owner(tables[i], GetUserId()) || list_length(poser_maintained_of_table(tables[i], nspid)) > 1)
			continue;
		result = list_concat_unique_oid(result, find_all_inheritors(tables[i], NoLock, NULL));
	}
	return result;
}

/* Returns the table and its partitions if they have triggers that no maintained view needs; otherwise NIL. */
static List *
idle_tables(Oid relid, Oid nspid)
{
	Oid function = poser_trigger_function("poser_maintain_rows", nspid);
	char relkind = get_rel_relkind(relid);
	List *tree;
	ListCell *lc;

	if ((relkind != RELKIND_RELATION && relkind != RELKIND_PARTITIONED_TABLE) || poser_maintained_of_table(relid, nspid) != NIL)
		return NIL;
	tree = find_all_inheritors(relid, NoLock, NULL);
	foreach(lc, tree)
	{
		if (poser_triggers_of_function(lfirst_oid(lc), function) != NIL)
			return tree;
	}
	return NIL;
}

/*
 * Lock such a table and its partitions, and drop the triggers.  They are left if the bookkeeping was
 * dropped, or after DETACH PARTITION.  Returns false if there are none.
 */
static bool
free_idle_table(Oid relid, Oid nspid)
{
	List *tables = idle_tables(relid, nspid);

	while (tables != NIL)
	{
		PoserLocks locks = {0};
		List *before = tables;

		poser_maintain_add_locks(&locks, tables, AccessExclusiveLock);
		poser_maintain_lock(&locks);
		/* lock, then look */
		poser_maintained_check_owner(relid);
		tables = idle_tables(relid, nspid);
		if (equal(tables, before))
		{
			poser_maintain_check_not_in_use(&locks);
			poser_maintain_drop_triggers(tables, nspid);
			return true;
		}
		poser_maintain_unlock(&locks);
	}
	return false;
}

/* Lock everything that is dropped or loses its triggers.  Returns the tables that lose them. */
static List *
lock_all(Oid relid, Oid nspid, PoserMaintained *maintained)
{
	find_view(relid, nspid, maintained);
	for (;;)
	{
		List *tables = poser_unmaintain_tables(maintained, nspid, NIL);
		const Oid bound[] = {maintained->child, maintained->parent};
		PoserLocks locks = {0};
		PoserMaintained before = *maintained;

		poser_maintain_add_lock(&locks, maintained->view, AccessExclusiveLock);
		poser_maintain_add_lock(&locks, maintained->query, AccessExclusiveLock);
		poser_maintain_add_lock(&locks, maintained->served, AccessExclusiveLock);
		poser_maintain_add_lock(&locks, maintained->bookkeeping, AccessExclusiveLock);
		poser_maintain_add_locks(&locks, tables, AccessExclusiveLock);
		/* the query that the view gets back is parsed, which locks its tables: not while others wait for the locks above */
		for (int i = 0; i < lengthof(bound); i++)
			if (!list_member_oid(tables, bound[i]))
				poser_maintain_add_lock(&locks, bound[i], AccessShareLock);
		poser_maintain_lock(&locks);

		/* lock, then look: are these still all? */
		find_view(relid, nspid, maintained);
		if (memcmp(&before, maintained, sizeof(before)) == 0 && equal(tables, poser_unmaintain_tables(maintained, nspid, NIL)))
		{
			poser_maintain_check_not_in_use(&locks);
			return tables;
		}
		poser_maintain_unlock(&locks);
	}
}

/* Drop a relation of the view, if it is there. */
static void
drop(Oid relid, const char *kind)
{
	if (OidIsValid(relid))
		poser_maintain_run(relid, psprintf("DROP %s %s", kind, poser_relation_name(relid)));
}

/* Drop the relations that belong to a view.  If the view reads them, it gets its query back. */
void
poser_unmaintain_drop(const PoserMaintained *maintained, bool is_switched)
{
	if (is_switched)
		poser_maintain_replace_query(maintained->view, poser_view_query_sql(maintained->query));
	drop(maintained->served, "VIEW");
	drop(maintained->bookkeeping, "TABLE");
	drop(maintained->query, "VIEW");
}

/* End a maintained view.  The relation is any of the view's. */
void
poser_unmaintain_view(Oid nspid, Oid relid)
{
	int level = poser_view_begin_text();

	poser_maintain_set_running(true);
	PG_TRY();
	{
		poser_maintained_check_owner(relid);
		if (!free_idle_table(relid, nspid))
		{
			PoserMaintained maintained;
			List *tables = lock_all(relid, nspid, &maintained);

			poser_unmaintain_drop(&maintained, poser_maintained_is_switched(&maintained));
			poser_maintain_drop_triggers(tables, nspid);
		}
	}
	PG_FINALLY();
	{
		poser_maintain_set_running(false);
	}
	PG_END_TRY();
	AtEOXact_GUC(true, level);
}

/*
 * poser_unmaintain(view regclass) returns void
 */
Datum
poser_unmaintain(PG_FUNCTION_ARGS)
{
	PreventCommandIfReadOnly("poser_unmaintain()");
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				errmsg("%s must not be null", "view"));
	poser_unmaintain_view(get_func_namespace(fcinfo->flinfo->fn_oid), PG_GETARG_OID(0));
	PG_RETURN_VOID();
}
