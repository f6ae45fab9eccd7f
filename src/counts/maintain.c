/*
 * maintain.c
 *	  poser_maintain(): keeping the counts and sums of a view.
 *
 * The function compares what is there with what should be there, and changes what differs.
 * So it can be called again at any time.  It compares twice: first it only looks, with the
 * weakest locks.  If something is to be done, it locks all tables together against writers,
 * looks again, and does it.
 *
 * All statements run as the owner of the view, in a security-restricted operation.  So code
 * of the owner gets the owner's rights only, even if a superuser calls the function.
 *
 * The invariant: when poser_maintain() returns, all triggers that count have been there
 * since before the rows were counted, under locks that keep writers out.
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/dependency.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

#include "counts/maintain_internal.h"

PG_FUNCTION_INFO_V1(poser_maintain);

/*
 * Doing something
 */

/*
 * Returns whether to take the step that the message describes.  In the first pass the result is
 * false, and maintain->todo is set.  In the second one it is true, and the message is a NOTICE
 * unless the view was not maintained before.
 */
bool
poser_maintain_must(PoserMaintain *maintain, const char *format, ...)
{
	StringInfoData message;
	va_list args;
	int needed;

	maintain->todo = true;
	if (maintain->looking)
		return false;
	if (maintain->quiet)
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
	return true;
}

/* Run a statement that changes this relation, as the relation's owner. */
void
poser_maintain_run(Oid relid, const char *sql)
{
	PoserCaller caller;

	poser_become_owner(relid, &caller);
	poser_run_utility(sql);
	poser_become_caller(&caller);
}

/*
 * Counting
 */

/*
 * Count the rows, and show progress in pg_stat_activity.  "again": correct what is in the
 * bookkeeping, which is not empty.  The bookkeepings of other views, a list of PoserMaintained,
 * are corrected, too.
 */
static void
count_rows(PoserMaintain *maintain, bool again, const List *others)
{
	PoserProgress progress;

	poser_progress_begin(&progress, "poser_maintain");
	PG_TRY();
	{
		ListCell *lc;

		if (again)
			(void) poser_recount_view(&progress, &maintain->of, maintain->nspid);
		else if (maintain->existing)
			poser_maintain_fill(maintain, &progress);
		foreach(lc, others)
		{
			(void) poser_recount_view(&progress, lfirst(lc), maintain->nspid);
		}
	}
	PG_FINALLY();
	{
		poser_progress_end(&progress);
	}
	PG_END_TRY();
}

/*
 * Returns the other views of the tables of which changes may have been missed.  Their counts and
 * sums must be corrected, too, because the triggers are right afterwards, and the views are served.
 */
static List *
other_views(const PoserMaintain *maintain)
{
	List *seen = list_make1_oid(maintain->of.bookkeeping);
	List *result = NIL;
	ListCell *lc;

	foreach(lc, maintain->broken)
	{
		ListCell *found;

		foreach(found, poser_maintained_of_table(lfirst_oid(lc), maintain->nspid))
		{
			const PoserMaintained *other = lfirst(found);

			if (list_member_oid(seen, other->bookkeeping) || !poser_maintained_is_whole(other))
				continue;
			seen = lappend_oid(seen, other->bookkeeping);
			result = lappend(result, (void *) other);
		}
	}
	return result;
}

/* Make everything for a view that has nothing yet. */
static void
make_all(PoserMaintain *maintain)
{
	List *others = other_views(maintain);

	maintain->quiet = true;
	memset(&maintain->of, 0, sizeof(PoserMaintained));
	poser_maintain_make_relations(maintain);
	poser_maintain_table_triggers(maintain);
	count_rows(maintain, false, others);
	poser_maintain_bindings(maintain);
	if (maintain->existing)
		poser_maintain_switch_view(maintain);
}

/*
 * What is to be done
 */

typedef enum MaintainTask
{
	DO_NOTHING,
	REPAIR,	   /* triggers and bindings */
	COUNT,	   /* the view is complete: count, and give it its query */
	MAKE,	   /* nothing is there */
	MAKE_AGAIN /* what is there is about another query, or cannot be used */
} MaintainTask;

