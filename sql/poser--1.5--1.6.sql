\echo Use "ALTER EXTENSION poser UPDATE TO '1.6'" to load this file. \quit

-- Each call of a function has exactly the argument types of the function that is meant,
-- see the script to 1.5.

SELECT @extschema@.poser_lock_tables(ARRAY[
	['poser_datasync_consumer', 'ACCESS EXCLUSIVE'],
	['poser_datasync_status', 'ACCESS EXCLUSIVE'],
	['poser_prune_position', 'SHARE UPDATE EXCLUSIVE']
]);

-- Tracking

CREATE FUNCTION @extschema@.poser_versions_of()
RETURNS pg_catalog.trigger
AS 'MODULE_PATHNAME', 'poser_versions_of'
LANGUAGE C;

COMMENT ON FUNCTION @extschema@.poser_versions_of() IS
'binds a table of versions to its table, and keeps it append-only; poser_track() makes its arguments';

CREATE FUNCTION @extschema@.poser_track(
	target pg_catalog.regclass, exclude pg_catalog.text[] DEFAULT NULL,
	versions pg_catalog.text DEFAULT NULL, existing pg_catalog.bool DEFAULT true)
RETURNS pg_catalog.regclass
AS 'MODULE_PATHNAME', 'poser_track'
LANGUAGE C VOLATILE;

COMMENT ON FUNCTION @extschema@.poser_track(
	pg_catalog.regclass, pg_catalog.text[], pg_catalog.text, pg_catalog.bool) IS
'gives a table a history or, after ALTER TABLE, makes its history follow; returns the table of versions';

CREATE FUNCTION @extschema@.poser_untrack(target pg_catalog.regclass)
RETURNS pg_catalog.void
AS 'MODULE_PATHNAME', 'poser_untrack'
LANGUAGE C VOLATILE;

COMMENT ON FUNCTION @extschema@.poser_untrack(pg_catalog.regclass) IS
'ends the recording of a table; its table of versions stays';

CREATE FUNCTION @extschema@.poser_follow()
RETURNS pg_catalog.event_trigger
AS 'MODULE_PATHNAME', 'poser_follow'
LANGUAGE C;

COMMENT ON FUNCTION @extschema@.poser_follow() IS
'for an event trigger on ddl_command_end: calls poser_track() for tracked tables that were altered';

CREATE FUNCTION @extschema@.poser_tracked()
RETURNS TABLE (
	target pg_catalog.regclass,
	versions pg_catalog.regclass,
	key pg_catalog.text[],
	excluded pg_catalog.text[],
	unrecorded pg_catalog.text[],
	recording pg_catalog.bool,
	problem pg_catalog.text
)
AS 'MODULE_PATHNAME', 'poser_tracked'
LANGUAGE C STABLE;

COMMENT ON FUNCTION @extschema@.poser_tracked() IS
'for the view poser_tables: the tables that have a history';

CREATE VIEW @extschema@.poser_tables AS
	SELECT t.target, t.versions, t.key, t.excluded, t.unrecorded, t.recording, t.problem
	  FROM @extschema@.poser_tracked() AS t;

COMMENT ON VIEW @extschema@.poser_tables IS 'the tables that have a history';
COMMENT ON COLUMN @extschema@.poser_tables.target IS 'the table';
COMMENT ON COLUMN @extschema@.poser_tables.versions IS 'its table of versions';
COMMENT ON COLUMN @extschema@.poser_tables.key IS 'the columns of its key';
COMMENT ON COLUMN @extschema@.poser_tables.excluded IS 'columns that poser_track() was told to leave out';
COMMENT ON COLUMN @extschema@.poser_tables.unrecorded IS 'other columns that are not recorded';
COMMENT ON COLUMN @extschema@.poser_tables.recording IS 'whether changes of the table are recorded';
COMMENT ON COLUMN @extschema@.poser_tables.problem IS 'what is wrong, and null if nothing is';

-- Reading, and going back

CREATE FUNCTION @extschema@.poser_history(
	target pg_catalog.regclass, match pg_catalog.jsonb DEFAULT '{}', max_versions pg_catalog.int8 DEFAULT NULL)
RETURNS TABLE (
	change_id pg_catalog.int8,
	transaction_id pg_catalog.int8,
	issued_at pg_catalog.timestamptz,
	username pg_catalog.text,
	role_name pg_catalog.name,
	comment pg_catalog.text,
	operation pg_catalog.text,
	changed pg_catalog.text[],
	old pg_catalog.jsonb,
	new pg_catalog.jsonb
)
AS 'MODULE_PATHNAME', 'poser_history'
LANGUAGE C STABLE ROWS 10;

