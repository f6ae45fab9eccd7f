-- CREATE and DROP EXTENSION, repeatedly in one session, which keeps plans and triggers
-- of dropped objects.

\set VERBOSITY sqlstate
CREATE EXTENSION poser;

-- All members have a comment, except the two tables of the model, and all are in one
-- schema.
SELECT pg_describe_object(classid, objid, objsubid)
  FROM pg_depend
 WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
   AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'poser')
   AND obj_description(objid, classid::regclass::name) IS NULL
   AND classid IN ('pg_class'::regclass, 'pg_proc'::regclass, 'pg_type'::regclass)
   AND objid NOT IN ('poser_widget'::regclass, 'poser_component'::regclass)
   -- row types and array types, which newer versions of PostgreSQL list, too
   AND NOT EXISTS (SELECT FROM pg_depend AS part
                    WHERE part.classid = pg_depend.classid AND part.objid = pg_depend.objid
                      AND classid = 'pg_type'::regclass AND part.deptype = 'i')
 ORDER BY 1;
SELECT attrelid::regclass, attname
  FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
 WHERE relname LIKE 'poser\_%' AND relkind IN ('r', 'v', 'c') AND attnum > 0
   AND col_description(attrelid, attnum) IS NULL
   AND attrelid NOT IN ('poser_widget'::regclass, 'poser_component'::regclass)
 ORDER BY attrelid, attnum;
SELECT DISTINCT relnamespace::regnamespace FROM pg_class WHERE relname LIKE 'poser\_%';
-- pg_dump includes widgets, components, their history, batches and consumers, but no
-- counts.
SELECT unnest(extconfig)::regclass::text AS dumped FROM pg_extension WHERE extname = 'poser' ORDER BY 1;

CREATE TEMPORARY VIEW leftovers AS
SELECT relname AS name FROM pg_class WHERE relname LIKE 'poser\_%' AND relname <> 'poser_widget_kept'
UNION ALL
SELECT proname FROM pg_proc WHERE proname LIKE 'poser\_%'
UNION ALL
SELECT typname FROM pg_type WHERE typname LIKE 'poser\_%'
UNION ALL
SELECT tgname FROM pg_trigger WHERE tgname LIKE 'poser\_%'
UNION ALL
SELECT conname FROM pg_constraint WHERE conname LIKE 'poser\_%';
SELECT count(*) > 0 AS "finds something" FROM leftovers;

CREATE PROCEDURE pg_temp.use(expected int) LANGUAGE plpgsql AS $$
DECLARE
	batch varchar;
	n bigint;
	last bigint;
BEGIN
	INSERT INTO poser_widget (uuid, description) VALUES ('w1', '');
	INSERT INTO poser_component (widget_uuid, item_code, description) SELECT 'w1', '', '' FROM generate_series(1, expected);
	UPDATE poser_component SET active = false;
	ASSERT (SELECT component_count FROM poser_widget_get('w1')) = expected;
	ASSERT (SELECT component_count FROM poser_widget_list()) = expected;
	ASSERT (SELECT component_count FROM poser_widget_summary) = expected;
	ASSERT (SELECT total FROM poser_component_count_settled) = expected;
	ASSERT (SELECT active_component_count FROM poser_widget_get('w1')) = 0;
	ASSERT poser_recount() = 0;
	ASSERT (SELECT count(*) FROM poser_widget_history('w1', true)) = 1 + 2 * expected;
	ASSERT (SELECT count(*) FROM poser_component_as_of('infinity') WHERE NOT active) = expected;
	ASSERT poser_widget_revert('w1', (SELECT max(id) FROM poser_transaction), true) = 0;
	ASSERT poser_record_versions() = 0;
	ASSERT (SELECT count(*) FROM poser_import_diff('poser_component', 'poser_component')) = 0;
	ASSERT (SELECT unchanged FROM poser_import('poser_component', 'poser_component')) = expected;
	batch := poser_batch_create('poser_component');
	ASSERT poser_batch_populate(batch, 'poser_component', unchanged => true) = expected;
	UPDATE poser_batch_row SET new = '{"description": "new"}' WHERE sequence = 1;
	ASSERT poser_batch_refresh(batch) = 0;
	ASSERT (SELECT updated FROM poser_batch_execute(batch)) = 1;
	ASSERT (SELECT row_count FROM poser_batch WHERE NOT is_mutable) = expected;
	ASSERT poser_batch_purge('1 day') = 0;
	-- a change must be committed before a consumer gets it
	COMMIT;
	CREATE FUNCTION handle(change poser_change) RETURNS void LANGUAGE plpgsql AS
		'BEGIN ASSERT change.payload->>''uuid'' = change.payload_key AND change.deletion = false; END';
	PERFORM poser_datasync_add('polled', 'beginning', notify => true);
	PERFORM poser_datasync_add('handled', 'beginning', to_regprocedure('handle(poser_change)'));
	SELECT count(*), max(change_id) INTO n, last FROM poser_datasync_changes('polled');
	ASSERT n = 2 + 2 * expected;
	ASSERT (SELECT sum(pending) FROM poser_datasync_status) = 2 * n;
	PERFORM poser_datasync_confirm('polled', last);
	ASSERT poser_datasync_run('handled') = n;
	ASSERT (SELECT sum(pending) FROM poser_datasync_status) = 0;
	ASSERT (SELECT count(*) FROM poser_datasync_stale('0')) = 0;
	ASSERT NOT EXISTS (SELECT FROM poser_check());
	PERFORM poser_datasync_drop('handled');
	DROP FUNCTION handle(poser_change);
