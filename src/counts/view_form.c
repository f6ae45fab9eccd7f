/*
 * view_form.c
 *	  Reading the query of a maintained view, and checking its form.
 *
 * A view can be maintained if its query has this form:
 *
 *		SELECT c.id, c.name, count(o.id), COALESCE(sum(o.total) FILTER (WHERE o.paid), 0)
 *		  FROM customer c LEFT JOIN orders o ON o.customer_id = c.id AND NOT o.cancelled
 *		 GROUP BY c.id, c.name
 *
 * The parent (customer) has a row for each row of the view, because the query groups by
 * the parent's key.  The child (orders) has the rows that are counted.  A row of the child
 * is counted for one parent at most, because the query joins by a foreign key.  Whether it
 * is counted depends on nothing but the row, because conditions use no other row and are
 * immutable.  So a writer of the child knows from the row alone what changes.
 *
 * The form is read from the rule of the view, as PostgreSQL stores it.  There columns have
 * numbers, so it follows a rename.  If a part of the query has another form, an error quotes
 * this part, in the names that the query uses.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/transam.h"
#include "catalog/pg_class.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "optimizer/tlist.h"
#include "parser/parse_coerce.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteHandler.h"
#include "rewrite/rewriteManip.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/typcache.h"

#include "counts/counts_internal.h"

/* A query for recounting has two columns for each amount and a few more, and 1,664 are possible. */
#define MAX_AMOUNTS 800

/* A query that is being read. */
typedef struct ViewReader
{
	Relation view;
	const char *name; /* of the maintained view, for errors */
	bool mutable_too; /* accept a condition that is not immutable */
	Query *query;
	List *deparse; /* context for expressions of the query */
	int parent;	   /* its number in the query's range table */
	int child;
	Relation parent_rel;
	Relation child_rel;
	PoserViewForm *form;
} ViewReader;

/* What a walk over a condition finds. */
typedef struct ConditionUse
{
	int child;
	AttrNumber system_column; /* of any table; 0 if there is none */
	bool other;				  /* a column of another table than the child */
	bool runs_code;
	bool whole_row;
	Bitmapset *columns; /* of the child, offset by FirstLowInvalidHeapAttributeNumber */
} ConditionUse;

/* Raises the error for a query that does not have the form.  "detail" ends with a full stop. */
static void
refuse(ViewReader *reader, const char *detail, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot maintain view \"%s\"", reader->name),
			 errdetail_internal("%s", detail),
			 hint != NULL ? errhint("%s", hint) : 0));
}

/*
 * The names of the query's tables, for deparse_context_for_plan_tree(), which is the one
 * function that makes a context for expressions with columns of several tables.
 */
static List *
make_deparse_context(Query *query)
{
	PlannedStmt *statement = makeNode(PlannedStmt);
	List *names = NIL;
	ListCell *lc;

	statement->rtable = query->rtable;
	foreach(lc, query->rtable)
	{
		names = lappend(names, lfirst_node(RangeTblEntry, lc)->eref->aliasname);
	}
	return deparse_context_for_plan_tree(statement, names);
}

/* The text of an expression of the query: "sum(o.total)". */
static char *
expression_text(ViewReader *reader, Node *node)
{
	return deparse_expression(node, reader->deparse, true, false);
}

/* The name that the query has for one of its tables. */
static char *
alias_of(ViewReader *reader, int varno)
{
	return rt_fetch(varno, reader->query->rtable)->eref->aliasname;
}

/* Returns an expression with plain columns instead of the columns of joins and of GROUP BY. */
static Node *
flatten(ViewReader *reader, Node *node)
{
	return flatten_join_alias_vars(NULL, reader->query, flatten_group_exprs(NULL, reader->query, node));
}

/* Is this a plain column of the table?  A system column and the whole row are not. */
static bool
is_column(Node *node, int varno)
{
	return node != NULL && IsA(node, Var) && ((Var *) node)->varno == varno &&
		   ((Var *) node)->varlevelsup == 0 && ((Var *) node)->varattno > 0;
}

/* Returns an expression without casts that do not change the value, such as from varchar to text or from a domain. */
static Node *
strip_relabel(Node *node)
{
	while (node != NULL && IsA(node, RelabelType))
		node = (Node *) ((RelabelType *) node)->arg;
	return node;
}

/*
 * Conditions
 */

