/*
 * counts_internal.h
 *	  What the files of this folder share, and no other folder uses.
 *
 * A file uses those above it in this list:
 *
 *		count_catalog.c		which tables hold a count, and whether triggers maintain it
 *		serve.c				whether a query may read the counts
 *		count_table.c		the rows of one table of a count
 *		settle.c			changing a count
 *		count_changes.c		what a statement changes
 *		count_trigger.c		the trigger functions
 *		recount.c			comparing and rebuilding
 */
#ifndef POSER_COUNTS_INTERNAL_H
#define POSER_COUNTS_INTERNAL_H

#include "access/relscan.h"
#include "common/hashfn.h"
#include "utils/tuplesort.h"

#include "counts/counts.h"

/* The columns of both tables of a count. */
#define COUNT_KEY 1
#define COUNT_TOTAL 2
#define COUNT_ACTIVE 3
#define COUNT_NATTS 3

/*
 * One count: its two tables, and how its key compares.
 */
typedef struct PoserCount
{
	Oid counts;		  /* one settled row for each parent */
	Oid counts_index; /* its unique index on the key */
	Oid deltas;		  /* changes that are not settled yet */
	Oid deltas_index; /* its index on the key */
	Oid keytype;
	Oid keycollation;
	int16 keylen;
	bool keybyval;
	FmgrInfo *key_eq; /* in the type cache, which keeps it until the session ends */
	FmgrInfo *key_hash;
} PoserCount;

/* The arguments of a count trigger, looked up. */
typedef struct PoserCountTrigger
{
	Oid tgoid; /* hash key */
	bool valid;
	AttrNumber key;	 /* column of the trigger's table */
	AttrNumber flag; /* column of the trigger's table; 0 on the parent */
	Oid relid;		 /* the trigger's table */
	PoserCount count;
} PoserCountTrigger;

/* Whether triggers maintain the counts of a child table, and since which transactions. */
typedef struct PoserCountMaintenance
{
	Oid child; /* hash key */
	bool valid;
	Oid parent;
	Oid nspid; /* schema of the triggers' functions */
	bool maintained;
	Oid counts;
	Oid deltas;
	int num_xids;
	TransactionId xids[24]; /* transactions that wrote the triggers' catalog rows */
} PoserCountMaintenance;

/* A number of children, or a change of it. */
typedef struct Tally
{
	int64 total;
	int64 active; /* the children with a true flag */
} Tally;

/* One of the two tables of a count, opened for writing. */
typedef struct CountTable
{
	PoserDirectTable direct;
	const PoserCount *count;
	Snapshot snapshot; /* of the writer */
	Oid relid;
	Oid indexid; /* the index on the key */
	Relation index;
	IndexScanDesc scan;
	BlockNumber nblocks;	/* the table's size; a remembered place beyond it is out of date */
	TupleTableSlot *found;	/* the row that a function has found */
	TupleTableSlot *formed; /* the row to be written */
} CountTable;

/* A count, opened for writing. */
typedef struct CountWriter
{
	const PoserCount *count;
	CountTable settled;
	CountTable deltas;
	bool deltas_empty; /* no delta can be visible to the writer's snapshot */
} CountWriter;

/* What a statement changes, added up by key; see count_changes.c. */
typedef struct CountChanges
{
	TriggerData *trigdata;
	const PoserCount *count;
	bool has_first; /* the first key and its change; used until there is a hash table */
	Datum first_key;
	Tally first;
	MemoryContext context;	   /* of the hash table and its keys */
	struct changes_hash *hash; /* NULL until there is a second key */
	Size limit;				   /* of the context's memory */
	Tuplesortstate *sort;	   /* rows of (hash, key, total, active); NULL until it is needed */
	TupleTableSlot *slot;	   /* for the rows of the sort */
} CountChanges;

