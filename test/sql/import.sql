-- Imports: a source is compared with a target by a key, and only differing rows are
-- written.

\set VERBOSITY terse
CREATE EXTENSION poser;

-- Procedure look(), function untouched().
\getenv test PG_ABS_SRCDIR
\set file :test '/include/places.sql'
\i :file

-- Imports, and compares the new target with what poser_import_diff() has announced.
-- The source must have all columns of the target.
CREATE FUNCTION import_as_told(source regclass, target regclass, key text[] DEFAULT NULL, fields text[] DEFAULT NULL, deletes bool DEFAULT true)
RETURNS TABLE (created bigint, updated bigint, deleted bigint, unchanged bigint, problems bigint) LANGUAGE plpgsql AS $$
BEGIN
	CREATE TEMPORARY TABLE told ON COMMIT DROP AS SELECT * FROM poser_import_diff($1, $2, $3, $4, $5);
	EXECUTE format('CREATE TEMPORARY TABLE before ON COMMIT DROP AS SELECT to_jsonb("the row") AS content FROM %s AS "the row"', $2);
	SELECT * INTO created, updated, deleted, unchanged FROM poser_import($1, $2, $3, $4, deletes => $5);
	EXECUTE format('CREATE TEMPORARY TABLE after ON COMMIT DROP AS SELECT to_jsonb("the row") AS content FROM %s AS "the row"', $2);
	CREATE TEMPORARY VIEW expected AS
	SELECT content || coalesce(told.new, '{}') AS content
	  FROM before LEFT JOIN told ON operation <> 'create' AND content @> told.key
	 WHERE operation IS DISTINCT FROM 'delete'
	UNION ALL
	SELECT told.key || told.new FROM told WHERE operation = 'create';
	problems := (SELECT count(*) FROM (TABLE expected EXCEPT ALL TABLE after) AS missing)
		+ (SELECT count(*) FROM (TABLE after EXCEPT ALL TABLE expected) AS surplus)
		-- old values are those that were there, and only where they differ
		+ (SELECT count(*) FROM told
			WHERE CASE operation
				  WHEN 'create' THEN told.old IS NOT NULL OR told.new IS NULL
				  WHEN 'update' THEN NOT EXISTS (SELECT FROM before WHERE content @> told.key AND content @> told.old)
						OR ARRAY(SELECT jsonb_object_keys(told.old)) <> ARRAY(SELECT jsonb_object_keys(told.new)) OR told.old = '{}'
				  ELSE told.new IS NOT NULL OR NOT EXISTS (SELECT FROM before WHERE content = told.key || told.old)
				  END)
		+ abs(created - (SELECT count(*) FROM told WHERE operation = 'create'))
		+ abs(updated - (SELECT count(*) FROM told WHERE operation = 'update'))
		+ abs(deleted - (SELECT count(*) FROM told WHERE operation = 'delete'));
	DROP VIEW expected;
	DROP TABLE told, before, after;
	RETURN NEXT;
END
$$;

