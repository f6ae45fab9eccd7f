/*
 * arrival_settle.c
 *	  Giving new ids to transactions that are in the way of arriving history, and removing
 *	  those with nothing left.
 *
 * There is no index on the transaction of a version, because it would cost every writer.
 * So one pass over the tables of versions does this for all transactions together:
 *
 * - It sorts the versions that were recorded here by their transactions, and reads the
 *   transactions in the same order.
 * - A transaction without versions is removed.
 * - If a version of the statement names a transaction, and each version that was recorded
 *   with it is the insert of a row that is still the same, these versions get new ids, and a
 *   copy of the transaction.  The transaction is awaited from now on, see arrival_ids.c.
 * - If a version of the statement has the transaction's id as its change_id, the transaction
 *   and its versions get new ids, or it is an error.
 * - Other transactions that have recorded only such inserts get new ids up to a limit.
 *
 * A pass reads all versions.  So transactions with nothing left are not removed at the end
 * of each statement, but when enough rows have arrived since the last pass to be worth it,
 * or when everything that was recorded seems to be gone.  This needs no memory in the
 * database.  After a restore no empty transaction is left, whether its statements insert
 * one row each or many.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/tuplesort.h"
#include "utils/typcache.h"

#include "versions/arrival_internal.h"

/* How many versions a pass may read for each row that has arrived since the last one. */
#define VERSIONS_READ_FOR_A_ROW 1000

/* A pass over so few versions, or over so few for each row that has arrived, needs no further reason. */
#define FEW_VERSIONS 20000
#define FEW_VERSIONS_FOR_A_ROW 100

/* About how many versions there are on a page. */
#define VERSIONS_ON_A_PAGE 60

/* What this session knows since its last pass. */
static struct
{
	Oid transactions;
	int64 narrived; /* rows that have arrived */
	int64 nremoved; /* recorded versions that were removed */
	int64 nleft;	/* recorded versions that the last pass has left; -1 if there was none */
	int64 nread;	/* about how many versions the last pass has read */
	bool was_early; /* was the last pass made only because everything seemed to be gone? */
} since_pass = {InvalidOid, 0, 0, -1, 0, false};

/* The columns of the sort.  Entries of a transaction that are not its versions come first. */
enum
{
	SORT_TRANSACTION,
	SORT_KIND,
	SORT_CHANGE,
	SORT_TABLE,
	SORT_NATTS
};

/* The kinds of entries. */
enum
{
	CLAIM,	 /* a version of the statement has the transaction's id */
	ALIKE,	 /* a table that looks like a table of versions has it, but it was not recorded there */
	FOREIGN, /* another table of versions has the transaction's id */
	VERSION	 /* a version that was recorded here */
};

/* An entry of the sort. */
typedef struct Entry
{
	int64 transaction_id;
	int kind;
	int64 change_id;
	int table;
} Entry;

/* A pass. */
typedef struct Pass
{
	PoserArrival *arrival;
	Tuplesortstate *sort;
	TupleTableSlot *slot;
	Entry entry;	/* the entry that was read last */
	bool has_entry; /* is there one? */
	int64 nversions;
} Pass;

/* Add an entry to the sort. */
static void
put_entry(Pass *pass, int64 transaction_id, int kind, int64 change_id, int table)
{
	ExecClearTuple(pass->slot);
	pass->slot->tts_values[SORT_TRANSACTION] = Int64GetDatum(transaction_id);
	pass->slot->tts_values[SORT_KIND] = Int32GetDatum(kind);
	pass->slot->tts_values[SORT_CHANGE] = Int64GetDatum(change_id);
	pass->slot->tts_values[SORT_TABLE] = Int32GetDatum(table);
	memset(pass->slot->tts_isnull, false, SORT_NATTS * sizeof(bool));
	ExecStoreVirtualTuple(pass->slot);
	tuplesort_puttupleslot(pass->sort, pass->slot);
}

/* Get the next entry. */
static void
next_entry(Pass *pass)
{
	pass->has_entry = tuplesort_gettupleslot(pass->sort, true, false, pass->slot, NULL);
	if (!pass->has_entry)
		return;
	slot_getallattrs(pass->slot);
	pass->entry.transaction_id = DatumGetInt64(pass->slot->tts_values[SORT_TRANSACTION]);
	pass->entry.kind = DatumGetInt32(pass->slot->tts_values[SORT_KIND]);
	pass->entry.change_id = DatumGetInt64(pass->slot->tts_values[SORT_CHANGE]);
	pass->entry.table = DatumGetInt32(pass->slot->tts_values[SORT_TABLE]);
}

