-- Going back in the history of any table: poser_revert(), and the rights to read a history.
\set SHOW_CONTEXT never
CREATE EXTENSION poser;
CREATE FUNCTION failure(query text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE query;
	RETURN 'none';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ': ' || SQLERRM;
END $$;
CREATE FUNCTION last_transaction(target regclass) RETURNS bigint LANGUAGE sql AS 'SELECT transaction_id FROM poser_history($1, ''{}'', 1)';

-- A composite key, a generated column, an identity column, a column that is excluded, and types without equality
CREATE TABLE item (
	a numeric, b text, n int GENERATED ALWAYS AS IDENTITY, twice numeric GENERATED ALWAYS AS (a * 2) STORED,
	doc json, place point, code text UNIQUE, secret text DEFAULT 'default', PRIMARY KEY (a, b));
SELECT poser_track('item', exclude => '{secret}');
INSERT INTO item (a, b, doc, place, code, secret) VALUES (1.0, 'x', '{"a":  1}', '(1,1)', 'c1', 's1'), (2, 'x', '{}', NULL, 'c2', 's2'), (3, 'y', '{}', NULL, 'c3', 's3');
SELECT last_transaction('item') AS t1 \gset
UPDATE item SET a = 1, doc = '{"a": 2}', place = '(2,2)', secret = 's1b' WHERE a = 1;
UPDATE item SET a = 4 WHERE a = 2;
DELETE FROM item WHERE a = 3;
SELECT last_transaction('item') AS t2 \gset
SELECT poser_revert('item', '{"a": 1, "b": "x"}', :t1);
TABLE item ORDER BY a;
SELECT poser_revert('item', '{"a": 1, "b": "x"}', :t1);
-- a row that was deleted; the excluded column gets its default
SELECT poser_revert('item', '{"a": 3}', :t1);
-- a row whose key was changed: by the old key alone there would be two rows with one code
SELECT failure(format('SELECT poser_revert(''item'', ''{"a": 2}'', %s)', :t1));
SELECT poser_revert('item', '{"code": "c2"}', :t1);
TABLE item ORDER BY a;
-- and forward again, for all rows that have or had a value
SELECT poser_revert('item', '{"b": "x"}', :t2);
TABLE item ORDER BY a;
SELECT operation, changed FROM poser_history('item', '{"b": "x"}', 3);

-- Rows that refer to each other, and unique values that move from one to another
CREATE TABLE node (id int PRIMARY KEY, parent int REFERENCES node ON DELETE CASCADE, name text UNIQUE, tree int);
SELECT poser_track('node');
INSERT INTO node VALUES (1, NULL, 'root', 1), (2, 1, 'leaf', 1);
SELECT last_transaction('node') AS t1 \gset
BEGIN;
UPDATE node SET name = 'old root' WHERE id = 1;
INSERT INTO node VALUES (3, NULL, 'root', 1);
UPDATE node SET parent = 3 WHERE id = 2;
DELETE FROM node WHERE id = 1;
COMMIT;
TABLE node ORDER BY id;
SELECT poser_revert('node', '{"tree": 1}', :t1);
TABLE node ORDER BY id;

-- Columns that were renamed, added, dropped
ALTER TABLE node RENAME name TO label;
ALTER TABLE node RENAME tree TO name;
UPDATE node SET label = 'changed' WHERE id = 2;
SELECT poser_revert('node', '{"id": 2}', :t1);
TABLE node ORDER BY id;

-- A partitioned table
CREATE TABLE measure (city text, day date, value int, PRIMARY KEY (city, day)) PARTITION BY RANGE (day);
CREATE TABLE measure_1 PARTITION OF measure FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE measure_2 PARTITION OF measure FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
SELECT poser_track('measure');
INSERT INTO measure VALUES ('Rome', '2026-01-05', 1), ('Oslo', '2026-02-05', 2);
SELECT last_transaction('measure') AS t1 \gset
UPDATE measure SET day = '2026-02-06', value = 3 WHERE city = 'Rome';
DELETE FROM measure WHERE city = 'Oslo';
SELECT poser_revert('measure', '{"city": "Rome"}', :t1) AS rome, poser_revert('measure', '{"city": "Oslo"}', :t1) AS oslo;
SELECT tableoid::regclass, city, value FROM measure ORDER BY city;

-- The part of the history that has been pruned: a row with a version that is old enough is known, and no other one is deleted
CREATE TABLE pruned (id int PRIMARY KEY, v int);
SELECT poser_track('pruned');
INSERT INTO pruned VALUES (1, 1);
SELECT last_transaction('pruned') AS t1 \gset
INSERT INTO pruned VALUES (2, 1);
DELETE FROM pruned WHERE id = 2;
INSERT INTO pruned VALUES (3, 1);
SELECT last_transaction('pruned') AS t2 \gset
UPDATE pruned SET v = 2 WHERE id = 1;
INSERT INTO pruned VALUES (2, 2);
SELECT format('COMMENT ON TRIGGER poser_versions_of ON pruned_version IS %L',
              format('pruned up to transaction %s, change %s', :t2, (SELECT max(change_id) FROM pruned_version WHERE transaction_id <= :t2))) \gexec
SET session_replication_role = replica;
ALTER TABLE pruned_version DISABLE TRIGGER poser_versions_of;
DELETE FROM pruned_version WHERE id = 2 AND transaction_id <= :t2;
ALTER TABLE pruned_version ENABLE ALWAYS TRIGGER poser_versions_of;
RESET session_replication_role;
SELECT failure(format('SELECT poser_revert(''pruned'', ''{"id": 2}'', %s)', :t1)) ~ '^55000: history as of transaction \d+ has been pruned$' AS refused;
SELECT poser_revert('pruned', '{"id": 1}', :t1);
SELECT failure(format('SELECT poser_revert(''pruned'', ''{"v": 1}'', %s)', :t1)) ~ '^55000: history as of transaction \d+ has been pruned$' AS refused;
TABLE pruned ORDER BY id;
SELECT poser_revert('pruned', '{"id": 2}', :t2);
TABLE pruned ORDER BY id;
SELECT issued_at AS at1 FROM poser_transaction WHERE id = :t1 \gset
SELECT failure(format('SELECT poser_as_of(NULL::pruned, %L)', :'at1')) ~ '^55000: history as of .* has been pruned$' AS refused;
SELECT failure(format('SELECT poser_as_of(NULL::pruned, %L, ''{"id": 2}'')', :'at1')) ~ '^55000: history as of .* has been pruned$' AS refused;
SELECT * FROM poser_as_of(NULL::pruned, :'at1', '{"id": 1}');

-- Errors
SELECT failure($$SELECT poser_revert('item', '{}', 1)$$);
SELECT failure($$SELECT poser_revert('item', NULL, 1)$$);
SELECT failure($$SELECT poser_revert(NULL, '{"a": 1}', 1)$$);
SELECT failure($$SELECT poser_revert('item', '{"a": 1}', NULL)$$);
SELECT failure($$SELECT poser_revert('item', '{"a": 1}', 0)$$);
SELECT failure($$SELECT poser_revert('item', '{"a": 1}', 1000000000)$$);
SELECT failure(format('SELECT poser_revert(''item'', ''{"a": 77}'', %s)', :t1));
SELECT failure(format('SELECT poser_revert(''item'', ''{"doc": {}}'', %s)', :t1));
SELECT failure(format('SELECT poser_revert(''item'', ''{"secret": "s"}'', %s)', :t1));
BEGIN READ ONLY;
SELECT poser_revert('item', '{"a": 1}', :t1);
ROLLBACK;

-- Rights: a history is read by its owner, and by roles that may read the table of versions.
CREATE ROLE regress_poser_owner;
CREATE ROLE regress_poser_reader;
CREATE SCHEMA regress_poser_own AUTHORIZATION regress_poser_owner;
GRANT USAGE ON SCHEMA regress_poser_own TO regress_poser_reader;
SET ROLE regress_poser_owner;
CREATE DOMAIN regress_poser_own.checked AS int;
CREATE TABLE regress_poser_own.t (id int PRIMARY KEY, v regress_poser_own.checked, hidden boolean);
SELECT poser_track('regress_poser_own.t');
INSERT INTO regress_poser_own.t VALUES (1, 1, false), (2, 2, true);
UPDATE regress_poser_own.t SET v = 3;
SELECT count(*) FROM poser_history('regress_poser_own.t');
SELECT poser_revert('regress_poser_own.t', '{"id": 1}', last_transaction('regress_poser_own.t'));
SET ROLE regress_poser_reader;
SELECT failure($$SELECT * FROM poser_history('regress_poser_own.t')$$);
SELECT failure($$SELECT * FROM poser_history('regress_poser_own.t', '{"id": 1}')$$);
SELECT failure($$SELECT poser_as_of(NULL::regress_poser_own.t, 'infinity')$$);
SELECT failure($$SELECT poser_as_of(NULL::regress_poser_own.t, 'infinity', '{"id": 1}')$$);
SELECT failure($$SELECT poser_revert('regress_poser_own.t', '{"id": 1}', 1)$$);
-- columns alone are enough if they are all columns
SET ROLE regress_poser_owner;
GRANT SELECT (id, v, hidden, operation_type, transaction_id) ON regress_poser_own.t_version TO regress_poser_reader;
SET ROLE regress_poser_reader;
SELECT failure($$SELECT * FROM poser_history('regress_poser_own.t')$$);
SET ROLE regress_poser_owner;
GRANT SELECT (change_id) ON regress_poser_own.t_version TO regress_poser_reader;
SET ROLE regress_poser_reader;
SELECT count(*) FROM poser_history('regress_poser_own.t');
SELECT failure($$SELECT poser_revert('regress_poser_own.t', '{"id": 1}', 1)$$);

-- Code of the table's owner runs with the owner's rights, also when a superuser reads.
SET ROLE regress_poser_owner;
CREATE FUNCTION regress_poser_own.spy(int) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	RAISE NOTICE 'checked as %, search_path %', current_user, current_setting('search_path');
	RETURN true;
END $$;
ALTER DOMAIN regress_poser_own.checked ADD CHECK (regress_poser_own.spy(VALUE)) NOT VALID;
CREATE FUNCTION regress_poser_own.spy_index() RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
	IF current_user <> 'regress_poser_owner' THEN
		RAISE EXCEPTION 'indexed as %', current_user;
	END IF;
	RETURN 1;
END $$;
CREATE INDEX ON regress_poser_own.t_version ((id + regress_poser_own.spy_index()));
RESET ROLE;
SELECT * FROM poser_as_of(NULL::regress_poser_own.t, 'infinity', '{"id": 1}');
SELECT * FROM poser_as_of(NULL::regress_poser_own.t, 'infinity', '{"hidden": true}');
SELECT operation, new FROM poser_history('regress_poser_own.t', '{"id": 1}', 1);
SELECT operation, new FROM poser_history('regress_poser_own.t', '{"hidden": true}', 1);

-- Row-level security: the policies of the versions decide, and without any, last versions of visible rows are seen.
SET ROLE regress_poser_owner;
DROP INDEX regress_poser_own.t_version_expr_idx;
ALTER DOMAIN regress_poser_own.checked DROP CONSTRAINT checked_check;
GRANT SELECT ON regress_poser_own.t, regress_poser_own.t_version TO regress_poser_reader;
ALTER TABLE regress_poser_own.t ENABLE ROW LEVEL SECURITY;
CREATE POLICY visible ON regress_poser_own.t USING (NOT hidden);
SET ROLE regress_poser_reader;
SELECT operation, changed, old, new FROM poser_history('regress_poser_own.t');
SELECT operation, changed, old, new FROM poser_history('regress_poser_own.t', '{"id": 1}');
SELECT operation, changed, old, new FROM poser_history('regress_poser_own.t', '{"id": 2}');
SELECT * FROM poser_as_of(NULL::regress_poser_own.t, 'infinity');
SELECT * FROM poser_as_of(NULL::regress_poser_own.t, 'infinity', '{"id": 2}');
SELECT failure($$SELECT poser_revert('regress_poser_own.t', '{"id": 1}', 1)$$);
SET ROLE regress_poser_owner;
SELECT count(*) FROM poser_history('regress_poser_own.t');
ALTER TABLE regress_poser_own.t_version ENABLE ROW LEVEL SECURITY;
SET ROLE regress_poser_reader;
SELECT count(*) FROM poser_history('regress_poser_own.t');
SET ROLE regress_poser_owner;
CREATE POLICY visible ON regress_poser_own.t_version USING (NOT hidden);
SET ROLE regress_poser_reader;
SELECT operation, changed, old, new FROM poser_history('regress_poser_own.t', '{"id": 1}');
SELECT operation, changed, old, new FROM poser_history('regress_poser_own.t', '{"id": 2}');
SELECT * FROM poser_as_of(NULL::regress_poser_own.t, 'infinity', '{"id": 1}');
SELECT * FROM poser_as_of(NULL::regress_poser_own.t, 'infinity', '{"id": 2}');
RESET ROLE;

SET client_min_messages = warning;
DROP EXTENSION poser CASCADE;
DROP SCHEMA regress_poser_own CASCADE;
DROP ROLE regress_poser_owner, regress_poser_reader;
DROP TABLE item, item_version, node, node_version, measure, measure_version, pruned, pruned_version;
DROP FUNCTION failure, last_transaction;
