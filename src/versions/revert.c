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
 * was, and this is an error.  It is also an error if there is no "was" and the position
 * is in the part of the history that has been pruned: the row may have been there, and must
 * not be deleted.
 *
 * A row that existed gets the values that were recorded, except in columns that cannot be
 * written: generated ones, and identity columns of a row that is updated.  Its key is set
 * only if values of the key's types can be equal and still differ, as numeric 1 and 1.0.
 *
 * The rows of one table are written by one statement.  So a row can refer to another one
 * of them, and unique values can move from one to another: first rows are deleted, then
 * updated, then inserted, and foreign keys are checked after that.
 *
 * Rows are written by INSERT, UPDATE and DELETE with the caller's privileges, and are
 * recorded like any other change.  Each query reads the newest data.  Locks keep this
 * data consistent: pruning, and other calls that revert the same row, wait until the
 * transaction ends.
 */
#include "postgres.h"

#include "access/nbtree.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/typcache.h"

#include "versions/versions.h"
#include "versions/version_internal.h"

/* Rows of one table that are reverted together: those that match now or have matched. */
typedef struct RevertedRows
{
	const PoserVersioned *versioned;
	PoserMatch *match;	/* a position is its last parameter */
	int position;		/* the number of that parameter */
	int64 pruned;		/* the transaction, if the position is in the part of the history that has been pruned; else 0 */
	char *keys_query;	/* the keys of all rows that match or have ever matched */
	char *states_query; /* the states of these rows at the position */
	int64 unknown;		/* rows whose state is unknown */
	int64 surplus;		/* rows to be deleted */
	int64 different;	/* rows to be updated */
	int64 missing;		/* rows to be inserted */
} RevertedRows;

/*
 * Describe the rows that match.  For components of a widget, keys_query is
 *
 *	SELECT live.uuid::varchar AS uuid FROM poser_component AS live WHERE live.widget_uuid = $1
 *	 UNION SELECT v.uuid FROM poser_component_version AS v WHERE v.widget_uuid = $1
 */
static void
find_rows(RevertedRows *rows, const PoserVersioned *versioned, PoserMatch *match)
{
	StringInfoData sql;

	memset(rows, 0, sizeof(RevertedRows));
	rows->versioned = versioned;
	rows->match = match;
	rows->position = poser_match_add_parameter(match, 0);

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	poser_history_append_keys(&sql, versioned, ", ", "live.%l%c AS %n");
	appendStringInfo(&sql, " FROM %s AS live WHERE ", poser_relation_name(versioned->relid));
	poser_match_append(&sql, versioned, match, "live", true);
	appendStringInfoString(&sql, " UNION SELECT ");
	poser_history_append_keys(&sql, versioned, ", ", "v.%n");
	appendStringInfo(&sql, " FROM %s AS v WHERE ", poser_relation_name(versioned->versions));
	poser_match_append(&sql, versioned, match, "v", false);
	rows->keys_query = sql.data;
}

/* Describe the row with this key or, with "parent", the rows in which this column is the key. */
static void
find_rows_by_value(RevertedRows *rows, const PoserVersioned *versioned, Datum key, Oid keytype, const char *parent)
{
	AttrNumber column = poser_history_lookup_column(versioned, parent, keytype);

	find_rows(rows, versioned, poser_match_value(versioned, column, key));
}

/* Run a statement with the values of the match or, with "position", also with the position. */
static uint64
run(const RevertedRows *rows, const char *sql, bool position)
{
	return poser_run(&(PoserQuery) {
		.sql = sql,
		.nargs = rows->match->nargs + (position ? 1 : 0),
		.argtypes = rows->match->argtypes,
		.values = rows->match->values});
}

/* Set the position in the history. */
static void
set_position(RevertedRows *rows, int64 value)
{
	rows->match->values[rows->position - 1] = Int64GetDatum(value);
}

/* Can values of the key's column be equal and differ in their bytes? */
static bool
key_has_variants(const PoserVersioned *versioned, AttrNumber column)
{
	AttrNumber source = versioned->source[column - 1];
	TypeCacheEntry *type = lookup_type_cache(getBaseType(get_atttype(versioned->relid, source)), TYPECACHE_BTREE_OPFAMILY);
	Oid function = get_opfamily_proc(type->btree_opf, type->btree_opintype, type->btree_opintype, BTEQUALIMAGE_PROC);
	Oid typeid;
	int32 typmod;
	Oid collation;

	if (!OidIsValid(function))
		return true;
	get_atttypetypmodcoll(versioned->relid, source, &typeid, &typmod, &collation);
	return !DatumGetBool(OidFunctionCall1Coll(function, collation, ObjectIdGetDatum(type->btree_opintype)));
}

