/*
 * recount_view.c
 *	  poser_recount(): comparing the counts and sums of maintained views with the rows, and
 *	  making them right.
 *
 * The bookkeeping of a view is rebuilt as that of the components, see recount.c, while other
 * sessions write.  The comparison reads the tables as the owner of the view, restricted:
 * conditions of the view are the owner's code.
 *
 * Without an argument, poser_recount() goes through the components and all maintained views
 * of the caller.  Each view is rebuilt in a subtransaction.  If a view cannot be rebuilt, its
 * error becomes a WARNING, and the others are rebuilt.  An error after which the transaction
 * should be tried again is not caught, and neither is a request to cancel.
 *
 * If triggers are not as they should be, for instance after DISABLE and ENABLE TRIGGER ALL, they
 * are mended as well, as poser_maintain() does it.
 *
 * The invariant: a view that is gone is not rebuilt, because writers no longer count for it.
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

#include "counts/maintain_internal.h"

PG_FUNCTION_INFO_V1(poser_recount);

/*
 * Comparing
 */

/* Append "0, 0, " for each amount. */
static void
append_zeros(StringInfo sql, int namounts)
{
	for (int i = 0; i < namounts; i++)
		appendStringInfoString(sql, "0, ");
}

/* Append a key column of one of the three parts, with the type of the key.  Its collation is the key's in all parts. */
static void
append_key(StringInfo sql, const PoserViewKey *key, const char *value, int i)
{
	appendStringInfo(sql, "CAST(%s AS %s) AS key%d, ", value, poser_type_sql(key->type, -1, InvalidOid), i + 1);
}

/*
 * Returns the comparison that poser_count_rebuild() needs, for the bookkeeping of a view.  It
 * has a row for each key that a rebuild has to change: its amounts are wrong, or it lacks a
 * settled row, or has one without a parent and children, or has deltas.  It must be run with
 * search_path = pg_catalog.  For a view with one count it is
 *
 *		SELECT key1,
 *		       sum(live1)::bigint AS live1,
 *		       sum(kept1)::bigint AS kept1,
 *		       sum(parents) AS parents, sum(settled) AS settled, sum(deltas) AS deltas
 *		  FROM (SELECT CAST(parent.id AS bigint) AS key1, 0 AS live1, 0 AS kept1, 1 AS parents, 0 AS settled, 0 AS deltas
 *		          FROM public.customer AS parent
 *		        UNION ALL
 *		        SELECT counted.key1, counted.amount1, 0, 0, 0, 0
 *		          FROM (SELECT child.customer_id AS key1, count(child.id) AS amount1
 *		                  FROM public.orders AS child WHERE child.customer_id IS DISTINCT FROM NULL GROUP BY 1) AS counted
 *		        UNION ALL
 *		        SELECT kept.id, 0, kept.orders, 0, (kept.delta = 0)::int, (kept.delta <> 0)::int
 *		          FROM public.customer_orders_maintained AS kept) AS compared
 *		 GROUP BY key1
 *		HAVING sum(live1) <> sum(kept1)
 *		    OR sum(parents) > sum(settled)
 *		    OR (sum(parents) < sum(settled) AND sum(live1) = 0)
 *		    OR sum(deltas) > 0
 */
