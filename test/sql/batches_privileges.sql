-- Which roles may make, see, edit, execute and purge batches, what no role can
-- change, and what row-level security leaves visible.

\set VERBOSITY sqlstate
SET client_min_messages = warning;
-- Role regress_poser_owner with schema regress_poser.
\getenv test PG_ABS_SRCDIR
\set file :test '/include/owner.sql'
\i :file
CREATE ROLE regress_poser_maker;
CREATE ROLE regress_poser_other;
CREATE ROLE regress_poser_nobody;
-- Batches must not get what these default privileges grant.
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC, regress_poser_maker;
ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO PUBLIC;
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
SET ROLE regress_poser_owner;
CREATE EXTENSION poser SCHEMA regress_poser;
RESET ROLE;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM PUBLIC, regress_poser_maker;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON SEQUENCES FROM PUBLIC;
ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO PUBLIC;
RESET client_min_messages;
SET search_path = regress_poser, public;
SELECT relname, relowner::regrole, relrowsecurity, relforcerowsecurity FROM pg_class
 WHERE relnamespace = 'regress_poser'::regnamespace AND relname ~ 'batch' AND relkind IN ('r', 'S') ORDER BY relname;
SELECT relname, grantee FROM pg_class, aclexplode(relacl)
 WHERE relnamespace = 'regress_poser'::regnamespace AND relname ~ 'batch' AND grantee <> relowner;
SELECT proname FROM pg_proc
 WHERE pronamespace = 'regress_poser'::regnamespace AND proname ~ 'batch|import' AND NOT has_function_privilege('regress_poser_nobody', oid, 'EXECUTE')
 ORDER BY proname;
REVOKE ALL ON poser_widget, poser_component, poser_widget_summary FROM PUBLIC, regress_poser_maker;
SET ROLE regress_poser_owner;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'One'), ('w2', 'Two'), ('w3', 'Three');
CREATE TABLE staging (uuid text, description text);
INSERT INTO staging VALUES ('w1', 'one'), ('w4', 'four');
-- Each batch has its own name.
CREATE VIEW seen WITH (security_invoker = true) AS
SELECT uuid, role_name, row_count, (SELECT count(*) FROM poser_batch_row WHERE batch_uuid = uuid) AS rows_seen, executed IS NOT NULL AS executed
  FROM poser_batch ORDER BY uuid;
GRANT SELECT ON seen TO PUBLIC;

-- A role without grants can do nothing.
SET ROLE regress_poser_nobody;
TABLE poser_batch;
TABLE poser_batch_row;
SELECT poser_batch_create('poser_widget');
SELECT nextval('poser_batch_id_seq');
SELECT setval('poser_batch_id_seq', 1);
SELECT poser_batch_refresh('a');
SELECT * FROM poser_batch_execute('a');
SELECT poser_batch_purge('0');
-- nor can it put the triggers on its own tables
CREATE TEMPORARY TABLE mine (batch_uuid varchar(32), removed bool);
CREATE TRIGGER mine AFTER INSERT ON mine REFERENCING NEW TABLE AS new_rows EXECUTE FUNCTION poser_batch_row_guard();
CREATE TRIGGER mine BEFORE INSERT ON mine FOR EACH ROW EXECUTE FUNCTION poser_batch_guard();
DROP TABLE mine;

