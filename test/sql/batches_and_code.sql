-- Code that runs while a batch is compared or executed: casts, triggers and domains
-- of the target.  It cannot bypass the guards of batches, and batches still work.

SET client_min_messages = warning;
CREATE EXTENSION poser;
CREATE ROLE regress_poser_clerk;
GRANT SELECT, INSERT, UPDATE ON poser_batch, poser_batch_row TO regress_poser_clerk;
CREATE SCHEMA regress_poser_code AUTHORIZATION regress_poser_clerk;
SET ROLE regress_poser_clerk;
SET search_path = regress_poser_code, public;

-- A type with a cast to json that writes to an executed batch: the type's text is
-- used instead of the cast.
CREATE TYPE mood AS ENUM ('good', 'bad', 'better');
CREATE TABLE pet (id int PRIMARY KEY, mood mood, moods mood[], name text);
INSERT INTO pet VALUES (1, 'good', '{good}', 'cat'), (2, 'good', NULL, 'dog');
INSERT INTO poser_batch (uuid, target) VALUES ('done', 'pet');
INSERT INTO poser_batch_row (batch_uuid, sequence, key, new) VALUES ('done', 1, '{"id": 1}', '{"name": "tomcat"}');
SELECT * FROM poser_batch_execute('done');
CREATE FUNCTION mood_to_json(mood) RETURNS json LANGUAGE plpgsql AS $$
BEGIN
	UPDATE poser_batch_row SET new = '{"name": "forged"}' WHERE batch_uuid = 'done';
	RETURN to_json('from a cast'::text);
END
$$;
RESET ROLE;
SET search_path = regress_poser_code, public;
CREATE CAST (mood AS json) WITH FUNCTION mood_to_json(mood);
SET ROLE regress_poser_clerk;
CREATE TABLE news AS SELECT id, 'bad'::mood AS mood, '{bad,good}'::mood[] AS moods FROM pet ORDER BY id;
INSERT INTO poser_batch (uuid, target) VALUES ('moods', 'pet');
SELECT poser_batch_populate('moods', 'news');
UPDATE pet SET mood = 'better' WHERE id = 2;
SELECT poser_batch_refresh('moods');
SELECT sequence, operation, old, new, status, status_text FROM poser_batch_row WHERE batch_uuid = 'moods' ORDER BY sequence;
SELECT * FROM poser_batch_execute('moods', skip_conflicts => true);
SELECT * FROM pet ORDER BY id;
SELECT new FROM poser_batch_row WHERE batch_uuid = 'done';

-- A trigger of the target that executes the same batch again, or edits it.
CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF TG_ARGV[0] = 'execute' THEN
		PERFORM poser_batch_execute('more');
	ELSE
		UPDATE poser_batch_row SET new = '{"name": "other"}' WHERE batch_uuid = 'more';
	END IF;
	RETURN NULL;
END
$$;
INSERT INTO poser_batch (uuid, target) VALUES ('more', 'pet');
INSERT INTO poser_batch_row (batch_uuid, sequence, key, new) VALUES ('more', 1, '{"id": 1}', '{"name": "lion"}');
\set VERBOSITY terse
CREATE TRIGGER meddle AFTER UPDATE ON pet FOR EACH STATEMENT EXECUTE FUNCTION meddle('execute');
SELECT * FROM poser_batch_execute('more');
DROP TRIGGER meddle ON pet;
CREATE TRIGGER meddle AFTER UPDATE ON pet FOR EACH STATEMENT EXECUTE FUNCTION meddle('edit');
SELECT * FROM poser_batch_execute('more');
DROP TRIGGER meddle ON pet;
SELECT executed, (SELECT new FROM poser_batch_row WHERE batch_uuid = uuid) FROM poser_batch WHERE uuid = 'more';

-- A domain with NOT NULL: the batch does not set that column.
CREATE DOMAIN always AS text NOT NULL;
CREATE TABLE strict (id int PRIMARY KEY, name text, a always DEFAULT 'a');
INSERT INTO strict VALUES (1, 'one', 'b');
CREATE TABLE loose AS SELECT n AS id, 'number ' || n AS name FROM generate_series(1, 2) AS n ORDER BY n;
INSERT INTO poser_batch (uuid, target) VALUES ('strict', 'strict');
SELECT poser_batch_populate('strict', 'loose'), poser_batch_refresh('strict');
SELECT * FROM poser_batch_execute('strict');
SELECT * FROM strict ORDER BY id;

-- A check that begins subtransactions, which a parallel query cannot do.
CREATE FUNCTION is_number(text) RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
	PERFORM $1::int;
	RETURN true;
EXCEPTION WHEN OTHERS THEN
	RETURN false;
END
$$;
CREATE DOMAIN number AS text CHECK (is_number(value));
CREATE TABLE numbers (id int PRIMARY KEY, n number);
CREATE TABLE texts AS SELECT n AS id, n::text AS n FROM generate_series(1, 5000) AS n;
ANALYZE texts;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SELECT * FROM poser_import('texts', 'numbers');
UPDATE texts SET n = 'none' WHERE id IN (7, 70);
\set VERBOSITY default
SELECT * FROM poser_import('texts', 'numbers');
RESET min_parallel_table_scan_size;
RESET parallel_tuple_cost;
RESET parallel_setup_cost;

