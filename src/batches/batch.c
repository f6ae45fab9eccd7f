/*
 * batch.c
 *	  Batches: imports that are reviewed before they are executed.
 *
 * A batch is a header in poser_batch and rows in poser_batch_row.  Each row of the batch
 * says what to do with one row of the target.  It has, as jsonb, the new values of
 * fields, and the old values that these had when the batch was compared.  A batch is
 * populated from a source (batch_populate.c), reviewed and edited by users, compared
 * with its target again (batch_refresh.c), and executed once (batch_execute.c).
 *
 * To compare a batch, its rows are converted to the types of the target
 * (batch_read.c) and joined with the target, as the rows of an import are.  Each field
 * then has three values: the old, the new and the current one.  If the current value is
 * neither the old nor the new one, another transaction has changed the field.  This is
 * a conflict (batch_compare.c).
 *
 * Comments show SQL statements without the schemas of relations and functions, and with
 * plain operators instead of OPERATOR(pg_catalog...).
 *
 * Both tables are read and written with the caller's privileges and policies.  The
 * columns of a header that users cannot change (row_count, executed, ...) are
 * written with the rights of the owner, see batch_guard.c.
 *
 * Locks: a transaction that changes rows of a batch, or that populates, refreshes or
 * executes the batch, locks the header until the transaction ends.  The invariant:
 * row_count is correct, a batch is executed once, and no row changes while the batch is
 * executed.  Rows are locked before their header, as in a transaction that edits a row:
 * its UPDATE locks the row, and then the trigger locks the header.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "batches/batch_internal.h"
#include "versions/versions.h"

PG_FUNCTION_INFO_V1(poser_batch_purge);

/* The column "operation" of a row, by PoserImportOperation. */
const char *const poser_batch_operations[POSER_BATCH_OPERATIONS] = {"create", "update", "delete", "unchanged"};

/* Returns the name of a batch, for messages. */
char *
poser_batch_name(int64 id, Datum uuid)
{
	return psprintf("batch " INT64_FORMAT " (\"%s\")", id, TextDatumGetCString(uuid));
}

/* Raises the error for a batch that has been executed.  "detail" may be NULL. */
void
poser_batch_executed_error(const char *name, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("%s has been executed", name),
			 detail != NULL ? errdetail_internal("%s", detail) : 0));
}

/* Raises the error for a batch that is complete. */
void
poser_batch_complete_error(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("%s is complete", name),
			 errhint("Its rows can be changed again when \"complete\" is set to false.")));
}

/* Has this poser_batch a column unchanged_count?  Before version 1.5 it has not. */
bool
poser_batch_has_unchanged_count(Oid relid)
{
	return get_attnum(relid, "unchanged_count") != InvalidAttrNumber;
}

/*
 * Lock poser_batch or poser_batch_row with RowShareLock until the transaction ends, so
 * that it is not rewritten while it is used.  Returns its OID.  In READ COMMITTED the
 * queries that follow take newer snapshots.  In REPEATABLE READ and SERIALIZABLE it is an
 * error if the table was rewritten since the transaction's snapshot was taken.
 */
Oid
poser_batch_lock_table(const char *name, Oid nspid)
{
	Oid relid = poser_relation_by_name(name, nspid);

	LockRelationOid(relid, RowShareLock);
	poser_check_transaction_snapshot(relid);
	return relid;
}

/*
 * Lock the rows of a batch, in the order of their sequence.  In REPEATABLE READ and
 * SERIALIZABLE it is an error if another transaction has changed one of them since the
 * transaction's snapshot was taken.
 */
static void
lock_rows(const PoserBatch *batch)
{
	Oid argtypes[] = {VARCHAROID};

	/*
	 * SELECT FROM poser_batch_row WHERE batch_uuid = $1 AND NOT removed
	 *  ORDER BY sequence FOR NO KEY UPDATE
	 */
	(void) poser_run(&(PoserQuery) {
		.sql = psprintf("SELECT FROM %s.poser_batch_row"
						" WHERE batch_uuid OPERATOR(pg_catalog.=) $1 AND NOT removed"
						" ORDER BY sequence FOR NO KEY UPDATE",
						batch->schema),
		.nargs = 1,
		.argtypes = argtypes,
		.values = &batch->uuid,
		.dest = None_Receiver});
}

