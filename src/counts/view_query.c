/*
 * view_query.c
 *	  The queries of a maintained view, as SQL text.
 *
 * All names in the text are qualified, and it means the same under any search_path.
 * Columns have the names that they have at present.  Those of the bookkeeping are found by
 * their positions: the key's columns, "delta", then one or two columns for each aggregate,
 * its amounts.  See poser_view_columns_sql() for the names that they get.
 */
#include "postgres.h"

#include "catalog/heap.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "nodes/nodeFuncs.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/ruleutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "counts/counts_internal.h"

/* What an amount is to the aggregate that it belongs to. */
#define AMOUNT_VALUE 0 /* the count, or the sum of the finite values */
#define AMOUNT_ROWS 1  /* of a sum: its rows, or their tally */

/*
 * Begin settings under which a query that is written as text keeps its meaning: names are found
 * only with their schema, and constants are written and read alike.  Returns a level, as
 * poser_begin_settings() does.
 */
int
poser_view_begin_text(void)
{
	static const PoserSetting settings[] = {{"search_path", "pg_catalog, pg_temp"},
											{"array_nulls", "on"},
											{"transform_null_equals", "off"}};
	int level = poser_begin_text_settings();

	(void) poser_begin_settings(settings, lengthof(settings));
	return level;
}

/* The number of columns that the bookkeeping has for an aggregate. */
int
poser_view_amounts(PoserViewKind kind)
{
	return kind == POSER_COUNT ? 1 : 2;
}

/* The number of columns that it has for all aggregates. */
int
poser_view_all_amounts(const PoserViewForm *form)
{
	int result = 0;

	for (int i = 0; i < form->naggregates; i++)
		result += poser_view_amounts(form->aggregates[i].kind);
	return result;
}

/* The position of an amount among the columns of the bookkeeping. */
static AttrNumber
amount_column(const PoserViewForm *form, int aggregate, int amount)
{
	AttrNumber column = form->nkeys + 2;

	for (int i = 0; i < aggregate; i++)
		column += poser_view_amounts(form->aggregates[i].kind);
	return column + amount;
}

/* The name of a relation's column, quoted. */
static const char *
column_name(Oid relid, AttrNumber column)
{
	return quote_identifier(get_attname(relid, column, false));
}

/* A type without typmod, qualified. */
static char *
type_name(Oid type)
{
	return format_type_extended(type, -1, FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY);
}

/* The qualified name of a collation. */
static char *
collation_name(Oid collation)
{
	HeapTuple tuple = SearchSysCache1(COLLOID, ObjectIdGetDatum(collation));
	Form_pg_collation form;
	char *result;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for collation %u", collation);
	form = (Form_pg_collation) GETSTRUCT(tuple);
	result = quote_qualified_identifier(get_namespace_name(form->collnamespace), NameStr(form->collname));
	ReleaseSysCache(tuple);
	return result;
}

/* "OPERATOR(pg_catalog.=)" */
static char *
operator_name(Oid opno)
{
	HeapTuple tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(opno));
	Form_pg_operator form;
	char *result;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for operator %u", opno);
	form = (Form_pg_operator) GETSTRUCT(tuple);
	result = psprintf("OPERATOR(%s.%s)", quote_identifier(get_namespace_name(form->oprnamespace)), NameStr(form->oprname));
	ReleaseSysCache(tuple);
	return result;
}

/* The text of an expression of the child's row, under the alias "child". */
static char *
child_expression(const PoserViewForm *form, Node *node)
{
	return deparse_expression(node, deparse_context_for("child", form->child), true, false);
}

/*
 * The text by which the child's rows are grouped for a key.  It is the column itself if the
 * equality takes it as it is: then an index on it can be used.  Otherwise two of its
 * values can be equal as values of the parent's type, so it is cast.
 */
static char *
child_key(const PoserViewForm *form, int i)
{
	const PoserViewKey *key = &form->keys[i];
	char *column = psprintf("child.%s", column_name(form->child, key->child));
	Oid type;
	int32 typmod;
	Oid collation;
	Oid left;
	Oid right;

	get_atttypetypmodcoll(form->child, key->child, &type, &typmod, &collation);
	op_input_types(key->equality, &left, &right);
	if (OidIsValid(key->cast) && right != getBaseType(type))
		column = psprintf("CAST(%s AS %s)", column, type_name(key->type));
	if (collation != key->collation)
		column = psprintf("(%s COLLATE %s)", column, collation_name(key->collation));
	return column;
}

/*
 * Names for the bookkeeping
 */

