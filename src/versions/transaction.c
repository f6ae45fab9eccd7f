/*
 * transaction.c
 *	  Rows of poser_transaction: when a transaction changed something, by which role,
 *	  for which user and why.
 *
 * A transaction writes its row with its first version.  Its later versions get the
 * same row, as long as the role, poser.runas, poser.comment and the consumer of
 * datasync stay the same.  When one of them changes, the next version writes another
 * row.  So one transaction can have several rows, and each version refers to a row
 * that is true for it.
 *
 * A row that a subtransaction has written no longer exists when the subtransaction is
 * rolled back.  So the row that is in use is remembered with the ID of the (sub)transaction that
 * wrote it.  It is used again only while that ID belongs to the current transaction.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

#include "versions/versions.h"
#include "versions/version_internal.h"

/* The columns that poser_transaction had in the first version of the history.  Later versions added others. */
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
 * The row that is in use, and what it was written for.  The strings are allocated in
 * TopTransactionContext, so "top" is compared before them.
 */
typedef struct CurrentRow
{
	Oid relid; /* poser_transaction; InvalidOid if no row is in use */
	FullTransactionId top;
	TransactionId xid; /* the (sub)transaction that has written it */
	int64 id;
	Oid session_user;
	Oid role;
	const char *username;
	const char *comment;
	const char *consumer;
} CurrentRow;

static CurrentRow current = {0};

const char *poser_handling_consumer = NULL;

/*
 * The newest row that a (sub)transaction has written.  The list has an entry for each
 * (sub)transaction in progress that has written a row, the innermost first.  It is in
 * TopTransactionContext.
 */
typedef struct WrittenRow
{
	SubTransactionId subid;
	Oid relid;
	int64 id;
	struct WrittenRow *outer;
} WrittenRow;

static WrittenRow *written = NULL;

/*
 * The ids of all rows that this transaction has written, in ascending order.  A rollback to a
 * savepoint does not remove them.  They are in TopTransactionContext.
 */
static int64 *written_ids = NULL;
static int nwritten_ids = 0;
static int maxwritten_ids = 0;

/*
 * The tracked tables of which this transaction has recorded changes.  A rollback to a
 * savepoint does not remove them.  There is no place for more than MAX_CHANGED_TABLES.
 */
#define MAX_CHANGED_TABLES 64

static Oid changed_tables[MAX_CHANGED_TABLES];
static int nchanged_tables = 0; /* greater than MAX_CHANGED_TABLES: there are more */

/* Returns the value of poser.runas or poser.comment; NULL if it is empty. */
static const char *
setting(const char *value, const char *name)
{
	if (value == NULL || value[0] == '\0')
		return NULL;
	/* a value that was set before the session had a database has not been checked */
	poser_check_setting(name, value);
	return value;
}

static bool
same_text(const char *a, const char *b)
{
	return a == NULL ? b == NULL : b != NULL && strcmp(a, b) == 0;
}

/* Returns the name of a role; its OID if it has been dropped. */
static const char *
name_of_role(Oid roleid)
{
	const char *name = GetUserNameFromId(roleid, true);

	return name != NULL ? name : psprintf("%u", roleid);
}

/* Returns the client's address; null for a Unix-domain socket. */
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
 * Returns the role that is recorded for a change.  It is the role of SET ROLE, or else
 * the session's user; SECURITY DEFINER functions do not change it.  But code that the
 * server runs in a security-restricted operation, such as index functions during
 * ANALYZE, belongs to the current user.
 */
Oid
poser_acting_role(void)
{
	return InSecurityRestrictedOperation() ? GetUserId() : GetOuterUserId();
}

/* Returns the user that is recorded for a change: poser.runas, or else the session's user. */
const char *
poser_username(void)
{
	const char *username = setting(poser_runas, "poser.runas");

	return username != NULL ? username : name_of_role(GetSessionUserId());
}

/* Remember that this transaction has written a row with this id. */
static void
note_written_id(int64 id)
{
	int i = nwritten_ids;

	if (nwritten_ids == maxwritten_ids)
	{
		int max = Max(2 * maxwritten_ids, 8);

		written_ids = written_ids == NULL ? MemoryContextAlloc(TopTransactionContext, max * sizeof(int64))
										  : repalloc_huge(written_ids, max * sizeof(int64));
		maxwritten_ids = max;
	}
	/* usually it is the greatest one; but functions in an index of poser_transaction can have written another row meanwhile */
	for (; i > 0 && written_ids[i - 1] > id; i--)
		written_ids[i] = written_ids[i - 1];
	written_ids[i] = id;
	nwritten_ids++;
}

