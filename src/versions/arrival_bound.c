/*
 * arrival_bound.c
 *	  Versions that were in their table before it was bound to a tracked table here.
 *
 * In a dump the triggers on a table of versions come after its rows.  So these rows arrive
 * while no trigger fires, and nothing notes their transactions.  A restore in one session
 * brings poser_transaction before any of these triggers.  pg_restore -j does not: a trigger
 * waits for the rows of its own table only.  Then a table of versions is bound already when
 * the transactions arrive.  Meanwhile another session may have brought widgets, which were
 * recorded as transaction 1.  The versions that name the dump's transaction 1 are not those.
 *
 * No order of locks helps, because the restore decides which rows it brings first.  Nor do
 * dependencies: pg_dump does not keep those on a table of an extension.  So Poser tells such
 * versions by the transaction IDs that the server has stored:
 *
 * - A version with the ID that poser_transaction has for its transaction was recorded here.
 * - Otherwise, a version with an ID before that of the table's triggers was there before the
 *   triggers.  Nothing records there without them.
 *
 * The second sentence is used only where both hold:
 *
 * - The binding is one that was made in another database, as in each dump.  poser_track()
 *   makes it anew.
 * - The transaction was recorded after the extension was made in this database.  This is not
 *   so after pg_upgrade, which makes all triggers anew and keeps the rows.
 *
 * A subtransaction has an ID of its own.  But what it records comes after the triggers.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "utils/syscache.h"
#include "utils/xid8.h"

#include "versions/arrival_internal.h"

/* Returns the ID of the transaction that has made or changed the function; InvalidTransactionId if it is gone. */
static TransactionId
function_written_by(Oid function)
{
	HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	TransactionId result;

	if (!HeapTupleIsValid(tuple))
		return InvalidTransactionId;
	result = HeapTupleHeaderGetRawXmin(tuple->t_data);
	ReleaseSysCache(tuple);
	return result;
}

/* Was a table of versions bound in another database?  It is open and locked. */
static bool
is_bound_elsewhere(Relation versions, Oid function)
{
	TriggerDesc *desc = versions->trigdesc;

	for (int i = 0; desc != NULL && i < desc->numtriggers; i++)
	{
		const Trigger *trigger = &desc->triggers[i];
		PoserBinding binding;

		if (trigger->tgfoid != function || !OidIsValid(trigger->tgconstrrelid))
			continue;
		if (!poser_binding_parse(&binding, trigger, trigger->tgconstrrelid, RelationGetRelid(versions)))
			return false;
		pfree(binding.columns);
		return !binding.here;
	}
	return false;
}

/*
 * Find out when a table of versions was bound.  "rel" is this table, or a partition of it.
 * Both are open and locked.
 */
void
poser_arrival_find_bound(PoserArrivalBound *bound, Relation versions, Relation rel, Oid nspid)
{
	Oid function = poser_trigger_function("poser_versions_of", nspid);
	ListCell *lc;

	memset(bound, 0, sizeof(PoserArrivalBound));
	if (!OidIsValid(function) || !is_bound_elsewhere(versions, function))
		return;
	bound->elsewhere = true;
	bound->extension = function_written_by(function);

	/* the last of its triggers: a partition has its own one, and also a copy that came with the binding, before its rows */
	foreach(lc, poser_triggers_of_function(RelationGetRelid(rel), function))
	{
		HeapTuple tuple = lfirst(lc);
		TransactionId written_by = HeapTupleHeaderGetRawXmin(tuple->t_data);

		if (!OidIsValid(((Form_pg_trigger) GETSTRUCT(tuple))->tgparentid) &&
			(!TransactionIdIsValid(bound->triggers) || TransactionIdFollows(written_by, bound->triggers)))
			bound->triggers = written_by;
	}
}

/* Was a version there before its table was bound, so that it does not belong to the transaction with this id, which was recorded here? */
bool
poser_arrival_came_before(PoserArrival *arrival, const PoserArrivalBound *bound, TupleTableSlot *version, int64 id)
{
	TransactionId recorded_by;
	TransactionId written_by;
	HeapTuple tuple;
	bool should_free;
	bool isnull;

	if (!bound->elsewhere)
		return false;
	tuple = ExecFetchSlotHeapTuple(version, false, &should_free);
	written_by = HeapTupleHeaderGetRawXmin(tuple->t_data);
	if (should_free)
		heap_freetuple(tuple);
	if (TransactionIdIsValid(bound->triggers) && !TransactionIdPrecedes(written_by, bound->triggers))
		return false;
	if (!poser_arrival_find_transaction(arrival, id))
		return false;
	recorded_by = XidFromFullTransactionId(DatumGetFullTransactionId(
		slot_getattr(arrival->transaction.slot, poser_own_column(arrival->transactions, "xact", XID8OID), &isnull)));
	return written_by != recorded_by && !TransactionIdPrecedes(recorded_by, bound->extension);
}

/* Was a version recorded here, and is its transaction not one that is awaited or has arrived? */
bool
poser_arrival_is_recorded_version(PoserArrival *arrival, const PoserArrivalTable *table, TupleTableSlot *version)
{
	int64 id = poser_version_transaction_id(&table->versioned, version);

	return poser_arrival_is_recorded(arrival, id) && !poser_arrival_came_before(arrival, &table->bound, version, id);
}
