-- Drift, and what poser_check() says about it.

-- Counts are wrong because the triggers did not run: what reads do, and how
-- poser_recount() corrects them.  In version 1.1 only counts can drift.

\set VERBOSITY sqlstate
CREATE EXTENSION poser VERSION '1.1';

CREATE VIEW shown AS
SELECT uuid, component_count AS total, active_component_count AS active
  FROM poser_widget_summary
 ORDER BY uuid;
-- whether reads use the maintained counts
CREATE VIEW maintained AS
SELECT count(*) > 0 AS maintained FROM poser_component_count_settled;

INSERT INTO poser_widget (uuid, description) VALUES ('w1', ''), ('w2', ''), ('w3', '');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES
	('c1', 'w1', '', ''), ('c2', 'w1', '', ''), ('c3', 'w2', '', '');
SELECT * FROM poser_check();

--
-- session_replication_role = replica, as for replicated rows
--
SET session_replication_role = replica;
INSERT INTO poser_component (uuid, widget_uuid, item_code, description, active) VALUES
	('c4', 'w1', '', '', true), ('c5', 'w3', '', '', false);
UPDATE poser_component SET active = false WHERE uuid = 'c3';
INSERT INTO poser_widget (uuid, description) VALUES ('w4', '');
DELETE FROM poser_widget WHERE uuid = 'w2';
RESET session_replication_role;
SELECT * FROM poser_check();
-- poser_check() writes nothing, and corrects nothing
SELECT * FROM poser_check();
SELECT poser_recount();
SELECT * FROM poser_check();
TABLE shown;
SELECT widget_uuid, total, active FROM poser_component_count ORDER BY widget_uuid;
INSERT INTO poser_widget (uuid, description) VALUES ('w2', '');
TABLE shown;
SELECT poser_recount();
SELECT * FROM poser_check();

-- the difference stays until poser_recount(), whatever is written before
SET session_replication_role = replica;
DELETE FROM poser_component WHERE uuid = 'c1';
RESET session_replication_role;
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w1', '', ''), ('w2', '', '');
SELECT * FROM poser_check();
SELECT poser_recount();
TABLE shown;
SELECT poser_recount();

-- only active is wrong, only the settled row is missing, a count for no widget
UPDATE poser_component_count SET active = active + 1 WHERE widget_uuid = 'w1';
DELETE FROM poser_component_count WHERE widget_uuid = 'w4';
INSERT INTO poser_component_count VALUES ('none', 0, 0), ('five', 5, 5);
INSERT INTO poser_component_count_delta VALUES ('w3', 1, 0), ('w3', -1, 0), ('lost', 0, 0);
SELECT * FROM poser_check();
-- rolled back, the counts are as wrong as before
BEGIN;
SELECT poser_recount();
SELECT * FROM poser_check();
SELECT count(*) FROM poser_component_count_delta;
ROLLBACK;
SELECT count(*) FROM poser_check();
SELECT poser_recount();
SELECT * FROM poser_check();
SELECT widget_uuid, total, active FROM poser_component_count ORDER BY widget_uuid;
SELECT count(*) FROM poser_component_count_delta;

-- in a transaction with one snapshot, which sees the counts that it has corrected
BEGIN ISOLATION LEVEL REPEATABLE READ;
SET LOCAL session_replication_role = replica;
UPDATE poser_component SET active = NOT active;
SET LOCAL session_replication_role = origin;
SELECT poser_recount();
TABLE shown;
SELECT * FROM poser_check();
SELECT poser_recount();
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w4', '', '');
TABLE shown;
COMMIT;
SELECT * FROM poser_check();
BEGIN ISOLATION LEVEL SERIALIZABLE;
UPDATE poser_component_count SET total = total + 7;
SELECT poser_recount();
SELECT * FROM poser_check();
COMMIT;
TABLE shown;

-- everything at once
TRUNCATE poser_component_count;
SELECT count(*) FROM poser_check();
SELECT poser_recount();
SELECT * FROM poser_check();
TABLE maintained;

