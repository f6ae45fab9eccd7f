/*
 * versions.h
 *	  The history of tables, for other folders.
 */
#ifndef POSER_VERSIONS_H
#define POSER_VERSIONS_H

#include "utils/timestamp.h"

#include "base/base.h"

/*
 * A table with a history, and its table of versions.  Column numbers are those of the
 * table of versions, unless the comment says otherwise.
 */
typedef struct PoserVersioned
{
	Oid tgoid;			/* the trigger; hash key of the cache in versioned.c */
	bool valid;			/* is it still valid?  Used only by that cache */
	Oid nspid;			/* the schema of the extension */
	bool own;			/* a table that is tracked by poser_track(), and no table of the extension */
	bool partial;		/* own: rows that are older than poser_track() can have no version yet */
	bool partitioned;	/* the table of versions is partitioned */
	Oid relid;			/* the table */
	Oid target;			/* the same: of a partition, the tracked table above it is described */
	Oid versions;		/* its table of versions */
	Oid versions_index; /* index on the key and change_id, or InvalidOid */
	Oid transactions;	/* poser_transaction */
	Oid horizon;		/* poser_version_horizon */
	Oid sequence;		/* poser_change_id_seq */
	Oid arrivals;		/* poser_arrival; InvalidOid before 1.5 */
	bool arrives;		/* the table of versions has the triggers of arrival.c */
	AttrNumber transaction_id;
	AttrNumber operation_type;
	AttrNumber change_id;
	bool unique;  /* the table's key is unique at any time, not only at the end of a transaction */
	bool coerces; /* a column of text has another length than the table's column */
	int nkeys;	  /* own: 0 if the table has no key */
	AttrNumber keys[INDEX_MAX_KEYS];
	Oid key_equal[INDEX_MAX_KEYS];	   /* the functions that compare the key's columns */
	Oid key_collation[INDEX_MAX_KEYS]; /* and their collations */
	int natts;
	AttrNumber source[MaxHeapAttributeNumber]; /* by column: the table's column that gives its values, or 0 if none does */
} PoserVersioned;

/* A table that has a history, as the catalogs have it, see binding.c. */
typedef struct PoserTracked
{
	Oid relid;	  /* the table */
	Oid versions; /* its table of versions */
	Oid binding;  /* the trigger poser_versions_of that binds them; InvalidOid for the extension's own tables */
	bool counts;  /* the owner of the table may insert into the versions; a binding that does not count is only reported */
} PoserTracked;

/* A column of a tracked table, as the arguments of the binding have it. */
typedef struct PoserBoundColumn
{
	AttrNumber attnum;			/* its number in the table */
	AttrNumber versions_attnum; /* its number in the versions; 0 if it is excluded */
	const char *name;
	const char *versions_name; /* if it is excluded: of the column with its values from before, or '' */
} PoserBoundColumn;

/* The arguments of a binding, see binding.c. */
typedef struct PoserBinding
{
	bool here; /* the binding was made in this database, for these two tables; not used by poser_binding_format() */
	bool partial;
	const char *operation_type; /* the names of columns in the versions */
	const char *transaction_id;
	const char *change_id;
	int ncolumns;
	PoserBoundColumn *columns; /* in the order of attnum */
} PoserBinding;

/* The number of arguments before those of the columns. */
#define POSER_BINDING_FIXED 5

/* The values of the column operation_type. */
typedef enum PoserOperation
{
	POSER_INSERT = 0,
	POSER_UPDATE = 1,
	POSER_DELETE = 2
} PoserOperation;

/* A history while it is read, see history.c. */
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
extern const char *poser_versioned_label(int i);
extern void poser_versioned_describe_all(PoserVersioned *tables, Oid nspid);

/* binding.c */

/*
 * All tables that have a history in this schema, as a list of PoserTracked: the extension's
 * own first.  With "all" also bindings that do not count.  Nothing is locked.
 */
extern List *poser_tracked_tables(Oid nspid, bool all);

/* Find the binding of a table or, for a partition, that of the tracked table above it.  Returns false if there is none that counts. */
extern bool poser_tracked_find(Oid relid, Oid nspid, PoserTracked *tracked);

/*
 * Describe the history of a table that the caller has locked; of a partition, that of the
 * tracked table above it.  Locks its table of versions until the transaction ends.  Raises
 * an error (55000) if the table is not tracked, or if its history cannot be used as it is.
 */
