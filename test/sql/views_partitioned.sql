-- Maintained views of partitioned tables: partitions of all levels, which are added, detached,
-- attached and dropped.
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
SELECT tgrelid::regclass::text AS relation, string_agg(substr(tgname, 16) || CASE WHEN tgparentid <> 0 THEN ' (cloned)' ELSE '' END || CASE tgenabled WHEN 'O' THEN '' ELSE ' ' || tgenabled::text END, ', ' ORDER BY tgname) AS triggers
  FROM pg_trigger WHERE tgfoid = 'poser_maintain_rows'::regproc GROUP BY 1 ORDER BY 1;

CREATE TABLE customer (region int, id bigint, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
CREATE TABLE customer_1 PARTITION OF customer FOR VALUES IN (1);
CREATE TABLE customer_2 PARTITION OF customer FOR VALUES IN (2) PARTITION BY RANGE (id);
CREATE TABLE customer_2_low PARTITION OF customer_2 FOR VALUES FROM (0) TO (100);
CREATE TABLE orders (id bigint, region int, customer_id bigint, at date NOT NULL, total int,
	FOREIGN KEY (region, customer_id) REFERENCES customer ON DELETE CASCADE) PARTITION BY RANGE (at);
CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
-- a partition with its columns in another order
CREATE TABLE orders_2 (total int, at date NOT NULL, dropped int, customer_id bigint, region int, id bigint) PARTITION BY LIST (region);
ALTER TABLE orders_2 DROP COLUMN dropped;
CREATE TABLE orders_2_1 PARTITION OF orders_2 FOR VALUES IN (1);
ALTER TABLE orders ATTACH PARTITION orders_2 FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
INSERT INTO customer SELECT i % 2 + 1, i FROM generate_series(1, 6) AS i;
INSERT INTO orders SELECT i, 1, 2 + 2 * (i % 2), '2026-01-20'::date + i, i FROM generate_series(1, 20) AS i;
CREATE VIEW sales AS
SELECT c.region, c.id, count(o.id) AS orders, sum(o.total) FILTER (WHERE o.total > 3) AS total
  FROM customer AS c LEFT JOIN orders AS o ON o.region = c.region AND o.customer_id = c.id GROUP BY c.region, c.id;

SELECT poser_maintain('sales');
SELECT * FROM triggers;
SELECT poser_maintain('sales');
SELECT * FROM compare('sales');
TABLE sales ORDER BY region, id;
-- writes through the root, a partition, and one of its partitions; rows that move
INSERT INTO orders VALUES (30, 1, 2, '2026-02-03', 100);
INSERT INTO orders_2 (id, region, customer_id, at, total) VALUES (31, 1, 2, '2026-02-04', 200);
INSERT INTO orders_2_1 (id, region, customer_id, at, total) VALUES (32, 1, 4, '2026-02-05', 300);
UPDATE orders SET at = '2026-01-05' WHERE id = 31;
UPDATE orders SET total = total + 1, customer_id = 6 WHERE id IN (3, 20);
DELETE FROM orders_2_1 WHERE id = 19;
SELECT * FROM compare('sales');
INSERT INTO customer_2_low VALUES (2, 50);
INSERT INTO customer_2 VALUES (2, 52);
UPDATE customer SET region = 1 WHERE id = 52;
DELETE FROM customer_1 WHERE id = 4;
SELECT * FROM compare('sales');
TABLE sales ORDER BY region, id;
TRUNCATE orders_2_1;
SELECT * FROM compare('sales');

-- a new partition: the view counts until poser_maintain() is called; nothing is counted again if
-- nothing was written into it
CREATE TABLE orders_3 PARTITION OF orders FOR VALUES FROM ('2026-03-01') TO ('2026-04-01');
SELECT * FROM compare('sales');
SELECT poser_maintain('sales');
SELECT * FROM compare('sales');
INSERT INTO orders_3 VALUES (40, 1, 2, '2026-03-03', 11);
SELECT * FROM compare('sales');
-- one of all levels, and one of the parent
CREATE TABLE orders_4 PARTITION OF orders FOR VALUES FROM ('2026-04-01') TO ('2026-05-01') PARTITION BY LIST (region);
CREATE TABLE orders_4_1 PARTITION OF orders_4 FOR VALUES IN (1);
CREATE TABLE customer_3 PARTITION OF customer FOR VALUES IN (3);
SELECT * FROM compare('sales');
SELECT poser_maintain('sales');
SELECT * FROM compare('sales');
INSERT INTO orders_4 VALUES (41, 1, 2, '2026-04-03', 11);
INSERT INTO customer_3 VALUES (3, 3);
SELECT * FROM compare('sales');
-- rows that were written into it meanwhile
CREATE TABLE orders_5 PARTITION OF orders FOR VALUES FROM ('2026-05-01') TO ('2026-06-01');
INSERT INTO orders_5 VALUES (50, 1, 2, '2026-05-03', 11);
INSERT INTO orders VALUES (51, 1, 2, '2026-05-04', 12);
SELECT * FROM compare('sales');
SELECT poser_maintain('sales');
SELECT * FROM compare('sales');
-- rows that are gone again
CREATE TABLE orders_6 PARTITION OF orders FOR VALUES FROM ('2026-06-01') TO ('2026-07-01');
INSERT INTO orders VALUES (60, 1, 2, '2026-06-03', 13);
TRUNCATE orders_6;
SELECT count(*) FROM orders_6;
SELECT poser_maintain('sales');
SELECT * FROM compare('sales');

-- a partition is detached
ALTER TABLE orders DETACH PARTITION orders_5;
SELECT * FROM compare('sales');
UPDATE orders_5 SET total = 1000;
-- and attached: what was written meanwhile was not counted
ALTER TABLE orders ATTACH PARTITION orders_5 FOR VALUES FROM ('2026-05-01') TO ('2026-06-01');
SELECT * FROM compare('sales');
SELECT poser_maintain('sales');
SELECT * FROM compare('sales');
ALTER TABLE orders DETACH PARTITION orders_5;
SELECT poser_maintain('sales');
SELECT * FROM compare('sales');
-- the detached table keeps triggers that do nothing
INSERT INTO orders_5 VALUES (52, 1, 2, '2026-05-05', 13);
SELECT * FROM triggers WHERE relation = 'orders_5';
SELECT * FROM compare('sales');
-- attached again with its triggers: its rows are counted nevertheless
ALTER TABLE orders ATTACH PARTITION orders_5 FOR VALUES FROM ('2026-05-01') TO ('2026-06-01');
SELECT poser_maintain('sales');
SELECT * FROM compare('sales');
SELECT poser_recount('sales');
ALTER TABLE orders DETACH PARTITION orders_5;
SELECT poser_maintain('sales');
SELECT * FROM compare('sales');
SELECT poser_unmaintain('orders_5');
SELECT * FROM triggers WHERE relation = 'orders_5';
SELECT poser_unmaintain('orders_5');
SELECT poser_unmaintain('orders_4');
-- one is dropped
DROP TABLE orders_3;
SELECT * FROM compare('sales');
SELECT poser_maintain('sales');
SELECT * FROM compare('sales');
-- one is renamed
ALTER TABLE orders_4_1 RENAME TO orders_of_april;
SELECT * FROM compare('sales');
SELECT poser_maintain('sales');

-- triggers of partitions
ALTER TABLE orders_1 DISABLE TRIGGER poser_maintain_insert;
ALTER TABLE customer_2_low DISABLE TRIGGER poser_maintain_row;
INSERT INTO orders_1 VALUES (70, 1, 2, '2026-01-04', 12);
SELECT * FROM compare('sales');
SELECT poser_maintain('sales');
SELECT * FROM compare('sales');
DROP TRIGGER poser_maintain_before ON orders_2_1;
SELECT poser_maintain('sales');
DROP TRIGGER poser_maintain_row ON orders;
SELECT served FROM compare('sales');
SELECT poser_maintain('sales');
SELECT * FROM compare('sales');
SELECT * FROM triggers WHERE relation LIKE 'orders%';

-- a partition that cannot be watched
CREATE FOREIGN DATA WRAPPER dummy;
CREATE SERVER dummy FOREIGN DATA WRAPPER dummy;
CREATE TABLE log (id int, customer_id int, a int) PARTITION BY LIST (a);
CREATE TABLE owner (id int PRIMARY KEY);
CREATE UNLOGGED TABLE log_1 PARTITION OF log FOR VALUES IN (1);
ALTER TABLE log ADD FOREIGN KEY (customer_id) REFERENCES owner;
CREATE VIEW logs AS SELECT o.id, count(l.id) AS n FROM owner AS o LEFT JOIN log AS l ON l.customer_id = o.id GROUP BY o.id;
SELECT poser_maintain('logs');
DROP TABLE log_1;
SELECT poser_maintain('logs');
CREATE UNLOGGED TABLE log_2 PARTITION OF log FOR VALUES IN (2);
SELECT * FROM compare('logs');
SELECT poser_maintain('logs');
DROP TABLE log_2;
SELECT poser_maintain('logs');
-- a table that becomes a partition
CREATE TABLE whole (id int, customer_id int, a int) PARTITION BY LIST (a);
ALTER TABLE whole ATTACH PARTITION log FOR VALUES IN (1, 2);
INSERT INTO owner VALUES (1);
CREATE TABLE log_3 PARTITION OF log FOR VALUES IN (1);
INSERT INTO whole VALUES (1, 1, 1);
SELECT * FROM compare('logs');
SELECT poser_maintain('logs');
ALTER TABLE whole DETACH PARTITION log;
SELECT poser_maintain('logs');
SELECT * FROM compare('logs');
SELECT poser_unmaintain('logs');

-- poser_follow()
CREATE EVENT TRIGGER follow ON ddl_command_end WHEN TAG IN ('ALTER TABLE', 'CREATE TABLE', 'CREATE VIEW')
	EXECUTE FUNCTION poser_follow();
CREATE TABLE orders_7 PARTITION OF orders FOR VALUES FROM ('2026-07-01') TO ('2026-08-01');
CREATE TABLE customer_4 PARTITION OF customer FOR VALUES IN (4);
SELECT * FROM compare('sales');
ALTER TABLE orders ATTACH PARTITION orders_5 FOR VALUES FROM ('2026-05-01') TO ('2026-06-01');
SELECT * FROM compare('sales');
ALTER TABLE orders DETACH PARTITION orders_5;
SELECT * FROM compare('sales');
SELECT poser_maintain('sales');
ALTER TABLE orders_1 DISABLE TRIGGER poser_maintain_insert;
CREATE UNLOGGED TABLE orders_8 PARTITION OF orders FOR VALUES FROM ('2026-08-01') TO ('2026-09-01');
DROP TABLE orders_8;
CREATE OR REPLACE VIEW sales AS
SELECT c.region, c.id, count(o.total) AS orders, sum(o.total) FILTER (WHERE o.total > 3) AS total
  FROM customer AS c LEFT JOIN orders AS o ON o.region = c.region AND o.customer_id = c.id GROUP BY c.region, c.id;
SELECT * FROM compare('sales');
CREATE VIEW logs_too AS TABLE logs;
SELECT poser_maintain('logs', existing => false);
ALTER TABLE log ADD COLUMN b int;
SELECT view, served FROM poser_views ORDER BY view::text;
SELECT poser_unmaintain('sales');
DROP EVENT TRIGGER follow;

-- MERGE moves rows to other partitions.  The server does not fire the triggers of DELETE and
-- INSERT for this, unless the MERGE has such actions as well.
CREATE TABLE part (id int, bin int, owner int REFERENCES owner, size int, PRIMARY KEY (id, bin)) PARTITION BY RANGE (bin);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10);
CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (10) TO (20);
INSERT INTO owner SELECT n FROM generate_series(1001, 1003) AS n;
CREATE VIEW parts AS
SELECT w.id, count(p.id) AS parts, sum(p.size) AS size FROM owner AS w LEFT JOIN part AS p ON p.owner = w.id GROUP BY w.id;
SELECT poser_maintain('parts');
INSERT INTO part SELECT n, n % 20, 1001 + n % 3, n FROM generate_series(1, 60) AS n;
MERGE INTO part USING (VALUES (1), (2), (3)) AS s (id) ON part.id = s.id WHEN MATCHED THEN UPDATE SET bin = 15, size = 100, owner = 1001;
SELECT * FROM compare('parts');
MERGE INTO part USING (VALUES (1), (2), (3), (1001)) AS s (id) ON part.id = s.id
 WHEN MATCHED AND s.id = 1 THEN DELETE
 WHEN MATCHED THEN UPDATE SET bin = 3, size = 7, owner = 1002
 WHEN NOT MATCHED THEN INSERT VALUES (s.id, 1, 1001, 5);
