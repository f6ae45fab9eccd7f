-- Maintained views: a reader gets what the query would give it, and nothing else from the
-- bookkeeping, whatever its rights and policies are.

\set VERBOSITY sqlstate
SET client_min_messages = warning;
-- Role regress_poser_owner with schema regress_poser.
\getenv test PG_ABS_SRCDIR
\set file :test '/include/owner.sql'
\i :file
CREATE ROLE regress_poser_view;
CREATE ROLE regress_poser_tables;
CREATE ROLE regress_poser_none;
CREATE ROLE regress_poser_other;
CREATE ROLE regress_poser_bypass BYPASSRLS;
RESET client_min_messages;

SET ROLE regress_poser_owner;
CREATE EXTENSION poser SCHEMA regress_poser;
SET search_path = regress_poser;
GRANT USAGE ON SCHEMA regress_poser TO PUBLIC;
-- default privileges do not open what poser_maintain() makes
ALTER DEFAULT PRIVILEGES IN SCHEMA regress_poser GRANT SELECT ON TABLES TO regress_poser_none;
GRANT CREATE ON SCHEMA regress_poser TO regress_poser_other;
-- an older table of another role, for the end of this test
SET ROLE regress_poser_other;
CREATE TABLE forged (id integer);
SET ROLE regress_poser_owner;
CREATE TABLE customer (id integer PRIMARY KEY, name text NOT NULL);
CREATE TABLE orders (id integer PRIMARY KEY, customer_id integer NOT NULL REFERENCES customer, secret boolean NOT NULL, total integer);
CREATE VIEW customer_orders AS
SELECT customer.id AS customer_id, count(orders.id) AS orders, sum(orders.total) AS revenue
  FROM customer LEFT JOIN orders ON orders.customer_id = customer.id
 GROUP BY customer.id;
ALTER DEFAULT PRIVILEGES IN SCHEMA regress_poser GRANT ALL ON TABLES TO regress_poser_none;
SELECT poser_maintain('customer_orders');
ALTER DEFAULT PRIVILEGES IN SCHEMA regress_poser REVOKE ALL ON TABLES FROM regress_poser_none;
SELECT relname, acl.grantee::regrole, acl.privilege_type
  FROM pg_class, aclexplode(relacl) AS acl
 WHERE relname LIKE 'customer_orders\_%' AND acl.grantee <> relowner
 ORDER BY 1, 2, 3;
REVOKE ALL ON customer, orders, customer_orders FROM regress_poser_none;
INSERT INTO customer VALUES (1, 'one'), (2, 'two'), (3, 'secret');
INSERT INTO orders VALUES (1, 1, false, 10), (2, 1, true, 20), (3, 2, true, 40), (4, 2, false, NULL);
GRANT SELECT ON customer_orders TO regress_poser_view, regress_poser_bypass;
GRANT SELECT ON customer, orders TO regress_poser_tables, regress_poser_bypass;

-- What a reader sees of the bookkeeping, and whether the gate is open.
CREATE VIEW seen WITH (security_invoker = true) AS
SELECT poser_serves('customer_orders_query') AS serves, poser_live_from('customer_orders_query') AS live_from,
       (SELECT count(*) FROM customer_orders_served) AS kept;
-- The query as its reader would write it.
CREATE VIEW counted WITH (security_invoker = true) AS
SELECT customer.id AS customer_id, count(orders.id) AS orders, sum(orders.total) AS revenue
  FROM customer LEFT JOIN orders ON orders.customer_id = customer.id
 GROUP BY customer.id;
GRANT SELECT ON seen, counted TO PUBLIC;

--
-- Privileges
--
TABLE seen;
TABLE customer_orders ORDER BY 1;
-- on the view
SET ROLE regress_poser_view;
TABLE seen;
TABLE customer_orders ORDER BY 1;
TABLE customer_orders_maintained;
TABLE customer_orders_query;
-- on both tables
SET ROLE regress_poser_tables;
TABLE seen;
TABLE customer_orders;
-- on nothing
SET ROLE regress_poser_none;
TABLE seen;
TABLE customer_orders;
CREATE FUNCTION pg_temp.tell(bigint, bigint) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$
BEGIN
	IF $2 IS NOT NULL THEN
		RAISE WARNING USING MESSAGE = format('%s has %s', $1, $2), ERRCODE = '01P42';
	END IF;
	RETURN true;
