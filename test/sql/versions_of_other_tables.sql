-- Versions of any table with a primary key: other types, several key columns, large
-- values.

\set VERBOSITY sqlstate
SET client_min_messages = warning;
CREATE SCHEMA regress_poser;
CREATE EXTENSION poser SCHEMA regress_poser;

CREATE DOMAIN percent AS numeric(5, 2) CHECK (VALUE BETWEEN 0 AND 100);
CREATE TABLE article (
	gone int,
	number int GENERATED ALWAYS AS IDENTITY,
	country text,
	price numeric,
	tax percent,
	tags text[],
	properties jsonb,
	picture bytea,
	added timestamptz,
	label text GENERATED ALWAYS AS (country || ' ' || price) STORED,
	gone_too text,
	PRIMARY KEY (country, number)
);
ALTER TABLE article DROP COLUMN gone, DROP COLUMN gone_too;
-- other order, dropped columns in other places, and one of the table's columns missing
CREATE TABLE regress_poser.article_version (
	change_id bigint PRIMARY KEY,
	picture bytea, gone int, properties jsonb, tags text[], tax percent, label text, price numeric, country text, number int,
	operation_type smallint NOT NULL,
	transaction_id bigint NOT NULL
);
ALTER TABLE regress_poser.article_version DROP COLUMN gone;
CREATE INDEX ON regress_poser.article_version (number, country, change_id);

CREATE PROCEDURE make_triggers(relation text, variadic arguments text[]) LANGUAGE plpgsql AS $$
DECLARE
	call text := (SELECT format('regress_poser.poser_version(%s)', string_agg(quote_literal(argument), ', ')) FROM unnest(arguments) AS argument);
BEGIN
	EXECUTE format('CREATE TRIGGER version_before BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s EXECUTE FUNCTION %s', relation, call);
	EXECUTE format('CREATE TRIGGER version_insert AFTER INSERT ON %s REFERENCING NEW TABLE AS new_rows EXECUTE FUNCTION %s', relation, call);
	EXECUTE format('CREATE TRIGGER version_update AFTER UPDATE ON %s REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows EXECUTE FUNCTION %s', relation, call);
	EXECUTE format('CREATE TRIGGER version_delete AFTER DELETE ON %s REFERENCING OLD TABLE AS old_rows EXECUTE FUNCTION %s', relation, call);
	EXECUTE format('CREATE TRIGGER version_truncate AFTER TRUNCATE ON %s EXECUTE FUNCTION %s', relation, call);
END
$$;
CALL make_triggers('article', 'article_version', 'number', 'country');

CREATE VIEW changes AS
SELECT dense_rank() OVER (ORDER BY transaction_id) AS transaction,
       (ARRAY['insert', 'update', 'delete'])[operation_type + 1] AS operation,
       number, country, price, tax, tags, properties, length(picture) AS picture, label
  FROM regress_poser.article_version ORDER BY change_id;
-- histories that do not end in the row or are out of order
CREATE VIEW wrong_histories AS
SELECT number, country, 'does not end in the row' AS problem
  FROM (SELECT number, country, price, tax, tags, properties, picture, label FROM article) AS live
       FULL JOIN (SELECT * FROM (SELECT DISTINCT ON (number, country) * FROM regress_poser.article_version
	                              ORDER BY number, country, change_id DESC) AS last
				   WHERE operation_type <> 2) AS last USING (number, country)
 WHERE (live.price, live.tax, live.tags, live.properties, live.picture, live.label)
       IS DISTINCT FROM (last.price, last.tax, last.tags, last.properties, last.picture, last.label)
UNION ALL
SELECT number, country, 'is out of order'
  FROM (SELECT *, lag(operation_type) OVER (PARTITION BY number, country ORDER BY change_id) AS before
          FROM regress_poser.article_version) AS placed
 WHERE (operation_type = 0) <> (before IS NULL OR before = 2);

--
-- All operations
--
INSERT INTO article (country, price, tax, tags, properties, picture) VALUES
	('fr', 1.50, 20, '{a,b}', '{"colour": "red", "size": [1, 2]}', '\x00ff'), ('de', NULL, 19, NULL, NULL, NULL);
UPDATE article SET price = 2, tags = tags || '{c}' WHERE country = 'fr';
UPDATE article SET properties = properties - 'colour', tax = NULL;
-- An equal value is no change, an equal number with other decimals is one.
UPDATE article SET properties = '{"size": [1, 2]}' WHERE country = 'fr';
UPDATE article SET price = 2.0 WHERE country = 'fr';
-- a column that is not recorded
UPDATE article SET added = '2026-01-01';
-- one key column, the other, both
UPDATE article SET country = 'it' WHERE country = 'de';
UPDATE article SET number = DEFAULT WHERE country = 'it';
UPDATE article SET country = 'de', number = DEFAULT WHERE country = 'it';
INSERT INTO article (number, country, price) OVERRIDING SYSTEM VALUE VALUES (1, 'fr', 3), (1, 'de', 3)
	ON CONFLICT (number, country) DO UPDATE SET price = excluded.price;
