-- Own tables with keys and columns of all kinds of types.

SET client_min_messages = warning;
SET DateStyle = 'ISO';
SET TimeZone = 'UTC';
CREATE EXTENSION poser;
CREATE SCHEMA "Odd %s ""Names""";

-- Rows of a table that differ from the rows in which their histories end.  Types without
-- equality are compared as text.
CREATE FUNCTION differences(target regclass) RETURNS TABLE (live text, recorded text) LANGUAGE plpgsql AS $$
DECLARE
	versions regclass;
	keys text;
	columns text;
BEGIN
	SELECT t.versions, string_agg(quote_ident(k), ', ') INTO versions, keys
	  FROM poser_tables AS t, unnest(t.key) AS k WHERE t.target = differences.target GROUP BY 1;
	SELECT string_agg(format('%I::text', attname), ' , ' ORDER BY attnum) INTO columns
	  FROM pg_attribute WHERE attrelid = target AND attnum > 0 AND NOT attisdropped;
	RETURN QUERY EXECUTE format($query$
		SELECT l.row, r.row FROM (SELECT ROW(%1$s)::text AS row FROM %2$s) AS l
		  FULL JOIN (SELECT last.row FROM (SELECT DISTINCT ON (%3$s) operation_type, ROW(%1$s)::text AS row
		                                     FROM %4$s ORDER BY %3$s, change_id DESC) AS last
		              WHERE operation_type <> 2) AS r ON l.row = r.row
		 WHERE l.row IS NULL OR r.row IS NULL$query$, columns, target, keys, versions);
END
$$;

-- Keys.  Two values are the same key if their type says so, and the same row if all their
-- bytes are the same.
CREATE DOMAIN code AS varchar(10) CHECK (VALUE <> '');
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE TABLE by_int (key int PRIMARY KEY, value text);
CREATE TABLE by_uuid (key uuid PRIMARY KEY, value text);
CREATE TABLE by_text (key text COLLATE "C" PRIMARY KEY, value text);
CREATE TABLE by_date (key date PRIMARY KEY, value text);
CREATE TABLE by_domain (key code PRIMARY KEY, value text);
CREATE TABLE by_enum (key mood PRIMARY KEY, value text);
CREATE TABLE by_numeric (key numeric PRIMARY KEY, value text);
CREATE TABLE by_char (key char(5) PRIMARY KEY, value text);
CREATE TABLE by_array (key int[] PRIMARY KEY, value text);
CREATE TABLE by_range (key int4range PRIMARY KEY, value text);
CREATE TABLE by_several (number numeric, name text, day date, value text, PRIMARY KEY (name, day, number));
CREATE TABLE by_replica_identity (value text, key bigint NOT NULL UNIQUE);
ALTER TABLE by_replica_identity REPLICA IDENTITY USING INDEX by_replica_identity_key_key;

CREATE PROCEDURE write(tab text, first text, same text, second text) LANGUAGE plpgsql AS $$
DECLARE
	sql text;
BEGIN
	PERFORM poser_track(tab::regclass);
	EXECUTE format('INSERT INTO %I (key, value) VALUES (%L, ''one'')', tab, first);
	EXECUTE format('UPDATE %I SET value = ''two''', tab);
	-- the same key, and the same or another row
	EXECUTE format('UPDATE %I SET key = %L', tab, same);
	-- another key
	EXECUTE format('UPDATE %I SET key = %L', tab, second);
	EXECUTE format('DELETE FROM %I', tab);
	EXECUTE format('INSERT INTO %I (key, value) VALUES (%L, ''three'')', tab, first);
	FOR sql IN EXECUTE format('SELECT format(%L, (ARRAY[''insert'', ''update'', ''delete''])[operation_type + 1], key, value) FROM %I ORDER BY change_id',
							  '%s %s: %s', tab || '_version') LOOP
		RAISE INFO '%', sql;
	END LOOP;
	EXECUTE format('SELECT string_agg(d::text, '','') FROM differences(%L) AS d', tab) INTO sql;
	RAISE INFO '% differs: %', tab, sql;
