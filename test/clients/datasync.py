# An example of a datasync client: it keeps the tables of a second database equal
# to those of the first.  It waits for notifications, applies new changes, and
# confirms them.  If it is killed, the next client goes on from there, and no
# change is lost.
#
#   datasync.py CONSUMER SOURCE TARGET [CHUNK [TIMEOUT]]
#
# SOURCE and TARGET are libpq's connection strings.  Without arguments it runs a
# test: clients work and are killed, at random and at the worst moment.

import concurrent.futures
import os
import random
import select
import signal
import subprocess
import sys
import time

import psycopg2
import psycopg2.errors
import psycopg2.extensions

# How a row is applied.  Changes can come twice.  They come in order, so the row is
# the same at the end.
UPSERT = {
    "poser_widget": """
        INSERT INTO poser_widget
        SELECT * FROM jsonb_populate_record(NULL::poser_widget, %s)
        ON CONFLICT (uuid) DO UPDATE
        SET (description, active) = (excluded.description, excluded.active)
        """,
    "poser_component": """
        INSERT INTO poser_component
        SELECT * FROM jsonb_populate_record(NULL::poser_component, %s)
        ON CONFLICT (uuid) DO UPDATE
        SET (widget_uuid, item_code, description, active) =
            (excluded.widget_uuid, excluded.item_code, excluded.description,
             excluded.active)
        """,
}
DELETE = {
    "poser_widget": "DELETE FROM poser_widget WHERE uuid = %s",
    "poser_component": "DELETE FROM poser_component WHERE uuid = %s",
}


def work(consumer, source, target, chunk=500, timeout=60):
    """
    Applies all changes, and waits for more, until it is killed.
    """
    source = psycopg2.connect(source)
    target = psycopg2.connect(target)
    # Before the first poll, so that no notification is missed
    with source, source.cursor() as cursor:
        cursor.execute("LISTEN poser_datasync")
    while True:
        try:
            if not apply(consumer, source, target, int(chunk)):
                wait(source, float(timeout))
        except psycopg2.errors.LockNotAvailable:
            # Another worker is active, or the server still has a killed one's session
            time.sleep(0.05)


def apply(consumer, source, target, chunk):
    """
    Applies the next changes, at most "chunk", and returns their number.  The
    transaction in the source ends last: until then no other worker can work for
    the consumer.
    """
    with source, source.cursor() as cursor:
        cursor.execute(
            "SELECT change_id, payload_type, payload_key, deletion,"
            " payload::text FROM poser_datasync_changes(%s, %s)",
            (consumer, chunk))
        changes = cursor.fetchall()
        if changes:
            with target, target.cursor() as there:
                for change_id, table, key, deletion, row in changes:
                    if deletion:
                        there.execute(DELETE[table], (key,))
                    else:
                        there.execute(UPSERT[table], (row,))
            # A client that is killed here has applied changes without confirming
            if "DATASYNC_KILL" in os.environ:
                os.kill(os.getpid(), signal.SIGKILL)
            cursor.execute("SELECT poser_datasync_confirm(%s, %s)",
                           (consumer, changes[-1][0]))
    return len(changes)


def wait(source, timeout):
    """
    Waits for a notification of committed changes.  COMMIT PREPARED sends none, so
    the wait ends after "timeout" seconds.
    """
    source.poll()       # what came with the answer to COMMIT
    if not source.notifies:
        select.select([source], [], [], timeout)
        source.poll()
    source.notifies.clear()


if len(sys.argv) > 1:
    work(*sys.argv[1:])

#
# The test
#
import sqlalchemy as sa  # noqa: E402

from rattail.db import Session, engine  # noqa: E402
from poser.db import model  # noqa: E402

TABLES = "poser_widget", "poser_component"
LIMIT = 120

here = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
database = here.execute(sa.text("SELECT current_database()")).scalar()
copy = database + "_copy"
role = database + "_worker"
# The worker's role is set after connecting: the test's user may be the only one that
# can connect
source = psycopg2.extensions.make_dsn(
    dbname=database, options=f"-c role={role}")
target = psycopg2.extensions.make_dsn(dbname=copy)
workers = []


def do(query, **parameters):
    return here.execute(sa.text(query), parameters)


