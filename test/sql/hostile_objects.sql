-- Functions, operators, types and casts of other roles, first on the search_path or in
-- the extension's own schema, are never used.  Each of these raises an error.

\set VERBOSITY sqlstate
SET client_min_messages = warning;
CREATE SCHEMA regress_poser_hostile;
CREATE SCHEMA regress_poser;

CREATE PROCEDURE regress_poser_hostile.fill(schema text) LANGUAGE plpgsql AS $fill$
DECLARE
	result text;
	operator text;
	args text[];
	body constant text := $$ LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION USING ERRCODE = ''P0666''; END' $$;
BEGIN
	-- operators on the types that the extension compares and adds
	FOREACH operator IN ARRAY '{=,<>,<,<=,>,>=,+,-,||,@>,~~}'::text[] LOOP
		result := CASE WHEN operator = ANY ('{+,-,||}') THEN NULL ELSE 'pg_catalog.bool' END;
		FOREACH args SLICE 1 IN ARRAY '{{varchar,varchar},{varchar,text},{text,varchar},{text,text},
				{int8,int8},{int8,int4},{int4,int4},{int2,int2},{numeric,numeric},{bool,bool},{oid,oid},{oid,regclass},
				{regclass,regclass},{name,name},{name,text},{char,char},{_text,_text},
				{timestamptz,timestamptz},{timestamptz,interval},{interval,interval},{xid8,xid8},{int8,_int8},
				{name,_name},{_name,name},{_name,_name},{pg_snapshot,pg_snapshot},{jsonb,jsonb},{jsonb,text}}'::text[] LOOP
			EXECUTE format('CREATE FUNCTION %I.%I(pg_catalog.%I, pg_catalog.%I) RETURNS %s %s',
						   schema, 'hostile ' || operator, args[1], args[2],
						   coalesce(result, format('pg_catalog.%I', args[1])), body);
			EXECUTE format('CREATE OPERATOR %I.%s (function = %I.%I, leftarg = pg_catalog.%I, rightarg = pg_catalog.%I)',
						   schema, operator, schema, 'hostile ' || operator, args[1], args[2]);
		END LOOP;
	END LOOP;

	-- functions
	FOREACH operator IN ARRAY ARRAY[
		'lower(text) text', 'lower(varchar) text', 'strpos(text, text) int4', 'strpos(varchar, varchar) int4',
		'has_table_privilege(text, text) bool', 'has_table_privilege(oid, text) bool',
		'has_table_privilege(regclass, text) bool', 'row_security_active(oid) bool', 'row_security_active(regclass) bool',
		'row_security_active(text) bool', 'format(text, text) text', 'format(text, name) text', 'quote_ident(text) text',
		'pg_get_userbyid(oid) name', 'pg_extension_config_dump(regclass, text) void',
		'format_type(oid, int4) text', 'int8(int4) int8', 'int8(numeric) int8', 'varchar(varchar) varchar',
		'varchar(varchar, int4) varchar', 'varchar(varchar, int4, bool) varchar', 'now() timestamptz',
		'coalesce(int8, int8) int8', 'cardinality(_text) int4', 'encode(bytea, text) text',
		'lead(int8) int8', 'lag(int2) int2', 'lag(int8) int8', 'text(varchar) text', 'int2(int4) int2',
		'pg_current_snapshot() pg_snapshot', 'pg_snapshot_xmax(pg_snapshot) xid8', 'pg_current_xact_id_if_assigned() xid8',
		'set_config(text, text, bool) text', 'concat(text) text', 'acldefault(text, oid) _aclitem',
		'pg_snapshot_xmin(pg_snapshot) xid8', 'pg_visible_in_snapshot(xid8, pg_snapshot) bool',
		'pg_snapshot_xip(pg_snapshot) SETOF xid8', 'clock_timestamp() timestamptz', 'to_jsonb(record) jsonb',
		'to_jsonb(anyelement) jsonb', 'jsonb_build_array(text) jsonb', 'jsonb_build_array(varchar) jsonb',
		'array_append(_name, name) _name', 'array_remove(_name, name) _name', 'array_position(_name, name) int4',
		'unnest(_name) SETOF name', 'age(timestamptz, timestamptz) interval', 'to_regprocedure(text) regprocedure',
		'text(name) text', 'name(text) name', 'aclexplode(_aclitem) SETOF record', 'pg_notify(text, text) void']
	LOOP
		EXECUTE format('CREATE FUNCTION %I.%s RETURNS %s %s', schema,
					   left(operator, strpos(operator, ')')), substr(operator, strpos(operator, ')') + 1), body);
	END LOOP;
	EXECUTE format('CREATE FUNCTION %I.hostile(int8) RETURNS int8 %s', schema, body);
	EXECUTE format('CREATE FUNCTION %I.hostile(int8, int8) RETURNS int8 %s', schema, body);
	EXECUTE format('CREATE FUNCTION %I.hostile(int8, varchar) RETURNS int8 %s', schema, body);
	EXECUTE format('CREATE FUNCTION %I.hostile(timestamptz, timestamptz) RETURNS timestamptz %s', schema, body);
	EXECUTE format('CREATE AGGREGATE %I.count(*) (sfunc = %I.hostile, stype = int8, initcond = 0)', schema, schema);
	EXECUTE format('CREATE AGGREGATE %I.sum(int8) (sfunc = %I.hostile, stype = int8, initcond = 0)', schema, schema);
	EXECUTE format('CREATE AGGREGATE %I.max(int8) (sfunc = %I.hostile, stype = int8, initcond = 0)', schema, schema);
	EXECUTE format('CREATE AGGREGATE %I.min(int8) (sfunc = %I.hostile, stype = int8, initcond = 0)', schema, schema);
	EXECUTE format('CREATE AGGREGATE %I.count(varchar) (sfunc = %I.hostile, stype = int8, initcond = 0)', schema, schema);
	EXECUTE format('CREATE AGGREGATE %I.max(timestamptz) (sfunc = %I.hostile, stype = timestamptz, initcond = ''epoch'')', schema, schema);
	EXECUTE format('CREATE AGGREGATE %I.min(timestamptz) (sfunc = %I.hostile, stype = timestamptz, initcond = ''epoch'')', schema, schema);

	-- types
	EXECUTE format('CREATE TYPE %I."varchar" AS (hostile int)', schema);
	EXECUTE format('CREATE TYPE %I.int8 AS (hostile int)', schema);
	EXECUTE format('CREATE TYPE %I.bool AS (hostile int)', schema);
	EXECUTE format('CREATE TYPE %I.text AS (hostile int)', schema);
	EXECUTE format('CREATE TYPE %I.name AS (hostile int)', schema);
	EXECUTE format('CREATE TYPE %I.regclass AS (hostile int)', schema);
	EXECUTE format('CREATE TYPE %I.trigger AS (hostile int)', schema);
	EXECUTE format('CREATE TYPE %I.int2 AS (hostile int)', schema);
	EXECUTE format('CREATE TYPE %I.record AS (hostile int)', schema);
	EXECUTE format('CREATE TYPE %I.timestamptz AS (hostile int)', schema);
	EXECUTE format('CREATE TYPE %I."interval" AS (hostile int)', schema);
	EXECUTE format('CREATE TYPE %I.xid8 AS (hostile int)', schema);
	EXECUTE format('CREATE TYPE %I.int4 AS (hostile int)', schema);
	EXECUTE format('CREATE TYPE %I.oid AS (hostile int)', schema);
	EXECUTE format('CREATE TYPE %I.jsonb AS (hostile int)', schema);
	EXECUTE format('CREATE TYPE %I.void AS (hostile int)', schema);
	EXECUTE format('CREATE TYPE %I.aclitem AS (hostile int)', schema);
	EXECUTE format('CREATE TYPE %I.regprocedure AS (hostile int)', schema);
	EXECUTE format('CREATE TYPE %I.regrole AS (hostile int)', schema);
	EXECUTE format('CREATE TYPE %I.pg_snapshot AS (hostile int)', schema);
	EXECUTE format('CREATE TYPE %I.numeric AS (hostile int)', schema);
	EXECUTE format('CREATE TYPE %I.tid AS (hostile int)', schema);
