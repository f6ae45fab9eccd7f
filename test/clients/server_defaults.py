# An ORM may leave key and active to the database's defaults: the values come back with
# RETURNING, and have the same form as the model's own.

import re

import sqlalchemy as sa
from sqlalchemy import orm

from rattail.db import Session

Base = orm.declarative_base()


class Widget(Base):
    """
    A widget with the database's defaults.
    """
    __tablename__ = "poser_widget"

    uuid = sa.Column(sa.String(length=32), primary_key=True,
                     server_default=sa.FetchedValue())
    description = sa.Column(sa.String(length=255), nullable=False)
    active = sa.Column(sa.Boolean(), nullable=False,
                       server_default=sa.FetchedValue())


s = Session()
for n in range(10):
    s.add(Widget(description=f"Widget {n}"))
    s.flush()
s.commit()
rows = s.query(Widget).order_by(Widget.uuid).all()
assert [w.description for w in rows] == [f"Widget {n}" for n in range(10)]
for w in rows:
    assert re.fullmatch("[0-9a-f]{32}", w.uuid), w.uuid
    assert w.active is True
s.close()
