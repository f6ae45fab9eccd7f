# An ORM's sessions set the name that they work in.  The history's functions return
# the name, the reason, the changed columns and the transaction of each change.  An
# earlier state is read as objects, and reverted to.

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import postgresql

from rattail.db import Session
from poser.db import model

FIXED = (
    sa.column("transaction_id", sa.BigInteger()),
    sa.column("issued_at", sa.DateTime(timezone=True)),
    sa.column("username", sa.Text()),
    sa.column("role_name", sa.Text()),
    sa.column("comment", sa.Text()),
    sa.column("operation", sa.Text()),
    sa.column("changed", postgresql.ARRAY(sa.Text())),
    sa.column("uuid", sa.String()),
)
WIDGET = FIXED + (
    sa.column("description", sa.String()),
    sa.column("active", sa.Boolean()),
)
ALL = WIDGET + (
    sa.column("relation", sa.Text()),
    sa.column("widget_uuid", sa.String()),
    sa.column("item_code", sa.String()),
)
COMPONENT = FIXED + (
    sa.column("widget_uuid", sa.String()),
    sa.column("item_code", sa.String()),
    sa.column("description", sa.String()),
    sa.column("active", sa.Boolean()),
)


@sa.event.listens_for(Session, "after_begin")
def in_the_name_of(session, transaction, connection):
    """Like SET LOCAL, which takes no parameters."""
    for name, value in session.info.items():
        connection.execute(
            sa.text("SELECT set_config(:name, :value, true)"),
            {"name": f"poser.{name}", "value": value})


def session(**info):
    return Session(info=info)


def history(s, function, columns, *args):
    """The versions as the function returns them, newest first."""
    s.flush()
    table = function(*args).table_valued(*columns)
    return s.execute(sa.select(table)).all()


def widget_history(s, uuid):
    return history(s, sa.func.poser_widget_history, WIDGET, uuid)


def told(rows):
    return [(r.operation, r.changed, r.description) for r in rows]


def scalar(s, query, **parameters):
    return s.execute(sa.text(query), parameters).scalar()


# one transaction with two flushes: two versions, with name and reason
s = session(runas="alice", comment="opening")
me, backend = s.execute(sa.text("SELECT session_user, pg_backend_pid()")).one()
clock = model.Widget(description="Clock")
hand = model.Component(item_code="1", description="Hand")
clock.components.append(hand)
s.add(clock)
s.flush()
clock.description = "Wall clock"
s.commit()
key, hand_key = clock.uuid, hand.uuid
rows = widget_history(s, key)
assert told(rows) == [
    ("update", ["description"], "Wall clock"),
    ("insert", None, "Clock"),
], rows
assert len({r.transaction_id for r in rows}) == 1
assert {(r.username, r.role_name, r.comment) for r in rows} \
    == {("alice", me, "opening")}
assert {r.uuid for r in rows} == {key}
assert [r.active for r in rows] == [True, True]
opened = rows[0].transaction_id
s.close()

# a session without a name works in its user's name; the earlier session's name is
# gone from the same connection
s = session()
assert scalar(s, "SELECT pg_backend_pid()") == backend
clock = s.get(model.Widget, key)
clock.active = False
s.commit()
newest = widget_history(s, key)[0]
assert (newest.username, newest.comment) == (me, None)
assert told([newest]) == [("update", ["active"], "Wall clock")]
assert newest.transaction_id > opened
closed = newest.transaction_id

# an UPDATE that changes nothing makes no version, nor does a change that is undone
# before the flush
transactions = scalar(s, "SELECT count(*) FROM poser_transaction")
assert s.query(model.Widget).update(
    {"description": model.Widget.description}, synchronize_session=False) == 1
clock.description = "Tower clock"
clock.description = "Wall clock"
s.commit()
assert len(widget_history(s, key)) == 3
assert scalar(s, "SELECT count(*) FROM poser_transaction") == transactions
s.close()

# a savepoint and a transaction that are rolled back leave nothing; later changes are
# recorded
s = session(runas="bob", comment="rehearsal")
clock = s.get(model.Widget, key)
savepoint = s.begin_nested()
clock.description = "Nested"
s.flush()
assert widget_history(s, key)[0].description == "Nested"
savepoint.rollback()
assert len(widget_history(s, key)) == 3
clock.description = "Cuckoo clock"
bird = model.Component(item_code="2", description="Bird")
clock.components.append(bird)
assert told(widget_history(s, key))[0] \
    == ("update", ["description"], "Cuckoo clock")
s.rollback()
assert len(widget_history(s, key)) == 3
clock.description = "Cuckoo clock"
bird = model.Component(item_code="2", description="Bird")
clock.components.append(bird)
s.commit()
bird_key = bird.uuid
newest = widget_history(s, key)[0]
assert told([newest]) == [("update", ["description"], "Cuckoo clock")]
assert (newest.username, newest.comment) == ("bob", "rehearsal")
hatched = newest.transaction_id

