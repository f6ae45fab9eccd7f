/*
 * check.c
 *	  poser_check(): reporting what is wrong, without changing anything.
 *
 * Each check is one query.  It returns a row (object, problem) for each problem
 * that it finds.  $1 is the OID of the extension's schema, and $2 the installed version
 * of the extension.  The queries are in check_structure.c and check_rows.c.  They
 * need no qualified names, because the function's search_path is pg_catalog alone.
 *
 * Users may add columns, indexes, constraints and triggers, and may choose the actions
 * of the foreign key.  None of this is reported as a problem.
 *
 * A check of rows runs only if the tables have the columns that it reads, and if the
 * owner of poser_component may read all rows.  Otherwise a check of the structure has
 * reported the reason.
 *
 * Tables that users have tracked, and maintained views, are checked one after the other, see
 * check_own.c and check_views.c.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/pg_class.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "check/check_internal.h"
#include "versions/versions.h"

PG_FUNCTION_INFO_V1(poser_check);

/* The checks of rows for which a relation is read. */
typedef enum Part
{
	COUNTS,
	HISTORY,
	BATCHES,
	CONSUMERS
} Part;

/*
 * The relations that are read, in the order in which they are locked.  The rows of a part
 * are checked only if all relations of the part have this relkind ('\0' stands for any)
 * and these columns.  check_structure.c checks the columns that the counts need.
 */
static const struct
{
	Part part;
	const char *name;
	char relkind;
	struct
	{
		const char *name;
		Oid type;
	} columns[6];
} relations[] = {
	{COUNTS, "poser_widget"},
	{COUNTS, "poser_component"},
	{COUNTS, "poser_component_count"},
	{COUNTS, "poser_component_count_delta"},
	{HISTORY, "poser_widget_version", RELKIND_RELATION, {{"uuid", VARCHAROID}, {"transaction_id", INT8OID}, {"operation_type", INT2OID}, {"change_id", INT8OID}}},
	{HISTORY, "poser_component_version", RELKIND_RELATION, {{"uuid", VARCHAROID}, {"transaction_id", INT8OID}, {"operation_type", INT2OID}, {"change_id", INT8OID}}},
	{HISTORY, "poser_transaction", RELKIND_RELATION, {{"id", INT8OID}, {"xact", XID8OID}}},
	{HISTORY, "poser_version_horizon", RELKIND_RELATION, {{"transaction_id", INT8OID}, {"change_id", INT8OID}}},
	{HISTORY, "poser_change_id_seq", RELKIND_SEQUENCE, {{"last_value", INT8OID}}},
	{HISTORY, "poser_widget", RELKIND_RELATION, {{"uuid", VARCHAROID}}},
	{HISTORY, "poser_component", RELKIND_RELATION, {{"uuid", VARCHAROID}}},
	{BATCHES, "poser_batch", '\0', {{"uuid", VARCHAROID}, {"id", INT8OID}, {"row_count", INT8OID}}},
	{BATCHES, "poser_batch_row", '\0', {{"batch_uuid", VARCHAROID}, {"sequence", INT8OID}, {"removed", BOOLOID}}},
	{BATCHES, "poser_batch_id_seq", RELKIND_SEQUENCE},
	{CONSUMERS, "poser_datasync_consumer", '\0', {{"consumer", NAMEOID}, {"handler", TEXTOID}, {"roles", NAMEARRAYOID}, {"confirmed", INT8OID}, {"from_snapshot", PG_SNAPSHOTOID}, {"to_snapshot", PG_SNAPSHOTOID}}}};

/*
 * Raises an error unless the caller has the rights of the owners of the relations of
 * counts and history.
 */
static void
check_owners(Oid nspid)
{
	for (int i = 0; i < lengthof(relations); i++)
	{
		Oid relid = get_relname_relid(relations[i].name, nspid);

		if (OidIsValid(relid) && (relations[i].part == COUNTS || relations[i].part == HISTORY))
			poser_check_owner(relid);
	}
}

/*
 * Lock all relations that are read, until the transaction ends, so that they are not
 * rewritten meanwhile.  The caller takes the transaction's snapshot afterwards.
 */
static void
lock_relations(Oid nspid)
{
	for (int i = 0; i < lengthof(relations); i++)
	{
		Oid relid = get_relname_relid(relations[i].name, nspid);
		ListCell *lc;

		if (!OidIsValid(relid))
			continue;
		foreach(lc, poser_lock_tree(relid))
		{
			poser_check_transaction_snapshot(lfirst_oid(lc));
		}
	}
}

