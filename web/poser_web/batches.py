"""Export of a grid, import of a file, and the review of batches.

An uploaded file is copied into a temporary table of texts, from which poser_batch_populate()
makes a batch: it casts the rows, compares them with the table, and keeps those that differ.
poser_batch_refresh() then finds the rows that the table refuses.  Batches that were made
elsewhere have the same pages.
"""
import io
import json
import re
import tempfile

from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.utils import quote, unquote
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db import DatabaseError, DataError, connection, transaction
from django.http import FileResponse, Http404, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse

from . import errors, files, models
from .files import BadFile
from .rights import Pages
from .rowforms import WHY, ErrorsAtFields, read_seen

PAGE = 50  # rows on a page


def query(statement, *values):
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        return cursor.fetchall() if cursor.description else []


def dicts(statement, *values):
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row)) for row in cursor]


def shown(values):
    """A list of names in a message."""
    return ", ".join(f"“{value[:100]}”" for value in values[:10]) + (f" and {len(values) - 10} more" if len(values) > 10 else "")


### Export and import of a table


class Upload(ErrorsAtFields, forms.Form):
    file = forms.FileField(
        label="File",
        help_text="CSV or XLSX.  The first line has the names of the columns, in any order.",
        error_messages={"required": "Choose a file.", "empty": "The file is empty."},
    )
    unchanged = forms.BooleanField(required=False, label="Also list rows that are the same")
    why = WHY


