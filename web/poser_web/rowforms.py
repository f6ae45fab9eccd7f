"""Forms: a row is added or changed, with a reason.

A form has a hidden field "seen": a digest of each value that it has shown.  A POST locks
the row, reads it again and compares.  If another transaction has changed a value
meanwhile, the form says so at the field, and nothing is written.  "seen" then has the
new value, so that a second Save writes.

Only values that differ are written.  Values whose form fields cannot check them are cast by the
server, each in a savepoint, so that an error is shown at its field.  After an error of the
database the view runs a second time, with the error in request.poser_error, and the form
that has caused it shows it.
"""
import hashlib
import json
from contextlib import contextmanager

from django import forms
from django.contrib import messages
from django.contrib.admin import helpers, widgets
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db import DatabaseError, transaction
from django.db.models import TextField
from django.db.models.expressions import RawSQL
from django.forms.formsets import DELETION_FIELD_NAME

from . import errors, models
from .rights import Pages, pages_of
from .statements import attempt, check_constraints, run

WHY = forms.CharField(max_length=255, required=False, label="Why", help_text="Why you make this change. It is shown in the history.")
SHORT = 200  # rows of another table that fit into a select
LONG = 1_000_000  # characters: longer values are shown as text
# Two conditions, for UPDATE and for DELETE: one permissive policy and all restrictive ones hold.
POLICIES = """
SELECT '((' || COALESCE(pg_catalog.string_agg(p.condition, ' OR ') FILTER (WHERE p.polpermissive), 'false') || ') AND '
            || COALESCE(pg_catalog.string_agg(p.condition, ' AND ') FILTER (WHERE NOT p.polpermissive), 'true') || ')' AS condition
  FROM pg_catalog.unnest('{w,d}'::"char"[]) WITH ORDINALITY AS command (letter, place)
  LEFT JOIN (SELECT polcmd, polpermissive, '(' || pg_catalog.pg_get_expr(polqual, polrelid) || ')' AS condition
               FROM pg_catalog.pg_policy
              WHERE polrelid = %s AND polqual IS NOT NULL
                AND EXISTS (SELECT FROM pg_catalog.unnest(polroles) r WHERE r = 0 OR pg_catalog.pg_has_role(current_user, r, 'USAGE'))
            ) p ON p.polcmd IN ('*', command.letter)
 WHERE pg_catalog.row_security_active(%s::oid)
 GROUP BY command.place ORDER BY command.place
"""
CUT = ("bit", "bit varying", "character", "character varying")  # a cast cuts a longer value, which an UPDATE refuses


def plain(field, value):
    """A value as a form shows it: with LF as line end, and without the padding of char(n)."""
    value = models.with_lf(value)
    padded = isinstance(field, models.Line) and field.info["base"] == "character" and isinstance(value, str)
    return value.rstrip(" ") if padded else value


def digest(value):
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def digests(row, fields):
    """For each field: a digest of the row's value."""
    return {f.name: digest(plain(f, getattr(row, f.attname))) for f in fields}


def read_seen(text):
    """The field "seen" of a POST, or another JSON object, as a dict.  It is empty if the text is not one."""
    try:
        seen = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return seen if isinstance(seen, dict) else {}


### Fields


class RawId(widgets.ForeignKeyRawIdWidget):
    """The key of another row, with a link to look one up.  It does not read that row."""

    def label_and_url_for_value(self, value):
        return "", ""


class Area(widgets.AdminTextareaWidget):
    def __init__(self, attrs=None):
        super().__init__({"rows": 3, **(attrs or {})})


### Forms


class ErrorsAtFields:
    """For forms: a field has its errors as attributes, too, which screen readers read."""

    def add_error(self, name, error):
        super().add_error(name, error)
        for name in set(self._errors) & set(self.fields):
            self.fields[name].widget.attrs.update({"aria-invalid": "true", "title": " ".join(self._errors[name])})


