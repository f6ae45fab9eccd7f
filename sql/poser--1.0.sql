\echo Use "CREATE EXTENSION poser" to load this file. \quit

-- The seed's two tables.  A trusted extension's script runs as a superuser,
-- so the tables are handed to the role that asked for them: it must be able to
-- grant on them, to enable row-level security and to dump them.

CREATE FUNCTION @extschema@.poser_uuid()
RETURNS pg_catalog.varchar
AS 'MODULE_PATHNAME', 'poser_uuid'
LANGUAGE C VOLATILE STRICT PARALLEL SAFE;

COMMENT ON FUNCTION @extschema@.poser_uuid() IS
'a new key: 32 lower-case hexadecimal digits of a version 7 UUID, increasing within a session';

CREATE TABLE @extschema@.poser_widget (
	uuid pg_catalog.varchar(32) NOT NULL DEFAULT @extschema@.poser_uuid(),
	description pg_catalog.varchar(255) NOT NULL,
	active pg_catalog.bool NOT NULL DEFAULT true,
	CONSTRAINT poser_widget_pkey PRIMARY KEY (uuid)
);

ALTER TABLE @extschema@.poser_widget OWNER TO @extowner@;

COMMENT ON TABLE @extschema@.poser_widget IS 'widgets';
COMMENT ON COLUMN @extschema@.poser_widget.uuid IS 'key, up to 32 characters';
COMMENT ON COLUMN @extschema@.poser_widget.description IS 'what the widget is';
COMMENT ON COLUMN @extschema@.poser_widget.active IS 'whether the widget is currently in use';

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

COMMENT ON TABLE @extschema@.poser_component IS 'components, each of one widget';
COMMENT ON COLUMN @extschema@.poser_component.uuid IS 'key, up to 32 characters';
COMMENT ON COLUMN @extschema@.poser_component.widget_uuid IS 'the widget that the component belongs to';
COMMENT ON COLUMN @extschema@.poser_component.item_code IS 'item code, text so that leading zeros stay';
COMMENT ON COLUMN @extschema@.poser_component.description IS 'what the component is';
COMMENT ON COLUMN @extschema@.poser_component.active IS 'whether the component is currently in use';

SELECT pg_catalog.pg_extension_config_dump('@extschema@.poser_widget', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.poser_component', '');