END
$$;
CREATE FUNCTION pg_temp.tell_sum(bigint, bigint) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
	RAISE WARNING USING MESSAGE = format('%s and %s', $1, $2), ERRCODE = '01P42';
	RETURN $2;
END
$$;
CREATE AGGREGATE pg_temp.tell_all(bigint) (SFUNC = pg_temp.tell_sum, STYPE = bigint);
CREATE OPERATOR pg_temp.=== (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = pg_temp.tell, RESTRICT = eqsel, JOIN = eqjoinsel);
SELECT id FROM customer_orders_served WHERE pg_temp.tell(id, orders);
SELECT id FROM customer_orders_served WHERE id::bigint OPERATOR(pg_temp.===) 1;
SELECT pg_temp.tell_all(orders) FROM customer_orders_served;
SELECT count(*) FROM customer_orders_served AS a JOIN customer_orders_served AS b ON a.orders OPERATOR(pg_temp.===) b.orders;
SELECT pg_temp.tell(v.id, s.orders) FROM (VALUES (1), (2)) AS v(id) LEFT JOIN customer_orders_served AS s USING (id);
SELECT pg_temp.tell(id, orders) FROM customer_orders_served UNION ALL SELECT NULL WHERE false;
SELECT v.id, (SELECT s.orders FROM customer_orders_served AS s WHERE s.id = v.id AND pg_temp.tell(s.id, s.orders)) FROM (VALUES (1), (2)) AS v(id);
-- nowhere: not in a function's SQL, in a view of its own, in a CTE, or with a cursor
CREATE FUNCTION pg_temp.kept() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM regress_poser.customer_orders_served';
SELECT pg_temp.kept();
CREATE TEMPORARY VIEW mine AS TABLE customer_orders_served;
TABLE mine;
WITH kept AS MATERIALIZED (TABLE customer_orders_served) TABLE kept;
BEGIN;
DECLARE kept CURSOR FOR TABLE customer_orders_served;
FETCH ALL FROM kept;
COMMIT;
-- not by locks on its rows either
SELECT * FROM customer_orders_served FOR UPDATE;
-- The planner shows no values: there are no statistics, except about which rows are settled.
SET ROLE regress_poser_owner;
ANALYZE customer_orders_maintained;
RESET ROLE;
SELECT attname FROM pg_statistic JOIN pg_attribute ON (attrelid, attnum) = (starelid, staattnum)
 WHERE starelid = 'regress_poser.customer_orders_maintained'::regclass;
SET ROLE regress_poser_owner;
-- on one table
GRANT SELECT ON orders TO regress_poser_none;
SET ROLE regress_poser_none;
TABLE seen;
SET ROLE regress_poser_owner;
REVOKE SELECT ON orders FROM regress_poser_none;
GRANT SELECT ON customer TO regress_poser_none;
SET ROLE regress_poser_none;
TABLE seen;
-- on columns
SET ROLE regress_poser_owner;
REVOKE SELECT ON customer FROM regress_poser_none;
GRANT SELECT (customer_id, orders) ON customer_orders TO regress_poser_none;
SET ROLE regress_poser_none;
TABLE seen;
SELECT customer_id, orders FROM customer_orders ORDER BY 1;
SELECT revenue FROM customer_orders;
SET ROLE regress_poser_owner;
REVOKE SELECT (customer_id, orders) ON customer_orders FROM regress_poser_none;

