-- poser_history(), poser_as_of() and poser_revert() of tables with very many columns, with
-- names that the queries use themselves, with values that jsonb cannot hold, and with keys
-- whose values can be equal and differ.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION poser;

-- 1,500 columns: a query has room for one version only
\set ECHO none
SELECT format('CREATE TABLE wide (id int PRIMARY KEY, grp int, %s)', string_agg('c' || n || ' bool', ', ' ORDER BY n))
  FROM generate_series(3, 1500) AS n \gexec
\set ECHO all
SELECT poser_track('wide');
INSERT INTO wide (id, grp, c3) VALUES (1, 7, true), (2, 7, false);
SELECT max(transaction_id) AS point FROM wide_version \gset
UPDATE wide SET c1500 = true;
UPDATE wide SET grp = 8 WHERE id = 1;
DELETE FROM wide WHERE id = 2;
INSERT INTO wide (id, grp) VALUES (3, 7);
CREATE FUNCTION changes(match jsonb, max_versions bigint = NULL)
RETURNS TABLE (operation text, changed text[], old_id text, old_grp text, new_grp text, new_c3 text, new_c1500 text, keys bigint) LANGUAGE sql AS $$
	SELECT operation, changed, old ->> 'id', old ->> 'grp', new ->> 'grp', new ->> 'c3', new ->> 'c1500',
	       (SELECT count(*) FROM jsonb_object_keys(COALESCE(new, old)))
	  FROM poser_history('wide', match, max_versions) $$;
SELECT * FROM changes('{"id": 1}');
SELECT * FROM changes('{"grp": 7}');
SELECT * FROM changes('{"grp": 7}', 2);
SELECT * FROM changes('{}', 4);
SELECT id, grp, c3, c1500 FROM poser_as_of(NULL::wide, now()) ORDER BY id;
SELECT poser_revert('wide', '{"grp": 7}', :point);
SELECT id, grp, c3, c1500 FROM wide ORDER BY id;
SELECT * FROM poser_check('wide');
DROP FUNCTION changes;

-- 300 columns, some of them dropped, in the table and in the versions
\set ECHO none
SELECT format('CREATE TABLE partly (id int PRIMARY KEY, %s)', string_agg('c' || n || ' int', ', ' ORDER BY n))
  FROM generate_series(2, 300) AS n \gexec
\set ECHO all
ALTER TABLE partly DROP c2, DROP c150;
SELECT poser_track('partly');
INSERT INTO partly (id, c3, c151, c299, c300) VALUES (1, 3, 151, 299, 300);
SELECT max(transaction_id) AS point FROM partly_version \gset
ALTER TABLE partly DROP c151, DROP c299;
ALTER TABLE partly_version DROP c299;
UPDATE partly SET c300 = 0, c3 = 0;
SELECT operation, changed, old -> 'c3' AS old_c3, new -> 'c3' AS new_c3, new -> 'c151' AS new_c151, new -> 'c300' AS new_c300,
       (SELECT count(*) FROM jsonb_object_keys(new)) AS keys
  FROM poser_history('partly', '{"id": 1}');
SELECT operation, changed, old -> 'c3' AS old_c3, new -> 'c3' AS new_c3, (SELECT count(*) FROM jsonb_object_keys(new)) AS keys
  FROM poser_history('partly', '{"c3": 3}', 1);
SELECT poser_revert('partly', '{"c3": 3}', :point);
SELECT id, c3, c300 FROM partly;
SELECT id, c3, c300 FROM poser_as_of(NULL::partly, 'infinity', '{"c3": 3}');

-- Columns with the names that the queries and the results use
CREATE TABLE named ("old" int, "new" text, "at" text, was int, next int, live int, v int, before int, version int, member int,
	state int, last int, newer int, change_id text, poser_change_id text, existed text, differs text, was_2 text, key_1 text, "row" text,
	"a ""b"" %n" text, poser_record text, PRIMARY KEY ("old", v));
SELECT poser_track('named');
INSERT INTO named ("old", v, "new", change_id, next, "a ""b"" %n", was_2) VALUES (1, 1, 'x', 'y', 5, 'z', 'w'), (1, 2, 'x2', 'y2', 6, 'z2', 'w2');
SELECT max(issued_at) AS point_at, max(id) AS point FROM poser_transaction \gset
UPDATE named SET change_id = 'changed', next = 7;
SELECT operation, changed, old, new FROM poser_history('named', '{"old": 1, "v": 1}', 1);
SELECT operation, changed, old -> 'next' AS old_next, new -> 'next' AS new_next FROM poser_history('named', '{"old": 1}');
SELECT operation, old -> 'next' AS old_next, new -> 'next' AS new_next FROM poser_history('named', '{"next": 5}');
SELECT operation, old -> 'next' AS old_next, new -> 'next' AS new_next FROM poser_history('named', '{"next": 5}', 1);
SELECT change_id, next, "a ""b"" %n" FROM poser_as_of(NULL::named, :'point_at', '{"a \"b\" %n": "z"}');
SELECT change_id, next FROM poser_as_of(NULL::named, :'point_at', '{"old": 1, "v": 2}');
SELECT poser_revert('named', '{"next": 5}', :point), poser_revert('named', '{"was_2": "w2", "existed": null}', :point);
SELECT "old", v, change_id, next FROM named ORDER BY v;

