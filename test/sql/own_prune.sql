-- Pruning of own tables: what goes and what stays, rows that are gone, the horizon, and who
-- may do it.

\set VERBOSITY terse
CREATE EXTENSION poser;
-- the horizon of a table of versions, as the comment on its binding says
CREATE FUNCTION horizon(versions regclass) RETURNS text LANGUAGE sql AS
	$$SELECT obj_description(oid, 'pg_trigger') FROM pg_trigger WHERE tgrelid = versions AND tgname = 'poser_versions_of'$$;
-- gives each transaction the age, in years, that its comment says
CREATE PROCEDURE age() LANGUAGE sql AS
	$$UPDATE poser_transaction SET issued_at = now() - comment::int * interval '1 year' WHERE comment ~ '^\d+$'$$;

-- A key of two columns, of which numbers are the same if they are equal.
CREATE TABLE invoice_line (invoice numeric, line int, item text, PRIMARY KEY (invoice, line));
SELECT poser_track('invoice_line');
CREATE VIEW kept AS
SELECT t.comment AS age, v.invoice, v.line, (ARRAY['insert', 'update', 'delete'])[v.operation_type + 1] AS operation, v.item
  FROM invoice_line_version AS v JOIN poser_transaction AS t ON t.id = v.transaction_id ORDER BY v.change_id;
SET poser.comment = '9';
INSERT INTO invoice_line VALUES (1, 1, 'a'), (1, 2, 'b'), (2, 1, 'c');
SET poser.comment = '8';
UPDATE invoice_line SET item = 'a2', invoice = 1.0 WHERE invoice = 1 AND line = 1;
DELETE FROM invoice_line WHERE invoice = 2;
SET poser.comment = '5';
UPDATE invoice_line SET item = 'a3' WHERE invoice = 1 AND line = 1;
SET poser.comment = '2';
UPDATE invoice_line SET item = 'b2' WHERE line = 2;
CALL age();
TABLE kept;
SELECT poser_prune_versions('20 years');
SELECT horizon('invoice_line_version') IS NULL AS never_pruned;
SELECT poser_prune_versions('7 years');
TABLE kept;
SELECT poser_prune_versions('7 years');
-- The horizon is the last change that has replaced what was removed, and its transaction.
SELECT horizon('invoice_line_version') = format('pruned up to transaction %s, change %s', transaction_id, change_id)
  FROM invoice_line_version WHERE operation_type = 2;
SELECT * FROM poser_as_of(NULL::invoice_line, now() - interval '6 years') ORDER BY invoice, line;
\set VERBOSITY sqlstate
SELECT * FROM poser_as_of(NULL::invoice_line, now() - interval '8 years 6 months');
\set VERBOSITY terse
-- Without an old version that was replaced, nothing is removed, and the horizon stays.
SELECT poser_prune_versions('1 year', target => 'invoice_line');
TABLE kept;
SELECT * FROM poser_check();

-- Only Poser itself removes versions.
DELETE FROM invoice_line_version;
TRUNCATE invoice_line_version;

-- A few at a time.  Each call goes on where the last one has stopped.
SET poser.comment = '1';
CREATE TABLE doc (id uuid PRIMARY KEY, body text);
SELECT poser_track('doc');
INSERT INTO doc SELECT md5(i::text)::uuid, '0' FROM generate_series(1, 50) AS i;
DO $$ BEGIN FOR n IN 1 .. 4 LOOP UPDATE doc SET body = n; END LOOP; END $$;
DELETE FROM doc WHERE id IN (md5('1')::uuid, md5('2')::uuid);
SET poser.comment = '0';
CALL age();
CREATE TABLE log (n bigint);
DO $$ DECLARE n bigint; BEGIN LOOP n := poser_prune_versions('6 months', 37, 'doc'); INSERT INTO log VALUES (n); EXIT WHEN n = 0; END LOOP; END $$;
SELECT n, count(*) FROM log GROUP BY n ORDER BY n DESC;
SELECT count(*), count(DISTINCT id), min(body), count(*) FILTER (WHERE operation_type = 2) AS deletes FROM doc_version;
SELECT poser_prune_versions('6 months', target => 'doc');

