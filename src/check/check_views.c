/*
 * check_views.c
 *	  Checking maintained views.
 *
 * counts/maintained_state.c says what is wrong with the relations of a view.  If the view
 * reads its counts and sums, these are compared with the rows of the child here.
 *
 * As for tracked tables, each view is checked in a subtransaction of its own, which is
 * rolled back at the end.  So the locks on 1,000 views are not held at the same time, and
 * an error in one view becomes a line of the result.  If all views are checked, a view with
 * a relation that cannot be locked at once is named and left out.
 *
 * The invariant: a query over the tables of a view runs with the rights of the view's owner,
 * restricted.
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "check/check_internal.h"
#include "counts/counts.h"

/*
 * What is left after a table, the extension or a trigger was dropped, and what poser_unmaintain()
 * no longer finds: relations that poser_maintain() has made and that nothing binds, and
 * triggers on tables that no maintained view has.  Only what the caller can remove is
 * returned.  $1 is the schema of the extension.
 */
static const char *const check_leftovers =
	"WITH binding AS (\n"
	"    SELECT t.tgrelid AS bookkeeping, t.tgconstrrelid AS relation, t.tgname AS name\n"
	"      FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid\n"
	"     WHERE p.pronamespace = $1 AND p.proname = 'poser_maintained_by'\n"
	"),\n"
	"counting AS (\n"
	"    SELECT t.tgrelid AS relation, string_agg(format('DROP TRIGGER %I ON %s', t.tgname, t.tgrelid::regclass), '; ' ORDER BY t.tgname) AS remedy\n"
	"      FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid\n"
	"     WHERE p.pronamespace = $1 AND p.proname = 'poser_maintain_rows' AND t.tgparentid = 0\n"
	"     GROUP BY t.tgrelid\n"
	")\n"
	"SELECT format('%s %s', kind, c.oid::regclass),\n"
	"       format('is what is left of a maintained view that was dropped: DROP %s %s', upper(kind), c.oid::regclass)\n"
	"  FROM pg_class AS c, LATERAL (SELECT CASE c.relkind WHEN 'v' THEN 'view' ELSE 'table' END AS kind) AS k\n"
	" WHERE c.relkind IN ('r', 'v') AND obj_description(c.oid, 'pg_class') ~ '^Poser: the (query|counts and sums) of a maintained view'\n"
	"   AND pg_has_role(c.relowner, 'USAGE')\n"
	"   AND c.oid NOT IN (SELECT bookkeeping FROM binding UNION ALL SELECT relation FROM binding)\n"
	/* another view uses it, so it may still be needed; before 16 the rule of a view depends on the view itself */
	"   AND NOT EXISTS (SELECT FROM pg_depend AS d\n"
	"                    WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid AND d.deptype = 'n'\n"
	"                      AND d.objid NOT IN (SELECT r.oid FROM pg_rewrite AS r WHERE r.ev_class = c.oid))\n"
	"UNION ALL\n"
	"SELECT format('table %s', c.oid::regclass),\n"
	"       format('has triggers that count for no maintained view: %s', counting.remedy)\n"
	"  FROM counting JOIN pg_class AS c ON c.oid = counting.relation\n"
	" WHERE pg_has_role(c.relowner, 'USAGE')\n"
	"   AND NOT EXISTS (SELECT FROM binding\n"
	"                    WHERE name IN ('poser_maintained_parent', 'poser_maintained_child')\n"
	"                      AND (binding.relation = c.oid\n"
	"                           OR binding.relation IN (SELECT relid FROM pg_partition_ancestors(c.oid))))\n"
	/* a maintained view that has lost a binding counts again after poser_maintain() */
	"   AND NOT EXISTS (SELECT FROM binding JOIN pg_rewrite AS r ON r.ev_class = binding.relation\n"
	"                               JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid\n"
	"                    WHERE d.refclassid = 'pg_class'::regclass AND d.deptype = 'n'\n"
	"                      AND (d.refobjid = c.oid OR d.refobjid IN (SELECT relid FROM pg_partition_ancestors(c.oid))))\n"
	" ORDER BY 1";

/* Report what is left of views that are gone. */
void
poser_check_view_leftovers(const PoserCheck *check)
{
	poser_check_run(check, check_leftovers);
}

/* Lock all relations of a view.  Without "wait", returns one that another transaction has locked; otherwise InvalidOid. */
static Oid
lock_relations(const PoserMaintained *maintained, bool wait)
{
	ListCell *lc;

	foreach(lc, poser_maintained_relations(maintained))
	{
		Oid relid = lfirst_oid(lc);

		if (wait)
			LockRelationOid(relid, AccessShareLock);
		else if (!poser_lock_at_once(relid, AccessShareLock))
			return relid;
	}
	return InvalidOid;
}

