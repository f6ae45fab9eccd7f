-- Conditions of maintained views: they run as the view's owner, restricted, when rows are
-- written; their errors; and what changes them.

\set VERBOSITY terse
SET client_min_messages = warning;
CREATE EXTENSION poser;
\getenv test PG_ABS_SRCDIR
\set tools :test '/include/views.sql'
\i :tools
CREATE ROLE regress_poser_owner;
CREATE ROLE regress_poser_writer;
CREATE SCHEMA shop AUTHORIZATION regress_poser_owner;
SET ROLE regress_poser_owner;
SET search_path = shop, regress_views, public;
CREATE TYPE state AS ENUM ('open', 'closed');
CREATE TABLE customer (id integer PRIMARY KEY);
CREATE TABLE orders (id integer PRIMARY KEY, customer_id integer REFERENCES customer, state state, total numeric, tags text[]);
-- the function notes the role and the settings that it runs with
CREATE FUNCTION is_large(total numeric) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	RAISE NOTICE 'is_large(%) runs as % with search_path %', total, current_user, current_setting('search_path');
	RETURN total > 10;
END
$$;
REVOKE EXECUTE ON FUNCTION is_large FROM PUBLIC;
CREATE VIEW large_orders AS
SELECT customer.id, count(orders.id) FILTER (WHERE is_large(total)) AS large, count(orders.id) AS orders
  FROM customer LEFT JOIN orders ON orders.customer_id = customer.id AND orders.state IS DISTINCT FROM 'closed'
 GROUP BY customer.id;
CREATE VIEW row_orders AS
SELECT customer.id, count(orders.id) FILTER (WHERE orders = ROW(1, 1, 'open', 5, '{a}')::orders) AS the_row,
       count(orders.id) FILTER (WHERE orders IS NOT NULL) AS complete, count(orders.id) FILTER (WHERE tags[1] = 'a' OR 'b' = ANY (tags)) AS tagged
  FROM customer LEFT JOIN orders ON orders.customer_id = customer.id GROUP BY customer.id;
INSERT INTO customer VALUES (1), (2);
SELECT poser_maintain('large_orders'), poser_maintain('row_orders');
GRANT USAGE ON SCHEMA shop TO regress_poser_writer;
GRANT SELECT, INSERT, UPDATE, DELETE ON customer, orders TO regress_poser_writer;

-- A writer with no privilege on the function or the view writes.
SET ROLE regress_poser_writer;
SET client_min_messages = notice;
INSERT INTO shop.orders VALUES (1, 1, 'open', 5, '{a}'), (2, 1, 'open', 50, NULL), (3, 1, 'closed', 500, '{b}'), (4, NULL, 'open', 5000, NULL);
UPDATE shop.orders SET total = 20, state = 'open' WHERE id IN (1, 3);
SET client_min_messages = warning;
SELECT current_user, current_setting('search_path');
UPDATE shop.orders SET total = 5 WHERE id = 1;
RESET ROLE;
SELECT * FROM large_orders ORDER BY id;
SELECT * FROM row_orders ORDER BY id;
TABLE differences;
TABLE live;

-- An error in a condition fails the write, and changes nothing.
SET ROLE regress_poser_owner;
CREATE VIEW ratio_orders AS
SELECT customer.id, count(orders.id) FILTER (WHERE 100 / total > 10) AS small
  FROM customer LEFT JOIN orders ON orders.customer_id = customer.id GROUP BY customer.id;
SELECT poser_maintain('ratio_orders');
SET ROLE regress_poser_writer;
INSERT INTO shop.orders VALUES (5, 1, 'open', 1, NULL), (6, 1, 'open', 0, NULL);
BEGIN;
SAVEPOINT a;
UPDATE shop.orders SET total = 0 WHERE id = 1;
ROLLBACK TO a;
SELECT current_user;
INSERT INTO shop.orders VALUES (5, 1, 'open', 1, NULL);
COMMIT;
-- a condition is not evaluated for a row with a null in its foreign key
INSERT INTO shop.orders VALUES (6, NULL, 'open', 0, NULL);
RESET ROLE;
SELECT * FROM ratio_orders ORDER BY id;
TABLE differences;
SET ROLE regress_poser_owner;
SELECT poser_unmaintain('ratio_orders');
DROP VIEW ratio_orders;

