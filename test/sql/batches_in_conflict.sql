-- Batches with conflicts, because other sessions have changed the target since, or
-- with errors: what each row says, how it is resolved, and that a refused execution
-- changes nothing.

\set VERBOSITY terse
CREATE EXTENSION poser;
CREATE VIEW staged AS
SELECT sequence, operation, key ->> 'item_code' AS code, old, new, status, status_text, removed
  FROM poser_batch_row ORDER BY batch_uuid, sequence;
CREATE VIEW components AS
SELECT item_code, widget_uuid, description, active FROM poser_component ORDER BY item_code, widget_uuid;
CREATE TABLE staging (item_code text, widget_uuid text, description text, active bool);

-- Batch "b" has every kind of row.  Then other sessions change the target.
CREATE PROCEDURE stage() LANGUAGE plpgsql AS $$
BEGIN
	DELETE FROM poser_batch;
	TRUNCATE poser_component, poser_widget, staging;
	INSERT INTO poser_widget (uuid, description) VALUES ('w', 'Widget');
	INSERT INTO poser_component (uuid, widget_uuid, item_code, description)
	SELECT 'uuid ' || code, 'w', code, 'old' FROM unnest('{d1,d2,d3,s1,s2,u1,u2,u3,u4,u5,u6}'::text[]) AS code;
	INSERT INTO staging
	SELECT code, 'w', CASE WHEN code ~ 's' THEN 'old' ELSE 'new' END, code NOT IN ('u5', 'u6')
	  FROM unnest('{n1,n2,n3,s1,s2,u1,u2,u3,u4,u5,u6}'::text[]) AS code;
	INSERT INTO poser_batch (uuid, target) VALUES ('b', 'poser_component');
	PERFORM poser_batch_populate('b', 'staging', key => '{item_code,widget_uuid}', deletes => true, unchanged => true);
END
$$;
CREATE PROCEDURE others_change() LANGUAGE sql AS $$
	DELETE FROM poser_component WHERE item_code IN ('d2', 's2', 'u2');
	UPDATE poser_component SET description = 'theirs' WHERE item_code IN ('d1', 's1', 'u1', 'u5');
	UPDATE poser_component SET description = 'new' WHERE item_code = 'u3';
	UPDATE poser_component SET active = false WHERE item_code IN ('u4', 'u6');
	INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('n1', 'w', 'n1', 'theirs'), ('n2', 'w', 'n2', 'new');
$$;
CALL stage();
SELECT code, operation, old, new, status FROM staged ORDER BY code;
SELECT array_agg(sequence) FROM staged;
CALL others_change();

-- The execution finds the conflicts itself, and changes nothing.
CREATE TABLE before AS TABLE poser_component;
CREATE TABLE rows_before AS TABLE poser_batch_row;
\set VERBOSITY default
SELECT * FROM poser_batch_execute('b');
\set VERBOSITY terse
(TABLE before EXCEPT TABLE poser_component) UNION ALL (TABLE poser_component EXCEPT TABLE before);
(TABLE rows_before EXCEPT TABLE poser_batch_row) UNION ALL (TABLE poser_batch_row EXCEPT TABLE rows_before);
SELECT executed, executed_by, is_mutable FROM poser_batch;

-- A refresh says for each row what it was and what it is now.  n1, s2, u1, u2, u5 and
-- d1 conflict.  n2, u3 and d2 are already what the batch wants, and are not to be
-- written any more.  s1, u4 and u6 have been changed in other fields, which stay.
SELECT poser_batch_refresh('b');
SELECT code, operation, status, status_text FROM staged ORDER BY code;
SELECT code, old, new FROM staged ORDER BY code;
SELECT poser_batch_refresh('b');
\set VERBOSITY default
SELECT * FROM poser_batch_execute('b');
\set VERBOSITY terse
(TABLE before EXCEPT TABLE poser_component) UNION ALL (TABLE poser_component EXCEPT TABLE before);

-- A status that is set by hand resolves nothing.
UPDATE poser_batch_row SET status = 'ready', status_text = NULL;
SELECT poser_batch_refresh('b');
UPDATE poser_batch_row SET status = 'ready', status_text = NULL;
\set VERBOSITY sqlstate
SELECT * FROM poser_batch_execute('b');
\set VERBOSITY terse

