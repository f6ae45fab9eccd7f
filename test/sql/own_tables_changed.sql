-- What ALTER TABLE does to the history of an own table: before poser_track() is called
-- again, and after it.  A call says by NOTICE what it has done.
SET client_min_messages = warning;
CREATE EXTENSION poser;
RESET client_min_messages;

-- the view, and the versions as JSON, without the ids of transactions
CREATE VIEW state AS SELECT target, versions, key, excluded, unrecorded, recording, problem FROM poser_tables WHERE target::text !~ '^poser_';
CREATE FUNCTION versions(versions regclass) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
	RETURN QUERY EXECUTE format(
		'SELECT (to_jsonb(v) - ''transaction_id'' - ''change_id'')::text FROM %s AS v ORDER BY change_id', versions);
END $$;

-- the last of them
CREATE FUNCTION last_versions(versions regclass, n int) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT v FROM versions(versions) WITH ORDINALITY AS v (v, i) ORDER BY i
	 OFFSET (SELECT greatest(count(*) - n, 0) FROM versions(versions)) $$;

CREATE TABLE customer (id int PRIMARY KEY, email text, pw text, notes text);
INSERT INTO customer VALUES (1, 'a@x', 'secret', 'first');
SELECT poser_track('customer', exclude => '{pw}');
SELECT * FROM state;
SELECT * FROM versions('customer_version');
-- nothing to do: no NOTICE
SELECT poser_track('customer');

-- ADD COLUMN
ALTER TABLE customer ADD COLUMN vat text;
INSERT INTO customer VALUES (2, 'b@x', 'secret', NULL, 'DE1');
UPDATE customer SET vat = 'DE2' WHERE id = 2;
SELECT unrecorded, recording, problem FROM state;
SELECT * FROM versions('customer_version');
SELECT poser_track('customer');
SELECT unrecorded, recording, problem FROM state;
SELECT * FROM versions('customer_version');
UPDATE customer SET vat = 'DE3' WHERE id = 2;
-- with a default, all rows have a value
ALTER TABLE customer ADD COLUMN active bool DEFAULT true;
SELECT poser_track('customer');
-- and with none, no row has one
ALTER TABLE customer ADD COLUMN age int;
SELECT poser_track('customer');
SELECT * FROM versions('customer_version');

-- RENAME of columns, also of an excluded one and of the key
ALTER TABLE customer RENAME email TO mail;
ALTER TABLE customer RENAME pw TO password;
ALTER TABLE customer RENAME id TO number;
UPDATE customer SET mail = 'c@x', password = 'other' WHERE number = 1;
UPDATE customer SET password = 'a third one' WHERE number = 1;
SELECT * FROM state;
SELECT * FROM last_versions('customer_version', 2);
SELECT poser_track('customer');
SELECT * FROM state;
SELECT * FROM last_versions('customer_version', 2);

-- two columns exchange their names
BEGIN;
ALTER TABLE customer RENAME mail TO other;
ALTER TABLE customer RENAME notes TO mail;
ALTER TABLE customer RENAME other TO notes;
COMMIT;
UPDATE customer SET mail = 'this was in notes' WHERE number = 1;
SELECT * FROM last_versions('customer_version', 2);
SELECT poser_track('customer');
SELECT * FROM last_versions('customer_version', 2);

-- three columns in a circle
ALTER TABLE customer RENAME mail TO other;
ALTER TABLE customer RENAME notes TO mail;
ALTER TABLE customer RENAME vat TO notes;
ALTER TABLE customer RENAME other TO vat;
SELECT poser_track('customer');
SELECT * FROM last_versions('customer_version', 2);
SELECT number, mail, notes, vat FROM customer ORDER BY number;

-- DROP COLUMN: the history keeps it
ALTER TABLE customer DROP COLUMN notes;
UPDATE customer SET mail = 'd@x' WHERE number = 1;
SELECT unrecorded, recording, problem FROM state;
SELECT * FROM last_versions('customer_version', 2);
-- and a column with its name is another one
ALTER TABLE customer ADD COLUMN notes int;
UPDATE customer SET notes = 5 WHERE number = 2;
SELECT unrecorded, recording, problem FROM state;
SELECT poser_track('customer');
SELECT * FROM last_versions('customer_version', 2);
-- also if the call came in between
ALTER TABLE customer DROP COLUMN vat;
SELECT poser_track('customer');
ALTER TABLE customer ADD COLUMN vat text;
SELECT poser_track('customer');
UPDATE customer SET vat = 'DE4' WHERE number = 2;
SELECT * FROM last_versions('customer_version', 2);
-- a column that a migration tool has added to both is used
ALTER TABLE customer ADD COLUMN fax text;
ALTER TABLE customer_version ADD COLUMN fax text;
SELECT poser_track('customer');
SELECT unrecorded, recording, problem FROM state;

