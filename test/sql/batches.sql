-- A batch from its creation to its removal: it is populated, reviewed, compared again,
-- and executed once.  Targets are components by their code, widgets, and another table.

\set VERBOSITY terse
CREATE EXTENSION poser;
CREATE VIEW batches AS
SELECT id, target, key, description, replace(created_by, session_user, 'the session''s') AS created_by,
       role_name = current_user AS own, row_count, complete, executed IS NOT NULL AS executed,
       replace(executed_by, session_user, 'the session''s') AS executed_by, is_mutable, notes, params
  FROM poser_batch ORDER BY id;
CREATE VIEW staged AS
SELECT id, sequence, operation, r.key, old, new, r.status, status_text, removed
  FROM poser_batch_row AS r JOIN poser_batch ON uuid = batch_uuid ORDER BY id, sequence;
CREATE VIEW row_counts AS
SELECT id, row_count, (SELECT count(*) FROM poser_batch_row WHERE batch_uuid = uuid AND NOT removed) AS counted
  FROM poser_batch ORDER BY id;

--
-- Components, known by their code in their widget
--
INSERT INTO poser_widget (uuid, description) VALUES ('lamp', 'Lamp'), ('chair', 'Chair');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES
	('c1', 'lamp', 'bulb', 'Bulb'), ('c2', 'lamp', 'shade', 'Shade'), ('c3', 'chair', 'leg', 'Leg'),
	('c4', 'chair', 'seat', 'Seat'), ('c5', 'chair', 'pad', 'Pad'), ('c6', 'lamp', 'foot', 'Foot');
CREATE TABLE staging (code text, item_code varchar(30), widget_uuid text, price numeric, description text);
INSERT INTO staging (item_code, widget_uuid, description) VALUES
	('bulb', 'lamp', 'Bulb'), ('shade', 'lamp', 'Lampshade'), ('cable', 'lamp', 'Cable'), ('leg', 'chair', 'Wooden leg'),
	('arm', 'chair', 'Armrest'), ('pad', 'chair', 'Pad'), ('foot', 'lamp', 'Iron foot');
CREATE TABLE before AS SELECT uuid, xmin::text AS was FROM poser_component;

SET poser.runas = 'alice';
SELECT poser_batch_create('poser_component', 'November prices', '{"list": 11}') AS batch \gset
TABLE batches;
SELECT length(:'batch'), length(uuid), created = now() AS now, executed, status IS NULL AS "no status" FROM poser_batch;
SET poser.runas = 'bob';
SELECT poser_batch_populate(:'batch', 'staging', key => '{item_code,widget_uuid}', deletes => true, unchanged => true);
TABLE batches;
TABLE staged;
-- A batch is populated only once.  Populating has not written to the target.
\set VERBOSITY sqlstate
SELECT poser_batch_populate(:'batch', 'staging', key => '{item_code,widget_uuid}');
\set VERBOSITY terse
SELECT count(*) FROM poser_component JOIN before USING (uuid) WHERE poser_component.xmin::text = was;
-- The batch no longer needs its source.
TRUNCATE staging;

-- The review: values are corrected, one of them in an unchanged row, one in a field
-- that the source lacks; two rows are removed from the batch, one is added by hand.
UPDATE poser_batch_row SET new = new || '{"description": "Long cable"}' WHERE batch_uuid = :'batch' AND key @> '{"item_code": "cable"}';
UPDATE poser_batch_row SET new = '{"description": "Light bulb"}' WHERE batch_uuid = :'batch' AND key @> '{"item_code": "bulb"}';
UPDATE poser_batch_row SET new = new || '{"active": false}' WHERE batch_uuid = :'batch' AND key @> '{"item_code": "shade"}';
UPDATE poser_batch_row SET removed = true WHERE batch_uuid = :'batch' AND key ->> 'item_code' IN ('arm', 'foot');
INSERT INTO poser_batch_row (batch_uuid, sequence, key, new)
VALUES (:'batch', 100, '{"item_code": "nail", "widget_uuid": "chair"}', '{"description": "Nail"}');
UPDATE poser_batch SET description = 'Prices', notes = 'reviewed', params = params || '{"checked": true}', status = 'in review' WHERE uuid = :'batch';
SELECT poser_batch_refresh(:'batch');
TABLE batches;
TABLE staged;
-- A second refresh has the same result.
CREATE TEMPORARY TABLE refreshed AS TABLE poser_batch_row;
SELECT poser_batch_refresh(:'batch');
(TABLE refreshed EXCEPT TABLE poser_batch_row) UNION ALL (TABLE poser_batch_row EXCEPT TABLE refreshed);
SELECT count(*) FROM poser_component JOIN before USING (uuid) WHERE poser_component.xmin::text = was;

