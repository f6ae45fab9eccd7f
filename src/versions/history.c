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
#include "access/htup_details.h"
#include "access/relscan.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "parser/parse_coerce.h"
#include "storage/lmgr.h"
#include "tcop/dest.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/tuplesort.h"
#include "utils/tuplestore.h"
#include "utils/typcache.h"

#include "versions/versions.h"

PG_FUNCTION_INFO_V1(poser_prune_versions);
PG_FUNCTION_INFO_V1(poser_record_versions);

/* The least id of a transaction that must not be pruned, see versions.h. */
int64 (*poser_first_needed_hook)(const PoserVersioned *tables) = NULL;

/* Rows fetched or deleted at a time. */
#define BATCH 1000

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
 * Queries
 */

/* Run a query none of whose parameters is null. */
static uint64
execute(const char *query, int nargs, Oid *argtypes, Datum *values, bool read_only)
{
	return poser_execute(query, nargs, argtypes, values, NULL, read_only);
}

/* A number in the first row of the last result. */
static int64
result_int64(int column, bool *isnull)
{
	Oid type;

	if (SPI_processed == 0)
	{
		*isnull = true;
		return 0;
	}
	type = SPI_gettypeid(SPI_tuptable->tupdesc, column);
	if (type != INT8OID)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("a position in the history is of type %s instead of %s",
						format_type_be(type), format_type_be(INT8OID)),
				 errhint("poser_check() says what was changed.")));
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column, isnull));
}

/*
 * Parts of queries
 */

static const char *
version_column(const PoserVersioned *versioned, AttrNumber column)
{
	return quote_identifier(get_attname(versioned->versions, column, false));
}

/*
 * The column by which rows are looked up: "name" or, if that is NULL, the first
 * column of the key.  Raises an error if a value of "keytype" cannot be used as one
 * of the column's type.
 */
static AttrNumber
lookup_column(const PoserVersioned *versioned, const char *name, Oid keytype)
{
	AttrNumber column = name != NULL ? get_attnum(versioned->versions, name) : versioned->keys[0];
	Oid type;

	if (column <= 0 || versioned->source[column - 1] == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("column \"%s\" of relation \"%s\" is not recorded", name,
						get_rel_name(versioned->relid)),
				 errhint("poser_check() says what was changed.")));
	type = get_atttype(versioned->versions, column);
	if (!IsBinaryCoercible(keytype, getBaseType(type)) && !IsBinaryCoercible(type, keytype))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" of relation \"%s\" is of type %s, but it is looked up by a value of type %s",
						get_attname(versioned->versions, column, false), get_rel_name(versioned->versions),
						format_type_be(type), format_type_be(keytype)),
				 errhint("poser_check() says what was changed.")));
	return column;
}

/* Append the names of the recorded columns, each after this prefix. */
static void
append_columns(StringInfo sql, const PoserVersioned *versioned, const char *prefix)
{
	const char *separator = "";

	for (int i = 0; i < versioned->natts; i++)
		if (versioned->source[i] != 0)
		{
			appendStringInfo(sql, "%s%s%s", separator, prefix, version_column(versioned, i + 1));
			separator = ", ";
		}
}

/* The same of the table, as values that the columns of its versions can hold. */
static void
append_values(StringInfo sql, const PoserVersioned *versioned, const char *prefix)
{
	const char *separator = "";

	for (int i = 0; i < versioned->natts; i++)
		if (versioned->source[i] != 0)
		{
			Oid type = get_atttype(versioned->versions, i + 1);

			appendStringInfo(sql, "%s%s%s", separator, prefix, version_column(versioned, i + 1));
			if (get_atttype(versioned->relid, versioned->source[i]) != type)
				appendStringInfo(sql, "::%s", format_type_extended(type, -1, FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY));
			separator = ", ";
		}
}

static void
append_keys(StringInfo sql, const PoserVersioned *versioned, const char *prefix)
{
	for (int i = 0; i < versioned->nkeys; i++)
		appendStringInfo(sql, "%s%s%s", i > 0 ? ", " : "", prefix,
						 version_column(versioned, versioned->keys[i]));
}

/* Append "left = right" for a column's type, whatever the search_path. */
static void
append_equality(StringInfo sql, const char *left, const char *right, Oid type)
{
	appendStringInfo(sql, "%s %s %s", left, poser_equality(type), right);
}

/* Append the condition that two rows have the same key. */
static void
append_same_key(StringInfo sql, const PoserVersioned *versioned, const char *left, const char *right)
{
	for (int i = 0; i < versioned->nkeys; i++)
	{
		const char *name = version_column(versioned, versioned->keys[i]);

		if (i > 0)
			appendStringInfoString(sql, " AND ");
		append_equality(sql, psprintf("%s%s", left, name), psprintf("%s%s", right, name),
						get_atttype(versioned->versions, versioned->keys[i]));
	}
}

/*
 * Append a query for the last version of each row, all columns of it:
 * of the versions for which the condition holds.
 */
static void
append_last_versions(StringInfo sql, const PoserVersioned *versioned, const char *condition)
{
	appendStringInfo(sql, "SELECT DISTINCT ON (");
	append_keys(sql, versioned, "");
	appendStringInfo(sql, ") *\n  FROM %s\n WHERE %s\n ORDER BY ",
					 poser_relation_name(versioned->versions), condition);
	append_keys(sql, versioned, "");
	appendStringInfoString(sql, ", change_id DESC");
}

/*
 * Append a query for all rows that are not what their last version says:
 * operation, what should be recorded of the row, which is an insert, update or
 * delete; operation_type of the last version; and the recorded columns.  These are
 * called "column_" and their number in the table of versions, because their own
 * names could be the same as another one here.
 */
