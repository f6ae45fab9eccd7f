\echo Use "ALTER EXTENSION poser UPDATE TO '1.5'" to load this file. \quit

-- Locks.  The script waits for the first lock while it holds no other, and takes the
-- others without waiting.  So no application becomes a deadlock's victim: when the script
-- cannot have a lock it fails with 55P03, and can be run again.  All tables that the
-- script touches are here, in the strongest mode that it needs.

CREATE FUNCTION @extschema@.poser_lock_tables(tables pg_catalog.text[])
RETURNS pg_catalog.void
AS 'MODULE_PATHNAME', 'poser_lock_tables'
LANGUAGE C VOLATILE STRICT;

COMMENT ON FUNCTION @extschema@.poser_lock_tables(pg_catalog.text[]) IS
'for update scripts: locks tables, and waits for the first lock only; tables: names and modes of LOCK';

SELECT @extschema@.poser_lock_tables(ARRAY[
	['poser_widget', 'SHARE ROW EXCLUSIVE'],
	['poser_component', 'SHARE ROW EXCLUSIVE'],
	['poser_transaction', 'ACCESS EXCLUSIVE'],
	['poser_widget_version', 'SHARE ROW EXCLUSIVE'],
	['poser_component_version', 'SHARE ROW EXCLUSIVE'],
	['poser_batch', 'ACCESS EXCLUSIVE'],
	['poser_batch_row', 'ACCESS EXCLUSIVE']
]);

-- The owner of what this script and later ones make, and the privileges of what they
-- replace.

CREATE FUNCTION @extschema@.poser_set_owner(
	table_of_owner pg_catalog.regclass, relations pg_catalog.regclass[],
	functions pg_catalog.regprocedure[])
RETURNS pg_catalog.void
AS 'MODULE_PATHNAME', 'poser_set_owner'
LANGUAGE C VOLATILE STRICT;

COMMENT ON FUNCTION @extschema@.poser_set_owner(
	pg_catalog.regclass, pg_catalog.regclass[], pg_catalog.regprocedure[]) IS
'for update scripts: gives new relations the owner of a table, and takes all privileges but the owner''s from them and from functions';

CREATE FUNCTION @extschema@.poser_carry_grants(
	replaced pg_catalog.regprocedure, replacement pg_catalog.regprocedure)
RETURNS pg_catalog.void
AS 'MODULE_PATHNAME', 'poser_carry_grants'
LANGUAGE C VOLATILE STRICT;

COMMENT ON FUNCTION @extschema@.poser_carry_grants(
	pg_catalog.regprocedure, pg_catalog.regprocedure) IS
'for update scripts: gives a function the owner and the privileges of the function that it replaces';

-- === Restores ===

-- === Indexes of the history ===

-- === Batches ===

-- === What a dump does not hold ===

-- === Parallel queries ===

-- These functions read as the caller, so they run the code of policies.  A policy may
-- write, and a query that calls them must not be parallel then.

ALTER FUNCTION @extschema@.poser_widget_get(pg_catalog.varchar) PARALLEL UNSAFE;
ALTER FUNCTION @extschema@.poser_widget_list(
	pg_catalog.text, pg_catalog.bool, pg_catalog.varchar, pg_catalog.int4) PARALLEL UNSAFE;
ALTER FUNCTION @extschema@.poser_widget_history(pg_catalog.varchar) PARALLEL UNSAFE;
ALTER FUNCTION @extschema@.poser_widget_history(pg_catalog.varchar, pg_catalog.bool) PARALLEL UNSAFE;
ALTER FUNCTION @extschema@.poser_component_history(pg_catalog.varchar) PARALLEL UNSAFE;
ALTER FUNCTION @extschema@.poser_widget_as_of(pg_catalog.timestamptz) PARALLEL UNSAFE;
ALTER FUNCTION @extschema@.poser_component_as_of(pg_catalog.timestamptz) PARALLEL UNSAFE;

-- === Owner and privileges of what is new ===

SELECT @extschema@.poser_set_owner('@extschema@.poser_component',
	'{}',
	ARRAY['@extschema@.poser_lock_tables(pg_catalog.text[])',
		  '@extschema@.poser_set_owner(pg_catalog.regclass, pg_catalog.regclass[], pg_catalog.regprocedure[])',
		  '@extschema@.poser_carry_grants(pg_catalog.regprocedure, pg_catalog.regprocedure)'
		 ]::pg_catalog.regprocedure[]);
