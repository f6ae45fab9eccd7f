/*
 * import_query.c
 *	  Queries of an import: running them, and parts of their SQL.
 *
 * The queries of an import read three kinds of relations: the source, the target, and
 * the rows that the import has registered as poser_import_row and
 * poser_import_change.  The columns of registered rows have numbers as names: c1 is the
 * first column of the key.  A subquery over the target gives its columns these names, too.
 * So users' names cannot be in conflict with each other or with those of the import.
 *
 * The files of this folder show each statement as it looks for an import from
 * supplier_widget into poser_widget with the key uuid (c1) and the fields description
 * (c2) and active (c3).  In these comments an operator stands for OPERATOR(pg_catalog...),
 * and functions and types have no schema.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "imports/import_internal.h"

/* A function has at most 100 arguments (FUNC_MAX_ARGS), a name and a value for each member. */
#define MAX_OBJECT_MEMBERS 50

/*
 * Running
 */

/*
 * Run a query.  Its rows go to "dest" or, if that is NULL, into SPI_tuptable.
 * SPI_processed is their number, or the number of rows that the statement has written.
 *
 * The tables that a query reads must not have been rewritten since its snapshot was taken:
 * they would seem to be empty, and the import would delete rows.  So this is checked.  A
 * query without parameters and without a receiver reads only registered rows and the
 * target, which the comparison has checked before.
 */
void
poser_import_execute(PoserImport *import, const char *query, DestReceiver *dest,
					 int nargs, Oid *argtypes, Datum *values)
{
	/* in parallel mode a receiver could not set savepoints or run functions that are not parallel safe */
	bool parallel = !import->careful && !import->coerces;

	(void) poser_run(&(PoserQuery) {.sql = query,
									.nargs = nargs,
									.argtypes = argtypes,
									.values = values,
									.read_only = import->read_only,
									.once = true,
									.cursor_options = parallel ? CURSOR_OPT_PARALLEL_OK : 0,
									.check_rewritten = (nargs > 0 || dest != NULL),
									.dest = dest});
}

/* Methods of the receiver that have nothing to do. */
static void
start_nothing(DestReceiver *self, int operation, TupleDesc desc)
{
}

static void
end_nothing(DestReceiver *self)
{
}

/* A receiver that hands each row of a query to a function. */
typedef struct Receiver
{
	DestReceiver pub;
	PoserImport *import;
	void (*receive)(PoserImport *import, TupleTableSlot *slot);
} Receiver;

/* The receiveSlot method. */
static bool
receive_row(TupleTableSlot *slot, DestReceiver *self)
{
	Receiver *receiver = (Receiver *) self;
	PoserImport *import = receiver->import;
	MemoryContext old_context = MemoryContextSwitchTo(import->row_context);

	CHECK_FOR_INTERRUPTS();
	slot_getallattrs(slot);
	receiver->receive(import, slot);
	MemoryContextSwitchTo(old_context);
	MemoryContextReset(import->row_context);
	ResetPerTupleExprContext(import->estate);
	return true;
}

/*
 * Returns a receiver that calls the function for each row, with all its columns in
 * the slot.  The memory context is import->row_context, which is reset after the
 * row.  The receiver lives as long as the import.
 */
DestReceiver *
poser_import_receiver(PoserImport *import, void (*receive)(PoserImport *import, TupleTableSlot *slot))
{
	Receiver *result = MemoryContextAllocZero(import->context, sizeof(Receiver));

	result->pub.receiveSlot = receive_row;
	result->pub.rStartup = start_nothing;
	result->pub.rShutdown = end_nothing;
	result->pub.rDestroy = end_nothing;
	result->pub.mydest = DestNone;
	result->import = import;
	result->receive = receive;
	return &result->pub;
}

/*
 * Parts of SQL
 */

/* Append the numbered names of the columns from "first" on, such as "c.c2, c.c3" for the prefix "c.c". */
void
poser_import_append_list(StringInfo sql, PoserImport *import, int first, const char *prefix)
{
	for (int i = first; i < import->ncolumns; i++)
		appendStringInfo(sql, "%s%s%d", i > first ? ", " : "", prefix, i + 1);
}

/* Append the numbered names of the key's columns: "c1". */
void
poser_import_append_key(StringInfo sql, PoserImport *import)
{
	for (int i = 0; i < import->nkeys; i++)
		appendStringInfo(sql, "%sc%d", i > 0 ? ", " : "", i + 1);
}

/*
 * Append the condition that rows have the same key: "r.c1 = t.uuid" with "own_names",
 * otherwise "r.c1 = t.c1".
 */
void
poser_import_append_join(StringInfo sql, PoserImport *import, const char *rows, bool own_names)
{
	for (int i = 0; i < import->nkeys; i++)
	{
		appendStringInfo(sql, "%s%s.c%d %s t.", i > 0 ? " AND " : "", rows, i + 1,
						 import->columns[i].equals);
		if (own_names)
			appendStringInfoString(sql, import->columns[i].name);
		else
			appendStringInfo(sql, "c%d", i + 1);
	}
}

/*
 * Append an expression for the value that a column has in a JSON object.  "value" is an
 * expression for the column's value.
 *
 * The value of a type with a cast to json is put in as text.  Such a cast may be any
 * user's code, and the type's input function may not accept its result.
 */
void
poser_import_append_value(StringInfo sql, PoserImport *import, int column, const char *value)
{
	if (import->columns[column].as_text)
		appendStringInfo(sql, "CASE WHEN %s IS DISTINCT FROM NULL THEN pg_catalog.format('%%s', %s) END", value, value);
	else
		appendStringInfoString(sql, value);
}

/*
 * Append an expression for a JSON object with the names and values of the columns from
 * "first" to "last" - 1.  If "columns" is not NULL, only those in this set are taken.  In
 * the SQL the name of a value is the prefix with the column's number or, with "by_name",
 * with the column's name.
 *
 *	jsonb_build_object('description', c.c2, 'active', c.c3)
 */
void
poser_import_append_object(StringInfo sql, PoserImport *import, int first, int last,
						   const uint8 *columns, const char *prefix, bool by_name)
{
	int n = 0;

	for (int i = first; i < last; i++)
	{
		bool begins = (n % MAX_OBJECT_MEMBERS == 0);

		if (columns != NULL && !POSER_IMPORT_HAS(columns, i))
			continue;
		if (begins)
			appendStringInfoString(sql, n == 0 ? "pg_catalog.jsonb_build_object(" : ") OPERATOR(pg_catalog.||) pg_catalog.jsonb_build_object(");
		appendStringInfo(sql, "%s%s, ", begins ? "" : ", ", quote_literal_cstr(import->columns[i].label));
		poser_import_append_value(sql, import, i,
								  by_name ? psprintf("%s%s", prefix, import->columns[i].name)
										  : psprintf("%s%d", prefix, i + 1));
		n++;
	}
	appendStringInfoString(sql, n == 0 ? "'{}'::pg_catalog.jsonb" : ")");
}
