/*
 * owner.c
 *	  Owner and privileges of the objects that an update script makes or replaces.
 *
 * A superuser runs an update script as itself.  For any other role the server runs the
 * script as the bootstrap superuser, because the extension is trusted.  Default
 * privileges can be set for each of these roles.  The objects that a script makes must
 * not depend on this.  So they get the owner of the extension's tables, and no privileges
 * but the owner's.  The script then grants further privileges.
 *
 * Each script up to 1.4 has a block of PL/pgSQL for this.  The script to 1.5 creates the
 * function poser_set_owner(), and calls it as later scripts do.
 *
 * A function that gets other arguments is a new function for the server.  Users have
 * granted and revoked privileges on the one that it replaces, and some of these grants
 * have other grantors than the owner.  No GRANT statement of a script can repeat them.
 * So poser_carry_grants() copies the owner and the privileges in the catalogs.  It copies
 * the initial privileges (pg_init_privs) as well, because pg_dump dumps the difference
 * between these and the privileges.
 *
 * For the same reason a script does not GRANT anything on a function of an earlier script:
 * the server would take all its present privileges, those that users have granted, too, as
 * its initial ones, and a dump would not hold them.  poser_grant_to_public() adds to both.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/pg_init_privs.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "base/base.h"

PG_FUNCTION_INFO_V1(poser_carry_grants);
PG_FUNCTION_INFO_V1(poser_grant_to_public);
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

/* The tuple of a function in pg_proc, a copy.  Raises undefined_function. */
static HeapTuple
function_tuple(Oid function)
{
	HeapTuple tuple = SearchSysCacheCopy1(PROCOID, ObjectIdGetDatum(function));

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR, errcode(ERRCODE_UNDEFINED_FUNCTION),
				errmsg("function with OID %u does not exist", function));
	return tuple;
}

/* The privileges in a tuple of pg_proc, a copy, or NULL: those of the default. */
static Acl *
function_acl(HeapTuple tuple)
{
	bool isnull;
	Datum acl = SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_proacl, &isnull);

	return isnull ? NULL : DatumGetAclPCopy(acl);
}

