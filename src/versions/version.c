/*
 * version.c
 *	  Recording the versions of rows: who changed what, when and why.
 *
 * A table with a key has a table of versions with the same columns, where each
 * change of a row adds one row: the new values, or for a delete the last ones,
 * with the transaction, the operation, and a change_id.  One sequence gives the
 * ids of transactions and changes; whoever changes a row holds it until he has
 * ended, so for one row the order of change_ids is the order of the changes.
 * A column of the table that its versions have not, or have of another type, is
 * not recorded (poser_check() tells); other columns of the versions are null.
 *
 * Statement triggers record from the transition tables.  That is after rows of
 * a statement have been written, and other code may come before it that writes
 * the same table: a trigger for each row, a function that the statement calls,
 * another part of its query.  Such statements find each other in a list, and
 * record carefully: what has happened before is recorded first, what somebody
 * has recorded already is not recorded again, and in the end the last version
 * is made to be the row as it is.
 *
 * History is bookkeeping: it is written by direct access, past privileges and
 * row-level security.  Its tables are append-only, so writers do not meet.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relscan.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "parser/parse_coerce.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

#include "versions/versions.h"

PG_FUNCTION_INFO_V1(poser_version);
PG_FUNCTION_INFO_V1(poser_transaction_arrive);

/* How many versions are written at a time, and of what size. */
#define MAX_BUFFERED_VERSIONS 500
#define MAX_BUFFERED_BYTES 65536

/* Columns of poser_transaction. */
enum
{
	TRANSACTION_ID,
	TRANSACTION_ISSUED_AT,
	TRANSACTION_USERNAME,
	TRANSACTION_ROLE_NAME,
	TRANSACTION_REMOTE_ADDR,
	TRANSACTION_APPLICATION_NAME,
	TRANSACTION_COMMENT,
	TRANSACTION_XACT,
	TRANSACTION_NATTS
};

static const Oid transaction_types[TRANSACTION_NATTS] = {
	INT8OID, TIMESTAMPTZOID, TEXTOID, NAMEOID, INETOID, TEXTOID, TEXTOID, XID8OID};

/*
 * The row of poser_transaction that what this transaction does belongs to:
 * valid as long as the (sub)transaction that has written it is.  The strings
 * are in the transaction's memory.
 */
typedef struct RecordedTransaction
{
	Oid relid;
	FullTransactionId top;
	TransactionId xid;
	int64 id;
	Oid session_user;
	Oid role;
	const char *username;
	const char *comment;
	const char *consumer;
} RecordedTransaction;

static RecordedTransaction recorded;

const char *poser_handling_consumer = NULL;

/*
 * The newest of such rows that each subtransaction has written, the innermost
 * first, in the transaction's memory.
 */
typedef struct WrittenTransaction
{
	SubTransactionId subid;
	Oid relid;
	int64 id;
	struct WrittenTransaction *outer;
} WrittenTransaction;

static WrittenTransaction *written = NULL;

/* Statements that have not been recorded yet, see statement.c. */
static PoserStatement *unrecorded = NULL;

/* The greatest change_id that this backend has got, and from which sequence. */
static int64 last_change = 0;
static Oid last_sequence = InvalidOid;

/* A table open for direct writing. */
typedef struct DirectTable
{
	Relation rel;
	ResultRelInfo *indexes;
	EState *estate;
} DirectTable;

struct PoserVersionWriter
{
	const PoserVersioned *versioned;
	const char *comment; /* instead of the user's, or NULL */
	Oid role;			 /* who does it */
	bool opened;
	DirectTable table;
	int64 transaction_id;
	FmgrInfo *coerce;	   /* by column, or NULL */
	MemoryContext context; /* of the writer */
	MemoryContext batch;   /* of what is in the buffer */
	int nslots;
	int nbuffered;
	Size bytes;
	TupleTableSlot *slots[MAX_BUFFERED_VERSIONS];

	/* for careful recording */
	IndexScanDesc scan;
	Relation index;
	TupleTableSlot *last;
	TupleTableSlot *live;
};

/*
 * Direct writing
 */