class BatchPages(Pages):
    def get_urls(self):
        name = f"{models.LABEL}_{self.opts.model_name}"
        view = self.admin_site.admin_view
        return [
            path("export/<str:kind>/", view(self.export_view), name=f"{name}_export"),
            path("import/", view(self.import_view), name=f"{name}_import"),
            *super().get_urls(),
        ]

    def changelist_view(self, request, extra_context=None):
        return super().changelist_view(request, {**(extra_context or {}), "has_import": self.why_no_import(request) is None})

    def computed(self, request):
        """The columns of the grid that are not in the table."""
        fields = {field.name for field in self.opts.fields}
        return [name for name in self.get_list_display(request) if isinstance(name, str) and name not in fields]

    def export_view(self, request, kind):
        """Export the rows of the grid, with all columns that the role may read."""
        if kind not in ("csv", "xlsx"):
            raise Http404
        if not self.has_view_permission(request):
            raise PermissionDenied
        models.no_time_limit()
        back = HttpResponseRedirect(f"{self.grid_address()}?{request.GET.urlencode()}")
        try:
            grid = self.get_changelist_instance(request)
        except IncorrectLookupParameters:
            return back  # the grid shows what is wrong
        if grid.problems:
            return back
        rows = grid.export_queryset()
        names = self.names(request, self.may(request).select)
        computed = [name for name in self.computed(request) if name in rows.query.annotations]
        infos = [self.opts.get_field(name).info for name in names]
        columns = [files.Column(info["name"], info["base"], info["typmod"] >= 0, not self.is_filled(info)) for info in infos]
        columns += [files.Column(name, "bigint", True, True) for name in computed]
        # Not in /tmp, which may be in memory.
        out = tempfile.TemporaryFile(dir=settings.STATE)
        try:
            write = {"csv": files.write_csv, "xlsx": files.write_xlsx}[kind]
            write(out, columns, rows.values_list(*names, *computed))
        except BadFile as error:
            out.close()
            self.message_user(request, str(error), messages.ERROR)
            return back
        out.seek(0)
        kinds = {"csv": "text/csv; charset=utf-8", "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"}
        name = re.sub(r"[^\w.-]+", "_", self.relation.name)
        return FileResponse(out, as_attachment=True, filename=f"{name}.{kind}", content_type=kinds[kind])

    def grid_address(self):
        return reverse(f"admin:{models.LABEL}_{self.opts.model_name}_changelist", current_app=self.admin_site.name)

    def why_no_import(self, request):
        """The reason why the role cannot import into this table; None if it can."""
        if self.relation.is_view:
            return "This is a view.  Import into its tables."
        if not self.has_add_permission(request) and not self.has_change_permission(request):
            return "You may not change this table."
        if not self.has_view_permission(request):
            return "You may not read the key of this table.  An import needs it to compare rows."
        if not may_batch(request, "INSERT", "UPDATE") or not query("SELECT has_database_privilege(current_database(), 'TEMP')")[0][0]:
            return "You may not make batches.  An import needs one."
        return None

    def import_view(self, request):
        if not self.has_view_permission(request):
            raise PermissionDenied
        no = self.why_no_import(request)
        form = Upload(*((request.POST, request.FILES) if request.method == "POST" else ()))
        if request.method == "POST" and no is None and form.is_valid():
            models.no_time_limit()
            try:
                with transaction.atomic():
                    uuid = self.make_batch(request, form.cleaned_data)
                return HttpResponseRedirect(batch_address(uuid))
            except BadFile as error:
                form.add_error("file", str(error))
            except DatabaseError as error:
                if errors.lost(error):
                    raise
                form.add_error("file", errors.text_of(error))
        infos = [info for number, info in self.relation.columns.items() if number in self.may(request).select]
        context = {
            **self.admin_site.each_context(request),
            "title": f"Import into {self.relation.name}",
            "opts": self.opts,
            "form": form,
            "no": no,
            "columns": infos,
            "key": [self.relation.columns[number]["name"] for number in self.relation.key],
            "megabytes": settings.UPLOAD_BYTES // 1_000_000,
        }
        request.current_app = self.admin_site.name
        return TemplateResponse(request, "poser_web/import.html", context)

    def make_batch(self, request, data):
        """Copy the rows of a file into a temporary table, and make a batch of them.  Returns its uuid."""
        may, columns = self.may(request), self.relation.columns
        seen = {number: info for number, info in columns.items() if number in may.select | may.insert | may.update}
        source = files.Source(data["file"], lambda name: bool(numbers_of(name, seen)), 8 * settings.UPLOAD_BYTES)
        numbers = self.match(request, source.names, seen)
        how = {
            **source.how,
            "file": data["file"].name.replace("\0", ""),
            "rows": self.stage(source, numbers),
            "columns": [columns[number]["name"] for number in numbers if number],
            "left_out": [name for name, number in zip(source.names, numbers) if not number],
        }
        create, populate, refresh = (models.poser(f"poser_batch_{name}") for name in ("create", "populate", "refresh"))
        description = data["why"] or how["file"]
        ((uuid,),) = query(f"SELECT {create}(%s::oid::regclass, %s, %s::jsonb)", self.relation.oid, description, json.dumps(how))
        key = [columns[number]["name"] for number in self.relation.key]
        query(
            f"SELECT {populate}(%s, 'pg_temp.poser_web_rows'::regclass, %s::text[], unchanged => %s)", uuid, key, data["unchanged"]
        )
        query(f"SELECT {refresh}(%s)", uuid)
        return uuid

    def is_filled(self, info):
        """Whether an empty field of a text column is an empty text, and not NULL."""
        return info["not_null"] and info["number"] not in self.relation.key

    def stage(self, source, numbers):
        """Copy the rows of a file into a temporary table.  The view poser_web_rows has those columns of it that are imported.
        Returns the number of rows.

        All columns are texts, so that the batch says which values are wrong, except for two kinds of types.  A type with
        its own explicit cast from text, such as xml, cannot be assigned from text.  Of JSON, a batch would keep an
        invalid text as a JSON string.  Only a text column can have an empty value that is not NULL."""
        infos = [self.relation.columns.get(number) for number in numbers]
        own = query(
            """
            SELECT t FROM pg_catalog.unnest(%s::text[]) AS t
             WHERE t IN ('json', 'jsonb') OR EXISTS (
                SELECT FROM pg_catalog.pg_cast
                 WHERE castsource = 'text'::pg_catalog.regtype AND casttarget = t::pg_catalog.regtype AND castcontext = 'e')
            """,
            [info["base"] for info in infos if info],
        )
        table, rows, null, not_null, values = [], [], [], [], []
        for number, name, info in zip(numbers, source.names, infos):
            column = models.quoted(info["name"] if info else name)
            kind = info["base"].replace("%", "%%") if info and (info["base"],) in own else "pg_catalog.text"
            table.append(f"{column} {kind}")
            if info is None:
                continue
            if info["category"] != "S":
                null.append(column)
            elif self.is_filled(info):
                not_null.append(column)
            text = f"pg_catalog.regexp_replace({column}::text, %s, '')"
            rows.append(f"CASE WHEN {column}::text ~ %s THEN CAST({text} AS {kind}) ELSE {column} END AS {column}")
            values += [files.ESCAPED, "^'"]
        query(f"CREATE TEMPORARY TABLE poser_web_upload ({', '.join(table)}) ON COMMIT DROP")
        query(f"CREATE TEMPORARY VIEW poser_web_rows AS SELECT {', '.join(rows)} FROM pg_temp.poser_web_upload", *values)
        options = [f"FORCE_NULL ({', '.join(null)})"] * bool(null) + [f"FORCE_NOT_NULL ({', '.join(not_null)})"] * bool(not_null)
        copy = f"COPY pg_temp.poser_web_upload FROM STDIN (FORMAT csv, HEADER, DELIMITER %s{''.join(', ' + one for one in options)})"
        try:
            with transaction.atomic(), connection.cursor() as cursor, connection.wrap_database_errors:
                cursor.copy_expert(cursor.mogrify(copy, [source.delimiter]), io.StringIO(source.text))
                count = cursor.rowcount
        except DatabaseError as error:
            diag = errors.diagnostics(error)
            place = diag and re.search(r"poser_web_upload\D*(\d+)", diag.context or "")
            if not place:
                raise
            raise BadFile(f"Line {source.line(int(place[1]))}: {errors.text_of(error)}") from error
        if not count:
            raise BadFile("The file has a header, but no rows.")
        return count

    def match(self, request, header, seen):
        """For each name of the header: the number of its column; None if the column is left out."""
        may, columns, computed = self.may(request), self.relation.columns, self.computed(request)
        numbers, wrong = [], []
        for name in header:
            fits = numbers_of(name, seen)
            if len(fits) == 1:
                numbers.append(fits[0])
            elif fits:
                wrong.append(f"The name {shown([name])} fits several columns: {shown([columns[n]['name'] for n in fits])}.")
            elif name in computed:
                numbers.append(None)
            else:
                wrong.append(f"There is no column {shown([name])}.")
        twice = sorted({columns[n]["name"] for n in numbers if n and numbers.count(n) > 1})
        if twice:
            wrong.append(f"The header has these columns more than once: {shown(twice)}.")
        missing = [columns[n]["name"] for n in self.relation.key if n not in numbers]
        if missing and not wrong:
            wrong.append(f"The header lacks columns of the key, by which rows are found: {shown(missing)}.")
        key = set(self.relation.key)
        # The database makes the values of these columns.
        numbers = [n if n in key or not n or not (columns[n]["generated"] or columns[n]["identity"] == "a") else None for n in numbers]
        for rights, what in ((may.select, "read"), (may.insert | may.update | key, "write")):
            no = [columns[n]["name"] for n in numbers if n and n not in rights]
            if no:
                wrong.append(f"You may not {what}: {shown(no)}.  Leave these columns out of the file.")
        if wrong:
            raise BadFile("  ".join(wrong[:10]))
        return numbers


