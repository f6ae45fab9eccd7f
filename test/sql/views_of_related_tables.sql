-- Maintained views of tables that are related in several ways: partitions of child and
-- parent, a tree, two parents of one child, two children of one parent, views of views' tables.

\set VERBOSITY terse
SET client_min_messages = warning;
CREATE EXTENSION poser;
\getenv test PG_ABS_SRCDIR
\set tools :test '/include/views.sql'
\i :tools

--
-- Both tables are partitioned
--
CREATE TABLE customer (region text, id integer, name text, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
CREATE TABLE customer_a PARTITION OF customer FOR VALUES IN ('a');
CREATE TABLE customer_b (id integer NOT NULL, gone integer, name text, region text NOT NULL);
ALTER TABLE customer_b DROP COLUMN gone;
ALTER TABLE customer ATTACH PARTITION customer_b FOR VALUES IN ('b');
CREATE TABLE orders (id integer, region text, customer_id integer, open boolean DEFAULT true, total numeric,
	FOREIGN KEY (region, customer_id) REFERENCES customer (region, id) ON DELETE CASCADE) PARTITION BY RANGE (id);
CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM (0) TO (100);
CREATE TABLE orders_2 PARTITION OF orders FOR VALUES FROM (100) TO (200) PARTITION BY RANGE (id);
CREATE TABLE orders_2_1 (total numeric, customer_id integer, open boolean DEFAULT true, gone integer, id integer, region text);
ALTER TABLE orders_2_1 DROP COLUMN gone;
ALTER TABLE orders_2 ATTACH PARTITION orders_2_1 FOR VALUES FROM (100) TO (150);
CREATE TABLE orders_2_2 PARTITION OF orders_2 DEFAULT;
CREATE VIEW customer_orders AS
SELECT customer.id, customer.region, count(orders.id) AS orders, sum(total) FILTER (WHERE open) AS open_total
  FROM customer LEFT JOIN orders ON orders.region = customer.region AND orders.customer_id = customer.id
 GROUP BY customer.region, customer.id;
INSERT INTO customer VALUES ('a', 1), ('b', 1), ('b', 2);
INSERT INTO orders VALUES (1, 'a', 1, true, 1.5), (101, 'b', 1, false, 2), (160, 'b', 2, true, 3);
SELECT poser_maintain('customer_orders');

-- through the root, the partitions and the partitioned partition
INSERT INTO orders VALUES (2, 'b', 2, true, 4), (102, 'b', 2, true, 5), (161, NULL, 2, true, 6), (162, 'a', 1, false, 7);
INSERT INTO orders_1 VALUES (3, 'a', 1, true, 8);
INSERT INTO orders_2 VALUES (103, 'a', 1, true, 9), (163, 'b', 1, true, 10);
INSERT INTO orders_2_1 (id, region, customer_id, total) VALUES (104, 'a', 1, 11);
SELECT * FROM customer_orders ORDER BY region, id;
TABLE differences;
UPDATE orders_2_1 SET open = NOT open, total = total * 2.0;
UPDATE orders_1 SET region = 'b' WHERE id = 1;
UPDATE orders_2 SET region = 'b', customer_id = 2 WHERE id = 103;
TABLE differences;
-- rows move between partitions
UPDATE orders SET id = id + 100 WHERE id < 50;
UPDATE orders_2 SET id = id + 60 WHERE id < 110;
UPDATE orders SET id = id - 150, open = NOT open, total = total + 1, region = 'b', customer_id = 1 WHERE id > 160;
SELECT tableoid::regclass, count(*) FROM orders GROUP BY 1 ORDER BY 1;
SELECT * FROM customer_orders ORDER BY region, id;
TABLE differences;
MERGE INTO orders AS target USING (VALUES (11), (12), (160), (170)) AS source (id) ON target.id = source.id
WHEN MATCHED AND target.id = 11 THEN DELETE
WHEN MATCHED AND target.id = 12 THEN UPDATE SET open = NOT open
WHEN MATCHED THEN UPDATE SET id = target.id - 100
WHEN NOT MATCHED THEN INSERT VALUES (source.id, 'a', 1, true, 1);
TABLE differences;
COPY orders FROM STDIN;
20	a	1	t	1.25
120	b	2	f	\N
180	b	2	t	3
\.
DELETE FROM orders_2_2 WHERE id = 170;
DELETE FROM orders WHERE id = 20;
TABLE differences;

-- parents
INSERT INTO customer VALUES ('a', 2), ('b', 3);
INSERT INTO customer_b (id, region) VALUES (4, 'b');
UPDATE customer SET id = id + 10 WHERE id > 2;
UPDATE customer_b SET id = id + 10 WHERE id > 12;
UPDATE customer SET region = 'b', id = 5 WHERE region = 'a' AND id = 2;
UPDATE customer SET name = 'changed';
SELECT region, id, delta FROM customer_orders_maintained ORDER BY region, id, delta;
DELETE FROM customer WHERE id = 13;
DELETE FROM customer_b WHERE id = 2;
DELETE FROM customer WHERE region = 'a' AND id = 1;
SELECT region, id, delta, orders FROM customer_orders_maintained ORDER BY region, id, delta;
SELECT * FROM customer_orders ORDER BY region, id;
TABLE differences;
TABLE live;

-- TRUNCATE of partitions, alone and together
INSERT INTO customer VALUES ('a', 1), ('b', 2);
INSERT INTO orders SELECT i, CASE WHEN i % 2 = 0 THEN 'a' ELSE 'b' END, 1, true, i FROM generate_series(0, 190, 5) AS i;
BEGIN;
TRUNCATE orders_1;
SELECT * FROM customer_orders ORDER BY region, id;
TABLE differences;
ROLLBACK;
TABLE differences;
TRUNCATE orders_2_1;
SELECT * FROM customer_orders ORDER BY region, id;
TABLE differences;
TABLE live;
INSERT INTO orders SELECT i, 'a', 1, true, i FROM generate_series(100, 140) AS i;
TRUNCATE orders_1, orders_2;
SELECT * FROM customer_orders ORDER BY region, id;
TABLE differences;
INSERT INTO orders SELECT i, 'b', 1, true, i FROM generate_series(0, 190) AS i;
TRUNCATE orders_2_1, orders_2;
TABLE differences;
TRUNCATE orders_2_2, orders, orders_1;
SELECT * FROM customer_orders ORDER BY region, id;
TABLE differences;
INSERT INTO orders SELECT i, 'b', 1, true, i FROM generate_series(0, 190) AS i;
TRUNCATE orders, orders_1;
TABLE differences;
INSERT INTO orders SELECT i, 'b', 1, true, i FROM generate_series(0, 190) AS i;
TRUNCATE customer_a, customer_b CASCADE;
SELECT * FROM customer_orders_maintained;
INSERT INTO customer VALUES ('a', 1), ('b', 1);
INSERT INTO orders SELECT i, 'b', 1, true, i FROM generate_series(0, 190) AS i;
TRUNCATE customer CASCADE;
SELECT * FROM customer_orders_maintained;
TABLE differences;
TABLE live;

-- A trigger writes while partitions are truncated.
INSERT INTO customer VALUES ('a', 1), ('b', 1);
INSERT INTO orders SELECT i, 'b', 1, true, i FROM generate_series(0, 190) AS i;
CREATE FUNCTION add_orders() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF TG_ARGV[0] = 'customer' THEN
		INSERT INTO customer VALUES ('a', 7);
	ELSE
		EXECUTE format('INSERT INTO %I (id, region, customer_id, total) VALUES (%s, ''a'', 1, 1)', TG_ARGV[0], TG_ARGV[1]);
	END IF;
	RETURN NULL;
END
$$;
CREATE TRIGGER z_add BEFORE TRUNCATE ON orders_1 EXECUTE FUNCTION add_orders('orders', '50');
TRUNCATE orders_1;
SELECT * FROM customer_orders ORDER BY region, id;
TRUNCATE orders;
SELECT * FROM customer_orders ORDER BY region, id;
TABLE differences;
INSERT INTO orders SELECT i, 'b', 1, true, i FROM generate_series(0, 190) AS i;
TRUNCATE orders_1, orders;
TABLE differences;
DROP TRIGGER z_add ON orders_1;
CREATE TRIGGER z_add BEFORE TRUNCATE ON orders_1 EXECUTE FUNCTION add_orders('orders_1', '50');
TRUNCATE orders_1;
DROP TRIGGER z_add ON orders_1;
-- another partition can be written
INSERT INTO orders SELECT i, 'b', 1, true, i FROM generate_series(0, 190) AS i;
CREATE TRIGGER z_add BEFORE TRUNCATE ON orders_1 EXECUTE FUNCTION add_orders('orders_2', '150');
TRUNCATE orders_1;
SELECT * FROM customer_orders ORDER BY region, id;
TABLE differences;
DROP TRIGGER z_add ON orders_1;
-- and the same one when it is empty
CREATE TRIGGER z_add AFTER TRUNCATE ON orders_1 EXECUTE FUNCTION add_orders('orders', '50');
CREATE TRIGGER z_add AFTER TRUNCATE ON orders EXECUTE FUNCTION add_orders('orders_2', '150');
CREATE TRIGGER z_add AFTER TRUNCATE ON customer EXECUTE FUNCTION add_orders('customer');
TRUNCATE orders_1;
SELECT * FROM customer_orders ORDER BY region, id;
TABLE differences;
TRUNCATE orders;
SELECT * FROM customer_orders ORDER BY region, id;
TABLE differences;
DROP TRIGGER z_add ON orders;
DROP TRIGGER z_add ON orders_1;
TRUNCATE customer, orders;
SELECT * FROM customer_orders_maintained ORDER BY region, id;
TABLE differences;
TABLE live;
DROP TRIGGER z_add ON customer;

-- A detached partition is an ordinary table: its triggers do nothing.
INSERT INTO customer VALUES ('a', 1), ('b', 1);
INSERT INTO orders SELECT i, 'b', 1, true, i FROM generate_series(0, 190) AS i;
ALTER TABLE orders DETACH PARTITION orders_1;
INSERT INTO orders_1 VALUES (3, 'a', 1, true, 8);
UPDATE orders_1 SET total = 0;
DELETE FROM orders_1 WHERE id < 50;
TABLE differences;
TRUNCATE orders_1;
DROP TABLE orders_1;
TABLE differences;
SELECT poser_unmaintain('customer_orders');
INSERT INTO orders VALUES (111, 'a', 1, true, 1);
DROP TABLE customer, orders CASCADE;
DROP FUNCTION add_orders;

--
-- A tree, and tables in a row
--
CREATE TABLE node (id integer PRIMARY KEY, parent_id integer REFERENCES node ON DELETE CASCADE ON UPDATE CASCADE, size integer);
CREATE TABLE leaf (id integer PRIMARY KEY, node_id integer REFERENCES node ON DELETE CASCADE ON UPDATE CASCADE);
CREATE VIEW node_children AS
SELECT node.id, node.size, count(child.id) AS children, sum(child.size) AS child_size
  FROM node LEFT JOIN node AS child ON child.parent_id = node.id GROUP BY node.id;
CREATE VIEW node_leaves AS
SELECT node.id, count(leaf.id) AS leaves FROM node LEFT JOIN leaf ON leaf.node_id = node.id GROUP BY node.id;
INSERT INTO node VALUES (1, NULL, 1), (2, 1, 2);
SELECT poser_maintain('node_children');
INSERT INTO node VALUES (3, 1, 3), (4, 3, 4), (5, 5, 5);
SELECT * FROM node_children ORDER BY id;
SELECT poser_maintain('node_leaves');
INSERT INTO leaf VALUES (1, 1), (2, 1), (3, 4), (4, NULL);
UPDATE node SET size = size * 10;
UPDATE node SET parent_id = 2 WHERE id IN (3, 5);
UPDATE node SET id = id + 100 WHERE id = 1;
SELECT * FROM node_children ORDER BY id;
SELECT * FROM node_leaves ORDER BY id;
TABLE differences;
TABLE live;
UPDATE node SET id = id + 200, parent_id = CASE WHEN parent_id < 100 THEN parent_id + 200 ELSE parent_id END WHERE id < 100;
TABLE differences;
UPDATE leaf SET node_id = 101;
WITH added AS (INSERT INTO node VALUES (7, NULL, 7), (8, 7, 8) RETURNING id)
INSERT INTO leaf SELECT 10 + id, id FROM added;
MERGE INTO node USING (VALUES (7, 70), (9, 90)) AS source (id, size) ON node.id = source.id
WHEN MATCHED THEN UPDATE SET id = source.size, size = source.size
WHEN NOT MATCHED THEN INSERT VALUES (source.id, 8, source.size);
SELECT * FROM node_children ORDER BY id;
SELECT * FROM node_leaves ORDER BY id;
TABLE differences;
DELETE FROM node WHERE id = 101;
SELECT * FROM node_children ORDER BY id;
SELECT * FROM node_leaves ORDER BY id;
TABLE differences;
BEGIN;
TRUNCATE node, leaf;
INSERT INTO node VALUES (1, NULL, 1), (2, 1, 2);
TABLE differences;
COMMIT;
SELECT * FROM node_children ORDER BY id;
SELECT id, delta, children FROM node_children_maintained ORDER BY id;
DELETE FROM node;
SELECT id, delta, children FROM node_children_maintained ORDER BY id;
TABLE differences;
TABLE live;
DROP VIEW node_children;
INSERT INTO node VALUES (1, NULL, 1), (2, 1, 2);
INSERT INTO leaf VALUES (1, 2);
TABLE differences;
DROP TABLE node_leaves_maintained CASCADE;
INSERT INTO node VALUES (3, 1, 3);
INSERT INTO leaf VALUES (2, 3);
UPDATE node SET id = 4 WHERE id = 3;
DELETE FROM node;
DROP TABLE node, leaf CASCADE;

--
-- A child of two parents, and two children of one parent
--
CREATE TABLE author (id integer PRIMARY KEY, code text UNIQUE NOT NULL);
CREATE TABLE book (id integer PRIMARY KEY);
CREATE TABLE review (id integer PRIMARY KEY, author_id integer REFERENCES author, book_id integer REFERENCES book, stars smallint);
CREATE TABLE prize (id integer PRIMARY KEY, author_code text REFERENCES author (code) ON UPDATE CASCADE);
CREATE VIEW author_reviews AS
SELECT author.id, code, count(review.id) AS reviews, sum(stars) AS stars FROM author LEFT JOIN review ON author_id = author.id GROUP BY author.id;
CREATE VIEW book_reviews AS
SELECT book.id, count(review.author_id) AS reviews FROM book LEFT JOIN review ON book_id = book.id AND stars > 2 GROUP BY book.id;
CREATE VIEW author_prizes AS
SELECT author.code, count(prize.id) AS prizes FROM author LEFT JOIN prize ON author_code = author.code GROUP BY author.code;
SELECT poser_maintain('author_reviews'), poser_maintain('book_reviews'), poser_maintain('author_prizes');
INSERT INTO author VALUES (1, 'x'), (2, 'y');
INSERT INTO book SELECT generate_series(1, 3);
INSERT INTO review SELECT i, nullif(i % 3, 0), nullif(i % 4, 0), i % 5 FROM generate_series(1, 30) AS i;
INSERT INTO prize VALUES (1, 'x'), (2, 'x'), (3, 'y');
UPDATE author SET code = code || '!', id = id + 0;
UPDATE review SET author_id = 1, book_id = 2, stars = 5 WHERE id % 7 = 0;
UPDATE review SET stars = stars + 1;
DELETE FROM review WHERE id % 6 = 0;
SELECT * FROM author_reviews ORDER BY id;
SELECT * FROM book_reviews ORDER BY id;
SELECT * FROM author_prizes ORDER BY code;
TABLE differences;
TABLE live;
UPDATE review SET author_id = NULL;
UPDATE author SET id = id + 10, code = code || '?';
TABLE differences;
SELECT code, delta, prizes FROM author_prizes_maintained ORDER BY code;
SELECT id, delta, reviews FROM author_reviews_maintained ORDER BY id;
TRUNCATE review;
TABLE differences;
TABLE live;

DROP EXTENSION poser CASCADE;
DROP SCHEMA regress_views CASCADE;
