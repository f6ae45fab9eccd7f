-- The life of a maintained view: poser_maintain(), poser_unmaintain(), what is kept of the
-- view, names, and errors.
\set VERBOSITY default
SET client_min_messages = warning;
CREATE EXTENSION poser;
RESET client_min_messages;
-- what a view shows, whether it reads its counts, and whether it differs from its query
CREATE FUNCTION compare(maintained regclass, OUT served boolean, OUT problem text, OUT differences bigint)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
	query regclass;
BEGIN
	SELECT v.query, v.served, v.problem INTO query, served, problem FROM poser_views AS v WHERE v.view = maintained;
	EXECUTE format('SELECT count(*) FROM (TABLE %1$s EXCEPT TABLE %2$s UNION ALL (TABLE %2$s EXCEPT TABLE %1$s)) AS d',
				   maintained, query) INTO differences;
END $$;
CREATE VIEW triggers AS
SELECT tgrelid::regclass::text AS relation, tgname AS trigger, tgenabled AS enabled
  FROM pg_trigger WHERE tgfoid IN ('poser_maintain_rows'::regproc, 'poser_maintained_by'::regproc)
 ORDER BY 1, 2;

CREATE TABLE customer (id bigint PRIMARY KEY, code text NOT NULL UNIQUE, name text);
CREATE TABLE orders (
	id bigint PRIMARY KEY,
	customer_id bigint REFERENCES customer ON DELETE CASCADE,
	payer text REFERENCES customer (code) ON UPDATE CASCADE,
	status text,
	total numeric
);
INSERT INTO customer SELECT i, 'c' || i FROM generate_series(1, 3) AS i;
INSERT INTO orders SELECT i, i % 2 + 1, 'c2', CASE i % 3 WHEN 0 THEN 'open' ELSE 'done' END, i FROM generate_series(1, 6) AS i;
CREATE VIEW customer_orders AS
SELECT c.id AS customer_id, count(o.id) AS orders, count(o.id) FILTER (WHERE o.status = 'open') AS open_orders, sum(o.total) AS revenue
  FROM customer AS c LEFT JOIN orders AS o ON o.customer_id = c.id GROUP BY c.id;
CREATE TABLE before AS SELECT pg_get_viewdef('customer_orders') AS definition;

-- a view, and what belongs to it
SELECT poser_maintain('customer_orders');
TABLE customer_orders ORDER BY customer_id;
SELECT attname, format_type(atttypid, atttypmod), attnotnull FROM pg_attribute WHERE attrelid = 'customer_orders_maintained'::regclass AND attnum > 0 ORDER BY attnum;
SELECT pg_get_indexdef(indexrelid), indisprimary FROM pg_index WHERE indrelid = 'customer_orders_maintained'::regclass ORDER BY indexrelid::regclass::text;
SELECT tgenabled, regexp_replace(pg_get_triggerdef(oid), '[0-9.]{2,}', '...', 'g') FROM pg_trigger WHERE tgrelid = 'customer_orders_maintained'::regclass ORDER BY tgname;
SELECT pg_get_viewdef('customer_orders_query');
SELECT replace(pg_get_viewdef('customer_orders_served'), 'customer_orders_maintained.', '') AS pg_get_viewdef;
SELECT * FROM triggers WHERE relation <> 'customer_orders_maintained';
SELECT c.relname, obj_description(c.oid, 'pg_class') AS comment, c.relacl IS NOT NULL AS granted, has_table_privilege('public', c.oid, 'SELECT') AS public
  FROM pg_class AS c WHERE relname LIKE 'customer\_orders%' AND relkind IN ('r', 'v') ORDER BY 1;
