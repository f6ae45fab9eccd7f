/*
 * history.c
 *	  Reading the history of tables, going back in it, and ending it.
 *
 * Versions are read by queries, with the privileges and policies of the caller.
 * The transaction of a version is looked up directly: a user that may see a
 * version may also see its transaction.
 *
 * Row-level security: who is subject to it on a table must not learn by its
 * history what it hides from him, and policies of the table cannot be asked
 * about rows as they were.  So either there are policies on the versions, too,
 * and they decide; or he sees of each row that he sees now the version that it
 * is, and no other.
 *
 * Of what is read, times and transactions are positions in the one order of
 * ids.  The state "as of" a time is made by the transactions up to the last one
 * that was issued by then; the state "after" a transaction is that of its last
 * change among the rows in question.  Pruning leaves a note, the horizon: up to
 * which transaction and change something may be missing.
 */
#include "postgres.h"

#include "access/genam.h"

#include "postgres.h"

#include "access/genam.h"
#include "access/relscan.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_operator.h"
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

/* The columns that all histories begin with. */
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

static const char *const operations[] = {"insert", "update", "delete"};

struct PoserHistory
{
	ReturnSetInfo *rsinfo;
	MemoryContext context;
	TupleDesc desc;		   /* of the result */
	Tuplesortstate *sort;  /* by change_id, which comes behind; NULL if all are of one row */
	TupleTableSlot *slot;  /* a row of the result, or of the sort */
	Datum operations[3];   /* texts */
	Relation transactions; /* where a transaction is looked up by id */
	Relation index;
	IndexScanDesc scan;
	ScanKeyData key;
	TupleTableSlot *transaction;
	bool looked_up;
	int64 transaction_id;			  /* the last one that was looked up */
	bool found;						  /* it is in that slot */
	AttrNumber source[HISTORY_FIXED]; /* columns of it for the result's, or 0 */
};

/*
 * What takes the versions of one table from the executor: newest first, row by
 * row.  Each is held until the one before it has come, with which it is
 * compared.
 */
typedef struct VersionReceiver
{
	DestReceiver pub;
	PoserHistory *history;
	const PoserVersioned *versioned;
	bool restricted;
	AttrNumber parent; /* only versions in which this column or that of the version before */
	Datum key;		   /* has this value; or 0 */
	AttrNumber *map;   /* column for each of the result's, or 0 */
	Datum relation;	   /* name of the table */
	Datum *names;	   /* of the recorded columns, texts */
	bool *differs;	   /* which of them are in "changed" */
	Datum changed;	   /* the last array that was made */
	TupleTableSlot *held;
} VersionReceiver;

/*
 * Begin a history, the result of a set-returning function: the columns above,
 * then columns that are found by name in the versions; "relation" is the name
 * of the table.  It is of one row, or of many rows of several tables.
 */
PoserHistory *
poser_history_begin(FunctionCallInfo fcinfo, const PoserVersioned *tables, int ntables)
{
	PoserHistory *history = palloc0(sizeof(PoserHistory));
	AttrNumber natts;

	PushActiveSnapshot(GetActiveSnapshot());
	poser_history_lock(tables, ntables);

	InitMaterializedSRF(fcinfo, 0);
	history->rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	history->context = CurrentMemoryContext;
	history->desc = history->rsinfo->setDesc;
	natts = history->desc->natts;
	for (int i = 0; i < lengthof(operations); i++)
		history->operations[i] = CStringGetTextDatum(operations[i]);

	if (ntables > 1)
	{
		TupleDesc desc = CreateTemplateTupleDesc(natts + 1);
		AttrNumber attno = natts + 1;
		Oid opr = lookup_type_cache(INT8OID, TYPECACHE_GT_OPR)->gt_opr;
		Oid collation = InvalidOid;
		bool nulls_first = false;

		for (int i = 1; i <= natts; i++)
			TupleDescCopyEntry(desc, i, history->desc, i);
		TupleDescInitEntry(desc, attno, "change_id", INT8OID, -1, 0);
		TupleDescFinalize(desc);
		history->slot = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
		history->sort = tuplesort_begin_heap(desc, 1, &attno, &opr, &collation, &nulls_first,
											 work_mem, NULL, TUPLESORT_NONE);
	}
	else
		history->slot = MakeSingleTupleTableSlot(history->desc, &TTSOpsVirtual);

	history->transactions = table_open(tables[0].transactions, AccessShareLock);
	history->transaction = table_slot_create(history->transactions, NULL);
	for (int i = HISTORY_ISSUED_AT; i < HISTORY_OPERATION; i++)
	{
		Form_pg_attribute att = TupleDescAttr(history->desc, i);
		int column = SPI_fnumber(RelationGetDescr(history->transactions), NameStr(att->attname));

		if (column > 0 && SPI_gettypeid(RelationGetDescr(history->transactions), column) == att->atttypid)
			history->source[i] = column;
	}
	history->index = index_open(poser_id_index(history->transactions), AccessShareLock);
	poser_scan_key(&history->key, history->index, 1, Int64GetDatum(0));

	SPI_connect();
	return history;
}

