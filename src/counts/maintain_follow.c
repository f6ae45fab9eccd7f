/*
 * maintain_follow.c
 *	  Maintained views in poser_follow(): which views an altered relation concerns, and
 *	  mending them.
 *
 * A maintained view is mended as its owner has left it: one that was only prepared, with
 * existing => false, is not counted now.
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "utils/lsyscache.h"

#include "counts/maintain_internal.h"
#include "versions/versions.h"

/* Is poser_maintain() or poser_unmaintain() running?  Their own statements are not followed. */
static bool maintaining = false;

void
poser_maintain_set_running(bool running)
{
	maintaining = running;
}

/* Returns the maintained views that an altered relation concerns, as a list of OIDs. */
static List *
followed_views(Oid relid, Oid nspid)
{
	char relkind = get_rel_relkind(relid);
	List *result = NIL;
	PoserMaintained maintained;
	ListCell *lc;

	if (maintaining)
		return NIL;
	if (relkind == RELKIND_VIEW && poser_maintained_find(relid, nspid, &maintained) && maintained.view == relid)
		return list_make1_oid(relid);
	if (relkind != RELKIND_RELATION && relkind != RELKIND_PARTITIONED_TABLE)
		return NIL;
	foreach(lc, poser_maintained_of_table(relid, nspid))
	{
		Oid view = ((PoserMaintained *) lfirst(lc))->view;

		if (OidIsValid(view))
			result = list_append_unique_oid(result, view);
	}
	return result;
}

/* Mend one view. */
static void
follow_view(Oid nspid, Oid view)
{
	PoserMaintained maintained;

	if (poser_maintained_find(view, nspid, &maintained))
		poser_maintain_view(nspid, view, !poser_maintained_is_prepared(&maintained));
}

/* Set the hooks, when the module is loaded. */
void
poser_maintain_follow_init(void)
{
	poser_followed_views_hook = followed_views;
	poser_follow_view_hook = follow_view;
}
