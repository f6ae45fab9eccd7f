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
 * The triggers do not check what Poser writes itself, see writing_header and
 * poser_batch_marked.  They do not check or count what a restore writes either, because
 * a dump has the final values.
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

/* Raises an error unless a batch can be for the header's target: a table that is not temporary, or a foreign table. */
static void
check_target(Relation rel, HeapTuple tuple)
{
	bool isnull;
	Oid target = DatumGetObjectId(read_column(rel, tuple, "target", REGCLASSOID, &isnull));
	char relkind;

	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("target must not be null")));
	relkind = get_rel_relkind(target);
	/* a dump has the batch, and the name of its target, but no temporary tables */
	if (relkind != '\0' && get_rel_persistence(target) == RELPERSISTENCE_TEMP)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot make a batch for temporary table \"%s\"", get_rel_name(target))));
	if (relkind != RELKIND_RELATION && relkind != RELKIND_PARTITIONED_TABLE &&
		relkind != RELKIND_FOREIGN_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot make a batch for \"%s\"",
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
		{"executed_by", InvalidOid}};
	int columns[lengthof(filled)];
	Datum values[lengthof(filled)];
	bool nulls[lengthof(filled)] = {false, false, false, false, true, true};
	NameData role;

	for (int i = 0; i < lengthof(filled); i++)
		columns[i] = poser_own_column(rel, filled[i].name, filled[i].type);
	namestrcpy(&role, GetUserNameFromId(GetUserId(), false));
	values[0] = TimestampTzGetDatum(GetCurrentTransactionStartTimestamp());
	values[1] = CStringGetTextDatum(poser_username());
	values[2] = NameGetDatum(&role);
	values[3] = Int64GetDatum(0);
	values[4] = values[5] = (Datum) 0;
	return heap_modify_tuple_by_cols(tuple, RelationGetDescr(rel), lengthof(filled), columns, values, nulls);
}

/*
 * Does the header come from a dump?  With --enable-row-security a restore is not told from
 * other sessions of the owner with an empty search_path.  But only a dump has created_by.
 */
static bool
is_from_dump(Relation rel, HeapTuple tuple)
{
	bool isnull;

	if (!poser_may_be_restore(rel))
		return false;
	(void) read_column(rel, tuple, "created_by", InvalidOid, &isnull);
	return !isnull;
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
	if (writing_header || poser_is_restore(rel))
		return PointerGetDatum(new);

	/* a new batch */
	if (TRIGGER_FIRED_BY_INSERT(trigdata->tg_event))
	{
		if (is_from_dump(rel, new))
			return PointerGetDatum(new);
		check_target(rel, new);
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

	/* columns that users must not change; not even the owner may change row_count */
	if (is_changed(rel, old, new, "row_count"))
		ereport(ERROR,
				(errcode(ERRCODE_GENERATED_ALWAYS),
				 errmsg("column \"row_count\" can only be changed by changing rows")));
	for (int i = 0; i < lengthof(protected_columns); i++)
		if (!is_owner && is_changed(rel, old, new, protected_columns[i]))
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("column \"%s\" of relation \"%s\" can only be changed by its owner",
							protected_columns[i], RelationGetRelationName(rel))));

	/* with another key, reviewed rows would refer to other rows of the target */
	if (is_changed(rel, old, new, "key") &&
		(!not_executed || DatumGetBool(read_column(rel, old, "complete", BOOLOID, &isnull))))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("column \"key\" of %s cannot be changed", header_name(rel, old)),
				 errdetail("It is complete or has been executed.")));

	/* a target that stays the same is not checked again, because it may have been dropped */
	if (is_changed(rel, old, new, "target"))
		check_target(rel, new);
	return PointerGetDatum(new);
}

/*
 * Run an UPDATE of poser_batch that poser_batch_guard() does not check.  The caller has
 * become the owner, and is between SPI_connect() and SPI_finish().  Raises an error if a
 * rule has replaced the UPDATE by something else.
 */
void
poser_batch_update_header(const PoserQuery *query)
{
	PoserQuery update = *query;

	update.expected = SPI_OK_UPDATE;
	writing_header = true;
	PG_TRY();
	{
		(void) poser_run(&update);
	}
	PG_FINALLY();
	{
		writing_header = false;
	}
	PG_END_TRY();
}

/*
 * Does the header of a batch count all its rows already?  A dump has the header before the
 * rows.  With --enable-row-security this is how the rows of a restore are told.
 *
 *	SELECT count(*) FROM poser_batch_row WHERE batch_uuid = $1 AND NOT removed
 */
static bool
is_counted(Relation rel, Datum uuid, int64 row_count)
{
	Oid argtypes[] = {VARCHAROID};

	(void) poser_run(&(PoserQuery) {
		.sql = psprintf("SELECT pg_catalog.count(*) FROM %s"
						" WHERE batch_uuid OPERATOR(pg_catalog.=) $1 AND NOT removed",
						poser_relation_name(RelationGetRelid(rel))),
		.nargs = 1,
		.argtypes = argtypes,
		.values = &uuid});
	return poser_result_int64(1, NULL) <= row_count;
}

/*
 * Lock the header of a batch after a statement has changed rows of the batch, and add
 * "change" to its row_count.  Raises an error if the rows must not change.  "headers"
 * is the qualified name of poser_batch, and "rel" is the table of the rows.
 * "is_owner" says whether the user that ran the statement has the rights of the owner of
 * "rel".  With "may_be_restore" the rows can be a dump's, see is_counted().
 */
