-- Maintained views with a condition that uses the child's row as a whole.  What it says about
-- a row can change with the columns of the table.  Then the view counts, until
-- poser_maintain() has counted the rows with the new columns.

SET client_min_messages = warning;
CREATE EXTENSION poser;
CREATE TABLE customer (id bigint PRIMARY KEY);
CREATE TABLE orders (id bigint PRIMARY KEY, customer_id bigint REFERENCES customer, total numeric);
CREATE FUNCTION is_large(o orders) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT o.total > 15';
INSERT INTO customer VALUES (1), (2);
INSERT INTO orders SELECT i, 1 + i % 2, i * 10.0 / 3 FROM generate_series(1, 8) AS i;
CREATE VIEW customer_orders AS
SELECT c.id, count(o.id) FILTER (WHERE o IS NOT NULL) AS complete, count(o.id) FILTER (WHERE is_large(o)) AS large
  FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id;
CREATE VIEW customer_sums AS
SELECT c.id, sum(o.total) AS total FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id;
SELECT poser_maintain('customer_orders'), poser_maintain('customer_sums');

CREATE FUNCTION look() RETURNS TABLE (view regclass, served boolean, problem text, wrong bigint) LANGUAGE sql AS $$
SELECT v.view, v.served, v.problem,
	   (SELECT count(*) FROM (TABLE customer_orders EXCEPT TABLE customer_orders_query) AS d)
	   + (SELECT count(*) FROM (TABLE customer_sums EXCEPT TABLE customer_sums_query) AS d)
  FROM poser_views AS v ORDER BY v.view;
$$;
SELECT * FROM look();
SELECT * FROM customer_orders ORDER BY id;

-- A new column is null in all rows.
ALTER TABLE orders ADD note text;
SELECT * FROM look();
SELECT * FROM customer_orders ORDER BY id;
-- rows that are written meanwhile
INSERT INTO orders VALUES (9, 1, 100, 'x');
UPDATE orders SET note = 'y' WHERE id = 1;
SELECT * FROM look();
SELECT poser_maintain('customer_orders');
SELECT * FROM look();
SELECT * FROM customer_orders ORDER BY id;

-- The same column again: it has other values.
ALTER TABLE orders DROP note, ADD note text DEFAULT 'z';
SELECT * FROM look();
SELECT poser_maintain('customer_orders');
SELECT * FROM customer_orders ORDER BY id;
-- values of the same type, which no view depends on
DROP VIEW customer_sums CASCADE;
SELECT poser_unmaintain('customer_sums_query');
DROP FUNCTION look;
ALTER TABLE orders ALTER note TYPE text USING nullif(note, 'z');
SELECT view, served, problem FROM poser_views;
SELECT * FROM customer_orders ORDER BY id;
SELECT poser_maintain('customer_orders');
SELECT view, served, problem FROM poser_views;
SELECT * FROM customer_orders ORDER BY id;

-- A constraint, a trigger or a setting of the table changes nothing.
ALTER TABLE orders ADD CHECK (total > 0), SET (fillfactor = 80);
SELECT view, served, problem FROM poser_views;
SELECT * FROM poser_check('customer_orders');

SELECT poser_unmaintain('customer_orders');
DROP EXTENSION poser;
DROP VIEW customer_orders;
DROP FUNCTION is_large;
DROP TABLE orders, customer;
