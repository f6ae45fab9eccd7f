-- The settings poser.runas, poser.comment and poser.datasync_stale_after: valid values,
-- in a session that has used the extension and in one that has not.

\set VERBOSITY default
\set SHOW_CONTEXT never
SELECT getdatabaseencoding() <> 'UTF8' AS skip \gset
\if :skip
\echo skipped: needs a database in UTF8
\quit
\endif
CREATE EXTENSION poser;
CREATE VIEW last_transaction AS
SELECT replace(username, session_user, 'the session''s') AS username, comment
  FROM poser_transaction ORDER BY id DESC LIMIT 1;
SELECT * FROM poser_check();

-- Up to 255 characters of any number of bytes.
SELECT set_config('poser.runas', repeat('é', 255), false) = repeat('é', 255) AS set;
SELECT set_config('poser.comment', repeat('x', 255), false) = repeat('x', 255) AS set;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one');
SELECT username = repeat('é', 255) AS username, comment = repeat('x', 255) AS comment FROM last_transaction;
\set VERBOSITY sqlstate
SELECT set_config('poser.runas', repeat('é', 256), false);
SELECT set_config('poser.comment', repeat('x', 256), false);
\set VERBOSITY default
SELECT current_setting('poser.runas') = repeat('é', 255) AS runas, current_setting('poser.comment') = repeat('x', 255) AS comment;
-- line breaks, quotes and the like are kept
SET poser.runas = 'a "b" ''c'' \ü';
SET poser.comment = E'two\nlines; -- %s {}';
UPDATE poser_widget SET active = false;
TABLE last_transaction;
SELECT username, comment FROM poser_widget_history('w1') LIMIT 1;
RESET poser.runas;
RESET poser.comment;

-- Other names that begin with "poser." are an error.
SET poser.run_as = 'alice';
SET poser.comments = '';
SET "poser.runas.x" = '';
SELECT current_setting('poser.run_as');
SELECT name, setting, context FROM pg_settings WHERE name LIKE 'poser.%' ORDER BY name;

-- A time, in seconds without a unit.
SHOW poser.datasync_stale_after;
SET poser.datasync_stale_after = 5400;
SHOW poser.datasync_stale_after;
SET poser.datasync_stale_after = '2d';
SHOW poser.datasync_stale_after;
SET poser.datasync_stale_after = 0;
SHOW poser.datasync_stale_after;
\set VERBOSITY sqlstate
SET poser.datasync_stale_after = -1;
SET poser.datasync_stale_after = '2147483648';
SET poser.datasync_stale_after = '1 week';
SET poser.datasync_stale_after = '';
\set VERBOSITY default
SHOW poser.datasync_stale_after;
RESET poser.datasync_stale_after;

-- Every role may set them.
CREATE ROLE regress_poser_writer;
SET ROLE regress_poser_writer;
SET poser.runas = 'alice';
SHOW poser.runas;
RESET poser.runas;
SET poser.datasync_stale_after = '1min';
SHOW poser.datasync_stale_after;
RESET poser.datasync_stale_after;
RESET ROLE;
DROP ROLE regress_poser_writer;

-- A session that has not used the extension yet: settings made before take effect.
\c -
SET poser.runas = 'before';
SET poser.comment = 'before that';
UPDATE poser_widget SET active = true;
TABLE last_transaction;
RESET poser.runas;
UPDATE poser_widget SET active = false;
TABLE last_transaction;

-- or that were set for the database
DO $$
BEGIN
	EXECUTE format('ALTER DATABASE %I SET poser.runas = %L', current_database(), 'for the database');
END
$$;
\c -
UPDATE poser_widget SET active = true;
TABLE last_transaction;
SET poser.runas = 'alice';
UPDATE poser_widget SET active = false;
TABLE last_transaction;
RESET poser.runas;
SELECT current_setting('poser.runas');
DO $$
BEGIN
	EXECUTE format('ALTER DATABASE %I RESET poser.runas', current_database());
END
$$;

-- A value that was set before and is too long is an error at the first use.  Nothing is
-- done in another name.
\c -
SELECT length(set_config('poser.runas', repeat('x', 256), false));
UPDATE poser_widget SET active = true;
SELECT count(*) FROM poser_widget_list();
SELECT active FROM poser_widget;
-- nor at the second attempt
UPDATE poser_widget SET active = true;
SELECT active FROM poser_widget;
SET poser.runas = 'alice';
UPDATE poser_widget SET active = true;
SELECT active FROM poser_widget;
TABLE last_transaction;
\c -
SELECT length(set_config('poser.comment', repeat('x', 256), false));
DELETE FROM poser_widget;
SELECT active FROM poser_widget;
RESET poser.comment;
DELETE FROM poser_widget;
TABLE last_transaction;

-- A time that was set before and is not valid is a warning, and the default is used.
\c -
SET poser.datasync_stale_after = '1 week';
\set VERBOSITY sqlstate
SELECT count(*) FROM poser_datasync_stale();
\set VERBOSITY default
SHOW poser.datasync_stale_after;
\c -
SET poser.datasync_stale_after = '1min';
SELECT count(*) FROM poser_datasync_stale();
SHOW poser.datasync_stale_after;

-- Unknown names are errors after the first use, and values set before are removed.
\c -
SET poser.run_as = 'alice';
SHOW poser.run_as;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one');
SHOW poser.run_as;
TABLE last_transaction;

-- A rollback also undoes the setting.
\c -
BEGIN;
SET poser.runas = 'undone';
UPDATE poser_widget SET active = false;
TABLE last_transaction;
ROLLBACK;
UPDATE poser_widget SET active = false;
TABLE last_transaction;
SELECT * FROM poser_check();

DROP VIEW last_transaction;
DROP EXTENSION poser;
