/*
 * maintain_relations.c
 *	  The relations of a maintained view: making and filling them, and the queries of the views.
 *
 * The view customer_orders gets these relations beside it, with the same owner:
 *
 *	customer_orders_query	   a view with the query that the user has written
 *	customer_orders_maintained the bookkeeping: a row of counts and sums for each parent
 *	customer_orders_served	   a view that shows the bookkeeping while it may be read
 *
 * Then the query of customer_orders is replaced by one that reads the bookkeeping, or counts
 * if it must.  Everything else of the view stays: its OID, owner, privileges, options,
 * comments, defaults, triggers and rules, and views that depend on it.
 *
 * The invariant: each of these relations has the view's owner, and only customer_orders_served
 * is granted to others.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/reloptions.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "commands/defrem.h"
#include "executor/spi.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "counts/maintain_internal.h"

/*
 * Names
 */

/* The name of a relation that goes with a view: "customer_orders_query".  Raises an error if it is taken. */
static char *
free_name(Oid view, const char *suffix)
{
	char *view_name = get_rel_name(view);
	char *name;

	if (view_name == NULL)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_TABLE),
				errmsg("relation with OID %u does not exist", view));
	name = makeObjectName(view_name, NULL, suffix);

	if (OidIsValid(get_relname_relid(name, get_rel_namespace(view))))
		ereport(ERROR,
				errcode(ERRCODE_DUPLICATE_TABLE),
				errmsg("relation \"%s\" already exists", name),
				errdetail("poser_maintain() makes a relation of this name for view \"%s\".", get_rel_name(view)),
				errhint("Rename or drop that relation."));
	return name;
}

/* Returns the relation that was made under this name, beside the view. */
static Oid
made_relation(Oid view, const char *name)
{
	Oid result = get_relname_relid(name, get_rel_namespace(view));

	if (!OidIsValid(result) || !poser_have_one_owner(result, view))
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("relation \"%s\" was changed while it was made", name));
	return result;
}

/* The qualified and quoted name of a relation beside the view. */
static char *
qualified_name(Oid view, const char *name)
{
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(view)), name);
}

/* The options of a view as SQL: " WITH (security_barrier = 'true')", or "". */
static char *
options_sql(Oid view)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(view));
	bool isnull;
	Datum options = SysCacheGetAttr(RELOID, tuple, Anum_pg_class_reloptions, &isnull);
	StringInfoData result;
	List *list = isnull ? NIL : untransformRelOptions(options);
	ListCell *lc;

	initStringInfo(&result);
	foreach(lc, list)
	{
		DefElem *option = lfirst_node(DefElem, lc);

		appendStringInfo(&result, "%s%s = %s", lc == list_head(list) ? " WITH (" : ", ", quote_identifier(option->defname),
						 quote_literal_cstr(option->arg != NULL ? defGetString(option) : "true"));
	}
	if (list != NIL)
		appendStringInfoChar(&result, ')');
	ReleaseSysCache(tuple);
	return result.data;
}

/* The names of a view's columns, as SQL: "customer_id, orders". */
static char *
columns_sql(Oid view)
{
	Relation rel = relation_open(view, AccessShareLock);
	TupleDesc desc = RelationGetDescr(rel);
	StringInfoData result;

	initStringInfo(&result);
	for (int i = 0; i < desc->natts; i++)
		appendStringInfo(&result, "%s%s", i > 0 ? ", " : "", quote_identifier(NameStr(TupleDescAttr(desc, i)->attname)));
	relation_close(rel, NoLock);
	return result.data;
}

/*
 * Replace the query of a view, and nothing else of it:
 *
 *	CREATE OR REPLACE VIEW public.customer_orders (customer_id, orders) WITH (...) AS SELECT ...
 */
void
poser_maintain_replace_query(Oid view, const char *query)
{
	poser_maintain_run(view, psprintf("CREATE OR REPLACE VIEW %s (%s)%s AS\n%s", poser_relation_name(view), columns_sql(view),
									  options_sql(view), query));
}

/* Give the view the query that reads the bookkeeping. */
void
poser_maintain_switch_view(const PoserMaintain *maintain)
{
	poser_maintain_replace_query(maintain->view, poser_view_maintained_sql(maintain->form, maintain->of.query,
																		   maintain->of.served, maintain->nspid));
}

/*
 * The relations
 */

/* Make the view with the user's query. */
static void
make_query(PoserMaintain *maintain)
{
	Oid view = maintain->view;
	char *name = free_name(view, "query");

	poser_maintain_run(view, psprintf("CREATE VIEW %s%s AS\n%s", qualified_name(view, name), options_sql(view),
									  poser_view_query_sql(view)));
	maintain->of.query = made_relation(view, name);
	poser_close_to_others(maintain->of.query);
	poser_maintain_run(view, psprintf("COMMENT ON VIEW %s IS 'Poser: the query of a maintained view'", qualified_name(view, name)));
}

