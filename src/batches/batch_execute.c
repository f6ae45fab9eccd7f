/*
 * batch_execute.c
 *	  poser_batch_execute(): writing a batch to its target.
 *
 * The batch is compared with the target once more.  Then it is written as an import is.
 * The invariant: all of it is written, or nothing.  A conflict is an error, and nothing is
 * written.  With skip_conflicts only the rows in conflict are not written.
 *
 * The header is marked as executed before the target is written.  So triggers of the
 * target cannot change or execute the batch.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "batches/batch_internal.h"
#include "versions/versions.h"

/* imports does not use versions, so the numbers that are the same are checked here */
StaticAssertDecl((int) POSER_IMPORT_CREATE == (int) POSER_INSERT && (int) POSER_IMPORT_UPDATE == (int) POSER_UPDATE &&
					 (int) POSER_IMPORT_DELETE == (int) POSER_DELETE,
				 "operations of imports and versions have the same numbers");

PG_FUNCTION_INFO_V1(poser_batch_execute);

/*
 * Call a writer that changes rows of the batch.  It may change them although the batch
 * has been executed or is complete, see update_row_count() in batch_guard.c.
 */
static void
write_marked(PoserImport *import, PoserImportWriter write, PoserImportOperation operation,
			 const uint8 *columns, int64 nrows)
{
	PoserBatch *batch = import->private;

	poser_batch_marked = TextDatumGetCString(batch->uuid);
	PG_TRY();
	{
		write(import, operation, columns, nrows);
	}
	PG_FINALLY();
	{
		poser_batch_marked = NULL;
	}
	PG_END_TRY();
}

/* A writer for all rows of the batch: clear the status that an earlier refresh has found. */
static void
clear_findings(PoserImport *import, PoserImportOperation operation, const uint8 *columns, int64 nrows)
{
	PoserBatch *batch = import->private;

	/*
	 * UPDATE poser_batch_row SET status = 'ready', status_text = NULL
	 *  WHERE batch_uuid = $1 AND NOT removed AND (status <> 'ready' OR status_text IS NOT NULL)
	 */
	poser_batch_query(import,
					  psprintf("UPDATE %s.poser_batch_row SET status = 'ready', status_text = NULL"
							   " WHERE batch_uuid OPERATOR(pg_catalog.=) $1 AND NOT removed"
							   "   AND (status OPERATOR(pg_catalog.<>) 'ready' OR status_text IS NOT NULL)",
							   batch->schema),
					  NULL);
}

/* The "check" of the import, after the comparison: find out whether conflicts keep the batch from being executed. */
static void
check_conflicts(PoserImport *import)
{
	PoserBatch *batch = import->private;

	batch->is_refused = !batch->skips_conflicts && poser_batch_count_conflicts(import) > 0;
}

/*
 * The writer of this import: write rows to the target, or mark them as skipped.  If the
 * batch is refused, only note the conflicts.
 */
static void
write_batch(PoserImport *import, PoserImportOperation operation, const uint8 *columns, int64 nrows)
{
	PoserBatch *batch = import->private;

	if (batch->is_refused)
		poser_batch_note_conflicts(import, operation, columns, nrows);
	else if (operation >= POSER_IMPORT_CONFLICT)
		write_marked(import, poser_batch_write_findings, operation, columns, nrows);
	else
		poser_import_write_rows(import, operation, columns, nrows);
}

/* Raises an error about the problems that were noted.  "what" names these in the message. */
static void
refuse(PoserImport *import, const char *what, const char *hint)
{
	PoserBatch *batch = import->private;

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg_plural("%s has " INT64_FORMAT " row with %s",
						   "%s has " INT64_FORMAT " rows with %s", import->problems.nrows,
						   poser_batch_name(batch->id, batch->uuid), import->problems.nrows, what),
			 errdetail_internal("%s", poser_import_detail(import)),
			 errhint("%s", hint)));
}

/*
 * Raises an error if rows of a complete batch are missing.  A restore can bring its header
 * some time before its rows, see batch_guard.c.  The rows are counted with the rights of the
 * owner, because policies can hide rows from the caller.
 */