--
-- Rows are created, updated, deleted, or unchanged
--
INSERT INTO poser_widget VALUES ('w1', 'Clock', true), ('w2', 'Bell', true), ('w3', 'Lamp', false), ('w4', 'Door', true);
CREATE TABLE list (uuid text, colour text, active bool, description text);
INSERT INTO list VALUES ('w1', 'red', true, 'Clock'), ('w2', 'red', true, 'Large bell'), ('w3', NULL, true, 'Lamp'), ('w5', NULL, false, 'Key');
CALL look('poser_widget');
SELECT * FROM poser_import_diff('list', 'poser_widget') ORDER BY key;
SELECT * FROM poser_import_diff('list', 'poser_widget', deletes => true) ORDER BY key;
SELECT * FROM poser_import('list', 'poser_widget');
TABLE poser_widget ORDER BY uuid;
SELECT * FROM untouched('poser_widget');
-- The second import finds nothing to do and writes nothing.
CALL look('poser_widget');
SELECT count(*) AS versions FROM poser_widget_version \gset
SELECT * FROM poser_import_diff('list', 'poser_widget');
SELECT * FROM poser_import('list', 'poser_widget');
SELECT * FROM untouched('poser_widget');
SELECT count(*) - :versions AS new_versions FROM poser_widget_version;
-- deletes on request
SELECT * FROM poser_import('list', 'poser_widget', deletes => true);
SELECT * FROM untouched('poser_widget');
SELECT operation, changed, description FROM poser_widget_history('w4');
SELECT operation, changed, description, active FROM poser_widget_history('w3');
-- one kind of change at a time
UPDATE list SET description = 'Bell' WHERE uuid = 'w2';
DELETE FROM list WHERE uuid = 'w5';
INSERT INTO list VALUES ('w6', NULL, true, 'Nail');
BEGIN;
SELECT created, updated, deleted FROM poser_import('list', 'poser_widget', updates => false);
SELECT uuid, description FROM poser_widget ORDER BY uuid;
ROLLBACK;
SELECT created, updated, deleted FROM poser_import('list', 'poser_widget', creates => false);
SELECT created, updated, deleted FROM poser_import('list', 'poser_widget', creates => false, updates => false, deletes => true);
SELECT uuid, description FROM poser_widget ORDER BY uuid;
SELECT * FROM poser_import('list', 'poser_widget', creates => false, updates => false);
-- limits that just suffice
SELECT * FROM import_as_told('list', 'poser_widget');
UPDATE list SET active = NOT active WHERE uuid IN ('w1', 'w2');
INSERT INTO list VALUES ('w7', NULL, true, 'Hook');
DELETE FROM list WHERE uuid = 'w6';
SELECT * FROM poser_import('list', 'poser_widget', deletes => true, max_create => 1, max_update => 2, max_delete => 1, max_total => 4);
SELECT * FROM poser_import('list', 'poser_widget', deletes => true, max_create => 0, max_update => 0, max_delete => 0, max_total => 0);
-- a table into itself
SELECT * FROM poser_import('poser_widget', 'poser_widget', deletes => true);
-- only the key in common
CREATE TABLE uuids AS SELECT uuid FROM poser_widget WHERE uuid <> 'w1';
SELECT * FROM poser_import('uuids', 'poser_widget');
SELECT * FROM poser_import_diff('uuids', 'poser_widget', deletes => true);
-- an empty source
CREATE TABLE nothing (LIKE poser_widget);
SELECT * FROM poser_import('nothing', 'poser_widget');
BEGIN;
SELECT * FROM import_as_told('nothing', 'poser_widget');
SELECT count(*) FROM poser_widget;
ROLLBACK;
-- A diff writes nothing, an import would.
BEGIN READ ONLY;
SELECT operation, key FROM poser_import_diff('nothing', 'poser_widget', deletes => true) ORDER BY key;
SELECT * FROM poser_import('list', 'poser_widget');
ROLLBACK;

--
-- The source lacks columns: created rows get defaults, updated rows keep their values
--
CREATE VIEW names AS SELECT uuid, description || '!' AS description FROM list WHERE uuid <> 'w3' UNION ALL SELECT 'w9', 'New';
SELECT * FROM poser_import_diff('names', 'poser_widget', deletes => true) ORDER BY key;
SELECT * FROM poser_import('names', 'poser_widget', deletes => true);
TABLE poser_widget ORDER BY uuid;
-- fields in any order, with or without the key
SELECT * FROM poser_import_diff('list', 'poser_widget', fields => '{active}') ORDER BY key;
UPDATE list SET active = true, description = upper(description);
SELECT * FROM poser_import('list', 'poser_widget', fields => '{active}', creates => false);
TABLE poser_widget ORDER BY uuid;
SELECT * FROM poser_import('list', 'poser_widget', fields => '{description,uuid,active}', deletes => true);
TABLE poser_widget ORDER BY uuid;

