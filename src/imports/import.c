/*
 * import.c
 *	  poser_import() and poser_import_diff(): changing the rows of a table to those of
 *	  another relation, and showing which changes this would make.
 *
 * An import has three steps.  Each step gets its rows one by one from the executor, and
 * keeps no more rows in memory than work_mem allows.
 *
 * 1. Read (import_read.c).  The source is read once, and its values are coerced to the
 *	  types of the target's columns.
 * 2. Compare (import_compare.c).  The rows are joined with the target by key.  Rows that
 *	  differ go into a sort, by the operation and the columns to be written.
 * 3. Write (import_write.c, import_statement.c).  Each group of the sort is written by
 *	  plain INSERT, UPDATE or DELETE statements, with the privileges of the caller.
 *
 * Rows that cannot be read or written are problems (import_problem.c).  The import goes
 * on until all problems are known, and raises one error about them.
 *
 * The invariant: no change by another transaction is lost.  Other transactions can write
 * the target between the second and the third step.  So each UPDATE and DELETE checks
 * that a row still has the values that the comparison saw.  If a row has not, the second
 * and third step are done again with a newer snapshot.  Another transaction can insert a
 * row with the key of a new row.  Then the unique index of the key refuses the new row.  If
 * there is no such index, other writers are locked out from the second step on.
 */
#include "postgres.h"

#include "funcapi.h"
#include "miscadmin.h"

#include "imports/import_internal.h"

PG_FUNCTION_INFO_V1(poser_import);
PG_FUNCTION_INFO_V1(poser_import_diff);

/* The arguments of poser_import(); the first four are those of poser_import_diff(), too. */
enum
{
	ARG_SOURCE,
	ARG_TARGET,
	ARG_KEY,
	ARG_FIELDS,
	ARG_CREATES,
	ARG_UPDATES,
	ARG_DELETES,
	ARG_MAX_CREATE,
	ARG_MAX_UPDATE,
	ARG_MAX_DELETE,
	ARG_MAX_TOTAL,
	ARG_DIFF_DELETES = ARG_CREATES
};

static const char *const argument_names[] = {
	"source", "target", "key", "fields", "creates", "updates", "deletes",
	"max_create", "max_update", "max_delete", "max_total"};

/* Raises an error if there is more to do than the caller allows. */
static void
check_limits(PoserImport *import)
{
	static const char *const verbs[] = {"create", "update", "delete", "change"};
	const int64 *found = import->found;
	const int64 numbers[] = {found[POSER_IMPORT_CREATE], found[POSER_IMPORT_UPDATE], found[POSER_IMPORT_DELETE],
							 found[POSER_IMPORT_CREATE] + found[POSER_IMPORT_UPDATE] + found[POSER_IMPORT_DELETE]};

	for (int i = 0; i < lengthof(numbers); i++)
		if (numbers[i] > import->limits[i])
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("import into \"%s\" would %s " INT64_FORMAT " %s, more than %s " INT64_FORMAT,
							import->target.label, verbs[i], numbers[i], numbers[i] == 1 ? "row" : "rows",
							argument_names[ARG_MAX_CREATE + i], import->limits[i]),
					 errhint("Nothing has been changed.")));
}

/*
 * poser_import(source regclass, target regclass, key text[], fields text[],
 *				creates boolean, updates boolean, deletes boolean,
 *				max_create bigint, max_update bigint, max_delete bigint, max_total bigint)
 * returns table (created bigint, updated bigint, deleted bigint, unchanged bigint)
 *
 * The result has the numbers of the rows.
 */