END
$fill$;
CALL regress_poser_hostile.fill('regress_poser_hostile');

-- casts, which are in no schema
CREATE FUNCTION regress_poser_hostile.hostile_cast(varchar) RETURNS int8
	LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION USING ERRCODE = ''P0666''; END';
CREATE FUNCTION regress_poser_hostile.hostile_cast(int8) RETURNS bool
	LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION USING ERRCODE = ''P0666''; END';
CREATE FUNCTION regress_poser_hostile.hostile_cast(bool) RETURNS int8
	LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION USING ERRCODE = ''P0666''; END';
CREATE FUNCTION regress_poser_hostile.hostile_cast(xid8) RETURNS int8
	LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION USING ERRCODE = ''P0666''; END';
CREATE FUNCTION regress_poser_hostile.hostile_cast(name) RETURNS jsonb
	LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION USING ERRCODE = ''P0666''; END';
CREATE CAST (varchar AS int8) WITH FUNCTION regress_poser_hostile.hostile_cast(varchar) AS IMPLICIT;
CREATE CAST (int8 AS bool) WITH FUNCTION regress_poser_hostile.hostile_cast(int8) AS IMPLICIT;
CREATE CAST (bool AS int8) WITH FUNCTION regress_poser_hostile.hostile_cast(bool) AS IMPLICIT;
CREATE CAST (xid8 AS int8) WITH FUNCTION regress_poser_hostile.hostile_cast(xid8) AS IMPLICIT;
CREATE CAST (name AS jsonb) WITH FUNCTION regress_poser_hostile.hostile_cast(name) AS IMPLICIT;