static char *
view_comparison(const PoserViewForm *form, Oid bookkeeping, Oid nspid)
{
	static const char *const sides[] = {"live", "kept"};
	int namounts = poser_view_all_amounts(form);
	const char *delta = quote_identifier(get_attname(bookkeeping, form->nkeys + 1, false));
	StringInfoData keys;
	StringInfoData sql;

	initStringInfo(&keys);
	for (int i = 1; i <= form->nkeys; i++)
		appendStringInfo(&keys, "%skey%d", i > 1 ? ", " : "", i);
	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT %s", keys.data);
	for (int side = 0; side < lengthof(sides); side++)
		for (int i = 1; i <= namounts; i++)
			appendStringInfo(&sql, get_atttype(bookkeeping, form->nkeys + 1 + i) == INT8OID ? ",\n       sum(%1$s%2$d)::bigint AS %1$s%2$d" : ",\n       sum(%1$s%2$d) AS %1$s%2$d",
							 sides[side], i);
	appendStringInfoString(&sql, ",\n       sum(parents) AS parents, sum(settled) AS settled, sum(deltas) AS deltas\n  FROM (SELECT ");

	/* the parents */
	for (int i = 0; i < form->nkeys; i++)
		append_key(&sql, &form->keys[i], psprintf("parent.%s", quote_identifier(get_attname(form->parent, form->keys[i].parent, false))), i);
	for (int side = 0; side < lengthof(sides); side++)
		for (int i = 1; i <= namounts; i++)
			appendStringInfo(&sql, "0 AS %s%d, ", sides[side], i);
	appendStringInfo(&sql, "1 AS parents, 0 AS settled, 0 AS deltas\n          FROM %s AS parent\n        UNION ALL\n        SELECT ",
					 poser_relation_name(form->parent));

	/* the children */
	for (int i = 0; i < form->nkeys; i++)
		append_key(&sql, &form->keys[i], psprintf("counted.key%d", i + 1), i);
	for (int i = 1; i <= namounts; i++)
		appendStringInfo(&sql, "counted.amount%d, ", i);
	append_zeros(&sql, namounts);
	appendStringInfo(&sql, "0, 0, 0\n          FROM (%s) AS counted\n        UNION ALL\n        SELECT ",
					 poser_view_counted_sql(form, nspid));

	/* what is kept of them */
	for (int i = 0; i < form->nkeys; i++)
		append_key(&sql, &form->keys[i], psprintf("kept.%s", quote_identifier(get_attname(bookkeeping, i + 1, false))), i);
	append_zeros(&sql, namounts);
	for (int i = 1; i <= namounts; i++)
		appendStringInfo(&sql, "kept.%s, ", quote_identifier(get_attname(bookkeeping, form->nkeys + 1 + i, false)));
	appendStringInfo(&sql, "0, (kept.%1$s = 0)::int, (kept.%1$s <> 0)::int\n          FROM %2$s AS kept) AS compared\n GROUP BY %3$s\nHAVING ",
					 delta, poser_relation_name(bookkeeping), keys.data);

	/* what a rebuild has to change */
	for (int i = 1; i <= namounts; i++)
		appendStringInfo(&sql, "sum(live%1$d) <> sum(kept%1$d)\n    OR ", i);
	appendStringInfoString(&sql, "sum(parents) > sum(settled)\n    OR (sum(parents) < sum(settled)");
	for (int i = 1; i <= namounts; i++)
		appendStringInfo(&sql, " AND sum(live%d) = 0", i);
	appendStringInfoString(&sql, ")\n    OR sum(deltas) > 0");
	return sql.data;
}

/*
 * What poser_check() says
 */

/* The first output that shows an aggregate, as a literal. */
static char *
output_literal(const PoserViewForm *form, int aggregate)
{
	for (int i = 0; i < form->noutputs; i++)
		if (form->outputs[i].parent == 0 && form->outputs[i].aggregate == aggregate)
			return quote_literal_cstr(form->outputs[i].name);
	elog(ERROR, "aggregate %d has no output", aggregate);
}

/* The name by which the view shows a key column, or the parent's name of it, as a literal. */
static char *
key_literal(const PoserViewForm *form, AttrNumber column)
{
	for (int i = 0; i < form->noutputs; i++)
		if (form->outputs[i].parent == column)
			return quote_literal_cstr(form->outputs[i].name);
	return quote_literal_cstr(get_attname(form->parent, column, false));
}

/*
 * The value of an aggregate as text, from its amounts in the comparison.  "side" is live or kept,
 * "amount" is the number of the first amount.
 */