/* Raises an error unless this is a view, and the current user has the rights of its owner. */
static void
check_view(Oid relid)
{
	Oid extension = getExtensionOfObject(RelationRelationId, relid);

	poser_maintained_check_owner(relid);
	if (get_rel_relkind(relid) != RELKIND_VIEW)
		ereport(ERROR,
				errcode(ERRCODE_WRONG_OBJECT_TYPE),
				errmsg("cannot maintain relation \"%s\"", get_rel_name(relid)),
				errdetail("It is not a view."));
	if (OidIsValid(extension))
		ereport(ERROR,
				errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				errmsg("cannot maintain view \"%s\"", get_rel_name(relid)),
				errdetail("It belongs to extension \"%s\".", get_extension_name(extension)));
}

/* Raises an error if the view is not the maintained view itself, but belongs to one. */
static void
check_is_view_itself(const PoserMaintain *maintain)
{
	if (maintain->of.view == maintain->view)
		return;
	ereport(ERROR,
			errcode(ERRCODE_WRONG_OBJECT_TYPE),
			errmsg("cannot maintain view \"%s\"", get_rel_name(maintain->view)),
			errdetail("It belongs to a maintained view."),
			OidIsValid(maintain->of.view)
				? errhint("Call poser_maintain() for view \"%s\".", get_rel_name(maintain->of.view))
				: errhint("That view was dropped; poser_unmaintain() removes the rest of it."));
}

/*
 * Have two views the same query?  Writing a query as text locks its tables.  So this happens
 * in a subtransaction that is rolled back: a session that holds locks must not wait for others.
 */
static bool
have_same_query(Oid a, Oid b)
{
	PoserSavepoint savepoint;
	volatile bool result = false;

	poser_savepoint_set(&savepoint);
	PG_TRY();
	{
		result = strcmp(poser_view_query_sql(a), poser_view_query_sql(b)) == 0;
		poser_savepoint_rollback(&savepoint);
	}
	PG_CATCH();
	{
		ReThrowError(poser_savepoint_catch_any(&savepoint));
	}
	PG_END_TRY();
	return result;
}

/*
 * Has the bookkeeping the columns and indexes that this form needs?  An error would say what
 * is missing, so this is in a subtransaction, too.
 */
static bool
bookkeeping_fits(const PoserMaintain *maintain)
{
	PoserSavepoint savepoint;
	PoserCount count;
	volatile bool result = true;

	poser_savepoint_set(&savepoint);
	PG_TRY();
	{
		poser_maintained_count(&count, &maintain->of, maintain->form);
		poser_savepoint_rollback(&savepoint);
	}
	PG_CATCH();
	{
		ErrorData *error = poser_savepoint_catch_any(&savepoint);

		if (error->sqlerrcode != ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE)
			ReThrowError(error);
		FreeErrorData(error);
		result = false;
	}
	PG_END_TRY();
	return result;
}

/* Read the form of this view, and find its tables, and what is to be done with their triggers. */
static void
find_tables(PoserMaintain *maintain, Oid query)
{
	maintain->form = poser_view_form(query, maintain->view);
	maintain->parents = find_all_inheritors(maintain->form->parent, NoLock, NULL);
	maintain->children = find_all_inheritors(maintain->form->child, NoLock, NULL);
	maintain->exclusive = maintain->broken = NIL;
	maintain->todo = maintain->missed = maintain->replaced = false;
	maintain->looking = true;
	poser_maintain_table_triggers(maintain);
	maintain->looking = false;
}

/* Is a view complete, but was never given the query that reads the counts? */
bool
poser_maintained_is_prepared(const PoserMaintained *maintained)
{
	return OidIsValid(maintained->view) && OidIsValid(maintained->query) && OidIsValid(maintained->served) &&
		   !poser_maintained_is_switched(maintained) && have_same_query(maintained->view, maintained->query);
}

/*
 * Find the relations of the view, and lock them with the weakest lock, so that they are not dropped
 * while this looks at them.  Returns false if the view is not maintained.  The locks are
 * added to *locks.
 */
