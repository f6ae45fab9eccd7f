-- What other programs need of batches: a row has a key of one column, rows of the source
-- that are the same are counted instead of staged, and an error about a batch names its
-- id beside its uuid.

SET client_min_messages = warning;
CREATE EXTENSION poser;
CREATE VIEW staged AS
SELECT row_id, operation, r.old, r.new, r.status, status_text FROM poser_batch_row AS r ORDER BY batch_uuid, sequence;
CREATE VIEW counted AS
SELECT uuid, id, row_count, unchanged_count, status FROM poser_batch ORDER BY id;

--
-- The key
--
INSERT INTO poser_batch (uuid, target) VALUES ('b', 'poser_widget'), ('b.1', 'poser_widget'), ('a/b %?&#', 'poser_widget'), ('', 'poser_widget');
INSERT INTO poser_batch_row (batch_uuid, sequence, key) VALUES
	('b', 1, '{"uuid": "1"}'), ('b', 11, '{"uuid": "2"}'), ('b', 1000000000000, '{"uuid": "3"}'), ('b', -1, '{"uuid": "4"}'),
	('b.1', 1, '{"uuid": "5"}'), ('b.1', 0, '{"uuid": "6"}'), ('a/b %?&#', 7, '{"uuid": "7"}'), ('', 8, '{"uuid": "8"}')
RETURNING row_id;
SELECT a.attname, a.attgenerated, i.indisprimary, i.indisreplident, pg_get_indexdef(i.indexrelid)
  FROM pg_index AS i LEFT JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
 WHERE i.indrelid = 'poser_batch_row'::regclass ORDER BY i.indisprimary DESC;
-- One row is edited, and the others stay as they are.
UPDATE poser_batch_row SET removed = true, new = '{"description": "edited"}' WHERE row_id = 'b.1';
DELETE FROM poser_batch_row WHERE row_id = 'b.1.0';
SELECT row_id, batch_uuid, sequence, new, removed FROM poser_batch_row ORDER BY row_id COLLATE "C";
SELECT uuid, row_count FROM poser_batch ORDER BY id;
-- The key follows the columns that it is made from, and cannot be written.
UPDATE poser_batch_row SET batch_uuid = 'b.1', sequence = 3 WHERE row_id = 'b.11' RETURNING row_id;
\set VERBOSITY terse
UPDATE poser_batch_row SET row_id = 'mine';
INSERT INTO poser_batch_row (row_id, batch_uuid, sequence, key) VALUES ('mine', 'b', 2, '{}');
-- Both keys are unique, and an upsert can name either.
INSERT INTO poser_batch_row (batch_uuid, sequence, key) VALUES ('b', 1, '{}');
INSERT INTO poser_batch_row (batch_uuid, sequence, key) VALUES ('b', 1, '{"uuid": "1"}')
	ON CONFLICT (batch_uuid, sequence) DO UPDATE SET removed = false RETURNING row_id;
INSERT INTO poser_batch_row (batch_uuid, sequence, key) VALUES ('b', 1, '{"uuid": "1"}')
	ON CONFLICT (row_id) DO UPDATE SET removed = NOT poser_batch_row.removed RETURNING row_id, removed;
SELECT uuid, row_count FROM poser_batch ORDER BY id;
SELECT * FROM poser_check();
-- What keeps the key or the replica identity from being what it was is reported.
BEGIN;
ALTER TABLE poser_batch_row DROP CONSTRAINT poser_batch_row_pkey;
ALTER TABLE poser_batch_row ALTER row_id DROP EXPRESSION;
ALTER TABLE poser_batch_row DROP CONSTRAINT poser_batch_row_uq_sequence;
SELECT * FROM poser_check();
ROLLBACK;
TRUNCATE poser_batch CASCADE;

