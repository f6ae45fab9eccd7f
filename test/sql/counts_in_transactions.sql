-- Component counts in transactions: savepoints, errors, isolation levels,
-- cursors.

\set VERBOSITY sqlstate
CREATE EXTENSION poser;

-- Views count_differences and shown.
\getenv test PG_ABS_SRCDIR
\set file :test '/include/counts.sql'
\i :file

INSERT INTO poser_widget (uuid, description) VALUES ('w1', ''), ('w2', '');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES
	('c1', 'w1', '', ''), ('c2', 'w2', '', '');

--
-- Several statements, and what a rollback leaves
--
BEGIN;
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w1', '', '');
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w1', '', '');
DELETE FROM poser_component WHERE uuid = 'c2';
INSERT INTO poser_widget (uuid, description) VALUES ('w3', '');
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w3', '', '');
TABLE shown;
TABLE count_differences;
ROLLBACK;
TABLE shown;
TABLE count_differences;

--
-- Savepoints
--
BEGIN;
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w1', '', '');
SAVEPOINT a;
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w1', '', '');
UPDATE poser_component SET active = false;
SAVEPOINT b;
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w1', '', ''), ('w2', '', '');
SAVEPOINT c;
DELETE FROM poser_component;
DELETE FROM poser_widget WHERE uuid = 'w2';
TABLE shown;
ROLLBACK TO c;
TABLE shown;
TABLE count_differences;
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w2', '', '');
RELEASE b;
TABLE shown;
TABLE count_differences;
ROLLBACK TO a;
TABLE shown;
TABLE count_differences;
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w1', '', '');
SAVEPOINT a;
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w1', '', '');
RELEASE a;
ROLLBACK TO a;
RELEASE a;
TABLE shown;
TABLE count_differences;
COMMIT;
TABLE shown;
TABLE count_differences;

-- A savepoint is rolled back that has the transaction's first write.
BEGIN;
SAVEPOINT a;
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w2', '', '');
ROLLBACK TO a;
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w2', '', '');
COMMIT;
TABLE shown;
TABLE count_differences;

-- A widget is made, undone and made again.
BEGIN;
SAVEPOINT a;
INSERT INTO poser_widget (uuid, description) VALUES ('w3', '');
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w3', '', '');
ROLLBACK TO a;
INSERT INTO poser_widget (uuid, description) VALUES ('w3', '');
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w3', '', ''), ('w3', '', '');
DELETE FROM poser_component WHERE widget_uuid = 'w3';
DELETE FROM poser_widget WHERE uuid = 'w3';
INSERT INTO poser_widget (uuid, description) VALUES ('w3', '');
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w3', '', '');
TABLE shown;
COMMIT;
TABLE shown;
TABLE count_differences;

--
-- Errors
--
-- at one row after others; at the end of the statement; in a transaction that goes on
BEGIN;
SAVEPOINT a;
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES
	('e1', 'w1', '', ''), ('c1', 'w1', '', '');
ROLLBACK TO a;
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES
	('e1', 'w1', '', ''), ('e2', 'none', '', '');
ROLLBACK TO a;
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('e1', 'w1', '', '');
TABLE shown;
COMMIT;
TABLE count_differences;

-- caught in PL/pgSQL: every third of 100 inserts fails
DO $$
BEGIN
	FOR i IN 1..100 LOOP
		BEGIN
			INSERT INTO poser_component (uuid, widget_uuid, item_code, description)
			VALUES ('x' || i, 'w2', '', ''), (CASE i % 3 WHEN 0 THEN 'x1' ELSE 'y' || i END, 'w2', '', '');
		EXCEPTION WHEN unique_violation THEN
			NULL;
		END;
	END LOOP;
END
$$;
TABLE shown;
TABLE count_differences;

-- raised by a trigger that fires after the counting
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	RAISE EXCEPTION USING ERRCODE = 'P0042';
END
$$;
CREATE TRIGGER z_refuse AFTER INSERT OR UPDATE OR DELETE ON poser_component
	EXECUTE FUNCTION refuse();
CREATE TRIGGER z_refuse AFTER INSERT OR UPDATE OR DELETE ON poser_widget
	EXECUTE FUNCTION refuse();
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w1', '', '');
DO $$
BEGIN
	BEGIN
		INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w1', '', '');
	EXCEPTION WHEN SQLSTATE 'P0042' THEN
		NULL;
	END;
	BEGIN
		UPDATE poser_component SET active = NOT active, widget_uuid = 'w1';
	EXCEPTION WHEN SQLSTATE 'P0042' THEN
		NULL;
	END;
	BEGIN
		DELETE FROM poser_component;
	EXCEPTION WHEN SQLSTATE 'P0042' THEN
		NULL;
	END;
	BEGIN
		INSERT INTO poser_widget (uuid, description) VALUES ('w4', '');
	EXCEPTION WHEN SQLSTATE 'P0042' THEN
		NULL;
	END;
	ASSERT NOT EXISTS (SELECT FROM count_differences);
END
$$;
DROP TRIGGER z_refuse ON poser_component;
DROP TRIGGER z_refuse ON poser_widget;
DROP FUNCTION refuse();
TABLE shown;
TABLE count_differences;

-- After an error in the middle of a statement, maintained counts are read as before.
BEGIN;
SAVEPOINT a;
UPDATE poser_component SET uuid = 'c1' WHERE widget_uuid = 'w1';
ROLLBACK TO a;
TABLE count_differences;
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w1', '', '');
TABLE count_differences;
ROLLBACK;

