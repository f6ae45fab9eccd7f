-- Maintained views after each kind of statement, with keys of many types, foreign keys with
-- actions, partitions and tracked tables.

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

--
-- Types of keys
--
\set all_levels on
\set schema of_integer
\set key k
\set action ''
\set partition ''
\set more ''
\set parent_columns 'k integer'
\set child_columns 'k integer'
\set parent_set 'NEW.k := NEW.n;'
\set child_set 'NEW.k := NEW.p;'
\i :tables
-- what the bookkeeping holds, and how it is read
SELECT * FROM everything ORDER BY k;
SELECT * FROM open_only ORDER BY k;
SELECT * FROM even_only ORDER BY k;
SELECT * FROM everything_maintained ORDER BY k;
INSERT INTO parent (n) VALUES (1), (2);
INSERT INTO child (id, p, status, whole, amount) VALUES (1, 1, 'open', 1, 1.5), (2, 1, 'closed', 2, 2.25), (3, NULL, 'open', 3, 3);
UPDATE child SET p = 2, status = 'open' WHERE id = 2;
DELETE FROM child WHERE id = 1;
SELECT * FROM everything ORDER BY k;
SELECT * FROM open_only ORDER BY k;
SELECT * FROM even_only ORDER BY k;
SELECT k, delta, children, active, whole, whole_rows, amount FROM everything_maintained ORDER BY k;
TABLE differences;
TABLE live;
-- by COPY
COPY parent (n) FROM STDIN;
3
\.
COPY child (id, p, status, whole) FROM STDIN;
11	1	open	11
12	3	open	12
13	3	\N	13
\.
COPY child (id, p, status, whole) FROM STDIN WHERE id <> 14;
14	1	open	14
15	1	open	15
\.
-- one that fails at its last row leaves nothing
COPY child (id, p, status, whole) FROM STDIN;
16	1	open	16
17	4	open	17
\.
SELECT * FROM open_only ORDER BY k;
BEGIN;
TRUNCATE child;
COPY child (id, p, status, whole) FROM STDIN (FREEZE);
21	2	open	21
22	\N	open	22
\.
COMMIT;
SELECT * FROM open_only ORDER BY k;
TABLE differences;
TABLE live;
-- Updates that change no count write nothing.
INSERT INTO child (id, p, status, whole, amount) VALUES (1, 1, 'open', 1, 1.5), (2, 1, 'closed', 2, 2.25);
CREATE TEMPORARY TABLE before AS
SELECT ctid AS place, xmin::text AS writer, k, delta FROM everything_maintained
UNION ALL
SELECT ctid, xmin::text, k, delta FROM open_only_maintained;
UPDATE child SET id = id + 1000 WHERE p = 1;
UPDATE child SET p = p, status = status, amount = amount + 0;
UPDATE child SET status = 'open' WHERE false;
DELETE FROM child WHERE false;
INSERT INTO child SELECT * FROM child WHERE false;
UPDATE parent SET name = 'changed', n = n;
SELECT ctid, xmin::text, k, delta FROM everything_maintained
UNION ALL
SELECT ctid, xmin::text, k, delta FROM open_only_maintained
EXCEPT TABLE before;
DROP TABLE before;
TABLE differences;
TRUNCATE child, parent;
INSERT INTO parent (n) VALUES (101), (102);
\i :run
\set all_levels off
DROP SCHEMA of_integer CASCADE;

\set schema of_uuid
\set parent_columns 'k uuid'
\set child_columns 'k uuid'
\set parent_set 'NEW.k := md5(NEW.n::text)::uuid;'
\set child_set 'NEW.k := md5(NEW.p::text)::uuid;'
\i :tables
\i :run
DROP SCHEMA of_uuid CASCADE;

-- long enough to be stored compressed
\set schema of_text
\set parent_columns 'k text'
\set child_columns 'k varchar'
\set parent_set 'NEW.k := repeat(\'key \' || NEW.n, 600);'
\set child_set 'NEW.k := repeat(\'key \' || NEW.p, 600);'
\i :tables
\i :run
DROP SCHEMA of_text CASCADE;

-- 1.0 and 1.00 are one key
\set schema of_numeric
\set parent_columns 'k numeric'
\set child_columns 'k numeric'
\set parent_set 'NEW.k := NEW.n || \'.0\';'
\set child_set 'NEW.k := NEW.p || repeat(\'0\', NEW.id % 3) || \'.00\'; NEW.k := NEW.k / 10 ^ (NEW.id % 3);'
\i :tables
\i :run
DROP SCHEMA of_numeric CASCADE;

-- the child's column has another type than the parent's
\set schema of_two_integers
\set parent_columns 'k bigint'
\set child_columns 'k integer'
\set parent_set 'NEW.k := NEW.n;'
\set child_set 'NEW.k := NEW.p;'
\i :tables
\i :run
DROP SCHEMA of_two_integers CASCADE;

CREATE DOMAIN regress_views.positive AS integer CHECK (VALUE > 0);
\set schema of_domain
\set parent_columns 'k regress_views.positive'
\set child_columns 'k regress_views.positive'
\i :tables
\i :run
DROP SCHEMA of_domain CASCADE;

-- Several columns, in another order than in the tables.  If one is null, there is no parent.
\set schema of_three_columns
\set key 'a, b, c'
\set parent_columns 'c date, b text, a smallint'
\set child_columns 'a smallint, c date, b text'
\set parent_set 'NEW.a := NEW.n % 3; NEW.b := \'b\' || NEW.n / 3 % 3; NEW.c := date \'2020-01-01\' + NEW.n;'
\set child_set 'NEW.a := coalesce(NEW.p, 1) % 3; NEW.b := \'b\' || NEW.p / 3 % 3; NEW.c := date \'2020-01-01\' + coalesce(NEW.p, 1);'
\i :tables
\i :run
DROP SCHEMA of_three_columns CASCADE;

