/*
 * track_internal.h
 *	  What the files of poser_track() and poser_untrack() share.
 */
#ifndef POSER_TRACK_INTERNAL_H
#define POSER_TRACK_INTERNAL_H

#include "versions/versions.h"
#include "versions/version_internal.h"

/* A live column of a table that is tracked. */
typedef struct PoserTrackColumn
{
	AttrNumber attnum;
	const char *name;
	Oid type;		 /* the type that its versions have: a domain's base type */
	int32 typmod;	 /* of the table's column */
	Oid collation;	 /* of the table's column */
	bool is_virtual; /* a row has no value of it */
	bool excluded;
	bool is_added;			/* this call has begun to record it */
	AttrNumber version;		/* the column of the versions that gets its values; 0 if there is none yet */
	AttrNumber former;		/* if it is excluded: the column of the versions with its values from before, or 0 */
	const char *bound_name; /* its name when it was bound; NULL if it is not bound */
} PoserTrackColumn;

/*
 * A call of poser_track().  It runs twice: first it looks whether there is something to
 * do, with the weakest locks, and then it does it.
 */
typedef struct PoserTrack
{
	/* what the caller wants */
	Oid nspid;				   /* the schema of the extension */
	Oid relid;				   /* the table */
	const char *versions_name; /* or NULL */
	bool has_exclude;
	List *exclude; /* names, char * */
	bool existing;

	/* what it does */
	bool looking; /* do nothing, only set "todo" */
	bool todo;
	bool alters;  /* something is to be done that needs an exclusive lock on the versions */
	bool quiet;	  /* the table was not tracked before, so no NOTICE is needed */
	bool noticed; /* there was a NOTICE */

	/* what it has found */
	List *tree;			 /* OIDs of the table and its partitions, the table first */
	bool bound;			 /* there is a binding that counts */
	Oid versions;		 /* the table of versions; InvalidOid until it is made */
	bool is_new;		 /* the table of versions was made by this call */
	bool partial;		 /* see PoserVersioned */
	bool compare;		 /* rows can differ from their last versions */
	Oid binding_trigger; /* the trigger, if bound */
	char *operation_type;
	char *transaction_id;
	char *change_id;
	int ncolumns;
	PoserTrackColumn *columns;
	int nkeys;
	AttrNumber keys[INDEX_MAX_KEYS];
} PoserTrack;

/* track.c */
extern Oid poser_track_table(Oid nspid, Oid relid, List *exclude, bool has_exclude, const char *versions, bool existing);
extern bool poser_track_must(PoserTrack *track, bool alters, const char *format, ...) pg_attribute_printf(3, 4);
extern void poser_track_run(const PoserTrack *track, Oid relid, const char *sql);
extern void poser_track_run_on_both(const PoserTrack *track, const char *sql);
extern bool poser_track_finds_row(const PoserTrack *track, Oid relid, const char *sql);
extern const char *poser_track_no_table(Relation rel);

/* track_columns.c */
extern void poser_track_find_columns(PoserTrack *track, Relation rel);
extern void poser_track_check_key(const PoserTrack *track, Relation rel);
extern void poser_track_make_versions(PoserTrack *track, Oid nspid, const char *name);
extern void poser_track_match_by_name(PoserTrack *track);
extern void poser_track_match_columns(PoserTrack *track, PoserBinding *binding, Relation rel, Relation versions);
extern void poser_track_alter_columns(PoserTrack *track);

/* track_triggers.c */
extern void poser_track_table_triggers(PoserTrack *track);
extern void poser_track_versions_triggers(PoserTrack *track);
extern void poser_track_drop_triggers(const PoserTrack *track, Oid relid, const char *function);

/* track_rows.c */
extern bool poser_track_has_rows(const PoserTrack *track);
extern void poser_track_finish(PoserTrack *track);

#endif /* POSER_TRACK_INTERNAL_H */
