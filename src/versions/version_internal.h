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

#endif /* POSER_VERSION_INTERNAL_H */
