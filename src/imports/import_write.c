/*
 * import_write.c
 *	  Writing what the comparison has found, and finding the rows that cannot be written.
 *
 * The comparison's sort gives groups of rows with the same operation and columns.  A group,
 * in parts of at most MAX_ROWS_WRITTEN rows, is put into poser_import_change and handed to
 * a writer.
 *
 * poser_import_apply() compares and writes in a subtransaction, and does both again as
 * often as needed:
 *
 * - If a row cannot be written, both are done again in careful mode.  A statement that
 *	 fails is rolled back and run again with parts of its rows.  This ends when the rows
 *	 that cannot be written are found, or POSER_IMPORT_TOLD_APART of them.  So the error
 *	 names rows, whatever has refused them: a constraint, a trigger or an index.
 *
 * - If another transaction has changed a row since it was compared, both are done again
 *	 with a newer snapshot.  After ATTEMPTS_WITHOUT_LOCK such attempts other writers are
 *	 locked out.  If no unique index ensures the key, they are locked out from the
 *	 beginning.
 *
 * The invariant: either all rows that are to be written are written, or no row is.  If no
 * row is written, there are problems or an error, or the caller only asked for a trial.
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
 * How many rows one statement writes.  Its events for row triggers, such as those of
 * foreign keys, are queued in memory until its end.
 */
#define MAX_ROWS_WRITTEN 100000

/* Into how many parts rows are divided if they cannot be written together. */
#define PARTS 8

/* If the target references itself, the search ends when so many rows have failed. */
#define MAX_ROWS_FAILED (10 * POSER_IMPORT_TOLD_APART)

/* The number of attempts that do not lock other writers out, and of all attempts. */
#define ATTEMPTS_WITHOUT_LOCK 2
#define MAX_ATTEMPTS 5

/*
 * Careful mode
 */

/* Note the error of the only row in "poser_import_change" as a problem. */
static void
note_problem(PoserImport *import, ErrorData *error)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(import->change_desc, &TTSOpsMinimalTuple);
	PoserImportProblem problem = {.nrows = 1};

	tuplestore_rescan(import->changes.reldata);
	if (!tuplestore_gettupleslot(import->changes.reldata, true, false, slot))
		elog(ERROR, "row of an import is missing");
	slot_getallattrs(slot);

	/* under row-level security, policies are the likely reason that a row was not written */
	if (error->sqlerrcode == ERRCODE_TRIGGERED_ACTION_EXCEPTION &&
		check_enable_rls(import->target.relid, InvalidOid, true) == RLS_ENABLED)
		error->sqlerrcode = ERRCODE_INSUFFICIENT_PRIVILEGE;
	poser_import_describe(import, &problem, NULL, error);

	/* a row to be deleted has no number, and comes last */
	problem.row = slot->tts_isnull[CHANGE_ROW] ? PG_INT64_MAX : DatumGetInt64(slot->tts_values[CHANGE_ROW]);
	problem.subject = poser_import_shown_key(import, slot->tts_values + CHANGE_NEW(0), slot->tts_isnull + CHANGE_NEW(0), false);
	if (slot->tts_isnull[CHANGE_ROW])
		problem.subject = psprintf("%s, to be deleted", problem.subject);
	poser_import_problem(import, &problem);

	/* end the search when so many rows were found */
	import->problems.at_least = (import->problems.nrows >= POSER_IMPORT_TOLD_APART);
	ExecDropSingleTupleTableSlot(slot);
}

/*
 * Write rows in a subtransaction, and return NULL.  If there is an error about a row, the
 * subtransaction is rolled back, and the error is returned.  Other errors are raised.
 */
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
		import->in_statement = false;
	}
	PG_END_TRY();
	return error;
}

static int64 write_carefully(PoserImport *import, PoserImportOperation operation, const uint8 *columns,
							 Tuplestorestate *rows, int64 nrows, Tuplestorestate *failed);

/*
 * Write rows in parts after they could not be written together because of "error".  If it
 * is a single row, this row has failed.  It is noted as a problem or, if "failed" is not
 * NULL, put into that store.  Returns how many rows have failed.
 */
