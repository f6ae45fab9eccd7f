/*
 * local_changes.c
 *	  poser_local_changes(): what users have changed in the extension's tables, as
 *	  statements.
 *
 * pg_dump dumps the rows of an extension's tables, and the privileges on them.  It does not
 * dump what users have added to these tables or changed in them.  This function writes
 * the statements that pg_dump would have written, if the tables did not belong to an
 * extension.
 *
 * The query reads the catalogs into a list of facts.  A fact has the table, a kind, a name
 * and a value, for instance
 *
 *		poser_batch | key | poser_batch_uq_id | UNIQUE (id)
 *
 * The lists in check_structure.c and own_structure.c have the facts that the scripts of
 * the installed version have made.  Each difference becomes statements, and the kind says
 * which ones.  A kind has a statement that makes what is new, and one that removes what is
 * gone.  A change is both of them, unless the kind has a statement for changes.
 *
 * The functions that write definitions, such as pg_get_triggerdef(), see the catalogs as
 * they are now, and not as the query's snapshot does.  So all relations are locked while
 * the query runs, and its snapshot is newer than the locks.  One function differs:
 * pg_get_constraintdef() reads with the transaction's snapshot.  If a REPEATABLE READ
 * transaction does not see a constraint, this is an error.
 *
 * The function's search_path is pg_catalog.  So the definitions qualify the names of all
 * objects that are in other schemas.
 */
#include "postgres.h"

#include "catalog/dependency.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "check/check_internal.h"

PG_FUNCTION_INFO_V1(poser_local_changes);

/* The extension's relations, in the order in which they were made.  $1 is the extension. */
static const char *const relations_query =
	"SELECT objid FROM pg_depend\n"
	" WHERE refclassid = 'pg_extension'::regclass AND refobjid = $1 AND deptype = 'e'\n"
	"   AND classid = 'pg_class'::regclass\n"
	" ORDER BY objid";

/* The tables with constraints that the transaction's snapshot does not see.  $1 is the extension. */
static const char *const unseen_query =
	"SELECT con.conrelid::oid\n"
	"  FROM pg_depend AS d JOIN pg_constraint AS con ON con.conrelid = d.objid\n"
	" WHERE d.refclassid = 'pg_extension'::regclass AND d.refobjid = $1 AND d.deptype = 'e'\n"
	"   AND d.classid = 'pg_class'::regclass AND pg_get_constraintdef(con.oid) IS NULL";

/*
 * The main query, of which $2 is the installed version and $3 the extension, begins with
 * two lists: the columns that the scripts have made, and all else that they have made.
 */
static const char *const lists =
	"WITH own_column AS (\n"
	"    SELECT relation, kind, name, type\n"
	"      FROM %s AS expected (relation, kind, name, type, has_default, version)\n"
	"     WHERE " IS_EXPECTED "),\n"
	"own_structure AS (\n"
	"    SELECT relation, kind, name, value\n"
	"      FROM %s AS expected (relation, kind, name, value, version, until)\n"
	"     WHERE " IS_EXPECTED " AND " IS_NOT_REPLACED "),\n";

/*
 * The objects with facts: the extension's relations and composite types, their columns,
 * their indexes, and the sequences of their columns.
 */