-- A table of versions that is larger than those which are read without a query: calls
-- with max_versions do not look again at what earlier calls have looked at.
CREATE TABLE big (id int PRIMARY KEY, t text);
SELECT poser_track('big');
INSERT INTO big SELECT i, repeat('x', 1000) FROM generate_series(1, 1000) AS i;
UPDATE big SET t = repeat('y', 1000);
UPDATE big SET t = repeat('z', 1000);
DELETE FROM big WHERE id <= 10;
SELECT pg_relation_size('big_version') / 8192 > 128 AS is_large;
TRUNCATE log;
DO $$ DECLARE n bigint; BEGIN LOOP n := poser_prune_versions('0', 600, 'big'); INSERT INTO log VALUES (n); EXIT WHEN n = 0; END LOOP; END $$;
SELECT n, count(*) FROM log GROUP BY n ORDER BY n DESC;
SELECT relation = 'big_version'::regclass::oid::text AS is_right, change_id IS NULL AS complete FROM poser_prune_position WHERE relation ~ '^\d+$' AND relation = 'big_version'::regclass::oid::text;
SELECT count(*), count(DISTINCT id), min(left(t, 1)) FROM big_version;
-- what has become old since
UPDATE big SET t = 'w' WHERE id > 900;
SELECT poser_prune_versions('0', 1000, 'big'), poser_prune_versions('0', 1000, 'big');
SELECT poser_prune_versions('0', target => 'big');
-- deleted rows, too; a row's delete goes after the version before it
DELETE FROM big WHERE id <= 15;
SELECT poser_prune_versions('0', 7, 'big', gone => true), poser_prune_versions('0', 7, 'big', gone => true),
       poser_prune_versions('0', 7, 'big', gone => true), poser_prune_versions('0', 7, 'big', gone => true);
SELECT count(*) FROM big_version WHERE id <= 15;
SELECT count(*), count(DISTINCT id) FROM big_version;

-- Rows that are gone.  A row that was made again since is not.
SELECT count(*) FROM doc_version WHERE operation_type = 2;
INSERT INTO doc VALUES (md5('2')::uuid, 'again');
SELECT poser_prune_versions('6 months', target => 'doc', gone => true);
SELECT id = md5('2')::uuid AS made_again, (ARRAY['insert', 'update', 'delete'])[operation_type + 1] AS operation
  FROM doc_version WHERE id IN (md5('1')::uuid, md5('2')::uuid) ORDER BY change_id;
-- younger than older_than
DELETE FROM doc WHERE id = md5('3')::uuid;
SELECT poser_prune_versions('1 hour', target => 'doc', gone => true);
SELECT * FROM poser_check();