--
-- Keys
--
-- a given key without an index; the primary key gets its default
CREATE TABLE parts (item_code text, widget_uuid text, description text);
INSERT INTO parts VALUES ('1', 'w1', 'Hand'), ('2', 'w1', 'Face'), ('1', 'w2', 'Clapper');
SELECT * FROM poser_import('parts', 'poser_component', key => '{item_code,widget_uuid}');
CALL look('poser_component');
UPDATE parts SET description = 'Rope' WHERE widget_uuid = 'w2';
INSERT INTO parts VALUES ('2', 'w2', 'Beam');
SELECT * FROM poser_import_diff('parts', 'poser_component', key => '{widget_uuid,item_code}') ORDER BY key;
SELECT * FROM poser_import('parts', 'poser_component', key => '{widget_uuid,item_code}');
SELECT * FROM untouched('poser_component');
SELECT widget_uuid, item_code, description, active, length(uuid), uuid > lag(uuid) OVER (ORDER BY uuid) AS later
  FROM poser_component ORDER BY uuid;
-- the source's primary key, if the target has none
CREATE TABLE bare (code int, region text, price numeric);
CREATE TABLE prices (price numeric, region text, code int, PRIMARY KEY (code, region));
INSERT INTO prices VALUES (1.5, 'north', 1), (2.0, 'south', 1), (9, 'north', 2);
INSERT INTO bare VALUES (1, 'north', 1.50), (1, 'south', 2.0), (3, 'north', 7), (NULL, 'north', 8), (NULL, 'north', 8);
SELECT * FROM poser_import_diff('prices', 'bare', deletes => true) ORDER BY key;
SELECT * FROM poser_import('prices', 'bare', deletes => true);
-- Rows with a NULL key are left alone.
TABLE bare ORDER BY code, region;
-- the only unique index of the target
ALTER TABLE prices DROP CONSTRAINT prices_pkey;
CREATE UNIQUE INDEX ON bare (region, code) INCLUDE (price);
CREATE UNIQUE INDEX ON bare (code) WHERE price > 100;
CREATE UNIQUE INDEX ON bare (code, lower(region)) WHERE code IS NOT NULL;
UPDATE prices SET price = price + 1 WHERE region = 'south';
SELECT * FROM poser_import_diff('prices', 'bare', deletes => true) ORDER BY key;
SELECT * FROM import_as_told('prices', 'bare');
-- a primary key of several columns
CREATE TABLE composite (a int, b text, c date, PRIMARY KEY (c, a));
INSERT INTO composite VALUES (1, 'x', '2001-01-01'), (1, 'y', '2001-01-02'), (2, 'z', '2001-01-01');
CREATE TABLE composites AS SELECT * FROM composite WHERE a = 1;
UPDATE composites SET b = b || b WHERE b = 'y';
INSERT INTO composites VALUES (3, NULL, '2001-01-01');
SELECT * FROM import_as_told('composites', 'composite');
TABLE composite ORDER BY c, a;

--
-- Names that need quoting, and names that the queries use themselves
--
CREATE SCHEMA "regress_poser ""in""";
CREATE TABLE "regress_poser ""in"""."sou""rce" ("Key ""1""" int, "%s" text, "select" text, c1 int, o1 int, row int, tag text, source text, old text, new text);
CREATE TABLE "regress_poser ""in"""."tar'get\" ("select" text, old text, new text, source text, tag text, row int, o1 int, c1 int, "%s" text,
	"Key ""1""" int PRIMARY KEY);
