# A program with an ORM imports through a staging table, and has batches reviewed:
# header and rows are mapped as classes, edited as objects, and executed.  What the
# server refuses arrives as the exception for its SQLSTATE, and names the wrong rows.

import datetime

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.mutable import MutableDict

from rattail.db import Session, engine
from rattail.db.model import Base
from poser.db import model


class Batch(Base):
    """
    An import under review.  The database sets columns with a FetchedValue.
    """
    __tablename__ = "poser_batch"

    uuid = sa.Column(sa.String(length=32), primary_key=True,
                     server_default=sa.FetchedValue())
    id = sa.Column(sa.BigInteger(), server_default=sa.FetchedValue())
    target = sa.Column(postgresql.REGCLASS(), nullable=False)
    key = sa.Column(postgresql.ARRAY(sa.Text()))
    description = sa.Column(sa.Text())
    created = sa.Column(sa.DateTime(timezone=True),
                        server_default=sa.FetchedValue())
    created_by = sa.Column(sa.Text(), server_default=sa.FetchedValue())
    role_name = sa.Column(sa.Text(), server_default=sa.FetchedValue())
    row_count = sa.Column(sa.BigInteger(), server_default=sa.FetchedValue())
    complete = sa.Column(sa.Boolean(), server_default=sa.FetchedValue())
    executed = sa.Column(sa.DateTime(timezone=True))
    executed_by = sa.Column(sa.Text())
    is_mutable = sa.Column(sa.Boolean(), server_default=sa.FetchedValue(),
                           server_onupdate=sa.FetchedValue())
    status = sa.Column(sa.Text())
    notes = sa.Column(sa.Text())
    params = sa.Column(MutableDict.as_mutable(
        postgresql.JSONB(none_as_null=True)))

    rows = orm.relationship(
        "BatchRow", order_by="BatchRow.sequence", backref="batch",
        cascade="all, delete-orphan", passive_deletes=True)


class BatchRow(Base):
    """
    A change of one row of the batch's target.
    """
    __tablename__ = "poser_batch_row"

    batch_uuid = sa.Column(sa.ForeignKey("poser_batch.uuid"),
                           primary_key=True)
    sequence = sa.Column(sa.BigInteger(), primary_key=True,
                         autoincrement=False)
    operation = sa.Column(sa.Text(), server_default=sa.FetchedValue())
    key = sa.Column(MutableDict.as_mutable(postgresql.JSONB()),
                    nullable=False)
    old = sa.Column(MutableDict.as_mutable(
        postgresql.JSONB(none_as_null=True)))
    new = sa.Column(MutableDict.as_mutable(
        postgresql.JSONB(none_as_null=True)))
    status = sa.Column(sa.Text(), server_default=sa.FetchedValue())
    status_text = sa.Column(sa.Text())
    removed = sa.Column(sa.Boolean(), server_default=sa.FetchedValue())


staging = sa.Table(
    "staging", sa.MetaData(),
    sa.Column("uuid", sa.Text()),
    sa.Column("colour", sa.Text()),
    sa.Column("description", sa.Text()),
    sa.Column("active", sa.Boolean()),
    prefixes=["TEMPORARY"])
parts = sa.Table(
    "parts", sa.MetaData(),
    sa.Column("item_code", sa.Text()),
    sa.Column("widget_uuid", sa.Text()),
    sa.Column("description", sa.Text()),
    prefixes=["TEMPORARY"])


@sa.event.listens_for(Session, "after_begin")
def in_the_name_of(session, transaction, connection):
    connection.execute(
        sa.text("SELECT set_config('poser.runas', :name, true)"),
        {"name": session.info["runas"]})


def rows(query, **parameters):
    s.flush()
    return [tuple(row) for row in s.execute(sa.text(query), parameters)]


def value(query, **parameters):
    (row,) = rows(query, **parameters)
    return row[0] if len(row) == 1 else row


