-- Consumers: which changes they get, and how they confirm them.

\set VERBOSITY sqlstate
CREATE EXTENSION poser;
CREATE VIEW status AS
	SELECT consumer, pending, oldest IS NOT NULL AS oldest, age >= '0' AS age, stale, holds_pruning,
	       last_confirmed_at IS NOT NULL AS confirmed, attempts, last_error
	  FROM poser_datasync_status ORDER BY consumer;

SET poser.runas = 'alice';
INSERT INTO poser_widget (uuid, description) VALUES ('lamp', 'Lamp'), ('chair', 'Chair');
SET poser.runas = 'bob';

-- A consumer begins now, or at the beginning.
SELECT poser_datasync_add('erp');
SELECT poser_datasync_add('shop', 'beginning');
SELECT * FROM poser_datasync_changes('erp');
SELECT change_id, username, issued_at <= now() AS issued, payload_type, payload_key, deletion, payload
  FROM poser_datasync_changes('shop');

-- A change has the row after it.  A deletion has the last values of the row.
BEGIN;
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('foot', 'lamp', '001', 'Foot');
UPDATE poser_component SET description = 'Feet', active = false;
SAVEPOINT s;
UPDATE poser_component SET description = 'not kept';
INSERT INTO poser_widget (uuid, description) VALUES ('table', 'not kept');
ROLLBACK TO s;
DELETE FROM poser_component;
COMMIT;
BEGIN;
DELETE FROM poser_widget;
ROLLBACK;
UPDATE poser_widget SET uuid = 'stool' WHERE uuid = 'chair';
UPDATE poser_widget SET active = active;
SELECT change_id, username, payload_type, payload_key, deletion, payload FROM poser_datasync_changes('erp');
SELECT count(DISTINCT transaction_id) FROM poser_datasync_changes('erp');
SELECT * FROM status;

-- Changes come again until they are confirmed.  A part can be confirmed.
SELECT change_id FROM poser_datasync_changes('erp', 2);
SELECT change_id FROM poser_datasync_changes('erp', 1);
SELECT poser_datasync_confirm('erp', 6);
SELECT change_id, payload_key, deletion FROM poser_datasync_changes('erp', 3);
SELECT * FROM status WHERE consumer = 'erp';

-- Newer changes come after all of the delivered ones are confirmed.
INSERT INTO poser_widget (uuid, description) VALUES ('sofa', 'Sofa');
SELECT change_id FROM poser_datasync_changes('erp');
SELECT * FROM status WHERE consumer = 'erp';
SELECT poser_datasync_confirm('erp', max(change_id)) FROM poser_datasync_changes('erp');
SELECT change_id, payload_key FROM poser_datasync_changes('erp');
SELECT poser_datasync_confirm('erp', max(change_id)) FROM poser_datasync_changes('erp');
SELECT change_id FROM poser_datasync_changes('erp');
-- There are no rows, so there is nothing to confirm.
SELECT poser_datasync_confirm('erp', max(change_id)) FROM poser_datasync_changes('erp');
SELECT * FROM status;

-- Confirming again does nothing.  Only what was delivered can be confirmed.
SELECT poser_datasync_confirm('erp', 6);
SELECT poser_datasync_confirm('erp', max(change_id)) FROM poser_widget_version;
INSERT INTO poser_widget (uuid, description) VALUES ('bed', 'Bed'), ('desk', 'Desk');
SELECT poser_datasync_confirm('erp', max(change_id)) FROM poser_widget_version;
SELECT change_id FROM poser_datasync_changes('erp', 1);
SELECT poser_datasync_confirm('erp', max(change_id)) FROM poser_widget_version;
SELECT poser_datasync_confirm('erp', 1000000);
SELECT poser_datasync_confirm('erp', -1);
SELECT poser_datasync_confirm('erp', min(change_id)) FROM poser_datasync_changes('erp');
SELECT change_id, payload_key FROM poser_datasync_changes('erp');
-- A transaction's id is no change.
SELECT poser_datasync_confirm('erp', max(id)) FROM poser_transaction;
-- Two changes were delivered to the other consumer before.
SELECT poser_datasync_confirm('shop', 3);
SELECT poser_datasync_confirm('shop', 6);
SELECT change_id FROM poser_datasync_changes('shop', 4);

