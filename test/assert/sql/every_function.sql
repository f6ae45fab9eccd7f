-- Each C function of the extension is called while every catalog look-up empties the
-- caches.  A pointer into a cache that is kept too long then points to wiped memory.
-- A server with assertions is needed.

\set VERBOSITY terse
SET client_min_messages = error;
CREATE EXTENSION poser;
CREATE TABLE source (uuid text, description text);
CREATE TABLE handled (change_id bigint);
CREATE FUNCTION handle(poser_change) RETURNS void LANGUAGE sql AS 'INSERT INTO handled VALUES (($1).change_id)';
CREATE FUNCTION refuse(poser_change) RETURNS void LANGUAGE sql AS 'SELECT 1 / 0';
-- a policy, a user's index, and a type that is coerced to a length
CREATE ROLE regress_poser_reader;
GRANT SELECT ON poser_widget, poser_component, poser_widget_version, poser_component_version, poser_widget_summary TO regress_poser_reader;
ALTER TABLE poser_widget ENABLE ROW LEVEL SECURITY;
CREATE POLICY from_w2 ON poser_widget TO regress_poser_reader USING (uuid > 'w1');
CREATE INDEX own ON poser_component_version (lower(description));
ALTER TABLE poser_component ALTER description TYPE varchar(300);
SET track_functions = 'all';
SET debug_discard_caches = 1;

-- writing
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one'), ('w2', 'two'), ('w3', 'three');
INSERT INTO poser_component (widget_uuid, item_code, description)
	SELECT 'w' || n % 2 + 1, n, 'component ' || n FROM generate_series(1, 4) AS n;
UPDATE poser_component SET active = false, widget_uuid = 'w2' WHERE item_code = '1';
UPDATE poser_widget SET uuid = 'w4' WHERE uuid = 'w3';
DELETE FROM poser_component WHERE item_code = '4';
DELETE FROM poser_widget WHERE uuid = 'w4';
SELECT * FROM poser_widget_summary ORDER BY uuid;
BEGIN;
TRUNCATE poser_component;
TRUNCATE poser_widget CASCADE;
SELECT count(*) FROM poser_widget_summary;
ROLLBACK;
SELECT poser_recount();

-- reading
SELECT * FROM poser_widget_get('w2');
SELECT * FROM poser_widget_list('o');
SELECT operation, changed, description FROM poser_widget_history('w4');
SELECT operation, changed, relation, item_code FROM poser_widget_history('w2', with_components => true);
SELECT operation, description FROM poser_component_history((SELECT uuid FROM poser_component WHERE item_code = '2'));
SELECT uuid, description FROM poser_widget_as_of('infinity');
SELECT item_code, widget_uuid, active FROM poser_component_as_of('infinity') ORDER BY item_code;
SET ROLE regress_poser_reader;
SELECT uuid, component_count FROM poser_widget_summary;
SELECT uuid, component_count FROM poser_widget_get('w2');
SELECT uuid FROM poser_widget_as_of('infinity');
SELECT count(*) FROM poser_widget_history('w1');
RESET ROLE;

-- reverting, correcting, pruning
SELECT poser_widget_revert('w2', (SELECT min(transaction_id) FROM poser_component_version), with_components => true);
SELECT uuid, component_count FROM poser_widget_summary ORDER BY uuid;
ALTER TABLE poser_component DISABLE TRIGGER USER;
UPDATE poser_component SET active = NOT active;
ALTER TABLE poser_component ENABLE TRIGGER USER;
SELECT problem FROM poser_check() ORDER BY object COLLATE "C";
SELECT poser_record_versions(), poser_recount();
INSERT INTO poser_transaction (id, issued_at, username, role_name, xact) VALUES (0, '2000-01-01', 'x', 'x', '3');

-- importing
INSERT INTO source VALUES ('w2', 'second'), ('w5', 'five');
SELECT key, operation FROM poser_import_diff('source', 'poser_widget', '{uuid}');
SELECT created, updated, deleted FROM poser_import('source', 'poser_widget', '{uuid}');
INSERT INTO source VALUES ('w6', 'six');
SELECT poser_batch_create('poser_widget', 'batch') AS batch \gset
SELECT poser_batch_populate(:'batch', 'source', '{uuid}');
UPDATE poser_batch_row SET new = new || '{"description": "sixth"}' WHERE operation = 'create';
SELECT poser_batch_refresh(:'batch');
SELECT created, updated FROM poser_batch_execute(:'batch');
SELECT poser_batch_purge('0');

-- consumers
SELECT poser_datasync_add('asks', 'beginning');
SELECT poser_datasync_add('called', 'beginning', handler => 'handle(poser_change)', notify => true);
SELECT poser_datasync_grant('asks', 'regress_poser_reader'), poser_datasync_revoke('asks', 'regress_poser_reader');
SELECT count(*) > 10 AS many FROM poser_datasync_changes('asks');
SELECT poser_datasync_confirm('asks', min(change_id)) FROM poser_datasync_changes('asks', 3);
SELECT poser_datasync_run('called') > 10 AS many;
SELECT count(*) > 10 AS handled FROM handled;
SELECT pending FROM poser_datasync_pending('called');
INSERT INTO poser_widget (uuid, description) VALUES ('w7', 'seven');
UPDATE poser_datasync_consumer SET handler = 'public.refuse' WHERE consumer = 'called';
SELECT poser_datasync_run('called');
SELECT poser_datasync_skip('called', (SELECT max(change_id) FROM poser_widget_version), 'refused');
SELECT poser_datasync_drop('asks'), poser_datasync_drop('called');
SELECT poser_prune_versions('0') > 0 AS pruned;
SELECT * FROM poser_check();

-- no function is missing
RESET debug_discard_caches;
SELECT pg_stat_force_next_flush();
SELECT oid::regprocedure AS "not called"
  FROM pg_proc
 WHERE prolang = (SELECT oid FROM pg_language WHERE lanname = 'c')
   AND oid IN (SELECT objid FROM pg_depend
                WHERE classid = 'pg_proc'::regclass AND deptype = 'e'
                  AND refclassid = 'pg_extension'::regclass
                  AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'poser'))
   AND oid NOT IN (SELECT funcid FROM pg_stat_user_functions);

DROP EXTENSION poser CASCADE;
DROP TABLE source, handled;
DROP ROLE regress_poser_reader;
