-- Own tables in a copy of the database: columns are matched by their names there.  If a
-- name has changed since poser_track() was called last, nothing is recorded, and no value gets
-- into a wrong column.
CREATE DATABASE regress_own_tables;
\c regress_own_tables
SET client_min_messages = warning;
CREATE EXTENSION poser;
CREATE TABLE same (id int PRIMARY KEY, a text);
CREATE TABLE secret (id int PRIMARY KEY, a text, pw text);
CREATE TABLE swapped (id int PRIMARY KEY, a text, b text);
CREATE TABLE wider (id int PRIMARY KEY, a text);
SELECT poser_track('same'), poser_track('secret', exclude => '{pw}'), poser_track('swapped'), poser_track('wider');
INSERT INTO same VALUES (1, 'a');
INSERT INTO secret VALUES (1, 'a', 'secret');
INSERT INTO swapped VALUES (1, 'a', 'b');
ALTER TABLE secret RENAME pw TO password;
ALTER TABLE swapped RENAME a TO c;
ALTER TABLE swapped RENAME b TO a;
ALTER TABLE swapped RENAME c TO b;
ALTER TABLE wider ADD COLUMN b text;
-- here all is recorded
UPDATE secret SET a = 'b';
UPDATE swapped SET a = 'c';
\c postgres
CREATE DATABASE regress_own_tables_copy TEMPLATE regress_own_tables;
\c regress_own_tables_copy
SELECT target, unrecorded, recording, problem FROM poser_tables WHERE target::text !~ '^poser_' ORDER BY target;
UPDATE same SET a = 'b';
UPDATE secret SET a = 'c';
UPDATE swapped SET a = 'd';
INSERT INTO wider VALUES (1, 'a', 'b');
SELECT poser_track('same');
SELECT poser_track('secret');
SELECT poser_track('secret', exclude => '{password}');
SELECT poser_track('swapped');
SELECT poser_track('wider');
SELECT target, excluded, unrecorded, recording, problem FROM poser_tables WHERE target::text !~ '^poser_' ORDER BY target;
UPDATE same SET a = 'c';
UPDATE secret SET a = 'd';
UPDATE swapped SET a = 'e';
SELECT id, a, operation_type FROM same_version ORDER BY change_id;
SELECT to_jsonb(v) - 'transaction_id' - 'change_id' AS version FROM secret_version AS v ORDER BY change_id;
SELECT to_jsonb(v) - 'transaction_id' - 'change_id' AS version FROM swapped_version AS v ORDER BY change_id;
SELECT to_jsonb(v) - 'transaction_id' - 'change_id' AS version FROM wider_version AS v ORDER BY change_id;
-- nothing more to do
SELECT poser_track('same'), poser_track('secret'), poser_track('swapped'), poser_track('wider');
\c postgres
DROP DATABASE regress_own_tables_copy;
DROP DATABASE regress_own_tables;