static inline uint32
hash_count_key(const PoserCount *count, Datum key)
{
	return murmurhash32(DatumGetUInt32(FunctionCall1Coll(count->key_hash, count->keycollation, key)));
}

static inline bool
equal_count_keys(const PoserCount *count, Datum a, Datum b)
{
	return DatumGetBool(FunctionCall2Coll(count->key_eq, count->keycollation, a, b));
}

static inline bool
tally_is_zero(Tally tally)
{
	return tally.total == 0 && tally.active == 0;
}

static inline Tally
tally_add(Tally a, Tally b)
{
	return (Tally) {a.total + b.total, a.active + b.active};
}

/* count_catalog.c */
extern void poser_count_catalog_init(void);
extern void poser_count_describe(PoserCount *count, Oid counts, Oid deltas);
extern const PoserCountTrigger *poser_count_trigger(TriggerData *trigdata, Oid fnoid);
extern const PoserCount *poser_count_locked(TriggerData *trigdata);
extern const PoserCountMaintenance *poser_count_maintenance(Oid parent, Oid child, Oid nspid);

/* serve.c */
extern void poser_count_begin_statement(TriggerData *trigdata);
extern void poser_count_end_statement(TriggerData *trigdata);
extern void poser_count_note_replaced(Snapshot snapshot);
extern void poser_count_note_inconsistent(CommandId from);

/* count_table.c */
extern void poser_count_open_table(CountTable *table, const PoserCount *count, Oid relid, Oid indexid,
								   Snapshot snapshot);
extern void poser_count_close_table(CountTable *table);
extern Datum poser_count_found_key(CountTable *table);
extern Tally poser_count_found_tally(CountTable *table);
extern bool poser_count_found_is_own(CountTable *table);
extern bool poser_count_found_is_visible(CountTable *table);
extern bool poser_count_knows_row(CountTable *table, uint32 hash);
extern bool poser_count_find_own_row(CountTable *table, Datum key, uint32 hash);
extern bool poser_count_find_known_row(CountTable *table, Datum key, uint32 hash);
extern bool poser_count_find_row(CountTable *table, Datum key, uint32 hash);
extern void poser_count_begin_scan(CountTable *table, Datum key, Snapshot snapshot);
extern bool poser_count_next_row(CountTable *table);
extern bool poser_count_insert_row(CountTable *table, Datum key, uint32 hash, Tally tally);
extern bool poser_count_update_row(CountTable *table, uint32 hash, Tally tally);
extern bool poser_count_delete_row(CountTable *table);

/* settle.c */
extern void poser_count_open(CountWriter *writer, const PoserCount *count);
extern void poser_count_close(CountWriter *writer);
extern void poser_count_defer(CountWriter *writer, Datum key, uint32 hash, Tally change);
extern Tally poser_count_take_deltas(CountWriter *writer, Datum key);
extern void poser_count_change(CountWriter *writer, Datum key, uint32 hash, Tally change);
extern bool poser_count_make_settled_row(CountWriter *writer, Datum key, uint32 hash, Tally tally);
extern void poser_count_begin(CountWriter *writer, Datum key);
extern void poser_count_end(CountWriter *writer, Datum key);
extern void poser_count_reset_all(CountWriter *writer);
extern void poser_count_end_all(CountWriter *writer);

/* count_changes.c */
extern void poser_count_begin_changes(CountChanges *changes, TriggerData *trigdata, const PoserCount *count);
extern void poser_count_add_change(CountChanges *changes, Datum key, Tally tally);
extern void poser_count_apply_changes(CountChanges *changes);

/*
 * Maintained views
 */

/* A pair of columns by which a maintained view joins child and parent. */
typedef struct PoserViewKey
{
	AttrNumber parent;
	AttrNumber child;
	Oid type;	   /* of the bookkeeping's column: that of the parent's, or the base type of its domain */
	int32 typmod;  /* of the bookkeeping's column, see view_form.c */
	Oid collation; /* of both */
	Oid cast;	   /* function from the child's type to this one; InvalidOid if the value fits as it is */
	Oid equality;  /* operator: parent's column = child's column */
} PoserViewKey;

