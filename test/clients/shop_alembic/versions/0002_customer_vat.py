# A new column, another name, another type: poser_track() again makes the history
# follow.

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade():
    op.add_column("customer", sa.Column("vat", sa.String(length=20)))
    op.alter_column("customer", "email", new_column_name="mail")
    op.alter_column("customer", "mail", type_=sa.Text())
    op.execute("SELECT poser.poser_track('customer')")


def downgrade():
    op.alter_column("customer", "mail", type_=sa.String(length=100))
    op.alter_column("customer", "mail", new_column_name="email")
    op.drop_column("customer", "vat")
    op.execute("SELECT poser.poser_track('customer')")
