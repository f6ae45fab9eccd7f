"""Rows are deleted or changed in bulk, after a page of confirmation.

The page has a field "chosen": the key of each row, and a digest of the row.  A POST locks
the rows and compares.  If one has changed or is gone meanwhile, the page is shown again
and names it, and nothing is written.  All rows are written in one transaction, or none.
"""
import json
from functools import partial

from django import forms
from django.contrib import messages
from django.contrib.admin import helpers
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import HttpResponseRedirect

from . import errors, rowforms
from .rights import Pages
from .statements import Refused, attempt, check_constraints

ROWS = 5000  # at most, that are changed or deleted at once
NAMED = 100  # rows that a page names


class BulkForm(rowforms.ValueForm):
    """Values for all chosen rows.  An empty field counts only if its box "set" is ticked."""

    def __init__(self, *args, **options):
        super().__init__(*args, prefix="new", **options)
        self.ticked = set(self.data.getlist("set")) if self.is_bound else set()
        for name, field in self.fields.items():
            field.required = field.required and name in self.ticked

    def clean(self):
        self.names = [name for name in self.fields if name in self.ticked or name in self.changed_data]
        for name in self.names:
            if name in self.cleaned_data:
                self.cleaned_data[name] = self.ask(name)
        if not self.names:
            self.report(None, "Fill in a column, or tick “set” for one that is to be empty.")

    def values(self):
        return {name: getattr(self.instance, self.model_field(name).attname) for name in self.names}

    def lines(self):
        """For the template: each field, and whether its box is ticked."""
        return [(self[name], name in self.ticked) for name in self.fields]


class BulkPages(Pages):
    actions = ["delete_selected", "change_selected"]

    # The chosen rows

    def read_chosen(self, request):
        """The keys that the page had, each with the digest of its row; the rows, locked; and what has changed meanwhile."""
        texts = rowforms.read_seen(request.POST.get("chosen"))
        chosen = {self.to_key(text): str(seen) for text, seen in list(texts.items())[:ROWS]}
        chosen.pop(None, None)
        rows = self.lock(request, list(chosen))
        return chosen, rows, self.changed_since(request, chosen, rows)

    def chosen_text(self, rows):
        return json.dumps({str(row.pk): row.Digest for row in rows})

    def changed_since(self, request, chosen, rows):
        """A sentence for each chosen row that has changed or is gone meanwhile."""
        now = {row.pk: row.Digest for row in rows}
        told = [] if chosen else ["No rows were chosen."]
        for key in [key for key, seen in chosen.items() if now.get(key) != seen]:
            if key not in now:
                told.append(self.gone(request, key))
                continue
            last = self.history_of(request, key, 1)
            visible = {f.info["name"] for f in self.readable(request)}
            names = ", ".join(name for name in (last[0].changed or ()) if name in visible) if last else ""
            told.append(f"The row {key} has changed meanwhile{' (' + names + ')' if names else ''}{last[0].by if last else '.'}")
        return told

    # Deletion

    def delete_rows(self, request, chosen):
        """Delete the rows with these keys, if they still have these digests."""
        rows = self.with_digest(request).filter(pk__in=list(chosen), Digest__in=list(chosen.values()))
        self.all_of(chosen, rows.delete()[0], "deleted")

    def all_of(self, rows, count, what):
        if count < len(rows):
            raise Refused(f"A policy, a trigger or another user keeps {len(rows) - count} of {len(rows)} rows from being {what}.")

    def delete_view(self, request, object_id, extra_context=None):
        row = self.get_object(request, unquote(object_id))
        if row is None:
            return self.gone_page(request, unquote(object_id))
        if not self.has_delete_permission(request, row):
            raise PermissionDenied
        return self.delete_page(request, [row])

    def delete_selected(self, request, queryset):
        rows = self.rows_of_action(request, queryset)
        return rows if rows is None else self.delete_page(request, rows, "delete_selected")

    delete_selected.short_description = "Delete the selected rows"
    delete_selected.allowed_permissions = ["delete"]

    def delete_page(self, request, rows, action=None):
        """The page of confirmation; a POST of it deletes the rows."""
        told = []
        if "chosen" in request.POST:
            chosen, rows, told = self.read_chosen(request)
            if not told:
                error = self.try_to(self.delete_rows, request, chosen)
                if error is None:
                    return self.done(request, len(chosen), "deleted")
                told = [errors.text_of(error)]
        values = [(f.verbose_name, getattr(rows[0], f.attname)) for f in self.readable(request)] if rows and not action else []
        return self.bulk_page(request, "delete", rows, told, title="Delete", action=action, values=values)

    # Change in bulk

    def change_selected(self, request, queryset):
        rows, told = self.rows_of_action(request, queryset), []
        if rows is None:
            return None
        form_class = forms.modelform_factory(
            self.model,
            form=rowforms.bind(BulkForm, self, request),
            fields=self.names(request, self.writable(request)),
            formfield_callback=partial(self.formfield_for_dbfield, request=request),
        )
        form = form_class()
        if "chosen" in request.POST:
            form = form_class(request.POST)
            chosen, rows, told = self.read_chosen(request)
            if form.is_valid() and not told:
                change = self.model._base_manager.filter(pk__in=list(chosen)).update
                error = self.try_to(lambda: self.all_of(chosen, change(**form.values()), "changed"))
                if error is None:
                    return self.done(request, len(chosen), "changed")
                form.report(self.field_of(error), errors.text_of(error))
        return self.bulk_page(request, "bulk", rows, told, title="Change", action="change_selected", form=form)

    change_selected.short_description = "Change the selected rows"
    change_selected.allowed_permissions = ["change"]

    # Common to deletion and change

    def rows_of_action(self, request, queryset):
        """The rows that were chosen in the grid.  If there are none or too many, None, and a message says so."""
        if "chosen" in request.POST:
            return []
        rows = list(self.with_digest(request, queryset).order_by(*self.model._meta.ordering)[: ROWS + 1])
        if 0 < len(rows) <= ROWS:
            return rows
        text = f"At most {ROWS:,} rows can be changed or deleted at once." if rows else "None of these rows is there any more."
        self.message_user(request, text, messages.ERROR)
        return None

    def try_to(self, write, *values):
        """Write all rows or none.  Returns the error that the page shows, or None."""
        _, error = attempt(lambda: (write(*values), check_constraints()))
        return error

    def done(self, request, count, what):
        self.message_user(request, f"{count:,} row{' was' if count == 1 else 's were'} {what}.", messages.SUCCESS)
        return HttpResponseRedirect(self.address("changelist") if request.path.endswith("/delete/") else request.get_full_path())

    def bulk_page(self, request, template, rows, told, **context):
        return self.page(
            request,
            template,
            rows=rows[:NAMED],
            more=max(0, len(rows) - NAMED),
            chosen=self.chosen_text(rows),
            told=told[:NAMED],
            why=request.POST.get("why", ""),
            checkbox=helpers.ACTION_CHECKBOX_NAME,
            **context,
        )

    def response_action(self, request, queryset):
        """Keys that are none are not chosen."""
        texts = request.POST.getlist(helpers.ACTION_CHECKBOX_NAME)
        request.POST = request.POST.copy()
        request.POST.setlist(helpers.ACTION_CHECKBOX_NAME, [text for text in texts if self.to_key(text) is not None])
        return super().response_action(request, queryset)
