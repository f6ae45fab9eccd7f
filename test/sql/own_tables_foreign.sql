-- Foreign partitions of tracked tables and of tables of versions.  No write is lost without
-- a word: each is recorded or an error, or poser_tables says what is missing.

SELECT NOT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'postgres_fdw') AS skip \gset
\if :skip
\quit
\endif
SET client_min_messages = warning;
CREATE EXTENSION poser;
CREATE EXTENSION postgres_fdw;
SELECT format('CREATE SERVER loopback FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host %L, port %L, dbname %L)',
			  split_part(current_setting('unix_socket_directories'), ',', 1), current_setting('port'), current_database()) AS make_server \gset
:make_server;
CREATE USER MAPPING FOR CURRENT_USER SERVER loopback;

CREATE TABLE stock (region text, id int, note text, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
CREATE TABLE stock_north PARTITION OF stock FOR VALUES IN ('n');
CREATE TABLE stock_south PARTITION OF stock FOR VALUES IN ('s') PARTITION BY LIST (id);
CREATE TABLE stock_south_one PARTITION OF stock_south FOR VALUES IN (1);
SELECT poser_track('stock');
CREATE TABLE far (note text, id int, region text);
CREATE FOREIGN TABLE stock_far (note text, id int NOT NULL, region text NOT NULL) SERVER loopback OPTIONS (table_name 'far');

-- While there is a key, the server refuses it at all levels.
ALTER TABLE stock ATTACH PARTITION stock_far FOR VALUES IN ('f');
ALTER TABLE stock_south ATTACH PARTITION stock_far FOR VALUES IN (2);

-- Without a key only INSERT and TRUNCATE can be recorded.
ALTER TABLE stock DROP CONSTRAINT stock_pkey;
ALTER TABLE stock ATTACH PARTITION stock_far FOR VALUES IN ('f');
SELECT recording, unnest(string_to_array(problem, '; ')) AS problem FROM poser_tables WHERE target = 'stock'::regclass;
SELECT * FROM poser_check('stock');
SELECT poser_track('stock');

-- A statement on the table that writes the foreign partition is refused, or recorded.  Later
-- minor versions of the server refuse it, because such rows come without transition tables.
CREATE PROCEDURE try(statement text) LANGUAGE plpgsql AS $$
DECLARE
	lost bigint;
BEGIN
	EXECUTE statement;
	SELECT count(*) INTO lost FROM (TABLE stock EXCEPT SELECT region, id, note FROM stock_version WHERE operation_type = 0) AS row;
	IF lost > 0 THEN
		RAISE EXCEPTION '% rows are not recorded: %', lost, statement;
	END IF;
EXCEPTION WHEN feature_not_supported OR object_not_in_prerequisite_state THEN
	NULL;
END
$$;
CALL try($$INSERT INTO stock VALUES ('n', 1, 'near')$$);
CALL try($$INSERT INTO stock VALUES ('s', 1, 'near')$$);
CALL try($$INSERT INTO stock VALUES ('f', 1, 'far')$$);
CALL try($$INSERT INTO stock VALUES ('n', 2, 'near'), ('f', 2, 'far'), ('s', 1, 'near')$$);
CALL try($$MERGE INTO stock USING (VALUES ('f', 7)) AS s (region, id) ON s.region = stock.region AND s.id = stock.id
			WHEN NOT MATCHED THEN INSERT VALUES (s.region, s.id, 'merged')$$);
-- the foreign partition itself has no triggers
INSERT INTO stock_far VALUES ('far', 3, 'f');
UPDATE stock_far SET note = 'farther' WHERE id = 3;
SELECT region, id, note FROM stock WHERE region <> 'f';
SELECT region, id, note FROM stock_version WHERE region <> 'f' ORDER BY change_id;
UPDATE stock SET note = 'all';
UPDATE stock_north SET note = 'north';
UPDATE stock SET region = 'f' WHERE region = 'n';
DELETE FROM stock;
TRUNCATE stock;
TRUNCATE stock_south, stock_far;
TRUNCATE stock_north;
SELECT operation_type, region, id, note FROM stock_version WHERE region <> 'f' ORDER BY change_id;
SELECT operation, old ->> 'id' AS id FROM poser_history('stock', '{"region": "n"}');
SELECT * FROM poser_as_of(NULL::stock, now());
SELECT poser_revert('stock', '{"region": "n"}', 1);
SELECT poser_record_versions('stock');
-- without the partition, and with a key, all is as before
ALTER TABLE stock DETACH PARTITION stock_far;
ALTER TABLE stock ADD PRIMARY KEY (region, id);
SELECT poser_track('stock');
INSERT INTO stock VALUES ('n', 9, 'nine');
UPDATE stock SET note = 'again';
SELECT operation_type, region, id, note FROM stock_version WHERE id = 9 ORDER BY change_id;
SELECT problem FROM poser_tables WHERE target = 'stock'::regclass;

-- A table of versions cannot have a foreign partition, nor an unlogged one.
CREATE TABLE line (id int PRIMARY KEY, item text);
CREATE TABLE line_version (id int, item text, operation_type smallint, transaction_id bigint, change_id bigint) PARTITION BY LIST (operation_type);
CREATE TABLE line_version_here PARTITION OF line_version FOR VALUES IN (0, 1);
CREATE TABLE far_version (LIKE line_version);
CREATE FOREIGN TABLE line_version_far (id int, item text, operation_type smallint, transaction_id bigint, change_id bigint) SERVER loopback OPTIONS (table_name 'far_version');
ALTER TABLE line_version ATTACH PARTITION line_version_far FOR VALUES IN (2);
SELECT poser_track('line', versions => 'line_version');
ALTER TABLE line_version DETACH PARTITION line_version_far;
CREATE UNLOGGED TABLE line_version_lost PARTITION OF line_version FOR VALUES IN (2);
SELECT poser_track('line', versions => 'line_version');
DROP TABLE line_version_lost;
SELECT poser_track('line', versions => 'line_version');
ALTER TABLE line_version ATTACH PARTITION line_version_far FOR VALUES IN (2);
INSERT INTO line VALUES (1, 'one');
-- a version without a partition is an error, and nothing is deleted
DELETE FROM line;
TABLE line;

DROP EXTENSION poser CASCADE;
DROP TABLE stock, stock_version, line, line_version, far, far_version;
DROP PROCEDURE try;
DROP EXTENSION postgres_fdw CASCADE;
