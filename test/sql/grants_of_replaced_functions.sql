-- Scripts call poser_carry_grants() when a function gets other arguments: the new
-- function has the owner and the privileges of the one that it replaces, whichever role
-- has granted or revoked them, and whatever the default privileges are.

CREATE ROLE regress_poser_owner;
CREATE ROLE regress_poser_granted;
CREATE ROLE regress_poser_reader;
CREATE EXTENSION poser;
ALTER FUNCTION poser_batch_refresh(varchar) OWNER TO regress_poser_owner;
REVOKE EXECUTE ON FUNCTION poser_batch_refresh(varchar) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION poser_batch_refresh(varchar) TO regress_poser_granted WITH GRANT OPTION;
SET ROLE regress_poser_granted;
GRANT EXECUTE ON FUNCTION poser_batch_refresh(varchar) TO regress_poser_reader;
RESET ROLE;
ALTER FUNCTION poser_batch_refresh(varchar) COST 77;

-- What a function has.  PUBLIC has no name; the role of the session has another in each
-- cluster.
CREATE FUNCTION privileges(function regprocedure)
RETURNS TABLE (kind text, grantor text, grantee text, grantable boolean)
LANGUAGE sql AS $$
	SELECT kind, replace(grantor::regrole::text, current_user, 'the superuser'),
	       CASE grantee WHEN 0 THEN 'PUBLIC' ELSE replace(grantee::regrole::text, current_user, 'the superuser') END,
	       is_grantable
	  FROM (SELECT 'owner', array_agg(makeaclitem(proowner, proowner, 'EXECUTE', false)) FROM pg_proc WHERE oid = function
	        UNION ALL
	        SELECT 'now', proacl FROM pg_proc WHERE oid = function
	        UNION ALL
	        SELECT 'initial', initprivs FROM pg_init_privs WHERE objoid = function AND classoid = 'pg_proc'::regclass
	       ) AS acl (kind, items), LATERAL aclexplode(items)
	 ORDER BY kind COLLATE "C", grantor::regrole::text COLLATE "C", grantee::regrole::text COLLATE "C"
$$;
-- the roles that the catalogs of dependencies know
CREATE FUNCTION dependencies(function regprocedure)
RETURNS TABLE (role regrole, kind text)
LANGUAGE sql AS $$
	SELECT refobjid, deptype FROM pg_shdepend
	 WHERE classid = 'pg_proc'::regclass AND objid = function AND deptype IN ('o', 'a')
	   AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
	 ORDER BY refobjid::regrole::text COLLATE "C"
$$;

SELECT * FROM privileges('poser_batch_refresh(varchar)');
-- With these default privileges the new function begins with others.
ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO regress_poser_reader WITH GRANT OPTION;
CREATE FUNCTION replacement(varchar, boolean) RETURNS bigint LANGUAGE sql RETURN 1;
GRANT EXECUTE ON FUNCTION replacement(varchar, boolean) TO regress_poser_owner;
SELECT * FROM privileges('replacement(varchar, boolean)');
SELECT * FROM dependencies('replacement(varchar, boolean)');
SELECT poser_carry_grants('poser_batch_refresh(varchar)', 'replacement(varchar, boolean)');
SELECT * FROM privileges('replacement(varchar, boolean)');
SELECT * FROM dependencies('replacement(varchar, boolean)');
SELECT procost FROM pg_proc WHERE oid = 'replacement(varchar, boolean)'::regprocedure;
-- The privileges work, and the catalogs are consistent.
SET ROLE regress_poser_granted;
REVOKE EXECUTE ON FUNCTION replacement(varchar, boolean) FROM regress_poser_reader;
SELECT replacement('', true);
SET ROLE regress_poser_reader;
SELECT replacement('', true);
RESET ROLE;
DROP ROLE regress_poser_granted;

-- In one transaction, as a script does it.
BEGIN;
CREATE FUNCTION poser_batch_refresh(batch varchar, again boolean DEFAULT false) RETURNS bigint LANGUAGE sql RETURN 1;
SELECT poser_carry_grants('poser_batch_refresh(varchar)', 'poser_batch_refresh(varchar, boolean)');
ALTER EXTENSION poser DROP FUNCTION poser_batch_refresh(varchar);
DROP FUNCTION poser_batch_refresh(varchar);
SELECT * FROM privileges('poser_batch_refresh(varchar, boolean)');
ROLLBACK;

-- A function with the privileges of the default, and no initial ones, carries these.
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM regress_poser_reader;
CREATE FUNCTION plain() RETURNS integer LANGUAGE sql RETURN 1;
SELECT poser_carry_grants('plain()', 'replacement(varchar, boolean)');
SELECT proacl IS NULL AS of_the_default FROM pg_proc WHERE oid = 'replacement(varchar, boolean)'::regprocedure;
SELECT * FROM privileges('replacement(varchar, boolean)');
SELECT * FROM dependencies('replacement(varchar, boolean)');

-- A script grants a function of an earlier one to PUBLIC.  What users have granted stays,
-- and is no initial privilege.
BEGIN;
GRANT EXECUTE ON FUNCTION poser_count_child() TO regress_poser_reader WITH GRANT OPTION;
SELECT poser_grant_to_public('poser_count_child()');
SELECT * FROM privileges('poser_count_child()');
SELECT poser_grant_to_public('poser_count_child()');
SELECT * FROM privileges('poser_count_child()');
SELECT poser_grant_to_public('plain()');
SELECT proacl IS NULL AS of_the_default FROM pg_proc WHERE oid = 'plain()'::regprocedure;
ROLLBACK;

-- They write the catalogs, so they are for superusers, also with a grant.
GRANT EXECUTE ON FUNCTION poser_carry_grants(regprocedure, regprocedure), poser_grant_to_public(regprocedure) TO regress_poser_owner;
\set VERBOSITY sqlstate
SET ROLE regress_poser_owner;
SELECT poser_carry_grants('plain()', 'poser_batch_refresh(varchar)');
SELECT poser_grant_to_public('poser_count_child()');
RESET ROLE;
SELECT poser_carry_grants('plain()', 0);
SELECT poser_carry_grants(0, 'plain()');
SELECT poser_carry_grants(NULL, 'plain()') IS NULL AS nothing;
SELECT poser_grant_to_public(0);

\set VERBOSITY terse
DROP EXTENSION poser;
DROP FUNCTION replacement, plain, privileges, dependencies;
DROP OWNED BY regress_poser_granted;
DROP ROLE regress_poser_owner, regress_poser_granted, regress_poser_reader;
