-- Versions of changed tables: columns added, dropped or of another type, triggers
-- disabled, history edited.  Writes go on where they can, and poser_check() says what
-- is wrong.

\set VERBOSITY sqlstate
SET client_min_messages = warning;
CREATE EXTENSION poser;

CREATE VIEW last_versions AS
SELECT DISTINCT ON (uuid) (ARRAY['insert', 'update', 'delete'])[operation_type + 1] AS operation,
       to_jsonb(version) - '{widget_uuid,operation_type,transaction_id,change_id}'::text[] AS "values"
  FROM poser_component_version AS version ORDER BY uuid, change_id DESC;

INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one'), ('w2', 'two');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c1', 'w1', '1', 'a'), ('c2', 'w1', '2', 'b');
SELECT * FROM poser_check();

--
-- Columns
--
-- An added column is recorded once the versions have it, too.
ALTER TABLE poser_component ADD COLUMN price numeric;
UPDATE poser_component SET price = 1.50 WHERE uuid = 'c1';
UPDATE poser_component SET price = 2.50, active = false WHERE uuid = 'c2';
TABLE last_versions;
SELECT * FROM poser_check();
ALTER TABLE poser_component_version ADD COLUMN price numeric;
SELECT * FROM poser_check();
-- Existing values are recorded on request, or with the row's next change.
UPDATE poser_component SET active = false WHERE uuid = 'c1';
TABLE last_versions;
SELECT poser_record_versions();
TABLE last_versions;
SELECT * FROM poser_check();
-- a change of only this column
UPDATE poser_component SET price = 2.5 WHERE uuid = 'c2';
UPDATE poser_component SET price = 3 WHERE uuid = 'c2';
SELECT operation, changed FROM poser_component_history('c2');

-- with a default, in both tables: no row was changed, so nothing is recorded
ALTER TABLE poser_component ADD COLUMN stock int NOT NULL DEFAULT 7;
ALTER TABLE poser_component_version ADD COLUMN stock int;
SELECT * FROM poser_check();
SELECT poser_record_versions();
SELECT operation, changed FROM poser_component_history('c2') LIMIT 1;
SELECT * FROM poser_check();

-- in another order, with dropped columns between
ALTER TABLE poser_component_version DROP COLUMN stock, DROP COLUMN price, ADD COLUMN stock int, ADD COLUMN price numeric;
SELECT poser_record_versions();
ALTER TABLE poser_component DROP COLUMN price, ADD COLUMN price numeric;
INSERT INTO poser_component (uuid, widget_uuid, item_code, description, price) VALUES ('c3', 'w1', '3', 'c', 3);
DELETE FROM poser_component WHERE uuid = 'c2';
SELECT poser_record_versions();
TABLE last_versions;
SELECT * FROM poser_check();
-- Dropped from the table: old versions keep the values, new ones have NULL.
ALTER TABLE poser_component DROP COLUMN stock;
UPDATE poser_component SET price = 1 WHERE uuid = 'c3';
TABLE last_versions;
SELECT * FROM poser_check();
ALTER TABLE poser_component_version DROP COLUMN stock;
-- renamed in both
ALTER TABLE poser_component RENAME price TO cost;
SELECT * FROM poser_check();
ALTER TABLE poser_component_version RENAME price TO cost;
UPDATE poser_component SET cost = 2 WHERE uuid = 'c3';
TABLE last_versions;
SELECT * FROM poser_check();

-- A column of another type is not recorded.
ALTER TABLE poser_component ALTER cost TYPE float8;
UPDATE poser_component SET cost = 2.25 WHERE uuid = 'c3';
SELECT * FROM poser_check();
ALTER TABLE poser_component_version ALTER cost TYPE float8;
SELECT * FROM poser_check();
SELECT poser_record_versions();
TABLE last_versions;
ALTER TABLE poser_component DROP COLUMN cost;
ALTER TABLE poser_component_version DROP COLUMN cost;
SELECT * FROM poser_check();

-- a generated column
ALTER TABLE poser_component ADD COLUMN label text GENERATED ALWAYS AS (item_code || ' ' || description) STORED;
SELECT * FROM poser_check();
ALTER TABLE poser_component_version ADD COLUMN label text;
UPDATE poser_component SET description = 'of ' || uuid;
TABLE last_versions;
SELECT * FROM poser_check();
ALTER TABLE poser_component DROP COLUMN label;
ALTER TABLE poser_component_version DROP COLUMN label;

