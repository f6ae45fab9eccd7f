/*
 * imports.h
 *	  Imports, for batches: reading rows, comparing them with a table by key, and
 *	  writing the differences.
 */
#ifndef POSER_IMPORTS_H
#define POSER_IMPORTS_H

#include "executor/tuptable.h"
#include "nodes/execnodes.h"
#include "tcop/dest.h"
#include "utils/queryenvironment.h"
#include "utils/tuplesort.h"
#include "utils/tuplestore.h"

#include "base/base.h"

/* How many rows of each kind of problem an error names, and how many kinds it has. */
#define POSER_IMPORT_NAMED 5
#define POSER_IMPORT_KINDS 20

/*
 * How many rows that cannot be written are searched for.  Each takes several
 * statements and transaction IDs.  If there are more, the error says "at least".
 */
#define POSER_IMPORT_TOLD_APART 500

/*
 * What is to be done for a row.  The first three have the numbers of
 * PoserOperation.
 */
typedef enum PoserImportOperation
{
	POSER_IMPORT_CREATE = 0,
	POSER_IMPORT_UPDATE = 1,
	POSER_IMPORT_DELETE = 2,
	POSER_IMPORT_UNCHANGED,
	/* of batches only: the row of the target differs from the old values in the batch's row */
	POSER_IMPORT_CONFLICT,	  /* other transactions changed it */
	POSER_IMPORT_WAS_DELETED, /* other transactions deleted it */
	POSER_IMPORT_WAS_CREATED, /* other transactions created it */
	POSER_IMPORT_OPERATIONS
} PoserImportOperation;

/* A column of the target that is compared: a column of the key, or a field. */
typedef struct PoserImportColumn
{
	const char *label; /* its name */
	const char *name;  /* its name, quoted */
	AttrNumber attno;
	Oid type;
	int32 typmod;
	Oid collation;
	int16 len;
	bool byval;
	Oid source_type;
	ExprState *coerce;	/* coerces a value of the source to the column's type; NULL if the types are the same */
	bool as_text;		/* in a JSON object the value is a string with its text */
	ExprState *as_json; /* of a batch: converts a value to jsonb */
	const char *equals; /* of a key column: its equality operator */
	FmgrInfo *hash;		/* of a key column: its hash function; NULL if there is none */
} PoserImportColumn;

/* Something that is wrong with a row.  Its text is "subject, columns: reason (detail)". */
typedef struct PoserImportProblem
{
	int64 row;
	int64 nrows; /* how many rows the problem stands for */
	int sqlstate;
	const char *subject; /* the key of the row, or its number */
	const char *columns; /* 'column "a"', or NULL */
	const char *reason;
	const char *detail; /* or NULL */
	const char *kind;	/* the same for all problems of a kind */
	const char *title;	/* in an error, stands for the reasons of all rows of the kind; or NULL */
} PoserImportProblem;

/* Problems that have the same columns and the same kind of reason. */
typedef struct PoserImportKind
{
	PoserImportProblem common; /* its reason is the text with which all reasons begin */
	bool varies;			   /* the reasons differ */
	int64 nrows;
	int nsamples;
	PoserImportProblem samples[POSER_IMPORT_NAMED]; /* the first ones, ordered by row */
} PoserImportKind;

/* The problems found so far. */
typedef struct PoserImportProblems
{
	MemoryContext context; /* of the kinds and their samples */
	int64 nrows;		   /* how many rows have problems */
	bool at_least;		   /* there may be more: the search has ended early */
	int nkinds;
	PoserImportKind *kinds[POSER_IMPORT_KINDS];
	PoserImportKind *last_kind; /* of the last problem; NULL if it has no kind because there are too many */
	int64 first_row;			/* the first row that has a problem */
	int first_sqlstate;			/* of its problem */

	/* for batches; NULL otherwise */
	Tuplestorestate *all; /* all problems as (row, text) */
	TupleDesc all_desc;
	Tuplestorestate *rejects; /* rows that cannot be read as (row, text, key, new) */
	TupleDesc reject_desc;
} PoserImportProblems;

/* The table that an import writes. */
typedef struct PoserImportTarget
{
	Oid relid;
	Relation rel; /* stays open, so that no code that the import runs can change its structure */
	char relkind;
	const char *label;		/* its name, for messages */
	const char *name;		/* its name with its schema, quoted */
	const char *only_name;	/* the same, with ONLY unless it is partitioned */
	bool unique;			/* a unique index of the key exists that is not deferrable */
	bool references_itself; /* it has a foreign key to itself */
	bool written_before;	/* this transaction had locked it for writing before the import */
	bool locked;			/* other transactions cannot write it */
} PoserImportTarget;

typedef struct PoserImport PoserImport;

/*
 * Decides what is to be done for a row of the comparison, and adds the columns
 * concerned to the set "columns".  Behind this set there is room for a second one of the
 * same size.  The writer gets both sets.
 */
typedef PoserImportOperation (*PoserImportDecide)(PoserImport *import, TupleTableSlot *slot,
												  uint8 *columns);

/*
 * Does what was decided for the rows in the relation "poser_import_change".  All these
 * rows have the same operation and the same sets of columns.
 */
typedef void (*PoserImportWriter)(PoserImport *import, PoserImportOperation operation,
								  const uint8 *columns, int64 nrows);

struct PoserImport
{
	/* the call */
	MemoryContext context;	   /* of all that lives as long as the import */
	MemoryContext row_context; /* reset for each row */
	EState *estate;			   /* evaluates coercions */
	bool read_only;			   /* queries use the active snapshot */
	void *private;			   /* the caller's own data */
	ReturnSetInfo *rsinfo;	   /* of poser_import_diff() */

