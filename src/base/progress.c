/*
 * progress.c
 *	  Showing in pg_stat_activity how far long work is.
 *
 * A report is an SQL comment in front of the client's own query.  It says for example
 * "poser_import into widget: comparing, 20000 rows".
 *
 * The server shows what a session has reported until the session reports something else.
 * So the work ends with poser_progress_end(), which reports the client's query again, also
 * after an error: the error can be caught, and the query can go on for long.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/backend_status.h"
#include "utils/lsyscache.h"

#include "base/base.h"

/* Rows between two reports. */
#define PROGRESS_INTERVAL 10000

/*
 * Begin long work.  "what" says which function works on which table, and must live as long
 * as the work.  Nothing is shown before the first report.  The query that is shown at
 * present is kept in the current memory context.
 */
void
poser_progress_begin(PoserProgress *progress, const char *what)
{
	progress->what = what;
	progress->phase = "reading";
	progress->done = 0;
	progress->activity = "";
	progress->query_id = 0;
	if (MyBEEntry != NULL)
	{
		progress->activity = pstrdup(MyBEEntry->st_activity_raw);
		progress->query_id = MyBEEntry->st_query_id;
	}
}

/* The work goes on with this table.  The reports say so; InvalidOid is none. */
void
poser_progress_table(PoserProgress *progress, const char *function, Oid relid)
{
	const char *table = OidIsValid(relid) ? get_rel_name(relid) : NULL;

	snprintf(progress->text, sizeof(progress->text), "%s%s%s", function, table != NULL ? " for " : "", table != NULL ? table : "");
	progress->what = progress->text;
}

/* Report a phase and its number of rows.  If "phase" is NULL, the phase does not change. */
void
poser_progress_report(PoserProgress *progress, const char *phase, int64 rows)
{
	char *activity;

	if (phase != NULL)
		progress->phase = phase;
	progress->done = rows;
	activity = psprintf("/* %s: %s, " INT64_FORMAT " rows */ %s", progress->what, progress->phase, rows, progress->activity);
	pgstat_report_activity(STATE_RUNNING, activity);
	pfree(activity);
}

/* Count rows of the present phase.  This is also where a cancelled query ends. */
void
poser_progress_count(PoserProgress *progress, int64 rows)
{
	int64 before = progress->done;

	CHECK_FOR_INTERRUPTS();
	progress->done += rows;
	if (before / PROGRESS_INTERVAL != progress->done / PROGRESS_INTERVAL)
		poser_progress_report(progress, NULL, progress->done);
}

/* Report again the query that was shown before the work. */
void
poser_progress_end(PoserProgress *progress)
{
	pgstat_report_activity(STATE_RUNNING, progress->activity);
	pgstat_report_query_id(progress->query_id, true);
}
