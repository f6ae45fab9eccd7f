/*
 * import_internal.h
 *	  What the files of this folder share, and no other folder uses.
 */
#ifndef POSER_IMPORT_INTERNAL_H
#define POSER_IMPORT_INTERNAL_H

#include "imports/imports.h"

/* Columns of "poser_import_row". */
#define ROW_NUMBER 0
#define ROW_COLUMN(i) (1 + (i))

/*
 * Columns of "poser_import_change".  The tag has the operation and the columns to be
 * written, see import_compare.c.  For each column there is a new value and an old value.
 */
#define CHANGE_TAG 0
#define CHANGE_ROW 1
#define CHANGE_NEW(i) (2 + (i))
#define CHANGE_OLD(import, i) (2 + (import)->ncolumns + (i))

/* import_problem.c */
extern bool poser_import_is_row_error(const PoserImport *import, const ErrorData *error);
extern char *poser_import_problem_text(const PoserImportProblem *problem);
extern char *poser_import_shown_key(PoserImport *import, const Datum *values, const bool *nulls, bool of_source);
extern ErrorData *poser_import_catch(PoserImport *import, PoserSavepoint *savepoint);

/* import_columns.c */
extern void poser_import_lock_target(PoserImport *import, bool exclusively);

/* import_query.c */
extern void poser_import_append_list(StringInfo sql, PoserImport *import, int first, const char *prefix);
extern void poser_import_append_key(StringInfo sql, PoserImport *import);
extern void poser_import_append_join(StringInfo sql, PoserImport *import, const char *rows, bool own_names);

/* import_read.c */
extern int poser_import_find_twice(Tuplesortstate *sort, int64 *twice, int limit, int64 *total);

/* import_compare.c */
extern char poser_import_rank(PoserImport *import, PoserImportOperation operation);

/* import_statement.c */
extern bool poser_import_exists_by_now(PoserImport *import);
extern void poser_import_serialization_error(void);
extern void poser_import_write_changes(PoserImport *import, PoserImportOperation operation,
									   const uint8 *columns, int64 nrows);

#endif /* POSER_IMPORT_INTERNAL_H */
