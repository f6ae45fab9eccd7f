\set ON_ERROR_STOP on
\pset footer off
\set QUIET off
\set ECHO all

-- Debian packages are the widgets here, and the packages that they need are the
-- components.  They lie in CSV files that the server can read:

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

-- They are imported in one transaction.  From the first row on, components are
-- counted, and every change is recorded.

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

-- A page of the list, of what has to do with PostgreSQL:

SELECT uuid, left(description, 60) AS description, component_count
FROM poser_widget_list(search => 'postgresql', page_size => 10);

-- Another file has come, with some of the widgets.  What would an import do?  It
-- writes what differs, and nothing else.

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

-- Who changed it, why, and back again:

SELECT max(id) AS before FROM poser_transaction \gset
SET poser.runas = 'alice'; SET poser.comment = 'not needed any more';
DELETE FROM poser_component WHERE widget_uuid = :'uuid';
SELECT poser_widget_revert(:'uuid', :before, with_components => true) AS changed;
SELECT username, comment, operation, relation, left(description, 30) AS description
FROM poser_widget_history(:'uuid', with_components => true)
LIMIT 8;
SELECT description, component_count FROM poser_widget_get(:'uuid');

-- The check finds what is wrong; no row means that all is well:

SELECT * FROM poser_check();
