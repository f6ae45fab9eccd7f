-- Maintained views after statements that change more keys than fit in memory: the changes are
-- applied in several parts.

\set VERBOSITY terse
SET client_min_messages = warning;
CREATE EXTENSION poser;
\getenv test PG_ABS_SRCDIR
\set tools :test '/include/views.sql'
\i :tools

CREATE TABLE parent (a text, b integer, PRIMARY KEY (b, a));
CREATE TABLE child (id integer PRIMARY KEY, a text, b integer, flag boolean, large bigint, amount numeric,
	FOREIGN KEY (a, b) REFERENCES parent (a, b));
CREATE INDEX ON child (a, b);
CREATE VIEW sums AS
SELECT parent.a, parent.b, count(child.id) AS children, count(child.id) FILTER (WHERE flag) AS flagged, sum(large) AS large, sum(amount) AS amount
  FROM parent LEFT JOIN child ON child.a = parent.a AND child.b = parent.b GROUP BY parent.a, parent.b;
CREATE VIEW counts AS
SELECT parent.a, parent.b, count(child.amount) AS amounts
  FROM parent LEFT JOIN child ON child.a = parent.a AND child.b = parent.b AND flag GROUP BY parent.a, parent.b;
SELECT poser_maintain('sums'), poser_maintain('counts');
CREATE VIEW totals AS
SELECT count(*) AS parents, sum(children) AS children, sum(flagged) AS flagged, sum(large) AS large, min(children) AS least, max(children) AS most
  FROM sums;

SET work_mem = '64kB';
SET hash_mem_multiplier = 1;

INSERT INTO parent SELECT 'a' || i % 100, i FROM generate_series(1, 2000) AS i;
-- each parent occurs again and again, far apart
INSERT INTO child SELECT i, 'a' || (1 + i % 2000) % 100, 1 + i % 2000, i % 3 = 0, i * 1000000007::bigint, i / 7.0
  FROM generate_series(1, 8000) AS i;
TABLE totals;
SELECT count(*) FROM differences;
-- half of the rows change, all of them move to the next parent, a quarter goes
UPDATE child SET flag = NOT flag, amount = CASE WHEN id % 10 = 0 THEN 'NaN' ELSE amount * 1.10 END WHERE id % 2 = 0;
TABLE totals;
SELECT count(*) FROM differences;
UPDATE child SET b = b % 2000 + 1, a = 'a' || (b % 2000 + 1) % 100;
TABLE totals;
SELECT count(*) FROM differences;
DELETE FROM child WHERE id % 4 = 0;
TABLE totals;
SELECT count(*) FROM differences;

-- with a rollback of part of it
BEGIN;
INSERT INTO child SELECT 100000 + b, a, b, true, b, b FROM parent;
SAVEPOINT a;
UPDATE child SET flag = false, large = NULL, amount = 'Infinity', b = 1 + id % 50, a = 'a' || (1 + id % 50) % 100;
TABLE totals;
SELECT count(*) FROM differences;
ROLLBACK TO a;
SELECT count(*) FROM differences;
COMMIT;
TABLE totals;
SELECT count(*) FROM differences;

-- One transaction changes each key many times, and more keys than a session remembers.
INSERT INTO parent SELECT 'x', i FROM generate_series(1, 9000) AS i;
BEGIN;
INSERT INTO child SELECT 200000 + b, a, b, true, b, b FROM parent WHERE a = 'x';
UPDATE child SET flag = NOT flag;
UPDATE child SET amount = amount + 1 WHERE a = 'x';
TABLE totals;
SELECT count(*) FROM differences;
COMMIT;
TABLE totals;
SELECT count(*) FROM differences;

-- parents and children in one query, and both again
WITH made AS (
	INSERT INTO parent SELECT 'y', i FROM generate_series(1, 2000) AS i RETURNING a, b)
INSERT INTO child SELECT 300000 + b * 2 + i, a, b, i = 1, 1, 1 FROM made, generate_series(0, 1) AS i;
TABLE totals;
SELECT count(*) FROM differences;
WITH gone AS (
	DELETE FROM child WHERE a <> 'y')
DELETE FROM parent WHERE a <> 'y';
TABLE totals;
SELECT count(*) FROM differences;
SELECT count(*) AS rows, count(*) FILTER (WHERE delta > 0) AS deltas FROM sums_maintained;
TRUNCATE child;
TABLE totals;
SELECT count(*) FROM differences;
TABLE live;

DROP EXTENSION poser CASCADE;
DROP SCHEMA regress_views CASCADE;
