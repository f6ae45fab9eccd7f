/*
 * alter_type.c
 *	  poser_alter_type(): another type for a column that a view of the extension shows.
 *
 * ALTER TABLE does not change the type of a column that a view uses.  A user's view can
 * be dropped and made again, but a view of the extension cannot: functions return its
 * rows, and they are in C, so that only a superuser can make them.
 *
 * So the view stays.  It gets a query that does not read the table, then the column gets
 * its new type, then the view's column gets the same type, as ALTER TYPE does it for the
 * column of a composite type, and then the view gets its query again.  Privileges,
 * comments, options, and all that refers to the view are as before.
 *
 * The function waits for the lock of the view only while the transaction holds no other
 * lock, and takes the table's lock only if it can have it at once.  So it cannot be part of
 * a deadlock, for instance with a session that has written to the table and then reads the
 * view.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/tablecmds.h"
#include "executor/spi.h"
#include "nodes/parsenodes.h"
#include "parser/parser.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteHandler.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "base/base.h"

PG_FUNCTION_INFO_V1(poser_alter_type);

/* The extension's views that use a column.  $1 is the extension, $2 the table and $3 the column's number. */
static const char *const views_query =
	"SELECT DISTINCT rule.ev_class\n"
	"  FROM pg_catalog.pg_depend AS used\n"
	"       JOIN pg_catalog.pg_rewrite AS rule ON rule.oid OPERATOR(pg_catalog.=) used.objid\n"
	"       JOIN pg_catalog.pg_depend AS member ON member.objid OPERATOR(pg_catalog.=) rule.ev_class\n"
	" WHERE used.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_rewrite'::pg_catalog.regclass\n"
	"   AND used.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass\n"
	"   AND used.refobjid OPERATOR(pg_catalog.=) $2 AND used.refobjsubid OPERATOR(pg_catalog.=) $3\n"
	"   AND rule.rulename OPERATOR(pg_catalog.=) '_RETURN'\n"
	"   AND member.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass\n"
	"   AND member.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass\n"
	"   AND member.refobjid OPERATOR(pg_catalog.=) $1 AND member.deptype OPERATOR(pg_catalog.=) 'e'\n"
	" ORDER BY rule.ev_class";

/* What uses a column of a view.  $1 is the view and $2 the column's number. */
static const char *const users_query =
	"SELECT pg_catalog.pg_describe_object(classid, objid, objsubid)\n"
	"  FROM pg_catalog.pg_depend\n"
	" WHERE refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass\n"
	"   AND refobjid OPERATOR(pg_catalog.=) $1 AND refobjsubid OPERATOR(pg_catalog.=) $2\n"
	" ORDER BY 1";

/*
 * Two statements for the view $1, for instance
 *
 *		CREATE OR REPLACE VIEW v WITH (security_invoker='true') AS SELECT NULL::varchar(255) AS description
 *		CREATE OR REPLACE VIEW v WITH (security_invoker='true') AS SELECT t.description FROM t
 */
static const char *const statements_query =
	"SELECT pg_catalog.concat(beginning, 'SELECT ', columns),\n"
	"       pg_catalog.concat(beginning, pg_catalog.pg_get_viewdef($1))\n"
	"  FROM (SELECT pg_catalog.format('CREATE OR REPLACE VIEW %s%s AS ', $1::pg_catalog.regclass,\n"
	"                                 (SELECT ' WITH (' || pg_catalog.string_agg(\n"
	"                                             pg_catalog.format('%s=%L', option_name, option_value), ', ') || ')'\n"
	"                                    FROM pg_catalog.pg_options_to_table(c.reloptions))) AS beginning,\n"
	"               (SELECT pg_catalog.string_agg(\n"
	"                           pg_catalog.format('NULL::%s%s AS %I', pg_catalog.format_type(atttypid, atttypmod),\n"
	"                                             CASE WHEN attcollation <> 0\n"
	"                                                  THEN ' COLLATE ' || attcollation::pg_catalog.regcollation::pg_catalog.text END,\n"
	"                                             attname), ', ' ORDER BY attnum)\n"
	"                  FROM pg_catalog.pg_attribute\n"
	"                 WHERE attrelid = $1 AND attnum > 0) AS columns\n"
	"          FROM pg_catalog.pg_class AS c WHERE c.oid = $1) AS view";

