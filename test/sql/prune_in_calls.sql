-- Pruning in calls with max_versions: each goes on where the last one has stopped, and in
-- the end all is removed that one call without max_versions removes.

\set VERBOSITY terse
CREATE EXTENSION poser;

-- blocks(statement): how many blocks a statement reads that gives one number, and the number
CREATE FUNCTION blocks(statement text, OUT blocks bigint, OUT result bigint) LANGUAGE plpgsql AS $$
DECLARE
	plan json;
BEGIN
	EXECUTE 'EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) CREATE TEMP TABLE results AS ' || statement || ' AS result' INTO plan;
	blocks := (plan->0->'Plan'->>'Shared Hit Blocks')::bigint + (plan->0->'Plan'->>'Shared Read Blocks')::bigint;
	SELECT results.result INTO result FROM results;
	DROP TABLE results;
END
$$;
-- what pruning up to now would still remove
CREATE VIEW left_over AS
SELECT change_id FROM (SELECT change_id, lead(change_id) OVER (PARTITION BY uuid ORDER BY change_id) AS next FROM poser_widget_version) AS v WHERE next IS NOT NULL
UNION ALL
SELECT change_id FROM (SELECT change_id, lead(change_id) OVER (PARTITION BY uuid ORDER BY change_id) AS next FROM poser_component_version) AS v WHERE next IS NOT NULL;

-- 200 widgets with 100 versions each, of which half are old
CREATE TABLE log (call serial, blocks bigint, result bigint);
ALTER TABLE poser_widget_version SET (autovacuum_enabled = false);
INSERT INTO poser_widget (uuid, description) SELECT md5(w::text), '1' FROM generate_series(1, 200) AS w;
DO $$ BEGIN FOR v IN 2 .. 100 LOOP UPDATE poser_widget SET description = v; PERFORM set_config('poser.comment', v::text, true); END LOOP; END $$;
SELECT count(*) AS versions, count(DISTINCT transaction_id) AS transactions FROM poser_widget_version;
UPDATE poser_transaction SET issued_at = now() - interval '1 year' WHERE comment::int < 50 OR comment IS NULL;
VACUUM ANALYZE poser_widget_version, poser_transaction;
-- The last call also reads catalogs, in which earlier tests have left many dead rows.
VACUUM pg_attribute, pg_class;

-- Each call reads as much as the first, and the last one no more.  At this size the
-- planner would read the whole table to delete a part of it.
SET enable_seqscan = off;
SET enable_bitmapscan = off;
DO $$ BEGIN FOR n IN 1 .. 11 LOOP INSERT INTO log (blocks, result) SELECT * FROM blocks($q$SELECT poser_prune_versions('1 day', 1000)$q$); END LOOP; END $$;
SELECT call, result, blocks < 1.3 * (SELECT blocks FROM log WHERE call = 1) AS as_the_first FROM log ORDER BY call;
-- When nothing is left, the next call reads no versions.
SELECT result, blocks < 100 AS few FROM blocks($$SELECT poser_prune_versions('1 day', 1000)$$);
-- The same is left as after a call without max_versions.
SELECT poser_prune_versions('1 day');
SELECT count(*), min(description::int), max(description::int) FROM poser_widget_version;
SELECT min(comment::int), count(*) FROM poser_transaction;
SELECT transaction_id = (SELECT min(id) FROM poser_transaction) AS transaction_is_right,
       change_id = (SELECT max(change_id) FROM poser_widget_version WHERE transaction_id = h.transaction_id) AS change_is_right
  FROM poser_version_horizon AS h;
SELECT relation, change_id, key, transaction_id = full_until AS looked_at_all FROM poser_prune_position ORDER BY relation;
SELECT * FROM poser_check();