-- Ways to resolve: keep the other change (u1), overwrite it (u5, d1, n1, s2), or adapt
-- to it (u2, which becomes a new row).
BEGIN;
UPDATE poser_batch_row SET removed = true WHERE key ->> 'item_code' = 'u1';
UPDATE poser_batch_row SET old = NULL WHERE key ->> 'item_code' IN ('u5', 'd1', 'u2');
UPDATE poser_batch_row SET operation = 'update' WHERE key ->> 'item_code' = 'n1';
UPDATE poser_batch_row SET old = NULL, new = '{"description": "again"}' WHERE key ->> 'item_code' = 's2';
SELECT poser_batch_refresh('b');
SELECT code, operation, status, status_text, old, new FROM staged WHERE code IN ('u1', 'u2', 'u5', 'd1', 'n1', 's2') ORDER BY code;
SELECT * FROM poser_batch_execute('b');
TABLE components;
SELECT code, status, removed FROM staged WHERE status <> 'ready' OR removed;
ROLLBACK;
-- The old value may be left out for one field, or be set to the present value.
BEGIN;
UPDATE poser_batch_row SET old = old - 'description' WHERE key ->> 'item_code' = 'u5';
UPDATE poser_batch_row SET old = '{"description": "theirs"}' WHERE key ->> 'item_code' = 'u1';
UPDATE poser_batch_row SET removed = true WHERE status = 'conflict' AND key ->> 'item_code' NOT IN ('u1', 'u5');
SELECT poser_batch_refresh('b');
SELECT code, operation, status, old, new FROM staged WHERE code IN ('u1', 'u5');
-- One more change of the target makes it a conflict again.
UPDATE poser_component SET description = 'theirs again' WHERE item_code = 'u5';
SELECT poser_batch_refresh('b');
SELECT code, status, status_text FROM staged WHERE status <> 'ready' AND NOT removed;
ROLLBACK;
-- The execution does not need a refresh before it.
BEGIN;
UPDATE poser_batch_row SET removed = true WHERE key ->> 'item_code' IN ('u1', 'u2', 'u5', 'd1', 'n1', 's2');
SELECT * FROM poser_batch_execute('b');
TABLE components;
ROLLBACK;

-- skip_conflicts: all other rows are written, and the skipped ones never are.
SELECT * FROM poser_batch_execute('b', skip_conflicts => true);
SELECT code, operation, status, status_text FROM staged ORDER BY code;
TABLE components;
SELECT executed IS NOT NULL AS executed, is_mutable FROM poser_batch;
SELECT * FROM poser_check();
-- all rows skipped
CALL stage();
DELETE FROM poser_batch_row WHERE key ->> 'item_code' NOT IN ('u1', 'd1');
CALL others_change();
SELECT * FROM poser_batch_execute('b', skip_conflicts => true);
SELECT code, status FROM staged;
SELECT * FROM poser_batch_execute('b', true);

-- A row with nothing to write stays unchanged at every refresh.  Only a row with the
-- operation "delete" deletes.
CALL stage();
UPDATE poser_batch_row SET new = NULL WHERE key ->> 'item_code' ~ '[su]';
UPDATE poser_batch_row SET old = NULL WHERE key ->> 'item_code' IN ('s2', 'u2');
DELETE FROM poser_component WHERE item_code = 'd2';
SELECT poser_batch_refresh('b'), poser_batch_refresh('b');
SELECT * FROM poser_batch_execute('b');
TABLE components;

-- Other spellings of the same JSON value are no conflict, and NULL is a value.
CREATE TABLE stock (id int PRIMARY KEY, text json, a int[], n numeric, note text, at timestamptz);
INSERT INTO stock VALUES (1, '{"a":  1, "a": 1.0}', '[0:1]={1,2}', 1.0, NULL, '2024-01-02 03:04:05.678901+00'),
	(2, '{"a":  1, "a": 1.0}', '[0:1]={1,2}', 1.0, NULL, '-infinity'), (3, 'null', NULL, NULL, 'kept', NULL);
CREATE TABLE new_stock AS SELECT id, '[ 1]'::json AS text, '{3}'::int[] AS a, 1.00 AS n, 'a note' AS note, 'infinity'::timestamptz AS at FROM stock ORDER BY id;
UPDATE new_stock SET note = NULL WHERE id = 3;
INSERT INTO poser_batch (uuid, target) VALUES ('stock', 'stock');
SELECT poser_batch_populate('stock', 'new_stock');
SELECT poser_batch_refresh('stock');
SELECT sequence, operation, old, new, status_text FROM poser_batch_row WHERE batch_uuid = 'stock' ORDER BY sequence;
UPDATE stock SET note = '', n = NULL WHERE id = 1;
UPDATE stock SET note = NULL, a = '{}', n = 0 WHERE id = 3;
SELECT poser_batch_refresh('stock');
SELECT sequence, operation, status, status_text FROM poser_batch_row WHERE batch_uuid = 'stock' ORDER BY sequence;
SELECT * FROM poser_batch_execute('stock', skip_conflicts => true);
SELECT * FROM stock ORDER BY id;

--
-- Errors
--
CALL stage();
DELETE FROM poser_batch;
TRUNCATE staging;
ALTER TABLE poser_component ADD COLUMN size int, ADD COLUMN double int GENERATED ALWAYS AS (size * 2) STORED,
	ADD CONSTRAINT is_small CHECK (size < 100);
