/*
 * import_statement.c
 *	  The statements that write an import's rows.
 *
 * One INSERT, UPDATE or DELETE writes all rows in poser_import_change, with the caller's
 * privileges; policies apply and triggers fire.  In a foreign table rows are updated and
 * deleted one by one, because foreign data wrappers can best send a statement with
 * parameters to their server.
 *
 * The invariant: an UPDATE or DELETE writes a row only if the row still has the values
 * that the comparison saw.  The statement's condition checks this for the row version that
 * it locks.  So fewer rows may be written than there are in poser_import_change.  Then
 * either another transaction has changed the missing rows, and the import compares again.
 * Or a trigger, a rule or a policy has kept them from being written, which is an error.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "imports/import_internal.h"

/*
 * SQL
 */

/*
 * Append the condition that the fields of a row of the target have the values in the
 * columns with this prefix.  Append nothing if there are no fields.  With the prefix "c.o"
 * these are the old values:
 *
 *	AND record_image_eq(ROW(t.description, t.active), ROW(c.o2, c.o3))
 */
static void
append_has_fields(StringInfo sql, PoserImport *import, const char *fields)
{
	if (import->nkeys == import->ncolumns)
		return;
	appendStringInfoString(sql, " AND pg_catalog.record_image_eq(ROW(");
	for (int i = import->nkeys; i < import->ncolumns; i++)
		appendStringInfo(sql, "%st.%s", i > import->nkeys ? ", " : "", import->columns[i].name);
	appendStringInfoString(sql, "), ROW(");
	poser_import_append_list(sql, import, import->nkeys, fields);
	appendStringInfoString(sql, "))");
}

/*
 * Returns the statement that writes the rows in "poser_import_change".
 *
 *	INSERT INTO poser_widget (uuid, description, active) OVERRIDING SYSTEM VALUE
 *	SELECT c.c1, c.c2, c.c3 FROM poser_import_change AS c
 *
 *	UPDATE ONLY poser_widget AS t SET active = c.c3
 *	  FROM poser_import_change AS c
 *	 WHERE c.c1 = t.uuid
 *	   AND record_image_eq(ROW(t.description, t.active), ROW(c.o2, c.o3))
 *
 *	DELETE FROM ONLY poser_widget AS t
 *	 USING poser_import_change AS c
 *	 WHERE c.c1 = t.uuid
 *	   AND record_image_eq(ROW(t.description, t.active), ROW(c.o2, c.o3))
 */
static char *
build_statement(PoserImport *import, PoserImportOperation operation, const uint8 *columns)
{
	StringInfoData sql;
	const char *separator = "";

	/* INSERT: the key and the fields that are to be written */
	initStringInfo(&sql);
	if (operation == POSER_IMPORT_CREATE)
	{
		StringInfoData values;

		initStringInfo(&values);
		appendStringInfo(&sql, "INSERT INTO %s (", import->target.name);
		for (int i = 0; i < import->ncolumns; i++)
		{
			if (i >= import->nkeys && !POSER_IMPORT_HAS(columns, i))
				continue;
			appendStringInfo(&sql, "%s%s", separator, import->columns[i].name);
			appendStringInfo(&values, "%sc.c%d", separator, i + 1);
			separator = ", ";
		}
		appendStringInfo(&sql, ") OVERRIDING SYSTEM VALUE SELECT %s FROM poser_import_change AS c", values.data);
		return sql.data;
	}

	/* UPDATE or DELETE: the rows with the same key and with the old values of the fields */
	if (operation == POSER_IMPORT_UPDATE)
	{
		appendStringInfo(&sql, "UPDATE %s AS t SET ", import->target.only_name);
		for (int i = import->nkeys; i < import->ncolumns; i++)
			if (POSER_IMPORT_HAS(columns, i))
			{
				appendStringInfo(&sql, "%s%s = c.c%d", separator, import->columns[i].name, i + 1);
				separator = ", ";
			}
		appendStringInfoString(&sql, " FROM poser_import_change AS c WHERE ");
	}
	else
		appendStringInfo(&sql, "DELETE FROM %s AS t USING poser_import_change AS c WHERE ", import->target.only_name);
	poser_import_append_join(&sql, import, "c", true);
	append_has_fields(&sql, import, "c.o");
	return sql.data;
}

/*
 * Append the statement that updates or deletes a row of a foreign table.  For each
 * parameter, "map" gets the number of the import's column and "argtypes" its type.
 * Returns the number of parameters.
 *
 *	UPDATE ONLY poser_widget SET active = $1 WHERE uuid = $2
 *
 *	DELETE FROM ONLY poser_widget WHERE uuid = $1
 */
static int
append_foreign_statement(StringInfo sql, PoserImport *import, PoserImportOperation operation,
						 const uint8 *columns, int *map, Oid *argtypes)
{
	int nargs = 0;
	const char *separator = "";

	if (operation == POSER_IMPORT_UPDATE)
	{
		appendStringInfo(sql, "UPDATE %s SET ", import->target.only_name);
		for (int i = import->nkeys; i < import->ncolumns; i++)
			if (POSER_IMPORT_HAS(columns, i))
			{
				argtypes[nargs] = import->columns[i].type;
				map[nargs++] = i;
				appendStringInfo(sql, "%s%s = $%d", separator, import->columns[i].name, nargs);
				separator = ", ";
			}
	}
	else
		appendStringInfo(sql, "DELETE FROM %s", import->target.only_name);
	for (int i = 0; i < import->nkeys; i++)
	{
		argtypes[nargs] = import->columns[i].type;
		map[nargs++] = i;
		appendStringInfo(sql, " %s %s %s $%d", i == 0 ? "WHERE" : "AND", import->columns[i].name,
						 import->columns[i].equals, nargs);
	}
	return nargs;
}

