/*
 * track_columns.c
 *	  The columns of a tracked table, and those of its table of versions.
 *
 * A column of the table is bound to a column of the versions by the numbers of both, which
 * RENAME does not change.  So renamed columns are recognized, also if two have exchanged
 * their names, and the columns of the versions get the new names.
 *
 * The versions keep a column that the table has dropped, because history has its values.
 * If the table later gets a column of that name, the old column of the versions gets
 * another name.  A column of the versions that never had a value is used instead: a
 * migration tool may have added it.
 *
 * The table of versions has the types of the table's columns, without modifiers and
 * domains: otherwise old values could not be stored any more after these have changed.
 *
 * The invariant: afterwards each column that is to be recorded is bound to a column of the
 * versions of the same type and collation.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/transam.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/parse_coerce.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "versions/track_internal.h"

/*
 * The columns of the table
 */

/* Is this name in the list that the caller wants to exclude? */
static bool
is_excluded(const PoserTrack *track, const char *name)
{
	ListCell *lc;

	foreach(lc, track->exclude)
	{
		if (strcmp(strVal(lfirst(lc)), name) == 0)
			return true;
	}
	return false;
}

/* Find the columns of the table, which is open and locked.  Raises an error if one that is to be excluded does not exist. */
void
poser_track_find_columns(PoserTrack *track, Relation rel)
{
	TupleDesc desc = RelationGetDescr(rel);
	ListCell *lc;

	foreach(lc, track->exclude)
	{
		(void) poser_user_column(rel, strVal(lfirst(lc)), NULL);
	}
	track->ncolumns = 0;
	track->columns = palloc0(Max(desc->natts, 1) * sizeof(PoserTrackColumn));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		PoserTrackColumn *column = &track->columns[track->ncolumns];

		if (att->attisdropped)
			continue;
		column->attnum = att->attnum;
		column->name = pstrdup(NameStr(att->attname));
		column->type = getBaseType(att->atttypid);
		column->typmod = att->atttypmod;
		column->collation = att->attcollation;
		column->is_virtual = att->attgenerated != '\0' && att->attgenerated != ATTRIBUTE_GENERATED_STORED;
		column->excluded = is_excluded(track, column->name);
		track->ncolumns++;
	}
}

/* Find a column of the table by its number, or return NULL. */
static PoserTrackColumn *
column_by_number(const PoserTrack *track, AttrNumber attnum)
{
	for (int i = 0; i < track->ncolumns; i++)
		if (track->columns[i].attnum == attnum)
			return &track->columns[i];
	return NULL;
}

/* Is the column recorded, in a column of the versions that is there or will be? */
static bool
is_recorded(const PoserTrackColumn *column)
{
	return !column->excluded && !column->is_virtual;
}

/* Does the table have a primary key that Poser cannot use, because it has WITHOUT OVERLAPS? */
static bool
has_period_key(Relation rel)
{
	List *indexes = RelationGetIndexList(rel);
	bool result = false;
	ListCell *lc;

	foreach(lc, indexes)
	{
		Relation index = index_open(lfirst_oid(lc), AccessShareLock);

		result = result || (index->rd_index->indisprimary && index->rd_index->indisexclusion);
		index_close(index, AccessShareLock);
	}
	list_free(indexes);
	return result;
}

/* Raises an error unless the table has a key, and all columns of the key are recorded. */
void
poser_track_check_key(const PoserTrack *track, Relation rel)
{
	Oid indexid = poser_own_key_index(rel);
	Relation index;

	if (has_period_key(rel))
		ereport(ERROR,
				errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				errmsg("cannot track relation \"%s\"", RelationGetRelationName(rel)),
				errdetail("Its primary key has WITHOUT OVERLAPS."));
	if (!OidIsValid(indexid))
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("relation \"%s\" has no primary key", RelationGetRelationName(rel)),
				errhint("Add a primary key, or make a unique index its replica identity."));
	index = index_open(indexid, AccessShareLock);
	if (index->rd_index->indnkeyatts >= INDEX_MAX_KEYS)
		ereport(ERROR,
				errcode(ERRCODE_TOO_MANY_COLUMNS),
				errmsg("cannot track relation \"%s\"", RelationGetRelationName(rel)),
				errdetail("Its key has %d columns, and can have at most %d.", index->rd_index->indnkeyatts, INDEX_MAX_KEYS - 1));
	for (int i = 0; i < index->rd_index->indnkeyatts; i++)
	{
		PoserTrackColumn *column = column_by_number(track, index->rd_index->indkey.values[i]);

		if (column != NULL && !is_recorded(column))
			ereport(ERROR,
					errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("column \"%s\" cannot be excluded", column->name),
					errdetail("It belongs to the key of relation \"%s\".", RelationGetRelationName(rel)));
	}
	index_close(index, AccessShareLock);
}

