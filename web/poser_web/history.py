"""The history of a row, revert, deleted rows and undelete, and the grid as of a time.

All of it comes from poser_history(), poser_as_of() and poser_revert(), which are called as
the role of the request.  The rules for what a role may see:

- The role needs SELECT on the key of the table, and on all columns of the table of versions.
- A column that the role may not SELECT in the table is not shown from the past either, and a
  change of only such columns is left out.  Columns that were dropped are shown to roles
  that may SELECT the whole table.
- If row-level security applies to the role in the table of versions, its policies decide.  If
  it applies in the table only, the role sees the last version of each row that it sees now,
  and no deleted rows, because the policies of the table cannot judge former rows.  Poser's
  functions follow this rule.  "Deleted rows" reads the table of versions itself, and has the
  same rule.
- Under row-level security nothing can be reverted, because a revert could write hidden rows.

The preview of a revert is the revert itself, in a savepoint: rows are locked and read,
reverted, read again, and the savepoint is rolled back.  The page shows the differences, and
its form has a digest of the values that would be overwritten.  The revert does all of this
once more, and is kept if the digest is the same.  So each value that is overwritten was
shown.  Values that a trigger writes, such as the time, may differ from the preview.
"""
import hashlib
import json
import types
from urllib.parse import urlencode

from django.conf import settings
from django.contrib import messages
from django.contrib.admin.utils import quote, unquote
from django.core.exceptions import PermissionDenied
from django.db import DatabaseError, connection, transaction
from django.db.models import Q
from django.http import Http404, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, path, reverse

from . import errors, models
from .grids import Grid, read_from
from .rowforms import FormPages

PER_PAGE = 50

### Statements


def run(statement, values=()):
    """The rows that a statement returns.  Their columns are attributes."""
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        names = [column[0] for column in cursor.description]
        return [types.SimpleNamespace(**dict(zip(names, row))) for row in cursor]


def attempt(function, *values):
    """Call the function in a savepoint.  Returns (its result, None), or (None, the error) after a rollback."""
    try:
        with transaction.atomic():
            return function(*values), None
    except DatabaseError as error:
        if errors.lost(error):
            raise
        return None, error


def said(error):
    return error and errors.text_of(error)


def whole_number(value):
    """The text of an address or a form as a bigint, or None."""
    return int(value) if value and value.isascii() and value.isdigit() and len(value) < 19 else None


def granted(name):
    """The columns that the role may read of this relation of the extension, in their order."""
    rows = run(
        """
        SELECT a.attname
          FROM pg_catalog.pg_extension e
          JOIN pg_catalog.pg_class c ON c.relnamespace = e.extnamespace
          JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid
         WHERE e.extname = 'poser' AND c.relname = %s AND a.attnum > 0 AND NOT a.attisdropped
           AND pg_catalog.has_schema_privilege(c.relnamespace, 'USAGE') AND pg_catalog.has_column_privilege(c.oid, a.attnum, 'SELECT')
         ORDER BY a.attnum
        """,
        [name],
    )
    return [row.attname for row in rows]


def may_transactions():
    """Whether the role may read the list of transactions."""
    return {"id", "issued_at", "username", "role_name", "comment"} <= set(granted("poser_transaction"))


### Privileges on the history

