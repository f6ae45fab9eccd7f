-- An import uses the caller's own privileges on source and target, and row-level
-- security applies.

\set SHOW_CONTEXT never
\set VERBOSITY terse
SET client_min_messages = warning;
-- Role regress_poser_owner with schema regress_poser.
\getenv test PG_ABS_SRCDIR
\set file :test '/include/owner.sql'
\i :file
CREATE ROLE regress_poser_importer;
SET search_path = regress_poser;
SET ROLE regress_poser_owner;
CREATE EXTENSION poser SCHEMA regress_poser;
RESET client_min_messages;
INSERT INTO poser_widget VALUES ('w1', 'Clock', true), ('w2', 'Bell', true), ('w3', 'Lamp', true);
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c1', 'w1', '1', 'Hand');
CREATE TABLE list (uuid text, description text, active bool);
INSERT INTO list VALUES ('w1', 'Clock', true), ('w2', 'Big bell', false), ('w4', 'Door', true);
CREATE TABLE same AS TABLE poser_widget;

--
-- The source
--
GRANT ALL ON poser_widget TO regress_poser_importer;
SET ROLE regress_poser_importer;
\set VERBOSITY sqlstate
SELECT * FROM poser_import('list', 'poser_widget');
\set VERBOSITY terse
SELECT * FROM poser_import('list', 'poser_widget');
SELECT * FROM poser_import_diff('list', 'poser_widget');
-- SELECT on some columns suffices for an import of these
SET ROLE regress_poser_owner;
GRANT SELECT (uuid, description) ON list TO regress_poser_importer;
SET ROLE regress_poser_importer;
SELECT * FROM poser_import_diff('list', 'poser_widget');
SELECT * FROM poser_import_diff('list', 'poser_widget', fields => '{description}') ORDER BY key;
BEGIN;
SELECT * FROM poser_import('list', 'poser_widget', fields => '{description}');
ROLLBACK;
-- A view reads with its owner's privileges, or with its caller's.
SET ROLE regress_poser_owner;
CREATE VIEW open_list AS TABLE list;
CREATE VIEW own_list WITH (security_invoker = true) AS TABLE list;
GRANT SELECT ON open_list, own_list TO regress_poser_importer;
SET ROLE regress_poser_importer;
SELECT operation, key FROM poser_import_diff('open_list', 'poser_widget') ORDER BY key;
SELECT operation, key FROM poser_import_diff('own_list', 'poser_widget') ORDER BY key;
-- A relation's oid does not give access to its schema.
RESET ROLE;
CREATE SCHEMA regress_poser_closed;
CREATE TABLE regress_poser_closed.list AS TABLE list;
GRANT ALL ON regress_poser_closed.list TO regress_poser_importer;
SELECT 'regress_poser_closed.list'::regclass::oid AS closed \gset
SET ROLE regress_poser_importer;
\set VERBOSITY sqlstate
SELECT * FROM poser_import(:closed, 'poser_widget');
SELECT * FROM poser_import_diff('open_list', :closed, '{uuid}');
\set VERBOSITY terse

