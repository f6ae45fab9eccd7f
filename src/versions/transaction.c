/*
 * transaction.c
 *	  The transactions of the history: poser_transaction.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

#include "versions/versions.h"
#include "versions/version_internal.h"

PG_FUNCTION_INFO_V1(poser_transaction_arrive);

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
Oid
poser_acting_role(void)
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
int64
poser_transaction_record(const PoserVersioned *versioned, Oid role, const char *comment)
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

	poser_direct_open(&table, versioned->transactions);
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
	poser_direct_insert_index_entries(&table, slot);
	ExecDropSingleTupleTableSlot(slot);
	poser_direct_close(&table);

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

/* The transaction's row is no more, or may be; another one will be written. */
void
poser_version_forget(void)
{
	recorded.relid = InvalidOid;
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

static void
end_transaction(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
	{
		/* their memory goes with the transaction */
		written = NULL;
	}
}

static void
end_subtransaction(SubXactEvent event, SubTransactionId mySubid,
				   SubTransactionId parentSubid, void *arg)
{
	WrittenTransaction *last = written;

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

void
poser_transaction_init(void)
{
	RegisterXactCallback(end_transaction, NULL);
	RegisterSubXactCallback(end_subtransaction, NULL);
}
