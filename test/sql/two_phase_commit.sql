-- Component counts and two-phase commit.

\set VERBOSITY sqlstate
SELECT setting::int < 2 AS skip FROM pg_settings WHERE name = 'max_prepared_transactions' \gset
\if :skip
\echo skipped: needs max_prepared_transactions of 2 or more
\quit
\endif
CREATE EXTENSION poser;

-- Views count_differences and shown.
\getenv test PG_ABS_SRCDIR
\set file :test '/include/counts.sql'
\i :file

INSERT INTO poser_widget (uuid, description) VALUES ('w1', ''), ('w2', '');
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w1', '', '');

-- A prepared transaction locks the settled counts that it has changed.
BEGIN;
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w1', '', '');
SAVEPOINT a;
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w1', '', ''), ('w2', '', '');
INSERT INTO poser_widget (uuid, description) VALUES ('w3', '');
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w3', '', '');
TABLE shown;
PREPARE TRANSACTION 'regress_poser_1';
TABLE shown;
TABLE count_differences;

-- Other transactions can still write.  They leave deltas until it ends.
INSERT INTO poser_component (widget_uuid, item_code, description, active)
VALUES ('w1', '', '', false), ('w2', '', '', false);
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w1', '', '');
TABLE shown;
SELECT widget_uuid, sum(total) AS total, sum(active) AS active
  FROM poser_component_count_delta GROUP BY widget_uuid ORDER BY widget_uuid;

-- A second prepared transaction commits before the first.
BEGIN;
DELETE FROM poser_component WHERE NOT active AND widget_uuid = 'w1';
PREPARE TRANSACTION 'regress_poser_2';
TABLE shown;
SELECT poser_recount();
COMMIT PREPARED 'regress_poser_2';
TABLE shown;
SELECT poser_recount();

COMMIT PREPARED 'regress_poser_1';
TABLE shown;

-- The next write to a widget settles its deltas.
UPDATE poser_component SET active = true WHERE widget_uuid = 'w2';
SELECT widget_uuid FROM poser_component_count_delta GROUP BY widget_uuid;
DELETE FROM poser_component WHERE widget_uuid = 'w1';
TABLE shown;
TABLE count_differences;

-- A prepared transaction that only deletes is rolled back.
BEGIN ISOLATION LEVEL SERIALIZABLE;
DELETE FROM poser_component;
DELETE FROM poser_widget WHERE uuid = 'w3';
TABLE shown;
PREPARE TRANSACTION 'regress_poser_1';
TABLE shown;
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w1', '', ''), ('w2', '', '');
TABLE shown;
ROLLBACK PREPARED 'regress_poser_1';
TABLE shown;
SELECT poser_recount();
TABLE count_differences;

-- A prepared TRUNCATE.
BEGIN;
TRUNCATE poser_component;
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w3', '', '');
PREPARE TRANSACTION 'regress_poser_1';
COMMIT PREPARED 'regress_poser_1';
TABLE shown;
TABLE count_differences;

DROP VIEW count_differences, shown;
DROP EXTENSION poser;
