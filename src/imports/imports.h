/*
 * imports.h
 *	  What imports and batches share: comparing rows with a table by key, and
 *	  making the table what they are.
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

/* How many rows of a kind of problem an error names, and how many kinds it counts. */
#define POSER_IMPORT_NAMED 5
#define POSER_IMPORT_KINDS 20

/*
 * How many rows that cannot be written are looked for.  Each takes several
 * statements and transaction IDs.  If there are more, the error says "at least".
 */
#define POSER_IMPORT_TOLD_APART 500

/* What there is to do for a row. */
typedef enum PoserImportOperation
{
	POSER_IMPORT_DELETE,
	POSER_IMPORT_UPDATE,
	POSER_IMPORT_CREATE,
	POSER_IMPORT_UNCHANGED,
	/* of batches only */
	POSER_IMPORT_CONFLICT, /* these fields were changed by others */
	POSER_IMPORT_IS_GONE,  /* was deleted by others */
	POSER_IMPORT_IS_THERE, /* was made by others */
	POSER_IMPORT_OPERATIONS
} PoserImportOperation;

/* A column of the target: of the key, or a field. */
typedef struct PoserImportColumn
{
	const char *label;
	const char *name; /* quoted */
	AttrNumber attno;
	Oid type;
	int32 typmod;
	Oid collation;
	int16 len;
	bool byval;
	Oid source_type;
	ExprState *coerce;	/* of the source's value; NULL if there is nothing to do */
	bool as_text;		/* in an object */
	ExprState *as_json; /* of a batch: its value as jsonb */
	const char *equals; /* of a key column: its operator */
	FmgrInfo *hash;		/* the same; NULL if there is none */
} PoserImportColumn;

/* Something that is wrong with a row: "who, columns: reason (detail)". */
typedef struct PoserImportProblem
{
	int64 row;
	int64 nrows; /* how many rows it stands for */
	int sqlstate;
	const char *who;	 /* the row's key, or its number */
	const char *columns; /* 'column "a"', or NULL */
	const char *reason;
	const char *detail; /* or NULL */
	const char *kind;	/* the same for all problems of a kind */
	const char *title;	/* what the kind is called instead of the reason, or NULL */
} PoserImportProblem;

/* Problems of the same columns and for the same reason. */
typedef struct PoserImportKind
{
	PoserImportProblem common; /* its reason is the beginning that all reasons share */
	bool varies;			   /* the reasons differ */
	int64 nrows;
	int nsamples;
	PoserImportProblem samples[POSER_IMPORT_NAMED]; /* the first ones */
} PoserImportKind;

typedef struct PoserImport PoserImport;

/*
 * Say what is to be done for a row of the comparison, and in which columns.
 * Behind these there is room for as many others, of which the writer is to know.
 */
typedef PoserImportOperation (*PoserImportJudge)(PoserImport *import, TupleTableSlot *slot,
												 uint8 *columns);

/*
 * Do it, for the rows in the relation "poser_change", all of which are to have
 * the same columns written.
 */
typedef void (*PoserImportWriter)(PoserImport *import, PoserImportOperation operation,
								  const uint8 *columns, int64 nrows);

struct PoserImport
{
	const char *function; /* for whom this is */
	MemoryContext context;
	MemoryContext row_context; /* reset for each row */
	bool read_only;

	/* what is compared with what */
	const char *source_label;
	const char *source_shown; /* its name in errors */
	const char *source_name;  /* quoted */
	Oid target;
	const char *target_label;
	const char *target_name;  /* quoted, and with ONLY if need be */
	const char *target_plain; /* quoted */
	char target_kind;
	bool unique; /* an index sees to the key */
	bool references_itself;
	bool written_before;	/* in this transaction */
	bool locked;			/* nobody else can write it */
	Relation from_relation; /* or NULL */
	Relation to_relation;
	int nkeys;
	int ncolumns; /* of the key, which come first, and fields */
	PoserImportColumn *columns;
	bool coerces; /* some column has something to coerce */
	bool creates;
	bool updates;
	bool deletes;
	bool skips_duplicates; /* rows whose keys occur more than once are not compared */
	EState *estate;

	/* the rows read: (row, c1, c2, ..., and what the caller adds: x1, ...) */
	void (*read)(PoserImport *import);
	int nextra;
	Oid *extra; /* types */
	TupleDesc row_desc;
	int64 nrows;
	EphemeralNamedRelationData rows;
	Tuplesortstate *hashes; /* of their keys, as long as they are being read */

	/* the rows of which something is to be done: (tag, row, c1, ..., o1, ...) */
	TupleDesc change_desc;
	EphemeralNamedRelationData changes;
	Tuplesortstate *sort;
	TupleTableSlot *change_slot;
	Tuplesortstate *matches; /* rows that have been found in the target */
	PoserImportJudge judge;
	PoserImportWriter write;
	int64 found[POSER_IMPORT_OPERATIONS];