-- RENAME of the table, its versions and a schema
CREATE SCHEMA sales;
ALTER TABLE customer RENAME TO client;
ALTER TABLE client SET SCHEMA sales;
ALTER TABLE customer_version RENAME TO "History of clients";
ALTER SCHEMA sales RENAME TO "Sales";
UPDATE "Sales".client SET fax = '1' WHERE number = 2;
SELECT target, versions, recording, problem FROM state;
SELECT poser_track('"Sales".client');
SELECT * FROM last_versions('"History of clients"', 2);

-- ALTER TYPE: other modifiers are recorded
CREATE TABLE price (id int PRIMARY KEY, amount numeric(8,2), name varchar(10), number int);
INSERT INTO price VALUES (1, 1.5, 'one', 1);
SELECT poser_track('price');
ALTER TABLE price ALTER amount TYPE numeric(12,4), ALTER name TYPE varchar(20);
UPDATE price SET amount = 2.25, name = 'longer than ten';
SELECT unrecorded, recording, problem FROM state WHERE target = 'price'::regclass;
SELECT * FROM versions('price_version');
SELECT poser_track('price');
-- another type is not
ALTER TABLE price ALTER number TYPE bigint USING number * 1000;
UPDATE price SET number = 5000000000, amount = 3;
SELECT unrecorded, recording, problem FROM state WHERE target = 'price'::regclass;
SELECT * FROM versions('price_version');
SELECT poser_track('price');
SELECT unrecorded, recording, problem FROM state WHERE target = 'price'::regclass;
SELECT * FROM versions('price_version');
-- no cast: the caller says what to do
ALTER TABLE price ALTER name TYPE int USING length(name);
SELECT poser_track('price');
ALTER TABLE price_version ALTER name TYPE int USING length(name);
SELECT poser_track('price');
SELECT unrecorded, recording, problem FROM state WHERE target = 'price'::regclass;
SELECT * FROM versions('price_version');

-- the key is changed
ALTER TABLE price DROP CONSTRAINT price_pkey;
INSERT INTO price VALUES (2, 1, 1, 2);
UPDATE price SET amount = 2;
DELETE FROM price;
SELECT key, recording, problem FROM state WHERE target = 'price'::regclass;
SELECT poser_track('price');
ALTER TABLE price ADD PRIMARY KEY (id, name);
UPDATE price SET amount = 2 WHERE id = 2;
SELECT key, recording, problem FROM state WHERE target = 'price'::regclass;
SELECT poser_track('price');
SELECT key, recording, problem FROM state WHERE target = 'price'::regclass;
SELECT * FROM last_versions('price_version', 2);
-- a replica identity
ALTER TABLE price DROP CONSTRAINT price_pkey;
ALTER TABLE price ALTER number SET NOT NULL;
CREATE UNIQUE INDEX price_number ON price (number);
ALTER TABLE price REPLICA IDENTITY USING INDEX price_number;
SELECT poser_track('price');
UPDATE price SET amount = 7 WHERE number = 2;
SELECT key, recording, problem FROM state WHERE target = 'price'::regclass;

-- a new key has no index yet: statements that look up versions read them all
CREATE TABLE stock (id int PRIMARY KEY, code text, n int);
SELECT poser_track('stock');
INSERT INTO stock SELECT i, 'c' || i, 0 FROM generate_series(1, 3) AS i;
ALTER TABLE stock DROP CONSTRAINT stock_pkey, ADD PRIMARY KEY (code, id) DEFERRABLE;
WITH gone AS (DELETE FROM stock WHERE id = 1 RETURNING *) INSERT INTO stock SELECT id, code, 9 FROM gone;
UPDATE stock SET id = id + 1;
SELECT * FROM versions('stock_version');
SELECT poser_record_versions('stock', 5);
SELECT * FROM poser_check('stock');
SELECT poser_track('stock');
SELECT * FROM poser_check('stock');
UPDATE stock SET n = 1 WHERE id = 2;
SELECT * FROM last_versions('stock_version', 1);
DROP TABLE stock, stock_version;

-- generated and identity columns
CREATE TABLE item (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, net int, gross int GENERATED ALWAYS AS (net * 2) STORED);
SELECT poser_track('item');
INSERT INTO item (net) VALUES (5);
UPDATE item SET net = 6;
SELECT * FROM versions('item_version');

-- row-level security: the versions are closed
ALTER TABLE item ENABLE ROW LEVEL SECURITY;
SELECT recording, problem FROM state WHERE target = 'item'::regclass;
SELECT poser_track('item');
SELECT recording, problem FROM state WHERE target = 'item'::regclass;
SELECT relrowsecurity FROM pg_class WHERE oid = 'item_version'::regclass;

-- exclusions are changed
SELECT poser_track('item', exclude => '{net}');
UPDATE item SET net = 7;
SELECT * FROM state WHERE target = 'item'::regclass;
SELECT * FROM versions('item_version');
SELECT poser_track('item', exclude => '{}');
SELECT * FROM state WHERE target = 'item'::regclass;
SELECT * FROM versions('item_version');