static bool
find_family(PoserMaintain *maintain, PoserLocks *locks)
{
	PoserMaintained *of = &maintain->of;

	for (;;)
	{
		PoserMaintained before;

		memset(locks, 0, sizeof(PoserLocks));
		if (!poser_maintained_find(maintain->view, maintain->nspid, of))
			return false;
		before = *of;
		poser_maintain_add_lock(locks, of->view, AccessShareLock);
		poser_maintain_add_lock(locks, of->query, AccessShareLock);
		poser_maintain_add_lock(locks, of->served, AccessShareLock);
		poser_maintain_add_lock(locks, of->bookkeeping, AccessShareLock);
		poser_maintain_add_lock(locks, of->parent, AccessShareLock);
		poser_maintain_add_lock(locks, of->child, AccessShareLock);
		poser_maintain_lock(locks);
		/* lock, then look */
		if (poser_maintained_find(maintain->view, maintain->nspid, of) && memcmp(&before, of, sizeof(before)) == 0)
			return true;
		poser_maintain_unlock(locks);
	}
}

/* Find out what is to be done with a view that is maintained already. */
static MaintainTask
look_at_maintained(PoserMaintain *maintain)
{
	const PoserMaintained *of = &maintain->of;
	bool is_switched;

	check_is_view_itself(maintain);
	is_switched = poser_maintained_is_switched(of);
	if (!is_switched && !poser_have_one_owner(of->bookkeeping, maintain->view))
	{
		/* another role has bound a table of its own to the view */
		find_tables(maintain, maintain->view);
		memset(&maintain->of, 0, sizeof(PoserMaintained));
		return MAKE;
	}
	if (!is_switched && !poser_maintained_is_prepared(of))
	{
		/* the user has replaced the query: the new one is the definition */
		poser_maintained_check_owners(of, true);
		find_tables(maintain, maintain->view);
		return MAKE_AGAIN;
	}
	find_tables(maintain, of->query);
	if (!bookkeeping_fits(maintain))
	{
		poser_maintained_check_owners(of, true);
		return MAKE_AGAIN;
	}

	maintain->looking = true;
	poser_maintain_repair_served(maintain);
	poser_maintain_bindings(maintain);
	maintain->looking = false;
	if (!maintain->todo && (is_switched || !maintain->existing))
		return DO_NOTHING;
	poser_maintained_check_owners(of, true);
	return maintain->todo ? REPAIR : COUNT;
}

/* Find out what is to be done.  Keeps no locks. */
static MaintainTask
look(PoserMaintain *maintain)
{
	PoserLocks locks;
	MaintainTask task = MAKE;

	check_view(maintain->view);
	if (find_family(maintain, &locks))
		task = look_at_maintained(maintain);
	else
		find_tables(maintain, maintain->view);
	poser_maintain_unlock(&locks);
	return task;
}

/*
 * Locks
 */

void
poser_maintain_add_lock(PoserLocks *locks, Oid relid, LOCKMODE mode)
{
	if (!OidIsValid(relid))
		return;
	/* space for a power of two */
	if (locks->n == 0)
	{
		locks->relids = palloc(sizeof(Oid));
		locks->modes = palloc(sizeof(LOCKMODE));
	}
	else if ((locks->n & (locks->n - 1)) == 0)
	{
		locks->relids = repalloc(locks->relids, 2 * locks->n * sizeof(Oid));
		locks->modes = repalloc(locks->modes, 2 * locks->n * sizeof(LOCKMODE));
	}
	locks->relids[locks->n] = relid;
	locks->modes[locks->n++] = mode;
}

void
poser_maintain_add_locks(PoserLocks *locks, const List *relids, LOCKMODE mode)
{
	ListCell *lc;

	foreach(lc, relids)
	{
		poser_maintain_add_lock(locks, lfirst_oid(lc), mode);
	}
}

void
poser_maintain_lock(const PoserLocks *locks)
{
	poser_lock_together(locks->relids, locks->modes, locks->n);
}

void
poser_maintain_unlock(const PoserLocks *locks)
{
	for (int i = 0; i < locks->n; i++)
		UnlockRelationOid(locks->relids[i], locks->modes[i]);
}