static const char *const objects =
	"relation AS (\n"
	"    SELECT c.oid, c.relname AS name, c.relkind AS kind, n.nspname AS schema, format('%I.%I', n.nspname, c.relname) AS qualified,\n"
	"           c.relowner, c.relam, c.reltablespace, c.relpersistence, c.relreplident, c.relrowsecurity, c.relforcerowsecurity,\n"
	"           c.reloptions, c.reltoastrelid\n"
	"      FROM pg_depend AS d\n"
	"           LEFT JOIN pg_type AS t ON d.classid = 'pg_type'::regclass AND t.oid = d.objid AND t.typtype = 'c'\n"
	"           JOIN pg_class AS c ON c.oid = CASE WHEN d.classid = 'pg_class'::regclass THEN d.objid ELSE t.typrelid END\n"
	"           JOIN pg_namespace AS n ON n.oid = c.relnamespace\n"
	"     WHERE d.refclassid = 'pg_extension'::regclass AND d.refobjid = $3 AND d.deptype = 'e'\n"
	"       AND (d.classid = 'pg_class'::regclass OR c.relkind = 'c')\n"
	/* not what a user has added to the extension */
	"       AND c.relname IN (SELECT relation FROM own_column UNION ALL SELECT relation FROM own_structure)\n"
	"),\n"
	"attribute AS (\n"
	"    SELECT r.oid, r.name AS relation, r.kind, r.qualified, a.attnum, a.attname AS name, a.attnotnull, a.attstorage, a.attcompression, a.attstattarget,\n"
	"           a.attoptions, a.attidentity, a.attgenerated, pg_get_expr(d.adbin, d.adrelid) AS expression,\n"
	"           format_type(a.atttypid, a.atttypmod)\n"
	"           || CASE WHEN a.attcollation <> t.typcollation THEN format(' COLLATE %s', a.attcollation::regcollation) ELSE '' END AS type,\n"
	"           COALESCE(NULLIF(t.typbasetype, 0), t.oid) AS base_type, a.attstorage <> t.typstorage AS has_storage,\n"
	"           EXISTS (SELECT FROM own_column AS o WHERE o.relation = r.name AND o.name = a.attname) AS is_own\n"
	"      FROM relation AS r\n"
	"           JOIN pg_attribute AS a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped\n"
	"           JOIN pg_type AS t ON t.oid = a.atttypid\n"
	"           LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum\n"
	"     WHERE r.kind IN ('r', 'v')\n"
	"),\n"
	"index AS (\n"
	"    SELECT r.oid, c.oid AS indexrelid, c.relname AS name, i.indisclustered, i.indisreplident, c.reloptions, c.reltablespace,\n"
	"           con.oid AS constraint\n"
	"      FROM relation AS r\n"
	"           JOIN pg_index AS i ON i.indrelid = r.oid AND i.indisvalid\n"
	"           JOIN pg_class AS c ON c.oid = i.indexrelid\n"
	"           LEFT JOIN pg_constraint AS con ON con.conindid = i.indexrelid AND con.contype IN ('p', 'u', 'x')\n"
	"),\n"
	"sequence AS (\n"
	"    SELECT a.oid, a.name AS column, a.attidentity, d.deptype, d.objid AS seqrelid, c.relpersistence,\n"
	"           format('%I.%I', n.nspname, c.relname) AS qualified, is_own\n"
	"      FROM attribute AS a\n"
	"           JOIN pg_depend AS d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = a.oid AND d.refobjsubid = a.attnum\n"
	"                               AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')\n"
	"           JOIN pg_class AS c ON c.oid = d.objid AND c.relkind = 'S'\n"
	"           JOIN pg_namespace AS n ON n.oid = c.relnamespace\n"
	"),\n"
	"sequence_options AS (\n"
	"    SELECT seqrelid, format('INCREMENT BY %s MINVALUE %s MAXVALUE %s START WITH %s CACHE %s%s',\n"
	"                            seqincrement, seqmin, seqmax, seqstart, seqcache, CASE WHEN seqcycle THEN ' CYCLE' ELSE ' NO CYCLE' END) AS options,\n"
	"           format_type(seqtypid, NULL) AS type, seqincrement\n"
	"      FROM pg_sequence\n"
	"),\n"
	"option AS (\n"
	"    SELECT r.oid, o.prefix || p.option_name AS name, p.option_value AS value, p.position\n"
	"      FROM relation AS r,\n"
	"           LATERAL (VALUES ('', r.reloptions),\n"
	"                           ('toast.', (SELECT t.reloptions FROM pg_class AS t WHERE t.oid = r.reltoastrelid)))\n"
	"                   AS o (prefix, options),\n"
	"           LATERAL pg_options_to_table(o.options) WITH ORDINALITY AS p (option_name, option_value, position)\n"
	")\n";

