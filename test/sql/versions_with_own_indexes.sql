-- Users' indexes on the tables of the history are maintained as on any table.

\set VERBOSITY sqlstate
CREATE EXTENSION poser;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one'), ('w2', 'two');

-- a partial index has only its rows
CREATE INDEX own ON poser_widget_version (uuid) WHERE operation_type = 2;
UPDATE poser_widget SET active = false;
DELETE FROM poser_widget WHERE uuid = 'w2';
SET enable_seqscan = off;
SELECT uuid, operation_type FROM poser_widget_version WHERE uuid > '' AND operation_type = 2;
RESET enable_seqscan;
DROP INDEX own;
INSERT INTO poser_widget (uuid, description) VALUES ('w2', 'two');
CREATE UNIQUE INDEX own ON poser_widget_version (transaction_id) WHERE operation_type = 2;
UPDATE poser_widget SET active = true;
UPDATE poser_widget SET active = false;
DELETE FROM poser_widget;
SELECT uuid, active FROM poser_widget ORDER BY uuid;
DROP INDEX own;

-- an expression with an included column; an expression on transactions
CREATE INDEX own ON poser_widget_version (lower(description)) INCLUDE (uuid);
UPDATE poser_widget SET description = 'SINGLE' WHERE uuid = 'w1';
UPDATE poser_widget SET description = 'ALL OF THEM';
SET enable_seqscan = off;
SELECT uuid FROM poser_widget_version WHERE lower(description) IN ('single', 'all of them') ORDER BY uuid, change_id;
RESET enable_seqscan;
DROP INDEX own;
CREATE INDEX own ON poser_transaction USING gin (to_tsvector('simple', comment));
SET poser.comment = 'with reason';
UPDATE poser_widget SET description = 'x';
RESET poser.comment;
SET enable_seqscan = off;
SELECT comment FROM poser_transaction WHERE to_tsvector('simple', comment) @@ to_tsquery('simple', 'reason');
RESET enable_seqscan;
DROP INDEX own;

-- An index on transactions calls code that changes the settings and writes, which is
-- rolled back: the transaction has one row, with the values as set by the session.
CREATE FUNCTION set_and_write(comment text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF comment = 'by hand' THEN
		SET LOCAL poser.runas = 'index';
		SET LOCAL poser.comment = 'by code';
		UPDATE public.poser_widget SET description = 'by code' WHERE uuid = 'w2';
		RAISE EXCEPTION 'undone';
	END IF;
EXCEPTION
	WHEN raise_exception THEN
		NULL;
END
$$;
CREATE FUNCTION note(comment text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	PERFORM set_config('poser.runas', current_setting('poser.runas'), false),
	        set_config('poser.comment', current_setting('poser.comment'), false);
	PERFORM public.set_and_write(comment);
	RETURN comment;
END
$$;
CREATE INDEX own ON poser_transaction (note(comment));
BEGIN;
SET poser.runas = 'somebody with a name of some length';
SET poser.comment = 'by hand';
UPDATE poser_widget SET description = 'first' WHERE uuid = 'w1';
UPDATE poser_widget SET description = 'second' WHERE uuid = 'w1';
COMMIT;
RESET poser.runas;
RESET poser.comment;
SELECT description, username, comment, dense_rank() OVER (ORDER BY transaction_id DESC) AS transaction
  FROM poser_widget_history('w1') LIMIT 2;
SELECT description FROM poser_widget WHERE uuid = 'w2';
DROP INDEX own;
DROP FUNCTION note, set_and_write;

-- a unique index is enforced
CREATE UNIQUE INDEX own ON poser_widget_version (uuid, description) WHERE description IN ('y', 'z');
UPDATE poser_widget SET description = 'y';
UPDATE poser_widget SET description = 'z';
UPDATE poser_widget SET description = 'y';
DROP INDEX own;

-- A deferrable constraint is enforced, too.  It is checked at once.
BEGIN;
DELETE FROM poser_widget_version;
ALTER TABLE poser_widget_version
	ADD CONSTRAINT own UNIQUE (description) INCLUDE (active) DEFERRABLE INITIALLY DEFERRED,
	ADD CONSTRAINT own_too EXCLUDE (description WITH =) WHERE (uuid = 'w1') DEFERRABLE INITIALLY DEFERRED;
UPDATE poser_widget SET description = 'once' WHERE uuid = 'w1';
SAVEPOINT s;
UPDATE poser_widget SET description = 'once' WHERE uuid = 'w2';
ROLLBACK TO s;
UPDATE poser_widget SET description = 'twice' WHERE uuid = 'w2';
ALTER TABLE poser_widget_version DROP CONSTRAINT own;
UPDATE poser_widget SET description = 'twice' WHERE uuid = 'w1';
SAVEPOINT s;
UPDATE poser_widget SET description = 'once' WHERE uuid = 'w1';
ROLLBACK;
SELECT * FROM poser_check();
DROP EXTENSION poser;
