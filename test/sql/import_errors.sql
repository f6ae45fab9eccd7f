-- What poser_import() and poser_import_diff() refuse: one error that names rows and
-- their number, and no change is applied.

\set SHOW_CONTEXT never
CREATE EXTENSION poser;
INSERT INTO poser_widget (uuid, description) SELECT 'w' || n, 'Widget ' || n FROM generate_series(1, 9) AS n;
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c1', 'w1', '1', 'One'), ('c2', 'w1', '2', 'Two'), ('c3', 'w2', '1', 'One');
CREATE TABLE list (uuid text, description text, active bool);
INSERT INTO list VALUES ('w1', 'Changed', true), ('new', 'New', true);

-- the rows of a table and their places
CREATE FUNCTION content(relation regclass) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	EXECUTE format('SELECT md5(string_agg(concat_ws('' '', tableoid, ctid, xmin, r::text), '','' ORDER BY tableoid, ctid)) FROM %s AS r', relation)
	   INTO result;
	RETURN result;
END
$$;
CREATE TABLE before AS SELECT content('poser_widget') AS widgets, content('poser_component') AS components, content('poser_widget_version') AS versions;

--
-- Arguments
--
SELECT * FROM poser_import(NULL, 'poser_widget');
\echo :SQLSTATE
SELECT * FROM poser_import('list', NULL);
\echo :SQLSTATE
SELECT * FROM poser_import('list', 'poser_widget', key => '{uuid,NULL}');
\echo :SQLSTATE
SELECT * FROM poser_import('list', 'poser_widget', fields => '{NULL,active}');
\echo :SQLSTATE
SELECT * FROM poser_import('list', 'poser_widget', creates => NULL);
SELECT * FROM poser_import('list', 'poser_widget', updates => NULL);
SELECT * FROM poser_import('list', 'poser_widget', deletes => NULL);
SELECT * FROM poser_import_diff(NULL, 'poser_widget');
SELECT * FROM poser_import_diff('list', NULL);
SELECT * FROM poser_import_diff('list', 'poser_widget', deletes => NULL);
SELECT * FROM poser_import('list', 'poser_widget', max_create => -1);
\echo :SQLSTATE
SELECT * FROM poser_import('list', 'poser_widget', max_update => -1);
SELECT * FROM poser_import('list', 'poser_widget', max_delete => -1);
SELECT * FROM poser_import('list', 'poser_widget', max_total => -9223372036854775808);
-- columns
SELECT * FROM poser_import('list', 'poser_widget', key => '{code}');
\echo :SQLSTATE
SELECT * FROM poser_import('list', 'poser_component', key => '{item_code}');
\echo :SQLSTATE
SELECT * FROM poser_import('list', 'poser_widget', fields => '{description,colour}');
\echo :SQLSTATE
SELECT * FROM poser_import('list', 'poser_component', key => '{uuid}', fields => '{item_code}');
\echo :SQLSTATE
SELECT * FROM poser_import('poser_component', 'list', key => '{uuid}', fields => '{item_code}');
\echo :SQLSTATE
SELECT * FROM poser_import('list', 'poser_widget', fields => '{ctid}');
\echo :SQLSTATE
SELECT * FROM poser_import('list', 'poser_widget', key => '{"UUID"}');
SELECT * FROM poser_import('list', 'poser_widget', fields => '{active,description,active}');
\echo :SQLSTATE
SELECT * FROM poser_import('list', 'poser_widget', key => '{uuid,uuid}');
\echo :SQLSTATE
CREATE TABLE nothing (colour text);
SELECT * FROM poser_import('nothing', 'poser_widget');
\echo :SQLSTATE
CREATE TABLE gone (code text, uuid text, description text);
ALTER TABLE gone DROP COLUMN description;
SELECT * FROM poser_import('gone', 'poser_widget', fields => '{description}');
SELECT * FROM poser_import_diff('gone', 'poser_widget', fields => '{description}');
-- types
CREATE TABLE typed (id int PRIMARY KEY, number int, document json, generated int GENERATED ALWAYS AS (number + 1) STORED,
	identity int GENERATED ALWAYS AS IDENTITY, name varchar(5), code char(3), amount numeric(4,2), share int CHECK (share < 100));
