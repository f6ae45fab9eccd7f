/*
 * maintained.c
 *	  Which relations belong to a maintained view.
 *
 * The relations of the maintained view customer_orders are bound by triggers on its table
 * of counts and sums, the bookkeeping:
 *
 *	CREATE CONSTRAINT TRIGGER poser_maintained_child AFTER UPDATE OR DELETE ON customer_orders_maintained
 *		FROM orders FOR EACH ROW EXECUTE FUNCTION poser_maintained_by(...)
 *
 * The name of such a trigger says what the relation behind FROM is: the view, the view with
 * its query, the view that shows the bookkeeping, the parent or the child.  The server
 * stores this relation as an OID, makes the trigger depend on it, and has both in a dump.
 * So a binding follows renames, is found by pg_depend, and goes when its relation is
 * dropped.
 *
 * The binding of a partitioned table has arguments:
 *
 *	[0]  what identifies the cluster, the database, the bookkeeping and the table
 *	and for each partition, of all levels:
 *	[1 + 2n]  the OID of its trigger poser_maintain_row
 *	[2 + 2n]  its qualified name
 *
 * The server makes that trigger when a partition is made or attached, and drops it when the
 * partition is detached.  So in the database where the binding was made, the OIDs show that
 * all partitions are those that were counted, and that none was detached in between.  Elsewhere,
 * after a restore or pg_upgrade, the names are compared.  There the server has made the
 * trigger of a partition together with that of the table, unless the partition was attached
 * afterwards.  Otherwise a partition can have rows that were never counted, and the view counts.
 *
 * The owner can replace the query, and if a condition uses the child's row as a whole, what it
 * says can change with the columns.  So the binding of the query has arguments:
 *
 *	[0]  what identifies the cluster, the database, the bookkeeping and the child
 *	[1]  the transaction that wrote the query
 *	[2]  "query"
 *	and for each column of the child, if a condition uses whole rows:
 *	[1 + 2n]  the transaction that last changed the column's definition
 *	[2 + 2n]  its name and type
 *
 * They are compared in the same way.  Elsewhere nothing of this may be newer than the binding,
 * which a restore makes last.
 *
 * A binding needs no consent of the table's owner beyond the one that the server asks for:
 * the role that makes it needs the privilege TRIGGER on the table behind FROM, as for a
 * trigger of its own on that table.
 *
 * The invariant: rows of a bookkeeping are changed only by Poser itself, which writes past
 * triggers.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/transam.h"
#include "access/xlog.h"
#include "catalog/indexing.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_rewrite.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "parser/parsetree.h"
#include "replication/logicalworker.h"
#include "rewrite/rewriteHandler.h"
#include "rewrite/rewriteSupport.h"
#include "storage/bufmgr.h"
#include "storage/smgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "counts/counts_internal.h"

PG_FUNCTION_INFO_V1(poser_maintained_by);

/* What the binding of the query has as the name of the query itself.  It is the same wherever the query is restored. */
#define QUERY_ARGUMENT "query"

/* What the bindings are called, and where PoserMaintained has their relations. */
static const struct
{
	const char *name;
	size_t offset;
	bool is_view;
} bindings[] = {{POSER_BINDING_VIEW, offsetof(PoserMaintained, view), true},
				{POSER_BINDING_QUERY, offsetof(PoserMaintained, query), true},
				{POSER_BINDING_SERVED, offsetof(PoserMaintained, served), true},
				{POSER_BINDING_PARENT, offsetof(PoserMaintained, parent), false},
				{POSER_BINDING_CHILD, offsetof(PoserMaintained, child), false}};

/*
 * Finding bindings
 */

/* A user can make a binding for any relation.  Is this one of the kind that the binding is for? */
static bool
is_of_kind(Oid relid, bool is_view)
{
	char relkind = get_rel_relkind(relid);

	return is_view ? relkind == RELKIND_VIEW : relkind == RELKIND_RELATION || relkind == RELKIND_PARTITIONED_TABLE;
}

/*
 * Describe the maintained view of this bookkeeping.  What was dropped is InvalidOid.  Returns
 * false if the relation has no trigger of the function.
 */