-- The batch is complete: its rows cannot be changed or compared again.
UPDATE poser_batch SET complete = true WHERE uuid = :'batch';
SELECT complete, is_mutable FROM batches;
\set VERBOSITY sqlstate
UPDATE poser_batch_row SET removed = true WHERE batch_uuid = :'batch';
DELETE FROM poser_batch_row WHERE batch_uuid = :'batch';
INSERT INTO poser_batch_row (batch_uuid, sequence, key) VALUES (:'batch', 101, '{"item_code": "", "widget_uuid": ""}');
SELECT poser_batch_refresh(:'batch');
UPDATE poser_batch SET complete = false WHERE uuid = :'batch';
UPDATE poser_batch_row SET removed = removed WHERE batch_uuid = :'batch';
UPDATE poser_batch SET complete = true WHERE uuid = :'batch';
\set VERBOSITY terse

-- Execution writes the rows that differ and are not removed, in one transaction and
-- under one name.
SET poser.runas = 'carol';
SET poser.comment = 'by batch';
SELECT * FROM poser_batch_execute(:'batch');
RESET poser.comment;
RESET poser.runas;
TABLE batches;
SELECT executed > created AS later FROM poser_batch;
SELECT sequence, operation, status, status_text, removed FROM staged;
SELECT widget_uuid, item_code, description, active FROM poser_component ORDER BY widget_uuid, item_code;
-- The other rows are not written.
SELECT uuid FROM poser_component JOIN before USING (uuid) WHERE poser_component.xmin::text = was ORDER BY uuid;
SELECT username, comment, count(DISTINCT transaction_id), array_agg(item_code || ' ' || operation_type ORDER BY item_code)
  FROM poser_component_version JOIN poser_transaction ON id = transaction_id GROUP BY username, comment ORDER BY comment;
SELECT uuid, component_count FROM poser_widget_list();
SELECT * FROM poser_check();
-- A batch is executed only once.
SELECT executed FROM poser_batch \gset
\set VERBOSITY sqlstate
SELECT * FROM poser_batch_execute(:'batch');
SELECT * FROM poser_batch_execute(:'batch', skip_conflicts => true);
SELECT poser_batch_refresh(:'batch');
SELECT poser_batch_populate(:'batch', 'staging', key => '{item_code,widget_uuid}');
\set VERBOSITY terse
SELECT executed = :'executed' AS "the same" FROM poser_batch;

--
-- Widgets, by their primary key; without deletes; a view as the source
--
CREATE VIEW source AS
SELECT n, 'w' || n AS uuid, 'Widget ' || n AS description FROM generate_series(1, 4) AS n ORDER BY n;
INSERT INTO poser_widget (uuid, description, active) VALUES ('w1', 'Widget 1', false), ('w2', 'Two', false);
SELECT poser_batch_create('poser_widget') AS batch \gset
SELECT poser_batch_populate(batch => :'batch', source => 'source', unchanged => true);
SELECT key, row_count, description, params FROM batches WHERE id = 2;
-- A key can be edited: another row is created.
UPDATE poser_batch_row SET key = '{"uuid": "w40"}' WHERE batch_uuid = :'batch' AND sequence = 4;
SELECT poser_batch_refresh(:'batch');
SELECT sequence, operation, key, old, new, status, status_text FROM staged WHERE id = 2;
SELECT * FROM poser_batch_execute(:'batch');
SELECT * FROM poser_widget ORDER BY uuid;
SELECT executed_by FROM batches WHERE id = 2;
-- Nothing differs, so nothing is written.  The fields can be named.
SELECT poser_batch_create('poser_widget') AS batch \gset
SELECT poser_batch_populate(:'batch', 'poser_widget', fields => '{active}', unchanged => true);
SELECT operation, count(*), min(old::text), max(new::text) FROM staged WHERE id = 3 GROUP BY operation;
SELECT max(id) AS last FROM poser_transaction \gset
SELECT * FROM poser_batch_execute(:'batch');
SELECT max(id) = :last AS "nothing written" FROM poser_transaction;
-- a batch without rows
SELECT poser_batch_create('poser_widget') AS batch \gset
SELECT poser_batch_refresh(:'batch');
SELECT poser_batch_populate(:'batch', 'poser_widget_summary', key => '{uuid}', unchanged => true);
DELETE FROM poser_batch_row WHERE batch_uuid = :'batch';
SELECT * FROM poser_batch_execute(:'batch');
SELECT row_count, executed FROM batches WHERE id = 4;
-- Rows are made by hand, and the batch has no key: the primary key is used.
INSERT INTO poser_batch (uuid, target) VALUES ('by hand', 'poser_widget');
INSERT INTO poser_batch_row (batch_uuid, sequence, operation, key, new) VALUES
	('by hand', 1, 'update', '{"uuid": "w1"}', '{"active": true}'), ('by hand', 2, 'delete', '{"uuid": "w3"}', NULL),
	('by hand', 3, 'create', '{"uuid": "w9"}', '{"description": "Nine"}');
