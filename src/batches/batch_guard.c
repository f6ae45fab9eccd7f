/*
 * batch_guard.c
 *	  The triggers of poser_batch and poser_batch_row.
 *
 * poser_batch_guard() fires before each row of poser_batch that is inserted,
 * updated or deleted.  It fills in the columns of a new batch that users do not
 * choose, and refuses changes that only Poser itself or the owner of the table
 * may make.
 *
 * poser_batch_row_guard() fires before and after each statement that writes
 * poser_batch_row.  The AFTER trigger locks the headers of the batches that the
 * statement has changed.  It refuses changes of rows that have been reviewed or
 * executed, and adds the change in the number of rows to row_count.
 *
 * The invariant: row_count is the number of a batch's rows that are not removed.
 *
 * A transaction can change the rows of a batch one by one.  Then each statement that
 * changes row_count makes a version of the header, and the transaction keeps all of them
 * until it ends: a search by uuid reads them all.  So the session remembers where the
 * last version is, see find_place().  This is only a hint.  The statements that use it
 * look for the uuid, too.
 *
 * The triggers do not check what Poser writes itself, see writing_header and
 * poser_batch_marked.
 *
 * A restore, or a tool that copies tables, brings batches from elsewhere.  Nothing tells
 * reliably that a session does so.  But such a header has created_by and role_name, and the
 * owner of the table inserts it.  So it keeps its values, and row_count counts its rows when
 * they come.  But a batch that is complete and not executed accepts no rows.  So it keeps
 * its row_count, too, and the owner can insert rows until there are as many.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "batches/batch_internal.h"
#include "batches/batches.h"
#include "versions/versions.h"

PG_FUNCTION_INFO_V1(poser_batch_guard);
PG_FUNCTION_INFO_V1(poser_batch_row_guard);

/* Is an UPDATE of poser_batch by Poser itself running? */
static bool writing_header = false;

/* The uuid of a batch while poser_batch_execute() writes rows of it, otherwise NULL.  These rows may change. */
const char *poser_batch_marked = NULL;

/* Statements on poser_batch_row for which the AFTER trigger has not fired yet. */
static PoserStatement *statements = NULL;

/* Columns of poser_batch that only Poser itself or the owner of the table may change. */
static const char *const protected_columns[] = {
	"uuid", "id", "target", "created", "created_by", "role_name", "executed", "executed_by"};

/* How many rows a statement has added to a batch; negative if it has fewer rows now. */
typedef struct BatchChange
{
	Datum uuid; /* varchar */
	int64 change;
} BatchChange;

/* A statement's changes are added up in memory for so many batches; for more, a query does it. */
#define MAX_CHANGES 64

/* Where this session has seen the newest version of a header. */
typedef struct HeaderPlace
{
	char uuid[160]; /* longer ones are not remembered */
	ItemPointerData tid;
} HeaderPlace;

/* The headers that were used last, the newest one first. */
static HeaderPlace places[8];
static int nplaces = 0;

/* Returns the value of a column.  Raises an error unless the column has this type; with InvalidOid it may have any type. */
static Datum
read_column(Relation rel, HeapTuple tuple, const char *name, Oid type, bool *isnull)
{
	return heap_getattr(tuple, poser_own_column(rel, name, type), RelationGetDescr(rel), isnull);
}

/* Do two row versions differ in this column? */
static bool
is_changed(Relation rel, HeapTuple old, HeapTuple new, const char *name)
{
	bool was_null;
	bool is_null;
	Datum was = read_column(rel, old, name, InvalidOid, &was_null);
	Datum is = read_column(rel, new, name, InvalidOid, &is_null);
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), poser_own_column(rel, name, InvalidOid) - 1);

	if (was_null || is_null)
		return was_null != is_null;
	return !datum_image_eq(was, is, att->attbyval, att->attlen);
}

