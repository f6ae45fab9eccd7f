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
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "batches/batch_internal.h"

PG_FUNCTION_INFO_V1(poser_batch_purge);

/* As in the column operation; the other operations are only of a comparison. */
const char *const poser_batch_operations[POSER_BATCH_OPERATIONS] = {"create", "update", "delete", "unchanged"};

/* The name of a batch in errors. */
char *
poser_batch_name(int64 id, Datum uuid)
{
	return psprintf("batch " INT64_FORMAT " (\"%s\")", id, TextDatumGetCString(uuid));
}

/*
 * Lock a table of the batches, so that it is not rewritten while it is used.  In
 * REPEATABLE READ and SERIALIZABLE it is an error if it was rewritten since the
 * transaction's snapshot, which would not see its rows.
 */
Oid
poser_batch_lock_table(const char *name, Oid nspid)
{
	Oid relid = poser_relation_by_name(name, nspid);

	LockRelationOid(relid, RowShareLock);
	if (IsolationUsesXactSnapshot())
		poser_check_rewritten(relid, GetTransactionSnapshot());
	return relid;
}

/*
 * Lock the rows of a batch.  Whoever edits one has it before he comes to the
 * header, so we must have them in this order, too.  And if one has been changed
 * since the transaction's snapshot was taken, this is where it fails.
 */
static void
lock_rows(const PoserBatch *batch)
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
void
poser_batch_lock(PoserBatch *batch, Oid nspid, Datum uuid, bool rows)
{
	MemoryContext context = CurrentMemoryContext;
	static const Oid types[] = {INT8OID, REGCLASSOID, TEXTARRAYOID, BOOLOID};
	Oid argtypes[] = {VARCHAROID};
	bool isnull;
	HeapTuple tuple;
	TupleDesc desc;

	memset(batch, 0, sizeof(PoserBatch));
	batch->schema = quote_identifier(get_namespace_name(nspid));
	(void) poser_batch_lock_table("poser_batch_row", nspid);
	batch->relid = poser_batch_lock_table("poser_batch", nspid);
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
				 errmsg("%s has been executed", poser_batch_name(batch->id, uuid))));
}

void
poser_batch_check_mutable(const PoserBatch *batch)
{
	if (batch->complete)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s is complete", poser_batch_name(batch->id, batch->uuid)),
				 errhint("Its rows can be changed again when \"complete\" is set to false.")));
}

/* Write what only we may into the header; $1 is its uuid. */
void
poser_batch_write_header(const PoserBatch *batch, const char *assignments, int nargs, Oid *argtypes, Datum *args)
{
	Oid save_userid;
	int save_sec_context;
	char *sql = psprintf("UPDATE %s.poser_batch SET %s WHERE uuid OPERATOR(pg_catalog.=) $1",
						 batch->schema, assignments);

	poser_become_owner(batch->relid, &save_userid, &save_sec_context);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	poser_batch_update_header(sql, nargs, argtypes, args);
	SPI_finish();
	SetUserIdAndSecContext(save_userid, save_sec_context);
}

/* Say in the header what has been done. */
void
poser_batch_write_status(const PoserBatch *batch, const char *what, PoserImport *import, int64 bad, const char *bad_name)
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

	poser_batch_write_header(batch, "status = $2", 2, argtypes, args);
}

/*
 * What rows are found to be
 */

/* Make stores for problems, and for rows that cannot be read. */
void
poser_batch_collect_problems(PoserImport *import, bool rejects)
{
	PoserBatch *batch = import->private;
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
void
poser_batch_query(PoserImport *import, const char *sql, DestReceiver *dest)
{
	PoserBatch *batch = import->private;
	Oid argtypes[] = {VARCHAROID};
	int level = poser_begin_text_settings();

	poser_import_execute(import, sql, dest, 1, argtypes, &batch->uuid);
	AtEOXact_GUC(true, level);
}

/* The same for a statement; returns how many rows it has written. */
uint64
poser_batch_run(PoserImport *import, const char *sql)
{
	poser_batch_query(import, sql, NULL);
	return SPI_processed;
}

/* Write the problems that were collected into the batch's rows. */
void
poser_batch_write_verdicts(PoserImport *import)
{
	PoserBatch *batch = import->private;

	batch->verdicts.md.enrtuples = import->problems.nrows;
	poser_batch_run(import,
					psprintf("UPDATE %s.poser_batch_row AS r SET status = 'error', status_text = v.text"
							 "  FROM (SELECT row, pg_catalog.min(text) AS text FROM poser_import_problem GROUP BY row) AS v"
							 " WHERE r.batch_uuid OPERATOR(pg_catalog.=) $1 AND r.sequence OPERATOR(pg_catalog.=) v.row"
							 "   AND NOT pg_catalog.record_image_eq(ROW(r.status, r.status_text),"
							 "                                      ROW('error'::pg_catalog.text, v.text))",
							 batch->schema));
}

/* A batch's row has for each column what was, is to be and is. */
void
poser_batch_check_width(PoserImport *import)
{
	const int limit = (MaxTupleAttributeNumber - 5) / 3;

	if (import->ncolumns > limit)
		ereport(ERROR,
				(errcode(ERRCODE_TOO_MANY_COLUMNS),
				 errmsg("a batch cannot have more than %d columns", limit)));
}

/* How many rows of the batch cannot be executed as they are. */
int64
poser_batch_count_bad_rows(PoserImport *import)
{
	PoserBatch *batch = import->private;
	bool isnull;
	int64 result;

	poser_batch_run(import,
					psprintf("SELECT pg_catalog.count(*) FROM %s.poser_batch_row"
							 " WHERE batch_uuid OPERATOR(pg_catalog.=) $1 AND NOT removed"
							 "   AND status OPERATOR(pg_catalog.=) ANY ('{error,conflict}'::pg_catalog.text[])",
							 batch->schema));
	result = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	SPI_freetuptable(SPI_tuptable);
	return result;
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
	relid = poser_batch_lock_table("poser_batch", nspid);

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
