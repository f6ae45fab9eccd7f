-- poser_recount(view): makes the counts and sums of maintained views right.

CREATE EXTENSION poser;
SET client_min_messages = warning;
CREATE ROLE regress_views_recount_owner;
CREATE ROLE regress_views_recount_other;
GRANT CREATE ON SCHEMA public TO regress_views_recount_owner, regress_views_recount_other;
RESET client_min_messages;
SET ROLE regress_views_recount_owner;
CREATE TABLE customer (id int PRIMARY KEY, name text);
CREATE TABLE orders (
	id int PRIMARY KEY, customer_id int REFERENCES customer, status text,
	pieces int, weight bigint, total numeric);
CREATE VIEW customer_orders AS
SELECT c.id AS customer_id, count(o.id) AS orders,
       count(o.id) FILTER (WHERE o.status = 'open') AS open_orders,
       COALESCE(sum(o.pieces), 0) AS pieces, sum(o.weight) AS weight, sum(o.total) AS revenue
  FROM customer c LEFT JOIN orders o ON o.customer_id = c.id
 GROUP BY c.id;
INSERT INTO customer SELECT n, 'c' || n FROM generate_series(1, 5) n;
INSERT INTO orders VALUES
	(1, 1, 'open', 1, 10, 1.50), (2, 1, 'paid', 2, 20, 'NaN'), (3, 2, 'open', NULL, NULL, NULL),
	(4, 2, 'paid', 4, 40, 4.25), (5, 3, 'open', 5, 50, 'Infinity'), (6, NULL, 'open', 6, 60, 6);
SELECT poser_maintain('customer_orders');

-- Says what a view and its query do not have in common.
CREATE PROCEDURE compare(view regclass) LANGUAGE plpgsql AS $$
DECLARE
	line record;