--
-- A disabled trigger: reads do not use the maintained counts
--
ALTER TABLE poser_component DISABLE TRIGGER poser_count_insert;
TABLE maintained;
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w1', '', ''), ('w1', '', '');
TABLE shown;
SELECT component_count FROM poser_widget_get('w1');
SELECT uuid, component_count FROM poser_widget_list();
SELECT * FROM poser_check();
ALTER TABLE poser_component ENABLE TRIGGER poser_count_insert;
SELECT * FROM poser_check();
SELECT poser_recount();
TABLE maintained;
TABLE shown;
SELECT * FROM poser_check();

-- each of the triggers
CREATE PROCEDURE each_trigger() LANGUAGE plpgsql AS $$
DECLARE
	trigger name;
BEGIN
	FOR trigger IN SELECT tgname FROM pg_trigger
	                WHERE tgrelid = 'poser_component'::regclass AND NOT tgisinternal ORDER BY tgname
	LOOP
		EXECUTE format('ALTER TABLE poser_component DISABLE TRIGGER %I', trigger);
		RAISE WARNING '% disabled: maintained %, %', trigger, (TABLE maintained), (SELECT string_agg(problem, ', ') FROM poser_check());
		EXECUTE format('ALTER TABLE poser_component ENABLE REPLICA TRIGGER %I', trigger);
		RAISE WARNING '% replica: maintained %, %', trigger, (TABLE maintained), (SELECT string_agg(problem, ', ') FROM poser_check());
		EXECUTE format('ALTER TABLE poser_component ENABLE ALWAYS TRIGGER %I', trigger);
		RAISE WARNING '% always: maintained %, %', trigger, (TABLE maintained), (SELECT string_agg(problem, ', ') FROM poser_check());
		EXECUTE format('ALTER TABLE poser_component ENABLE TRIGGER %I', trigger);
	END LOOP;
END
$$;
\set VERBOSITY terse
CALL each_trigger();
\set VERBOSITY sqlstate
TABLE maintained;
DROP PROCEDURE each_trigger;

-- a trigger more, for rows
CREATE TRIGGER never AFTER UPDATE ON poser_component FOR EACH ROW WHEN (false)
	EXECUTE FUNCTION poser_count_child('poser_component_count', 'poser_component_count_delta', 'widget_uuid', 'active');
TABLE maintained;
DROP TRIGGER never ON poser_component;

-- All triggers, as in a restore of data, and in a transaction that is rolled back.
BEGIN;
ALTER TABLE poser_component DISABLE TRIGGER USER;
DELETE FROM poser_component WHERE widget_uuid = 'w1';
TABLE shown;
SAVEPOINT a;
ALTER TABLE poser_component ENABLE TRIGGER USER;
SELECT * FROM poser_check();
ROLLBACK TO a;
TABLE shown;
ROLLBACK;
TABLE maintained;
TABLE shown;

-- The widgets' triggers: settled counts are missing or left over.  Meanwhile reads do
-- not use the maintained counts either.
ALTER TABLE poser_widget DISABLE TRIGGER USER;
INSERT INTO poser_widget (uuid, description) VALUES ('w5', '');
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w5', '', ''), ('w5', '', '');
DELETE FROM poser_component WHERE widget_uuid = 'w2';
DELETE FROM poser_widget WHERE uuid = 'w2';
TABLE shown;
TABLE maintained;
SELECT * FROM poser_check() ORDER BY object COLLATE "C";
ALTER TABLE poser_widget ENABLE TRIGGER USER;
SELECT * FROM poser_check();
SELECT poser_recount();
SELECT * FROM poser_check();
TABLE shown;

-- A trigger that is missing, or replaced by another one
BEGIN;
DROP TRIGGER poser_count_delete ON poser_component;
TABLE maintained;
DELETE FROM poser_component WHERE widget_uuid = 'w5';
TABLE shown;
SELECT * FROM poser_check();
CREATE TRIGGER poser_count_delete AFTER DELETE ON poser_component
	REFERENCING OLD TABLE AS old_rows WHEN (pg_trigger_depth() = 0)
	EXECUTE FUNCTION poser_count_child('poser_component_count', 'poser_component_count_delta', 'widget_uuid', 'active');
