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

-- === Pruning ===

-- How far poser_prune_versions() has come.  A dump does not hold it: its snapshots are of
-- this cluster, and without it pruning begins again.

CREATE TABLE @extschema@.poser_prune_position (
	relation pg_catalog.name NOT NULL,
	transaction_id pg_catalog.int8 NOT NULL,
	change_id pg_catalog.int8,
	key pg_catalog.text,
	seen pg_catalog.pg_snapshot NOT NULL,
	full_until pg_catalog.int8 NOT NULL,
	CONSTRAINT poser_prune_position_pkey PRIMARY KEY (relation)
);

COMMENT ON TABLE @extschema@.poser_prune_position IS
'how far calls of poser_prune_versions() with max_versions have come; rows can be removed, and pruning then begins again';
COMMENT ON COLUMN @extschema@.poser_prune_position.relation IS 'a table of versions, or poser_transaction';
COMMENT ON COLUMN @extschema@.poser_prune_position.transaction_id IS 'up to this transaction';
COMMENT ON COLUMN @extschema@.poser_prune_position.change_id IS
'the last version that was removed; null when all are';
COMMENT ON COLUMN @extschema@.poser_prune_position.key IS 'the key of that version; null when all are';
COMMENT ON COLUMN @extschema@.poser_prune_position.seen IS
'the snapshot with which this began: later transactions have not been looked at';
COMMENT ON COLUMN @extschema@.poser_prune_position.full_until IS
'all rows have been looked at up to this transaction, and after it only those that have changed';

-- === Batches ===

-- === What a dump does not hold ===

-- === Parallel queries ===

-- === Owner and privileges of what is new ===

SELECT @extschema@.poser_set_owner('@extschema@.poser_component',
	ARRAY['@extschema@.poser_prune_position'
		 ]::pg_catalog.regclass[],
	ARRAY['@extschema@.poser_set_owner(pg_catalog.regclass, pg_catalog.regclass[], pg_catalog.regprocedure[])'
		 ]::pg_catalog.regprocedure[]);
