-- Snapshots that are taken in the middle of a statement and used after it, and
-- triggers that fire in the middle of a TRUNCATE.

\set VERBOSITY sqlstate
CREATE EXTENSION poser;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', ''), ('w2', '');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c1', 'w1', '', '');

-- A cursor that a trigger opens sees the inserted row, so its count must include it.
CREATE FUNCTION open_cursor() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	opened refcursor := TG_WHEN || TG_LEVEL;
BEGIN
	OPEN opened FOR
		SELECT uuid, component_count,
			   (SELECT count(*) FROM poser_component WHERE widget_uuid = summary.uuid) AS counted
		  FROM poser_widget_summary AS summary ORDER BY uuid;
	RETURN NEW;
END
$$;
CREATE TRIGGER a BEFORE INSERT ON poser_component FOR EACH STATEMENT EXECUTE FUNCTION open_cursor();
CREATE TRIGGER b BEFORE INSERT ON poser_component FOR EACH ROW EXECUTE FUNCTION open_cursor();
CREATE TRIGGER c AFTER INSERT ON poser_component FOR EACH ROW EXECUTE FUNCTION open_cursor();
CREATE TRIGGER z AFTER INSERT ON poser_component FOR EACH STATEMENT EXECUTE FUNCTION open_cursor();
BEGIN;
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w2', '', '');
FETCH ALL FROM "BEFORESTATEMENT";
FETCH ALL FROM "BEFOREROW";
FETCH ALL FROM "AFTERROW";
FETCH ALL FROM "AFTERSTATEMENT";
-- A new snapshot is later than the statement, and reads the maintained counts.
SELECT uuid, component_count FROM poser_widget_summary ORDER BY uuid;
SELECT count(*) AS kept FROM poser_component_count_settled;
COMMIT;
DROP FUNCTION open_cursor() CASCADE;

-- Such a cursor is read after many statements, which change counts or do not.
CREATE FUNCTION open_cursor() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	opened refcursor := 'opened';
BEGIN
	OPEN opened NO SCROLL FOR
		SELECT component_count, (SELECT count(*) FROM poser_component WHERE widget_uuid = 'w1') AS counted
		  FROM poser_widget_summary WHERE uuid = 'w1';
	RETURN NULL;
