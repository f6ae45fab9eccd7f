/*
 * change_read.c
 *	  Reading the changes of a window, in the order of change_id.
 *
 * Each version of a row is a change.  A query for each table reads its versions after the
 * last confirmed change, in the order of change_id.  It runs as the owner of the versions,
 * so no query has the versions of two owners.  The tables of the extension have one owner,
 * and are read by one query.  The results are merged here.  Changes that are not in the
 * window are left out, and those that the consumer's own handler has made, see
 * change_transaction.c.  The others go into a tuplestore, with the row that was changed as
 * jsonb, see base/payload.c.
 *
 * If only one query has changes, its rows go straight from the executor into the
 * tuplestore.  Otherwise each query is run for a small number of rows, which are kept until
 * their turn in the merge has come.  Then it is run for the rows that follow them, for
 * twice as many each time.  The look at the first change in the index tells when a table
 * comes first.  So a call that wants few changes does not read all tables.
 *
 * The invariant: changes come in the order of change_id, whatever the tables.  Memory is
 * bounded: all rows that are kept have room in work_mem, except that there is at least one
 * row of each table whose turn has come.
 *
 * Comments show SQL statements without the schemas of relations and functions, and with
 * plain operators instead of OPERATOR(pg_catalog...).  A part in brackets is described
 * only.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "lib/binaryheap.h"
#include "miscadmin.h"
#include "tcop/dest.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"
#include "utils/typcache.h"

#include "datasync/datasync_internal.h"

/* How many rows a query is run for at first, and at most. */
#define FIRST_ROWS 8
#define MAX_ROWS 512

/* The columns of the query for changes. */
enum
{
	ROW_CHANGE_ID,
	ROW_TRANSACTION_ID,
	ROW_PAYLOAD_TYPE,
	ROW_PAYLOAD_KEY,
	ROW_OPERATION,
	ROW_PAYLOAD,
	ROW_OLD
};

/* A query for changes. */
typedef struct ChangeSource
{
	List *tables;	   /* of PoserFeedTable: one, or those of the extension */
	char *sql;		   /* NULL until it is needed first */
	Oid userid;		   /* as which the query runs, and its values are converted */
	int sec_context;   /* with this security context */
	Datum schema;	   /* of the tables, a name */
	int64 next_change; /* no row that is still to come has a lesser change_id */

	/* the rows that are kept */
	MemoryContext context;
	TupleTableSlot *slot;
	bool is_loaded; /* the slot has the row that comes next */
	MinimalTuple *rows;
	int nrows;
	int next;		/* the row after the loaded one */
	int wanted;		/* for how many rows the query was run */
	bool is_full;	/* it was stopped before, because of their size */
	bool exhausted; /* there are no rows after those that are kept */
} ChangeSource;

/* Reads changes of a consumer into a tuplestore. */
typedef struct ChangeReader
{
	DestReceiver pub; /* receives the rows of "source" */
	ChangeSource *source;
	PoserConsumer *consumer;
	Oid owner;		 /* the owner of the extension, as which the caller acts */
	int sec_context; /* its security context */
	bool with_payload;
	bool with_old;
	Size budget; /* how many bytes each source may keep */

	Tuplestorestate *store;
	TupleDesc desc;	   /* of poser_change */
	AttrNumber schema; /* columns of poser_change that 1.6 has added; 0 before */
	AttrNumber operation;
	AttrNumber changed;
	AttrNumber old;
	Datum operations[3]; /* the texts of the column operation */
	int64 limit;		 /* put at most so many into the store */
	Datum *values;		 /* of one change */
	bool *nulls;
	PoserChangeTransactions *transactions;
	PoserPayload *payloads; /* in "context" */
	MemoryContext context;
	MemoryContext row; /* reset after each change */
	int64 first;	   /* the first and the last change_id in the store */
	int64 last;
	int64 n;
} ChangeReader;

/*
 * The query for changes
 */

/*
 * Append a list of the columns that are recorded, of the version "alias", with the names and
 * in the order that they have in the table: v.uuid AS uuid, v.description AS description.
 */
