/*
 * revert.c
 *	  Setting rows back to what they were after a transaction.
 *
 * The state after a transaction is the state at a position in the history: each row had
 * the values of its last version up to that position.  The position is the last change
 * that the transaction made to these rows or, if it made none, the transaction's id.  (Ids
 * of transactions and changes come from one sequence.)  A concurrent transaction with a
 * greater id may have changed these rows before that position.  Its changes belong to the
 * state, too.
 *
 * For each row three things are read: its last version up to the position ("was"), the
 * row in the table ("live") and its first version after the position ("next").  A row
 * did not exist if "was" is a delete, or if there is no "was" and "next" is an insert.
 * If there is no "was" and "next" is not an insert, the history does not say what the row
 * was, and this is an error.
 *
 * Rows are written by INSERT, UPDATE and DELETE with the caller's privileges, and are
 * recorded like any other change.  Each query reads the newest data.  Locks keep this
 * data consistent: pruning, and other calls that revert the same row, wait until the
 * transaction ends.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"

#include "versions/versions.h"
#include "versions/version_internal.h"

/* Rows of one table that are reverted together: the row with the key, or those that refer to it. */
typedef struct RevertedRows
{
	const PoserVersioned *versioned;
	AttrNumber column; /* of the versions: the key, or the column that refers to it */
	Oid argtypes[2];   /* of the key and of a position */
	Datum values[2];
	char *keys_query;	/* the keys of all rows in which the column ever was $1 */
	char *states_query; /* the states of these rows at position $2 */
	int64 unknown;		/* rows whose state is unknown */
	int64 surplus;		/* rows to be deleted */
	int64 different;	/* rows to be updated */
	int64 missing;		/* rows to be inserted */
} RevertedRows;

/*
 * Describe the rows that belong to the key: the row itself or, with "parent", the rows
 * in which this column was or is the key.  For components of a widget, keys_query is
 *
 *	SELECT uuid FROM poser_component WHERE widget_uuid = $1
 *	 UNION SELECT uuid FROM poser_component_version WHERE widget_uuid = $1
 */
static void
find_rows(RevertedRows *rows, const PoserVersioned *versioned, Datum key, Oid keytype, const char *parent)
{
	StringInfoData sql;

	memset(rows, 0, sizeof(RevertedRows));
	rows->versioned = versioned;
	rows->column = poser_history_lookup_column(versioned, parent, keytype);
	rows->argtypes[0] = get_atttype(versioned->versions, rows->column);
	rows->argtypes[1] = INT8OID;
	rows->values[0] = key;

	initStringInfo(&sql);
	for (int i = 0; i < 2; i++)
	{
		appendStringInfo(&sql, i == 0 ? "SELECT " : " UNION SELECT ");
		poser_history_append_keys(&sql, versioned, ", ", "%n");
		appendStringInfo(&sql, " FROM %s WHERE ",
						 poser_relation_name(i == 0 ? versioned->relid : versioned->versions));
		poser_history_append_column(&sql, versioned, rows->column, "%n %= $1");
	}
	rows->keys_query = sql.data;
}

/* Run a statement with the key or, with "nargs" 2, the key and the position. */
static uint64
run(const RevertedRows *rows, const char *sql, int nargs)
{
	return poser_run(&(PoserQuery) {.sql = sql, .nargs = nargs, .argtypes = rows->argtypes, .values = rows->values});
}

/*
 * Set the query for the states of the rows at position $2.  "position" is the name of the
 * column that is compared with it: change_id or transaction_id.
 *
 *	SELECT COALESCE(was.operation_type <> 2, false) AS existed,
 *	       was.operation_type IS NULL
 *	       AND COALESCE(next.operation_type <> 0, true) AS is_unknown,
 *	       COALESCE(live.uuid = $1, false) AS belongs,
 *	       live.uuid IS NOT NULL AS is_live,
 *	       ROW(live.uuid, live.description, live.active)::record *<>
 *	       ROW(was.uuid, was.description, was.active)::record AS differs,
 *	       member.uuid AS key_1,
 *	       was.uuid AS was_1, was.description AS was_2, was.active AS was_3
 *	  FROM (<keys_query>) AS member
 *	       LEFT JOIN poser_widget AS live ON live.uuid = member.uuid
 *	       LEFT JOIN LATERAL (SELECT * FROM poser_widget_version AS v
 *	                           WHERE v.uuid = member.uuid AND v.change_id <= $2
 *	                           ORDER BY change_id DESC LIMIT 1) AS was ON true
 *	       LEFT JOIN LATERAL (SELECT operation_type FROM poser_widget_version AS v
 *	                           WHERE v.uuid = member.uuid AND v.change_id > $2
 *	                           ORDER BY change_id LIMIT 1) AS next ON true
 *	 WHERE was.operation_type IS NULL OR live.uuid = $1 OR was.uuid = $1
 *
 * For components of a widget, live.widget_uuid and was.widget_uuid are compared with
 * $1.  Components that belonged to another widget then, and belong to another one now,
 * are left out.
 */
