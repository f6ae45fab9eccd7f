-- Handlers: functions that poser_datasync_run() calls for each change.

\set VERBOSITY terse
CREATE EXTENSION poser;
CREATE TABLE handled (n int GENERATED ALWAYS AS IDENTITY, change_id bigint, key text, deletion bool,
	runas text DEFAULT current_setting('poser.runas'), role name DEFAULT current_user);
CREATE TABLE poison (key text, how text);
CREATE FUNCTION handle(poser_change) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	how text := (SELECT how FROM poison WHERE key = ($1).payload_key);
BEGIN
	INSERT INTO handled (change_id, key, deletion) VALUES (($1).change_id, ($1).payload_key, ($1).deletion);
	IF how = 'raise' THEN
		RAISE EXCEPTION 'cannot take "%"', ($1).payload_key USING ERRCODE = 'ZX001';
	ELSIF how = 'divide' THEN
		PERFORM 1 / 0;
	ELSIF how = 'commit' THEN
		COMMIT;
	ELSIF how = 'cancel' THEN
		PERFORM pg_cancel_backend(pg_backend_pid());
		PERFORM pg_sleep(60);
	END IF;
END
$$;
CREATE VIEW status AS
	SELECT consumer, pending, attempts, last_error, failed_change_id, last_failed_at IS NOT NULL AS failed, last_confirmed_at IS NOT NULL AS confirmed
	  FROM poser_datasync_status ORDER BY consumer;
INSERT INTO poser_widget (uuid, description) VALUES ('a', 'A'), ('b', 'B'), ('c', 'C'), ('d', 'D'), ('e', 'E');

SELECT poser_datasync_add('hq', 'beginning', handler => 'handle(poser_change)'::regprocedure, runas => 'datasync');
SELECT consumer, handler, runas FROM poser_datasync_status;
SELECT poser_datasync_run('hq', 2);
SELECT poser_datasync_run('hq', 1);
SELECT change_id, key, deletion, runas, role = current_user AS role FROM handled ORDER BY n;
SELECT * FROM status;
SELECT current_setting('poser.runas') = '' AS "as before";

-- An error ends the call.  The changes before it stay handled.
INSERT INTO poison VALUES ('e', 'raise');
SELECT poser_datasync_run('hq');
SELECT * FROM status;
SELECT change_id, key FROM handled WHERE n > 3 ORDER BY n;
INSERT INTO poser_widget (uuid, description) VALUES ('f', 'F');
DELETE FROM poser_widget WHERE uuid = 'a';
SELECT poser_datasync_run('hq');
SELECT * FROM status;
-- A client gets the changes that were delivered to the handler.
SELECT change_id, payload_key FROM poser_datasync_changes('hq', 1);
-- Without the error it goes on.
DELETE FROM poison;
SELECT poser_datasync_run('hq');
SELECT * FROM status;
SELECT change_id, key, deletion FROM handled WHERE n > 4 ORDER BY n;
SELECT poser_datasync_run('hq');

-- Other errors: the message is recorded, and a handler cannot end the transaction.
INSERT INTO poison VALUES ('g', 'divide'), ('h', 'commit');
INSERT INTO poser_widget (uuid, description) VALUES ('g', 'G'), ('h', 'H'), ('i', 'I');
SELECT poser_datasync_run('hq');
SELECT * FROM status;
-- A change is skipped, which leaves a record.
SELECT poser_datasync_skip('hq', change_id + 1, 'another') FROM poser_datasync_changes('hq', 1);
SET poser.runas = 'carol';
SELECT poser_datasync_skip('hq', change_id, 'nobody divides by 0') FROM poser_datasync_changes('hq', 1);
RESET poser.runas;
SELECT * FROM status;
SELECT poser_datasync_run('hq');
SELECT * FROM status;
SELECT poser_datasync_skip('hq', failed_change_id, 'nor commits') FROM poser_datasync_status;
SELECT poser_datasync_run('hq');
SELECT consumer, change_id, reason, username, role_name = current_user AS role, error, skipped_at <= clock_timestamp() AS at
  FROM poser_datasync_skipped ORDER BY change_id;
