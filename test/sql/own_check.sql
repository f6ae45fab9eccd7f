-- poser_check() of tracked tables: each thing that can be wrong, one after the other.

CREATE EXTENSION poser;
CREATE ROLE regress_own_check_owner;
CREATE ROLE regress_own_check_stranger;
GRANT CREATE ON SCHEMA public TO regress_own_check_owner;
SET ROLE regress_own_check_owner;
CREATE TABLE customer (id int PRIMARY KEY, mail text, pw text);
CREATE TABLE "Line %" (a numeric, "B" text, item json, PRIMARY KEY ("B", a));
CREATE TABLE part (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10);
SELECT poser_track('customer', exclude => '{pw}'), poser_track('"Line %"'), poser_track('part');
INSERT INTO customer VALUES (1, 'a', 'x'), (2, 'b', 'x');
INSERT INTO "Line %" VALUES (1, 'one', '{"a": 1}'), (1.0, 'two', NULL);
INSERT INTO part VALUES (1, 'p');
SELECT * FROM poser_check();
SELECT * FROM poser_check('customer');
SELECT * FROM poser_check('part_1');

-- Which tables: those with an owner whose rights the caller has.
SET ROLE regress_own_check_stranger;
\set VERBOSITY terse
SELECT * FROM poser_check('customer');
SELECT * FROM poser_check();
RESET ROLE;
CREATE TABLE untracked (id int);
SELECT * FROM poser_check('untracked');
SELECT * FROM poser_check('customer_version');
SELECT * FROM poser_check('poser_widget');
DROP TABLE untracked;

-- What a statement breaks in a table, in a transaction that is rolled back.
CREATE PROCEDURE broken_by(statements text) LANGUAGE plpgsql AS $$
DECLARE
	problem record;
BEGIN
	BEGIN
		EXECUTE statements;
		FOR problem IN SELECT * FROM poser_check() LOOP
			RAISE NOTICE '% | %', problem.object, regexp_replace(problem.problem, 'OID \d+', 'OID ...');
		END LOOP;
		RAISE SQLSTATE 'P0099';
	EXCEPTION WHEN SQLSTATE 'P0099' THEN
		NULL;
	END;
END
$$;

-- columns
CALL broken_by('ALTER TABLE customer ADD COLUMN vat text');
CALL broken_by('ALTER TABLE customer RENAME mail TO address');
CALL broken_by('ALTER TABLE customer RENAME pw TO password');
CALL broken_by('ALTER TABLE customer DROP COLUMN mail');
CALL broken_by('ALTER TABLE customer ALTER COLUMN mail TYPE varchar(20)');
CALL broken_by('ALTER TABLE customer ALTER COLUMN mail TYPE bytea USING NULL');
CALL broken_by('ALTER TABLE customer_version DROP COLUMN mail');
CALL broken_by('ALTER TABLE customer_version RENAME change_id TO changed');

-- the key
CALL broken_by('ALTER TABLE customer DROP CONSTRAINT customer_pkey');
CALL broken_by('ALTER TABLE customer DROP CONSTRAINT customer_pkey, ADD PRIMARY KEY (mail)');
CALL broken_by('ALTER TABLE customer DROP CONSTRAINT customer_pkey, ADD PRIMARY KEY (pw, id)');
CALL broken_by('ALTER TABLE customer ALTER COLUMN id TYPE bigint');
CALL broken_by('DROP INDEX customer_version_id_change_id_idx');
CALL broken_by('ALTER TABLE customer_version DROP CONSTRAINT customer_version_pkey');

-- triggers and partitions
CALL broken_by('DROP TRIGGER poser_version_insert ON customer');
CALL broken_by('ALTER TABLE customer DISABLE TRIGGER poser_version_update');
CALL broken_by('ALTER TABLE customer_version ENABLE TRIGGER poser_versions_of_truncate');
CALL broken_by('DROP TRIGGER poser_arrive_row ON customer_version');
CALL broken_by('CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (10) TO (20)');
CALL broken_by('ALTER TABLE part DETACH PARTITION part_1');