/* Run a statement that changes the catalogs. */
static void
run_statement(const char *sql)
{
	poser_run(&(PoserQuery) {.sql = sql, .once = true, .expected = SPI_OK_UTILITY});
}

/* Returns the views of the extension that use a column.  Raises an error if the current user does not own one of them. */
static List *
find_views(Oid extension, Oid relid, AttrNumber column)
{
	const Oid argtypes[] = {OIDOID, OIDOID, INT4OID};
	const Datum values[] = {ObjectIdGetDatum(extension), ObjectIdGetDatum(relid), Int32GetDatum(column)};
	List *result = NIL;

	poser_run(&(PoserQuery) {.sql = views_query, .nargs = lengthof(argtypes), .argtypes = argtypes, .values = values, .once = true});
	for (uint64 i = 0; i < SPI_tuptable->numvals; i++)
	{
		bool isnull;
		Oid view = DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));

		poser_check_owner(view);
		result = lappend_oid(result, view);
	}
	return result;
}

/*
 * Returns the numbers of the view's columns that show a table's column as it is.  Raises an
 * error if something uses such a column, or if a table has a column of the view's row type.
 */
static List *
find_view_columns(Oid viewid, Oid relid, AttrNumber column)
{
	Relation view = table_open(viewid, NoLock);
	Query *query = get_view_query(view);
	List *result = NIL;
	ListCell *lc;

	find_composite_type_dependencies(view->rd_rel->reltype, view, NULL);
	foreach(lc, query->targetList)
	{
		TargetEntry *entry = lfirst_node(TargetEntry, lc);
		Var *var = (Var *) entry->expr;
		const Oid argtypes[] = {OIDOID, INT4OID};
		const Datum values[] = {ObjectIdGetDatum(viewid), Int32GetDatum(entry->resno)};

		if (entry->resjunk || !IsA(var, Var) || var->varlevelsup != 0 || var->varattno != column ||
			rt_fetch(var->varno, query->rtable)->rtekind != RTE_RELATION ||
			rt_fetch(var->varno, query->rtable)->relid != relid)
			continue;
		poser_run(&(PoserQuery) {.sql = users_query, .nargs = lengthof(argtypes), .argtypes = argtypes, .values = values, .once = true, .limit = 1});
		if (SPI_processed > 0)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot alter type of a column used by a view or rule"),
					 errdetail("%s depends on column \"%s\" of %s.",
							   SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1),
							   entry->resname, poser_relation_name(viewid)),
					 errhint("Drop it, and make it again afterwards.")));
		result = lappend_int(result, entry->resno);
	}
	table_close(view, NoLock);
	return result;
}

/* Give a view's column the type of a table's column. */
static void
copy_type(Oid viewid, AttrNumber view_column, Oid relid, AttrNumber column)
{
	Relation catalog = table_open(AttributeRelationId, RowExclusiveLock);
	HeapTuple from = SearchSysCache2(ATTNUM, ObjectIdGetDatum(relid), Int16GetDatum(column));
	HeapTuple to = SearchSysCacheCopy2(ATTNUM, ObjectIdGetDatum(viewid), Int16GetDatum(view_column));
	Form_pg_attribute source;
	Form_pg_attribute target;

	if (!HeapTupleIsValid(from) || !HeapTupleIsValid(to))
		elog(ERROR, "cache lookup failed for a column of relation %u or %u", relid, viewid);
	source = (Form_pg_attribute) GETSTRUCT(from);
	target = (Form_pg_attribute) GETSTRUCT(to);
	target->atttypid = source->atttypid;
	target->atttypmod = source->atttypmod;
	target->attcollation = source->attcollation;
	target->attndims = source->attndims;
	target->attlen = source->attlen;
	target->attbyval = source->attbyval;
	target->attalign = source->attalign;
	target->attstorage = get_typstorage(source->atttypid);
	CatalogTupleUpdate(catalog, &to->t_self, to);
	heap_freetuple(to);
	ReleaseSysCache(from);
	table_close(catalog, RowExclusiveLock);
	CommandCounterIncrement();
}

/* A view of the extension that uses the column. */
typedef struct View
{
	Oid relid;
	List *columns;	  /* the numbers of its columns that show the column as it is */
	char *definition; /* the statement that gives the view its query again */
} View;

