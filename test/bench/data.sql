-- :widgets (200,000) widgets, and three times :large (1,000,000) components.  The
-- first widget has :large components, the second one has one, and the other widgets
-- share the rest evenly.
INSERT INTO poser_widget (uuid, description)
SELECT md5(g::text), 'Widget ' || g FROM generate_series(1, :widgets) AS g;
INSERT INTO poser_component (widget_uuid, item_code, description, active)
SELECT md5('1'), g, 'Component ' || g, g % 5 <> 0 FROM generate_series(1, :large) AS g;
INSERT INTO poser_component (widget_uuid, item_code, description)
VALUES (md5('2'), 1, 'Component 1');
INSERT INTO poser_component (widget_uuid, item_code, description, active)
SELECT md5((3 + g % (:widgets - 2))::text), g, 'Component ' || g, g % 5 <> 0
  FROM generate_series(1, 2 * :large - 1) AS g;