-- The owner loses the privilege for a function.
RESET ROLE;
CREATE FUNCTION shop.is_small(total numeric) RETURNS boolean LANGUAGE sql IMMUTABLE RETURN total < 10;
SET ROLE regress_poser_owner;
CREATE VIEW small_orders AS
SELECT customer.id, count(orders.id) FILTER (WHERE is_small(total)) AS small
  FROM customer LEFT JOIN orders ON orders.customer_id = customer.id GROUP BY customer.id;
SELECT poser_maintain('small_orders');
INSERT INTO orders VALUES (7, 2, 'open', 7, NULL);
RESET ROLE;
REVOKE EXECUTE ON FUNCTION shop.is_small FROM PUBLIC;
INSERT INTO orders VALUES (8, 2, 'open', 8, NULL);
GRANT EXECUTE ON FUNCTION shop.is_small TO regress_poser_owner;
SET ROLE regress_poser_writer;
INSERT INTO shop.orders VALUES (8, 2, 'open', 8, NULL);
RESET ROLE;
SELECT * FROM small_orders ORDER BY id;
TABLE differences;
-- The same for a function of the server: the owner needs the privilege, and the writer does not.
SET ROLE regress_poser_owner;
CREATE VIEW even_orders AS
SELECT customer.id, count(orders.id) FILTER (WHERE gcd(orders.id, 2) = 2) AS even
  FROM customer LEFT JOIN orders ON orders.customer_id = customer.id GROUP BY customer.id;
SELECT poser_maintain('even_orders');
RESET ROLE;
BEGIN;
REVOKE EXECUTE ON FUNCTION pg_catalog.gcd(integer, integer) FROM PUBLIC;
SAVEPOINT a;
INSERT INTO shop.orders VALUES (20, 2, 'open', 8, NULL);
ROLLBACK TO a;
GRANT EXECUTE ON FUNCTION pg_catalog.gcd(integer, integer) TO regress_poser_owner;
SET LOCAL ROLE regress_poser_writer;
INSERT INTO shop.orders VALUES (20, 2, 'open', 8, NULL);
SELECT current_user;
DELETE FROM shop.orders WHERE id = 20;
ROLLBACK;
SET ROLE regress_poser_owner;
SELECT poser_unmaintain('even_orders');
DROP VIEW even_orders;
RESET ROLE;
-- The constraint of a domain is code of the owner, too.
SET ROLE regress_poser_owner;
CREATE FUNCTION is_total(total numeric) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	RAISE WARNING 'is_total(%) runs as %', total, current_user;
	RETURN total > 0;
END
$$;
REVOKE EXECUTE ON FUNCTION is_total FROM PUBLIC;
CREATE DOMAIN total AS numeric CHECK (is_total(VALUE));
CREATE VIEW total_orders AS
SELECT customer.id, count(orders.id) FILTER (WHERE total::total > 1) AS orders
  FROM customer LEFT JOIN orders ON orders.customer_id = customer.id AND orders.id > 20 GROUP BY customer.id;
SELECT poser_maintain('total_orders');
SET ROLE regress_poser_writer;
INSERT INTO shop.orders VALUES (21, 2, 'open', 8, NULL);
INSERT INTO shop.orders VALUES (22, 2, 'open', -8, NULL);
DELETE FROM shop.orders WHERE id = 21;
SET ROLE regress_poser_owner;
SELECT poser_unmaintain('total_orders');
DROP VIEW total_orders;
RESET ROLE;
-- The planner puts the function's body into the condition.  If it is replaced, the next write
-- uses the new one; a recount makes the old counts right.
CREATE OR REPLACE FUNCTION shop.is_small(total numeric) RETURNS boolean LANGUAGE sql IMMUTABLE RETURN total < 8;
INSERT INTO orders VALUES (9, 2, 'open', 9, NULL), (10, 2, 'open', 1, NULL);
SELECT * FROM small_orders ORDER BY id;
SELECT * FROM small_orders_query ORDER BY id;
SELECT poser_recount('small_orders');
TABLE differences;

-- The owner can put a function of the server that runs SQL into the query.  Nothing runs it until
-- poser_maintain() makes it the definition, and that is refused.
SET ROLE regress_poser_owner;
CREATE FUNCTION tell(what text) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	RAISE WARNING '% runs as %', what, current_user;
	RETURN 0;
