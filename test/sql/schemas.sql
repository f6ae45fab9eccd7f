-- Any schema, any search_path.

\set VERBOSITY sqlstate

-- A schema name that needs quoting, and a schema that is not on the path.
CREATE SCHEMA "Regress Poser %s.1";
CREATE EXTENSION poser SCHEMA "Regress Poser %s.1";
SELECT nspname, extrelocatable FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace WHERE extname = 'poser';
SELECT count(*) FROM pg_class WHERE relname LIKE 'poser\_%' AND relkind <> 'i' AND relnamespace <> '"Regress Poser %s.1"'::regnamespace;
SET search_path = '';
INSERT INTO "Regress Poser %s.1".poser_widget (uuid, description) VALUES ('w1', 'One'), ('w2', 'Two');
INSERT INTO "Regress Poser %s.1".poser_component (widget_uuid, item_code, description) VALUES ('w1', '', ''), ('w1', '', '');
UPDATE "Regress Poser %s.1".poser_component SET active = false;
SELECT * FROM "Regress Poser %s.1".poser_widget_summary ORDER BY uuid;
SELECT * FROM "Regress Poser %s.1".poser_widget_get('w1');
SELECT * FROM "Regress Poser %s.1".poser_widget_list('TWO');
SELECT "Regress Poser %s.1".poser_recount();
SELECT * FROM "Regress Poser %s.1".poser_check();
SELECT length("Regress Poser %s.1".poser_uuid());
CREATE FUNCTION "Regress Poser %s.1".handle("Regress Poser %s.1".poser_change) RETURNS void LANGUAGE sql AS '';
SELECT "Regress Poser %s.1".poser_datasync_add('polled', 'beginning'),
       "Regress Poser %s.1".poser_datasync_add('handled', 'beginning', '"Regress Poser %s.1".handle("Regress Poser %s.1".poser_change)');
SELECT payload_type, payload FROM "Regress Poser %s.1".poser_datasync_changes('polled', 2);
SELECT "Regress Poser %s.1".poser_datasync_run('handled', 1);
SELECT consumer, handler, pending FROM "Regress Poser %s.1".poser_datasync_status ORDER BY consumer;
SELECT * FROM "Regress Poser %s.1".poser_check();

-- The extension cannot be moved, but its schema can be renamed.
ALTER EXTENSION poser SET SCHEMA public;
ALTER SCHEMA "Regress Poser %s.1" RENAME TO regress_poser;
INSERT INTO regress_poser.poser_component (widget_uuid, item_code, description) VALUES ('w1', '', ''), ('w2', '', '');
SELECT uuid, component_count, active_component_count FROM regress_poser.poser_widget_summary ORDER BY uuid;
SELECT component_count FROM regress_poser.poser_widget_get('w1');
SELECT uuid, component_count FROM regress_poser.poser_widget_list('TWO');
-- Consumers go on, but a handler in that schema must be set again.
SELECT payload_type, payload FROM regress_poser.poser_datasync_changes('polled', 2);
SELECT regress_poser.poser_datasync_confirm('polled', max(change_id)) FROM regress_poser.poser_datasync_changes('polled');
SELECT regress_poser.poser_datasync_run('handled', 1);
SELECT * FROM regress_poser.poser_check();
UPDATE regress_poser.poser_datasync_consumer SET handler = 'regress_poser.handle' WHERE handler IS NOT NULL;
SELECT regress_poser.poser_datasync_run('handled') > 0 AS handled;
SELECT consumer, pending, attempts FROM regress_poser.poser_datasync_status ORDER BY consumer;
SELECT * FROM regress_poser.poser_check();
DELETE FROM regress_poser.poser_component WHERE active;
DELETE FROM regress_poser.poser_widget WHERE uuid = 'w2';
SELECT regress_poser.poser_recount();
SELECT * FROM regress_poser.poser_check();
SELECT uuid, component_count FROM regress_poser.poser_widget_list();

