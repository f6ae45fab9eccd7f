-- Sums of maintained views: all types, NULL, NaN, infinity, scales, and numbers beyond bigint.

\set VERBOSITY terse
SET client_min_messages = warning;
CREATE EXTENSION poser;
\getenv test PG_ABS_SRCDIR
\set tools :test '/include/views.sql'
\i :tools

CREATE DOMAIN price AS numeric(12, 2);
CREATE TABLE account (id integer PRIMARY KEY);
CREATE TABLE entry (id integer PRIMARY KEY, account_id integer REFERENCES account,
	small smallint, whole integer, large bigint, amount numeric, price price, kind text);
CREATE VIEW account_sums AS
SELECT account.id, count(entry.id) AS entries, sum(small) AS small, sum(whole) AS whole, sum(large) AS large,
       sum(amount) AS amount, sum(price) AS price, sum(amount) FILTER (WHERE kind = 'in') AS amount_in,
       COALESCE(sum(large) FILTER (WHERE kind = 'in'), 0) AS large_in, COALESCE(sum(amount), 0.0) AS amount_or_zero
  FROM account LEFT JOIN entry ON entry.account_id = account.id
 GROUP BY account.id;
INSERT INTO account SELECT generate_series(1, 4);
INSERT INTO entry VALUES
	(1, 1, 32767, 2147483647, 9223372036854775807, 1.50, 1.5, 'in'),
	(2, 1, 32767, 2147483647, 9223372036854775807, 2.250, 2.25, 'out'),
	(3, 2, NULL, NULL, NULL, NULL, NULL, 'in');
SELECT poser_maintain('account_sums');
SELECT * FROM account_sums ORDER BY id;
SELECT id, small_rows, whole_rows, large_rows, amount, amount_tally FROM account_sums_maintained ORDER BY id;
TABLE differences;
TABLE live;

-- beyond bigint, in both directions
INSERT INTO entry SELECT i, 3, 32767, 2147483647, 9223372036854775807, 9223372036854775807.5, 9999999999.99, 'in'
  FROM generate_series(10, 14) AS i;
SELECT small, whole, large, amount, price FROM account_sums WHERE id = 3;
UPDATE entry SET large = -9223372036854775808, small = -32768, whole = -2147483648, amount = -amount, price = -price
 WHERE account_id = 3;
SELECT small, whole, large, amount, price FROM account_sums WHERE id = 3;
TABLE differences;
DELETE FROM entry WHERE account_id = 3 AND id > 10;
SELECT small, whole, large, amount, price FROM account_sums WHERE id = 3;
DELETE FROM entry WHERE account_id = 3;
SELECT small, whole, large, amount, price FROM account_sums WHERE id = 3;
TABLE differences;
TABLE live;

-- NULL: a sum of no value is NULL, one of values that are 0 is 0
INSERT INTO entry (id, account_id, whole, amount) VALUES (20, 4, 0, 0), (21, 4, NULL, NULL);
SELECT entries, small, whole, large, amount, large_in, amount_or_zero FROM account_sums WHERE id = 4;
UPDATE entry SET whole = NULL, amount = NULL WHERE id = 20;
SELECT entries, small, whole, large, amount, large_in, amount_or_zero FROM account_sums WHERE id = 4;
UPDATE entry SET whole = 5, large = 7, amount = 5.000 WHERE id = 21;
UPDATE entry SET whole = -5, large = -7, amount = -5 WHERE id = 20;
SELECT entries, small, whole, large, amount, large_in, amount_or_zero FROM account_sums WHERE id = 4;
TABLE differences;

-- The scale is that of the value with most digits, until this value goes.
INSERT INTO entry (id, account_id, amount, kind) VALUES (22, 4, 1.00000, 'in'), (23, 4, 1e-20, 'in'), (24, 4, 1e20, 'in');
SELECT amount, amount_in FROM account_sums WHERE id = 4;
DELETE FROM entry WHERE id = 23;
SELECT amount, amount_in FROM account_sums WHERE id = 4;
UPDATE entry SET amount = 1.0 WHERE id = 22;
SELECT amount, amount_in FROM account_sums WHERE id = 4;
UPDATE entry SET amount = 0 WHERE account_id = 4 AND id > 21;
UPDATE entry SET amount = 0.00 WHERE id = 22;
SELECT amount, amount_in FROM account_sums WHERE id = 4;
TABLE differences;