COMMENT ON FUNCTION @extschema@.poser_history(pg_catalog.regclass, pg_catalog.jsonb, pg_catalog.int8) IS
'the changes of a table''s rows that match, newest first';

CREATE FUNCTION @extschema@.poser_as_of(
	"row" anyelement, at pg_catalog.timestamptz, match pg_catalog.jsonb DEFAULT '{}')
RETURNS SETOF anyelement
AS 'MODULE_PATHNAME', 'poser_as_of'
LANGUAGE C STABLE;

COMMENT ON FUNCTION @extschema@.poser_as_of(anyelement, pg_catalog.timestamptz, pg_catalog.jsonb) IS
'the rows of a table that match, as they were at a time; row: NULL of the table''s row type';

CREATE FUNCTION @extschema@.poser_revert(
	target pg_catalog.regclass, match pg_catalog.jsonb, transaction_id pg_catalog.int8)
RETURNS pg_catalog.int8
AS 'MODULE_PATHNAME', 'poser_revert'
LANGUAGE C VOLATILE;

COMMENT ON FUNCTION @extschema@.poser_revert(pg_catalog.regclass, pg_catalog.jsonb, pg_catalog.int8) IS
'makes the rows of a table that match what they were after a transaction; returns how many rows were changed';

-- Pruning and recording

CREATE FUNCTION @extschema@.poser_prune_versions(
	older_than pg_catalog.interval, max_versions pg_catalog.int8 DEFAULT NULL,
	target pg_catalog.regclass DEFAULT NULL, match pg_catalog.jsonb DEFAULT NULL,
	gone pg_catalog.bool DEFAULT false)
RETURNS pg_catalog.int8
AS 'MODULE_PATHNAME', 'poser_prune_versions'
LANGUAGE C VOLATILE
SET search_path = pg_catalog, pg_temp;

SELECT @extschema@.poser_carry_grants(
	'@extschema@.poser_prune_versions(pg_catalog.interval, pg_catalog.int8)'::pg_catalog.regprocedure,
	'@extschema@.poser_prune_versions(pg_catalog.interval, pg_catalog.int8, pg_catalog.regclass, pg_catalog.jsonb, pg_catalog.bool)'::pg_catalog.regprocedure);

DROP FUNCTION @extschema@.poser_prune_versions(pg_catalog.interval, pg_catalog.int8);

COMMENT ON FUNCTION @extschema@.poser_prune_versions(
	pg_catalog.interval, pg_catalog.int8, pg_catalog.regclass, pg_catalog.jsonb, pg_catalog.bool) IS
'removes versions that others have followed longer ago than this, and no consumer needs; returns how many';

CREATE FUNCTION @extschema@.poser_record_versions(
	target pg_catalog.regclass DEFAULT NULL, max_versions pg_catalog.int8 DEFAULT NULL)
RETURNS pg_catalog.int8
AS 'MODULE_PATHNAME', 'poser_record_versions'
LANGUAGE C VOLATILE
SET search_path = pg_catalog, pg_temp;

SELECT @extschema@.poser_carry_grants(
	'@extschema@.poser_record_versions()'::pg_catalog.regprocedure,
	'@extschema@.poser_record_versions(pg_catalog.regclass, pg_catalog.int8)'::pg_catalog.regprocedure);

DROP FUNCTION @extschema@.poser_record_versions();

COMMENT ON FUNCTION @extschema@.poser_record_versions(pg_catalog.regclass, pg_catalog.int8) IS
'records what has bypassed the triggers, or was there before them; returns how many versions';

COMMENT ON COLUMN @extschema@.poser_prune_position.relation IS
'a table of versions or poser_transaction; of own tables the OID: of the versions (with '' gone'' for calls that remove these), or of a table that poser_record_versions() goes through';
COMMENT ON COLUMN @extschema@.poser_prune_position.change_id IS
'the last version that was removed or looked at, or the block of the table; null when all are';
COMMENT ON COLUMN @extschema@.poser_prune_position.key IS
'the key of that version, or the table and its file; null when all are';

-- Checking

