/*
 * maintained_state.c
 *	  What is wrong with a maintained view.
 *
 * poser_views and poser_check() say the same, because both ask here.  The function looks at
 * catalogs only.  What users have changed raises no error here.  Each problem is one line,
 * which ends in what to do.
 *
 * A relation that another transaction has locked is not waited for: a session that looks at
 * all views must not wait for the owner of one of them.
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

#include "counts/maintain_internal.h"

/* The view that is looked at. */
typedef struct Looking
{
	PoserMaintainedState *state;
	const PoserMaintained *of;
	Oid nspid;
	PoserViewForm *form; /* NULL if it cannot be read */
	List *triggers;		 /* of ReportedTrigger */
} Looking;

/* A trigger that is not as it should be. */
typedef struct ReportedTrigger
{
	Oid relid;
	const char *name;
	PoserTriggerState state;
} ReportedTrigger;

/* A table that lacks so many triggers has lost all of them, or never had them. */
#define ALL_TRIGGERS 5

/* Add a problem. */
static void
add_problem(Looking *looking, const char *what, const char *remedy)
{
	looking->state->problems = lappend(looking->state->problems, psprintf("%s: %s", what, remedy));
}

/* What to do: "poser_maintain('public.customer_orders') mends it". */
static const char *
maintain_remedy(const Looking *looking)
{
	return psprintf("poser_maintain(%s) mends it", quote_literal_cstr(poser_relation_name(looking->of->view)));
}

/* The word for a relation: table or view. */
static const char *
kind_word(Oid relid)
{
	switch (get_rel_relkind(relid))
	{
		case RELKIND_VIEW:
			return "view";
		case RELKIND_INDEX:
		case RELKIND_PARTITIONED_INDEX:
			return "index";
		default:
			return "table";
	}
}

/* The name of a relation's owner, quoted. */
static const char *
owner_name(Oid relid)
{
	char *name = GetUserNameFromId(poser_owner_of(relid), true);

	return name != NULL ? quote_identifier(name) : "a role that was dropped";
}

/*
 * Locks
 */

/* Returns the relations of a maintained view, with all partitions, as a list of OIDs. */
List *
poser_maintained_relations(const PoserMaintained *maintained)
{
	const Oid views[] = {maintained->query, maintained->view, maintained->served, maintained->bookkeeping};
	const Oid tables[] = {maintained->child, maintained->parent};
	List *result = NIL;

	for (int i = 0; i < lengthof(tables); i++)
		if (OidIsValid(tables[i]))
			result = list_concat_unique_oid(result, find_all_inheritors(tables[i], NoLock, NULL));
	for (int i = 0; i < lengthof(views); i++)
		if (OidIsValid(views[i]))
			result = lappend_oid(result, views[i]);
	return result;
}

/* Returns the relations that are opened for a view: its own, what its query reads, and the indexes of its bookkeeping and of its parent. */
static List *
opened_relations(const PoserMaintained *maintained)
{
	const Oid indexed[] = {maintained->bookkeeping, maintained->parent};
	List *result = poser_maintained_relations(maintained);

	if (OidIsValid(maintained->query))
		result = list_concat_unique_oid(result, poser_view_uses(maintained->query));
	for (int i = 0; i < lengthof(indexed); i++)
	{
		Relation rel = OidIsValid(indexed[i]) && poser_lock_at_once(indexed[i], AccessShareLock)
						   ? try_relation_open(indexed[i], NoLock)
						   : NULL;

		if (rel == NULL)
			continue;
		result = list_concat_unique_oid(result, RelationGetIndexList(rel));
		relation_close(rel, AccessShareLock);
	}
	return result;
}

/*
 * Lock all these relations, without waiting.  Returns those that are locked.  If another transaction
 * has locked one, this is a problem, and state->locked is set.
 */
static List *
lock_relations(Looking *looking)
{
	List *locked = NIL;
	ListCell *lc;

	foreach(lc, opened_relations(looking->of))
	{
		Oid relid = lfirst_oid(lc);

		if (poser_lock_at_once(relid, AccessShareLock))
		{
			locked = lappend_oid(locked, relid);
			continue;
		}
		if (get_rel_name(relid) == NULL)
			continue;
		looking->state->locked = true;
		looking->state->problems = lappend(looking->state->problems,
										   psprintf("%s %s is locked by another transaction", kind_word(relid), poser_relation_name(relid)));
	}
	return locked;
}