-- Uses every feature, without an operator or function of its own.
CREATE PROCEDURE regress_poser_hostile.everything() LANGUAGE plpgsql AS $$
DECLARE
	seen pg_catalog.text;
	n pg_catalog.int8;
	first pg_catalog.int8;
	last pg_catalog.int8;
BEGIN
	INSERT INTO regress_poser.poser_widget (uuid, description) VALUES ('w1', 'One'), ('w2', 'TWO'), ('w3', 'three');
	INSERT INTO regress_poser.poser_widget (uuid, description) VALUES ('w2', 'Two') ON CONFLICT (uuid) DO UPDATE SET description = 'Two';
	INSERT INTO regress_poser.poser_component (uuid, widget_uuid, item_code, description) VALUES
		('c1', 'w1', '', ''), ('c2', 'w1', '', ''), ('c3', 'w2', '', ''), ('c4', 'w3', '', '');
	INSERT INTO regress_poser.poser_component (widget_uuid, item_code, description) VALUES ('w2', '', '');
	UPDATE regress_poser.poser_component SET active = false;
	UPDATE regress_poser.poser_component SET widget_uuid = 'w2', active = true WHERE uuid OPERATOR(pg_catalog.=) 'c2';
	DELETE FROM regress_poser.poser_component WHERE uuid OPERATOR(pg_catalog.=) 'c4';
	UPDATE regress_poser.poser_widget SET uuid = 'w4' WHERE uuid OPERATOR(pg_catalog.=) 'w3';

	SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', uuid, component_count, active_component_count), ', ' ORDER BY uuid)
	  INTO seen FROM regress_poser.poser_widget_summary;
	RAISE WARNING '%', seen;
	SELECT pg_catalog.concat_ws(' ', uuid, component_count, active_component_count)
	  INTO seen FROM regress_poser.poser_widget_get('w2'::pg_catalog.varchar);
	RAISE WARNING '%', seen;
	SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', uuid, component_count, active_component_count), ', ' ORDER BY uuid)
	  INTO seen FROM regress_poser.poser_widget_list('T', true, 'w1', 10);
	RAISE WARNING '%', seen;

	-- counted by the reader
	ALTER TABLE regress_poser.poser_component DISABLE TRIGGER poser_count_delete;
	DELETE FROM regress_poser.poser_component WHERE uuid OPERATOR(pg_catalog.=) 'c2';
	SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', uuid, component_count, active_component_count), ', ' ORDER BY uuid)
	  INTO seen FROM regress_poser.poser_widget_list();
	RAISE WARNING '%', seen;
	SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', object, problem), ', ' ORDER BY object)
	  INTO seen FROM regress_poser.poser_check();
	RAISE WARNING '%', seen;
	ALTER TABLE regress_poser.poser_component ENABLE TRIGGER poser_count_delete;
	RAISE WARNING 'wrong: %', regress_poser.poser_recount();
	SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', object, problem), ', ') INTO seen FROM regress_poser.poser_check();
	RAISE WARNING '%', seen;

	-- the history
	SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', operation, changed, description), ', '), pg_catalog.max(transaction_id)
	  INTO seen, first FROM regress_poser.poser_widget_history('w2'::pg_catalog.varchar) WHERE comment IS NULL;
	RAISE WARNING '%', seen;
	PERFORM pg_catalog.set_config('poser.comment', 'afterwards', true);
	DELETE FROM regress_poser.poser_component;
	UPDATE regress_poser.poser_widget SET description = 'later' WHERE uuid OPERATOR(pg_catalog.=) 'w2';
	RAISE WARNING 'reverted: %, %', regress_poser.poser_widget_revert('w2'::pg_catalog.varchar, first),
		regress_poser.poser_widget_revert('w2'::pg_catalog.varchar, first, true);
	SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', operation, relation, changed, description), ', ')
	  INTO seen FROM regress_poser.poser_widget_history('w2'::pg_catalog.varchar, true) WHERE comment OPERATOR(pg_catalog.=) 'afterwards';
	RAISE WARNING '%', seen;
	SELECT pg_catalog.concat_ws(' ', operation, changed, uuid) INTO seen
	  FROM regress_poser.poser_component_history('c3'::pg_catalog.varchar) LIMIT 1;
	RAISE WARNING '%', seen;
	SELECT pg_catalog.concat_ws(' ', widgets, components) INTO seen
	  FROM (SELECT pg_catalog.count(*) AS widgets FROM regress_poser.poser_widget_as_of('infinity')) AS widget,
	       (SELECT pg_catalog.count(*) AS components FROM regress_poser.poser_component_as_of('infinity')) AS component;
	RAISE WARNING '%', seen;
	ALTER TABLE regress_poser.poser_widget DISABLE TRIGGER poser_version_update;
	UPDATE regress_poser.poser_widget SET active = NOT active;
	ALTER TABLE regress_poser.poser_widget ENABLE TRIGGER poser_version_update;
	SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', object, problem), ', ' ORDER BY object) INTO seen FROM regress_poser.poser_check();
	RAISE WARNING '%', seen;
	RAISE WARNING 'recorded: %', regress_poser.poser_record_versions();
	RAISE WARNING 'pruned: %', regress_poser.poser_prune_versions('0') OPERATOR(pg_catalog.>) 0;
	SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', object, problem), ', ') INTO seen FROM regress_poser.poser_check();
	RAISE WARNING '%', seen;
	PERFORM pg_catalog.set_config('poser.comment', '', true);

	-- consumers: their changes must be committed
	COMMIT;
	CREATE FUNCTION regress_poser_hostile.handle(change regress_poser.poser_change) RETURNS pg_catalog.void LANGUAGE plpgsql AS '
		BEGIN
			UPDATE regress_poser.poser_widget SET active = NOT active WHERE uuid OPERATOR(pg_catalog.=) change.payload_key;
		END';
	PERFORM regress_poser.poser_datasync_add('polled', 'beginning', notify => true);
	PERFORM regress_poser.poser_datasync_add('handled', 'beginning', 'regress_poser_hostile.handle(regress_poser.poser_change)', 'robot');
	PERFORM regress_poser.poser_datasync_add('new');
	PERFORM regress_poser.poser_datasync_grant('polled', 'pg_monitor');
	PERFORM regress_poser.poser_datasync_grant('polled', 'public');
	PERFORM regress_poser.poser_datasync_revoke('polled', 'pg_monitor');
	SELECT pg_catalog.array_to_string(roles, ', ') INTO seen
	  FROM regress_poser.poser_datasync_consumer WHERE consumer OPERATOR(pg_catalog.=) 'polled';
	RAISE WARNING 'granted to %', seen;
	SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', payload_key, deletion), ', ' ORDER BY change_id)
	       FILTER (WHERE payload_type OPERATOR(pg_catalog.=) 'poser_widget'),
	       pg_catalog.min(change_id), pg_catalog.max(change_id) INTO seen, first, last
	  FROM regress_poser.poser_datasync_changes('polled');
	RAISE WARNING '%', seen;
	PERFORM regress_poser.poser_datasync_skip('polled', first, 'poisonous');
	SELECT pg_catalog.max(change_id) INTO n FROM regress_poser.poser_datasync_changes('polled', 1);
	PERFORM regress_poser.poser_datasync_confirm('polled', n);
	PERFORM regress_poser.poser_datasync_confirm('polled', first);
	RAISE WARNING 'pruned: %', regress_poser.poser_prune_versions('0');
	PERFORM regress_poser.poser_datasync_confirm('polled', last);
	RAISE WARNING 'handled: %, %', regress_poser.poser_datasync_run('handled', 1),
		regress_poser.poser_datasync_run('handled') OPERATOR(pg_catalog.>) 0;
	COMMIT;
	FOREACH seen IN ARRAY '{polled,handled,new}'::pg_catalog.text[] LOOP
		SELECT pg_catalog.count(*) INTO n FROM regress_poser.poser_datasync_changes(seen::pg_catalog.name) WHERE username OPERATOR(pg_catalog.=) 'robot';
		RAISE WARNING '% of robot''s for %', n, seen;
	END LOOP;
	CREATE OR REPLACE FUNCTION regress_poser_hostile.handle(change regress_poser.poser_change) RETURNS pg_catalog.void LANGUAGE plpgsql AS
		'BEGIN RAISE EXCEPTION ''no''; END';
	UPDATE regress_poser.poser_datasync_consumer SET own_changes = true WHERE consumer OPERATOR(pg_catalog.=) 'handled';
	DELETE FROM regress_poser.poser_component;
	COMMIT;
	PERFORM pg_catalog.set_config('client_min_messages', 'error', true);
	n := regress_poser.poser_datasync_run('handled');
	COMMIT;
	SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', consumer, handler, runas, notify, pending OPERATOR(pg_catalog.>) 0, stale, holds_pruning, attempts, last_error),
	                             ', ' ORDER BY consumer) INTO seen FROM regress_poser.poser_datasync_status;
	RAISE WARNING '%', seen;
	SELECT pg_catalog.string_agg(consumer, ', ') INTO seen FROM regress_poser.poser_datasync_stale('0');
	RAISE WARNING 'stale: %', seen;
	SELECT pg_catalog.count(*) INTO n FROM regress_poser.poser_datasync_stale();
	RAISE WARNING 'stale: %', n;
	SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', object, problem), ', ') INTO seen FROM regress_poser.poser_check();
	RAISE WARNING '%', seen;
	FOREACH seen IN ARRAY '{polled,handled,new}'::pg_catalog.text[] LOOP
		PERFORM regress_poser.poser_datasync_drop(seen::pg_catalog.name);
	END LOOP;
	DROP FUNCTION regress_poser_hostile.handle;

	-- a maintained view: counted, read, recounted and given its query back
	CREATE TABLE regress_poser_hostile.parent (id pg_catalog.int8 PRIMARY KEY, name pg_catalog.text);
	CREATE TABLE regress_poser_hostile.child (
		parent pg_catalog.int8 REFERENCES regress_poser_hostile.parent, size pg_catalog.int4, large pg_catalog.int8,
		price pg_catalog.numeric, good pg_catalog.bool);
	INSERT INTO regress_poser_hostile.parent VALUES (1), (2);
	INSERT INTO regress_poser_hostile.child VALUES (1, 1, 10, 1.50, true), (1, 2, 20, 'NaN', false);
	CREATE VIEW regress_poser_hostile.sums AS
	SELECT p.id, pg_catalog.count(c.size) AS children, pg_catalog.count(c.size) FILTER (WHERE c.good) AS good,
	       pg_catalog.sum(c.size) AS size, COALESCE(pg_catalog.sum(c.large), 0) AS large, pg_catalog.sum(c.price) AS price
	  FROM regress_poser_hostile.parent AS p LEFT JOIN regress_poser_hostile.child AS c ON c.parent OPERATOR(pg_catalog.=) p.id
	 GROUP BY p.id;
	PERFORM regress_poser.poser_maintain('regress_poser_hostile.sums');
	COMMIT;
	INSERT INTO regress_poser_hostile.child VALUES (2, 4, 40, 4, true);
	UPDATE regress_poser_hostile.child SET price = 2.25 WHERE price OPERATOR(pg_catalog.=) 'NaN';
	INSERT INTO regress_poser_hostile.parent VALUES (3);
	DELETE FROM regress_poser_hostile.child WHERE size OPERATOR(pg_catalog.=) 1;
	SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', id, children, good, size, large, price), ', ' ORDER BY id) INTO seen
	  FROM regress_poser_hostile.sums;
	RAISE WARNING '%', seen;
	SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', served, problem), ', ') INTO seen FROM regress_poser.poser_views;
	RAISE WARNING 'served: %', seen;
	ALTER TABLE regress_poser_hostile.child DISABLE TRIGGER poser_maintain_delete;
	DELETE FROM regress_poser_hostile.child WHERE size OPERATOR(pg_catalog.=) 4;
	ALTER TABLE regress_poser_hostile.child ENABLE TRIGGER poser_maintain_delete;
	SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', object, problem), ', ') INTO seen FROM regress_poser.poser_check('regress_poser_hostile.sums');
	RAISE WARNING '%', seen;
	RAISE WARNING 'wrong: %', regress_poser.poser_recount('regress_poser_hostile.sums');
	SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', object, problem), ', ') INTO seen FROM regress_poser.poser_check();
	RAISE WARNING '%', seen;
	PERFORM regress_poser.poser_unmaintain('regress_poser_hostile.sums');
	SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', id, children, good, size, large, price), ', ' ORDER BY id) INTO seen
	  FROM regress_poser_hostile.sums;
	RAISE WARNING '%', seen;
	DROP VIEW regress_poser_hostile.sums;
	DROP TABLE regress_poser_hostile.child, regress_poser_hostile.parent;

	DELETE FROM regress_poser.poser_widget WHERE uuid OPERATOR(pg_catalog.=) 'w4';
	TRUNCATE regress_poser.poser_component;
	SELECT component_count INTO n FROM regress_poser.poser_widget_get('w2'::pg_catalog.varchar);
	RAISE WARNING '%', n;
	RAISE WARNING '% digits', pg_catalog.length(regress_poser.poser_uuid());
	TRUNCATE regress_poser.poser_widget, regress_poser.poser_component;
