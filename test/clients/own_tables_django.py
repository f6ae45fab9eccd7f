# A Django application has tables with a history.  Its own migrate creates them, calls
# poser_track() by RunSQL, and goes forward and back.  The ORM's writes are recorded, and
# so are those of Django's admin, in the name of the user that has logged in.  History is
# read by a query and by a model that Django does not manage.  makemigrations proposes
# nothing.

import json
import os

import django
from django.core.management import call_command
from django.db import connection, transaction

os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
django.setup()

from django.contrib.auth.models import User     # noqa: E402
from django.test import Client                  # noqa: E402
from django.test.utils import setup_test_environment    # noqa: E402

from shop.models import Customer, CustomerVersion, Line  # noqa: E402

setup_test_environment()


def query(statement, *parameters):
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row)) for row in cursor.fetchall()]


def history(table, **match):
    """The changes of the rows that match, oldest first, without the columns that the
    table had before a migration was undone."""
    rows = query("SELECT * FROM poser_history(%s, %s) ORDER BY change_id",
                 table, json.dumps(match))
    for row in rows:
        for side in "old", "new":
            if isinstance(row[side], str):      # Django 3.2 leaves jsonb as text
                row[side] = json.loads(row[side])
            if row[side] is not None:
                row[side] = {name: value for name, value in row[side].items()
                             if not name.endswith("_1")}
    return rows


def told(rows):
    return [(r["operation"], r["changed"]) for r in rows]


def runas(name, comment=None):
    """Like SET LOCAL, which takes no parameters."""
    query("SELECT set_config('poser.runas', %s, true),"
          " set_config('poser.comment', %s, true)", name, comment or "")


def migrate(*where):
    call_command("migrate", *where, verbosity=0, interactive=False)


def nothing_to_migrate():
    call_command("makemigrations", check_changes=True, dry_run=True,
                 verbosity=0, interactive=False)    # exits if there is


def well():
    assert query("SELECT * FROM poser_check()") == []
    tables = query("SELECT target::text, excluded, unrecorded, recording,"
                   " problem FROM poser_tables"
                   " WHERE target::text LIKE 'shop%%' ORDER BY 1")
    assert tables == [
        dict(target="shop_customer", excluded=["pw", "changed_at"],
             unrecorded=[], recording=True, problem=None),
        dict(target="shop_line", excluded=[], unrecorded=[], recording=True,
             problem=None)], tables


# rows that are there before the tables have a history
migrate("shop", "0001")
query("INSERT INTO shop_customer (email, pw, notes, changed_at)"
      " VALUES ('old@x', 'secret', '', now()) RETURNING id")
migrate("shop", "0002")
well()
query("UPDATE shop_customer SET notes = 'before' RETURNING id")
assert told(history("shop_customer", email="old@x")) \
    == [("insert", None), ("update", ["notes"])]

# forward: with columns, a name and a type that change, and rows that the migration
# itself writes; then back, and forward again
migrate()
nothing_to_migrate()
well()
old = Customer.objects.get()
assert (old.mail, old.vat, old.active) == ("old@x", "?", True)
rows = history("shop_customer", id=old.id)
assert rows[0]["new"]["mail"] == "old@x", rows
assert rows[-1]["new"] == {"id": old.id, "mail": "old@x", "notes": "before",
                           "vat": "?", "active": True}, rows
old.notes = "after"
old.save()
assert told(history("shop_customer", id=old.id))[-1] == ("update", ["notes"])
migrate("shop", "0002")
well()
query("UPDATE shop_customer SET email = 'old@y' RETURNING id")
assert told(history("shop_customer", id=old.id))[-1] == ("update", ["email"])
migrate()
nothing_to_migrate()
well()
old.refresh_from_db()
assert (old.mail, old.notes, old.vat) == ("old@y", "after", "?")

# create, save, and a save that changes nothing but what is excluded
with transaction.atomic():
    runas("alice", "opening")
    ann = Customer.objects.create(mail="ann@x", pw="secret")
    pen = Line.objects.create(customer=ann, item="Pen", price="1.50",
                              details={"b": 1, "a": [None]})
ann.notes = "first"
ann.save()
ann.pw = "changed"
ann.save()
rows = history("shop_customer", id=ann.id)
assert told(rows) == [("insert", None), ("update", ["notes"])], rows
assert (rows[0]["username"], rows[0]["comment"]) == ("alice", "opening")
# the name was the transaction's
me = query("SELECT session_user::text AS me")[0]["me"]
assert (rows[1]["username"], rows[1]["comment"]) == (me, None)
assert rows[0]["new"] == {"id": ann.id, "mail": "ann@x", "notes": "",
                          "vat": "", "active": True}, rows
(row,) = history("shop_line", id=pen.id)
assert row["transaction_id"] == rows[0]["transaction_id"]
assert row["new"] == {"id": pen.id, "customer_id": ann.id, "item": "Pen",
                      "price": 1.5, "details": {"a": [None], "b": 1}}, row
opened = row["transaction_id"]

# in bulk
with transaction.atomic():
    runas("bob")
    lines = Line.objects.bulk_create([
        Line(customer=ann, item=f"Item {n}", price=n) for n in range(20)])
    for line in lines:
        line.price += 1
    Line.objects.bulk_update(lines, ["price"])
    Line.objects.filter(price__gt=10, customer=ann).exclude(
        id=pen.id).delete()
    Line.objects.bulk_create([Line(customer=ann, item="Item 1")],
                             ignore_conflicts=True)