static bool
describe_bookkeeping(Oid relid, Oid function, PoserMaintained *result)
{
	List *triggers = poser_triggers_of_function(relid, function);
	ListCell *lc;

	memset(result, 0, sizeof(PoserMaintained));
	result->bookkeeping = relid;
	foreach(lc, triggers)
	{
		Form_pg_trigger form = (Form_pg_trigger) GETSTRUCT((HeapTuple) lfirst(lc));

		for (int i = 0; i < lengthof(bindings); i++)
			if (OidIsValid(form->tgconstrrelid) && strcmp(NameStr(form->tgname), bindings[i].name) == 0 &&
				is_of_kind(form->tgconstrrelid, bindings[i].is_view))
				*(Oid *) ((char *) result + bindings[i].offset) = form->tgconstrrelid;
	}
	/* nor is one relation two of these: to drop one of them would drop the other */
	if (result->query == result->view)
		result->query = InvalidOid;
	if (result->served == result->view || result->served == result->query)
		result->served = InvalidOid;
	if (result->parent == relid)
		result->parent = InvalidOid;
	if (result->child == relid)
		result->child = InvalidOid;
	return triggers != NIL;
}

/*
 * Returns the tables that have a trigger of the function which depends on this object, as a
 * sorted list of OIDs.  The object is the function itself, or a relation behind FROM.
 */
static List *
find_bookkeepings(Oid classid, Oid objid, Oid function)
{
	List *result = NIL;
	ListCell *lc;

	foreach(lc, poser_triggers_depending_on(classid, objid, function))
	{
		Form_pg_trigger form = (Form_pg_trigger) GETSTRUCT((HeapTuple) lfirst(lc));

		if (classid != RelationRelationId || form->tgconstrrelid == objid)
			result = lappend_oid(result, form->tgrelid);
	}
	list_sort(result, list_oid_cmp);
	list_deduplicate_oid(result);
	return result;
}

/* Returns a description of each of these bookkeepings, as a list of PoserMaintained. */
static List *
describe_all(List *bookkeepings, Oid function)
{
	List *result = NIL;
	ListCell *lc;

	foreach(lc, bookkeepings)
	{
		PoserMaintained *maintained = palloc(sizeof(PoserMaintained));

		if (describe_bookkeeping(lfirst_oid(lc), function, maintained))
			result = lappend(result, maintained);
	}
	list_free(bookkeepings);
	return result;
}

/* All maintained views of this schema's extension, as a list of PoserMaintained.  Nothing is locked. */
List *
poser_maintained_list(Oid nspid)
{
	Oid function = poser_trigger_function("poser_maintained_by", nspid);

	if (!OidIsValid(function))
		return NIL;
	return describe_all(find_bookkeepings(ProcedureRelationId, function, function), function);
}

/*
 * The maintained views that have this table, or a table that it is a partition of, as parent
 * or as child, as a list of PoserMaintained.  Nothing is locked.
 */
List *
poser_maintained_of_table(Oid relid, Oid nspid)
{
	Oid function = poser_trigger_function("poser_maintained_by", nspid);
	List *tables = list_make1_oid(relid);
	List *result = NIL;
	ListCell *lc;

	if (!OidIsValid(function))
		return NIL;
	if (get_rel_relispartition(relid))
		tables = list_concat(tables, get_partition_ancestors(relid));
	foreach(lc, tables)
	{
		ListCell *found;

		foreach(found, describe_all(find_bookkeepings(RelationRelationId, lfirst_oid(lc), function), function))
		{
			PoserMaintained *maintained = lfirst(found);

			if (maintained->parent == lfirst_oid(lc) || maintained->child == lfirst_oid(lc))
				result = lappend(result, maintained);
		}
	}
	list_free(tables);
	return result;
}

/* Begin a scan of the dependencies of an object. */
static SysScanDesc
begin_dependencies(Relation depend, Oid classid, Oid objid)
{
	ScanKeyData keys[2];

	ScanKeyInit(&keys[0], Anum_pg_depend_classid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(classid));
	ScanKeyInit(&keys[1], Anum_pg_depend_objid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(objid));
	return systable_beginscan(depend, DependDependerIndexId, true, NULL, lengthof(keys), keys);
}

/* Returns the objects of this catalog that the query of a view uses, as a list of OIDs.  The view itself is left out. */
static List *
rule_uses(Oid view, Oid classid)
{
	Oid rule = GetSysCacheOid2(RULERELNAME, Anum_pg_rewrite_oid, ObjectIdGetDatum(view), CStringGetDatum(ViewSelectRuleName));
	Relation depend = table_open(DependRelationId, AccessShareLock);
	SysScanDesc scan = begin_dependencies(depend, RewriteRelationId, rule);
	List *result = NIL;
	HeapTuple tuple;

	while (OidIsValid(rule) && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_depend dependency = (Form_pg_depend) GETSTRUCT(tuple);

		if (dependency->refclassid == classid && dependency->refobjid != view)
			result = list_append_unique_oid(result, dependency->refobjid);
	}
	systable_endscan(scan);
	table_close(depend, AccessShareLock);
	return result;
}