static void
open_direct(DirectTable *table, Oid relid)
{
	table->rel = table_open(relid, RowExclusiveLock);
	table->estate = CreateExecutorState();
	table->indexes = makeNode(ResultRelInfo);
	InitResultRelInfo(table->indexes, table->rel, 0, NULL, 0);
	ExecOpenIndices(table->indexes, false);
}

/* Locks are kept until the end of the transaction, as for any writer. */
static void
close_direct(DirectTable *table)
{
	ExecCloseIndices(table->indexes);
	pfree(table->indexes);
	FreeExecutorState(table->estate);
	table_close(table->rel, NoLock);
}

static void
insert_index_entries(DirectTable *table, TupleTableSlot *slot)
{
	List *recheck;

	recheck = ExecInsertIndexTuples(table->indexes, table->estate, 0, slot, NIL, NULL);
	list_free(recheck);
	ResetPerTupleExprContext(table->estate);
}

/*
 * Transactions
 */

/* In whose name, and why; NULL if nobody has said so. */
static const char *
setting(const char *value, const char *name)
{
	if (value == NULL || value[0] == '\0')
		return NULL;
	/* what came before there was a database has not been checked */
	poser_check_setting(name, value);
	return value;
}

static bool
same_text(const char *a, const char *b)
{
	return a == NULL ? b == NULL : b != NULL && strcmp(a, b) == 0;
}

/* A role's name, also if it has been dropped meanwhile. */
static const char *
name_of_role(Oid roleid)
{
	const char *name = GetUserNameFromId(roleid, true);

	return name != NULL ? name : psprintf("%u", roleid);
}

static Datum
client_address(bool *isnull)
{
	LOCAL_FCINFO(fcinfo, 0);
	Datum result;

	InitFunctionCallInfoData(*fcinfo, NULL, 0, InvalidOid, NULL, NULL);
	result = inet_client_addr(fcinfo);
	*isnull = fcinfo->isnull;
	return result;
}

/*
 * The role that does what is done now: that of SET ROLE, or else the session's
 * user, whatever function he has called.  But what the server runs for somebody
 * in a restricted way, such as functions in indexes while it analyzes them, is
 * done by him whose they are.
 */
static Oid
acting_role(void)
{
	return InSecurityRestrictedOperation() ? GetUserId() : GetOuterUserId();
}

/* In whose name things are done now. */
const char *
poser_username(void)
{
	const char *username = setting(poser_runas, "poser.runas");

	return username != NULL ? username : name_of_role(GetSessionUserId());
}

/* Note that a row has been written. */
static void
note_written(Oid relid, int64 id)
{
	SubTransactionId subid = GetCurrentSubTransactionId();

	if (written == NULL || written->subid != subid)
	{
		WrittenTransaction *new = MemoryContextAlloc(TopTransactionContext, sizeof(WrittenTransaction));

		new->subid = subid;
		new->outer = written;
		written = new;
	}
	written->relid = relid;
	written->id = id;
}

/*
 * The id of the transaction's row, which is written if there is none yet: with
 * the first change, and again when the role, runas, comment or consumer have
 * changed since, for a row says who did it.
 */
