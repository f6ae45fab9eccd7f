-- Maintained views with what PostgreSQL 18 has brought: virtual generated columns, foreign keys
-- that are not enforced, NOT NULL that is not validated, and keys with periods.

SELECT current_setting('server_version_num')::int < 180000 AS skip \gset
\if :skip
\quit
\endif
\set VERBOSITY default
SET client_min_messages = warning;
CREATE EXTENSION poser;

CREATE TABLE customer (id int PRIMARY KEY, name text, upper_name text GENERATED ALWAYS AS (upper(name)) VIRTUAL);
CREATE TABLE orders (
	id int PRIMARY KEY,
	customer_id int REFERENCES customer,
	price numeric,
	gross numeric GENERATED ALWAYS AS (price * 1.19) VIRTUAL,
	net numeric GENERATED ALWAYS AS (price * 0.97) STORED
);
INSERT INTO customer (id, name) VALUES (1, 'anna'), (2, 'bert');
INSERT INTO orders (id, customer_id, price) VALUES (1, 1, 10), (2, 1, 20);

-- A virtual column of the child is not there when a row is written.
CREATE VIEW customer_orders AS
SELECT c.id, sum(o.gross) AS gross FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id;
SELECT poser_maintain('customer_orders');
CREATE OR REPLACE VIEW customer_orders AS
SELECT c.id, sum(o.price) FILTER (WHERE o.gross > 20) AS gross FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id;
SELECT poser_maintain('customer_orders');
CREATE OR REPLACE VIEW customer_orders AS
SELECT c.id, sum(o.price) AS gross FROM customer c LEFT JOIN orders o ON o.customer_id = c.id AND o.gross > 20 GROUP BY c.id;
SELECT poser_maintain('customer_orders');
CREATE OR REPLACE VIEW customer_orders AS
SELECT c.id, sum(o.price) FILTER (WHERE o IS NOT NULL) AS gross FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id;
SELECT poser_maintain('customer_orders');
DROP VIEW customer_orders;

-- A stored one is, and one of the parent is only shown.
CREATE VIEW customer_orders AS
SELECT c.id, c.upper_name, sum(o.net) AS net, sum(o.net) FILTER (WHERE o.net > 10) AS high
  FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id;
SELECT poser_maintain('customer_orders');
INSERT INTO orders (id, customer_id, price) VALUES (3, 2, 30);
UPDATE customer SET name = 'cora' WHERE id = 2;
SELECT served FROM poser_views;
SELECT * FROM customer_orders ORDER BY id;
SELECT poser_unmaintain('customer_orders');

-- A foreign key that is not enforced lets a parent go while it has children.
ALTER TABLE orders ALTER CONSTRAINT orders_customer_id_fkey NOT ENFORCED;
SELECT poser_maintain('customer_orders');
ALTER TABLE orders ALTER CONSTRAINT orders_customer_id_fkey ENFORCED;
SELECT poser_maintain('customer_orders');
SELECT poser_unmaintain('customer_orders');
DROP VIEW customer_orders;

-- NOT NULL that is not validated lets rows with NULL be there.
CREATE TABLE parent (code text UNIQUE);
CREATE TABLE child (code text REFERENCES parent (code), n int);
INSERT INTO parent VALUES (NULL), (NULL), ('a');
ALTER TABLE parent ADD CONSTRAINT parent_code NOT NULL code NOT VALID;
CREATE VIEW counts AS SELECT p.code, count(c.n) AS n FROM parent p LEFT JOIN child c ON c.code = p.code GROUP BY p.code;
SELECT poser_maintain('counts');
DELETE FROM parent WHERE code IS NULL;
ALTER TABLE parent VALIDATE CONSTRAINT parent_code;
SELECT poser_maintain('counts');
SELECT * FROM counts;

-- A foreign key with a period.
CREATE TABLE room (id int4range, during daterange, name text, PRIMARY KEY (id, during WITHOUT OVERLAPS));
CREATE TABLE booking (room int4range, during daterange, guests int, FOREIGN KEY (room, PERIOD during) REFERENCES room (id, PERIOD during));
CREATE VIEW room_guests AS
SELECT r.id, r.during, sum(b.guests) AS guests FROM room r LEFT JOIN booking b ON b.room = r.id AND b.during = r.during GROUP BY r.id, r.during;
SELECT poser_maintain('room_guests');
CREATE VIEW room_guests_within AS
SELECT r.id, r.during, sum(b.guests) AS guests FROM room r LEFT JOIN booking b ON b.room = r.id AND b.during <@ r.during GROUP BY r.id, r.during;
SELECT poser_maintain('room_guests_within');

SELECT poser_unmaintain('counts');
DROP EXTENSION poser;
DROP TABLE customer, orders, parent, child, room, booking CASCADE;
