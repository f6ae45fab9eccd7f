/*
 * rows_internal.h
 *	  What the files of poser_maintain_rows() share.
 */
#ifndef POSER_ROWS_INTERNAL_H
#define POSER_ROWS_INTERNAL_H

#include "counts/counts_internal.h"

/* A maintained view, as the triggers on a table need it; see maintained_table.c. */
typedef struct PoserTableView
{
	PoserMaintained relations;
	Oid owner;
	PoserCount count;
	bool is_child;	/* the table is the view's child, or a partition of it */
	bool is_parent; /* the same for the parent */
	int nkeys;
	PoserViewKey *keys;
	AttrNumber *parent_keys; /* on a parent: the columns of the key in the trigger's table */
	int naggregates;
	PoserViewAggregate *aggregates; /* without the filters */
	Oid *types;						/* on a child: base types of the aggregates' columns */
	TupleConversionMap *child_map;	/* on a child: from rows of the trigger's table to the child's; NULL if they are the same */
	List *condition;				/* of ON, for ExecInitQual() */
	List **filters;					/* of each aggregate */
	List *uncounted;				/* on a child: conditions (List *) of partitions that are not counted, for ExecInitCheck() */
	bool runs_code;					/* conditions can have code that users have made */
} PoserTableView;

/* The maintained views of a table. */
typedef struct PoserTableViews
{
	Oid nspid;
	MemoryContext context;
	bool cached; /* it is in the hash table */
	int users;	 /* calls that use it */
	List *relids;
	bool has_child; /* a view has the table as child */
	int nviews;
	PoserTableView *views;
} PoserTableViews;

/* What a row of a child adds to a view. */
typedef struct PoserRow
{
	bool counts; /* it adds something; otherwise the rest is not set */
	Datum *keys;
	PoserAmount *amounts;
} PoserRow;

/* Reads rows of a child. */
typedef struct PoserRowReader
{
	const PoserTableView *view;
	ExprContext *context;
	ExprState *condition;
	ExprState **filters;
	List *uncounted;		 /* states (ExprState *) of the conditions of partitions that are not counted */
	FmgrInfo *casts;		 /* of the keys; NULL if none needs one */
	TupleConversionMap *map; /* NULL if rows are the child's */
	TupleTableSlot *slot;	 /* for a converted row */
	PoserCaller caller;
} PoserRowReader;

/* maintained_table.c */
extern void poser_table_views_init(void);
extern const PoserTableViews *poser_table_views(Relation rel, Oid nspid, MemoryContext context);
extern const PoserTableView *poser_table_view_locked(Relation rel, Oid nspid, Oid bookkeeping, MemoryContext context);

/* maintained_row.c */
extern void poser_row_reader_open(PoserRowReader *reader, const PoserTableView *view);
extern void poser_row_reader_close(PoserRowReader *reader);
extern void poser_row_make(PoserRow *row, const PoserTableView *view);
extern void poser_row_reset(PoserRowReader *reader);
extern void poser_row_read(PoserRowReader *reader, TupleTableSlot *slot, PoserRow *row);
extern bool poser_row_parent_keys(const PoserTableView *view, TupleTableSlot *slot, const AttrNumber *columns, Datum *keys);

#endif /* POSER_ROWS_INTERNAL_H */