MERGE INTO article USING (VALUES (1, 'fr'), (1, 'de'), (7, 'at')) AS source (number, country)
   ON article.number = source.number AND article.country = source.country
 WHEN MATCHED AND source.country = 'de' THEN DELETE
 WHEN MATCHED THEN UPDATE SET tags = '{}'
 WHEN NOT MATCHED THEN INSERT (number, country) OVERRIDING SYSTEM VALUE VALUES (source.number, source.country);
COPY article (country, price, tags, properties) FROM STDIN;
us	0.0000	{"x y",NULL}	[]
\.
DELETE FROM article WHERE country = 'at';
TABLE changes;
TABLE wrong_histories;
TRUNCATE article;
SELECT operation, number, country FROM changes WHERE transaction = (SELECT max(transaction) FROM changes);
TABLE wrong_histories;
-- all tables share poser_transaction
SELECT count(*) FROM regress_poser.article_version WHERE NOT EXISTS (
	SELECT FROM regress_poser.poser_transaction WHERE id = transaction_id AND id < change_id);
SELECT * FROM regress_poser.poser_check();

--
-- Large values: compressed, out of line, both, many in one statement
--
TRUNCATE regress_poser.article_version;
ALTER TABLE article ALTER picture SET STORAGE EXTERNAL;
INSERT INTO article (country, properties, picture, price) VALUES
	('fr', jsonb_build_object('compressed', repeat('x', 100000)), convert_to(repeat('external', 20000), 'UTF8'), 10::numeric ^ 3000),
	('de', NULL, NULL, NULL);
-- a change of another column, a change of a part of the value
UPDATE article SET tags = '{small}';
UPDATE article SET picture = picture || '\x00' WHERE country = 'fr';
SELECT operation, country, price = 10::numeric ^ 3000 AS price, length(properties->>'compressed') AS properties, picture, tags FROM changes;
-- a change of the last byte
UPDATE article SET picture = set_byte(picture, length(picture) - 1, 1) WHERE country = 'fr';
-- no change
UPDATE article SET picture = convert_to(repeat('external', 20000), 'UTF8') || '\x01', properties = jsonb_build_object('compressed', repeat('x', 100000));
UPDATE article SET picture = convert_to(repeat('external', 20000), 'UTF8') || '\x01', properties = jsonb_build_object('compressed', repeat('x', 100000));
SELECT operation, country, picture FROM changes OFFSET 5;
TABLE wrong_histories;
-- The versions have their own copies of the values, which outlive the row.
DELETE FROM article;
VACUUM article;
SELECT operation, country, length(properties->>'compressed') AS properties, picture FROM changes OFFSET 7;
SELECT count(DISTINCT md5(picture)) FROM regress_poser.article_version WHERE picture IS NOT NULL;
TABLE wrong_histories;
-- read and recorded in the middle of a nested statement
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF pg_trigger_depth() = 1 THEN
		UPDATE article SET tags = tags || '{touched}' WHERE number = NEW.number AND country = NEW.country;
	END IF;
	RETURN NULL;
END
$$;
CREATE TRIGGER touch AFTER INSERT OR UPDATE ON article FOR EACH ROW EXECUTE FUNCTION touch();
INSERT INTO article (country, tags, picture)
SELECT 'n' || i, '{}', convert_to(repeat('external', 5000 + i), 'UTF8') FROM generate_series(1, 30) AS i;
UPDATE article SET picture = picture || '\x00';
DELETE FROM article WHERE country = 'n1';
SELECT operation, tags, picture FROM changes WHERE country = 'n1';
SELECT count(*) FROM changes WHERE country LIKE 'n%';
TABLE wrong_histories;
DROP FUNCTION touch CASCADE;

--
-- 100,000 rows in one statement
--
CREATE TABLE many (id int PRIMARY KEY, value text);
CREATE TABLE regress_poser.many_version (LIKE many, operation_type smallint, transaction_id bigint, change_id bigint PRIMARY KEY);
ALTER TABLE regress_poser.many_version ALTER id DROP NOT NULL;
CREATE INDEX ON regress_poser.many_version (id, change_id);
CALL make_triggers('many', 'many_version', 'id');
INSERT INTO many SELECT i, repeat('x', i % 50) FROM generate_series(1, 100000) AS i;
UPDATE many SET value = value || 'y';
UPDATE many SET value = value || 'z' WHERE id % 2 = 0;
UPDATE many SET id = id + 100000 WHERE id <= 10;
DELETE FROM many WHERE id % 3 = 0;
SELECT operation_type, count(*), count(DISTINCT id), count(DISTINCT change_id), sum(length(value)) FROM regress_poser.many_version
 GROUP BY transaction_id, operation_type ORDER BY transaction_id, operation_type DESC;
