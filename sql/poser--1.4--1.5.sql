\echo Use "ALTER EXTENSION poser UPDATE TO '1.5'" to load this file. \quit

-- The schema may have functions of its owner's with the names of those that this script
-- calls, and other arguments.  The script runs as a superuser.  So each call has exactly
-- the types of the function that is meant.

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

CREATE FUNCTION @extschema@.poser_check_column(
	relation pg_catalog.regclass, column_name pg_catalog.name, type pg_catalog.regtype)
RETURNS pg_catalog.void
AS 'MODULE_PATHNAME', 'poser_check_column'
LANGUAGE C VOLATILE STRICT;

COMMENT ON FUNCTION @extschema@.poser_check_column(
	pg_catalog.regclass, pg_catalog.name, pg_catalog.regtype) IS
'for update scripts: an error unless a column has the type that the scripts gave it';

CREATE FUNCTION @extschema@.poser_set_replica_identity(index pg_catalog.regclass)
RETURNS pg_catalog.void
AS 'MODULE_PATHNAME', 'poser_set_replica_identity'
LANGUAGE C VOLATILE STRICT;

COMMENT ON FUNCTION @extschema@.poser_set_replica_identity(pg_catalog.regclass) IS
'for update scripts: makes an index the replica identity of its table, unless another one has been chosen';

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

-- History that arrives from elsewhere: which transactions have arrived, and the triggers
-- that see what SQL inserts.  They fire on no subscriber, because nothing is recorded
-- there; but xact is set there, too, as before.

CREATE TABLE @extschema@.poser_arrival (
	first pg_catalog.int8 NOT NULL,
	last pg_catalog.int8 NOT NULL,
	awaited pg_catalog.bool NOT NULL,
	CONSTRAINT poser_arrival_pkey PRIMARY KEY (first)
);

COMMENT ON TABLE @extschema@.poser_arrival IS
'ranges of ids of transactions that were not recorded here: a restore, or another tool, has inserted them';
COMMENT ON COLUMN @extschema@.poser_arrival.first IS 'key: the first id of the range';
COMMENT ON COLUMN @extschema@.poser_arrival.last IS 'the last id of the range';
COMMENT ON COLUMN @extschema@.poser_arrival.awaited IS
'only versions have arrived; the transactions are still those that were recorded here';

CREATE FUNCTION @extschema@.poser_arrive()
RETURNS pg_catalog.trigger
AS 'MODULE_PATHNAME', 'poser_arrive'
LANGUAGE C;

COMMENT ON FUNCTION @extschema@.poser_arrive() IS
'lets versions that arrive from elsewhere replace what was recorded; arguments: table, columns of its key';
COMMENT ON FUNCTION @extschema@.poser_transaction_arrive() IS
'sets xact of a transaction that arrives from elsewhere, and gives it its id';

CREATE TRIGGER poser_arrive_before
	BEFORE INSERT ON @extschema@.poser_widget_version
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.poser_arrive('poser_widget', 'uuid');
CREATE TRIGGER poser_arrive_row
	BEFORE INSERT ON @extschema@.poser_widget_version
	FOR EACH ROW EXECUTE FUNCTION @extschema@.poser_arrive('poser_widget', 'uuid');
CREATE TRIGGER poser_arrive_after
	AFTER INSERT ON @extschema@.poser_widget_version
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.poser_arrive('poser_widget', 'uuid');

CREATE TRIGGER poser_arrive_before
	BEFORE INSERT ON @extschema@.poser_component_version
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.poser_arrive('poser_component', 'uuid');
CREATE TRIGGER poser_arrive_row
	BEFORE INSERT ON @extschema@.poser_component_version
	FOR EACH ROW EXECUTE FUNCTION @extschema@.poser_arrive('poser_component', 'uuid');
CREATE TRIGGER poser_arrive_after
	AFTER INSERT ON @extschema@.poser_component_version
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.poser_arrive('poser_component', 'uuid');

CREATE TRIGGER poser_transaction_arrive_before
	BEFORE INSERT ON @extschema@.poser_transaction
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.poser_transaction_arrive();
CREATE TRIGGER poser_transaction_arrive_after
	AFTER INSERT ON @extschema@.poser_transaction
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.poser_transaction_arrive();

-- === Indexes of the history ===

-- Each transaction wrote an entry into three indexes.  This one has hardly served a query:
-- issued_at and id rise together, so the primary key finds the last transaction of a time
-- in a backward scan that ends at the first match.

DROP INDEX @extschema@.poser_transaction_idx_issued_at;

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
	issued_before pg_catalog.timestamptz NOT NULL,
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
COMMENT ON COLUMN @extschema@.poser_prune_position.issued_before IS
'the transactions up to transaction_id that seen sees were issued before this time';

-- === Batches ===

