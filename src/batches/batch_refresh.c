/*
 * batch_refresh.c
 *	  poser_batch_refresh(): finding out what executing a batch would do.
 *
 * A refresh compares the batch with its target and writes what it finds into the
 * rows of the batch: their operation, conflicts and errors, and old values that
 * they lack.  There are two kinds of errors.  Some rows cannot be read, for instance
 * because a value is too long for its column.  Other rows are refused by constraints or
 * triggers of the target.  To find these, the refresh writes the rows to the target in a
 * subtransaction and rolls it back.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"

#include "batches/batch_internal.h"

PG_FUNCTION_INFO_V1(poser_batch_refresh);

/*
 * Has the caller a privilege for each operation that the comparison has found?  For
 * INSERT and UPDATE a privilege on one of the columns is enough here.
 */
static bool
may_write(const PoserImport *import)
{
	/* by PoserImportOperation */
	static const AclMode modes[] = {ACL_INSERT, ACL_UPDATE, ACL_DELETE};

	for (int i = 0; i < lengthof(modes); i++)
		if (import->found[i] > 0 &&
			pg_class_aclcheck(import->target.relid, GetUserId(), modes[i]) != ACLCHECK_OK &&
			(modes[i] == ACL_DELETE ||
			 pg_attribute_aclcheck_all(import->target.relid, GetUserId(), modes[i], ACLMASK_ANY) != ACLCHECK_OK))
			return false;
	return true;
}

/* Refresh a batch.  Returns how many of its rows have an error or a conflict. */
static int64
refresh(PoserImport *import)
{
	PoserBatch *batch = import->private;
	Tuplestorestate *reading_problems;
	int64 nreading_problems;
	int64 nconflicts;

	poser_batch_collect_problems(import);
	poser_import_read(import);

	/*
	 * Keep the problems of reading until the end.  Then they overwrite what else was
	 * found for these rows.  Rows with a key that occurs more than once are not compared,
	 * so they have no other problem.
	 */
	import->skips_duplicates = (import->problems.nrows > 0);
	reading_problems = import->problems.all;
	nreading_problems = import->problems.nrows;
	import->problems.all = tuplestore_begin_heap(false, false, work_mem);
	batch->problems.reldata = import->problems.all;

	do
	{
		bool is_ambiguous;
		int64 nwrites;

		/* compare, and write the findings into the batch */
		poser_import_forget_problems(import);
		import->sorts_unchanged = true;
		poser_import_compare(import);
		is_ambiguous = (import->problems.nrows > 0);
		nconflicts = poser_batch_count_conflicts(import);
		import->write = poser_batch_write_findings;
		poser_import_write(import);

		/* try to write the target, unless a row matches several rows of the target */
		nwrites = import->found[POSER_IMPORT_CREATE] + import->found[POSER_IMPORT_UPDATE] +
				  import->found[POSER_IMPORT_DELETE];
		if (!is_ambiguous && nwrites > 0 && may_write(import))
		{
			import->write = poser_import_write_rows;
			import->sorts_unchanged = false;
			(void) poser_import_apply(import, false);
		}
		if (import->problems.nrows > 0)
			poser_batch_write_problems(import);

		/*
		 * poser_import_apply() has compared the rows again.  If it has found another
		 * number of conflicts, other transactions have changed the target since the first
		 * comparison.  Then begin again.
		 */
	} while (poser_batch_count_conflicts(import) != nconflicts);

	/* write the problems of reading */
	batch->problems.reldata = reading_problems;
	import->problems.nrows = nreading_problems;
	if (nreading_problems > 0)
		poser_batch_write_problems(import);
	tuplestore_end(reading_problems);
	batch->problems.reldata = import->problems.all;
	return poser_batch_count_bad_rows(import);
}

/*
 * poser_batch_refresh(batch varchar) returns bigint
 *
 * The result is the number of rows with an error or a conflict.
 */
Datum
poser_batch_refresh(PG_FUNCTION_ARGS)
{
	PoserBatch batch;
	PoserImport *import;
	volatile int64 result = 0;

	poser_import_check_argument(PG_ARGISNULL(0), "batch");
	PreventCommandIfReadOnly("poser_batch_refresh()");
	poser_batch_lock(&batch, get_func_namespace(fcinfo->flinfo->fn_oid), PG_GETARG_DATUM(0), true);
	poser_batch_check_mutable(&batch);

	import = poser_batch_begin(&batch, "poser_batch_refresh", false);
	PG_TRY();
	{
		result = refresh(import);
		poser_batch_write_status(&batch, "refreshed", import, result, "errors and conflicts");
	}
	PG_FINALLY();
	{
		poser_progress_end(&import->progress);
	}
	PG_END_TRY();
	tuplestore_end(import->problems.all);
	poser_import_end(import);
	PG_RETURN_INT64(result);
}
