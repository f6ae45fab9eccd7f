-- What users change of a maintained view and its tables: reads are right meanwhile, poser_views
-- says what is wrong, and poser_maintain() mends it.
SET client_min_messages = warning;
CREATE EXTENSION poser;
RESET client_min_messages;
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
CREATE VIEW family AS SELECT relname, relkind FROM pg_class WHERE relname ~ '^(summary|renamed)' AND relkind IN ('r', 'v') ORDER BY 1;
CREATE TABLE customer (id int PRIMARY KEY, code varchar(10) NOT NULL UNIQUE, name text);
CREATE TABLE orders (id int PRIMARY KEY, customer_id int REFERENCES customer, total numeric(12,2), n int, note text);
INSERT INTO customer SELECT i, 'c' || i FROM generate_series(1, 3) AS i;
INSERT INTO orders SELECT i, i % 2 + 1, i, i FROM generate_series(1, 6) AS i;
CREATE VIEW summary AS
SELECT c.id, c.code, count(o.id) AS orders, sum(o.total) AS total FROM customer AS c LEFT JOIN orders AS o ON o.customer_id = c.id GROUP BY c.id;
SELECT poser_maintain('summary');

-- columns, tables, schemas and the view are renamed
CREATE SCHEMA elsewhere;
ALTER TABLE orders RENAME customer_id TO buyer;
ALTER TABLE orders RENAME total TO amount;
ALTER TABLE customer RENAME id TO number;
ALTER TABLE orders RENAME TO sales;
ALTER TABLE sales SET SCHEMA elsewhere;
ALTER VIEW summary RENAME COLUMN orders TO sales;
ALTER VIEW summary RENAME TO renamed;
INSERT INTO elsewhere.sales VALUES (7, 3, 1.5, 1);
UPDATE customer SET number = 30 WHERE number = 30;
SELECT * FROM compare('renamed');
TABLE renamed ORDER BY 1;
SELECT poser_maintain('renamed');
ALTER VIEW renamed SET SCHEMA elsewhere;
ALTER VIEW summary_query SET SCHEMA elsewhere;
SELECT view, query, bookkeeping, parent, child, served, problem FROM poser_views;
SELECT * FROM compare('elsewhere.renamed');
SELECT poser_unmaintain('elsewhere.renamed');
SELECT pg_get_viewdef('elsewhere.renamed');
SELECT * FROM family;
ALTER VIEW elsewhere.renamed SET SCHEMA public;
ALTER VIEW renamed RENAME TO summary;
ALTER VIEW summary RENAME COLUMN sales TO orders;
ALTER TABLE elsewhere.sales SET SCHEMA public;
ALTER TABLE sales RENAME TO orders;
ALTER TABLE orders RENAME buyer TO customer_id;
ALTER TABLE orders RENAME amount TO total;
ALTER TABLE customer RENAME number TO id;
SELECT poser_maintain('summary');

-- what the query needs is guarded by the server
ALTER TABLE orders DROP COLUMN total;
ALTER TABLE orders DROP COLUMN customer_id;
\set VERBOSITY terse
ALTER TABLE orders ALTER total TYPE float8;
\set VERBOSITY default
ALTER TABLE customer DROP COLUMN id;
DROP TABLE orders;
DROP TABLE customer;
DROP VIEW summary_query;
DROP VIEW summary_served;
DROP TABLE summary_maintained;
-- other changes go through
ALTER TABLE orders DROP COLUMN note, ADD COLUMN vat int DEFAULT 3, ALTER n TYPE bigint;
ALTER TABLE orders ALTER n SET NOT NULL, ADD CHECK (n > 0), SET (fillfactor = 90);
ALTER TABLE customer DROP COLUMN name, ADD COLUMN label text;
ALTER TABLE orders CLUSTER ON orders_pkey;
CLUSTER orders;
VACUUM FULL customer;
REINDEX TABLE orders;
INSERT INTO orders (id, customer_id, total, n) VALUES (8, 3, 4.25, 1);
SELECT * FROM compare('summary');

