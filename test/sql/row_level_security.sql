-- Row-level security: a reader counts only the rows that it may see.

\set VERBOSITY sqlstate
SET client_min_messages = warning;
-- Role regress_poser_owner with schema regress_poser.
\getenv test PG_ABS_SRCDIR
\set file :test '/include/owner.sql'
\i :file
CREATE ROLE regress_poser_all;
CREATE ROLE regress_poser_some;
CREATE ROLE regress_poser_none;
CREATE ROLE regress_poser_bypass BYPASSRLS;
RESET client_min_messages;

SET ROLE regress_poser_owner;
CREATE EXTENSION poser SCHEMA regress_poser;
SET search_path = regress_poser;

INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'for all'), ('w2', 'for some'), ('w3', 'for nobody');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description, active) VALUES
	('c1', 'w1', 'public', '', true), ('c2', 'w1', 'public', '', false), ('c3', 'w1', 'secret', '', true),
	('c4', 'w2', 'secret', '', true), ('c5', 'w2', 'public', '', true), ('c6', 'w3', 'secret', '', false);
GRANT ALL ON poser_widget, poser_component, poser_widget_summary
   TO regress_poser_all, regress_poser_some, regress_poser_none, regress_poser_bypass;

CREATE VIEW shown WITH (security_invoker = true) AS
SELECT uuid, component_count AS total, active_component_count AS active
  FROM poser_widget_summary
 ORDER BY uuid;
-- the counts that the reader gets by counting
CREATE VIEW counted WITH (security_invoker = true) AS
SELECT widget.uuid, count(component.uuid) AS total,
       count(*) FILTER (WHERE component.active) AS active
  FROM poser_widget AS widget
       LEFT JOIN poser_component AS component ON widget_uuid = widget.uuid
 GROUP BY widget.uuid
 ORDER BY widget.uuid;
GRANT SELECT ON shown, counted TO PUBLIC;

--
-- On the components
--
CREATE POLICY "all" ON poser_component TO regress_poser_all USING (true);
CREATE POLICY "some" ON poser_component TO regress_poser_some USING (item_code = 'public');
ALTER TABLE poser_component ENABLE ROW LEVEL SECURITY;

SET ROLE regress_poser_all;
TABLE shown;
SELECT * FROM poser_widget_get('w1');
SET ROLE regress_poser_some;
TABLE shown;
TABLE counted;
SELECT * FROM poser_widget_get('w1');
SELECT uuid, component_count, active_component_count FROM poser_widget_list();
SELECT uuid FROM poser_widget_summary WHERE component_count = 1;
SET ROLE regress_poser_none;
TABLE shown;
TABLE counted;
SELECT * FROM poser_widget_get('w1');
SELECT uuid, component_count FROM poser_widget_list('some');
-- policies do not apply to these roles
SET ROLE regress_poser_owner;
TABLE shown;
SET ROLE regress_poser_bypass;
TABLE shown;

-- The maintained counts would reveal hidden rows.
SET ROLE regress_poser_some;
SELECT * FROM poser_component_count_settled;
CREATE FUNCTION pg_temp.tell(varchar, bigint) RETURNS bool LANGUAGE plpgsql COST 0.0000001 AS $$
BEGIN
	RAISE WARNING USING MESSAGE = format('%s has %s', $1, $2), ERRCODE = '01P42';
	RETURN true;
END
$$;
SELECT widget_uuid FROM poser_component_count_settled WHERE pg_temp.tell(widget_uuid, total);

-- Rows that their writer cannot see are counted for other readers.
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c7', 'w1', 'public', '');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c8', 'w1', 'secret', '');
UPDATE poser_component SET active = false;
UPDATE poser_component SET widget_uuid = 'w3' WHERE uuid = 'c2';
DELETE FROM poser_component WHERE uuid = 'c5';
TABLE shown;
TABLE counted;
SET ROLE regress_poser_owner;
TABLE shown;
TABLE counted;
SELECT * FROM poser_component_count_settled ORDER BY widget_uuid;
SELECT count(*) FROM poser_component_count_delta;

-- row_security = off: an error instead of a part of the rows
SET ROLE regress_poser_some;
SET row_security = off;
TABLE shown;
SELECT * FROM poser_widget_get('w1');
SELECT * FROM poser_widget_list();
SET ROLE regress_poser_bypass;
TABLE shown;
RESET row_security;

-- Plans made for one role are not used for another.
PREPARE get AS SELECT component_count FROM poser_widget_get('w1');
PREPARE list AS SELECT uuid, component_count FROM poser_widget_list();
PREPARE shown AS TABLE shown;
SET plan_cache_mode = force_generic_plan;
SET ROLE regress_poser_owner;
EXECUTE get;
EXECUTE list;
EXECUTE shown;
SET ROLE regress_poser_some;
EXECUTE get;
EXECUTE list;
EXECUTE shown;
SET ROLE regress_poser_bypass;
EXECUTE get;
EXECUTE list;
EXECUTE shown;
SET ROLE regress_poser_none;
EXECUTE get;
EXECUTE list;
EXECUTE shown;
-- nor in a transaction with one snapshot
BEGIN ISOLATION LEVEL REPEATABLE READ;
SET LOCAL ROLE regress_poser_owner;
EXECUTE get;
SET LOCAL ROLE regress_poser_some;
EXECUTE get;
SET LOCAL ROLE regress_poser_bypass;
EXECUTE get;
COMMIT;
RESET plan_cache_mode;
DEALLOCATE ALL;

