-- Datasync: which roles may make consumers, work for them, and watch them.

\set VERBOSITY sqlstate
SET client_min_messages = warning;
-- Role regress_poser_owner with schema regress_poser.
\getenv test PG_ABS_SRCDIR
\set file :test '/include/owner.sql'
\i :file
CREATE ROLE regress_poser_erp;
CREATE ROLE regress_poser_member;
CREATE ROLE regress_poser_watcher;
CREATE ROLE regress_poser_nobody;
GRANT regress_poser_erp TO regress_poser_member;
RESET client_min_messages;
-- These default privileges have no effect on the extension.
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE regress_poser_owner REVOKE USAGE ON TYPES FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE regress_poser_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
SET ROLE regress_poser_owner;
CREATE EXTENSION poser SCHEMA regress_poser;
RESET ROLE;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE regress_poser_owner GRANT USAGE ON TYPES TO PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE regress_poser_owner GRANT EXECUTE ON FUNCTIONS TO PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA regress_poser FROM PUBLIC;
SET search_path = regress_poser, public;

-- the owner, which is no superuser
SET ROLE regress_poser_owner;
INSERT INTO poser_widget (uuid, description) VALUES ('a', 'A'), ('b', 'B');
SELECT poser_datasync_add('erp', 'beginning');
SELECT payload_key FROM poser_datasync_changes('erp', 1);
SELECT consumer, pending FROM poser_datasync_status;

-- no other role
SET ROLE regress_poser_erp;
SELECT poser_datasync_changes('erp');
SELECT poser_datasync_confirm('erp', 2);
SELECT poser_datasync_run('erp');
SELECT poser_datasync_skip('erp', 2, 'why');
SELECT poser_datasync_add('mine');
SELECT poser_datasync_drop('erp');
SELECT poser_datasync_grant('erp', 'regress_poser_erp');
SELECT poser_datasync_revoke('erp', 'regress_poser_erp');
SELECT * FROM poser_datasync_consumer;
UPDATE poser_datasync_consumer SET confirmed = 2;
DELETE FROM poser_datasync_consumer;
TRUNCATE poser_datasync_consumer;
SELECT * FROM poser_datasync_skipped;
INSERT INTO poser_datasync_skipped VALUES ('erp', 2, 'x', now(), 'x', 'x');
SELECT * FROM poser_datasync_status;
SELECT poser_datasync_pending('erp');
SELECT poser_datasync_stale();

-- A role with a grant on the consumer works for it, and needs nothing else.
SET ROLE regress_poser_owner;
SELECT poser_datasync_grant('erp', 'regress_poser_erp');
SELECT poser_datasync_grant('erp', 'regress_poser_erp');
SELECT roles FROM poser_datasync_consumer;
SET ROLE regress_poser_erp;
SELECT payload_key, payload FROM poser_datasync_changes('erp');
SELECT poser_datasync_confirm('erp', 2);
SELECT poser_datasync_skip('erp', 3, 'not wanted');
SELECT * FROM poser_widget;
SELECT * FROM poser_widget_version;
SELECT * FROM poser_transaction;
SELECT poser_datasync_drop('erp');
SELECT poser_datasync_grant('erp', 'regress_poser_nobody');
-- so do members of that role
SET ROLE regress_poser_member;
SELECT payload_key FROM poser_datasync_changes('erp');
SET ROLE regress_poser_nobody;
SELECT payload_key FROM poser_datasync_changes('erp');
SET ROLE regress_poser_owner;
SELECT poser_datasync_grant('erp', 'public');
SET ROLE regress_poser_nobody;
SELECT payload_key FROM poser_datasync_changes('erp');
SET ROLE regress_poser_owner;
SELECT poser_datasync_revoke('erp', 'public');
SELECT poser_datasync_revoke('erp', 'regress_poser_erp');
SELECT poser_datasync_revoke('erp', 'regress_poser_erp');
SELECT roles FROM poser_datasync_consumer;
SET ROLE regress_poser_erp;
SELECT payload_key FROM poser_datasync_changes('erp');
SELECT change_id, reason, username = session_user AS username, role_name FROM poser_datasync_skipped;
SET ROLE regress_poser_owner;
SELECT change_id, reason, username = session_user AS username, role_name FROM poser_datasync_skipped;

-- A consumer gets all rows, also those that policies hide from its role or the owner.
SELECT poser_datasync_grant('erp', 'regress_poser_erp');
ALTER TABLE poser_widget ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON poser_widget USING (false) WITH CHECK (true);
ALTER TABLE poser_widget_version ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE poser_transaction ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON poser_widget_version USING (false);
INSERT INTO poser_widget (uuid, description) VALUES ('c', 'C');
SET ROLE regress_poser_erp;
SELECT payload_key FROM poser_datasync_changes('erp');
SET ROLE regress_poser_owner;
SELECT consumer, pending FROM poser_datasync_status;
SELECT poser_prune_versions('0');
ALTER TABLE poser_widget DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY;
ALTER TABLE poser_widget_version DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY;
ALTER TABLE poser_transaction DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY;

