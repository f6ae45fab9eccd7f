-- Relations of another kind in place of the history's tables, NULL keys, types with a
-- length: there is an error or the right result, never a crash.

\set VERBOSITY sqlstate
CREATE EXTENSION poser;

-- a partitioned table, a view
ALTER TABLE poser_widget_version RENAME TO kept;
CREATE TABLE poser_widget_version (LIKE kept) PARTITION BY RANGE (change_id);
CREATE TABLE part PARTITION OF poser_widget_version DEFAULT;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', '');
SELECT * FROM poser_widget_history('w1');
SELECT object, problem FROM poser_check() WHERE object LIKE 'table%';
DROP TABLE poser_widget_version;
CREATE VIEW poser_widget_version AS TABLE kept;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', '');
SELECT poser_record_versions();
DROP VIEW poser_widget_version;
ALTER TABLE kept RENAME TO poser_widget_version;
ALTER TABLE poser_transaction RENAME TO kept;
CREATE VIEW poser_transaction AS TABLE kept;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', '');
DROP VIEW poser_transaction;
ALTER TABLE kept RENAME TO poser_transaction;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', '');
SELECT * FROM poser_check();

-- Recorded tables of another kind are refused when a trigger fires.
CREATE TABLE parted (LIKE poser_widget, PRIMARY KEY (uuid)) PARTITION BY LIST (uuid);
CREATE TABLE parted_1 PARTITION OF parted DEFAULT;
CREATE TRIGGER version_before BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON parted
	EXECUTE FUNCTION poser_version('poser_widget_version', 'uuid');
INSERT INTO parted VALUES ('w8', '', true);
TRUNCATE parted;
-- A partition that is written directly is an ordinary table.
DROP TRIGGER version_before ON parted;
CREATE TRIGGER version_truncate AFTER TRUNCATE ON parted EXECUTE FUNCTION poser_version('poser_widget_version', 'uuid');
CREATE TRIGGER version_insert AFTER INSERT ON parted_1 REFERENCING NEW TABLE AS new_rows
	EXECUTE FUNCTION poser_version('poser_widget_version', 'uuid');
CREATE TRIGGER version_before BEFORE TRUNCATE ON parted_1 EXECUTE FUNCTION poser_version('poser_widget_version', 'uuid');
INSERT INTO parted_1 VALUES ('w8', '', true);
TRUNCATE parted;
TRUNCATE parted_1;
SELECT uuid, operation_type FROM poser_widget_version ORDER BY change_id DESC LIMIT 2;
DROP TABLE parted;
DELETE FROM poser_widget_version WHERE uuid = 'w8';

-- types with a length: values are padded or cut
ALTER TABLE poser_widget ADD COLUMN code char(10), ADD COLUMN bits bit(4), ADD COLUMN price numeric(10, 2), ADD COLUMN label text;
ALTER TABLE poser_widget_version ADD COLUMN code char(10), ADD COLUMN bits bit(4), ADD COLUMN price numeric(10, 1), ADD COLUMN label char(5);
UPDATE poser_widget SET code = 'abc', bits = '1010', price = 1.25, label = 'x';
SELECT code, bits, price, label FROM poser_widget_version ORDER BY change_id DESC LIMIT 1;
-- A value that would change is not recorded.
SELECT * FROM poser_check();
SELECT poser_record_versions();
SELECT code, bits, price, label FROM poser_widget_as_of('infinity');
SELECT transaction_id AS first FROM poser_widget_version ORDER BY change_id LIMIT 1 \gset
SELECT poser_widget_revert('w1', :first), poser_widget_revert('w1', (SELECT max(transaction_id) FROM poser_widget_version));
SELECT code, bits FROM poser_widget;
ALTER TABLE poser_widget DROP COLUMN price, DROP COLUMN label;

-- a schema with a name that needs quoting in more than one way
ALTER SCHEMA public RENAME TO "it's 100% ""public""";
SET search_path = "it's 100% ""public""";
SELECT * FROM poser_check();
SELECT operation FROM poser_widget_history('w1') LIMIT 1;
ALTER SCHEMA "it's 100% ""public""" RENAME TO public;
RESET search_path;

-- NULL keys, in nested statements
ALTER TABLE poser_component DROP CONSTRAINT poser_component_fk_widget;
ALTER TABLE poser_widget DROP CONSTRAINT poser_widget_pkey, ALTER uuid DROP NOT NULL;
CREATE UNIQUE INDEX own ON poser_widget (uuid);
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	UPDATE poser_widget SET description = 'touched' WHERE uuid = 'w1';
	RETURN NULL;
END
$$;
CREATE TRIGGER touch AFTER INSERT ON poser_widget FOR EACH ROW EXECUTE FUNCTION touch();
INSERT INTO poser_widget (uuid, description) VALUES (NULL, 'none'), ('w2', 'two');
SELECT uuid, operation_type, description FROM poser_widget_version ORDER BY change_id DESC LIMIT 3;
DROP FUNCTION touch CASCADE;
DROP EXTENSION poser;

-- A nested statement that changes nothing leaves no transaction.
CREATE EXTENSION poser;
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	UPDATE poser_widget SET active = active;
	RETURN NULL;
END
$$;
CREATE TRIGGER touch AFTER UPDATE ON poser_widget FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION touch();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one');
UPDATE poser_widget SET description = 'one';
SELECT count(*) FROM poser_transaction;
DROP EXTENSION poser;

-- After DROP EXTENSION a new history begins.
CREATE EXTENSION poser;
CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	UPDATE poser_widget SET description = description || ' again' WHERE uuid = NEW.uuid;
	RETURN NULL;
END
$$;
CREATE TRIGGER again AFTER INSERT ON poser_widget FOR EACH ROW EXECUTE FUNCTION again();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one');
SELECT operation, description FROM poser_widget_history('w1');
DROP EXTENSION poser;
DROP FUNCTION touch, again;

-- The update has its own comment.
CREATE EXTENSION poser VERSION '1.1';
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one');
BEGIN;
SET LOCAL poser.comment = 'user''s';
ALTER EXTENSION poser UPDATE;
UPDATE poser_widget SET description = 'two';
COMMIT;
SELECT comment, operation FROM poser_widget_history('w1');
DROP EXTENSION poser;