END
$$;

-- The objects are hostile.
SET search_path = regress_poser_hostile, pg_catalog;
SELECT 'a'::pg_catalog.varchar = 'b'::pg_catalog.varchar;
SELECT lower('A'::pg_catalog.text);
SELECT count(*) FROM pg_database;
SELECT 1::pg_catalog.int8::pg_catalog.bool;

-- First on the path, before pg_catalog, while the extension is used, created and
-- updated.
SET search_path = regress_poser_hostile, pg_catalog, regress_poser;
\set VERBOSITY terse
CREATE EXTENSION poser SCHEMA regress_poser VERSION '1.0';
INSERT INTO regress_poser.poser_widget (uuid, description) VALUES ('w0', '');
INSERT INTO regress_poser.poser_component (widget_uuid, item_code, description) VALUES ('w0', '', '');
ALTER EXTENSION poser UPDATE;
SELECT uuid, component_count FROM regress_poser.poser_widget_list();
DELETE FROM regress_poser.poser_component;
DELETE FROM regress_poser.poser_widget;
CALL regress_poser_hostile.everything();
DROP EXTENSION poser;

-- In the extension's own schema, before it is created.
RESET search_path;
CALL regress_poser_hostile.fill('regress_poser');
CREATE EXTENSION poser SCHEMA regress_poser;
CALL regress_poser_hostile.everything();
SET search_path = regress_poser, pg_catalog;
CALL regress_poser_hostile.everything();
SET search_path = regress_poser_hostile, regress_poser, pg_catalog;
CALL regress_poser_hostile.everything();
RESET search_path;
DROP EXTENSION poser;

