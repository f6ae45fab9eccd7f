-- What the privileges on a tracked table and on its versions let a role do.  A change of
-- privileges holds from the next statement on, also for what a session has cached.

\set VERBOSITY terse
CREATE ROLE regress_poser_table_owner;
CREATE ROLE regress_poser_auditor;
CREATE ROLE regress_poser_group;
CREATE ROLE regress_poser_table_writer;
CREATE ROLE regress_poser_stranger;
CREATE SCHEMA extension;
CREATE EXTENSION poser SCHEMA extension;
CREATE SCHEMA owned AUTHORIZATION regress_poser_table_owner;
CREATE SCHEMA audit AUTHORIZATION regress_poser_auditor;
CREATE SCHEMA strange AUTHORIZATION regress_poser_stranger;
GRANT USAGE ON SCHEMA owned TO regress_poser_table_writer, regress_poser_stranger;
GRANT USAGE ON SCHEMA extension TO regress_poser_table_owner, regress_poser_stranger;

-- A role that owns a table, and nothing else, can do everything with it.
SET ROLE regress_poser_table_owner;
SET search_path = owned, extension;
CREATE TABLE note (id int PRIMARY KEY, secret text);
SELECT poser_track('note');
INSERT INTO note VALUES (1, 'one'), (2, 'two');
UPDATE note SET secret = 'uno' WHERE id = 1;
SELECT operation, old, new FROM poser_history('note', '{"id": 1}');
SELECT * FROM poser_as_of(NULL::note, now(), '{"id": 1}');
SELECT poser_revert('note', '{"id": 1}', min(transaction_id)) FROM note_version;
SELECT * FROM poser_check('note');
SELECT poser_record_versions('note'), poser_record_versions(), poser_prune_versions('0', target => 'note'), poser_prune_versions('0');
SELECT poser_untrack('note');
SELECT poser_track('note');
GRANT SELECT, INSERT, UPDATE, DELETE ON note TO regress_poser_table_writer;
RESET ROLE;
RESET search_path;

-- A writer needs no privilege on the versions, nor on the extension's schema.
SET ROLE regress_poser_table_writer;
INSERT INTO owned.note VALUES (3, 'three');
UPDATE owned.note SET secret = 'tres' WHERE id = 3;
DELETE FROM owned.note WHERE id = 3;
RESET ROLE;

-- The writer's session goes on to record only while the owner of the table may insert into
-- the versions: by a grant, by membership, or as a superuser.
ALTER TABLE owned.note_version OWNER TO regress_poser_auditor;
ALTER TABLE owned.note_version SET SCHEMA audit;
SET ROLE regress_poser_table_writer;
INSERT INTO owned.note VALUES (4, 'four');
RESET ROLE;
GRANT INSERT ON audit.note_version TO regress_poser_group;
GRANT regress_poser_group TO regress_poser_table_owner;
SET ROLE regress_poser_table_writer;
INSERT INTO owned.note VALUES (4, 'four');
RESET ROLE;
REVOKE regress_poser_group FROM regress_poser_table_owner;
SET ROLE regress_poser_table_writer;
INSERT INTO owned.note VALUES (5, 'five');
RESET ROLE;
GRANT INSERT ON audit.note_version TO regress_poser_table_owner;
SET ROLE regress_poser_table_writer;
INSERT INTO owned.note VALUES (5, 'five');
RESET ROLE;
REVOKE INSERT ON audit.note_version FROM regress_poser_table_owner;
SET ROLE regress_poser_table_writer;
UPDATE owned.note SET secret = 'six';
RESET ROLE;
ALTER ROLE regress_poser_table_owner SUPERUSER;
SET ROLE regress_poser_table_writer;
UPDATE owned.note SET secret = 'seven';
RESET ROLE;
ALTER ROLE regress_poser_table_owner NOSUPERUSER;
SET ROLE regress_poser_table_writer;
UPDATE owned.note SET secret = 'eight';
RESET ROLE;
GRANT INSERT ON audit.note_version TO regress_poser_table_owner;

-- The owner of the table has no part in a history that an auditor keeps.
GRANT USAGE ON SCHEMA audit TO regress_poser_table_owner, regress_poser_stranger;
SET ROLE regress_poser_table_owner;
SET search_path = owned, extension;
SELECT * FROM poser_history('note');
SELECT * FROM poser_as_of(NULL::note, now());
SELECT poser_revert('note', '{"id": 1}', 1);
SELECT poser_prune_versions('0', target => 'note');
SELECT poser_record_versions('note');
INSERT INTO audit.note_version VALUES (1, 'forged', 0, 1, 1);
UPDATE audit.note_version SET secret = 'forged';
RESET ROLE;
RESET search_path;