-- a longer column: writes succeed as long as values fit
ALTER TABLE poser_component ALTER item_code TYPE varchar(40);
UPDATE poser_component SET item_code = repeat('1', 20) WHERE uuid = 'c1';
SELECT * FROM poser_check();
UPDATE poser_component SET item_code = repeat('1', 21) WHERE uuid = 'c1';
SELECT item_code FROM poser_component WHERE uuid = 'c1';
ALTER TABLE poser_component_version ALTER item_code TYPE varchar(40);
UPDATE poser_component SET item_code = repeat('1', 21) WHERE uuid = 'c1';
SELECT item_code FROM poser_component_history('c1') LIMIT 1;
SELECT * FROM poser_check();
UPDATE poser_component SET item_code = '1' WHERE uuid = 'c1';
ALTER TABLE poser_component ALTER item_code TYPE varchar(20);
SELECT * FROM poser_check();
ALTER TABLE poser_component_version ALTER item_code TYPE varchar(20) USING left(item_code, 20);
SELECT * FROM poser_check();

-- a dropped column of the extension's own
ALTER TABLE poser_component DROP COLUMN description;
UPDATE poser_component SET active = true WHERE uuid = 'c1';
SELECT operation, changed FROM poser_component_history('c1') LIMIT 1;
SELECT * FROM poser_check();
ALTER TABLE poser_component ADD COLUMN description varchar(255) NOT NULL DEFAULT '';
ALTER TABLE poser_component ALTER description DROP DEFAULT;
SELECT poser_record_versions();
SELECT * FROM poser_check();
-- dropped columns that the versions need
BEGIN;
ALTER TABLE poser_component_version DROP COLUMN operation_type;
UPDATE poser_component SET active = false;
ROLLBACK;
BEGIN;
ALTER TABLE poser_component_version RENAME uuid TO key;
SELECT * FROM poser_check();
UPDATE poser_component SET active = false;
ROLLBACK;
BEGIN;
ALTER TABLE poser_transaction DROP COLUMN username;
UPDATE poser_component SET active = false;
ROLLBACK;
-- extra columns are NULL
ALTER TABLE poser_component_version ADD COLUMN own text, ADD COLUMN noted text DEFAULT 'noted';
ALTER TABLE poser_transaction ADD COLUMN own text;
UPDATE poser_component SET active = NOT active;
SELECT own, noted FROM poser_component_version ORDER BY change_id DESC LIMIT 1;
SELECT own FROM poser_transaction ORDER BY id DESC LIMIT 1;
SELECT * FROM poser_check();
ALTER TABLE poser_component_version DROP COLUMN own, DROP COLUMN noted;
ALTER TABLE poser_transaction DROP COLUMN own;

-- in the middle of a transaction that has written
BEGIN;
UPDATE poser_component SET active = false WHERE uuid = 'c1';
ALTER TABLE poser_component ADD COLUMN price numeric, ALTER description TYPE varchar(255) COLLATE "C";
UPDATE poser_component SET active = true WHERE uuid = 'c1';
ALTER TABLE poser_component_version ADD COLUMN price numeric;
UPDATE poser_component SET price = 4 WHERE uuid = 'c1';
SAVEPOINT a;
ALTER TABLE poser_component_version DROP COLUMN price;
UPDATE poser_component SET price = 5 WHERE uuid = 'c1';
ROLLBACK TO a;
UPDATE poser_component SET price = 6 WHERE uuid = 'c1';
SELECT price FROM poser_component_version ORDER BY change_id DESC LIMIT 4;
ROLLBACK;
UPDATE poser_component SET active = NOT active;
SELECT * FROM poser_check();

--
-- Triggers and keys
--
-- each trigger
CREATE PROCEDURE each_trigger() LANGUAGE plpgsql AS $$
DECLARE
	relation regclass;
	trigger name;
BEGIN
	FOR relation, trigger IN
		SELECT tgrelid, tgname FROM pg_trigger
		 WHERE tgrelid IN ('poser_widget'::regclass, 'poser_component'::regclass, 'poser_transaction'::regclass)
		   AND NOT tgisinternal AND tgname NOT LIKE 'poser_count%' ORDER BY tgrelid::regclass::text, tgname
	LOOP
		EXECUTE format('ALTER TABLE %s DISABLE TRIGGER %I', relation, trigger);
		RAISE WARNING 'disabled: %', (SELECT string_agg(concat_ws(' ', object, problem), ', ') FROM poser_check());
		EXECUTE format('ALTER TABLE %s ENABLE REPLICA TRIGGER %I', relation, trigger);
		RAISE WARNING 'replica: %', (SELECT string_agg(concat_ws(' ', object, problem), ', ') FROM poser_check());
		EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', relation, trigger);
		RAISE WARNING 'always: %', (SELECT string_agg(concat_ws(' ', object, problem), ', ') FROM poser_check());
		EXECUTE format('ALTER TABLE %s ENABLE TRIGGER %I', relation, trigger);
		RAISE WARNING 'enabled: %', (SELECT string_agg(concat_ws(' ', object, problem), ', ') FROM poser_check());
		IF trigger = 'poser_transaction_arrive' THEN
			EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', relation, trigger);
		END IF;
	END LOOP;