-- Erasure on request: a match of the key, and gone.
CREATE TABLE person (id int PRIMARY KEY, name text, city text);
SELECT poser_track('person');
INSERT INTO person VALUES (1, 'Ann', 'Oslo'), (2, 'Bob', 'Rome'), (3, 'Cid', 'Oslo');
UPDATE person SET name = name || '!';
SELECT max(transaction_id) AS before FROM person_version \gset
-- a row that is there keeps its last version
SELECT poser_prune_versions('0', target => 'person', match => '{"id": 2}', gone => true);
DELETE FROM person WHERE id = 1;
SELECT poser_prune_versions('0', target => 'person', match => '{"id": 1}', gone => true);
SELECT id, name, operation_type FROM person_version ORDER BY change_id;
SELECT count(*) FROM person_version AS v WHERE v::text LIKE '%Ann%';
-- What it was before is not known.
\set VERBOSITY sqlstate
SELECT poser_revert('person', '{"id": 1}', :before);
SELECT a.* FROM poser_transaction AS t, poser_as_of(NULL::person, t.issued_at, '{"id": 1}') AS a WHERE t.id = :before;
\set VERBOSITY terse
-- Then the row comes again.  What it was before cannot be read, and the row stays.
INSERT INTO person VALUES (1, 'Eve', 'Bonn');
\set VERBOSITY sqlstate
SELECT poser_revert('person', '{"id": 1}', :before);
SELECT * FROM poser_as_of(NULL::person, '2020-01-01');
\set VERBOSITY terse
SELECT * FROM person ORDER BY id;
-- any recorded column matches: all versions of rows that have had the value
SELECT poser_prune_versions('0', target => 'person', match => '{"city": "Oslo"}');
SELECT id, name, operation_type FROM person_version ORDER BY change_id;
SELECT poser_prune_versions('0', target => 'person', match => '{"name": null}');
SELECT poser_prune_versions('0', 1, 'person', '{}');
-- what cannot be a match
\set VERBOSITY sqlstate
SELECT poser_prune_versions('0', target => 'person', match => '{"nick": 1}');
SELECT poser_prune_versions('0', target => 'person', match => '[1]');
SELECT poser_prune_versions('0', target => 'person', match => '{"id": "x"}');
SELECT poser_prune_versions('0', match => '{"id": 1}');
SELECT poser_prune_versions('0', target => 'log');
SELECT poser_prune_versions('0', 0, 'person');
SELECT poser_prune_versions('-1 day', target => 'person');
\set VERBOSITY terse

-- A consumer that has not confirmed: pruning leaves what it needs, and erasure says so.
SELECT poser_datasync_add('crm', tables => '{person}');
UPDATE person SET city = 'Lima' WHERE id = 3;
DELETE FROM person WHERE id = 3;
SELECT poser_prune_versions('0', target => 'person', gone => true);
SELECT poser_prune_versions('0', target => 'person', match => '{"id": 3}', gone => true);
SELECT count(*) FROM person_version WHERE id = 3;
-- other tables are not kept back
UPDATE invoice_line SET item = 'b3' WHERE line = 2;
SELECT poser_prune_versions('0', target => 'invoice_line') > 0 AS pruned;
SELECT poser_datasync_confirm('crm', max(change_id)) FROM poser_datasync_changes('crm', 100);
SELECT poser_prune_versions('0', target => 'person', match => '{"id": 3}', gone => true);
SELECT count(*) FROM person_version WHERE id = 3;
SELECT poser_datasync_drop('crm');

-- The extension's own tables have the same.
INSERT INTO poser_widget (uuid, description) VALUES ('w1', '1'), ('w2', '1');
UPDATE poser_widget SET description = '2';
DELETE FROM poser_widget WHERE uuid = 'w1';
SELECT poser_prune_versions('0', target => 'poser_widget', match => '{"uuid": "w1"}', gone => true);
SELECT uuid, operation_type FROM poser_widget_version ORDER BY change_id;
SELECT poser_widget_revert('w1', id) FROM (SELECT min(id) AS id FROM poser_transaction) AS t;

-- A table whose columns have the names of Poser's, and transactions that only it has.
CREATE TABLE odd (id int PRIMARY KEY, transaction_id bigint, change_id bigint, "operation_type" int, "a%n ""b" text);
SELECT poser_track('odd');
INSERT INTO odd VALUES (1, 7, 7, 7, 'x');
UPDATE odd SET "a%n ""b" = 'y';
SELECT poser_prune_versions('0');
SELECT poser_prune_versions('0');
SELECT count(*) FROM odd_version JOIN poser_transaction AS t ON t.id = odd_version.poser_transaction_id;
SELECT poser_prune_versions('0', target => 'odd', match => '{"a%n \"b": "y"}');

