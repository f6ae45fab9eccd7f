-- The web admin's role.  Roles that are granted to it may log in to the web admin:
--
--     psql -d shop -f web/roles.sql
--     psql -d shop -c 'GRANT alice TO poser_web'
--
-- Run this as a superuser, or as a role with CREATEROLE, once for all databases of a
-- server.  Each page runs in a session of the role that has logged in.  So poser_web needs
-- no privilege, no password and no LOGIN, and should own nothing.
--
-- alice needs LOGIN, a password, and CONNECT on the database.  pg_hba.conf must ask for the
-- password (scram-sha-256) of connections from the web server.  Superusers are refused.

SELECT NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'poser_web') AS missing \gset
\if :missing
CREATE ROLE poser_web NOLOGIN NOINHERIT;
COMMENT ON ROLE poser_web IS 'web admin of Poser: grant it the roles that may log in there';
\endif