/* A column of the bookkeeping, quoted. */
static char *
bookkeeping_column(const PoserMaintain *maintain, AttrNumber column)
{
	return pstrdup(quote_identifier(get_attname(maintain->of.bookkeeping, column, false)));
}

/*
 * The statement that keeps the server from collecting statistics about the values in the
 * bookkeeping.  Each role can plan a query over the view that shows it.  It could learn values
 * by EXPLAIN, or by an operator of its own, which the planner applies to statistics.
 * Only "delta" has statistics: it is 0 or random, and the planner must know that nearly
 * all rows have a 0.
 *
 *	ALTER TABLE public.customer_orders_maintained ALTER COLUMN id SET STATISTICS 0, ...
 */
static char *
no_statistics_sql(const PoserMaintain *maintain)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "ALTER TABLE %s", poser_relation_name(maintain->of.bookkeeping));
	for (int i = 1; get_attname(maintain->of.bookkeeping, i, true) != NULL; i++)
		if (i != maintain->form->nkeys + 1)
			appendStringInfo(&sql, "%s ALTER COLUMN %s SET STATISTICS 0", i > 1 ? "," : "", bookkeeping_column(maintain, i));
	return sql.data;
}

/*
 * Make the bookkeeping.  A half of each page is left free, so that a statement can replace all
 * rows of a page once without new entries in the indexes.
 *
 *	CREATE TABLE public.customer_orders_maintained (id bigint NOT NULL, delta bigint DEFAULT 0 NOT NULL,
 *		orders bigint DEFAULT 0 NOT NULL, PRIMARY KEY (id, delta)) USING heap WITH (fillfactor = 50)
 *	CREATE INDEX ON public.customer_orders_maintained (id) WHERE delta > 0
 *	CREATE UNIQUE INDEX ON public.customer_orders_maintained (id) WHERE delta = 0
 *
 * The primary key identifies rows, for writers and for logical replication.  The last index
 * tells the planner that a key has one settled row, so that it plans as for a table with
 * the key as its primary key.
 */
static void
make_bookkeeping(PoserMaintain *maintain)
{
	Oid view = maintain->view;
	char *name = free_name(view, "maintained");
	char *qualified = qualified_name(view, name);
	StringInfoData key;

	poser_maintain_run(view, psprintf("CREATE TABLE %s (%s) USING heap WITH (fillfactor = 50)", qualified,
									  poser_view_columns_sql(maintain->form)));
	maintain->of.bookkeeping = made_relation(view, name);
	LockRelationOid(maintain->of.bookkeeping, AccessExclusiveLock);
	poser_close_to_others(maintain->of.bookkeeping);
	initStringInfo(&key);
	for (int i = 1; i <= maintain->form->nkeys; i++)
		appendStringInfo(&key, "%s%s", i > 1 ? ", " : "", bookkeeping_column(maintain, i));
	poser_maintain_run(view, psprintf("CREATE INDEX ON %s (%s) WHERE %s OPERATOR(pg_catalog.>) 0", qualified, key.data,
									  bookkeeping_column(maintain, maintain->form->nkeys + 1)));
	poser_maintain_run(view, psprintf("CREATE UNIQUE INDEX ON %s (%s) WHERE %s OPERATOR(pg_catalog.=) 0", qualified, key.data,
									  bookkeeping_column(maintain, maintain->form->nkeys + 1)));
	poser_maintain_run(view, no_statistics_sql(maintain));
	poser_maintain_run(view, psprintf("COMMENT ON TABLE %s IS 'Poser: the counts and sums of a maintained view'", qualified));
}

/* Make the view that shows the bookkeeping.  Each role can read it, and its condition decides whether it has rows. */
static void
make_served(PoserMaintain *maintain)
{
	Oid view = maintain->view;
	char *name = free_name(view, "served");
	char *qualified = qualified_name(view, name);

	poser_maintain_run(view, psprintf("CREATE VIEW %s AS\n%s", qualified,
									  poser_view_served_sql(maintain->form, maintain->of.bookkeeping, maintain->of.query, maintain->nspid)));
	maintain->of.served = made_relation(view, name);
	poser_close_to_others(maintain->of.served);
	poser_maintain_run(view, psprintf("GRANT SELECT ON TABLE %s TO PUBLIC", qualified));
	poser_maintain_run(view, psprintf("COMMENT ON VIEW %s IS 'Poser: the counts and sums of a maintained view, while they may be read'", qualified));
}

/* Make the relations of a view that has none yet. */
void
poser_maintain_make_relations(PoserMaintain *maintain)
{
	make_query(maintain);
	make_bookkeeping(maintain);
	make_served(maintain);
}

