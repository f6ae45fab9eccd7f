/*
 * prune.c
 *	  poser_prune_versions(): removing old versions, and recording how far.
 *
 * Pruning goes up to a transaction P: the last one that is older than the limit and that
 * no consumer of datasync needs.  A version by a transaction up to P is removed if the
 * same row has a later version by a transaction up to P.  What stays is the state after
 * P and all changes since.  Then transactions before P without versions are removed,
 * too.
 *
 * A call with max_versions must not read again what earlier calls have read.  So these
 * calls go through each table of versions in rounds, in the order of key and change_id.
 * A round has one P, and a row of poser_prune_position.  The row says how far the round
 * has come, and a later call goes on behind that position.  A round that has come to the
 * end is kept as complete.  A new round begins when P is greater, or when a transaction up
 * to P has become visible since the round began.  If P is only a little greater than that
 * of the last round, the new round looks only at rows with versions by transactions between
 * the two.  So nothing is left behind a position for longer than a round, and a call that
 * has nothing to do reads no versions.  The rows of poser_prune_position are written in the
 * transaction that removes the versions, so they are rolled back with it.
 *
 * Invariant: versions up to a position that can be pruned up to the round's P are removed,
 * unless the snapshot with which the round began does not see them.
 *
 * A call without max_versions reads all versions, and moves no position.  So does a call
 * with max_versions where the table or the index for it is missing.
 *
 * The horizon is one row with the greatest P so far and the greatest change_id that has
 * replaced a removed version.  The state as of a transaction before P is no longer
 * known, nor is the state after a change before that change_id.
 *
 * Only one session prunes at a time.  Pruning waits for transactions that have reverted
 * rows or added a consumer of datasync, and these wait for pruning.  Other readers and
 * writers do not wait.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "versions/versions.h"
#include "versions/version_internal.h"

PG_FUNCTION_INFO_V1(poser_prune_versions);

int64 (*poser_first_needed_hook)(Oid nspid, Oid relid) = NULL;

/* How many versions are deleted by one statement. */
#define DELETED_AT_A_TIME 1000

/*
 * A round looks at all rows if the last one that did so went up to an id that is less than
 * the round's by more than this times max_versions.
 */
#define FULL_ROUND_AFTER 100

/* How far a round has come, see the head of this file. */
typedef struct PoserPosition
{
	int64 transaction_id; /* up to which it prunes */
	char *seen;			  /* the snapshot with which it began, as text */
	TimestampTz before;	  /* the transactions up to there that "seen" sees were issued before this */
	bool complete;		  /* has it come to the end?  Then the fields below mean nothing. */
	char *key;			  /* the last version that was removed, or one before all others */
	int64 change_id;
	int64 full_until; /* the last round that looked at all rows went up to this transaction */
	int64 since;	  /* if not 0, only rows with versions by later transactions are looked at; it is not kept */
} PoserPosition;

/*
 * Returns the query for at most $2 versions that can be pruned up to transaction $1,
 * each with the change that has replaced it, and its key:
 *
 *	SELECT change_id, next, key::text
 *	  FROM (SELECT change_id, lead(change_id) OVER (PARTITION BY uuid ORDER BY change_id), uuid
 *	          FROM poser_widget_version
 *	         WHERE transaction_id <= $1) AS version (change_id, next, key)
 *	 WHERE next IS NOT NULL
 *	 LIMIT $2
 *
 * With "since" they are only those of rows with versions by transactions after $3, in
 * the order of key and change_id:
 *
 *	...
 *	         WHERE transaction_id <= $1
 *	           AND uuid = ANY (SELECT uuid FROM poser_widget_version
 *	                            WHERE change_id > $3 AND transaction_id > $3 AND transaction_id <= $1)
 *	       ) AS version (change_id, next, key)
 *	 WHERE next IS NOT NULL
 *	 ORDER BY key, change_id
 *	 LIMIT $2
 */
