/*
 * version_writer.c
 *	  Writing versions of rows.
 *
 * Each change of a row adds one version to the table of versions.  A version has the new
 * values (for a delete the last ones), the id of the transaction's row, the operation and
 * a change_id.  One sequence gives the ids of transactions and of changes.
 *
 * The invariant: the change_ids of one row are in the order of its changes.  This is so
 * because a transaction that changes a row locks the row until it ends.  The next one
 * waits for it, and draws its change_ids afterwards.
 *
 * Versions are written directly, see direct.c.  They are only added, so writers never
 * wait for each other.  A partitioned table of versions is written by an INSERT.
 *
 * A PoserVersionWriter collects versions and inserts them together.  The first version
 * opens the table of versions and writes the transaction's row.  So a statement that
 * changes nothing writes no row of poser_transaction.
 */
#include "postgres.h"

#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "parser/parse_coerce.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "versions/versions.h"
#include "versions/version_internal.h"

/* Versions are inserted when there are so many, or so many bytes of variable-length values. */
#define MAX_BUFFERED_VERSIONS 500
#define MAX_BUFFERED_BYTES 65536

struct PoserVersionWriter
{
	const PoserVersioned *versioned;
	const char *comment; /* instead of poser.comment, or NULL */
	Oid role;			 /* the role that is recorded */
	bool opened;
	PoserDirectTable table;
	int64 transaction_id;  /* 0 until the first version */
	FmgrInfo *coerce;	   /* functions that coerce, by column; NULL if none does */
	MemoryContext context; /* of the writer */
	MemoryContext batch;   /* of the versions in the buffer */
	int nslots;
	int nbuffered;
	Size bytes;
	TupleTableSlot **slots;
	int maxslots; /* the size of the array: 1 for a single row, which most statements write */
};

/*
 * Make a writer of versions in the current memory context.  "comment", if not NULL,
 * is recorded instead of poser.comment.
 */
PoserVersionWriter *
poser_version_begin(const PoserVersioned *versioned, const char *comment)
{
	PoserVersionWriter *writer = palloc0(sizeof(PoserVersionWriter));

	writer->versioned = versioned;
	writer->comment = comment;
	/* taken now, because the caller may become the owner before the first version */
	writer->role = poser_acting_role();
	writer->context = CurrentMemoryContext;
	return writer;
}

/* Look up the functions that coerce values to the length or precision of a version's column. */
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

/* Open the table of versions, unless it is open. */
static void
open_versions(PoserVersionWriter *writer)
{
	MemoryContext old;

	if (writer->opened)
		return;
	old = MemoryContextSwitchTo(writer->context);
	/* the caller has locked the table with the description of the history, or for itself */
	poser_direct_open(&writer->table, writer->versioned->versions, NoLock);
	/* the indexes stay open for all batches, so open them in this context */
	if (!writer->versioned->partitioned)
		poser_direct_open_plain(&writer->table);
	writer->batch = AllocSetContextCreate(writer->context, "poser versions", ALLOCSET_DEFAULT_SIZES);
	if (writer->versioned->coerces)
		prepare_coercions(writer, RelationGetDescr(writer->table.rel));
	writer->opened = true;
	MemoryContextSwitchTo(old);
}

/* Is this column of the versions written? */
static bool
is_written(const PoserVersioned *versioned, AttrNumber column)
{
	return versioned->source[column - 1] != 0 || column == versioned->operation_type ||
		   column == versioned->transaction_id || column == versioned->change_id;
}

/*
 * Insert the versions in the buffer into a partitioned table, as its owner.  The partitions
 * can be anything that the server can insert into.
 *
 *	INSERT INTO public.customer_version (id, email, operation_type, transaction_id, change_id)
 *	OVERRIDING SYSTEM VALUE
 *	SELECT r.c1, r.c2, r.c4, r.c5, r.c6 FROM poser_new_versions AS r
 */
static void
insert_into_partitions(PoserVersionWriter *writer)
{
	const PoserVersioned *versioned = writer->versioned;
	TupleDesc desc = RelationGetDescr(writer->table.rel);
	TupleDesc rows_desc = CreateTemplateTupleDesc(desc->natts);
	Tuplestorestate *rows = tuplestore_begin_heap(false, false, work_mem);
	EphemeralNamedRelationData enr;
	PoserQuery query = {.once = true, .expected = SPI_OK_INSERT};
	StringInfoData sql;
	StringInfoData values;
	PoserCaller caller;
	const char *separator = "";

	initStringInfo(&sql);
	initStringInfo(&values);
	appendStringInfo(&sql, "INSERT INTO %s (", poser_relation_name(versioned->versions));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		bool written = is_written(versioned, i + 1);

		/* a column that is not written has a place in the rows, and no values */
		TupleDescInitEntry(rows_desc, i + 1, psprintf("c%d", i + 1), written ? att->atttypid : INT4OID,
						   written ? att->atttypmod : -1, 0);
		if (!written)
			continue;
		TupleDescInitEntryCollation(rows_desc, i + 1, att->attcollation);
		appendStringInfo(&sql, "%s%s", separator, quote_identifier(NameStr(att->attname)));
		appendStringInfo(&values, "%sr.c%d", separator, i + 1);
		separator = ", ";
	}
	TupleDescFinalize(rows_desc);
	appendStringInfo(&sql, ") OVERRIDING SYSTEM VALUE SELECT %s FROM poser_new_versions AS r", values.data);
	for (int i = 0; i < writer->nbuffered; i++)
		tuplestore_putvalues(rows, rows_desc, writer->slots[i]->tts_values, writer->slots[i]->tts_isnull);

	SPI_connect();
	poser_register_rows(&enr, "poser_new_versions", rows_desc, rows, writer->nbuffered);
	poser_become_owner(versioned->versions, &caller);
	query.sql = sql.data;
	if (poser_run(&query) != writer->nbuffered)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a trigger has suppressed versions in table \"%s\"",
						RelationGetRelationName(writer->table.rel))));
	poser_become_caller(&caller);
	SPI_finish();
	tuplestore_end(rows);
}

