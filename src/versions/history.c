/*
 * history.c
 *	  The history of rows: their versions with the transactions, newest first.
 *
 * The versions of one table come from a query over its table of versions.  A receiver
 * gets them one by one, the newest version of a row first.  It holds each version until
 * it has the version before, because it reports which columns differ between the two.
 * If the query orders the versions of several rows by change_id, it gives each version
 * together with the version before.  The transaction of a version is looked up directly,
 * see transaction_read.c.
 *
 * A history of rows of several tables is sorted by change_id.
 *
 * The result has the columns of the versions, or it has the row before and after each
 * change as jsonb.  The row before is that of the version before.  For a delete it is
 * the version itself, which has the values of the deleted row.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "parser/parse_coerce.h"
#include "tcop/dest.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/tuplesort.h"
#include "utils/tuplestore.h"
#include "utils/typcache.h"

#include "versions/versions.h"
#include "versions/version_internal.h"

/* The columns with which the result of each history function begins. */
enum
{
	HISTORY_TRANSACTION_ID,
	HISTORY_ISSUED_AT,
	HISTORY_USERNAME,
	HISTORY_ROLE_NAME,
	HISTORY_COMMENT,
	HISTORY_OPERATION,
	HISTORY_CHANGED,
	HISTORY_FIXED
};

/* The columns around those in the result as jsonb: one before them, and two after them. */
#define JSON_CHANGE_ID 0
#define JSON_FIRST 1
#define JSON_OLD (JSON_FIRST + HISTORY_FIXED)
#define JSON_NEW (JSON_OLD + 1)

/* What the column "operation" says, by operation_type. */
static const char *const operations[] = {"insert", "update", "delete"};

/* A history while it is read. */
struct PoserHistory
{
	ReturnSetInfo *rsinfo;
	MemoryContext context;
	TupleDesc desc;		  /* of the result */
	int first;			  /* the result's column for HISTORY_TRANSACTION_ID */
	Tuplesortstate *sort; /* rows of the result and change_id; NULL for a history of one table */
	TupleTableSlot *slot; /* a row of the sort or of the result */
	Datum operations[3];  /* texts */
	PoserTransactions *transactions;
	AttrNumber source[HISTORY_FIXED]; /* by column of the result: the transaction's column, or 0 */
};

/* A receiver of the versions of one table. */
typedef struct VersionReceiver
{
	DestReceiver pub;
	PoserHistory *history;
	const PoserVersioned *versioned;
	bool restricted;	 /* the query gives only the last version of each row */
	AttrNumber parent;	 /* if not 0, a version is added only if it, or the version before, has "key" in this column */
	Datum key;			 /* see parent */
	AttrNumber *map;	 /* by column of the result: the version's column, or 0 */
	int relation_column; /* the result's column for the table's name, or -1 */
	Datum relation;
	Datum *names;  /* names of the recorded columns, texts */
	bool *differs; /* by column of the version: is it in "changed"? */
	Datum changed; /* the last array of names that was made, or 0 */
	TupleTableSlot *held;

	/* for a result as jsonb */
	PoserPayload *payload; /* NULL for a result with the columns of the versions */
	bool pairs;			   /* the query gives each version with the one before */
	bool is_wide;		   /* it gives the one before as a record */
	TupleTableSlot *version;
	TupleTableSlot *before;
	MemoryContext rows[2]; /* rows[0] is reset after the version that is added, and becomes rows[1] */
	Datum json;			   /* the held version as jsonb, in rows[0], or 0 */
	int64 left;			   /* so many more versions are added; -1 for all */
} VersionReceiver;

/* Prepare the look-up of transactions.  Locks their table until poser_history_end(). */
static void
open_transactions(PoserHistory *history, Oid relid)
{
	TupleDesc desc;

	history->transactions = poser_transactions_open(relid);
	desc = RelationGetDescr(history->transactions->rel);
	for (int i = HISTORY_ISSUED_AT; i < HISTORY_OPERATION; i++)
	{
		Form_pg_attribute att = TupleDescAttr(history->desc, history->first + i);
		int column = SPI_fnumber(desc, NameStr(att->attname));

		if (column > 0 && SPI_gettypeid(desc, column) == att->atttypid)
			history->source[i] = column;
	}
}

