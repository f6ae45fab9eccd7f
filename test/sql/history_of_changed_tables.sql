-- Reading and reverting a history with longer columns, GENERATED columns, or versions
-- that were edited.

\set VERBOSITY sqlstate
CREATE EXTENSION poser;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c1', 'w1', '1', 'a');
SELECT max(id) AS made FROM poser_transaction \gset

-- varchar(20) made text in both
ALTER TABLE poser_component ALTER item_code TYPE text;
ALTER TABLE poser_component_version ALTER item_code TYPE text;
UPDATE poser_component SET item_code = repeat('1', 30);
SELECT operation, changed, item_code FROM poser_component_history('c1');
SELECT operation, relation, item_code FROM poser_widget_history('w1', with_components => true);
SELECT item_code FROM poser_component_as_of('infinity');
SELECT poser_widget_revert('w1', :made, with_components => true);
SELECT item_code FROM poser_component;

-- A key of another type is not read: in the table, in its versions, in both.
ALTER TABLE poser_component ALTER uuid DROP DEFAULT;
CREATE FUNCTION as_number(text) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT pg_catalog.ascii($1)';
SELECT uuid FROM poser_component_history('c1') LIMIT 1;
SELECT uuid FROM poser_component_as_of('infinity');
BEGIN;
ALTER TABLE poser_component ALTER uuid TYPE int[] USING ARRAY[as_number(uuid)];
SAVEPOINT a;
SELECT * FROM poser_component_history('c1');
ROLLBACK TO a;
SELECT * FROM poser_component_as_of('infinity');
ROLLBACK TO a;
SELECT poser_widget_revert('w1', :made, with_components => true);
ROLLBACK TO a;
SELECT * FROM poser_widget_history('w1', with_components => true);
ROLLBACK TO a;
UPDATE poser_component SET active = false;
ROLLBACK;
BEGIN;
ALTER TABLE poser_component_version ALTER uuid TYPE uuid USING pg_catalog.md5(uuid)::uuid;
SAVEPOINT a;
SELECT * FROM poser_component_history('c1');
ROLLBACK TO a;
SELECT * FROM poser_component_as_of('infinity');
ROLLBACK TO a;
SELECT poser_widget_revert('w1', :made, with_components => true);
ROLLBACK;
BEGIN;
ALTER TABLE poser_component ALTER uuid TYPE uuid USING pg_catalog.md5(uuid)::uuid;
ALTER TABLE poser_component_version ALTER uuid TYPE uuid USING pg_catalog.md5(uuid)::uuid;
SAVEPOINT a;
SELECT * FROM poser_component_history('c1');
ROLLBACK TO a;
SELECT uuid = pg_catalog.md5('c1')::uuid AS same FROM poser_component_as_of('infinity');
-- They are still found by the widget's key.
SELECT operation, relation FROM poser_widget_history('w1', with_components => true);
UPDATE poser_component SET active = false;
SELECT poser_widget_revert('w1', :made, with_components => true);
SELECT uuid = pg_catalog.md5('c1')::uuid AS same, active FROM poser_component;
ROLLBACK;
BEGIN;
ALTER TABLE poser_component DROP CONSTRAINT poser_component_fk_widget;
ALTER TABLE poser_component_version ALTER widget_uuid TYPE int USING as_number(widget_uuid);
SAVEPOINT a;
SELECT * FROM poser_widget_history('w1', with_components => true);
ROLLBACK TO a;
SELECT poser_widget_revert('w1', :made, with_components => true);
ROLLBACK;
BEGIN;
ALTER TABLE poser_widget_version ALTER uuid TYPE int USING as_number(uuid);
SAVEPOINT a;
SELECT * FROM poser_widget_history('w1');
ROLLBACK TO a;
SELECT * FROM poser_widget_as_of('infinity');
ROLLBACK TO a;
SELECT poser_widget_revert('w1', :made);
ROLLBACK;
SELECT uuid FROM poser_component_history('c1') LIMIT 1;
DROP FUNCTION as_number;
ALTER TABLE poser_component ALTER uuid SET DEFAULT poser_uuid();

-- the same holds for positions in the history
BEGIN;
ALTER TABLE poser_version_horizon ALTER transaction_id TYPE numeric;
INSERT INTO poser_version_horizon VALUES (0, 0);
SAVEPOINT a;
SELECT uuid FROM poser_component_as_of('infinity');
ROLLBACK TO a;
SELECT poser_widget_revert('w1', :made);
ROLLBACK TO a;
SELECT poser_prune_versions('0');
ROLLBACK;
BEGIN;
ALTER TABLE poser_transaction ALTER id TYPE numeric;
SAVEPOINT a;
SELECT uuid FROM poser_component_as_of('infinity');
ROLLBACK TO a;
SELECT uuid FROM poser_component_history('c1');
ROLLBACK TO a;
SELECT poser_prune_versions('0');
ROLLBACK TO a;
UPDATE poser_component SET active = false;
ROLLBACK;

