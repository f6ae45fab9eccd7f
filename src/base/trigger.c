/*
 * trigger.c
 *	  Triggers that Poser makes on users' tables: finding, comparing and making them.
 *
 * Such a trigger is recognized by its name.  It must have the function, events, arguments and
 * transition tables that it was made with, and must fire when it should.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_trigger.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "base/base.h"

/*
 * Finding triggers
 */

/* Returns the trigger function of this name in this schema; InvalidOid if there is none. */
Oid
poser_trigger_function(const char *name, Oid nspid)
{
	return GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid, CStringGetDatum(name),
						   PointerGetDatum(buildoidvector(NULL, 0)), ObjectIdGetDatum(nspid));
}

/* Returns the triggers of a relation that call this function, as a list of copies of tuples of pg_trigger. */
List *
poser_triggers_of_function(Oid relid, Oid function)
{
	Relation catalog = table_open(TriggerRelationId, AccessShareLock);
	List *result = NIL;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple tuple;

	ScanKeyInit(&key, Anum_pg_trigger_tgrelid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relid));
	scan = systable_beginscan(catalog, TriggerRelidNameIndexId, true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		if (((Form_pg_trigger) GETSTRUCT(tuple))->tgfoid == function)
			result = lappend(result, heap_copytuple(tuple));
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return result;
}

/* Returns the trigger of a relation that has this name, as a copy of its tuple of pg_trigger; NULL if there is none. */
HeapTuple
poser_trigger_of_name(Oid relid, const char *name)
{
	Relation catalog = table_open(TriggerRelationId, AccessShareLock);
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple tuple;

	ScanKeyInit(&keys[0], Anum_pg_trigger_tgrelid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relid));
	ScanKeyInit(&keys[1], Anum_pg_trigger_tgname, BTEqualStrategyNumber, F_NAMEEQ, CStringGetDatum(name));
	scan = systable_beginscan(catalog, TriggerRelidNameIndexId, true, NULL, lengthof(keys), keys);
	tuple = heap_copytuple(systable_getnext(scan));
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return tuple;
}

/*
 * Returns the triggers that call this function and depend on an object, as a list of copies of
 * tuples of pg_trigger.  The object is the function itself, or a relation: one with the triggers, or
 * one behind FROM.
 */
List *
poser_triggers_depending_on(Oid classid, Oid objid, Oid function)
{
	Relation depend = table_open(DependRelationId, AccessShareLock);
	Relation triggers = table_open(TriggerRelationId, AccessShareLock);
	List *result = NIL;
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple tuple;

	ScanKeyInit(&keys[0], Anum_pg_depend_refclassid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(classid));
	ScanKeyInit(&keys[1], Anum_pg_depend_refobjid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(objid));
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
		tuple = systable_getnext(trigger_scan);
		if (HeapTupleIsValid(tuple) && ((Form_pg_trigger) GETSTRUCT(tuple))->tgfoid == function)
			result = lappend(result, heap_copytuple(tuple));
		systable_endscan(trigger_scan);
	}
	systable_endscan(scan);
	table_close(triggers, AccessShareLock);
	table_close(depend, AccessShareLock);
	return result;
}

/* Returns a column of a trigger that can be NULL, from its tuple of pg_trigger. */
Datum
poser_trigger_attribute(HeapTuple tuple, AttrNumber column, bool *isnull)
{
	Relation catalog = table_open(TriggerRelationId, AccessShareLock);
	Datum result = heap_getattr(tuple, column, RelationGetDescr(catalog), isnull);

	table_close(catalog, AccessShareLock);
	return result;
}

/* Are the arguments of a trigger these strings (char *)? */
static bool
has_arguments(HeapTuple tuple, const List *arguments)
{
	bool isnull;
	bytea *stored = DatumGetByteaPP(poser_trigger_attribute(tuple, Anum_pg_trigger_tgargs, &isnull));
	const char *argument = VARDATA_ANY(stored);
	ListCell *lc;

	if (((Form_pg_trigger) GETSTRUCT(tuple))->tgnargs != list_length(arguments))
		return false;
	foreach(lc, arguments)
	{
		if (strcmp(argument, lfirst(lc)) != 0)
			return false;
		argument += strlen(argument) + 1;
	}
	return true;
}

/* Has a trigger this transition table, or none if the name is NULL? */
static bool
has_transition(HeapTuple tuple, AttrNumber column, const char *name)
{
	bool isnull;
	Datum value = poser_trigger_attribute(tuple, column, &isnull);

	return name == NULL ? isnull : !isnull && strcmp(NameStr(*DatumGetName(value)), name) == 0;
}

/*
 * Look at a trigger in a tuple of pg_trigger.  "of" is the table of FROM, or InvalidOid.  The
 * text of a condition is not compared.  Arguments are compared only with "compare_arguments".
 */