static void
set_states_query(RevertedRows *rows, const char *position)
{
	const PoserVersioned *versioned = rows->versioned;
	const char *versions = poser_relation_name(versioned->versions);
	StringInfoData sql;

	/* what is known of a row */
	initStringInfo(&sql);
	appendStringInfoString(&sql,
						   "SELECT COALESCE(was.operation_type OPERATOR(pg_catalog.<>) 2, false) AS existed,\n"
						   "       was.operation_type IS NULL\n"
						   "       AND COALESCE(next.operation_type OPERATOR(pg_catalog.<>) 0, true) AS is_unknown,\n");
	poser_history_append_column(&sql, versioned, rows->column,
								"       COALESCE(live.%n %= $1, false) AS belongs,\n");
	poser_history_append_column(&sql, versioned, versioned->keys[0],
								"       live.%n IS NOT NULL AS is_live,\n");
	appendStringInfoString(&sql, "       ROW(");
	poser_history_append_columns(&sql, versioned, "live.%n%c");
	appendStringInfoString(&sql, ")::pg_catalog.record OPERATOR(pg_catalog.*<>)\n       ROW(");
	poser_history_append_columns(&sql, versioned, "was.%n");
	appendStringInfoString(&sql, ")::pg_catalog.record AS differs,\n       ");
	poser_history_append_keys(&sql, versioned, ", ", "member.%n AS key_%i");
	appendStringInfoString(&sql, ",\n       ");
	poser_history_append_columns(&sql, versioned, "was.%n AS was_%i");
	/* the row, and its versions before and after the position */
	appendStringInfo(&sql, "\n  FROM (%s) AS member\n       LEFT JOIN %s AS live ON ",
					 rows->keys_query, poser_relation_name(versioned->relid));
	poser_history_append_keys(&sql, versioned, " AND ", "live.%n %= member.%n");
	appendStringInfo(&sql, "\n       LEFT JOIN LATERAL (SELECT * FROM %s AS v WHERE ", versions);
	poser_history_append_keys(&sql, versioned, " AND ", "v.%n %= member.%n");
	appendStringInfo(&sql,
					 " AND v.%s OPERATOR(pg_catalog.<=) $2\n"
					 "                           ORDER BY change_id DESC LIMIT 1) AS was ON true\n"
					 "       LEFT JOIN LATERAL (SELECT operation_type FROM %s AS v WHERE ",
					 position, versions);
	poser_history_append_keys(&sql, versioned, " AND ", "v.%n %= member.%n");
	appendStringInfo(&sql,
					 " AND v.%s OPERATOR(pg_catalog.>) $2\n"
					 "                           ORDER BY change_id LIMIT 1) AS next ON true\n"
					 " WHERE was.operation_type IS NULL OR ",
					 position);
	poser_history_append_column(&sql, versioned, rows->column, "live.%n %= $1 OR was.%n %= $1");
	rows->states_query = sql.data;
}

/*
 * Returns the last change of the rows by a transaction, or 0:
 *
 *	SELECT max(v.change_id)
 *	  FROM (<keys_query>) AS member, poser_widget_version AS v
 *	 WHERE v.transaction_id = $2 AND v.uuid = member.uuid
 */
static int64
last_change_by(RevertedRows *rows, int64 transaction_id)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql,
					 "SELECT pg_catalog.max(v.change_id)\n"
					 "  FROM (%s) AS member, %s AS v\n"
					 " WHERE v.transaction_id OPERATOR(pg_catalog.=) $2 AND ",
					 rows->keys_query, poser_relation_name(rows->versioned->versions));
	poser_history_append_keys(&sql, rows->versioned, " AND ", "v.%n %= member.%n");
	rows->values[1] = Int64GetDatum(transaction_id);
	(void) run(rows, sql.data, 2);
	return poser_history_position(1, NULL);
}

/*
 * Count what is to be done with the rows, for the state at the position "value" of the
 * column "position":
 *
 *	SELECT count(*) FILTER (WHERE is_unknown),
 *	       count(*) FILTER (WHERE NOT existed AND belongs),
 *	       count(*) FILTER (WHERE existed AND is_live AND differs),
 *	       count(*) FILTER (WHERE existed AND NOT is_live)
 *	  FROM (<states_query>) AS state
 *
 * Raises an error if the history does not say what a row was.
 */
