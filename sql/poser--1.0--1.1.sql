\echo Use "ALTER EXTENSION poser UPDATE TO '1.1'" to load this file. \quit

-- Component counts: bookkeeping, the triggers that keep it, the views and
-- functions that read it.  The triggers come before the counts are built, and
-- the tables are locked from here on, so that no change is missed.

LOCK TABLE @extschema@.poser_widget, @extschema@.poser_component IN SHARE ROW EXCLUSIVE MODE;

CREATE INDEX poser_component_idx_widget ON @extschema@.poser_component (widget_uuid);

-- Bookkeeping.  The space left on a page is for the next versions of its rows.

CREATE TABLE @extschema@.poser_component_count (
	widget_uuid pg_catalog.varchar(32) NOT NULL,
	total pg_catalog.int8 NOT NULL,
	active pg_catalog.int8 NOT NULL,
	CONSTRAINT poser_component_count_pkey PRIMARY KEY (widget_uuid)
) WITH (fillfactor = 70);

ALTER TABLE @extschema@.poser_component_count
	ALTER COLUMN widget_uuid SET STATISTICS 0,
	ALTER COLUMN total SET STATISTICS 0,
	ALTER COLUMN active SET STATISTICS 0;

COMMENT ON TABLE @extschema@.poser_component_count IS
'settled component counts, one row for each widget; kept by triggers';
COMMENT ON COLUMN @extschema@.poser_component_count.widget_uuid IS 'the widget';
COMMENT ON COLUMN @extschema@.poser_component_count.total IS 'number of components';
COMMENT ON COLUMN @extschema@.poser_component_count.active IS 'number of active components';

CREATE TABLE @extschema@.poser_component_count_delta (
	widget_uuid pg_catalog.varchar(32) NOT NULL,
	total pg_catalog.int8 NOT NULL,
	active pg_catalog.int8 NOT NULL
) WITH (
	autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
	autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 1000
);

-- Without a primary key only this lets changes be replicated.
ALTER TABLE @extschema@.poser_component_count_delta
	REPLICA IDENTITY FULL,
	ALTER COLUMN widget_uuid SET STATISTICS 0,
	ALTER COLUMN total SET STATISTICS 0,
	ALTER COLUMN active SET STATISTICS 0;

CREATE INDEX poser_component_count_delta_idx_widget
	ON @extschema@.poser_component_count_delta (widget_uuid);

COMMENT ON TABLE @extschema@.poser_component_count_delta IS
'changes of component counts that are not settled yet; normally empty';
COMMENT ON COLUMN @extschema@.poser_component_count_delta.widget_uuid IS 'the widget';
COMMENT ON COLUMN @extschema@.poser_component_count_delta.total IS 'change of the number of components';
COMMENT ON COLUMN @extschema@.poser_component_count_delta.active IS 'change of the number of active components';

-- Triggers

CREATE FUNCTION @extschema@.poser_count_child()
RETURNS pg_catalog.trigger
AS 'MODULE_PATHNAME', 'poser_count_child'
LANGUAGE C;

COMMENT ON FUNCTION @extschema@.poser_count_child() IS
'counts the rows of a table by parent; arguments: table of counts, table of deltas, column that refers to the parent, flag counted as well';

CREATE FUNCTION @extschema@.poser_count_parent()
RETURNS pg_catalog.trigger
AS 'MODULE_PATHNAME', 'poser_count_parent'
LANGUAGE C;

COMMENT ON FUNCTION @extschema@.poser_count_parent() IS
'makes and deletes the count of a parent; arguments: table of counts, table of deltas, key column';

CREATE TRIGGER poser_count_before
	BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON @extschema@.poser_component
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.poser_count_child(
		'poser_component_count', 'poser_component_count_delta', 'widget_uuid', 'active');
CREATE TRIGGER poser_count_insert
	AFTER INSERT ON @extschema@.poser_component
	REFERENCING NEW TABLE AS new_rows
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.poser_count_child(
		'poser_component_count', 'poser_component_count_delta', 'widget_uuid', 'active');
CREATE TRIGGER poser_count_update
	AFTER UPDATE ON @extschema@.poser_component
	REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.poser_count_child(
		'poser_component_count', 'poser_component_count_delta', 'widget_uuid', 'active');