CREATE TABLE loose (id bigint, number bool, document int, generated int, identity int);
SELECT * FROM poser_import('loose', 'typed', fields => '{number}');
\echo :SQLSTATE
SELECT * FROM poser_import('loose', 'typed', fields => '{document}');
\echo :SQLSTATE
SELECT * FROM poser_import_diff('loose', 'typed', fields => '{document}');
SELECT * FROM poser_import('loose', 'typed', fields => '{generated}');
\echo :SQLSTATE
SELECT * FROM poser_import('loose', 'typed', fields => '{identity}');
\echo :SQLSTATE
ALTER TABLE loose ALTER id TYPE date USING NULL;
SELECT * FROM poser_import('loose', 'typed', fields => '{}');
\echo :SQLSTATE
-- keys
CREATE TABLE keyless (uuid text, description text, code int, name text);
SELECT * FROM poser_import('list', 'keyless');
\echo :SQLSTATE
CREATE UNIQUE INDEX ON keyless (code) WHERE code > 0;
CREATE UNIQUE INDEX ON keyless (code, lower(name));
SELECT * FROM poser_import_diff('list', 'keyless');
-- none that the source has, then two to choose from
CREATE UNIQUE INDEX ON keyless (code);
SELECT * FROM poser_import('list', 'keyless');
CREATE UNIQUE INDEX ON keyless (uuid);
SELECT * FROM poser_import('list', 'keyless');
\echo :SQLSTATE
-- relations
CREATE VIEW a_view AS TABLE list;
CREATE MATERIALIZED VIEW a_materialized_view AS TABLE list;
CREATE SEQUENCE a_sequence;
CREATE INDEX an_index ON list (uuid);
CREATE TYPE a_type AS (uuid text, description text);
SELECT * FROM poser_import('list', 'a_view', key => '{uuid}');
\echo :SQLSTATE
SELECT * FROM poser_import('list', 'a_materialized_view', key => '{uuid}');
SELECT * FROM poser_import('list', 'a_sequence', key => '{uuid}');
SELECT * FROM poser_import('list', 'an_index', key => '{uuid}');
SELECT * FROM poser_import_diff('list', 'a_type', key => '{uuid}');
SELECT * FROM poser_import('a_sequence', 'poser_widget');
\echo :SQLSTATE
SELECT * FROM poser_import('an_index', 'poser_widget');
SELECT * FROM poser_import_diff('a_type', 'poser_widget');
SELECT * FROM poser_import('4294967295', 'poser_widget');
\echo :SQLSTATE
SELECT * FROM poser_import('list', '4294967295');
\echo :SQLSTATE
-- transactions
BEGIN READ ONLY;
SELECT * FROM poser_import('list', 'poser_widget');
\echo :SQLSTATE
ROLLBACK;

--
-- Limits
--
SELECT * FROM poser_import('list', 'poser_widget', max_create => 0);
\echo :SQLSTATE
SELECT * FROM poser_import('list', 'poser_widget', max_update => 0);
SELECT * FROM poser_import('list', 'poser_widget', deletes => true, max_delete => 7);
SELECT * FROM poser_import('list', 'poser_widget', deletes => true, max_total => 9, max_create => 5, max_update => 5, max_delete => 8);
SELECT content('poser_widget') = widgets AS unchanged, content('poser_widget_version') = versions AS no_version FROM before;

--
-- Rows that cannot be read are reported together in one error
--
-- NULL keys
CREATE TABLE parts (item_code text, widget_uuid text, description text);
INSERT INTO parts VALUES ('1', 'w1', 'Changed'), (NULL, 'w1', 'a'), ('1', NULL, 'b'), (NULL, NULL, 'c'), ('3', 'w1', 'New'), (NULL, 'w2', 'd'),
	(NULL, 'w3', 'e'), (NULL, 'w4', 'f'), (NULL, 'w5', 'g');
