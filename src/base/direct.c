/*
 * direct.c
 *	  Writing rows of the extension's own tables directly.
 *
 * Triggers write bookkeeping by the table access method and make the index entries
 * themselves: no query is planned, no trigger fires, and privileges and row-level
 * security of the tables do not apply.  Users cannot write these tables.
 */
#include "postgres.h"

#include "access/table.h"
#include "executor/executor.h"

#include "base/base.h"

/* Open a table for writing.  Its lock is kept until the transaction ends, as for any writer. */
void
poser_direct_open(PoserDirectTable *table, Oid relid)
{
	table->rel = table_open(relid, RowExclusiveLock);
	table->indexes = NULL;
	table->estate = NULL;
}

/* Close a table, and free what was needed for its indexes.  The lock stays. */
void
poser_direct_close(PoserDirectTable *table)
{
	if (table->indexes != NULL)
	{
		ExecCloseIndices(table->indexes);
		pfree(table->indexes);
		FreeExecutorState(table->estate);
	}
	table_close(table->rel, NoLock);
}

/* Open the table's indexes, in the current memory context, unless they are open. */
void
poser_direct_open_indexes(PoserDirectTable *table)
{
	if (table->indexes != NULL)
		return;
	table->estate = CreateExecutorState();
	table->indexes = makeNode(ResultRelInfo);
	InitResultRelInfo(table->indexes, table->rel, 0, NULL, 0);
	ExecOpenIndices(table->indexes, false);
}

/*
 * Make the index entries of the row that was written from the slot.  "flags" are
 * those of ExecInsertIndexTuples().  With EIIT_NO_DUPE_ERROR the check of unique
 * indexes neither waits nor fails.  Then the result is false if the key has another
 * row, or if another transaction is inserting or deleting one.
 */
bool
poser_direct_insert_index_entries(PoserDirectTable *table, TupleTableSlot *slot, uint32 flags)
{
	List *conflicts;
	bool result;

	poser_direct_open_indexes(table);
	conflicts = ExecInsertIndexTuples(table->indexes, table->estate, flags, slot, NIL, NULL);
	result = (conflicts == NIL);
	list_free(conflicts);
	ResetPerTupleExprContext(table->estate);
	return result;
}
