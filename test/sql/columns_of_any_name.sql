-- Users may add columns of any name to the extension's tables, recorded or not.  No
-- query of the extension confuses them with names that it uses itself.  The schema's
-- name and standard_conforming_strings = off test the quoting.

SET client_min_messages = warning;
CREATE SCHEMA regress_poser;
CREATE EXTENSION poser SCHEMA regress_poser;
ALTER SCHEMA regress_poser RENAME TO "Regress Poser '%s\.1";
SET search_path = "Regress Poser '%s\.1";

-- names that the queries give to tables and columns, the extension's own columns, hostile names
CREATE TABLE name (name pg_catalog.name PRIMARY KEY, is_column boolean NOT NULL DEFAULT false);
INSERT INTO name (name)
SELECT * FROM unnest('{action,batch,before,belongs,c,c1,c2,compared,consumer,counted,d,deletes,deltas,differs,
	exists,existed,expected,found,granted,greatest_id,id,incomplete,is_called,is_live,kept_active,kept_total,
	key,key_1,key_2,column_1,column_2,column_4,column_7,label,last,last_value,live,live_active,live_total,member,
	n,name,newer,next,new,o1,o2,object,old,operation,page,parents,payload,payload_key,payload_type,deletion,
	poser_change,poser_reject,poser_row,poser_transaction,poser_used,poser_verdict,poser_widget,
	poser_widget_version,position,problem,q,r,relation,role,row,s,settled,source,state,status,summary,t,target,
	text,there,total,used,v,value,version,versions,was,was_1,was_4,wrong,count,max,min,lag,lead,now,format,
	%,"%s %1$s","it''s","back\\slash","\"quoted\"","A b",*}'::pg_catalog.name[]);
INSERT INTO name
SELECT DISTINCT attname, true FROM pg_attribute
 WHERE attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema)
                       AND relkind IN ('r', 'v', 'c', 'S') AND relname LIKE 'poser!_%' ESCAPE '!')
   AND attnum > 0
    ON CONFLICT DO NOTHING;
SELECT count(*) > 150 AS many FROM name;
-- PostgreSQL 19 refuses the value off.
DO $$
BEGIN
	SET standard_conforming_strings = off;
EXCEPTION WHEN feature_not_supported THEN
END
$$;
CREATE PROCEDURE add_columns(relation regclass, own boolean) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('ALTER TABLE %s ', relation) ||
		-- a function's result has this name and this type
		(SELECT string_agg(format('ADD COLUMN %I pg_catalog.%I', name, CASE name WHEN 'relation' THEN 'name' ELSE 'text' END), ', ' ORDER BY name) FROM name
		  WHERE (own OR name NOT IN ('change_id', 'operation_type', 'transaction_id'))
		    AND NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = relation AND attname = name));
END
$$;
CALL add_columns('poser_widget', false);
CALL add_columns('poser_component', false);
CALL add_columns('poser_widget_version', false);
CALL add_columns('poser_component_version', false);
CALL add_columns('poser_transaction', true);
CALL add_columns('poser_version_horizon', true);
CALL add_columns('poser_batch', true);
CALL add_columns('poser_batch_row', true);
CALL add_columns('poser_datasync_consumer', true);
CALL add_columns('poser_datasync_skipped', true);
SELECT * FROM poser_check();

-- makes a statement that sets all added columns
CREATE FUNCTION own_columns(relation regclass) RETURNS SETOF pg_catalog.name LANGUAGE sql STABLE AS $$
	SELECT attname FROM pg_attribute
	 WHERE attrelid = relation AND atttypid IN ('text'::regtype, 'name'::regtype) AND NOT attisdropped ORDER BY attnum
$$;
CREATE PROCEDURE set_all(relation regclass, value text) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('UPDATE %s SET ', relation) ||
		(SELECT string_agg(format('%I = $1', name), ', ') FROM own_columns(relation) AS name) USING value;
END
$$;

-- Recording, and reading what was recorded
INSERT INTO poser_widget (uuid, description) VALUES ('w1', ''), ('w2', ''), ('w3', '');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c1', 'w1', '', ''), ('c2', 'w2', '', '');
CALL set_all('poser_widget', 'first');
CALL set_all('poser_component', 'first');
SELECT max(id) AS first, clock_timestamp() AS then FROM poser_transaction \gset
CALL set_all('poser_widget', 'second');
CALL set_all('poser_component', 'second');
SELECT * FROM poser_check();
SELECT operation, cardinality(changed) = (SELECT count(*) FROM own_columns('poser_widget')) AS all FROM poser_widget_history('w1');
-- "relation" is the name of the table
SELECT operation, relation, uuid, widget_uuid FROM poser_widget_history('w1', true);
SELECT operation, uuid FROM poser_component_history('c1');
SELECT uuid, operation, live, last, relation, "%s %1$s", "it's" FROM poser_widget_as_of(:'then') ORDER BY uuid;
SELECT uuid, key, v, t FROM poser_component_as_of(:'then') ORDER BY uuid;
SELECT poser_widget_revert('w1', :first, true);
SELECT uuid, operation, live, state FROM poser_widget ORDER BY uuid;
SELECT uuid, operation, member, was FROM poser_component ORDER BY uuid;
SELECT uuid, component_count FROM poser_widget_list();
SELECT component_count FROM poser_widget_get('w1');

