-- Code of a table's owner, in indexes, checks, defaults, policies, statistics, types, casts and
-- triggers, runs with no other role's rights, and finds no code of another role.

\set VERBOSITY terse
CREATE ROLE regress_poser_code_owner;
CREATE ROLE regress_poser_code_writer;
CREATE EXTENSION poser;
CREATE SCHEMA owned AUTHORIZATION regress_poser_code_owner;
CREATE SCHEMA written AUTHORIZATION regress_poser_code_writer;
GRANT USAGE ON SCHEMA owned, written TO PUBLIC;

-- The owner's code says when another role runs it.  It makes
-- settings or raises an error if owned.does says so.
SET ROLE regress_poser_code_owner;
SET search_path = owned, public;
CREATE FUNCTION code(place text) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF current_user <> 'regress_poser_code_owner' THEN
		RAISE WARNING '% runs as %', place, current_user;
	ELSIF current_setting('owned.does', true) = 'set' THEN
		PERFORM set_config('search_path', 'owned, pg_catalog', false), set_config('work_mem', '1MB', false);
	ELSIF current_setting('owned.does', true) = 'cancel' THEN
		RAISE EXCEPTION 'canceling statement due to user request' USING ERRCODE = 'query_canceled';
	END IF;
	RETURN 1;
END $$;
CREATE FUNCTION code(place text, value anyelement) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT owned.code(place) = 1';
CREATE FUNCTION code() RETURNS trigger LANGUAGE plpgsql AS
	$$BEGIN PERFORM owned.code('trigger ' || tg_name); RETURN CASE WHEN tg_level = 'ROW' THEN COALESCE(new, old) END; END$$;
CREATE DOMAIN word AS text CHECK (owned.code('check of domain', VALUE));
CREATE DOMAIN words AS word[] CHECK (owned.code('check of domain over array', VALUE));
CREATE TYPE pair AS (a int, b word);
CREATE DOMAIN pairs AS pair CHECK (owned.code('check of domain over composite', VALUE));
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE FUNCTION diff(float8, float8) RETURNS float8 LANGUAGE sql IMMUTABLE AS $$SELECT $1 - $2 + 0 * owned.code('subtype_diff')$$;
CREATE TYPE span AS RANGE (SUBTYPE = float8, SUBTYPE_DIFF = diff);
CREATE FUNCTION to_json(mood) RETURNS json LANGUAGE sql IMMUTABLE AS $$SELECT pg_catalog.to_json(owned.code('cast to json'))$$;
CREATE FUNCTION to_json(pair) RETURNS json LANGUAGE sql IMMUTABLE AS $$SELECT pg_catalog.json_build_object('a', owned.code('cast to json'), 'b', 'x')$$;
CREATE CAST (mood AS json) WITH FUNCTION to_json(mood) AS IMPLICIT;
CREATE CAST (pair AS json) WITH FUNCTION to_json(pair);
CREATE FUNCTION mood(int) RETURNS mood LANGUAGE sql IMMUTABLE AS $$SELECT CASE owned.code('cast') WHEN 1 THEN 'good'::owned.mood END$$;
CREATE CAST (int AS mood) WITH FUNCTION mood(int) AS ASSIGNMENT;
CREATE FUNCTION equal(int, int) RETURNS bool LANGUAGE sql IMMUTABLE AS $$SELECT owned.code('operator') OPERATOR(pg_catalog.=) 1$$;
CREATE OPERATOR = (LEFTARG = int, RIGHTARG = int, FUNCTION = equal);
-- tables with the names of Poser's
CREATE TABLE poser_transaction (id bigint, issued_at timestamptz);
CREATE TABLE poser_version_horizon (id int);
CREATE VIEW poser_arrival AS SELECT owned.code('view');

CREATE TABLE note (id int PRIMARY KEY, w word, ws words, p pair, ps pairs, m mood, s span, ps2 pair[],
	number int DEFAULT owned.code('default'), doubled int GENERATED ALWAYS AS (owned.code('generated column')) STORED,
	CHECK (owned.code('check of table', w)));