static int64
current_transaction(const PoserVersioned *versioned, Oid role, const char *comment)
{
	const char *username = setting(poser_runas, "poser.runas");
	FullTransactionId top;
	int64 id;
	DirectTable table;
	TupleTableSlot *slot;
	NameData role_name;
	NameData consumer;
	MemoryContext old;

	if (comment == NULL)
		comment = setting(poser_comment, "poser.comment");
	top = GetTopFullTransactionId();
	if (recorded.relid == versioned->transactions &&
		FullTransactionIdEquals(recorded.top, top) &&
		TransactionIdIsCurrentTransactionId(recorded.xid) &&
		recorded.session_user == GetSessionUserId() && recorded.role == role &&
		same_text(recorded.username, username) && same_text(recorded.comment, comment) &&
		same_text(recorded.consumer, poser_handling_consumer))
		return recorded.id;

	/* copies, because code in an index of the table may change the settings, or call this function */
	username = username != NULL ? pstrdup(username) : NULL;
	comment = comment != NULL ? pstrdup(comment) : NULL;

	open_direct(&table, versioned->transactions);
	if (RelationGetDescr(table.rel)->natts < TRANSACTION_NATTS)
		poser_structure_error(table.rel);
	for (int i = 0; i < TRANSACTION_NATTS; i++)
		if (TupleDescAttr(RelationGetDescr(table.rel), i)->atttypid != transaction_types[i])
			poser_structure_error(table.rel);

	slot = MakeSingleTupleTableSlot(RelationGetDescr(table.rel), &TTSOpsVirtual);
	for (int i = 0; i < slot->tts_tupleDescriptor->natts; i++)
		slot->tts_isnull[i] = (i >= TRANSACTION_NATTS);

	id = nextval_internal(versioned->sequence, false);
	slot->tts_values[TRANSACTION_ID] = Int64GetDatum(id);
	slot->tts_values[TRANSACTION_ISSUED_AT] = TimestampTzGetDatum(GetCurrentTimestamp());
	slot->tts_values[TRANSACTION_USERNAME] = CStringGetTextDatum(poser_username());
	namestrcpy(&role_name, name_of_role(role));
	slot->tts_values[TRANSACTION_ROLE_NAME] = NameGetDatum(&role_name);
	slot->tts_values[TRANSACTION_REMOTE_ADDR] =
		client_address(&slot->tts_isnull[TRANSACTION_REMOTE_ADDR]);
	if (application_name != NULL && application_name[0] != '\0')
		slot->tts_values[TRANSACTION_APPLICATION_NAME] = CStringGetTextDatum(application_name);
	else
		slot->tts_isnull[TRANSACTION_APPLICATION_NAME] = true;
	if (comment != NULL)
		slot->tts_values[TRANSACTION_COMMENT] = CStringGetTextDatum(comment);
	else
		slot->tts_isnull[TRANSACTION_COMMENT] = true;
	slot->tts_values[TRANSACTION_XACT] = FullTransactionIdGetDatum(top);
	if (poser_handling_consumer != NULL)
	{
		int column = SPI_fnumber(RelationGetDescr(table.rel), "consumer");

		if (column <= 0 || SPI_gettypeid(RelationGetDescr(table.rel), column) != NAMEOID)
			poser_structure_error(table.rel);
		namestrcpy(&consumer, poser_handling_consumer);
		slot->tts_values[column - 1] = NameGetDatum(&consumer);
		slot->tts_isnull[column - 1] = false;
	}
	ExecStoreVirtualTuple(slot);

	table_tuple_insert(table.rel, slot, GetCurrentCommandId(true), 0, NULL);
	insert_index_entries(&table, slot);
	ExecDropSingleTupleTableSlot(slot);
	close_direct(&table);

	recorded.relid = InvalidOid;
	old = MemoryContextSwitchTo(TopTransactionContext);
	recorded.username = username != NULL ? pstrdup(username) : NULL;
	recorded.comment = comment != NULL ? pstrdup(comment) : NULL;
	recorded.consumer = poser_handling_consumer != NULL ? pstrdup(poser_handling_consumer) : NULL;
	MemoryContextSwitchTo(old);
	note_written(versioned->transactions, id);
	recorded.id = id;
	recorded.session_user = GetSessionUserId();
	recorded.role = role;
	recorded.top = top;
	recorded.xid = GetCurrentTransactionId();
	recorded.relid = versioned->transactions;
	return id;
}

/*
 * poser_transaction_arrive() before each row that is inserted by SQL, as a
 * restore and replication do: xact means something only in the cluster where
 * it was given, so here it is the transaction in which the row has come.
 */
Datum
poser_transaction_arrive(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = poser_check_trigger(fcinfo);
	TriggerEvent event = trigdata->tg_event;
	int column;
	Datum xact = FullTransactionIdGetDatum(GetTopFullTransactionId());
	bool isnull = false;

	if (!TRIGGER_FIRED_FOR_ROW(event) || !TRIGGER_FIRED_BEFORE(event) ||
		!TRIGGER_FIRED_BY_INSERT(event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" must fire before each row of INSERT",
						trigdata->tg_trigger->tgname)));
	column = SPI_fnumber(RelationGetDescr(trigdata->tg_relation), "xact");
	if (column <= 0 || SPI_gettypeid(RelationGetDescr(trigdata->tg_relation), column) != XID8OID)
		poser_structure_error(trigdata->tg_relation);
	return PointerGetDatum(heap_modify_tuple_by_cols(trigdata->tg_trigtuple,
													 RelationGetDescr(trigdata->tg_relation),
													 1, &column, &xact, &isnull));
}

