# Alembic migrates a maintained view.  A migration creates the tables and the view, and
# calls poser_maintain(); the next one renames a column of the view's query, adds one, and
# replaces the query.  Both are undone, and done again.  The view is maintained after each
# step.  Autogenerate with the filter proposes nothing: neither to drop the view's
# bookkeeping, nor to create a table for the model of the view.

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
config.set_main_option("version_locations",
                       os.path.abspath("shop_alembic/maintained"))
config.attributes["engine"] = engine


def metadata(*columns):
    """The models after a migration, with the columns of orders."""
    result = sa.MetaData()
    sa.Table("customer", result,
             sa.Column("id", sa.Integer(), primary_key=True),
             sa.Column("name", sa.Text(), nullable=False))
    sa.Table("orders", result,
             sa.Column("id", sa.BigInteger(), primary_key=True),
             sa.Column("customer_id", sa.ForeignKey("customer.id"), index=True),
             *columns)
    sa.Table("customer_orders", result,
             sa.Column("customer_id", sa.Integer(), primary_key=True),
             sa.Column("orders", sa.BigInteger()),
             sa.Column("revenue", sa.Numeric()),
             info={"is_view": True})
    return result


BEFORE = metadata(sa.Column("total", sa.Numeric(10, 2)))
AFTER = metadata(sa.Column("amount", sa.Numeric(10, 2)),
                 sa.Column("status", sa.Text(), nullable=False))


def proposals(models, filtered=True, **options):
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


def well(models):
    """The view is maintained and right, and there is nothing to migrate."""
    assert execute("SELECT CAST(view AS text), CAST(child AS text), served,"
                   " problem FROM poser.poser_views") \
        == [("customer_orders", "orders", True, None)]
    assert execute("TABLE customer_orders EXCEPT TABLE customer_orders_query") \
        == []
    assert execute("SELECT * FROM poser.poser_check()") == []
    assert proposals(models) == []
    assert proposals(models, include_schemas=True) == []


# the migrations create the extension, in a schema of its own
execute("DROP EXTENSION poser")

command.upgrade(config, "1001")
well(BEFORE)
execute("INSERT INTO customer (name) VALUES ('Ann'), ('Bob')")
execute("INSERT INTO orders (customer_id, total) VALUES (1, 2), (1, NULL), (2, 3)")
assert execute("SELECT * FROM customer_orders ORDER BY 1") \
    == [(1, 2, 2), (2, 1, 3)]
well(BEFORE)

# forward: the name follows by itself, the new query by the call
command.upgrade(config, "head")
well(AFTER)
execute("INSERT INTO orders (customer_id, amount, status) VALUES (1, 5, 'paid')")
assert execute("SELECT * FROM customer_orders ORDER BY 1") \
    == [(1, 3, 7, 2), (2, 1, 3, 1)]
well(AFTER)

# backward, and forward again
command.downgrade(config, "1001")
well(BEFORE)
execute("DELETE FROM orders WHERE customer_id = 2")
assert execute("SELECT * FROM customer_orders ORDER BY 1") \
    == [(1, 3, 7), (2, 0, None)]
command.upgrade(config, "head")
well(AFTER)
assert execute("SELECT * FROM customer_orders ORDER BY 1") \
    == [(1, 3, 7, 3), (2, 0, None, 0)]

# without the filter, the bookkeeping would be dropped, and the view would be created
found = proposals(AFTER, filtered=False)
assert ("remove_table", "customer_orders_maintained") in found, found
assert ("add_table", "customer_orders") in found, found

# so it is with the command, and with the environment that the manual shows, and with an
# index of the user's on the bookkeeping
execute("CREATE INDEX by_orders ON customer_orders_maintained (orders)")
well(AFTER)
config.attributes["metadata"] = AFTER
command.revision(config, autogenerate=True)
assert config.attributes["proposal"] == [], config.attributes["proposal"]

# the filter hides nothing else
execute("CREATE TABLE other_maintained (id integer)")
assert proposals(AFTER) == [("remove_table", "other_maintained")]
execute("DROP TABLE other_maintained")

# to the very beginning: nothing of the view remains, and it can be made again
command.downgrade(config, "base")
assert execute("SELECT relname FROM pg_class WHERE relname LIKE 'customer%'"
               " OR relname LIKE 'orders%'") == []
assert execute("SELECT * FROM poser.poser_views") == []
assert execute("SELECT * FROM poser.poser_check()") == []
command.upgrade(config, "head")
well(AFTER)
