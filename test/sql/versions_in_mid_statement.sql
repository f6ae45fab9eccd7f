-- Versions in the middle of a statement: users' triggers, and functions that a
-- statement calls, write its rows or other rows of its table before the statement is
-- recorded.

\set VERBOSITY sqlstate
SET client_min_messages = warning;
CREATE EXTENSION poser;

-- Views changes and wrong_histories, procedure start_afresh().
\getenv test PG_ABS_SRCDIR
\set file :test '/include/versions.sql'
\i :file

-- The same sorted by row: different rows may be changed in any order.
CREATE VIEW by_row AS
SELECT transaction, relation, operation, uuid, "values"
  FROM (SELECT *, row_number() OVER () AS place FROM changes) AS placed
 ORDER BY relation, uuid, place;

-- A trigger function that executes its arguments once.  "new" and "old" stand for the
-- row's keys.
CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF pg_trigger_depth() = 1 THEN
		FOR i IN 0..TG_NARGS - 1 LOOP
			EXECUTE replace(replace(TG_ARGV[i],
				'new', CASE WHEN TG_OP IN ('INSERT', 'UPDATE') AND TG_LEVEL = 'ROW' THEN quote_literal(to_jsonb(NEW)->>'uuid') ELSE 'new' END),
				'old', CASE WHEN TG_OP IN ('UPDATE', 'DELETE') AND TG_LEVEL = 'ROW' THEN quote_literal(to_jsonb(OLD)->>'uuid') ELSE 'old' END);
		END LOOP;
	END IF;
	RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END
$$;

--
-- AFTER ROW: the row is written, and its change is not yet recorded
--
-- it is updated
CREATE TRIGGER act AFTER INSERT ON poser_widget FOR EACH ROW
	EXECUTE FUNCTION act('UPDATE poser_widget SET description = ''by trigger'' WHERE uuid = new');
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one'), ('w2', 'two');
SELECT operation, uuid, "values" FROM by_row;
TABLE wrong_histories;
-- it is deleted
CREATE OR REPLACE TRIGGER act AFTER INSERT ON poser_widget FOR EACH ROW
	EXECUTE FUNCTION act('DELETE FROM poser_widget WHERE uuid = new');
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one'), ('w2', 'two');
SELECT operation, uuid, "values" FROM by_row;
TABLE wrong_histories;
-- updated, deleted, and inserted again
CREATE OR REPLACE TRIGGER act AFTER INSERT ON poser_widget FOR EACH ROW
	EXECUTE FUNCTION act('UPDATE poser_widget SET description = ''by trigger'' WHERE uuid = new',
						 'DELETE FROM poser_widget WHERE uuid = new',
						 'INSERT INTO poser_widget (uuid, description) VALUES (new, ''again'')');
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one'), ('w2', 'two');
SELECT operation, uuid, "values" FROM by_row;
TABLE wrong_histories;
-- its key changes
CREATE OR REPLACE TRIGGER act AFTER INSERT ON poser_widget FOR EACH ROW
	EXECUTE FUNCTION act('UPDATE poser_widget SET uuid = uuid || ''0'' WHERE uuid = new');
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one'), ('w2', 'two');
SELECT operation, uuid, "values" FROM by_row;
TABLE wrong_histories;
DROP TRIGGER act ON poser_widget;