SELECT * FROM poser_views;
SELECT * FROM compare('customer_orders');
-- again: nothing is to be done
SELECT poser_maintain('customer_orders');
SELECT poser_maintain('customer_orders', existing => false);
-- it follows what is written
INSERT INTO orders VALUES (10, 3, NULL, 'open', 0.5);
DELETE FROM orders WHERE id = 2;
DELETE FROM customer WHERE id = 1;
UPDATE customer SET id = 8 WHERE id = 3;
SELECT * FROM compare('customer_orders');
INSERT INTO customer VALUES (4, 'c4');
UPDATE orders SET customer_id = 4 WHERE id IN (1, 3);
TABLE customer_orders ORDER BY customer_id;
SELECT * FROM compare('customer_orders');

-- the bookkeeping cannot be changed; a row that is inserted, as in a restore, is left out
INSERT INTO customer_orders_maintained (id) VALUES (77);
UPDATE customer_orders_maintained SET orders = 7;
DELETE FROM customer_orders_maintained;
TRUNCATE customer_orders_maintained;
SELECT count(*) FROM customer_orders_maintained WHERE id = 77;

-- the query is given back
SELECT poser_unmaintain('customer_orders');
SELECT pg_get_viewdef('customer_orders') = definition AS same FROM before;
SELECT * FROM triggers;
SELECT relname FROM pg_class WHERE relname LIKE 'customer\_orders%';
TABLE customer_orders ORDER BY customer_id;
SELECT * FROM poser_views;

-- prepared first, and counted later while others write
SELECT poser_maintain('customer_orders', existing => false);
SELECT view, query, served, problem FROM poser_views;
INSERT INTO orders VALUES (11, 4, NULL, 'open', 1.25);
SELECT poser_maintain('customer_orders', existing => false);
SELECT pg_get_viewdef('customer_orders') = definition AS same FROM before;
TABLE customer_orders ORDER BY customer_id;
SELECT poser_maintain('customer_orders');
SELECT * FROM compare('customer_orders');
TABLE customer_orders ORDER BY customer_id;
SELECT poser_unmaintain('customer_orders_query');
SELECT poser_maintain('customer_orders', existing => false);
SELECT poser_unmaintain('customer_orders');
SELECT * FROM triggers;

-- all in one transaction, which can be rolled back; also with rows that it has written
BEGIN;
INSERT INTO orders VALUES (12, 4, NULL, 'open', 2);
SELECT poser_maintain('customer_orders');
INSERT INTO orders VALUES (13, 4, NULL, 'open', 3);
SELECT * FROM compare('customer_orders');
SELECT poser_unmaintain('customer_orders');
SELECT poser_maintain('customer_orders', existing => false);
INSERT INTO orders VALUES (14, 4, NULL, 'open', 3);
SELECT poser_maintain('customer_orders');
SELECT * FROM compare('customer_orders');
ROLLBACK;
SELECT * FROM triggers;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM orders;
SELECT poser_maintain('customer_orders');
INSERT INTO orders VALUES (12, 4, NULL, 'open', 2);
TABLE customer_orders ORDER BY customer_id;
SELECT differences FROM compare('customer_orders');
COMMIT;
SELECT * FROM compare('customer_orders');
BEGIN;
SAVEPOINT s;
SELECT poser_unmaintain('customer_orders');
DELETE FROM orders WHERE id = 12;
ROLLBACK TO s;
DELETE FROM orders WHERE id = 11;
COMMIT;
SELECT * FROM compare('customer_orders');

-- several views on one table, with other keys; a parent that is a child
CREATE VIEW payments AS
SELECT c.code, c.name, count(o.payer) AS orders, COALESCE(sum(o.total) FILTER (WHERE o.status = 'done'), 0) AS paid
  FROM orders AS o RIGHT JOIN customer AS c ON o.payer = c.code GROUP BY c.code, c.name;
