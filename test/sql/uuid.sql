-- poser_uuid(): UUIDs of version 7 as 32 hexadecimal digits.

CREATE EXTENSION poser;

CREATE TEMPORARY TABLE made (n bigint GENERATED ALWAYS AS IDENTITY, uuid varchar(32));
INSERT INTO made (uuid) SELECT poser_uuid() FROM generate_series(1, 100000);

-- The type is that of the keys.  The digits are lower case, the version is 7, the
-- variant is that of RFC 9562.
SELECT pg_typeof(poser_uuid());
SELECT count(*) FROM made WHERE uuid !~ '^[0-9a-f]{12}7[0-9a-f]{3}[89ab][0-9a-f]{15}$';
SELECT count(*) FROM made WHERE replace(uuid::uuid::text, '-', '') <> uuid;

-- Each one is greater than the one before, also within a millisecond.
SELECT count(*)
  FROM (SELECT uuid, lag(uuid) OVER (ORDER BY n) AS before FROM made) AS pair
 WHERE uuid COLLATE "C" <= before COLLATE "C";
SELECT count(DISTINCT left(uuid, 12)) < count(*) AS "many to a millisecond" FROM made;

-- The first 12 digits are the time in milliseconds.
DO $$
DECLARE
	earliest bigint := floor(extract(epoch FROM clock_timestamp()) * 1000);
	made bigint;
	latest bigint;
BEGIN
	PERFORM pg_sleep(0.002);
	made := ('x' || lpad(left(poser_uuid(), 12), 16, '0'))::bit(64)::bigint;
	latest := floor(extract(epoch FROM clock_timestamp()) * 1000);
	ASSERT made > earliest AND made <= latest,
		format('made at %s, between %s and %s', made, earliest, latest);
END
$$;

-- The rest starts at random in each millisecond.
TRUNCATE made;
DO $$
BEGIN
	FOR i IN 1..50 LOOP
		INSERT INTO made (uuid) VALUES (poser_uuid());
		PERFORM pg_sleep(0.002);
	END LOOP;
END
$$;
SELECT count(*) > 0 AS afresh
  FROM (SELECT substr(uuid, 18) AS random, substr(lag(uuid) OVER (ORDER BY n), 18) AS before FROM made) AS pair
 WHERE random COLLATE "C" < before COLLATE "C";

-- As the default of a key it follows the order of the inserts.
INSERT INTO poser_widget (description) SELECT i FROM generate_series(1, 1000) AS i;
SELECT count(*)
  FROM (SELECT description::int AS came,
               row_number() OVER (ORDER BY uuid COLLATE "C") AS stands
          FROM poser_widget) AS place
 WHERE came <> stands;

-- Each row, and each column that calls it, gets its own.
SELECT count(DISTINCT a), count(DISTINCT b), bool_or(a = b) AS same
  FROM (SELECT poser_uuid() AS a, poser_uuid() AS b FROM generate_series(1, 10)) AS made;

DROP TABLE made;
DROP EXTENSION poser;