/*
 * Returns unchanged_count of a batch that is locked.  It is read with the rights of the
 * owner: a role needs no privilege on a column that it has not asked for.
 */
static int64
read_unchanged_count(const PoserBatch *batch)
{
	Oid argtypes[] = {VARCHAROID};
	PoserCaller caller;
	int64 result;

	if (!poser_batch_has_unchanged_count(batch->relid))
		return 0;

	/*
	 * SELECT unchanged_count FROM poser_batch WHERE uuid = $1
	 */
	poser_become_owner(batch->relid, &caller);
	(void) poser_run(&(PoserQuery) {
		.sql = psprintf("SELECT unchanged_count FROM %s.poser_batch"
						" WHERE uuid OPERATOR(pg_catalog.=) $1",
						batch->schema),
		.nargs = 1,
		.argtypes = argtypes,
		.values = &batch->uuid,
		.limit = 1});
	result = poser_result_int64(1, NULL);
	poser_become_caller(&caller);
	return result;
}

/*
 * Find the batch with this uuid, and describe it in "batch".  Locks its header and, with
 * "rows", its rows until the transaction ends.  The caller needs SELECT and UPDATE on
 * poser_batch and, with "rows", on poser_batch_row.  Raises an error if the batch does
 * not exist, if policies hide it, or if it has been executed.  The key is in the current
 * memory context.
 */
void
poser_batch_lock(PoserBatch *batch, Oid nspid, Datum uuid, bool rows)
{
	static const Oid types[] = {INT8OID, REGCLASSOID, TEXTARRAYOID, BOOLOID, BOOLOID};
	MemoryContext context = CurrentMemoryContext;
	Oid argtypes[] = {VARCHAROID};
	HeapTuple tuple;
	TupleDesc desc;
	bool has_key;
	bool executed;
	bool isnull;

	/* the tables, and the rows before the header */
	memset(batch, 0, sizeof(PoserBatch));
	batch->schema = quote_identifier(get_namespace_name(nspid));
	(void) poser_batch_lock_table("poser_batch_row", nspid);
	batch->relid = poser_batch_lock_table("poser_batch", nspid);
	batch->uuid = uuid;
	SPI_connect();
	if (rows)
		lock_rows(batch);

	/*
	 * The header:
	 *
	 * SELECT id, target, key, complete, executed IS NOT NULL
	 *   FROM poser_batch WHERE uuid = $1 FOR NO KEY UPDATE
	 */
	if (poser_run(&(PoserQuery) {
			.sql = psprintf("SELECT id, target, key, complete, executed IS NOT NULL"
							"  FROM %s.poser_batch"
							" WHERE uuid OPERATOR(pg_catalog.=) $1 FOR NO KEY UPDATE",
							batch->schema),
			.nargs = 1,
			.argtypes = argtypes,
			.values = &uuid,
			.limit = 1}) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("batch \"%s\" does not exist", TextDatumGetCString(uuid))));
	tuple = SPI_tuptable->vals[0];
	desc = SPI_tuptable->tupdesc;
	for (int i = 0; i < lengthof(types); i++)
		poser_check_type(NULL, desc, i + 1, types[i]);
	batch->id = DatumGetInt64(SPI_getbinval(tuple, desc, 1, &isnull));
	batch->target = DatumGetObjectId(SPI_getbinval(tuple, desc, 2, &isnull));
	batch->key = SPI_getbinval(tuple, desc, 3, &isnull);
	has_key = !isnull;
	batch->complete = DatumGetBool(SPI_getbinval(tuple, desc, 4, &isnull));
	executed = DatumGetBool(SPI_getbinval(tuple, desc, 5, &isnull));

	/* the key is used after SPI_finish() */
	if (has_key)
	{
		MemoryContext old_context = MemoryContextSwitchTo(context);

		batch->key = PointerGetDatum(DatumGetArrayTypePCopy(batch->key));
		MemoryContextSwitchTo(old_context);
	}
	else
		batch->key = (Datum) 0;
	batch->unchanged_count = read_unchanged_count(batch);
	SPI_finish();

	if (executed)
		poser_batch_executed_error(poser_batch_name(batch->id, uuid), NULL);
}