/* Prepare a sort of the result's rows by change_id, newest first.  change_id is added as a last column. */
static void
begin_sort(PoserHistory *history)
{
	AttrNumber attno = history->desc->natts + 1;
	TupleDesc desc = CreateTemplateTupleDesc(attno);
	Oid opr = lookup_type_cache(INT8OID, TYPECACHE_GT_OPR)->gt_opr;
	Oid collation = InvalidOid;
	bool nulls_first = false;

	for (int i = 1; i < attno; i++)
		TupleDescCopyEntry(desc, i, history->desc, i);
	TupleDescInitEntry(desc, attno, "change_id", INT8OID, -1, 0);
	TupleDescFinalize(desc);
	history->slot = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
	history->sort = tuplesort_begin_heap(desc, 1, &attno, &opr, &collation, &nulls_first,
										 work_mem, NULL, TUPLESORT_NONE);
}

/*
 * Begin a history, which becomes the result of the set-returning function.  The result's
 * first columns are those of the enum above.  Each further column gets the values of the
 * versions' column with the same name; a column "relation" gets the table's name.  With
 * "as_json" the result has the rows as jsonb, and begins with change_id.
 *
 * Locks the tables for reading until the transaction ends.  Pushes a snapshot and connects
 * to SPI, until poser_history_end().
 */
PoserHistory *
poser_history_begin(FunctionCallInfo fcinfo, const PoserVersioned *tables, int ntables, bool as_json)
{
	PoserHistory *history = palloc0(sizeof(PoserHistory));

	/* all queries read with this snapshot, so that pruning does not change the history in between */
	PushActiveSnapshot(GetActiveSnapshot());
	poser_history_lock(tables, ntables);

	InitMaterializedSRF(fcinfo, 0);
	history->rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	history->context = CurrentMemoryContext;
	history->desc = history->rsinfo->setDesc;
	history->first = as_json ? JSON_FIRST : 0;
	for (int i = 0; i < lengthof(operations); i++)
		history->operations[i] = CStringGetTextDatum(operations[i]);

	/* the versions of one row come in order, but those of several tables must be sorted */
	if (ntables > 1)
		begin_sort(history);
	else
		history->slot = MakeSingleTupleTableSlot(history->desc, &TTSOpsVirtual);
	open_transactions(history, tables[0].transactions);
	SPI_connect();
	return history;
}

/* Put a transaction's columns into the row of the result; they are null if it was pruned. */
static void
put_transaction(PoserHistory *history, int64 id)
{
	Datum *values = history->slot->tts_values + history->first;
	bool *nulls = history->slot->tts_isnull + history->first;
	bool found = poser_transactions_find(history->transactions, id);

	values[HISTORY_TRANSACTION_ID] = Int64GetDatum(id);
	nulls[HISTORY_TRANSACTION_ID] = false;
	for (int i = HISTORY_ISSUED_AT; i < HISTORY_OPERATION; i++)
	{
		nulls[i] = true;
		if (found && history->source[i] != 0)
			values[i] = slot_getattr(history->transactions->slot, history->source[i], &nulls[i]);
	}
}

/*
 * Returns an array of the names of the recorded columns that differ between two
 * versions.  It is valid until the next call.
 */
static Datum
changed_columns(VersionReceiver *receiver, TupleTableSlot *before, TupleTableSlot *version)
{
	const PoserVersioned *versioned = receiver->versioned;
	bool same = (receiver->changed != (Datum) 0);
	MemoryContext old;
	Datum *names;
	int n = 0;

	/* compare the columns, and find out whether they are the same as the last time */
	for (int i = 0; i < versioned->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(version->tts_tupleDescriptor, i);
		bool differs = false;

		if (versioned->source[i] != 0)
			differs = before->tts_isnull[i] != version->tts_isnull[i] ||
					  (!before->tts_isnull[i] &&
					   !datum_image_eq(before->tts_values[i], version->tts_values[i],
									   att->attbyval, att->attlen));
		same = same && differs == receiver->differs[i];
		receiver->differs[i] = differs;
	}
	if (same)
		return receiver->changed;

	/* make the array */
	old = MemoryContextSwitchTo(receiver->history->context);
	if (receiver->changed != (Datum) 0)
		pfree(DatumGetPointer(receiver->changed));
	names = palloc(versioned->natts * sizeof(Datum));
	for (int i = 0; i < versioned->natts; i++)
		if (receiver->differs[i])
			names[n++] = receiver->names[i];
	receiver->changed = PointerGetDatum(construct_array(names, n, TEXTOID, -1, false, TYPALIGN_INT));
	pfree(names);
	MemoryContextSwitchTo(old);
	return receiver->changed;
}