/* Does the relation have a column of this name and type? */
static bool
has_column(Oid relid, const char *name, Oid type)
{
	AttrNumber attno = get_attnum(relid, name);

	return attno > 0 && get_atttype(relid, attno) == type;
}

/*
 * Can the rows of a part be checked?  Its relations must be as in the list above, and the
 * current user must have the right to read all their rows.
 */
static bool
can_check(Part part, Oid nspid)
{
	for (int i = 0; i < lengthof(relations); i++)
	{
		Oid relid = get_relname_relid(relations[i].name, nspid);

		if (relations[i].part != part)
			continue;
		if (!OidIsValid(relid) || !poser_may_read(relid))
			return false;
		if (relations[i].relkind != '\0' && get_rel_relkind(relid) != relations[i].relkind)
			return false;
		for (int j = 0; j < lengthof(relations[i].columns) && relations[i].columns[j].name != NULL; j++)
			if (!has_column(relid, relations[i].columns[j].name, relations[i].columns[j].type))
				return false;
	}
	return true;
}

/*
 * Returns the installed version of the extension that a function belongs to.  If it is
 * not known, returns a very high version, so that all objects are checked.
 */
char *
poser_installed_version(Oid fnoid)
{
	Oid argtypes[] = {OIDOID};
	Datum values[] = {ObjectIdGetDatum(getExtensionOfObject(ProcedureRelationId, fnoid))};
	char *result = NULL;

	/* only the numbers, without a suffix such as "dev" */
	if (poser_run(&(PoserQuery) {
			.sql = "SELECT substring(extversion, '^[0-9]+(?:[.][0-9]+)*') FROM pg_extension WHERE oid = $1",
			.nargs = lengthof(argtypes),
			.argtypes = argtypes,
			.values = values,
			.read_only = true,
			.once = true,
			.limit = 1}) > 0)
		result = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	return result != NULL ? result : "2147483647";
}

/* Is the installed version 1.minor or a later one? */
static bool
is_from(const PoserCheck *check, int minor)
{
	int numbers[] = {0, 0};

	(void) sscanf(check->version, "%d.%d", &numbers[0], &numbers[1]);
	return numbers[0] > 1 || (numbers[0] == 1 && numbers[1] >= minor);
}

/* Run a check, and add the problems that it finds to the result; returns how many. */
uint64
poser_check_run(const PoserCheck *check, const char *sql)
{
	Oid argtypes[] = {OIDOID, TEXTOID};
	Datum values[] = {ObjectIdGetDatum(check->nspid), CStringGetTextDatum(check->version)};
	DestReceiver *dest = poser_result_receiver(check->rsinfo);
	uint64 result;

	/*
	 * Checks are rare, so they have no saved plans, which would replace those of other
	 * queries.  They read whole tables, so their plans may be parallel.
	 */
	result = poser_run(&(PoserQuery) {
		.sql = sql,
		.nargs = lengthof(argtypes),
		.argtypes = argtypes,
		.values = values,
		.read_only = true,
		.once = true,
		.cursor_options = CURSOR_OPT_PARALLEL_OK,
		.dest = dest});
	dest->rDestroy(dest);
	return result;
}

/* Add a problem to the result. */
void
poser_check_add(const PoserCheck *check, const char *object, const char *problem)
{
	Datum values[] = {CStringGetTextDatum(object), CStringGetTextDatum(problem)};
	bool nulls[] = {false, false};

	tuplestore_putvalues(check->rsinfo->setResult, check->rsinfo->setDesc, values, nulls);
}

/*
 * Check the extension's own tables.  The caller has their locks.  With "target", check only
 * the history of this one.
 */
static void
check_fixed(const PoserCheck *check, Oid target)
{
	Oid owned = OidIsValid(target) ? target : get_relname_relid("poser_component", check->nspid);
	PoserCaller caller;

	/* act as the owner of poser_component, or of the one table */
	if (OidIsValid(owned))
		poser_become_owner(owned, &caller);

	/* check the structure, and the rows of each part that can be checked */
	if (OidIsValid(target))
	{
		if (can_check(HISTORY, check->nspid))
			poser_check_history(check, target);
		else
			poser_check_add(check, psprintf("table %s", get_rel_name(target)),
							"has a history that its owner may not read, or that has been changed");
	}
	else
	{
		if (poser_check_structure(check) && can_check(COUNTS, check->nspid))
			poser_check_counts(check);
		if (is_from(check, 2) && can_check(HISTORY, check->nspid))
			poser_check_history(check, InvalidOid);
		if (is_from(check, 3) && can_check(BATCHES, check->nspid))
			poser_check_batches(check);
		if (is_from(check, 4) && can_check(HISTORY, check->nspid) && can_check(CONSUMERS, check->nspid) &&
			poser_is_owner(get_relname_relid("poser_datasync_consumer", check->nspid), GetUserId()))
			poser_check_consumers(check);
	}
	if (OidIsValid(owned))
		poser_become_caller(&caller);
}

