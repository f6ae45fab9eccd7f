# Alembic compares the seed's models with the extension's two tables and finds nothing
# to migrate; indexes that no model has are ignored here.  A changed model does differ.

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from rattail.db import engine
from poser.db import model

TABLES = {"poser_widget", "poser_component"}


def ours(obj, name, type_, reflected, compare_to):
    if type_ == "table":
        return name in TABLES
    return not (type_ == "index" and reflected and compare_to is None)


def difference(metadata):
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={
            "compare_type": True, "include_object": ours})
        return compare_metadata(context, metadata)


def changed(change):
    """A changed copy of the seed's metadata."""
    metadata = sa.MetaData()
    for table in model.Widget.metadata.sorted_tables:
        if table.name in TABLES:
            table.to_metadata(metadata)
    change(metadata.tables)
    return metadata


def longer(tables):
    tables["poser_widget"].c.description.type = sa.String(length=300)


def nullable(tables):
    tables["poser_component"].c.item_code.nullable = True


def wider(tables):
    tables["poser_component"].append_column(
        sa.Column("colour", sa.String(length=20)))


def unique(tables):
    table = tables["poser_component"]
    table.append_constraint(
        sa.UniqueConstraint(table.c.item_code, name="item_code_key"))


found = difference(model.Widget.metadata)
assert found == [], "\n".join(map(str, found))
assert difference(changed(lambda tables: None)) == []
for change in longer, nullable, wider, unique:
    assert difference(changed(change)) != [], change.__name__