void
poser_history_append_comparison(StringInfo sql, const PoserVersioned *versioned)
{
	const char *key = version_column(versioned, versioned->keys[0]);
	const char *separator = "";

	appendStringInfo(sql,
					 "SELECT CASE WHEN live.%s IS NULL THEN 2\n"
					 "            WHEN last.operation_type IS NULL OR last.operation_type OPERATOR(pg_catalog.=) 2 THEN 0\n"
					 "            ELSE 1 END::pg_catalog.int2 AS operation,\n"
					 "       last.operation_type,\n       ",
					 key);
	for (int i = 0; i < versioned->natts; i++)
		if (versioned->source[i] != 0)
		{
			const char *name = version_column(versioned, i + 1);

			appendStringInfo(sql, "%sCASE WHEN live.%s IS NULL THEN last.%s ELSE live.%s END AS column_%d",
							 separator, key, name, name, i + 1);
			separator = ", ";
		}
	appendStringInfoString(sql, "\n  FROM (SELECT ");
	separator = "";
	for (int i = 0; i < versioned->natts; i++)
		if (versioned->source[i] != 0)
		{
			const char *name = version_column(versioned, i + 1);

			appendStringInfo(sql, "%s%s::%s AS %s", separator, name,
							 format_type_extended(get_atttype(versioned->versions, i + 1), -1,
												  FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY),
							 name);
			separator = ", ";
		}
	appendStringInfo(sql, "\n          FROM %s) AS live\n       FULL JOIN (",
					 poser_relation_name(versioned->relid));
	append_last_versions(sql, versioned, "true");
	appendStringInfoString(sql, ") AS last\n       ON ");
	append_same_key(sql, versioned, "live.", "last.");
	appendStringInfo(sql,
					 "\n WHERE CASE WHEN live.%s IS NULL THEN last.operation_type OPERATOR(pg_catalog.<>) 2\n"
					 "            WHEN last.operation_type IS NULL OR last.operation_type OPERATOR(pg_catalog.=) 2 THEN true\n"
					 "            ELSE ROW(",
					 key);
	append_columns(sql, versioned, "live.");
	appendStringInfoString(sql, ")::pg_catalog.record OPERATOR(pg_catalog.*<>) ROW(");
	append_columns(sql, versioned, "last.");
	appendStringInfoString(sql, ")::pg_catalog.record END");
}

/* Is a role that may not see all rows of the table reading? */
static bool
is_restricted(const PoserVersioned *versioned)
{
	return check_enable_rls(versioned->relid, InvalidOid, true) == RLS_ENABLED &&
		   check_enable_rls(versioned->versions, InvalidOid, true) != RLS_ENABLED;
}

/* Append, for such a role, that a version is what a row that he sees is. */
static void
append_restriction(StringInfo sql, const PoserVersioned *versioned)
{
	const char *versions = poser_relation_name(versioned->versions);

	appendStringInfo(sql,
					 "\n   AND v.operation_type OPERATOR(pg_catalog.<>) 2"
					 "\n   AND NOT EXISTS (SELECT FROM %s AS newer WHERE ",
					 versions);
	append_same_key(sql, versioned, "newer.", "v.");
	appendStringInfo(sql, " AND newer.change_id OPERATOR(pg_catalog.>) v.change_id)\n   AND EXISTS (SELECT FROM %s AS live WHERE ",
					 poser_relation_name(versioned->relid));
	append_same_key(sql, versioned, "live.", "v.");
	appendStringInfoString(sql, "\n   AND ROW(");
	append_values(sql, versioned, "live.");
	appendStringInfoString(sql, ")::pg_catalog.record OPERATOR(pg_catalog.*=) ROW(");
	append_columns(sql, versioned, "v.");
	appendStringInfoString(sql, ")::pg_catalog.record)");
}

/*
 * Lock the history of these tables and its horizon, to be read with the active
 * snapshot, which the caller has pushed, see poser_lock_to_read().
 */
static void
lock_history(const PoserVersioned *tables, int ntables)
{
	Oid bookkeeping[] = {tables[0].transactions, tables[0].horizon};

	for (int i = 0; i < ntables; i++)
		poser_lock_to_read(&tables[i].versions, 1);
	poser_lock_to_read(bookkeeping, lengthof(bookkeeping));
}

/*
 * History of rows
 */

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
	lock_history(tables, ntables);

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
	receiver->restricted = is_restricted(versioned);
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
	AttrNumber column = lookup_column(versioned, parent, keytype);
	Oid type = get_atttype(versioned->versions, column);
	const char *name = version_column(versioned, column);
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
						 is_dropped ? "NULL" : version_column(versioned, i + 1));
	}
	appendStringInfo(&sql, "\n  FROM %s AS v\n WHERE ", versions);
	if (parent == NULL)
		append_equality(&sql, psprintf("v.%s", name), "$1", type);
	else
	{
		appendStringInfo(&sql, "EXISTS (SELECT FROM %s AS member WHERE ", versions);
		append_same_key(&sql, versioned, "member.", "v.");
		appendStringInfoString(&sql, " AND ");
		append_equality(&sql, psprintf("member.%s", name), "$1", type);
		appendStringInfoChar(&sql, ')');
	}
	if (receiver->restricted)
		append_restriction(&sql, versioned);
	appendStringInfoString(&sql, "\n ORDER BY ");
	for (int i = 0; i < versioned->nkeys; i++)
		appendStringInfo(&sql, "v.%s DESC, ", version_column(versioned, versioned->keys[i]));
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

/*
 * Positions
 */

/* What has been pruned; zeros if nothing has. */
typedef struct Horizon
{
	int64 transaction_id;
	int64 change_id;
} Horizon;

/*
 * Bookkeeping is read with its owner's rights.  To be called between
 * SPI_connect() and SPI_finish(), as the rest of this.
 */
static void
owner_query(const PoserVersioned *versioned, const char *query, int nargs, Oid *argtypes, Datum *values,
			bool read_only)
{
	Oid save_userid;
	int save_sec_context;

	poser_become_owner(versioned->transactions, &save_userid, &save_sec_context);
	execute(query, nargs, argtypes, values, read_only);
	SetUserIdAndSecContext(save_userid, save_sec_context);
}

static Horizon
get_horizon(const PoserVersioned *versioned, bool read_only)
{
	Horizon result;
	bool isnull;

	owner_query(versioned,
				psprintf("SELECT pg_catalog.max(transaction_id), pg_catalog.max(change_id)\n"
						 "  FROM %s",
						 poser_relation_name(versioned->horizon)),
				0, NULL, NULL, read_only);
	result.transaction_id = result_int64(1, &isnull);
	if (isnull)
		result.transaction_id = 0;
	result.change_id = result_int64(2, &isnull);
	if (isnull)
		result.change_id = 0;
	return result;
}

