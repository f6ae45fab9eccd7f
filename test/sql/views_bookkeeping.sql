-- The rows of a maintained view's bookkeeping: settled rows, deltas, their indexes, memory

CREATE EXTENSION poser;
SET client_min_messages = warning;

CREATE TABLE customer (id int, region text, PRIMARY KEY (id, region));
CREATE TABLE orders (id int PRIMARY KEY, customer_id int, region text, quantity int, points bigint, total numeric,
	FOREIGN KEY (customer_id, region) REFERENCES customer DEFERRABLE INITIALLY DEFERRED);
CREATE VIEW customer_orders AS
SELECT c.id, c.region, count(o.id) AS orders, count(o.id) FILTER (WHERE o.quantity > 1) AS large,
       sum(o.quantity) AS quantity, sum(o.points) AS points, sum(o.total) AS total
  FROM customer c LEFT JOIN orders o ON o.customer_id = c.id AND o.region = c.region
 GROUP BY c.id, c.region;
SELECT poser_maintain('customer_orders');

-- how many rows differ from the view's own query, in the digits that are shown
CREATE FUNCTION differences() RETURNS bigint LANGUAGE sql AS $$
	SELECT count(*)
	  FROM (SELECT v::text FROM customer_orders AS v) AS v
	       FULL JOIN (SELECT q::text FROM customer_orders_query AS q) AS q ON v = q
	 WHERE v IS NULL OR q IS NULL
$$;

-- a sum of bigint that does not fit into one, on the way and at the end; scales that come and go
INSERT INTO customer VALUES (1, 'north'), (1, 'south'), (2, 'north');
INSERT INTO orders VALUES
	(1, 1, 'north', 1, 9223372036854775807, 1.5),
	(2, 1, 'north', 2, 9223372036854775807, 2.25),
	(3, 1, 'north', NULL, 9223372036854775807, 1e-20),
	(4, 1, 'south', 1, -9223372036854775808, 'NaN'),
	(5, 1, 'south', 5, -9223372036854775808, 'Infinity'),
	(6, 1, 'south', 5, -9223372036854775808, NULL);
TABLE customer_orders ORDER BY id, region;
SELECT poser_serves('customer_orders_query') AS serves, differences();
DELETE FROM orders WHERE id IN (3, 4);
UPDATE orders SET points = -points WHERE id = 1;
TABLE customer_orders ORDER BY id, region;
SELECT differences();
UPDATE orders SET region = CASE region WHEN 'north' THEN 'south' ELSE 'north' END;
TABLE customer_orders ORDER BY id, region;
SELECT differences();

-- a sum that numeric cannot hold is an error of the write
INSERT INTO orders VALUES (7, 1, 'north', 1, 1, 9e131071);
INSERT INTO orders VALUES (8, 1, 'north', 1, 1, 9e131071);
DELETE FROM orders WHERE id = 7;
SELECT differences();

-- A unique index of the owner on an amount is checked.
BEGIN;
INSERT INTO customer VALUES (8, 'east'), (9, 'east');
INSERT INTO orders VALUES (80, 8, 'east', 1, 1, 1), (90, 9, 'east', 1, 1, 1), (91, 9, 'east', 1, 1, 1);
CREATE UNIQUE INDEX one_amount ON customer_orders_maintained (orders) WHERE region = 'east';
SAVEPOINT a;
INSERT INTO orders VALUES (81, 8, 'east', 1, 1, 1);
ROLLBACK TO a;
INSERT INTO orders VALUES (92, 9, 'east', 1, 1, 1), (81, 8, 'east', 1, 1, 1);
ROLLBACK;

-- Children without a parent are in a delta.  It is replaced by each statement, also where its
-- page is full, and both indexes find its new version.
BEGIN;
INSERT INTO orders SELECT 10 + i, 7, 'west', i, i, i * 0.01 FROM generate_series(1, 100) AS i;
DO $$
BEGIN
	FOR i IN 1 .. 100 LOOP
		UPDATE orders SET total = total * 1.1, quantity = quantity + 1, points = points + 1 WHERE id = 10 + i;
	END LOOP;