static void
append_columns(StringInfo sql, const PoserVersioned *versioned, const char *alias)
{
	AttrNumber *columns = palloc0((MaxHeapAttributeNumber + 1) * sizeof(AttrNumber));
	const char *separator = "";

	for (int i = 0; i < versioned->natts; i++)
		columns[versioned->source[i]] = i + 1;
	for (int i = 1; i <= MaxHeapAttributeNumber; i++)
		if (columns[i] != 0)
		{
			appendStringInfo(sql, "%s%s.%s AS %s", separator, alias,
							 quote_identifier(get_attname(versioned->versions, columns[i], false)),
							 quote_identifier(get_attname(versioned->relid, i, false)));
			separator = ", ";
		}
	pfree(columns);
}

/*
 * Append an expression for the row before the version "v": the version before of its key,
 * unless that is a deletion.  The index on the key and change_id finds it.
 *
 *		(SELECT (old.*)::record
 *		   FROM (SELECT p.* FROM poser_widget_version AS p
 *				  WHERE v.operation_type <> 0 AND p.uuid = v.uuid AND p.change_id < v.change_id
 *				  ORDER BY p.change_id DESC LIMIT 1) AS p,
 *				LATERAL (SELECT p.uuid AS uuid, p.description AS description, p.active AS active) AS old
 *		  WHERE p.operation_type <> 2)
 */
static void
append_old(StringInfo sql, const PoserVersioned *versioned)
{
	const char *operation = quote_identifier(get_attname(versioned->versions, versioned->operation_type, false));
	const char *change_id = quote_identifier(get_attname(versioned->versions, versioned->change_id, false));

	appendStringInfo(sql,
					 "(SELECT (old.*)::pg_catalog.record\n"
					 "           FROM (SELECT p.* FROM %s AS p\n"
					 "                  WHERE v.%s OPERATOR(pg_catalog.<>) 0::pg_catalog.int2",
					 poser_relation_name(versioned->versions), operation);
	for (int i = 0; i < versioned->nkeys; i++)
	{
		const char *key = quote_identifier(get_attname(versioned->versions, versioned->keys[i], false));

		appendStringInfo(sql, "\n                    AND p.%s %s v.%s", key,
						 poser_equality(get_atttype(versioned->versions, versioned->keys[i])), key);
	}
	appendStringInfo(sql,
					 "\n                    AND p.%s OPERATOR(pg_catalog.<) v.%s\n"
					 "                  ORDER BY p.%s DESC LIMIT 1) AS p,\n"
					 "                LATERAL (SELECT ",
					 change_id, change_id, change_id);
	append_columns(sql, versioned, "p");
	appendStringInfo(sql,
					 ") AS old\n"
					 "          WHERE p.%s OPERATOR(pg_catalog.<>) 2::pg_catalog.int2)",
					 operation);
}

/*
 * Append a query for the changes of a table after $1, up to $2, in the order of change_id.
 * The payload is the changed row as a record or, without "with_payload", null.
 *
 * The owner of the versions runs the query, so a key must be cast to text by the server's
 * own code.  If the cast may be a user's, the key is written by its type's output function
 * instead.  For poser_widget:
 *
 *		(SELECT v.change_id, v.transaction_id, 'poser_widget'::name AS payload_type,
 *				v.uuid::text AS payload_key,
 *				v.operation_type AS operation,
 *				(payload.*)::record AS payload,
 *				[append_old(), or NULL::record] AS old
 *		   FROM poser_widget_version AS v,
 *				LATERAL (SELECT v.uuid AS uuid, v.description AS description, v.active AS active) AS payload
 *		  WHERE v.change_id > $1 AND v.change_id <= $2
 *		  ORDER BY v.change_id)
 *
 * Columns of the version table that the table does not have are not in the payload.
 * The key of a table with several key columns is jsonb_build_array(v.a, v.b)::text, and that
 * of a table without one is null.
 */
