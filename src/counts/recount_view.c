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
 * of the caller.  Each view is rebuilt in a subtransaction.  A view that cannot be rebuilt
 * becomes a WARNING, because the others shall be right although the owner of one of them has
 * changed something.  An error after which the transaction should be tried again is not
 * caught, and neither is a request to cancel.
 *
 * The invariant: a view that is gone is not rebuilt, because writers no longer count for it.
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

#include "counts/counts_internal.h"
#include "counts/maintain_internal.h"

PG_FUNCTION_INFO_V1(poser_recount);

/* The number of amounts that the bookkeeping of this view has. */
static int
count_amounts(const PoserViewForm *form)
{
	int result = 0;

	for (int i = 0; i < form->naggregates; i++)
		result += poser_view_amounts(form->aggregates[i].kind);
	return result;
}

/* Append "0, 0, " for each amount. */
static void
append_zeros(StringInfo sql, int namounts)
{
	for (int i = 0; i < namounts; i++)
		appendStringInfoString(sql, "0, ");
}

/* Append a key column of one of the three parts, with the type and the collation of the key. */
static void
append_key(StringInfo sql, const PoserViewKey *key, const char *value, int i)
{
	appendStringInfo(sql, "%s", poser_view_key_sql(key, value));
	appendStringInfo(sql, " AS key%d, ", i + 1);
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
 *		  FROM (SELECT parent.id::bigint AS key1, 0 AS live1, 0 AS kept1, 1 AS parents, 0 AS settled, 0 AS deltas
 *		          FROM public.customer AS parent
 *		        UNION ALL
 *		        SELECT counted.key1, counted.amount1, 0, 0, 0, 0
 *		          FROM (SELECT child.customer_id AS key1, count(child.id) AS amount1
 *		                  FROM public.orders AS child WHERE child.customer_id IS NOT NULL GROUP BY 1) AS counted
 *		        UNION ALL
 *		        SELECT kept.id, 0, kept.orders, 0, (kept.delta = 0)::int, (kept.delta <> 0)::int
 *		          FROM public.customer_orders_maintained AS kept) AS compared
 *		 GROUP BY key1
 *		HAVING sum(live1) <> sum(kept1)
 *		    OR sum(parents) > sum(settled)
 *		    OR (sum(parents) < sum(settled) AND sum(live1) = 0)
 *		    OR sum(deltas) > 0
 */
char *
poser_view_comparison(const PoserViewForm *form, Oid bookkeeping)
{
	static const char *const sides[] = {"live", "kept"};
	int namounts = count_amounts(form);
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
			appendStringInfo(&sql, get_atttype(bookkeeping, form->nkeys + 1 + i) == INT8OID ? ",\n       sum(%1$s%2$d)::bigint AS %1$s%2$d"
																							: ",\n       sum(%1$s%2$d) AS %1$s%2$d",
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
					 poser_view_counted_sql(form));

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