/* Returns the name of the batch with this header, for messages. */
static char *
header_name(Relation rel, HeapTuple tuple)
{
	bool isnull;

	return poser_batch_name(DatumGetInt64(read_column(rel, tuple, "id", INT8OID, &isnull)),
							read_column(rel, tuple, "uuid", VARCHAROID, &isnull));
}

/*
 * Raises an error unless a batch can be for the header's target: a table that is not
 * temporary, or a foreign table.  "name" is the name of the batch, or NULL for a new one.
 */
static void
check_target(Relation rel, HeapTuple tuple, const char *name)
{
	bool isnull;
	Oid target = DatumGetObjectId(read_column(rel, tuple, "target", REGCLASSOID, &isnull));
	char relkind;

	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 name != NULL ? errmsg("target of %s must not be null", name) : errmsg("target must not be null")));
	if (name == NULL)
		name = "a batch";
	relkind = get_rel_relkind(target);
	/* a dump has the batch, and the name of its target, but no temporary tables */
	if (relkind != '\0' && get_rel_persistence(target) == RELPERSISTENCE_TEMP)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("%s cannot be for temporary table \"%s\"", name, get_rel_name(target))));
	if (relkind != RELKIND_RELATION && relkind != RELKIND_PARTITIONED_TABLE &&
		relkind != RELKIND_FOREIGN_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("%s cannot be for \"%s\"", name,
						relkind == '\0' ? psprintf("%u", target) : get_rel_name(target)),
				 errdetail("It is not a table or foreign table.")));
}

/* Returns a copy of a new header, with values for the columns that users do not choose. */
static HeapTuple
fill_new_header(Relation rel, HeapTuple tuple)
{
	static const struct
	{
		const char *name;
		Oid type; /* InvalidOid if the value is null */
	} filled[] = {
		{"created", TIMESTAMPTZOID},
		{"created_by", TEXTOID},
		{"role_name", NAMEOID},
		{"row_count", INT8OID},
		{"executed", InvalidOid},
		{"executed_by", InvalidOid},
		{"unchanged_count", INT8OID}};
	int columns[lengthof(filled)];
	Datum values[lengthof(filled)];
	bool nulls[lengthof(filled)] = {false, false, false, false, true, true, false};
	int nfilled = poser_batch_has_unchanged_count(RelationGetRelid(rel)) ? lengthof(filled) : lengthof(filled) - 1;
	NameData role;

	for (int i = 0; i < nfilled; i++)
		columns[i] = poser_own_column(rel, filled[i].name, filled[i].type);
	namestrcpy(&role, GetUserNameFromId(GetUserId(), false));
	values[0] = TimestampTzGetDatum(GetCurrentTransactionStartTimestamp());
	values[1] = CStringGetTextDatum(poser_username());
	values[2] = NameGetDatum(&role);
	values[3] = Int64GetDatum(0);
	values[4] = values[5] = (Datum) 0;
	values[6] = Int64GetDatum(0);
	return heap_modify_tuple_by_cols(tuple, RelationGetDescr(rel), nfilled, columns, values, nulls);
}

/* Does the owner of the table insert a header that was made elsewhere? */
static bool
is_arriving(Relation rel, HeapTuple tuple)
{
	bool no_user;
	bool no_role;

	(void) read_column(rel, tuple, "created_by", TEXTOID, &no_user);
	(void) read_column(rel, tuple, "role_name", NAMEOID, &no_role);
	return !no_user && !no_role && poser_is_owner(RelationGetRelid(rel), GetUserId());
}

/* Returns the header, or a copy of it with a row_count to which its rows will be added. */
static HeapTuple
keep_arriving_header(Relation rel, HeapTuple tuple)
{
	int column = poser_own_column(rel, "row_count", INT8OID);
	Datum zero = Int64GetDatum(0);
	bool isnull;
	bool not_executed;
	bool complete = DatumGetBool(read_column(rel, tuple, "complete", BOOLOID, &isnull)) && !isnull;

	(void) read_column(rel, tuple, "executed", InvalidOid, &not_executed);
	if (complete && not_executed)
		return tuple;
	isnull = false;
	return heap_modify_tuple_by_cols(tuple, RelationGetDescr(rel), 1, &column, &zero, &isnull);
}

