"""Grids: rows of a table or view, sorted, searched, filtered, page by page.

No page reads or counts all rows where it can use an index.  The first pages have numbers.
Later pages begin after the values of the last row (keyset), so page 20,000 costs as much as
page 2.  Totals are counted up to a limit, and estimated by the planner above it.  A search
has a time limit of its own.  The database cuts long values.
"""
import json
import math
import re
import time
from collections import namedtuple
from contextlib import contextmanager
from functools import reduce
from operator import and_, or_

from django.contrib import admin, messages
from django.contrib.admin import helpers
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import IGNORED_PARAMS, ORDER_VAR, PAGE_VAR, ChangeList
from django.core.exceptions import EmptyResultSet, ValidationError
from django.db import DatabaseError, connection, transaction
from django.db.models import BooleanField, F, Func, Q, TextField, Value
from django.db.models.sql.datastructures import BaseTable
from django.utils.html import format_html
from django.utils.safestring import mark_safe
from django.utils.text import smart_split, unescape_string_literal

from . import errors, models
from .filters import DATES, Filter
from .rights import Pages

SHOWN = 100  # characters of a value that a grid shows
READ = 500  # characters of a value that a grid reads
COLUMNS = 8  # columns that a grid shows at first
SIMPLE = (models.Boolean, *models.NUMBERS.values())  # types whose values are never long


### Values


class Raw(Func):
    """A column's value without a cast, for the query around this one."""

    output_field = TextField()
    template = "%(expressions)s"


class Cut(Func):
    """A column's value as text, cut in the database."""

    output_field = TextField()

    def __init__(self, field):
        super().__init__(F(field.attname), template=cut(field, "%(expressions)s"))


def cut(field, sql):
    """SQL that cuts a value, so that an image of 100 MB never leaves the database."""
    if isinstance(field, SIMPLE):
        return sql
    if field.info["base"] == "bytea":
        sql = f"pg_catalog.substring({sql}, 1, {READ})"
    return f"pg_catalog.left(({sql})::text, {READ + 1})"


class Cell:
    """A column of a grid.  Django calls it for each row: it returns the value, cut, with the label of the row that it refers to."""

    empty_value_display = mark_safe("<em>NULL</em>")

    def __init__(self, field):
        self.field, self.__name__, self.short_description = field, field.name, field.verbose_name
        self.boolean = isinstance(field, models.Boolean)
        if field.info["ordered"]:
            self.admin_order_field = field.attname
        self.labels = {}

    def __call__(self, row):
        value = getattr(row, alias(self.field))
        label = self.labels.get(str(value))
        if isinstance(value, str) and len(value) > SHOWN:
            value = f"{value[:SHOWN]}…"
        if value == "":  # Django 5.2 shows an empty text as NULL, and a link has to have a text
            in_key = self.field.info["number"] in self.field.model.relation.key
            return mark_safe("<em>empty</em>" if in_key else "<span></span>")
        return format_html("{} <small>{}</small>", value, label) if label else value


def alias(field):
    """The alias of a column's value in a grid's query.  No field has such a name."""
    return f"Cell_{field.info['number']}"


class Found(Func):
    """Whether one of the columns contains a word, in lower or upper case.

    lower() in collation "C" changes ASCII letters only, and takes a third of the time.  So
    the word is looked for with its other letters in lower case, and in upper case.
    """

    output_field = BooleanField()
    TEXTS = "pg_catalog.concat_ws(pg_catalog.chr(10), %(expressions)s)"

    def __init__(self, word, names):
        forms = {re.sub("[A-Z]", lambda letter: letter[0].lower(), form) for form in (word.lower(), word.upper())}
        self.forms = ["%" + re.sub(r"([\\%_])", r"\\\1", form) + "%" for form in sorted(forms)]
        texts = [F(name) for name in names]
        if len(texts) > 99:  # a function has 100 arguments at most
            texts = [Func(*texts[i : i + 99], template=self.TEXTS, output_field=TextField()) for i in range(0, len(texts), 99)]
        text = f'pg_catalog.lower({self.TEXTS} COLLATE pg_catalog."C")'
        template = f"{text} LIKE ANY (ARRAY[{', '.join(['%%s'] * len(self.forms))}])"
        super().__init__(*texts, template=template)

    def as_sql(self, compiler, connection, **options):
        sql, values = super().as_sql(compiler, connection, **options)
        return sql, [*values, *self.forms]


