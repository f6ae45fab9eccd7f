-- When the counts of a maintained view are read, and when the view counts.  The rows are those
-- of its query in each case.

SET client_min_messages = warning;
CREATE EXTENSION poser;
RESET client_min_messages;
CREATE TABLE customer (id integer NOT NULL, CONSTRAINT customer_key PRIMARY KEY (id));
CREATE TABLE orders (id integer, customer_id integer REFERENCES customer, total integer) PARTITION BY RANGE (id);
CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM (1) TO (100);
CREATE TABLE orders_2 PARTITION OF orders FOR VALUES FROM (100) TO (200) PARTITION BY LIST (id);
CREATE TABLE orders_2_default PARTITION OF orders_2 DEFAULT;
CREATE TABLE other (id integer);
CREATE VIEW customer_orders AS
SELECT customer.id, count(orders.id) AS orders, sum(orders.total) AS revenue
  FROM customer LEFT JOIN orders ON orders.customer_id = customer.id
 GROUP BY customer.id;
INSERT INTO customer VALUES (1), (2);
INSERT INTO orders VALUES (1, 1, 10), (2, 1, 20), (101, 2, 40);
SELECT poser_maintain('customer_orders');
CREATE VIEW differences AS
(TABLE customer_orders EXCEPT ALL TABLE customer_orders_query) UNION ALL (TABLE customer_orders_query EXCEPT ALL TABLE customer_orders);
CREATE VIEW seen AS SELECT poser_serves('customer_orders_query') AS serves, (SELECT count(*) FROM differences) AS differences;
TABLE seen;

--
-- A statement between its triggers: its own tables count, others are served
--
CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	found seen;
BEGIN
	SELECT * INTO found FROM seen;
	RAISE NOTICE '%, % %: served %, % differences', TG_TABLE_NAME, TG_OP, TG_LEVEL, found.serves, found.differences;
	IF TG_TABLE_NAME = 'other' AND NEW.id = 2 THEN
		INSERT INTO orders VALUES (50, 1, 1);
		SELECT * INTO found FROM seen;
		RAISE NOTICE 'after a row of the child: served %, % differences', found.serves, found.differences;
	END IF;
	RETURN NULL;
END
$$;
CREATE TRIGGER look AFTER INSERT OR UPDATE OR DELETE ON other FOR EACH ROW EXECUTE FUNCTION look();
CREATE TRIGGER a_look AFTER INSERT OR UPDATE OR DELETE ON orders FOR EACH ROW EXECUTE FUNCTION look();
CREATE TRIGGER a_look AFTER INSERT OR UPDATE OR DELETE ON customer FOR EACH ROW EXECUTE FUNCTION look();
INSERT INTO other VALUES (1);
INSERT INTO other VALUES (2);
INSERT INTO orders VALUES (3, 2, 80);
INSERT INTO orders_1 VALUES (4, 2, 160);
INSERT INTO orders_2_default VALUES (102, 2, 320);
UPDATE orders SET total = total + 1 WHERE id = 101;
DELETE FROM orders_2 WHERE id = 102;
INSERT INTO customer VALUES (3);
-- another maintained view of other tables is served meanwhile
CREATE TABLE parent (id integer PRIMARY KEY);
CREATE TABLE child (id integer PRIMARY KEY, parent_id integer REFERENCES parent);
CREATE VIEW children AS SELECT parent.id, count(child.id) AS n FROM parent LEFT JOIN child ON parent_id = parent.id GROUP BY parent.id;
SELECT poser_maintain('children');
CREATE FUNCTION look_elsewhere() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	-- writes, so that there is another command
	INSERT INTO parent VALUES (NEW.id);
	INSERT INTO child VALUES (NEW.id, NEW.id);
	RAISE NOTICE 'in a statement on %: customer_orders served %, children served %', TG_TABLE_NAME,
		poser_serves('customer_orders_query'), poser_serves('children_query');
	RETURN NULL;
END
$$;
CREATE TRIGGER b_look AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION look_elsewhere();
INSERT INTO orders VALUES (5, 2, 80), (6, 2, 80);
TABLE children ORDER BY id;
TABLE seen;
-- a cursor of the middle of a statement is read after it
CREATE FUNCTION open_cursors() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	mine CONSTANT refcursor := 'mine';
	elsewhere CONSTANT refcursor := 'elsewhere';
BEGIN
	OPEN mine FOR SELECT poser_serves('customer_orders_query'), count(*) AS differences FROM differences;
	OPEN elsewhere FOR SELECT poser_serves('children_query'), sum(n) FROM children;
	RETURN NULL;
END
$$;
DROP TRIGGER b_look ON orders;
DROP TRIGGER a_look ON orders;
CREATE TRIGGER b_open AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION open_cursors();
BEGIN;
INSERT INTO other VALUES (3);
INSERT INTO orders VALUES (7, 2, 80);
FETCH ALL FROM mine;
FETCH ALL FROM elsewhere;
TABLE seen;
COMMIT;
DROP TRIGGER b_open ON orders;
DROP TRIGGER look ON other;

