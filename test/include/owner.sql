\set ECHO none
-- A role that is no superuser, may create the extension, and has a schema for it.
CREATE ROLE regress_poser_owner;
CREATE SCHEMA regress_poser AUTHORIZATION regress_poser_owner;
GRANT USAGE ON SCHEMA regress_poser TO PUBLIC;
DO $$
BEGIN
	EXECUTE format('GRANT CREATE ON DATABASE %I TO regress_poser_owner', current_database());
END
$$;
\set ECHO all