-- Watching needs a privilege on the view, or on columns of it.
GRANT SELECT ON poser_datasync_status TO regress_poser_watcher;
SET ROLE regress_poser_watcher;
SELECT consumer, pending, stale FROM poser_datasync_status;
SELECT * FROM poser_datasync_stale('0');
SELECT payload_key FROM poser_datasync_changes('erp');
SELECT * FROM poser_datasync_consumer;
SET ROLE regress_poser_owner;
REVOKE SELECT ON poser_datasync_status FROM regress_poser_watcher;
GRANT SELECT (consumer, pending) ON poser_datasync_status TO regress_poser_watcher;
SET ROLE regress_poser_watcher;
SELECT consumer, pending FROM poser_datasync_status;
SELECT consumer, last_error FROM poser_datasync_status;

-- A handler runs as the calling role, with its privileges and in its name.
RESET ROLE;
CREATE TABLE public.handled (key text, role name DEFAULT current_user);
CREATE FUNCTION handle(poser_change) RETURNS void LANGUAGE sql AS
	$$INSERT INTO public.handled (key) VALUES (($1).payload_key)$$;
CREATE FUNCTION handle_with_rights(poser_change) RETURNS void LANGUAGE sql SECURITY DEFINER AS
	$$INSERT INTO public.handled (key) VALUES (($1).payload_key || ' with rights')$$;
REVOKE EXECUTE ON FUNCTION handle(poser_change) FROM PUBLIC;
SET ROLE regress_poser_owner;
SELECT poser_datasync_add('hq', handler => 'handle(poser_change)');
SELECT poser_datasync_grant('hq', 'regress_poser_erp');
INSERT INTO poser_widget (uuid, description) VALUES ('d', 'D');
SET ROLE regress_poser_erp;
SELECT poser_datasync_run('hq');
SET ROLE regress_poser_owner;
SELECT last_error FROM poser_datasync_status WHERE consumer = 'hq';
RESET ROLE;
GRANT EXECUTE ON FUNCTION handle(poser_change) TO regress_poser_erp;
SET ROLE regress_poser_erp;
SELECT poser_datasync_run('hq');
SET ROLE regress_poser_owner;
SELECT last_error FROM poser_datasync_status WHERE consumer = 'hq';
RESET ROLE;
GRANT INSERT ON handled TO regress_poser_erp;
SET ROLE regress_poser_erp;
SELECT poser_datasync_run('hq');
SET ROLE regress_poser_owner;
UPDATE poser_datasync_consumer SET handler = 'regress_poser.handle_with_rights' WHERE consumer = 'hq';
INSERT INTO poser_widget (uuid, description) VALUES ('e', 'E');
SET ROLE regress_poser_erp;
SELECT poser_datasync_run('hq');
RESET ROLE;
SELECT key, CASE role WHEN session_user THEN 'definer' ELSE role END FROM handled ORDER BY key;

-- A role cannot put the triggers on its own tables.
SET ROLE regress_poser_nobody;
CREATE TEMPORARY TABLE mine (notify bool);
CREATE TRIGGER mine BEFORE INSERT ON mine FOR EACH ROW EXECUTE FUNCTION poser_datasync_arrive();
CREATE TRIGGER mine AFTER INSERT ON mine EXECUTE FUNCTION poser_datasync_changed();
SELECT poser_datasync_arrive();
DROP TABLE mine;
RESET ROLE;

-- Before 1.4 another relation can have the name of the consumers' table.  It is ignored.
DROP EXTENSION poser CASCADE;
DROP TABLE handled;
SET ROLE regress_poser_owner;
CREATE EXTENSION poser SCHEMA regress_poser VERSION '1.3';
RESET ROLE;
GRANT CREATE ON SCHEMA regress_poser TO regress_poser_nobody;
SET ROLE regress_poser_nobody;
CREATE FUNCTION hostile() RETURNS name LANGUAGE plpgsql AS
	$$BEGIN RAISE WARNING 'run by %', current_user; RETURN 'hostile'; END$$;
CREATE VIEW poser_datasync_consumer AS SELECT hostile() AS consumer, true AS notify;
SET ROLE regress_poser_owner;
\set VERBOSITY default
INSERT INTO poser_widget (uuid, description) VALUES ('a', 'A');
UPDATE poser_widget SET description = 'B';
SELECT poser_prune_versions('0');
SET ROLE regress_poser_nobody;
DROP VIEW poser_datasync_consumer;
DROP FUNCTION hostile();
RESET ROLE;
DROP EXTENSION poser;
DROP SCHEMA regress_poser CASCADE;
DO $$
BEGIN
	EXECUTE format('REVOKE CREATE ON DATABASE %I FROM regress_poser_owner', current_database());
END
$$;
DROP OWNED BY regress_poser_owner;
DROP ROLE regress_poser_owner, regress_poser_erp, regress_poser_member, regress_poser_watcher, regress_poser_nobody;