-- The maker of a batch needs the batches' tables, but no sequence.  It needs SELECT on
-- source and target to compare, and the target's other privileges to execute.
SET ROLE regress_poser_owner;
GRANT SELECT, INSERT, UPDATE, DELETE ON poser_batch, poser_batch_row TO regress_poser_maker, regress_poser_other;
SET ROLE regress_poser_maker;
SET poser.runas = 'm. aker';
INSERT INTO poser_batch (uuid, target) VALUES ('of maker', 'poser_widget');
SELECT created_by, role_name, row_count, is_mutable FROM poser_batch;
SELECT poser_batch_populate('of maker', 'staging');
SET ROLE regress_poser_owner;
GRANT SELECT ON poser_widget TO regress_poser_maker;
SET ROLE regress_poser_maker;
SELECT poser_batch_populate('of maker', 'staging');
SET ROLE regress_poser_owner;
GRANT SELECT ON staging TO regress_poser_maker;
REVOKE SELECT ON poser_widget FROM regress_poser_maker;
SET ROLE regress_poser_maker;
SELECT poser_batch_populate('of maker', 'staging');
SET ROLE regress_poser_owner;
GRANT SELECT ON poser_widget TO regress_poser_maker;
SET ROLE regress_poser_maker;
SELECT poser_batch_populate('of maker', 'staging', deletes => true);
SELECT row_count FROM poser_batch;
-- It may not write the target.
SELECT * FROM poser_batch_execute('of maker');
SET ROLE regress_poser_owner;
SELECT uuid, executed FROM poser_batch;
SELECT * FROM poser_widget ORDER BY uuid;
GRANT INSERT, UPDATE ON poser_widget TO regress_poser_maker;
SET ROLE regress_poser_maker;
-- It may not delete from the target.
SELECT * FROM poser_batch_execute('of maker');
SELECT * FROM poser_batch_execute('of maker', skip_conflicts => true);
DELETE FROM poser_batch_row WHERE operation = 'delete';
SELECT * FROM poser_batch_execute('of maker');
SELECT uuid, executed_by, status IS NOT NULL AS status FROM poser_batch;
SELECT * FROM poser_widget ORDER BY uuid;
SET ROLE regress_poser_owner;
SELECT username, role_name, uuid, operation_type FROM poser_widget_version AS v JOIN poser_transaction AS t ON t.id = transaction_id
 WHERE role_name = 'regress_poser_maker' ORDER BY uuid;

-- An executed batch stays as it is (55000), except for the owner.
SET ROLE regress_poser_maker;
UPDATE poser_batch SET notes = 'afterthought';
UPDATE poser_batch SET complete = true;
DELETE FROM poser_batch;
UPDATE poser_batch_row SET removed = true;
DELETE FROM poser_batch_row WHERE sequence = 1;
INSERT INTO poser_batch_row (batch_uuid, sequence, key) VALUES ('of maker', 7, '{"uuid": "w7"}');
TRUNCATE poser_batch_row;
INSERT INTO poser_batch (uuid, target) VALUES ('second', 'poser_widget');
INSERT INTO poser_batch_row (batch_uuid, sequence, key) VALUES ('second', 1, '{"uuid": "w1"}'), ('second', 2, '{"uuid": "w2"}');
UPDATE poser_batch_row SET batch_uuid = 'of maker', sequence = 9 WHERE batch_uuid = 'second' AND sequence = 1;
UPDATE poser_batch_row SET batch_uuid = 'second', sequence = 9 WHERE batch_uuid = 'of maker' AND sequence = 1;
TABLE seen;
SET ROLE regress_poser_owner;
BEGIN;
UPDATE poser_batch SET notes = 'the owner''s' WHERE uuid = 'of maker';
UPDATE poser_batch_row SET status_text = 'the owner''s' WHERE batch_uuid = 'of maker';
UPDATE poser_batch SET executed = NULL, executed_by = NULL WHERE uuid = 'of maker';
SELECT uuid, is_mutable FROM poser_batch ORDER BY uuid;
DELETE FROM poser_batch WHERE uuid = 'of maker';
ROLLBACK;