/* Compare the counts and sums with the rows.  All relations are locked. */
static void
check_rows(const PoserCheck *check, const PoserMaintained *maintained, const char *label)
{
	const Oid relids[] = {maintained->parent, maintained->child, maintained->bookkeeping};
	const char *unreadable = NULL;
	PoserCaller caller;
	ListCell *lc;

	foreach(lc, poser_maintained_relations(maintained))
	{
		poser_check_transaction_snapshot(lfirst_oid(lc));
	}
	poser_become_owner(maintained->view, &caller);
	for (int i = 0; i < lengthof(relids); i++)
		if (unreadable == NULL && !poser_may_read(relids[i]))
			unreadable = poser_relation_name(relids[i]);
	if (unreadable == NULL)
		poser_check_run(check, poser_view_check_sql(maintained, check->nspid));
	else
		poser_check_add(check, label, psprintf("its owner cannot read %s completely, so the counts and sums are not compared", unreadable));
	poser_become_caller(&caller);
}

/* Lock a view, and check it.  Without "wait" a view that cannot be locked at once is only named. */
static void
lock_and_check(const PoserCheck *check, Oid bookkeeping, const char *label, bool wait)
{
	PoserMaintained maintained;
	PoserMaintainedState state;
	Oid locked;
	ListCell *lc;

	if (!poser_maintained_find(bookkeeping, check->nspid, &maintained))
		return;
	locked = lock_relations(&maintained, wait);
	if (OidIsValid(locked))
	{
		if (get_rel_name(locked) != NULL)
			poser_check_add(check, label, psprintf("%s is locked by another transaction, so the view was not checked", poser_relation_name(locked)));
		return;
	}

	/* lock, then look: the view may have been dropped, or given to another role */
	if (!poser_maintained_find(bookkeeping, check->nspid, &maintained) ||
		!poser_is_owner(OidIsValid(maintained.view) ? maintained.view : bookkeeping, GetUserId()))
		return;

	/* in READ COMMITTED this snapshot is newer than the locks */
	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();
	if (poser_maintained_state(&state, &maintained, check->nspid))
	{
		foreach(lc, state.problems)
		{
			poser_check_add(check, label, lfirst(lc));
		}
		/* the query's conditions must not run as another role than its owner */
		if (state.described && poser_have_one_owner(maintained.view, maintained.query) &&
			poser_have_one_owner(maintained.view, maintained.bookkeeping))
			check_rows(check, &maintained, label);
	}
	SPI_finish();
	PopActiveSnapshot();
}

/*
 * Check the maintained view with this bookkeeping.  Without "wait" it is one of many: if it
 * cannot be locked or checked, this is a line of the result, and if it is gone, it is left out.
 */
void
poser_check_view(const PoserCheck *check, Oid bookkeeping, bool wait)
{
	PoserSavepoint savepoint;
	PoserMaintained maintained;
	const char *label;

	if (!poser_maintained_find(bookkeeping, check->nspid, &maintained))
		return;
	if (OidIsValid(maintained.view) && get_rel_name(maintained.view) != NULL)
		label = psprintf("view %s", poser_relation_name(maintained.view));
	else
		label = psprintf("table %s", poser_relation_name(bookkeeping));
	poser_savepoint_set(&savepoint);
	PG_TRY();
	{
		if (!wait)
			(void) poser_begin_impatience(bookkeeping);
		lock_and_check(check, bookkeeping, label, wait);
		poser_savepoint_rollback(&savepoint);
	}
	PG_CATCH();
	{
		ErrorData *error = poser_savepoint_catch_any(&savepoint);

		/* a request to cancel is not caught */
		if (wait || poser_is_cancel_request(error))
			ReThrowError(error);
		poser_check_add(check, label, psprintf("cannot be checked: %s", error->message));
		FreeErrorData(error);
	}
	PG_END_TRY();
}

/*
 * Returns the maintained views that the caller has the rights for, as a list of OIDs of their
 * bookkeepings.  A view that was dropped belongs to the owner of its bookkeeping.
 */
List *
poser_check_find_views(Oid nspid)
{
	List *result = NIL;
	ListCell *lc;

	foreach(lc, poser_maintained_list(nspid))
	{
		PoserMaintained *maintained = lfirst(lc);
		Oid owned = OidIsValid(maintained->view) ? maintained->view : maintained->bookkeeping;

		if (poser_is_owner(owned, GetUserId()))
			result = lappend_oid(result, maintained->bookkeeping);
	}
	return result;
}

/*
 * Returns the maintained views to check for a target, as poser_check_find_views() does: the view
 * that the target belongs to, or those that count a table or have a row for each of its rows.
 */
List *
poser_check_find_views_of(Oid target, Oid nspid)
{
	PoserMaintained maintained;
	List *result = NIL;
	ListCell *lc;

	if (poser_maintained_find(target, nspid, &maintained))
	{
		poser_check_owner(OidIsValid(maintained.view) ? maintained.view : maintained.bookkeeping);
		return list_make1_oid(maintained.bookkeeping);
	}
	foreach(lc, poser_maintained_of_table(target, nspid))
	{
		PoserMaintained *of_table = lfirst(lc);
		Oid owned = OidIsValid(of_table->view) ? of_table->view : of_table->bookkeeping;

		if (poser_is_owner(owned, GetUserId()))
			result = list_append_unique_oid(result, of_table->bookkeeping);
	}
	return result;
}
