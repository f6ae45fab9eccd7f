"""Login, and the connection and transaction of a request.

A role logs in with its own password.  Each request connects to the server as that role,
with that password, and is one transaction:

    BEGIN;
    SET LOCAL ROLE alice;  SET LOCAL poser.runas = 'alice';  SET LOCAL poser.comment = why;
    SET LOCAL transaction_read_only = on;         -- for GET
    SET LOCAL search_path = shop, public;         -- without schemas in which all may create
    ...                                           -- the view, and its template
    COMMIT;                                       -- ROLLBACK after an error

So privileges and row-level security are those of the role, and its name is in the history.

A shared connection with SET ROLE would not be safe.  In such a session any code can change
to any role that the session's user may become: if alice opens a page that runs a function
of a trigger, default or view, the function could act as carol.  In a session of alice it
cannot.  The server also checks, at each click, the password, LOGIN, VALID UNTIL and
pg_hba.conf.

A function or operator of another role in a schema of search_path could be called in place
of the intended one, and would act as the role of the request.  So search_path leaves out
schemas in which PUBLIC may create objects (models.LET_IN), as PostgreSQL's manual advises.
A role that has CREATE there by a GRANT of its own is trusted.  All other schemas stay,
because triggers, policies, and operators of extensions need them.

The password is kept in two halves (Halves).  The web server's files have one, the browser
has the other, and neither tells anything alone.
"""
import base64
import hashlib
import ipaddress
import logging
import os
import secrets
import struct
import time
from urllib.parse import unquote_plus

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.models import AnonymousUser
from django.contrib.auth.signals import user_logged_in
from django.core.exceptions import ImproperlyConfigured, RequestDataTooBig, SuspiciousOperation, ValidationError
from django.db import DatabaseError, InterfaceError, connection, transaction
from django.db.backends.postgresql.base import Database
from django.http import HttpResponse
from django.middleware.security import SecurityMiddleware

from . import errors, models, site

log = logging.getLogger(__name__)

### Login


class Backend:
    """Asks the server whether the password is right."""

    def authenticate(self, request, username=None, password=None):
        # Without a password libpq would look for one elsewhere.  The server would cut a longer name.
        if not username or not password or len(username.encode()) > 63:
            return None
        source = address(request)
        if not tries_left(username, source):
            log.warning("login of %r from %s: too many have failed", username, source)
            raise ValidationError("Too many logins have failed.  Try again in ten minutes.")
        try:
            probe = Database.connect(**{**connection.get_connection_params(), "user": username, "password": password})
        except (Database.Error, UnicodeError, ValueError) as error:
            log.warning("login of %r from %s fails: %s", username, source, " ".join(str(error).split()))
            if isinstance(error, Database.Error) and not errors.refuses(error, username):
                forget_try(username, source)
                raise ValidationError(f"You cannot log in now.  {errors.said(error)}") from error
            return None
        # Without a rule in pg_hba.conf that asks for a password, the server would accept any.
        asked = probe.info.used_password
        try:
            with probe.cursor() as cursor:
                role = models.Role.let_in(cursor) if asked else None
        except Database.Error:
            role = None
        finally:
            probe.close()
        if role is None:
            why = f"it is not granted to {settings.WEB_ROLE}, or one of both is a superuser"
            why = why if asked else "the server does not ask for its password"
            log.warning("login of %r from %s is not let in: %s", username, source, why)
            return None
        forget_try(username, source)
        log.info("login of %r from %s", username, source)
        role.given = password
        return role

    def get_user(self, oid):
        """The role of this request's connection, if it may still log in here."""
        if not connection.connection.info.used_password:
            return None
        with connection.cursor() as cursor:
            role = models.Role.let_in(cursor)
        return role if role is not None and role.oid == int(oid) else None


### Limits of logins
#
# There is a file for each pair of name and address, and for each address.  It has the times
# of failed logins, so that all processes count together.

SECONDS = 600


def address(request):
    """The address that a request comes from.  X-Forwarded-For counts only with POSER_WEB_PROXY."""
    forwarded = request.META.get("HTTP_X_FORWARDED_FOR", "").split(",")[-1].strip()
    text = settings.PROXY and forwarded or request.META.get("REMOTE_ADDR", "")
    try:
        # One user can have many addresses of IPv6, so their network counts.
        where = ipaddress.ip_address(text)
        return str(where if where.version == 4 else ipaddress.ip_network((where, 64), strict=False))
    except ValueError:  # a unix socket has none
        return "no address"