/* Is all code for the type's values part of the server?  This holds for enums, too. */
static bool
is_plain_type(Oid type)
{
	Oid element;

	type = getBaseType(type);
	element = get_element_type(type);
	if (OidIsValid(element))
		type = getBaseType(element);
	return (type < FirstNormalObjectId && type != RECORDOID) || type_is_enum(type);
}

/* Does this node of an expression run no code but its functions and the code of its type? */
static bool
is_plain_node(Node *node)
{
	switch (nodeTag(node))
	{
		case T_List:
		case T_CaseWhen:
			return true;
		case T_Var:
		case T_Const:
		case T_FuncExpr:
		case T_NamedArgExpr:
		case T_OpExpr:
		case T_DistinctExpr:
		case T_NullIfExpr:
		case T_ScalarArrayOpExpr:
		case T_BoolExpr:
		case T_NullTest:
		case T_BooleanTest:
		case T_RelabelType:
		case T_CoerceViaIO:
		case T_ArrayCoerceExpr:
		case T_CollateExpr:
		case T_CaseExpr:
		case T_CaseTestExpr:
		case T_CoalesceExpr:
		case T_MinMaxExpr:
		case T_ArrayExpr:
		case T_SubscriptingRef:
			return is_plain_type(exprType(node));
		default:
			return false;
	}
}

/*
 * For check_functions_in_node(): can a function run code that users have made?  One of the server
 * that is not immutable can have it in its argument, as query_to_xml() does.  poser_maintain()
 * refuses it, but the owner can put it into the query later.
 */
static bool
can_run_code(Oid function, void *context)
{
	return function >= FirstNormalObjectId || func_volatile(function) != PROVOLATILE_IMMUTABLE;
}

/* Find out what a condition without subqueries uses. */
static bool
condition_walker(Node *node, void *context)
{
	ConditionUse *use = context;

	if (node == NULL)
		return false;
	if (!is_plain_node(node) || check_functions_in_node(node, can_run_code, NULL))
		use->runs_code = true;
	if (IsA(node, Var))
	{
		Var *var = (Var *) node;

		if (var->varno != use->child)
			use->other = true;
		if (var->varattno < 0)
			use->system_column = var->varattno;
		else if (var->varattno == 0)
			use->whole_row = true;
		else if (var->varno == use->child)
			use->columns = bms_add_member(use->columns, var->varattno);
		return false;
	}
	return expression_tree_walker(node, condition_walker, context);
}

/* Give the columns of an expression the number 1 for their table. */
static bool
renumber_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var))
	{
		Var *var = (Var *) node;

		var->varno = 1;
		var->varnosyn = 1;
		var->varattnosyn = var->varattno;
		clear_nulling_rels(var);
		return false;
	}
	return expression_tree_walker(node, renumber_walker, context);
}

/* Is the column computed when it is read?  Then triggers do not see its value. */
static bool
is_virtual(Relation rel, AttrNumber column)
{
	return TupleDescAttr(RelationGetDescr(rel), column - 1)->attgenerated == ATTRIBUTE_GENERATED_VIRTUAL;
}

/*
 * Is it a generated column of a partitioned table?  The server computes it after it has kept
 * the row for transition tables, if the row comes through the partitioned table and the columns
 * of the partition have other numbers.
 */
static bool
is_generated_in_partitions(Relation rel, AttrNumber column)
{
	return rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE && TupleDescAttr(RelationGetDescr(rel), column - 1)->attgenerated != '\0';
}

/*
 * Is an expression mutable?  The planner inserts the defaults of arguments and inlines
 * functions before the test, as for the expression of an index.  It may call immutable
 * functions, so it does this as the view's owner if users have made them.
 */
static bool
is_mutable(ViewReader *reader, Node *node, bool runs_code)
{
	PoserCaller caller;
	bool result;

	if (runs_code)
		poser_become_owner(RelationGetRelid(reader->view), &caller);
	result = contain_mutable_functions((Node *) expression_planner((Expr *) copyObject(node)));
	if (runs_code)
		poser_become_caller(&caller);
	return result;
}

/* Refuse a condition with a subquery. */
static void
check_subqueries(ViewReader *reader, Node *node, const char *where)
{
	if (checkExprHasSubLink(node))
		refuse(reader, psprintf("%s has a subquery: %s.", where, expression_text(reader, node)),
			   "A condition can use the columns of one row only.");
}

/*
 * Returns a condition of the child's row, as the form has it.  "where" says where it is:
 * "FILTER of output \"orders\"".
 */
