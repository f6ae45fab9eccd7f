/*
 * serve_view.c
 *	  Whether a query may read the counts and sums of a maintained view.
 *
 * The view customer_orders reads the bookkeeping through customer_orders_served, which has
 * rows only where poser_serves() is true.  It counts the child's rows only from
 * poser_live_from() on, which is NULL in this case.  Both ask poser_view_is_served().  Its
 * answer is true if
 *
 * - the reader may see what the view shows, and the view shows all rows of both tables;
 * - the view has the query that Poser gave it, and its bookkeeping belongs to it;
 * - triggers on parent, child and all their partitions count each change, and the bookkeeping
 *   is about these partitions;
 * - the snapshot sees the transactions that made all of this, and no statement without its
 *   counts; see serve.c.
 *
 * Everything that is found in the catalogs is kept until a relcache invalidation of one of the
 * relations.  It is kept for each view, and for each table: a change of one partition does not make
 * the session look at all others again.  Nothing here waits for a lock: if another transaction
 * has locked a relation, the answer is false.
 *
 * All roles can read customer_orders_served.  So the answer must be false for each user that
 * may not read the same in the view or the tables.  The owner can give the view another query,
 * which shows less.  So the answer is false if the query is not the one that Poser made.  A view
 * need not show the key, or all that is kept.  Then the answer is false for users that may read
 * only the view.
 *
 * If the answer is false, the view counts.  The result is right while the parent's key is unique.
 * If two rows of the parent have the same key, because its constraint is gone, reading raises an
 * error.
 *
 * The invariant: while the answer is true for a snapshot, the counts and sums in the
 * bookkeeping that this snapshot sees are those of the rows that it sees.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_rewrite.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteHandler.h"
#include "storage/itemptr.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "counts/counts_internal.h"

PG_FUNCTION_INFO_V1(poser_serves);
PG_FUNCTION_INFO_V1(poser_live_from);

/* At most so many transactions have written the triggers of one table. */
#define MAX_TABLE_XIDS 8

/* A description is not used any more after so many transactions, because transaction IDs begin anew. */
#define MAX_AGE (1U << 30)

/* A table of a maintained view, or a partition of one. */
typedef struct ServeTable
{
	Oid relid; /* hash key */
	bool valid;
	Oid nspid;			   /* schema of the triggers' function */
	bool is_counted;	   /* all of its rows are, by triggers that serve a child and a parent */
	Bitmapset *parent_key; /* all of its rows are, by triggers that serve a parent with these columns as key */
	bool is_permanent;	   /* an ordinary or partitioned table that survives a crash */
	bool is_partition;
	bool inherits; /* has parents or children that are not partitions */
	char relkind;
	TransactionId file_xid; /* wrote its row in pg_class, and so its file or an earlier one */
	int num_xids;
	TransactionId xids[MAX_TABLE_XIDS]; /* wrote its triggers */
} ServeTable;

/* A maintained view. */
typedef struct ServeView
{
	Oid query; /* hash key */
	bool valid;
	bool complete; /* the counts are right for a snapshot that sees "xids" and "files" */
	bool repeats;  /* the view has Poser's query, but two rows of the parent can have the same key */
	bool is_invoker;
	bool shows_all; /* the view shows the key and all that is kept */
	Oid nspid;
	Oid owner; /* of the view */
	PoserMaintained of;
	TransactionId next_xid; /* when it was looked up */
	MemoryContext context;	/* of the arrays */
	int num_relids;
	Oid *relids; /* all relations that this depends on, sorted */
	int num_tables;
	Oid *tables; /* the parent, the child and their partitions, sorted */
	int num_xids;
	TransactionId *xids; /* transactions that wrote triggers, bindings and rules */
	int num_files;
	TransactionId *files; /* transactions that may have rewritten the child or the bookkeeping */
} ServeView;

/* What is found for a view, before it is kept. */
typedef struct ServeLook
{
	List *relids;
	List *tables;
	List *xids;
	List *files;
	bool transient; /* a relation is locked, or is inherited, so nothing is kept */
	bool inherits;	/* a table of the trees has parents or children that are not partitions */
} ServeLook;

