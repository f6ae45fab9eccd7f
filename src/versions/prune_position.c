/*
 * prune_position.c
 *	  The rows of poser_prune_position: how far pruning and recording have come.
 *
 * A row's column "relation" is the name of one of the extension's own tables.  Own tables
 * in several schemas can have one name, so theirs are the OID of the table of versions;
 * poser_prune_position is in no dump.  The rows are read and written with the rights of
 * their owner, also if the caller only owns a table of versions.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "versions/prune_internal.h"

/* Run a query over the bookkeeping of the history with its owner's rights.  Returns what poser_run() does. */
uint64
poser_prune_run(const PoserPruning *pruning, const PoserQuery *query)
{
	PoserCaller caller;
	uint64 result;

	poser_become_owner(pruning->transactions, &caller);
	result = poser_run(query);
	poser_become_caller(&caller);
	return result;
}

/*
 * Read the position of this name.  Returns false if there is none:
 *
 *	SELECT transaction_id, change_id, full_until, key, seen, issued_before
 *	  FROM poser_prune_position WHERE relation = $1
 */
bool
poser_prune_read_position(const PoserPruning *pruning, const char *relation, PoserPosition *position)
{
	Oid argtypes[] = {NAMEOID};
	NameData name = {0};
	Datum values[] = {NameGetDatum(&name)};
	char *sql = psprintf("SELECT transaction_id, change_id, full_until, key, seen, issued_before\n"
						 "  FROM %s WHERE relation OPERATOR(pg_catalog.=) $1",
						 poser_relation_name(pruning->positions));
	bool isnull;

	namestrcpy(&name, relation);
	if (poser_prune_run(pruning, &(PoserQuery) {.sql = sql, .nargs = 1, .argtypes = argtypes, .values = values, .read_only = true}) == 0)
		return false;
	position->transaction_id = poser_history_position(1, NULL);
	position->change_id = poser_history_position(2, &isnull);
	position->complete = isnull;
	position->key = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 4);
	if (position->key == NULL)
	{
		/* complete, or changed by hand: from the beginning */
		position->key = pstrdup("");
		position->change_id = PG_INT64_MIN;
	}
	position->seen = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 5);
	position->full_until = poser_history_position(3, NULL);
	poser_check_type(NULL, SPI_tuptable->tupdesc, 6, TIMESTAMPTZOID);
	position->before = DatumGetTimestampTz(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 6, &isnull));
	position->since = 0;
	return true;
}

/*
 * Replace the position of this name, or remove it if "position" is NULL:
 *
 *	DELETE FROM poser_prune_position WHERE relation = $1
 *	INSERT INTO poser_prune_position (relation, transaction_id, change_id, key, seen, full_until, issued_before)
 *	VALUES ($1, $2, $3, $4, $5::pg_snapshot, $6, $7)
 *	ON CONFLICT (relation) DO UPDATE SET key = EXCLUDED.key
 *
 * There is a conflict only with a row that the snapshot of a REPEATABLE READ transaction
 * does not see.  Then ON CONFLICT raises a serialization failure, and not a unique
 * violation.
 */
void
poser_prune_write_position(const PoserPruning *pruning, const char *relation, const PoserPosition *position)
{
	const char *name = poser_relation_name(pruning->positions);
	NameData relation_name = {0};
	Oid argtypes[] = {NAMEOID, INT8OID, INT8OID, TEXTOID, TEXTOID, INT8OID, TIMESTAMPTZOID};
	Datum values[lengthof(argtypes)] = {NameGetDatum(&relation_name)};
	const char *nulls;
	char *sql = psprintf("DELETE FROM %s WHERE relation OPERATOR(pg_catalog.=) $1", name);

	namestrcpy(&relation_name, relation);
	(void) poser_prune_run(pruning, &(PoserQuery) {.sql = sql, .nargs = 1, .argtypes = argtypes, .values = values});
	if (position == NULL)
		return;
	sql = psprintf("INSERT INTO %s (relation, transaction_id, change_id, key, seen, full_until, issued_before)\n"
				   "VALUES ($1, $2, $3, $4, $5::pg_catalog.pg_snapshot, $6, $7)\n"
				   "ON CONFLICT (relation) DO UPDATE SET key = EXCLUDED.key",
				   name);
	values[1] = Int64GetDatum(position->transaction_id);
	values[2] = Int64GetDatum(position->change_id);
	if (!position->complete)
		values[3] = CStringGetTextDatum(position->key);
	values[4] = CStringGetTextDatum(position->seen);
	values[5] = Int64GetDatum(position->full_until);
	values[6] = TimestampTzGetDatum(position->before);
	nulls = position->complete ? "  nn   " : "       ";
	(void) poser_prune_run(pruning, &(PoserQuery) {.sql = sql, .nargs = lengthof(argtypes), .argtypes = argtypes, .values = values, .nulls = nulls});
}