/*
 * Names of columns of the versions
 */

/* Returns the name of a column, or NULL if it was dropped or never existed. */
static char *
live_name(Oid relid, AttrNumber attnum)
{
	HeapTuple tuple = SearchSysCache2(ATTNUM, ObjectIdGetDatum(relid), Int16GetDatum(attnum));
	char *result = NULL;

	if (!HeapTupleIsValid(tuple))
		return NULL;
	if (!((Form_pg_attribute) GETSTRUCT(tuple))->attisdropped)
		result = pstrdup(NameStr(((Form_pg_attribute) GETSTRUCT(tuple))->attname));
	ReleaseSysCache(tuple);
	return result;
}

/* Does the table of versions have a column of this name? */
static bool
has_version_column(const PoserTrack *track, const char *name)
{
	return get_attnum(track->versions, name) != InvalidAttrNumber;
}

/* Returns a name like this one which no column of the table or of the versions has: "notes_1". */
static char *
free_name(const PoserTrack *track, const char *name)
{
	for (int i = 1;; i++)
	{
		char *result = makeObjectName(name, NULL, psprintf("%d", i));

		if (get_attnum(track->relid, result) == InvalidAttrNumber &&
			(!OidIsValid(track->versions) || !has_version_column(track, result)))
			return result;
	}
}

/* Is this one of the columns that only the versions have? */
static bool
is_bookkeeping(const PoserTrack *track, const char *name)
{
	return strcmp(name, track->operation_type) == 0 || strcmp(name, track->transaction_id) == 0 ||
		   strcmp(name, track->change_id) == 0;
}

/* Is a column of the versions used, by a column of the table or by Poser itself? */
static bool
is_used(const PoserTrack *track, AttrNumber version)
{
	for (int i = 0; i < track->ncolumns; i++)
		if (track->columns[i].version == version)
			return true;
	return is_bookkeeping(track, get_attname(track->versions, version, false));
}

/* Rename a column of the versions. */
static void
rename_version_column(const PoserTrack *track, const char *from, const char *to)
{
	poser_track_run(track, track->versions,
					psprintf("ALTER TABLE %s RENAME COLUMN %s TO %s", poser_relation_name(track->versions),
							 pstrdup(quote_identifier(from)), pstrdup(quote_identifier(to))));
}

/*
 * Make a name free for a column of the versions, and return it.  A column that is no
 * longer used gets another name.  If the column is used, the result is another name.
 */
static char *
claim_name(PoserTrack *track, const char *name)
{
	AttrNumber version = get_attnum(track->versions, name);
	char *other;

	if (version == InvalidAttrNumber)
		return pstrdup(name);
	other = free_name(track, name);
	if (version < 0 || is_used(track, version))
		return other;
	if (poser_track_must(track, true, "column \"%s\" of relation \"%s\", which has values of a former column, is renamed to \"%s\"",
						 name, get_rel_name(track->versions), other))
		rename_version_column(track, name, other);
	return pstrdup(name);
}

/*
 * Making the table of versions
 */

/* Returns the name of a column that only the versions have: "change_id" or, if the table has a column of that name, "poser_change_id". */
static char *
bookkeeping_name(const PoserTrack *track, const char *name)
{
	char *longer = psprintf("poser_%s", name);

	if (get_attnum(track->relid, name) == InvalidAttrNumber)
		return pstrdup(name);
	if (get_attnum(track->relid, longer) == InvalidAttrNumber)
		return longer;
	return free_name(track, longer);
}

