-- A synchronisation of widgets and of their components, each a batch: the foreign
-- key decides about the order.

\set VERBOSITY sqlstate
CREATE EXTENSION poser;
CREATE VIEW shown AS SELECT uuid, description, component_count FROM poser_widget_summary ORDER BY uuid;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'Old'), ('w2', 'Kept');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES
	('c1', 'w1', '1', 'Old'), ('c2', 'w2', '2', 'Kept');

-- In the sources w1 and its component are gone, and w3 is new with a component.
CREATE TABLE widgets AS SELECT uuid, description FROM poser_widget WHERE uuid <> 'w1';
INSERT INTO widgets VALUES ('w3', 'New');
CREATE TABLE components AS SELECT uuid, widget_uuid, item_code, description FROM poser_component WHERE uuid <> 'c1';
INSERT INTO components VALUES ('c3', 'w3', '3', 'New');

-- Two batches with deletes: each needs the other to be executed first.
INSERT INTO poser_batch (uuid, target) VALUES ('widgets', 'poser_widget'), ('components', 'poser_component');
SELECT poser_batch_populate('widgets', 'widgets', deletes => true, unchanged => true),
       poser_batch_populate('components', 'components', deletes => true, unchanged => true);
SELECT batch_uuid, operation, key FROM poser_batch_row ORDER BY batch_uuid, operation;
SELECT * FROM poser_batch_execute('widgets');
SELECT * FROM poser_batch_execute('components');
-- also in one transaction: the key is checked at the end of each statement
BEGIN;
SELECT * FROM poser_batch_execute('widgets');
ROLLBACK;
SELECT count(*) AS executed FROM poser_batch WHERE executed IS NOT NULL;
TABLE shown;

-- A deferrable key is checked at the end of the transaction, whatever is executed
-- first.
ALTER TABLE poser_component ALTER CONSTRAINT poser_component_fk_widget DEFERRABLE;
BEGIN;
SET CONSTRAINTS poser_component_fk_widget DEFERRED;
SELECT * FROM poser_batch_execute('widgets');
SELECT * FROM poser_batch_execute('components');
SAVEPOINT a;
SET CONSTRAINTS poser_component_fk_widget IMMEDIATE;
TABLE shown;
SELECT uuid, widget_uuid FROM poser_component ORDER BY uuid;
ROLLBACK;
BEGIN;
SET CONSTRAINTS poser_component_fk_widget DEFERRED;
SELECT * FROM poser_batch_execute('components');
SELECT * FROM poser_batch_execute('widgets');
COMMIT;
TABLE shown;
SELECT uuid, widget_uuid FROM poser_component ORDER BY uuid;
SELECT * FROM poser_check();
ALTER TABLE poser_component ALTER CONSTRAINT poser_component_fk_widget NOT DEFERRABLE;

-- Or the deletes of widgets are a third batch: widgets are created, then components
-- are synchronised, then widgets are deleted.
UPDATE widgets SET uuid = 'w4' WHERE uuid = 'w3';
UPDATE components SET uuid = 'c4', widget_uuid = 'w4' WHERE uuid = 'c3';
DELETE FROM poser_batch;
INSERT INTO poser_batch (uuid, target) VALUES
	('widgets', 'poser_widget'), ('components', 'poser_component'), ('deletes', 'poser_widget');
SELECT poser_batch_populate('widgets', 'widgets'), poser_batch_populate('components', 'components', deletes => true);
SELECT * FROM poser_batch_execute('widgets');
SELECT * FROM poser_batch_execute('components');
SELECT poser_batch_populate('deletes', 'widgets', deletes => true);
SELECT operation, key FROM poser_batch_row WHERE batch_uuid = 'deletes' ORDER BY key;
SELECT * FROM poser_batch_execute('deletes');
TABLE shown;
SELECT uuid, widget_uuid FROM poser_component ORDER BY uuid;
SELECT * FROM poser_check();

DROP TABLE widgets, components;
DROP VIEW shown;
DROP EXTENSION poser;
