-- poser_alter_type(): a column that poser_widget_summary shows gets another type, and the
-- view's column as well.  All else that belongs to the view stays.
SET client_min_messages = warning;
CREATE EXTENSION poser;
CREATE ROLE regress_alter_type;
GRANT SELECT ON poser_widget, poser_component, poser_widget_summary TO regress_alter_type;
COMMENT ON COLUMN poser_widget_summary.description IS 'what we sell';
INSERT INTO poser_widget (uuid, description) VALUES ('lamp', 'Desk lamp');
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('lamp', '1', 'Foot');
PREPARE summary AS SELECT uuid, length(description), component_count FROM poser_widget_summary;
EXECUTE summary;
SELECT uuid, length(description) FROM poser_widget_get('lamp');
SELECT 'poser_widget_summary'::regclass::oid AS view, pg_get_viewdef('poser_widget_summary'::regclass) AS query \gset
-- (the detail differs between major versions)
\set VERBOSITY terse
ALTER TABLE poser_widget ALTER COLUMN description TYPE varchar(400);
\set VERBOSITY default

BEGIN;
SELECT poser_alter_type('poser_widget', 'description', 'varchar(400)');
ALTER TABLE poser_widget_version ALTER COLUMN description TYPE varchar(400);
COMMIT;
UPDATE poser_widget SET description = repeat('long ', 80);
EXECUTE summary;
SELECT uuid, length(description) FROM poser_widget_get('lamp');
SELECT uuid, length(description) FROM poser_widget_list();
SELECT uuid, length(description) FROM poser_widget_history('lamp');
SELECT uuid, length(description) FROM poser_widget_as_of('infinity');
SELECT poser_widget_revert('lamp', min(transaction_id)) FROM poser_widget_history('lamp');
SELECT description FROM poser_widget_summary;
SELECT poser_widget_revert('lamp', max(transaction_id)) FROM poser_widget_history('lamp') WHERE length(description) = 400;
SELECT length(description) FROM poser_widget_summary;

-- the view is the same, but for the type
SELECT 'poser_widget_summary'::regclass::oid = :view AND pg_get_viewdef('poser_widget_summary'::regclass) = :'query' AS is_same;
SELECT attname, format_type(atttypid, atttypmod), col_description(attrelid, attnum)
  FROM pg_attribute WHERE attrelid = 'poser_widget_summary'::regclass ORDER BY attnum;
SELECT reloptions, relacl::text ~ 'regress_alter_type=r/' AS has_grant FROM pg_class WHERE oid = 'poser_widget_summary'::regclass;
SELECT * FROM poser_check();
SELECT * FROM poser_local_changes();

-- further types, and back; a shorter one is reported
SELECT poser_alter_type('poser_widget', 'description', 'text');
ALTER TABLE poser_widget_version ALTER COLUMN description TYPE text;
EXECUTE summary;
SELECT uuid, length(description) FROM poser_widget_list('long');
SELECT * FROM poser_check();
UPDATE poser_widget SET description = 'Desk lamp';
SELECT poser_alter_type('poser_widget', 'description', 'character varying(30)');
SELECT * FROM poser_check();
SELECT poser_alter_type('poser_widget', 'description', 'varchar(255)');
SELECT * FROM poser_check();

-- with a collation
SELECT poser_alter_type('poser_widget', 'description', 'varchar(255) COLLATE "C"');
SELECT attrelid::regclass, attcollation::regcollation FROM pg_attribute
 WHERE attrelid IN ('poser_widget'::regclass, 'poser_widget_summary'::regclass) AND attname = 'description';
SELECT * FROM poser_local_changes();
SELECT poser_alter_type('poser_widget', 'description', 'varchar(255)');

-- a column that no view shows
SELECT poser_alter_type('poser_component', 'item_code', 'varchar(30)');
ALTER TABLE poser_component_version ALTER COLUMN item_code TYPE varchar(30);

-- in a transaction that is rolled back nothing changes
BEGIN;
SELECT poser_alter_type('poser_widget', 'description', 'varchar(300)');
ROLLBACK;
SELECT format_type(atttypid, atttypmod) FROM pg_attribute
 WHERE attrelid IN ('poser_widget'::regclass, 'poser_widget_summary'::regclass) AND attname = 'description';

-- other users of the columns
CREATE VIEW of_table AS SELECT description FROM poser_widget;
\set VERBOSITY terse
SELECT poser_alter_type('poser_widget', 'description', 'varchar(500)');
\set VERBOSITY default
DROP VIEW of_table;
CREATE VIEW of_view AS SELECT description FROM poser_widget_summary;
SELECT poser_alter_type('poser_widget', 'description', 'varchar(500)');
DROP VIEW of_view;
CREATE TABLE of_rows (summary poser_widget_summary);
SELECT poser_alter_type('poser_widget', 'description', 'varchar(500)');
DROP TABLE of_rows;
-- other columns of the view may be used
CREATE VIEW of_counts AS SELECT uuid, component_count FROM poser_widget_summary;
SELECT poser_alter_type('poser_widget', 'description', 'varchar(500)');
DROP VIEW of_counts;

-- errors
\set VERBOSITY terse
SELECT poser_alter_type('poser_widget', 'colour', 'text');
\set VERBOSITY sqlstate
SELECT poser_alter_type('poser_widget', 'description', 'no_such_type');
\set VERBOSITY terse
SELECT poser_alter_type('poser_widget', 'description', 'varchar(3)');
SELECT poser_alter_type('poser_widget', 'description', 'date');
SELECT poser_alter_type('poser_widget', 'description', 'text, DROP COLUMN active');
SELECT poser_alter_type('poser_widget', 'description', 'text; DROP TABLE poser_component');
SELECT poser_alter_type('poser_widget', 'description', 'text USING uuid');
SELECT poser_alter_type('poser_widget', 'description', '');
SELECT poser_alter_type('poser_widget', 'ctid', 'text');
SELECT poser_alter_type('poser_widget', 'uuid', 'text');
SELECT poser_alter_type('poser_component', 'active', 'text');
SELECT poser_alter_type('poser_widget_summary', 'description', 'text');
SELECT poser_alter_type(0, 'description', 'text');
SET ROLE regress_alter_type;
SELECT poser_alter_type('poser_widget', 'description', 'text');
RESET ROLE;
-- the owner of the table alone cannot change the view
ALTER TABLE poser_widget OWNER TO regress_alter_type;
SET ROLE regress_alter_type;
SELECT poser_alter_type('poser_widget', 'description', 'text');
RESET ROLE;
SELECT object FROM poser_check();

DROP EXTENSION poser;
DROP OWNED BY regress_alter_type;
DROP ROLE regress_alter_type;
