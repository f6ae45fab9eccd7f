/*
 * batch.c
 *	  Batches: imports under review.
 *
 * A batch is a header in poser_batch and rows in poser_batch_row, each of which
 * says by jsonb what is to be done to one row of the target, and what the fields
 * concerned were when that was decided.  Both are read and written with the
 * caller's own privileges and policies; what only we may write (row_count,
 * executed, ...) is written as their owner, past the guard below.
 *
 * To compare a batch with its target its rows are made into rows of the
 * target's types and handed to the engine in import.c, which then judges them by
 * three values for each field: what it was, what it is to be, and what it is.
 * Only if it is neither of the first two has it been changed by others in a way
 * that matters: a conflict.
 *
 * Locks: whoever changes rows of a batch, and whoever populates, refreshes or
 * executes it, locks its header until his transaction ends.  So the count of its
 * rows is true, it is executed once, and nobody edits it meanwhile.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "batches/batches.h"
#include "imports/imports.h"
#include "versions/versions.h"

PG_FUNCTION_INFO_V1(poser_batch_guard);
PG_FUNCTION_INFO_V1(poser_batch_row_guard);
PG_FUNCTION_INFO_V1(poser_batch_populate);
PG_FUNCTION_INFO_V1(poser_batch_refresh);
PG_FUNCTION_INFO_V1(poser_batch_execute);
PG_FUNCTION_INFO_V1(poser_batch_purge);

/* A batch that is being worked on. */
typedef struct Batch
{
	const char *schema; /* quoted */
	Oid relid;			/* of poser_batch */
	Datum uuid;			/* varchar */
	int64 id;
	Oid target;
	Datum key; /* text[], or 0 */
	bool complete;
	bool executed;

	/* while it is compared */
	ExprState *populate; /* makes a record of the target of an object */
	int64 base;			 /* number of the last row so far */
	bool skip_conflicts;
	bool refused;
	EphemeralNamedRelationData verdicts;
	EphemeralNamedRelationData rejects;
} Batch;

/* What a batch's rows have after the columns to be written. */
#define EXTRA_OLD(import, i) (1 + (import)->ncolumns + (i))
#define EXTRA_GIVEN(import) (1 + 2 * (import)->ncolumns)
#define EXTRA_BASED(import) (2 + 2 * (import)->ncolumns)
#define EXTRA_OPERATION(import) (3 + 2 * (import)->ncolumns)

/* As in the column operation; the other operations are only of a comparison. */
static const char *const operations[] = {"create", "update", "delete", "unchanged"};

/* Is what is done to a header our own doing?  And of which batch are we marking rows? */
static bool writing_header = false;
static const char *marked_batch = NULL;

/* Statements on rows of batches that have begun, and whose AFTER trigger is still to come. */
static PoserStatement *unguarded = NULL;

/* The name of a batch in errors. */
static char *
batch_name(int64 id, Datum uuid)
{
	return psprintf("batch " INT64_FORMAT " (\"%s\")", id, TextDatumGetCString(uuid));
}

/*
 * Lock a table of the batches, so that it is not rewritten while it is used.  In
 * REPEATABLE READ and SERIALIZABLE it is an error if it was rewritten since the
 * transaction's snapshot, which would not see its rows.
 */
static Oid
lock_table(const char *name, Oid nspid)
{
	Oid relid = poser_relation_by_name(name, nspid);

	LockRelationOid(relid, RowShareLock);
	if (IsolationUsesXactSnapshot())
		poser_check_rewritten(relid, GetTransactionSnapshot());
	return relid;
}

/*
 * The guards
 */

/* Columns of poser_batch that only we, or an owner, may change. */
static const char *const protected_columns[] = {
	"uuid", "id", "target", "created", "created_by", "role_name", "executed", "executed_by"};

/* The number of the table's column of this name; an error if it is not of the type, or there is none. */
static int
column_number(Relation rel, const char *name, Oid type)
{
	int column = SPI_fnumber(RelationGetDescr(rel), name);

	if (column <= 0)
		poser_structure_error(rel);
	if (OidIsValid(type))
		poser_check_type(RelationGetDescr(rel), column, type);
	return column;
}

/* The column's value; its type is not looked at if "type" is InvalidOid. */
static Datum
column_of(Relation rel, HeapTuple tuple, const char *name, Oid type, bool *isnull)
{
	return heap_getattr(tuple, column_number(rel, name, type), RelationGetDescr(rel), isnull);
}

static bool
is_changed(Relation rel, HeapTuple old, HeapTuple new, const char *name)
{
	bool was_null;
	bool is_null;
	Datum was = column_of(rel, old, name, InvalidOid, &was_null);
	Datum is = column_of(rel, new, name, InvalidOid, &is_null);
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), column_number(rel, name, InvalidOid) - 1);

	if (was_null || is_null)
		return was_null != is_null;
	return !datum_image_eq(was, is, att->attbyval, att->attlen);
}

/* The name in errors of the batch that has this header. */
static char *
name_of(Relation rel, HeapTuple tuple)
{
	bool isnull;

	return batch_name(DatumGetInt64(column_of(rel, tuple, "id", INT8OID, &isnull)),
					  column_of(rel, tuple, "uuid", VARCHAROID, &isnull));
}

static void
check_target(Relation rel, HeapTuple tuple)
{
	bool isnull;
	Oid target = DatumGetObjectId(column_of(rel, tuple, "target", REGCLASSOID, &isnull));
	char relkind;

	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("target must not be null")));
	relkind = get_rel_relkind(target);
	/* its name would mean nothing in a dump */
	if (relkind != '\0' && get_rel_persistence(target) == RELPERSISTENCE_TEMP)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot make a batch for temporary table \"%s\"", get_rel_name(target))));
	if (relkind != RELKIND_RELATION && relkind != RELKIND_PARTITIONED_TABLE &&
		relkind != RELKIND_FOREIGN_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot make a batch for \"%s\"",
						relkind == '\0' ? psprintf("%u", target) : get_rel_name(target)),
				 errdetail("It is not a table or foreign table.")));
}

/* What a new batch is, whatever the user says. */
static HeapTuple
new_batch(Relation rel, HeapTuple tuple)
{
	static const struct
	{
		const char *name;
		Oid type;
	} attributes[] = {
		{"created", TIMESTAMPTZOID},
		{"created_by", TEXTOID},
		{"role_name", NAMEOID},
		{"row_count", INT8OID},
		{"executed", InvalidOid},
		{"executed_by", InvalidOid}};
	int columns[lengthof(attributes)];
	Datum values[lengthof(attributes)];
	bool nulls[lengthof(attributes)] = {false, false, false, false, true, true};
	NameData role;

	for (int i = 0; i < lengthof(attributes); i++)
		columns[i] = column_number(rel, attributes[i].name, attributes[i].type);
	namestrcpy(&role, GetUserNameFromId(GetUserId(), false));
	values[0] = TimestampTzGetDatum(GetCurrentTransactionStartTimestamp());
	values[1] = CStringGetTextDatum(poser_username());
	values[2] = NameGetDatum(&role);
	values[3] = Int64GetDatum(0);
	values[4] = values[5] = (Datum) 0;
	return heap_modify_tuple_by_cols(tuple, RelationGetDescr(rel), lengthof(attributes), columns, values, nulls);
}

/*
 * poser_batch_guard() before each row of poser_batch that is written.
 */