/*
 * Writing versions
 */

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
	writer->role = acting_role();
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

static void
open_versions(PoserVersionWriter *writer)
{
	MemoryContext old = MemoryContextSwitchTo(writer->context);

	open_direct(&writer->table, writer->versioned->versions);
	writer->batch = AllocSetContextCreate(writer->context, "poser versions", ALLOCSET_DEFAULT_SIZES);
	if (writer->versioned->coerces)
		prepare_coercions(writer, RelationGetDescr(writer->table.rel));
	writer->opened = true;
	MemoryContextSwitchTo(old);
}

/* Write what is in the buffer. */
static void
flush_versions(PoserVersionWriter *writer)
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
		insert_index_entries(&writer->table, writer->slots[i]);
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
		open_versions(writer);
	desc = RelationGetDescr(writer->table.rel);
	Assert(desc->natts == versioned->natts);
	old = MemoryContextSwitchTo(writer->context);
	if (writer->transaction_id == 0)
		writer->transaction_id = current_transaction(versioned, writer->role, writer->comment);
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
		flush_versions(writer);
}

/* Write what is left, and free the writer. */
void
poser_version_end(PoserVersionWriter *writer)
{
	if (writer->opened)
	{
		flush_versions(writer);
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
		close_direct(&writer->table);
		MemoryContextDelete(writer->batch);
		if (writer->coerce != NULL)
			pfree(writer->coerce);
	}
	pfree(writer);
}

/* Has one column of a row the same value in two slots? */
static bool
same_value(TupleTableSlot *a, AttrNumber acolumn, TupleTableSlot *b, AttrNumber bcolumn)
{
	Form_pg_attribute att = TupleDescAttr(a->tts_tupleDescriptor, acolumn - 1);
	bool anull;
	bool bnull;
	Datum avalue = slot_getattr(a, acolumn, &anull);
	Datum bvalue = slot_getattr(b, bcolumn, &bnull);

	return anull == bnull && (anull || datum_image_eq(avalue, bvalue, att->attbyval, att->attlen));
}

/* Are the recorded columns of two rows of the table the same? */
static bool
same_rows(const PoserVersioned *versioned, TupleTableSlot *a, TupleTableSlot *b)
{
	for (int i = 0; i < versioned->natts; i++)
		if (versioned->source[i] != 0 &&
			!same_value(a, versioned->source[i], b, versioned->source[i]))
			return false;
	return true;
}

static bool
same_keys(const PoserVersioned *versioned, TupleTableSlot *a, TupleTableSlot *b)
{
	for (int i = 0; i < versioned->nkeys; i++)
	{
		AttrNumber column = versioned->source[versioned->keys[i] - 1];

		if (!same_value(a, column, b, column))
			return false;
	}
	return true;
}

/* Is a version that of the row as it is? */
static bool
is_version_of(const PoserVersioned *versioned, TupleTableSlot *version, TupleTableSlot *row)
{
	for (int i = 0; i < versioned->natts; i++)
		if (versioned->source[i] != 0 && !same_value(version, i + 1, row, versioned->source[i]))
			return false;
	return true;
}

/*
 * Careful recording
 */

static PoserOperation
version_operation(const PoserVersioned *versioned, TupleTableSlot *version)
{
	bool isnull;

	return DatumGetInt16(slot_getattr(version, versioned->operation_type, &isnull));
}

static int64
version_change(const PoserVersioned *versioned, TupleTableSlot *version)
{
	bool isnull;

	return DatumGetInt64(slot_getattr(version, versioned->change_id, &isnull));
}

/*
 * Begin to look up the versions of the row in the slot, newest first.
 */