/*
 * Make a table of versions of this name.  The columns of Poser come last, the smallest
 * one first.
 *
 *	CREATE TABLE customer_version (id bigint, email text, notes text,
 *		operation_type smallint NOT NULL, transaction_id bigint NOT NULL, change_id bigint NOT NULL)
 */
void
poser_track_make_versions(PoserTrack *track, Oid nspid, const char *name)
{
	StringInfoData sql;
	int ncolumns = 3;
	AttrNumber last = 0;

	for (int i = 0; i < track->ncolumns; i++)
		ncolumns += is_recorded(&track->columns[i]) ? 1 : 0;
	if (ncolumns > MaxHeapAttributeNumber)
		ereport(ERROR,
				errcode(ERRCODE_TOO_MANY_COLUMNS),
				errmsg("cannot track relation \"%s\"", get_rel_name(track->relid)),
				errdetail("Its table of versions would have %d columns, and a table can have at most %d.", ncolumns,
						  MaxHeapAttributeNumber),
				errhint("Leave out columns with the argument \"exclude\"."));

	track->operation_type = bookkeeping_name(track, "operation_type");
	track->transaction_id = bookkeeping_name(track, "transaction_id");
	track->change_id = bookkeeping_name(track, "change_id");
	initStringInfo(&sql);
	appendStringInfo(&sql, "CREATE TABLE %s (", quote_qualified_identifier(get_namespace_name(nspid), name));
	for (int i = 0; i < track->ncolumns; i++)
	{
		PoserTrackColumn *column = &track->columns[i];

		if (!is_recorded(column))
			continue;
		appendStringInfo(&sql, "%s %s, ", quote_identifier(column->name), poser_type_sql(column->type, -1, column->collation));
		column->version = ++last;
	}
	appendStringInfo(&sql, "%s pg_catalog.int2 NOT NULL, ", quote_identifier(track->operation_type));
	appendStringInfo(&sql, "%s pg_catalog.int8 NOT NULL, ", quote_identifier(track->transaction_id));
	appendStringInfo(&sql, "%s pg_catalog.int8 NOT NULL)", quote_identifier(track->change_id));
	poser_track_run(track, track->relid, sql.data);

	track->versions = get_relname_relid(name, nspid);
	if (!OidIsValid(track->versions))
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_TABLE),
				errmsg("relation \"%s\" does not exist in schema \"%s\"", name, get_namespace_name(nspid)));
	LockRelationOid(track->versions, AccessExclusiveLock);
	track->is_new = true;
	poser_close_to_others(track->versions);
}

/*
 * Matching
 */

/* Bind the table's columns to those columns of the versions that have the same names. */
void
poser_track_match_by_name(PoserTrack *track)
{
	for (int i = 0; i < track->ncolumns; i++)
	{
		PoserTrackColumn *column = &track->columns[i];
		AttrNumber version = get_attnum(track->versions, column->name);

		column->bound_name = NULL;
		if (version < 0 || is_bookkeeping(track, column->name))
			version = 0;
		column->version = is_recorded(column) ? version : 0;
		column->former = column->excluded ? version : 0;
	}
	track->compare = true;
}

/* Does the binding exclude a column? */
static bool
has_excluded_columns(const PoserBinding *binding)
{
	for (int i = 0; i < binding->ncolumns; i++)
		if (binding->columns[i].versions_attnum == 0)
			return true;
	return false;
}

/*
 * The binding was made in another database, and its names do not say for certain which
 * columns it means.  So the columns are matched by the names that they have now, and the
 * rows are compared with their last versions.  But an excluded column could have got
 * another name, so the caller must say what to exclude.
 */
static void
match_anew(PoserTrack *track, const PoserBinding *binding, const char *problem)
{
	if (!track->has_exclude && has_excluded_columns(binding))
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("cannot tell which columns of relation \"%s\" are excluded", get_rel_name(track->relid)),
				errdetail_internal("The binding was made in another database, and %s.", problem),
				errhint("Give all columns to exclude with the argument \"exclude\"."));
	if (poser_track_must(track, true, "columns of relations \"%s\" and \"%s\" are matched by their names", get_rel_name(track->relid),
						 get_rel_name(track->versions)))
		poser_track_match_by_name(track);
}

