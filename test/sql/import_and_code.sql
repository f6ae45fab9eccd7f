-- Code that runs during an import: in the source's view, in triggers, in actions of
-- foreign keys; and values that only such code refuses.

\set VERBOSITY terse
CREATE EXTENSION poser;

-- The source's view cannot replace the target during the import.
CREATE TABLE steady (id int PRIMARY KEY, a text);
INSERT INTO steady VALUES (1, 'x');
CREATE FUNCTION alters() RETURNS text LANGUAGE plpgsql AS
	'BEGIN ALTER TABLE steady ALTER a TYPE bigint USING 42; RETURN ''y''; END';
CREATE VIEW altering AS SELECT 1 AS id, alters() AS a;
SELECT * FROM poser_import('altering', 'steady');
SELECT * FROM poser_import_diff('altering', 'steady');
TABLE steady;

-- The action of a foreign key makes a change that the import is about to make.
CREATE TABLE tree (id int PRIMARY KEY, code text UNIQUE, parent text REFERENCES tree (code) ON UPDATE CASCADE);
INSERT INTO tree VALUES (1, 'p', NULL), (2, 'c', 'p');
CREATE TABLE tree_list (id int, code text, parent text);
INSERT INTO tree_list VALUES (1, 'P', NULL), (2, 'c', 'P');
SELECT * FROM poser_import('tree_list', 'tree');
SELECT * FROM tree ORDER BY id;

-- A trigger undoes a change or makes another one: other rows are not to blame.
CREATE TABLE ranks (id int PRIMARY KEY, pos int, name text);
INSERT INTO ranks SELECT n, n, 'old' FROM generate_series(1, 3) AS n;
CREATE TABLE ranks_list AS TABLE ranks;
UPDATE ranks_list SET name = 'new' WHERE id = 1;
UPDATE ranks_list SET pos = 9 WHERE id = 2;
CREATE FUNCTION moves_others() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF pg_trigger_depth() < 2 THEN
		UPDATE ranks SET pos = pos + 1 WHERE id <> new.id;
	END IF;
	RETURN NULL;
END
$$;
CREATE TRIGGER moves_others AFTER UPDATE ON ranks FOR EACH ROW EXECUTE FUNCTION moves_others();
\set SHOW_CONTEXT never
\set VERBOSITY sqlstate
SELECT * FROM poser_import('ranks_list', 'ranks');
\set VERBOSITY default
SELECT * FROM ranks ORDER BY id;
CREATE TABLE pairs (id int PRIMARY KEY, name text);
CREATE TABLE pairs_list AS SELECT n AS id, 'listed' AS name FROM generate_series(1, 2) AS n;
CREATE FUNCTION makes_two() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF new.id = 1 THEN
		INSERT INTO pairs VALUES (2, 'made');
	END IF;
	RETURN NULL;
END
$$;
CREATE TRIGGER makes_two AFTER INSERT ON pairs FOR EACH ROW EXECUTE FUNCTION makes_two();
SELECT * FROM poser_import('pairs_list', 'pairs');

-- An error with an unusual SQLSTATE names its row, too.
-- PostgreSQL 19 compresses with lz4, and the message shows the compressed size.
SET default_toast_compression = pglz;
CREATE TABLE codes (code text PRIMARY KEY, a text);
CREATE TABLE codes_list AS
SELECT 'short' AS code, 'x' AS a UNION ALL
SELECT string_agg(md5(n::text), ''), 'x' FROM generate_series(1, 300) AS n;
SELECT * FROM poser_import('codes_list', 'codes');
RESET default_toast_compression;
CREATE TABLE relations (id int PRIMARY KEY, r regclass);
CREATE TABLE relations_list AS SELECT n AS id, CASE n WHEN 1 THEN 'codes' ELSE 'none' END AS r FROM generate_series(1, 2) AS n;
SELECT * FROM poser_import('relations_list', 'relations');
SELECT * FROM poser_import(0, 'relations');

-- A key of a row type is not NULL if only one of its fields is.
CREATE TYPE place AS (x int, y text);
CREATE TABLE places (k place, n int);
INSERT INTO places VALUES ('(2,)', 1), (NULL, 2);
CREATE TABLE places_list AS SELECT * FROM places WHERE n = 1;
SELECT * FROM poser_import('places_list', 'places', key => '{k}', deletes => true);
SELECT * FROM places ORDER BY n;

-- Only the rows of a batch that have the same key are errors.
CREATE TABLE items (id int PRIMARY KEY, a text);
INSERT INTO items SELECT n, 'old' FROM generate_series(1, 3) AS n;
CREATE TABLE items_list AS SELECT * FROM (VALUES (1, 'a'), (1, 'b'), (2, 'c'), (5, 'd')) AS v (id, a);
INSERT INTO poser_batch (uuid, target) VALUES ('b', 'items');
SELECT poser_batch_populate('b', 'items_list'), poser_batch_refresh('b');
SELECT sequence, operation, old, new, status, status_text FROM poser_batch_row ORDER BY sequence;
-- A row to be deleted that is already gone stays a delete.
INSERT INTO poser_batch_row (batch_uuid, sequence, operation, key, new) VALUES ('b', 9, 'delete', '{"id": 9}', '{"a": "z"}');
UPDATE poser_batch_row SET removed = true WHERE sequence = 1;
SELECT poser_batch_refresh('b'), poser_batch_refresh('b');
SELECT * FROM poser_batch_execute('b');
SELECT * FROM items ORDER BY id;
SELECT operation, status FROM poser_batch_row WHERE sequence = 9;
CREATE TEMPORARY TABLE passing (id int PRIMARY KEY);
INSERT INTO poser_batch (target) VALUES ('passing');

SELECT * FROM poser_check();
DROP EXTENSION poser;
DROP VIEW altering;
DROP FUNCTION alters;
DROP TABLE steady, tree, tree_list, ranks, ranks_list, pairs, pairs_list, codes, codes_list, relations, relations_list,
	places, places_list, items, items_list, passing;
DROP TYPE place;
DROP FUNCTION moves_others, makes_two;
