/*
 * setting.c
 *	  The settings poser.runas and poser.comment, and settings for a limited time.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/guc.h"

#include "base/base.h"

/* The longest value of a setting, in characters. */
#define MAX_SETTING_LENGTH 255

char *poser_runas = NULL;
char *poser_comment = NULL;

/* Returns what is wrong with the value of a setting, or NULL. */
static const char *
setting_problem(const char *value)
{
	/* without a database there is no encoding; the value is checked again when it is used */
	if (value == NULL || !OidIsValid(MyDatabaseId))
		return NULL;
	if (!pg_verify_mbstr(GetDatabaseEncoding(), value, strlen(value), true))
		return "The value is not valid in the database's encoding.";
	if (pg_mbstrlen(value) > MAX_SETTING_LENGTH)
		return "The value is longer than 255 characters.";
	return NULL;
}

/* The check hook of both settings. */
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

/* Define the settings, and check values that came before the library was loaded. */
void
poser_setting_init(void)
{
	/*
	 * A value can be set before the library is loaded.  If it is not valid, the
	 * server would drop it with a WARNING, and changes would be recorded for a wrong
	 * user.  So this is an error here.
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
}

/*
 * Set these settings, and return a level.  They end when the caller calls
 * AtEOXact_GUC(true, level), together with all levels that were begun later.  After an
 * error the end of the transaction or subtransaction ends them.
 */
int
poser_begin_settings(const PoserSetting *settings, int n)
{
	int level = NewGUCNestLevel();

	for (int i = 0; i < n; i++)
		(void) set_config_option(settings[i].name, settings[i].value, PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	return level;
}

/*
 * Begin the settings under which a value stays the same when it is written as text
 * and read again.  Returns a level, as poser_begin_settings() does.
 */
int
poser_begin_text_settings(void)
{
	static const PoserSetting settings[] = {
		{"datestyle", "ISO"}, {"intervalstyle", "postgres"}, {"extra_float_digits", "3"}};

	return poser_begin_settings(settings, lengthof(settings));
}

/*
 * The session goes on with this table, which is one of many.  If its owner is another role,
 * the session must not wait long for a lock of that role on the table or its indexes, and
 * gets an error (55P03) instead.  Returns a level, as poser_begin_settings() does.
 */
int
poser_begin_impatience(Oid relid)
{
	static const PoserSetting settings[] = {{"lock_timeout", "1s"}};
	bool is_patient = poser_owner_of(relid) == GetUserId() || (LockTimeout > 0 && LockTimeout <= 1000);

	return poser_begin_settings(settings, is_patient ? 0 : lengthof(settings));
}
