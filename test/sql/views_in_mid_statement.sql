-- Maintained views in the middle of a statement, in cursors, after savepoints and errors:
-- functions that write and read, and users' triggers that read at any point of it.

\set VERBOSITY terse
SET client_min_messages = warning;
CREATE EXTENSION poser;
\getenv test PG_ABS_SRCDIR
\set tools :test '/include/views.sql'
\i :tools

CREATE TABLE customer (id integer PRIMARY KEY, name text);
CREATE TABLE orders (id serial PRIMARY KEY, customer_id integer REFERENCES customer ON DELETE CASCADE ON UPDATE CASCADE,
	open boolean NOT NULL DEFAULT true, total numeric NOT NULL DEFAULT 1);
CREATE TABLE note (id serial PRIMARY KEY, order_id integer REFERENCES orders ON DELETE CASCADE ON UPDATE CASCADE);
CREATE VIEW customer_orders AS
SELECT customer.id, count(orders.id) AS orders, count(orders.id) FILTER (WHERE open) AS open, sum(total) AS total
  FROM customer LEFT JOIN orders ON orders.customer_id = customer.id GROUP BY customer.id;
-- orders is a parent, too
CREATE VIEW order_notes AS
SELECT orders.id, orders.customer_id, count(note.id) AS notes
  FROM orders LEFT JOIN note ON note.order_id = orders.id GROUP BY orders.id;
INSERT INTO customer VALUES (1), (2);
SELECT poser_maintain('customer_orders'), poser_maintain('order_notes');

--
-- Functions that write and read
--
CREATE FUNCTION add_order(customer integer) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO orders (customer_id) VALUES (customer);
	RETURN (SELECT orders FROM customer_orders WHERE id = customer);
END
$$;
CREATE FUNCTION add_order_sql(customer integer) RETURNS bigint LANGUAGE sql VOLATILE AS $$
	INSERT INTO orders (customer_id) VALUES (customer);
	SELECT orders FROM customer_orders WHERE id = customer;
$$;
CREATE FUNCTION stable_count(customer integer) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
BEGIN
	RETURN (SELECT orders FROM customer_orders WHERE id = customer);
END
$$;
CREATE FUNCTION volatile_count(customer integer) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
BEGIN
	RETURN (SELECT orders FROM customer_orders WHERE id = customer);
END
$$;
SELECT i, add_order(1) AS added, stable_count(1), volatile_count(1),
       (SELECT orders FROM customer_orders WHERE id = 1 AND i > 0) AS kept,
       (SELECT orders FROM customer_orders_query WHERE id = 1 AND i > 0) AS counted
  FROM generate_series(1, 3) AS i;
SELECT id, orders, add_order_sql(id) AS added, add_order_sql(1) AS added_to_1 FROM customer_orders ORDER BY id;
TABLE differences;
-- rows that come from functions, which insert as well
INSERT INTO orders (id, customer_id, total)
SELECT 100 + i, 2, add_order(2) * 100 + stable_count(2) FROM generate_series(1, 3) AS i;
SELECT id, total FROM orders WHERE id > 100 ORDER BY id;
UPDATE orders SET customer_id = 1, total = volatile_count(2)
 WHERE id > 100 RETURNING id, total, stable_count(1), volatile_count(1);
DELETE FROM orders WHERE id > 100 AND add_order(2) > 0 RETURNING id, stable_count(1), volatile_count(1), volatile_count(2);
SELECT * FROM customer_orders ORDER BY id;
TABLE differences;
TABLE live;

-- A condition's function that writes: it cannot, and the statement fails.
CREATE FUNCTION sneaky(number integer) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	INSERT INTO regress_views.orders (customer_id) VALUES (1);
	RETURN true;
END
$$;
CREATE VIEW sneaky_orders AS
SELECT customer.id, count(orders.id) FILTER (WHERE sneaky(orders.id)) AS orders
  FROM customer LEFT JOIN orders ON orders.customer_id = customer.id GROUP BY customer.id;
SELECT poser_maintain('sneaky_orders');
DROP VIEW sneaky_orders;
DROP FUNCTION sneaky;

