# SQLAlchemy's ORM writes tables of its own that have a history, one with a composite
# key.  The history's functions return each change.  An earlier state is read as
# objects, and reverted to.

import datetime
import decimal

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import postgresql

from rattail.db import Session, engine

Base = orm.declarative_base()


class Invoice(Base):
    """
    An invoice with its lines.
    """
    __tablename__ = "invoice"

    id = sa.Column(sa.Integer(), primary_key=True)
    customer = sa.Column(sa.String(length=40), nullable=False)
    issued = sa.Column(sa.Date())
    lines = orm.relationship("Line", cascade="all, delete-orphan",
                             order_by="Line.line")


class Line(Base):
    """
    A line of an invoice, with a key of two columns.
    """
    __tablename__ = "invoice_line"

    invoice_id = sa.Column(sa.ForeignKey(Invoice.id), primary_key=True)
    line = sa.Column(sa.Integer(), primary_key=True)
    item = sa.Column(sa.String(length=40), nullable=False)
    price = sa.Column(sa.Numeric(10, 2))
    tags = sa.Column(postgresql.ARRAY(sa.Text()))
    details = sa.Column(postgresql.JSON())


HISTORY = (
    sa.column("change_id", sa.BigInteger()),
    sa.column("transaction_id", sa.BigInteger()),
    sa.column("issued_at", sa.DateTime(timezone=True)),
    sa.column("username", sa.Text()),
    sa.column("role_name", sa.Text()),
    sa.column("comment", sa.Text()),
    sa.column("operation", sa.Text()),
    sa.column("changed", postgresql.ARRAY(sa.Text())),
    sa.column("old", postgresql.JSONB()),
    sa.column("new", postgresql.JSONB()),
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


def history(s, cls, **match):
    """The changes of the rows that match, newest first."""
    s.flush()
    table = sa.func.poser_history(
        sa.cast(cls.__tablename__, postgresql.REGCLASS),
        sa.cast(match, postgresql.JSONB)).table_valued(*HISTORY)
    return s.execute(sa.select(table)).all()


def told(rows):
    return [(r.operation, r.changed) for r in rows]


def scalar(s, query, **parameters):
    return s.execute(sa.text(query), parameters).scalar()


Base.metadata.create_all(engine)
with engine.begin() as connection:
    for cls in Invoice, Line:
        connection.execute(
            sa.text("SELECT poser_track(CAST(:name AS regclass))"),
            {"name": cls.__tablename__})
    versions = connection.execute(sa.text(
        "SELECT CAST(target AS text), CAST(versions AS text), key, recording"
        " FROM poser_tables ORDER BY 1")).all()
assert ("invoice_line", "invoice_line_version", ["invoice_id", "line"], True) \
    in versions, versions

# a unit of work of three objects, and one of two changes in two flushes
s = session(runas="alice", comment="opening")
first = Invoice(customer="Ann", issued=datetime.date(2026, 11, 1), lines=[
    Line(line=1, item="Pen", price=decimal.Decimal("1.50"), tags=["a", "b"],
         details={"b": 1, "a": [1, None]}),
    Line(line=2, item="Ink", price=decimal.Decimal("7"))])
s.add(first)
s.commit()
number = first.id
rows = history(s, Line, invoice_id=number, line=1)
assert told(rows) == [("insert", None)], rows
assert rows[0].old is None
assert rows[0].new == {
    "invoice_id": number, "line": 1, "item": "Pen", "price": 1.5,
    "tags": ["a", "b"], "details": {"b": 1, "a": [1, None]}}, rows[0].new
assert (rows[0].username, rows[0].comment) == ("alice", "opening")
opened = rows[0].transaction_id
assert {r.transaction_id for r in history(s, Line, invoice_id=number)} \
    == {opened}
first.lines[0].price += 1
s.flush()
first.lines[0].details = {"b": 2}
s.commit()
assert told(history(s, Line, invoice_id=number, line=1)) == [
    ("update", ["details"]), ("update", ["price"]), ("insert", None)]
s.close()

# an UPDATE that changes nothing makes no version
s = session()
assert s.query(Line).update({"item": Line.item},
                            synchronize_session=False) == 2
s.commit()
assert len(history(s, Line, invoice_id=number)) == 4
s.close()

# a line gets another number, one goes, one comes: the history of the invoice's lines has
# all of them, also by a part of the key
s = session(runas="bob")
first = s.get(Invoice, number)
first.lines[1].line = 3
s.flush()
s.delete(first.lines[0])
s.flush()
s.expire_all()
first.lines.append(Line(line=4, item="Ruler"))
s.commit()
rows = history(s, Line, invoice_id=number)
by_bob = [r for r in rows if r.username == "bob"]
assert sorted((r.operation, (r.new or r.old)["line"]) for r in by_bob) == [
    ("delete", 1), ("delete", 2), ("insert", 3), ("insert", 4)], by_bob
assert len(rows) == 8
s.close()

# a savepoint and a transaction that are rolled back leave nothing
s = session(runas="carol")
first = s.get(Invoice, number)
savepoint = s.begin_nested()
first.customer = "Nested"
s.flush()
assert told(history(s, Invoice, id=number))[0] == ("update", ["customer"])
savepoint.rollback()
assert len(history(s, Invoice, id=number)) == 1
first.customer = "Rolled back"
s.flush()
s.rollback()
assert len(history(s, Invoice, id=number)) == 1

# in bulk, without objects: each row has its version
s.bulk_insert_mappings(Line, [
    dict(invoice_id=number, line=n, item=f"Item {n}") for n in range(10, 60)])
s.query(Line).filter(Line.line >= 10).update(
    {"price": Line.line * 2}, synchronize_session=False)
s.query(Line).filter(Line.line >= 20).delete(synchronize_session=False)
s.commit()
rows = history(s, Line, invoice_id=number, line=20)
assert told(rows) == [("delete", []), ("update", ["price"]),
                      ("insert", None)], rows
assert (rows[0].new, rows[0].old["price"]) == (None, 40), rows
# by a column that is no part of the key
assert [r.operation for r in history(s, Line, item="Item 30")] \
    == ["delete", "update", "insert"]
s.close()

# earlier states as objects, after two transactions, which get distinct times
s = session()
for n, transaction in enumerate(
        s.execute(sa.text("SELECT id FROM poser_transaction ORDER BY id"))
        .scalars().all()):
    s.execute(sa.text("UPDATE poser_transaction SET issued_at = :at"
                      " WHERE id = :id"),
              {"at": f"2020-01-01 00:{n:02}:00+00", "id": transaction})
    if transaction == opened:
        opened_at = f"2020-01-01 00:{n:02}:30+00"
s.commit()
past = s.query(Line).from_statement(sa.text(
    "SELECT * FROM poser_as_of(NULL::invoice_line, :at,"
    " jsonb_build_object('invoice_id', CAST(:id AS integer)))"
    " ORDER BY line")).params(at=opened_at, id=number).all()
assert [(p.line, p.item, p.price, p.tags, p.details) for p in past] == [
    (1, "Pen", decimal.Decimal("1.50"), ["a", "b"],
     {"b": 1, "a": [1, None]}),
    (2, "Ink", decimal.Decimal("7.00"), None, None)], past
s.expunge_all()
s.close()

# a revert of all lines of the invoice, in the session that has the objects: lines come
# back, and those that came later go
s = session(runas="dave", comment="regret")
first = s.get(Invoice, number)
assert len(first.lines) == 12, len(first.lines)
changed = scalar(s, "SELECT poser_revert('invoice_line',"
                 " jsonb_build_object('invoice_id', CAST(:id AS integer)),"
                 " :transaction)", id=number, transaction=opened)
assert changed == 14, changed
s.expire_all()
assert [(line.line, line.item, line.price) for line in first.lines] == [
    (1, "Pen", decimal.Decimal("1.50")), (2, "Ink", decimal.Decimal("7.00"))]
s.commit()
rows = [r for r in history(s, Line, invoice_id=number)
        if r.username == "dave"]
assert len(rows) == 14 and {r.comment for r in rows} == {"regret"}
assert len({r.transaction_id for r in rows}) == 1

# an unknown column is an error of the driver, and so is an unknown transaction
for match, transaction in ({"colour": 1}, opened), ({"line": 1}, -1):
    try:
        scalar(s, "SELECT poser_revert('invoice_line', CAST(:match AS jsonb),"
               " :transaction)",
               match=str(match).replace("'", '"'), transaction=transaction)
    except sa.exc.DBAPIError as e:
        assert e.orig.pgcode in ("22023", "42703"), e.orig.pgcode
    else:
        raise AssertionError(f"no error: {match} {transaction}")
    s.rollback()
assert s.execute(sa.text("SELECT * FROM poser_check()")).all() == []

# a model that loses its key's objects by a cascade
s.delete(s.get(Invoice, number))
s.commit()
assert [r.operation for r in history(s, Line, invoice_id=number)[:2]] \
    == ["delete", "delete"]
assert s.execute(sa.text("SELECT * FROM poser_check()")).all() == []
s.close()