--
-- Rows that are the same
--
INSERT INTO poser_widget (uuid, description) SELECT 'w' || n, 'Widget ' || n FROM generate_series(1, 8) AS n;
CREATE TABLE source (uuid text, description text);
INSERT INTO source SELECT uuid, description || CASE uuid WHEN 'w4' THEN ', changed' ELSE '' END FROM poser_widget WHERE uuid < 'w8' ORDER BY uuid;
INSERT INTO source VALUES ('w9', 'New'), (NULL, 'No key');
INSERT INTO poser_batch (uuid, target) VALUES ('few', 'poser_widget'), ('all', 'poser_widget');
SELECT poser_batch_populate('few', 'source', deletes => true), poser_batch_populate('all', 'source', deletes => true, unchanged => true);
TABLE staged;
TABLE counted;
-- A refresh compares the rows of the batch.  The status has the others as well.
DELETE FROM poser_batch_row WHERE status = 'error';
UPDATE poser_widget SET description = 'Theirs' WHERE uuid IN ('w1', 'w2');
SELECT poser_batch_refresh('few'), poser_batch_refresh('all');
TABLE counted;
-- A row that was the same is no row of the batch.  What others do to it stays, and is no
-- conflict.  If it is staged, it has nothing to be written either.
SELECT * FROM poser_batch_execute('few');
TABLE counted;
SELECT uuid, description FROM poser_widget ORDER BY uuid;
-- Nothing differs: the batch has no rows, and can be executed.  It can also be populated again.
DELETE FROM source WHERE uuid IS NULL;
INSERT INTO poser_batch (uuid, target) VALUES ('same', 'poser_widget');
SELECT poser_batch_populate('same', 'poser_widget');
TABLE counted;
SELECT poser_batch_populate('same', 'source');
TABLE counted;
DELETE FROM poser_batch_row WHERE batch_uuid = 'same';
SELECT poser_batch_populate('same', 'source', unchanged => true);
TABLE counted;
SELECT poser_batch_populate('same', 'source', unchanged => NULL);
-- Nobody sets the number, not even the owner; a new batch has 0.
UPDATE poser_batch SET unchanged_count = 5 WHERE uuid = 'same';
UPDATE poser_batch SET unchanged_count = unchanged_count, notes = 'seen' WHERE uuid = 'same';
INSERT INTO poser_batch (uuid, target, unchanged_count, row_count) VALUES ('new', 'poser_widget', 9, 9) RETURNING unchanged_count, row_count;
SELECT * FROM poser_check();
TRUNCATE poser_batch CASCADE;

-- A row that is the same but has a problem is staged, so that the problem is seen: its
-- key occurs twice, or matches several rows of the target.
CREATE TABLE target (code text, description text);
INSERT INTO target VALUES ('a', 'x'), ('a', 'y'), ('b', 'x'), ('c', 'x'), ('d', 'x'), ('d', 'x');
TRUNCATE source;
ALTER TABLE source RENAME uuid TO code;
INSERT INTO source VALUES ('a', 'x'), ('b', 'x'), ('c', 'x'), ('d', 'x'), ('e', 'x'), ('b', 'x');
INSERT INTO poser_batch (uuid, target) VALUES ('problems', 'target'), ('several', 'target'), ('staged', 'target');
SELECT poser_batch_populate('problems', 'source', key => '{code}');
DELETE FROM source WHERE ctid = (SELECT max(ctid) FROM source);
SELECT poser_batch_populate('several', 'source', key => '{code}'), poser_batch_populate('staged', 'source', key => '{code}', unchanged => true);
TABLE staged;
TABLE counted;
-- Also if there are more such rows than are told apart.
INSERT INTO target SELECT 'many ' || n, d FROM generate_series(1, 600) AS n, unnest('{x,y}'::text[]) AS d;
INSERT INTO source SELECT 'many ' || n, 'x' FROM generate_series(1, 600) AS n;
INSERT INTO poser_batch (uuid, target) VALUES ('many', 'target');
SELECT poser_batch_populate('many', 'source', key => '{code}');
SELECT r.status, count(*) FROM poser_batch_row AS r WHERE batch_uuid = 'many' GROUP BY r.status ORDER BY r.status;
SELECT row_count, unchanged_count, status FROM poser_batch WHERE uuid = 'many';
SELECT * FROM poser_check();
TRUNCATE poser_batch CASCADE;
DROP TABLE target, source;

--
-- Errors
--
CREATE ROLE regress_poser_clerk;
GRANT SELECT, INSERT, UPDATE, DELETE ON poser_batch, poser_batch_row TO regress_poser_clerk;
CREATE TABLE target (id int PRIMARY KEY, name text);
CREATE TABLE source AS SELECT 1 AS id, 'one'::text AS name;
GRANT SELECT ON target, source TO regress_poser_clerk;
GRANT INSERT, UPDATE ON target TO regress_poser_clerk;
CREATE VIEW errors AS SELECT id, uuid FROM poser_batch;
SET ROLE regress_poser_clerk;
INSERT INTO poser_batch (uuid, target) VALUES ('mine', 'target'), ('executed', 'target'), ('complete', 'target');
SELECT poser_batch_populate('mine', 'source'), poser_batch_populate('complete', 'source');
SELECT * FROM poser_batch_execute('executed');
UPDATE poser_batch SET complete = true WHERE uuid = 'complete';
-- the header
UPDATE poser_batch SET row_count = 7 WHERE uuid = 'mine';
UPDATE poser_batch SET unchanged_count = 7 WHERE uuid = 'mine';
UPDATE poser_batch SET created_by = 'me' WHERE uuid = 'mine';
UPDATE poser_batch SET target = 'source' WHERE uuid = 'mine';
UPDATE poser_batch SET uuid = 'yours' WHERE uuid = 'mine';
UPDATE poser_batch SET key = '{name}' WHERE uuid = 'complete';
UPDATE poser_batch SET notes = 'late' WHERE uuid = 'executed';
DELETE FROM poser_batch WHERE uuid = 'executed';
-- its rows
UPDATE poser_batch_row SET removed = true WHERE batch_uuid = 'complete';
INSERT INTO poser_batch_row (batch_uuid, sequence, key) VALUES ('complete', 2, '{"id": 2}');
DELETE FROM poser_batch_row WHERE batch_uuid = 'complete';
INSERT INTO poser_batch_row (batch_uuid, sequence, key) VALUES ('executed', 2, '{"id": 2}');
-- its functions
SELECT poser_batch_populate('mine', 'source');
SELECT poser_batch_populate('complete', 'source');
SELECT poser_batch_populate('executed', 'source');
SELECT poser_batch_refresh('complete');
SELECT poser_batch_refresh('executed');
SELECT * FROM poser_batch_execute('executed');
INSERT INTO poser_batch_row (batch_uuid, sequence, key, old, new) VALUES
	('mine', 2, '{"id": 2}', '{"name": "two"}', '{"name": "three"}'), ('mine', 3, '{"id": 3}', '{"name": "two"}', '{"name": "three"}');
