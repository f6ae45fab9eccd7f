/*
 * maintained_state.c
 *	  What is wrong with a maintained view.
 *
 * poser_views and poser_check() say the same, because both ask here.  The functions look at
 * catalogs only.  Nothing raises an error because of what users have changed, and no lock is
 * kept.  Each problem is one line, which ends in what to do.
 *
 * A relation that another transaction has locked is not waited for: a session that looks at
 * all views must not wait for the owner of one of them.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_rewrite.h"
#include "catalog/pg_trigger.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteHandler.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "counts/counts_internal.h"

/* Add a problem: what, and what to do about it. */
static void
add_problem(PoserMaintainedState *state, char *problem)
{
	state->problems = lappend(state->problems, problem);
}

/* Returns what to do: a call of poser_maintain() with this view. */
static char *
maintain_call(const PoserMaintained *maintained)
{
	return psprintf("poser_maintain(%s)", quote_literal_cstr(poser_relation_name(maintained->view)));
}

/* Returns what to do if the bookkeeping cannot be mended. */
static char *
again_calls(const PoserMaintained *maintained)
{
	const char *view = quote_literal_cstr(poser_relation_name(maintained->view));

	return psprintf("poser_unmaintain(%s) and poser_maintain(%s) make it again", view, view);
}

/* Returns the word for a relation in a message: table or view. */
static const char *
kind_word(Oid relid)
{
	return get_rel_relkind(relid) == RELKIND_VIEW ? "view" : "table";
}

/*
 * Open and lock a relation.  Returns NULL, and adds a problem, if it is gone or locked by
 * another transaction.
 */
static Relation
open_unless_locked(PoserMaintainedState *state, Oid relid)
{
	Relation rel;

	if (!ConditionalLockRelationOid(relid, AccessShareLock))
	{
		char *name = get_rel_name(relid);

		state->locked = true;
		if (name != NULL)
			add_problem(state, psprintf("%s %s is locked by another transaction", kind_word(relid), poser_relation_name(relid)));
		return NULL;
	}
	rel = try_relation_open(relid, NoLock);
	if (rel == NULL)
		UnlockRelationOid(relid, AccessShareLock);
	return rel;
}

/* Returns the name of a relation's owner, quoted. */
static const char *
owner_name(Oid relid)
{
	return quote_identifier(GetUserNameFromId(poser_owner_of(relid), true));
}

/* Check that all relations have one owner. */
static void
check_owners(PoserMaintainedState *state, const PoserMaintained *maintained)
{
	const Oid relids[] = {maintained->query, maintained->served, maintained->bookkeeping, maintained->parent, maintained->child};
	Oid owner = poser_owner_of(maintained->view);

	for (int i = 0; i < lengthof(relids); i++)
	{
		const char *word;

		/* a tree has one table for parent and child */
		if (!OidIsValid(relids[i]) || !OidIsValid(poser_owner_of(relids[i])) || poser_owner_of(relids[i]) == owner ||
			(i == lengthof(relids) - 1 && relids[i] == relids[i - 1]))
			continue;
		word = kind_word(relids[i]);
		add_problem(state, psprintf("%s %s belongs to %s, and the view to %s: ALTER %s %s OWNER TO %s",
									word, poser_relation_name(relids[i]), owner_name(relids[i]), owner_name(maintained->view),
									word[0] == 'v' ? "VIEW" : "TABLE", poser_relation_name(relids[i]), owner_name(maintained->view)));
		state->described = false;
	}
}

/* Does the query of a view read this relation? */
static bool
query_reads(Relation view, Oid relid)
{
	Relation depend = table_open(DependRelationId, AccessShareLock);
	bool result = false;
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple tuple;

	for (int i = 0; view->rd_rules != NULL && i < view->rd_rules->numLocks; i++)
	{
		ScanKeyInit(&keys[0], Anum_pg_depend_classid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(RewriteRelationId));
		ScanKeyInit(&keys[1], Anum_pg_depend_objid, BTEqualStrategyNumber, F_OIDEQ,
					ObjectIdGetDatum(view->rd_rules->rules[i]->ruleId));
		scan = systable_beginscan(depend, DependDependerIndexId, true, NULL, lengthof(keys), keys);
		while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		{
			Form_pg_depend form = (Form_pg_depend) GETSTRUCT(tuple);

			if (form->refclassid == RelationRelationId && form->refobjid == relid)
				result = true;
		}
		systable_endscan(scan);
	}
	table_close(depend, AccessShareLock);
	return result;
}