-- Renamed, and in another schema: the comment goes with it.
SELECT horizon('odd_version') IS NOT NULL AS has_horizon;
CREATE SCHEMA "S.1";
ALTER TABLE odd RENAME TO "Odd";
ALTER TABLE "Odd" SET SCHEMA "S.1";
SELECT poser_track('"S.1"."Odd"');
UPDATE "S.1"."Odd" SET "a%n ""b" = 'z';
SELECT poser_prune_versions('0', target => '"S.1"."Odd"');
SELECT horizon('odd_version') IS NOT NULL AS has_horizon;

-- A table without a key has nothing to prune, and a call that is to erase certain rows is an error.  A partitioned table of versions can be pruned.
ALTER TABLE doc DROP CONSTRAINT doc_pkey;
SELECT poser_prune_versions('0', target => 'doc');
SELECT poser_prune_versions('0', target => 'doc', match => '{"body": "4"}', gone => true);
CREATE TABLE parted_version (id int, name text, operation_type smallint, transaction_id bigint, change_id bigint) PARTITION BY RANGE (change_id);
CREATE TABLE parted_version_1 PARTITION OF parted_version FOR VALUES FROM (0) TO (100000000);
CREATE TABLE parted (id int PRIMARY KEY, name text);
SELECT poser_track('parted', versions => 'parted_version');
INSERT INTO parted VALUES (1, 'a'), (2, 'a');
UPDATE parted SET name = 'b';
UPDATE parted SET name = 'c';
DELETE FROM parted WHERE id = 2;
SELECT poser_prune_versions('0', 2, 'parted'), poser_prune_versions('0', target => 'parted'), poser_prune_versions('0', target => 'parted', gone => true);
SELECT id, name FROM parted_version_1;

-- Who may: the owner of the versions, also if it owns nothing else.
CREATE ROLE regress_owner;
CREATE ROLE regress_other;
GRANT CREATE ON SCHEMA public TO regress_owner;
SET ROLE regress_owner;
CREATE TABLE mine (id int PRIMARY KEY, a int);
SELECT poser_track('mine');
INSERT INTO mine VALUES (1, 1);
UPDATE mine SET a = 2;
UPDATE mine SET a = 3;
SET ROLE regress_other;
SELECT poser_prune_versions('0', target => 'mine');
SELECT poser_prune_versions('0');
SET ROLE regress_owner;
SELECT poser_prune_versions('0', target => 'person');
SELECT poser_prune_versions('0', target => 'poser_widget');
SELECT poser_prune_versions('0');
SELECT * FROM mine_version;
RESET ROLE;

-- The transactions without versions that such a call leaves go with the next call by the
-- extension's owner, though nothing else has become old.
SET poser.comment = 'mine 7';
UPDATE mine SET a = 70;
SET poser.comment = 'mine 6';
UPDATE mine SET a = 60;
SET poser.comment = 'mine 5';
UPDATE mine SET a = 50;
UPDATE poser_transaction SET issued_at = now() - interval '5 years';
SELECT poser_prune_versions('4 years', 1000, 'poser_widget');
SELECT full_until FROM poser_prune_position WHERE relation = 'poser_transaction' \gset
SELECT poser_prune_versions('4 years', 1000, 'poser_widget');
SELECT full_until = :full_until AS has_not_read FROM poser_prune_position WHERE relation = 'poser_transaction';
SET ROLE regress_owner;
SELECT poser_prune_versions('4 years', target => 'mine');
RESET ROLE;
SELECT array_agg(comment ORDER BY id) FROM poser_transaction WHERE comment LIKE 'mine %';
SELECT poser_prune_versions('4 years', 1000, 'poser_widget');
SELECT array_agg(comment ORDER BY id) FROM poser_transaction WHERE comment LIKE 'mine %';
SET poser.comment = '0';

