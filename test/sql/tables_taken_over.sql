-- Taking over the tables that a Rattail application already has: they move to another
-- schema, the extension makes its own tables, and imports copy the rows.

\set VERBOSITY sqlstate

-- The tables of Rattail's guide, as SQLAlchemy makes them: defaults are in the models.
CREATE TABLE poser_widget (
	uuid varchar(32) NOT NULL,
	description varchar(255) NOT NULL,
	active boolean NOT NULL,
	PRIMARY KEY (uuid)
);
CREATE TABLE poser_component (
	uuid varchar(32) NOT NULL,
	widget_uuid varchar(32) NOT NULL,
	item_code varchar(20) NOT NULL,
	description varchar(255) NOT NULL,
	active boolean NOT NULL,
	PRIMARY KEY (uuid),
	CONSTRAINT poser_component_fk_widget FOREIGN KEY (widget_uuid) REFERENCES poser_widget (uuid)
);
-- Their versions, as SQLAlchemy-Continuum makes them.
CREATE TABLE transaction (
	issued_at timestamp,
	id bigserial NOT NULL,
	remote_addr varchar(50),
	PRIMARY KEY (id)
);
CREATE TABLE poser_widget_version (
	uuid varchar(32) NOT NULL,
	description varchar(255),
	active boolean,
	transaction_id bigint NOT NULL,
	end_transaction_id bigint,
	operation_type smallint NOT NULL,
	PRIMARY KEY (uuid, transaction_id)
);
CREATE INDEX ix_poser_widget_version_end_transaction_id ON poser_widget_version (end_transaction_id);
CREATE INDEX ix_poser_widget_version_operation_type ON poser_widget_version (operation_type);
CREATE INDEX ix_poser_widget_version_transaction_id ON poser_widget_version (transaction_id);
CREATE TABLE poser_component_version (
	uuid varchar(32) NOT NULL,
	widget_uuid varchar(32),
	item_code varchar(20),
	description varchar(255),
	active boolean,
	transaction_id bigint NOT NULL,
	end_transaction_id bigint,
	operation_type smallint NOT NULL,
	PRIMARY KEY (uuid, transaction_id)
);
CREATE INDEX ix_poser_component_version_end_transaction_id ON poser_component_version (end_transaction_id);
CREATE INDEX ix_poser_component_version_operation_type ON poser_component_version (operation_type);
CREATE INDEX ix_poser_component_version_transaction_id ON poser_component_version (transaction_id);

-- Another table that refers to widgets.
CREATE TABLE photo (id int PRIMARY KEY, widget_uuid varchar(32) CONSTRAINT photo_fk_widget REFERENCES poser_widget);

INSERT INTO poser_widget SELECT md5('widget ' || n), 'Widget ' || n, n % 4 <> 0 FROM generate_series(1, 20) AS n;
INSERT INTO poser_component
SELECT md5('component ' || n), md5('widget ' || 1 + n % 17), n, 'Component ' || n, n % 3 <> 0 FROM generate_series(1, 100) AS n;
INSERT INTO photo VALUES (1, md5('widget 1'));
INSERT INTO transaction (issued_at) VALUES ('2024-01-31 12:00');
INSERT INTO poser_widget_version SELECT *, 1, NULL, 0 FROM poser_widget;
INSERT INTO poser_component_version SELECT *, 1, NULL, 0 FROM poser_component;

-- CREATE EXTENSION fails on existing tables.
CREATE EXTENSION poser;

-- They move to another schema, with their indexes, constraints and sequences.  All is
-- one transaction, so that no other session writes in between.
BEGIN;
CREATE SCHEMA legacy;
ALTER TABLE poser_widget SET SCHEMA legacy;
ALTER TABLE poser_component SET SCHEMA legacy;
ALTER TABLE poser_widget_version SET SCHEMA legacy;
ALTER TABLE poser_component_version SET SCHEMA legacy;
ALTER TABLE transaction SET SCHEMA legacy;
CREATE EXTENSION poser;

-- Widgets come first: a component needs its widget.
SAVEPOINT a;
SELECT * FROM poser_import('legacy.poser_component', 'poser_component');
ROLLBACK TO a;
SET LOCAL poser.runas = 'migration';
SET LOCAL poser.comment = 'taken over';
SELECT * FROM poser_import('legacy.poser_widget', 'poser_widget');
SELECT * FROM poser_import('legacy.poser_component', 'poser_component');
-- The foreign key of another table has followed the old table, and is redirected.
SELECT conrelid::regclass, conname, confrelid::regclass FROM pg_constraint
 WHERE contype = 'f' AND confrelid = 'legacy.poser_widget'::regclass AND connamespace <> 'legacy'::regnamespace;
ALTER TABLE photo DROP CONSTRAINT photo_fk_widget,
	ADD CONSTRAINT photo_fk_widget FOREIGN KEY (widget_uuid) REFERENCES poser_widget;
COMMIT;

-- The rows are the same, and so are the counts of each widget.
(TABLE poser_widget EXCEPT TABLE legacy.poser_widget) UNION ALL (TABLE legacy.poser_widget EXCEPT TABLE poser_widget);
(TABLE poser_component EXCEPT TABLE legacy.poser_component) UNION ALL (TABLE legacy.poser_component EXCEPT TABLE poser_component);
SELECT count(*) AS widgets, sum(component_count) AS components, sum(active_component_count) AS active FROM poser_widget_summary;
SELECT uuid, component_count, active_component_count, total, total_active
  FROM poser_widget_summary
       FULL JOIN (SELECT w.uuid, count(c.uuid) AS total, count(*) FILTER (WHERE c.active) AS total_active
                    FROM legacy.poser_widget AS w LEFT JOIN legacy.poser_component AS c ON widget_uuid = w.uuid
                   GROUP BY w.uuid) AS counted USING (uuid)
 WHERE (component_count, active_component_count) IS DISTINCT FROM (total, total_active);
SELECT * FROM poser_check();

-- The new history begins with the imports.  The old history is unchanged.
SELECT username, comment, count(*)
  FROM (SELECT transaction_id, operation_type FROM poser_widget_version
        UNION ALL
        SELECT transaction_id, operation_type FROM poser_component_version) AS version
       JOIN poser_transaction ON id = transaction_id
 WHERE operation_type = 0 GROUP BY username, comment;
SELECT (SELECT count(*) FROM legacy.poser_widget_version) AS widgets,
       (SELECT count(*) FROM legacy.poser_component_version) AS components;
-- A second import finds all rows unchanged.
SELECT * FROM poser_import('legacy.poser_widget', 'poser_widget', deletes => true);
SELECT * FROM poser_import('legacy.poser_component', 'poser_component', deletes => true);

SET client_min_messages = warning;
DROP SCHEMA legacy CASCADE;
DROP TABLE photo;
DROP EXTENSION poser;
