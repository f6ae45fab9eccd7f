-- Rows of any table as they were: poser_as_of().
\set SHOW_CONTEXT never
CREATE EXTENSION poser;
CREATE FUNCTION failure(query text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE query;
	RETURN 'none';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ': ' || SQLERRM;
END $$;
CREATE DOMAIN cents AS bigint NOT NULL CHECK (VALUE >= 0);
CREATE TABLE invoice_line (invoice_id bigint, line int, item varchar(10), price cents, secret text, PRIMARY KEY (invoice_id, line));
SELECT poser_track('invoice_line', exclude => '{secret}');
INSERT INTO invoice_line VALUES (7, 1, 'x', 110, 's'), (7, 2, 'y', 200, 's'), (8, 1, 'z', 300, 's');
UPDATE invoice_line SET item = 'yy' WHERE item = 'y';
UPDATE invoice_line SET invoice_id = 8, line = 2 WHERE invoice_id = 7 AND line = 1;
DELETE FROM invoice_line WHERE invoice_id = 8 AND line = 1;
INSERT INTO invoice_line VALUES (8, 1, 'back', 1, 's');

-- The first transaction is of 1:00, the next one of 2:00, and so on.
SET timezone = 'UTC';
UPDATE poser_transaction AS t SET issued_at = '2026-01-01'::timestamptz + n * '1 hour'::interval
  FROM (SELECT id, row_number() OVER (ORDER BY id) AS n FROM poser_transaction) AS numbered
 WHERE numbered.id = t.id;
SELECT extract(hour FROM at) AS hour, r.*
  FROM generate_series('2026-01-01'::timestamptz, '2026-01-01 06:00', '1 hour') AS at,
       LATERAL poser_as_of(NULL::invoice_line, at) AS r
 ORDER BY hour, invoice_id, line;

-- With a match the result is the same as that of a condition, at each time.
CREATE TABLE matches (match jsonb, condition text);
INSERT INTO matches VALUES
	('{}', 'true'), ('{"invoice_id": 7}', 'invoice_id = 7'), ('{"line": 2}', 'line = 2'),
	('{"invoice_id": 8, "line": 1}', 'invoice_id = 8 AND line = 1'), ('{"line": 2, "invoice_id": 7}', 'invoice_id = 7 AND line = 2'),
	('{"item": "yy"}', $$item = 'yy'$$), ('{"item": "y", "line": 2}', $$item = 'y' AND line = 2$$),
	('{"item": "z", "line": 1, "invoice_id": 8}', $$item = 'z' AND line = 1 AND invoice_id = 8$$), ('{"item": null}', 'item IS NULL');
CREATE FUNCTION differences(OUT comparisons bigint, OUT rows bigint, OUT differ bigint) LANGUAGE plpgsql AS $$
DECLARE
	n bigint;
	d bigint;
	m matches;
	at timestamptz;
BEGIN
	comparisons := 0; rows := 0; differ := 0;
	FOR at IN SELECT * FROM generate_series('2026-01-01'::timestamptz, '2026-01-01 06:30', '30 minutes')
	          UNION ALL VALUES ('infinity'::timestamptz), ('-infinity') LOOP
		FOR m IN SELECT * FROM matches LOOP
			EXECUTE format('WITH a AS (SELECT a::text FROM poser_as_of(NULL::invoice_line, $1, $2) AS a),
			                     b AS (SELECT b::text FROM poser_as_of(NULL::invoice_line, $1) AS b WHERE %s)
			                SELECT (SELECT count(*) FROM a),
			                       (SELECT count(*) FROM (TABLE a EXCEPT ALL TABLE b) AS x) + (SELECT count(*) FROM (TABLE b EXCEPT ALL TABLE a) AS x)',
			               m.condition) INTO n, d USING at, m.match;
			comparisons := comparisons + 1; rows := rows + n; differ := differ + d;
		END LOOP;
	END LOOP;
END $$;
SELECT * FROM differences();
CREATE INDEX ON invoice_line_version (item);
SELECT * FROM differences();

-- Of two concurrent transactions the one with the lesser id can have the later time: then both belong to the state.
BEGIN;
UPDATE poser_transaction SET issued_at = '2026-01-01 03:00:00.5' WHERE issued_at = '2026-01-01 02:00';
SELECT r.* FROM poser_as_of(NULL::invoice_line, '2026-01-01 02:59:59') AS r ORDER BY 1, 2;
SELECT r.* FROM poser_as_of(NULL::invoice_line, '2026-01-01 03:00') AS r ORDER BY 1, 2;
SELECT r.* FROM poser_as_of(NULL::invoice_line, '2026-01-01 03:00', '{"invoice_id": 7, "line": 2}') AS r;
SELECT r.* FROM poser_as_of(NULL::invoice_line, '2026-01-01 02:59:59', '{"invoice_id": 7, "line": 2}') AS r;
ROLLBACK;

-- A row with many versions
CREATE TABLE counter (id int PRIMARY KEY, n int);
SELECT poser_track('counter');
INSERT INTO counter VALUES (1, 0);
CREATE PROCEDURE count_up() LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. 50 LOOP
		UPDATE counter SET n = i;
		COMMIT;
	END LOOP;
END $$;
CALL count_up();
UPDATE poser_transaction AS t SET issued_at = '2026-02-01'::timestamptz + n * '1 minute'::interval
  FROM (SELECT v.transaction_id, v.n FROM counter_version AS v) AS v WHERE v.transaction_id = t.id;
SELECT count(*), count(*) FILTER (WHERE r.n = minute)
  FROM generate_series(0, 50) AS minute, LATERAL poser_as_of(NULL::counter, '2026-02-01'::timestamptz + minute * '1 minute'::interval, '{"id": 1}') AS r;
SELECT count(*) FROM poser_as_of(NULL::counter, '2026-01-31 23:59', '{"id": 1}');

-- The row type is that of now: columns that are renamed, dropped, added, and of other types
ALTER TABLE invoice_line RENAME item TO article;
ALTER TABLE invoice_line DROP price;
ALTER TABLE invoice_line ADD vat numeric DEFAULT 19;
SELECT r.* FROM poser_as_of(NULL::invoice_line, '2026-01-01 01:00') AS r ORDER BY 1, 2;
SELECT r.* FROM poser_as_of(NULL::invoice_line, '2026-01-01 01:00', '{"invoice_id": 7, "line": 1}') AS r;
ALTER TABLE invoice_line ALTER article TYPE varchar(20), ALTER line TYPE bigint;
SELECT failure($$SELECT poser_as_of(NULL::invoice_line, '2026-01-01 01:00')$$);
SET client_min_messages = warning;
SELECT poser_track('invoice_line');
RESET client_min_messages;
SELECT r.* FROM poser_as_of(NULL::invoice_line, '2026-01-01 01:00', '{"invoice_id": 7, "line": 1}') AS r;
ALTER TABLE counter ALTER n TYPE text;
SELECT r.*, pg_typeof(r.n) FROM poser_as_of(NULL::counter, '2026-02-01 00:07') AS r;
ALTER TABLE counter ALTER n TYPE date USING NULL;
SELECT failure($$SELECT poser_as_of(NULL::counter, '2026-02-01 00:07')$$);
SELECT failure($$SELECT poser_as_of(NULL::counter, '2026-02-01 00:07', '{"id": 1}')$$);

-- Errors
SELECT failure($$SELECT poser_as_of(NULL::text, now())$$);
SELECT failure($$SELECT poser_as_of(NULL::pg_class, now())$$);
SELECT failure($$SELECT poser_as_of(1, now())$$);
SELECT failure($$SELECT poser_as_of(NULL::matches, now())$$);
SELECT failure($$SELECT poser_as_of(NULL::poser_widget_summary, now())$$);
SELECT failure($$SELECT poser_as_of(NULL::invoice_line, NULL)$$);
SELECT failure($$SELECT poser_as_of(NULL::invoice_line, now(), '7')$$);
SELECT failure($$SELECT poser_as_of(NULL::invoice_line, now(), '{"secret": "s"}')$$);
SELECT failure($$SELECT poser_as_of(NULL::invoice_line, now(), '{"line": "one"}')$$);

-- The extension's own tables, in the select list, too
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'One'), ('w2', 'Two');
SELECT poser_as_of(NULL::poser_widget, 'infinity', '{"uuid": "w2"}');
SELECT (poser_as_of(NULL::poser_widget, 'infinity', '{"description": "One"}')).*;