/*
 * The view and what belongs to it
 */

/* Look for a binding that is gone, or the relation that it is about. */
static void
look_at_bindings(Looking *looking)
{
	const struct
	{
		Oid relid;
		const char *binding;
		const char *what;
	} relations[] = {{looking->of->query, POSER_BINDING_QUERY, "the view with its query"},
					 {looking->of->served, POSER_BINDING_SERVED, "the view that shows its counts"},
					 {looking->of->parent, POSER_BINDING_PARENT, "its parent"},
					 {looking->of->child, POSER_BINDING_CHILD, "its child"}};

	for (int i = 0; i < lengthof(relations); i++)
	{
		if (OidIsValid(relations[i].relid))
			continue;
		add_problem(looking,
					psprintf("%s was dropped, or the trigger %s of %s", relations[i].what, relations[i].binding,
							 poser_relation_name(looking->of->bookkeeping)),
					maintain_remedy(looking));
		looking->state->described = false;
	}
}

/* Look whether all relations have one owner.  The tables are looked at elsewhere. */
static void
look_at_owners(Looking *looking)
{
	const Oid relids[] = {looking->of->query, looking->of->served, looking->of->bookkeeping};
	Oid view = looking->of->view;

	for (int i = 0; i < lengthof(relids); i++)
	{
		bool is_view;

		if (!OidIsValid(relids[i]) || poser_owner_of(relids[i]) == poser_owner_of(view))
			continue;
		is_view = get_rel_relkind(relids[i]) == RELKIND_VIEW;
		add_problem(looking,
					psprintf("%s %s belongs to %s, and the view to %s", is_view ? "view" : "table", poser_relation_name(relids[i]),
							 owner_name(relids[i]), owner_name(view)),
					psprintf("ALTER %s %s OWNER TO %s", is_view ? "VIEW" : "TABLE", poser_relation_name(relids[i]), owner_name(view)));
	}
}

/* Look at the view that shows the bookkeeping. */
static void
look_at_served(Looking *looking)
{
	Oid served = looking->of->served;
	const char *name = poser_relation_name(served);
	Relation rel = relation_open(served, NoLock);

	if (!poser_maintained_is_gated(looking->of, looking->nspid))
		add_problem(looking, psprintf("view %s does not have the query that Poser has given it", name), maintain_remedy(looking));
	else if (RelationHasSecurityInvoker(rel))
		add_problem(looking, psprintf("view %s reads with the rights of its user", name),
					psprintf("ALTER VIEW %s RESET (security_invoker)", name));
	relation_close(rel, NoLock);
	if (pg_class_aclcheck(served, ACL_ID_PUBLIC, ACL_SELECT) != ACLCHECK_OK)
		add_problem(looking, psprintf("view %s is not granted to PUBLIC, so that other roles cannot read the maintained view", name),
					psprintf("GRANT SELECT ON %s TO PUBLIC", name));
}

/* Look at what users can change in the bookkeeping, beside its columns and indexes. */
static void
look_at_bookkeeping(Looking *looking)
{
	Relation rel = relation_open(looking->of->bookkeeping, NoLock);
	const char *name = poser_relation_name(looking->of->bookkeeping);

	if (rel->rd_rel->relpersistence != RELPERSISTENCE_PERMANENT)
		add_problem(looking, psprintf("table %s is not kept over a crash", name), psprintf("ALTER TABLE %s SET LOGGED", name));
	if (rel->rd_rel->relrowsecurity)
		add_problem(looking, psprintf("table %s has row-level security", name),
					psprintf("ALTER TABLE %s DISABLE ROW LEVEL SECURITY", name));
	for (int i = 0; i < RelationGetDescr(rel)->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), i);
		const char *column = quote_identifier(NameStr(att->attname));

		if (!att->attisdropped && !att->attnotnull && looking->state->described)
			add_problem(looking, psprintf("column %s of %s allows NULL", column, name),
						psprintf("ALTER TABLE %s ALTER COLUMN %s SET NOT NULL", name, column));
	}
	relation_close(rel, NoLock);
}

/*
 * The query and its tables
 */