/*
 * The last transaction issued by this time, or 0: in the order of ids, for
 * times of transactions side by side may be in another.
 */
static int64
transaction_at(const PoserVersioned *versioned, Datum at)
{
	Oid argtypes[] = {TIMESTAMPTZOID};
	bool isnull;
	int64 result;

	owner_query(versioned,
				psprintf("SELECT pg_catalog.max(id)\n"
						 "  FROM %s\n"
						 " WHERE issued_at OPERATOR(pg_catalog.<=) $1",
						 poser_relation_name(versioned->transactions)),
				lengthof(argtypes), argtypes, &at, true);
	result = result_int64(1, &isnull);
	return isnull ? 0 : result;
}

/*
 * As of a time
 */

/*
 * Return all rows of the table as they were at a time, as the result of a
 * set-returning function whose type is the table's.
 */
void
poser_history_as_of(FunctionCallInfo fcinfo, const PoserVersioned *versioned, TimestampTz at)
{
	Oid argtypes[] = {INT8OID};
	Datum value = TimestampTzGetDatum(at);
	TupleDesc desc;
	DestReceiver *dest;
	StringInfoData sql;
	int64 transaction_id;
	const char *separator = "";

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	desc = ((ReturnSetInfo *) fcinfo->resultinfo)->setDesc;
	SPI_connect();

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		const char *name = NULL;

		if (att->attisdropped)
			continue;
		for (int j = 0; j < versioned->natts && name == NULL; j++)
			if (versioned->source[j] == i + 1)
				name = psprintf("v.%s", version_column(versioned, j + 1));
		appendStringInfo(&sql, "%s%s::%s", separator, name != NULL ? name : "NULL",
						 format_type_extended(att->atttypid, att->atttypmod,
											  FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY));
		separator = ", ";
	}
	appendStringInfoString(&sql, "\n  FROM (");
	append_last_versions(&sql, versioned, "transaction_id OPERATOR(pg_catalog.<=) $1");
	appendStringInfoString(&sql, ") AS v\n WHERE v.operation_type OPERATOR(pg_catalog.<>) 2");
	if (is_restricted(versioned))
		append_restriction(&sql, versioned);

	/* everything is read with one snapshot, so that pruning cannot come in between */
	PushActiveSnapshot(GetActiveSnapshot());
	lock_history(versioned, 1);
	poser_lock_query(sql.data, CURSOR_OPT_PARALLEL_OK, lengthof(argtypes), argtypes);
	transaction_id = transaction_at(versioned, value);
	if (transaction_id < get_horizon(versioned, true).transaction_id)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("history as of %s has been pruned",
						DatumGetCString(DirectFunctionCall1(timestamptz_out, value)))));

	value = Int64GetDatum(transaction_id);
	dest = poser_result_receiver((ReturnSetInfo *) fcinfo->resultinfo);
	poser_execute_for(dest, sql.data, CURSOR_OPT_PARALLEL_OK, lengthof(argtypes), argtypes, &value, NULL, 0);
	dest->rDestroy(dest);
	PopActiveSnapshot();
	SPI_finish();
}

/*
 * Going back
 */

/* Rows that go back together: the one with the key, or those that refer to it. */
typedef struct Family
{
	const PoserVersioned *versioned;
	AttrNumber column; /* of versions, by which they belong to it */
	Oid argtypes[2];   /* the key, and a position */
	Datum values[2];
	char *members;	  /* query for the keys of all that ever belonged to it; $1 is the key */
	char *states;	  /* query for what they were; $2 is the change up to which */
	int64 incomplete; /* how many of them are not known */
	int64 gone;		  /* are there, and were not */
	int64 different;  /* were different */
	int64 missing;	  /* were there, and are not */
} Family;

/* Describe who belongs to it. */
static void
describe_family(Family *family, const PoserVersioned *versioned, Datum key, Oid keytype, const char *parent)
{
	AttrNumber column = lookup_column(versioned, parent, keytype);
	StringInfoData sql;

	memset(family, 0, sizeof(Family));
	family->versioned = versioned;
	family->column = column;
	family->argtypes[0] = get_atttype(versioned->versions, column);
	family->argtypes[1] = INT8OID;
	family->values[0] = key;

	initStringInfo(&sql);
	for (int i = 0; i < 2; i++)
	{
		appendStringInfo(&sql, i == 0 ? "SELECT " : " UNION SELECT ");
		append_keys(&sql, versioned, "");
		appendStringInfo(&sql, " FROM %s WHERE ",
						 poser_relation_name(i == 0 ? versioned->relid : versioned->versions));
		append_equality(&sql, version_column(versioned, column), "$1", family->argtypes[0]);
	}
	family->members = sql.data;
}

/*
 * Describe what its rows were, by their last versions up to a position: a
 * change_id, or a transaction_id.  A row for which there was none was not there
 * if the first one after it is an insert.
 */