-- Users cannot set these columns of a batch: 42501 or 428C9.
SET ROLE regress_poser_maker;
UPDATE poser_batch SET row_count = 0 WHERE uuid = 'second';
UPDATE poser_batch SET is_mutable = true WHERE uuid = 'second';
UPDATE poser_batch SET uuid = 'third' WHERE uuid = 'second';
UPDATE poser_batch SET id = 77 WHERE uuid = 'second';
UPDATE poser_batch SET target = 'poser_component' WHERE uuid = 'second';
UPDATE poser_batch SET created = created - interval '1 day' WHERE uuid = 'second';
UPDATE poser_batch SET created_by = 'other' WHERE uuid = 'second';
UPDATE poser_batch SET role_name = 'regress_poser_other' WHERE uuid = 'second';
UPDATE poser_batch SET executed = now() WHERE uuid = 'second';
UPDATE poser_batch SET executed_by = 'other' WHERE uuid = 'second';
UPDATE poser_batch SET description = 'new', status = 'new', notes = 'new', params = '{}', key = '{uuid}', complete = true WHERE uuid = 'second';
UPDATE poser_batch SET description = 'newer' WHERE uuid = 'second';
UPDATE poser_batch SET complete = false WHERE uuid = 'second';
TABLE seen;
-- Given values for row_count, the names and the execution are ignored.
INSERT INTO poser_batch (uuid, target, row_count, created_by, role_name, executed, executed_by)
VALUES ('pretended', 'poser_widget', 7, 'other', 'regress_poser_other', now(), 'other');
INSERT INTO poser_batch (uuid, target, created_by, role_name) VALUES ('pretended', 'poser_widget', 'other', 'regress_poser_other');
SELECT uuid, row_count, created_by, role_name, executed FROM poser_batch WHERE uuid = 'pretended';
INSERT INTO poser_batch (uuid, target, row_count) VALUES ('pretended, too', 'poser_widget', 7);
SELECT uuid, row_count FROM poser_batch WHERE uuid = 'pretended, too';
DELETE FROM poser_batch WHERE uuid ~ 'pretended';
SET ROLE regress_poser_owner;
UPDATE poser_batch SET row_count = 7 WHERE uuid = 'second';
-- The settings of a restore do not help the maker.
SET ROLE regress_poser_maker;
BEGIN;
SET LOCAL row_security = off;
SELECT set_config('search_path', '', true);
INSERT INTO regress_poser.poser_batch (uuid, target, role_name, created_by, row_count)
VALUES ('restored', 'regress_poser.poser_widget', 'regress_poser_other', '', 7);
ROLLBACK;
-- A row cannot refer to a batch that does not exist.
INSERT INTO poser_batch_row (batch_uuid, sequence, key) VALUES ('none', 1, '{}');

-- Another role sees none of the batch, and can do nothing to it.
SET ROLE regress_poser_other;
TABLE seen;
SELECT count(*) FROM poser_batch_row;
UPDATE poser_batch SET notes = 'mine';
UPDATE poser_batch_row SET removed = true;
DELETE FROM poser_batch_row;
DELETE FROM poser_batch;
INSERT INTO poser_batch_row (batch_uuid, sequence, key) VALUES ('second', 3, '{"uuid": "w3"}');
SELECT poser_batch_populate('second', 'staging');
SELECT poser_batch_refresh('second');
SELECT * FROM poser_batch_execute('second');
SELECT poser_batch_purge('0');
INSERT INTO poser_batch (uuid, target) VALUES ('of other', 'poser_component');
SELECT poser_batch_refresh('of other');
-- A role that may read all of the target sees the batches of others.
SET ROLE regress_poser_owner;
GRANT SELECT (uuid) ON poser_widget TO regress_poser_other;
SET ROLE regress_poser_other;
TABLE seen;
SET ROLE regress_poser_owner;
GRANT SELECT ON poser_widget TO regress_poser_other;
SET ROLE regress_poser_other;
TABLE seen;
UPDATE poser_batch_row SET key = '{"uuid": "w8"}', new = '{"description": "eight"}' WHERE batch_uuid = 'second' AND sequence = 1;
UPDATE poser_batch SET notes = 'seen by another' WHERE uuid = 'second';
UPDATE poser_batch SET notes = 'seen by another' WHERE uuid = 'of maker';
SELECT poser_batch_refresh('second');
SELECT * FROM poser_batch_execute('second');
-- with some of the grants
SET ROLE regress_poser_owner;
REVOKE INSERT, UPDATE, DELETE ON poser_batch, poser_batch_row FROM regress_poser_other;
SET ROLE regress_poser_other;
TABLE seen;
UPDATE poser_batch_row SET removed = true;
UPDATE poser_batch SET notes = '';
SELECT poser_batch_refresh('second');
SELECT poser_batch_create('poser_widget');
-- With the right to edit rows and to see batches, row_count follows its edits.
SET ROLE regress_poser_owner;
GRANT INSERT, UPDATE, DELETE ON poser_batch_row TO regress_poser_other;
SET ROLE regress_poser_other;
UPDATE poser_batch_row SET removed = true WHERE batch_uuid = 'second' AND sequence = 1;
TABLE seen;

