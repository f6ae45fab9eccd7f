# A maintained view.  Its query is that of an ordinary view, so that the migration without
# poser_maintain() would show the same rows.

import sqlalchemy as sa
from alembic import op

revision = "1001"
down_revision = None


def upgrade():
    op.execute("CREATE SCHEMA IF NOT EXISTS poser")
    op.execute("CREATE EXTENSION IF NOT EXISTS poser SCHEMA poser")
    op.create_table(
        "customer",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("name", sa.Text(), nullable=False))
    op.create_table(
        "orders",
        sa.Column("id", sa.BigInteger(), primary_key=True),
        sa.Column("customer_id", sa.Integer(),
                  sa.ForeignKey("customer.id"), index=True),
        sa.Column("total", sa.Numeric(10, 2)))
    op.execute("""
        CREATE VIEW customer_orders AS
        SELECT c.id AS customer_id, count(o.id) AS orders,
               sum(o.total) AS revenue
          FROM customer c LEFT JOIN orders o ON o.customer_id = c.id
         GROUP BY c.id
        """)
    op.execute("SELECT poser.poser_maintain('customer_orders')")


def downgrade():
    op.execute("SELECT poser.poser_unmaintain('customer_orders')")
    op.execute("DROP VIEW customer_orders")
    op.drop_table("orders")
    op.drop_table("customer")
