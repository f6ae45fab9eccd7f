"""The peer for imports: an importer that works row by row with SQLAlchemy.

    sqlalchemy_importer.py rows|cached SOURCE

It prints milliseconds.  It works as Rattail's importers do, in one session: it
normalizes each row of the source, looks up the widget with the row's key, compares
the fields, and sets those that differ.  It commits once, at the end.  With "rows" it
looks up each widget by a query; with "cached" it reads all widgets first, by one
query.  It reads the source by a cursor.  All other settings are SQLAlchemy's
defaults.
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