static HTAB *serve_tables = NULL;
static HTAB *serve_views = NULL;

/* Is it one of these?  They are sorted. */
static bool
is_one_of(Oid relid, const Oid *relids, int n)
{
	return bsearch(&relid, relids, n, sizeof(Oid), oid_cmp) != NULL;
}

/* Relcache callback: mark the entries that use this relation as invalid; with InvalidOid, all entries. */
static void
invalidate_entries(Oid relid)
{
	HASH_SEQ_STATUS seq;
	ServeView *view;
	ServeTable *table;

	hash_seq_init(&seq, serve_views);
	while ((view = hash_seq_search(&seq)) != NULL)
		if (!OidIsValid(relid) || is_one_of(relid, view->relids, view->num_relids))
			view->valid = false;

	if (OidIsValid(relid))
	{
		table = hash_search(serve_tables, &relid, HASH_FIND, NULL);
		if (table != NULL)
			table->valid = false;
		return;
	}
	hash_seq_init(&seq, serve_tables);
	while ((table = hash_seq_search(&seq)) != NULL)
		table->valid = false;
}

/* Make the caches, when the module is loaded. */
void
poser_serve_view_init(void)
{
	HASHCTL ctl = {0};

	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(ServeTable);
	serve_tables = hash_create("poser tables of maintained views", 16, &ctl, HASH_ELEM | HASH_BLOBS);
	ctl.entrysize = sizeof(ServeView);
	serve_views = hash_create("poser maintained views", 16, &ctl, HASH_ELEM | HASH_BLOBS);
	poser_relation_register(invalidate_entries);
}

/*
 * Tables
 */

/* Look at the row of pg_class.  Returns false if there is none. */
static bool
look_at_class(ServeTable *table)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(table->relid));
	Form_pg_class form;

	if (!HeapTupleIsValid(tuple))
		return false;
	form = (Form_pg_class) GETSTRUCT(tuple);
	table->relkind = form->relkind;
	table->is_permanent = (form->relkind == RELKIND_RELATION || form->relkind == RELKIND_PARTITIONED_TABLE) &&
						  form->relpersistence == RELPERSISTENCE_PERMANENT;
	table->is_partition = form->relispartition;
	table->inherits = form->relkind == RELKIND_RELATION && !form->relispartition &&
					  (has_superclass(table->relid) ||
					   (form->relhassubclass && find_inheritance_children(table->relid, NoLock) != NIL));
	table->file_xid = HeapTupleHeaderGetXmin(tuple->t_data);
	ReleaseSysCache(tuple);
	return true;
}

/* Look at the triggers. */
static void
look_at_triggers(ServeTable *table)
{
	PoserMaintainTriggers triggers;
	MemoryContext old;

	poser_maintain_look_at_triggers(table->relid, table->nspid, &triggers);
	if (list_length(triggers.xids) > MAX_TABLE_XIDS)
		return;
	for (int i = 0; i < list_length(triggers.xids); i++)
		table->xids[table->num_xids++] = list_nth_oid(triggers.xids, i);
	table->is_counted = triggers.counts_child;
	old = MemoryContextSwitchTo(TopMemoryContext);
	table->parent_key = bms_copy(triggers.parent_key);
	MemoryContextSwitchTo(old);
}

/* Returns what is known about a table, after looking it up if need be. */
static const ServeTable *
find_table(Oid relid, Oid nspid)
{
	ServeTable *table = hash_search(serve_tables, &relid, HASH_FIND, NULL);
	ServeTable looked_up = {.relid = relid, .nspid = nspid};
	uint64 started = poser_relation_changes();

	if (table != NULL && table->valid && table->nspid == nspid)
		return table;
	if (look_at_class(&looked_up))
		look_at_triggers(&looked_up);

	/*
	 * If a relation has changed since the look-up began, the next call looks up again.  It
	 * also does so for a table that is inherited, because there is no invalidation for it
	 * when it no longer is.
	 */
	looked_up.valid = (started == poser_relation_changes() && !looked_up.inherits);
	if (table == NULL)
		table = hash_search(serve_tables, &relid, HASH_ENTER, NULL);
	else
		bms_free(table->parent_key);
	*table = looked_up;
	return table;
}