/* Does a repair give the view its query anew? */
static bool
switches(const PoserMaintain *maintain, bool is_switched)
{
	return is_switched ? maintain->replaced : maintain->existing;
}

/* Find the locks that a task needs.  Returns the tables that lose their triggers. */
static List *
find_locks(const PoserMaintain *maintain, MaintainTask task, PoserLocks *locks)
{
	List *tables = list_concat_unique_oid(list_copy(maintain->children), maintain->parents);
	List *freed = NIL;
	ListCell *lc;

	memset(locks, 0, sizeof(PoserLocks));
	switch (task)
	{
		case DO_NOTHING:
		case COUNT:
			return NIL;
		case REPAIR:
			poser_maintain_add_lock(locks, maintain->of.bookkeeping, AccessExclusiveLock);
			poser_maintain_add_lock(locks, maintain->of.served, AccessExclusiveLock);
			poser_maintain_add_lock(locks, maintain->of.query, AccessShareLock);
			poser_maintain_add_lock(locks, maintain->view,
									switches(maintain, poser_maintained_is_switched(&maintain->of)) ? AccessExclusiveLock : AccessShareLock);
			break;
		case MAKE_AGAIN:
			freed = poser_unmaintain_tables(&maintain->of, maintain->nspid, tables);
			poser_maintain_add_lock(locks, maintain->of.query, AccessExclusiveLock);
			poser_maintain_add_lock(locks, maintain->of.served, AccessExclusiveLock);
			poser_maintain_add_lock(locks, maintain->of.bookkeeping, AccessExclusiveLock);
			poser_maintain_add_locks(locks, freed, AccessExclusiveLock);
			poser_maintain_add_lock(locks, maintain->view, AccessExclusiveLock);
			break;
		case MAKE:
			poser_maintain_add_lock(locks, maintain->view, AccessExclusiveLock);
			break;
	}
	foreach(lc, other_views(maintain))
	{
		const PoserMaintained *other = lfirst(lc);

		/* those that poser_recount_view() takes */
		poser_maintain_add_lock(locks, other->bookkeeping, ShareUpdateExclusiveLock);
		poser_maintain_add_lock(locks, other->query, AccessShareLock);
		poser_maintain_add_locks(locks, find_all_inheritors(other->child, NoLock, NULL), AccessShareLock);
		poser_maintain_add_locks(locks, find_all_inheritors(other->parent, NoLock, NULL), AccessShareLock);
	}
	foreach(lc, tables)
	{
		poser_maintain_add_lock(locks, lfirst_oid(lc),
								list_member_oid(maintain->exclusive, lfirst_oid(lc)) ? AccessExclusiveLock : ShareRowExclusiveLock);
	}
	return freed;
}

/* Are these the same locks? */
static bool
are_equal_locks(const PoserLocks *a, const PoserLocks *b)
{
	return a->n == b->n && (a->n == 0 || (memcmp(a->relids, b->relids, a->n * sizeof(Oid)) == 0 &&
										  memcmp(a->modes, b->modes, a->n * sizeof(LOCKMODE)) == 0));
}

/* Find out what is to be done, and lock what it needs.  *freed are the tables that lose their triggers. */
static MaintainTask
look_and_lock(PoserMaintain *maintain, List **freed)
{
	MaintainTask task = look(maintain);
	PoserLocks locks;

	*freed = find_locks(maintain, task, &locks);
	for (;;)
	{
		PoserLocks needed;

		poser_maintain_lock(&locks);
		/* lock, then look: is it still the same that is to be done, with the same relations? */
		task = look(maintain);
		*freed = find_locks(maintain, task, &needed);
		if (are_equal_locks(&locks, &needed))
		{
			poser_maintain_check_not_in_use(&locks);
			return task;
		}
		poser_maintain_unlock(&locks);
		locks = needed;
	}
}

/*
 * Raises an error if the session's own queries use a relation, which is locked.  A statement
 * that is writing a table was begun without the triggers, and its rows would not be counted.
 */
