/*
 * batch_populate.c
 *	  poser_batch_populate(): filling a batch from a source.
 *
 * The source is compared with the target, as for an import.  For each row of the source
 * that differs, a row of the batch is written.  The target is not written.  A row that
 * cannot be read becomes a row with the status "error" and with the source's values, which
 * a user can correct.
 *
 * Rows that are the same are counted in the header, as unchanged_count.  They become rows
 * of the batch only if the caller asks for this, or if there is a problem with them, such
 * as a key that occurs twice.  Before version 1.5 all of them become rows.
 *
 * The sequence of a row is its number in the source.  After these come the rows that only
 * the target has, with the operation "delete".
 *
 * The invariant: each row of the source is either a row of the batch or counted.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "batches/batch_internal.h"

PG_FUNCTION_INFO_V1(poser_batch_populate);

/*
 * Make a store that gets the rows of the source that cannot be read.  Queries read it as
 * poser_import_reject (row, text, key, new).  The caller frees it by tuplestore_end().
 */
static void
collect_rejects(PoserImport *import)
{
	PoserBatch *batch = import->private;
	MemoryContext old_context = MemoryContextSwitchTo(import->context);
	TupleDesc desc = CreateTemplateTupleDesc(4);

	TupleDescInitEntry(desc, 1, "row", INT8OID, -1, 0);
	TupleDescInitEntry(desc, 2, "text", TEXTOID, -1, 0);
	TupleDescInitEntry(desc, 3, "key", JSONBOID, -1, 0);
	TupleDescInitEntry(desc, 4, "new", JSONBOID, -1, 0);
	TupleDescFinalize(desc);
	import->problems.reject_desc = BlessTupleDesc(desc);
	import->problems.rejects = tuplestore_begin_heap(false, false, work_mem);
	poser_register_rows(&batch->rejects, "poser_import_reject", import->problems.reject_desc,
						import->problems.rejects, 0);
	MemoryContextSwitchTo(old_context);
}

/*
 * The writer of this import: write a row of the batch for each row in
 * "poser_import_change", for unchanged rows only where they are wanted.
 */
static void
write_changes(PoserImport *import, PoserImportOperation operation, const uint8 *columns, int64 nrows)
{
	PoserBatch *batch = import->private;
	bool is_delete = (operation == POSER_IMPORT_DELETE);
	const uint8 *fields = is_delete ? NULL : columns;
	StringInfoData sql;

	/*
	 * For rows that differ in their description:
	 *
	 * INSERT INTO poser_batch_row (batch_uuid, sequence, operation, key, old, new)
	 * SELECT $1, c.row, 'update', jsonb_build_object('uuid', c.c1),
	 *        jsonb_build_object('description', c.o3), jsonb_build_object('description', c.c3)
	 *   FROM poser_import_change AS c
	 *
	 * A row to be created has no old values.  A row to be deleted has no new values, and
	 * all fields as old values.  Its sequence is row_number() OVER () + 1000, if 1000 is
	 * the last sequence so far.
	 *
	 * For unchanged rows that are only wanted if they have a problem:
	 *
	 *	 FROM poser_import_change AS c WHERE c.row = ANY (SELECT p.row FROM poser_import_problem AS p)
	 *
	 * If a row of the source matches several rows of the target, the comparison has it
	 * several times, and it is written once:
	 *
	 *	 ON CONFLICT (batch_uuid, sequence) DO NOTHING
	 */
	Assert(operation < POSER_BATCH_OPERATIONS);
	initStringInfo(&sql);
	appendStringInfo(&sql,
					 "INSERT INTO %s.poser_batch_row (batch_uuid, sequence, operation, key, old, new) SELECT $1, ",
					 batch->schema);
	if (is_delete)
	{
		appendStringInfo(&sql, "pg_catalog.row_number() OVER () OPERATOR(pg_catalog.+) " INT64_FORMAT,
						 batch->last_sequence);
		batch->last_sequence += nrows;
	}
	else
		appendStringInfoString(&sql, "c.row");
	appendStringInfo(&sql, ", '%s', ", poser_batch_operations[operation]);
	poser_import_append_object(&sql, import, 0, import->nkeys, NULL, "c.c", false);
	appendStringInfoString(&sql, ", ");
	if (operation == POSER_IMPORT_CREATE)
		appendStringInfoString(&sql, "NULL");
	else
		poser_import_append_object(&sql, import, import->nkeys, import->ncolumns, fields, "c.o", false);
	appendStringInfoString(&sql, ", ");
	if (is_delete)
		appendStringInfoString(&sql, "NULL");
	else
		poser_import_append_object(&sql, import, import->nkeys, import->ncolumns, fields, "c.c", false);
	appendStringInfoString(&sql, " FROM poser_import_change AS c");
	if (operation == POSER_IMPORT_UNCHANGED && !batch->stages_unchanged)
	{
		batch->problems.md.enrtuples = import->problems.nrows;
		appendStringInfoString(&sql, " WHERE c.row OPERATOR(pg_catalog.=) ANY (SELECT p.row FROM poser_import_problem AS p)");
	}
	if (batch->is_ambiguous)
		appendStringInfoString(&sql, " ON CONFLICT (batch_uuid, sequence) DO NOTHING");
	batch->written[operation] += poser_batch_query(import, sql.data, NULL);
}