SELECT * FROM poser_import('parts', 'poser_component', '{item_code,widget_uuid}');
\echo :SQLSTATE
SELECT * FROM poser_import_diff('parts', 'poser_component', '{item_code,widget_uuid}');
-- duplicate keys
TRUNCATE parts;
INSERT INTO parts VALUES ('1', 'w1', 'Changed'), ('3', 'w1', 'New'), ('3', 'w1', 'New'), ('1', 'w2', 'Changed'), ('3', 'w1', 'New');
SELECT * FROM poser_import('parts', 'poser_component', '{item_code,widget_uuid}');
\echo :SQLSTATE
INSERT INTO parts SELECT n % 10, 'w9', 'New' FROM generate_series(0, 99) AS n;
SELECT * FROM poser_import_diff('parts', 'poser_component', '{item_code,widget_uuid}');
\echo :SQLSTATE
-- duplicates only in the target's type
CREATE TABLE amounts (id numeric, number int);
INSERT INTO amounts VALUES (1.4, 1), (0.6, 2), (2, 3);
SELECT * FROM poser_import('amounts', 'typed');
\echo :SQLSTATE
-- values
CREATE DOMAIN even AS int CHECK (VALUE % 2 = 0);
ALTER TABLE typed ADD pairs even, ADD list int[];
DROP TABLE loose;
CREATE TABLE loose (name text, id bigint, number bigint, code text, amount numeric, pairs int, list bigint[], share int);
INSERT INTO typed (id, name) VALUES (1, 'one'), (2, 'two');
INSERT INTO loose (id, name, number, code, amount, pairs, list) VALUES (1, 'one', 1, 'abc', 1, 2, '{}'), (3, 'three', 1, 'abc', 99.994, 4, NULL),
	(2, 'too long', 1, 'abc', 1, 2, NULL), (4, 'four', 3000000000, 'abc', 1, 2, NULL), (5, 'five', 1, 'four', 1, 2, NULL), (6, 'six', 1, 'abc', 99.995, 2, NULL),
	(7, 'seven', 1, 'abc', 1, 3, NULL), (8, 'eight', 1, 'abc', 1, 2, '{1,3000000000}'), (3000000000, 'nine', 1, 'abc', 1, 2, NULL),
	(10, 'too long', 3000000000, 'four', 100, 1, '{3000000000}');
SELECT * FROM poser_import('loose', 'typed');
\echo :SQLSTATE
DELETE FROM loose WHERE id = 2;
SELECT * FROM poser_import_diff('loose', 'typed');
\echo :SQLSTATE
DELETE FROM loose WHERE id BETWEEN 4 AND 6;
SELECT * FROM poser_import('loose', 'typed');
\echo :SQLSTATE
-- Text is read as in a file; each value fails by itself.
CREATE TABLE texts (id text, number text, amount text, pairs varchar, list text, flag text, bits text);
ALTER TABLE typed ADD flag bool, ADD bits bit(3);
INSERT INTO texts VALUES ('1', '1', '1.005', '2', '{1}', 'yes', '101'), ('2', '1', '1', '2', '{1}', 'maybe', '101');
SELECT * FROM poser_import('texts', 'typed');
\echo :SQLSTATE
SELECT * FROM poser_import_diff('texts', 'typed', fields => '{flag}');
INSERT INTO texts VALUES ('3', '1', '1', '2', '{1}', 'perhaps', '101'), ('4', '1', '1', '2', '{1', 'no', '101'), ('five', '5', '1', '2', NULL, 'no', '101'),
	('6', '6', '100', '2', NULL, NULL, '101'), ('7', '7', '7', '7', NULL, NULL, '101'), ('8', '8', '8', '8', NULL, NULL, '10');
SELECT * FROM poser_import('texts', 'typed');
\echo :SQLSTATE
DELETE FROM texts WHERE id <> '1';
SELECT * FROM poser_import('texts', 'typed');
SELECT id, number, amount, pairs, list, flag, bits FROM typed WHERE id = 1;
SELECT * FROM poser_import_diff('texts', 'typed');
UPDATE typed SET number = NULL, amount = NULL WHERE id = 1;
-- with key errors
INSERT INTO loose (name, id) VALUES ('null', NULL), ('again', 3);
SELECT * FROM poser_import('loose', 'typed');
\echo :SQLSTATE
-- very many
INSERT INTO list SELECT 'x' || n, CASE n % 2 WHEN 0 THEN repeat('x', 256) ELSE '' END FROM generate_series(1, 3000) AS n;
SELECT * FROM poser_import('list', 'poser_widget');
\echo :SQLSTATE
DELETE FROM list WHERE uuid LIKE 'x%';