/* The facts.  A kind has the same name here, in own_structure.c and in the list of statements. */
static const char *const facts =
	"fact (oid, kind, name, value) AS (\n"
	"    SELECT oid, 'persistence', '', CASE relpersistence WHEN 'u' THEN 'UNLOGGED' ELSE 'LOGGED' END\n"
	"      FROM relation WHERE kind = 'r' AND relpersistence = 'u'\n"
	"    UNION ALL\n"
	"    SELECT r.oid, 'access method', '', quote_ident(am.amname)\n"
	"      FROM relation AS r JOIN pg_am AS am ON am.oid = r.relam WHERE r.kind = 'r' AND am.amname <> 'heap'\n"
	"    UNION ALL\n"
	"    SELECT r.oid, 'tablespace', '', quote_ident(t.spcname)\n"
	"      FROM relation AS r JOIN pg_tablespace AS t ON t.oid = r.reltablespace\n"
	"    UNION ALL\n"
	"    SELECT oid, 'column', name,\n"
	"           type || CASE WHEN attgenerated = '' OR is_own THEN ''\n"
	"                        ELSE format(' GENERATED ALWAYS AS (%s)%s', expression, CASE attgenerated WHEN 's' THEN ' STORED' ELSE '' END) END\n"
	"      FROM attribute WHERE kind = 'r'\n"
	"    UNION ALL\n"
	"    SELECT oid, 'not null', name, '' FROM attribute WHERE kind = 'r' AND attnotnull\n"
	"    UNION ALL\n"
	"    SELECT oid, 'storage', name,\n"
	"           CASE attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END\n"
	"      FROM attribute WHERE kind = 'r' AND has_storage\n"
	"    UNION ALL\n"
	"    SELECT oid, 'compression', name, CASE attcompression WHEN 'l' THEN 'lz4' ELSE 'pglz' END\n"
	"      FROM attribute WHERE kind = 'r' AND attcompression <> ''\n"
	"    UNION ALL\n"
	"    SELECT r.oid, 'sequence', '', format('AS %s %s', o.type, o.options)\n"
	"      FROM relation AS r JOIN sequence_options AS o ON o.seqrelid = r.oid\n"
	"    UNION ALL\n"
	"    SELECT oid, 'default', name, expression FROM attribute WHERE attgenerated = '' AND expression IS NOT NULL\n"
	"    UNION ALL\n"
	"    SELECT s.oid, 'identity', s.column,\n"
	"           format('%s AS IDENTITY (SEQUENCE NAME %s %s)', CASE s.attidentity WHEN 'a' THEN 'ALWAYS' ELSE 'BY DEFAULT' END,\n"
	"                  s.qualified, o.options)\n"
	"      FROM sequence AS s JOIN sequence_options AS o USING (seqrelid) WHERE s.deptype = 'i' AND NOT s.is_own\n"
	"    UNION ALL\n"
	"    SELECT oid, 'identity value', \"column\",\n"
	"           format('%L, %s(%s, %s(%I))', qualified, CASE WHEN seqincrement > 0 THEN 'greatest' ELSE 'least' END, last_value,\n"
	"                  CASE WHEN seqincrement > 0 THEN 'pg_catalog.max' ELSE 'pg_catalog.min' END, \"column\")\n"
	"      FROM (SELECT s.*, o.seqincrement,\n"
	/* a standby cannot read an unlogged sequence */
	"                   CASE WHEN has_sequence_privilege(seqrelid, 'SELECT')\n"
	"                             AND (relpersistence = 'p' OR NOT pg_is_in_recovery())\n"
	"                        THEN pg_sequence_last_value(seqrelid) END AS last_value\n"
	"              FROM sequence AS s JOIN sequence_options AS o USING (seqrelid)\n"
	"             WHERE s.deptype = 'i' AND NOT s.is_own) AS s\n"
	"     WHERE last_value IS NOT NULL\n"
	"    UNION ALL\n"
	"    SELECT s.oid, 'identity mode', s.column, CASE s.attidentity WHEN 'a' THEN 'ALWAYS' ELSE 'BY DEFAULT' END\n"
	"      FROM sequence AS s WHERE s.deptype = 'i' AND s.is_own\n"
	"    UNION ALL\n"
	"    SELECT s.oid, 'sequence of', s.column, s.qualified\n"
	"      FROM sequence AS s WHERE s.deptype = 'a'\n"
	"    UNION ALL\n"
	"    SELECT r.oid, CASE con.contype WHEN 'f' THEN 'foreign key' WHEN 'c' THEN 'check' ELSE 'key' END, con.conname, pg_get_constraintdef(con.oid)\n"
	"      FROM relation AS r JOIN pg_constraint AS con ON con.conrelid = r.oid AND con.contype IN ('p', 'u', 'x', 'f', 'c')\n"
	"    UNION ALL\n"
	"    SELECT oid, 'index', name, pg_get_indexdef(indexrelid) FROM index WHERE \"constraint\" IS NULL\n"
	"    UNION ALL\n"
	"    SELECT i.oid, 'index setting', i.name, format('SET (%s)', string_agg(format('%s=%L', o.option_name, o.option_value), ', '))\n"
	"      FROM index AS i, LATERAL pg_options_to_table(i.reloptions) AS o WHERE i.constraint IS NOT NULL GROUP BY i.oid, i.name\n"
	"    UNION ALL\n"
	"    SELECT i.oid, 'index setting', i.name, format('SET TABLESPACE %I', t.spcname)\n"
	"      FROM index AS i JOIN pg_tablespace AS t ON t.oid = i.reltablespace\n"
	"    UNION ALL\n"
	"    SELECT i.oid, 'index setting', i.name, format('ALTER COLUMN %s SET STATISTICS %s', a.attnum, a.attstattarget)\n"
	"      FROM index AS i JOIN pg_attribute AS a ON a.attrelid = i.indexrelid WHERE a.attstattarget >= 0 \n"
	"    UNION ALL\n"
	"    SELECT r.oid, 'statistics', format('%I.%I', n.nspname, s.stxname), regexp_replace(pg_get_statisticsobjdef(s.oid), '^CREATE STATISTICS', 'CREATE STATISTICS IF NOT EXISTS')\n"
	"      FROM relation AS r JOIN pg_statistic_ext AS s ON s.stxrelid = r.oid JOIN pg_namespace AS n ON n.oid = s.stxnamespace\n"
	"    UNION ALL\n"
	"    SELECT r.oid, 'statistics setting', format('%I.%I', n.nspname, s.stxname), format('SET STATISTICS %s', s.stxstattarget)\n"
	"      FROM relation AS r JOIN pg_statistic_ext AS s ON s.stxrelid = r.oid JOIN pg_namespace AS n ON n.oid = s.stxnamespace\n"
	"     WHERE s.stxstattarget >= 0\n"
	"    UNION ALL\n"
	"    SELECT r.oid, 'trigger', t.tgname, pg_get_triggerdef(t.oid)\n"
	"      FROM relation AS r JOIN pg_trigger AS t ON t.tgrelid = r.oid AND NOT t.tgisinternal\n"
	"    UNION ALL\n"
	"    SELECT r.oid, 'trigger state', t.tgname,\n"
	"           CASE t.tgenabled WHEN 'O' THEN 'ENABLE' WHEN 'A' THEN 'ENABLE ALWAYS' WHEN 'R' THEN 'ENABLE REPLICA' ELSE 'DISABLE' END\n"
	"      FROM relation AS r JOIN pg_trigger AS t ON t.tgrelid = r.oid AND NOT t.tgisinternal\n"
	"    UNION ALL\n"
	"    SELECT r.oid, 'rule', w.rulename, rtrim(pg_get_ruledef(w.oid), ';')\n"
	"      FROM relation AS r JOIN pg_rewrite AS w ON w.ev_class = r.oid AND w.rulename <> '_RETURN'\n"
	"    UNION ALL\n"
	"    SELECT r.oid, 'rule state', w.rulename,\n"
	"           CASE w.ev_enabled WHEN 'A' THEN 'ENABLE ALWAYS' WHEN 'R' THEN 'ENABLE REPLICA' ELSE 'DISABLE' END\n"
	"      FROM relation AS r JOIN pg_rewrite AS w ON w.ev_class = r.oid AND w.rulename <> '_RETURN' AND w.ev_enabled <> 'O'\n"
	"    UNION ALL\n"
	"    SELECT r.oid, 'replica identity', '',\n"
	"           CASE r.relreplident WHEN 'f' THEN 'FULL' WHEN 'n' THEN 'NOTHING' \n"
	"                ELSE format('USING INDEX %I', (SELECT i.name FROM index AS i WHERE i.oid = r.oid AND i.indisreplident)) END\n"
	"      FROM relation AS r WHERE r.kind = 'r' AND r.relreplident <> 'd'\n"
	"    UNION ALL\n"
	"    SELECT oid, 'cluster', '', format('%I', name) FROM index WHERE indisclustered\n"
	"    UNION ALL\n"
	"    SELECT r.oid, 'parent', format('%I.%I', n.nspname, p.relname), ''\n"
	"      FROM relation AS r JOIN pg_inherits AS i ON i.inhrelid = r.oid JOIN pg_class AS p ON p.oid = i.inhparent JOIN pg_namespace AS n ON n.oid = p.relnamespace\n"
	"     WHERE r.kind = 'r' AND p.relkind = 'r'\n"
	"    UNION ALL\n"
	"    SELECT oid, 'option', name, format('%s=%L', name, value) FROM option\n"
	"    UNION ALL\n"
	"    SELECT a.oid, 'column option', a.name, format('%s=%L', o.option_name, o.option_value)\n"
	"      FROM attribute AS a, LATERAL pg_options_to_table(a.attoptions) AS o WHERE o.option_name IN ('n_distinct', 'n_distinct_inherited')\n"
	"    UNION ALL\n"
	"    SELECT oid, 'statistics target', name, attstattarget::text FROM attribute WHERE kind = 'r' AND attstattarget >= 0\n"
	"    UNION ALL\n"
	"    SELECT r.oid, 'policy', p.polname,\n"
	"           format('AS %s FOR %s TO %s%s%s', CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,\n"
	"                  CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,\n"
	"                  (SELECT string_agg(CASE role WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(role)) END, ', ' ORDER BY n)\n"
	"                     FROM unnest(p.polroles) WITH ORDINALITY AS u (role, n)),\n"
	"                  ' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')',\n"
	"                  ' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')')\n"
	"      FROM relation AS r JOIN pg_policy AS p ON p.polrelid = r.oid\n"
	"    UNION ALL\n"
	"    SELECT oid, 'row security', '', '' FROM relation WHERE relrowsecurity\n"
	"    UNION ALL\n"
	"    SELECT oid, 'forced row security', '', '' FROM relation WHERE relforcerowsecurity\n"
	"    UNION ALL\n"
	"    SELECT r.oid, 'publication', p.pubname,\n"
	"           COALESCE((SELECT ' (' || string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) || ')'\n"
	"                       FROM pg_attribute AS a WHERE a.attrelid = r.oid AND a.attnum = ANY (pr.prattrs::int2[])), '')\n"
	"           || COALESCE(' WHERE (' || pg_get_expr(pr.prqual, pr.prrelid) || ')', '')\n"
	"      FROM relation AS r JOIN pg_publication_rel AS pr ON pr.prrelid = r.oid JOIN pg_publication AS p ON p.oid = pr.prpubid AND NOT p.puballtables\n"
	/* pg_dump of PostgreSQL 18 and later dumps this */
	"     WHERE current_setting('server_version_num')::int < 180000\n"
	"    UNION ALL\n"
	"    SELECT r.oid, CASE r.kind WHEN 'c' THEN 'type owner' ELSE 'owner' END, '', quote_ident(pg_get_userbyid(r.relowner))\n"
	"      FROM relation AS r\n"
	"     WHERE r.relowner <> (SELECT extowner FROM pg_extension WHERE oid = $3)\n"
	"       AND NOT (r.kind = 'S' AND EXISTS (SELECT FROM sequence AS s WHERE s.seqrelid = r.oid))\n"
	"    UNION ALL\n"
	"    SELECT r.oid, 'comment', format(CASE WHEN d.objsubid = 0 THEN 'TABLE %s' ELSE 'COLUMN %s.%I' END, r.qualified, a.name), quote_literal(d.description)\n"
	"      FROM relation AS r\n"
	"           JOIN pg_description AS d ON d.classoid = 'pg_class'::regclass AND d.objoid = r.oid\n"
	"           LEFT JOIN attribute AS a ON a.oid = r.oid AND a.attnum = d.objsubid\n"
	"     WHERE r.kind = 'r' AND (r.name IN ('poser_widget', 'poser_component') OR NOT a.is_own)\n"
	"    UNION ALL\n"
	"    SELECT p.oid, 'comment', p.name, quote_literal(d.description)\n"
	"      FROM (SELECT conrelid, 'pg_constraint'::regclass, c.oid, format('CONSTRAINT %I ON %s', conname, r.qualified)\n"
	"              FROM pg_constraint AS c JOIN relation AS r ON r.oid = c.conrelid\n"
	"            UNION ALL\n"
	"            SELECT ev_class, 'pg_rewrite'::regclass, w.oid, format('RULE %I ON %s', rulename, r.qualified)\n"
	"              FROM pg_rewrite AS w JOIN relation AS r ON r.oid = w.ev_class\n"
	"            UNION ALL\n"
	"            SELECT tgrelid, 'pg_trigger'::regclass, t.oid, format('TRIGGER %I ON %s', tgname, r.qualified)\n"
	"              FROM pg_trigger AS t JOIN relation AS r ON r.oid = t.tgrelid\n"
	"            UNION ALL\n"
	"            SELECT polrelid, 'pg_policy'::regclass, p.oid, format('POLICY %I ON %s', polname, r.qualified)\n"
	"              FROM pg_policy AS p JOIN relation AS r ON r.oid = p.polrelid\n"
	"            UNION ALL\n"
	"            SELECT i.oid, 'pg_class'::regclass, indexrelid, format('INDEX %I.%I', r.schema, i.name)\n"
	"              FROM index AS i JOIN relation AS r USING (oid)\n"
	"            UNION ALL\n"
	"            SELECT stxrelid, 'pg_statistic_ext'::regclass, s.oid, format('STATISTICS %I.%I', n.nspname, stxname)\n"
	"              FROM pg_statistic_ext AS s JOIN relation AS r ON r.oid = s.stxrelid JOIN pg_namespace AS n ON n.oid = s.stxnamespace)\n"
	"           AS p (oid, classid, objid, name)\n"
	"           JOIN pg_description AS d ON d.classoid = p.classid AND d.objoid = p.objid AND d.objsubid = 0\n"
	"    UNION ALL\n"
	"    SELECT r.oid, 'security label', COALESCE(a.name, ''),\n"
	"           format('SECURITY LABEL FOR %I ON %s IS %L', l.provider,\n"
	"                  format(CASE WHEN l.objsubid > 0 THEN 'COLUMN %s.%I' WHEN r.kind = 'v' THEN 'VIEW %s' WHEN r.kind = 'S' THEN 'SEQUENCE %s' ELSE 'TABLE %s' END,\n"
	"                         r.qualified, a.name), l.label)\n"
	"      FROM relation AS r\n"
	"           JOIN pg_seclabel AS l ON l.classoid = 'pg_class'::regclass AND l.objoid = r.oid\n"
	"           LEFT JOIN attribute AS a ON a.oid = r.oid AND a.attnum = l.objsubid\n"
	")\n";