static Node *
read_condition(ViewReader *reader, Node *node, const char *where)
{
	ConditionUse use = {.child = reader->child};
	int column = -1;

	check_subqueries(reader, node, where);
	(void) condition_walker(node, &use);
	if (use.other)
		refuse(reader, psprintf("%s uses columns of another table than \"%s\": %s.", where, alias_of(reader, reader->child), expression_text(reader, node)),
			   psprintf("A condition can use columns of \"%s\" only.", alias_of(reader, reader->child)));
	if (use.system_column != 0)
		refuse(reader, psprintf("%s uses a system column: %s.", where, expression_text(reader, node)), NULL);
	while ((column = bms_next_member(use.columns, column)) >= 0)
	{
		if (is_virtual(reader->child_rel, column))
			refuse(reader, psprintf("%s uses a virtual generated column: %s.", where, expression_text(reader, node)),
				   "Use a stored column, or the column's expression.");
		if (is_generated_in_partitions(reader->child_rel, column))
			refuse(reader, psprintf("%s uses a generated column of a partitioned table: %s.", where, expression_text(reader, node)),
				   "Use the column's expression.");
	}
	if (!reader->mutable_too && is_mutable(reader, node, use.runs_code))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("cannot maintain view \"%s\"", reader->name),
				 errdetail("%s is not immutable: %s.", where, expression_text(reader, node)),
				 errhint("A condition must say the same about a row at all times, for all sessions.")));
	reader->form->runs_code |= use.runs_code;
	reader->form->whole_row |= use.whole_row;

	node = copyObject(node);
	(void) renumber_walker(node, NULL);
	return node;
}

/*
 * FROM
 */

/* What a range table entry is, for an error message. */
static char *
entry_kind(RangeTblEntry *rte)
{
	switch (rte->rtekind)
	{
		case RTE_RELATION:
			switch (rte->relkind)
			{
				case RELKIND_VIEW:
					return "a view";
				case RELKIND_MATVIEW:
					return "a materialized view";
				case RELKIND_FOREIGN_TABLE:
					return "a foreign table";
				default:
					return "not a table";
			}
		case RTE_SUBQUERY:
			return rte->lateral ? "a LATERAL subquery" : "a subquery";
		case RTE_FUNCTION:
			return "a function";
		case RTE_TABLEFUNC:
			return "a table function";
		case RTE_VALUES:
			return "a VALUES list";
		case RTE_CTE:
			return "a WITH query";
		case RTE_JOIN:
			return "another join";
		default:
			return "not a table";
	}
}

/* Returns the number of the table on one side of the join. */
static int
read_table(ViewReader *reader, Node *node)
{
	RangeTblEntry *rte;

	if (IsA(node, JoinExpr))
		refuse(reader, "FROM joins more than two tables.",
			   "Join further tables in a query over the view.");
	if (!IsA(node, RangeTblRef))
		refuse(reader, psprintf("\"%s\" is not a table.", alias_of(reader, 1)), NULL);
	rte = rt_fetch(((RangeTblRef *) node)->rtindex, reader->query->rtable);
	if (rte->rtekind != RTE_RELATION || (rte->relkind != RELKIND_RELATION && rte->relkind != RELKIND_PARTITIONED_TABLE))
		refuse(reader, psprintf("\"%s\" in FROM is %s.", rte->eref->aliasname, entry_kind(rte)),
			   "A maintained view joins two tables.");
	if (rte->tablesample != NULL)
		refuse(reader, psprintf("\"%s\" in FROM has TABLESAMPLE.", rte->eref->aliasname), NULL);
	if (!rte->inh)
		refuse(reader, psprintf("\"%s\" in FROM has ONLY.", rte->eref->aliasname), "Remove ONLY.");
	return ((RangeTblRef *) node)->rtindex;
}