/* Add the entries of a table of versions. */
static void
read_versions(Pass *pass, int table)
{
	PoserArrival *arrival = pass->arrival;
	const PoserVersioned *versioned = &arrival->tables[table]->versioned;
	Relation versions = arrival->tables[table]->versions;
	TupleTableSlot *slot = table_slot_create(versions, NULL);
	TableScanDesc scan = table_beginscan(versions, SnapshotSelf, 0, NULL, SO_NONE);
	Entry last = {.kind = VERSION};

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		Entry entry = {.transaction_id = poser_version_transaction_id(versioned, slot), .kind = VERSION};

		CHECK_FOR_INTERRUPTS();
		if (!poser_arrival_is_recorded(arrival, entry.transaction_id))
			continue;
		if (poser_arrival_is_of_statement(arrival, slot))
			entry.kind = CLAIM;
		else if (poser_arrival_came_before(arrival, &arrival->tables[table]->bound, slot, entry.transaction_id))
			entry.kind = ALIKE;
		/* the versions of a transaction usually follow each other */
		if (entry.kind != VERSION && entry.kind == last.kind && entry.transaction_id == last.transaction_id)
			continue;
		put_entry(pass, entry.transaction_id, entry.kind, poser_version_change_id(versioned, slot), table);
		pass->nversions += (entry.kind == VERSION);
		last = entry;
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
}

/* Add an entry for each transaction with versions in a table that is not open here; it is locked by this. */
static void
read_other_table(Pass *pass, Oid relid, const char *column)
{
	PoserArrival *arrival = pass->arrival;
	List *tables;
	Relation root;
	ListCell *lc;
	Entry last = {.kind = VERSION};

	LockRelationOid(relid, AccessShareLock);
	root = try_relation_open(relid, NoLock);
	if (root == NULL)
		return;
	tables = find_all_inheritors(relid, AccessShareLock, NULL);
	foreach(lc, tables)
	{
		Relation rel = try_relation_open(lfirst_oid(lc), NoLock);
		AttrNumber attnum = rel != NULL ? get_attnum(lfirst_oid(lc), column) : InvalidAttrNumber;

		if (attnum > 0 && rel->rd_rel->relkind == RELKIND_RELATION && get_atttype(lfirst_oid(lc), attnum) == INT8OID)
		{
			TupleTableSlot *slot = table_slot_create(rel, NULL);
			TableScanDesc scan = table_beginscan(rel, SnapshotSelf, 0, NULL, SO_NONE);
			PoserArrivalBound bound;

			poser_arrival_find_bound(&bound, root, rel, arrival->versioned->nspid);
			while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
			{
				bool isnull;
				Entry entry = {.transaction_id = DatumGetInt64(slot_getattr(slot, attnum, &isnull)), .kind = FOREIGN};

				CHECK_FOR_INTERRUPTS();
				if (isnull || !poser_arrival_is_recorded(arrival, entry.transaction_id))
					continue;
				if (poser_arrival_came_before(arrival, &bound, slot, entry.transaction_id))
					entry.kind = ALIKE;
				/* the versions of a transaction usually follow each other */
				if (entry.kind == last.kind && entry.transaction_id == last.transaction_id)
					continue;
				put_entry(pass, entry.transaction_id, entry.kind, 0, 0);
				last = entry;
			}
			table_endscan(scan);
			ExecDropSingleTupleTableSlot(slot);
		}
		if (rel != NULL)
			relation_close(rel, NoLock);
	}
	relation_close(root, NoLock);
}

/*
 * The tables of versions that triggers name:
 *
 *	SELECT DISTINCT c.oid
 *	  FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid
 *	       JOIN pg_class AS c ON c.relnamespace = p.pronamespace AND c.relname = <the trigger's first argument>
 *	 WHERE p.pronamespace = $1 AND p.proname = 'poser_version' AND t.tgnargs >= 2 AND c.relkind = 'r'
 */
