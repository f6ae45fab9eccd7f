/*
 * batch_populate.c
 *	  Filling a batch with the differences between a source and its target.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "batches/batch_internal.h"

PG_FUNCTION_INFO_V1(poser_batch_populate);

/* Add rows to the batch for the rows in "poser_import_change". */
static void
write_populated(PoserImport *import, PoserImportOperation operation, const uint8 *columns, int64 nrows)
{
	PoserBatch *batch = import->private;
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
	appendStringInfo(&sql, ", '%s', ", poser_batch_operations[operation]);
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
	poser_batch_run(import, sql.data);
}

static void
populate(PoserImport *import)
{
	PoserBatch *batch = import->private;
	int64 nrejects;

	poser_batch_collect_problems(import, true);
	poser_import_read(import);
	batch->base = import->done;
	nrejects = import->done - import->nrows;
	poser_import_compare(import);
	poser_import_write(import);
	if (nrejects > 0)
		poser_batch_run(import,
						psprintf("INSERT INTO %s.poser_batch_row"
								 "       (batch_uuid, sequence, operation, key, new, status, status_text)"
								 "SELECT $1, row, 'update', key, new, 'error', text FROM poser_import_reject",
								 batch->schema));
	if (import->problems.nrows > nrejects)
		poser_batch_write_verdicts(import);
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
	PoserBatch batch;
	PoserImport *import;
	Oid argtypes[] = {VARCHAROID, TEXTARRAYOID};
	Datum args[2];
	int64 result;

	poser_import_check_argument(PG_ARGISNULL(0), "batch");
	poser_import_check_argument(PG_ARGISNULL(1), "source");
	poser_import_check_argument(PG_ARGISNULL(4), "deletes");
	PreventCommandIfReadOnly("poser_batch_populate()");
	(void) poser_relation_name(PG_GETARG_OID(1));
	poser_batch_lock(&batch, get_func_namespace(fcinfo->flinfo->fn_oid), PG_GETARG_DATUM(0), false);
	poser_batch_check_mutable(&batch);

	import = poser_import_begin("poser_batch_populate", PG_GETARG_OID(1), batch.target,
								PG_ARGISNULL(2) ? (Datum) 0 : PG_GETARG_DATUM(2),
								PG_ARGISNULL(3) ? (Datum) 0 : PG_GETARG_DATUM(3), false);
	poser_batch_check_width(import);
	import->read_only = false;
	import->private = &batch;
	import->write = write_populated;
	import->deletes = PG_GETARG_BOOL(4);
	if (poser_batch_run(import, psprintf("SELECT FROM %s.poser_batch_row"
										 " WHERE batch_uuid OPERATOR(pg_catalog.=) $1 LIMIT 1",
										 batch.schema)) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s has rows already", poser_batch_name(batch.id, batch.uuid)),
				 errhint("Delete them first, or make another batch.")));
	PG_TRY();
	{
		populate(import);
		args[0] = batch.uuid;
		args[1] = key_names(import);
		poser_batch_write_header(&batch, "key = $2", 2, argtypes, args);
		poser_batch_write_status(&batch, "populated", import, poser_batch_count_bad_rows(import), "errors");
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