static void
begin_versions(PoserVersionWriter *writer, TupleTableSlot *row, bool is_version)
{
	const PoserVersioned *versioned = writer->versioned;
	ScanKeyData keys[INDEX_MAX_KEYS];
	MemoryContext old;

	if (!writer->opened)
		open_versions(writer);
	flush_versions(writer);

	/* what the scan allocates stays as long as the scan */
	old = MemoryContextSwitchTo(writer->context);
	if (writer->scan == NULL)
	{
		if (!OidIsValid(versioned->versions_index))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("relation \"%s\" has no usable index on its key",
							RelationGetRelationName(writer->table.rel)),
					 errhint("poser_check() says what was changed.")));
		writer->index = index_open(versioned->versions_index, RowExclusiveLock);
		writer->last = table_slot_create(writer->table.rel, NULL);
		writer->scan = index_beginscan(writer->table.rel, writer->index, SnapshotSelf, NULL,
									   versioned->nkeys, 0, SO_NONE);
	}
	for (int i = 0; i < versioned->nkeys; i++)
	{
		AttrNumber column = versioned->keys[i];
		bool isnull;
		Datum value = slot_getattr(row, is_version ? column : versioned->source[column - 1], &isnull);

		poser_scan_key(&keys[i], writer->index, i + 1, value);
		if (isnull)
			keys[i].sk_flags |= SK_ISNULL | SK_SEARCHNULL;
	}
	index_rescan(writer->scan, keys, versioned->nkeys, NULL, 0);
	MemoryContextSwitchTo(old);
}

/* The next of them, in writer->last. */
static bool
next_version(PoserVersionWriter *writer)
{
	MemoryContext old = MemoryContextSwitchTo(writer->context);
	bool found = index_getnext_slot(writer->scan, BackwardScanDirection, writer->last);

	MemoryContextSwitchTo(old);
	return found;
}

/*
 * Make the last version of a row what the row is now.  The slot has its key.
 */
static void
reconcile(PoserVersionWriter *writer, Relation rel, TupleTableSlot *row, bool is_version)
{
	const PoserVersioned *versioned = writer->versioned;
	AttrNumber columns[INDEX_MAX_KEYS];
	Datum values[INDEX_MAX_KEYS];
	bool recorded_live;
	bool live;

	begin_versions(writer, row, is_version);
	recorded_live = next_version(writer) &&
					version_operation(versioned, writer->last) != POSER_DELETE;
	for (int i = 0; i < versioned->nkeys; i++)
	{
		AttrNumber column = versioned->keys[i];
		bool isnull;

		columns[i] = versioned->source[column - 1];
		values[i] = slot_getattr(row, is_version ? column : columns[i], &isnull);
		/* such rows cannot be told from each other */
		if (isnull)
			return;
	}
	if (writer->live == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(writer->context);

		writer->live = table_slot_create(rel, NULL);
		MemoryContextSwitchTo(old);
	}
	if (!poser_fetch_row(rel, versioned->nkeys, columns, values, writer->live, &live))
		return;
	if (live && !recorded_live)
		poser_version_write(writer, POSER_INSERT, writer->live, false);
	else if (live && !is_version_of(versioned, writer->last, writer->live))
		poser_version_write(writer, POSER_UPDATE, writer->live, false);
	else if (!live && recorded_live)
		poser_version_write(writer, POSER_DELETE, writer->last, true);
	flush_versions(writer);
}

/*
 * Is a row under way that has taken the key of one that was deleted?  Of a row
 * that is not what it was, an INSERT and a DELETE that have not been recorded
 * are the reason if no UPDATE can be.
 */
static bool
replaces_rows(Oid relid)
{
	int16 events = 0;

	for (PoserStatement *statement = unrecorded; statement != NULL; statement = statement->outer)
		if (statement->relid == relid)
			events |= statement->event;
	return (events & TRIGGER_TYPE_INSERT) && (events & TRIGGER_TYPE_DELETE) && !(events & TRIGGER_TYPE_UPDATE);
}

/*
 * Record a change of a statement beside others that were under way with it.
 * "since" is the last change_id before it began.
 */