/*
 * Writing
 */

/*
 * Update or delete the rows in "poser_import_change" in a foreign table, one by one.
 * Returns how many rows were written.
 */
static int64
write_foreign(PoserImport *import, PoserImportOperation operation, const uint8 *columns)
{
	int *map = palloc(sizeof(int) * import->ncolumns);
	Oid *argtypes = palloc(sizeof(Oid) * import->ncolumns);
	Datum *values = palloc(sizeof(Datum) * import->ncolumns);
	char *nulls = palloc(import->ncolumns);
	TupleTableSlot *slot = MakeSingleTupleTableSlot(import->change_desc, &TTSOpsMinimalTuple);
	StringInfoData sql;
	PoserQuery query = {.argtypes = argtypes, .values = values, .nulls = nulls};
	int64 result = 0;

	/* build the statement once; its plan is saved */
	initStringInfo(&sql);
	query.nargs = append_foreign_statement(&sql, import, operation, columns, map, argtypes);
	query.sql = sql.data;

	/* run it for each row, with the row's new values as parameters */
	tuplestore_rescan(import->changes.reldata);
	while (tuplestore_gettupleslot(import->changes.reldata, true, false, slot))
	{
		MemoryContext old_context = MemoryContextSwitchTo(import->row_context);

		CHECK_FOR_INTERRUPTS();
		slot_getallattrs(slot);
		for (int i = 0; i < query.nargs; i++)
		{
			values[i] = slot->tts_values[CHANGE_NEW(map[i])];
			nulls[i] = slot->tts_isnull[CHANGE_NEW(map[i])] ? 'n' : ' ';
		}
		result += poser_run(&query);
		MemoryContextSwitchTo(old_context);
		MemoryContextReset(import->row_context);
	}
	ExecDropSingleTupleTableSlot(slot);
	return result;
}

/*
 * Does the target now have a row with the key of a row in "poser_import_change"?  This
 * uses the latest snapshot, so it finds rows that the transaction's snapshot does not see.
 */
bool
poser_import_exists_by_now(PoserImport *import)
{
	StringInfoData sql;
	bool result;

	/* SELECT FROM poser_import_change AS c JOIN ONLY poser_widget AS t ON c.c1 = t.uuid */
	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT FROM poser_import_change AS c JOIN %s AS t ON ", import->target.only_name);
	poser_import_append_join(&sql, import, "c", true);
	result = poser_run(&(PoserQuery) {.sql = sql.data,
									  .read_only = true,
									  .once = true,
									  .snapshot = GetLatestSnapshot(),
									  .limit = 1}) > 0;
	SPI_freetuptable(SPI_tuptable);
	return result;
}

/* Raises the error that another transaction has written a row in the meantime. */
void
poser_import_serialization_error(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not serialize access due to concurrent update")));
}

/*
 * Returns how many rows in "poser_import_change" have a row in the target with the same key
 * and with the values in the columns with this prefix, see append_has_fields().
 */
static int64
count_changes_with(PoserImport *import, const char *fields)
{
	StringInfoData sql;
	int64 result;

	/*
	 * SELECT count(*)
	 *	 FROM poser_import_change AS c JOIN ONLY poser_widget AS t
	 *	   ON c.c1 = t.uuid AND record_image_eq(ROW(t.description, t.active), ROW(c.o2, c.o3))
	 */
	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT pg_catalog.count(*) FROM poser_import_change AS c JOIN %s AS t ON ",
					 import->target.only_name);
	poser_import_append_join(&sql, import, "c", true);
	append_has_fields(&sql, import, fields);
	poser_import_execute(import, sql.data, NULL, 0, NULL, NULL);
	result = poser_result_int64(1, NULL);
	SPI_freetuptable(SPI_tuptable);
	return result;
}

/*
 * Write the rows in "poser_import_change".  Sets import->is_outdated if another
 * transaction has changed some of these rows since they were compared.  Raises an error if
 * rows are not written for another reason.
 */
void
poser_import_write_changes(PoserImport *import, PoserImportOperation operation, const uint8 *columns, int64 nrows)
{
	int64 written;

	/* without a unique index, a key would occur twice if another row has it that the snapshot does not see */
	if (operation == POSER_IMPORT_CREATE && !import->target.unique && IsolationUsesXactSnapshot() &&
		import->target.relkind != RELKIND_FOREIGN_TABLE && poser_import_exists_by_now(import))
		poser_import_serialization_error();

	/* write the rows; usually all of them are written */
	if (import->target.relkind == RELKIND_FOREIGN_TABLE && operation != POSER_IMPORT_CREATE)
		written = write_foreign(import, operation, columns);
	else
	{
		import->in_statement = true;
		poser_import_execute(import, build_statement(import, operation, columns), NULL, 0, NULL, NULL);
		import->in_statement = false;
		written = SPI_processed;
	}
	if (written == nrows)
		return;

	/* if fewer rows were written, find out why */
	if (operation != POSER_IMPORT_CREATE && import->target.relkind != RELKIND_FOREIGN_TABLE)
	{
		int64 before = count_changes_with(import, "c.o");

		/* no other transaction can write the table, so a trigger or a foreign key's action has written the rest */
		if (import->target.locked && operation == POSER_IMPORT_UPDATE && count_changes_with(import, "c.c") == nrows)
			return;
		if (import->target.locked && operation == POSER_IMPORT_DELETE && before == 0)
			return;
		/* some rows were not written, and no longer have their old values */
		if (written + before < nrows)
		{
			import->is_outdated = true;
			return;
		}
	}
	ereport(ERROR,
			(errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION),
			 errmsg("a trigger, a rule or a policy of relation \"%s\" keeps it from being written",
					import->target.label)));
}
