-- History that SQL inserts, as a restore does, replaces what was recorded of its rows:
-- one insert that is equal to the row.  Anything else stays, or is an error.
\set VERBOSITY terse
\pset null '-'
CREATE EXTENSION poser;

-- What the history is: each version with its transaction, and the transactions.
CREATE VIEW widgets AS SELECT uuid, description, operation_type AS op, transaction_id AS t, change_id AS c FROM poser_widget_version;
CREATE VIEW components AS SELECT uuid, item_code AS code, operation_type AS op, transaction_id AS t, change_id AS c FROM poser_component_version;
CREATE VIEW transactions AS SELECT id, comment FROM poser_transaction;
CREATE VIEW arrived AS SELECT first, last, awaited FROM poser_arrival;
-- "again" begins anew, with ids from 1.
CREATE PROCEDURE again() LANGUAGE plpgsql AS $$
BEGIN
	TRUNCATE poser_widget, poser_component;
	TRUNCATE poser_widget_version, poser_component_version, poser_transaction, poser_arrival;
	PERFORM setval('poser_change_id_seq', 1, false);
END
$$;

--
-- Rows first
--

-- The rows of two tables are recorded.  Then their history comes, with the same ids.
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'Clock'), ('w2', 'Bell');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c1', 'w1', '1', 'Hand');
TABLE widgets ORDER BY c;
TABLE components ORDER BY c;
INSERT INTO poser_widget_version VALUES
	('w1', 'Clocks', true, 0, 1, 2), ('w2', 'Bell', true, 0, 1, 3), ('w1', 'Clock', true, 1, 4, 5);
INSERT INTO poser_component_version VALUES ('c1', 'w1', '1', 'Hand', true, 0, 6, 7);
-- nothing that was recorded is left, and its transactions wait for those that belong to the versions
TABLE widgets ORDER BY c;
TABLE components ORDER BY c;
TABLE transactions ORDER BY id;
TABLE arrived ORDER BY first;
INSERT INTO poser_transaction (id, issued_at, username, role_name, comment, xact)
VALUES (1, now(), 'u', 'r', 'first', '3'), (4, now(), 'u', 'r', 'second', '3'), (6, now(), 'u', 'r', 'third', '3');
TABLE transactions ORDER BY id;
TABLE arrived ORDER BY first;
SELECT * FROM poser_check();
-- the next change comes after it
UPDATE poser_widget SET description = 'Clock, later' WHERE uuid = 'w1';
SELECT op, t, c FROM widgets WHERE uuid = 'w1' ORDER BY c;

-- An insert, an update and a state as at the beginning: the first version is not taken
-- for one that was recorded, whichever way it comes.
CALL again();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'A');
INSERT INTO poser_widget_version VALUES ('w1', 'A', true, 0, 11, 12);
INSERT INTO poser_widget_version VALUES ('w1', 'B', true, 1, 13, 14);
BEGIN;
INSERT INTO poser_widget_version VALUES ('w1', 'A', true, 1, 15, 16);
COMMIT;
TABLE widgets ORDER BY c;
-- all in one transaction, with savepoints
CALL again();
BEGIN;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'A');
SAVEPOINT s;
INSERT INTO poser_widget_version VALUES ('w1', 'A', true, 0, 11, 12);
ROLLBACK TO s;
TABLE widgets ORDER BY c;
SAVEPOINT s;
INSERT INTO poser_widget_version VALUES ('w1', 'A', true, 0, 11, 12);
RELEASE s;
INSERT INTO poser_widget_version VALUES ('w1', 'B', true, 1, 13, 14);
INSERT INTO poser_transaction (id, issued_at, username, role_name, comment, xact)
SELECT n, now(), 'u', 'r', n, '3' FROM unnest('{11,13,15}'::int[]) n;
INSERT INTO poser_widget_version VALUES ('w1', 'A', true, 1, 15, 16);
COMMIT;
TABLE widgets ORDER BY c;
TABLE transactions ORDER BY id;
TABLE arrived ORDER BY first;

