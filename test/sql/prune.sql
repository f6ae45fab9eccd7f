-- Pruning: what is removed, what stays, and which states can still be read.

\set VERBOSITY terse
CREATE EXTENSION poser;
CREATE VIEW versions AS
SELECT 'widget' AS relation, uuid, (ARRAY['insert', 'update', 'delete'])[operation_type + 1] AS operation, description, transaction_id, change_id
  FROM poser_widget_version
UNION ALL
SELECT 'component', uuid, (ARRAY['insert', 'update', 'delete'])[operation_type + 1], description, transaction_id, change_id
  FROM poser_component_version;
-- sets each transaction's age, the number of years that is its comment
CREATE PROCEDURE age() LANGUAGE sql AS
	$$UPDATE poser_transaction SET issued_at = now() - comment::int * interval '1 year'$$;
CREATE VIEW kept AS
SELECT comment AS age, relation, uuid, operation, description
  FROM versions JOIN poser_transaction ON id = transaction_id ORDER BY transaction_id, relation DESC, uuid;

SET poser.comment = '9';
INSERT INTO poser_widget (uuid, description) VALUES ('w1', '1'), ('w2', '1'), ('w3', '1'), ('w4', '1');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c1', 'w1', '', '1'), ('c2', 'w1', '', '1');
SET poser.comment = '8';
UPDATE poser_widget SET description = '2' WHERE uuid IN ('w1', 'w2');
DELETE FROM poser_component WHERE uuid = 'c2';
SET poser.comment = '5';
UPDATE poser_widget SET description = '3' WHERE uuid = 'w1';
DELETE FROM poser_widget WHERE uuid = 'w3';
SELECT max(id) AS five FROM poser_transaction \gset
SET poser.comment = '2';
UPDATE poser_widget SET description = '4' WHERE uuid IN ('w1', 'w2');
UPDATE poser_component SET description = '2';
SELECT min(id) AS two FROM poser_transaction WHERE comment = '2' \gset
SET poser.comment = '1';
UPDATE poser_widget SET description = '5' WHERE uuid = 'w1';
CALL age();
TABLE kept;
CREATE TABLE state AS SELECT 4 AS age, * FROM poser_widget_as_of(now() - interval '4 years');
INSERT INTO state SELECT 2, * FROM poser_widget_as_of(now() - interval '1.5 years');

-- nothing is old enough
SELECT poser_prune_versions('20 years');
SELECT poser_prune_versions('9 years 1 day');
SELECT count(*) FROM poser_version_horizon;
-- Versions that were replaced more than seven years ago go.  The last version before
-- that time stays: it is the state at that time.
SELECT poser_prune_versions('7 years');
TABLE kept;
SELECT poser_prune_versions('7 years');
-- four years
SELECT poser_prune_versions('4 years');
TABLE kept;
-- Transactions without versions are gone, except the latest that lost versions.
SELECT comment, count(*) FROM poser_transaction GROUP BY comment ORDER BY comment;
-- So later states can be read.
SELECT * FROM poser_widget_as_of(now() - interval '4 years') EXCEPT SELECT uuid, description, active FROM state WHERE age = 4;
SELECT * FROM poser_widget_as_of(now() - interval '1.5 years') EXCEPT SELECT uuid, description, active FROM state WHERE age = 2;
SELECT count(*) FROM poser_widget_as_of(now() - interval '4 years');
SELECT poser_widget_revert('w1', :two, true), description FROM poser_widget WHERE uuid = 'w1';
-- Earlier states are an error.
\set VERBOSITY sqlstate
SELECT count(*) FROM poser_widget_as_of(now() - interval '6 years');
SELECT count(*) FROM poser_component_as_of('2000-01-01');
SELECT poser_widget_revert('w1', :five, true);
\set VERBOSITY terse
SELECT description FROM poser_widget WHERE uuid = 'w1';
SELECT * FROM poser_check();
SELECT operation, changed, description FROM poser_widget_history('w1');

