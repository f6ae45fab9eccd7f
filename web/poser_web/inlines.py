"""Rows in line: the form of a row also has the rows of other tables that refer to it.

For each foreign key of one column that refers to the table there is a set of lines.  Each
line is a RowForm, which finds its row by the key in its field "seen".  A POST locks the
row of the page first, and then the rows of the lines in the order of their keys.
"""
from functools import partial
from urllib.parse import urlencode

from django import forms
from django.contrib import admin
from django.forms.formsets import DELETION_FIELD_NAME, BaseFormSet, formset_factory

from . import rowforms
from .rights import Pages
from .statements import Refused

LINES = 200  # at most, for one foreign key
INPUTS = 1200  # at most, in all lines of a page
CHOICES = 20  # rows of another table that fit into a select in a line


class LineForm(rowforms.RowForm):
    """The form of a line."""

    def __init__(self, *args, gone=False, key=None, **options):
        """gone says that the row with this key is no longer there."""
        self.gone, self.key = gone, key
        super().__init__(*args, **options)
        pages, numbers = self.pages, set()
        if self.adding and not gone:
            numbers = pages.may(self.request).insert
        elif not gone and pages.has_change_permission(self.request, self.instance):
            numbers = pages.writable(self.request)
        for name in set(self.fields) - set(pages.names(self.request, numbers)) - {"seen"}:
            self.fields[name].disabled = True
            self.fields[name].required = False
        for field in self.fields.values():
            field.widget.attrs["aria-label"] = field.label

    def has_changed(self):
        return bool(set(self.changed_data) - {"seen"})

    def clean(self):
        if not self.gone:
            super().clean()
        elif self.seen.get("gone") is not True:
            self.report(None, self.pages.gone(self.request, self.key) + "  Save ignores this line.")
            self.initial["seen"] = '{"gone": true}'
            self.tell_once()


class LineSet(BaseFormSet):
    """The lines for one foreign key.  get_formset() sets lines, pages and request on the class."""

    def __init__(self, data=None, files=None, instance=None, prefix=None, queryset=None, save_as_new=False):
        self.parent, self.queryset = instance, queryset
        if data is not None and f"{prefix}-{forms.formsets.TOTAL_FORM_COUNT}" not in data:
            # The foreign key, or its privileges, came after the page was shown.
            data.update({f"{prefix}-TOTAL_FORMS": 0, f"{prefix}-INITIAL_FORMS": 0})
        super().__init__(data, files, prefix=prefix)
        self.new_objects = self.changed_objects = self.deleted_objects = ()  # for Django's own log, which is not kept
        self.rows = self.posted_rows() if self.is_bound else list(self.children())
        self.pages.look_up_allowed(self.request, [row.pk for row in self.rows if row is not None])

    @classmethod
    def get_default_prefix(cls):
        return cls.lines.prefix

    def children(self):
        if self.lines.value_of(self.parent) is None:
            return self.queryset.none()
        rows = self.pages.with_digest(self.request, self.queryset)
        return rows.filter(**{self.lines.field.name: self.lines.value_of(self.parent)}).order_by(*self.model._meta.ordering)

    def posted_rows(self):
        """The rows of the lines that were posted, locked.  None stands for a row that is gone or refers to another row."""
        texts = [self.data.get(f"{self.prefix}-{i}-seen") for i in range(self.initial_form_count())]
        self.keys = [self.pages.to_key(str(rowforms.read_seen(text).get("", ""))) for text in texts]
        keys = [key for key in self.keys if key is not None]
        self.pages.lock(self.request, keys)
        found = {str(row.pk): row for row in self.children().filter(pk__in=keys)}
        return [found.pop(str(key), None) for key in self.keys]

    def initial_form_count(self):
        if self.is_bound:
            return max(0, min(super().initial_form_count(), self.total_form_count()))
        return len(self.rows)

    def get_queryset(self):
        """For Django's templates: the rows that are there already."""
        return [row if row is not None else self.model() for row in self.rows]

    def _construct_form(self, i, **options):
        if i < len(self.rows):
            row = self.rows[i]
            options.update({"gone": True, "key": self.keys[i]} if row is None else {"instance": row})
        return super()._construct_form(i, **options)

    def add_fields(self, form, index):
        super().add_fields(form, index)
        if form.adding and not form.gone:
            form.fields.pop(DELETION_FIELD_NAME, None)
        elif self.can_delete:
            field = form.fields[DELETION_FIELD_NAME]
            field.widget.attrs["aria-label"] = "Delete"
            field.disabled = form.gone or not self.pages.has_delete_permission(self.request, form.instance)

    def _should_delete_form(self, form):
        return super()._should_delete_form(form) and not form.refused

    def save(self):
        """Delete, change and add rows, in this order."""
        parent = self.lines.value_of(self.parent)
        deleted = [form for form in self.initial_forms if self.can_delete and self._should_delete_form(form)]
        gone = self.request.__dict__.setdefault("poser_deleted", set())
        for form in deleted:
            row = self.pages.relation.oid, form.instance.pk
            if row in gone:  # it was in the lines of another foreign key, too
                continue
            with form.named_in_errors():
                self.pages.delete_rows(self.request, {form.instance.pk: form.instance.Digest})
            self.request.poser_written = True
            gone.add(row)
        for form in self.initial_forms:
            if form not in deleted and not form.gone and form.has_changed():
                form.write()
        for form in self.extra_forms:
            if form.has_changed():
                if parent is None:
                    raise Refused("You may not see the new row, so no rows can be added to it.")
                setattr(form.instance, self.lines.field.attname, parent)
                form.write()


