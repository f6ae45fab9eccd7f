"""Errors of the database: the text that a user is told, and the page that shows it."""
import ctypes
import logging
import re

from django.db import DatabaseError, InterfaceError, OperationalError, connection
from django.db.backends.postgresql.base import Database
from django.http import HttpResponse
from django.template.loader import render_to_string

log = logging.getLogger(__name__)

LOCKED = "Another transaction holds a lock on these rows.  Try again."
# SQLSTATE or its class, status of the page, title of the page
PAGES = [
    ("42501", 403, "You may not do this."),
    ("57014", 503, "This took too long, and was cancelled."),
    ("55P03", 409, LOCKED),
    ("40", 409, "Another transaction has changed or locked the same rows.  Try again."),
    ("25006", 503, "The database is read-only at present."),
    ("42", 409, "The tables have changed meanwhile, or do not allow this."),
    ("25P03", 503, "The page took too long, and the database server has ended it.  Try again."),
    ("25P04", 503, "The page took too long, and the database server has ended it.  Try again."),
    ("57P", 503, "The database server was stopped or restarted.  Try again."),
    ("08", 503, "The database server does not answer.  Try again."),
    ("53", 503, "The database server is out of connections, memory or disk space.  Try again later."),
    ("", 400, "The database does not accept this."),
]


def diagnostics(error):
    """The fields of the error that the server has sent; None if the error is not the server's."""
    diag = getattr(error.__cause__, "diag", None)
    return diag if diag is not None and diag.sqlstate else None


def sqlstate(error):
    """The SQLSTATE of the error; empty if the error is not the server's."""
    diag = diagnostics(error)
    return diag.sqlstate if diag else ""


def text_of(error):
    """The text that a user is told: message, detail and hint, without CONTEXT.  None if there is no error."""
    if error is None:
        return None
    diag = diagnostics(error)
    if diag is None:
        return "The connection to the database server was lost." if lost(error) else str(error)
    if diag.sqlstate == "55P03":
        return LOCKED
    # The detail of a CHECK or NOT NULL is the whole row, which the user sees in the form.
    detail = None if diag.sqlstate in ("23502", "23514") else diag.message_detail
    parts = [diag.message_primary, detail, diag.message_hint]
    return "  ".join(sentence(part) for part in parts if part)


def sentence(text):
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?")) else ".")


def lost(error):
    """Whether the connection is lost, so that no other statement can run.  psycopg2 raises a
    plain DatabaseError in some of these cases."""
    gone = connection.connection is None or connection.connection.closed
    return bool(gone) or diagnostics(error) is None and type(error) in (DatabaseError, InterfaceError, OperationalError)


def for_user(error):
    """Whether the page shows this error: its reason is the data, and not the server or another transaction."""
    return not lost(error) and not sqlstate(error).startswith(("08", "40", "53", "55P03", "57", "58", "XX", "25"))


def refusal(error):
    """The message with which the server refuses a connection; empty if it sends none.

    There is no SQLSTATE at that point.  libpq writes the severity, in the server's language,
    then a colon and two spaces.  Messages of libpq itself have no such beginning."""
    return str(error).partition(":  ")[2]


def said(error):
    """The refusal as a sentence for the user."""
    text = " ".join(refusal(error).split())
    return sentence(text) if text else "The database server does not answer."


def refuses(error, role):
    """Whether the server refuses a connection because of this role or its password, and not
    because of the server's own state.  Only such a message has the role's name in quotes."""
    text = refusal(error)
    return bool(re.search(rf"[^\w\s]{re.escape(role)}[^\w\s]", text)) and "too many connections" not in text


def page(status, title, message=""):
    """A page that says what is wrong.  It reads nothing from the database or the session."""
    return HttpResponse(render_to_string("poser_web/error.html", {"title": title, "message": message}), status=status)


def error_page(request, error):
    """The page for an error of the database."""
    state = sqlstate(error) or "08" * lost(error)
    status, title = next((entry[1:] for entry in PAGES if state.startswith(entry[0])))
    log.log(logging.ERROR if status >= 500 else logging.INFO, "%s: %s", request.path, " ".join(str(error).split()))
    if state == "08":
        message = said(error) if refusal(error) else ""
    else:
        message = "" if state.startswith(("57P", "53", "55P03")) else text_of(error)
    return page(status, title, message)


def health():
    """Whether the database server answers.  PQping() opens no session, and needs no password."""
    libpq = ctypes.CDLL(Database._psycopg.__file__)  # the library that the driver uses
    answers = libpq.PQping(b"user=poser_web connect_timeout=5") == 0
    text = "ok" if answers else "The database server does not answer."
    return HttpResponse(f"{text}\n", status=200 if answers else 503, content_type="text/plain")
