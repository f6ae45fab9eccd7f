-- The forms of views that can be maintained: joins, keys, outputs, conditions and names.  A view
-- shows the rows of its query, both when it reads the counts and sums and when it counts, and
-- poser_unmaintain() gives the query back.

SET client_min_messages = warning;
CREATE EXTENSION poser;

CREATE TABLE forms (n int GENERATED ALWAYS AS IDENTITY, view regclass, definition text);

-- The name of a relation that goes with a view.
CREATE FUNCTION beside(view regclass, suffix text) RETURNS regclass LANGUAGE sql STABLE AS $$
SELECT format('%I.%I', nspname, relname || '_' || suffix)::regclass
  FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace WHERE c.oid = view;
$$;

-- Maintains a view.  Its query stays the same in the view for the query.
CREATE FUNCTION maintain(view regclass) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	definition text := pg_get_viewdef(view);
BEGIN
	PERFORM poser_maintain(view);
	INSERT INTO forms (view, definition) VALUES (view, definition);
	RETURN CASE WHEN pg_get_viewdef(beside(view, 'query')) = definition THEN 'maintained' ELSE 'another query' END;
END $$;

-- The number of rows that a view and its query do not both have.
CREATE FUNCTION differences(view regclass) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	result bigint;
BEGIN
	EXECUTE format('SELECT count(*) FROM ((TABLE %1$s EXCEPT ALL TABLE %2$s) UNION ALL (TABLE %2$s EXCEPT ALL TABLE %1$s)) AS d',
				   view, beside(view, 'query')) INTO result;
	RETURN result;
END $$;

\pset format unaligned
\pset tuples_only on

-- The example of the manual.
CREATE TABLE customer (id bigint PRIMARY KEY, name text, city text);
CREATE TABLE orders (id bigint PRIMARY KEY, customer_id bigint REFERENCES customer, status text, total numeric, items int, weight bigint);
INSERT INTO customer SELECT i, 'customer ' || i, 'city ' || i % 3 FROM generate_series(1, 10) AS i;
INSERT INTO orders
SELECT i, nullif(i % 9, 0), CASE WHEN i % 2 = 0 THEN 'open' ELSE 'done' END, i * 1.5, i, i * 1000 FROM generate_series(1, 100) AS i;
INSERT INTO orders (id, customer_id) VALUES (101, 10);
CREATE VIEW customer_orders AS
SELECT c.id AS customer_id, count(o.id) AS orders, count(o.id) FILTER (WHERE o.status = 'open') AS open_orders, sum(o.total) AS revenue,
	   COALESCE(sum(o.items), 0) AS items, sum(o.weight) AS weight
  FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id;
SELECT maintain('customer_orders');
SELECT pg_get_viewdef('customer_orders');
SELECT replace(pg_get_viewdef('customer_orders_served'), 'customer_orders_maintained.', '');
SELECT a.attname, format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid)
  FROM pg_attribute a LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
 WHERE attrelid = 'customer_orders_maintained'::regclass AND attnum > 0 ORDER BY attnum;

-- Further columns of the parent: in GROUP BY, and by its primary key.  A key that is not shown.
CREATE VIEW customers_and_orders AS
SELECT c.*, count(o.id) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id;
SELECT maintain('customers_and_orders');
CREATE VIEW names_and_orders AS
SELECT count(o.total) AS n, c.name, c.city FROM orders AS o RIGHT JOIN customer AS c ON c.id = o.customer_id GROUP BY c.city, c.id, c.name;
SELECT maintain('names_and_orders');
-- the same aggregate twice, in COALESCE and not
CREATE VIEW orders_twice AS
SELECT id, count(order_id) AS n, count(order_id) AS m, COALESCE(count(order_id), 1) AS k, sum(total) AS s, COALESCE(sum(total), -1.50) AS t,
	   COALESCE(sum(total), NULL) AS u
  FROM customer LEFT JOIN orders AS o (order_id, customer, status, total) ON customer = id GROUP BY id;