rows = history("shop_line", customer_id=ann.id)
assert [r["operation"] for r in rows] \
    == ["insert"] * 21 + ["update"] * 20 + ["delete"] * 10, told(rows)
assert {r["username"] for r in rows[1:]} == {"bob"}
assert rows[-1]["new"] is None and rows[-1]["old"]["price"] > 10, rows[-1]

# blocks that are rolled back leave nothing, within a block that is not
with transaction.atomic():
    runas("carol")
    ann.notes = "kept"
    ann.save()
    try:
        with transaction.atomic():
            ann.notes = "rolled back"
            ann.save()
            Line.objects.create(customer=ann, item="Pen")   # is there
    except django.db.IntegrityError:
        pass
    else:
        raise AssertionError("no error")
rows = history("shop_customer", id=ann.id)
assert [r["new"]["notes"] for r in rows] == ["", "first", "kept"], rows
assert rows[-1]["username"] == "carol"

# the model of the versions: a change's own values, and those of changes with a flag
versions = CustomerVersion.objects.filter(customer_id=ann.id)
assert [(v.operation_type, v.notes, v.mail, v.active) for v in versions] == [
    (0, "", "ann@x", True), (1, "first", "ann@x", True),
    (1, "kept", "ann@x", True)]
assert versions.first().transaction_id == opened
assert [r["change_id"] for r in rows] == [v.change_id for v in versions]
try:
    with transaction.atomic():
        versions.update(notes="forged")
except django.db.Error as e:
    assert e.__cause__.pgcode == "55000", e.__cause__.pgcode
else:
    raise AssertionError("history was changed")

# earlier rows as objects
(then,) = Customer.objects.raw(
    "SELECT * FROM poser_as_of(NULL::shop_customer, %s, %s)",
    [rows[1]["issued_at"], json.dumps({"id": ann.id})])
assert (then.notes, then.mail, then.vat) == ("first", "ann@x", ""), vars(then)

# Django's admin, by its own forms
User.objects.create_superuser("dora", password="x")
client = Client()
assert client.login(username="dora", password="x")


def form(customer=None, lines=(), **fields):
    """What the browser sends: all fields, and those of the lines."""
    data = {"mail": "", "pw": "", "notes": "", "vat": "", "active": "on",
            "line_set-TOTAL_FORMS": len(lines),
            "line_set-INITIAL_FORMS": sum("id" in line for line in lines)}
    data.update(fields)
    for n, line in enumerate(lines):
        data.update({f"line_set-{n}-{name}": value
                     for name, value in line.items()})
    where = f"{customer.id}/change" if customer else "add"
    response = client.post(f"/admin/shop/customer/{where}/", data)
    assert response.status_code == 302, response.context["errors"]


form(mail="eve@x", notes="by admin",
     lines=[dict(item="Lamp", price="9.99", details='{"a": 1}')])
eve = Customer.objects.get(mail="eve@x")
lamp = eve.line_set.get()
form(eve, mail="eve@x", notes="by admin, again",
     lines=[dict(id=lamp.id, customer=eve.id, item="Lamp", price="8.88",
                 details='{"a": 1}')])
form(eve, mail="eve@x", notes="by admin, again",      # nothing has changed
     lines=[dict(id=lamp.id, customer=eve.id, item="Lamp", price="8.88",
                 details='{"a": 1}')])
response = client.post(f"/admin/shop/customer/{eve.id}/delete/",
                       {"post": "yes"})
assert response.status_code == 302, response.content.decode()
rows = history("shop_customer", id=eve.id)
assert told(rows) == [("insert", None), ("update", ["notes"]),
                      ("delete", [])], rows
lines = history("shop_line", customer_id=eve.id)
assert told(lines)[:2] == [("insert", None), ("update", ["price"])], lines
assert lines[2]["operation"] == "delete" and len(lines) == 3, lines
assert {r["username"] for r in rows + lines} == {"dora"}, rows
for n in range(3):      # a request is a transaction
    assert rows[n]["transaction_id"] == lines[n]["transaction_id"], n

# undelete her, with her lines
with transaction.atomic():
    runas("frank", "by mistake")
    before = rows[1]["transaction_id"]
    for table, match in ("shop_customer", {"id": eve.id}), \
            ("shop_line", {"customer_id": eve.id}):
        (row,) = query("SELECT poser_revert(%s, %s, %s) AS rows",
                       table, json.dumps(match), before)
        assert row["rows"] == 1, row
back = Customer.objects.get(id=eve.id)
assert (back.mail, back.notes) == ("eve@x", "by admin, again")
assert str(back.line_set.get().price) == "8.88"
rows = history("shop_customer", id=eve.id)
assert (rows[-1]["operation"], rows[-1]["username"]) == ("insert", "frank")

# the cascade that Django does itself
back.delete()
assert history("shop_line", customer_id=eve.id)[-1]["operation"] == "delete"
well()

# all the way back: the tables go, and their history stays
count = CustomerVersion.objects.count()
migrate("shop", "zero")
assert query("SELECT target FROM poser_tables"
             " WHERE target::text LIKE 'shop%%'") == []
assert query("SELECT count(*) FROM shop_customer_version")[0]["count"] == count
migrate()
well()
ann = Customer.objects.create(mail="ann@z")
assert history("shop_customer", mail="ann@z")[-1]["new"]["id"] == ann.id
assert history("shop_customer", mail="ann@x") != []