-- Partitions
CREATE TABLE measure (city text, day date, value int, PRIMARY KEY (city, day)) PARTITION BY RANGE (day);
CREATE TABLE measure_1 PARTITION OF measure FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE measure_2 (value int, day date NOT NULL, city text NOT NULL);
ALTER TABLE measure ATTACH PARTITION measure_2 FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
SELECT poser_track('measure');
INSERT INTO measure VALUES ('Rome', '2026-01-05', 1), ('Oslo', '2026-02-05', 2);
UPDATE measure SET day = '2026-02-06' WHERE city = 'Rome';
SELECT operation, changed, old, new FROM poser_history('measure', '{"city": "Rome"}') ORDER BY change_id;
SELECT * FROM poser_as_of(NULL::measure, 'infinity') ORDER BY city;
SELECT * FROM poser_as_of(NULL::measure, 'infinity', '{"city": "Rome", "day": "2026-02-06"}');
SELECT failure($$SELECT poser_as_of(NULL::measure_2, 'infinity')$$);
SELECT failure($$SELECT * FROM poser_history('measure_1')$$);

-- A table and its versions without their transactions, as after a restore of this table alone, or after DROP EXTENSION.
DELETE FROM poser_transaction;
SELECT count(*) FROM poser_as_of(NULL::measure, now());
SELECT count(*) FROM poser_as_of(NULL::measure, now(), '{"city": "Rome", "day": "2026-02-06"}');
SELECT count(*) FROM poser_as_of(NULL::measure, '2000-01-01');
-- the ids of other transactions can be less than theirs
INSERT INTO poser_transaction (id, issued_at, username, role_name) VALUES (1, now() - interval '1 hour', 'u', 'r');
SELECT count(*) FROM poser_as_of(NULL::measure, now());
SELECT count(*) FROM poser_as_of(NULL::measure, now(), '{"city": "Rome", "day": "2026-02-06"}');
SELECT count(*) FROM poser_as_of(NULL::measure, now() - interval '2 hours');
DELETE FROM poser_transaction;
-- the extension is made again in the same session
SET client_min_messages = warning;
DROP EXTENSION poser CASCADE;
CREATE EXTENSION poser;
SELECT poser_track('measure');
SELECT * FROM poser_as_of(NULL::measure, now()) ORDER BY city;
UPDATE measure SET value = 3 WHERE city = 'Oslo';
SELECT * FROM poser_as_of(NULL::measure, 'infinity') ORDER BY city;
SELECT operation, new ->> 'value' AS value, issued_at IS NOT NULL AS has_time FROM poser_history('measure', '{"city": "Oslo"}');

-- One row of a table of the extension, at a time that was pruned and at one that was not.
INSERT INTO poser_widget (uuid, description) VALUES ('lamp', 'old');
UPDATE poser_widget SET description = 'new';
SELECT poser_prune_versions('0', target => 'poser_widget');
SELECT poser_as_of(NULL::poser_widget, '2000-01-01', '{"uuid": "lamp"}');
SELECT poser_as_of(NULL::poser_widget, '2000-01-01', '{"uuid": "none"}');
SELECT * FROM poser_as_of(NULL::poser_widget, 'infinity', '{"uuid": "lamp"}');

DROP EXTENSION poser CASCADE;
DROP TABLE invoice_line, invoice_line_version, counter, counter_version, matches, measure, measure_version;
DROP DOMAIN cents;
DROP PROCEDURE count_up;
DROP FUNCTION differences, failure;