END
$$;
CREATE VIEW told_orders AS
SELECT customer.id, count(orders.id) AS orders FROM customer LEFT JOIN orders ON orders.customer_id = customer.id GROUP BY customer.id;
SELECT poser_maintain('told_orders');
CREATE OR REPLACE VIEW told_orders_query AS
SELECT customer.id, count(orders.id) FILTER (WHERE ts_rewrite('a'::tsquery, $$SELECT 'a'::tsquery, 'b'::tsquery FROM shop.tell('the query')$$) IS NOT NULL) AS orders
  FROM customer LEFT JOIN orders ON orders.customer_id = customer.id GROUP BY customer.id;
RESET ROLE;
INSERT INTO orders VALUES (11, 2, 'open', 1, NULL);
SET ROLE regress_poser_writer;
DELETE FROM shop.orders WHERE id = 11;
SET ROLE regress_poser_owner;
SELECT poser_maintain('told_orders');
SELECT poser_unmaintain('told_orders');
DROP VIEW told_orders;
RESET ROLE;

-- Names change: of columns, tables, functions, types.
ALTER TABLE orders RENAME COLUMN total TO amount;
ALTER TABLE orders RENAME TO purchase;
ALTER TABLE customer RENAME COLUMN id TO number;
ALTER FUNCTION is_large RENAME TO is_big;
ALTER TYPE state RENAME TO status;
ALTER TYPE status RENAME VALUE 'closed' TO 'done';
ALTER SCHEMA shop RENAME TO store;
SET search_path = store, regress_views, public;
INSERT INTO customer VALUES (3);
INSERT INTO purchase VALUES (11, 3, 'open', 11, '{b}'), (12, 3, 'done', 12, NULL);
UPDATE customer SET number = 4 WHERE number = 2 AND false;
SELECT * FROM large_orders ORDER BY id;
SELECT poser_unmaintain('row_orders');
DROP VIEW row_orders;
-- A column is added, one that is not used is dropped, and one in front of the others.
ALTER TABLE purchase ADD COLUMN remark text DEFAULT 'none';
ALTER TABLE purchase ADD COLUMN other integer;
INSERT INTO purchase VALUES (13, 3, 'open', 13, '{b}', 'x', 1);
ALTER TABLE purchase DROP COLUMN other;
INSERT INTO purchase VALUES (14, 3, 'open', 14, '{c}', 'x');
SELECT * FROM large_orders ORDER BY id;
TABLE differences;
TABLE live;

-- The predicate of an index on the bookkeeping is the owner's code as well.  No other role
-- that asks about the view runs it.
SET ROLE regress_poser_owner;
CREATE VIEW told_orders AS
SELECT number AS id, count(purchase.id) AS orders FROM customer LEFT JOIN purchase ON customer_id = number GROUP BY number;
SELECT poser_maintain('told_orders');
SET client_min_messages = error;
DROP INDEX told_orders_maintained_number_idx;
CREATE INDEX ON told_orders_maintained (number) WHERE delta > tell('the predicate');
-- a session that does not know the index
\set QUIET on
\connect -
\set QUIET off
SET search_path = store, regress_views, public;
SET client_min_messages = warning;
SELECT problem FROM poser_views WHERE view = 'told_orders'::regclass;
SELECT * FROM poser_check('told_orders');
INSERT INTO purchase VALUES (15, 3, 'open', 15, NULL);
SELECT poser_maintain('told_orders');
INSERT INTO purchase VALUES (15, 3, 'open', 15, NULL);
SELECT problem FROM poser_views WHERE view = 'told_orders'::regclass;
-- nor beside the index of Poser
SET ROLE regress_poser_owner;
SET client_min_messages = error;
CREATE INDEX told_orders_first ON told_orders_maintained (number) WHERE delta > tell('the predicate');
\set QUIET on
\connect -
\set QUIET off
SET search_path = store, regress_views, public;
SET client_min_messages = warning;
SELECT problem FROM poser_views WHERE view = 'told_orders'::regclass;
INSERT INTO purchase VALUES (16, 3, 'open', 16, NULL);

DROP EXTENSION poser CASCADE;
DROP SCHEMA store, regress_views CASCADE;
DROP ROLE regress_poser_owner, regress_poser_writer;
