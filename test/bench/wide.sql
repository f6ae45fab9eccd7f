-- A table of 30 columns of mixed types, and copies of it for the peers.  :rows is the
-- number of rows of wide_rows, from which all of them are filled.
CREATE TABLE wide (
	id bigint PRIMARY KEY, number integer NOT NULL, small smallint, big bigint,
	price numeric(10,2), amount numeric, ratio double precision, part real,
	name text NOT NULL, code varchar(20), kind char(3), notes text,
	active boolean NOT NULL DEFAULT true, hidden boolean,
	born date, opened timestamptz NOT NULL, closed timestamp, at time, took interval,
	ref uuid, address inet, hardware macaddr, place point, data bytea,
	details jsonb, raw json, tags text[], numbers integer[], days daterange, bits bit(8)
);
CREATE TABLE wide_rows AS
SELECT g::bigint AS id, g::integer AS number, (g % 1000)::smallint AS small, g * 1000000007::bigint AS big,
	   (g % 100000 / 100.0)::numeric(10,2) AS price, g / 7.0 AS amount, g / 3.0::double precision AS ratio, (g / 9.0)::real AS part,
	   'Name of ' || g AS name, ('C' || g)::varchar(20) AS code, 'abc'::char(3) AS kind, repeat(md5(g::text), 2) AS notes,
	   g % 2 = 0 AS active, CASE WHEN g % 3 = 0 THEN true END AS hidden,
	   date '2000-01-01' + g % 9000 AS born, timestamptz '2020-01-01 00:00+00' + g * interval '1 minute' AS opened,
	   timestamp '2020-01-01 00:00' + g * interval '1 second' AS closed, time '08:00' + g % 600 * interval '1 minute' AS at,
	   g % 100 * interval '1 hour' AS took, md5(g::text)::uuid AS ref, ('10.0.' || g % 256 || '.' || g / 256 % 256)::inet AS address,
	   '08:00:2b:01:02:03'::macaddr AS hardware, point(g, -g) AS place, decode(md5(g::text), 'hex') AS data,
	   jsonb_build_object('a', g, 'b', jsonb_build_array(g, 'x')) AS details, json_build_object('n', g) AS raw,
	   ARRAY['tag ' || g % 10, 'tag ' || g % 7] AS tags, ARRAY[g % 5, g % 6, g % 7] AS numbers,
	   daterange(date '2000-01-01', date '2000-01-02' + g % 9000) AS days, (g % 256)::bit(8) AS bits
  FROM generate_series(1, :rows::integer) AS g;
CREATE TABLE none_wide (LIKE wide INCLUDING ALL);
CREATE TABLE supa_wide (LIKE wide INCLUDING ALL);
CREATE TABLE temporal_wide (LIKE wide INCLUDING ALL, period tstzrange NOT NULL);
SELECT poser_track('wide');

-- supa_audit, written anew from what its README describes: a trigger for each row writes
-- the old and the new row as jsonb into one table.  A row is known by a uuid that is made
-- of the table's OID and the key's values.  The columns of the key come from the catalogs.
-- The audit table has indexes on both uuids, on the time (BRIN) and on the table.
CREATE TABLE supa_version (
	id bigserial PRIMARY KEY,
	record_id uuid,
	old_record_id uuid,
	operation text NOT NULL,
	issued_at timestamptz NOT NULL DEFAULT now(),
	table_oid oid NOT NULL,
	table_schema name NOT NULL,
	table_name name NOT NULL,
	record jsonb,
	old_record jsonb
);
CREATE INDEX ON supa_version (record_id) WHERE record_id IS NOT NULL;
CREATE INDEX ON supa_version (old_record_id) WHERE old_record_id IS NOT NULL;
CREATE INDEX ON supa_version USING brin (issued_at);
CREATE INDEX ON supa_version (table_oid);

CREATE FUNCTION supa_key(relation oid) RETURNS text[]
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' AS $$
	SELECT pg_catalog.array_agg(attname::text ORDER BY attnum)
	  FROM pg_catalog.pg_index JOIN pg_catalog.pg_attribute
	       ON attrelid = indrelid AND attnum = ANY (indkey)
	 WHERE indrelid = relation AND indisprimary
$$;
-- md5() stands for uuid_generate_v5(), which is slower
CREATE FUNCTION supa_record_id(relation oid, key text[], record jsonb) RETURNS uuid
LANGUAGE sql STABLE AS $$
	SELECT CASE WHEN record IS NULL OR key IS NULL THEN NULL ELSE
	       (SELECT md5((jsonb_build_array(relation) || jsonb_agg(record ->> name))::text)::uuid FROM unnest(key) AS name) END
$$;
CREATE FUNCTION supa_audit() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
	key text[] := supa_key(TG_RELID);
	record jsonb := to_jsonb(NEW);
	old_record jsonb := to_jsonb(OLD);
BEGIN
	INSERT INTO supa_version (record_id, old_record_id, operation, table_oid, table_schema, table_name, record, old_record)
	VALUES (supa_record_id(TG_RELID, key, record), supa_record_id(TG_RELID, key, old_record),
			TG_OP, TG_RELID, TG_TABLE_SCHEMA, TG_TABLE_NAME, record, old_record);
	RETURN NULL;
END
$$;
CREATE TRIGGER supa_audit AFTER INSERT OR UPDATE OR DELETE ON supa_wide
	FOR EACH ROW EXECUTE FUNCTION supa_audit();

-- temporal_tables, written anew from what its README describes: a trigger before each row
-- sets the row's period, and copies the old row with its period, which ends now, into a
-- table of the same columns.  That table has no index.  The statement is written out,
-- where the extension and the package on npm look up the columns for each row.
CREATE TABLE temporal_wide_history (LIKE temporal_wide);
CREATE FUNCTION temporal_versioning() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF TG_OP <> 'INSERT' THEN
		OLD.period := tstzrange(lower(OLD.period), now());
		INSERT INTO temporal_wide_history VALUES (OLD.*);
		IF TG_OP = 'DELETE' THEN
			RETURN OLD;
		END IF;
	END IF;
	NEW.period := tstzrange(now(), NULL);
	RETURN NEW;
END
$$;
CREATE TRIGGER temporal_versioning BEFORE INSERT OR UPDATE OR DELETE ON temporal_wide
	FOR EACH ROW EXECUTE FUNCTION temporal_versioning();
