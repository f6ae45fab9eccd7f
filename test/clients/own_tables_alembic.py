# Alembic migrates a table that has a history.  A migration creates the table and calls
# poser_track(); the next one adds a column, renames another and gives it another type,
# and calls poser_track() again.  Both are undone, and done again.  The history keeps
# all that was recorded.  Autogenerate proposes nothing: the version tables and the
# extension have schemas of their own.  With the filter it also proposes nothing where
# they are beside the tables, or where it looks at all schemas.

import os

import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

from alembic_filter import include_object_for
from rattail.db import engine

config = Config()
config.set_main_option("script_location", os.path.abspath("shop_alembic"))
config.attributes["engine"] = engine


def metadata(columns):
    """The models' tables, after a migration."""
    result = sa.MetaData()
    if columns:
        sa.Table("customer", result,
                 sa.Column("id", sa.Integer(), primary_key=True),
                 *[sa.Column(name, type_, nullable=nullable)
                   for name, type_, nullable in columns])
    return result


BEFORE = metadata([("email", sa.String(length=100), False),
                   ("pw", sa.String(length=100), True),
                   ("notes", sa.Text(), True)])
AFTER = metadata([("mail", sa.Text(), False),
                  ("pw", sa.String(length=100), True),
                  ("notes", sa.Text(), True),
                  ("vat", sa.String(length=20), True)])
NOTHING = metadata([])


def proposals(models, filtered=False, **options):
    """What autogenerate proposes: an operation and a name each, sorted."""
    with engine.connect() as connection:
        if filtered:
            options["include_object"] = include_object_for(connection)
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, **options})
        return sorted((operation, rest[-1].name) for operation, *rest
                      in compare_metadata(context, models))


def execute(query, **parameters):
    with engine.begin() as connection:
        result = connection.execute(sa.text(query), parameters)
        return [tuple(row) for row in result] if result.returns_rows else None


def history(key):
    """Oldest first: what was done, and to which values."""
    return execute(
        "SELECT operation, changed, new FROM poser.poser_history('customer',"
        " jsonb_build_object('id', CAST(:key AS integer)))"
        " ORDER BY change_id", key=key)


def values(version):
    """A version's new row without columns that the table had earlier."""
    return {name: value for name, value in version[2].items()
            if name in ("id", "email", "mail", "notes", "vat")}


def tracked():
    return execute("SELECT CAST(versions AS text), excluded, unrecorded,"
                   " recording, problem FROM poser.poser_tables"
                   " WHERE target = to_regclass('customer')")


# the migrations create the extension, in a schema of its own
execute("DROP EXTENSION poser")

command.upgrade(config, "0001")
assert tracked() == [("audit.customer_version", ["pw"], [], True, None)], \
    tracked()
assert proposals(BEFORE) == []
execute("INSERT INTO customer (email, pw) VALUES ('ann@x', 'secret')")
execute("UPDATE customer SET pw = 'changed'")   # an excluded column: no version
execute("UPDATE customer SET notes = 'first'")
assert history(1) == [
    ("insert", None, {"id": 1, "email": "ann@x", "notes": None}),
    ("update", ["notes"], {"id": 1, "email": "ann@x", "notes": "first"}),
], history(1)

# forward: nothing is lost, and the new column is recorded
command.upgrade(config, "head")
assert tracked() == [("audit.customer_version", ["pw"], [], True, None)], \
    tracked()
assert proposals(AFTER) == []
execute("UPDATE customer SET mail = 'ann@y', vat = 'EU1'")
assert [(operation, changed) for operation, changed, _ in history(1)] == [
    ("insert", None), ("update", ["notes"]), ("update", ["mail", "vat"])], \
    history(1)
assert history(1)[1][2] == \
    {"id": 1, "mail": "ann@x", "notes": "first", "vat": None}, history(1)
assert history(1)[2][2] == \
    {"id": 1, "mail": "ann@y", "notes": "first", "vat": "EU1"}, history(1)
assert execute("SELECT * FROM poser.poser_check()") == []

# backward: the column is dropped, and the history keeps its values
command.downgrade(config, "0001")
assert tracked() == [("audit.customer_version", ["pw"], [], True, None)], \
    tracked()
assert proposals(BEFORE) == []
execute("UPDATE customer SET email = 'ann@z'")
operation, changed, new = history(1)[-1]
assert (operation, changed, new["email"]) == ("update", ["email"], "ann@z"), \
    history(1)
assert history(1)[2][2]["vat"] == "EU1", history(1)
assert execute("SELECT * FROM poser.poser_check()") == []

# and forward again: a new column of the same name is another column, and the history
# keeps the values of both
command.upgrade(config, "head")
assert tracked()[0][3:] == (True, None), tracked()
assert proposals(AFTER) == []
execute("UPDATE customer SET vat = 'EU2'")
operation, changed, new = history(1)[-1]
assert (operation, changed, new["vat"]) == ("update", ["vat"], "EU2"), \
    history(1)
assert "EU1" in history(1)[2][2].values(), history(1)
assert execute("SELECT * FROM poser.poser_check()") == []
recorded = len(history(1))

# to the very beginning: the table goes, its history stays, and a new table of the name
# takes it up
command.downgrade(config, "base")
assert execute("SELECT to_regclass('customer')") == [(None,)]
assert proposals(NOTHING) == []
command.upgrade(config, "head")
assert len(tracked()) == 1
assert len(history(1)) >= recorded
assert execute("SELECT * FROM poser.poser_check()") == []
execute("INSERT INTO customer (id, mail) VALUES (1, 'bob@x')")
assert [operation for operation, _, _ in history(1)[-2:]] \
    == ["delete", "insert"], history(1)
assert values(history(1)[-1]) == {"id": 1, "mail": "bob@x", "notes": None,
                                  "vat": None}, history(1)

# all schemas: only the filter knows the version tables and the extension's own
found = proposals(AFTER, include_schemas=True)
assert ("remove_table", "customer_version") in found, found
assert ("remove_table", "poser_widget") in found, found
assert proposals(AFTER, include_schemas=True, filtered=True) == []

# version tables beside the tables, with an index of the user's on one
execute("CREATE TABLE invoice_line (invoice_id integer, line integer, item text,"
        " PRIMARY KEY (invoice_id, line))")
execute("SELECT poser.poser_track('invoice_line')")
execute("CREATE INDEX by_item ON invoice_line_version (item)")
sa.Table("invoice_line", AFTER,
         sa.Column("invoice_id", sa.Integer(), primary_key=True),
         sa.Column("line", sa.Integer(), primary_key=True),
         sa.Column("item", sa.Text()))
found = proposals(AFTER)
assert ("remove_table", "invoice_line_version") in found, found
assert ("remove_index", "by_item") in found, found
assert proposals(AFTER, filtered=True) == []
assert proposals(AFTER, filtered=True, include_schemas=True) == []

# so does the command, with the environment that the manual shows
config.attributes["metadata"] = AFTER
command.revision(config, autogenerate=True)
assert config.attributes["proposal"] == [], config.attributes["proposal"]

# the filter hides nothing else: a model that has changed, a table of the user's, and
# a history that is recorded no more
execute("CREATE TABLE other_version (id integer)")
execute("ALTER TABLE invoice_line ADD COLUMN price numeric")
execute("SELECT poser.poser_untrack('invoice_line')")
found = proposals(AFTER, filtered=True)
assert [f for f in found if f[0] != "remove_index"] == [
    ("remove_column", "price"),
    ("remove_table", "invoice_line_version"),
    ("remove_table", "other_version"),
], found
