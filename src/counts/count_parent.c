/*
 * count_parent.c
 *	  Looking for the parent of a key.
 *
 * Usually a writer of a count needs no parent: the settled row of the key says that there is one.
 * The parent is looked for where this row is missing, or may have no parent any more.
 *
 * The invariant: a parent is found if it is committed, or if this transaction has written it,
 * whatever the snapshot sees.
 */
#include "postgres.h"

#include "access/table.h"
#include "storage/lmgr.h"

#include "counts/counts_internal.h"

/* Open a table of parents with this key.  The caller has locked the table, and keeps it open. */
void
poser_parents_open(PoserParents *parents, Relation rel, int nkeys, const AttrNumber *columns)
{
	bool immediate;
	Oid indexid = poser_unique_index(rel, nkeys, columns, &immediate);
	Relation index;

	parents->rel = NULL;
	parents->usable = OidIsValid(indexid);
	if (!parents->usable)
		return;
	poser_lookup_open(&parents->lookup, rel, indexid, nkeys);
	index = parents->lookup.index;
	for (int i = 0; i < nkeys; i++)
		for (int j = 0; j < nkeys; j++)
			if (index->rd_index->indkey.values[i] == columns[j])
				parents->positions[i] = j;
}

/*
 * As poser_parents_open(), for the parents of a count.  The lock on their table is taken here, and
 * kept.  This never waits for another transaction's lock on the table: then the parents cannot be
 * looked up.
 */
void
poser_parents_open_for(PoserParents *parents, const PoserCount *count)
{
	Relation rel;

	parents->rel = NULL;
	parents->usable = false;
	if (!OidIsValid(count->parent) || !ConditionalLockRelationOid(count->parent, AccessShareLock))
		return;
	rel = try_table_open(count->parent, NoLock);
	if (rel == NULL)
		return;
	poser_parents_open(parents, rel, count->nkeys, count->parent_keys);
	parents->rel = rel;
}

/* Is there a parent with this key now?  False if the parents cannot be looked up. */
bool
poser_parents_have(PoserParents *parents, const Datum *keys)
{
	Datum values[INDEX_MAX_KEYS];

	if (!parents->usable)
		return false;
	for (int i = 0; i < parents->lookup.nkeys; i++)
		values[i] = keys[parents->positions[i]];
	poser_lookup_begin(&parents->lookup, BTEqualStrategyNumber, values, NULL);
	return poser_lookup_next(&parents->lookup, ForwardScanDirection);
}

/* Close the table of parents.  Locks stay. */
void
poser_parents_close(PoserParents *parents)
{
	if (parents->usable)
		poser_lookup_close(&parents->lookup);
	if (parents->rel != NULL)
		table_close(parents->rel, NoLock);
}