def value(query, **parameters):
    return do(query, **parameters).scalar()


def start(*arguments, **environment):
    worker = subprocess.Popen(
        [sys.executable, __file__, "copy", source, target, *arguments],
        env={**os.environ, **environment})
    workers.append(worker)
    return worker


def kill(worker):
    """
    Kills the worker, unless it has killed itself.  It must not end in another way.
    """
    worker.kill()
    assert worker.wait() == -signal.SIGKILL, worker.returncode
    workers.remove(worker)


def until(condition, *args):
    end = time.monotonic() + LIMIT
    while not condition(*args):
        for worker in workers:
            assert worker.poll() in (None, -signal.SIGKILL), worker.returncode
        assert time.monotonic() < end, value(
            "SELECT to_jsonb(s) FROM poser_datasync_status AS s")
        time.sleep(0.02)


def pending():
    return value("SELECT pending FROM poser_datasync_status"
                 " WHERE consumer = 'copy'")


def done():
    return pending() == 0


def rows(connection, table):
    with connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {table} ORDER BY uuid")
        return cursor.fetchall()


def same():
    """
    Whether both databases have the same rows.
    """
    ours, theirs = psycopg2.connect(""), psycopg2.connect(target)
    try:
        return all(rows(ours, t) == rows(theirs, t) for t in TABLES)
    finally:
        ours.close()
        theirs.close()


def forbidden(query):
    """
    The worker's role has no right to run the query.
    """
    connection = psycopg2.connect(source)
    try:
        connection.cursor().execute(query)
    except psycopg2.errors.InsufficientPrivilege:
        pass
    else:
        raise AssertionError(f"the worker may do: {query}")
    finally:
        connection.close()


# Transactions of several writers, which conflict with each other
STATEMENTS = (
    "INSERT INTO poser_widget (uuid, description) VALUES (:w, :text)"
    " ON CONFLICT (uuid) DO UPDATE SET description = excluded.description",
    "UPDATE poser_widget SET active = NOT active WHERE uuid IN (:v, :w)",
    "UPDATE poser_widget SET uuid = :v WHERE uuid = :w AND NOT EXISTS"
    " (SELECT FROM poser_component WHERE widget_uuid = :w)",
    "DELETE FROM poser_widget WHERE uuid = :w AND NOT EXISTS"
    " (SELECT FROM poser_component WHERE widget_uuid = :w)",
    "INSERT INTO poser_component (widget_uuid, item_code, description)"
    " SELECT uuid, n, :text FROM poser_widget, generate_series(1, :n) AS n"
    " WHERE uuid = :w",
    "UPDATE poser_component SET description = :text WHERE widget_uuid = :w",
    "UPDATE poser_component SET widget_uuid = :v WHERE widget_uuid = :w",
    "DELETE FROM poser_component WHERE widget_uuid = :w",
)
CONFLICTS = ("23503", "23505", "40P01")  # other writers' keys, and deadlocks


def write(seed):
    chance = random.Random(seed)
    with engine.connect() as c:
        with c.begin():
            c.execute(sa.text("SET deadlock_timeout = '20ms'"))
        for n in range(200):
            transaction = c.begin()
            try:
                for statement in chance.choices(STATEMENTS, k=3):
                    savepoint = c.begin_nested()
                    c.execute(sa.text(statement), {
                        "v": f"widget {chance.randrange(10)}",
                        "w": f"widget {chance.randrange(10)}",
                        "n": chance.choice((1, 1, 1, 10, 100)),
                        "text": f"{seed}, {n}"})
                    if chance.random() < 0.2:
                        savepoint.rollback()
                    else:
                        savepoint.commit()
                if chance.random() < 0.2:
                    transaction.rollback()
                else:
                    transaction.commit()
            except sa.exc.DBAPIError as e:
                transaction.rollback()
                assert e.orig.pgcode in CONFLICTS, repr(e.orig)