/* Returns the relations that the query of a view uses, as a list of OIDs.  The view itself is left out. */
List *
poser_view_uses(Oid view)
{
	return rule_uses(view, RelationRelationId);
}

/*
 * Find the relations of a maintained view by its query, not by its bindings, which can have been
 * dropped.  Returns false if the view does not read a bookkeeping.
 */
static bool
find_by_query(Oid view, Oid function, PoserMaintained *result)
{
	ListCell *lc;

	foreach(lc, poser_view_uses(view))
	{
		Oid served = lfirst_oid(lc);
		List *relations = get_rel_relkind(served) == RELKIND_VIEW ? poser_view_uses(served) : NIL;

		if (list_length(relations) != 2)
			continue;
		for (int i = 0; i < 2; i++)
		{
			/* a view can read relations of any owner */
			if (get_rel_relkind(list_nth_oid(relations, 1 - i)) != RELKIND_VIEW || !poser_have_one_owner(view, served) ||
				!poser_have_one_owner(view, list_nth_oid(relations, i)) ||
				!poser_have_one_owner(view, list_nth_oid(relations, 1 - i)) ||
				!describe_bookkeeping(list_nth_oid(relations, i), function, result))
				continue;
			result->view = view;
			result->served = served;
			result->query = list_nth_oid(relations, 1 - i);
			return true;
		}
	}
	return false;
}

/*
 * Find the maintained view that a relation belongs to, as the view, its query, the view that
 * shows the bookkeeping, or the bookkeeping.  Returns false if there is none.
 *
 * Another role that may make triggers for the relation can have bound a table of its own to
 * it.  So a bookkeeping of the relation's owner comes first.
 */
bool
poser_maintained_find(Oid relid, Oid nspid, PoserMaintained *result)
{
	PoserMaintained candidate;
	Oid function = poser_trigger_function("poser_maintained_by", nspid);
	bool found = false;
	ListCell *lc;

	if (!OidIsValid(function))
		return false;
	if (describe_bookkeeping(relid, function, result))
		return true;
	foreach(lc, find_bookkeepings(RelationRelationId, relid, function))
	{
		if (!describe_bookkeeping(lfirst_oid(lc), function, &candidate) ||
			(candidate.view != relid && candidate.query != relid && candidate.served != relid))
			continue;
		if (!found || (!poser_have_one_owner(result->bookkeeping, relid) && poser_have_one_owner(candidate.bookkeeping, relid)))
			*result = candidate;
		found = true;
	}
	if (!found)
		memset(result, 0, sizeof(PoserMaintained));
	/* a binding can have been dropped */
	if ((!found || (result->view == relid && (!OidIsValid(result->query) || !OidIsValid(result->served)))) &&
		get_rel_relkind(relid) == RELKIND_VIEW && find_by_query(relid, function, &candidate))
	{
		*result = candidate;
		found = true;
	}
	return found;
}

/* Raises an error unless the relation is there, and the current user has the rights of its owner. */
void
poser_maintained_check_owner(Oid relid)
{
	Relation rel = try_relation_open(relid, AccessShareLock);

	if (rel == NULL)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_TABLE),
				errmsg("relation with OID %u does not exist", relid));
	poser_check_owner(relid);
	relation_close(rel, AccessShareLock);
}

/* Is the view there, with all that counting its rows needs?  Writers do not count for a view that was dropped. */
bool
poser_maintained_is_whole(const PoserMaintained *maintained)
{
	return OidIsValid(maintained->view) && OidIsValid(maintained->query) && OidIsValid(maintained->parent) &&
		   OidIsValid(maintained->child);
}

/* Does the view read the bookkeeping?  If not, it was never given the query that does, or a user has replaced it. */
bool
poser_maintained_is_switched(const PoserMaintained *maintained)
{
	return OidIsValid(maintained->view) && OidIsValid(maintained->query) && OidIsValid(maintained->served) &&
		   list_member_oid(poser_view_uses(maintained->view), maintained->served);
}

/*
 * Has the view that shows the bookkeeping the query that Poser gives it?
 *
 *	SELECT all columns FROM bookkeeping WHERE poser_serves(query)
 */
static bool
is_gate(Query *query, int ncolumns, const PoserMaintained *maintained, Oid nspid)
{
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

	/* the condition; a query without one has NULL */
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
	return column == ncolumns;
}

