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
import itertools
import json
import re
import types
from urllib.parse import urlencode

from django.conf import settings
from django.contrib import messages
from django.contrib.admin.utils import unquote
from django.contrib.admin.views.main import ORDER_VAR
from django.core.exceptions import PermissionDenied
from django.db import DatabaseError, transaction
from django.db.models import Q
from django.http import Http404, HttpResponseRedirect

from . import errors, models
from .grids import READ, Grid, read_from
from .rowforms import FormPages
from .statements import attempt, check_constraints, may, run, whole_number

PER_PAGE = 50

### Privileges on the history

PAST = """
SELECT t.oid::int8, pg_catalog.has_schema_privilege(v.relnamespace, 'USAGE') AND (
           SELECT pg_catalog.bool_and(pg_catalog.has_column_privilege(v.oid, a.attnum, 'SELECT'))
             FROM pg_catalog.pg_attribute a WHERE a.attrelid = v.oid AND a.attnum > 0 AND NOT a.attisdropped) AS granted,
       pg_catalog.row_security_active(t.oid) AS rows, pg_catalog.row_security_active(v.oid) AS own_rows,
       pg_catalog.has_table_privilege(t.oid, 'SELECT') AS whole, n.nspname, v.relname,
       (SELECT pg_catalog.json_object_agg(a.attnum, a.attname)::text
          FROM pg_catalog.pg_attribute a WHERE a.attrelid = v.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns,
       pg_catalog.concat_ws('.', (SELECT (pg_catalog.pg_control_system()).system_identifier), d.oid, t.oid, v.oid) AS here, b.tgargs
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

    def versions(self, at):
        """SQL for the versions, with the columns of the table, and its values.  It leaves out most versions after the time, if
        the role may read the list of transactions, and no row-level security hides any of them."""
        until = None
        if may("SELECT", "poser_transaction"):
            listed = models.poser("poser_transaction")
            (row,) = run(UNTIL.format(transaction=listed), {"at": at, "transaction": listed.replace("%%", "%")})
            until = row.id
        columns = ", ".join(
            f"{'v.' + self.columns[number] if number in self.columns else 'NULL'}::{column['type'].replace('%', '%%')}"
            f" AS {models.quoted(column['name'])}"
            for number, column in self.relation.columns.items()
        )
        return (
            f"(SELECT {columns} FROM {self.sql} v WHERE v.{self.operation} <> 2"
            f" AND v.{self.transaction_id} <= COALESCE(%s, {2**63 - 1}))",
            until,
        )

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


UNTIL = """
SELECT CASE WHEN pg_catalog.max(id) FILTER (WHERE issued_at <= %(at)s::timestamptz) < pg_catalog.max(id)
                 OR pg_catalog.min(issued_at) > %(at)s::timestamptz
            THEN COALESCE(pg_catalog.max(id) FILTER (WHERE issued_at <= %(at)s::timestamptz), pg_catalog.min(id)) END AS id
  FROM (SELECT id, issued_at FROM {transaction} ORDER BY id DESC LIMIT 100000) t
 WHERE NOT pg_catalog.row_security_active(%(transaction)s::pg_catalog.regclass)
