/*
 * track_triggers.c
 *	  The triggers of tracked tables and of their tables of versions.
 *
 * A table has the triggers of poser_version(), without arguments; each partition has
 * them with the argument 'partition', so that a detached partition does nothing.  A table of
 * versions has the triggers of poser_versions_of(), of which one is the binding, and those
 * of poser_arrive().  The server clones the binding to the partitions of a table of versions,
 * but not the statement trigger for TRUNCATE.  So each partition gets one of its own.
 *
 * A trigger is recognized by its name.  It must have the function, events and arguments
 * that are listed here, and must fire in sessions; otherwise it is made again or enabled.
 *
 * The comment on the trigger poser_versions_of says how far the history was pruned.  So
 * the comment is copied when the trigger is made again.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_trigger.h"
#include "commands/comment.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "versions/track_internal.h"

/* A trigger that poser_track() makes. */
typedef struct TriggerKind
{
	const char *name;
	const char *function;
	int16 type; /* tgtype */
	const char *event;
	const char *old_rows; /* transition tables, or NULL */
	const char *new_rows;
	const char *level;
	char enabled; /* tgenabled */
} TriggerKind;

/* The triggers on a table. */
static const TriggerKind table_triggers[] = {
	{"poser_version_before", "poser_version",
	 TRIGGER_TYPE_BEFORE | TRIGGER_TYPE_INSERT | TRIGGER_TYPE_UPDATE | TRIGGER_TYPE_DELETE | TRIGGER_TYPE_TRUNCATE,
	 "BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE", NULL, NULL, "STATEMENT", TRIGGER_FIRES_ON_ORIGIN},
	{"poser_version_insert", "poser_version", TRIGGER_TYPE_INSERT, "AFTER INSERT", NULL, "new_rows", "STATEMENT",
	 TRIGGER_FIRES_ON_ORIGIN},
	{"poser_version_update", "poser_version", TRIGGER_TYPE_UPDATE, "AFTER UPDATE", "old_rows", "new_rows", "STATEMENT",
	 TRIGGER_FIRES_ON_ORIGIN},
	{"poser_version_delete", "poser_version", TRIGGER_TYPE_DELETE, "AFTER DELETE", "old_rows", NULL, "STATEMENT",
	 TRIGGER_FIRES_ON_ORIGIN},
	{"poser_version_truncate", "poser_version", TRIGGER_TYPE_TRUNCATE, "AFTER TRUNCATE", NULL, NULL, "STATEMENT",
	 TRIGGER_FIRES_ON_ORIGIN}};

/* The binding. */
static const TriggerKind binding_trigger = {
	"poser_versions_of", "poser_versions_of", TRIGGER_TYPE_ROW | TRIGGER_TYPE_UPDATE | TRIGGER_TYPE_DELETE,
	"AFTER UPDATE OR DELETE", NULL, NULL, "ROW", TRIGGER_FIRES_ALWAYS};

/* The trigger on a table of versions, and on its partitions, that refuses TRUNCATE. */
static const TriggerKind truncate_trigger = {
	"poser_versions_of_truncate", "poser_versions_of", TRIGGER_TYPE_BEFORE | TRIGGER_TYPE_TRUNCATE,
	"BEFORE TRUNCATE", NULL, NULL, "STATEMENT", TRIGGER_FIRES_ALWAYS};

/* The other triggers on a table of versions that is not partitioned. */
static const TriggerKind arrival_triggers[] = {
	{"poser_arrive_before", "poser_arrive", TRIGGER_TYPE_BEFORE | TRIGGER_TYPE_INSERT, "BEFORE INSERT", NULL, NULL,
	 "STATEMENT", TRIGGER_FIRES_ON_ORIGIN},
	{"poser_arrive_row", "poser_arrive", TRIGGER_TYPE_BEFORE | TRIGGER_TYPE_ROW | TRIGGER_TYPE_INSERT, "BEFORE INSERT",
	 NULL, NULL, "ROW", TRIGGER_FIRES_ON_ORIGIN},
	{"poser_arrive_after", "poser_arrive", TRIGGER_TYPE_INSERT, "AFTER INSERT", NULL, NULL, "STATEMENT",
	 TRIGGER_FIRES_ON_ORIGIN}};

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