/* Has a view a setting that makes it read with the rights of the user? */
static bool
is_security_invoker(Relation view)
{
	return RelationHasSecurityInvoker(view);
}

/*
 * Is the query of this view the gate?  It is
 *
 *		SELECT all columns FROM bookkeeping WHERE poser_serves(query)
 */
static bool
is_gate(Relation served, const PoserMaintained *maintained, Oid nspid)
{
	Query *query = get_view_query(served);
	RangeTblEntry *rte;
	FuncExpr *call;
	Const *argument;
	int index;
	int column = 0;
	ListCell *lc;

	/* one table, with one condition and nothing else */
	if (list_length(query->jointree->fromlist) != 1 || !IsA(linitial(query->jointree->fromlist), RangeTblRef) ||
		query->hasAggs || query->hasWindowFuncs || query->hasTargetSRFs || query->hasSubLinks || query->cteList != NIL ||
		query->groupClause != NIL || query->groupingSets != NIL || query->distinctClause != NIL || query->limitCount != NULL ||
		query->limitOffset != NULL || query->setOperations != NULL)
		return false;
	index = linitial_node(RangeTblRef, query->jointree->fromlist)->rtindex;
	rte = rt_fetch(index, query->rtable);
	if (rte->rtekind != RTE_RELATION || rte->relid != maintained->bookkeeping || rte->tablesample != NULL)
		return false;

	/* the condition */
	call = (FuncExpr *) query->jointree->quals;
	if (call == NULL || !IsA(call, FuncExpr) || list_length(call->args) != 1)
		return false;
	argument = linitial(call->args);
	if (!IsA(argument, Const) || argument->constisnull || DatumGetObjectId(argument->constvalue) != maintained->query ||
		get_func_namespace(call->funcid) != nspid || strcmp(get_func_name(call->funcid), "poser_serves") != 0)
		return false;

	/* the columns */
	foreach(lc, query->targetList)
	{
		TargetEntry *entry = lfirst_node(TargetEntry, lc);
		Var *var = (Var *) entry->expr;

		column++;
		if (entry->resjunk || !IsA(var, Var) || var->varno != index || var->varattno != column)
			return false;
	}
	return column == get_relnatts(maintained->bookkeeping);
}

/* Check the view, and the two that belong to it. */
static void
check_views(PoserMaintainedState *state, const PoserMaintained *maintained, Oid nspid)
{
	Relation rel;

	/* the view itself: the user can have replaced its query */
	rel = open_unless_locked(state, maintained->view);
	if (rel != NULL)
	{
		if (rel->rd_rel->relkind != RELKIND_VIEW || !OidIsValid(maintained->served) || !query_reads(rel, maintained->served))
		{
			add_problem(state, psprintf("its query was replaced, so that it does not read the counts: %s maintains the new query",
										maintain_call(maintained)));
			state->replaced = true;
		}
		relation_close(rel, AccessShareLock);
	}

	/* its definition */
	if (!OidIsValid(maintained->query))
	{
		add_problem(state, psprintf("the view with its former query was dropped: %s makes it again", maintain_call(maintained)));
		state->described = false;
	}

	/* the gate */
	if (!OidIsValid(maintained->served))
	{
		if (!state->replaced)
			add_problem(state, psprintf("the view that reads the counts was dropped: %s makes it again", maintain_call(maintained)));
		return;
	}
	rel = open_unless_locked(state, maintained->served);
	if (rel == NULL)
		return;
	if (rel->rd_rel->relkind != RELKIND_VIEW || !is_gate(rel, maintained, nspid))
		add_problem(state, psprintf("view %s has another query than Poser has given it: %s gives it its own",
									poser_relation_name(maintained->served), maintain_call(maintained)));
	else if (is_security_invoker(rel))
		add_problem(state, psprintf("view %s reads with the rights of its user: ALTER VIEW %s RESET (security_invoker)",
									poser_relation_name(maintained->served), poser_relation_name(maintained->served)));
	if (pg_class_aclcheck(maintained->served, ACL_ID_PUBLIC, ACL_SELECT) != ACLCHECK_OK)
		add_problem(state, psprintf("view %s is not granted to PUBLIC, so that other roles cannot read the maintained view: GRANT SELECT ON %s TO PUBLIC",
									poser_relation_name(maintained->served), poser_relation_name(maintained->served)));
	relation_close(rel, AccessShareLock);
}