/*
 * poser_batch_guard() returns trigger
 *
 * The trigger BEFORE INSERT OR UPDATE OR DELETE ON poser_batch FOR EACH ROW.
 */
Datum
poser_batch_guard(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = poser_check_trigger(fcinfo);
	Relation rel = trigdata->tg_relation;
	HeapTuple old = trigdata->tg_trigtuple;
	HeapTuple new = TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event) ? trigdata->tg_newtuple : old;
	bool not_executed;
	bool isnull;
	bool is_owner;

	if (!TRIGGER_FIRED_FOR_ROW(trigdata->tg_event) || !TRIGGER_FIRED_BEFORE(trigdata->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" must fire before each row", trigdata->tg_trigger->tgname)));
	if (writing_header)
		return PointerGetDatum(new);

	/* a new batch */
	if (TRIGGER_FIRED_BY_INSERT(trigdata->tg_event))
	{
		if (is_arriving(rel, new))
			return PointerGetDatum(keep_arriving_header(rel, new));
		check_target(rel, new, NULL);
		return PointerGetDatum(fill_new_header(rel, new));
	}

	/* a batch that has been executed stays as it is, unless the owner changes it */
	is_owner = poser_is_owner(RelationGetRelid(rel), GetUserId());
	(void) read_column(rel, old, "executed", InvalidOid, &not_executed);
	if (!not_executed && !is_owner)
		poser_batch_executed_error(header_name(rel, old),
								   psprintf("Only the owner of \"%s\" can change it.", RelationGetRelationName(rel)));
	if (TRIGGER_FIRED_BY_DELETE(trigdata->tg_event))
		return PointerGetDatum(old);

	/* columns that users must not change; not even the owner may change the numbers of rows */
	if (is_changed(rel, old, new, "row_count"))
		ereport(ERROR,
				(errcode(ERRCODE_GENERATED_ALWAYS),
				 errmsg("column \"row_count\" of %s can only be changed by changing rows", header_name(rel, old))));
	if (poser_batch_has_unchanged_count(RelationGetRelid(rel)) && is_changed(rel, old, new, "unchanged_count"))
		ereport(ERROR,
				(errcode(ERRCODE_GENERATED_ALWAYS),
				 errmsg("column \"unchanged_count\" of %s can only be changed by poser_batch_populate()", header_name(rel, old))));
	for (int i = 0; i < lengthof(protected_columns); i++)
		if (!is_owner && is_changed(rel, old, new, protected_columns[i]))
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("column \"%s\" of %s can only be changed by the owner of \"%s\"",
							protected_columns[i], header_name(rel, old), RelationGetRelationName(rel))));

	/* with another key, reviewed rows would refer to other rows of the target */
	if (is_changed(rel, old, new, "key") &&
		(!not_executed || DatumGetBool(read_column(rel, old, "complete", BOOLOID, &isnull))))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("column \"key\" of %s cannot be changed", header_name(rel, old)),
				 errdetail("It is complete or has been executed.")));

	/* a target that stays the same is not checked again, because it may have been dropped */
	if (is_changed(rel, old, new, "target"))
		check_target(rel, new, header_name(rel, old));
	return PointerGetDatum(new);
}

/*
 * Run an UPDATE of poser_batch that poser_batch_guard() does not check.  The caller has
 * become the owner, and is between SPI_connect() and SPI_finish().  Raises an error if a
 * rule has replaced the UPDATE by something else.  Returns how many headers were updated.
 * If the UPDATE has no RETURNING, "expected" is not given.
 */
uint64
poser_batch_update_header(const PoserQuery *query)
{
	PoserQuery update = *query;
	volatile uint64 result = 0;

	if (update.expected == 0)
		update.expected = SPI_OK_UPDATE;
	writing_header = true;
	PG_TRY();
	{
		result = poser_run(&update);
	}
	PG_FINALLY();
	{
		writing_header = false;
	}
	PG_END_TRY();
	return result;
}