def stage(table, *values):
    s.execute(table.delete())
    s.execute(table.insert(), [
        dict(zip(table.columns.keys(), v)) for v in values])


def widgets():
    s.expire_all()
    return [(w.uuid, w.description, w.active)
            for w in s.query(model.Widget).order_by(model.Widget.uuid)]


def refused(exception, name, query, *offenders, **parameters):
    """
    Runs a query that must fail, in a savepoint: with an exception of this class,
    for an exception of the driver with this class name, and with these words in its
    message.  Returns the driver's exception.
    """
    savepoint = s.begin_nested()
    try:
        value(query, **parameters)
    except sa.exc.DBAPIError as e:
        assert type(e) is exception, repr(e)
        assert type(e.orig).__name__ == name, repr(e.orig)
        for offender in offenders:
            assert offender in str(e.orig), (offender, str(e.orig))
        error = e.orig
    else:
        raise AssertionError(f"no {name}: {query}")
    savepoint.rollback()
    return error


# One session on one connection, which has the temporary tables
connection = engine.connect()
s = Session(bind=connection, info={"runas": "importer"})

#
# Importing through a staging table
#
s.add_all([
    model.Widget(uuid="bell", description="Bell"),
    model.Widget(uuid="clock", description="Clock"),
    model.Widget(uuid="door", description="Door", active=False)])
s.commit()
staging.create(s.connection())
parts.create(s.connection())
stage(staging,
      ("clock", "red", "Wall clock", True),
      ("bell", "red", "Bell", True),
      ("lamp", None, "Lamp", False))

# the differences as objects of Python
assert rows(
    "SELECT * FROM poser_import_diff('staging', 'poser_widget',"
    " deletes => true) ORDER BY key") == [
    ("update", {"uuid": "clock"},
     {"description": "Clock"}, {"description": "Wall clock"}),
    ("delete", {"uuid": "door"},
     {"description": "Door", "active": False}, None),
    ("create", {"uuid": "lamp"},
     None, {"description": "Lamp", "active": False})]

# the import; a session that has the objects sees the changes after a refresh
clock = s.get(model.Widget, "clock")
assert clock.description == "Clock"
before = dict(rows("SELECT uuid, xmin::text FROM poser_widget"))
function = sa.func.poser_import("staging", "poser_widget").table_valued(
    "created", "updated", "deleted", "unchanged")
result = s.execute(sa.select(function)).one()
assert (result.created, result.updated, result.deleted, result.unchanged) \
    == (1, 1, 0, 1)
s.refresh(clock)
assert clock.description == "Wall clock"
s.commit()
assert widgets() == [
    ("bell", "Bell", True), ("clock", "Wall clock", True),
    ("door", "Door", False), ("lamp", "Lamp", False)]
after = dict(rows("SELECT uuid, xmin::text FROM poser_widget"))
assert {uuid for uuid in after if after[uuid] != before.get(uuid)} \
    == {"clock", "lamp"}

# widgets and their components in one transaction, under one name
stage(parts, ("hand", "clock", "Hand"), ("shade", "lamp", "Shade"))
assert value("SELECT * FROM poser_import('staging', 'poser_widget',"
             " deletes => true)") == (0, 0, 1, 3)
assert value("SELECT * FROM poser_import('parts', 'poser_component',"
             " key => :key)", key=["item_code", "widget_uuid"]) \
    == (2, 0, 0, 0)
assert s.get(model.Widget, "lamp").components[0].description == "Shade"
s.commit()
newest = value("SELECT max(id) FROM poser_transaction")
assert rows(
    "SELECT username, operation, relation FROM poser_transaction AS t,"
    " LATERAL (SELECT 'widget' AS relation, operation_type AS operation"
    " FROM poser_widget_version WHERE transaction_id = t.id UNION ALL"
    " SELECT 'component', operation_type FROM poser_component_version"
    " WHERE transaction_id = t.id) AS v WHERE id = :id"
    " ORDER BY relation", id=newest) == [
    ("importer", 0, "component"), ("importer", 0, "component"),
    ("importer", 2, "widget")]
