-- Own tables that are partitioned.

SET client_min_messages = warning;
CREATE EXTENSION poser;

-- By range, list and hash, in two levels.  A partition's columns can be in another order.
CREATE TABLE stock (region text, id int, note text, amount numeric DEFAULT 1, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
CREATE TABLE stock_north PARTITION OF stock FOR VALUES IN ('n');
CREATE TABLE stock_south (gone int, amount numeric, note text, id int NOT NULL, also_gone int, region text NOT NULL) PARTITION BY RANGE (id);
ALTER TABLE stock_south DROP gone, DROP also_gone;
ALTER TABLE stock ATTACH PARTITION stock_south FOR VALUES IN ('s');
CREATE TABLE stock_south_low (id int NOT NULL, region text NOT NULL, note text, amount numeric);
ALTER TABLE stock_south ATTACH PARTITION stock_south_low FOR VALUES FROM (0) TO (100);
CREATE TABLE stock_south_high PARTITION OF stock_south FOR VALUES FROM (100) TO (1000) PARTITION BY HASH (region, id);
CREATE TABLE stock_south_even PARTITION OF stock_south_high FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE stock_south_odd PARTITION OF stock_south_high FOR VALUES WITH (MODULUS 2, REMAINDER 1);
SELECT poser_track('stock');

CREATE VIEW versions AS
SELECT dense_rank() OVER (ORDER BY transaction_id) AS t, (ARRAY['insert', 'update', 'delete'])[operation_type + 1] AS operation,
       region, id, note, amount
  FROM stock_version ORDER BY change_id;
-- rows that differ from those in which their histories end
CREATE VIEW differences AS
WITH last AS (
	SELECT region, id, note, amount FROM (SELECT DISTINCT ON (region, id) * FROM stock_version ORDER BY region, id, change_id DESC) AS v
	 WHERE operation_type <> 2)
(TABLE stock EXCEPT TABLE last) UNION ALL (TABLE last EXCEPT TABLE stock);

-- Through the root, a middle level and leaves.
INSERT INTO stock VALUES ('n', 1, 'root'), ('s', 2, 'root'), ('s', 200, 'root'), ('s', 201, 'root');
INSERT INTO stock_south (id, region, note) VALUES (3, 's', 'middle'), (300, 's', 'middle');
INSERT INTO stock_south_low (id, region, note) VALUES (4, 's', 'leaf');
INSERT INTO stock_north (id, region, note) VALUES (5, 'n', 'leaf');
UPDATE stock SET note = 'all', amount = 2;
UPDATE stock_south SET note = 'south' WHERE id > 3;
UPDATE stock_south_low SET note = 'low' WHERE id > 3;
DELETE FROM stock_south_high WHERE id = 300;
DELETE FROM stock_north WHERE id = 5;
TABLE versions;
TABLE differences;

-- Rows move between partitions: an update whose key is another one.
UPDATE stock SET region = CASE region WHEN 'n' THEN 's' ELSE 'n' END;
UPDATE stock SET id = id + 100 WHERE region = 's';
SELECT * FROM versions OFFSET 22;
TABLE differences;

-- A trigger of a partition suppresses rows that would move there: these are deleted.
CREATE FUNCTION suppress() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.id % 2 = 0 THEN
		RETURN NULL;
	END IF;
	NEW.note := 'came';
	RETURN NEW;
END
$$;
CREATE TRIGGER suppress BEFORE INSERT ON stock_south_low FOR EACH ROW EXECUTE FUNCTION suppress();
INSERT INTO stock VALUES ('n', 6, 'six'), ('n', 7, 'seven'), ('n', 8, 'eight'), ('n', 9, 'nine');
SELECT count(*) AS before FROM versions \gset
UPDATE stock SET region = 's', note = 'moved' WHERE region = 'n' AND id BETWEEN 6 AND 9;
SELECT * FROM versions OFFSET :before;
TABLE differences;
DROP TRIGGER suppress ON stock_south_low;

-- Statements that overlap, and write the table through different levels.
CREATE FUNCTION write_leaf() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF pg_trigger_depth() = 1 THEN
		UPDATE stock_south SET note = 'by the trigger' WHERE region = NEW.region AND id = NEW.id;
		INSERT INTO stock_north VALUES ('n', NEW.id + 5000, 'by the trigger');
	END IF;
	RETURN NULL;
END
$$;
CREATE TRIGGER write_leaf AFTER UPDATE ON stock FOR EACH ROW EXECUTE FUNCTION write_leaf();
SELECT count(*) AS before FROM versions \gset
UPDATE stock SET note = 'by the statement' WHERE id IN (7, 101);
SELECT * FROM versions OFFSET :before;
TABLE differences;
WITH deleted AS (DELETE FROM stock_south_low WHERE id = 7 RETURNING *)
INSERT INTO stock SELECT region, id, 'again', amount FROM deleted;
TABLE differences;
DROP TRIGGER write_leaf ON stock;

-- MERGE, upsert, savepoints, COPY.
SELECT count(*) AS before FROM versions \gset
MERGE INTO stock USING (VALUES ('s', 7), ('s', 950), ('n', 2)) AS source (region, id) ON stock.region = source.region AND stock.id = source.id
 WHEN MATCHED AND stock.id = 7 THEN DELETE
 WHEN MATCHED THEN UPDATE SET note = 'merged'
 WHEN NOT MATCHED THEN INSERT VALUES (source.region, source.id, 'merged');
INSERT INTO stock VALUES ('n', 2, 'upsert'), ('s', 951, 'upsert') ON CONFLICT (region, id) DO UPDATE SET note = excluded.note;
BEGIN;
SAVEPOINT a;
UPDATE stock SET note = 'rolled back';
ROLLBACK TO a;
UPDATE stock_south_odd SET note = 'odd' WHERE id = 951;
UPDATE stock_south_even SET note = 'even' WHERE id = 951;
COMMIT;
COPY stock FROM stdin;
n	900	copied	1
s	901	copied	1
\.
SELECT operation, region, id, note FROM versions OFFSET :before;
TABLE differences;

-- Rows that a MERGE moves to another partition, whatever other actions it has.
BEGIN;
INSERT INTO stock VALUES ('n', 20, 'stays', 1), ('n', 21, 'moves', 1), ('n', 22, 'leaves', 1);
SELECT count(*) AS before FROM versions \gset
MERGE INTO stock USING (VALUES (20), (21)) AS source (id) ON stock.id = source.id
 WHEN MATCHED THEN UPDATE SET note = 'merged', region = CASE stock.id WHEN 21 THEN 's' ELSE 'n' END;
SELECT operation, region, id, note FROM versions OFFSET :before;
TABLE differences;
MERGE INTO stock USING (VALUES (20), (21), (22), (-1)) AS source (id) ON stock.id = source.id
 WHEN MATCHED AND stock.id = 21 THEN UPDATE SET region = 'n'
 WHEN MATCHED THEN UPDATE SET region = 's'
 WHEN NOT MATCHED THEN INSERT VALUES ('s', 21, 'takes the key', 1);
TABLE differences;
MERGE INTO stock USING (VALUES ('s', 20), ('s', 22)) AS source (region, id) ON stock.region = source.region AND stock.id = source.id
 WHEN MATCHED AND stock.id = 20 THEN DELETE
 WHEN MATCHED THEN UPDATE SET region = 'n', id = 20;
TABLE differences;
SELECT region, id, note FROM stock WHERE id IN (20, 21, 22) ORDER BY id, region;
ROLLBACK;
TABLE differences;

-- Triggers of users fire once for each action of a query, and for no others.
CREATE TABLE fired (statement int, operation text, rows bigint);
CREATE FUNCTION note_fired() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO fired SELECT current_setting('test.statement')::int, TG_OP, count(*) FROM changed;
	RETURN NULL;
END
$$;
CREATE TRIGGER note_insert AFTER INSERT ON stock REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_fired();
CREATE TRIGGER a_note_update AFTER UPDATE ON stock REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_fired();
CREATE TRIGGER note_delete AFTER DELETE ON stock REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_fired();
BEGIN;
SET test.statement = 0;
INSERT INTO stock SELECT 'n', n, 'trigger' FROM generate_series(30, 36) AS n;
SET test.statement = 1;
MERGE INTO stock USING (VALUES (30), (31)) AS source (id) ON stock.region = 'n' AND stock.id = source.id
 WHEN MATCHED THEN UPDATE SET region = CASE stock.id WHEN 30 THEN 's' ELSE 'n' END;
SET test.statement = 2;
MERGE INTO stock USING (VALUES (31), (32), (-1)) AS source (id) ON stock.region = 'n' AND stock.id = source.id
 WHEN MATCHED AND stock.id = 31 THEN UPDATE SET region = 's'
 WHEN MATCHED THEN DELETE
 WHEN NOT MATCHED THEN INSERT VALUES ('n', 37);
-- other parts of the query write the table, too, before the MERGE and after it
SET test.statement = 3;
WITH deleted AS (DELETE FROM stock WHERE region = 'n' AND id = 33 RETURNING id)
MERGE INTO stock USING (SELECT id + 1 AS id FROM deleted) AS source ON stock.region = 'n' AND stock.id = source.id
 WHEN MATCHED THEN UPDATE SET region = 's';
SET test.statement = 4;
WITH inserted AS (INSERT INTO stock VALUES ('n', 38) RETURNING id), deleted AS (DELETE FROM stock WHERE region = 's' AND id = 34)
MERGE INTO stock USING (VALUES (35)) AS source (id) ON stock.region = 'n' AND stock.id = source.id
 WHEN MATCHED THEN UPDATE SET region = 's';
SELECT * FROM fired ORDER BY statement, operation;
TABLE differences;
COMMIT;
DROP FUNCTION note_fired CASCADE;
DROP TABLE fired;

-- A trigger of a partition moves a row.  Another one writes the moved row during the statement.
CREATE FUNCTION move() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	NEW.region := 's';
	RETURN NEW;
END
$$;
CREATE TRIGGER move BEFORE UPDATE ON stock_north FOR EACH ROW EXECUTE FUNCTION move();
CREATE FUNCTION write_moved() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	UPDATE stock SET note = 'by the trigger', id = id + 10 WHERE region = NEW.region AND id = NEW.id;
	RETURN NULL;
END
$$;
BEGIN;
INSERT INTO stock VALUES ('n', 60), ('n', 61), ('n', 62);
MERGE INTO stock USING (VALUES (60)) AS source (id) ON stock.id = source.id WHEN MATCHED THEN UPDATE SET note = 'moved';
TABLE differences;
CREATE TRIGGER write_moved AFTER INSERT ON stock_south_low FOR EACH ROW EXECUTE FUNCTION write_moved();
MERGE INTO stock USING (VALUES (61), (62)) AS source (id) ON stock.id = source.id WHEN MATCHED THEN UPDATE SET note = 'moved';
SELECT region, id, note FROM stock WHERE id BETWEEN 60 AND 79 ORDER BY id;
TABLE differences;
-- in a savepoint
INSERT INTO stock VALUES ('n', 63);
SAVEPOINT a;
MERGE INTO stock USING (VALUES (63)) AS source (id) ON stock.id = source.id WHEN MATCHED THEN UPDATE SET note = 'moved';
ROLLBACK TO a;
UPDATE stock SET note = 'stays' WHERE region = 's' AND id = 71;
TABLE differences;
COMMIT;
DROP FUNCTION move CASCADE;
DROP FUNCTION write_moved CASCADE;
TABLE differences;

-- As a part of a WITH, which servers have since 17, in a new session.  Another part reads what it returns.
CREATE TABLE returned (id int);
INSERT INTO stock VALUES ('n', 80), ('n', 81), ('n', 82);
\c -
SET client_min_messages = warning;
DO $do$
BEGIN
	IF current_setting('server_version_num')::int >= 170000 THEN
		EXECUTE $$WITH m AS (MERGE INTO stock USING (VALUES (80), (81)) AS source (id) ON stock.id = source.id
		 WHEN MATCHED THEN UPDATE SET region = 's' RETURNING stock.id), i AS (INSERT INTO returned SELECT id FROM m)
		 SELECT 1$$;
		EXECUTE $$WITH m AS (MERGE INTO stock USING (VALUES (81)) AS source (id) ON stock.id = source.id
		 WHEN MATCHED THEN UPDATE SET region = 'n')
		 MERGE INTO stock USING (VALUES (82)) AS source (id) ON stock.id = source.id
		 WHEN MATCHED THEN UPDATE SET region = 's'$$;
	ELSE
		MERGE INTO stock USING (VALUES (80), (82)) AS source (id) ON stock.id = source.id WHEN MATCHED THEN UPDATE SET region = 's';
		INSERT INTO returned VALUES (80), (81);
	END IF;
END
$do$;
TABLE returned;
SELECT region, id FROM stock WHERE id BETWEEN 80 AND 82 ORDER BY id;
TABLE differences;
DROP TABLE returned;

-- TRUNCATE of the root records each row once, that of a leaf or a middle level its own.
SELECT count(*) AS before FROM versions \gset
TRUNCATE stock_south_low;
TRUNCATE stock_south_high;
SELECT operation, count(*), count(DISTINCT (region, id)) FROM (SELECT * FROM versions OFFSET :before) AS v GROUP BY operation;
INSERT INTO stock SELECT 's', n, 'one', 1 FROM generate_series(0, 999, 50) AS n;
SELECT count(*) AS before FROM versions \gset
TRUNCATE stock;
SELECT operation, count(*), count(DISTINCT (region, id)), min(t) = max(t) AS one_transaction FROM (SELECT * FROM versions OFFSET :before) AS v GROUP BY operation;
TABLE differences;
-- partitions whose triggers are disabled or were never made are recorded by those above
ALTER TABLE stock_south_low DISABLE TRIGGER poser_version_before;
ALTER TABLE stock_south_high DISABLE TRIGGER ALL;
CREATE TABLE stock_east PARTITION OF stock FOR VALUES IN ('e');
INSERT INTO stock SELECT region, n, 'one', 1 FROM generate_series(0, 999, 50) AS n, unnest('{n,e,s}'::text[]) AS region;
SELECT count(*) AS before FROM versions \gset
TRUNCATE stock;
SELECT operation, region, count(*), count(DISTINCT id) FROM (SELECT * FROM versions OFFSET :before) AS v GROUP BY operation, region ORDER BY region;
TABLE differences;
SELECT unnest(string_to_array(problem, '; ')) AS problem FROM poser_tables WHERE target = 'stock'::regclass;
SELECT poser_track('stock');
SELECT unnest(string_to_array(problem, '; ')) AS problem FROM poser_tables WHERE target = 'stock'::regclass;

-- Renames of the columns of all levels, and a new column.
INSERT INTO stock_east VALUES ('e', 1, 'one');
ALTER TABLE stock RENAME note TO remark;
ALTER TABLE stock RENAME amount TO note;
ALTER TABLE stock ADD more int;
UPDATE stock_east SET remark = 'two', note = 5, more = 6;
UPDATE stock SET remark = 'three', note = 6;
SELECT operation_type, region, id, note, amount FROM stock_version WHERE region = 'e' AND id = 1 ORDER BY change_id;
SELECT poser_track('stock');
UPDATE stock_east SET more = 7;
SELECT operation_type, region, id, remark, note, more FROM stock_version WHERE region = 'e' AND id = 1 ORDER BY change_id;

-- A partition that is detached is not recorded any more, which it says once a session.
ALTER TABLE stock DETACH PARTITION stock_east;
INSERT INTO stock_east VALUES ('e', 2, 'two');
DELETE FROM stock_east WHERE id = 2;
TRUNCATE stock_east;
SELECT count(*) FROM stock_version WHERE region = 'e' AND id = 2;
-- ATTACH and DETACH are no writes: poser_record_versions() records the difference
SELECT poser_record_versions('stock');
SELECT operation_type, region, id FROM stock_version WHERE region = 'e' ORDER BY change_id DESC LIMIT 1;
ALTER TABLE stock ATTACH PARTITION stock_east FOR VALUES IN ('e');
INSERT INTO stock_east VALUES ('e', 3, 'three');
SELECT operation_type, region, id FROM stock_version WHERE region = 'e' ORDER BY change_id DESC LIMIT 1;

-- The versions can be partitioned, too.  They are written as their owner.
CREATE ROLE regress_poser_owner;
CREATE ROLE regress_poser_writer;
CREATE SCHEMA own AUTHORIZATION regress_poser_owner;
GRANT USAGE ON SCHEMA own TO regress_poser_writer;
SET ROLE regress_poser_owner;
CREATE TABLE own.line (invoice int, line int, item text, PRIMARY KEY (invoice, line));
CREATE TABLE own.line_version (item text, line int, invoice int, operation_type smallint, transaction_id bigint, change_id bigint,
							   seen_by name DEFAULT current_user) PARTITION BY RANGE (change_id);
CREATE TABLE own.line_version_empty PARTITION OF own.line_version FOR VALUES FROM (MINVALUE) TO (0);
CREATE TABLE own.line_version_all (change_id bigint, invoice int, gone int, line int, item text, transaction_id bigint, operation_type smallint, seen_by name DEFAULT current_user);
ALTER TABLE own.line_version_all DROP gone;
ALTER TABLE own.line_version ATTACH PARTITION own.line_version_all FOR VALUES FROM (0) TO (MAXVALUE);
CREATE INDEX ON own.line_version (invoice, line, change_id);
SELECT poser_track('own.line', versions => 'own.line_version');
GRANT ALL ON own.line TO regress_poser_writer;
SET ROLE regress_poser_writer;
INSERT INTO own.line SELECT 1, n, 'item ' || n FROM generate_series(1, 1200) AS n;
UPDATE own.line SET item = 'other' WHERE line = 1;
DELETE FROM own.line WHERE line = 2;
BEGIN;
DELETE FROM own.line WHERE line = 3;
ROLLBACK;
SELECT * FROM own.line_version;
RESET ROLE;
SELECT operation_type, seen_by, count(*) FROM own.line_version_all GROUP BY 1, 2 ORDER BY 1;
SELECT t.role_name, count(DISTINCT t.id) FROM own.line_version AS v JOIN poser_transaction AS t ON t.id = v.transaction_id GROUP BY 1;
-- and they are looked up over the partitions
CREATE FUNCTION own.again() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	UPDATE own.line SET item = item || '!' WHERE invoice = NEW.invoice AND line = NEW.line;
	RETURN NULL;
END
$$;
CREATE TRIGGER again AFTER UPDATE ON own.line FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION own.again();
CREATE TABLE own.line_version_new (LIKE own.line_version_all);
UPDATE own.line SET item = 'new' WHERE line < 4;
SELECT operation_type, line, item FROM own.line_version WHERE line < 4 ORDER BY change_id;
-- history is only added to there, too
UPDATE own.line_version SET item = 'forged';
DELETE FROM own.line_version_all;
TRUNCATE own.line_version;
TRUNCATE own.line_version_all;
-- A new partition of the versions, at any level, has no trigger that refuses TRUNCATE until
-- poser_track() is called again.
SET ROLE regress_poser_owner;
ALTER TABLE own.line_version DETACH PARTITION own.line_version_empty;
CREATE TABLE own.line_version_low PARTITION OF own.line_version FOR VALUES FROM (MINVALUE) TO (0) PARTITION BY RANGE (change_id);
CREATE TABLE own.line_version_low_1 PARTITION OF own.line_version_low FOR VALUES FROM (-9) TO (0);
RESET ROLE;
SELECT unnest(string_to_array(problem, '; ')) AS problem FROM poser_tables WHERE target = 'own.line'::regclass;
SET client_min_messages = notice;
SELECT poser_track('own.line');
SELECT poser_track('own.line');
SET client_min_messages = warning;
SELECT problem FROM poser_tables WHERE target = 'own.line'::regclass;
TRUNCATE own.line_version_low;
TRUNCATE own.line_version_low_1;
SET session_replication_role = replica;
TRUNCATE own.line_version_all;
RESET session_replication_role;
-- A partition that is detached is an ordinary table again.  The server leaves the clone of
-- the binding on it, which poser_track() removes, so that it can be attached again.
ALTER TABLE own.line_version DETACH PARTITION own.line_version_low;
INSERT INTO own.line_version_low (change_id) VALUES (-1), (-2);
INSERT INTO own.line_version_empty (change_id) VALUES (-1);
UPDATE own.line_version_low SET line = 1;
DELETE FROM own.line_version_empty;
DELETE FROM own.line_version_low_1 WHERE change_id = -1;
TRUNCATE own.line_version_low_1;
TRUNCATE own.line_version_low;
TRUNCATE own.line_version_empty;
CREATE TABLE own.parent (LIKE own.line_version) PARTITION BY RANGE (change_id);
ALTER TABLE own.parent ATTACH PARTITION own.line_version_low FOR VALUES FROM (MINVALUE) TO (0);
INSERT INTO own.parent (change_id) VALUES (-1);
DELETE FROM own.parent;
TRUNCATE own.parent;
ALTER TABLE own.parent DETACH PARTITION own.line_version_low;
ALTER TABLE own.line_version ATTACH PARTITION own.line_version_low FOR VALUES FROM (MINVALUE) TO (0);
SELECT unnest(string_to_array(problem, '; ')) AS problem FROM poser_tables WHERE target = 'own.line'::regclass;
SET client_min_messages = notice;
SELECT poser_track('own.line');
SET client_min_messages = warning;
ALTER TABLE own.line_version ATTACH PARTITION own.line_version_low FOR VALUES FROM (MINVALUE) TO (0);
SELECT problem FROM poser_tables WHERE target = 'own.line'::regclass;
TRUNCATE own.line_version_low_1;
DELETE FROM own.line_version_all;
-- pruning is not stopped
SELECT poser_prune_versions(interval '0', target => 'own.line') > 0 AS pruned;
-- what a trigger keeps out of the versions is an error
CREATE FUNCTION own.keep_out() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER keep_out BEFORE INSERT ON own.line_version_all FOR EACH ROW EXECUTE FUNCTION own.keep_out();
DELETE FROM own.line WHERE line = 4;
DROP TRIGGER keep_out ON own.line_version_all;
-- poser_untrack() removes the triggers of the partitions, too
SELECT poser_untrack('own.line');
SELECT tgrelid::regclass, tgname FROM pg_trigger WHERE tgname LIKE 'poser%' AND tgrelid::regclass::text LIKE 'own.line%' ORDER BY 1, 2;
TRUNCATE own.line_version_all;

DROP EXTENSION poser CASCADE;
DROP SCHEMA own CASCADE;
DROP ROLE regress_poser_owner;
DROP ROLE regress_poser_writer;
DROP VIEW versions, differences;
DROP TABLE stock, stock_version;
DROP FUNCTION suppress, write_leaf;