/*
 * Places of headers
 */

/* Returns where the header of this batch was last, or NULL if that is not known. */
static const ItemPointerData *
find_place(const char *uuid)
{
	for (int i = 0; i < nplaces; i++)
		if (strcmp(places[i].uuid, uuid) == 0)
			return &places[i].tid;
	return NULL;
}

/* Remember where the header of this batch is.  With NULL, forget it. */
static void
keep_place(const char *uuid, const ItemPointerData *tid)
{
	HeaderPlace place = {0};
	int i = 0;

	if (strlen(uuid) >= sizeof(place.uuid))
		return;
	while (i < nplaces && strcmp(places[i].uuid, uuid) != 0)
		i++;
	if (tid == NULL)
	{
		if (i < nplaces)
			places[i] = places[--nplaces];
		return;
	}
	strlcpy(place.uuid, uuid, sizeof(place.uuid));
	place.tid = *tid;

	/* it becomes the first one; if there is no room, the last one goes */
	if (i == nplaces && nplaces < lengthof(places))
		nplaces++;
	memmove(&places[1], &places[0], sizeof(HeaderPlace) * Min(i, lengthof(places) - 1));
	places[0] = place;
}

/*
 * Counting the rows
 */

/*
 * Run a statement for a header, found by its uuid and, with "tid", its place.  Returns how
 * many rows it has given.  The statement has the header's qualification behind WHERE as %2$s.
 */
static uint64
run_for_header(const char *sql, const char *headers, Datum uuid, const ItemPointerData *tid, int64 change, bool is_update)
{
	Oid argtypes[] = {VARCHAROID, INT8OID, TIDOID};
	Datum values[] = {uuid, Int64GetDatum(change), PointerGetDatum(tid)};
	PoserQuery query = {
		.sql = psprintf(sql, headers,
						tid != NULL ? "ctid OPERATOR(pg_catalog.=) $3 AND uuid OPERATOR(pg_catalog.=) $1"
									: "uuid OPERATOR(pg_catalog.=) $1"),
		.nargs = tid != NULL ? 3 : 2,
		.argtypes = argtypes,
		.values = values,
		.no_seqscan = true,
		.expected = is_update ? SPI_OK_UPDATE_RETURNING : 0,
		.limit = is_update ? 0 : 1};

	return is_update ? poser_batch_update_header(&query) : poser_run(&query);
}

/*
 * Has a batch at most as many rows as its row_count?  The rows of the current statement
 * count, too.
 */
static bool
are_within_count(Relation rel, Datum uuid, int64 row_count)
{
	Oid argtypes[] = {VARCHAROID, INT8OID};
	Datum values[] = {uuid, Int64GetDatum(row_count)};
	bool isnull;

	/*
	 * SELECT count(*) <= $2 FROM poser_batch_row WHERE batch_uuid = $1 AND NOT removed
	 */
	(void) poser_run(&(PoserQuery) {
		.sql = psprintf("SELECT pg_catalog.count(*) OPERATOR(pg_catalog.<=) $2 FROM %s"
						" WHERE batch_uuid OPERATOR(pg_catalog.=) $1 AND NOT removed",
						poser_relation_name(RelationGetRelid(rel))),
		.nargs = lengthof(argtypes),
		.argtypes = argtypes,
		.values = values});
	return DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
}

/*
 * Lock the header of a batch after a statement has changed rows of the batch, and add
 * "change" to its row_count.  Raises an error if the rows must not change.  "headers"
 * is the qualified name of poser_batch, and "rel" is the table of the rows.
 * "is_owner" says whether the user that ran the statement has the rights of the owner of
 * "rel", and "is_insert" whether the statement has inserted the rows.
 */