assert value("SELECT component_count FROM poser_widget_get('lamp')") == 1
s.commit()

# errors, and their exceptions
state = widgets()
IMPORT = "SELECT * FROM poser_import('staging', 'poser_widget')"
stage(staging,
      ("bell", None, "Small bell", True), ("nail", None, "Nail", True),
      ("nail", None, "Long nail", True))
e = refused(sa.exc.IntegrityError, "UniqueViolation", IMPORT, "uuid", "nail")
assert e.pgcode == "23505"
assert "staging" in e.diag.message_primary
assert "poser_widget" in e.diag.message_primary
stage(staging, (None, None, "No key", True))
refused(sa.exc.IntegrityError, "NotNullViolation", IMPORT, "uuid")
stage(staging,
      ("bell", None, "Small bell", True), ("hook", None, None, True))
refused(sa.exc.IntegrityError, "NotNullViolation", IMPORT,
        "hook", "description")
stage(staging, *(
    (f"long{n}", None, "x" * 256, True) for n in range(1, 8)))
e = refused(sa.exc.DataError, "StringDataRightTruncation", IMPORT,
            "long1", "long5", "description", "varying(255)")
assert "7 rows" in e.diag.message_primary
assert "long6" not in e.diag.message_detail
assert "2 more" in e.diag.message_detail
assert e.diag.message_detail.startswith('7 rows, column "description": ')
# problems are counted by kind, and all rows of a duplicate key are counted
stage(staging,
      ("nail", None, "Nail", True), ("nail", None, "Long nail", True),
      ("long", None, "x" * 256, True), (None, None, "No key", True))
e = refused(sa.exc.IntegrityError, "UniqueViolation", IMPORT,
            "2 rows: ", '1 row, column "description": ',
            '1 row, column "uuid": ')
assert "4 rows" in e.diag.message_primary
# a text that cannot be read as the target's type is an error of its row
s.execute(sa.text("CREATE TEMPORARY TABLE answers AS SELECT uuid::text, active"
                  " FROM (VALUES ('bell', 'yes'), ('nail', 'maybe'))"
                  " AS v (uuid, active)"))
e = refused(sa.exc.DataError, "InvalidTextRepresentation",
            "SELECT * FROM poser_import('answers', 'poser_widget')",
            "nail", "active", "maybe")
assert "1 row" in e.diag.message_primary
e = refused(sa.exc.ProgrammingError, "UndefinedColumn",
            "SELECT * FROM poser_import('parts', 'poser_component')", "uuid")
assert "key" in e.diag.message_hint and "view" in e.diag.message_hint
stage(parts, ("hand", "clock", "Hour hand"), ("rope", "tower", "Rope"))
e = refused(sa.exc.IntegrityError, "ForeignKeyViolation",
            "SELECT * FROM poser_import('parts', 'poser_component',"
            " key => '{item_code,widget_uuid}')", "rope", "tower")
assert "hand" not in e.diag.message_detail
stage(staging, ("n1", None, "One", True), ("n2", None, "Two", True))
refused(sa.exc.OperationalError, "ProgramLimitExceeded",
        "SELECT * FROM poser_import('staging', 'poser_widget',"
        " max_create => 1)", "2", "max_create")
refused(sa.exc.ProgrammingError, "UndefinedColumn",
        "SELECT * FROM poser_import('staging', 'poser_widget',"
        " key => '{serial}')", "serial")
refused(sa.exc.ProgrammingError, "WrongObjectType",
        "SELECT * FROM poser_import('staging', 'poser_widget_summary')",
        "poser_widget_summary")
refused(sa.exc.DataError, "InvalidParameterValue",
        "SELECT * FROM poser_import('staging', 'poser_widget',"
        " max_total => -1)", "max_total")
savepoint = s.begin_nested()
s.execute(sa.text("SET LOCAL ROLE pg_read_all_data"))
refused(sa.exc.ProgrammingError, "InsufficientPrivilege", IMPORT,
        "poser_widget")