/* Can this recorded column be set by an UPDATE or, without "update", by an INSERT? */
static bool
is_writable(const PoserVersioned *versioned, AttrNumber column, bool update)
{
	AttrNumber source = versioned->source[column - 1];

	if (source == 0 || get_attgenerated(versioned->relid, source) != '\0' ||
		(update && poser_is_always_identity(versioned->relid, source)))
		return false;
	for (int i = 0; update && i < versioned->nkeys; i++)
		if (versioned->keys[i] == column)
			return key_has_variants(versioned, column);
	return true;
}

/* Append the template for each column that can be written.  Returns whether there is one. */
static bool
append_writable(StringInfo sql, const PoserVersioned *versioned, bool update, const char *template)
{
	bool result = false;

	for (int i = 1; i <= versioned->natts; i++)
		if (is_writable(versioned, i, update))
		{
			appendStringInfoString(sql, result ? ", " : "");
			poser_history_append_column(sql, versioned, i, template);
			result = true;
		}
	return result;
}

/* Append the record of a row of the table, with the columns that an UPDATE can set. */
static void
append_live_record(StringInfo sql, const PoserVersioned *versioned)
{
	appendStringInfoString(sql, "ROW(");
	(void) append_writable(sql, versioned, true, "live.%l%c");
	appendStringInfoString(sql, ")::pg_catalog.record");
}

/* Returns a name for that record, which no column of the table has. */
static char *
record_name(const PoserVersioned *versioned)
{
	char *result = pstrdup("poser_record");

	for (int i = 1; get_attnum(versioned->relid, result) != InvalidAttrNumber; i++)
		result = psprintf("poser_record_%d", i);
	return result;
}

/*
 * Set the query for the states of the rows at the position $2.  "column" is the column of
 * the versions that is compared with it: change_id or transaction_id.
 *
 *	SELECT COALESCE(was.operation_type <> 2, false) AS existed,
 *	       was.operation_type IS NULL
 *	       AND COALESCE(next.operation_type <> 0, true) AS is_unknown,
 *	       COALESCE(live.uuid = $1, false) AS belongs,
 *	       live.uuid IS DISTINCT FROM NULL AS is_live,
 *	       ROW(live.description, live.active)::record *<>
 *	       ROW(was.description, was.active)::record AS differs,
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
 *
 * The join has the columns of "live" and "was".  If these are more than a join can have,
 * the record of "live" is made before the join:
 *
 *	       LEFT JOIN (SELECT live.*, ROW(live.description, ...)::record AS poser_record
 *	                    FROM poser_widget AS live) AS live ON live.uuid = member.uuid
 */