-- In a transaction: its own changes, and what it confirms, count after its commit.
BEGIN;
INSERT INTO poser_widget (uuid, description) VALUES ('rug', 'Rug');
SELECT poser_datasync_confirm('erp', max(change_id)) FROM poser_datasync_changes('erp');
SELECT payload_key FROM poser_datasync_changes('erp');
SELECT poser_datasync_add('late');
INSERT INTO poser_widget (uuid, description) VALUES ('vase', 'Vase');
SELECT payload_key FROM poser_datasync_changes('late');
SAVEPOINT s;
SELECT poser_datasync_drop('late');
SELECT poser_datasync_changes('late');
ROLLBACK TO s;
COMMIT;
SELECT payload_key FROM poser_datasync_changes('erp');
SELECT payload_key FROM poser_datasync_changes('late');
BEGIN;
SELECT poser_datasync_confirm('erp', max(change_id)) FROM poser_datasync_changes('erp');
SELECT payload_key FROM poser_datasync_changes('erp');
ROLLBACK;
SELECT payload_key FROM poser_datasync_changes('erp');
SELECT poser_datasync_drop('late');

-- in a statement that writes
WITH written AS (INSERT INTO poser_widget (uuid, description) VALUES ('clock', 'Clock') RETURNING uuid)
SELECT payload_key, uuid FROM written LEFT JOIN poser_datasync_changes('erp') ON payload_key = uuid;

-- A rollback to a savepoint undoes what was confirmed and skipped after it.
BEGIN;
SAVEPOINT s;
SELECT poser_datasync_confirm('erp', max(change_id)) FROM poser_datasync_changes('erp', 1);
SELECT payload_key FROM poser_datasync_changes('erp', 1);
SELECT poser_datasync_skip('erp', change_id, 'undone') FROM poser_datasync_changes('erp', 1);
ROLLBACK TO s;
SELECT payload_key FROM poser_datasync_changes('erp');
SELECT count(*) FROM poser_datasync_skipped;
COMMIT;

-- TRUNCATE deletes, COPY inserts, MERGE and upserts change.
SELECT poser_datasync_confirm('erp', max(change_id)) FROM poser_datasync_changes('erp');
SELECT poser_datasync_confirm('erp', max(change_id)) FROM poser_datasync_changes('erp');
COPY poser_widget (uuid, description) FROM STDIN;
globe	Globe
\.
INSERT INTO poser_widget (uuid, description) VALUES ('lamp', 'Torch'), ('fan', 'Fan')
	ON CONFLICT (uuid) DO UPDATE SET description = excluded.description;
MERGE INTO poser_widget USING (VALUES ('fan')) AS source (uuid) ON poser_widget.uuid = source.uuid
	WHEN MATCHED THEN UPDATE SET active = false;
TRUNCATE poser_widget, poser_component;
SELECT payload_key, deletion, payload ->> 'description' AS description, payload -> 'active' AS active
  FROM poser_datasync_changes('erp') ORDER BY payload_key, change_id;

-- Pruning keeps what a consumer needs.  A consumer that has confirmed all needs nothing.
SELECT poser_datasync_confirm('erp', max(change_id)) FROM poser_datasync_changes('erp');
SELECT * FROM status;
SELECT poser_prune_versions('0');
SELECT count(*) FROM poser_datasync_changes('shop');
SELECT count(*), sum(pending) FROM poser_datasync_status;
SELECT poser_datasync_confirm('shop', max(change_id)) FROM poser_datasync_changes('shop', 5);
SELECT poser_prune_versions('0') > 0 AS pruned, (SELECT count(*) FROM poser_datasync_changes('shop')) AS left;
SELECT poser_datasync_drop('shop');
SELECT poser_prune_versions('0') > 0 AS pruned;
SELECT count(*) = count(DISTINCT uuid) AS last_ones FROM poser_widget_version;
-- A pruned change can still be confirmed.
SELECT poser_datasync_confirm('erp', 6);
-- A consumer from the beginning gets the changes that are left.
SELECT poser_datasync_add('shop', 'beginning');
SELECT count(*) = (SELECT count(*) FROM poser_widget_version) + (SELECT count(*) FROM poser_component_version) AS all
  FROM poser_datasync_changes('shop', 100000);

-- Stale
SELECT poser_datasync_stale();
SELECT * FROM poser_datasync_stale('0');
SELECT poser_datasync_stale('1 day');
SELECT poser_datasync_stale(older_than => '-1 day');
SET poser.datasync_stale_after = 0;
SELECT consumer, stale FROM poser_datasync_status ORDER BY consumer;
SELECT consumer FROM poser_datasync_stale();
SET poser.datasync_stale_after = '30 min';
SHOW poser.datasync_stale_after;
SELECT consumer FROM poser_datasync_stale();
SET poser.datasync_stale_after = -1;
RESET poser.datasync_stale_after;