static void
append_changes(StringInfo sql, const PoserVersioned *versioned, bool with_payload, bool with_old)
{
	const char *change_id = quote_identifier(get_attname(versioned->versions, versioned->change_id, false));

	appendStringInfo(sql,
					 "(SELECT v.%s AS change_id, v.%s AS transaction_id, %s::pg_catalog.name AS payload_type,\n"
					 "        ",
					 change_id,
					 quote_identifier(get_attname(versioned->versions, versioned->transaction_id, false)),
					 quote_literal_cstr(get_rel_name(versioned->relid)));

	/* the key */
	if (versioned->nkeys == 0)
		appendStringInfoString(sql, "NULL");
	if (versioned->nkeys > 1)
		appendStringInfoString(sql, "pg_catalog.jsonb_build_array(");
	for (int i = 0; i < versioned->nkeys; i++)
	{
		bool castable = poser_has_system_casts(get_atttype(versioned->versions, versioned->keys[i]));

		appendStringInfo(sql, castable ? "%sv.%s" : "%spg_catalog.format('%%s', v.%s)",
						 i == 0 ? "" : ", ",
						 quote_identifier(get_attname(versioned->versions, versioned->keys[i], false)));
	}
	appendStringInfo(sql,
					 "%s::pg_catalog.text AS payload_key,\n"
					 "        v.%s AS operation,\n"
					 "        %s AS payload,\n"
					 "        ",
					 versioned->nkeys > 1 ? ")" : "",
					 quote_identifier(get_attname(versioned->versions, versioned->operation_type, false)),
					 with_payload ? "(payload.*)::pg_catalog.record" : "NULL::pg_catalog.record");
	if (with_payload && with_old && versioned->nkeys > 0)
		append_old(sql, versioned);
	else
		appendStringInfoString(sql, "NULL::pg_catalog.record");
	appendStringInfo(sql,
					 " AS old\n"
					 "   FROM %s AS v,\n"
					 "        LATERAL (SELECT ",
					 poser_relation_name(versioned->versions));
	append_columns(sql, versioned, "v");
	appendStringInfo(sql,
					 ") AS payload\n"
					 "  WHERE v.%s OPERATOR(pg_catalog.>) $1 AND v.%s OPERATOR(pg_catalog.<=) $2\n"
					 "  ORDER BY v.%s)",
					 change_id, change_id, change_id);
}

/*
 * Make the query of a source, whose tables are locked.
 *
 *		SELECT v.change_id, v.transaction_id, v.payload_type, v.payload_key, v.operation, v.payload, v.old
 *		  FROM ([append_changes() for each table, with UNION ALL]) AS v
 *		 ORDER BY v.change_id
 */
static void
open_source(ChangeReader *reader, ChangeSource *source)
{
	const PoserFeedTable *table = linitial(source->tables);
	PoserVersioned versioned;
	StringInfoData sql;
	NameData schema;
	ListCell *lc;

	/* as whom the query runs */
	source->userid = reader->owner;
	source->sec_context = reader->sec_context;
	if (OidIsValid(table->tracked.binding))
	{
		source->userid = poser_owner_of(table->tracked.versions);
		source->sec_context |= SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION | SECURITY_NOFORCE_RLS;
	}

	/* the query */
	initStringInfo(&sql);
	appendStringInfoString(&sql,
						   "SELECT v.change_id, v.transaction_id, v.payload_type, v.payload_key, v.operation, v.payload, v.old\n"
						   "  FROM (");
	foreach(lc, source->tables)
	{
		poser_feed_describe(&versioned, reader->consumer, lfirst(lc));
		if (lc != list_head(source->tables))
			appendStringInfoString(&sql, "\n UNION ALL\n ");
		append_changes(&sql, &versioned, reader->with_payload, reader->with_old);
	}
	appendStringInfoString(&sql, ") AS v\n ORDER BY v.change_id");
	source->sql = sql.data;

	namestrcpy(&schema, get_namespace_name(get_rel_namespace(versioned.relid)));
	source->schema = datumCopy(NameGetDatum(&schema), false, NAMEDATALEN);
}

/*
 * As poser_begin_reading(), for a query that returns changes.  Under these settings joins
 * keep the order of change_id, so that the first rows come without a sort of the window.
 * And the text of a value does not depend on the session's settings.  The level that is
 * returned ends all of these settings.
 */