--
-- The target
--
SET ROLE regress_poser_owner;
REVOKE ALL ON poser_widget FROM regress_poser_importer;
GRANT SELECT ON list, same TO regress_poser_importer;
SET ROLE regress_poser_importer;
\set VERBOSITY sqlstate
SELECT * FROM poser_import_diff('list', 'poser_widget');
SELECT * FROM poser_import('list', 'poser_widget');
\set VERBOSITY terse
SELECT * FROM poser_import('list', 'poser_widget');
-- SELECT: a diff works, an import fails even if nothing differs
SET ROLE regress_poser_owner;
GRANT SELECT ON poser_widget TO regress_poser_importer;
SET ROLE regress_poser_importer;
SELECT operation, key FROM poser_import_diff('list', 'poser_widget', deletes => true) ORDER BY key;
SELECT * FROM poser_import('list', 'poser_widget');
SELECT * FROM poser_import('same', 'poser_widget');
-- INSERT
SET ROLE regress_poser_owner;
GRANT INSERT ON poser_widget TO regress_poser_importer;
SET ROLE regress_poser_importer;
SELECT * FROM poser_import('same', 'poser_widget', deletes => true);
SELECT * FROM poser_import('list', 'poser_widget');
SELECT * FROM poser_import('list', 'poser_widget', creates => false, updates => false, deletes => true);
BEGIN;
SELECT created, updated, deleted FROM poser_import('list', 'poser_widget', updates => false);
-- also with a key without an index
SELECT created, updated, deleted FROM poser_import('list', 'poser_widget', '{description}', '{active}', updates => false);
ROLLBACK;
-- UPDATE of a column
SET ROLE regress_poser_owner;
REVOKE INSERT ON poser_widget FROM regress_poser_importer;
GRANT UPDATE (description) ON poser_widget TO regress_poser_importer;
SET ROLE regress_poser_importer;
SELECT * FROM poser_import('list', 'poser_widget', creates => false);
SELECT * FROM poser_import('list', 'poser_widget', creates => false, fields => '{active}');
BEGIN;
SELECT * FROM poser_import('list', 'poser_widget', creates => false, fields => '{description}');
ROLLBACK;
-- INSERT of columns
SET ROLE regress_poser_owner;
GRANT INSERT (uuid, description) ON poser_widget TO regress_poser_importer;
SET ROLE regress_poser_importer;
SELECT * FROM poser_import('list', 'poser_widget', updates => false);
BEGIN;
SELECT * FROM poser_import('list', 'poser_widget', fields => '{description}');
ROLLBACK;
-- SELECT of columns: the compared ones must be readable, no others
SET ROLE regress_poser_owner;
REVOKE SELECT ON poser_widget FROM regress_poser_importer;
GRANT SELECT (uuid, description) ON poser_widget TO regress_poser_importer;
SET ROLE regress_poser_importer;
SELECT * FROM poser_import('list', 'poser_widget');
SELECT * FROM poser_import_diff('list', 'poser_widget', fields => '{description}') ORDER BY key;
BEGIN;
SET LOCAL poser.runas = 'somebody';
SELECT * FROM poser_import('list', 'poser_widget', fields => '{description}');
RESET ROLE;
SELECT username, role_name, operation, description FROM poser_widget_history('w2');
ROLLBACK;
-- DELETE
SET ROLE regress_poser_owner;
REVOKE ALL ON poser_widget FROM regress_poser_importer;
GRANT SELECT, DELETE ON poser_widget TO regress_poser_importer;
SET ROLE regress_poser_importer;
SELECT * FROM poser_import('list', 'poser_widget', deletes => true);
BEGIN;
SELECT deleted FROM poser_import('list', 'poser_widget', creates => false, updates => false, deletes => true);
ROLLBACK;
-- A function with its definer's rights imports with these rights.
SET ROLE regress_poser_owner;
CREATE FUNCTION import_list() RETURNS SETOF record LANGUAGE sql SECURITY DEFINER SET search_path = regress_poser AS
	'SELECT * FROM poser_import(''list'', ''poser_widget'')';
SET ROLE regress_poser_importer;
BEGIN;
SELECT * FROM import_list() AS (created bigint, updated bigint, deleted bigint, unchanged bigint);
RESET ROLE;
SELECT role_name, operation, description FROM poser_widget_history('w4');
ROLLBACK;
-- Only its owner uses a temporary table.
SET ROLE regress_poser_owner;
CREATE TEMPORARY TABLE staged AS TABLE list;
SET ROLE regress_poser_importer;
SELECT * FROM poser_import_diff('staged', 'poser_widget');
-- The caller needs EXECUTE on the function.
RESET ROLE;
REVOKE EXECUTE ON FUNCTION poser_import, poser_import_diff FROM PUBLIC;
SET ROLE regress_poser_importer;
SELECT * FROM poser_import('list', 'poser_widget');
SELECT * FROM poser_import_diff('list', 'poser_widget');
RESET ROLE;
GRANT EXECUTE ON FUNCTION poser_import, poser_import_diff TO PUBLIC;