/* Raises an error if the batch is complete: then its rows must not change. */
void
poser_batch_check_mutable(const PoserBatch *batch)
{
	if (batch->complete)
		poser_batch_complete_error(poser_batch_name(batch->id, batch->uuid));
}

/*
 * Set columns of the header, also those that users cannot change.  "assignments" is the
 * list after SET.  Its parameters begin with $2, because $1 is the batch's uuid.
 */
void
poser_batch_write_header(const PoserBatch *batch, const char *assignments, int nargs,
						 const Oid *argtypes, const Datum *values)
{
	PoserCaller caller;

	/*
	 * UPDATE poser_batch SET status = $2 WHERE uuid = $1
	 */
	poser_become_owner(batch->relid, &caller);
	SPI_connect();
	(void) poser_batch_update_header(&(PoserQuery) {
		.sql = psprintf("UPDATE %s.poser_batch SET %s"
						" WHERE uuid OPERATOR(pg_catalog.=) $1",
						batch->schema, assignments),
		.nargs = nargs,
		.argtypes = argtypes,
		.values = values});
	SPI_finish();
	poser_become_caller(&caller);
}

/*
 * Returns how many rows of the source need no change: rows of the batch that the last
 * comparison has found unchanged, and rows that were the same when it was populated.
 */
int64
poser_batch_count_unchanged(const PoserBatch *batch, const PoserImport *import)
{
	return import->found[POSER_IMPORT_UNCHANGED] + batch->unchanged_count;
}

/*
 * Write the status of the header: what has been done ("what"), how many rows were found
 * for each operation, and how many rows have errors or conflicts ("bad").  "bad_name" is
 * what the status calls these.  Unchanged are also the rows that unchanged_count counts.
 */
void
poser_batch_write_status(const PoserBatch *batch, const char *what, const PoserImport *import,
						 int64 bad, const char *bad_name)
{
	Oid argtypes[] = {VARCHAROID, TEXTOID};
	char *status = psprintf("%s: create " INT64_FORMAT ", update " INT64_FORMAT
							", delete " INT64_FORMAT ", unchanged " INT64_FORMAT ", %s %s" INT64_FORMAT,
							what, import->found[POSER_IMPORT_CREATE], import->found[POSER_IMPORT_UPDATE],
							import->found[POSER_IMPORT_DELETE], poser_batch_count_unchanged(batch, import),
							bad_name, import->problems.at_least ? "at least " : "", bad);
	Datum values[] = {batch->uuid, CStringGetTextDatum(status)};

	poser_batch_write_header(batch, "status = $2", lengthof(argtypes), argtypes, values);
}

/*
 * Raises an error if the import has more columns than a batch can have.  In the comparison
 * each column has an old, a new and a current value, and the row has five more columns.
 */
void
poser_batch_check_width(const PoserBatch *batch, const PoserImport *import)
{
	const int limit = (MaxTupleAttributeNumber - 5) / 3;

	if (import->ncolumns > limit)
		ereport(ERROR,
				(errcode(ERRCODE_TOO_MANY_COLUMNS),
				 errmsg("%s cannot have more than %d columns", poser_batch_name(batch->id, batch->uuid), limit)));
}

/*
 * Run a query over the rows of the batch with the caller's privileges.  $1 is the batch's
 * uuid.  Returns SPI_processed.  The rows go to "dest", if that is not NULL.  The settings
 * of poser_begin_text_settings() apply.
 */
uint64
poser_batch_query(PoserImport *import, const char *sql, DestReceiver *dest)
{
	PoserBatch *batch = import->private;
	Oid argtypes[] = {VARCHAROID};
	int level = poser_begin_text_settings();

	poser_import_execute(import, sql, dest, lengthof(argtypes), argtypes, &batch->uuid);
	AtEOXact_GUC(true, level);
	return SPI_processed;
}

/*
 * Make a store that gets all problems from now on.  Queries read it as
 * poser_import_problem (row, text).  The caller frees it by tuplestore_end().
 */