static int
begin_delivery(void)
{
	static const PoserSetting settings[] = {
		{"enable_nestloop", "on"},
		{"enable_hashjoin", "off"},
		{"enable_mergejoin", "off"},
		{"enable_sort", "off"},
		{"enable_material", "off"},
		{"jit", "off"},
		{"timezone", "UTC"},
		{"bytea_output", "hex"},
		{"lc_monetary", "C"},
		{"quote_all_identifiers", "off"},
		{"search_path", "pg_catalog, pg_temp"}};
	int level = poser_begin_reading();

	(void) poser_begin_text_settings();
	(void) poser_begin_settings(settings, lengthof(settings));
	return level;
}

/*
 * Run the query of a source for changes after this one, and at most "limit" of them.  The
 * plan is a generic one for all windows, and returns its first rows soon.
 */
static void
run_source(ChangeReader *reader, ChangeSource *source, int64 after, long limit, const DestReceiver *methods)
{
	const Oid argtypes[] = {INT8OID, INT8OID};
	const Datum values[] = {Int64GetDatum(after), Int64GetDatum(reader->consumer->last_change)};
	PoserCaller caller;

	reader->pub = *methods;
	reader->source = source;
	poser_become_role(source->userid, source->sec_context, &caller);
	poser_run(&(PoserQuery) {
		.sql = source->sql,
		.nargs = lengthof(argtypes),
		.argtypes = argtypes,
		.values = values,
		.read_only = true,
		.cursor_options = CURSOR_OPT_GENERIC_PLAN | CURSOR_OPT_FAST_PLAN,
		.limit = limit,
		.dest = &reader->pub,
	});
	poser_become_caller(&caller);
}

/*
 * Putting a change into the store
 */

/* Returns the names of the columns in which two records with the same columns differ, as an array of text. */
static Datum
changed_columns(Datum old, Datum new)
{
	HeapTupleHeader headers[] = {DatumGetHeapTupleHeader(old), DatumGetHeapTupleHeader(new)};
	TupleDesc desc = lookup_rowtype_tupdesc(RECORDOID, HeapTupleHeaderGetTypMod(headers[0]));
	Datum *values[2];
	bool *nulls[2];
	Datum *names = palloc(Max(desc->natts, 1) * sizeof(Datum));
	int n = 0;

	Assert(HeapTupleHeaderGetTypMod(headers[0]) == HeapTupleHeaderGetTypMod(headers[1]));
	for (int i = 0; i < 2; i++)
	{
		HeapTupleData tuple = {.t_len = HeapTupleHeaderGetDatumLength(headers[i]), .t_data = headers[i]};

		values[i] = palloc(Max(desc->natts, 1) * sizeof(Datum));
		nulls[i] = palloc(Max(desc->natts, 1) * sizeof(bool));
		heap_deform_tuple(&tuple, desc, values[i], nulls[i]);
	}
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (nulls[0][i] != nulls[1][i] ||
			(!nulls[0][i] && !datum_image_eq(values[0][i], values[1][i], att->attbyval, att->attlen)))
			names[n++] = CStringGetTextDatum(NameStr(att->attname));
	}
	ReleaseTupleDesc(desc);
	return PointerGetDatum(construct_array(names, n, TEXTOID, -1, false, TYPALIGN_INT));
}

/* Set a column of the change, if poser_change has it. */
static void
set_column(ChangeReader *reader, AttrNumber column, Datum value, bool isnull)
{
	if (column == InvalidAttrNumber)
		return;
	reader->values[column - 1] = value;
	reader->nulls[column - 1] = isnull;
}

/*
 * Put a row of a source into the store, with its transaction and with its payload as jsonb.
 * Returns false if no more changes are wanted.
 */