static const char *const named_tables =
	"SELECT DISTINCT c.oid\n"
	"  FROM pg_catalog.pg_trigger AS t JOIN pg_catalog.pg_proc AS p ON p.oid OPERATOR(pg_catalog.=) t.tgfoid\n"
	"       JOIN pg_catalog.pg_class AS c ON c.relnamespace OPERATOR(pg_catalog.=) p.pronamespace\n"
	"            AND c.relname OPERATOR(pg_catalog.=) pg_catalog.convert_from(\n"
	"                pg_catalog.substring(t.tgargs, 1, pg_catalog.position(t.tgargs, pg_catalog.decode('00', 'hex')) OPERATOR(pg_catalog.-) 1),\n"
	"                pg_catalog.getdatabaseencoding())::pg_catalog.name\n"
	" WHERE p.pronamespace OPERATOR(pg_catalog.=) $1 AND p.proname OPERATOR(pg_catalog.=) 'poser_version'::pg_catalog.name\n"
	"   AND t.tgnargs OPERATOR(pg_catalog.>=) 2 AND c.relkind OPERATOR(pg_catalog.=) 'r'::pg_catalog.\"char\"";

/*
 * Add the entries of tables that look like tables of versions, but have no trigger that says
 * so.  While a dump is restored, its tables of versions have no triggers yet, and their
 * history is that of elsewhere.  But they may also be copies that a user has made.
 */
static void
read_alike_tables(Pass *pass)
{
	PoserArrival *arrival = pass->arrival;
	Tuplestorestate *used = tuplestore_begin_heap(false, false, work_mem);
	TupleDesc desc = CreateTemplateTupleDesc(1);
	PoserVersioned *tables = palloc(arrival->ntables * sizeof(PoserVersioned));
	TupleTableSlot *slot;

	TupleDescInitEntry(desc, 1, "id", INT8OID, -1, 0);
	TupleDescFinalize(desc);
	for (int i = 0; i < arrival->ntables; i++)
		tables[i] = arrival->tables[i]->versioned;
	(void) poser_collect_transactions(used, desc, tables, arrival->ntables, PG_INT64_MAX);

	slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	while (tuplestore_gettupleslot(used, true, false, slot))
	{
		bool isnull;
		int64 transaction_id = DatumGetInt64(slot_getattr(slot, 1, &isnull));

		CHECK_FOR_INTERRUPTS();
		if (poser_arrival_is_recorded(arrival, transaction_id))
			put_entry(pass, transaction_id, ALIKE, 0, 0);
	}
	ExecDropSingleTupleTableSlot(slot);
	tuplestore_end(used);
	pfree(tables);
}

/*
 * Add the entries of tables of versions that are not open here, and to which changes are
 * recorded: those of users' triggers that name them, and those that are bound and partitioned
 * or cannot be described.  Then add those of tables that look alike.
 */
static void
read_other_tables(Pass *pass)
{
	PoserArrival *arrival = pass->arrival;
	Oid argtypes[] = {OIDOID};
	Datum values[] = {ObjectIdGetDatum(arrival->versioned->nspid)};
	List *bindings = poser_tracked_bindings(arrival->versioned->nspid);
	List *open = NIL;
	SPITupleTable *found;
	ListCell *lc;

	for (int i = 0; i < arrival->ntables; i++)
		open = lappend_oid(open, arrival->tables[i]->versioned.versions);
	foreach(lc, bindings)
	{
		PoserTracked *tracked = lfirst(lc);
		char *column;

		if (!tracked->counts || list_member_oid(open, tracked->versions))
			continue;
		column = poser_own_transaction_column(tracked);
		if (column != NULL)
			read_other_table(pass, tracked->versions, column);
	}

	PushActiveSnapshot(GetLatestSnapshot());
	SPI_connect();
	(void) poser_run(&(PoserQuery) {
		.sql = named_tables,
		.nargs = lengthof(argtypes),
		.argtypes = argtypes,
		.values = values,
		.read_only = true});
	found = SPI_tuptable;
	for (uint64 i = 0; i < found->numvals; i++)
	{
		bool isnull;
		Oid relid = DatumGetObjectId(SPI_getbinval(found->vals[i], found->tupdesc, 1, &isnull));

		if (!list_member_oid(open, relid))
			read_other_table(pass, relid, "transaction_id");
	}
	read_alike_tables(pass);
	SPI_finish();
	PopActiveSnapshot();
}