CREATE UNIQUE INDEX one_of_each ON poser_component (size);
ALTER TABLE staging ADD COLUMN size bigint;
INSERT INTO staging (item_code, widget_uuid, description, size) VALUES
	('e1', 'w', repeat('x', 256), 1), ('e2', 'w', NULL, 2), ('e3', 'none', 'unknown widget', 3), ('e4', 'w', 'unlike the check', 100),
	(NULL, 'w', 'no key', 5), ('twice', 'w', 'one', 6), ('twice', 'w', 'two', 7), ('e8', 'w', 'too large', 3000000000),
	('a code of more than 20', 'w', 'a key too long', 9), ('e10', 'w', 'good', 10), ('u1', 'w', 'good, too', 11), ('e12', 'w', 'as the 11th', 11);
INSERT INTO poser_batch (uuid, target) VALUES ('b', 'poser_component');
SELECT poser_batch_populate('b', 'staging', '{item_code,widget_uuid}', '{description,size}');
SELECT row_count FROM poser_batch;
SELECT sequence, operation, key, left(new ->> 'description', 20) AS description, new -> 'size' AS size, status, status_text FROM poser_batch_row ORDER BY sequence;
-- A refresh tries to write, and finds more errors.  Good rows stay "ready".
SELECT poser_batch_refresh('b');
SELECT sequence, operation, code, status, status_text FROM staged;
SELECT count(*) FROM poser_component WHERE size IS NOT NULL;
CREATE TABLE errors AS SELECT sequence, status, status_text FROM staged;
\set VERBOSITY default
SELECT * FROM poser_batch_execute('b');
-- Conflicts can be skipped, errors cannot.
SELECT * FROM poser_batch_execute('b', skip_conflicts => true);
\set VERBOSITY terse
TABLE errors EXCEPT SELECT sequence, status, status_text FROM staged;
SELECT executed FROM poser_batch;
SELECT count(*) FROM poser_component WHERE size IS NOT NULL;
-- Each row with an error is corrected or removed.
UPDATE poser_batch_row SET new = new || '{"description": "mended"}' WHERE sequence IN (1, 2);
INSERT INTO poser_widget (uuid, description) VALUES ('none', 'No longer unknown');
UPDATE poser_batch_row SET new = jsonb_set(new, '{size}', to_jsonb(sequence)) WHERE sequence IN (4, 8, 12);
UPDATE poser_batch_row SET key = '{"item_code": "e5", "widget_uuid": "w"}' WHERE sequence = 5;
UPDATE poser_batch_row SET key = key || '{"item_code": "e9"}' WHERE sequence = 9;
UPDATE poser_batch_row SET removed = true WHERE sequence = 7;
SELECT poser_batch_refresh('b');
SELECT sequence, operation, code, status, status_text FROM staged WHERE status <> 'ready';

-- Wrong edits: a value of another type; a field that does not exist, is generated, or
-- belongs to the key; a key with other columns; no key; the key of another row.
CREATE TABLE good AS TABLE poser_batch_row;
UPDATE poser_batch_row SET new = new || '{"size": "eleven"}' WHERE sequence = 1;
UPDATE poser_batch_row SET new = new || '{"colour": "red", "weight": 1}' WHERE sequence = 2;
UPDATE poser_batch_row SET new = new || '{"item_code": "e3"}' WHERE sequence = 3;
UPDATE poser_batch_row SET new = new || '{"double": 1}' WHERE sequence = 4;
UPDATE poser_batch_row SET key = '{"item_code": "e5", "size": 5}' WHERE sequence = 5;
UPDATE poser_batch_row SET key = '{}' WHERE sequence = 6;
UPDATE poser_batch_row SET key = key || '{"item_code": "e9"}', old = NULL WHERE sequence IN (8, 10);
UPDATE poser_batch_row SET old = old || '{"price": 1}' WHERE sequence = 11;
UPDATE poser_batch_row SET new = NULL WHERE sequence = 12;
SELECT poser_batch_refresh('b');
SELECT sequence, operation, key, status, status_text FROM poser_batch_row WHERE NOT removed ORDER BY sequence;
-- Constraints refuse JSON that is no object, unknown operations and unknown statuses.
UPDATE poser_batch_row SET new = '[]' WHERE sequence = 1;
UPDATE poser_batch_row SET old = 'null' WHERE sequence = 1;
UPDATE poser_batch_row SET key = '"e1"' WHERE sequence = 1;
UPDATE poser_batch_row SET operation = 'upsert' WHERE sequence = 1;
UPDATE poser_batch_row SET status = 'fine' WHERE sequence = 1;
UPDATE poser_batch_row AS r SET key = good.key, old = good.old, new = good.new FROM good WHERE r.sequence = good.sequence;
SELECT poser_batch_refresh('b');