-- A stranger can do nothing with either table, also with SELECT on some columns.
GRANT SELECT (id, operation_type, transaction_id, change_id) ON audit.note_version TO regress_poser_stranger;
GRANT SELECT ON owned.note TO regress_poser_stranger;
SET ROLE regress_poser_stranger;
SET search_path = strange, extension;
SELECT * FROM poser_history('owned.note');
SELECT * FROM poser_history('owned.note', '{"secret": "one"}');
SELECT * FROM poser_as_of(NULL::owned.note, now());
SELECT poser_revert('owned.note', '{"id": 1}', 1);
SELECT poser_track('owned.note');
SELECT poser_untrack('owned.note');
SELECT poser_check('owned.note');
SELECT poser_record_versions('owned.note');
SELECT poser_prune_versions('0', target => 'owned.note');
SELECT poser_prune_versions('0', target => 'owned.note', match => '{"id": 1}', gone => true);
SELECT poser_prune_versions('0');
SELECT poser_record_versions();
SELECT poser_check();
SELECT poser_datasync_add('strange', tables => '{owned.note}');

-- Nor can a stranger bind tables of others, or have changes recorded in them.
CREATE TABLE note (id int PRIMARY KEY, secret text);
CREATE TABLE note_version (id int, secret text, operation_type smallint, transaction_id bigint, change_id bigint PRIMARY KEY);
GRANT INSERT ON note_version TO PUBLIC;
CREATE CONSTRAINT TRIGGER poser_versions_of AFTER UPDATE OR DELETE ON note_version FROM owned.note
	FOR EACH ROW EXECUTE FUNCTION poser_versions_of('', '', 'operation_type', 'transaction_id', 'change_id', '1 1', 'id', 'id', '2 2', 'secret', 'secret');
CREATE CONSTRAINT TRIGGER poser_versions_of AFTER UPDATE OR DELETE ON audit.note_version FROM note
	FOR EACH ROW EXECUTE FUNCTION poser_versions_of('', '', 'operation_type', 'transaction_id', 'change_id', '1 1', 'id', 'id', '2 2', 'secret', 'secret');
SELECT poser_track('note', versions => 'audit.note_version');
-- with the privilege, the binding counts only if the table's owner may insert
RESET ROLE;
GRANT TRIGGER ON audit.note_version TO regress_poser_stranger;
SET ROLE regress_poser_stranger;
CREATE CONSTRAINT TRIGGER poser_versions_of AFTER UPDATE OR DELETE ON audit.note_version FROM note
	FOR EACH ROW EXECUTE FUNCTION poser_versions_of('', '', 'operation_type', 'transaction_id', 'change_id', '1 1', 'id', 'id', '2 2', 'secret', 'secret');
SELECT poser_track('note', versions => 'audit.note_version');
CREATE TRIGGER poser_version_before BEFORE INSERT ON note FOR EACH STATEMENT EXECUTE FUNCTION poser_version();
CREATE TRIGGER poser_version_insert AFTER INSERT ON note REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION poser_version();
INSERT INTO note VALUES (1, 'forged');
DROP TRIGGER poser_version_before ON note;
DROP TRIGGER poser_version_insert ON note;
-- names in arguments of a trigger are those of tables of the same owner
CREATE TABLE poser_widget (uuid text PRIMARY KEY, description text, active bool);
CREATE TRIGGER before BEFORE INSERT ON poser_widget FOR EACH STATEMENT EXECUTE FUNCTION poser_version('poser_widget_version', 'uuid');
CREATE TRIGGER insert AFTER INSERT ON poser_widget REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION poser_version('poser_widget_version', 'uuid');
INSERT INTO poser_widget VALUES ('forged', '', true);
CREATE TABLE poser_widget_version (uuid text, description text, active bool, operation_type smallint, transaction_id bigint, change_id bigint PRIMARY KEY);
CREATE TRIGGER before BEFORE INSERT ON poser_widget_version FOR EACH STATEMENT EXECUTE FUNCTION poser_arrive('poser_widget', 'uuid');
INSERT INTO poser_widget_version VALUES ('forged', '', true, 0, 1, 1);
RESET ROLE;
RESET search_path;
SELECT count(*) AS forged FROM extension.poser_widget_version;
SELECT DISTINCT secret FROM audit.note_version WHERE secret = 'forged';
-- the auditor's table has one binding that counts
SET ROLE regress_poser_table_writer;
UPDATE owned.note SET secret = 'nine';
RESET ROLE;
SELECT secret, count(*) FROM audit.note_version WHERE secret = 'nine' GROUP BY secret;

DROP EXTENSION poser CASCADE;
SET client_min_messages = error;
DROP SCHEMA extension, owned, audit, strange CASCADE;
DROP ROLE regress_poser_table_owner, regress_poser_auditor, regress_poser_group, regress_poser_table_writer, regress_poser_stranger;
