-- Versions: every kind of statement that writes leaves one version for each changed
-- row.

\set VERBOSITY sqlstate
CREATE EXTENSION poser;

-- Views changes and wrong_histories, procedure start_afresh().
\getenv test PG_ABS_SRCDIR
\set file :test '/include/versions.sql'
\i :file

--
-- INSERT, UPDATE, DELETE
--
SELECT clock_timestamp() AS begun \gset
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one');
UPDATE poser_widget SET description = 'first' WHERE uuid = 'w1';
UPDATE poser_widget SET active = false;
DELETE FROM poser_widget;
TABLE changes;
TABLE wrong_histories;
-- each was a transaction, with its user, time and client
SELECT count(*), bool_and(username = session_user) AS username, bool_and(role_name = current_user) AS role_name,
       bool_and(comment IS NULL) AS comment, bool_and(remote_addr IS NOT DISTINCT FROM inet_client_addr()) AS remote_addr,
       bool_and(application_name = current_setting('application_name')) AS application_name,
       bool_and(issued_at BETWEEN :'begun' AND clock_timestamp()) AS issued_at,
       bool_and(xact < pg_current_xact_id()) AS xact, count(DISTINCT xact)
  FROM poser_transaction;
-- ids follow time
SELECT bool_and(issued_at >= before) AS later
  FROM (SELECT issued_at, lag(issued_at) OVER (ORDER BY id) AS before FROM poser_transaction) AS pair;
-- Transactions and changes share a sequence: a change's id is greater than its
-- transaction's and less than the next transaction's.
SELECT count(DISTINCT id) = count(*) AS distinct
  FROM (SELECT id FROM poser_transaction UNION ALL SELECT change_id FROM poser_widget_version) AS ids;
SELECT bool_and(change_id < next) AS before_the_next
  FROM poser_widget_version JOIN (SELECT id, lead(id) OVER (ORDER BY id) AS next FROM poser_transaction) AS pair
       ON id = transaction_id;

-- many rows
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one'), ('w2', 'two');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description)
SELECT 'c' || i, 'w' || i % 2 + 1, i, '' FROM generate_series(1, 4) AS i;
UPDATE poser_component SET active = false, widget_uuid = 'w2' WHERE item_code < '3';
DELETE FROM poser_component WHERE NOT active;
TABLE changes;
TABLE wrong_histories;

-- more rows than are kept in memory
INSERT INTO poser_component (widget_uuid, item_code, description) SELECT 'w1', 'many', i FROM generate_series(1, 2345) AS i;
UPDATE poser_component SET description = description || repeat('x', 200) WHERE item_code = 'many';
UPDATE poser_component SET uuid = md5(uuid) WHERE item_code = 'many';
DELETE FROM poser_component WHERE item_code = 'many';
SELECT operation, count(*), min(length("values")), max(length("values"))
  FROM changes WHERE "values" LIKE '% many %' GROUP BY transaction, operation ORDER BY transaction, min(operation) DESC;
TABLE wrong_histories;

-- COPY
CALL start_afresh();
COPY poser_widget (uuid, description) FROM STDIN;
w1	one
w2	two
\.
COPY poser_component (uuid, widget_uuid, item_code, description) FROM STDIN;
c1	w1	1	a
c2	w2	2	b
\.
TABLE changes;
TABLE wrong_histories;

-- through a view, a rule, a function, a prepared statement, a cursor
CREATE VIEW active_widget AS SELECT uuid, description FROM poser_widget WHERE active;
CREATE RULE components_follow AS ON INSERT TO active_widget
	DO ALSO INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('of ' || NEW.uuid, NEW.uuid, '', '');
CREATE FUNCTION rename(widget varchar, name varchar) RETURNS varchar LANGUAGE sql AS
	'UPDATE poser_widget SET description = name WHERE uuid = widget RETURNING description';
PREPARE forget(varchar) AS DELETE FROM poser_component WHERE uuid = $1;
CALL start_afresh();
INSERT INTO active_widget VALUES ('w1', 'one'), ('w2', 'two');
SELECT rename('w1', 'first'), rename('w2', 'second');
EXECUTE forget('of w1');
BEGIN;
DECLARE each CURSOR FOR SELECT * FROM poser_component FOR UPDATE;
FETCH FROM each;
UPDATE poser_component SET active = false WHERE CURRENT OF each;
COMMIT;
TABLE changes;
TABLE wrong_histories;
DROP VIEW active_widget;
DROP FUNCTION rename;
DEALLOCATE forget;

