-- Component counts with another foreign key than the extension's: one that cascades,
-- is deferred, sets NULL, or is gone.

\set VERBOSITY sqlstate
CREATE EXTENSION poser;

-- Views count_differences and shown.
\getenv test PG_ABS_SRCDIR
\set file :test '/include/counts.sql'
\i :file

-- Maintained counts for widgets that do not exist.
CREATE VIEW kept_without_widget AS
SELECT widget_uuid, sum(total) AS total, sum(active) AS active
  FROM (TABLE poser_component_count UNION ALL TABLE poser_component_count_delta) AS kept
 WHERE NOT EXISTS (SELECT FROM poser_widget WHERE uuid = widget_uuid)
 GROUP BY widget_uuid;

CREATE PROCEDURE start_again() LANGUAGE sql AS $$
	DELETE FROM poser_component;
	DELETE FROM poser_widget;
	INSERT INTO poser_widget (uuid, description) SELECT 'w' || i, '' FROM generate_series(1, 3) AS i;
	INSERT INTO poser_component (uuid, widget_uuid, item_code, description, active) VALUES
		('c1', 'w1', '', '', true), ('c2', 'w1', '', '', false), ('c3', 'w2', '', '', true);
$$;

--
-- ON DELETE CASCADE ON UPDATE CASCADE
--
ALTER TABLE poser_component DROP CONSTRAINT poser_component_fk_widget,
	ADD CONSTRAINT poser_component_fk_widget FOREIGN KEY (widget_uuid)
	REFERENCES poser_widget (uuid) ON DELETE CASCADE ON UPDATE CASCADE;
CALL start_again();
UPDATE poser_widget SET uuid = 'w4' WHERE uuid = 'w1';
TABLE shown;
TABLE count_differences;
UPDATE poser_widget SET uuid = uuid || 'x';
TABLE shown;
TABLE count_differences;
DELETE FROM poser_widget WHERE uuid = 'w4x';
TABLE shown;
TABLE count_differences;
DELETE FROM poser_widget;
TABLE shown;
SELECT count(*) FROM poser_component;
TABLE count_differences;
TABLE kept_without_widget;

-- in one transaction, read after each step, and undone
CALL start_again();
BEGIN;
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w1', '', ''), ('w3', '', '');
UPDATE poser_widget SET uuid = 'w5' WHERE uuid = 'w1';
TABLE count_differences;
SAVEPOINT a;
DELETE FROM poser_widget WHERE uuid = 'w5';
TABLE shown;
TABLE count_differences;
INSERT INTO poser_widget (uuid, description) VALUES ('w5', '');
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w5', '', '');
TABLE shown;
TABLE count_differences;
ROLLBACK TO a;
TABLE shown;
COMMIT;
TABLE shown;
TABLE count_differences;

-- triggers read the right counts at each step of the cascade
CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF EXISTS (SELECT
	             FROM shown
	                  LEFT JOIN LATERAL (SELECT count(*) AS total, count(*) FILTER (WHERE active) AS active
	                                       FROM poser_component
	                                      WHERE widget_uuid = shown.uuid) AS counted ON true
	            WHERE (shown.total, shown.active) <> (counted.total, counted.active))
	THEN
		RAISE EXCEPTION 'counts differ: % % %', TG_WHEN, TG_OP, TG_LEVEL;
	END IF;
	RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
END
$$;
CREATE TRIGGER a_before BEFORE INSERT OR UPDATE OR DELETE ON poser_component FOR EACH ROW EXECUTE FUNCTION look();
CREATE TRIGGER a_after AFTER INSERT OR UPDATE OR DELETE ON poser_component FOR EACH ROW EXECUTE FUNCTION look();
CREATE TRIGGER z_after AFTER INSERT OR UPDATE OR DELETE ON poser_component FOR EACH STATEMENT EXECUTE FUNCTION look();
CREATE TRIGGER a_before BEFORE INSERT OR UPDATE OR DELETE ON poser_widget FOR EACH ROW EXECUTE FUNCTION look();
CREATE TRIGGER a_after AFTER INSERT OR UPDATE OR DELETE ON poser_widget FOR EACH ROW EXECUTE FUNCTION look();
CREATE TRIGGER z_after AFTER INSERT OR UPDATE OR DELETE ON poser_widget FOR EACH STATEMENT EXECUTE FUNCTION look();
UPDATE poser_widget SET uuid = uuid || '0';
TABLE shown;
DELETE FROM poser_widget WHERE uuid <> 'w20';
TABLE shown;
MERGE INTO poser_widget AS target
USING (VALUES ('w20', 'w21'), ('w30', 'w31')) AS source (uuid, other) ON target.uuid = source.uuid
WHEN MATCHED THEN UPDATE SET uuid = other
WHEN NOT MATCHED THEN INSERT (uuid, description) VALUES (other, '');
TABLE shown;
TABLE count_differences;
SET client_min_messages = warning;
DROP FUNCTION look CASCADE;
RESET client_min_messages;