-- A single row with many versions: a call does not read again what was removed.
TRUNCATE log;
INSERT INTO poser_widget (uuid, description) VALUES ('w', '');
DO $$ BEGIN FOR v IN 1 .. 5000 LOOP UPDATE poser_widget SET description = v WHERE uuid = 'w'; END LOOP; END $$;
SELECT poser_prune_versions('0', 4000);
VACUUM ANALYZE poser_widget_version;
SELECT count(*) > 1 AS more FROM left_over;
DO $$ BEGIN FOR n IN 1 .. 10 LOOP INSERT INTO log (blocks, result) SELECT * FROM blocks($q$SELECT poser_prune_versions('0', 1000)$q$); END LOOP; END $$;
SELECT result, count(*), (array_agg(blocks ORDER BY call DESC))[1] <= (array_agg(blocks ORDER BY call))[1] AS last_no_more FROM log WHERE result = 1000 GROUP BY result;
SELECT count(*) FROM left_over;

RESET enable_seqscan;
RESET enable_bitmapscan;

-- Nothing stays behind a position.  The first call stops at the last of three widgets.
-- Then the first widget changes.
TRUNCATE poser_component;
DELETE FROM poser_widget;
SELECT poser_prune_versions('0') > 0 AS pruned;
INSERT INTO poser_widget (uuid, description) VALUES ('a', '1'), ('b', '1'), ('c', '1');
UPDATE poser_widget SET description = '2';
UPDATE poser_widget SET description = '3';
SELECT poser_prune_versions('0', 5), count(*) FROM left_over;
SELECT relation, key FROM poser_prune_position WHERE key IS NOT NULL;
UPDATE poser_widget SET description = '4' WHERE uuid = 'a';
SELECT poser_prune_versions('0', 5);
SELECT count(*) FROM left_over;
SELECT * FROM poser_check();

-- After a round, only rows with versions that have become old are looked at.
UPDATE poser_widget SET description = '5' WHERE uuid = 'b';
SELECT poser_prune_versions('0', 1000);
SELECT relation, key, transaction_id > full_until AS looked_at_some FROM poser_prune_position ORDER BY relation;
SELECT count(*) FROM left_over;
INSERT INTO poser_widget (uuid, description) VALUES ('d', '1');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('d1', 'd', '1', '1');
UPDATE poser_component SET description = '2';
DELETE FROM poser_widget WHERE uuid = 'a';
SELECT poser_prune_versions('0', 1);
SELECT poser_prune_versions('0', 1);
SELECT poser_prune_versions('0', 1);
SELECT count(*) FROM left_over;
SELECT * FROM poser_check();

-- A call with another age removes no more than it should, and later ones the rest.
UPDATE poser_widget SET description = '6';
UPDATE poser_transaction SET issued_at = now() - interval '2 years';
UPDATE poser_widget SET description = '7';
UPDATE poser_widget SET description = '8';
SELECT poser_prune_versions('0', 2);
SELECT poser_prune_versions('1 year', 100);
SELECT uuid, description FROM poser_widget_version WHERE length(uuid) = 1 AND uuid <> 'w' ORDER BY uuid, change_id;
SELECT * FROM poser_widget_as_of(now()) ORDER BY uuid;
SELECT poser_prune_versions('0', 100);
SELECT count(*) FROM left_over;
SELECT * FROM poser_check();

-- A call in the transaction that writes, twice, and one that is rolled back
BEGIN;
UPDATE poser_widget SET description = '9';
SELECT poser_prune_versions('0', 100);
UPDATE poser_widget SET description = '10';
SELECT poser_prune_versions('0', 100);
UPDATE poser_widget SET description = '11';
COMMIT;
SELECT count(*) FROM left_over;
BEGIN;
SELECT poser_prune_versions('0', 100);
ROLLBACK;
SELECT count(*) FROM left_over;
BEGIN;
SAVEPOINT s;
SELECT poser_prune_versions('0', 100);
ROLLBACK TO s;
SELECT poser_prune_versions('0', 100);
COMMIT;
SELECT count(*) FROM left_over;

