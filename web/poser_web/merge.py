"""Two rows become one: the rows that refer to one of them are moved to the other, which remains.

The page shows both rows, field by field, and the rows that refer to them.  A POST locks both
rows in the order of their keys, then the rows that refer to them.  It compares digests of all
of them with those of the page, and writes only if nothing has changed.

The foreign keys of all tables count, also of tables that the role may not see.  If ON DELETE of a
foreign key would delete or change rows, and the role cannot move all of them, the merge is
refused.  Without such an action the database itself refuses it.
"""
import json
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import PermissionDenied
from django.db import DatabaseError, connection, transaction
from django.http import HttpResponseRedirect
from django.urls import path

from . import errors, models
from .history import HistoryPages, run
from .rowforms import read_seen, row_digest

SHOWN = 200  # components that the page shows, at most

# The foreign keys that refer to a table: whether a DELETE there acts on their rows, and whether the role may move them.
REFERENCES = """
SELECT c.oid::int8, n.nspname, c.relname AS name, k.conname AS constraint, a.attname, k.confkey[1] AS to, k.confdeltype IN ('c', 'n', 'd') AS acts,
       pg_catalog.cardinality(k.conkey) = 1 AND has_schema_privilege(n.oid, 'USAGE')
           AND has_column_privilege(c.oid, a.attnum, 'SELECT') AND has_column_privilege(c.oid, a.attnum, 'UPDATE') AS movable,
       row_security_active(c.oid) AS hides,
       ARRAY(SELECT r.attname::text FROM pg_catalog.pg_attribute r
              WHERE r.attrelid = c.oid AND r.attnum > 0 AND NOT r.attisdropped
                AND has_column_privilege(c.oid, r.attnum, 'SELECT') ORDER BY r.attnum) AS readable,
       ARRAY(SELECT r.attname::text FROM pg_catalog.pg_index i JOIN pg_catalog.pg_attribute r ON r.attrelid = c.oid AND r.attnum = ANY (i.indkey)
              WHERE i.indrelid = c.oid AND i.indisprimary AND has_column_privilege(c.oid, r.attnum, 'SELECT') ORDER BY r.attnum) AS key
  FROM pg_catalog.pg_constraint k
  JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.conkey[1]
 WHERE k.confrelid = %s AND k.contype = 'f' AND k.conparentid = 0
 ORDER BY c.oid, k.conname
"""


class Refused(Exception):
    """The merge is refused and rolled back.  The message is for the user."""


