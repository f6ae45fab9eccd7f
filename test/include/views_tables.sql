\set ECHO none
\set QUIET on
-- The tables "parent" and "child" with a key of some type, in a schema of their own, and
-- views of them that are maintained.  Statements write the numbers "n" and "p".  Triggers
-- make the keys of them, so that the same statements write all types of keys.
--
-- Variables: schema; key: names of the key's columns; parent_columns, child_columns: their
-- definitions; parent_set, child_set: what makes a key of NEW.n and NEW.p; action: of the
-- foreign key; partition: of the child; more: what else the tables get.
CREATE SCHEMA :schema;
SET search_path = :schema, regress_views, public;
CREATE TABLE parent (n integer, name text, :parent_columns, PRIMARY KEY (:key));
CREATE TABLE child (id integer PRIMARY KEY, p integer, :child_columns, status text, active boolean NOT NULL DEFAULT true,
	small smallint, whole integer, large bigint, amount numeric, FOREIGN KEY (:key) REFERENCES parent (:key) :action) :partition;
:more
CREATE INDEX ON child (:key);
SELECT format('CREATE FUNCTION set_parent() RETURNS trigger LANGUAGE plpgsql AS $body$ BEGIN %s RETURN NEW; END $body$', :'parent_set'),
       format('CREATE FUNCTION set_child() RETURNS trigger LANGUAGE plpgsql AS $body$ BEGIN %s RETURN NEW; END $body$', :'child_set')
\gexec
CREATE TRIGGER set_parent BEFORE INSERT OR UPDATE OF n ON parent FOR EACH ROW EXECUTE FUNCTION set_parent();
CREATE TRIGGER set_child BEFORE INSERT OR UPDATE OF p ON child FOR EACH ROW EXECUTE FUNCTION set_child();

-- rows from before
INSERT INTO parent (n) VALUES (101), (102);
INSERT INTO child (id, p, status, small, whole, large, amount) VALUES
	(1001, 101, 'open', 1, 2, 3, 4.5), (1002, 101, 'closed', NULL, NULL, NULL, 'NaN'), (1003, NULL, 'open', 1, 1, 1, 1);

SELECT string_agg('parent.' || trim(name), ', ') AS parent_key,
       string_agg(format('child.%1$s = parent.%1$s', trim(name)), ' AND ') AS same_key
  FROM unnest(string_to_array(:'key', ',')) AS name
\gset
CREATE VIEW everything AS
SELECT :parent_key, count(child.id) AS children, count(child.id) FILTER (WHERE child.active) AS active,
       count(child.status) AS with_status, sum(child.small) AS small, sum(child.whole) AS whole, sum(child.large) AS large,
       sum(child.amount) AS amount, COALESCE(sum(child.amount) FILTER (WHERE child.status = 'open'), 0.00) AS open_amount
  FROM parent LEFT JOIN child ON :same_key
 GROUP BY :parent_key;
CREATE VIEW open_only AS
SELECT :parent_key, COALESCE(count(child.id), 0) AS open, COALESCE(sum(child.whole), 0) AS whole
  FROM child RIGHT JOIN parent ON :same_key AND child.status = 'open' AND child.active
 GROUP BY :parent_key;
-- a condition with a user's function
CREATE FUNCTION is_even(number integer) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
	'BEGIN RETURN number % 2 = 0; END';
CREATE VIEW even_only AS
SELECT count(child.whole) FILTER (WHERE is_even(child.id)) AS even, :parent_key
  FROM parent LEFT JOIN child ON :same_key AND is_even(child.whole)
 GROUP BY :parent_key;
SELECT poser_maintain('everything'), poser_maintain('open_only'), poser_maintain('even_only') \g /dev/null
CALL check_step('poser_maintain()');
\set QUIET off
\set ECHO all
