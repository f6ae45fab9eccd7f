/*
 * batch_guard.c
 *	  The triggers that guard batches and count their rows.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
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

/* Is what is done to a header our own doing?  And of which batch are we marking rows? */
static bool writing_header = false;
const char *poser_batch_marked = NULL;

/* Statements on rows of batches that have begun, and whose AFTER trigger is still to come. */
static PoserStatement *unguarded = NULL;

/* Columns of poser_batch that only we, or an owner, may change. */
static const char *const protected_columns[] = {
	"uuid", "id", "target", "created", "created_by", "role_name", "executed", "executed_by"};

/* The number of the table's column of this name; an error if it is not of the type, or there is none. */
static int
column_number(Relation rel, const char *name, Oid type)
{
	int column = SPI_fnumber(RelationGetDescr(rel), name);

	if (column <= 0)
		poser_structure_error(rel);
	if (OidIsValid(type))
		poser_check_type(RelationGetDescr(rel), column, type);
	return column;
}

/* The column's value; its type is not looked at if "type" is InvalidOid. */
static Datum
column_of(Relation rel, HeapTuple tuple, const char *name, Oid type, bool *isnull)
{
	return heap_getattr(tuple, column_number(rel, name, type), RelationGetDescr(rel), isnull);
}

static bool
is_changed(Relation rel, HeapTuple old, HeapTuple new, const char *name)
{
	bool was_null;
	bool is_null;
	Datum was = column_of(rel, old, name, InvalidOid, &was_null);
	Datum is = column_of(rel, new, name, InvalidOid, &is_null);
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), column_number(rel, name, InvalidOid) - 1);

	if (was_null || is_null)
		return was_null != is_null;
	return !datum_image_eq(was, is, att->attbyval, att->attlen);
}

/* The name in errors of the batch that has this header. */
static char *
name_of(Relation rel, HeapTuple tuple)
{
	bool isnull;

	return poser_batch_name(DatumGetInt64(column_of(rel, tuple, "id", INT8OID, &isnull)),
							column_of(rel, tuple, "uuid", VARCHAROID, &isnull));
}

static void
check_target(Relation rel, HeapTuple tuple)
{
	bool isnull;
	Oid target = DatumGetObjectId(column_of(rel, tuple, "target", REGCLASSOID, &isnull));
	char relkind;

	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("target must not be null")));
	relkind = get_rel_relkind(target);
	/* its name would mean nothing in a dump */
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

/* What a new batch is, whatever the user says. */
static HeapTuple
new_batch(Relation rel, HeapTuple tuple)
{
	static const struct
	{
		const char *name;
		Oid type;
	} attributes[] = {
		{"created", TIMESTAMPTZOID},
		{"created_by", TEXTOID},
		{"role_name", NAMEOID},
		{"row_count", INT8OID},
		{"executed", InvalidOid},
		{"executed_by", InvalidOid}};
	int columns[lengthof(attributes)];
	Datum values[lengthof(attributes)];
	bool nulls[lengthof(attributes)] = {false, false, false, false, true, true};
	NameData role;

	for (int i = 0; i < lengthof(attributes); i++)
		columns[i] = column_number(rel, attributes[i].name, attributes[i].type);
	namestrcpy(&role, GetUserNameFromId(GetUserId(), false));
	values[0] = TimestampTzGetDatum(GetCurrentTransactionStartTimestamp());
	values[1] = CStringGetTextDatum(poser_username());
	values[2] = NameGetDatum(&role);
	values[3] = Int64GetDatum(0);
	values[4] = values[5] = (Datum) 0;
	return heap_modify_tuple_by_cols(tuple, RelationGetDescr(rel), lengthof(attributes), columns, values, nulls);
}

/*
 * poser_batch_guard() before each row of poser_batch that is written.
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
				 errmsg("trigger \"%s\" must be fired before rows", trigdata->tg_trigger->tgname)));
	if (writing_header || poser_is_restore(rel))
		return PointerGetDatum(new);

	if (TRIGGER_FIRED_BY_INSERT(trigdata->tg_event))
	{
		check_target(rel, new);
		return PointerGetDatum(new_batch(rel, new));
	}

	is_owner = poser_is_owner(RelationGetRelid(rel), GetUserId());
	(void) column_of(rel, old, "executed", InvalidOid, &not_executed);
	if (!not_executed && !is_owner)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s has been executed", name_of(rel, old)),
				 errdetail("Only the owner of \"%s\" can change it.", RelationGetRelationName(rel))));
	if (TRIGGER_FIRED_BY_DELETE(trigdata->tg_event))
		return PointerGetDatum(old);

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
	/* it says what the rows mean that have been reviewed */
	if (is_changed(rel, old, new, "key") &&
		(!not_executed || DatumGetBool(column_of(rel, old, "complete", BOOLOID, &isnull))))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("column \"key\" of %s cannot be changed", name_of(rel, old)),
				 errdetail("It is complete or has been executed.")));
	/* other columns of a batch whose target is gone can be changed */
	if (is_changed(rel, old, new, "target"))
		check_target(rel, new);
	return PointerGetDatum(new);
}

/* Run an UPDATE of poser_batch, past the guard. */
void
poser_batch_update_header(const char *sql, int nargs, Oid *argtypes, Datum *args)
{
	writing_header = true;
	PG_TRY();
	{
		if (SPI_execute_with_args(sql, nargs, argtypes, args, NULL, false, 0) != SPI_OK_UPDATE)
			elog(ERROR, "could not write a batch");
	}
	PG_FINALLY();
	{
		writing_header = false;
	}
	PG_END_TRY();
}

