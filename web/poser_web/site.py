"""The site: the addresses of all pages.

Each set of models (models.make_models()) has its own Site, with one Table for each model.
urlconf() returns the addresses for a request, and makes a new set if the catalogs have
changed.
"""
import threading

from django.contrib import admin
from django.contrib.admin.forms import AdminAuthenticationForm
from django.contrib.auth import logout
from django.http import HttpResponseRedirect
from django.urls import clear_url_caches, path, reverse
from django.utils.cache import patch_cache_control

from . import batches, errors, models, operations, tables


class LoginForm(AdminAuthenticationForm):
    error_messages = {"invalid_login": "The user or the password is wrong, or this user may not log in here.  Upper and lower case matter."}


class Site(admin.AdminSite):
    login_form = LoginForm
    site_title = site_header = "Poser"
    index_title = "Start"
    site_url = None

    def has_permission(self, request):
        return request.user.is_authenticated

    def logout(self, request, extra_context=None):
        """By POST only, so that a link from another site cannot log out."""
        if request.method != "POST":
            return errors.page(405, "Use the button “Log out”.")
        logout(request)
        return HttpResponseRedirect(reverse("admin:login"))

    def i18n_javascript(self, request, extra_context=None):
        """The texts of Django's scripts.  They are the same on all pages, so the browser keeps them for an hour."""
        response = super().i18n_javascript(request, extra_context)
        patch_cache_control(response, private=True, max_age=3600)
        return response

    def get_urls(self):
        def view(address, function, name):
            return path(address, self.admin_view(function), name=name)

        # Passwords are PostgreSQL's.  /r/ would read a table that is not there.
        gone = ("password_change", "password_change_done", "view_on_site")

        return [
            view("check/", operations.check, "check"),
            view("transactions/", operations.transactions, "transactions"),
            view("transactions/<int:id>/", operations.one_transaction, "transaction"),
            view("datasync/", operations.datasync, "datasync"),
            view("datasync/<key:name>/", operations.consumer, "consumer"),
            view("batches/", batches.list_view, "batches"),
            view("batches/<str:uuid>/", batches.batch_view, "batch"),
            view("batches/<str:uuid>/<str:sequence>/", batches.row_view, "batch_row"),
            *(address for address in super().get_urls() if getattr(address, "name", None) not in gone),
        ]

    def get_app_list(self, request, app_label=None):
        """The tables that the role may see, in groups."""
        groups = {title: [] for title in ("Tables", "Maintained views", "Poser")}
        for model, pages in self._registry.items():
            if pages.has_view_permission(request):
                relation, name = model.relation, f"admin:tables_{model.relation.model_name}"
                title = "Poser" if relation.own else "Maintained views" if relation.is_view else "Tables"
                adds = pages.has_add_permission(request)
                groups[title].append({
                    "name": relation.name if relation.schema == "public" or relation.own else f"{relation.schema}.{relation.name}",
                    "object_name": relation.model_name,
                    "comment": relation.comment,
                    "admin_url": reverse(f"{name}_changelist"),
                    "add_url": reverse(f"{name}_add") if adds else None,
                    "view_only": not pages.has_change_permission(request),
                })
        return [
            {"name": title, "app_label": title.replace(" ", "_").lower(), "app_url": reverse("admin:index"), "models": found}
            for title, found in groups.items() if found
        ]

    def app_index(self, request, app_label, extra_context=None):
        return HttpResponseRedirect(reverse("admin:index"))

    def index(self, request, extra_context=None):
        return super().index(request, {**operations.start(request), **(extra_context or {})})


lock = threading.Lock()
present = None  # the set of models that new requests get


def urlconf():
    """The addresses for a request.  The set of models is made again if the catalogs have changed."""
    global present
    snapshot = models.snapshot()
    if present is None or present.snapshot != snapshot:
        fingerprint = models.read_catalogs(models.FINGERPRINT)
        with lock:
            if present is None or present.fingerprint != fingerprint:
                site = Site()
                for model in models.make_models(models.read_catalogs(models.RELATIONS)):
                    special = tables.SPECIAL.get(model.relation.name) if model.relation.own else None
                    site.register(model, special or tables.Table)
                clear_url_caches()
                present = Urlconf(fingerprint, site)
            present.snapshot = snapshot
    return present


class Urlconf:
    """An object that Django accepts as a module of addresses."""

    snapshot = None  # the snapshot in which the fingerprint was read last

    def __init__(self, fingerprint, site):
        self.fingerprint, self.site, self.urlpatterns = fingerprint, site, [path("", site.urls)]