-- a row trigger keeps components from the cascade: they stay and are counted
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	RETURN NULL;
END
$$;
CALL start_again();
CREATE TRIGGER keep BEFORE DELETE ON poser_component
	FOR EACH ROW WHEN (OLD.uuid = 'c1') EXECUTE FUNCTION keep();
DELETE FROM poser_widget WHERE uuid = 'w1';
SELECT uuid, widget_uuid FROM poser_component ORDER BY uuid;
TABLE kept_without_widget;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', '');
TABLE shown;
DROP TRIGGER keep ON poser_component;
DROP FUNCTION keep;
UPDATE poser_component SET active = active;
DELETE FROM poser_component;
TABLE shown;
TABLE count_differences;

--
-- ON DELETE SET NULL: some components have no widget
--
ALTER TABLE poser_component ALTER widget_uuid DROP NOT NULL,
	DROP CONSTRAINT poser_component_fk_widget,
	ADD CONSTRAINT poser_component_fk_widget FOREIGN KEY (widget_uuid)
	REFERENCES poser_widget (uuid) ON DELETE SET NULL ON UPDATE SET NULL;
CALL start_again();
DELETE FROM poser_widget WHERE uuid = 'w1';
UPDATE poser_widget SET uuid = 'w4' WHERE uuid = 'w2';
INSERT INTO poser_component (widget_uuid, item_code, description)
VALUES (NULL, '', ''), ('w3', '', ''), (NULL, '', '');
TABLE shown;
UPDATE poser_component SET widget_uuid = 'w4' WHERE uuid IN ('c1', 'c2');
TABLE shown;
UPDATE poser_component SET widget_uuid = NULL WHERE uuid = 'c1';
DELETE FROM poser_component WHERE uuid = 'c1';
TABLE shown;
TABLE count_differences;
TABLE kept_without_widget;
SELECT poser_recount();
DELETE FROM poser_component;
ALTER TABLE poser_component ALTER widget_uuid SET NOT NULL;

--
-- DEFERRABLE INITIALLY DEFERRED
--
ALTER TABLE poser_component DROP CONSTRAINT poser_component_fk_widget,
	ADD CONSTRAINT poser_component_fk_widget FOREIGN KEY (widget_uuid)
	REFERENCES poser_widget (uuid) DEFERRABLE INITIALLY DEFERRED;
CALL start_again();
-- components before their widget
BEGIN;
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w4', '', ''), ('w4', '', '');
TABLE shown;
INSERT INTO poser_widget (uuid, description) VALUES ('w4', '');
TABLE shown;
TABLE count_differences;
COMMIT;
-- a widget is deleted before its components
BEGIN;
DELETE FROM poser_widget WHERE uuid = 'w1';
TABLE shown;
TABLE kept_without_widget;
DELETE FROM poser_component WHERE uuid = 'c1';
DELETE FROM poser_component WHERE widget_uuid = 'w1';
TABLE kept_without_widget;
COMMIT;
-- a new key for a widget, before its components get it
BEGIN;
UPDATE poser_widget SET uuid = 'w1' WHERE uuid = 'w2';
TABLE shown;
UPDATE poser_component SET widget_uuid = 'w1' WHERE widget_uuid = 'w2';
TABLE shown;
COMMIT;
TABLE shown;
TABLE count_differences;
-- a deleted widget that is inserted again has its components
BEGIN;
DELETE FROM poser_widget;
INSERT INTO poser_widget (uuid, description) SELECT 'w' || i, 'back' FROM generate_series(1, 4) AS i;
TABLE shown;
TABLE count_differences;
COMMIT;
TABLE count_differences;
TABLE kept_without_widget;

--
-- No foreign key: components need no widget
--
ALTER TABLE poser_component DROP CONSTRAINT poser_component_fk_widget;
CALL start_again();
INSERT INTO poser_component (uuid, widget_uuid, item_code, description, active) VALUES
	('o1', 'w9', '', '', true), ('o2', 'w9', '', '', false), ('o3', 'w8', '', '', true);
DELETE FROM poser_widget WHERE uuid = 'w1';
UPDATE poser_component SET widget_uuid = 'w2' WHERE uuid = 'o3';
TABLE shown;
SELECT * FROM kept_without_widget ORDER BY widget_uuid;
-- a new widget with this key has the components
INSERT INTO poser_widget (uuid, description) VALUES ('w9', ''), ('w1', '');
TABLE shown;
SELECT * FROM kept_without_widget ORDER BY widget_uuid;
UPDATE poser_component SET active = false;
TABLE shown;
SELECT poser_recount();
TABLE count_differences;
SELECT * FROM kept_without_widget ORDER BY widget_uuid;
TRUNCATE poser_widget;
SELECT * FROM kept_without_widget ORDER BY widget_uuid;
DELETE FROM poser_component WHERE widget_uuid = 'w9';
INSERT INTO poser_widget (uuid, description) VALUES ('w1', ''), ('w2', ''), ('w9', '');
TABLE shown;
TRUNCATE poser_component;
TABLE shown;
TABLE count_differences;

DROP PROCEDURE start_again;
DROP VIEW count_differences, shown, kept_without_widget;
DROP EXTENSION poser;