/* Find parent and child, and return the join's condition. */
static Node *
read_join(ViewReader *reader)
{
	Query *query = reader->query;
	List *from = query->jointree->fromlist;
	JoinExpr *join;
	int left;
	int right;

	if (from == NIL)
		refuse(reader, "The query has no FROM.", NULL);
	join = linitial(from);
	if (list_length(from) > 1)
		refuse(reader, "FROM has several items.", "Join two tables by LEFT JOIN ... ON.");
	if (!IsA(join, JoinExpr))
	{
		if (IsA(join, RangeTblRef))
			(void) read_table(reader, (Node *) join);
		refuse(reader, "FROM has no LEFT JOIN.",
			   "Join the table that has a row for each row of the view, LEFT JOIN the table that is counted.");
	}
	left = read_table(reader, join->larg);
	right = read_table(reader, join->rarg);
	switch (join->jointype)
	{
		case JOIN_LEFT:
			reader->parent = left;
			reader->child = right;
			break;
		case JOIN_RIGHT:
			reader->parent = right;
			reader->child = left;
			break;
		case JOIN_INNER:
			refuse(reader, psprintf("\"%s\" and \"%s\" are joined by an inner join.", alias_of(reader, left), alias_of(reader, right)),
				   "Use LEFT JOIN. A query over the view can leave out rows whose count is 0.");
			break;
		default:
			refuse(reader, psprintf("\"%s\" and \"%s\" are joined by FULL JOIN.", alias_of(reader, left), alias_of(reader, right)),
				   "Use LEFT JOIN.");
	}
	return flatten(reader, join->quals);
}

/*
 * The column of this table that a side of an equality compares, or 0.  *cast is the
 * function of a cast, or InvalidOid.  The cast may be an explicit one, because the server
 * shows an implicit cast as an explicit one in the text of a view.
 */
static AttrNumber
compared_column(Node *node, int varno, Oid *cast)
{
	*cast = InvalidOid;
	for (;;)
	{
		if (IsA(node, RelabelType))
			node = (Node *) ((RelabelType *) node)->arg;
		else if (IsA(node, CollateExpr))
			node = (Node *) ((CollateExpr *) node)->arg;
		else if (IsA(node, FuncExpr) && !OidIsValid(*cast) && list_length(((FuncExpr *) node)->args) == 1 &&
				 (((FuncExpr *) node)->funcformat == COERCE_IMPLICIT_CAST || ((FuncExpr *) node)->funcformat == COERCE_EXPLICIT_CAST))
		{
			*cast = ((FuncExpr *) node)->funcid;
			node = linitial(((FuncExpr *) node)->args);
		}
		else
			return is_column(node, varno) ? ((Var *) node)->varattno : 0;
	}
}

/* Is a comparison under one collation the same as under the other? */
static bool
same_equality(Oid a, Oid b)
{
	return a == b || (OidIsValid(a) && OidIsValid(b) && get_collation_isdeterministic(a) && get_collation_isdeterministic(b));
}

/*
 * If a part of ON compares a column of the parent with one of the child by the default
 * equality of the parent's type, add the pair to the form's keys and return true.
 */
static bool
read_key(ViewReader *reader, Node *node)
{
	PoserViewForm *form = reader->form;
	OpExpr *op = (OpExpr *) node;
	PoserViewKey key = {0};
	Form_pg_attribute parent_att;
	Oid child_type;
	Oid cast;
	Oid path_function;
	TypeCacheEntry *type;
	CoercionPathType path;

	if (!IsA(op, OpExpr) || list_length(op->args) != 2)
		return false;
	key.parent = compared_column(linitial(op->args), reader->parent, &cast);
	key.equality = op->opno;
	if (key.parent != 0)
	{
		if (OidIsValid(cast))
			return false;
		key.child = compared_column(lsecond(op->args), reader->child, &cast);
	}
	else
	{
		key.child = compared_column(linitial(op->args), reader->child, &cast);
		key.parent = compared_column(lsecond(op->args), reader->parent, &path_function);
		if (OidIsValid(path_function))
			return false;
		key.equality = get_commutator(op->opno);
	}
	if (key.parent == 0 || key.child == 0 || !OidIsValid(key.equality))
		return false;

	/* the equality of the parent's type, which its bookkeeping uses */
	parent_att = TupleDescAttr(RelationGetDescr(reader->parent_rel), key.parent - 1);
	key.type = getBaseType(parent_att->atttypid);
	key.typmod = -1;
	key.collation = parent_att->attcollation;
	type = lookup_type_cache(key.type, TYPECACHE_BTREE_OPFAMILY | TYPECACHE_EQ_OPR | TYPECACHE_HASH_PROC);
	if (!OidIsValid(type->btree_opf) || get_op_opfamily_strategy(key.equality, type->btree_opf) != BTEqualStrategyNumber)
		return false;
	if (!OidIsValid(type->eq_opr) || !OidIsValid(type->hash_proc))
		refuse(reader, psprintf("Column \"%s\" of table \"%s\" has type %s, which has no hash function.", NameStr(parent_att->attname), RelationGetRelationName(reader->parent_rel), format_type_be(parent_att->atttypid)), NULL);
	if (OidIsValid(key.collation) && !same_equality(op->inputcollid, key.collation))
		refuse(reader, psprintf("ON compares under another collation than that of column \"%s\" of table \"%s\": %s.", NameStr(parent_att->attname), RelationGetRelationName(reader->parent_rel), expression_text(reader, node)), NULL);

	/* a child's value becomes one of the parent's type, as it does in the comparison */
	child_type = getBaseType(TupleDescAttr(RelationGetDescr(reader->child_rel), key.child - 1)->atttypid);
	path = find_coercion_pathway(key.type, child_type, COERCION_IMPLICIT, &path_function);
	if (path == COERCION_PATH_FUNC)
		key.cast = path_function;
	if ((path != COERCION_PATH_RELABELTYPE && path != COERCION_PATH_FUNC) ||
		(OidIsValid(cast) && cast != key.cast) ||
		(OidIsValid(key.cast) && (key.cast >= FirstNormalObjectId || get_func_nargs(key.cast) != 1 || func_volatile(key.cast) != PROVOLATILE_IMMUTABLE)))
		refuse(reader, psprintf("ON compares type %s with type %s: %s.", format_type_be(child_type), format_type_be(key.type), expression_text(reader, node)),
			   "Give both columns the same type.");

	for (int i = 0; i < form->nkeys; i++)
		if (form->keys[i].parent == key.parent && form->keys[i].child == key.child && form->keys[i].equality == key.equality)
			return true;
	form->keys = form->nkeys == 0 ? palloc(sizeof(PoserViewKey)) : repalloc(form->keys, (form->nkeys + 1) * sizeof(PoserViewKey));
	form->keys[form->nkeys++] = key;
	return true;
}