SELECT * FROM compare('parts');
WITH gone AS (DELETE FROM part WHERE id = 20 RETURNING *),
     moved AS (UPDATE part SET bin = 19 - bin WHERE id BETWEEN 30 AND 40 RETURNING *)
INSERT INTO part SELECT id + 5000, bin, owner, size FROM gone;
SELECT * FROM compare('parts');
UPDATE part SET bin = 19 - bin, owner = 1003;
SELECT * FROM compare('parts');
SELECT * FROM parts WHERE id > 1000 ORDER BY id;
-- The actions of foreign keys are several statements with one AFTER trigger.
CREATE TABLE box (id int PRIMARY KEY);
ALTER TABLE part ADD COLUMN box int REFERENCES box ON DELETE SET NULL, DROP CONSTRAINT part_owner_fkey,
	ADD FOREIGN KEY (owner) REFERENCES owner ON DELETE CASCADE ON UPDATE CASCADE;
INSERT INTO box SELECT generate_series(1, 3);
SELECT poser_track('part');
UPDATE part SET box = 1 + id % 3, owner = 1001 + id % 3;
DELETE FROM box WHERE id < 3;
UPDATE owner SET id = id + 1000 WHERE id > 1000;
DELETE FROM owner WHERE id = 2001;
WITH gone AS (DELETE FROM part WHERE id = 40 RETURNING *), changed AS (UPDATE part SET size = 0 WHERE id = 41 RETURNING *)
SELECT count(*) FROM gone, changed;
SELECT * FROM compare('parts');
SELECT problem FROM poser_check('part');
-- The triggers of the view and of the history both fire for rows that MERGE moves.
MERGE INTO part USING (VALUES (4), (7)) AS s (id) ON part.id = s.id WHEN MATCHED THEN UPDATE SET bin = 19 - bin, size = 50, owner = 2002;
SELECT * FROM compare('parts');
SELECT problem FROM poser_check('part');
SELECT poser_untrack('part');
-- An action of a foreign key updates the table while the triggers of a DELETE wait.  These
-- fire once, with all rows, and so do those of users.
CREATE TABLE twig (id int PRIMARY KEY, up int REFERENCES twig ON DELETE SET NULL, owner int REFERENCES owner ON DELETE CASCADE,
	rival int REFERENCES owner ON DELETE SET NULL) PARTITION BY HASH (id);