CREATE FUNCTION @extschema@.poser_check(target pg_catalog.regclass DEFAULT NULL)
RETURNS TABLE (
	object pg_catalog.text,
	problem pg_catalog.text
)
AS 'MODULE_PATHNAME', 'poser_check'
LANGUAGE C STABLE
SET search_path = pg_catalog, pg_temp;

SELECT @extschema@.poser_carry_grants(
	'@extschema@.poser_check()'::pg_catalog.regprocedure,
	'@extschema@.poser_check(pg_catalog.regclass)'::pg_catalog.regprocedure);

DROP FUNCTION @extschema@.poser_check();

COMMENT ON FUNCTION @extschema@.poser_check(pg_catalog.regclass) IS
'what is wrong, with the whole extension or with one table that has a history';

-- Datasync

ALTER TYPE @extschema@.poser_change
	ADD ATTRIBUTE schema pg_catalog.name,
	ADD ATTRIBUTE operation pg_catalog.text,
	ADD ATTRIBUTE changed pg_catalog.text[],
	ADD ATTRIBUTE old pg_catalog.jsonb;

COMMENT ON COLUMN @extschema@.poser_change.schema IS 'the schema of the table';
COMMENT ON COLUMN @extschema@.poser_change.operation IS 'insert, update or delete';
COMMENT ON COLUMN @extschema@.poser_change.changed IS 'the columns that an update has changed';
COMMENT ON COLUMN @extschema@.poser_change.old IS 'the row before the change, if the consumer asks for it';

ALTER TABLE @extschema@.poser_datasync_consumer
	ADD COLUMN tables pg_catalog.regclass[],
	ADD COLUMN old_values pg_catalog.bool NOT NULL DEFAULT false,
	ADD COLUMN table_names pg_catalog.text[];

COMMENT ON COLUMN @extschema@.poser_datasync_consumer.tables IS
'the tables that it gets the changes of; null for all that the extension''s owner owns; can be changed';
COMMENT ON COLUMN @extschema@.poser_datasync_consumer.old_values IS 'whether it gets the rows before the changes; can be changed';
COMMENT ON COLUMN @extschema@.poser_datasync_consumer.table_names IS
'the database, and the number and name of each of the tables; tells a restore which of them had been dropped';

CREATE FUNCTION @extschema@.poser_datasync_tables()
RETURNS pg_catalog.trigger
AS 'MODULE_PATHNAME', 'poser_datasync_tables'
LANGUAGE C;

COMMENT ON FUNCTION @extschema@.poser_datasync_tables() IS
'checks the tables of a consumer when they are changed';

CREATE TRIGGER poser_datasync_tables
	BEFORE UPDATE OF tables ON @extschema@.poser_datasync_consumer
	FOR EACH ROW EXECUTE FUNCTION @extschema@.poser_datasync_tables();

CREATE FUNCTION @extschema@.poser_datasync_problem(consumer pg_catalog.name)
RETURNS pg_catalog.text
AS 'MODULE_PATHNAME', 'poser_datasync_problem'
LANGUAGE C STABLE;

COMMENT ON FUNCTION @extschema@.poser_datasync_problem(pg_catalog.name) IS
'for poser_datasync_status: what is wrong with the tables of a consumer';

-- The view gets a column at its end.  Views of users may depend on it, and only CREATE OR
-- REPLACE leaves them as they are.  The server refuses it for a relation that is not a
-- member of the extension.
CREATE OR REPLACE VIEW @extschema@.poser_datasync_status AS
	SELECT c.consumer, c.handler, c.runas, c.notify,
		   p.pending, p.oldest, p.age, p.stale,
		   COALESCE(p.transaction_id OPERATOR(pg_catalog.=)
					pg_catalog.min(p.transaction_id) OVER (), false) AS holds_pruning,
		   c.last_confirmed_at, c.attempts, c.last_error, c.last_failed_at, c.failed_change_id,
		   @extschema@.poser_datasync_problem(c.consumer) AS problem
	  FROM @extschema@.poser_datasync_consumer AS c,
		   LATERAL @extschema@.poser_datasync_pending(c.consumer) AS p;

COMMENT ON COLUMN @extschema@.poser_datasync_status.problem IS
'which of its tables it cannot get the changes of, and why; null if there is none';

CREATE FUNCTION @extschema@.poser_datasync_add(
	consumer pg_catalog.name, start pg_catalog.text DEFAULT 'now',
	handler pg_catalog.regprocedure DEFAULT NULL, runas pg_catalog.text DEFAULT NULL,
	notify pg_catalog.bool DEFAULT false, own_changes pg_catalog.bool DEFAULT false,
	tables pg_catalog.regclass[] DEFAULT NULL, old_values pg_catalog.bool DEFAULT false)
