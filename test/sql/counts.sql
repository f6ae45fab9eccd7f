-- Component counts, statement by statement.

\set VERBOSITY sqlstate
CREATE EXTENSION poser;

-- Views count_differences and shown.
\getenv test PG_ABS_SRCDIR
\set file :test '/include/counts.sql'
\i :file

INSERT INTO poser_widget (uuid, description) VALUES ('w1', ''), ('w2', ''), ('w3', '');
TABLE shown;
TABLE count_differences;

--
-- INSERT: one row, several, a query's
--
INSERT INTO poser_component (uuid, widget_uuid, item_code, description)
VALUES ('c1', 'w1', '', '');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description, active) VALUES
	('c2', 'w1', '', '', true),
	('c3', 'w1', '', '', false),
	('c4', 'w2', '', '', true);
TABLE shown;
INSERT INTO poser_component (widget_uuid, item_code, description, active)
SELECT 'w' || 1 + i % 3, '', '', i % 2 = 0 FROM generate_series(1, 10) AS i;
TABLE shown;
TABLE count_differences;

--
-- UPDATE: of active, of widget_uuid, of both
--
UPDATE poser_component SET active = NOT active WHERE uuid = 'c1';
UPDATE poser_component SET widget_uuid = 'w3' WHERE uuid = 'c4';
UPDATE poser_component SET widget_uuid = 'w2', active = false WHERE uuid = 'c2';
TABLE shown;
TABLE count_differences;

-- many rows, moved in both directions by one statement
UPDATE poser_component
   SET widget_uuid = CASE widget_uuid WHEN 'w1' THEN 'w2' ELSE 'w1' END
 WHERE widget_uuid IN ('w1', 'w2');
TABLE shown;
TABLE count_differences;

-- a duplicate key, a widget that does not exist
UPDATE poser_component SET uuid = 'c1', active = true WHERE uuid = 'c2';
UPDATE poser_component SET widget_uuid = 'none';
TABLE count_differences;

-- Changes of other columns do not touch the counts.
CREATE TEMPORARY TABLE before AS
SELECT ctid AS place, xmin::text AS writer, * FROM poser_component_count;
UPDATE poser_component SET description = 'changed', item_code = '4711';
UPDATE poser_component SET active = active, widget_uuid = widget_uuid;
UPDATE poser_component SET uuid = 'c0' WHERE uuid = 'c1';
UPDATE poser_component SET uuid = 'c1' WHERE uuid = 'c0';
UPDATE poser_widget SET description = 'changed', active = false, uuid = uuid;
UPDATE poser_component SET active = true WHERE false;
DELETE FROM poser_component WHERE false;
INSERT INTO poser_component SELECT * FROM poser_component WHERE false;
SELECT ctid, xmin::text, * FROM poser_component_count
EXCEPT TABLE before;
DROP TABLE before;
TABLE count_differences;

--
-- DELETE
--
DELETE FROM poser_component WHERE uuid = 'c1';
DELETE FROM poser_component WHERE widget_uuid = 'w3';
TABLE shown;
TABLE count_differences;

--
-- Widgets: a new key, a duplicate key, one with components, one without
--
UPDATE poser_widget SET uuid = 'w4' WHERE uuid = 'w3';
UPDATE poser_widget SET uuid = 'w1' WHERE uuid = 'w4';
UPDATE poser_widget SET uuid = 'w5' WHERE uuid = 'w1';
DELETE FROM poser_widget WHERE uuid = 'w1';
INSERT INTO poser_widget (uuid, description) VALUES ('w5', ''), ('w1', 'twice');
TABLE shown;
TABLE count_differences;
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w4', '', '');
INSERT INTO poser_widget (uuid, description) VALUES ('w3', '');
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w3', '', '');
DELETE FROM poser_component WHERE widget_uuid = 'w4';
DELETE FROM poser_widget WHERE uuid = 'w4';
TABLE shown;
TABLE count_differences;

--
-- ON CONFLICT
--
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES
	('c2', 'w3', '', ''),
	('c5', 'w3', '', '')
	ON CONFLICT DO NOTHING;
