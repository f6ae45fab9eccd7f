/*
 * maintained_table.c
 *	  The maintained views of a table, as the triggers on the table need them.
 *
 * A trigger asks for the views that have its table, or a table above it, as child or as
 * parent.  Each view is described with the columns of its key, its aggregates and their
 * conditions, and its bookkeeping.  Descriptions are kept in a hash table, by the trigger's
 * table, until an invalidation arrives:
 *
 * - of the relation cache, for a relation of the description.  This covers each change of
 *	 a table, a view or a partition, and each binding that is dropped, because a binding is
 *	 a trigger on the bookkeeping.
 * - of any constraint.  A new binding is a constraint trigger on a bookkeeping that no
 *	 description knows yet.
 * - of any function.  The planner may have put the body of a function into a condition.
 *
 * An invalidation can arrive while a trigger uses a description, or waits for a lock.  So a
 * description lives until the last call that uses it has ended, and a trigger that has
 * locked the bookkeeping looks again.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/tupconvert.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#include "storage/lmgr.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/partcache.h"
#include "utils/syscache.h"

#include "counts/rows_internal.h"

/* The hash table of descriptions. */
typedef struct TableEntry
{
	Oid relid; /* hash key */
	PoserTableViews *views;
} TableEntry;

static HTAB *tables = NULL;

/* Invalidations that this session has received. */
static uint64 invalidations = 0;

/*
 * Invalidation
 */

/* Free a description if no call uses it. */
static void
free_unused(PoserTableViews *views)
{
	if (views->users == 0 && !views->cached)
		MemoryContextDelete(views->context);
}

/* Take the descriptions that use this relation out of the hash table; with InvalidOid, all. */
static void
invalidate_tables(Oid relid)
{
	HASH_SEQ_STATUS seq;
	TableEntry *entry;

	invalidations++;
	hash_seq_init(&seq, tables);
	while ((entry = hash_seq_search(&seq)) != NULL)
	{
		PoserTableViews *views = entry->views;

		if (OidIsValid(relid) && !list_member_oid(views->relids, relid))
			continue;
		(void) hash_search(tables, &entry->relid, HASH_REMOVE, NULL);
		views->cached = false;
		free_unused(views);
	}
}

/* Syscache callback: a function or a constraint has changed. */
static void
invalidate_all(Datum arg, int cacheid, uint32 hashvalue)
{
	invalidate_tables(InvalidOid);
}

/* Make the cache, when the module is loaded. */
void
poser_table_views_init(void)
{
	HASHCTL ctl = {0};

	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(TableEntry);
	tables = hash_create("poser tables of maintained views", 16, &ctl, HASH_ELEM | HASH_BLOBS);
	poser_relation_register(invalidate_tables);
	CacheRegisterSyscacheCallback(CONSTROID, invalidate_all, (Datum) 0);
	CacheRegisterSyscacheCallback(PROCOID, invalidate_all, (Datum) 0);
}

/*
 * Conditions
 */

/* Returns a condition as a list for ExecInitQual(), in the current memory context; NIL if there is none. */
static List *
plan_condition(Node *condition)
{
	if (condition == NULL)
		return NIL;
	return make_ands_implicit(expression_planner((Expr *) copyObject(condition)));
}

/* Returns which rows of a table a partition of it has, as a list for ExecInitCheck(), in the current memory context. */
static List *
partition_condition(Oid partition, Oid above)
{
	Relation rel = table_open(partition, AccessShareLock);
	Relation whole = table_open(above, AccessShareLock);
	List *quals = map_partition_varattnos(RelationGetPartitionQual(rel), 1, whole, rel);

	table_close(whole, AccessShareLock);
	table_close(rel, AccessShareLock);
	return list_make1(expression_planner(make_ands_explicit(quals)));
}

/*
 * Plan the conditions of a view, and those of the partitions that are not counted.  The planner
 * runs immutable functions of constants.  A partition key can have code of users, too.
 */
static void
plan_conditions(PoserTableView *view, const PoserViewForm *form, const List *uncounted)
{
	PoserCaller caller;
	ListCell *lc;

	view->runs_code = form->runs_code || uncounted != NIL;
	if (view->runs_code)
		poser_become_role(view->owner, POSER_AS_OWNER, &caller);
	view->condition = plan_condition(form->condition);
	view->filters = palloc0((form->naggregates + 1) * sizeof(List *));
	for (int i = 0; i < form->naggregates; i++)
		view->filters[i] = plan_condition(form->aggregates[i].filter);
	foreach(lc, uncounted)
	{
		view->uncounted = lappend(view->uncounted, partition_condition(lfirst_oid(lc), form->child));
	}
	if (view->runs_code)
		poser_become_caller(&caller);
}

/*
 * Describing
 */