TABLE maintained;
TABLE shown;
SELECT * FROM poser_check();
DROP TRIGGER poser_count_delete ON poser_component;
CREATE TRIGGER poser_count_delete AFTER DELETE ON poser_component
	REFERENCING OLD TABLE AS old_rows
	EXECUTE FUNCTION poser_count_child('poser_component_count', 'poser_component_count_delta', 'widget_uuid', 'active');
SELECT poser_recount();
SELECT * FROM poser_check();
COMMIT;
TABLE maintained;
TABLE shown;

-- A trigger with other arguments
CREATE TRIGGER wrong AFTER INSERT ON poser_widget
	EXECUTE FUNCTION poser_count_child('poser_component_count', 'poser_component_count_delta', 'uuid');
INSERT INTO poser_widget (uuid, description) VALUES ('w9', '');
DROP TRIGGER wrong ON poser_widget;
CREATE TRIGGER wrong AFTER INSERT ON poser_widget FOR EACH ROW
	EXECUTE FUNCTION poser_count_child('poser_component_count', 'poser_component_count_delta', 'uuid', 'active');
INSERT INTO poser_widget (uuid, description) VALUES ('w9', '');
DROP TRIGGER wrong ON poser_widget;
CREATE TRIGGER wrong AFTER INSERT ON poser_widget
	EXECUTE FUNCTION poser_count_parent('poser_component_count');
INSERT INTO poser_widget (uuid, description) VALUES ('w9', '');
DROP TRIGGER wrong ON poser_widget;
CREATE TRIGGER wrong AFTER INSERT ON poser_widget
	EXECUTE FUNCTION poser_count_parent('poser_component_count', 'poser_component_count_delta', 'description of it');
INSERT INTO poser_widget (uuid, description) VALUES ('w9', '');
DROP TRIGGER wrong ON poser_widget;
CREATE TRIGGER wrong AFTER INSERT ON poser_widget
	EXECUTE FUNCTION poser_count_parent('poser_component_count', 'no such table', 'uuid');
INSERT INTO poser_widget (uuid, description) VALUES ('w9', '');
DROP TRIGGER wrong ON poser_widget;
CREATE TRIGGER wrong AFTER INSERT ON poser_widget
	EXECUTE FUNCTION poser_count_parent('poser_component_count', 'poser_component_count_delta', 'active');
INSERT INTO poser_widget (uuid, description) VALUES ('w9', '');
DROP TRIGGER wrong ON poser_widget;
-- A partitioned table has no rows of its own
CREATE TABLE parted (LIKE poser_widget, PRIMARY KEY (uuid)) PARTITION BY LIST (uuid);
CREATE TABLE parted_1 PARTITION OF parted DEFAULT;
INSERT INTO parted VALUES ('w9', '', true);
CREATE TRIGGER wrong BEFORE INSERT ON parted
	EXECUTE FUNCTION poser_count_child('poser_component_count', 'poser_component_count_delta', 'uuid', 'active');
INSERT INTO parted VALUES ('w8', '', true);
DROP TRIGGER wrong ON parted;
CREATE TRIGGER wrong AFTER TRUNCATE ON parted
	EXECUTE FUNCTION poser_count_child('poser_component_count', 'poser_component_count_delta', 'uuid', 'active');
TRUNCATE parted;
DROP TRIGGER wrong ON parted;
CREATE TRIGGER wrong AFTER TRUNCATE ON parted
	EXECUTE FUNCTION poser_count_parent('poser_component_count', 'poser_component_count_delta', 'uuid');
TRUNCATE parted;
DROP TRIGGER wrong ON parted;
CREATE TRIGGER wrong AFTER DELETE ON parted REFERENCING OLD TABLE AS old_rows
	EXECUTE FUNCTION poser_count_parent('poser_component_count', 'poser_component_count_delta', 'uuid');
DELETE FROM parted;
DROP TABLE parted;
SELECT poser_count_child();
SELECT poser_count_parent();

DROP VIEW shown, maintained;
DROP EXTENSION poser;