static void
describe_states(Family *family, const char *position)
{
	const PoserVersioned *versioned = family->versioned;
	const char *versions = poser_relation_name(versioned->versions);
	const char *name = version_column(versioned, family->column);
	StringInfoData sql;
	StringInfoData same;
	StringInfoData belongs;

	initStringInfo(&belongs);
	append_equality(&belongs, psprintf("live.%s", name), "$1", family->argtypes[0]);
	initStringInfo(&same);
	append_same_key(&same, versioned, "v.", "member.");

	initStringInfo(&sql);
	appendStringInfo(&sql,
					 "SELECT COALESCE(was.operation_type OPERATOR(pg_catalog.<>) 2, false) AS existed,\n"
					 "       was.operation_type IS NULL\n"
					 "       AND COALESCE(next.operation_type OPERATOR(pg_catalog.<>) 0, true) AS incomplete,\n"
					 "       COALESCE(%s, false) AS belongs,\n"
					 "       live.%s IS NOT NULL AS is_live,\n"
					 "       ROW(",
					 belongs.data, version_column(versioned, versioned->keys[0]));
	append_values(&sql, versioned, "live.");
	appendStringInfoString(&sql, ")::pg_catalog.record OPERATOR(pg_catalog.*<>) ROW(");
	append_columns(&sql, versioned, "was.");
	appendStringInfoString(&sql, ")::pg_catalog.record AS differs");
	for (int i = 0; i < versioned->nkeys; i++)
		appendStringInfo(&sql, ",\n       member.%s AS key_%d",
						 version_column(versioned, versioned->keys[i]), versioned->keys[i]);
	for (int i = 0; i < versioned->natts; i++)
		if (versioned->source[i] != 0)
			appendStringInfo(&sql, ",\n       was.%s AS was_%d", version_column(versioned, i + 1), i + 1);
	appendStringInfo(&sql, "\n  FROM (%s) AS member\n       LEFT JOIN %s AS live ON ",
					 family->members, poser_relation_name(versioned->relid));
	append_same_key(&sql, versioned, "live.", "member.");
	appendStringInfo(&sql,
					 "\n       LEFT JOIN LATERAL (SELECT * FROM %s AS v\n"
					 "                           WHERE %s AND v.%s OPERATOR(pg_catalog.<=) $2\n"
					 "                           ORDER BY change_id DESC LIMIT 1) AS was ON true\n"
					 "       LEFT JOIN LATERAL (SELECT operation_type FROM %s AS v\n"
					 "                           WHERE %s AND v.%s OPERATOR(pg_catalog.>) $2\n"
					 "                           ORDER BY change_id LIMIT 1) AS next ON true\n"
					 /* who does not belong to it, and did not, is none of its business */
					 " WHERE was.operation_type IS NULL OR %s OR ",
					 versions, same.data, position, versions, same.data, position, belongs.data);
	append_equality(&sql, psprintf("was.%s", name), "$1", family->argtypes[0]);
	family->states = sql.data;
}

/* The last change of one of its rows by a transaction, or 0. */
static int64
last_change_by(const Family *family, int64 transaction_id)
{
	Datum values[] = {family->values[0], Int64GetDatum(transaction_id)};
	StringInfoData sql;
	bool isnull;
	int64 result;

	initStringInfo(&sql);
	appendStringInfo(&sql,
					 "SELECT pg_catalog.max(v.change_id)\n"
					 "  FROM (%s) AS member, %s AS v\n"
					 " WHERE v.transaction_id OPERATOR(pg_catalog.=) $2 AND ",
					 family->members, poser_relation_name(family->versioned->versions));
	append_same_key(&sql, family->versioned, "v.", "member.");
	execute(sql.data, 2, (Oid *) family->argtypes, values, false);
	result = result_int64(1, &isnull);
	return isnull ? 0 : result;
}

/* Look at what its rows were at a position. */
static void
count_states(Family *family, const char *position, int64 value)
{
	bool isnull;

	describe_states(family, position);
	family->values[1] = Int64GetDatum(value);
	execute(psprintf("SELECT pg_catalog.count(*) FILTER (WHERE incomplete),\n"
					 "       pg_catalog.count(*) FILTER (WHERE NOT existed AND belongs),\n"
					 "       pg_catalog.count(*) FILTER (WHERE existed AND is_live AND differs),\n"
					 "       pg_catalog.count(*) FILTER (WHERE existed AND NOT is_live)\n"
					 "  FROM (%s) AS state",
					 family->states),
			2, family->argtypes, family->values, false);
	family->incomplete = result_int64(1, &isnull);
	family->gone = result_int64(2, &isnull);
	family->different = result_int64(3, &isnull);
	family->missing = result_int64(4, &isnull);
	if (family->incomplete > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("history of relation \"%s\" is not complete",
						get_rel_name(family->versioned->relid)),
				 errdetail_plural("It does not say what %lld row was.",
								  "It does not say what %lld rows were.",
								  family->incomplete, (long long) family->incomplete)));
}

/* Append the condition that a row of the table has the key of a state. */
static void
append_state_key(StringInfo sql, const PoserVersioned *versioned)
{
	for (int i = 0; i < versioned->nkeys; i++)
	{
		AttrNumber column = versioned->keys[i];

		if (i > 0)
			appendStringInfoString(sql, " AND ");
		append_equality(sql, psprintf("live.%s", version_column(versioned, column)),
						psprintf("state.key_%d", column), get_atttype(versioned->versions, column));
	}
}

/*
 * Can a recorded column of the table be written by an INSERT or UPDATE?  The
 * key is not updated.
 */
static bool
is_writable(const PoserVersioned *versioned, int column, bool update)
{
	AttrNumber source = versioned->source[column - 1];

	if (source == 0 || get_attgenerated(versioned->relid, source) != '\0' ||
		(update && poser_is_always_identity(versioned->relid, source)))
		return false;
	for (int i = 0; update && i < versioned->nkeys; i++)
		if (versioned->keys[i] == column)
			return false;
	return true;
}

/* Delete the rows that are there and were not. */
static uint64
delete_gone(Family *family)
{
	StringInfoData sql;

	if (family->gone == 0)
		return 0;
	initStringInfo(&sql);
	appendStringInfo(&sql, "DELETE FROM %s AS live\n USING (%s) AS state\n WHERE NOT state.existed AND state.belongs AND ",
					 poser_relation_name(family->versioned->relid), family->states);
	append_state_key(&sql, family->versioned);
	return execute(sql.data, 2, family->argtypes, family->values, false);
}

