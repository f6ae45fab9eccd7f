/*
 * batch_refresh.c
 *	  Finding out what executing a batch would do.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"

#include "batches/batch_internal.h"

PG_FUNCTION_INFO_V1(poser_batch_refresh);

/* May the caller do to the target what there is to do? */
static bool
may_write(PoserImport *import)
{
	static const AclMode modes[] = {ACL_INSERT, ACL_UPDATE, ACL_DELETE};

	for (int i = 0; i < lengthof(modes); i++)
		if (import->found[i] > 0 &&
			pg_class_aclcheck(import->target.relid, GetUserId(), modes[i]) != ACLCHECK_OK &&
			(modes[i] == ACL_DELETE ||
			 pg_attribute_aclcheck_all(import->target.relid, GetUserId(), modes[i], ACLMASK_ANY) != ACLCHECK_OK))
			return false;
	return true;
}

/* Refresh a batch; returns how many rows cannot be executed. */
static int64
refresh(PoserImport *import)
{
	PoserBatch *batch = import->private;
	Tuplestorestate *of_reading;
	int64 nof_reading;
	int64 conflicts;

	poser_batch_collect_problems(import, false);
	poser_import_read(import);

	/* of rows with one key nothing can be said but that */
	import->skips_duplicates = (import->problems.nrows > 0);
	of_reading = import->problems.all;
	nof_reading = import->problems.nrows;
	import->problems.all = tuplestore_begin_heap(false, false, work_mem);
	batch->verdicts.reldata = import->problems.all;
	do
	{
		bool ambiguous;

		poser_import_forget_problems(import);
		poser_import_compare(import);
		ambiguous = (import->problems.nrows > 0);
		conflicts = poser_batch_count_conflicts(import);
		import->write = poser_batch_write_findings;
		poser_import_write(import);

		/* what constraints and triggers say of the rest is found out by trying */
		if (!ambiguous &&
			import->found[POSER_IMPORT_CREATE] + import->found[POSER_IMPORT_UPDATE] +
					import->found[POSER_IMPORT_DELETE] >
				0 &&
			may_write(import))
		{
			import->write = poser_import_write_rows;
			(void) poser_import_apply(import, false);
		}
		if (import->problems.nrows > 0)
			poser_batch_write_verdicts(import);
		/* others may have come between the two */
	} while (poser_batch_count_conflicts(import) != conflicts);

	batch->verdicts.reldata = of_reading;
	import->problems.nrows = nof_reading;
	if (nof_reading > 0)
		poser_batch_write_verdicts(import);
	tuplestore_end(of_reading);
	batch->verdicts.reldata = import->problems.all;
	return poser_batch_count_bad_rows(import);
}

/*
 * poser_batch_refresh(batch varchar) returns bigint
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
		poser_import_restore_activity(import);
	}
	PG_END_TRY();
	tuplestore_end(import->problems.all);
	poser_import_end(import);
	PG_RETURN_INT64(result);
}