class ValueForm(ErrorsAtFields, forms.ModelForm):
    """The common part of forms with values of rows.  bind() sets pages and request on the class."""

    pages = request = None

    def model_field(self, name):
        return next((f for f in self._meta.model._meta.fields if f.name == name), None)

    def report(self, name, message):
        """Show an error at the field, or on top if the form has no such field."""
        field = self.fields.get(name)
        shown = field is not None and not field.widget.is_hidden
        label = getattr(self.model_field(name), "verbose_name", name)
        self.add_error(name if shown else None, message if shown or name is None else f"{label}: {message}")

    def ask(self, name):
        """The value as the server writes it.  An error of the cast is reported at the field."""
        field, value = self.model_field(name), self.cleaned_data.get(name)
        if value in (None, "") or not (isinstance(field, models.Column) or field.info["domain"]):
            return value
        rows, error = attempt(run, f"SELECT CAST(%s AS {field.info['type'].replace('%', '%%')})::text AS text", [value])
        if error:
            self.report(name, errors.text_of(error))
            return value
        return value if field.info["base"].rstrip("[]") in CUT or not isinstance(field, models.Column) else rows[0].text


class RowForm(ValueForm):
    """The form of a row.  One of several forms on a page has a prefix."""

    seen = forms.CharField(required=False, widget=forms.HiddenInput)

    def __init__(self, *args, **options):
        row = options.get("instance")
        for name in row.get_deferred_fields() if row is not None else ():
            setattr(row, name, None)  # a column that the role may write, but not read
        super().__init__(*args, **options)
        self.refused = False  # whether the form reports something, so that the row is not deleted either
        self.seen = read_seen(self.data.get(self.add_prefix("seen")))
        self.readable = self.pages.readable(self.request)
        for name, field in self.fields.items():
            model_field = self.model_field(name)
            if model_field is None:
                continue
            if self.adding:
                self.offer_default(name, field, model_field)
            elif model_field not in self.readable:
                field.required = False
                field.widget.attrs["placeholder"] = "not shown; stays if left empty"
            else:
                value = self.initial[name] = plain(model_field, self.initial.get(name))
                if value == "":
                    field.required = False
                if isinstance(field, models.Verbatim) and isinstance(value, str) and ("\n" in value or "\r" in value):
                    field.widget = Area(field.widget.attrs)  # an <input> has one line
        if self.seen:
            self.fill_new_columns()
        if self.adding:
            self.initial["seen"] = json.dumps(dict.fromkeys(self.fields, ""))
        else:
            self.initial["seen"] = json.dumps({"": str(row.pk), **digests(row, self.readable)})

    def offer_default(self, name, field, model_field):
        """Set the initial value of a new row's field to the default, if that is a constant."""
        if not model_field.info["default"] and not model_field.info["identity"]:
            return
        field.required = False
        try:
            value = model_field.to_python(models.constant(model_field.info["default"]))
        except forms.ValidationError:  # 1.5 for an integer
            value = None
        if value is None:
            field.widget.attrs["placeholder"] = "made by the database"
        else:
            self.initial.setdefault(name, value)

    def fill_new_columns(self):
        """Give columns that are newer than the page their initial values."""
        for name in set(self.fields) - set(self.seen):
            if self.initial.get(name) is not None:
                self.data.setdefault(self.add_prefix(name), str(self.initial[name]))

    @property
    def adding(self):
        return self.instance._state.adding

    def clean(self):
        """Report what others have changed meanwhile, and errors of the database."""
        if not self.adding:
            self.compare()
        for name in set(self.seen) - set(self.fields) - {f.name for f in self.readable}:
            if name and self.add_prefix(name) in self.data:
                self.report(None, f"{name}: this column was dropped, or you may no longer see it.  Save ignores its value.")
                self.tell_once()
        for name in [name for name in self.changed_data if self.model_field(name)]:
            value, before = self.ask(name), getattr(self.instance, self.model_field(name).attname)
            if not self.adding and value == self.initial.get(name):
                self.changed_data.remove(name)  # 1.5 in numeric(5,2), which has 1.50
            elif isinstance(value, str) and isinstance(before, str) and "\r\n" in before:
                self.cleaned_data[name] = self.cleaned_data[name].replace("\n", "\r\n")
        if not self.adding:
            self.compare_on_page()
        self.report_error()

    def compare(self):
        """Report each value that differs from the one that the form has shown."""
        now = digests(self.instance, self.readable)
        changed = [f for f in self.readable if self.seen.get(f.name) != now[f.name] and not f.info["generated"]]
        who = self.pages.last_changes(self.request, self.instance) if changed else {}
        for field in changed:
            name, value = field.name, plain(field, getattr(self.instance, field.attname))
            posted = name in self.fields and not self.fields[name].disabled
            mine = self.cleaned_data.get(name)
            if posted and name not in self.errors and mine == value:
                continue  # both have made the same change
            message = f"Meanwhile changed to: {short(value)}{who.get(field.info['name'], '.')}"
            self.tell_once()
            if posted and (name in self.errors or self.seen.get(name) not in (digest(mine), digest(None if mine == "" else mine))):
                message += "  The field has your value, and Save writes it."
            elif name in self.fields:
                self.data[self.add_prefix(name)] = "" if value is None else str(value)
            self.report(name, message)

    def compare_on_page(self):
        """Report what contradicts another form of the page, which has the same row."""
        known = self.request.__dict__.setdefault("poser_forms", {}).setdefault((self.pages.relation.oid, self.instance.pk), {})
        names, deletes = [name for name in self.changed_data if self.model_field(name)], bool(self.cleaned_data.get(DELETION_FIELD_NAME))
        if (names or deletes) and known.setdefault(DELETION_FIELD_NAME, deletes) != deletes:
            self.report(None, "This row is on the page twice: it is changed in one place, and deleted in the other.")
            self.refused = True
        for name in names:
            value = self.cleaned_data.get(name)
            if known.setdefault(name, value) != value:
                self.report(name, f"This row is on the page twice, and its new value in the other place is: {short(known[name])}")

    @contextmanager
    def named_in_errors(self):
        """A block whose errors of the database this form shows."""
        try:
            yield
        except DatabaseError as error:
            error.prefix = self.prefix
            raise

    def report_error(self):
        """Report the error that the database has raised when this form was written."""
        error = getattr(self.request, "poser_error", None)
        if error is not None and getattr(error, "prefix", None) == self.prefix:
            self.report(self.pages.field_of(error), errors.text_of(error))
            self.refused = True

    def tell_once(self):
        """Let the next POST have seen what this one reports."""
        self.refused = True
        self.data[self.add_prefix("seen")] = self.initial["seen"]

    def write(self):
        """INSERT the row, or UPDATE the values that have changed.  INSERT never overwrites another row."""
        row, names = self.instance, [name for name in self.changed_data if self.model_field(name)]
        if not self.adding and not names:
            return
        self.request.poser_written = True
        with self.named_in_errors():
            if self.adding:
                self.insert(row)
            else:
                values = {name: getattr(row, self.model_field(name).attname) for name in names}
                if not type(row)._base_manager.filter(pk=row.pk).update(**values):
                    self.unwritten(row.pk)

    def insert(self, row):
        row.given = set(self.fields)
        row.unreturned = not self.pages.has_view_permission(self.request)
        try:
            with transaction.atomic():
                row.save(force_insert=True)
        except DatabaseError as error:
            # RETURNING fails if the role may add the row, but a policy hides it.
            if row.unreturned or errors.sqlstate(error) != "42501" or not self.pages.row_security(self.request):
                raise
            row.unreturned = True
            row.save(force_insert=True)
        if row.discarded:
            self.unwritten("the new row")

    def unwritten(self, what):
        """Note that the database has written no row, without an error."""
        text = "nothing was written.  A policy or a trigger has discarded or replaced the change."
        self.request.poser_unwritten = f"{self.pages.relation.name} ({what}): {text}"