static void
compare_states(RevertedRows *rows, const char *position, int64 value)
{
	set_states_query(rows, position);
	rows->values[1] = Int64GetDatum(value);
	(void) run(rows,
			   psprintf("SELECT pg_catalog.count(*) FILTER (WHERE is_unknown),\n"
						"       pg_catalog.count(*) FILTER (WHERE NOT existed AND belongs),\n"
						"       pg_catalog.count(*) FILTER (WHERE existed AND is_live AND differs),\n"
						"       pg_catalog.count(*) FILTER (WHERE existed AND NOT is_live)\n"
						"  FROM (%s) AS state",
						rows->states_query),
			   2);
	rows->unknown = poser_result_int64(1, NULL);
	rows->surplus = poser_result_int64(2, NULL);
	rows->different = poser_result_int64(3, NULL);
	rows->missing = poser_result_int64(4, NULL);
	if (rows->unknown > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("history of relation \"%s\" is not complete",
						get_rel_name(rows->versioned->relid)),
				 errdetail_plural("It does not say what %lld row was.",
								  "It does not say what %lld rows were.",
								  rows->unknown, (long long) rows->unknown)));
}

/* Can this recorded column be set by an UPDATE or, without "update", by an INSERT? */
static bool
is_writable(const PoserVersioned *versioned, AttrNumber column, bool update)
{
	AttrNumber source = versioned->source[column - 1];

	if (source == 0 || get_attgenerated(versioned->relid, source) != '\0' ||
		(update && poser_is_always_identity(versioned->relid, source)))
		return false;
	/* the key is how the row is found, so it need not be set */
	for (int i = 0; update && i < versioned->nkeys; i++)
		if (versioned->keys[i] == column)
			return false;
	return true;
}

/* Append the template for each column that can be written. */
static void
append_writable(StringInfo sql, const PoserVersioned *versioned, bool update, const char *template)
{
	const char *separator = "";

	for (int i = 1; i <= versioned->natts; i++)
		if (is_writable(versioned, i, update))
		{
			appendStringInfoString(sql, separator);
			poser_history_append_column(sql, versioned, i, template);
			separator = ", ";
		}
}

/*
 * Delete the rows that exist now and did not exist then:
 *
 *	DELETE FROM poser_widget AS live
 *	 USING (<states_query>) AS state
 *	 WHERE NOT state.existed AND state.belongs AND live.uuid = state.key_1
 */
static uint64
delete_surplus(RevertedRows *rows)
{
	StringInfoData sql;

	if (rows->surplus == 0)
		return 0;
	initStringInfo(&sql);
	appendStringInfo(&sql,
					 "DELETE FROM %s AS live\n"
					 " USING (%s) AS state\n"
					 " WHERE NOT state.existed AND state.belongs AND ",
					 poser_relation_name(rows->versioned->relid), rows->states_query);
	poser_history_append_keys(&sql, rows->versioned, " AND ", "live.%n %= state.key_%i");
	return run(rows, sql.data, 2);
}

/*
 * Update the rows that had other values then:
 *
 *	UPDATE poser_widget AS live
 *	   SET description = state.was_2, active = state.was_3
 *	  FROM (<states_query>) AS state
 *	 WHERE state.existed AND state.differs AND live.uuid = state.key_1
 */
static uint64
update_different(RevertedRows *rows)
{
	StringInfoData sql;

	if (rows->different == 0)
		return 0;
	initStringInfo(&sql);
	appendStringInfo(&sql, "UPDATE %s AS live\n   SET ", poser_relation_name(rows->versioned->relid));
	append_writable(&sql, rows->versioned, true, "%n = state.was_%i");
	appendStringInfo(&sql,
					 "\n  FROM (%s) AS state\n"
					 " WHERE state.existed AND state.differs AND ",
					 rows->states_query);
	poser_history_append_keys(&sql, rows->versioned, " AND ", "live.%n %= state.key_%i");
	return run(rows, sql.data, 2);
}

/*
 * Insert the rows that existed then and do not exist now:
 *
 *	INSERT INTO poser_widget (uuid, description, active) OVERRIDING SYSTEM VALUE
 *	SELECT state.was_1, state.was_2, state.was_3
 *	  FROM (<states_query>) AS state
 *	 WHERE state.existed AND NOT state.is_live
 */
static uint64
insert_missing(RevertedRows *rows)
{
	StringInfoData sql;

	if (rows->missing == 0)
		return 0;
	initStringInfo(&sql);
	appendStringInfo(&sql, "INSERT INTO %s (", poser_relation_name(rows->versioned->relid));
	append_writable(&sql, rows->versioned, false, "%n");
	appendStringInfoString(&sql, ") OVERRIDING SYSTEM VALUE\nSELECT ");
	append_writable(&sql, rows->versioned, false, "state.was_%i");
	appendStringInfo(&sql,
					 "\n  FROM (%s) AS state\n"
					 " WHERE state.existed AND NOT state.is_live",
					 rows->states_query);
	return run(rows, sql.data, 2);
}

