-- Reading the history: when and why each change was made, and in whose name; and the
-- tables at an earlier time.

\set VERBOSITY terse
CREATE EXTENSION poser;

SET poser.runas = 'alice';
SET poser.comment = 'new lamps';
INSERT INTO poser_widget (uuid, description) VALUES ('lamp', 'Lamp'), ('chair', 'Chair');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('bulb', 'lamp', '1', 'Bulb'), ('arm', 'lamp', '2', 'Arm');
SELECT clock_timestamp() AS t1 \gset
SET poser.runas = 'bob';
RESET poser.comment;
UPDATE poser_widget SET description = 'Desk lamp', active = false WHERE uuid = 'lamp';
UPDATE poser_component SET item_code = '10' WHERE uuid = 'bulb';
SELECT clock_timestamp() AS t2 \gset
UPDATE poser_component SET widget_uuid = 'chair' WHERE uuid = 'arm';
DELETE FROM poser_component WHERE uuid = 'bulb';
DELETE FROM poser_widget WHERE uuid = 'lamp';
SELECT clock_timestamp() AS t3 \gset
RESET poser.runas;

-- The newest change comes first.  The first change and a delete list no changed columns.
SELECT username, role_name = current_user AS role_name, comment, operation, changed, uuid, description, active
  FROM poser_widget_history('lamp');
SELECT username, operation, changed, uuid, widget_uuid, item_code, description, active FROM poser_component_history('bulb');
SELECT count(*) FROM poser_widget_history('bulb');
SELECT count(*) FROM poser_widget_history('');
SELECT count(*) FROM poser_widget_history(NULL);
SELECT bool_and(issued_at < :'t1') AS before FROM poser_widget_history('chair');
-- transaction ids decrease from row to row
SELECT bool_and(transaction_id < before) AS descending
  FROM (SELECT transaction_id, lag(transaction_id) OVER () AS before FROM poser_widget_history('lamp')) AS pair;

-- with the changes of its components, also those that moved one to or from the widget
SELECT operation, relation, changed, uuid, description, active, widget_uuid, item_code
  FROM poser_widget_history('lamp', with_components => true);
SELECT operation, relation, changed, uuid, widget_uuid FROM poser_widget_history('chair', with_components => true);
SELECT operation, relation, uuid FROM poser_widget_history('lamp', with_components => false);
SELECT count(*) FROM poser_widget_history('lamp', NULL);

-- the tables as of a time
SELECT * FROM poser_widget_as_of(:'t1') ORDER BY uuid;
SELECT * FROM poser_component_as_of(:'t1') ORDER BY uuid;
SELECT * FROM poser_widget_as_of(:'t2') ORDER BY uuid;
SELECT * FROM poser_component_as_of(:'t2') ORDER BY uuid;
SELECT * FROM poser_widget_as_of(:'t3') ORDER BY uuid;
SELECT * FROM poser_component_as_of(:'t3') ORDER BY uuid;
SELECT count(*) FROM poser_widget_as_of('-infinity');
SELECT count(*) FROM poser_widget_as_of('2000-01-01');
SELECT count(*) FROM poser_widget_as_of(NULL);
SELECT * FROM poser_widget_as_of('infinity') EXCEPT TABLE poser_widget;
TABLE poser_component EXCEPT SELECT * FROM poser_component_as_of('infinity');
-- exactly at a transaction's time
SELECT count(*) FROM poser_widget_as_of((SELECT min(issued_at) FROM poser_transaction));
SELECT count(*) FROM poser_widget_as_of((SELECT min(issued_at) - interval '1 microsecond' FROM poser_transaction));

-- The times of concurrent transactions can be in another order than their ids.  The
-- state at a time includes all transactions up to the last id issued until then.
UPDATE poser_transaction AS t SET issued_at = o.issued_at
  FROM (SELECT id, lag(issued_at) OVER (ORDER BY id) AS issued_at FROM poser_transaction ORDER BY id OFFSET 1 LIMIT 1) AS o
 WHERE t.id = o.id;
UPDATE poser_transaction SET issued_at = issued_at + interval '1 microsecond' WHERE id = (SELECT min(id) FROM poser_transaction);
SELECT count(*) FROM poser_widget_as_of((SELECT issued_at FROM poser_transaction ORDER BY id OFFSET 1 LIMIT 1));

-- each snapshot reads the history that it sees
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM poser_widget;
UPDATE poser_widget SET description = 'Armchair' WHERE uuid = 'chair';
SAVEPOINT a;
UPDATE poser_widget SET description = 'Sofa' WHERE uuid = 'chair';
SELECT operation, description FROM poser_widget_history('chair');
ROLLBACK TO a;
SELECT operation, description FROM poser_widget_history('chair');
SELECT * FROM poser_widget_as_of('infinity');
ROLLBACK;

-- a cursor, a plan, a join, a query in parallel, a read-only transaction
SET poser.runas = 'carol';
INSERT INTO poser_widget (uuid, description) SELECT 'w' || i, 'Many' FROM generate_series(1, 1000) AS i;
PREPARE history(varchar) AS SELECT operation, username FROM poser_widget_history($1);
EXECUTE history('lamp');
EXECUTE history('w7');
BEGIN READ ONLY;
DECLARE c CURSOR FOR SELECT operation FROM poser_widget_history('lamp');
FETCH 2 FROM c;
SELECT count(*) FROM poser_widget AS w, poser_widget_history(w.uuid);
COMMIT;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SELECT count(*) FROM poser_widget_as_of('infinity');
SELECT count(*), count(h.username) FROM poser_widget AS w LEFT JOIN LATERAL poser_widget_history(w.uuid) AS h ON true;
RESET parallel_setup_cost;
RESET parallel_tuple_cost;
RESET min_parallel_table_scan_size;

-- histories too long for the memory
UPDATE poser_widget SET description = 'x' WHERE uuid = 'chair';
DO $$ BEGIN FOR i IN 1 .. 2500 LOOP UPDATE poser_widget SET description = i WHERE uuid = 'chair'; END LOOP; END $$;
SET work_mem = '64kB';
SELECT count(*), count(DISTINCT description), count(DISTINCT transaction_id), min(changed), max(changed)
  FROM poser_widget_history('chair');
SELECT description FROM poser_widget_history('chair') LIMIT 3;
SELECT description FROM poser_widget_as_of('infinity') WHERE uuid = 'chair';
RESET work_mem;

-- columns that users have added
ALTER TABLE poser_widget ADD COLUMN colour text, ADD COLUMN size int;
ALTER TABLE poser_widget_version ADD COLUMN colour text;
UPDATE poser_widget SET colour = 'red', size = 7 WHERE uuid = 'chair';
UPDATE poser_widget SET size = 8 WHERE uuid = 'chair';
SELECT operation, changed FROM poser_widget_history('chair') LIMIT 2;
SELECT colour, size FROM poser_widget_as_of('infinity') WHERE uuid = 'chair';
SELECT * FROM poser_check();
ALTER TABLE poser_widget DROP COLUMN size;
SELECT colour FROM poser_widget_as_of('infinity') WHERE uuid = 'chair';
SELECT * FROM poser_check();

DEALLOCATE history;
DROP EXTENSION poser;
