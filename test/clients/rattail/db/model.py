# Stand-in for rattail.db.model: the declarative base, and the key column with a
# value made in Python.

import uuid

import sqlalchemy as sa
from sqlalchemy import orm

Base = orm.declarative_base()


def uuid_column():
    return sa.Column(
        sa.String(length=32),
        primary_key=True,
        nullable=False,
        default=lambda: uuid.uuid4().hex,
    )
