-- Counts that drift because the triggers did not run: what reads do, what
-- poser_check() says, and how poser_recount() mends them.  Version 1.1, which has
-- nothing else that drifts.

\set VERBOSITY sqlstate
CREATE EXTENSION poser VERSION '1.1';

CREATE VIEW shown AS
SELECT uuid, component_count AS total, active_component_count AS active
  FROM poser_widget_summary
 ORDER BY uuid;
-- whether reads use the maintained counts
CREATE VIEW maintained AS
SELECT count(*) > 0 AS maintained FROM poser_component_count_settled;

INSERT INTO poser_widget (uuid, description) VALUES ('w1', ''), ('w2', ''), ('w3', '');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES
	('c1', 'w1', '', ''), ('c2', 'w1', '', ''), ('c3', 'w2', '', '');
SELECT * FROM poser_check();

--
-- session_replication_role = replica, as for rows that come by replication
--
SET session_replication_role = replica;
INSERT INTO poser_component (uuid, widget_uuid, item_code, description, active) VALUES
	('c4', 'w1', '', '', true), ('c5', 'w3', '', '', false);
UPDATE poser_component SET active = false WHERE uuid = 'c3';
INSERT INTO poser_widget (uuid, description) VALUES ('w4', '');
DELETE FROM poser_widget WHERE uuid = 'w2';
RESET session_replication_role;
SELECT * FROM poser_check();
-- it writes nothing, and does not mend
SELECT * FROM poser_check();
SELECT poser_recount();
SELECT * FROM poser_check();
TABLE shown;
SELECT widget_uuid, total, active FROM poser_component_count ORDER BY widget_uuid;
INSERT INTO poser_widget (uuid, description) VALUES ('w2', '');
TABLE shown;
SELECT poser_recount();
SELECT * FROM poser_check();

-- what was wrong stays so by as much, whatever is written before it is mended
SET session_replication_role = replica;
DELETE FROM poser_component WHERE uuid = 'c1';
RESET session_replication_role;
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w1', '', ''), ('w2', '', '');
SELECT * FROM poser_check();
SELECT poser_recount();
TABLE shown;
SELECT poser_recount();

-- only the active ones, only the settled row, and a count of nothing
UPDATE poser_component_count SET active = active + 1 WHERE widget_uuid = 'w1';
DELETE FROM poser_component_count WHERE widget_uuid = 'w4';
INSERT INTO poser_component_count VALUES ('none', 0, 0), ('five', 5, 5);
INSERT INTO poser_component_count_delta VALUES ('w3', 1, 0), ('w3', -1, 0), ('lost', 0, 0);
SELECT * FROM poser_check();
-- undone, the counts are as wrong as before
BEGIN;
SELECT poser_recount();
SELECT * FROM poser_check();
SELECT count(*) FROM poser_component_count_delta;
ROLLBACK;
SELECT count(*) FROM poser_check();
SELECT poser_recount();
SELECT * FROM poser_check();
SELECT widget_uuid, total, active FROM poser_component_count ORDER BY widget_uuid;
SELECT count(*) FROM poser_component_count_delta;

-- in a transaction with one snapshot, which sees its own mending
BEGIN ISOLATION LEVEL REPEATABLE READ;
SET LOCAL session_replication_role = replica;
UPDATE poser_component SET active = NOT active;
SET LOCAL session_replication_role = origin;
SELECT poser_recount();
TABLE shown;
SELECT * FROM poser_check();
SELECT poser_recount();
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w4', '', '');
TABLE shown;
COMMIT;
SELECT * FROM poser_check();
BEGIN ISOLATION LEVEL SERIALIZABLE;
UPDATE poser_component_count SET total = total + 7;
SELECT poser_recount();
SELECT * FROM poser_check();
COMMIT;
TABLE shown;

-- all at once
TRUNCATE poser_component_count;
SELECT count(*) FROM poser_check();
SELECT poser_recount();
SELECT * FROM poser_check();
TABLE maintained;

--
-- A disabled trigger: reads do not trust the counts
--
ALTER TABLE poser_component DISABLE TRIGGER poser_count_insert;
TABLE maintained;
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w1', '', ''), ('w1', '', '');
TABLE shown;
SELECT component_count FROM poser_widget_get('w1');
SELECT uuid, component_count FROM poser_widget_list();
SELECT * FROM poser_check();
ALTER TABLE poser_component ENABLE TRIGGER poser_count_insert;
SELECT * FROM poser_check();
SELECT poser_recount();
TABLE maintained;
TABLE shown;
SELECT * FROM poser_check();

-- each of the triggers
CREATE PROCEDURE each_trigger() LANGUAGE plpgsql AS $$
DECLARE
	trigger name;
