/*
 * check_views.c
 *	  Checking maintained views.
 *
 * counts/maintained_state.c says what is wrong with the relations of a view.  If the table
 * of counts and sums can be read, it is compared with the rows of the child here.
 *
 * As for tracked tables, each view is checked in a subtransaction of its own, which is
 * rolled back at the end.  So the locks on 1,000 views are not held at the same time, and
 * an error in one view becomes a line of the result.  If all views are checked, a view with
 * a relation that cannot be locked at once is named and left out.
 *
 * The invariant: a query over the tables of a view runs with the rights of the view's owner,
 * restricted.
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "check/check_internal.h"
#include "counts/counts.h"

/*
 * What is left when a view, a table or the extension was dropped, and what poser_maintain()
 * and poser_unmaintain() no longer find: triggers on tables that no maintained view has, and
 * tables of counts and sums that are bound to nothing.  $1 is the schema of the extension.
 */
static const char *const check_leftovers =
	"SELECT format('table %s', t.tgrelid::regclass),\n"
	"       format('has triggers of maintained views that were dropped: %s', string_agg(...))\n";
