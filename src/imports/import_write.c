/*
 * import_write.c
 *	  Writing what an import has found to do.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_class.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/rls.h"

#include "imports/import_internal.h"

/*
 * Rows written by one statement.  More would let the queue of its row triggers,
 * those of foreign keys for instance, grow in memory.
 */
#define MAX_ROWS_WRITTEN 100000

/* Into how many parts rows are divided if they cannot be written together. */
#define PARTS 8

/* For a table that references itself: the search ends when so many rows have failed. */
#define MAX_ROWS_FAILED (10 * POSER_IMPORT_TOLD_APART)

/* Attempts without, and in all, if others change the rows under our hands. */
#define ATTEMPTS_WITHOUT_LOCK 2
#define MAX_ATTEMPTS 5

/* Note what is wrong with the one row in "poser_import_change". */
static void
note_problem(PoserImport *import, ErrorData *error)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(import->change_desc, &TTSOpsMinimalTuple);
	PoserImportProblem problem = {.nrows = 1};

	tuplestore_rescan(import->changes.reldata);
	if (!tuplestore_gettupleslot(import->changes.reldata, true, false, slot))
		elog(ERROR, "row of an import is missing");
	slot_getallattrs(slot);
	if (error->sqlerrcode == ERRCODE_TRIGGERED_ACTION_EXCEPTION &&
		check_enable_rls(import->target.relid, InvalidOid, true) == RLS_ENABLED)
		error->sqlerrcode = ERRCODE_INSUFFICIENT_PRIVILEGE;
	poser_import_describe(import, &problem, NULL, error);
	/* rows that are only in the target come last */
	problem.row = slot->tts_isnull[CHANGE_ROW] ? PG_INT64_MAX : DatumGetInt64(slot->tts_values[CHANGE_ROW]);
	problem.subject = poser_import_shown_key(import, slot->tts_values + CHANGE_NEW(0), slot->tts_isnull + CHANGE_NEW(0), false);
	if (slot->tts_isnull[CHANGE_ROW])
		problem.subject = psprintf("%s, to be deleted", problem.subject);
	poser_import_problem(import, &problem);
	import->problems.at_least = (import->problems.nrows >= POSER_IMPORT_TOLD_APART);
	ExecDropSingleTupleTableSlot(slot);
}

/* Write rows behind a savepoint; returns the error if that fails, or NULL. */
static ErrorData *
try_to_write(PoserImport *import, PoserImportOperation operation, const uint8 *columns,
			 Tuplestorestate *rows, int64 nrows)
{
	ErrorData *volatile error = NULL;
	PoserSavepoint savepoint;

	import->changes.reldata = rows;
	import->changes.md.enrtuples = nrows;
	poser_savepoint_set(&savepoint);
	PG_TRY();
	{
		poser_import_write_changes(import, operation, columns, nrows);
		poser_savepoint_release(&savepoint);
	}
	PG_CATCH();
	{
		error = poser_import_catch(import, &savepoint);
		import->writing = false;
	}
	PG_END_TRY();
	return error;
}

static int64 write_carefully(PoserImport *import, PoserImportOperation operation, const uint8 *columns,
							 Tuplestorestate *rows, int64 nrows, Tuplestorestate *failed);

/*
 * These rows could not be written together: write them in parts, down to the
 * single row that is the problem.  Returns how many rows have failed.
 */
static int64
write_parts(PoserImport *import, PoserImportOperation operation, const uint8 *columns,
			Tuplestorestate *rows, int64 nrows, ErrorData *error, Tuplestorestate *failed)
{
	TupleTableSlot *slot;
	int64 result = 0;
	int64 left = nrows;

	/* that somebody else has just made the row is no problem of this one */
	if (nrows == 1 && operation == POSER_IMPORT_CREATE && error->sqlerrcode == ERRCODE_UNIQUE_VIOLATION &&
		import->target.relkind != RELKIND_FOREIGN_TABLE && !import->target.locked && poser_import_exists_by_now(import))
	{
		if (IsolationUsesXactSnapshot())
			poser_import_serialization_error();
		import->is_outdated = true;
		return 0;
	}
	if (nrows == 1 && failed == NULL)
	{
		note_problem(import, error);
		return 1;
	}

	/* queries have read pointers of their own, the first one stays where it is */
	slot = MakeSingleTupleTableSlot(import->change_desc, &TTSOpsMinimalTuple);
	tuplestore_rescan(rows);
	if (nrows == 1)
	{
		if (tuplestore_gettupleslot(rows, true, false, slot))
			tuplestore_puttupleslot(failed, slot);
		import->problems.at_least = (tuplestore_tuple_count(failed) >= MAX_ROWS_FAILED);
		ExecDropSingleTupleTableSlot(slot);
		return 1;
	}
	for (int part = 0; part < PARTS && left > 0; part++)
	{
		int64 n = (left + PARTS - part - 1) / (PARTS - part);
		MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "part", ALLOCSET_SMALL_SIZES);
		MemoryContext old_context = MemoryContextSwitchTo(context);
		Tuplestorestate *store = tuplestore_begin_heap(false, false, work_mem);

		left -= n;
		for (int64 i = 0; i < n && tuplestore_gettupleslot(rows, true, false, slot); i++)
			tuplestore_puttupleslot(store, slot);
		ExecClearTuple(slot);
		result += write_carefully(import, operation, columns, store, n, failed);
		tuplestore_end(store);
		MemoryContextSwitchTo(old_context);
		MemoryContextDelete(context);
	}
	ExecDropSingleTupleTableSlot(slot);
	return result;
}