-- the binding
CALL broken_by('DROP TABLE customer_version');
CALL broken_by('DROP TRIGGER poser_versions_of ON customer_version');
CALL broken_by('ALTER TABLE customer_version OWNER TO regress_own_check_stranger');
CALL broken_by('ALTER TABLE customer_version OWNER TO regress_own_check_stranger;
	GRANT INSERT ON customer_version TO regress_own_check_owner');
CALL broken_by('COMMENT ON TRIGGER poser_versions_of ON customer_version IS ''mine''');
CALL broken_by('COMMENT ON TRIGGER poser_versions_of ON customer_version IS ''pruned up to transaction 1, change 2''');

-- privileges, row-level security and storage
CALL broken_by('GRANT INSERT, SELECT ON customer_version TO PUBLIC; GRANT UPDATE (mail) ON customer_version TO regress_own_check_stranger');
CALL broken_by('GRANT SELECT ON customer_version TO PUBLIC');
CALL broken_by('ALTER TABLE customer ENABLE ROW LEVEL SECURITY');
CALL broken_by('ALTER TABLE customer ENABLE ROW LEVEL SECURITY; ALTER TABLE customer_version ENABLE ROW LEVEL SECURITY');
CALL broken_by('ALTER TABLE customer_version SET UNLOGGED');
CALL broken_by('CREATE TABLE heir () INHERITS (customer)');

-- rows
CALL broken_by('SET LOCAL session_replication_role = replica; UPDATE customer SET mail = ''B'' WHERE id = 2;
	INSERT INTO customer VALUES (3); DELETE FROM "Line %" WHERE a = 1 AND "B" = ''two'';
	UPDATE "Line %" SET item = ''{"a" :1}'' WHERE "B" = ''one''; RESET session_replication_role');
CALL broken_by('SET LOCAL session_replication_role = replica; UPDATE customer SET pw = ''other''; RESET session_replication_role');
CALL broken_by('ALTER TABLE customer_version DISABLE TRIGGER poser_versions_of; UPDATE customer_version SET operation_type = 1 WHERE id = 1;
	UPDATE customer_version SET operation_type = 3 WHERE id = 2; ALTER TABLE customer_version ENABLE ALWAYS TRIGGER poser_versions_of');
CALL broken_by('DELETE FROM poser_transaction WHERE id = (SELECT max(transaction_id) FROM "Line %_version")');
-- (a rollback does not set the sequence back)
CALL broken_by('SELECT setval(''poser_change_id_seq'', 1)');
SELECT setval('poser_change_id_seq', 100);

-- rows that are older than the history
CALL broken_by('CREATE TABLE late (id int PRIMARY KEY); INSERT INTO late VALUES (1); SELECT poser_track(''late'', existing => false)');

-- consumers
CALL broken_by('SELECT poser_datasync_add(''c'', tables => ''{customer,part}''); DROP TABLE customer; SELECT poser_untrack(''part'')');

-- An error in one table does not hide the others.  The owner's code runs with the rights
-- of the owner.
SET ROLE regress_own_check_owner;
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE FUNCTION to_json(mood) RETURNS json LANGUAGE plpgsql AS
$$BEGIN RAISE EXCEPTION 'run by %', current_user; END$$;
CREATE CAST (mood AS json) WITH FUNCTION to_json(mood) AS IMPLICIT;
CREATE TABLE feeling (mood mood PRIMARY KEY);
SELECT poser_track('feeling');
RESET ROLE;
CALL broken_by('SET LOCAL session_replication_role = replica; INSERT INTO feeling VALUES (''good''); DELETE FROM part;
	UPDATE customer SET mail = ''c'' WHERE id = 1; RESET session_replication_role');

DROP TABLE customer, customer_version, "Line %", "Line %_version", part, part_version, feeling, feeling_version;
DROP TYPE mood CASCADE;
DROP EXTENSION poser;
DROP PROCEDURE broken_by;
REVOKE CREATE ON SCHEMA public FROM regress_own_check_owner;
DROP ROLE regress_own_check_owner, regress_own_check_stranger;