/*
 * The statements of each kind: in which section they are, and in which step of it the
 * statement is that removes what is gone, and the one that makes what is new.  The last
 * column has the statement for a change, if this is not both of them.  %1$s is the table,
 * %2$s the name, %3$s the value, and %4$s the extension's schema.
 *
 * In the steps, keys come before foreign keys, and indexes and triggers before what refers
 * to them.  The owner comes last, because the role that restores may have no rights
 * afterwards.
 */
static const char *const methods =
	"method (kind, section, drop_step, drop_format, step, format, change_format) AS (VALUES\n"
	"    ('persistence', 'pre-data', 1, 'ALTER TABLE %1$s SET LOGGED', 5, 'ALTER TABLE %1$s SET %3$s', NULL),\n"
	"    ('access method', 'pre-data', 1, NULL, 5, 'ALTER TABLE %1$s SET ACCESS METHOD %3$s', NULL),\n"
	"    ('tablespace', 'pre-data', 1, NULL, 5, 'ALTER TABLE %1$s SET TABLESPACE %3$s', NULL),\n"
	"    ('old default', 'pre-data', 1, NULL, 1, 'ALTER TABLE %1$s ALTER COLUMN %2$I DROP DEFAULT', NULL),\n"
	"    ('column', 'pre-data', 2, 'ALTER TABLE %1$s DROP COLUMN %2$I', 2, 'ALTER TABLE %1$s ADD COLUMN %2$I %3$s', 'ALTER TABLE %1$s ALTER COLUMN %2$I TYPE %3$s'),\n"
	"    ('column of view', 'pre-data', 2, NULL, 2, 'SELECT %4$I.poser_alter_type(%1$L, %2$L, %3$L)', NULL),\n"
	"    ('not null', 'pre-data', 3, 'ALTER TABLE %1$s ALTER COLUMN %2$I DROP NOT NULL', 3, 'ALTER TABLE %1$s ALTER COLUMN %2$I SET NOT NULL', NULL),\n"
	"    ('storage', 'pre-data', 4, NULL, 4, 'ALTER TABLE %1$s ALTER COLUMN %2$I SET STORAGE %3$s', NULL),\n"
	"    ('compression', 'pre-data', 4, NULL, 4, 'ALTER TABLE %1$s ALTER COLUMN %2$I SET COMPRESSION %3$s', NULL),\n"
	"    ('sequence', 'pre-data', 6, NULL, 6, 'ALTER SEQUENCE %1$s %3$s RESTART', 'ALTER SEQUENCE %1$s %3$s RESTART'),\n"
	"    ('policy', 'post-data', 1, 'DROP POLICY %2$I ON %1$s', 60, 'CREATE POLICY %2$I ON %1$s %3$s', NULL),\n"
	"    ('rule', 'post-data', 1, 'DROP RULE %2$I ON %1$s', 52, '%3$s', NULL),\n"
	"    ('trigger', 'post-data', 1, 'DROP TRIGGER %2$I ON %1$s', 50, '%3$s', NULL),\n"
	"    ('foreign key', 'post-data', 2, 'ALTER TABLE %1$s DROP CONSTRAINT %2$I', 40, 'ALTER TABLE %1$s ADD CONSTRAINT %2$I %3$s', NULL),\n"
	"    ('check', 'post-data', 3, 'ALTER TABLE %1$s DROP CONSTRAINT %2$I', 31, 'ALTER TABLE %1$s ADD CONSTRAINT %2$I %3$s', NULL),\n"
	"    ('key', 'post-data', 3, 'ALTER TABLE %1$s DROP CONSTRAINT %2$I', 30, 'ALTER TABLE %1$s ADD CONSTRAINT %2$I %3$s', NULL),\n"
	"    ('index', 'post-data', 4, 'DROP INDEX %4$I.%2$I', 32, '%3$s', NULL),\n"
	"    ('index setting', 'post-data', 0, NULL, 33, 'ALTER INDEX %4$I.%2$I %3$s', NULL),\n"
	"    ('statistics', 'post-data', 0, NULL, 34, '%3$s', NULL),\n"
	"    ('statistics setting', 'post-data', 0, NULL, 35, 'ALTER STATISTICS %2$s %3$s', NULL),\n"
	"    ('default', 'post-data', 10, 'ALTER TABLE %1$s ALTER COLUMN %2$I DROP DEFAULT', 10, 'ALTER TABLE %1$s ALTER COLUMN %2$I SET DEFAULT %3$s', 'ALTER TABLE %1$s ALTER COLUMN %2$I SET DEFAULT %3$s'),\n"
	"    ('identity mode', 'post-data', 10, 'ALTER TABLE %1$s ALTER COLUMN %2$I DROP IDENTITY', 10, 'ALTER TABLE %1$s ALTER COLUMN %2$I SET GENERATED %3$s', 'ALTER TABLE %1$s ALTER COLUMN %2$I SET GENERATED %3$s'),\n"
	"    ('identity', 'post-data', 0, NULL, 11, 'ALTER TABLE %1$s ALTER COLUMN %2$I ADD GENERATED %3$s', NULL),\n"
	"    ('identity value', 'post-data', 0, NULL, 12, 'SELECT pg_catalog.setval(%3$s) FROM %1$s', NULL),\n"
	"    ('sequence of', 'post-data', 0, NULL, 13, 'ALTER SEQUENCE %3$s OWNED BY %1$s.%2$I', NULL),\n"
	"    ('trigger state', 'post-data', 0, NULL, 51, 'ALTER TABLE %1$s %3$s TRIGGER %2$I', 'ALTER TABLE %1$s %3$s TRIGGER %2$I'),\n"
	"    ('rule state', 'post-data', 0, NULL, 53, 'ALTER TABLE %1$s %3$s RULE %2$I', NULL),\n"
	"    ('replica identity', 'post-data', 5, 'ALTER TABLE %1$s REPLICA IDENTITY DEFAULT', 54, 'ALTER TABLE %1$s REPLICA IDENTITY %3$s', 'ALTER TABLE %1$s REPLICA IDENTITY %3$s'),\n"
	"    ('cluster', 'post-data', 0, NULL, 54, 'ALTER TABLE %1$s CLUSTER ON %3$s', NULL),\n"
	"    ('parent', 'post-data', 0, NULL, 36, 'ALTER TABLE %1$s INHERIT %2$s', NULL),\n"
	"    ('option', 'post-data', 55, 'ALTER TABLE %1$s RESET (%2$s)', 55, 'ALTER TABLE %1$s SET (%3$s)', 'ALTER TABLE %1$s SET (%3$s)'),\n"
	"    ('column option', 'post-data', 0, NULL, 55, 'ALTER TABLE %1$s ALTER COLUMN %2$I SET (%3$s)', NULL),\n"
	"    ('statistics target', 'post-data', 56, 'ALTER TABLE %1$s ALTER COLUMN %2$I SET STATISTICS -1', 56, 'ALTER TABLE %1$s ALTER COLUMN %2$I SET STATISTICS %3$s', 'ALTER TABLE %1$s ALTER COLUMN %2$I SET STATISTICS %3$s'),\n"
	"    ('row security', 'post-data', 61, 'ALTER TABLE %1$s DISABLE ROW LEVEL SECURITY', 61, 'ALTER TABLE %1$s ENABLE ROW LEVEL SECURITY', NULL),\n"
	"    ('forced row security', 'post-data', 0, NULL, 62, 'ALTER TABLE %1$s FORCE ROW LEVEL SECURITY', NULL),\n"
	"    ('comment', 'post-data', 0, NULL, 70, 'COMMENT ON %2$s IS %3$s', NULL),\n"
	"    ('security label', 'post-data', 0, NULL, 71, '%3$s', NULL),\n"
	"    ('publication', 'post-data', 0, NULL, 72, 'ALTER PUBLICATION %2$I ADD TABLE ONLY %1$s%3$s', NULL),\n"
	"    ('owner', 'post-data', 0, NULL, 80, 'ALTER TABLE %1$s OWNER TO %3$s', NULL),\n"
	"    ('type owner', 'post-data', 0, NULL, 80, 'ALTER TYPE %1$s OWNER TO %3$s', NULL)\n"
	")\n";