-- The key is computed from these columns.  A cast of another type could be a function of
-- the owner's, and would run as a superuser.

SELECT @extschema@.poser_check_column(
		'@extschema@.poser_batch_row'::pg_catalog.regclass, 'batch_uuid'::pg_catalog.name,
		'pg_catalog.varchar'::pg_catalog.regtype),
	@extschema@.poser_check_column(
		'@extschema@.poser_batch_row'::pg_catalog.regclass, 'sequence'::pg_catalog.name,
		'pg_catalog.int8'::pg_catalog.regtype);

-- A key of one column, for programs that know no other keys.  What comes after the last
-- '.' is the sequence, so no two rows have the same one.  The server does not replicate
-- generated columns before PostgreSQL 18, so the replica identity is the other key.

ALTER TABLE @extschema@.poser_batch_row
	DROP CONSTRAINT poser_batch_row_pkey,
	ADD COLUMN row_id pg_catalog.text GENERATED ALWAYS AS (
		(batch_uuid::pg_catalog.text OPERATOR(pg_catalog.||) '.') OPERATOR(pg_catalog.||)
		sequence::pg_catalog.text) STORED,
	ADD CONSTRAINT poser_batch_row_pkey PRIMARY KEY (row_id),
	ADD CONSTRAINT poser_batch_row_uq_sequence UNIQUE (batch_uuid, sequence);
SELECT @extschema@.poser_set_replica_identity(
	'@extschema@.poser_batch_row_uq_sequence'::pg_catalog.regclass);

COMMENT ON COLUMN @extschema@.poser_batch_row.row_id IS 'key: batch_uuid and sequence, joined by "."';

-- Rows of a source that are the same in the target are counted instead of staged.

ALTER TABLE @extschema@.poser_batch ADD COLUMN unchanged_count pg_catalog.int8 NOT NULL DEFAULT 0;

COMMENT ON COLUMN @extschema@.poser_batch.unchanged_count IS
'how many rows of the source were the same as in the target when it was populated, and are not among its rows';

CREATE FUNCTION @extschema@.poser_batch_populate(
	batch pg_catalog.varchar, source pg_catalog.regclass,
	key pg_catalog.text[] DEFAULT NULL, fields pg_catalog.text[] DEFAULT NULL,
	deletes pg_catalog.bool DEFAULT false, unchanged pg_catalog.bool DEFAULT false)
RETURNS pg_catalog.int8
AS 'MODULE_PATHNAME', 'poser_batch_populate'
LANGUAGE C VOLATILE;

SELECT @extschema@.poser_carry_grants(
	'@extschema@.poser_batch_populate(pg_catalog.varchar, pg_catalog.regclass, pg_catalog.text[], pg_catalog.text[], pg_catalog.bool)'::pg_catalog.regprocedure,
	'@extschema@.poser_batch_populate(pg_catalog.varchar, pg_catalog.regclass, pg_catalog.text[], pg_catalog.text[], pg_catalog.bool, pg_catalog.bool)'::pg_catalog.regprocedure);

DROP FUNCTION @extschema@.poser_batch_populate(
	pg_catalog.varchar, pg_catalog.regclass, pg_catalog.text[], pg_catalog.text[], pg_catalog.bool);

COMMENT ON FUNCTION @extschema@.poser_batch_populate(
	pg_catalog.varchar, pg_catalog.regclass, pg_catalog.text[], pg_catalog.text[], pg_catalog.bool, pg_catalog.bool) IS
'gives an empty batch a row for each row of a source that differs in the target, and with unchanged for the others, too; returns how many';

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

SELECT @extschema@.poser_set_owner('@extschema@.poser_component'::pg_catalog.regclass,
	ARRAY['@extschema@.poser_prune_position',
		  '@extschema@.poser_arrival'
		 ]::pg_catalog.regclass[],
	ARRAY['@extschema@.poser_lock_tables(pg_catalog.text[])',
		  '@extschema@.poser_check_column(pg_catalog.regclass, pg_catalog.name, pg_catalog.regtype)',
		  '@extschema@.poser_set_replica_identity(pg_catalog.regclass)',
		  '@extschema@.poser_set_owner(pg_catalog.regclass, pg_catalog.regclass[], pg_catalog.regprocedure[])',
		  '@extschema@.poser_carry_grants(pg_catalog.regprocedure, pg_catalog.regprocedure)',
		  '@extschema@.poser_local_changes()',
		  '@extschema@.poser_alter_type(pg_catalog.regclass, pg_catalog.name, pg_catalog.text)',
		  '@extschema@.poser_arrive()'
		 ]::pg_catalog.regprocedure[]);

GRANT EXECUTE ON FUNCTION
	@extschema@.poser_local_changes(),
	@extschema@.poser_alter_type(pg_catalog.regclass, pg_catalog.name, pg_catalog.text)
	TO PUBLIC;