--
-- Rows that the target refuses are reported together in one error
--
-- unknown widgets
TRUNCATE parts;
INSERT INTO parts VALUES ('1', 'w1', 'Changed'), ('3', 'w1', 'New');
INSERT INTO parts SELECT n, 'unknown ' || n, 'New' FROM generate_series(1, 8) AS n;
INSERT INTO parts VALUES ('9', 'w2', 'New');
SELECT * FROM poser_import('parts', 'poser_component', '{item_code,widget_uuid}');
\echo :SQLSTATE
INSERT INTO parts SELECT n, CASE WHEN n % 100 = 0 THEN 'unknown' ELSE 'w3' END, 'New' FROM generate_series(1000, 1999) AS n;
SELECT * FROM poser_import('parts', 'poser_component', '{item_code,widget_uuid}');
-- so many that the import stops searching for them, which saves transaction ids
INSERT INTO parts SELECT n, 'missing ' || n, 'New' FROM generate_series(10000, 15000) AS n;
SELECT pg_current_xact_id() AS before \gset
SELECT * FROM poser_import('parts', 'poser_component', '{item_code,widget_uuid}');
SELECT pg_current_xact_id()::text::bigint - :before < 2000 AS "few transaction IDs";
DELETE FROM parts WHERE widget_uuid LIKE 'missing%';
-- A table that references itself: rows wait for others, two of which fail; too many wait.
CREATE TABLE tree (id int PRIMARY KEY, parent int REFERENCES tree, CHECK (id <> 55), CHECK (id <> 56));
CREATE TABLE branches AS SELECT n AS id, nullif(n + 1, 101) AS parent FROM generate_series(1, 100) AS n;
SELECT * FROM poser_import('branches', 'tree');
INSERT INTO branches SELECT n, 99999 FROM generate_series(1001, 7000) AS n;
SELECT pg_current_xact_id() AS before \gset
SELECT * FROM poser_import('branches', 'tree');
SELECT pg_current_xact_id()::text::bigint - :before < 10000 AS "few transaction IDs";
SELECT count(*) FROM tree;
-- several reasons: a check, NOT NULL, another unique index, an exclusion, a trigger
ALTER TABLE typed ALTER name SET NOT NULL, ADD EXCLUDE USING btree (number WITH =);
CREATE UNIQUE INDEX typed_code ON typed (code);
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.amount = 13 THEN
		RAISE EXCEPTION 'unlucky: %', NEW.id USING ERRCODE = 'P0013', DETAIL = 'never shown', HINT = 'never shown';
	END IF;
	RETURN NEW;
END
$$;
CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON typed FOR EACH ROW EXECUTE FUNCTION refuse();
UPDATE typed SET code = 'one', number = 1 WHERE id = 1;
TRUNCATE loose;
INSERT INTO loose (id, name, amount, share, code, number) VALUES (1, 'ONE', 1, 1, 'one', 1), (2, 'two', 2, 200, 'two', 2), (3, 'three', 3, 3, 'thr', 3),
	(4, NULL, 4, 4, 'fou', 4), (5, 'five', 5, 5, 'one', 5), (6, 'six', 6, 6, 'six', 1), (7, 'seven', 13, 7, 'sev', 7), (8, 'eight', 8, 800, 'eig', 8), (9, 'nine', 9, 9, 'nin', 9);
SELECT content('typed') AS typed \gset
SELECT * FROM poser_import('loose', 'typed');
\echo :SQLSTATE
DELETE FROM loose WHERE id IN (2, 4, 5, 6);
SELECT * FROM poser_import('loose', 'typed');
\echo :SQLSTATE
SELECT content('typed') = :'typed' AS unchanged;
-- one reason with different messages, and more reasons than the error names
CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	RAISE EXCEPTION '%', NEW.name USING ERRCODE = 'P0' || NEW.share;
END
$$;
UPDATE loose SET name = 'bad ' || id, share = 113;
SELECT * FROM poser_import('loose', 'typed');
TRUNCATE loose;
INSERT INTO loose (id, name, share) SELECT n, 'n ' || n, 100 + n FROM generate_series(10, 31) AS n;
SELECT * FROM poser_import('loose', 'typed');
TRUNCATE loose;
INSERT INTO loose (id, name, amount, share, code, number) VALUES (1, 'ONE', 1, 1, 'one', 1), (3, 'three', 3, 3, 'thr', 3), (7, 'seven', 13, 7, 'sev', 7),
	(8, 'eight', 8, 800, 'eig', 8), (9, 'nine', 9, 9, 'nin', 9);