void
poser_maintain_check_not_in_use(const PoserLocks *locks)
{
	for (int i = 0; i < locks->n; i++)
	{
		Relation rel = try_relation_open(locks->relids[i], NoLock);
		bool in_use;

		if (rel == NULL)
			continue;
		in_use = rel->rd_refcnt > 1;
		relation_close(rel, NoLock);
		if (in_use)
			ereport(ERROR,
					errcode(ERRCODE_OBJECT_IN_USE),
					errmsg("relation \"%s\" is being used by active queries in this session", get_rel_name(locks->relids[i])));
	}
}

/*
 * The call
 */

/* Make triggers and bindings right.  Counts again if changes may have been missed, while the tables are locked. */
static void
repair(PoserMaintain *maintain)
{
	bool is_switched = poser_maintained_is_switched(&maintain->of);
	List *others = other_views(maintain);

	poser_maintain_repair_served(maintain);
	poser_maintain_table_triggers(maintain);
	poser_maintain_bindings(maintain);
	(void) poser_maintained_find(maintain->view, maintain->nspid, &maintain->of);
	if (is_switched ? maintain->missed : maintain->existing)
		count_rows(maintain, true, others);
	if (switches(maintain, is_switched))
		poser_maintain_switch_view(maintain);
}

/*
 * Count while others write: the triggers are there already.  Then give the view the query that
 * reads the counts.
 */
static void
count_and_switch(PoserMaintain *maintain)
{
	PoserMaintained of = maintain->of;

	count_rows(maintain, true, NIL);
	LockRelationOid(maintain->view, AccessExclusiveLock);
	/* lock, then look: was something changed while this counted? */
	if (look(maintain) != COUNT || memcmp(&of, &maintain->of, sizeof(of)) != 0)
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("view \"%s\" or its tables were changed while they were counted", get_rel_name(maintain->view)),
				errhint("Call poser_maintain() again."));
	poser_maintain_switch_view(maintain);
}

/* As poser_maintain_view(), under the settings that it needs. */
static void
maintain_view(Oid nspid, Oid view, bool existing)
{
	PoserMaintain maintain = {.nspid = nspid, .view = view, .existing = existing};
	List *freed;
	MaintainTask task = look_and_lock(&maintain, &freed);

	switch (task)
	{
		case DO_NOTHING:
			break;
		case REPAIR:
			repair(&maintain);
			break;
		case COUNT:
			count_and_switch(&maintain);
			break;
		case MAKE_AGAIN:
			ereport(NOTICE, errmsg("the counts and sums of view \"%s\" are made again", get_rel_name(view)));
			poser_unmaintain_drop(&maintain.of, poser_maintained_is_switched(&maintain.of));
			poser_maintain_drop_triggers(freed, nspid);
			make_all(&maintain);
			break;
		case MAKE:
			make_all(&maintain);
			break;
	}
}

/* Maintain a view.  Raises an error unless the current user has the rights of its owner. */
void
poser_maintain_view(Oid nspid, Oid view, bool existing)
{
	int level = poser_view_begin_text();

	poser_maintain_set_running(true);
	PG_TRY();
	{
		maintain_view(nspid, view, existing);
	}
	PG_FINALLY();
	{
		poser_maintain_set_running(false);
	}
	PG_END_TRY();
	AtEOXact_GUC(true, level);
}

/*
 * Mend the triggers and bindings of a view that reads its counts, if they are not as they
 * should be.  A view with another query than Poser's is left alone.
 */
void
poser_maintain_mend(Oid nspid, Oid view)
{
	PoserMaintained maintained;

	if (poser_maintained_find(view, nspid, &maintained) && poser_maintained_is_switched(&maintained) &&
		poser_maintained_query_matches(&maintained, false))
		poser_maintain_view(nspid, maintained.view, true);
}

/*
 * poser_maintain(view regclass, existing boolean) returns void
 */
Datum
poser_maintain(PG_FUNCTION_ARGS)
{
	PreventCommandIfReadOnly("poser_maintain()");
	for (int i = 0; i < 2; i++)
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					errmsg("%s must not be null", i == 0 ? "view" : "existing"));
	poser_maintain_view(get_func_namespace(fcinfo->flinfo->fn_oid), PG_GETARG_OID(0), PG_GETARG_BOOL(1));
	PG_RETURN_VOID();
}