/* Does a column of a version have this value, byte for byte? */
static bool
has_value(TupleTableSlot *version, AttrNumber column, Datum value)
{
	Form_pg_attribute att = TupleDescAttr(version->tts_tupleDescriptor, column - 1);

	return !version->tts_isnull[column - 1] &&
		   datum_image_eq(version->tts_values[column - 1], value, att->attbyval, att->attlen);
}

/*
 * Put the rows before and after a change into the result, as jsonb.  "before" is the
 * version before it, or NULL.
 */
static void
put_json(VersionReceiver *receiver, TupleTableSlot *version, TupleTableSlot *before)
{
	const PoserVersioned *versioned = receiver->versioned;
	TupleTableSlot *slot = receiver->history->slot;
	int16 operation = DatumGetInt16(version->tts_values[versioned->operation_type - 1]);
	int place = operation == POSER_DELETE ? JSON_OLD : JSON_NEW;
	MemoryContext old = MemoryContextSwitchTo(receiver->rows[0]);
	Datum json_before = (Datum) 0;

	slot->tts_values[JSON_CHANGE_ID] = version->tts_values[versioned->change_id - 1];
	slot->tts_isnull[JSON_CHANGE_ID] = version->tts_isnull[versioned->change_id - 1];
	slot->tts_isnull[JSON_OLD] = slot->tts_isnull[JSON_NEW] = true;

	/* the version's own row; it can be there already, as the row before the change that was added last */
	if (receiver->json == (Datum) 0)
		receiver->json = poser_payload_form(receiver->payload, version->tts_values, version->tts_isnull);
	slot->tts_values[place] = receiver->json;
	slot->tts_isnull[place] = false;

	/* the row before an update; if the version before is a delete, the history does not say what it was */
	MemoryContextSwitchTo(receiver->rows[1]);
	if (operation == POSER_UPDATE && before != NULL && !receiver->restricted &&
		DatumGetInt16(before->tts_values[versioned->operation_type - 1]) != POSER_DELETE)
	{
		json_before = poser_payload_form(receiver->payload, before->tts_values, before->tts_isnull);
		slot->tts_values[JSON_OLD] = json_before;
		slot->tts_isnull[JSON_OLD] = false;
	}
	MemoryContextSwitchTo(old);
	receiver->json = json_before;
}

/* Free what put_json() has made, except the jsonb of the version that comes next. */
static void
free_json(VersionReceiver *receiver)
{
	MemoryContext swap = receiver->rows[0];

	MemoryContextReset(swap);
	receiver->rows[0] = receiver->rows[1];
	receiver->rows[1] = swap;
	if (receiver->pairs)
	{
		MemoryContextReset(receiver->rows[0]);
		receiver->json = (Datum) 0;
	}
}

/*
 * Add a version to the result.  "before" is the version of the same row before it, or
 * NULL.
 */