PAST = """
SELECT t.oid::int8, pg_catalog.has_schema_privilege(v.relnamespace, 'USAGE') AND (
           SELECT pg_catalog.bool_and(pg_catalog.has_column_privilege(v.oid, a.attnum, 'SELECT'))
             FROM pg_catalog.pg_attribute a WHERE a.attrelid = v.oid AND a.attnum > 0 AND NOT a.attisdropped) AS granted,
       pg_catalog.row_security_active(t.oid) AS rows, pg_catalog.row_security_active(v.oid) AS own_rows,
       pg_catalog.has_table_privilege(t.oid, 'SELECT') AS whole, n.nspname, v.relname,
       (SELECT pg_catalog.json_object_agg(a.attnum, a.attname)::text
          FROM pg_catalog.pg_attribute a WHERE a.attrelid = v.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns,
       pg_catalog.concat_ws('.', (pg_catalog.pg_control_system()).system_identifier, d.oid, t.oid, v.oid) AS here, b.tgargs
  FROM ROWS FROM (pg_catalog.unnest(%s::oid[]), pg_catalog.unnest(%s::oid[])) AS l (target, versions)
  JOIN pg_catalog.pg_class t ON t.oid = l.target
  JOIN pg_catalog.pg_class v ON v.oid = l.versions
  JOIN pg_catalog.pg_namespace n ON n.oid = v.relnamespace
  JOIN pg_catalog.pg_database d ON d.datname = pg_catalog.current_database()
  LEFT JOIN pg_catalog.pg_trigger b ON b.tgrelid = v.oid AND b.tgconstrrelid = t.oid AND b.tgname = 'poser_versions_of'
"""

# A row in jsonb as a JSON object of texts, with the columns that the role may see.
TEXTS = """
(SELECT pg_catalog.json_object_agg(f.key, CASE WHEN pg_catalog.length(f.value) <= 2000 THEN f.value
                                               ELSE pg_catalog.left(f.value, 2000) || '…' END)::text
   FROM pg_catalog.jsonb_each_text({row}) f
  WHERE (%(shown)s::text[] IS NULL OR f.key = ANY (%(shown)s::text[]))
    AND (h.operation <> 'update' OR h.changed IS NULL OR f.key = ANY (h.changed)))
"""

# Changes, as poser_history() has them.
CHANGES = f"""
SELECT h.change_id, h.transaction_id, pg_catalog.date_trunc('second', h.issued_at)::text AS time, h.username, h.role_name, h.comment,
       h.operation, h.changed IS NULL AND h.operation = 'update' AS alone, {{key}} AS key,
       {TEXTS.format(row="CASE WHEN h.operation <> 'update' OR h.changed IS NOT NULL THEN h.old END")} AS old,
       {TEXTS.format(row="h.new")} AS new
  FROM {{source}}
 WHERE {{condition}} AND (%(shown)s::text[] IS NULL OR h.operation <> 'update' OR h.changed IS NULL OR h.changed && %(shown)s::text[])
 ORDER BY h.change_id {{order}}
"""