-- after an update: another update, a delete, the old values, another key
CREATE TRIGGER act AFTER UPDATE ON poser_widget FOR EACH ROW
	EXECUTE FUNCTION act('UPDATE poser_widget SET active = NOT active WHERE uuid = new');
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one'), ('w2', 'two');
UPDATE poser_widget SET description = 'updated';
SELECT operation, uuid, "values" FROM by_row;
TABLE wrong_histories;
CREATE OR REPLACE TRIGGER act AFTER UPDATE ON poser_widget FOR EACH ROW
	EXECUTE FUNCTION act('DELETE FROM poser_widget WHERE uuid = new');
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one'), ('w2', 'two');
UPDATE poser_widget SET description = 'updated';
SELECT operation, uuid, "values" FROM by_row;
TABLE wrong_histories;
CREATE OR REPLACE TRIGGER act AFTER UPDATE ON poser_widget FOR EACH ROW
	EXECUTE FUNCTION act('UPDATE poser_widget SET description = ''one'' WHERE uuid = new');
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one');
UPDATE poser_widget SET description = 'updated';
SELECT operation, uuid, "values" FROM by_row;
TABLE wrong_histories;
CREATE OR REPLACE TRIGGER act AFTER UPDATE ON poser_widget FOR EACH ROW
	EXECUTE FUNCTION act('UPDATE poser_widget SET uuid = uuid || ''0'' WHERE uuid = new');
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one'), ('w2', 'two');
UPDATE poser_widget SET description = 'updated';
SELECT operation, uuid, "values" FROM by_row;
TABLE wrong_histories;
-- after an update of the key: the old key is inserted again
CREATE OR REPLACE TRIGGER act AFTER UPDATE ON poser_widget FOR EACH ROW
	EXECUTE FUNCTION act('INSERT INTO poser_widget (uuid, description) VALUES (old, ''again'')');
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one'), ('w2', 'two');
UPDATE poser_widget SET uuid = uuid || '0';
SELECT operation, uuid, "values" FROM by_row;
TABLE wrong_histories;
DROP TRIGGER act ON poser_widget;

-- after a delete: the row is inserted again, the same or another; another row goes, too
CREATE TRIGGER act AFTER DELETE ON poser_widget FOR EACH ROW
	EXECUTE FUNCTION act('INSERT INTO poser_widget (uuid, description) VALUES (old, ''again'')');
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one'), ('w2', 'again');
DELETE FROM poser_widget;
SELECT operation, uuid, "values" FROM by_row;
TABLE wrong_histories;
CREATE OR REPLACE TRIGGER act AFTER DELETE ON poser_widget FOR EACH ROW
	EXECUTE FUNCTION act('INSERT INTO poser_widget (uuid, description) VALUES (old, ''again'')',
						 'UPDATE poser_widget SET description = ''and updated'' WHERE uuid = old',
						 'DELETE FROM poser_widget WHERE uuid = old');
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one'), ('w2', 'two');
DELETE FROM poser_widget;
SELECT operation, uuid, "values" FROM by_row;
TABLE wrong_histories;
CREATE OR REPLACE TRIGGER act AFTER DELETE ON poser_widget FOR EACH ROW
	EXECUTE FUNCTION act('DELETE FROM poser_widget WHERE description = ''of '' || old');
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one'), ('w2', 'of w1'), ('w3', 'of w1'), ('w4', 'four');
DELETE FROM poser_widget WHERE uuid = 'w1';
SELECT operation, uuid, "values" FROM by_row;
TABLE wrong_histories;
DROP TRIGGER act ON poser_widget;

--
-- BEFORE ROW: other rows are written, and the row itself is changed or skipped
--
CREATE TRIGGER act BEFORE UPDATE ON poser_widget FOR EACH ROW
	EXECUTE FUNCTION act('UPDATE poser_widget SET active = NOT active WHERE uuid <> new');
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one'), ('w2', 'two');
UPDATE poser_widget SET description = 'updated' WHERE uuid = 'w1';
SELECT operation, uuid, "values" FROM by_row;
TABLE wrong_histories;
CREATE OR REPLACE TRIGGER act BEFORE INSERT ON poser_widget FOR EACH ROW
	EXECUTE FUNCTION act('DELETE FROM poser_widget WHERE uuid = new');
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one'), ('w2', 'two');
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'instead'), ('w2', 'two'), ('w3', 'three');
SELECT operation, uuid, "values" FROM by_row;
TABLE wrong_histories;
-- An upsert takes the same path.
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'once more') ON CONFLICT (uuid) DO UPDATE SET description = 'not this';
SELECT operation, uuid, "values" FROM by_row WHERE uuid = 'w1';
TABLE wrong_histories;
CREATE OR REPLACE TRIGGER act BEFORE INSERT ON poser_widget FOR EACH ROW
	EXECUTE FUNCTION act('INSERT INTO poser_widget (uuid, description) VALUES (new, ''was faster'')');
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one') ON CONFLICT (uuid) DO UPDATE SET description = excluded.description;
SELECT operation, uuid, "values" FROM by_row;
INSERT INTO poser_widget (uuid, description) VALUES ('w2', 'two');
TABLE wrong_histories;
DROP TRIGGER act ON poser_widget;
CREATE FUNCTION alter_or_skip() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.description = 'skip' THEN
		RETURN NULL;
	END IF;
	NEW.description := NEW.description || ', altered';
	RETURN NEW;