static void
put_version(VersionReceiver *receiver, TupleTableSlot *version, TupleTableSlot *before)
{
	PoserHistory *history = receiver->history;
	const PoserVersioned *versioned = receiver->versioned;
	TupleTableSlot *slot = history->slot;
	Datum *values;
	bool *nulls;
	int natts = history->desc->natts;
	int16 operation = DatumGetInt16(version->tts_values[versioned->operation_type - 1]);

	/* leave it out unless the row referred to the parent before or after the change */
	if (receiver->parent != 0 && !has_value(version, receiver->parent, receiver->key) &&
		(before == NULL || !has_value(before, receiver->parent, receiver->key)))
		return;

	/* the columns of all histories */
	ExecClearTuple(slot);
	values = slot->tts_values + history->first;
	nulls = slot->tts_isnull + history->first;
	put_transaction(history, DatumGetInt64(version->tts_values[versioned->transaction_id - 1]));
	nulls[HISTORY_OPERATION] = operation < 0 || operation >= lengthof(operations);
	if (!nulls[HISTORY_OPERATION])
		values[HISTORY_OPERATION] = history->operations[operation];
	nulls[HISTORY_CHANGED] = (before == NULL || receiver->restricted);
	if (!nulls[HISTORY_CHANGED])
		values[HISTORY_CHANGED] = changed_columns(receiver, before, version);

	/* the rows, or the version's columns and the table's name */
	if (receiver->payload != NULL)
		put_json(receiver, version, before);
	else
		for (int i = HISTORY_FIXED; i < natts; i++)
		{
			int column = receiver->map[i] - 1;

			slot->tts_isnull[i] = column < 0 || version->tts_isnull[column];
			if (!slot->tts_isnull[i])
				slot->tts_values[i] = version->tts_values[column];
		}
	if (receiver->relation_column >= 0)
	{
		slot->tts_values[receiver->relation_column] = receiver->relation;
		slot->tts_isnull[receiver->relation_column] = false;
	}

	/* add it to the result, or first to the sort */
	if (history->sort == NULL)
		tuplestore_putvalues(history->rsinfo->setResult, history->desc, slot->tts_values, slot->tts_isnull);
	else
	{
		slot->tts_values[natts] = version->tts_values[versioned->change_id - 1];
		slot->tts_isnull[natts] = false;
		ExecStoreVirtualTuple(slot);
		tuplesort_puttupleslot(history->sort, slot);
	}
	if (receiver->payload != NULL)
		free_json(receiver);
	if (receiver->left > 0)
		receiver->left--;
}

/* Is this a version of the row whose version is held? */
static bool
is_of_held_row(VersionReceiver *receiver, TupleTableSlot *slot)
{
	const PoserVersioned *versioned = receiver->versioned;
	bool result = true;

	/* the rows of a result as jsonb come in pairs, unless the query is for one row */
	if (receiver->payload != NULL)
		return true;
	for (int i = 0; i < versioned->nkeys; i++)
		result = result && has_value(receiver->held, versioned->keys[i], slot->tts_values[versioned->keys[i] - 1]);
	return result;
}

/* The executor gives a version: add the one that is held, and hold this one. */
static bool
receive_version(TupleTableSlot *slot, DestReceiver *self)
{
	VersionReceiver *receiver = (VersionReceiver *) self;

	slot_getallattrs(slot);
	if (!TTS_EMPTY(receiver->held))
		put_version(receiver, receiver->held, is_of_held_row(receiver, slot) ? slot : NULL);
	if (receiver->left == 0)
	{
		ExecClearTuple(receiver->held);
		return false;
	}
	ExecCopySlot(receiver->held, slot);
	slot_getallattrs(receiver->held);
	return true;
}

/* Get the version before from a record.  Returns false if it is null. */
static bool
get_record(VersionReceiver *receiver, Datum record)
{
	HeapTupleHeader header = DatumGetHeapTupleHeader(record);
	TupleTableSlot *slot = receiver->before;
	HeapTupleData tuple;

	tuple.t_len = HeapTupleHeaderGetDatumLength(header);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_tableOid = InvalidOid;
	tuple.t_data = header;
	heap_deform_tuple(&tuple, slot->tts_tupleDescriptor, slot->tts_values, slot->tts_isnull);
	return !slot->tts_isnull[receiver->versioned->change_id - 1];
}