TABLE shown;
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES
	('c5', 'w2', '', ''),
	('c6', 'w2', '', '')
	ON CONFLICT (uuid) DO UPDATE
	SET widget_uuid = excluded.widget_uuid, active = NOT poser_component.active;
TABLE shown;
TABLE count_differences;

-- only updates, nothing at all, one row twice
INSERT INTO poser_component AS component (uuid, widget_uuid, item_code, description) VALUES
	('c5', 'w1', '', ''),
	('c6', 'w1', '', '')
	ON CONFLICT (uuid) DO UPDATE SET widget_uuid = excluded.widget_uuid WHERE component.active;
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES
	('c5', 'w3', '', ''), ('c6', 'w3', '', '') ON CONFLICT DO NOTHING;
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES
	('c7', 'w3', '', ''), ('c7', 'w2', '', '') ON CONFLICT DO NOTHING;
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES
	('c8', 'w3', '', ''), ('c8', 'w2', '', '')
	ON CONFLICT (uuid) DO UPDATE SET widget_uuid = excluded.widget_uuid;
TABLE shown;
TABLE count_differences;

-- widgets
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'kept'), ('w6', 'new')
	ON CONFLICT DO NOTHING;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'updated'), ('w7', 'new')
	ON CONFLICT (uuid) DO UPDATE SET description = excluded.description;
INSERT INTO poser_widget (uuid, description) VALUES ('w7', '')
	ON CONFLICT (uuid) DO UPDATE SET uuid = 'w8';
TABLE shown;
TABLE count_differences;

--
-- MERGE
--
MERGE INTO poser_component AS target
USING (VALUES ('c2', 'delete'), ('c5', 'move'), ('c6', 'switch'),
              ('c7', 'nothing'), ('m1', 'insert'), ('m2', 'insert'), ('m3', 'not'))
      AS source (uuid, what)
ON target.uuid = source.uuid
WHEN MATCHED AND what = 'delete' THEN DELETE
WHEN MATCHED AND what = 'move' THEN UPDATE SET widget_uuid = 'w6'
WHEN MATCHED AND what = 'switch' THEN UPDATE SET active = NOT active
WHEN MATCHED THEN DO NOTHING
WHEN NOT MATCHED AND what = 'insert' THEN
	INSERT (uuid, widget_uuid, item_code, description) VALUES (source.uuid, 'w6', '', '')
WHEN NOT MATCHED THEN DO NOTHING;
TABLE shown;
TABLE count_differences;

MERGE INTO poser_widget AS target
USING (VALUES ('w8', 'rename'), ('w9', 'insert'), ('w1', 'describe')) AS source (uuid, what)
ON target.uuid = source.uuid
WHEN MATCHED AND what = 'rename' THEN UPDATE SET uuid = 'w10'
WHEN MATCHED THEN UPDATE SET description = what
WHEN NOT MATCHED THEN INSERT (uuid, description) VALUES (source.uuid, what);
MERGE INTO poser_widget AS target
USING (VALUES ('w9')) AS source (uuid) ON target.uuid = source.uuid
WHEN MATCHED THEN DELETE;
TABLE shown;
TABLE count_differences;

--
-- Queries that write in several places
--
DELETE FROM poser_component;
DELETE FROM poser_widget;
TABLE shown;
TABLE count_differences;

-- a widget and its components, in either order
WITH widget AS (
	INSERT INTO poser_widget (uuid, description) VALUES ('w1', ''), ('w2', '') RETURNING uuid)
INSERT INTO poser_component (uuid, widget_uuid, item_code, description)
SELECT 'c' || uuid || i, uuid, '', '' FROM widget, generate_series(1, 3) AS i;
TABLE shown;
WITH component AS (
	INSERT INTO poser_component (uuid, widget_uuid, item_code, description, active)
	VALUES ('cw31', 'w3', '', '', true), ('cw32', 'w3', '', '', false))
