/*
 * poser.c
 *	  Module start, and settings.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/guc.h"

#include "poser.h"

PG_MODULE_MAGIC;

/* The longest value of a setting, in characters. */
#define MAX_SETTING_LENGTH 255

char *poser_runas = NULL;
char *poser_comment = NULL;

void _PG_init(void);

/* What is wrong with a setting's value, or NULL. */
static const char *
setting_problem(const char *value)
{
	/* without a database there is no encoding; it will be checked when used */
	if (value == NULL || !OidIsValid(MyDatabaseId))
		return NULL;
	if (!pg_verify_mbstr(GetDatabaseEncoding(), value, strlen(value), true))
		return "The value is not valid in the database's encoding.";
	if (pg_mbstrlen(value) > MAX_SETTING_LENGTH)
		return "The value is longer than 255 characters.";
	return NULL;
}

static bool
check_setting_hook(char **newval, void **extra, GucSource source)
{
	const char *problem = setting_problem(*newval);

	if (problem != NULL)
		GUC_check_errdetail("%s", problem);
	return problem == NULL;
}

/* Raises an error if the setting's value is not valid. */
void
poser_check_setting(const char *name, const char *value)
{
	const char *problem = setting_problem(value);

	if (problem != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for parameter \"%s\"", name),
				 errdetail("%s", problem)));
}

void
_PG_init(void)
{
	/*
	 * A value that came before the module was there would be dropped with a
	 * warning if it is not valid; but nothing must be done in a wrong name.
	 */
	poser_check_setting("poser.runas", GetConfigOption("poser.runas", true, false));
	poser_check_setting("poser.comment", GetConfigOption("poser.comment", true, false));

	DefineCustomStringVariable("poser.runas",
							   "The user in whose name widgets and components are changed.",
							   "Recorded as username in poser_transaction; empty for the session's user.",
							   &poser_runas, "", PGC_USERSET, 0,
							   check_setting_hook, NULL, NULL);
	DefineCustomStringVariable("poser.comment",
							   "Why widgets and components are changed.",
							   "Recorded as comment in poser_transaction.",
							   &poser_comment, "", PGC_USERSET, 0,
							   check_setting_hook, NULL, NULL);
	DefineCustomIntVariable("poser.datasync_stale_after",
							"How old a change must be for a consumer that has not confirmed it to be stale.",
							"In poser_datasync_status and poser_datasync_stale().",
							&poser_datasync_stale_after, 3600, 0, INT_MAX, PGC_USERSET, GUC_UNIT_S,
							NULL, NULL, NULL);
	MarkGUCPrefixReserved("poser");

	poser_catalog_init();
	poser_count_init();
	poser_version_init();
	poser_batch_init();
	poser_datasync_init();
}
