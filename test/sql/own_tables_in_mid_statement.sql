-- Own tables with composite keys in the middle of a statement: users' triggers, and
-- functions that a statement calls, write its rows or other rows of its table before the
-- statement is recorded.

\set VERBOSITY sqlstate
SET client_min_messages = warning;
CREATE EXTENSION poser;

-- Tables invoice and invoice_line, views changes, by_row and wrong_histories, procedure start_afresh().
\getenv test PG_ABS_SRCDIR
\set file :test '/include/own_versions.sql'
\i :file

-- A trigger function that executes its arguments once.  "new" and "old" stand for the
-- row's keys: year, number.
CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF pg_trigger_depth() = 1 THEN
		FOR i IN 0..TG_NARGS - 1 LOOP
			EXECUTE replace(replace(TG_ARGV[i],
				'new', CASE WHEN TG_OP IN ('INSERT', 'UPDATE') AND TG_LEVEL = 'ROW' THEN NEW.year || ', ' || NEW.number ELSE 'new' END),
				'old', CASE WHEN TG_OP IN ('UPDATE', 'DELETE') AND TG_LEVEL = 'ROW' THEN OLD.year || ', ' || OLD.number ELSE 'old' END);
		END LOOP;
	END IF;
	RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END
$$;
-- Makes the trigger, writes, shows what was recorded, and drops the trigger.
CREATE PROCEDURE with_trigger(event text, actions text[], variadic statements text[]) LANGUAGE plpgsql AS $$
DECLARE
	line text;
BEGIN
	CALL start_afresh();
	COMMIT;
	INSERT INTO invoice VALUES (1, 'one', 2026), (2, 'two', 2026);
	COMMIT;
	EXECUTE format('CREATE TRIGGER act %s ON invoice FOR EACH %s EXECUTE FUNCTION act(%s)', event,
				   CASE WHEN event LIKE '%TRUNCATE' OR event LIKE '%STATEMENT' THEN '' ELSE 'ROW' END,
				   (SELECT string_agg(quote_literal(a), ', ') FROM unnest(actions) AS a));
	FOR i IN 1..array_length(statements, 1) LOOP
		BEGIN
			EXECUTE statements[i];
		EXCEPTION WHEN OTHERS THEN
			RAISE INFO '%: %', SQLSTATE, SQLERRM;
		END;
		COMMIT;
	END LOOP;
	FOR line IN SELECT concat_ws(' ', transaction, operation, key, quote_nullable(value)) FROM by_row LOOP
		RAISE INFO '%', line;
	END LOOP;
	FOR line IN SELECT row::text FROM wrong_histories AS row LOOP
		RAISE WARNING 'wrong: %', line;
	END LOOP;
	DROP TRIGGER act ON invoice;
END
$$;

\set VERBOSITY terse
--
-- AFTER ROW: the row is written, and its change is not yet recorded
--
\set insert 'INSERT INTO invoice VALUES (3, ''three'', 2026), (4, ''four'', 2026)'
\set update 'UPDATE invoice SET note = ''updated'''
\set move 'UPDATE invoice SET year = 2027'
\set same 'UPDATE invoice SET number = number + 0.0'
-- it is updated; deleted; updated, deleted and inserted again; its key changes; it gets another value of the same key
CALL with_trigger('AFTER INSERT', ARRAY['UPDATE invoice SET note = ''by trigger'' WHERE (year, number) = (new)'], :'insert');
CALL with_trigger('AFTER INSERT', ARRAY['DELETE FROM invoice WHERE (year, number) = (new)'], :'insert');
CALL with_trigger('AFTER INSERT', ARRAY['UPDATE invoice SET note = ''by trigger'' WHERE (year, number) = (new)',
	'DELETE FROM invoice WHERE (year, number) = (new)', 'INSERT INTO invoice (year, number, note) VALUES (new, ''again'')'], :'insert');
