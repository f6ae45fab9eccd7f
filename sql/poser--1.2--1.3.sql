\echo Use "ALTER EXTENSION poser UPDATE TO '1.3'" to load this file. \quit

-- Import and export

CREATE FUNCTION @extschema@.poser_import_diff(
	source pg_catalog.regclass, target pg_catalog.regclass,
	key pg_catalog.text[] DEFAULT NULL, fields pg_catalog.text[] DEFAULT NULL,
	deletes pg_catalog.bool DEFAULT false)
RETURNS TABLE (
	operation pg_catalog.text,
	key pg_catalog.jsonb,
	old pg_catalog.jsonb,
	new pg_catalog.jsonb
)
AS 'MODULE_PATHNAME', 'poser_import_diff'
LANGUAGE C STABLE;

COMMENT ON FUNCTION @extschema@.poser_import_diff(
	pg_catalog.regclass, pg_catalog.regclass, pg_catalog.text[], pg_catalog.text[], pg_catalog.bool) IS
'what poser_import() would do: a row for each row that differs, with the fields that differ';

CREATE FUNCTION @extschema@.poser_import(
	source pg_catalog.regclass, target pg_catalog.regclass,
	key pg_catalog.text[] DEFAULT NULL, fields pg_catalog.text[] DEFAULT NULL,
	creates pg_catalog.bool DEFAULT true, updates pg_catalog.bool DEFAULT true,
	deletes pg_catalog.bool DEFAULT false,
	max_create pg_catalog.int8 DEFAULT NULL, max_update pg_catalog.int8 DEFAULT NULL,
	max_delete pg_catalog.int8 DEFAULT NULL, max_total pg_catalog.int8 DEFAULT NULL)
RETURNS TABLE (
	created pg_catalog.int8,
	updated pg_catalog.int8,
	deleted pg_catalog.int8,
	unchanged pg_catalog.int8
)
AS 'MODULE_PATHNAME', 'poser_import'
LANGUAGE C VOLATILE ROWS 1;

COMMENT ON FUNCTION @extschema@.poser_import(
	pg_catalog.regclass, pg_catalog.regclass, pg_catalog.text[], pg_catalog.text[],
	pg_catalog.bool, pg_catalog.bool, pg_catalog.bool,
	pg_catalog.int8, pg_catalog.int8, pg_catalog.int8, pg_catalog.int8) IS
'makes the rows of the target those of the source, writing only what differs; all or nothing';

-- Batches: imports under review.  Row-level security is on: whoever has been
-- granted the tables sees the batches that his role has made, and those of
-- whose targets he may see all.

CREATE TABLE @extschema@.poser_batch (
	uuid pg_catalog.varchar(32) NOT NULL DEFAULT @extschema@.poser_uuid(),
	id pg_catalog.int8 NOT NULL
		GENERATED ALWAYS AS IDENTITY (SEQUENCE NAME @extschema@.poser_batch_id_seq),
	target pg_catalog.regclass NOT NULL,
	key pg_catalog.text[],
	description pg_catalog.text,
	created pg_catalog.timestamptz NOT NULL DEFAULT pg_catalog.now(),
	created_by pg_catalog.text NOT NULL,
	role_name pg_catalog.name NOT NULL,
	row_count pg_catalog.int8 NOT NULL DEFAULT 0,
	complete pg_catalog.bool NOT NULL DEFAULT false,
	executed pg_catalog.timestamptz,
	executed_by pg_catalog.text,
	is_mutable pg_catalog.bool NOT NULL
		GENERATED ALWAYS AS (NOT complete AND executed IS NULL) STORED,
	status pg_catalog.text,
	notes pg_catalog.text,
	params pg_catalog.jsonb,
	CONSTRAINT poser_batch_pkey PRIMARY KEY (uuid),
	CONSTRAINT poser_batch_uq_id UNIQUE (id)
);

COMMENT ON SEQUENCE @extschema@.poser_batch_id_seq IS 'ids of batches';