SELECT maintain('orders_twice');
SELECT count(*) FROM pg_attribute WHERE attrelid = 'orders_twice_maintained'::regclass AND attnum > 0;

-- Keys of several columns, which ON compares in any order.
CREATE SCHEMA "Odd Schema";
CREATE TYPE "Odd Schema".kind AS ENUM ('odd', 'even');
CREATE TABLE tenant_customer (tenant int, no bigint, name text, PRIMARY KEY (tenant, no));
CREATE TABLE tenant_order (
	id int PRIMARY KEY, no bigint, seller int, tenant int, items smallint, price numeric(10, 2), kind "Odd Schema".kind,
	FOREIGN KEY (tenant, no) REFERENCES tenant_customer, FOREIGN KEY (seller, no) REFERENCES tenant_customer (tenant, no));
INSERT INTO tenant_customer SELECT i % 3, i, 'customer ' || i FROM generate_series(1, 9) AS i;
INSERT INTO tenant_order
SELECT i, 1 + i % 9, (1 + i % 9) % 3, (1 + i % 9) % 3, i, i / 7.0, CASE WHEN i % 2 = 1 THEN 'odd' ELSE 'even' END::"Odd Schema".kind FROM generate_series(1, 60) AS i;
INSERT INTO tenant_order (id, tenant, no, seller) VALUES (100, NULL, 3, 0), (101, 1, NULL, 1);
CREATE VIEW several AS
SELECT c.no, c.tenant, count(o.id) AS n FROM tenant_customer c LEFT JOIN tenant_order o ON o.no = c.no AND c.tenant = o.tenant GROUP BY c.tenant, c.no;
CREATE VIEW several_in_using AS
SELECT tenant, no, count(id) AS n, sum(items) AS items FROM tenant_customer LEFT JOIN tenant_order USING (no, tenant) GROUP BY tenant, no;
CREATE VIEW several_in_natural_join AS
SELECT tenant AS t, no, name, count(id) AS n, sum(price) AS price, sum(price) FILTER (WHERE items > 3) AS high
  FROM tenant_customer NATURAL LEFT JOIN tenant_order GROUP BY tenant, no;
CREATE VIEW several_from_the_right AS
SELECT tenant, no, count(id) AS n, sum(items) AS items FROM tenant_order NATURAL RIGHT JOIN tenant_customer GROUP BY tenant, no;
CREATE VIEW several_by_the_other_key AS
SELECT c.name, count(o.id) AS n
  FROM tenant_order o RIGHT JOIN tenant_customer c ON (c.no = o.no AND (c.tenant = o.seller AND o.items IS NOT NULL)) AND o.items <> 7 AND c.no = o.no
 GROUP BY c.tenant, c.no;
CREATE VIEW several_under_an_alias AS
SELECT j.tenant, count(j.order_id) AS n, sum(j.price) AS price
  FROM (tenant_customer NATURAL LEFT JOIN tenant_order) AS j (tenant, no, name, order_id) GROUP BY j.tenant, j.no;
CREATE VIEW several_under_an_alias_of_using AS
SELECT k.no, count(id) AS n FROM tenant_order RIGHT JOIN tenant_customer USING (tenant, no) AS k GROUP BY k.tenant, k.no;
SELECT maintain(v) FROM unnest(ARRAY['several', 'several_in_using', 'several_in_natural_join', 'several_from_the_right',
	'several_by_the_other_key', 'several_under_an_alias', 'several_under_an_alias_of_using']::regclass[]) AS v;
