"""The peer of the web admin in the benchmark: Django's admin over a plain table.

Its pages are those of a ModelAdmin with columns and a search, and nothing else.  It reads
and writes Django's own tables, too.  gunicorn runs web_plain:application.  The
environment names the server and the database, as for libpq.
"""
import os

import django
from django.apps import AppConfig
from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "NAME": os.environ["PGDATABASE"], "CONN_MAX_AGE": 600}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=[
        "django.contrib.admin",
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.messages",
        "django.contrib.sessions",
        "web_plain.Plain",
    ],
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
    ],
    ROOT_URLCONF="web_plain",
    SECRET_KEY=os.environ["WEB_PLAIN_SECRET"],
    STATIC_URL="/static/",
    TEMPLATES=[
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
    ],
    USE_TZ=True,
)


class Plain(AppConfig):
    name = "web_plain"


django.setup()

from django.contrib import admin  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.db import models  # noqa: E402
from django.urls import path  # noqa: E402


class Widget(models.Model):
    uuid = models.CharField(max_length=40, primary_key=True)
    description = models.CharField(max_length=255)
    active = models.BooleanField(default=True)

    class Meta:
        app_label = "web_plain"
        db_table = "plain_widget"
        managed = False


@admin.register(Widget)
class WidgetAdmin(admin.ModelAdmin):
    list_display = ["uuid", "description", "active"]
    search_fields = ["uuid", "description"]
    list_per_page = 50


urlpatterns = [path("", admin.site.urls)]


def make(password):
    """Django's own tables, with a user."""
    call_command("migrate", verbosity=0)
    User.objects.create_superuser("bench", password=password)


application = get_wsgi_application()