static char *
value_text(PoserViewKind kind, const char *side, int amount, const char *nsp)
{
	switch (kind)
	{
		case POSER_COUNT:
			break;
		case POSER_SUM_INTEGER:
		case POSER_SUM_BIGINT:
			return psprintf("CASE WHEN %1$s%3$d <> 0 THEN %1$s%2$d::text ELSE 'NULL' END", side, amount, amount + 1);
		case POSER_SUM_NUMERIC:
			/* the owner can have written something that is no tally */
			return psprintf("CASE WHEN %1$s%3$d < 0 OR %1$s%3$d <> trunc(%1$s%3$d) THEN 'impossible'\n"
							"                  ELSE COALESCE(%4$s.poser_sum_of(%1$s%2$d, %1$s%3$d)::text, 'NULL') END",
							side, amount, amount + 1, nsp);
	}
	return psprintf("%s%d::text", side, amount);
}

/*
 * Returns a query for the keys with wrong counts and sums, as poser_check() says it.  It must be
 * run with search_path = pg_catalog, as the owner of the view, and raises an error if the view
 * cannot be read any more.  For a view with one count it is, with the comparison above,
 *
 *		SELECT format('%s %s', 'public.customer_orders', jsonb_build_object('customer_id', key1)),
 *		       array_to_string(ARRAY[
 *		           CASE WHEN live1 <> kept1
 *		                THEN format('%s is %s instead of %s', 'orders', kept1::text, live1::text) END,
 *		           CASE WHEN parents > settled AND deltas = 0 THEN 'the settled row is missing' END], ', ')
 *		       || ': poser_recount(''public.customer_orders'') corrects it'
 *		  FROM (...) AS compared
 *		 WHERE live1 <> kept1 OR (parents > settled AND deltas = 0)
 *		 ORDER BY key1
 *
 * A parent that has deltas instead of a settled row is in order, see settle.c.
 */
char *
poser_view_check_sql(const PoserMaintained *maintained, Oid nspid)
{
	PoserViewForm *form = poser_maintained_read(maintained);
	const char *nsp = quote_identifier(get_namespace_name(nspid));
	const char *view = quote_literal_cstr(poser_relation_name(maintained->view));
	int level = poser_view_begin_text();
	StringInfoData sql;
	StringInfoData where;
	int amount = 1;

	initStringInfo(&sql);
	initStringInfo(&where);
	appendStringInfo(&sql, "SELECT format('%%s %%s', %s, jsonb_build_object(", view);
	for (int i = 0; i < form->nkeys; i++)
		appendStringInfo(&sql, "%s%s, key%d", i > 0 ? ", " : "", key_literal(form, form->keys[i].parent), i + 1);
	appendStringInfoString(&sql, ")),\n       array_to_string(ARRAY[");
	for (int i = 0; i < form->naggregates; i++)
	{
		PoserViewKind kind = form->aggregates[i].kind;
		char *differs = psprintf("live%1$d <> kept%1$d", amount);
		char *kept = value_text(kind, "kept", amount, nsp);
		char *live = value_text(kind, "live", amount, nsp);
		char *output = output_literal(form, i);

		if (poser_view_amounts(kind) > 1)
			differs = psprintf("%1$s OR live%2$d <> kept%2$d", differs, amount + 1);
		appendStringInfo(&sql, "\n           CASE WHEN NOT (%s) THEN NULL\n"
							   "                WHEN %s <> %s\n"
							   "                THEN format('%%s is %%s instead of %%s', %s, %s, %s)\n"
							   "                ELSE format('the number of rows in %%s is wrong', %s) END,",
						 differs, kept, live, output, kept, live, output);
		appendStringInfo(&where, "%s OR ", differs);
		amount += poser_view_amounts(kind);
	}
	appendStringInfo(&sql, "\n           CASE WHEN parents > settled AND deltas = 0 THEN 'the settled row is missing' END], ', ')\n"
						   "       || %s\n  FROM (%s) AS compared\n WHERE %s(parents > settled AND deltas = 0)\n ORDER BY ",
					 quote_literal_cstr(psprintf(": poser_recount(%s) corrects it", view)),
					 view_comparison(form, maintained->bookkeeping, nspid), where.data);
	for (int i = 1; i <= form->nkeys; i++)
		appendStringInfo(&sql, "%skey%d", i > 1 ? ", " : "", i);
	AtEOXact_GUC(true, level);
	return sql.data;
}