static char *
old_versions_query(const PoserVersioned *versioned, bool since)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT version.change_id, version.next, version.key::pg_catalog.text\n");
	appendStringInfoString(&sql, "  FROM (SELECT change_id, pg_catalog.lead(change_id) OVER (PARTITION BY ");
	poser_history_append_keys(&sql, versioned, ", ", "%n");
	appendStringInfoString(&sql, " ORDER BY change_id), ");
	poser_history_append_column(&sql, versioned, versioned->keys[0], "%n");
	appendStringInfo(&sql,
					 "\n          FROM %s\n"
					 "         WHERE transaction_id OPERATOR(pg_catalog.<=) $1",
					 poser_relation_name(versioned->versions));
	if (since)
	{
		poser_history_append_column(&sql, versioned, versioned->keys[0],
									"\n           AND %n OPERATOR(pg_catalog.=) ANY (SELECT %n");
		appendStringInfo(&sql,
						 " FROM %s\n"
						 "                            WHERE change_id OPERATOR(pg_catalog.>) $3\n"
						 "                              AND transaction_id OPERATOR(pg_catalog.>) $3\n"
						 "                              AND transaction_id OPERATOR(pg_catalog.<=) $1)",
						 poser_relation_name(versioned->versions));
	}
	appendStringInfoString(&sql, ") AS version (change_id, next, key)\n WHERE version.next IS NOT NULL\n");
	if (since)
		appendStringInfoString(&sql, " ORDER BY version.key, version.change_id\n");
	appendStringInfoString(&sql, " LIMIT $2");
	return sql.data;
}

/*
 * Returns the query for the next versions by transactions up to $1, after the version of
 * key $2 with change_id $3, each with the change that has replaced it, and its key.  Of
 * the last one the query does not know this, unless it gives fewer rows than it could.
 *
 *	SELECT change_id, lead(change_id) OVER (PARTITION BY key ORDER BY change_id), key::text
 *	  FROM (SELECT change_id, uuid
 *	          FROM poser_widget_version
 *	         WHERE transaction_id <= $1
 *	           AND ROW(uuid, change_id) > ROW($2, $3)
 *	         ORDER BY uuid, change_id
 *	         LIMIT 1001) AS version (change_id, key)
 *	 ORDER BY key, change_id
 *
 * The limit is a small constant, and next to the table, so that the planner chooses the
 * index on key and change_id, and does not sort all versions.
 */
static char *
next_versions_query(const PoserVersioned *versioned)
{
	AttrNumber key = versioned->keys[0];
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql,
						   "SELECT version.change_id,\n"
						   "       pg_catalog.lead(version.change_id) OVER (PARTITION BY version.key ORDER BY version.change_id),\n"
						   "       version.key::pg_catalog.text\n"
						   "  FROM (SELECT change_id, ");
	poser_history_append_column(&sql, versioned, key, "%n");
	appendStringInfo(&sql,
					 "\n          FROM %s\n"
					 "         WHERE transaction_id OPERATOR(pg_catalog.<=) $1\n"
					 "           AND ",
					 poser_relation_name(versioned->versions));
	poser_history_append_column(&sql, versioned, key,
								"ROW(%n, change_id) OPERATOR(pg_catalog.>) ROW($2, $3)\n"
								"         ORDER BY %n, change_id\n");
	appendStringInfo(&sql,
					 "         LIMIT %d) AS version (change_id, key)\n"
					 " ORDER BY version.key, version.change_id",
					 DELETED_AT_A_TIME + 1);
	return sql.data;
}

/*
 * Delete at most "limit" versions of those in the first "nrows" rows of the last query's
 * result.  Raises the horizon's change_id to the changes that have replaced them.  *nfound
 * becomes how many they were.  Returns how many were deleted.  "position", if it is not
 * NULL, becomes that of the last row that was looked at.
 *
 *	DELETE FROM poser_widget_version WHERE change_id = ANY ($1)
 */