-- A consumer keeps what it needs.
SELECT poser_datasync_add('erp');
UPDATE poser_widget SET description = '12';
UPDATE poser_widget SET description = '13';
SELECT poser_prune_versions('0', 100);
SELECT poser_datasync_drop('erp');
SELECT poser_prune_versions('0', 100);
SELECT count(*) FROM left_over;

-- Without the index for it each call reads all versions, and removes the same.
DROP INDEX poser_widget_version_idx_key;
UPDATE poser_widget SET description = '14';
SELECT poser_prune_versions('0', 2);
SELECT count(*) FROM poser_prune_position WHERE key IS NOT NULL;
SELECT poser_prune_versions('0', 2);
SELECT count(*) FROM left_over;
CREATE INDEX poser_widget_version_idx_key ON poser_widget_version (uuid, change_id);
-- Rows of the positions can be removed.
UPDATE poser_widget SET description = '15';
SELECT poser_prune_versions('0', 2);
SELECT count(*) FROM poser_prune_position WHERE key IS NOT NULL;
DELETE FROM poser_prune_position;
SELECT poser_prune_versions('0', 2);
SELECT count(*) FROM left_over;
SELECT * FROM poser_check();

-- Old transactions without versions go, too, when a table of versions was dropped: with
-- the next call without max_versions, or when there are later transactions.
CREATE TABLE archive AS SELECT operation_type, transaction_id, change_id FROM poser_widget_version WHERE uuid = 'c';
UPDATE poser_widget SET description = '16';
SELECT poser_prune_versions('0', 1000);
SELECT count(*) FROM poser_transaction WHERE id IN (SELECT transaction_id FROM archive);
CREATE TABLE kept AS SELECT transaction_id FROM archive;
DROP TABLE archive;
SELECT poser_prune_versions('0', 1000);
SELECT count(*) FROM poser_transaction WHERE id IN (TABLE kept);
UPDATE poser_widget SET description = '17' WHERE uuid = 'c';
SELECT poser_prune_versions('0', 1000);
SELECT count(*) FROM poser_transaction WHERE id IN (TABLE kept);
SELECT * FROM poser_check();

-- Transactions that are known to be old are not read again.
SELECT nextval('poser_change_id_seq') AS gap \gset
DO $$ BEGIN FOR t IN 1 .. 20000 LOOP PERFORM set_config('poser.comment', t::text, true); INSERT INTO poser_widget (uuid, description) VALUES (t, ''); END LOOP; END $$;
UPDATE poser_transaction SET issued_at = now() - interval '2 years';
VACUUM ANALYZE poser_transaction, poser_widget_version;
SELECT poser_prune_versions('1 year', 1000);
SELECT result, blocks < 150 AS few FROM blocks($$SELECT poser_prune_versions('1 year', 1000)$$);
UPDATE poser_widget SET description = 'x' WHERE uuid IN ('7', '8', '9');
UPDATE poser_transaction SET issued_at = now() - interval '2 years' WHERE issued_at > now() - interval '1 year';
SELECT result, blocks < 150 AS few FROM blocks($$SELECT poser_prune_versions('1 year', 2)$$);
-- One that arrives later is read, and one that is older than the last call wanted is no hindrance.
INSERT INTO poser_transaction (id, issued_at, username, role_name, xact) VALUES (:gap, now(), '', '', '3');
SELECT poser_prune_versions('1 year', 2);
SELECT poser_prune_versions('3 years', 2);
SELECT poser_prune_versions('0', 2);
SELECT count(*) FROM left_over;

-- Only the owner can call it, also if the positions belong to another role.
SET client_min_messages = warning;
CREATE ROLE regress_poser_other;
RESET client_min_messages;
SET ROLE regress_poser_other;
SELECT poser_prune_versions('0', 1000);
RESET ROLE;

DROP TABLE kept, log;
DROP VIEW left_over;
DROP FUNCTION blocks;
DROP EXTENSION poser;
DROP ROLE regress_poser_other;