/* Read ON, or what USING and NATURAL have made of it. */
static Node *
read_on(ViewReader *reader, Node *node, Node *condition)
{
	ConditionUse use = {.child = reader->child};
	ListCell *lc;

	if (node == NULL)
		return condition;
	if (is_andclause(node))
	{
		foreach(lc, ((BoolExpr *) node)->args)
		{
			condition = read_on(reader, lfirst(lc), condition);
		}
		return condition;
	}
	check_subqueries(reader, node, "A condition of ON");
	(void) condition_walker(node, &use);
	if (use.other)
	{
		if (!read_key(reader, node))
			refuse(reader, psprintf("ON has a condition that does not compare the columns of a foreign key: %s.", expression_text(reader, node)),
				   psprintf("ON can compare the columns of a foreign key with the key of \"%s\", and have conditions of the row of \"%s\".",
							alias_of(reader, reader->parent), alias_of(reader, reader->child)));
		return condition;
	}
	node = read_condition(reader, node, "A condition of ON");
	return condition == NULL ? node : make_and_qual(condition, node);
}

/*
 * GROUP BY and the output
 */

/* Is a column of the child one by which the query joins? */
static bool
is_child_key(const PoserViewForm *form, AttrNumber column)
{
	for (int i = 0; i < form->nkeys; i++)
		if (form->keys[i].child == column)
			return true;
	return false;
}

/* Check GROUP BY: all columns of the key, and plain columns of the parent. */
static void
read_groups(ViewReader *reader)
{
	Query *query = reader->query;
	Bitmapset *grouped = NULL;
	ListCell *lc;

	if (query->groupClause == NIL)
		refuse(reader, "The query has no GROUP BY.",
			   psprintf("Group by the key of \"%s\".", alias_of(reader, reader->parent)));
	foreach(lc, query->groupClause)
	{
		TargetEntry *entry = get_sortgroupclause_tle(lfirst(lc), query->targetList);
		Node *node = strip_relabel((Node *) entry->expr);

		if (!is_column(node, reader->parent))
			refuse(reader, psprintf("GROUP BY has something other than a column of \"%s\": %s.", alias_of(reader, reader->parent), expression_text(reader, (Node *) entry->expr)),
				   is_column(node, reader->child) && is_child_key(reader->form, ((Var *) node)->varattno)
					   ? psprintf("Group by the key of \"%s\", which has the same values.", alias_of(reader, reader->parent))
					   : NULL);
		grouped = bms_add_member(grouped, ((Var *) node)->varattno);
	}
	for (int i = 0; i < reader->form->nkeys; i++)
		if (!bms_is_member(reader->form->keys[i].parent, grouped))
			refuse(reader, psprintf("GROUP BY lacks column \"%s\" of \"%s\", by which ON joins.", get_attname(reader->form->parent, reader->form->keys[i].parent, false), alias_of(reader, reader->parent)),
				   "Group by all columns of the key.");
}