/* Is the entry one of this transaction? */
static bool
is_entry_of(Pass *pass, int64 transaction_id)
{
	return pass->has_entry && pass->entry.transaction_id == transaction_id;
}

/* Get the version of the entry into its table's by_id.slot.  Returns the table. */
static PoserArrivalTable *
fetch_version(Pass *pass)
{
	PoserArrivalTable *table = pass->arrival->tables[pass->entry.table];

	if (!poser_arrival_find_version(table, pass->entry.change_id))
		elog(ERROR, "version was not found again");
	return table;
}

/* Give a transaction, and the versions from the present entry on, new ids.  With "stays" the versions get a copy of it. */
static void
move_transaction(Pass *pass, int64 id, bool stays)
{
	PoserArrival *arrival = pass->arrival;
	AttrNumber id_column = poser_own_column(arrival->transactions, "id", INT8OID);
	TupleTableSlot *copy = MakeSingleTupleTableSlot(RelationGetDescr(arrival->transactions), &TTSOpsHeapTuple);
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(arrival->transactions), &TTSOpsVirtual);
	int natts = slot->tts_tupleDescriptor->natts;
	int64 new_id;

	/* the transaction */
	poser_arrival_check_privileges(arrival);
	if (!poser_arrival_find_transaction(arrival, id))
		elog(ERROR, "transaction was not found again");
	ExecCopySlot(copy, arrival->transaction.slot);
	slot_getallattrs(copy);
	memcpy(slot->tts_values, copy->tts_values, natts * sizeof(Datum));
	memcpy(slot->tts_isnull, copy->tts_isnull, natts * sizeof(bool));
	new_id = poser_change_id_next(arrival->versioned);
	slot->tts_values[id_column - 1] = Int64GetDatum(new_id);
	ExecStoreVirtualTuple(slot);
	if (!stays && !poser_direct_delete(arrival->transactions, &arrival->transaction.slot->tts_tid))
		poser_arrival_in_use_error(arrival, "transaction", id);
	if (!arrival->writes)
		poser_direct_open(&arrival->direct, arrival->versioned->transactions, RowExclusiveLock);
	arrival->writes = true;
	table_tuple_insert(arrival->transactions, slot, GetCurrentCommandId(true), 0, NULL);
	(void) poser_direct_insert_index_entries(&arrival->direct, slot, 0);
	ExecDropSingleTupleTableSlot(slot);
	ExecDropSingleTupleTableSlot(copy);
	arrival->in_use = new_id;
	arrival->known = false;
	poser_transaction_renumber(arrival->versioned->transactions, id, new_id);

	/* its versions */
	for (; is_entry_of(pass, id); next_entry(pass))
	{
		PoserArrivalTable *table = fetch_version(pass);

		CHECK_FOR_INTERRUPTS();
		poser_arrival_write_version(arrival, table, table->by_id.slot, new_id);
		if (!poser_direct_delete(table->versions, &table->by_id.slot->tts_tid))
			poser_arrival_in_use_error(arrival, "transaction", id);
		ExecClearTuple(table->by_id.slot);
	}
}

/* Has a version of the statement the id of this transaction as its change_id? */
static bool
is_change_id(PoserArrival *arrival, int64 id)
{
	bool result;

	if (arrival->own == NULL || id < arrival->first_change || id > arrival->last_change)
		return false;
	result = poser_arrival_find_version(arrival->own, id) &&
			 poser_arrival_is_of_statement(arrival, arrival->own->by_id.slot);
	ExecClearTuple(arrival->own->by_id.slot);
	return result;
}

/* Is this the transaction up to which a history was pruned? */
static bool
is_horizon(PoserArrival *arrival, int64 id, int64 horizon)
{
	bool result = (id == horizon);

	for (int i = 0; i < arrival->ntables && !result; i++)
		result = arrival->tables[i]->horizon == id;
	return result;
}