/* Add to the list what a snapshot must see. */
static void
add_table_xids(ServeLook *look, const ServeTable *table)
{
	for (int i = 0; i < table->num_xids; i++)
		look->xids = list_append_unique_oid(look->xids, table->xids[i]);
}

/*
 * Do triggers count each row of a table and of its partitions?  "key" has the columns of the
 * parent's key, if this is the parent; otherwise it is the child.
 */
static bool
look_at_tree(ServeLook *look, Oid root, Oid nspid, const Bitmapset *key)
{
	List *tree = find_all_inheritors(root, NoLock, NULL);
	bool result = true;
	ListCell *lc;

	look->tables = list_concat(look->tables, tree);
	foreach(lc, tree)
	{
		const ServeTable *table = find_table(lfirst_oid(lc), nspid);

		CHECK_FOR_INTERRUPTS();
		add_table_xids(look, table);
		look->transient |= table->inherits;
		look->inherits |= table->inherits;
		/*
		 * A snapshot that is older than the child's file may see counts, but not the rows in the file.
		 * A parent that it does not see has no row in the view.
		 */
		if (key == NULL && table->relkind == RELKIND_RELATION)
			look->files = list_append_unique_oid(look->files, table->file_xid);
		/* whether a partition that is being detached belongs to the table depends on the snapshot */
		if (poser_view_is_detaching(lfirst_oid(lc)) || !table->is_permanent || table->inherits || table->is_partition != (table->relid != root) ||
			(!table->is_counted && (key == NULL || table->parent_key == NULL || !bms_is_subset(key, table->parent_key))))
			result = false;
	}
	return result;
}

/*
 * The view
 */

/*
 * Lock a relation that a query reads anyway, and open it.  Returns NULL if it is gone or if
 * another transaction has locked it.
 */
static Relation
open_unless_locked(ServeLook *look, Oid relid)
{
	Relation rel;

	if (!poser_lock_at_once(relid, AccessShareLock))
	{
		look->transient = true;
		return NULL;
	}
	rel = try_relation_open(relid, NoLock);
	if (rel == NULL)
		UnlockRelationOid(relid, AccessShareLock);
	return rel;
}