def test():
    # A widget from before the consumer, a deleted one, and one that was rolled back
    with Session() as s:
        s.add(model.Widget(uuid="clock", description="Clock", components=[
            model.Component(item_code=str(n), description=f"Gear {n}")
            for n in range(1200)]))
        bell = model.Widget(uuid="bell", description="Bell")
        s.add(bell)
        s.commit()
        s.delete(bell)
        s.commit()
        s.add(model.Widget(uuid="door", description="Door"))
        s.flush()
        s.rollback()

    # The target has no foreign key: changes that come again lead through older
    # states.
    do(f'CREATE DATABASE "{copy}" TEMPLATE template0')
    with psycopg2.connect(target) as there, there.cursor() as cursor:
        cursor.execute("""
            CREATE TABLE poser_widget (
                uuid varchar(32) PRIMARY KEY,
                description varchar(255) NOT NULL,
                active boolean NOT NULL
            );
            CREATE TABLE poser_component (
                uuid varchar(32) PRIMARY KEY,
                widget_uuid varchar(32) NOT NULL,
                item_code varchar(20) NOT NULL,
                description varchar(255) NOT NULL,
                active boolean NOT NULL
            )""")
    there.close()

    # The worker's role may only work for the consumer.
    do(f'CREATE ROLE "{role}"')
    do("SELECT poser_datasync_add('copy', 'beginning', notify => true)")
    do("SELECT poser_datasync_grant('copy', :role)", role=role)
    do("SELECT poser_datasync_add('another')")
    for query in (
            *(f"TABLE {table}{suffix}"
              for table in TABLES for suffix in ("", "_version")),
            "TABLE poser_transaction", "TABLE poser_datasync_status",
            "SELECT poser_datasync_changes('another')"):
        forbidden(query)

    # A worker applies all changes and is killed before it confirms: they come again
    assert pending() == 1203
    worker = start("2000", DATASYNC_KILL="yes")
    until(worker.poll)
    kill(worker)
    assert pending() == 1203
    assert same()
    worker = start("100", "3600")
    until(done)
    assert same()

    # A worker with a timeout of an hour is notified at once.
    with Session() as s:
        for n in range(5):
            s.get(model.Widget, "clock").description = f"Clock {n}"
            s.commit()
            until(done)
            assert same()
    assert worker.poll() is None

    # The first transaction to begin need not be the first to commit.  Its second
    # statement follows another transaction's commit, while a third one is open.
    with Session() as first, Session() as second, Session() as third:
        first.execute(sa.text("UPDATE poser_widget SET active = false"))
        third.execute(sa.text("SELECT pg_current_xact_id()"))
        second.add(model.Widget(uuid="latch", description="Latch"))
        second.commit()
        first.get(model.Widget, "latch").description = "Iron latch"
        first.commit()
        until(done)
        third.rollback()
    do("UPDATE poser_widget SET active = true WHERE uuid = 'clock'")
    until(done)
    assert same()
    kill(worker)

    # Writers and two workers.  The workers are replaced now and then, and every
    # second one kills itself after it has applied a change.
    with concurrent.futures.ThreadPoolExecutor() as executor:
        writers = [executor.submit(write, seed) for seed in range(3)]
        turn = 0
        while turn < 8 or not all(writer.done() for writer in writers):
            start("50", "1", **({"DATASYNC_KILL": "yes"} if turn % 2 else {}))
            if len(workers) > 2:
                kill(workers[0])
            time.sleep(random.uniform(0.1, 0.5))
            turn += 1
        for writer in writers:
            writer.result()
    for worker in list(workers):
        kill(worker)

    # A single worker makes both databases equal.
    start("50", "1")
    until(done)
    assert same()

    # A prepared transaction sends no notification.
    if int(value("SHOW max_prepared_transactions")) > 0:
        s = psycopg2.connect("")
        s.tpc_begin(database)
        s.cursor().execute("DELETE FROM poser_component")
        s.tpc_prepare()
        s.tpc_commit()
        s.close()
        until(done)
        assert same()

    kill(workers[0])
    do("SELECT poser_datasync_revoke('copy', :role)", role=role)
    forbidden("SELECT poser_datasync_changes('copy')")
    assert value("SELECT count(*) FROM poser_check()") == 0


try:
    test()
finally:
    for worker in list(workers):
        worker.kill()
        worker.wait()
    do(f'DROP DATABASE IF EXISTS "{copy}" WITH (FORCE)')
    do(f'DROP ROLE IF EXISTS "{role}"')
    here.close()
