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

#include "versions/prune_internal.h"

PG_FUNCTION_INFO_V1(poser_prune_versions);

int64 (*poser_first_needed_hook)(Oid nspid, Oid relid) = NULL;

/*
 * A round looks at all rows if the last one that did so went up to an id that is less than
 * the round's by more than this times max_versions.
 */
#define FULL_ROUND_AFTER 100

/*
 * Append the condition that versions "v" belong to rows that match, if the call has a
 * match:
 *
 *	   AND EXISTS (SELECT FROM customer_version AS m
 *	                WHERE m.id = v.id AND m.email = 'a@example.org')
 */
void
poser_prune_append_match(StringInfo sql, const PoserPruning *pruning, const PoserVersioned *versioned)
{
	if (pruning->match == NULL)
		return;
	appendStringInfo(sql, "\n   AND EXISTS (SELECT FROM %s AS m\n                WHERE ",
					 poser_relation_name(versioned->versions));
	poser_history_append_keys(sql, versioned, " AND ", "m.%n %= v.%n");
	appendStringInfoString(sql, " AND ");
	poser_match_append(sql, versioned, pruning->match, "m", false);
	appendStringInfoString(sql, ")");
}

/* Begin a query with the parameters of the match, if the call has one. */
void
poser_prune_query_begin(PoserPruneQuery *query, const PoserPruning *pruning)
{
	int nargs = pruning->match != NULL ? pruning->match->nargs : 0;

	query->argtypes = palloc((nargs + 3) * sizeof(Oid));
	query->values = palloc((nargs + 3) * sizeof(Datum));
	for (int i = 0; i < nargs; i++)
	{
		query->argtypes[i] = pruning->match->argtypes[i];
		query->values[i] = pruning->match->values[i];
	}
	query->query = (PoserQuery) {.nargs = nargs, .argtypes = query->argtypes, .values = query->values, .read_only = true};
}

/* Add a parameter, at most three of them. */
void
poser_prune_query_add(PoserPruneQuery *query, int64 value)
{
	query->argtypes[query->query.nargs] = INT8OID;
	query->values[query->query.nargs++] = Int64GetDatum(value);
}

/*
 * Returns the query for at most $2 versions that can be pruned up to transaction $1,
 * each with the change that has replaced it and its transaction:
 *
 *	SELECT change_id, next, next_transaction
 *	  FROM (SELECT v.change_id, lead(v.change_id) OVER next_version, lead(v.transaction_id) OVER next_version
 *	          FROM poser_widget_version AS v
 *	         WHERE v.transaction_id <= $1 [AND <it matches>]
 *	        WINDOW next_version AS (PARTITION BY v.uuid ORDER BY v.change_id)
 *	       ) AS version (change_id, next, next_transaction)
 *	 WHERE next IS NOT NULL
 *	 LIMIT $2
 *
 * With "since" they are only those of rows with versions by transactions after $3, in
 * the order of key and change_id, and each has its key:
 *
 *	SELECT change_id, next, next_transaction, key::text
 *	...
 *	         WHERE v.transaction_id <= $1
 *	           AND v.uuid = ANY (SELECT uuid FROM poser_widget_version
 *	                              WHERE change_id > $3 AND transaction_id > $3 AND transaction_id <= $1)
 *	...
 *	 WHERE next IS NOT NULL
 *	 ORDER BY key, change_id
 *	 LIMIT $2
 *
 * "nargs" parameters of the match come before these.
 */
