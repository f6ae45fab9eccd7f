-- Views that cannot be maintained.  Each error says which part of the query is the reason, in
-- the names of the query.  The view stays what it was.

\set VERBOSITY default
SET client_min_messages = warning;
CREATE EXTENSION poser;

CREATE TABLE customer (id bigint PRIMARY KEY, name text, vip boolean, code text UNIQUE);
CREATE TABLE orders (
	id bigint PRIMARY KEY,
	customer_id bigint REFERENCES customer,
	status text,
	total numeric,
	weight double precision,
	price money,
	duration interval,
	ordered timestamptz,
	quantity int,
	number int,
	code text REFERENCES customer (code),
	referrer bigint
);

-- Makes a view with a query, and returns the error of poser_maintain().
CREATE FUNCTION refusal(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	sqlstate_ text;
	message text;
	detail text;
	hint text;
	definition text;
BEGIN
	EXECUTE 'CREATE VIEW customer_orders AS ' || query;
	definition := pg_get_viewdef('customer_orders'::regclass);
	BEGIN
		PERFORM poser_maintain('customer_orders');
		message := 'is maintained';
	EXCEPTION WHEN OTHERS THEN
		GET STACKED DIAGNOSTICS sqlstate_ = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
								detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	END;
	IF definition <> pg_get_viewdef('customer_orders'::regclass)
	   OR EXISTS (SELECT FROM pg_class WHERE relname LIKE 'customer\_orders\_%')
	   OR EXISTS (SELECT FROM pg_trigger WHERE tgname LIKE 'poser%' AND tgrelid IN ('customer'::regclass, 'orders'::regclass)) THEN
		RAISE EXCEPTION 'something is left of poser_maintain()';
	END IF;
	DROP VIEW customer_orders;
	RETURN concat_ws(E'\n', sqlstate_ || ': ' || message, detail, nullif(hint, ''));
END $$;

\pset format unaligned
\pset tuples_only on

-- Aggregates.
SELECT refusal('SELECT c.id, count(*) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, count(1) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, count(c.name) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, count(o) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, count(o.ctid) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, min(o.total) AS least FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, max(o.ordered) AS latest FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, avg(o.total) AS average FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, bool_or(o.total > 10) AS large FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, array_agg(o.id ORDER BY o.id) AS ids FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, percentile_disc(0.5) WITHIN GROUP (ORDER BY o.total) AS median FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, sum(o.weight) AS weight FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, sum(o.price) AS price FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, sum(o.duration) AS duration FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, sum(o.total * o.quantity) AS worth FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, sum(o.quantity::numeric) AS quantity FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, sum(c.id) AS ids FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, sum(1) AS ones FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, count(DISTINCT o.status) AS statuses FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, sum(o.total ORDER BY o.id) AS total FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
CREATE AGGREGATE count_all(bigint) (SFUNC = int8pl, STYPE = bigint, INITCOND = 0);
SELECT refusal('SELECT c.id, count_all(o.id) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
DROP AGGREGATE count_all(bigint);

-- Other outputs.
SELECT refusal('SELECT c.id, count(o.id)::int AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, sum(o.total) / count(o.total) AS average FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, COALESCE(sum(o.total), c.id) AS total FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, COALESCE(sum(o.quantity), 0.5) AS quantity FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, COALESCE(sum(o.total), NULL, 0) AS total FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, COALESCE(sum(o.total), random()::numeric) AS total FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, COALESCE(min(o.total), 0) AS least FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT upper(c.name) AS name, count(o.id) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c, count(o.id) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, ''x'' AS kind, count(o.id) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, count(o.id) AS n, (SELECT count(*) FROM orders) AS all_orders FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, c.name FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal(format('SELECT c.id, count(o.id), %s FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id',
	string_agg(format('sum(o.id) FILTER (WHERE o.id > %s) AS sum_%s', i, i), ', '))) FROM generate_series(1, 400) i;
SELECT refusal('SELECT c.id, count(o.id) AS n, rank() OVER (ORDER BY count(o.id)) AS place FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, count(o.id) AS n, generate_series(1, 2) AS i FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');

-- GROUP BY.
SELECT refusal('SELECT count(o.id) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id');
SELECT refusal('SELECT c.name, count(o.id) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.name');
SELECT refusal('SELECT o.customer_id, count(o.id) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY o.customer_id');
SELECT refusal('SELECT c.id, o.status, count(o.id) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id, o.status');
SELECT refusal('SELECT c.id + 1 AS next, count(o.id) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id + 1');
SELECT refusal('SELECT c.id, count(o.id) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY ROLLUP (c.id)');
SELECT refusal('SELECT c.id, c.name, count(o.id) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY GROUPING SETS ((c.id), (c.name))');

-- Other clauses.
SELECT refusal('SELECT c.id, count(o.id) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id WHERE c.vip GROUP BY c.id');
SELECT refusal('SELECT c.id, count(o.id) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id WHERE o.id IN (SELECT 1) GROUP BY c.id');
SELECT refusal('SELECT c.id, count(o.id) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id HAVING count(o.id) > 0');
SELECT refusal('SELECT c.id, count(o.id) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id ORDER BY n');
SELECT refusal('SELECT c.id, count(o.id) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id LIMIT 10');
SELECT refusal('SELECT c.id, count(o.id) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id OFFSET 10');
SELECT refusal('SELECT DISTINCT c.id, count(o.id) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT DISTINCT ON (c.id) c.id, count(o.id) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('WITH open AS (SELECT * FROM orders WHERE status = ''open'') SELECT c.id, count(o.id) AS n FROM customer c LEFT JOIN open o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, count(o.id) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id UNION ALL SELECT 0, 0');
SELECT refusal('VALUES (1, 2)');
SELECT refusal('SELECT 1 AS one');
SELECT refusal('SELECT c.id FROM customer c LEFT JOIN orders o ON o.customer_id = c.id FOR UPDATE OF c');

-- FROM.
SELECT refusal('SELECT c.id, count(c.name) AS n FROM customer c GROUP BY c.id');
SELECT refusal('SELECT c.id, count(o.id) AS n FROM customer c, orders o GROUP BY c.id');
SELECT refusal('SELECT c.id, count(o.id) AS n FROM customer c, orders o WHERE o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, count(o.id) AS n FROM customer c JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, count(o.id) AS n FROM customer c FULL JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, count(o.id) AS n FROM customer c CROSS JOIN orders o GROUP BY c.id');
SELECT refusal('SELECT c.id, count(o.id) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id LEFT JOIN orders p ON p.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, count(o.id) AS n FROM customer c LEFT JOIN (SELECT * FROM orders) o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, count(o.id) AS n FROM customer c LEFT JOIN LATERAL (SELECT * FROM orders WHERE customer_id = c.id) o ON true GROUP BY c.id');
SELECT refusal('SELECT c.id, count(o) AS n FROM customer c LEFT JOIN generate_series(1, 3) o ON o = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, count(o.id) AS n FROM customer c LEFT JOIN (VALUES (1)) o (id) ON o.id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, count(o.id) AS n FROM customer c LEFT JOIN ONLY orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, count(o.id) AS n FROM customer c LEFT JOIN orders o TABLESAMPLE system (10) ON o.customer_id = c.id GROUP BY c.id');
CREATE VIEW some_orders AS SELECT * FROM orders;
SELECT refusal('SELECT c.id, count(o.id) AS n FROM customer c LEFT JOIN some_orders o ON o.customer_id = c.id GROUP BY c.id');
DROP VIEW some_orders;
CREATE MATERIALIZED VIEW some_orders AS SELECT * FROM orders;
SELECT refusal('SELECT c.id, count(o.id) AS n FROM customer c LEFT JOIN some_orders o ON o.customer_id = c.id GROUP BY c.id');
DROP MATERIALIZED VIEW some_orders;
CREATE FOREIGN DATA WRAPPER nowhere;
CREATE SERVER nowhere FOREIGN DATA WRAPPER nowhere;
CREATE FOREIGN TABLE some_orders (id bigint, customer_id bigint) SERVER nowhere;
SELECT refusal('SELECT c.id, count(o.id) AS n FROM customer c LEFT JOIN some_orders o ON o.customer_id = c.id GROUP BY c.id');
DROP FOREIGN TABLE some_orders;
SELECT refusal('SELECT c.oid, count(a.attname) AS n FROM pg_class c LEFT JOIN pg_attribute a ON a.attrelid = c.oid GROUP BY c.oid');

-- ON.
SELECT refusal('SELECT c.id, count(o.id) AS n FROM customer c LEFT JOIN orders o ON true GROUP BY c.id');
SELECT refusal('SELECT c.id, count(o.id) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = 1 GROUP BY c.id');
SELECT refusal('SELECT c.id, count(o.id) AS n FROM customer c LEFT JOIN orders o ON o.customer_id >= c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, count(o.id) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id OR o.id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, count(o.id) AS n FROM customer c LEFT JOIN orders o ON o.customer_id + 1 = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, count(o.id) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id AND c.vip GROUP BY c.id');
SELECT refusal('SELECT c.id, count(o.id) AS n FROM customer c LEFT JOIN orders o ON o.customer_id IS NOT DISTINCT FROM c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, count(o.id) AS n FROM customer c LEFT JOIN orders o ON o.referrer = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, count(o.id) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id AND o.code = c.code GROUP BY c.id, c.code');
SELECT refusal('SELECT c.id, count(o.id) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id AND EXISTS (SELECT FROM customer) GROUP BY c.id');
SELECT refusal('SELECT c.id, count(o.id) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id AND o.ordered > now() GROUP BY c.id');
SELECT refusal('SELECT c.id, count(o.id) AS n FROM customer c LEFT JOIN orders o ON o.customer_id::text = c.id::text GROUP BY c.id');
SELECT refusal('SELECT c.id, count(o.id) AS n FROM customer c LEFT JOIN orders o ON o.number = c.id GROUP BY c.id');
-- Conditions.
SELECT refusal('SELECT c.id, count(o.id) FILTER (WHERE c.vip) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, count(o.id) FILTER (WHERE o.quantity > length(c.name)) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, count(o.id) FILTER (WHERE o.id IN (SELECT 1)) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, count(o.id) FILTER (WHERE o.tableoid > 0) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, count(o.id) FILTER (WHERE o.ordered > now()) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, count(o.id) FILTER (WHERE o.ordered > ''2026-01-01''::date) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, count(o.id) FILTER (WHERE random() < 0.5) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, count(o.id) FILTER (WHERE o.status = current_user) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, count(o.id) FILTER (WHERE o::text LIKE ''%x%'') AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
CREATE FUNCTION is_recent(since timestamptz, now timestamptz DEFAULT now()) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN since > now; END';
SELECT refusal('SELECT c.id, count(o.id) FILTER (WHERE is_recent(o.ordered)) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
CREATE FUNCTION is_open(status text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN status = ''open''; END';
SELECT refusal('SELECT c.id, sum(o.total) FILTER (WHERE is_open(o.status)) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');
SELECT refusal('SELECT c.id, count(o.id) FILTER (WHERE CASE WHEN o.total > 1 THEN o.ordered > now() ELSE o IS NULL END) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id');

-- Names are those of the query.
CREATE TABLE "Order Items" ("Order" bigint, "Group" int);
SELECT refusal('SELECT id AS "No", count("Group") AS "All of Them", sum("i"."Order" / 2) "Half" FROM orders LEFT JOIN "Order Items" i ON "Order" = id GROUP BY 1');
SELECT refusal('SELECT "Top".id, count("Group") AS "All" FROM orders AS "Top" LEFT JOIN "Order Items" AS "Low" ON "Low"."Order" = "Top".id GROUP BY 1');
SELECT refusal('SELECT id, count("Group") AS "All" FROM orders LEFT JOIN (SELECT "Order" AS id, "Group" FROM "Order Items") AS "Low" USING (id) WHERE id > 3 GROUP BY id');
DROP TABLE "Order Items";

-- Tables.
CREATE FUNCTION refusal_of(parent text, child text, columns text DEFAULT 'id') RETURNS text LANGUAGE sql AS $$
SELECT refusal(format('SELECT p.id, count(c.n) AS n FROM %s p LEFT JOIN %s c USING (%s) GROUP BY %s', parent, child, columns,
					  regexp_replace(columns, '\m', 'p.', 'g')));
$$;
-- a key that may be null, and one that is deferrable, to which there is no foreign key
CREATE TABLE parent (id int UNIQUE, name text);
CREATE TABLE child (id int REFERENCES parent (id), name text, n int);
SELECT refusal_of('parent', 'child');
ALTER TABLE child DROP CONSTRAINT child_id_fkey;
ALTER TABLE parent DROP CONSTRAINT parent_id_key, ADD PRIMARY KEY (id) DEFERRABLE;
SELECT refusal_of('parent', 'child');
-- columns that are only a part of the foreign key, or more than it
ALTER TABLE parent DROP CONSTRAINT parent_pkey, ADD PRIMARY KEY (id, name);
ALTER TABLE child ADD FOREIGN KEY (id, name) REFERENCES parent;
SELECT refusal_of('parent', 'child');
SELECT refusal('SELECT p.id, count(c.n) AS n FROM parent p LEFT JOIN child c USING (id, name) GROUP BY p.id');
SELECT refusal('SELECT p.name, count(c.n) AS n FROM parent p LEFT JOIN child c USING (id, name) GROUP BY p.name');
ALTER TABLE child DROP CONSTRAINT child_id_name_fkey;
ALTER TABLE parent DROP CONSTRAINT parent_pkey, ADD PRIMARY KEY (id);
ALTER TABLE child ADD FOREIGN KEY (id) REFERENCES parent;
SELECT refusal_of('parent', 'child', 'id, name');
-- a foreign key between the same columns in another order, or to another table
CREATE TABLE pair (id int, other int, PRIMARY KEY (id, other));
CREATE TABLE part (id int, other int, n int, FOREIGN KEY (other, id) REFERENCES pair (id, other));
SELECT refusal_of('pair', 'part', 'id, other');
CREATE TABLE other_parent (id int PRIMARY KEY);
SELECT refusal_of('other_parent', 'child');
DROP TABLE pair, part, other_parent;
-- temporary, unlogged, inherited
CREATE TEMPORARY TABLE temporary_parent (id int PRIMARY KEY);
CREATE TEMPORARY TABLE temporary_child (id int REFERENCES temporary_parent, n int);
SELECT refusal_of('temporary_parent', 'temporary_child');
CREATE UNLOGGED TABLE unlogged_child (id int REFERENCES parent, n int);
SELECT refusal_of('parent', 'unlogged_child');
DROP TABLE unlogged_child;
CREATE TABLE more_children () INHERITS (child);
SELECT refusal_of('parent', 'child');
ALTER TABLE more_children ADD FOREIGN KEY (id) REFERENCES parent;
SELECT refusal_of('parent', 'more_children');
DROP TABLE more_children;
-- partitions
CREATE TABLE parted (id int REFERENCES parent, n int) PARTITION BY LIST (n);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
SELECT refusal_of('parent', 'parted_1');
CREATE UNLOGGED TABLE parted_2 PARTITION OF parted FOR VALUES IN (2);
SELECT refusal_of('parent', 'parted');
DROP TABLE parted_2;
CREATE TABLE foreign_parted (id int, n int) PARTITION BY LIST (n);
CREATE FOREIGN TABLE foreign_parted_1 PARTITION OF foreign_parted FOR VALUES IN (1) SERVER nowhere;
SELECT refusal_of('parent', 'foreign_parted');
DROP TABLE foreign_parted;
-- PostgreSQL does not give triggers the generated columns of all rows of partitions
CREATE TABLE parted_generated (id int REFERENCES parent, n int, twice bigint GENERATED ALWAYS AS (n * 2) STORED) PARTITION BY LIST (n);
SELECT refusal('SELECT p.id, sum(g.twice) AS x FROM parent p LEFT JOIN parted_generated g ON g.id = p.id GROUP BY p.id');
SELECT refusal('SELECT p.id, count(g.id) FILTER (WHERE g.twice > 3) AS x FROM parent p LEFT JOIN parted_generated g ON g.id = p.id GROUP BY p.id');
SELECT refusal('SELECT p.id, count(g.id) FILTER (WHERE g IS NOT NULL) AS x FROM parent p LEFT JOIN parted_generated g ON g.id = p.id GROUP BY p.id');
DROP TABLE parted_generated;
-- owners
CREATE ROLE regress_poser_shop;
ALTER TABLE child OWNER TO regress_poser_shop;
SELECT regexp_replace(refusal_of('parent', 'child'), '(has owner ")' || current_user, '\1CURRENT_USER');
ALTER TABLE child OWNER TO CURRENT_USER;
ALTER TABLE parent OWNER TO regress_poser_shop;
SELECT regexp_replace(refusal_of('parent', 'child'), '(has owner ")' || current_user, '\1CURRENT_USER');
ALTER TABLE parent OWNER TO CURRENT_USER;
ALTER TABLE parted_1 OWNER TO regress_poser_shop;
SELECT regexp_replace(refusal_of('parent', 'parted'), '(has owner ")' || current_user, '\1CURRENT_USER');
DROP TABLE parted, child, parent;

-- Types of keys.
CREATE TABLE parent (id bit varying PRIMARY KEY, day timestamptz UNIQUE NOT NULL, small int UNIQUE NOT NULL, name text COLLATE "C" UNIQUE NOT NULL);
CREATE TABLE child (id bit varying REFERENCES parent, day date REFERENCES parent (day), small bigint REFERENCES parent (small), name text COLLATE "POSIX" REFERENCES parent (name), n int);
-- it has no hash function
SELECT refusal_of('parent', 'child');
-- the time that a date stands for depends on the time zone
SELECT refusal('SELECT p.day, count(c.n) AS n FROM parent p LEFT JOIN child c ON c.day = p.day GROUP BY p.day');
-- a value may not fit into the parent's type
SELECT refusal('SELECT p.small, count(c.n) AS n FROM parent p LEFT JOIN child c ON c.small = p.small GROUP BY p.small');
-- a comparison under two collations, and GROUP BY under another one
SELECT refusal('SELECT p.name, count(c.n) AS n FROM parent p LEFT JOIN child c ON c.name = p.name GROUP BY p.name');
SELECT refusal('SELECT p.name COLLATE "POSIX" AS name, count(c.n) AS n FROM parent p LEFT JOIN child c ON c.name = p.name COLLATE "C" GROUP BY p.name COLLATE "POSIX"');
DROP TABLE parent, child;

-- What is no view.
SELECT poser_maintain('customer');
SELECT poser_maintain('customer_pkey');
SELECT poser_maintain(NULL);
SELECT poser_maintain('customer', NULL);
SELECT poser_maintain('no_such_view');
SELECT poser_maintain(0);
CREATE MATERIALIZED VIEW customer_orders AS SELECT c.id, count(o.id) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id;
SELECT poser_maintain('customer_orders');
DROP MATERIALIZED VIEW customer_orders;

-- The code of a condition runs as the owner of the view, also when a superuser calls.
CREATE FUNCTION whoami(bigint) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
	RAISE WARNING 'called by %', CASE current_user WHEN 'regress_poser_shop' THEN 'the owner' ELSE 'the caller' END;
	RETURN true;
END $$;
ALTER TABLE customer OWNER TO regress_poser_shop;
ALTER TABLE orders OWNER TO regress_poser_shop;
CREATE VIEW customer_orders AS
SELECT c.id, count(o.id) FILTER (WHERE whoami(1) AND o.ordered > now()) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id;
ALTER VIEW customer_orders OWNER TO regress_poser_shop;
SELECT poser_maintain('customer_orders');

DROP VIEW customer_orders;
DROP TABLE customer, orders;
DROP SERVER nowhere;
DROP FOREIGN DATA WRAPPER nowhere;
DROP ROLE regress_poser_shop;
DROP TABLE temporary_parent, temporary_child;
DROP FUNCTION refusal, refusal_of, is_recent, is_open, whoami;
DROP EXTENSION poser;