-- all versions but the last of each row, a few at a time
SET poser.comment = '0';
UPDATE poser_widget SET description = '6';
SELECT poser_prune_versions('0', max_versions => 2);
SELECT poser_prune_versions('0', 2);
SELECT poser_prune_versions('0', 1000);
SELECT poser_prune_versions('0');
SELECT relation, uuid, operation, description FROM kept ORDER BY relation, uuid;
-- A deleted row's last version is its delete, which stays.
SELECT operation FROM poser_widget_history('w3');
SELECT * FROM poser_check();
-- recording goes on
UPDATE poser_widget SET description = '7';
DELETE FROM poser_component;
DELETE FROM poser_widget WHERE uuid = 'w1';
INSERT INTO poser_widget (uuid, description) VALUES ('w3', 'again');
SELECT * FROM poser_check();
SELECT poser_prune_versions('0');
SELECT * FROM poser_check();
SELECT count(*) FROM poser_version_horizon;

-- pruning says that a rule keeps it from deleting transactions
BEGIN;
CREATE RULE nothing AS ON DELETE TO poser_transaction DO INSTEAD NOTHING;
SELECT poser_prune_versions('0');
ROLLBACK;

-- rolled back
UPDATE poser_widget SET description = '8';
BEGIN;
SELECT poser_prune_versions('0');
ROLLBACK;
SELECT poser_prune_versions('0');

-- Transactions stay that versions of other tables refer to, also if no trigger records
-- to these any more, under any name, in any schema, and of any owner.
CREATE TABLE customer (id int PRIMARY KEY, name text);
CREATE TABLE customer_version (id int, name text, operation_type smallint, transaction_id bigint, change_id bigint);
CREATE TRIGGER customer_insert AFTER INSERT ON customer REFERENCING NEW TABLE AS new_rows
	FOR EACH STATEMENT EXECUTE FUNCTION poser_version('customer_version', 'id');
SET client_min_messages = warning;
CREATE ROLE regress_poser_other;
RESET client_min_messages;
CREATE SCHEMA regress_poser_other AUTHORIZATION regress_poser_other;
SET poser.comment = '7';
INSERT INTO customer VALUES (1, 'one');
INSERT INTO customer VALUES (2, 'two');
CREATE TABLE regress_poser_other.versions AS SELECT * FROM customer_version WHERE id = 2;
ALTER TABLE regress_poser_other.versions OWNER TO regress_poser_other;
DELETE FROM customer_version WHERE id = 2;
-- tables of similar form, which are no version tables
CREATE TABLE unlike AS SELECT 1::smallint AS operation_type, id::int AS transaction_id, id AS change_id FROM poser_transaction;
CREATE VIEW like_it AS SELECT 1::smallint AS operation_type, id AS transaction_id, id AS change_id FROM poser_transaction;
SET poser.comment = '0';
UPDATE poser_widget SET description = '9';
CREATE VIEW kept_of_customers AS
SELECT v.id, comment FROM customer_version AS v JOIN poser_transaction AS t ON t.id = transaction_id;
SELECT poser_prune_versions('0') > 0 AS pruned;
TABLE kept_of_customers;
DROP TRIGGER customer_insert ON customer;
SELECT poser_prune_versions('0');
TABLE kept_of_customers;
ALTER TABLE customer_version RENAME TO archive;
ALTER TABLE archive SET SCHEMA regress_poser_other;
DROP TABLE customer;
SELECT poser_prune_versions('0');
TABLE kept_of_customers;
SELECT count(*) FROM poser_transaction WHERE comment = '7';
DROP VIEW kept_of_customers;
DROP TABLE regress_poser_other.versions;
SELECT poser_prune_versions('0');
SELECT count(*) FROM poser_transaction WHERE comment = '7';
DROP TABLE regress_poser_other.archive, unlike CASCADE;
SELECT poser_prune_versions('0');
SELECT count(*) FROM poser_transaction WHERE comment = '7';
DROP SCHEMA regress_poser_other;
DROP ROLE regress_poser_other;
DROP VIEW like_it;

-- errors
SELECT poser_prune_versions(NULL);
SELECT poser_prune_versions('-1 day');
SELECT poser_prune_versions('1 day', 0);
BEGIN READ ONLY;
SELECT poser_prune_versions('1 day');
ROLLBACK;

DROP TABLE state;
DROP VIEW kept, versions;
DROP PROCEDURE age;
DROP EXTENSION poser;