-- A function with its definer's rights sees what its definer sees.  A view over the
-- summary shows what its reader sees.
SET ROLE regress_poser_owner;
CREATE FUNCTION count_of(widget varchar) RETURNS bigint LANGUAGE sql SECURITY DEFINER AS
	'SELECT component_count FROM regress_poser.poser_widget_get(widget)';
CREATE VIEW owners_summary AS SELECT * FROM poser_widget_summary;
GRANT SELECT ON owners_summary TO PUBLIC;
SET ROLE regress_poser_some;
SELECT count_of('w1'), component_count FROM poser_widget_get('w1');
SELECT component_count, count_of('w1') FROM poser_widget_get('w1');
SELECT uuid, component_count FROM owners_summary ORDER BY uuid;
SET ROLE regress_poser_owner;
DROP FUNCTION count_of;
DROP VIEW owners_summary;

-- Turned off and on in a transaction that reads before and after.
BEGIN;
SET LOCAL ROLE regress_poser_some;
SELECT component_count FROM poser_widget_get('w1');
SET LOCAL ROLE regress_poser_owner;
ALTER TABLE poser_component DISABLE ROW LEVEL SECURITY;
SET LOCAL ROLE regress_poser_some;
SELECT component_count FROM poser_widget_get('w1');
TABLE shown;
SET LOCAL ROLE regress_poser_owner;
ALTER TABLE poser_component ENABLE ROW LEVEL SECURITY;
SET LOCAL ROLE regress_poser_some;
SELECT component_count FROM poser_widget_get('w1');
COMMIT;

--
-- Forced on the owner
--
SET ROLE regress_poser_owner;
ALTER TABLE poser_component FORCE ROW LEVEL SECURITY;
TABLE shown;
CREATE POLICY owner ON poser_component TO regress_poser_owner USING (active);
TABLE shown;
TABLE counted;
SELECT * FROM poser_widget_get('w1');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c9', 'w2', 'secret', '');
TABLE shown;
SET ROLE regress_poser_bypass;
TABLE shown;
TABLE counted;
-- poser_recount() and poser_check() see all rows
SET ROLE regress_poser_owner;
SELECT poser_recount();
SELECT * FROM poser_check();
UPDATE poser_component_count SET total = total + 1 WHERE widget_uuid = 'w1';
SELECT poser_recount();
SET ROLE regress_poser_bypass;
TABLE shown;
SET ROLE regress_poser_owner;
ALTER TABLE poser_component NO FORCE ROW LEVEL SECURITY;
TABLE shown;

--
-- On the widgets, with or without that on the components
--
CREATE POLICY "all" ON poser_widget TO regress_poser_all USING (true);
CREATE POLICY "some" ON poser_widget TO regress_poser_some USING (description <> 'for nobody');
ALTER TABLE poser_widget ENABLE ROW LEVEL SECURITY;
SET ROLE regress_poser_some;
TABLE shown;
TABLE counted;
SELECT * FROM poser_widget_get('w3');
SELECT uuid, component_count FROM poser_widget_list();
SET ROLE regress_poser_owner;
ALTER TABLE poser_component DISABLE ROW LEVEL SECURITY;
SET ROLE regress_poser_some;
TABLE shown;
TABLE counted;
SELECT * FROM poser_widget_get('w3');
SELECT uuid, component_count FROM poser_widget_list();
-- A function that reports its arguments is not called for a hidden widget.
SELECT uuid FROM poser_widget_summary WHERE pg_temp.tell(uuid, component_count) ORDER BY uuid;
SET ROLE regress_poser_none;
TABLE shown;
SELECT * FROM poser_widget_list();
SET ROLE regress_poser_all;
TABLE shown;
SET ROLE regress_poser_owner;
TABLE shown;
ALTER TABLE poser_widget FORCE ROW LEVEL SECURITY;
TABLE shown;
SELECT poser_recount();
SELECT * FROM poser_check();
SET ROLE regress_poser_bypass;
TABLE shown;
TABLE counted;

SET ROLE regress_poser_owner;
DROP VIEW shown, counted;
DROP EXTENSION poser;
RESET ROLE;
DROP FUNCTION pg_temp.tell;
DROP SCHEMA regress_poser;
DO $$
BEGIN
	EXECUTE format('REVOKE CREATE ON DATABASE %I FROM regress_poser_owner', current_database());
END
$$;
DROP ROLE regress_poser_owner, regress_poser_all, regress_poser_some, regress_poser_none, regress_poser_bypass;