static bool
deliver(ChangeReader *reader, const ChangeSource *source, TupleTableSlot *slot)
{
	MemoryContext old_context = MemoryContextSwitchTo(reader->row);
	const PoserChangeTransaction *transaction;
	PoserCaller caller;
	Datum *row;
	bool *isnull;
	int operation;

	/* leave it out if its transaction is not delivered; the owner of the extension looks this up */
	slot_getallattrs(slot);
	row = slot->tts_values;
	isnull = slot->tts_isnull;
	transaction = poser_change_transaction(reader->transactions, DatumGetInt64(row[ROW_TRANSACTION_ID]));
	if (!transaction->delivered)
	{
		MemoryContextSwitchTo(old_context);
		return true;
	}

	operation = isnull[ROW_OPERATION] ? POSER_UPDATE : DatumGetInt16(row[ROW_OPERATION]);
	set_column(reader, CHANGE_ID, row[ROW_CHANGE_ID], false);
	set_column(reader, CHANGE_TRANSACTION, row[ROW_TRANSACTION_ID], false);
	set_column(reader, CHANGE_ISSUED_AT, transaction->issued_at, transaction->issued_at_isnull);
	set_column(reader, CHANGE_USERNAME, transaction->username, transaction->username_isnull);
	set_column(reader, CHANGE_PAYLOAD_TYPE, row[ROW_PAYLOAD_TYPE], false);
	set_column(reader, CHANGE_PAYLOAD_KEY, row[ROW_PAYLOAD_KEY], isnull[ROW_PAYLOAD_KEY]);
	set_column(reader, CHANGE_DELETION, BoolGetDatum(operation == POSER_DELETE), false);
	set_column(reader, reader->schema, source->schema, false);
	set_column(reader, reader->operation, reader->operations[Min(Max(operation, POSER_INSERT), POSER_DELETE)], false);

	/* values are converted with the rights of the owner of the versions */
	poser_become_role(source->userid, source->sec_context, &caller);
	reader->nulls[CHANGE_PAYLOAD - 1] = isnull[ROW_PAYLOAD];
	if (!isnull[ROW_PAYLOAD])
		reader->values[CHANGE_PAYLOAD - 1] = poser_payload_make(&reader->payloads, reader->context, row[ROW_PAYLOAD]);
	set_column(reader, reader->old, (Datum) 0, true);
	set_column(reader, reader->changed, (Datum) 0, true);
	if (!isnull[ROW_OLD])
	{
		set_column(reader, reader->old, poser_payload_make(&reader->payloads, reader->context, row[ROW_OLD]), false);
		set_column(reader, reader->changed, changed_columns(row[ROW_OLD], row[ROW_PAYLOAD]), false);
	}
	poser_become_caller(&caller);

	tuplestore_putvalues(reader->store, reader->desc, reader->values, reader->nulls);
	reader->last = DatumGetInt64(row[ROW_CHANGE_ID]);
	if (reader->n++ == 0)
		reader->first = reader->last;
	MemoryContextReset(reader->row);
	MemoryContextSwitchTo(old_context);
	return reader->n < reader->limit;
}

/*
 * Receiving rows from the executor
 */

/* The rStartup method where rows are kept: make the slot for them, which must outlive the query. */
static void
start_keeping(DestReceiver *self, int operation, TupleDesc typeinfo)
{
	ChangeReader *reader = (ChangeReader *) self;
	ChangeSource *source = reader->source;
	MemoryContext old = MemoryContextSwitchTo(reader->context);

	if (source->slot == NULL)
		source->slot = MakeSingleTupleTableSlot(CreateTupleDescCopy(typeinfo), &TTSOpsMinimalTuple);
	MemoryContextSwitchTo(old);
}

/* The other methods, which have nothing to do. */
static void
start_delivering(DestReceiver *self, int operation, TupleDesc typeinfo)
{
}

static void
stop_receiving(DestReceiver *self)
{
}

/* The receiveSlot method where one source has changes: put the row into the store. */
static bool
receive_delivered(TupleTableSlot *slot, DestReceiver *self)
{
	ChangeReader *reader = (ChangeReader *) self;
	bool result;

	/* the query runs as the owner of the versions */
	SetUserIdAndSecContext(reader->owner, reader->sec_context);
	result = deliver(reader, reader->source, slot);
	SetUserIdAndSecContext(reader->source->userid, reader->source->sec_context);
	return result;
}

/* The receiveSlot method where several sources have changes: keep the row. */
static bool
receive_kept(TupleTableSlot *slot, DestReceiver *self)
{
	ChangeReader *reader = (ChangeReader *) self;
	ChangeSource *source = reader->source;
	MemoryContext old = MemoryContextSwitchTo(source->context);

	source->rows[source->nrows++] = ExecCopySlotMinimalTuple(slot);
	source->is_full = MemoryContextMemAllocated(source->context, false) > reader->budget;
	MemoryContextSwitchTo(old);
	return !source->is_full;
}