/* What to do instead of an aggregate that cannot be kept, or NULL. */
static const char *
aggregate_hint(ViewReader *reader, Aggref *aggref)
{
	const char *name = get_func_name(aggref->aggfnoid);

	if (aggref->aggfnoid >= FirstNormalObjectId || name == NULL)
		return "A maintained view can have count and sum.";
	if (strcmp(name, "min") == 0 || strcmp(name, "max") == 0)
		return psprintf("An index on \"%s\" finds it: use a subquery with ORDER BY and LIMIT 1 in a query over the view.",
						RelationGetRelationName(reader->child_rel));
	if (strcmp(name, "avg") == 0)
		return "Have sum and count in the view, and divide them in a query over the view.";
	if (strcmp(name, "bool_or") == 0 || strcmp(name, "bool_and") == 0 || strcmp(name, "every") == 0)
		return "Count the rows with FILTER, and compare the count in a query over the view.";
	return "A maintained view can have count and sum.";
}

/* Which aggregate it is; refuses those that cannot be kept. */
static PoserViewKind
aggregate_kind(ViewReader *reader, Aggref *aggref, const char *output)
{
	switch (aggref->aggfnoid)
	{
		case F_COUNT_ANY:
			return POSER_COUNT;
		case F_SUM_INT2:
		case F_SUM_INT4:
			return POSER_SUM_INTEGER;
		case F_SUM_INT8:
			return POSER_SUM_BIGINT;
		case F_SUM_NUMERIC:
			return POSER_SUM_NUMERIC;
		case F_COUNT_:
			refuse(reader, psprintf("Output \"%s\" is count(*). It is 1 for a row of \"%s\" without rows of \"%s\".", output, alias_of(reader, reader->parent), alias_of(reader, reader->child)),
				   psprintf("Count a column of \"%s\" that is not null.", alias_of(reader, reader->child)));
			break;
		case F_SUM_FLOAT4:
		case F_SUM_FLOAT8:
			refuse(reader, psprintf("Output \"%s\" is a sum of floating-point numbers: %s. It depends on their order.", output, expression_text(reader, (Node *) aggref)),
				   "Give the column type numeric.");
			break;
		case F_SUM_MONEY:
		case F_SUM_INTERVAL:
			refuse(reader, psprintf("Output \"%s\" is a sum of type %s: %s.", output, format_type_be(aggref->aggtype), expression_text(reader, (Node *) aggref)),
				   "sum can be of smallint, integer, bigint and numeric columns.");
			break;
		default:
			refuse(reader, psprintf("Output \"%s\" has an aggregate that cannot be kept: %s.", output, expression_text(reader, (Node *) aggref)),
				   aggregate_hint(reader, aggref));
	}
	return POSER_COUNT; /* not reached */
}

/* Read an aggregate; returns its index among the form's aggregates. */
static int
read_aggregate(ViewReader *reader, Aggref *aggref, const char *output)
{
	PoserViewForm *form = reader->form;
	PoserViewAggregate aggregate = {.kind = aggregate_kind(reader, aggref, output)};
	Node *argument;

	if (aggref->aggdistinct != NIL)
		refuse(reader, psprintf("Output \"%s\" has an aggregate with DISTINCT: %s.", output, expression_text(reader, (Node *) aggref)), NULL);
	if (aggref->aggorder != NIL)
		refuse(reader, psprintf("Output \"%s\" has an aggregate with ORDER BY: %s.", output, expression_text(reader, (Node *) aggref)),
			   "Remove ORDER BY: it changes nothing.");
	argument = strip_relabel((Node *) linitial_node(TargetEntry, aggref->args)->expr);
	if (!is_column(argument, reader->child))
	{
		bool one = aggregate.kind == POSER_COUNT && (IsA(argument, Const) || is_column(argument, reader->parent));

		refuse(reader, psprintf(one ? "Output \"%s\" is %s. It is 1 for a row of \"%s\" without rows of \"%s\"." : "Output \"%s\" has an aggregate of something other than a column: %s.", output, expression_text(reader, (Node *) aggref), alias_of(reader, reader->parent), alias_of(reader, reader->child)),
			   one ? psprintf("Count a column of \"%s\" that is not null.", alias_of(reader, reader->child))
				   : psprintf("Use a plain column of \"%s\"; it can be a stored generated column.", alias_of(reader, reader->child)));
	}
	aggregate.column = ((Var *) argument)->varattno;
	if (is_virtual(reader->child_rel, aggregate.column))
		refuse(reader, psprintf("Output \"%s\" has an aggregate of a virtual generated column: %s.", output, expression_text(reader, (Node *) aggref)),
			   "Use a stored column.");
	if (is_generated_in_partitions(reader->child_rel, aggregate.column))
		refuse(reader, psprintf("Output \"%s\" has an aggregate of a generated column of a partitioned table: %s.", output, expression_text(reader, (Node *) aggref)),
			   "Use an ordinary column.");
	if (aggref->aggfilter != NULL)
		aggregate.filter = read_condition(reader, (Node *) aggref->aggfilter, psprintf("FILTER of output \"%s\"", output));

	for (int i = 0; i < form->naggregates; i++)
		if (form->aggregates[i].kind == aggregate.kind && form->aggregates[i].column == aggregate.column &&
			equal(form->aggregates[i].filter, aggregate.filter))
			return i;
	form->aggregates[form->naggregates] = aggregate;
	return form->naggregates++;
}