INSERT INTO note VALUES (1, 'w', '{x}', '(1,a)', '(2,b)', 'good', '[1,2]', '{"(1,a)"}'), (2, 'v', '{y}', '(1,a)', '(2,b)', 'bad', '[3,4]', NULL);
CREATE INDEX ON note ((id + owned.code('index')));
CREATE INDEX ON note (w) WHERE owned.code('predicate', w) AND owned.code('constant predicate') = 1;
CREATE STATISTICS note_statistics ON (id + owned.code('statistics')), (id * 2) FROM note;
SELECT public.poser_track('note');
CREATE INDEX ON note_version ((id + owned.code('index of versions')));
CREATE INDEX ON note_version (w) WHERE owned.code('predicate of versions', w) AND owned.code('constant predicate of versions') = 1;
CREATE INDEX ON note_version USING gist (s);
CREATE STATISTICS note_version_statistics ON (id + owned.code('statistics of versions')), (id * 2) FROM note_version;
ALTER TABLE note_version ADD COLUMN more int DEFAULT owned.code('default of versions'), ADD CHECK (owned.code('check of versions', w));
CREATE TRIGGER row_of_versions BEFORE INSERT OR UPDATE OR DELETE ON note_version FOR EACH ROW EXECUTE FUNCTION code();
CREATE TRIGGER versions AFTER INSERT OR UPDATE OR DELETE ON note_version FOR EACH STATEMENT EXECUTE FUNCTION code();

-- a table whose policies have code, and a partitioned one with its versions in partitions
CREATE TABLE hidden (id int PRIMARY KEY, w word, m mood);
ALTER TABLE hidden ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY all_rows ON hidden USING (owned.code('policy', w));
INSERT INTO hidden VALUES (1, 'w', 'good');
SELECT public.poser_track('hidden');
ALTER TABLE hidden_version FORCE ROW LEVEL SECURITY;
CREATE POLICY all_rows ON hidden_version USING (owned.code('policy of versions', w));
CREATE TABLE part (id int PRIMARY KEY, w word) PARTITION BY RANGE (id);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (100);
CREATE INDEX ON part_1 ((id + owned.code('index of a partition')));
CREATE TABLE part_versions (id int, w text, operation_type smallint, transaction_id bigint, change_id bigint)
	PARTITION BY RANGE ((change_id + owned.code('partition key')));
CREATE TABLE part_versions_1 PARTITION OF part_versions DEFAULT;
CREATE INDEX ON part_versions ((id + owned.code('index of versions in partitions')));
CREATE TRIGGER row_of_versions BEFORE INSERT OR DELETE ON part_versions FOR EACH ROW EXECUTE FUNCTION code();
SELECT public.poser_track('part', versions => 'owned.part_versions');
INSERT INTO part VALUES (1, 'w');

-- what bypasses the triggers is recorded later
ALTER TABLE note DISABLE TRIGGER USER;
UPDATE note SET w = 'v2' WHERE id = 2;
ALTER TABLE note ENABLE TRIGGER USER;
RESET ROLE;
RESET search_path;