-- A transaction that has recorded other rows, too, keeps them.  Its id, and the ids of
-- its versions, can be those of history that arrives: then they get other ones.
CALL again();
SET poser.comment = 'here';
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'A'), ('w2', 'B'), ('w3', 'C');
RESET poser.comment;
INSERT INTO poser_widget_version VALUES ('w1', 'A', true, 0, 2, 3), ('gone', 'G', true, 0, 2, 4), ('gone', 'G', true, 2, 5, 6);
TABLE widgets ORDER BY c;
TABLE transactions ORDER BY id;
INSERT INTO poser_transaction (id, issued_at, username, role_name, comment, xact)
SELECT n, now(), 'u', 'r', n, '3' FROM unnest('{1,2,5}'::int[]) n;
TABLE widgets ORDER BY c;
TABLE transactions ORDER BY id;
TABLE arrived ORDER BY first;
SELECT * FROM poser_check();
-- the id of a transaction can be that of a change, and the other way round
CALL again();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'A');
INSERT INTO poser_widget (uuid, description) VALUES ('w2', 'B');
INSERT INTO poser_component_version VALUES ('c1', 'w1', '1', 'Hand', true, 0, 20, 3), ('c1', 'w1', '1', 'Hand', true, 2, 20, 21);
TABLE widgets ORDER BY c;
INSERT INTO poser_transaction (id, issued_at, username, role_name, xact) VALUES (2, now(), 'u', 'r', '3'), (20, now(), 'u', 'r', '3');
TABLE widgets ORDER BY c;
SELECT id FROM transactions ORDER BY id;
-- in one statement, which needs the same version's id and then its transaction's
CALL again();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'A'), ('w2', 'B');
INSERT INTO poser_transaction (id, issued_at, username, role_name, xact) SELECT n, now(), 'u', 'r', '3' FROM unnest('{2,1,4}'::int[]) n;
TABLE widgets ORDER BY c;
SELECT id FROM transactions ORDER BY id;
TABLE arrived ORDER BY first;
SELECT * FROM poser_check();
-- another table's ids, too
CALL again();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'A'), ('w2', 'B');
INSERT INTO poser_component_version VALUES ('c1', 'w1', '1', 'Hand', true, 0, 1, 2), ('c1', 'w1', '1', 'Hand', true, 2, 3, 4);
TABLE widgets ORDER BY c;
TABLE components ORDER BY c;
TABLE arrived ORDER BY first;

--
-- What stays
--

-- a row that was changed since, one with other values than the table, one that is gone
CALL again();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'A'), ('w2', 'B'), ('w3', 'C');
UPDATE poser_widget SET description = 'A, later' WHERE uuid = 'w1';
SET session_replication_role = replica;
UPDATE poser_widget SET description = 'B, unrecorded' WHERE uuid = 'w2';
DELETE FROM poser_widget WHERE uuid = 'w3';
RESET session_replication_role;
INSERT INTO poser_widget_version VALUES ('w1', 'A', true, 0, 20, 21), ('w2', 'B', true, 0, 20, 22), ('w3', 'C', true, 0, 20, 23);
TABLE widgets ORDER BY c;
-- history that has arrived is not replaced by other history
CALL again();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'A');
INSERT INTO poser_widget_version VALUES ('w1', 'A', true, 0, 20, 21);
INSERT INTO poser_widget_version VALUES ('w1', 'A', true, 0, 30, 31);
TABLE widgets ORDER BY c;

--
-- Errors: ids that are in use by other history
--

