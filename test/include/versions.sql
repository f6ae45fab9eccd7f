\set ECHO none
-- The recorded changes in their order.  Transaction ids are replaced by numbers
-- from 1.
CREATE VIEW changes AS
SELECT dense_rank() OVER (ORDER BY transaction_id) AS transaction, relation,
       (ARRAY['insert', 'update', 'delete'])[operation_type + 1] AS operation, uuid, "values"
  FROM (SELECT transaction_id, change_id, operation_type, 'widget' AS relation, uuid,
               concat_ws(' ', description, active) AS "values"
          FROM poser_widget_version
        UNION ALL
        SELECT transaction_id, change_id, operation_type, 'component', uuid,
               concat_ws(' ', widget_uuid, item_code, description, active)
          FROM poser_component_version) AS version
 ORDER BY change_id;

-- What is wrong in the histories.  The view must be empty: the first version of a
-- row is an insert; an insert follows a delete, an update or a delete follows
-- anything else; the last version is the row as it is; each version has a
-- transaction, with a smaller id.
CREATE VIEW wrong_histories AS
WITH live AS (
	SELECT 'widget' AS relation, uuid, NULL AS widget_uuid, NULL AS item_code, description, active FROM poser_widget
	UNION ALL
	SELECT 'component', uuid, widget_uuid, item_code, description, active FROM poser_component),
version AS (
	SELECT 'widget' AS relation, uuid, NULL AS widget_uuid, NULL AS item_code, description, active,
	       operation_type, transaction_id, change_id FROM poser_widget_version
	UNION ALL
	SELECT 'component', uuid, widget_uuid, item_code, description, active,
	       operation_type, transaction_id, change_id FROM poser_component_version),
placed AS (
	SELECT *, lag(operation_type) OVER own AS before, lead(change_id) OVER own IS NULL AS is_last
	  FROM version WINDOW own AS (PARTITION BY relation, uuid ORDER BY change_id))
SELECT relation, uuid, 'is out of order' AS problem
  FROM placed WHERE (operation_type = 0) <> (before IS NULL OR before = 2)
UNION ALL
SELECT relation, uuid, 'does not end in the row'
  FROM live FULL JOIN (SELECT * FROM placed WHERE is_last AND operation_type <> 2) AS last USING (relation, uuid)
 WHERE (live.widget_uuid, live.item_code, live.description, live.active)
       IS DISTINCT FROM (last.widget_uuid, last.item_code, last.description, last.active)
UNION ALL
SELECT relation, uuid, 'has no transaction before it'
  FROM version
 WHERE NOT EXISTS (SELECT FROM poser_transaction WHERE id = transaction_id AND id < change_id)
UNION ALL
SELECT object, NULL, problem FROM poser_check();

-- Empty tables without a history.
CREATE PROCEDURE start_afresh() LANGUAGE sql AS $$
	TRUNCATE poser_widget, poser_component;
	TRUNCATE poser_widget_version, poser_component_version, poser_transaction;
$$;
\set ECHO all