CREATE TABLE twig_0 PARTITION OF twig FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE twig_1 PARTITION OF twig FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE VIEW twigs AS SELECT n.id, count(below.id) AS below FROM twig AS n LEFT JOIN twig AS below ON below.up = n.id GROUP BY n.id;
CREATE VIEW owned AS SELECT o.id, count(n.up) AS twigs FROM owner AS o LEFT JOIN twig AS n ON n.owner = o.id GROUP BY o.id;
SELECT poser_maintain('twigs'), poser_maintain('owned'), poser_track('twig');
CREATE FUNCTION say_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	RAISE NOTICE 'deleted: %', (SELECT string_agg(id::text, ' ' ORDER BY id) FROM old_rows);
	RETURN NULL;
END
$$;
CREATE TRIGGER say_deleted AFTER DELETE ON twig REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION say_deleted();
INSERT INTO owner VALUES (3001), (3002), (3003);
INSERT INTO twig SELECT n, nullif(n / 2, 0), 3001 + n % 3, 3001 + (n + 1) % 3 FROM generate_series(1, 20) AS n;
DELETE FROM twig WHERE id IN (2, 3, 10);
SELECT * FROM compare('twigs');
DELETE FROM owner WHERE id = 3001;
SELECT * FROM compare('twigs');
SELECT * FROM compare('owned');
SELECT problem FROM poser_check('twig');
SELECT poser_untrack('twig'), poser_unmaintain('twigs'), poser_unmaintain('owned');