-- triggers
ALTER TABLE item DISABLE TRIGGER poser_version_update;
UPDATE item SET net = 8;
DROP TRIGGER poser_version_insert ON item;
DROP TRIGGER poser_arrive_row ON item_version;
ALTER TABLE item_version DISABLE TRIGGER poser_versions_of;
SELECT recording, problem FROM state WHERE target = 'item'::regclass;
SELECT poser_track('item');
SELECT recording, problem FROM state WHERE target = 'item'::regclass;
DELETE FROM item_version;
TRUNCATE item_version;

-- DROP TABLE of the versions
DROP TABLE item_version;
UPDATE item SET net = 9;
INSERT INTO item (net) VALUES (9);
SELECT * FROM state WHERE target = 'item'::regclass;
SELECT poser_track('item');
SELECT * FROM versions('item_version');
UPDATE item SET net = 10;

-- DROP TABLE of the table: its history stays, and a new table takes it up
DROP TABLE item;
SELECT * FROM versions('item_version');
CREATE TABLE item (id int PRIMARY KEY, net int, gross int, remark text);
INSERT INTO item VALUES (1, 9, 18, 'again'), (2, 1, 2, 'new');
SELECT poser_track('item');
SELECT * FROM state WHERE target = 'item'::regclass;
SELECT * FROM versions('item_version');

-- partitions
CREATE TABLE sale (region text, id int, amount int, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
CREATE TABLE sale_north PARTITION OF sale FOR VALUES IN ('north');
CREATE TABLE sale_rest PARTITION OF sale DEFAULT PARTITION BY HASH (id);
CREATE TABLE sale_rest_0 PARTITION OF sale_rest FOR VALUES WITH (MODULUS 2, REMAINDER 0);
-- a partition with its columns in another order
CREATE TABLE sale_rest_1 (amount int, dropped text, id int NOT NULL, region text NOT NULL);
ALTER TABLE sale_rest_1 DROP COLUMN dropped;
ALTER TABLE sale_rest ATTACH PARTITION sale_rest_1 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO sale VALUES ('north', 1, 1), ('south', 1, 1), ('south', 2, 2), ('south', 3, 3);
SELECT poser_track('sale');
SELECT * FROM versions('sale_version') ORDER BY 1;
UPDATE sale SET amount = 5 WHERE id = 2;
UPDATE sale SET region = 'north' WHERE id = 3;
UPDATE sale_north SET amount = 6;
SELECT * FROM last_versions('sale_version', 2);
CREATE TABLE sale_west PARTITION OF sale FOR VALUES IN ('west');
INSERT INTO sale_west VALUES ('west', 1, 1);
SELECT recording, problem FROM state WHERE target = 'sale'::regclass;
SELECT poser_track('sale');
SELECT recording, problem FROM state WHERE target = 'sale'::regclass;
INSERT INTO sale_west VALUES ('west', 2, 2);
ALTER TABLE sale DETACH PARTITION sale_north;
SELECT target, versions, recording, problem FROM state WHERE target IN ('sale'::regclass, 'sale_north'::regclass);
SELECT poser_untrack('sale_north');
SELECT target, recording, problem FROM state WHERE target IN ('sale'::regclass, 'sale_north'::regclass);
-- a partition that is tracked by itself
SELECT poser_track('sale_north');
ALTER TABLE sale ATTACH PARTITION sale_north FOR VALUES IN ('north');
SELECT poser_track('sale');
SELECT poser_untrack('sale_west');
SELECT poser_untrack('sale_north');
SELECT poser_track('sale');
-- what has come and gone by ATTACH and DETACH is recorded when it is asked for
SELECT poser_record_versions('sale');
SELECT * FROM last_versions('sale_version', 4);

-- poser_untrack()
SELECT poser_untrack('sale');
SELECT target, versions FROM state ORDER BY target::text COLLATE "C";
SELECT count(*) FROM pg_trigger WHERE tgrelid IN ('sale'::regclass, 'sale_rest_1'::regclass, 'sale_version'::regclass);
SELECT poser_untrack('sale');
-- tracked again, it takes its history up
INSERT INTO sale VALUES ('west', 9, 9);
SELECT poser_track('sale');
SELECT * FROM last_versions('sale_version', 2);

-- DROP EXTENSION is refused, and CASCADE leaves the histories
\set VERBOSITY terse
DROP EXTENSION poser;
DROP EXTENSION poser CASCADE;
SELECT count(*) > 0 FROM item_version;

SET client_min_messages = warning;
DROP SCHEMA "Sales" CASCADE;
DROP TABLE "History of clients", price, price_version, item, item_version, sale, sale_version, sale_north_version;
DROP FUNCTION last_versions, versions;