Datum
poser_import(PG_FUNCTION_ARGS)
{
	PoserImport *import;
	Datum values[4];
	bool nulls[4] = {false, false, false, false};
	int64 limits[4];

	/* all arguments but the key, the fields and the limits must be given */
	for (int i = 0; i < lengthof(argument_names); i++)
		if (i != ARG_KEY && i != ARG_FIELDS && i < ARG_MAX_CREATE)
			poser_import_check_argument(PG_ARGISNULL(i), argument_names[i]);

	for (int i = 0; i < lengthof(limits); i++)
	{
		limits[i] = PG_ARGISNULL(ARG_MAX_CREATE + i) ? PG_INT64_MAX : PG_GETARG_INT64(ARG_MAX_CREATE + i);
		if (limits[i] < 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("%s must not be negative", argument_names[ARG_MAX_CREATE + i])));
	}
	PreventCommandIfReadOnly("poser_import()");
	InitMaterializedSRF(fcinfo, 0);

	/* read, compare and write */
	(void) poser_relation_name(PG_GETARG_OID(ARG_SOURCE));
	import = poser_import_begin("poser_import", PG_GETARG_OID(ARG_SOURCE), PG_GETARG_OID(ARG_TARGET),
								PG_ARGISNULL(ARG_KEY) ? (Datum) 0 : PG_GETARG_DATUM(ARG_KEY),
								PG_ARGISNULL(ARG_FIELDS) ? (Datum) 0 : PG_GETARG_DATUM(ARG_FIELDS), true);
	import->creates = PG_GETARG_BOOL(ARG_CREATES);
	import->updates = PG_GETARG_BOOL(ARG_UPDATES);
	import->deletes = PG_GETARG_BOOL(ARG_DELETES);
	memcpy(import->limits, limits, sizeof(limits));
	import->check = check_limits;
	PG_TRY();
	{
		poser_import_read(import);
		poser_import_raise(import);
		if (!poser_import_apply(import, true))
			poser_import_raise(import);
	}
	PG_FINALLY();
	{
		poser_progress_end(&import->progress);
	}
	PG_END_TRY();

	/* what was done, in numbers */
	values[0] = Int64GetDatum(import->found[POSER_IMPORT_CREATE]);
	values[1] = Int64GetDatum(import->found[POSER_IMPORT_UPDATE]);
	values[2] = Int64GetDatum(import->found[POSER_IMPORT_DELETE]);
	values[3] = Int64GetDatum(import->found[POSER_IMPORT_UNCHANGED]);
	poser_import_end(import);
	tuplestore_putvalues(((ReturnSetInfo *) fcinfo->resultinfo)->setResult,
						 ((ReturnSetInfo *) fcinfo->resultinfo)->setDesc, values, nulls);
	return (Datum) 0;
}

/*
 * The writer of poser_import_diff(): put the rows in "poser_import_change" into the
 * result.  The row of an update has only the columns that differ:
 *
 *	SELECT 'update'::text, jsonb_build_object('uuid', c.c1),
 *		   jsonb_build_object('active', c.o3), jsonb_build_object('active', c.c3)
 *	  FROM poser_import_change AS c
 */
static void
write_diff(PoserImport *import, PoserImportOperation operation, const uint8 *columns, int64 nrows)
{
	static const char *const names[] = {"create", "update", "delete"};
	const uint8 *shown = (operation == POSER_IMPORT_UPDATE) ? columns : NULL;
	DestReceiver *dest = poser_result_receiver(import->rsinfo);
	StringInfoData sql;

	/* the operation and the key; then the old values and the new values, if there are any */
	Assert(operation <= POSER_IMPORT_DELETE);
	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT '%s'::pg_catalog.text, ", names[operation]);
	poser_import_append_object(&sql, import, 0, import->nkeys, NULL, "c.c", false);
	appendStringInfoString(&sql, ", ");
	if (operation == POSER_IMPORT_CREATE)
		appendStringInfoString(&sql, "NULL::pg_catalog.jsonb");
	else
		poser_import_append_object(&sql, import, import->nkeys, import->ncolumns, shown, "c.o", false);
	appendStringInfoString(&sql, ", ");
	if (operation == POSER_IMPORT_DELETE)
		appendStringInfoString(&sql, "NULL::pg_catalog.jsonb");
	else
		poser_import_append_object(&sql, import, import->nkeys, import->ncolumns, shown, "c.c", false);
	appendStringInfoString(&sql, " FROM poser_import_change AS c");
	poser_import_execute(import, sql.data, dest, 0, NULL, NULL);
	dest->rDestroy(dest);
}

/*
 * poser_import_diff(source regclass, target regclass, key text[], fields text[], deletes boolean)
 * returns table (operation text, key jsonb, old jsonb, new jsonb)
 */
Datum
poser_import_diff(PG_FUNCTION_ARGS)
{
	PoserImport *import;

	poser_import_check_argument(PG_ARGISNULL(ARG_SOURCE), "source");
	poser_import_check_argument(PG_ARGISNULL(ARG_TARGET), "target");
	poser_import_check_argument(PG_ARGISNULL(ARG_DIFF_DELETES), "deletes");
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);

	(void) poser_relation_name(PG_GETARG_OID(ARG_SOURCE));
	import = poser_import_begin("poser_import_diff", PG_GETARG_OID(ARG_SOURCE), PG_GETARG_OID(ARG_TARGET),
								PG_ARGISNULL(ARG_KEY) ? (Datum) 0 : PG_GETARG_DATUM(ARG_KEY),
								PG_ARGISNULL(ARG_FIELDS) ? (Datum) 0 : PG_GETARG_DATUM(ARG_FIELDS), false);
	import->deletes = PG_GETARG_BOOL(ARG_DIFF_DELETES);
	import->rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	import->write = write_diff;
	PG_TRY();
	{
		poser_import_read(import);
		poser_import_raise(import);
		poser_import_compare(import);
		poser_import_raise(import);
		poser_import_write(import);
	}
	PG_FINALLY();
	{
		poser_progress_end(&import->progress);
	}
	PG_END_TRY();
	poser_import_end(import);
	return (Datum) 0;
}
