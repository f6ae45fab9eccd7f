/*
 * tracked.c
 *	  poser_tracked(), the function behind the view poser_tables: the tables that have a
 *	  history, and what is wrong with them.
 *
 * It reads catalogs only.  Each table and its table of versions are locked (ACCESS SHARE)
 * while they are looked at, and no longer.
 *
 * A table is listed if it is one of the extension, if it is bound to a table of versions,
 * or if it has a trigger of poser_version() although it is not bound: then its table of
 * versions was dropped, or it is a partition that was detached.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "versions/track_internal.h"

PG_FUNCTION_INFO_V1(poser_tracked);

/* A row of the view. */
typedef struct TrackedRow
{
	Oid relid;
	Oid versions; /* or InvalidOid */
	PoserOwnColumns columns;
	bool recording;
	StringInfoData problems;
} TrackedRow;

/* Make an array of text from a list of names. */
static Datum
name_array(const List *names)
{
	Datum *values = palloc(Max(list_length(names), 1) * sizeof(Datum));
	int n = 0;
	ListCell *lc;

	foreach(lc, names)
	{
		values[n++] = CStringGetTextDatum(lfirst(lc));
	}
	return PointerGetDatum(construct_array(values, n, TEXTOID, -1, false, TYPALIGN_INT));
}

/* Put a row into the result. */
static void
put_row(ReturnSetInfo *rsinfo, const TrackedRow *row)
{
	Datum values[7];
	bool nulls[7] = {false};

	values[0] = ObjectIdGetDatum(row->relid);
	values[1] = ObjectIdGetDatum(row->versions);
	nulls[1] = !OidIsValid(row->versions);
	values[2] = name_array(row->columns.key);
	values[3] = name_array(row->columns.excluded);
	values[4] = name_array(row->columns.unrecorded);
	values[5] = BoolGetDatum(row->recording);
	nulls[6] = row->problems.len == 0;
	values[6] = nulls[6] ? (Datum) 0 : CStringGetTextDatum(row->problems.data);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* The names in a list, as a text: "a, b". */
static char *
names_text(const List *names)
{
	StringInfoData result;
	ListCell *lc;

	initStringInfo(&result);
	foreach(lc, names)
	{
		appendStringInfo(&result, "%s%s", result.len > 0 ? ", " : "", quote_identifier(lfirst(lc)));
	}
	return result.data;
}

/*
 * The tables of the extension
 */

/* Look at a table of the extension.  Its columns are matched by name, and the trigger's arguments are its versions and its key. */
static void
look_at_fixed(TrackedRow *row, Oid nspid)
{
	Relation rel = try_relation_open(row->relid, AccessShareLock);

	if (rel == NULL)
		return;
	row->columns.key = list_make1("uuid");
	for (int i = 0; i < RelationGetDescr(rel)->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), i);
		AttrNumber version = get_attnum(row->versions, NameStr(att->attname));

		if (!att->attisdropped && (version <= 0 || get_atttype(row->versions, version) != att->atttypid))
			row->columns.unrecorded = lappend(row->columns.unrecorded, pstrdup(NameStr(att->attname)));
	}
	row->recording = poser_check_table_triggers(&row->problems, row->relid, nspid, list_make2(get_rel_name(row->versions), "uuid"));
	if (row->columns.unrecorded != NIL)
		poser_add_problem(&row->problems, "columns are not recorded: %s", names_text(row->columns.unrecorded));
	relation_close(rel, AccessShareLock);
}

/*
 * Own tables
 */

/* Look at the partitions of a table that is open: each needs the triggers. */
static void
look_at_partitions(TrackedRow *row, Oid nspid)
{
	List *tree = find_all_inheritors(row->relid, NoLock, NULL);

	for (int i = 1; i < list_length(tree); i++)
	{
		Oid relid = list_nth_oid(tree, i);
		char relkind = get_rel_relkind(relid);

		CHECK_FOR_INTERRUPTS();
		if (relkind == RELKIND_FOREIGN_TABLE)
		{
			poser_add_problem(&row->problems, "partition %s is a foreign table", poser_relation_name(relid));
			row->recording = false;
		}
		else if (relkind != '\0' &&
				 !poser_check_table_triggers(&row->problems, relid, nspid, poser_table_trigger_arguments(true)))
			row->recording = false;
	}
}