CREATE TRIGGER poser_count_delete
	AFTER DELETE ON @extschema@.poser_component
	REFERENCING OLD TABLE AS old_rows
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.poser_count_child(
		'poser_component_count', 'poser_component_count_delta', 'widget_uuid', 'active');
CREATE TRIGGER poser_count_truncate
	AFTER TRUNCATE ON @extschema@.poser_component
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.poser_count_child(
		'poser_component_count', 'poser_component_count_delta', 'widget_uuid', 'active');

CREATE TRIGGER poser_count_before
	BEFORE INSERT OR UPDATE ON @extschema@.poser_widget
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.poser_count_parent(
		'poser_component_count', 'poser_component_count_delta', 'uuid');
CREATE TRIGGER poser_count_insert
	AFTER INSERT ON @extschema@.poser_widget
	REFERENCING NEW TABLE AS new_rows
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.poser_count_parent(
		'poser_component_count', 'poser_component_count_delta', 'uuid');
CREATE TRIGGER poser_count_update
	AFTER UPDATE ON @extschema@.poser_widget
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.poser_count_parent(
		'poser_component_count', 'poser_component_count_delta', 'uuid');
CREATE TRIGGER poser_count_update_key
	AFTER UPDATE ON @extschema@.poser_widget
	FOR EACH ROW WHEN (OLD.uuid OPERATOR(pg_catalog.<>) NEW.uuid)
	EXECUTE FUNCTION @extschema@.poser_count_parent(
		'poser_component_count', 'poser_component_count_delta', 'uuid');
CREATE TRIGGER poser_count_delete
	AFTER DELETE ON @extschema@.poser_widget
	REFERENCING OLD TABLE AS old_rows
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.poser_count_parent(
		'poser_component_count', 'poser_component_count_delta', 'uuid');
CREATE TRIGGER poser_count_truncate
	AFTER TRUNCATE ON @extschema@.poser_widget
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.poser_count_parent(
		'poser_component_count', 'poser_component_count_delta', 'uuid');

-- Reading

CREATE FUNCTION @extschema@.poser_component_live_from(
	widget pg_catalog.regclass, component pg_catalog.regclass)
RETURNS pg_catalog.varchar
AS 'MODULE_PATHNAME', 'poser_component_live_from'
LANGUAGE C STABLE STRICT PARALLEL RESTRICTED;

COMMENT ON FUNCTION @extschema@.poser_component_live_from(pg_catalog.regclass, pg_catalog.regclass) IS
'for the views: NULL if the current user may read the maintained component counts now, otherwise the least widget uuid from which on to count';

-- Two views with their owner's rights on the bookkeeping, open to all.  They
-- have no rows for those who may not see all widgets and components, or must
-- not trust the maintained counts.  They are no security barriers, so that the
-- planner can look single rows up; the condition is checked before any row is
-- read, and the columns have no statistics that a query could be made to tell.

CREATE VIEW @extschema@.poser_component_count_settled AS
SELECT widget_uuid, total, active
  FROM @extschema@.poser_component_count
 WHERE @extschema@.poser_component_live_from('@extschema@.poser_widget'::pg_catalog.regclass,
                                             '@extschema@.poser_component'::pg_catalog.regclass) IS NULL;

COMMENT ON VIEW @extschema@.poser_component_count_settled IS
'for poser_widget_summary: settled component counts; empty where components must be counted live';
COMMENT ON COLUMN @extschema@.poser_component_count_settled.widget_uuid IS 'the widget';
COMMENT ON COLUMN @extschema@.poser_component_count_settled.total IS 'number of components';
COMMENT ON COLUMN @extschema@.poser_component_count_settled.active IS 'number of active components';

CREATE VIEW @extschema@.poser_component_count_unsettled AS
SELECT widget_uuid,
       pg_catalog.sum(total)::pg_catalog.int8 AS total,
       pg_catalog.sum(active)::pg_catalog.int8 AS active
  FROM @extschema@.poser_component_count_delta
 WHERE @extschema@.poser_component_live_from('@extschema@.poser_widget'::pg_catalog.regclass,
                                             '@extschema@.poser_component'::pg_catalog.regclass) IS NULL
 GROUP BY widget_uuid;