CALL again();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'A');
UPDATE poser_widget SET description = 'B';
\set VERBOSITY default
INSERT INTO poser_widget_version VALUES ('w2', 'A', true, 0, 20, 21), ('w2', 'A', true, 1, 1, 2);
\set VERBOSITY terse
INSERT INTO poser_component_version VALUES ('c1', 'w1', '1', 'Hand', true, 0, 20, 4);
INSERT INTO poser_transaction (id, issued_at, username, role_name, xact) VALUES (20, now(), 'u', 'r', '3'), (3, now(), 'u', 'r', '3');
-- nothing has changed
TABLE widgets ORDER BY c;
TABLE arrived;
-- history that has arrived
INSERT INTO poser_transaction (id, issued_at, username, role_name, xact) VALUES (20, now(), 'u', 'r', '3');
INSERT INTO poser_widget_version VALUES ('w2', 'A', true, 0, 20, 21);
INSERT INTO poser_transaction (id, issued_at, username, role_name, xact) VALUES (20, now(), 'u', 'r', '3');
INSERT INTO poser_widget_version VALUES ('w2', 'A', true, 0, 20, 21);
-- what one statement brings twice
INSERT INTO poser_transaction (id, issued_at, username, role_name, xact) VALUES (30, now(), 'u', 'r', '3'), (30, now(), 'u', 'r', '3');
INSERT INTO poser_widget_version VALUES ('w3', 'A', true, 0, 30, 31), ('w4', 'A', true, 0, 30, 31);
-- no ids
INSERT INTO poser_widget_version VALUES ('w3', 'A', true, 0, NULL, 31);
INSERT INTO poser_transaction (issued_at, username, role_name, xact) VALUES (now(), 'u', 'r', '3');
TABLE widgets ORDER BY c;
TABLE transactions ORDER BY id;
-- a change goes on
UPDATE poser_widget SET description = 'C';
SELECT * FROM poser_check();

-- ids that the sequence could not go on from are left to poser_check()
INSERT INTO poser_transaction (id, issued_at, username, role_name, xact) VALUES (9223372036854775807, now(), 'u', 'r', '3');
INSERT INTO poser_widget_version VALUES ('w2', 'A', true, 2, 30, 9223372036854775807);
UPDATE poser_widget SET description = 'D';
SELECT * FROM poser_check();

--
-- COPY FREEZE
--

-- Its rows are told from those of other statements, too: the component's version moves.
CALL again();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'B');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c1', 'w1', '1', 'Hand');
BEGIN;
TRUNCATE poser_widget_version;
COPY poser_widget_version FROM STDIN WITH (FREEZE);
w1	A	t	0	3	4
w1	B	t	1	3	5
\.
COMMIT;
TABLE widgets ORDER BY c;
TABLE components ORDER BY c;
TABLE arrived ORDER BY first;

--
-- Rows of a statement that are not inserted
--

-- Another trigger, or ON CONFLICT, can prevent it.  What was recorded of such a row stays,
-- and so do the versions of a row whose id was needed.
CALL again();
CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN CASE WHEN NEW.description = ''skip'' THEN NULL ELSE NEW END; END';
CREATE TRIGGER z_last BEFORE INSERT ON poser_widget_version FOR EACH ROW EXECUTE FUNCTION skip();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'A'), ('w2', 'B'), ('w3', 'C');
INSERT INTO poser_widget_version VALUES
	('w1', 'skip', true, 0, 20, 21), ('w2', 'B', true, 0, 20, 22), ('w3', 'skip', true, 0, 20, 2), ('w3', 'C', true, 0, 20, 23);
TABLE widgets ORDER BY c;
INSERT INTO poser_transaction (id, issued_at, username, role_name, xact) VALUES (20, now(), 'u', 'r', '3');
SELECT * FROM poser_check();
DROP FUNCTION skip CASCADE;
CALL again();
CREATE UNIQUE INDEX user_made ON poser_widget_version (description);
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'A');
INSERT INTO poser_transaction (id, issued_at, username, role_name, xact) VALUES (20, now(), 'u', 'r', '3');
INSERT INTO poser_widget_version VALUES ('w1', 'A', true, 0, 20, 21), ('w1', 'A', true, 1, 20, 22) ON CONFLICT DO NOTHING;
INSERT INTO poser_widget (uuid, description) VALUES ('w2', 'B');
INSERT INTO poser_widget_version VALUES ('w2', 'A', true, 1, 20, 30) ON CONFLICT DO NOTHING;
DROP INDEX user_made;
TABLE widgets ORDER BY c;
SELECT id FROM transactions ORDER BY id;
SELECT * FROM poser_check();

--
-- Versions that somebody puts back
--

