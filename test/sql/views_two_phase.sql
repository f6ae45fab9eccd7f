-- Maintained views and two-phase commit.

\set VERBOSITY terse
SELECT setting::int < 2 AS skip FROM pg_settings WHERE name = 'max_prepared_transactions' \gset
\if :skip
\echo skipped: needs max_prepared_transactions of 2 or more
\quit
\endif
SET client_min_messages = warning;
CREATE EXTENSION poser;
\getenv test PG_ABS_SRCDIR
\set tools :test '/include/views.sql'
\i :tools

CREATE TABLE customer (id integer PRIMARY KEY);
CREATE TABLE orders (id serial PRIMARY KEY, customer_id integer REFERENCES customer, open boolean DEFAULT true, total numeric);
CREATE VIEW customer_orders AS
SELECT customer.id, count(orders.id) AS orders, count(orders.id) FILTER (WHERE open) AS open, sum(total) AS total
  FROM customer LEFT JOIN orders ON orders.customer_id = customer.id GROUP BY customer.id;
INSERT INTO customer VALUES (1), (2);
INSERT INTO orders (customer_id, total) VALUES (1, 1);
SELECT poser_maintain('customer_orders');

-- A prepared transaction locks the settled rows that it has changed.
BEGIN;
INSERT INTO orders (customer_id, total) VALUES (1, 2);
SAVEPOINT a;
INSERT INTO orders (customer_id, total) VALUES (1, 4.5), (2, 5);
INSERT INTO customer VALUES (3);
INSERT INTO orders (customer_id, total) VALUES (3, 'NaN');
SELECT * FROM customer_orders ORDER BY id;
PREPARE TRANSACTION 'regress_poser_1';
SELECT * FROM customer_orders ORDER BY id;
TABLE differences;

-- Other transactions can still write.  They leave deltas until it ends.
INSERT INTO orders (customer_id, open, total) VALUES (1, false, 0.25), (2, false, NULL);
INSERT INTO orders (customer_id, total) VALUES (1, 10);
SELECT * FROM customer_orders ORDER BY id;
SELECT id, delta > 0 AS delta, orders, open, total FROM customer_orders_maintained ORDER BY id, 2;

-- A second prepared transaction commits before the first.
BEGIN;
DELETE FROM orders WHERE NOT open AND customer_id = 1;
PREPARE TRANSACTION 'regress_poser_2';
SELECT * FROM customer_orders ORDER BY id;
TABLE differences;
COMMIT PREPARED 'regress_poser_2';
SELECT * FROM customer_orders ORDER BY id;
COMMIT PREPARED 'regress_poser_1';
SELECT * FROM customer_orders ORDER BY id;
TABLE differences;
TABLE live;

-- The next write of a key settles its deltas.
UPDATE orders SET open = true WHERE customer_id = 2;
SELECT DISTINCT id FROM customer_orders_maintained WHERE delta > 0;
DELETE FROM orders WHERE customer_id = 1;
SELECT id, delta > 0 AS delta, orders, open, total FROM customer_orders_maintained ORDER BY id, 2;
TABLE differences;

-- A prepared transaction that only deletes is rolled back.
BEGIN ISOLATION LEVEL SERIALIZABLE;
DELETE FROM orders;
DELETE FROM customer WHERE id = 3;
SELECT * FROM customer_orders ORDER BY id;
PREPARE TRANSACTION 'regress_poser_1';
SELECT * FROM customer_orders ORDER BY id;
INSERT INTO orders (customer_id, total) VALUES (1, 7), (2, 8);
SELECT * FROM customer_orders ORDER BY id;
ROLLBACK PREPARED 'regress_poser_1';
SELECT * FROM customer_orders ORDER BY id;
TABLE differences;
TABLE live;

-- A prepared TRUNCATE.
BEGIN;
TRUNCATE orders;
INSERT INTO orders (customer_id, total) VALUES (3, 9);
PREPARE TRANSACTION 'regress_poser_1';
COMMIT PREPARED 'regress_poser_1';
SELECT * FROM customer_orders ORDER BY id;
TABLE differences;
TABLE live;

DROP EXTENSION poser CASCADE;
DROP SCHEMA regress_views CASCADE;
