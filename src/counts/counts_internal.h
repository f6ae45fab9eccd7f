/*
 * counts_internal.h
 *	  What the files of this folder share, and no other folder uses.
 *
 * A file uses those above it in this list:
 *
 *		amount.c			the numbers that a count has for each key
 *		sum.c				sums of numeric values
 *		count_catalog.c		which tables hold a count, and whether triggers maintain it
 *		serve.c				whether a query may read the counts
 *		count_table.c		the rows of a count
 *		settle.c			changing a count
 *		count_changes.c		what a statement changes
 *		count_trigger.c		the trigger functions of the component counts
 *		recount.c			comparing and rebuilding
 *
 * For maintained views:
 *
 *		view_tables.c		whether the tables of a view are as they must be
 *		view_form.c			what the query of a view says
 *		view_query.c		the SQL of a view's queries
 *		maintained.c		which relations belong to a maintained view
 *		maintained_table.c	the maintained views of a table
 *		maintained_row.c	what a row adds to a view
 *		maintain_rows.c		the trigger function
 *		maintain_triggers.c	the triggers of views, and whether they are there
 *		maintain_relations.c	the relations of a view: making and filling them
 *		serve_view.c		whether a query may read the bookkeeping of a view
 *		recount_view.c		comparing and rebuilding the counts and sums of views, poser_recount()
 *		maintained_state.c	what is wrong with a view
 *
 * The files of poser_maintain() and poser_unmaintain() share maintain_internal.h as well.
 */
#ifndef POSER_COUNTS_INTERNAL_H
#define POSER_COUNTS_INTERNAL_H

#include "access/relscan.h"
#include "common/hashfn.h"
#include "utils/numeric.h"
#include "utils/tuplesort.h"

#include "counts/counts.h"

/* Columns of the tables of the component counts. */
#define COUNT_KEY 1
#define COUNT_TOTAL 2
#define COUNT_ACTIVE 3
#define COUNT_NATTS 3

/* A key column of a count. */
typedef struct PoserCountKey
{
	Oid type;
	Oid collation;
	int16 length;
	bool byvalue;
	FmgrInfo *equal; /* in the type cache, which keeps it until the session ends */
	FmgrInfo *hash;
} PoserCountKey;

/*
 * One count: its tables, its keys and what it has for each key.  The columns of its tables
 * are the keys, then "delta" if both tables are one, then the amounts.
 *
 * The component counts have a table of settled rows and one of deltas.  A maintained view
 * has one table for both; there "delta" is 0 in a settled row and positive in a delta.
 */
typedef struct PoserCount
{
	Oid counts;		   /* one settled row for each parent */
	Oid counts_index;  /* its unique index on the keys, and "delta" if there is one */
	Oid deltas;		   /* changes that are not settled yet; may be the same table */
	Oid deltas_index;  /* its index on the keys, in one table only of the deltas */
	Oid settled_index; /* in one table: the unique index on the keys of settled rows, for the planner; or InvalidOid */
	int nkeys;
	PoserCountKey *keys; /* of the columns from 1 on */
	AttrNumber delta;	 /* the column "delta"; 0 if there are two tables */
	AttrNumber amount;	 /* the column of the first amount */
	int namounts;
	int nnumeric;		 /* how many of the amounts are numeric */
	const bool *numeric; /* for each amount: whether it is numeric; otherwise it is a bigint */
	Oid parent;			 /* the table of parents; InvalidOid if it is not known */
	AttrNumber *parent_keys;
} PoserCount;

/* Looks up parents by their key; see count_parent.c. */
typedef struct PoserParents
{
	Relation rel; /* to be closed with the look-up; or NULL */
	PoserLookup lookup;
	bool usable; /* the key has an index, and the table could be locked */
	int positions[INDEX_MAX_KEYS];
} PoserParents;

/*
 * A numeric amount: integer * 10^(18 * place) + numeric.  Most changes are integers, and
 * are added up as such; see amount.c.
 */
typedef struct PoserNumber
{
	int64 integer;
	int place;		 /* at least 0 */
	Numeric numeric; /* finite and not toasted; NULL is 0 */
} PoserNumber;

/* What a count has for a key, or a change of it, is an array of amounts, one for each column. */
typedef union PoserAmount
{
	int64 integer;		 /* of a bigint column */
	PoserNumber *number; /* of a numeric column; never NULL */
} PoserAmount;

