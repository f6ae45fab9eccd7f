/*
 * versions.h
 *	  What other folders use of the history of tables.
 */
#ifndef POSER_VERSIONS_H
#define POSER_VERSIONS_H

#include "utils/timestamp.h"

#include "base/base.h"

/* The history of a table: where it is, and which column is which. */
typedef struct PoserVersioned
{
	Oid tgoid; /* hash key */
	bool valid;
	Oid relid;			/* the table */
	Oid versions;		/* of its rows */
	Oid versions_index; /* on their key and change_id; may be missing */
	Oid transactions;
	Oid horizon;
	Oid sequence;
	AttrNumber transaction_id; /* columns of versions */
	AttrNumber operation_type;
	AttrNumber change_id;
	bool unique;  /* the key of the table always is */
	bool coerces; /* some columns differ from the table's in length or such */
	int nkeys;
	AttrNumber keys[INDEX_MAX_KEYS]; /* columns of versions, too */
	int natts;
	AttrNumber source[MaxHeapAttributeNumber]; /* for each, the table's column or 0 */
} PoserVersioned;

/* As in the column operation_type. */
typedef enum PoserOperation
{
	POSER_INSERT = 0,
	POSER_UPDATE = 1,
	POSER_DELETE = 2
} PoserOperation;

typedef struct PoserVersionWriter PoserVersionWriter;
typedef struct PoserHistory PoserHistory;

/* The tables that have a history, in the order of poser_versioned_describe_all(). */
enum
{
	POSER_WIDGET,
	POSER_COMPONENT,
	POSER_VERSIONED_TABLES
};

/* versioned.c */
extern void poser_versioned_init(void);
extern void poser_versioned_describe(PoserVersioned *versioned, Relation rel, Oid nspid,
									 const char *versions, int nkeys, char **keys, LOCKMODE lockmode);
extern const PoserVersioned *poser_versioned_by_trigger(TriggerData *trigdata, Oid fnoid);
extern Oid poser_id_index(Relation transactions);
extern const char *poser_versioned_label(int i);
extern void poser_versioned_describe_all(PoserVersioned *tables, Oid nspid);

/* transaction.c */

/* The consumer of datasync that the session runs the handler of, or NULL; each transaction's row says so. */
extern const char *poser_handling_consumer;

extern void poser_transaction_init(void);
extern void poser_version_forget(void);
extern bool poser_version_is_writing(void);
extern int64 poser_version_last_written(Oid *relid);
extern const char *poser_username(void);

/* version.c */
extern void poser_version_init(void);
extern bool poser_version_is_busy(void);

/* version_writer.c */
extern PoserVersionWriter *poser_version_begin(const PoserVersioned *versioned, const char *comment);
extern void poser_version_write(PoserVersionWriter *writer, PoserOperation operation,
								TupleTableSlot *row, bool is_version);
extern void poser_version_end(PoserVersionWriter *writer);

/* history_query.c */
extern void poser_history_append_comparison(StringInfo sql, const PoserVersioned *versioned);

/* history.c */
extern PoserHistory *poser_history_begin(FunctionCallInfo fcinfo, const PoserVersioned *tables, int ntables);
extern void poser_history_add(PoserHistory *history, const PoserVersioned *versioned,
							  Datum key, Oid keytype, const char *parent);
extern void poser_history_end(PoserHistory *history);

/* as_of.c */
extern void poser_history_as_of(FunctionCallInfo fcinfo, const PoserVersioned *versioned,
								TimestampTz at);

/* revert.c */
extern int64 poser_history_revert(const PoserVersioned *versioned, Datum key, Oid keytype,
								  int64 transaction_id, const PoserVersioned *children,
								  const char *parent);

/* prune.c */

/*
 * The least id of a transaction with changes that are still needed, or PG_INT64_MAX.
 * Pruning calls it between SPI_connect() and SPI_finish(), with the owner's rights
 * and with the tables locked.  datasync sets it.
 */
extern int64 (*poser_first_needed_hook)(const PoserVersioned *tables);

extern int64 poser_history_prune(const PoserVersioned *tables, int ntables, TimestampTz before,
								 int64 limit);

/* record.c */
extern int64 poser_history_record(const PoserVersioned *tables, int ntables, const char *comment);

/* restore.c */
extern bool poser_is_restore(Relation rel);
extern void poser_restore_wait(Relation rel);

#endif /* POSER_VERSIONS_H */