CREATE VIEW sizes AS
SELECT c.id, count(o.id) AS orders, count(o.id) AS again FROM customer AS c LEFT JOIN orders AS o ON o.customer_id = c.id AND o.total > 2 GROUP BY c.id;
SELECT poser_maintain('payments'), poser_maintain('sizes');
CREATE TABLE item (id int PRIMARY KEY, order_id bigint NOT NULL REFERENCES orders);
CREATE VIEW items AS
SELECT o.id, count(i.id) AS items FROM orders AS o LEFT JOIN item AS i ON i.order_id = o.id GROUP BY o.id;
SELECT poser_maintain('items');
SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname = 'poser_maintain_key';
CREATE TABLE person (id int PRIMARY KEY, chief int REFERENCES person, customer_id bigint REFERENCES customer);
CREATE VIEW staff AS SELECT p.id, count(q.id) AS people FROM person AS p LEFT JOIN person AS q ON q.chief = p.id GROUP BY p.id;
SELECT poser_maintain('staff');
CREATE VIEW contacts AS SELECT c.id, count(p.id) AS persons FROM customer AS c LEFT JOIN person AS p ON p.customer_id = c.id GROUP BY c.id;
SELECT poser_maintain('contacts');
INSERT INTO person VALUES (1, NULL, 2), (2, 1, 2), (3, 1, NULL), (4, 2, 4);
INSERT INTO item VALUES (1, 10), (2, 10), (3, 3);
UPDATE customer SET code = 'x2' WHERE code = 'c2';
UPDATE customer SET id = 9 WHERE id = 8;
UPDATE person SET chief = 3 WHERE id = 4;
UPDATE orders SET id = 30 WHERE id = 5;
SELECT view, parent, child, served, problem FROM poser_views ORDER BY view::text;
SELECT v.view, (compare(v.view)).differences FROM poser_views AS v ORDER BY view::text;
-- a table that is only a parent becomes a child: its key needs no trigger of its own
CREATE TABLE region (id int PRIMARY KEY);
ALTER TABLE customer ADD region_id int REFERENCES region;
CREATE VIEW regions AS SELECT r.id, count(c.id) AS customers FROM region AS r LEFT JOIN customer AS c ON c.region_id = r.id GROUP BY r.id;
SELECT poser_maintain('regions');
SELECT trigger FROM triggers WHERE relation = 'customer';
INSERT INTO region VALUES (1), (2);
UPDATE customer SET region_id = 1, id = id + 100 WHERE id = 9;
SELECT v.view, (compare(v.view)).* FROM poser_views AS v ORDER BY view::text;
-- triggers go with the last view
SELECT poser_unmaintain('regions'), poser_unmaintain('contacts'), poser_unmaintain('sizes'), poser_unmaintain('customer_orders');
SELECT relation, count(*) FROM triggers WHERE relation NOT LIKE '%maintained' GROUP BY 1 ORDER BY 1;
UPDATE customer SET code = 'y2' WHERE code = 'x2';
SELECT v.view, (compare(v.view)).* FROM poser_views AS v ORDER BY view::text;
SELECT poser_unmaintain('payments');
SELECT relation, count(*) FROM triggers WHERE relation NOT LIKE '%maintained' GROUP BY 1 ORDER BY 1;
SELECT poser_unmaintain(view) FROM poser_views ORDER BY view::text;
SELECT * FROM triggers;

