/*
 * version_writer.c
 *	  Writing versions.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "commands/sequence.h"
#include "executor/executor.h"
#include "parser/parse_coerce.h"
#include "utils/memutils.h"

#include "versions/versions.h"
#include "versions/version_internal.h"

/* The greatest change_id that this backend has got, and from which sequence. */
static int64 last_change = 0;
static Oid last_sequence = InvalidOid;

void
poser_direct_open(DirectTable *table, Oid relid)
{
	table->rel = table_open(relid, RowExclusiveLock);
	table->estate = CreateExecutorState();
	table->indexes = makeNode(ResultRelInfo);
	InitResultRelInfo(table->indexes, table->rel, 0, NULL, 0);
	ExecOpenIndices(table->indexes, false);
}

/* Locks are kept until the end of the transaction, as for any writer. */
void
poser_direct_close(DirectTable *table)
{
	ExecCloseIndices(table->indexes);
	pfree(table->indexes);
	FreeExecutorState(table->estate);
	table_close(table->rel, NoLock);
}

void
poser_direct_insert_index_entries(DirectTable *table, TupleTableSlot *slot)
{
	List *recheck;

	recheck = ExecInsertIndexTuples(table->indexes, table->estate, 0, slot, NIL, NULL);
	list_free(recheck);
	ResetPerTupleExprContext(table->estate);
}

/*
 * Make a writer of versions, which opens their table when there is one to be
 * written, so that a change of nothing leaves no trace.  The comment, if it is
 * not NULL, is the transaction's instead of the user's.
 */
PoserVersionWriter *
poser_version_begin(const PoserVersioned *versioned, const char *comment)
{
	PoserVersionWriter *writer = palloc0(sizeof(PoserVersionWriter));

	writer->versioned = versioned;
	writer->comment = comment;
	writer->role = poser_acting_role();
	writer->context = CurrentMemoryContext;
	return writer;
}

/* Functions that see to the length and such, for columns where that differs. */
static void
prepare_coercions(PoserVersionWriter *writer, TupleDesc desc)
{
	writer->coerce = palloc0(desc->natts * sizeof(FmgrInfo));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		Oid function;

		if (writer->versioned->source[i] != 0 && att->atttypmod >= 0 &&
			find_typmod_coercion_function(att->atttypid, &function) == COERCION_PATH_FUNC)
			fmgr_info(function, &writer->coerce[i]);
	}
}

void
poser_version_open(PoserVersionWriter *writer)
{
	MemoryContext old = MemoryContextSwitchTo(writer->context);

	poser_direct_open(&writer->table, writer->versioned->versions);
	writer->batch = AllocSetContextCreate(writer->context, "poser versions", ALLOCSET_DEFAULT_SIZES);
	if (writer->versioned->coerces)
		prepare_coercions(writer, RelationGetDescr(writer->table.rel));
	writer->opened = true;
	MemoryContextSwitchTo(old);
}

/* Write what is in the buffer. */
void
poser_version_flush(PoserVersionWriter *writer)
{
	MemoryContext old;

	if (writer->nbuffered == 0)
		return;
	old = MemoryContextSwitchTo(writer->batch);
	if (writer->nbuffered == 1)
		table_tuple_insert(writer->table.rel, writer->slots[0], GetCurrentCommandId(true), 0, NULL);
	else
		table_multi_insert(writer->table.rel, writer->slots, writer->nbuffered,
						   GetCurrentCommandId(true), 0, NULL);
	for (int i = 0; i < writer->nbuffered; i++)
	{
		CHECK_FOR_INTERRUPTS();
		poser_direct_insert_index_entries(&writer->table, writer->slots[i]);
		ExecClearTuple(writer->slots[i]);
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(writer->batch);
	writer->nbuffered = 0;
	writer->bytes = 0;
}

/*
 * Add a version with the values in the slot: a row of the table or, with
 * "is_version", of its versions.
 */
void
poser_version_write(PoserVersionWriter *writer, PoserOperation operation,
					TupleTableSlot *row, bool is_version)
{
	const PoserVersioned *versioned = writer->versioned;
	TupleTableSlot *slot;
	TupleDesc desc;
	Size size = 0;
	MemoryContext old;

	if (!writer->opened)
		poser_version_open(writer);
	desc = RelationGetDescr(writer->table.rel);
	Assert(desc->natts == versioned->natts);
	old = MemoryContextSwitchTo(writer->context);
	if (writer->transaction_id == 0)
		writer->transaction_id = poser_transaction_record(versioned, writer->role, writer->comment);
	if (writer->nbuffered == writer->nslots)
		writer->slots[writer->nslots++] = table_slot_create(writer->table.rel, NULL);
	slot = writer->slots[writer->nbuffered];

	MemoryContextSwitchTo(writer->batch);
	slot_getallattrs(row);
	for (int i = 0; i < desc->natts; i++)
	{
		int column = is_version ? i : versioned->source[i] - 1;

		slot->tts_isnull[i] = versioned->source[i] == 0 || row->tts_isnull[column];
		if (slot->tts_isnull[i])
			continue;
		slot->tts_values[i] = row->tts_values[column];
		if (writer->coerce != NULL && OidIsValid(writer->coerce[i].fn_oid))
			slot->tts_values[i] =
				FunctionCall3(&writer->coerce[i], slot->tts_values[i],
							  Int32GetDatum(TupleDescAttr(desc, i)->atttypmod), BoolGetDatum(false));
		if (TupleDescAttr(desc, i)->attlen == -1)
			size += VARSIZE_ANY(DatumGetPointer(slot->tts_values[i]));
	}
	last_change = nextval_internal(versioned->sequence, false);
	last_sequence = versioned->sequence;
	slot->tts_values[versioned->transaction_id - 1] = Int64GetDatum(writer->transaction_id);
	slot->tts_isnull[versioned->transaction_id - 1] = false;
	slot->tts_values[versioned->operation_type - 1] = Int16GetDatum((int16) operation);
	slot->tts_isnull[versioned->operation_type - 1] = false;
	slot->tts_values[versioned->change_id - 1] = Int64GetDatum(last_change);
	slot->tts_isnull[versioned->change_id - 1] = false;
	ExecStoreVirtualTuple(slot);
	MemoryContextSwitchTo(old);

	/* the row's own values go away with the next one */
	ExecMaterializeSlot(slot);
	writer->bytes += size;
	writer->nbuffered++;
	if (writer->nbuffered == MAX_BUFFERED_VERSIONS || writer->bytes > MAX_BUFFERED_BYTES)
		poser_version_flush(writer);
}

/* Write what is left, and free the writer. */
void
poser_version_end(PoserVersionWriter *writer)
{
	if (writer->opened)
	{
		poser_version_flush(writer);
		for (int i = 0; i < writer->nslots; i++)
			ExecDropSingleTupleTableSlot(writer->slots[i]);
		if (writer->scan != NULL)
		{
			index_endscan(writer->scan);
			index_close(writer->index, NoLock);
			ExecDropSingleTupleTableSlot(writer->last);
		}
		if (writer->live != NULL)
			ExecDropSingleTupleTableSlot(writer->live);
		poser_direct_close(&writer->table);
		MemoryContextDelete(writer->batch);
		if (writer->coerce != NULL)
			pfree(writer->coerce);
	}
	pfree(writer);
}

/* The last change that this backend has recorded in this history, or 0. */
int64
poser_version_last_change(const PoserVersioned *versioned)
{
	return last_sequence == versioned->sequence ? last_change : 0;
}
