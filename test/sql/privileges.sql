-- Privileges: what a reader and a writer need, and what other roles cannot do.

\set VERBOSITY sqlstate
SET client_min_messages = warning;
-- Role regress_poser_owner with schema regress_poser.
\getenv test PG_ABS_SRCDIR
\set file :test '/include/owner.sql'
\i :file
CREATE ROLE regress_poser_reader;
CREATE ROLE regress_poser_writer;
CREATE ROLE regress_poser_columns;
CREATE ROLE regress_poser_nobody;
RESET client_min_messages;

-- The bookkeeping must not get what these default privileges grant.
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC, regress_poser_reader;
ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO regress_poser_reader;
-- It must have what they revoke.
ALTER DEFAULT PRIVILEGES REVOKE ALL ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON TYPES FROM PUBLIC;

-- A trusted extension: its tables and views belong to the role that created it.
SET ROLE regress_poser_owner;
CREATE EXTENSION poser SCHEMA regress_poser;
RESET ROLE;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM PUBLIC, regress_poser_reader;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON FUNCTIONS FROM regress_poser_reader;
ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO PUBLIC;
ALTER DEFAULT PRIVILEGES GRANT ALL ON TYPES TO PUBLIC;
SELECT count(*) FROM pg_default_acl;
SET search_path = regress_poser, public;
SELECT relname, pg_get_userbyid(relowner) AS owner
  FROM pg_class
 WHERE relnamespace = 'regress_poser'::regnamespace AND relkind IN ('r', 'v', 'c')
 ORDER BY relname;
SELECT relname, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END AS grantee, privilege_type
  FROM pg_class, aclexplode(relacl)
 WHERE relnamespace = 'regress_poser'::regnamespace
   AND (relname LIKE 'poser_component_count%' OR relname LIKE 'poser_datasync%') AND grantee <> relowner
 ORDER BY relname, grantee, privilege_type;
-- The functions that are not for PUBLIC, and the type, which is.
SELECT oid::regprocedure AS function, has_function_privilege('regress_poser_reader', oid, 'EXECUTE') AS reader,
       has_function_privilege('regress_poser_nobody', oid, 'EXECUTE') AS nobody
  FROM pg_proc
 WHERE pronamespace = 'regress_poser'::regnamespace
   AND NOT (has_function_privilege('regress_poser_nobody', oid, 'EXECUTE') AND has_function_privilege('regress_poser_reader', oid, 'EXECUTE'))
 ORDER BY oid::regprocedure::text COLLATE "C";
SELECT typowner::regrole, has_type_privilege('regress_poser_nobody', 'poser_change', 'USAGE') AS nobody
  FROM pg_type WHERE oid = 'poser_change'::regtype;

-- Revoke what the defaults have granted on the rest.
REVOKE ALL ON poser_widget, poser_component, poser_widget_summary FROM PUBLIC, regress_poser_reader;

SET ROLE regress_poser_owner;
GRANT SELECT ON poser_widget, poser_component, poser_widget_summary TO regress_poser_reader;
GRANT INSERT, UPDATE, DELETE ON poser_widget, poser_component TO regress_poser_writer;
GRANT SELECT (uuid, description, active) ON poser_widget TO regress_poser_columns;
GRANT SELECT (widget_uuid, active) ON poser_component TO regress_poser_columns;
GRANT SELECT ON poser_widget_summary TO regress_poser_columns;

-- A writer
SET ROLE regress_poser_writer;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one'), ('w2', 'two'), ('w3', 'three');
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w1', '', ''), ('w1', '', ''), ('w2', '', '');
UPDATE poser_component SET active = false;
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w1', '', '');
DELETE FROM poser_widget;
UPDATE poser_widget SET active = false;
COPY poser_component (widget_uuid, item_code, description) FROM STDIN;
w2	-	-
\.
SELECT * FROM poser_widget;
SELECT * FROM poser_widget_summary;
SELECT * FROM poser_widget_get('w1');
SELECT * FROM poser_widget_list();

-- A reader
SET ROLE regress_poser_reader;
SELECT * FROM poser_widget_summary ORDER BY uuid;
SELECT * FROM poser_widget_get('w1');
SELECT * FROM poser_widget_list('T', page_size => 1);
INSERT INTO poser_widget (description) VALUES ('');
DELETE FROM poser_component;

