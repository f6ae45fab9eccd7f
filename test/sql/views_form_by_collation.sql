-- Maintained views by a key with a collation: one that is not deterministic, and different ones.

SELECT NOT EXISTS (SELECT FROM pg_collation WHERE collprovider = 'i') AS skip \gset
\if :skip
\quit
\endif
SET client_min_messages = warning;
CREATE EXTENSION poser;
CREATE COLLATION any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE any_case_parent (id text COLLATE any_case PRIMARY KEY);
CREATE TABLE any_case_child (id text COLLATE any_case REFERENCES any_case_parent, n int);
INSERT INTO any_case_parent VALUES ('a'), ('B');
INSERT INTO any_case_child VALUES ('A', 1), ('a', 2), ('b', 3);
CREATE VIEW any_case AS SELECT p.id, count(c.n) AS n FROM any_case_parent p LEFT JOIN any_case_child c ON c.id = p.id GROUP BY p.id;
CREATE TABLE c_parent (id text COLLATE "C" PRIMARY KEY);
CREATE TABLE posix_child (id text COLLATE "POSIX" REFERENCES c_parent, n int);
INSERT INTO c_parent VALUES ('a'), ('A');
INSERT INTO posix_child VALUES ('a', 1), ('A', 2), ('a', 3);
CREATE VIEW posix AS SELECT p.id, count(c.n) AS n FROM c_parent p LEFT JOIN posix_child c ON c.id = p.id COLLATE "C" GROUP BY p.id;
SELECT poser_maintain('any_case'), poser_maintain('posix');
SELECT view, served FROM poser_views ORDER BY view::text;
TABLE any_case ORDER BY id COLLATE "C";
TABLE posix ORDER BY id;
INSERT INTO any_case_child VALUES ('B', 4), ('A', NULL), ('A', 5);
DELETE FROM any_case_child WHERE n = 1;
UPDATE any_case_child SET id = upper(id);
UPDATE any_case_parent SET id = 'A' WHERE id = 'a';
UPDATE posix_child SET id = upper(id) WHERE n < 3;
SELECT view, served FROM poser_views ORDER BY view::text;
TABLE any_case ORDER BY id COLLATE "C";
TABLE posix ORDER BY id;
SELECT poser_recount('any_case'), poser_recount('posix');
-- by counting
SET session_replication_role = replica;
TABLE any_case ORDER BY id COLLATE "C";
TABLE posix ORDER BY id;
RESET session_replication_role;

-- More is equal under another collation than that of the key.
CREATE VIEW compared AS
SELECT p.id, count(c.n) AS n FROM c_parent p LEFT JOIN posix_child c ON c.id = p.id COLLATE any_case GROUP BY p.id;
SELECT poser_maintain('compared');

SELECT poser_unmaintain('any_case'), poser_unmaintain('posix');
DROP EXTENSION poser;
DROP VIEW compared, any_case, posix;
DROP TABLE any_case_child, any_case_parent, posix_child, c_parent;
DROP COLLATION any_case;