/*
 * The comparison of facts with those that the scripts have made, and the statements.  Line
 * breaks in a definition do not count.  A few facts need more than that they differ: these
 * are the parts of "difference".
 */
static const char *const comparison =
	"own (oid, kind, name, value) AS (\n"
	"    SELECT r.oid, o.kind, o.name, replace(o.value, '@.', format('%I.', r.schema))\n"
	"      FROM (SELECT relation, kind, name, value FROM own_structure\n"
	"            UNION ALL\n"
	"            SELECT relation, 'trigger state', name, 'ENABLE' FROM own_structure AS t\n"
	"             WHERE kind = 'trigger'\n"
	"               AND NOT EXISTS (SELECT FROM own_structure AS s\n"
	"                                WHERE s.relation = t.relation AND s.kind = 'trigger state' AND s.name = t.name)\n"
	"            UNION ALL\n"
	"            SELECT relation, 'column', name, type FROM own_column\n"
	"            UNION ALL\n"
	"            SELECT relation, 'not null', name, '' FROM own_column WHERE kind = 'r')\n"
	"           AS o (relation, kind, name, value)\n"
	"           JOIN relation AS r ON r.name = o.relation AND r.kind <> 'c'\n"
	"     WHERE r.kind = 'r' OR o.kind NOT IN ('column', 'not null')\n"
	"),\n"
	"compared AS (\n"
	"    SELECT oid, kind, name,\n"
	"           CASE WHEN regexp_replace(fact.value, '[[:space:]]+', ' ', 'g') = own.value THEN fact.value ELSE own.value END AS old,\n"
	"           fact.value AS new\n"
	"      FROM (SELECT oid, kind, name::text, value FROM fact) AS fact\n"
	"           FULL JOIN (SELECT oid, kind, name::text, value FROM own) AS own USING (oid, kind, name)\n"
	"),\n"
	"difference (oid, kind, name, old, new) AS (\n"
	"    SELECT oid, kind, name, old, new\n"
	"      FROM compared\n"
	"     WHERE new IS DISTINCT FROM old AND (kind <> 'column' OR old IS NULL OR new IS NULL)\n"
	/* a new trigger is enabled */
	"       AND NOT (kind = 'trigger state' AND old IS NULL AND new = 'ENABLE')\n"
	/* a column that is gone has lost all of these */
	"       AND NOT (kind IN ('not null', 'default', 'statistics target') AND new IS NULL\n"
	"                AND NOT EXISTS (SELECT FROM attribute AS a WHERE a.oid = compared.oid AND a.name = compared.name))\n"
	/* another type */
	"    UNION ALL\n"
	"    SELECT c.oid, CASE WHEN in_view THEN 'column of view' ELSE 'column' END, c.name, c.old,\n"
	"           CASE WHEN in_view OR a.base_type = c.old::regtype\n"
	"                     OR EXISTS (SELECT FROM pg_cast\n"
	"                                 WHERE castsource = c.old::regtype AND casttarget = a.base_type AND castcontext <> 'e')\n"
	"                THEN c.new\n"
	"                ELSE format('%1$s USING %2$I::text::%1$s', c.new, c.name) END\n"
	"      FROM compared AS c JOIN attribute AS a ON a.oid = c.oid AND a.name = c.name,\n"
	"           LATERAL (SELECT EXISTS (SELECT FROM pg_depend AS d\n"
	"                                          JOIN pg_rewrite AS w ON w.oid = d.objid\n"
	"                                          JOIN relation AS v ON v.oid = w.ev_class\n"
	"                                    WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass\n"
	"                                      AND d.refobjid = a.oid AND d.refobjsubid = a.attnum AND w.rulename = '_RETURN') AS in_view) AS s\n"
	"     WHERE c.kind = 'column' AND c.new <> c.old\n"
	/* a default that cannot be of the other type */
	"    UNION ALL\n"
	"    SELECT c.oid, 'old default', c.name, NULL, ''\n"
	"      FROM compared AS c JOIN compared AS d ON d.oid = c.oid AND d.kind = 'default' AND d.name = c.name\n"
	"     WHERE c.kind = 'column' AND c.old <> c.new AND d.old IS NOT NULL AND d.new IS DISTINCT FROM d.old\n"
	/* a foreign key of which the key is made again */
	"    UNION ALL\n"
	"    SELECT f.*\n"
	"      FROM compared AS f\n"
	"     WHERE f.kind = 'foreign key' AND f.new = f.old\n"
	"       AND EXISTS (SELECT FROM pg_constraint AS con JOIN compared AS k ON k.oid = con.confrelid\n"
	"                    WHERE con.conrelid = f.oid AND con.conname = f.name\n"
	"                      AND k.kind = 'key' AND k.old IS NOT NULL AND k.new IS DISTINCT FROM k.old)\n"
	/* a trigger that is made again */
	"    UNION ALL\n"
	"    SELECT s.*\n"
	"      FROM compared AS s JOIN compared AS t ON t.oid = s.oid AND t.kind = 'trigger' AND t.name = s.name\n"
	"     WHERE s.kind = 'trigger state' AND s.new = s.old AND s.new <> 'ENABLE' AND t.new <> t.old\n"
	"),\n"
	"statement (section, step, oid, name, statement) AS (\n"
	"    SELECT m.section, m.drop_step, r.oid, d.name, format(m.drop_format, r.qualified, d.name, d.old, r.schema)\n"
	"      FROM difference AS d JOIN method AS m USING (kind) JOIN relation AS r USING (oid)\n"
	"     WHERE d.old IS NOT NULL AND m.drop_format IS NOT NULL AND (d.new IS NULL OR m.change_format IS NULL)\n"
	"    UNION ALL\n"
	"    SELECT m.section, m.step, r.oid, d.name,\n"
	"           format(CASE WHEN d.old IS NULL THEN m.format ELSE COALESCE(m.change_format, m.format) END,\n"
	"                  r.qualified, d.name, d.new, r.schema)\n"
	"      FROM difference AS d JOIN method AS m USING (kind) JOIN relation AS r USING (oid)\n"
	"     WHERE d.new IS NOT NULL\n"
	")\n"
	"SELECT s.section, s.statement || ';'\n"
	"  FROM statement AS s\n"
	"       LEFT JOIN attribute AS a ON a.oid = s.oid AND a.name = s.name\n"
	"       LEFT JOIN option AS o ON o.oid = s.oid AND o.name = s.name\n"
	/* columns and options keep their order */
	" ORDER BY s.section = 'post-data', s.step, s.oid, a.attnum, o.position, s.name COLLATE \"C\", s.statement COLLATE \"C\"\n";