-- the key and the foreign key
BEGIN;
ALTER TABLE orders DROP CONSTRAINT orders_customer_id_fkey;
SELECT * FROM compare('summary');
INSERT INTO orders (id, customer_id, total, n) VALUES (9, 77, 1, 1);
SELECT * FROM compare('summary');
SELECT poser_maintain('summary');
ROLLBACK;
BEGIN;
ALTER TABLE orders DROP CONSTRAINT orders_customer_id_fkey;
ALTER TABLE customer DROP CONSTRAINT customer_pkey CASCADE;
ROLLBACK;
-- two rows of the parent get the same key: the query has one row for both, and the view cannot be read
CREATE VIEW keyed AS SELECT c.id, count(o.n) AS orders FROM customer AS c LEFT JOIN orders AS o ON o.customer_id = c.id GROUP BY c.id;
SELECT poser_maintain('keyed');
BEGIN;
ALTER TABLE customer DROP CONSTRAINT customer_pkey CASCADE;
SELECT served, differences FROM compare('keyed');
INSERT INTO customer (id, code) SELECT id, 'again' FROM customer WHERE id = 1;
SAVEPOINT s;
TABLE keyed;
ROLLBACK TO s;
EXPLAIN TABLE keyed;
ROLLBACK TO s;
SELECT poser_unmaintain('keyed');
TABLE keyed ORDER BY id;
ROLLBACK TO s;
DELETE FROM customer WHERE id = 1;
SELECT served, differences FROM compare('keyed');
ALTER TABLE customer ALTER id DROP NOT NULL;
INSERT INTO customer (code) VALUES ('null 1'), ('null 2');
TABLE keyed;
ROLLBACK;
BEGIN;
CREATE TABLE heir () INHERITS (customer);
SELECT served, differences FROM compare('keyed');
INSERT INTO heir (id, code) SELECT id, code FROM customer WHERE id = 1;
TABLE keyed;
ROLLBACK;
SELECT poser_unmaintain('keyed');
DROP VIEW keyed;
ALTER TABLE customer DROP CONSTRAINT customer_code_key;
ALTER TABLE customer ALTER code DROP NOT NULL;
ALTER TABLE customer ADD UNIQUE (code);
SELECT * FROM compare('summary');

-- triggers are disabled, dropped, or replaced
ALTER TABLE orders DISABLE TRIGGER poser_maintain_insert;
INSERT INTO orders (id, customer_id, total, n) VALUES (10, 3, 4.25, 1);
SELECT * FROM compare('summary');
SELECT poser_maintain('summary');
SELECT * FROM compare('summary');
DROP TRIGGER poser_maintain_delete ON orders;
DROP TRIGGER poser_maintain_before ON customer;
DELETE FROM orders WHERE id = 10;
SELECT * FROM compare('summary');
SELECT poser_maintain('summary');
SELECT * FROM compare('summary');
ALTER TABLE customer DISABLE TRIGGER ALL;
INSERT INTO customer VALUES (4, 'c4');
ALTER TABLE customer ENABLE TRIGGER ALL;
SELECT * FROM compare('summary');
SELECT poser_maintain('summary');
SELECT * FROM compare('summary');
CREATE OR REPLACE TRIGGER poser_maintain_update AFTER UPDATE OF total ON orders FOR EACH STATEMENT EXECUTE FUNCTION poser_maintain_rows();
SELECT * FROM compare('summary');
SELECT poser_maintain('summary');
SELECT * FROM compare('summary');
-- a table that VACUUM has made empty was written before
CREATE TABLE box (id int PRIMARY KEY);
CREATE TABLE item (id int PRIMARY KEY, box int REFERENCES box);
CREATE VIEW items AS SELECT b.id, count(i.id) AS n FROM box AS b LEFT JOIN item AS i ON i.box = b.id GROUP BY b.id;
SELECT poser_maintain('items');
INSERT INTO box VALUES (1);
INSERT INTO item VALUES (1, 1), (2, 1);
ALTER TABLE item DISABLE TRIGGER ALL;
DELETE FROM item;
VACUUM item;
ALTER TABLE item ENABLE TRIGGER ALL;
SELECT poser_maintain('items');
SELECT * FROM compare('items');
SELECT poser_unmaintain('items');
DROP VIEW items;
DROP TABLE item, box;
-- all views of the table are mended
CREATE VIEW second AS SELECT c.id, count(o.n) AS n FROM customer AS c LEFT JOIN orders AS o ON o.customer_id = c.id GROUP BY c.id;
SELECT poser_maintain('second');
ALTER TABLE orders DISABLE TRIGGER poser_maintain_delete;
DELETE FROM orders WHERE id = 8;
SELECT poser_maintain('second');
SELECT * FROM compare('summary');
SELECT * FROM compare('second');
DROP TRIGGER poser_maintain_key ON customer;
UPDATE customer SET id = 40 WHERE id = 4;
CREATE VIEW third AS SELECT c.id, count(o.n) AS n FROM customer AS c LEFT JOIN orders AS o ON o.customer_id = c.id GROUP BY c.id;
SELECT poser_maintain('third');
SELECT v.view, (compare(v.view)).* FROM poser_views AS v ORDER BY view::text;
SELECT poser_unmaintain('third'), poser_unmaintain('second');
DROP VIEW second, third;
-- a trigger of the user has the name
SELECT poser_unmaintain('summary');
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER poser_maintain_row AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION nothing();
SELECT poser_maintain('summary');
DROP TRIGGER poser_maintain_row ON orders;
SELECT poser_maintain('summary');