-- a unique key that is not the primary key
CREATE TABLE product (sku text NOT NULL UNIQUE, id uuid PRIMARY KEY);
CREATE TABLE stock (sku text REFERENCES product (sku), product uuid REFERENCES product, pieces int);
INSERT INTO product SELECT 'sku ' || i, md5(i::text)::uuid FROM generate_series(1, 5) AS i;
INSERT INTO stock SELECT sku, id, n FROM product, generate_series(1, 3) AS n;
CREATE VIEW stock_by_sku AS SELECT p.id, sum(s.pieces) AS pieces FROM product p LEFT JOIN stock s USING (sku) GROUP BY p.sku, p.id;
CREATE VIEW stock_by_id AS SELECT p.sku, sum(s.pieces) AS pieces FROM product p LEFT JOIN stock s ON s.product = p.id GROUP BY p.id;
SELECT maintain('stock_by_sku'), maintain('stock_by_id');

-- A parent that is a child, as in a tree.
CREATE TABLE tree (id int PRIMARY KEY, parent int REFERENCES tree, size numeric);
INSERT INTO tree SELECT i, nullif(i / 2, 0), i FROM generate_series(1, 20) AS i;
CREATE VIEW tree_children AS SELECT p.id, count(c.id) AS children, sum(c.size) AS size FROM tree p LEFT JOIN tree c ON c.parent = p.id GROUP BY p.id;
CREATE VIEW tree_large_children AS
SELECT tree.id, tree.size, count(c.id) AS children FROM tree LEFT JOIN tree c ON c.parent = tree.id AND c.size > 3 GROUP BY tree.id;
SELECT maintain('tree_children'), maintain('tree_large_children');

-- Partitions, whose columns have other numbers.
CREATE TABLE parted_parent (id int PRIMARY KEY, name text) PARTITION BY RANGE (id);
CREATE TABLE parted_parent_1 PARTITION OF parted_parent FOR VALUES FROM (0) TO (5);
CREATE TABLE parted_parent_2 PARTITION OF parted_parent FOR VALUES FROM (5) TO (100);
CREATE TABLE parted_child (id int, parent int REFERENCES parted_parent, kind int) PARTITION BY LIST (kind);
CREATE TABLE parted_child_1 (kind int, dropped int, parent int, id int);
ALTER TABLE parted_child_1 DROP dropped;
ALTER TABLE parted_child ATTACH PARTITION parted_child_1 FOR VALUES IN (1);
CREATE TABLE parted_child_2 PARTITION OF parted_child DEFAULT PARTITION BY HASH (id);
CREATE TABLE parted_child_2_1 PARTITION OF parted_child_2 FOR VALUES WITH (MODULUS 1, REMAINDER 0);
INSERT INTO parted_parent SELECT i FROM generate_series(1, 10) AS i;
INSERT INTO parted_child SELECT i, i % 10 + 1, i % 3 FROM generate_series(1, 50) AS i;
CREATE VIEW parted AS
SELECT p.id, count(c.id) AS n, sum(c.kind) AS kinds FROM parted_parent p LEFT JOIN parted_child c ON c.parent = p.id AND c.kind <> 2 GROUP BY p.id;
SELECT maintain('parted');

-- A child's key of another type than the parent's.  The query casts it only if two of its values
-- can be equal as values of the parent's type.
CREATE TABLE number_parent (id bigint PRIMARY KEY, numeric_id numeric UNIQUE NOT NULL, float_id double precision UNIQUE NOT NULL);
CREATE TABLE number_child (small smallint REFERENCES number_parent, int int REFERENCES number_parent, as_numeric int REFERENCES number_parent (numeric_id),
	as_float bigint REFERENCES number_parent (float_id), as_double real REFERENCES number_parent (float_id), n int);