-- Values: all as to_jsonb() has them, except json that jsonb cannot hold, which is text
CREATE TABLE value (id int PRIMARY KEY, n numeric, p numeric(10, 3), d date, ts timestamp, tz timestamptz, f float8, j json, js json[]);
SELECT poser_track('value');
INSERT INTO value VALUES
	(1, 1.500, 2, '2020-02-03', '2020-02-03 04:05:06.789', '2020-02-03 04:05:06.789+03', 1.5, '{"a": 1.10, "b": [null, "x"]}', ARRAY['1', '"x"']::json[]),
	(2, 'NaN', 'NaN', 'infinity', '-infinity', 'infinity', 'NaN', '"\u0000"', ARRAY['"\u0000"']::json[]),
	(3, 'Infinity', NULL, '0044-03-15 BC', '0044-03-15 BC', '0044-03-15 10:00 BC', '-Infinity', '"\ud800"', '{}'),
	(4, '-Infinity', 0, '99999-01-01', '99999-01-01', '99999-01-01', 1e300, '1e200000', NULL),
	(5, 12345678901234567890123456789.000100, -0.001, '2020-01-01', '2020-01-01', '2020-01-01', 0, '{"a": "\\u0000"}', NULL);
SELECT id, (new - 'j' - 'js')::text = (to_jsonb(value) - 'j' - 'js')::text AS is_same, new -> 'n' AS n, new -> 'j' AS j, new -> 'js' AS js
  FROM (SELECT id, n, p, d, ts, tz, f FROM value) AS value, poser_history('value', jsonb_build_object('id', id)) ORDER BY id;
-- timestamptz is the same instant in each session, with the offset of its time zone
SELECT new ->> 'tz' AS tz, new ->> 'ts' AS ts, new ->> 'd' AS d FROM poser_history('value', '{"id": 1}');
SET timezone = 'Asia/Tokyo';
SET datestyle = 'German';
SELECT new ->> 'tz' AS tz, new ->> 'ts' AS ts, new ->> 'd' AS d FROM poser_history('value', '{"id": 1}');
SELECT count(*) FROM poser_history('value', '{"tz": "2020-02-03T10:05:06.789+09:00", "ts": "2020-02-03T04:05:06.789"}');
RESET timezone;
RESET datestyle;

-- Keys whose values can be equal and differ
CREATE TABLE keyed (name char(8), n numeric, note text, PRIMARY KEY (name, n));
SELECT poser_track('keyed');
INSERT INTO keyed VALUES ('Anna', 1, 'First');
SELECT max(issued_at) AS point_at, max(id) AS point FROM poser_transaction \gset
UPDATE keyed SET n = 1.0, note = 'Second';
SELECT operation, changed, old, new FROM poser_history('keyed', '{"name": "Anna", "n": 1.00}');
SELECT operation, changed FROM poser_history('keyed', '{"note": "Second"}');
SELECT operation, changed FROM poser_history('keyed', '{"note": "First"}', 1);
SELECT * FROM poser_as_of(NULL::keyed, :'point_at', '{"name": "Anna   ", "n": 1}');
SELECT poser_revert('keyed', '{"n": 1.000, "name": "Anna"}', :point);
SELECT * FROM keyed;

-- A column that was recorded before it was excluded stays hidden, whatever its name is.
CREATE TABLE secret (id int PRIMARY KEY, pw text, notes text);
SELECT poser_track('secret');
INSERT INTO secret VALUES (1, 'hidden', 'n');
SELECT poser_track('secret', exclude => '{pw}');
SELECT new FROM poser_history('secret');
ALTER TABLE secret RENAME pw TO code;
SELECT new FROM poser_history('secret');
SELECT poser_track('secret');
SELECT new FROM poser_history('secret');
ALTER TABLE secret RENAME code TO tmp;
ALTER TABLE secret RENAME notes TO pw;
ALTER TABLE secret RENAME tmp TO notes;
SELECT poser_track('secret');
SELECT new FROM poser_history('secret');
SELECT * FROM poser_check('secret');

-- Few changes of a value without an index: they may be among the newest versions or not.
CREATE TABLE many (id int PRIMARY KEY, item text);
SELECT poser_track('many');
INSERT INTO many SELECT n, CASE n WHEN 5 THEN 'rare' ELSE 'item ' || n % 10 END FROM generate_series(1, 25000) AS n;
UPDATE many SET item = 'again' WHERE id = 5;
SELECT count(*), min(new ->> 'id'), max(new ->> 'id') FROM poser_history('many', '{"item": "item 3"}', 10);
SELECT operation, old, new FROM poser_history('many', '{"item": "rare"}', 1);
SELECT operation, old, new FROM poser_history('many', '{"item": "rare"}', 10);
SELECT operation, old, new FROM poser_history('many', '{"item": "none"}', 10);
SELECT count(*) FROM poser_history('many', '{"item": "item 3"}', 9223372036854775807);

DROP EXTENSION poser CASCADE;
DROP TABLE wide, wide_version, partly, partly_version, named, named_version, value, value_version, keyed, keyed_version,
	secret, secret_version, many, many_version;