-- Another role's operators, which come first in the search_path.
RESET ROLE;
CREATE FUNCTION raises(text, text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'hostile'; END $$;
CREATE OPERATOR = (FUNCTION = raises, LEFTARG = text, RIGHTARG = text);
CREATE OPERATOR <> (FUNCTION = raises, LEFTARG = text, RIGHTARG = text);
CREATE FUNCTION raises(jsonb, jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'hostile'; END $$;
CREATE OPERATOR || (FUNCTION = raises, LEFTARG = jsonb, RIGHTARG = jsonb);
CREATE FUNCTION raises(jsonb, text) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'hostile'; END $$;
CREATE OPERATOR -> (FUNCTION = raises, LEFTARG = jsonb, RIGHTARG = text);
CREATE TABLE plain (id int PRIMARY KEY, name text);
INSERT INTO plain SELECT n, 'old' FROM generate_series(1, 6) AS n;
CREATE TABLE list AS SELECT n AS id, CASE WHEN n > 5 THEN 'old' ELSE 'new' END AS name FROM generate_series(2, 7) AS n ORDER BY n;
INSERT INTO poser_batch (uuid, target) VALUES ('hostile', 'plain');
SET search_path = regress_poser_code, pg_catalog, public;
SELECT 'a'::text = 'a'::text;
SELECT poser_batch_populate('hostile', 'list', deletes => true, unchanged => true);
UPDATE plain SET name = 'theirs' WHERE id OPERATOR(pg_catalog.=) 2;
UPDATE plain SET name = 'new' WHERE id OPERATOR(pg_catalog.=) 3;
SELECT poser_batch_refresh('hostile'), poser_batch_refresh('hostile');
SELECT sequence, operation, old, new, status, status_text FROM poser_batch_row
 WHERE batch_uuid OPERATOR(pg_catalog.=) 'hostile' ORDER BY sequence;
SELECT * FROM poser_batch_execute('hostile', skip_conflicts => true);
SELECT * FROM plain ORDER BY id;
SELECT poser_batch_purge('0') > 0 AS purged;
SET search_path = regress_poser_code, public;
DROP OPERATOR regress_poser_code.= (text, text);
DROP OPERATOR regress_poser_code.<> (text, text);
DROP OPERATOR regress_poser_code.|| (jsonb, jsonb);
DROP OPERATOR regress_poser_code.-> (jsonb, text);
SET ROLE regress_poser_clerk;

-- MERGE changes rows of batches as other statements do.
INSERT INTO poser_batch (uuid, target) VALUES ('merged', 'strict');
MERGE INTO poser_batch_row AS r USING generate_series(1, 4) AS n ON r.batch_uuid = 'merged' AND r.sequence = n
WHEN NOT MATCHED THEN INSERT (batch_uuid, sequence, key) VALUES ('merged', n, jsonb_build_object('id', n));
RESET ROLE;
MERGE INTO poser_batch_row AS r USING generate_series(1, 4) AS n ON r.batch_uuid = 'merged' AND r.sequence = n
WHEN MATCHED AND n = 1 THEN DELETE
WHEN MATCHED AND n < 4 THEN UPDATE SET removed = true;
SET ROLE regress_poser_clerk;
SELECT row_count FROM poser_batch WHERE uuid = 'merged';

-- The meaning of a reviewed batch's rows does not change.
\set VERBOSITY terse
INSERT INTO poser_batch (uuid, target, key) VALUES ('reviewed', 'pet', '{id}');
UPDATE poser_batch SET key = '{name}' WHERE uuid = 'reviewed';
UPDATE poser_batch SET complete = true WHERE uuid = 'reviewed';
UPDATE poser_batch SET key = '{id}' WHERE uuid = 'reviewed';
UPDATE poser_batch SET complete = false WHERE uuid = 'reviewed';
UPDATE poser_batch SET key = '{id}' WHERE uuid = 'reviewed';

RESET ROLE;

-- A batch is not executed if a rule keeps it from being marked as executed.
INSERT INTO poser_batch (uuid, target, key) VALUES ('ruled', 'plain', '{id}');
INSERT INTO poser_batch_row (batch_uuid, sequence, operation, key) SELECT 'ruled', id, 'delete', jsonb_build_object('id', id) FROM plain;
CREATE RULE nothing AS ON UPDATE TO poser_batch DO INSTEAD NOTHING;
SELECT * FROM poser_batch_execute('ruled');
DROP RULE nothing ON poser_batch;
SELECT row_count, executed, (SELECT count(*) > 0 FROM plain) AS has_rows FROM poser_batch WHERE uuid = 'ruled';

-- A purge says that a rule keeps it from deleting batches.
CREATE RULE nothing AS ON DELETE TO poser_batch DO INSTEAD NOTHING;
\set VERBOSITY default
SELECT poser_batch_purge('0');
DROP RULE nothing ON poser_batch;

SELECT * FROM poser_check();
DROP TABLE pet CASCADE;
SELECT object, problem FROM poser_check() WHERE object ~ 'reviewed|strict';
DROP EXTENSION poser CASCADE;
RESET search_path;
DROP SCHEMA regress_poser_code CASCADE;
DROP ROLE regress_poser_clerk;