/* As is_gate(), of the view itself. */
bool
poser_maintained_is_gated(const PoserMaintained *maintained, Oid nspid)
{
	Relation served = relation_open(maintained->served, AccessShareLock);
	bool result = served->rd_rel->relkind == RELKIND_VIEW &&
				  is_gate(get_view_query(served), RelationGetNumberOfAttributes(served), maintained, nspid);

	relation_close(served, AccessShareLock);
	return result;
}

/*
 * Returns what the query of a maintained view says, as poser_view_read() does.  Raises an error
 * if its tables are not those that the bindings name: the triggers are on these, and rows of
 * another table have other columns.
 */
PoserViewForm *
poser_maintained_read(const PoserMaintained *maintained)
{
	PoserViewForm *form = poser_view_read(maintained->query);

	if (form->parent != maintained->parent || form->child != maintained->child)
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("view \"%s\" has other tables", get_rel_name(maintained->query)),
				errhint("poser_check() says what was changed."));
	return form;
}

/*
 * Raises an error unless the relations of a maintained view have one owner.  A role can bind
 * relations of another role to its own ones: it needs only the privilege TRIGGER for it.
 * What Poser does with a relation it does as the relation's owner.  So whoever has the rights
 * of one owner must not make it do something as another one.
 */
void
poser_maintained_check_owners(const PoserMaintained *maintained, bool of_view)
{
	const Oid relids[] = {maintained->query, maintained->served, of_view ? maintained->view : InvalidOid};

	for (int i = 0; i < lengthof(relids); i++)
		if (OidIsValid(relids[i]) && !poser_have_one_owner(relids[i], maintained->bookkeeping))
			ereport(ERROR,
					errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					errmsg("view \"%s\" and table \"%s\" have different owners", get_rel_name(relids[i]),
						   get_rel_name(maintained->bookkeeping)),
					errdetail("All relations of a maintained view must have one owner."),
					errhint("ALTER VIEW ... OWNER TO and ALTER TABLE ... OWNER TO change the owner."));
}

/*
 * Partitions
 */

/* The first argument of a binding of this table that is made in this database. */
static char *
binding_identity(Oid bookkeeping, Oid relid)
{
	return psprintf(UINT64_FORMAT ".%u.%u.%u", GetSystemIdentifier(), MyDatabaseId, bookkeeping, relid);
}

/* Returns the trigger for rows that the server has cloned to a partition; InvalidOid if there is none. */
static Oid
cloned_trigger(Oid relid)
{
	HeapTuple tuple = poser_trigger_of_name(relid, POSER_ROW_TRIGGER);
	Form_pg_trigger form;

	if (!HeapTupleIsValid(tuple))
		return InvalidOid;
	form = (Form_pg_trigger) GETSTRUCT(tuple);
	return OidIsValid(form->tgparentid) ? form->oid : InvalidOid;
}

/* For list_sort(): by name. */
static int
compare_names(const ListCell *a, const ListCell *b)
{
	return strcmp(lfirst(a), lfirst(b));
}

/*
 * Returns the arguments that the binding of a relation should have, as a list of strings
 * (char *).  Without a lock on the relation and its partitions they can be out of date.
 */
List *
poser_maintained_arguments(Oid bookkeeping, Oid relid)
{
	List *result;
	ListCell *lc;

	if (get_rel_relkind(relid) != RELKIND_PARTITIONED_TABLE)
		return NIL;
	result = list_make1(binding_identity(bookkeeping, relid));
	foreach(lc, find_all_inheritors(relid, NoLock, NULL))
	{
		Oid partition = lfirst_oid(lc);
		char *name = get_rel_name(partition);

		/* it can be dropped at any time unless the caller has locked it */
		if (partition == relid || name == NULL)
			continue;
		result = lappend(result, psprintf("%u", cloned_trigger(partition)));
		result = lappend(result, quote_qualified_identifier(get_namespace_name_or_temp(get_rel_namespace(partition)), name));
	}
	return result;
}

/* Returns every second argument, beginning with this one, as a sorted list of strings (char *). */
static List *
every_second(const List *arguments, int first)
{
	List *result = NIL;

	for (int i = first; i < list_length(arguments); i += 2)
		result = lappend(result, list_nth(arguments, i));
	list_sort(result, compare_names);
	return result;
}

/* Are two lists of strings (char *) equal? */
static bool
equal_strings(const List *a, const List *b)
{
	ListCell *la;
	ListCell *lb;

	if (list_length(a) != list_length(b))
		return false;
	forboth(la, a, lb, b)
	{
		if (strcmp(lfirst(la), lfirst(lb)) != 0)
			return false;
	}
	return true;
}