static int64
write_parts(PoserImport *import, PoserImportOperation operation, const uint8 *columns,
			Tuplestorestate *rows, int64 nrows, ErrorData *error, Tuplestorestate *failed)
{
	TupleTableSlot *slot;
	int64 result = 0;
	int64 left = nrows;

	/* if another transaction has inserted the row in the meantime, this is not a problem: compare again */
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

	/* read the rows by the store's first read pointer: queries over the store use others, and do not move it */
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

	/* make parts of about the same size, each in a store of its own, and write them */
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
 * Write rows or, if that fails, parts of them.  A row that cannot be written is noted as
 * a problem or, if "failed" is not NULL, put into that store.  Returns how many rows have
 * failed.
 *
 * If problems.at_least is set afterwards, so many rows have failed that the search has
 * ended, and the remaining rows have not been tried.
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
 * As write_carefully(), for a target that references itself.  There a row can also fail
 * because the row that it references has not been written yet.  So the rows that have
 * failed are tried again, as long as at least one of them is written.
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

	/* try the rows that have failed again, until no row is left, or no row can be written */
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
		 * So many rows have failed that they are not tried again.  It is not known
		 * which of them failed only because they lack a row that they reference.
		 * When all rows were written together, none of them lacked such a row.  So
		 * report the error of that statement.
		 */
		PoserImportProblem problem = {.row = PG_INT64_MAX, .nrows = 1, .subject = "A row"};

		poser_import_describe(import, &problem, NULL, error);
		problem.detail = error->detail;
		poser_import_problem(import, &problem);
	}
	else if (nfailed > 0)
		/* now note them as problems */
		(void) write_carefully(import, operation, columns, rows, nfailed, NULL);
	tuplestore_end(rows);
	FreeErrorData(error);
}

/*
 * Groups
 */

/*
 * The writer of imports: write the rows in "poser_import_change" to the target, in careful
 * mode or not.  Does nothing for an operation that writes no row.
 */
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

/* Hand a group of rows to the writer, as "poser_import_change". */
static void
write_group(PoserImport *import, bytea *tag, Tuplestorestate *rows, int64 nrows)
{
	static const char *const phases[POSER_IMPORT_OPERATIONS] = {"creating", "updating", "deleting"};
	PoserImportOperation operation = poser_import_rank(import, VARDATA_ANY(tag)[0]);

	if (import->is_outdated || import->problems.at_least)
		return;
	poser_progress_report(&import->progress, phases[operation] != NULL ? phases[operation] : "comparing", nrows);
	import->changes.reldata = rows;
	import->changes.md.enrtuples = nrows;
	import->write(import, operation, (uint8 *) VARDATA_ANY(tag) + 1, nrows);
	import->changes.reldata = NULL;
}

/* Read the sort of the comparison, and hand its rows to the writer, group by group.  Frees the sort. */
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

	/* each group has the memory context for itself; the slot and the sort outlive it, so they are in the import's */
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

		/* a group ends with its tag or when it is full; rows that reference each other stay together */
		if (rows != NULL &&
			((n >= MAX_ROWS_WRITTEN && !import->target.references_itself) ||
			 memcmp(VARDATA_ANY(tag), VARDATA_ANY(next), VARSIZE_ANY_EXHDR(tag)) != 0))
		{
			write_group(import, tag, rows, n);
			tuplestore_end(rows);
			rows = NULL;
			MemoryContextReset(context);
		}

		/* begin a new group */
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
		write_group(import, tag, rows, n);
		tuplestore_end(rows);
	}
	ExecDropSingleTupleTableSlot(slot);
	tuplesort_end(import->sort);
	import->sort = NULL;
	MemoryContextSwitchTo(old_context);
	MemoryContextDelete(context);
}

/*
 * Attempts
 */

/*
 * Compare and write, as often as needed.  Returns true if all rows were written, and false
 * if there are problems; then nothing is written.  Without "keep" this is a trial: the
 * result is the same, and nothing is written in any case.
 *
 * Locks the target until the transaction ends, see poser_import_lock_target().  If nothing
 * is written, the rollback releases this lock, too.
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

		/* one attempt, in a subtransaction and a memory context of its own */
		import->is_outdated = import->in_statement = false;
		poser_import_forget_problems(import);
		MemoryContextSwitchTo(import->context);
		poser_savepoint_set(&savepoint);
		MemoryContextSwitchTo(context);
		PG_TRY();
		{
			/*
			 * Do not lock other writers out if this transaction has already written
			 * the target, unless its key needs it: they may be waiting for rows that
			 * this transaction has written.
			 */
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

		/* forget its sorts: their memory is freed here, and their files with the subtransaction */
		MemoryContextSwitchTo(old_context);
		MemoryContextDelete(context);
		import->sort = import->matches = NULL;

		/* the rollback has ended a deadlock, so another attempt may succeed */
		if (error != NULL && error->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED &&
			!IsolationUsesXactSnapshot() && attempt < MAX_ATTEMPTS)
			import->is_outdated = true;
		else if (error != NULL)
		{
			/* do it again in careful mode, to find the rows that cannot be written */
			if (import->careful || !poser_import_is_row_error(import, error))
				ReThrowError(error);
			FreeErrorData(error);
			import->careful = true;
			continue;
		}
		if (!import->is_outdated)
			return done;

		/* compare again, unless no other transaction can have changed the rows */
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