-- Code of its owner runs with its rights only, and its errors do not stop the others.
SET ROLE regress_owner;
CREATE FUNCTION spy(a int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
	$$ BEGIN RAISE NOTICE 'index as %', current_user; RETURN a; END $$;
CREATE INDEX ON mine_version (spy(a)) WHERE spy(1) > 0;
CREATE FUNCTION spy_trigger() RETURNS trigger LANGUAGE plpgsql AS
	$$ BEGIN RAISE NOTICE 'trigger as %', current_user; RETURN old; END $$;
CREATE TRIGGER spy BEFORE DELETE ON mine_version FOR EACH ROW EXECUTE FUNCTION spy_trigger();
RESET ROLE;
UPDATE mine SET a = 4;
SELECT poser_prune_versions('0');
CREATE OR REPLACE FUNCTION spy_trigger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not with me'; END $$;
UPDATE mine SET a = 5;
UPDATE person SET city = 'Bern' WHERE id = 2;
SELECT poser_prune_versions('0');
SELECT poser_prune_versions('0', target => 'mine');
SELECT count(*) FROM mine_version;
DROP TABLE mine, mine_version;
DROP FUNCTION spy, spy_trigger;
REVOKE CREATE ON SCHEMA public FROM regress_owner;
DROP ROLE regress_owner, regress_other;
-- Columns of the table have all the names that Poser's columns of the versions could have.  The transactions of these versions stay.
CREATE TABLE taken (id int PRIMARY KEY, transaction_id bigint, poser_transaction_id bigint, change_id int, poser_change_id int,
	operation_type int, poser_operation_type int);
SELECT poser_track('taken');
INSERT INTO taken (id) VALUES (1);
INSERT INTO taken (id) VALUES (2);
SELECT poser_prune_versions('0') >= 0 AS pruned;
SELECT operation, (new ->> 'id')::int AS id, issued_at IS NOT NULL AS has_time FROM poser_history('taken');
-- such a table of versions is taken up again
SELECT poser_untrack('taken');
UPDATE taken SET poser_change_id = 7 WHERE id = 2;
SELECT poser_track('taken');
SELECT operation, old ->> 'poser_change_id' AS old, new ->> 'poser_change_id' AS new FROM poser_history('taken', '{"id": 2}');
SELECT * FROM poser_check('taken');
DROP TABLE taken, taken_version;

-- A column of the versions that is Poser's was renamed.  The table cannot be pruned, and the transactions of its versions stay.
CREATE TABLE renamed (id int PRIMARY KEY, a int);
SELECT poser_track('renamed');
SET poser.comment = 'in versions with a renamed column';
INSERT INTO renamed VALUES (1, 1);
UPDATE renamed SET a = 2;
RESET poser.comment;
ALTER TABLE renamed_version RENAME transaction_id TO tx;
SELECT poser_prune_versions('0') >= 0 AS pruned;
ALTER TABLE renamed_version RENAME tx TO transaction_id;
ALTER TABLE renamed_version RENAME operation_type TO op;
SELECT poser_prune_versions('0') >= 0 AS pruned;
ALTER TABLE renamed_version RENAME op TO operation_type;
SELECT operation, comment FROM poser_history('renamed', '{"id": 1}');
-- the same with partitions of the versions
SET poser.comment = 'in partitions with a renamed column';
UPDATE parted SET name = 'renamed' WHERE id = 1;
RESET poser.comment;
UPDATE parted SET name = 'later' WHERE id = 1;
ALTER TABLE parted_version RENAME transaction_id TO tx;
SELECT poser_prune_versions('0') >= 0 AS pruned;
ALTER TABLE parted_version RENAME tx TO transaction_id;
SELECT comment FROM poser_history('parted', '{"id": 1}', 2);
DROP TABLE renamed, renamed_version;

-- doc has lost its key
SELECT * FROM poser_check();

DROP TABLE invoice_line, invoice_line_version, doc, doc_version, big, big_version, person, person_version, "S.1"."Odd", odd_version,
	parted, parted_version, log CASCADE;
DROP SCHEMA "S.1";
DROP PROCEDURE age;
DROP FUNCTION horizon;
DROP EXTENSION poser;
