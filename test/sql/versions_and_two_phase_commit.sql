-- Versions and two-phase commit.

\set VERBOSITY sqlstate
SELECT setting::int < 2 AS skip FROM pg_settings WHERE name = 'max_prepared_transactions' \gset
\if :skip
\echo skipped: needs max_prepared_transactions of 2 or more
\quit
\endif
CREATE EXTENSION poser;

-- What has been recorded, in its order; ids are numbered.
CREATE VIEW changes AS
SELECT dense_rank() OVER (ORDER BY transaction_id) AS transaction, relation,
       (ARRAY['insert', 'update', 'delete'])[operation_type + 1] AS operation, uuid, "values"
  FROM (SELECT transaction_id, change_id, operation_type, 'widget' AS relation, uuid,
               concat_ws(' ', description, active) AS "values"
          FROM poser_widget_version
        UNION ALL
        SELECT transaction_id, change_id, operation_type, 'component', uuid,
               concat_ws(' ', widget_uuid, item_code, description, active)
          FROM poser_component_version) AS version
 ORDER BY change_id;

-- Histories that do not begin with an insert, have a change of a row that was
-- not there or an insert of one that was, do not end in the row as it is, or are
-- of no transaction: there must be none.
CREATE VIEW wrong_histories AS
WITH live AS (
	SELECT 'widget' AS relation, uuid, NULL AS widget_uuid, NULL AS item_code, description, active FROM poser_widget
	UNION ALL
	SELECT 'component', uuid, widget_uuid, item_code, description, active FROM poser_component),
version AS (
	SELECT 'widget' AS relation, uuid, NULL AS widget_uuid, NULL AS item_code, description, active,
	       operation_type, transaction_id, change_id FROM poser_widget_version
	UNION ALL
	SELECT 'component', uuid, widget_uuid, item_code, description, active,
	       operation_type, transaction_id, change_id FROM poser_component_version),
placed AS (
	SELECT *, lag(operation_type) OVER own AS before, lead(change_id) OVER own IS NULL AS is_last
	  FROM version WINDOW own AS (PARTITION BY relation, uuid ORDER BY change_id))
SELECT relation, uuid, 'is out of order' AS problem
  FROM placed WHERE (operation_type = 0) <> (before IS NULL OR before = 2)
UNION ALL
SELECT relation, uuid, 'does not end in the row'
  FROM live FULL JOIN (SELECT * FROM placed WHERE is_last AND operation_type <> 2) AS last USING (relation, uuid)
 WHERE (live.widget_uuid, live.item_code, live.description, live.active)
       IS DISTINCT FROM (last.widget_uuid, last.item_code, last.description, last.active)
UNION ALL
SELECT relation, uuid, 'has no transaction before it'
  FROM version
 WHERE NOT EXISTS (SELECT FROM poser_transaction WHERE id = transaction_id AND id < change_id)
UNION ALL
SELECT object, NULL, problem FROM poser_check();

INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one'), ('w2', 'two'), ('w3', 'three');

-- What a prepared transaction has changed is seen when it is committed, with the
-- rest of it.
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
-- the session begins another one, which is not the same
UPDATE poser_widget SET description = 'meanwhile' WHERE uuid = 'w3';
TABLE changes;
COMMIT PREPARED 'regress_poser_1';
TABLE changes;
SELECT username = 'alice' AS alice, count(*) FROM poser_transaction GROUP BY username = 'alice' ORDER BY 1;
TABLE wrong_histories;

-- One that is rolled back has changed nothing.
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
-- the one that is committed last has changes of lower ids than others
BEGIN;
UPDATE poser_widget SET description = 'first' WHERE uuid = 'w4';
PREPARE TRANSACTION 'regress_poser_1';
UPDATE poser_widget SET description = 'second' WHERE uuid = 'w3';
COMMIT PREPARED 'regress_poser_1';
SELECT operation, uuid, "values" FROM changes OFFSET 7;
TABLE wrong_histories;

-- Truncated.
BEGIN ISOLATION LEVEL SERIALIZABLE;
TRUNCATE poser_widget, poser_component;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'again');
PREPARE TRANSACTION 'regress_poser_1';
COMMIT PREPARED 'regress_poser_1';
SELECT operation, uuid, "values" FROM changes OFFSET 10;
TABLE wrong_histories;

DROP VIEW changes, wrong_histories;
DROP EXTENSION poser;