END
$$;
CREATE TRIGGER alter_or_skip BEFORE INSERT OR UPDATE ON poser_widget FOR EACH ROW EXECUTE FUNCTION alter_or_skip();
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one'), ('w2', 'skip'), ('w3', 'three');
UPDATE poser_widget SET description = CASE uuid WHEN 'w1' THEN 'skip' ELSE 'updated' END;
SELECT operation, uuid, "values" FROM by_row;
TABLE wrong_histories;
DROP FUNCTION alter_or_skip CASCADE;
-- a row is deleted before the statement reaches it
CREATE TRIGGER act BEFORE DELETE ON poser_widget FOR EACH ROW
	EXECUTE FUNCTION act('DELETE FROM poser_widget WHERE uuid > old');
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one'), ('w2', 'two'), ('w3', 'three');
DELETE FROM poser_widget WHERE uuid <> 'w3';
DELETE FROM poser_widget WHERE uuid = 'w1';
SELECT operation, uuid, "values" FROM by_row;
TABLE wrong_histories;
DROP TRIGGER act ON poser_widget;

--
-- Statement triggers that fire before or after those of the extension
--
CREATE PROCEDURE with_triggers(event text, variadic actions text[]) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..array_length(actions, 1) LOOP
		CONTINUE WHEN actions[i] = '';
		EXECUTE format('CREATE TRIGGER %s %s %s ON poser_widget FOR EACH STATEMENT EXECUTE FUNCTION act(%L)',
					   CASE WHEN i % 2 = 1 THEN 'a' ELSE 'z' END || i, CASE WHEN i <= 2 THEN 'BEFORE' ELSE 'AFTER' END,
					   event, actions[i]);
	END LOOP;
END
$$;
CALL with_triggers('INSERT',
	'INSERT INTO poser_widget (uuid, description) VALUES (''a1'', '''')',
	'INSERT INTO poser_widget (uuid, description) VALUES (''z2'', '''')',
	'UPDATE poser_widget SET description = description || '' 3''',
	'UPDATE poser_widget SET description = description || '' 4''');
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one');
SELECT operation, uuid, "values" FROM by_row;
TABLE wrong_histories;
DROP TRIGGER a1 ON poser_widget;
DROP TRIGGER z2 ON poser_widget;
DROP TRIGGER a3 ON poser_widget;
DROP TRIGGER z4 ON poser_widget;
CALL with_triggers('UPDATE', '', '', 'DELETE FROM poser_widget WHERE uuid = ''w1''', 'INSERT INTO poser_widget (uuid, description) VALUES (''w1'', ''again'')');
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one'), ('w2', 'two');
UPDATE poser_widget SET description = 'updated';
SELECT operation, uuid, "values" FROM by_row;
TABLE wrong_histories;
DROP TRIGGER a3 ON poser_widget;
DROP TRIGGER z4 ON poser_widget;

