/*
 * maintain.c
 *	  poser_maintain(): keeping the counts and sums of a view.
 *
 * The function compares what is there with what should be there, and changes what differs.
 * So it can be called again at any time.  It compares twice: first it only looks, with the
 * weakest locks.  If something is to be done, it locks all tables together against writers,
 * looks again, and does it.
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
 * All statements run as the owner of the view, in a security-restricted operation.  So code
 * of the owner gets the owner's rights only, even if a superuser calls the function.
 *
 * The invariant: when poser_maintain() returns, all triggers that count have been there
 * since before the rows were counted, under locks that keep writers out.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/reloptions.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

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
 * Begin settings under which a query that is written as text keeps its meaning: names are found
 * only with their schema, and constants are written and read alike.  Returns a level, as
 * poser_begin_settings() does.
 */
int
poser_maintain_begin_settings(void)
{
	static const PoserSetting settings[] = {{"search_path", "pg_catalog, pg_temp"},
											{"array_nulls", "on"},
											{"transform_null_equals", "off"}};
	int level = poser_begin_text_settings();

	(void) poser_begin_settings(settings, lengthof(settings));
	return level;
}

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

/*
 * Making the relations
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
	int amounts = 0;

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
	for (int i = 0; i < form->naggregates; i++)
		amounts += poser_view_amounts(form->aggregates[i].kind);
	for (int i = 1; i <= amounts; i++)
	{
		appendStringInfo(&into, ", %s", bookkeeping_column(maintain, form->nkeys + 1 + i));
		appendStringInfo(&select, ", COALESCE(counted.amount%d, 0)", i);
	}
	return psprintf("INSERT INTO %s (%s)\nSELECT %s\n  FROM %s AS parent FULL JOIN (%s) AS counted ON %s",
					poser_relation_name(maintain->of.bookkeeping), into.data, select.data, poser_relation_name(form->parent),
					poser_view_counted_sql(form, maintain->nspid), on.data);
}

/* Repair the query, the options and the privileges of the view that shows the bookkeeping. */
static void
repair_served(PoserMaintain *maintain)
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

/* Fill a bookkeeping that is empty and has no guard yet.  The tables are locked against writers. */
static void
fill(PoserMaintain *maintain, PoserProgress *progress)
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
			fill(maintain, &progress);
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

/* Give the view the query that reads the bookkeeping. */
static void
switch_view(const PoserMaintain *maintain)
{
	poser_maintain_replace_query(maintain->view, poser_view_maintained_sql(maintain->form, maintain->of.query,
																		   maintain->of.served, maintain->nspid));
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

			if (list_member_oid(seen, other->bookkeeping) || !OidIsValid(other->view) || !OidIsValid(other->query) ||
				!OidIsValid(other->parent) || !OidIsValid(other->child))
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
	make_query(maintain);
	make_bookkeeping(maintain);
	make_served(maintain);
	poser_maintain_table_triggers(maintain);
	count_rows(maintain, false, others);
	poser_maintain_bindings(maintain);
	if (maintain->existing)
		switch_view(maintain);
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
	Relation rel = try_relation_open(relid, AccessShareLock);
	Oid extension = getExtensionOfObject(RelationRelationId, relid);

	if (rel == NULL)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_TABLE),
				errmsg("relation with OID %u does not exist", relid));
	poser_check_owner(relid);
	if (rel->rd_rel->relkind != RELKIND_VIEW)
		ereport(ERROR,
				errcode(ERRCODE_WRONG_OBJECT_TYPE),
				errmsg("cannot maintain relation \"%s\"", RelationGetRelationName(rel)),
				errdetail("It is not a view."));
	if (OidIsValid(extension))
		ereport(ERROR,
				errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				errmsg("cannot maintain view \"%s\"", RelationGetRelationName(rel)),
				errdetail("It belongs to extension \"%s\".", get_extension_name(extension)));
	relation_close(rel, AccessShareLock);
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
	repair_served(maintain);
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

	repair_served(maintain);
	poser_maintain_table_triggers(maintain);
	poser_maintain_bindings(maintain);
	(void) poser_maintained_find(maintain->view, maintain->nspid, &maintain->of);
	if (is_switched ? maintain->missed : maintain->existing)
		count_rows(maintain, true, others);
	if (switches(maintain, is_switched))
		switch_view(maintain);
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
	switch_view(maintain);
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
	int level = poser_maintain_begin_settings();

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