-- An error that only the execution finds is reported once, for all its rows.
ALTER TABLE poser_component ADD CONSTRAINT is_tiny CHECK (size < 9);
\set VERBOSITY default
SELECT * FROM poser_batch_execute('b');
\set VERBOSITY terse
SELECT executed FROM poser_batch;
SELECT count(*) FROM poser_component WHERE size IS NOT NULL;
ALTER TABLE poser_component DROP CONSTRAINT is_tiny;
SELECT * FROM poser_batch_execute('b');
SELECT item_code, widget_uuid, description, size FROM poser_component WHERE size IS NOT NULL ORDER BY size;
SELECT count(DISTINCT transaction_id) FROM poser_component_version WHERE description = 'mended';

-- Text for a boolean: what is not a boolean becomes a row with an error.  A refresh
-- and a refused execution count the same errors.
CREATE TABLE answers (uuid text, description text, active text);
INSERT INTO answers VALUES ('a1', 'One', 'yes'), ('a2', 'Two', 'maybe'), ('a3', 'Three', 'off'), ('a3', 'Third', 'off'), ('a4', 'Four', 'perhaps');
INSERT INTO poser_batch (uuid, target) VALUES ('answers', 'poser_widget');
SELECT poser_batch_populate('answers', 'answers', unchanged => true);
SELECT sequence, operation, key, new, status, status_text FROM poser_batch_row WHERE batch_uuid = 'answers' ORDER BY sequence;
SELECT poser_batch_refresh('answers');
\set VERBOSITY default
SELECT * FROM poser_batch_execute('answers');
UPDATE poser_batch_row SET new = new || '{"active": false}' WHERE batch_uuid = 'answers' AND sequence IN (2, 5);
SELECT poser_batch_refresh('answers');
SELECT * FROM poser_batch_execute('answers');
DELETE FROM poser_batch_row WHERE batch_uuid = 'answers' AND sequence = 4;
SELECT poser_batch_refresh('answers');
SELECT * FROM poser_batch_execute('answers');
SELECT * FROM poser_widget WHERE uuid ~ '^a' ORDER BY uuid;
-- more refused rows than a refresh searches for
INSERT INTO poser_batch (uuid, target, key) VALUES ('many', 'poser_component', '{uuid}');
INSERT INTO poser_batch_row (batch_uuid, sequence, key, new)
SELECT 'many', n, jsonb_build_object('uuid', n), '{"description": "", "item_code": "", "widget_uuid": "nowhere"}' FROM generate_series(1, 600) AS n;
SELECT poser_batch_refresh('many');
SELECT status FROM poser_batch WHERE uuid = 'many';
SELECT status, count(*), min(sequence), max(sequence) FROM poser_batch_row WHERE batch_uuid = 'many' GROUP BY status ORDER BY status;
SELECT * FROM poser_batch_execute('many');

-- wrong arguments
\set VERBOSITY sqlstate
SELECT poser_batch_create(NULL);
SELECT poser_batch_create('components');
SELECT poser_batch_create('poser_component_pkey');
SELECT poser_batch_refresh('none'), poser_batch_refresh('B');
SELECT * FROM poser_batch_execute('none');
SELECT poser_batch_populate('none', 'staging');
SELECT poser_batch_refresh(NULL);
SELECT * FROM poser_batch_execute(NULL);
SELECT * FROM poser_batch_execute('b', NULL);
SELECT poser_batch_create('poser_component') AS batch \gset
SELECT poser_batch_populate(:'batch', NULL);
SELECT poser_batch_populate(:'batch', 'poser_component_pkey');
SELECT poser_batch_populate(:'batch', 'staging');
SELECT poser_batch_populate(:'batch', 'staging', '{item_code,none}');
SELECT poser_batch_populate(:'batch', 'staging', '{item_code,widget_uuid}', '{colour}');
SELECT poser_batch_populate(:'batch', 'staging', '{item_code,item_code}');
SELECT poser_batch_populate(:'batch', 'staging', '{item_code,NULL}');
SELECT row_count, key FROM poser_batch WHERE uuid = :'batch';
-- A target that was dropped: each call says so.
INSERT INTO poser_batch (uuid, target) VALUES ('gone', 'stock');
DROP TABLE stock;
SELECT poser_batch_populate('gone', 'new_stock');
SELECT poser_batch_refresh('gone');
SELECT * FROM poser_batch_execute('stock');
UPDATE poser_batch SET notes = 'its table is gone', complete = true WHERE uuid = 'gone';
DELETE FROM poser_batch WHERE uuid IN ('gone', 'stock');

SET client_min_messages = warning;
DROP PROCEDURE stage, others_change;
DROP TABLE staging, before, rows_before, new_stock, errors, good, answers;
DROP VIEW staged, components;
DROP EXTENSION poser;