INSERT INTO number_parent SELECT i, i, i FROM generate_series(1, 5) AS i;
INSERT INTO number_child SELECT i % 5 + 1, i % 4 + 1, i % 3 + 1, i % 2 + 1, i % 5 + 1, i FROM generate_series(1, 30) AS i;
CREATE VIEW int_to_bigint AS SELECT p.id, count(c.n) AS n FROM number_parent p LEFT JOIN number_child c ON c.int = p.id GROUP BY p.id;
CREATE VIEW smallint_to_bigint AS SELECT p.id, count(c.n) AS n FROM number_parent p LEFT JOIN number_child c ON p.id = c.small GROUP BY p.id;
CREATE VIEW int_to_numeric AS SELECT numeric_id, count(c.n) AS n FROM number_parent LEFT JOIN number_child c ON as_numeric = numeric_id GROUP BY numeric_id;
CREATE VIEW bigint_to_float AS SELECT float_id, count(c.n) AS n FROM number_parent LEFT JOIN number_child c ON as_float = float_id GROUP BY float_id;
CREATE VIEW real_to_float AS SELECT float_id, count(c.n) AS n FROM number_parent LEFT JOIN number_child c ON as_double = float_id GROUP BY float_id;
CREATE TABLE text_parent (id text PRIMARY KEY, short varchar(8) UNIQUE NOT NULL, blanks char(8) UNIQUE NOT NULL);
CREATE TABLE text_child (id varchar(20) REFERENCES text_parent, short text REFERENCES text_parent (short), name name REFERENCES text_parent,
	no_blanks char(10) REFERENCES text_parent, blanks char(5) REFERENCES text_parent (blanks), few varchar(4) REFERENCES text_parent (blanks), n int);
INSERT INTO text_parent SELECT 'a' || i, 'a' || i, 'a' || i FROM generate_series(1, 5) AS i;
INSERT INTO text_child SELECT t, t, t, t, t, t, i FROM (SELECT i, 'a' || i % 5 + 1 AS t FROM generate_series(1, 30) AS i) AS x;
CREATE VIEW varchar_to_text AS SELECT p.id, count(c.n) AS n FROM text_parent p LEFT JOIN text_child c USING (id) GROUP BY p.id;
CREATE VIEW text_to_varchar AS SELECT short, count(c.n) AS n FROM text_parent p LEFT JOIN text_child c USING (short) GROUP BY short;
CREATE VIEW name_to_text AS SELECT p.id, count(c.n) AS n FROM text_parent p LEFT JOIN text_child c ON c.name = p.id GROUP BY p.id;
CREATE VIEW char_to_text AS SELECT p.id, count(c.n) AS n FROM text_parent p LEFT JOIN text_child c ON p.id = c.no_blanks GROUP BY p.id;
CREATE VIEW char_to_char AS SELECT blanks, count(c.n) AS n FROM text_parent p LEFT JOIN text_child c USING (blanks) GROUP BY blanks;
CREATE VIEW varchar_to_char AS SELECT p.blanks, count(c.n) AS n FROM text_parent p LEFT JOIN text_child c ON c.few = p.blanks GROUP BY p.blanks;
CREATE DOMAIN number AS bigint CHECK (VALUE > 0);
CREATE DOMAIN amount AS numeric CHECK (VALUE < 1000);
CREATE TABLE domain_parent (id number PRIMARY KEY);
CREATE TABLE domain_child (id number REFERENCES domain_parent, number bigint REFERENCES domain_parent, amount amount);
INSERT INTO domain_parent SELECT generate_series(1, 5);
INSERT INTO domain_child SELECT i % 5 + 1, i % 4 + 1, i FROM generate_series(1, 20) AS i;
CREATE VIEW domain_to_domain AS SELECT id, count(amount) AS n, sum(amount) AS amount FROM domain_parent LEFT JOIN domain_child USING (id) GROUP BY id;
CREATE VIEW bigint_to_domain AS SELECT p.id, sum(c.amount) AS amount, sum(c.id) AS ids FROM domain_parent p LEFT JOIN domain_child c ON c.number = p.id GROUP BY p.id;
CREATE TABLE day_parent (id timestamp PRIMARY KEY);
CREATE TABLE day_child (id date REFERENCES day_parent, n int);
INSERT INTO day_parent VALUES ('2026-01-01'), ('2026-01-02');
INSERT INTO day_child VALUES ('2026-01-01', 1), ('2026-01-01', 2);
CREATE VIEW date_to_timestamp AS SELECT p.id, count(c.n) AS n FROM day_parent p LEFT JOIN day_child c ON c.id = p.id GROUP BY p.id;
SELECT maintain(v) FROM unnest(ARRAY['int_to_bigint', 'smallint_to_bigint', 'int_to_numeric', 'bigint_to_float', 'real_to_float',
	'varchar_to_text', 'text_to_varchar', 'name_to_text', 'char_to_text', 'char_to_char', 'varchar_to_char',
	'domain_to_domain', 'bigint_to_domain', 'date_to_timestamp']::regclass[]) AS v;