/*
 * Compare the source with the target.  Afterwards the sort has the rows that can become
 * rows of the batch.  "nrejects" is the number of rows that could not be read.
 */
static void
compare(PoserImport *import, int64 nrejects)
{
	PoserBatch *batch = import->private;
	int64 nproblems = import->problems.nrows;

	/* an unchanged row whose key occurs twice has a problem */
	import->sorts_unchanged = batch->stages_unchanged || nproblems > nrejects;
	poser_import_compare(import);
	batch->is_ambiguous = (import->problems.nrows > nproblems);

	/* so has an unchanged row that matches several rows of the target, but this is known only now: compare again */
	if (batch->is_ambiguous && !import->sorts_unchanged)
	{
		tuplesort_end(import->sort);
		import->sorts_unchanged = true;
		poser_import_compare(import);
	}
}

/* Read the source, compare it with the target, and write the rows of the batch. */
static void
populate(PoserImport *import)
{
	PoserBatch *batch = import->private;
	int64 nsource;
	int64 nrejects;
	bool at_least;

	poser_batch_collect_problems(import);
	collect_rejects(import);
	poser_import_read(import);
	nsource = batch->last_sequence = import->progress.done;
	nrejects = nsource - import->nrows;
	compare(import, nrejects);

	/* with too many problems to note them all, the rows are written nevertheless */
	at_least = import->problems.at_least;
	import->problems.at_least = false;
	poser_import_write(import);
	import->problems.at_least = at_least;

	/*
	 * INSERT INTO poser_batch_row
	 *        (batch_uuid, sequence, operation, key, new, status, status_text)
	 * SELECT $1, row, 'update', key, new, 'error', text FROM poser_import_reject
	 */
	batch->rejects.md.enrtuples = nrejects;
	if (nrejects > 0)
		poser_batch_query(import,
						  psprintf("INSERT INTO %s.poser_batch_row"
								   "       (batch_uuid, sequence, operation, key, new, status, status_text)"
								   "SELECT $1, row, 'update', key, new, 'error', text FROM poser_import_reject",
								   batch->schema),
						  NULL);

	/* the other rows of the source are counted */
	batch->nwritten = nrejects;
	for (int i = 0; i < POSER_BATCH_OPERATIONS; i++)
		batch->nwritten += batch->written[i];
	batch->unchanged_count = nsource - (batch->nwritten - batch->written[POSER_IMPORT_DELETE]);
	import->found[POSER_IMPORT_UNCHANGED] = batch->written[POSER_IMPORT_UNCHANGED];

	/* other problems, such as a key that occurs twice, concern rows that have been written */
	if (import->problems.nrows > nrejects)
		poser_batch_write_problems(import);
}