-- TRUNCATE: what triggers write before it is gone, what they write after it stays
CALL start_afresh();
CALL with_triggers('TRUNCATE',
	'INSERT INTO poser_widget (uuid, description) VALUES (''a1'', '''')',
	'INSERT INTO poser_widget (uuid, description) VALUES (''z2'', '''')',
	'INSERT INTO poser_widget (uuid, description) VALUES (''a3'', '''')',
	'INSERT INTO poser_widget (uuid, description) VALUES (''z4'', '''')');
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one');
TRUNCATE poser_widget CASCADE;
SELECT operation, uuid, "values" FROM by_row;
TABLE wrong_histories;
-- TRUNCATE of a row that is inserted again, or was updated before
DROP TRIGGER a1 ON poser_widget;
DROP TRIGGER z2 ON poser_widget;
DROP TRIGGER a3 ON poser_widget;
DROP TRIGGER z4 ON poser_widget;
CALL with_triggers('TRUNCATE',
	'UPDATE poser_widget SET description = description || '' before''',
	'UPDATE poser_widget SET description = description || '' and before''',
	'INSERT INTO poser_widget (uuid, description) VALUES (''w1'', ''after'')',
	'UPDATE poser_widget SET description = ''after that'' WHERE uuid = ''w1''');
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one'), ('w2', 'two');
TRUNCATE poser_widget CASCADE;
SELECT operation, uuid, "values" FROM by_row WHERE uuid LIKE 'w%';
TABLE wrong_histories;
DROP TRIGGER a1 ON poser_widget;
DROP TRIGGER z2 ON poser_widget;
DROP TRIGGER a3 ON poser_widget;
DROP TRIGGER z4 ON poser_widget;
-- TRUNCATE of an empty table
CALL start_afresh();
CALL with_triggers('TRUNCATE', '', 'INSERT INTO poser_widget (uuid, description) VALUES (''z2'', '''')');
TRUNCATE poser_widget CASCADE;
SELECT operation, uuid, "values" FROM by_row;
SELECT count(*) FROM poser_widget;
TABLE wrong_histories;
DROP TRIGGER z2 ON poser_widget;

--
-- Functions that a statement calls
--
CREATE FUNCTION write(statement text) RETURNS varchar LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
	RETURN 'written';
END
$$;
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one'), ('w2', 'two'), ('w3', 'three');
-- another row of the table
UPDATE poser_widget SET description = write('UPDATE poser_widget SET active = false WHERE uuid = ''w2''') WHERE uuid = 'w1';
-- an update of the same row, or of one that the statement reaches later, is an error
UPDATE poser_widget SET description = write('UPDATE poser_widget SET active = false WHERE uuid = ''w1''') WHERE uuid = 'w1';
UPDATE poser_widget SET description = write('DELETE FROM poser_widget WHERE uuid = ''w3''') WHERE uuid IN ('w2', 'w3');
SELECT operation, uuid, "values" FROM by_row;
TABLE wrong_histories;
INSERT INTO poser_widget (uuid, description)
SELECT 'n' || i, write(format('INSERT INTO poser_widget (uuid, description) VALUES (''f%s'', ''by function'')', i))
  FROM generate_series(1, 2) AS i;
DELETE FROM poser_widget WHERE uuid LIKE 'f_' AND write('UPDATE poser_widget SET active = NOT active WHERE uuid = ''n1''') = 'written';
SELECT operation, uuid, "values" FROM by_row WHERE uuid NOT LIKE 'w_';
TABLE wrong_histories;
-- the key that the statement has taken or freed
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one'), ('w2', 'two');
INSERT INTO poser_widget (uuid, description)
SELECT uuid, write(format('DELETE FROM poser_widget WHERE uuid = %L', uuid)) FROM poser_widget;
SELECT operation, uuid, "values" FROM by_row;
TABLE wrong_histories;
DELETE FROM poser_widget WHERE uuid = 'w1'
RETURNING write('INSERT INTO poser_widget (uuid, description) VALUES (''w1'', ''in returning'')');
UPDATE poser_widget SET uuid = 'w3' WHERE uuid = 'w2'
RETURNING write('INSERT INTO poser_widget (uuid, description) VALUES (''w2'', ''in returning'')');
INSERT INTO poser_widget (uuid, description) VALUES ('w4', 'four')
RETURNING write('UPDATE poser_widget SET uuid = ''w5'' WHERE uuid = ''w4''');
INSERT INTO poser_widget (uuid, description) VALUES ('w6', 'six')
RETURNING write('DELETE FROM poser_widget WHERE uuid = ''w6''');
SELECT operation, uuid, "values" FROM by_row;
TABLE wrong_histories;
-- upserts in upserts
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one'), ('w2', 'two');
INSERT INTO poser_widget (uuid, description)
SELECT uuid, write('INSERT INTO poser_widget (uuid, description) VALUES (''w1'', ''upserted''), (''w9'', ''upserted'')
					ON CONFLICT (uuid) DO UPDATE SET description = excluded.description, active = NOT poser_widget.active')
  FROM (VALUES ('w2'), ('w3')) AS source (uuid)
	ON CONFLICT (uuid) DO UPDATE SET description = excluded.description;
INSERT INTO poser_widget (uuid, description)
SELECT 'w4', write('INSERT INTO poser_widget (uuid, description) VALUES (''w4'', ''nested'') ON CONFLICT DO NOTHING')
	ON CONFLICT DO NOTHING;
SELECT operation, uuid, "values" FROM by_row;
TABLE wrong_histories;
-- TRUNCATE in the middle of a statement is refused
UPDATE poser_widget SET description = write('TRUNCATE poser_widget CASCADE');

--
-- Several parts of a query, with functions and triggers
--
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one'), ('w2', 'two'), ('w3', 'three');
WITH deleted AS (
	DELETE FROM poser_widget WHERE uuid = 'w1' RETURNING *),
updated AS (
	UPDATE poser_widget SET description = write('INSERT INTO poser_widget (uuid, description) VALUES (''w4'', ''by function'')') WHERE uuid = 'w2' RETURNING *)
INSERT INTO poser_widget SELECT deleted.uuid, updated.description, false FROM deleted, updated;
SELECT operation, uuid, "values" FROM by_row;
TABLE wrong_histories;
-- A row is deleted, another takes its key, and a trigger updates that one before either
-- is recorded.
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one');
CREATE TRIGGER act AFTER INSERT ON poser_widget FOR EACH ROW
	EXECUTE FUNCTION act('UPDATE poser_widget SET description = ''by trigger'' WHERE uuid = new');
WITH deleted AS (
	DELETE FROM poser_widget WHERE uuid = 'w1' RETURNING *)
INSERT INTO poser_widget SELECT uuid, 'inserted', active FROM deleted;
SELECT operation, uuid, "values" FROM by_row;
TABLE wrong_histories;
DROP TRIGGER act ON poser_widget;

-- The deleting part starts first, and is recorded when the other rows are there.
CREATE TRIGGER act BEFORE DELETE ON poser_widget FOR EACH ROW
	EXECUTE FUNCTION act('DELETE FROM poser_widget WHERE false');
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one'), ('w2', 'two');
WITH inserted AS (
	INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'inserted'), ('w2', 'inserted'))