static char *
old_versions_query(const PoserPruning *pruning, const PoserVersioned *versioned, bool since, int nargs)
{
	const char *versions = poser_relation_name(versioned->versions);
	const char *change_id = poser_history_column(versioned, versioned->change_id);
	const char *transaction_id = poser_history_column(versioned, versioned->transaction_id);
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql,
					 "SELECT version.change_id, version.next, version.next_transaction%1$s\n"
					 "  FROM (SELECT v.%2$s, pg_catalog.lead(v.%2$s) OVER next_version,\n"
					 "               pg_catalog.lead(v.%3$s) OVER next_version",
					 since ? ", version.key::pg_catalog.text" : "", change_id, transaction_id);
	if (since)
		poser_history_append_column(&sql, versioned, versioned->keys[0], ", v.%n");
	appendStringInfo(&sql,
					 "\n          FROM %s AS v\n"
					 "         WHERE v.%s OPERATOR(pg_catalog.<=) $%d",
					 versions, transaction_id, nargs + 1);
	poser_prune_append_match(&sql, pruning, versioned);
	if (since)
	{
		poser_history_append_column(&sql, versioned, versioned->keys[0],
									"\n           AND v.%n OPERATOR(pg_catalog.=) ANY (SELECT %n");
		appendStringInfo(&sql,
						 " FROM %1$s\n"
						 "                            WHERE %2$s OPERATOR(pg_catalog.>) $3\n"
						 "                              AND %3$s OPERATOR(pg_catalog.>) $3\n"
						 "                              AND %3$s OPERATOR(pg_catalog.<=) $1)",
						 versions, change_id, transaction_id);
	}
	appendStringInfoString(&sql, "\n        WINDOW next_version AS (PARTITION BY ");
	poser_history_append_keys(&sql, versioned, ", ", "v.%n");
	appendStringInfo(&sql, " ORDER BY v.%s)\n       ) AS version (change_id, next, next_transaction%s)\n WHERE version.next IS NOT NULL\n",
					 change_id, since ? ", key" : "");
	if (since)
		appendStringInfoString(&sql, " ORDER BY version.key, version.change_id\n");
	appendStringInfo(&sql, " LIMIT $%d", nargs + 2);
	return sql.data;
}

/*
 * Returns the query for the next versions by transactions up to $1, after the version of
 * key $2 with change_id $3, each with the change that has replaced it, and its key.  Of
 * the last one the query does not know this, unless it gives fewer rows than it could.
 *
 *	SELECT change_id, lead(change_id) OVER (PARTITION BY key ORDER BY change_id), NULL::bigint, key::text
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
						   "       NULL::pg_catalog.int8,\n"
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
					 PRUNED_AT_A_TIME + 1);
	return sql.data;
}

/*
 * Delete the versions with these change_ids.  Returns how many were deleted.
 *
 *	DELETE FROM poser_widget_version WHERE change_id = ANY ($1)
 */
