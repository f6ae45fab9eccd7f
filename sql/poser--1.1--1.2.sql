\echo Use "ALTER EXTENSION poser UPDATE TO '1.2'" to load this file. \quit

-- Versions: who changed what, when and why.  The tables are locked from here
-- on, so that no change is missed between the first versions and the triggers.

LOCK TABLE @extschema@.poser_widget, @extschema@.poser_component IN SHARE ROW EXCLUSIVE MODE;

-- One sequence for transactions and changes: their ids are one order.

CREATE SEQUENCE @extschema@.poser_change_id_seq;

COMMENT ON SEQUENCE @extschema@.poser_change_id_seq IS
'ids of transactions and changes, in one order';

-- Transactions

CREATE TABLE @extschema@.poser_transaction (
	id pg_catalog.int8 NOT NULL,
	issued_at pg_catalog.timestamptz NOT NULL,
	username pg_catalog.text NOT NULL,
	role_name pg_catalog.name NOT NULL,
	remote_addr pg_catalog.inet,
	application_name pg_catalog.text,
	comment pg_catalog.text,
	xact pg_catalog.xid8 NOT NULL,
	CONSTRAINT poser_transaction_pkey PRIMARY KEY (id)
);

CREATE INDEX poser_transaction_idx_issued_at
	ON @extschema@.poser_transaction (issued_at, id);

COMMENT ON TABLE @extschema@.poser_transaction IS
'transactions that have changed a table with history, and in whose name';
COMMENT ON COLUMN @extschema@.poser_transaction.id IS 'key, less than the change_id of its changes';
COMMENT ON COLUMN @extschema@.poser_transaction.issued_at IS 'when it first changed something';
COMMENT ON COLUMN @extschema@.poser_transaction.username IS
'in whose name: the setting poser.runas, or else the session''s user';
COMMENT ON COLUMN @extschema@.poser_transaction.role_name IS
'the role that did it: that of SET ROLE, or else the session''s user';
COMMENT ON COLUMN @extschema@.poser_transaction.remote_addr IS
'address of the client; null for a local one';
COMMENT ON COLUMN @extschema@.poser_transaction.application_name IS 'the client''s application_name';
COMMENT ON COLUMN @extschema@.poser_transaction.comment IS 'why: the setting poser.comment';
COMMENT ON COLUMN @extschema@.poser_transaction.xact IS
'the transaction in this cluster; of a row that was restored or replicated, the one that brought it';

CREATE FUNCTION @extschema@.poser_transaction_arrive()
RETURNS pg_catalog.trigger
AS 'MODULE_PATHNAME', 'poser_transaction_arrive'
LANGUAGE C;

COMMENT ON FUNCTION @extschema@.poser_transaction_arrive() IS
'sets xact of a transaction that is restored or replicated';

CREATE TRIGGER poser_transaction_arrive
	BEFORE INSERT ON @extschema@.poser_transaction
	FOR EACH ROW EXECUTE FUNCTION @extschema@.poser_transaction_arrive();

ALTER TABLE @extschema@.poser_transaction ENABLE ALWAYS TRIGGER poser_transaction_arrive;

-- Versions.  Their columns allow null, for a column may be dropped from the
-- table; and the bookkeeping's come last, the smallest first, to fill the space
-- that the boolean leaves.

CREATE TABLE @extschema@.poser_widget_version (
	uuid pg_catalog.varchar(32),
	description pg_catalog.varchar(255),
	active pg_catalog.bool,
	operation_type pg_catalog.int2 NOT NULL,
	transaction_id pg_catalog.int8 NOT NULL,
	change_id pg_catalog.int8 NOT NULL
);

CREATE TABLE @extschema@.poser_component_version (
	uuid pg_catalog.varchar(32),
	widget_uuid pg_catalog.varchar(32),
	item_code pg_catalog.varchar(20),
	description pg_catalog.varchar(255),
	active pg_catalog.bool,
	operation_type pg_catalog.int2 NOT NULL,
	transaction_id pg_catalog.int8 NOT NULL,
	change_id pg_catalog.int8 NOT NULL
);

COMMENT ON TABLE @extschema@.poser_widget_version IS
'versions of widgets, one for each change; only ever added to';
COMMENT ON COLUMN @extschema@.poser_widget_version.uuid IS 'the widget';
COMMENT ON COLUMN @extschema@.poser_widget_version.description IS 'what the widget was';
COMMENT ON COLUMN @extschema@.poser_widget_version.active IS 'whether it was in use';
COMMENT ON COLUMN @extschema@.poser_widget_version.operation_type IS
'0: inserted; 1: updated; 2: deleted, the values are the last ones';
COMMENT ON COLUMN @extschema@.poser_widget_version.transaction_id IS 'who, when and why: poser_transaction.id';
COMMENT ON COLUMN @extschema@.poser_widget_version.change_id IS 'key: the order of all changes';

