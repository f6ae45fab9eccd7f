"""The pages of each table: one class out of those of the modules.  Widgets have more."""
from django.contrib import admin
from django.db.models import BigIntegerField
from django.db.models.expressions import RawSQL

from . import models
from .batches import BatchPages
from .bulk import BulkPages
from .grids import GridPages, read_from
from .history import HistoryPages
from .inlines import LinePages
from .merge import MergePages
from .rights import NOTHING, rights
from .rowforms import FormPages
from .statements import run


class Table(HistoryPages, GridPages, BatchPages, LinePages, BulkPages, FormPages):
    """The pages of a table or view."""


class Counts:
    """Pages whose grid has the counts of widgets."""

    COUNTS = {"component_count": "total", "active_component_count": "active"}  # in the summary, and in its parts
    UNSETTLED = 1000  # at most

    def first_keys(self, order, values, offset, limit):
        """The keys in an order by counts come from the settled counts, which are read in a tenth of the
        summary's time, and from all counts that are not settled.  N of these can move a row by N places at most."""
        columns = {**self.COUNTS, "uuid": "widget_uuid"}
        if order[0].name not in self.COUNTS or any(term.name not in columns for term in order):
            return None
        rows = run(f"SELECT DISTINCT widget_uuid FROM {models.poser('poser_component_count_unsettled')} LIMIT {self.UNSETTLED}")
        others = [row.widget_uuid for row in rows]
        names, later, parameters = [columns[term.name] for term in order], [], []
        for n in range(len(names) if values else 0):
            same = [f"{name} = %s" for name in names[:n]]
            later.append(" AND ".join([*same, f"{names[n]} {'<' if order[n].descending else '>'} %s"]))
            parameters += values[: n + 1]
        left_out = max(0, offset - len(others))
        settled = run(
            f"SELECT widget_uuid FROM {models.poser('poser_component_count_settled')}"
            f" WHERE ({' OR '.join(later) or 'true'}) AND widget_uuid <> ALL (%s::text[])"
            f" ORDER BY {', '.join(name + ' DESC' * term.descending for name, term in zip(names, order))}"
            f" OFFSET %s LIMIT %s",
            [*parameters, others, left_out, len(others) + limit],
        )
        if not settled or len(others) == self.UNSETTLED:
            return None
        return {**{row.widget_uuid: True for row in settled}, **dict.fromkeys(others, False)}, left_out


class Summary(Counts, Table):
    """The summary of widgets."""


class Widgets(Counts, MergePages, Table):
    """Widgets, with their counts from the summary.  Two of them can be merged."""

    actions = [*Table.actions, "merge_selected"]

    def counts(self, request):
        """Whether the grid shows counts: not as of a time, not beside columns of these names that the owner has added,
        and only to roles that may read all of both tables and of the summary."""
        if self.as_of(request) or not self.COUNTS.keys().isdisjoint(column["name"] for column in self.relation.columns.values()):
            return False
        site = self.admin_site._registry
        needed = [m for m in site if m.relation.own and m.relation.name in ("poser_widget", "poser_component", "poser_widget_summary")]
        return all(rights(request).get(m.relation.oid, NOTHING).select >= set(m.relation.columns) for m in needed)

    def grid_queryset(self, request):
        rows = super().grid_queryset(request)
        if not self.counts(request):
            return rows
        counts = {name: RawSQL(f"source.{name}", [], BigIntegerField()) for name in self.COUNTS}
        summary = models.poser("poser_widget_summary")
        if len(self.relation.columns) > 3:  # the owner has added columns to the table
            summary = f"(SELECT w.*, {', '.join(self.COUNTS)} FROM {self.relation.sql} w JOIN {summary} s USING (uuid))"
        return read_from(rows, summary).annotate(**counts)

    def get_list_display(self, request):
        return [*super().get_list_display(request), *(self.COUNTS if self.counts(request) else ())]

    @admin.display(ordering="component_count", description="components")
    def component_count(self, row):
        return row.component_count

    @admin.display(ordering="active_component_count", description="active components")
    def active_component_count(self, row):
        return row.active_component_count


# Tables of the extension with pages of their own.
SPECIAL = {"poser_widget": Widgets, "poser_widget_summary": Summary}