-- A partition is made, written and dropped before poser_maintain() knows it.  Its rows are
-- not among those that were counted.
CREATE TABLE part_3 (size int, owner int, bin int NOT NULL, id int NOT NULL, box int);
INSERT INTO part_3 VALUES (1, 2002, 25, 1);
ALTER TABLE part ATTACH PARTITION part_3 FOR VALUES FROM (20) TO (30);
SELECT * FROM compare('parts');
INSERT INTO part VALUES (9001, 20, 2002, 1000), (9002, 5, 2002, 500), (9003, 21, 2002, NULL);
UPDATE part SET bin = 22 WHERE id = 9002;
UPDATE part SET bin = 6, size = 7 WHERE id = 9001;
UPDATE part SET size = 4 WHERE id = 9003;
INSERT INTO part_3 VALUES (30, 2002, 23, 9004, NULL);
MERGE INTO part USING (VALUES (9003), (9004), (9005)) AS s (id) ON part.id = s.id
 WHEN MATCHED AND s.id = 9003 THEN DELETE WHEN MATCHED THEN UPDATE SET size = 31 WHEN NOT MATCHED THEN INSERT VALUES (s.id, 24, 2002, 1);
DELETE FROM part WHERE id = 1 AND bin = 25;
SELECT * FROM compare('parts');
ALTER TABLE part DETACH PARTITION part_3;
SELECT * FROM compare('parts');
SELECT served FROM poser_views WHERE view = 'parts'::regclass;
-- so it is with partitions of a partition, also if a statement on it comes first
CREATE TABLE part_4 PARTITION OF part FOR VALUES FROM (30) TO (50) PARTITION BY LIST (bin);
CREATE TABLE part_40 PARTITION OF part_4 FOR VALUES IN (30, 31);
SELECT poser_maintain('parts');
INSERT INTO part VALUES (9006, 30, 2002, 1);
INSERT INTO part_4 VALUES (9007, 31, 2002, 1);
CREATE TABLE part_41 PARTITION OF part_4 FOR VALUES IN (32);
INSERT INTO part_4 VALUES (9008, 32, 2002, 100), (9009, 31, 2002, 10);
INSERT INTO part VALUES (9010, 32, 2002, 100), (9011, 31, 2002, 10);
SELECT * FROM compare('parts');
DROP TABLE part_41;
SELECT * FROM compare('parts');
SELECT served FROM poser_views WHERE view = 'parts'::regclass;
-- TRUNCATE counts what is there afterwards
CREATE TABLE part_42 PARTITION OF part_4 FOR VALUES IN (33);
CREATE FUNCTION insert_again() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO part VALUES (1, 33, 2002, 5), (2, 1, 2002, 6);
	RETURN NULL;
