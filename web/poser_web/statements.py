"""Statements: the rows that they return, and those that may fail."""
import types

from django.db import DatabaseError, connection, transaction

from . import errors


class Refused(DatabaseError):
    """What a page refuses, as the server refuses a statement.  The message is for the user."""


def run(statement, values=()):
    """The rows that a statement returns.  Their columns are attributes."""
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        if cursor.description is None:
            return []
        names = [column[0] for column in cursor.description]
        return [types.SimpleNamespace(**dict(zip(names, row))) for row in cursor]


def attempt(function, *values):
    """Call the function in a savepoint.  Returns (its result, None), or (None, the error) after a rollback, if the page
    can show the error.  A lock or a time limit that was too short may only concern this part of the page."""
    try:
        with transaction.atomic():
            return function(*values), None
    except DatabaseError as error:
        if not errors.for_user(error) and errors.sqlstate(error) not in ("55P03", "57014"):
            raise
        return None, error


def check_constraints():
    """Check deferred constraints now, so that the page can show their errors."""
    run("SET CONSTRAINTS ALL IMMEDIATE")


def may(privileges, *names):
    """Whether the role has these privileges on these relations of the extension."""
    statement = """
        SELECT pg_catalog.bool_and(pg_catalog.has_table_privilege(c.oid, p) AND pg_catalog.has_schema_privilege(c.relnamespace, 'USAGE'))
               AS may
          FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_class c ON c.relnamespace = e.extnamespace, pg_catalog.unnest(%s::text[]) p
         WHERE e.extname = 'poser' AND c.relname = ANY (%s)
    """
    return run(statement, [privileges.split(), list(names)])[0].may


def whole_number(value):
    """The text of an address or a form as a bigint, or None."""
    return int(value) if value and value.isascii() and value.isdigit() and len(value) < 19 else None
