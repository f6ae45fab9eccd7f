-- A history for any table, by one call.
SET client_min_messages = warning;
CREATE EXTENSION poser;
RESET client_min_messages;
CREATE FUNCTION columns(relation regclass) RETURNS TABLE (columns text) LANGUAGE sql AS $$
	SELECT concat_ws(' ', attname, format_type(atttypid, atttypmod), CASE WHEN collname <> 'default' THEN 'COLLATE ' || collname END, CASE WHEN attnotnull THEN 'NOT NULL' END)
	  FROM pg_attribute LEFT JOIN pg_collation AS c ON c.oid = attcollation WHERE attrelid = relation AND attnum > 0 AND NOT attisdropped ORDER BY attnum $$;
CREATE FUNCTION indexes(relation regclass) RETURNS TABLE (index text) LANGUAGE sql AS $$
	SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = relation ORDER BY indexrelid $$;
CREATE TABLE customer (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, email text NOT NULL, pw text, notes text);
CREATE TABLE invoice_line (invoice_id bigint, line int, item text, price numeric(10,2), PRIMARY KEY (invoice_id, line));
INSERT INTO customer (email, pw) VALUES ('anna@x', 'secret');
SELECT poser_track('customer', exclude => '{pw}'), poser_track('invoice_line');
SELECT * FROM columns('customer_version');
SELECT * FROM indexes('customer_version');
SELECT tgname, tgenabled, tgnargs FROM pg_trigger WHERE tgrelid IN ('customer'::regclass, 'customer_version'::regclass) AND NOT tgisinternal ORDER BY tgrelid, tgname;
SELECT * FROM poser_tables;

-- ordinary work
SET poser.runas = 'alice';
SET poser.comment = 'new customer';
INSERT INTO customer (email, pw) VALUES ('bert@x', 'secret');
INSERT INTO invoice_line VALUES (7, 1, 'lamp', 10), (7, 2, 'chair', 25), (8, 1, 'lamp', 9.5);
RESET poser.comment;
UPDATE customer SET notes = 'calls on Mondays' WHERE id = 2;
UPDATE customer SET pw = 'other' WHERE id = 2;
UPDATE invoice_line SET price = 11 WHERE invoice_id = 7 AND line = 1;
DELETE FROM invoice_line WHERE line = 2;
DELETE FROM customer WHERE id = 2;
SELECT username, comment, operation, changed, old, new FROM poser_history('customer', '{"id": 2}');
SELECT operation, old, new FROM poser_history('invoice_line', '{"invoice_id": 7}');
SELECT transaction_id AS inserted FROM poser_history('customer', '{"id": 2}') WHERE operation = 'insert' \gset
SELECT poser_revert('customer', '{"id": 2}', :inserted);
SELECT * FROM customer ORDER BY id;
ALTER TABLE customer ADD COLUMN vat text;
ALTER TABLE customer RENAME email TO mail;
SELECT poser_track('customer');
UPDATE customer SET vat = 'DE1', mail = 'anna@y' WHERE id = 1;
SELECT operation, changed, old, new FROM poser_history('customer', '{"id": 1}');

-- existing => false: rows get their first version when they are changed, or by poser_record_versions()
CREATE TABLE stock (id int PRIMARY KEY, amount int);
INSERT INTO stock SELECT i, i FROM generate_series(1, 4) AS i;
SELECT poser_track('stock', existing => false);
SELECT count(*) FROM stock_version;
UPDATE stock SET amount = 20 WHERE id = 2;
SELECT id, amount, operation_type FROM stock_version ORDER BY change_id;
-- a later call leaves it so
SELECT poser_track('stock');
SELECT count(*) FROM stock_version;
SELECT poser_record_versions('stock', 2);
SELECT poser_record_versions('stock', 2);
SELECT poser_record_versions('stock', 2);
SELECT id, amount, operation_type FROM stock_version ORDER BY id, change_id;
-- an empty table has nothing to record later
CREATE TABLE empty (id int PRIMARY KEY);
SELECT poser_track('empty', existing => false);
SELECT split_part(encode(tgargs, 'escape'), '\000', 2) AS partial FROM pg_trigger WHERE tgname = 'poser_versions_of' AND tgconstrrelid IN ('empty'::regclass, 'stock'::regclass);

-- names of all kinds, also of the columns that are Poser's in the versions
CREATE SCHEMA "A schema's ""name"" 100%";
SET search_path = "A schema's ""name"" 100%", public;
CREATE TABLE "Table ""%s"" and a name which is as long as a name can be: äöü" ("Key %" int, "select" text, "it's \ here" text,
	operation_type text, transaction_id int, change_id date, PRIMARY KEY ("Key %", "select"));
