-- What is recorded of own tables, when they, their versions or their owners change.

\set VERBOSITY default
SET client_min_messages = warning;
CREATE EXTENSION poser;
CREATE ROLE regress_poser_owner;
CREATE ROLE regress_poser_writer;
CREATE ROLE regress_poser_auditor;
CREATE ROLE regress_poser_stranger;
CREATE SCHEMA own AUTHORIZATION regress_poser_owner;
GRANT USAGE ON SCHEMA own TO PUBLIC;
SET search_path = own, public;
SET ROLE regress_poser_owner;

CREATE TABLE customer (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, email text NOT NULL, pw text, notes text);
SELECT poser_track('customer', exclude => '{pw}');
GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON customer TO regress_poser_writer;
CREATE VIEW versions AS
SELECT dense_rank() OVER (ORDER BY v.transaction_id) AS t, (ARRAY['insert', 'update', 'delete'])[v.operation_type + 1] AS operation, to_jsonb(v) - '{operation_type,transaction_id,change_id}'::text[] AS row
  FROM customer_version AS v ORDER BY v.change_id;

-- A writer needs no privilege on the versions, and has none.
SET ROLE regress_poser_writer;
INSERT INTO customer (email, pw, notes) VALUES ('a@x', 'secret', 'first'), ('b@x', 'secret', NULL);
UPDATE customer SET pw = 'other';
UPDATE customer SET email = 'c@x', pw = 'third' WHERE id = 1;
DELETE FROM customer WHERE id = 2;
SELECT * FROM customer_version;
INSERT INTO customer_version DEFAULT VALUES;
SET ROLE regress_poser_owner;
TABLE versions;

-- History is only added to, also by its owner.
UPDATE customer_version SET email = 'forged';
DELETE FROM customer_version;
TRUNCATE customer_version;
BEGIN;
SET session_replication_role = replica;
ROLLBACK;

-- Columns follow renames: a becomes b and b becomes a, an excluded one, the key, the table,
-- the schema.  A new column is not recorded until poser_track() is called again.
BEGIN;
ALTER TABLE customer RENAME email TO x;
ALTER TABLE customer RENAME notes TO email;
ALTER TABLE customer RENAME x TO notes;
ALTER TABLE customer RENAME pw TO password;
ALTER TABLE customer RENAME id TO number;
COMMIT;
UPDATE customer SET notes = 'd@x', email = 'second', password = 'fourth';
SELECT * FROM versions OFFSET 4;
DROP VIEW versions;
SELECT poser_track('customer');
CREATE VIEW versions AS
SELECT dense_rank() OVER (ORDER BY v.transaction_id) AS t, (ARRAY['insert', 'update', 'delete'])[v.operation_type + 1] AS operation, to_jsonb(v) - '{operation_type,transaction_id,change_id}'::text[] AS row
  FROM customer_version AS v ORDER BY v.change_id;
SELECT * FROM versions OFFSET 4;
ALTER TABLE customer ADD vat text;
UPDATE customer SET vat = '1';
UPDATE customer SET vat = '2', notes = 'e@x';
SELECT * FROM versions OFFSET 5;

-- A column that is dropped and added again is another one, and so is one with another
-- type.  Other modifiers do not matter.
ALTER TABLE customer DROP email, ADD email text, ALTER notes TYPE varchar(100);
UPDATE customer SET email = 'third', notes = 'f@x';
ALTER TABLE customer ALTER notes TYPE bytea USING notes::bytea;
UPDATE customer SET notes = 'not recorded';
UPDATE customer SET notes = 'not recorded', email = 'fourth';
SELECT * FROM versions OFFSET 6;
DROP VIEW versions;
SELECT unnest(string_to_array(problem, '; ')) AS problem FROM poser_tables WHERE target = 'customer'::regclass;

-- The key is that of the table as it is now.
CREATE TABLE word (id int PRIMARY KEY, name text NOT NULL, value text);
SELECT poser_track('word');
INSERT INTO word VALUES (1, 'a', 'one'), (2, 'b', 'two');
ALTER TABLE word DROP CONSTRAINT word_pkey, ADD PRIMARY KEY (name);
UPDATE word SET id = 3 WHERE name = 'a';
UPDATE word SET name = 'c' WHERE name = 'b';
SELECT operation_type, id, name, value FROM word_version ORDER BY change_id;
ALTER TABLE word DROP CONSTRAINT word_pkey;
INSERT INTO word VALUES (4, 'd', 'four');
UPDATE word SET value = 'five';
DELETE FROM word WHERE false;
SELECT problem FROM poser_tables WHERE target = 'word'::regclass;
TRUNCATE word;
SELECT operation_type, id, name, value FROM word_version ORDER BY change_id OFFSET 5;
ALTER TABLE word ADD more int PRIMARY KEY;
INSERT INTO word VALUES (5, 'e', 'five', 1);
ALTER TABLE word DROP more, ADD PRIMARY KEY (name, id);
INSERT INTO word VALUES (6, 'f', 'six');
UPDATE word SET value = 'seven';
SELECT operation_type, id, name, value FROM word_version ORDER BY change_id OFFSET 8;