/* Is the pair with this name the same in two lists of arguments? */
static bool
has_same_pair(const List *a, const List *b, const char *name)
{
	for (int i = 2; i < list_length(a); i += 2)
		if (strcmp(list_nth(a, i), name) == 0)
			for (int j = 2; j < list_length(b); j += 2)
				if (strcmp(list_nth(b, j), name) == 0)
					return strcmp(list_nth(a, i - 1), list_nth(b, j - 1)) == 0;
	return false;
}

/*
 * Which of the arguments of a binding are compared: 1 the OIDs, 2 the names, 0 if they are not
 * those of a partitioned table.  "arguments" and "present" are lists of strings (char *).
 */
static int
compared_arguments(const List *arguments, const List *present)
{
	if (arguments == NIL || present == NIL || list_length(arguments) % 2 == 0)
		return 0;
	return strcmp(linitial(arguments), linitial(present)) == 0 ? 1 : 2;
}

/*
 * Do the arguments of a binding say what is there?  "newer" are the names of what was made or
 * changed in this database after a restore.
 */
static bool
says_what_is_there(const List *arguments, const List *present, const List *newer)
{
	int which = compared_arguments(arguments, present);
	ListCell *lc;

	if (which == 0)
		return arguments == NIL && present == NIL;
	if (!equal_strings(every_second(arguments, which), every_second(present, which)))
		return false;
	foreach(lc, which == 2 ? newer : NIL)
	{
		/* a copy of the database has the same pair */
		if (!has_same_pair(arguments, present, lfirst(lc)))
			return false;
	}
	return true;
}

/*
 * Returns the transaction that made a trigger; invalid if the trigger is gone.  Its tuple can
 * have another one, because the trigger was enabled or disabled.
 */
static TransactionId
trigger_xid(Oid trigger)
{
	Relation depend = table_open(DependRelationId, AccessShareLock);
	SysScanDesc scan = begin_dependencies(depend, TriggerRelationId, trigger);
	HeapTuple tuple = systable_getnext(scan);
	TransactionId result = HeapTupleIsValid(tuple) ? HeapTupleHeaderGetRawXmin(tuple->t_data) : InvalidTransactionId;

	systable_endscan(scan);
	table_close(depend, AccessShareLock);
	return result;
}

/* Returns the transaction that made the triggers of a table; invalid if they are gone. */
static TransactionId
triggers_xid(Oid relid)
{
	HeapTuple tuple = poser_trigger_of_name(relid, POSER_ROW_TRIGGER);

	return HeapTupleIsValid(tuple) ? trigger_xid(((Form_pg_trigger) GETSTRUCT(tuple))->oid) : InvalidTransactionId;
}

/* Returns the names of the partitions that were attached after the table has got its triggers, as a list of strings (char *). */
static List *
newer_partitions(Oid relid, const List *present)
{
	TransactionId xid = triggers_xid(relid);
	List *result = NIL;

	for (int i = 2; i < list_length(present); i += 2)
		if (trigger_xid(atooid(list_nth(present, i - 1))) != xid)
			result = lappend(result, list_nth(present, i));
	return result;
}

/* Do the arguments of a table's binding name the partitions that are there? */
static bool
arguments_match(const List *arguments, Oid bookkeeping, Oid relid)
{
	List *present = poser_maintained_arguments(bookkeeping, relid);

	return says_what_is_there(arguments, present,
							  compared_arguments(arguments, present) == 2 ? newer_partitions(relid, present) : NIL);
}

/* Is a string (char *) in a list of such? */
static bool
has_string(const List *list, const char *string)
{
	ListCell *lc;

	foreach(lc, list)
	{
		if (strcmp(lfirst(lc), string) == 0)
			return true;
	}
	return false;
}

/*
 * Was nothing ever written into a table?  Then it has its first file, which is empty.  TRUNCATE
 * gives it another one.  VACUUM can make the first one empty again, but it leaves a visibility map
 * and the number of rows.
 */
static bool
has_new_file(Oid relid)
{
	Relation rel = try_relation_open(relid, AccessShareLock);
	bool result;

	if (rel == NULL)
		return true;
	result = rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE ||
			 (rel->rd_rel->relkind == RELKIND_RELATION && RelationGetNumberOfBlocks(rel) == 0 && relation_file(rel) == relid &&
			  rel->rd_rel->reltuples < 0 && !smgrexists(RelationGetSmgr(rel), VISIBILITYMAP_FORKNUM));
	relation_close(rel, AccessShareLock);
	return result;
}

