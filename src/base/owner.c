/*
 * owner.c
 *	  Owner and privileges of the objects that an update script makes.
 *
 * A superuser runs an update script as itself.  For any other role the server runs the
 * script as the bootstrap superuser, because the extension is trusted.  Default
 * privileges can be set for each of these roles.  The objects that a script makes must
 * not depend on this.  So they get the owner of the extension's tables, and no privileges
 * but the owner's.  The script then grants further privileges.
 *
 * Each script up to 1.4 has a block of PL/pgSQL for this.  The script to 1.5 creates this
 * function, and calls it as later scripts do.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "base/base.h"

PG_FUNCTION_INFO_V1(poser_set_owner);

/*
 * The statements, in the order in which they run.  $1 is a table that has the right
 * owner, $2 are the new relations, $3 the new functions.  For a table "t" that the role
 * "maker" has made, with default privileges for "reader", they are
 *
 *		REVOKE ALL ON TABLE t FROM maker
 *		REVOKE ALL ON TABLE t FROM reader
 *		ALTER TABLE t OWNER TO owner
 *		GRANT ALL ON TABLE t TO owner
 *
 * The owner of a sequence that belongs to a table's column changes with the table's
 * owner.  Functions keep their owner: no function of the extension is SECURITY DEFINER.
 */
static const char *const statements_query =
	"WITH owner AS (SELECT relowner::pg_catalog.regrole AS role\n"
	"                 FROM pg_catalog.pg_class WHERE oid OPERATOR(pg_catalog.=) $1),\n"
	"     object AS (SELECT position, pg_catalog.concat(CASE relkind WHEN 'S' THEN 'SEQUENCE ' ELSE 'TABLE ' END,\n"
	"                                                   oid::pg_catalog.regclass) AS name, relacl AS acl,\n"
	"                       NOT EXISTS (SELECT FROM pg_catalog.pg_depend\n"
	"                                    WHERE classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass\n"
	"                                      AND objid OPERATOR(pg_catalog.=) c.oid\n"
	"                                      AND relkind OPERATOR(pg_catalog.=) 'S'\n"
	"                                      AND refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass\n"
	"                                      AND deptype OPERATOR(pg_catalog.=) ANY ('{a,i}'::pg_catalog.\"char\"[])) AS has_owner\n"
	"                  FROM pg_catalog.unnest($2) WITH ORDINALITY AS new (relation, position)\n"
	"                       JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) new.relation\n"
	"                UNION ALL\n"
	"                SELECT position, pg_catalog.concat('FUNCTION ', oid::pg_catalog.regprocedure),\n"
	"                       COALESCE(proacl, pg_catalog.acldefault('f', proowner)), false\n"
	"                  FROM pg_catalog.unnest($3) WITH ORDINALITY AS new (function, position)\n"
	"                       JOIN pg_catalog.pg_proc AS p ON p.oid OPERATOR(pg_catalog.=) new.function)\n"
	"SELECT pg_catalog.concat('REVOKE ALL ON ', object.name, ' FROM ',\n"
	"                         CASE WHEN grantee OPERATOR(pg_catalog.=) 0 THEN 'PUBLIC'\n"
	"                              ELSE grantee::pg_catalog.regrole::pg_catalog.text END) AS statement,\n"
	"       1 AS step, position\n"
	"  FROM object, LATERAL (SELECT DISTINCT grantee FROM pg_catalog.aclexplode(object.acl)) AS granted\n"
	"UNION ALL\n"
	"SELECT pg_catalog.concat('ALTER ', object.name, ' OWNER TO ', owner.role), 2, position\n"
	"  FROM object, owner WHERE object.has_owner\n"
	"UNION ALL\n"
	"SELECT pg_catalog.concat('GRANT ALL ON ', object.name, ' TO ', owner.role), 3, position\n"
	"  FROM object, owner\n"
	" ORDER BY step, position, statement";

/*
 * poser_set_owner(table_of_owner regclass, relations regclass[], functions regprocedure[])
 * returns void
 *
 * Runs with the caller's own rights.  "relations" are tables, views and sequences, and
 * "functions" include trigger functions.
 */
Datum
poser_set_owner(PG_FUNCTION_ARGS)
{
	const Oid argtypes[] = {REGCLASSOID, REGCLASSARRAYOID, REGPROCEDUREARRAYOID};
	Datum values[] = {PG_GETARG_DATUM(0), PG_GETARG_DATUM(1), PG_GETARG_DATUM(2)};
	SPITupleTable *statements;

	SPI_connect();
	poser_run(&(PoserQuery) {.sql = statements_query, .nargs = lengthof(argtypes), .argtypes = argtypes, .values = values, .once = true});
	statements = SPI_tuptable;
	for (uint64 i = 0; i < statements->numvals; i++)
	{
		CHECK_FOR_INTERRUPTS();
		poser_run(&(PoserQuery) {.sql = SPI_getvalue(statements->vals[i], statements->tupdesc, 1), .once = true});
	}
	SPI_finish();
	PG_RETURN_VOID();
}