-- If the key has another type that the argument can be cast to, keys compare as that
-- type: char is padded, so blanks do not count.
SELECT count(*) FROM poser_component_history('c1  ');
BEGIN;
ALTER TABLE poser_component ALTER uuid TYPE char(8);
ALTER TABLE poser_component_version ALTER uuid TYPE char(8);
SELECT count(*) > 0 AS found FROM poser_component_history('c1  ');
ROLLBACK;
SELECT count(*) FROM poser_component_history('c1  ');
CREATE DOMAIN key AS varchar CHECK (VALUE <> '');
BEGIN;
ALTER TABLE poser_component ALTER uuid TYPE key;
ALTER TABLE poser_component_version ALTER uuid TYPE key;
SELECT count(*) > 0 AS found FROM poser_component_history('c1');
ROLLBACK;
DROP DOMAIN key;

-- Invalid plans are not kept.
CREATE VIEW plans AS SELECT count(*) AS plans FROM pg_backend_memory_contexts WHERE name = 'SPI Plan';
SELECT count(*) > 0 AS found FROM poser_component_history('c1');
SELECT count(*) FROM poser_component_as_of('infinity');
SELECT plans FROM plans \gset
BEGIN;
DO $$
BEGIN
	FOR i IN 1..50 LOOP
		EXECUTE format('ALTER TABLE poser_component_version ADD COLUMN extra_%s int', i);
		PERFORM poser_component_history('c1'), poser_component_as_of('infinity');
	END LOOP;
END
$$;
SELECT plans - :plans < 5 AS bounded FROM plans;
ROLLBACK;
DROP VIEW plans;

-- A plan that is running stays, also if it becomes invalid and is run once more.
CREATE FUNCTION look_again(uuid text) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
	IF current_setting('regress_poser.looking', true) IS DISTINCT FROM 'on' THEN
		PERFORM set_config('regress_poser.looking', 'on', true);
		CREATE SCHEMA regress_poser_made;
		PERFORM FROM poser_widget_get('w1');
		PERFORM FROM poser_component_history('c1');
		DROP SCHEMA regress_poser_made;
		PERFORM FROM poser_widget_get('w1');
		PERFORM set_config('regress_poser.looking', 'off', true);
	END IF;
	RETURN true;
END
$$;
CREATE ROLE regress_poser_reader;
GRANT SELECT ON poser_widget, poser_component, poser_widget_summary, poser_component_version TO regress_poser_reader;
ALTER TABLE poser_widget ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON poser_widget TO regress_poser_reader USING (look_again(uuid));
ALTER TABLE poser_component_version ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON poser_component_version TO regress_poser_reader USING (look_again(uuid));
SET ROLE regress_poser_reader;
SELECT uuid, component_count FROM poser_widget_get('w1');
SELECT operation, uuid FROM poser_component_history('c1');
SELECT uuid, component_count FROM poser_widget_get('w1');
RESET ROLE;
DROP POLICY own ON poser_widget;
DROP POLICY own ON poser_component_version;
ALTER TABLE poser_widget DISABLE ROW LEVEL SECURITY;
ALTER TABLE poser_component_version DISABLE ROW LEVEL SECURITY;
DROP FUNCTION look_again;
DROP OWNED BY regress_poser_reader;
DROP ROLE regress_poser_reader;

-- An identity column cannot be set by UPDATE: it keeps its value, and returns with the row.
ALTER TABLE poser_widget ADD COLUMN number int GENERATED ALWAYS AS IDENTITY;
ALTER TABLE poser_widget_version ADD COLUMN number int;
SELECT poser_record_versions();
SELECT max(id) AS numbered FROM poser_transaction \gset
UPDATE poser_widget SET number = DEFAULT, description = 'second';
SELECT poser_widget_revert('w1', :numbered);
SELECT description, number FROM poser_widget;
UPDATE poser_widget SET description = 'third';
DELETE FROM poser_component;
DELETE FROM poser_widget;
SELECT poser_widget_revert('w1', :numbered);
SELECT description, number FROM poser_widget;
SELECT object FROM poser_check();

-- transactions that do not exist
UPDATE poser_widget_version SET transaction_id = 0;
SELECT transaction_id, username, operation, description FROM poser_widget_history('w1') LIMIT 2;
UPDATE poser_widget_version SET transaction_id = -change_id WHERE operation_type = 0;
SELECT transaction_id < 0 AS negative, username, operation FROM poser_widget_history('w1') WHERE operation = 'insert';

DROP EXTENSION poser;
