/*
 * check.c
 *	  poser_check(), which finds what is wrong and changes nothing.
 *
 * Each check is one query that gives a row (object, problem) for each problem
 * it finds; $1 is the OID of the extension's schema, $2 the version that it has
 * here.  What is expected, and from which version on, stands in the query.  The function's search_path is pg_catalog alone.
 *
 * What users may add (columns, indexes, constraints, triggers) or choose (how
 * the foreign key acts) is no problem.
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
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "check/check_internal.h"

PG_FUNCTION_INFO_V1(poser_check);

/* Add a query's rows to the function's result; returns how many. */
uint64
poser_check_add_problems(ReturnSetInfo *rsinfo, const char *query, Oid nspid, const char *version)
{
	Oid argtypes[] = {OIDOID, TEXTOID};
	Datum values[] = {ObjectIdGetDatum(nspid), CStringGetTextDatum(version)};
	SPIExecuteOptions options = {0};

	options.params = poser_params(lengthof(argtypes), argtypes, values, NULL);
	options.read_only = true;
	options.dest = poser_result_receiver(rsinfo);
	if (SPI_execute_extended(query, &options) < 0)
		elog(ERROR, "SPI_execute_extended failed: %s", SPI_result_code_string(SPI_result));
	options.dest->rDestroy(options.dest);
	return SPI_processed;
}

/*
 * The installed version of the extension that a function belongs to.  If it is
 * unknown, a very high version is returned, so that all objects are checked.
 */
static char *
installed_version(Oid fnoid)
{
	Oid argtypes[] = {OIDOID};
	Datum values[] = {ObjectIdGetDatum(getExtensionOfObject(ProcedureRelationId, fnoid))};
	char *result = NULL;

	if (SPI_execute_with_args("SELECT substring(extversion, '^[0-9]+(?:[.][0-9]+)*') FROM pg_extension WHERE oid = $1",
							  lengthof(argtypes), argtypes, values, NULL, true, 1) == SPI_OK_SELECT &&
		SPI_processed > 0)
		result = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	return result != NULL ? result : "2147483647";
}

/* Is a version 1.minor, or a later one? */
static bool
is_from(const char *version, int minor)
{
	int numbers[] = {0, 0};

	(void) sscanf(version, "%d.%d", &numbers[0], &numbers[1]);
	return numbers[0] > 1 || (numbers[0] == 1 && numbers[1] >= minor);
}

static bool
has_column(Oid relid, const char *name, Oid type)
{
	AttrNumber attno = get_attnum(relid, name);

	return attno > 0 && get_atttype(relid, attno) == type;
}

/* The tables, parent, child, counts and deltas. */
static const char *const tables[] = {
	"poser_widget", "poser_component", "poser_component_count", "poser_component_count_delta"};

/* Those of the history, which must have these columns to be looked at. */
static const struct
{
	const char *name;
	char kind;
	const char *columns[4];
	Oid types[4];
} history_tables[] = {
	{"poser_widget_version", RELKIND_RELATION, {"uuid", "transaction_id", "operation_type", "change_id"}, {VARCHAROID, INT8OID, INT2OID, INT8OID}},
	{"poser_component_version", RELKIND_RELATION, {"uuid", "transaction_id", "operation_type", "change_id"}, {VARCHAROID, INT8OID, INT2OID, INT8OID}},
	{"poser_transaction", RELKIND_RELATION, {"id", "xact"}, {INT8OID, XID8OID}},
	{"poser_version_horizon", RELKIND_RELATION, {"transaction_id", "change_id"}, {INT8OID, INT8OID}},
	{"poser_change_id_seq", RELKIND_SEQUENCE, {"last_value"}, {INT8OID}},
	{"poser_widget", RELKIND_RELATION, {"uuid"}, {VARCHAROID}},
	{"poser_component", RELKIND_RELATION, {"uuid"}, {VARCHAROID}}};

/* Relations of batches and consumers. */
static const char *const other_relations[] = {
	"poser_batch", "poser_batch_row", "poser_batch_id_seq", "poser_datasync_consumer"};

/* May the current user read all rows of this relation of the schema? */
static bool
is_readable(const char *name, Oid nspid)
{
	Oid relid = get_relname_relid(name, nspid);

	return OidIsValid(relid) && poser_may_read(relid);
}

/*
 * Lock a relation, if it exists, so that it is not rewritten while it is read.
 * In READ COMMITTED the caller then takes a new snapshot, which sees all its rows.
 * In REPEATABLE READ and SERIALIZABLE it is an error if the relation was rewritten
 * since the transaction's snapshot.
 */
static void
lock_relation(const char *name, Oid nspid)
{
	Oid relid = get_relname_relid(name, nspid);
	List *locked;
	ListCell *lc;

	if (!OidIsValid(relid))
		return;
	locked = poser_lock_tree(relid);
	if (!IsolationUsesXactSnapshot())
		return;
	foreach(lc, locked)
	{
		poser_check_rewritten(lfirst_oid(lc), GetActiveSnapshot());
	}
}

/* Lock all relations that are read. */
static void
lock_relations(Oid nspid)
{
	for (int i = 0; i < lengthof(tables); i++)
		lock_relation(tables[i], nspid);
	for (int i = 0; i < lengthof(history_tables); i++)
		lock_relation(history_tables[i].name, nspid);
	for (int i = 0; i < lengthof(other_relations); i++)
		lock_relation(other_relations[i], nspid);
}