BEGIN
	FOR trigger IN SELECT tgname FROM pg_trigger
	                WHERE tgrelid = 'poser_component'::regclass AND NOT tgisinternal ORDER BY tgname
	LOOP
		EXECUTE format('ALTER TABLE poser_component DISABLE TRIGGER %I', trigger);
		RAISE WARNING '% disabled: maintained %, %', trigger, (TABLE maintained), (SELECT string_agg(problem, ', ') FROM poser_check());
		EXECUTE format('ALTER TABLE poser_component ENABLE REPLICA TRIGGER %I', trigger);
		RAISE WARNING '% replica: maintained %, %', trigger, (TABLE maintained), (SELECT string_agg(problem, ', ') FROM poser_check());
		EXECUTE format('ALTER TABLE poser_component ENABLE ALWAYS TRIGGER %I', trigger);
		RAISE WARNING '% always: maintained %, %', trigger, (TABLE maintained), (SELECT string_agg(problem, ', ') FROM poser_check());
		EXECUTE format('ALTER TABLE poser_component ENABLE TRIGGER %I', trigger);
	END LOOP;
END
$$;
\set VERBOSITY terse
CALL each_trigger();
\set VERBOSITY sqlstate
TABLE maintained;
DROP PROCEDURE each_trigger;

-- All of them, as a restore of data does it, and in a transaction that is undone.
BEGIN;
ALTER TABLE poser_component DISABLE TRIGGER USER;
DELETE FROM poser_component WHERE widget_uuid = 'w1';
TABLE shown;
SAVEPOINT a;
ALTER TABLE poser_component ENABLE TRIGGER USER;
SELECT * FROM poser_check();
ROLLBACK TO a;
TABLE shown;
ROLLBACK;
TABLE maintained;
TABLE shown;

-- The widgets' triggers: settled counts are missing or left over, and reads do
-- not trust them meanwhile either.
ALTER TABLE poser_widget DISABLE TRIGGER USER;
INSERT INTO poser_widget (uuid, description) VALUES ('w5', '');
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w5', '', ''), ('w5', '', '');
DELETE FROM poser_component WHERE widget_uuid = 'w2';
DELETE FROM poser_widget WHERE uuid = 'w2';
TABLE shown;
TABLE maintained;
SELECT * FROM poser_check() ORDER BY object COLLATE "C";
ALTER TABLE poser_widget ENABLE TRIGGER USER;
SELECT * FROM poser_check();
SELECT poser_recount();
SELECT * FROM poser_check();
TABLE shown;

-- A trigger that is gone, or another one in its place
BEGIN;
DROP TRIGGER poser_count_delete ON poser_component;
TABLE maintained;
DELETE FROM poser_component WHERE widget_uuid = 'w5';
TABLE shown;
SELECT * FROM poser_check();
CREATE TRIGGER poser_count_delete AFTER DELETE ON poser_component
	REFERENCING OLD TABLE AS old_rows WHEN (pg_trigger_depth() = 0)
	EXECUTE FUNCTION poser_count_child('poser_component_count', 'poser_component_count_delta', 'widget_uuid', 'active');
TABLE maintained;
TABLE shown;
SELECT * FROM poser_check();
DROP TRIGGER poser_count_delete ON poser_component;
CREATE TRIGGER poser_count_delete AFTER DELETE ON poser_component
	REFERENCING OLD TABLE AS old_rows
	EXECUTE FUNCTION poser_count_child('poser_component_count', 'poser_component_count_delta', 'widget_uuid', 'active');
SELECT poser_recount();
SELECT * FROM poser_check();
COMMIT;
TABLE maintained;
TABLE shown;

-- A trigger that has other arguments than it should have
CREATE TRIGGER wrong AFTER INSERT ON poser_widget
	EXECUTE FUNCTION poser_count_child('poser_component_count', 'poser_component_count_delta', 'uuid');
INSERT INTO poser_widget (uuid, description) VALUES ('w9', '');
DROP TRIGGER wrong ON poser_widget;
CREATE TRIGGER wrong AFTER INSERT ON poser_widget FOR EACH ROW
	EXECUTE FUNCTION poser_count_child('poser_component_count', 'poser_component_count_delta', 'uuid', 'active');
INSERT INTO poser_widget (uuid, description) VALUES ('w9', '');
DROP TRIGGER wrong ON poser_widget;
CREATE TRIGGER wrong AFTER INSERT ON poser_widget
	EXECUTE FUNCTION poser_count_parent('poser_component_count');
INSERT INTO poser_widget (uuid, description) VALUES ('w9', '');
DROP TRIGGER wrong ON poser_widget;
CREATE TRIGGER wrong AFTER INSERT ON poser_widget
	EXECUTE FUNCTION poser_count_parent('poser_component_count', 'poser_component_count_delta', 'description of it');
INSERT INTO poser_widget (uuid, description) VALUES ('w9', '');
DROP TRIGGER wrong ON poser_widget;
CREATE TRIGGER wrong AFTER INSERT ON poser_widget
	EXECUTE FUNCTION poser_count_parent('poser_component_count', 'no such table', 'uuid');
INSERT INTO poser_widget (uuid, description) VALUES ('w9', '');
DROP TRIGGER wrong ON poser_widget;
CREATE TRIGGER wrong AFTER INSERT ON poser_widget
	EXECUTE FUNCTION poser_count_parent('poser_component_count', 'poser_component_count_delta', 'active');
INSERT INTO poser_widget (uuid, description) VALUES ('w9', '');
DROP TRIGGER wrong ON poser_widget;
SELECT poser_count_child();
SELECT poser_count_parent();

DROP VIEW shown, maintained;
DROP EXTENSION poser;