/* The executor gives a version and, in further columns or in a record, the version before it: add it. */
static bool
receive_pair(TupleTableSlot *slot, DestReceiver *self)
{
	VersionReceiver *receiver = (VersionReceiver *) self;
	const PoserVersioned *versioned = receiver->versioned;
	int natts = versioned->natts;
	bool has_before;

	slot_getallattrs(slot);
	memcpy(receiver->version->tts_values, slot->tts_values, natts * sizeof(Datum));
	memcpy(receiver->version->tts_isnull, slot->tts_isnull, natts * sizeof(bool));
	if (slot->tts_nvalid == natts + 1 && receiver->is_wide)
		has_before = get_record(receiver, slot->tts_values[natts]);
	else
		has_before = slot->tts_nvalid > natts && !slot->tts_isnull[natts + versioned->change_id - 1];
	if (has_before && !receiver->is_wide)
	{
		memcpy(receiver->before->tts_values, slot->tts_values + natts, natts * sizeof(Datum));
		memcpy(receiver->before->tts_isnull, slot->tts_isnull + natts, natts * sizeof(bool));
	}
	put_version(receiver, receiver->version, has_before ? receiver->before : NULL);
	return receiver->left != 0;
}

/* The executor starts. */
static void
start_versions(DestReceiver *self, int operation, TupleDesc desc)
{
	VersionReceiver *receiver = (VersionReceiver *) self;
	MemoryContext old = MemoryContextSwitchTo(receiver->history->context);

	receiver->held = MakeSingleTupleTableSlot(CreateTupleDescCopy(desc), &TTSOpsMinimalTuple);
	MemoryContextSwitchTo(old);
}

/* The executor has ended: add the last version. */
static void
end_versions(DestReceiver *self)
{
	VersionReceiver *receiver = (VersionReceiver *) self;

	if (!TTS_EMPTY(receiver->held))
		put_version(receiver, receiver->held, NULL);
	ExecDropSingleTupleTableSlot(receiver->held);
}

static void
destroy_receiver(DestReceiver *self)
{
	/* the receiver is freed with the function's memory context */
}

/* Make a receiver of the versions of this table. */
static VersionReceiver *
make_receiver(PoserHistory *history, const PoserVersioned *versioned)
{
	VersionReceiver *receiver = palloc0(sizeof(VersionReceiver));
	NameData *relation = palloc(sizeof(NameData));

	receiver->pub.receiveSlot = receive_version;
	receiver->pub.rStartup = start_versions;
	receiver->pub.rShutdown = end_versions;
	receiver->pub.rDestroy = destroy_receiver;
	receiver->pub.mydest = DestNone;
	receiver->history = history;
	receiver->versioned = versioned;
	receiver->left = -1;
	receiver->restricted = poser_history_is_restricted(versioned);
	namestrcpy(relation, get_rel_name(versioned->relid));
	receiver->relation = NameGetDatum(relation);

	/* names for the column "changed" */
	receiver->differs = palloc0(versioned->natts * sizeof(bool));
	receiver->names = palloc0(versioned->natts * sizeof(Datum));
	for (int i = 0; i < versioned->natts; i++)
		if (versioned->source[i] != 0)
			receiver->names[i] = CStringGetTextDatum(get_attname(versioned->relid, versioned->source[i], false));

	/* "relation" is the table's name, even if the table has a column of that name */
	receiver->relation_column = -1;
	receiver->map = palloc0(history->desc->natts * sizeof(AttrNumber));
	for (int i = HISTORY_FIXED; i < history->desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(history->desc, i);
		AttrNumber column = get_attnum(versioned->versions, NameStr(att->attname));

		if (strcmp(NameStr(att->attname), "relation") == 0)
			receiver->relation_column = i;
		else if (column > 0 && IsBinaryCoercible(get_atttype(versioned->versions, column), att->atttypid))
			receiver->map[i] = column;
	}
	return receiver;
}

/*
 * Returns the query for the versions of the row with the key $1 or, with "parent", of
 * all rows in which that column ever was $1.  All columns are selected in the order of
 * their numbers, as the receiver expects them; a dropped column is null.
 *
 *	SELECT v.uuid, v.description, v.active, v.operation_type, v.transaction_id, v.change_id
 *	  FROM poser_widget_version AS v
 *	 WHERE v.uuid = $1
 *	 ORDER BY v.uuid DESC, v.change_id DESC
 *
 * With "parent" for the components of a widget:
 *
 *	SELECT v.uuid, v.widget_uuid, v.item_code, ..., v.change_id
 *	  FROM poser_component_version AS v
 *	 WHERE EXISTS (SELECT FROM poser_component_version AS member
 *	                WHERE member.uuid = v.uuid AND member.widget_uuid = $1)
 *	 ORDER BY v.uuid DESC, v.change_id DESC
 */