/* Update the different rows and insert the missing ones; returns how many rows these are. */
static uint64
restore_rows(RevertedRows *rows)
{
	uint64 result = update_different(rows);

	result += insert_missing(rows);
	return result;
}

/* Raises an error if row-level security can hide rows or versions from the current user. */
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

/* Lock the tables and their history for reading. */
static void
lock_tables(const PoserVersioned *versioned, const PoserVersioned *children)
{
	/* this snapshot is only for poser_lock_to_read(); each query takes its own */
	PushActiveSnapshot(GetTransactionSnapshot());
	poser_history_lock(versioned, 1);
	poser_lock_to_read(&versioned->relid, 1);
	if (children != NULL)
	{
		poser_history_lock(children, 1);
		poser_lock_to_read(&children->relid, 1);
	}
	PopActiveSnapshot();
}

/* Raises an error if there is no transaction with this id, unless pruning may have removed it. */
static void
check_transaction(const PoserVersioned *versioned, int64 transaction_id, PoserHorizon horizon)
{
	Oid argtypes[] = {INT8OID};
	Datum values[] = {Int64GetDatum(transaction_id)};
	char *sql = psprintf("SELECT FROM %s WHERE id OPERATOR(pg_catalog.=) $1",
						 poser_relation_name(versioned->transactions));
	PoserQuery query = {.sql = sql, .nargs = 1, .argtypes = argtypes, .values = values};

	if (poser_history_run_as_owner(versioned, &query) == 0 &&
		(transaction_id > horizon.transaction_id || transaction_id <= 0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("transaction %lld is not in the history", (long long) transaction_id)));
}

/*
 * Lock the row with the key, so that no other session reverts it at the same time:
 *
 *	SELECT FROM poser_widget WHERE uuid = $1 FOR NO KEY UPDATE
 *
 * Raises an error if there never was such a row.
 */
static void
lock_reverted_row(RevertedRows *self)
{
	const PoserVersioned *versioned = self->versioned;
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT FROM %s WHERE ", poser_relation_name(versioned->relid));
	poser_history_append_column(&sql, versioned, versioned->keys[0], "%n %= $1");
	appendStringInfoString(&sql, " FOR NO KEY UPDATE");
	(void) run(self, sql.data, 1);

	if (run(self, self->keys_query, 1) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("there is no such row in the history of relation \"%s\"",
						get_rel_name(versioned->relid))));
}

/*
 * Make the row with this key what it was after a transaction.  With "children", do the
 * same with the rows of that table that refer to the row now or referred to it then, by
 * the column "parent".  Returns how many rows were changed.
 */
int64
poser_history_revert(const PoserVersioned *versioned, Datum key, Oid keytype, int64 transaction_id,
					 const PoserVersioned *children, const char *parent)
{
	RevertedRows self;
	RevertedRows others;
	PoserHorizon horizon;
	const char *position = "change_id";
	int64 value;
	int64 last_change;
	uint64 result = 0;

	check_unrestricted(versioned);
	if (children != NULL)
		check_unrestricted(children);

	/* keep pruning out, because each of the queries below sees the newest data */
	LockRelationOid(versioned->horizon, ShareLock);
	SPI_connect();
	lock_tables(versioned, children);
	horizon = poser_history_horizon(versioned, false);
	check_transaction(versioned, transaction_id, horizon);

	find_rows(&self, versioned, key, keytype, NULL);
	if (children != NULL)
		find_rows(&others, children, key, keytype, parent);
	lock_reverted_row(&self);

	/* the position; in the pruned part of the history only the state after the horizon's transaction is known */
	last_change = last_change_by(&self, transaction_id);
	value = Max(transaction_id, last_change);
	if (children != NULL)
	{
		last_change = last_change_by(&others, transaction_id);
		value = Max(value, last_change);
	}
	if (transaction_id == horizon.transaction_id)
	{
		position = "transaction_id";
		value = transaction_id;
	}
	else if (transaction_id < horizon.transaction_id || value < horizon.change_id)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("history as of transaction %lld has been pruned", (long long) transaction_id)));

	/* a row is inserted before the rows that refer to it, and deleted after them */
	compare_states(&self, position, value);
	if (children != NULL)
	{
		compare_states(&others, position, value);
		result += delete_surplus(&others);
	}
	result += restore_rows(&self);
	if (children != NULL)
		result += restore_rows(&others);
	result += delete_surplus(&self);
	SPI_finish();
	return (int64) result;
}
