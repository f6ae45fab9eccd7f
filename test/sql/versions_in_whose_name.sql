-- The name, the role and the reason that a change is recorded with: SET ROLE, SET
-- SESSION AUTHORIZATION, functions with their definer's rights, and the settings
-- poser.runas and poser.comment.

\set VERBOSITY sqlstate
SET client_min_messages = warning;
CREATE ROLE regress_poser_writer;
CREATE ROLE regress_poser_other;
CREATE ROLE "regress_poser ""quoted""";
CREATE EXTENSION poser;
GRANT ALL ON poser_widget, poser_component TO regress_poser_writer, regress_poser_other, "regress_poser ""quoted""";

-- All changes in their order.  Transactions and their ids are numbered.
CREATE VIEW changes AS
SELECT dense_rank() OVER (ORDER BY xact) AS transaction,
       dense_rank() OVER (ORDER BY transaction_id) AS id,
       replace(username, session_user, 'the session''s') AS username,
       replace(role_name, session_user, 'the session''s') AS role_name, comment,
       (ARRAY['insert', 'update', 'delete'])[operation_type + 1] AS operation, uuid
  FROM (SELECT transaction_id, change_id, operation_type, uuid FROM poser_widget_version
        UNION ALL
        SELECT transaction_id, change_id, operation_type, uuid FROM poser_component_version) AS version
       LEFT JOIN poser_transaction ON id = transaction_id
 ORDER BY change_id;

CREATE PROCEDURE start_afresh() LANGUAGE sql AS $$
	TRUNCATE poser_widget, poser_component;
	TRUNCATE poser_widget_version, poser_component_version, poser_transaction;
$$;

--
-- Roles
--
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one');
SET ROLE regress_poser_writer;
INSERT INTO poser_widget (uuid, description) VALUES ('w2', 'two');
SET ROLE "regress_poser ""quoted""";
UPDATE poser_widget SET active = false WHERE uuid = 'w2';
RESET ROLE;
DELETE FROM poser_widget WHERE uuid = 'w2';
TABLE changes;
SELECT * FROM poser_check();

-- several roles in one transaction: each has its row of poser_transaction
CALL start_afresh();
BEGIN;
SET LOCAL ROLE regress_poser_writer;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one');
UPDATE poser_widget SET active = false WHERE uuid = 'w1';
SET LOCAL ROLE regress_poser_other;
UPDATE poser_widget SET active = true WHERE uuid = 'w1';
SET LOCAL ROLE regress_poser_writer;
UPDATE poser_widget SET active = false WHERE uuid = 'w1';
COMMIT;
TABLE changes;
SELECT count(*), count(DISTINCT xact) FROM poser_transaction;
-- savepoints: a rollback restores the role
CALL start_afresh();
BEGIN;
SET LOCAL ROLE regress_poser_writer;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one');
SAVEPOINT a;
SET LOCAL ROLE regress_poser_other;
INSERT INTO poser_widget (uuid, description) VALUES ('w2', 'undone');
ROLLBACK TO a;
INSERT INTO poser_widget (uuid, description) VALUES ('w3', 'three');
SET LOCAL ROLE regress_poser_other;
INSERT INTO poser_widget (uuid, description) VALUES ('w4', 'four');
COMMIT;
TABLE changes;
SELECT count(*) FROM poser_transaction;

-- a function or procedure that sets its own role
CALL start_afresh();
CREATE FUNCTION write_as(role name, uuid varchar) RETURNS varchar LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('SET LOCAL ROLE %I', role);
	INSERT INTO poser_widget (uuid, description) VALUES (uuid, '');
	RETURN uuid;
END
$$;
SELECT write_as('regress_poser_writer', 'w1'), write_as('regress_poser_other', 'w2');
RESET ROLE;
TABLE changes;
DROP FUNCTION write_as;