COMMENT ON TABLE @extschema@.poser_component_version IS
'versions of components, one for each change; only ever added to';
COMMENT ON COLUMN @extschema@.poser_component_version.uuid IS 'the component';
COMMENT ON COLUMN @extschema@.poser_component_version.widget_uuid IS 'the widget that it was of';
COMMENT ON COLUMN @extschema@.poser_component_version.item_code IS 'its item code';
COMMENT ON COLUMN @extschema@.poser_component_version.description IS 'what the component was';
COMMENT ON COLUMN @extschema@.poser_component_version.active IS 'whether it was in use';
COMMENT ON COLUMN @extschema@.poser_component_version.operation_type IS
'0: inserted; 1: updated; 2: deleted, the values are the last ones';
COMMENT ON COLUMN @extschema@.poser_component_version.transaction_id IS 'who, when and why: poser_transaction.id';
COMMENT ON COLUMN @extschema@.poser_component_version.change_id IS 'key: the order of all changes';

CREATE TABLE @extschema@.poser_version_horizon (
	transaction_id pg_catalog.int8 NOT NULL,
	change_id pg_catalog.int8 NOT NULL,
	CONSTRAINT poser_version_horizon_pkey PRIMARY KEY (transaction_id)
);

COMMENT ON TABLE @extschema@.poser_version_horizon IS
'up to where versions have been pruned; no row if none have';
COMMENT ON COLUMN @extschema@.poser_version_horizon.transaction_id IS
'states after older transactions are no longer known';
COMMENT ON COLUMN @extschema@.poser_version_horizon.change_id IS
'states after earlier changes are no longer known';

CREATE FUNCTION @extschema@.poser_version()
RETURNS pg_catalog.trigger
AS 'MODULE_PATHNAME', 'poser_version'
LANGUAGE C;

COMMENT ON FUNCTION @extschema@.poser_version() IS
'records the versions of a table''s rows; arguments: table of versions, columns of the key';

CREATE TRIGGER poser_version_before
	BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON @extschema@.poser_widget
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.poser_version('poser_widget_version', 'uuid');
CREATE TRIGGER poser_version_insert
	AFTER INSERT ON @extschema@.poser_widget
	REFERENCING NEW TABLE AS new_rows
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.poser_version('poser_widget_version', 'uuid');
CREATE TRIGGER poser_version_update
	AFTER UPDATE ON @extschema@.poser_widget
	REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.poser_version('poser_widget_version', 'uuid');
CREATE TRIGGER poser_version_delete
	AFTER DELETE ON @extschema@.poser_widget
	REFERENCING OLD TABLE AS old_rows
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.poser_version('poser_widget_version', 'uuid');
CREATE TRIGGER poser_version_truncate
	AFTER TRUNCATE ON @extschema@.poser_widget
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.poser_version('poser_widget_version', 'uuid');

CREATE TRIGGER poser_version_before
	BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON @extschema@.poser_component
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.poser_version('poser_component_version', 'uuid');
CREATE TRIGGER poser_version_insert
	AFTER INSERT ON @extschema@.poser_component
	REFERENCING NEW TABLE AS new_rows
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.poser_version('poser_component_version', 'uuid');
CREATE TRIGGER poser_version_update
	AFTER UPDATE ON @extschema@.poser_component
	REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.poser_version('poser_component_version', 'uuid');
CREATE TRIGGER poser_version_delete
	AFTER DELETE ON @extschema@.poser_component
	REFERENCING OLD TABLE AS old_rows
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.poser_version('poser_component_version', 'uuid');
CREATE TRIGGER poser_version_truncate
	AFTER TRUNCATE ON @extschema@.poser_component
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.poser_version('poser_component_version', 'uuid');

-- Reading

CREATE FUNCTION @extschema@.poser_widget_history(
	uuid pg_catalog.varchar)
