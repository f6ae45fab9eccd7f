-- poser_follow(): an event trigger that calls poser_track() after each ALTER TABLE of a
-- tracked table.  It is no part of the extension; a superuser makes it.
SET client_min_messages = warning;
CREATE EXTENSION poser;
RESET client_min_messages;
CREATE EVENT TRIGGER follow ON ddl_command_end WHEN TAG IN ('ALTER TABLE', 'CREATE TABLE')
	EXECUTE FUNCTION poser_follow();
CREATE FUNCTION versions(versions regclass) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
	RETURN QUERY EXECUTE format(
		'SELECT (to_jsonb(v) - ''transaction_id'' - ''change_id'')::text FROM %s AS v ORDER BY change_id', versions);
END $$;

-- tables that are not tracked are left alone
CREATE TABLE other (id int PRIMARY KEY);
ALTER TABLE other ADD COLUMN a int;
CREATE TABLE customer (id int PRIMARY KEY, name text);
INSERT INTO customer VALUES (1, 'one');
SELECT poser_track('customer');

-- a tracked one is followed in the same transaction
BEGIN;
ALTER TABLE customer ADD COLUMN vat text;
UPDATE customer SET vat = 'DE';
ROLLBACK;
ALTER TABLE customer ADD COLUMN vat text, ADD COLUMN fax text;
ALTER TABLE customer RENAME name TO label;
ALTER TABLE customer RENAME CONSTRAINT customer_pkey TO customer_key;
UPDATE customer SET vat = 'DE', label = 'two';
SELECT * FROM versions('customer_version');
SELECT target, unrecorded, recording, problem FROM poser_tables WHERE target = 'customer'::regclass;
ALTER TABLE customer RENAME TO client;
ALTER TABLE client ENABLE ROW LEVEL SECURITY;
SELECT relrowsecurity FROM pg_class WHERE relname = 'customer_version';
-- the table of versions is not followed: the next ALTER TABLE of the table repairs it
ALTER TABLE customer_version ADD COLUMN remark text;
ALTER TABLE customer_version DISABLE TRIGGER poser_versions_of;

-- an error becomes a warning, and the work goes on
ALTER TABLE client ALTER label TYPE int USING 1;
SELECT target, unrecorded, recording, problem FROM poser_tables WHERE target = 'client'::regclass;
ALTER TABLE customer_version ALTER label TYPE int USING 1;
ALTER TABLE client DROP CONSTRAINT customer_key;
ALTER TABLE client ADD PRIMARY KEY (id);
SELECT target, unrecorded, recording, problem FROM poser_tables WHERE target = 'client'::regclass;

-- new partitions
CREATE TABLE sale (region text, id int, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
SELECT poser_track('sale');
CREATE TABLE sale_north PARTITION OF sale FOR VALUES IN ('north') PARTITION BY RANGE (id);
CREATE TABLE sale_north_0 PARTITION OF sale_north FOR VALUES FROM (0) TO (10);
CREATE TABLE sale_south (region text NOT NULL, id int NOT NULL);
ALTER TABLE sale ATTACH PARTITION sale_south FOR VALUES IN ('south');
INSERT INTO sale_south VALUES ('south', 1);
INSERT INTO sale_north_0 VALUES ('north', 1);
SELECT * FROM versions('sale_version');
SELECT target, recording, problem FROM poser_tables WHERE target = 'sale'::regclass;
ALTER TABLE sale DETACH PARTITION sale_south;

-- with the rights of the role that alters: a member of the owner's role may do it
CREATE ROLE regress_owner;
CREATE ROLE regress_member IN ROLE regress_owner;
GRANT CREATE ON SCHEMA public TO regress_owner;
SET ROLE regress_owner;
CREATE TABLE mine (id int PRIMARY KEY);
SELECT poser_track('mine');
SET ROLE regress_member;
ALTER TABLE mine ADD COLUMN a int;
SELECT unrecorded FROM poser_tables WHERE target = 'mine'::regclass;
RESET ROLE;
ALTER TABLE mine_version OWNER TO regress_member;
GRANT INSERT ON mine_version TO regress_owner;
SET ROLE regress_owner;
ALTER TABLE mine ADD COLUMN b int;
SELECT unrecorded FROM poser_tables WHERE target = 'mine'::regclass;
RESET ROLE;

-- not in a restore, whose scripts empty search_path
SELECT poser_track('mine');
SET search_path = '';
ALTER TABLE public.mine ADD COLUMN c int;
RESET search_path;
SELECT unrecorded FROM poser_tables WHERE target = 'mine'::regclass;
-- the next ALTER TABLE makes up for it
ALTER TABLE mine ALTER c SET DEFAULT 1;
SELECT unrecorded FROM poser_tables WHERE target = 'mine'::regclass;

-- an event trigger of another kind is an error
CREATE EVENT TRIGGER wrong ON sql_drop EXECUTE FUNCTION poser_follow();
DROP TABLE other;
DROP EVENT TRIGGER wrong;
-- the extension can be dropped only with the event trigger
DROP EVENT TRIGGER follow;
SET client_min_messages = warning;
DROP EXTENSION poser CASCADE;
DROP TABLE client, customer_version, sale, sale_version, sale_south, mine, mine_version, other;
DROP OWNED BY regress_owner, regress_member;
DROP ROLE regress_member, regress_owner;
DROP FUNCTION versions;