int64
poser_prune_delete_ids(const PoserPruning *pruning, const PoserVersioned *versioned, Datum *ids, int n)
{
	Oid argtypes[] = {INT8ARRAYOID};
	char *sql = psprintf("DELETE FROM %s WHERE %s OPERATOR(pg_catalog.=) ANY ($1)",
						 poser_relation_name(versioned->versions), poser_history_column(versioned, versioned->change_id));
	Datum array;
	int64 result;

	CHECK_FOR_INTERRUPTS();
	if (n == 0)
		return 0;
	array = PointerGetDatum(construct_array(ids, n, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	if (versioned->own)
		poser_binding_begin_changes(versioned->versions);
	result = poser_run(&(PoserQuery) {.sql = sql, .nargs = 1, .argtypes = argtypes, .values = &array, .expected = SPI_OK_DELETE});
	if (versioned->own)
		poser_binding_end_changes();
	pfree(DatumGetPointer(array));
	pfree(sql);
	poser_progress_count(pruning->progress, result);
	return result;
}

/*
 * Delete at most "limit" versions of those in the first "nrows" rows of the last query's
 * result.  Its columns are the version, the change that has replaced it and, for an own
 * table, the transaction of this change; with "position" also the key.  Raises the horizon
 * accordingly.  *nfound becomes how many versions they were.  Returns how many were
 * deleted.  "position", if it is not NULL, becomes that of the last row that was looked at.
 */
static int64
prune_delete(const PoserPruning *pruning, const PoserVersioned *versioned, int nrows, int64 limit, int *nfound,
			 PoserPosition *position, PoserHorizon *horizon)
{
	SPITupleTable *found = SPI_tuptable;
	Datum ids[PRUNED_AT_A_TIME];
	int last = -1;

	Assert(nrows <= PRUNED_AT_A_TIME);
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
		if (versioned->own)
			horizon->transaction_id = Max(horizon->transaction_id,
										  DatumGetInt64(SPI_getbinval(tuple, found->tupdesc, 3, &isnull)));
	}
	if (position != NULL && last >= 0)
	{
		bool isnull;

		pfree(position->key);
		position->key = SPI_getvalue(found->vals[last], found->tupdesc, 4);
		position->change_id = DatumGetInt64(SPI_getbinval(found->vals[last], found->tupdesc, 1, &isnull));
	}

	SPI_freetuptable(found);
	return poser_prune_delete_ids(pruning, versioned, ids, *nfound);
}

/*
 * Delete the versions that a query finds, and raise the horizon accordingly.  They are read
 * by a cursor and deleted in parts, so that memory stays bounded.  The query's columns, and
 * "position", are those of prune_delete().  *total becomes how many versions were found.
 * Returns how many were deleted.
 */
int64
poser_prune_found(const PoserPruning *pruning, const PoserVersioned *versioned, const PoserQuery *query, int64 *total,
				  PoserPosition *position, PoserHorizon *horizon)
{
	Portal portal = poser_open_cursor_for(query);
	int64 result = 0;

	*total = 0;
	for (;;)
	{
		int nfound;

		SPI_cursor_fetch(portal, true, PRUNED_AT_A_TIME);
		if (SPI_processed == 0)
			break;
		result += prune_delete(pruning, versioned, SPI_processed, PRUNED_AT_A_TIME, &nfound, position, horizon);
		*total += nfound;
	}
	SPI_cursor_close(portal);
	return result;
}

/*
 * Remove at most "limit" versions of one table, by transactions up to this one, and raise
 * the horizon accordingly.  Returns how many were removed.
 *
 * "position" is NULL, or it has "since" and becomes the position of the last version that
 * was removed; complete if there are no more.
 */
int64
poser_prune_pass(const PoserPruning *pruning, const PoserVersioned *versioned, int64 transaction_id, int64 limit,
				 PoserPosition *position, PoserHorizon *horizon)
{
	PoserPruneQuery query;
	int64 result;
	int64 total;

	poser_prune_query_begin(&query, pruning);
	query.query.sql = old_versions_query(pruning, versioned, position != NULL, query.query.nargs);
	poser_prune_query_add(&query, transaction_id);
	poser_prune_query_add(&query, limit);
	if (position != NULL)
	{
		/* the planner must know how few transactions there are since then */
		poser_prune_query_add(&query, position->since);
		query.query.cursor_options = CURSOR_OPT_CUSTOM_PLAN;
	}
	result = poser_prune_found(pruning, versioned, &query.query, &total, position, horizon);
	if (total > 0 && !versioned->own)
		horizon->transaction_id = Max(horizon->transaction_id, transaction_id);
	if (position != NULL)
		position->complete = (total < limit);
	return result;
}

/*
 * Remove at most "limit" versions of one table after a position, up to its transaction,
 * as poser_prune_pass() does.  All queries read with the active snapshot, which does not
 * see what is deleted here.
 */
static int64
prune_after(const PoserPruning *pruning, const PoserVersioned *versioned, int64 limit, PoserPosition *position,
			PoserHorizon *horizon)
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
		result += prune_delete(pruning, versioned, Min(nrows, PRUNED_AT_A_TIME), limit - total, &nfound, position, horizon);
		total += nfound;
		position->complete = (nrows <= PRUNED_AT_A_TIME && total < limit);
	}
	if (total > 0)
		horizon->transaction_id = Max(horizon->transaction_id, position->transaction_id);
	return result;
}

/*
 * Can pruning go through these versions by positions?  It needs their table, the index by
 * which it reads the versions behind a position, and a key that can be written as text
 * and sorts as that text does.
 */
static bool
has_positions(const PoserPruning *pruning, const PoserVersioned *versioned)
{
	Oid type = get_atttype(versioned->versions, versioned->keys[0]);

	return OidIsValid(pruning->positions) && OidIsValid(versioned->versions_index) && versioned->nkeys == 1 &&
		   (type == TEXTOID || type == VARCHAROID);
}

/*
 * Returns a transaction up to which all are older than the call's time, by what the
 * positions of the extension's own tables and this one say, or PG_INT64_MIN.
 */