END
$$;
SET LOCAL enable_seqscan = off;
SET LOCAL enable_bitmapscan = off;
EXPLAIN (COSTS OFF) SELECT FROM customer_orders_maintained WHERE id = 7 AND region = 'west' AND delta > 0;
SELECT id, region, delta > 0 AS is_delta, orders, quantity, points, total = 55.55 AS total
  FROM customer_orders_maintained WHERE id = 7 AND region = 'west' AND delta > 0;
EXPLAIN (COSTS OFF) SELECT FROM customer_orders_maintained WHERE id = 7 AND region = 'west' AND delta > -5;
SELECT count(*) FROM customer_orders_maintained WHERE id = 7 AND region = 'west' AND delta > -5;
SET LOCAL enable_indexscan = off;
SET LOCAL enable_indexonlyscan = off;
SET LOCAL enable_seqscan = on;
SELECT count(*) FROM customer_orders_maintained WHERE id = 7;
-- the parent comes: the delta becomes its settled row
INSERT INTO customer VALUES (7, 'west');
SELECT delta, orders, quantity, points FROM customer_orders_maintained WHERE id = 7;
COMMIT;
SELECT differences();

-- A settled row, too, is replaced by each statement.  All indexes find its last version.
BEGIN;
DO $$
BEGIN
	FOR i IN 1 .. 300 LOOP
		UPDATE orders SET quantity = quantity + 1 WHERE id = 11;
	END LOOP;
END
$$;
SET LOCAL enable_seqscan = off;
SET LOCAL enable_bitmapscan = off;
EXPLAIN (COSTS OFF) SELECT FROM customer_orders_maintained WHERE id = 7 AND region = 'west' AND delta = 0;
SELECT orders, quantity FROM customer_orders_maintained WHERE id = 7 AND region = 'west' AND delta = 0;
EXPLAIN (COSTS OFF) SELECT FROM customer_orders_maintained WHERE id = 7 AND region = 'west' AND delta > -5;
SELECT orders, quantity FROM customer_orders_maintained WHERE id = 7 AND region = 'west' AND delta > -5;
SET LOCAL enable_indexscan = off;
SET LOCAL enable_indexonlyscan = off;
SET LOCAL enable_seqscan = on;
SELECT orders, quantity FROM customer_orders_maintained WHERE id = 7;
ROLLBACK;

-- Subtransactions that are rolled back leave no further deltas behind.
BEGIN;
INSERT INTO orders VALUES (9, 8, 'west', 1, 1, 1);
DO $$
BEGIN
	FOR i IN 1 .. 20 LOOP
		BEGIN
			UPDATE orders SET quantity = quantity + 1 WHERE id = 9;
			RAISE division_by_zero;
		EXCEPTION WHEN division_by_zero THEN
		END;
		UPDATE orders SET quantity = quantity + 10 WHERE id = 9;
	END LOOP;
END
$$;
SELECT delta > 0 AS is_delta, orders, quantity FROM customer_orders_maintained WHERE id = 8;
ROLLBACK;

-- the parent goes, and its children stay until the transaction ends: a delta again
BEGIN;
DELETE FROM customer WHERE id = 7;
SELECT delta > 0 AS is_delta, orders FROM customer_orders_maintained WHERE id = 7;
DELETE FROM orders WHERE id > 10;
SELECT count(*) FROM customer_orders_maintained WHERE id = 7;
COMMIT;

-- more keys than fit into memory: changes of a key in many parts are added up
INSERT INTO customer SELECT i, 'r' || i % 3 FROM generate_series(101, 2100) AS i;
SET work_mem = '64kB';
INSERT INTO orders
SELECT 1000 + i, 101 + i % 2000, 'r' || (101 + i % 2000) % 3, i % 5, 9223372036854775807 - i,
       CASE i % 997 WHEN 0 THEN 'NaN' WHEN 1 THEN 'Infinity' ELSE i::numeric / (i % 7 + 1) END
  FROM generate_series(1, 10000) AS i;
