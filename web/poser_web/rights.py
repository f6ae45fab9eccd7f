"""The privileges of a request's role on tables and columns, and the permissions of Django that follow from them."""
import types

from django.contrib import admin
from django.contrib.admin.utils import quote
from django.db import connection
from django.template.response import TemplateResponse
from django.urls import path, register_converter, reverse
from django.urls.converters import PathConverter


def rights(request):
    """The role's privileges by the oids of the tables: the numbers of the columns that it may
    select, insert and update, and whether it may delete.  A request asks for them once."""
    if not hasattr(request, "poser_rights"):
        oids = [model.relation.oid for model in request.urlconf.site._registry]
        with connection.cursor() as cursor:
            cursor.execute(
                """
                SELECT c.oid::int8,
                       pg_catalog.array_agg(a.attnum) FILTER (WHERE pg_catalog.has_column_privilege(c.oid, a.attnum, 'SELECT')),
                       pg_catalog.array_agg(a.attnum) FILTER (WHERE pg_catalog.has_column_privilege(c.oid, a.attnum, 'INSERT')),
                       pg_catalog.array_agg(a.attnum) FILTER (WHERE pg_catalog.has_column_privilege(c.oid, a.attnum, 'UPDATE')),
                       pg_catalog.has_table_privilege(c.oid, 'DELETE')
                  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid
                 WHERE c.oid = ANY (%s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
                   AND pg_catalog.has_schema_privilege(c.relnamespace, 'USAGE')
                 GROUP BY c.oid
                """,
                [oids],
            )
            request.poser_rights = {
                oid: types.SimpleNamespace(select=set(s or ()), insert=set(i or ()), update=set(u or ()), delete=d)
                for oid, s, i, u, d in cursor
            }
    return request.poser_rights


NOTHING = types.SimpleNamespace(select=set(), insert=set(), update=set(), delete=False)


def page(request, template, **context):
    """A page.  Templates find what all pages show in the context, too."""
    return TemplateResponse(request, f"poser_web/{template}.html", {**request.urlconf.site.each_context(request), **context})


def all_pages(request):
    """The pages of each table and view."""
    return request.urlconf.site._registry.values()


def pages_of(request, oid):
    """The pages of the table or view with this oid, or None."""
    return next((pages for pages in all_pages(request) if pages.relation.oid == oid), None)


class InPath(PathConverter):
    """A key in an address.  A path cannot have an empty text, "." or ".." as a part of its own.  Django's quote() writes no other "_"."""

    TEXTS = {"": "_", ".": "_2E", "..": "_2E_2E"}

    def to_url(self, value):
        return self.TEXTS.get(value, value)

    def to_python(self, text):
        return next((value for value, other in self.TEXTS.items() if other == text), text)


register_converter(InPath, "key")


class Pages(admin.ModelAdmin):
    """The base class of the pages of a table or view: addresses and permissions."""

    def named(self, address, view, name):
        """For get_urls(): the address of a view, below that of the grid."""
        return path(address, self.admin_site.admin_view(view), name=f"{self.opts.app_label}_{self.opts.model_name}_{name}")

    def address(self, name, *values):
        """The address of a page of this table."""
        return reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_{name}", args=[quote(value) for value in values])

    def get_urls(self):
        """Django's addresses, with InPath for the key of a row."""
        return [path(str(url.pattern).replace("<path:", "<key:"), url.callback, name=url.name) for url in super().get_urls()]

    def page(self, request, template, **context):
        return page(request, template, opts=self.opts, **context)

    @property
    def relation(self):
        return self.model.relation

    def may(self, request):
        return rights(request).get(self.relation.oid, NOTHING)

    def has_module_permission(self, request):
        return self.has_view_permission(request)

    def has_view_permission(self, request, obj=None):
        return set(self.relation.key) <= self.may(request).select

    def has_add_permission(self, request):
        return not self.relation.is_view and bool(self.may(request).insert)

    def has_change_permission(self, request, obj=None):
        return not self.relation.is_view and bool(self.may(request).update) and self.has_view_permission(request)

    def has_delete_permission(self, request, obj=None):
        return not self.relation.is_view and self.may(request).delete and self.has_view_permission(request)

    def names(self, request, numbers):
        """The names of the fields of these columns, in the table's order."""
        return [self.relation.field(number) for number in self.relation.columns if number in numbers]

    def get_queryset(self, request):
        hidden = set(self.relation.columns) - self.may(request).select
        return super().get_queryset(request).defer(*self.names(request, hidden))