SELECT key FROM handled WHERE key > 'f' ORDER BY n;
-- a change that is skipped before it was delivered
INSERT INTO poser_widget (uuid, description) VALUES ('j', 'J'), ('k', 'K');
SELECT poser_datasync_skip('hq', max(change_id) - 1, 'not wanted') FROM poser_widget_version;
-- The next change has not been delivered.
SELECT poser_datasync_confirm('hq', max(change_id)) FROM poser_widget_version;
SELECT poser_datasync_run('hq');
SELECT change_id = (SELECT max(change_id) - 1 FROM poser_widget_version) AS j, error FROM poser_datasync_skipped ORDER BY change_id DESC LIMIT 1;

-- A cancel while the handler runs is an error like others, and ends the call.
INSERT INTO poison VALUES ('m', 'cancel');
INSERT INTO poser_widget (uuid, description) VALUES ('l', 'L'), ('m', 'M');
SELECT poser_datasync_run('hq');
SELECT * FROM status;
SELECT count(*) FROM handled WHERE key IN ('l', 'm');
DELETE FROM poison;
SELECT poser_datasync_run('hq');

-- The call and the handler's work are one transaction.
INSERT INTO poser_widget (uuid, description) VALUES ('n', 'N');
BEGIN;
SELECT poser_datasync_run('hq');
ROLLBACK;
SELECT count(*) FROM handled WHERE key = 'n';
SELECT poser_datasync_run('hq');

-- The handler's changes of Poser's own tables are attributed, marked, and not given
-- back to its consumer.
CREATE FUNCTION handle_here(poser_change) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF NOT ($1).deletion AND ($1).payload_type = 'poser_widget' THEN
		INSERT INTO poser_component (uuid, widget_uuid, item_code, description)
		VALUES (($1).payload_key || ' of ' || ($1).change_id, ($1).payload_key, '', ($1).payload ->> 'description');
		UPDATE poser_widget SET description = description || '!' WHERE uuid = ($1).payload_key;
	END IF;
END
$$;
SELECT poser_datasync_add('here', handler => 'handle_here(poser_change)', runas => 'here');
SELECT poser_datasync_add('all', handler => 'handle(poser_change)', own_changes => true);
SET poser.runas = 'alice';
BEGIN;
INSERT INTO poser_widget (uuid, description) VALUES ('own', 'Own');
SELECT poser_datasync_run('here');
COMMIT;
SELECT poser_datasync_run('here');
SELECT current_setting('poser.runas');
UPDATE poser_widget SET active = false WHERE uuid = 'own';
SELECT username, consumer, v.operation_type, description
  FROM poser_widget_version v JOIN poser_transaction t ON t.id = transaction_id WHERE uuid = 'own' ORDER BY change_id;
SELECT username, consumer, widget_uuid
  FROM poser_component_version v JOIN poser_transaction t ON t.id = transaction_id ORDER BY change_id;
SELECT payload_type, username, payload ->> 'description' AS description FROM poser_datasync_changes('here');
SELECT payload_type, username, payload ->> 'description' AS description FROM poser_datasync_changes('all');
SELECT consumer, pending FROM status WHERE consumer IN ('all', 'here');
SELECT poser_datasync_run('here'), poser_datasync_run('here');
UPDATE poser_datasync_consumer SET own_changes = true WHERE consumer = 'here';
UPDATE poser_datasync_consumer SET handler = 'public.handle', runas = NULL WHERE consumer = 'here';
UPDATE poser_widget SET description = 'Gets around' WHERE uuid = 'own';
SELECT poser_datasync_run('here');
SELECT runas FROM handled ORDER BY n DESC LIMIT 1;
RESET poser.runas;
SELECT poser_datasync_drop('here');
SELECT poser_datasync_drop('all');