COMMENT ON VIEW @extschema@.poser_component_count_unsettled IS
'for poser_widget_summary: changes not settled yet; empty where components must be counted live';
COMMENT ON COLUMN @extschema@.poser_component_count_unsettled.widget_uuid IS 'the widget';
COMMENT ON COLUMN @extschema@.poser_component_count_unsettled.total IS 'change of the number of components';
COMMENT ON COLUMN @extschema@.poser_component_count_unsettled.active IS 'change of the number of active components';

CREATE VIEW @extschema@.poser_widget_summary WITH (security_invoker = true) AS
SELECT widget.uuid,
       widget.description,
       widget.active,
       COALESCE(live.total,
                COALESCE(settled.total, 0::pg_catalog.int8)
                OPERATOR(pg_catalog.+) COALESCE(unsettled.total, 0::pg_catalog.int8)) AS component_count,
       COALESCE(live.active,
                COALESCE(settled.active, 0::pg_catalog.int8)
                OPERATOR(pg_catalog.+) COALESCE(unsettled.active, 0::pg_catalog.int8)) AS active_component_count
  FROM @extschema@.poser_widget AS widget
       LEFT JOIN @extschema@.poser_component_count_settled AS settled
       ON settled.widget_uuid OPERATOR(pg_catalog.=) widget.uuid
       LEFT JOIN @extschema@.poser_component_count_unsettled AS unsettled
       ON unsettled.widget_uuid OPERATOR(pg_catalog.=) widget.uuid
       LEFT JOIN (SELECT widget_uuid,
                         pg_catalog.count(*) AS total,
                         pg_catalog.count(*) FILTER (WHERE active) AS active
                    FROM @extschema@.poser_component
                   WHERE widget_uuid OPERATOR(pg_catalog.>=)
                         @extschema@.poser_component_live_from('@extschema@.poser_widget'::pg_catalog.regclass,
                                                               '@extschema@.poser_component'::pg_catalog.regclass)
                   GROUP BY widget_uuid) AS live
       ON live.widget_uuid OPERATOR(pg_catalog.=) widget.uuid;

COMMENT ON VIEW @extschema@.poser_widget_summary IS
'widgets with their component counts, exact in every snapshot';
COMMENT ON COLUMN @extschema@.poser_widget_summary.uuid IS 'key, up to 32 characters';
COMMENT ON COLUMN @extschema@.poser_widget_summary.description IS 'what the widget is';
COMMENT ON COLUMN @extschema@.poser_widget_summary.active IS 'whether the widget is currently in use';
COMMENT ON COLUMN @extschema@.poser_widget_summary.component_count IS 'number of components that the reader may see';
COMMENT ON COLUMN @extschema@.poser_widget_summary.active_component_count IS 'the same, of active components';

CREATE FUNCTION @extschema@.poser_widget_get(uuid pg_catalog.varchar)
RETURNS SETOF @extschema@.poser_widget_summary
AS 'MODULE_PATHNAME', 'poser_widget_get'
LANGUAGE C STABLE STRICT PARALLEL RESTRICTED ROWS 1;

COMMENT ON FUNCTION @extschema@.poser_widget_get(pg_catalog.varchar) IS
'the summary of one widget; no row if there is no such widget';

CREATE FUNCTION @extschema@.poser_widget_list(
	search pg_catalog.text DEFAULT NULL, active pg_catalog.bool DEFAULT NULL,
	after pg_catalog.varchar DEFAULT NULL, page_size pg_catalog.int4 DEFAULT 50)
RETURNS SETOF @extschema@.poser_widget_summary
AS 'MODULE_PATHNAME', 'poser_widget_list'
LANGUAGE C STABLE PARALLEL RESTRICTED ROWS 50;

COMMENT ON FUNCTION @extschema@.poser_widget_list(pg_catalog.text, pg_catalog.bool, pg_catalog.varchar, pg_catalog.int4) IS
'summaries by uuid: those whose description contains search, in upper or lower case, that are active or not, page_size (1 to 1000) of those after the uuid';

-- Mending and checking

CREATE FUNCTION @extschema@.poser_recount()
RETURNS pg_catalog.int8
AS 'MODULE_PATHNAME', 'poser_recount'
LANGUAGE C VOLATILE
SET search_path = pg_catalog, pg_temp;

