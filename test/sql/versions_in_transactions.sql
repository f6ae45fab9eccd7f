-- Versions in transactions: several changes of one row, savepoints, caught errors,
-- isolation levels.

\set VERBOSITY sqlstate
CREATE EXTENSION poser;

-- Views changes and wrong_histories, procedure start_afresh().
\getenv test PG_ABS_SRCDIR
\set file :test '/include/versions.sql'
\i :file

--
-- Several changes of one row
--
BEGIN;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one'), ('w2', 'two'), ('w3', 'three');
UPDATE poser_widget SET description = 'inserted, updated' WHERE uuid = 'w1';
UPDATE poser_widget SET description = 'inserted, updated twice' WHERE uuid = 'w1';
DELETE FROM poser_widget WHERE uuid = 'w2';
COMMIT;
BEGIN;
UPDATE poser_widget SET description = 'updated' WHERE uuid = 'w3';
UPDATE poser_widget SET description = 'updated back' WHERE uuid = 'w3';
UPDATE poser_widget SET description = 'updated' WHERE uuid = 'w3';
DELETE FROM poser_widget WHERE uuid = 'w3';
COMMIT;
BEGIN;
DELETE FROM poser_widget WHERE uuid = 'w1';
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'deleted, inserted');
DELETE FROM poser_widget WHERE uuid = 'w1';
COMMIT;
TABLE changes;
TABLE wrong_histories;
-- Each transaction has one row in poser_transaction, with its xact.
BEGIN;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one');
UPDATE poser_widget SET active = false;
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c1', 'w1', '1', '');
SELECT count(*) FROM poser_transaction WHERE xact = pg_current_xact_id();
COMMIT;
SELECT count(*), count(DISTINCT xact) FROM poser_transaction;

--
-- A rollback leaves no versions
--
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one');
BEGIN;
UPDATE poser_widget SET description = 'undone';
DELETE FROM poser_widget;
ROLLBACK;
BEGIN;
UPDATE poser_widget SET description = 'undone';
SELECT 1 / 0;
COMMIT;
-- an error at the end of the statement, after its versions were written
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c1', 'none', '1', '');
-- an error at its second row
INSERT INTO poser_widget (uuid, description) VALUES ('w2', 'two'), ('w1', 'is there');
TABLE changes;
SELECT count(*) FROM poser_transaction;
TABLE wrong_histories;

--
-- Savepoints
--
CALL start_afresh();
BEGIN;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one');
SAVEPOINT a;
UPDATE poser_widget SET description = 'undone';
INSERT INTO poser_widget (uuid, description) VALUES ('w2', 'undone');
ROLLBACK TO a;
UPDATE poser_widget SET description = 'after it';
SAVEPOINT b;
UPDATE poser_widget SET description = 'within another';
RELEASE b;
COMMIT;
TABLE changes;
TABLE wrong_histories;

-- The transaction's own row is rolled back with the savepoint, and written again.
CALL start_afresh();
BEGIN;
SAVEPOINT a;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'undone');
ROLLBACK TO a;
SELECT count(*) FROM poser_transaction;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one');
SAVEPOINT b;
UPDATE poser_widget SET active = false;
SELECT count(*) FROM poser_transaction;
COMMIT;
TABLE changes;
TABLE wrong_histories;
-- savepoints at any depth, released or not
CALL start_afresh();
BEGIN;
SAVEPOINT a;
SAVEPOINT b;
SAVEPOINT c;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'undone with a');
RELEASE c;
UPDATE poser_widget SET description = 'undone with a, too';
RELEASE b;
UPDATE poser_widget SET description = 'still undone with a';
SELECT count(*) FROM poser_transaction;
ROLLBACK TO a;
SELECT count(*) FROM poser_transaction;
SAVEPOINT d;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'undone with d');
ROLLBACK TO d;
SAVEPOINT e;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'stays');
RELEASE e;
SAVEPOINT f;
UPDATE poser_widget SET description = 'undone with f';
ROLLBACK TO f;
UPDATE poser_widget SET description = 'stays, too';
COMMIT;
SELECT count(*) FROM poser_transaction;
TABLE changes;
TABLE wrong_histories;
-- All writes were rolled back to a savepoint: the transaction leaves nothing.
CALL start_afresh();
BEGIN;
SAVEPOINT a;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'undone');
ROLLBACK TO a;
COMMIT;
SELECT count(*) FROM poser_transaction;
TABLE changes;

