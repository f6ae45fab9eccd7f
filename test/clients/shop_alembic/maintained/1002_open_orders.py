# A column gets another name, and the view another column: CREATE OR REPLACE VIEW adds a
# column at the end, and poser_maintain() again makes the new query the definition.  A
# column of the view cannot be taken away in this way, nor can the type of a column of its
# query be changed.  So the way back begins with poser_unmaintain().

import sqlalchemy as sa
from alembic import op

revision = "1002"
down_revision = "1001"


def upgrade():
    op.alter_column("orders", "total", new_column_name="amount")
    op.add_column("orders", sa.Column("status", sa.Text(), nullable=False,
                                      server_default="open"))
    op.execute("""
        CREATE OR REPLACE VIEW customer_orders AS
        SELECT c.id AS customer_id, count(o.id) AS orders,
               sum(o.amount) AS revenue,
               count(o.id) FILTER (WHERE o.status = 'open') AS open_orders
          FROM customer c LEFT JOIN orders o ON o.customer_id = c.id
         GROUP BY c.id
        """)
    op.execute("SELECT poser.poser_maintain('customer_orders')")


def downgrade():
    op.execute("SELECT poser.poser_unmaintain('customer_orders')")
    op.execute("DROP VIEW customer_orders")
    op.drop_column("orders", "status")
    op.alter_column("orders", "amount", new_column_name="total")
    op.execute("""
        CREATE VIEW customer_orders AS
        SELECT c.id AS customer_id, count(o.id) AS orders,
               sum(o.total) AS revenue
          FROM customer c LEFT JOIN orders o ON o.customer_id = c.id
         GROUP BY c.id
        """)
    op.execute("SELECT poser.poser_maintain('customer_orders')")