Datum
poser_batch_guard(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = poser_check_trigger(fcinfo);
	Relation rel = trigdata->tg_relation;
	HeapTuple old = trigdata->tg_trigtuple;
	HeapTuple new = TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event) ? trigdata->tg_newtuple : old;
	bool not_executed;
	bool isnull;
	bool is_owner;

	if (!TRIGGER_FIRED_FOR_ROW(trigdata->tg_event) || !TRIGGER_FIRED_BEFORE(trigdata->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" must be fired before rows", trigdata->tg_trigger->tgname)));
	if (writing_header || poser_is_restore(rel))
		return PointerGetDatum(new);

	if (TRIGGER_FIRED_BY_INSERT(trigdata->tg_event))
	{
		check_target(rel, new);
		return PointerGetDatum(new_batch(rel, new));
	}

	is_owner = poser_is_owner(RelationGetRelid(rel), GetUserId());
	(void) column_of(rel, old, "executed", InvalidOid, &not_executed);
	if (!not_executed && !is_owner)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s has been executed", name_of(rel, old)),
				 errdetail("Only the owner of \"%s\" can change it.", RelationGetRelationName(rel))));
	if (TRIGGER_FIRED_BY_DELETE(trigdata->tg_event))
		return PointerGetDatum(old);

	if (is_changed(rel, old, new, "row_count"))
		ereport(ERROR,
				(errcode(ERRCODE_GENERATED_ALWAYS),
				 errmsg("column \"row_count\" can only be changed by changing rows")));
	for (int i = 0; i < lengthof(protected_columns); i++)
		if (!is_owner && is_changed(rel, old, new, protected_columns[i]))
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("column \"%s\" of relation \"%s\" can only be changed by its owner",
							protected_columns[i], RelationGetRelationName(rel))));
	/* it says what the rows mean that have been reviewed */
	if (is_changed(rel, old, new, "key") &&
		(!not_executed || DatumGetBool(column_of(rel, old, "complete", BOOLOID, &isnull))))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("column \"key\" of %s cannot be changed", name_of(rel, old)),
				 errdetail("It is complete or has been executed.")));
	/* other columns of a batch whose target is gone can be changed */
	if (is_changed(rel, old, new, "target"))
		check_target(rel, new);
	return PointerGetDatum(new);
}

/* Run an UPDATE of poser_batch, past the guard. */
static void
update_header(const char *sql, int nargs, Oid *argtypes, Datum *args)
{
	writing_header = true;
	PG_TRY();
	{
		if (SPI_execute_with_args(sql, nargs, argtypes, args, NULL, false, 0) != SPI_OK_UPDATE)
			elog(ERROR, "could not write a batch");
	}
	PG_FINALLY();
	{
		writing_header = false;
	}
	PG_END_TRY();
}

/* Add to the number of a batch's rows, having locked its header. */
static void
count_rows(Relation rel, const char *header, Datum uuid, int64 n, bool is_owner)
{
	Oid argtypes[] = {VARCHAROID, INT8OID};
	Datum args[] = {uuid, Int64GetDatum(n)};
	bool isnull;

	if (SPI_execute_with_args(psprintf("SELECT executed IS NOT NULL, complete, id FROM %s"
									   " WHERE uuid OPERATOR(pg_catalog.=) $1 FOR NO KEY UPDATE",
									   header),
							  1, argtypes, args, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not lock a batch");
	/* a batch that is deleted takes its rows along */
	if (SPI_processed == 0)
		return;
	poser_check_type(SPI_tuptable->tupdesc, 2, BOOLOID);
	poser_check_type(SPI_tuptable->tupdesc, 3, INT8OID);
	if (marked_batch == NULL || strcmp(marked_batch, TextDatumGetCString(uuid)) != 0)
	{
		bool executed = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
		bool complete = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull));
		int64 id = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 3, &isnull));

		if (executed && !is_owner)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("%s has been executed", batch_name(id, uuid)),
					 errdetail("Only the owner of \"%s\" can change its rows.",
							   RelationGetRelationName(rel))));
		if (complete && !executed)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("%s is complete", batch_name(id, uuid)),
					 errhint("Its rows can be changed again when \"complete\" is set to false.")));
	}
	if (n != 0)
		update_header(psprintf("UPDATE %s SET row_count = row_count OPERATOR(pg_catalog.+) $2"
							   " WHERE uuid OPERATOR(pg_catalog.=) $1",
							   header),
					  2, argtypes, args);
}