PoserTriggerState
poser_trigger_tuple_state(const PoserTriggerKind *kind, HeapTuple tuple, Oid nspid, bool compare_arguments,
						  const List *arguments, Oid of)
{
	Form_pg_trigger form = (Form_pg_trigger) GETSTRUCT(tuple);
	bool isnull;

	if (form->tgfoid != poser_trigger_function(kind->function, nspid) || form->tgtype != kind->type ||
		form->tgattr.dim1 != 0 || form->tgconstrrelid != of ||
		(compare_arguments && !has_arguments(tuple, arguments)) ||
		!has_transition(tuple, Anum_pg_trigger_tgoldtable, kind->old_rows) ||
		!has_transition(tuple, Anum_pg_trigger_tgnewtable, kind->new_rows))
		return POSER_TRIGGER_WRONG;
	(void) poser_trigger_attribute(tuple, Anum_pg_trigger_tgqual, &isnull);
	if (isnull != (kind->condition == NULL))
		return POSER_TRIGGER_WRONG;
	/* a trigger that fires in replicas, too, is a user's choice */
	if (form->tgenabled == kind->enabled || form->tgenabled == TRIGGER_FIRES_ALWAYS)
		return POSER_TRIGGER_RIGHT;
	return POSER_TRIGGER_NOT_FIRING;
}

/* Look at a trigger of a relation, see poser_trigger_tuple_state(). */
PoserTriggerState
poser_trigger_state(const PoserTriggerKind *kind, Oid relid, Oid nspid, const List *arguments, Oid of)
{
	HeapTuple tuple = poser_trigger_of_name(relid, kind->name);

	return HeapTupleIsValid(tuple) ? poser_trigger_tuple_state(kind, tuple, nspid, true, arguments, of) : POSER_TRIGGER_MISSING;
}

/*
 * Making triggers
 */

/* Append the arguments of a trigger function. */
static void
append_arguments(StringInfo sql, const List *arguments)
{
	ListCell *lc;

	foreach(lc, arguments)
	{
		appendStringInfo(sql, "%s%s", lc == list_head(arguments) ? "" : ", ", quote_literal_cstr(lfirst(lc)));
	}
}

/*
 * The statement that makes a trigger.  "of" is the table of FROM, for the binding:
 *
 *	CREATE TRIGGER poser_version_insert AFTER INSERT ON customer
 *		REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION poser_version()
 *	CREATE CONSTRAINT TRIGGER poser_versions_of AFTER UPDATE OR DELETE ON customer_version
 *		FROM customer FOR EACH ROW EXECUTE FUNCTION poser_versions_of('...', ...)
 */
char *
poser_trigger_create_sql(const PoserTriggerKind *kind, Oid relid, Oid nspid, const List *arguments, Oid of)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "CREATE%s TRIGGER %s %s ON %s", OidIsValid(of) ? " CONSTRAINT" : "", kind->name, kind->event,
					 poser_relation_name(relid));
	if (OidIsValid(of))
		appendStringInfo(&sql, " FROM %s", poser_relation_name(of));
	if (kind->old_rows != NULL || kind->new_rows != NULL)
		appendStringInfoString(&sql, " REFERENCING");
	if (kind->old_rows != NULL)
		appendStringInfo(&sql, " OLD TABLE AS %s", kind->old_rows);
	if (kind->new_rows != NULL)
		appendStringInfo(&sql, " NEW TABLE AS %s", kind->new_rows);
	appendStringInfo(&sql, " FOR EACH %s", kind->level);
	if (kind->condition != NULL)
		appendStringInfo(&sql, " WHEN (%s)", kind->condition);
	appendStringInfo(&sql, " EXECUTE FUNCTION %s(", quote_qualified_identifier(get_namespace_name(nspid), kind->function));
	append_arguments(&sql, arguments);
	appendStringInfoChar(&sql, ')');
	return sql.data;
}

/* The statement that makes a trigger fire as it should. */
char *
poser_trigger_enable_sql(const PoserTriggerKind *kind, Oid relid)
{
	const char *how = "";

	if (kind->enabled == TRIGGER_FIRES_ALWAYS)
		how = "ALWAYS ";
	else if (kind->enabled == TRIGGER_FIRES_ON_REPLICA)
		how = "REPLICA ";
	return psprintf("ALTER TABLE %s ENABLE %sTRIGGER %s", poser_relation_name(relid), how, kind->name);
}

/* Does the trigger of this name call the function that it should? */
bool
poser_trigger_calls_function(Oid relid, const PoserTriggerKind *kind, Oid nspid)
{
	HeapTuple tuple = poser_trigger_of_name(relid, kind->name);

	return HeapTupleIsValid(tuple) &&
		   ((Form_pg_trigger) GETSTRUCT(tuple))->tgfoid == poser_trigger_function(kind->function, nspid);
}