static void
check_rows_have_come(const PoserBatch *batch)
{
	Oid argtypes[] = {VARCHAROID};
	PoserCaller caller;
	int64 row_count;
	int64 present;

	if (!batch->complete)
		return;

	/*
	 * SELECT row_count, (SELECT count(*) FROM poser_batch_row WHERE batch_uuid = $1 AND NOT removed)
	 *   FROM poser_batch WHERE uuid = $1
	 */
	poser_become_owner(batch->relid, &caller);
	SPI_connect();
	(void) poser_run(&(PoserQuery) {
		.sql = psprintf("SELECT row_count, (SELECT pg_catalog.count(*) FROM %1$s.poser_batch_row"
						" WHERE batch_uuid OPERATOR(pg_catalog.=) $1 AND NOT removed)"
						"  FROM %1$s.poser_batch WHERE uuid OPERATOR(pg_catalog.=) $1",
						batch->schema),
		.nargs = lengthof(argtypes),
		.argtypes = argtypes,
		.values = &batch->uuid,
		.limit = 1});
	row_count = poser_result_int64(1, NULL);
	present = poser_result_int64(2, NULL);
	SPI_finish();
	poser_become_caller(&caller);

	if (present < row_count)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("rows of %s are missing", poser_batch_name(batch->id, batch->uuid)),
				 errdetail("It is complete.  Its row_count is %lld, but the number of its rows is %lld.", (long long) row_count, (long long) present),
				 errhint("A restore inserts a batch before its rows.  Wait for them, or insert them as the owner of the table.")));
}

/* Mark the batch as executed, and execute it. */
static void
execute(PoserImport *import)
{
	PoserBatch *batch = import->private;
	Oid argtypes[] = {VARCHAROID, TEXTOID, TIMESTAMPTZOID};
	Datum values[] = {batch->uuid, CStringGetTextDatum(poser_username()),
					  TimestampTzGetDatum(GetCurrentTimestamp())};

	poser_batch_write_header(batch, "executed = $3, executed_by = $2", lengthof(argtypes), argtypes, values);

	/* read the rows; those that cannot be read are never skipped */
	poser_import_read(import);
	if (import->problems.nrows > 0)
		refuse(import, import->problems.nrows == 1 ? "an error" : "errors",
			   "Correct or remove these rows; poser_batch_refresh() gives all of them the status \"error\".");
	write_marked(import, clear_findings, POSER_IMPORT_UNCHANGED, NULL, 0);

	/* compare and write */
	if (!poser_import_apply(import, true))
	{
		if (batch->is_refused)
			refuse(import, import->problems.nrows == 1 ? "a conflict" : "conflicts",
				   "poser_batch_refresh() gives them the status \"conflict\"; skip_conflicts => true executes the others.");
		poser_import_raise(import);
	}
	poser_batch_write_status(batch, "executed", import, poser_batch_count_conflicts(import), "skipped");
}

/*
 * poser_batch_execute(batch varchar, skip_conflicts boolean)
 * returns table (created bigint, updated bigint, deleted bigint, unchanged bigint, skipped bigint)
 *
 * The result has the numbers of the rows.
 */
Datum
poser_batch_execute(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	PoserBatch batch;
	PoserImport *import;
	Datum values[5];
	bool nulls[5] = {false, false, false, false, false};

	/* check the arguments, and lock the batch, which may be complete */
	poser_import_check_argument(PG_ARGISNULL(0), "batch");
	poser_import_check_argument(PG_ARGISNULL(1), "skip_conflicts");
	PreventCommandIfReadOnly("poser_batch_execute()");
	InitMaterializedSRF(fcinfo, 0);
	poser_batch_lock(&batch, get_func_namespace(fcinfo->flinfo->fn_oid), PG_GETARG_DATUM(0), true);
	check_rows_have_come(&batch);
	batch.skips_conflicts = PG_GETARG_BOOL(1);

	import = poser_batch_begin(&batch, "poser_batch_execute", true);
	import->write = write_batch;
	import->check = check_conflicts;
	PG_TRY();
	{
		execute(import);
	}
	PG_FINALLY();
	{
		poser_progress_end(&import->progress);
	}
	PG_END_TRY();

	/* how many rows there were for each operation */
	values[0] = Int64GetDatum(import->found[POSER_IMPORT_CREATE]);
	values[1] = Int64GetDatum(import->found[POSER_IMPORT_UPDATE]);
	values[2] = Int64GetDatum(import->found[POSER_IMPORT_DELETE]);
	values[3] = Int64GetDatum(poser_batch_count_unchanged(&batch, import));
	values[4] = Int64GetDatum(poser_batch_count_conflicts(import));
	poser_import_end(import);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	return (Datum) 0;
}