/* Add up what the statement has changed, batch by batch. */
static void
count_changes(TriggerData *trigdata, const char *header, bool is_owner)
{
	StringInfoData sql;
	SPITupleTable *batches;
	uint64 n;

	if (TRIGGER_FIRED_BY_TRUNCATE(trigdata->tg_event))
	{
		poser_check_owner(RelationGetRelid(trigdata->tg_relation));
		update_header(psprintf("UPDATE %s SET row_count = 0 WHERE row_count OPERATOR(pg_catalog.<>) 0", header),
					  0, NULL, NULL);
		return;
	}

	if (SPI_register_trigger_data(trigdata) < 0)
		elog(ERROR, "could not register the rows of a trigger");
	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT batch_uuid, pg_catalog.sum(n)::pg_catalog.int8 FROM (");
	if (trigdata->tg_newtable != NULL)
		appendStringInfo(&sql, "SELECT batch_uuid, CASE WHEN removed THEN 0 ELSE 1 END AS n FROM %s",
						 quote_identifier(trigdata->tg_trigger->tgnewtable));
	if (trigdata->tg_newtable != NULL && trigdata->tg_oldtable != NULL)
		appendStringInfoString(&sql, " UNION ALL ");
	if (trigdata->tg_oldtable != NULL)
		appendStringInfo(&sql, "SELECT batch_uuid, CASE WHEN removed THEN 0 ELSE -1 END AS n FROM %s",
						 quote_identifier(trigdata->tg_trigger->tgoldtable));
	appendStringInfoString(&sql, ") AS change GROUP BY batch_uuid ORDER BY batch_uuid");
	if (SPI_execute(sql.data, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not count the rows of a trigger");
	batches = SPI_tuptable;
	n = SPI_processed;
	poser_check_type(batches->tupdesc, 1, VARCHAROID);
	for (uint64 i = 0; i < n; i++)
	{
		bool isnull;
		Datum uuid = SPI_getbinval(batches->vals[i], batches->tupdesc, 1, &isnull);

		count_rows(trigdata->tg_relation, header, uuid,
				   DatumGetInt64(SPI_getbinval(batches->vals[i], batches->tupdesc, 2, &isnull)), is_owner);
	}
}

/*
 * poser_batch_row_guard() before and after statements that write poser_batch_row.
 *
 * Before, for a restore may come to the rows before their batches; and so that
 * a statement that is not run to its end, after which it would not be called,
 * cannot be committed.
 */
Datum
poser_batch_row_guard(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = poser_check_trigger(fcinfo);
	Oid nspid = get_func_namespace(fcinfo->flinfo->fn_oid);
	Oid relid = RelationGetRelid(trigdata->tg_relation);
	bool is_owner = poser_is_owner(relid, GetUserId());
	PoserStatement *statement;
	Oid save_userid;
	int save_sec_context;

	if (TRIGGER_FIRED_BEFORE(trigdata->tg_event))
	{
		if (TRIGGER_FIRED_BY_INSERT(trigdata->tg_event))
			poser_restore_wait(trigdata->tg_relation);
		(void) poser_statement_begin(&unguarded, trigdata);
		return PointerGetDatum(NULL);
	}
	statement = poser_statement_end(&unguarded, trigdata);
	if (statement != NULL)
		pfree(statement);
	if (poser_is_restore(trigdata->tg_relation))
		return PointerGetDatum(NULL);
	if (TRIGGER_FIRED_BY_TRUNCATE(trigdata->tg_event))
		poser_check_owner(relid);

	poser_become_owner(relid, &save_userid, &save_sec_context);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	count_changes(trigdata, poser_relation_name(lock_table("poser_batch", nspid)), is_owner);
	SPI_finish();
	SetUserIdAndSecContext(save_userid, save_sec_context);
	return PointerGetDatum(NULL);
}

static void
forget_transaction(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE)
		poser_statement_check(unguarded);
	else if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		unguarded = NULL; /* their memory goes with the transaction */
}

static void
forget_subtransaction(SubXactEvent event, SubTransactionId mySubid,
					  SubTransactionId parentSubid, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		poser_statement_abort(&unguarded, mySubid);
}

void
poser_batch_init(void)
{
	RegisterXactCallback(forget_transaction, NULL);
	RegisterSubXactCallback(forget_subtransaction, NULL);
}

/*
 * The header
 */

/*
 * Lock the rows of a batch.  Whoever edits one has it before he comes to the
 * header, so we must have them in this order, too.  And if one has been changed
 * since the transaction's snapshot was taken, this is where it fails.
 */
static void
lock_rows(const Batch *batch)
{
	Oid argtypes[] = {VARCHAROID};
	SPIExecuteOptions options = {0};
	SPIPlanPtr plan = SPI_prepare(psprintf("SELECT FROM %s.poser_batch_row"
										   " WHERE batch_uuid OPERATOR(pg_catalog.=) $1 AND NOT removed"
										   " ORDER BY sequence FOR NO KEY UPDATE",
										   batch->schema),
								  1, argtypes);

	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	options.params = makeParamList(1);
	options.params->params[0].value = batch->uuid;
	options.params->params[0].isnull = false;
	options.params->params[0].pflags = PARAM_FLAG_CONST;
	options.params->params[0].ptype = VARCHAROID;
	options.dest = None_Receiver;
	if (SPI_execute_plan_extended(plan, &options) < 0)
		elog(ERROR, "SPI_execute_plan_extended failed: %s", SPI_result_code_string(SPI_result));
}

/*
 * Find a batch and lock it, and its rows if there are some to be read, until the
 * transaction ends.  The caller must be able to see and to change it.
 */
static void
lock_batch(Batch *batch, Oid nspid, Datum uuid, bool rows)
{
	MemoryContext context = CurrentMemoryContext;
	static const Oid types[] = {INT8OID, REGCLASSOID, TEXTARRAYOID, BOOLOID};
	Oid argtypes[] = {VARCHAROID};
	bool isnull;
	HeapTuple tuple;
	TupleDesc desc;

	memset(batch, 0, sizeof(Batch));
	batch->schema = quote_identifier(get_namespace_name(nspid));
	(void) lock_table("poser_batch_row", nspid);
	batch->relid = lock_table("poser_batch", nspid);
	batch->uuid = uuid;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (rows)
		lock_rows(batch);
	if (SPI_execute_with_args(psprintf("SELECT id, target, key, complete, executed IS NOT NULL"
									   "  FROM %s.poser_batch"
									   " WHERE uuid OPERATOR(pg_catalog.=) $1 FOR NO KEY UPDATE",
									   batch->schema),
							  1, argtypes, &uuid, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not lock a batch");
	if (SPI_processed == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("batch \"%s\" does not exist", TextDatumGetCString(uuid))));
	tuple = SPI_tuptable->vals[0];
	desc = SPI_tuptable->tupdesc;
	for (int i = 0; i < lengthof(types); i++)
		poser_check_type(desc, i + 1, types[i]);
	batch->id = DatumGetInt64(SPI_getbinval(tuple, desc, 1, &isnull));
	batch->target = DatumGetObjectId(SPI_getbinval(tuple, desc, 2, &isnull));
	batch->key = SPI_getbinval(tuple, desc, 3, &isnull);
	if (isnull)
		batch->key = (Datum) 0;
	else
	{
		MemoryContext old = MemoryContextSwitchTo(context);

		batch->key = PointerGetDatum(DatumGetArrayTypePCopy(batch->key));
		MemoryContextSwitchTo(old);
	}
	batch->complete = DatumGetBool(SPI_getbinval(tuple, desc, 4, &isnull));
	batch->executed = DatumGetBool(SPI_getbinval(tuple, desc, 5, &isnull));
	SPI_finish();

	if (batch->executed)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s has been executed", batch_name(batch->id, uuid))));
}

static void
check_mutable(const Batch *batch)
{
	if (batch->complete)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s is complete", batch_name(batch->id, batch->uuid)),
				 errhint("Its rows can be changed again when \"complete\" is set to false.")));
}

/* Write what only we may into the header; $1 is its uuid. */
static void
write_header(const Batch *batch, const char *assignments, int nargs, Oid *argtypes, Datum *args)
{
	Oid save_userid;
	int save_sec_context;
	char *sql = psprintf("UPDATE %s.poser_batch SET %s WHERE uuid OPERATOR(pg_catalog.=) $1",
						 batch->schema, assignments);

	poser_become_owner(batch->relid, &save_userid, &save_sec_context);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	update_header(sql, nargs, argtypes, args);
	SPI_finish();
	SetUserIdAndSecContext(save_userid, save_sec_context);
}

/* Say in the header what has been done. */
static void
write_status(const Batch *batch, const char *what, PoserImport *import, int64 bad, const char *bad_name)
{
	Oid argtypes[] = {VARCHAROID, TEXTOID};
	Datum args[] = {batch->uuid,
					CStringGetTextDatum(psprintf("%s: create " INT64_FORMAT ", update " INT64_FORMAT
												 ", delete " INT64_FORMAT ", unchanged " INT64_FORMAT
												 ", %s %s" INT64_FORMAT,
												 what, import->found[POSER_IMPORT_CREATE],
												 import->found[POSER_IMPORT_UPDATE],
												 import->found[POSER_IMPORT_DELETE],
												 import->found[POSER_IMPORT_UNCHANGED], bad_name,
												 import->problems.at_least ? "at least " : "", bad))};

	write_header(batch, "status = $2", 2, argtypes, args);
}

/*
 * What rows are found to be
 */

/* Make stores for problems, and for rows that cannot be read. */
static void
collect_problems(PoserImport *import, bool rejects)
{
	Batch *batch = import->private;
	MemoryContext old_context = MemoryContextSwitchTo(import->context);
	TupleDesc desc = CreateTemplateTupleDesc(2);

	TupleDescInitEntry(desc, 1, "row", INT8OID, -1, 0);
	TupleDescInitEntry(desc, 2, "text", TEXTOID, -1, 0);
	TupleDescFinalize(desc);
	import->problems.all_desc = BlessTupleDesc(desc);
	import->problems.all = tuplestore_begin_heap(false, false, work_mem);
	batch->verdicts.md.name = "poser_import_problem";
	batch->verdicts.md.enrtype = ENR_NAMED_TUPLESTORE;
	batch->verdicts.md.tupdesc = import->problems.all_desc;
	batch->verdicts.md.enrtuples = 1000;
	batch->verdicts.reldata = import->problems.all;
	if (SPI_register_relation(&batch->verdicts) != SPI_OK_REL_REGISTER)
		elog(ERROR, "could not register the problems of a batch");
	if (rejects)
	{
		desc = CreateTemplateTupleDesc(4);
		TupleDescInitEntry(desc, 1, "row", INT8OID, -1, 0);
		TupleDescInitEntry(desc, 2, "text", TEXTOID, -1, 0);
		TupleDescInitEntry(desc, 3, "key", JSONBOID, -1, 0);
		TupleDescInitEntry(desc, 4, "new", JSONBOID, -1, 0);
		TupleDescFinalize(desc);
		import->problems.reject_desc = BlessTupleDesc(desc);
		import->problems.rejects = tuplestore_begin_heap(false, false, work_mem);
		batch->rejects.md.name = "poser_import_reject";
		batch->rejects.md.enrtype = ENR_NAMED_TUPLESTORE;
		batch->rejects.md.tupdesc = import->problems.reject_desc;
		batch->rejects.md.enrtuples = 1000;
		batch->rejects.reldata = import->problems.rejects;
		if (SPI_register_relation(&batch->rejects) != SPI_OK_REL_REGISTER)
			elog(ERROR, "could not register the rows of a batch");
	}
	MemoryContextSwitchTo(old_context);
}

/*
 * Run a query of which $1 is the batch's uuid, with the caller's privileges, but
 * with settings by which values are the same when they have been text.
 */
static void
query_for(PoserImport *import, const char *sql, DestReceiver *dest)
{
	Batch *batch = import->private;
	Oid argtypes[] = {VARCHAROID};
	int level = poser_begin_text_settings();

	poser_import_execute(import, sql, dest, 1, argtypes, &batch->uuid);
	AtEOXact_GUC(true, level);
}

/* The same for a statement; returns how many rows it has written. */
static uint64
execute_for(PoserImport *import, const char *sql)
{
	query_for(import, sql, NULL);
	return SPI_processed;
}

/* Write the problems that were collected into the batch's rows. */
static void
write_verdicts(PoserImport *import)
{
	Batch *batch = import->private;

	batch->verdicts.md.enrtuples = import->problems.nrows;
	execute_for(import,
				psprintf("UPDATE %s.poser_batch_row AS r SET status = 'error', status_text = v.text"
						 "  FROM (SELECT row, pg_catalog.min(text) AS text FROM poser_import_problem GROUP BY row) AS v"
						 " WHERE r.batch_uuid OPERATOR(pg_catalog.=) $1 AND r.sequence OPERATOR(pg_catalog.=) v.row"
						 "   AND NOT pg_catalog.record_image_eq(ROW(r.status, r.status_text),"
						 "                                      ROW('error'::pg_catalog.text, v.text))",
						 batch->schema));
}

/* A batch's row has for each column what was, is to be and is. */
static void
check_width(PoserImport *import)
{
	const int limit = (MaxTupleAttributeNumber - 5) / 3;

	if (import->ncolumns > limit)
		ereport(ERROR,
				(errcode(ERRCODE_TOO_MANY_COLUMNS),
				 errmsg("a batch cannot have more than %d columns", limit)));
}

/* How many rows of the batch cannot be executed as they are. */
static int64
count_bad_rows(PoserImport *import)
{
	Batch *batch = import->private;
	bool isnull;
	int64 result;

	execute_for(import,
				psprintf("SELECT pg_catalog.count(*) FROM %s.poser_batch_row"
						 " WHERE batch_uuid OPERATOR(pg_catalog.=) $1 AND NOT removed"
						 "   AND status OPERATOR(pg_catalog.=) ANY ('{error,conflict}'::pg_catalog.text[])",
						 batch->schema));
	result = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	SPI_freetuptable(SPI_tuptable);
	return result;
}

/*
 * Populating
 */

/* Add rows to the batch for the rows in "poser_import_change". */
static void
write_populated(PoserImport *import, PoserImportOperation operation, const uint8 *columns, int64 nrows)
{
	Batch *batch = import->private;
	StringInfoData sql;
	bool is_delete = (operation == POSER_IMPORT_DELETE);
	const uint8 *which = is_delete ? NULL : columns;

	Assert(operation <= POSER_IMPORT_UNCHANGED);
	initStringInfo(&sql);
	appendStringInfo(&sql,
					 "INSERT INTO %s.poser_batch_row (batch_uuid, sequence, operation, key, old, new) SELECT $1, ",
					 batch->schema);
	if (is_delete)
	{
		appendStringInfo(&sql, "pg_catalog.row_number() OVER () OPERATOR(pg_catalog.+) " INT64_FORMAT, batch->base);
		batch->base += nrows;
	}
	else
		appendStringInfoString(&sql, "c.row");
	appendStringInfo(&sql, ", '%s', ", operations[operation]);
	poser_import_append_object(&sql, import, 0, import->nkeys, NULL, "c.c", false);
	appendStringInfoString(&sql, ", ");
	if (operation == POSER_IMPORT_CREATE)
		appendStringInfoString(&sql, "NULL");
	else
		poser_import_append_object(&sql, import, import->nkeys, import->ncolumns, which, "c.o", false);
	appendStringInfoString(&sql, ", ");
	if (is_delete)
		appendStringInfoString(&sql, "NULL");
	else
		poser_import_append_object(&sql, import, import->nkeys, import->ncolumns, which, "c.c", false);
	appendStringInfoString(&sql, " FROM poser_import_change AS c");
	execute_for(import, sql.data);
}

static void
populate(PoserImport *import)
{
	Batch *batch = import->private;
	int64 nrejects;

	collect_problems(import, true);
	poser_import_read(import);
	batch->base = import->done;
	nrejects = import->done - import->nrows;
	poser_import_compare(import);
	poser_import_write(import);
	if (nrejects > 0)
		execute_for(import,
					psprintf("INSERT INTO %s.poser_batch_row"
							 "       (batch_uuid, sequence, operation, key, new, status, status_text)"
							 "SELECT $1, row, 'update', key, new, 'error', text FROM poser_import_reject",
							 batch->schema));
	if (import->problems.nrows > nrejects)
		write_verdicts(import);
}

/* The names of the key's columns. */
static Datum
key_names(PoserImport *import)
{
	Datum *names = palloc(sizeof(Datum) * import->nkeys);

	for (int i = 0; i < import->nkeys; i++)
		names[i] = CStringGetTextDatum(import->columns[i].label);
	return PointerGetDatum(construct_array(names, import->nkeys, TEXTOID, -1, false, TYPALIGN_INT));
}

/*
 * poser_batch_populate(batch varchar, source regclass, key text[], fields text[], deletes boolean)
 * returns bigint
 */
Datum
poser_batch_populate(PG_FUNCTION_ARGS)
{
	Batch batch;
	PoserImport *import;
	Oid argtypes[] = {VARCHAROID, TEXTARRAYOID};
	Datum args[2];
	int64 result;

	poser_import_check_argument(PG_ARGISNULL(0), "batch");
	poser_import_check_argument(PG_ARGISNULL(1), "source");
	poser_import_check_argument(PG_ARGISNULL(4), "deletes");
	PreventCommandIfReadOnly("poser_batch_populate()");
	(void) poser_relation_name(PG_GETARG_OID(1));
	lock_batch(&batch, get_func_namespace(fcinfo->flinfo->fn_oid), PG_GETARG_DATUM(0), false);
	check_mutable(&batch);

	import = poser_import_begin("poser_batch_populate", PG_GETARG_OID(1), batch.target,
								PG_ARGISNULL(2) ? (Datum) 0 : PG_GETARG_DATUM(2),
								PG_ARGISNULL(3) ? (Datum) 0 : PG_GETARG_DATUM(3), false);
	check_width(import);
	import->read_only = false;
	import->private = &batch;
	import->write = write_populated;
	import->deletes = PG_GETARG_BOOL(4);
	if (execute_for(import, psprintf("SELECT FROM %s.poser_batch_row"
									 " WHERE batch_uuid OPERATOR(pg_catalog.=) $1 LIMIT 1",
									 batch.schema)) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s has rows already", batch_name(batch.id, batch.uuid)),
				 errhint("Delete them first, or make another batch.")));
	PG_TRY();
	{
		populate(import);
		args[0] = batch.uuid;
		args[1] = key_names(import);
		write_header(&batch, "key = $2", 2, argtypes, args);
		write_status(&batch, "populated", import, count_bad_rows(import), "errors");
	}
	PG_FINALLY();
	{
		poser_import_restore_activity(import);
	}
	PG_END_TRY();
	result = batch.base;
	tuplestore_end(import->problems.all);
	tuplestore_end(import->problems.rejects);
	poser_import_end(import);
	PG_RETURN_INT64(result);
}