SELECT substring(pg_get_viewdef(v) FROM 'GROUP BY ([^\n]*child[^\n]*)') FROM unnest(ARRAY['int_to_bigint', 'bigint_to_float', 'varchar_to_text', 'char_to_text']::regclass[]) AS v;

-- Functions, operators, types and names of a schema that is not in the search_path.
CREATE FUNCTION "Odd Schema"."Is Big"(o tenant_order) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT o.items > 20';
CREATE FUNCTION "Odd Schema".plus(a int, b int DEFAULT 3) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN a + b; END';
CREATE OPERATOR "Odd Schema".<%> (FUNCTION = "Odd Schema".plus, LEFTARG = int, RIGHTARG = int);
CREATE DOMAIN "Odd Schema".positive AS int CHECK (VALUE > 0);
CREATE VIEW filtered AS
SELECT c.tenant, c.no,
	   count(o.id) FILTER (WHERE "Odd Schema"."Is Big"(o)) AS of_the_row,
	   count(o.id) FILTER (WHERE o IS NOT NULL AND NOT o.id = 3) AS without_null,
	   count(o.id) FILTER (WHERE "Odd Schema".plus(o.items) > 5 AND o.items OPERATOR("Odd Schema".<%>) 3 > 4) AS of_a_default,
	   sum(o.price) FILTER (WHERE o.items::"Odd Schema".positive > 4) AS of_a_domain,
	   sum(o.items) FILTER (WHERE o.kind = 'odd' OR CASE WHEN o.items > 10 THEN o.kind IN ('odd', 'even') END) AS of_an_enum
  FROM tenant_customer c LEFT JOIN tenant_order o USING (tenant, no) GROUP BY c.tenant, c.no;
SELECT maintain('filtered');
CREATE TABLE "Odd Schema"."Select" ("Order" int PRIMARY KEY, "From" text, delta int, dropped int, "a""b" int NOT NULL UNIQUE);
CREATE TABLE "Odd Schema"."User" (dropped int, "Order" int REFERENCES "Odd Schema"."Select", "Group" int,
	"a""b" int REFERENCES "Odd Schema"."Select" ("a""b"), "desc" numeric);
ALTER TABLE "Odd Schema"."Select" DROP dropped;
ALTER TABLE "Odd Schema"."User" DROP dropped;
INSERT INTO "Odd Schema"."Select" SELECT i, 'x', i, i FROM generate_series(1, 4) AS i;
INSERT INTO "Odd Schema"."User" SELECT 1 + i % 3, i, 1 + i % 2, i FROM generate_series(1, 20) AS i;
CREATE VIEW "Odd Schema"."View of All" AS
SELECT s."Order", "From", s.delta, count(u."Group") AS "Group", sum(u."desc") AS "delta 2", sum("desc") FILTER (WHERE "Group" > 3) AS "Group_1",
	   count("desc") AS ctid, sum("Group") AS "Order_1", count(u."Order") AS tableoid
  FROM "Odd Schema"."Select" s LEFT JOIN "Odd Schema"."User" u ON u."Order" = s."Order" GROUP BY s."Order";