static const DestReceiver delivering_receiver = {
	receive_delivered, start_delivering, stop_receiving, stop_receiving, DestNone};

static const DestReceiver keeping_receiver = {
	receive_kept, start_keeping, stop_receiving, stop_receiving, DestNone};

/*
 * Merging
 */

/* For a heap with the least next_change at its top. */
static int
compare_sources(Datum a, Datum b, void *arg)
{
	const ChangeSource *x = (ChangeSource *) DatumGetPointer(a);
	const ChangeSource *y = (ChangeSource *) DatumGetPointer(b);

	return x->next_change < y->next_change ? 1 : x->next_change > y->next_change ? -1
																				 : 0;
}

/* Put the next kept row of a source into its slot.  Returns false if there is none. */
static bool
load_row(ChangeSource *source)
{
	bool isnull;

	source->is_loaded = source->next < source->nrows;
	if (!source->is_loaded)
		return false;
	ExecStoreMinimalTuple(source->rows[source->next++], source->slot, false);
	source->next_change = DatumGetInt64(slot_getattr(source->slot, ROW_CHANGE_ID + 1, &isnull));
	return true;
}

/* Read rows of a source from next_change on, and load the first one.  Returns false if there is none. */
static bool
refill(ChangeReader *reader, ChangeSource *source)
{
	if (source->sql == NULL)
	{
		open_source(reader, source);
		source->context = GenerationContextCreate(CurrentMemoryContext, "poser changes of a table", ALLOCSET_DEFAULT_SIZES);
		source->rows = palloc(MAX_ROWS * sizeof(MinimalTuple));
		source->wanted = FIRST_ROWS;
	}
	else
	{
		ExecClearTuple(source->slot);
		MemoryContextReset(source->context);
		source->wanted = Min(2 * source->wanted, MAX_ROWS);
	}
	source->nrows = source->next = 0;
	source->is_full = false;
	run_source(reader, source, source->next_change - 1, source->wanted, &keeping_receiver);
	source->exhausted = source->nrows < source->wanted && !source->is_full;
	return load_row(source);
}

/* Put changes of several sources into the store, the least change_id first. */
static void
merge(ChangeReader *reader, List *sources)
{
	binaryheap *heap = binaryheap_allocate(list_length(sources), compare_sources, NULL);
	ListCell *lc;

	foreach(lc, sources)
	{
		binaryheap_add_unordered(heap, PointerGetDatum(lfirst(lc)));
	}
	binaryheap_build(heap);
	while (!binaryheap_empty(heap))
	{
		ChangeSource *source = (ChangeSource *) DatumGetPointer(binaryheap_first(heap));
		bool has_more;

		CHECK_FOR_INTERRUPTS();
		if (!source->is_loaded)
			has_more = refill(reader, source);
		else
		{
			/* its turn has come */
			if (!deliver(reader, source, source->slot))
				break;
			/* the rows that are not read yet come after this one */
			source->next_change++;
			has_more = load_row(source) || !source->exhausted;
		}
		if (has_more)
			binaryheap_replace_first(heap, PointerGetDatum(source));
		else
			(void) binaryheap_remove_first(heap);
	}
	binaryheap_free(heap);

	/* the rows that were kept for later */
	foreach(lc, sources)
	{
		ChangeSource *source = lfirst(lc);

		if (source->slot != NULL)
			ExecDropSingleTupleTableSlot(source->slot);
		if (source->context != NULL)
			MemoryContextDelete(source->context);
	}
}

/*
 * Returns the sources of a window's changes.  A table whose first change after the
 * confirmed ones is not in the window needs none.
 */