/*
 * Begin a round up to this transaction, with the active snapshot.  "before" is the time
 * before which a change is old.
 */
void
poser_prune_begin_round(PoserPosition *position, int64 transaction_id, TimestampTz before)
{
	(void) poser_run(&(PoserQuery) {.sql = "SELECT pg_catalog.pg_current_snapshot()", .read_only = true});
	position->seen = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	position->transaction_id = transaction_id;
	position->before = before;
	position->complete = false;
	position->key = pstrdup(""); /* before all keys */
	position->change_id = PG_INT64_MIN;
	position->full_until = transaction_id;
	position->since = 0;
}

/*
 * Has a round seen all transactions up to this one?  It has not if one has become visible
 * since the round began:
 *
 *	SELECT
 *	  FROM (SELECT id, xact FROM poser_transaction WHERE xact >= pg_snapshot_xmax($2::pg_snapshot)
 *	        UNION ALL
 *	        SELECT id, xact FROM poser_transaction WHERE xact = ANY (ARRAY(SELECT pg_snapshot_xip($2::pg_snapshot)))) AS t
 *	 WHERE id + 0 <= $1
 *	   AND ($3 OR xact <> COALESCE(pg_current_xact_id_if_assigned(), '0'))
 *	 LIMIT 1
 *
 * So it does not read what was written while a long transaction has been open.  "+ 0" keeps
 * the planner from the primary key, by which all older transactions would be read.
 *
 * A snapshot never has the transaction that took it.  What this transaction records after
 * it has pruned has a later id, see poser_transaction_forget().  So this transaction is
 * looked at only "with_own".
 */
bool
poser_prune_has_seen_all(const PoserPruning *pruning, const PoserPosition *position, int64 transaction_id, bool with_own)
{
	Oid argtypes[] = {INT8OID, TEXTOID, BOOLOID};
	Datum values[] = {Int64GetDatum(transaction_id), CStringGetTextDatum(position->seen), BoolGetDatum(with_own)};
	const char *transactions = poser_relation_name(pruning->transactions);
	char *sql = psprintf("SELECT\n"
						 "  FROM (SELECT id, xact FROM %s\n"
						 "         WHERE xact OPERATOR(pg_catalog.>=) pg_catalog.pg_snapshot_xmax($2::pg_catalog.pg_snapshot)\n"
						 "        UNION ALL\n"
						 "        SELECT id, xact FROM %s\n"
						 "         WHERE xact OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT pg_catalog.pg_snapshot_xip($2::pg_catalog.pg_snapshot)))) AS t\n"
						 " WHERE (id OPERATOR(pg_catalog.+) 0) OPERATOR(pg_catalog.<=) $1\n"
						 "   AND ($3 OR xact OPERATOR(pg_catalog.<>) COALESCE(pg_catalog.pg_current_xact_id_if_assigned(), '0'::pg_catalog.xid8))\n"
						 " LIMIT 1",
						 transactions, transactions);

	return poser_prune_run(pruning, &(PoserQuery) {.sql = sql, .nargs = lengthof(argtypes), .argtypes = argtypes, .values = values, .read_only = true, .no_seqscan = true}) == 0;
}

/* Is there nothing to do up to this transaction, because a complete round went so far and has seen all? */
bool
poser_prune_is_covered(const PoserPruning *pruning, const PoserPosition *position, int64 transaction_id)
{
	return position->complete && position->transaction_id >= transaction_id &&
		   poser_prune_has_seen_all(pruning, position, transaction_id, false);
}