CALL with_trigger('AFTER INSERT', ARRAY['UPDATE invoice SET year = 2000 WHERE (year, number) = (new)'], :'insert');
CALL with_trigger('AFTER INSERT', ARRAY['UPDATE invoice SET number = number + 0.00 WHERE (year, number) = (new)'], :'insert');
-- after an update: another update, a delete, the old values, another key, the old key again
CALL with_trigger('AFTER UPDATE', ARRAY['UPDATE invoice SET note = note || '' again'' WHERE (year, number) = (new)'], :'update');
CALL with_trigger('AFTER UPDATE', ARRAY['DELETE FROM invoice WHERE (year, number) = (new)'], :'update');
CALL with_trigger('AFTER UPDATE', ARRAY['UPDATE invoice SET note = ''one'' WHERE (year, number) = (new)'], :'update');
CALL with_trigger('AFTER UPDATE', ARRAY['UPDATE invoice SET number = number + 10 WHERE (year, number) = (new)'], :'update', :'same');
CALL with_trigger('AFTER UPDATE', ARRAY['INSERT INTO invoice (year, number, note) VALUES (old, ''again'')'], :'move');
CALL with_trigger('AFTER UPDATE', ARRAY['UPDATE invoice SET year = 2026 WHERE (year, number) = (new)'], :'move');
-- after a delete: the row is inserted again, and updated, and deleted; another row goes, too
CALL with_trigger('AFTER DELETE', ARRAY['INSERT INTO invoice (year, number, note) VALUES (old, ''two'')'], 'DELETE FROM invoice');
CALL with_trigger('AFTER DELETE', ARRAY['INSERT INTO invoice (year, number, note) VALUES (old, ''again'')',
	'UPDATE invoice SET note = ''and updated'' WHERE (year, number) = (old)', 'DELETE FROM invoice WHERE (year, number) = (old)'], 'DELETE FROM invoice');
CALL with_trigger('AFTER DELETE', ARRAY['DELETE FROM invoice WHERE (year, number) <> (old)'], 'DELETE FROM invoice WHERE number = 1');

--
-- BEFORE ROW: other rows are written, or the row itself
--
CALL with_trigger('BEFORE UPDATE', ARRAY['UPDATE invoice SET note = note || ''!'' WHERE (year, number) <> (new)'], 'UPDATE invoice SET note = ''updated'' WHERE number = 1');
CALL with_trigger('BEFORE INSERT', ARRAY['DELETE FROM invoice WHERE (year, number) = (new)'],
	'INSERT INTO invoice VALUES (1.0, ''instead'', 2026), (2, ''two'', 2026), (3, ''three'', 2026)',
	'INSERT INTO invoice VALUES (1, ''once more'', 2026) ON CONFLICT (year, number) DO UPDATE SET note = ''not this''');
CALL with_trigger('BEFORE INSERT', ARRAY['INSERT INTO invoice (year, number, note) VALUES (new, ''was faster'')'],
	'INSERT INTO invoice VALUES (3.0, ''three'', 2026) ON CONFLICT (year, number) DO UPDATE SET note = excluded.note', :'insert');
CALL with_trigger('BEFORE DELETE', ARRAY['DELETE FROM invoice WHERE (year, number) > (old)'], 'DELETE FROM invoice WHERE number = 1');

--
-- Statement triggers, which fire before or after those of the extension.  TRUNCATE: what
-- triggers write before it is gone, what they write after it stays.
--
CREATE PROCEDURE with_triggers(event text, actions text[], statement text) LANGUAGE plpgsql AS $$
DECLARE
	line text;
BEGIN
	CALL start_afresh();
	COMMIT;
	INSERT INTO invoice VALUES (1, 'one', 2026), (2, 'two', 2026);
	COMMIT;
	FOR i IN 1..array_length(actions, 1) LOOP
		CONTINUE WHEN actions[i] = '';
		EXECUTE format('CREATE TRIGGER %s %s %s ON invoice FOR EACH STATEMENT EXECUTE FUNCTION act(%L)',
					   CASE WHEN i % 2 = 1 THEN 'a' ELSE 'z' END || i, CASE WHEN i <= 2 THEN 'BEFORE' ELSE 'AFTER' END,
					   event, actions[i]);
	END LOOP;
	EXECUTE statement;
	COMMIT;
	FOR line IN SELECT concat_ws(' ', transaction, operation, key, quote_nullable(value)) FROM by_row LOOP
		RAISE INFO '%', line;
	END LOOP;
	FOR line IN SELECT row::text FROM wrong_histories AS row LOOP
		RAISE WARNING 'wrong: %', line;
	END LOOP;
	FOR i IN 1..array_length(actions, 1) LOOP
		EXECUTE format('DROP TRIGGER IF EXISTS %s ON invoice', CASE WHEN i % 2 = 1 THEN 'a' ELSE 'z' END || i);
	END LOOP;
