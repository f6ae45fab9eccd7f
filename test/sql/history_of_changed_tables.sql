-- The history read and gone back in where columns have been made longer, are
-- GENERATED, or somebody has edited it.

\set VERBOSITY sqlstate
CREATE EXTENSION poser;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c1', 'w1', '1', 'a');
SELECT max(id) AS made FROM poser_transaction \gset

-- varchar(20) made text in both
ALTER TABLE poser_component ALTER item_code TYPE text;
ALTER TABLE poser_component_version ALTER item_code TYPE text;
UPDATE poser_component SET item_code = repeat('1', 30);
SELECT operation, changed, item_code FROM poser_component_history('c1');
SELECT operation, relation, item_code FROM poser_widget_history('w1', with_components => true);
SELECT item_code FROM poser_component_as_of('infinity');
SELECT poser_widget_revert('w1', :made, with_components => true);
SELECT item_code FROM poser_component;

-- an identity column, which no UPDATE can set, keeps its value and comes back with the row
ALTER TABLE poser_widget ADD COLUMN number int GENERATED ALWAYS AS IDENTITY;
ALTER TABLE poser_widget_version ADD COLUMN number int;
SELECT poser_record_versions();
SELECT max(id) AS numbered FROM poser_transaction \gset
UPDATE poser_widget SET number = DEFAULT, description = 'second';
SELECT poser_widget_revert('w1', :numbered);
SELECT description, number FROM poser_widget;
UPDATE poser_widget SET description = 'third';
DELETE FROM poser_component;
DELETE FROM poser_widget;
SELECT poser_widget_revert('w1', :numbered);
SELECT description, number FROM poser_widget;
SELECT object FROM poser_check();

-- transactions that there are not
UPDATE poser_widget_version SET transaction_id = 0;
SELECT transaction_id, username, operation, description FROM poser_widget_history('w1') LIMIT 2;
UPDATE poser_widget_version SET transaction_id = -change_id WHERE operation_type = 0;
SELECT transaction_id < 0 AS negative, username, operation FROM poser_widget_history('w1') WHERE operation = 'insert';

DROP EXTENSION poser;
