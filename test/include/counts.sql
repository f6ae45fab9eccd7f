\set ECHO none
-- Widgets that have deltas left, or that have other counts in the summary or in
-- the bookkeeping than a count of their components gives.  There are none unless
-- another session writes at the same time.
CREATE VIEW count_differences AS
SELECT uuid, counted.total, counted.active,
       component_count, active_component_count,
       kept.total AS kept_total, kept.active AS kept_active, deltas
  FROM (SELECT widget.uuid,
               count(component.uuid) AS total,
               count(*) FILTER (WHERE component.active) AS active
          FROM poser_widget AS widget
               LEFT JOIN poser_component AS component ON widget_uuid = widget.uuid
         GROUP BY widget.uuid) AS counted
       FULL JOIN poser_widget_summary USING (uuid)
       FULL JOIN (SELECT widget_uuid AS uuid, total, active
                    FROM poser_component_count_settled) AS kept USING (uuid)
       FULL JOIN (SELECT widget_uuid AS uuid, count(*) AS deltas
                    FROM poser_component_count_delta
                   GROUP BY widget_uuid) AS unsettled USING (uuid)
 WHERE (counted.total, counted.active) IS DISTINCT FROM (component_count, active_component_count)
    OR (counted.total, counted.active) IS DISTINCT FROM (coalesce(kept.total, 0), coalesce(kept.active, 0))
    OR deltas IS NOT NULL;

-- What the summary says.
CREATE VIEW shown AS
SELECT uuid, component_count AS total, active_component_count AS active
  FROM poser_widget_summary
 ORDER BY uuid;
\set ECHO all