static void
record_carefully(PoserVersionWriter *writer, PoserOperation operation,
				 TupleTableSlot *old, TupleTableSlot *new, int64 since)
{
	const PoserVersioned *versioned = writer->versioned;
	TupleTableSlot *row = operation == POSER_DELETE ? old : new;
	bool gone_on = false;
	bool found;

	/* another statement has found the row like this, and recorded it */
	begin_versions(writer, row, false);
	while ((found = next_version(writer)) && version_change(versioned, writer->last) > since)
	{
		bool deleted = version_operation(versioned, writer->last) == POSER_DELETE;

		if (deleted == (operation == POSER_DELETE) && is_version_of(versioned, writer->last, row))
			return;
		gone_on = true;
	}
	/* or has found what came after it */
	if (operation == POSER_DELETE && gone_on && found && is_version_of(versioned, writer->last, row))
		return;

	/* another statement has made the row what this one has found */
	begin_versions(writer, row, false);
	found = next_version(writer) && version_operation(versioned, writer->last) != POSER_DELETE;
	if (operation == POSER_INSERT && found)
		poser_version_write(writer, POSER_DELETE, writer->last, true);
	else if (operation != POSER_INSERT && !found)
		poser_version_write(writer, POSER_INSERT, old, false);
	else if (operation != POSER_INSERT && !is_version_of(versioned, writer->last, old))
	{
		if (replaces_rows(versioned->relid))
		{
			poser_version_write(writer, POSER_DELETE, writer->last, true);
			poser_version_write(writer, POSER_INSERT, old, false);
		}
		else
			poser_version_write(writer, POSER_UPDATE, old, false);
	}

	poser_version_write(writer, operation, row, false);
	flush_versions(writer);
}

/*
 * Triggers
 */

/* A statement's rows, as they were and as they are; either may be missing. */
typedef struct Rows
{
	Tuplestorestate *stores[2];
	TupleTableSlot *slots[2]; /* NULL without a store */
	MemoryContext context;	  /* of what is done with one row */
} Rows;

static void
open_rows(Rows *rows, TriggerData *trigdata)
{
	bool complete = true;

	rows->context = AllocSetContextCreate(CurrentMemoryContext, "poser row", ALLOCSET_SMALL_SIZES);
	rows->stores[0] = trigdata->tg_oldtable;
	rows->stores[1] = trigdata->tg_newtable;
	if (!TRIGGER_FIRED_BY_INSERT(trigdata->tg_event))
		complete = complete && rows->stores[0] != NULL;
	if (!TRIGGER_FIRED_BY_DELETE(trigdata->tg_event))
		complete = complete && rows->stores[1] != NULL;
	if (!complete)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" must have transition tables",
						trigdata->tg_trigger->tgname)));
	for (int i = 0; i < 2; i++)
		rows->slots[i] = rows->stores[i] == NULL ? NULL : MakeSingleTupleTableSlot(RelationGetDescr(trigdata->tg_relation), &TTSOpsMinimalTuple);
}

/* Begin with the first row, also when other triggers have read them. */
static void
rewind_rows(Rows *rows)
{
	for (int i = 0; i < 2; i++)
		if (rows->slots[i] != NULL)
		{
			tuplestore_select_read_pointer(rows->stores[i], 0);
			tuplestore_rescan(rows->stores[i]);
		}
}

static bool
next_rows(Rows *rows)
{
	bool found[2] = {false, false};
	MemoryContext old;

	CHECK_FOR_INTERRUPTS();
	MemoryContextReset(rows->context);
	/* a slot frees its row itself, with the next one */
	old = MemoryContextSwitchTo(MemoryContextGetParent(rows->context));
	for (int i = 0; i < 2; i++)
		if (rows->slots[i] != NULL)
			found[i] = tuplestore_gettupleslot(rows->stores[i], true, false, rows->slots[i]);
	MemoryContextSwitchTo(old);
	if (rows->slots[0] != NULL && rows->slots[1] != NULL && found[0] != found[1])
		elog(ERROR, "transition tables of an UPDATE do not have the same number of rows");
	return found[0] || found[1];
}

static void
close_rows(Rows *rows)
{
	MemoryContextDelete(rows->context);
	for (int i = 0; i < 2; i++)
		if (rows->slots[i] != NULL)
			ExecDropSingleTupleTableSlot(rows->slots[i]);
}

/*
 * Record the rows of an INSERT, UPDATE or DELETE.  An update of a key is a
 * delete of the old and an insert of the new; all the deletes come first, for
 * one row may have got the key that another had.
 */