static char *
versions_query(const PoserVersioned *versioned, AttrNumber column, bool parent, bool restricted)
{
	const char *versions = poser_relation_name(versioned->versions);
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	poser_history_append_versions(&sql, versioned, "v");
	appendStringInfo(&sql, "\n  FROM %s AS v\n WHERE ", versions);
	if (!parent)
		poser_history_append_column(&sql, versioned, column, "v.%n %= $1");
	else
	{
		appendStringInfo(&sql, "EXISTS (SELECT FROM %s AS member WHERE ", versions);
		poser_history_append_keys(&sql, versioned, " AND ", "member.%n %= v.%n");
		poser_history_append_column(&sql, versioned, column, " AND member.%n %= $1)");
	}
	if (restricted)
		poser_history_append_restriction(&sql, versioned);
	appendStringInfoString(&sql, "\n ORDER BY ");
	poser_history_append_keys(&sql, versioned, ", ", "v.%n DESC");
	appendStringInfoString(&sql, ", v.change_id DESC");
	return sql.data;
}

/* Run the query for versions. */
static void
run_query(PoserHistory *history, const PoserQuery *query)
{
	/* lock first, because this can replace the active snapshot; versions and transactions are read with the same one */
	poser_lock_query_tables(query);
	poser_transactions_begin(history->transactions, true);
	(void) poser_run(query);
	poser_transactions_end(history->transactions);
}

/*
 * Add the versions of the row with this key, which is of type "keytype".
 *
 * "parent" is NULL, or the name of a column that refers to the key.  With "parent" the
 * history gets all rows that ever referred to the key.  Of such a row it gets the
 * versions that refer to the key, and each version with which the row ceased to refer
 * to it.
 */
void
poser_history_add(PoserHistory *history, const PoserVersioned *versioned, Datum key, Oid keytype,
				  const char *parent)
{
	VersionReceiver *receiver = make_receiver(history, versioned);
	AttrNumber column = poser_history_lookup_column(versioned, parent, keytype);
	Oid type = get_atttype(versioned->versions, column);
	PoserQuery query = {.nargs = 1, .argtypes = &type, .values = &key, .read_only = true};

	receiver->parent = parent != NULL ? column : 0;
	receiver->key = key;
	query.sql = versions_query(versioned, column, parent != NULL, receiver->restricted);
	/* the index on the key gives the versions of one row in order, and these are in this order in the table; the planner, which does not know that, would sort them */
	if (parent == NULL && !receiver->restricted)
		query.cursor_options = CURSOR_OPT_FAST_PLAN;
	query.dest = &receiver->pub;

	run_query(history, &query);
}

/* Returns a name that is not in the list: this one or, if it is in the list, the name with a number. */
static char *
free_name(List *names, const char *name)
{
	char *result = pstrdup(name);

	for (int i = 1;; i++)
	{
		bool found = false;
		ListCell *lc;

		foreach(lc, names)
		{
			found = found || strcmp(lfirst(lc), result) == 0;
		}
		if (!found)
			return result;
		result = psprintf("%s_%d", name, i);
	}
}

/* Has a column of the versions, which is not recorded any more, values of a column that is excluded now? */
static bool
is_excluded(const PoserVersioned *versioned, const PoserBinding *binding, const char *name)
{
	bool result = false;

	for (int i = 0; i < binding->ncolumns; i++)
	{
		const PoserBoundColumn *column = &binding->columns[i];

		if (column->versions_attnum == 0)
			result = result || strcmp(column->name, name) == 0 || strcmp(column->versions_name, name) == 0 ||
					 get_attnum(versioned->relid, name) == column->attnum;
	}
	return result;
}