/* Returns the names of the key's columns as text[]. */
static Datum
key_names(const PoserImport *import)
{
	Datum *names = palloc(sizeof(Datum) * import->nkeys);

	for (int i = 0; i < import->nkeys; i++)
		names[i] = CStringGetTextDatum(import->columns[i].label);
	return PointerGetDatum(construct_array(names, import->nkeys, TEXTOID, -1, false, TYPALIGN_INT));
}

/*
 * poser_batch_populate(batch varchar, source regclass, key text[], fields text[], deletes boolean, unchanged boolean)
 * returns bigint
 *
 * The result is the number of rows that were written.  The function of versions before
 * 1.5 lacks the last argument.
 */
Datum
poser_batch_populate(PG_FUNCTION_ARGS)
{
	bool is_old = (PG_NARGS() < 6);
	PoserBatch batch;
	PoserImport *import;
	Oid argtypes[] = {VARCHAROID, TEXTARRAYOID, INT8OID};
	Datum values[lengthof(argtypes)];

	/* check the arguments, and lock the batch */
	poser_import_check_argument(PG_ARGISNULL(0), "batch");
	poser_import_check_argument(PG_ARGISNULL(1), "source");
	poser_import_check_argument(PG_ARGISNULL(4), "deletes");
	poser_import_check_argument(!is_old && PG_ARGISNULL(5), "unchanged");
	PreventCommandIfReadOnly("poser_batch_populate()");
	(void) poser_relation_name(PG_GETARG_OID(1));
	poser_batch_lock(&batch, get_func_namespace(fcinfo->flinfo->fn_oid), PG_GETARG_DATUM(0), false);
	poser_batch_check_mutable(&batch);
	batch.stages_unchanged = is_old || PG_GETARG_BOOL(5);

	/* the import only reads the target, but its queries must see the rows of the batch that it writes */
	import = poser_import_begin("poser_batch_populate", PG_GETARG_OID(1), batch.target,
								PG_ARGISNULL(2) ? (Datum) 0 : PG_GETARG_DATUM(2),
								PG_ARGISNULL(3) ? (Datum) 0 : PG_GETARG_DATUM(3), false);
	poser_batch_check_width(&batch, import);
	import->read_only = false;
	import->private = &batch;
	import->write = write_changes;
	import->deletes = PG_GETARG_BOOL(4);

	/*
	 * The batch must be empty.
	 *
	 * SELECT FROM poser_batch_row WHERE batch_uuid = $1 LIMIT 1
	 */
	if (poser_batch_query(import,
						  psprintf("SELECT FROM %s.poser_batch_row"
								   " WHERE batch_uuid OPERATOR(pg_catalog.=) $1 LIMIT 1",
								   batch.schema),
						  NULL) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s has rows already", poser_batch_name(batch.id, batch.uuid)),
				 errhint("Delete them first, or make another batch.")));

	/* fill it */
	PG_TRY();
	{
		populate(import);
		values[0] = batch.uuid;
		values[1] = key_names(import);
		values[2] = Int64GetDatum(batch.unchanged_count);
		poser_batch_write_header(&batch, is_old ? "key = $2" : "key = $2, unchanged_count = $3",
								 is_old ? 2 : 3, argtypes, values);
		poser_batch_write_status(&batch, "populated", import, poser_batch_count_bad_rows(import), "errors");
	}
	PG_FINALLY();
	{
		poser_progress_end(&import->progress);
	}
	PG_END_TRY();
	tuplestore_end(import->problems.all);
	tuplestore_end(import->problems.rejects);
	poser_import_end(import);
	PG_RETURN_INT64(batch.nwritten);
}