/* Repair the query, the options and the privileges of the view that shows the bookkeeping. */
void
poser_maintain_repair_served(PoserMaintain *maintain)
{
	Oid served = maintain->of.served;
	const char *name = get_rel_name(served);
	Relation rel = relation_open(served, AccessShareLock);
	bool is_invoker = RelationHasSecurityInvoker(rel);

	relation_close(rel, AccessShareLock);
	if (!poser_maintained_is_gated(&maintain->of, maintain->nspid) &&
		poser_maintain_must(maintain, "view \"%s\" gets its query again", name))
		poser_maintain_replace_query(served, poser_view_served_sql(maintain->form, maintain->of.bookkeeping, maintain->of.query, maintain->nspid));
	if (is_invoker && poser_maintain_must(maintain, "view \"%s\" reads with the rights of its owner again", name))
		poser_maintain_run(served, psprintf("ALTER VIEW %s RESET (security_invoker)", poser_relation_name(served)));
	if (pg_class_aclcheck(served, ACL_ID_PUBLIC, ACL_SELECT) != ACLCHECK_OK &&
		poser_maintain_must(maintain, "view \"%s\" is granted to PUBLIC again", name))
		poser_maintain_run(served, psprintf("GRANT SELECT ON TABLE %s TO PUBLIC", poser_relation_name(served)));
}

/*
 * Filling
 */

/*
 * The statement that fills an empty bookkeeping.  A parent gets a settled row.  Children
 * without a parent, which a foreign key lets in while it is not checked, become a delta:
 *
 *	INSERT INTO public.customer_orders_maintained (id, delta, orders)
 *	SELECT COALESCE(parent.id, counted.key1), CASE WHEN parent.id IS NOT DISTINCT FROM NULL THEN 1 ELSE 0 END, COALESCE(counted.amount1, 0)
 *	  FROM public.customer AS parent FULL JOIN (SELECT ...) AS counted ON counted.key1 = parent.id
 */
static char *
fill_sql(const PoserMaintain *maintain)
{
	const PoserViewForm *form = maintain->form;
	StringInfoData into;
	StringInfoData select;
	StringInfoData on;

	initStringInfo(&into);
	initStringInfo(&select);
	initStringInfo(&on);
	for (int i = 0; i < form->nkeys; i++)
	{
		char *parent = pstrdup(quote_identifier(get_attname(form->parent, form->keys[i].parent, false)));

		appendStringInfo(&into, "%s, ", bookkeeping_column(maintain, i + 1));
		appendStringInfo(&select, "COALESCE(parent.%s, counted.key%d), ", parent, i + 1);
		appendStringInfo(&on, "%scounted.key%d %s parent.%s", i > 0 ? " AND " : "", i + 1,
						 poser_equality(form->keys[i].type), parent);
	}
	appendStringInfoString(&into, bookkeeping_column(maintain, form->nkeys + 1));
	appendStringInfo(&select, "CASE WHEN parent.%s IS NOT DISTINCT FROM NULL THEN 1 ELSE 0 END",
					 quote_identifier(get_attname(form->parent, form->keys[0].parent, false)));
	for (int i = 1; i <= poser_view_all_amounts(form); i++)
	{
		appendStringInfo(&into, ", %s", bookkeeping_column(maintain, form->nkeys + 1 + i));
		appendStringInfo(&select, ", COALESCE(counted.amount%d, 0)", i);
	}
	return psprintf("INSERT INTO %s (%s)\nSELECT %s\n  FROM %s AS parent FULL JOIN (%s) AS counted ON %s",
					poser_relation_name(maintain->of.bookkeeping), into.data, select.data, poser_relation_name(form->parent),
					poser_view_counted_sql(form, maintain->nspid), on.data);
}

/* Fill a bookkeeping that is empty and has no guard yet.  The tables are locked against writers. */
void
poser_maintain_fill(PoserMaintain *maintain, PoserProgress *progress)
{
	char *sql = fill_sql(maintain);
	CommandId first_cid = GetCurrentCommandId(true);
	PoserCaller caller;
	/* a snapshot that sees all rows that were written before the locks */
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());

	poser_progress_table(progress, "poser_maintain", maintain->view);
	poser_progress_report(progress, "counting", 0);
	SPI_connect();
	poser_become_owner(maintain->view, &caller);
	poser_run(&(PoserQuery) {.sql = sql, .once = true, .snapshot = snapshot, .expected = SPI_OK_INSERT});
	poser_become_caller(&caller);
	SPI_finish();
	UnregisterSnapshot(snapshot);
	CommandCounterIncrement();

	/* an older snapshot of this transaction must not be used to read these counts */
	if (IsolationUsesXactSnapshot())
		poser_count_note_inconsistent(first_cid);
}
