-- Reading: poser_widget_get(), poser_widget_list(), poser_widget_summary.

\set VERBOSITY sqlstate
CREATE EXTENSION poser;

INSERT INTO poser_widget (uuid, description, active) VALUES
	('w01', 'Bolt', true),
	('w02', 'bolt, long', false),
	('w03', 'Nut 100%', true),
	('w04', 'nut_100', true),
	('w05', 'nutx100', false),
	('w06', 'back\slash', true),
	('w07', 'O''Ring', true),
	('w08', '', true),
	('w09', 'a "quoted" BOLT', true);
INSERT INTO poser_component (widget_uuid, item_code, description, active)
SELECT 'w0' || i, n, '', n <= 2 FROM generate_series(1, 4) AS i, generate_series(1, i) AS n;

--
-- poser_widget_get()
--
SELECT * FROM poser_widget_get('w03');
SELECT * FROM poser_widget_get('w09');
SELECT * FROM poser_widget_get('W03');
SELECT * FROM poser_widget_get('w03 ');
SELECT * FROM poser_widget_get('');
SELECT * FROM poser_widget_get(NULL);
SELECT * FROM poser_widget_get(repeat('x', 100));
-- in a select list, for several widgets, with a WHERE
SELECT poser_widget_get('w04');
SELECT (poser_widget_get(uuid)).component_count FROM poser_widget WHERE uuid < 'w04' ORDER BY uuid;
SELECT asked, component_count
  FROM unnest('{w02,none,w04,NULL,w02}'::varchar[]) WITH ORDINALITY AS wanted (asked, place)
       LEFT JOIN poser_widget_get(asked) ON true
 ORDER BY place;
SELECT uuid FROM poser_widget_get('w02') WHERE active;
SELECT uuid FROM poser_widget_get('w02') WHERE NOT active;

--
-- poser_widget_list()
--
SELECT * FROM poser_widget_list();