-- They keep their transactions, whatever else these have recorded.
CALL again();
SET poser.comment = 'a and b';
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'A'), ('w2', 'B');
SET poser.comment = 'c';
UPDATE poser_widget SET description = 'C';
RESET poser.comment;
CREATE TABLE kept AS TABLE poser_widget_version;
TRUNCATE poser_widget_version;
INSERT INTO poser_widget_version TABLE kept;
DELETE FROM poser_widget_version WHERE change_id = 2;
INSERT INTO poser_widget_version SELECT * FROM kept WHERE change_id = 2;
SELECT w.*, comment FROM widgets w JOIN transactions ON id = t ORDER BY c;
INSERT INTO poser_widget (uuid, description) VALUES ('w3', 'D');
INSERT INTO poser_widget_version VALUES ('w4', 'gone', true, 0, 4, 10), ('w4', 'gone', true, 2, 4, 11);
SELECT w.*, comment FROM widgets w JOIN transactions ON id = t ORDER BY c;
TABLE arrived ORDER BY first;
SELECT * FROM poser_check();
DROP TABLE kept;

--
-- History first
--

-- In a session with an empty search_path, as a restore sets it, a row is looked up.
CALL again();
INSERT INTO poser_transaction (id, issued_at, username, role_name, comment, xact)
SELECT n, now(), 'u', 'r', n, '3' FROM unnest('{1,4,7}'::int[]) n;
INSERT INTO poser_widget_version VALUES
	('w1', 'A', true, 0, 1, 2), ('w2', 'A', true, 0, 1, 3), ('w1', 'B', true, 1, 4, 5), ('w2', 'A', true, 2, 4, 6);
SELECT set_config('search_path', '', false);
-- the last version is the row; the last version is a delete; another value; no version
INSERT INTO public.poser_widget (uuid, description) VALUES ('w1', 'B');
COPY public.poser_widget (uuid, description) FROM STDIN;
w2	A
w3	C
\.
RESET search_path;
TABLE widgets ORDER BY c;
SELECT * FROM poser_check();
CALL again();
INSERT INTO poser_widget_version VALUES ('w1', 'A', true, 0, 1, 2), ('w2', 'A', true, 0, 1, 3);
SET search_path = '';
INSERT INTO public.poser_widget (uuid, description) VALUES ('w1', 'A'), ('w2', 'B');
RESET search_path;
TABLE public.widgets ORDER BY c;
-- in another session a row is recorded like any other
CALL again();
INSERT INTO poser_widget_version VALUES ('w1', 'A', true, 0, 1, 2);
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'A');
TABLE widgets ORDER BY c;

--
-- A session that looks like a restore loses nothing
--

CALL again();
SELECT poser_datasync_add('erp', 'now');
SET row_security = off;
SELECT set_config('search_path', '', false);
INSERT INTO public.poser_widget (uuid, description) VALUES ('w1', 'A'), ('w2', 'B');
COPY public.poser_component (uuid, widget_uuid, item_code, description) FROM STDIN;
c1	w1	1	Hand
\.
DELETE FROM public.poser_widget WHERE uuid = 'w2';
INSERT INTO public.poser_widget (uuid, description) VALUES ('w2', 'B');
RESET search_path;
RESET row_security;
SELECT payload_type, payload_key, deletion FROM poser_datasync_changes('erp') ORDER BY change_id;
SELECT * FROM poser_check();
SELECT poser_datasync_drop('erp');

--
-- Ids never go back
--

-- The sequence is set below ids that are in use, as a dump's setval() can do it.
CALL again();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'A'), ('w2', 'B');
SELECT setval('poser_change_id_seq', 1);
INSERT INTO poser_widget (uuid, description) VALUES ('w3', 'C');
SELECT setval('poser_change_id_seq', 2);
BEGIN;
INSERT INTO poser_widget (uuid, description) VALUES ('w4', 'D');
SELECT setval('poser_change_id_seq', 1);
INSERT INTO poser_widget (uuid, description) VALUES ('w5', 'E');
COMMIT;
INSERT INTO poser_component_version VALUES ('c1', 'w1', '1', 'Hand', true, 0, 100, 101), ('c1', 'w1', '1', 'Hand', true, 2, 100, 102);
SELECT setval('poser_change_id_seq', 20);
INSERT INTO poser_widget (uuid, description) VALUES ('w6', 'F');
TABLE widgets ORDER BY c;
SELECT id FROM transactions ORDER BY id;