-- Row-level security on the target: a role that it applies to sees only its own
-- batches.  There it compares and writes only the rows that it may.
SET ROLE regress_poser_owner;
GRANT SELECT, INSERT, UPDATE, DELETE ON poser_batch TO regress_poser_other;
GRANT SELECT, INSERT, UPDATE, DELETE ON poser_widget TO regress_poser_maker, regress_poser_other;
GRANT SELECT ON staging TO regress_poser_other;
ALTER TABLE poser_widget ENABLE ROW LEVEL SECURITY;
CREATE POLICY "some" ON poser_widget TO regress_poser_maker, regress_poser_other USING (uuid <> 'w2') WITH CHECK (uuid NOT IN ('w2', 'w5'));
TRUNCATE staging;
INSERT INTO staging VALUES ('w2', 'two'), ('w3', 'three'), ('w5', 'five'), ('w6', 'six');
SET ROLE regress_poser_other;
TABLE seen;
INSERT INTO poser_batch (uuid, target) VALUES ('of other, too', 'poser_widget');
SELECT poser_batch_populate('of other, too', 'staging', deletes => true);
SELECT operation, key, old, new FROM poser_batch_row ORDER BY key;
SELECT poser_batch_refresh('of other, too');
SELECT operation, key, status, status_text FROM poser_batch_row ORDER BY key;
SELECT * FROM poser_batch_execute('of other, too');
UPDATE poser_batch_row SET removed = true WHERE status = 'error';
SELECT * FROM poser_batch_execute('of other, too');
SET ROLE regress_poser_maker;
TABLE seen;
SET ROLE regress_poser_owner;
TABLE seen;
SELECT * FROM poser_widget ORDER BY uuid;

-- Only the owner, which sees all batches, purges.
SET ROLE regress_poser_maker;
SELECT poser_batch_purge('0');
SET ROLE regress_poser_nobody;
SELECT poser_batch_purge('0');
SET ROLE regress_poser_owner;
SELECT poser_batch_purge('0');
TABLE seen;
-- With row-level security forced on the owner, too, row_count stays right.
ALTER TABLE poser_batch FORCE ROW LEVEL SECURITY;
ALTER TABLE poser_batch_row FORCE ROW LEVEL SECURITY;
SET ROLE regress_poser_maker;
DELETE FROM poser_batch_row WHERE batch_uuid = 'second' AND sequence = 2;
TABLE seen;
SET ROLE regress_poser_owner;
SELECT * FROM poser_check();

DROP TABLE staging;
DROP VIEW seen;
DROP EXTENSION poser;
RESET ROLE;
DROP SCHEMA regress_poser;
DO $$ BEGIN EXECUTE format('REVOKE CREATE ON DATABASE %I FROM regress_poser_owner', current_database()); END $$;
DROP ROLE regress_poser_owner, regress_poser_maker, regress_poser_other, regress_poser_nobody;