static void
set_states_query(RevertedRows *rows, AttrNumber column)
{
	const PoserVersioned *versioned = rows->versioned;
	const char *versions = poser_relation_name(versioned->versions);
	const char *operation_type = poser_history_column(versioned, versioned->operation_type);
	const char *change_id = poser_history_column(versioned, versioned->change_id);
	const char *position = poser_history_column(versioned, column);
	const char *record = poser_history_pairs_are_wide(versioned) ? record_name(versioned) : NULL;
	StringInfoData sql;

	/* what is known of a row */
	initStringInfo(&sql);
	appendStringInfo(&sql,
					 "SELECT COALESCE(was.%s OPERATOR(pg_catalog.<>) 2, false) AS existed,\n"
					 "       was.%s IS NULL",
					 operation_type, operation_type);
	if (rows->pruned == 0)
		appendStringInfo(&sql, " AND COALESCE(next.%s OPERATOR(pg_catalog.<>) 0, true)", operation_type);
	appendStringInfoString(&sql, " AS is_unknown,\n       COALESCE(");
	poser_match_append(&sql, versioned, rows->match, "live", true);
	poser_history_append_column(&sql, versioned, versioned->keys[0],
								", false) AS belongs,\n       live.%l IS DISTINCT FROM NULL AS is_live,\n");
	if (record != NULL)
		appendStringInfo(&sql, "       live.%s", record);
	else
		append_live_record(&sql, versioned);
	appendStringInfoString(&sql, " OPERATOR(pg_catalog.*<>)\n       ROW(");
	(void) append_writable(&sql, versioned, true, "was.%n");
	appendStringInfoString(&sql, ")::pg_catalog.record AS differs,\n       ");
	poser_history_append_keys(&sql, versioned, ", ", "member.%n AS key_%i");
	appendStringInfoString(&sql, ",\n       ");
	poser_history_append_columns(&sql, versioned, "was.%n AS was_%i");

	/* the row, and its versions before and after the position */
	appendStringInfo(&sql, "\n  FROM (%s) AS member\n       LEFT JOIN ", rows->keys_query);
	if (record != NULL)
	{
		appendStringInfoString(&sql, "(SELECT live.*, ");
		append_live_record(&sql, versioned);
		appendStringInfo(&sql, " AS %s FROM %s AS live)", record, poser_relation_name(versioned->relid));
	}
	else
		appendStringInfoString(&sql, poser_relation_name(versioned->relid));
	appendStringInfoString(&sql, " AS live ON ");
	poser_history_append_keys(&sql, versioned, " AND ", "live.%l %= member.%n");
	appendStringInfo(&sql, "\n       LEFT JOIN LATERAL (SELECT * FROM %s AS v WHERE ", versions);
	poser_history_append_keys(&sql, versioned, " AND ", "v.%n %= member.%n");
	appendStringInfo(&sql,
					 " AND v.%s OPERATOR(pg_catalog.<=) $%d\n"
					 "                           ORDER BY v.%s DESC LIMIT 1) AS was ON true\n"
					 "       LEFT JOIN LATERAL (SELECT * FROM %s AS v WHERE ",
					 position, rows->position, change_id, versions);
	poser_history_append_keys(&sql, versioned, " AND ", "v.%n %= member.%n");
	appendStringInfo(&sql,
					 " AND v.%s OPERATOR(pg_catalog.>) $%d\n"
					 "                           ORDER BY v.%s LIMIT 1) AS next ON true\n"
					 " WHERE was.%s IS NULL OR (",
					 position, rows->position, change_id, operation_type);
	poser_match_append(&sql, versioned, rows->match, "live", true);
	appendStringInfoString(&sql, ") OR (");
	poser_match_append(&sql, versioned, rows->match, "was", false);
	appendStringInfoString(&sql, ")");
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
	const PoserVersioned *versioned = rows->versioned;
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql,
					 "SELECT pg_catalog.max(v.%s)\n"
					 "  FROM (%s) AS member, %s AS v\n"
					 " WHERE v.%s OPERATOR(pg_catalog.=) $%d AND ",
					 poser_history_column(versioned, versioned->change_id), rows->keys_query,
					 poser_relation_name(versioned->versions),
					 poser_history_column(versioned, versioned->transaction_id), rows->position);
	poser_history_append_keys(&sql, versioned, " AND ", "v.%n %= member.%n");
	set_position(rows, transaction_id);
	(void) run(rows, sql.data, true);
	return poser_history_position(1, NULL);
}

/* Raises the error for a transaction before the horizon. */
static void
pruned_error(int64 transaction_id)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("history as of transaction %lld has been pruned", (long long) transaction_id)));
}

/*
 * Count what is to be done with the rows, for the state at the position "value" of
 * this column of the versions:
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
compare_states(RevertedRows *rows, AttrNumber column, int64 value)
{
	set_states_query(rows, column);
	set_position(rows, value);
	(void) run(rows,
			   psprintf("SELECT pg_catalog.count(*) FILTER (WHERE is_unknown),\n"
						"       pg_catalog.count(*) FILTER (WHERE NOT existed AND belongs),\n"
						"       pg_catalog.count(*) FILTER (WHERE existed AND is_live AND differs),\n"
						"       pg_catalog.count(*) FILTER (WHERE existed AND NOT is_live)\n"
						"  FROM (%s) AS state",
						rows->states_query),
			   true);
	rows->unknown = poser_result_int64(1, NULL);
	rows->surplus = poser_result_int64(2, NULL);
	rows->different = poser_result_int64(3, NULL);
	rows->missing = poser_result_int64(4, NULL);
	if (rows->unknown > 0 && rows->pruned != 0)
		pruned_error(rows->pruned);
	if (rows->unknown > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("history of relation \"%s\" is not complete",
						get_rel_name(rows->versioned->relid)),
				 errdetail_plural("It does not say what %lld row was.",
								  "It does not say what %lld rows were.",
								  rows->unknown, (long long) rows->unknown)));
}

/*
 * Append the statement that deletes the rows that exist now and did not exist then:
 *
 *	DELETE FROM poser_widget AS live
 *	 USING <states> AS state
 *	 WHERE NOT state.existed AND state.belongs AND live.uuid = state.key_1
 */
