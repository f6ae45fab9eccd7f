\set ON_ERROR_STOP on
\pset footer off
\set QUIET off
\set ECHO all

-- Version 1.0 is two tables.  Debian packages are the widgets here, and the
-- packages that they need are the components.

CREATE EXTENSION poser VERSION '1.0';
\copy poser_widget FROM 'demo/widgets.csv' (FORMAT csv, HEADER)
\copy poser_component FROM 'demo/components.csv' (FORMAT csv, HEADER)

-- The update counts what is there, and writes its first versions.  From now on
-- the counts stay exact, and every change is recorded.

ALTER EXTENSION poser UPDATE;

-- The widgets with the most components:

SELECT left(description, 60) AS description, component_count, active_component_count
FROM poser_widget_summary
ORDER BY component_count DESC, description
LIMIT 10;

-- A page of the list, of what has to do with PostgreSQL:

SELECT uuid, left(description, 60) AS description, component_count
FROM poser_widget_list(search => 'postgresql', page_size => 10);

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