class Past:
    """What a role may read of the history of a table.

    sql is the table of versions.  columns maps the numbers of the table's columns to the quoted
    names of their columns there."""

    read = revert = rows = only_last = False

    def __init__(self, relation, may, row):
        self.relation, self.columns = relation, {}
        if row is None:  # a table that was dropped meanwhile, or a view
            return
        self.sql = models.quoted(row.nspname, row.relname)
        versions = {int(number): name for number, name in json.loads(row.columns or "{}").items()}
        numbers = {column["name"]: number for number, column in relation.columns.items()}
        names = "operation_type", "transaction_id", "change_id"
        if row.tgargs is None:  # a table of the extension
            self.columns = {numbers[name]: name for name in versions.values() if name in numbers}
        else:
            # The arguments of the trigger that binds both tables: the two tables, three names,
            # and for each column both numbers and both names.  The numbers hold in the
            # database where the trigger was made.
            words = [word.decode("utf-8", "replace") for word in bytes(row.tgargs).split(b"\0")[:-1]]
            names = words[2:5]
            for pair, ours, theirs in zip(words[5::3], words[6::3], words[7::3]):
                number, there = map(int, pair.split())
                if words[0] == row.here:
                    theirs = versions.get(there)
                else:
                    number = numbers.get(ours)
                if there and theirs in versions.values() and number in relation.columns:
                    self.columns[number] = theirs
        self.columns = {number: models.quoted(name) for number, name in self.columns.items()}
        self.operation, self.transaction_id, self.change_id = map(models.quoted, names)
        self.key = [self.columns.get(number) for number in relation.key]  # None for a column that the history does not follow yet
        readable = set(self.columns) <= may.select
        self.only_last = row.rows and not row.own_rows  # all versions but the last are hidden
        self.rows = row.rows or row.own_rows
        self.read = bool(row.granted) and set(relation.key) <= may.select and (readable or not self.only_last)
        self.revert = self.read and not self.rows and readable
        # The names that the role may see; None stands for all.
        self.shown = None if row.whole else [relation.columns[n]["name"] for n in relation.columns if n in self.columns and n in may.select]

    def same_row(self, other):
        return " AND ".join(f"{other}.{name} = v.{name}" for name in self.key)

    @property
    def visible(self):
        """The condition for the versions "v" that poser_history() shows to the role."""
        change = self.change_id
        if self.only_last:
            key = [f"r.{models.quoted(self.relation.columns[n]['name'])} = v.{name}" for n, name in zip(self.relation.key, self.key)]
            return (
                f"EXISTS (SELECT FROM {self.relation.sql} r WHERE {' AND '.join(key)})"
                f" AND NOT EXISTS (SELECT FROM {self.sql} l WHERE {self.same_row('l')} AND l.{change} > v.{change})"
            )
        if self.shown is None:
            return "true"
        # An update of only other columns is left out.
        names = [name for number, name in self.columns.items() if self.relation.columns[number]["name"] in self.shown]
        now, before = (f"ROW({', '.join(f'{alias}.{name}' for name in names)})::text" for alias in "vl")
        return (
            f"(v.{self.operation} <> 1 OR {now} IS DISTINCT FROM (SELECT {before} FROM {self.sql} l"
            f" WHERE {self.same_row('l')} AND l.{change} < v.{change} ORDER BY l.{change} DESC LIMIT 1))"
        )


class PastGrid(Grid):
    """A grid that can be as of a time.  Then each query computes the rows of that time, so it makes few queries."""

    @property
    def is_past(self):
        return bool(self.params.get("as_of"))

    def searched(self, request):
        return self.read(request, self.queryset) if self.is_past else super().searched(request)

    def count(self, queryset, seen, more):
        if not self.is_past:
            return super().count(queryset, seen, more)
        self.total = queryset.order_by().values("pk").count() if seen is None else seen + more
        self.total_text = f"{self.total:,}" if seen is None or not more else f"more than {seen:,}"

    def values(self, row):
        """None as of a time, so that pages have numbers.  Keyset pages would need several queries."""
        return None if self.is_past else super().values(row)

    @property
    def without_time(self):
        """The other parameters of the address."""
        return [(name, value) for name, value in self.params.items() if name != "as_of"]

    @property
    def as_of_now(self):
        """The address of the grid without the time."""
        return self.get_query_string(remove=["as_of"])

    def url_for_result(self, row):
        if not self.is_past:
            return super().url_for_result(row)
        address = self.model_admin.address("history", row.pk)
        if not address:
            raise NoReverseMatch  # then Django shows no link
        return address + "?" + urlencode({"as_of": self.params["as_of"]})