END
$$;
CREATE TRIGGER a AFTER INSERT ON poser_component FOR EACH ROW WHEN (NEW.item_code = 'open') EXECUTE FUNCTION open_cursor();
CREATE FUNCTION insert_many(n integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. n LOOP
		INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w1', '', '');
	END LOOP;
END
$$;
BEGIN;
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w1', 'open', '');
SELECT insert_many(1100);
FETCH ALL FROM opened;
SELECT component_count, (SELECT count(*) FROM poser_component_count_settled WHERE widget_uuid = 'w1') AS kept
  FROM poser_widget_summary WHERE uuid = 'w1';
ROLLBACK;
DROP FUNCTION open_cursor() CASCADE;

-- For each snapshot it is decided once whether reads use the maintained counts.  Later
-- work of the transaction does not change this, because all parts of a query must agree.  In the loop
-- a block fails, which makes every snapshot newer than the one before.
INSERT INTO poser_widget (uuid, description) SELECT 'n' || g, '' FROM generate_series(1001, 2200) AS g;
CREATE FUNCTION differing_decisions(many integer, grantee name = NULL) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	widget record;
	n integer := 0;
	live integer := 0;
BEGIN
	FOR widget IN
		SELECT uuid, poser_component_live_from('poser_widget', 'poser_component') IS NOT NULL AS live
		  FROM poser_widget WHERE uuid LIKE 'n%' LIMIT many
	LOOP
		n := n + 1;
		live := live + widget.live::integer;
		BEGIN
			INSERT INTO poser_component (widget_uuid, item_code, description) VALUES (widget.uuid, '', '');
			RAISE division_by_zero;
		EXCEPTION WHEN division_by_zero THEN
		END;
		INSERT INTO poser_component (widget_uuid, item_code, description) VALUES (widget.uuid, '', '');
		PERFORM component_count FROM poser_widget_get(widget.uuid);
		IF n = 100 AND grantee IS NOT NULL THEN
			EXECUTE format('GRANT SELECT ON poser_component TO %I', grantee);
		END IF;
	END LOOP;
	RETURN format('%s rows, %s of them counted live', n, live);
END
$$;
CREATE ROLE regress_poser_reader;
BEGIN;
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w1', '', '');
SELECT differing_decisions(400, 'regress_poser_reader');
ROLLBACK;
BEGIN;
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w1', '', '');
SELECT differing_decisions(1200);
ROLLBACK;
DROP FUNCTION differing_decisions, insert_many;
DROP ROLE regress_poser_reader;
DELETE FROM poser_widget WHERE uuid LIKE 'n%';

-- A trigger writes after the counts were set to zero: its row is truncated, too.
CREATE FUNCTION write() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w2', '', '');
	RETURN NULL;
END
$$;
CREATE TRIGGER z BEFORE TRUNCATE ON poser_component EXECUTE FUNCTION write();
TRUNCATE poser_component;
SELECT uuid, component_count FROM poser_widget_summary ORDER BY uuid;
SELECT * FROM poser_check();
DROP TRIGGER z ON poser_component;
-- A trigger writes after the table was emptied: its row stays and is counted.
CREATE TRIGGER a AFTER TRUNCATE ON poser_component EXECUTE FUNCTION write();
CREATE TRIGGER z AFTER TRUNCATE ON poser_component EXECUTE FUNCTION write();
TRUNCATE poser_component;
SELECT uuid, component_count FROM poser_widget_summary ORDER BY uuid;
SELECT * FROM poser_check();
DROP FUNCTION write() CASCADE;
TRUNCATE poser_component;

-- A loop over the counts writes: what the loop reads does not change, whatever join
-- its query uses.
INSERT INTO poser_widget (uuid, description) SELECT 'n' || g, '' FROM generate_series(100, 299) AS g;
CREATE FUNCTION loop_and_write(method text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	widget record;
	n integer := 0;
	differ integer := 0;
BEGIN
	EXECUTE 'SET LOCAL enable_hashjoin = ' || (method = 'hash')::text;
	EXECUTE 'SET LOCAL enable_mergejoin = ' || (method = 'merge')::text;
	EXECUTE 'SET LOCAL enable_nestloop = ' || (method = 'nest')::text;
	FOR widget IN
		SELECT uuid, component_count FROM poser_widget_summary WHERE uuid LIKE 'n%'
	LOOP
		n := n + 1;
		differ := differ + (widget.component_count <> 1)::integer;
		INSERT INTO poser_component (uuid, widget_uuid, item_code, description)
		VALUES ('x' || widget.uuid, widget.uuid, '', '');
		PERFORM component_count FROM poser_widget_get(widget.uuid);
		DELETE FROM poser_component WHERE uuid = 'x' || widget.uuid;
	END LOOP;
	RETURN format('%s: %s read, %s of them wrong', method, n, differ);
END
$$;
INSERT INTO poser_component (widget_uuid, item_code, description) SELECT uuid, '', '' FROM poser_widget WHERE uuid LIKE 'n%';
ANALYZE poser_widget, poser_component;
SELECT loop_and_write('hash');
SELECT loop_and_write('merge');
SELECT loop_and_write('nest');
BEGIN;
SET LOCAL enable_hashjoin = off;
SET LOCAL enable_mergejoin = off;
DECLARE few CURSOR FOR SELECT uuid, component_count FROM poser_widget_summary WHERE uuid BETWEEN 'n100' AND 'n105';
FETCH 2 FROM few;
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('n103', '', '');
FETCH 2 FROM few;
SET LOCAL session_replication_role = replica;
DELETE FROM poser_component WHERE widget_uuid = 'n105';
SELECT poser_recount();
FETCH ALL FROM few;
ROLLBACK;
DROP FUNCTION loop_and_write;
DELETE FROM poser_component;
DELETE FROM poser_widget WHERE uuid LIKE 'n%';

-- A policy reads counts, and another schema is created: poser_widget_get() runs
-- within poser_widget_get().
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w1', '', '');
CREATE ROLE regress_poser_nested;
GRANT SELECT ON poser_widget, poser_component, poser_widget_summary TO regress_poser_nested;
CREATE FUNCTION has_components(key text) RETURNS boolean SECURITY DEFINER LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE 'CREATE SCHEMA made; DROP SCHEMA made';
	RETURN (SELECT component_count FROM poser_widget_get(key)) > 0;
END
$$;
ALTER TABLE poser_widget ENABLE ROW LEVEL SECURITY;
CREATE POLICY with_components ON poser_widget TO regress_poser_nested USING (has_components(uuid));
SET ROLE regress_poser_nested;
SELECT uuid, component_count FROM poser_widget_get('w1');
SELECT uuid, component_count FROM poser_widget_get('w2');
SELECT uuid, component_count FROM poser_widget_list();
RESET ROLE;

DROP EXTENSION poser;
DROP FUNCTION has_components;
DROP OWNED BY regress_poser_nested;
DROP ROLE regress_poser_nested;