static int64
known_to_be_old(const PoserPruning *pruning, const char *relation)
{
	const char *relations[POSER_VERSIONED_TABLES + 2] = {"poser_transaction", relation};
	int64 result = PG_INT64_MIN;

	if (!OidIsValid(pruning->positions))
		return result;
	for (int i = 0; i < POSER_VERSIONED_TABLES; i++)
	{
		Oid relid;
		Oid versions;

		if (poser_versioned_find_names(i, pruning->nspid, &relid, &versions))
			relations[2 + i] = get_rel_name(versions);
	}
	for (int i = 0; i < lengthof(relations); i++)
	{
		PoserPosition position;

		if (relations[i] != NULL && poser_prune_read_position(pruning, relations[i], &position) &&
			position.before <= pruning->before && position.transaction_id > result &&
			poser_prune_has_seen_all(pruning, &position, position.transaction_id, true))
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
 * the first one that is not old.  All transactions up to $3 are known to be old.  "relation"
 * is the name of a position that is looked at for this, or NULL.
 */
int64
poser_prune_until(const PoserPruning *pruning, const char *relation, int64 first_needed, bool *isnull)
{
	const char *transactions = poser_relation_name(pruning->transactions);
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

	values[0] = TimestampTzGetDatum(pruning->before);
	values[1] = Int64GetDatum(first_needed);
	values[2] = Int64GetDatum(known_to_be_old(pruning, relation));
	(void) poser_prune_run(pruning, &(PoserQuery) {.sql = sql, .nargs = lengthof(argtypes), .argtypes = argtypes, .values = values, .read_only = true, .no_seqscan = true});
	return poser_history_position(1, isnull);
}

/*
 * Remove at most "limit" versions of one table, from where the last call has stopped.  When
 * a round comes to its end, another one begins unless the last one has seen everything.
 */
int64
poser_prune_in_rounds(const PoserPruning *pruning, const PoserVersioned *versioned, const char *relation,
					  int64 transaction_id, int64 limit, PoserHorizon *horizon)
{
	PoserPosition position;
	bool exists = poser_prune_read_position(pruning, relation, &position);
	bool changed = false;
	int64 result = 0;

	for (;;)
	{
		if (!exists)
			poser_prune_begin_round(&position, transaction_id, pruning->before);
		else if (position.complete)
		{
			int64 covered = position.transaction_id;
			int64 full_until = position.full_until;

			if (poser_prune_is_covered(pruning, &position, transaction_id))
				break;
			if (covered < transaction_id && !poser_prune_has_seen_all(pruning, &position, covered, false))
				covered = transaction_id;
			poser_prune_begin_round(&position, transaction_id, pruning->before);

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
		position.before = Min(position.before, pruning->before);
		if (versioned->own)
			result += poser_prune_changes(pruning, versioned, limit - result, &position, horizon);
		else if (position.since != 0)
			result += poser_prune_pass(pruning, versioned, position.transaction_id, limit - result, &position, horizon);
		else
			result += prune_after(pruning, versioned, limit - result, &position, horizon);
		changed = true;
		if (!position.complete)
			break;
	}
	if (changed)
		poser_prune_write_position(pruning, relation, &position);
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
 * Remove transactions without versions, before this one.
 *
 * This reads all versions.  So a call that still finds versions to remove leaves it to a
 * later one.  With a limit, it is not done again while nothing has changed: the row of
 * poser_prune_position for poser_transaction says up to where it was done.  That row is
 * removed with the first version that is removed afterwards.  A call by the owner of an own
 * table leaves the row as it is, because it must not hold a lock on it.  But such a call
 * writes the table's horizon, and the row has the state of all horizons.
 */
static void
prune_transactions_at_last(const PoserPruning *pruning, int64 transaction_id)
{
	static const char *const relation = "poser_transaction";
	bool limited = (pruning->limit < PG_INT64_MAX);
	PoserPosition position;
	PoserPruneHorizons horizons;
	bool done = false;

	if (pruning->removed < pruning->limit)
	{
		/* before the versions are read, so that what is pruned meanwhile is not missed */
		poser_prune_read_horizons(pruning, &horizons);
		if (pruning->removed == 0 && limited && OidIsValid(pruning->positions) &&
			poser_prune_read_position(pruning, relation, &position) &&
			position.full_until - position.transaction_id == horizons.state &&
			poser_prune_is_covered(pruning, &position, transaction_id))
			return;
		poser_prune_begin_round(&position, transaction_id, pruning->before);
		position.complete = true;
		position.full_until = transaction_id + horizons.state;
		done = poser_prune_transactions(pruning, &horizons, transaction_id);
	}
	if (!OidIsValid(pruning->positions))
		return;
	if (done && limited)
		poser_prune_write_position(pruning, relation, &position);
	else if (pruning->removed > 0 && !done)
		poser_prune_write_position(pruning, relation, NULL);
}

/* Remove versions of the extension's own tables, by transactions up to this one. */
static void
prune_fixed_tables(PoserPruning *pruning, const PoserVersioned *tables, int ntables, int64 transaction_id)
{
	PoserHorizon horizon = poser_history_horizon(&tables[0], true);
	int64 removed = pruning->removed;

	for (int i = 0; i < ntables && pruning->removed < pruning->limit; i++)
	{
		const PoserVersioned *versioned = &tables[i];
		int64 limit = pruning->limit - pruning->removed;
		int64 before = pruning->removed;

		poser_progress_table(pruning->progress, "poser_prune_versions", versioned->relid);
		poser_progress_report(pruning->progress, "removing", pruning->removed);
		if (pruning->limit < PG_INT64_MAX && pruning->match == NULL && has_positions(pruning, versioned))
			pruning->removed += poser_prune_in_rounds(pruning, versioned, get_rel_name(versioned->versions), transaction_id, limit, &horizon);
		else
			pruning->removed += poser_prune_pass(pruning, versioned, transaction_id, limit, NULL, &horizon);
		if (pruning->gone && pruning->removed < pruning->limit)
			pruning->removed += poser_prune_gone(pruning, versioned, transaction_id, limit - (pruning->removed - before), &horizon);
	}
	if (pruning->removed > removed)
		set_horizon(&tables[0], horizon);
}

/* May the current user prune the transactions, and the extension's own tables?  With "raise" it is an error if not. */
static bool
may_prune_all(const PoserPruning *pruning, bool raise)
{
	Oid relids[] = {pruning->transactions, pruning->horizon, pruning->positions};

	for (int i = 0; i < lengthof(relids); i++)
	{
		if (!OidIsValid(relids[i]))
			continue;
		if (raise)
			poser_check_owner(relids[i]);
		else if (!poser_is_owner(relids[i], GetUserId()))
			return false;
	}
	return true;
}

/* Returns the own tables in a list of tracked tables that the current user may prune. */
static List *
own_tables_to_prune(List *tracked)
{
	List *result = NIL;
	ListCell *lc;

	foreach(lc, tracked)
	{
		PoserTracked *table = lfirst(lc);

		if (OidIsValid(table->binding) && poser_is_owner(table->versions, GetUserId()))
			result = lappend(result, table);
	}
	return result;
}

/*
 * Remove versions and then transactions without versions.  "tracked" is the table that is
 * to be pruned.  If it is NULL, all are that the current user may prune.
 */
static void
prune(PoserPruning *pruning, PoserTracked *tracked)
{
	PoserVersioned tables[POSER_VERSIONED_TABLES];
	bool is_fixed = (tracked != NULL && !OidIsValid(tracked->binding));
	List *own = NIL;
	bool may_all;
	int ntables = 0;
	int64 transaction_id = 0;
	bool isnull = true;

	/* what is to be pruned, and may the current user do so? */
	if (tracked == NULL)
		own = own_tables_to_prune(poser_tracked_tables(pruning->nspid, false));
	else if (!is_fixed)
	{
		poser_check_owner(tracked->versions);
		own = list_make1(tracked);
	}
	may_all = may_prune_all(pruning, is_fixed || own == NIL);
	if (may_all && (tracked == NULL || is_fixed))
	{
		poser_versioned_describe_all(tables, pruning->nspid);
		for (int i = 0; i < POSER_VERSIONED_TABLES; i++)
		{
			poser_check_owner(tables[i].versions);
			if (tracked == NULL || tables[i].relid == tracked->relid)
				tables[ntables++] = tables[i];
		}
	}

	/*
	 * Only one session prunes the extension's own tables and the transactions at a time, and
	 * no consumer is added meanwhile.  The owner of an own table only waits for the end of
	 * such transactions, and does not keep the lock.
	 */
	LockRelationOid(pruning->horizon, may_all ? ShareUpdateExclusiveLock : ShareLock);
	if (!may_all)
		UnlockRelationOid(pruning->horizon, ShareLock);

	/* all queries over these tables that read use one snapshot */
	PushActiveSnapshot(GetTransactionSnapshot());
	if (ntables > 0)
		poser_history_lock(tables, ntables);
	poser_lock_to_read(&pruning->transactions, 1);
	poser_lock_to_read(&pruning->horizon, 1);
	if (OidIsValid(pruning->positions))
		poser_lock_to_read(&pruning->positions, 1);
	SPI_connect();

	/* the row of this transaction may be removed */
	poser_transaction_forget();

	if (may_all)
	{
		PoserCaller caller;
		int64 needed;

		poser_become_owner(pruning->transactions, &caller);
		needed = poser_first_needed_hook != NULL ? poser_first_needed_hook(pruning->nspid, InvalidOid) : PG_INT64_MAX;
		transaction_id = poser_prune_until(pruning, NULL, needed, &isnull);
		if (ntables > 0 && pruning->object != NULL)
			pruning->match = poser_match_read(&tables[0], pruning->object);
		for (int i = 0; i < ntables; i++)
			poser_prune_check_needed(pruning, &tables[i], isnull ? 0 : transaction_id);
		if (!isnull && ntables > 0)
			prune_fixed_tables(pruning, tables, ntables, transaction_id);
		poser_become_caller(&caller);
	}
	if (tracked != NULL && own != NIL)
		poser_prune_own_table(pruning, tracked, true);
	else
		poser_prune_own_tables(pruning, own);

	/* the transaction itself stays: it gives the time of the oldest state that is left */
	if (may_all && !isnull && (tracked == NULL || is_fixed || pruning->removed > 0))
		prune_transactions_at_last(pruning, transaction_id);

	SPI_finish();
	PopActiveSnapshot();
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
 * poser_prune_versions(older_than interval, max_versions bigint, target regclass, match jsonb,
 *						gone bool) returns bigint
 *
 * The result is how many versions were removed.  Before 1.6 the function has the first two
 * arguments.
 */
Datum
poser_prune_versions(PG_FUNCTION_ARGS)
{
	PoserPruning pruning = {.limit = PG_INT64_MAX};
	PoserTracked tracked;
	PoserProgress progress;
	bool has_target = (PG_NARGS() > 2 && !PG_ARGISNULL(2));

	PreventCommandIfReadOnly("poser_prune_versions()");
	pruning.before = poser_older_than_argument(fcinfo, 0);
	if (!PG_ARGISNULL(1))
		pruning.limit = PG_GETARG_INT64(1);
	if (pruning.limit < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_versions must be at least 1")));
	if (PG_NARGS() > 2)
	{
		pruning.gone = !PG_ARGISNULL(4) && PG_GETARG_BOOL(4);
		if (!PG_ARGISNULL(3))
			pruning.object = PG_GETARG_JSONB_P(3);
		if (pruning.object != NULL && !has_target)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("match needs a target")));
	}

	pruning.nspid = get_func_namespace(fcinfo->flinfo->fn_oid);
	pruning.transactions = poser_table_by_name("poser_transaction", pruning.nspid);
	pruning.horizon = poser_table_by_name("poser_version_horizon", pruning.nspid);
	/* schemas before 1.5 have none */
	pruning.positions = get_relname_relid("poser_prune_position", pruning.nspid);
	if (has_target && !poser_tracked_find(PG_GETARG_OID(2), pruning.nspid, &tracked))
		poser_own_error(PG_GETARG_OID(2), poser_own_unbound_problem(PG_GETARG_OID(2), pruning.nspid));

	pruning.progress = &progress;
	poser_progress_begin(&progress, "poser_prune_versions");
	PG_TRY();
	{
		prune(&pruning, has_target ? &tracked : NULL);
	}
	PG_FINALLY();
	{
		poser_progress_end(&progress);
	}
	PG_END_TRY();
	PG_RETURN_INT64(pruning.removed);
}