static List *
make_sources(PoserConsumer *consumer, List *changed)
{
	ChangeSource *extension = NULL;
	List *result = NIL;
	ListCell *lc;

	foreach(lc, changed)
	{
		PoserFeedTable *table = lfirst(lc);
		ChangeSource *source = extension;
		int64 first;

		CHECK_FOR_INTERRUPTS();
		if (!poser_feed_look(table, SnapshotAny, ForwardScanDirection, consumer->confirmed, &first))
			first = consumer->confirmed + 1;
		if (first == 0 || first > consumer->last_change)
			continue;

		/* one source for the tables of the extension, and one for each other table */
		if (OidIsValid(table->tracked.binding) || source == NULL)
		{
			source = palloc0(sizeof(ChangeSource));
			source->next_change = first;
			result = lappend(result, source);
			if (!OidIsValid(table->tracked.binding))
				extension = source;
		}
		source->next_change = Min(source->next_change, first);
		source->tables = lappend(source->tables, table);
	}
	return result;
}

/* Returns the column of poser_change with this name and type, or InvalidAttrNumber. */
static AttrNumber
change_column(TupleDesc desc, const char *name, Oid type)
{
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped && att->atttypid == type && namestrcmp(&att->attname, name) == 0)
			return att->attnum;
	}
	return InvalidAttrNumber;
}

/* Returns the row type of poser_change.  Raises an error if its columns do not have their types. */
TupleDesc
poser_change_desc(PoserConsumer *consumer)
{
	static const Oid types[CHANGE_COLUMNS] = {INT8OID, INT8OID, TIMESTAMPTZOID, TEXTOID, NAMEOID, TEXTOID, BOOLOID, JSONBOID};
	Oid relid = poser_relation_by_name("poser_change", consumer->nspid);
	TupleDesc result = lookup_rowtype_tupdesc_copy(get_rel_type_id(relid), -1);

	/* a dropped column stays in the descriptor, so there are enough; poser_check_type() raises an error for it */
	Assert(result->natts >= lengthof(types));
	for (int i = 0; i < lengthof(types); i++)
		poser_check_type(NULL, result, i + 1, types[i]);
	return result;
}

/*
 * Put the next changes of the open window into the store, at most "limit" of them.  Returns
 * how many; *first and *last are the change_ids of the first and the last one.  "changed"
 * are the tables that may have any, which are locked.  The active snapshot sees all changes
 * of the window.  Without "with_payload" the columns payload, changed and old are null.
 */
int64
poser_read_window(PoserConsumer *consumer, List *changed, Tuplestorestate *store, int64 limit, bool with_payload,
				  int64 *first, int64 *last)
{
	ChangeReader reader = {.consumer = consumer, .store = store, .limit = limit, .with_payload = with_payload, .with_old = consumer->old_values};
	List *sources = make_sources(consumer, changed);
	int level;

	GetUserIdAndSecContext(&reader.owner, &reader.sec_context);
	reader.desc = poser_change_desc(consumer);
	reader.schema = change_column(reader.desc, "schema", NAMEOID);
	reader.operation = change_column(reader.desc, "operation", TEXTOID);
	reader.changed = change_column(reader.desc, "changed", TEXTARRAYOID);
	reader.old = change_column(reader.desc, "old", JSONBOID);
	reader.operations[POSER_INSERT] = CStringGetTextDatum("insert");
	reader.operations[POSER_UPDATE] = CStringGetTextDatum("update");
	reader.operations[POSER_DELETE] = CStringGetTextDatum("delete");
	reader.values = palloc0(reader.desc->natts * sizeof(Datum));
	reader.nulls = palloc(reader.desc->natts * sizeof(bool));
	/* a user may have added columns to poser_change, and they are null */
	memset(reader.nulls, true, reader.desc->natts * sizeof(bool));
	reader.transactions = poser_change_transactions(consumer, poser_relation_by_name("poser_transaction", consumer->nspid));
	reader.context = CurrentMemoryContext;
	reader.row = AllocSetContextCreate(CurrentMemoryContext, "poser payload", ALLOCSET_DEFAULT_SIZES);
	reader.budget = Max(work_mem / Max(list_length(sources), 1), 8) * (Size) 1024;

	/* read them under settings of their own */
	level = begin_delivery();
	if (list_length(sources) == 1)
	{
		ChangeSource *source = linitial(sources);

		open_source(&reader, source);
		run_source(&reader, source, consumer->confirmed, 0, &delivering_receiver);
	}
	else
		merge(&reader, sources);
	AtEOXact_GUC(true, level);
	MemoryContextDelete(reader.row);
	*first = reader.first;
	*last = reader.last;
	return reader.n;
}