-- Rows and keys of tables with other columns
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE DOMAIN price AS numeric(10, 2);
ALTER TABLE poser_widget ADD COLUMN "Mood ""x""" mood, ADD COLUMN price price, ADD COLUMN at timestamptz, ADD COLUMN raw bytea, ADD COLUMN tags text[], ADD COLUMN doc jsonb, ADD COLUMN unrecorded int;
ALTER TABLE poser_widget_version ADD COLUMN "Mood ""x""" mood, ADD COLUMN price price, ADD COLUMN at timestamptz, ADD COLUMN raw bytea, ADD COLUMN tags text[], ADD COLUMN doc jsonb;
ALTER TABLE poser_widget_version DROP COLUMN active;
SELECT poser_datasync_confirm('erp', max(change_id)) FROM poser_datasync_changes('erp');
INSERT INTO poser_widget (uuid, description, "Mood ""x""", price, at, raw, tags, doc, unrecorded)
VALUES ('odd', '"', 'sad', 1.5, '2026-01-02 03:04:05+00', '\x00ff', '{a,NULL}', '{"a": [1, null]}', 1), ('none', '', NULL, NULL, NULL, NULL, NULL, NULL, NULL);
SELECT payload_key, jsonb_pretty(payload) FROM poser_datasync_changes('erp');
-- the same under any settings of the session
SET DateStyle = 'German';
SET TimeZone = 'Asia/Tokyo';
SET bytea_output = 'escape';
SET extra_float_digits = -5;
SELECT payload -> 'at', payload -> 'raw' FROM poser_datasync_changes('erp', 1);
RESET DateStyle;
RESET TimeZone;
RESET bytea_output;
RESET extra_float_digits;

-- values of all types: a payload has what to_jsonb() makes of the row
CREATE DOMAIN code AS varchar(10);
CREATE DOMAIN small AS int2;
CREATE TYPE pair AS (a int, b text);
DO $$
DECLARE
	type text;
	n int := 0;
BEGIN
	FOREACH type IN ARRAY '{int2,int4,int8,numeric,"numeric(20,5)",float4,float8,char(5),"\"char\"",name,text,code,small,price,
		bool,date,time,timetz,timestamp,timestamptz,interval,json,jsonb,xid8,uuid,inet,bytea,point,int4range,oid,regclass,
		pair,mood,varbit,tsvector,text[],int[],pair[],jsonb[],small[]}'::text[]
	LOOP
		n := n + 1;
		EXECUTE format('ALTER TABLE poser_widget ADD COLUMN t%s %s', n, type);
		EXECUTE format('ALTER TABLE poser_widget_version ADD COLUMN t%s %s', n, type);
	END LOOP;
END
$$;
ALTER TABLE poser_widget_version ADD COLUMN active bool, ADD COLUMN unrecorded int;
SELECT poser_datasync_confirm('erp', max(change_id)) FROM poser_datasync_changes('erp');
INSERT INTO poser_widget
SELECT (jsonb_populate_record(NULL::poser_widget, v)).*
  FROM (VALUES ('{"uuid": "t0", "description": "", "active": true}'::jsonb),
		('{"uuid": "t1", "description": "Größe \" \\", "active": false, "t1": -32768, "t2": 2147483647, "t3": -9223372036854775808, "t4": "NaN", "t5": 1.5,
		   "t6": 0.1, "t7": "Infinity", "t8": "ab", "t9": "c", "t10": "name", "t11": "a\nb", "t12": "code", "t13": 1, "t14": 2.5, "t15": true,
		   "t16": "2026-01-02", "t17": "03:04:05", "t18": "03:04:05+02", "t19": "2026-01-02 03:04:05.678", "t20": "infinity", "t21": "1 day 2:03",
		   "t22": [1, {"b": 2, "a": null}], "t23": {"b": [], "a": "x"}, "t24": 7, "t25": "00000000-0000-0000-0000-000000000001", "t26": "10.0.0.1/8",
		   "t27": "\\x00ff", "t28": "(1,2)", "t29": "[1,5)", "t30": 1, "t31": "pg_class", "t32": {"a": 1, "b": "x"}, "t33": "ok", "t34": "101",
		   "t35": "a:1 b", "t36": ["a", null], "t37": [[1, 2], [3, 4]], "t38": [{"a": 1, "b": null}], "t39": [1, "x"], "t40": [1, 2]}'),
		('{"uuid": "t2", "description": "", "active": true, "t1": 0, "t4": 12345678901234567890.5, "t7": 1e-7, "t22": "\"scalar\"", "t23": 5, "t37": []}')) AS v (v);
