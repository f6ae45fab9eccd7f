-- Which roles may read, revert and write the history, and what row-level security
-- leaves visible.

\set VERBOSITY sqlstate
SET client_min_messages = warning;
-- Role regress_poser_owner with schema regress_poser.
\getenv test PG_ABS_SRCDIR
\set file :test '/include/owner.sql'
\i :file
CREATE ROLE regress_poser_reader;
CREATE ROLE regress_poser_writer;
CREATE ROLE regress_poser_nobody;
-- The history must not get what these default privileges grant.
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC, regress_poser_reader;
ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO PUBLIC;
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
SET ROLE regress_poser_owner;
CREATE EXTENSION poser SCHEMA regress_poser;
RESET ROLE;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM PUBLIC, regress_poser_reader;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON SEQUENCES FROM PUBLIC;
ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO PUBLIC;
RESET client_min_messages;
SET search_path = regress_poser, public;
SELECT relname, relowner::regrole FROM pg_class
 WHERE relnamespace = 'regress_poser'::regnamespace AND relname ~ 'version|transaction|change' AND relkind IN ('r', 'S') ORDER BY relname;
SELECT relname, grantee FROM pg_class, aclexplode(relacl)
 WHERE relnamespace = 'regress_poser'::regnamespace AND relname ~ 'version|transaction|change' AND grantee <> relowner;
REVOKE ALL ON poser_widget, poser_component, poser_widget_summary FROM PUBLIC, regress_poser_reader;
SET ROLE regress_poser_owner;
GRANT INSERT, UPDATE, DELETE, SELECT ON poser_widget, poser_component TO regress_poser_writer;
GRANT SELECT ON poser_widget_version, poser_component_version TO regress_poser_reader;

-- A writer needs no privilege on the history, and can do nothing to it.
SET ROLE regress_poser_writer;
SET poser.runas = 'somebody';
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'One'), ('w2', 'Two'), ('w3', 'Three');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c1', 'w1', '1', ''), ('c2', 'w2', '2', '');
UPDATE poser_widget SET description = 'one' WHERE uuid = 'w1';
UPDATE poser_widget SET active = false WHERE uuid = 'w2';
UPDATE poser_widget SET description = 'two' WHERE uuid = 'w2';
DELETE FROM poser_widget WHERE uuid = 'w3';
TABLE poser_widget_version;
INSERT INTO poser_widget_version VALUES ('w1', '', true, 0, 1, 1);
UPDATE poser_widget_version SET description = '';
DELETE FROM poser_component_version;
TRUNCATE poser_widget_version;
TABLE poser_transaction;
INSERT INTO poser_transaction VALUES (1, now(), '', '', NULL, NULL, NULL, '1');
UPDATE poser_transaction SET username = '';
DELETE FROM poser_transaction;
TABLE poser_version_horizon;
SELECT nextval('poser_change_id_seq');
SELECT setval('poser_change_id_seq', 1);
SELECT last_value FROM poser_change_id_seq;
SELECT poser_prune_versions('0');
SELECT poser_record_versions();
SELECT * FROM poser_check();
SELECT * FROM poser_widget_history('w1');
SELECT * FROM poser_widget_as_of('infinity');
SELECT poser_widget_revert('w1', 1);
CREATE TEMPORARY TABLE mine (uuid varchar(32), description varchar(255), active bool);
CREATE TRIGGER mine AFTER INSERT ON mine REFERENCING NEW TABLE AS new_rows
	EXECUTE FUNCTION poser_version('poser_widget_version', 'uuid');
INSERT INTO mine VALUES ('w1', 'mine', true);
DROP TRIGGER mine ON mine;
CREATE TRIGGER mine BEFORE INSERT ON mine FOR EACH ROW EXECUTE FUNCTION poser_transaction_arrive();
DROP TABLE mine;