-- search: any part of the description, in upper or lower case; no character is special
SELECT uuid, description FROM poser_widget_list('bolt');
SELECT uuid, description FROM poser_widget_list('BoLt');
SELECT uuid, description FROM poser_widget_list('%');
SELECT uuid, description FROM poser_widget_list('_');
SELECT uuid, description FROM poser_widget_list('t_1');
SELECT uuid, description FROM poser_widget_list('\');
SELECT uuid, description FROM poser_widget_list('K\S');
SELECT uuid, description FROM poser_widget_list('''');
SELECT uuid, description FROM poser_widget_list('"');
SELECT uuid, description FROM poser_widget_list('.*');
SELECT uuid, description FROM poser_widget_list('t ');
SELECT count(*) FROM poser_widget_list('');
SELECT count(*) FROM poser_widget_list(repeat('x', 1000));

-- active or not
SELECT uuid, active FROM poser_widget_list(active => false);
SELECT count(*) FROM poser_widget_list(active => true);
SELECT count(*) FROM poser_widget_list(active => NULL);
SELECT uuid, description FROM poser_widget_list('bolt', true);

-- after a widget, a deleted one, one that never was, the last one, none
SELECT uuid FROM poser_widget_list(after => 'w07');
SELECT uuid FROM poser_widget_list(after => 'w075');
DELETE FROM poser_widget WHERE uuid = 'w08';
SELECT uuid FROM poser_widget_list(after => 'w08');
SELECT uuid FROM poser_widget_list(after => 'w09');
SELECT uuid FROM poser_widget_list(after => '', page_size => 1);
INSERT INTO poser_widget (uuid, description) VALUES ('', 'a key of no characters');
SELECT uuid FROM poser_widget_list(page_size => 1);
SELECT uuid FROM poser_widget_list(after => '', page_size => 1);
DELETE FROM poser_widget WHERE uuid = '';
SELECT uuid FROM poser_widget_list('bolt', after => 'w01', page_size => 1);

-- page sizes
SELECT uuid FROM poser_widget_list(page_size => 1);
SELECT count(*) FROM poser_widget_list(page_size => 1000);
SELECT * FROM poser_widget_list(page_size => 0);
SELECT * FROM poser_widget_list(page_size => -1);
SELECT * FROM poser_widget_list(page_size => 1001);
SELECT * FROM poser_widget_list(page_size => NULL);
\set VERBOSITY default
SELECT * FROM poser_widget_list(page_size => 1001);
\set VERBOSITY sqlstate

-- all pages, one after another, in the order of the key's collation
INSERT INTO poser_widget (uuid, description, active)
SELECT CASE i % 4 WHEN 0 THEN 'a' || i WHEN 1 THEN 'B' || i WHEN 2 THEN 'b-' || i ELSE md5(i::text) END,
       'paged ' || i, i % 2 = 0
  FROM generate_series(1, 2500) AS i;
INSERT INTO poser_component (widget_uuid, item_code, description)
SELECT uuid, '', '' FROM poser_widget, generate_series(1, 2) WHERE description LIKE 'paged %5';
CREATE FUNCTION pages(search text, page_size int, OUT pages int, OUT widgets bigint, OUT components bigint)
LANGUAGE plpgsql AS $$
DECLARE
	last varchar;
	page record;
	uuids varchar[] := '{}';
BEGIN
	pages := 0;
	components := 0;
	LOOP
		SELECT array_agg(uuid ORDER BY place) AS uuids, sum(component_count) AS components INTO page
		  FROM ROWS FROM (poser_widget_list(search, after => last, page_size => page_size))
		       WITH ORDINALITY AS list (uuid, description, active, component_count, active_component_count, place);
		EXIT WHEN page.uuids IS NULL;
		ASSERT cardinality(page.uuids) <= page_size;
		pages := pages + 1;
		components := components + page.components;
		uuids := uuids || page.uuids;
		last := uuids[cardinality(uuids)];
	END LOOP;
	SELECT count(DISTINCT uuid) INTO widgets FROM unnest(uuids) AS uuid;
	ASSERT widgets = cardinality(uuids), 'some came twice';
	ASSERT uuids = ARRAY(SELECT uuid FROM unnest(uuids) AS uuid ORDER BY uuid), 'not in order';
END
$$;
SELECT * FROM pages('PAGED', 1000);
SELECT * FROM pages('paged', 83);
SELECT * FROM pages('paged 1', 10);
SELECT * FROM pages(NULL, 1000);
SELECT count(*), sum(component_count) FROM poser_widget_summary;
SELECT count(*) FROM poser_widget_list(page_size => 1000);
SELECT count(*) FROM poser_widget_list();
DROP FUNCTION pages;

--
-- poser_widget_summary
--
SELECT uuid, component_count, active_component_count
  FROM poser_widget_summary
 WHERE description NOT LIKE 'paged%'
 ORDER BY component_count DESC, uuid
 LIMIT 3;
SELECT uuid FROM poser_widget_summary WHERE component_count = 3;
SELECT component_count, count(*) FROM poser_widget_summary GROUP BY component_count ORDER BY component_count;
SELECT summary.uuid, item_code, component_count
  FROM poser_widget_summary AS summary
       JOIN poser_component AS component ON component.widget_uuid = summary.uuid
 WHERE summary.uuid IN ('w02', 'w03') AND active_component_count < component_count
 ORDER BY item_code;
SELECT a.uuid, b.uuid
  FROM poser_widget_summary AS a JOIN poser_widget_summary AS b ON a.component_count = b.component_count + 3
 ORDER BY 1, 2 LIMIT 2;
SELECT uuid FROM poser_widget_summary WHERE uuid = ANY ('{w01,w03}') AND NOT component_count <> 1;
SELECT (SELECT component_count FROM poser_widget_summary AS summary WHERE summary.uuid = widget.uuid)
  FROM poser_widget AS widget WHERE uuid < 'w04' AND uuid LIKE 'w0_' ORDER BY uuid;
-- It cannot be written.
INSERT INTO poser_widget_summary (uuid, description) VALUES ('w99', '');
UPDATE poser_widget_summary SET component_count = 0;
DELETE FROM poser_widget_summary;

-- in parallel where the planner may, also what this transaction has just written
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET min_parallel_index_scan_size = 0;
SET enable_indexscan = off;
SELECT set_config(name, 'on', false) AS parallel
  FROM pg_settings WHERE name IN ('debug_parallel_query', 'force_parallel_mode');
BEGIN;
DELETE FROM poser_component WHERE widget_uuid LIKE 'B%';
INSERT INTO poser_component (widget_uuid, item_code, description)
SELECT uuid, '', '' FROM poser_widget, generate_series(1, 3) WHERE description LIKE 'paged %9';
SELECT count(*)
  FROM poser_widget_summary AS summary
 WHERE component_count <> (SELECT count(*) FROM poser_component WHERE widget_uuid = summary.uuid);
SELECT sum(component_count) = (SELECT count(*) FROM poser_component) AS right FROM poser_widget_summary;
SELECT sum(component_count) FROM poser_widget, poser_widget_get(uuid);
SELECT count(*) AS listed,
       count(*) FILTER (WHERE component_count <> (SELECT count(*) FROM poser_component
                                                   WHERE widget_uuid = list.uuid)) AS wrong
  FROM poser_widget_list('PAGED', page_size => 1000) AS list;
ROLLBACK;
SELECT sum(component_count) = (SELECT count(*) FROM poser_component) AS right FROM poser_widget_summary;
RESET parallel_setup_cost;
RESET parallel_tuple_cost;
RESET min_parallel_table_scan_size;
RESET min_parallel_index_scan_size;
RESET enable_indexscan;
SELECT set_config(name, 'off', false) AS parallel
  FROM pg_settings WHERE name IN ('debug_parallel_query', 'force_parallel_mode');

-- prepared, also with a generic plan, and across writes
PREPARE get(varchar) AS SELECT component_count FROM poser_widget_get($1);
PREPARE summary(varchar) AS SELECT component_count FROM poser_widget_summary WHERE uuid = $1;
SET plan_cache_mode = force_generic_plan;
EXECUTE get('w01');
EXECUTE summary('w01');
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w01', '', '');
EXECUTE get('w01');
EXECUTE summary('w01');
BEGIN;
TRUNCATE poser_component;
EXECUTE get('w01');
EXECUTE summary('w01');
ROLLBACK;
EXECUTE get('w01');
EXECUTE summary('w01');
RESET plan_cache_mode;
DEALLOCATE ALL;

DROP EXTENSION poser;
