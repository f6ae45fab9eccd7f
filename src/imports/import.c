/*
 * import.c
 *	  Making the rows of a table those of another relation.
 *
 * An import has three steps, each of which takes rows one by one from the
 * executor and keeps no more of them in memory than work_mem allows:
 *
 * 1. The source is read, once.  Its values become those of the target's types,
 *	  as in an assignment; keys must not be null or occur twice.
 * 2. These rows are joined with the target by key, and compared: a value is the
 *	  same if its stored image is.  What differs goes into a sort, by what is to be
 *	  done and which columns are to be written.
 * 3. Each such group is written by plain INSERT, UPDATE or DELETE statements,
 *	  with the caller's own privileges.
 *
 * Writers are not locked out, but nothing that they do meanwhile is lost: each
 * UPDATE and DELETE checks again, in its condition, that the row is what it was
 * compared as, and if one was not the second and third step are done again
 * with a newer snapshot.  Imports into one target wait for each other, so that
 * they cannot deadlock.  Where no index makes the key unique nothing else
 * would keep a row from being made twice, so other writers must wait then.
 *
 * What is wrong with rows is found out where it shows: in the coercions, and
 * in the statements.  First they are run without any precaution.  If one fails,
 * then all is done again carefully: a statement that fails is rolled back to
 * a savepoint and run again with parts of its rows, until the rows that cannot
 * be written are found, or POSER_IMPORT_TOLD_APART of them.  So the error can
 * name a row, whatever refuses it (a constraint, a trigger, another unique key).
 */
#include "postgres.h"

#include "funcapi.h"
#include "miscadmin.h"

#include "imports/import_internal.h"

PG_FUNCTION_INFO_V1(poser_import);
PG_FUNCTION_INFO_V1(poser_import_diff);

/* The arguments of an import that limit it. */
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

/* Raise an error if there is more to do than the caller allows. */
static void
check_limits(PoserImport *import)
{
	static const char *const verbs[] = {"create", "update", "delete", "change"};
	int64 numbers[] = {import->found[POSER_IMPORT_CREATE], import->found[POSER_IMPORT_UPDATE],
					   import->found[POSER_IMPORT_DELETE], 0};

	numbers[3] = numbers[0] + numbers[1] + numbers[2];
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
 */
Datum
poser_import(PG_FUNCTION_ARGS)
{
	PoserImport *import;
	Datum values[4];
	bool nulls[4] = {false, false, false, false};
	int64 limits[4];

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
		poser_import_restore_activity(import);
	}
	PG_END_TRY();

	values[0] = Int64GetDatum(import->found[POSER_IMPORT_CREATE]);
	values[1] = Int64GetDatum(import->found[POSER_IMPORT_UPDATE]);
	values[2] = Int64GetDatum(import->found[POSER_IMPORT_DELETE]);
	values[3] = Int64GetDatum(import->found[POSER_IMPORT_UNCHANGED]);
	poser_import_end(import);
	tuplestore_putvalues(((ReturnSetInfo *) fcinfo->resultinfo)->setResult,
						 ((ReturnSetInfo *) fcinfo->resultinfo)->setDesc, values, nulls);
	return (Datum) 0;
}

/* Give the rows in "poser_import_change" to the caller. */
static void
write_diff(PoserImport *import, PoserImportOperation operation, const uint8 *columns, int64 nrows)
{
	static const char *const names[] = {"create", "update", "delete"};
	DestReceiver *dest;
	StringInfoData sql;

	if (operation > POSER_IMPORT_DELETE)
		return;
	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT '%s'::pg_catalog.text, ", names[operation]);
	poser_import_append_object(&sql, import, 0, import->nkeys, NULL, "c.c", false);
	appendStringInfoString(&sql, ", ");
	if (operation == POSER_IMPORT_CREATE)
		appendStringInfoString(&sql, "NULL::pg_catalog.jsonb");
	else
		poser_import_append_object(&sql, import, import->nkeys, import->ncolumns,
								   operation == POSER_IMPORT_UPDATE ? columns : NULL, "c.o", false);
	appendStringInfoString(&sql, ", ");
	if (operation == POSER_IMPORT_DELETE)
		appendStringInfoString(&sql, "NULL::pg_catalog.jsonb");
	else
		poser_import_append_object(&sql, import, import->nkeys, import->ncolumns,
								   operation == POSER_IMPORT_UPDATE ? columns : NULL, "c.c", false);
	appendStringInfoString(&sql, " FROM poser_import_change AS c");

	dest = poser_result_receiver(import->rsinfo);
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
		poser_import_restore_activity(import);
	}
	PG_END_TRY();
	poser_import_end(import);
	return (Datum) 0;
}