-- what a view has is kept: options, grants, comments, defaults, triggers, rules, dependents
CREATE ROLE regress_views_reader;
ALTER VIEW customer_orders SET (security_barrier);
ALTER VIEW customer_orders ALTER open_orders SET DEFAULT 5;
GRANT SELECT ON customer_orders TO regress_views_reader;
GRANT UPDATE (revenue) ON customer_orders TO regress_views_reader;
COMMENT ON VIEW customer_orders IS 'orders of customers';
COMMENT ON COLUMN customer_orders.revenue IS 'in euro';
CREATE FUNCTION instead() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE '% %', TG_OP, NEW; RETURN NEW; END $$;
CREATE TRIGGER instead INSTEAD OF INSERT ON customer_orders FOR EACH ROW EXECUTE FUNCTION instead();
CREATE RULE no_delete AS ON DELETE TO customer_orders DO INSTEAD NOTHING;
CREATE VIEW above AS SELECT customer_id, orders + 1 AS more FROM customer_orders;
CREATE FUNCTION about(v regclass) RETURNS TABLE (what text, of text) LANGUAGE sql AS $$
	SELECT 'options', reloptions::text FROM pg_class WHERE oid = v
	UNION ALL SELECT 'grants', replace(relacl::text, 'Dxtm/', 'Dxt/') FROM pg_class WHERE oid = v
	UNION ALL SELECT 'grants ' || attname, attacl::text FROM pg_attribute WHERE attrelid = v AND attacl IS NOT NULL
	UNION ALL SELECT 'comment', obj_description(v, 'pg_class')
	UNION ALL SELECT 'comment ' || attname, col_description(v, attnum) FROM pg_attribute WHERE attrelid = v AND col_description(v, attnum) IS NOT NULL
	UNION ALL SELECT 'default', pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = v
	UNION ALL SELECT 'trigger', pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = v
	UNION ALL SELECT 'rule', pg_get_ruledef(oid) FROM pg_rewrite WHERE ev_class = v AND rulename <> '_RETURN'
	UNION ALL SELECT 'columns', string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = v $$;
CREATE TABLE had AS SELECT * FROM about('customer_orders');
SELECT * FROM had;
SELECT poser_maintain('customer_orders');
SELECT * FROM about('customer_orders') EXCEPT SELECT * FROM had;
SELECT reloptions FROM pg_class WHERE relname LIKE 'customer\_orders\_%' AND relkind = 'v' ORDER BY relname;
INSERT INTO customer_orders VALUES (1, 2);
DELETE FROM customer_orders;
TABLE above ORDER BY 1;
SET ROLE regress_views_reader;
SELECT served FROM poser_views;
SELECT count(*) FROM customer_orders;
SELECT count(*) FROM customer_orders_query;
SELECT count(*) FROM customer_orders_maintained;
SELECT count(*) FROM customer_orders_served;
RESET ROLE;
SELECT * FROM compare('customer_orders');
SELECT poser_unmaintain('customer_orders');
SELECT * FROM about('customer_orders') EXCEPT SELECT * FROM had;
ALTER VIEW customer_orders SET (security_invoker, security_barrier = off);
SELECT poser_maintain('customer_orders');
SELECT relname, reloptions FROM pg_class WHERE relname LIKE 'customer\_orders%' AND relkind = 'v' ORDER BY relname;
SELECT * FROM compare('customer_orders');
SELECT poser_unmaintain('customer_orders');
SELECT reloptions FROM pg_class WHERE relname = 'customer_orders';
DROP VIEW above;
DROP RULE no_delete ON customer_orders;
DROP TRIGGER instead ON customer_orders;
-- default privileges give nothing away
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO regress_views_reader;
SELECT poser_maintain('customer_orders');
SELECT relname, replace(relacl::text, 'Dxtm/', 'Dxt/') AS relacl FROM pg_class WHERE relname LIKE 'customer\_orders\_%' AND relkind IN ('r', 'v') ORDER BY relname;
SELECT poser_unmaintain('customer_orders');
ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM regress_views_reader;