-- A reader needs SELECT on the versions, and nothing on transactions or tables.
SET ROLE regress_poser_reader;
SELECT username, role_name, operation, changed, uuid, description FROM poser_widget_history('w1');
SELECT username, operation, relation, uuid FROM poser_widget_history('w2', true);
SELECT operation FROM poser_component_history('c1');
SELECT * FROM poser_widget_as_of('infinity') ORDER BY uuid;
SELECT uuid FROM poser_component_as_of('infinity') ORDER BY uuid;
TABLE poser_transaction;
TABLE poser_widget;
SELECT poser_widget_revert('w1', (SELECT min(transaction_id) FROM poser_widget_version));
SET ROLE regress_poser_nobody;
SELECT * FROM poser_widget_history('w1');
SELECT * FROM poser_widget_history('w1', true);
SELECT * FROM poser_component_history('c1');
SELECT * FROM poser_component_as_of('infinity');
-- SELECT on one of the two version tables
SET ROLE regress_poser_owner;
GRANT SELECT ON poser_widget_version TO regress_poser_nobody;
SET ROLE regress_poser_nobody;
SELECT operation FROM poser_widget_history('w1');
SELECT operation FROM poser_widget_history('w1', true);
SELECT count(*) FROM poser_widget_as_of('infinity');

-- A revert needs the caller's own privileges.
SET ROLE regress_poser_owner;
GRANT SELECT ON poser_widget_version, poser_component_version TO regress_poser_writer;
GRANT SELECT, UPDATE ON poser_widget TO regress_poser_reader;
SELECT min(transaction_id) AS t1 FROM poser_widget_version \gset
SET ROLE regress_poser_writer;
SELECT poser_widget_revert('w1', :t1), poser_widget_revert('w3', :t1);
SELECT role_name, operation, description FROM poser_widget_history('w1');
SET ROLE regress_poser_reader;
SELECT poser_widget_revert('w2', :t1);
-- The reader can neither bring back a widget nor read components.
RESET ROLE;
DELETE FROM poser_widget WHERE uuid = 'w3';
SET ROLE regress_poser_reader;
SELECT poser_widget_revert('w3', :t1);
SELECT poser_widget_revert('w1', :t1, true);

-- A caller of the owner's function writes in its own name.  It cannot make its writes
-- look like a restore.
SET ROLE regress_poser_owner;
CREATE FUNCTION add_widget(name varchar) RETURNS void LANGUAGE sql SECURITY DEFINER AS
	'INSERT INTO regress_poser.poser_widget (uuid, description) VALUES (name, name)';
SET ROLE regress_poser_nobody;
SELECT add_widget('of nobody');
BEGIN;
SET LOCAL row_security = off;
SELECT set_config('search_path', '', true);
SELECT regress_poser.add_widget('past');
COMMIT;
SET ROLE regress_poser_writer;
BEGIN;
SET LOCAL row_security = off;
SELECT set_config('search_path', '', true);
INSERT INTO regress_poser.poser_widget (uuid, description) VALUES ('past, too', '');
COMMIT;
-- A function cannot do so either when another role calls it.
CREATE TEMPORARY TABLE bait (n int);
CREATE FUNCTION pg_temp.take() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
	PERFORM set_config('row_security', 'off', true), set_config('search_path', '', true);
	INSERT INTO regress_poser.poser_widget (uuid, description) VALUES ('past the owner', '');
	RETURN NEW;
END
$$;
CREATE TRIGGER take BEFORE INSERT ON bait FOR EACH ROW EXECUTE FUNCTION pg_temp.take();
GRANT INSERT ON bait TO regress_poser_owner;
SET ROLE regress_poser_owner;
BEGIN;
INSERT INTO bait VALUES (1);
COMMIT;
RESET ROLE;
DROP TABLE bait;
DROP FUNCTION pg_temp.take;
-- Functions that the server itself runs, here in ANALYZE, write as the table's owner.
SET ROLE regress_poser_writer;
CREATE TEMPORARY TABLE bait (n int);
INSERT INTO bait VALUES (2);
CREATE FUNCTION pg_temp.write(n int) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO regress_poser.poser_widget (uuid, description) VALUES ('past ' || n, '') ON CONFLICT (uuid) DO NOTHING;
	RETURN n;