--
-- A statement that changes nothing leaves nothing: no version, no transaction
--
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) SELECT 'w1', 'one' WHERE false;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one'), ('w2', 'two');
SELECT count(*) FROM poser_transaction;
UPDATE poser_widget SET description = description, active = true, uuid = uuid;
UPDATE poser_widget SET active = false WHERE uuid = 'w3';
DELETE FROM poser_widget WHERE uuid = 'w3';
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'other') ON CONFLICT DO NOTHING;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one')
	ON CONFLICT (uuid) DO UPDATE SET description = excluded.description;
MERGE INTO poser_widget USING (VALUES ('w1'), ('w3')) AS source (uuid) ON poser_widget.uuid = source.uuid
	WHEN MATCHED THEN UPDATE SET active = true WHEN NOT MATCHED THEN DO NOTHING;
TRUNCATE poser_component;
SELECT count(*) FROM poser_transaction;
-- only the rows that it changes
UPDATE poser_widget SET description = 'two';
-- upper and lower case and trailing spaces are changes
UPDATE poser_widget SET description = 'Two' WHERE uuid = 'w1';
UPDATE poser_widget SET description = 'Two ' WHERE uuid = 'w1';
TABLE changes;
TABLE wrong_histories;

--
-- TRUNCATE
--
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c1', 'w1', '1', ''), ('c2', 'w1', '2', '');
TRUNCATE poser_component;
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c1', 'w1', '1', 'again');
TRUNCATE poser_widget, poser_component;
TABLE changes;
TABLE wrong_histories;
-- The transaction's own rows, written before and after.  Dead rows are not recorded.
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w0', 'dead');
DELETE FROM poser_widget;
BEGIN;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one');
UPDATE poser_widget SET description = 'first';
TRUNCATE poser_widget CASCADE;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'again');
COMMIT;
TABLE changes;
TABLE wrong_histories;

--
-- ON CONFLICT
--
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one'), ('w2', 'two'), ('w3', 'three');
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'first'), ('w4', 'four'), ('w3', 'three'), ('w2', 'not this')
	ON CONFLICT (uuid) DO UPDATE SET description = excluded.description WHERE excluded.description <> 'not this';
INSERT INTO poser_widget (uuid, description) VALUES ('w4', 'fourth'), ('w5', 'five') ON CONFLICT DO NOTHING;
-- the update changes the key, and the next row takes it
INSERT INTO poser_widget (uuid, description) VALUES ('w5', 'moves'), ('w5', 'comes')
	ON CONFLICT (uuid) DO UPDATE SET uuid = 'w6', description = excluded.description;
TABLE changes;
TABLE wrong_histories;

--
-- MERGE
--
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES
	('c1', 'w1', '1', ''), ('c2', 'w1', '2', ''), ('c3', 'w1', '3', ''), ('c4', 'w1', '4', '');
MERGE INTO poser_component AS target
USING (VALUES ('c1', 'delete'), ('c2', 'update'), ('c3', 'leave'), ('c5', 'insert'), ('c6', 'leave')) AS source (uuid, what)
   ON target.uuid = source.uuid
 WHEN MATCHED AND what = 'delete' THEN DELETE
 WHEN MATCHED AND what = 'update' THEN UPDATE SET active = false
 WHEN MATCHED THEN DO NOTHING
 WHEN NOT MATCHED AND what = 'insert' THEN
	INSERT (uuid, widget_uuid, item_code, description) VALUES (source.uuid, 'w1', '5', '');
TABLE changes;
TABLE wrong_histories;
-- an insert takes a key that a delete or an update has freed
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'old'), ('w2', 'moves');
MERGE INTO poser_widget AS target
USING (VALUES ('w1'), (NULL)) AS source (uuid) ON target.uuid = source.uuid
 WHEN MATCHED THEN DELETE
 WHEN NOT MATCHED THEN INSERT (uuid, description) VALUES ('w1', 'new');