/* Update the rows that were different, and insert those that are not there. */
static uint64
restore_rows(Family *family)
{
	const PoserVersioned *versioned = family->versioned;
	const char *table = poser_relation_name(versioned->relid);
	const char *separator = "";
	uint64 result = 0;
	StringInfoData sql;
	StringInfoData values;

	if (family->different > 0)
	{
		initStringInfo(&sql);
		appendStringInfo(&sql, "UPDATE %s AS live\n   SET ", table);
		for (int i = 1; i <= versioned->natts; i++)
			if (is_writable(versioned, i, true))
			{
				appendStringInfo(&sql, "%s%s = state.was_%d", separator, version_column(versioned, i), i);
				separator = ", ";
			}
		appendStringInfo(&sql, "\n  FROM (%s) AS state\n WHERE state.existed AND state.differs AND ",
						 family->states);
		append_state_key(&sql, versioned);
		result += execute(sql.data, 2, family->argtypes, family->values, false);
	}
	if (family->missing > 0)
	{
		separator = "";
		initStringInfo(&sql);
		initStringInfo(&values);
		appendStringInfo(&sql, "INSERT INTO %s (", table);
		for (int i = 1; i <= versioned->natts; i++)
			if (is_writable(versioned, i, false))
			{
				appendStringInfo(&sql, "%s%s", separator, version_column(versioned, i));
				appendStringInfo(&values, "%sstate.was_%d", separator, i);
				separator = ", ";
			}
		appendStringInfo(&sql, ") OVERRIDING SYSTEM VALUE\nSELECT %s\n  FROM (%s) AS state\n WHERE state.existed AND NOT state.is_live",
						 values.data, family->states);
		result += execute(sql.data, 2, family->argtypes, family->values, false);
	}
	return result;
}

/* Raise an error if the caller may not see all rows that he is to bring back. */
static void
check_unrestricted(const PoserVersioned *versioned)
{
	Oid relids[] = {versioned->relid, versioned->versions};

	for (int i = 0; i < lengthof(relids); i++)
		if (check_enable_rls(relids[i], InvalidOid, true) == RLS_ENABLED)
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("cannot go back in the history of relation \"%s\" under row-level security",
							get_rel_name(versioned->relid)),
					 errdetail("The policies of relation \"%s\" may hide a part of it.",
							   get_rel_name(relids[i]))));
}

/*
 * Make the row that has the key what it was after a transaction; with
 * "children", also the rows of that table that refer to it now or did then, by
 * the column "parent".  With the caller's privileges, as a writer like any
 * other.  Returns how many rows have been changed.
 */
int64
poser_history_revert(const PoserVersioned *versioned, Datum key, Oid keytype, int64 transaction_id,
					 const PoserVersioned *children, const char *parent)
{
	Family self;
	Family others;
	Oid argtypes[] = {INT8OID};
	Datum values[] = {Int64GetDatum(transaction_id)};
	StringInfoData sql;
	Horizon horizon;
	const char *position = "change_id";
	int64 value;
	uint64 result = 0;

	check_unrestricted(versioned);
	if (children != NULL)
		check_unrestricted(children);

	/* nobody must prune between two looks at the history, of which each sees the latest */
	LockRelationOid(versioned->horizon, ShareLock);
	SPI_connect();
	/* this snapshot is only for the locks: each query takes its own, or that of the transaction */
	PushActiveSnapshot(GetTransactionSnapshot());
	lock_history(versioned, 1);
	poser_lock_to_read(&versioned->relid, 1);
	if (children != NULL)
	{
		lock_history(children, 1);
		poser_lock_to_read(&children->relid, 1);
	}
	PopActiveSnapshot();
	horizon = get_horizon(versioned, false);
	owner_query(versioned,
				psprintf("SELECT FROM %s WHERE id OPERATOR(pg_catalog.=) $1",
						 poser_relation_name(versioned->transactions)),
				lengthof(argtypes), argtypes, values, false);
	if (SPI_processed == 0 && (transaction_id > horizon.transaction_id || transaction_id <= 0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("transaction %lld is not in the history", (long long) transaction_id)));

	describe_family(&self, versioned, key, keytype, NULL);
	if (children != NULL)
		describe_family(&others, children, key, keytype, parent);

	/* others must not bring the same rows back meanwhile */
	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT FROM %s WHERE ", poser_relation_name(versioned->relid));
	append_equality(&sql, version_column(versioned, versioned->keys[0]), "$1", self.argtypes[0]);
	appendStringInfoString(&sql, " FOR NO KEY UPDATE");
	execute(sql.data, 1, self.argtypes, self.values, false);

	if (execute(self.members, 1, self.argtypes, self.values, false) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("there is no such row in the history of relation \"%s\"",
						get_rel_name(versioned->relid))));

	value = Max(transaction_id, last_change_by(&self, transaction_id));
	if (children != NULL)
		value = Max(value, last_change_by(&others, transaction_id));
	if (transaction_id == horizon.transaction_id)
	{
		/* what all transactions up to this one have made was kept */
		position = "transaction_id";
		value = transaction_id;
	}
	else if (transaction_id < horizon.transaction_id || value < horizon.change_id)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("history as of transaction %lld has been pruned", (long long) transaction_id)));

	count_states(&self, position, value);
	if (children != NULL)
	{
		count_states(&others, position, value);
		result += delete_gone(&others);
	}
	result += restore_rows(&self);
	if (children != NULL)
		result += restore_rows(&others);
	result += delete_gone(&self);
	SPI_finish();
	return (int64) result;
}

/*
 * Pruning
 */

/*
 * Remove versions of one table that have been followed by another one, both of
 * transactions up to this one, at most "limit" of them.  What was the state
 * after that transaction, and what came later, stays.  Raises the horizon.
 */