/*
 * Was nothing ever written into a table and its partitions?  Then no change of it was missed.
 * The answer can be out of date unless the caller has locked them against writers.
 */
bool
poser_maintained_is_untouched(Oid relid)
{
	ListCell *lc;

	foreach(lc, find_all_inheritors(relid, NoLock, NULL))
	{
		if (!has_new_file(lfirst_oid(lc)))
			return false;
	}
	return true;
}

/* What names a partition in the arguments of a binding: with "which" as of compared_arguments(). */
static char *
partition_argument(Oid relid, int which)
{
	if (which == 1)
		return psprintf("%u", cloned_trigger(relid));
	return quote_qualified_identifier(get_namespace_name_or_temp(get_rel_namespace(relid)), get_rel_name(relid));
}

/*
 * Find the partitions of a table, of all levels, that these arguments of its binding do not name.
 * Returns false if a partition that they name is not there, or is another one now, or if they
 * are not those of a partitioned table.
 */
static bool
find_unbound(const List *arguments, Oid bookkeeping, Oid relid, List **unbound)
{
	List *present = poser_maintained_arguments(bookkeeping, relid);
	int which = compared_arguments(arguments, present);
	List *bound;
	List *there;
	ListCell *lc;

	*unbound = NIL;
	if (which == 0)
		return false;
	bound = every_second(arguments, which);
	there = every_second(present, which);
	foreach(lc, bound)
	{
		if (!has_string(there, lfirst(lc)))
			return false;
	}
	foreach(lc, which == 2 ? newer_partitions(relid, present) : NIL)
	{
		if (has_string(bound, lfirst(lc)) && !has_same_pair(arguments, present, lfirst(lc)))
			return false;
	}
	foreach(lc, find_all_inheritors(relid, NoLock, NULL))
	{
		Oid partition = lfirst_oid(lc);

		if (partition != relid && get_rel_name(partition) != NULL && !has_string(bound, partition_argument(partition, which)))
			*unbound = lappend_oid(*unbound, partition);
	}
	return true;
}

/*
 * After a restore: was a partition attached after the table has got its triggers?  The binding
 * does not name it, even if it has the name of one that was renamed.  A copy of the database
 * has the OIDs that the binding has.
 */
static bool
came_later(const List *arguments, Oid relid, Oid partition)
{
	return trigger_xid(cloned_trigger(partition)) != triggers_xid(relid) &&
		   !has_string(every_second(arguments, 1), partition_argument(partition, 1));
}

/* Returns the partitions of a table, of all levels, that came_later(), as a list of OIDs. */
static List *
find_later(const List *arguments, Oid relid)
{
	List *result = NIL;
	ListCell *lc;

	foreach(lc, find_all_inheritors(relid, NoLock, NULL))
	{
		if (lfirst_oid(lc) != relid && came_later(arguments, relid, lfirst_oid(lc)))
			result = lappend_oid(result, lfirst_oid(lc));
	}
	return result;
}

/*
 * The partitions of a table are not those that its binding names.  Can they have rows that were
 * not counted, or lack rows that were?  "arguments" are those of the binding.
 */
static bool
arguments_missed(const List *arguments, Oid bookkeeping, Oid relid)
{
	List *unbound;
	ListCell *lc;

	if (!find_unbound(arguments, bookkeeping, relid, &unbound))
		return true;
	foreach(lc, unbound)
	{
		if (!poser_maintained_is_untouched(lfirst_oid(lc)))
			return true;
	}
	return false;
}

/* Find a binding.  Returns the relation behind FROM, or InvalidOid if there is no binding.  *arguments gets its arguments. */
static Oid
find_binding(Oid bookkeeping, const char *name, List **arguments)
{
	HeapTuple tuple = poser_trigger_of_name(bookkeeping, name);
	Form_pg_trigger form;
	bool isnull;
	char *argument;

	*arguments = NIL;
	if (!HeapTupleIsValid(tuple))
		return InvalidOid;
	form = (Form_pg_trigger) GETSTRUCT(tuple);
	argument = VARDATA(DatumGetByteaPCopy(poser_trigger_attribute(tuple, Anum_pg_trigger_tgargs, &isnull)));
	for (int i = 0; i < form->tgnargs; i++)
	{
		*arguments = lappend(*arguments, argument);
		argument += strlen(argument) + 1;
	}
	return form->tgconstrrelid;
}

/*
 * Are the partitions that the parent and the child of a maintained view have now those that were
 * counted?  True if the tables are not partitioned.  False if a binding is missing.
 */
