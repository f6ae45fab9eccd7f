/*
 * maintain_triggers.c
 *	  The triggers of maintained views: those on parents and children, which count, and those
 *	  on the bookkeeping, which bind it.
 *
 * A table has one set of triggers for all maintained views that it is a parent or a child
 * of.  Each partition has the set, too, because a statement on a partition fires only the
 * partition's triggers.  The triggers of the set have no arguments:
 *
 *	poser_maintain_before    BEFORE each statement
 *	poser_maintain_insert    AFTER INSERT, UPDATE and DELETE, with the statement's rows
 *	poser_maintain_update
 *	poser_maintain_delete
 *	poser_maintain_truncate  AFTER TRUNCATE
 *	poser_maintain_row       AFTER each row, where session_replication_role is replica: for rows of a
 *							 subscription the server fires no statement triggers; the server itself
 *							 clones this trigger to partitions
 *
 * A parent that is not partitioned and is not the child of another view needs the rows of an
 * update only if the update changes a key.  Its set has
 *
 *	poser_maintain_update    AFTER UPDATE, without rows
 *	poser_maintain_key       AFTER UPDATE of each row with another key
 *
 * instead of poser_maintain_update with rows.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "nodes/primnodes.h"
#include "optimizer/optimizer.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "counts/maintain_internal.h"

#define MAINTAIN_ROWS "poser_maintain_rows"

/* The triggers on each table and on each partition. */
static const PoserTriggerKind table_triggers[] = {
	{"poser_maintain_before", MAINTAIN_ROWS,
	 TRIGGER_TYPE_BEFORE | TRIGGER_TYPE_INSERT | TRIGGER_TYPE_UPDATE | TRIGGER_TYPE_DELETE | TRIGGER_TYPE_TRUNCATE,
	 "BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE", NULL, NULL, "STATEMENT", TRIGGER_FIRES_ALWAYS},
	{"poser_maintain_insert", MAINTAIN_ROWS, TRIGGER_TYPE_INSERT, "AFTER INSERT", NULL, "new_rows", "STATEMENT",
	 TRIGGER_FIRES_ON_ORIGIN},
	{"poser_maintain_delete", MAINTAIN_ROWS, TRIGGER_TYPE_DELETE, "AFTER DELETE", "old_rows", NULL, "STATEMENT",
	 TRIGGER_FIRES_ON_ORIGIN},
	{"poser_maintain_truncate", MAINTAIN_ROWS, TRIGGER_TYPE_TRUNCATE, "AFTER TRUNCATE", NULL, NULL, "STATEMENT",
	 TRIGGER_FIRES_ALWAYS}};

/* On each table, and cloned to its partitions. */
static const PoserTriggerKind row_trigger = {
	POSER_ROW_TRIGGER, MAINTAIN_ROWS, TRIGGER_TYPE_ROW | TRIGGER_TYPE_INSERT | TRIGGER_TYPE_UPDATE | TRIGGER_TYPE_DELETE,
	"AFTER INSERT OR UPDATE OR DELETE", NULL, NULL, "ROW", TRIGGER_FIRES_ON_REPLICA};

/* For updates: of a child or of a partitioned table. */
static const PoserTriggerKind update_trigger = {
	"poser_maintain_update", MAINTAIN_ROWS, TRIGGER_TYPE_UPDATE, "AFTER UPDATE", "old_rows", "new_rows", "STATEMENT",
	TRIGGER_FIRES_ON_ORIGIN};

/* For updates: of a table that is only a parent. */
static const PoserTriggerKind parent_update_trigger = {
	"poser_maintain_update", MAINTAIN_ROWS, TRIGGER_TYPE_UPDATE, "AFTER UPDATE", NULL, NULL, "STATEMENT",
	TRIGGER_FIRES_ON_ORIGIN};

/* The condition is key_condition(). */
static const PoserTriggerKind key_trigger = {
	"poser_maintain_key", MAINTAIN_ROWS, TRIGGER_TYPE_ROW | TRIGGER_TYPE_UPDATE, "AFTER UPDATE", NULL, NULL, "ROW",
	TRIGGER_FIRES_ON_ORIGIN, ""};

/* The triggers that bind the bookkeeping, in the order of binding_relations(). */
#define BINDING(name) \
	{ \
		name, "poser_maintained_by", TRIGGER_TYPE_ROW | TRIGGER_TYPE_UPDATE | TRIGGER_TYPE_DELETE, "AFTER UPDATE OR DELETE", \
			NULL, NULL, "ROW", TRIGGER_FIRES_ON_ORIGIN \
	}
