\set ECHO none
\set QUIET on
-- Run the statements of views_steps.sql: each as a transaction, then all in one transaction,
-- at three levels.
TRUNCATE checked;
CREATE TEMPORARY VIEW steps_and_checks AS
SELECT run.statement
  FROM steps, LATERAL (VALUES (1, steps.statement), (2, format('CALL check_step(%L)', steps.statement))) AS run (n, statement)
 ORDER BY step, n;
TABLE steps_and_checks \gexec
BEGIN;
TABLE steps_and_checks \gexec
COMMIT;
CALL check_step('COMMIT');
BEGIN ISOLATION LEVEL REPEATABLE READ;
TABLE steps_and_checks \gexec
COMMIT;
CALL check_step('COMMIT');
BEGIN ISOLATION LEVEL SERIALIZABLE;
TABLE steps_and_checks \gexec
COMMIT;
CALL check_step('COMMIT');
DROP VIEW steps_and_checks;
\set QUIET off
SELECT :'schema' AS schema, sum(served) AS read_from_what_is_kept, sum(views) AS read FROM checked;
\set ECHO all
