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
from django.db import connection
from django.http import FileResponse, Http404, HttpResponseRedirect
from django.urls import reverse

from . import errors, files, models
from .rights import Pages, page, pages_of
from .rowforms import WHY, ErrorsAtFields, read_seen
from .statements import Refused, attempt, check_constraints, may, run, whole_number

PAGE = 50  # rows on a page
FORMATS = {
    "csv": (files.write_csv, "text/csv; charset=utf-8"),
    "xlsx": (files.write_xlsx, "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
}


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
        return [
            self.named("export/<str:kind>/", self.export_view, "export"),
            self.named("import/", self.import_view, "import"),
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
        if kind not in FORMATS:
            raise Http404
        if not self.has_view_permission(request):
            raise PermissionDenied
        models.no_time_limit()
        back = HttpResponseRedirect(f"{self.address('changelist')}?{request.GET.urlencode()}")
        try:
            rows = self.get_changelist_instance(request).export_queryset()
        except IncorrectLookupParameters:
            return back  # the grid shows what is wrong
        names = self.names(request, self.may(request).select)
        computed = [name for name in self.computed(request) if name in rows.query.annotations]
        infos = [self.opts.get_field(name).info for name in names]
        columns = [files.Column(info["name"], info["base"], info["typmod"] >= 0, not self.is_filled(info)) for info in infos]
        columns += [files.Column(name, "bigint", True, True) for name in computed]
        write, content_type = FORMATS[kind]
        out = tempfile.TemporaryFile(dir=settings.STATE)  # not in /tmp, which may be in memory
        try:
            write(out, columns, rows.values_list(*names, *computed))
        except Refused as error:
            out.close()
            self.message_user(request, str(error), messages.ERROR)
            return back
        out.seek(0)
        name = re.sub(r"[^\w.-]+", "_", self.relation.name)
        return FileResponse(out, as_attachment=True, filename=f"{name}.{kind}", content_type=content_type)

    def why_no_import(self, request):
        """The reason why the role cannot import into this table; None if it can."""
        if self.relation.is_view:
            return "This is a view.  Import into its tables."
        if not self.has_add_permission(request) and not self.has_change_permission(request):
            return "You may not change this table."
        if not self.has_view_permission(request):
            return "You may not read the key of this table.  An import needs it to compare rows."
        if not may_batch("SELECT INSERT UPDATE") or not run("SELECT has_database_privilege(current_database(), 'TEMP') AS may")[0].may:
            return "You may not make batches.  An import needs one."
        return None

    def import_view(self, request):
        if not self.has_view_permission(request):
            raise PermissionDenied
        no = self.why_no_import(request)
        form = Upload(request.POST or None, request.FILES or None)
        if no is None and form.is_valid():
            models.no_time_limit()
            uuid, error = attempt(self.make_batch, request, form.cleaned_data)
            if error is None:
                return HttpResponseRedirect(batch_address(uuid))
            form.add_error("file", errors.text_of(error))
        return self.page(
            request,
            "import",
            title=f"Import into {self.relation.name}",
            form=form,
            no=no,
            columns=self.importable(request).values(),
            key=[self.relation.columns[number]["name"] for number in self.relation.key],
            megabytes=settings.UPLOAD_BYTES // 1_000_000,
        )

    def importable(self, request):
        """The columns that a file may have: those that the role may read and write, the key, and those whose values the database makes."""
        may, key = self.may(request), self.relation.key
        columns = self.relation.columns.items()
        return {n: info for n, info in columns if n in may.select and (n in may.insert | may.update or n in key or is_made(info))}

    def make_batch(self, request, data):
        """Copy the rows of a file into a temporary table, and make a batch of them.  Returns its uuid."""
        columns = self.relation.columns
        names = self.importable(request)
        source = files.Source(data["file"], lambda name: number_of(name, names) is not None, 8 * settings.UPLOAD_BYTES)
        numbers = self.match(request, source.names, names)
        how = {
            **source.how,
            "file": data["file"].name.replace("\0", ""),
            "rows": self.stage(source, numbers),
            "columns": [columns[number]["name"] for number in numbers if number],
            "left_out": [name for name, number in zip(source.names, numbers) if not number],
        }
        create, populate = models.poser("poser_batch_create"), models.poser("poser_batch_populate")
        description = data["why"] or how["file"]
        uuid = run(f"SELECT {create}(%s::oid::regclass, %s, %s::jsonb) AS uuid", [self.relation.oid, description, json.dumps(how)])[0].uuid
        key = [columns[number]["name"] for number in self.relation.key]
        run(f"SELECT {populate}(%s, 'pg_temp.poser_web_rows'::regclass, %s::text[], unchanged => %s)", [uuid, key, data["unchanged"]])
        compare(uuid)
        return uuid

    def is_filled(self, info):
        """Whether an empty field of a text column is an empty text, and not NULL."""
        return info["not_null"] and info["number"] not in self.relation.key

    def can_be_empty(self, info):
        """Whether a value of the column's type can have an empty text, such as a tsvector or an enum with an empty label."""
        if info["base"] in files.NOT_ESCAPED:
            return False
        rows, _ = attempt(run, f"SELECT CAST(CAST(%s AS {info['base'].replace('%', '%%')}) AS text) AS text", [""])
        return bool(rows) and rows[0].text == ""

    def stage(self, source, numbers):
        """Copy the rows of a file into a temporary table.  The view poser_web_rows has those columns of it that are imported.
        Returns the number of rows.

        All columns are texts, so that the batch says which values are wrong, except for two kinds of types.  A type with
        its own explicit cast from text, such as xml, cannot be assigned from text.  Of JSON, a batch would keep an
        invalid text as a JSON string.  A field with nothing between its quotes is NULL in a column whose values cannot be empty."""
        infos = [self.relation.columns.get(number) for number in numbers]
        own = run(
            """
            SELECT t AS type FROM pg_catalog.unnest(%s::text[]) AS t
             WHERE t IN ('json', 'jsonb') OR EXISTS (
                SELECT FROM pg_catalog.pg_cast
                 WHERE castsource = 'text'::pg_catalog.regtype AND casttarget = t::pg_catalog.regtype AND castcontext = 'e')
            """,
            [[info["base"] for info in infos if info]],
        )
        own = {row.type for row in own}
        table, rows, null, not_null, values = [], [], [], [], []
        for name, info in zip(source.names, infos):
            column = models.quoted(info["name"] if info else name)
            kind = info["base"].replace("%", "%%") if info and info["base"] in own else "pg_catalog.text"
            table.append(f"{column} {kind}")
            if info is None:
                continue
            if info["category"] != "S" and not self.can_be_empty(info):
                null.append(column)
            elif self.is_filled(info):
                not_null.append(column)
            text = f"pg_catalog.regexp_replace({column}::text, %s, '')"
            rows.append(f"CASE WHEN {column}::text ~ %s THEN CAST({text} AS {kind}) ELSE {column} END AS {column}")
            values += [files.ESCAPED, "^'"]
        run(f"CREATE TEMPORARY TABLE poser_web_upload ({', '.join(table)}) ON COMMIT DROP")
        run(f"CREATE TEMPORARY VIEW poser_web_rows AS SELECT {', '.join(rows)} FROM pg_temp.poser_web_upload", values)
        options = [f"FORCE_NULL ({', '.join(null)})"] * bool(null) + [f"FORCE_NOT_NULL ({', '.join(not_null)})"] * bool(not_null)
        copy = f"COPY pg_temp.poser_web_upload FROM STDIN (FORMAT csv, HEADER, DELIMITER %s{''.join(', ' + one for one in options)})"

        def load():
            with connection.cursor() as cursor, connection.wrap_database_errors:
                cursor.copy_expert(cursor.mogrify(copy, [source.delimiter]), io.StringIO(source.text))
                return cursor.rowcount

        count, error = attempt(load)
        if error:
            diag = errors.diagnostics(error)
            place = diag and re.search(r"poser_web_upload\D*(\d+)", diag.context or "")
            raise Refused(f"Line {source.line(int(place[1]))}: {errors.text_of(error)}") if place else error
        if not count:
            raise Refused("The file has a header, but no rows.")
        return count

    def match(self, request, header, columns):
        """For each name of the header: the number of its column; None if the database makes its values."""
        numbers, computed = [number_of(name, columns) for name in header], self.computed(request)
        unknown = [name for name, number in zip(header, numbers) if number is None and name not in computed]
        if unknown:
            raise Refused(f"There is no column {shown(unknown)} that you may write.")
        missing = [columns[number]["name"] for number in self.relation.key if number not in numbers]
        if missing:
            raise Refused(f"The header lacks columns of the key, by which rows are found: {shown(missing)}.")
        return [number if number in self.relation.key or number and not is_made(columns[number]) else None for number in numbers]


def is_made(info):
    """Whether the database makes the values of a column always."""
    return bool(info["generated"]) or info["identity"] == "a"


def number_of(name, columns):
    """The column with this name, or the only one whose name differs in white space and case."""
    for plain in (str, lambda text: text.strip().lower()):
        fits = [number for number, info in columns.items() if plain(info["name"]) == plain(name)]
        if len(fits) == 1:
            return fits[0]
    return None


### Batches


def may_batch(privileges="SELECT"):
    """Whether the role has these privileges on the tables of batches."""
    return may(privileges, "poser_batch", "poser_batch_row")


def batch_address(uuid):
    return reverse("admin:batch", args=[quote(uuid)])


def headers(condition, *values):
    """Batches, without their rows."""
    return run(
        f"""
        SELECT b.*, target::oid::int8 AS oid, target::text AS target, to_char(created, 'YYYY-MM-DD HH24:MI') AS created,
               to_char(executed, 'YYYY-MM-DD HH24:MI') AS executed
          FROM {models.poser('poser_batch')} AS b WHERE {condition}
        """,
        values,
    )


def list_view(request):
    if not may_batch():
        raise PermissionDenied
    kind, before = request.GET.get("show", "open"), whole_number(request.GET.get("before"))
    condition = {"open": "executed IS NULL", "executed": "executed IS NOT NULL"}.get(kind, "true")
    batches = headers(f"{condition} AND (%s::int8 IS NULL OR id < %s) ORDER BY id DESC LIMIT {PAGE + 1}", before, before)
    return page(
        request,
        "batches",
        title="Batches",
        kinds=["open", "executed", "all"],
        kind=kind,
        batches=batches[:PAGE],
        next=batches[PAGE - 1].id if len(batches) > PAGE else None,
    )


# The kind of a row of a batch, as pages name it.
KIND = """CASE WHEN r.removed THEN 'removed' WHEN r.status = 'error' THEN 'wrong' WHEN r.status <> 'ready' THEN r.status
               WHEN r.operation = 'create' THEN 'new' WHEN r.operation = 'update' THEN 'changed'
               WHEN r.operation = 'delete' THEN 'deleted' ELSE 'same' END"""
KINDS = ["new", "changed", "deleted", "same", "wrong", "conflict", "skipped", "removed"]


def find(uuid, lock=""):
    """A batch.  Raises Http404 or PermissionDenied."""
    if not may_batch():
        raise PermissionDenied
    found = headers(f"uuid = %s {lock}", uuid)
    if not found:
        raise Http404("There is no such batch.")
    return found[0]


def rows_of_batch(condition, values):
    """The rows of a batch that meet the condition, with their values as texts."""
    texts = "COALESCE((SELECT json_object_agg(key, value) FROM jsonb_each_text(r.{0})), '{{}}') AS {0}"
    # The subquery has LIMIT and OFFSET, so that only the rows of the page are made into texts.
    rows = f"SELECT * FROM {models.poser('poser_batch_row')} AS r WHERE {condition}"
    return run(
        f"""
        SELECT r.sequence, r.row_id, r.operation, r.status, r.status_text, r.removed, {KIND} AS kind,
               md5(ROW(r.operation, r.key, r.old, r.new, r.removed)::text) AS seen,
               {texts.format('key')}, {texts.format('old')}, {texts.format('new')},
               COALESCE((SELECT json_object_agg(key, value::text) FROM jsonb_each(r.new)), '{{}}') AS json
          FROM ({rows}) AS r ORDER BY r.sequence
        """,
        values,
    )


def batch_view(request, uuid):
    batch = find(unquote(uuid))
    if request.method == "POST":
        return change_batch(request, batch)
    condition, values = rows_shown(request, batch)
    counts, seen = counts_of(batch.uuid)
    kind = request.GET.get("show", "")
    part = Paginator(range(counts.get(kind, 0) if kind in KINDS else sum(counts.values())), PAGE).get_page(request.GET.get("p"))
    rows = rows_of_batch(f"{condition} ORDER BY r.sequence LIMIT {PAGE} OFFSET {(part.number - 1) * PAGE}", values)
    leave_out_hidden(batch, rows)
    for row in rows:
        row.fields, row.key = list(fields_of(row)), list(row.key.items())
    pages, may_update = pages_of(request, batch.oid), may_batch("UPDATE")
    return page(
        request,
        "batch",
        title=f"Batch {batch.id}",
        batch=batch,
        read=read_seen(batch.params),
        opts=pages and pages.opts,
        rows=rows,
        page=part,
        kind=kind,
        kinds=[(name, counts[name]) for name in KINDS if name in counts],
        total=sum(counts.values()),
        counts=counts,
        seen=seen,
        may_change=batch.is_mutable and may_update,
        may_execute=not batch.executed and may_update,
        may_delete=not batch.executed and may_batch("DELETE"),
    )


def rows_shown(request, batch):
    """The condition for the rows that the page is about, and its values."""
    kind = request.GET.get("show")
    return ("r.batch_uuid = %s" + f" AND {KIND} = %s" * (kind in KINDS), [batch.uuid] + [kind] * (kind in KINDS))


def counts_of(uuid):
    """The number of rows of each kind in a batch, and a text that differs after each change of the rows."""
    rows = f"{models.poser('poser_batch_row')} AS r WHERE r.batch_uuid = %s"
    counts = run(f"SELECT {KIND} AS kind, count(*), sum(r.xmin::text::int8) AS xmin FROM {rows} GROUP BY 1 ORDER BY 1", [uuid])
    return {row.kind: row.count for row in counts}, " ".join(f"{row.kind}:{row.count}:{row.xmin}" for row in counts)


COLUMNS = """
SELECT a.attname AS name, has_schema_privilege(c.relnamespace, 'USAGE') AND has_column_privilege(c.oid, a.attnum, 'SELECT') AS shown
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid
 WHERE c.oid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""


def leave_out_hidden(batch, rows):
    """Leave out of rows of a batch what the role may not read in its table, which may no longer be tracked: columns, and texts
    with values that others have read.  Former columns are shown to roles that may read all columns."""
    found = run(COLUMNS, [batch.oid])
    if not found:  # the table was dropped
        return
    columns = {column.name: (place, column.shown) for place, column in enumerate(found)}
    other = len(columns), all(column.shown for column in found)
    secret = run("SELECT pg_catalog.row_security_active(%s::oid) AS active", [batch.oid])[0].active
    for row in rows:
        whole = True
        for part in ("key", "old", "new"):
            values = getattr(row, part)
            shown = [name for name in values if columns.get(name, other)[1]]
            whole = whole and len(shown) == len(values)
            setattr(row, part, {name: values[name] for name in sorted(shown, key=lambda name: columns.get(name, other))})
        if row.status in ("conflict", "skipped") and (secret or not whole):
            row.status_text = "Others have changed this row meanwhile.  You may not see all of it, so the values are not shown."
        elif row.status == "error" and not whole:
            row.status_text = "This row is wrong.  You may not see all of it, so the reason is not shown."


def fields_of(row):
    """The fields of a row of a batch, with old and new values."""
    for name in row.old if row.operation == "delete" else row.new:
        was, new, is_there = row.old.get(name), row.new.get(name), name in row.old
        if row.operation == "delete":
            mark = "deleted"
        elif not is_there:
            mark = "new" if row.operation == "create" else "not compared"
        else:
            mark = "same" if was == new else "changed"
        yield {"name": name, "was": was, "is_there": is_there, "new": new, "mark": mark}


def change_batch(request, batch):
    """Do what the button of the batch's page says."""
    action = request.POST.get("action", "")
    if action not in ACTIONS:
        raise Http404
    models.no_time_limit()

    def act():
        said = ACTIONS[action](request, batch)
        check_constraints()
        return said

    said, error = attempt(act)
    if error is None:
        messages.success(request, said)
        return HttpResponseRedirect(reverse("admin:batches") if action == "delete" else request.get_full_path())
    messages.error(request, errors.text_of(error))
    if action == "execute":
        attempt(compare, batch.uuid)  # to find the rows in conflict, which the page shows
    return HttpResponseRedirect(request.get_full_path())


def edit(assignments, condition, said):
    """The action that changes the rows that were selected and meet the condition."""

    def act(request, batch):
        chosen, values = rows_shown(request, batch)
        if not request.POST.get("all"):
            chosen, values = "r.batch_uuid = %s AND r.row_id = ANY (%s)", [batch.uuid, request.POST.getlist("row")]
        table = models.poser("poser_batch_row")
        return said.format(len(run(f"UPDATE {table} AS r SET {assignments} WHERE {chosen} AND {condition} RETURNING r.row_id", values)))

    return act


def compare(uuid):
    """Compare a batch with its table.  Returns the number of rows that are wrong or in conflict."""
    return run(f"SELECT {models.poser('poser_batch_refresh')}(%s) AS bad", [uuid])[0].bad


def refresh(request, batch):
    return f"Compared with the table.  Rows that are wrong or in conflict: {compare(batch.uuid)}."


def execute(request, batch):
    # All writers lock the rows of a batch before the batch.
    rows = f"SELECT FROM {models.poser('poser_batch_row')} WHERE batch_uuid = %s ORDER BY sequence FOR NO KEY UPDATE"
    run(f"SELECT count(*) FROM ({rows}) AS r", [batch.uuid])
    batch = find(batch.uuid, "FOR NO KEY UPDATE")
    if batch.executed:
        raise Refused(f"Nothing was written: {batch.executed_by} has executed this batch at {batch.executed}.")
    if counts_of(batch.uuid)[1] != request.POST.get("seen"):
        raise Refused("Nothing was written: rows of this batch have changed meanwhile.  Look at them again.")
    statement = f"SELECT * FROM {models.poser('poser_batch_execute')}(%s, %s)"
    did = run(statement, [batch.uuid, bool(request.POST.get("skip"))])[0]
    return f"Executed: {did.created} new, {did.updated} changed, {did.deleted} deleted, {did.unchanged} the same, {did.skipped} skipped."


def delete(request, batch):
    if not run(f"DELETE FROM {models.poser('poser_batch')} WHERE uuid = %s RETURNING uuid", [batch.uuid]):
        raise Refused("You may not delete this batch.")
    return f"Batch {batch.id} was deleted.  It was not executed."


def complete(request, batch):
    run(f"UPDATE {models.poser('poser_batch')} SET complete = NOT complete WHERE uuid = %s", [batch.uuid])
    return "The batch is open: its rows can be changed." if batch.complete else "The batch is reviewed: its rows cannot be changed."


ACTIONS = {
    "remove": edit("removed = true", "NOT r.removed", "Rows removed: {}.  They are not executed."),
    "restore": edit("removed = false", "r.removed", "Rows brought back: {}.  Refresh the batch to check them."),
    "overwrite": edit(
        "old = NULL, status = 'ready', status_text = 'Overwrites what others have written.',"
        " operation = CASE r.operation WHEN 'delete' THEN 'delete' ELSE 'update' END",
        "r.status = 'conflict' AND NOT r.removed",
        "Rows that will overwrite what others have written: {}.  Refresh the batch to see their differences.",
    ),
    "refresh": refresh,
    "execute": execute,
    "delete": delete,
    "complete": complete,
}

### A row of a batch


class Correction(forms.Form):
    """The form of a batch's row: its key and its values, as texts.  An empty field means the same as in a file."""

    def __init__(self, row, relation, data):
        super().__init__(data)
        self.row, self.places = row, {}
        columns = {info["name"]: info for info in relation.columns.values()}
        for part, texts in (("key", row.key), ("new", row.new)):
            for name, text in texts.items():
                info = columns.get(name)
                if is_json(info) and part == "new":
                    text = row.json[name]
                text = text or ""
                place = f"{part}_{len(self.places)}"
                self.places[place] = part, name, info
                widget = forms.Textarea({"rows": 3}) if is_json(info) or len(text) > 80 or "\n" in text else forms.TextInput
                kind = info["type"] if info else ""
                self.fields[place] = models.Verbatim(label=name, required=False, initial=text, widget=widget, help_text=kind)
        # The names of the fields count the columns that the role may read, which can change, too.
        self.seen = " ".join([row.seen, *(name for _, name, _ in self.places.values())])
        self.fields["seen"] = forms.CharField(widget=forms.HiddenInput, required=False, initial=self.seen)
        self.fields["why"] = WHY

    def clean(self):
        if self.cleaned_data.get("seen") != self.seen:
            self.add_error(None, "Nothing was written: this row has changed meanwhile.  Look at it, and save again.")
            self.data = {**self.data.dict(), "seen": self.seen}
            for place in set(self.changed_data) & set(self.places):
                self.add_error(place, f"Meanwhile changed to: {self.fields[place].initial}")

    def json_of(self, place):
        """The value of a field as JSON.  Values of most types are texts, which the server casts later."""
        (part, _, info), text = self.places[place], self.cleaned_data[place]
        if text == "":
            return '""' if part == "new" and info and info["category"] == "S" and info["not_null"] else "null"
        is_raw = is_json(info) or info and (info["category"], text[0]) in (("A", "["), ("C", "{"))
        return text if is_raw else json.dumps(text)

    def save(self, uuid):
        """Write the values that have changed, and refresh the batch if the button says so.  Returns the row's status."""
        changed = [place for place in self.changed_data if place in self.places]
        values, sets = [], ["status = 'ready'", "status_text = 'Corrected.  Refresh the batch to check it.'"]
        for part in ("key", "new"):
            places = [place for place in changed if self.places[place][0] == part]
            pairs = "SELECT jsonb_object_agg(name, value::jsonb) FROM unnest(%s::text[], %s::text[]) AS v (name, value)"
            sets.append(f"{part} = COALESCE({part}, '{{}}') || COALESCE(({pairs}), '{{}}')")
            values += [[self.places[place][1] for place in places], [self.json_of(place) for place in places]]
            if part == "key" and places:  # another row of the table, so its old values are not known
                sets += ["old = NULL", "operation = 'update'"]
        table = models.poser("poser_batch_row")
        run(f"UPDATE {table} SET {', '.join(sets)} WHERE row_id = %s", [*values, self.row.row_id])
        if "refresh" in self.data:
            models.no_time_limit()
            compare(uuid)
        return run(f"SELECT status FROM {table} WHERE row_id = %s", [self.row.row_id])[0].status


def is_json(info):
    return info is not None and info["base"] in ("json", "jsonb")


def row_view(request, uuid, sequence):
    """The page to correct a row of a batch."""
    batch = find(unquote(uuid))
    lock = " FOR NO KEY UPDATE" if request.method == "POST" else ""
    row = next(iter(rows_of_batch("r.row_id = %s" + lock, [f"{batch.uuid}.{unquote(sequence)}"])), None)
    pages = pages_of(request, batch.oid)
    if row is None or pages is None:
        raise Http404("There is no such row.")
    if not batch.is_mutable or not may_batch("UPDATE"):
        raise PermissionDenied
    leave_out_hidden(batch, [row])
    form = Correction(row, pages.relation, request.POST or None)
    if form.is_valid():
        status, error = attempt(form.save, batch.uuid)
        if error is None:
            messages.success(request, f"Row {row.sequence} was corrected.")
            return HttpResponseRedirect(request.path if status == "error" else batch_address(batch.uuid))
        form.add_error(None, errors.text_of(error))
    return page(request, "batch_row", title=f"Row {row.sequence} of batch {batch.id}", batch=batch, row=row, form=form)