savepoint.rollback()
# nothing was changed, and the session goes on
assert widgets() == state
assert value(IMPORT) == (2, 0, 0, 0)
s.rollback()
assert widgets() == state
s.commit()

#
# A batch: made, populated, reviewed, compared again, executed
#
stage(staging,
      ("bell", None, "Large bell", True), ("clock", None, "Clock", False),
      ("lamp", None, "Lamp", False), ("key", None, "Key", True),
      ("nail", None, "Nail", True))
batch = Batch(target="poser_widget", description="November",
              params={"list": 11})
s.add(batch)
s.flush()
key = batch.uuid
assert len(key) == 32
assert (batch.target, batch.created_by, batch.row_count) \
    == ("poser_widget", "importer", 0)
assert batch.role_name == value("SELECT current_user::text")
assert (batch.complete, batch.executed, batch.is_mutable) \
    == (False, None, True)
assert batch.created == value("SELECT now()")

# from version 1.5 on, rows that are the same are staged only on request
all_rows = ", unchanged => true" if value(
    "SELECT extversion >= '1.5' FROM pg_extension WHERE extname = 'poser'"
) else ""
assert value(f"SELECT poser_batch_populate(:batch, 'staging'{all_rows})",
             batch=key) == 5
s.expire_all()
assert (batch.key, batch.row_count) == (["uuid"], 5)
assert [(r.sequence, r.operation, r.key["uuid"], r.old, r.new)
        for r in batch.rows] == [
    (1, "update", "bell",
     {"description": "Bell"}, {"description": "Large bell"}),
    (2, "update", "clock",
     {"description": "Wall clock", "active": True},
     {"description": "Clock", "active": False}),
    (3, "unchanged", "lamp", {}, {}),
    (4, "create", "key", None, {"description": "Key", "active": True}),
    (5, "create", "nail", None, {"description": "Nail", "active": True})]
assert {(r.status, r.status_text, r.removed) for r in batch.rows} \
    == {("ready", None, False)}
s.commit()
assert widgets() == state

# one row is corrected in place, one is removed, one is added by hand
bell, clock, lamp, latch, nail = batch.rows
bell.new["description"] = "Tubular bell"
clock.removed = True
batch.rows.append(BatchRow(sequence=6, key={"uuid": "hook"},
                           new={"description": "Hook"}))
# and one gets a wrong value
nail.new["description"] = "Nail " * 60
batch.notes = "reviewed"
batch.params["checked"] = True
s.flush()
s.refresh(batch)
assert batch.row_count == 5
assert value("SELECT poser_batch_refresh(:batch)", batch=key) == 1
s.expire_all()
assert [(r.sequence, r.status) for r in batch.rows] == [
    (1, "ready"), (2, "ready"), (3, "ready"), (4, "ready"), (5, "error"),
    (6, "ready")]
assert "description" in nail.status_text
assert (batch.notes, batch.params) \
    == ("reviewed", {"list": 11, "checked": True})
s.commit()
EXECUTE = "SELECT * FROM poser_batch_execute(:batch)"
e = refused(sa.exc.OperationalError, "ObjectNotInPrerequisiteState", EXECUTE,
            "nail", "description", batch=key)
assert f'batch {batch.id} ("{key}")' in e.diag.message_primary
nail.new["description"] = "Long nail"
assert value("SELECT poser_batch_refresh(:batch)", batch=key) == 0
s.refresh(nail)
assert (nail.status, nail.status_text) == ("ready", None)

# complete: the rows can no longer be changed
batch.complete = True
s.flush()
assert batch.is_mutable is False
s.commit()
savepoint = s.begin_nested()
bell.new["description"] = "Too late"
try:
    s.flush()
except sa.exc.OperationalError as e:
    assert type(e.orig).__name__ == "ObjectNotInPrerequisiteState", e
else:
    raise AssertionError("a row of a complete batch was changed")