static const PoserTriggerKind binding_triggers[] = {BINDING(POSER_BINDING_VIEW), BINDING(POSER_BINDING_QUERY),
													BINDING(POSER_BINDING_SERVED), BINDING(POSER_BINDING_PARENT),
													BINDING(POSER_BINDING_CHILD)};

/* The triggers that guard it. */
static const PoserTriggerKind guard_triggers[] = {
	{"poser_maintained_guard", "poser_maintained_by",
	 TRIGGER_TYPE_BEFORE | TRIGGER_TYPE_ROW | TRIGGER_TYPE_INSERT | TRIGGER_TYPE_UPDATE | TRIGGER_TYPE_DELETE,
	 "BEFORE INSERT OR UPDATE OR DELETE", NULL, NULL, "ROW", TRIGGER_FIRES_ALWAYS},
	{"poser_maintained_guard_truncate", "poser_maintained_by", TRIGGER_TYPE_BEFORE | TRIGGER_TYPE_TRUNCATE,
	 "BEFORE TRUNCATE", NULL, NULL, "STATEMENT", TRIGGER_FIRES_ALWAYS}};

/*
 * The key of a parent
 */

/* Find the columns in the condition of the key trigger.  NULL if the trigger is missing or has no condition. */
static Bitmapset *
key_trigger_columns(Oid relid)
{
	HeapTuple tuple = poser_trigger_of_name(relid, key_trigger.name);
	Bitmapset *result = NULL;
	bool isnull;
	Datum condition;
	ListCell *lc;

	if (!HeapTupleIsValid(tuple))
		return NULL;
	condition = poser_trigger_attribute(tuple, Anum_pg_trigger_tgqual, &isnull);
	if (isnull)
		return NULL;
	foreach(lc, pull_var_clause(stringToNode(TextDatumGetCString(condition)), 0))
	{
		AttrNumber attnum = lfirst_node(Var, lc)->varattno;

		if (attnum > 0)
			result = bms_add_member(result, attnum);
	}
	return result;
}

/*
 * The condition of the key trigger:
 *
 *	(OLD.id OPERATOR(pg_catalog.=) NEW.id AND ...) IS NOT TRUE
 */
static char *
key_condition(Oid relid, const Bitmapset *columns)
{
	StringInfoData result;
	int attnum = -1;

	initStringInfo(&result);
	appendStringInfoChar(&result, '(');
	while ((attnum = bms_next_member(columns, attnum)) >= 0)
	{
		char *name = pstrdup(quote_identifier(get_attname(relid, attnum, false)));

		appendStringInfo(&result, "%sOLD.%s %s NEW.%s", result.len > 1 ? " AND " : "", name,
						 poser_equality(get_atttype(relid, attnum)), name);
	}
	appendStringInfoString(&result, ") IS NOT TRUE");
	return result.data;
}

/* The columns of the parent that are the key of this view. */
static Bitmapset *
key_columns(const PoserViewForm *form)
{
	Bitmapset *result = NULL;

	for (int i = 0; i < form->nkeys; i++)
		result = bms_add_member(result, form->keys[i].parent);
	return result;
}

/*
 * Making triggers
 */

/* Drop a trigger. */
static void
drop_trigger(Oid relid, const char *name)
{
	poser_maintain_run(relid, psprintf("DROP TRIGGER %s ON %s", pstrdup(quote_identifier(name)), poser_relation_name(relid)));
}

/* Report a trigger that is not as it should be, if the caller asks for it. */
static void
report(const PoserMaintain *maintain, Oid relid, const char *trigger, PoserTriggerState state)
{
	if (maintain->report != NULL && state != POSER_TRIGGER_RIGHT)
		maintain->report(maintain->report_arg, relid, trigger, state);
}

/*
 * Make a trigger right.  "of" is the relation of FROM, for a binding.  Returns whether it was
 * right before.
 */
