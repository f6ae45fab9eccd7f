\echo Use "CREATE EXTENSION poser" to load this file. \quit

-- The seed's two tables.  A trusted extension's script runs as a superuser,
-- so the tables are handed to the role that asked for them: it must be able to
-- grant on them, to enable row-level security and to dump them.  They have no
-- comments, since the model has none and Alembic would find a difference.

CREATE FUNCTION @extschema@.poser_uuid()
RETURNS pg_catalog.varchar
AS 'MODULE_PATHNAME', 'poser_uuid'
LANGUAGE C VOLATILE STRICT PARALLEL SAFE;

COMMENT ON FUNCTION @extschema@.poser_uuid() IS
'a new key: 32 lower-case hexadecimal digits of a version 7 UUID, increasing within a session';

-- whatever default privileges say: it is in a default
GRANT EXECUTE ON FUNCTION @extschema@.poser_uuid() TO PUBLIC;

CREATE TABLE @extschema@.poser_widget (
	uuid pg_catalog.varchar(32) NOT NULL DEFAULT @extschema@.poser_uuid(),
	description pg_catalog.varchar(255) NOT NULL,
	active pg_catalog.bool NOT NULL DEFAULT true,
	CONSTRAINT poser_widget_pkey PRIMARY KEY (uuid)
);

ALTER TABLE @extschema@.poser_widget OWNER TO @extowner@;

CREATE TABLE @extschema@.poser_component (
	uuid pg_catalog.varchar(32) NOT NULL DEFAULT @extschema@.poser_uuid(),
	widget_uuid pg_catalog.varchar(32) NOT NULL,
	item_code pg_catalog.varchar(20) NOT NULL,
	description pg_catalog.varchar(255) NOT NULL,
	active pg_catalog.bool NOT NULL DEFAULT true,
	CONSTRAINT poser_component_pkey PRIMARY KEY (uuid),
	CONSTRAINT poser_component_fk_widget FOREIGN KEY (widget_uuid)
		REFERENCES @extschema@.poser_widget (uuid)
);

ALTER TABLE @extschema@.poser_component OWNER TO @extowner@;

SELECT pg_catalog.pg_extension_config_dump('@extschema@.poser_widget', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.poser_component', '');