SELECT * FROM poser_batch_execute('mine');
RESET ROLE;
UPDATE poser_batch_row SET key = '{"nr": 2}' WHERE batch_uuid = 'mine' AND sequence = 2;
SELECT * FROM poser_batch_execute('mine');
DELETE FROM poser_batch_row WHERE batch_uuid = 'mine' AND sequence > 1;
INSERT INTO poser_batch_row (batch_uuid, sequence, key, new) VALUES ('mine', 2, '{"id": 1}', '{"name": "twice"}');
SELECT * FROM poser_batch_execute('mine');
DELETE FROM poser_batch_row WHERE batch_uuid = 'mine' AND sequence = 2;
ALTER TABLE target ADD CONSTRAINT no_one CHECK (name <> 'one');
SELECT * FROM poser_batch_execute('mine');
-- its target
CREATE TEMPORARY TABLE passing (id int PRIMARY KEY);
UPDATE poser_batch SET target = 'passing' WHERE uuid = 'mine';
UPDATE poser_batch SET target = 'errors' WHERE uuid = 'mine';
UPDATE poser_batch SET target = 0 WHERE uuid = 'mine';
UPDATE poser_batch SET target = NULL WHERE uuid = 'mine';
INSERT INTO poser_batch (target) VALUES ('passing');
INSERT INTO poser_batch (target) VALUES ('errors');
INSERT INTO poser_batch (target) VALUES (NULL);
DO $$
BEGIN
	EXECUTE (SELECT format('CREATE TABLE wide (%s, PRIMARY KEY (c1))', string_agg('c' || n || ' bool', ', ')) FROM generate_series(1, 600) AS n);
END
$$;
INSERT INTO poser_batch (uuid, target) VALUES ('wide', 'wide');
SELECT poser_batch_populate('wide', 'wide');
-- a batch that does not exist has no id
SELECT poser_batch_populate('none', 'source');
SELECT poser_batch_refresh('none');
SELECT * FROM poser_batch_execute('none');
-- what poser_check() says about a batch
DROP TABLE wide, target CASCADE;
SELECT * FROM poser_check();
TRUNCATE poser_batch CASCADE;

--
-- A role with the privileges that version 1.4 asks for, column by column
--
CREATE TABLE target (id int PRIMARY KEY, name text);
INSERT INTO target VALUES (1, 'one'), (2, 'two');
GRANT SELECT, INSERT, UPDATE ON target TO regress_poser_clerk;
REVOKE ALL ON poser_batch, poser_batch_row FROM regress_poser_clerk;
GRANT SELECT (uuid, id, target, key, complete, executed), INSERT (target, description, params), UPDATE (status)
	ON poser_batch TO regress_poser_clerk;
GRANT SELECT (batch_uuid, sequence, operation, key, old, new, status, status_text, removed), UPDATE,
	INSERT (batch_uuid, sequence, operation, key, old, new, status, status_text) ON poser_batch_row TO regress_poser_clerk;
SET ROLE regress_poser_clerk;
SELECT poser_batch_create('target') AS batch \gset
SELECT poser_batch_populate(:'batch', 'source');
SELECT poser_batch_refresh(:'batch');
SELECT * FROM poser_batch_execute(:'batch');
SELECT unchanged_count FROM poser_batch;
RESET ROLE;

DROP EXTENSION poser CASCADE;
DROP TABLE source, target;
DROP OWNED BY regress_poser_clerk;
DROP ROLE regress_poser_clerk;