/* Remember that the current subtransaction has written this row. */
static void
note_written(Oid relid, int64 id)
{
	SubTransactionId subid = GetCurrentSubTransactionId();

	if (written == NULL || written->subid != subid)
	{
		WrittenRow *new = MemoryContextAlloc(TopTransactionContext, sizeof(WrittenRow));

		new->subid = subid;
		new->outer = written;
		written = new;
	}
	written->relid = relid;
	written->id = id;
	note_written_id(id);
}

/* Note that changes of this table are recorded. */
static void
note_changed_table(Oid relid)
{
	/* usually it is the last one */
	for (int i = Min(nchanged_tables, MAX_CHANGED_TABLES) - 1; i >= 0; i--)
		if (changed_tables[i] == relid)
			return;
	if (nchanged_tables < MAX_CHANGED_TABLES)
		changed_tables[nchanged_tables] = relid;
	nchanged_tables = Min(nchanged_tables + 1, MAX_CHANGED_TABLES + 1);
}

/* Put a value into a text column of a row; NULL for null. */
static void
put_text(TupleTableSlot *slot, int column, const char *value)
{
	slot->tts_isnull[column] = (value == NULL);
	if (value != NULL)
		slot->tts_values[column] = CStringGetTextDatum(value);
}

/* Write a row for the current transaction; returns its id. */
static int64
write_row(const PoserVersioned *versioned, FullTransactionId top, Oid role, const char *comment)
{
	PoserDirectTable table;
	TupleDesc desc;
	TupleTableSlot *slot;
	NameData role_name;
	NameData consumer;
	int64 id;

	/* the columns are found by number, so check that they have the types that the script gave them */
	poser_direct_open(&table, versioned->transactions, RowExclusiveLock);
	desc = RelationGetDescr(table.rel);
	if (desc->natts < TRANSACTION_NATTS)
		poser_structure_error(table.rel);
	for (int i = 0; i < TRANSACTION_NATTS; i++)
		if (TupleDescAttr(desc, i)->atttypid != transaction_types[i])
			poser_structure_error(table.rel);

	/* further columns are null, whether later versions of Poser or users have added them */
	slot = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
	for (int i = 0; i < desc->natts; i++)
		slot->tts_isnull[i] = (i >= TRANSACTION_NATTS);

	/* what is recorded */
	id = poser_change_id_next(versioned);
	slot->tts_values[TRANSACTION_ID] = Int64GetDatum(id);
	slot->tts_values[TRANSACTION_ISSUED_AT] = TimestampTzGetDatum(GetCurrentTimestamp());
	put_text(slot, TRANSACTION_USERNAME, poser_username());
	namestrcpy(&role_name, name_of_role(role));
	slot->tts_values[TRANSACTION_ROLE_NAME] = NameGetDatum(&role_name);
	slot->tts_values[TRANSACTION_REMOTE_ADDR] =
		client_address(&slot->tts_isnull[TRANSACTION_REMOTE_ADDR]);
	put_text(slot, TRANSACTION_APPLICATION_NAME,
			 application_name != NULL && application_name[0] != '\0' ? application_name : NULL);
	put_text(slot, TRANSACTION_COMMENT, comment);
	slot->tts_values[TRANSACTION_XACT] = FullTransactionIdGetDatum(top);

	/* the handler of a consumer is running, so datasync is installed and the table has this column */
	if (poser_handling_consumer != NULL)
	{
		int column = poser_own_column(table.rel, "consumer", NAMEOID);

		namestrcpy(&consumer, poser_handling_consumer);
		slot->tts_values[column - 1] = NameGetDatum(&consumer);
		slot->tts_isnull[column - 1] = false;
	}
	ExecStoreVirtualTuple(slot);

	table_tuple_insert(table.rel, slot, GetCurrentCommandId(true), 0, NULL);
	poser_direct_index_new_row(&table, slot);
	ExecDropSingleTupleTableSlot(slot);
	poser_direct_close(&table);
	return id;
}

/*
 * Returns the id of the transaction's row for a change by this role.  Writes a new row
 * unless the one that is in use has this role, user, comment and consumer.  "comment", if
 * not NULL, is recorded instead of poser.comment.
 */