def tries(name, source):
    """Pairs of a file, and the number of logins that may fail within SECONDS."""
    for words, most in (([source, name], 10), ([source], 100)):
        yield settings.STATE / "logins" / hashlib.sha256(repr(words).encode("utf-8", "replace")).hexdigest(), most


def recent(file, now):
    try:
        return sum(now - SECONDS < when <= now for (when,) in struct.iter_unpack("d", file.read_bytes()))
    except (FileNotFoundError, struct.error):
        return 0


def tries_left(name, source):
    """Count a login, and return whether it is within the limits."""
    now = time.time()
    for file in (settings.STATE / "logins").iterdir():
        try:
            if file.stat().st_mtime < now - SECONDS:
                file.unlink()
        except FileNotFoundError:
            pass  # another process was faster
    for file, most in tries(name, source):
        if recent(file, now) >= most:
            return False
        with open(file, "ab") as out:
            out.write(struct.pack("d", now))
        if recent(file, now) > most:
            return False
    return True


def forget_try(name, source):
    """Take back the count of a login that has not failed."""
    (of_name, _), (of_address, _) = tries(name, source)
    try:
        of_name.unlink()
        os.truncate(of_address, max(of_address.stat().st_size - 8, 0))
    except FileNotFoundError:
        pass


### The password between two requests


class Halves:
    """The password in two halves.  A random key is in a cookie.  The session's file has the
    password, encrypted with a stream of bits that is made from the key.  Each login has a new key."""

    COOKIE = "poser_key"

    @staticmethod
    def mask(text, key):
        """Encrypt the text, or decrypt it."""
        stream = hashlib.shake_256(key.encode()).digest(len(text))
        return bytes(a ^ b for a, b in zip(text, stream))

    @classmethod
    def keep(cls, request, role):
        """Split the password of this login into two halves."""
        request.poser_key = secrets.token_urlsafe(32)
        covered = cls.mask(role.given.encode().ljust(256, b"\0"), request.poser_key)
        request.session["role"] = [role.rolname, base64.b64encode(covered).decode()]

    @classmethod
    def read(cls, request):
        """Name and password, or None."""
        if "role" not in request.session:
            return None
        name, covered = request.session["role"]
        try:
            password = cls.mask(base64.b64decode(covered), request.COOKIES.get(cls.COOKIE, "")).rstrip(b"\0").decode()
        except ValueError:
            return None
        return (name, password) if password and "\0" not in password else None

    @classmethod
    def set_cookie(cls, request, response):
        if hasattr(request, "poser_key"):
            response.set_cookie(
                cls.COOKIE,
                request.poser_key,
                httponly=True,
                secure=settings.SESSION_COOKIE_SECURE,
                samesite="Lax",
            )
        elif cls.COOKIE in request.COOKIES and "role" not in request.session:
            response.delete_cookie(cls.COOKIE, samesite="Lax")


def logged_in(sender, request, user, **rest):
    """Start a new session for each login, and remove the files of expired ones."""
    request.session.cycle_key()
    Halves.keep(request, user)
    request.session.clear_expired()


user_logged_in.connect(logged_in)

### The transaction of a request