INSERT INTO "regress_poser ""in"""."tar'get\" VALUES ('a', 'b', 'c', 'd', 'e', 1, 2, 3, 'f', 1), ('a', 'b', 'c', 'd', 'e', 1, 2, 3, 'f', 2);
INSERT INTO "regress_poser ""in"""."sou""rce" VALUES (1, 'f', 'a', 3, 2, 1, 'e', 'd', 'b', 'c'), (2, 'F', 'A', 33, 22, 11, 'E', 'D', 'B', 'C'), (3, 'g', 'h', NULL, NULL, NULL, NULL, NULL, NULL, NULL);
SELECT * FROM poser_import_diff('"regress_poser ""in"""."sou""rce"', '"regress_poser ""in"""."tar''get\"') ORDER BY key;
SELECT * FROM import_as_told('"regress_poser ""in"""."sou""rce"', '"regress_poser ""in"""."tar''get\"', '{"Key \"1\""}');
TABLE "regress_poser ""in"""."tar'get\" ORDER BY "Key ""1""";
CREATE TABLE "regress_poser ""in""".poser_row ("row" int PRIMARY KEY, "there" text, ctag text, s text, t text);
CREATE TABLE "regress_poser ""in""".poser_change (LIKE "regress_poser ""in""".poser_row INCLUDING ALL);
INSERT INTO "regress_poser ""in""".poser_row VALUES (1, 'a', 'b', 'c', 'd'), (2, 'e', 'f', 'g', 'h');
INSERT INTO "regress_poser ""in""".poser_change VALUES (1, 'A', 'B', 'c', 'd'), (3, 'E', 'F', 'G', 'H');
SET search_path = "regress_poser ""in""", public;
SELECT * FROM import_as_told('poser_row', 'poser_change');
TABLE poser_change ORDER BY "row";
RESET search_path;
SET client_min_messages = warning;
DROP SCHEMA "regress_poser ""in""" CASCADE;
RESET client_min_messages;

--
-- Relations that can be a source or a target
--
CREATE MATERIALIZED VIEW materialized AS SELECT * FROM list;
CREATE TEMPORARY TABLE staged AS SELECT uuid, 'staged' AS description FROM list;
SELECT * FROM poser_import('materialized', 'poser_widget');
SELECT * FROM poser_import('staged', 'poser_widget');
-- several in one statement
SELECT source, i.* FROM (VALUES (1, 'materialized'::regclass), (2, 'staged'), (3, 'list')) AS v (n, source),
	   LATERAL (SELECT created, updated FROM poser_import(source, 'poser_widget')) AS i ORDER BY n;
-- partitions: rows go to their partition, and move to another one
CREATE TABLE stock (id int, region text, amount int) PARTITION BY LIST (region);
CREATE TABLE stock_north PARTITION OF stock FOR VALUES IN ('north');
CREATE TABLE stock_south (amount int, gone int, region text, id int);
ALTER TABLE stock_south DROP COLUMN gone;
ALTER TABLE stock ATTACH PARTITION stock_south FOR VALUES IN ('south');
INSERT INTO stock VALUES (1, 'north', 10), (2, 'north', 20), (3, 'south', 30), (4, 'south', 40), (5, 'south', 50);
CREATE TEMPORARY TABLE stock_list AS TABLE stock;
UPDATE stock_list SET region = 'south' WHERE id = 2;
UPDATE stock_list SET amount = 31 WHERE id = 3;
UPDATE stock_list SET id = 6 WHERE id = 5;
CALL look('stock');
SELECT * FROM import_as_told('stock_list', 'stock', '{id}');
SELECT tableoid::regclass, * FROM stock ORDER BY id;
SELECT * FROM untouched('stock');
SELECT * FROM import_as_told('stock', 'stock_list', '{id}');
-- inheritance: the target without its children, the source with them
CREATE TABLE child () INHERITS (composite);
INSERT INTO child VALUES (1, 'child', '2001-01-01'), (9, 'child', '2001-01-01');
SELECT * FROM poser_import('composites', 'composite', deletes => true);
SELECT tableoid::regclass, * FROM composite ORDER BY c, a, b;
DELETE FROM child WHERE a = 1;
SELECT * FROM poser_import('composite', 'composites', key => '{c,a}');
DROP TABLE child;