--
-- Partitions
--
CREATE TABLE orders_3 PARTITION OF orders FOR VALUES FROM (200) TO (300);
TABLE seen;
INSERT INTO orders VALUES (201, 1, 5);
TABLE seen;
SET client_min_messages = warning;
SELECT poser_maintain('customer_orders');
TABLE seen;
ALTER TABLE orders DETACH PARTITION orders_3;
TABLE seen;
SELECT poser_maintain('customer_orders');
TABLE seen;
ALTER TABLE orders ATTACH PARTITION orders_3 FOR VALUES FROM (200) TO (300);
TABLE seen;
DROP TABLE orders_3;
TABLE seen;
ALTER TABLE orders_2_default SET UNLOGGED;
TABLE seen;
ALTER TABLE orders_2_default SET LOGGED;
TABLE seen;
ALTER TABLE orders_2_default RENAME TO renamed;
TABLE seen;
ALTER TABLE renamed DISABLE TRIGGER poser_maintain_delete;
TABLE seen;
ALTER TABLE renamed ENABLE TRIGGER poser_maintain_delete;
TABLE seen;
-- ENABLE TRIGGER ALL makes the trigger for replicas an ordinary one, so Poser sees that all were disabled
ALTER TABLE renamed DISABLE TRIGGER ALL;
INSERT INTO orders VALUES (110, 1, 5);
ALTER TABLE renamed ENABLE TRIGGER ALL;
TABLE seen;
SELECT poser_maintain('customer_orders');
TABLE seen;
RESET client_min_messages;

--
-- Keys, inheritance, bindings
--
ALTER TABLE customer ALTER id DROP NOT NULL;
BEGIN;
ALTER TABLE customer DROP CONSTRAINT customer_key CASCADE;
TABLE seen;
ROLLBACK;
TABLE seen;
-- a key that is checked at the end of a transaction: rows of the parent can have the same key before
SET client_min_messages = warning;
ALTER TABLE customer DROP CONSTRAINT customer_key CASCADE, ADD CONSTRAINT customer_key PRIMARY KEY (id) DEFERRABLE INITIALLY DEFERRED;
RESET client_min_messages;
TABLE seen;
BEGIN;
INSERT INTO customer VALUES (1);
ROLLBACK;
ALTER TABLE customer DROP CONSTRAINT customer_key, ADD CONSTRAINT customer_key PRIMARY KEY (id);
ALTER TABLE orders ADD FOREIGN KEY (customer_id) REFERENCES customer;
TABLE seen;
BEGIN;
CREATE TABLE more () INHERITS (customer_orders_maintained);
TABLE seen;
ROLLBACK;
CREATE TABLE more () INHERITS (customer);
TABLE seen;
INSERT INTO more VALUES (4);
TABLE seen;
DROP TABLE more;
TABLE seen;
ALTER TABLE customer_orders_maintained DISABLE TRIGGER poser_maintained_guard_truncate;
TABLE seen;
ALTER TABLE customer_orders_maintained ENABLE ALWAYS TRIGGER poser_maintained_guard_truncate;
TABLE seen;
DROP TRIGGER poser_maintained_parent ON customer_orders_maintained;
TABLE seen;
SET client_min_messages = warning;
SELECT poser_maintain('customer_orders');
RESET client_min_messages;
TABLE seen;
-- a relation that is not the query of a maintained view
SELECT poser_serves('customer'), poser_live_from('customer'), poser_serves(0), poser_live_from(4294967295);
-- in a session with session_replication_role = replica
SET session_replication_role = replica;
TABLE seen;
RESET session_replication_role;
TABLE seen;
-- PL/pgSQL keeps the state of an expression for the transaction, and the snapshots differ
BEGIN;
DO $$
BEGIN
	FOR i IN 1 .. 2 LOOP
		RAISE NOTICE 'served %', poser_serves('children_query'::regclass);
		PERFORM set_config('session_replication_role', 'replica', true);
		INSERT INTO child VALUES (1000 + i, 5);
		PERFORM set_config('session_replication_role', 'origin', true);
	END LOOP;
END
$$;
ROLLBACK;
-- in the transaction that makes it
BEGIN;
SELECT poser_unmaintain('children');
SELECT poser_maintain('children');
SELECT poser_serves('children_query'), * FROM children ORDER BY id LIMIT 1;
COMMIT;
SELECT poser_serves('children_query'), * FROM children ORDER BY id LIMIT 1;

DROP VIEW seen, differences;
DROP FUNCTION look CASCADE;
DROP FUNCTION look_elsewhere, open_cursors;
SELECT poser_unmaintain('children'), poser_unmaintain('customer_orders');
DROP VIEW children, customer_orders;
DROP TABLE child, parent, orders, customer, other;
DROP EXTENSION poser;