/* Raises an error unless the current user owns all of the tables there are. */
static bool
find_history(Oid nspid)
{
	bool result = true;

	for (int i = 0; i < lengthof(history_tables); i++)
	{
		Oid relid = get_relname_relid(history_tables[i].name, nspid);

		if (!OidIsValid(relid))
		{
			result = false;
			continue;
		}
		poser_check_owner(relid);
		if (get_rel_relkind(relid) != history_tables[i].kind)
			result = false;
		for (int j = 0; j < lengthof(history_tables[i].columns); j++)
			if (history_tables[i].columns[j] != NULL &&
				!has_column(relid, history_tables[i].columns[j], history_tables[i].types[j]))
				result = false;
	}
	return result;
}

/* Are the batches' tables there, with the columns that are counted? */
static bool
find_batches(Oid nspid)
{
	Oid batches = get_relname_relid("poser_batch", nspid);
	Oid rows = get_relname_relid("poser_batch_row", nspid);

	return is_readable("poser_batch", nspid) && is_readable("poser_batch_row", nspid) &&
		   is_readable("poser_batch_id_seq", nspid) && has_column(batches, "uuid", VARCHAROID) &&
		   has_column(batches, "id", INT8OID) && has_column(batches, "row_count", INT8OID) &&
		   has_column(rows, "batch_uuid", VARCHAROID) &&
		   has_column(rows, "sequence", INT8OID) && has_column(rows, "removed", BOOLOID) &&
		   get_rel_relkind(get_relname_relid("poser_batch_id_seq", nspid)) == RELKIND_SEQUENCE;
}

/* Is the consumers' table there, with the columns that are looked at? */
static bool
find_consumers(Oid nspid)
{
	Oid consumers = get_relname_relid("poser_datasync_consumer", nspid);

	return is_readable("poser_datasync_consumer", nspid) && poser_is_owner(consumers, GetUserId()) && has_column(consumers, "consumer", NAMEOID) &&
		   has_column(consumers, "handler", TEXTOID) && has_column(consumers, "roles", NAMEARRAYOID) &&
		   has_column(consumers, "confirmed", INT8OID) && has_column(consumers, "from_snapshot", PG_SNAPSHOTOID) && has_column(consumers, "to_snapshot", PG_SNAPSHOTOID);
}

/*
 * poser_check() returns table (object text, problem text)
 *
 * The caller must have the rights of the owners of all tables.  Rows are checked
 * as the owner of poser_component, who sees all of them even under FORCE ROW LEVEL
 * SECURITY.  If the tables have different owners, and the owner of poser_component
 * may not read a table, then this is reported as a problem.  The checks that read
 * the rows of that table are left out.
 */
Datum
poser_check(PG_FUNCTION_ARGS)
{
	Oid nspid = get_func_namespace(fcinfo->flinfo->fn_oid);
	Oid relids[lengthof(tables)];
	bool complete = true;
	bool has_history;
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid save_userid;
	int save_sec_context;
	char *version;
	int level;

	/* the owner alone may make others wait */
	for (int i = 0; i < lengthof(tables); i++)
		if (OidIsValid(get_relname_relid(tables[i], nspid)))
			poser_check_owner(get_relname_relid(tables[i], nspid));
	lock_relations(nspid);
	for (int i = 0; i < lengthof(tables); i++)
	{
		relids[i] = get_relname_relid(tables[i], nspid);
		if (OidIsValid(relids[i]))
			poser_check_owner(relids[i]);
		else
			complete = false;
	}
	has_history = find_history(nspid);
	/* in READ COMMITTED this snapshot is newer than the locks */
	PushActiveSnapshot(GetTransactionSnapshot());

	InitMaterializedSRF(fcinfo, 0);
	if (OidIsValid(relids[1]))
		poser_become_owner(relids[1], &save_userid, &save_sec_context);
	else
		GetUserIdAndSecContext(&save_userid, &save_sec_context);
	for (int i = 0; i < lengthof(tables); i++)
		complete = complete && poser_may_read(relids[i]);
	for (int i = 0; i < lengthof(history_tables); i++)
		has_history = has_history && is_readable(history_tables[i].name, nspid);

	/* what is expected is written without quotes */
	level = NewGUCNestLevel();
	(void) set_config_option("quote_all_identifiers", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	SPI_connect();
	version = installed_version(fcinfo->flinfo->fn_oid);

	/* without its columns a table cannot be counted */
	if (poser_check_structure(rsinfo, nspid, version) && complete)
		poser_check_counts(rsinfo, nspid, version, relids[0], relids[1], relids[2], relids[3]);
	if (has_history && is_from(version, 2))
		poser_check_history(rsinfo, nspid, version);
	if (is_from(version, 3) && find_batches(nspid))
		poser_check_batches(rsinfo, nspid, version);
	if (has_history && is_from(version, 4) && find_consumers(nspid))
		poser_check_consumers(rsinfo, nspid, version);

	SPI_finish();
	AtEOXact_GUC(true, level);
	SetUserIdAndSecContext(save_userid, save_sec_context);
	PopActiveSnapshot();
	return (Datum) 0;
}
