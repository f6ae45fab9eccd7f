-- sum(numeric) of a maintained view: from the sum of the finite values, and a tally of all values

CREATE EXTENSION poser;

-- the tally of a value is a power of 10^18: here the power, by the kind of value
CREATE FUNCTION place(tally numeric) RETURNS int LANGUAGE sql AS 'SELECT (length(tally::text) - 1) / 18';

SELECT value, poser_tally(value::numeric) = ('1e' || 18 * place(poser_tally(value::numeric)))::numeric AS is_power,
       place(poser_tally(value::numeric)) AS place
  FROM unnest(ARRAY['-Infinity', 'Infinity', 'NaN', '0', '7', '-7', '0.0', '1.5', '-1.50', '1e-20', '1e20']) AS value;

SELECT poser_tally(NULL) IS NULL AS null_value;

-- scales up to 1000 have their own place, greater ones share the last
SELECT scale, place(poser_tally(('1e-' || scale)::numeric)) FROM unnest(ARRAY[999, 1000, 1001, 16383]) AS scale;

-- what poser_sum_of() returns is what sum() returns, to the last digit
CREATE FUNCTION kept_sum(numeric[], removed numeric[] DEFAULT '{}') RETURNS numeric LANGUAGE sql AS $$
	SELECT poser_sum_of(COALESCE(sum(sign * value) FILTER (WHERE value NOT IN ('NaN', 'Infinity', '-Infinity')), 0),
						COALESCE(sum(sign * poser_tally(value)), 0))
	  FROM (SELECT 1, unnest($1) UNION ALL SELECT 1, unnest($2) UNION ALL SELECT -1, unnest($2)) AS rows (sign, value)
$$;

CREATE FUNCTION real_sum(numeric[]) RETURNS numeric LANGUAGE sql AS 'SELECT sum(value) FROM unnest($1) AS value';

CREATE TABLE cases (id int PRIMARY KEY, value numeric[]);

INSERT INTO cases VALUES
	(1, '{}'),
	(2, '{NULL}'),
	(3, '{0}'),
	(4, '{0.00}'),
	(5, '{1, 2.5, 3.25}'),
	(6, '{1.10, 2.20, -3.30}'),
	(7, '{NaN}'),
	(8, '{1, NaN, 2.5}'),
	(9, '{Infinity, 1}'),
	(10, '{-Infinity, 1, -Infinity}'),
	(11, '{Infinity, -Infinity}'),
	(12, '{Infinity, NaN, -Infinity, 5}'),
	(13, '{99999999999999999999999999.9999, 0.00001}'),
	(14, '{-1e100, 1e-100, NULL}'),
	(15, '{1e131000, 1}');

SELECT id, CASE WHEN length(kept::text) < 60 THEN kept END AS kept, real::text IS NOT DISTINCT FROM kept::text AS same
  FROM cases, kept_sum(value) AS kept, real_sum(value) AS real
 ORDER BY id;

-- what was added and taken away again leaves no trace, in the value or in the digits shown
SELECT cases.id, count(*) AS removed, bool_and(real_sum(cases.value)::text IS NOT DISTINCT FROM kept_sum(cases.value, removed.value)::text) AS same
  FROM cases, cases AS removed
 GROUP BY cases.id
 ORDER BY cases.id;

-- digits of a scale over 1000 are kept, zeros at the end are not
SELECT scale(real_sum(value)) AS real_scale, scale(kept_sum(value)) AS kept_scale, real_sum(value) = kept_sum(value) AS equal
  FROM (VALUES (ARRAY[1e-1000]), (ARRAY[1e-1001]), (ARRAY[1e-1000 + 0e-3000]), (ARRAY[3, 1e-2500, 2e-16383]), (ARRAY[1.5 + 0e-1001])) AS cases (value);

-- many rows of a kind do not reach the next place
SELECT poser_sum_of(12.5, 999999999999999999 * poser_tally(0.1)), poser_sum_of(0, 999999999999999999 * poser_tally('NaN'));

-- a tally can have zeros after the point, as a result of arithmetic
SELECT poser_sum_of(12.5, poser_tally(0.1) + 0.000), poser_sum_of(12.5, 0.00) IS NULL AS empty;

-- null
SELECT poser_sum_of(NULL, 1) IS NULL AND poser_sum_of(1, NULL) IS NULL AS are_null;

-- a sum that no finite values have is passed on
SELECT poser_sum_of('NaN', poser_tally(1)), poser_sum_of('-Infinity', poser_tally(1)), poser_sum_of('Infinity', 1e18);

-- what is not a tally
\set VERBOSITY sqlstate
SELECT poser_sum_of(1, -1);
\set VERBOSITY default
SELECT poser_sum_of(1, poser_tally(1.5) - 2 * poser_tally(1.50));
SELECT poser_sum_of(1, 0.5);
SELECT poser_sum_of(1, -0.5);
SELECT poser_sum_of(1, poser_tally(1) + 1e-16383);
SELECT poser_sum_of(1, 'NaN');
SELECT poser_sum_of(1, 'Infinity');
SELECT poser_sum_of(1, '-Infinity');
SELECT poser_sum_of(1, 1e18072);
SELECT poser_sum_of(1, -1e18071);
SELECT poser_sum_of(1, 1e131071);

-- the greatest tally is one
SELECT poser_sum_of('NaN', 1e18072 - 1), poser_sum_of(1, 1e18071) = 1 AS scale_1000;

DROP FUNCTION place, kept_sum, real_sum;
DROP TABLE cases;
DROP EXTENSION poser;