static int64
delete_found(const PoserVersioned *versioned, int nrows, int64 limit, int *nfound, PoserPosition *position,
			 PoserHorizon *horizon)
{
	Oid argtypes[] = {INT8ARRAYOID};
	char *sql = psprintf("DELETE FROM %s WHERE change_id OPERATOR(pg_catalog.=) ANY ($1)",
						 poser_relation_name(versioned->versions));
	SPITupleTable *found = SPI_tuptable;
	Datum ids[DELETED_AT_A_TIME];
	Datum array;
	int64 result = 0;
	int last = -1;

	Assert(nrows <= DELETED_AT_A_TIME);
	CHECK_FOR_INTERRUPTS();
	*nfound = 0;
	while (last + 1 < nrows && *nfound < limit)
	{
		HeapTuple tuple = found->vals[++last];
		bool isnull;
		int64 next = DatumGetInt64(SPI_getbinval(tuple, found->tupdesc, 2, &isnull));

		if (isnull)
			continue;
		ids[(*nfound)++] = SPI_getbinval(tuple, found->tupdesc, 1, &isnull);
		horizon->change_id = Max(horizon->change_id, next);
	}
	if (position != NULL && last >= 0)
	{
		bool isnull;

		pfree(position->key);
		position->key = SPI_getvalue(found->vals[last], found->tupdesc, 3);
		position->change_id = DatumGetInt64(SPI_getbinval(found->vals[last], found->tupdesc, 1, &isnull));
	}

	if (*nfound > 0)
	{
		array = PointerGetDatum(construct_array(ids, *nfound, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
		result = poser_run(&(PoserQuery) {.sql = sql, .nargs = 1, .argtypes = argtypes, .values = &array});
		pfree(DatumGetPointer(array));
	}
	SPI_freetuptable(found);
	pfree(sql);
	return result;
}

/*
 * Remove at most "limit" versions of one table, by transactions up to this one, and raise
 * the horizon accordingly.  Returns how many were removed.  They are read by a cursor and
 * deleted in parts, so that memory stays bounded.
 *
 * "position" is NULL, or it has "since" and becomes the position of the last version that
 * was removed; complete if there are no more.
 */
static int64
prune_versions(const PoserVersioned *versioned, int64 transaction_id, int64 limit, PoserPosition *position,
			   PoserHorizon *horizon)
{
	Oid argtypes[] = {INT8OID, INT8OID, INT8OID};
	Datum values[] = {Int64GetDatum(transaction_id), Int64GetDatum(limit), Int64GetDatum(position != NULL ? position->since : 0)};
	PoserQuery query = {.sql = old_versions_query(versioned, position != NULL), .nargs = position != NULL ? 3 : 2, .argtypes = argtypes, .values = values, .read_only = true};
	int64 result = 0;
	int64 total = 0;
	Portal portal;

	/* the planner must know how few transactions there are since then */
	if (position != NULL)
		query.cursor_options = CURSOR_OPT_CUSTOM_PLAN;
	portal = poser_open_cursor_for(&query);
	for (;;)
	{
		int nfound;

		SPI_cursor_fetch(portal, true, DELETED_AT_A_TIME);
		if (SPI_processed == 0)
			break;
		result += delete_found(versioned, SPI_processed, DELETED_AT_A_TIME, &nfound, position, horizon);
		total += nfound;
	}
	SPI_cursor_close(portal);
	if (total > 0)
		horizon->transaction_id = Max(horizon->transaction_id, transaction_id);
	if (position != NULL)
		position->complete = (total < limit);
	return result;
}

/*
 * Remove at most "limit" versions of one table after a position, up to its transaction,
 * as prune_versions() does.  All queries read with the active snapshot, which does not
 * see what is deleted here.
 */
static int64
prune_after(const PoserVersioned *versioned, int64 limit, PoserPosition *position, PoserHorizon *horizon)
{
	Oid argtypes[] = {INT8OID, TEXTOID, INT8OID};
	char *sql = next_versions_query(versioned);
	int64 result = 0;
	int64 total = 0;

	while (total < limit && !position->complete)
	{
		Datum values[] = {Int64GetDatum(position->transaction_id), CStringGetTextDatum(position->key), Int64GetDatum(position->change_id)};
		int nrows = poser_run(&(PoserQuery) {.sql = sql, .nargs = lengthof(argtypes), .argtypes = argtypes, .values = values, .read_only = true});
		int nfound;

		pfree(DatumGetPointer(values[1]));

		/* of the last row of a full result it is not known what has replaced it */
		result += delete_found(versioned, Min(nrows, DELETED_AT_A_TIME), limit - total, &nfound, position, horizon);
		total += nfound;
		position->complete = (nrows <= DELETED_AT_A_TIME && total < limit);
	}
	if (total > 0)
		horizon->transaction_id = Max(horizon->transaction_id, position->transaction_id);
	return result;
}

/* Returns poser_prune_position in this schema, or InvalidOid: schemas before 1.5 have none. */
static Oid
find_positions(Oid nspid)
{
	return get_relname_relid("poser_prune_position", nspid);
}

/*
 * Can pruning go through these versions by positions?  It needs their table, the index by
 * which it reads the versions behind a position, and a key that can be written as text
 * and sorts as that text does.
 */
static bool
has_positions(const PoserVersioned *versioned, Oid positions)
{
	Oid type = get_atttype(versioned->versions, versioned->keys[0]);

	return OidIsValid(positions) && OidIsValid(versioned->versions_index) && versioned->nkeys == 1 &&
		   (type == TEXTOID || type == VARCHAROID);
}

/*
 * Read the position of pruning in this table.  Returns false if there is none:
 *
 *	SELECT transaction_id, change_id, full_until, key, seen, issued_before
 *	  FROM poser_prune_position WHERE relation = $1
 */
static bool
read_position(Oid positions, Oid relid, PoserPosition *position)
{
	Oid argtypes[] = {NAMEOID};
	Datum values[] = {CStringGetDatum(get_rel_name(relid))};
	char *sql = psprintf("SELECT transaction_id, change_id, full_until, key, seen, issued_before\n"
						 "  FROM %s WHERE relation OPERATOR(pg_catalog.=) $1",
						 poser_relation_name(positions));
	bool isnull;

	if (poser_run(&(PoserQuery) {.sql = sql, .nargs = 1, .argtypes = argtypes, .values = values, .read_only = true}) == 0)
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
 * Replace the position of pruning in this table, or remove it if "position" is NULL:
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
static void
write_position(Oid positions, Oid relid, const PoserPosition *position)
{
	const char *name = poser_relation_name(positions);
	Oid argtypes[] = {NAMEOID, INT8OID, INT8OID, TEXTOID, TEXTOID, INT8OID, TIMESTAMPTZOID};
	Datum values[lengthof(argtypes)] = {CStringGetDatum(get_rel_name(relid))};
	char *sql = psprintf("DELETE FROM %s WHERE relation OPERATOR(pg_catalog.=) $1", name);

	(void) poser_run(&(PoserQuery) {.sql = sql, .nargs = 1, .argtypes = argtypes, .values = values});
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
	(void) poser_run(&(PoserQuery) {.sql = sql, .nargs = lengthof(argtypes), .argtypes = argtypes, .values = values, .nulls = position->complete ? "  nn   " : "       "});
}

/*
 * Begin a round up to this transaction, with the active snapshot.  "before" is the time
 * before which a change is old.
 */
static void
begin_round(PoserPosition *position, int64 transaction_id, TimestampTz before)
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
static bool
has_seen_all(const PoserPosition *position, const PoserVersioned *tables, int64 transaction_id, bool with_own)
{
	Oid argtypes[] = {INT8OID, TEXTOID, BOOLOID};
	Datum values[] = {Int64GetDatum(transaction_id), CStringGetTextDatum(position->seen), BoolGetDatum(with_own)};
	const char *transactions = poser_relation_name(tables[0].transactions);
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

	return poser_run(&(PoserQuery) {.sql = sql, .nargs = lengthof(argtypes), .argtypes = argtypes, .values = values, .read_only = true, .no_seqscan = true}) == 0;
}

/*
 * Returns a transaction up to which all are older than this time, by what the positions
 * say, or PG_INT64_MIN.
 */
static int64
known_to_be_old(const PoserVersioned *tables, int ntables, Oid positions, TimestampTz before)
{
	int64 result = PG_INT64_MIN;

	if (!OidIsValid(positions))
		return result;
	for (int i = 0; i <= ntables; i++)
	{
		PoserPosition position;
		Oid relid = i < ntables ? tables[i].versions : tables[0].transactions;

		if (read_position(positions, relid, &position) && position.before <= before &&
			position.transaction_id > result && has_seen_all(&position, tables, position.transaction_id, true))
			result = position.transaction_id;
	}
	return result;
}

/*
 * Returns the transaction up to which versions are pruned.  If there is none, *isnull is
 * true:
 *
 *	SELECT max(id)
 *	  FROM poser_transaction
 *	 WHERE id < COALESCE((SELECT min(id) FROM poser_transaction WHERE issued_at >= $1 AND id > $3),
 *	                     9223372036854775807)
 *	   AND id < $2
 *
 * $1 is the time before which a change is old, $2 the first transaction that a consumer
 * needs.  No index has issued_at, so the inner query reads the transactions after $3 up to
 * the first one that is not old.  All transactions up to $3 are known to be old.
 */
static int64
last_pruned_transaction(const PoserVersioned *tables, int ntables, Oid positions, TimestampTz before, bool *isnull)
{
	const char *transactions = poser_relation_name(tables[0].transactions);
	Oid argtypes[] = {TIMESTAMPTZOID, INT8OID, INT8OID};
	Datum values[lengthof(argtypes)];
	char *sql = psprintf("SELECT pg_catalog.max(id)\n"
						 "  FROM %s\n"
						 " WHERE id OPERATOR(pg_catalog.<)\n"
						 "       COALESCE((SELECT pg_catalog.min(id) FROM %s\n"
						 "                  WHERE issued_at OPERATOR(pg_catalog.>=) $1 AND id OPERATOR(pg_catalog.>) $3),\n"
						 "                9223372036854775807)\n"
						 "   AND id OPERATOR(pg_catalog.<) $2",
						 transactions, transactions);

	values[0] = TimestampTzGetDatum(before);
	values[1] = Int64GetDatum(poser_first_needed_hook != NULL ? poser_first_needed_hook(tables[0].nspid, InvalidOid) : PG_INT64_MAX);
	values[2] = Int64GetDatum(known_to_be_old(tables, ntables, positions, before));
	(void) poser_run(&(PoserQuery) {.sql = sql, .nargs = lengthof(argtypes), .argtypes = argtypes, .values = values, .read_only = true, .no_seqscan = true});
	return poser_history_position(1, isnull);
}

/* Is there nothing to do up to this transaction, because a complete round went so far and has seen all? */
static bool
is_covered(const PoserPosition *position, const PoserVersioned *tables, int64 transaction_id)
{
	return position->complete && position->transaction_id >= transaction_id &&
		   has_seen_all(position, tables, transaction_id, false);
}

/*
 * Remove at most "limit" versions of one table, from where the last call has stopped.  When
 * a round comes to its end, another one begins unless the last one has seen everything.
 */
static int64
prune_in_rounds(const PoserVersioned *tables, const PoserVersioned *versioned, Oid positions,
				int64 transaction_id, TimestampTz before, int64 limit, PoserHorizon *horizon)
{
	PoserPosition position;
	bool exists = read_position(positions, versioned->versions, &position);
	bool changed = false;
	int64 result = 0;

	for (;;)
	{
		if (!exists)
			begin_round(&position, transaction_id, before);
		else if (position.complete)
		{
			int64 covered = position.transaction_id;
			int64 full_until = position.full_until;

			if (is_covered(&position, tables, transaction_id))
				break;
			if (covered < transaction_id && !has_seen_all(&position, tables, covered, false))
				covered = transaction_id;
			begin_round(&position, transaction_id, before);

			/*
			 * If little can have become old, which the ids tell, only rows with such
			 * versions are looked at.  All rows are looked at from time to time, because
			 * logical replication can bring a version later than its transaction.
			 */
			if (covered < transaction_id && transaction_id - covered <= limit &&
				(transaction_id - full_until) / FULL_ROUND_AFTER <= limit)
			{
				position.since = covered;
				position.full_until = full_until;
			}
		}
		exists = true;

		/* this call may have to leave what the round could remove so far */
		position.transaction_id = Min(position.transaction_id, transaction_id);
		position.full_until = Min(position.full_until, transaction_id);
		position.before = Min(position.before, before);
		if (position.since != 0)
			result += prune_versions(versioned, position.transaction_id, limit - result, &position, horizon);
		else
			result += prune_after(versioned, limit - result, &position, horizon);
		changed = true;
		if (!position.complete)
			break;
	}
	if (changed)
		write_position(positions, versioned->versions, &position);
	return result;
}

/*
 * Add the ids, before this one, of the transactions of the versions in a table.  The
 * table is scanned without a query: reading one column is all there is to do.
 */
static void
read_transactions(Relation versions, AttrNumber column, Tuplestorestate *used, TupleDesc desc,
				  int64 transaction_id)
{
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	TupleTableSlot *slot = table_slot_create(versions, NULL);
	TableScanDesc scan = table_beginscan(versions, snapshot, 0, NULL, SO_NONE);
	int64 last = 0;

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		bool isnull;
		Datum value = slot_getattr(slot, column, &isnull);

		CHECK_FOR_INTERRUPTS();
		/* the versions of a transaction usually follow each other, so this leaves out most repetitions */
		if (isnull || DatumGetInt64(value) >= transaction_id || DatumGetInt64(value) == last)
			continue;
		last = DatumGetInt64(value);
		tuplestore_putvalues(used, desc, &value, &isnull);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
}

/* All tables with the columns of a table of versions. */
static const char *const version_tables_query =
	"SELECT c.oid\n"
	"  FROM pg_catalog.pg_class AS c\n"
	"       JOIN pg_catalog.pg_attribute AS a ON a.attrelid OPERATOR(pg_catalog.=) c.oid\n"
	" WHERE c.relkind OPERATOR(pg_catalog.=) 'r' AND c.relpersistence OPERATOR(pg_catalog.<>) 't'\n"
	"   AND (a.attname OPERATOR(pg_catalog.=) ANY ('{transaction_id,change_id}'::pg_catalog.name[])\n"
	"        AND a.atttypid OPERATOR(pg_catalog.=) 'pg_catalog.int8'::pg_catalog.regtype\n"
	"        OR a.attname OPERATOR(pg_catalog.=) 'operation_type'\n"
	"        AND a.atttypid OPERATOR(pg_catalog.=) 'pg_catalog.int2'::pg_catalog.regtype)\n"
	" GROUP BY c.oid\n"
	"HAVING pg_catalog.count(*) OPERATOR(pg_catalog.=) 3";

/*
 * Collect the transactions, before this one, with versions in other tables of versions.
 * These are all tables with the columns of a table of versions, whatever their owner: a
 * trigger may record to such a table now, or may have done so before it was renamed.
 *
 * A query over these tables could run their owners' code, but a scan does not.  Returns
 * false if one of them cannot be locked at once.  Pruning does not wait for such a table,
 * because its owner could then block pruning.
 */
bool
poser_collect_transactions(Tuplestorestate *used, TupleDesc desc, const PoserVersioned *tables, int ntables,
						   int64 transaction_id)
{
	SPITupleTable *found;
	bool result = true;

	/* find the tables that look like tables of versions */
	(void) poser_run(&(PoserQuery) {.sql = version_tables_query, .read_only = true});
	found = SPI_tuptable;
	for (uint64 i = 0; result && i < found->numvals; i++)
	{
		bool isnull;
		Oid relid = DatumGetObjectId(SPI_getbinval(found->vals[i], found->tupdesc, 1, &isnull));
		bool known = false;
		AttrNumber column;
		Relation rel;

		/* the caller looks at the extension's own ones */
		for (int j = 0; j < ntables; j++)
			known = known || tables[j].versions == relid;
		if (known)
			continue;
		if (!ConditionalLockRelationOid(relid, AccessShareLock))
		{
			result = false;
			continue;
		}

		/* the table may have been dropped or altered before we had the lock */
		rel = try_table_open(relid, NoLock);
		if (rel == NULL)
			continue;
		column = get_attnum(relid, "transaction_id");
		if (column > 0 && get_atttype(relid, column) == INT8OID)
			read_transactions(rel, column, used, desc, transaction_id);
		table_close(rel, AccessShareLock);
	}
	SPI_freetuptable(found);
	return result;
}

/*
 * Remove the transactions before this one to which no version in any table belongs:
 *
 *	DELETE FROM poser_transaction AS t
 *	 WHERE t.id < $1
 *	   AND NOT EXISTS (SELECT FROM poser_used AS used WHERE used.id = t.id)
 *
 * "poser_used" has the transactions of all versions that there are.  The statement uses the
 * active snapshot, which is older than the look at the versions.  So it does not see
 * transactions that have committed since.  If not all tables of versions could be read, no
 * transaction is removed, and the result is false.
 */
static bool
prune_transactions(const PoserVersioned *tables, int ntables, int64 transaction_id)
{
	Oid argtypes[] = {INT8OID};
	Datum values[] = {Int64GetDatum(transaction_id)};
	EphemeralNamedRelationData enr;
	Tuplestorestate *used = tuplestore_begin_heap(false, false, work_mem);
	TupleDesc desc = CreateTemplateTupleDesc(1);
	char *sql = psprintf("DELETE FROM %s AS t\n"
						 " WHERE t.id OPERATOR(pg_catalog.<) $1\n"
						 "   AND NOT EXISTS (SELECT FROM poser_used AS used WHERE used.id OPERATOR(pg_catalog.=) t.id)",
						 poser_relation_name(tables[0].transactions));
	bool result;

	TupleDescInitEntry(desc, 1, "id", INT8OID, -1, 0);
	TupleDescFinalize(desc);
	result = poser_collect_transactions(used, desc, tables, ntables, transaction_id);
	if (result)
	{
		for (int i = 0; i < ntables; i++)
		{
			Relation versions = table_open(tables[i].versions, AccessShareLock);

			read_transactions(versions, tables[i].transaction_id, used, desc, transaction_id);
			table_close(versions, AccessShareLock);
		}
		poser_register_rows(&enr, "poser_used", desc, used, tuplestore_tuple_count(used));
		(void) poser_run(&(PoserQuery) {.sql = sql, .nargs = 1, .argtypes = argtypes, .values = values, .snapshot = GetActiveSnapshot(), .once = true, .expected = SPI_OK_DELETE});
		SPI_unregister_relation(enr.md.name);
	}
	tuplestore_end(used);
	return result;
}

/*
 * Replace the horizon:
 *
 *	DELETE FROM poser_version_horizon
 *	INSERT INTO poser_version_horizon (transaction_id, change_id) VALUES ($1, $2)
 */
static void
set_horizon(const PoserVersioned *versioned, PoserHorizon horizon)
{
	const char *name = poser_relation_name(versioned->horizon);
	Oid argtypes[] = {INT8OID, INT8OID};
	Datum values[] = {Int64GetDatum(horizon.transaction_id), Int64GetDatum(horizon.change_id)};
	char *sql;

	(void) poser_run(&(PoserQuery) {.sql = psprintf("DELETE FROM %s", name)});
	sql = psprintf("INSERT INTO %s (transaction_id, change_id) VALUES ($1, $2)", name);
	(void) poser_run(&(PoserQuery) {.sql = sql, .nargs = 2, .argtypes = argtypes, .values = values});
}

/*
 * Remove transactions without versions.  "removed" is how many versions the call has
 * removed, at most "limit".
 *
 * This reads all versions.  So a call that still finds versions to remove leaves it to a
 * later one.  With a limit, it is not done again while nothing has changed: the row of
 * poser_prune_position for poser_transaction says up to where it was done.  That row is
 * removed with the first version that is removed afterwards.
 */
static void
prune_transactions_at_last(const PoserVersioned *tables, int ntables, Oid positions,
						   int64 transaction_id, TimestampTz before, int64 removed, int64 limit)
{
	Oid relid = tables[0].transactions;
	PoserPosition position;
	bool done = false;

	if (removed < limit)
	{
		if (removed == 0 && limit < PG_INT64_MAX && OidIsValid(positions) &&
			read_position(positions, relid, &position) && is_covered(&position, tables, transaction_id))
			return;
		begin_round(&position, transaction_id, before);
		position.complete = true;
		done = prune_transactions(tables, ntables, transaction_id);
	}
	if (!OidIsValid(positions))
		return;
	if (done && limit < PG_INT64_MAX)
		write_position(positions, relid, &position);
	else if (removed > 0 && !done)
		write_position(positions, relid, NULL);
}

/*
 * Remove at most "limit" versions of these tables, by transactions before this time, and
 * then transactions without versions.  Returns how many versions were removed.  Raises
 * an error unless the current user has the rights of the owner of all these tables.
 */
static int64
prune(const PoserVersioned *tables, int ntables, TimestampTz before, int64 limit)
{
	Oid positions = find_positions(get_rel_namespace(tables[0].transactions));
	Oid save_userid;
	int save_sec_context;
	int64 transaction_id;
	int64 result = 0;
	bool isnull;

	poser_check_owner(tables[0].transactions);
	poser_check_owner(tables[0].horizon);
	if (OidIsValid(positions))
		poser_check_owner(positions);
	for (int i = 0; i < ntables; i++)
		poser_check_owner(tables[i].versions);

	/* only one session prunes at a time; all queries that read use one snapshot */
	LockRelationOid(tables[0].horizon, ShareUpdateExclusiveLock);
	poser_become_owner(tables[0].transactions, &save_userid, &save_sec_context);
	PushActiveSnapshot(GetTransactionSnapshot());
	poser_history_lock(tables, ntables);
	if (OidIsValid(positions))
		poser_lock_to_read(&positions, 1);
	SPI_connect();

	/* the row of this transaction may be removed */
	poser_transaction_forget();

	transaction_id = last_pruned_transaction(tables, ntables, positions, before, &isnull);
	if (!isnull)
	{
		PoserHorizon horizon = poser_history_horizon(&tables[0], true);

		for (int i = 0; i < ntables && result < limit; i++)
		{
			if (limit < PG_INT64_MAX && has_positions(&tables[i], positions))
				result += prune_in_rounds(tables, &tables[i], positions, transaction_id, before, limit - result, &horizon);
			else
				result += prune_versions(&tables[i], transaction_id, limit - result, NULL, &horizon);
		}
		if (result > 0)
			set_horizon(&tables[0], horizon);
		/* the transaction itself stays: it gives the time of the oldest state that is left */
		prune_transactions_at_last(tables, ntables, positions, transaction_id, before, result, limit);
	}

	SPI_finish();
	PopActiveSnapshot();
	SetUserIdAndSecContext(save_userid, save_sec_context);
	return result;
}

/*
 * Returns the time before which something is older than the argument "older_than" of a
 * function, which is an interval.  Raises an error if the argument is null or negative.
 */
TimestampTz
poser_older_than_argument(FunctionCallInfo fcinfo, int arg)
{
	Interval zero = {0};

	if (PG_ARGISNULL(arg) ||
		DatumGetBool(DirectFunctionCall2(interval_lt, PG_GETARG_DATUM(arg), IntervalPGetDatum(&zero))))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("older_than must be an interval that is not negative")));
	return DatumGetTimestampTz(DirectFunctionCall2(timestamptz_mi_interval,
												   TimestampTzGetDatum(GetCurrentTimestamp()),
												   PG_GETARG_DATUM(arg)));
}

/*
 * poser_prune_versions(older_than interval, max_versions bigint) returns bigint
 *
 * The result is how many versions were removed.
 */
Datum
poser_prune_versions(PG_FUNCTION_ARGS)
{
	PoserVersioned tables[POSER_VERSIONED_TABLES];
	int64 limit = PG_INT64_MAX;
	TimestampTz before;

	PreventCommandIfReadOnly("poser_prune_versions()");
	before = poser_older_than_argument(fcinfo, 0);
	if (!PG_ARGISNULL(1))
		limit = PG_GETARG_INT64(1);
	if (limit < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_versions must be at least 1")));

	poser_versioned_describe_all(tables, get_func_namespace(fcinfo->flinfo->fn_oid));
	PG_RETURN_INT64(prune(tables, POSER_VERSIONED_TABLES, before, limit));
}
