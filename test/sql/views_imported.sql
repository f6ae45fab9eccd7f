-- Maintained views of tables that are written by imports, batches and reverts, and that have
-- a history.

\set SHOW_CONTEXT never
CREATE EXTENSION poser;
CREATE TABLE customer (id int PRIMARY KEY, name varchar(10));
CREATE TABLE orders (id int PRIMARY KEY, customer_id int REFERENCES customer, status text, total numeric);
CREATE VIEW customer_orders AS
SELECT c.id AS customer_id, c.name, count(o.id) AS orders, count(o.id) FILTER (WHERE o.status = 'open') AS open_orders, sum(o.total) AS revenue
  FROM customer c LEFT JOIN orders o ON o.customer_id = c.id
 GROUP BY c.id;
INSERT INTO customer VALUES (1, 'one'), (2, 'two'), (3, 'three');
INSERT INTO orders VALUES (1, 1, 'open', 1.50), (2, 1, 'paid', 2);
SELECT poser_maintain('customer_orders'), poser_track('customer'), poser_track('orders');
INSERT INTO orders VALUES (3, 2, 'open', 3), (4, 2, 'paid', 4.25);
-- what the view shows, whether it has counted the rows, and what its query says if it differs
CREATE VIEW shown AS
SELECT v.*, served, NULLIF(q.*::text, v.*::text) AS differs
  FROM customer_orders AS v FULL JOIN customer_orders_query AS q USING (customer_id), poser_views
 ORDER BY customer_id;
TABLE shown;

-- Imports of children: created, moved, changed and deleted; and of parents.
CREATE TABLE source AS
SELECT id, CASE id WHEN 3 THEN 1 ELSE customer_id END AS customer_id, CASE id WHEN 1 THEN 'paid' ELSE status END AS status, total * 2 AS total
  FROM orders WHERE id <> 4
UNION ALL SELECT 10, 3, 'open', 7;
SELECT * FROM poser_import('source', 'orders', deletes => true);
TABLE shown;
CREATE TABLE customer_source AS VALUES (2, 'second'), (4, 'four');
ALTER TABLE customer_source RENAME column1 TO id;
ALTER TABLE customer_source RENAME column2 TO name;
SELECT * FROM poser_import('customer_source', 'customer', updates => false);
TABLE shown;
-- an import that fails changes nothing
INSERT INTO source VALUES (11, 99, 'open', 1), (12, 1, 'open', 100);
SELECT * FROM poser_import('source', 'orders');
TABLE shown;
DELETE FROM source WHERE id = 11;

-- A batch.
SELECT poser_batch_create('orders') AS batch \gset
SELECT poser_batch_populate(:'batch', 'source');
TABLE shown;
SELECT * FROM poser_batch_execute(:'batch');
TABLE shown;

-- Back in history: the rows of a customer, and an order that was deleted.
SELECT min(transaction_id) AS first FROM orders_version WHERE operation_type = 0 AND id = 4 \gset
SELECT poser_revert('orders', '{"customer_id": 1}', :first);
TABLE shown;
SELECT poser_revert('orders', '{"id": 4}', :first);
TABLE shown;
SELECT poser_revert('customer', '{"id": 4}', :first);
TABLE shown;
SELECT * FROM poser_check();

-- A maintained view is a source as any view, and no target.
CREATE TABLE copied (customer_id int PRIMARY KEY, orders bigint, revenue numeric);
SELECT * FROM poser_import('customer_orders', 'copied');
SELECT * FROM copied ORDER BY customer_id;
SELECT * FROM poser_import('copied', 'customer_orders');
SELECT poser_track('customer_orders');
-- The counts and sums cannot be written by an import.
CREATE TABLE forged AS SELECT id, delta, orders + 1 AS orders FROM customer_orders_maintained;
SELECT * FROM poser_import('forged', 'customer_orders_maintained');

-- The type of a column that the view uses is PostgreSQL's own error.
\set VERBOSITY terse
SELECT poser_alter_type('customer', 'name', 'text');
\set VERBOSITY default

-- The extension's own tables have maintained views as others do.
CREATE VIEW widget_parts AS
SELECT w.uuid, count(c.uuid) AS parts FROM poser_widget w LEFT JOIN poser_component c ON c.widget_uuid = w.uuid GROUP BY w.uuid;
SELECT poser_maintain('widget_parts');
INSERT INTO poser_widget (uuid, description) VALUES ('w1', '');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c1', 'w1', '', ''), ('c2', 'w1', '', '');
SELECT max(transaction_id) AS before FROM poser_component_version \gset
DELETE FROM poser_component WHERE uuid = 'c1';
SELECT * FROM widget_parts;
SELECT poser_widget_revert('w1', :before, true);
SELECT * FROM widget_parts;
SELECT component_count FROM poser_widget_summary;
SELECT served, problem FROM poser_views WHERE view = 'widget_parts'::regclass;
SELECT * FROM poser_check('poser_widget');
SELECT * FROM poser_check();
SELECT * FROM poser_local_changes();
ALTER TABLE poser_component DISABLE TRIGGER poser_maintain_delete;
DELETE FROM poser_component;
ALTER TABLE poser_component ENABLE TRIGGER poser_maintain_delete;
SELECT * FROM poser_check('poser_component');
SELECT poser_recount();
SELECT * FROM poser_check();
SELECT poser_unmaintain('widget_parts');
SELECT * FROM poser_local_changes();

SET client_min_messages = warning;
DROP VIEW widget_parts;
DROP EXTENSION poser CASCADE;
DROP TABLE customer, customer_version, orders, orders_version, customer_orders_maintained, source, customer_source, copied, forged CASCADE;
