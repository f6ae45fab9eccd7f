\set ECHO none
-- For tests of maintained views.  All objects are in a schema that the test drops at its end, because
-- the extension leaves the tables of the counts.
--
-- all_views: the maintained views, by the names of the views with their queries.
-- differences: rows that a maintained view and its query do not have in common, as text, which
-- tells 1.0 from 1.00.  There are none.
-- live: maintained views that do not read what is kept.
-- check_step(): raises an error if there is a difference, and notes how many views have
-- been read from what is kept.
\set QUIET on
CREATE SCHEMA regress_views;
GRANT USAGE ON SCHEMA regress_views TO PUBLIC;
SET search_path = regress_views, public;
CREATE VIEW all_views AS
SELECT view.oid::regclass AS view, query.oid::regclass AS query,
       (quote_ident(nspname) || '.' || quote_ident(view.relname || '_maintained'))::regclass AS bookkeeping
  FROM pg_class AS view
       JOIN pg_class AS query ON query.relnamespace = view.relnamespace AND query.relname = view.relname || '_query'
       JOIN pg_namespace ON pg_namespace.oid = view.relnamespace
 WHERE view.relkind = 'v';
CREATE FUNCTION differences_now() RETURNS SETOF text LANGUAGE plpgsql STABLE AS $$
DECLARE
	relations record;
BEGIN
	FOR relations IN SELECT view, query FROM all_views ORDER BY view::text LOOP
		RETURN QUERY EXECUTE format(
			'WITH kept AS MATERIALIZED (SELECT kept::text AS row FROM %1$s AS kept),
			      counted AS MATERIALIZED (SELECT counted::text AS row FROM %2$s AS counted)
			SELECT format(''%%s: %%s is %%s'', %3$L, row, place)
			  FROM (SELECT row, ''kept'' FROM (TABLE kept EXCEPT ALL TABLE counted) AS wrong
			        UNION ALL
			        SELECT row, ''counted'' FROM (TABLE counted EXCEPT ALL TABLE kept) AS wrong) AS found (row, place)
			 ORDER BY row, place', relations.view, relations.query, relations.view);
	END LOOP;
END
$$;
CREATE VIEW differences AS SELECT * FROM differences_now() AS difference;
CREATE VIEW live AS SELECT view FROM all_views WHERE NOT poser_serves(query) ORDER BY view::text;
CREATE TEMPORARY TABLE checked (served integer, views integer);
CREATE PROCEDURE check_step(step text) LANGUAGE plpgsql AS $$
DECLARE
	found text;
BEGIN
	SELECT string_agg(difference, E'\n') INTO found FROM differences;
	IF found IS NOT NULL THEN
		RAISE EXCEPTION E'after %\n%', step, found;
	END IF;
	INSERT INTO checked SELECT count(*) FILTER (WHERE poser_serves(query)), count(*) FROM all_views;
END
$$;
\set QUIET off
\set ECHO all
