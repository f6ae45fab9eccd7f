-- Maintained views with a key whose collation does not distinguish all texts.  A server without
-- ICU has no such collation, and another expected result.

SELECT count(*) = 0 AS no_icu FROM pg_collation WHERE collprovider = 'i' \gset
\if :no_icu
\quit
\endif
\set VERBOSITY terse
SET client_min_messages = warning;
CREATE EXTENSION poser;
\getenv test PG_ABS_SRCDIR
\set tools :test '/include/views.sql'
\set tables :test '/include/views_tables.sql'
\set steps :test '/include/views_steps.sql'
\set run :test '/include/views_run.sql'
\i :tools
\i :steps
CREATE COLLATION regress_views.ignore_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);

-- The same key in other letters is the same key.
\set all_levels off
\set schema of_any_case
\set action ''
\set partition ''
\set more ''
\set parent_columns 'k text COLLATE regress_views.ignore_case'
\set child_columns 'k text COLLATE regress_views.ignore_case'
\set key k
\set parent_set 'NEW.k := \'Key \' || NEW.n;'
\set child_set 'NEW.k := CASE NEW.id % 3 WHEN 0 THEN \'KEY \' WHEN 1 THEN \'key \' ELSE \'kEy \' END || NEW.p;'
\i :tables
\i :run
INSERT INTO parent (n) VALUES (1), (2);
INSERT INTO child (id, p, status) VALUES (1, 1, 'open'), (2, 1, 'open'), (3, 1, 'open'), (4, 2, 'open');
UPDATE child SET k = upper(k);
UPDATE parent SET k = lower(k);
SELECT k, children FROM everything ORDER BY k;
SELECT k, delta, children FROM everything_maintained ORDER BY k;
SELECT children FROM everything WHERE k = 'KEY 1';
TABLE differences;
TABLE live;
-- a session that does not know where the rows are finds them by the index
\set QUIET on
\connect -
\set QUIET off
SET search_path = of_any_case, regress_views, public;
SET client_min_messages = warning;
INSERT INTO child (id, p, status) VALUES (5, 1, 'open'), (6, 2, 'open');
SELECT k, delta, children FROM everything_maintained ORDER BY k;
TABLE differences;

DROP SCHEMA of_any_case CASCADE;
DROP EXTENSION poser CASCADE;
DROP SCHEMA regress_views CASCADE;
