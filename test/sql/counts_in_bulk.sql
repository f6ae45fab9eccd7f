-- Component counts of statements that change more widgets than fit in memory: the
-- changes are applied in several parts.

\set VERBOSITY sqlstate
CREATE EXTENSION poser;

-- Views count_differences and shown.
\getenv test PG_ABS_SRCDIR
\set file :test '/include/counts.sql'
\i :file

CREATE VIEW sums AS
SELECT count(*) AS widgets, sum(component_count) AS total,
       sum(active_component_count) AS active,
       min(component_count) AS least, max(component_count) AS most
  FROM poser_widget_summary;

SET work_mem = '64kB';
SET hash_mem_multiplier = 1;

INSERT INTO poser_widget (uuid, description) SELECT 'w' || i, i FROM generate_series(1, 5000) AS i;

-- each widget occurs again and again, far apart
INSERT INTO poser_component (uuid, widget_uuid, item_code, description, active)
SELECT 'c' || i, 'w' || 1 + i % 5000, '', '', i % 3 = 0 FROM generate_series(1, 20000) AS i;
TABLE sums;
SELECT count(*) FROM count_differences;

-- half of the components change, all of them move to the next widget, a quarter goes
UPDATE poser_component SET active = NOT active WHERE right(uuid, 1) IN ('0', '2', '4', '6', '8');
TABLE sums;
SELECT count(*) FROM count_differences;
UPDATE poser_component SET widget_uuid = 'w' || substr(widget_uuid, 2)::int % 5000 + 1;
TABLE sums;
SELECT count(*) FROM count_differences;
DELETE FROM poser_component WHERE substr(uuid, 2)::int % 4 = 0;
TABLE sums;
SELECT count(*) FROM count_differences;

-- with a rollback of part of it
BEGIN;
INSERT INTO poser_component (widget_uuid, item_code, description)
SELECT uuid, '', '' FROM poser_widget;
SAVEPOINT a;
UPDATE poser_component SET active = false, widget_uuid = 'w' || length(item_code || uuid);
TABLE sums;
SELECT count(*) FROM count_differences;
ROLLBACK TO a;
TABLE sums;
SELECT count(*) FROM count_differences;
COMMIT;
SELECT count(*) FROM count_differences;

-- One transaction changes each count many times, and more counts than a transaction
-- remembers.
INSERT INTO poser_widget (uuid, description) SELECT 'v' || i, i FROM generate_series(1, 12000) AS i;
BEGIN;
INSERT INTO poser_component (widget_uuid, item_code, description) SELECT uuid, '', '' FROM poser_widget;
UPDATE poser_component SET active = NOT active;
INSERT INTO poser_component (widget_uuid, item_code, description) SELECT uuid, '', '' FROM poser_widget;
TABLE sums;
SELECT count(*) FROM count_differences;
COMMIT;
TABLE sums;
SELECT count(*) FROM count_differences;

-- widgets and components in one query, and both again
WITH widget AS (
	INSERT INTO poser_widget (uuid, description) SELECT 'u' || i, i FROM generate_series(1, 3000) AS i RETURNING uuid)
INSERT INTO poser_component (widget_uuid, item_code, description, active)
SELECT uuid, '', '', i = 2 FROM widget, generate_series(1, 2) AS i;
TABLE sums;
SELECT count(*) FROM count_differences;
WITH gone AS (
	DELETE FROM poser_component WHERE widget_uuid NOT LIKE 'u%')
DELETE FROM poser_widget WHERE uuid NOT LIKE 'u%';
TABLE sums;
SELECT count(*) FROM count_differences;
TRUNCATE poser_component;
TABLE sums;
SELECT count(*) FROM count_differences;

DROP VIEW count_differences, shown, sums;
DROP EXTENSION poser;