COMMENT ON TABLE @extschema@.poser_batch IS 'batches: imports under review';
COMMENT ON COLUMN @extschema@.poser_batch.uuid IS 'key';
COMMENT ON COLUMN @extschema@.poser_batch.id IS 'a number for people';
COMMENT ON COLUMN @extschema@.poser_batch.target IS 'the table that it is for';
COMMENT ON COLUMN @extschema@.poser_batch.key IS 'columns of the target that tell which row is which';
COMMENT ON COLUMN @extschema@.poser_batch.description IS 'what it is about';
COMMENT ON COLUMN @extschema@.poser_batch.created IS 'when it was made';
COMMENT ON COLUMN @extschema@.poser_batch.created_by IS
'in whose name it was made: the setting poser.runas, or else the session''s user';
COMMENT ON COLUMN @extschema@.poser_batch.role_name IS 'the role that made it';
COMMENT ON COLUMN @extschema@.poser_batch.row_count IS 'how many rows it has that are not removed';
COMMENT ON COLUMN @extschema@.poser_batch.complete IS 'whether it has been reviewed: its rows cannot be changed';
COMMENT ON COLUMN @extschema@.poser_batch.executed IS 'when it was executed; null until then';
COMMENT ON COLUMN @extschema@.poser_batch.executed_by IS 'in whose name it was executed';
COMMENT ON COLUMN @extschema@.poser_batch.is_mutable IS 'whether its rows can be changed';
COMMENT ON COLUMN @extschema@.poser_batch.status IS 'what was last done, and what came of it';
COMMENT ON COLUMN @extschema@.poser_batch.notes IS 'the reviewer''s';
COMMENT ON COLUMN @extschema@.poser_batch.params IS 'the user''s';

CREATE TABLE @extschema@.poser_batch_row (
	batch_uuid pg_catalog.varchar(32) NOT NULL,
	sequence pg_catalog.int8 NOT NULL,
	operation pg_catalog.text NOT NULL DEFAULT 'update',
	key pg_catalog.jsonb NOT NULL,
	old pg_catalog.jsonb,
	new pg_catalog.jsonb,
	status pg_catalog.text NOT NULL DEFAULT 'ready',
	status_text pg_catalog.text,
	removed pg_catalog.bool NOT NULL DEFAULT false,
	CONSTRAINT poser_batch_row_pkey PRIMARY KEY (batch_uuid, sequence),
	CONSTRAINT poser_batch_row_fk_batch FOREIGN KEY (batch_uuid)
		REFERENCES @extschema@.poser_batch (uuid) ON DELETE CASCADE,
	CONSTRAINT poser_batch_row_ck_operation CHECK (
		operation OPERATOR(pg_catalog.=) ANY
			('{create,update,delete,unchanged}'::pg_catalog.text[])),
	CONSTRAINT poser_batch_row_ck_status CHECK (
		status OPERATOR(pg_catalog.=) ANY
			('{ready,error,conflict,skipped}'::pg_catalog.text[])),
	CONSTRAINT poser_batch_row_ck_values CHECK (
		pg_catalog.jsonb_typeof(key) OPERATOR(pg_catalog.=) 'object'
		AND (old IS NULL OR pg_catalog.jsonb_typeof(old) OPERATOR(pg_catalog.=) 'object')
		AND (new IS NULL OR pg_catalog.jsonb_typeof(new) OPERATOR(pg_catalog.=) 'object'))
);

COMMENT ON TABLE @extschema@.poser_batch_row IS 'rows of batches: what is to be done to one row of the target each';
COMMENT ON COLUMN @extschema@.poser_batch_row.batch_uuid IS 'the batch';
COMMENT ON COLUMN @extschema@.poser_batch_row.sequence IS 'which row of its source it was, from 1; rows to be deleted come after those';
COMMENT ON COLUMN @extschema@.poser_batch_row.operation IS 'create, update, delete or unchanged';
COMMENT ON COLUMN @extschema@.poser_batch_row.key IS 'the row of the target';
COMMENT ON COLUMN @extschema@.poser_batch_row.old IS
'what the fields in new were in the target when they were compared; of a row to be deleted, all its fields';
COMMENT ON COLUMN @extschema@.poser_batch_row.new IS 'the fields that are to be written';
COMMENT ON COLUMN @extschema@.poser_batch_row.status IS 'ready, error, conflict or skipped';
COMMENT ON COLUMN @extschema@.poser_batch_row.status_text IS 'what the error or the conflict is';
COMMENT ON COLUMN @extschema@.poser_batch_row.removed IS 'whether it is kept, but not executed';

CREATE FUNCTION @extschema@.poser_batch_guard()
RETURNS pg_catalog.trigger
AS 'MODULE_PATHNAME', 'poser_batch_guard'
LANGUAGE C;

COMMENT ON FUNCTION @extschema@.poser_batch_guard() IS
'keeps users from changing what is not theirs to change in a batch';

CREATE FUNCTION @extschema@.poser_batch_row_guard()
RETURNS pg_catalog.trigger
AS 'MODULE_PATHNAME', 'poser_batch_row_guard'
LANGUAGE C;