COMMENT ON FUNCTION @extschema@.poser_recount() IS
'makes all component counts right, while others write; returns for how many widgets they were wrong';

CREATE FUNCTION @extschema@.poser_check(
	OUT object pg_catalog.text, OUT problem pg_catalog.text)
RETURNS SETOF pg_catalog.record
AS 'MODULE_PATHNAME', 'poser_check'
LANGUAGE C STABLE
SET search_path = pg_catalog, pg_temp;

COMMENT ON FUNCTION @extschema@.poser_check() IS
'what is wrong with the tables, triggers and counts of this extension; no row if all is well';

-- Ownership and privileges.  The owner of the tables of 1.0 gets what is new,
-- whoever runs the update, and default privileges open nothing of the
-- bookkeeping: with the trigger functions in triggers of their own others could
-- write the counts; nor do they close what users need no privilege for.  Plain
-- DDL cannot name roles that have to be looked up.

DO LANGUAGE plpgsql $do$
DECLARE
	owner pg_catalog.oid := (SELECT relowner
							   FROM pg_catalog.pg_class
							  WHERE oid OPERATOR(pg_catalog.=)
									'@extschema@.poser_component'::pg_catalog.regclass);
	object pg_catalog.text;
	acl pg_catalog.aclitem[];
	grantee pg_catalog.oid;
BEGIN
	FOR object IN
		VALUES ('TABLE @extschema@.poser_component_count'),
			   ('TABLE @extschema@.poser_component_count_delta'),
			   ('VIEW @extschema@.poser_component_count_settled'),
			   ('VIEW @extschema@.poser_component_count_unsettled'),
			   ('VIEW @extschema@.poser_widget_summary')
	LOOP
		EXECUTE pg_catalog.concat('ALTER ', object, ' OWNER TO ', owner::pg_catalog.regrole);
	END LOOP;

	FOR object, acl IN
		SELECT pg_catalog.concat('TABLE ', oid::pg_catalog.regclass), relacl
		  FROM pg_catalog.pg_class
		 WHERE oid OPERATOR(pg_catalog.=) ANY
			   (ARRAY['@extschema@.poser_component_count'::pg_catalog.regclass,
					  '@extschema@.poser_component_count_delta'::pg_catalog.regclass,
					  '@extschema@.poser_component_count_settled'::pg_catalog.regclass,
					  '@extschema@.poser_component_count_unsettled'::pg_catalog.regclass]::pg_catalog.oid[])
		UNION ALL
		SELECT pg_catalog.concat('FUNCTION ', oid::pg_catalog.regprocedure),
			   COALESCE(proacl, pg_catalog.acldefault('f', proowner))
		  FROM pg_catalog.pg_proc
		 WHERE oid OPERATOR(pg_catalog.=) ANY
			   (ARRAY['@extschema@.poser_count_child()'::pg_catalog.regprocedure,
					  '@extschema@.poser_count_parent()'::pg_catalog.regprocedure]::pg_catalog.oid[])
	LOOP
		FOR grantee IN SELECT DISTINCT a.grantee FROM pg_catalog.aclexplode(acl) AS a
		LOOP
			EXECUTE pg_catalog.concat('REVOKE ALL ON ', object, ' FROM ',
									  CASE WHEN grantee OPERATOR(pg_catalog.=) 0 THEN 'PUBLIC'
										   ELSE grantee::pg_catalog.regrole::pg_catalog.text END);
		END LOOP;
		EXECUTE pg_catalog.concat('GRANT ALL ON ', object, ' TO ', owner::pg_catalog.regrole);
	END LOOP;
END
$do$;

GRANT SELECT ON @extschema@.poser_component_count_settled,
	@extschema@.poser_component_count_unsettled TO PUBLIC;
GRANT EXECUTE ON FUNCTION
	@extschema@.poser_component_live_from(pg_catalog.regclass, pg_catalog.regclass),
	@extschema@.poser_widget_get(pg_catalog.varchar),
	@extschema@.poser_widget_list(pg_catalog.text, pg_catalog.bool, pg_catalog.varchar, pg_catalog.int4),
	@extschema@.poser_recount(),
	@extschema@.poser_check()
	TO PUBLIC;

-- The counts of what is there already.
SELECT @extschema@.poser_recount();