/* Add to the number of a batch's rows, having locked its header. */
static void
count_rows(Relation rel, const char *header, Datum uuid, int64 n, bool is_owner)
{
	Oid argtypes[] = {VARCHAROID, INT8OID};
	Datum args[] = {uuid, Int64GetDatum(n)};
	bool isnull;

	if (SPI_execute_with_args(psprintf("SELECT executed IS NOT NULL, complete, id FROM %s"
									   " WHERE uuid OPERATOR(pg_catalog.=) $1 FOR NO KEY UPDATE",
									   header),
							  1, argtypes, args, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not lock a batch");
	/* a batch that is deleted takes its rows along */
	if (SPI_processed == 0)
		return;
	poser_check_type(SPI_tuptable->tupdesc, 2, BOOLOID);
	poser_check_type(SPI_tuptable->tupdesc, 3, INT8OID);
	if (poser_batch_marked == NULL || strcmp(poser_batch_marked, TextDatumGetCString(uuid)) != 0)
	{
		bool executed = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
		bool complete = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull));
		int64 id = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 3, &isnull));

		if (executed && !is_owner)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("%s has been executed", poser_batch_name(id, uuid)),
					 errdetail("Only the owner of \"%s\" can change its rows.",
							   RelationGetRelationName(rel))));
		if (complete && !executed)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("%s is complete", poser_batch_name(id, uuid)),
					 errhint("Its rows can be changed again when \"complete\" is set to false.")));
	}
	if (n != 0)
		poser_batch_update_header(psprintf("UPDATE %s SET row_count = row_count OPERATOR(pg_catalog.+) $2"
										   " WHERE uuid OPERATOR(pg_catalog.=) $1",
										   header),
								  2, argtypes, args);
}

/* Add up what the statement has changed, batch by batch. */
static void
count_changes(TriggerData *trigdata, const char *header, bool is_owner)
{
	StringInfoData sql;
	SPITupleTable *batches;
	uint64 n;

	if (TRIGGER_FIRED_BY_TRUNCATE(trigdata->tg_event))
	{
		poser_check_owner(RelationGetRelid(trigdata->tg_relation));
		poser_batch_update_header(psprintf("UPDATE %s SET row_count = 0 WHERE row_count OPERATOR(pg_catalog.<>) 0", header),
								  0, NULL, NULL);
		return;
	}

	if (SPI_register_trigger_data(trigdata) < 0)
		elog(ERROR, "could not register the rows of a trigger");
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
	if (SPI_execute(sql.data, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not count the rows of a trigger");
	batches = SPI_tuptable;
	n = SPI_processed;
	poser_check_type(batches->tupdesc, 1, VARCHAROID);
	for (uint64 i = 0; i < n; i++)
	{
		bool isnull;
		Datum uuid = SPI_getbinval(batches->vals[i], batches->tupdesc, 1, &isnull);

		count_rows(trigdata->tg_relation, header, uuid,
				   DatumGetInt64(SPI_getbinval(batches->vals[i], batches->tupdesc, 2, &isnull)), is_owner);
	}
}

/*
 * poser_batch_row_guard() before and after statements that write poser_batch_row.
 *
 * Before, for a restore may come to the rows before their batches; and so that
 * a statement that is not run to its end, after which it would not be called,
 * cannot be committed.
 */
Datum
poser_batch_row_guard(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = poser_check_trigger(fcinfo);
	Oid nspid = get_func_namespace(fcinfo->flinfo->fn_oid);
	Oid relid = RelationGetRelid(trigdata->tg_relation);
	bool is_owner = poser_is_owner(relid, GetUserId());
	PoserStatement *statement;
	Oid save_userid;
	int save_sec_context;

	if (TRIGGER_FIRED_BEFORE(trigdata->tg_event))
	{
		if (TRIGGER_FIRED_BY_INSERT(trigdata->tg_event))
			poser_restore_wait(trigdata->tg_relation);
		(void) poser_statement_begin(&unguarded, trigdata);
		return PointerGetDatum(NULL);
	}
	statement = poser_statement_end(&unguarded, trigdata);
	if (statement != NULL)
		pfree(statement);
	if (poser_is_restore(trigdata->tg_relation))
		return PointerGetDatum(NULL);
	if (TRIGGER_FIRED_BY_TRUNCATE(trigdata->tg_event))
		poser_check_owner(relid);

	poser_become_owner(relid, &save_userid, &save_sec_context);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	count_changes(trigdata, poser_relation_name(poser_batch_lock_table("poser_batch", nspid)), is_owner);
	SPI_finish();
	SetUserIdAndSecContext(save_userid, save_sec_context);
	return PointerGetDatum(NULL);
}

static void
forget_transaction(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE)
		poser_statement_check(unguarded);
	else if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		unguarded = NULL; /* their memory goes with the transaction */
}

static void
forget_subtransaction(SubXactEvent event, SubTransactionId mySubid,
					  SubTransactionId parentSubid, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		poser_statement_abort(&unguarded, mySubid);
}

void
poser_batch_init(void)
{
	RegisterXactCallback(forget_transaction, NULL);
	RegisterSubXactCallback(forget_subtransaction, NULL);
}