COMMENT ON FUNCTION @extschema@.poser_batch_row_guard() IS
'counts the rows of batches, and keeps those that are not mutable from being changed';

CREATE TRIGGER poser_batch_guard
	BEFORE INSERT OR UPDATE OR DELETE ON @extschema@.poser_batch
	FOR EACH ROW EXECUTE FUNCTION @extschema@.poser_batch_guard();
CREATE TRIGGER poser_batch_row_before
	BEFORE INSERT OR UPDATE OR DELETE ON @extschema@.poser_batch_row
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.poser_batch_row_guard();
CREATE TRIGGER poser_batch_row_insert
	AFTER INSERT ON @extschema@.poser_batch_row
	REFERENCING NEW TABLE AS new_rows
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.poser_batch_row_guard();
CREATE TRIGGER poser_batch_row_update
	AFTER UPDATE ON @extschema@.poser_batch_row
	REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.poser_batch_row_guard();
CREATE TRIGGER poser_batch_row_delete
	AFTER DELETE ON @extschema@.poser_batch_row
	REFERENCING OLD TABLE AS old_rows
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.poser_batch_row_guard();
CREATE TRIGGER poser_batch_row_truncate
	AFTER TRUNCATE ON @extschema@.poser_batch_row
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.poser_batch_row_guard();

ALTER TABLE @extschema@.poser_batch ENABLE ROW LEVEL SECURITY;
ALTER TABLE @extschema@.poser_batch_row ENABLE ROW LEVEL SECURITY;

CREATE POLICY poser_batch_policy ON @extschema@.poser_batch
	USING (role_name OPERATOR(pg_catalog.=) CURRENT_USER
		   OR (pg_catalog.has_table_privilege(target, 'SELECT')
			   AND NOT pg_catalog.row_security_active(target)));
CREATE POLICY poser_batch_row_policy ON @extschema@.poser_batch_row
	USING (batch_uuid OPERATOR(pg_catalog.=) ANY (SELECT uuid FROM @extschema@.poser_batch));

CREATE FUNCTION @extschema@.poser_batch_create(
	target pg_catalog.regclass, description pg_catalog.text DEFAULT NULL,
	params pg_catalog.jsonb DEFAULT NULL)
RETURNS pg_catalog.varchar
LANGUAGE SQL VOLATILE
BEGIN ATOMIC
	INSERT INTO @extschema@.poser_batch (target, description, params)
	VALUES ($1, $2, $3)
	RETURNING uuid;
END;

COMMENT ON FUNCTION @extschema@.poser_batch_create(
	pg_catalog.regclass, pg_catalog.text, pg_catalog.jsonb) IS
'makes a batch for a table; returns its uuid';

CREATE FUNCTION @extschema@.poser_batch_populate(
	batch pg_catalog.varchar, source pg_catalog.regclass,
	key pg_catalog.text[] DEFAULT NULL, fields pg_catalog.text[] DEFAULT NULL,
	deletes pg_catalog.bool DEFAULT false)
RETURNS pg_catalog.int8
AS 'MODULE_PATHNAME', 'poser_batch_populate'
LANGUAGE C VOLATILE;

COMMENT ON FUNCTION @extschema@.poser_batch_populate(
	pg_catalog.varchar, pg_catalog.regclass, pg_catalog.text[], pg_catalog.text[], pg_catalog.bool) IS
'gives an empty batch a row for each of a source, compared with the target; returns how many';

CREATE FUNCTION @extschema@.poser_batch_refresh(batch pg_catalog.varchar)
RETURNS pg_catalog.int8
AS 'MODULE_PATHNAME', 'poser_batch_refresh'
LANGUAGE C VOLATILE;

COMMENT ON FUNCTION @extschema@.poser_batch_refresh(pg_catalog.varchar) IS
'compares a batch with its target again; returns how many rows have an error or a conflict';

CREATE FUNCTION @extschema@.poser_batch_execute(
	batch pg_catalog.varchar, skip_conflicts pg_catalog.bool DEFAULT false)
RETURNS TABLE (
	created pg_catalog.int8,
	updated pg_catalog.int8,
	deleted pg_catalog.int8,
	unchanged pg_catalog.int8,
	skipped pg_catalog.int8
)
AS 'MODULE_PATHNAME', 'poser_batch_execute'
LANGUAGE C VOLATILE ROWS 1;

