"""Filters of a grid: conditions on the columns that the role may read.

A condition in an address is COLUMN=VALUE or COLUMN__OPERATOR=VALUE.  Each column has a
Filter, which shows its conditions beside the grid, so that each can be taken away there.
Booleans, enums, dates and references have links and fields of their own.
"""
import datetime
import re

from django.core.exceptions import ValidationError

from . import models

OPERATORS = {"exact": "=", "gte": "≥", "lte": "≤", "gt": ">", "lt": "<", "isnull": "NULL"}
DATES = {"date", "timestamp without time zone", "timestamp with time zone"}


class Filter:
    """The conditions on one column.  It removes them from the parameters that it is given."""

    template = "poser_web/filter.html"
    problem = None  # why there are no rows

    def __init__(self, field, parameters):
        self.field, self.title = field, field.verbose_name
        self.own = {field.name: "exact", **{f"{field.name}__{name}": name for name in OPERATORS}}
        self.given = {name: parameters.pop(name) for name in self.own if name in parameters}
        self.links, self.inputs = [], []  # (text, parameters) and (label, parameter, value)

    def offer(self, rows=None):
        """Set the links and fields for this column.  rows are the rows that it refers to, as
        pairs of value and label, or None if there are too many."""
        exact, since, until = (f"{self.field.name}__{name}" for name in ("exact", "gte", "lte"))
        if isinstance(self.field, models.Boolean):
            self.links = [("Yes", {exact: "True"}), ("No", {exact: "False"})]
        elif self.field.choices:
            self.links = [(label or "''", {exact: label}) for label, _ in self.field.choices]
        elif self.field.info["base"] in DATES:
            self.links = [(text, self.period(*days)) for text, *days in periods(datetime.date.today())]
            self.inputs = [(label, name, self.given.get(name, "")) for label, name in (("From", since), ("To", until))]
        elif rows:
            self.links = [(f"{value} {label or ''}", {exact: str(value)}) for value, label in rows]
        else:
            self.inputs = [("=", exact, self.given.get(exact, ""))]
        if self.field.null:
            null = f"{self.field.name}__isnull"
            self.links += [("NULL", {null: "True"}), ("Not NULL", {null: "False"})]

    def period(self, first, end):
        return {f"{self.field.name}__gte": str(first), f"{self.field.name}__lt": str(end)}

    def choices(self, grid):
        """For Django's template: links that replace the conditions on this column."""
        self.others = [(name, value) for name, value in grid.params.items() if name not in self.own]
        said = " and ".join(
            ("" if self.own[name] == "isnull" else OPERATORS[self.own[name]] + " ") + self.text(name, value)
            for name, value in self.given.items()
        )
        links = [("All", {}), *self.links]
        if self.given not in [given for _, given in links]:
            links.append((said, self.given))
        for text, given in links if self.links or self.given else ():
            address = grid.get_query_string({**dict.fromkeys(self.own), **given})
            yield {"selected": self.given == given, "query_string": address, "display": text}

    def text(self, name, value):
        if self.own[name] == "isnull":
            return "NULL" if value == "True" else "not NULL"
        return value or "''"

    def queryset(self, request, queryset):
        """The rows that meet the conditions.  The server judges values that Django's fields do not."""
        try:
            for name, value in self.given.items():
                operator, value = self.condition(self.own[name], value)
                queryset = queryset.filter(**{f"{self.field.name}__{operator}": value})
        except (ValueError, TypeError, ValidationError) as error:
            self.problem = f"{self.title}: {' '.join(getattr(error, 'messages', [str(error)]))}"
            return queryset.none()
        return queryset

    def condition(self, operator, value):
        if operator == "isnull":
            if value not in ("True", "False"):
                raise ValueError(f"{value} is neither True nor False.")
            return operator, value == "True"
        # Up to a day includes the day.
        if operator == "lte" and self.field.info["base"].startswith("timestamp") and re.fullmatch(r"\d{4}-\d\d-\d\d", value):
            try:
                return "lt", str(datetime.date.fromisoformat(value) + datetime.timedelta(days=1))
            except OverflowError:
                pass
        return operator, value


def periods(today):
    """The periods that dates have links for: text, first day, and the day after the last."""
    month = today.replace(day=1)
    following = (month + datetime.timedelta(days=31)).replace(day=1)
    tomorrow = today + datetime.timedelta(days=1)
    return [
        ("Today", today, tomorrow),
        ("Past 7 days", today - datetime.timedelta(days=6), tomorrow),
        ("This month", month, following),
        ("This year", month.replace(month=1), month.replace(year=today.year + 1, month=1)),
    ]
