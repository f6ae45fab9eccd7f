/*
 * view_tables.c
 *	  The tables of a maintained view: whether they are as they must be.
 *
 * A view depends on the columns that its query names.  So these keep their types, and
 * cannot be dropped.  Everything else about the tables can change, without an error, while
 * the view is maintained.  This file checks it.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/transam.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "counts/counts_internal.h"

/* Is this foreign key the one by which the view joins? */
static bool
is_foreign_key(const PoserViewForm *form, const ForeignKeyCacheInfo *fk)
{
	int found = 0;

	if (fk->confrelid != form->parent || fk->nkeys != form->nkeys)
		return false;
	for (int i = 0; i < fk->nkeys; i++)
		for (int j = 0; j < form->nkeys; j++)
			if (fk->confkey[i] == form->keys[j].parent && fk->conkey[i] == form->keys[j].child &&
				fk->conpfeqop[i] == form->keys[j].equality)
			{
				found++;
				break;
			}
	return found == form->nkeys;
}

/* "Table \"orders\"", or "Partition \"orders_1\" of table \"orders\"" */
static char *
table_title(Oid relid, Oid root)
{
	if (relid == root)
		return psprintf("Table \"%s\"", get_rel_name(relid));
	return psprintf("Partition \"%s\" of table \"%s\"", get_rel_name(relid), get_rel_name(root));
}

/*
 * Is a partition of this table being detached?  ALTER TABLE ... DETACH PARTITION ... CONCURRENTLY
 * commits before it waits for other sessions, and it can be cancelled while it waits.  Until it is
 * complete, older snapshots have the partition, and newer ones do not.
 */
bool
poser_view_is_detaching(Oid relid)
{
	bool result = false;
	TransactionId xmin;

	if (get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE)
		list_free(find_inheritance_children_extended(relid, false, NoLock, &result, &xmin));
	return result;
}

/* What is wrong with a table or one of its partitions, or NULL. */
static const char *
table_problem(Oid root, Oid owner, const char **hint)
{
	List *tree = find_all_inheritors(root, NoLock, NULL);
	ListCell *lc;

	if (root < FirstNormalObjectId)
		return psprintf("%s is a system catalog.", table_title(root, root));
	if (get_rel_relispartition(root))
	{
		*hint = "Use the partitioned table.";
		return psprintf("%s is a partition.", table_title(root, root));
	}
	if (has_superclass(root))
		return psprintf("%s inherits from another table.", table_title(root, root));
	if (get_rel_relkind(root) != RELKIND_PARTITIONED_TABLE && list_length(tree) > 1)
		return psprintf("%s has child tables by inheritance.", table_title(root, root));
	foreach(lc, tree)
	{
		Oid relid = lfirst_oid(lc);
		Oid relowner = poser_owner_of(relid);

		if (get_rel_relkind(relid) == RELKIND_FOREIGN_TABLE)
			return psprintf("%s is a foreign table.", table_title(relid, root));
		if (poser_view_is_detaching(relid))
		{
			*hint = "ALTER TABLE ... DETACH PARTITION ... FINALIZE completes this.";
			return psprintf("A partition of table \"%s\" is being detached.", get_rel_name(relid));
		}
		/* a table of a permanent view cannot be temporary */
		if (get_rel_persistence(relid) != RELPERSISTENCE_PERMANENT)
			return psprintf("%s is unlogged.", table_title(relid, root));
		if (relowner != owner)
		{
			*hint = "ALTER TABLE ... OWNER TO and ALTER VIEW ... OWNER TO change the owner.";
			return psprintf("%s has owner \"%s\", and the view has owner \"%s\".", table_title(relid, root),
							GetUserNameFromId(relowner, true), GetUserNameFromId(owner, true));
		}
	}
	return NULL;
}

/*
 * Has a table a column that a condition of the whole row would not see: one that is computed
 * when it is read, or a generated one of a partitioned table?
 */
static bool
has_unseen_column(Relation rel)
{
	for (int i = 0; i < RelationGetNumberOfAttributes(rel); i++)
	{
		char generated = TupleDescAttr(RelationGetDescr(rel), i)->attgenerated;

		if (generated == ATTRIBUTE_GENERATED_VIRTUAL ||
			(generated != '\0' && rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE))
			return true;
	}
	return false;
}

/*
 * What is wrong with the key of the parent and the foreign key, or NULL.  As long as there is a
 * foreign key, the server keeps a unique index on the key, which is not deferrable.
 */
static const char *
key_problem(const PoserViewForm *form, Relation parent, Relation child, const char **hint)
{
	StringInfoData pairs;
	ListCell *lc;
	ForeignKeyCacheInfo *found = NULL;

	foreach(lc, RelationGetFKeyList(child))
	{
		ForeignKeyCacheInfo *fk = lfirst(lc);

		if (is_foreign_key(form, fk) && (found == NULL || fk_is_enforced(fk)))
			found = fk;
	}
	if (found == NULL)
	{
		initStringInfo(&pairs);
		for (int i = 0; i < form->nkeys; i++)
			appendStringInfo(&pairs, "%s%s", i > 0 ? ", " : "", quote_identifier(get_attname(form->child, form->keys[i].child, false)));
		appendStringInfo(&pairs, ") REFERENCES %s (", quote_identifier(RelationGetRelationName(parent)));
		for (int i = 0; i < form->nkeys; i++)
			appendStringInfo(&pairs, "%s%s", i > 0 ? ", " : "", quote_identifier(get_attname(form->parent, form->keys[i].parent, false)));
		*hint = "ON must compare all columns of a foreign key, and no others.";
		return psprintf("Table \"%s\" has no FOREIGN KEY (%s).", RelationGetRelationName(child), pairs.data);
	}
	if (!fk_is_enforced(found))
		return psprintf("Foreign key \"%s\" of table \"%s\" is not enforced.", get_constraint_name(found->conoid),
						RelationGetRelationName(child));
	for (int i = 0; i < form->nkeys; i++)
		if (!column_is_not_null(RelationGetDescr(parent), form->keys[i].parent))
		{
			*hint = "ALTER TABLE ... ALTER COLUMN ... SET NOT NULL changes this.";
			return psprintf("Column \"%s\" of table \"%s\" can be null.", get_attname(form->parent, form->keys[i].parent, false),
							RelationGetRelationName(parent));
		}
	return NULL;
}

/*
 * Returns what is wrong with the view's tables, as a sentence, or NULL.  *hint is a sentence, or
 * NULL.
 */
const char *
poser_view_tables_problem(const PoserViewForm *form, const char **hint)
{
	Relation parent = relation_open(form->parent, AccessShareLock);
	Relation child = relation_open(form->child, AccessShareLock);
	const char *result;

	*hint = NULL;
	result = get_rel_persistence(form->view) == RELPERSISTENCE_PERMANENT ? NULL : "The view is temporary.";
	if (result == NULL)
		result = table_problem(form->parent, form->owner, hint);
	if (result == NULL)
		result = table_problem(form->child, form->owner, hint);
	if (result == NULL)
		result = key_problem(form, parent, child, hint);
	if (result == NULL && form->whole_row && has_unseen_column(child))
		result = psprintf("A condition uses the whole row of table \"%s\", which has a generated column that triggers do not see.",
						  RelationGetRelationName(child));
	relation_close(child, AccessShareLock);
	relation_close(parent, AccessShareLock);
	return result;
}
