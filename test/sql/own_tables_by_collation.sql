-- Own tables with a key whose collation does not distinguish all texts.  A server without
-- ICU has no such collation, and another expected result.

SELECT count(*) = 0 AS no_icu FROM pg_collation WHERE collprovider = 'i' \gset
\if :no_icu
\quit
\endif
SET client_min_messages = warning;
CREATE EXTENSION poser;
CREATE COLLATION ignore_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE article (name text COLLATE ignore_case, number int, value text, PRIMARY KEY (name, number));
SELECT poser_track('article');
CREATE VIEW versions AS
SELECT (ARRAY['insert', 'update', 'delete'])[operation_type + 1] AS operation, name, number, value FROM article_version ORDER BY change_id;

-- The same key in other letters is the same row.
INSERT INTO article VALUES ('Bolt', 1, 'one');
UPDATE article SET name = 'BOLT';
UPDATE article SET name = 'bolt', value = 'two';
INSERT INTO article VALUES ('bOLT', 1, 'three') ON CONFLICT (name, number) DO UPDATE SET value = excluded.value;
UPDATE article SET name = 'Nut';
TABLE versions;

-- It is found by any letters.
SELECT operation, changed, old ->> 'name' AS old_name, new ->> 'name' AS new_name FROM poser_history('article', '{"name": "bOlT", "number": 1}');
SELECT operation, new ->> 'name' AS new_name FROM poser_history('article', '{"name": "nUT"}', 1);
SELECT * FROM poser_as_of(NULL::article, 'infinity', '{"name": "NUT", "number": 1}');
SELECT * FROM poser_as_of(NULL::article, 'infinity', '{"name": "NUT"}');

-- And it is found so when statements overlap.
CREATE FUNCTION change_case() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF pg_trigger_depth() = 1 THEN
		UPDATE article SET name = upper(name) WHERE name = NEW.name;
	END IF;
	RETURN NULL;
END
$$;
CREATE TRIGGER change_case AFTER UPDATE ON article FOR EACH ROW EXECUTE FUNCTION change_case();
UPDATE article SET value = 'four';
SELECT * FROM versions OFFSET 5;
TABLE article;

-- A key with a collation that its column does not have is none: it says in another way
-- which rows are the same.
DROP TRIGGER change_case ON article;
ALTER TABLE article DROP CONSTRAINT article_pkey;
CREATE UNIQUE INDEX article_key ON article (name COLLATE "C", number);
ALTER TABLE article ALTER name SET NOT NULL, ALTER number SET NOT NULL, REPLICA IDENTITY USING INDEX article_key;
INSERT INTO article VALUES ('NUT', 2, 'one'), ('nut', 2, 'two');
UPDATE article SET value = 'five';
-- A key column whose collation has changed is another column.
DELETE FROM article_version;
ALTER TABLE article ALTER name TYPE text COLLATE "C", ADD PRIMARY KEY (name, number);
UPDATE article SET value = 'five';
SELECT problem FROM poser_tables WHERE target = 'article'::regclass;
SELECT * FROM versions OFFSET 7;
DROP VIEW versions;
SELECT poser_track('article');
UPDATE article SET value = 'five' WHERE number = 2;
SELECT operation_type, name, number, value FROM article_version ORDER BY change_id OFFSET 10;

DROP EXTENSION poser CASCADE;
DROP TABLE article, article_version;
DROP FUNCTION change_case;
DROP COLLATION ignore_case;
