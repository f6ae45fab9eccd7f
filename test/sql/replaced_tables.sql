-- Tables that users have changed: part of an inheritance tree, renamed, replaced,
-- rewritten.  Counts are right, or there is an error.

\set VERBOSITY sqlstate
SET client_min_messages = warning;
CREATE EXTENSION poser VERSION '1.1';

CREATE VIEW shown AS
SELECT uuid, component_count AS total, active_component_count AS active
  FROM poser_widget_summary
 ORDER BY uuid;
CREATE VIEW maintained AS
SELECT count(*) > 0 AS maintained FROM poser_component_count_settled;

INSERT INTO poser_widget (uuid, description) VALUES ('w1', ''), ('w2', '');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES
	('c1', 'w1', '', ''), ('c2', 'w1', '', ''), ('c3', 'w2', '', '');

--
-- Inheritance and partitions
--
-- the rows of a child belong to the table
CREATE TABLE component_child () INHERITS (poser_component);
INSERT INTO component_child (widget_uuid, item_code, description) VALUES ('w2', '', ''), ('w2', '', '');
TABLE shown;
TABLE maintained;
SELECT uuid, component_count FROM poser_widget_get('w2');
UPDATE poser_component SET active = false WHERE widget_uuid = 'w2';
TABLE shown;
SELECT * FROM poser_check();
DROP TABLE component_child;
TABLE shown;
SELECT poser_recount();
SELECT * FROM poser_check();

-- as a child or partition it is written through its parent, without its own triggers
CREATE TABLE component_parent (LIKE poser_component);
ALTER TABLE poser_component INHERIT component_parent;
DELETE FROM component_parent WHERE uuid = 'c1';
TABLE shown;
SELECT * FROM poser_check();
ALTER TABLE poser_component NO INHERIT component_parent;
DROP TABLE component_parent;
SELECT * FROM poser_check();
SELECT poser_recount();
TABLE shown;
CREATE TABLE component_parent (LIKE poser_component) PARTITION BY LIST (widget_uuid);
ALTER TABLE component_parent ATTACH PARTITION poser_component DEFAULT;
INSERT INTO component_parent (uuid, widget_uuid, item_code, description, active) VALUES
	('c4', 'w1', '', '', true), ('c5', 'w2', '', '', true);
TABLE shown;
TABLE maintained;
SELECT * FROM poser_check();
ALTER TABLE component_parent DETACH PARTITION poser_component;
DROP TABLE component_parent;
SELECT poser_recount();
SELECT * FROM poser_check();
TABLE maintained;
TABLE shown;

-- the same with the widgets
ALTER TABLE poser_component DROP CONSTRAINT poser_component_fk_widget;
CREATE TABLE widget_child () INHERITS (poser_widget);
INSERT INTO widget_child (uuid, description) VALUES ('w3', '');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c6', 'w3', '', '');
TABLE shown;
SELECT uuid, component_count FROM poser_widget_get('w3');
DELETE FROM poser_component WHERE uuid = 'c6';
DROP TABLE widget_child;
CREATE TABLE widget_parent (LIKE poser_widget) PARTITION BY LIST (uuid);
ALTER TABLE widget_parent ATTACH PARTITION poser_widget DEFAULT;
INSERT INTO widget_parent (uuid, description, active) VALUES ('w3', '', true);
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c6', 'w3', '', '');
TABLE shown;
SELECT * FROM poser_check();
ALTER TABLE widget_parent DETACH PARTITION poser_widget;
DROP TABLE widget_parent;
DELETE FROM poser_component WHERE uuid = 'c6';
DELETE FROM poser_widget WHERE uuid = 'w3';
ALTER TABLE poser_component ADD CONSTRAINT poser_component_fk_widget FOREIGN KEY (widget_uuid) REFERENCES poser_widget;
SELECT poser_recount();
SELECT * FROM poser_check();
TABLE shown;

--
-- Another relation has the table's name: there is an error or the right count
--
ALTER TABLE poser_component RENAME TO poser_component_old;
-- a renamed table works
INSERT INTO poser_component_old (uuid, widget_uuid, item_code, description) VALUES ('c7', 'w1', '', '');
TABLE shown;
SELECT component_count FROM poser_widget_get('w1');
SELECT object FROM poser_check() WHERE object LIKE 'table%';
DELETE FROM poser_component_old WHERE uuid = 'c7';

CREATE TABLE poser_component (LIKE poser_component_old) PARTITION BY HASH (uuid);
CREATE TABLE component_part PARTITION OF poser_component FOR VALUES WITH (modulus 1, remainder 0);
INSERT INTO poser_component SELECT * FROM poser_component_old;
INSERT INTO poser_component (uuid, widget_uuid, item_code, description, active) VALUES ('c8', 'w1', '', '', true);
TABLE shown;
SELECT * FROM poser_widget_summary WHERE uuid = 'w1';
SELECT * FROM poser_widget_get('w1');
SELECT * FROM poser_widget_list();
\set VERBOSITY default
\set SHOW_CONTEXT never
SELECT * FROM poser_widget_get('w1');
\set VERBOSITY sqlstate
SELECT * FROM poser_check() ORDER BY object COLLATE "C";
DROP TABLE poser_component;