SELECT poser_batch_refresh('by hand');
SELECT sequence, operation, key, old, new, status, status_text FROM staged WHERE id = 5;
SELECT * FROM poser_batch_execute('by hand');
SELECT * FROM poser_widget WHERE uuid ~ '^w' ORDER BY uuid;
SELECT * FROM poser_check();

--
-- A table of other types, with a composite key and names that need quoting
--
CREATE TYPE size AS ENUM ('small', 'large');
CREATE TABLE "Price ""list""" (
	"Item No" int, price numeric(10,2), tags text[], "what's more" jsonb, size size, weight float8, seen timestamptz,
	code char(4), raw bytea, for_days daterange, text json, gone int, "new" text DEFAULT 'default',
	number bigint GENERATED ALWAYS AS IDENTITY, total numeric GENERATED ALWAYS AS (price * 2) STORED, "from" date,
	PRIMARY KEY ("from", "Item No"));
ALTER TABLE "Price ""list""" DROP COLUMN gone;
INSERT INTO "Price ""list""" ("Item No", "from", price, tags, "what's more", size, weight, seen, code, raw, for_days, text)
SELECT n, '2024-01-01', 1.5, '{a,"b c",NULL}', '{"a": [1, 1.0, null, "\""]}', 'small', 0.1, '2024-01-02 03:04:05.678901+00',
       'x', '\x00ff', '[2024-01-01,2024-02-03)', '{"a":  1, "a": 2}'
  FROM generate_series(1, 5) AS n;
CREATE TABLE "new ""list""" AS
SELECT "from"::timestamp, "Item No"::smallint, price, tags, "what's more", size, weight, seen, code::text, raw, for_days, text
  FROM "Price ""list""" ORDER BY "Item No" LIMIT 4;
ALTER TABLE "new ""list""" ALTER COLUMN price TYPE numeric USING rtrim(price::text, '0')::numeric;
UPDATE "new ""list""" SET price = 2, tags = E'{{1,2},{"\\\\",NULL}}', "what's more" = '"text"', size = 'large', code = 'xyz', raw = '' WHERE "Item No" = 2;
UPDATE "new ""list""" SET weight = 'NaN', seen = 'infinity', for_days = 'empty', text = '[ ]', tags = '{}' WHERE "Item No" = 3;
UPDATE "new ""list""" SET price = NULL, tags = NULL, "what's more" = NULL, size = NULL, weight = NULL, seen = NULL, code = NULL,
	raw = NULL, for_days = NULL, text = NULL WHERE "Item No" = 4;
INSERT INTO "new ""list""" SELECT '2024-12-31', "Item No", 99999999.99, tags, "what's more", size, 1e-300, seen, code, raw, for_days, text
  FROM "new ""list""" WHERE "Item No" = 2;