-- A new consumer gets what an earlier consumer of the same name has changed.
SELECT poser_datasync_add('here', 'beginning', handler => 'handle_here(poser_change)');
SELECT payload_type, payload ->> 'description' AS description FROM poser_datasync_changes('here', 1000)
 WHERE payload_key = 'own' OR payload ->> 'widget_uuid' = 'own';
SELECT poser_datasync_drop('here');

-- It cannot run in the middle of a statement whose changes are to be recorded.
CREATE FUNCTION run_hq() RETURNS text LANGUAGE sql AS $$SELECT 'ran ' || poser_datasync_run('hq')$$;
UPDATE poser_widget SET description = run_hq() WHERE uuid = 'own';
SELECT poser_datasync_run('hq') > 0 AS ran;

-- An error that belongs to no change fails the call and leaves the consumer as it was.
INSERT INTO poser_widget (uuid, description) VALUES ('later', '');
ALTER TABLE poser_widget_version RENAME change_id TO other;
SELECT poser_datasync_run('hq');
ALTER TABLE poser_widget_version RENAME other TO change_id;
SELECT pending > 0 AS pending, attempts, last_error FROM status WHERE consumer = 'hq';
SELECT poser_datasync_run('hq') > 0 AS ran;
SELECT pending FROM status WHERE consumer = 'hq';
SELECT count(*) FROM handled WHERE key = 'later';

-- A handler cannot change its own consumer, but others.
CREATE FUNCTION meddle(poser_change) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF ($1).payload_key = 'other' THEN
		RAISE WARNING 'hq: %', poser_datasync_run('hq');
	ELSE
		EXECUTE format(($1).payload ->> 'description', ($1).change_id);
	END IF;
END
$$;
SELECT poser_datasync_add('meddler', handler => 'meddle(poser_change)');
INSERT INTO poser_widget (uuid, description) VALUES
	('1', 'SELECT poser_datasync_changes(''meddler'')'), ('2', 'SELECT poser_datasync_confirm(''meddler'', %s)'),
	('3', 'SELECT poser_datasync_run(''meddler'')'), ('4', 'SELECT poser_datasync_skip(''meddler'', %s, ''x'')'),
	('5', 'SELECT poser_datasync_drop(''meddler'')'), ('6', 'SELECT poser_datasync_add(''meddler'')'), ('other', '');
SELECT poser_datasync_run('meddler');
SELECT poser_datasync_skip('meddler', change_id, 'meddles') FROM poser_datasync_changes('meddler', 1);
SELECT poser_datasync_run('meddler');
SELECT poser_datasync_skip('meddler', change_id, 'meddles') FROM poser_datasync_changes('meddler', 1);
SELECT poser_datasync_run('meddler');
SELECT poser_datasync_skip('meddler', change_id, 'meddles') FROM poser_datasync_changes('meddler', 1);
SELECT poser_datasync_run('meddler');
SELECT poser_datasync_skip('meddler', change_id, 'meddles') FROM poser_datasync_changes('meddler', 1);
SELECT poser_datasync_run('meddler');
SELECT poser_datasync_skip('meddler', change_id, 'meddles') FROM poser_datasync_changes('meddler', 1);
SELECT poser_datasync_run('meddler');
SELECT poser_datasync_skip('meddler', change_id, 'meddles') FROM poser_datasync_changes('meddler', 1);
SELECT poser_datasync_run('meddler');
SELECT poser_datasync_drop('meddler');
SELECT * FROM status;

-- Deferred constraints are checked after each change, so their errors are found there.
CREATE TABLE odd (key text PRIMARY KEY, parent text REFERENCES odd DEFERRABLE INITIALLY DEFERRED);
CREATE FUNCTION defer(poser_change) RETURNS void LANGUAGE sql AS $$
	SET CONSTRAINTS odd_parent_fkey DEFERRED;
	INSERT INTO odd VALUES (($1).payload_key, ($1).payload ->> 'description');
	INSERT INTO odd SELECT ($1).payload ->> 'description' WHERE ($1).payload_key < 'q';