CREATE VIEW poser_component AS SELECT * FROM poser_component_old;
SELECT * FROM poser_widget_get('w1');
SELECT * FROM poser_widget_list();
TABLE shown;
DROP VIEW poser_component;

CREATE FOREIGN DATA WRAPPER regress_poser;
CREATE SERVER regress_poser FOREIGN DATA WRAPPER regress_poser;
CREATE FOREIGN TABLE poser_component (
	uuid varchar(32) NOT NULL, widget_uuid varchar(32) NOT NULL, item_code varchar(20) NOT NULL,
	description varchar(255) NOT NULL, active bool NOT NULL) SERVER regress_poser;
SELECT * FROM poser_widget_get('w1');
TABLE shown;
DROP FOREIGN DATA WRAPPER regress_poser CASCADE;

CREATE TABLE poser_component (LIKE poser_component_old INCLUDING ALL);
SELECT * FROM poser_widget_get('w1');
TABLE shown;
DROP TABLE poser_component;

ALTER TABLE poser_component_old RENAME TO poser_component;
TABLE shown;
SELECT * FROM poser_check();

-- in place of the widgets
ALTER TABLE poser_widget RENAME TO poser_widget_old;
CREATE VIEW poser_widget AS SELECT * FROM poser_widget_old;
SELECT * FROM poser_widget_get('w1');
SELECT * FROM poser_widget_list();
TABLE shown;
DROP VIEW poser_widget;
ALTER TABLE poser_widget_old RENAME TO poser_widget;
TABLE shown;

-- in a transaction that has read before, and is rolled back
BEGIN;
SELECT component_count FROM poser_widget_get('w1');
ALTER TABLE poser_component RENAME TO poser_component_old;
CREATE TABLE poser_component (LIKE poser_component_old);
SAVEPOINT a;
SELECT component_count FROM poser_widget_get('w1');
ROLLBACK TO a;
TABLE shown;
ROLLBACK;
SELECT component_count FROM poser_widget_get('w1');

--
-- Another schema, storage, order
--
CREATE SCHEMA regress_poser;
ALTER TABLE poser_component SET SCHEMA regress_poser;
INSERT INTO regress_poser.poser_component (uuid, widget_uuid, item_code, description) VALUES ('c9', 'w1', '', '');
TABLE shown;
SELECT component_count FROM poser_widget_get('w1');
ALTER TABLE regress_poser.poser_component SET SCHEMA public;
DROP SCHEMA regress_poser;
DELETE FROM poser_component WHERE uuid = 'c9';
TABLE shown;
CLUSTER poser_component USING poser_component_pkey;
VACUUM FULL poser_component_count, poser_component_count_delta;
REINDEX TABLE poser_component_count;
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c9', 'w1', '', '');
TABLE shown;
TABLE maintained;
-- the same in the middle of a transaction that writes
BEGIN;
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c10', 'w1', '', '');
CLUSTER poser_component USING poser_component_pkey;
CLUSTER poser_component_count USING poser_component_count_pkey;
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c11', 'w1', '', '');
TABLE shown;
COMMIT;
TABLE shown;
DELETE FROM poser_component WHERE uuid IN ('c9', 'c10', 'c11');
SELECT * FROM poser_check();
ALTER TABLE poser_component SET UNLOGGED;
SELECT * FROM poser_check();
ALTER TABLE poser_component SET LOGGED;

--
-- Changed columns and indexes
--
ALTER TABLE poser_component DROP COLUMN active;
ALTER TABLE poser_component ALTER widget_uuid TYPE text;
ALTER TABLE poser_component RENAME widget_uuid TO belongs_to;
TABLE shown;
INSERT INTO poser_component (belongs_to, item_code, description) VALUES ('w1', '', '');
SELECT * FROM poser_check();
ALTER TABLE poser_component RENAME belongs_to TO widget_uuid;
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c9', 'w1', '', '');
TABLE shown;

DELETE FROM poser_component WHERE uuid = 'c9';
DROP INDEX poser_component_count_delta_idx_widget;
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c9', 'w1', '', '');
SELECT poser_recount();
SELECT * FROM poser_check();
CREATE INDEX poser_component_count_delta_idx_widget ON poser_component_count_delta (widget_uuid);
ALTER TABLE poser_component_count DROP CONSTRAINT poser_component_count_pkey;
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c9', 'w1', '', '');
SELECT * FROM poser_check();
ALTER TABLE poser_component_count ADD CONSTRAINT poser_component_count_pkey PRIMARY KEY (widget_uuid);
-- users' indexes are maintained
CREATE INDEX own_index ON poser_component_count (total);
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c9', 'w1', '', '');
SET enable_seqscan = off;
SELECT widget_uuid FROM poser_component_count WHERE total = 3;
RESET enable_seqscan;
SELECT * FROM poser_check();
TABLE shown;
SELECT poser_recount();

-- An extra column in the bookkeeping is an error that names it, until it is dropped.
ALTER TABLE poser_component_count ADD COLUMN own int;
DELETE FROM poser_component WHERE uuid = 'c9';
SELECT count(*) > 0 AS "something is wrong" FROM poser_check();
ALTER TABLE poser_component_count DROP COLUMN own;
SELECT * FROM poser_check();
DELETE FROM poser_component WHERE uuid = 'c9';
TABLE shown;

DROP VIEW shown, maintained;
DROP EXTENSION poser;
