\set ECHO none
-- look() notes which row versions a table has.  untouched() tells how many of them
-- are still there, and how many have been written since.
CREATE TABLE seen (relation regclass, place text);
CREATE PROCEDURE look(relation regclass) LANGUAGE plpgsql AS $$
BEGIN
	DELETE FROM seen WHERE seen.relation = $1;
	EXECUTE format('INSERT INTO seen SELECT %s, concat_ws('' '', tableoid, ctid, xmin) FROM %s', $1::oid, $1);
END
$$;
CREATE FUNCTION untouched(relation regclass, OUT untouched bigint, OUT written bigint) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('SELECT count(place), count(*) - count(place)
					  FROM %s AS r LEFT JOIN seen ON relation = %s AND place = concat_ws('' '', r.tableoid, r.ctid, r.xmin)', $1, $1::oid)
	   INTO untouched, written;
END
$$;
\set ECHO all