/* The arguments of a count trigger, looked up. */
typedef struct PoserCountTrigger
{
	Oid tgoid; /* hash key */
	bool valid;
	AttrNumber key;	 /* column of the trigger's table */
	AttrNumber flag; /* column of the trigger's table; 0 on the parent */
	Oid relid;		 /* the trigger's table */
	PoserCount count;
	PoserCountKey count_key; /* count.keys */
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

/* A table of a count, opened for writing. */
typedef struct CountRelation
{
	PoserDirectTable direct;
	BlockNumber nblocks;   /* the table's size; a remembered place beyond it is out of date */
	Relation counts_index; /* the count's own indexes; NULL until they are needed */
	Relation deltas_index;
	Relation settled_index;
} CountRelation;

/* The settled rows or the deltas of a count, opened for writing. */
typedef struct CountTable
{
	CountRelation *relation;
	Relation rel; /* of "relation" */
	const PoserCount *count;
	bool is_deltas;
	Snapshot snapshot;	   /* of the writer */
	MemoryContext context; /* of numerics in the row to be written */
	IndexScanDesc scan;	   /* by the index of keys; NULL until it is needed */
	ScanKey scankeys;	   /* of "scan" */
	int nscankeys;
	ItemPointerData root;	/* where the index entries of "found" point to, as far as it is known */
	TupleTableSlot *found;	/* the row that a function has found; NULL until it is needed */
	TupleTableSlot *formed; /* the row to be written; NULL until it is needed */
} CountTable;

/* A count, opened for writing. */
typedef struct CountWriter
{
	const PoserCount *count;
	CountRelation relations[2]; /* the second one is not used if both tables are one */
	CountTable settled;
	CountTable deltas;
	bool deltas_empty;	   /* no delta can be visible to the writer's snapshot */
	bool deltas_checked;   /* whether deltas_empty is known */
	PoserAmount *sum;	   /* working space: the new amounts of a row */
	PoserAmount *taken;	   /* working space: the sum of the deltas that were taken */
	MemoryContext context; /* of numerics in them, and in the row to be written */
	MemoryContext home;	   /* the caller's when the writer was opened */
	PoserParents *parents; /* NULL until they are needed */
} CountWriter;

/*
 * Locks the tables of a count with RowExclusiveLock until the transaction ends, and returns
 * the count as it is described under the lock.
 */
typedef const PoserCount *(*PoserCountLock)(void *arg);

/* What a statement changes, added up by key; see count_changes.c. */
typedef struct CountChanges
{
	const PoserCount *count;
	PoserCountLock lock; /* called with "lock_arg" before the first change is written */
	void *lock_arg;
	MemoryContext home;		   /* the caller's when it began */
	Datum *first;			   /* the first key and its change; used until there is a hash table */
	MemoryContext context;	   /* of the hash table and of numerics in its amounts */
	MemoryContext made;		   /* of its keys and amounts */
	struct changes_hash *hash; /* NULL until there is a second key */
	Size limit;				   /* of the context's memory */
	Tuplesortstate *sort;	   /* rows of (hash, keys, amounts); NULL until it is needed */
	TupleTableSlot *slot;	   /* for the rows of the sort */
	PoserAmount *amounts;	   /* working space: the amounts of a row of the sort */
	MemoryContext reading;	   /* of numerics in them */
} CountChanges;

/* Returns a key without compression, for the functions below; it may be a copy in the current memory context. */
static inline Datum
detoast_count_key(const PoserCountKey *key, Datum value)
{
	return key->length == -1 ? PointerGetDatum(PG_DETOAST_DATUM_PACKED(value)) : value;
}

static inline uint32
hash_count_keys(const PoserCount *count, const Datum *keys)
{
	uint32 hash = 0;

	for (int i = 0; i < count->nkeys; i++)
		hash = hash * 31 + DatumGetUInt32(FunctionCall1Coll(count->keys[i].hash, count->keys[i].collation, keys[i]));
	return murmurhash32(hash);
}

static inline bool
equal_count_keys(const PoserCount *count, const Datum *a, const Datum *b)
{
	for (int i = 0; i < count->nkeys; i++)
		if (!DatumGetBool(FunctionCall2Coll(count->keys[i].equal, count->keys[i].collation, a[i], b[i])))
			return false;
	return true;
}

/* amount.c */
extern Size poser_amounts_size(const PoserCount *count);
extern PoserAmount *poser_amounts_place(const PoserCount *count, void *memory);
extern PoserAmount *poser_amounts_make(const PoserCount *count);
extern void poser_amounts_clear(const PoserCount *count, PoserAmount *amounts);
extern void poser_amounts_add(const PoserCount *count, PoserAmount *amounts, const PoserAmount *other, int sign);
extern Numeric poser_number_value(const PoserNumber *number);
extern void poser_amount_add_datum(const PoserCount *count, PoserAmount *amounts, int i, Datum value, bool isnull);
extern Datum poser_amount_get_datum(const PoserCount *count, const PoserAmount *amounts, int i);
extern bool poser_amounts_are_zero(const PoserCount *count, const PoserAmount *amounts);
extern bool poser_amounts_are_equal(const PoserCount *count, const PoserAmount *a, const PoserAmount *b);

/* sum.c */
extern void poser_sum_amounts(Datum value, PoserNumber *sum, PoserNumber *tally);

/* count_catalog.c */
extern void poser_count_catalog_init(void);
extern void poser_count_describe(PoserCount *count, PoserCountKey *key, Oid counts, Oid deltas);
extern const PoserCountTrigger *poser_count_trigger(TriggerData *trigdata, Oid fnoid);
extern const PoserCount *poser_count_locked(void *trigdata);
extern const PoserCountMaintenance *poser_count_maintenance(Oid parent, Oid child, Oid nspid);

/* A snapshot, and the child table or the query of a maintained view about which something is decided. */
typedef struct PoserServeKey
{
	Oid of;
	TransactionId xmin;
	TransactionId xmax;
	uint32 running;
	CommandId curcid;
} PoserServeKey;

/*
 * A decision for one run of a plan.  It is in the memory context of the plan's state, which
 * is the one of all function calls of the plan, and it goes with the context.
 */
typedef struct PoserRun
{
	MemoryContext context;
	PoserServeKey key;
	bool serves;
	MemoryContextCallback callback;
	struct PoserRun *next;
} PoserRun;

/* serve.c */
extern bool poser_serve_sees_transaction(TransactionId xid, Snapshot snapshot);
extern bool poser_serve_may_see_all(Oid relid, Oid roleid);
extern bool poser_serve_is_consistent(Snapshot snapshot, const Oid *relids, int n);
extern PoserRun *poser_serve_run(FunctionCallInfo fcinfo, Oid of, bool *is_new);
extern void poser_count_begin_statement(TriggerData *trigdata);
extern void poser_count_end_statement(TriggerData *trigdata);
extern void poser_count_note_replaced(Snapshot snapshot);
extern void poser_count_note_inconsistent(CommandId from);

/* count_table.c */
extern void poser_count_open_relation(CountRelation *relation, Oid relid);
extern void poser_count_close_relation(CountRelation *relation);
extern void poser_count_open_table(CountTable *table, CountRelation *relation, const CountWriter *writer,
								   bool is_deltas, Snapshot snapshot);
extern void poser_count_close_table(CountTable *table);
extern TupleTableSlot *poser_count_found_slot(CountTable *table);
extern const Datum *poser_count_found_keys(CountTable *table);
extern bool poser_count_found_is_delta(CountTable *table);
extern void poser_count_add_found(CountTable *table, PoserAmount *amounts);
extern bool poser_count_found_is_own(CountTable *table);
extern bool poser_count_found_is_visible(CountTable *table);
extern bool poser_count_knows_row(CountTable *table, uint32 hash);
extern bool poser_count_find_own_row(CountTable *table, const Datum *keys, uint32 hash);
extern bool poser_count_find_known_row(CountTable *table, const Datum *keys, uint32 hash);
extern bool poser_count_find_row(CountTable *table, const Datum *keys, uint32 hash);
extern void poser_count_begin_scan(CountTable *table, const Datum *keys, Snapshot snapshot);
extern bool poser_count_next_row(CountTable *table);
extern bool poser_count_has_no_delta(CountTable *deltas);
extern bool poser_count_insert_row(CountTable *table, const Datum *keys, uint32 hash, const PoserAmount *amounts);
extern bool poser_count_lock_row(CountTable *table);
extern void poser_count_replace_row(CountTable *table, uint32 hash, const PoserAmount *amounts);
extern bool poser_count_update_row(CountTable *table, uint32 hash, const PoserAmount *amounts);
extern bool poser_count_delete_row(CountTable *table);

/* count_parent.c */
extern void poser_parents_open(PoserParents *parents, Relation rel, int nkeys, const AttrNumber *columns);
extern void poser_parents_open_for(PoserParents *parents, const PoserCount *count);
extern bool poser_parents_have(PoserParents *parents, const Datum *keys);
extern void poser_parents_close(PoserParents *parents);

/* settle.c */
extern void poser_count_open(CountWriter *writer, const PoserCount *count);
extern void poser_count_close(CountWriter *writer);
extern void poser_count_defer(CountWriter *writer, const Datum *keys, uint32 hash, const PoserAmount *change);
extern const PoserAmount *poser_count_take_deltas(CountWriter *writer, const Datum *keys);
extern void poser_count_change(CountWriter *writer, const Datum *keys, uint32 hash, const PoserAmount *change);
extern bool poser_count_make_settled_row(CountWriter *writer, const Datum *keys, uint32 hash,
										 const PoserAmount *amounts);
extern void poser_count_mark_missing(CountWriter *writer, const Datum *keys, uint32 hash);
extern void poser_count_begin(CountWriter *writer, const Datum *keys);
extern void poser_count_end(CountWriter *writer, const Datum *keys);
extern void poser_count_end_unused(CountWriter *writer, const Datum *keys);
extern void poser_count_reset_all(CountWriter *writer);
extern void poser_count_end_all(CountWriter *writer);

/* count_changes.c */
extern void poser_count_begin_changes(CountChanges *changes, const PoserCount *count, PoserCountLock lock,
									  void *lock_arg);
extern void poser_count_add_change(CountChanges *changes, const Datum *keys, const PoserAmount *amounts, int sign);
extern void poser_count_apply_changes(CountChanges *changes);

/* recount.c */
extern int64 poser_count_rebuild(PoserProgress *progress, const PoserCount *count, const char *sql, Oid owned);
extern bool poser_recount_is_components(Oid relid, Oid nspid);
extern bool poser_recount_owns_components(Oid nspid);
extern int64 poser_recount_components(PoserProgress *progress, Oid nspid);

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

/* The triggers on the bookkeeping that bind these relations to it. */
#define POSER_BINDING_VIEW "poser_maintained_view"
#define POSER_BINDING_QUERY "poser_maintained_query"
#define POSER_BINDING_SERVED "poser_maintained_served"
#define POSER_BINDING_PARENT "poser_maintained_parent"
#define POSER_BINDING_CHILD "poser_maintained_child"

/* The trigger on parents and children that the server clones to partitions. */
#define POSER_ROW_TRIGGER "poser_maintain_row"

/* count_catalog.c */
extern void poser_maintained_count(PoserCount *count, const PoserMaintained *maintained, const PoserViewForm *form);

/* view_form.c */
extern PoserViewForm *poser_view_read(Oid view);
extern PoserViewForm *poser_view_form(Oid query, Oid view);

/* view_tables.c */
extern bool poser_view_is_detaching(Oid relid);
extern const char *poser_view_tables_problem(const PoserViewForm *form, const char **hint);

/* view_query.c */
extern int poser_view_begin_text(void);
extern int poser_view_amounts(PoserViewKind kind);
extern int poser_view_all_amounts(const PoserViewForm *form);
extern char *poser_view_columns_sql(const PoserViewForm *form);
extern char *poser_view_served_sql(const PoserViewForm *form, Oid bookkeeping, Oid query, Oid nspid);
extern char *poser_view_maintained_sql(const PoserViewForm *form, Oid query, Oid served, Oid nspid);
extern char *poser_view_counted_sql(const PoserViewForm *form, Oid nspid);
extern char *poser_view_query_sql(Oid query);

/* maintained.c */
extern List *poser_view_uses(Oid view);
extern void poser_maintained_check_owner(Oid relid);
extern bool poser_maintained_is_whole(const PoserMaintained *maintained);
extern bool poser_maintained_is_switched(const PoserMaintained *maintained);
extern bool poser_maintained_is_gated(const PoserMaintained *maintained, Oid nspid);
extern PoserViewForm *poser_maintained_read(const PoserMaintained *maintained);
extern void poser_maintained_check_owners(const PoserMaintained *maintained, bool of_view);
extern List *poser_maintained_arguments(Oid bookkeeping, Oid relid);
extern bool poser_maintained_partitions_match(const PoserMaintained *maintained);
extern List *poser_maintained_uncounted(const PoserMaintained *maintained, Oid relid);
extern bool poser_maintained_bound_elsewhere(const PoserMaintained *maintained, const char *binding);
extern bool poser_maintained_is_untouched(Oid relid);
extern List *poser_maintained_query_arguments(const PoserMaintained *maintained, Oid child, bool whole_row);
extern List *poser_maintained_present_arguments(Oid bookkeeping, const char *binding);
extern bool poser_maintained_query_matches(const PoserMaintained *maintained, bool strict);
extern bool poser_maintained_query_is_replaced(const PoserMaintained *maintained);
extern bool poser_maintained_missed(Oid bookkeeping, const char *binding, Oid relid);

/* The triggers of a parent or child, or of a partition. */
typedef struct PoserMaintainTriggers
{
	bool counts_child;	   /* they are those of a child, which serve a parent as well */
	Bitmapset *parent_key; /* they are those of a parent, for changes of these columns */
	List *xids;			   /* the transactions that wrote them */
} PoserMaintainTriggers;

/* maintain_triggers.c */
extern void poser_maintain_look_at_triggers(Oid relid, Oid nspid, PoserMaintainTriggers *result);
extern bool poser_maintain_is_bound(const PoserMaintained *maintained, Oid nspid, List **xids);

/* serve_view.c */
extern void poser_serve_view_init(void);
extern bool poser_view_is_served(Oid query, Oid nspid);

/* recount_view.c */
extern int64 poser_recount_view(PoserProgress *progress, const PoserMaintained *found, Oid nspid);

#endif /* POSER_COUNTS_INTERNAL_H */
