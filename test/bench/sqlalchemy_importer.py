"""The peer for importers: row by row with SQLAlchemy, in milliseconds.

    sqlalchemy_importer.py rows|cached SOURCE

As Rattail's importers do it: in one session, each row of the source is
normalized, the widget with its key is looked up, the fields are compared, what
differs is set, and all is committed once.  The widgets are looked up one by one,
or, cached, are all read by one query before.  The session goes through the
source with a cursor; SQLAlchemy's own defaults hold for all else.
"""
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


class Importer:
    key = 'uuid'
    fields = ('uuid', 'description', 'active')

    def __init__(self, session):
        self.session = session

    def look_up(self, key):
        return self.session.get(Widget, key)

    def normalize(self, row):
        return {field: getattr(row, field) for field in self.fields}

    def run(self, source):
        columns = [sa.column(field) for field in self.fields]
        rows = self.session.execute(
            sa.select(*columns).select_from(sa.table(source)),
            execution_options={'yield_per': 1000})
        for row in rows:
            theirs = self.normalize(row)
            widget = self.look_up(theirs[self.key])
            if widget is None:
                self.session.add(Widget(**theirs))
                continue
            ours = self.normalize(widget)
            if ours != theirs:
                for field in self.fields:
                    if ours[field] != theirs[field]:
                        setattr(widget, field, theirs[field])
        self.session.commit()


class CachingImporter(Importer):

    def run(self, source):
        self.widgets = {widget.uuid: widget
                        for widget in self.session.query(Widget)}
        super().run(source)

    def look_up(self, key):
        return self.widgets.get(key)


importer = {'rows': Importer, 'cached': CachingImporter}[sys.argv[1]]
engine = sa.create_engine('postgresql+psycopg2://')
with orm.Session(engine) as session:
    session.connection()
    start = time.perf_counter()
    importer(session).run(sys.argv[2])
    print('%.4f' % (1000 * (time.perf_counter() - start)))