/*
 * Reading a batch
 */

/* The value of a name in an object, or NULL. */
static JsonbValue *
member(Jsonb *object, const char *name)
{
	return getKeyJsonValueFromContainer(&object->root, name, strlen(name), NULL);
}

/* An object with just one of another's members. */
static Datum
object_of(const char *name, JsonbValue *value)
{
	JsonbInState state = {0};
	JsonbValue key;

	key.type = jbvString;
	key.val.string.val = unconstify(char *, name);
	key.val.string.len = strlen(name);
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	pushJsonbValue(&state, WJB_KEY, &key);
	pushJsonbValue(&state, WJB_VALUE, value);
	pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	return JsonbPGetDatum(JsonbValueToJsonb(state.result));
}

/* The first name in an object that is none of these columns. */
static char *
stranger(PoserImport *import, Jsonb *object, int first, int last)
{
	JsonbIterator *iterator = JsonbIteratorInit(&object->root);
	JsonbIteratorToken token;
	JsonbValue value;

	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		bool found = false;

		if (token != WJB_KEY)
			continue;
		for (int i = first; i < last; i++)
			found = found || (strlen(import->columns[i].label) == value.val.string.len &&
							  strncmp(import->columns[i].label, value.val.string.val, value.val.string.len) == 0);
		if (!found)
			return pnstrdup(value.val.string.val, value.val.string.len);
	}
	return NULL;
}

