-- ALTER EXTENSION poser UPDATE: from 1.0 with rows, from 1.2 with a history, from 1.3
-- with batches, and from 1.4 with consumers.

\set VERBOSITY sqlstate
CREATE EXTENSION poser VERSION '1.0';
INSERT INTO poser_widget (uuid, description, active) VALUES
	('w1', 'one', true), ('w2', 'two', false), ('w3', 'none', true);
INSERT INTO poser_component (uuid, widget_uuid, item_code, description, active) VALUES
	('c1', 'w1', '1', 'a', true), ('c2', 'w1', '2', 'b', false), ('c3', 'w2', '3', 'c', true);
CREATE TABLE widget_before AS TABLE poser_widget;
CREATE TABLE component_before AS TABLE poser_component;

-- A user's own objects on the tables stay.
CREATE INDEX own_index ON poser_component (item_code);
ALTER TABLE poser_component ADD COLUMN own_column int DEFAULT 42;
CREATE VIEW own_view AS SELECT * FROM poser_widget;
PREPARE add AS INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w3', '', '');
EXECUTE add;
DELETE FROM poser_component WHERE widget_uuid = 'w3';

-- A rolled back update leaves nothing.
BEGIN;
ALTER EXTENSION poser UPDATE;
SELECT uuid, component_count, active_component_count FROM poser_widget_summary ORDER BY uuid;
SELECT * FROM poser_check();
ROLLBACK;
SELECT extversion FROM pg_extension WHERE extname = 'poser';
SELECT to_regclass('poser_component_count'), to_regclass('poser_widget_summary'), to_regproc('poser_widget_get');
SELECT tgname FROM pg_trigger WHERE tgrelid IN ('poser_widget'::regclass, 'poser_component'::regclass) AND NOT tgisinternal;
EXECUTE add;

-- The update, in a transaction that writes before and after.
BEGIN;
DELETE FROM poser_component WHERE widget_uuid = 'w3';
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c4', 'w3', '', '');
ALTER EXTENSION poser UPDATE;
DELETE FROM poser_component WHERE uuid = 'c4';
SELECT uuid, component_count, active_component_count FROM poser_widget_list();
COMMIT;
SELECT extversion FROM pg_extension WHERE extname = 'poser';
SELECT * FROM poser_check();

-- All rows are there and counted.
(TABLE widget_before EXCEPT TABLE poser_widget) UNION ALL (TABLE poser_widget EXCEPT TABLE widget_before);
(TABLE component_before EXCEPT SELECT uuid, widget_uuid, item_code, description, active FROM poser_component)
UNION ALL
(SELECT uuid, widget_uuid, item_code, description, active FROM poser_component EXCEPT TABLE component_before);
SELECT * FROM poser_widget_summary ORDER BY uuid;
SELECT * FROM poser_component_count ORDER BY widget_uuid;
SELECT * FROM poser_component_count_delta;
SELECT to_regclass('own_index') IS NOT NULL AS own_index,
       (SELECT sum(own_column) FROM poser_component) AS own_column,
       (SELECT count(*) FROM own_view) AS own_view;

-- Counting goes on.
EXECUTE add;
UPDATE poser_component SET active = NOT active;
SELECT uuid, component_count, active_component_count FROM poser_widget_list();
SET client_min_messages = warning;
ALTER EXTENSION poser UPDATE;
RESET client_min_messages;
SELECT * FROM poser_check();

-- A table with dropped columns before and between the others.
DROP VIEW own_view;
DROP EXTENSION poser;
CREATE EXTENSION poser VERSION '1.0';
ALTER TABLE poser_component ADD COLUMN gone int, ADD COLUMN own_column int DEFAULT 1;
ALTER TABLE poser_component DROP COLUMN gone;
ALTER TABLE poser_widget ADD COLUMN own_column text DEFAULT 'own';
INSERT INTO poser_widget (uuid, description) VALUES ('w1', '');
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w1', '', '');
ALTER EXTENSION poser UPDATE TO '1.1';
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w1', '', '');
ALTER TABLE poser_component DROP COLUMN own_column, ADD COLUMN another text DEFAULT 'x';
UPDATE poser_component SET active = false;
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w1', '', '');
SELECT uuid, component_count, active_component_count FROM poser_widget_list();
SELECT * FROM poser_check();

