/*
 * revert.c
 *	  Going back in the history.
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
	AttrNumber column = poser_history_lookup_column(versioned, parent, keytype);
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
		poser_history_append_keys(&sql, versioned, "");
		appendStringInfo(&sql, " FROM %s WHERE ",
						 poser_relation_name(i == 0 ? versioned->relid : versioned->versions));
		poser_history_append_equality(&sql, poser_history_column(versioned, column), "$1", family->argtypes[0]);
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
	const char *name = poser_history_column(versioned, family->column);
	StringInfoData sql;
	StringInfoData same;
	StringInfoData belongs;

	initStringInfo(&belongs);
	poser_history_append_equality(&belongs, psprintf("live.%s", name), "$1", family->argtypes[0]);
	initStringInfo(&same);
	poser_history_append_same_key(&same, versioned, "v.", "member.");

	initStringInfo(&sql);
	appendStringInfo(&sql,
					 "SELECT COALESCE(was.operation_type OPERATOR(pg_catalog.<>) 2, false) AS existed,\n"
					 "       was.operation_type IS NULL\n"
					 "       AND COALESCE(next.operation_type OPERATOR(pg_catalog.<>) 0, true) AS incomplete,\n"
					 "       COALESCE(%s, false) AS belongs,\n"
					 "       live.%s IS NOT NULL AS is_live,\n"
					 "       ROW(",
					 belongs.data, poser_history_column(versioned, versioned->keys[0]));
	poser_history_append_values(&sql, versioned, "live.");
	appendStringInfoString(&sql, ")::pg_catalog.record OPERATOR(pg_catalog.*<>) ROW(");
	poser_history_append_columns(&sql, versioned, "was.");
	appendStringInfoString(&sql, ")::pg_catalog.record AS differs");
	for (int i = 0; i < versioned->nkeys; i++)
		appendStringInfo(&sql, ",\n       member.%s AS key_%d",
						 poser_history_column(versioned, versioned->keys[i]), versioned->keys[i]);
	for (int i = 0; i < versioned->natts; i++)
		if (versioned->source[i] != 0)
			appendStringInfo(&sql, ",\n       was.%s AS was_%d", poser_history_column(versioned, i + 1), i + 1);
	appendStringInfo(&sql, "\n  FROM (%s) AS member\n       LEFT JOIN %s AS live ON ",
					 family->members, poser_relation_name(versioned->relid));
	poser_history_append_same_key(&sql, versioned, "live.", "member.");
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
	poser_history_append_equality(&sql, psprintf("was.%s", name), "$1", family->argtypes[0]);
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
	poser_history_append_same_key(&sql, family->versioned, "v.", "member.");
	poser_history_execute(sql.data, 2, (Oid *) family->argtypes, values, false);
	result = poser_history_int64(1, &isnull);
	return isnull ? 0 : result;
}

/* Look at what its rows were at a position. */
static void
count_states(Family *family, const char *position, int64 value)
{
	bool isnull;

	describe_states(family, position);
	family->values[1] = Int64GetDatum(value);
	poser_history_execute(psprintf("SELECT pg_catalog.count(*) FILTER (WHERE incomplete),\n"
								   "       pg_catalog.count(*) FILTER (WHERE NOT existed AND belongs),\n"
								   "       pg_catalog.count(*) FILTER (WHERE existed AND is_live AND differs),\n"
								   "       pg_catalog.count(*) FILTER (WHERE existed AND NOT is_live)\n"
								   "  FROM (%s) AS state",
								   family->states),
						  2, family->argtypes, family->values, false);
	family->incomplete = poser_history_int64(1, &isnull);
	family->gone = poser_history_int64(2, &isnull);
	family->different = poser_history_int64(3, &isnull);
	family->missing = poser_history_int64(4, &isnull);
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
		poser_history_append_equality(sql, psprintf("live.%s", poser_history_column(versioned, column)),
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
	return poser_history_execute(sql.data, 2, family->argtypes, family->values, false);
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
				appendStringInfo(&sql, "%s%s = state.was_%d", separator, poser_history_column(versioned, i), i);
				separator = ", ";
			}
		appendStringInfo(&sql, "\n  FROM (%s) AS state\n WHERE state.existed AND state.differs AND ",
						 family->states);
		append_state_key(&sql, versioned);
		result += poser_history_execute(sql.data, 2, family->argtypes, family->values, false);
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
				appendStringInfo(&sql, "%s%s", separator, poser_history_column(versioned, i));
				appendStringInfo(&values, "%sstate.was_%d", separator, i);
				separator = ", ";
			}
		appendStringInfo(&sql, ") OVERRIDING SYSTEM VALUE\nSELECT %s\n  FROM (%s) AS state\n WHERE state.existed AND NOT state.is_live",
						 values.data, family->states);
		result += poser_history_execute(sql.data, 2, family->argtypes, family->values, false);
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
	poser_history_lock(versioned, 1);
	poser_lock_to_read(&versioned->relid, 1);
	if (children != NULL)
	{
		poser_history_lock(children, 1);
		poser_lock_to_read(&children->relid, 1);
	}
	PopActiveSnapshot();
	horizon = poser_history_horizon(versioned, false);
	poser_history_execute_as_owner(versioned,
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
	poser_history_append_equality(&sql, poser_history_column(versioned, versioned->keys[0]), "$1", self.argtypes[0]);
	appendStringInfoString(&sql, " FOR NO KEY UPDATE");
	poser_history_execute(sql.data, 1, self.argtypes, self.values, false);

	if (poser_history_execute(self.members, 1, self.argtypes, self.values, false) == 0)
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