/*
 * Take the columns from "first" to before "last" out of an object; "found" gets
 * which there are.  If that cannot be done, describes why in "problem" and returns
 * false.
 */
static bool
read_object(PoserImport *import, Jsonb *object, int first, int last, Datum *values, bool *nulls,
			uint8 *found, PoserImportProblem *problem)
{
	Batch *batch = import->private;
	Datum record = JsonbPGetDatum(object);
	ErrorData *error;
	bool isnull = false;
	int n = 0;

	for (int i = first; i < last; i++)
		if (member(object, import->columns[i].label) != NULL)
		{
			POSER_IMPORT_ADD(found, i);
			n++;
		}
	if (n < JsonContainerSize(&object->root))
	{
		problem->reason = psprintf("there is no such column to be written: \"%s\"", stranger(import, object, first, last));
		problem->kind = "no such column";
		problem->sqlstate = ERRCODE_INVALID_PARAMETER_VALUE;
		return false;
	}
	if (n == 0)
		return true;

	if (!poser_import_evaluate(import, batch->populate, &record, &isnull, &error))
	{
		/* by itself each of them says whether it is the one */
		for (int i = first; i < last; i++)
		{
			JsonbValue *value = member(object, import->columns[i].label);
			Datum single;

			if (value == NULL)
				continue;
			single = object_of(import->columns[i].label, value);
			isnull = false;
			if (!poser_import_evaluate(import, batch->populate, &single, &isnull, &error))
			{
				poser_import_describe(import, problem, import->columns[i].label, error);
				return false;
			}
		}
		poser_import_describe(import, problem, NULL, error);
		return false;
	}

	for (int i = first; i < last; i++)
	{
		if (!POSER_IMPORT_HAS(found, i))
			continue;
		values[i] = GetAttributeByNum(DatumGetHeapTupleHeader(record), import->columns[i].attno, &nulls[i]);
		values[i] = poser_import_flatten(&import->columns[i], values[i], nulls[i]);
	}
	return true;
}

/*
 * What a row is meant to do, beside the operations that it can say: to be
 * written over whatever is there, if it is to be updated and says nothing of
 * that; or nothing whatever, if it neither says what is to be written nor deletes.
 */
#define OVERWRITE POSER_IMPORT_CONFLICT
#define NOTHING POSER_IMPORT_IS_GONE

static int
intention(int operation, bool no_old, bool no_new)
{
	if (operation != POSER_IMPORT_UPDATE && operation != POSER_IMPORT_UNCHANGED)
		return operation;
	if (no_new)
		return NOTHING;
	if (no_old)
		/* what was to be created and has been found to be there still is */
		return operation == POSER_IMPORT_UPDATE ? OVERWRITE : POSER_IMPORT_CREATE;
	return operation;
}

/* Take a row of the batch: (sequence, operation, key, old, new). */
static bool
receive_batch_row(TupleTableSlot *slot, DestReceiver *self)
{
	PoserImport *import = ((PoserImportReceiver *) self)->import;
	MemoryContext old_context = MemoryContextSwitchTo(import->row_context);
	const int natts = EXTRA_OPERATION(import) + 1;
	Datum *values = palloc0(sizeof(Datum) * natts);
	bool *nulls = palloc(sizeof(bool) * natts);
	uint8 *given;
	uint8 *based;
	bytea *masks[2];
	char *operation;
	PoserImportProblem problem = {.nrows = 1};
	bool is_good;
	int code = POSER_IMPORT_UNCHANGED;

	slot_getallattrs(slot);
	memset(nulls, true, sizeof(bool) * natts);
	for (int i = 0; i < lengthof(masks); i++)
	{
		masks[i] = palloc0(VARHDRSZ + POSER_IMPORT_BYTES(import));
		SET_VARSIZE(masks[i], VARHDRSZ + POSER_IMPORT_BYTES(import));
	}
	given = (uint8 *) VARDATA(masks[0]);
	based = (uint8 *) VARDATA(masks[1]);

	problem.row = DatumGetInt64(slot->tts_values[0]);
	operation = TextDatumGetCString(slot->tts_values[1]);
	for (int i = 0; i < lengthof(operations); i++)
		if (strcmp(operation, operations[i]) == 0)
			code = i;

	is_good = read_object(import, DatumGetJsonbP(slot->tts_values[2]), 0, import->nkeys,
						  values + 1, nulls + 1, given, &problem);
	for (int i = 0; i < import->nkeys && is_good; i++)
		if (nulls[1 + i])
		{
			problem.columns = poser_import_column(import, i);
			problem.reason = POSER_IMPORT_HAS(given, i) ? "the key is null" : "the key is missing";
			problem.kind = problem.reason;
			problem.sqlstate = ERRCODE_INVALID_PARAMETER_VALUE;
			is_good = false;
		}
	if (is_good && !slot->tts_isnull[4] && code != POSER_IMPORT_DELETE)
		is_good = read_object(import, DatumGetJsonbP(slot->tts_values[4]), import->nkeys, import->ncolumns,
							  values + 1, nulls + 1, given, &problem);
	if (is_good && !slot->tts_isnull[3])
		is_good = read_object(import, DatumGetJsonbP(slot->tts_values[3]), import->nkeys, import->ncolumns,
							  values + EXTRA_OLD(import, 0), nulls + EXTRA_OLD(import, 0), based, &problem);

	if (is_good)
	{
		values[0] = Int64GetDatum(problem.row);
		values[EXTRA_GIVEN(import)] = PointerGetDatum(masks[0]);
		values[EXTRA_BASED(import)] = PointerGetDatum(masks[1]);
		values[EXTRA_OPERATION(import)] =
			Int32GetDatum(intention(code, slot->tts_isnull[3], slot->tts_isnull[4]));
		nulls[0] = nulls[EXTRA_GIVEN(import)] = nulls[EXTRA_BASED(import)] =
			nulls[EXTRA_OPERATION(import)] = false;
		poser_import_add_row(import, values, nulls);
	}
	else
	{
		problem.subject = psprintf("Row " INT64_FORMAT ", key %s", problem.row,
							   poser_import_shown(JsonbToCString(NULL, &DatumGetJsonbP(slot->tts_values[2])->root, 0)));
		poser_import_problem(import, &problem);
	}
	MemoryContextSwitchTo(old_context);
	MemoryContextReset(import->row_context);
	ResetPerTupleExprContext(import->estate);
	poser_import_count(import);
	return true;
}

/* Read the batch's rows. */
static void
read_batch(PoserImport *import)
{
	Batch *batch = import->private;

	poser_import_progress(import, "reading", 0);
	query_for(import,
			  psprintf("SELECT sequence, operation, key, old, new FROM %s.poser_batch_row"
					   " WHERE batch_uuid OPERATOR(pg_catalog.=) $1 AND NOT removed"
					   " ORDER BY sequence",
					   batch->schema),
			  poser_import_receiver(import, receive_batch_row));
	poser_import_check_keys(import);
}

/*
 * Comparing a batch
 */

/* A value as jsonb. */
static Datum
as_json(PoserImport *import, PoserImportColumn *column, Datum value, bool isnull)
{
	ExprContext *econtext = GetPerTupleExprContext(import->estate);

	if (isnull)
		return DirectFunctionCall1(jsonb_in, CStringGetDatum("null"));
	econtext->caseValue_datum = value;
	econtext->caseValue_isNull = false;
	return ExecEvalExpr(column->as_json, econtext, &isnull);
}

/*
 * Are they the same, as far as a batch can tell?  What JSON has no words for,
 * such as an array's lower bounds, it does not know.
 */
static bool
is_same(PoserImport *import, PoserImportColumn *column, Datum value, bool isnull,
		Datum other, bool other_isnull)
{
	if (poser_import_same(column, value, isnull, other, other_isnull))
		return true;
	return datum_image_eq(as_json(import, column, value, isnull),
						  as_json(import, column, other, other_isnull), false, -1);
}

