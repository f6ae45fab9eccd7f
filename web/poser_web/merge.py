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
from django.http import HttpResponseRedirect

from . import errors, models
from .history import HistoryPages
from .rowforms import read_seen
from .statements import Refused, attempt, check_constraints, run

# The foreign keys that refer to a table: whether a DELETE there acts on their rows, and whether the role may move them.
REFERENCES = """
SELECT n.nspname, c.relname AS name, k.conname AS constraint, a.attname, k.confkey[1] AS to, k.confdeltype IN ('c', 'n', 'd') AS acts,
       pg_catalog.cardinality(k.conkey) = 1 AND has_schema_privilege(n.oid, 'USAGE')
           AND has_column_privilege(c.oid, a.attnum, 'SELECT') AND has_column_privilege(c.oid, a.attnum, 'UPDATE') AS movable,
       row_security_active(c.oid) AS hides,
       ARRAY(SELECT r.attname::text FROM pg_catalog.pg_attribute r
              WHERE r.attrelid = c.oid AND r.attnum > 0 AND NOT r.attisdropped
                AND has_column_privilege(c.oid, r.attnum, 'SELECT') ORDER BY r.attnum) AS readable
  FROM pg_catalog.pg_constraint k
  JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.conkey[1]
 WHERE k.confrelid = %s AND k.contype = 'f' AND k.conparentid = 0
 ORDER BY c.oid, k.conname
"""


class MergePages(HistoryPages):
    """For the table of widgets."""

    def get_urls(self):
        return [self.named("merge/", self.merge_view, "merge"), *super().get_urls()]

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
        data, context = request.POST or request.GET, None
        keys = [data.get(side) for side in "ab"]
        if "seen" in request.POST and None not in keys:
            done, error = attempt(self.merge, request, keys)
            if done:
                kept, said = done
                self.message_user(request, said, messages.SUCCESS)
                return HttpResponseRedirect(self.address("change", kept.pk))
            self.message_user(request, f"Nothing was written: {errors.text_of(error)}", messages.ERROR)
        if None not in keys:
            context, error = attempt(self.describe, request, keys)
            if error:
                self.message_user(request, errors.sentence(errors.text_of(error)), messages.ERROR)
        return self.page(request, "merge", title="Merge", keys=[key or "" for key in keys], **(context or {}))

    def fields(self, request):
        return [field for field in self.readable(request) if not field.primary_key]

    def references(self):
        """The foreign keys that refer to the table."""
        references = run(REFERENCES, [self.relation.oid])
        for other in references:
            other.label = other.name if other.nspname == "public" else f"{other.nspname}.{other.name}"
            other.sql, other.column = models.quoted(other.nspname, other.name), models.quoted(other.attname)
            other.to = self.model._meta.get_field(self.relation.field(other.to)).attname
            other.refused = other.acts and (other.hides or not other.movable)
        return references

    def look(self, request, keys, lock=False):
        """The two rows, in the order of the keys; the foreign keys, with the numbers of the rows that refer to both; and
        digests of all these rows."""
        rows = self.with_digest(request).filter(pk__in=keys).order_by("pk")
        found = {row.pk: row for row in (rows.select_for_update(of=()) if lock else rows)}
        for key in keys:
            if key not in found:
                raise Refused(f"there is no {self.relation.name} {key:.80} that you may change.")
        if len(found) < 2:
            raise Refused("select two different rows.")
        rows, references = [found[key] for key in keys], self.references()
        seen = {str(row): row.Digest for row in rows}
        for other in references:
            if not other.movable:
                continue
            values = [getattr(row, other.to) for row in rows]
            where = f"FROM {other.sql} WHERE {other.column} IN (%s, %s)"
            if lock:
                run(f"SELECT {where} FOR NO KEY UPDATE", values)
            line = f"pg_catalog.md5(ROW({', '.join(map(models.quoted, other.readable))})::text)"
            counts = ", ".join(f"count(*) FILTER (WHERE {other.column} = %s) AS {side}" for side in "ab")
            (both,) = run(f"SELECT {counts}, md5(string_agg({line}, '' ORDER BY {line})) AS digest {where}", values * 2)
            other.counts = {rows[0]: both.a, rows[1]: both.b}
            seen[f"rows of {other.label} ({other.constraint})"] = both.digest
        return rows, references, seen

    def describe(self, request, keys):
        """The context of the page about two rows."""
        rows, references, seen = self.look(request, keys)
        chosen, writable = request.POST, self.writable(request)
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
            other.lines = list(other.counts.items()) if other.movable else []
        return {
            "rows": list(zip("ab", rows)),
            "remains": chosen.get("remains", "a"),
            "fields": fields,
            "hidden": len(self.relation.columns) > len(self.readable(request)),
            "references": references,
            "seen": json.dumps(seen),
            "why": chosen.get("why", f"merge of {rows[0]} and {rows[1]}")[:255],
        }

    def merge(self, request, keys):
        """Merge the rows.  Returns the one that remains, and a message."""
        rows, references, now = self.look(request, keys, lock=True)
        seen, sides = read_seen(request.POST["seen"]), dict(zip("ab", rows))
        changed = [name for name in {**now, **seen} if seen.get(name, 0) != now.get(name, 0)]
        if changed:
            raise Refused(f"these have changed meanwhile: {', '.join(changed)}.  Look at both again.")
        kept = sides.get(request.POST.get("remains"))
        if kept is None:
            raise Refused("say which of the two remains.")
        gone = rows[0] if kept is rows[1] else rows[1]
        done = [f"Merged {gone} into {kept}."]
        for other in references:
            if other.refused:
                why = "row-level security may hide some of them" if other.movable else "you may not move them"
                raise Refused(f"to delete {gone} would delete or change rows of {other.label}, and {why}.")
            if other.movable:
                statement = f"UPDATE {other.sql} SET {other.column} = %s WHERE {other.column} = %s RETURNING 1 AS moved"
                moved, count = len(run(statement, [getattr(kept, other.to), getattr(gone, other.to)])), other.counts[gone]
                if moved != count:
                    raise Refused(f"a policy or a trigger keeps {count - moved} of {count} rows of {other.label} from moving.")
                if count:
                    done.append(f"Rows of {other.label} moved: {count}.")
        values = {
            field.name: getattr(sides[request.POST[f"field-{field.name}"]], field.attname)
            for field in self.fields(request)
            if sides.get(request.POST.get(f"field-{field.name}"), kept) is not kept
        }
        if self.get_queryset(request).filter(pk=gone.pk).delete()[0] != 1:
            raise Refused(f"a policy or a trigger keeps {gone} from being deleted.")
        if values and self.get_queryset(request).filter(pk=kept.pk).update(**values) != 1:
            raise Refused(f"a policy or a trigger keeps {kept} from being changed.")
        check_constraints()
        return kept, "  ".join(done)