SELECT poser_batch_create('"Price ""list"""') AS batch \gset
SELECT poser_batch_populate(:'batch', '"new ""list"""', deletes => true, unchanged => true);
SELECT target, key FROM batches WHERE id = 6;
\x on
SELECT sequence, operation, key, old, new, status FROM staged WHERE id = 6 ORDER BY sequence;
\x off
-- a value may be corrected in another spelling
UPDATE poser_batch_row SET new = new || '{"price": "2.5", "new": "says \"new\""}' WHERE batch_uuid = :'batch' AND sequence = 2;
UPDATE poser_batch_row SET new = '{"price": 1.500, "tags": ["a", "b c", null]}' WHERE batch_uuid = :'batch' AND sequence = 1;
SELECT poser_batch_refresh(:'batch');
SELECT sequence, operation, old, status, status_text FROM staged WHERE id = 6 AND sequence < 3;
UPDATE "new ""list""" SET price = 2.5 WHERE price = 2;
SELECT * FROM poser_batch_execute(:'batch');
SELECT "Item No", "from", price, number, total, "new" FROM "Price ""list""" ORDER BY 2, 1;
SELECT * FROM poser_import_diff('"new ""list"""', '"Price ""list"""', deletes => true);
-- What is staged has the same meaning under other settings.
UPDATE "new ""list""" SET weight = 0.1::float8 + 0.2::float8, seen = '2024-06-07 08:09:10+00', raw = '\x5c00', for_days = '[2023-02-01,2023-04-03)';
UPDATE "Price ""list""" SET weight = 0.3;
SET extra_float_digits = 0;
SET bytea_output = escape;
SET DateStyle = 'SQL, DMY';
SELECT poser_batch_create('"Price ""list"""') AS batch \gset
SELECT poser_batch_populate(:'batch', '"new ""list"""');
RESET bytea_output;
SET DateStyle = 'SQL, MDY';
SET TimeZone = 'Asia/Tokyo';
SELECT poser_batch_refresh(:'batch');
SELECT DISTINCT operation, status, old ->> 'weight' AS was, new ->> 'weight' AS "to be" FROM staged WHERE id = 7;
SELECT * FROM poser_batch_execute(:'batch');
RESET extra_float_digits;
RESET DateStyle;
RESET TimeZone;
SELECT * FROM poser_import_diff('"new ""list"""', '"Price ""list"""', deletes => true);

--
-- Purging: batches that were executed long enough ago
--
UPDATE poser_batch SET executed = executed - interval '2 days' WHERE id IN (1, 3);
UPDATE poser_batch SET created = created - interval '2 days';
SELECT poser_batch_purge('3 days'), poser_batch_purge('1 day'), poser_batch_purge('1 day');
SELECT id FROM batches;
SELECT count(DISTINCT batch_uuid) FROM poser_batch_row;
SELECT poser_batch_create('poser_widget') AS batch \gset
SELECT poser_batch_purge('0');
SELECT id, executed FROM batches;
SELECT poser_batch_purge('-1 day');
SELECT poser_batch_purge(NULL);

