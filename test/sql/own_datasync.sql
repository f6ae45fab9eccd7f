-- Consumers get the changes of own tables, too.

SET client_min_messages = warning;
CREATE ROLE regress_poser_owner SUPERUSER;
CREATE ROLE regress_poser_app;
CREATE ROLE regress_poser_other;
CREATE SCHEMA regress_app AUTHORIZATION regress_poser_app;
GRANT USAGE ON SCHEMA regress_app TO PUBLIC;
CREATE SCHEMA regress_poser AUTHORIZATION regress_poser_owner;
SET ROLE regress_poser_owner;
CREATE EXTENSION poser SCHEMA regress_poser;
ALTER ROLE regress_poser_owner NOSUPERUSER;
RESET ROLE;
GRANT USAGE ON SCHEMA regress_poser TO PUBLIC;
GRANT SELECT ON regress_poser.poser_datasync_status TO PUBLIC;
ALTER ROLE regress_poser_owner NOSUPERUSER;
SET search_path = regress_poser, regress_app, public;
CREATE VIEW feed AS
	SELECT NULL::text AS consumer, NULL::text AS schema, NULL::text AS payload_type, NULL::text AS payload_key,
	       NULL::text AS operation, NULL::boolean AS deletion, NULL::jsonb AS payload, NULL::text[] AS changed, NULL::jsonb AS old
	 WHERE false;
-- The changes of a consumer, which are confirmed.
CREATE FUNCTION drain(consumer name, max_changes int = 100) RETURNS SETOF feed LANGUAGE plpgsql AS $$
DECLARE
	last bigint;
BEGIN
	RETURN QUERY
		SELECT consumer::text, c.schema::text, c.payload_type::text, c.payload_key, c.operation, c.deletion, c.payload, c.changed, c.old
		  FROM poser_datasync_changes(consumer, max_changes) AS c ORDER BY c.change_id;
	SELECT max(change_id) INTO last FROM poser_datasync_changes(consumer, max_changes);
	PERFORM poser_datasync_confirm(consumer, last);
END
$$;

-- Tables of the extension's owner, and of another owner.
GRANT CREATE ON SCHEMA regress_poser TO regress_poser_owner;
SET ROLE regress_poser_owner;
CREATE TABLE customer (id bigint PRIMARY KEY, email text NOT NULL, pw text, notes text);
CREATE TABLE invoice_line (invoice_id bigint, line int, item text, price numeric(10, 2), PRIMARY KEY (invoice_id, line));
SELECT poser_track('customer', exclude => '{pw}'), poser_track('invoice_line');
SET ROLE regress_poser_app;
CREATE TABLE regress_app.orders (id int PRIMARY KEY, total int);
SELECT poser_track('regress_app.orders');
RESET ROLE;
RESET client_min_messages;

-- Which tables can be listed.  The grant of the versions' owner is the consent.
SET ROLE regress_poser_owner;
\set VERBOSITY sqlstate
CREATE TABLE plain (id int PRIMARY KEY);
SELECT poser_datasync_add('bad', tables => '{plain}');
SELECT poser_datasync_add('bad', tables => '{customer,customer}');
SELECT poser_datasync_add('bad', tables => '{customer,NULL}');
SELECT poser_datasync_add('bad', tables => '{}');
SELECT poser_datasync_add('bad', tables => '{customer_version}');
SELECT poser_datasync_add('bad', old_values => NULL);
SELECT poser_datasync_add('bad', tables => ARRAY[4000000000]::oid[]::regclass[]);
\set VERBOSITY default
SELECT poser_datasync_add('bad', tables => '{plain}');
SELECT poser_datasync_add('bad', tables => '{customer,customer}');
SELECT poser_datasync_add('bad', tables => '{regress_app.orders}');
SELECT consumer FROM poser_datasync_consumer;
RESET ROLE;
SET ROLE regress_poser_app;
GRANT SELECT ON regress_app.orders_version TO regress_poser_owner;
SET ROLE regress_poser_owner;
SELECT poser_datasync_add('all');
SELECT poser_datasync_add('crm', tables => '{customer,invoice_line}', old_values => true);
SELECT poser_datasync_add('shop', tables => '{regress_app.orders,poser_widget}', old_values => true);
SELECT consumer, tables, old_values FROM poser_datasync_consumer ORDER BY consumer;