MERGE INTO poser_widget AS target
USING (VALUES ('w2'), (NULL)) AS source (uuid) ON target.uuid = source.uuid
 WHEN MATCHED THEN UPDATE SET uuid = 'w3'
 WHEN NOT MATCHED THEN INSERT (uuid, description) VALUES ('w2', 'new');
TABLE changes;
TABLE wrong_histories;
-- an update takes it
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'goes'), ('w2', 'moves');
MERGE INTO poser_widget AS target
USING (VALUES ('w1'), ('w2')) AS source (uuid) ON target.uuid = source.uuid
 WHEN MATCHED AND target.uuid = 'w1' THEN DELETE
 WHEN MATCHED THEN UPDATE SET uuid = 'w1';
TABLE changes;
TABLE wrong_histories;

--
-- Several parts of one query
--
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES
	('c1', 'w1', '1', ''), ('c2', 'w1', '2', ''), ('c3', 'w1', '3', '');
WITH widget AS (INSERT INTO poser_widget (uuid, description) VALUES ('w2', 'two') RETURNING uuid),
deleted AS (DELETE FROM poser_component WHERE uuid = 'c1'),
updated AS (UPDATE poser_component SET active = false WHERE uuid = 'c2' RETURNING *)
INSERT INTO poser_component (uuid, widget_uuid, item_code, description)
SELECT 'c4', uuid, '4', '' FROM widget;
-- Different rows may be changed in any order.
SELECT transaction, relation, operation, uuid, "values" FROM changes ORDER BY transaction, relation, uuid;
TABLE wrong_histories;

-- a row is deleted and inserted again
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one'), ('w2', 'two'), ('w3', 'three');
WITH deleted AS (DELETE FROM poser_widget WHERE uuid = 'w1' RETURNING *)
INSERT INTO poser_widget SELECT uuid, 'again', active FROM deleted;
-- the same row as before
WITH deleted AS (DELETE FROM poser_widget WHERE uuid = 'w1' RETURNING *)
INSERT INTO poser_widget SELECT * FROM deleted;
TABLE changes;
TABLE wrong_histories;
-- the inserting part ends before the deleting part
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one'), ('w2', 'two'), ('w3', 'three');
WITH deleted AS (DELETE FROM poser_widget RETURNING *)
INSERT INTO poser_widget SELECT uuid, 'again', active FROM deleted LIMIT 1;
TABLE changes;
TABLE wrong_histories;
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one'), ('w2', 'two');
WITH deleted AS (DELETE FROM poser_widget RETURNING *)
INSERT INTO poser_widget SELECT * FROM deleted LIMIT 1;
TABLE changes;
TABLE wrong_histories;
-- a key that an update freed; the update ends before or after the insert
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one'), ('w2', 'two');
WITH moved AS (UPDATE poser_widget SET uuid = uuid || '0' WHERE uuid = 'w1' RETURNING *)
INSERT INTO poser_widget SELECT 'w1', 'new', active FROM moved;
WITH moved AS (UPDATE poser_widget SET uuid = uuid || '9' WHERE uuid <> 'w10' RETURNING *)
INSERT INTO poser_widget SELECT left(uuid, 2), 'newer', active FROM moved LIMIT 1;
TABLE changes;
TABLE wrong_histories;
-- an update takes the key that a delete freed, and ends before it
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one'), ('w2', 'two'), ('w3', 'three');
WITH deleted AS (DELETE FROM poser_widget WHERE uuid <> 'w3' RETURNING uuid)
UPDATE poser_widget SET uuid = (SELECT uuid FROM deleted LIMIT 1) WHERE uuid = 'w3';
TABLE changes;
TABLE wrong_histories;
-- two parts update one row: only one of them does
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one');
WITH updated AS (UPDATE poser_widget SET description = 'a or b' RETURNING *)
UPDATE poser_widget SET description = 'a or b';
WITH deleted AS (DELETE FROM poser_widget RETURNING *)
UPDATE poser_widget SET active = false FROM deleted WHERE deleted.uuid = poser_widget.uuid;
TABLE changes;
TABLE wrong_histories;

