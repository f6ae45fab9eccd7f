-- poser_check() of maintained views: each thing that can be wrong, one after the other.

CREATE EXTENSION poser;
CREATE ROLE regress_views_check_owner;
CREATE ROLE regress_views_check_stranger;
GRANT CREATE ON SCHEMA public TO regress_views_check_owner, regress_views_check_stranger;
SET ROLE regress_views_check_owner;
CREATE TABLE customer (id int PRIMARY KEY, name text);
CREATE TABLE orders (id int PRIMARY KEY, customer_id int REFERENCES customer, status text, total numeric) PARTITION BY RANGE (id);
CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM (0) TO (10);
CREATE VIEW customer_orders AS
SELECT c.id AS customer_id, c.name, count(o.id) AS orders, count(o.id) FILTER (WHERE o.status = 'open') AS open_orders, sum(o.total) AS revenue
  FROM customer c LEFT JOIN orders o ON o.customer_id = c.id
 GROUP BY c.id;
CREATE TABLE "Node %" ("Id" bigint PRIMARY KEY, "of" bigint REFERENCES "Node %");
CREATE VIEW "Tree %" AS
SELECT n."Id", count(m."Id") AS "children %" FROM "Node %" n LEFT JOIN "Node %" m ON m."of" = n."Id" GROUP BY n."Id";
INSERT INTO customer VALUES (1, 'one'), (2, 'two');
INSERT INTO orders VALUES (1, 1, 'open', 1.50), (2, 1, 'paid', 2), (3, 2, 'open', NULL);
INSERT INTO "Node %" VALUES (1, NULL), (2, 1), (3, 1);
SELECT poser_maintain('customer_orders'), poser_maintain('"Tree %"');

-- Nothing is wrong.  A target is a view or what belongs to it, or a parent or a child.
SELECT * FROM poser_check();
SELECT * FROM poser_check('customer_orders');
SELECT * FROM poser_check('customer_orders_query');
SELECT * FROM poser_check('customer_orders_served');
SELECT * FROM poser_check('customer_orders_maintained');
SELECT * FROM poser_check('customer');
SELECT * FROM poser_check('orders_1');
CREATE VIEW plain AS SELECT 1 AS one;
CREATE TABLE alone (id int);
SELECT * FROM poser_check('plain');
\echo :SQLSTATE
SELECT * FROM poser_check('alone');
\echo :SQLSTATE
DROP VIEW plain;
DROP TABLE alone;

-- Which views: those with an owner whose rights the caller has.
SET ROLE regress_views_check_stranger;
SELECT * FROM poser_check('customer_orders');
\echo :SQLSTATE
SELECT * FROM poser_check();
\echo :SQLSTATE
CREATE TABLE mine (id int PRIMARY KEY, of int REFERENCES mine);
CREATE VIEW my_tree AS SELECT m.id, count(n.id) AS below FROM mine m LEFT JOIN mine n ON n.of = m.id GROUP BY m.id;
SELECT poser_maintain('my_tree');
ALTER TABLE mine DISABLE TRIGGER poser_maintain_insert;
SELECT * FROM poser_check();
DROP VIEW my_tree;
SELECT * FROM poser_check();
SELECT poser_unmaintain('my_tree_maintained');
SELECT * FROM poser_check();
DROP TABLE mine;
RESET ROLE;

-- What a statement breaks, in a transaction that is rolled back.
CREATE PROCEDURE broken_by(statements text) LANGUAGE plpgsql AS $$
DECLARE
	problem record;
BEGIN
	BEGIN
		SET LOCAL client_min_messages = warning;
		EXECUTE statements;
		SET LOCAL client_min_messages = notice;
		FOR problem IN SELECT * FROM poser_check() LOOP
			RAISE NOTICE '% | %', problem.object, regexp_replace(problem.problem, 'OID \d+', 'OID ...');
		END LOOP;
		RAISE SQLSTATE 'P0099';
	EXCEPTION WHEN SQLSTATE 'P0099' THEN
		NULL;
	END;
END
$$;
\set SHOW_CONTEXT never