	/* reading and writing with each row by itself, to find all offenders */
	bool careful;
	bool coercing;	 /* a value is being coerced: an error may come from it */
	bool writing;	 /* a statement of ours is running: the same */
	bool moved;		 /* a row was not what it was compared as */
	int64 nproblems; /* rows */
	bool at_least;	 /* there may be more, the others have not been tried */
	int nkinds;
	PoserImportKind *kinds[POSER_IMPORT_KINDS];
	PoserImportKind *last_kind; /* of the last problem, or NULL */
	int64 first_row;			/* of all problems */
	int first_sqlstate;
	MemoryContext problem_context;
	Tuplestorestate *verdicts; /* all problems, as (row, text); NULL if not asked for */
	TupleDesc verdict_desc;
	Tuplestorestate *rejects; /* rows that cannot be read, (row, text, key, new), the same */
	TupleDesc reject_desc;

	/* of the function that this is for */
	void *private;
	void (*check)(PoserImport *import); /* between comparing and writing */
	int64 limits[4];					/* of creates, updates, deletes, and of all */
	ReturnSetInfo *rsinfo;

	const char *activity; /* what the session was doing before */
	uint64 query_id;
	const char *phase;
	int64 done;
};

/* What takes the rows of a query. */
typedef struct PoserImportReceiver
{
	DestReceiver pub;
	PoserImport *import;
} PoserImportReceiver;

/* Which columns: a bit for each. */
#define POSER_IMPORT_BYTES(import) (((import)->ncolumns + BITS_PER_BYTE - 1) / BITS_PER_BYTE)
#define POSER_IMPORT_HAS(columns, i) \
	(((columns)[(i) / BITS_PER_BYTE] & (1 << ((i) % BITS_PER_BYTE))) != 0)
#define POSER_IMPORT_ADD(columns, i) \
	((columns)[(i) / BITS_PER_BYTE] |= (uint8) (1 << ((i) % BITS_PER_BYTE)))

extern PoserImport *poser_import_begin(const char *function, Oid source, Oid target, Datum key,
									   Datum fields, bool writes);
extern void poser_import_read(PoserImport *import);
extern void poser_import_compare(PoserImport *import);
extern void poser_import_write(PoserImport *import);
extern void poser_import_write_rows(PoserImport *import, PoserImportOperation operation,
									const uint8 *columns, int64 nrows);
extern bool poser_import_apply(PoserImport *import, bool keep);
extern void poser_import_add_row(PoserImport *import, Datum *values, bool *nulls);
extern void poser_import_check_keys(PoserImport *import);
extern void poser_import_problem(PoserImport *import, const PoserImportProblem *problem);
extern void poser_import_more_problems(PoserImport *import, int64 nrows);
extern void poser_import_forget_problems(PoserImport *import);
extern bool poser_import_can_be_written(Form_pg_attribute att);
extern char *poser_import_column(PoserImport *import, int i);
extern char *poser_import_columns(PoserImport *import, const uint8 *columns);
extern void poser_import_describe(PoserImport *import, PoserImportProblem *problem, const char *column,
								  const ErrorData *error);
extern char *poser_import_detail(PoserImport *import);
extern void poser_import_raise(PoserImport *import);
extern ErrorData *poser_import_catch(PoserImport *import, PoserSavepoint *savepoint);
extern bool poser_import_evaluate(PoserImport *import, ExprState *expr, Datum *value, bool *isnull,
								  ErrorData **error);
extern Datum poser_import_flatten(const PoserImportColumn *column, Datum value, bool isnull);
extern bool poser_import_same(const PoserImportColumn *column, Datum value, bool isnull,
							  Datum other, bool other_isnull);
extern void poser_import_append_value(StringInfo sql, PoserImport *import, int column, const char *value);
extern void poser_import_append_object(StringInfo sql, PoserImport *import, int first, int last,
									   const uint8 *columns, const char *prefix, bool by_name);
extern void poser_import_execute(PoserImport *import, const char *query, DestReceiver *dest,
								 int nargs, Oid *argtypes, Datum *values);
extern DestReceiver *poser_import_receiver(PoserImport *import,
										   bool (*receive)(TupleTableSlot *slot, DestReceiver *self));
extern void poser_import_append_join(StringInfo sql, PoserImport *import, const char *rows,
									 bool own_names);
extern char *poser_import_shown(char *text);
extern void poser_import_argument(bool is_null, const char *name);
extern void poser_import_count(PoserImport *import);
extern void poser_import_progress(PoserImport *import, const char *phase, int64 rows);
extern void poser_import_restore_activity(PoserImport *import);
extern void poser_import_end(PoserImport *import);

#endif /* POSER_IMPORTS_H */
