-- Recording of own tables: what has bypassed the triggers, and rows that are older than
-- these; at once and in steps; who may do it.

\set VERBOSITY terse
CREATE EXTENSION poser;
CREATE FUNCTION is_partial(versions regclass) RETURNS boolean LANGUAGE sql AS
	$$SELECT split_part(encode(tgargs, 'escape'), '\000', 2) = 'partial' FROM pg_trigger WHERE tgrelid = versions AND tgname = 'poser_versions_of'$$;

-- Keys of two columns, of which equal numbers are one key.  A column of json has no
-- equality, so its bytes are compared.
CREATE TABLE invoice_line (invoice numeric, item text, data json, price numeric, PRIMARY KEY (invoice, item));
SELECT poser_track('invoice_line');
INSERT INTO invoice_line VALUES (1, 'a', '{"x":1}', 1), (2, 'b', '{"x":1}', 1), (3, 'c', '{"x":1}', 1), (4, 'd', NULL, NULL);
CREATE VIEW versions AS
SELECT invoice, item, data, price, (ARRAY['insert', 'update', 'delete'])[operation_type + 1] AS operation, comment
  FROM invoice_line_version JOIN poser_transaction ON id = transaction_id ORDER BY change_id;
SELECT poser_record_versions('invoice_line');
ALTER TABLE invoice_line DISABLE TRIGGER USER;
UPDATE invoice_line SET invoice = 1.0 WHERE invoice = 1;
UPDATE invoice_line SET data = '{"x": 1}' WHERE invoice = 2;
DELETE FROM invoice_line WHERE invoice = 3;
INSERT INTO invoice_line VALUES (5, 'e', '[]', 5);
ALTER TABLE invoice_line ENABLE TRIGGER USER;
-- It comes with its first update, which has no insert before it.
UPDATE invoice_line SET price = 6 WHERE invoice = 5;
BEGIN;
SELECT poser_record_versions('invoice_line');
SELECT * FROM versions OFFSET 4;
SELECT poser_record_versions('invoice_line');
SELECT * FROM poser_check();
ROLLBACK;
-- in steps
SELECT poser_record_versions('invoice_line', 1), poser_record_versions('invoice_line', 1), poser_record_versions('invoice_line', 1),
       poser_record_versions('invoice_line', 1), poser_record_versions('invoice_line', 1);
SELECT * FROM versions OFFSET 4;
SELECT poser_record_versions('invoice_line');
-- without a target: all that the caller may record
ALTER TABLE invoice_line DISABLE TRIGGER USER;
ALTER TABLE poser_widget DISABLE TRIGGER USER;
UPDATE invoice_line SET price = 7;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', '1'), ('w2', '2');
ALTER TABLE invoice_line ENABLE TRIGGER USER;
ALTER TABLE poser_widget ENABLE TRIGGER USER;
SELECT poser_record_versions(max_versions => 1), poser_record_versions(), poser_record_versions(), poser_record_versions(NULL, 10);
SELECT uuid, operation_type FROM poser_widget_version ORDER BY uuid;
SELECT poser_recount();

-- Rows that are older than poser_track(): each call records some, and the last one ends it.
CREATE TABLE doc (id uuid PRIMARY KEY, body text);
INSERT INTO doc SELECT md5(i::text)::uuid, i FROM generate_series(1, 1000) AS i;
SELECT poser_track('doc', existing => false);
SELECT is_partial('doc_version');
CREATE TABLE log (call serial, n bigint);
INSERT INTO log (n) SELECT poser_record_versions('doc', 300);
SELECT relation = 'doc'::regclass::oid::text AS is_right, change_id AS block FROM poser_prune_position;
-- What is written meanwhile is recorded by the triggers, on both sides of that place.
UPDATE doc SET body = 'new' WHERE body IN ('10', '990');
DELETE FROM doc WHERE body IN ('11', '991');
INSERT INTO doc VALUES (md5('x')::uuid, 'x');
DO $$ DECLARE n bigint; BEGIN LOOP n := poser_record_versions('doc', 300); INSERT INTO log (n) VALUES (n); EXIT WHEN n = 0; END LOOP; END $$;
SELECT n FROM log ORDER BY call;
SELECT is_partial('doc_version');
SELECT count(*) FROM poser_prune_position;
SELECT * FROM poser_check();
SELECT poser_record_versions('doc');
-- The table was rewritten in between: its pass begins again, and nothing is recorded twice.
CREATE TABLE doc2 (id int PRIMARY KEY, body text);
INSERT INTO doc2 SELECT i, i FROM generate_series(1, 1000) AS i;
SELECT poser_track('doc2', existing => false);
SELECT poser_record_versions('doc2', 600);
CLUSTER doc2 USING doc2_pkey;
SELECT poser_record_versions('doc2', 600), poser_record_versions('doc2', 600);
SELECT count(*), count(DISTINCT id) FROM doc2_version;
-- all at once
CREATE TABLE doc3 (id int PRIMARY KEY, body text);
INSERT INTO doc3 SELECT i, i FROM generate_series(1, 10) AS i;
SELECT poser_track('doc3', existing => false);
SELECT poser_record_versions('doc3'), is_partial('doc3_version');
SELECT is_partial('doc3_version');