--
-- Consumers: the owner can change their tables
--
SET client_min_messages = warning;
CREATE ROLE "regress_poser_client, %s";
RESET client_min_messages;
CREATE SCHEMA "Regress Poser %s.1";
CREATE EXTENSION poser;
CREATE FUNCTION "Regress Poser %s.1"."Handle %s"(change poser_change) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF change.payload_key = 'w4' THEN
		RAISE EXCEPTION 'not %', change.payload_key;
	END IF;
	UPDATE poser_widget SET active = NOT active WHERE uuid = change.payload_key;
END
$$;
INSERT INTO poser_widget (uuid, description) SELECT 'w' || n, '' FROM generate_series(1, 5) AS n;

-- Nothing is wrong with consumers at any position,
SELECT poser_datasync_add(n, 'beginning') FROM unnest('{new,delivered,half,skipping,"all of it"}'::name[]) AS n;
SELECT poser_datasync_add('now'), poser_datasync_add('%s "''x', notify => true, own_changes => true);
SELECT poser_datasync_add(n, 'beginning', '"Regress Poser %s.1"."Handle %s"(poser_change)'::regprocedure, 'robot')
  FROM unnest('{failing,"not yet run"}'::name[]) AS n;
SELECT poser_datasync_grant('half', 'regress_poser_client, %s'), poser_datasync_grant('half', 'public');
SELECT * FROM poser_check();
SELECT count(*) FROM poser_datasync_changes('delivered');
SELECT count(*), min(change_id) AS first FROM poser_datasync_changes('half', 3) \gset
SELECT :count, poser_datasync_confirm('half', :first);
SELECT change_id AS first FROM poser_datasync_changes('skipping', 1) \gset
SELECT poser_datasync_skip('skipping', :first, 'of no interest');
SELECT poser_datasync_confirm('all of it', max(change_id)) FROM poser_datasync_changes('all of it');
SELECT poser_datasync_run('failing');
SET quote_all_identifiers = on;
SELECT poser_datasync_add('quoted', handler => '"Regress Poser %s.1"."Handle %s"(poser_change)'::regprocedure);
SELECT * FROM poser_check();
SELECT poser_datasync_drop('quoted');
RESET quote_all_identifiers;
SELECT consumer, pending, attempts, last_error FROM poser_datasync_status ORDER BY consumer COLLATE "C";
SELECT * FROM poser_check();
-- nor while transactions run,
BEGIN;
INSERT INTO poser_widget (uuid, description) VALUES ('w6', '');
SELECT poser_datasync_add('added'), poser_datasync_drop('new');
SELECT poser_datasync_run('not yet run', 1);
SELECT (SELECT count(*) FROM poser_datasync_changes('now')) AS changes, (SELECT count(*) FROM poser_check()) AS problems;
SELECT * FROM poser_check();
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
DELETE FROM poser_widget WHERE uuid = 'w5';
SELECT count(*) FROM poser_datasync_changes('now');
SELECT * FROM poser_check();
COMMIT;
SELECT * FROM poser_check();
-- nor after they were restored.
INSERT INTO poser_datasync_consumer
SELECT (jsonb_populate_record(c, jsonb_build_object('consumer', consumer || ' again'))).*
  FROM poser_datasync_consumer AS c;
SELECT * FROM poser_check();
DELETE FROM poser_datasync_consumer WHERE consumer LIKE '% again';
DELETE FROM poser_datasync_consumer WHERE consumer NOT IN ('half', 'failing', '%s "''x');

-- Columns, constraints and indexes
ALTER TABLE poser_datasync_consumer ALTER own_changes DROP DEFAULT, ALTER attempts DROP NOT NULL,
	ALTER settled TYPE numeric, DROP COLUMN delivered, DROP CONSTRAINT poser_datasync_consumer_pkey;