class Lines(admin.TabularInline):
    """The rows of another table that refer to this row by a foreign key of one column."""

    extra = 3
    template = "poser_web/lines.html"
    formset = LineSet

    def __init__(self, parent, pages, number):
        """parent: the pages of this table.  pages, number: the pages of the other one, and its column."""
        self.parent, self.pages, self.model = parent, pages, pages.model
        self.field = self.model._meta.get_field(pages.relation.field(number))
        self.to = parent.model._meta.get_field(parent.relation.field(pages.relation.references[number][1]))
        self.prefix = f"lines-{pages.relation.oid}-{number}"
        super().__init__(parent.model, parent.admin_site)
        several = sum(oid == parent.relation.oid for oid, _ in pages.relation.references.values()) > 1
        self.verbose_name_plural = f"{pages.relation.name} ({self.field.info['name']})" if several else pages.relation.name

    def value_of(self, parent):
        return getattr(parent, self.to.attname)

    def inputs(self, request, row):
        """The number of inputs that the lines of a row need; above INPUTS if there are too many lines."""
        count = len(self.pages.model._base_manager.filter(**{self.field.name: self.value_of(row)}).values_list("pk")[: LINES + 1])
        return INPUTS + 1 if count > LINES else count * len(self.get_fields(request, row))

    def link(self, row):
        """The address of the grid with these rows."""
        return f"{self.pages.address('changelist')}?{urlencode({self.field.name: self.value_of(row)})}"

    # The privileges are those of the other table.  If the row of the page may not be changed, the lines are text.

    def has_view_permission(self, request, obj=None):
        return self.pages.has_view_permission(request) and self.field.info["number"] in self.pages.may(request).select

    def has_change_permission(self, request, obj=None):
        return self.has_view_permission(request) and (obj is None or self.parent.has_change_permission(request, obj))

    def has_add_permission(self, request, obj=None):
        may = self.pages.may(request).insert
        return self.has_change_permission(request, obj) and self.field.info["number"] in may

    def has_delete_permission(self, request, obj=None):
        return self.has_change_permission(request, obj) and self.pages.has_delete_permission(request)

    def get_queryset(self, request):
        return self.pages.get_queryset(request)

    def get_extra(self, request, obj=None, **options):
        return self.extra if self.has_add_permission(request, obj) else 0

    def get_fields(self, request, obj=None):
        """The columns that the role may read or write, without the foreign key, and without a key that the database makes."""
        may, relation = self.pages.may(request), self.pages.relation
        shown, changes = may.select, self.has_change_permission(request, obj)
        if changes:
            shown = may.select | may.insert | may.update
        return [
            name
            for number, name in zip(relation.columns, self.pages.names(request, relation.columns))
            if number in shown - {self.field.info["number"]}
            and not (relation.key == [number] and self.model._meta.get_field(name).blank)
            and (not changes or self.model._meta.get_field(name).editable)
        ]

    def get_formset(self, request, obj=None, **options):
        form = forms.modelform_factory(
            self.model,
            form=rowforms.bind(LineForm, self.pages, request),
            fields=[name for name in self.get_fields(request, obj) if self.model._meta.get_field(name).editable],
            formfield_callback=partial(self.pages.formfield_for_dbfield, request=request, most=CHOICES),
        )
        made = formset_factory(
            form,
            self.formset,
            extra=self.get_extra(request, obj),
            max_num=LINES + self.extra,
            absolute_max=LINES + 100,
            can_delete=self.has_delete_permission(request, obj),
        )
        made.lines, made.pages, made.request, made.model = self, self.pages, request, self.model
        return made


class LinePages(Pages):
    """Pages of a table whose forms have lines."""

    def get_inline_instances(self, request, obj=None):
        """The lines of a row.  Tables with too many rows are in request.poser_links, with the address of their grid."""
        lines, left, request.poser_links = [], INPUTS, []
        for pages in self.admin_site._registry.values():
            for number, (oid, to) in pages.relation.references.items():
                if oid != self.relation.oid or to not in (self.may(request).select if obj else self.relation.key):
                    continue
                made = Lines(self, pages, number)
                posted = f"{made.prefix}-TOTAL_FORMS" in request.POST
                if not (made.has_view_permission(request) if obj else made.has_add_permission(request)):
                    continue
                needed = made.inputs(request, obj) if obj and not posted else 0
                if needed > left:
                    request.poser_links.append((made.verbose_name_plural, made.link(obj)))
                else:
                    left -= needed
                    lines.append(made)
        return lines

    def render_change_form(self, request, context, *args, **options):
        return super().render_change_form(request, {**context, "links": request.poser_links}, *args, **options)