SET TimeZone = 'UTC';
SET IntervalStyle = 'postgres';
SELECT payload_key, payload = to_jsonb(w) AS same, payload::text = to_jsonb(w)::text AS same_text,
	   pg_column_size(payload) = pg_column_size(to_jsonb(w)) AS same_size,
	   (SELECT count(*) FROM jsonb_object_keys(payload)) AS keys,
	   (SELECT count(*) FROM jsonb_object_keys(to_jsonb(w)) AS key WHERE payload -> key = to_jsonb(w) -> key) AS found
  FROM poser_datasync_changes('erp') JOIN poser_widget w ON w.uuid = payload_key ORDER BY change_id;
RESET TimeZone;
RESET IntervalStyle;
DROP EXTENSION poser CASCADE;
DROP TYPE mood, pair;
DROP DOMAIN price, code, small;

-- Errors
CREATE EXTENSION poser;
SELECT poser_datasync_add('erp');
SELECT poser_datasync_add('erp', 'beginning');
SELECT poser_datasync_add('');
SELECT poser_datasync_add(NULL);
SELECT poser_datasync_add('x', 'yesterday');
SELECT poser_datasync_add('x', NULL);
SELECT poser_datasync_add('x', notify => NULL);
SELECT poser_datasync_add('x', own_changes => NULL);
SELECT poser_datasync_add('x', handler => 'nothing(poser_change)');
SELECT poser_datasync_add('x', handler => 'lower(text)');
SELECT poser_datasync_add('x', runas => repeat('x', 256));
SELECT poser_datasync_changes('nobody');
SELECT poser_datasync_changes(NULL);
SELECT poser_datasync_changes('erp', 0);
SELECT poser_datasync_changes('erp', -1);
SELECT poser_datasync_changes('erp', NULL);
SELECT poser_datasync_confirm('nobody', 1);
SELECT poser_datasync_confirm(NULL, 1);
SELECT poser_datasync_confirm('erp', NULL);
SELECT poser_datasync_confirm('nobody', NULL);
SELECT poser_datasync_run('nobody');
SELECT poser_datasync_run(NULL);
SELECT poser_datasync_run('erp', 0);
SELECT poser_datasync_run('erp');
SELECT poser_datasync_skip('nobody', 1, 'why');
SELECT poser_datasync_skip('erp', NULL, 'why');
SELECT poser_datasync_skip('erp', 1, NULL);
SELECT poser_datasync_skip('erp', 1, '');
SELECT poser_datasync_skip('erp', 1, 'why');
SELECT poser_datasync_drop('nobody');
SELECT poser_datasync_drop(NULL);
SELECT poser_datasync_grant('nobody', current_user);
SELECT poser_datasync_grant('erp', 'regress_poser_nobody');
SELECT poser_datasync_grant('erp', NULL);
SELECT poser_datasync_revoke('nobody', current_user);
SELECT poser_datasync_pending('nobody');
BEGIN READ ONLY;
SELECT poser_datasync_changes('erp');
ROLLBACK;
BEGIN READ ONLY;
SELECT poser_datasync_confirm('erp', 1);
ROLLBACK;
BEGIN READ ONLY;
SELECT consumer, pending FROM poser_datasync_status;
ROLLBACK;
-- A name is cut at the length of a name.
SELECT poser_datasync_add(repeat('x', 70)::name);
SELECT length(consumer) FROM poser_datasync_consumer WHERE consumer LIKE 'x%';
SELECT poser_datasync_changes(repeat('x', 64)::name);
\set VERBOSITY default
SELECT poser_datasync_changes('nobody');
SELECT poser_datasync_confirm('erp', 1);
SELECT poser_datasync_skip('erp', 1, 'why');
SELECT poser_datasync_run('erp');
SELECT poser_datasync_add('x', handler => 'lower(text)');
SELECT consumer, from_snapshot IS NOT NULL AS now, attempts FROM poser_datasync_consumer WHERE consumer = 'erp';
-- A poll in a transaction that has removed transactions finds nothing new.  The session
-- does not remember this: after the rollback the change is there.
SELECT poser_datasync_add('mirror', 'now');
SELECT count(*) FROM poser_datasync_changes('mirror');
INSERT INTO poser_widget (uuid, description) VALUES ('after now', '');
BEGIN;
DELETE FROM poser_transaction;
SELECT count(*) FROM poser_datasync_changes('mirror');
ROLLBACK;
BEGIN;
SAVEPOINT s;
TRUNCATE poser_transaction;
SELECT count(*) FROM poser_datasync_changes('mirror');
ROLLBACK TO s;
COMMIT;
SELECT payload_key FROM poser_datasync_changes('mirror');
SELECT * FROM poser_check();
DROP EXTENSION poser;