ALTER TABLE poser_datasync_consumer RENAME COLUMN notify TO shout;
ALTER TABLE poser_datasync_skipped ALTER reason DROP NOT NULL, DROP COLUMN error, SET UNLOGGED;
ALTER TABLE poser_transaction DROP COLUMN consumer;
ALTER VIEW poser_datasync_status RENAME COLUMN age TO years;
ALTER TYPE poser_change RENAME ATTRIBUTE payload TO content;
DROP INDEX poser_transaction_idx_xact;
CREATE TABLE consumer_child () INHERITS (poser_datasync_consumer);
SELECT * FROM poser_check();
-- The writers do not fail.
DELETE FROM poser_widget WHERE uuid = 'w4';
SELECT count(*) FROM poser_datasync_changes('half');
SELECT poser_datasync_run('failing');
SELECT poser_datasync_add('another');
DROP TABLE consumer_child;
ALTER TABLE poser_datasync_consumer RENAME COLUMN shout TO notify;
ALTER TABLE poser_datasync_consumer ALTER own_changes SET DEFAULT false, ALTER attempts SET NOT NULL,
	ALTER settled TYPE bigint, ADD COLUMN delivered bigint NOT NULL DEFAULT 0,
	ADD CONSTRAINT poser_datasync_consumer_pkey PRIMARY KEY (consumer);
ALTER TABLE poser_datasync_skipped ALTER reason SET NOT NULL, ADD COLUMN error text, SET LOGGED;
ALTER TABLE poser_transaction ADD COLUMN consumer name;
ALTER VIEW poser_datasync_status RENAME COLUMN years TO age;
ALTER TYPE poser_change RENAME ATTRIBUTE content TO payload;
CREATE INDEX poser_transaction_idx_xact ON poser_transaction (xact) WHERE consumer IS NULL;
SELECT * FROM poser_check();
DROP INDEX poser_transaction_idx_xact;
CREATE INDEX poser_transaction_idx_xact ON poser_transaction (xact);
SELECT * FROM poser_check();

-- Renamed relations
ALTER TABLE poser_datasync_consumer RENAME TO consumer_elsewhere;
ALTER TABLE poser_datasync_skipped RENAME TO skipped_elsewhere;
ALTER VIEW poser_datasync_status RENAME TO status_elsewhere;
CREATE TABLE poser_datasync_status (consumer name);
SELECT * FROM poser_check() WHERE object NOT LIKE 'column%' AND object NOT LIKE 'trigger%';
SELECT object FROM poser_check() WHERE object LIKE 'trigger%';
SELECT count(*) FROM poser_datasync_changes('half');
DROP TABLE poser_datasync_status;
ALTER TABLE consumer_elsewhere RENAME TO poser_datasync_consumer;
ALTER TABLE skipped_elsewhere RENAME TO poser_datasync_skipped;
ALTER VIEW status_elsewhere RENAME TO poser_datasync_status;
ALTER TYPE poser_change RENAME TO change_elsewhere;
SELECT * FROM poser_check() WHERE object LIKE 'type%';
ALTER TYPE change_elsewhere RENAME TO poser_change;
-- and relations of another owner
ALTER VIEW poser_datasync_status OWNER TO "regress_poser_client, %s";
SELECT * FROM poser_check();
ALTER VIEW poser_datasync_status OWNER TO CURRENT_USER;
ALTER TABLE poser_datasync_consumer OWNER TO "regress_poser_client, %s";
ALTER TABLE poser_datasync_consumer ENABLE ROW LEVEL SECURITY;
ALTER TABLE poser_datasync_skipped OWNER TO "regress_poser_client, %s";
SELECT object, replace(problem, current_user, 'the owner') AS problem FROM poser_check();
ALTER TABLE poser_datasync_consumer OWNER TO CURRENT_USER;
ALTER TABLE poser_datasync_consumer DISABLE ROW LEVEL SECURITY;
ALTER TABLE poser_datasync_skipped OWNER TO CURRENT_USER;
SELECT * FROM poser_check();

-- Triggers
CREATE PROCEDURE each_trigger() LANGUAGE plpgsql AS $$
DECLARE
	trigger record;
	state text;