END
$$;
CALL write('by_int', '1', '1', '2');
CALL write('by_uuid', '00000000-0000-0000-0000-000000000001', '00000000000000000000000000000001', '00000000-0000-0000-0000-000000000002');
CALL write('by_text', 'Key', 'kEY', 'other');
CALL write('by_date', '2026-01-01', '20260101', '2026-01-02');
CALL write('by_domain', 'a', 'a', 'b');
CALL write('by_enum', 'sad', 'sad', 'happy');
CALL write('by_numeric', '1', '1.0', '2');
CALL write('by_char', 'a', 'a  ', 'b');
CALL write('by_array', '{1,2}', '[1:2]={1,2}', '{2}');
CALL write('by_range', '[1,2]', '[1,3)', '[2,3)');
CALL write('by_replica_identity', '1', '1', '2');

-- A key of several columns, whose rows take over each other's keys.
SELECT poser_track('by_several');
INSERT INTO by_several VALUES (1, 'a', '2026-01-01', 'one'), (2, 'a', '2026-01-01', 'two');
UPDATE by_several SET number = 1.0 WHERE number = 1;
BEGIN;
UPDATE by_several SET number = number + 1 WHERE number = 2;
UPDATE by_several SET number = number + 1 WHERE number = 1;
COMMIT;
DELETE FROM by_several WHERE number = 3;
SELECT operation_type, number, name, day, value FROM by_several_version ORDER BY change_id;
TABLE by_several;
SELECT * FROM differences('by_several');

-- Columns of types without equality, and others.
CREATE TYPE pair AS (a int, b text);
CREATE TABLE things (
	id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	c_json json, c_jsonb jsonb, c_xml xml, c_array text[][], c_range tstzrange, c_multirange int4multirange, c_pair pair,
	c_pairs pair[], c_point point, c_box box, c_bits bit varying, c_money money, c_inet inet, c_tsvector tsvector, c_name name,
	c_char "char", c_float float4, c_interval interval, c_timetz timetz, c_bytea bytea, c_domain code, c_mood mood,
	c_regclass regclass, c_serial serial, c_varchar varchar(20), c_bpchar char(5), c_numeric numeric(10, 2),
	c_stored text GENERATED ALWAYS AS (c_varchar || '!') STORED, c_default timestamptz DEFAULT '2026-01-01 UTC');
SELECT poser_track('things');
INSERT INTO things (c_json, c_jsonb, c_xml, c_array, c_range, c_multirange, c_pair, c_pairs, c_point, c_box, c_bits, c_money,
					c_inet, c_tsvector, c_name, c_char, c_float, c_interval, c_timetz, c_bytea, c_domain, c_mood, c_regclass,
					c_varchar, c_bpchar, c_numeric)
VALUES ('{"a": 1}', '{"a": 1}', '<a/>', '{{a,b},{c,NULL}}', '[2026-01-01 UTC, 2026-01-02 UTC)', '{[1,2),[4,5)}', '(1,x)',
		'{"(1,x)",NULL}', '(1,2)', '(1,2),(3,4)', '101', '1', '10.0.0.1/8', 'a b', 'name', 'c', 1.5, '1 month', '10:00+01', '\x00ff',
		'code', 'happy', 'things', 'text', 'ab', 1.5),
	   (NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
		NULL, NULL, NULL, NULL, NULL, NULL);
-- each value once changed, once set to what is equal to it but is another value, once to the very same
UPDATE things SET c_json = '{"a":1}', c_point = '(1,2)';
UPDATE things SET c_json = c_json, c_xml = c_xml, c_point = c_point, c_varchar = c_varchar;
UPDATE things SET c_varchar = 'other', c_pair.b = 'y', c_array[1][1] = 'z' WHERE id = 1;
UPDATE things SET c_float = '-0' WHERE id = 2;
UPDATE things SET c_float = '0' WHERE id = 2;
DELETE FROM things WHERE id = 1;
SELECT operation_type AS op, id, c_json, c_pair, c_array, c_float, c_stored FROM things_version ORDER BY change_id;
SELECT * FROM differences('things');
-- what the versions have: types without modifiers, domains as their base types
SELECT attname, format_type(atttypid, atttypmod), attnotnull, atthasdef, attidentity, attgenerated
  FROM pg_attribute WHERE attrelid = 'things_version'::regclass AND attname IN ('id', 'c_domain', 'c_varchar', 'c_bpchar', 'c_numeric', 'c_stored', 'c_default')
 ORDER BY attnum;

