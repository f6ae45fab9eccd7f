-- Own tables with composite keys in transactions: several changes of one row, savepoints,
-- caught errors, cascades between tracked tables, deferred constraints, isolation levels.

\set VERBOSITY sqlstate
SET client_min_messages = warning;
CREATE EXTENSION poser;

-- Tables invoice and invoice_line, views changes, by_row and wrong_histories, procedure start_afresh().
\getenv test PG_ABS_SRCDIR
\set file :test '/include/own_versions.sql'
\i :file

--
-- Several changes of one row
--
BEGIN;
INSERT INTO invoice VALUES (1, 'one', 2026), (2, 'two', 2026), (3, 'three', 2026);
UPDATE invoice SET note = 'inserted, updated' WHERE number = 1;
UPDATE invoice SET note = 'inserted, updated twice' WHERE number = 1;
DELETE FROM invoice WHERE number = 2;
COMMIT;
BEGIN;
UPDATE invoice SET note = 'updated' WHERE number = 3;
UPDATE invoice SET note = 'three' WHERE number = 3;
UPDATE invoice SET number = 3.0 WHERE number = 3;
DELETE FROM invoice WHERE number = 3;
INSERT INTO invoice VALUES (3.00, 'again', 2026);
COMMIT;
TABLE changes;
TABLE wrong_histories;

--
-- Rollbacks, savepoints, caught errors
--
CALL start_afresh();
INSERT INTO invoice VALUES (1, 'one', 2026);
BEGIN;
UPDATE invoice SET note = 'undone';
INSERT INTO invoice_line VALUES (2026, 1, 1, 'undone');
ROLLBACK;
-- an error at the end of the statement, and one at its second row
INSERT INTO invoice_line VALUES (2026, 1, 1, 'has an invoice'), (2026, 2, 1, 'has none');
INSERT INTO invoice VALUES (2, 'two', 2026), (1.0, 'is there', 2026);
BEGIN;
SAVEPOINT a;
SAVEPOINT b;
INSERT INTO invoice VALUES (2, 'undone with a', 2026);
INSERT INTO invoice_line VALUES (2026, 2, 1, 'undone with a');
RELEASE b;
UPDATE invoice SET year = 2027;
SELECT count(*) FROM poser_transaction;
ROLLBACK TO a;
SELECT count(*) FROM poser_transaction;
SAVEPOINT c;
INSERT INTO invoice VALUES (2, 'stays', 2026);
RELEASE c;
SAVEPOINT d;
DELETE FROM invoice;
ROLLBACK TO d;
INSERT INTO invoice_line VALUES (2026, 2, 1, 'stays');
COMMIT;
DO $$
BEGIN
	FOR i IN 1..4 LOOP
		BEGIN
			INSERT INTO invoice VALUES (i, 'in the loop', 2026);
			IF i = 4 THEN
				RAISE EXCEPTION 'caught';
			END IF;
		EXCEPTION
			WHEN unique_violation THEN
				UPDATE invoice SET note = 'was there' WHERE (year, number) = (2026, i);
			WHEN raise_exception THEN
				NULL;
		END;
	END LOOP;
END
$$;
TABLE changes;
SELECT count(*), count(DISTINCT xact) FROM poser_transaction;
TABLE wrong_histories;
-- all writes were rolled back to a savepoint: the transaction leaves nothing
CALL start_afresh();
BEGIN;
SAVEPOINT a;
INSERT INTO invoice VALUES (1, 'undone', 2026);
ROLLBACK TO a;
COMMIT;
SELECT count(*) FROM poser_transaction;
TABLE changes;
-- a procedure that commits, and chained transactions
CREATE PROCEDURE commit_each(n int) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..n LOOP
		INSERT INTO invoice VALUES (i, 'one', 2026);
		UPDATE invoice SET note = 'two' WHERE number = i;
		IF i % 2 = 0 THEN
			ROLLBACK;
		ELSE
			COMMIT;
		END IF;
	END LOOP;
END
$$;
CALL commit_each(4);
BEGIN;
DELETE FROM invoice WHERE number = 1;
COMMIT AND CHAIN;
INSERT INTO invoice VALUES (1.0, 'one', 2026);
COMMIT;
TABLE changes;
TABLE wrong_histories;
DROP PROCEDURE commit_each;

--
-- Cascades
--
CALL start_afresh();
INSERT INTO invoice VALUES (1, 'one', 2026), (2, 'two', 2026);
INSERT INTO invoice_line SELECT 2026, i, l, 'item' FROM generate_series(1, 2) AS i, generate_series(1, 2) AS l;
-- the key of the invoice changes, and with it those of its lines; then another value of the same key
UPDATE invoice SET year = 2027 WHERE number = 1;
UPDATE invoice SET number = 2.0 WHERE number = 2;
DELETE FROM invoice WHERE number = 2;
SELECT * FROM by_row;
TABLE wrong_histories;
-- in one statement with changes of the lines, and undone
WITH moved AS (
	UPDATE invoice SET year = 2028 WHERE number = 1)
UPDATE invoice_line SET item = 'new' WHERE (year, number, line) = (2027, 1, 1);
BEGIN;
DELETE FROM invoice;
ROLLBACK;
WITH line AS (
	DELETE FROM invoice_line WHERE line = 1)