static void
record_statement(TriggerData *trigdata, const PoserVersioned *versioned, bool careful, int64 since)
{
	Relation rel = trigdata->tg_relation;
	PoserVersionWriter *writer = poser_version_begin(versioned, NULL);
	bool moved = false;
	Rows rows;
	TupleTableSlot *old;
	TupleTableSlot *new;
	MemoryContext outer;

	open_rows(&rows, trigdata);
	old = rows.slots[0];
	new = rows.slots[1];
	outer = MemoryContextSwitchTo(rows.context);

	rewind_rows(&rows);
	while (next_rows(&rows))
	{
		PoserOperation operation = old == NULL ? POSER_INSERT : new == NULL ? POSER_DELETE
																			: POSER_UPDATE;

		if (operation == POSER_UPDATE)
		{
			if (same_rows(versioned, old, new))
				continue;
			if (!same_keys(versioned, old, new))
			{
				operation = POSER_DELETE;
				moved = true;
			}
		}
		if (careful)
			record_carefully(writer, operation, old, new, since);
		else
			poser_version_write(writer, operation, operation == POSER_DELETE ? old : new, false);
	}

	if (moved)
	{
		rewind_rows(&rows);
		while (next_rows(&rows))
			if (!same_keys(versioned, old, new))
			{
				if (careful)
					record_carefully(writer, POSER_INSERT, NULL, new, since);
				else
					poser_version_write(writer, POSER_INSERT, new, false);
			}
	}

	if (careful)
	{
		rewind_rows(&rows);
		while (next_rows(&rows))
		{
			if (old != NULL)
				reconcile(writer, rel, old, false);
			if (new != NULL && (old == NULL || !same_keys(versioned, old, new)))
				reconcile(writer, rel, new, false);
		}
	}

	MemoryContextSwitchTo(outer);
	close_rows(&rows);
	poser_version_end(writer);
}

/*
 * Before TRUNCATE: a delete of every row.  Nobody else has the table open.
 */
static void
record_truncate(Relation rel, const PoserVersioned *versioned)
{
	PoserVersionWriter *writer = poser_version_begin(versioned, NULL);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TableScanDesc scan = table_beginscan(rel, SnapshotSelf, 0, NULL, SO_NONE);

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		CHECK_FOR_INTERRUPTS();
		poser_version_write(writer, POSER_DELETE, slot, false);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	poser_version_end(writer);
}

/*
 * After TRUNCATE: other triggers have changed rows before or after it.
 */
static void
reconcile_since(Relation rel, const PoserVersioned *versioned, int64 since)
{
	PoserVersionWriter *writer = poser_version_begin(versioned, NULL);
	Relation versions = table_open(versioned->versions, RowExclusiveLock);
	TupleTableSlot *slot = table_slot_create(versions, NULL);
	TableScanDesc scan = table_beginscan(versions, SnapshotSelf, 0, NULL, SO_NONE);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "poser row", ALLOCSET_SMALL_SIZES);
	MemoryContext outer = MemoryContextSwitchTo(context);

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(context);
		if (version_change(versioned, slot) > since)
			reconcile(writer, rel, slot, true);
	}
	MemoryContextSwitchTo(outer);
	MemoryContextDelete(context);
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	table_close(versions, NoLock);
	poser_version_end(writer);
}

/* The last change that this backend has recorded in this history, or 0. */
static int64
last_change_in(const PoserVersioned *versioned)
{
	return last_sequence == versioned->sequence ? last_change : 0;
}

/*
 * The row of poser_transaction that this transaction has written last and that has
 * not been rolled back: returns its id, and the table in *relid; 0 if there is none.
 */
int64
poser_version_last_written(Oid *relid)
{
	if (written == NULL)
		return 0;
	*relid = written->relid;
	return written->id;
}

/* Has the transaction recorded anything, as far as it has not been rolled back? */
bool
poser_version_is_writing(void)
{
	return written != NULL;
}

/* Is a statement under way that has changes to be recorded? */
bool
poser_version_is_busy(void)
{
	return unrecorded != NULL;
}