-- names
CREATE SCHEMA "Odd ""schema""";
SET search_path = "Odd ""schema""";
CREATE TABLE "Par ent" ("Key" int, "delta" text, "select" int, PRIMARY KEY ("Key", "delta"));
CREATE TABLE "Child's" ("Id" int PRIMARY KEY, "Key" int, "delta" text, "order" bigint, FOREIGN KEY ("Key", "delta") REFERENCES "Par ent");
INSERT INTO "Par ent" VALUES (1, 'a'), (1, 'b');
INSERT INTO "Child's" VALUES (1, 1, 'a', 9223372036854775807), (2, 1, 'a', 1), (3, 1, NULL, 1);
CREATE VIEW "ärgerlich lange Namen, die so lang sind, dass nichts dahinter passt" AS
SELECT p.*, count("order") AS "delta 2", sum("order") AS "Sum", count("order") FILTER (WHERE c."Id" % 2 = 0) AS "f" FROM "Par ent" AS p LEFT JOIN "Child's" AS c USING ("Key", "delta") GROUP BY p."Key", p."delta";
CREATE VIEW short AS
SELECT p."delta", p."Key" AS k, count(c."Key") AS "delta_1" FROM "Par ent" AS p LEFT JOIN "Child's" AS c USING ("Key", "delta") GROUP BY p."Key", p."delta";
SELECT public.poser_maintain(oid) FROM pg_class WHERE relkind = 'v' AND relnamespace = '"Odd ""schema"""'::regnamespace ORDER BY relname;
SELECT relname, octet_length(relname) FROM pg_class WHERE relnamespace = '"Odd ""schema"""'::regnamespace ORDER BY relname COLLATE "C";
SELECT attrelid::regclass, attname FROM pg_attribute WHERE attrelid IN (SELECT bookkeeping FROM public.poser_views) AND attnum > 0 ORDER BY attrelid, attnum;
INSERT INTO "Child's" VALUES (4, 1, 'b', 9223372036854775807), (5, 1, 'b', 9223372036854775807);
SELECT * FROM short ORDER BY 1;
SELECT public.compare(view) FROM public.poser_views ORDER BY view::text;
SELECT public.poser_unmaintain(view) FROM public.poser_views ORDER BY view::text;
-- names that are taken
CREATE TABLE short_maintained (a int);
SELECT public.poser_maintain('short');
DROP TABLE short_maintained;
CREATE SEQUENCE short_served;
SELECT public.poser_maintain('short');
DROP SEQUENCE short_served;
CREATE TYPE short_query AS (a int);
SELECT public.poser_maintain('short');
DROP TYPE short_query;
CREATE TYPE short_query AS ENUM ();
SELECT public.poser_maintain('short');
SELECT relname FROM pg_class WHERE relname LIKE 'short\_%';
RESET search_path;

-- errors
SELECT poser_maintain(NULL);
SELECT poser_maintain('customer_orders', NULL);
SELECT poser_maintain(4711::regclass);
SELECT poser_maintain('customer');
SELECT poser_maintain('customer_pkey');
SELECT poser_maintain('poser_widget_summary');
SELECT poser_unmaintain(NULL);
SELECT poser_unmaintain(4711::regclass);
SELECT poser_unmaintain('customer');
SELECT poser_unmaintain('customer_orders');
SELECT poser_maintain('customer_orders');
SELECT poser_maintain('customer_orders_query');
SELECT poser_maintain('customer_orders_served');
SELECT poser_maintain('customer_orders_maintained');
BEGIN READ ONLY;
SELECT poser_maintain('customer_orders');
ROLLBACK;
BEGIN READ ONLY;
SELECT poser_unmaintain('customer_orders');
ROLLBACK;
-- in use by the session
SELECT poser_unmaintain('customer_orders');
BEGIN;
DECLARE c CURSOR FOR SELECT * FROM orders;
FETCH c;
SELECT poser_maintain('customer_orders');
ROLLBACK;
WITH w AS (INSERT INTO orders VALUES (50, 2) RETURNING id) SELECT poser_maintain('customer_orders') FROM w;
SELECT poser_maintain('customer_orders');
BEGIN;
DECLARE c CURSOR FOR SELECT * FROM customer_orders;
FETCH c;
SELECT poser_unmaintain('customer_orders');
ROLLBACK;
SELECT * FROM compare('customer_orders');

DROP OWNED BY regress_views_reader;
DROP ROLE regress_views_reader;
SET client_min_messages = warning;
DROP EXTENSION poser CASCADE;
DROP SCHEMA "Odd ""schema""" CASCADE;
DROP TABLE customer, orders, item, person, region, customer_orders_maintained, before, had CASCADE;
DROP FUNCTION compare(regclass), about(regclass), instead();