END
$$;
\set VERBOSITY terse
CALL each_trigger();
\set VERBOSITY sqlstate
DROP PROCEDURE each_trigger;
SELECT * FROM poser_check();
-- Some triggers of one table are disabled: writes meanwhile are not recorded.
ALTER TABLE poser_component DISABLE TRIGGER poser_version_update;
UPDATE poser_component SET description = 'not recorded' WHERE uuid = 'c1';
DELETE FROM poser_component WHERE uuid = 'c3';
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c4', 'w2', '4', 'd');
ALTER TABLE poser_component ENABLE TRIGGER poser_version_update;
SELECT * FROM poser_check();
SELECT poser_record_versions();
SELECT operation, changed FROM poser_component_history('c1') LIMIT 1;
SELECT * FROM poser_check();
-- a trigger with other arguments
BEGIN;
DROP TRIGGER poser_version_insert ON poser_component;
CREATE TRIGGER poser_version_insert AFTER INSERT ON poser_component REFERENCING NEW TABLE AS new_rows
	EXECUTE FUNCTION poser_version('poser_component_version', 'widget_uuid');
SELECT * FROM poser_check();
ROLLBACK;
-- without the BEFORE trigger, which nested statements need
BEGIN;
DROP TRIGGER poser_version_before ON poser_component;
UPDATE poser_component SET active = NOT active;
SELECT * FROM poser_check();
ROLLBACK;

-- without the table's primary key
BEGIN;
ALTER TABLE poser_component DROP CONSTRAINT poser_component_pkey;
UPDATE poser_component SET active = NOT active WHERE uuid = 'c1';
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c5', 'w2', '5', 'e');
DELETE FROM poser_component WHERE uuid = 'c5';
SELECT * FROM poser_check();
ALTER TABLE poser_component ADD CONSTRAINT poser_component_pkey PRIMARY KEY (uuid);
SELECT * FROM poser_check();
ROLLBACK;
-- with another primary key
BEGIN;
ALTER TABLE poser_component DROP CONSTRAINT poser_component_pkey, ADD CONSTRAINT poser_component_pkey PRIMARY KEY (item_code, uuid);
UPDATE poser_component SET item_code = 'x' WHERE uuid = 'c1';
SELECT * FROM poser_check();
ROLLBACK;
-- without the versions' indexes: writes go on
BEGIN;
DROP INDEX poser_component_version_idx_key;
UPDATE poser_component SET active = NOT active WHERE uuid = 'c1';
SELECT * FROM poser_check();
SELECT count(*) > 2 AS many FROM poser_component_history('c1');
ROLLBACK;
BEGIN;
ALTER TABLE poser_component_version DROP CONSTRAINT poser_component_version_pkey;
ALTER TABLE poser_transaction DROP CONSTRAINT poser_transaction_pkey;
UPDATE poser_component SET active = NOT active WHERE uuid = 'c1';
SELECT * FROM poser_check();
SELECT * FROM poser_component_history('c1');
ROLLBACK;
DROP VIEW last_versions;

--
-- Edited history
--
-- ids of changes and transactions are replaced by "n"
CREATE VIEW problems AS
SELECT regexp_replace(object, '^(transaction) \d+', '\1 n') AS object,
       regexp_replace(regexp_replace(problem, '\y(change|to come:) \d+', '\1 n'), '\d+ is in use', 'n is in use') AS problem
  FROM poser_check();
CREATE PROCEDURE edit(statement text) LANGUAGE plpgsql AS $$
DECLARE
	seen text;
BEGIN
	EXECUTE statement;
	SELECT string_agg(concat_ws(' ', object, problem), E'\n' ORDER BY object COLLATE "C", problem COLLATE "C") INTO seen FROM problems;
	RAISE WARNING E'\n%', seen;
	ROLLBACK;