END
$$;
CALL with_triggers('INSERT', ARRAY['INSERT INTO invoice VALUES (1, ''a1'', 2001)', 'INSERT INTO invoice VALUES (2, ''z2'', 2002)',
	'UPDATE invoice SET note = note || '' 3''', 'UPDATE invoice SET note = note || '' 4'''], 'INSERT INTO invoice VALUES (3, ''three'', 2026)');
CALL with_triggers('UPDATE', ARRAY['', '', 'DELETE FROM invoice WHERE number = 1', 'INSERT INTO invoice VALUES (1.0, ''again'', 2026)'], :'update');
CALL with_triggers('TRUNCATE', ARRAY['UPDATE invoice SET note = note || '' before''', 'INSERT INTO invoice VALUES (2, ''z2'', 2002)',
	'INSERT INTO invoice VALUES (1.0, ''after'', 2026)', 'UPDATE invoice SET note = ''after that'' WHERE number = 1'], 'TRUNCATE invoice CASCADE');

\set VERBOSITY sqlstate
--
-- Functions that a statement calls
--
CREATE FUNCTION write(statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
	RETURN 'written';
END
$$;
CALL start_afresh();
INSERT INTO invoice VALUES (1, 'one', 2026), (2, 'two', 2026), (3, 'three', 2026);
-- another row; the same row, which is an error; a row that the statement reaches later, which is one, too
UPDATE invoice SET note = write('UPDATE invoice SET note = ''nested'' WHERE number = 2') WHERE number = 1;
UPDATE invoice SET note = write('UPDATE invoice SET note = ''nested'' WHERE number = 1') WHERE number = 1;
UPDATE invoice SET note = write('DELETE FROM invoice WHERE number = 3') WHERE number >= 2;
-- the key that the statement has taken or freed
INSERT INTO invoice SELECT number, write(format('DELETE FROM invoice WHERE number = %s', number)), year FROM invoice WHERE number < 3;
DELETE FROM invoice WHERE number = 1 RETURNING write('INSERT INTO invoice VALUES (1.0, ''in returning'', 2026)');
UPDATE invoice SET number = 9 WHERE number = 2 RETURNING write('INSERT INTO invoice VALUES (2, ''in returning'', 2026)');
INSERT INTO invoice VALUES (4, 'four', 2026) RETURNING write('UPDATE invoice SET number = 5 WHERE number = 4');
INSERT INTO invoice VALUES (6, 'six', 2026) RETURNING write('DELETE FROM invoice WHERE number = 6');
SELECT * FROM by_row;
TABLE wrong_histories;
-- upserts in upserts, MERGE
CALL start_afresh();
INSERT INTO invoice VALUES (1, 'one', 2026), (2, 'two', 2026);
INSERT INTO invoice
SELECT number, write('INSERT INTO invoice VALUES (1, ''upserted'', 2026), (9, ''upserted'', 2026) ON CONFLICT (year, number) DO UPDATE SET note = invoice.note || ''!'''), 2026
  FROM (VALUES (2), (3)) AS source (number) ON CONFLICT (year, number) DO UPDATE SET note = excluded.note;
INSERT INTO invoice SELECT 4, write('INSERT INTO invoice VALUES (4, ''nested'', 2026) ON CONFLICT DO NOTHING'), 2026 ON CONFLICT DO NOTHING;
MERGE INTO invoice USING (VALUES (1), (2), (5)) AS source (number) ON invoice.number = source.number
 WHEN MATCHED AND source.number = 1 THEN UPDATE SET note = write('DELETE FROM invoice WHERE number = 3')
 WHEN MATCHED THEN DELETE
 WHEN NOT MATCHED THEN INSERT VALUES (source.number, write('UPDATE invoice SET note = ''nested'' WHERE number = 9'), 2026);
SELECT * FROM by_row;
TABLE wrong_histories;
-- TRUNCATE in the middle of a statement is refused
UPDATE invoice SET note = write('TRUNCATE invoice CASCADE');

--
-- Several parts of a query, and both tables at once
--
CALL start_afresh();
INSERT INTO invoice VALUES (1, 'one', 2026), (2, 'two', 2026), (3, 'three', 2026);
WITH deleted AS (
	DELETE FROM invoice WHERE number = 1 RETURNING *),
updated AS (
	UPDATE invoice SET note = write('INSERT INTO invoice VALUES (4, ''by function'', 2026)') WHERE number = 2 RETURNING *)
INSERT INTO invoice SELECT deleted.number + 0.0, updated.note, deleted.year FROM deleted, updated;
SELECT * FROM by_row;
TABLE wrong_histories;
-- a row is deleted, another takes its key, and a trigger updates that one before either is recorded
CREATE TRIGGER act AFTER INSERT ON invoice FOR EACH ROW EXECUTE FUNCTION act('UPDATE invoice SET note = ''by trigger'' WHERE (year, number) = (new)');
WITH deleted AS (
	DELETE FROM invoice WHERE number = 3 RETURNING *)
INSERT INTO invoice SELECT number + 0.0, 'inserted', year FROM deleted;
SELECT * FROM by_row WHERE key LIKE '%/3%';
TABLE wrong_histories;
DROP TRIGGER act ON invoice;
-- Lines make their invoice and count in its note.  The last one that goes deletes it.
CREATE FUNCTION make_invoice() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO invoice VALUES (NEW.number, '1', NEW.year)
		ON CONFLICT (year, number) DO UPDATE SET note = invoice.note::int + 1;
	RETURN NEW;
END
$$;
CREATE TRIGGER make_invoice BEFORE INSERT ON invoice_line FOR EACH ROW EXECUTE FUNCTION make_invoice();
CREATE FUNCTION drop_invoice() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	DELETE FROM invoice AS i
	 WHERE (year, number) = (OLD.year, OLD.number) AND NOT EXISTS (SELECT FROM invoice_line AS l WHERE (l.year, l.number) = (i.year, i.number));
	RETURN NULL;
END
$$;
CREATE TRIGGER drop_invoice AFTER DELETE ON invoice_line FOR EACH ROW EXECUTE FUNCTION drop_invoice();
CALL start_afresh();
INSERT INTO invoice_line VALUES (2026, 1, 1, 'a'), (2026, 1.0, 2, 'b'), (2026, 2, 1, 'c');
DELETE FROM invoice_line WHERE number = 1;
SELECT * FROM by_row;
TABLE wrong_histories;
DROP FUNCTION make_invoice, drop_invoice CASCADE;
-- A trigger writes to both tables, fails, and is caught.
CREATE FUNCTION fail_sometimes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF pg_trigger_depth() > 1 THEN
		RETURN NULL;
	END IF;
	BEGIN
		UPDATE invoice SET number = number + 0.0 WHERE (year, number) = (NEW.year, NEW.number);
		INSERT INTO invoice_line VALUES (NEW.year, NEW.number, NEW.line + 10, 'by trigger');
		IF NEW.line = 2 THEN
			RAISE EXCEPTION 'undo';
		END IF;
	EXCEPTION WHEN raise_exception THEN
		NULL;
	END;
	RETURN NULL;
END
$$;
CREATE TRIGGER fail_sometimes AFTER INSERT ON invoice_line FOR EACH ROW EXECUTE FUNCTION fail_sometimes();
CALL start_afresh();
INSERT INTO invoice VALUES (1, 'one', 2026);
INSERT INTO invoice_line VALUES (2026, 1, 1, 'a'), (2026, 1, 2, 'b'), (2026, 1, 3, 'c');
SELECT * FROM by_row;
TABLE wrong_histories;
DROP FUNCTION fail_sometimes CASCADE;

-- A row gets values that it has had before, of which another session has recorded the versions.
CALL start_afresh();
INSERT INTO invoice VALUES (1, 'a', 2026);
UPDATE invoice SET note = 'b';
UPDATE invoice SET note = 'c';
CREATE TRIGGER act AFTER UPDATE ON invoice FOR EACH ROW EXECUTE FUNCTION act($$UPDATE invoice SET note = 'b' WHERE note = 'a'$$);
\c -
SET client_min_messages = warning;
UPDATE invoice SET note = 'a';
SELECT operation_type, note FROM invoice_version ORDER BY change_id;
TABLE wrong_histories;

DROP FUNCTION act CASCADE;
DROP FUNCTION write;
DROP PROCEDURE start_afresh, with_trigger, with_triggers;
DROP VIEW changes, by_row, wrong_histories;
DROP EXTENSION poser CASCADE;
DROP TABLE invoice, invoice_line, invoice_version, invoice_line_version;
