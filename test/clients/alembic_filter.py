"""A filter for Alembic's autogenerate: it leaves alone what extensions own, and the
tables of versions and of counts that Poser writes.

Autogenerate compares a database with the models, and proposes to drop each table
and index that no model has.  An extension makes tables and indexes of its own, for
its bookkeeping, poser_track() makes tables of versions, and poser_maintain() makes
tables of counts.  No migration may drop them.

In env.py:

    context.configure(connection=connection, target_metadata=target_metadata,
                      include_object=include_object_for(connection))

A table that a model describes is compared as ever, also if an extension has made it.
When poser_untrack() has ended the recording of a table, its table of versions is
proposed to be dropped.  A model of a view says so by info={"is_view": True}, and is
not compared, because autogenerate would propose to create a table.
"""
import functools

import sqlalchemy as sa

# The tables that belong to an extension, the tables of versions and of counts that are
# bound to a table or view by a trigger, and all indexes on them.
MEMBERS = sa.text("""
    SELECT n.nspname, r.relname, pg_table_is_visible(coalesce(i.indrelid, r.oid))
      FROM pg_class AS r
      JOIN pg_namespace AS n ON n.oid = r.relnamespace
      LEFT JOIN pg_index AS i ON i.indexrelid = r.oid
     WHERE coalesce(i.indrelid, r.oid) IN (
           SELECT objid FROM pg_depend
            WHERE classid = 'pg_class'::regclass
              AND refclassid = 'pg_extension'::regclass AND deptype = 'e'
           UNION ALL
           SELECT tgrelid FROM pg_trigger JOIN pg_proc AS p ON p.oid = tgfoid
            WHERE p.proname IN ('poser_versions_of', 'poser_maintained_by')
              AND tgconstrrelid <> 0)
""")


def include_object_for(connection):
    """Return the function for context.configure(include_object=...)."""

    # Asked at the first use: a query before context.configure() would begin a
    # transaction, and Alembic would leave it to the caller to commit.
    @functools.lru_cache(maxsize=None)
    def members():
        names = set()
        for schema, name, visible in connection.execute(MEMBERS):
            names.add((schema, name))
            if visible:  # Alembic gives no schema for a default one
                names.add((None, name))
        return names

    def include_object(object, name, type_, reflected, compare_to):
        if type_ == "table" and object.info.get("is_view"):
            return False
        # Only what is in the database and in no model would be dropped.
        if reflected and compare_to is None and type_ in ("table", "index"):
            table = object if type_ == "table" else object.table
            return (table.schema, name) not in members()
        return True

    return include_object
