# A Django application reads a maintained view by a model that Django does not manage.  Its
# own migrate creates the view, calls poser_maintain() by RunSQL, and goes forward and
# back.  The ORM joins, filters, orders, annotates and aggregates over it, and sees what it
# has written.  Django's tests work as ever: in a transaction that is rolled back, with
# tables that are truncated, and in a database that the test runner makes.

import os
import subprocess
import sys
import unittest
from decimal import Decimal

import django
from django.core.management import call_command
from django.db import connection, transaction
from django.db.models import (Count, DecimalField, ExpressionWrapper, F,
                              OuterRef, Subquery, Sum)
from django.test.utils import setup_test_environment

os.environ["DJANGO_SETTINGS_MODULE"] = "totals.settings"
django.setup()

from django.test import Client, TestCase, TransactionTestCase   # noqa: E402

from shop.models import Customer, Line          # noqa: E402
from totals.models import CustomerLines         # noqa: E402


def query(statement, *parameters):
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else None


def migrate(*where):
    call_command("migrate", *where, verbosity=0, interactive=False)


def well():
    """The view is maintained, and shows what its query gives."""
    assert query("SELECT view::text, parent::text, child::text, served, problem"
                 " FROM poser_views") == [
        ("shop_customer_lines", "shop_customer", "shop_line", True, None)]
    assert query("TABLE shop_customer_lines"
                 " EXCEPT TABLE shop_customer_lines_query") == []


def totals(customer):
    """By the relation, and by the ORM's own aggregates."""
    row = CustomerLines.objects.get(customer=customer)
    lines = customer.line_set.aggregate(n=Count("id"), priced=Count("price"),
                                        total=Sum("price"))
    found = (row.lines, row.priced, row.total)
    assert found == (lines["n"], lines["priced"], lines["total"] or 0), found
    well()
    return found


class InATransaction(TestCase):
    """Each test is a savepoint in a transaction, which is rolled back."""

    @classmethod
    def setUpTestData(cls):
        cls.customer = Customer.objects.create(mail="test@x")
        Line.objects.create(customer=cls.customer, item="First", price=1)

    def test_writes(self):
        self.assertEqual(totals(self.customer), (1, 1, 1))
        Line.objects.create(customer=self.customer, item="Second")
        self.assertEqual(totals(self.customer), (2, 1, 1))
        with self.assertRaises(django.db.IntegrityError):
            with transaction.atomic():
                Line.objects.filter(item="First").update(price=100)
                Line.objects.create(customer=self.customer, item="Second")
        self.assertEqual(totals(self.customer), (2, 1, 1))

    def test_sees_nothing_of_other_tests(self):
        self.assertEqual(totals(self.customer), (1, 1, 1))
        self.customer.delete()
        self.assertFalse(CustomerLines.objects.filter(
            customer=self.customer.id).exists())


class WithTruncatedTables(TransactionTestCase):
    """The tables are truncated after each test, and the view is empty then."""

    def one_test(self):
        self.assertEqual(CustomerLines.objects.count(), 0)
        customer = Customer.objects.create(mail="test@x")
        Line.objects.bulk_create([Line(customer=customer, item=str(n), price=n)
                                  for n in range(10)])
        self.assertEqual(totals(customer), (10, 10, 45))

    test_once = one_test
    test_twice = one_test