--
-- Row-level security
--
-- on the source: hidden rows do not exist
SET ROLE regress_poser_owner;
GRANT ALL ON poser_widget, list TO regress_poser_importer;
CREATE POLICY seen ON list FOR SELECT TO regress_poser_importer USING (uuid <> 'w2');
ALTER TABLE list ENABLE ROW LEVEL SECURITY;
SET ROLE regress_poser_importer;
SELECT operation, key FROM poser_import_diff('list', 'poser_widget', deletes => true) ORDER BY key;
SET row_security = off;
\set VERBOSITY sqlstate
SELECT * FROM poser_import('list', 'poser_widget');
SELECT * FROM poser_import_diff('list', 'poser_widget');
\set VERBOSITY default
RESET row_security;
SET ROLE regress_poser_owner;
ALTER TABLE list DISABLE ROW LEVEL SECURITY;
-- on the target: hidden rows are neither compared nor deleted
CREATE POLICY seen ON poser_widget FOR SELECT TO regress_poser_importer USING (active AND uuid <> 'w1');
CREATE POLICY new ON poser_widget FOR INSERT TO regress_poser_importer WITH CHECK (description LIKE 'D%');
CREATE POLICY changed ON poser_widget FOR UPDATE TO regress_poser_importer USING (description <> 'Lamp') WITH CHECK (description LIKE 'B%');
CREATE POLICY gone ON poser_widget FOR DELETE TO regress_poser_importer USING (uuid <> 'w3');
ALTER TABLE poser_widget ENABLE ROW LEVEL SECURITY;
UPDATE list SET active = true;
DELETE FROM list WHERE uuid = 'w1';
SET ROLE regress_poser_importer;
SELECT operation, key, new FROM poser_import_diff('list', 'poser_widget', deletes => true) ORDER BY key;
BEGIN;
SELECT * FROM poser_import('list', 'poser_widget');
SET LOCAL ROLE regress_poser_owner;
TABLE poser_widget ORDER BY uuid;
ROLLBACK;
-- rows that must not be deleted
SELECT * FROM poser_import('list', 'poser_widget', deletes => true);
\echo :SQLSTATE
-- or created
INSERT INTO list SELECT 'x' || n, CASE n WHEN 5 THEN 'Door' ELSE 'Xylophone' END, true FROM generate_series(1, 9) AS n;
SELECT * FROM poser_import('list', 'poser_widget');
\echo :SQLSTATE
DELETE FROM list WHERE uuid LIKE 'x%';
-- or updated: the policy applies to the old row and to the new one
INSERT INTO list VALUES ('w3', 'Blamp', true);
SELECT * FROM poser_import('list', 'poser_widget');
\echo :SQLSTATE
DELETE FROM list WHERE uuid = 'w3';
UPDATE list SET description = 'Small bell' WHERE uuid = 'w2';
SELECT * FROM poser_import('list', 'poser_widget');
\echo :SQLSTATE
-- an existing row that is hidden
TRUNCATE list;
INSERT INTO list VALUES ('w1', 'Double', true), ('w2', 'Bell', true), ('w4', 'Door', true);
SELECT * FROM poser_import('list', 'poser_widget');
\echo :SQLSTATE
SET row_security = off;
\set VERBOSITY sqlstate
SELECT * FROM poser_import('list', 'poser_widget');
SELECT * FROM poser_import_diff('list', 'poser_widget');
RESET row_security;
SET ROLE regress_poser_owner;
TABLE poser_widget ORDER BY uuid;
-- Policies do not apply to the owner, unless forced.
BEGIN;
SELECT created, updated FROM poser_import('list', 'poser_widget');
ROLLBACK;
ALTER TABLE poser_widget FORCE ROW LEVEL SECURITY;
SELECT operation, key FROM poser_import_diff('list', 'poser_widget', deletes => true) ORDER BY key;
\set VERBOSITY default
SELECT * FROM poser_import('list', 'poser_widget');
\echo :SQLSTATE
ALTER TABLE poser_widget NO FORCE ROW LEVEL SECURITY;
SELECT * FROM poser_check();

SET client_min_messages = warning;
DROP EXTENSION poser;
RESET ROLE;
DROP SCHEMA regress_poser, regress_poser_closed CASCADE;
DROP TABLE pg_temp.staged;
DO $$
BEGIN
	EXECUTE format('REVOKE CREATE ON DATABASE %I FROM regress_poser_owner', current_database());
END
$$;
DROP ROLE regress_poser_owner, regress_poser_importer;
