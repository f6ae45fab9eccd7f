/*
 * history.c
 *	  The history of rows: their versions with the transactions, newest first.
 *
 * The versions of one table come from a query over its table of versions.  A receiver
 * gets them one by one, the newest version of a row first.  It holds each version until
 * it has the version before, because it reports which columns differ between the two.
 * The transaction of a version is looked up directly by its id, without a check of
 * privileges: a user that may read a version may also read its transaction.
 *
 * A history of rows of several tables is sorted by change_id.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relscan.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "parser/parse_coerce.h"
#include "tcop/dest.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
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

/* See look_up_transaction(): how far it goes on, and what it counts. */
#define MAX_STEPS 8
#define MAX_GAIN 16
#define COST_OF_BEGINNING 4

/* What the column "operation" says, by operation_type. */
static const char *const operations[] = {"insert", "update", "delete"};

/* A history while it is read. */
struct PoserHistory
{
	ReturnSetInfo *rsinfo;
	MemoryContext context;
	TupleDesc desc;		  /* of the result */
	Tuplesortstate *sort; /* rows of the result and change_id; NULL for a history of one table */
	TupleTableSlot *slot; /* a row of the sort or of the result */
	Datum operations[3];  /* texts */

	/* for looking up a transaction by its id */
	Relation transactions;
	Relation index;
	IndexScanDesc scan;
	ScanKeyData equal;				  /* id = $1 */
	ScanKeyData less_or_equal;		  /* id <= $1 */
	bool ascending;					  /* the index is in the order of the ids */
	int gain;						  /* of going on in the index, see look_up_transaction() */
	AttrNumber id;					  /* the transaction's column */
	AttrNumber source[HISTORY_FIXED]; /* by column of the result: the transaction's column, or 0 */
	bool looked_up;					  /* the fields below are of the last look-up */
	int64 transaction_id;
	bool found;
	TupleTableSlot *transaction;
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
} VersionReceiver;