-- the owner replaces the query behind the view: the view counts as before, and writers go on
BEGIN;
CREATE OR REPLACE VIEW summary_query AS
SELECT c.id, c.code, count(o.note2) AS orders, sum(o.total) AS total FROM customer AS c LEFT JOIN (SELECT *, n AS note2 FROM orders) AS o ON o.customer_id = c.id GROUP BY c.id, c.code;
INSERT INTO orders (id, customer_id, total, n) VALUES (20, 3, 4.25, 1);
UPDATE customer SET id = 30, code = 'c30' WHERE id = 40;
SELECT served, problem FROM compare('summary');
SELECT poser_maintain('summary');
ROLLBACK;
BEGIN;
CREATE OR REPLACE VIEW summary_query AS
SELECT c.id, c.code, count(o.id) FILTER (WHERE o.n > 1) AS orders, sum(o.total) AS total FROM customer AS c LEFT JOIN orders AS o ON o.customer_id = c.id GROUP BY c.id, c.code;
INSERT INTO orders (id, customer_id, total, n) VALUES (20, 3, 4.25, 1);
SELECT served, problem FROM compare('summary');
TABLE summary ORDER BY id;
SELECT poser_maintain('summary');
SELECT * FROM compare('summary');
ALTER TABLE orders DISABLE TRIGGER ALL;
SELECT * FROM compare('summary');
ROLLBACK;
SELECT * FROM compare('summary');

-- bindings and guards
DROP TRIGGER poser_maintained_child ON summary_maintained;
INSERT INTO orders (id, customer_id, total, n) VALUES (11, 3, 4.25, 1);
SELECT * FROM compare('summary');
SELECT poser_maintain('summary');
SELECT * FROM compare('summary');
ALTER TABLE summary_maintained DISABLE TRIGGER poser_maintained_guard;
SELECT * FROM compare('summary');
SELECT poser_maintain('summary');
SELECT * FROM compare('summary');
DROP TRIGGER poser_maintained_query ON summary_maintained;
SELECT view, query, served, problem FROM poser_views;
SELECT poser_maintain('summary');
SELECT * FROM compare('summary');
DROP TRIGGER poser_maintained_view ON summary_maintained;
SELECT view, query, served, problem FROM poser_views;
SELECT poser_maintain('summary');
SELECT poser_unmaintain('summary_query');
SELECT * FROM family;
DROP TABLE IF EXISTS summary_maintained CASCADE;
DROP VIEW IF EXISTS summary, summary_query CASCADE;
SELECT * FROM triggers;
CREATE OR REPLACE VIEW summary AS
SELECT c.id, c.code, count(o.id) AS orders, sum(o.total) AS total FROM customer AS c LEFT JOIN orders AS o ON o.customer_id = c.id GROUP BY c.id, c.code;
SELECT poser_maintain('summary');

-- a binding is for another kind of relation
DROP TRIGGER poser_maintained_served ON summary_maintained;
CREATE CONSTRAINT TRIGGER poser_maintained_served AFTER UPDATE OR DELETE ON summary_maintained FROM orders FOR EACH ROW EXECUTE FUNCTION poser_maintained_by();
DROP TRIGGER poser_maintained_child ON summary_maintained;
CREATE CONSTRAINT TRIGGER poser_maintained_child AFTER UPDATE OR DELETE ON summary_maintained FROM summary_query FOR EACH ROW EXECUTE FUNCTION poser_maintained_by();
SELECT * FROM compare('summary');
SELECT poser_maintain('summary', existing => false);
SELECT * FROM compare('summary');

-- one for the view itself
BEGIN;
CREATE OR REPLACE VIEW summary AS SELECT c.id, c.code, count(o.id) AS orders, sum(o.n)::numeric AS total FROM customer AS c LEFT JOIN orders AS o ON o.customer_id = c.id GROUP BY c.id;
DROP TRIGGER poser_maintained_served ON summary_maintained;
CREATE CONSTRAINT TRIGGER poser_maintained_served AFTER UPDATE OR DELETE ON summary_maintained FROM summary FOR EACH ROW EXECUTE FUNCTION poser_maintained_by();
SELECT poser_maintain('summary');
ROLLBACK;