static void
append_delete(StringInfo sql, RevertedRows *rows, const char *states)
{
	appendStringInfo(sql,
					 "DELETE FROM %s AS live\n"
					 " USING %s AS state\n"
					 " WHERE NOT state.existed AND state.belongs AND ",
					 poser_relation_name(rows->versioned->relid), states);
	poser_history_append_keys(sql, rows->versioned, " AND ", "live.%l %= state.key_%i");
}

/*
 * Append the statement that updates the rows that had other values then:
 *
 *	UPDATE poser_widget AS live
 *	   SET description = state.was_2, active = state.was_3
 *	  FROM <states> AS state
 *	 WHERE state.existed AND state.differs AND live.uuid = state.key_1
 */
static void
append_update(StringInfo sql, RevertedRows *rows, const char *states)
{
	appendStringInfo(sql, "UPDATE %s AS live\n   SET ", poser_relation_name(rows->versioned->relid));
	(void) append_writable(sql, rows->versioned, true, "%l = state.was_%i");
	appendStringInfo(sql,
					 "\n  FROM %s AS state\n"
					 " WHERE state.existed AND state.differs AND ",
					 states);
	poser_history_append_keys(sql, rows->versioned, " AND ", "live.%l %= state.key_%i");
}

/*
 * Append the statement that inserts the rows that existed then and do not exist now:
 *
 *	INSERT INTO poser_widget (uuid, description, active) OVERRIDING SYSTEM VALUE
 *	SELECT state.was_1, state.was_2, state.was_3
 *	  FROM <states> AS state
 *	 WHERE state.existed AND NOT state.is_live
 */
static void
append_insert(StringInfo sql, RevertedRows *rows, const char *states)
{
	appendStringInfo(sql, "INSERT INTO %s (", poser_relation_name(rows->versioned->relid));
	(void) append_writable(sql, rows->versioned, false, "%l");
	appendStringInfoString(sql, ") OVERRIDING SYSTEM VALUE\nSELECT ");
	(void) append_writable(sql, rows->versioned, false, "state.was_%i");
	appendStringInfo(sql,
					 "\n  FROM %s AS state\n"
					 " WHERE state.existed AND NOT state.is_live",
					 states);
}

/* Run one of the statements above, if there are rows for it; returns how many rows it has changed. */
static uint64
write_rows(RevertedRows *rows, int64 n, void (*append)(StringInfo sql, RevertedRows *rows, const char *states))
{
	StringInfoData sql;

	if (n == 0)
		return 0;
	initStringInfo(&sql);
	append(&sql, rows, psprintf("(%s)", rows->states_query));
	return run(rows, sql.data, true);
}

/* Update the different rows and insert the missing ones; returns how many rows these are. */
static uint64
restore_rows(RevertedRows *rows)
{
	uint64 result = write_rows(rows, rows->different, append_update);

	result += write_rows(rows, rows->missing, append_insert);
	return result;
}

/*
 * Do all that is to be done with the rows by one statement; returns how many rows it has
 * changed.  Only what there are rows for is in it, so that the caller needs no privilege
 * for the others:
 *
 *	WITH state AS MATERIALIZED (<states_query>),
 *	     deleted AS (DELETE ... RETURNING 1),
 *	     updated AS (UPDATE ... AND (SELECT count(*) FROM deleted) >= 0 RETURNING 1),
 *	     inserted AS (INSERT ... AND (SELECT count(*) FROM deleted) >= 0
 *	                                 AND (SELECT count(*) FROM updated) >= 0 RETURNING 1)
 *	SELECT 0 + (SELECT count(*) FROM deleted) + (SELECT count(*) FROM updated)
 *	         + (SELECT count(*) FROM inserted)
 */