/* What is to be done for a row of the batch, if what it was, is to be and is are these. */
static PoserImportOperation
judge_batch(PoserImport *import, TupleTableSlot *slot, uint8 *columns)
{
	const int there = import->row_desc->natts;
	const uint8 *given = (uint8 *) VARDATA_ANY(DatumGetByteaPP(slot->tts_values[EXTRA_GIVEN(import)]));
	const uint8 *based = (uint8 *) VARDATA_ANY(DatumGetByteaPP(slot->tts_values[EXTRA_BASED(import)]));
	int operation = DatumGetInt32(slot->tts_values[EXTRA_OPERATION(import)]);
	bool overwrites = (operation == OVERWRITE);
	bool updates = false;
	bool conflicts = false;
	uint8 *changed;
	uint8 *learned = columns + POSER_IMPORT_BYTES(import);

	if (operation == NOTHING)
		return POSER_IMPORT_UNCHANGED;
	if (slot->tts_isnull[there])
	{
		if (operation == POSER_IMPORT_CREATE || overwrites)
		{
			memcpy(columns, given, POSER_IMPORT_BYTES(import));
			return POSER_IMPORT_CREATE;
		}
		return operation == POSER_IMPORT_DELETE ? POSER_IMPORT_UNCHANGED : POSER_IMPORT_IS_GONE;
	}

	changed = palloc0(POSER_IMPORT_BYTES(import));
	for (int i = import->nkeys; i < import->ncolumns; i++)
	{
		PoserImportColumn *column = &import->columns[i];
		Datum is = slot->tts_values[there + 1 + i];
		bool is_null = slot->tts_isnull[there + 1 + i];
		bool as_before = (!POSER_IMPORT_HAS(based, i) ||
						  is_same(import, column, is, is_null, slot->tts_values[EXTRA_OLD(import, i)],
								  slot->tts_isnull[EXTRA_OLD(import, i)]));
		bool as_wanted = (!POSER_IMPORT_HAS(given, i) ||
						  is_same(import, column, is, is_null, slot->tts_values[1 + i],
								  slot->tts_isnull[1 + i]));

		/* what was not known to be there is known from now on */
		if (POSER_IMPORT_HAS(given, i) && !POSER_IMPORT_HAS(based, i) &&
			(operation == POSER_IMPORT_UPDATE || operation == POSER_IMPORT_UNCHANGED || overwrites))
			POSER_IMPORT_ADD(learned, i);
		if (operation == POSER_IMPORT_DELETE ? as_before : as_wanted)
			continue;
		if (operation == POSER_IMPORT_DELETE || operation == POSER_IMPORT_CREATE || !as_before)
		{
			POSER_IMPORT_ADD(changed, i);
			conflicts = true;
		}
		else
		{
			POSER_IMPORT_ADD(columns, i);
			updates = true;
		}
	}
	if (conflicts)
	{
		memcpy(columns, changed, POSER_IMPORT_BYTES(import));
		return operation == POSER_IMPORT_CREATE ? POSER_IMPORT_IS_THERE : POSER_IMPORT_CONFLICT;
	}
	if (operation == POSER_IMPORT_DELETE)
		return POSER_IMPORT_DELETE;
	return updates ? POSER_IMPORT_UPDATE : POSER_IMPORT_UNCHANGED;
}

/* The number of rows that others have changed. */
static int64
count_conflicts(PoserImport *import)
{
	return import->found[POSER_IMPORT_CONFLICT] + import->found[POSER_IMPORT_IS_GONE] +
		   import->found[POSER_IMPORT_IS_THERE];
}

/* Append an expression for what a conflict is: what was there, and what is there now. */
static void
append_conflict(StringInfo sql, PoserImport *import, PoserImportOperation operation, const uint8 *columns)
{
	const char *separator = "";

	if (operation == POSER_IMPORT_IS_GONE)
		appendStringInfoString(sql, "pg_catalog.format('was %s and is gone', r.old)");
	else if (operation == POSER_IMPORT_IS_THERE)
	{
		appendStringInfoString(sql, "pg_catalog.format('was not there and is now %s', ");
		poser_import_append_object(sql, import, import->nkeys, import->ncolumns, NULL, "c.o", false);
		appendStringInfoChar(sql, ')');
	}
	else
		for (int i = import->nkeys; i < import->ncolumns; i++)
			if (POSER_IMPORT_HAS(columns, i))
			{
				const char *label = quote_literal_cstr(import->columns[i].label);

				appendStringInfo(sql,
								 "%spg_catalog.format('%%s was %%s and is now %%s', %s::pg_catalog.text,"
								 " r.old OPERATOR(pg_catalog.->) %s::pg_catalog.text,"
								 " COALESCE(pg_catalog.to_jsonb(",
								 separator, label, label);
				poser_import_append_value(sql, import, i, psprintf("c.o%d", i + 1));
				appendStringInfoString(sql, "), 'null'))");
				separator = " OPERATOR(pg_catalog.||) '; ' OPERATOR(pg_catalog.||) ";
			}
}

/* Write what the rows in "poser_import_change" are found to be into the rows of the batch. */
static void
write_findings(PoserImport *import, PoserImportOperation operation, const uint8 *columns, int64 nrows)
{
	Batch *batch = import->private;
	bool is_conflict = (operation >= POSER_IMPORT_CONFLICT);
	const char *found;
	const char *status = "ready";
	const uint8 *learned = columns + POSER_IMPORT_BYTES(import);
	bool learns = false;
	StringInfoData old;
	StringInfoData text;

	if (is_conflict)
		found = "r.operation";
	else if (operation == POSER_IMPORT_UNCHANGED)
		/* what is to be deleted and is gone already still is to be deleted */
		found = "CASE WHEN r.operation OPERATOR(pg_catalog.=) 'delete' THEN 'delete' ELSE 'unchanged' END::pg_catalog.text";
	else
		found = psprintf("'%s'::pg_catalog.text", operations[operation]);
	if (is_conflict)
		status = batch->skip_conflicts ? "skipped" : "conflict";
	for (int i = import->nkeys; i < import->ncolumns; i++)
		learns = learns || (POSER_IMPORT_HAS(learned, i) && !is_conflict);
	initStringInfo(&old);
	initStringInfo(&text);
	if (operation == POSER_IMPORT_DELETE)
		poser_import_append_object(&old, import, import->nkeys, import->ncolumns, NULL, "c.o", false);
	else if (learns)
		poser_import_append_object(&old, import, import->nkeys, import->ncolumns, learned, "c.o", false);
	if (operation == POSER_IMPORT_DELETE || learns)
		appendStringInfoString(&old, " OPERATOR(pg_catalog.||) COALESCE(r.old, '{}')");
	else if (operation == POSER_IMPORT_UNCHANGED)
		/* that tells what was to be created from what was to be updated */
		appendStringInfoString(&old, "CASE WHEN r.operation OPERATOR(pg_catalog.=) 'create' THEN NULL ELSE r.old END");
	else
		appendStringInfoString(&old, "r.old");
	if (is_conflict)
		append_conflict(&text, import, operation, columns);
	else
		appendStringInfoString(&text, "NULL::pg_catalog.text");

	execute_for(import,
				psprintf("UPDATE %1$s.poser_batch_row AS r"
						 "   SET operation = %2$s, old = %3$s, status = '%4$s', status_text = %5$s"
						 "  FROM poser_import_change AS c"
						 " WHERE r.batch_uuid OPERATOR(pg_catalog.=) $1 AND r.sequence OPERATOR(pg_catalog.=) c.row"
						 "   AND NOT pg_catalog.record_image_eq(ROW(r.operation, r.old, r.status, r.status_text),"
						 "                                      ROW(%2$s, %3$s, '%4$s'::pg_catalog.text, %5$s))",
						 batch->schema, found, old.data, status, text.data));
}