/* Collect the transactions that wrote the rules of a view. */
static void
add_rule_xids(ServeLook *look, Oid relid)
{
	Relation catalog = table_open(RewriteRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple tuple;

	ScanKeyInit(&key, Anum_pg_rewrite_ev_class, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relid));
	scan = systable_beginscan(catalog, RewriteRelRulenameIndexId, true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		look->xids = list_append_unique_oid(look->xids, HeapTupleHeaderGetXmin(tuple->t_data));
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
}

/* The Var in an expression that only changes its type or collation, or NULL. */
static Var *
plain_var(Node *node)
{
	for (;;)
	{
		if (node == NULL)
			return NULL;
		if (IsA(node, RelabelType))
			node = (Node *) castNode(RelabelType, node)->arg;
		else if (IsA(node, CollateExpr))
			node = (Node *) castNode(CollateExpr, node)->arg;
		else
			return IsA(node, Var) ? (Var *) node : NULL;
	}
}

/*
 * Read a condition of ON, which joins the parent and something else:
 *
 *	settled.id = parent.id AND settled.delta = 0
 *
 * The columns of the parent are added to *key.  Returns false if a part of the condition is
 * no comparison, or compares anything else of the parent.
 */
static bool
read_on(Node *on, int parent, Bitmapset **key)
{
	ListCell *lc;

	foreach(lc, make_ands_implicit((Expr *) on))
	{
		OpExpr *op = lfirst(lc);
		ListCell *arg;
		int nvars = 0;

		if (!IsA(op, OpExpr) || list_length(op->args) != 2)
			return false;
		foreach(arg, op->args)
		{
			Var *var = plain_var(lfirst(arg));

			if (var == NULL)
				continue;
			nvars++;
			if (var->varno == parent)
				*key = bms_add_member(*key, var->varattno);
		}
		if (nvars == 1 ? bms_is_member(parent, pull_varnos(NULL, (Node *) op)) : nvars != 2)
			return false;
	}
	return true;
}

/*
 * Is this the query of a maintained view, as poser_view_maintained_sql() makes it?  The owner
 * of the view can have replaced it by one that shows less.  So it must have all rows of
 * the parent, and columns of the parent must not decide which counts are shown:
 *
 *	SELECT parent.id, COALESCE(live.orders, settled.orders ...)
 *	  FROM parent LEFT JOIN served AS settled ON ... LEFT JOIN (...) AS unsettled ON ... LEFT JOIN (...) AS live ON ...
 *
 * *key gets the columns of the parent's key.  *shows_all says whether the output has all of these,
 * and uses all columns of "served" that follow the key and "delta".
 */
static bool
is_maintained_query(const Query *query, const PoserMaintained *of, Bitmapset **key, bool *shows_all)
{
	Node *node;
	int served = 0;
	int parent;
	Bitmapset *shown = NULL; /* columns of the parent in the output */
	Bitmapset *used = NULL;	 /* columns of "served", offset by FirstLowInvalidHeapAttributeNumber */
	ListCell *lc;

	if (query->commandType != CMD_SELECT || query->hasAggs || query->hasWindowFuncs || query->hasTargetSRFs ||
		query->hasSubLinks || query->cteList != NIL || query->groupClause != NIL || query->groupingSets != NIL ||
		query->havingQual != NULL || query->distinctClause != NIL || query->limitCount != NULL ||
		query->limitOffset != NULL || query->setOperations != NULL || query->rowMarks != NIL ||
		query->jointree->quals != NULL || list_length(query->jointree->fromlist) != 1)
		return false;

	/* the parent is the leftmost table */
	node = linitial(query->jointree->fromlist);
	while (IsA(node, JoinExpr))
		node = ((JoinExpr *) node)->larg;
	if (!IsA(node, RangeTblRef))
		return false;
	parent = ((RangeTblRef *) node)->rtindex;
	if (rt_fetch(parent, query->rtable)->rtekind != RTE_RELATION || rt_fetch(parent, query->rtable)->relid != of->parent ||
		!rt_fetch(parent, query->rtable)->inh || rt_fetch(parent, query->rtable)->tablesample != NULL)
		return false;

	/* all others are joined to it */
	for (node = linitial(query->jointree->fromlist); IsA(node, JoinExpr); node = ((JoinExpr *) node)->larg)
	{
		JoinExpr *join = (JoinExpr *) node;
		RangeTblEntry *rte;

		if (join->jointype != JOIN_LEFT || !IsA(join->rarg, RangeTblRef) || !read_on(join->quals, parent, key))
			return false;
		rte = rt_fetch(((RangeTblRef *) join->rarg)->rtindex, query->rtable);
		if (rte->rtekind == RTE_RELATION && rte->relid == of->served)
			served = ((RangeTblRef *) join->rarg)->rtindex;
	}
	if (served == 0 || *key == NULL)
		return false;

	/* an output is about the parent or about the counts, not about both */
	foreach(lc, query->targetList)
	{
		Node *expr = (Node *) lfirst_node(TargetEntry, lc)->expr;

		if (bms_is_member(parent, pull_varnos(NULL, expr)) && bms_membership(pull_varnos(NULL, expr)) == BMS_MULTIPLE)
			return false;
		if (plain_var(expr) != NULL && plain_var(expr)->varno == parent && plain_var(expr)->varattno > 0)
			shown = bms_add_member(shown, plain_var(expr)->varattno);
		pull_varattnos(expr, served, &used);
	}

	*shows_all = bms_is_subset(*key, shown);
	for (int i = bms_num_members(*key) + 2; *shows_all && i <= list_length(rt_fetch(served, query->rtable)->eref->colnames); i++)
		*shows_all = bms_is_member(i - FirstLowInvalidHeapAttributeNumber, used);
	return true;
}

/* Look at the view itself.  *key gets the columns of the parent's key. */
static bool
look_at_view(ServeLook *look, ServeView *view, Bitmapset **key)
{
	Relation rel = open_unless_locked(look, view->of.view);
	bool result;

	if (rel == NULL)
		return false;
	view->owner = rel->rd_rel->relowner;
	result = rel->rd_rel->relkind == RELKIND_VIEW;
	if (result)
	{
		view->is_invoker = RelationHasSecurityInvoker(rel);
		result = is_maintained_query(get_view_query(rel), &view->of, key, &view->shows_all);
	}
	relation_close(rel, AccessShareLock);
	add_rule_xids(look, view->of.view);
	add_rule_xids(look, view->of.query);
	return result;
}

/* Are the columns a key of the parent: not null, and unique at any moment? */
static bool
is_key(ServeLook *look, Oid parent, const Bitmapset *key)
{
	Relation rel = open_unless_locked(look, parent);
	AttrNumber columns[INDEX_MAX_KEYS];
	int ncolumns = 0;
	int column = -1;
	bool immediate = false;
	bool result;

	if (rel == NULL)
		return false;
	result = bms_num_members(key) <= INDEX_MAX_KEYS;
	while (result && (column = bms_next_member(key, column)) >= 0)
	{
		columns[ncolumns++] = column;
		result = column > 0 && column_is_not_null(RelationGetDescr(rel), column);
	}
	result = result && OidIsValid(poser_unique_index(rel, ncolumns, columns, &immediate)) && immediate;
	relation_close(rel, AccessShareLock);
	return result;
}

/* Is the bookkeeping a table of its own, which shows all of its rows to its owner? */
static bool
look_at_bookkeeping(ServeLook *look, Oid relid, Oid nspid)
{
	const ServeTable *table = find_table(relid, nspid);
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	bool has_policies;

	if (!HeapTupleIsValid(tuple))
		return false;
	has_policies = ((Form_pg_class) GETSTRUCT(tuple))->relrowsecurity;
	ReleaseSysCache(tuple);
	look->files = list_append_unique_oid(look->files, table->file_xid);
	look->transient |= table->inherits;
	return table->relkind == RELKIND_RELATION && table->is_permanent && !table->is_partition && !table->inherits && !has_policies;
}

/*
 * Look at everything that the counts of a view depend on, except snapshot and user.  The
 * relations are always added to the list, so that the session notices their changes.
 */
static bool
look(ServeLook *look, ServeView *view)
{
	const PoserMaintained *of = &view->of;
	Bitmapset *key = NULL;
	bool has_query;
	bool result;

	look->relids = list_make3_oid(of->view, of->query, of->served);
	look->relids = lappend_oid(look->relids, of->bookkeeping);
	if (!OidIsValid(of->view) || !OidIsValid(of->served) || !OidIsValid(of->parent) || !OidIsValid(of->child))
		return false;

	/* another role can have bound a table of its own to the query, if it may make triggers for it */
	result = poser_have_one_owner(of->bookkeeping, of->query) && poser_have_one_owner(of->bookkeeping, of->served);

	has_query = look_at_view(look, view, &key);
	result = has_query && result;
	result = poser_maintain_is_bound(of, view->nspid, &look->xids) && result;
	result = look_at_bookkeeping(look, of->bookkeeping, view->nspid) && result;
	result = look_at_tree(look, of->child, view->nspid, NULL) && result;
	if (of->parent != of->child)
		result = look_at_tree(look, of->parent, view->nspid, key) && result;
	look->relids = list_concat(look->relids, look->tables);
	view->repeats = has_query && (look->inherits || !is_key(look, of->parent, key));
	return result && !view->repeats && poser_maintained_partitions_match(of) &&
		   poser_maintained_query_matches(of, false);
}

/* Copy a list of OIDs or transaction IDs into an array, sorted as OIDs. */
static Oid *
array_of(const List *list, int *n)
{
	Oid *result = palloc(Max(list_length(list), 1) * sizeof(Oid));

	*n = 0;
	for (int i = 0; i < list_length(list); i++)
		result[(*n)++] = list_nth_oid(list, i);
	qsort(result, *n, sizeof(Oid), oid_cmp);
	return result;
}

/* Can a description still be used?  Its transaction IDs must be comparable with those of the snapshot. */
static bool
is_current(const ServeView *view, Oid nspid, Snapshot snapshot)
{
	return view->valid && view->nspid == nspid &&
		   (uint32) (snapshot->xmax - view->next_xid + MAX_AGE) <= 2 * MAX_AGE;
}

/*
 * Returns what is known about the maintained view with this query, after looking it up if need
 * be; NULL if there is no such view.  The next call may change the result.
 */
static const ServeView *
find_view(Oid query, Oid nspid, Snapshot snapshot)
{
	ServeView *view = hash_search(serve_views, &query, HASH_FIND, NULL);
	ServeView looked_up = {.query = query, .nspid = nspid};
	ServeLook found = {0};
	uint64 started = poser_relation_changes();
	MemoryContext context;
	MemoryContext old;

	if (view != NULL && is_current(view, nspid, snapshot))
		return view;
	if (view != NULL && view->valid)
		invalidate_entries(InvalidOid);

	context = AllocSetContextCreate(CurrentMemoryContext, "poser look at a maintained view", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	looked_up.next_xid = ReadNextTransactionId();
	if (!poser_maintained_find(query, nspid, &looked_up.of) || looked_up.of.query != query)
	{
		MemoryContextSwitchTo(old);
		MemoryContextDelete(context);
		return NULL;
	}
	looked_up.complete = look(&found, &looked_up);

	looked_up.context = AllocSetContextCreate(TopMemoryContext, "poser maintained view", ALLOCSET_SMALL_SIZES);
	MemoryContextSwitchTo(looked_up.context);
	looked_up.relids = array_of(found.relids, &looked_up.num_relids);
	looked_up.tables = array_of(found.tables, &looked_up.num_tables);
	looked_up.xids = array_of(found.xids, &looked_up.num_xids);
	looked_up.files = array_of(found.files, &looked_up.num_files);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);

	/* If a relation has changed since the look-up began, the next call looks up again. */
	looked_up.valid = (started == poser_relation_changes() && !found.transient);
	if (view != NULL)
		MemoryContextDelete(view->context);
	else
		view = hash_search(serve_views, &query, HASH_ENTER, NULL);
	*view = looked_up;
	return view;
}

/*
 * The decision
 */

/* Does the snapshot see the changes of this transaction?  Most transactions are older than all that run. */
static inline bool
sees_transaction(TransactionId xid, Snapshot snapshot)
{
	return (TransactionIdIsNormal(xid) && TransactionIdPrecedes(xid, snapshot->xmin)) ||
		   poser_serve_sees_transaction(xid, snapshot);
}

/* Have triggers counted all rows that the snapshot sees?  See sees_relation() for the files. */
static bool
sees_counted(const ServeView *view, Snapshot snapshot)
{
	for (int i = 0; i < view->num_xids; i++)
		if (!sees_transaction(view->xids[i], snapshot))
			return false;
	for (int i = 0; i < view->num_files; i++)
		if (!sees_transaction(view->files[i], snapshot) || TransactionIdIsCurrentTransactionId(view->files[i]))
			return false;
	return true;
}

/* May the current user see all rows of both tables? */
static bool
may_see_tables(const ServeView *view, Oid roleid)
{
	return poser_serve_may_see_all(view->of.parent, roleid) && poser_serve_may_see_all(view->of.child, roleid);
}

/*
 * Does the view show the counts of all rows to the current user, and may the user see them?
 * A view with the option security_invoker reads the tables with the rights of the user,
 * otherwise with those of its owner.
 */
static bool
may_see_counts(const ServeView *view)
{
	if (view->is_invoker)
		return may_see_tables(view, GetUserId());
	return may_see_tables(view, view->owner) &&
		   ((view->shows_all && pg_class_aclcheck(view->of.view, GetUserId(), ACL_SELECT) == ACLCHECK_OK) ||
			may_see_tables(view, GetUserId()));
}

/*
 * Returns whether the counts and sums of the maintained view with this query are what the
 * current user would get by the query under the active snapshot, see the head of this file.
 * "nspid" is the schema of the extension.
 */
bool
poser_view_is_served(Oid query, Oid nspid)
{
	Snapshot snapshot = GetActiveSnapshot();
	const ServeView *view;

	if (SessionReplicationRole == SESSION_REPLICATION_ROLE_REPLICA)
		return false;
	view = find_view(query, nspid, snapshot);
	if (view == NULL || !view->complete || !may_see_counts(view))
		return false;
	return poser_serve_is_consistent(snapshot, view->tables, view->num_tables) && sees_counted(view, snapshot);
}

/*
 * Raise an error if rows of the parent have the same key.  The user's query has one row for all of
 * them, with the children of each, and the view's own query one for each.  Without a unique
 * key, and if the parent is inherited, this must be looked up:
 *
 *	SELECT FROM public.customer GROUP BY id HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 1
 */
static void
check_repeated_keys(const ServeView *view)
{
	PoserMaintained of = view->of;
	Bitmapset *key = NULL;
	bool shows_all;
	StringInfoData columns;
	int column = -1;
	int level;
	uint64 found;
	PoserCaller caller;
	Relation rel = relation_open(of.view, AccessShareLock);

	(void) is_maintained_query(get_view_query(rel), &of, &key, &shows_all);
	relation_close(rel, NoLock);
	initStringInfo(&columns);
	while ((column = bms_next_member(key, column)) >= 0)
		appendStringInfo(&columns, "%s%s", columns.len > 0 ? ", " : "", quote_identifier(get_attname(of.parent, column, false)));

	level = poser_begin_text_settings();
	SPI_connect();
	poser_become_owner(of.view, &caller);
	found = poser_run(&(PoserQuery) {.sql = psprintf("SELECT FROM %s GROUP BY %s HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 1",
													 poser_relation_name(of.parent), columns.data),
									 .read_only = true,
									 .once = true,
									 .expected = SPI_OK_SELECT,
									 .limit = 1});
	poser_become_caller(&caller);
	SPI_finish();
	AtEOXact_GUC(true, level);
	if (found > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("maintained view \"%s\" cannot be read", get_rel_name(of.view)),
				 errdetail("Rows of table \"%s\" have the same key, which is not unique any more.", get_rel_name(of.parent)),
				 errhint("Make the key unique again, or call poser_unmaintain(), which gives the view its query back.")));
}