static void
update_row_count(Relation rel, const char *headers, Datum uuid, int64 change, bool is_owner, bool is_insert)
{
	const char *uuid_text = TextDatumGetCString(uuid);
	bool is_marked = (poser_batch_marked != NULL && strcmp(poser_batch_marked, uuid_text) == 0);
	const ItemPointerData *place = find_place(uuid_text);
	ItemPointerData tid;
	bool is_counted = false;
	HeapTuple header;
	TupleDesc desc;
	bool executed;
	bool complete;
	int64 row_count;
	char *name;
	bool isnull;

	/*
	 * Change the header where it was last:
	 *
	 * UPDATE poser_batch SET row_count = row_count + $2
	 *  WHERE ctid = $3 AND uuid = $1
	 * RETURNING executed IS NOT NULL, complete, id, ctid, row_count
	 *
	 * If the number of rows stays the same, or if the header is somewhere else, lock it:
	 *
	 * SELECT executed IS NOT NULL, complete, id, ctid, row_count FROM poser_batch
	 *  WHERE uuid = $1 FOR NO KEY UPDATE
	 */
	static const char *const update_sql =
		"UPDATE %1$s SET row_count = row_count OPERATOR(pg_catalog.+) $2 WHERE %2$s"
		" RETURNING executed IS NOT NULL, complete, id, ctid, row_count";
	static const char *const lock_sql =
		"SELECT executed IS NOT NULL, complete, id, ctid, row_count FROM %1$s WHERE %2$s FOR NO KEY UPDATE";

	if (change != 0 && place != NULL)
		is_counted = (run_for_header(update_sql, headers, uuid, place, change, true) > 0);
	if (!is_counted &&
		(change != 0 || place == NULL || run_for_header(lock_sql, headers, uuid, place, change, false) == 0) &&
		run_for_header(lock_sql, headers, uuid, NULL, change, false) == 0)
	{
		/* the batch is being deleted, and its rows with it */
		keep_place(uuid_text, NULL);
		return;
	}
	header = SPI_tuptable->vals[0];
	desc = SPI_tuptable->tupdesc;
	poser_check_type(NULL, desc, 2, BOOLOID);
	executed = DatumGetBool(SPI_getbinval(header, desc, 1, &isnull));
	complete = DatumGetBool(SPI_getbinval(header, desc, 2, &isnull));
	name = poser_batch_name(poser_result_int64(3, NULL), uuid);
	tid = *(ItemPointer) DatumGetPointer(SPI_getbinval(header, desc, 4, &isnull));
	row_count = poser_result_int64(5, NULL) - (is_counted ? change : 0);

	/* raise an error if these rows must not change */
	if (executed && !is_owner && !is_marked)
		poser_batch_executed_error(name, psprintf("Only the owner of \"%s\" can change its rows.",
												  RelationGetRelationName(rel)));
	if (complete && !executed && !is_marked)
	{
		if (!is_owner || !is_insert || !are_within_count(rel, uuid, row_count))
			poser_batch_complete_error(name);
		/* these rows have come from elsewhere, and are counted already */
		change = is_counted ? -change : 0;
		is_counted = false;
	}

	if (change != 0 && !is_counted &&
		run_for_header(update_sql, headers, uuid, &tid, change, true) > 0)
		tid = *(ItemPointer) DatumGetPointer(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 4, &isnull));
	keep_place(uuid_text, &tid);
}

/*
 * Add "change" to the change of a batch.  Returns false if the batch is not among the
 * changes, and there is no room for it.
 */
static bool
add_change(BatchChange *changes, int *nchanges, Datum uuid, int64 change)
{
	const text *value = DatumGetTextPP(uuid);
	const char *data = VARDATA_ANY(value);
	int size = VARSIZE_ANY_EXHDR(value);
	int i = *nchanges;

	/* the batch of the row before is the most likely one */
	while (--i >= 0)
		if (VARSIZE_ANY_EXHDR(DatumGetPointer(changes[i].uuid)) == size &&
			memcmp(VARDATA_ANY(DatumGetPointer(changes[i].uuid)), data, size) == 0)
		{
			changes[i].change += change;
			return true;
		}
	if (*nchanges == MAX_CHANGES)
		return false;
	changes[*nchanges].uuid = datumCopy(PointerGetDatum(value), false, -1);
	changes[(*nchanges)++].change = change;
	return true;
}