savepoint.rollback()
assert bell.new == {"description": "Tubular bell"}
s.commit()

# executed, in the name of the session that executes it
s.info["runas"] = "alice"
result = s.execute(sa.select(
    sa.func.poser_batch_execute(key).table_valued(
        "created", "updated", "deleted", "unchanged", "skipped"))).one()
assert tuple(result) == (3, 1, 0, 1, 0)
s.commit()
s.refresh(batch)
assert (batch.created_by, batch.executed_by) == ("importer", "alice")
assert isinstance(batch.executed, datetime.datetime)
assert (batch.is_mutable, batch.row_count) == (False, 5)
assert widgets() == [
    ("bell", "Tubular bell", True), ("clock", "Wall clock", True),
    ("hook", "Hook", True), ("key", "Key", True), ("lamp", "Lamp", False),
    ("nail", "Long nail", True)]
assert value(
    "SELECT username, operation, changed, description"
    " FROM poser_widget_history('bell') LIMIT 1") \
    == ("alice", "update", ["description"], "Tubular bell")
# only once
refused(sa.exc.OperationalError, "ObjectNotInPrerequisiteState", EXECUTE,
        batch=key)
refused(sa.exc.ProgrammingError, "UndefinedObject", EXECUTE, "no such",
        batch="no such")
s.commit()

#
# A batch of widgets that another session has changed since
#
stage(staging,
      ("bell", None, "Bell", True), ("clock", None, "Clock", True),
      ("hook", None, "Iron hook", True))
key = value("SELECT poser_batch_create('poser_widget', 'December')")
assert value("SELECT poser_batch_populate(:batch, 'staging')",
             batch=key) == 3
s.commit()
with Session(info={"runas": "bob"}) as other:
    other.get(model.Widget, "bell").description = "Bob's bell"
    other.get(model.Widget, "hook").active = False
    other.commit()
batch = s.get(Batch, key)
assert batch.description == "December"
refused(sa.exc.OperationalError, "ObjectNotInPrerequisiteState", EXECUTE,
        "bell", batch=key)
assert value("SELECT poser_batch_refresh(:batch)", batch=key) == 1
s.expire_all()
bell, clock, hook = batch.rows
assert [r.status for r in batch.rows] == ["conflict", "ready", "ready"]
for name in "description", "Tubular bell", "Bob's bell":
    assert name in bell.status_text, bell.status_text
s.commit()

# the row in conflict is skipped, the others are written
assert value("SELECT * FROM poser_batch_execute(:batch,"
             " skip_conflicts => true)", batch=key) == (0, 2, 0, 0, 1)
s.expire_all()
assert [r.status for r in batch.rows] == ["skipped", "ready", "ready"]
assert s.get(model.Widget, "bell").description == "Bob's bell"
hook = s.get(model.Widget, "hook")
assert (hook.description, hook.active) == ("Iron hook", False)
s.rollback()

# or the other change is overwritten, on request
s.refresh(bell)
bell.old = None
assert value("SELECT poser_batch_refresh(:batch)", batch=key) == 0
s.refresh(bell)
assert bell.old == {"description": "Bob's bell"}
assert value(EXECUTE, batch=key) == (0, 3, 0, 0, 0)
s.commit()
assert widgets()[0] == ("bell", "Bell", True)

# one batch is deleted as an object with its rows, the other is purged by age
s.delete(batch)
s.commit()
assert s.query(BatchRow).filter_by(batch_uuid=key).count() == 0
assert value("SELECT poser_batch_purge(:age)",
             age=datetime.timedelta(days=1)) == 0
s.query(Batch).update({"executed": Batch.executed
                       - datetime.timedelta(days=2)},
                      synchronize_session=False)
assert value("SELECT poser_batch_purge(:age)",
             age=datetime.timedelta(days=1)) == 1
assert s.query(Batch).count() == 0
s.commit()
assert rows("SELECT * FROM poser_check()") == []
s.close()
connection.close()
