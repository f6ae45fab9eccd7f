-- Version 1.0: widgets, components, and keys for them.

\set VERBOSITY sqlstate
CREATE EXTENSION poser VERSION '1.0';

-- The members of the extension.
SELECT relname, relkind
  FROM pg_class
       JOIN pg_depend ON classid = 'pg_class'::regclass AND objid = pg_class.oid
 WHERE deptype = 'e'
   AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'poser')
 ORDER BY relname;
SELECT objid::regprocedure AS function
  FROM pg_depend
 WHERE classid = 'pg_proc'::regclass AND deptype = 'e'
   AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'poser')
 ORDER BY 1;

-- The columns are those of the model, in the same order.
SELECT attname, format_type(atttypid, atttypmod), attnotnull,
       pg_get_expr(adbin, adrelid) AS "default"
  FROM pg_attribute
       LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
 WHERE attrelid = 'poser_widget'::regclass AND attnum > 0
 ORDER BY attnum;
SELECT attname, format_type(atttypid, atttypmod), attnotnull,
       pg_get_expr(adbin, adrelid) AS "default"
  FROM pg_attribute
       LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
 WHERE attrelid = 'poser_component'::regclass AND attnum > 0
 ORDER BY attnum;
SELECT conname, pg_get_constraintdef(oid)
  FROM pg_constraint
 WHERE conrelid IN ('poser_widget'::regclass, 'poser_component'::regclass)
   AND contype IN ('p', 'f', 'u', 'c')
 ORDER BY conname;

-- A widget needs only a description.
INSERT INTO poser_widget (description) VALUES ('needs nothing else');
SELECT description, active, length(uuid) FROM poser_widget;
INSERT INTO poser_component (widget_uuid, item_code, description)
SELECT uuid, '00042', 'has leading zeros' FROM poser_widget;
SELECT item_code, component.description, component.active, length(component.uuid)
  FROM poser_component AS component JOIN poser_widget AS widget ON widget.uuid = widget_uuid;

-- Keys made elsewhere are valid: hex digits of Python's versions 1 and 4, any other
-- text of up to 32 characters, also the empty one.
INSERT INTO poser_widget (uuid, description, active) VALUES
	('21fd0d9ecb0d11eeb0a3a7f3cde0fe1c', 'version 1', true),
	('A2E1F3B0C4D54E6F8A7B9C0D1E2F3A4B', 'version 4, upper case', false),
	('widget ''1''', 'any text', true),
	('', 'empty', true);
INSERT INTO poser_component (uuid, widget_uuid, item_code, description, active)
SELECT uuid, uuid, '', '', active FROM poser_widget;
SELECT widget.description, component.active
  FROM poser_component AS component JOIN poser_widget AS widget ON widget.uuid = component.uuid
 ORDER BY widget.description COLLATE "C";

-- Lengths are limited; trailing spaces do not count.
INSERT INTO poser_widget (uuid, description) VALUES (repeat('x', 33), 'too long a key');
INSERT INTO poser_widget (description) VALUES (repeat('x', 256));
INSERT INTO poser_widget (description) VALUES (repeat('x', 255));
INSERT INTO poser_widget (uuid, description) VALUES (rpad('x', 33), 'a space too many');
SELECT length(uuid) FROM poser_widget WHERE description = 'a space too many';
INSERT INTO poser_component (widget_uuid, item_code, description)
VALUES ('', repeat('x', 21), 'too long an item code');

-- No column may be NULL, a key is unique, and a component needs its widget.
INSERT INTO poser_widget (uuid, description) VALUES (NULL, '');
INSERT INTO poser_widget (description) VALUES (NULL);
INSERT INTO poser_widget (description, active) VALUES ('', NULL);
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES (NULL, '', '');
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('', NULL, '');
INSERT INTO poser_widget (uuid, description) VALUES ('', 'empty once more');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('', '', '', '');
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('no such widget', '', '');
UPDATE poser_component SET widget_uuid = 'no such widget';
DELETE FROM poser_widget WHERE uuid = '';
UPDATE poser_widget SET uuid = 'elsewhere' WHERE uuid = '';
DELETE FROM poser_component WHERE widget_uuid = '';
DELETE FROM poser_widget WHERE uuid = '';

DROP EXTENSION poser;
SELECT to_regclass('poser_widget'), to_regclass('poser_component'), to_regproc('poser_uuid');