/* Note the conflicts in "poser_import_change" as problems. */
static void
note_conflicts(PoserImport *import, PoserImportOperation operation, const uint8 *columns, int64 nrows)
{
	static const char *const titles[] = {
		"changed by others", "deleted by others", "created by others"};
	Batch *batch = import->private;
	StringInfoData sql;
	uint64 n;

	if (operation < POSER_IMPORT_CONFLICT)
		return;
	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT c.row, pg_catalog.format('Row %s, key %s', c.row, r.key), ");
	append_conflict(&sql, import, operation, columns);
	appendStringInfo(&sql,
					 " FROM poser_import_change AS c JOIN %s.poser_batch_row AS r"
					 "   ON r.batch_uuid OPERATOR(pg_catalog.=) $1 AND r.sequence OPERATOR(pg_catalog.=) c.row"
					 " ORDER BY c.row LIMIT %d",
					 batch->schema, POSER_IMPORT_NAMED);
	n = execute_for(import, sql.data);
	for (uint64 i = 0; i < n; i++)
	{
		HeapTuple tuple = SPI_tuptable->vals[i];
		TupleDesc desc = SPI_tuptable->tupdesc;
		bool isnull;
		PoserImportProblem problem = {
			.row = DatumGetInt64(SPI_getbinval(tuple, desc, 1, &isnull)),
			.nrows = 1,
			.sqlstate = ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
			.subject = SPI_getvalue(tuple, desc, 2),
			.columns = operation == POSER_IMPORT_CONFLICT ? poser_import_columns(import, columns) : NULL,
			.reason = SPI_getvalue(tuple, desc, 3),
			.kind = titles[operation - POSER_IMPORT_CONFLICT],
			.title = titles[operation - POSER_IMPORT_CONFLICT]};

		poser_import_problem(import, &problem);
	}
	if (n > 0)
		poser_import_more_problems(import, nrows - n);
}

/* Mark rows, also in a batch that is complete. */
static void
mark_rows(PoserImport *import, PoserImportOperation operation, const uint8 *columns, int64 nrows)
{
	Batch *batch = import->private;

	marked_batch = TextDatumGetCString(batch->uuid);
	PG_TRY();
	{
		if (operation != POSER_IMPORT_UNCHANGED)
			write_findings(import, operation, columns, nrows);
		else
			/* what was said of rows before is no more */
			execute_for(import,
						psprintf("UPDATE %s.poser_batch_row SET status = 'ready', status_text = NULL"
								 " WHERE batch_uuid OPERATOR(pg_catalog.=) $1 AND NOT removed"
								 "   AND (status OPERATOR(pg_catalog.<>) 'ready' OR status_text IS NOT NULL)",
								 batch->schema));
	}
	PG_FINALLY();
	{
		marked_batch = NULL;
	}
	PG_END_TRY();
}

/* Do what is to be done, and mark what is not. */
static void
write_batch(PoserImport *import, PoserImportOperation operation, const uint8 *columns, int64 nrows)
{
	Batch *batch = import->private;

	if (batch->refused)
		note_conflicts(import, operation, columns, nrows);
	else if (operation >= POSER_IMPORT_CONFLICT)
		mark_rows(import, operation, columns, nrows);
	else
		poser_import_write_rows(import, operation, columns, nrows);
}

static void
check_conflicts(PoserImport *import)
{
	Batch *batch = import->private;

	batch->refused = !batch->skip_conflicts && count_conflicts(import) > 0;
}

/* The columns of the target that can be written.  It stays locked, so that they do not change. */
static Datum
columns_of_target(Oid target)
{
	Relation rel = try_relation_open(target, AccessShareLock);
	Datum *names;
	int n = 0;

	/* the target is gone: poser_import_begin() raises the error */
	if (rel == NULL)
		return PointerGetDatum(construct_empty_array(TEXTOID));
	names = palloc(sizeof(Datum) * RelationGetDescr(rel)->natts);
	for (int i = 0; i < RelationGetDescr(rel)->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), i);

		if (!att->attisdropped && poser_import_can_be_written(att))
			names[n++] = CStringGetTextDatum(NameStr(att->attname));
	}
	relation_close(rel, NoLock);
	return PointerGetDatum(construct_array(names, n, TEXTOID, -1, false, TYPALIGN_INT));
}

/* The columns that can be written and that the rows' new or old values name; all if a row is to be deleted and has no old values. */
static Datum
field_names(Batch *batch)
{
	Oid argtypes[] = {VARCHAROID, TEXTARRAYOID};
	Datum args[] = {batch->uuid, columns_of_target(batch->target)};
	MemoryContext context = CurrentMemoryContext;
	MemoryContext old_context;
	Datum result;
	bool isnull;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute_with_args(
			psprintf("SELECT CASE WHEN pg_catalog.bool_or(r.operation OPERATOR(pg_catalog.=) 'delete' AND r.old IS NULL) THEN $2"
					 "            ELSE COALESCE(pg_catalog.array_agg(DISTINCT field.name)"
					 "                          FILTER (WHERE field.name OPERATOR(pg_catalog.=) ANY ($2)), '{}') END"
					 "  FROM %s.poser_batch_row AS r"
					 "  LEFT JOIN LATERAL pg_catalog.jsonb_object_keys("
					 "       COALESCE(r.old, '{}') OPERATOR(pg_catalog.||) COALESCE(r.new, '{}')) AS field (name) ON true"
					 " WHERE r.batch_uuid OPERATOR(pg_catalog.=) $1 AND NOT r.removed",
					 batch->schema),
			2, argtypes, args, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read the fields of a batch");
	old_context = MemoryContextSwitchTo(context);
	result = PointerGetDatum(DatumGetArrayTypePCopy(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
																  1, &isnull)));
	MemoryContextSwitchTo(old_context);
	SPI_finish();
	return result;
}

/* The text of a value, by its output function. */
static Node *
text_of(CaseTestExpr *value)
{
	CoerceViaIO *result = makeNode(CoerceViaIO);

	result->arg = (Expr *) value;
	result->resulttype = TEXTOID;
	result->resultcollid = DEFAULT_COLLATION_OID;
	result->coerceformat = COERCE_EXPLICIT_CAST;
	result->location = -1;
	return (Node *) result;
}

/*
 * A row of the target that has nothing in it.  Of a null row the input functions
 * would ask all domains whether they allow for that.
 */
static Const *
nothing(Oid target)
{
	Relation rel = relation_open(target, AccessShareLock);
	TupleDesc desc = RelationGetDescr(rel);
	Datum *values = palloc0(sizeof(Datum) * desc->natts);
	bool *nulls = palloc(sizeof(bool) * desc->natts);
	Const *result;

	memset(nulls, true, sizeof(bool) * desc->natts);
	result = makeConst(rel->rd_rel->reltype, -1, InvalidOid, -1,
					   HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)), false, false);
	relation_close(rel, NoLock);
	return result;
}

/* Begin to compare a batch with its target. */
static PoserImport *
begin_batch(Batch *batch, const char *function, bool writes)
{
	PoserImport *import = poser_import_begin(function, InvalidOid, batch->target, batch->key,
											 field_names(batch), writes);
	MemoryContext old_context = MemoryContextSwitchTo(import->context);
	Oid rowtype = get_rel_type_id(batch->target);
	CaseTestExpr *object = makeNode(CaseTestExpr);

	object->typeId = JSONBOID;
	object->typeMod = -1;
	batch->populate =
		ExecPrepareExpr((Expr *) makeFuncExpr(F_JSONB_POPULATE_RECORD, rowtype,
											  list_make2(nothing(batch->target), object),
											  InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL),
						import->estate);
	check_width(import);
	import->read_only = false;
	import->private = batch;
	import->source_shown = batch_name(batch->id, batch->uuid);
	import->read = read_batch;
	import->decide = judge_batch;
	import->coerces = true;
	import->nextra = import->ncolumns + 3;
	import->extra = palloc(sizeof(Oid) * import->nextra);
	for (int i = 0; i < import->ncolumns; i++)
	{
		PoserImportColumn *column = &import->columns[i];
		CaseTestExpr *value = makeNode(CaseTestExpr);

		value->typeId = column->type;
		value->typeMod = column->typmod;
		value->collation = column->collation;
		column->as_json =
			ExecPrepareExpr((Expr *) makeFuncExpr(F_TO_JSONB, JSONBOID,
												  list_make1(column->as_text ? text_of(value) : (Node *) value),
												  InvalidOid, column->collation, COERCE_EXPLICIT_CALL),
							import->estate);
		import->extra[i] = column->type;
	}
	import->extra[import->ncolumns] = BYTEAOID;
	import->extra[import->ncolumns + 1] = BYTEAOID;
	import->extra[import->ncolumns + 2] = INT4OID;
	MemoryContextSwitchTo(old_context);
	return import;
}

