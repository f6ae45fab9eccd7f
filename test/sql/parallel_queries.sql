-- Functions that read, and the view, beside a query that can be parallel.  A query that
-- calls such a function is not parallel, because a policy may write.  The view does not
-- prevent parallel plans.

\set VERBOSITY terse
SET client_min_messages = warning;
CREATE EXTENSION poser;
CREATE ROLE regress_poser_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO regress_poser_reader;
CREATE TABLE numbers AS SELECT n FROM generate_series(1, 1000) AS n;
GRANT SELECT ON numbers TO regress_poser_reader;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one'), ('w2', 'two');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c1', 'w1', '', ''), ('c2', 'w1', '', '');
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
-- parallel plans also without a benefit; the setting has another name in older versions
SELECT set_config(name, 'on', false) AS forced FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query');

-- a policy that only reads
CREATE TABLE seen (uuid text);
CREATE FUNCTION may_see(uuid text) RETURNS boolean LANGUAGE sql SECURITY DEFINER
	AS 'SELECT may_see.uuid NOT IN (SELECT uuid FROM seen)';
ALTER TABLE poser_widget ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON poser_widget TO regress_poser_reader USING (may_see(uuid));
SET ROLE regress_poser_reader;
SELECT count(*), (SELECT component_count FROM poser_widget_get('w1')) AS components FROM numbers;
SELECT count(*), (SELECT count(*) FROM poser_widget_list()) AS listed,
       (SELECT count(*) FROM poser_widget_history('w1')) AS versions,
       (SELECT count(*) FROM poser_widget_as_of('infinity')) AS rows,
       (SELECT count(*) FROM poser_component_history('c1')) AS versions_of_component,
       (SELECT count(*) FROM poser_component_as_of('infinity')) AS components
  FROM numbers;
SELECT sum(component_count) FROM poser_widget_summary, numbers WHERE n < 3;
RESET ROLE;

-- All but these functions are PARALLEL UNSAFE.
SELECT oid::regprocedure AS function, proparallel FROM pg_proc
 WHERE pronamespace = 'public'::regnamespace AND proname LIKE 'poser%' AND proparallel <> 'u'
 ORDER BY oid::regprocedure::text COLLATE "C";

-- the plans of the view and of a function
CREATE FUNCTION parallel(query text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	plan json;
BEGIN
	EXECUTE 'EXPLAIN (FORMAT json) ' || query INTO plan;
	RETURN plan::text ~ '"Node Type": "Gather';
END
$$;
SELECT set_config(name, 'off', false) AS forced FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query');
SELECT parallel('SELECT count(*) FROM numbers') AS table,
       parallel('SELECT count(*), (SELECT component_count FROM poser_widget_summary WHERE uuid = ''w1'') FROM numbers') AS view,
       parallel('SELECT count(*), (SELECT component_count FROM poser_widget_get(''w1'')) FROM numbers') AS get;
-- A policy of a function that is not marked PARALLEL SAFE makes the view's plan serial.
SET ROLE regress_poser_reader;
SELECT parallel('SELECT count(*), (SELECT component_count FROM poser_widget_summary WHERE uuid = ''w1'') FROM numbers') AS view;
RESET ROLE;
SELECT set_config(name, 'on', false) AS forced FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query');

-- a policy that writes, on all tables that the functions read
CREATE OR REPLACE FUNCTION may_see(uuid text) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
	INSERT INTO seen VALUES (may_see.uuid);
	RETURN true;
END
$$;
ALTER TABLE poser_component ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON poser_component TO regress_poser_reader USING (may_see(uuid));
ALTER TABLE poser_widget_version ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON poser_widget_version TO regress_poser_reader USING (may_see(uuid));
ALTER TABLE poser_component_version ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON poser_component_version TO regress_poser_reader USING (may_see(uuid));
SET ROLE regress_poser_reader;
SELECT count(*), (SELECT component_count FROM poser_widget_get('w1')) AS components FROM numbers;
SELECT count(*), (SELECT count(*) FROM poser_widget_list()) AS listed FROM numbers;
SELECT count(*), (SELECT count(*) FROM poser_widget_history('w1')) AS versions FROM numbers;
SELECT count(*), (SELECT count(*) FROM poser_widget_history('w1', true)) AS versions FROM numbers;
SELECT count(*), (SELECT count(*) FROM poser_component_history('c1')) AS versions FROM numbers;
SELECT count(*), (SELECT count(*) FROM poser_widget_as_of('infinity')) AS rows FROM numbers;
SELECT count(*), (SELECT count(*) FROM poser_component_as_of('infinity')) AS rows FROM numbers;
SELECT count(*), (SELECT component_count FROM poser_widget_summary WHERE uuid = 'w1') AS components FROM numbers;
RESET ROLE;
SELECT uuid, count(*) > 0 AS seen FROM seen GROUP BY uuid ORDER BY uuid;

-- An older schema has functions that are PARALLEL RESTRICTED.  There the error has a hint.
DROP EXTENSION poser;
CREATE EXTENSION poser VERSION '1.4';
GRANT SELECT ON ALL TABLES IN SCHEMA public TO regress_poser_reader;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one');
ALTER TABLE poser_widget ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON poser_widget TO regress_poser_reader USING (may_see(uuid));
SET ROLE regress_poser_reader;
\set VERBOSITY default
\set SHOW_CONTEXT never
SELECT count(*), (SELECT component_count FROM poser_widget_get('w1')) AS components FROM numbers;
SELECT count(*), (SELECT count(*) FROM poser_widget_history('w1')) AS versions FROM numbers;
SELECT count(*), (SELECT count(*) FROM poser_widget_as_of('infinity')) AS rows FROM numbers;
\set VERBOSITY terse
-- the hint's advice works, and so does the update
BEGIN;
SET LOCAL max_parallel_workers_per_gather = 0;
SELECT count(*), (SELECT component_count FROM poser_widget_get('w1')) AS components FROM numbers;
COMMIT;
RESET ROLE;
ALTER EXTENSION poser UPDATE;
SET ROLE regress_poser_reader;
SELECT count(*), (SELECT component_count FROM poser_widget_get('w1')) AS components FROM numbers;
RESET ROLE;

DROP EXTENSION poser;
DROP TABLE numbers, seen;
DROP FUNCTION may_see, parallel;
DROP ROLE regress_poser_reader;