END
$$;
DELETE FROM poser_component;
DELETE FROM poser_widget;
TRUNCATE poser_widget_version, poser_component_version, poser_transaction;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one'), ('w2', 'two');
UPDATE poser_widget SET description = 'second' WHERE uuid = 'w2';
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c1', 'w1', '1', 'a'), ('c2', 'w1', '2', 'b');
DELETE FROM poser_component WHERE uuid = 'c2';
\set VERBOSITY terse
CALL edit('TRUNCATE poser_widget_version');
CALL edit('TRUNCATE poser_transaction');
CALL edit('TRUNCATE poser_widget_version, poser_component_version, poser_transaction, poser_version_horizon');
CALL edit('DELETE FROM poser_widget_version WHERE uuid = ''w2'' AND operation_type = 1');
CALL edit('DELETE FROM poser_widget_version WHERE uuid = ''w2'' AND operation_type = 0');
CALL edit('DELETE FROM poser_component_version WHERE operation_type = 2');
CALL edit('UPDATE poser_widget_version SET description = ''edited'' WHERE uuid = ''w1''');
CALL edit('UPDATE poser_widget_version SET active = NULL WHERE uuid = ''w1''');
CALL edit('UPDATE poser_widget_version SET uuid = ''w3'' WHERE uuid = ''w1''');
CALL edit('UPDATE poser_widget_version SET uuid = NULL WHERE uuid = ''w1''');
CALL edit('UPDATE poser_widget_version SET operation_type = 0 WHERE operation_type = 1');
CALL edit('UPDATE poser_widget_version SET operation_type = 3 WHERE operation_type = 1');
CALL edit('UPDATE poser_widget_version SET operation_type = -1');
CALL edit('UPDATE poser_component_version SET transaction_id = 0 WHERE uuid = ''c1''');
CALL edit('DELETE FROM poser_transaction WHERE id = (SELECT max(id) FROM poser_transaction)');
CALL edit('UPDATE poser_transaction SET xact = ''9000000000000000000'' WHERE id = (SELECT max(id) FROM poser_transaction)');
CALL edit('INSERT INTO poser_widget_version VALUES (''w1'', ''once more'', true, 1, (SELECT max(id) FROM poser_transaction), 9000000000000000000)');
CALL edit('INSERT INTO poser_component_version VALUES (''c9'', ''w1'', ''9'', ''never was'', true, 0, (SELECT max(id) FROM poser_transaction), nextval(''poser_change_id_seq''))');
-- edits that poser_check() cannot notice
CALL edit('UPDATE poser_widget_version SET description = ''edited'' WHERE uuid = ''w2'' AND operation_type = 0');
CALL edit('UPDATE poser_transaction SET username = ''edited'', comment = ''edited''');
-- edits of the sequence
CALL edit('SELECT setval(''poser_change_id_seq'', 1)');
SELECT setval('poser_change_id_seq', (SELECT max(change_id) FROM poser_component_version)) IS NOT NULL AS set;
SELECT * FROM problems;
CALL edit('ALTER SEQUENCE poser_change_id_seq INCREMENT -1 MINVALUE -1000');
CALL edit('ALTER SEQUENCE poser_change_id_seq CYCLE');
CALL edit('ALTER SEQUENCE poser_change_id_seq CACHE 100');
CALL edit('ALTER SEQUENCE poser_change_id_seq RENAME TO elsewhere');
-- changes of the tables
CALL edit('DROP TABLE poser_widget_version CASCADE');
CALL edit('ALTER TABLE poser_widget_version RENAME TO elsewhere');
CALL edit('ALTER TABLE poser_version_horizon RENAME TO elsewhere');
CALL edit('ALTER TABLE poser_component_version SET UNLOGGED');
CALL edit('ALTER TABLE poser_component_version ALTER change_id TYPE numeric');
CALL edit('ALTER TABLE poser_component_version ALTER transaction_id DROP NOT NULL');
CALL edit('ALTER TABLE poser_transaction ALTER xact DROP NOT NULL');
CALL edit('ALTER TABLE poser_transaction DROP COLUMN comment');
CALL edit('CREATE TABLE child () INHERITS (poser_component_version)');
\set VERBOSITY sqlstate
SELECT * FROM problems;
-- poser_record_versions() records existing rows, and deletes of missing ones.
TRUNCATE poser_widget_version, poser_component_version, poser_transaction;
INSERT INTO poser_component_version VALUES ('c9', 'w1', '9', 'is gone', true, 0, 1, 2);
INSERT INTO poser_transaction VALUES (1, now(), 'somebody', 'somebody', NULL, NULL, NULL, '3');
SELECT poser_record_versions();
SELECT * FROM problems;
SELECT operation, uuid, comment FROM poser_component_history('c9');
SELECT operation, uuid, comment FROM poser_widget_history('w1');
-- The transaction from another cluster has an xact of this cluster now.
SELECT count(*) FROM poser_transaction WHERE xact = '3';
SELECT poser_record_versions();

DROP PROCEDURE edit;
DROP VIEW problems;
DROP EXTENSION poser;