/* Run a query that has the extension as $1 and returns the OIDs of relations. */
static List *
find_relations(const char *sql, Oid extension)
{
	const Oid argtypes[] = {OIDOID};
	const Datum values[] = {ObjectIdGetDatum(extension)};
	List *result = NIL;

	poser_run(&(PoserQuery) {.sql = sql, .nargs = lengthof(argtypes), .argtypes = argtypes, .values = values, .read_only = true, .once = true});
	for (uint64 i = 0; i < SPI_tuptable->numvals; i++)
	{
		bool isnull;

		result = lappend_oid(result, DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull)));
	}
	return result;
}

/*
 * Lock relations.  The function never waits while it holds one of the locks, so it cannot
 * be part of a deadlock: it releases all, waits for the one that it could not have, and
 * takes the others again.
 */
static void
lock_relations(List *relations)
{
	int first = 0;
	int i = 0;

	LockRelationOid(list_nth_oid(relations, first), AccessShareLock);
	while (i < list_length(relations))
	{
		if (i == first || ConditionalLockRelationOid(list_nth_oid(relations, i), AccessShareLock))
		{
			i++;
			continue;
		}
		for (int j = 0; j < list_length(relations); j++)
			if (j < i || j == first)
				UnlockRelationOid(list_nth_oid(relations, j), AccessShareLock);
		first = i;
		i = 0;
		LockRelationOid(list_nth_oid(relations, first), AccessShareLock);
	}
}