### Rows from elsewhere


class Source(BaseTable):
    """An item of FROM in place of a model's table, with the same columns."""

    def __init__(self, sql, values, alias):
        super().__init__(sql, alias)
        self.sql, self.values = sql, values

    def as_sql(self, compiler, connection):
        return f"{self.sql} {self.table_alias}", list(self.values)

    def relabeled_clone(self, aliases):
        return Source(self.sql, self.values, aliases.get(self.table_alias, self.table_alias))


def read_from(queryset, sql, *values):
    """The queryset with the rows of this function or view, which has the alias "source"."""
    queryset = queryset.all()
    query = queryset.query
    if query.get_initial_alias() != "source":
        query.change_aliases({query.get_initial_alias(): "source"})
        query.__dict__.pop("base_table", None)  # Django has kept the old alias there
    query.alias_map["source"] = Source(sql, values, "source")
    return queryset


### The grid

Term = namedtuple("Term", "name lookup descending nullable indexed value")  # of ORDER BY


class Limit(Exception):
    """A query has exceeded its time limit."""


@contextmanager
def limited(milliseconds):
    """A savepoint in which each query has this time limit.  Raises Limit if one exceeds it."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            name, values = "statement_timeout", f"{milliseconds}ms"
            cursor.execute("SELECT pg_catalog.current_setting(%s), pg_catalog.set_config(%s, %s, true)", [name, name, values])
            before = cursor.fetchone()[0]
            yield
            cursor.execute("SELECT pg_catalog.set_config(%s, %s, true)", [name, before])
    except DatabaseError as error:
        diag = errors.diagnostics(error)
        if diag is None or diag.sqlstate != "57014":
            raise
        raise Limit from error


def after(order, values):
    """The conditions for the rows after the one with these values.  The first one is for rows
    that differ in the last term only.  Each of them can use an index on the first terms."""
    for last in reversed(range(len(order))):
        same = reduce(and_, map(equal, order[:last], values), Q())
        term, value = order[last], values[last]
        if value is not None:
            yield same & Q(**{f"{term.lookup}__{'lt' if term.descending else 'gt'}": value})
        # NULL is greater than all values.
        if term.nullable and (value is None) == term.descending:
            yield same & Q(**{f"{term.lookup}__isnull": not term.descending})


def equal(term, value):
    return Q(**{f"{term.lookup}__isnull": True} if value is None else {f"{term.lookup}__exact": value})


class Grid(ChangeList):
    NUMBERED = 10  # pages that have links by number
    BY_NUMBER, BY_NUMBER_IN_OTHER_ORDERS = 1000, 100  # pages that can be asked for by number
    COUNTED = 10000  # rows that are counted, at most
    COUNT_MS = 200
    HITS = 1000  # rows of a search that are read at once
    SEARCH_MS = 600
    AFTER, BEFORE, ALL_COLUMNS = "_after", "_before", "_columns"

    cells = None

    def get_queryset(self, request, **options):
        if request.method == "GET":
            self.root_queryset = self.model_admin.grid_queryset(request)
        if self.cells is None:
            self.problems = []
            self.columns = [name for name in self.list_display if name != "action_checkbox"]
            self.sortable_by = None  # each Cell says whether it can be sorted by
            fields = {field.name: field for field in self.model._meta.concrete_fields}
            self.cells = {name: Cell(fields[name]) for name in self.columns if name in fields}
            self.hidden_columns = len(self.model_admin.may(request).select) - len(self.cells)
            self.list_display = [self.cells.get(name, name) for name in self.list_display]
            if self.list_display_links:
                self.list_display_links = [self.cells.get(name, name) for name in self.list_display_links]
        search, self.query = self.query, ""
        self.unsearched = super().get_queryset(request, **options)
        self.query = search
        return self.model_admin.get_search_results(request, self.unsearched, search)[0]

    def export_queryset(self):
        """The rows of all pages of the grid, in its order.  columns has the names of the columns that the grid shows."""
        if self.problems:
            raise IncorrectLookupParameters
        return self.queryset

    def complain(self, text):
        if text not in self.problems:
            self.problems.append(text)

    ### Filters

    def get_filters_params(self, params=None):
        others = (*IGNORED_PARAMS, self.ALL_COLUMNS, *self.model_admin.grid_parameters)
        return {name: value for name, value in self.params.items() if name not in others}

    def get_filters(self, request):
        for given in (self.params, getattr(self, "filter_params", {})):  # Django 5 has both
            for name in (self.AFTER, self.BEFORE):
                given.pop(name, None)
        given = self.get_filters_params()
        fields = [self.model._meta.get_field(name) for name in self.model_admin.names(request, self.model_admin.may(request).select)]
        fields = [field for field in fields if field.info["ordered"]]
        filters = []
        for field in fields:
            one = Filter(field, given)
            if field.name in self.columns and self.offered(field):
                one.offer(self.rows_of(request, field))
            if one.links or one.inputs or one.given:
                filters.append(one)
        for name in given:
            self.complain(f"There is no filter {name}.")
        active = any(one.given for one in filters)
        return filters, bool(filters), {}, False, active

    def offered(self, field):
        """Whether a column has its own filter beside the grid."""
        reference = field.info["number"] in self.model.relation.references
        return isinstance(field, models.Boolean) or field.choices or field.info["base"] in DATES or reference

    def referred(self, request, field):
        """The rows that a column refers to, as far as the role may read them: their queryset,
        the field that the column refers to, and the expression of their labels or None."""
        oid, number = self.model.relation.references.get(field.info["number"], (None, None))
        pages = next((pages for model, pages in self.model_admin.admin_site._registry.items() if model.relation.oid == oid), None)
        if pages is None or not pages.has_view_permission(request) or number not in pages.may(request).select:
            return None
        fields = [pages.model._meta.get_field(name) for name in pages.names(request, pages.may(request).select)]
        to = next(other for other in fields if other.info["number"] == number)
        label = next((Cut(other) for other in fields if isinstance(other, (models.Line, models.Text)) and other is not to), None)
        return pages.get_queryset(request), to, label

    def labels(self, queryset, to, label):
        """Pairs of value and label."""
        label = Value(None, TextField()) if label is None else label
        pairs = queryset.annotate(Label=label).values_list(to.attname, "Label")
        return [(value, text and text[:SHOWN]) for value, text in pairs]

    def rows_of(self, request, field, most=20):
        """For Filter.offer(): the rows that a column refers to; None if they are many."""
        referred = self.referred(request, field)
        if referred is None:
            return None
        rows = self.labels(referred[0].order_by(referred[1].attname)[: most + 1], *referred[1:])
        return rows if len(rows) <= most else None

    ### Order

    def get_ordering(self, request, queryset):
        """The columns to sort by: those of the address, and then the key, or all columns of a view whose rows can have the same key."""
        for part in filter(None, self.params.get(ORDER_VAR, "").split(".")):
            if not self.sortable(part.lstrip("-")):
                self.complain(f"There is no column {part.lstrip('-')} to sort by.")
        ordering = [name for name in super().get_ordering(request, queryset) if name.lstrip("-") not in ("pk", "key_columns")]
        if not self.model.relation.unique:
            names = self.model_admin.names(request, self.model_admin.may(request).select)
            ordering += [name for name in names if self.model._meta.get_field(name).info["ordered"]][:16]
        else:
            ordering += self.model._meta.ordering
        first = {}
        for name in ordering:
            first.setdefault(name.lstrip("-"), name)
        return list(first.values())

    def sortable(self, number):
        try:
            return bool(self.get_ordering_field(self.list_display[int(number)]))
        except (ValueError, IndexError):
            return False

    def terms(self, ordering):
        fields = {field.attname: field for field in self.model._meta.concrete_fields}
        for name in ordering:
            plain = name.lstrip("-")
            field = fields.get(plain)
            yield Term(
                plain,
                field.name if field else plain,
                name.startswith("-"),
                field is not None and field.null,
                field is not None and (field.primary_key or not self.model.relation.is_view),
                alias(field) if field else plain,
            )

    ### Pages

    def get_results(self, request):
        self.order = list(self.terms(self.queryset.query.order_by))
        if self.order[0].name not in self.model._meta.ordering:  # all rows before the page have to be sorted
            self.BY_NUMBER = self.BY_NUMBER_IN_OTHER_ORDERS
        self.total, self.total_text, self.pages = 0, "", []
        rows = []
        self.problems += [one.problem for one in self.filter_specs if getattr(one, "problem", None)]
        try:
            with transaction.atomic():
                rows = self.searched(request) if self.query else self.read(request, self.queryset)
        except DatabaseError as error:
            diag = errors.diagnostics(error)
            # The server does not accept a value that the user has typed.
            if diag is None or not diag.sqlstate.startswith("22"):
                raise
            self.complain(errors.text_of(error))
        except (ValueError, TypeError, RecursionError, ValidationError):
            self.complain("The address of this page is not understood.")
        for cell in self.cells.values():
            keys = {getattr(row, alias(cell.field)) for row in rows} - {None}
            referred = self.referred(request, cell.field) if keys and "as_of" not in request.GET else None
            if referred:
                queryset, to, label = referred
                cell.labels = {str(value): text for value, text in self.labels(queryset.filter(**{f"{to.name}__in": keys}), to, label)}
        if self.to_field:  # what a look-up window returns; Django would read it row by row
            field = self.model._meta.get_field(self.to_field)
            values = dict(self.root_queryset.filter(pk__in=[row.pk for row in rows]).values_list("pk", self.to_field))
            for row in rows:
                row.__dict__[field.attname] = values.get(row.pk)
        self.result_list = rows
        # If there were more, Django's templates would offer to choose the rows of all pages.
        self.result_count = self.full_result_count = len(rows)
        self.show_full_result_count = self.show_admin_actions = True
        self.can_show_all = self.multi_page = False

    def read(self, request, queryset, total=None):
        """The rows of this page of a queryset.  Also sets total, total_text and pages."""
        size, (number, values, backward) = self.list_per_page, self.position(request)
        if backward:
            rows = self.fetch(queryset, 0, values, backward)
            if len(rows) <= size:  # so this is the first page, which has to be full
                number, values, backward = 1, None, False
        if not backward:
            start = (number - 1) * size if values is None else 0
            rows = self.fetch(queryset, start, values)
        more, seen = len(rows) > size, None
        rows = rows[:size]
        if backward:
            rows, more = rows[::-1], values is not None
        elif values is None and (rows or number == 1):
            seen = start + len(rows)
        elif values is None:
            self.complain(f"There is no page {number}.")
        if total is None:
            self.count(queryset, seen, more)
        else:
            self.total, self.total_text = total, f"{total:,}"
        self.pages = list(self.links(rows, number, values is None and number == 1 and not backward, more))
        return rows

    def searched(self, request):
        """The rows of this page of a search.  All its queries together have SEARCH_MS.

        First the keys of HITS rows are read in any order.  If there are no more, the page is
        made of these.  If there are more, the rows are so frequent that a scan in the grid's
        order finds a page of them soon.
        """
        end, keys = time.monotonic() + self.SEARCH_MS / 1000, []
        try:
            if self.any_order():
                with limited(self.SEARCH_MS):
                    keys = list(self.queryset.order_by().values_list("pk", flat=True)[: self.HITS + 1])
                if len(keys) <= self.HITS:
                    return self.read(request, self.unsearched.filter(pk__in=keys), len(keys))
            with limited(max(100, int(1000 * (end - time.monotonic())))):
                return self.read(request, self.queryset)
        except Limit:
            if keys:
                self.complain(f"The search takes too long.  These are {self.HITS:,} of its rows.  Use a longer text, or filter first.")
                return self.read(request, self.unsearched.filter(pk__in=keys[: self.HITS]), self.HITS)
            self.complain(
                "The search takes too long, and was cancelled.  These are the rows with exactly this text in a key"
                " or a unique column.  Filter first."
            )
            return self.read(request, self.unsearched.filter(self.exactly()))

    def any_order(self):
        """Whether a few rows in any order are found sooner than the first ones in the grid's order."""
        return not self.model.relation.is_view

    def exactly(self):
        """The condition that a key or a unique column equals the text of the search.  It can use their indexes."""
        numbers = {columns[0] for columns in self.model.relation.constraints.values() if columns} | {*self.model.relation.key}
        found = Q(pk__in=[])
        for field in [cell.field for cell in self.cells.values() if cell.field.info["number"] in numbers]:
            if isinstance(field, (models.Line, models.Text)) or isinstance(field, SIMPLE[1:]) and self.query.isdecimal():
                found |= Q(**{f"{field.name}__exact": self.query})
        return found

    def fetch(self, queryset, offset, values=None, backward=False):
        """The rows of a page and one more, from the row with this number, or after the row with these values."""
        order = [term._replace(descending=term.descending ^ backward) for term in self.order]
        queryset = queryset.order_by(*["-" * term.descending + term.name for term in order])
        limit = self.list_per_page + 1
        parts = [Q()] if values is None else list(after(order, values))
        # Without an index each condition would read all rows, so they become one.
        if not order[0].indexed:
            parts = [reduce(or_, parts)]
        # A search or filter leaves out some of the first rows.
        filtered = self.has_active_filters
        place = (0, offset + self.HITS) if filtered else (offset, limit)
        first = None if self.query else self.model_admin.first_keys(order, values, *place)
        if first:
            keys, left_out = first
            rows = self.rows(queryset.filter(parts[0], pk__in=keys)[offset - left_out : offset - left_out + limit])
            if len(rows) == limit and keys[rows[-1].pk]:
                return rows
        rows = []
        for part in parts:
            if len(rows) < limit:
                rows += self.part(queryset.filter(part), offset, offset + limit - len(rows))
        return rows

    def part(self, queryset, start, end):
        """These rows of a queryset, which is in the grid's order.  A view computes its columns for each row that is
        sorted, so the values of a page are read when its keys are known."""
        relation = self.model.relation
        if relation.is_view and relation.unique and self.order[0].name not in self.model._meta.ordering:
            keys = [row.pk for row in self.rows(queryset[start:end], cells=False)]
            return self.rows(queryset.filter(pk__in=keys))
        return self.rows(queryset[start:end])

    def rows(self, queryset, cells=True):
        """The rows of a queryset.  A subquery finds and sorts them, and the query around it cuts
        their values.  In one query the planner would cut the values of all rows.  Without cells
        a row has the values that it is sorted by only."""
        terms = {term.value for term in self.order}
        fields = [f for f in self.model._meta.concrete_fields if cells and f.name in self.cells or f.info and alias(f) in terms]
        others = [name for name in {**dict.fromkeys(self.columns), **dict.fromkeys(terms)} if name in queryset.query.annotations]
        inner = queryset.annotate(**{alias(f): Raw(F(f.attname)) for f in fields}).values_list(*map(alias, fields), *others)
        try:
            sql, values = inner.query.sql_with_params()
        except EmptyResultSet:
            return []
        cells = [f'"{alias(f)}"' for f in fields]
        pk = self.model._meta.pk
        if isinstance(pk, models.Key):
            key = [f'"Cell_{n}"{"" if number else "::text"}' for n, number in zip(self.model.relation.key, pk.numbers)]
            key = f"pg_catalog.jsonb_build_array({', '.join(key)})::text"
        else:
            key = f'"{alias(pk)}"' + ("" if isinstance(pk, SIMPLE) else "::text")
        shown = [key, *map(cut, fields, cells), *[f'"{name}"' for name in others]]
        rows = []
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT {', '.join(shown)} FROM ({sql}) AS found", values)
            for key, *values in cursor:
                row = self.model.from_db(queryset.db, [pk.attname], [key])
                row.__dict__.update(zip([*map(alias, fields), *others], values))
                rows.append(row)
        return rows

    def position(self, request):
        """Where the page begins: its number or 0, the values of the row before or after it, and whether the row is after it."""
        given = next((name for name in (self.AFTER, self.BEFORE) if name in request.GET), None)
        try:
            number = int(request.GET.get(PAGE_VAR, 0 if given else 1))
        except ValueError:
            number = -1
        if not given:
            if not 0 < number <= self.BY_NUMBER:
                self.complain(f"Pages have the numbers 1 to {self.BY_NUMBER}.")
                number = 1
            return number, None, False
        values = json.loads(request.GET[given])
        if not isinstance(values, list) or not all(value is None or isinstance(value, (str, int)) for value in values):
            raise ValueError(given)
        if values and len(values) != len(self.order) or not values and given == self.AFTER:
            raise ValueError(given)
        return max(number, 0), values or None, given == self.BEFORE

    def values(self, row):
        """The values of a row from which another page begins, as text.  None if they are too
        long for an address, or if another row can have the same, as in a view."""
        values = [getattr(row, term.value) for term in self.order]
        if self.model.relation.is_view or any(isinstance(value, str) and len(value) > READ for value in values):
            return None
        text = json.dumps(values, ensure_ascii=False)
        return text if len(text) <= 1500 else None

    def links(self, rows, number, first, more):
        """The links to pages, as pairs of text and address.  The address is empty for this page."""
        if first and not more:
            return

        def page(number):
            return self.get_query_string({PAGE_VAR: number})

        def beside(name, row, number):
            values = self.values(row) if number not in range(1, self.NUMBERED + 1) else None
            if values is not None:
                return self.get_query_string({name: values, **({PAGE_VAR: number} if number > 0 else {})})
            return page(number) if 0 < number <= self.BY_NUMBER else None

        if not first:
            yield "First", self.get_query_string()
            before = rows and beside(self.BEFORE, rows[0], number - 1)
            if before:
                yield "Previous", before
        known = math.ceil((self.total or 0) / self.list_per_page)
        for n in range(1, min(known, self.NUMBERED) + 1):
            yield n, "" if n == number else page(n)
        if number > self.NUMBERED:
            yield number, ""
        if more:
            behind = rows and beside(self.AFTER, rows[-1], number and number + 1)
            if behind:
                yield "Next", behind
            yield "Last", self.get_query_string({self.BEFORE: "[]"})

    def count(self, queryset, seen, more):
        """Set the number of rows: counted if there are few and it is quick, else the planner's estimate."""
        if seen is not None and not more:
            self.total, self.total_text = seen, f"{seen:,}"
            return
        bare = queryset.order_by().values(self.order[-1].name)
        plan = str(bare.explain()).splitlines()[0]
        estimate = int(re.findall(r"\(cost=\S+ rows=(\d+) width=\d+\)", plan)[-1])
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_catalog.row_security_active(%s::pg_catalog.oid)", [self.model.relation.oid])
            secret = cursor.fetchone()[0]  # an estimate would include rows that the role may not see
        counted = None
        if secret or estimate <= 2 * self.COUNTED:
            try:
                with limited(self.COUNT_MS):
                    counted = bare[: self.COUNTED + 1].count()
            except Limit:
                pass
        if counted is not None and counted <= self.COUNTED:
            self.total, self.total_text = counted, f"{counted:,}"
            return
        least = max((seen or 0) + 1, self.COUNTED if counted else 0)
        if secret or estimate <= least:
            self.total, self.total_text = least, f"more than {least:,}"
        else:
            self.total, self.total_text = estimate, f"about {estimate:,}"

    @property
    def columns_link(self):
        """The link to show all columns, or fewer: text and address."""
        if self.ALL_COLUMNS in self.params:
            return "Fewer columns", self.get_query_string({self.ALL_COLUMNS: None}, ["o"])
        if self.hidden_columns:
            return f"All columns ({self.hidden_columns} more)", self.get_query_string({self.ALL_COLUMNS: "all"}, ["o"])
        return None



