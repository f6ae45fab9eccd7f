-- 200,000 widgets; 1,000,000 components of the first, one of the second, and
-- 1,999,999 spread over the others.  Fresh statistics, as autovacuum leaves.
DROP EXTENSION IF EXISTS poser CASCADE;
CREATE EXTENSION poser;
INSERT INTO poser_widget (uuid, description)
SELECT md5(g::text), 'Widget ' || g FROM generate_series(1, 200000) AS g;
INSERT INTO poser_component (widget_uuid, item_code, description, active)
SELECT md5('1'), g, 'Component ' || g, g % 5 <> 0 FROM generate_series(1, 1000000) AS g;
INSERT INTO poser_component (widget_uuid, item_code, description)
VALUES (md5('2'), 1, 'Component 1');
INSERT INTO poser_component (widget_uuid, item_code, description, active)
SELECT md5((3 + g % 199998)::text), g, 'Component ' || g, g % 5 <> 0
  FROM generate_series(1, 1999999) AS g;
VACUUM ANALYZE;