-- the bookkeeping is altered: writes say so, and it is made again
ALTER TABLE summary_maintained ADD COLUMN remark text;
SELECT * FROM compare('summary');
INSERT INTO orders (id, customer_id, total, n) VALUES (12, 3, 4.25, 1);
SELECT poser_maintain('summary');
INSERT INTO orders (id, customer_id, total, n) VALUES (12, 3, 4.25, 1);
SELECT * FROM compare('summary');
ALTER TABLE summary_maintained DROP CONSTRAINT summary_maintained_pkey;
SELECT * FROM compare('summary');
INSERT INTO orders (id, customer_id, total, n) VALUES (13, 3, 4.25, 1);
SELECT poser_maintain('summary');
SELECT * FROM compare('summary');
ALTER TABLE summary_maintained RENAME TO counts_of_summary;
ALTER TABLE counts_of_summary RENAME delta TO change;
INSERT INTO orders (id, customer_id, total, n) VALUES (13, 3, 4.25, 1);
SELECT * FROM compare('summary');
SELECT poser_maintain('summary');
ALTER VIEW summary_served SET (security_invoker);
SELECT * FROM compare('summary');
SELECT poser_maintain('summary');
SELECT * FROM compare('summary');
CREATE OR REPLACE VIEW summary_served AS SELECT id, change AS delta, orders, total, total_tally FROM counts_of_summary;
SELECT * FROM compare('summary');
SELECT poser_maintain('summary');
SELECT * FROM compare('summary');
REVOKE SELECT ON summary_served FROM PUBLIC;
SELECT poser_maintain('summary');
SELECT replace(relacl::text, 'Dxtm/', 'Dxt/') AS relacl FROM pg_class WHERE relname = 'summary_served';

-- the query is replaced by one over another table, with other types in its columns
CREATE TABLE returns (id int PRIMARY KEY, customer_id int REFERENCES customer, total numeric(12,2), n numeric);
CREATE OR REPLACE VIEW summary_query AS
SELECT c.id, c.code, count(r.id) AS orders, sum(r.n) AS total FROM customer AS c LEFT JOIN returns AS r ON r.customer_id = c.id GROUP BY c.id;
BEGIN;
INSERT INTO orders (id, customer_id, n) VALUES (1000, 1, 123456789);
UPDATE orders SET n = n + 123456789;
TRUNCATE orders;
ROLLBACK;
SELECT problem FROM poser_views;
SELECT poser_recount('summary');
BEGIN;
SELECT poser_maintain('summary');
INSERT INTO returns SELECT id, id, 1.5, 2 FROM customer;
SELECT * FROM compare('summary');
SELECT count(*) FROM summary WHERE orders = 1;
ROLLBACK;
CREATE OR REPLACE VIEW summary_query AS
SELECT c.id, c.code, count(o.id) AS orders, sum(o.total) AS total FROM customer AS c LEFT JOIN orders AS o ON o.customer_id = c.id GROUP BY c.id;
DROP TABLE returns;
SELECT problem FROM poser_views;
SELECT poser_maintain('summary');
SELECT poser_recount('summary');

-- the user replaces the query
CREATE VIEW above AS SELECT id, orders FROM summary;
CREATE OR REPLACE VIEW summary AS
SELECT c.id, c.code, count(o.id) FILTER (WHERE n > 1) AS orders, sum(o.total) AS total, count(o.total) AS more
  FROM customer AS c LEFT JOIN orders AS o ON o.customer_id = c.id GROUP BY c.id, c.code;
SELECT view, served, problem FROM poser_views;
INSERT INTO orders (id, customer_id, total, n) VALUES (14, 3, 4.25, 2);
TABLE summary ORDER BY id;
SELECT poser_maintain('summary');
SELECT * FROM compare('summary');
TABLE summary ORDER BY id;
TABLE above ORDER BY id;
-- by one over other tables
CREATE TABLE client (id int PRIMARY KEY, code varchar(10));
CREATE TABLE visit (id int PRIMARY KEY, client int REFERENCES client, minutes numeric, orders int);
INSERT INTO client VALUES (1, 'one');
INSERT INTO visit VALUES (1, 1, 2, 3);
CREATE OR REPLACE VIEW summary AS
SELECT c.id, c.code, count(o.id) AS orders, sum(o.minutes) AS total, count(o.orders) AS more
  FROM client AS c LEFT JOIN visit AS o ON o.client = c.id GROUP BY c.id, c.code;