END
$$;
CREATE TRIGGER a_again AFTER TRUNCATE ON part FOR EACH STATEMENT EXECUTE FUNCTION insert_again();
TRUNCATE part;
DROP TABLE part_42;
SELECT * FROM compare('parts');
SELECT served FROM poser_views WHERE view = 'parts'::regclass;
SELECT poser_recount('parts');
SELECT poser_unmaintain('parts');

-- A foreign key to the table itself updates the table before the AFTER triggers of the DELETE have fired.  Each of them fires once.
CREATE TABLE node (id int PRIMARY KEY, up int REFERENCES node ON DELETE SET NULL) PARTITION BY RANGE (id);
CREATE TABLE node_1 PARTITION OF node DEFAULT;
CREATE VIEW nodes AS SELECT node.id, count(child.id) AS children FROM node LEFT JOIN node child ON child.up = node.id GROUP BY node.id;
SELECT poser_maintain('nodes');
SELECT poser_track('node');
CREATE FUNCTION say() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE NOTICE '% %', TG_NAME, TG_OP; RETURN NULL; END$$;
CREATE TRIGGER first_of_user AFTER INSERT OR UPDATE OR DELETE ON node EXECUTE FUNCTION say();
CREATE TRIGGER the_last_of_user AFTER INSERT OR UPDATE OR DELETE ON node EXECUTE FUNCTION say();
INSERT INTO node VALUES (1, 1), (2, 1), (3, 1), (4, 2);
DELETE FROM node WHERE id < 3;
SELECT * FROM compare('nodes');
TABLE nodes ORDER BY id;
SELECT id, up, operation_type FROM node_version ORDER BY change_id;
SELECT problem FROM poser_check('node');

