-- Plans of queries over a maintained view: as over a table of counts, while the counts may be
-- read, and by the index on the foreign key otherwise.

SET client_min_messages = warning;
CREATE EXTENSION poser;
RESET client_min_messages;
CREATE TABLE customer (id integer PRIMARY KEY, name text NOT NULL, vip boolean NOT NULL);
CREATE TABLE orders (id integer PRIMARY KEY, customer_id integer NOT NULL REFERENCES customer, total integer);
CREATE VIEW customer_orders AS
SELECT customer.id, customer.name, count(orders.id) AS orders, sum(orders.total) AS revenue
  FROM customer LEFT JOIN orders ON orders.customer_id = customer.id
 GROUP BY customer.id, customer.name;
ALTER TABLE customer SET (autovacuum_enabled = false);
ALTER TABLE orders SET (autovacuum_enabled = false);
INSERT INTO customer SELECT n, 'customer ' || n, n % 1000 = 0 FROM generate_series(1, 5000) AS n;
INSERT INTO orders SELECT n, 1 + n % 5000, n FROM generate_series(1, 20000) AS n;
-- one with very many children
INSERT INTO orders SELECT n, 77, n FROM generate_series(20001, 60000) AS n;
SELECT poser_maintain('customer_orders');
ALTER TABLE customer_orders_maintained SET (autovacuum_enabled = false);

-- What a plan does with the tables, and what it costs.
CREATE FUNCTION plan_of(query text, OUT scans text, OUT cheap boolean, OUT one_row boolean) LANGUAGE plpgsql AS $$
DECLARE
	plan jsonb;
BEGIN
	EXECUTE 'EXPLAIN (FORMAT JSON) ' || query INTO plan;
	SELECT string_agg(format('%s %s', node ->> 'Node Type', coalesce(node ->> 'Alias', '')), ', ' ORDER BY node ->> 'Alias', node ->> 'Node Type')
	  INTO scans
	  FROM jsonb_path_query(plan, 'strict $.**') AS node
	 WHERE jsonb_typeof(node) = 'object' AND node ? 'Relation Name';
	cheap := (plan -> 0 -> 'Plan' ->> 'Total Cost')::float8 < current_setting('jit_above_cost')::float8 / 100;
	one_row := (plan -> 0 -> 'Plan' ->> 'Plan Rows')::float8 = 1;
END
$$;
-- How many rows and blocks the part that counts has read.
CREATE FUNCTION counted_of(query text, OUT runs bigint, OUT row_count bigint, OUT blocks bigint) LANGUAGE plpgsql AS $$
DECLARE
	plan jsonb;
BEGIN
	EXECUTE 'EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, SUMMARY OFF, FORMAT JSON) ' || query INTO plan;
	SELECT count(*), sum((node ->> 'Actual Rows')::numeric * (node ->> 'Actual Loops')::numeric),
	       sum((node ->> 'Shared Hit Blocks')::numeric + (node ->> 'Shared Read Blocks')::numeric)
	  INTO runs, row_count, blocks
	  FROM jsonb_path_query(plan, 'strict $.**') AS node
	 WHERE jsonb_typeof(node) = 'object' AND node ->> 'Relation Name' = 'orders';
END
$$;
CREATE TABLE queries (n integer PRIMARY KEY, query text);
INSERT INTO queries VALUES
	(1, 'SELECT * FROM customer_orders WHERE id = 77'),
	(2, 'SELECT * FROM customer_orders WHERE id IN (5, 77, 600)'),
	(3, 'SELECT shown.* FROM customer JOIN customer_orders AS shown USING (id) WHERE customer.vip'),
	(4, 'SELECT * FROM customer_orders ORDER BY orders DESC, id LIMIT 20'),
	(5, 'SELECT * FROM customer_orders');

SET jit = on;
--
-- Without statistics: look-ups use indexes, and no plan is compiled
--
SELECT n, plan.* FROM queries, plan_of(query) AS plan ORDER BY n;
-- the child is not read: no row, no block
SELECT n, counted.* FROM queries, counted_of(query) AS counted ORDER BY n;