--
-- Actions of foreign keys
--
ALTER TABLE poser_component DROP CONSTRAINT poser_component_fk_widget,
	ADD CONSTRAINT poser_component_fk_widget FOREIGN KEY (widget_uuid) REFERENCES poser_widget ON DELETE CASCADE ON UPDATE CASCADE;
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one'), ('w2', 'two');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c1', 'w1', '1', ''), ('c2', 'w1', '2', ''), ('c3', 'w2', '3', '');
UPDATE poser_widget SET uuid = 'w3' WHERE uuid = 'w1';
DELETE FROM poser_widget WHERE uuid = 'w3';
SELECT transaction, relation, operation, uuid, "values" FROM changes ORDER BY transaction, relation DESC, uuid, operation;
TABLE wrong_histories;
-- SET NULL fails and leaves nothing
ALTER TABLE poser_component DROP CONSTRAINT poser_component_fk_widget,
	ADD CONSTRAINT poser_component_fk_widget FOREIGN KEY (widget_uuid) REFERENCES poser_widget ON DELETE SET NULL;
DELETE FROM poser_widget WHERE uuid = 'w2';
SELECT max(transaction) FROM changes;
ALTER TABLE poser_component ALTER widget_uuid SET DEFAULT 'w9', DROP CONSTRAINT poser_component_fk_widget,
	ADD CONSTRAINT poser_component_fk_widget FOREIGN KEY (widget_uuid) REFERENCES poser_widget ON DELETE SET DEFAULT;
INSERT INTO poser_widget (uuid, description) VALUES ('w9', 'for those that have none');
DELETE FROM poser_widget WHERE uuid = 'w2';
SELECT relation, operation, uuid, "values" FROM changes
 WHERE transaction = (SELECT max(transaction) FROM changes) ORDER BY relation;
ALTER TABLE poser_component ALTER widget_uuid DROP DEFAULT, DROP CONSTRAINT poser_component_fk_widget,
	ADD CONSTRAINT poser_component_fk_widget FOREIGN KEY (widget_uuid) REFERENCES poser_widget;
TABLE wrong_histories;

--
-- A changed key is a delete of the old key and an insert of the new one
--
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w3', 'three'), ('w2', 'two'), ('w1', 'one');
UPDATE poser_widget SET uuid = 'w9', active = false WHERE uuid = 'w3';
-- a row takes the key of another
UPDATE poser_widget SET uuid = 'w' || right(uuid, 1)::int + 1 WHERE uuid IN ('w1', 'w2');
TABLE changes;
TABLE wrong_histories;
-- two rows swap keys; poser_check() warns of the deferrable key
ALTER TABLE poser_component DROP CONSTRAINT poser_component_pkey, ADD CONSTRAINT poser_component_pkey PRIMARY KEY (uuid) DEFERRABLE;
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c1', 'w1', '1', 'one'), ('c2', 'w1', '2', 'two');
UPDATE poser_component SET uuid = CASE uuid WHEN 'c1' THEN 'c2' ELSE 'c1' END;
TABLE changes;
TABLE wrong_histories;
-- Two rows have the same key until the constraint is checked.  The history ends in
-- the row that is left.
CALL start_afresh();
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c1', 'w1', '1', 'one'), ('c2', 'w1', '2', 'two');
BEGIN;
SET CONSTRAINTS poser_component_pkey DEFERRED;
UPDATE poser_component SET uuid = 'c1' WHERE item_code = '2';
UPDATE poser_component SET uuid = 'c2' WHERE item_code = '1';
COMMIT;
BEGIN;
SET CONSTRAINTS poser_component_pkey DEFERRED;
UPDATE poser_component SET uuid = 'c1';
DELETE FROM poser_component WHERE item_code = '1';
COMMIT;
SELECT uuid, item_code FROM poser_component;
SELECT operation, uuid, item_code FROM poser_component_history('c1') LIMIT 1;
SELECT operation, uuid, item_code FROM poser_component_history('c2') LIMIT 1;
TABLE wrong_histories;
ALTER TABLE poser_component DROP CONSTRAINT poser_component_pkey, ADD CONSTRAINT poser_component_pkey PRIMARY KEY (uuid);
TABLE wrong_histories;

DROP PROCEDURE start_afresh;
DROP VIEW changes, wrong_histories;
DROP EXTENSION poser;