class MergePages(HistoryPages):
    """For the table of widgets."""

    def get_urls(self):
        name = f"{models.LABEL}_{self.relation.model_name}_merge"
        return [path("merge/", self.admin_site.admin_view(self.merge_view), name=name), *super().get_urls()]

    def has_merge_permission(self, request):
        if not (self.has_change_permission(request) and self.has_delete_permission(request)):
            return False
        if not hasattr(request, "poser_merges"):  # Django asks several times for a page
            request.poser_merges = all(reference.movable for reference in self.references() if reference.name == "poser_component")
        return request.poser_merges

    def changelist_view(self, request, extra_context=None):
        return super().changelist_view(request, {"merges": self.has_merge_permission(request), **(extra_context or {})})

    @admin.action(permissions=["merge"], description="Merge two selected %(verbose_name_plural)s")
    def merge_selected(self, request, queryset):
        keys = request.POST.getlist(ACTION_CHECKBOX_NAME)
        if len(keys) != 2:
            self.message_user(request, "Select exactly two rows to merge.", messages.ERROR)
            return None
        return HttpResponseRedirect(f"{self.address('merge')}?{urlencode(dict(zip('ab', keys)))}")

    def merge_view(self, request):
        if not self.has_merge_permission(request):
            raise PermissionDenied
        data = request.POST or request.GET
        keys, context, said = [data.get(side, "").strip() for side in "ab"], {}, None
        if all(keys):
            if "seen" in request.POST:
                try:
                    with transaction.atomic():
                        kept, done = self.merge(request, keys)
                    self.message_user(request, done, messages.SUCCESS)
                    return HttpResponseRedirect(self.address("change", kept.pk))
                except Refused as error:
                    said = f"Nothing was written: {error}"
                except DatabaseError as error:
                    if errors.lost(error):
                        raise
                    said = f"Nothing was written.  {errors.text_of(error)}"
            try:
                context = self.describe(request, self.rows(self.get_queryset(request), keys))
            except Refused as error:
                said = str(error)
            if said:
                self.message_user(request, said, messages.ERROR)
        return self.page(request, "merge", title="Merge", keys=keys, **context)

    def fields(self, request):
        return [field for field in self.readable(request) if not field.primary_key]

    def rows(self, queryset, keys):
        """The two rows, in the order of the keys."""
        found = {row.pk: row for row in queryset.filter(pk__in=keys).order_by("pk")}
        for key in keys:
            if key not in found:
                raise Refused(f"There is no {self.relation.name} {key:.80} that you may change.")
        if len(found) < 2:
            raise Refused("Select two different rows to merge.")
        return [found[key] for key in keys]

    def references(self):
        """The foreign keys that refer to the table."""
        references = run(REFERENCES, [self.relation.oid])
        for reference in references:
            reference.label = reference.name if reference.nspname == "public" else f"{reference.nspname}.{reference.name}"
            reference.sql, reference.column = models.quoted(reference.nspname, reference.name), models.quoted(reference.attname)
            reference.to = self.model._meta.get_field(self.relation.field(reference.to)).attname
            reference.refused = reference.acts and (reference.hides or not reference.movable)
        return references

    def component_pages(self, request):
        """The pages of components, if the role may read their item codes."""
        pages = next(other for other in self.admin_site._registry.values() if other.relation.own and other.relation.name == "poser_component")
        fields = [field.name for field in pages.readable(request)]
        return pages if {"uuid", "widget_uuid", "item_code"} <= set(fields) else None

    def seen(self, request, rows, references):
        """Digests of both rows, and of the rows that refer to them."""
        seen = {str(row): row_digest(row, self.fields(request)) for row in rows}
        for other in references:
            digest = None
            if other.movable:
                line = f"pg_catalog.md5(ROW({', '.join(map(models.quoted, other.readable))})::text)"
                statement = f"SELECT md5(string_agg({line}, '' ORDER BY {line})) AS text FROM {other.sql} WHERE {other.column} IN (%s, %s)"
                digest = run(statement, [getattr(row, other.to) for row in rows])[0].text
            seen[f"rows of {other.label} ({other.constraint})"] = digest
        return seen

    def describe(self, request, rows):
        """The context of the page about two rows."""
        references, chosen, pages = self.references(), request.POST, self.component_pages(request)
        writable = self.writable(request)
        fields = []
        for field in self.fields(request):
            values = [getattr(row, field.attname) for row in rows]
            fields.append({
                "name": field.name,
                "label": field.verbose_name,
                "values": list(zip("ab", values)),
                "chosen": chosen.get(f"field-{field.name}", "a"),
                "choice": values[0] != values[1] and field.info["number"] in writable,
                "differs": values[0] != values[1],
            })
        for other in references:
            if other.movable:
                statement = f"SELECT count(*) FROM {other.sql} WHERE {other.column} = %s"
                other.counts = [run(statement, [getattr(row, other.to)])[0].count for row in rows]
        context = {"components": None}
        if pages:
            components, both = pages.get_queryset(request).filter(widget_uuid__in=[row.pk for row in rows]), self.codes_in_both(request, pages, rows)
            conflicts = list(components.filter(item_code__in=both).order_by("item_code", "pk")[:SHOWN])
            others = list(components.exclude(pk__in=[row.pk for row in conflicts]).order_by("item_code", "pk")[:SHOWN])
            context = {
                "components": [(row, row.item_code in both, pages.values(request, row).values()) for row in conflicts + others],
                "names": [field.verbose_name for field in pages.readable(request)],
                "conflicts": conflicts,
                "may_drop": pages.has_delete_permission(request),
                "dropped": chosen.getlist("drop"),
                "more": components.count() - len(conflicts) - len(others),
            }
        return {
            **context,
            "rows": list(zip("ab", rows)),
            "remains": chosen.get("remains", "a"),
            "fields": fields,
            "hidden": len(self.relation.columns) > len(self.readable(request)),
            "references": references,
            "seen": json.dumps(self.seen(request, rows, references)),
            "why": chosen.get("why", f"merge of {rows[0]} and {rows[1]}")[:255],
        }

    def codes_in_both(self, request, pages, rows):
        """The item codes that both widgets have."""
        codes = [set(pages.get_queryset(request).filter(widget_uuid=row.pk).values_list("item_code", flat=True)) for row in rows]
        return (codes[0] & codes[1]) - {None}

    def merge(self, request, keys):
        """Merge the rows.  Returns the one that remains, and a message."""
        rows = self.rows(self.get_queryset(request).select_for_update(of=()), keys)
        sides, references = dict(zip("ab", rows)), self.references()
        kept = sides.get(request.POST.get("remains"))
        if kept is None:
            raise Refused("say which of the two remains.")
        gone = rows[0] if kept is rows[1] else rows[1]
        for other in references:
            if other.refused:
                why = "row-level security may hide some of them" if other.movable else "you may not move them"
                raise Refused(f"to delete {gone} would delete or change rows of {other.label}, and {why}.")
            if other.movable:
                order = ", ".join(map(models.quoted, other.key or [other.attname]))
                statement = f"SELECT FROM {other.sql} WHERE {other.column} IN (%s, %s) ORDER BY {order} FOR NO KEY UPDATE"
                run(statement, [getattr(row, other.to) for row in rows])
        seen, now = read_seen(request.POST["seen"]), self.seen(request, rows, references)
        changed = [name for name in {**now, **seen} if seen.get(name, 0) != now.get(name, 0)]
        if changed:
            raise Refused(f"these have changed meanwhile: {', '.join(changed)}.  Look at both again.")
        done = [f"Merged {gone} into {kept}.", *self.drop(request, rows)]
        for other in references:
            if other.movable:
                where = f"WHERE {other.column} = %s"
                (count,) = run(f"SELECT count(*) FROM {other.sql} {where}", [getattr(gone, other.to)])
                with connection.cursor() as cursor:
                    cursor.execute(f"UPDATE {other.sql} SET {other.column} = %s {where}", [getattr(kept, other.to), getattr(gone, other.to)])
                    if cursor.rowcount != count.count:
                        raise Refused(f"a policy or a trigger keeps {count.count - cursor.rowcount} of {count.count} rows of {other.label} from moving.")
                if count.count:
                    done.append(f"Rows of {other.label} moved: {count.count}.")
        values = {
            field.name: getattr(sides[request.POST[f"field-{field.name}"]], field.attname)
            for field in self.fields(request)
            if sides.get(request.POST.get(f"field-{field.name}"), kept) is not kept
        }
        if self.get_queryset(request).filter(pk=gone.pk).delete()[0] != 1:
            raise Refused(f"a policy or a trigger keeps {gone} from being deleted.")
        if values and self.get_queryset(request).filter(pk=kept.pk).update(**values) != 1:
            raise Refused(f"a policy or a trigger keeps {kept} from being changed.")
        self.check_constraints()
        return kept, "  ".join(done)

    def drop(self, request, rows):
        """Delete the components that the user has ticked.  Yields a message."""
        keys = request.POST.getlist("drop")
        if keys:
            pages = self.component_pages(request)
            if pages is None or not pages.has_delete_permission(request):
                raise PermissionDenied
            chosen = pages.get_queryset(request).filter(pk__in=keys, widget_uuid__in=[row.pk for row in rows], item_code__in=self.codes_in_both(request, pages, rows))
            if chosen.delete()[0] != len(set(keys)):
                raise Refused("you may not delete the chosen components, or their codes are no longer in both.")
            yield f"Components deleted: {len(set(keys))}."