/* Read COALESCE(aggregate, constant); returns the index of the aggregate. */
static int
read_coalesce(ViewReader *reader, CoalesceExpr *coalesce, PoserViewOutput *output)
{
	ConditionUse use = {.child = reader->child};
	Node *constant;

	if (list_length(coalesce->args) == 2 && IsA(linitial(coalesce->args), Aggref))
	{
		constant = lsecond(coalesce->args);
		if (!checkExprHasSubLink(constant))
		{
			(void) condition_walker(constant, &use);
			if (!use.runs_code)
				constant = eval_const_expressions(NULL, constant);
		}
		if (IsA(constant, Const))
		{
			output->otherwise = (Const *) constant;
			return read_aggregate(reader, linitial(coalesce->args), output->name);
		}
	}
	refuse(reader, psprintf("Output \"%s\" is not COALESCE of an aggregate and a constant of its type: %s.", output->name, expression_text(reader, (Node *) coalesce)),
		   "Compute further expressions in a query over the view.");
	return 0; /* not reached */
}

/* Read an output column. */
static void
read_output(ViewReader *reader, TargetEntry *entry)
{
	PoserViewForm *form = reader->form;
	PoserViewOutput *output = &form->outputs[form->noutputs++];
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(reader->view), entry->resno - 1);
	Node *node = (Node *) entry->expr;

	output->name = pstrdup(NameStr(att->attname));
	output->type = att->atttypid;
	output->typmod = att->atttypmod;
	output->collation = att->attcollation;
	if (is_column(strip_relabel(node), reader->parent))
		output->parent = ((Var *) strip_relabel(node))->varattno;
	else if (IsA(node, Aggref))
		output->aggregate = read_aggregate(reader, (Aggref *) node, output->name);
	else if (IsA(node, CoalesceExpr) && contain_aggs_of_level(node, 0))
		output->aggregate = read_coalesce(reader, (CoalesceExpr *) node, output);
	else
		refuse(reader, psprintf("Output \"%s\" is neither a column of \"%s\" nor count or sum: %s.", output->name, alias_of(reader, reader->parent), expression_text(reader, node)),
			   contain_aggs_of_level(node, 0)
				   ? "Compute it in a query over the view, from the counts and sums."
				   : "Compute it in a query over the view.");
}

/* Refuse what no query of a maintained view can have. */
static void
check_clauses(ViewReader *reader)
{
	Query *query = reader->query;
	const char *over = "Put it into a query over the view.";

	if (query->setOperations != NULL)
		refuse(reader, "The query is a set operation.", NULL);
	if (query->cteList != NIL)
		refuse(reader, psprintf("The query has a WITH query: \"%s\".", linitial_node(CommonTableExpr, query->cteList)->ctename), NULL);
	/* WHERE can be the condition of a join without JOIN, which read_join() refuses with a better hint */
	if (query->jointree->quals != NULL && list_length(query->jointree->fromlist) == 1)
		refuse(reader, psprintf("The query has WHERE: %s.", expression_text(reader, query->jointree->quals)),
			   "Put a condition of the counted rows into ON or FILTER, and one of the view's rows into a query over the view.");
	if (query->groupingSets != NIL)
		refuse(reader, "GROUP BY has grouping sets.", NULL);
	if (query->havingQual != NULL)
		refuse(reader, psprintf("The query has HAVING: %s.", expression_text(reader, flatten(reader, query->havingQual))), over);
	if (query->distinctClause != NIL)
		refuse(reader, query->hasDistinctOn ? "The query has DISTINCT ON." : "The query has DISTINCT.", over);
	if (query->hasWindowFuncs || query->windowClause != NIL)
		refuse(reader, "The query has a window function.", over);
	if (query->sortClause != NIL)
		refuse(reader, "The query has ORDER BY.", over);
	if (query->limitOffset != NULL || query->limitCount != NULL)
		refuse(reader, query->limitCount != NULL ? "The query has LIMIT." : "The query has OFFSET.", over);
	if (query->rowMarks != NIL)
		refuse(reader, "The query locks rows.", over);
	if (query->hasTargetSRFs)
		refuse(reader, "The output has a set-returning function.", over);
}