--
-- With statistics
--
VACUUM ANALYZE customer, orders, customer_orders_maintained;
SELECT n, plan.* FROM queries, plan_of(query) AS plan ORDER BY n;
SELECT n, counted.* FROM queries, counted_of(query) AS counted ORDER BY n;
-- One key in a join with another table is a look-up as well.
SELECT plan.* FROM plan_of('SELECT * FROM customer_orders AS a JOIN customer_orders AS b USING (id) WHERE id = 77') AS plan;

-- A child of billions of rows without an index costs nothing, where the counts may be read.
UPDATE pg_class SET relpages = 1, reltuples = 10000000 WHERE oid = 'orders'::regclass;
SELECT n, plan.* FROM queries, plan_of(query) AS plan ORDER BY n;
BEGIN;
SET LOCAL session_replication_role = replica;
SELECT n, plan.cheap FROM queries, plan_of(query) AS plan ORDER BY n;
COMMIT;
ANALYZE orders;

--
-- With deltas that are not settled
--
ALTER TABLE customer_orders_maintained DISABLE TRIGGER poser_maintained_guard;
INSERT INTO customer_orders_maintained SELECT 77, n, 0, 0, 0 FROM generate_series(1, 100) AS n;
ALTER TABLE customer_orders_maintained ENABLE ALWAYS TRIGGER poser_maintained_guard;
ANALYZE customer_orders_maintained;
SELECT n, plan.* FROM queries, plan_of(query) AS plan ORDER BY n;
SELECT orders FROM customer_orders WHERE id = 77;

--
-- Prepared statements
--
PREPARE one(integer) AS SELECT orders FROM customer_orders WHERE id = $1;
SET plan_cache_mode = force_custom_plan;
EXECUTE one(77);
SET plan_cache_mode = force_generic_plan;
EXECUTE one(77);
SELECT plan.* FROM plan_of('EXECUTE one(77)') AS plan;
SELECT counted.* FROM counted_of('EXECUTE one(77)') AS counted;
-- the same plan counts when it must
BEGIN;
SET LOCAL session_replication_role = replica;
EXECUTE one(77);
COMMIT;
SELECT counted.* FROM counted_of('EXECUTE one(77)') AS counted;
RESET plan_cache_mode;

--
-- Where the counts may not be read, the view counts, by an index if there is one
--
BEGIN;
SET LOCAL session_replication_role = replica;
SELECT plan.scans FROM plan_of('SELECT * FROM customer_orders WHERE id = 600') AS plan;
COMMIT;
CREATE INDEX ON orders (customer_id);
ANALYZE orders;
BEGIN;
SET LOCAL session_replication_role = replica;
SELECT plan.scans FROM plan_of('SELECT * FROM customer_orders WHERE id = 600') AS plan;
SELECT counted.row_count, counted.blocks < 50 AS few FROM counted_of('SELECT * FROM customer_orders WHERE id = 600') AS counted;
SELECT * FROM customer_orders WHERE id = 600;
COMMIT;
-- with the index the counts are still read
SELECT n, plan.* FROM queries, plan_of(query) AS plan ORDER BY n;
SELECT n, counted.* FROM queries, counted_of(query) AS counted ORDER BY n;

--
-- The query of the user can have anything around the view
--
SELECT plan.one_row, plan.cheap FROM plan_of('SELECT (SELECT orders FROM customer_orders WHERE id = 77)') AS plan;
SELECT counted.* FROM counted_of('SELECT c.id, (SELECT orders FROM customer_orders AS o WHERE o.id = c.id) FROM customer AS c WHERE vip') AS counted;
SELECT plan.scans, plan.cheap FROM plan_of('SELECT * FROM customer AS c, LATERAL (SELECT orders FROM customer_orders AS o WHERE o.id = c.id OFFSET 0) AS o WHERE vip') AS plan;

DROP FUNCTION plan_of, counted_of;
DROP TABLE queries;
SELECT poser_unmaintain('customer_orders');
DROP VIEW customer_orders;
DROP TABLE orders, customer;
DROP EXTENSION poser;