-- Changes of several tables come in one order.  Excluded columns are nowhere.
INSERT INTO customer VALUES (1, 'ann@example.org', 'secret', 'first'), (2, 'bob@example.org', 'secret', NULL);
INSERT INTO invoice_line VALUES (7, 1, 'lamp', 10), (7, 2, 'chair', 20.5);
INSERT INTO poser_widget (uuid, description) VALUES ('lamp', 'Lamp');
UPDATE customer SET notes = 'second', pw = 'changed' WHERE id = 1;
UPDATE customer SET pw = 'again';
UPDATE invoice_line SET line = 3 WHERE line = 2;
DELETE FROM customer WHERE id = 2;
SET ROLE regress_poser_app;
INSERT INTO regress_app.orders VALUES (1, 10);
UPDATE regress_app.orders SET total = 11;
SET ROLE regress_poser_owner;
UPDATE poser_widget SET active = false;
SELECT * FROM drain('crm');
SELECT * FROM drain('shop');
SELECT * FROM drain('all');
SELECT consumer, pending, problem FROM poser_datasync_status ORDER BY consumer;

-- One by one they come in the same order.
UPDATE customer SET notes = 'third';
UPDATE poser_widget SET active = true;
UPDATE invoice_line SET price = price + 1;
UPDATE customer SET notes = 'fourth';
SELECT consumer, payload_type, operation, changed FROM drain('all', 1);
SELECT consumer, payload_type, operation, changed FROM drain('all', 1);
SELECT consumer, payload_type, operation, changed FROM drain('all', 2);
SELECT consumer, payload_type, operation, changed FROM drain('all', 2);
SELECT consumer, payload_type, operation, changed FROM drain('crm', 2);
SELECT consumer, payload_type, operation, changed FROM drain('crm', 2);
SELECT consumer, payload_type, operation, changed FROM drain('crm', 2);

-- The row before is found before the position, too.  After pruning it is null.
UPDATE customer SET notes = 'fifth';
SELECT operation, changed, old FROM drain('crm');
SELECT operation, changed, old FROM drain('all');
SELECT poser_datasync_confirm('shop', max(change_id)) FROM poser_datasync_changes('shop');

-- A renamed column and a renamed table.
ALTER TABLE customer RENAME email TO mail;
ALTER TABLE customer RENAME TO client;
UPDATE client SET mail = 'ann@example.com';
SELECT payload_type, payload, changed, old FROM drain('crm');
SELECT payload_type, payload, changed, old FROM drain('all');
SELECT tables FROM poser_datasync_consumer WHERE consumer = 'crm';

-- A table that is tracked later.
SET client_min_messages = warning;
CREATE TABLE later (a text, b date, PRIMARY KEY (b, a));
INSERT INTO later VALUES ('x', '2026-11-01');
SELECT poser_track('later');
RESET client_min_messages;
SELECT schema, payload_type, payload_key, operation, payload FROM drain('all');
SELECT * FROM drain('crm');

-- It is not untracked while a consumer has not confirmed its changes.
UPDATE client SET notes = 'not confirmed';
\set VERBOSITY sqlstate
SELECT poser_untrack('client');
SELECT * FROM poser_datasync_changes('all') \g /dev/null
SELECT poser_untrack('client');
SELECT count(*) FROM drain('all');
SELECT poser_untrack('client');
SELECT count(*) FROM drain('crm');
\set VERBOSITY default

-- The list and old_values can be changed.
UPDATE poser_datasync_consumer SET tables = '{later,later}' WHERE consumer = 'crm';
UPDATE poser_datasync_consumer SET tables = '{plain}' WHERE consumer = 'crm';
UPDATE poser_datasync_consumer SET tables = '{later,NULL}' WHERE consumer = 'crm';
UPDATE poser_datasync_consumer SET tables = '{}' WHERE consumer = 'crm';
UPDATE poser_datasync_consumer SET tables = '{later,poser_component}', old_values = false WHERE consumer = 'crm';
UPDATE later SET b = '2026-11-02';
UPDATE client SET notes = 'not for crm';
SELECT payload_key, operation, changed, old FROM drain('crm');
UPDATE poser_datasync_consumer SET tables = NULL WHERE consumer = 'crm';
UPDATE client SET notes = 'for crm, too';
SELECT payload_key, operation FROM drain('crm');
SELECT count(*) FROM drain('all');
UPDATE poser_datasync_consumer SET tables = '{client,later}', old_values = true WHERE consumer = 'crm';