--
-- row_count follows every change of the rows
--
INSERT INTO poser_batch (uuid, target) VALUES ('b1', 'poser_widget'), ('b2', 'poser_widget');
INSERT INTO poser_batch_row (batch_uuid, sequence, key, removed)
SELECT b, n, jsonb_build_object('uuid', n), n > 8 FROM unnest('{b1,b2}'::text[]) AS b, generate_series(1, 10) AS n;
TABLE row_counts;
UPDATE poser_batch_row SET removed = true WHERE sequence IN (1, 2);
UPDATE poser_batch_row SET removed = NOT removed WHERE batch_uuid = 'b1' AND sequence IN (1, 3, 4, 10);
UPDATE poser_batch_row SET status_text = 'seen' WHERE batch_uuid = 'b2';
TABLE row_counts;
UPDATE poser_batch_row SET batch_uuid = 'b2', sequence = sequence + 100 WHERE batch_uuid = 'b1' AND sequence IN (2, 5, 6);
DELETE FROM poser_batch_row WHERE batch_uuid = 'b2' AND sequence IN (1, 5);
TABLE row_counts;
COPY poser_batch_row (batch_uuid, sequence, key, removed) FROM STDIN;
b1	20	{"uuid": "20"}	f
b1	21	{"uuid": "21"}	t
\.
INSERT INTO poser_batch_row (batch_uuid, sequence, key) VALUES ('b1', 20, '{"uuid": "twenty"}'), ('b1', 22, '{"uuid": "22"}')
ON CONFLICT (batch_uuid, sequence) DO UPDATE SET removed = true;
WITH gone AS (DELETE FROM poser_batch_row WHERE batch_uuid = 'b2' AND sequence = 3 RETURNING *)
INSERT INTO poser_batch_row SELECT 'b1', 30, operation, key, old, new FROM gone;
TABLE row_counts;
BEGIN;
DELETE FROM poser_batch_row WHERE batch_uuid = 'b1';
SAVEPOINT a;
INSERT INTO poser_batch_row (batch_uuid, sequence, key) VALUES ('b1', 1, '{"uuid": "1"}'), ('b2', 50, '{"uuid": "1"}');
TABLE row_counts;
ROLLBACK TO a;
TABLE row_counts;
ROLLBACK;
TABLE row_counts;
BEGIN;
TRUNCATE poser_batch_row;
TABLE row_counts;
INSERT INTO poser_batch_row (batch_uuid, sequence, key) VALUES ('b2', 1, '{"uuid": "1"}');
TABLE row_counts;
ROLLBACK;
DELETE FROM poser_batch WHERE uuid = 'b1';
TABLE row_counts;
SELECT count(*) FROM poser_batch_row WHERE batch_uuid = 'b1';
-- It cannot be set.
UPDATE poser_batch SET row_count = 7 WHERE uuid = 'b2';
SELECT * FROM poser_check();
-- One statement changes rows of many batches, and a transaction changes them one by one.
-- There is room for all versions of a header in its page.  Otherwise a server with assertions
-- fails in heap_update(), as it does for any table with a trigger before UPDATE: when a row
-- that the transaction has locked is updated, after an update was rolled back to a savepoint.
ALTER TABLE poser_batch SET (fillfactor = 10);
INSERT INTO poser_batch (uuid, target) SELECT 'many ' || n, 'poser_widget' FROM generate_series(1, 100) AS n;
INSERT INTO poser_batch_row (batch_uuid, sequence, key, removed)
SELECT 'many ' || b, n, '{}', n = 3 FROM generate_series(1, 100) AS b, generate_series(1, 3) AS n;
SELECT row_count, count(*) FROM poser_batch WHERE uuid LIKE 'many%' GROUP BY row_count;
UPDATE poser_batch_row SET removed = NOT removed WHERE batch_uuid LIKE 'many%' AND sequence > 1 AND batch_uuid <> 'many 7';
UPDATE poser_batch_row SET removed = true WHERE batch_uuid LIKE 'many%' AND sequence = 1 AND batch_uuid <> 'many 7';
SELECT row_count, count(*) FROM poser_batch WHERE uuid LIKE 'many%' GROUP BY row_count ORDER BY row_count;
DO $$
BEGIN
	FOR n IN 1..3 LOOP
		FOR b IN 1..20 LOOP
			BEGIN
				DELETE FROM poser_batch_row WHERE batch_uuid = 'many ' || b AND sequence = n;
				ASSERT b % 2 = 0, 'rolled back';
			EXCEPTION WHEN assert_failure THEN NULL;
			END;
			UPDATE poser_batch_row SET removed = NOT removed WHERE batch_uuid = 'many ' || b AND sequence = 3;
		END LOOP;
	END LOOP;
END
$$;
SELECT uuid, row_count, counted FROM row_counts JOIN poser_batch USING (id, row_count) WHERE uuid IN ('many 4', 'many 5', 'many 7', 'many 50');
SELECT * FROM poser_check();
ALTER TABLE poser_batch RESET (fillfactor);
TRUNCATE poser_batch CASCADE;

DROP TABLE staging, before, refreshed, "Price ""list""", "new ""list""";
DROP TYPE size;
DROP VIEW batches, staged, row_counts, source;

-- A column of the batches' tables with another type is neither read nor written.
INSERT INTO poser_batch (uuid, target, key) VALUES ('b', 'poser_widget', '{uuid}');
BEGIN;
ALTER TABLE poser_batch ALTER key TYPE text USING 'uuid';
SELECT poser_batch_refresh('b');
ROLLBACK;
BEGIN;
ALTER TABLE poser_batch ALTER created_by TYPE integer USING 0;
INSERT INTO poser_batch (target) VALUES ('poser_widget');
ROLLBACK;
DROP EXTENSION poser;