/*
 * Bind the table's columns as the binding says.  Both tables are open; if the binding was
 * made in another database, its numbers of columns are replaced by those here.
 */
void
poser_track_match_columns(PoserTrack *track, PoserBinding *binding, Relation rel, Relation versions)
{
	const char *problem = binding->here ? NULL : poser_own_match_by_name(binding, rel, versions);

	if (problem != NULL)
	{
		match_anew(track, binding, problem);
		return;
	}
	for (int i = 0; i < binding->ncolumns; i++)
	{
		PoserBoundColumn *bound = &binding->columns[i];
		PoserTrackColumn *column = column_by_number(track, bound->attnum);
		const char *name;

		name = bound->versions_attnum != 0 ? live_name(track->versions, bound->versions_attnum) : NULL;
		if (column == NULL)
		{
			if (name != NULL)
				(void) poser_track_must(track, true, "column \"%s\" of relation \"%s\" keeps the values of a column that was dropped", name,
										RelationGetRelationName(versions));
			continue;
		}
		if (bound->versions_attnum == 0)
		{
			column->excluded = track->has_exclude ? column->excluded : true;
			if (bound->versions_name[0] != '\0')
				column->former = Max(get_attnum(track->versions, bound->versions_name), 0);
			continue;
		}
		if (name == NULL || is_bookkeeping(track, name))
			continue;
		if (column->excluded)
		{
			(void) poser_track_must(track, false, "column \"%s\" of relation \"%s\" is excluded from now on, and its former values stay in relation \"%s\"",
									column->name, RelationGetRelationName(rel), RelationGetRelationName(versions));
			column->former = bound->versions_attnum;
			continue;
		}
		if (column->is_virtual)
			continue;
		column->version = bound->versions_attnum;
		column->bound_name = pstrdup(bound->name);
	}
}

/*
 * Altering the table of versions
 */

/* Returns the name that the column's values have in the versions. */
static char *
version_name(const PoserTrack *track, const PoserTrackColumn *column)
{
	return get_attname(track->versions, column->version, false);
}

/* Has the table's column been renamed, and the column of the versions not? */
static bool
is_renamed(const PoserTrack *track, const PoserTrackColumn *column)
{
	return column->version != 0 && column->bound_name != NULL && strcmp(column->name, column->bound_name) != 0 &&
		   strcmp(column->name, version_name(track, column)) != 0;
}

/* Does a renamed column need the name that this column of the versions still has? */
static bool
is_wanted(const PoserTrack *track, const char *name)
{
	for (int i = 0; i < track->ncolumns; i++)
		if (is_renamed(track, &track->columns[i]) && strcmp(track->columns[i].name, name) == 0)
			return true;
	return false;
}

/* Rename the columns of the versions whose columns in the table have been renamed. */
static void
rename_columns(PoserTrack *track)
{
	char **old_names = palloc0(Max(track->ncolumns, 1) * sizeof(char *));

	/* two columns can have exchanged their names: those whose name another one needs get a name of their own first */
	for (int i = 0; i < track->ncolumns; i++)
	{
		PoserTrackColumn *column = &track->columns[i];

		if (!is_renamed(track, column))
			continue;
		old_names[i] = version_name(track, column);
		if (!track->looking && is_wanted(track, old_names[i]))
			rename_version_column(track, old_names[i], free_name(track, old_names[i]));
	}
	for (int i = 0; i < track->ncolumns; i++)
	{
		PoserTrackColumn *column = &track->columns[i];
		char *name;

		if (old_names[i] == NULL)
			continue;
		name = claim_name(track, column->name);
		if (poser_track_must(track, true, "column \"%s\" of relation \"%s\" is renamed to \"%s\"", old_names[i],
							 get_rel_name(track->versions), name))
			rename_version_column(track, version_name(track, column), name);
	}
}

/* Does any version have a value in this column?  Asked with the rights of the versions' owner. */
static bool
has_values(const PoserTrack *track, AttrNumber version)
{
	return poser_track_finds_row(track, track->versions,
								 psprintf("SELECT FROM %s WHERE %s IS DISTINCT FROM NULL", poser_relation_name(track->versions),
										  quote_identifier(get_attname(track->versions, version, false))));
}