/*
 * Rebuilding
 */

/*
 * Lock what a rebuild of a view reads and writes, and find the view again: what was found
 * before the locks may have changed.  The locks are taken together, because other
 * sessions lock tables and views in any order.  Raises an error if the view is gone meanwhile.
 */
static void
lock_view(PoserMaintained *maintained, Oid nspid)
{
	char *name = get_rel_name(maintained->view);

	for (;;)
	{
		List *children = find_all_inheritors(maintained->child, NoLock, NULL);
		List *parents = find_all_inheritors(maintained->parent, NoLock, NULL);
		PoserMaintained again;
		PoserLocks locks = {0};

		poser_maintain_add_lock(&locks, maintained->query, AccessShareLock);
		poser_maintain_add_locks(&locks, children, AccessShareLock);
		poser_maintain_add_locks(&locks, parents, AccessShareLock);
		poser_maintain_add_lock(&locks, maintained->bookkeeping, ShareUpdateExclusiveLock);
		poser_maintain_lock(&locks);

		if (!poser_maintained_find(maintained->view, nspid, &again) || !poser_maintained_is_whole(&again))
		{
			if (get_rel_name(maintained->view) != NULL)
				ereport(ERROR,
						errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("relation \"%s\" is not maintained", get_rel_name(maintained->view)),
						errhint("poser_maintain() maintains a view."));
			ereport(ERROR,
					errcode(ERRCODE_UNDEFINED_TABLE),
					errmsg("relation \"%s\" does not exist", name != NULL ? name : "(dropped)"));
		}
		if (memcmp(&again, maintained, sizeof(again)) == 0 &&
			equal(children, find_all_inheritors(maintained->child, NoLock, NULL)) &&
			equal(parents, find_all_inheritors(maintained->parent, NoLock, NULL)))
			return;
		poser_maintain_unlock(&locks);
		*maintained = again;
	}
}

/*
 * Make the counts and sums of a view right.  Returns how many keys had wrong ones.  Raises an
 * error unless the current user has the rights of the view's owner.
 */
int64
poser_recount_view(PoserProgress *progress, const PoserMaintained *found, Oid nspid)
{
	PoserMaintained maintained = *found;
	PoserViewForm *form;
	PoserCount count;
	PoserCaller caller;
	Oid relids[3];
	int64 result;
	int level;

	poser_progress_table(progress, "poser_recount", maintained.view);
	poser_progress_report(progress, "comparing", 0);
	lock_view(&maintained, nspid);

	/* it may have another owner since the lock */
	poser_check_owner(maintained.view);
	poser_check_owner(maintained.bookkeeping);
	poser_maintained_check_owners(&maintained, true);
	form = poser_maintained_read(&maintained);
	poser_maintained_count(&count, &maintained, form);

	/* the comparison runs with the rights of the view's owner, which must see all rows */
	relids[0] = form->child;
	relids[1] = form->parent;
	relids[2] = maintained.bookkeeping;
	poser_become_owner(maintained.view, &caller);
	for (int i = 0; i < lengthof(relids); i++)
		poser_check_readable(maintained.view, relids[i]);
	poser_become_caller(&caller);

	level = poser_view_begin_text();
	result = poser_count_rebuild(progress, &count, view_comparison(form, maintained.bookkeeping, nspid), maintained.view);
	AtEOXact_GUC(true, level);
	return result;
}

/*
 * The function
 */

/* A call of poser_recount(). */
typedef struct Recount
{
	Oid nspid; /* the schema of the extension */
	PoserProgress progress;
	int64 wrong;
} Recount;

/* Find the maintained view that a relation belongs to.  Raises an error if there is none that can be rebuilt. */
static void
find_view(Oid relid, Oid nspid, PoserMaintained *maintained)
{
	/* without a lock: lock_view() takes all locks together */
	if (get_rel_name(relid) == NULL)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_TABLE),
				errmsg("relation with OID %u does not exist", relid));
	poser_check_owner(relid);
	if (!poser_maintained_find(relid, nspid, maintained))
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("relation \"%s\" is not maintained", get_rel_name(relid)),
				errhint("poser_maintain() maintains a view."));
	if (!poser_maintained_is_whole(maintained))
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("relation \"%s\" is what is left of a maintained view", get_rel_name(relid)),
				errhint("poser_unmaintain() removes it."));
	poser_check_owner(maintained->view);
}

