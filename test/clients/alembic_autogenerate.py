# Alembic's autogenerate compares a whole database with the seed's models, and proposes
# to drop the extension's own tables and indexes.  With the filter it proposes nothing.
# The filter hides nothing else: it does propose to drop a user's tables and indexes that
# no model has, and to add columns that the models have.

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from alembic_filter import include_object_for
from rattail.db import engine
from poser.db import model

# The extension's tables that no model describes, and the indexes on all of its
# tables, but for those of constraints.
OWN = sa.text("""
    SELECT 'remove_table', relname FROM pg_class AS r
      JOIN pg_depend AS d ON d.classid = 'pg_class'::regclass AND objid = r.oid
     WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
       AND relkind = 'r' AND relname NOT IN ('poser_widget', 'poser_component')
    UNION ALL
    SELECT 'remove_index', r.relname FROM pg_class AS r
      JOIN pg_index ON indexrelid = r.oid
      JOIN pg_depend AS d ON d.classid = 'pg_class'::regclass AND objid = indrelid
     WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
       AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = r.oid)
""")


def proposals(connection, metadata, filtered, **options):
    """What autogenerate proposes: an operation and a name each, sorted."""
    if filtered:
        options["include_object"] = include_object_for(connection)
    context = MigrationContext.configure(connection, opts=options)
    # a column is (operation, schema, table, column), others (operation, object)
    return sorted((operation, rest[-1].name)
                  for operation, *rest in compare_metadata(context, metadata))


metadata = model.Widget.metadata
with engine.connect() as connection:
    own = sorted(tuple(row) for row in connection.execute(OWN))
    assert ("remove_index", "poser_component_idx_widget") in own, own
    assert ("remove_table", "poser_widget_version") in own, own
    found = proposals(connection, metadata, filtered=False)
    assert found == own, found

    for include_schemas in False, True:
        found = proposals(connection, metadata, filtered=True,
                          include_schemas=include_schemas)
        assert found == [], found

with engine.begin() as connection:
    connection.execute(sa.text("CREATE SCHEMA elsewhere"))
    connection.execute(sa.text("CREATE TABLE own (id integer)"))
    connection.execute(sa.text("CREATE INDEX own_index ON own (id)"))
    # named like a member, and none
    connection.execute(sa.text(
        "CREATE TABLE elsewhere.poser_widget_version (id integer)"))
changed = sa.MetaData()
for table in metadata.sorted_tables:
    table.to_metadata(changed)
changed.tables["poser_component"].append_column(
    sa.Column("colour", sa.String(length=20)))
with engine.connect() as connection:
    found = proposals(connection, changed, filtered=True, include_schemas=True)
    assert found == [
        ("add_column", "colour"),
        ("remove_index", "own_index"),
        ("remove_table", "own"),
        ("remove_table", "poser_widget_version"),
    ], found