SELECT poser_maintain('summary');
SELECT DISTINCT relation FROM triggers ORDER BY 1;
INSERT INTO visit VALUES (2, 1, 2, NULL);
SELECT * FROM compare('summary');
TABLE summary;
-- by one that cannot be maintained
CREATE OR REPLACE VIEW summary AS SELECT 1 AS id, varchar(10) 'a' AS code, 2::bigint AS orders, 3::numeric AS total, 4::bigint AS more;
SELECT poser_maintain('summary');
TABLE summary;
SELECT view, served, problem FROM poser_views;
-- by its own query
CREATE OR REPLACE VIEW summary AS
SELECT c.id, c.code, count(o.id) AS orders, sum(o.minutes) AS total, count(o.orders) AS more
  FROM client AS c LEFT JOIN visit AS o ON o.client = c.id GROUP BY c.id, c.code;
SELECT poser_maintain('summary');
SELECT * FROM compare('summary');
-- without poser_maintain() afterwards: the user's query stays
CREATE OR REPLACE VIEW summary AS SELECT 1 AS id, varchar(10) 'a' AS code, 2::bigint AS orders, 3::numeric AS total, 4::bigint AS more;
SELECT poser_unmaintain('summary');
TABLE summary;
SELECT * FROM family;
SELECT * FROM triggers;
DROP VIEW summary CASCADE;

-- parts are dropped
CREATE VIEW summary AS
SELECT c.id, count(o.id) AS orders FROM client AS c LEFT JOIN visit AS o ON o.client = c.id GROUP BY c.id;
SELECT poser_maintain('summary');
DROP VIEW summary;
SELECT view, query, bookkeeping, parent, child, served, problem FROM poser_views;
INSERT INTO visit VALUES (3, 1, 2, NULL);
SELECT poser_maintain('summary_query');
SELECT poser_unmaintain('summary_served');
SELECT * FROM family;
SELECT * FROM triggers;
CREATE VIEW summary AS
SELECT c.id, count(o.id) AS orders FROM client AS c LEFT JOIN visit AS o ON o.client = c.id GROUP BY c.id;
CREATE VIEW above AS TABLE summary;
SELECT poser_maintain('summary');
DROP VIEW summary;
DROP TABLE visit CASCADE;
SELECT view, query, bookkeeping, parent, child, served, problem FROM poser_views;
SELECT * FROM family;
INSERT INTO client VALUES (2, 'two');
SELECT poser_unmaintain('summary_maintained');
SELECT * FROM family;
SELECT * FROM triggers;
CREATE TABLE visit (id int PRIMARY KEY, client int REFERENCES client);
CREATE VIEW summary AS
SELECT c.id, count(o.id) AS orders FROM client AS c LEFT JOIN visit AS o ON o.client = c.id GROUP BY c.id;
SELECT poser_maintain('summary');
DROP TABLE client CASCADE;
INSERT INTO visit VALUES (1, 1);
SELECT poser_unmaintain('summary_maintained');
SELECT * FROM triggers;
CREATE TABLE client (id int PRIMARY KEY);
INSERT INTO client VALUES (1);
ALTER TABLE visit ADD FOREIGN KEY (client) REFERENCES client;
CREATE VIEW summary AS
SELECT c.id, count(o.id) AS orders FROM client AS c LEFT JOIN visit AS o ON o.client = c.id GROUP BY c.id;
SELECT poser_maintain('summary');
DROP TABLE summary_maintained CASCADE;
SELECT * FROM poser_views;
SELECT * FROM family;
INSERT INTO visit VALUES (2, 1);
SELECT poser_unmaintain('visit'), poser_unmaintain('client');
SELECT * FROM triggers;
ALTER VIEW summary_query RENAME TO summary;
SELECT poser_maintain('summary');
SELECT * FROM compare('summary');
CREATE VIEW on_query AS TABLE summary_query;
SELECT poser_unmaintain('summary');
DROP VIEW on_query;

-- the extension
DROP VIEW triggers;
DROP EXTENSION poser;
SET client_min_messages = warning;
DROP EXTENSION poser CASCADE;
RESET client_min_messages;
SELECT * FROM family;
INSERT INTO visit VALUES (4, 1);
TABLE summary_query;
ALTER VIEW summary_query RENAME TO summary;
SET client_min_messages = warning;
CREATE EXTENSION poser;
RESET client_min_messages;
-- the table that is left has the name
SELECT poser_maintain('summary');
DROP TABLE summary_maintained;
SELECT poser_maintain('summary');
TABLE summary;
SET client_min_messages = warning;
DROP EXTENSION poser CASCADE;
DROP SCHEMA elsewhere;
DROP TABLE customer, orders, client, visit, summary_maintained CASCADE;
DROP FUNCTION compare(regclass), nothing();
