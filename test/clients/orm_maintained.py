# SQLAlchemy's ORM over a maintained view.  A class is mapped to the view, and an object
# of the parent has its counts as a relationship.  At each step of a session, which
# writes and reads in one transaction, the view gives what the objects give and what its
# query gives.  Server-side cursors give the state at which they were opened.

import decimal

import psycopg2
import sqlalchemy as sa
from sqlalchemy import orm

from rattail.db import Session, engine

Base = orm.declarative_base()


class Customer(Base):
    """
    A customer with orders, and with the counts of these.
    """
    __tablename__ = "customer"

    id = sa.Column(sa.Integer(), primary_key=True)
    name = sa.Column(sa.String(length=40), nullable=False)
    orders = orm.relationship("Order", back_populates="customer",
                              cascade="all, delete-orphan")
    totals = orm.relationship("CustomerOrders", uselist=False, viewonly=True)


class Order(Base):
    """
    An order, perhaps of no customer.
    """
    __tablename__ = "orders"

    id = sa.Column(sa.BigInteger(), primary_key=True)
    customer_id = sa.Column(sa.ForeignKey(Customer.id), index=True)
    status = sa.Column(sa.Text(), nullable=False, default="open")
    total = sa.Column(sa.Numeric(10, 2))
    customer = orm.relationship(Customer, back_populates="orders")


Base.metadata.create_all(engine)


class CustomerOrders(Base):
    """
    The view.  Its key is the customer.
    """
    __tablename__ = "customer_orders"
    __table_args__ = {"info": {"is_view": True}}

    customer_id = sa.Column(sa.ForeignKey(Customer.id), primary_key=True)
    orders = sa.Column(sa.BigInteger())
    open_orders = sa.Column(sa.BigInteger())
    revenue = sa.Column(sa.Numeric())


def execute(query, **parameters):
    with engine.begin() as connection:
        result = connection.execute(sa.text(query), parameters)
        return [tuple(row) for row in result] if result.returns_rows else None


execute("CREATE VIEW customer_orders AS"
        " SELECT c.id AS customer_id, count(o.id) AS orders,"
        "        count(o.id) FILTER (WHERE o.status = 'open') AS open_orders,"
        "        sum(o.total) AS revenue"
        "   FROM customer c LEFT JOIN orders o ON o.customer_id = c.id"
        "  GROUP BY c.id")
execute("SELECT poser_maintain('customer_orders')")


def totals(s, customer):
    """The counts of a customer.  The relationship, the objects and the query agree, and
    the view reads its bookkeeping."""
    s.flush()
    s.expire_all()
    row = customer.totals
    by_view = (row.orders, row.open_orders, row.revenue)
    prices = [o.total for o in customer.orders if o.total is not None]
    by_objects = (len(customer.orders),
                  sum(o.status == "open" for o in customer.orders),
                  sum(prices) if prices else None)
    assert by_view == by_objects, (by_view, by_objects)
    assert s.execute(sa.text(
        "TABLE customer_orders EXCEPT TABLE customer_orders_query")).all() == []
    assert s.execute(sa.text(
        "SELECT served, problem FROM poser_views")).all() == [(True, None)]
    return by_view


def price(text):
    return decimal.Decimal(text)


s = Session()

# objects one by one, read before and after the commit
ann = Customer(name="Ann")
bob = Customer(name="Bob")
s.add_all([ann, bob])
assert totals(s, ann) == (0, 0, None)
ann.orders.append(Order(total=price("19.90")))
assert totals(s, ann) == (1, 1, price("19.90"))
ann.orders.append(Order(status="paid", total=price("5.10")))
ann.orders.append(Order(total=None))
assert totals(s, ann) == (3, 2, price("25.00"))
s.commit()
assert totals(s, ann) == (3, 2, price("25.00"))
assert totals(s, bob) == (0, 0, None)

# values change, an order moves, and becomes one of no customer
ann.orders[0].status = "paid"
ann.orders[0].total = price("20")
assert totals(s, ann)[1:] == (1, price("25.10"))
s.execute(sa.update(Order).where(Order.id == ann.orders[1].id)
          .values(customer_id=bob.id))
assert totals(s, ann)[0] == 2
assert totals(s, bob) == (1, 0, price("5.10"))
s.execute(sa.update(Order).where(Order.customer_id == bob.id)
          .values(customer_id=None))
assert totals(s, bob) == (0, 0, None)
s.commit()

# in bulk, without objects
s.bulk_insert_mappings(Order, [
    dict(customer_id=(ann.id, bob.id)[n % 2], status=("open", "paid")[n % 3 == 0],
         total=n) for n in range(1000)])
assert totals(s, bob)[0] == 500
s.query(Order).filter(Order.total >= 900).delete(synchronize_session=False)
assert totals(s, bob)[0] == 450
s.commit()