/* Look at the names that the binding has.  If they are not those of today, a dump cannot be restored with its history. */
static void
look_at_names(TrackedRow *row, const PoserBinding *binding)
{
	for (int i = 0; i < binding->ncolumns; i++)
	{
		const PoserBoundColumn *column = &binding->columns[i];
		char *name = get_attname(row->relid, column->attnum, true);
		char *versions_name = column->versions_attnum != 0 ? get_attname(row->versions, column->versions_attnum, true) : NULL;

		if (name == NULL)
			poser_add_problem(&row->problems, "column %s was dropped, and a restored dump records nothing until poser_track() is called",
							  quote_identifier(column->name));
		else if (strcmp(name, column->name) != 0)
			poser_add_problem(&row->problems, "column %s was called %s, and a restored dump records nothing until poser_track() is called",
							  pstrdup(quote_identifier(name)), pstrdup(quote_identifier(column->name)));
		else if (versions_name != NULL && strcmp(versions_name, column->versions_name) != 0)
			poser_add_problem(&row->problems, "column %s of %s was called %s, and a restored dump records nothing until poser_track() is called",
							  pstrdup(quote_identifier(versions_name)), poser_relation_name(row->versions),
							  pstrdup(quote_identifier(column->versions_name)));
	}
}

/* Look at a table and its table of versions, which are open. */
static void
look_at_pair(TrackedRow *row, Relation rel, Relation versions, const PoserTracked *tracked, Oid nspid)
{
	PoserVersioned versioned;
	PoserBinding binding;
	const Trigger *trigger = poser_binding_trigger(versions, tracked->binding);
	const char *problem = poser_own_describe(&versioned, rel, rel, versions, tracked, nspid, &row->columns);

	row->recording = problem == NULL && tracked->counts;
	if (!tracked->counts)
		poser_add_problem(&row->problems, "its owner has no privilege to insert into %s", poser_relation_name(row->versions));
	if (problem != NULL)
		poser_add_problem(&row->problems, "%s", problem);
	if (!poser_check_table_triggers(&row->problems, row->relid, nspid, poser_table_trigger_arguments(false)))
		row->recording = false;
	look_at_partitions(row, nspid);
	poser_check_versions_triggers(&row->problems, row->versions, nspid);
	if (row->columns.unrecorded != NIL)
		poser_add_problem(&row->problems, "columns are not recorded: %s", names_text(row->columns.unrecorded));
	if (rel->rd_rel->relrowsecurity && !versions->rd_rel->relrowsecurity)
		poser_add_problem(&row->problems, "%s has row-level security, and %s has not", poser_relation_name(row->relid),
						  poser_relation_name(row->versions));
	if (trigger != NULL && poser_binding_parse(&binding, trigger, row->relid, row->versions))
	{
		if (!binding.here)
			poser_add_problem(&row->problems, "the binding was made in another database; poser_track() makes it anew");
		else
			look_at_names(row, &binding);
	}
	if (problem != NULL)
		return;
	if (versioned.nkeys == 0)
	{
		poser_add_problem(&row->problems, "it has no primary key, so UPDATE and DELETE fail");
		row->recording = false;
	}
	else if (!OidIsValid(versioned.versions_index))
		poser_add_problem(&row->problems, "%s has no index on the key and the change", poser_relation_name(row->versions));
}

/* Look at a bound table.  Returns false if it is gone. */
static bool
look_at_bound(TrackedRow *row, const PoserTracked *tracked, Oid nspid)
{
	Relation rel = try_relation_open(tracked->relid, AccessShareLock);
	Relation versions = try_relation_open(tracked->versions, AccessShareLock);
	bool found = rel != NULL && versions != NULL && poser_binding_trigger(versions, tracked->binding) != NULL;

	if (found)
		look_at_pair(row, rel, versions, tracked, nspid);
	if (versions != NULL)
		relation_close(versions, AccessShareLock);
	if (rel != NULL)
		relation_close(rel, AccessShareLock);
	return found;
}

/* Returns the next binding of the same table that counts, or NULL. */
static const PoserTracked *
other_binding(const List *bindings, const PoserTracked *tracked, bool counts)
{
	ListCell *lc;

	foreach(lc, bindings)
	{
		const PoserTracked *other = lfirst(lc);

		if (other != tracked && other->relid == tracked->relid && other->counts == counts)
			return other;
	}
	return NULL;
}

/*
 * Tables that have triggers and no binding
 */