static int64
prune_versions(const PoserVersioned *versioned, int64 transaction_id, int64 limit, Horizon *horizon)
{
	Oid argtypes[] = {INT8OID, INT8OID};
	Datum values[] = {Int64GetDatum(transaction_id), Int64GetDatum(limit)};
	Oid array_type[] = {INT8ARRAYOID};
	char *delete_query = psprintf("DELETE FROM %s WHERE change_id OPERATOR(pg_catalog.=) ANY ($1)",
								  poser_relation_name(versioned->versions));
	StringInfoData sql;
	Portal portal;
	int64 result = 0;

	initStringInfo(&sql);
	appendStringInfoString(&sql,
						   "SELECT change_id, next\n"
						   "  FROM (SELECT change_id, pg_catalog.lead(change_id) OVER (PARTITION BY ");
	append_keys(&sql, versioned, "");
	appendStringInfo(&sql,
					 " ORDER BY change_id) AS next\n"
					 "          FROM %s\n"
					 "         WHERE transaction_id OPERATOR(pg_catalog.<=) $1) AS version\n"
					 " WHERE next IS NOT NULL\n"
					 " LIMIT $2",
					 poser_relation_name(versioned->versions));
	portal = poser_open_cursor(sql.data, lengthof(argtypes), argtypes, values);
	for (;;)
	{
		Datum ids[BATCH];
		Datum array;
		SPITupleTable *batch;

		SPI_cursor_fetch(portal, true, BATCH);
		batch = SPI_tuptable;
		if (SPI_processed == 0)
			break;
		CHECK_FOR_INTERRUPTS();
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			bool isnull;

			ids[i] = SPI_getbinval(batch->vals[i], batch->tupdesc, 1, &isnull);
			horizon->change_id = Max(horizon->change_id,
									 DatumGetInt64(SPI_getbinval(batch->vals[i], batch->tupdesc, 2, &isnull)));
		}
		array = PointerGetDatum(construct_array(ids, SPI_processed, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
		result += execute(delete_query, 1, array_type, &array, false);
		SPI_freetuptable(batch);
		pfree(DatumGetPointer(array));
	}
	SPI_cursor_close(portal);
	return result;
}

/* Append the condition that a table has no version of transaction "t". */
static void
append_no_version(StringInfo sql, Oid versions)
{
	appendStringInfo(sql,
					 "\n   AND NOT EXISTS (SELECT FROM %s AS v\n"
					 "                    WHERE v.transaction_id OPERATOR(pg_catalog.=) t.id)",
					 poser_relation_name(versions));
}

/*
 * Collect the transactions, up to this one, of which other tables have versions.
 * Each table with the columns of a table of versions counts, whoever owns it: a
 * trigger may record to it now, or may have done so before it was renamed.  Tables
 * are scanned without a query, because a query could run their owners' code.
 *
 * Returns false if one of the tables cannot be locked at once.  Pruning does not
 * wait for it, because its owner could then block pruning.
 */
static bool
collect_transactions(Tuplestorestate *used, TupleDesc desc, const PoserVersioned *tables, int ntables,
					 int64 transaction_id)
{
	SPITupleTable *found;
	bool result = true;

	execute("SELECT c.oid\n"
			"  FROM pg_catalog.pg_class AS c\n"
			"       JOIN pg_catalog.pg_attribute AS a ON a.attrelid OPERATOR(pg_catalog.=) c.oid\n"
			" WHERE c.relkind OPERATOR(pg_catalog.=) 'r' AND c.relpersistence OPERATOR(pg_catalog.<>) 't'\n"
			"   AND (a.attname OPERATOR(pg_catalog.=) ANY ('{transaction_id,change_id}'::pg_catalog.name[])\n"
			"        AND a.atttypid OPERATOR(pg_catalog.=) 'pg_catalog.int8'::pg_catalog.regtype\n"
			"        OR a.attname OPERATOR(pg_catalog.=) 'operation_type'\n"
			"        AND a.atttypid OPERATOR(pg_catalog.=) 'pg_catalog.int2'::pg_catalog.regtype)\n"
			" GROUP BY c.oid\n"
			"HAVING pg_catalog.count(*) OPERATOR(pg_catalog.=) 3",
			0, NULL, NULL, true);
	found = SPI_tuptable;
	for (uint64 i = 0; result && i < found->numvals; i++)
	{
		bool isnull;
		Oid relid = DatumGetObjectId(SPI_getbinval(found->vals[i], found->tupdesc, 1, &isnull));
		bool known = false;
		AttrNumber column;
		Relation rel;
		Snapshot snapshot;
		TableScanDesc scan;
		TupleTableSlot *slot;
		int64 last = 0;

		for (int j = 0; j < ntables; j++)
			known = known || tables[j].versions == relid;
		if (known)
			continue;
		if (!ConditionalLockRelationOid(relid, AccessShareLock))
		{
			result = false;
			continue;
		}
		rel = try_table_open(relid, NoLock);
		if (rel == NULL)
			continue;
		column = get_attnum(relid, "transaction_id");
		if (column > 0 && get_atttype(relid, column) == INT8OID)
		{
			snapshot = RegisterSnapshot(GetLatestSnapshot());
			slot = table_slot_create(rel, NULL);
			scan = table_beginscan(rel, snapshot, 0, NULL, SO_NONE);
			while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
			{
				Datum value = slot_getattr(slot, column, &isnull);

				CHECK_FOR_INTERRUPTS();
				if (isnull || DatumGetInt64(value) > transaction_id || DatumGetInt64(value) == last)
					continue;
				last = DatumGetInt64(value);
				tuplestore_putvalues(used, desc, &value, &isnull);
			}
			table_endscan(scan);
			ExecDropSingleTupleTableSlot(slot);
			UnregisterSnapshot(snapshot);
		}
		table_close(rel, AccessShareLock);
	}
	SPI_freetuptable(found);
	return result;
}

/* Remove the transactions before this one of which no table has a version. */
static void
prune_transactions(const PoserVersioned *tables, int ntables, int64 transaction_id)
{
	Oid argtypes[] = {INT8OID};
	Datum values[] = {Int64GetDatum(transaction_id)};
	EphemeralNamedRelationData used = {0};
	TupleDesc desc = CreateTemplateTupleDesc(1);
	StringInfoData sql;

	TupleDescInitEntry(desc, 1, "id", INT8OID, -1, 0);
	TupleDescFinalize(desc);
	used.reldata = tuplestore_begin_heap(false, false, work_mem);
	if (collect_transactions(used.reldata, desc, tables, ntables, transaction_id))
	{
		used.md.name = "poser_used";
		used.md.reliddesc = InvalidOid;
		used.md.tupdesc = desc;
		used.md.enrtype = ENR_NAMED_TUPLESTORE;
		used.md.enrtuples = tuplestore_tuple_count(used.reldata);
		if (SPI_register_relation(&used) != SPI_OK_REL_REGISTER)
			elog(ERROR, "could not register the transactions that are used");
		initStringInfo(&sql);
		appendStringInfo(&sql,
						 "DELETE FROM %s AS t\n"
						 " WHERE t.id OPERATOR(pg_catalog.<) $1\n"
						 "   AND NOT EXISTS (SELECT FROM poser_used AS used WHERE used.id OPERATOR(pg_catalog.=) t.id)",
						 poser_relation_name(tables[0].transactions));
		for (int i = 0; i < ntables; i++)
			append_no_version(&sql, tables[i].versions);
		if (SPI_execute_with_args(sql.data, 1, argtypes, values, NULL, false, 0) != SPI_OK_DELETE)
			elog(ERROR, "could not remove transactions");
		SPI_unregister_relation(used.md.name);
	}
	tuplestore_end(used.reldata);
}

/*
 * Remove old versions of all these tables, and the transactions that have none
 * any more.  "before" is the time before which a change is old.  The current
 * user must have the owner's rights on all tables of the history.
 */
int64
poser_history_prune(const PoserVersioned *tables, int ntables, TimestampTz before, int64 limit)
{
	const PoserVersioned *first = &tables[0];
	Oid limit_types[] = {TIMESTAMPTZOID, INT8OID};
	Datum limits[2];
	Oid position_types[] = {INT8OID, INT8OID};
	Datum position[2];
	const char *transactions = poser_relation_name(first->transactions);
	const char *horizons = poser_relation_name(first->horizon);
	Oid save_userid;
	int save_sec_context;
	Horizon horizon;
	int64 transaction_id;
	int64 result = 0;
	bool isnull;

	poser_check_owner(first->transactions);
	poser_check_owner(first->horizon);
	for (int i = 0; i < ntables; i++)
		poser_check_owner(tables[i].versions);

	/* one at a time */
	LockRelationOid(first->horizon, ShareUpdateExclusiveLock);
	poser_become_owner(first->transactions, &save_userid, &save_sec_context);
	PushActiveSnapshot(GetTransactionSnapshot());
	lock_history(tables, ntables);
	SPI_connect();

	/* should the row of this transaction go, then another is written when needed */
	poser_version_forget();

	/* the last transaction before the first that is not old, or that a consumer needs */
	limits[0] = TimestampTzGetDatum(before);
	limits[1] = Int64GetDatum(poser_first_needed_hook != NULL ? poser_first_needed_hook(tables) : PG_INT64_MAX);
	execute(psprintf("SELECT pg_catalog.max(id)\n"
					 "  FROM %s\n"
					 " WHERE id OPERATOR(pg_catalog.<)\n"
					 "       COALESCE((SELECT pg_catalog.min(id) FROM %s\n"
					 "                  WHERE issued_at OPERATOR(pg_catalog.>=) $1), 9223372036854775807)\n"
					 "   AND id OPERATOR(pg_catalog.<) $2",
					 transactions, transactions),
			2, limit_types, limits, true);
	transaction_id = result_int64(1, &isnull);
	if (!isnull)
	{
		horizon = get_horizon(first, true);
		horizon.transaction_id = Max(horizon.transaction_id, transaction_id);
		for (int i = 0; i < ntables && result < limit; i++)
			result += prune_versions(&tables[i], transaction_id, limit - result, &horizon);
		position[0] = Int64GetDatum(horizon.transaction_id);
		position[1] = Int64GetDatum(horizon.change_id);
		if (result > 0)
		{
			execute(psprintf("DELETE FROM %s", horizons), 0, NULL, NULL, false);
			execute(psprintf("INSERT INTO %s (transaction_id, change_id) VALUES ($1, $2)", horizons),
					2, position_types, position, false);
		}
		/* the last one stays, as the place in time of what is left */
		if (result < limit)
			prune_transactions(tables, ntables, transaction_id);
	}

	SPI_finish();
	PopActiveSnapshot();
	SetUserIdAndSecContext(save_userid, save_sec_context);
	return result;
}

/*
 * Lock tables against writers, all of them before anything is done.  Writers
 * lock the tables in any order, so this never waits for one table while it holds
 * the lock on another.  Otherwise it could deadlock with a writer.
 */
static void
lock_against_writers(const PoserVersioned *tables, int ntables)
{
	int first = 0;
	int locked = 0;

	while (locked < ntables)
	{
		Oid relid = tables[(first + locked) % ntables].relid;

		if (locked == 0)
			LockRelationOid(relid, ShareRowExclusiveLock);
		else if (!ConditionalLockRelationOid(relid, ShareRowExclusiveLock))
		{
			/* release the others, and begin again by waiting for this table */
			while (locked > 0)
				UnlockRelationOid(tables[(first + --locked) % ntables].relid, ShareRowExclusiveLock);
			for (first = 0; tables[first].relid != relid;)
				first++;
			continue;
		}
		locked++;
	}
}

/*
 * Correct operations that cannot follow the one before.  If a row was inserted
 * past the triggers and then updated, its history has an update of a row that was
 * not there: it becomes an insert.  If a row was deleted past the triggers and then
 * inserted again, its history has an insert of a row that was there: it becomes an
 * update.  If a row was inserted past the triggers and then deleted, its delete
 * stays as it is, because there is no version that could become the insert.
 * Returns how many versions were changed.
 */
static int64
mend_operations(const PoserVersioned *versioned, Horizon horizon)
{
	Oid argtypes[] = {INT8OID};
	Datum values[] = {Int64GetDatum(horizon.change_id)};
	const char *versions = poser_relation_name(versioned->versions);
	StringInfoData sql;
	SPIPlanPtr plan;

	initStringInfo(&sql);
	appendStringInfo(&sql,
					 "UPDATE %s AS v\n"
					 "   SET operation_type = CASE WHEN wrong.operation_type OPERATOR(pg_catalog.=) 0 THEN 1 ELSE 0 END\n"
					 "  FROM (SELECT version.change_id, version.operation_type,\n"
					 "               pg_catalog.lag(version.operation_type) OVER (PARTITION BY ",
					 versions);
	append_keys(&sql, versioned, "version.");
	appendStringInfo(&sql,
					 " ORDER BY version.change_id) AS before\n"
					 "          FROM %s AS version) AS wrong\n"
					 " WHERE v.change_id OPERATOR(pg_catalog.=) wrong.change_id\n"
					 "   AND (wrong.operation_type OPERATOR(pg_catalog.=) 0 AND wrong.before OPERATOR(pg_catalog.<>) 2\n"
					 "        OR wrong.operation_type OPERATOR(pg_catalog.=) 1\n"
					 "           AND (wrong.before OPERATOR(pg_catalog.=) 2\n"
					 "                OR wrong.before IS NULL AND wrong.change_id OPERATOR(pg_catalog.>) $1))",
					 versions);
	plan = SPI_prepare(sql.data, lengthof(argtypes), argtypes);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	if (SPI_execute_snapshot(plan, values, NULL, GetActiveSnapshot(), InvalidSnapshot, false, true, 0) < 0)
		elog(ERROR, "SPI_execute_snapshot failed: %s", SPI_result_code_string(SPI_result));
	return (int64) SPI_processed;
}

/* Write a version for each row that differs from its last version, or is gone without a delete; returns how many. */
static int64
record_differences(const PoserVersioned *versioned, const char *comment)
{
	PoserVersionWriter *writer = poser_version_begin(versioned, comment);
	Relation versions = table_open(versioned->versions, RowExclusiveLock);
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(versions), &TTSOpsVirtual);
	StringInfoData sql;
	Portal portal;
	Oid save_userid;
	int save_sec_context;
	int64 result = 0;

	initStringInfo(&sql);
	poser_history_append_comparison(&sql, versioned);
	poser_become_owner(versioned->relid, &save_userid, &save_sec_context);
	poser_check_readable(versioned->relid, versioned->versions);
	portal = poser_open_cursor(sql.data, 0, NULL, NULL);
	for (;;)
	{
		SPI_cursor_fetch(portal, true, BATCH);
		if (SPI_processed == 0)
			break;
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			TupleDesc desc = SPI_tuptable->tupdesc;
			HeapTuple tuple = SPI_tuptable->vals[i];
			bool isnull;
			PoserOperation operation = DatumGetInt16(SPI_getbinval(tuple, desc, 1, &isnull));
			int column = 3;

			CHECK_FOR_INTERRUPTS();
			ExecClearTuple(slot);
			for (int j = 0; j < versioned->natts; j++)
			{
				slot->tts_isnull[j] = true;
				if (versioned->source[j] != 0)
					slot->tts_values[j] = SPI_getbinval(tuple, desc, column++, &slot->tts_isnull[j]);
			}
			ExecStoreVirtualTuple(slot);
			poser_version_write(writer, operation, slot, true);
			result++;
		}
		SPI_freetuptable(SPI_tuptable);
	}
	SPI_cursor_close(portal);
	poser_version_end(writer);
	SetUserIdAndSecContext(save_userid, save_sec_context);
	ExecDropSingleTupleTableSlot(slot);
	table_close(versions, NoLock);
	return result;
}