class GridPages(Pages):
    show_full_result_count = False
    show_facets = None  # Django 5: the counts of each filter would read all rows
    list_per_page = 50
    list_max_show_all = 0
    grid_parameters = ("as_of",)  # parameters of an address that are no filters

    def changelist_view(self, request, extra_context=None):
        response = super().changelist_view(request, extra_context)
        grid = getattr(response, "context_data", {}).get("cl")
        for problem in grid.problems if grid else ():
            self.message_user(request, problem, messages.ERROR)
        return response

    def to_field_allowed(self, request, to_field):
        """Whether the look-up window of a reference may return this field."""
        return to_field in self.names(request, self.may(request).select)

    def grid_queryset(self, request):
        """The rows that a grid shows.  Actions use get_queryset()."""
        return self.get_queryset(request)

    def first_keys(self, order, values, offset, limit):
        """If there is a quick way to find them: the keys of the first rows in this order, after one
        with these values, and of others that may be among them, with False; and how many rows before
        the offset are left out."""
        return None

    def get_changelist(self, request, **options):
        return Grid

    @admin.display(description=mark_safe('<input type="checkbox" id="action-toggle" aria-label="Select all rows of this page">'))
    def action_checkbox(self, row):
        """Like Django's, without a template for each row, and with a label, which Django has from 5.0 on."""
        html = '<input type="checkbox" name="{}" value="{}" class="action-select" aria-label="Select {}">'
        return format_html(html, helpers.ACTION_CHECKBOX_NAME, row.pk, row)

    def get_list_display(self, request):
        """The key and the first other columns, or all columns if the address says so."""
        names = self.names(request, self.may(request).select)
        key = [self.relation.field(number) for number in self.relation.key]
        names = [*key, *(name for name in names if name not in key)]
        return names if Grid.ALL_COLUMNS in request.GET else names[: max(COLUMNS, len(key))]

    def get_list_display_links(self, request, list_display):
        return None if self.relation.is_view else list_display[:1]

    def get_search_fields(self, request):
        """The key, and the text columns."""
        names = self.names(request, self.may(request).select)
        fields = [self.model._meta.get_field(name) for name in names]
        return [f.attname for f in fields if isinstance(f, (models.Line, models.Text)) or f.info["number"] in self.relation.key]

    def get_search_results(self, request, queryset, search_term):
        """The rows that have each word in one of the columns.  Words in quotes are looked for together."""
        names, found = self.get_search_fields(request), []
        for word in smart_split(search_term):
            if word[0] in "\"'" and word[0] == word[-1] and len(word) > 1:
                word = unescape_string_literal(word)
            found.append(Found(word, names))
        return queryset.filter(*found), False
