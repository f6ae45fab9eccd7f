-- Component counts in the middle of a statement: functions that write and read, and
-- users' triggers that read at any point of it.

\set VERBOSITY sqlstate
SET client_min_messages = warning;
CREATE EXTENSION poser;

-- Views count_differences and shown.
\getenv test PG_ABS_SRCDIR
\set file :test '/include/counts.sql'
\i :file

-- The counts that a reader gets by counting.
CREATE VIEW counted AS
SELECT widget.uuid,
       count(component.uuid) AS total,
       count(*) FILTER (WHERE component.active) AS active
  FROM poser_widget AS widget
       LEFT JOIN poser_component AS component ON widget_uuid = widget.uuid
 GROUP BY widget.uuid;

INSERT INTO poser_widget (uuid, description) VALUES ('w1', ''), ('w2', '');

--
-- Functions that write and read
--
CREATE FUNCTION add_component(widget varchar) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO poser_component (widget_uuid, item_code, description) VALUES (widget, '', '');
	RETURN component_count FROM poser_widget_get(widget);
END
$$;
CREATE FUNCTION add_component_sql(widget varchar) RETURNS bigint LANGUAGE sql VOLATILE AS $$
	INSERT INTO poser_component (widget_uuid, item_code, description) VALUES (widget, '', '');
	SELECT component_count FROM poser_widget_summary WHERE uuid = widget;
$$;
CREATE FUNCTION stable_count(widget varchar) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
BEGIN
	RETURN component_count FROM poser_widget_summary WHERE uuid = widget;
END
$$;
CREATE FUNCTION volatile_count(widget varchar) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
BEGIN
	RETURN component_count FROM poser_widget_summary WHERE uuid = widget;
END
$$;

-- A volatile function sees what has been written.  A stable function and the query
-- itself see the state at the start of the query.
SELECT i, add_component('w1') AS added, stable_count('w1'), volatile_count('w1'),
       (SELECT total FROM shown WHERE uuid = 'w1' AND i > 0) AS shown,
       (SELECT total FROM counted WHERE uuid = 'w1' AND i > 0) AS counted
  FROM generate_series(1, 3) AS i;
SELECT add_component('w2') AS w2, component_count AS w1, get.uuid
  FROM poser_widget_get('w1') AS get;
SELECT uuid, total, add_component_sql(uuid) AS w, add_component_sql('w1') AS w1 FROM shown;
TABLE shown;
TABLE count_differences;

-- An INSERT of rows that come from functions, which insert as well: none of them sees
-- the INSERT's own rows.
INSERT INTO poser_component (uuid, widget_uuid, item_code, description)
SELECT 'c' || i, 'w2', add_component('w2')::text, stable_count('w2')::text
  FROM generate_series(1, 3) AS i;
SELECT uuid, item_code, description FROM poser_component WHERE uuid LIKE 'c_' ORDER BY uuid;
UPDATE poser_component SET widget_uuid = 'w1', item_code = volatile_count('w2')
 WHERE uuid LIKE 'c_' RETURNING uuid, item_code, stable_count('w1'), volatile_count('w1');
DELETE FROM poser_component WHERE uuid LIKE 'c_' AND add_component('w2') > 0
RETURNING uuid, stable_count('w1'), volatile_count('w1'), volatile_count('w2');
TABLE shown;
TABLE count_differences;

-- A block of PL/pgSQL is one transaction.  It runs at two isolation levels.
CREATE PROCEDURE write_and_read() LANGUAGE plpgsql AS $$
DECLARE
	n bigint;
BEGIN
	DELETE FROM poser_component;
	FOR i IN 1..5 LOOP
		n := add_component('w1');
		ASSERT n = 2 * i - 1, format('%s: %s', i, n);
		SELECT add_component_sql('w1') INTO n;
		ASSERT n = 2 * i, format('%s: %s', i, n);
		ASSERT NOT EXISTS (SELECT FROM count_differences);
	END LOOP;
END
$$;
CALL write_and_read();
BEGIN ISOLATION LEVEL REPEATABLE READ;
CALL write_and_read();
COMMIT;
TABLE shown;
TABLE count_differences;

--
-- Triggers that read, at every point of every statement
--
CREATE TABLE log (n serial, at text, total bigint, active bigint);
CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	point text := concat_ws(' ', TG_WHEN, TG_OP, TG_LEVEL, TG_NAME);
BEGIN
	IF EXISTS (SELECT uuid, total, active FROM counted
	           EXCEPT SELECT uuid, component_count, active_component_count FROM poser_widget_list()) OR
	   EXISTS (TABLE counted EXCEPT TABLE shown) OR
	   EXISTS (TABLE shown EXCEPT TABLE counted)
	THEN
		RAISE EXCEPTION 'counts differ: %', point;
	END IF;
	INSERT INTO log (at, total, active)
	SELECT point, component_count, active_component_count FROM poser_widget_get('w1');
	RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