# the test runner imports this file again
if __name__ == "__main__":
    setup_test_environment()

    # rows that are there before the view
    migrate("shop", "0003")
    ann = Customer.objects.create(mail="ann@x")
    bob = Customer.objects.create(mail="bob@x")
    Line.objects.bulk_create([Line(customer=ann, item=f"Item {n}", price=n)
                              for n in range(5)])

    # forward, back, and forward again
    migrate()
    assert totals(ann) == (5, 5, 10)
    call_command("makemigrations", check_changes=True, dry_run=True,
                 verbosity=0, interactive=False)    # exits if there is a change
    migrate("totals", "0001")
    assert query("SELECT * FROM poser_views") == []
    assert query("SELECT relname FROM pg_class"
                 " WHERE relname LIKE 'shop_customer_lines%%'") == []
    ann.line_set.first().delete()
    migrate()
    assert totals(ann)[0] == 4
    assert totals(bob) == (0, 0, 0)

    # the ORM's writes, in blocks that are kept and rolled back
    with transaction.atomic():
        Line.objects.create(customer=bob, item="Pen", price="1.50")
        assert totals(bob) == (1, 1, Decimal("1.50"))
        try:
            with transaction.atomic():
                Line.objects.filter(customer=ann).update(customer=bob)
                assert totals(bob)[0] == 5
                Line.objects.create(customer=bob, item="Pen")   # is there
        except django.db.IntegrityError:
            pass
        else:
            raise AssertionError("no error")
        assert totals(bob) == (1, 1, Decimal("1.50"))
        lines = Line.objects.bulk_create([
            Line(customer=bob, item=f"Item {n}") for n in range(20)])
        for line in lines[:10]:
            line.price = 2
        Line.objects.bulk_update(lines, ["price"])
        assert totals(bob) == (21, 11, Decimal("21.50"))
        Line.objects.bulk_create([Line(customer=bob, item="Pen", price=9)],
                                 ignore_conflicts=True)
        Line.objects.filter(customer=bob, price=None).delete()
        assert totals(bob) == (11, 11, Decimal("21.50"))

    # from the parent: filtered, ordered, in one query, as a subquery
    carol = Customer.objects.create(mail="carol@x")
    assert list(Customer.objects.filter(totals__lines__gt=2)
                .order_by("-totals__total")) == [bob, ann]
    assert list(Customer.objects.filter(totals__lines=0)) == [carol]
    assert [c.totals.lines for c in Customer.objects.select_related("totals")
            .order_by("mail")] == [4, 11, 0]
    assert [c.totals.lines for c in Customer.objects.prefetch_related("totals")
            .order_by("mail")] == [4, 11, 0]
    assert list(Customer.objects.annotate(n=Subquery(
        CustomerLines.objects.filter(customer=OuterRef("id")).values("lines")))
        .order_by("-n").values_list("mail", "n")) \
        == [("bob@x", 11), ("ann@x", 4), ("carol@x", 0)]
    # over the view itself
    average = ExpressionWrapper(F("total") / F("priced"),
                                output_field=DecimalField())
    assert [(mail, round(value, 4)) for mail, value in
            CustomerLines.objects.filter(priced__gt=0)
            .annotate(average=average).order_by("-average")
            .values_list("customer__mail", "average")] \
        == [("ann@x", Decimal("2.5")), ("bob@x", Decimal("1.9545"))]
    assert CustomerLines.objects.aggregate(Sum("lines"), Sum("total")) == {
        "lines__sum": 15, "total__sum": Decimal("31.50")}
    assert CustomerLines.objects.in_bulk([ann.id])[ann.id].lines == 4
    assert CustomerLines.objects.order_by("-lines").first().customer == bob
    well()

    # a server-side cursor, while its transaction writes
    Customer.objects.bulk_create([Customer(mail=f"{n}@x") for n in range(100)])
    expected = list(CustomerLines.objects.order_by("customer")
                    .values_list("customer", "lines"))
    with transaction.atomic():
        found = []
        for row in CustomerLines.objects.order_by("customer") \
                .values_list("customer", "lines").iterator(chunk_size=10):
            found.append(row)
            Line.objects.create(customer_id=expected[-1][0],
                                item=f"Line {len(found)}")
        assert found == expected
    well()

    # Django's admin, which writes a customer with lines in a request
    from django.contrib.auth.models import User
    User.objects.create_superuser("dora", password="x")
    client = Client()
    assert client.login(username="dora", password="x")
    response = client.post("/admin/shop/customer/add/", {
        "mail": "eve@x", "pw": "", "notes": "", "vat": "", "active": "on",
        "line_set-TOTAL_FORMS": 2, "line_set-INITIAL_FORMS": 0,
        "line_set-0-item": "Lamp", "line_set-0-price": "9.99",
        "line_set-0-details": '{"a": 1}',
        "line_set-1-item": "Foot", "line_set-1-price": "0.01",
        "line_set-1-details": '{"a": 2}'})
    assert response.status_code == 302, response.context["errors"]
    eve = Customer.objects.get(mail="eve@x")
    assert totals(eve) == (2, 2, Decimal("10.00"))
    eve.delete()        # the cascade that Django does itself
    assert not CustomerLines.objects.filter(customer=eve.id).exists()
    well()
    assert query("SELECT * FROM poser_check()") == []

    # Django's tests: a transaction in this database leaves nothing; then all of them, in
    # a database of their own
    before = list(CustomerLines.objects.order_by("customer").values())
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(InATransaction)
    assert unittest.TextTestRunner().run(suite).wasSuccessful()
    assert list(CustomerLines.objects.order_by("customer").values()) == before
    well()
    connection.close()
    subprocess.run([sys.executable, "-m", "django", "test", "--noinput",
                    "maintained_django"], check=True)