SELECT count(*)
  FROM many FULL JOIN (SELECT DISTINCT ON (id) * FROM regress_poser.many_version ORDER BY id, change_id DESC) AS last USING (id)
 WHERE (many.value IS NULL) <> (operation_type = 2) OR many.value <> last.value;
TRUNCATE many;
SELECT count(*) FROM (SELECT DISTINCT ON (id) * FROM regress_poser.many_version ORDER BY id, change_id DESC) AS last WHERE operation_type <> 2;

--
-- Pruning widgets and components leaves their transactions
--
UPDATE regress_poser.poser_transaction SET issued_at = issued_at - interval '2 years';
INSERT INTO regress_poser.poser_widget (uuid, description) VALUES ('w1', 'one');
UPDATE regress_poser.poser_widget SET active = false;
SELECT regress_poser.poser_prune_versions('0');
SELECT count(*) FROM regress_poser.many_version WHERE NOT EXISTS (
	SELECT FROM regress_poser.poser_transaction WHERE id = transaction_id);

--
-- Tables and arguments that do not fit are an error
--
CREATE TABLE misfit (id int PRIMARY KEY, value varchar(5));
CREATE TABLE regress_poser.misfit_version (LIKE many, operation_type smallint, transaction_id bigint, change_id bigint PRIMARY KEY);
\set VERBOSITY terse
CREATE TRIGGER t AFTER INSERT ON misfit REFERENCING NEW TABLE AS new_rows EXECUTE FUNCTION regress_poser.poser_version('none', 'id');
INSERT INTO misfit VALUES (1, 'a');
CREATE OR REPLACE TRIGGER t AFTER INSERT ON misfit REFERENCING NEW TABLE AS new_rows EXECUTE FUNCTION regress_poser.poser_version('misfit_version', 'none');
INSERT INTO misfit VALUES (1, 'a');
CREATE OR REPLACE TRIGGER t AFTER INSERT ON misfit REFERENCING NEW TABLE AS new_rows EXECUTE FUNCTION regress_poser.poser_version('misfit_version');
INSERT INTO misfit VALUES (1, 'a');
CREATE OR REPLACE TRIGGER t AFTER INSERT ON misfit REFERENCING NEW TABLE AS new_rows EXECUTE FUNCTION regress_poser.poser_version();
INSERT INTO misfit VALUES (1, 'a');
CREATE OR REPLACE TRIGGER t AFTER INSERT ON misfit FOR EACH ROW EXECUTE FUNCTION regress_poser.poser_version('misfit_version', 'id');
INSERT INTO misfit VALUES (1, 'a');
CREATE OR REPLACE TRIGGER t AFTER INSERT ON misfit EXECUTE FUNCTION regress_poser.poser_version('misfit_version', 'id');
INSERT INTO misfit VALUES (1, 'a');
-- a table that lacks the columns of versions
CREATE OR REPLACE TRIGGER t AFTER INSERT ON misfit REFERENCING NEW TABLE AS new_rows EXECUTE FUNCTION regress_poser.poser_version('poser_transaction', 'id');
INSERT INTO misfit VALUES (1, 'a');
-- a key of another type
ALTER TABLE regress_poser.misfit_version ALTER id TYPE bigint;
CREATE OR REPLACE TRIGGER t AFTER INSERT ON misfit REFERENCING NEW TABLE AS new_rows EXECUTE FUNCTION regress_poser.poser_version('misfit_version', 'id');
INSERT INTO misfit VALUES (1, 'a');
ALTER TABLE regress_poser.misfit_version ALTER id TYPE int;
INSERT INTO misfit VALUES (1, 'a');
SELECT id, value, operation_type FROM regress_poser.misfit_version;
SELECT regress_poser.poser_version();

-- Version tables of other schemas are not found.
CREATE TABLE elsewhere_version (LIKE regress_poser.misfit_version);
CREATE OR REPLACE TRIGGER t AFTER INSERT ON misfit REFERENCING NEW TABLE AS new_rows EXECUTE FUNCTION regress_poser.poser_version('elsewhere_version', 'id');
INSERT INTO misfit VALUES (2, 'b');
\set VERBOSITY sqlstate

DROP VIEW changes, wrong_histories;
DROP PROCEDURE make_triggers;
DROP TABLE article, many, misfit, elsewhere_version;
DROP TABLE regress_poser.article_version, regress_poser.many_version, regress_poser.misfit_version;
DROP DOMAIN percent;
DROP EXTENSION poser;
DROP SCHEMA regress_poser;