/* The decision for the calling function, the same in all parts of a plan. */
static bool
serves(FunctionCallInfo fcinfo)
{
	PoserRun *run;
	bool is_new;

	if (!ActiveSnapshotSet())
		return false;
	run = poser_serve_run(fcinfo, PG_GETARG_OID(0), &is_new);
	if (is_new)
	{
		Oid nspid = get_func_namespace(fcinfo->flinfo->fn_oid);
		const ServeView *view;

		run->serves = poser_view_is_served(PG_GETARG_OID(0), nspid);
		view = run->serves ? NULL : find_view(PG_GETARG_OID(0), nspid, GetActiveSnapshot());
		if (view != NULL && view->repeats)
			check_repeated_keys(view);
	}
	return run->serves;
}

/*
 * poser_serves(query regclass) returns bool
 */
Datum
poser_serves(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(serves(fcinfo));
}

/*
 * poser_live_from(query regclass) returns tid
 *
 * The planner calls this, too, and estimates from the result how many of the child's rows
 * the view reads.  It could not estimate this from a boolean.
 */
Datum
poser_live_from(PG_FUNCTION_ARGS)
{
	ItemPointer result;

	if (serves(fcinfo))
		PG_RETURN_NULL();
	result = palloc0(sizeof(ItemPointerData));
	ItemPointerSet(result, 0, 0);
	PG_RETURN_POINTER(result);
}