/* Add a name to the list: this one, or one like it that is not taken. */
static List *
add_name(List *names, const char *name, const char *suffix)
{
	for (int i = 0;; i++)
	{
		char *number = i == 0 ? "" : psprintf("_%d", i);
		char *end = suffix == NULL ? number : psprintf("_%s%s", suffix, number);
		int length = pg_mbcliplen(name, strlen(name), NAMEDATALEN - 1 - strlen(end));
		char *candidate = psprintf("%.*s%s", length, name, end);
		ListCell *lc;
		bool taken = SystemAttributeByName(candidate) != NULL;

		foreach(lc, names)
		{
			taken = taken || strcmp(lfirst(lc), candidate) == 0;
		}
		if (!taken)
			return lappend(names, candidate);
	}
}

/* The name of the first output that shows an aggregate. */
static const char *
output_name(const PoserViewForm *form, int aggregate)
{
	for (int i = 0; i < form->noutputs; i++)
		if (form->outputs[i].parent == 0 && form->outputs[i].aggregate == aggregate)
			return form->outputs[i].name;
	return "amount"; /* not reached: each aggregate is one of an output */
}

/*
 * Returns the columns of the bookkeeping, for CREATE TABLE.  For the view of view_form.c it is
 *
 *		id bigint NOT NULL,
 *		delta bigint DEFAULT 0 NOT NULL,
 *		orders bigint DEFAULT 0 NOT NULL,
 *		revenue numeric DEFAULT 0 NOT NULL,
 *		revenue_tally numeric DEFAULT 0 NOT NULL,
 *		PRIMARY KEY (id, delta)
 *
 * The columns have the names of the parent's key and of the outputs.  A name that is taken
 * gets a number.
 */
char *
poser_view_columns_sql(const PoserViewForm *form)
{
	StringInfoData sql;
	StringInfoData key;
	List *names = NIL;

	initStringInfo(&sql);
	initStringInfo(&key);
	for (int i = 0; i < form->nkeys; i++)
	{
		names = add_name(names, get_attname(form->parent, form->keys[i].parent, false), NULL);
		appendStringInfo(&sql, "%s %s", quote_identifier(llast(names)), type_name(form->keys[i].type));
		if (OidIsValid(form->keys[i].collation))
			appendStringInfo(&sql, " COLLATE %s", collation_name(form->keys[i].collation));
		appendStringInfoString(&sql, " NOT NULL,\n");
		appendStringInfo(&key, "%s, ", quote_identifier(llast(names)));
	}
	names = add_name(names, "delta", NULL);
	appendStringInfo(&sql, "%s pg_catalog.int8 DEFAULT 0 NOT NULL,\n", quote_identifier(llast(names)));
	appendStringInfoString(&key, quote_identifier(llast(names)));
	for (int i = 0; i < form->naggregates; i++)
	{
		PoserViewKind kind = form->aggregates[i].kind;
		const char *output = output_name(form, i);

		names = add_name(names, output, NULL);
		appendStringInfo(&sql, "%s pg_catalog.%s DEFAULT 0 NOT NULL,\n", quote_identifier(llast(names)),
						 kind == POSER_COUNT || kind == POSER_SUM_INTEGER ? "int8" : "numeric");
		if (kind == POSER_COUNT)
			continue;
		names = add_name(names, output, kind == POSER_SUM_NUMERIC ? "tally" : "rows");
		appendStringInfo(&sql, "%s pg_catalog.%s DEFAULT 0 NOT NULL,\n", quote_identifier(llast(names)),
						 kind == POSER_SUM_NUMERIC ? "numeric" : "int8");
	}
	appendStringInfo(&sql, "PRIMARY KEY (%s)", key.data);
	return sql.data;
}

/*
 * Queries
 */

/*
 * Returns the query of the view that opens the bookkeeping to the maintained view:
 *
 *		SELECT id, delta, orders FROM public.customer_orders_maintained
 *		 WHERE public.poser_serves('public.customer_orders_query'::pg_catalog.regclass)
 */
char *
poser_view_served_sql(const PoserViewForm *form, Oid bookkeeping, Oid query, Oid nspid)
{
	StringInfoData sql;
	int ncolumns = amount_column(form, form->naggregates, 0) - 1;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	for (int i = 1; i <= ncolumns; i++)
		appendStringInfo(&sql, "%s%s", i > 1 ? ", " : "", column_name(bookkeeping, i));
	appendStringInfo(&sql, " FROM %s\n WHERE %s.poser_serves(%s::pg_catalog.regclass)", poser_relation_name(bookkeeping),
					 quote_identifier(get_namespace_name(nspid)), quote_literal_cstr(poser_relation_name(query)));
	return sql.data;
}