-- A function with its definer's rights writes in its caller's name,
CALL start_afresh();
CREATE FUNCTION write(uuid varchar) RETURNS varchar LANGUAGE sql SECURITY DEFINER AS
	'INSERT INTO public.poser_widget (uuid, description) VALUES (uuid, '''') RETURNING uuid';
CREATE FUNCTION write_as_other(uuid varchar) RETURNS varchar LANGUAGE sql SECURITY DEFINER AS
	'SELECT public.write(uuid)';
ALTER FUNCTION write_as_other OWNER TO regress_poser_other;
SET ROLE regress_poser_writer;
SELECT write('w1'), write_as_other('w2');
INSERT INTO poser_widget (uuid, description) VALUES ('w3', 'three');
-- and so does a view with its owner's rights,
RESET ROLE;
CREATE VIEW owners_widget AS SELECT * FROM poser_widget;
GRANT ALL ON owners_widget TO regress_poser_other;
REVOKE ALL ON poser_widget FROM regress_poser_other;
SET ROLE regress_poser_other;
UPDATE owners_widget SET active = false WHERE uuid = 'w1';
RESET ROLE;
GRANT ALL ON poser_widget TO regress_poser_other;
TABLE changes;
DROP VIEW owners_widget;
DROP FUNCTION write, write_as_other;
-- and so does a foreign key's action, which runs as the table's owner.
CALL start_afresh();
ALTER TABLE poser_component DROP CONSTRAINT poser_component_fk_widget,
	ADD CONSTRAINT poser_component_fk_widget FOREIGN KEY (widget_uuid) REFERENCES poser_widget ON DELETE CASCADE;
ALTER TABLE poser_component OWNER TO regress_poser_other;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c1', 'w1', '1', '');
SET ROLE regress_poser_writer;
DELETE FROM poser_widget;
RESET ROLE;
TABLE changes;
SELECT count(*) FROM poser_transaction;
DO $$
BEGIN
	EXECUTE format('ALTER TABLE poser_component OWNER TO %I', session_user);
END
$$;
ALTER TABLE poser_component DROP CONSTRAINT poser_component_fk_widget,
	ADD CONSTRAINT poser_component_fk_widget FOREIGN KEY (widget_uuid) REFERENCES poser_widget;

-- SET SESSION AUTHORIZATION changes user and role
CALL start_afresh();
SET SESSION AUTHORIZATION regress_poser_writer;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one');
SET SESSION AUTHORIZATION "regress_poser ""quoted""";
UPDATE poser_widget SET active = false;
RESET SESSION AUTHORIZATION;
BEGIN;
SET LOCAL SESSION AUTHORIZATION regress_poser_writer;
INSERT INTO poser_widget (uuid, description) VALUES ('w2', 'two');
SET LOCAL SESSION AUTHORIZATION regress_poser_other;
INSERT INTO poser_widget (uuid, description) VALUES ('w3', 'three');
COMMIT;
TABLE changes;

--
-- Names and reasons from the settings
--
CALL start_afresh();
SET poser.runas = 'alice';
SET poser.comment = 'price list';
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one');
SET ROLE regress_poser_writer;
INSERT INTO poser_widget (uuid, description) VALUES ('w2', 'two');
RESET ROLE;
RESET poser.comment;
INSERT INTO poser_widget (uuid, description) VALUES ('w3', 'three');
SET poser.runas = '';
SET poser.comment = '';
INSERT INTO poser_widget (uuid, description) VALUES ('w4', 'four');
SET poser.comment = ' ';
INSERT INTO poser_widget (uuid, description) VALUES ('w5', 'five');
RESET poser.comment;
TABLE changes;
-- within a transaction: what SET LOCAL sets is gone at its end, so that the next
-- transaction of the session (w7) is in the session user's name
CALL start_afresh();
BEGIN;
SET LOCAL poser.runas = 'alice';
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one');
INSERT INTO poser_widget (uuid, description) VALUES ('w2', 'two');
SET LOCAL poser.comment = 'afterthought';
INSERT INTO poser_widget (uuid, description) VALUES ('w3', 'three');
SAVEPOINT a;
SET LOCAL poser.runas = 'bob';
INSERT INTO poser_widget (uuid, description) VALUES ('w4', 'undone');
ROLLBACK TO a;
INSERT INTO poser_widget (uuid, description) VALUES ('w5', 'five');
SET LOCAL poser.runas = 'bob';
-- setting the same value again changes nothing
SET LOCAL poser.comment = 'afterthought';
INSERT INTO poser_widget (uuid, description) VALUES ('w6', 'six');
COMMIT;
INSERT INTO poser_widget (uuid, description) VALUES ('w7', 'seven');
SELECT current_setting('poser.runas') AS runas, current_setting('poser.comment') AS comment;
TABLE changes;
SELECT count(*), count(DISTINCT xact) FROM poser_transaction;
-- set for a function, also in the middle of a statement
CALL start_afresh();
CREATE FUNCTION import(uuid varchar) RETURNS varchar LANGUAGE sql SET poser.runas = 'importer' AS
	'INSERT INTO poser_widget (uuid, description) VALUES (uuid, '''') RETURNING uuid';
SELECT import('w1');
INSERT INTO poser_widget (uuid, description) SELECT import('w2') || 'a', import('w3');
TABLE changes;
DROP FUNCTION import;

--
-- The client's application_name
--
CALL start_afresh();
SET application_name = 'price-import';
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one');
SET application_name = '';
INSERT INTO poser_widget (uuid, description) VALUES ('w2', 'two');
SELECT application_name FROM poser_transaction ORDER BY id;
SELECT * FROM poser_check();

DROP PROCEDURE start_afresh;
DROP VIEW changes;
DROP EXTENSION poser;
-- Another session user with the same role is another user.
CREATE EXTENSION poser;
GRANT INSERT ON poser_widget TO regress_poser_other;
GRANT regress_poser_other TO regress_poser_writer;
BEGIN;
SET LOCAL SESSION AUTHORIZATION regress_poser_writer;
SET LOCAL ROLE regress_poser_other;
INSERT INTO poser_widget (uuid, description) VALUES ('first', '');
SET LOCAL SESSION AUTHORIZATION regress_poser_other;
INSERT INTO poser_widget (uuid, description) VALUES ('second', '');
COMMIT;
SELECT username, role_name, uuid FROM poser_widget_version JOIN poser_transaction ON id = transaction_id ORDER BY change_id;
DROP EXTENSION poser;
DROP ROLE regress_poser_writer, regress_poser_other, "regress_poser ""quoted""";