/* Is this one of the extension's tables that have a history? */
static bool
is_fixed(Oid relid, Oid nspid)
{
	List *tables = poser_tracked_tables(nspid, false);
	ListCell *lc;

	foreach(lc, tables)
	{
		PoserTracked *tracked = lfirst(lc);

		if (tracked->relid == relid && !OidIsValid(tracked->binding))
			return true;
	}
	return false;
}

/* Remove the tables without the rights of their owner from a list of OIDs. */
static List *
keep_owned(List *relids)
{
	List *result = NIL;
	ListCell *lc;

	foreach(lc, relids)
	{
		if (poser_is_owner(lfirst_oid(lc), GetUserId()))
			result = lappend_oid(result, lfirst_oid(lc));
	}
	return result;
}

/* Has the caller the rights of the owners of the relations of counts and history? */
static bool
owns_fixed(Oid nspid)
{
	for (int i = 0; i < lengthof(relations); i++)
	{
		Oid relid = get_relname_relid(relations[i].name, nspid);

		if (OidIsValid(relid) && (relations[i].part == COUNTS || relations[i].part == HISTORY) &&
			!poser_is_owner(relid, GetUserId()))
			return false;
	}
	return true;
}

/*
 * poser_check(target regclass = NULL) returns table (object text, problem text)
 *
 * The caller must have the rights of the owners of the tables.  Without a target that is
 * the extension's tables, and each tracked table and maintained view with an owner whose
 * rights the caller has.  A caller that owns no table of the extension gets the problems of
 * the others only.  The target is a table with a history, a view or another relation of a
 * maintained view, or a table that a maintained view reads.
 *
 * Rows of the extension's tables are checked with the rights of the owner of
 * poser_component, which sees all of them even under FORCE ROW LEVEL SECURITY.  If tables
 * have different owners, and the owner of poser_component may not read one of them, this is
 * reported as a problem.  A tracked table, or a view, is checked with the rights of its own owner.
 */
Datum
poser_check(PG_FUNCTION_ARGS)
{
	Oid nspid = get_func_namespace(fcinfo->flinfo->fn_oid);
	PoserCheck check = {.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo, .nspid = nspid};
	Oid target = PG_NARGS() > 0 && !PG_ARGISNULL(0) ? PG_GETARG_OID(0) : InvalidOid;
	bool fixed = !OidIsValid(target) || is_fixed(target, nspid);
	List *own = NIL;
	List *views;
	ListCell *lc;
	int level;

	/* only an owner may lock the relations; check again after the locks, because they may have changed before */
	if (OidIsValid(target))
	{
		poser_check_owner(target);
		views = poser_check_find_views_of(target, nspid);
		if (!fixed && (views == NIL || poser_check_is_own(target, nspid)))
			own = list_make1_oid(poser_check_find_target(target, nspid));
	}
	else
	{
		own = keep_owned(poser_check_find_own(nspid));
		views = poser_check_find_views(nspid);
		if ((own != NIL || views != NIL) && !owns_fixed(nspid))
			fixed = false;
		else
			check_owners(nspid);
	}
	if (fixed)
	{
		lock_relations(nspid);
		if (OidIsValid(target))
			poser_check_owner(target);
		else
			check_owners(nspid);
	}

	/* in READ COMMITTED this snapshot is newer than the locks */
	PushActiveSnapshot(GetTransactionSnapshot());
	InitMaterializedSRF(fcinfo, 0);

	/* the queries compare names and types with texts without quotes */
	level = NewGUCNestLevel();
	(void) set_config_option("quote_all_identifiers", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	SPI_connect();
	check.schema = quote_identifier(get_namespace_name(nspid));
	check.version = poser_installed_version(fcinfo->flinfo->fn_oid);

	if (fixed)
		check_fixed(&check, target);
	foreach(lc, own)
	{
		CHECK_FOR_INTERRUPTS();
		poser_check_own(&check, lfirst_oid(lc), OidIsValid(target));
	}
	foreach(lc, views)
	{
		CHECK_FOR_INTERRUPTS();
		poser_check_view(&check, lfirst_oid(lc), OidIsValid(target));
	}
	if (!OidIsValid(target) && is_from(&check, 7))
		poser_check_view_leftovers(&check);

	/* back to the caller's settings */
	SPI_finish();
	AtEOXact_GUC(true, level);
	PopActiveSnapshot();
	return (Datum) 0;
}