-- No line of a superuser's calls says that code runs as the superuser.
CREATE FUNCTION all_calls() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	call text;
BEGIN
	FOREACH call IN ARRAY ARRAY[
		$q$poser_history('owned.note')$q$, $q$poser_history('owned.note', '{"id": 1}')$q$,
		$q$poser_history('owned.note', '{"w": "v"}')$q$, $q$poser_history('owned.note', '{"m": "bad"}')$q$,
		$q$poser_history('owned.note', '{"s": "[1,2]"}')$q$, $q$poser_history('owned.note', '{"p": {"a": 1, "b": "x"}}')$q$,
		$q$poser_history('owned.note', '{"ws": ["x"]}')$q$, $q$poser_history('owned.note', '{"ps": "(2,b)"}')$q$,
		$q$poser_history('owned.hidden')$q$, $q$poser_history('owned.part', '{"id": 1}')$q$,
		$q$poser_as_of(NULL::owned.note, now())$q$, $q$poser_as_of(NULL::owned.note, now(), '{"id": 1}')$q$,
		$q$poser_as_of(NULL::owned.note, now(), '{"m": "bad"}')$q$,
		$q$poser_as_of(NULL::owned.hidden, now())$q$, $q$poser_as_of(NULL::owned.part, now())$q$,
		$q$poser_check()$q$, $q$poser_check('owned.note')$q$, $q$poser_check('owned.hidden')$q$, $q$poser_check('owned.part')$q$,
		$q$poser_tables$q$,
		$q$poser_record_versions('owned.note', 1)$q$, $q$poser_record_versions('owned.note')$q$,
		$q$poser_record_versions('owned.hidden')$q$, $q$poser_record_versions('owned.part')$q$,
		$q$poser_record_versions()$q$, $q$poser_record_versions(NULL, 10)$q$,
		$q$poser_prune_versions('0', 1, 'owned.note')$q$, $q$poser_prune_versions('0', NULL, 'owned.note', '{"id": 1}')$q$,
		$q$poser_prune_versions('0', NULL, 'owned.note', '{"m": "bad"}')$q$,
		$q$poser_prune_versions('0', NULL, 'owned.note', NULL, true)$q$, $q$poser_prune_versions('0', NULL, 'owned.hidden')$q$,
		$q$poser_prune_versions('0', NULL, 'owned.part', NULL, true)$q$, $q$poser_prune_versions('0', 10)$q$, $q$poser_prune_versions('0')$q$,
		$q$poser_track('owned.note')$q$, $q$poser_track('owned.hidden')$q$, $q$poser_track('owned.part')$q$] LOOP
		EXECUTE 'SELECT * FROM ' || call;
		IF current_setting('work_mem') = '1MB' OR current_setting('search_path') LIKE 'owned%' THEN
			RAISE WARNING '% leaves settings of the owner', call;
			RESET search_path;
			RESET work_mem;
		END IF;
	END LOOP;
END $$;
SELECT all_calls();
SET owned.does = 'set';
SELECT all_calls();
RESET owned.does;

-- So it is after the owner has altered the table, and for the changes that a consumer gets.
SET ROLE regress_poser_code_owner;
ALTER TABLE owned.note ADD COLUMN more_words owned.words DEFAULT '{z}', DROP COLUMN ps,
	ALTER number TYPE owned.mood USING 'good', ALTER number SET DEFAULT NULL;
CREATE TABLE owned.later (id int PRIMARY KEY, m owned.mood, p owned.pair);
INSERT INTO owned.later VALUES (1, 'good', '(1,x)'), (2, 'bad', '(2,y)');
CREATE INDEX ON owned.later ((id + owned.code('index of a later table')));
CREATE STATISTICS owned.later_statistics ON (id + owned.code('statistics of a later table')), (id * 2) FROM owned.later;
GRANT SELECT, INSERT, UPDATE, DELETE ON owned.later, owned.part TO regress_poser_code_writer;
RESET ROLE;
SELECT poser_track('owned.note');
SELECT poser_track('owned.later', existing => false);
SELECT poser_datasync_add('code', 'beginning', tables => '{owned.note, owned.part, owned.later}', old_values => true);
SET owned.does = 'set';
SELECT count(*) > 0 AS delivered FROM poser_datasync_changes('code', 100);
SELECT poser_datasync_confirm('code', max(change_id)) IS NOT NULL AS confirmed FROM poser_datasync_changes('code', 100);
SELECT pending FROM poser_datasync_status;
SHOW search_path;
SHOW work_mem;
RESET owned.does;
SELECT poser_datasync_drop('code');
SELECT poser_record_versions('owned.later', 1);
SELECT poser_untrack('owned.hidden');
SELECT poser_track('owned.hidden');