/* The detail of an error, or its message if it has none, without the full stop. */
static char *
error_text(const ErrorData *error)
{
	char *result = pstrdup(error->detail != NULL ? error->detail : error->message);
	int length = strlen(result);

	if (length > 0 && result[length - 1] == '.')
		result[length - 1] = '\0';
	return result;
}

/* Read the query, and the columns and indexes of the bookkeeping.  Errors become problems. */
static void
read_form(Looking *looking)
{
	PoserSavepoint savepoint;
	/* changed between the call of setjmp() and an error */
	const char *volatile of = "its query";

	poser_savepoint_set(&savepoint);
	PG_TRY();
	{
		PoserViewForm *form = poser_maintained_read(looking->of);
		PoserCount count;

		looking->form = form;
		of = "its table of counts and sums";
		poser_maintained_count(&count, looking->of, form);
		poser_savepoint_rollback(&savepoint);
	}
	PG_CATCH();
	{
		ErrorData *error = poser_savepoint_catch_any(&savepoint);

		if (poser_is_cancel_request(error))
			ReThrowError(error);
		/* a query that does not have the form stays as it is */
		add_problem(looking, psprintf("%s has changed: %s", of, error_text(error)),
					error->sqlerrcode == ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE
						? maintain_remedy(looking)
						: psprintf("poser_unmaintain(%s) gives the view this query",
								   quote_literal_cstr(poser_relation_name(looking->of->view))));
		looking->state->described = false;
	}
	PG_END_TRY();
}

/* Look at what can change in the tables. */
static void
look_at_tables(Looking *looking)
{
	const char *hint;
	const char *problem = poser_view_tables_problem(looking->form, &hint);

	if (problem != NULL)
		looking->state->problems = lappend(looking->state->problems,
										   psprintf("its tables have changed: %s%s%s", problem, hint != NULL ? " " : "", hint != NULL ? hint : ""));
}

/*
 * Triggers
 */

/* Called for each trigger that is not as it should be. */
static void
note_trigger(void *arg, Oid relid, const char *name, PoserTriggerState state)
{
	Looking *looking = arg;
	ReportedTrigger *reported = palloc(sizeof(ReportedTrigger));

	*reported = (ReportedTrigger) {relid, name, state};
	looking->triggers = lappend(looking->triggers, reported);
}

/* How many triggers does a relation lack? */
static int
count_missing(const Looking *looking, Oid relid)
{
	int result = 0;
	ListCell *lc;

	foreach(lc, looking->triggers)
	{
		ReportedTrigger *reported = lfirst(lc);

		if (reported->relid == relid && reported->state == POSER_TRIGGER_MISSING)
			result++;
	}
	return result;
}

/* Add a problem for each trigger that is not as it should be. */
static void
add_trigger_problems(Looking *looking, bool bindings_match)
{
	Oid without = InvalidOid; /* the last relation without triggers */
	ListCell *lc;

	foreach(lc, looking->triggers)
	{
		ReportedTrigger *reported = lfirst(lc);
		const char *relation = poser_relation_name(reported->relid);
		const char *what = NULL;

		switch (reported->state)
		{
			case POSER_TRIGGER_MISSING:
				if (count_missing(looking, reported->relid) < ALL_TRIGGERS)
					what = psprintf("trigger %s of %s is missing", reported->name, relation);
				else if (without != reported->relid)
					what = psprintf("%s %s does not have the triggers that count its rows",
									get_rel_relispartition(reported->relid) ? "partition" : "table", relation);
				if (count_missing(looking, reported->relid) >= ALL_TRIGGERS)
					without = reported->relid;
				break;
			case POSER_TRIGGER_WRONG:
				/* the arguments of these bindings name partitions or columns */
				if (reported->relid != looking->of->bookkeeping ||
					(strcmp(reported->name, POSER_BINDING_PARENT) != 0 && strcmp(reported->name, POSER_BINDING_CHILD) != 0 &&
					 strcmp(reported->name, POSER_BINDING_QUERY) != 0))
					what = psprintf("trigger %s of %s has been changed", reported->name, relation);
				else if (bindings_match && !poser_maintained_bound_elsewhere(looking->of, reported->name))
					what = psprintf("trigger %s of %s does not have the present names, so that the view would count after a restore",
									reported->name, relation);
				break;
			case POSER_TRIGGER_NOT_FIRING:
				what = psprintf("trigger %s of %s is disabled, or fires in other sessions than it should", reported->name, relation);
				break;
			case POSER_TRIGGER_RIGHT:
				break;
		}
		if (what != NULL)
			add_problem(looking, what, maintain_remedy(looking));
	}
}

