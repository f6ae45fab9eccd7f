-- Own tables with composite keys and two-phase commit.

\set VERBOSITY sqlstate
SELECT setting::int < 2 AS skip FROM pg_settings WHERE name = 'max_prepared_transactions' \gset
\if :skip
\echo skipped: needs max_prepared_transactions of 2 or more
\quit
\endif
SET client_min_messages = warning;
CREATE EXTENSION poser;

-- Tables invoice and invoice_line, views changes, by_row and wrong_histories, procedure start_afresh().
\getenv test PG_ABS_SRCDIR
\set file :test '/include/own_versions.sql'
\i :file

INSERT INTO invoice VALUES (1, 'one', 2026), (2, 'two', 2026), (3, 'three', 2026);
INSERT INTO invoice_line VALUES (2026, 1, 1, 'lamp'), (2026, 2, 1, 'chair');

-- The versions of a prepared transaction become visible at its commit, those of the rows
-- that cascades change as well.
BEGIN;
SET LOCAL poser.runas = 'alice';
UPDATE invoice SET number = 1.0, note = 'prepared' WHERE number = 1;
SAVEPOINT a;
UPDATE invoice SET note = 'undone' WHERE number = 1;
ROLLBACK TO a;
SAVEPOINT b;
DELETE FROM invoice WHERE number = 2;
PREPARE TRANSACTION 'regress_poser_1';
TABLE changes;
TABLE wrong_histories;
-- The session's next transaction is another one.
UPDATE invoice SET note = 'meanwhile' WHERE number = 3;
TABLE changes;
COMMIT PREPARED 'regress_poser_1';
TABLE changes;
SELECT username = 'alice' AS alice, count(*) FROM poser_transaction GROUP BY username = 'alice' ORDER BY 1;
TABLE wrong_histories;

-- A prepared transaction that is rolled back has changed nothing.
BEGIN;
DELETE FROM invoice;
PREPARE TRANSACTION 'regress_poser_1';
BEGIN;
INSERT INTO invoice VALUES (4, 'four', 2026);
PREPARE TRANSACTION 'regress_poser_2';
ROLLBACK PREPARED 'regress_poser_1';
COMMIT PREPARED 'regress_poser_2';
-- The change that is committed last can have the lowest id.
BEGIN;
UPDATE invoice SET note = 'first' WHERE number = 4;
PREPARE TRANSACTION 'regress_poser_1';
UPDATE invoice SET note = 'second' WHERE number = 3;
COMMIT PREPARED 'regress_poser_1';
SELECT operation, key, value FROM changes OFFSET 10;
TABLE wrong_histories;

-- A prepared TRUNCATE, and a table that is tracked, altered and pruned in prepared transactions.
BEGIN ISOLATION LEVEL SERIALIZABLE;
TRUNCATE invoice, invoice_line;
INSERT INTO invoice VALUES (1, 'again', 2026);
PREPARE TRANSACTION 'regress_poser_1';
COMMIT PREPARED 'regress_poser_1';
SELECT operation, key, value FROM changes OFFSET 13;
TABLE wrong_histories;
CREATE TABLE customer (id int PRIMARY KEY, name text);
INSERT INTO customer VALUES (1, 'one');
BEGIN;
SELECT FROM poser_track('customer');
UPDATE customer SET name = 'two';
PREPARE TRANSACTION 'regress_poser_1';
COMMIT PREPARED 'regress_poser_1';
BEGIN;
ALTER TABLE customer ADD mail text;
SELECT FROM poser_track('customer');
INSERT INTO customer VALUES (2, 'undone', 'x');
PREPARE TRANSACTION 'regress_poser_1';
ROLLBACK PREPARED 'regress_poser_1';
UPDATE customer SET name = 'three';
SELECT operation_type, id, name FROM customer_version ORDER BY change_id;
-- pruning lets its own deletions pass in its own transaction only
BEGIN;
SELECT poser_prune_versions('0', target => 'customer');
PREPARE TRANSACTION 'regress_poser_1';
DELETE FROM invoice_version;
COMMIT PREPARED 'regress_poser_1';
DELETE FROM customer_version;
SELECT operation_type, id, name FROM customer_version ORDER BY change_id;
SELECT * FROM poser_check('customer');

DROP PROCEDURE start_afresh;
DROP VIEW changes, by_row, wrong_histories;
DROP EXTENSION poser CASCADE;
DROP TABLE invoice, invoice_line, invoice_version, invoice_line_version, customer, customer_version;
