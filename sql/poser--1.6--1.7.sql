\echo Use "ALTER EXTENSION poser UPDATE TO '1.7'" to load this file. \quit

-- Each call of a function has exactly the argument types of the function that is meant,
-- see the script to 1.5.

-- Maintained views: the triggers on parents, children and bookkeeping

CREATE FUNCTION @extschema@.poser_maintain_rows()
RETURNS pg_catalog.trigger
AS 'MODULE_PATHNAME', 'poser_maintain_rows'
LANGUAGE C;

COMMENT ON FUNCTION @extschema@.poser_maintain_rows() IS
'keeps the counts and sums of the maintained views of a table';

CREATE FUNCTION @extschema@.poser_maintained_by()
RETURNS pg_catalog.trigger
AS 'MODULE_PATHNAME', 'poser_maintained_by'
LANGUAGE C;

COMMENT ON FUNCTION @extschema@.poser_maintained_by() IS
'binds the bookkeeping of a maintained view to the view and its tables, and lets only Poser change it; poser_maintain() makes its arguments';

-- Reading

CREATE FUNCTION @extschema@.poser_serves(query pg_catalog.regclass)
RETURNS pg_catalog.bool
AS 'MODULE_PATHNAME', 'poser_serves'
LANGUAGE C STABLE STRICT PARALLEL RESTRICTED;

COMMENT ON FUNCTION @extschema@.poser_serves(pg_catalog.regclass) IS
'for maintained views: whether the current query may read the bookkeeping of this view''s query';

CREATE FUNCTION @extschema@.poser_live_from(query pg_catalog.regclass)
RETURNS pg_catalog.tid
AS 'MODULE_PATHNAME', 'poser_live_from'
LANGUAGE C STABLE STRICT PARALLEL RESTRICTED;

COMMENT ON FUNCTION @extschema@.poser_live_from(pg_catalog.regclass) IS
'for maintained views: NULL if the current query may read the bookkeeping, otherwise the ctid from which the child''s rows are to be counted';

CREATE FUNCTION @extschema@.poser_tally(value pg_catalog.numeric)
RETURNS pg_catalog.numeric
AS 'MODULE_PATHNAME', 'poser_tally'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

COMMENT ON FUNCTION @extschema@.poser_tally(pg_catalog.numeric) IS
'for maintained views: the tally of one value, to be added up; poser_sum_of() needs the tally of all values';

CREATE FUNCTION @extschema@.poser_sum_of(sum pg_catalog.numeric, tally pg_catalog.numeric)
RETURNS pg_catalog.numeric
AS 'MODULE_PATHNAME', 'poser_sum_of'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

COMMENT ON FUNCTION @extschema@.poser_sum_of(pg_catalog.numeric, pg_catalog.numeric) IS
'for maintained views: what sum() returns, from the sum of the finite values and the tally of all values';

-- Beginning and ending

CREATE FUNCTION @extschema@.poser_maintain(view pg_catalog.regclass, existing pg_catalog.bool DEFAULT true)
RETURNS pg_catalog.void
AS 'MODULE_PATHNAME', 'poser_maintain'
LANGUAGE C VOLATILE;

COMMENT ON FUNCTION @extschema@.poser_maintain(pg_catalog.regclass, pg_catalog.bool) IS
'keeps the counts and sums of a view, so that reading it costs a look-up; the view stays the same';

CREATE FUNCTION @extschema@.poser_unmaintain(view pg_catalog.regclass)
RETURNS pg_catalog.void
AS 'MODULE_PATHNAME', 'poser_unmaintain'
LANGUAGE C VOLATILE;

COMMENT ON FUNCTION @extschema@.poser_unmaintain(pg_catalog.regclass) IS
'gives a maintained view its query back, and removes the bookkeeping';

CREATE FUNCTION @extschema@.poser_recount(view pg_catalog.regclass DEFAULT NULL)
RETURNS pg_catalog.int8
AS 'MODULE_PATHNAME', 'poser_recount'
LANGUAGE C VOLATILE
SET search_path = pg_catalog, pg_temp;

SELECT @extschema@.poser_carry_grants(
	'@extschema@.poser_recount()'::pg_catalog.regprocedure,
	'@extschema@.poser_recount(pg_catalog.regclass)'::pg_catalog.regprocedure);

