-- What cannot be tracked, and by whom.  An error changes nothing.
SET client_min_messages = warning;
CREATE EXTENSION poser;
RESET client_min_messages;

-- a message with its SQLSTATE, detail and hint
CREATE FUNCTION try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	detail text;
	hint text;
BEGIN
	EXECUTE statement;
	RETURN 'done';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN regexp_replace(concat_ws(' | ', SQLSTATE, SQLERRM, nullif(detail, ''), nullif(hint, '')), 'OID \d+', 'OID ...');
END $$;
CREATE FUNCTION track(target regclass, exclude text[] = NULL, versions text = NULL, existing boolean = true) RETURNS text
LANGUAGE sql AS $$ SELECT try(format('SELECT poser_track(%L, %L, %L, %L)', target, exclude, versions, existing)) $$;
\pset tuples_only

-- what is no table of its own
CREATE TABLE plain (id int PRIMARY KEY, a int, b text);
CREATE VIEW a_view AS SELECT 1 AS id;
CREATE MATERIALIZED VIEW a_matview AS SELECT 1 AS id;
CREATE SEQUENCE a_sequence;
CREATE TYPE a_type AS (id int);
CREATE TEMP TABLE a_temp (id int PRIMARY KEY);
CREATE UNLOGGED TABLE an_unlogged (id int PRIMARY KEY);
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent);
CREATE FOREIGN DATA WRAPPER dummy;
CREATE SERVER dummy FOREIGN DATA WRAPPER dummy;
CREATE FOREIGN TABLE a_foreign (id int) SERVER dummy;
CREATE TABLE root (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE leaf PARTITION OF root FOR VALUES FROM (0) TO (10);
SELECT track('a_view');
SELECT track('a_matview');
SELECT track('a_sequence');
SELECT track('a_type');
SELECT track('plain_pkey');
SELECT track('a_temp');
SELECT track('an_unlogged');
SELECT track('parent');
SELECT track('child');
SELECT track('a_foreign');
SELECT track('leaf');
SELECT track('pg_class');
SELECT track('information_schema.sql_features');
SELECT track('poser_widget');
SELECT track('poser_widget_version');
SELECT track('poser_transaction');
SELECT track('poser_change_id_seq');
SELECT track(NULL);
SELECT track('plain', existing => NULL);
SELECT track(12345678);

-- partitions that cannot be recorded
CREATE TABLE root2 (id int) PARTITION BY RANGE (id);
CREATE FOREIGN TABLE foreign_leaf PARTITION OF root2 FOR VALUES FROM (10) TO (20) SERVER dummy;
SELECT track('root2');
DROP FOREIGN TABLE foreign_leaf;
CREATE UNLOGGED TABLE unlogged_leaf PARTITION OF root2 FOR VALUES FROM (10) TO (20);
SELECT track('root2');

-- the key
CREATE TABLE no_key (id int UNIQUE);
SELECT track('no_key');
ALTER TABLE no_key REPLICA IDENTITY FULL;
SELECT track('no_key');
DROP TABLE unlogged_leaf;
SELECT track('root2');
CREATE TABLE many_keys (x int);
SELECT try(format('ALTER TABLE many_keys %s, ADD PRIMARY KEY (%s)', string_agg('ADD c' || i || ' int', ', '), string_agg('c' || i, ', '))) FROM generate_series(1, 32) AS i;
SELECT track('many_keys');

-- exclusions
SELECT track('plain', '{nothing}');
SELECT track('plain', '{a,NULL}');
SELECT track('plain', '{id}');
SELECT track('plain', '{ctid}');

-- the table of versions
SELECT track('plain', versions => 'no_such_schema.versions');
SELECT track('plain', versions => 'other_database.public.versions');
SELECT track('plain', versions => '');
SELECT track('plain', versions => 'a.b.c.d');
SELECT track('plain', versions => 'a_view');
SELECT track('plain', versions => 'plain');
SELECT track('plain', versions => 'pg_temp.a_temp');
SELECT track('plain', versions => 'poser_widget_version');
SELECT track('plain', versions => 'leaf');
SELECT track('plain', versions => 'an_unlogged');
CREATE TABLE plain_version (id int);
SELECT track('plain');
SELECT track('plain', versions => 'plain_version');
ALTER TABLE plain_version ADD operation_type int;
SELECT track('plain');
ALTER TABLE plain_version ALTER operation_type TYPE smallint, ADD transaction_id bigint, ADD change_id int;
SELECT track('plain');
ALTER TABLE plain_version ALTER change_id TYPE bigint, ADD sum int GENERATED ALWAYS AS (id * 2) STORED;
SELECT track('plain');
ALTER TABLE plain_version DROP sum, ADD b date;
SELECT track('plain');
DROP TABLE plain_version;
CREATE VIEW plain_version AS SELECT 1;
SELECT track('plain');
DROP VIEW plain_version;
-- nothing is left of all of that
SELECT target FROM poser_tables WHERE target::text !~ '^poser_';
SELECT tgrelid::regclass, tgname FROM pg_trigger WHERE tgfoid IN ('poser_version'::regproc, 'poser_versions_of'::regproc)
   AND tgrelid::regclass::text !~ '^poser_';

-- a table with 1,600 columns, and one with so many that no column can be added
SELECT try(format('CREATE TABLE wide (id int PRIMARY KEY, %s)', string_agg('c' || i || ' bool', ', '))) FROM generate_series(1, 1597) AS i;
SELECT track('wide');
ALTER TABLE wide DROP COLUMN c1;
SELECT track('wide');
ALTER TABLE wide ADD COLUMN c1 bool;
SELECT track('wide');
SELECT unrecorded, recording, problem FROM poser_tables WHERE target = 'wide'::regclass;
SELECT poser_untrack('wide');
DROP TABLE wide, wide_version;

-- other tables of versions
SELECT track('plain');
SELECT track('plain_version');
SELECT track('plain', versions => 'other');
SELECT track('plain', versions => 'public.plain_version');
SELECT track('root', versions => 'plain_version');
SELECT track('root');
SELECT track('root_version');
SELECT try('SELECT poser_untrack(''leaf'')');
SELECT try('SELECT poser_untrack(''plain_version'')');
SELECT try('SELECT poser_untrack(''poser_widget'')');
SELECT try('SELECT poser_untrack(''a_view'')');
SELECT try('SELECT poser_untrack(''parent'')');
SELECT try('SELECT poser_untrack(NULL)');
SELECT try('SELECT poser_untrack(12345678)');

SELECT track('leaf', versions => 'plain_version');

-- two tables of versions
CREATE TABLE second (id int, a int, b text, operation_type smallint, transaction_id bigint, change_id bigint);
CREATE CONSTRAINT TRIGGER poser_versions_of AFTER UPDATE OR DELETE ON second FROM plain
	FOR EACH ROW EXECUTE FUNCTION poser_versions_of();
SELECT track('plain');
SELECT versions, recording, problem FROM poser_tables WHERE target = 'plain'::regclass ORDER BY versions::text;
DROP TABLE second;

-- a trigger with one of the names, and another function
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
DROP TRIGGER poser_version_truncate ON plain;
CREATE TRIGGER poser_version_truncate AFTER TRUNCATE ON plain EXECUTE FUNCTION nothing();
SELECT track('plain');
DROP TRIGGER poser_version_truncate ON plain;
-- the same with arguments that no call has made
DROP TRIGGER poser_versions_of ON plain_version;
CREATE CONSTRAINT TRIGGER poser_versions_of AFTER UPDATE OR DELETE ON plain_version FROM plain
	FOR EACH ROW EXECUTE FUNCTION poser_versions_of('1', '2', 'three');
SELECT track('plain');
SELECT recording, problem FROM poser_tables WHERE target = 'plain'::regclass;
DROP TRIGGER poser_versions_of ON plain_version;
SELECT track('plain');
SELECT recording, problem FROM poser_tables WHERE target = 'plain'::regclass;

-- in a read-only transaction
BEGIN READ ONLY;
SELECT try('SELECT poser_track(''plain'')');
SELECT try('SELECT poser_untrack(''plain'')');
ROLLBACK;

-- not by a trigger of the table itself: the rows of its statement would not be recorded
CREATE TABLE busy (id int PRIMARY KEY);
CREATE FUNCTION track_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM poser_track(TG_RELID); RETURN NEW; END $$;
CREATE TRIGGER a BEFORE INSERT ON busy FOR EACH ROW EXECUTE FUNCTION track_it();
SELECT try('INSERT INTO busy VALUES (1), (2)');
DROP TRIGGER a ON busy;
SELECT track('busy');

-- rights
CREATE ROLE regress_owner;
CREATE ROLE regress_auditor;
CREATE ROLE regress_stranger;
GRANT CREATE ON SCHEMA public TO regress_owner, regress_stranger;
SET ROLE regress_stranger;
SELECT track('plain');
SELECT try('SELECT poser_untrack(''plain'')');
-- a table that a stranger has made is not taken
CREATE TABLE mine_version (id int, operation_type smallint, transaction_id bigint, change_id bigint);
GRANT ALL ON mine_version TO regress_owner;
SET ROLE regress_owner;
CREATE TABLE mine (id int PRIMARY KEY, a int);
SELECT track('mine');
-- unless it is named, and the privileges are there
SELECT track('mine', versions => 'mine_version');
SET ROLE regress_stranger;
ALTER TABLE mine_version ADD COLUMN a int;
REVOKE INSERT ON mine_version FROM regress_owner;
SET ROLE regress_owner;
SELECT track('mine', versions => 'mine_version');
SET ROLE regress_stranger;
GRANT INSERT ON mine_version TO regress_owner;
REVOKE TRIGGER ON mine_version FROM regress_owner;
SET ROLE regress_owner;
SELECT track('mine', versions => 'mine_version');
RESET ROLE;
DROP TABLE mine_version;
-- versions that are taken from the table's owner
SET ROLE regress_owner;
SELECT track('mine');
RESET ROLE;
ALTER TABLE mine_version OWNER TO regress_auditor;
GRANT INSERT ON mine_version TO regress_owner;
SET ROLE regress_owner;
INSERT INTO mine VALUES (1, 1);
SELECT track('mine');
ALTER TABLE mine ADD COLUMN b int;
SELECT track('mine');
RESET ROLE;
SELECT track('mine');
REVOKE INSERT ON mine_version FROM regress_owner;
SET ROLE regress_owner;
SELECT try('INSERT INTO mine VALUES (2, 2)');
SELECT track('mine');
RESET ROLE;
SELECT recording, problem FROM poser_tables WHERE target = 'mine'::regclass;
-- a cast of the table's owner never runs with the rights of the versions' owner
GRANT INSERT ON mine_version TO regress_owner;
SET ROLE regress_owner;
CREATE TYPE kind AS ENUM ('0', '1');
CREATE FUNCTION to_kind(i int) RETURNS kind LANGUAGE plpgsql AS $$ BEGIN RAISE WARNING 'running as %', current_user; RETURN i::text; END $$;
CREATE CAST (int AS kind) WITH FUNCTION to_kind(int) AS ASSIGNMENT;
ALTER TABLE mine ALTER b TYPE kind USING '1';
RESET ROLE;
SELECT track('mine');
ALTER TABLE mine_version OWNER TO regress_owner;
SELECT track('mine');
-- default privileges do not open a table of versions
ALTER DEFAULT PRIVILEGES FOR ROLE regress_owner GRANT ALL ON TABLES TO PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE regress_owner GRANT ALL ON TABLES TO regress_stranger WITH GRANT OPTION;
ALTER DEFAULT PRIVILEGES FOR ROLE regress_owner REVOKE SELECT ON TABLES FROM regress_owner;
SET ROLE regress_owner;
CREATE TABLE open (id int PRIMARY KEY);
SELECT track('open');
SELECT relowner::regrole, grantee::regrole, count(*) >= 7 AS "all" FROM pg_class, aclexplode(relacl) WHERE oid = 'open_version'::regclass GROUP BY 1, 2;
-- without CREATE on the schema
RESET ROLE;
REVOKE CREATE ON SCHEMA public FROM regress_owner;
ALTER TABLE open RENAME TO closed;
CREATE TABLE closed2 (id int PRIMARY KEY);
ALTER TABLE closed2 OWNER TO regress_owner;
SET ROLE regress_owner;
SELECT track('closed2');
RESET ROLE;
-- a superuser's call does not help the owner to what it may not do itself
SELECT track('closed2');

-- poser_follow() is for event triggers
SELECT try('SELECT poser_follow()');
\pset tuples_only off
SET client_min_messages = warning;

-- A history stays when the extension is dropped.  It is taken up again only as long as its
-- ids are not those of new transactions.
CREATE TABLE kept (id int PRIMARY KEY, x text);
CREATE TABLE other (id int PRIMARY KEY);
SELECT poser_track('kept');
INSERT INTO kept VALUES (1, 'one');
UPDATE kept SET x = 'two';
DROP EXTENSION poser CASCADE;
CREATE EXTENSION poser;
SELECT poser_track('kept');
SELECT operation, username IS NULL AS unknown, new FROM poser_history('kept');
SELECT object = 'transaction ' || transaction_id, problem FROM poser_check('kept'), (SELECT max(transaction_id) AS transaction_id FROM kept_version) AS last WHERE object = 'transaction ' || transaction_id;
UPDATE kept SET x = 'three';
SELECT bool_and(transaction_id > all_before) AS "new ids"
FROM poser_history('kept', '{"x": "three"}'), (SELECT max(change_id) AS all_before FROM kept_version WHERE x <> 'three') AS before
WHERE operation = 'update';
DROP EXTENSION poser CASCADE;
DROP TABLE kept_version;
CREATE EXTENSION poser;
SELECT poser_track('kept');
UPDATE kept SET x = 'four';
UPDATE kept SET x = 'five';
DROP EXTENSION poser CASCADE;
CREATE EXTENSION poser;
SELECT poser_track('other');
INSERT INTO other SELECT generate_series(1, 3);
SELECT poser_track('kept');
SELECT poser_track('kept', versions => 'kept_history');
SELECT operation, new FROM poser_history('kept');
DROP TABLE kept, kept_version, kept_history, other, other_version;
-- also if all its ids have been given here again: a change has the id of a transaction
CREATE TABLE kept (id int PRIMARY KEY, x text);
CREATE TABLE other (id int PRIMARY KEY);
DROP EXTENSION poser CASCADE;
CREATE EXTENSION poser;
SELECT poser_track('kept');
INSERT INTO kept VALUES (1, 'one'), (2, 'two');
DROP EXTENSION poser CASCADE;
CREATE EXTENSION poser;
SELECT poser_track('other');
INSERT INTO other VALUES (1);
INSERT INTO other VALUES (2);
SELECT (SELECT max(change_id) FROM other_version) > (SELECT max(change_id) FROM kept_version) AS "all ids given";
SELECT poser_track('kept');
-- of two histories, the one with the greatest id comes first
DROP TABLE other_version, kept_version;
DROP EXTENSION poser CASCADE;
CREATE EXTENSION poser;
SELECT poser_track('other'), poser_track('kept');
UPDATE kept SET x = 'three';
DROP EXTENSION poser CASCADE;
INSERT INTO kept VALUES (3, 'three');
INSERT INTO other VALUES (3);
CREATE EXTENSION poser;
SELECT poser_track('kept'), poser_track('other');
SELECT operation, username IS NULL AS unknown, new FROM poser_history('kept');
SELECT operation, username IS NULL AS unknown, new FROM poser_history('other');
-- a version without a place in the history, in a table of versions that may hold such
CREATE TABLE part_version (id int, operation_type smallint, transaction_id bigint, change_id bigint) PARTITION BY RANGE (id);
CREATE TABLE part_version_1 PARTITION OF part_version DEFAULT;
INSERT INTO part_version VALUES (1, 0, 5, NULL);
CREATE TABLE part (id int PRIMARY KEY);
SELECT poser_track('part');
UPDATE part_version SET change_id = 6, operation_type = NULL;
SELECT poser_track('part', existing => false);
DELETE FROM part_version;
SELECT poser_track('part');
DROP TABLE part, part_version;
DROP TABLE kept, kept_version, other, other_version;

DROP EXTENSION poser CASCADE;
DROP TABLE mine, mine_version, closed, open_version, closed2;
DROP TYPE kind CASCADE;
DROP OWNED BY regress_owner, regress_auditor, regress_stranger;
DROP ROLE regress_owner, regress_auditor, regress_stranger;
DROP TABLE plain, plain_version, an_unlogged, child, parent, root, root_version, root2, no_key, many_keys, busy, busy_version;
DROP VIEW a_view;
DROP MATERIALIZED VIEW a_matview;
DROP SEQUENCE a_sequence;
DROP TYPE a_type;
DROP FOREIGN DATA WRAPPER dummy CASCADE;
DROP FUNCTION track, try, nothing, track_it;
