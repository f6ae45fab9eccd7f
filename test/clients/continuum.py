# The views of the manual's chapter on SQLAlchemy-Continuum give the rows that it
# expects.  Continuum itself is not in Debian, so its documented behaviour is here, as a
# reader of versions: one version for each row and transaction, the next transaction as
# end_transaction_id, changes between versions, and the way back.
#
# With an argument, the reader uses the tables in that schema instead: on Poser's own
# tables (public) it fails.

import pathlib
import random
import re
import sys

import sqlalchemy as sa
from sqlalchemy import orm

from rattail.db import Session, engine
from rattail.db.model import Base
from poser.db import model

INSERT, UPDATE, DELETE = 0, 1, 2
INTERNAL = {"transaction_id", "end_transaction_id", "operation_type"}
schema = sys.argv[1] if len(sys.argv) > 1 else "poser_continuum"

# the manual's SQL
manual = pathlib.Path(__file__).parents[2] / "doc" / "poser.md"
views = re.search(r"^```sql\n(CREATE SCHEMA poser_continuum;.*?)^```$",
                  manual.read_text(encoding="utf-8"), re.M | re.S).group(1)
with engine.begin() as connection:
    connection.execute(sa.text(views))


class Transaction(Base):
    __tablename__ = "transaction"
    __table_args__ = {"schema": "poser_continuum"}

    id = sa.Column(sa.BigInteger(), primary_key=True)
    issued_at = sa.Column(sa.DateTime())
    remote_addr = sa.Column(sa.String(length=50))
    user_id = sa.Column(sa.String())
    comment = sa.Column(sa.String())


class Version:
    """
    What Continuum's version classes have.
    """
    transaction_id = sa.Column(sa.BigInteger(), primary_key=True)
    if schema == "poser_continuum":
        end_transaction_id = sa.Column(sa.BigInteger())
    operation_type = sa.Column(sa.SmallInteger())

    @orm.declared_attr
    def transaction(cls):
        return orm.relationship(Transaction, viewonly=True,
                                primaryjoin=Transaction.id == orm.foreign(cls.transaction_id))

    def _of_row(self):
        return orm.object_session(self).query(type(self)).filter_by(uuid=self.uuid)

    @property
    def previous(self):
        if schema == "poser_continuum":
            return self._of_row().filter_by(end_transaction_id=self.transaction_id).first()
        return self._neighbour(sa.func.max, type(self).transaction_id < self.transaction_id)

    @property
    def next(self):
        if schema == "poser_continuum":
            return self._of_row().filter_by(transaction_id=self.end_transaction_id).first()
        return self._neighbour(sa.func.min, type(self).transaction_id > self.transaction_id)

    def _neighbour(self, extreme, condition):
        """The strategy that needs no end_transaction_id."""
        cls = type(self)
        found = sa.select(extreme(cls.transaction_id)).where(cls.uuid == self.uuid, condition)
        return self._of_row().filter(cls.transaction_id == found.scalar_subquery()).first()

    @property
    def changeset(self):
        """The changed columns, each with the value before and after."""
        before = self.previous
        if before is None and self.operation_type != INSERT:
            return {}
        changes = {}
        for attribute in sa.inspect(type(self)).column_attrs:
            if attribute.key not in INTERNAL:
                old = getattr(before, attribute.key) if before else None
                new = getattr(self, attribute.key)
                if old != new:
                    changes[attribute.key] = [old, new]
        return changes

    def revert(self):
        """Makes the object what it was in this version."""
        s = orm.object_session(self)
        parent = s.get(self.parent_class, self.uuid)
        if self.operation_type == DELETE:
            if parent is not None:
                s.delete(parent)
            return None
        if parent is None:
            parent = self.parent_class(uuid=self.uuid)
            s.add(parent)
        for attribute in sa.inspect(self.parent_class).column_attrs:
            setattr(parent, attribute.key, getattr(self, attribute.key))
        return parent


def version_class(parent):
    """A class over the view, with the columns of the parent's table."""
    columns = {c.name: sa.Column(c.type, primary_key=c.primary_key) for c in parent.__table__.c}
    cls = type(parent.__name__ + "Version", (Version, Base), {
        "__tablename__": parent.__tablename__ + "_version",
        "__table_args__": {"schema": schema},
        "parent_class": parent, **columns})
    parent.versions = orm.relationship(
        cls, primaryjoin=parent.uuid == orm.foreign(cls.uuid), order_by=cls.transaction_id,
        lazy="dynamic", viewonly=True)
    return cls


WidgetVersion = version_class(model.Widget)
ComponentVersion = version_class(model.Component)