END
$$;
PREPARE get AS SELECT component_count FROM poser_widget_get('w1');
PREPARE summary AS SELECT component_count FROM poser_widget_summary;
CALL pg_temp.use(3);
EXECUTE get;
EXECUTE summary;

DROP EXTENSION poser;
TABLE leftovers;
EXECUTE get;
CREATE EXTENSION poser;
CALL pg_temp.use(4);
EXECUTE get;
EXECUTE summary;

-- in another schema
DROP EXTENSION poser;
CREATE SCHEMA regress_poser;
SET search_path = regress_poser;
CREATE EXTENSION poser;
CALL pg_temp.use(5);
EXECUTE get;
RESET search_path;
DROP EXTENSION poser;
DROP SCHEMA regress_poser;
TABLE leftovers;
CREATE EXTENSION poser;
CALL pg_temp.use(6);

-- after DISCARD ALL, which forgets the procedure as well
DISCARD ALL;
SELECT component_count FROM poser_widget_get('w1');
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w1', '', '');
SELECT component_count FROM poser_widget_get('w1');
SELECT consumer, notify, pending FROM poser_datasync_status;
DISCARD PLANS;
SELECT component_count FROM poser_widget_list();
SELECT poser_recount();
SELECT consumer, notify, pending FROM poser_datasync_status;

-- in one transaction, rolled back and committed
BEGIN;
DROP EXTENSION poser;
CREATE EXTENSION poser;
INSERT INTO poser_widget (uuid, description) VALUES ('w2', '');
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w2', '', '');
SELECT uuid, component_count FROM poser_widget_list();
SELECT uuid, component_count FROM poser_widget_summary;
SELECT consumer FROM poser_datasync_status;
SELECT poser_datasync_add('polled');
ROLLBACK;
SELECT uuid, component_count FROM poser_widget_list();
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w1', '', '');
SELECT uuid, component_count FROM poser_widget_list();
SELECT consumer, notify, pending FROM poser_datasync_status;
BEGIN;
SAVEPOINT a;
DROP EXTENSION poser;
ROLLBACK TO a;
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w1', '', '');
SELECT uuid, component_count FROM poser_widget_list();
DROP EXTENSION poser;
CREATE EXTENSION poser;
COMMIT;
SELECT uuid, component_count FROM poser_widget_list();
SELECT consumer FROM poser_datasync_status;

-- A user's view depends on the extension: DROP needs CASCADE.
CREATE VIEW poser_widget_kept AS SELECT * FROM poser_widget_summary;
DROP EXTENSION poser;
DROP TABLE poser_component;
DROP FUNCTION poser_uuid();
DROP TABLE poser_component_count;
DROP TYPE poser_change;
SET client_min_messages = warning;
DROP EXTENSION poser CASCADE;
RESET client_min_messages;
SELECT to_regclass('poser_widget_kept'), to_regclass('poser_widget');

-- a second time, and an unknown version
CREATE EXTENSION poser;
CREATE EXTENSION poser;
ALTER EXTENSION poser UPDATE TO '1.0';
DROP EXTENSION poser;
CREATE EXTENSION poser VERSION '0.9';