-- An object with the name of a member is not taken over.
CREATE FUNCTION regress_poser.poser_uuid() RETURNS varchar LANGUAGE sql AS 'SELECT ''hostile''';
\set VERBOSITY sqlstate
CREATE EXTENSION poser SCHEMA regress_poser;
DROP FUNCTION regress_poser.poser_uuid();
CREATE VIEW regress_poser.poser_component_count AS SELECT 'hostile';
CREATE EXTENSION poser SCHEMA regress_poser;
DROP VIEW regress_poser.poser_component_count;
CREATE FUNCTION regress_poser.poser_component_live_from(regclass, regclass) RETURNS varchar LANGUAGE sql AS 'SELECT ''hostile''';
CREATE EXTENSION poser SCHEMA regress_poser;
DROP FUNCTION regress_poser.poser_component_live_from(regclass, regclass);
CREATE TABLE regress_poser.poser_datasync_consumer (consumer name);
CREATE EXTENSION poser SCHEMA regress_poser;
DROP TABLE regress_poser.poser_datasync_consumer;
CREATE TYPE regress_poser.poser_change AS (change_id int8);
CREATE EXTENSION poser SCHEMA regress_poser;
DROP TYPE regress_poser.poser_change;
CREATE FUNCTION regress_poser.poser_datasync_pending(name) RETURNS int8 LANGUAGE sql AS 'SELECT 0';
CREATE EXTENSION poser SCHEMA regress_poser;
SELECT extname FROM pg_extension WHERE extname = 'poser';

DROP CAST (varchar AS int8);
DROP CAST (int8 AS bool);
DROP CAST (bool AS int8);
DROP CAST (xid8 AS int8);
DROP CAST (name AS jsonb);
DROP SCHEMA regress_poser, regress_poser_hostile CASCADE;
