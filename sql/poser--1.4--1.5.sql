\echo Use "ALTER EXTENSION poser UPDATE TO '1.5'" to load this file. \quit

-- Locks.  The script waits for the first lock while it holds no other, and takes the
-- others NOWAIT.  So it never becomes part of a deadlock: when it cannot have a lock at
-- once it fails with 55P03, and can be run again.

LOCK TABLE @extschema@.poser_widget IN SHARE ROW EXCLUSIVE MODE;
LOCK TABLE @extschema@.poser_component IN SHARE ROW EXCLUSIVE MODE NOWAIT;
LOCK TABLE @extschema@.poser_widget_version, @extschema@.poser_component_version,
	@extschema@.poser_transaction, @extschema@.poser_batch, @extschema@.poser_batch_row
	IN ACCESS EXCLUSIVE MODE NOWAIT;

-- The owner of what this script and later ones make.

CREATE FUNCTION @extschema@.poser_set_owner(
	table_of_owner pg_catalog.regclass, relations pg_catalog.regclass[],
	functions pg_catalog.regprocedure[])
RETURNS pg_catalog.void
AS 'MODULE_PATHNAME', 'poser_set_owner'
LANGUAGE C VOLATILE STRICT;

COMMENT ON FUNCTION @extschema@.poser_set_owner(
	pg_catalog.regclass, pg_catalog.regclass[], pg_catalog.regprocedure[]) IS
'for update scripts: gives new relations the owner of a table, and takes all privileges but the owner''s from them and from functions';

-- === Restores ===

-- === Indexes of the history ===

-- === Batches ===

-- === What a dump does not hold ===

CREATE FUNCTION @extschema@.poser_local_changes()
RETURNS TABLE (
	section pg_catalog.text,
	statement pg_catalog.text
)
AS 'MODULE_PATHNAME', 'poser_local_changes'
LANGUAGE C STABLE
SET search_path = pg_catalog, pg_temp;

COMMENT ON FUNCTION @extschema@.poser_local_changes() IS
'what was added to the tables of this extension or changed in them, as statements: those that a restore runs before its data, and those after';

CREATE FUNCTION @extschema@.poser_alter_type(
	target pg_catalog.regclass, column_name pg_catalog.name, type pg_catalog.text)
RETURNS pg_catalog.void
AS 'MODULE_PATHNAME', 'poser_alter_type'
LANGUAGE C VOLATILE STRICT;

COMMENT ON FUNCTION @extschema@.poser_alter_type(pg_catalog.regclass, pg_catalog.name, pg_catalog.text) IS
'gives a column of a table another type, and the column of poser_widget_summary that shows it';

-- === Parallel queries ===

-- === Owner and privileges of what is new ===

SELECT @extschema@.poser_set_owner('@extschema@.poser_component',
	'{}',
	ARRAY['@extschema@.poser_set_owner(pg_catalog.regclass, pg_catalog.regclass[], pg_catalog.regprocedure[])',
		  '@extschema@.poser_local_changes()',
		  '@extschema@.poser_alter_type(pg_catalog.regclass, pg_catalog.name, pg_catalog.text)'
		 ]::pg_catalog.regprocedure[]);

GRANT EXECUTE ON FUNCTION
	@extschema@.poser_local_changes(),
	@extschema@.poser_alter_type(pg_catalog.regclass, pg_catalog.name, pg_catalog.text)
	TO PUBLIC;