"""


class PastGrid(Grid):
    """A grid that can be as of a time.

    poser_as_of() for all rows reads the whole history, so a page asks it for single rows.  The
    versions of the rows, with the same filters, search and order, say for which: each row of the
    grid is one of the versions.  So the first versions have all rows up to the last of them.
    """

    BY_KEY, BY_OTHERS, MOST = 50, 1000, 50000  # versions that are read: more than the rows that are wanted, and at most

    @property
    def is_past(self):
        return bool(self.params.get("as_of"))

    def get_results(self, request):
        if self.is_past:
            self.past, self.BY_NUMBER = self.model_admin.past(request), self.BY_NUMBER_IN_OTHER_ORDERS
            self.has_actions_now = bool(self.model_admin.actions_now(request))
        super().get_results(request)

    def any_order(self):
        return not self.is_past and super().any_order()

    def part(self, queryset, start, end):
        if self.is_past and self.past.read and None not in self.past.key:
            try:
                with transaction.atomic():
                    rows = self.past_rows(queryset, end)
                if rows is not None:
                    return rows[start:]
            except DatabaseError as error:
                diag = errors.diagnostics(error)
                # A version that is not of that time can have a value that has no cast to the column's present type.
                if diag is None or not diag.sqlstate.startswith(("22", "23514", "42846")):
                    raise
        return super().part(queryset, start, end)

    def past_rows(self, queryset, end):
        """The first rows of a queryset as of the time; None if many versions have to be read for them."""
        at, relation = self.params["as_of"], self.model.relation
        versions = read_from(queryset, *self.past.versions(at))
        if {term.name for term in self.order} <= set(self.model._meta.ordering):
            versions, most = versions.distinct(), end + self.BY_KEY  # all versions of a row are together in the index on the key
        else:
            most = 4 * end + self.BY_OTHERS
        source = f"""
            (SELECT r.* FROM pg_catalog.unnest(%s::jsonb[]) k (match)
              CROSS JOIN LATERAL {models.poser('poser_as_of')}(NULL::{relation.sql}, %s, k.match) r)"""
        while most <= self.MOST:
            found = self.rows(versions[:most], cells=False)
            places = {self.place(row) for row in found}
            if any(isinstance(value, str) and len(value) > READ for place in places for value in place):
                return None
            # No row has a key of NULLs.  Its look-up raises the error for a time whose history was pruned.
            keys = [json.dumps(dict.fromkeys(relation.columns[number]["name"] for number in relation.key))]
            keys += [self.model_admin.key_as_json(key) for key in dict.fromkeys(row.pk for row in found)]
            rows = self.rows(read_from(queryset, source, keys, at)[:end])
            if len(found) == most:
                rows = list(itertools.takewhile(lambda row: self.place(row) in places, rows))
            if len(found) < most or len(rows) == end:
                return rows
            most *= 8
        return None

    def place(self, row):
        """The values by which a row is sorted.  The key is among them."""
        return tuple(getattr(row, term.value) for term in self.order)

    def count(self, queryset, seen, more):
        if not self.is_past:
            return super().count(queryset, seen, more)
        least = seen or self.list_per_page
        if seen is None or more:
            self.total, self.total_text = least + 1, f"more than {least:,}"
        else:
            self.total, self.total_text = seen, f"{seen:,}"

    def other_order(self, by):
        """The order of the address, whose numbers count the column of actions, for a grid with it (by = 1) or without it (by = -1)."""
        return re.sub(r"\d{1,9}", lambda number: str(int(number[0]) + by), self.params.get(ORDER_VAR, ""), flags=re.ASCII)

    @property
    def without_time(self):
        """The other parameters of the address."""
        by = -1 if "action_checkbox" in self.list_display else 0
        others = {**self.params, ORDER_VAR: self.other_order(by)} if ORDER_VAR in self.params else self.params
        return [(name, value) for name, value in others.items() if name != "as_of"]

    @property
    def as_of_now(self):
        """The address of the grid without the time."""
        return self.get_query_string({ORDER_VAR: self.other_order(self.has_actions_now) or None}, ["as_of"])

    def url_for_result(self, row):
        if not self.is_past:
            return super().url_for_result(row)
        return self.model_admin.address("history", row.pk) + "?" + urlencode({"as_of": self.params["as_of"]})


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

    def get_urls(self):
        return [
            self.named("deleted/", self.deleted_view, "deleted"),
            self.named("<key:object_id>/revert/<path:transaction_id>/", self.revert_view, "revert"),
        ] + super().get_urls()

    def page(self, request, template, **context):
        return super().page(request, template, time_zone=settings.TIME_ZONE, past=self.past(request), **context)

    def key_and_match(self, object_id):
        """The key in an address, and the same as JSON for poser_history()."""
        key = self.to_key(unquote(object_id))
        if key is None:
            raise Http404
        return key, self.key_as_json(key)

    def cells(self, old, new):
        """The columns of a change, as name, old and new value: in the table's order, then former columns."""
        names = [column["name"] for column in self.relation.columns.values()]
        both = {**old, **new}
        ordered = [name for name in names if name in both] + sorted(set(both) - set(names))
        return [(name, old.get(name), new.get(name)) for name in ordered]

    ### Changes

    def read_changes(self, request, source, condition, order="DESC", **values):
        """The changes "h" that poser_history() returns in this FROM clause."""
        columns = [self.relation.columns[number] for number in self.relation.key]
        numbers = getattr(self.model._meta.pk, "numbers", [False])
        parts = [f"COALESCE(h.new, h.old) -> %(key{n})s" if number else self.text_of_key(n, columns[n]) for n, number in enumerate(numbers)]
        key = parts[0] if len(parts) == 1 else f"pg_catalog.jsonb_build_array({', '.join(parts)})::text"
        values.update({f"key{n}": column["name"] for n, column in enumerate(columns)})
        values.update(target=self.relation.oid, shown=self.past(request).shown)
        changes = run(CHANGES.format(key=key, source=source, condition=condition, order=order), values)
        for change in changes:
            change.pages, change.address = self, self.address("history", change.key)
            change.old, change.new = json.loads(change.old or "{}"), json.loads(change.new or "{}")
            change.cells, change.label = self.cells(change.old, change.new), f"change-{change.change_id}"
            change.old_title = "" if change.operation == "insert" or change.alone else "Old"
            change.new_title = "" if change.operation == "delete" else "New"
        return changes

    def text_of_key(self, n, column):
        """SQL for the text of the n-th column of the key in a change "h".  JSON writes arrays and rows in another way."""
        if column["category"] in "AC":
            name, kind = models.quoted(column["name"]), column["type"].replace("%", "%%")
            return f"(SELECT r.{name}::text FROM pg_catalog.jsonb_to_record(COALESCE(h.new, h.old)) AS r ({name} {kind}))"
        if column["base"] == "jsonb":
            return f"(COALESCE(h.new, h.old) -> %(key{n})s)::text"
        return f"COALESCE(h.new, h.old) ->> %(key{n})s"

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
        bases = [self.relation.columns[number]["base"] for number in self.relation.key]
        texts = [column + "::text" * (base != "jsonb") for column, base in zip(past.key, bases)]
        match = ", ".join(f"%(key{n})s::text, v.{text}" for n, text in enumerate(texts))
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
            error=errors.text_of(error),
            changes=found[:PER_PAGE],
            paged=before is not None,
            older=older(request, found),
            others=[(pages.relation.name, linked(pages)) for pages, name, shown in others if not shown],
            newest=urlencode({"with": chosen}, doseq=True),
            transactions=may("SELECT", "poser_transaction"),
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
        check_constraints()
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
            error=errors.text_of(error),
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
            found, error = found or [], errors.text_of(error)
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
                                              FROM {past.sql} l
                                             WHERE {past.same_row('l')} AND l.{past.transaction_id} < v.{past.transaction_id}
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
        return {} if self.as_of(request) else self.actions_now(request)

    def actions_now(self, request):
        """The actions of the grid of the present rows."""
        return super().get_actions(request)

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
            response = view(request, {**context, "as_of_error": errors.text_of(error)})
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