def numbers_of(name, columns):
    """The columns with this name.  If there is none, white space and case are ignored."""
    for plain in (str, str.strip, lambda text: text.strip().lower()):
        fits = [number for number, info in columns.items() if plain(info["name"]) == plain(name)]
        if fits:
            return fits
    return []


### Batches


def may_batch(request, *privileges):
    """Whether the role may read batches, and has these privileges on their tables."""
    names = [models.poser(name).replace("%%", "%") for name in ("poser_batch", "poser_batch_row")]
    asked = " AND ".join(["has_table_privilege(%s, %s)"] * 2 * (1 + len(privileges)))
    values = [word for name in names for privilege in ("SELECT", *privileges) for word in (name, privilege)]
    return query(f"SELECT {asked}", *values)[0][0]


def urls(site):
    """The addresses of the pages of batches."""

    def page(view):
        def inner(request, **options):
            request.current_app = site.name
            if not may_batch(request):
                raise PermissionDenied
            return view(request, site, **{name: unquote(text) for name, text in options.items()})

        return site.admin_view(inner)

    return [
        path("batches/", page(list_view), name="batches"),
        path("batches/<str:uuid>/", page(batch_view), name="batch"),
        path("batches/<str:uuid>/<str:sequence>/", page(row_view), name="batch_row"),
    ]


def batch_address(uuid, *more):
    return reverse("admin:batch_row" if more else "admin:batch", args=[quote(uuid), *more])