class HistoryPages(FormPages):
    # Django's own log would need a table.

    def log_addition(self, request, *what):
        pass

    log_change = log_deletion = log_deletions = log_addition

    def past(self, request):
        """The Past of this table for the role.  One statement reads it for all tables."""
        if not hasattr(request, "poser_past"):
            pages = {other.relation.oid: other for other in self.admin_site._registry.values()}
            rows = {row.oid: row for row in run(PAST, [list(pages), [other.relation.versions for other in pages.values()]])}
            request.poser_past = {oid: Past(other.relation, other.may(request), rows.get(oid)) for oid, other in pages.items()}
        return request.poser_past[self.relation.oid]

    def has_revert_permission(self, request):
        return self.past(request).revert and bool(self.may(request).update)  # a lock needs UPDATE, too

    def address(self, page, *values):
        """The address of a page of this table; empty for a row whose key is an empty text."""
        name = f"{self.admin_site.name}:{self.opts.app_label}_{self.opts.model_name}_{page}"
        try:
            return reverse(name, args=[quote(value) for value in values])
        except NoReverseMatch:
            return ""

    def get_urls(self):
        def named(address, view, name):
            return path(address, self.admin_site.admin_view(view), name=f"{self.opts.app_label}_{self.opts.model_name}_{name}")

        return [
            named("deleted/", self.deleted_view, "deleted"),
            named("<path:object_id>/revert/<path:transaction_id>/", self.revert_view, "revert"),
        ] + super().get_urls()

    def page(self, request, template, **context):
        common = {**self.admin_site.each_context(request), "opts": self.opts, "time_zone": settings.TIME_ZONE, "past": self.past(request)}
        request.current_app = self.admin_site.name
        return TemplateResponse(request, f"poser_web/{template}.html", {**common, **context})

    def key_and_match(self, object_id):
        """The key in an address, and the same as JSON for poser_history()."""
        key = self.to_key(unquote(object_id))
        if key is None:
            raise Http404
        return key, json.dumps({name: str(value) for name, value in self.key_columns(key).items()})

    def cells(self, old, new):
        """The columns of a change, as name, old and new value: in the table's order, then former columns."""
        names = [column["name"] for column in self.relation.columns.values()]
        both = {**old, **new}
        ordered = [name for name in names if name in both] + sorted(set(both) - set(names))
        return [(name, old.get(name), new.get(name)) for name in ordered]

    ### Changes

    def read_changes(self, request, source, condition, order="DESC", **values):
        """The changes "h" that poser_history() returns in this FROM clause."""
        names = [self.relation.columns[number]["name"] for number in self.relation.key]
        numbers = getattr(self.model._meta.pk, "numbers", [False])
        parts = [f"COALESCE(h.new, h.old) {'->' if number else '->>'} %(key{n})s" for n, number in enumerate(numbers)]
        key = parts[0] if len(parts) == 1 else f"pg_catalog.jsonb_build_array({', '.join(parts)})::text"
        values.update({f"key{n}": name for n, name in enumerate(names)}, target=self.relation.oid, shown=self.past(request).shown)
        changes = run(CHANGES.format(key=key, source=source, condition=condition, order=order), values)
        for change in changes:
            change.pages, change.address = self, self.address("history", change.key)
            change.old, change.new = json.loads(change.old or "{}"), json.loads(change.new or "{}")
            change.cells, change.label = self.cells(change.old, change.new), f"change-{change.change_id}"
            change.old_title = "" if change.operation == "insert" or change.alone else "Old"
            change.new_title = "" if change.operation == "delete" else "New"
        return changes

    def changes(self, request, match, before, at):
        """A page of the changes of the rows that match, newest first."""
        most = PER_PAGE + 1 if before is None and not at and self.past(request).shown is None else None
        return self.read_changes(
            request,
            f"{models.poser('poser_history')}(%(target)s::oid::regclass, %(match)s::jsonb, %(most)s) h",
            "(%(before)s::int8 IS NULL OR h.change_id < %(before)s) AND (%(at)s IS NULL OR h.issued_at <= %(at)s::timestamptz)",
            match=match, most=most, before=before, at=at or None,
        )[: PER_PAGE + 1]

    def recorded(self, request, condition, order, limit, also="true", **values):
        """The changes that made these versions "v"."""
        past = self.past(request)
        match = ", ".join(f"%(key{n})s::text, v.{column}::text" for n, column in enumerate(past.key))
        source = f"""
            (SELECT * FROM {past.sql} v WHERE {condition} AND {past.visible} ORDER BY v.{past.change_id} {order} LIMIT {limit}) v
            CROSS JOIN LATERAL {models.poser('poser_history')}(%(target)s::oid::regclass, pg_catalog.jsonb_build_object({match}),
                (SELECT count(*) FROM {past.sql} l WHERE {past.same_row('l')} AND l.{past.change_id} >= v.{past.change_id})) h"""
        return self.read_changes(request, source, f"h.change_id = v.{past.change_id} AND {also}", order, **values)

    ### The history of a row

    def referring(self, request):
        """The tables that refer to this one and whose history the role may read: pages, and name of the column."""
        for pages in self.admin_site._registry.values():
            for number, to in pages.relation.references.items():
                past = pages.past(request)
                if [to] == [(self.relation.oid, key) for key in self.relation.key] and past.read and number in past.columns:
                    if number in pages.may(request).select:
                        yield pages, pages.relation.columns[number]["name"]

    def history_view(self, request, object_id, extra_context=None):
        if self.relation.versions is None:
            raise Http404
        if not self.past(request).read:
            raise PermissionDenied
        key, match = self.key_and_match(object_id)
        at, before, chosen = request.GET.get("as_of"), whole_number(request.GET.get("before")), request.GET.getlist("with")
        others = [(pages, name, pages.relation.own or pages.relation.model_name in chosen) for pages, name in self.referring(request)]

        def read():
            found = self.changes(request, match, before, at)
            for change in found:
                change.own = True
            for pages, name, shown in others:
                if shown:
                    found += pages.changes(request, json.dumps({name: str(key)}), before, at)
            then = None
            if at:
                source = f"{models.poser('poser_as_of')}(NULL::{self.relation.sql}, %s, %s::jsonb)"
                then = read_from(self.get_queryset(request), source, at, match).first()
            return found, then and self.values(request, then).items()

        result, error = attempt(read)
        found, then = result or ([], None)
        # Rows that refer to their own table can be there twice.
        found = sorted({change.change_id: change for change in reversed(found)}.values(), key=lambda change: -change.change_id)
        if self.has_revert_permission(request):
            # A revert goes back to the end of a transaction, so each transaction has one button.
            parts, last = self.components(request), None
            for change in found:
                if (hasattr(change, "own") or change.pages is parts) and change.transaction_id != last:
                    change.reverts, last = True, change.transaction_id

        def linked(pages):
            return urlencode({"with": [*chosen, pages.relation.model_name]}, doseq=True)

        return self.page(
            request,
            "history",
            title=f"History of {self.relation.name} {key}",
            key=key,
            live=not error and self.get_queryset(request).filter(pk=key).exists(),
            as_of=at,
            then=then,
            error=said(error),
            changes=found[:PER_PAGE],
            paged=before is not None,
            older=older(request, found),
            others=[(pages.relation.name, linked(pages)) for pages, name, shown in others if not shown],
            newest=urlencode({"with": chosen}, doseq=True),
            transactions=may_transactions(),
        )

    def values(self, request, row):
        """The values of a row that the role may see, as texts by the names of the columns."""
        return {field.info["name"]: text(getattr(row, field.attname)) for field in self.readable(request)}

    def render_change_form(self, request, context, *arguments, **options):
        context["has_history"] = self.past(request).read
        return super().render_change_form(request, context, *arguments, **options)

    ### Revert

    def components(self, request):
        """The pages of components, if this is the table of widgets and the role may revert both."""
        if self.relation.own and self.relation.name == "poser_widget":
            for pages, name in self.referring(request):
                if pages.relation.own and pages.relation.name == "poser_component" and pages.has_revert_permission(request):
                    return pages
        return None

    def locked(self, request, condition):
        """Lock the rows that meet this condition, and return their values by key."""
        rows = self.get_queryset(request).select_for_update(of=()).filter(condition).order_by(*self.model._meta.ordering)
        return {str(row.pk): self.values(request, row) for row in rows}

    def revert(self, request, key, match, number, components, seen):
        """Revert a row, and roll back unless "seen" is the digest of the differences.  Returns
        the differences, their digest, and whether the revert is kept.

        The lock on the row keeps other transactions from adding rows that refer to it.
        """
        tables = [(self, Q(pk=key))]
        if components:
            # All rows that have ever been its components.  They may belong to other widgets now.
            ever = run(
                f"SELECT DISTINCT COALESCE(new, old) ->> 'uuid' AS uuid FROM {models.poser('poser_history')}(%s::oid::regclass, %s::jsonb)",
                [components.relation.oid, json.dumps({"widget_uuid": key})],
            )
            tables.append((components, Q(widget_uuid=key) | Q(pk__in=[row.uuid for row in ever])))
            statement, values = f"{models.poser('poser_widget_revert')}(%s, %s, true)", [key, number]
        else:
            statement, values = f"{models.poser('poser_revert')}(%s::oid::regclass, %s::jsonb, %s)", [self.relation.oid, match, number]
        before = [pages.locked(request, condition) for pages, condition in tables]
        run(f"SELECT {statement}", values)
        self.check_constraints()
        after = [pages.locked(request, condition) for pages, condition in tables]
        found = [change for (pages, _), *both in zip(tables, before, after) for change in pages.differences(*both)]
        # Values that triggers write, such as the time, may differ from one call to the next.
        overwritten = [(change.pages.relation.oid, change.key, change.done, [cell[:2] for cell in change.cells]) for change in found]
        digest = hashlib.sha256(repr(overwritten).encode()).hexdigest()
        done = bool(found) and seen == digest
        if not done:
            transaction.set_rollback(True)
        return found, digest, done

    def differences(self, before, after):
        """The differences between rows before and after."""
        for key in sorted({*before, *after}):
            old, new = before.get(key, {}), after.get(key, {})
            if old != new:
                cells = [cell for cell in self.cells(old, new) if not old or not new or cell[1] != cell[2]]
                done = "changed" if old and new else "deleted" if old else "inserted"
                yield types.SimpleNamespace(pages=self, key=key, done=done, cells=cells, old=old and "Now", new=new and "Then")

    def revert_view(self, request, object_id, transaction_id):
        if not self.has_revert_permission(request):
            raise PermissionDenied
        number = whole_number(transaction_id)
        if number is None:
            raise Http404
        key, match = self.key_and_match(object_id)
        if request.method != "POST":
            return HttpResponseRedirect(self.address("history", key))
        possible, seen = self.components(request), request.POST.get("seen")
        components = possible if "components" in request.POST else None
        result, error = attempt(self.revert, request, key, match, number, components, seen)
        differences, digest, done = result or ([], "", False)
        if done:
            self.message_user(request, f"{self.relation.name} {key} was reverted to transaction {number}.", messages.SUCCESS)
            return HttpResponseRedirect(self.address("history", key))
        return self.page(
            request,
            "history_revert",
            title=f"Revert {self.relation.name} {key}",
            key=key,
            error=said(error),
            differences=differences,
            digest=digest,
            meanwhile=seen,
            why=request.POST.get("why", ""),
            components=components,
            possible=possible,
        )

    ### Deleted rows

    def deleted_view(self, request):
        past = self.past(request)
        if self.relation.versions is None:
            raise Http404
        if not past.read:
            raise PermissionDenied
        readable = [n for n in self.relation.columns if n in past.columns and n in self.may(request).select]
        shown = [*self.relation.key, *(n for n in readable if n not in self.relation.key)][:8]
        names = [self.relation.columns[n]["name"] for n in shown]
        before, query, found, error = whole_number(request.GET.get("before")), request.GET.get("q", "").strip(), [], None
        if None in past.key:
            error = "The key of this table was altered, and its history does not follow yet."
        elif not past.only_last:
            found, error = attempt(self.deleted, request, readable, before, query)
            found, error = found or [], said(error)
        for row in found:
            row.cells = [row.old.get(name) for name in names]
            row.undelete = row.before and self.address("revert", row.key, row.before)
        return self.page(
            request,
            "history_deleted",
            title=f"Deleted rows of {self.relation.name}",
            error=error,
            query=query,
            names=names,
            rows=found[:PER_PAGE],
            older=older(request, found),
            paged=before is not None,
            undelete=self.has_revert_permission(request) and bool(self.may(request).insert),
            components=self.components(request),
        )

    def deleted(self, request, readable, before, query):
        """The rows whose last version is a delete, with the transaction that an undelete reverts to."""
        past = self.past(request)
        conditions = [
            f"v.{past.operation} = 2",
            f"NOT EXISTS (SELECT FROM {past.sql} n WHERE {past.same_row('n')} AND n.{past.change_id} > v.{past.change_id})",
        ]
        if before is not None:
            conditions.append(f"v.{past.change_id} < %(before)s")
        if query:
            fields = [self.model._meta.get_field(self.relation.field(n)) for n in readable]
            texts = [f.info["number"] for f in fields if isinstance(f, (models.Line, models.Text)) or f.info["number"] in self.relation.key]
            found = [f"pg_catalog.strpos(pg_catalog.lower(v.{past.columns[n]}::text), pg_catalog.lower(%(query)s)) > 0" for n in texts]
            conditions.append(f"({' OR '.join(found)})")
        rows = self.recorded(request, " AND ".join(conditions), "DESC", PER_PAGE + 1, before=before, query=query)
        statement = f"""
            SELECT v.{past.change_id} AS id, (SELECT CASE WHEN l.{past.operation} <> 2 THEN l.{past.transaction_id} END
                                              FROM {past.sql} l WHERE {past.same_row('l')} AND l.{past.transaction_id} < v.{past.transaction_id}
                                             ORDER BY l.{past.change_id} DESC LIMIT 1) AS before
              FROM {past.sql} v WHERE v.{past.change_id} = ANY (%s::int8[])"""
        earlier = {row.id: row.before for row in run(statement, [[row.change_id for row in rows]])}
        for row in rows:
            row.before = earlier[row.change_id]
        return rows

    ### The grid as of a time

    def as_of(self, request):
        """The time in the grid's address, as text; None for now."""
        return request.GET.get("as_of", "").strip() or None

    def grid_queryset(self, request):
        rows, at = super().grid_queryset(request), self.as_of(request)
        if at is None:
            return rows
        if getattr(request, "poser_error", None):
            return rows.none()
        return read_from(rows, f"{models.poser('poser_as_of')}(NULL::{self.relation.sql}, %s)", at)

    def get_changelist(self, request, **options):
        return PastGrid

    def get_actions(self, request):
        return {} if self.as_of(request) else super().get_actions(request)

    def changelist_view(self, request, extra_context=None):
        context = {"time_zone": settings.TIME_ZONE, "past": self.past(request), **(extra_context or {})}
        at, view = self.as_of(request), super().changelist_view
        if at is None:
            return view(request, context)
        if request.method != "GET":
            return HttpResponseRedirect(request.get_full_path())
        context.update(as_of=at, has_add_permission=False)

        def show():
            (time,) = run("SELECT %s::timestamptz::text AS text", [at])
            response = view(request, {**context, "as_of_time": time.text})
            grid = getattr(response, "context_data", {}).get("cl")
            if grid and not grid.result_count and not grid.query and not grid.has_active_filters:
                response.context_data["history_begins"] = self.begin(request, at)
            return response

        response, error = attempt(show)
        if error:
            request.poser_error = error
            response = view(request, {**context, "as_of_error": said(error)})
        return response

    def begin(self, request, at):
        """The time at which the history begins, if it is after this one."""
        past = self.past(request)
        if not past.read or past.only_last or None in past.key:
            return None
        first = self.recorded(request, "true", "ASC", 1, "h.issued_at > %(at)s::timestamptz", at=at)
        return first[0].time if first else None


def text(value):
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else None if value is None else str(value)


def older(request, changes):
    """The query string of the next page, if there are more changes than fit on this one."""
    query = request.GET.copy()
    if len(changes) <= PER_PAGE:
        return None
    query["before"] = changes[PER_PAGE - 1].change_id
    return query.urlencode()
