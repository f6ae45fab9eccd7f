/*
 * maintained_row.c
 *	  What one row of a child adds to a maintained view: its key and its amounts.
 *
 * The conditions of a view can contain code of users.  Such code runs as the owner of the view,
 * in a restricted context, whichever role writes.  To change the role takes longer than to read
 * a row.  So the role is changed once for all rows of a statement, and only if there is such
 * code.  An error in a condition fails the write, as one in an index expression does.
 *
 * The conditions are compiled for each statement.  So privileges on functions, and the
 * constraints of domains, are those of the moment.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "counts/rows_internal.h"

/* Compile the conditions and look up the casts. */
static void
compile(PoserRowReader *reader)
{
	const PoserTableView *view = reader->view;
	ListCell *lc;

	reader->condition = ExecInitQual(view->condition, NULL);
	reader->uncounted = NIL;
	foreach(lc, view->uncounted)
	{
		reader->uncounted = lappend(reader->uncounted, ExecInitCheck(lfirst(lc), NULL));
	}
	for (int i = 0; i < view->naggregates; i++)
		reader->filters[i] = ExecInitQual(view->filters[i], NULL);
	for (int i = 0; i < view->nkeys; i++)
	{
		Oid cast = view->keys[i].cast;

		if (!OidIsValid(cast))
			continue;
		if (reader->casts == NULL)
			reader->casts = palloc0(view->nkeys * sizeof(FmgrInfo));
		fmgr_info(cast, &reader->casts[i]);
	}
}

/*
 * Begin to read rows of the table of which the view was described, as rows of the view's
 * child.  Until poser_row_reader_close() the current user can be the owner of the view.
 */
void
poser_row_reader_open(PoserRowReader *reader, const PoserTableView *view)
{
	reader->view = view;
	reader->context = CreateStandaloneExprContext();
	reader->map = view->child_map;
	reader->slot = reader->map == NULL ? NULL : MakeSingleTupleTableSlot(reader->map->outdesc, &TTSOpsVirtual);
	reader->filters = palloc(view->naggregates * sizeof(ExprState *) + 1);
	reader->casts = NULL;
	if (view->runs_code)
	{
		poser_become_role(view->owner, POSER_AS_OWNER, &reader->caller);
		compile(reader);
	}
	else
	{
		/* The server's own code runs as any role, but the owner must have the privileges for it. */
		GetUserIdAndSecContext(&reader->caller.userid, &reader->caller.sec_context);
		SetUserIdAndSecContext(view->owner, reader->caller.sec_context | POSER_AS_OWNER);
		compile(reader);
		SetUserIdAndSecContext(reader->caller.userid, reader->caller.sec_context);
	}
}

/* End reading.  The current user is the former one again. */
void
poser_row_reader_close(PoserRowReader *reader)
{
	if (reader->view->runs_code)
		poser_become_caller(&reader->caller);
	if (reader->slot != NULL)
		ExecDropSingleTupleTableSlot(reader->slot);
	FreeExprContext(reader->context, true);
}

/* Make a place for a row's key and amounts. */
void
poser_row_make(PoserRow *row, const PoserTableView *view)
{
	row->counts = false;
	row->keys = palloc(view->nkeys * sizeof(Datum));
	row->amounts = poser_amounts_make(&view->count);
}

/* Forget what the rows read before have allocated. */
void
poser_row_reset(PoserRowReader *reader)
{
	ResetExprContext(reader->context);
}

/* Read the key of a child's row.  Returns false if a column of it is null: then the row has no parent. */
static bool
read_child_keys(PoserRowReader *reader, TupleTableSlot *slot, Datum *keys)
{
	const PoserTableView *view = reader->view;

	for (int i = 0; i < view->nkeys; i++)
	{
		bool isnull;

		keys[i] = slot_getattr(slot, view->keys[i].child, &isnull);
		if (isnull)
			return false;
		if (reader->casts != NULL && OidIsValid(reader->casts[i].fn_oid))
			keys[i] = FunctionCall1(&reader->casts[i], keys[i]);
		/* The key is hashed, compared and copied, so detoast it once. */
		keys[i] = detoast_count_key(&view->count.keys[i], keys[i]);
	}
	return true;
}

/* Put what a value adds to an aggregate into the aggregate's amounts, which are 0. */
static void
set_amounts(const PoserViewAggregate *aggregate, Oid type, Datum value, PoserAmount *amounts)
{
	switch (aggregate->kind)
	{
		case POSER_COUNT:
			amounts[0].integer = 1;
			break;
		case POSER_SUM_INTEGER:
			amounts[0].integer = type == INT2OID ? DatumGetInt16(value) : DatumGetInt32(value);
			amounts[1].integer = 1;
			break;
		case POSER_SUM_BIGINT:
			amounts[0].number->integer = DatumGetInt64(value);
			amounts[1].integer = 1;
			break;
		case POSER_SUM_NUMERIC:
			poser_sum_amounts(value, amounts[0].number, amounts[1].number);
			break;
	}
}

/* Does a row fulfil a condition? */
static inline bool
holds(ExprState *condition, ExprContext *context)
{
	return condition == NULL || ExecQual(condition, context);
}

/* Is a row of the child in a partition that is not counted? */
static inline bool
is_uncounted(PoserRowReader *reader)
{
	ListCell *lc;

	foreach(lc, reader->uncounted)
	{
		if (ExecCheck(lfirst(lc), reader->context))
			return true;
	}
	return false;
}

/*
 * Read a row of the child.  row->counts says whether it adds something to the view; if so,
 * its key and its amounts are set.  They live until poser_row_reset(), as long as the slot
 * has the row.
 */
void
poser_row_read(PoserRowReader *reader, TupleTableSlot *slot, PoserRow *row)
{
	const PoserTableView *view = reader->view;
	ExprContext *context = reader->context;
	MemoryContext old = MemoryContextSwitchTo(context->ecxt_per_tuple_memory);
	PoserAmount *amounts = row->amounts;

	row->counts = false;
	if (reader->map != NULL)
		slot = execute_attr_map_slot(reader->map->attrMap, slot, reader->slot);
	context->ecxt_scantuple = slot;
	if (read_child_keys(reader, slot, row->keys) && !is_uncounted(reader) && holds(reader->condition, context))
	{
		poser_amounts_clear(&view->count, amounts);
		for (int i = 0; i < view->naggregates; i++)
		{
			const PoserViewAggregate *aggregate = &view->aggregates[i];
			bool isnull;
			Datum value = slot_getattr(slot, aggregate->column, &isnull);

			if (!isnull && holds(reader->filters[i], context))
			{
				set_amounts(aggregate, view->types[i], value, amounts);
				row->counts = true;
			}
			amounts += aggregate->kind == POSER_COUNT ? 1 : 2;
		}
	}
	MemoryContextSwitchTo(old);
}

/*
 * Read the key of a row of a parent; "columns" are those of the row.  Returns false if a
 * column is null, which happens only while the parent is being changed.  The key lives in
 * the current memory context, as long as the slot has the row.
 */
bool
poser_row_parent_keys(const PoserTableView *view, TupleTableSlot *slot, const AttrNumber *columns, Datum *keys)
{
	for (int i = 0; i < view->nkeys; i++)
	{
		bool isnull;

		keys[i] = slot_getattr(slot, columns[i], &isnull);
		if (isnull)
			return false;
		keys[i] = detoast_count_key(&view->count.keys[i], keys[i]);
	}
	return true;
}