def components_at(version):
    """The components of a widget's version, as they were at that time."""
    c, at = ComponentVersion, version.transaction_id
    return orm.object_session(version).query(c).filter(
        c.widget_uuid == version.uuid, c.operation_type != DELETE, c.transaction_id <= at,
        sa.or_(c.end_transaction_id > at, c.end_transaction_id.is_(None))).order_by(c.item_code).all()


def session(**settings):
    """Like SET LOCAL, for the first transaction of a session."""
    s = Session()
    for name, value in settings.items():
        s.execute(sa.text("SELECT set_config(:name, :value, true)"), {"name": f"poser.{name}", "value": value})
    return s


def told(versions):
    return [(v.operation_type, v.description) for v in versions]


# a row that is inserted and updated in one transaction: one version, an insert
s = session(runas="alice", comment="opening")
clock = model.Widget(uuid="clock", description="Clock", active=True)
clock.components.append(model.Component(uuid="hand", item_code="1", description="Hand", active=True))
s.add(clock)
s.flush()
clock.description = "Wall clock"
s.commit()
assert told(clock.versions) == [(INSERT, "Wall clock")], told(clock.versions)
first = clock.versions[0]
assert first.changeset == {"uuid": [None, "clock"], "description": [None, "Wall clock"], "active": [None, True]}
assert (first.previous, first.next) == (None, None)
transaction = first.transaction
assert (transaction.user_id, transaction.comment) == ("alice", "opening")
issued_at, remote_addr = s.execute(sa.text(
    "SELECT issued_at AT TIME ZONE 'UTC', host(remote_addr) FROM poser_transaction WHERE id = :id"),
    {"id": transaction.id}).one()
assert (transaction.issued_at, transaction.remote_addr) == (issued_at, remote_addr)
assert issued_at.tzinfo is None

# a row that is updated three times in one transaction: one version, with the last values
for description in "Tower clock", "Church clock", "Cuckoo clock":
    clock.description = description
    s.flush()
s.commit()
assert told(clock.versions) == [(INSERT, "Wall clock"), (UPDATE, "Cuckoo clock")]
second = clock.versions[1]
assert second.changeset == {"description": ["Wall clock", "Cuckoo clock"]}
assert second.previous is first and first.next is second and second.next is None
assert first.end_transaction_id == second.transaction_id and second.end_transaction_id is None
assert s.get(WidgetVersion, {"uuid": "clock", "transaction_id": second.transaction_id}) is second

# updated and deleted, and deleted and inserted
hand = s.get(model.Component, "hand")
hand.description = "Minute hand"
s.flush()
s.delete(hand)
s.commit()
of_hand = s.query(ComponentVersion).filter_by(uuid="hand").order_by(ComponentVersion.transaction_id)
assert told(of_hand) == [(INSERT, "Hand"), (DELETE, "Minute hand")]
s.add(model.Component(uuid="hand", widget_uuid="clock", item_code="2", description="Hour hand", active=True))
s.commit()
s.delete(s.get(model.Component, "hand"))
s.flush()
s.add(model.Component(uuid="hand", widget_uuid="clock", item_code="3", description="Second hand", active=True))
s.commit()
assert told(of_hand) == [
    (INSERT, "Hand"), (DELETE, "Minute hand"), (INSERT, "Hour hand"), (UPDATE, "Second hand")], told(of_hand)
assert of_hand[3].changeset == {"item_code": ["2", "3"], "description": ["Hour hand", "Second hand"]}
# inserted and deleted: Continuum has a delete
s.add(model.Widget(uuid="ghost", description="Ghost"))
s.flush()
s.delete(s.get(model.Widget, "ghost"))
s.commit()
ghost = s.query(WidgetVersion).filter_by(uuid="ghost").one()
assert told([ghost]) == [(DELETE, "Ghost")] and ghost.changeset == {}

# a version's components, as they were
assert [c.description for c in components_at(first)] == ["Hand"]
clock.active = False
s.commit()
third = clock.versions[2]
assert third.changeset == {"active": [True, False]}
assert [c.description for c in components_at(third)] == ["Second hand"]

# the way back: an earlier version, a delete, and an object that is gone
assert first.revert() is clock
s.commit()
assert (clock.description, clock.active) == ("Wall clock", True)
fourth = clock.versions[3]
assert told([fourth]) == [(UPDATE, "Wall clock")]
assert fourth.changeset == {"description": ["Cuckoo clock", "Wall clock"], "active": [False, True]}
of_hand[1].revert()
s.commit()
assert s.get(model.Component, "hand") is None
s.delete(clock)
s.commit()
gone = fourth.next
assert told([gone]) == [(DELETE, "Wall clock")] and gone.next is None and gone.previous is fourth
assert s.get(model.Widget, "clock") is None
clock = second.revert()
s.commit()
assert s.get(model.Widget, "clock") is clock and clock.description == "Cuckoo clock"
assert told(clock.versions)[-1] == (INSERT, "Cuckoo clock")