$$;
SELECT poser_datasync_add('deferred', handler => 'defer(poser_change)');
INSERT INTO poser_widget (uuid, description) VALUES ('o', 'o1'), ('p', 'p1'), ('q', 'q1');
SELECT poser_datasync_run('deferred');
SELECT * FROM odd ORDER BY key;
SELECT pending, attempts, last_error FROM status WHERE consumer = 'deferred';
SELECT poser_datasync_drop('deferred');

-- A handler is one function, found by its name and argument type.
CREATE SCHEMA "Odd.""place";
CREATE FUNCTION "Odd.""place"."odd name("(poser_change) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION handle(record) RETURNS void LANGUAGE plpgsql AS 'BEGIN PERFORM 1 / 0; END';
CREATE FUNCTION handle(poser_change, int DEFAULT 0) RETURNS void LANGUAGE sql AS 'SELECT 1 / 0';
CREATE FUNCTION many(poser_change) RETURNS SETOF int LANGUAGE sql AS 'SELECT 1';
CREATE PROCEDURE proc(poser_change) LANGUAGE sql AS 'SELECT 1';
SELECT poser_datasync_add('odd', handler => '"Odd.""place"."odd name("(poser_change)');
SELECT poser_datasync_add('x', handler => 'handle(record)');
SELECT poser_datasync_add('x', handler => 'handle(poser_change, int)');
SELECT poser_datasync_add('x', handler => 'many(poser_change)');
SELECT poser_datasync_add('x', handler => 'proc(poser_change)');
SELECT poser_datasync_add('x', handler => 0);
INSERT INTO poser_widget (uuid, description) VALUES ('r', 'R');
SELECT handler, poser_datasync_run('odd') FROM poser_datasync_consumer WHERE consumer = 'odd';
SELECT poser_datasync_run('hq');
DROP FUNCTION handle(poser_change);
INSERT INTO poser_widget (uuid, description) VALUES ('s', 'S');
SELECT poser_datasync_run('hq');
SELECT * FROM poser_check();
UPDATE poser_datasync_consumer SET handler = '' WHERE consumer = 'hq';
SELECT poser_datasync_run('hq');
UPDATE poser_datasync_consumer SET handler = 'handle_here' WHERE consumer = 'hq';
SELECT poser_datasync_run('hq');
UPDATE poser_datasync_consumer SET handler = 'public.handle_here; DROP TABLE handled' WHERE consumer = 'hq';
SELECT poser_datasync_run('hq');
SELECT * FROM poser_check();
UPDATE poser_datasync_consumer SET handler = 'public.handle_here' WHERE consumer = 'hq';
SELECT poser_datasync_run('hq');
SELECT * FROM poser_check();

-- A change that has no payload is an error of that change, and can be skipped.  No
-- user's cast is used to make a payload.
CREATE TYPE mood AS ENUM ('ok');
CREATE FUNCTION shown(mood) RETURNS json LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''a cast was used''; END';
CREATE CAST (mood AS json) WITH FUNCTION shown(mood);
ALTER TABLE poser_widget ADD COLUMN shy json, ADD COLUMN mood mood, ADD COLUMN moods mood[], ADD COLUMN payload text, ADD COLUMN v text, ADD COLUMN t text;
ALTER TABLE poser_widget_version ADD COLUMN shy json, ADD COLUMN mood mood, ADD COLUMN moods mood[], ADD COLUMN payload text, ADD COLUMN v text, ADD COLUMN t text;
INSERT INTO poser_widget (uuid, description, shy, mood, moods, payload)
VALUES ('x', '', '1', 'ok', '{ok}', 'X'), ('y', '', '"\u0000"', 'ok', '{ok}', 'Y'), ('z', '', '3', 'ok', '{ok}', 'Z');
SELECT poser_datasync_run('odd');
SELECT pending, attempts, last_error, failed_change_id = (SELECT change_id FROM poser_widget_version WHERE uuid = 'y') AS y
  FROM status WHERE consumer = 'odd';