-- Another schema takes the old name, with tables of the same names.  They are not the
-- extension's.
CREATE SCHEMA "Regress Poser %s.1";
CREATE TABLE "Regress Poser %s.1".poser_widget AS SELECT * FROM regress_poser.poser_widget;
CREATE TABLE "Regress Poser %s.1".poser_component AS SELECT * FROM regress_poser.poser_component;
CREATE VIEW "Regress Poser %s.1".poser_widget_summary AS SELECT 'wrong'::varchar AS uuid;
CREATE TABLE "Regress Poser %s.1".poser_component_count ();
CREATE TABLE "Regress Poser %s.1".poser_datasync_consumer (consumer name);
CREATE VIEW "Regress Poser %s.1".poser_datasync_status AS SELECT 'wrong'::name AS consumer;
SET search_path = "Regress Poser %s.1", regress_poser;
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w1', '', '');
INSERT INTO regress_poser.poser_component (widget_uuid, item_code, description) VALUES ('w1', '', '');
SELECT component_count FROM poser_widget_get('w1');
SELECT uuid, component_count FROM poser_widget_list();
SELECT count(*) FROM poser_datasync_changes('polled');
SELECT consumer FROM poser_datasync_stale('0') ORDER BY consumer;
SELECT poser_recount();
SELECT * FROM poser_check();

-- in a transaction that renames the schema, committed and rolled back
BEGIN;
SELECT component_count FROM regress_poser.poser_widget_get('w1');
ALTER SCHEMA regress_poser RENAME TO regress_poser_2;
SELECT component_count FROM regress_poser_2.poser_widget_get('w1');
INSERT INTO regress_poser_2.poser_component (widget_uuid, item_code, description) VALUES ('w1', '', '');
SELECT component_count FROM regress_poser_2.poser_widget_get('w1');
SELECT count(*) FROM regress_poser_2.poser_datasync_changes('polled');
ROLLBACK;
SELECT count(*) FROM regress_poser.poser_datasync_changes('polled');
SELECT component_count FROM regress_poser.poser_widget_get('w1');
INSERT INTO regress_poser.poser_component (widget_uuid, item_code, description) VALUES ('w1', '', '');
SELECT component_count FROM regress_poser.poser_widget_get('w1');

-- A function with its own search_path, and pg_catalog first
SET search_path = pg_catalog;
CREATE FUNCTION pg_temp.write(widget varchar) RETURNS bigint LANGUAGE sql SET search_path = pg_temp AS $$
	INSERT INTO regress_poser.poser_component (widget_uuid, item_code, description) VALUES (widget, '', '');
	SELECT component_count FROM regress_poser.poser_widget_get(widget);
$$;
SELECT pg_temp.write('w1');
-- temporary tables of the same names, which come first on every path
CREATE TEMPORARY TABLE poser_widget (uuid int);
CREATE TEMPORARY TABLE poser_component (uuid int);
CREATE TEMPORARY TABLE poser_component_count (uuid int);
CREATE TEMPORARY TABLE poser_component_count_delta (uuid int);
CREATE TEMPORARY TABLE poser_widget_summary (uuid int);
CREATE TEMPORARY TABLE poser_datasync_consumer (consumer int);
CREATE TEMPORARY TABLE poser_transaction (id int);
CREATE TEMPORARY TABLE poser_change (change_id int);
SET search_path = regress_poser;
SELECT pg_temp.write('w1');
INSERT INTO regress_poser.poser_widget (uuid, description) VALUES ('w3', '');
SELECT uuid, component_count FROM poser_widget_list();
SELECT count(*) FROM poser_datasync_changes('polled');
SELECT poser_datasync_run('handled') > 0 AS handled;
SELECT regress_poser.poser_datasync_drop('polled');
SELECT poser_recount();
SELECT * FROM poser_check();
DROP TABLE pg_temp.poser_widget, pg_temp.poser_component, pg_temp.poser_component_count,
	pg_temp.poser_component_count_delta, pg_temp.poser_widget_summary, pg_temp.poser_datasync_consumer,
	pg_temp.poser_transaction, pg_temp.poser_change;
DROP FUNCTION pg_temp.write;

RESET search_path;
DROP FUNCTION regress_poser.handle;
DROP EXTENSION poser;
SET client_min_messages = warning;
DROP SCHEMA regress_poser, "Regress Poser %s.1" CASCADE;
RESET client_min_messages;

-- A schema whose name is a reserved word
CREATE SCHEMA "select";
CREATE EXTENSION poser SCHEMA "select";
INSERT INTO "select".poser_widget (uuid, description) VALUES ('w1', '');
INSERT INTO "select".poser_component (widget_uuid, item_code, description) VALUES ('w1', '', '');
SELECT uuid, component_count FROM "select".poser_widget_list();
SELECT "select".poser_datasync_add('polled', 'beginning');
SELECT payload_type, count(*) FROM "select".poser_datasync_changes('polled') GROUP BY payload_type ORDER BY payload_type;
SELECT "select".poser_recount();
SELECT * FROM "select".poser_check();
DROP EXTENSION poser;
DROP SCHEMA "select";