DELETE FROM poser_widget;
SELECT operation, uuid, "values" FROM by_row;
TABLE wrong_histories;
DROP TRIGGER act ON poser_widget;

--
-- Both tables at once
--
-- Components insert their widgets and count in their descriptions.  The last one that
-- is deleted deletes its widget.
CREATE FUNCTION make_widget() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO poser_widget (uuid, description) VALUES (NEW.widget_uuid, '1')
		ON CONFLICT (uuid) DO UPDATE SET description = poser_widget.description::int + 1;
	RETURN NEW;
END
$$;
CREATE TRIGGER make_widget BEFORE INSERT ON poser_component FOR EACH ROW EXECUTE FUNCTION make_widget();
CREATE FUNCTION drop_widget() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	DELETE FROM poser_widget AS widget
	 WHERE uuid = OLD.widget_uuid AND NOT EXISTS (SELECT FROM poser_component WHERE widget_uuid = widget.uuid);
	RETURN NULL;
END
$$;
CREATE TRIGGER drop_widget AFTER DELETE ON poser_component FOR EACH ROW EXECUTE FUNCTION drop_widget();
CALL start_afresh();
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c1', 'w1', '1', ''), ('c2', 'w1', '2', ''), ('c3', 'w2', '3', '');
DELETE FROM poser_component WHERE widget_uuid = 'w1';
SELECT operation, uuid, "values" FROM by_row;
TABLE wrong_histories;
DROP FUNCTION make_widget, drop_widget CASCADE;
-- A trigger writes to the other table, fails, and is caught.
CREATE FUNCTION fail_sometimes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF pg_trigger_depth() > 1 THEN
		RETURN NULL;
	END IF;
	BEGIN
		UPDATE poser_component SET description = 'by trigger' WHERE uuid = NEW.uuid;
		INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES (NEW.uuid || 'n', NEW.widget_uuid, '', '');
		IF NEW.uuid LIKE '%2' THEN
			RAISE EXCEPTION 'undo';
		END IF;
	EXCEPTION WHEN raise_exception THEN
		NULL;
	END;
	RETURN NULL;
END
$$;
CREATE TRIGGER fail_sometimes AFTER INSERT ON poser_component FOR EACH ROW EXECUTE FUNCTION fail_sometimes();
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c1', 'w1', '1', ''), ('c2', 'w1', '2', ''), ('c3', 'w1', '3', '');
SELECT operation, uuid, "values" FROM by_row;
TABLE wrong_histories;
DROP FUNCTION fail_sometimes CASCADE;

DROP FUNCTION act CASCADE;
DROP FUNCTION write;
DROP PROCEDURE start_afresh, with_triggers;
DROP VIEW by_row, changes, wrong_histories;
DROP EXTENSION poser;