--
-- Privileges that are gone
--
GRANT SELECT ON customer_orders TO regress_poser_none;
SET ROLE regress_poser_none;
SET plan_cache_mode = force_generic_plan;
PREPARE kept AS SELECT count(*) FROM customer_orders_served;
PREPARE shown AS SELECT sum(orders) FROM customer_orders;
EXECUTE kept;
EXECUTE shown;
SET ROLE regress_poser_owner;
REVOKE SELECT ON customer_orders FROM regress_poser_none;
SET ROLE regress_poser_none;
EXECUTE kept;
EXECUTE shown;
RESET plan_cache_mode;
DEALLOCATE ALL;
-- SET ROLE in a transaction with one snapshot
BEGIN ISOLATION LEVEL REPEATABLE READ;
SET LOCAL ROLE regress_poser_owner;
TABLE seen;
SET LOCAL ROLE regress_poser_none;
TABLE seen;
SET LOCAL ROLE regress_poser_view;
TABLE seen;
SET LOCAL ROLE regress_poser_none;
TABLE seen;
COMMIT;
-- A cursor has the rights with which it was opened, as any cursor, if its first row was fetched then.
BEGIN;
SET LOCAL ROLE regress_poser_view;
DECLARE shown CURSOR FOR SELECT * FROM customer_orders ORDER BY customer_id;
DECLARE later CURSOR FOR SELECT * FROM customer_orders ORDER BY customer_id;
DECLARE later_kept CURSOR FOR SELECT count(*) FROM customer_orders_served;
FETCH FROM shown;
SET LOCAL ROLE regress_poser_none;
FETCH ALL FROM shown;
FETCH ALL FROM later;
FETCH ALL FROM later_kept;
COMMIT;

-- A function with its definer's rights shows what its definer may see.
SET ROLE regress_poser_owner;
CREATE FUNCTION kept() RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = regress_poser AS 'SELECT count(*) FROM customer_orders_served';
SET ROLE regress_poser_none;
SELECT kept(), (SELECT count(*) FROM customer_orders_served) AS own;
SELECT (SELECT count(*) FROM customer_orders_served) AS own, kept();
CREATE FUNCTION pg_temp.orders_of_none() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT count(*) FROM regress_poser.customer_orders_served';
GRANT EXECUTE ON FUNCTION pg_temp.orders_of_none TO PUBLIC;
SET ROLE regress_poser_owner;
SELECT pg_temp.orders_of_none(), (SELECT count(*) FROM customer_orders_served) AS own;
DROP FUNCTION kept;
-- A role that changes within a query: all parts of the query get one decision.
SET ROLE regress_poser_owner;
RESET ROLE;
SELECT set_config('role', 'regress_poser_none', false) AS role, shown.* FROM regress_poser.customer_orders AS shown ORDER BY customer_id;
RESET ROLE;

--
-- Views of other roles over the view
--
SET ROLE regress_poser_owner;
CREATE VIEW owners AS SELECT customer_id, orders FROM customer_orders WHERE customer_id < 3;
GRANT SELECT ON owners TO regress_poser_none;
GRANT CREATE ON SCHEMA regress_poser TO regress_poser_view;
SET ROLE regress_poser_view;
CREATE VIEW readers AS SELECT customer_id, orders FROM customer_orders WHERE customer_id < 3;
GRANT SELECT ON readers TO regress_poser_none;
-- Their reader gets the rows of the view, and none of the bookkeeping.
SET ROLE regress_poser_none;
TABLE owners ORDER BY 1;
TABLE readers ORDER BY 1;
TABLE seen;

--
-- security_invoker
--
SET ROLE regress_poser_owner;
ALTER VIEW customer_orders SET (security_invoker = true);
TABLE seen;
SET ROLE regress_poser_view;
TABLE seen;
TABLE customer_orders;
TABLE readers;
SET ROLE regress_poser_tables;
TABLE seen;
TABLE customer_orders;
SET ROLE regress_poser_bypass;
TABLE seen;
TABLE customer_orders ORDER BY 1;
SET ROLE regress_poser_none;
TABLE seen;
TABLE owners;
SET ROLE regress_poser_owner;
GRANT SELECT ON customer_orders TO regress_poser_tables;
SET ROLE regress_poser_tables;
TABLE customer_orders ORDER BY 1;

