# An ORM's writes are counted.  At each step the summary view, mapped as a class, and
# the function, called with a bound parameter, give the same as
# len(widget.components).

import sqlalchemy as sa

from rattail.db import Session
from rattail.db.model import Base
from poser.db import model


class Summary(Base):
    """
    A widget with its component counts.
    """
    __tablename__ = "poser_widget_summary"

    uuid = sa.Column(sa.String(length=32), primary_key=True)
    description = sa.Column(sa.String(length=255))
    active = sa.Column(sa.Boolean())
    component_count = sa.Column(sa.BigInteger())
    active_component_count = sa.Column(sa.BigInteger())


def counts(s, widget):
    """Both counts: view, function and objects must agree."""
    s.flush()
    s.expire_all()
    row = s.get(Summary, widget.uuid)
    by_view = (row.component_count, row.active_component_count)
    by_function = tuple(s.execute(
        sa.text("SELECT component_count, active_component_count"
                " FROM poser_widget_get(:uuid)"), {"uuid": widget.uuid}).one())
    by_objects = (len(widget.components),
                  sum(c.active for c in widget.components))
    assert by_view == by_function == by_objects, \
        (by_view, by_function, by_objects)
    return by_view


def component(number, **kwargs):
    return model.Component(item_code=f"{number:04}",
                           description=f"Component {number}", **kwargs)


s = Session()

# one by one, before and after the commit
clock = model.Widget(description="Clock")
bell = model.Widget(description="Bell")
s.add_all([clock, bell])
assert counts(s, clock) == (0, 0)
clock.components.append(component(1))
assert counts(s, clock) == (1, 1)
clock.components.append(component(2, active=False))
assert counts(s, clock) == (2, 1)
s.commit()
assert counts(s, clock) == (2, 1)

# in bulk: many objects at one flush, and rows without objects
s.add_all([component(n, widget_uuid=clock.uuid) for n in range(3, 103)])
assert counts(s, clock) == (102, 101)
s.bulk_insert_mappings(model.Component, [
    dict(widget_uuid=bell.uuid, item_code=f"B{n}", description="Bulk",
         active=n % 2 == 0)
    for n in range(100)])
assert counts(s, bell) == (100, 50)
s.commit()

# the flag
for c in clock.components[:10]:
    c.active = False
inactive = sum(not c.active for c in clock.components)
assert counts(s, clock) == (102, 102 - inactive)

# a component moves, and all of a widget's move
bell.components.append(clock.components[0])
assert counts(s, clock)[0] == 101
assert counts(s, bell)[0] == 101
s.query(model.Component).filter_by(widget_uuid=bell.uuid).update(
    {"widget_uuid": clock.uuid}, synchronize_session=False)
assert counts(s, bell) == (0, 0)
assert counts(s, clock)[0] == 202
s.commit()

# a rollback, of a savepoint and of all
before = counts(s, clock)
clock.components.append(component(900))
savepoint = s.begin_nested()
s.add(component(901, widget_uuid=clock.uuid))
s.delete(clock.components[0])
s.flush()
savepoint.rollback()
assert counts(s, clock)[0] == before[0] + 1
s.rollback()
assert counts(s, clock) == before

# deletes, down to the widget itself
s.delete(clock.components[0])
assert counts(s, clock)[0] == before[0] - 1
s.query(model.Component).filter_by(widget_uuid=clock.uuid).delete(
    synchronize_session=False)
assert counts(s, clock) == (0, 0)
gone = clock.uuid
s.delete(clock)
s.commit()
assert s.get(Summary, gone) is None
assert s.execute(sa.text("SELECT * FROM poser_widget_get(:uuid)"),
                 {"uuid": gone}).all() == []
assert s.execute(sa.text("SELECT * FROM poser_check()")).all() == []
s.close()