-- Consent: the versions can belong to another role, while the table's owner may insert.
RESET ROLE;
ALTER TABLE word_version OWNER TO regress_poser_auditor;
SET ROLE regress_poser_owner;
UPDATE word SET value = 'eight';
SELECT problem FROM poser_tables WHERE target = 'word'::regclass;
RESET ROLE;
GRANT INSERT ON word_version TO regress_poser_owner;
SET ROLE regress_poser_owner;
UPDATE word SET value = 'nine';
DELETE FROM word_version;
RESET ROLE;
REVOKE INSERT ON word_version FROM regress_poser_owner;
SET ROLE regress_poser_owner;
UPDATE word SET value = 'ten';
RESET ROLE;
-- by way of a role, and no more when it is left
GRANT regress_poser_auditor TO regress_poser_owner;
UPDATE word SET value = 'eleven';
REVOKE regress_poser_auditor FROM regress_poser_owner;
UPDATE word SET value = 'twelve';
ALTER TABLE word_version OWNER TO regress_poser_owner;
UPDATE word SET value = 'thirteen';
SELECT operation_type, value FROM word_version ORDER BY change_id OFFSET 9;

-- A stranger cannot bind a table, nor write into a history by a trigger that names it.
CREATE SCHEMA strange AUTHORIZATION regress_poser_stranger;
SET ROLE regress_poser_stranger;
CREATE TABLE strange.word_version (id int, name text, value text, operation_type smallint, transaction_id bigint, change_id bigint);
GRANT ALL ON strange.word_version TO PUBLIC;
CREATE CONSTRAINT TRIGGER poser_versions_of AFTER UPDATE OR DELETE ON strange.word_version FROM own.word
	FOR EACH ROW EXECUTE FUNCTION poser_versions_of('', '', 'operation_type', 'transaction_id', 'change_id', '1 1', 'id', 'id');
CREATE TABLE strange.widget (uuid varchar(32) PRIMARY KEY, description varchar(255), active bool);
CREATE TRIGGER t AFTER INSERT ON strange.widget REFERENCING NEW TABLE AS new_rows
	FOR EACH STATEMENT EXECUTE FUNCTION poser_version('poser_widget_version', 'uuid');
INSERT INTO strange.widget VALUES ('w1', 'forged', true);
DROP TRIGGER t ON strange.widget;
-- a trigger without a binding is an error, with other arguments as well
CREATE TRIGGER t AFTER INSERT ON strange.widget REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION poser_version();
INSERT INTO strange.widget VALUES ('w1', 'forged', true);
CREATE OR REPLACE TRIGGER t AFTER INSERT ON strange.widget REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION poser_version('other');
INSERT INTO strange.widget VALUES ('w1', 'forged', true);
DROP TABLE strange.widget;

-- Who has TRIGGER on a table can bind it a second time.  Then nothing is recorded, and
-- nothing written, until one of the bindings is gone.
RESET ROLE;
GRANT TRIGGER ON word TO regress_poser_stranger;
SET ROLE regress_poser_stranger;
CREATE CONSTRAINT TRIGGER poser_versions_of AFTER UPDATE OR DELETE ON strange.word_version FROM own.word
	FOR EACH ROW EXECUTE FUNCTION poser_versions_of('', '', 'operation_type', 'transaction_id', 'change_id', '1 1', 'id', 'id');
SET ROLE regress_poser_owner;
UPDATE word SET value = 'fourteen';
SELECT target, versions, recording, split_part(problem, ';', 1) AS problem FROM poser_tables WHERE target = 'word'::regclass ORDER BY versions::text;
SET ROLE regress_poser_stranger;
REVOKE ALL ON strange.word_version FROM PUBLIC;
SET ROLE regress_poser_owner;
UPDATE word SET value = 'fourteen';
RESET ROLE;
DROP SCHEMA strange CASCADE;