--
-- Triggers that read, at every point of every statement
--
CREATE TABLE log (n serial, at text, orders bigint, kept integer);
CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	point text := concat_ws(' ', TG_WHEN, TG_OP, TG_LEVEL, TG_NAME);
BEGIN
	IF EXISTS (TABLE differences) THEN
		RAISE EXCEPTION 'counts differ: %', point;
	END IF;
	INSERT INTO log (at, orders, kept)
	SELECT point, orders, (SELECT count(*) FROM customer_orders_served) FROM customer_orders WHERE id = 1;
	RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
END
$$;
-- the same with the statement's snapshot
CREATE FUNCTION look_stable() RETURNS trigger LANGUAGE plpgsql STABLE AS $$
BEGIN
	IF EXISTS (TABLE differences) THEN
		RAISE EXCEPTION 'counts differ: % % % %', TG_WHEN, TG_OP, TG_LEVEL, TG_NAME;
	END IF;
	RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
END
$$;
-- "a" fires before the triggers of the extension, "z" after them
DO $$
DECLARE
	tab text;
	place text;
	moment text;
BEGIN
	FOREACH tab IN ARRAY '{customer,orders,note}'::text[] LOOP
		FOREACH place IN ARRAY '{a,z}'::text[] LOOP
			FOREACH moment IN ARRAY '{BEFORE,AFTER}'::text[] LOOP
				EXECUTE format('CREATE TRIGGER %s_%s_statement %s INSERT OR UPDATE OR DELETE ON %s
								EXECUTE FUNCTION look()', place, lower(moment), moment, tab);
				EXECUTE format('CREATE TRIGGER %s_%s_row %s INSERT OR UPDATE OR DELETE ON %s
								FOR EACH ROW EXECUTE FUNCTION look()', place, lower(moment), moment, tab);
				EXECUTE format('CREATE TRIGGER %s_%s_stable %s INSERT OR UPDATE OR DELETE ON %s
								FOR EACH ROW EXECUTE FUNCTION look_stable()', place, lower(moment), moment, tab);
			END LOOP;
			EXECUTE format('CREATE TRIGGER %s_truncate BEFORE TRUNCATE ON %s EXECUTE FUNCTION look()', place, tab);
			EXECUTE format('CREATE TRIGGER %s_truncated AFTER TRUNCATE ON %s EXECUTE FUNCTION look()', place, tab);
		END LOOP;
	END LOOP;
	EXECUTE 'CREATE CONSTRAINT TRIGGER z_constraint AFTER INSERT OR UPDATE OR DELETE ON orders
			 DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION look()';
END
$$;
-- Each row is visible as soon as it is inserted, and is counted whether the extension's
-- trigger has run or not.
TRUNCATE orders CASCADE;
TRUNCATE log;
INSERT INTO orders (id, customer_id, open) VALUES (1, 1, true), (2, 1, false);
SELECT at, orders, kept FROM log ORDER BY n;
TRUNCATE log;
UPDATE orders SET open = NOT open, customer_id = 1 WHERE id IN (1, 2);
SELECT at, orders, kept FROM log ORDER BY n;
TRUNCATE log;
DELETE FROM orders WHERE id IN (1, 2);
SELECT at, orders, kept FROM log ORDER BY n;
TRUNCATE log;
-- all other kinds of statement; counts that differ raise an error
INSERT INTO orders (id, customer_id) VALUES (1, 1), (2, 2), (3, 2);
INSERT INTO note (order_id) VALUES (1), (1), (2), (NULL);
INSERT INTO orders (id, customer_id) VALUES (3, 1), (4, 2) ON CONFLICT (id) DO UPDATE SET customer_id = excluded.customer_id;
MERGE INTO orders AS target USING (VALUES (1), (2), (3), (5)) AS source (id) ON target.id = source.id
WHEN MATCHED AND target.id = 1 THEN DELETE
WHEN MATCHED THEN UPDATE SET customer_id = CASE customer_id WHEN 1 THEN 2 ELSE 1 END
WHEN NOT MATCHED THEN INSERT (id, customer_id) VALUES (source.id, 2);
WITH made AS (INSERT INTO customer VALUES (3) RETURNING *),
moved AS (UPDATE orders SET customer_id = 3, open = false WHERE id = 2),
deleted AS (DELETE FROM orders WHERE id = 3)
INSERT INTO orders (id, customer_id) SELECT 1000, id FROM made;
COPY orders (id, customer_id) FROM STDIN;
7	3
8	1
\.
SELECT add_order(3), add_order_sql(3), stable_count(3);
UPDATE customer SET name = 'changed';
UPDATE customer SET id = id + 10;
UPDATE orders SET id = id + 100;
DELETE FROM customer WHERE id = 13;
BEGIN;
TRUNCATE orders, note;
COMMIT;
SELECT * FROM customer_orders ORDER BY id;
SELECT * FROM order_notes ORDER BY id;
TABLE differences;
TABLE live;
DROP FUNCTION look CASCADE;
DROP FUNCTION look_stable CASCADE;

--
-- Triggers that write the tables before the extension's triggers fire
--
INSERT INTO customer VALUES (1), (2);
CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO customer VALUES (1) ON CONFLICT DO NOTHING;
	INSERT INTO orders (customer_id) VALUES (1);
	RETURN NULL;
END
$$;
CREATE TRIGGER a_again AFTER DELETE OR UPDATE ON customer EXECUTE FUNCTION again();
DELETE FROM customer WHERE id = 1;
SELECT id, delta, orders FROM customer_orders_maintained WHERE id < 3 ORDER BY id;
TABLE differences;
UPDATE customer SET id = 3 WHERE id = 1;
SELECT id, delta, orders FROM customer_orders_maintained WHERE id <= 3 ORDER BY id;
TABLE differences;
DROP TRIGGER a_again ON customer;
-- TRUNCATE removes rows that a trigger has inserted, and keeps those inserted afterwards
CREATE TRIGGER z_again BEFORE TRUNCATE ON orders EXECUTE FUNCTION again();
TRUNCATE orders CASCADE;
SELECT * FROM customer_orders WHERE id < 4 ORDER BY id;
TABLE differences;
DROP TRIGGER z_again ON orders;
CREATE TRIGGER z_again AFTER TRUNCATE ON orders EXECUTE FUNCTION again();
CREATE TRIGGER a_again AFTER TRUNCATE ON orders EXECUTE FUNCTION again();
CREATE TRIGGER z_again AFTER TRUNCATE ON customer EXECUTE FUNCTION again();
TRUNCATE orders CASCADE;
SELECT * FROM customer_orders WHERE id < 4 ORDER BY id;
TABLE differences;
TRUNCATE customer CASCADE;
SELECT * FROM customer_orders ORDER BY id;
TABLE differences;
TABLE live;
DROP FUNCTION again CASCADE;

--
-- Cursors
--
TRUNCATE customer CASCADE;
INSERT INTO customer VALUES (1), (2);
INSERT INTO orders (id, customer_id) VALUES (1, 1);
-- A cursor that a trigger opens sees the inserted row, so its count must include it.
CREATE FUNCTION open_cursor() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	opened refcursor := TG_WHEN || TG_LEVEL;
BEGIN
	OPEN opened FOR
		SELECT id, orders, (SELECT count(*) FROM orders WHERE customer_id = kept.id) AS counted
		  FROM customer_orders AS kept ORDER BY id;
	RETURN NEW;
END
$$;
CREATE TRIGGER a BEFORE INSERT ON orders FOR EACH STATEMENT EXECUTE FUNCTION open_cursor();
CREATE TRIGGER b BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION open_cursor();
CREATE TRIGGER c AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION open_cursor();
CREATE TRIGGER z AFTER INSERT ON orders FOR EACH STATEMENT EXECUTE FUNCTION open_cursor();
BEGIN;
INSERT INTO orders (id, customer_id) VALUES (2, 2);
FETCH ALL FROM "BEFORESTATEMENT";
FETCH ALL FROM "BEFOREROW";
FETCH ALL FROM "AFTERROW";
FETCH ALL FROM "AFTERSTATEMENT";
TABLE live;
COMMIT;
DROP FUNCTION open_cursor CASCADE;
-- A cursor sees the counts of the moment when it was opened.
BEGIN;
DECLARE kept CURSOR FOR SELECT id, orders FROM customer_orders ORDER BY id;
DECLARE counted CURSOR FOR SELECT id, orders FROM customer_orders_query ORDER BY id;
DECLARE held CURSOR WITH HOLD FOR SELECT id, orders FROM customer_orders ORDER BY id;
FETCH 1 FROM kept;
INSERT INTO orders (id, customer_id) VALUES (3, 1), (4, 2);
DECLARE later CURSOR FOR SELECT id, orders FROM customer_orders ORDER BY id;
DELETE FROM orders WHERE customer_id = 2;
INSERT INTO customer VALUES (0);
FETCH ALL FROM kept;
FETCH ALL FROM counted;
FETCH ALL FROM later;
COMMIT;
FETCH ALL FROM held;
CLOSE held;
-- a loop over counts that writes
DO $$
DECLARE
	customer record;
	seen text := '';
BEGIN
	FOR customer IN SELECT id, orders FROM customer_orders ORDER BY id LOOP
		UPDATE orders SET customer_id = 2;
		seen := seen || format('%s %s, ', customer.id, customer.orders);
	END LOOP;
	ASSERT seen = '0 0, 1 2, 2 0, ', seen;
END
$$;
SELECT * FROM customer_orders ORDER BY id;
TABLE differences;

--
-- Savepoints and errors
--
BEGIN;
INSERT INTO orders (customer_id) VALUES (1);
SAVEPOINT a;
INSERT INTO orders (customer_id) VALUES (1);
UPDATE orders SET open = false;
SAVEPOINT b;
INSERT INTO orders (customer_id) VALUES (1), (2);
SAVEPOINT c;
DELETE FROM orders;
DELETE FROM customer WHERE id = 2;
TABLE differences;
ROLLBACK TO c;
TABLE differences;
INSERT INTO orders (customer_id) VALUES (2);
RELEASE b;
TABLE differences;
ROLLBACK TO a;
TABLE differences;
INSERT INTO orders (customer_id) VALUES (1);
TABLE live;
COMMIT;
SELECT * FROM customer_orders ORDER BY id;
BEGIN;
SAVEPOINT a;
INSERT INTO customer VALUES (3);
INSERT INTO orders (customer_id) VALUES (3);
ROLLBACK TO a;
INSERT INTO customer VALUES (3);
INSERT INTO orders (customer_id) VALUES (3), (3);
DELETE FROM orders WHERE customer_id = 3;
DELETE FROM customer WHERE id = 3;
INSERT INTO customer VALUES (3);
INSERT INTO orders (customer_id) VALUES (3);
SAVEPOINT a;
UPDATE orders SET id = 1 WHERE customer_id = 1;
ROLLBACK TO a;
TABLE differences;
TABLE live;
COMMIT;
-- a thousand inserts of one row, with savepoints between them
BEGIN;
DO $$
BEGIN
	FOR i IN 1..1000 LOOP
		INSERT INTO orders (customer_id, open) VALUES (3, i % 4 = 0);
		IF i % 10 = 0 THEN
			BEGIN
				INSERT INTO orders (customer_id) VALUES (3);
				DELETE FROM orders WHERE customer_id = 3 AND open;
				RAISE EXCEPTION 'undo';
			EXCEPTION WHEN raise_exception THEN
				NULL;
			END;
		END IF;
	END LOOP;
END
$$;
TABLE differences;
TABLE live;
COMMIT;
SELECT * FROM customer_orders ORDER BY id;
SELECT count(*) FROM customer_orders_maintained;
SELECT * FROM customer_orders ORDER BY id;
TABLE differences;
TABLE live;

DROP EXTENSION poser CASCADE;
DROP SCHEMA regress_views CASCADE;