--
-- Row-level security, with security_invoker
--
SET ROLE regress_poser_owner;
CREATE POLICY p ON orders TO regress_poser_tables USING (NOT secret);
ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
TABLE seen;
SET ROLE regress_poser_tables;
TABLE seen;
TABLE customer_orders ORDER BY 1;
TABLE counted ORDER BY 1;
SELECT id FROM customer_orders_served WHERE pg_temp.tell(id, orders);
SET ROLE regress_poser_bypass;
TABLE seen;
TABLE customer_orders ORDER BY 1;
-- a part of the rows would be an error
SET ROLE regress_poser_tables;
SET row_security = off;
TABLE seen;
TABLE customer_orders;
RESET row_security;
-- on the parent alone
SET ROLE regress_poser_owner;
ALTER TABLE orders DISABLE ROW LEVEL SECURITY;
CREATE POLICY p ON customer TO regress_poser_tables USING (name <> 'secret');
ALTER TABLE customer ENABLE ROW LEVEL SECURITY;
SET ROLE regress_poser_tables;
TABLE seen;
TABLE customer_orders ORDER BY 1;
TABLE counted ORDER BY 1;
-- A reader with policies writes; all others see the count.
SET ROLE regress_poser_owner;
GRANT INSERT, UPDATE, DELETE ON orders TO regress_poser_tables;
ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
CREATE POLICY w ON orders FOR INSERT TO regress_poser_tables WITH CHECK (true);
SET ROLE regress_poser_tables;
INSERT INTO orders VALUES (5, 3, true, 80), (6, 3, false, 160);
UPDATE orders SET total = total + 1;
DELETE FROM orders WHERE customer_id = 2;
TABLE customer_orders ORDER BY 1;
TABLE counted ORDER BY 1;
SET ROLE regress_poser_owner;
TABLE customer_orders ORDER BY 1;
TABLE customer_orders_query ORDER BY 1;
TABLE seen;

--
-- Without security_invoker the policies that concern the owner matter
--
ALTER VIEW customer_orders RESET (security_invoker);
TABLE seen;
SET ROLE regress_poser_view;
TABLE seen;
TABLE customer_orders ORDER BY 1;
-- the tables alone do not show their reader all rows
SET ROLE regress_poser_owner;
REVOKE SELECT ON customer_orders FROM regress_poser_tables;
SET ROLE regress_poser_tables;
TABLE seen;
SET ROLE regress_poser_owner;
ALTER TABLE orders FORCE ROW LEVEL SECURITY;
CREATE POLICY o ON orders TO regress_poser_owner USING (customer_id = 1);
TABLE seen;
TABLE customer_orders ORDER BY 1;
SET ROLE regress_poser_view;
TABLE seen;
TABLE customer_orders ORDER BY 1;
SET ROLE regress_poser_bypass;
TABLE seen;
TABLE customer_orders ORDER BY 1;
SET ROLE regress_poser_owner;
ALTER TABLE orders NO FORCE ROW LEVEL SECURITY;
ALTER TABLE orders DISABLE ROW LEVEL SECURITY;
ALTER TABLE customer DISABLE ROW LEVEL SECURITY;
TABLE seen;
-- if the owner makes policies on the bookkeeping, the view counts
ALTER TABLE customer_orders_maintained ENABLE ROW LEVEL SECURITY;
ALTER TABLE customer_orders_maintained FORCE ROW LEVEL SECURITY;
TABLE seen;
TABLE customer_orders ORDER BY 1;
ALTER TABLE customer_orders_maintained NO FORCE ROW LEVEL SECURITY;
ALTER TABLE customer_orders_maintained DISABLE ROW LEVEL SECURITY;
TABLE seen;