class PageForm(RowForm):
    """The form of a page about one row."""

    why = WHY


class ActionForm(helpers.ActionForm):
    why = WHY


def bind(form, pages, request, **attributes):
    """The form class, for the pages of a table and a request."""
    return type(form.__name__, (form,), {"pages": pages, "request": request, **attributes})


def short(value):
    text = "nothing (NULL)" if value is None else ("no", "yes")[value] if isinstance(value, bool) else str(value)
    return text if len(text) <= 200 else text[:200] + " …"


### Pages


class FormPages(Pages):
    form = PageForm
    action_form = ActionForm
    change_form_template = "poser_web/form.html"
    formfield_overrides = {
        models.Text: {"widget": Area},
        models.Column: {"widget": widgets.AdminTextInputWidget},
    }

    def readable(self, request):
        """The fields of the columns that the role may read."""
        return [self.model._meta.get_field(name) for name in self.names(request, self.may(request).select)]

    # Rows that the role may see, but not change, because of row-level security

    def row_security(self, request):
        """The conditions of the policies for UPDATE and for DELETE that apply to the role; none without row-level security."""
        known = request.__dict__.setdefault("poser_policies", {})
        if self.relation.oid not in known:
            known[self.relation.oid] = [row.condition.replace("%", "%%") for row in run(POLICIES, [self.relation.oid] * 2)]
        return known[self.relation.oid]

    def look_up_allowed(self, request, keys):
        """Ask the policies whether the role may update and delete these rows.  allowed() returns the answers."""
        may = {f"may_{n}": RawSQL(sql, []) for n, sql in enumerate(self.row_security(request))}
        if not may or not keys:
            return
        rows = self.model._base_manager.filter(pk__in=keys).annotate(**may).values_list("pk", *may)
        allowed, error = attempt(list, rows)
        if error:  # a policy reads a table that the role may not read, or fails for some row; the write itself will tell
            allowed = [(key, True, True) for key in keys]
        known = request.__dict__.setdefault("poser_allowed", {})
        known.update({(self.relation.oid, key): (update, delete) for key, update, delete in allowed})

    def allowed(self, request, row):
        if not self.row_security(request):
            return True, True
        known = request.__dict__.setdefault("poser_allowed", {})
        if (self.relation.oid, row.pk) not in known:
            self.look_up_allowed(request, [row.pk])
        return known.get((self.relation.oid, row.pk), (False, False))

    def has_change_permission(self, request, obj=None):
        may = super().has_change_permission(request, obj) and bool(self.writable(request))
        return may and (obj is None or self.allowed(request, obj)[0])

    def has_delete_permission(self, request, obj=None):
        return super().has_delete_permission(request, obj) and (obj is None or self.allowed(request, obj)[1])

    # Rows and their last changes

    def to_key(self, text):
        """The key that the text of an address or a POST means, for a filter; None if it means none."""
        try:
            return self.model._meta.pk.to_python(text)
        except forms.ValidationError:
            return None

    def key_columns(self, key):
        """The names and values of a key's columns."""
        pk = self.model._meta.pk
        values = pk.values_of(key) if isinstance(pk, models.Key) else [key]
        return {self.relation.columns[number]["name"]: value for number, value in zip(self.relation.key, values)}

    def key_as_json(self, key):
        """A key as JSON, for the functions of the history: the text of each value, but of jsonb the value itself."""
        columns = {column["name"]: column["base"] for column in self.relation.columns.values()}
        texts = {name: str(value) for name, value in self.key_columns(key).items()}
        return "{" + ", ".join(f"{json.dumps(n)}: {v if columns[n] == 'jsonb' else json.dumps(v)}" for n, v in texts.items()) + "}"

    def with_digest(self, request, queryset=None):
        """The rows, each with a digest of the values that the role may read."""
        columns = ", ".join(field.column for field in self.readable(request))
        rows = self.get_queryset(request) if queryset is None else queryset
        return rows.annotate(Digest=RawSQL(f"pg_catalog.md5(ROW({columns})::text)", [], TextField()))

    def lock(self, request, keys):
        """The rows with these keys, in the order of the keys.  They are locked if the role may change the table."""
        rows = self.with_digest(request).filter(pk__in=keys).order_by(*self.model._meta.ordering)
        if self.has_change_permission(request):
            list(rows.select_for_update(no_key=True, of=()).values_list("pk"))
        return list(rows)

    def history_of(self, request, key, most):
        """The newest changes of a row that the role may read.  Each has "by ROLE at TIME (WHY)" as by."""
        if not run("SELECT pg_catalog.has_table_privilege(%s::oid, 'SELECT') AS may", [self.relation.versions])[0].may:
            return []
        changes, _ = attempt(
            run,
            "SELECT username, issued_at::timestamp(0)::text AS time, comment, operation, changed"
            f" FROM {models.poser('poser_history')}(%s::oid::regclass, %s::jsonb, %s)",
            [self.relation.oid, self.key_as_json(key), most],
        )
        for change in changes or ():  # none if this is not a key, or the table is no longer tracked
            why = f" ({short(change.comment)})" if change.comment else ""
            change.by = f", by {change.username} at {change.time}{why}."
        return changes or []

    def last_changes(self, request, row):
        """For the name of each column: its last change, as "by ROLE at TIME (WHY)"."""
        who = {}
        for change in self.history_of(request, row.pk, 50):
            for name in change.changed or ():
                who.setdefault(name, change.by)
        return who

    def gone(self, request, text):
        """The sentence about a row that is not there."""
        key = self.to_key(text)
        last = self.history_of(request, key, 1) if key is not None else []
        if last:
            return f"The row {key} {'was deleted' if last[0].operation == 'delete' else 'is no longer there.  It was changed'}{last[0].by}"
        return f"There is no row {short(text)}.  It was deleted or has another key, or you may not see it."

    def gone_page(self, request, text):
        page = self.page(request, "gone", title="This row is not there.", message=self.gone(request, text))
        page.status_code = 404
        return page

    def _get_obj_does_not_exist_redirect(self, request, opts, object_id):
        return self.gone_page(request, unquote(object_id))

    def get_object(self, request, object_id, from_field=None):
        """The row of the page.  A POST locks it before it reads it."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        key = self.to_key(object_id)
        if key is None:
            return None
        rows = self.lock(request, [key]) if request.method == "POST" else self.with_digest(request).filter(pk=key)[:1]
        return next(iter(rows), None)

    # The form

    def get_form(self, request, obj=None, change=False, **options):
        return bind(super().get_form(request, obj, change=change, **options), self, request)

    def get_fields(self, request, obj=None):
        """Fields shown as text: the key of a row that is there, and columns that the role may not write."""
        may = self.may(request)
        if obj is None:
            return [*(n for n in self.names(request, may.insert) if self.model._meta.get_field(n).editable), "why", "seen"]
        if not self.has_change_permission(request, obj):
            return self.names(request, may.select)
        return [*self.names(request, may.select | self.writable(request)), "why", "seen"]

    def writable(self, request):
        """The numbers of the columns that the role may change."""
        may = self.may(request).update - set(self.relation.key)
        return {f.info["number"] for f in self.model._meta.fields if f.editable and f.info["number"] in may}

    def get_readonly_fields(self, request, obj=None):
        if obj is None:
            return []
        long = {f.info["number"] for f in self.readable(request) if len(str(getattr(obj, f.attname))) > LONG}
        return self.names(request, self.may(request).select & (long | set(self.relation.columns) - self.writable(request)))

    def formfield_for_dbfield(self, field, request, most=SHORT, **options):
        """The form field of a column.  A table with at most "most" rows becomes a select."""
        reference = self.relation.references.get(field.info["number"])
        if reference:
            options["widget"] = self.reference_widget(request, field, most, *reference)
            return field.formfield(**options)
        if field.choices:
            formfield = field.formfield(**options)
            formfield.choices = [("", "---------"), *field.choices]
            return formfield
        if isinstance(field, models.Column) and field.info["base"] in ("json", "jsonb", "xml"):
            options["widget"] = Area
        return super().formfield_for_dbfield(field, request, **options)

    def reference_widget(self, request, field, most, oid, number):
        """A select, with labels that the role may read, if the other table is small."""
        pages = pages_of(request, oid)
        if pages is None or not pages.has_view_permission(request) or number not in pages.may(request).select:
            return None
        name = pages.relation.field(number)
        texts = [f.name for f in pages.readable(request) if isinstance(f, (models.Text, models.Line)) and f.name != name]
        rows = list(pages.model._base_manager.order_by(name).values_list(name, *texts[:1])[: most + 1])
        if len(rows) > most:
            return RawId(field.remote_field, self.admin_site)
        labels = [" – ".join(short(part)[:60] for part in row if part is not None) for row in rows]
        return References(choices=[("", "---------"), *((row[0], label) for row, label in zip(rows, labels))])

    # Saving

    def changeform_view(self, request, object_id=None, form_url="", extra_context=None):
        """Save in a savepoint.  An error of the database rolls it back, and the form is shown again with the error."""
        request.POST = request.POST.copy()  # forms change values that they show again
        try:
            with transaction.atomic():
                return super().changeform_view(request, object_id, form_url, extra_context)
        except DatabaseError as error:
            if request.method != "POST" or not errors.for_user(error):
                raise
            request.poser_error = error
            return super().changeform_view(request, object_id, form_url, extra_context)

    def save_model(self, request, row, form, change):
        request.poser_written = False
        form.write()

    def save_related(self, request, form, formsets, change):
        super().save_related(request, form, formsets, change)
        if not request.poser_written:
            request.poser_unwritten = "Nothing was changed."
        check_constraints()

    def message_user(self, request, message, level=messages.INFO, *args, **options):
        """If a trigger has discarded the change, say that in place of success."""
        unwritten = getattr(request, "poser_unwritten", None)
        if unwritten and level == messages.SUCCESS:
            message, level = unwritten, messages.WARNING
        super().message_user(request, message, level, *args, **options)

    def response_add(self, request, obj, post_url_continue=None):
        """A new row without a key that the role may read has no page to go to."""
        if obj.pk is None:
            self.message_user(request, f"The row was added to {self.relation.name}.  You may not see it.", messages.SUCCESS)
            return self.response_post_save_add(request, obj)
        return super().response_add(request, obj, post_url_continue)

    def field_of(self, error):
        """The name of the field that an error of the database is about, or None."""
        diag = errors.diagnostics(error)
        if diag is None or diag.table_name not in (None, self.relation.name) or diag.schema_name not in (None, self.relation.schema):
            return None
        if diag.column_name:
            return next((c["field"] for c in self.relation.columns.values() if c["name"] == diag.column_name), None)
        numbers = self.relation.constraints.get(diag.constraint_name) or [] if diag.table_name else []
        return self.relation.field(numbers[0]) if len(numbers) == 1 else None


class References(forms.Select):
    """A select with the rows of a small table.  The present value is among the options even if its row is not."""

    def optgroups(self, name, value, attrs=None):
        known = {str(key) for key, _ in self.choices}
        self.choices = [*self.choices, *((text, text) for text in value if text not in known)]
        return super().optgroups(name, value, attrs)