-- Rows that MERGE moves are counted and recorded, also while another statement on the table is in progress.
CREATE TABLE slot (id int, node int REFERENCES node, PRIMARY KEY (id, node)) PARTITION BY LIST (node);
CREATE TABLE slot_3 PARTITION OF slot FOR VALUES IN (3);
CREATE TABLE slot_4 PARTITION OF slot FOR VALUES IN (4);
CREATE VIEW slots AS SELECT node.id, count(slot.id) AS slots FROM node LEFT JOIN slot ON slot.node = node.id GROUP BY node.id;
SELECT poser_maintain('slots');
SELECT poser_track('slot');
INSERT INTO slot VALUES (1, 3), (2, 3), (3, 3), (4, 3);
MERGE INTO slot USING (VALUES (1)) source (id) ON slot.id = source.id WHEN MATCHED THEN UPDATE SET node = 4;
TABLE slots ORDER BY id;
CREATE FUNCTION move(int) RETURNS int LANGUAGE sql AS
	$$MERGE INTO slot USING (VALUES ($1)) source (id) ON slot.id = source.id WHEN MATCHED THEN UPDATE SET node = 4; SELECT $1$$;
CREATE TRIGGER first_of_user AFTER INSERT OR UPDATE OR DELETE ON slot EXECUTE FUNCTION say();
DELETE FROM slot WHERE id = 3 AND move(2) = 2;
TABLE slots ORDER BY id;
SELECT * FROM compare('slots');
SELECT id, node, operation_type FROM slot_version ORDER BY change_id;
SELECT problem FROM poser_check('slot');
SELECT poser_untrack('slot');
SELECT poser_untrack('node');
SELECT poser_unmaintain('slots');
SELECT poser_unmaintain('nodes');

SELECT * FROM triggers;
SET client_min_messages = warning;
DROP EXTENSION poser CASCADE;
DROP TABLE node, node_version, slot, slot_version CASCADE;
DROP FUNCTION say(), move(int);
DROP TABLE customer, orders, orders_5, log, part, part_3, part_version, twig, twig_version, box, owner, whole, logs_maintained CASCADE;
DROP FOREIGN DATA WRAPPER dummy CASCADE;
DROP FUNCTION compare(regclass), say_deleted, insert_again;