DELETE FROM invoice WHERE number = 1;
SELECT * FROM by_row WHERE key LIKE '2028%';
TABLE invoice_line;
TABLE wrong_histories;
-- SET NULL and SET DEFAULT, in a table that refers to itself
CREATE TABLE part (assembly int, id int, in_assembly int DEFAULT 0, in_part int DEFAULT 0, PRIMARY KEY (id, assembly),
	FOREIGN KEY (in_assembly, in_part) REFERENCES part (assembly, id) MATCH FULL ON DELETE SET NULL ON UPDATE SET DEFAULT);
SELECT FROM poser_track('part');
INSERT INTO part VALUES (0, 0, NULL, NULL), (1, 1, NULL, NULL), (1, 2, 1, 1), (1, 3, 1, 2), (1, 4, 1, 4);
UPDATE part SET id = 20 WHERE id = 2;
DELETE FROM part WHERE id = 1;
DELETE FROM part WHERE id = 4;
SELECT (ARRAY['insert', 'update', 'delete'])[operation_type + 1] AS operation, assembly, id, in_assembly, in_part FROM part_version ORDER BY id, change_id;
SELECT * FROM part EXCEPT SELECT assembly, id, in_assembly, in_part FROM poser_as_of(NULL::part, 'infinity');
SELECT * FROM poser_check('part');
DROP TABLE part, part_version;

--
-- Deferred constraints
--
CALL start_afresh();
ALTER TABLE invoice_line ALTER CONSTRAINT line_of_invoice DEFERRABLE INITIALLY DEFERRED;
CREATE FUNCTION write_at_the_end() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	UPDATE invoice SET note = note || ', has line ' || NEW.line WHERE (year, number) = (NEW.year, NEW.number);
	RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER write_at_the_end AFTER INSERT ON invoice_line DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION write_at_the_end();
BEGIN;
INSERT INTO invoice_line VALUES (2026, 1, 1, 'before its invoice'), (2026, 1, 2, 'before its invoice');
INSERT INTO invoice VALUES (1, 'one', 2026);
COMMIT;
-- an error at the commit
BEGIN;
INSERT INTO invoice_line VALUES (2026, 9, 1, 'has none');
COMMIT;
-- a cascade of a foreign key that is deferred
BEGIN;
UPDATE invoice SET number = 2;
DELETE FROM invoice;
COMMIT;
SELECT count(*) FROM poser_transaction;
SELECT * FROM by_row;
TABLE wrong_histories;
DROP FUNCTION write_at_the_end CASCADE;
ALTER TABLE invoice_line ALTER CONSTRAINT line_of_invoice NOT DEFERRABLE;

-- A deferrable key: two rows have the same key for a while.
CREATE TABLE place (shelf int, place numeric, item text, PRIMARY KEY (shelf, place) DEFERRABLE INITIALLY DEFERRED);
SELECT FROM poser_track('place');
CREATE VIEW places AS
SELECT dense_rank() OVER (ORDER BY transaction_id) AS t, (ARRAY['insert', 'update', 'delete'])[operation_type + 1] AS operation, shelf, place, item
  FROM place_version ORDER BY change_id;
-- rows that differ from those in which their histories end
CREATE VIEW wrong_places AS
WITH last AS (
	SELECT shelf, place, item FROM (SELECT DISTINCT ON (shelf, place) * FROM place_version ORDER BY shelf, place, change_id DESC) AS v WHERE operation_type <> 2)
(TABLE place EXCEPT TABLE last) UNION ALL (TABLE last EXCEPT TABLE place);
INSERT INTO place VALUES (1, 1, 'a'), (1, 2, 'b'), (1, 3, 'c');
-- all places move on in one statement
UPDATE place SET place = place + 1;
-- two exchange their places by several statements
BEGIN;
UPDATE place SET place = 3 WHERE item = 'a';
UPDATE place SET place = 2.0 WHERE item = 'b';
COMMIT;
-- the key is taken before the row that has it goes
BEGIN;
INSERT INTO place VALUES (1, 4, 'd');
UPDATE place SET item = 'dd' WHERE item = 'd';
DELETE FROM place WHERE item = 'c';
COMMIT;
BEGIN;
SAVEPOINT a;
INSERT INTO place VALUES (1, 4, 'undone');
UPDATE place SET place = 5 WHERE item = 'dd';
ROLLBACK TO a;
UPDATE place SET place = 4.0 WHERE item = 'dd';
COMMIT;
-- the key is still there twice at the end
BEGIN;
INSERT INTO place VALUES (1, 4, 'e');
COMMIT;
SELECT t, operation, shelf, place, item FROM places ORDER BY t, shelf, place, row_number() OVER ();
TABLE wrong_places;
TABLE place ORDER BY place;
SELECT * FROM poser_check('place');
DROP VIEW places, wrong_places;
DROP TABLE place, place_version;

--
-- One snapshot for the transaction
--
CALL start_afresh();
BEGIN ISOLATION LEVEL REPEATABLE READ;
INSERT INTO invoice VALUES (1, 'one', 2026);
SAVEPOINT a;
DELETE FROM invoice;
ROLLBACK TO a;
UPDATE invoice SET year = 2027;
SELECT operation, new -> 'year' AS year FROM poser_history('invoice', '{"number": 1}');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
UPDATE invoice SET note = 'two';
INSERT INTO invoice_line VALUES (2027, 1, 1, 'one');
TRUNCATE invoice CASCADE;
INSERT INTO invoice VALUES (1, 'three', 2027);
TABLE changes;
COMMIT;
TABLE wrong_histories;

DROP PROCEDURE start_afresh;
DROP VIEW changes, by_row, wrong_histories;
DROP EXTENSION poser CASCADE;
DROP TABLE invoice, invoice_line, invoice_version, invoice_line_version;