/* Returns the number of amounts that the bookkeeping keeps for a form. */
static int
count_amounts(const PoserViewForm *form)
{
	int amounts = 0;

	for (int i = 0; i < form->naggregates; i++)
		amounts += form->aggregates[i].kind == POSER_COUNT ? 1 : 2;
	return amounts;
}

/* Read the query of a view, see poser_view_read().  Errors name the view "named". */
static PoserViewForm *
read_view(Oid view, Oid named, bool mutable_too)
{
	ViewReader reader = {.view = relation_open(view, AccessShareLock), .name = get_rel_name(named), .mutable_too = mutable_too};
	PoserViewForm *form = palloc0(sizeof(PoserViewForm));
	Node *on;
	Query *query;
	ListCell *lc;

	if (reader.view->rd_rel->relkind != RELKIND_VIEW)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot maintain relation \"%s\"", RelationGetRelationName(reader.view)),
				 errdetail("It is not a view.")));
	query = reader.query = copyObject(get_view_query(reader.view));
	reader.deparse = make_deparse_context(query);
	reader.form = form;
	form->view = view;
	form->owner = reader.view->rd_rel->relowner;

	check_clauses(&reader);
	on = read_join(&reader);
	form->parent = rt_fetch(reader.parent, query->rtable)->relid;
	form->child = rt_fetch(reader.child, query->rtable)->relid;
	reader.parent_rel = relation_open(form->parent, AccessShareLock);
	reader.child_rel = relation_open(form->child, AccessShareLock);

	form->condition = read_on(&reader, on, NULL);
	if (form->nkeys == 0)
		refuse(&reader, psprintf("ON does not compare a foreign key of \"%s\" with the key of \"%s\".", alias_of(&reader, reader.child), alias_of(&reader, reader.parent)),
			   "ON must compare all columns of a foreign key, and no others.");
	query->targetList = (List *) flatten(&reader, (Node *) query->targetList);
	read_groups(&reader);
	form->aggregates = palloc0(Max(list_length(query->targetList), 1) * sizeof(PoserViewAggregate));
	form->outputs = palloc0(Max(list_length(query->targetList), 1) * sizeof(PoserViewOutput));
	foreach(lc, query->targetList)
	{
		TargetEntry *entry = lfirst(lc);

		if (!entry->resjunk)
			read_output(&reader, entry);
	}
	if (form->naggregates == 0)
		refuse(&reader, "The output has no count and no sum.", NULL);
	if (count_amounts(form) > MAX_AMOUNTS)
		refuse(&reader, "The output has too many counts and sums.", "A view can have 800 counts, and a sum takes the place of two.");

	relation_close(reader.child_rel, AccessShareLock);
	relation_close(reader.parent_rel, AccessShareLock);
	relation_close(reader.view, AccessShareLock);
	return form;
}

/*
 * Returns what the query of a view says, in the current memory context.  Raises an error
 * unless the query has the form.  It does not look at what can change while the view is
 * maintained: the tables, and whether functions are immutable.  So a writer of a
 * maintained view gets no error from it.
 */
PoserViewForm *
poser_view_read(Oid view)
{
	return read_view(view, view, true);
}

/*
 * As poser_view_read(), and raises an error if the view cannot be maintained at present.  "view" is
 * the view that the user knows: "query" itself, or the maintained view with this query.
 */
PoserViewForm *
poser_view_form(Oid query, Oid view)
{
	PoserViewForm *form = read_view(query, view, false);
	const char *hint;
	const char *problem = poser_view_tables_problem(form, &hint);

	if (problem != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot maintain view \"%s\"", get_rel_name(view)),
				 errdetail_internal("%s", problem),
				 hint != NULL ? errhint("%s", hint) : 0));
	return form;
}