-- A reader sees the maintained counts only if it may read the components.
SELECT * FROM poser_component_count_settled ORDER BY widget_uuid;

-- SELECT on columns: the counts are counted live
SET ROLE regress_poser_columns;
SELECT * FROM poser_component_count_settled;
SELECT * FROM poser_widget_summary ORDER BY uuid;
SELECT * FROM poser_widget_get('w2');
SELECT uuid, component_count FROM poser_widget_list();
SELECT item_code FROM poser_component;

-- The bookkeeping is closed to all of these roles
SET ROLE regress_poser_reader;
SELECT * FROM poser_component_count;
SELECT * FROM poser_component_count_delta;
SELECT * FROM poser_datasync_consumer;
SELECT * FROM poser_datasync_skipped;
SELECT * FROM poser_datasync_status;
SET ROLE regress_poser_writer;
SELECT * FROM poser_component_count;
SELECT * FROM poser_component_count_delta;
SELECT * FROM poser_component_count_settled;
INSERT INTO poser_component_count VALUES ('w1', 1, 1);
UPDATE poser_component_count SET total = 0;
DELETE FROM poser_component_count;
TRUNCATE poser_component_count;
INSERT INTO poser_component_count_delta VALUES ('w1', 1, 1);
UPDATE poser_component_count_delta SET total = 0;
DELETE FROM poser_component_count_delta;
TRUNCATE poser_component_count_delta;
BEGIN;
LOCK TABLE poser_component_count;
ROLLBACK;
UPDATE poser_component_count_settled SET total = 0;
INSERT INTO poser_datasync_consumer (consumer) VALUES ('mine');
UPDATE poser_datasync_consumer SET roles = '{public}';
DELETE FROM poser_datasync_consumer;
TRUNCATE poser_datasync_consumer;
DELETE FROM poser_datasync_skipped;

-- and so are poser_recount() and poser_check()
SELECT poser_recount();
SELECT * FROM poser_check();
SET ROLE regress_poser_reader;
SELECT poser_recount();
SELECT * FROM poser_check();
SET ROLE regress_poser_nobody;
-- no role can put the triggers on its own tables
CREATE TEMPORARY TABLE mine (widget_uuid varchar(32), active bool);
CREATE TRIGGER mine AFTER INSERT ON mine REFERENCING NEW TABLE AS new_rows
	EXECUTE FUNCTION poser_count_child('poser_component_count', 'poser_component_count_delta', 'widget_uuid', 'active');
INSERT INTO mine VALUES ('w1', true), ('w1', true);
DROP TABLE mine;
CREATE TEMPORARY TABLE mine (uuid varchar(32));
INSERT INTO mine VALUES ('w1'), ('w2');
CREATE TRIGGER mine AFTER DELETE ON mine REFERENCING OLD TABLE AS old_rows
	EXECUTE FUNCTION poser_count_parent('poser_component_count', 'poser_component_count_delta', 'uuid');
DELETE FROM mine;
CREATE TRIGGER mine BEFORE INSERT ON mine FOR EACH ROW EXECUTE FUNCTION poser_datasync_arrive();
CREATE TRIGGER mine AFTER INSERT ON mine EXECUTE FUNCTION poser_datasync_changed();
DROP TABLE mine;
SET ROLE regress_poser_reader;
SELECT uuid, component_count FROM poser_widget_summary ORDER BY uuid;

-- A role without grants
SET ROLE regress_poser_nobody;
SELECT * FROM poser_widget_summary;
SELECT * FROM poser_widget_get('w1');
SELECT * FROM poser_widget_list();
SELECT * FROM poser_component_count_settled;

-- All three grants are needed.
SET ROLE regress_poser_owner;
GRANT SELECT ON poser_widget_summary, poser_widget TO regress_poser_nobody;
SET ROLE regress_poser_nobody;
SELECT * FROM poser_widget_summary;
SELECT * FROM poser_widget_get('w1');
SELECT * FROM poser_widget_list();
SET ROLE regress_poser_owner;
GRANT SELECT ON poser_component TO regress_poser_nobody;
REVOKE SELECT ON poser_widget FROM regress_poser_nobody;
SET ROLE regress_poser_nobody;
SELECT * FROM poser_widget_summary;
SELECT * FROM poser_widget_get('w1');
SELECT * FROM poser_widget_list();
SET ROLE regress_poser_owner;
GRANT SELECT ON poser_widget TO regress_poser_nobody;
REVOKE SELECT ON poser_widget_summary FROM regress_poser_nobody;
SET ROLE regress_poser_nobody;
SELECT * FROM poser_widget_get('w1');