class Transaction:
    """Middleware, innermost: runs a request in one transaction, as the role that has logged in."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        credentials = Halves.read(request)
        try:
            check_form(request, settings.UPLOAD_BYTES if credentials else 100_000)
        except RequestDataTooBig as error:
            return errors.page(413, "This is too much for one request.", str(error))
        except SuspiciousOperation as error:
            return errors.page(400, "The server does not understand this request.", str(error))
        if credentials is None:
            response = self.as_stranger(request)
        else:
            response = self.as_role(request, *credentials)
        Halves.set_cookie(request, response)
        return response

    def as_stranger(self, request):
        """Without a login there is only the login page.  It reads nothing from the database."""
        request.user = AnonymousUser()
        return self.get_response(request)

    def as_role(self, request, name, password):
        shared = connection.settings_dict
        connection.close()
        connection.settings_dict = {**shared, "USER": name, "PASSWORD": password}
        try:
            connection.ensure_connection()
            with transaction.atomic():
                begin(request)
                response = self.get_response(request)
                if response.status_code >= 400:
                    transaction.set_rollback(True)
            return response
        except (DatabaseError, InterfaceError) as error:  # at login, before the view, or at COMMIT
            if connection.connection is None and errors.refuses(error, name):
                end_session(request)
                return self.as_stranger(request)
            return errors.error_page(request, error)
        except ImproperlyConfigured as error:
            return errors.page(503, "The web admin cannot use this database.", str(error))
        finally:
            connection.close()
            connection.settings_dict = shared

    def process_exception(self, request, error):
        """An exception in the view or in its template."""
        if connection.in_atomic_block:
            transaction.set_rollback(True)
        return errors.error_page(request, error) if isinstance(error, (DatabaseError, InterfaceError)) else None


def begin(request):
    """Begin the transaction: set its role, name, reason, limits and search_path."""
    role = request.user
    if not role.is_authenticated:
        end_session(request)
        return
    local = {
        "statement_timeout": f"{settings.PAGE_SECONDS}s",
        "lock_timeout": "5s",
        # Pages show the first rows of many: the compiler takes longer than they do, and an index in their order is the best plan.
        "jit": "off",
        "random_page_cost": "1.1",
        "role": role.rolname,
        "poser.runas": role.rolname,
        "poser.comment": request.POST.get("why", ""),
        # Values are read and written as texts, which must be the same for all roles.
        "datestyle": "ISO",
        "intervalstyle": "postgres",
        "bytea_output": "hex",
        "extra_float_digits": "1",
        "quote_all_identifiers": "off",
    }
    if request.method != "POST":
        local["transaction_read_only"] = "on"
    with connection.cursor() as cursor:
        calls = ", ".join(["pg_catalog.set_config(%s, %s, true)"] * len(local))
        cursor.execute(f"SELECT {calls}", [word for setting in local.items() for word in setting])
        request.urlconf = site.urlconf()
        path = ", ".join(map(models.quoted, role.schemas)).replace("%%", "%") or "pg_catalog"
        cursor.execute("SELECT pg_catalog.set_config('search_path', %s, true)", [path])


def end_session(request):
    """End the session of a role that may no longer log in."""
    log.info("session of %r ends", request.session["role"][0])
    request.session.flush()
    request.user = AnonymousUser()
    messages.warning(request, "You have to log in again: the database server no longer accepts the last login.")


def check_form(request, most):
    """Refuse a request that is too long, or that the driver or a view could not read.  PostgreSQL's texts have no character 0."""
    try:
        size = int(request.META.get("CONTENT_LENGTH") or 0)
    except ValueError:
        raise SuspiciousOperation("the length of the request is not a number") from None
    if size > most:
        raise RequestDataTooBig(f"At most {most:,} bytes are accepted.")
    if request.method == "POST" and (request.encoding or "utf-8").lower() not in ("utf-8", "utf8"):
        raise SuspiciousOperation("only UTF-8 is accepted")
    try:
        form = list(request.POST.lists())
    except OSError as error:
        raise SuspiciousOperation("the request was cut off") from error
    texts = [request.path, unquote_plus(request.META.get("QUERY_STRING", ""))]
    texts += [text for name, values in form for text in [name, *values]]
    if any("\0" in text for text in texts):
        raise SuspiciousOperation("a value has the character 0")


### The outermost middleware


class Gate:
    """Middleware, outermost: headers of all responses, also of errors and static files.

    Scripts, styles and forms come from this server only.  /healthz tells whether the web
    server and the database server answer.  It needs no session and no role."""

    POLICY = "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"

    def __init__(self, get_response):
        self.get_response = get_response
        self.security = SecurityMiddleware(get_response)

    def __call__(self, request):
        head = request.method == "HEAD"
        if head:
            request.method = "GET"
        response = self.security.process_response(request, self.answer(request))
        if head:  # gunicorn would send the body, too
            response = without_body(response)
        response.setdefault("X-Frame-Options", "DENY")
        response["Content-Security-Policy"] = self.POLICY
        return response

    def answer(self, request):
        if request.path == "/healthz":
            return errors.health()
        try:
            request.get_host()
        except SuspiciousOperation:
            return errors.page(400, "This server is not known by this name.", "POSER_WEB_HOSTS names those that it is known by.")
        if request.method not in ("GET", "POST"):
            response = errors.page(405, "This server has only GET, HEAD and POST.")
            response["Allow"] = "GET, HEAD, POST"
            return response
        return self.get_response(request)


def without_body(response):
    head = HttpResponse(status=response.status_code)
    head.cookies = response.cookies
    for name, value in response.items():
        head[name] = value
    if not response.streaming:
        head["Content-Length"] = len(response.content)
    response.close()
    return head