-- Empty tables.
DROP EXTENSION poser;
CREATE EXTENSION poser VERSION '1.0';
ALTER EXTENSION poser UPDATE;
SELECT * FROM poser_widget_list();
SELECT * FROM poser_check();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', '');
SELECT uuid, component_count FROM poser_widget_list();

-- An existing history is unchanged and goes on; batches are added.
DROP EXTENSION poser;
CREATE EXTENSION poser VERSION '1.2';
SET poser.comment = 'in 1.2';
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one');
UPDATE poser_widget SET description = 'One';
SELECT poser_batch_create('poser_widget');
BEGIN;
ALTER EXTENSION poser UPDATE TO '1.3';
INSERT INTO poser_batch (uuid, target) VALUES ('b', 'poser_widget');
ROLLBACK;
SELECT to_regclass('poser_batch'), to_regproc('poser_import');
BEGIN;
SET LOCAL poser.comment = 'beside the update';
ALTER EXTENSION poser UPDATE TO '1.3';
UPDATE poser_widget SET active = false;
COMMIT;
SET poser.comment = 'by batch';
INSERT INTO poser_batch (uuid, target) VALUES ('b', 'poser_widget');
INSERT INTO poser_batch_row (batch_uuid, sequence, operation, key, new)
VALUES ('b', 1, 'update', '{"uuid": "w1"}', '{"description": "first"}');
SELECT * FROM poser_batch_execute('b');
SELECT operation, changed, description, comment FROM poser_widget_history('w1');
SELECT * FROM poser_check();
RESET poser.comment;

-- Consumers are added, and get earlier changes, too.
DROP EXTENSION poser;
CREATE EXTENSION poser VERSION '1.3';
SET poser.runas = 'alice';
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one'), ('w2', 'two');
BEGIN;
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c1', 'w1', '1', 'a'), ('c2', 'w1', '2', 'b');
UPDATE poser_component SET active = false WHERE uuid = 'c1';
SAVEPOINT s;
DELETE FROM poser_component;
ROLLBACK TO s;
DELETE FROM poser_component WHERE uuid = 'c2';
COMMIT;
BEGIN;
DELETE FROM poser_component;
ROLLBACK;
SET poser.runas = 'bob';
INSERT INTO poser_batch (uuid, target) VALUES ('b', 'poser_widget'), ('open', 'poser_widget');
INSERT INTO poser_batch_row (batch_uuid, sequence, operation, key, new) VALUES
	('b', 1, 'update', '{"uuid": "w2"}', '{"description": "Two"}'),
	('b', 2, 'create', '{"uuid": "w3"}', '{"description": "three"}'),
	('open', 1, 'delete', '{"uuid": "w2"}', NULL);
SELECT created, updated FROM poser_batch_execute('b');
RESET poser.runas;
-- an update that is used and rolled back
BEGIN;
ALTER EXTENSION poser UPDATE;
SELECT poser_datasync_add('first', 'beginning', notify => true);
SELECT count(*), max(change_id) AS last FROM poser_datasync_changes('first') \gset
SELECT :count AS changes, poser_datasync_confirm('first', :last);
DELETE FROM poser_widget WHERE uuid = 'w3';
SELECT pending FROM poser_datasync_status;
SELECT * FROM poser_check();
ROLLBACK;
SELECT extversion FROM pg_extension WHERE extname = 'poser';
SELECT relname FROM pg_class WHERE relname LIKE 'poser_datasync%' OR relname LIKE '%xact';
SELECT to_regtype('poser_change'), to_regproc('poser_datasync_add');
SELECT count(*) FROM pg_attribute WHERE attrelid = 'poser_transaction'::regclass AND attname = 'consumer';
UPDATE poser_widget SET active = false WHERE uuid = 'w1';
SELECT * FROM poser_check();
-- the update, in a transaction that writes before and after
BEGIN;
UPDATE poser_widget SET description = 'before' WHERE uuid = 'w1';
ALTER EXTENSION poser UPDATE TO '1.4';
SELECT poser_datasync_add('first', 'beginning'), poser_datasync_add('from then on');
UPDATE poser_widget SET description = 'after' WHERE uuid = 'w1';
SELECT count(*) FROM poser_datasync_changes('first');
COMMIT;
DELETE FROM poser_component;
SELECT consumer, pending FROM poser_datasync_status ORDER BY consumer;
CREATE FUNCTION drain(consumer name, max_changes integer)
RETURNS TABLE (n bigint, username text, payload_type name, payload_key text, deletion boolean, payload jsonb) LANGUAGE plpgsql AS $$
DECLARE
	change poser_change;
