\set ECHO none
\set QUIET on
-- Statements on the tables of views_tables.sql, one after the other.
CREATE TEMPORARY TABLE steps (step serial, statement text);
INSERT INTO steps (statement) VALUES
-- INSERT
($$INSERT INTO parent (n) SELECT generate_series(1, 5)$$),
($$INSERT INTO child (id, p, status) VALUES (1, 1, 'open')$$),
($$INSERT INTO child (id, p, status, active, small, whole, large, amount) VALUES
	(2, 1, 'open', true, 2, 2, 2, 2.0), (3, 1, 'closed', false, -3, 30, 9223372036854775807, 3.25),
	(4, 2, 'open', true, NULL, 4, 9223372036854775807, NULL), (5, NULL, 'open', true, 5, 5, 5, 5)$$),
($$INSERT INTO child (id, p, status, active, small, whole, large, amount)
	SELECT 10 + i, nullif(i % 6, 0), CASE WHEN i % 3 = 0 THEN 'open' WHEN i % 3 = 1 THEN 'closed' END, i % 4 > 0,
	       i, i * 1000, i * 1000000000000, i / 8.0 FROM generate_series(1, 40) AS i$$),
($$INSERT INTO child (id, p) SELECT id, p FROM child WHERE false$$),
-- UPDATE
($$UPDATE child SET status = 'open' WHERE id IN (3, 11, 12)$$),
($$UPDATE child SET active = NOT active$$),
($$UPDATE child SET p = 3 WHERE id = 4$$),
($$UPDATE child SET p = 4, status = 'open', whole = whole + 1 WHERE id = 2$$),
($$UPDATE child SET p = CASE p WHEN 1 THEN 2 ELSE 1 END WHERE p IN (1, 2)$$),
($$UPDATE child SET p = NULL WHERE id = 3$$),
($$UPDATE child SET p = 5 WHERE id = 3$$),
($$UPDATE child SET amount = amount * 1.000$$),
($$UPDATE child SET amount = 'NaN' WHERE id = 12$$),
($$UPDATE child SET amount = 'Infinity' WHERE id = 13$$),
($$UPDATE child SET amount = '-Infinity' WHERE id IN (13, 14)$$),
($$UPDATE child SET amount = 1 WHERE id IN (12, 13, 14)$$),
($$UPDATE child SET id = id + 100$$),
($$UPDATE child SET small = NULL, whole = NULL, large = NULL, amount = NULL WHERE p = 1$$),
($$UPDATE child SET id = id - 100$$),
($$UPDATE child SET p = p, active = active$$),
-- DELETE
($$DELETE FROM child WHERE id = 1$$),
($$DELETE FROM child WHERE p = 3$$),
($$DELETE FROM child WHERE p IS NULL$$),
($$DELETE FROM child WHERE false$$),
-- parents
($$UPDATE parent SET name = 'changed'$$),
($$UPDATE parent SET n = 6 WHERE n = 3$$),
($$INSERT INTO parent (n) VALUES (7), (8)$$),
($$DELETE FROM parent WHERE n = 7$$),
($$INSERT INTO parent (n) VALUES (7)$$),
($$UPDATE parent SET n = n + 10 WHERE n IN (6, 7, 8)$$),
-- upsert
($$INSERT INTO child (id, p) VALUES (11, 1), (60, 1) ON CONFLICT DO NOTHING$$),
($$INSERT INTO child (id, p, status) VALUES (11, 2, 'open'), (60, 2, 'open'), (61, 17, 'open')
	ON CONFLICT (id) DO UPDATE SET p = excluded.p, status = excluded.status$$),
($$INSERT INTO child (id, p, status) VALUES (60, 17, 'closed') ON CONFLICT (id) DO UPDATE SET p = 18, active = NOT child.active$$),
-- MERGE
($$MERGE INTO child AS target
	USING (VALUES (11, 'delete'), (12, 'move'), (13, 'switch'), (60, 'nothing'), (70, 'insert'), (71, 'insert'), (72, 'not')) AS source (id, what)
	ON target.id = source.id
	WHEN MATCHED AND what = 'delete' THEN DELETE
	WHEN MATCHED AND what = 'move' THEN UPDATE SET p = 4
	WHEN MATCHED AND what = 'switch' THEN UPDATE SET active = NOT active, status = 'open'
	WHEN MATCHED THEN DO NOTHING
	WHEN NOT MATCHED AND what = 'insert' THEN INSERT (id, p, status, whole) VALUES (source.id, 5, 'open', source.id)
	WHEN NOT MATCHED THEN DO NOTHING$$),