SELECT poser_track('"Table ""%s"" and a name which is as long as a name can be: äöü"', exclude => '{"it''s \\ here"}');
INSERT INTO "Table ""%s"" and a name which is as long as a name can be: äöü" VALUES (1, 'x', 'y', 'z', 2, '2026-11-29');
SELECT to_jsonb(v) - 'poser_transaction_id' - 'poser_change_id' AS version FROM "Table ""%s"" and a name which is as long as a name can be_version" AS v;
ALTER TABLE "Table ""%s"" and a name which is as long as a name can be: äöü" RENAME "select" TO poser_change_id;
ALTER TABLE "Table ""%s"" and a name which is as long as a name can be: äöü" RENAME change_id TO "select";
SELECT poser_track('"Table ""%s"" and a name which is as long as a name can be: äöü"');
UPDATE "Table ""%s"" and a name which is as long as a name can be: äöü" SET "select" = '2026-11-30';
SELECT to_jsonb(v) - 'poser_transaction_id' - 'poser_change_id' AS version FROM "Table ""%s"" and a name which is as long as a name can be_version" AS v ORDER BY v.poser_change_id;
SELECT target, versions, key, excluded, unrecorded, recording, problem FROM poser_tables WHERE target::text ~ 'Table';
RESET search_path;

-- types: without modifiers and domains, with collations
CREATE DOMAIN positive AS numeric(8,2) CHECK (VALUE > 0);
CREATE TABLE types (id text COLLATE "POSIX" PRIMARY KEY, a varchar(5), b char(3), c positive, d bit(4), e timestamp(0),
	f positive[], g text COLLATE "C", h name, i interval(2), j "char");
SELECT poser_track('types');
SELECT * FROM columns('types_version');
SELECT * FROM indexes('types_version');
INSERT INTO types VALUES ('a', 'b', 'c', 1, B'0101', '2026-11-29 01:02:03.456', '{1,2}', 'g', 'h', '1.234 s', 'j');
UPDATE types SET id = 'A', a = 'bb';
SELECT id, a, b, c, operation_type FROM types_version ORDER BY change_id;

-- a table of versions of one's own: of Alembic, with other columns in another order
CREATE SCHEMA history;
CREATE TABLE history.orders (change_id bigint NOT NULL, total numeric(6,1), id int, note text, operation_type smallint NOT NULL, transaction_id bigint NOT NULL, later date);
CREATE TABLE orders (id int PRIMARY KEY, total numeric(10,2), added text);
INSERT INTO orders VALUES (1, 1.25, 'x');
SELECT poser_track('orders', versions => 'history.orders');
SELECT * FROM columns('history.orders');
SELECT * FROM indexes('history.orders');
SELECT id, total, added, operation_type, later FROM history.orders;
SELECT poser_track('orders', versions => 'history.orders');
-- a new one in another schema
CREATE TABLE things (id int PRIMARY KEY);
SELECT poser_track('things', versions => 'history."All things"');
-- partitioned
CREATE TABLE log (id int PRIMARY KEY, line text);
CREATE TABLE history.log (id int, line text, operation_type smallint NOT NULL, transaction_id bigint NOT NULL, change_id bigint NOT NULL) PARTITION BY RANGE (change_id);
CREATE TABLE history.log_0 PARTITION OF history.log FOR VALUES FROM (0) TO (1000000);
INSERT INTO log VALUES (1, 'one');
SELECT poser_track('log', versions => 'history.log');
INSERT INTO log VALUES (2, 'two');
UPDATE log SET line = 'three' WHERE id = 2;
SELECT id, line, operation_type FROM history.log ORDER BY change_id;
SELECT * FROM indexes('history.log');
DELETE FROM history.log_0;
SELECT target, versions, recording, problem FROM poser_tables WHERE versions::text ~ '^history';

-- how far a history was pruned is still known when it is taken up again
INSERT INTO things VALUES (1), (2);
ALTER TABLE things ADD COLUMN a int;
SELECT poser_track('things');
UPDATE things SET a = 1;
UPDATE things SET a = 2;
SELECT count(*) FROM history."All things";
SELECT poser_prune_versions('0', target => 'things');
SELECT poser_untrack('things');
SELECT col_description('history."All things"'::regclass, attnum) ~ 'pruned up to transaction \d+, change \d+' AS kept FROM pg_attribute WHERE attrelid = 'history."All things"'::regclass AND attname = 'change_id';
SELECT poser_track('things', versions => 'history."All things"');
SELECT obj_description(oid, 'pg_trigger') ~ 'pruned up to transaction \d+, change \d+' AS known FROM pg_trigger WHERE tgrelid = 'history."All things"'::regclass AND tgname = 'poser_versions_of';
-- and by the versions themselves, if the table was dropped
COMMENT ON COLUMN history."All things".change_id IS 'my comment';
DROP TABLE things;
CREATE TABLE things (id int PRIMARY KEY, a int);
SELECT poser_track('things', versions => 'history."All things"');
SELECT obj_description(oid, 'pg_trigger') ~ 'pruned up to transaction \d+, change \d+' AS known FROM pg_trigger WHERE tgrelid = 'history."All things"'::regclass AND tgname = 'poser_versions_of';
SELECT id, a, operation_type FROM history."All things" ORDER BY operation_type, id;

SET client_min_messages = warning;
DROP EXTENSION poser CASCADE;
DROP SCHEMA history, "A schema's ""name"" 100%" CASCADE;
DROP TABLE customer, customer_version, invoice_line, invoice_line_version, stock, stock_version, empty, empty_version, types, types_version, orders, things, log;
DROP DOMAIN positive;
DROP FUNCTION columns, indexes;
