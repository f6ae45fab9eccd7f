/*
 * batch_execute.c
 *	  Executing a batch.
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

PG_FUNCTION_INFO_V1(poser_batch_execute);

/* Mark rows, also in a batch that is complete. */
static void
mark_rows(PoserImport *import, PoserImportOperation operation, const uint8 *columns, int64 nrows)
{
	PoserBatch *batch = import->private;

	poser_batch_marked = TextDatumGetCString(batch->uuid);
	PG_TRY();
	{
		if (operation != POSER_IMPORT_UNCHANGED)
			poser_batch_write_findings(import, operation, columns, nrows);
		else
			/* what was said of rows before is no more */
			poser_batch_run(import,
							psprintf("UPDATE %s.poser_batch_row SET status = 'ready', status_text = NULL"
									 " WHERE batch_uuid OPERATOR(pg_catalog.=) $1 AND NOT removed"
									 "   AND (status OPERATOR(pg_catalog.<>) 'ready' OR status_text IS NOT NULL)",
									 batch->schema));
	}
	PG_FINALLY();
	{
		poser_batch_marked = NULL;
	}
	PG_END_TRY();
}

/* Do what is to be done, and mark what is not. */
static void
write_batch(PoserImport *import, PoserImportOperation operation, const uint8 *columns, int64 nrows)
{
	PoserBatch *batch = import->private;

	if (batch->refused)
		poser_batch_note_conflicts(import, operation, columns, nrows);
	else if (operation >= POSER_IMPORT_CONFLICT)
		mark_rows(import, operation, columns, nrows);
	else
		poser_import_write_rows(import, operation, columns, nrows);
}

static void
check_conflicts(PoserImport *import)
{
	PoserBatch *batch = import->private;

	batch->refused = !batch->skip_conflicts && poser_batch_count_conflicts(import) > 0;
}

/* Raise what keeps a batch from being executed. */
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
 * poser_batch_execute(batch varchar, skip_conflicts boolean)
 * returns table (created bigint, updated bigint, deleted bigint, unchanged bigint, skipped bigint)
 */
Datum
poser_batch_execute(PG_FUNCTION_ARGS)
{
	PoserBatch batch;
	PoserImport *import;
	Oid argtypes[] = {VARCHAROID, TEXTOID, TIMESTAMPTZOID};
	Datum args[3];
	Datum values[5];
	bool nulls[5] = {false, false, false, false, false};

	poser_import_check_argument(PG_ARGISNULL(0), "batch");
	poser_import_check_argument(PG_ARGISNULL(1), "skip_conflicts");
	PreventCommandIfReadOnly("poser_batch_execute()");
	InitMaterializedSRF(fcinfo, 0);
	poser_batch_lock(&batch, get_func_namespace(fcinfo->flinfo->fn_oid), PG_GETARG_DATUM(0), true);

	batch.skip_conflicts = PG_GETARG_BOOL(1);
	import = poser_batch_begin(&batch, "poser_batch_execute", true);
	import->write = write_batch;
	import->check = check_conflicts;
	PG_TRY();
	{
		/* whatever runs meanwhile must find it executed */
		args[0] = batch.uuid;
		args[1] = CStringGetTextDatum(poser_username());
		args[2] = TimestampTzGetDatum(GetCurrentTimestamp());
		poser_batch_write_header(&batch, "executed = $3, executed_by = $2", 3, argtypes, args);

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
		poser_batch_write_status(&batch, "executed", import, poser_batch_count_conflicts(import), "skipped");
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
	values[4] = Int64GetDatum(poser_batch_count_conflicts(import));
	poser_import_end(import);
	tuplestore_putvalues(((ReturnSetInfo *) fcinfo->resultinfo)->setResult,
						 ((ReturnSetInfo *) fcinfo->resultinfo)->setDesc, values, nulls);
	return (Datum) 0;
}
