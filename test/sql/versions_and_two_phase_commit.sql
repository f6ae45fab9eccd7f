-- Versions and two-phase commit.

\set VERBOSITY sqlstate
SELECT setting::int < 2 AS skip FROM pg_settings WHERE name = 'max_prepared_transactions' \gset
\if :skip
\echo skipped: needs max_prepared_transactions of 2 or more
\quit
\endif
CREATE EXTENSION poser;

-- Views changes and wrong_histories, procedure start_afresh().
\getenv test PG_ABS_SRCDIR
\set file :test '/include/versions.sql'
\i :file

INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one'), ('w2', 'two'), ('w3', 'three');

-- The versions of a prepared transaction become visible at its commit, like its other
-- rows.
BEGIN;
SET LOCAL poser.runas = 'alice';
UPDATE poser_widget SET description = 'prepared' WHERE uuid = 'w1';
SAVEPOINT a;
UPDATE poser_widget SET description = 'undone' WHERE uuid = 'w1';
ROLLBACK TO a;
SAVEPOINT b;
DELETE FROM poser_widget WHERE uuid = 'w2';
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c1', 'w1', '1', '');
PREPARE TRANSACTION 'regress_poser_1';
TABLE changes;
TABLE wrong_histories;
-- The session's next transaction is another one.
UPDATE poser_widget SET description = 'meanwhile' WHERE uuid = 'w3';
TABLE changes;
COMMIT PREPARED 'regress_poser_1';
TABLE changes;
SELECT username = 'alice' AS alice, count(*) FROM poser_transaction GROUP BY username = 'alice' ORDER BY 1;
TABLE wrong_histories;

-- A prepared transaction that is rolled back has changed nothing.
BEGIN;
DELETE FROM poser_component;
DELETE FROM poser_widget;
PREPARE TRANSACTION 'regress_poser_1';
BEGIN;
INSERT INTO poser_widget (uuid, description) VALUES ('w4', 'four');
PREPARE TRANSACTION 'regress_poser_2';
ROLLBACK PREPARED 'regress_poser_1';
TABLE changes;
COMMIT PREPARED 'regress_poser_2';
-- The change that is committed last can have the lowest id.
BEGIN;
UPDATE poser_widget SET description = 'first' WHERE uuid = 'w4';
PREPARE TRANSACTION 'regress_poser_1';
UPDATE poser_widget SET description = 'second' WHERE uuid = 'w3';
COMMIT PREPARED 'regress_poser_1';
SELECT operation, uuid, "values" FROM changes OFFSET 7;
TABLE wrong_histories;

-- A prepared TRUNCATE.
BEGIN ISOLATION LEVEL SERIALIZABLE;
TRUNCATE poser_widget, poser_component;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'again');
PREPARE TRANSACTION 'regress_poser_1';
COMMIT PREPARED 'regress_poser_1';
SELECT operation, uuid, "values" FROM changes OFFSET 10;
TABLE wrong_histories;

DROP PROCEDURE start_afresh;
DROP VIEW changes, wrong_histories;
DROP EXTENSION poser;