/* Read a view, and give it a query that does not read the table. */
static View *
detach_view(Oid viewid, Oid relid, AttrNumber column)
{
	const Oid argtypes[] = {OIDOID};
	const Datum values[] = {ObjectIdGetDatum(viewid)};
	View *view = palloc(sizeof(View));

	view->relid = viewid;
	view->columns = find_view_columns(viewid, relid, column);
	poser_run(&(PoserQuery) {.sql = statements_query, .nargs = lengthof(argtypes), .argtypes = argtypes, .values = values, .once = true});
	view->definition = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2);
	run_statement(SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1));
	return view;
}

/* Give a view's columns the type of the table's column, and the view its query again. */
static void
attach_view(const View *view, Oid relid, AttrNumber column)
{
	ListCell *lc;

	foreach(lc, view->columns)
	{
		copy_type(view->relid, lfirst_int(lc), relid, column);
	}
	run_statement(view->definition);
}

/* Lock a relation for ALTER TABLE.  Without "wait", raises lock_not_available unless the lock is free at once. */
static void
lock_relation(Oid relid, bool wait)
{
	if (wait)
		LockRelationOid(relid, AccessExclusiveLock);
	else if (!poser_lock_at_once(relid, AccessExclusiveLock))
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("could not obtain lock on relation \"%s\"", get_rel_name(relid)),
				 errhint("Run it again.")));
}

/* Lock the views and the table, and return the column's number. */
static AttrNumber
lock_column(Oid extension, Oid relid, const char *name)
{
	bool wait = !poser_holds_lock();
	ListCell *lc;
	Relation rel;
	AttrNumber result;

	/* only an owner may lock; look again after the locks, because all may have changed before */
	(void) poser_relation_name(relid);
	poser_check_owner(relid);
	foreach(lc, find_views(extension, relid, get_attnum(relid, name)))
	{
		lock_relation(lfirst_oid(lc), wait);
		wait = false;
	}
	lock_relation(relid, wait);
	(void) poser_relation_name(relid);
	poser_check_owner(relid);
	rel = relation_open(relid, NoLock);
	result = poser_user_column(rel, name, NULL);
	relation_close(rel, NoLock);
	return result;
}

/* Raises an error if a statement ALTER TABLE does more than to give a column this type. */
static void
check_statement(const char *statement, const char *type)
{
	List *parsed = raw_parser(statement, RAW_PARSE_DEFAULT);
	AlterTableStmt *alter = (AlterTableStmt *) linitial_node(RawStmt, parsed)->stmt;

	/* a second statement, a second command, or USING */
	if (list_length(parsed) != 1 || list_length(alter->cmds) != 1 ||
		((ColumnDef *) linitial_node(AlterTableCmd, alter->cmds)->def)->raw_default != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("\"%s\" is not a type", type)));
}

/*
 * poser_alter_type(target regclass, column_name name, type text) returns void
 *
 * The caller must own the table and the extension's views that use the column.  All
 * statements run with the caller's rights.
 */
Datum
poser_alter_type(PG_FUNCTION_ARGS)
{
	/* a view's query is read and written under one path */
	static const PoserSetting path[] = {{"search_path", "pg_catalog, pg_temp"}};
	Oid extension = getExtensionOfObject(ProcedureRelationId, fcinfo->flinfo->fn_oid);
	Oid relid = PG_GETARG_OID(0);
	const char *name = NameStr(*PG_GETARG_NAME(1));
	const char *type = text_to_cstring(PG_GETARG_TEXT_PP(2));
	const char *statement;
	AttrNumber column;
	List *views = NIL;
	ListCell *lc;
	int level;

	SPI_connect();
	column = lock_column(extension, relid, name);
	statement = psprintf("ALTER TABLE %s ALTER COLUMN %s TYPE %s", poser_relation_name(relid), quote_identifier(name), type);
	check_statement(statement, type);

	level = poser_begin_settings(path, lengthof(path));
	foreach(lc, find_views(extension, relid, column))
	{
		views = lappend(views, detach_view(lfirst_oid(lc), relid, column));
	}
	AtEOXact_GUC(true, level);

	/* under the caller's path, in which the type's name is looked up */
	run_statement(statement);

	level = poser_begin_settings(path, lengthof(path));
	foreach(lc, views)
	{
		attach_view(lfirst(lc), relid, column);
	}
	AtEOXact_GUC(true, level);
	SPI_finish();
	PG_RETURN_VOID();
}