END
$$;
CREATE FUNCTION pg_temp.hidden(n int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
	'BEGIN RETURN pg_temp.write(n); END';
CREATE INDEX ON bait (pg_temp.hidden(n));
DELETE FROM regress_poser.poser_widget WHERE uuid = 'past 2';
RESET ROLE;
ANALYZE bait;
DROP TABLE bait;
DROP FUNCTION pg_temp.hidden, pg_temp.write;
SELECT role_name, uuid FROM poser_widget_version AS v JOIN poser_transaction AS t ON t.id = transaction_id
 WHERE uuid ~ 'past|nobody' ORDER BY change_id;
-- The owner restores, or seems to: what it writes is recorded.
SET ROLE regress_poser_owner;
BEGIN;
SET LOCAL row_security = off;
SELECT set_config('search_path', '', true);
INSERT INTO regress_poser.poser_widget (uuid, description) VALUES ('restored', '');
UPDATE regress_poser.poser_widget SET description = 'changed' WHERE uuid = 'past';
DELETE FROM regress_poser.poser_widget WHERE uuid = 'past, too';
COMMIT;
SELECT uuid, operation_type FROM poser_widget_version WHERE uuid ~ 'restored|past' ORDER BY change_id;
SELECT * FROM poser_check();
SELECT poser_record_versions();
DELETE FROM poser_widget WHERE uuid = 'restored' OR uuid ~ 'past|nobody';

--
-- Row-level security: what is hidden now, or was then, stays hidden
--
RESET ROLE;
REVOKE ALL ON poser_widget FROM regress_poser_reader;
SET ROLE regress_poser_owner;
GRANT SELECT ON poser_widget, poser_component TO regress_poser_reader;
UPDATE poser_widget SET description = 'open' WHERE uuid = 'w1';
UPDATE poser_widget SET description = 'secret', active = false WHERE uuid = 'w1';
UPDATE poser_widget SET description = 'open again', active = true WHERE uuid = 'w1';
UPDATE poser_widget SET active = false WHERE uuid = 'w2';
ALTER TABLE poser_widget ENABLE ROW LEVEL SECURITY;
CREATE POLICY active_only ON poser_widget FOR SELECT TO regress_poser_reader USING (active);
SET ROLE regress_poser_reader;
SELECT uuid FROM poser_widget;
SELECT username, operation, changed, description FROM poser_widget_history('w1');
SELECT * FROM poser_widget_history('w2');
SELECT * FROM poser_widget_history('w3');
SELECT relation, description FROM poser_widget_history('w2', true);
SELECT * FROM poser_widget_as_of('infinity');
SELECT * FROM poser_widget_as_of((SELECT max(issued_at) - interval '1 microsecond' FROM poser_widget_history('w1')));
-- It does not apply to the owner.
SET ROLE regress_poser_owner;
SELECT count(*) FROM poser_widget_history('w2');
SELECT count(*) FROM poser_widget_as_of('infinity');
SELECT count(*) FROM poser_check();
-- A revert would need to see all rows.
SET ROLE regress_poser_writer;
SELECT poser_widget_revert('w1', :t1);
SET ROLE regress_poser_reader;
SELECT poser_widget_revert('w1', :t1);
-- A row that bypassed the triggers does not show an older state either.
RESET ROLE;
SET session_replication_role = replica;
UPDATE poser_widget SET active = true, description = 'unrecorded' WHERE uuid = 'w2';
RESET session_replication_role;
SET ROLE regress_poser_reader;
SELECT uuid FROM poser_widget ORDER BY uuid;
SELECT * FROM poser_widget_history('w2');
RESET ROLE;
SELECT poser_record_versions();
SET ROLE regress_poser_reader;
SELECT operation, changed, description FROM poser_widget_history('w2');
-- The versions' own policies decide.
SET ROLE regress_poser_owner;
ALTER TABLE poser_widget_version ENABLE ROW LEVEL SECURITY;
CREATE POLICY active_only ON poser_widget_version FOR SELECT TO regress_poser_reader USING (active);
SET ROLE regress_poser_reader;
SELECT operation, description FROM poser_widget_history('w1');
SELECT operation, description FROM poser_widget_history('w3');
SELECT uuid, description FROM poser_widget_as_of('infinity') ORDER BY uuid;
SET ROLE regress_poser_writer;
SELECT poser_widget_revert('w1', :t1);
-- also if only the versions have policies
SET ROLE regress_poser_owner;
ALTER TABLE poser_widget DISABLE ROW LEVEL SECURITY;
SET ROLE regress_poser_writer;
SELECT operation, description FROM poser_widget_history('w1');
SELECT poser_widget_revert('w1', :t1);
-- Forced on the owner, too: poser_check() and poser_record_versions() see all
-- rows, and writers record.
SET ROLE regress_poser_owner;
ALTER TABLE poser_widget ENABLE ROW LEVEL SECURITY;
ALTER TABLE poser_widget FORCE ROW LEVEL SECURITY;
ALTER TABLE poser_widget_version FORCE ROW LEVEL SECURITY;
ALTER TABLE poser_transaction ENABLE ROW LEVEL SECURITY;
ALTER TABLE poser_transaction FORCE ROW LEVEL SECURITY;
SELECT * FROM poser_check();
SELECT poser_record_versions();
CREATE POLICY all_rows ON poser_widget USING (true) WITH CHECK (true);
UPDATE poser_widget SET description = 'forced' WHERE uuid = 'w1';
SELECT * FROM poser_check();
SELECT poser_prune_versions('0') > 0 AS pruned;
SELECT * FROM poser_check();
-- The versions of another owner keep their transactions.  None of its code is run.
RESET ROLE;
CREATE SCHEMA regress_poser_writer AUTHORIZATION regress_poser_writer;
SET ROLE regress_poser_writer;
CREATE FUNCTION regress_poser_writer.refuse() RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RAISE 'run'; END$$;
CREATE TABLE regress_poser_writer.versions (operation_type smallint, transaction_id bigint, change_id bigint);
CREATE POLICY refuse ON regress_poser_writer.versions USING (regress_poser_writer.refuse());
ALTER TABLE regress_poser_writer.versions ENABLE ROW LEVEL SECURITY;
RESET ROLE;
SELECT max(id) AS last FROM poser_transaction \gset
INSERT INTO regress_poser_writer.versions VALUES (1, :last, 1);
SET ROLE regress_poser_owner;
UPDATE poser_widget SET description = 'forced again' WHERE uuid = 'w1';
UPDATE poser_widget SET description = 'and again' WHERE uuid = 'w1';
SELECT poser_prune_versions('0') > 0 AS pruned;
RESET ROLE;
SELECT count(*) FROM poser_transaction WHERE id = :last;
DROP TABLE regress_poser_writer.versions;
DROP FUNCTION regress_poser_writer.refuse();
DROP SCHEMA regress_poser_writer;
SET ROLE regress_poser_owner;
SELECT poser_prune_versions('0') > 0 AS pruned;
RESET ROLE;
SELECT count(*) FROM poser_transaction WHERE id = :last;
SET ROLE regress_poser_owner;

DROP FUNCTION add_widget;
DROP EXTENSION poser;
RESET ROLE;
DROP SCHEMA regress_poser;
DO $$ BEGIN EXECUTE format('REVOKE CREATE ON DATABASE %I FROM regress_poser_owner', current_database()); END $$;
DROP ROLE regress_poser_owner, regress_poser_reader, regress_poser_writer, regress_poser_nobody;