/* Add the rows of a transition table to the changes: "sign" for each row that is not removed.  Returns as add_change(). */
static bool
add_rows(TriggerData *trigdata, Tuplestorestate *store, int sign, BatchChange *changes, int *nchanges)
{
	AttrNumber uuid_column = poser_own_column(trigdata->tg_relation, "batch_uuid", VARCHAROID);
	AttrNumber removed_column = poser_own_column(trigdata->tg_relation, "removed", BOOLOID);
	PoserTransition rows;
	bool result = true;

	poser_transition_open(&rows, store, trigdata);
	while (result && poser_transition_next(&rows))
	{
		bool uuid_isnull;
		bool removed_isnull;
		Datum uuid = slot_getattr(rows.slot, uuid_column, &uuid_isnull);
		bool removed = DatumGetBool(slot_getattr(rows.slot, removed_column, &removed_isnull));

		/* a null belongs to no batch */
		if (!uuid_isnull)
			result = add_change(changes, nchanges, uuid, removed && !removed_isnull ? 0 : sign);
	}
	poser_transition_close(&rows);
	return result;
}

/* Compares two changes by the bytes of their uuids, as COLLATE "C" does. */
static int
compare_changes(const void *a, const void *b)
{
	struct varlena *first = (struct varlena *) DatumGetPointer(((const BatchChange *) a)->uuid);
	struct varlena *second = (struct varlena *) DatumGetPointer(((const BatchChange *) b)->uuid);
	int result = memcmp(VARDATA_ANY(first), VARDATA_ANY(second),
						Min(VARSIZE_ANY_EXHDR(first), VARSIZE_ANY_EXHDR(second)));

	return result != 0 ? result : (int) VARSIZE_ANY_EXHDR(first) - (int) VARSIZE_ANY_EXHDR(second);
}

/*
 * Query how many rows more, or fewer, each batch has.  The result is in SPI_tuptable, in the
 * order of the batches' uuids.
 */