BEGIN
	FOR line IN EXECUTE format('SELECT CASE WHEN n = 1 THEN ''the view'' ELSE ''its query'' END AS has, row
	                              FROM ((SELECT 1, v::text FROM %1$s AS v EXCEPT ALL SELECT 1, q::text FROM %2$s AS q)
	                                    UNION ALL
	                                    (SELECT 2, q::text FROM %2$s AS q EXCEPT ALL SELECT 2, v::text FROM %1$s AS v)) AS t (n, row)
	                             ORDER BY n, row', view, (SELECT format('%I', relname || '_query') FROM pg_class WHERE oid = view))
	LOOP
		RAISE NOTICE '% has %', line.has, line.row;
	END LOOP;
END
$$;
-- Runs a statement that no trigger of maintained views counts.
CREATE PROCEDURE uncounted(target regclass, statement text) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('ALTER TABLE %s DISABLE TRIGGER USER', target);
	EXECUTE statement;
	EXECUTE format('ALTER TABLE %s ENABLE TRIGGER USER', target);
	EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER poser_maintain_before', target);
	EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER poser_maintain_truncate', target);
	EXECUTE format('ALTER TABLE %s ENABLE REPLICA TRIGGER poser_maintain_row', target);
END
$$;
-- Changes the table of counts and sums, which is guarded.
CREATE PROCEDURE unguarded(target regclass, statement text) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('ALTER TABLE %s DISABLE TRIGGER USER', target);
	EXECUTE statement;
	EXECUTE format('ALTER TABLE %s ENABLE TRIGGER USER', target);
	EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER poser_maintained_guard', target);
	EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER poser_maintained_guard_truncate', target);
END
$$;

CALL compare('customer_orders');
SELECT poser_recount('customer_orders');

-- Children and parents that no trigger has seen.
CALL uncounted('orders', $$INSERT INTO orders VALUES (11, 4, 'open', 11, 111, 11.1), (12, 4, 'paid', NULL, NULL, '-Infinity');
	UPDATE orders SET status = 'paid' WHERE id = 1;
	UPDATE orders SET total = 1.5 WHERE id = 1;
	DELETE FROM orders WHERE id IN (2, 5)$$);
CALL uncounted('customer', 'INSERT INTO customer VALUES (6); DELETE FROM customer WHERE id = 5');
CALL compare('customer_orders');
SELECT * FROM poser_check('customer_orders');
-- rolled back, and done
BEGIN;
SELECT poser_recount('customer_orders');
CALL compare('customer_orders');
ROLLBACK;
CALL compare('customer_orders');
SELECT poser_recount('customer_orders');
CALL compare('customer_orders');
SELECT * FROM poser_check('customer_orders');
SELECT poser_recount('customer_orders');
SELECT id, delta, orders, open_orders, pieces, pieces_rows, weight, weight_rows, poser_sum_of(revenue, revenue_tally) AS revenue
  FROM customer_orders_maintained ORDER BY id, delta;
-- the difference stays, whatever is written before
CALL uncounted('orders', 'DELETE FROM orders WHERE id = 11');
INSERT INTO orders VALUES (13, 4, 'open', 1, 1, 1), (14, 6, 'open', 1, 1, 1);
DELETE FROM customer WHERE id = 3;
CALL compare('customer_orders');
SELECT poser_recount('customer_orders');
CALL compare('customer_orders');

-- Wrong rows of the bookkeeping: a sum, the number of its rows, an amount that is not
-- shown, no settled row, a settled row of no parent, deltas.
CALL unguarded('customer_orders_maintained', 'UPDATE customer_orders_maintained SET weight = weight + 1 WHERE id = 1');
SELECT * FROM poser_check('customer_orders');
SELECT poser_recount('customer_orders');
CALL unguarded('customer_orders_maintained', 'UPDATE customer_orders_maintained SET weight_rows = weight_rows + 1 WHERE id = 1');
SELECT * FROM poser_check('customer_orders');
SELECT poser_recount('customer_orders');
CALL unguarded('customer_orders_maintained', 'UPDATE customer_orders_maintained SET weight_rows = 0 WHERE id = 1');
SELECT * FROM poser_check('customer_orders');
SELECT poser_recount('customer_orders');
CALL unguarded('customer_orders_maintained', 'DELETE FROM customer_orders_maintained WHERE id = 6 OR id = 2');
SELECT * FROM poser_check('customer_orders');
SELECT poser_recount('customer_orders');
CALL unguarded('customer_orders_maintained', 'INSERT INTO customer_orders_maintained (id, delta, orders) VALUES
	(77, 0, 0), (78, 0, 5), (79, 12, 3), (1, 13, 1), (1, 14, -1)');
SELECT * FROM poser_check('customer_orders');
SELECT poser_recount('customer_orders');
SELECT poser_recount('customer_orders');
CALL compare('customer_orders');
SELECT * FROM poser_check('customer_orders');
SELECT id, delta FROM customer_orders_maintained ORDER BY id, delta;

-- In the transaction that has written, and one that has begun before.
BEGIN ISOLATION LEVEL REPEATABLE READ;
INSERT INTO orders VALUES (15, 6, 'open', 1, 1, 1);
SELECT poser_recount('customer_orders');
CALL compare('customer_orders');
CALL uncounted('orders', 'INSERT INTO orders VALUES (16, 6, ''open'', 1, 1, 1)');
SELECT poser_recount('customer_orders');
CALL compare('customer_orders');
COMMIT;
CALL compare('customer_orders');

--
-- Other keys: several columns, other types, a partitioned child, a tree, a condition of ON
--
CREATE TABLE place (country text COLLATE "C", zip uuid, PRIMARY KEY (zip, country));
CREATE TABLE parcel (
	id int, zip uuid, country text COLLATE "C", grams smallint, lost boolean,
	FOREIGN KEY (country, zip) REFERENCES place (country, zip)) PARTITION BY RANGE (id);
CREATE TABLE parcel_1 PARTITION OF parcel FOR VALUES FROM (0) TO (100);
CREATE TABLE parcel_2 PARTITION OF parcel FOR VALUES FROM (100) TO (200);
CREATE VIEW place_parcels AS
SELECT p.country, p.zip, count(parcel.id) AS parcels, sum(parcel.grams) AS grams
  FROM place p LEFT JOIN parcel ON parcel.country = p.country AND parcel.zip = p.zip AND NOT parcel.lost
 GROUP BY p.country, p.zip;
CREATE TABLE node (id bigint PRIMARY KEY, parent int REFERENCES node, size bigint);
CREATE VIEW "Nodes below" AS
SELECT n.id, count(c.id) AS "children %", sum(c.size) AS size
  FROM node n LEFT JOIN node c ON c.parent = n.id
 GROUP BY n.id;
INSERT INTO place SELECT country, md5(n::text)::uuid FROM generate_series(1, 2) n, unnest('{de,fr}'::text[]) country;
INSERT INTO parcel SELECT n, md5((n % 2 + 1)::text)::uuid, CASE WHEN n % 3 = 0 THEN 'de' ELSE 'fr' END, n, n % 5 = 0
  FROM generate_series(1, 150) n;
-- a row with a null in a column of its foreign key has no parent
INSERT INTO parcel VALUES (151, md5('1')::uuid, NULL, 1, false), (152, NULL, 'de', 1, false);
INSERT INTO node SELECT n, nullif(n / 2, 0), 1::bigint << 62 FROM generate_series(1, 20) n;
SELECT poser_maintain('place_parcels'), poser_maintain('"Nodes below"');
SELECT * FROM poser_check('place_parcels');
CALL compare('place_parcels');
CALL compare('"Nodes below"');
CALL uncounted('parcel_2', 'UPDATE parcel_2 SET country = ''fr'', lost = id % 7 = 0');
CALL uncounted('node', 'UPDATE node SET size = 1 WHERE id = 3; DELETE FROM node WHERE id = 20; INSERT INTO node VALUES (21, 10, 5)');
SELECT * FROM poser_check('place_parcels');
SELECT * FROM poser_check('"Nodes below"');
-- all views of the owner, which does not own the extension
SELECT poser_recount();
CALL compare('place_parcels');
CALL compare('"Nodes below"');
SELECT * FROM poser_check();
SELECT poser_recount(view) FROM poser_views ORDER BY view::text;
-- a partition is attached
CREATE TABLE parcel_3 PARTITION OF parcel FOR VALUES FROM (200) TO (300);
INSERT INTO parcel VALUES (200, md5('1')::uuid, 'de', 1, false);
CALL compare('place_parcels');
SELECT poser_maintain('place_parcels');
SELECT poser_recount('place_parcels');
CALL compare('place_parcels');

--
-- Which view: also by the relations that belong to it
--
CALL uncounted('orders', 'DELETE FROM orders WHERE id = 16');
SELECT poser_recount('customer_orders_maintained');
SELECT poser_recount('customer_orders_query');
-- errors
CREATE VIEW plain AS SELECT 1 AS one;
SELECT poser_recount('plain');
\echo :SQLSTATE
SELECT poser_recount('orders');
\echo :SQLSTATE
SELECT poser_recount(1::oid);
\echo :SQLSTATE
BEGIN READ ONLY;
SELECT poser_recount('customer_orders');
\echo :SQLSTATE
ROLLBACK;
SET ROLE regress_views_recount_other;
SELECT poser_recount('customer_orders');
\echo :SQLSTATE
SELECT poser_recount();
\echo :SQLSTATE
-- a role with a view of its own
CREATE TABLE mine (id int PRIMARY KEY, of int REFERENCES mine);
CREATE VIEW my_tree AS SELECT m.id, count(n.id) AS below FROM mine m LEFT JOIN mine n ON n.of = m.id GROUP BY m.id;
INSERT INTO mine VALUES (1, NULL), (2, 1);
SELECT poser_maintain('my_tree');
CALL uncounted('mine', 'INSERT INTO mine VALUES (3, 1), (4, 3)');
SELECT poser_recount();
SELECT poser_recount();
RESET ROLE;

-- The owner of the view must see all rows.
ALTER TABLE orders OWNER TO regress_views_recount_other;
SELECT poser_recount('customer_orders');
\echo :SQLSTATE
ALTER TABLE orders OWNER TO regress_views_recount_owner;
ALTER TABLE orders ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CALL uncounted('orders', 'INSERT INTO orders VALUES (17, 6, ''open'', 1, 1, 1)');
SET ROLE regress_views_recount_owner;
SELECT count(*) FROM orders;
SELECT poser_recount('customer_orders');
SELECT poser_recount('customer_orders');
RESET ROLE;
ALTER TABLE orders DISABLE ROW LEVEL SECURITY;
CALL compare('customer_orders');

-- All counts: those of components, and all views.  A view that cannot be recounted is a
-- warning, and does not stop the others.
SET client_min_messages = warning;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', '');
UPDATE poser_component_count SET total = 1 WHERE widget_uuid = 'w1';
CALL uncounted('mine', 'INSERT INTO mine VALUES (5, 1), (6, 3)');
CALL uncounted('node', 'UPDATE node SET size = 2 WHERE id = 3');
CALL uncounted('orders', 'INSERT INTO orders VALUES (18, 6, ''open'', 1, 1, 1)');
ALTER TABLE orders OWNER TO regress_views_recount_other;
SELECT poser_recount();
ALTER TABLE orders OWNER TO regress_views_recount_owner;
SELECT poser_recount();
SELECT poser_recount();
SELECT * FROM poser_check();
-- the components only
UPDATE poser_component_count SET total = 1 WHERE widget_uuid = 'w1';
SELECT poser_recount('poser_widget_summary');
SELECT poser_recount('poser_widget_summary');

-- ENABLE TRIGGER USER enables all triggers in the ordinary way.  The view counts until they are
-- as they were, and poser_recount() does this, too.
SET client_min_messages = notice;
ALTER TABLE parcel DISABLE TRIGGER USER;
DELETE FROM parcel WHERE (tableoid, ctid) = (SELECT tableoid, ctid FROM parcel WHERE parcel IS NOT NULL LIMIT 1);
ALTER TABLE parcel ENABLE TRIGGER USER;
SELECT served FROM poser_views WHERE view = 'place_parcels'::regclass;
SELECT poser_recount('place_parcels');
SELECT served, problem FROM poser_views WHERE view = 'place_parcels'::regclass;
SELECT poser_recount('place_parcels');
RESET client_min_messages;

-- The user has replaced the view: its former query is still counted.  After DROP VIEW nothing is.
CREATE OR REPLACE VIEW customer_orders AS
SELECT id AS customer_id, 1::bigint AS orders, 2::bigint AS open_orders, 3::bigint AS pieces, 4::numeric AS weight, 5::numeric AS revenue FROM customer;
SELECT poser_recount('customer_orders');
SELECT poser_recount('customer_orders');
DROP VIEW customer_orders;
SELECT poser_recount('customer_orders_maintained');
\echo :SQLSTATE
SELECT poser_recount();

SET client_min_messages = warning;
DROP EXTENSION poser CASCADE;
DROP TABLE customer, customer_orders_maintained, orders, place, place_parcels_maintained, parcel, node, "Nodes below_maintained", mine, my_tree_maintained CASCADE;
DROP VIEW plain;
DROP PROCEDURE compare, uncounted, unguarded;
REVOKE CREATE ON SCHEMA public FROM regress_views_recount_owner, regress_views_recount_other;
DROP ROLE regress_views_recount_owner, regress_views_recount_other;