/* Decide about a transaction that was recorded here.  The present entry is its first one, if it has any. */
static void
settle_transaction(Pass *pass, int64 id, int64 limit, int64 horizon)
{
	PoserArrival *arrival = pass->arrival;
	bool claimed = false;
	bool alike = false;
	bool taken = is_change_id(arrival, id);
	bool movable = true; /* as far as the entries that are not versions say */

	/* entries that are not versions */
	for (; is_entry_of(pass, id) && pass->entry.kind != VERSION; next_entry(pass))
	{
		if (pass->entry.kind == CLAIM)
			claimed = true;
		else if (pass->entry.kind == ALIKE)
			alike = true;
		else
			movable = false;
	}

	/* a copy of its versions may be all that is left: it stays while nothing needs its id */
	if (alike && id > limit && !taken && !is_entry_of(pass, id))
		return;

	/* nothing is left; but pruning keeps the transaction of the horizon, unless its id is needed */
	if (!is_entry_of(pass, id) && movable)
	{
		if (claimed)
			poser_arrival_await(arrival, id);
		if (claimed || (id > limit && !taken && is_horizon(arrival, id, horizon)))
			return;
		poser_arrival_check_privileges(arrival);
		if (poser_arrival_find_transaction(arrival, id))
			(void) poser_direct_delete(arrival->transactions, &arrival->transaction.slot->tts_tid);
		arrival->known = false;
		poser_transaction_forget();
		return;
	}

	/* can it get a new id? */
	if (claimed || taken || id <= limit)
	{
		if (movable)
		{
			Entry first = pass->entry;

			tuplesort_markpos(pass->sort);
			for (; movable && is_entry_of(pass, id); next_entry(pass))
			{
				PoserArrivalTable *table = fetch_version(pass);

				CHECK_FOR_INTERRUPTS();
				movable = poser_arrival_is_lone(table, table->by_id.slot);
				ExecClearTuple(table->by_id.slot);
			}
			/* go back to the first version */
			if (movable)
			{
				tuplesort_restorepos(pass->sort);
				pass->entry = first;
				pass->has_entry = true;
			}
		}
		if (movable)
		{
			move_transaction(pass, id, claimed);
			if (claimed)
				poser_arrival_await(arrival, id);
			return;
		}
		if (taken)
			poser_arrival_in_use_error(arrival, "transaction", id);
	}
	while (is_entry_of(pass, id))
		next_entry(pass);
}

/* Returns the transaction of the horizon, as the table is now; PG_INT64_MIN if nothing has been pruned. */
static int64
read_horizon(const PoserVersioned *versioned)
{
	Relation rel = table_open(versioned->horizon, AccessShareLock);
	AttrNumber column = poser_own_column(rel, "transaction_id", INT8OID);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TableScanDesc scan = table_beginscan(rel, SnapshotSelf, 0, NULL, SO_NONE);
	int64 result = PG_INT64_MIN;

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		bool isnull;

		result = Max(result, DatumGetInt64(slot_getattr(slot, column, &isnull)));
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, NoLock);
	return result;
}

/* About how many versions are in the tables of versions that are open? */
static int64
count_versions(PoserArrival *arrival)
{
	int64 result = 0;

	for (int i = 0; i < arrival->ntables; i++)
		result += (int64) RelationGetNumberOfBlocks(arrival->tables[i]->versions) * VERSIONS_ON_A_PAGE;
	return result;
}

/*
 * Remove the transactions that were recorded here and have nothing left.  Give new ids to
 * those with an id that the statement's versions have, and to others up to "limit".  Raises
 * an error if that is not possible for an id that is needed.
 */