RETURNS pg_catalog.void
AS 'MODULE_PATHNAME', 'poser_datasync_add'
LANGUAGE C VOLATILE;

SELECT @extschema@.poser_carry_grants(
	'@extschema@.poser_datasync_add(pg_catalog.name, pg_catalog.text, pg_catalog.regprocedure, pg_catalog.text, pg_catalog.bool, pg_catalog.bool)'::pg_catalog.regprocedure,
	'@extschema@.poser_datasync_add(pg_catalog.name, pg_catalog.text, pg_catalog.regprocedure, pg_catalog.text, pg_catalog.bool, pg_catalog.bool, pg_catalog.regclass[], pg_catalog.bool)'::pg_catalog.regprocedure);

DROP FUNCTION @extschema@.poser_datasync_add(
	pg_catalog.name, pg_catalog.text, pg_catalog.regprocedure, pg_catalog.text, pg_catalog.bool, pg_catalog.bool);

COMMENT ON FUNCTION @extschema@.poser_datasync_add(
	pg_catalog.name, pg_catalog.text, pg_catalog.regprocedure, pg_catalog.text, pg_catalog.bool, pg_catalog.bool,
	pg_catalog.regclass[], pg_catalog.bool) IS
'makes a consumer, which gets the changes of these tables from now on, or from the beginning';

-- Owner and privileges of what is new.  The owner of any table has triggers with the
-- trigger functions, which a restore makes again.

CREATE FUNCTION @extschema@.poser_grant_to_public(function pg_catalog.regprocedure)
RETURNS pg_catalog.void
AS 'MODULE_PATHNAME', 'poser_grant_to_public'
LANGUAGE C VOLATILE STRICT;

COMMENT ON FUNCTION @extschema@.poser_grant_to_public(pg_catalog.regprocedure) IS
'for update scripts: lets everybody execute a function of an earlier script';

SELECT @extschema@.poser_set_owner('@extschema@.poser_component'::pg_catalog.regclass,
	ARRAY['@extschema@.poser_tables'
		 ]::pg_catalog.regclass[],
	ARRAY['@extschema@.poser_grant_to_public(pg_catalog.regprocedure)',
		  '@extschema@.poser_versions_of()',
		  '@extschema@.poser_track(pg_catalog.regclass, pg_catalog.text[], pg_catalog.text, pg_catalog.bool)',
		  '@extschema@.poser_untrack(pg_catalog.regclass)',
		  '@extschema@.poser_follow()',
		  '@extschema@.poser_tracked()',
		  '@extschema@.poser_datasync_tables()',
		  '@extschema@.poser_datasync_problem(pg_catalog.name)',
		  '@extschema@.poser_history(pg_catalog.regclass, pg_catalog.jsonb, pg_catalog.int8)',
		  '@extschema@.poser_as_of(anyelement, pg_catalog.timestamptz, pg_catalog.jsonb)',
		  '@extschema@.poser_revert(pg_catalog.regclass, pg_catalog.jsonb, pg_catalog.int8)'
		 ]::pg_catalog.regprocedure[]);

GRANT SELECT ON @extschema@.poser_tables TO PUBLIC;

SELECT @extschema@.poser_grant_to_public('@extschema@.poser_version()'::pg_catalog.regprocedure),
	@extschema@.poser_grant_to_public('@extschema@.poser_arrive()'::pg_catalog.regprocedure);

GRANT EXECUTE ON FUNCTION
	@extschema@.poser_versions_of(),
	@extschema@.poser_track(pg_catalog.regclass, pg_catalog.text[], pg_catalog.text, pg_catalog.bool),
	@extschema@.poser_untrack(pg_catalog.regclass),
	@extschema@.poser_follow(),
	@extschema@.poser_tracked(),
	@extschema@.poser_datasync_problem(pg_catalog.name),
	@extschema@.poser_history(pg_catalog.regclass, pg_catalog.jsonb, pg_catalog.int8),
	@extschema@.poser_as_of(anyelement, pg_catalog.timestamptz, pg_catalog.jsonb),
	@extschema@.poser_revert(pg_catalog.regclass, pg_catalog.jsonb, pg_catalog.int8)
	TO PUBLIC;