# in bulk, without objects: each row has its version
s.query(model.Component).filter_by(widget_uuid=key).update(
    {"active": False}, synchronize_session=False)
s.commit()
for uuid in hand_key, bird_key:
    rows = history(s, sa.func.poser_component_history, COMPONENT, uuid)
    assert [(r.operation, r.changed) for r in rows] \
        == [("update", ["active"]), ("insert", None)], rows
    assert {r.widget_uuid for r in rows} == {key}
s.close()

# deletes, of the components and the widget in one transaction
s = session(runas="carol", comment="clearance")
clock = s.get(model.Widget, key)
for component in list(clock.components):
    s.delete(component)
s.flush()
s.delete(clock)
s.commit()
assert s.get(model.Widget, key) is None
rows = history(s, sa.func.poser_widget_history, ALL, key, True)
assert [(r.relation, r.operation) for r in rows[:1]] \
    == [("poser_widget", "delete")]
gone = [r for r in rows if r.operation == "delete"]
assert {r.uuid for r in gone} == {key, hand_key, bird_key}
assert {(r.username, r.comment) for r in gone} == {("carol", "clearance")}
assert len({r.transaction_id for r in gone}) == 1
assert [r.changed for r in gone] == [[], [], []]
assert [(r.relation, r.operation, r.description) for r in rows[3:]
        if r.relation == "poser_widget"] == [
    ("poser_widget", "update", "Cuckoo clock"),
    ("poser_widget", "update", "Wall clock"),
    ("poser_widget", "update", "Wall clock"),
    ("poser_widget", "insert", "Clock"),
]
assert sorted((r.item_code, r.operation) for r in rows[3:]
              if r.relation == "poser_component") == [
    ("1", "insert"), ("1", "update"), ("2", "insert"), ("2", "update")]
s.close()

# earlier states as objects: after three of the transactions, which get distinct times
s = session()
times = {}
for n, transaction in enumerate(
        s.execute(sa.text("SELECT id FROM poser_transaction ORDER BY id"))
        .scalars().all()):
    times[transaction] = f"2020-01-01 00:{n:02}:00+00"
    s.execute(sa.text("UPDATE poser_transaction SET issued_at = :at"
                      " WHERE id = :id"),
              {"at": times[transaction], "id": transaction})
s.commit()


def as_of(cls, transaction):
    """All objects as they were, detached, so that they cannot be written."""
    with Session() as past:
        objects = past.query(cls).from_statement(
            sa.text(f"SELECT * FROM {cls.__tablename__}_as_of(:at)")
        ).params(at=times[transaction]).all()
        past.expunge_all()
    return objects


def states(transaction):
    return ([(w.uuid, w.description, w.active)
             for w in as_of(model.Widget, transaction)],
            sorted((c.uuid, c.active)
                   for c in as_of(model.Component, transaction)))


assert states(opened) == (
    [(key, "Wall clock", True)], [(hand_key, True)])
assert states(closed) == (
    [(key, "Wall clock", False)], [(hand_key, True)])
assert states(hatched) == (
    [(key, "Cuckoo clock", False)],
    sorted([(hand_key, True), (bird_key, True)]))
assert states(gone[0].transaction_id) == ([], [])
s.close()

# a revert: the objects exist again, and the history has all that came between
s = session(runas="dave", comment="regret")
assert scalar(s, "SELECT poser_widget_revert(:uuid, :transaction, true)",
              uuid=key, transaction=hatched) == 3
clock = s.get(model.Widget, key)
assert (clock.description, clock.active) == ("Cuckoo clock", False)
assert sorted((c.uuid, c.active) for c in clock.components) \
    == sorted([(hand_key, True), (bird_key, True)])
s.commit()
rows = history(s, sa.func.poser_widget_history, ALL, key, True)
assert {(r.operation, r.username, r.comment) for r in rows[:3]} \
    == {("insert", "dave", "regret")}
assert len({r.transaction_id for r in rows[:3]}) == 1

# a revert to an earlier state, in the session that has the objects
assert scalar(s, "SELECT poser_widget_revert(:uuid, :transaction, true)",
              uuid=key, transaction=opened) == 2
s.expire_all()
assert (clock.description, clock.active) == ("Wall clock", True)
assert [c.uuid for c in clock.components] == [hand_key]
s.commit()
assert scalar(s, "SELECT poser_widget_revert(:uuid, :transaction, true)",
              uuid=key, transaction=opened) == 0
s.commit()

# an unknown transaction is an error of the driver, and changes nothing
try:
    scalar(s, "SELECT poser_widget_revert(:uuid, :transaction)",
           uuid=key, transaction=-1)
except sa.exc.DBAPIError as e:
    assert e.orig.pgcode == "22023", e.orig.pgcode
else:
    raise AssertionError("an unknown transaction was no error")
s.rollback()
assert (clock.description, clock.active) == ("Wall clock", True)
assert s.execute(sa.text("SELECT * FROM poser_check()")).all() == []
s.close()