static uint64
query_changes(TriggerData *trigdata)
{
	StringInfoData sql;

	/*
	 * SELECT batch_uuid, sum(n)::int8
	 *   FROM (SELECT batch_uuid, CASE WHEN removed THEN 0 ELSE 1 END AS n FROM new_rows
	 *         UNION ALL
	 *         SELECT batch_uuid, CASE WHEN removed THEN 0 ELSE -1 END AS n FROM old_rows) AS change
	 *  GROUP BY batch_uuid ORDER BY batch_uuid COLLATE "C"
	 */
	poser_register_trigger_rows(trigdata);
	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT batch_uuid, pg_catalog.sum(n)::pg_catalog.int8 FROM (");
	if (trigdata->tg_newtable != NULL)
		appendStringInfo(&sql, "SELECT batch_uuid, CASE WHEN removed THEN 0 ELSE 1 END AS n FROM %s",
						 quote_identifier(trigdata->tg_trigger->tgnewtable));
	if (trigdata->tg_newtable != NULL && trigdata->tg_oldtable != NULL)
		appendStringInfoString(&sql, " UNION ALL ");
	if (trigdata->tg_oldtable != NULL)
		appendStringInfo(&sql, "SELECT batch_uuid, CASE WHEN removed THEN 0 ELSE -1 END AS n FROM %s",
						 quote_identifier(trigdata->tg_trigger->tgoldtable));
	appendStringInfoString(&sql, ") AS change GROUP BY batch_uuid ORDER BY batch_uuid COLLATE pg_catalog.\"C\"");
	return poser_run(&(PoserQuery) {.sql = sql.data, .once = true});
}

/*
 * Check and count what a statement has changed, batch by batch.  The headers are locked
 * in the order of their uuids, so that two statements cannot deadlock here.
 */
static void
update_row_counts(TriggerData *trigdata, const char *headers, bool is_owner)
{
	bool is_insert = TRIGGER_FIRED_BY_INSERT(trigdata->tg_event);
	BatchChange changes[MAX_CHANGES];
	int nchanges = 0;
	SPITupleTable *batches;
	uint64 nbatches;

	/*
	 * After TRUNCATE no batch has rows.
	 *
	 * UPDATE poser_batch SET row_count = 0 WHERE row_count <> 0
	 */
	if (TRIGGER_FIRED_BY_TRUNCATE(trigdata->tg_event))
	{
		(void) poser_batch_update_header(&(PoserQuery) {
			.sql = psprintf("UPDATE %s SET row_count = 0"
							" WHERE row_count OPERATOR(pg_catalog.<>) 0",
							headers)});
		return;
	}

	/* a batch with as many rows as before is checked, too */
	if (add_rows(trigdata, trigdata->tg_newtable, 1, changes, &nchanges) &&
		add_rows(trigdata, trigdata->tg_oldtable, -1, changes, &nchanges))
	{
		qsort(changes, nchanges, sizeof(BatchChange), compare_changes);
		for (int i = 0; i < nchanges; i++)
			update_row_count(trigdata->tg_relation, headers, changes[i].uuid, changes[i].change, is_owner, is_insert);
		return;
	}

	/* the statement has changed many batches */
	nbatches = query_changes(trigdata);
	batches = SPI_tuptable;
	poser_check_type(NULL, batches->tupdesc, 1, VARCHAROID);
	for (uint64 i = 0; i < nbatches; i++)
	{
		bool isnull;
		Datum uuid = SPI_getbinval(batches->vals[i], batches->tupdesc, 1, &isnull);
		Datum change = SPI_getbinval(batches->vals[i], batches->tupdesc, 2, &isnull);

		CHECK_FOR_INTERRUPTS();
		update_row_count(trigdata->tg_relation, headers, uuid, DatumGetInt64(change), is_owner, is_insert);
	}
}

/*
 * poser_batch_row_guard() returns trigger
 *
 * The triggers BEFORE and AFTER each statement that writes poser_batch_row.  The BEFORE
 * trigger has two tasks.  In a restore it waits for the headers to which the rows refer.
 * And it notes that the statement has begun, see base/statement.c: if the AFTER trigger
 * does not fire, the transaction cannot commit.
 */
Datum
poser_batch_row_guard(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = poser_check_trigger(fcinfo);
	Oid nspid = get_func_namespace(fcinfo->flinfo->fn_oid);
	Oid relid = RelationGetRelid(trigdata->tg_relation);
	bool is_owner = poser_is_owner(relid, GetUserId());
	PoserStatement *statement;
	PoserCaller caller;

	if (TRIGGER_FIRED_BEFORE(trigdata->tg_event))
	{
		if (TRIGGER_FIRED_BY_INSERT(trigdata->tg_event))
			poser_restore_wait(trigdata->tg_relation);
		(void) poser_statement_begin(&statements, trigdata);
		return PointerGetDatum(NULL);
	}

	/* the statement has run to its end */
	statement = poser_statement_end(&statements, trigdata);
	if (statement != NULL)
		pfree(statement);
	if (TRIGGER_FIRED_BY_TRUNCATE(trigdata->tg_event))
		poser_check_owner(relid);

	/* the user may have no privilege on poser_batch */
	poser_become_owner(relid, &caller);
	SPI_connect();
	update_row_counts(trigdata, poser_relation_name(poser_batch_lock_table("poser_batch", nspid)), is_owner);
	SPI_finish();
	poser_become_caller(&caller);
	return PointerGetDatum(NULL);
}

/* Register the list of statements, when the module is loaded. */
void
poser_batch_init(void)
{
	poser_statement_register(&statements);
}