/* A table and its partitions, as a list of OIDs.  Tables that inherit otherwise are a problem of their own. */
static List *
partition_tree(Oid relid)
{
	return get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE ? find_all_inheritors(relid, NoLock, NULL) : list_make1_oid(relid);
}

/* Look at the triggers on the tables and on the bookkeeping. */
static void
look_at_triggers(Looking *looking)
{
	/* without a NOTICE for each table, each trigger is reported */
	PoserMaintain maintain = {.nspid = looking->nspid,
							  .view = looking->of->view,
							  .existing = true,
							  .looking = true,
							  .quiet = true,
							  .report = note_trigger,
							  .report_arg = looking,
							  .of = *looking->of,
							  .form = looking->form};
	bool partitions_match = poser_maintained_partitions_match(looking->of);
	bool query_matches = poser_maintained_query_matches(looking->of, false);

	maintain.parents = partition_tree(looking->form->parent);
	maintain.children = partition_tree(looking->form->child);
	poser_maintain_table_triggers(&maintain);
	poser_maintain_bindings(&maintain);
	if (!partitions_match)
		add_problem(looking, "its tables have other partitions than those that were counted", maintain_remedy(looking));
	if (!query_matches)
		add_problem(looking,
					poser_maintained_query_is_replaced(looking->of)
						? psprintf("view %s has another query than the one that was counted", poser_relation_name(looking->of->query))
						: "a condition uses whole rows, and the columns of these have changed",
					maintain_remedy(looking));
	add_trigger_problems(looking, partitions_match && query_matches);
}

/*
 * Find out what is wrong with a maintained view, with what was found of it by
 * poser_maintained_list() or poser_maintained_find().  Returns false if it is gone altogether.
 */
bool
poser_maintained_state(PoserMaintainedState *state, const PoserMaintained *maintained, Oid nspid)
{
	Looking looking = {.state = state, .of = maintained, .nspid = nspid};
	List *locked;
	PoserMaintained again;
	ListCell *lc;

	memset(state, 0, sizeof(PoserMaintainedState));
	locked = lock_relations(&looking);

	/* lock, then look: the view may have been dropped or made again */
	if (poser_maintained_find(maintained->bookkeeping, nspid, &again) && !state->locked)
	{
		looking.of = &again;
		if (!OidIsValid(again.view))
			state->problems = list_make1(psprintf("is what is left of a maintained view that was dropped: poser_unmaintain(%s) removes it",
												  quote_literal_cstr(poser_relation_name(again.bookkeeping))));
		else
		{
			state->described = true;
			look_at_bindings(&looking);
			look_at_owners(&looking);
			if (state->described && !poser_maintained_is_switched(&again))
				add_problem(&looking, "the view does not read its counts, because it has another query, or was never counted",
							maintain_remedy(&looking));
			if (OidIsValid(again.served))
				look_at_served(&looking);
			if (state->described)
				read_form(&looking);
			look_at_bookkeeping(&looking);
			if (state->described)
			{
				look_at_tables(&looking);
				look_at_triggers(&looking);
			}
			/* the counts of a view that does not read them may not have been made yet */
			state->described = state->described && poser_maintained_is_switched(&again);
		}
	}
	foreach(lc, locked)
	{
		UnlockRelationOid(lfirst_oid(lc), AccessShareLock);
	}
	return state->problems != NIL || poser_maintained_find(maintained->bookkeeping, nspid, &again);
}

/* Returns all problems as one text, or NULL if there is none. */
char *
poser_maintained_problem(const PoserMaintainedState *state)
{
	StringInfoData result;
	ListCell *lc;

	if (state->problems == NIL)
		return NULL;
	initStringInfo(&result);
	foreach(lc, state->problems)
	{
		appendStringInfo(&result, "%s%s", result.len > 0 ? "; " : "", (char *) lfirst(lc));
	}
	return result.data;
}