/* Returns a column of the versions that has this name and type and was never used, for instance because a migration tool has just added it; otherwise 0. */
static AttrNumber
unused_column(const PoserTrack *track, const PoserTrackColumn *column)
{
	AttrNumber version = get_attnum(track->versions, column->name);

	if (version <= 0 || is_used(track, version) ||
		getBaseType(get_atttype(track->versions, version)) != column->type || has_values(track, version))
		return 0;
	return version;
}

/* Add columns to the versions for those of the table that have none there. */
static void
add_columns(PoserTrack *track)
{
	const char *versions = get_rel_name(track->versions);

	for (int i = 0; i < track->ncolumns; i++)
	{
		PoserTrackColumn *column = &track->columns[i];
		char *name;

		if (!is_recorded(column) || column->version != 0)
			continue;
		column->is_added = true;
		column->version = track->looking ? 0 : unused_column(track, column);
		if (column->version != 0)
		{
			(void) poser_track_must(track, true, "column \"%s\" of relation \"%s\" is used", column->name, versions);
			continue;
		}
		name = claim_name(track, column->name);
		if (!poser_track_must(track, true, "column \"%s\" is added to relation \"%s\"", name, versions))
			continue;
		poser_track_run(track, track->versions,
						psprintf("ALTER TABLE %s ADD COLUMN %s %s", poser_relation_name(track->versions), pstrdup(quote_identifier(name)),
								 poser_type_sql(column->type, -1, column->collation)));
		column->version = get_attnum(track->versions, name);
	}
}

/*
 * Raises an error unless versions can be cast to the new type without being told how.  If
 * the versions have another owner than the table, types that users have made are not cast,
 * because a cast of the table's owner would run with the rights of the versions' owner.
 */
static void
check_cast(const PoserTrack *track, const PoserTrackColumn *column, Oid type)
{
	Oid target = column->type;
	char *name = version_name(track, column);
	bool is_foreign = !poser_have_one_owner(track->relid, track->versions) &&
					  (type >= FirstNormalObjectId || target >= FirstNormalObjectId);

	if (getBaseType(type) == target || (!is_foreign && can_coerce_type(1, &type, &target, COERCION_ASSIGNMENT)))
		return;
	ereport(ERROR,
			errcode(ERRCODE_DATATYPE_MISMATCH),
			errmsg("column \"%s\" of relation \"%s\" cannot be cast automatically to type %s", name,
				   get_rel_name(track->versions), format_type_be(target)),
			errhint("Alter the column yourself (ALTER TABLE %s ALTER COLUMN %s TYPE %s USING ...) or rename it. Then call poser_track() and poser_record_versions().",
					poser_relation_name(track->versions), pstrdup(quote_identifier(name)), format_type_be(target)));
}

/* Give the columns of the versions the types that the table's columns have. */
static void
alter_types(PoserTrack *track)
{
	for (int i = 0; i < track->ncolumns; i++)
	{
		PoserTrackColumn *column = &track->columns[i];
		Oid type;
		int32 typmod;
		Oid collation;

		if (column->version == 0)
			continue;
		get_atttypetypmodcoll(track->versions, column->version, &type, &typmod, &collation);
		if (getBaseType(type) == column->type && (typmod < 0 || typmod == column->typmod) && collation == column->collation)
			continue;
		check_cast(track, column, type);
		if (!poser_track_must(track, true, "column \"%s\" of relation \"%s\" is altered to type %s", version_name(track, column),
							  get_rel_name(track->versions), poser_type_sql(column->type, -1, column->collation)))
			continue;
		poser_track_run(track, track->versions,
						psprintf("ALTER TABLE %s ALTER COLUMN %s TYPE %s", poser_relation_name(track->versions),
								 pstrdup(quote_identifier(version_name(track, column))), poser_type_sql(column->type, -1, column->collation)));
		if (getBaseType(type) != column->type)
			track->compare = true;
	}
}

/* Make the columns of the versions those of the table. */
void
poser_track_alter_columns(PoserTrack *track)
{
	if (track->is_new)
		return;
	rename_columns(track);
	add_columns(track);
	alter_types(track);
}
