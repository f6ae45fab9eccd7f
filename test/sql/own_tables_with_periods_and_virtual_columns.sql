-- Own tables with what PostgreSQL 18 has brought: keys WITHOUT OVERLAPS, which cannot be
-- tracked, and virtual generated columns, which are not recorded.

SELECT current_setting('server_version_num')::int < 180000 AS skip \gset
\if :skip
\quit
\endif
\set VERBOSITY default
SET client_min_messages = warning;
SET DateStyle = 'ISO';
CREATE EXTENSION poser;

-- A key WITHOUT OVERLAPS.
CREATE TABLE booking (room int4range, during daterange, guest text, PRIMARY KEY (room, during WITHOUT OVERLAPS));
SELECT poser_track('booking');
SELECT to_regclass('booking_version');
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'booking'::regclass AND tgname LIKE 'poser%';
-- a constraint WITHOUT OVERLAPS that is not the key does no harm
ALTER TABLE booking DROP CONSTRAINT booking_pkey, ADD UNIQUE (room, during WITHOUT OVERLAPS), ADD id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY;
SELECT poser_track('booking');
INSERT INTO booking VALUES ('[1,2)', '[2026-01-01,2026-01-03)', 'anna');
INSERT INTO booking VALUES ('[1,2)', '[2026-01-02,2026-01-04)', 'bert');
UPDATE booking SET during = '[2026-01-01,2026-01-05)';
SELECT operation, changed, new ->> 'during' AS during FROM poser_history('booking', '{"guest": "anna"}');
-- a key WITHOUT OVERLAPS that comes later is none for the history
ALTER TABLE booking DROP CONSTRAINT booking_pkey, DROP CONSTRAINT booking_room_during_key, ADD PRIMARY KEY (room, during WITHOUT OVERLAPS);
INSERT INTO booking VALUES ('[1,2)', '[2026-02-01,2026-02-02)', 'cora');
UPDATE booking SET guest = 'none';
DELETE FROM booking;
SELECT recording, problem FROM poser_tables WHERE target = 'booking'::regclass;
SELECT poser_track('booking');
SELECT poser_revert('booking', '{"guest": "anna"}', 1);
SELECT * FROM poser_as_of(NULL::booking, now());
ALTER TABLE booking DROP CONSTRAINT booking_pkey, ADD PRIMARY KEY (id);
SELECT poser_track('booking');
UPDATE booking SET guest = guest || '!';
SELECT operation_type, guest FROM booking_version ORDER BY change_id;
SELECT problem FROM poser_tables WHERE target = 'booking'::regclass;

-- Virtual generated columns.
CREATE TABLE item (id int, price numeric, line int, gross numeric GENERATED ALWAYS AS (price * 2) VIRTUAL, twice int GENERATED ALWAYS AS (line * 2) STORED,
	note text, PRIMARY KEY (id, line));
INSERT INTO item (id, line, price) VALUES (1, 1, 10);
SELECT poser_track('item');
SELECT attname FROM pg_attribute WHERE attrelid = 'item_version'::regclass AND attnum > 0 ORDER BY attnum;
SELECT key, excluded, unrecorded, recording, problem FROM poser_tables WHERE target = 'item'::regclass;
-- It has no value of its own, so there is no WARNING.  Statements can read it.
UPDATE item SET price = 11;
UPDATE item SET note = 'one' WHERE gross = 22;
INSERT INTO item (id, line, price) VALUES (1, 2, 20) ON CONFLICT (id, line) DO UPDATE SET price = excluded.gross;
INSERT INTO item (id, line, price) VALUES (1, 2, 21) ON CONFLICT (id, line) DO UPDATE SET price = excluded.gross;
MERGE INTO item USING (VALUES (1, 1), (1, 3)) AS s (id, line) ON item.id = s.id AND item.line = s.line
 WHEN MATCHED THEN UPDATE SET price = gross
 WHEN NOT MATCHED THEN INSERT (id, line, price) VALUES (s.id, s.line, 5);
DELETE FROM item WHERE line = 3;
SELECT operation, changed, old, new FROM poser_history('item', '{"id": 1}');
SELECT poser_history('item', '{"gross": 22}');
SELECT transaction_id AS transaction FROM poser_history('item', '{"line": 1}') WHERE new ->> 'price' = '11' LIMIT 1 \gset
SELECT poser_revert('item', '{"line": 1}', :transaction);
SELECT * FROM item ORDER BY line;
-- the value of a virtual column of earlier is null
SELECT * FROM poser_as_of(NULL::item, now()) ORDER BY line;
SELECT * FROM poser_check('item');
-- a virtual column that comes, changes its expression, goes
ALTER TABLE item ADD net numeric GENERATED ALWAYS AS (price / 2) VIRTUAL, ADD more text;
SELECT poser_track('item');
ALTER TABLE item ALTER net SET EXPRESSION AS (price / 4);
UPDATE item SET more = 'more' WHERE line = 1;
ALTER TABLE item DROP gross, DROP net;
SELECT poser_track('item');
SELECT problem FROM poser_tables WHERE target = 'item'::regclass;
TRUNCATE item;
SELECT operation_type, id, line, price, twice, note, more FROM item_version ORDER BY change_id DESC LIMIT 3;
-- excluded
CREATE TABLE quiet (id int PRIMARY KEY, a int, b int GENERATED ALWAYS AS (a + 1));
SELECT poser_track('quiet', exclude => '{b}');
INSERT INTO quiet VALUES (1, 1);
UPDATE quiet SET a = 2;
SELECT operation_type, id, a FROM quiet_version ORDER BY change_id;
SELECT excluded, unrecorded, problem FROM poser_tables WHERE target = 'quiet'::regclass;
-- in a partitioned table
CREATE TABLE stock (region text, id int, amount int, doubled int GENERATED ALWAYS AS (amount * 2) VIRTUAL, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
CREATE TABLE stock_north PARTITION OF stock FOR VALUES IN ('n');
CREATE TABLE stock_south (id int NOT NULL, doubled int GENERATED ALWAYS AS (amount * 2) VIRTUAL, amount int, region text NOT NULL);
ALTER TABLE stock ATTACH PARTITION stock_south FOR VALUES IN ('s');
SELECT poser_track('stock', exclude => '{doubled}');
INSERT INTO stock VALUES ('n', 1, 1), ('s', 2, 2);
UPDATE stock_south SET amount = 3;
UPDATE stock SET region = 's', id = id + 10 WHERE doubled < 6;
TRUNCATE stock;
SELECT operation_type, region, id, amount FROM stock_version ORDER BY change_id;
SELECT * FROM poser_check('stock');

DROP EXTENSION poser CASCADE;
DROP TABLE booking, booking_version, item, item_version, quiet, quiet_version, stock, stock_version;
