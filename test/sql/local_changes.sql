-- poser_local_changes(): what was added to the extension's tables or changed in them, as
-- statements.  test/t/local_changes.pl restores databases with them.
SET client_min_messages = warning;
CREATE EXTENSION poser;
SELECT * FROM poser_local_changes();

-- columns: added ones before the rows, their defaults after them
CREATE TYPE size AS ENUM ('S', 'M');
ALTER TABLE poser_widget ADD COLUMN "Size" size NOT NULL DEFAULT 'S', ADD COLUMN weight numeric(10,2);
ALTER TABLE poser_widget_version ADD COLUMN "Size" size;
ALTER TABLE poser_component ALTER COLUMN item_code TYPE varchar(40);
SELECT * FROM poser_local_changes();

-- they need no other statement when they are gone
ALTER TABLE poser_widget DROP COLUMN "Size", DROP COLUMN weight;
ALTER TABLE poser_widget_version DROP COLUMN "Size";
ALTER TABLE poser_component ALTER COLUMN item_code TYPE varchar(20);
SELECT * FROM poser_local_changes();

-- a key of another type has another default, and is cast through text
ALTER TABLE poser_component ALTER COLUMN uuid DROP DEFAULT,
	ALTER COLUMN uuid TYPE uuid USING uuid::uuid, ALTER COLUMN uuid SET DEFAULT gen_random_uuid();
SELECT * FROM poser_local_changes();
ALTER TABLE poser_component ALTER COLUMN uuid DROP DEFAULT,
	ALTER COLUMN uuid TYPE varchar(32), ALTER COLUMN uuid SET DEFAULT poser_uuid();
SELECT * FROM poser_local_changes();

-- constraints: first what is removed, then keys, checks, indexes, foreign keys
CREATE FUNCTION fits(text) RETURNS boolean LANGUAGE sql IMMUTABLE RETURN length($1) < 100;
ALTER TABLE poser_component DROP CONSTRAINT poser_component_fk_widget;
ALTER TABLE poser_component ADD CONSTRAINT poser_component_fk_widget
	FOREIGN KEY (widget_uuid) REFERENCES poser_widget (uuid) ON DELETE CASCADE;
ALTER TABLE poser_widget ADD UNIQUE (description), ADD CONSTRAINT fits CHECK (fits(description));
CREATE INDEX "Items" ON poser_component (item_code);
SELECT * FROM poser_local_changes();
ALTER TABLE poser_component DROP CONSTRAINT poser_component_fk_widget;
ALTER TABLE poser_component ADD CONSTRAINT poser_component_fk_widget
	FOREIGN KEY (widget_uuid) REFERENCES poser_widget (uuid);
ALTER TABLE poser_widget DROP CONSTRAINT poser_widget_description_key, DROP CONSTRAINT fits;
DROP INDEX "Items";

-- a foreign key is made again with its key
ALTER TABLE poser_component DROP CONSTRAINT poser_component_fk_widget;
ALTER TABLE poser_widget DROP CONSTRAINT poser_widget_pkey, ADD CONSTRAINT widget_key PRIMARY KEY (uuid);
ALTER TABLE poser_component ADD CONSTRAINT poser_component_fk_widget
	FOREIGN KEY (widget_uuid) REFERENCES poser_widget (uuid);
SELECT * FROM poser_local_changes();
ALTER TABLE poser_widget RENAME CONSTRAINT widget_key TO poser_widget_pkey;
SELECT * FROM poser_local_changes();

-- triggers and whether they are enabled
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER "Mine" AFTER INSERT ON poser_widget FOR EACH ROW EXECUTE FUNCTION nothing();
ALTER TABLE poser_widget ENABLE REPLICA TRIGGER "Mine", DISABLE TRIGGER poser_version_insert;
ALTER TABLE poser_transaction ENABLE TRIGGER poser_transaction_arrive;
SELECT * FROM poser_local_changes();
DROP TRIGGER "Mine" ON poser_widget;
ALTER TABLE poser_widget ENABLE TRIGGER poser_version_insert;
ALTER TABLE poser_transaction ENABLE ALWAYS TRIGGER poser_transaction_arrive;
SELECT * FROM poser_local_changes();

-- row-level security: policies, then the tables
CREATE ROLE regress_local_changes;
ALTER TABLE poser_widget_version ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY lamps ON poser_widget_version FOR SELECT TO regress_local_changes USING (uuid ~ 'lamp');
CREATE POLICY nothing ON poser_batch AS RESTRICTIVE USING (false) WITH CHECK (NOT false);
ALTER TABLE poser_batch_row DISABLE ROW LEVEL SECURITY;
ALTER TABLE poser_widget OWNER TO regress_local_changes;
SELECT * FROM poser_local_changes();
ALTER TABLE poser_widget OWNER TO CURRENT_USER;
ALTER TABLE poser_widget_version DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY;
DROP POLICY lamps ON poser_widget_version;
DROP POLICY nothing ON poser_batch;
ALTER TABLE poser_batch_row ENABLE ROW LEVEL SECURITY;
SELECT * FROM poser_local_changes();

-- settings: those that Poser has set are set back where users have reset them
ALTER TABLE poser_widget SET (fillfactor = 90, autovacuum_enabled = off), ALTER COLUMN description SET STATISTICS 200;
ALTER TABLE poser_component_count RESET (fillfactor), ALTER COLUMN total SET STATISTICS -1;
ALTER TABLE poser_datasync_skipped REPLICA IDENTITY DEFAULT;
COMMENT ON COLUMN poser_component.item_code IS 'the supplier''s';
SELECT * FROM poser_local_changes();

-- an identity goes on after the greatest number that there is or was
INSERT INTO poser_widget (uuid, description) VALUES ('a', 'Lamp'), ('b', 'Chair');
ALTER TABLE poser_component ADD COLUMN number integer GENERATED ALWAYS AS IDENTITY (START 10);
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('a', '1', 'Foot');
SELECT * FROM poser_local_changes() WHERE statement ~ 'number';

-- a role without privileges reads what is in the catalogs, and no position of a sequence
SET ROLE regress_local_changes;
SELECT count(*), count(*) FILTER (WHERE statement ~ 'setval') FROM poser_local_changes();
RESET ROLE;

DROP EXTENSION poser;
DROP TYPE size;
DROP FUNCTION fits, nothing;
DROP ROLE regress_local_changes;