-- Arguments that poser_track() has not made.
CREATE TABLE odd (id int PRIMARY KEY, value text);
SELECT poser_track('odd');
CREATE PROCEDURE bind(arguments text) LANGUAGE plpgsql AS $$
BEGIN
	DROP TRIGGER IF EXISTS poser_versions_of ON odd_version;
	EXECUTE format('CREATE CONSTRAINT TRIGGER poser_versions_of AFTER UPDATE OR DELETE ON odd_version FROM odd FOR EACH ROW EXECUTE FUNCTION public.poser_versions_of(%s)', arguments);
	INSERT INTO odd VALUES (1, 'one');
	RAISE WARNING 'recorded: % in %', (SELECT row_to_json(v) FROM (SELECT id, value FROM odd_version ORDER BY change_id DESC LIMIT 1) AS v), arguments;
	DELETE FROM odd;
EXCEPTION WHEN object_not_in_prerequisite_state THEN
	DECLARE
		detail text;
	BEGIN
		GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
		RAISE WARNING '%', detail;
	END;
END
$$;
CALL bind('');
CALL bind($$'', '', 'operation_type', 'transaction_id'$$);
CALL bind($$'', 'unknown', 'operation_type', 'transaction_id', 'change_id', '1 1', 'id', 'id', '2 2', 'value', 'value'$$);
CALL bind($$'', '', 'operation_type', 'transaction_id', 'change_id', '1 1', 'id', 'id', '2 2', 'value'$$);
CALL bind($$'', '', 'operation_type', 'transaction_id', 'change_id', '1 1', 'id', 'id', '2', 'value', 'value'$$);
CALL bind($$'', '', 'operation_type', 'transaction_id', 'change_id', '1 1', 'id', 'id', '2 99999999999999999999', 'value', 'value'$$);
CALL bind($$'', '', 'operation_type', 'transaction_id', 'change_id', '2 2', 'value', 'value', '1 1', 'id', 'id'$$);
CALL bind($$'', '', 'operation_type', 'transaction_id', 'none', '1 1', 'id', 'id', '2 2', 'value', 'value'$$);
CALL bind($$'', '', 'operation_type', 'transaction_id', 'value', '1 1', 'id', 'id', '2 2', 'value', 'value'$$);
-- a binding of other tables or of another database: columns are found by their names
CALL bind($$'', '', 'operation_type', 'transaction_id', 'change_id', '1 1', 'id', 'id', '2 2', 'value', 'value'$$);
CALL bind($$'1.2.3.4', '', 'operation_type', 'transaction_id', 'change_id', '3 1', 'id', 'id', '5 2', 'value', 'value'$$);
-- excluded
CALL bind($$'', '', 'operation_type', 'transaction_id', 'change_id', '1 1', 'id', 'id', '2 0', 'value', ''$$);
-- a name that is gone, of the table or of the versions, or excluded
CALL bind($$'', '', 'operation_type', 'transaction_id', 'change_id', '1 1', 'id', 'id', '2 2', 'values', 'value'$$);
CALL bind($$'', '', 'operation_type', 'transaction_id', 'change_id', '1 1', 'id', 'id', '2 2', 'value', 'values'$$);
CALL bind($$'', '', 'operation_type', 'transaction_id', 'change_id', '1 1', 'id', 'id', '2 2', 'value', 'value', '3 0', 'secret', ''$$);
-- names that were exchanged, a column that is further behind than it was, one that was not there
CALL bind($$'', '', 'operation_type', 'transaction_id', 'change_id', '1 1', 'value', 'value', '2 2', 'id', 'id'$$);
CALL bind($$'', '', 'operation_type', 'transaction_id', 'change_id', '1 1', 'value', 'value'$$);
CALL bind($$'', '', 'operation_type', 'transaction_id', 'change_id', '2 2', 'value', 'value'$$);
CALL bind($$'', '', 'operation_type', 'transaction_id', 'change_id', '1 1', 'id', 'value', '2 2', 'value', 'value'$$);
-- the key is not bound
CALL bind($$'', '', 'operation_type', 'transaction_id', 'change_id', '1 0', 'id', '', '2 2', 'value', 'value'$$);
SELECT poser_track('odd');