HEADER = """
    SELECT uuid, id, target::oid::int8 AS oid, target::text AS target, description, notes, created_by, role_name,
           to_char(created, 'YYYY-MM-DD HH24:MI') AS created, to_char(executed, 'YYYY-MM-DD HH24:MI') AS executed,
           executed_by, row_count, unchanged_count, complete, is_mutable, status, params::text AS params
      FROM {} AS b
"""


def headers(condition, *values):
    return dicts(f"{HEADER.format(models.poser('poser_batch'))} {condition}", *values)


def list_view(request, site):
    kind = request.GET.get("show", "open")
    condition = {"open": "WHERE executed IS NULL", "executed": "WHERE executed IS NOT NULL"}.get(kind, "")
    after = request.GET.get("before", "")
    if re.fullmatch(r"[0-9]{1,18}", after):
        condition += f" {'AND' if condition else 'WHERE'} id < {int(after)}"
    batches = headers(f"{condition} ORDER BY id DESC LIMIT {PAGE + 1}")
    context = {
        **site.each_context(request),
        "title": "Batches",
        "kinds": ["open", "executed", "all"],
        "kind": kind,
        "batches": [{**batch, "link": batch_address(batch["uuid"])} for batch in batches[:PAGE]],
        "next": batches[PAGE - 1]["id"] if len(batches) > PAGE else None,
    }
    return TemplateResponse(request, "poser_web/batches.html", context)


# The kind of a row of a batch, as pages name it.
KIND = """CASE WHEN r.removed THEN 'removed' WHEN r.status = 'error' THEN 'wrong' WHEN r.status <> 'ready' THEN r.status
               WHEN r.operation = 'create' THEN 'new' WHEN r.operation = 'update' THEN 'changed'
               WHEN r.operation = 'delete' THEN 'deleted' ELSE 'same' END"""
KINDS = ["new", "changed", "deleted", "same", "wrong", "conflict", "skipped", "removed"]
SEEN = "md5(ROW(r.operation, r.key, r.old, r.new, r.removed)::text)"


def find(uuid, lock=""):
    """A batch, without its rows.  Raises Http404."""
    found = headers(f"WHERE uuid = %s {lock}", uuid)
    if not found:
        raise Http404("There is no such batch.")
    found[0]["read"] = read_seen(found[0]["params"])
    return found[0]


def rows_of_batch(condition, *values):
    """The rows of a batch that meet the condition, with their values as texts."""
    texts = "(SELECT json_object_agg(key, value)::text FROM jsonb_each_text(r.{}))"
    # The subquery has LIMIT and OFFSET, so that only the rows of the page are made into texts.
    rows = f"SELECT * FROM {models.poser('poser_batch_row')} AS r WHERE {condition}"
    rows = dicts(
        f"""
        SELECT r.sequence, r.operation, r.status, r.status_text, r.removed, {KIND} AS kind, {SEEN} AS seen,
               {texts.format('key')} AS key, {texts.format('old')} AS old, {texts.format('new')} AS new, r.key::text AS key_json,
               (SELECT json_object_agg(key, value::text)::text FROM jsonb_each(r.new)) AS json
          FROM ({rows}) AS r ORDER BY r.sequence
        """,
        *values,
    )
    for row in rows:
        row.update({name: json.loads(row[name] or "{}") for name in ("key", "old", "new", "json")})
    return rows


def batch_view(request, site, uuid):
    batch = find(uuid)
    if request.method == "POST":
        return change_batch(request, batch)
    kind = request.GET.get("show", "")
    counts, seen = counts_of(uuid)
    shown = sum(counts.values()) if kind not in KINDS else counts.get(kind, 0)
    page = Paginator(range(shown), PAGE).get_page(request.GET.get("p"))
    condition, values = ("AND " + KIND + " = %s", [kind]) if kind in KINDS else ("", [])
    rows = rows_of_batch(
        f"r.batch_uuid = %s {condition} ORDER BY r.sequence LIMIT {PAGE} OFFSET {(page.number - 1) * PAGE}", uuid, *values
    )
    pages = next((pages for model, pages in site._registry.items() if model.relation.oid == batch["oid"]), None)
    for row in rows:
        row["fields"], row["key"] = fields_of(row, pages, request), list(row["key"].items())
        row["link"] = batch_address(uuid, row["sequence"])
    context = {
        **site.each_context(request),
        "title": f"Batch {batch['id']}",
        "batch": batch,
        "opts": pages and pages.opts,
        "rows": rows,
        "page": page,
        "kind": kind,
        "kinds": [(name, counts[name]) for name in KINDS if name in counts],
        "total": sum(counts.values()),
        "counts": counts,
        "seen": seen,
        "may_change": batch["is_mutable"] and may_batch(request, "UPDATE"),
        "may_execute": not batch["executed"] and may_batch(request, "UPDATE"),
        "may_delete": not batch["executed"] and may_batch(request, "DELETE"),
        "conflicts": any(field["mark"] == "conflict" for row in rows for field in row["fields"]),
    }
    return TemplateResponse(request, "poser_web/batch.html", context)


