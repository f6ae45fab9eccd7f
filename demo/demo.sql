\set ON_ERROR_STOP on
\pset footer off
\set QUIET off
\set ECHO all

-- In this demo a widget is a Debian package, and its components are the packages that
-- it needs.  The rows are in CSV files, which the server reads as foreign tables:

\set widgets `pwd` /demo/widgets.csv
\set components `pwd` /demo/components.csv
\set changes `pwd` /demo/changes.csv
CREATE EXTENSION file_fdw;
CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
CREATE FOREIGN TABLE debian_widgets (uuid text, description text, active boolean)
SERVER files OPTIONS (filename :'widgets', format 'csv', header 'true');
CREATE FOREIGN TABLE debian_components
	(uuid text, widget_uuid text, item_code text, description text, active boolean)
SERVER files OPTIONS (filename :'components', format 'csv', header 'true');

-- Import both files in one transaction.  Poser counts the components and records
-- every change.

CREATE EXTENSION poser;
BEGIN;
SET LOCAL poser.runas = 'importer';
SELECT * FROM poser_import('debian_widgets', 'poser_widget');
SELECT * FROM poser_import('debian_components', 'poser_component');
COMMIT;

-- The widgets with the most components:

SELECT left(description, 60) AS description, component_count, active_component_count
FROM poser_widget_summary
ORDER BY component_count DESC, description
LIMIT 10;

-- A page of the widgets whose description contains "postgresql":

SELECT uuid, left(description, 60) AS description, component_count
FROM poser_widget_list(search => 'postgresql', page_size => 10);

-- A new file has arrived, with some of the widgets.  What would an import do?  It
-- writes only the rows that differ.

ALTER FOREIGN TABLE debian_widgets OPTIONS (SET filename :'changes');
TABLE debian_widgets;
SELECT operation, old, new FROM poser_import_diff('debian_widgets', 'poser_widget') ORDER BY key;
SELECT * FROM poser_import('debian_widgets', 'poser_widget');

-- One widget, before and after it gets one more component:

SELECT uuid FROM poser_widget WHERE description LIKE 'barman: %' \gset
SELECT description, component_count FROM poser_widget_get(:'uuid');
INSERT INTO poser_component (widget_uuid, item_code, description)
VALUES (:'uuid', 'zstd', 'zstd (>= 1.5)');
SELECT description, component_count FROM poser_widget_get(:'uuid');

-- Delete its components, and say in whose name and why.  Then revert to the state
-- before, and look at the history:

SELECT max(id) AS before FROM poser_transaction \gset
BEGIN;
SET LOCAL poser.runas = 'alice';
SET LOCAL poser.comment = 'not needed any more';
DELETE FROM poser_component WHERE widget_uuid = :'uuid';
COMMIT;
BEGIN;
SET LOCAL poser.runas = 'bob';
SET LOCAL poser.comment = 'needed after all';
SELECT poser_widget_revert(:'uuid', :before, with_components => true) AS changed;
COMMIT;
SELECT username, comment, operation, relation, left(description, 30) AS description
FROM poser_widget_history(:'uuid', with_components => true)
LIMIT 8;
SELECT description, component_count FROM poser_widget_get(:'uuid');

-- Any table of your own gets a history by one call.  A consumer, here named "directory",
-- gets its changes.  The password is in neither:

CREATE TABLE maintainer (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	name text NOT NULL, email text, password text);
SELECT poser_track('maintainer', exclude => '{password}');
SELECT poser_datasync_add('directory', tables => '{maintainer}', old_values => true);
INSERT INTO maintainer (name, email, password)
VALUES ('Ann', 'ann@example.org', 'secret'), ('Bob', 'bob@example.org', 'secret');

-- After ALTER TABLE the same call makes the history follow:

ALTER TABLE maintainer ADD COLUMN team text;
ALTER TABLE maintainer RENAME email TO mail;
SELECT poser_track('maintainer');
UPDATE maintainer SET team = 'Databases' WHERE name = 'Ann';

-- A row is deleted, and comes back:

SELECT max(id) AS before FROM poser_transaction \gset
DELETE FROM maintainer WHERE name = 'Ann';
SELECT poser_revert('maintainer', '{"name": "Ann"}', :before) AS changed;
SELECT operation, changed, old, new FROM poser_history('maintainer', '{"id": 1}');
SELECT operation, changed, payload_key AS key, old, payload FROM poser_datasync_changes('directory');

-- A view with counts and sums of the rows that refer to a table.  One call, and
-- the view costs a look-up instead of reading all rows.  It is exact in every snapshot,
-- and no writer waits for another:

CREATE TABLE upload (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	maintainer_id bigint REFERENCES maintainer ON DELETE CASCADE,
	bytes bigint NOT NULL, accepted boolean NOT NULL DEFAULT true);
CREATE VIEW maintainer_uploads AS
SELECT m.id, m.name, count(u.id) AS uploads, count(u.id) FILTER (WHERE NOT u.accepted) AS refused, sum(u.bytes) AS bytes
FROM maintainer m LEFT JOIN upload u ON u.maintainer_id = m.id
GROUP BY m.id;
SELECT poser_maintain('maintainer_uploads');
INSERT INTO upload (maintainer_id, bytes, accepted)
SELECT 1 + n % 2, n, n % 10 <> 0 FROM generate_series(1, 200000) AS n;
SELECT * FROM maintainer_uploads ORDER BY uploads DESC;

BEGIN;
DELETE FROM upload WHERE NOT accepted;
SELECT name, uploads, refused, bytes FROM maintainer_uploads ORDER BY id;
ROLLBACK;
SELECT name, uploads, refused, bytes FROM maintainer_uploads ORDER BY id;

-- The check reports what is wrong.  No row means that all is well:

SELECT * FROM poser_check();