-- NaN and infinity come and go, alone and together.
UPDATE entry SET amount = 'NaN' WHERE id = 22;
SELECT amount, amount_in, amount_or_zero FROM account_sums WHERE id = 4;
UPDATE entry SET amount = 'Infinity' WHERE id = 22;
SELECT amount, amount_in, amount_or_zero FROM account_sums WHERE id = 4;
UPDATE entry SET amount = '-Infinity' WHERE id = 24;
SELECT amount, amount_in, amount_or_zero FROM account_sums WHERE id = 4;
UPDATE entry SET amount = 3.5 WHERE id = 22;
SELECT amount, amount_in, amount_or_zero FROM account_sums WHERE id = 4;
INSERT INTO entry (id, account_id, amount, kind) VALUES (25, 4, 'NaN', 'out'), (26, 4, 'Infinity', 'out');
SELECT amount, amount_in, amount_or_zero FROM account_sums WHERE id = 4;
DELETE FROM entry WHERE id = 25;
SELECT amount, amount_in, amount_or_zero FROM account_sums WHERE id = 4;
DELETE FROM entry WHERE id IN (24, 26);
SELECT amount, amount_in, amount_or_zero FROM account_sums WHERE id = 4;
SELECT id, amount, amount_tally FROM account_sums_maintained WHERE id = 4;
TABLE differences;
TABLE live;

-- A value that is equal, but has other digits, changes the digits of the sum.
UPDATE entry SET amount = 3.500 WHERE id = 22;
SELECT amount FROM account_sums WHERE id = 4;
TABLE differences;

-- Extreme values.  Scales above 1000 have one place in the tally.
INSERT INTO entry (id, account_id, amount) VALUES (30, 2, 1e-1000), (31, 2, 1e1000), (32, 2, ('1e-' || 1200)::numeric);
SELECT scale(amount) AS scale, length(amount::text) AS length, amount = 1e1000 + 1e-1000 + ('1e-' || 1200)::numeric AS equal
  FROM account_sums WHERE id = 2;
SELECT count(*) FROM differences;
DELETE FROM entry WHERE id = 32;
SELECT scale(amount) AS scale, amount = 1e1000 + 1e-1000 AS equal FROM account_sums WHERE id = 2;
SELECT count(*) FROM differences;
DELETE FROM entry WHERE id IN (30, 31);
SELECT amount FROM account_sums WHERE id = 2;
TABLE differences;

-- Many values in one statement, in one transaction, and undone.
INSERT INTO entry SELECT i, 1 + i % 4, i % 100, i, i * 1000000000000::bigint * (i % 7), i / (1 + i % 13)::numeric, i / 7.0,
                         CASE WHEN i % 2 = 0 THEN 'in' END
  FROM generate_series(100, 3000) AS i;
TABLE differences;
BEGIN;
UPDATE entry SET amount = amount * 1.1, large = large - 1, whole = NULL WHERE id % 3 = 0;
SAVEPOINT a;
UPDATE entry SET amount = CASE id % 5 WHEN 0 THEN 'NaN' WHEN 1 THEN 'Infinity' ELSE amount END, account_id = 1 + id % 3;
TABLE differences;
ROLLBACK TO a;
DELETE FROM entry WHERE id % 2 = 0;
TABLE differences;
COMMIT;
TABLE differences;
DELETE FROM entry;
SELECT * FROM account_sums ORDER BY id;
SELECT * FROM account_sums_maintained WHERE (id = 1 AND delta = 0) OR delta <> 0;
TABLE differences;
TABLE live;

DROP EXTENSION poser CASCADE;
DROP SCHEMA regress_views CASCADE;