def counts_of(uuid):
    """The number of rows of each kind in a batch, and a text that differs after each change of the rows."""
    rows = f"{models.poser('poser_batch_row')} AS r WHERE r.batch_uuid = %s"
    counts = query(f"SELECT {KIND}, count(*), sum(r.xmin::text::int8) FROM {rows} GROUP BY 1", uuid)
    return {kind: count for kind, count, _ in counts}, " ".join(sorted(f"{kind}:{count}:{xmin}" for kind, count, xmin in counts))


def fields_of(row, pages, request):
    """The fields of a row of a batch: old value, new value, and in a conflict the present value."""
    values = row["old"] if row["operation"] == "delete" else row["new"]
    now = present(row, values, pages, request) if row["kind"] == "conflict" and pages else {}
    fields = []
    for name in values:
        was, new, is_there = row["old"].get(name), row["new"].get(name), name in row["old"]
        if name in now and (not is_there or now[name] != was):
            mark = "conflict"
        elif row["operation"] == "delete":
            mark = "deleted"
        elif not is_there:
            mark = "new" if row["operation"] == "create" else "not compared"
        else:
            mark = "same" if was == new else "changed"
        fields.append({"name": name, "was": was, "is_there": is_there, "new": new, "now": now.get(name), "mark": mark})
    return fields


def present(row, names, pages, request):
    """The values that the table has now for a row of a batch, as far as the role may read them."""
    relation, may = pages.relation, pages.may(request)
    columns = [info["name"] for number, info in relation.columns.items() if number in may.select and info["name"] in names]
    key = ", ".join(models.quoted(relation.columns[number]["name"]) for number in relation.key)
    if not columns or not pages.has_view_permission(request):
        return {}
    statement = f"""
        SELECT (SELECT pg_catalog.json_object_agg(key, value)::text FROM pg_catalog.jsonb_each_text(pg_catalog.to_jsonb(t)))
          FROM (SELECT {", ".join(map(models.quoted, columns))} FROM {relation.sql}
                 WHERE ({key}) = (SELECT {key} FROM pg_catalog.jsonb_populate_record(NULL::{relation.sql}, %s::jsonb))) AS t
    """
    try:
        with transaction.atomic():
            found = query(statement, row["key_json"])
    except DataError:  # another program has written the row, with a key that is none
        return {}
    return json.loads(found[0][0]) if found else {}


def change_batch(request, batch):
    """Do what the button of the batch's page says."""
    action, uuid = request.POST.get("action", ""), batch["uuid"]
    back = HttpResponseRedirect(request.get_full_path())
    models.no_time_limit()
    if action not in ACTIONS:
        raise Http404
    try:
        with transaction.atomic():
            said = ACTIONS[action](request, batch)
            query("SET CONSTRAINTS ALL IMMEDIATE")
        messages.success(request, said)
        return HttpResponseRedirect(reverse("admin:batches")) if action == "delete" else back
    except Refused as error:
        messages.error(request, str(error))
    except DatabaseError as error:
        if errors.lost(error):
            raise
        diag = errors.diagnostics(error)
        state = diag.sqlstate if diag else ""
        if state == "55P03":
            said = "Another transaction holds a lock on this batch, or on rows of its table.  Try again."
        elif state == "55000":  # without the hint, which names a function: the page has buttons
            said = ".  ".join(part for part in (diag.message_primary, diag.message_detail) if part)
        else:
            said = errors.text_of(error)
        messages.error(request, said)
        if action == "execute" and state != "55P03":
            refresh_after(uuid)
    return back


class Refused(Exception):
    """An action that is refused.  The message is for the user."""


def refresh_after(uuid):
    """After a failed execution: find the rows in conflict, which the page shows."""
    try:
        with transaction.atomic():
            query(f"SELECT {models.poser('poser_batch_refresh')}(%s)", uuid)
    except DatabaseError as error:
        if errors.lost(error):
            raise