-- Consumers
CREATE TABLE handled (key text, live text);
CREATE FUNCTION handle(change poser_change) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO handled VALUES (change.payload_key, change.payload ->> 'live');
END
$$;
SELECT poser_datasync_add('polled', 'beginning'), poser_datasync_add('handled', 'beginning', 'handle(poser_change)');
SELECT poser_datasync_grant('polled', 'public'), poser_datasync_revoke('polled', 'public'), poser_datasync_grant('polled', 'public');
SELECT payload_type, payload_key, payload ->> 'payload' AS payload, payload ->> 'operation' AS operation, payload ->> E'back\\slash' AS slash
  FROM poser_datasync_changes('polled');
SELECT consumer, pending FROM poser_datasync_status ORDER BY consumer;
SELECT poser_datasync_run('handled');
SELECT * FROM handled;
SELECT poser_datasync_confirm('polled', min(change_id)) FROM poser_datasync_changes('polled');
SELECT poser_datasync_skip('polled', min(change_id), 'tried') FROM poser_datasync_changes('polled');
SELECT poser_datasync_confirm('polled', max(change_id)) FROM poser_datasync_changes('polled');
SELECT consumer, pending FROM poser_datasync_status ORDER BY consumer;
SELECT * FROM poser_datasync_stale();
SELECT * FROM poser_check();

-- Imports and batches
CREATE TABLE source AS TABLE poser_widget;
CALL set_all('source', 'imported');
DELETE FROM source WHERE uuid = 'w3';
UPDATE source SET uuid = 'w4' WHERE uuid = 'w2';
SELECT operation, key, count(*) > 100 AS many FROM poser_import_diff('source', 'poser_widget', deletes => true), jsonb_object_keys(coalesce(new, old)) GROUP BY 1, 2 ORDER BY 2;
SELECT * FROM poser_import('source', 'poser_widget');
SELECT uuid, operation, n, "row" FROM poser_widget ORDER BY uuid;
CALL set_all('source', 'by batch');
SELECT poser_batch_create('poser_widget') AS batch \gset
SELECT poser_batch_populate(:'batch', 'source');
CALL set_all('poser_widget', 'changed meanwhile');
SELECT poser_batch_refresh(:'batch');
SELECT sequence, operation, status, length(status_text) > 1000 AS long FROM poser_batch_row ORDER BY sequence;
SELECT * FROM poser_batch_execute(:'batch', skip_conflicts => true);
INSERT INTO poser_batch (uuid, target) VALUES ('b', 'poser_widget');
INSERT INTO poser_batch_row (batch_uuid, sequence, operation, key, new)
SELECT 'b', row_number() OVER (ORDER BY name), 'update', '{"uuid": "w1"}', jsonb_build_object(name, 'by row') FROM own_columns('poser_widget') AS name LIMIT 1;
SELECT * FROM poser_batch_execute('b');
SELECT * FROM poser_check();

-- Each column is changed past the triggers, in its own row.
INSERT INTO poser_widget (uuid, description) SELECT 'of ' || name, '' FROM own_columns('poser_widget') AS name;
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) SELECT 'of ' || name, 'w1', '', '' FROM own_columns('poser_component') AS name;
SET session_replication_role = replica;
DO $$
DECLARE
	relation regclass;
	name pg_catalog.name;
BEGIN
	FOREACH relation IN ARRAY '{poser_widget,poser_component}'::regclass[] LOOP
		FOR name IN SELECT * FROM own_columns(relation) LOOP
			EXECUTE format('UPDATE %s SET %I = $1 WHERE uuid = $2', relation, name) USING 'past', 'of ' || name;
		END LOOP;
	END LOOP;
END
$$;
RESET session_replication_role;
SELECT problem, count(*) = (SELECT count(*) FROM own_columns('poser_widget')) + (SELECT count(*) FROM own_columns('poser_component')) AS all
  FROM poser_check() GROUP BY problem;
SELECT poser_record_versions() = (SELECT count(*) FROM own_columns('poser_widget')) + (SELECT count(*) FROM own_columns('poser_component')) AS all;
SELECT * FROM poser_check();
SELECT name FROM own_columns('poser_widget') AS name WHERE (SELECT changed[1] FROM poser_widget_history('of ' || name) LIMIT 1) IS DISTINCT FROM name;
DELETE FROM poser_component WHERE uuid LIKE 'of %';
DELETE FROM poser_widget WHERE uuid LIKE 'of %';

-- all columns at once, and whole rows
SET session_replication_role = replica;
CALL set_all('poser_widget', 'past');
INSERT INTO poser_widget (uuid, description) VALUES ('w5', '');
DELETE FROM poser_component WHERE uuid = 'c2';
UPDATE poser_component SET active = false;
UPDATE poser_batch SET row_count = 5 WHERE uuid = 'b';
UPDATE poser_datasync_consumer SET roles = '{none}' WHERE consumer = 'polled';
DELETE FROM poser_transaction WHERE id = (SELECT min(transaction_id) FROM poser_widget_version);
RESET session_replication_role;
SELECT regexp_replace(object, 'transaction [0-9]+', 'transaction') AS object, problem FROM poser_check();
SELECT poser_recount(), poser_record_versions();
DELETE FROM poser_batch WHERE uuid = 'b';
UPDATE poser_datasync_consumer SET roles = '{}';
SELECT poser_datasync_confirm('polled', max(change_id)) FROM poser_datasync_changes('polled', 1000000);
SELECT poser_datasync_run('handled', 1000000) > 0 AS handled;
SELECT poser_prune_versions('0') > 0 AS pruned;
SELECT * FROM poser_check();
SELECT poser_batch_purge('0');

DROP EXTENSION poser CASCADE;
DROP TABLE handled, source, name;
DROP FUNCTION own_columns(regclass);
DROP PROCEDURE add_columns(regclass, boolean), set_all(regclass, text);
DROP SCHEMA "Regress Poser '%s\.1";