static void
update_row_count(Relation rel, const char *headers, Datum uuid, int64 change, bool is_owner, bool may_be_restore)
{
	Oid argtypes[] = {VARCHAROID, INT8OID};
	Datum values[] = {uuid, Int64GetDatum(change)};
	bool is_marked = (poser_batch_marked != NULL && strcmp(poser_batch_marked, TextDatumGetCString(uuid)) == 0);
	HeapTuple header;
	TupleDesc desc;
	bool executed;
	bool complete;
	char *name;
	bool isnull;

	/*
	 * SELECT executed IS NOT NULL, complete, id, row_count FROM poser_batch
	 *  WHERE uuid = $1 FOR NO KEY UPDATE
	 */
	if (poser_run(&(PoserQuery) {
			.sql = psprintf("SELECT executed IS NOT NULL, complete, id, row_count FROM %s"
							" WHERE uuid OPERATOR(pg_catalog.=) $1 FOR NO KEY UPDATE",
							headers),
			.nargs = 1,
			.argtypes = argtypes,
			.values = values,
			.limit = 1}) == 0)
		/* the batch is being deleted, and its rows with it */
		return;
	header = SPI_tuptable->vals[0];
	desc = SPI_tuptable->tupdesc;
	poser_check_type(NULL, desc, 2, BOOLOID);
	executed = DatumGetBool(SPI_getbinval(header, desc, 1, &isnull));
	complete = DatumGetBool(SPI_getbinval(header, desc, 2, &isnull));
	name = poser_batch_name(poser_result_int64(3, NULL), uuid);
	if (may_be_restore && is_counted(rel, uuid, poser_result_int64(4, NULL)))
		return;

	/* raise an error if these rows must not change */
	if (executed && !is_owner && !is_marked)
		poser_batch_executed_error(name, psprintf("Only the owner of \"%s\" can change its rows.",
												  RelationGetRelationName(rel)));
	if (complete && !executed && !is_marked)
		poser_batch_complete_error(name);

	/*
	 * UPDATE poser_batch SET row_count = row_count + $2 WHERE uuid = $1
	 */
	if (change != 0)
		poser_batch_update_header(&(PoserQuery) {
			.sql = psprintf("UPDATE %s SET row_count = row_count OPERATOR(pg_catalog.+) $2"
							" WHERE uuid OPERATOR(pg_catalog.=) $1",
							headers),
			.nargs = lengthof(argtypes),
			.argtypes = argtypes,
			.values = values});
}

/*
 * Check and count what a statement has changed, batch by batch.  The headers are locked
 * in the order of their uuids, so that two statements cannot deadlock here.
 */
static void
update_row_counts(TriggerData *trigdata, const char *headers, bool is_owner, bool may_be_restore)
{
	StringInfoData sql;
	SPITupleTable *batches;
	uint64 nbatches;

	/*
	 * After TRUNCATE no batch has rows.
	 *
	 * UPDATE poser_batch SET row_count = 0 WHERE row_count <> 0
	 */
	if (TRIGGER_FIRED_BY_TRUNCATE(trigdata->tg_event))
	{
		poser_batch_update_header(&(PoserQuery) {
			.sql = psprintf("UPDATE %s SET row_count = 0"
							" WHERE row_count OPERATOR(pg_catalog.<>) 0",
							headers)});
		return;
	}

	/*
	 * How many rows more, or fewer, does each batch have?
	 *
	 * SELECT batch_uuid, sum(n)::int8
	 *   FROM (SELECT batch_uuid, CASE WHEN removed THEN 0 ELSE 1 END AS n FROM new_rows
	 *         UNION ALL
	 *         SELECT batch_uuid, CASE WHEN removed THEN 0 ELSE -1 END AS n FROM old_rows) AS change
	 *  GROUP BY batch_uuid ORDER BY batch_uuid
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
	appendStringInfoString(&sql, ") AS change GROUP BY batch_uuid ORDER BY batch_uuid");
	nbatches = poser_run(&(PoserQuery) {.sql = sql.data, .once = true});
	batches = SPI_tuptable;
	poser_check_type(NULL, batches->tupdesc, 1, VARCHAROID);

	/* a batch with as many rows as before is checked, too */
	for (uint64 i = 0; i < nbatches; i++)
	{
		bool isnull;
		Datum uuid = SPI_getbinval(batches->vals[i], batches->tupdesc, 1, &isnull);
		Datum change = SPI_getbinval(batches->vals[i], batches->tupdesc, 2, &isnull);

		CHECK_FOR_INTERRUPTS();
		update_row_count(trigdata->tg_relation, headers, uuid, DatumGetInt64(change), is_owner, may_be_restore);
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
	bool may_be_restore;
	PoserStatement *statement;
	Oid save_userid;
	int save_sec_context;

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
	if (poser_is_restore(trigdata->tg_relation))
		return PointerGetDatum(NULL);
	if (TRIGGER_FIRED_BY_TRUNCATE(trigdata->tg_event))
		poser_check_owner(relid);

	may_be_restore = TRIGGER_FIRED_BY_INSERT(trigdata->tg_event) && poser_may_be_restore(trigdata->tg_relation);

	/* the user may have no privilege on poser_batch */
	poser_become_owner(relid, &save_userid, &save_sec_context);
	SPI_connect();
	update_row_counts(trigdata, poser_relation_name(poser_batch_lock_table("poser_batch", nspid)), is_owner,
					  may_be_restore);
	SPI_finish();
	SetUserIdAndSecContext(save_userid, save_sec_context);
	return PointerGetDatum(NULL);
}

/* Register the list of statements, when the module is loaded. */
void
poser_batch_init(void)
{
	poser_statement_register(&statements);
}