RETURNS TABLE (
	transaction_id pg_catalog.int8,
	issued_at pg_catalog.timestamptz,
	username pg_catalog.text,
	role_name pg_catalog.name,
	comment pg_catalog.text,
	operation pg_catalog.text,
	changed pg_catalog.text[],
	uuid pg_catalog.varchar,
	description pg_catalog.varchar,
	active pg_catalog.bool
)
AS 'MODULE_PATHNAME', 'poser_widget_history'
LANGUAGE C STABLE STRICT PARALLEL RESTRICTED ROWS 10;

COMMENT ON FUNCTION @extschema@.poser_widget_history(pg_catalog.varchar) IS
'the versions of a widget, newest first: who, when, why, what was changed, and the row';

CREATE FUNCTION @extschema@.poser_widget_history(
	uuid pg_catalog.varchar, with_components pg_catalog.bool)
RETURNS TABLE (
	transaction_id pg_catalog.int8,
	issued_at pg_catalog.timestamptz,
	username pg_catalog.text,
	role_name pg_catalog.name,
	comment pg_catalog.text,
	operation pg_catalog.text,
	changed pg_catalog.text[],
	uuid pg_catalog.varchar,
	description pg_catalog.varchar,
	active pg_catalog.bool,
	relation pg_catalog.name,
	widget_uuid pg_catalog.varchar,
	item_code pg_catalog.varchar
)
AS 'MODULE_PATHNAME', 'poser_widget_history'
LANGUAGE C STABLE STRICT PARALLEL RESTRICTED ROWS 10;

COMMENT ON FUNCTION @extschema@.poser_widget_history(pg_catalog.varchar, pg_catalog.bool) IS
'the versions of a widget and, with_components, of its components, newest first; relation tells which';

CREATE FUNCTION @extschema@.poser_component_history(
	uuid pg_catalog.varchar)
RETURNS TABLE (
	transaction_id pg_catalog.int8,
	issued_at pg_catalog.timestamptz,
	username pg_catalog.text,
	role_name pg_catalog.name,
	comment pg_catalog.text,
	operation pg_catalog.text,
	changed pg_catalog.text[],
	uuid pg_catalog.varchar,
	widget_uuid pg_catalog.varchar,
	item_code pg_catalog.varchar,
	description pg_catalog.varchar,
	active pg_catalog.bool
)
AS 'MODULE_PATHNAME', 'poser_component_history'
LANGUAGE C STABLE STRICT PARALLEL RESTRICTED ROWS 10;

COMMENT ON FUNCTION @extschema@.poser_component_history(pg_catalog.varchar) IS
'the versions of a component, newest first: who, when, why, what was changed, and the row';

CREATE FUNCTION @extschema@.poser_widget_as_of(at pg_catalog.timestamptz)
RETURNS SETOF @extschema@.poser_widget
AS 'MODULE_PATHNAME', 'poser_widget_as_of'
LANGUAGE C STABLE STRICT PARALLEL RESTRICTED;

COMMENT ON FUNCTION @extschema@.poser_widget_as_of(pg_catalog.timestamptz) IS
'all widgets as they were at a time';

CREATE FUNCTION @extschema@.poser_component_as_of(at pg_catalog.timestamptz)
RETURNS SETOF @extschema@.poser_component
AS 'MODULE_PATHNAME', 'poser_component_as_of'
LANGUAGE C STABLE STRICT PARALLEL RESTRICTED;

COMMENT ON FUNCTION @extschema@.poser_component_as_of(pg_catalog.timestamptz) IS
'all components as they were at a time';

-- Going back, pruning, mending

CREATE FUNCTION @extschema@.poser_widget_revert(
	uuid pg_catalog.varchar, transaction_id pg_catalog.int8,
	with_components pg_catalog.bool DEFAULT false)
RETURNS pg_catalog.int8
AS 'MODULE_PATHNAME', 'poser_widget_revert'
LANGUAGE C VOLATILE;

COMMENT ON FUNCTION @extschema@.poser_widget_revert(pg_catalog.varchar, pg_catalog.int8, pg_catalog.bool) IS
'makes a widget, and with_components its components, what they were after a transaction; returns how many rows were changed';

CREATE FUNCTION @extschema@.poser_prune_versions(
	older_than pg_catalog.interval, max_versions pg_catalog.int8 DEFAULT NULL)
RETURNS pg_catalog.int8
AS 'MODULE_PATHNAME', 'poser_prune_versions'
LANGUAGE C VOLATILE
SET search_path = pg_catalog, pg_temp;

COMMENT ON FUNCTION @extschema@.poser_prune_versions(pg_catalog.interval, pg_catalog.int8) IS
'removes versions that others have followed longer ago than this, at most max_versions; returns how many';