/* Put what is known of a transaction into the row of the result. */
static void
put_transaction(PoserHistory *history, int64 id)
{
	TupleTableSlot *slot = history->slot;

	if (!history->looked_up || history->transaction_id != id)
	{
		/* we are in the executor, whose memory the scan must not take */
		MemoryContext old = MemoryContextSwitchTo(history->context);

		history->looked_up = true;
		history->transaction_id = id;
		history->key.sk_argument = Int64GetDatum(id);
		index_rescan(history->scan, &history->key, 1, NULL, 0);
		history->found = index_getnext_slot(history->scan, ForwardScanDirection, history->transaction);
		MemoryContextSwitchTo(old);
	}
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
 * The names of the columns that differ between two versions, an array that is
 * valid until the next call.
 */
static Datum
changed_columns(VersionReceiver *receiver, TupleTableSlot *before, TupleTableSlot *version)
{
	const PoserVersioned *versioned = receiver->versioned;
	bool same = (receiver->changed != (Datum) 0);
	MemoryContext old;
	Datum *names;
	int n = 0;

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

/* Has the column of a version this value? */
static bool
has_value(TupleTableSlot *version, AttrNumber column, Datum value)
{
	Form_pg_attribute att = TupleDescAttr(version->tts_tupleDescriptor, column - 1);

	return !version->tts_isnull[column - 1] &&
		   datum_image_eq(version->tts_values[column - 1], value, att->attbyval, att->attlen);
}

/* Add the version that is held to the history, if it belongs there. */
static void
put_version(VersionReceiver *receiver, TupleTableSlot *before)
{
	PoserHistory *history = receiver->history;
	const PoserVersioned *versioned = receiver->versioned;
	TupleTableSlot *version = receiver->held;
	TupleTableSlot *slot = history->slot;
	int natts = history->desc->natts;
	int16 operation = DatumGetInt16(version->tts_values[versioned->operation_type - 1]);

	if (receiver->parent != 0 && !has_value(version, receiver->parent, receiver->key) &&
		(before == NULL || !has_value(before, receiver->parent, receiver->key)))
		return;

	ExecClearTuple(slot);
	put_transaction(history, DatumGetInt64(version->tts_values[versioned->transaction_id - 1]));
	slot->tts_isnull[HISTORY_OPERATION] = operation < 0 || operation >= lengthof(operations);
	if (!slot->tts_isnull[HISTORY_OPERATION])
		slot->tts_values[HISTORY_OPERATION] = history->operations[operation];
	slot->tts_isnull[HISTORY_CHANGED] = (before == NULL || receiver->restricted);
	if (!slot->tts_isnull[HISTORY_CHANGED])
		slot->tts_values[HISTORY_CHANGED] = changed_columns(receiver, before, version);
	for (int i = HISTORY_FIXED; i < natts; i++)
	{
		int column = receiver->map[i] - 1;

		slot->tts_isnull[i] = column < 0 || version->tts_isnull[column];
		if (!slot->tts_isnull[i])
			slot->tts_values[i] = version->tts_values[column];
		else if (strcmp(NameStr(TupleDescAttr(history->desc, i)->attname), "relation") == 0)
		{
			slot->tts_values[i] = receiver->relation;
			slot->tts_isnull[i] = false;
		}
	}

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

static void
start_versions(DestReceiver *self, int operation, TupleDesc desc)
{
	VersionReceiver *receiver = (VersionReceiver *) self;
	MemoryContext old = MemoryContextSwitchTo(receiver->history->context);

	receiver->held = MakeSingleTupleTableSlot(CreateTupleDescCopy(desc), &TTSOpsMinimalTuple);
	MemoryContextSwitchTo(old);
}

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
	/* its memory goes with the call */
}

/* What takes the versions of this table into the history. */
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

	receiver->differs = palloc0(versioned->natts * sizeof(bool));
	receiver->names = palloc0(versioned->natts * sizeof(Datum));
	for (int i = 0; i < versioned->natts; i++)
		if (versioned->source[i] != 0)
			receiver->names[i] = CStringGetTextDatum(get_attname(versioned->versions, i + 1, false));

	receiver->map = palloc0(history->desc->natts * sizeof(AttrNumber));
	for (int i = HISTORY_FIXED; i < history->desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(history->desc, i);
		AttrNumber column = get_attnum(versioned->versions, NameStr(att->attname));

		/* this is the name of the table, even if the table has a column "relation" */
		if (strcmp(NameStr(att->attname), "relation") == 0)
			continue;
		if (column > 0 && IsBinaryCoercible(get_atttype(versioned->versions, column), att->atttypid))
			receiver->map[i] = column;
	}
	return receiver;
}

/*
 * Add the versions of the row that has the key or, with the name of a column
 * that refers to it, of all rows while they did: with the changes by which they
 * came and went.
 */
void
poser_history_add(PoserHistory *history, const PoserVersioned *versioned, Datum key, Oid keytype,
				  const char *parent)
{
	VersionReceiver *receiver = make_receiver(history, versioned);
	const char *versions = poser_relation_name(versioned->versions);
	AttrNumber column = poser_history_lookup_column(versioned, parent, keytype);
	Oid type = get_atttype(versioned->versions, column);
	const char *name = poser_history_column(versioned, column);
	StringInfoData sql;

	receiver->parent = parent != NULL ? column : 0;
	receiver->key = key;

	/* all columns by number, so that they are those of the description */
	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	for (int i = 0; i < versioned->natts; i++)
	{
		bool is_dropped = !OidIsValid(get_atttype(versioned->versions, i + 1));

		appendStringInfo(&sql, "%s%s%s", i > 0 ? ", " : "", is_dropped ? "" : "v.",
						 is_dropped ? "NULL" : poser_history_column(versioned, i + 1));
	}
	appendStringInfo(&sql, "\n  FROM %s AS v\n WHERE ", versions);
	if (parent == NULL)
		poser_history_append_equality(&sql, psprintf("v.%s", name), "$1", type);
	else
	{
		appendStringInfo(&sql, "EXISTS (SELECT FROM %s AS member WHERE ", versions);
		poser_history_append_same_key(&sql, versioned, "member.", "v.");
		appendStringInfoString(&sql, " AND ");
		poser_history_append_equality(&sql, psprintf("member.%s", name), "$1", type);
		appendStringInfoChar(&sql, ')');
	}
	if (receiver->restricted)
		poser_history_append_restriction(&sql, versioned);
	appendStringInfoString(&sql, "\n ORDER BY ");
	for (int i = 0; i < versioned->nkeys; i++)
		appendStringInfo(&sql, "v.%s DESC, ", poser_history_column(versioned, versioned->keys[i]));
	appendStringInfoString(&sql, "v.change_id DESC");

	poser_lock_query(sql.data, 0, 1, &type);
	history->scan = index_beginscan(history->transactions, history->index, GetActiveSnapshot(), NULL, 1, 0, SO_NONE);
	history->looked_up = false;
	poser_execute_for(&receiver->pub, sql.data, 0, 1, &type, &key, NULL, 0);
	index_endscan(history->scan);
}

/* Give the history to the function's caller, newest first. */
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