/*
 * Record the changes of these tables that have bypassed the triggers, or were made
 * before there were any.  If such a row was changed again later, correct its
 * versions, see mend_operations().  Writers wait.  The current user must have the owner's rights
 * on the tables.  Returns how many versions were written or corrected.
 */
int64
poser_history_record(const PoserVersioned *tables, int ntables, const char *comment)
{
	Snapshot latest;
	Horizon horizon;
	int64 result = 0;

	poser_check_owner(tables[0].transactions);
	for (int i = 0; i < ntables; i++)
	{
		poser_check_owner(tables[i].relid);
		poser_check_owner(tables[i].versions);
	}
	/* read below, so it must not be rewritten after the snapshot */
	LockRelationOid(tables[0].horizon, AccessShareLock);
	lock_against_writers(tables, ntables);
	/* tables that inherit from these are read, too */
	for (int i = 0; i < ntables; i++)
		list_free(poser_lock_tree(tables[i].relid));

	latest = RegisterSnapshot(GetLatestSnapshot());
	PushActiveSnapshot(latest);
	SPI_connect();
	horizon = get_horizon(&tables[0], true);
	for (int i = 0; i < ntables; i++)
	{
		Oid save_userid;
		int save_sec_context;

		poser_become_owner(tables[i].versions, &save_userid, &save_sec_context);
		result += mend_operations(&tables[i], horizon);
		SetUserIdAndSecContext(save_userid, save_sec_context);
		result += record_differences(&tables[i], comment);
	}
	SPI_finish();
	PopActiveSnapshot();
	UnregisterSnapshot(latest);
	return result;
}

