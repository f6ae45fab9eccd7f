-- Maintained views after each kind of statement, with keys of many types.

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

\set schema of_integer
\set key k
\set action ''
\set parent_columns 'k integer'
\set child_columns 'k integer'
\set parent_set 'NEW.k := NEW.n;'
\set child_set 'NEW.k := NEW.p;'
\i :tables
\i :run