/* Append an aggregate as the user's query has it: "sum(child.total) FILTER (WHERE child.paid)". */
static void
append_aggregate(StringInfo sql, const PoserViewForm *form, const PoserViewAggregate *aggregate)
{
	appendStringInfo(sql, "pg_catalog.%s(child.%s)", aggregate->kind == POSER_COUNT ? "count" : "sum",
					 column_name(form->child, aggregate->column));
	if (aggregate->filter != NULL)
		appendStringInfo(sql, " FILTER (WHERE %s)", child_expression(form, aggregate->filter));
}

/* Append an amount as settled row and deltas have it: "(COALESCE(settled.orders, 0) OPERATOR(pg_catalog.+) ...)". */
static void
append_amount(StringInfo sql, Oid served, AttrNumber column)
{
	const char *name = column_name(served, column);

	appendStringInfo(sql, "(COALESCE(settled.%s, 0) OPERATOR(pg_catalog.+) COALESCE(unsettled.%s, 0))", name, name);
}

/* Append the value of an aggregate, see poser_view_maintained_sql(). */
static void
append_value(StringInfo sql, const PoserViewForm *form, int i, Oid served, Oid nspid)
{
	PoserViewKind kind = form->aggregates[i].kind;
	AttrNumber value = amount_column(form, i, AMOUNT_VALUE);
	AttrNumber rows = amount_column(form, i, AMOUNT_ROWS);

	appendStringInfo(sql, "COALESCE(live.%s, ", column_name(served, value));
	if (kind == POSER_COUNT)
		append_amount(sql, served, value);
	else if (kind == POSER_SUM_NUMERIC)
	{
		appendStringInfo(sql, "%s.poser_sum_of(", quote_identifier(get_namespace_name(nspid)));
		append_amount(sql, served, value);
		appendStringInfoString(sql, ", ");
		append_amount(sql, served, rows);
		appendStringInfoChar(sql, ')');
	}
	else
	{
		appendStringInfoString(sql, "CASE WHEN ");
		append_amount(sql, served, rows);
		appendStringInfoString(sql, " OPERATOR(pg_catalog.<>) 0 THEN ");
		append_amount(sql, served, value);
		appendStringInfoString(sql, " END");
	}
	appendStringInfoChar(sql, ')');
}

/* Append the condition that joins the bookkeeping under an alias. */
static void
append_bookkeeping_join(StringInfo sql, const PoserViewForm *form, Oid served, const char *alias)
{
	for (int i = 0; i < form->nkeys; i++)
		appendStringInfo(sql, "%s%s.%s %s parent.%s", i > 0 ? " AND " : "", alias, column_name(served, i + 1),
						 poser_equality(form->keys[i].type), column_name(form->parent, form->keys[i].parent));
}

/*
 * Returns the query of a maintained view.  "query" is the view with the user's query, and
 * "served" the one that opens the bookkeeping.  It is, without the qualification of
 * operators and functions,
 *
 *		SELECT parent.id AS customer_id,
 *		       COALESCE(live.orders, COALESCE(settled.orders, 0) + COALESCE(unsettled.orders, 0)) AS orders,
 *		       COALESCE(live.revenue, poser_sum_of(
 *		           COALESCE(settled.revenue, 0) + COALESCE(unsettled.revenue, 0),
 *		           COALESCE(settled.revenue_tally, 0) + COALESCE(unsettled.revenue_tally, 0))) AS revenue
 *		  FROM public.customer AS parent
 *		       LEFT JOIN public.customer_orders_served AS settled ON settled.id = parent.id AND settled.delta = 0
 *		       LEFT JOIN (SELECT id, CAST(sum(orders) AS bigint) AS orders,
 *		                         sum(revenue) AS revenue, sum(revenue_tally) AS revenue_tally
 *		                    FROM public.customer_orders_served
 *		                   WHERE delta > 0 AND delta < 9223372036854775807 GROUP BY id) AS unsettled
 *		       ON unsettled.id = parent.id
 *		       LEFT JOIN (SELECT child.customer_id AS id, count(child.id) AS orders, sum(child.total) AS revenue
 *		                    FROM public.orders AS child
 *		                   WHERE child.ctid >= poser_live_from('public.customer_orders_query') GROUP BY child.customer_id) AS live
 *		       ON parent.id = live.id
 *
 * The sum of integers is CASE WHEN rows <> 0 THEN sum END instead of poser_sum_of().
 *
 * Either the bookkeeping is read, and "live" has no rows, or the other way round.  If "live"
 * is not needed, it is a range of ctid that ends before the table, so its costs are small in
 * every plan.  The conditions on "delta" have small default selectivities, so plans are
 * good for a table without statistics, too.
 */