/* Prepare the look-up of transactions by id.  Locks their table until poser_history_end(). */
static void
open_transactions(PoserHistory *history, Oid relid)
{
	history->transactions = table_open(relid, AccessShareLock);
	history->transaction = table_slot_create(history->transactions, NULL);
	for (int i = HISTORY_ISSUED_AT; i < HISTORY_OPERATION; i++)
	{
		Form_pg_attribute att = TupleDescAttr(history->desc, i);
		int column = SPI_fnumber(RelationGetDescr(history->transactions), NameStr(att->attname));

		if (column > 0 && SPI_gettypeid(RelationGetDescr(history->transactions), column) == att->atttypid)
			history->source[i] = column;
	}
	history->id = poser_own_column(history->transactions, "id", INT8OID);
	history->index = index_open(poser_transaction_id_index(history->transactions), AccessShareLock);
	poser_scan_key(&history->equal, history->index, 1, BTEqualStrategyNumber, Int64GetDatum(0));
	history->less_or_equal = history->equal;
	history->less_or_equal.sk_strategy = BTLessEqualStrategyNumber;
	fmgr_info(F_INT8LE, &history->less_or_equal.sk_func);
	history->ascending = (history->index->rd_indoption[0] & INDOPTION_DESC) == 0;
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
 * versions' column with the same name; a column "relation" gets the table's name.
 *
 * Locks the tables for reading until the transaction ends.  Pushes a snapshot and connects
 * to SPI, until poser_history_end().
 */
PoserHistory *
poser_history_begin(FunctionCallInfo fcinfo, const PoserVersioned *tables, int ntables)
{
	PoserHistory *history = palloc0(sizeof(PoserHistory));

	/* all queries read with this snapshot, so that pruning does not change the history in between */
	PushActiveSnapshot(GetActiveSnapshot());
	poser_history_lock(tables, ntables);

	InitMaterializedSRF(fcinfo, 0);
	history->rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	history->context = CurrentMemoryContext;
	history->desc = history->rsinfo->setDesc;
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

/* Returns the id of the row in the slot of transactions, or -1 if there is none. */
static int64
fetched_id(PoserHistory *history)
{
	bool isnull;

	if (TTS_EMPTY(history->transaction))
		return -1;
	return DatumGetInt64(slot_getattr(history->transaction, history->id, &isnull));
}

/*
 * Look up a transaction by its id, unless it was the last one that was looked up.
 *
 * The transactions of a row's versions come in descending order.  Often the next one is
 * the next in the index, too, and going on there is much cheaper than to begin again at
 * the root.  But where many transactions lie between, beginning again is cheaper, with a
 * condition for one row only.  "gain" decides between the two: it grows with each
 * transaction that was found by going on, and falls with each for which the scan began
 * again.
 */
static void
look_up_transaction(PoserHistory *history, int64 id)
{
	MemoryContext old;
	bool go_on = history->gain > 0;

	if (history->looked_up && history->transaction_id == id)
		return;

	/* not in the current context, which the executor resets while the scan is open */
	old = MemoryContextSwitchTo(history->context);

	/* go on in the index, from a later transaction */
	history->found = false;
	if (go_on && history->looked_up && fetched_id(history) > id)
	{
		for (int i = 0; i < MAX_STEPS && fetched_id(history) > id; i++)
			(void) index_getnext_slot(history->scan, BackwardScanDirection, history->transaction);
		history->found = (fetched_id(history) == id);
	}

	/* or begin again */
	if (history->found)
		history->gain = Min(history->gain + 1, MAX_GAIN);
	else
	{
		ScanKey key = go_on ? &history->less_or_equal : &history->equal;

		key->sk_argument = Int64GetDatum(id);
		index_rescan(history->scan, key, 1, NULL, 0);
		(void) index_getnext_slot(history->scan, BackwardScanDirection, history->transaction);
		history->found = (fetched_id(history) == id);
		history->gain -= COST_OF_BEGINNING;
	}
	history->looked_up = true;
	history->transaction_id = id;
	MemoryContextSwitchTo(old);
}

/* Put a transaction's columns into the row of the result; they are null if it was pruned. */
static void
put_transaction(PoserHistory *history, int64 id)
{
	TupleTableSlot *slot = history->slot;

	look_up_transaction(history, id);
	slot->tts_values[HISTORY_TRANSACTION_ID] = Int64GetDatum(id);
	slot->tts_isnull[HISTORY_TRANSACTION_ID] = false;
	for (int i = HISTORY_ISSUED_AT; i < HISTORY_OPERATION; i++)
	{
		slot->tts_isnull[i] = true;
		if (history->found && history->source[i] != 0)
			slot->tts_values[i] = slot_getattr(history->transaction, history->source[i],
											   &slot->tts_isnull[i]);
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
 * Add the version that is held to the result.  "before" is the version of the same row
 * before it, or NULL.
 */
static void
put_version(VersionReceiver *receiver, TupleTableSlot *before)
{
	PoserHistory *history = receiver->history;
	const PoserVersioned *versioned = receiver->versioned;
	TupleTableSlot *version = receiver->held;
	TupleTableSlot *slot = history->slot;
	int natts = history->desc->natts;
	int16 operation = DatumGetInt16(version->tts_values[versioned->operation_type - 1]);

	/* leave it out unless the row referred to the parent before or after the change */
	if (receiver->parent != 0 && !has_value(version, receiver->parent, receiver->key) &&
		(before == NULL || !has_value(before, receiver->parent, receiver->key)))
		return;

	/* the columns of all histories */
	ExecClearTuple(slot);
	put_transaction(history, DatumGetInt64(version->tts_values[versioned->transaction_id - 1]));
	slot->tts_isnull[HISTORY_OPERATION] = operation < 0 || operation >= lengthof(operations);
	if (!slot->tts_isnull[HISTORY_OPERATION])
		slot->tts_values[HISTORY_OPERATION] = history->operations[operation];
	slot->tts_isnull[HISTORY_CHANGED] = (before == NULL || receiver->restricted);
	if (!slot->tts_isnull[HISTORY_CHANGED])
		slot->tts_values[HISTORY_CHANGED] = changed_columns(receiver, before, version);

	/* the version's columns and the table's name */
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
}

/* The executor gives a version: add the one that is held, and hold this one. */
static bool
receive_version(TupleTableSlot *slot, DestReceiver *self)
{
	VersionReceiver *receiver = (VersionReceiver *) self;
	const PoserVersioned *versioned = receiver->versioned;

	slot_getallattrs(slot);
	if (!TTS_EMPTY(receiver->held))
	{
		bool same_row = true;

		for (int i = 0; i < versioned->nkeys; i++)
			same_row = same_row && has_value(receiver->held, versioned->keys[i],
											 slot->tts_values[versioned->keys[i] - 1]);
		put_version(receiver, same_row ? slot : NULL);
	}
	ExecCopySlot(receiver->held, slot);
	slot_getallattrs(receiver->held);
	return true;
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
		put_version(receiver, NULL);
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
	receiver->restricted = poser_history_is_restricted(versioned);
	namestrcpy(relation, get_rel_name(versioned->relid));
	receiver->relation = NameGetDatum(relation);

	/* names for the column "changed" */
	receiver->differs = palloc0(versioned->natts * sizeof(bool));
	receiver->names = palloc0(versioned->natts * sizeof(Datum));
	for (int i = 0; i < versioned->natts; i++)
		if (versioned->source[i] != 0)
			receiver->names[i] = CStringGetTextDatum(get_attname(versioned->versions, i + 1, false));

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
	for (int i = 0; i < versioned->natts; i++)
	{
		appendStringInfoString(&sql, i > 0 ? ", " : "");
		if (OidIsValid(get_atttype(versioned->versions, i + 1)))
			poser_history_append_column(&sql, versioned, i + 1, "v.%n");
		else
			appendStringInfoString(&sql, "NULL");
	}
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

	/* lock first, because this can replace the active snapshot; versions and transactions are read with the same one */
	poser_lock_query_tables(&query);
	history->scan = index_beginscan(history->transactions, history->index, GetActiveSnapshot(), NULL, 1, 0, SO_NONE);
	history->looked_up = false;
	history->gain = history->ascending ? MAX_GAIN : 0;
	(void) poser_run(&query);
	index_endscan(history->scan);
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
	ExecDropSingleTupleTableSlot(history->transaction);
	index_close(history->index, AccessShareLock);
	table_close(history->transactions, AccessShareLock);
	PopActiveSnapshot();
}