SELECT content('typed') = :'typed' AS unchanged;
-- rows that cannot be deleted
SELECT * FROM poser_import('list', 'poser_widget', deletes => true);
\echo :SQLSTATE
-- a BEFORE trigger that suppresses rows
CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
	'BEGIN RETURN CASE WHEN coalesce(NEW.id, OLD.id) % 2 = 0 THEN coalesce(NEW, OLD) END; END';
SELECT * FROM poser_import('loose', 'typed');
\echo :SQLSTATE
DROP TRIGGER refuse ON typed;
CREATE TRIGGER refuse BEFORE DELETE ON typed FOR EACH ROW EXECUTE FUNCTION refuse();
DELETE FROM loose WHERE id IN (1, 2, 8);
SELECT * FROM poser_import('loose', 'typed', deletes => true);
\echo :SQLSTATE
SELECT content('typed') = :'typed' AS unchanged;
SET client_min_messages = warning;
DROP FUNCTION refuse CASCADE;
RESET client_min_messages;
-- duplicate keys in the target
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) SELECT 'double ' || n, 'w4', n % 7, '' FROM generate_series(1, 14) AS n;
TRUNCATE parts;
INSERT INTO parts SELECT n, 'w4', 'Changed' FROM generate_series(1, 8) AS n;
SELECT * FROM poser_import('parts', 'poser_component', '{item_code,widget_uuid}');
\echo :SQLSTATE
SELECT * FROM poser_import_diff('parts', 'poser_component', '{item_code,widget_uuid}');
DELETE FROM poser_component WHERE uuid LIKE 'double%';

--
-- Other errors are passed on unchanged
--
CREATE VIEW failing AS SELECT uuid, description, length(description) / (length(uuid) - 2) > 0 AS active FROM list;
SELECT * FROM poser_import('failing', 'poser_widget');
\echo :SQLSTATE
SELECT * FROM poser_import_diff('failing', 'poser_widget');

--
-- Nothing was applied, and an error undoes only the import
--
SELECT content('poser_widget') = widgets AS widgets, content('poser_component') = components AS components, content('poser_widget_version') = versions AS versions FROM before;
SELECT DISTINCT operation FROM poser_widget_history('w1');
BEGIN;
SELECT * FROM poser_import('list', 'poser_widget');
SAVEPOINT a;
INSERT INTO list VALUES ('w2', NULL, true), ('w3', 'Changed', true);
SELECT * FROM poser_import('list', 'poser_widget');
ROLLBACK TO a;
SELECT * FROM poser_import('list', 'poser_widget');
COMMIT;
SELECT uuid, description FROM poser_widget ORDER BY uuid;
-- the session shows its own query again
CREATE VIEW watched AS SELECT uuid, query AS description FROM list, pg_stat_activity WHERE pid = pg_backend_pid();
CREATE TABLE doings (uuid text PRIMARY KEY, description text);
DO $$
BEGIN
	PERFORM poser_import('watched', 'doings');
	PERFORM pg_stat_clear_snapshot();
	INSERT INTO doings SELECT 'between', query FROM pg_stat_activity WHERE pid = pg_backend_pid();
	INSERT INTO list VALUES (NULL, '', true);
	BEGIN
		PERFORM poser_import('watched', 'doings');
	EXCEPTION WHEN not_null_violation THEN
		PERFORM pg_stat_clear_snapshot();
		INSERT INTO doings SELECT 'afterwards', query FROM pg_stat_activity WHERE pid = pg_backend_pid();
	END;
END
$$;
SELECT uuid, split_part(description, E'\n', 1) AS doing FROM doings ORDER BY uuid;
SELECT * FROM poser_check();

DROP EXTENSION poser;
DROP VIEW a_view, failing, watched;
DROP MATERIALIZED VIEW a_materialized_view;
DROP TABLE list, before, nothing, gone, typed, loose, texts, keyless, parts, amounts, doings, tree, branches;
DROP SEQUENCE a_sequence;
DROP TYPE a_type;
DROP DOMAIN even;
DROP FUNCTION content;