/* What an aggregate of a maintained view computes.  The bookkeeping has one or two columns for it, its amounts. */
typedef enum PoserViewKind
{
	POSER_COUNT,	   /* count(column): bigint */
	POSER_SUM_INTEGER, /* sum(int2, int4): bigint, and bigint rows */
	POSER_SUM_BIGINT,  /* sum(int8): numeric, and bigint rows */
	POSER_SUM_NUMERIC  /* sum(numeric): numeric, and numeric tally; see sum.c */
} PoserViewKind;

typedef struct PoserViewAggregate
{
	PoserViewKind kind;
	AttrNumber column; /* of the child */
	Node *filter;	   /* condition of the child's row, its Vars have varno 1; or NULL */
} PoserViewAggregate;

/* An output column of the view. */
typedef struct PoserViewOutput
{
	char *name;
	Oid type; /* which may differ from the parent's column, after USING */
	int32 typmod;
	Oid collation;
	AttrNumber parent; /* plain column of the parent; 0 if it is an aggregate */
	int aggregate;	   /* index of the aggregate */
	Const *otherwise;  /* the constant of COALESCE(aggregate, constant), or NULL */
} PoserViewOutput;

/* What the query of a maintained view says, see view_form.c. */
typedef struct PoserViewForm
{
	Oid view; /* with this query */
	Oid owner;
	Oid parent;
	Oid child;
	int nkeys;
	PoserViewKey *keys;
	Node *condition; /* further conditions of ON: of the child's row, Vars with varno 1; or NULL */
	bool runs_code;	 /* conditions have functions or types that users have made */
	bool whole_row;	 /* conditions use the child's row as a whole, so what they say changes with its columns */
	int naggregates;
	PoserViewAggregate *aggregates;
	int noutputs;
	PoserViewOutput *outputs;
} PoserViewForm;

/* The relations of a maintained view, see maintained.c.  What was dropped is InvalidOid. */
typedef struct PoserMaintained
{
	Oid bookkeeping;
	Oid view;
	Oid query;
	Oid served; /* the view that shows the bookkeeping while it may be read */
	Oid parent;
	Oid child;
} PoserMaintained;

/* The triggers on the bookkeeping that bind these relations to it. */
#define POSER_BINDING_VIEW "poser_maintained_view"
#define POSER_BINDING_QUERY "poser_maintained_query"
#define POSER_BINDING_SERVED "poser_maintained_served"
#define POSER_BINDING_PARENT "poser_maintained_parent"
#define POSER_BINDING_CHILD "poser_maintained_child"

/* view_form.c */
extern PoserViewForm *poser_view_read(Oid view);
extern PoserViewForm *poser_view_form(Oid view);
extern const char *poser_view_tables_problem(const PoserViewForm *form, const char **hint);

/* view_query.c */
extern int poser_view_amounts(PoserViewKind kind);
extern char *poser_view_columns_sql(const PoserViewForm *form);
extern char *poser_view_served_sql(const PoserViewForm *form, Oid bookkeeping, Oid query, Oid nspid);
extern char *poser_view_maintained_sql(const PoserViewForm *form, Oid query, Oid served, Oid nspid);
extern char *poser_view_counted_sql(const PoserViewForm *form, Oid nspid);
extern char *poser_view_query_sql(Oid query);

/* maintained.c */
extern List *poser_maintained_list(Oid nspid);
extern List *poser_maintained_of_table(Oid relid, Oid nspid);
extern bool poser_maintained_find(Oid relid, Oid nspid, PoserMaintained *result);
extern List *poser_maintained_arguments(Oid relid);
extern bool poser_maintained_partitions_match(const PoserMaintained *maintained);

#endif /* POSER_COUNTS_INTERNAL_H */