/* Insert the versions in the buffer, and make their index entries. */
static void
insert_directly(PoserVersionWriter *writer)
{
	if (writer->nbuffered == 1)
		table_tuple_insert(writer->table.rel, writer->slots[0], GetCurrentCommandId(true), 0, NULL);
	else
		table_multi_insert(writer->table.rel, writer->slots, writer->nbuffered,
						   GetCurrentCommandId(true), 0, NULL);
	for (int i = 0; i < writer->nbuffered; i++)
	{
		CHECK_FOR_INTERRUPTS();
		poser_direct_index_new_row(&writer->table, writer->slots[i]);
	}
}

/* Insert the versions in the buffer, and empty it. */
static void
insert_versions(PoserVersionWriter *writer)
{
	MemoryContext old;

	if (writer->nbuffered == 0)
		return;
	old = MemoryContextSwitchTo(writer->batch);
	if (writer->versioned->partitioned)
		insert_into_partitions(writer);
	else
		insert_directly(writer);
	for (int i = 0; i < writer->nbuffered; i++)
		ExecClearTuple(writer->slots[i]);
	MemoryContextSwitchTo(old);
	MemoryContextReset(writer->batch);
	writer->nbuffered = 0;
	writer->bytes = 0;
}

/* Returns the slot for the next version.  The current memory context is the writer's. */
static TupleTableSlot *
next_slot(PoserVersionWriter *writer)
{
	if (writer->nbuffered < writer->nslots)
		return writer->slots[writer->nbuffered];
	if (writer->nslots == writer->maxslots)
	{
		writer->maxslots = writer->maxslots == 0 ? 1 : MAX_BUFFERED_VERSIONS;
		writer->slots = writer->slots == NULL
							? palloc(sizeof(TupleTableSlot *))
							: repalloc(writer->slots, writer->maxslots * sizeof(TupleTableSlot *));
	}
	writer->slots[writer->nslots] = table_slot_create(writer->table.rel, NULL);
	return writer->slots[writer->nslots++];
}

/*
 * Add a version with the values in the slot.  The slot has a row of the table or, with
 * "is_version", a row of the table of versions.  The values are copied.  Scans find the
 * version only after poser_version_flush() or poser_version_end().
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

	/* the table, the transaction's row and a slot */
	open_versions(writer);
	desc = RelationGetDescr(writer->table.rel);
	Assert(desc->natts == versioned->natts);
	old = MemoryContextSwitchTo(writer->context);
	if (writer->transaction_id == 0)
		writer->transaction_id = poser_transaction_record(versioned, writer->role, writer->comment);
	slot = next_slot(writer);

	/* the recorded columns; others are null */
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

	/* the version's own columns */
	slot->tts_values[versioned->transaction_id - 1] = Int64GetDatum(writer->transaction_id);
	slot->tts_isnull[versioned->transaction_id - 1] = false;
	slot->tts_values[versioned->operation_type - 1] = Int16GetDatum((int16) operation);
	slot->tts_isnull[versioned->operation_type - 1] = false;
	slot->tts_values[versioned->change_id - 1] = Int64GetDatum(poser_change_id_next(versioned));
	slot->tts_isnull[versioned->change_id - 1] = false;
	ExecStoreVirtualTuple(slot);
	MemoryContextSwitchTo(old);

	/* copy the values, because the caller's row is freed before the insert */
	ExecMaterializeSlot(slot);
	writer->bytes += size;
	writer->nbuffered++;
	if (writer->nbuffered == MAX_BUFFERED_VERSIONS || writer->bytes > MAX_BUFFERED_BYTES)
		insert_versions(writer);
}

/*
 * Insert the versions that were written so far, so that scans find them.  Returns the
 * table of versions, which stays open until poser_version_end().
 */
Relation
poser_version_flush(PoserVersionWriter *writer)
{
	open_versions(writer);
	insert_versions(writer);
	return writer->table.rel;
}

/* Insert the versions that are left, and free the writer. */
void
poser_version_end(PoserVersionWriter *writer)
{
	if (writer->opened)
	{
		insert_versions(writer);
		for (int i = 0; i < writer->nslots; i++)
			ExecDropSingleTupleTableSlot(writer->slots[i]);
		poser_direct_close(&writer->table);
		MemoryContextDelete(writer->batch);
		if (writer->slots != NULL)
			pfree(writer->slots);
		if (writer->coerce != NULL)
			pfree(writer->coerce);
	}
	pfree(writer);
}