--
-- The owner's own rights, and other owners
--
REVOKE SELECT ON orders FROM regress_poser_owner;
TABLE seen;
TABLE customer_orders;
GRANT SELECT ON orders TO regress_poser_owner;
RESET ROLE;
ALTER VIEW regress_poser.customer_orders OWNER TO regress_poser_other;
-- the new owner may not read the tables
SET ROLE regress_poser_view;
TABLE seen;
TABLE customer_orders;
SET ROLE regress_poser_owner;
GRANT SELECT ON customer, orders TO regress_poser_other;
SET ROLE regress_poser_view;
TABLE seen;
TABLE customer_orders ORDER BY 1;
-- The new owner gives the view a query that shows less.  Its readers get no more.
SET ROLE regress_poser_other;
SELECT definition AS maintained FROM (SELECT rtrim(pg_get_viewdef('customer_orders'), ';') AS definition) AS view \gset
CREATE OR REPLACE VIEW customer_orders AS :maintained WHERE parent.id = 1;
SET ROLE regress_poser_view;
TABLE seen;
TABLE customer_orders;
SET ROLE regress_poser_other;
CREATE OR REPLACE VIEW customer_orders AS SELECT * FROM (:maintained) AS shown WHERE customer_id = 1;
SET ROLE regress_poser_view;
TABLE seen;
TABLE customer_orders;
SET ROLE regress_poser_other;
CREATE OR REPLACE VIEW customer_orders AS SELECT customer_id, CASE WHEN customer_id = 1 THEN orders END AS orders, revenue FROM (:maintained) AS shown;
SET ROLE regress_poser_view;
TABLE seen;
TABLE customer_orders ORDER BY 1;
SET ROLE regress_poser_other;
CREATE OR REPLACE VIEW customer_orders AS :maintained LIMIT 1;
SET ROLE regress_poser_view;
TABLE seen;
SET ROLE regress_poser_other;
CREATE OR REPLACE VIEW customer_orders AS :maintained;
SET ROLE regress_poser_view;
TABLE seen;
-- back
RESET ROLE;
ALTER VIEW regress_poser.customer_orders OWNER TO regress_poser_owner;
SET ROLE regress_poser_view;
TABLE seen;
TABLE customer_orders ORDER BY 1;
-- the tables get another owner
RESET ROLE;
ALTER TABLE regress_poser.orders OWNER TO regress_poser_other;
SET ROLE regress_poser_view;
TABLE seen;
TABLE customer_orders;
SET ROLE regress_poser_other;
GRANT SELECT ON orders TO regress_poser_owner;
SET ROLE regress_poser_view;
TABLE seen;
TABLE customer_orders ORDER BY 1;
RESET ROLE;
ALTER TABLE regress_poser.orders OWNER TO regress_poser_owner;

--
-- Another role binds a table of its own to the query
--
SET ROLE regress_poser_owner;
GRANT TRIGGER ON customer_orders_query TO regress_poser_other;
SET ROLE regress_poser_other;
CREATE VIEW forged_view AS SELECT 1 AS id;
CREATE TABLE forged_parent (id integer PRIMARY KEY);
CREATE CONSTRAINT TRIGGER poser_maintained_query AFTER UPDATE OR DELETE ON forged FROM customer_orders_query FOR EACH ROW EXECUTE FUNCTION poser_maintained_by();
CREATE CONSTRAINT TRIGGER poser_maintained_view AFTER UPDATE OR DELETE ON forged FROM forged_view FOR EACH ROW EXECUTE FUNCTION poser_maintained_by();
CREATE CONSTRAINT TRIGGER poser_maintained_served AFTER UPDATE OR DELETE ON forged FROM forged_view FOR EACH ROW EXECUTE FUNCTION poser_maintained_by();
CREATE CONSTRAINT TRIGGER poser_maintained_parent AFTER UPDATE OR DELETE ON forged FROM forged_parent FOR EACH ROW EXECUTE FUNCTION poser_maintained_by();
CREATE CONSTRAINT TRIGGER poser_maintained_child AFTER UPDATE OR DELETE ON forged FROM forged_parent FOR EACH ROW EXECUTE FUNCTION poser_maintained_by();
TABLE seen;
SET ROLE regress_poser_owner;
TABLE seen;
TABLE customer_orders ORDER BY 1;