/* Returns the tables that have a trigger of poser_version(), as a list of OIDs. */
static List *
tables_with_triggers(Oid nspid)
{
	Oid function = poser_trigger_function("poser_version", nspid);
	Relation depend = table_open(DependRelationId, AccessShareLock);
	Relation triggers = table_open(TriggerRelationId, AccessShareLock);
	List *result = NIL;
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple tuple;

	ScanKeyInit(&keys[0], Anum_pg_depend_refclassid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(ProcedureRelationId));
	ScanKeyInit(&keys[1], Anum_pg_depend_refobjid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(function));
	scan = systable_beginscan(depend, DependReferenceIndexId, true, NULL, lengthof(keys), keys);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_depend dependency = (Form_pg_depend) GETSTRUCT(tuple);
		ScanKeyData key;
		SysScanDesc trigger_scan;

		CHECK_FOR_INTERRUPTS();
		if (dependency->classid != TriggerRelationId)
			continue;
		ScanKeyInit(&key, Anum_pg_trigger_oid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(dependency->objid));
		trigger_scan = systable_beginscan(triggers, TriggerOidIndexId, true, NULL, 1, &key);
		if (HeapTupleIsValid(tuple = systable_getnext(trigger_scan)) && ((Form_pg_trigger) GETSTRUCT(tuple))->tgnargs < 2)
			result = lappend_oid(result, ((Form_pg_trigger) GETSTRUCT(tuple))->tgrelid);
		systable_endscan(trigger_scan);
	}
	systable_endscan(scan);
	table_close(triggers, AccessShareLock);
	table_close(depend, AccessShareLock);
	list_sort(result, list_oid_cmp);
	list_deduplicate_oid(result);
	return result;
}

/* Is a table, or a table above it, among those that are bound? */
static bool
is_bound(Oid relid, const List *bound)
{
	List *ancestors = get_rel_relispartition(relid) ? get_partition_ancestors(relid) : NIL;
	ListCell *lc;

	foreach(lc, ancestors)
	{
		if (list_member_oid(bound, lfirst_oid(lc)))
			return true;
	}
	return list_member_oid(bound, relid);
}

/* Look at a table that has triggers and is not bound. */
static void
look_at_unbound(TrackedRow *row)
{
	row->recording = false;
	poser_add_problem(&row->problems, "it has triggers of Poser, and no table of versions is bound to it; call poser_track() or poser_untrack()");
}

/*
 * poser_tracked() returns table (target regclass, versions regclass, key text[], excluded text[], unrecorded text[], recording boolean, problem text)
 */
Datum
poser_tracked(PG_FUNCTION_ARGS)
{
	Oid nspid = get_func_namespace(fcinfo->flinfo->fn_oid);
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	List *fixed = poser_tracked_tables(nspid);
	List *bindings = poser_tracked_bindings(nspid);
	List *bound = NIL;
	MemoryContext context;
	MemoryContext outer;
	ListCell *lc;

	InitMaterializedSRF(fcinfo, 0);
	context = AllocSetContextCreate(CurrentMemoryContext, "poser tracked table", ALLOCSET_DEFAULT_SIZES);
	foreach(lc, fixed)
	{
		const PoserTracked *tracked = lfirst(lc);
		TrackedRow row = {.relid = tracked->relid, .versions = tracked->versions};

		bound = lappend_oid(bound, tracked->relid);
		if (OidIsValid(tracked->binding))
			continue;
		outer = MemoryContextSwitchTo(context);
		initStringInfo(&row.problems);
		look_at_fixed(&row, nspid);
		put_row(rsinfo, &row);
		MemoryContextSwitchTo(outer);
		MemoryContextReset(context);
	}

	foreach(lc, bindings)
	{
		const PoserTracked *tracked = lfirst(lc);
		const PoserTracked *other = other_binding(bindings, tracked, true);
		TrackedRow row = {.relid = tracked->relid, .versions = tracked->versions};

		CHECK_FOR_INTERRUPTS();
		bound = list_append_unique_oid(bound, tracked->relid);
		/* one that does not count matters only if no other one does */
		if (!tracked->counts && other != NULL)
			continue;
		outer = MemoryContextSwitchTo(context);
		initStringInfo(&row.problems);
		if (other != NULL)
			poser_add_problem(&row.problems, "it has another table of versions, too: %s", poser_relation_name(other->versions));
		if (look_at_bound(&row, tracked, nspid))
		{
			row.recording = row.recording && other == NULL;
			put_row(rsinfo, &row);
		}
		MemoryContextSwitchTo(outer);
		MemoryContextReset(context);
	}

	foreach(lc, tables_with_triggers(nspid))
	{
		TrackedRow row = {.relid = lfirst_oid(lc)};

		if (is_bound(row.relid, bound))
			continue;
		outer = MemoryContextSwitchTo(context);
		initStringInfo(&row.problems);
		look_at_unbound(&row);
		put_row(rsinfo, &row);
		MemoryContextSwitchTo(outer);
		MemoryContextReset(context);
	}
	return (Datum) 0;
}
