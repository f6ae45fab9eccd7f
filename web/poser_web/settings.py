"""Settings.  The environment says what differs from one installation to another:

    PGHOST, PGPORT, PGDATABASE, PGSERVICE …   the database, as for psql
    PGUSER              the role to which all users are granted; default poser_web
    POSER_WEB_STATE     a folder for sessions and the secret key; default ~/.poser_web
    POSER_WEB_HOSTS     the names under which browsers reach the web server, with commas between them
    POSER_WEB_HTTP      1: HTTP without TLS, for a browser on the same machine
    POSER_WEB_PROXY     1: behind a proxy, which sets X-Forwarded-For and X-Forwarded-Proto
    POSER_WEB_UPLOAD    the largest size of a request in megabytes; default 50
    POSER_WEB_TIMEOUT   the time limit of a statement in seconds; default 20
    TZ                  the time zone in which times are shown; default UTC
"""
import os
import secrets
import sys
from pathlib import Path

import django

# The driver is psycopg2.  Where psycopg 3 is installed as well, Django would choose that one.
sys.modules["psycopg"] = None

STATE = Path(os.environ.get("POSER_WEB_STATE") or Path.home() / ".poser_web")
for folder in (STATE, STATE / "sessions", STATE / "logins"):
    folder.mkdir(mode=0o700, exist_ok=True)


def secret(file):
    """The secret key.  The first process makes it.  link() does not replace the key of another process."""
    if not file.exists():
        new = file.with_name(f"{file.name}.{os.getpid()}")
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
            out.write(secrets.token_urlsafe(64))
        try:
            os.link(new, file)
        except FileExistsError:
            pass
        new.unlink()
    return file.read_text()


SECRET_KEY = secret(STATE / "secret")
HTTP = os.environ.get("POSER_WEB_HTTP") == "1"
PROXY = os.environ.get("POSER_WEB_PROXY") == "1"
DEBUG = False
ALLOWED_HOSTS = os.environ.get("POSER_WEB_HOSTS", "localhost,127.0.0.1").split(",")

# Users are roles of PostgreSQL.  Django has no tables of its own.
AUTH_USER_MODEL = "tables.Role"
AUTHENTICATION_BACKENDS = ["poser_web.auth.Backend"]
LOGIN_URL = "admin:login"
LOGIN_REDIRECT_URL = "/"
INSTALLED_APPS = [
    "poser_web.apps.PoserWeb",
    "django.contrib.admin.apps.SimpleAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]
# Each request connects as the role that has logged in (auth.Transaction).  libpq reads
# the other settings of the environment by itself.
WEB_ROLE = os.environ.get("PGUSER") or "poser_web"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": os.environ.get("PGDATABASE") or "poser",
        "USER": WEB_ROLE,
        "OPTIONS": {"connect_timeout": 5, "application_name": "poser_web", "client_encoding": "UTF8"},
    }
}
if os.environ.get("PGSERVICE") and not os.environ.get("PGDATABASE"):
    # The service names the database.  Django wants a name, and the driver ignores None.
    DATABASES["default"]["OPTIONS"]["dbname" if django.VERSION >= (4, 2) else "database"] = None
PAGE_SECONDS = int(os.environ.get("POSER_WEB_TIMEOUT", "20"))

MIDDLEWARE = [
    "poser_web.auth.Gate",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "poser_web.auth.Transaction",
]
ROOT_URLCONF = "poser_web.urls"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

SESSION_ENGINE = "django.contrib.sessions.backends.file"
SESSION_FILE_PATH = str(STATE / "sessions")
SESSION_COOKIE_AGE = 12 * 3600
SESSION_EXPIRE_AT_BROWSER_CLOSE = True
CSRF_COOKIE_SAMESITE = "Strict"
CSRF_COOKIE_HTTPONLY = True
MESSAGE_STORAGE = "django.contrib.messages.storage.session.SessionStorage"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = not HTTP
if PROXY:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
if not HTTP:
    SECURE_HSTS_SECONDS = 365 * 24 * 3600
# W005, W021: HSTS for other names of the domain is not for this server to decide.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]

STATIC_URL = "/static/"
WHITENOISE_USE_FINDERS = True
UPLOAD_BYTES = int(float(os.environ.get("POSER_WEB_UPLOAD") or 50) * 1_000_000)
DATA_UPLOAD_MAX_MEMORY_SIZE = 10_000_000  # of a request, without its files
DATA_UPLOAD_MAX_NUMBER_FIELDS = 5000
FILE_UPLOAD_TEMP_DIR = str(STATE)  # not in /tmp, which may be in memory

# The database converts times to this zone.
USE_TZ = False
TIME_ZONE = os.environ.get("TZ") or "UTC"
LANGUAGE_CODE = "en"
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {"django.request": {"level": "ERROR"}, "poser_web.auth": {"level": "INFO"}},
    "root": {"handlers": ["stderr"], "level": "WARNING"},
}
