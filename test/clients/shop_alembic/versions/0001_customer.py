# A table with a history.  The extension and the tables of versions are in schemas of
# their own, which autogenerate does not look at.

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade():
    op.execute("CREATE SCHEMA IF NOT EXISTS poser")
    op.execute("CREATE EXTENSION IF NOT EXISTS poser SCHEMA poser")
    op.execute("CREATE SCHEMA IF NOT EXISTS audit")
    op.create_table(
        "customer",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("email", sa.String(length=100), nullable=False),
        sa.Column("pw", sa.String(length=100)),
        sa.Column("notes", sa.Text()))
    op.execute("SELECT poser.poser_track('customer', exclude => '{pw}',"
               " versions => 'audit.customer_version')")


def downgrade():
    # the history stays, until somebody drops it
    op.execute("SELECT poser.poser_untrack('customer')")
    op.drop_table("customer")