/* Returns how rows of "rel" become rows of a table above it; NULL if they need no change. */
static TupleConversionMap *
map_rows(Relation rel, Oid above)
{
	TupleConversionMap *result;
	Relation whole;

	if (RelationGetRelid(rel) == above)
		return NULL;
	whole = table_open(above, AccessShareLock);
	result = convert_tuples_by_name(CreateTupleDescCopy(RelationGetDescr(rel)), CreateTupleDescCopy(RelationGetDescr(whole)));
	table_close(whole, AccessShareLock);
	return result;
}

/* Describe a view for the triggers on "rel", in the current memory context. */
static void
describe_view(PoserTableView *view, Relation rel, const PoserMaintained *maintained, const List *tables_above)
{
	MemoryContext context = CurrentMemoryContext;
	MemoryContext scratch = AllocSetContextCreate(context, "poser scratch", ALLOCSET_DEFAULT_SIZES);
	PoserViewForm *form;
	List *uncounted = NIL;

	MemoryContextSwitchTo(scratch);
	form = poser_maintained_read(maintained);
	if (list_member_oid(tables_above, maintained->child))
		uncounted = poser_maintained_uncounted(maintained, RelationGetRelid(rel));
	MemoryContextSwitchTo(context);

	view->relations = *maintained;
	view->owner = form->owner;
	view->is_child = list_member_oid(tables_above, maintained->child);
	view->is_parent = list_member_oid(tables_above, maintained->parent);
	view->nkeys = form->nkeys;
	view->keys = palloc(form->nkeys * sizeof(PoserViewKey));
	memcpy(view->keys, form->keys, form->nkeys * sizeof(PoserViewKey));
	view->naggregates = form->naggregates;
	view->aggregates = palloc((form->naggregates + 1) * sizeof(PoserViewAggregate));
	memcpy(view->aggregates, form->aggregates, form->naggregates * sizeof(PoserViewAggregate));
	for (int i = 0; i < form->naggregates; i++)
		view->aggregates[i].filter = NULL;
	/* if the table itself is a partition that is not counted, no row of it is */
	if (list_member_oid(uncounted, RelationGetRelid(rel)))
	{
		view->is_child = false;
		uncounted = NIL;
	}
	plan_conditions(view, form, uncounted);
	poser_maintained_count(&view->count, maintained, form);
	if (view->is_child)
	{
		view->child_map = map_rows(rel, maintained->child);
		view->types = palloc((form->naggregates + 1) * sizeof(Oid));
		for (int i = 0; i < form->naggregates; i++)
			view->types[i] = getBaseType(get_atttype(maintained->child, form->aggregates[i].column));
	}
	if (view->is_parent)
	{
		TupleConversionMap *map = map_rows(rel, maintained->parent);

		view->parent_keys = palloc(form->nkeys * sizeof(AttrNumber));
		for (int i = 0; i < form->nkeys; i++)
			view->parent_keys[i] = map == NULL ? form->keys[i].parent : map->attrMap->attnums[form->keys[i].parent - 1];
	}
	MemoryContextDelete(scratch);
}

/* For list_sort(): by the OID of the bookkeeping. */
static int
compare_bookkeepings(const ListCell *a, const ListCell *b)
{
	const PoserMaintained *amaintained = lfirst(a);
	const PoserMaintained *bmaintained = lfirst(b);

	if (amaintained->bookkeeping == bmaintained->bookkeeping)
		return 0;
	return amaintained->bookkeeping < bmaintained->bookkeeping ? -1 : 1;
}

/*
 * Lock the query and the bookkeeping of a view, so that they stay while the view is
 * described.  Returns false, and has locked nothing, if the view or one of them was dropped, or
 * if the query was replaced: the new one may have any form, and nothing reads the counts
 * until poser_maintain() has made them again.
 */
static bool
lock_view(PoserMaintained *maintained, Oid nspid)
{
	PoserMaintained found;

	if (!OidIsValid(maintained->view) || !OidIsValid(maintained->query) ||
		!OidIsValid(maintained->parent) || !OidIsValid(maintained->child))
		return false;
	LockRelationOid(maintained->query, AccessShareLock);
	LockRelationOid(maintained->bookkeeping, AccessShareLock);
	if (poser_maintained_find(maintained->bookkeeping, nspid, &found) &&
		memcmp(maintained, &found, sizeof(PoserMaintained)) == 0 && !poser_maintained_query_is_replaced(maintained))
		return true;
	UnlockRelationOid(maintained->bookkeeping, AccessShareLock);
	UnlockRelationOid(maintained->query, AccessShareLock);
	return false;
}