/* Add the statements to the result. */
static void
return_statements(FunctionCallInfo fcinfo, Oid extension)
{
	const Oid argtypes[] = {OIDOID, TEXTOID, OIDOID};
	const Datum values[] = {
		ObjectIdGetDatum(get_func_namespace(fcinfo->flinfo->fn_oid)),
		CStringGetTextDatum(poser_installed_version(fcinfo->flinfo->fn_oid)),
		ObjectIdGetDatum(extension)};
	DestReceiver *dest = poser_result_receiver((ReturnSetInfo *) fcinfo->resultinfo);
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, lists, poser_own_columns, poser_own_structure);
	appendStringInfo(&sql, "%s,\n%s,\n%s,\n%s", objects, facts, methods, comparison);
	poser_run(&(PoserQuery) {
		.sql = sql.data,
		.nargs = lengthof(argtypes),
		.argtypes = argtypes,
		.values = values,
		.read_only = true,
		.once = true,
		.dest = dest});
	dest->rDestroy(dest);
}

/*
 * poser_local_changes() returns table (section text, statement text)
 *
 * Every role can call it, because every role can read the catalogs.  The locks end with the
 * function, because a role without privileges on the tables must not hold them.
 */
Datum
poser_local_changes(PG_FUNCTION_ARGS)
{
	/* definitions must be the same under all settings, and be read again as they are */
	static const PoserSetting quoting[] = {{"quote_all_identifiers", "off"}};
	Oid extension = getExtensionOfObject(ProcedureRelationId, fcinfo->flinfo->fn_oid);
	List *relations;
	List *unseen;
	ListCell *lc;
	int level;

	InitMaterializedSRF(fcinfo, 0);
	level = poser_begin_settings(quoting, lengthof(quoting));
	(void) poser_begin_text_settings();
	SPI_connect();

	PushActiveSnapshot(GetLatestSnapshot());
	relations = find_relations(relations_query, extension);
	PopActiveSnapshot();
	lock_relations(relations);

	/* a snapshot that is newer than the locks */
	PushActiveSnapshot(GetLatestSnapshot());
	unseen = find_relations(unseen_query, extension);
	if (unseen != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to concurrent change of a constraint of relation \"%s\"",
						get_rel_name(linitial_oid(unseen))),
				 errhint("The transaction might succeed if retried.")));
	return_statements(fcinfo, extension);
	PopActiveSnapshot();

	foreach(lc, relations)
	{
		UnlockRelationOid(lfirst_oid(lc), AccessShareLock);
	}
	SPI_finish();
	AtEOXact_GUC(true, level);
	return (Datum) 0;
}
