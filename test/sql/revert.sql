-- Reverts: a widget and its components become what they were after a transaction.

\set VERBOSITY sqlstate
CREATE EXTENSION poser;
CREATE VIEW rows AS
SELECT 'widget' AS relation, uuid, NULL AS widget_uuid, NULL AS item_code, description, active FROM poser_widget
UNION ALL
SELECT 'component', uuid, widget_uuid, item_code, description, active FROM poser_component
ORDER BY relation DESC, uuid;
CREATE FUNCTION now_at() RETURNS bigint LANGUAGE sql AS 'SELECT max(id) FROM poser_transaction';

SELECT now_at() IS NULL AS nothing;
INSERT INTO poser_widget (uuid, description) VALUES ('other', 'Other');
SELECT now_at() AS before \gset
INSERT INTO poser_widget (uuid, description) VALUES ('lamp', 'Lamp');
SELECT now_at() AS t1 \gset
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('a', 'lamp', '1', 'A'), ('b', 'lamp', '2', 'B'), ('c', 'other', '3', 'C');
SELECT now_at() AS t2 \gset
BEGIN;
UPDATE poser_widget SET description = 'Desk lamp' WHERE uuid = 'lamp';
UPDATE poser_component SET description = 'AA', active = false WHERE uuid = 'a';
DELETE FROM poser_component WHERE uuid = 'b';
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('d', 'lamp', '2', 'D');
UPDATE poser_component SET widget_uuid = 'lamp' WHERE uuid = 'c';
COMMIT;
SELECT now_at() AS t3 \gset
TABLE rows;

-- the widget alone, back and forth; what does not differ is not written
SELECT poser_widget_revert('lamp', :t1);
SELECT description FROM poser_widget WHERE uuid = 'lamp';
SELECT poser_widget_revert('lamp', :t1);
SELECT poser_widget_revert('lamp', :t3);
TABLE rows;
SELECT operation, changed, description FROM poser_widget_history('lamp');

-- with components: a new one is deleted, a deleted one comes back, a changed one is
-- restored, one of another widget moves back
SELECT poser_widget_revert('lamp', :t2, with_components => true);
TABLE rows;
SELECT poser_widget_revert('lamp', :t2, with_components => true);
-- a revert can be reverted
SELECT poser_widget_revert('lamp', :t3, true);
TABLE rows;
-- to a time before it had components
SELECT poser_widget_revert('lamp', :t1, true);
TABLE rows;
SELECT poser_widget_revert('lamp', :t3, true);
-- Each revert is one transaction, of the widget and all of its changed components.
SELECT count(DISTINCT transaction_id), count(*) FROM poser_component_version WHERE transaction_id > :t3;

-- A component that was made later and has moved to another widget stays there.
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('e', 'lamp', '5', 'E');
UPDATE poser_component SET widget_uuid = 'other' WHERE uuid = 'e';
SELECT poser_widget_revert('lamp', :t3, true);
SELECT widget_uuid FROM poser_component WHERE uuid = 'e';
DELETE FROM poser_component WHERE uuid = 'e';

-- to a time before the widget: it is deleted, if its components are, too
SELECT poser_widget_revert('lamp', :before);
TABLE rows;
SELECT poser_widget_revert('lamp', :before, true);
TABLE rows;
-- a deleted widget comes back, alone or with components
SELECT poser_widget_revert('lamp', :t3);
TABLE rows;
SELECT poser_widget_revert('lamp', :t2, true);
TABLE rows;
-- a transaction of another widget is a point in time as well
SELECT poser_widget_revert('other', :t3);
SELECT poser_widget_revert('other', :t1, true);
UPDATE poser_widget SET description = 'Else' WHERE uuid = 'other';
SELECT poser_widget_revert('other', :t3), description FROM poser_widget WHERE uuid = 'other';
SELECT * FROM poser_check();

-- in the middle of a transaction, committed or not
BEGIN;
DELETE FROM poser_component;
DELETE FROM poser_widget;
SAVEPOINT a;
SELECT poser_widget_revert('lamp', :t2, true);
SELECT component_count FROM poser_widget_get('lamp');
ROLLBACK TO a;
SELECT count(*) FROM poser_widget;
ROLLBACK;
TABLE rows;
-- The transaction changed a row several times: its last change counts.
BEGIN;
UPDATE poser_widget SET description = 'first' WHERE uuid = 'lamp';
UPDATE poser_widget SET description = 'second' WHERE uuid = 'lamp';
COMMIT;
SELECT now_at() AS t4 \gset
UPDATE poser_widget SET description = 'third' WHERE uuid = 'lamp';
SELECT poser_widget_revert('lamp', :t4);
SELECT description FROM poser_widget WHERE uuid = 'lamp';
SELECT poser_widget_revert('lamp', :t1), poser_widget_revert('lamp', :t4);
SELECT description FROM poser_widget WHERE uuid = 'lamp';
-- a changed key is another widget
DELETE FROM poser_component WHERE widget_uuid = 'lamp';
UPDATE poser_widget SET uuid = 'light' WHERE uuid = 'lamp';
SELECT poser_widget_revert('lamp', :t3, true);
TABLE rows;