def chosen(request, batch):
    """A condition for the rows that were selected, and its values."""
    if request.POST.get("all"):
        kind = request.GET.get("show", "")
        condition, values = (f" AND {KIND} = %s", [kind]) if kind in KINDS else ("", [])
        return "r.batch_uuid = %s" + condition, [batch["uuid"], *values]
    numbers = [int(text) for text in request.POST.getlist("row") if re.fullmatch(r"-?[0-9]{1,18}", text)]
    if not numbers:
        raise Refused("No rows were selected.")
    return "r.batch_uuid = %s AND r.sequence = ANY (%s)", [batch["uuid"], numbers]


def write_rows(request, batch, assignments, more=""):
    condition, values = chosen(request, batch)
    table = models.poser("poser_batch_row")
    return len(query(f"UPDATE {table} AS r SET {assignments} WHERE {condition} {more} RETURNING 1", *values))


def remove(request, batch):
    return f"Rows removed: {write_rows(request, batch, 'removed = true', 'AND NOT r.removed')}.  They are not executed."


def restore(request, batch):
    n = write_rows(request, batch, "removed = false", "AND r.removed")
    return f"Rows brought back: {n}.  Refresh the batch to check them."


def overwrite(request, batch):
    n = write_rows(
        request,
        batch,
        "old = NULL, status = 'ready', status_text = 'Overwrites what others have written.',"
        " operation = CASE r.operation WHEN 'delete' THEN 'delete' ELSE 'update' END",
        "AND r.status = 'conflict' AND NOT r.removed",
    )
    return f"Rows that will overwrite what others have written: {n}.  Refresh the batch to see their differences."


def refresh(request, batch):
    ((bad,),) = query(f"SELECT {models.poser('poser_batch_refresh')}(%s)", batch["uuid"])
    return f"Compared with the table.  Rows that are wrong or in conflict: {bad}."


def execute(request, batch):
    # All writers lock the rows of a batch before the batch.
    rows = f"SELECT FROM {models.poser('poser_batch_row')} WHERE batch_uuid = %s ORDER BY sequence FOR NO KEY UPDATE"
    query(f"SELECT count(*) FROM ({rows}) AS r", batch["uuid"])
    batch = find(batch["uuid"], "FOR NO KEY UPDATE")
    if batch["executed"]:
        raise Refused(f"Nothing was written: {batch['executed_by']} has executed this batch at {batch['executed']}.")
    if counts_of(batch["uuid"])[1] != request.POST.get("seen"):
        raise Refused("Nothing was written: rows of this batch have changed meanwhile.  Look at them again.")
    ((created, updated, deleted, unchanged, skipped),) = query(
        f"SELECT * FROM {models.poser('poser_batch_execute')}(%s, %s)", batch["uuid"], bool(request.POST.get("skip"))
    )
    return f"Executed: {created} new, {updated} changed, {deleted} deleted, {unchanged} the same, {skipped} skipped."


def delete(request, batch):
    if not query(f"DELETE FROM {models.poser('poser_batch')} WHERE uuid = %s RETURNING 1", batch["uuid"]):
        raise Refused("You may not delete this batch.")
    return f"Batch {batch['id']} was deleted.  It was not executed."


def complete(request, batch):
    query(f"UPDATE {models.poser('poser_batch')} SET complete = NOT complete WHERE uuid = %s", batch["uuid"])
    return "The batch is open: its rows can be changed." if batch["complete"] else "The batch is reviewed: its rows cannot be changed."


ACTIONS = {action.__name__: action for action in (remove, restore, overwrite, refresh, execute, delete, complete)}

### A row of a batch