# a savepoint and a transaction that are rolled back
before = totals(s, ann)
savepoint = s.begin_nested()
s.delete(ann.orders[0])
ann.orders.append(Order(total=1000))
ann.orders.append(Order(total=1000))
assert totals(s, ann)[0] == before[0] + 1
savepoint.rollback()
assert totals(s, ann) == before
ann.orders.append(Order(total=1))
assert totals(s, ann)[0] == before[0] + 1
s.rollback()
assert totals(s, ann) == before
s.close()

# queries over the view: joined by the relationship, loaded with the parents, filtered,
# ordered, aggregated
s = Session()
assert [c.name for c in s.query(Customer).join(Customer.totals)
        .filter(CustomerOrders.orders > 100)
        .order_by(CustomerOrders.revenue.desc(), Customer.id)] \
    == [name for name, _ in sorted(
        ((c.name, c.totals.revenue) for c in s.query(Customer)),
        key=lambda item: -item[1])]
for option in (orm.joinedload, orm.selectinload, orm.subqueryload):
    s.expunge_all()
    loaded = s.query(Customer).options(option(Customer.totals)) \
        .order_by(Customer.id).all()
    assert all("totals" in sa.inspect(c).dict for c in loaded), option
    assert sum(c.totals.orders for c in loaded) \
        == s.query(Order).filter(Order.customer_id.isnot(None)).count()
assert s.query(sa.func.sum(CustomerOrders.revenue)).scalar() \
    == s.query(sa.func.sum(Order.total)).filter(
        Order.customer_id.isnot(None)).scalar()
assert s.get(CustomerOrders, 0) is None
s.close()

# a large result in parts, while the same transaction writes: a server-side cursor gives
# the state at which it was opened
s = Session()
s.bulk_insert_mappings(Customer, [dict(name=f"Customer {n}")
                                  for n in range(500)])
s.commit()
expected = dict(execute("SELECT customer_id, orders FROM customer_orders_query"))
rows = s.execute(
    sa.select(CustomerOrders.customer_id, CustomerOrders.orders)
    .order_by(CustomerOrders.customer_id)
    .execution_options(stream_results=True, yield_per=10))
found = {}
for number, (customer_id, orders) in enumerate(rows):
    found[customer_id] = orders
    if number % 50 == 0:
        s.execute(sa.insert(Order.__table__).values(
            [dict(customer_id=n, status="open") for n in expected]))
assert found == expected
assert s.execute(sa.text("SELECT min(orders) FROM customer_orders")).scalar() \
    >= 10
s.commit()
s.close()

# psycopg2's own cursors: one that moves in both directions, and one that is read after
# the commit
connection = psycopg2.connect("")
query = "SELECT customer_id, orders FROM customer_orders ORDER BY customer_id"
expected = execute(query)
for options in dict(scrollable=True), dict(withhold=True), \
        dict(scrollable=True, withhold=True):
    with connection.cursor("parts", **options) as cursor, \
            connection.cursor() as writer:
        cursor.itersize = 7
        cursor.execute(query)
        assert cursor.fetchmany(20) == expected[:20], options
        writer.execute("UPDATE orders SET customer_id = %s WHERE id %% 3 = 0",
                       [expected[30][0]])
        writer.execute("DELETE FROM orders WHERE id % 7 = 0")
        if options.get("withhold"):
            connection.commit()
        assert cursor.fetchmany(20) == expected[20:40], options
        if options.get("scrollable"):
            cursor.scroll(0, "absolute")
            assert list(cursor) == expected, options
        else:
            assert list(cursor) == expected[40:], options
        writer.execute("TABLE customer_orders EXCEPT TABLE customer_orders_query")
        assert writer.fetchall() == [], options
    connection.commit()
    expected = execute(query)
connection.close()

# two sessions at once: none waits for the other, and each reads its own state
first, second = Session(), Session()
second.execute(sa.text("SET LOCAL lock_timeout = '1ms'"))
ann_in = {session: session.get(Customer, ann.id) for session in (first, second)}
for session, total in (first, 1), (second, 2), (first, 4), (second, 8):
    session.add(Order(customer_id=ann.id, total=total))
    totals(session, ann_in[session])
second.commit()
first.commit()
assert totals(first, ann_in[first]) == totals(second, ann_in[second])
first.close()
second.close()

# an error that the ORM passes on: nothing is written into the view, nor past it
s = Session()
for statement, code in (
        ("UPDATE customer_orders_maintained SET orders = 0", "55000"),
        ("DELETE FROM customer_orders_maintained", "55000"),
        ("TRUNCATE customer_orders_maintained", "55000"),
        ("UPDATE customer_orders SET orders = 0", "55000")):
    try:
        s.execute(sa.text(statement))
    except sa.exc.DBAPIError as e:
        assert e.orig.pgcode == code, (statement, e.orig.pgcode)
    else:
        raise AssertionError(f"no error: {statement}")
    s.rollback()

# a customer goes with the orders
gone = ann.id
s.delete(s.get(Customer, gone))
s.commit()
assert s.get(CustomerOrders, gone) is None
assert s.execute(sa.text("SELECT * FROM poser_check()")).all() == []
s.close()