SELECT poser_datasync_changes('odd');
SELECT poser_datasync_skip('odd', failed_change_id, 'is shy') FROM poser_datasync_status WHERE consumer = 'odd';
SELECT payload FROM poser_datasync_changes('odd');
SELECT poser_datasync_run('odd');

-- A handler that drops itself
CREATE FUNCTION last_one(poser_change) RETURNS void LANGUAGE plpgsql AS
	$$BEGIN DROP FUNCTION last_one(poser_change); END$$;
SELECT poser_datasync_add('last', handler => 'last_one(poser_change)');
INSERT INTO poser_widget (uuid, description) VALUES ('2nd', ''), ('3rd', '');
SELECT poser_datasync_run('last');

-- Nor is a user's cast used for a key.  Its owner is not the owner of the tables.
SET client_min_messages = warning;
CREATE ROLE regress_poser_typist;
RESET client_min_messages;
CREATE SCHEMA typist AUTHORIZATION regress_poser_typist;
SET ROLE regress_poser_typist;
CREATE TYPE typist.key AS (a text);
CREATE FUNCTION typist.shown(typist.key) RETURNS text LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''a cast was used''; END';
CREATE CAST (typist.key AS text) WITH FUNCTION typist.shown(typist.key);
RESET ROLE;
DROP EXTENSION poser CASCADE;
CREATE EXTENSION poser;
ALTER TABLE poser_component ALTER uuid DROP DEFAULT, ALTER uuid TYPE typist.key USING row(uuid)::typist.key;
ALTER TABLE poser_component_version ALTER uuid TYPE typist.key USING row(uuid)::typist.key;
INSERT INTO poser_widget (uuid, description) VALUES ('w', '');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES (row('x y')::typist.key, 'w', '', '');
SELECT poser_datasync_add('here', 'beginning');
SELECT payload_key, payload FROM poser_datasync_changes('here');
DROP EXTENSION poser;
DROP CAST (typist.key AS text);
DROP OWNED BY regress_poser_typist;
DROP ROLE regress_poser_typist;

-- Changed tables and types are an error, but added columns are none.
CREATE EXTENSION poser;
SELECT poser_datasync_add('here', 'beginning');
INSERT INTO poser_widget (uuid, description) VALUES ('a', '');
ALTER TYPE poser_change ADD ATTRIBUTE x int CASCADE, ADD ATTRIBUTE y text CASCADE;
SELECT payload_key, x, y FROM poser_datasync_changes('here');
CREATE FUNCTION last_one(poser_change) RETURNS void LANGUAGE plpgsql AS
	$$BEGIN RAISE WARNING '% % %', ($1).payload_key, ($1).x, ($1).y; END$$;
UPDATE poser_datasync_consumer SET handler = 'public.last_one';
SELECT poser_datasync_run('here');
DROP FUNCTION last_one(poser_change);
UPDATE poser_datasync_consumer SET handler = NULL;
ALTER TYPE poser_change DROP ATTRIBUTE x CASCADE;
UPDATE poser_widget SET description = 'A';
SELECT payload_key, y FROM poser_datasync_changes('here');
SELECT * FROM poser_check();
BEGIN;
ALTER TYPE poser_change ALTER ATTRIBUTE deletion TYPE text CASCADE;
SELECT poser_datasync_changes('here');
ROLLBACK;
BEGIN;
ALTER TABLE poser_transaction ALTER username TYPE int USING 5;
SELECT username FROM poser_datasync_changes('here');
ROLLBACK;
BEGIN;
ALTER TABLE poser_datasync_consumer ALTER next_settled TYPE int;
SELECT poser_datasync_changes('here');
ROLLBACK;
SELECT payload_key FROM poser_datasync_changes('here');
DROP EXTENSION poser;
DROP TABLE handled, poison, odd;
DROP TYPE mood CASCADE;
DROP SCHEMA "Odd.""place" CASCADE;
DROP FUNCTION run_hq, handle(record);
