# A program that knows only keys of one column, as many admins do, edits a row of a batch.
# It takes the tables as the catalogs describe them.  It writes the row that it has read,
# and no other row of the batch.

import sqlalchemy as sa
from sqlalchemy.ext.automap import automap_base

from rattail.db import Session, engine

metadata = sa.MetaData()
metadata.reflect(engine, only=["poser_batch", "poser_batch_row"])
Base = automap_base(metadata=metadata)
Base.prepare()
Batch = Base.classes.poser_batch
Row = Base.classes.poser_batch_row
s = Session()


def rows():
    s.expire_all()
    return {r.row_id: (r.batch_uuid, r.sequence, r.new, r.removed)
            for r in s.query(Row)}


def count(uuid):
    return s.query(Batch.row_count).filter_by(uuid=uuid).scalar()


# the key that the catalogs name has one column, made from the two others
inspector = sa.inspect(engine)
key = inspector.get_pk_constraint("poser_batch_row")
assert key["constrained_columns"] == ["row_id"]
assert [c.name for c in sa.inspect(Row).primary_key] == ["row_id"]
assert ["batch_uuid", "sequence"] in [
    u["column_names"]
    for u in inspector.get_unique_constraints("poser_batch_row")]
assert Row.__table__.c.row_id.computed.persisted

# rows are added without a key, and get it from the database
s.add_all([Batch(uuid="november", target="poser_widget"),
           Batch(uuid="november.1", target="poser_widget")])
s.flush()
added = [Row(batch_uuid=batch, sequence=n, operation="update",
             key={"uuid": f"w{n}"}, new={"description": "New"},
             status="ready", removed=False)
         for batch in ("november", "november.1") for n in range(1, 21)]
s.add_all(added)
s.flush()
assert {r.row_id for r in added} == {
    f"{batch}.{n}" for batch in ("november", "november.1")
    for n in range(1, 21)}
s.commit()
before = rows()
assert len(before) == 40
assert (count("november"), count("november.1")) == (20, 20)

# one row is found by its key, edited and saved; the statement has this key alone
statements = []


@sa.event.listens_for(engine, "before_cursor_execute")
def keep(connection, cursor, statement, parameters, context, executemany):
    statements.append(statement)


row = s.get(Row, "november.1")
assert (row.batch_uuid, row.sequence) == ("november", 1)
row.new = {"description": "Edited"}
row.removed = True
s.commit()
(update,) = [q for q in statements if q.startswith("UPDATE")]
assert "WHERE poser_batch_row.row_id = " in update, update
assert "batch_uuid" not in update, update
after = rows()
assert after.pop("november.1") \
    == ("november", 1, {"description": "Edited"}, True)
before.pop("november.1")
assert after == before, "other rows of the batch have changed"
assert (count("november"), count("november.1")) == (19, 20)

# one row is deleted
s.delete(s.get(Row, "november.1.7"))
s.commit()
before.pop("november.1.7")
after = rows()
after.pop("november.1")
assert after == before
assert (count("november"), count("november.1")) == (19, 19)

# the key is not to be written
row = s.get(Row, "november.2")
row.row_id = "november.3"
try:
    s.commit()
except sa.exc.ProgrammingError as e:
    assert e.orig.pgcode == "428C9", e.orig.pgcode
    s.rollback()
else:
    raise AssertionError("the key was written")
assert (count("november"), len(rows())) == (19, 39)
assert s.execute(sa.text("SELECT * FROM poser_check()")).all() == []
s.close()