--
-- Errors that PL/pgSQL catches
--
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one'), ('w2', 'two');
DO $$
BEGIN
	BEGIN
		UPDATE poser_widget SET description = 'undone' WHERE uuid = 'w1';
		RAISE EXCEPTION 'caught';
	EXCEPTION WHEN raise_exception THEN
		UPDATE poser_widget SET description = 'by the handler' WHERE uuid = 'w1';
	END;
	FOR i IN 1..5 LOOP
		BEGIN
			INSERT INTO poser_widget (uuid, description) VALUES ('w' || i, 'in the loop');
			IF i = 4 THEN
				RAISE EXCEPTION 'caught';
			END IF;
		EXCEPTION
			WHEN unique_violation THEN
				UPDATE poser_widget SET description = 'was there' WHERE uuid = 'w' || i;
			WHEN raise_exception THEN
				NULL;
		END;
	END LOOP;
END
$$;
SELECT count(*) FROM poser_transaction;
TABLE changes;
TABLE wrong_histories;
-- a nested statement fails, at its end and in between
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one');
CREATE FUNCTION write_and_fail(uuid varchar) RETURNS varchar LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO poser_widget (uuid, description) VALUES (uuid || 'a', 'nested');
	BEGIN
		INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES (uuid, 'none', '', '');
	EXCEPTION WHEN foreign_key_violation THEN
		RETURN 'caught';
	END;
END
$$;
UPDATE poser_widget SET description = write_and_fail(uuid);
INSERT INTO poser_widget (uuid, description) SELECT 'w' || i, write_and_fail('n' || i) FROM generate_series(2, 3) AS i;
SELECT transaction, relation, operation, uuid, "values" FROM changes ORDER BY transaction, uuid;
TABLE wrong_histories;
DROP FUNCTION write_and_fail;

-- A procedure that commits: each transaction has its own row.
CALL start_afresh();
CREATE PROCEDURE commit_each(n int) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..n LOOP
		INSERT INTO poser_widget (uuid, description) VALUES ('w' || i, 'one');
		UPDATE poser_widget SET active = false WHERE uuid = 'w' || i;
		IF i % 2 = 0 THEN
			ROLLBACK;
		ELSE
			COMMIT;
		END IF;
	END LOOP;
END
$$;
CALL commit_each(4);
SELECT count(*) FROM poser_transaction;
TABLE changes;
TABLE wrong_histories;
DROP PROCEDURE commit_each;
-- Statements sent in one message are one transaction.
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one')\; UPDATE poser_widget SET active = false\; DELETE FROM poser_widget;
TABLE changes;
-- Chained transactions are two.
BEGIN;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one');
COMMIT AND CHAIN;
UPDATE poser_widget SET active = false;
COMMIT;
SELECT count(*), count(DISTINCT xact) FROM poser_transaction;
TABLE wrong_histories;

--
-- One snapshot for the transaction
--
CALL start_afresh();
BEGIN ISOLATION LEVEL REPEATABLE READ;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one');
SAVEPOINT a;
DELETE FROM poser_widget;
ROLLBACK TO a;
UPDATE poser_widget SET uuid = 'w2';
SELECT operation, uuid FROM poser_widget_history('w1');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
UPDATE poser_widget SET active = false;
TRUNCATE poser_widget, poser_component;
TABLE changes;
COMMIT;
TABLE wrong_histories;

-- Deferred constraints, and triggers that write at the commit: it is still one
-- transaction.
CALL start_afresh();
ALTER TABLE poser_component ALTER CONSTRAINT poser_component_fk_widget DEFERRABLE INITIALLY DEFERRED;
CREATE FUNCTION write_at_the_end() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	UPDATE poser_widget SET description = 'has ' || NEW.uuid WHERE uuid = NEW.widget_uuid;
	RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER write_at_the_end AFTER INSERT ON poser_component DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION write_at_the_end();
BEGIN;
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c1', 'w1', '1', '');
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one');
COMMIT;
SELECT count(*) FROM poser_transaction;
TABLE changes;
TABLE wrong_histories;
BEGIN;
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c2', 'none', '2', '');
COMMIT;
SELECT count(*) FROM poser_transaction;
DROP FUNCTION write_at_the_end CASCADE;
ALTER TABLE poser_component ALTER CONSTRAINT poser_component_fk_widget NOT DEFERRABLE;

DROP PROCEDURE start_afresh;
DROP VIEW changes, wrong_histories;
DROP EXTENSION poser;
