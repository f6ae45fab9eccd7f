/*
 * version_internal.h
 *	  What only the files of this folder share.
 */
#ifndef POSER_VERSION_INTERNAL_H
#define POSER_VERSION_INTERNAL_H

#include "access/relscan.h"

#include "versions/versions.h"

/* How many versions are written at a time, and of what size. */
#define MAX_BUFFERED_VERSIONS 500
#define MAX_BUFFERED_BYTES 65536

/* A table open for direct writing. */
typedef struct DirectTable
{
	Relation rel;
	ResultRelInfo *indexes;
	EState *estate;
} DirectTable;

struct PoserVersionWriter
{
	const PoserVersioned *versioned;
	const char *comment; /* instead of the user's, or NULL */
	Oid role;			 /* who does it */
	bool opened;
	DirectTable table;
	int64 transaction_id;
	FmgrInfo *coerce;	   /* by column, or NULL */
	MemoryContext context; /* of the writer */
	MemoryContext batch;   /* of what is in the buffer */
	int nslots;
	int nbuffered;
	Size bytes;
	TupleTableSlot *slots[MAX_BUFFERED_VERSIONS];

	/* for careful recording */
	IndexScanDesc scan;
	Relation index;
	TupleTableSlot *last;
	TupleTableSlot *live;
};

/* versioned.c */
extern bool poser_versioned_same_rows(const PoserVersioned *versioned, TupleTableSlot *a, TupleTableSlot *b);
extern bool poser_versioned_same_keys(const PoserVersioned *versioned, TupleTableSlot *a, TupleTableSlot *b);
extern bool poser_versioned_is_version_of(const PoserVersioned *versioned, TupleTableSlot *version,
										  TupleTableSlot *row);

/* transaction.c */
extern Oid poser_acting_role(void);
extern int64 poser_transaction_record(const PoserVersioned *versioned, Oid role, const char *comment);

/* version_writer.c */
extern void poser_direct_open(DirectTable *table, Oid relid);
extern void poser_direct_close(DirectTable *table);
extern void poser_direct_insert_index_entries(DirectTable *table, TupleTableSlot *slot);
extern void poser_version_open(PoserVersionWriter *writer);
extern void poser_version_flush(PoserVersionWriter *writer);
extern int64 poser_version_last_change(const PoserVersioned *versioned);

/* reconcile.c */
extern void poser_reconcile(PoserVersionWriter *writer, Relation rel, TupleTableSlot *row, bool is_version);
extern void poser_reconcile_since(Relation rel, const PoserVersioned *versioned, int64 since);
extern void poser_record_carefully(PoserVersionWriter *writer, PoserOperation operation,
								   TupleTableSlot *old, TupleTableSlot *new, int64 since, bool replaced);

/* history_query.c */
extern uint64 poser_history_execute(const char *query, int nargs, Oid *argtypes, Datum *values, bool read_only);
extern int64 poser_history_int64(int column, bool *isnull);
extern const char *poser_history_column(const PoserVersioned *versioned, AttrNumber column);
extern AttrNumber poser_history_lookup_column(const PoserVersioned *versioned, const char *name, Oid keytype);
extern void poser_history_append_columns(StringInfo sql, const PoserVersioned *versioned, const char *prefix);
extern void poser_history_append_values(StringInfo sql, const PoserVersioned *versioned, const char *prefix);
extern void poser_history_append_keys(StringInfo sql, const PoserVersioned *versioned, const char *prefix);
extern void poser_history_append_equality(StringInfo sql, const char *left, const char *right, Oid type);
extern void poser_history_append_same_key(StringInfo sql, const PoserVersioned *versioned, const char *left,
										  const char *right);
extern void poser_history_append_last_versions(StringInfo sql, const PoserVersioned *versioned,
											   const char *condition);
extern bool poser_history_is_restricted(const PoserVersioned *versioned);
extern void poser_history_append_restriction(StringInfo sql, const PoserVersioned *versioned);
extern void poser_history_lock(const PoserVersioned *tables, int ntables);
extern void poser_history_execute_as_owner(const PoserVersioned *versioned, const char *query, int nargs, Oid *argtypes,
										   Datum *values, bool read_only);

/* prune.c */

/* What has been pruned; zeros if nothing has. */
typedef struct Horizon
{
	int64 transaction_id;
	int64 change_id;
} Horizon;

extern Horizon poser_history_horizon(const PoserVersioned *versioned, bool read_only);

#endif /* POSER_VERSION_INTERNAL_H */