-- a user's constraint, and columns that the history has or lacks
ALTER TABLE poser_component ADD CONSTRAINT one_of_each UNIQUE (widget_uuid, item_code);
ALTER TABLE poser_widget ADD COLUMN colour text DEFAULT 'none', ADD COLUMN size int DEFAULT 1,
	ADD COLUMN number int GENERATED ALWAYS AS (length(description)) STORED;
ALTER TABLE poser_widget_version ADD COLUMN colour text, ADD COLUMN number int;
-- the versions get the present values of the new columns
SELECT poser_record_versions();
UPDATE poser_widget SET colour = 'red', size = 2 WHERE uuid = 'lamp';
SELECT now_at() AS t5 \gset
UPDATE poser_widget SET colour = 'blue', size = 3, description = 'Blue lamp' WHERE uuid = 'lamp';
SELECT poser_widget_revert('lamp', :t5), poser_widget_revert('lamp', :t2, true), poser_widget_revert('lamp', :t3, true);
SELECT poser_widget_revert('lamp', :t5);
TABLE poser_widget;
DELETE FROM poser_component;
DELETE FROM poser_widget WHERE uuid = 'lamp';
SELECT poser_widget_revert('lamp', :t5);
TABLE poser_widget;
SELECT * FROM poser_check();

-- A column that is added with NOT NULL and a default is NULL in all older versions.
-- A revert to one of them is refused, as the column's constraint says.
INSERT INTO poser_widget (uuid, description) VALUES ('vase', 'Vase');
SELECT now_at() AS older \gset
ALTER TABLE poser_widget ADD COLUMN stock int NOT NULL DEFAULT 7;
ALTER TABLE poser_widget_version ADD COLUMN stock int;
SELECT poser_record_versions();
SELECT now_at() AS newer \gset
UPDATE poser_widget SET description = 'Big vase', stock = 8 WHERE uuid = 'vase';
SELECT poser_widget_revert('vase', :older);
SELECT description, stock FROM poser_widget WHERE uuid = 'vase';
DELETE FROM poser_widget WHERE uuid = 'vase';
SELECT poser_widget_revert('vase', :older);
SELECT count(*) FROM poser_widget WHERE uuid = 'vase';
-- Versions that are recorded after that have a value, and can be reverted to.
SELECT poser_widget_revert('vase', :newer);
SELECT description, stock FROM poser_widget WHERE uuid = 'vase';
SELECT * FROM poser_check();
DELETE FROM poser_widget WHERE uuid = 'vase';
ALTER TABLE poser_widget DROP COLUMN stock;
ALTER TABLE poser_widget_version DROP COLUMN stock;

--
-- Errors, which change nothing
--
\set VERBOSITY terse
SELECT poser_widget_revert('lamp', 999999999);
SELECT poser_widget_revert('lamp', 0);
SELECT poser_widget_revert('lamp', -1, true);
SELECT poser_widget_revert('nothing', :t3);
SELECT poser_widget_revert('nothing', :t3, true);
SELECT poser_widget_revert(NULL, :t3);
SELECT poser_widget_revert('lamp', NULL);
SELECT poser_widget_revert('lamp', :t3, NULL);
BEGIN READ ONLY;
SELECT poser_widget_revert('lamp', :t3);
ROLLBACK;
-- A component's widget no longer exists.
SELECT poser_widget_revert('lamp', :t2, true);
DELETE FROM poser_component;
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c', 'lamp', '3', 'C');
DELETE FROM poser_widget WHERE uuid = 'other';
\set VERBOSITY sqlstate
SELECT poser_widget_revert('lamp', :t2, true);
\set VERBOSITY terse
TABLE rows;
SELECT poser_widget_revert('other', :t3);
-- An emptied history: the present rows stay.
BEGIN;
TRUNCATE poser_component_version;
SELECT poser_widget_revert('lamp', :t1, true);
ROLLBACK;
BEGIN;
DELETE FROM poser_widget_version WHERE operation_type = 0;
SELECT poser_widget_revert('other', :before);
ROLLBACK;
-- a pruned history
SELECT poser_prune_versions('0') > 0 AS pruned;
\set VERBOSITY sqlstate
SELECT poser_widget_revert('lamp', :t1, true);
SELECT poser_widget_revert('lamp', :t5);
-- After the pruned transactions every state is known.
DELETE FROM poser_component;
SELECT max(transaction_id) AS horizon FROM poser_version_horizon \gset
SELECT poser_widget_revert('lamp', :horizon, true), poser_widget_revert('light', :horizon, true);
TABLE rows;
SELECT * FROM poser_check();

DROP VIEW rows;
DROP FUNCTION now_at;
DROP EXTENSION poser;