-- Skipping, and confirming a part.
INSERT INTO later VALUES ('y', '2026-11-01'), ('z', '2026-11-01');
SELECT poser_datasync_skip('crm', min(change_id), 'not wanted') FROM poser_datasync_changes('crm');
SELECT payload_key FROM poser_datasync_changes('crm');
SELECT poser_datasync_confirm('crm', max(change_id)) FROM poser_datasync_changes('crm', 1);
SELECT poser_datasync_confirm('crm', max(change_id)) FROM later_version;
SELECT poser_datasync_confirm('all', max(change_id)) FROM poser_datasync_changes('all');
SELECT * FROM poser_datasync_changes('crm');

-- Without the grant the consumer gets an error, and keeps its position.
RESET ROLE;
SET ROLE regress_poser_app;
REVOKE SELECT ON regress_app.orders_version FROM regress_poser_owner;
UPDATE regress_app.orders SET total = 12;
SET ROLE regress_poser_owner;
SELECT * FROM poser_datasync_changes('shop');
SELECT consumer, problem FROM poser_datasync_status WHERE problem IS NOT NULL;
RESET ROLE;
SET ROLE regress_poser_app;
GRANT SELECT ON regress_app.orders_version TO regress_poser_owner;
SET ROLE regress_poser_owner;
SELECT payload, old FROM drain('shop');
-- Row-level security must not hide rows.
SET ROLE regress_poser_app;
ALTER TABLE regress_app.orders_version ENABLE ROW LEVEL SECURITY;
SET ROLE regress_poser_owner;
SELECT * FROM poser_datasync_changes('shop');
SET ROLE regress_poser_app;
ALTER TABLE regress_app.orders_version DISABLE ROW LEVEL SECURITY;

-- A table that is not tracked any more, and one that is gone.
SELECT poser_untrack('regress_app.orders');
SET ROLE regress_poser_owner;
SELECT * FROM poser_datasync_changes('shop');
SELECT consumer, pending, problem FROM poser_datasync_status WHERE problem IS NOT NULL;
SELECT * FROM poser_check() WHERE object LIKE 'consumer%';
RESET ROLE;
DROP TABLE regress_app.orders;
SET ROLE regress_poser_owner;
SELECT * FROM poser_datasync_changes('shop');
SELECT consumer, pending, problem FROM poser_datasync_status WHERE problem IS NOT NULL;
SELECT * FROM poser_check() WHERE object LIKE 'consumer%';
SELECT poser_datasync_run('shop');
SELECT poser_datasync_confirm('shop', NULL);
UPDATE poser_datasync_consumer SET tables = '{poser_widget}' WHERE consumer = 'shop';
SELECT * FROM poser_datasync_changes('shop');
SELECT consumer, problem FROM poser_datasync_status WHERE problem IS NOT NULL;

-- Without a list, changes are not passed over while the owner of the versions does not let the
-- owner of the table write them, and the table is not recorded.
SELECT count(*) FROM (SELECT drain('all')) AS d;
RESET ROLE;
ALTER TABLE later_version OWNER TO regress_poser_app;
GRANT INSERT, SELECT ON later_version TO regress_poser_owner;
SET ROLE regress_poser_owner;
INSERT INTO later VALUES ('kept', '2026-11-03');
INSERT INTO poser_widget (uuid, description) VALUES ('kept', '');
RESET ROLE;
REVOKE INSERT ON later_version FROM regress_poser_owner;
SET ROLE regress_poser_owner;
SELECT * FROM poser_datasync_changes('all');
SELECT pending, problem FROM poser_datasync_status WHERE consumer = 'all';
RESET ROLE;
GRANT INSERT ON later_version TO regress_poser_owner;
SET ROLE regress_poser_owner;
SELECT payload_type, payload_key FROM drain('all');
-- Another table of versions can take the place of such a one.
RESET ROLE;
REVOKE INSERT ON later_version FROM regress_poser_owner;
SET ROLE regress_poser_owner;
SET client_min_messages = warning;
SELECT poser_track('later', versions => 'later_history', existing => false);
RESET client_min_messages;
UPDATE later SET a = 'new' WHERE a = 'kept';
SELECT payload_type, operation, payload_key FROM drain('all');
SELECT problem FROM poser_datasync_status WHERE consumer = 'all';