/* May the caller do to the target what there is to do? */
static bool
may_write(PoserImport *import)
{
	static const AclMode modes[] = {ACL_INSERT, ACL_UPDATE, ACL_DELETE};

	for (int i = 0; i < lengthof(modes); i++)
		if (import->found[i] > 0 &&
			pg_class_aclcheck(import->target.relid, GetUserId(), modes[i]) != ACLCHECK_OK &&
			(modes[i] == ACL_DELETE ||
			 pg_attribute_aclcheck_all(import->target.relid, GetUserId(), modes[i], ACLMASK_ANY) != ACLCHECK_OK))
			return false;
	return true;
}

/* Refresh a batch; returns how many rows cannot be executed. */
static int64
refresh(PoserImport *import)
{
	Batch *batch = import->private;
	Tuplestorestate *of_reading;
	int64 nof_reading;
	int64 conflicts;

	collect_problems(import, false);
	poser_import_read(import);

	/* of rows with one key nothing can be said but that */
	import->skips_duplicates = (import->problems.nrows > 0);
	of_reading = import->problems.all;
	nof_reading = import->problems.nrows;
	import->problems.all = tuplestore_begin_heap(false, false, work_mem);
	batch->verdicts.reldata = import->problems.all;
	do
	{
		bool ambiguous;

		poser_import_forget_problems(import);
		poser_import_compare(import);
		ambiguous = (import->problems.nrows > 0);
		conflicts = count_conflicts(import);
		import->write = write_findings;
		poser_import_write(import);

		/* what constraints and triggers say of the rest is found out by trying */
		if (!ambiguous &&
			import->found[POSER_IMPORT_CREATE] + import->found[POSER_IMPORT_UPDATE] +
					import->found[POSER_IMPORT_DELETE] >
				0 &&
			may_write(import))
		{
			import->write = poser_import_write_rows;
			(void) poser_import_apply(import, false);
		}
		if (import->problems.nrows > 0)
			write_verdicts(import);
		/* others may have come between the two */
	} while (count_conflicts(import) != conflicts);

	batch->verdicts.reldata = of_reading;
	import->problems.nrows = nof_reading;
	if (nof_reading > 0)
		write_verdicts(import);
	tuplestore_end(of_reading);
	batch->verdicts.reldata = import->problems.all;
	return count_bad_rows(import);
}

/*
 * poser_batch_refresh(batch varchar) returns bigint
 */
Datum
poser_batch_refresh(PG_FUNCTION_ARGS)
{
	Batch batch;
	PoserImport *import;
	volatile int64 result = 0;

	poser_import_check_argument(PG_ARGISNULL(0), "batch");
	PreventCommandIfReadOnly("poser_batch_refresh()");
	lock_batch(&batch, get_func_namespace(fcinfo->flinfo->fn_oid), PG_GETARG_DATUM(0), true);
	check_mutable(&batch);

	import = begin_batch(&batch, "poser_batch_refresh", false);
	PG_TRY();
	{
		result = refresh(import);
		write_status(&batch, "refreshed", import, result, "errors and conflicts");
	}
	PG_FINALLY();
	{
		poser_import_restore_activity(import);
	}
	PG_END_TRY();
	tuplestore_end(import->problems.all);
	poser_import_end(import);
	PG_RETURN_INT64(result);
}

/* Raise what keeps a batch from being executed. */
static void
refuse(PoserImport *import, const char *what, const char *hint)
{
	Batch *batch = import->private;

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg_plural("%s has " INT64_FORMAT " row with %s",
						   "%s has " INT64_FORMAT " rows with %s", import->problems.nrows,
						   batch_name(batch->id, batch->uuid), import->problems.nrows, what),
			 errdetail_internal("%s", poser_import_detail(import)),
			 errhint("%s", hint)));
}

/*
 * poser_batch_execute(batch varchar, skip_conflicts boolean)
 * returns table (created bigint, updated bigint, deleted bigint, unchanged bigint, skipped bigint)
 */
Datum
poser_batch_execute(PG_FUNCTION_ARGS)
{
	Batch batch;
	PoserImport *import;
	Oid argtypes[] = {VARCHAROID, TEXTOID, TIMESTAMPTZOID};
	Datum args[3];
	Datum values[5];
	bool nulls[5] = {false, false, false, false, false};

	poser_import_check_argument(PG_ARGISNULL(0), "batch");
	poser_import_check_argument(PG_ARGISNULL(1), "skip_conflicts");
	PreventCommandIfReadOnly("poser_batch_execute()");
	InitMaterializedSRF(fcinfo, 0);
	lock_batch(&batch, get_func_namespace(fcinfo->flinfo->fn_oid), PG_GETARG_DATUM(0), true);

	batch.skip_conflicts = PG_GETARG_BOOL(1);
	import = begin_batch(&batch, "poser_batch_execute", true);
	import->write = write_batch;
	import->check = check_conflicts;
	PG_TRY();
	{
		/* whatever runs meanwhile must find it executed */
		args[0] = batch.uuid;
		args[1] = CStringGetTextDatum(poser_username());
		args[2] = TimestampTzGetDatum(GetCurrentTimestamp());
		write_header(&batch, "executed = $3, executed_by = $2", 3, argtypes, args);

		poser_import_read(import);
		if (import->problems.nrows > 0)
			refuse(import, import->problems.nrows == 1 ? "an error" : "errors", "Correct or remove these rows; poser_batch_refresh() gives all of them the status \"error\".");
		mark_rows(import, POSER_IMPORT_UNCHANGED, NULL, 0);
		if (!poser_import_apply(import, true))
		{
			if (batch.refused)
				refuse(import, import->problems.nrows == 1 ? "a conflict" : "conflicts", "poser_batch_refresh() gives them the status \"conflict\"; skip_conflicts => true executes the others.");
			poser_import_raise(import);
		}
		write_status(&batch, "executed", import, count_conflicts(import), "skipped");
	}
	PG_FINALLY();
	{
		poser_import_restore_activity(import);
	}
	PG_END_TRY();

	values[0] = Int64GetDatum(import->found[POSER_IMPORT_CREATE]);
	values[1] = Int64GetDatum(import->found[POSER_IMPORT_UPDATE]);
	values[2] = Int64GetDatum(import->found[POSER_IMPORT_DELETE]);
	values[3] = Int64GetDatum(import->found[POSER_IMPORT_UNCHANGED]);
	values[4] = Int64GetDatum(count_conflicts(import));
	poser_import_end(import);
	tuplestore_putvalues(((ReturnSetInfo *) fcinfo->resultinfo)->setResult,
						 ((ReturnSetInfo *) fcinfo->resultinfo)->setDesc, values, nulls);
	return (Datum) 0;
}

/*
 * poser_batch_purge(older_than interval) returns bigint
 */
Datum
poser_batch_purge(PG_FUNCTION_ARGS)
{
	Oid nspid = get_func_namespace(fcinfo->flinfo->fn_oid);
	Oid relid;
	Interval zero = {0};
	Oid argtypes[] = {TIMESTAMPTZOID};
	Datum args[1];
	int64 result;

	PreventCommandIfReadOnly("poser_batch_purge()");
	if (PG_ARGISNULL(0) ||
		DatumGetBool(DirectFunctionCall2(interval_lt, PG_GETARG_DATUM(0), IntervalPGetDatum(&zero))))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("older_than must be an interval that is not negative")));
	poser_check_owner(poser_relation_by_name("poser_batch", nspid));
	relid = lock_table("poser_batch", nspid);

	args[0] = DirectFunctionCall2(timestamptz_mi_interval,
								  TimestampTzGetDatum(GetCurrentTimestamp()), PG_GETARG_DATUM(0));
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute_with_args(psprintf("DELETE FROM %s WHERE executed OPERATOR(pg_catalog.<=) $1", poser_relation_name(relid)),
							  1, argtypes, args, NULL, false, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not purge batches");
	result = SPI_processed;
	SPI_finish();
	PG_RETURN_INT64(result);
}