--
-- Another role binds relations of the owner to a view of its own, and gets no rights by that
--
-- It needs the privilege TRIGGER for a binding.
CREATE TABLE precious (id integer);
CREATE VIEW report AS SELECT 1 AS id;
GRANT ALL ON precious, report TO regress_poser_other;
SET ROLE regress_poser_other;
CREATE TABLE parent (id integer PRIMARY KEY);
CREATE TABLE child (id integer PRIMARY KEY, parent integer REFERENCES parent);
CREATE VIEW by_bookkeeping AS SELECT parent.id, count(child.id) FROM parent LEFT JOIN child ON child.parent = parent.id GROUP BY parent.id;
CREATE VIEW by_query AS TABLE by_bookkeeping;
CREATE OR REPLACE VIEW by_query AS SELECT parent.id, count(child.id) FROM parent LEFT JOIN child ON child.parent = parent.id GROUP BY parent.id;
CREATE TABLE bound (id integer);
CREATE CONSTRAINT TRIGGER poser_maintained_view AFTER UPDATE OR DELETE ON precious FROM by_bookkeeping FOR EACH ROW EXECUTE FUNCTION poser_maintained_by();
CREATE CONSTRAINT TRIGGER poser_maintained_view AFTER UPDATE OR DELETE ON bound FROM by_query FOR EACH ROW EXECUTE FUNCTION poser_maintained_by();
CREATE CONSTRAINT TRIGGER poser_maintained_query AFTER UPDATE OR DELETE ON bound FROM report FOR EACH ROW EXECUTE FUNCTION poser_maintained_by();
SELECT poser_unmaintain('by_bookkeeping');
SELECT poser_unmaintain('by_query');
SELECT poser_recount('by_query');
-- a bookkeeping of another role is none
SELECT poser_maintain('by_bookkeeping');
SELECT poser_maintain('by_query');
RESET ROLE;
SET search_path = regress_poser;
SELECT poser_maintain('by_query');
SELECT poser_unmaintain('by_query');
SELECT poser_recount();
SELECT to_regclass('precious') IS NOT NULL AS precious, to_regclass('report') IS NOT NULL AS report, to_regclass('by_query') IS NOT NULL AS by_query;
-- It needs no privilege to use them in a query.
SET ROLE regress_poser_other;
SET search_path = regress_poser;
CREATE TABLE used (id integer);
CREATE TRIGGER used BEFORE INSERT ON used EXECUTE FUNCTION poser_maintained_by();
CREATE VIEW used_served AS SELECT used.id FROM used, customer_orders_query;
CREATE VIEW by_use AS TABLE used_served;
RESET ROLE;
SELECT poser_maintain('by_use');
SELECT poser_unmaintain('by_use');
DROP VIEW by_use, used_served;
DROP TABLE used, bound, precious;
DROP VIEW by_query, report;

--
-- A reader of the view alone gets nothing that the view does not show
--
REVOKE SELECT ON customer, orders FROM regress_poser_view;
TABLE seen;
SET ROLE regress_poser_view;
TABLE seen;
-- a count that the owner has taken out
SET ROLE regress_poser_owner;
SELECT regexp_replace(rtrim(pg_get_viewdef('customer_orders'), ';'), 'COALESCE\(live\.orders.*?AS orders', 'NULL::bigint AS orders') AS definition \gset
CREATE OR REPLACE VIEW customer_orders AS :definition;
TABLE seen;
SET ROLE regress_poser_view;
TABLE seen;
SELECT customer_id, orders FROM customer_orders ORDER BY 1;
-- the key
SET ROLE regress_poser_owner;
CREATE VIEW name_orders AS
SELECT customer.name, count(orders.id) AS orders
  FROM customer LEFT JOIN orders ON orders.customer_id = customer.id
 GROUP BY customer.id, customer.name;
SELECT poser_maintain('name_orders');
GRANT SELECT ON name_orders TO regress_poser_view;
SELECT count(*) FROM name_orders_served;
SET ROLE regress_poser_view;
SELECT count(*) FROM name_orders_served;
SELECT * FROM name_orders ORDER BY name;

RESET ROLE;
--
-- A table that was given to another role is not locked, and its triggers are not dropped
--
ALTER TABLE orders OWNER TO regress_poser_other;
DROP VIEW mine, seen, counted, readers, owners;
SET ROLE regress_poser_owner;
BEGIN;
SELECT poser_unmaintain('name_orders'), poser_unmaintain('customer_orders');
SELECT mode FROM pg_locks WHERE relation = 'orders'::regclass AND mode = 'AccessExclusiveLock';
COMMIT;
SET ROLE regress_poser_other;
SELECT poser_unmaintain('orders');
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'orders'::regclass AND NOT tgisinternal;

RESET ROLE;
DROP OWNED BY regress_poser_owner, regress_poser_view, regress_poser_tables, regress_poser_none, regress_poser_other, regress_poser_bypass CASCADE;
DROP ROLE regress_poser_owner, regress_poser_view, regress_poser_tables, regress_poser_none, regress_poser_other, regress_poser_bypass;