bool
poser_maintained_partitions_match(const PoserMaintained *maintained)
{
	const char *const names[] = {POSER_BINDING_PARENT, POSER_BINDING_CHILD};

	for (int i = 0; i < lengthof(names); i++)
	{
		List *arguments;
		Oid relid = find_binding(maintained->bookkeeping, names[i], &arguments);

		if (!OidIsValid(relid) || !arguments_match(arguments, maintained->bookkeeping, relid))
			return false;
	}
	return true;
}

/*
 * Returns the partitions of the child of a maintained view whose rows writers must not count: those
 * that came after the view was maintained.  Such a partition can be dropped or detached again, and
 * then its binding names the partitions that are there.  With the rows of another one in the counts,
 * the view would be wrong.
 *
 * A partition that the binding names can be gone.  Then nothing is left out, because the counts
 * must be made anew.  But after a restore it can have been renamed, and may get its name back.  So
 * then all partitions are counted except those that came_later().
 *
 * "relid" is the child or a partition of it.  Tables with rows are returned: itself, or those below
 * it.  Without a lock on the child the result can be out of date.
 */
List *
poser_maintained_uncounted(const PoserMaintained *maintained, Oid relid)
{
	List *identity = list_make1(binding_identity(maintained->bookkeeping, maintained->child));
	List *arguments;
	List *unbound;
	List *below;
	List *result = NIL;
	int which;
	ListCell *lc;

	if (find_binding(maintained->bookkeeping, POSER_BINDING_CHILD, &arguments) != maintained->child)
		return NIL;
	which = compared_arguments(arguments, identity);
	/* usually a partition is bound, and need not be compared with the others */
	if (which == 0 || (get_rel_relkind(relid) == RELKIND_RELATION &&
					   has_string(every_second(arguments, which), partition_argument(relid, which)) &&
					   (which == 1 || !came_later(arguments, maintained->child, relid))))
		return NIL;
	if (arguments_match(arguments, maintained->bookkeeping, maintained->child))
		return NIL;
	if (!find_unbound(arguments, maintained->bookkeeping, maintained->child, &unbound))
		unbound = which == 1 ? NIL : find_later(arguments, maintained->child);
	below = find_all_inheritors(relid, NoLock, NULL);
	foreach(lc, unbound)
	{
		if (get_rel_relkind(lfirst_oid(lc)) == RELKIND_RELATION && list_member_oid(below, lfirst_oid(lc)))
			result = lappend_oid(result, lfirst_oid(lc));
	}
	return result;
}

/* Returns the transaction that wrote the query of a view; invalid if the view is gone. */
static TransactionId
rule_xid(Oid view)
{
	HeapTuple tuple = SearchSysCache2(RULERELNAME, ObjectIdGetDatum(view), CStringGetDatum(ViewSelectRuleName));
	TransactionId result = InvalidTransactionId;

	if (HeapTupleIsValid(tuple))
	{
		result = HeapTupleHeaderGetRawXmin(tuple->t_data);
		ReleaseSysCache(tuple);
	}
	return result;
}

/*
 * Returns the arguments that the binding of the query should have.  "whole_row" says whether a
 * condition uses the child's row as a whole.  Without a lock on the query and the child they
 * can be out of date.
 */
List *
poser_maintained_query_arguments(const PoserMaintained *maintained, Oid child, bool whole_row)
{
	List *result = list_make3(binding_identity(maintained->bookkeeping, child), psprintf("%u", rule_xid(maintained->query)),
							  QUERY_ARGUMENT);
	HeapTuple relation = SearchSysCache1(RELOID, ObjectIdGetDatum(child));
	int ncolumns = 0;

	/* it can be dropped at any time unless the caller has locked it */
	if (HeapTupleIsValid(relation))
	{
		ncolumns = whole_row ? ((Form_pg_class) GETSTRUCT(relation))->relnatts : 0;
		ReleaseSysCache(relation);
	}
	for (int i = 1; i <= ncolumns; i++)
	{
		HeapTuple tuple = SearchSysCache2(ATTNUM, ObjectIdGetDatum(child), Int16GetDatum(i));
		Form_pg_attribute form;

		if (!HeapTupleIsValid(tuple))
			continue;
		form = (Form_pg_attribute) GETSTRUCT(tuple);
		if (!form->attisdropped)
		{
			result = lappend(result, psprintf("%u", HeapTupleHeaderGetRawXmin(tuple->t_data)));
			result = lappend(result, psprintf("%s %s", quote_identifier(NameStr(form->attname)),
											  format_type_extended(form->atttypid, form->atttypmod,
																   FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY)));
		}
		ReleaseSysCache(tuple);
	}
	return result;
}