SELECT maintain('"Odd Schema"."View of All"');
SELECT pg_get_viewdef('"Odd Schema"."View of All"');
-- outputs with the names of the bookkeeping's other columns, and of columns of the tables
CREATE VIEW same_names AS
SELECT s."a""b" AS delta, count("Group") AS "a""b", sum("Group") AS x, count("desc") AS x_rows, sum("desc") AS x_tally, count(u."a""b") AS delta_1
  FROM "Odd Schema"."Select" s LEFT JOIN "Odd Schema"."User" u USING ("a""b") GROUP BY s."a""b";
CREATE TABLE delta (delta int PRIMARY KEY, orders int);
CREATE TABLE live (delta int REFERENCES delta, orders int);
INSERT INTO delta VALUES (1), (2);
INSERT INTO live VALUES (1, 1), (1, 2);
CREATE VIEW settled AS
SELECT delta.delta AS parent, delta.orders AS child, count(live.orders) AS unsettled, count(live.delta) AS delta_1 FROM delta LEFT JOIN live USING (delta) GROUP BY delta.delta;
CREATE VIEW long_names AS
SELECT p.id AS a, sum(n) AS aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa,
	   sum(n) FILTER (WHERE n > 1) AS aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa_rows
  FROM number_parent p LEFT JOIN number_child c ON int = p.id GROUP BY id;
SELECT maintain('same_names'), maintain('settled'), maintain('long_names');
SELECT attrelid::regclass, array_agg(attname ORDER BY attnum) FROM pg_attribute
 WHERE attrelid IN ('same_names_maintained'::regclass, 'settled_maintained'::regclass, 'long_names_maintained'::regclass) AND attnum > 0
 GROUP BY attrelid ORDER BY attrelid;

-- Constants keep their values, whatever the settings are.
CREATE TABLE moment_parent (id int PRIMARY KEY);
CREATE TABLE moment (id int REFERENCES moment_parent, ts timestamptz, f double precision, i interval, b bytea, a int[], t text);
SET datestyle = 'SQL, DMY';
SET extra_float_digits = 0;
SET intervalstyle = 'sql_standard';
SET bytea_output = 'escape';
SET timezone = 'America/New_York';
SET array_nulls = off;
SET transform_null_equals = on;
SET quote_all_identifiers = on;
SET search_path = "Odd Schema", public;
INSERT INTO moment_parent VALUES (1), (2);
INSERT INTO moment VALUES (1, '2026-02-03 00:00+00', 0.1, '-1 day -2 hours', E'\\xdead', ARRAY[1, NULL], E'a\\b'),
						  (1, '2026-03-02 00:00+00', 0.3, '1 day 2 hours', E'dead', '{1}', E'a\b');
CREATE VIEW public.moments AS
SELECT p.id, count(m.id) FILTER (WHERE ts = '3/2/2026 00:00+00') AS ts,
	   count(m.id) FILTER (WHERE f = 0.1 AND f <> 0.30000000000000004::double precision) AS f,
	   count(m.id) FILTER (WHERE i = '-1 day -2 hours') AS i,
	   count(m.id) FILTER (WHERE b = E'\\xdead') AS b,
	   count(m.id) FILTER (WHERE a = ARRAY[1, NULL::int]) AS a,
	   count(m.id) FILTER (WHERE t = E'a\\b') AS t
  FROM moment_parent p LEFT JOIN moment m USING (id) GROUP BY p.id;
SELECT maintain('moments');
SELECT * FROM moments ORDER BY id;
RESET ALL;
SET client_min_messages = warning;
-- the text of its constants depends on the settings
UPDATE forms SET definition = pg_get_viewdef(beside(view, 'query')) WHERE view = 'moments'::regclass;

-- All views show the rows of their queries: when they read the counts and sums, and when they count.
SELECT view, served, problem FROM poser_views WHERE served IS NOT TRUE;
SELECT count(*) FROM poser_views;
SELECT view, differences(view) FROM forms WHERE differences(view) <> 0;
SET session_replication_role = replica;
SELECT view, differences(view) FROM forms WHERE differences(view) <> 0;
RESET session_replication_role;