END
$$;
-- the same with the statement's snapshot
CREATE FUNCTION look_stable() RETURNS trigger LANGUAGE plpgsql STABLE AS $$
BEGIN
	IF EXISTS (SELECT uuid, total, active FROM counted
	           EXCEPT SELECT uuid, component_count, active_component_count FROM poser_widget_list()) OR
	   EXISTS (TABLE counted EXCEPT TABLE shown) OR
	   EXISTS (TABLE shown EXCEPT TABLE counted)
	THEN
		RAISE EXCEPTION 'counts differ: % % % %', TG_WHEN, TG_OP, TG_LEVEL, TG_NAME;
	END IF;
	RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
END
$$;
-- "a" fires before the triggers of the extension, "z" after them
DO $$
DECLARE
	tab text;
	place text;
	moment text;
BEGIN
	FOREACH tab IN ARRAY '{poser_widget,poser_component}'::text[] LOOP
		FOREACH place IN ARRAY '{a,z}'::text[] LOOP
			FOREACH moment IN ARRAY '{BEFORE,AFTER}'::text[] LOOP
				EXECUTE format('CREATE TRIGGER %s_%s_statement %s INSERT OR UPDATE OR DELETE ON %s
								EXECUTE FUNCTION look()', place, lower(moment), moment, tab);
				EXECUTE format('CREATE TRIGGER %s_%s_row %s INSERT OR UPDATE OR DELETE ON %s
								FOR EACH ROW EXECUTE FUNCTION look()', place, lower(moment), moment, tab);
				EXECUTE format('CREATE TRIGGER %s_%s_stable %s INSERT OR UPDATE OR DELETE ON %s
								FOR EACH ROW EXECUTE FUNCTION look_stable()', place, lower(moment), moment, tab);
			END LOOP;
			EXECUTE format('CREATE TRIGGER %s_truncate BEFORE TRUNCATE ON %s
							EXECUTE FUNCTION look()', place, tab);
			EXECUTE format('CREATE TRIGGER %s_truncated AFTER TRUNCATE ON %s
							EXECUTE FUNCTION look()', place, tab);
		END LOOP;
	END LOOP;
	EXECUTE 'CREATE CONSTRAINT TRIGGER z_constraint AFTER INSERT OR UPDATE OR DELETE ON poser_component
			 DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION look()';
END
$$;

-- Two rows: each is visible as soon as it is inserted, and both are counted whether
-- the extension's trigger has run or not.
INSERT INTO poser_component (uuid, widget_uuid, item_code, description, active)
VALUES ('c1', 'w1', '', '', true), ('c2', 'w1', '', '', false);
SELECT at, total, active FROM log ORDER BY n;
TRUNCATE log;
UPDATE poser_component SET active = NOT active, widget_uuid = 'w1' WHERE uuid LIKE 'c_';
SELECT at, total, active FROM log ORDER BY n;
TRUNCATE log;
DELETE FROM poser_component WHERE uuid LIKE 'c_';
SELECT at, total, active FROM log ORDER BY n;
TRUNCATE log;
TABLE count_differences;

-- All other kinds of statement.  Counts that differ raise an error.
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES
	('c1', 'w1', '', ''), ('c2', 'w2', '', ''), ('c3', 'w2', '', '');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES
	('c3', 'w1', '', ''), ('c4', 'w2', '', '')
	ON CONFLICT (uuid) DO UPDATE SET widget_uuid = excluded.widget_uuid;
MERGE INTO poser_component AS target
USING (VALUES ('c1'), ('c2'), ('c3'), ('c5')) AS source (uuid) ON target.uuid = source.uuid
WHEN MATCHED AND target.uuid = 'c1' THEN DELETE
WHEN MATCHED THEN UPDATE SET widget_uuid = CASE widget_uuid WHEN 'w1' THEN 'w2' ELSE 'w1' END
WHEN NOT MATCHED THEN
	INSERT (uuid, widget_uuid, item_code, description) VALUES (source.uuid, 'w2', '', '');
WITH widget AS (
	INSERT INTO poser_widget (uuid, description) VALUES ('w3', '') RETURNING *),
moved AS (
	UPDATE poser_component SET widget_uuid = 'w3', active = false WHERE uuid = 'c2'),
deleted AS (
	DELETE FROM poser_component WHERE uuid = 'c3')
INSERT INTO poser_component (widget_uuid, item_code, description) SELECT uuid, '', '' FROM widget;
COPY poser_component (uuid, widget_uuid, item_code, description) FROM STDIN;
c7	w3	-	-
c8	w1	-	-
\.
SELECT add_component('w3'), add_component_sql('w3'), stable_count('w3');
TABLE shown;
TABLE count_differences;
UPDATE poser_widget SET active = NOT active;
INSERT INTO poser_widget (uuid, description) VALUES ('w4', ''), ('w5', '');
UPDATE poser_widget SET uuid = uuid || '0' WHERE uuid IN ('w4', 'w5');
DELETE FROM poser_widget WHERE uuid IN ('w40', 'w50');
CALL write_and_read();
TABLE shown;
TABLE count_differences;
TRUNCATE log;
TRUNCATE poser_component;
SELECT at, total, active FROM log ORDER BY n;
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w1', '', '');
TRUNCATE log;
TRUNCATE poser_component, poser_widget;
SELECT at, total, active FROM log ORDER BY n;
TABLE count_differences;
DROP FUNCTION look, look_stable CASCADE;

--
-- Triggers that write
--
-- a component inserts its widget first, and a first component inserts a second one
CREATE FUNCTION make_widget() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO poser_widget (uuid, description) VALUES (NEW.widget_uuid, '') ON CONFLICT DO NOTHING;
	RETURN NEW;
END
$$;
CREATE TRIGGER make_widget BEFORE INSERT ON poser_component
	FOR EACH ROW EXECUTE FUNCTION make_widget();
CREATE FUNCTION make_spare() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.item_code <> 'spare' THEN
		INSERT INTO poser_component (widget_uuid, item_code, description, active)
		VALUES (NEW.widget_uuid, 'spare', '', false);
	END IF;
	ASSERT NOT EXISTS (TABLE counted EXCEPT TABLE shown);
	RETURN NULL;
END
$$;
CREATE TRIGGER make_spare AFTER INSERT ON poser_component
	FOR EACH ROW EXECUTE FUNCTION make_spare();
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES
	('w1', '', ''), ('w2', '', ''), ('w1', '', '');
TABLE shown;
TABLE count_differences;
DROP FUNCTION make_widget, make_spare CASCADE;

-- the delete of the last component deletes its widget
CREATE FUNCTION drop_widget() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	DELETE FROM poser_widget
	 WHERE (SELECT component_count FROM poser_widget_get(OLD.widget_uuid)) = 0
	   AND uuid = OLD.widget_uuid;
	RETURN NULL;
END
$$;
CREATE TRIGGER drop_widget AFTER DELETE ON poser_component
	FOR EACH ROW EXECUTE FUNCTION drop_widget();
DELETE FROM poser_component WHERE item_code = 'spare';
TABLE shown;
DELETE FROM poser_component WHERE widget_uuid = 'w2';
TABLE shown;
TABLE count_differences;
DROP FUNCTION drop_widget CASCADE;

-- a row trigger that skips some rows and changes others
CREATE FUNCTION choose() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.item_code = 'skip' THEN
		RETURN NULL;
	END IF;
	NEW.widget_uuid := 'w1';
	RETURN NEW;
END
$$;
CREATE TRIGGER choose BEFORE INSERT OR UPDATE ON poser_component
	FOR EACH ROW EXECUTE FUNCTION choose();
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES
	('none', '', ''), ('w1', 'skip', ''), ('none', '', '');
UPDATE poser_component SET widget_uuid = 'none', active = false;
TABLE shown;
TABLE count_differences;
DROP FUNCTION choose CASCADE;

-- a trigger that sometimes fails: the work of its nested statement is undone
CREATE FUNCTION fail_sometimes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF pg_trigger_depth() > 1 THEN
		RETURN NEW;
	END IF;
	BEGIN
		INSERT INTO poser_component (uuid, widget_uuid, item_code, description)
		VALUES ('n' || NEW.uuid, 'w1', '', '');
		ASSERT NOT EXISTS (TABLE counted EXCEPT TABLE shown);
		IF NEW.uuid LIKE '%2' THEN
			RAISE EXCEPTION 'undo';
		END IF;
	EXCEPTION WHEN raise_exception THEN
		ASSERT NOT EXISTS (TABLE counted EXCEPT TABLE shown);
	END;
	RETURN NEW;
END
$$;
CREATE TRIGGER fail_sometimes AFTER INSERT ON poser_component
	FOR EACH ROW EXECUTE FUNCTION fail_sometimes();
INSERT INTO poser_component (uuid, widget_uuid, item_code, description)
SELECT 'f' || i, 'w1', '', '' FROM generate_series(1, 3) AS i;
TABLE shown;
TABLE count_differences;
DROP FUNCTION fail_sometimes CASCADE;

-- an updatable view, and a rule with a second statement
CREATE VIEW passive AS
SELECT * FROM poser_component WHERE NOT active;
UPDATE passive SET active = true;
TABLE shown;
CREATE RULE twice AS ON INSERT TO poser_component
	DO ALSO UPDATE poser_component SET active = false WHERE widget_uuid = NEW.widget_uuid;
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w1', '', '');
TABLE shown;
TABLE count_differences;
DROP RULE twice ON poser_component;

DROP PROCEDURE write_and_read;
DROP FUNCTION add_component, add_component_sql, stable_count, volatile_count;
DROP TABLE log;
DROP VIEW count_differences, shown, counted, passive;
DROP EXTENSION poser;