	/* the source; if the rows come from elsewhere, the caller sets source_shown, and the others are NULL */
	Relation source_rel; /* stays open, as the target does */
	const char *source_label;
	const char *source_shown; /* its name in errors */
	const char *source_name;  /* with its schema, quoted */

	PoserImportTarget target;

	/* the columns that are compared: first those of the key, then the fields */
	int nkeys;
	int ncolumns;
	PoserImportColumn *columns;
	bool coerces; /* a value of at least one column must be coerced */

	/* what to do; the functions may be NULL */
	bool creates;
	bool updates;
	bool deletes;
	bool skips_duplicates;				/* rows with a duplicate key are not compared */
	bool sorts_unchanged;				/* the writer gets unchanged rows, too */
	int64 limits[4];					/* the most rows to be created, updated, deleted, and changed in all */
	void (*read)(PoserImport *import);	/* adds the rows; if NULL, the source is read */
	PoserImportDecide decide;			/* if NULL, decide_by_difference() decides */
	void (*check)(PoserImport *import); /* called between comparing and writing */
	PoserImportWriter write;			/* if NULL, poser_import_write_rows() */

	/* the rows read: (row, c1, c2, ..., x1, ...); x1, ... are added by the caller */
	int nextra;
	Oid *extra; /* types of x1, ... */
	TupleDesc row_desc;
	int64 nrows;
	EphemeralNamedRelationData rows; /* "poser_import_row" */
	Tuplesortstate *hashes;			 /* hash values of the rows' keys, while rows are being read */

	/* the rows for which there is something to do: (tag, row, c1, ..., o1, ...) */
	TupleDesc change_desc;
	TupleTableSlot *change_slot;
	Tuplesortstate *sort;				/* all these rows */
	EphemeralNamedRelationData changes; /* "poser_import_change": the rows that are being written */
	Tuplesortstate *matches;			/* numbers of the rows that match a row of the target */
	int64 found[POSER_IMPORT_OPERATIONS];

	/* errors */
	bool careful;	   /* read and write in subtransactions, to find all problems */
	bool in_coercion;  /* a value is being coerced, so an error comes from this */
	bool in_statement; /* a statement is being run, so an error comes from this */
	bool is_outdated;  /* other transactions have changed rows since they were compared */
	PoserImportProblems problems;

	PoserProgress progress;
};

/* Sets of columns: a bit for each column of the import. */
#define POSER_IMPORT_BYTES(import) (((import)->ncolumns + BITS_PER_BYTE - 1) / BITS_PER_BYTE)
#define POSER_IMPORT_HAS(columns, i) \
	(((columns)[(i) / BITS_PER_BYTE] & (1 << ((i) % BITS_PER_BYTE))) != 0)
#define POSER_IMPORT_ADD(columns, i) \
	((columns)[(i) / BITS_PER_BYTE] |= (uint8) (1 << ((i) % BITS_PER_BYTE)))

/* import_columns.c */
extern PoserImport *poser_import_begin(const char *function, Oid source, Oid target, Datum key,
									   Datum fields, bool writes);
extern void poser_import_end(PoserImport *import);
extern bool poser_import_can_be_written(Form_pg_attribute att);
extern void poser_import_check_argument(bool is_null, const char *name);

/* import_read.c */
extern void poser_import_read(PoserImport *import);
extern void poser_import_add_row(PoserImport *import, Datum *values, bool *nulls);
extern void poser_import_check_keys(PoserImport *import);
extern bool poser_import_evaluate(PoserImport *import, ExprState *expr, Datum *value, bool *isnull,
								  ErrorData **error);
extern Datum poser_import_flatten(const PoserImportColumn *column, Datum value, bool isnull);

/* import_compare.c */
extern void poser_import_compare(PoserImport *import);
extern bool poser_import_same(const PoserImportColumn *column, Datum value, bool isnull,
							  Datum other, bool other_isnull);

/* import_write.c */
extern void poser_import_write(PoserImport *import);
extern void poser_import_write_rows(PoserImport *import, PoserImportOperation operation,
									const uint8 *columns, int64 nrows);
extern bool poser_import_apply(PoserImport *import, bool keep);

/* import_problem.c */
extern void poser_import_problem(PoserImport *import, const PoserImportProblem *problem);
extern void poser_import_more_problems(PoserImport *import, int64 nrows);
extern void poser_import_forget_problems(PoserImport *import);
extern char *poser_import_detail(PoserImport *import);
extern void poser_import_raise(PoserImport *import);
extern char *poser_import_shown(char *text);
extern char *poser_import_column(PoserImport *import, int i);
extern char *poser_import_columns(PoserImport *import, const uint8 *columns);
extern void poser_import_describe(PoserImport *import, PoserImportProblem *problem, const char *column,
								  const ErrorData *error);

/* import_query.c */
extern void poser_import_execute(PoserImport *import, const char *query, DestReceiver *dest,
								 int nargs, Oid *argtypes, Datum *values);
extern DestReceiver *poser_import_receiver(PoserImport *import,
										   void (*receive)(PoserImport *import, TupleTableSlot *slot));
extern void poser_import_append_value(StringInfo sql, PoserImport *import, int column, const char *value);
extern void poser_import_append_object(StringInfo sql, PoserImport *import, int first, int last,
									   const uint8 *columns, const char *prefix, bool by_name);

#endif /* POSER_IMPORTS_H */