--
-- Order: unique values that swap, and a table that references itself
--
CREATE TABLE slots (id int PRIMARY KEY, slot text NOT NULL UNIQUE);
INSERT INTO slots VALUES (1, 'a'), (2, 'b'), (3, 'c');
CREATE TABLE plan (id int, slot text);
INSERT INTO plan VALUES (1, 'c'), (4, 'a'), (2, 'd'), (5, 'b');
SELECT * FROM import_as_told('plan', 'slots');
TABLE slots ORDER BY id;
CREATE TABLE tree (id int PRIMARY KEY, parent int REFERENCES tree, name text);
CREATE TABLE twigs (name text, parent int, id int);
INSERT INTO twigs VALUES ('leaf', 2, 4), ('branch', 1, 2), ('other branch', 1, 3), ('trunk', NULL, 1);
SELECT * FROM import_as_told('twigs', 'tree');
UPDATE twigs SET parent = 5 WHERE id IN (2, 4);
UPDATE twigs SET id = 5 WHERE id = 3;
SELECT * FROM import_as_told('twigs', 'tree');
TABLE tree ORDER BY id;
DELETE FROM twigs;
SELECT * FROM import_as_told('twigs', 'tree');

--
-- Triggers, and history
--
CREATE TABLE fired (event text);
CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO fired VALUES (concat_ws(' ', TG_NAME, CASE WHEN TG_LEVEL = 'ROW' THEN NEW.uuid END));
	RETURN NULL;
END
$$;
CREATE TRIGGER description AFTER UPDATE OF description ON poser_widget FOR EACH ROW EXECUTE FUNCTION fire();
CREATE TRIGGER active AFTER UPDATE OF active ON poser_widget FOR EACH ROW EXECUTE FUNCTION fire();
CREATE TRIGGER key AFTER UPDATE OF uuid ON poser_widget EXECUTE FUNCTION fire();
CREATE TRIGGER inserted AFTER INSERT ON poser_widget EXECUTE FUNCTION fire();
CREATE TRIGGER updated AFTER UPDATE ON poser_widget EXECUTE FUNCTION fire();
CREATE TRIGGER deleted AFTER DELETE ON poser_widget EXECUTE FUNCTION fire();
TRUNCATE list;
INSERT INTO list (uuid, active, description) SELECT uuid, active, description FROM poser_widget;
SELECT * FROM poser_import('list', 'poser_widget', deletes => true);
TABLE fired;
UPDATE list SET description = initcap(description) WHERE uuid IN ('w1', 'w2', 'w3');
UPDATE list SET active = NOT active WHERE uuid IN ('w3', 'w5', 'w7');
SELECT * FROM import_as_told('list', 'poser_widget');
SELECT event, count(*) FROM fired GROUP BY event ORDER BY event;
SET client_min_messages = warning;
DROP FUNCTION fire CASCADE;
RESET client_min_messages;
-- widgets and components in one transaction, under one name
SELECT max(id) AS before FROM poser_transaction \gset
UPDATE list SET description = 'Imported' WHERE uuid = 'w1';
INSERT INTO list VALUES ('w8', NULL, true, 'Imported'), ('w10', NULL, true, 'Imported');
INSERT INTO parts VALUES ('1', 'w8', 'Imported');
DELETE FROM parts WHERE widget_uuid = 'w1';
BEGIN;
SET LOCAL poser.runas = 'importer';
SET LOCAL poser.comment = 'price list';
SELECT * FROM poser_import('list', 'poser_widget', deletes => true);
SELECT * FROM poser_import('parts', 'poser_component', '{widget_uuid,item_code}', deletes => true);
COMMIT;
SELECT username, comment, (SELECT count(*) FROM poser_widget_version WHERE transaction_id = id) AS widgets,
	   (SELECT count(*) FROM poser_component_version WHERE transaction_id = id) AS components
  FROM poser_transaction WHERE id > :before;
SELECT uuid, component_count FROM poser_widget_list();
SELECT * FROM poser_check();

SET client_min_messages = warning;
DROP EXTENSION poser;
DROP FUNCTION import_as_told, untouched;
DROP PROCEDURE look;
DROP VIEW names;
DROP MATERIALIZED VIEW materialized;
DROP TABLE seen, list, uuids, nothing, parts, bare, prices, composite, composites, stock, staged, stock_list, slots, plan, tree, twigs, fired;