-- A thousand inserts of one row, with savepoints between them.
BEGIN;
DO $$
BEGIN
	FOR i IN 1..1000 LOOP
		INSERT INTO poser_component (widget_uuid, item_code, description, active)
		VALUES ('w3', '', '', i % 4 = 0);
		IF i % 10 = 0 THEN
			BEGIN
				INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w3', '', '');
				DELETE FROM poser_component WHERE widget_uuid = 'w3' AND active;
				RAISE EXCEPTION 'undo';
			EXCEPTION WHEN raise_exception THEN
				NULL;
			END;
		END IF;
	END LOOP;
END
$$;
TABLE shown;
TABLE count_differences;
COMMIT;
TABLE count_differences;
DELETE FROM poser_component WHERE uuid <> 'c1';
TABLE shown;

--
-- Isolation levels
--
BEGIN ISOLATION LEVEL REPEATABLE READ;
TABLE shown;
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w1', '', '');
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w1', '', '');
TABLE shown;
TABLE count_differences;
SAVEPOINT a;
UPDATE poser_component SET widget_uuid = 'w2', active = false;
TABLE shown;
ROLLBACK TO a;
TABLE count_differences;
COMMIT;
TABLE count_differences;
BEGIN ISOLATION LEVEL SERIALIZABLE;
DELETE FROM poser_component WHERE uuid = 'c1';
INSERT INTO poser_widget (uuid, description) VALUES ('w4', '');
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w4', '', '');
TABLE shown;
TABLE count_differences;
UPDATE poser_component SET active = false;
TABLE shown;
COMMIT;
TABLE shown;
TABLE count_differences;
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE;
TABLE shown;
SELECT * FROM poser_widget_get('w1');
SELECT poser_recount();
ROLLBACK;
BEGIN READ ONLY;
TABLE count_differences;
SELECT * FROM poser_check();
COMMIT;

--
-- A cursor sees the counts of the moment when it was opened
--
CREATE VIEW counted AS
SELECT widget.uuid, count(component.uuid) AS total
  FROM poser_widget AS widget LEFT JOIN poser_component AS component ON widget_uuid = widget.uuid
 GROUP BY widget.uuid
 ORDER BY widget.uuid;
BEGIN;
DECLARE by_view CURSOR FOR SELECT uuid, total FROM shown;
DECLARE by_get CURSOR FOR SELECT uuid, component_count FROM poser_widget_get('w1');
DECLARE by_list CURSOR FOR SELECT uuid, component_count FROM poser_widget_list();
DECLARE by_count CURSOR FOR TABLE counted;
DECLARE kept CURSOR WITH HOLD FOR SELECT uuid, total FROM shown;
DECLARE kept_get CURSOR WITH HOLD FOR SELECT uuid, component_count FROM poser_widget_get('w1');
FETCH 1 FROM by_view;
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w1', '', ''), ('w2', '', '');
DECLARE later CURSOR FOR SELECT uuid, total FROM shown;
DELETE FROM poser_component WHERE widget_uuid = 'w4';
INSERT INTO poser_widget (uuid, description) VALUES ('w0', '');
FETCH ALL FROM by_view;
FETCH ALL FROM by_get;
FETCH ALL FROM by_list;
FETCH ALL FROM by_count;
FETCH ALL FROM later;
TABLE shown;
COMMIT;
FETCH ALL FROM kept;
FETCH ALL FROM kept_get;
CLOSE ALL;
TABLE count_differences;

-- the same in a transaction that has one snapshot for all queries
BEGIN ISOLATION LEVEL REPEATABLE READ;
DECLARE by_list CURSOR FOR SELECT uuid, component_count FROM poser_widget_list();
DECLARE by_view CURSOR FOR SELECT uuid, total FROM shown;
SAVEPOINT a;
DELETE FROM poser_component;
FETCH ALL FROM by_list;
FETCH ALL FROM by_view;
ROLLBACK TO a;
TABLE count_differences;
COMMIT;

-- and in a loop over counts that writes
DO $$
DECLARE
	widget record;
	seen text := '';
BEGIN
	FOR widget IN SELECT uuid, total FROM shown LOOP
		UPDATE poser_component SET widget_uuid = 'w2';
		seen := seen || format('%s %s, ', widget.uuid, widget.total);
	END LOOP;
	ASSERT seen = 'w0 0, w1 3, w2 1, w3 0, w4 0, ', seen;
END
$$;
TABLE shown;
TABLE count_differences;

-- After a TRUNCATE an older snapshot no longer sees the components.  The same holds
-- for the counts.
CREATE FUNCTION counted(widget varchar) RETURNS bigint LANGUAGE sql STABLE AS
	'SELECT count(*) FROM poser_component WHERE widget_uuid = widget';
BEGIN;
DECLARE by_get CURSOR FOR SELECT component_count FROM poser_widget_get('w2');
DECLARE by_count CURSOR FOR SELECT counted(i) FROM unnest('{w2}'::varchar[]) AS i;
TRUNCATE poser_component;
FETCH ALL FROM by_get;
FETCH ALL FROM by_count;
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w2', '', '');
TABLE shown;
ROLLBACK;
TABLE shown;
TABLE count_differences;

DROP FUNCTION counted;
DROP VIEW count_differences, shown, counted;
DROP EXTENSION poser;