/* Returns the partitioned tables among the partitions of a table, as a list of OIDs. */
static List *
partitioned_tables(Oid relid)
{
	List *result = NIL;
	ListCell *lc;

	foreach(lc, find_all_inheritors(relid, NoLock, NULL))
	{
		if (get_rel_relkind(lfirst_oid(lc)) == RELKIND_PARTITIONED_TABLE)
			result = lappend_oid(result, lfirst_oid(lc));
	}
	return result;
}

/* Describe the maintained views of a table, in a memory context of its own below the current one. */
static PoserTableViews *
describe_table(Relation rel, Oid nspid)
{
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "poser scratch", ALLOCSET_DEFAULT_SIZES);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "poser maintained views", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	PoserTableViews *result = palloc0(sizeof(PoserTableViews));
	List *above = list_make1_oid(RelationGetRelid(rel));
	List *found;
	ListCell *lc;
	Oid last = InvalidOid;

	result->context = context;
	result->nspid = nspid;
	if (rel->rd_rel->relispartition)
		above = list_concat(above, get_partition_ancestors(RelationGetRelid(rel)));
	result->relids = above;

	MemoryContextSwitchTo(scratch);
	found = poser_maintained_of_table(RelationGetRelid(rel), nspid);
	list_sort(found, compare_bookkeepings);
	MemoryContextSwitchTo(context);
	result->views = palloc0((list_length(found) + 1) * sizeof(PoserTableView));
	foreach(lc, found)
	{
		PoserMaintained *maintained = lfirst(lc);
		PoserTableView *view = &result->views[result->nviews];

		CHECK_FOR_INTERRUPTS();
		if (maintained->bookkeeping == last || !lock_view(maintained, nspid))
			continue;
		last = maintained->bookkeeping;
		describe_view(view, rel, maintained, above);
		UnlockRelationOid(maintained->bookkeeping, AccessShareLock);
		UnlockRelationOid(maintained->query, AccessShareLock);
		result->nviews++;
		result->has_child = result->has_child || view->is_child;
	}
	/* a view that was not described now can be described later, so its relations are watched as well */
	foreach(lc, found)
	{
		PoserMaintained *maintained = lfirst(lc);

		result->relids = list_append_unique_oid(result->relids, maintained->bookkeeping);
		result->relids = list_append_unique_oid(result->relids, maintained->query);
		result->relids = list_append_unique_oid(result->relids, maintained->view);
		result->relids = list_append_unique_oid(result->relids, maintained->parent);
		result->relids = list_append_unique_oid(result->relids, maintained->child);
		/* a new partition invalidates only the table that it is a partition of */
		if (get_rel_relkind(maintained->child) == RELKIND_PARTITIONED_TABLE)
			result->relids = list_concat(result->relids, partitioned_tables(maintained->child));
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(scratch);
	return result;
}

/* Callback of a memory context: the call that used a description has ended. */
static void
release(void *arg)
{
	PoserTableViews *views = arg;

	views->users--;
	free_unused(views);
}

/*
 * Returns the maintained views of the table of a trigger, in the order of their bookkeepings'
 * OIDs.  "nspid" is the schema of the extension's functions.  The caller holds a lock on the
 * table.  The result lives until "context" is reset.
 */
const PoserTableViews *
poser_table_views(Relation rel, Oid nspid, MemoryContext context)
{
	Oid relid = RelationGetRelid(rel);
	TableEntry *entry = hash_search(tables, &relid, HASH_FIND, NULL);
	PoserTableViews *views = entry != NULL ? entry->views : NULL;
	MemoryContextCallback *callback = MemoryContextAlloc(context, sizeof(MemoryContextCallback));

	if (views == NULL || views->nspid != nspid)
	{
		uint64 started = invalidations;
		bool found;

		views = describe_table(rel, nspid);
		MemoryContextSetParent(views->context, CacheMemoryContext);

		/* If something has changed since the look-up began, the next call looks up again. */
		if (started == invalidations)
		{
			entry = hash_search(tables, &relid, HASH_ENTER, &found);
			if (found)
			{
				entry->views->cached = false;
				free_unused(entry->views);
			}
			entry->views = views;
			views->cached = true;
		}
	}
	views->users++;
	callback->func = release;
	callback->arg = views;
	MemoryContextRegisterResetCallback(context, callback);
	return views;
}

/*
 * Lock the bookkeeping of a maintained view for writing until the transaction ends, and
 * return the view as it is described under the lock; NULL if it is not maintained any more.
 * The result lives until "context" is reset.
 */
const PoserTableView *
poser_table_view_locked(Relation rel, Oid nspid, Oid bookkeeping, MemoryContext context)
{
	const PoserTableViews *views;

	LockRelationOid(bookkeeping, RowExclusiveLock);
	views = poser_table_views(rel, nspid, context);
	for (int i = 0; i < views->nviews; i++)
		if (views->views[i].relations.bookkeeping == bookkeeping)
			return &views->views[i];
	return NULL;
}
