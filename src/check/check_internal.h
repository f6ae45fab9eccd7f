/*
 * check_internal.h
 *	  What the files of this folder share, and no other folder uses.
 */
#ifndef POSER_CHECK_INTERNAL_H
#define POSER_CHECK_INTERNAL_H

#include "nodes/execnodes.h"

#include "base/base.h"

/* A call of poser_check(). */
typedef struct PoserCheck
{
	ReturnSetInfo *rsinfo; /* gets the problems */
	Oid nspid;			   /* the schema of the extension */
	const char *schema;	   /* its name, quoted */
	const char *version;   /* the version that is installed */
} PoserCheck;

/* Does the installed version have the object "expected"?  Versions are compared as numbers: 1.10 is later than 1.9. */
#define IS_EXPECTED "string_to_array(expected.version, '.')::int[] <= string_to_array($2, '.')::int[]"

/* Is the installed version older than the one that has removed or changed the object, if any has? */
#define IS_NOT_REPLACED "(expected.until IS NULL OR string_to_array(expected.until, '.')::int[] > string_to_array($2, '.')::int[])"

/* check.c */
extern char *poser_installed_version(Oid fnoid);
extern uint64 poser_check_run(const PoserCheck *check, const char *sql);
extern void poser_check_add(const PoserCheck *check, const char *object, const char *problem);

/* check_structure.c */
extern const char *const poser_own_columns;
extern bool poser_check_structure(const PoserCheck *check);

/* own_structure.c */
extern const char *const poser_own_structure;

/* check_rows.c */
extern void poser_check_counts(const PoserCheck *check);
extern void poser_check_history(const PoserCheck *check, Oid target);
extern void poser_check_batches(const PoserCheck *check);
extern void poser_check_consumers(const PoserCheck *check);

/* check_own.c */
extern List *poser_check_find_own(Oid nspid);
extern bool poser_check_is_own(Oid target, Oid nspid);
extern Oid poser_check_find_target(Oid target, Oid nspid);
extern void poser_check_own(const PoserCheck *check, Oid relid, bool wait);

/* check_views.c */
extern List *poser_check_find_views(Oid nspid);
extern List *poser_check_find_views_of(Oid target, Oid nspid);
extern void poser_check_view(const PoserCheck *check, Oid bookkeeping, bool wait);
extern void poser_check_view_leftovers(const PoserCheck *check);

#endif /* POSER_CHECK_INTERNAL_H */
