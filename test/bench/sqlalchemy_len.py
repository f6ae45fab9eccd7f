"""The peer for users of an ORM: len(widget.components).

    sqlalchemy_len.py len|get UUID

It prints the median of 200 rounds, in milliseconds.
"""
import statistics
import sys
import time

import sqlalchemy as sa
from sqlalchemy import orm

Base = orm.declarative_base()


class Widget(Base):
    __tablename__ = 'poser_widget'
    uuid = sa.Column(sa.String(length=32), primary_key=True)
    description = sa.Column(sa.String(length=255))
    active = sa.Column(sa.Boolean())
    components = orm.relationship('Component')


class Component(Base):
    __tablename__ = 'poser_component'
    uuid = sa.Column(sa.String(length=32), primary_key=True)
    widget_uuid = sa.Column(sa.ForeignKey('poser_widget.uuid'))
    item_code = sa.Column(sa.String(length=20))
    description = sa.Column(sa.String(length=255))
    active = sa.Column(sa.Boolean())


def by_len(session, uuid):
    return len(session.get(Widget, uuid).components)


def by_summary(session, uuid):
    return session.execute(
        sa.text('SELECT component_count FROM poser_widget_get(:uuid)'),
        {'uuid': uuid}).scalar()


engine = sa.create_engine('postgresql+psycopg2://')
count = {'len': by_len, 'get': by_summary}[sys.argv[1]]
times = []
for i in range(200):
    with orm.Session(engine) as session:
        session.connection()
        start = time.perf_counter()
        count(session, sys.argv[2])
        times.append(time.perf_counter() - start)
print('%.4f' % (1000 * statistics.median(times)))