BEGIN
	FOR trigger IN SELECT tgname, tgenabled FROM pg_trigger
	                WHERE tgrelid = 'poser_datasync_consumer'::regclass AND NOT tgisinternal ORDER BY tgname
	LOOP
		FOREACH state IN ARRAY ARRAY['DISABLE', 'ENABLE', 'ENABLE REPLICA', 'ENABLE ALWAYS'] LOOP
			EXECUTE format('ALTER TABLE poser_datasync_consumer %s TRIGGER %I', state, trigger.tgname);
			RAISE WARNING '% %: %', trigger.tgname, lower(state), (SELECT string_agg(problem, ', ') FROM poser_check());
		END LOOP;
		EXECUTE format('ALTER TABLE poser_datasync_consumer ENABLE %s TRIGGER %I',
					   CASE trigger.tgenabled WHEN 'R' THEN 'REPLICA' ELSE 'ALWAYS' END, trigger.tgname);
	END LOOP;
END
$$;
\set VERBOSITY terse
CALL each_trigger();
\set VERBOSITY sqlstate
SELECT * FROM poser_check();
DROP PROCEDURE each_trigger;
DROP TRIGGER poser_datasync_changed ON poser_datasync_consumer;
DROP TRIGGER poser_datasync_arrive ON poser_datasync_consumer;
SELECT * FROM poser_check();
CREATE TRIGGER poser_datasync_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON poser_datasync_consumer
	FOR EACH STATEMENT EXECUTE FUNCTION poser_datasync_changed();
ALTER TABLE poser_datasync_consumer ENABLE ALWAYS TRIGGER poser_datasync_changed;
CREATE TRIGGER poser_datasync_arrive AFTER INSERT ON poser_datasync_consumer
	FOR EACH ROW EXECUTE FUNCTION poser_datasync_arrive();
ALTER TABLE poser_datasync_consumer ENABLE ALWAYS TRIGGER poser_datasync_arrive;
SELECT * FROM poser_check();
SELECT poser_datasync_add('another');
DROP TRIGGER poser_datasync_changed ON poser_datasync_consumer;
DROP TRIGGER poser_datasync_arrive ON poser_datasync_consumer;
CREATE TRIGGER poser_datasync_changed AFTER INSERT OR UPDATE OF notify OR DELETE OR TRUNCATE ON poser_datasync_consumer
	FOR EACH STATEMENT EXECUTE FUNCTION poser_datasync_changed();
CREATE TRIGGER poser_datasync_arrive BEFORE INSERT ON poser_datasync_consumer
	FOR EACH ROW EXECUTE FUNCTION poser_datasync_arrive();
ALTER TABLE poser_datasync_consumer ENABLE ALWAYS TRIGGER poser_datasync_changed, ENABLE ALWAYS TRIGGER poser_datasync_arrive;
SELECT * FROM poser_check();

-- Contents of the rows
UPDATE poser_datasync_consumer SET handler = v.handler
  FROM (VALUES ('half'::name, 'no such('), ('failing', 'Regress Poser %s.1.Handle %s'), ('%s "''x', 'pg_catalog.now')) AS v (consumer, handler)
 WHERE poser_datasync_consumer.consumer = v.consumer;
SELECT * FROM poser_check() ORDER BY object COLLATE "C";
UPDATE poser_datasync_consumer SET handler = '' WHERE consumer = 'half';
SELECT * FROM poser_check() ORDER BY object COLLATE "C";
UPDATE poser_datasync_consumer SET handler = NULL WHERE consumer <> 'failing';
UPDATE poser_datasync_consumer SET handler = '"Regress Poser %s.1"."Handle %s"' WHERE consumer = 'failing';
SELECT * FROM poser_check();
ALTER FUNCTION "Regress Poser %s.1"."Handle %s" RENAME TO handle;
SELECT * FROM poser_check();
ALTER FUNCTION "Regress Poser %s.1".handle RENAME TO "Handle %s";
ALTER SCHEMA "Regress Poser %s.1" RENAME TO regress_poser;
SELECT * FROM poser_check();
UPDATE poser_datasync_consumer SET handler = 'regress_poser."Handle %s"' WHERE consumer = 'failing';
SELECT * FROM poser_check();
DROP FUNCTION regress_poser."Handle %s";
CREATE FUNCTION regress_poser."Handle %s"(other record) RETURNS void LANGUAGE plpgsql AS 'BEGIN END';
SELECT * FROM poser_check();
DROP FUNCTION regress_poser."Handle %s";
UPDATE poser_datasync_consumer SET handler = NULL WHERE consumer = 'failing';
SELECT * FROM poser_check();