void
poser_arrival_settle(PoserArrival *arrival, int64 limit)
{
	AttrNumber columns[] = {SORT_TRANSACTION + 1, SORT_KIND + 1};
	Oid operators[] = {lookup_type_cache(INT8OID, TYPECACHE_LT_OPR)->lt_opr,
					   lookup_type_cache(INT4OID, TYPECACHE_LT_OPR)->lt_opr};
	Oid collations[] = {InvalidOid, InvalidOid};
	bool nulls_first[] = {false, false};
	TupleDesc desc = CreateTemplateTupleDesc(SORT_NATTS);
	Pass pass = {.arrival = arrival};
	int64 greatest;
	int64 horizon = read_horizon(arrival->versioned);
	int64 id;
	MemoryContext old = MemoryContextSwitchTo(arrival->context);

	/* what this writes is told from what the statement has brought, and what was written before can be moved */
	CommandCounterIncrement();
	poser_arrival_open_ids(arrival);
	poser_arrival_open_all(arrival);
	arrival->known = false;
	poser_change_id_advance(arrival->versioned, Max(limit, arrival->in_use));
	/* what was set aside must move with its transaction */
	for (int i = 0; i < arrival->ntables; i++)
		poser_arrival_write_set_aside(arrival, arrival->tables[i]);
	greatest = arrival->in_use;

	/* sort the versions by their transactions */
	TupleDescInitEntry(desc, SORT_TRANSACTION + 1, "transaction_id", INT8OID, -1, 0);
	TupleDescInitEntry(desc, SORT_KIND + 1, "kind", INT4OID, -1, 0);
	TupleDescInitEntry(desc, SORT_CHANGE + 1, "change_id", INT8OID, -1, 0);
	TupleDescInitEntry(desc, SORT_TABLE + 1, "table", INT4OID, -1, 0);
	TupleDescFinalize(desc);
	pass.sort = tuplesort_begin_heap(desc, lengthof(columns), columns, operators, collations, nulls_first,
									 work_mem, NULL, TUPLESORT_RANDOMACCESS);
	pass.slot = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
	for (int i = 0; i < arrival->ntables; i++)
		read_versions(&pass, i);
	read_other_tables(&pass);
	tuplesort_performsort(pass.sort);
	ExecDropSingleTupleTableSlot(pass.slot);
	pass.slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	next_entry(&pass);

	/* read the transactions that were recorded here; those that get new ids are greater than all of them */
	poser_arrival_read_recorded(arrival);
	while (poser_arrival_read_next(arrival, greatest, &id))
		settle_transaction(&pass, id, limit, horizon);

	poser_arrival_save_ranges(arrival);
	/* the rest of the statement can set aside what was written here */
	CommandCounterIncrement();

	tuplesort_end(pass.sort);
	ExecDropSingleTupleTableSlot(pass.slot);
	arrival->room = Max(arrival->room, limit);
	arrival->known = false;
	since_pass.transactions = arrival->versioned->transactions;
	since_pass.narrived = since_pass.nremoved = 0;
	since_pass.nleft = pass.nversions;
	since_pass.nread = count_versions(arrival);
	MemoryContextSwitchTo(old);
}

/* Has a version of the statement the id of a transaction that was recorded here as its change_id? */
static bool
takes_ids(PoserArrival *arrival)
{
	int64 id = arrival->first_change;

	while (id <= arrival->last_change && poser_arrival_next_recorded(arrival, id, arrival->last_change, &id))
	{
		CHECK_FOR_INTERRUPTS();
		if (is_change_id(arrival, id++))
			return true;
	}
	return false;
}

/*
 * Called when a statement ends: make a pass if there is a reason.  If the statement has
 * brought few rows and a pass is needed nevertheless, the pass moves what could need the
 * next ones, so that there are a few for a whole restore.
 */
void
poser_arrival_settle_at_end(PoserArrival *arrival)
{
	int64 nversions;
	bool is_cheap;
	bool is_time;
	bool is_early;

	if (since_pass.transactions != arrival->versioned->transactions)
	{
		since_pass.transactions = arrival->versioned->transactions;
		since_pass.narrived = since_pass.nremoved = 0;
		since_pass.nleft = -1;
		since_pass.nread = 0;
		since_pass.was_early = false;
	}
	since_pass.narrived += arrival->narrived;
	since_pass.nremoved += arrival->nremoved;
	nversions = Max(count_versions(arrival), since_pass.nread);
	is_cheap = since_pass.narrived * VERSIONS_READ_FOR_A_ROW >= nversions;
	is_time = since_pass.nremoved > 0 && is_cheap &&
			  (nversions <= FEW_VERSIONS || since_pass.narrived * FEW_VERSIONS_FOR_A_ROW >= nversions ||
			   since_pass.nremoved * 2 >= since_pass.nleft);
	is_early = !is_time && since_pass.nleft > 0 && since_pass.nremoved >= since_pass.nleft && !since_pass.was_early;
	if (!arrival->claims && !is_time && !is_early && !takes_ids(arrival))
		return;
	poser_arrival_settle(arrival, arrival->claims && !is_cheap ? Max(arrival->claimed, 1) * 2 : PG_INT64_MIN);
	since_pass.was_early = is_early;
}
