\set ECHO none
\set QUIET on
-- Run the statements of views_steps.sql: each as a transaction, then all in one transaction.  If
-- "all_levels" is set, this is done at three levels, with a check after each statement.
-- Otherwise one level and a check after every fourth statement have to do.
TRUNCATE checked;
CREATE TEMPORARY VIEW steps_and_checks AS
SELECT run.statement
  FROM (SELECT step, statement, row_number() OVER (ORDER BY step) AS number FROM steps) AS numbered,
       LATERAL (VALUES (1, statement), (2, format('CALL check_step(%L)', statement))) AS run (n, statement)
 WHERE n = 1 OR :'all_levels' OR number % 4 = 0
 ORDER BY step, n;
TABLE steps_and_checks \gexec
BEGIN ISOLATION LEVEL REPEATABLE READ;
TABLE steps_and_checks \gexec
COMMIT;
CALL check_step('COMMIT');
\if :all_levels
BEGIN;
TABLE steps_and_checks \gexec
COMMIT;
CALL check_step('COMMIT');
BEGIN ISOLATION LEVEL SERIALIZABLE;
TABLE steps_and_checks \gexec
COMMIT;
CALL check_step('COMMIT');
\endif
DROP VIEW steps_and_checks;
\set QUIET off
SELECT :'schema' AS schema, sum(served) AS read_from_what_is_kept, sum(views) AS read FROM checked;
\set ECHO all