-- Versions compare as numbers: 1.10 is expected to have all that 1.4 has.
CREATE FUNCTION problems_in(version text) RETURNS TABLE (object text, problem text) LANGUAGE plpgsql AS $$
BEGIN
	UPDATE pg_extension SET extversion = version WHERE extname = 'poser';
	RETURN QUERY SELECT * FROM poser_check();
	UPDATE pg_extension SET extversion = '1.4' WHERE extname = 'poser';
END
$$;
BEGIN;
DROP INDEX poser_component_idx_widget, poser_component_version_idx_widget, poser_transaction_idx_xact;
ALTER TABLE poser_datasync_consumer ENABLE ROW LEVEL SECURITY;
ALTER TABLE poser_batch DISABLE ROW LEVEL SECURITY;
SET LOCAL session_replication_role = replica;
UPDATE poser_widget SET description = 'past' WHERE uuid = 'w1';
UPDATE poser_batch SET row_count = 7;
UPDATE poser_datasync_consumer SET roles = '{none}' WHERE consumer = 'half';
SET LOCAL session_replication_role = origin;
SELECT version, object, problem
  FROM unnest('{1.1,1.2,1.3,1.4,1.9,1.10,1.10.1,2.0,10.0,next}'::text[]) WITH ORDINALITY AS v (version, n), problems_in(version) ORDER BY n, object COLLATE "C";
-- A function that is not a member does not report that all is well.
ALTER EXTENSION poser DROP FUNCTION poser_check(regclass);
SELECT * FROM poser_check() ORDER BY object COLLATE "C";
ROLLBACK;
DROP FUNCTION problems_in;
SELECT * FROM poser_check();

-- The tables have another owner, which may not read the rest: rows are not checked,
-- and neither counts nor versions are corrected.
ALTER TABLE poser_widget OWNER TO "regress_poser_client, %s";
ALTER TABLE poser_component OWNER TO "regress_poser_client, %s";
SELECT * FROM poser_check();
SELECT poser_recount();
SELECT poser_record_versions();
UPDATE poser_widget SET active = NOT active WHERE uuid = 'w2';
-- the grants that it needs, one after another
GRANT SELECT ON poser_component_count, poser_component_count_delta TO "regress_poser_client, %s";
SELECT object, problem FROM poser_check() WHERE problem LIKE '%poser_component_count%';
SELECT poser_recount();
GRANT SELECT ON poser_change_id_seq, poser_transaction, poser_version_horizon, poser_widget_version, poser_component_version,
	poser_batch, poser_batch_row, poser_datasync_consumer TO "regress_poser_client, %s";
SELECT * FROM poser_check();
GRANT SELECT ON poser_batch_id_seq TO "regress_poser_client, %s";
SELECT * FROM poser_check();
SELECT poser_record_versions();
SET session_replication_role = replica;
UPDATE poser_widget SET description = 'past' WHERE uuid = 'w2';
RESET session_replication_role;
SELECT * FROM poser_check();
SELECT poser_record_versions();
-- row-level security hides rows from it
ALTER TABLE poser_widget_version ENABLE ROW LEVEL SECURITY;
SELECT * FROM poser_check();
SELECT poser_record_versions();
ALTER TABLE poser_widget_version DISABLE ROW LEVEL SECURITY;
-- the owner of only one table
ALTER TABLE poser_widget OWNER TO CURRENT_USER;
SELECT * FROM poser_check();
SELECT poser_recount();
GRANT SELECT ON poser_widget TO "regress_poser_client, %s";
SELECT poser_recount();
-- without access to the schema
BEGIN;
REVOKE USAGE ON SCHEMA public FROM public;
SELECT count(*) FROM poser_check();
SELECT poser_recount();
ROLLBACK;
ALTER TABLE poser_component OWNER TO CURRENT_USER;
REVOKE ALL ON poser_widget, poser_component, poser_component_count, poser_component_count_delta, poser_change_id_seq, poser_transaction, poser_version_horizon,
	poser_widget_version, poser_component_version, poser_batch, poser_batch_row, poser_batch_id_seq, poser_datasync_consumer FROM "regress_poser_client, %s";