static bool
make_trigger(PoserMaintain *maintain, const PoserTriggerKind *kind, Oid relid, List *arguments, Oid of)
{
	const char *relname = get_rel_name(relid);
	PoserTriggerState state = poser_trigger_state(kind, relid, maintain->nspid, arguments, of);
	bool is_new = false;
	bool replaces = false;

	report(maintain, relid, kind->name, state);
	switch (state)
	{
		case POSER_TRIGGER_RIGHT:
			return true;
		case POSER_TRIGGER_NOT_FIRING:
			if (poser_maintain_must(maintain, "trigger \"%s\" of relation \"%s\" is enabled", kind->name, relname))
				poser_maintain_run(relid, poser_trigger_enable_sql(kind, relid));
			break;
		case POSER_TRIGGER_WRONG:
			is_new = poser_maintain_must(maintain, "trigger \"%s\" of relation \"%s\" is made again", kind->name, relname);
			/* if a user's trigger has the name, the server says so when this one is made */
			replaces = poser_trigger_calls_function(relid, kind, maintain->nspid);
			if (is_new && replaces && OidIsValid(of))
				drop_trigger(relid, kind->name);
			break;
		case POSER_TRIGGER_MISSING:
			is_new = poser_maintain_must(maintain, "trigger \"%s\" of relation \"%s\" is made", kind->name, relname);
			break;
	}
	if (is_new)
	{
		char *sql = poser_trigger_create_sql(kind, relid, maintain->nspid, arguments, of);

		/* unlike DROP TRIGGER this lets readers go on; the server does not do it for constraint triggers */
		if (replaces && !OidIsValid(of))
			sql = psprintf("CREATE OR REPLACE%s", sql + strlen("CREATE"));
		poser_maintain_run(relid, sql);
		if (kind->enabled != TRIGGER_FIRES_ON_ORIGIN)
			poser_maintain_run(relid, poser_trigger_enable_sql(kind, relid));
	}
	return false;
}

/*
 * Note that changes of a table's rows may have been missed.  Nothing was missed if nothing was
 * ever written into it, as into a new partition.
 */
static void
note_missed(PoserMaintain *maintain, Oid relid)
{
	if (list_member_oid(maintain->broken, relid) || poser_maintained_is_untouched(relid))
		return;
	maintain->missed = true;
	maintain->broken = lappend_oid(maintain->broken, relid);
}

/* Make a trigger of a table right, and note if changes of its rows may have been missed. */
static void
make_table_trigger(PoserMaintain *maintain, const PoserTriggerKind *kind, Oid relid)
{
	if (!make_trigger(maintain, kind, relid, NIL, InvalidOid))
		note_missed(maintain, relid);
}

/* Is a table the child of any maintained view? */
static bool
is_child(const PoserMaintain *maintain, Oid relid)
{
	ListCell *lc;

	if (relid == maintain->form->child)
		return true;
	foreach(lc, poser_maintained_of_table(relid, maintain->nspid))
	{
		if (((PoserMaintained *) lfirst(lc))->child == relid)
			return true;
	}
	return false;
}

/* Make the triggers for updates of a table that is only a parent. */
static void
make_parent_triggers(PoserMaintain *maintain, Oid relid)
{
	PoserTriggerKind kind = key_trigger;
	Bitmapset *needed = key_columns(maintain->form);
	Bitmapset *present = key_trigger_columns(relid);

	make_table_trigger(maintain, &parent_update_trigger, relid);
	kind.condition = key_condition(relid, bms_union(needed, present));
	if (present == NULL || bms_is_subset(needed, present))
		make_table_trigger(maintain, &kind, relid);
	else
	{
		report(maintain, relid, kind.name, POSER_TRIGGER_WRONG);
		if (!poser_maintain_must(maintain, "trigger \"%s\" of relation \"%s\" is made again", kind.name, get_rel_name(relid)))
			return;
		/* another view has another key: the condition gets the columns of both */
		poser_maintain_run(relid, psprintf("CREATE OR REPLACE%s", poser_trigger_create_sql(&kind, relid, maintain->nspid, NIL, InvalidOid) + strlen("CREATE")));
	}
}

/* Make the triggers for updates. */
static void
make_update_triggers(PoserMaintain *maintain, Oid relid, bool only_parent)
{
	/* a table that was a child keeps the trigger for children, which serves parents as well */
	if (only_parent && poser_trigger_state(&update_trigger, relid, maintain->nspid, NIL, InvalidOid) != POSER_TRIGGER_RIGHT)
	{
		make_parent_triggers(maintain, relid);
		return;
	}
	if (poser_trigger_state(&parent_update_trigger, relid, maintain->nspid, NIL, InvalidOid) == POSER_TRIGGER_RIGHT &&
		poser_trigger_calls_function(relid, &key_trigger, maintain->nspid))
	{
		/* the table becomes a child: nothing was missed */
		(void) make_trigger(maintain, &update_trigger, relid, NIL, InvalidOid);
	}
	else
		make_table_trigger(maintain, &update_trigger, relid);
	if (poser_trigger_calls_function(relid, &key_trigger, maintain->nspid))
	{
		maintain->exclusive = list_append_unique_oid(maintain->exclusive, relid);
		if (poser_maintain_must(maintain, "trigger \"%s\" of relation \"%s\" is dropped", key_trigger.name, get_rel_name(relid)))
			drop_trigger(relid, key_trigger.name);
	}
}