-- A superuser that reverts rows runs the code of the table, as for an UPDATE, and none of the
-- versions.
SET ROLE regress_poser_code_owner;
CREATE TABLE owned.undone (id int PRIMARY KEY, w text);
SELECT poser_track('owned.undone');
INSERT INTO owned.undone VALUES (1, 'first'), (2, 'second');
UPDATE owned.undone SET w = 'changed' WHERE id = 1;
DELETE FROM owned.undone WHERE id = 2;
SELECT min(transaction_id) AS transaction FROM owned.undone_version \gset
CREATE INDEX ON owned.undone_version ((id + owned.code('index of versions of reverted rows')));
CREATE STATISTICS owned.undone_statistics ON (id + owned.code('statistics of versions of reverted rows')), (id * 2) FROM owned.undone_version;
RESET ROLE;
SELECT poser_revert('owned.undone', '{"id": 1}', :transaction);
SELECT poser_revert('owned.undone', '{"w": "second"}', :transaction);
SELECT * FROM owned.undone ORDER BY id;

-- Code of the owner that raises the error of a cancelled query ends the work on its table only.
SELECT poser_record_versions('owned.note') >= 0 AS recorded;
SET ROLE regress_poser_code_owner;
UPDATE owned.note SET w = 'v3', number = 1;
RESET ROLE;
\set VERBOSITY default
SET owned.does = 'cancel';
SELECT poser_prune_versions('0');
SELECT * FROM poser_check() WHERE object = 'table owned.note';
RESET owned.does;
\set VERBOSITY terse

-- Only the privileges on the columns of both tables let a role revert rows.
GRANT SELECT, UPDATE ON owned.undone TO regress_poser_code_writer;
GRANT SELECT (id, w) ON owned.undone_version TO regress_poser_code_writer;
SET ROLE regress_poser_code_writer;
SELECT poser_revert('owned.undone', '{"id": 1}', 1);
RESET ROLE;

-- A writer's functions do not run with the rights of the owner of the versions, whose code
-- calls a function without its schema.
SET ROLE regress_poser_code_owner;
CREATE FUNCTION owned.lowered(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN lower($1); END';
CREATE TABLE owned.plain (id int PRIMARY KEY, w text);
SELECT poser_track('owned.plain');
CREATE INDEX ON owned.plain_version (owned.lowered(w));
CREATE INDEX ON owned.part_versions (owned.lowered(w));
GRANT INSERT, UPDATE, DELETE, SELECT ON owned.plain TO regress_poser_code_writer;
SET ROLE regress_poser_code_writer;
CREATE FUNCTION written.lower(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS
	$$BEGIN RAISE WARNING 'code of the writer runs as %', current_user; RETURN $1; END$$;
SET search_path = written, pg_catalog;
INSERT INTO owned.plain VALUES (1, 'A'), (2, 'B');
INSERT INTO owned.part (id, w) VALUES (3, 'A');
SHOW search_path;
RESET search_path;
RESET ROLE;

-- An id that the owner has invented does not move the sequence of all histories.
SET ROLE regress_poser_code_owner;
ALTER TABLE owned.plain_version DISABLE TRIGGER poser_arrive_before, DISABLE TRIGGER poser_arrive_row, DISABLE TRIGGER poser_arrive_after;
INSERT INTO owned.plain_version VALUES (1, 'x', 0, 1, 4000000000000000000);
-- a new session compares its first id
\c -
SET ROLE regress_poser_code_owner;
INSERT INTO owned.plain VALUES (3, 'C');
-- nor after ids of another table were compared, and an error has ended the comparison
INSERT INTO owned.part (id, w) VALUES (4, 'D');
INSERT INTO owned.plain VALUES (3, 'C');
INSERT INTO owned.plain VALUES (3, 'C');
RESET ROLE;
SELECT last_value < 1000000 AS small FROM poser_change_id_seq;

DROP EXTENSION poser CASCADE;
SET client_min_messages = error;
DROP SCHEMA owned, written CASCADE;
DROP FUNCTION all_calls;
DROP ROLE regress_poser_code_owner, regress_poser_code_writer;