class Correction(ErrorsAtFields, forms.Form):
    """The form of a batch's row: its key and its values, as texts.  An empty field means the same as in a file."""

    def __init__(self, row, relation, data):
        super().__init__(data, initial={"seen": row["seen"]})
        self.row, self.places = row, {}
        columns = {info["name"]: info for info in relation.columns.values()}
        for part in ("key", "new"):
            for name, text in row[part].items():
                info = columns.get(name)
                if is_json(info) and part == "new":
                    text = row["json"][name]
                place = f"{part}_{len(self.places)}"
                self.places[place] = part, name, info, text or ""
                is_long = is_json(info) or len(text or "") > 80 or "\n" in (text or "")
                widget = forms.Textarea(attrs={"rows": 3}) if is_long else forms.TextInput
                self.fields[place] = forms.CharField(
                    label=name, required=False, strip=False, initial=text or "", widget=widget, help_text=info["type"] if info else ""
                )
        self.fields["seen"] = forms.CharField(widget=forms.HiddenInput, required=False)
        self.fields["why"] = WHY

    def clean(self):
        self.written = {"key": {}, "new": {}}
        stale = self.cleaned_data.get("seen") != self.row["seen"]
        if stale:
            self.add_error(None, "Nothing was written: this row has changed meanwhile.  Look at it, and save again.")
            self.data = {**self.data.dict(), "seen": self.row["seen"]}
        for place, (part, name, info, before) in self.places.items():
            text = self.cleaned_data.get(place, "").replace("\r\n", "\n")
            if text == before.replace("\r\n", "\n"):
                continue
            if stale:
                self.add_error(place, f"Meanwhile changed to: {before}")
            try:
                self.written[part][name] = self.read(info, text, part == "key")
            except DatabaseError as error:
                if errors.lost(error):
                    raise
                self.add_error(place, errors.text_of(error))
            except (ValueError, RecursionError) as error:
                self.add_error(place, f"This is not JSON: {error}")

    def read(self, info, text, is_key):
        """The JSON of a text, which the server casts to the column's type."""
        if text == "":
            return json.dumps("" if info and info["category"] == "S" and info["not_null"] and not is_key else None)
        value = json.dumps(text)
        if is_json(info) or info and (info["category"], text[0]) in (("A", "["), ("C", "{")):
            json.loads(text)
            value = text
        if info is None:
            return value
        with transaction.atomic():
            typed = query(
                f"SELECT to_jsonb(x.v)::text FROM jsonb_to_record(%s::jsonb) AS x(v {info['type'].replace('%', '%%')})", f'{{"v": {value}}}'
            )[0][0]
        # The JSON of other types may differ from that of a batch.
        return value if "." in info["base"] else typed or "null"

    def save(self, uuid):
        key, new = ("{" + ", ".join(f"{json.dumps(n)}: {v}" for n, v in self.written[part].items()) + "}" for part in ("key", "new"))
        # With another key it means another row of the table, so its old values are no longer known.
        moved = ", old = NULL, operation = 'update'" if self.written["key"] else ""
        query(
            f"""
            UPDATE {models.poser('poser_batch_row')}
               SET key = key || %s::jsonb, new = COALESCE(new, '{{}}') || %s::jsonb,
                   status = 'ready', status_text = 'Corrected.  Refresh the batch to check it.'{moved}
             WHERE batch_uuid = %s AND sequence = %s
            """,
            key,
            new,
            uuid,
            self.row["sequence"],
        )


def is_json(info):
    return info is not None and info["base"] in ("json", "jsonb")


def row_view(request, site, uuid, sequence):
    """The page to correct a row of a batch."""
    batch = find(uuid)
    if not re.fullmatch(r"-?[0-9]{1,18}", sequence):
        raise Http404
    lock = " FOR NO KEY UPDATE" if request.method == "POST" else ""
    row = next(iter(rows_of_batch("r.batch_uuid = %s AND r.sequence = %s" + lock, uuid, int(sequence))), None)
    model = next((model for model in site._registry if model.relation.oid == batch["oid"]), None)
    if row is None or model is None:
        raise Http404("There is no such row.")
    if not batch["is_mutable"] or not may_batch(request, "UPDATE"):
        raise PermissionDenied
    form = Correction(row, model.relation, request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            with transaction.atomic():
                form.save(uuid)
                if "refresh" in request.POST:
                    models.no_time_limit()
                    query(f"SELECT {models.poser('poser_batch_refresh')}(%s)", uuid)
            messages.success(request, f"Row {row['sequence']} was corrected.")
            return HttpResponseRedirect(batch_address(uuid))
        except DatabaseError as error:
            if errors.lost(error):
                raise
            form.add_error(None, errors.text_of(error))
    context = {
        **site.each_context(request),
        "title": f"Row {row['sequence']} of batch {batch['id']}",
        "batch": batch,
        "row": row,
        "form": form,
        "back": batch_address(uuid),
    }
    return TemplateResponse(request, "poser_web/batch_row.html", context)