CREATE FUNCTION @extschema@.poser_record_versions()
RETURNS pg_catalog.int8
AS 'MODULE_PATHNAME', 'poser_record_versions'
LANGUAGE C VOLATILE
SET search_path = pg_catalog, pg_temp;

COMMENT ON FUNCTION @extschema@.poser_record_versions() IS
'records what has bypassed the triggers, or was there before them; returns how many versions';

-- Ownership and privileges, as in 1.1: what is new belongs to the owner of the
-- tables, whoever runs the update, and default privileges neither open history
-- nor close what needs no privilege.

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
		SELECT pg_catalog.concat(CASE relkind WHEN 'S' THEN 'SEQUENCE ' ELSE 'TABLE ' END,
								 oid::pg_catalog.regclass), relacl
		  FROM pg_catalog.pg_class
		 WHERE oid OPERATOR(pg_catalog.=) ANY
			   (ARRAY['@extschema@.poser_change_id_seq'::pg_catalog.regclass,
					  '@extschema@.poser_transaction'::pg_catalog.regclass,
					  '@extschema@.poser_widget_version'::pg_catalog.regclass,
					  '@extschema@.poser_component_version'::pg_catalog.regclass,
					  '@extschema@.poser_version_horizon'::pg_catalog.regclass]::pg_catalog.oid[])
		UNION ALL
		SELECT pg_catalog.concat('FUNCTION ', oid::pg_catalog.regprocedure),
			   COALESCE(proacl, pg_catalog.acldefault('f', proowner))
		  FROM pg_catalog.pg_proc
		 WHERE oid OPERATOR(pg_catalog.=) ANY
			   (ARRAY['@extschema@.poser_version()'::pg_catalog.regprocedure,
					  '@extschema@.poser_transaction_arrive()'::pg_catalog.regprocedure]::pg_catalog.oid[])
	LOOP
		FOR grantee IN SELECT DISTINCT a.grantee FROM pg_catalog.aclexplode(acl) AS a
		LOOP
			EXECUTE pg_catalog.concat('REVOKE ALL ON ', object, ' FROM ',
									  CASE WHEN grantee OPERATOR(pg_catalog.=) 0 THEN 'PUBLIC'
										   ELSE grantee::pg_catalog.regrole::pg_catalog.text END);
		END LOOP;
		IF object OPERATOR(pg_catalog.~~) 'FUNCTION %' THEN
			EXECUTE pg_catalog.concat('GRANT ALL ON ', object, ' TO ', owner::pg_catalog.regrole);
		ELSE
			EXECUTE pg_catalog.concat('ALTER ', object, ' OWNER TO ', owner::pg_catalog.regrole);
			EXECUTE pg_catalog.concat('GRANT ALL ON ', object, ' TO ', owner::pg_catalog.regrole);
		END IF;
	END LOOP;
END
$do$;

GRANT EXECUTE ON FUNCTION
	@extschema@.poser_widget_history(pg_catalog.varchar),
	@extschema@.poser_widget_history(pg_catalog.varchar, pg_catalog.bool),
	@extschema@.poser_component_history(pg_catalog.varchar),
	@extschema@.poser_widget_as_of(pg_catalog.timestamptz),
	@extschema@.poser_component_as_of(pg_catalog.timestamptz),
	@extschema@.poser_widget_revert(pg_catalog.varchar, pg_catalog.int8, pg_catalog.bool),
	@extschema@.poser_prune_versions(pg_catalog.interval, pg_catalog.int8),
	@extschema@.poser_record_versions()
	TO PUBLIC;

-- The first versions of what is there already; the indexes come after them.
SELECT @extschema@.poser_record_versions();

ALTER TABLE @extschema@.poser_widget_version
	ADD CONSTRAINT poser_widget_version_pkey PRIMARY KEY (change_id);
CREATE INDEX poser_widget_version_idx_key
	ON @extschema@.poser_widget_version (uuid, change_id);
ALTER TABLE @extschema@.poser_component_version
	ADD CONSTRAINT poser_component_version_pkey PRIMARY KEY (change_id);
CREATE INDEX poser_component_version_idx_key
	ON @extschema@.poser_component_version (uuid, change_id);
CREATE INDEX poser_component_version_idx_widget
	ON @extschema@.poser_component_version (widget_uuid);

SELECT pg_catalog.pg_extension_config_dump('@extschema@.poser_transaction', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.poser_widget_version', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.poser_component_version', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.poser_version_horizon', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.poser_change_id_seq', '');