/* Returns the triggers of a relation that call this function, as a list of copies of tuples of pg_trigger.  With InvalidOid all triggers. */
static List *
find_triggers(Oid relid, Oid function, const char *name)
{
	Relation catalog = table_open(TriggerRelationId, AccessShareLock);
	List *result = NIL;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple tuple;

	ScanKeyInit(&key, Anum_pg_trigger_tgrelid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relid));
	scan = systable_beginscan(catalog, TriggerRelidNameIndexId, true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_trigger form = (Form_pg_trigger) GETSTRUCT(tuple);

		if (name != NULL ? strcmp(NameStr(form->tgname), name) == 0 : form->tgfoid == function)
			result = lappend(result, heap_copytuple(tuple));
	}
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return result;
}

/* Returns the triggers of a relation that call this function, as a list of Form_pg_trigger. */
List *
poser_triggers_of_function(Oid relid, Oid function)
{
	List *tuples = find_triggers(relid, function, NULL);
	ListCell *lc;

	foreach(lc, tuples)
	{
		lfirst(lc) = GETSTRUCT((HeapTuple) lfirst(lc));
	}
	return tuples;
}

/* Are the arguments of a trigger these strings (char *)? */
static bool
has_arguments(HeapTuple tuple, TupleDesc desc, const List *arguments)
{
	bool isnull;
	bytea *stored = DatumGetByteaPP(heap_getattr(tuple, Anum_pg_trigger_tgargs, desc, &isnull));
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
has_transition(HeapTuple tuple, TupleDesc desc, int column, const char *name)
{
	bool isnull;
	Datum value = heap_getattr(tuple, column, desc, &isnull);

	return name == NULL ? isnull : !isnull && strcmp(NameStr(*DatumGetName(value)), name) == 0;
}

/* The state of a trigger that poser_track() makes. */
typedef enum TriggerState
{
	TRIGGER_RIGHT,
	TRIGGER_MISSING,
	TRIGGER_WRONG,	   /* it has another definition */
	TRIGGER_NOT_FIRING /* it is disabled, or fires only in replicas */
} TriggerState;

/* Look at a trigger of a relation.  "of" is the table of FROM, or InvalidOid. */
static TriggerState
trigger_state(const TriggerKind *kind, Oid relid, Oid nspid, const List *arguments, Oid of)
{
	List *tuples = find_triggers(relid, InvalidOid, kind->name);
	Relation catalog;
	HeapTuple tuple;
	Form_pg_trigger form;
	bool isnull;
	bool right;

	if (tuples == NIL)
		return TRIGGER_MISSING;
	tuple = linitial(tuples);
	form = (Form_pg_trigger) GETSTRUCT(tuple);
	catalog = table_open(TriggerRelationId, AccessShareLock);
	right = form->tgfoid == poser_trigger_function(kind->function, nspid) && form->tgtype == kind->type &&
			form->tgattr.dim1 == 0 && form->tgconstrrelid == of &&
			has_arguments(tuple, RelationGetDescr(catalog), arguments) &&
			has_transition(tuple, RelationGetDescr(catalog), Anum_pg_trigger_tgoldtable, kind->old_rows) &&
			has_transition(tuple, RelationGetDescr(catalog), Anum_pg_trigger_tgnewtable, kind->new_rows);
	(void) heap_getattr(tuple, Anum_pg_trigger_tgqual, RelationGetDescr(catalog), &isnull);
	table_close(catalog, AccessShareLock);
	if (!right || !isnull)
		return TRIGGER_WRONG;
	/* a trigger that fires in replicas, too, is a user's choice */
	if (form->tgenabled == kind->enabled || form->tgenabled == TRIGGER_FIRES_ALWAYS)
		return TRIGGER_RIGHT;
	return TRIGGER_NOT_FIRING;
}

/* The arguments of the triggers on a tracked table or on a partition of it. */
static List *
table_arguments(bool is_partition)
{
	return is_partition ? list_make1("partition") : NIL;
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
static char *
create_sql(const TriggerKind *kind, Oid relid, Oid nspid, const List *arguments, Oid of)
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
	appendStringInfo(&sql, " FOR EACH %s EXECUTE FUNCTION %s(", kind->level,
					 quote_qualified_identifier(get_namespace_name(nspid), kind->function));
	append_arguments(&sql, arguments);
	appendStringInfoChar(&sql, ')');
	return sql.data;
}

/* The statement that makes a trigger fire as it should. */
static char *
enable_sql(const TriggerKind *kind, Oid relid)
{
	return psprintf("ALTER TABLE %s ENABLE %sTRIGGER %s", poser_relation_name(relid),
					kind->enabled == TRIGGER_FIRES_ALWAYS ? "ALWAYS " : "", kind->name);
}

/* Drop a trigger. */
static void
drop_trigger(const PoserTrack *track, Oid relid, const char *name)
{
	poser_track_run(track, relid, psprintf("DROP TRIGGER %s ON %s", pstrdup(quote_identifier(name)), poser_relation_name(relid)));
}

/* Does the trigger of this name call the function that it should? */
static bool
calls_function(Oid relid, const TriggerKind *kind, Oid nspid)
{
	List *tuples = find_triggers(relid, InvalidOid, kind->name);

	return tuples != NIL &&
		   ((Form_pg_trigger) GETSTRUCT((HeapTuple) linitial(tuples)))->tgfoid == poser_trigger_function(kind->function, nspid);
}

/* Make a trigger right. */
static void
make_trigger(PoserTrack *track, const TriggerKind *kind, Oid relid, const List *arguments)
{
	const char *relname = get_rel_name(relid);
	bool alters = relid == track->versions;
	bool is_new = false;
	TriggerState state = trigger_state(kind, relid, track->nspid, arguments, InvalidOid);

	/* what was written without the trigger is not recorded */
	if (state != TRIGGER_RIGHT && relid == track->relid && track->bound)
		track->compare = true;
	switch (state)
	{
		case TRIGGER_RIGHT:
			break;
		case TRIGGER_NOT_FIRING:
			if (poser_track_must(track, alters, "trigger \"%s\" of relation \"%s\" is enabled", kind->name, relname))
				poser_track_run(track, relid, enable_sql(kind, relid));
			break;
		case TRIGGER_WRONG:
			is_new = poser_track_must(track, alters, "trigger \"%s\" of relation \"%s\" is made again", kind->name, relname);
			/* if a user's trigger has the name, the server says so when this one is made */
			if (is_new && calls_function(relid, kind, track->nspid))
				drop_trigger(track, relid, kind->name);
			break;
		case TRIGGER_MISSING:
			is_new = poser_track_must(track, alters, "trigger \"%s\" of relation \"%s\" is made", kind->name, relname);
			break;
	}
	if (!is_new)
		return;
	poser_track_run(track, relid, create_sql(kind, relid, track->nspid, arguments, InvalidOid));
	if (kind->enabled != TRIGGER_FIRES_ON_ORIGIN)
		poser_track_run(track, relid, enable_sql(kind, relid));
}

/* Make the triggers on the table and on its partitions. */
void
poser_track_table_triggers(PoserTrack *track)
{
	bool quiet = track->quiet;
	ListCell *lc;

	foreach(lc, track->tree)
	{
		List *arguments = table_arguments(lfirst_oid(lc) != track->relid);

		CHECK_FOR_INTERRUPTS();
		/* one NOTICE for all triggers of a new partition */
		if (find_triggers(lfirst_oid(lc), poser_trigger_function("poser_version", track->nspid), NULL) == NIL)
		{
			if (!poser_track_must(track, false, "triggers of relation \"%s\" are made", get_rel_name(lfirst_oid(lc))))
				continue;
			track->quiet = true;
		}
		for (int i = 0; i < lengthof(table_triggers); i++)
			make_trigger(track, &table_triggers[i], lfirst_oid(lc), arguments);
		track->quiet = quiet;
	}
}

/* The arguments of the binding, as it should be. */
static List *
binding_arguments(const PoserTrack *track)
{
	PoserBinding binding = {.partial = track->partial,
							.operation_type = track->operation_type,
							.transaction_id = track->transaction_id,
							.change_id = track->change_id};

	binding.columns = palloc0(Max(track->ncolumns, 1) * sizeof(PoserBoundColumn));
	for (int i = 0; i < track->ncolumns; i++)
	{
		const PoserTrackColumn *column = &track->columns[i];
		PoserBoundColumn *bound = &binding.columns[binding.ncolumns];

		if (!column->excluded && column->version == 0)
			continue;
		bound->attnum = column->attnum;
		bound->versions_attnum = column->excluded ? 0 : column->version;
		bound->name = column->name;
		bound->versions_name = "";
		if (!column->excluded || column->former != 0)
			bound->versions_name = get_attname(track->versions, column->excluded ? column->former : column->version, false);
		binding.ncolumns++;
	}
	return poser_binding_format(&binding, track->relid, track->versions);
}

/*
 * Make the binding.  A binding that is there is replaced, and its comment copied.  This also
 * removes clones of it from partitions that were detached, which could not be attached again
 * otherwise.  "tree" is the table of versions and its partitions.
 */
static void
make_binding(PoserTrack *track, const List *tree)
{
	List *arguments = binding_arguments(track);
	TriggerState state = trigger_state(&binding_trigger, track->versions, track->nspid, arguments, track->relid);
	const char *versions = get_rel_name(track->versions);
	char *comment = NULL;
	bool already = track->todo;

	if (track->bound && poser_binding_detached(track->relid, track->nspid, tree) != NIL)
		state = TRIGGER_WRONG;
	if (state == TRIGGER_RIGHT)
		return;
	if (state == TRIGGER_NOT_FIRING)
	{
		if (poser_track_must(track, true, "trigger \"%s\" of relation \"%s\" is enabled", binding_trigger.name, versions))
			poser_track_run(track, track->versions, enable_sql(&binding_trigger, track->versions));
		return;
	}

	/* what has changed in the binding was mostly said before */
	if (already && !track->looking)
		track->alters = true;
	else if (!poser_track_must(track, true, "relation \"%s\" is bound to relation \"%s\" anew", versions, get_rel_name(track->relid)))
		return;
	if (track->looking)
		return;
	if (state == TRIGGER_WRONG)
	{
		if (track->bound)
			comment = GetComment(track->binding_trigger, TriggerRelationId, 0);
		if (calls_function(track->versions, &binding_trigger, track->nspid))
			drop_trigger(track, track->versions, binding_trigger.name);
	}
	poser_track_run_on_both(track, create_sql(&binding_trigger, track->versions, track->nspid, arguments, track->relid));
	poser_track_run(track, track->versions, enable_sql(&binding_trigger, track->versions));
	if (comment != NULL)
		poser_track_run(track, track->versions,
						psprintf("COMMENT ON TRIGGER %s ON %s IS %s", binding_trigger.name, poser_relation_name(track->versions),
								 quote_literal_cstr(comment)));
}

/* Make the triggers on the table of versions and on its partitions. */
void
poser_track_versions_triggers(PoserTrack *track)
{
	List *tree = find_all_inheritors(track->versions, NoLock, NULL);
	ListCell *lc;

	make_binding(track, tree);
	foreach(lc, tree)
	{
		CHECK_FOR_INTERRUPTS();
		make_trigger(track, &truncate_trigger, lfirst_oid(lc), NIL);
	}
	if (get_rel_relkind(track->versions) == RELKIND_PARTITIONED_TABLE)
		return;
	for (int i = 0; i < lengthof(arrival_triggers); i++)
		make_trigger(track, &arrival_triggers[i], track->versions, NIL);
}

/* Drop all triggers of a relation that call this function of the extension. */
void
poser_track_drop_triggers(const PoserTrack *track, Oid relid, const char *function)
{
	List *triggers = poser_triggers_of_function(relid, poser_trigger_function(function, track->nspid));
	ListCell *lc;

	foreach(lc, triggers)
	{
		Form_pg_trigger form = lfirst(lc);

		/* a partition's trigger goes with that of the table above it */
		if (!OidIsValid(form->tgparentid))
			drop_trigger(track, relid, NameStr(form->tgname));
	}
}