/*
 * Write rows or, if that fails, parts of them.  A row that cannot be written is
 * noted as a problem, or put into "failed" if that is not NULL.  Returns how
 * many rows have failed.
 *
 * If import->problems.at_least is set afterwards, enough of them have been found, and the
 * other rows have not been tried.
 */
static int64
write_carefully(PoserImport *import, PoserImportOperation operation, const uint8 *columns,
				Tuplestorestate *rows, int64 nrows, Tuplestorestate *failed)
{
	ErrorData *error;
	int64 result;

	if (import->is_outdated || import->problems.at_least)
		return 0;
	CHECK_FOR_INTERRUPTS();
	error = try_to_write(import, operation, columns, rows, nrows);
	if (error == NULL)
		return 0;
	result = write_parts(import, operation, columns, rows, nrows, error, failed);
	FreeErrorData(error);
	return result;
}

/*
 * The same for a table that references itself: a row that fails may only have
 * to wait for another one, so go on with those that failed as long as that
 * leads to anything.
 */
static void
write_patiently(PoserImport *import, PoserImportOperation operation, const uint8 *columns,
				Tuplestorestate *rows, int64 nrows)
{
	Tuplestorestate *first = rows;
	ErrorData *error = try_to_write(import, operation, columns, rows, nrows);
	int64 nfailed;

	if (error == NULL)
		return;
	for (;;)
	{
		Tuplestorestate *failed = tuplestore_begin_heap(false, false, work_mem);

		if (rows == first)
			nfailed = write_parts(import, operation, columns, rows, nrows, error, failed);
		else
		{
			nfailed = write_carefully(import, operation, columns, rows, nrows, failed);
			tuplestore_end(rows);
		}
		rows = failed;
		if (import->is_outdated || import->problems.at_least || nfailed == 0 || nfailed == nrows)
			break;
		nrows = nfailed;
	}
	if (import->problems.at_least)
	{
		/*
		 * It is not known which of the rows only wait for others.  But the error of
		 * all rows together is not about these, so it is the one to be raised.
		 */
		PoserImportProblem problem = {.row = PG_INT64_MAX, .nrows = 1, .subject = "A row"};

		poser_import_describe(import, &problem, NULL, error);
		problem.detail = error->detail;
		poser_import_problem(import, &problem);
	}
	else if (nfailed > 0)
		(void) write_carefully(import, operation, columns, rows, nfailed, NULL);
	tuplestore_end(rows);
	FreeErrorData(error);
}

/* Write what is gathered to the target; other operations than its are nothing to do. */
void
poser_import_write_rows(PoserImport *import, PoserImportOperation operation, const uint8 *columns, int64 nrows)
{
	if (operation > POSER_IMPORT_DELETE)
		return;
	if (import->careful && import->target.references_itself)
		write_patiently(import, operation, columns, import->changes.reldata, nrows);
	else if (import->careful)
		(void) write_carefully(import, operation, columns, import->changes.reldata, nrows, NULL);
	else
		poser_import_write_changes(import, operation, columns, nrows);
}

/* Hand the rows that have been gathered to the writer. */
static void
write_gathered(PoserImport *import, bytea *tag, Tuplestorestate *rows, int64 nrows)
{
	static const char *const phases[POSER_IMPORT_OPERATIONS] = {"creating", "updating", "deleting"};
	PoserImportOperation operation = poser_import_rank(import, VARDATA_ANY(tag)[0]);

	if (import->is_outdated || import->problems.at_least)
		return;
	poser_import_progress(import, phases[operation] != NULL ? phases[operation] : "comparing", nrows);
	import->changes.reldata = rows;
	import->changes.md.enrtuples = nrows;
	import->write(import, operation, (uint8 *) VARDATA_ANY(tag) + 1, nrows);
	import->changes.reldata = NULL;
}