extern void poser_tracked_describe(PoserVersioned *versioned, Oid relid, Oid nspid, LOCKMODE lockmode);

/* All bindings, also those that do not count. */
extern List *poser_tracked_bindings(Oid nspid);
extern List *poser_tracked_bindings_of(Oid relid, Oid nspid);

/* Columns of a tracked table, as lists of names (char *). */
typedef struct PoserOwnColumns
{
	List *key;
	List *excluded;
	List *unrecorded;
} PoserOwnColumns;

/* Whether changes of a table are recorded, and what is wrong with it, see tracked_state.c. */
typedef struct PoserTrackedState
{
	PoserOwnColumns columns;
	bool recording;
	bool described; /* can poser_tracked_describe() describe it? */
	bool locked;	/* another transaction has locked it, so nothing but this is known */
	List *problems; /* texts (char *) */
} PoserTrackedState;

extern bool poser_tracked_state(PoserTrackedState *state, const PoserTracked *tracked, const List *bindings, Oid nspid);
extern char *poser_tracked_problem(const PoserTrackedState *state);

extern char *poser_binding_identity(Oid relid, Oid versions);
extern const Trigger *poser_binding_trigger(Relation versions, Oid tgoid);
extern bool poser_binding_parse(PoserBinding *binding, const Trigger *trigger, Oid relid, Oid versions);
extern List *poser_binding_format(const PoserBinding *binding, Oid relid, Oid versions);
extern void poser_binding_init(void);

/* untrack.c */

/*
 * A function that raises an error (55006) while a consumer has not confirmed all changes of a
 * table.  poser_untrack() calls it with the caller's rights, while the table and its
 * versions are locked exclusively.  datasync sets it when the module is loaded.
 */
extern void (*poser_untrack_hook)(const PoserTracked *tracked, Oid nspid);

/* follow.c */

/*
 * Functions by which poser_follow() mends maintained views: the views that a relation
 * concerns, as a list of OIDs, and the call of poser_maintain() for one.  counts sets them when
 * the module is loaded.
 */
extern List *(*poser_followed_views_hook)(Oid relid, Oid nspid);
extern void (*poser_follow_view_hook)(Oid nspid, Oid view);

/* transaction.c */

/* The name of the consumer of datasync while the session runs its handler, otherwise NULL. */
extern const char *poser_handling_consumer;

extern void poser_transaction_init(void);
extern const char *poser_username(void);
extern int64 poser_transaction_last_written(Oid *relid);
extern int poser_transaction_changed_tables(const Oid **relids);
extern bool poser_transaction_has_written(int64 id);
extern bool poser_transaction_is_writing(void);

/* change_id.c */
extern void poser_change_id_init(void);

/* version.c */
extern void poser_version_init(void);
extern bool poser_version_is_busy(void);

/* history_query.c */
extern void poser_history_append_comparison(StringInfo sql, const PoserVersioned *versioned);

/* history.c */
extern PoserHistory *poser_history_begin(FunctionCallInfo fcinfo, const PoserVersioned *tables, int ntables,
										 bool as_json);
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

/* The comment of a binding: how far the history of the table was pruned. */
#define POSER_HORIZON_FORMAT "pruned up to transaction %lld, change %lld"

/*
 * A function that returns the least id of a transaction with changes of this table that a
 * consumer has not confirmed, or PG_INT64_MAX.  With InvalidOid it is that of any table.
 * A partition counts as the tracked table above it.  The caller has connected to SPI, has
 * the rights of the owner of poser_transaction, and holds the lock on poser_version_horizon
 * that keeps consumers from being added (ShareUpdateExclusiveLock).  The function reads with
 * the latest snapshot.  Of the tables it locks only those that may have pending changes.
 * datasync sets it when the module is loaded.
 */
extern int64 (*poser_first_needed_hook)(Oid nspid, Oid relid);

extern TimestampTz poser_older_than_argument(FunctionCallInfo fcinfo, int arg);

/* arrival.c */
extern void poser_arrival_init(void);

/* restore.c */
extern bool poser_restore_is_likely(void);
extern bool poser_is_restore(Relation rel);
extern void poser_restore_wait(Relation rel);

#endif /* POSER_VERSIONS_H */