INSERT INTO poser_widget (uuid, description) VALUES ('w3', '');
TABLE shown;
TABLE count_differences;

-- components twice, by different operations
WITH inserted AS (
	INSERT INTO poser_component (uuid, widget_uuid, item_code, description)
	VALUES ('c1', 'w1', '', ''), ('c2', 'w2', '', '')),
deleted AS (
	DELETE FROM poser_component WHERE uuid = 'cw11')
UPDATE poser_component SET widget_uuid = 'w3', active = false WHERE uuid IN ('cw12', 'cw21');
TABLE shown;
TABLE count_differences;

-- components twice, by the same operation: two INSERTs, two UPDATEs
WITH more AS (
	INSERT INTO poser_component (uuid, widget_uuid, item_code, description)
	VALUES ('c3', 'w1', '', '') RETURNING *),
moved AS (
	UPDATE poser_component SET active = NOT active WHERE widget_uuid = 'w3' RETURNING *),
again AS (
	UPDATE poser_component SET widget_uuid = 'w1' WHERE uuid = 'cw22' RETURNING *)
INSERT INTO poser_component
SELECT 'x' || uuid, 'w2', '', '', active FROM moved
UNION ALL
SELECT 'x' || uuid, 'w1', '', '', false FROM again
UNION ALL
SELECT 'x' || uuid, 'w3', '', '', true FROM more;
TABLE shown;
TABLE count_differences;

-- components move to a new widget and their old one is deleted, in one query
WITH moved AS (
	UPDATE poser_component SET widget_uuid = 'w4' WHERE widget_uuid = 'w3'),
gone AS (
	DELETE FROM poser_widget WHERE uuid = 'w3')
INSERT INTO poser_widget (uuid, description) VALUES ('w4', '');
WITH gone AS (
	DELETE FROM poser_component WHERE widget_uuid = 'w2')
DELETE FROM poser_widget WHERE uuid = 'w2';
TABLE shown;
TABLE count_differences;

--
-- COPY
--
COPY poser_widget (uuid, description) FROM STDIN;
w5	five
w6	six
\.
COPY poser_component (widget_uuid, item_code, description, active) FROM STDIN;
w5	1	-	t
w5	2	-	f
w1	3	-	t
\.
COPY poser_component (widget_uuid, item_code, description) FROM STDIN WHERE item_code <> '5';
w6	4	-
w6	5	-
\.
TABLE shown;

-- a COPY that fails at its last row leaves nothing
COPY poser_component (widget_uuid, item_code, description) FROM STDIN;
w6	6	-
w6	7	-
none	8	-
\.
TABLE shown;
TABLE count_differences;

--
-- TRUNCATE
--
TRUNCATE poser_component;
TABLE shown;
TABLE count_differences;
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w5', '', '');
TRUNCATE poser_widget;
TABLE shown;
SET client_min_messages = warning;
TRUNCATE poser_widget CASCADE;
RESET client_min_messages;
TABLE shown;
TABLE count_differences;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', ''), ('w2', '');
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w1', '', ''), ('w1', '', '');
TABLE shown;

-- rolled back, and within a transaction that writes before and after
BEGIN;
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w2', '', '');
TRUNCATE poser_component;
TABLE shown;
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w2', '', '');
TABLE shown;
SAVEPOINT truncated;
TRUNCATE poser_component, poser_widget;
TABLE shown;
ROLLBACK TO truncated;
TABLE shown;
ROLLBACK;
TABLE shown;
TABLE count_differences;
BEGIN;
TRUNCATE poser_component;
COPY poser_component (widget_uuid, item_code, description) FROM STDIN (FREEZE);
w2	1	-
w2	2	-
w2	3	-
\.
COMMIT;
TABLE shown;
TABLE count_differences;

-- both, in either order
TRUNCATE poser_widget, poser_component;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', '');
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w1', '', '');
TABLE shown;
TRUNCATE poser_component, poser_widget;
TABLE shown;
SELECT count(*) FROM poser_component_count;

DROP VIEW count_differences, shown;
DROP EXTENSION poser;
