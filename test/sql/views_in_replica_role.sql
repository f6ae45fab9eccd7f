-- Maintained views and session_replication_role = replica: rows are counted one by one, as a
-- subscription writes them, and the transaction reads live.

\set VERBOSITY terse
SET client_min_messages = warning;
CREATE EXTENSION poser;
\getenv test PG_ABS_SRCDIR
\set tools :test '/include/views.sql'
\i :tools

CREATE TABLE customer (id integer PRIMARY KEY, name text);
CREATE TABLE orders (id integer PRIMARY KEY, customer_id integer REFERENCES customer, status text, total numeric)
	PARTITION BY RANGE (id);
CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM (1) TO (100);
CREATE TABLE orders_2 (total numeric, status text, id integer NOT NULL, customer_id integer);
ALTER TABLE orders ATTACH PARTITION orders_2 FOR VALUES FROM (100) TO (200);
CREATE TABLE node (id integer PRIMARY KEY, parent_id integer REFERENCES node, size bigint);
CREATE VIEW customer_orders AS
SELECT customer.id, count(orders.id) AS orders, count(orders.id) FILTER (WHERE status = 'open') AS open, sum(total) AS total
  FROM customer LEFT JOIN orders ON orders.customer_id = customer.id GROUP BY customer.id;
CREATE VIEW node_children AS
SELECT node.id, count(child.id) AS children, sum(child.size) AS size
  FROM node LEFT JOIN node AS child ON child.parent_id = node.id GROUP BY node.id;
INSERT INTO customer SELECT generate_series(1, 3);
INSERT INTO orders VALUES (1, 1, 'open', 1.5), (2, 1, 'closed', 2), (101, 2, 'open', 3);
INSERT INTO node VALUES (1, NULL, 1), (2, 1, 2), (3, 1, 3);
SELECT poser_maintain('customer_orders'), poser_maintain('node_children');
TABLE live;

SET session_replication_role = replica;
INSERT INTO orders VALUES (3, 1, 'open', 4), (102, NULL, 'open', 5), (103, 3, 'closed', 6);
UPDATE orders SET status = 'open', total = total + 1 WHERE id IN (2, 103);
UPDATE orders SET customer_id = 3 WHERE id IN (1, 102);
UPDATE orders SET id = 150 WHERE id = 3;
DELETE FROM orders WHERE id = 101;
INSERT INTO customer VALUES (4), (5);
UPDATE customer SET id = 6 WHERE id = 5;
UPDATE customer SET name = 'changed';
DELETE FROM customer WHERE id = 2;
COPY orders FROM STDIN;
4	4	open	1
5	6	\N	\N
\.
MERGE INTO orders_2 AS target USING (VALUES (103), (104)) AS source (id) ON target.id = source.id
WHEN MATCHED THEN UPDATE SET customer_id = 6
WHEN NOT MATCHED THEN INSERT (id, customer_id, status) VALUES (source.id, 6, 'open');
INSERT INTO node VALUES (4, 2, 4), (5, 4, 5), (6, NULL, NULL);
UPDATE node SET parent_id = 6 WHERE id IN (2, 5);
UPDATE node SET id = 7, parent_id = 7 WHERE id = 5;
DELETE FROM node WHERE id = 3;
-- it is read live
TABLE live;
TABLE differences;
RESET session_replication_role;
-- now the counts are read, which were changed meanwhile
TABLE live;
TABLE differences;
SELECT * FROM customer_orders ORDER BY id;
SELECT * FROM node_children ORDER BY id;
SELECT id, delta, orders, open, total FROM customer_orders_maintained ORDER BY id, delta;
SELECT id, delta, children, size FROM node_children_maintained ORDER BY id, delta;

-- A transaction that has written so reads live to its end.
BEGIN;
INSERT INTO orders VALUES (6, 1, 'open', 1);
TABLE live;
SET LOCAL session_replication_role = replica;
INSERT INTO orders VALUES (7, 1, 'open', 1);
SET LOCAL session_replication_role = origin;
TABLE live;
TABLE differences;
INSERT INTO orders VALUES (8, 1, 'open', 1);
TABLE differences;
COMMIT;
TABLE live;
TABLE differences;
SELECT * FROM customer_orders WHERE id = 1;

-- TRUNCATE fires its triggers in a subscription, too
SET session_replication_role = replica;
TRUNCATE orders_2;
TRUNCATE node;
RESET session_replication_role;
TABLE differences;
TABLE live;
SELECT * FROM customer_orders ORDER BY id;
SET session_replication_role = replica;
TRUNCATE orders;
RESET session_replication_role;
TABLE differences;
TABLE live;
SELECT * FROM customer_orders ORDER BY id;

-- If triggers are made ordinary ones, nothing is counted twice.
ALTER TABLE orders ENABLE TRIGGER ALL;
ALTER TABLE customer ENABLE TRIGGER ALL;
ALTER TABLE node ENABLE TRIGGER ALL;
INSERT INTO orders VALUES (1, 1, 'open', 1.5), (101, 1, 'open', 2);
UPDATE orders SET customer_id = 3 WHERE id = 1;
DELETE FROM orders WHERE id = 101;
INSERT INTO customer VALUES (7);
UPDATE customer SET id = 8 WHERE id = 7;
INSERT INTO node VALUES (1, 1, 1), (2, 1, 1);
SELECT id, orders, open, total FROM customer_orders_maintained ORDER BY id, delta;
SELECT id, children, size FROM node_children_maintained ORDER BY id, delta;

-- The function can be called by triggers only, and only by those of certain kinds.
CREATE TRIGGER wrong BEFORE INSERT ON customer FOR EACH ROW EXECUTE FUNCTION poser_maintain_rows();
INSERT INTO customer VALUES (9);
DROP TRIGGER wrong ON customer;
SELECT poser_maintain_rows();
ALTER TABLE orders DISABLE TRIGGER poser_maintain_insert;
CREATE TRIGGER poser_maintain_insert_wrong AFTER INSERT ON orders EXECUTE FUNCTION poser_maintain_rows();
INSERT INTO orders VALUES (9, 1, 'open', 1);
DROP TRIGGER poser_maintain_insert_wrong ON orders;

DROP EXTENSION poser CASCADE;
DROP SCHEMA regress_views CASCADE;
