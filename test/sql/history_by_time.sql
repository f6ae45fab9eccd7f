-- Transactions of a time.  Poser's own queries by time read the primary key.  A user can
-- add a BRIN index on issued_at.  It serves after pruning has made holes, new rows have
-- filled them, and VACUUM has run.

\set VERBOSITY terse
SET client_min_messages = warning;
CREATE EXTENSION poser;
ALTER TABLE poser_widget DISABLE TRIGGER USER;
INSERT INTO poser_widget (uuid, description) VALUES ('w', 'x');
ALTER TABLE poser_widget ENABLE TRIGGER USER;

-- write(FIRST, LAST): transactions with these ids, one an hour, which each change a widget
CREATE PROCEDURE write(first bigint, last bigint) LANGUAGE sql AS $$
	INSERT INTO poser_transaction (id, issued_at, username, role_name, xact)
	SELECT 2 * g, '2000-01-01 00:00+00'::timestamptz + g * interval '1 hour', 'user', 'role', pg_current_xact_id()
	  FROM generate_series(first, last) AS g;
	INSERT INTO poser_widget_version (uuid, description, operation_type, transaction_id, change_id)
	SELECT CASE WHEN g % 10 = 0 THEN 'w' || g ELSE 'w' END, g, 1, 2 * g, 2 * g + 1 FROM generate_series(first, last) AS g;
	SELECT setval('poser_change_id_seq', 2 * last + 1);
$$;

-- scans(QUERY): how the query reads its tables
CREATE FUNCTION scans(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	line text;
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP
		IF line LIKE '% Scan %' THEN RETURN NEXT ltrim(line, ' ->'); END IF;
	END LOOP;
END
$$;
-- part(QUERY): the part of the table's pages that the query reads, in percent, and whether
-- a BRIN index leads to them
CREATE FUNCTION part(query text, OUT percent integer, OUT by_brin boolean) LANGUAGE plpgsql AS $$
DECLARE
	plan jsonb;
BEGIN
	EXECUTE 'EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) ' || query INTO plan;
	plan := plan->0->'Plan'->'Plans'->0;
	percent := 100 * ((plan->>'Shared Hit Blocks')::bigint + (plan->>'Shared Read Blocks')::bigint)
		/ (pg_relation_size('poser_transaction') / current_setting('block_size')::bigint);
	by_brin := plan->>'Node Type' = 'Bitmap Heap Scan'
		AND plan->'Plans'->0->>'Index Name' LIKE 'by_time%';
END
$$;
-- reads: what is read for the transactions of some days
CREATE VIEW reads AS
SELECT to_char(day, 'YYYY-MM-DD') AS day, percent < 15 AS "reads few pages", by_brin,
       (SELECT count(*) FROM poser_transaction WHERE issued_at >= day AND issued_at < day + interval '10 days') AS transactions
  FROM (VALUES ('2000-06-01'::timestamptz), ('2001-02-01'), ('2002-06-01'), ('2003-03-01')) AS days (day),
       part(format('SELECT count(*) FROM poser_transaction WHERE issued_at >= %L AND issued_at < %L', day, day + interval '10 days'));
SET timezone = 'UTC';

-- two years of one transaction an hour
CALL write(1, 17520);
VACUUM ANALYZE poser_transaction;

-- without an index of the user: the primary key, from its end to the first match
SELECT scans('SELECT max(id) FROM poser_transaction WHERE issued_at <= ''2001-12-31''');
SELECT max(id) FROM poser_transaction WHERE issued_at <= '2001-12-31';
SELECT indexrelid::regclass FROM pg_index WHERE indrelid = 'poser_transaction'::regclass ORDER BY indexrelid::regclass::text;

-- with one; the executor makes its entries when Poser writes a row
CREATE INDEX by_time ON poser_transaction USING brin (issued_at timestamptz_minmax_multi_ops) WITH (pages_per_range = 4);
TABLE reads;
INSERT INTO poser_widget (uuid, description) VALUES ('now', 'x');
SET enable_seqscan = off;
SELECT scans('SELECT count(*) FROM poser_transaction WHERE issued_at >= ''2020-01-01''');
SELECT count(*) FROM poser_transaction WHERE issued_at >= '2020-01-01';
RESET enable_seqscan;
SELECT pg_relation_size('poser_transaction') AS size \gset

-- pruning leaves one transaction of ten in the first eighteen months
SELECT poser_prune_versions(now() - '2001-07-01'::timestamptz) > 10000 AS pruned;
SELECT count(*) FROM poser_transaction WHERE issued_at < '2001-07-01';
VACUUM ANALYZE poser_transaction;
TABLE reads;

-- new transactions fill the holes: each page has old and new rows
CALL write(17530, 29500);
VACUUM ANALYZE poser_transaction;
SELECT pg_relation_size('poser_transaction') < :size * 1.1 AS "holes are filled";
TABLE reads;
VACUUM ANALYZE poser_transaction;
TABLE reads;

-- the last transaction of a time is found among old and new rows
SELECT max(id) FROM poser_transaction WHERE issued_at <= '2000-06-01';
SELECT max(id) FROM poser_transaction WHERE issued_at <= '2002-06-01';
SELECT object, problem FROM poser_check() WHERE object LIKE 'index %';

-- Entries in other indexes of a user: with an expression and a predicate, and unique.
CREATE INDEX by_word ON poser_widget_version (lower(description)) WHERE operation_type = 0;
INSERT INTO poser_widget (uuid, description) SELECT 'new ' || g, 'Word ' || g FROM generate_series(1, 3) AS g;
SET enable_seqscan = off;
SET enable_bitmapscan = off;
SELECT scans('SELECT uuid FROM poser_widget_version WHERE lower(description) = ''word 2'' AND operation_type = 0');
SELECT uuid FROM poser_widget_version WHERE lower(description) = 'word 2' AND operation_type = 0;
RESET enable_seqscan;
RESET enable_bitmapscan;
CREATE UNIQUE INDEX one_version ON poser_component_version (item_code);
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c1', 'new 1', '1', 'x');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c2', 'new 1', '2', 'x'), ('c3', 'new 1', '1', 'x');
UPDATE poser_component SET description = 'y';
SELECT uuid, description FROM poser_component;
SELECT uuid, item_code, description FROM poser_component_version;

DROP VIEW reads;
DROP FUNCTION part(text), scans(text);
DROP PROCEDURE write(bigint, bigint);
DROP EXTENSION poser CASCADE;