-- Rows that are older than poser_track(existing => false): the first change of such a row
-- records it as it was.
SET ROLE regress_poser_owner;
CREATE TABLE old (id int PRIMARY KEY, value text);
INSERT INTO old SELECT n, 'old' FROM generate_series(1, 9) AS n;
SELECT poser_track('old', existing => false);
CREATE VIEW versions AS
SELECT (ARRAY['insert', 'update', 'delete'])[operation_type + 1] AS operation, id, value, transaction_id FROM old_version ORDER BY change_id;
INSERT INTO old VALUES (10, 'new');
UPDATE old SET value = 'old' WHERE id < 3;
UPDATE old SET value = 'changed' WHERE id IN (1, 10);
UPDATE old SET value = 'changed again' WHERE id IN (1, 2);
UPDATE old SET id = 13 WHERE id = 3;
DELETE FROM old WHERE id IN (2, 4);
BEGIN;
DELETE FROM old WHERE id = 5;
ROLLBACK;
INSERT INTO old VALUES (5, 'upsert') ON CONFLICT (id) DO UPDATE SET value = excluded.value;
MERGE INTO old USING generate_series(6, 7) AS id ON old.id = id.id WHEN MATCHED AND id.id = 6 THEN DELETE WHEN MATCHED THEN UPDATE SET value = 'merged';
RESET ROLE;
SELECT v.operation, v.id, v.value, dense_rank() OVER (ORDER BY t.id) AS t, t.comment FROM own.versions AS v JOIN poser_transaction AS t ON t.id = v.transaction_id;
TRUNCATE own.old;
SELECT v.operation, v.id, v.value, dense_rank() OVER (ORDER BY t.id) AS t, t.comment FROM own.versions AS v JOIN poser_transaction AS t ON t.id = v.transaction_id OFFSET 19;
DROP VIEW own.versions;

-- Index expressions and predicates of the versions run as their owner.
SET ROLE regress_poser_owner;
CREATE TABLE run_as (role name, what text);
CREATE FUNCTION own.log(value text) RETURNS void LANGUAGE sql VOLATILE AS 'INSERT INTO own.run_as VALUES (current_user, value)';
CREATE FUNCTION own.note(value text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	PERFORM set_config('poser.comment', 'forged', false);
	PERFORM own.log(value);
	RETURN value;
END
$$;
CREATE TABLE indexed (id int PRIMARY KEY, value text);
SELECT poser_track('indexed');
CREATE INDEX ON indexed_version (own.note(value)) WHERE own.note('predicate') IS NOT NULL;
GRANT ALL ON indexed TO regress_poser_writer;
TRUNCATE run_as;
SET ROLE regress_poser_writer;
INSERT INTO indexed VALUES (1, 'one'), (2, 'two');
SHOW poser.comment;
SET ROLE regress_poser_owner;
SELECT DISTINCT role, what FROM run_as ORDER BY what;
RESET ROLE;

-- Ids never go back, whatever a restore has made of the sequence.
UPDATE own.indexed SET value = 'three' WHERE id = 1;
SELECT setval('poser_change_id_seq', 1);
\c
SET client_min_messages = warning;
SET search_path = own, public;
UPDATE customer SET email = 'fifth';
UPDATE indexed SET value = 'four' WHERE id = 1;
SELECT value FROM indexed_version ORDER BY change_id DESC LIMIT 2;
-- a table whose history was restored with greater ids than those of this database
INSERT INTO old VALUES (1, 'one');
ALTER TABLE old_version DISABLE TRIGGER ALL;
INSERT INTO old_version SELECT 1, 'one', 1, transaction_id, change_id + 1000 FROM old_version ORDER BY change_id DESC LIMIT 1;
ALTER TABLE old_version ENABLE TRIGGER ALL;
SELECT setval('poser_change_id_seq', (SELECT max(id) FROM poser_transaction)) > 0 AS set;
\c
SET client_min_messages = warning;
SET search_path = own, public;
UPDATE word SET value = 'fifteen';
UPDATE old SET value = 'two' WHERE id = 1;
UPDATE word SET value = 'sixteen';
SELECT value FROM old_version ORDER BY change_id DESC LIMIT 2;
SELECT value FROM word_version ORDER BY change_id DESC LIMIT 2;

-- Without the table of versions, and without the table.
DROP TABLE word_version;
UPDATE word SET value = 'seventeen';
SELECT poser_track('word');
UPDATE word SET value = 'seventeen' WHERE id = 5;
DROP TABLE word;
SELECT count(*) > 0 AS kept FROM word_version;
SET ROLE regress_poser_owner;
CREATE TABLE word (id int, name text NOT NULL, value text, PRIMARY KEY (name, id));
INSERT INTO word VALUES (1, 'not recorded', '');
SELECT poser_track('word');
INSERT INTO word VALUES (2, 'recorded', '');
SELECT operation_type, id, name FROM word_version ORDER BY change_id DESC LIMIT 2;

RESET ROLE;
SET search_path = public;
DROP EXTENSION poser CASCADE;
DROP SCHEMA own CASCADE;
DROP ROLE regress_poser_owner;
DROP ROLE regress_poser_writer;
DROP ROLE regress_poser_auditor;
DROP ROLE regress_poser_stranger;