--
-- Foreign keys with actions
--
\set key k
\set parent_columns 'k integer'
\set child_columns 'k integer'
\set parent_set 'NEW.k := NEW.n;'
\set child_set 'NEW.k := NEW.p;'
CREATE TEMPORARY TABLE ordinary_steps AS TABLE steps;
CREATE TEMPORARY TABLE cascades (n serial, statement text);
INSERT INTO cascades (statement) VALUES
('UPDATE parent SET n = n + 1000 WHERE n = 101'),
('UPDATE parent SET n = n + 1000'),
('INSERT INTO parent (n) VALUES (1), (2), (3)'),
('INSERT INTO child (id, p, status, whole) SELECT i, i % 4, ''open'', i FROM generate_series(1, 12) AS i WHERE i % 4 > 0'),
('UPDATE parent SET n = n + 1 WHERE n = 3'),
('MERGE INTO parent AS target USING (VALUES (2, 5), (1, 6)) AS source (n, other) ON target.n = source.n
	WHEN MATCHED THEN UPDATE SET n = other'),
('DELETE FROM parent WHERE n = 6'),
('DELETE FROM parent WHERE n IN (4, 5)'),
('DELETE FROM parent'),
('DELETE FROM child');

\set all_levels on
\set schema of_cascade
\set action 'ON DELETE CASCADE ON UPDATE CASCADE'
INSERT INTO steps (statement) SELECT statement FROM cascades ORDER BY n;
INSERT INTO steps (statement) SELECT statement FROM ordinary_steps ORDER BY step OFFSET (SELECT count(*) - 2 FROM ordinary_steps);
\i :tables
\i :run
\set all_levels off
SELECT k, delta, children FROM everything_maintained ORDER BY k;
DROP SCHEMA of_cascade CASCADE;

\set schema of_set_null
\set action 'ON DELETE SET NULL ON UPDATE SET NULL'
\i :tables
\i :run
SELECT k, delta, children FROM everything_maintained ORDER BY k;
DROP SCHEMA of_set_null CASCADE;

-- children before their parent, a parent before its children
TRUNCATE steps;
INSERT INTO steps (statement) VALUES
('INSERT INTO child (id, p, status, whole) VALUES (1, 1, ''open'', 1), (2, 1, ''open'', 2)'),
('INSERT INTO parent (n) VALUES (1), (2)'),
('INSERT INTO child (id, p, status, whole) VALUES (3, 1, ''open'', 3), (4, 2, ''open'', 4)'),
('UPDATE parent SET n = 3 WHERE n = 1'),
('UPDATE child SET p = 3 WHERE p = 1 AND id < 3'),
('UPDATE child SET p = 3 WHERE p = 1'),
('UPDATE parent SET n = CASE n WHEN 2 THEN 4 ELSE 2 END WHERE n IN (2, 3)'),
('UPDATE child SET p = CASE p WHEN 2 THEN 4 ELSE 2 END WHERE p IN (2, 3)'),
('DELETE FROM parent WHERE n IN (2, 4)'),
('INSERT INTO parent (n) VALUES (2), (4)'),
('DELETE FROM parent WHERE n = 4'),
('DELETE FROM child WHERE id = 4'),
('DELETE FROM parent WHERE n = 2'),
('DELETE FROM child WHERE p = 2');
\set schema of_deferred
\set action 'DEFERRABLE INITIALLY DEFERRED'
\i :tables
\set ECHO none
\set QUIET on
TRUNCATE checked;
BEGIN;
SELECT statement, format('CALL check_step(%L)', statement) FROM steps ORDER BY step \gexec
COMMIT;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT statement, format('CALL check_step(%L)', statement) FROM steps ORDER BY step \gexec
COMMIT;
\set QUIET off
\set ECHO all
SELECT sum(served) AS read_from_what_is_kept, sum(views) AS read FROM checked;
SELECT k, delta, children, open_amount FROM everything_maintained ORDER BY k;
DROP SCHEMA of_deferred CASCADE;
TRUNCATE steps;
INSERT INTO steps (statement) SELECT statement FROM ordinary_steps ORDER BY step;

--
-- Partitions of the child.  One has another layout, and one is partitioned itself.
--
\set all_levels on
\set schema of_partitions
\set action ''
\set partition 'PARTITION BY RANGE (id)'
\set more 'CREATE TABLE child_1 PARTITION OF child FOR VALUES FROM (0) TO (50); CREATE TABLE child_2 (whole integer, dropped integer, status text, k integer, id integer NOT NULL, p integer, amount numeric, active boolean NOT NULL DEFAULT true, small smallint, large bigint); ALTER TABLE child_2 DROP COLUMN dropped; ALTER TABLE child ATTACH PARTITION child_2 FOR VALUES FROM (50) TO (1000); CREATE TABLE child_3 PARTITION OF child DEFAULT PARTITION BY RANGE (id); CREATE TABLE child_3_1 PARTITION OF child_3 FOR VALUES FROM (1000) TO (6000); CREATE TABLE child_3_2 PARTITION OF child_3 DEFAULT;'
\i :tables
\i :run
\set all_levels off
DROP SCHEMA of_partitions CASCADE;

--
-- Tables that are tracked as well
--
\set schema of_tracked
\set partition ''
\set more 'SELECT poser_track(\'parent\'), poser_track(\'child\') \\g /dev/null'
\i :tables
\i :run
SELECT * FROM poser_check();
DROP SCHEMA of_tracked CASCADE;

DROP EXTENSION poser CASCADE;
DROP SCHEMA regress_views CASCADE;