-- A partitioned table: ATTACH and DETACH write no rows, so they are recorded here.
CREATE TABLE part (id int, region text, v text, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
CREATE TABLE part_n PARTITION OF part FOR VALUES IN ('n');
CREATE TABLE part_s (v text, dropped int, region text NOT NULL, id int NOT NULL, PRIMARY KEY (region, id));
ALTER TABLE part_s DROP COLUMN dropped;
SELECT poser_track('part');
INSERT INTO part VALUES (1, 'n', 'a'), (2, 'n', 'b');
INSERT INTO part_s (id, region, v) VALUES (1, 's', 'c'), (2, 's', 'd');
ALTER TABLE part ATTACH PARTITION part_s FOR VALUES IN ('s');
SELECT poser_track('part');
SELECT poser_record_versions('part', 1), poser_record_versions('part');
ALTER TABLE part DETACH PARTITION part_n;
SELECT poser_record_versions('part', 1), poser_record_versions('part', 1), poser_record_versions('part', 1);
SELECT id, region, v, operation_type FROM part_version ORDER BY change_id;
SELECT poser_record_versions('part_s');
SELECT poser_record_versions('part_n');

-- Many columns, and a large value that is stored elsewhere.
DO $$ BEGIN EXECUTE (SELECT 'CREATE TABLE wide (id int PRIMARY KEY' || string_agg(format(', c%s text', i), '' ORDER BY i) || ')' FROM generate_series(1, 300) AS i); END $$;
ALTER TABLE wide DROP COLUMN c7;
INSERT INTO wide (id, c1, c300) SELECT i, (SELECT string_agg(md5(j::text), '') FROM generate_series(1, 2000) AS j), 'x' FROM generate_series(1, 3) AS i;
SELECT poser_track('wide', existing => false);
SELECT poser_record_versions('wide', 2), poser_record_versions('wide', 2), poser_record_versions('wide', 2);
SELECT poser_record_versions('wide');
SELECT count(*) FROM wide JOIN wide_version AS v ON v.id = wide.id AND v.c1 = wide.c1 AND v.c300 = wide.c300;

\set VERBOSITY sqlstate
SELECT poser_record_versions('log');
SELECT poser_record_versions('doc', 0);
\set VERBOSITY terse

-- Who may: the owner of the table.
CREATE ROLE regress_owner;
CREATE ROLE regress_auditor;
GRANT CREATE ON SCHEMA public TO regress_owner, regress_auditor;
SET ROLE regress_owner;
CREATE TABLE mine (id int PRIMARY KEY, a int);
INSERT INTO mine VALUES (1, 1);
SELECT poser_track('mine', existing => false);
SELECT poser_record_versions();
SELECT poser_record_versions('doc');
SELECT poser_record_versions('poser_widget');
SET ROLE regress_auditor;
SELECT poser_record_versions('mine');
SELECT poser_record_versions();
RESET ROLE;
-- Row-level security of the table does not hide rows from it.
ALTER TABLE mine ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY, DISABLE TRIGGER USER;
SET row_security = on;
INSERT INTO mine VALUES (2, 2);
ALTER TABLE mine ENABLE TRIGGER USER;
SET ROLE regress_owner;
SELECT poser_record_versions('mine', 5);
RESET ROLE;
-- Code of its owner runs with its rights.
CREATE FUNCTION spy(a int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
	$$ BEGIN RAISE NOTICE 'called as %', current_user; RETURN a; END $$;
ALTER FUNCTION spy OWNER TO regress_owner;
CREATE INDEX ON mine (spy(a)) WHERE spy(1) > 0;
SELECT poser_record_versions('mine');
DROP FUNCTION spy CASCADE;
-- The owner of the table may insert versions, but not read them.  Other tables are recorded nevertheless.
ALTER TABLE mine_version OWNER TO regress_auditor;
GRANT INSERT ON mine_version TO regress_owner;
SELECT poser_record_versions('mine');
SELECT poser_record_versions('mine', 5);
ALTER TABLE doc3 DISABLE TRIGGER USER;
UPDATE doc3 SET body = 'changed' WHERE id = 1;
ALTER TABLE doc3 ENABLE TRIGGER USER;
SELECT poser_record_versions();
GRANT SELECT ON mine_version TO regress_owner;
SELECT poser_record_versions('mine');

DROP TABLE mine, mine_version;
REVOKE CREATE ON SCHEMA public FROM regress_owner, regress_auditor;
DROP ROLE regress_owner, regress_auditor;

DROP TABLE invoice_line, invoice_line_version, doc, doc_version, doc2, doc2_version, doc3, doc3_version, part, part_n, part_version,
	wide, wide_version, log CASCADE;
DROP FUNCTION is_partial;
DROP EXTENSION poser;