-- triggers on the tables
CALL broken_by('ALTER TABLE customer DISABLE TRIGGER poser_maintain_before');
CALL broken_by('ALTER TABLE customer ENABLE TRIGGER poser_maintain_before');
CALL broken_by('DROP TRIGGER poser_maintain_delete ON customer');
CALL broken_by('DROP TRIGGER poser_maintain_key ON customer');
CALL broken_by('ALTER TABLE customer ENABLE TRIGGER poser_maintain_row');
CALL broken_by('ALTER TABLE customer ENABLE TRIGGER USER');
CALL broken_by('ALTER TABLE orders_1 DISABLE TRIGGER poser_maintain_insert');
CALL broken_by('DROP TRIGGER poser_maintain_update ON orders');
CALL broken_by('DROP TRIGGER poser_maintain_insert ON "Node %";
	CREATE TRIGGER poser_maintain_insert AFTER INSERT ON "Node %" FOR EACH STATEMENT EXECUTE FUNCTION poser_maintain_rows()');

-- partitions
CALL broken_by('CREATE TABLE orders_2 PARTITION OF orders FOR VALUES FROM (10) TO (20)');
CALL broken_by('ALTER TABLE orders DETACH PARTITION orders_1');
CALL broken_by('DROP TABLE orders_1');

-- bindings and guards
CALL broken_by('DROP TRIGGER poser_maintained_child ON customer_orders_maintained');
CALL broken_by('DROP TRIGGER poser_maintained_query ON customer_orders_maintained');
CALL broken_by('ALTER TABLE customer_orders_maintained DISABLE TRIGGER poser_maintained_parent');
CALL broken_by('ALTER TABLE customer_orders_maintained DISABLE TRIGGER poser_maintained_guard');
CALL broken_by('ALTER TABLE customer_orders_maintained ENABLE TRIGGER poser_maintained_guard');
CALL broken_by('DROP TRIGGER poser_maintained_guard_truncate ON customer_orders_maintained');

-- the view and what belongs to it
CALL broken_by('CREATE OR REPLACE VIEW customer_orders AS SELECT id AS customer_id, name, 0::bigint AS orders, 0::bigint AS open_orders, 0::numeric AS revenue FROM customer');
CALL broken_by('CREATE OR REPLACE VIEW customer_orders AS SELECT id AS customer_id, name, 0::bigint AS orders, 0::bigint AS open_orders, 0::numeric AS revenue FROM customer;
	DROP VIEW customer_orders_query CASCADE');
CALL broken_by('CREATE OR REPLACE VIEW customer_orders_query AS SELECT id AS customer_id, name, 0::bigint AS orders, 0::bigint AS open_orders, 0::numeric AS revenue FROM customer');
CALL broken_by('CREATE OR REPLACE VIEW customer_orders_served AS TABLE customer_orders_maintained');
CALL broken_by('CREATE OR REPLACE VIEW customer_orders_served AS SELECT * FROM customer_orders_maintained WHERE poser_serves(''customer_orders_query'') OR true');
CALL broken_by('REVOKE SELECT ON customer_orders_served FROM PUBLIC');
CALL broken_by('ALTER VIEW customer_orders_served SET (security_invoker = true)');
CALL broken_by('ALTER VIEW customer_orders SET (security_invoker = true, security_barrier = true)');
CALL broken_by('ALTER VIEW customer_orders RENAME COLUMN orders TO "all"; ALTER VIEW customer_orders RENAME TO counts');

-- names
CALL broken_by('ALTER TABLE customer RENAME TO client; ALTER TABLE client RENAME id TO number; ALTER TABLE orders RENAME total TO sum;
	ALTER TABLE customer_orders_maintained RENAME TO kept; ALTER VIEW customer_orders_query RENAME TO counted');

-- owners
CALL broken_by('ALTER TABLE orders OWNER TO regress_views_check_stranger');
CALL broken_by('ALTER VIEW customer_orders OWNER TO regress_views_check_stranger');
CALL broken_by('ALTER TABLE customer_orders_maintained OWNER TO regress_views_check_stranger');
CALL broken_by('REASSIGN OWNED BY regress_views_check_owner TO regress_views_check_stranger');

-- keys, columns and storage of the tables
CALL broken_by('ALTER TABLE orders DROP CONSTRAINT orders_customer_id_fkey; ALTER TABLE customer DROP CONSTRAINT customer_pkey CASCADE');
CALL broken_by('ALTER TABLE orders DROP CONSTRAINT orders_customer_id_fkey');
CALL broken_by('ALTER TABLE customer ADD COLUMN more text');
CALL broken_by('ALTER TABLE "Node %" SET UNLOGGED');
CALL broken_by('CREATE TABLE heir () INHERITS (customer)');
CALL broken_by('ALTER TABLE orders ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY');

-- the table of counts and sums
CALL broken_by('ALTER TABLE customer_orders_maintained ADD COLUMN more text');
CALL broken_by('ALTER TABLE customer_orders_maintained ALTER COLUMN revenue DROP NOT NULL');
CALL broken_by('ALTER TABLE customer_orders_maintained DROP CONSTRAINT customer_orders_maintained_pkey');
CALL broken_by('DO $do$ BEGIN EXECUTE (SELECT format(''DROP INDEX %s'', indexrelid::regclass) FROM pg_index
	WHERE indrelid = ''customer_orders_maintained''::regclass AND indpred IS NOT NULL AND NOT indisunique); END $do$');
CALL broken_by('ALTER TABLE customer_orders_maintained SET UNLOGGED');
CALL broken_by('ALTER TABLE customer_orders_maintained ENABLE ROW LEVEL SECURITY');
CALL broken_by('ALTER TABLE customer_orders_maintained ADD CHECK (orders < 0) NOT VALID');

-- rows
CALL broken_by('ALTER TABLE orders DISABLE TRIGGER USER; ALTER TABLE orders_1 DISABLE TRIGGER USER; DELETE FROM orders WHERE id = 1;
	INSERT INTO orders VALUES (4, 2, ''paid'', ''NaN''), (5, 2, ''open'', 4)');
CALL broken_by('ALTER TABLE "Tree %_maintained" DISABLE TRIGGER USER; UPDATE "Tree %_maintained" SET "children %" = 4 WHERE "Id" = 3;
	DELETE FROM "Tree %_maintained" WHERE "Id" IN (1, 2)');

-- what is left when something was dropped
CALL broken_by('DROP VIEW customer_orders');
CALL broken_by('DROP TABLE orders CASCADE');
CALL broken_by('DROP TABLE customer CASCADE');
CALL broken_by('DROP TABLE customer_orders_maintained CASCADE');
CALL broken_by('DROP EXTENSION poser CASCADE; CREATE EXTENSION poser');
CALL broken_by('ALTER VIEW customer_orders RENAME TO other');
CALL broken_by('DROP OWNED BY regress_views_check_owner');

-- An error in one view does not hide the others.  The owner's code runs with the rights
-- of the owner.
SET ROLE regress_views_check_owner;
CREATE FUNCTION is_large(size bigint) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$BEGIN RETURN size > 1; END$$;
CREATE TABLE box (id int PRIMARY KEY);
CREATE TABLE thing (id int PRIMARY KEY, box int REFERENCES box, size bigint);
CREATE VIEW boxes AS SELECT b.id, count(t.id) FILTER (WHERE is_large(t.size)) AS large FROM box b LEFT JOIN thing t ON t.box = b.id GROUP BY b.id;
INSERT INTO box VALUES (1);
INSERT INTO thing VALUES (1, 1, 1), (2, 1, 2);
SELECT poser_maintain('boxes');
CREATE OR REPLACE FUNCTION is_large(size bigint) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS
$$BEGIN RAISE EXCEPTION 'run by %', current_user; END$$;
RESET ROLE;
CALL broken_by('ALTER VIEW customer_orders_query RENAME COLUMN orders TO x; DROP TRIGGER poser_maintain_insert ON "Node %"');

SET client_min_messages = warning;
DROP EXTENSION poser CASCADE;
DROP OWNED BY regress_views_check_owner, regress_views_check_stranger;
DROP PROCEDURE broken_by;
DROP ROLE regress_views_check_owner, regress_views_check_stranger;