-- They do so after all tables were written.
UPDATE orders SET customer_id = 1 + (id * 7) % 10, status = 'open', total = total / 3, weight = NULL WHERE id % 3 = 0;
DELETE FROM orders WHERE id % 5 = 0;
INSERT INTO customer VALUES (11, 'customer 11', 'city 11');
INSERT INTO orders SELECT i, 11, 'open', i / 8.0, i, i FROM generate_series(200, 210) AS i;
UPDATE tenant_order SET tenant = 1, no = 4, seller = 1, items = 3, kind = 'odd' WHERE id % 4 = 0;
UPDATE tenant_order SET tenant = NULL, seller = 1, no = 4, items = items + 1, price = NULL WHERE id % 7 = 0;
DELETE FROM tenant_order WHERE id % 6 = 0;
UPDATE stock SET (sku, product) = (SELECT sku, id FROM product WHERE sku = 'sku 2') WHERE pieces = 2;
UPDATE tree SET parent = 1, size = size + 1 WHERE id > 12;
DELETE FROM tree WHERE id > 18;
UPDATE parted_child SET parent = 1 + id % 9, kind = (kind + 1) % 3;
DELETE FROM parted_child_1 WHERE id % 2 = 0;
UPDATE number_child SET (small, int, as_numeric, as_float, as_double) = (int, as_float, small, small, int) WHERE n % 2 = 0;
INSERT INTO number_child (int, n) VALUES (NULL, 3), (3, NULL);
UPDATE text_child SET (id, short, name, no_blanks, blanks, few) = ('a2', 'a2', 'a2', 'a2 ', 'a2', 'a2 ') WHERE n % 3 = 0;
DELETE FROM text_child WHERE n % 4 = 0;
UPDATE domain_child SET id = number, number = 1, amount = amount + 0.5 WHERE amount > 10;
INSERT INTO day_child VALUES ('2026-01-02', 3);
UPDATE "Odd Schema"."User" SET "Order" = 1, "Group" = "Group" + 1, "a""b" = 2 WHERE "Group" % 4 = 1;
DELETE FROM "Odd Schema"."User" WHERE "Group" = 3;
INSERT INTO live SELECT 2, i FROM generate_series(1, 5) AS i;
UPDATE moment SET ts = ts + '1 day', f = 0.1, t = E'a\\b';
SELECT view, served, problem FROM poser_views WHERE served IS NOT TRUE;
SELECT count(*) FROM poser_views;
SELECT view, differences(view) FROM forms WHERE differences(view) <> 0;
SELECT view, poser_recount(view) FROM forms WHERE poser_recount(view) <> 0;

-- Then they get their queries back.
DO $$
DECLARE
	form forms;
BEGIN
	FOR form IN SELECT * FROM forms LOOP
		PERFORM poser_unmaintain(form.view);
		IF pg_get_viewdef(form.view) <> form.definition THEN
			RAISE WARNING 'view % has another query than before: %', form.view, pg_get_viewdef(form.view);
		END IF;
	END LOOP;
END $$;
SELECT count(*) FROM forms;
SELECT relname FROM pg_class WHERE relname ~ '_(query|served|maintained)$' AND relnamespace <> 'pg_catalog'::regnamespace;
SELECT DISTINCT tgname FROM pg_trigger WHERE tgname ~ '^poser_maintain';

DROP EXTENSION poser;
DROP TABLE forms, customer, orders, tenant_customer, tenant_order, product, stock, tree, parted_parent, parted_child, number_parent, number_child,
	text_parent, text_child, domain_parent, domain_child, day_parent, day_child, delta, live, moment_parent, moment CASCADE;
DROP SCHEMA "Odd Schema" CASCADE;
DROP FUNCTION beside, maintain, differences;
DROP DOMAIN number, amount;