/* Do what the comparison has found, group by group. */
void
poser_import_write(PoserImport *import)
{
	MemoryContext context = AllocSetContextCreate(import->context, "group", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old_context = MemoryContextSwitchTo(context);
	TupleTableSlot *slot;
	Tuplestorestate *rows = NULL;
	bytea *tag = NULL;
	int64 n = 0;

	if (import->write == NULL)
		import->write = poser_import_write_rows;
	MemoryContextSwitchTo(import->context);
	slot = MakeSingleTupleTableSlot(import->change_desc, &TTSOpsMinimalTuple);
	MemoryContextSwitchTo(context);
	tuplesort_performsort(import->sort);
	while (!import->is_outdated && !import->problems.at_least &&
		   tuplesort_gettupleslot(import->sort, true, false, slot, NULL))
	{
		bool isnull;
		bytea *next = DatumGetByteaPP(slot_getattr(slot, CHANGE_TAG + 1, &isnull));

		CHECK_FOR_INTERRUPTS();
		if (rows != NULL &&
			((n >= MAX_ROWS_WRITTEN && !import->target.references_itself) ||
			 memcmp(VARDATA_ANY(tag), VARDATA_ANY(next), VARSIZE_ANY_EXHDR(tag)) != 0))
		{
			write_gathered(import, tag, rows, n);
			tuplestore_end(rows);
			rows = NULL;
			MemoryContextReset(context);
		}
		if (rows == NULL)
		{
			n = 0;
			tag = (bytea *) DatumGetPointer(datumCopy(PointerGetDatum(next), false, -1));
			rows = tuplestore_begin_heap(false, false, work_mem);
		}
		tuplestore_puttupleslot(rows, slot);
		n++;
	}
	if (rows != NULL)
	{
		write_gathered(import, tag, rows, n);
		tuplestore_end(rows);
	}
	ExecDropSingleTupleTableSlot(slot);
	tuplesort_end(import->sort);
	import->sort = NULL;
	MemoryContextSwitchTo(old_context);
	MemoryContextDelete(context);
}

/*
 * Compare and write.  If others have changed rows between the two, or we and they
 * wait for each other, both are done again; if rows cannot be written, then carefully.  Returns false, with
 * nothing done, if there are problems.  Without "keep" it is only a try.
 */
bool
poser_import_apply(PoserImport *import, bool keep)
{
	MemoryContext old_context = CurrentMemoryContext;
	volatile int attempt = 1;

	import->careful = false;
	for (;;)
	{
		MemoryContext context = AllocSetContextCreate(import->context, "attempt", ALLOCSET_DEFAULT_SIZES);
		ErrorData *volatile error = NULL;
		volatile bool done = false;
		PoserSavepoint savepoint;

		import->is_outdated = false;
		poser_import_forget_problems(import);
		MemoryContextSwitchTo(import->context);
		poser_savepoint_set(&savepoint);
		MemoryContextSwitchTo(context);
		PG_TRY();
		{
			/* who waits for rows that we have written must not be waited for */
			poser_import_lock_target(import, !import->target.unique ||
												 (attempt > ATTEMPTS_WITHOUT_LOCK && !import->target.written_before));
			poser_import_compare(import);
			if (import->check != NULL)
				import->check(import);
			if (import->problems.nrows == 0)
				poser_import_write(import);
			done = !import->is_outdated && import->problems.nrows == 0;
			if (done && keep)
				poser_savepoint_release(&savepoint);
			else
				poser_savepoint_rollback(&savepoint);
		}
		PG_CATCH();
		{
			error = poser_savepoint_catch_any(&savepoint);
		}
		PG_END_TRY();
		/* what it has sorted on disk has gone with its resource owner */
		MemoryContextSwitchTo(old_context);
		MemoryContextDelete(context);
		import->sort = import->matches = NULL;

		if (error != NULL && error->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED &&
			!IsolationUsesXactSnapshot() && attempt < MAX_ATTEMPTS)
			import->is_outdated = true;
		else if (error != NULL)
		{
			if (import->careful || !poser_import_is_row_error(import, error))
				ReThrowError(error);
			FreeErrorData(error);
			import->writing = false;
			import->careful = true;
			continue;
		}
		if (!import->is_outdated)
			return done;
		if (import->target.locked && error == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
					 errmsg("triggers or foreign keys of relation \"%s\" change rows that are to be imported",
							import->target.label)));
		if (attempt++ == MAX_ATTEMPTS)
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("rows of relation \"%s\" are changed by others all the time",
							import->target.label)));
		CHECK_FOR_INTERRUPTS();
	}
}