--
-- Other tables and columns
--

-- A table of versions of a table that is not Poser's can have the same triggers.  Its key
-- has two columns, whose index has another order.
CALL again();
CREATE TABLE public.price (item int, "Valid from" date, price numeric, note text, PRIMARY KEY ("Valid from", item));
CREATE TABLE public.price_version (note text, "Valid from" date, item int, price numeric,
	operation_type smallint, transaction_id bigint, change_id bigint PRIMARY KEY);
CREATE INDEX ON price_version (item, "Valid from", change_id);
CREATE TRIGGER before BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON price
	FOR EACH STATEMENT EXECUTE FUNCTION poser_version('price_version', 'item', 'Valid from');
CREATE TRIGGER after AFTER INSERT ON price REFERENCING NEW TABLE AS n
	FOR EACH STATEMENT EXECUTE FUNCTION poser_version('price_version', 'item', 'Valid from');
-- before it has them, the rows of a restore are not recorded, because nothing would replace them
SET row_security = off;
SELECT set_config('search_path', '', false);
INSERT INTO public.price VALUES (0, '2026-01-01', 1, '');
RESET search_path;
RESET row_security;
SELECT count(*) FROM price_version;
TRUNCATE price;
TRUNCATE price_version, poser_transaction;
CREATE TRIGGER arrive_before BEFORE INSERT ON price_version FOR EACH STATEMENT EXECUTE FUNCTION poser_arrive('price', 'item', 'Valid from');
CREATE TRIGGER arrive BEFORE INSERT ON price_version FOR EACH ROW EXECUTE FUNCTION poser_arrive('price', 'item', 'Valid from');
CREATE TRIGGER arrive_after AFTER INSERT ON price_version FOR EACH STATEMENT EXECUTE FUNCTION poser_arrive('price', 'item', 'Valid from');
INSERT INTO price VALUES (1, '2026-01-01', 9.90, 'a'), (1, '2026-02-01', 9.9, NULL), (2, '2026-01-01', 5, 'c');
INSERT INTO price_version (item, "Valid from", price, note, operation_type, transaction_id, change_id)
VALUES (1, '2026-01-01', 8, 'a', 0, 1, 2), (1, '2026-02-01', 9.9, NULL, 0, 1, 3), (1, '2026-01-01', 9.90, 'a', 1, 4, 5);
SELECT item, "Valid from", price, note, operation_type AS op, transaction_id AS t, change_id AS c FROM price_version ORDER BY c;
TABLE arrived ORDER BY first;
-- its ids are not those of another history
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'A');
UPDATE poser_widget SET active = false;
INSERT INTO price_version (item, "Valid from", operation_type, transaction_id, change_id) SELECT 3, '2026-01-01', 0, 100, max(c) FROM widgets;
DROP TABLE price, price_version;

-- columns that were dropped, added and renamed since
CALL again();
DROP VIEW components;
ALTER TABLE poser_component DROP COLUMN item_code;
ALTER TABLE poser_component ADD COLUMN color text;
ALTER TABLE poser_component_version ADD COLUMN colour text;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'A');
INSERT INTO poser_component (uuid, widget_uuid, description, color) VALUES ('c1', 'w1', 'B', 'red'), ('c2', 'w1', 'B', NULL);
ALTER TABLE poser_component_version RENAME COLUMN colour TO color;
INSERT INTO poser_component (uuid, widget_uuid, description, color) VALUES ('c3', 'w1', 'B', 'red'), ('c4', 'w1', 'B', NULL);
-- c1 has an unrecorded color, so it is not what was recorded
INSERT INTO poser_component_version (uuid, widget_uuid, item_code, description, active, color, operation_type, transaction_id, change_id)
SELECT 'c' || n, 'w1', 'dropped', 'B', true, NULL, 0, 20, 20 + n FROM generate_series(1, 4) n;
SELECT uuid, item_code, color, operation_type AS op, transaction_id AS t, change_id AS c FROM poser_component_version ORDER BY c;
DROP EXTENSION poser CASCADE;
DROP PROCEDURE again;