static void
begin_statement(TriggerData *trigdata, const PoserVersioned *versioned)
{
	PoserStatement *statement = poser_statement_begin(&unrecorded, trigdata);

	statement->since = last_change_in(versioned);
	for (PoserStatement *outer = statement->outer; outer != NULL; outer = outer->outer)
		if (outer->relid == statement->relid && outer->cid != statement->cid)
			outer->overlapped = statement->overlapped = true;
}

/*
 * The parts of one query have triggers fire in the order in which the parts
 * have ended.  Within a part the order is DELETE, UPDATE, INSERT, which is
 * right for rows that take each other's keys.  Is there another part that
 * should have come before this one?
 */
static bool
comes_too_early(PoserStatement *statement)
{
	bool result = false;

	for (PoserStatement *other = unrecorded; other != NULL; other = other->outer)
		if (other->relid == statement->relid && other->cid == statement->cid &&
			((statement->event == TRIGGER_TYPE_INSERT && other->event != TRIGGER_TYPE_INSERT) ||
			 (statement->event == TRIGGER_TYPE_UPDATE && other->event == TRIGGER_TYPE_DELETE)))
			other->overlapped = result = true;
	return result;
}

/*
 * poser_version(versions, key column...) for each statement of every kind,
 * before and after.
 */
Datum
poser_version(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = poser_check_trigger(fcinfo);
	TriggerEvent event = trigdata->tg_event;
	Relation rel = trigdata->tg_relation;
	const PoserVersioned *versioned;
	PoserStatement *statement;
	bool careful;
	int64 since;

	if (!TRIGGER_FIRED_FOR_STATEMENT(event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" must fire for each statement",
						trigdata->tg_trigger->tgname)));
	versioned = poser_versioned_by_trigger(trigdata, fcinfo->flinfo->fn_oid);

	if (TRIGGER_FIRED_BEFORE(event))
	{
		if (TRIGGER_FIRED_BY_TRUNCATE(event))
			record_truncate(rel, versioned);
		begin_statement(trigdata, versioned);
		return PointerGetDatum(NULL);
	}

	statement = poser_statement_end(&unrecorded, trigdata);
	/* two rows may have one key for a while, if it is not always unique */
	careful = !versioned->unique;
	if (statement != NULL && (comes_too_early(statement) || statement->overlapped))
		careful = true;
	/* which may record what others are still to record */
	for (PoserStatement *other = unrecorded; careful && other != NULL; other = other->outer)
		if (other->relid == RelationGetRelid(rel))
			other->overlapped = true;
	since = statement != NULL ? statement->since : last_change_in(versioned);
	if (statement != NULL)
		pfree(statement);

	if (TRIGGER_FIRED_BY_TRUNCATE(event))
	{
		if (careful)
			reconcile_since(rel, versioned, since);
	}
	/* a restore brings the versions of the rows that it inserts */
	else if (!TRIGGER_FIRED_BY_INSERT(event) || !poser_is_restore(rel))
		record_statement(trigdata, versioned, careful, since);
	return PointerGetDatum(NULL);
}

/*
 * Ends of transactions
 */

static void
end_transaction(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE)
		poser_statement_check(unrecorded);
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
	{
		/* their memory goes with the transaction */
		unrecorded = NULL;
		written = NULL;
	}
}

static void
end_subtransaction(SubXactEvent event, SubTransactionId mySubid,
				   SubTransactionId parentSubid, void *arg)
{
	WrittenTransaction *last = written;

	if (event == SUBXACT_EVENT_ABORT_SUB)
		poser_statement_abort(&unrecorded, mySubid);

	if (last == NULL || last->subid != mySubid)
		return;
	if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		written = last->outer;
		pfree(last);
	}
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		last->subid = parentSubid;
		if (last->outer != NULL && last->outer->subid == parentSubid)
		{
			WrittenTransaction *outer = last->outer;

			last->outer = outer->outer;
			pfree(outer);
		}
	}
}

/* The transaction's row is no more, or may be; another one will be written. */
void
poser_version_forget(void)
{
	recorded.relid = InvalidOid;
}

void
poser_version_init(void)
{
	RegisterXactCallback(end_transaction, NULL);
	RegisterSubXactCallback(end_subtransaction, NULL);
}