/* Make the triggers of a table and its partitions. */
static void
make_tree_triggers(PoserMaintain *maintain, List *tree)
{
	Oid root = linitial_oid(tree);
	bool only_parent = !is_child(maintain, root) && get_rel_relkind(root) != RELKIND_PARTITIONED_TABLE;
	bool quiet = maintain->quiet;
	ListCell *lc;

	/* on the root first: the server clones it */
	make_table_trigger(maintain, &row_trigger, root);
	foreach(lc, tree)
	{
		Oid relid = lfirst_oid(lc);

		CHECK_FOR_INTERRUPTS();
		/* one NOTICE for all triggers of a new partition */
		if (!quiet && !poser_trigger_calls_function(relid, &table_triggers[0], maintain->nspid))
		{
			if (!poser_maintain_must(maintain, "triggers of relation \"%s\" are made", get_rel_name(relid)))
			{
				note_missed(maintain, relid);
				continue;
			}
			maintain->quiet = true;
		}
		for (int i = 0; i < lengthof(table_triggers); i++)
			make_table_trigger(maintain, &table_triggers[i], relid);
		make_update_triggers(maintain, relid, only_parent);
		if (relid != root && poser_trigger_state(&row_trigger, relid, maintain->nspid, NIL, InvalidOid) == POSER_TRIGGER_NOT_FIRING)
			make_table_trigger(maintain, &row_trigger, relid);
		maintain->quiet = quiet;
	}
}

/* Make the triggers of the parent and the child, and of their partitions.  These are locked. */
void
poser_maintain_table_triggers(PoserMaintain *maintain)
{
	make_tree_triggers(maintain, maintain->parents);
	if (maintain->form->child != maintain->form->parent)
		make_tree_triggers(maintain, maintain->children);
}

/* Make the triggers of the bookkeeping, which is locked. */
void
poser_maintain_bindings(PoserMaintain *maintain)
{
	const Oid relations[] = {maintain->view, maintain->of.query, maintain->of.served, maintain->form->parent,
							 maintain->form->child};
	Oid bookkeeping = maintain->of.bookkeeping;

	for (int i = 0; i < lengthof(binding_triggers); i++)
	{
		const PoserTriggerKind *kind = &binding_triggers[i];
		bool is_table = relations[i] == maintain->form->parent || relations[i] == maintain->form->child;
		bool is_query = relations[i] == maintain->of.query;
		List *arguments = is_query ? poser_maintained_query_arguments(&maintain->of, maintain->form->child, maintain->form->whole_row)
								   : poser_maintained_arguments(bookkeeping, relations[i]);
		/* without a binding nothing was counted; a binding can also be one for other partitions, or made elsewhere */
		bool missed = is_query ? !poser_maintained_query_matches(&maintain->of, maintain->report == NULL)
							   : !is_table || poser_maintained_missed(bookkeeping, kind->name, relations[i]);

		/*
		 * The arguments that came with a restore are no problem as long as they say what is
		 * there.  Here a renamed partition is one, because the next restore compares names.
		 */
		if (maintain->report != NULL && !missed && poser_maintained_bound_elsewhere(&maintain->of, kind->name))
			arguments = poser_maintained_present_arguments(bookkeeping, kind->name);
		if (!make_trigger(maintain, kind, bookkeeping, arguments, relations[i]) && missed)
		{
			maintain->missed = true;
			maintain->replaced |= is_query;
		}
	}
	for (int i = 0; i < lengthof(guard_triggers); i++)
		(void) make_trigger(maintain, &guard_triggers[i], maintain->of.bookkeeping, NIL, InvalidOid);
}