static uint64
write_together(RevertedRows *rows)
{
	const struct
	{
		const char *name;
		int64 n;
		void (*append)(StringInfo sql, RevertedRows *rows, const char *states);
	} steps[] = {{"deleted", rows->surplus, append_delete},
				 {"updated", rows->different, append_update},
				 {"inserted", rows->missing, append_insert}};
	StringInfoData sql;

	if (rows->surplus + rows->different + rows->missing == 0)
		return 0;
	initStringInfo(&sql);
	appendStringInfo(&sql, "WITH state AS MATERIALIZED (%s)", rows->states_query);
	for (int i = 0; i < lengthof(steps); i++)
	{
		if (steps[i].n == 0)
			continue;
		appendStringInfo(&sql, ",\n%s AS (", steps[i].name);
		steps[i].append(&sql, rows, "state");
		for (int j = 0; j < i; j++)
			if (steps[j].n > 0)
				appendStringInfo(&sql, "\n   AND (SELECT pg_catalog.count(*) FROM %s) OPERATOR(pg_catalog.>=) 0",
								 steps[j].name);
		appendStringInfoString(&sql, " RETURNING 1)");
	}
	appendStringInfoString(&sql, "\nSELECT 0::pg_catalog.int8");
	for (int i = 0; i < lengthof(steps); i++)
		if (steps[i].n > 0)
			appendStringInfo(&sql, " OPERATOR(pg_catalog.+) (SELECT pg_catalog.count(*) FROM %s)", steps[i].name);
	(void) run(rows, sql.data, true);
	return poser_result_int64(1, NULL);
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
 * Lock the rows that match, so that no other session reverts them at the same time:
 *
 *	SELECT FROM poser_widget AS live WHERE live.uuid = $1 FOR NO KEY UPDATE
 *
 * Raises an error if there never was such a row.  A row before the horizon can have been
 * erased; "pruned" is that transaction, or 0.
 */
static void
lock_reverted_rows(RevertedRows *self, int64 pruned)
{
	const PoserVersioned *versioned = self->versioned;
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT FROM %s AS live WHERE ", poser_relation_name(versioned->relid));
	poser_match_append(&sql, versioned, self->match, "live", true);
	appendStringInfoString(&sql, " FOR NO KEY UPDATE");
	(void) run(self, sql.data, false);

	if (run(self, self->keys_query, false) > 0)
		return;
	if (pruned != 0)
		pruned_error(pruned);
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
	AttrNumber position = versioned->change_id;
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

	find_rows_by_value(&self, versioned, key, keytype, NULL);
	if (children != NULL)
		find_rows_by_value(&others, children, key, keytype, parent);
	lock_reverted_rows(&self, 0);

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
		position = versioned->transaction_id;
		value = transaction_id;
	}
	else if (transaction_id < horizon.transaction_id || value < horizon.change_id)
		pruned_error(transaction_id);

	/* a row is inserted before the rows that refer to it, and deleted after them */
	compare_states(&self, position, value);
	if (children != NULL)
	{
		compare_states(&others, position == versioned->change_id ? children->change_id : children->transaction_id, value);
		result += write_rows(&others, others.surplus, append_delete);
	}
	result += restore_rows(&self);
	if (children != NULL)
		result += restore_rows(&others);
	result += write_rows(&self, self.surplus, append_delete);
	SPI_finish();
	return (int64) result;
}

/*
 * Make the rows of any table that match now, or matched then, what they were after a
 * transaction.  Returns how many rows were changed.
 */
int64
poser_history_revert_matching(const PoserVersioned *versioned, PoserMatch *match, int64 transaction_id)
{
	RevertedRows rows;
	PoserHorizon horizon;
	AttrNumber position = versioned->change_id;
	int64 value;
	uint64 result;

	check_unrestricted(versioned);

	/* keep pruning out, because each of the queries below sees the newest data */
	if (versioned->own)
		poser_prune_lock_out(versioned);
	else
		LockRelationOid(versioned->horizon, ShareLock);
	SPI_connect();
	lock_tables(versioned, NULL);
	horizon = poser_history_horizon(versioned, false);
	check_transaction(versioned, transaction_id, horizon);
	find_rows(&rows, versioned, match);
	lock_reverted_rows(&rows, transaction_id < horizon.transaction_id ? transaction_id : 0);

	/* the position; a row that has a version at or before it is known, also in the pruned part of the history */
	value = last_change_by(&rows, transaction_id);
	value = Max(value, transaction_id);
	if (transaction_id == horizon.transaction_id)
	{
		position = versioned->transaction_id;
		value = transaction_id;
	}
	else if (transaction_id < horizon.transaction_id || value < horizon.change_id)
		rows.pruned = transaction_id;
	compare_states(&rows, position, value);
	result = write_together(&rows);
	SPI_finish();
	return (int64) result;
}
