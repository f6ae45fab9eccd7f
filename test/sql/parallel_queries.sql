-- Functions that read, in a parallel query.  Its leader calls them, also if a policy
-- calls code.  A policy that writes fails, and the error has a hint.

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

-- a policy that writes
CREATE OR REPLACE FUNCTION may_see(uuid text) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
	INSERT INTO seen VALUES (may_see.uuid);
	RETURN true;
END
$$;
SET ROLE regress_poser_reader;
\set VERBOSITY default
\set SHOW_CONTEXT never
SELECT count(*), (SELECT component_count FROM poser_widget_get('w1')) AS components FROM numbers;
SELECT count(*), (SELECT count(*) FROM poser_widget_history('w1')) AS versions FROM numbers;
SELECT count(*), (SELECT count(*) FROM poser_widget_as_of('infinity')) AS rows FROM numbers;
\set VERBOSITY terse
-- the hint's advice works
BEGIN;
SET LOCAL max_parallel_workers_per_gather = 0;
SELECT count(*), (SELECT component_count FROM poser_widget_get('w1')) AS components FROM numbers;
COMMIT;
-- The view itself is not run in parallel.
SELECT count(*), (SELECT component_count FROM poser_widget_summary WHERE uuid = 'w1') AS components FROM numbers;
RESET ROLE;
ALTER FUNCTION poser_widget_get(varchar) PARALLEL UNSAFE;
SET ROLE regress_poser_reader;
SELECT count(*), (SELECT component_count FROM poser_widget_get('w1')) AS components FROM numbers;
RESET ROLE;
SELECT count(*) FROM seen WHERE uuid = 'w1';

DROP EXTENSION poser;
DROP TABLE numbers, seen;
DROP FUNCTION may_see;
DROP ROLE regress_poser_reader;