char *
poser_view_maintained_sql(const PoserViewForm *form, Oid query, Oid served, Oid nspid)
{
	const char *nsp = quote_identifier(get_namespace_name(nspid));
	const char *delta = column_name(served, form->nkeys + 1);
	StringInfoData keys;
	StringInfoData sql;
	int level = poser_view_begin_text();

	initStringInfo(&sql);
	initStringInfo(&keys);

	for (int i = 0; i < form->noutputs; i++)
	{
		const PoserViewOutput *output = &form->outputs[i];

		appendStringInfoString(&sql, i == 0 ? "SELECT " : ",\n       ");
		if (output->parent != 0)
		{
			const char *column = psprintf("parent.%s", column_name(form->parent, output->parent));
			Oid type;
			int32 typmod;
			Oid collation;

			get_atttypetypmodcoll(form->parent, output->parent, &type, &typmod, &collation);
			if (type != output->type || typmod != output->typmod)
				column = psprintf("CAST(%s AS %s)", column, format_type_extended(output->type, output->typmod, FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY));
			if (collation != output->collation && OidIsValid(output->collation))
				column = psprintf("%s COLLATE %s", column, collation_name(output->collation));
			appendStringInfoString(&sql, column);
		}
		else if (output->otherwise != NULL)
		{
			appendStringInfoString(&sql, "COALESCE(");
			append_value(&sql, form, output->aggregate, served, nspid);
			appendStringInfo(&sql, ", %s)", child_expression(form, (Node *) output->otherwise));
		}
		else
			append_value(&sql, form, output->aggregate, served, nspid);
		appendStringInfo(&sql, " AS %s", quote_identifier(output->name));
	}

	appendStringInfo(&sql, "\n  FROM %s AS parent\n       LEFT JOIN %s AS settled ON ", poser_relation_name(form->parent),
					 poser_relation_name(served));
	append_bookkeeping_join(&sql, form, served, "settled");
	appendStringInfo(&sql, " AND settled.%s OPERATOR(pg_catalog.=) 0\n", delta);

	for (int i = 0; i < form->nkeys; i++)
		appendStringInfo(&keys, "%s%s", i > 0 ? ", " : "", column_name(served, i + 1));
	appendStringInfo(&sql, "       LEFT JOIN (SELECT %s", keys.data);
	for (int i = 0; i < form->naggregates; i++)
		for (int j = 0; j < poser_view_amounts(form->aggregates[i].kind); j++)
		{
			AttrNumber column = amount_column(form, i, j);
			const char *name = column_name(served, column);

			appendStringInfo(&sql, get_atttype(served, column) == INT8OID ? ", CAST(pg_catalog.sum(%s) AS pg_catalog.int8) AS %s" : ", pg_catalog.sum(%s) AS %s",
							 name, name);
		}
	appendStringInfo(&sql, "\n                    FROM %s\n"
						   "                   WHERE %s OPERATOR(pg_catalog.>) 0 AND %s OPERATOR(pg_catalog.<) 9223372036854775807 GROUP BY %s) AS unsettled\n"
						   "       ON ",
					 poser_relation_name(served), delta, delta, keys.data);
	append_bookkeeping_join(&sql, form, served, "unsettled");

	for (int i = 0; i < form->nkeys; i++)
		appendStringInfo(&sql, i == 0 ? "\n       LEFT JOIN (SELECT %s AS %s" : ", %s AS %s", child_key(form, i), column_name(served, i + 1));
	for (int i = 0; i < form->naggregates; i++)
	{
		appendStringInfoString(&sql, ", ");
		append_aggregate(&sql, form, &form->aggregates[i]);
		appendStringInfo(&sql, " AS %s", column_name(served, amount_column(form, i, AMOUNT_VALUE)));
	}
	appendStringInfo(&sql, "\n                    FROM %s AS child\n"
						   "                   WHERE child.ctid OPERATOR(pg_catalog.>=) %s.poser_live_from(%s::pg_catalog.regclass)",
					 poser_relation_name(form->child), nsp, quote_literal_cstr(poser_relation_name(query)));
	if (form->condition != NULL)
		appendStringInfo(&sql, " AND (%s)", child_expression(form, form->condition));
	for (int i = 0; i < form->nkeys; i++)
		appendStringInfo(&sql, "%s%s", i == 0 ? " GROUP BY " : ", ", child_key(form, i));
	for (int i = 0; i < form->nkeys; i++)
		appendStringInfo(&sql, "%sparent.%s %s live.%s", i == 0 ? ") AS live\n       ON " : " AND ",
						 column_name(form->parent, form->keys[i].parent), operator_name(form->keys[i].equality),
						 column_name(served, i + 1));
	AtEOXact_GUC(true, level);
	return sql.data;
}

