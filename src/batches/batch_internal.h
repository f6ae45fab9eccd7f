/*
 * batch_internal.h
 *	  What the files of this folder share.
 */
#ifndef POSER_BATCH_INTERNAL_H
#define POSER_BATCH_INTERNAL_H

#include "imports/imports.h"

/* A batch that is being worked on. */
typedef struct PoserBatch
{
	const char *schema; /* quoted */
	Oid relid;			/* of poser_batch */
	Datum uuid;			/* varchar */
	int64 id;
	Oid target;
	Datum key; /* text[], or 0 */
	bool complete;
	bool executed;

	/* while it is compared */
	ExprState *populate; /* makes a record of the target of an object */
	int64 base;			 /* number of the last row so far */
	bool skip_conflicts;
	bool refused;
	EphemeralNamedRelationData verdicts;
	EphemeralNamedRelationData rejects;
} PoserBatch;

/* What a batch's rows have after the columns to be written. */
#define POSER_BATCH_OLD(import, i) (1 + (import)->ncolumns + (i))
#define POSER_BATCH_GIVEN(import) (1 + 2 * (import)->ncolumns)
#define POSER_BATCH_BASED(import) (2 + 2 * (import)->ncolumns)
#define POSER_BATCH_OPERATION(import) (3 + 2 * (import)->ncolumns)

/* How many operations a row of a batch can say. */
#define POSER_BATCH_OPERATIONS 4

/*
 * What a row is meant to do, beside the operations that it can say: to be
 * written over whatever is there, if it is to be updated and says nothing of
 * that; or nothing whatever, if it neither says what is to be written nor deletes.
 */
#define POSER_BATCH_OVERWRITE POSER_IMPORT_CONFLICT
#define POSER_BATCH_NOTHING POSER_IMPORT_IS_GONE

/* batch.c */
extern const char *const poser_batch_operations[POSER_BATCH_OPERATIONS];

extern char *poser_batch_name(int64 id, Datum uuid);
extern Oid poser_batch_lock_table(const char *name, Oid nspid);
extern void poser_batch_lock(PoserBatch *batch, Oid nspid, Datum uuid, bool rows);
extern void poser_batch_check_mutable(const PoserBatch *batch);
extern void poser_batch_write_header(const PoserBatch *batch, const char *assignments, int nargs,
									 Oid *argtypes, Datum *args);
extern void poser_batch_write_status(const PoserBatch *batch, const char *what, PoserImport *import,
									 int64 bad, const char *bad_name);
extern void poser_batch_collect_problems(PoserImport *import, bool rejects);
extern void poser_batch_query(PoserImport *import, const char *sql, DestReceiver *dest);
extern uint64 poser_batch_run(PoserImport *import, const char *sql);
extern void poser_batch_write_verdicts(PoserImport *import);
extern void poser_batch_check_width(PoserImport *import);
extern int64 poser_batch_count_bad_rows(PoserImport *import);

/* batch_guard.c */
extern const char *poser_batch_marked;

extern void poser_batch_update_header(const char *sql, int nargs, Oid *argtypes, Datum *args);

/* batch_read.c */
extern PoserImport *poser_batch_begin(PoserBatch *batch, const char *function, bool writes);

/* batch_compare.c */
extern PoserImportOperation poser_batch_judge(PoserImport *import, TupleTableSlot *slot, uint8 *columns);
extern int64 poser_batch_count_conflicts(PoserImport *import);
extern void poser_batch_write_findings(PoserImport *import, PoserImportOperation operation,
									   const uint8 *columns, int64 nrows);
extern void poser_batch_note_conflicts(PoserImport *import, PoserImportOperation operation,
									   const uint8 *columns, int64 nrows);

#endif /* POSER_BATCH_INTERNAL_H */