/* Drop all triggers that count from these tables. */
void
poser_maintain_drop_triggers(List *tables, Oid nspid)
{
	Oid function = poser_trigger_function(MAINTAIN_ROWS, nspid);
	ListCell *lc;

	foreach(lc, tables)
	{
		List *triggers = poser_triggers_of_function(lfirst_oid(lc), function);
		ListCell *trigger;

		CHECK_FOR_INTERRUPTS();
		foreach(trigger, triggers)
		{
			Form_pg_trigger form = (Form_pg_trigger) GETSTRUCT((HeapTuple) lfirst(trigger));

			/* a partition's row trigger goes with that of the table above it */
			if (!OidIsValid(form->tgparentid))
				drop_trigger(lfirst_oid(lc), NameStr(form->tgname));
		}
	}
}

/*
 * What the gate asks
 */

/* Is the trigger in this tuple the one of this kind, and does it fire when it should? */
static bool
is_right(const PoserTriggerKind *kind, HeapTuple tuple, Oid nspid, bool compare_arguments, const List *arguments, Oid of)
{
	return strcmp(NameStr(((Form_pg_trigger) GETSTRUCT(tuple))->tgname), kind->name) == 0 &&
		   poser_trigger_tuple_state(kind, tuple, nspid, compare_arguments, arguments, of) == POSER_TRIGGER_RIGHT;
}

/* Is the trigger in this tuple one of these?  If so, its bit in *found is set. */
static void
find_right(const PoserTriggerKind *kinds, int n, HeapTuple tuple, Oid nspid, int *found)
{
	for (int i = 0; i < n; i++)
		if (is_right(&kinds[i], tuple, nspid, true, NIL, InvalidOid))
			*found |= 1 << i;
}

/*
 * Find out which of the triggers of a parent or child, or of a partition, are there and fire
 * when they should, by one scan.  Nothing is locked.  The lists in the result are allocated in
 * the current memory context.
 */
void
poser_maintain_look_at_triggers(Oid relid, Oid nspid, PoserMaintainTriggers *result)
{
	List *triggers = poser_triggers_of_function(relid, poser_trigger_function(MAINTAIN_ROWS, nspid));
	ListCell *lc;
	int found = 0;
	int found_row = 0;
	int found_update = 0;
	int found_parent_update = 0;
	int found_key = 0;

	memset(result, 0, sizeof(PoserMaintainTriggers));
	foreach(lc, triggers)
	{
		HeapTuple tuple = lfirst(lc);

		result->xids = list_append_unique_oid(result->xids, HeapTupleHeaderGetXmin(tuple->t_data));
		find_right(table_triggers, lengthof(table_triggers), tuple, nspid, &found);
		find_right(&row_trigger, 1, tuple, nspid, &found_row);
		find_right(&update_trigger, 1, tuple, nspid, &found_update);
		find_right(&parent_update_trigger, 1, tuple, nspid, &found_parent_update);
		find_right(&key_trigger, 1, tuple, nspid, &found_key);
	}
	list_free_deep(triggers);
	if (found != (1 << lengthof(table_triggers)) - 1 || !found_row)
		return;
	result->counts_child = (found_update != 0);
	if (found_parent_update && found_key)
		result->parent_key = key_trigger_columns(relid);
}

/*
 * Are the bindings and the guards of a bookkeeping there, and do the guards fire?  The
 * transactions that wrote the triggers are added to *xids.  What the bindings say about
 * partitions is not looked at.  Nothing is locked.
 */
bool
poser_maintain_is_bound(const PoserMaintained *maintained, Oid nspid, List **xids)
{
	const Oid relations[] = {maintained->view, maintained->query, maintained->served, maintained->parent, maintained->child};
	List *triggers = poser_triggers_of_function(maintained->bookkeeping, poser_trigger_function("poser_maintained_by", nspid));
	ListCell *lc;
	int found = 0;
	int found_guards = 0;

	foreach(lc, triggers)
	{
		HeapTuple tuple = lfirst(lc);

		*xids = list_append_unique_oid(*xids, HeapTupleHeaderGetXmin(tuple->t_data));
		for (int i = 0; i < lengthof(binding_triggers); i++)
			if (OidIsValid(relations[i]) && is_right(&binding_triggers[i], tuple, nspid, false, NIL, relations[i]))
				found |= 1 << i;
		find_right(guard_triggers, lengthof(guard_triggers), tuple, nspid, &found_guards);
	}
	return found == (1 << lengthof(binding_triggers)) - 1 && found_guards == (1 << lengthof(guard_triggers)) - 1;
}