int64
poser_transaction_record(const PoserVersioned *versioned, Oid role, const char *comment)
{
	const char *username = setting(poser_runas, "poser.runas");
	FullTransactionId top;
	int64 id;
	MemoryContext old;

	if (comment == NULL)
		comment = setting(poser_comment, "poser.comment");
	top = GetTopFullTransactionId();
	note_changed_table(versioned->relid);
	if (current.relid == versioned->transactions &&
		FullTransactionIdEquals(current.top, top) &&
		TransactionIdIsCurrentTransactionId(current.xid) &&
		current.session_user == GetSessionUserId() && current.role == role &&
		same_text(current.username, username) && same_text(current.comment, comment) &&
		same_text(current.consumer, poser_handling_consumer))
		return current.id;

	/* copies, because functions in an index of poser_transaction can change the settings or call this function */
	username = username != NULL ? pstrdup(username) : NULL;
	comment = comment != NULL ? pstrdup(comment) : NULL;
	id = write_row(versioned, top, role, comment);
	note_written(versioned->transactions, id);

	/* if an error occurs while the entry is being set, no row is in use */
	current.relid = InvalidOid;
	old = MemoryContextSwitchTo(TopTransactionContext);
	current.username = username != NULL ? pstrdup(username) : NULL;
	current.comment = comment != NULL ? pstrdup(comment) : NULL;
	current.consumer = poser_handling_consumer != NULL ? pstrdup(poser_handling_consumer) : NULL;
	MemoryContextSwitchTo(old);
	current.id = id;
	current.session_user = GetSessionUserId();
	current.role = role;
	current.top = top;
	current.xid = GetCurrentTransactionId();
	current.relid = versioned->transactions;
	return id;
}

/*
 * Lock poser_transaction as a writer does.  A session that looks at the history before it
 * records a change calls this first: then no history arrives between the two.
 */
void
poser_transaction_lock(const PoserVersioned *versioned)
{
	LockRelationOid(versioned->transactions, RowExclusiveLock);
}

/* The row with this id has got another id.  Later changes of this transaction write another row. */
void
poser_transaction_renumber(Oid relid, int64 id, int64 new_id)
{
	/* noted for the current subtransaction, because after its rollback the row has its old id */
	if (written != NULL && written->relid == relid && written->id == id)
		note_written(relid, new_id);
	else if (poser_transaction_has_written(id))
		note_written_id(new_id);
	poser_transaction_forget();
}

/* Stop using the transaction's row, because pruning may delete it.  The next change writes another row. */
void
poser_transaction_forget(void)
{
	current.relid = InvalidOid;
}

/*
 * Returns the id of the last row that this transaction has written and not rolled back,
 * and its table in *relid.  The result is 0 if there is none.
 */
int64
poser_transaction_last_written(Oid *relid)
{
	if (written == NULL)
		return 0;
	*relid = written->relid;
	return written->id;
}

/*
 * The tracked tables of which this transaction has recorded changes, in *relids.  Returns how
 * many there are, or -1 if there are too many to know them.  Changes that were rolled back
 * count, too.
 */
int
poser_transaction_changed_tables(const Oid **relids)
{
	*relids = changed_tables;
	return nchanged_tables <= MAX_CHANGED_TABLES ? nchanged_tables : -1;
}

/* Has this transaction written the row with this id?  Rows that were rolled back count, too. */
bool
poser_transaction_has_written(int64 id)
{
	int first = 0;
	int end = nwritten_ids;

	while (first < end)
	{
		int middle = first + (end - first) / 2;

		if (written_ids[middle] == id)
			return true;
		if (written_ids[middle] < id)
			first = middle + 1;
		else
			end = middle;
	}
	return false;
}

/* Has this transaction recorded changes that it has not rolled back? */
bool
poser_transaction_is_writing(void)
{
	return written != NULL;
}

/* Transaction callback: empty the lists.  Their memory is freed with the transaction. */
static void
end_transaction(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
	{
		written = NULL;
		written_ids = NULL;
		nwritten_ids = maxwritten_ids = 0;
		nchanged_tables = 0;
	}
}

/* Subtransaction callback: pass its entry on to the outer one or, after a rollback, remove it. */
static void
end_subtransaction(SubXactEvent event, SubTransactionId mySubid,
				   SubTransactionId parentSubid, void *arg)
{
	WrittenRow *last = written;

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
		/* the outer one's newest row is now older than this one */
		if (last->outer != NULL && last->outer->subid == parentSubid)
		{
			WrittenRow *outer = last->outer;

			last->outer = outer->outer;
			pfree(outer);
		}
	}
}

/* Register the callbacks, when the module is loaded. */
void
poser_transaction_init(void)
{
	RegisterXactCallback(end_transaction, NULL);
	RegisterSubXactCallback(end_subtransaction, NULL);
}