SELECT differences();
UPDATE orders SET total = total / 3, points = -(points / 2) WHERE id % 3 = 0;
SELECT differences();
UPDATE orders SET customer_id = 101 + (customer_id - 100) % 2000, region = 'r' || (101 + (customer_id - 100) % 2000) % 3 WHERE id > 1000;
SELECT differences();
SELECT count(*), count(*) FILTER (WHERE delta <> 0) AS deltas FROM customer_orders_maintained;
-- half of a move is undone
BEGIN;
SAVEPOINT a;
DELETE FROM orders WHERE id % 2 = 0;
SELECT differences();
ROLLBACK TO a;
UPDATE orders SET quantity = 100 WHERE id % 2 = 0;
COMMIT;
SELECT differences();
RESET work_mem;

-- TRUNCATE of the child makes all settled rows zero; of the parent, it removes them
BEGIN;
TRUNCATE orders;
SELECT count(*), count(*) FILTER (WHERE (delta, orders, large, quantity, points, total, total_tally) = (0, 0, 0, 0, 0, 0, 0)) AS zero
  FROM customer_orders_maintained;
SELECT differences();
TRUNCATE customer, orders;
SELECT count(*) FROM customer_orders_maintained;
COMMIT;

-- Writes find what the owner has changed in the bookkeeping.  The column can only be dropped
-- together with the view, and then nothing is counted.
INSERT INTO customer VALUES (1, 'north');
CREATE FUNCTION write_after(change text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE change;
	BEGIN
		INSERT INTO orders VALUES (1, 1, 'north', 1, 1, 1);
	EXCEPTION WHEN object_not_in_prerequisite_state THEN
		RAISE EXCEPTION USING ERRCODE = 'P0001', MESSAGE = SQLERRM;
	END;
	RAISE EXCEPTION 'no error';
EXCEPTION WHEN raise_exception THEN
	RETURN SQLERRM;
END
$$;
SELECT change, write_after('ALTER TABLE customer_orders_maintained ' || change)
  FROM unnest(ARRAY['SET (fillfactor = 80)', 'DROP COLUMN large CASCADE', 'ADD COLUMN other int',
                    'DROP CONSTRAINT customer_orders_maintained_pkey']) AS change;
SELECT write_after('DROP INDEX customer_orders_maintained_id_region_idx');
-- an index with another predicate is not used
SELECT write_after('DROP INDEX customer_orders_maintained_id_region_idx; CREATE INDEX ON customer_orders_maintained (id, region) WHERE delta > 1');
SELECT write_after('DROP INDEX customer_orders_maintained_id_region_idx; CREATE INDEX ON customer_orders_maintained (id, region) WHERE delta < 0');
SELECT write_after('DROP INDEX customer_orders_maintained_id_region_idx; CREATE INDEX ON customer_orders_maintained (id, region COLLATE "C") WHERE delta > 0');
SELECT write_after('DROP INDEX customer_orders_maintained_id_region_idx; CREATE INDEX ON customer_orders_maintained (id, region text_pattern_ops) WHERE delta > 0');
SELECT write_after('DROP INDEX customer_orders_maintained_id_region_idx; CREATE INDEX ON customer_orders_maintained (id, region) WHERE delta > 0::int');
SELECT differences();

-- An index of the owner is maintained beside the others.  Its code runs as the owner.
CREATE ROLE regress_poser_writer;
GRANT INSERT ON orders TO regress_poser_writer;
CREATE FUNCTION is_seen(orders bigint) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
	RAISE WARNING 'predicate evaluated as the writer: %', current_user = 'regress_poser_writer';
	RETURN orders > 1;
END
$$;
-- the server evaluates it for old row versions, too, as many as other databases' transactions keep
SET client_min_messages = error;
CREATE INDEX own ON customer_orders_maintained (orders) WHERE is_seen(orders);
SET client_min_messages = warning;
SET SESSION AUTHORIZATION regress_poser_writer;
INSERT INTO orders VALUES (1, 1, 'north', 1, 1, 1);
INSERT INTO orders VALUES (2, 1, 'north', 1, 1, 1);
RESET SESSION AUTHORIZATION;
SELECT differences();
DROP INDEX own;

SELECT poser_unmaintain('customer_orders');
DROP VIEW customer_orders;
DROP TABLE orders, customer;
DROP FUNCTION differences, write_after, is_seen;
DROP ROLE regress_poser_writer;
DROP EXTENSION poser;