BEGIN
	n := 0;
	LOOP
		change := NULL;
		FOR change IN SELECT * FROM poser_datasync_changes(drain.consumer, max_changes) LOOP
			n := n + 1;
			username := replace(change.username, session_user, 'the session''s');
			payload_type := change.payload_type;
			payload_key := change.payload_key;
			deletion := change.deletion;
			payload := change.payload;
			RETURN NEXT;
		END LOOP;
		EXIT WHEN change IS NULL;
		PERFORM poser_datasync_confirm(drain.consumer, change.change_id);
	END LOOP;
END
$$;
SELECT * FROM drain('first', 4);
SELECT * FROM drain('from then on', 4);
SELECT consumer, pending, attempts FROM poser_datasync_status ORDER BY consumer;
-- history, batches and their privileges are unchanged
SELECT operation, changed, description, username <> session_user AS named FROM poser_widget_history('w2');
SELECT deleted FROM poser_batch_execute('open');
SELECT payload_key, deletion FROM drain('first', 1000);
SELECT * FROM poser_check();
DROP FUNCTION drain;

-- Consumers, batches and history of 1.4 go on, also in the middle of a window.
DROP EXTENSION poser;
CREATE EXTENSION poser VERSION '1.4';
SET poser.runas = 'alice';
SELECT poser_datasync_add('polled'), poser_datasync_add('behind', 'beginning');
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one'), ('w2', 'two'), ('w3', 'three');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c1', 'w1', '1', 'a');
INSERT INTO poser_batch (uuid, target) VALUES ('b', 'poser_widget');
INSERT INTO poser_batch_row (batch_uuid, sequence, operation, key, new) VALUES
	('b', 1, 'update', '{"uuid": "w2"}', '{"description": "Two"}'),
	('b', 2, 'unchanged', '{"uuid": "w1"}', NULL);
SELECT max(change_id) AS delivered FROM poser_datasync_changes('polled', 2) \gset
RESET poser.runas;
-- an update that is used and rolled back
BEGIN;
ALTER EXTENSION poser UPDATE TO '1.5';
SELECT poser_datasync_confirm('polled', :delivered);
SELECT updated, unchanged FROM poser_batch_execute('b');
DELETE FROM poser_component;
SELECT * FROM poser_check();
ROLLBACK;
SELECT extversion FROM pg_extension WHERE extname = 'poser';
SELECT to_regproc('poser_lock_tables'), to_regproc('poser_set_owner');
SELECT * FROM poser_check();
-- the update, in a transaction that writes before and after
BEGIN;
UPDATE poser_widget SET description = 'before' WHERE uuid = 'w3';
ALTER EXTENSION poser UPDATE TO '1.5';
UPDATE poser_widget SET description = 'after' WHERE uuid = 'w3';
COMMIT;
SELECT poser_datasync_confirm('polled', :delivered);
SELECT payload_key, deletion, payload ->> 'description' AS description FROM poser_datasync_changes('polled', 2);
SELECT consumer, pending FROM poser_datasync_status ORDER BY consumer;
SELECT updated, unchanged FROM poser_batch_execute('b');
SELECT username = 'alice' AS by_alice, operation, description FROM poser_widget_history('w3');
SELECT uuid, component_count FROM poser_widget_list();
SELECT * FROM poser_check();

-- A replica identity that a user has chosen stays, unless it is the index of the old key.
DROP EXTENSION poser;
CREATE EXTENSION poser VERSION '1.4';
ALTER TABLE poser_batch_row REPLICA IDENTITY FULL;
ALTER EXTENSION poser UPDATE TO '1.5';
SELECT relreplident FROM pg_class WHERE oid = 'poser_batch_row'::regclass;
SELECT * FROM poser_local_changes();
DROP EXTENSION poser;
CREATE EXTENSION poser VERSION '1.4';
ALTER TABLE poser_batch_row REPLICA IDENTITY USING INDEX poser_batch_row_pkey;
ALTER EXTENSION poser UPDATE TO '1.5';
SELECT indexrelid::regclass FROM pg_index WHERE indrelid = 'poser_batch_row'::regclass AND indisreplident;

DEALLOCATE add;
DROP TABLE widget_before, component_before;
DROP EXTENSION poser;