-- Values of 10 MB.  An update of another column does not fetch them to compare them, but
-- each version has its own.
CREATE TABLE large (id int PRIMARY KEY, value text, packed text, other int);
ALTER TABLE large ALTER value SET STORAGE EXTERNAL;
SELECT poser_track('large');
INSERT INTO large SELECT 1, repeat('0123456789', 1000000), repeat('x', 10000000), 1;
UPDATE large SET other = 2;
UPDATE large SET value = value || '!';
UPDATE large SET value = value, packed = packed;
SELECT operation_type, length(value), length(packed), other FROM large_version ORDER BY change_id;
SELECT count(*) FROM large_version AS v JOIN large USING (id, value, packed, other);
TRUNCATE large;
SELECT operation_type, length(value), length(packed), other FROM large_version ORDER BY change_id DESC LIMIT 1;

-- 300 columns, some of them dropped, before the table is tracked and after.
CREATE PROCEDURE alter_wide(command text, first int, last int, step int) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE (SELECT format('ALTER TABLE wide %s', string_agg(format(command, n, (ARRAY['int', 'text', 'numeric', 'timestamptz'])[n % 4 + 1]), ', '))
			   FROM generate_series(first, last, step) AS n);
END
$$;
CREATE TABLE wide ();
CALL alter_wide('ADD c%s %s', 1, 300, 1);
ALTER TABLE wide ADD id int PRIMARY KEY;
CALL alter_wide('DROP c%s', 1, 300, 7);
SELECT poser_track('wide');
INSERT INTO wide (id, c4, c5, c299, c300) VALUES (1, 4, '5', '2026-01-01 UTC', 300), (2, NULL, NULL, NULL, NULL);
CALL alter_wide('DROP c%s', 4, 300, 7);
UPDATE wide SET c299 = '2026-01-02 UTC', c5 = 'five';
CALL alter_wide('ADD c%s %s DEFAULT NULL', 301, 330, 1);
SELECT poser_track('wide');
UPDATE wide SET c328 = 8 WHERE id = 1;
DELETE FROM wide WHERE id = 2;
SELECT operation_type AS op, id, c4, c5, c299, c300, c328, c330 FROM wide_version ORDER BY change_id;
SELECT * FROM differences('wide');

-- Names with capitals, quotes, percent signs and spaces, of 63 bytes.
CREATE TABLE "Odd %s ""Names"""."Table ""%I"" with 63 bytes ........................................" (
	"Key %s" int, "key %S" text, "Ä ""%"" ............................................................" text, "operation_type" int, "transaction_id" int, change_id text,
	PRIMARY KEY ("Key %s", "key %S"));
SELECT poser_track(oid) FROM pg_class WHERE relname LIKE 'Table%bytes%' AND relkind = 'r';
INSERT INTO "Odd %s ""Names"""."Table ""%I"" with 63 bytes ........................................" VALUES (1, 'a', 'x', 1, 2, '3');
UPDATE "Odd %s ""Names"""."Table ""%I"" with 63 bytes ........................................" SET change_id = '4', operation_type = 5;
UPDATE "Odd %s ""Names"""."Table ""%I"" with 63 bytes ........................................" SET "Key %s" = 2;
SELECT versions AS odd_versions FROM poser_tables WHERE target::text LIKE '%bytes%' \gset
SELECT * FROM :odd_versions ORDER BY poser_change_id \gx
SELECT target, key, recording, problem FROM poser_tables WHERE target::text LIKE '%bytes%' OR problem IS NOT NULL;

DROP EXTENSION poser CASCADE;
DROP SCHEMA "Odd %s ""Names""" CASCADE;
DROP TABLE by_int, by_uuid, by_text, by_date, by_domain, by_enum, by_numeric, by_char, by_array, by_range, by_several, by_replica_identity,
	things, large, wide, by_int_version, by_uuid_version, by_text_version, by_date_version, by_domain_version, by_enum_version, by_numeric_version,
	by_char_version, by_array_version, by_range_version, by_several_version, by_replica_identity_version, things_version,
	large_version, wide_version;
DROP FUNCTION differences;
DROP PROCEDURE write, alter_wide;
DROP TYPE pair, mood;
DROP DOMAIN code;