void
poser_batch_collect_problems(PoserImport *import)
{
	PoserBatch *batch = import->private;
	MemoryContext old_context = MemoryContextSwitchTo(import->context);
	TupleDesc desc = CreateTemplateTupleDesc(2);

	TupleDescInitEntry(desc, 1, "row", INT8OID, -1, 0);
	TupleDescInitEntry(desc, 2, "text", TEXTOID, -1, 0);
	TupleDescFinalize(desc);
	import->problems.all_desc = BlessTupleDesc(desc);
	import->problems.all = tuplestore_begin_heap(false, false, work_mem);
	poser_register_rows(&batch->problems, "poser_import_problem", import->problems.all_desc,
						import->problems.all, 0);
	MemoryContextSwitchTo(old_context);
}

/* Write the problems that have been collected into the batch's rows. */
void
poser_batch_write_problems(PoserImport *import)
{
	PoserBatch *batch = import->private;

	/*
	 * If a row has several problems, one is written.  A row that has the same text
	 * already is not updated again.
	 *
	 * UPDATE poser_batch_row AS r SET status = 'error', status_text = p.text
	 *   FROM (SELECT row, min(text) AS text FROM poser_import_problem GROUP BY row) AS p
	 *  WHERE r.batch_uuid = $1 AND r.sequence = p.row
	 *    AND NOT record_image_eq(ROW(r.status, r.status_text), ROW('error'::text, p.text))
	 */
	batch->problems.md.enrtuples = import->problems.nrows;
	poser_batch_query(import,
					  psprintf("UPDATE %s.poser_batch_row AS r SET status = 'error', status_text = p.text"
							   "  FROM (SELECT row, pg_catalog.min(text) AS text FROM poser_import_problem GROUP BY row) AS p"
							   " WHERE r.batch_uuid OPERATOR(pg_catalog.=) $1 AND r.sequence OPERATOR(pg_catalog.=) p.row"
							   "   AND NOT pg_catalog.record_image_eq(ROW(r.status, r.status_text),"
							   "                                      ROW('error'::pg_catalog.text, p.text))",
							   batch->schema),
					  NULL);
}

/* Returns how many rows of the batch have an error or a conflict. */
int64
poser_batch_count_bad_rows(PoserImport *import)
{
	PoserBatch *batch = import->private;
	int64 result;

	/*
	 * SELECT count(*) FROM poser_batch_row
	 *  WHERE batch_uuid = $1 AND NOT removed AND status = ANY ('{error,conflict}'::text[])
	 */
	poser_batch_query(import,
					  psprintf("SELECT pg_catalog.count(*) FROM %s.poser_batch_row"
							   " WHERE batch_uuid OPERATOR(pg_catalog.=) $1 AND NOT removed"
							   "   AND status OPERATOR(pg_catalog.=) ANY ('{error,conflict}'::pg_catalog.text[])",
							   batch->schema),
					  NULL);
	result = poser_result_int64(1, NULL);
	SPI_freetuptable(SPI_tuptable);
	return result;
}

/*
 * poser_batch_purge(older_than interval) returns bigint
 *
 * Deletes the batches that were executed before a time; the foreign key of
 * poser_batch_row deletes their rows.  The result is the number of batches.
 */
Datum
poser_batch_purge(PG_FUNCTION_ARGS)
{
	Oid nspid = get_func_namespace(fcinfo->flinfo->fn_oid);
	Oid argtypes[] = {TIMESTAMPTZOID};
	Datum values[1];
	Oid relid;
	uint64 result;

	PreventCommandIfReadOnly("poser_batch_purge()");
	values[0] = TimestampTzGetDatum(poser_older_than_argument(fcinfo, 0));
	poser_check_owner(poser_relation_by_name("poser_batch", nspid));
	relid = poser_batch_lock_table("poser_batch", nspid);

	/*
	 * DELETE FROM poser_batch WHERE executed <= $1
	 */
	SPI_connect();
	result = poser_run(&(PoserQuery) {
		.sql = psprintf("DELETE FROM %s WHERE executed OPERATOR(pg_catalog.<=) $1",
						poser_relation_name(relid)),
		.nargs = lengthof(argtypes),
		.argtypes = argtypes,
		.values = values,
		.expected = SPI_OK_DELETE});
	SPI_finish();
	PG_RETURN_INT64(result);
}
