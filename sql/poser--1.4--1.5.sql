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

-- Each transaction wrote an entry into three indexes.  This one has hardly served a query:
-- issued_at and id rise together, so the primary key finds the last transaction of a time
-- in a backward scan that ends at the first match.
DROP INDEX @extschema@.poser_transaction_idx_issued_at;

-- === Batches ===

-- === What a dump does not hold ===

-- === Parallel queries ===

-- === Owner and privileges of what is new ===

SELECT @extschema@.poser_set_owner('@extschema@.poser_component',
	'{}',
	ARRAY['@extschema@.poser_set_owner(pg_catalog.regclass, pg_catalog.regclass[], pg_catalog.regprocedure[])'
		 ]::pg_catalog.regprocedure[]);