-- A plan made for one role is not used for another: reader, no grants, reader, owner.
SET ROLE regress_poser_owner;
REVOKE ALL ON poser_widget, poser_component, poser_widget_summary FROM regress_poser_nobody;
PREPARE get AS SELECT component_count FROM poser_widget_get('w1');
PREPARE list AS SELECT uuid, component_count FROM poser_widget_list(page_size => 2);
PREPARE summary AS SELECT component_count FROM poser_widget_summary WHERE uuid = 'w1';
SET ROLE regress_poser_reader;
EXECUTE get;
EXECUTE list;
EXECUTE summary;
SET ROLE regress_poser_nobody;
EXECUTE get;
EXECUTE list;
EXECUTE summary;
SET ROLE regress_poser_columns;
EXECUTE get;
EXECUTE list;
EXECUTE summary;
SET ROLE regress_poser_owner;
EXECUTE get;
EXECUTE list;
EXECUTE summary;
DEALLOCATE ALL;

-- A revoked privilege is gone at once, also within a transaction.
BEGIN;
SET LOCAL ROLE regress_poser_reader;
SELECT component_count FROM poser_widget_get('w1');
SET LOCAL ROLE regress_poser_owner;
REVOKE SELECT ON poser_component FROM regress_poser_reader;
SET LOCAL ROLE regress_poser_reader;
SELECT * FROM poser_component_count_settled;
SELECT component_count FROM poser_widget_get('w1');
ROLLBACK;

-- A function with its definer's rights reads with these.  A view over the summary
-- reads with its caller's, because the summary does.
SET ROLE regress_poser_owner;
CREATE FUNCTION count_of(widget varchar) RETURNS bigint LANGUAGE sql SECURITY DEFINER AS
	'SELECT component_count FROM regress_poser.poser_widget_get(widget)';
CREATE FUNCTION add_to(widget varchar) RETURNS bigint LANGUAGE sql SECURITY DEFINER AS $$
	INSERT INTO regress_poser.poser_component (widget_uuid, item_code, description) VALUES (widget, '', '');
	SELECT component_count FROM regress_poser.poser_widget_summary WHERE uuid = widget;
$$;
CREATE VIEW owners_summary AS SELECT * FROM poser_widget_summary;
CREATE VIEW readers_summary WITH (security_invoker = true) AS SELECT * FROM poser_widget_summary;
GRANT SELECT ON owners_summary, readers_summary TO regress_poser_nobody, regress_poser_reader;
SET ROLE regress_poser_nobody;
SELECT count_of('w1'), add_to('w1'), count_of('w2');
SELECT uuid, component_count FROM owners_summary ORDER BY uuid;
SELECT uuid, component_count FROM readers_summary ORDER BY uuid;
SELECT count_of('w1'), component_count FROM poser_widget_get('w1');
SET ROLE regress_poser_reader;
SELECT uuid, component_count FROM owners_summary ORDER BY uuid;
SELECT uuid, component_count FROM readers_summary ORDER BY uuid;

-- The owner, which is no superuser, recounts, checks and drops.
SET ROLE regress_poser_owner;
SELECT * FROM poser_check();
UPDATE poser_component_count SET total = total + 1;
SELECT poser_recount();
SELECT * FROM poser_check();
DROP FUNCTION count_of, add_to;
DROP VIEW owners_summary, readers_summary;
DROP EXTENSION poser;
RESET ROLE;

DROP SCHEMA regress_poser;
DO $$
BEGIN
	EXECUTE format('REVOKE CREATE ON DATABASE %I FROM regress_poser_owner', current_database());
END
$$;
DROP ROLE regress_poser_owner, regress_poser_reader, regress_poser_writer,
	regress_poser_columns, regress_poser_nobody;