# A transaction in two names has a version for each.
clock.description = "Alarm clock"
s.flush()
s.execute(sa.text("SELECT set_config('poser.runas', 'bob', true)"))
clock.description = "Clock radio"
s.commit()
assert [(v.description, v.transaction.user_id == "bob") for v in clock.versions.all()[-2:]] \
    == [("Alarm clock", False), ("Clock radio", True)]
s.close()

# A random history against the rule, row by row: insert, then anything, is an insert as
# long as the row is there; a row that was there before is updated or deleted.
random.seed(13)
expected = {}
s = session()
for _ in range(60):
    now = s.query(model.Widget).filter(model.Widget.uuid.like("r%")).all()
    alive = {w.uuid: w for w in now}
    before = set(alive)
    touched = {}
    for _ in range(random.randint(1, 12)):
        key = f"r{random.randint(1, 6)}"
        if key not in alive:
            alive[key] = model.Widget(uuid=key, description=str(random.random()), active=True)
            s.add(alive[key])
            touched[key] = alive[key].description
        elif random.random() < 0.4:
            s.delete(alive.pop(key))
        else:
            alive[key].description = touched[key] = str(random.random())
        touched.setdefault(key, expected.get(key, [(None, None)])[-1][1])
        s.flush()
    s.commit()
    for key, description in touched.items():
        operation = DELETE if key not in alive else UPDATE if key in before else INSERT
        expected.setdefault(key, []).append((operation, description))
assert len({o for versions in expected.values() for o, _ in versions}) == 3
for key, versions in expected.items():
    found = s.query(WidgetVersion).filter_by(uuid=key).order_by(WidgetVersion.transaction_id).all()
    assert told(found) == versions, (key, told(found), versions)
    for earlier, later in zip(found, found[1:]):
        assert earlier.end_transaction_id == later.transaction_id
        assert earlier.next is later and later.previous is earlier
    assert found[0].previous is None and found[-1].next is None
    assert found[-1].end_transaction_id is None

# The views read by index the versions of one row.
s.execute(sa.text("INSERT INTO poser_widget (uuid, description) SELECT 'n' || n, n FROM generate_series(1, 5000) AS n"))
s.execute(sa.text("UPDATE poser_widget SET active = false WHERE uuid LIKE 'n%'"))
s.execute(sa.text("ANALYZE poser_widget_version"))
for query in (s.query(WidgetVersion).filter_by(uuid="n7"),
              s.query(WidgetVersion).filter_by(uuid="n7", end_transaction_id=1),
              s.query(WidgetVersion).filter_by(uuid="n7", transaction_id=1),
              s.query(WidgetVersion).filter(WidgetVersion.uuid.in_(["n7", "n8"]))):
    plan = "\n".join(s.execute(sa.text("EXPLAIN (COSTS OFF) " + str(query.statement.compile(
        engine, compile_kwargs={"literal_binds": True})))).scalars())
    assert re.search(r"poser_widget_version_idx_key.*\n.*Index Cond: .*uuid", plan), plan
    assert "Seq Scan" not in plan, plan
s.rollback()
s.close()

# A reader needs privileges on the tables, too, and sees what policies show it.
with engine.connect() as connection:
    def rows(query):
        return connection.execute(sa.text(query)).scalars().all()

    with connection.begin() as whole:
        connection.execute(sa.text("""
            CREATE ROLE poser_clients_reader;
            GRANT USAGE ON SCHEMA poser_continuum TO poser_clients_reader;
            GRANT SELECT ON ALL TABLES IN SCHEMA poser_continuum TO poser_clients_reader;
            SET LOCAL ROLE poser_clients_reader"""))
        for view in "poser_widget_version", "poser_component_version", "transaction":
            savepoint = connection.begin_nested()
            try:
                rows(f"SELECT count(*) FROM poser_continuum.{view}")
                raise AssertionError(f"{view} is read")
            except sa.exc.ProgrammingError as error:
                assert error.orig.pgcode == "42501", error
            savepoint.rollback()
        connection.execute(sa.text("""
            RESET ROLE;
            GRANT SELECT ON poser_widget_version TO poser_clients_reader;
            ALTER TABLE poser_widget_version ENABLE ROW LEVEL SECURITY;
            CREATE POLICY own ON poser_widget_version USING (uuid = 'clock');
            SET LOCAL ROLE poser_clients_reader"""))
        assert set(rows("SELECT uuid FROM poser_continuum.poser_widget_version")) == {"clock"}
        whole.rollback()