/*
 * Returns the names of what the query's binding is about and what is newer than the binding, as
 * a list of strings (char *).
 *
 * If columns that are not grouped need the parent's primary key, a parallel restore can make the
 * query after the binding.  Such a query is left out unless "strict" is true.  A restore makes
 * other views before all triggers.
 */
static List *
newer_in_query(const PoserMaintained *maintained, const List *present, bool strict)
{
	HeapTuple tuple = poser_trigger_of_name(maintained->bookkeeping, POSER_BINDING_QUERY);
	TransactionId xid = HeapTupleIsValid(tuple) ? trigger_xid(((Form_pg_trigger) GETSTRUCT(tuple))->oid) : InvalidTransactionId;
	List *result = NIL;

	for (int i = 2; i < list_length(present); i += 2)
		if (TransactionIdFollows(strtoul(list_nth(present, i - 1), NULL, 10), xid) &&
			(i > 2 || strict || rule_uses(maintained->query, ConstraintRelationId) == NIL))
			result = lappend(result, list_nth(present, i));
	return result;
}

/*
 * Has a maintained view counted what its query says now?  It has not if the query was replaced, or
 * if a condition uses the child's row as a whole and the columns have changed.  False if the
 * binding is missing.  "strict": also false if this is not known after a restore.
 */
bool
poser_maintained_query_matches(const PoserMaintained *maintained, bool strict)
{
	List *arguments;
	List *present;

	if (find_binding(maintained->bookkeeping, POSER_BINDING_QUERY, &arguments) != maintained->query ||
		!OidIsValid(maintained->query))
		return false;
	present = poser_maintained_query_arguments(maintained, maintained->child, list_length(arguments) > 3);
	return says_what_is_there(arguments, present, newer_in_query(maintained, present, strict));
}

/* Was the query replaced since its binding was made?  Then the view is not served, and writers need not count. */
bool
poser_maintained_query_is_replaced(const PoserMaintained *maintained)
{
	List *arguments;
	List *present;

	(void) find_binding(maintained->bookkeeping, POSER_BINDING_QUERY, &arguments);
	if (list_length(arguments) < 3)
		return true;
	present = poser_maintained_query_arguments(maintained, maintained->child, false);
	return !says_what_is_there(list_truncate(arguments, 3), present, newer_in_query(maintained, present, false));
}

/* Returns the arguments that a binding has, NIL if it is missing. */
List *
poser_maintained_present_arguments(Oid bookkeeping, const char *binding)
{
	List *result;

	(void) find_binding(bookkeeping, binding, &result);
	return result;
}

/*
 * Was the binding of this name made in another database, or in another cluster?  Then only the
 * names in its arguments are compared, and the binding is as it should be if they match.
 */
bool
poser_maintained_bound_elsewhere(const PoserMaintained *maintained, const char *binding)
{
	List *arguments;
	Oid relid = find_binding(maintained->bookkeeping, binding, &arguments);

	/* that of the query has arguments about the child */
	if (strcmp(binding, POSER_BINDING_QUERY) == 0)
		relid = maintained->child;
	return arguments != NIL && strcmp(linitial(arguments), binding_identity(maintained->bookkeeping, relid)) != 0;
}

/*
 * A binding of a bookkeeping is not as it should be.  Can changes of the rows of this table
 * have been missed?  The table and its partitions are locked against writers, or the answer
 * can be out of date.
 */
bool
poser_maintained_missed(Oid bookkeeping, const char *binding, Oid relid)
{
	List *arguments;

	return find_binding(bookkeeping, binding, &arguments) != relid ||
		   (!arguments_match(arguments, bookkeeping, relid) && arguments_missed(arguments, bookkeeping, relid));
}

/*
 * The trigger
 */

/*
 * poser_maintained_by(identity, ...) returns trigger
 *
 * Before each row that is written into the bookkeeping, and before its TRUNCATE.  A data-only
 * restore and a subscription bring rows for which the triggers on the tables have counted
 * already, so these rows are skipped.  The bindings fire after a row, if the guard is disabled.
 */
Datum
poser_maintained_by(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = poser_check_trigger(fcinfo);
	Relation rel = trigdata->tg_relation;

	if (!TRIGGER_FIRED_BY_INSERT(trigdata->tg_event) && !IsLogicalWorker())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("counts and sums in table \"%s\" cannot be changed", RelationGetRelationName(rel)),
				 errdetail("Poser keeps them for a maintained view."),
				 errhint("poser_recount() corrects them, and poser_unmaintain() removes them.")));
	return PointerGetDatum(NULL);
}
