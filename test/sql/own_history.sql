-- The history of any table: poser_history().
\set SHOW_CONTEXT never
CREATE EXTENSION poser;
CREATE TABLE customer (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, email text NOT NULL, pw text, notes text);
CREATE TABLE invoice_line (invoice_id bigint, line int, item text, price numeric(10,2), PRIMARY KEY (invoice_id, line));
SELECT poser_track('customer', exclude => '{pw}'), poser_track('invoice_line');

-- Ids come from one sequence, so the tests number the changes instead.
CREATE FUNCTION changes(target regclass, match jsonb = '{}', max_versions bigint = NULL)
RETURNS TABLE (n bigint, operation text, changed text[], old jsonb, new jsonb) LANGUAGE sql AS
	'SELECT count(*) OVER (ORDER BY change_id DESC), operation, changed, old, new FROM poser_history($1, $2, $3)';

-- One row
SET poser.runas = 'anna';
SET poser.comment = 'first';
INSERT INTO customer (email, pw) VALUES ('a@x', 'secret'), ('b@x', 'secret');
RESET poser.runas;
RESET poser.comment;
UPDATE customer SET email = 'a@y', notes = 'moved' WHERE id = 1;
UPDATE customer SET pw = 'other' WHERE id = 1;
DELETE FROM customer WHERE id = 1;
SELECT * FROM changes('customer', '{"id": 1}');
SELECT username, role_name = current_user AS is_me, comment, issued_at <= now() AS issued, transaction_id < change_id AS ordered
  FROM poser_history('customer', '{"id": 1}') WHERE operation = 'insert';
SELECT * FROM changes('customer', '{"id": "1"}', 2);
SELECT * FROM changes('customer', '{"id": 3}');
-- A row that comes back: the history says nothing about the row before the insert.
INSERT INTO customer (id, email) OVERRIDING SYSTEM VALUE VALUES (1, 'again');
SELECT * FROM changes('customer', '{"id": 1}', 2);
SELECT change_id = max(change_id) OVER () AS newest_first FROM poser_history('customer', NULL, 1);

-- The lines of an invoice: come, gone and moved
INSERT INTO invoice_line VALUES (7, 1, 'x', 1.10), (7, 2, 'y', 2), (8, 1, 'z', 3);
UPDATE invoice_line SET invoice_id = 8, line = 2 WHERE invoice_id = 7 AND line = 1;
UPDATE invoice_line SET item = 'yy' WHERE item = 'y';
DELETE FROM invoice_line WHERE invoice_id = 8 AND line = 1;
SELECT * FROM changes('invoice_line', '{"invoice_id": 7}');
SELECT * FROM changes('invoice_line', '{"line": 2, "invoice_id": 7}');
SELECT * FROM changes('invoice_line');
SELECT * FROM changes('invoice_line', '{}', 3);

-- Other columns: the changes whose old or new row matches, with an index and without
SELECT * FROM changes('invoice_line', '{"item": "y"}');
SELECT * FROM changes('invoice_line', '{"item": "y"}', 1);
SELECT * FROM changes('invoice_line', '{"item": "y", "invoice_id": 8}');
CREATE INDEX ON invoice_line_version (item);
SELECT * FROM changes('invoice_line', '{"item": "y"}');
SELECT * FROM changes('invoice_line', '{"item": "y"}', 1);
UPDATE invoice_line SET item = NULL WHERE item = 'yy';
SELECT * FROM changes('invoice_line', '{"item": null}');
-- A row that was deleted, and inserted with other values, does not match by the deleted one.
DELETE FROM invoice_line WHERE invoice_id = 7 AND line = 2;
INSERT INTO invoice_line VALUES (7, 2, 'new', 0);
SELECT * FROM changes('invoice_line', '{"item": null}');

-- Columns that are renamed, dropped, added; names are those of now, without another call
ALTER TABLE invoice_line RENAME item TO article;
ALTER TABLE invoice_line RENAME price TO item;
ALTER TABLE invoice_line RENAME invoice_id TO invoice;
SELECT * FROM changes('invoice_line', '{"article": "new"}');
SELECT * FROM changes('invoice_line', '{"invoice": 7, "line": 1}');
SELECT * FROM changes('invoice_line', '{"invoice_id": 7}');
ALTER TABLE invoice_line DROP article;
SELECT * FROM changes('invoice_line', '{"invoice": 7, "line": 2}', 1);
ALTER TABLE invoice_line ADD article int;
SELECT * FROM changes('invoice_line', '{"article": 7}');
SET client_min_messages = warning;
SELECT poser_track('invoice_line');
UPDATE invoice_line SET article = 1 WHERE invoice = 7;
SELECT * FROM changes('invoice_line', '{"article": 1}');

-- A column that is excluded later is not shown any more.
SELECT poser_track('customer', exclude => '{pw,notes}');
RESET client_min_messages;
SELECT * FROM changes('customer', '{"id": 1}');

-- Errors, with their SQLSTATE
CREATE FUNCTION failure(query text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE query;
	RETURN 'none';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ': ' || SQLERRM;
END $$;
SELECT failure($$SELECT * FROM poser_history(NULL)$$);
SELECT failure($$SELECT * FROM poser_history('pg_class')$$);
SELECT failure($$SELECT * FROM poser_history('customer', '[]')$$);
SELECT failure($$SELECT * FROM poser_history('customer', '1')$$);
SELECT failure($$SELECT * FROM poser_history('customer', '{"id": 1}', 0)$$);
SELECT failure($$SELECT * FROM poser_history('customer', '{"pw": "secret"}')$$);
SELECT failure($$SELECT * FROM poser_history('customer', '{"nothing": 1}')$$);
SELECT failure($$SELECT * FROM poser_history('customer', '{"ctid": "(0,1)"}')$$);
SELECT failure($$SELECT * FROM poser_history('customer', '{"id": "x"}')$$);
SELECT failure($$SELECT * FROM poser_history('customer', '{"id": 1.5}')$$);
SELECT failure($$SELECT * FROM poser_history('customer', '{"id": 99999999999999999999}')$$);
SELECT failure($$SELECT * FROM poser_history('customer', '{"id": [1]}')$$);
SELECT failure($$SELECT * FROM poser_history(1::oid::regclass)$$);

-- The extension's own tables
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'One');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c1', 'w1', '1', 'a'), ('c2', 'w1', '2', 'b');
UPDATE poser_component SET description = 'c' WHERE uuid = 'c2';
SELECT n, operation, changed, old ->> 'description' AS old, new ->> 'description' AS new FROM changes('poser_component', '{"widget_uuid": "w1"}');
SELECT * FROM changes('poser_widget', '{"uuid": "w1"}');
SET client_min_messages = warning;
DROP EXTENSION poser CASCADE;
DROP TABLE customer, customer_version, invoice_line, invoice_line_version;
DROP FUNCTION changes, failure;