DROP FUNCTION @extschema@.poser_recount();

COMMENT ON FUNCTION @extschema@.poser_recount(pg_catalog.regclass) IS
'corrects the counts and sums of a maintained view, or of the components and all maintained views, while others write; returns how many keys were wrong';

CREATE FUNCTION @extschema@.poser_maintained()
RETURNS TABLE (
	view pg_catalog.regclass,
	query pg_catalog.regclass,
	bookkeeping pg_catalog.regclass,
	parent pg_catalog.regclass,
	child pg_catalog.regclass,
	served pg_catalog.bool,
	problem pg_catalog.text
)
AS 'MODULE_PATHNAME', 'poser_maintained'
LANGUAGE C STABLE;

COMMENT ON FUNCTION @extschema@.poser_maintained() IS
'the rows of poser_views';

CREATE VIEW @extschema@.poser_views AS
	SELECT m.view, m.query, m.bookkeeping, m.parent, m.child, m.served, m.problem
	  FROM @extschema@.poser_maintained() AS m;

COMMENT ON VIEW @extschema@.poser_views IS 'the maintained views';
COMMENT ON COLUMN @extschema@.poser_views.view IS 'the view; null if it was dropped';
COMMENT ON COLUMN @extschema@.poser_views.query IS 'the view that holds its query';
COMMENT ON COLUMN @extschema@.poser_views.bookkeeping IS 'the table of its counts and sums';
COMMENT ON COLUMN @extschema@.poser_views.parent IS 'the table with a row for each row of the view';
COMMENT ON COLUMN @extschema@.poser_views.child IS 'the table that is counted';
COMMENT ON COLUMN @extschema@.poser_views.served IS 'whether a query with the present snapshot and rights reads the counts; otherwise the view counts the rows';
COMMENT ON COLUMN @extschema@.poser_views.problem IS 'why it is not maintained, or what must be done';

-- What older functions do for views, too

COMMENT ON FUNCTION @extschema@.poser_follow() IS
'for an event trigger on ddl_command_end: calls poser_track() for tracked tables that were altered, and mends maintained views';
COMMENT ON FUNCTION @extschema@.poser_check(pg_catalog.regclass) IS
'what is wrong with the whole extension, with one table, or with one maintained view';

-- Owner and privileges of what is new.  Any role can own a maintained view and read one.  Its
-- owner makes triggers with the trigger functions, also in a restore.  The view's query, which
-- runs as its reader, calls the other functions.

SELECT @extschema@.poser_set_owner('@extschema@.poser_component'::pg_catalog.regclass,
	ARRAY['@extschema@.poser_views'
		 ]::pg_catalog.regclass[],
	ARRAY['@extschema@.poser_maintain_rows()',
		  '@extschema@.poser_maintained_by()',
		  '@extschema@.poser_serves(pg_catalog.regclass)',
		  '@extschema@.poser_live_from(pg_catalog.regclass)',
		  '@extschema@.poser_tally(pg_catalog.numeric)',
		  '@extschema@.poser_sum_of(pg_catalog.numeric, pg_catalog.numeric)',
		  '@extschema@.poser_maintain(pg_catalog.regclass, pg_catalog.bool)',
		  '@extschema@.poser_unmaintain(pg_catalog.regclass)',
		  '@extschema@.poser_maintained()'
		 ]::pg_catalog.regprocedure[]);

GRANT SELECT ON @extschema@.poser_views TO PUBLIC;

GRANT EXECUTE ON FUNCTION
	@extschema@.poser_maintain_rows(),
	@extschema@.poser_maintained_by(),
	@extschema@.poser_serves(pg_catalog.regclass),
	@extschema@.poser_live_from(pg_catalog.regclass),
	@extschema@.poser_tally(pg_catalog.numeric),
	@extschema@.poser_sum_of(pg_catalog.numeric, pg_catalog.numeric),
	@extschema@.poser_maintain(pg_catalog.regclass, pg_catalog.bool),
	@extschema@.poser_unmaintain(pg_catalog.regclass),
	@extschema@.poser_maintained()
	TO PUBLIC;
