/*
 * counts_internal.h
 *	  What only the files of this folder share.
 */
#ifndef POSER_COUNTS_INTERNAL_H
#define POSER_COUNTS_INTERNAL_H

#include "access/relscan.h"
#include "common/hashfn.h"
#include "nodes/execnodes.h"
#include "utils/tuplesort.h"

#include "counts/counts.h"

/* Columns of the tables of settled counts and of deltas. */
#define COUNT_KEY 1
#define COUNT_TOTAL 2
#define COUNT_ACTIVE 3
#define COUNT_NATTS 3

/* A number of children, or a change of it. */
typedef struct Tally
{
	int64 total;
	int64 active;
} Tally;

/* One of the two tables of a count, opened for writing. */
typedef struct CountTable
{
	Oid relid;
	Oid indexid;
	Relation rel;
	Relation index;
	IndexScanDesc scan;
	BlockNumber nblocks;	/* places beyond are out of date */
	TupleTableSlot *found;	/* what poser_count_find_row() has found */
	TupleTableSlot *formed; /* what is to be written */
	ResultRelInfo *indexes; /* set up when an index must be changed */
	EState *estate;
} CountTable;

typedef struct CountWriter
{
	const PoserCount *count;
	Snapshot snapshot; /* may only settle what this sees */
	CountTable settled;
	CountTable deltas;
	bool deltas_empty; /* it had no page, so there is no delta to take up */
} CountWriter;

/*
 * Changes by key, in a memory context of their own.  When they take more
 * memory than a hash table may, they go to a sort by hash value; in the end
 * the sums of equal keys come out of it next to each other.  So whatever the
 * number of keys, each is changed once, and memory is bounded.
 */
typedef struct Changes
{
	TriggerData *trigdata;
	const PoserCount *count;
	MemoryContext context;
	struct changes_hash *hash;
	Size limit;
	Tuplesortstate *sort; /* rows of (hash, key, total, active) */
	TupleTableSlot *slot;
} Changes;

static inline uint32
hash_key(const PoserCount *count, Datum key)
{
	return murmurhash32(DatumGetUInt32(FunctionCall1Coll(count->key_hash,
														 count->keycollation, key)));
}

static inline bool
equal_keys(const PoserCount *count, Datum a, Datum b)
{
	return DatumGetBool(FunctionCall2Coll(count->key_eq, count->keycollation, a, b));
}

static inline bool
is_zero(Tally tally)
{
	return tally.total == 0 && tally.active == 0;
}

static inline Tally
add(Tally a, Tally b)
{
	return (Tally) {a.total + b.total, a.active + b.active};
}

/* count_table.c */
extern void poser_count_open(CountWriter *writer, const PoserCount *count);
extern void poser_count_close(CountWriter *writer);
extern Tally poser_count_slot_tally(TupleTableSlot *slot);
extern bool poser_count_slot_is_own(TupleTableSlot *slot);
extern bool poser_count_knows_row(CountTable *table, uint32 hash);
extern bool poser_count_find_own_row(CountTable *table, const PoserCount *count, Datum key, uint32 hash);
extern bool poser_count_find_known_row(CountTable *table, const PoserCount *count, Datum key, uint32 hash);
extern void poser_count_begin_scan(CountTable *table, const PoserCount *count, Datum key, Snapshot snapshot);
extern bool poser_count_next_row(CountTable *table);
extern bool poser_count_find_row(CountTable *table, const PoserCount *count, Datum key, uint32 hash);
extern bool poser_count_may_replace(CountWriter *writer, CountTable *table);
extern bool poser_count_insert_row(CountTable *table, Datum key, uint32 hash, Tally tally);
extern bool poser_count_update_row(CountWriter *writer, CountTable *table, uint32 hash, Tally tally);
extern bool poser_count_delete_row(CountWriter *writer, CountTable *table);

/* settle.c */
extern void poser_count_defer(CountWriter *writer, Datum key, uint32 hash, Tally change);
extern Tally poser_count_take_deltas(CountWriter *writer, Datum key);
extern void poser_count_change(CountWriter *writer, Datum key, uint32 hash, Tally change);
extern bool poser_count_make_settled_row(CountWriter *writer, Datum key, uint32 hash, Tally tally);
extern void poser_count_begin(CountWriter *writer, Datum key);
extern void poser_count_end(CountWriter *writer, Datum key);
extern void poser_count_reset_all(CountWriter *writer);
extern void poser_count_end_all(CountWriter *writer);

/* count_changes.c */
extern void poser_count_begin_changes(Changes *changes, TriggerData *trigdata, const PoserCount *count);
extern void poser_count_spill_changes(Changes *changes);
extern void poser_count_add_change(Changes *changes, Datum key, Tally tally);
extern void poser_count_apply_changes(Changes *changes);

/* serve.c */
extern void poser_count_note_inconsistent(CommandId from);
extern void poser_count_note_replaced(Snapshot snapshot);
extern void poser_count_begin_statement(TriggerData *trigdata);
extern void poser_count_end_statement(TriggerData *trigdata);

#endif /* POSER_COUNTS_INTERNAL_H */