COMMENT ON FUNCTION @extschema@.poser_batch_execute(pg_catalog.varchar, pg_catalog.bool) IS
'does what a batch says, once and all or nothing; with skip_conflicts, without the rows that others have changed';

CREATE FUNCTION @extschema@.poser_batch_purge(older_than pg_catalog.interval)
RETURNS pg_catalog.int8
AS 'MODULE_PATHNAME', 'poser_batch_purge'
LANGUAGE C VOLATILE
SET search_path = pg_catalog, pg_temp;

COMMENT ON FUNCTION @extschema@.poser_batch_purge(pg_catalog.interval) IS
'removes batches that were executed longer ago than this; returns how many';

-- Ownership and privileges, as in 1.2.

DO LANGUAGE plpgsql $do$
DECLARE
	owner pg_catalog.oid := (SELECT relowner
							   FROM pg_catalog.pg_class
							  WHERE oid OPERATOR(pg_catalog.=)
									'@extschema@.poser_component'::pg_catalog.regclass);
	object pg_catalog.text;
	acl pg_catalog.aclitem[];
	grantee pg_catalog.oid;
BEGIN
	FOR object, acl IN
		SELECT pg_catalog.concat('TABLE ', oid::pg_catalog.regclass), relacl
		  FROM pg_catalog.pg_class
		 WHERE oid OPERATOR(pg_catalog.=) ANY
			   (ARRAY['@extschema@.poser_batch'::pg_catalog.regclass,
					  '@extschema@.poser_batch_row'::pg_catalog.regclass]::pg_catalog.oid[])
		UNION ALL
		SELECT pg_catalog.concat('SEQUENCE ', oid::pg_catalog.regclass), relacl
		  FROM pg_catalog.pg_class
		 WHERE oid OPERATOR(pg_catalog.=) '@extschema@.poser_batch_id_seq'::pg_catalog.regclass
		UNION ALL
		SELECT pg_catalog.concat('FUNCTION ', oid::pg_catalog.regprocedure),
			   COALESCE(proacl, pg_catalog.acldefault('f', proowner))
		  FROM pg_catalog.pg_proc
		 WHERE oid OPERATOR(pg_catalog.=) ANY
			   (ARRAY['@extschema@.poser_batch_guard()'::pg_catalog.regprocedure,
					  '@extschema@.poser_batch_row_guard()'::pg_catalog.regprocedure]::pg_catalog.oid[])
	LOOP
		FOR grantee IN SELECT DISTINCT a.grantee FROM pg_catalog.aclexplode(acl) AS a
		LOOP
			EXECUTE pg_catalog.concat('REVOKE ALL ON ', object, ' FROM ',
									  CASE WHEN grantee OPERATOR(pg_catalog.=) 0 THEN 'PUBLIC'
										   ELSE grantee::pg_catalog.regrole::pg_catalog.text END);
		END LOOP;
		-- the sequence follows its table
		IF object OPERATOR(pg_catalog.~~) 'TABLE %' THEN
			EXECUTE pg_catalog.concat('ALTER ', object, ' OWNER TO ', owner::pg_catalog.regrole);
		END IF;
		EXECUTE pg_catalog.concat('GRANT ALL ON ', object, ' TO ', owner::pg_catalog.regrole);
	END LOOP;
END
$do$;

GRANT EXECUTE ON FUNCTION
	@extschema@.poser_import_diff(
		pg_catalog.regclass, pg_catalog.regclass, pg_catalog.text[], pg_catalog.text[], pg_catalog.bool),
	@extschema@.poser_import(
		pg_catalog.regclass, pg_catalog.regclass, pg_catalog.text[], pg_catalog.text[],
		pg_catalog.bool, pg_catalog.bool, pg_catalog.bool,
		pg_catalog.int8, pg_catalog.int8, pg_catalog.int8, pg_catalog.int8),
	@extschema@.poser_batch_create(pg_catalog.regclass, pg_catalog.text, pg_catalog.jsonb),
	@extschema@.poser_batch_populate(
		pg_catalog.varchar, pg_catalog.regclass, pg_catalog.text[], pg_catalog.text[], pg_catalog.bool),
	@extschema@.poser_batch_refresh(pg_catalog.varchar),
	@extschema@.poser_batch_execute(pg_catalog.varchar, pg_catalog.bool),
	@extschema@.poser_batch_purge(pg_catalog.interval)
	TO PUBLIC;

SELECT pg_catalog.pg_extension_config_dump('@extschema@.poser_batch', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.poser_batch_row', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.poser_batch_id_seq', '');