/* Should the whole transaction be tried again after this error, or is it a request to cancel? */
static bool
ends_all(const ErrorData *error)
{
	return poser_is_cancel_request(error) || ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_TRANSACTION_ROLLBACK;
}

/* Recount a view that is one of many.  An error becomes a WARNING.  Not inlined, because of PG_TRY(). */
static pg_noinline void
recount_one_of_many(Recount *recount, const PoserMaintained *maintained)
{
	char *name = get_rel_name(maintained->view);
	PoserSavepoint savepoint;

	if (name == NULL)
		return;
	poser_savepoint_set(&savepoint);
	PG_TRY();
	{
		int level = poser_begin_impatience(maintained->bookkeeping);

		recount->wrong += poser_recount_view(&recount->progress, maintained, recount->nspid);
		poser_maintain_mend(recount->nspid, maintained->view);
		AtEOXact_GUC(true, level);
		poser_savepoint_release(&savepoint);
	}
	PG_CATCH();
	{
		ErrorData *error = poser_savepoint_catch_any(&savepoint);

		if (ends_all(error))
			ReThrowError(error);
		/* nothing is said of a view that was dropped meanwhile */
		if (get_rel_name(maintained->view) != NULL)
			ereport(WARNING,
					errcode(error->sqlerrcode),
					errmsg("could not recount view \"%s\": %s", name, error->message),
					error->hint != NULL ? errhint("%s", error->hint) : 0);
		FreeErrorData(error);
	}
	PG_END_TRY();
}

/*
 * Recount everything that the caller may recount: the components, if the caller has the rights
 * of the owners of their tables, and each view, if the caller has the rights of its owner.
 * Raises an error if there is nothing.
 */
static void
recount_all(Recount *recount)
{
	List *views = NIL;
	ListCell *lc;

	foreach(lc, poser_maintained_list(recount->nspid))
	{
		PoserMaintained *maintained = lfirst(lc);

		if (poser_maintained_is_whole(maintained) && poser_is_owner(maintained->view, GetUserId()))
			views = lappend(views, maintained);
	}
	if (views == NIL || poser_recount_owns_components(recount->nspid))
		recount->wrong += poser_recount_components(&recount->progress, recount->nspid);
	foreach(lc, views)
	{
		CHECK_FOR_INTERRUPTS();
		recount_one_of_many(recount, lfirst(lc));
	}
}

/*
 * poser_recount(view regclass) returns bigint
 *
 * Corrects all counts and sums of a maintained view, or those of all views and the counts of
 * components.  The result is the number of keys with a wrong count or sum.  Before 1.7
 * the function has no argument.
 */
Datum
poser_recount(PG_FUNCTION_ARGS)
{
	Recount recount = {.nspid = get_func_namespace(fcinfo->flinfo->fn_oid)};
	Oid target = PG_NARGS() > 0 && !PG_ARGISNULL(0) ? PG_GETARG_OID(0) : InvalidOid;
	bool components = poser_recount_is_components(target, recount.nspid);
	PoserMaintained maintained;

	PreventCommandIfReadOnly("poser_recount()");
	if (OidIsValid(target) && !components)
		find_view(target, recount.nspid, &maintained);

	poser_progress_begin(&recount.progress, "poser_recount");
	PG_TRY();
	{
		if (components)
			recount.wrong = poser_recount_components(&recount.progress, recount.nspid);
		else if (OidIsValid(target))
		{
			recount.wrong = poser_recount_view(&recount.progress, &maintained, recount.nspid);
			poser_maintain_mend(recount.nspid, maintained.view);
		}
		else
			recount_all(&recount);
	}
	PG_FINALLY();
	{
		poser_progress_end(&recount.progress);
	}
	PG_END_TRY();
	PG_RETURN_INT64(recount.wrong);
}