/*
 * Returns a query for the keys and amounts that the bookkeeping should have, from the rows of the
 * child alone.  Its columns are those of the bookkeeping without "delta", with the names key1,
 * amount1 and so on:
 *
 *		SELECT CAST(child.customer_id AS bigint) AS key1,
 *		       count(child.id) AS amount1,
 *		       COALESCE(sum(child.qty), 0) AS amount2, count(child.qty) AS amount3
 *		  FROM public.orders AS child
 *		 WHERE child.customer_id IS DISTINCT FROM NULL
 *		 GROUP BY 1
 *
 * IS NOT NULL is false for a composite value with a null in it, so the query has IS DISTINCT FROM
 * NULL.  For a sum of numeric values the amounts are those of sum.c.  The query must be run with
 * search_path = pg_catalog, as the owner of the tables.
 */
char *
poser_view_counted_sql(const PoserViewForm *form, Oid nspid)
{
	StringInfoData sql;
	int amount = 0;
	int level = poser_view_begin_text();

	initStringInfo(&sql);
	for (int i = 0; i < form->nkeys; i++)
		appendStringInfo(&sql, "%sCAST(%s AS %s) AS key%d", i == 0 ? "SELECT " : ", ", child_key(form, i),
						 type_name(form->keys[i].type), i + 1);
	for (int i = 0; i < form->naggregates; i++)
	{
		const PoserViewAggregate *aggregate = &form->aggregates[i];
		char *column = psprintf("child.%s", column_name(form->child, aggregate->column));
		char *filter = aggregate->filter == NULL ? NULL : child_expression(form, aggregate->filter);
		char *where = filter == NULL ? "" : psprintf(" FILTER (WHERE %s)", filter);
		char *value = filter == NULL ? column : psprintf("CASE WHEN %s THEN %s END", filter, column);

		switch (aggregate->kind)
		{
			case POSER_COUNT:
				appendStringInfo(&sql, ",\n       pg_catalog.count(%s)%s AS amount%d", column, where, amount + 1);
				break;
			case POSER_SUM_INTEGER:
			case POSER_SUM_BIGINT:
				appendStringInfo(&sql, ",\n       COALESCE(pg_catalog.sum(%s)%s, 0) AS amount%d,\n"
									   "       pg_catalog.count(%s)%s AS amount%d",
								 column, where, amount + 1, column, where, amount + 2);
				break;
			case POSER_SUM_NUMERIC:
				appendStringInfo(&sql, ",\n       COALESCE(pg_catalog.sum(%1$s) FILTER (WHERE %1$s OPERATOR(pg_catalog.<>) ALL"
									   " ('{NaN,Infinity,-Infinity}'::pg_catalog.numeric[])), 0) AS amount%2$d,\n"
									   "       COALESCE(pg_catalog.sum(%4$s.poser_tally(%1$s)), 0) AS amount%3$d",
								 value, amount + 1, amount + 2, quote_identifier(get_namespace_name(nspid)));
				break;
		}
		amount += poser_view_amounts(aggregate->kind);
	}
	appendStringInfo(&sql, "\n  FROM %s AS child", poser_relation_name(form->child));
	for (int i = 0; i < form->nkeys; i++)
		appendStringInfo(&sql, "%schild.%s IS DISTINCT FROM NULL", i == 0 ? "\n WHERE " : " AND ", column_name(form->child, form->keys[i].child));
	if (form->condition != NULL)
		appendStringInfo(&sql, " AND (%s)", child_expression(form, form->condition));
	for (int i = 0; i < form->nkeys; i++)
		appendStringInfo(&sql, "%s%d", i == 0 ? "\n GROUP BY " : ", ", i + 1);
	AtEOXact_GUC(true, level);
	return sql.data;
}

/*
 * Returns the query of a view, for CREATE OR REPLACE VIEW.  Its columns have the names
 * of that view, so the statement gives those of the maintained view as a list.
 */
char *
poser_view_query_sql(Oid query)
{
	int level = poser_view_begin_text();
	char *result;
	int length;

	/* the server reads the rule with the active snapshot, which can be older than the view's present query */
	PushActiveSnapshot(GetLatestSnapshot());
	result = TextDatumGetCString(DirectFunctionCall1(pg_get_viewdef, ObjectIdGetDatum(query)));
	PopActiveSnapshot();
	length = strlen(result);

	AtEOXact_GUC(true, level);
	if (length > 0 && result[length - 1] == ';')
		result[length - 1] = '\0';
	return result;
}