-- A consumer from another database.  There one table had been dropped, so that the dump has
-- its number.  Here the number is another table's, or none's.
INSERT INTO poser_datasync_consumer (consumer, own_after, tables, table_names)
	VALUES ('same_name', 0, '{client}', ARRAY['1.1', format('%s regress_poser.client', 'client'::regclass::oid)]),
	       ('by_name', 0, '{client}', ARRAY['1.1', '1 regress_poser.client']),
	       ('same_number', 0, ARRAY['client'::regclass, 'later'], ARRAY['1.1', format('%s app.gone', 'client'::regclass::oid), '2 regress_poser.later']),
	       ('no_number', 0, ARRAY[4000000000]::oid[]::regclass[], ARRAY['1.1', '4000000000 app.gone']),
	       -- a table has the number here that another one of the list had there
	       ('moved_number', 0, '{client,later}', ARRAY['1.1', '1 regress_poser.client', format('%s regress_poser.later', 'client'::regclass::oid)]);
SELECT consumer, tables, problem FROM poser_datasync_consumer JOIN poser_datasync_status USING (consumer)
 WHERE consumer LIKE '%\_n%' ORDER BY consumer COLLATE "C";
SELECT count(*) > 0 AS some FROM poser_datasync_changes('same_name');
SELECT * FROM poser_datasync_changes('same_number');
-- The names are those of this database from now on: it may be dumped, too.
SELECT consumer, split_part(table_names[1], '.', 2) = (SELECT oid::text FROM pg_database WHERE datname = current_database()) AS here,
       (SELECT array_agg(CASE WHEN n.number = coalesce(to_regclass(n.name), 0::oid)::oid::text THEN n.name ELSE 'gone: ' || n.name END ORDER BY n.place)
          FROM (SELECT place, split_part(name, ' ', 1) AS number, split_part(name, ' ', 2) AS name
                  FROM unnest(table_names[2:]) WITH ORDINALITY AS u (name, place)) AS n) AS names
  FROM poser_datasync_consumer WHERE consumer LIKE '%\_n%' ORDER BY consumer COLLATE "C";
DELETE FROM poser_datasync_consumer WHERE consumer LIKE '%\_n%';

-- Many tables with rows of any size, in pieces: nothing is lost, and the order is right.
SET client_min_messages = warning;
SELECT count(*) FROM (SELECT drain('all')) AS d;
DO $$
BEGIN
	FOR i IN 1..12 LOOP
		EXECUTE format('CREATE TABLE many%s (id int PRIMARY KEY, v text)', i);
		PERFORM poser_track(format('many%s', i)::regclass);
	END LOOP;
	FOR j IN 1..60 LOOP
		FOR i IN 1..12 LOOP
			IF (i + j) % 3 = 0 OR j > 40 THEN
				EXECUTE format('INSERT INTO many%s VALUES ($1, repeat(%L, $1 * 100))', i, 'x') USING j;
			END IF;
		END LOOP;
	END LOOP;
END
$$;
RESET client_min_messages;
SET work_mem = '64kB';
CREATE TEMPORARY TABLE got (position bigint GENERATED ALWAYS AS IDENTITY, change_id bigint, payload_type name, payload jsonb);
DO $$
DECLARE
	n int;
BEGIN
	FOR i IN 1..100 LOOP
		INSERT INTO got (change_id, payload_type, payload)
			SELECT change_id, payload_type, payload FROM poser_datasync_changes('all', 37 + i);
		GET DIAGNOSTICS n = ROW_COUNT;
		EXIT WHEN n = 0;
		PERFORM poser_datasync_confirm('all', max(change_id)) FROM got;
	END LOOP;
END
$$;
RESET work_mem;
SELECT count(*), count(DISTINCT change_id), count(DISTINCT payload_type), bool_and(length(payload->>'v') = 100 * (payload->>'id')::int) AS whole FROM got;
SELECT count(*) AS wrong FROM (SELECT change_id < lag(change_id) OVER (ORDER BY position) AS wrong FROM got) AS g WHERE wrong;

RESET ROLE;
SET client_min_messages = warning;
DROP EXTENSION poser CASCADE;
DROP SCHEMA regress_app CASCADE;
DROP SCHEMA regress_poser CASCADE;
DROP TABLE got;
DROP FUNCTION IF EXISTS drain;
DROP ROLE regress_poser_owner, regress_poser_app, regress_poser_other;