/* The initial privileges of a function, a copy, or NULL: none are recorded. */
static Acl *
initial_acl(Oid function)
{
	Relation rel = table_open(InitPrivsRelationId, AccessShareLock);
	Acl *acl = NULL;
	ScanKeyData key[3];
	SysScanDesc scan;
	HeapTuple tuple;

	ScanKeyInit(&key[0], Anum_pg_init_privs_objoid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(function));
	ScanKeyInit(&key[1], Anum_pg_init_privs_classoid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(ProcedureRelationId));
	ScanKeyInit(&key[2], Anum_pg_init_privs_objsubid, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(0));
	scan = systable_beginscan(rel, InitPrivsObjIndexId, true, NULL, lengthof(key), key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool isnull;
		Datum value = heap_getattr(tuple, Anum_pg_init_privs_initprivs, RelationGetDescr(rel), &isnull);

		Assert(!isnull);
		acl = DatumGetAclPCopy(value);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return acl;
}

/* Writes the owner and the privileges of a function into pg_proc, and nothing else. */
static void
write_function(Relation rel, Oid function, Oid owner, Acl *acl)
{
	HeapTuple tuple = function_tuple(function);
	Datum values[Natts_pg_proc] = {0};
	bool nulls[Natts_pg_proc] = {false};
	bool replace[Natts_pg_proc] = {false};

	values[Anum_pg_proc_proowner - 1] = ObjectIdGetDatum(owner);
	replace[Anum_pg_proc_proowner - 1] = true;
	values[Anum_pg_proc_proacl - 1] = PointerGetDatum(acl);
	nulls[Anum_pg_proc_proacl - 1] = acl == NULL;
	replace[Anum_pg_proc_proacl - 1] = true;
	tuple = heap_modify_tuple(tuple, RelationGetDescr(rel), values, nulls, replace);
	CatalogTupleUpdate(rel, &tuple->t_self, tuple);
	CommandCounterIncrement();
}

/*
 * poser_carry_grants(replaced regprocedure, replacement regprocedure) returns void
 *
 * Gives a function the owner, the privileges and the initial privileges of the function
 * that it replaces.  A script calls it between CREATE FUNCTION and DROP FUNCTION.  Both
 * functions have the same kinds of privileges, so the copy is exact: with grant options,
 * all grantors, and what was revoked.  The caller must be a superuser, as scripts are.
 */
Datum
poser_carry_grants(PG_FUNCTION_ARGS)
{
	Oid replaced = PG_GETARG_OID(0);
	Oid replacement = PG_GETARG_OID(1);
	Relation rel;
	HeapTuple tuple;
	Oid owner;
	Acl *acl;
	Acl *initial;
	Acl *before;
	Oid *members;
	Oid *members_before;
	int nmembers;
	int nmembers_before;

	if (!superuser())
		ereport(ERROR, errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				errmsg("must be superuser to carry the grants of a function"));

	/*
	 * Update the replaced function without a change.  If another transaction grants or
	 * revokes at the same time, one of the two gets an error.
	 */
	rel = table_open(ProcedureRelationId, RowExclusiveLock);
	tuple = function_tuple(replaced);
	CatalogTupleUpdate(rel, &tuple->t_self, tuple);
	owner = ((Form_pg_proc) GETSTRUCT(tuple))->proowner;
	acl = function_acl(tuple);
	initial = initial_acl(replaced);
	before = function_acl(function_tuple(replacement));
	CommandCounterIncrement();

	/* the server copies a function's privileges to its initial ones */
	if (initial)
	{
		write_function(rel, replacement, owner, initial);
		recordExtObjInitPriv(replacement, ProcedureRelationId);
	}
	else
		removeExtObjInitPriv(replacement, ProcedureRelationId);

	write_function(rel, replacement, owner, acl);
	changeDependencyOnOwner(ProcedureRelationId, replacement, owner);
	nmembers_before = aclmembers(before, &members_before);
	nmembers = aclmembers(acl, &members);
	updateAclDependencies(ProcedureRelationId, replacement, 0, owner,
						  nmembers_before, members_before, nmembers, members);
	CommandCounterIncrement();
	table_close(rel, RowExclusiveLock);
	PG_RETURN_VOID();
}

/* Returns a copy of these privileges of a function, with EXECUTE for PUBLIC added. */
static Acl *
with_public(const Acl *acl, Oid owner)
{
	AclItem item = {.ai_grantee = ACL_ID_PUBLIC, .ai_grantor = owner};

	ACLITEM_SET_PRIVS_GOPTIONS(item, ACL_EXECUTE, ACL_NO_RIGHTS);
	return aclupdate(acl, &item, ACL_MODECHG_ADD, owner, DROP_RESTRICT);
}

/*
 * poser_grant_to_public(function regprocedure) returns void
 *
 * Grants EXECUTE on a function of an earlier script to PUBLIC, and adds it to the
 * function's initial privileges.  The caller must be a superuser, as scripts are.
 */
Datum
poser_grant_to_public(PG_FUNCTION_ARGS)
{
	Oid function = PG_GETARG_OID(0);
	Relation rel;
	HeapTuple tuple;
	Oid owner;
	Acl *acl;
	Acl *initial;

	if (!superuser())
		ereport(ERROR, errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				errmsg("must be superuser to change the initial privileges of a function"));
	rel = table_open(ProcedureRelationId, RowExclusiveLock);
	tuple = function_tuple(function);
	owner = ((Form_pg_proc) GETSTRUCT(tuple))->proowner;
	acl = function_acl(tuple);
	initial = initial_acl(function);

	/* without initial privileges of its own a function has the default ones, with EXECUTE for PUBLIC */
	if (initial)
	{
		write_function(rel, function, owner, with_public(initial, owner));
		recordExtObjInitPriv(function, ProcedureRelationId);
	}
	if (acl || initial)
		write_function(rel, function, owner, acl ? with_public(acl, owner) : NULL);
	table_close(rel, RowExclusiveLock);
	PG_RETURN_VOID();
}