/*
 * Returns the keys of a version as jsonb, by column of the versions: the names that the
 * table's columns have now.  Columns that the table no longer has keep the versions'
 * names, with a number if the table has such a column.  The columns of the history
 * itself, and those of columns that are excluded now, are NULL.
 */
static const char **
json_names(const PoserVersioned *versioned)
{
	const char **result = palloc0(versioned->natts * sizeof(char *));
	PoserBinding binding;
	bool has_binding = false;
	List *names = NIL;

	for (int i = 0; i < versioned->natts; i++)
		if (versioned->source[i] != 0)
		{
			result[i] = get_attname(versioned->relid, versioned->source[i], false);
			names = lappend(names, unconstify(char *, result[i]));
		}
	for (int i = 0; i < versioned->natts; i++)
	{
		AttrNumber column = i + 1;
		char *name;

		if (versioned->source[i] != 0 || column == versioned->operation_type ||
			column == versioned->transaction_id || column == versioned->change_id ||
			!OidIsValid(get_atttype(versioned->versions, column)))
			continue;
		has_binding = has_binding || poser_own_binding(versioned, &binding);
		name = get_attname(versioned->versions, column, false);
		if (has_binding && is_excluded(versioned, &binding, name))
			continue;
		result[i] = free_name(names, name);
		names = lappend(names, unconstify(char *, result[i]));
	}
	return result;
}

/* Is the version before each version to be selected as one record, because a query cannot have so many columns? */
bool
poser_history_pairs_are_wide(const PoserVersioned *versioned)
{
	return 2 * versioned->natts > MaxTupleAttributeNumber;
}

/*
 * Make the versions that a query gives the result, as jsonb, until there are
 * "max_versions" of them; -1 stands for all.  Returns whether there are so many.  The
 * query's columns are those of poser_history_append_versions().
 *
 * With "pairs" the query gives them in the order of the result, and its further columns
 * are those of the version before, if it has any; see poser_history_pairs_are_wide().
 * Otherwise the query is for one row, and gives the newest version first.
 */
bool
poser_history_receive(PoserHistory *history, const PoserVersioned *versioned, PoserQuery *query,
					  bool pairs, int64 max_versions)
{
	VersionReceiver *receiver = make_receiver(history, versioned);
	Relation versions = RelationIdGetRelation(versioned->versions);
	TupleDesc desc = CreateTupleDescCopy(RelationGetDescr(versions));

	RelationClose(versions);
	tuplestore_clear(history->rsinfo->setResult);
	receiver->payload = poser_payload_describe(desc, json_names(versioned));
	receiver->left = max_versions;
	for (int i = 0; i < lengthof(receiver->rows); i++)
		receiver->rows[i] = AllocSetContextCreate(history->context, "poser history row", ALLOCSET_DEFAULT_SIZES);
	if (pairs)
	{
		receiver->pairs = true;
		receiver->is_wide = poser_history_pairs_are_wide(versioned);
		receiver->version = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
		receiver->before = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
		receiver->pub.receiveSlot = receive_pair;
	}
	query->dest = &receiver->pub;
	run_query(history, query);
	if (pairs)
	{
		ExecDropSingleTupleTableSlot(receiver->version);
		ExecDropSingleTupleTableSlot(receiver->before);
	}
	return receiver->left == 0;
}

/* End a history: all of it is in the function's result, newest first. */
void
poser_history_end(PoserHistory *history)
{
	SPI_finish();
	if (history->sort != NULL)
	{
		TupleTableSlot *slot = MakeSingleTupleTableSlot(history->slot->tts_tupleDescriptor,
														&TTSOpsMinimalTuple);

		tuplesort_performsort(history->sort);
		while (tuplesort_gettupleslot(history->sort, true, false, slot, NULL))
		{
			CHECK_FOR_INTERRUPTS();
			slot_getallattrs(slot);
			tuplestore_putvalues(history->rsinfo->setResult, history->desc,
								 slot->tts_values, slot->tts_isnull);
		}
		tuplesort_end(history->sort);
		ExecDropSingleTupleTableSlot(slot);
	}
	ExecDropSingleTupleTableSlot(history->slot);
	poser_transactions_close(history->transactions);
	PopActiveSnapshot();
}