/*
 * poser_prune_versions(older_than interval, max_versions bigint) returns bigint
 */
Datum
poser_prune_versions(PG_FUNCTION_ARGS)
{
	PoserVersioned tables[POSER_VERSIONED_TABLES];
	Interval zero = {0};
	int64 limit = PG_INT64_MAX;
	Datum before;

	PreventCommandIfReadOnly("poser_prune_versions()");
	if (PG_ARGISNULL(0) ||
		DatumGetBool(DirectFunctionCall2(interval_lt, PG_GETARG_DATUM(0), IntervalPGetDatum(&zero))))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("older_than must be an interval that is not negative")));
	if (!PG_ARGISNULL(1))
		limit = PG_GETARG_INT64(1);
	if (limit < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_versions must be at least 1")));

	before = DirectFunctionCall2(timestamptz_mi_interval,
								 TimestampTzGetDatum(GetCurrentTimestamp()), PG_GETARG_DATUM(0));
	poser_versioned_describe_all(tables, get_func_namespace(fcinfo->flinfo->fn_oid));
	PG_RETURN_INT64(poser_history_prune(tables, POSER_VERSIONED_TABLES,
										DatumGetTimestampTz(before), limit));
}

/*
 * poser_record_versions() returns bigint
 */
Datum
poser_record_versions(PG_FUNCTION_ARGS)
{
	PoserVersioned tables[POSER_VERSIONED_TABLES];
	const char *comment = NULL;

	PreventCommandIfReadOnly("poser_record_versions()");
	if (creating_extension)
		comment = "history begins with version 1.2 of extension \"poser\"";
	else if (poser_comment == NULL || poser_comment[0] == '\0')
		comment = "recorded by poser_record_versions()";
	poser_versioned_describe_all(tables, get_func_namespace(fcinfo->flinfo->fn_oid));
	PG_RETURN_INT64(poser_history_record(tables, POSER_VERSIONED_TABLES, comment));
}
