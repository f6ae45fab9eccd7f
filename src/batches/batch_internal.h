/*
 * batch_internal.h
 *	  What the files of this folder share, and no other folder uses.
 */
#ifndef POSER_BATCH_INTERNAL_H
#define POSER_BATCH_INTERNAL_H

#include "imports/imports.h"

/* The operations that a row of a batch can have: the first ones of PoserImportOperation. */
#define POSER_BATCH_OPERATIONS 4

/* A batch that is being populated, refreshed or executed: the "private" of its import. */
typedef struct PoserBatch
{
	/* its header, which is locked */
	const char *schema; /* of the extension, quoted */
	Oid relid;			/* of poser_batch */
	Datum uuid;			/* varchar */
	int64 id;
	Oid target;
	Datum key; /* text[], or 0 if it is null */
	bool complete;
	int64 unchanged_count; /* rows of the source that were the same, and are not among its rows */

	/* populating */
	int64 last_sequence;				   /* of the rows written so far */
	int64 written[POSER_BATCH_OPERATIONS]; /* rows written so far, by operation */
	int64 nwritten;						   /* rows written in all */
	bool stages_unchanged;
	bool is_ambiguous; /* rows of the source match several rows of the target */
	EphemeralNamedRelationData rejects;

	/* populating and refreshing */
	EphemeralNamedRelationData problems;

	/* refreshing and executing */
	ExprState *to_record; /* converts a JSON object to a record of the target's type */

	/* executing */
	bool skips_conflicts;
	bool is_refused; /* it has conflicts, and does not skip them */
} PoserBatch;

/*
 * What a row of a batch asks for.  This follows from its columns "operation", "old" and
 * "new", see find_intention() in batch_read.c.
 */
typedef enum PoserBatchIntention
{
	POSER_BATCH_CREATE,
	POSER_BATCH_UPDATE,	   /* update, if the row of the target has the old values */
	POSER_BATCH_OVERWRITE, /* update, whatever values the row of the target has; create it if there is none */
	POSER_BATCH_DELETE,
	POSER_BATCH_NOTHING
} PoserBatchIntention;

/*
 * Columns of the rows that are read from a batch: the sequence, a new value for each
 * column of the import, an old value for each column, two sets of columns, and the
 * intention.  The sets say which new values and which old values the row of the batch
 * really has.  The key is among the new values.
 */
#define ROW_SEQUENCE 0
#define ROW_NEW(i) (1 + (i))
#define ROW_OLD(import, i) (1 + (import)->ncolumns + (i))
#define ROW_NEW_SET(import) (1 + 2 * (import)->ncolumns)
#define ROW_OLD_SET(import) (2 + 2 * (import)->ncolumns)
#define ROW_INTENTION(import) (3 + 2 * (import)->ncolumns)
#define ROW_COLUMNS(import) (4 + 2 * (import)->ncolumns)

/* Further columns of the comparison: one that is null if the target has no such row, and the target's values. */
#define ROW_FOUND(import) ROW_COLUMNS(import)
#define ROW_CURRENT(import, i) (5 + 2 * (import)->ncolumns + (i))

/* batch.c */
extern const char *const poser_batch_operations[POSER_BATCH_OPERATIONS];

extern char *poser_batch_name(int64 id, Datum uuid);
extern void poser_batch_executed_error(const char *name, const char *detail);
extern void poser_batch_complete_error(const char *name);
extern bool poser_batch_has_unchanged_count(Oid relid);
extern Oid poser_batch_lock_table(const char *name, Oid nspid);
extern void poser_batch_lock(PoserBatch *batch, Oid nspid, Datum uuid, bool rows);
extern void poser_batch_check_mutable(const PoserBatch *batch);
extern void poser_batch_write_header(const PoserBatch *batch, const char *assignments, int nargs,
									 const Oid *argtypes, const Datum *values);
extern int64 poser_batch_count_unchanged(const PoserBatch *batch, const PoserImport *import);
extern void poser_batch_write_status(const PoserBatch *batch, const char *what, const PoserImport *import,
									 int64 bad, const char *bad_name);
extern void poser_batch_check_width(const PoserBatch *batch, const PoserImport *import);
extern uint64 poser_batch_query(PoserImport *import, const char *sql, DestReceiver *dest);
extern void poser_batch_collect_problems(PoserImport *import);
extern void poser_batch_write_problems(PoserImport *import);
extern int64 poser_batch_count_bad_rows(PoserImport *import);

/* batch_guard.c */
extern const char *poser_batch_marked;

extern uint64 poser_batch_update_header(const PoserQuery *query);

/* batch_read.c */
extern PoserImport *poser_batch_begin(PoserBatch *batch, const char *function, bool writes);

/* batch_compare.c */
extern PoserImportOperation poser_batch_decide(PoserImport *import, TupleTableSlot *slot, uint8 *columns);
extern int64 poser_batch_count_conflicts(const PoserImport *import);
extern void poser_batch_write_findings(PoserImport *import, PoserImportOperation operation,
									   const uint8 *columns, int64 nrows);
extern void poser_batch_note_conflicts(PoserImport *import, PoserImportOperation operation,
									   const uint8 *columns, int64 nrows);

#endif /* POSER_BATCH_INTERNAL_H */