($$MERGE INTO parent AS target
	USING (VALUES (16, 'rename'), (20, 'insert'), (17, 'describe')) AS source (n, what) ON target.n = source.n
	WHEN MATCHED AND what = 'rename' THEN UPDATE SET n = 21
	WHEN MATCHED THEN UPDATE SET name = what
	WHEN NOT MATCHED THEN INSERT (n, name) VALUES (source.n, what)$$),
-- several writes in one query
($$WITH made AS (INSERT INTO parent (n) VALUES (30), (31) RETURNING n)
	INSERT INTO child (id, p, status, whole) SELECT n * 10 + i, n, 'open', i FROM made, generate_series(1, 3) AS i$$),
($$WITH made AS (INSERT INTO child (id, p, status) VALUES (321, 32, 'open'), (322, 32, 'closed'))
	INSERT INTO parent (n) VALUES (32)$$),
($$WITH inserted AS (INSERT INTO child (id, p) VALUES (80, 1), (81, 2)),
	deleted AS (DELETE FROM child WHERE id = 301)
	UPDATE child SET p = 32, active = false WHERE id IN (302, 311)$$),
($$WITH moved AS (UPDATE child SET active = NOT active WHERE p = 32 RETURNING *),
	again AS (UPDATE child SET p = 1 WHERE id = 312 RETURNING *)
	INSERT INTO child (id, p, whole) SELECT id + 1000, 2, 2 FROM moved UNION ALL SELECT id + 2000, 1, 1 FROM again$$),
($$WITH moved AS (UPDATE child SET p = 33 WHERE p = 32), gone AS (DELETE FROM parent WHERE n = 32)
	INSERT INTO parent (n) VALUES (33)$$),
($$WITH gone AS (DELETE FROM child WHERE p = 2) DELETE FROM parent WHERE n = 2$$),
-- statements of PL/pgSQL, some of which are undone
($step$DO $do$
BEGIN
	FOR i IN 1..40 LOOP
		BEGIN
			INSERT INTO child (id, p, status, whole, amount) VALUES (5000 + i, 1, 'open', i, i / 3.0), (CASE i % 3 WHEN 0 THEN 5001 ELSE 6000 + i END, 4, 'open', 1, 1);
		EXCEPTION WHEN unique_violation THEN
			NULL;
		END;
	END LOOP;
END
$do$$step$),
($step$DO $do$
BEGIN
	INSERT INTO child (id, p) VALUES (7001, 1);
	BEGIN
		TRUNCATE child;
		INSERT INTO child (id, p) VALUES (7001, 1);
		DELETE FROM parent WHERE n <> 1;
		RAISE EXCEPTION 'undo';
	EXCEPTION WHEN raise_exception THEN
		NULL;
	END;
END
$do$$step$),
-- TRUNCATE
($$TRUNCATE child$$),
($$INSERT INTO child (id, p, status, whole) VALUES (1, 1, 'open', 1), (2, 4, 'open', 2), (3, NULL, 'open', 3)$$),
($$DELETE FROM parent WHERE n = 5$$),
($$TRUNCATE child, parent$$),
($$INSERT INTO parent (n) VALUES (1), (2)$$),
($$INSERT INTO child (id, p, status, whole, amount) VALUES (1, 1, 'open', 1, 1), (2, 1, 'open', 2, 2.0), (3, 2, 'open', 3, 3.00)$$),
($$TRUNCATE parent, child$$),
($$INSERT INTO parent (n) VALUES (101), (102)$$),
($$INSERT INTO child (id, p, status, small, whole, large, amount) VALUES
	(1001, 101, 'open', 1, 2, 3, 4.5), (1002, 101, 'closed', NULL, NULL, NULL, 'NaN'), (1003, NULL, 'open', 1, 1, 1, 1)$$);
\set QUIET off
\set ECHO all