SELECT * FROM poser_check();

-- Rows that bypassed the triggers and were changed later
SET session_replication_role = replica;
INSERT INTO poser_widget (uuid, description) VALUES ('w10', ''), ('w11', ''), ('w12', ''), ('w13', '');
DELETE FROM poser_widget WHERE uuid = 'w1';
RESET session_replication_role;
UPDATE poser_widget SET description = 'changed' WHERE uuid IN ('w10', 'w13');
UPDATE poser_widget SET description = 'changed again' WHERE uuid = 'w10';
DELETE FROM poser_widget WHERE uuid IN ('w11', 'w13');
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'again');
SET session_replication_role = replica;
INSERT INTO poser_widget (uuid, description) VALUES ('w13', 'again');
RESET session_replication_role;
UPDATE poser_widget SET description = 'again and again' WHERE uuid = 'w13';
-- and a row of a child table, changed through its parent
CREATE TABLE widget_child () INHERITS (poser_widget);
INSERT INTO widget_child (uuid, description) VALUES ('w14', '');
UPDATE poser_widget SET active = false WHERE uuid = 'w14';
CREATE VIEW problems AS SELECT regexp_replace(object || ' ' || problem, 'change [0-9]+|change_id = [0-9]+', 'change N', 'g') AS problem FROM poser_check() WHERE object LIKE 'widget%';
SELECT poser_recount() > 0 AS counted;
TABLE problems;
BEGIN;
SELECT poser_record_versions();
TABLE problems;
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT poser_record_versions();
COMMIT;
SELECT poser_record_versions();
SELECT uuid, operation, description FROM unnest('{w1,w10,w11,w12,w13,w14}'::text[]) AS w, poser_widget_history(w);
SELECT uuid, operation_type, description FROM poser_widget_version WHERE uuid IN ('w10', 'w13') ORDER BY uuid, change_id;
-- A history that begins with a delete cannot be completed.  The DELETE in the message
-- removes the problem.
TABLE problems;
DO $$BEGIN EXECUTE (SELECT substring(problem, '[(](DELETE .*) removes it[)]') FROM poser_check() WHERE problem LIKE '%DELETE%'); END$$;
TABLE problems;
DROP TABLE widget_child;
SELECT poser_recount(), poser_record_versions();
SELECT * FROM poser_check();
-- Pruned history is no problem.
UPDATE poser_widget SET description = 'last';
BEGIN;
TRUNCATE poser_datasync_consumer;
SELECT poser_prune_versions('0') > 0 AS pruned;
SELECT count(*) > 0 AS without_insert FROM poser_widget_version WHERE operation_type = 1;
SELECT poser_record_versions();
SELECT * FROM poser_check();
ROLLBACK;
DROP VIEW problems;

DROP ROLE "regress_poser_client, %s";
UPDATE poser_datasync_consumer SET roles = '{NULL}' WHERE consumer = 'failing';
SELECT * FROM poser_check();
SELECT poser_datasync_revoke('half', 'regress_poser_client, %s');
SELECT * FROM poser_check();

UPDATE poser_datasync_consumer SET from_snapshot = '9000000000000:9000000000000:' WHERE consumer = 'half';
UPDATE poser_datasync_consumer SET to_snapshot = '1:9000000000000:' WHERE consumer = 'failing';
SELECT * FROM poser_check();
UPDATE poser_datasync_consumer SET from_snapshot = NULL, to_snapshot = NULL, confirmed = 1000000 WHERE consumer IN ('half', 'failing');
SELECT * FROM poser_check();
SELECT poser_datasync_drop('half'), poser_datasync_drop('failing'), poser_datasync_add('half', 'beginning');
SELECT * FROM poser_check();
TRUNCATE poser_datasync_consumer;
SELECT * FROM poser_check();

DROP SCHEMA regress_poser;
DROP EXTENSION poser;
