"""The pages that belong to no table: the start page, findings, transactions, datasync.

Each statement runs as the role that has logged in.  A page leaves out what the role has no
privilege for.  Each page reads a bounded number of transactions and versions.
"""
from django.conf import settings
from django.contrib import messages
from django.contrib.admin.utils import quote, unquote
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import Http404, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse

from . import errors, models
from .history import PER_PAGE, attempt, granted, may_transactions, run, said, whole_number

def undone(statement, values=()):
    """The rows of a statement.  Nothing that the savepoint has done stays: no change, no setting, no lock."""
    rows = run(statement, values)
    transaction.set_rollback(True)
    return rows


def limit_time(limit):
    run("SELECT pg_catalog.set_config('statement_timeout', %s, true)", [limit])


def page(request, site, template, **context):
    request.current_app = site.name
    return TemplateResponse(request, f"poser_web/{template}.html", {**site.each_context(request), **context})


### The start page


def start(request, site):
    """The context of the start page: findings, transactions, versions."""
    may = may_check(site)
    found, error = attempt(findings, "500ms") if may else ([], None)
    return {
        # poser_check() reports the others
        "problems": problems(request, site, [] if error else may),
        "may_check": may,
        "findings": found,
        "check_error": error and ("" if sqlstate(error) == "57014" else said(error)),
        "version": run("SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'poser'")[0].extversion,
        "may_transactions": may_transactions(),
        "transactions": list_transactions(request, site, limit=10)[0] if may_transactions() else [],
    }


def sqlstate(error):
    diag = errors.diagnostics(error)
    return diag and diag.sqlstate


def problems(request, site, checked):
    """Schemas that are left out of search_path, and the problems of tables and views that are not checked."""
    others = [p.relation.oid for p in site._registry.values() if p.relation not in checked and p.has_view_permission(request)]
    unsafe = "Every role may create objects in this schema, so the web leaves it out of search_path."
    schemas = [{"object": name, "problem": unsafe} for name in request.user.unsafe_schemas]
    return schemas + run(
        f"SELECT target::text AS object, problem FROM {models.poser('poser_tables')}"
        f" WHERE problem IS NOT NULL AND target::oid = ANY (%(others)s::oid[]) UNION ALL "
        f"SELECT view::text, problem FROM {models.poser('poser_views')}"
        f" WHERE problem IS NOT NULL AND view::oid = ANY (%(others)s::oid[])",
        {"others": others},
    )


### Findings


def may_check(site):
    """The tables and views that the role may check: it has the privileges of their owner."""
    owned = run(
        """
        SELECT c.oid::int8
          FROM pg_catalog.pg_class c, pg_catalog.pg_extension e JOIN pg_catalog.pg_proc p ON p.pronamespace = e.extnamespace
         WHERE c.oid = ANY (%s::oid[]) AND pg_has_role(c.relowner, 'USAGE')
           AND e.extname = 'poser' AND p.proname = 'poser_check'
           AND has_schema_privilege(p.pronamespace, 'USAGE') AND has_function_privilege(p.oid, 'EXECUTE')
        """,
        [[model.relation.oid for model in site._registry]],
    )
    owned = {row.oid for row in owned}
    relations = [model.relation for model in site._registry if model.relation.oid in owned]
    return [relation for relation in relations if not (relation.own and relation.is_view)]


def findings(limit):
    """The findings of poser_check(), at most a thousand.  The server cancels it after "limit"; 0 means no limit."""
    limit_time(limit)
    return undone(f"SELECT object, problem FROM {models.poser('poser_check')}() LIMIT 1000")


def check(request, site):
    """The check without a time limit.  It reads all rows, so only a button starts it."""
    if not may_check(site):
        raise PermissionDenied
    context = {"title": "Check", "ran": request.method == "POST"}
    if context["ran"]:
        context["findings"], error = attempt(findings, "0")
        context["check_error"] = said(error)
    return page(request, site, "check", **context)


### Transactions


WINDOW = 1000  # a list counts the changes among so many ids after a transaction's own
SPAN = 400000  # a page looks through so many ids

# Transactions and changes take their ids from one sequence.  So a range of ids limits the
# versions of all tables that are read.  The changes of a transaction have greater ids than it.


def tables_of(request, site):
    """The pages of the tables whose history the role may read."""
    listed = [(pages, pages.past(request)) for pages in site._registry.values()]
    return [pages for pages, past in listed if past.read and None not in past.key]


def of_each(request, site, statement, values):
    """One statement for each of these tables, run as a single one.  Returns the rows of all."""
    tables = tables_of(request, site)
    parts = [f"SELECT {number} AS number, t.* FROM ({statement(pages.past(request))}) t" for number, pages in enumerate(tables)]
    return [(tables[row.number], row) for row in run(" UNION ALL ".join(parts), values)] if parts else []


def count_changes(request, site, ids):
    """For each of these transactions: the tables, and how many rows of each it has changed."""

    def count(past):
        return f"""
            SELECT t.id, c.count
              FROM unnest(%(ids)s::int8[]) AS t (id)
             CROSS JOIN LATERAL (SELECT count(*) FROM {past.sql} v
                                  WHERE v.{past.change_id} > t.id AND v.{past.change_id} <= t.id + {WINDOW}
                                    AND v.{past.transaction_id} = t.id AND {past.visible}) c
             WHERE c.count > 0"""

    counts = {id: [] for id in ids}
    for pages, row in of_each(request, site, count, {"ids": ids}):
        counts[row.id].append((pages.relation.name, row.count))
    return counts


def list_transactions(request, site, limit, before=None, name="", table=None, since="", until=""):
    """The last transactions before this id that meet the conditions, and the id where the next page begins, or None."""
    source, below, conditions = models.poser("poser_transaction"), ["true"], ["t.id BETWEEN %(start)s AND %(last)s"]
    if before is not None:
        below.append("t.id < %(before)s")
    if until:
        below.append("t.issued_at <= %(until)s::timestamptz")
    if since:
        conditions.append("t.issued_at >= %(since)s::timestamptz")
    if name:
        conditions.append("(strpos(t.username, %(name)s) > 0 OR strpos(t.role_name::text, %(name)s) > 0)")
    if table:
        past = table.past(request)
        conditions.append(
            f"t.id IN (SELECT v.{past.transaction_id} FROM {past.sql} v WHERE v.{past.change_id} BETWEEN %(start)s"
            f" AND %(last)s + {SPAN} AND {past.visible})"
        )
    values = {"before": before, "since": since or "-infinity", "until": until, "name": name, "limit": limit + 1}
    last = run(f"SELECT max(t.id) AS id FROM {source} t WHERE {' AND '.join(below)}", values)[0].id
    if last is None:
        return [], None
    values.update(last=last, start=last - SPAN)
    found = run(
        "SELECT t.id, date_trunc('second', t.issued_at)::text AS issued_at, t.username, t.role_name, t.comment"
        f" FROM {source} t WHERE {' AND '.join(below + conditions)} ORDER BY t.id DESC LIMIT %(limit)s",
        values,
    )
    if len(found) > limit:
        found = found[:limit]
        values["start"] = found[-1].id
    counts = count_changes(request, site, [row.id for row in found])
    for row in found:
        row.tables, row.more = counts[row.id], sum(count for table, count in counts[row.id]) == WINDOW
    # Times rise with ids, to within a second.
    more = run(
        f"SELECT FROM (SELECT t.issued_at FROM {source} t WHERE t.id < %(start)s ORDER BY t.id DESC LIMIT 1) t"
        " WHERE t.issued_at >= %(since)s::timestamptz - interval '1 second'",
        values,
    )
    return found, values["start"] if more else None


def transactions(request, site):
    if not may_transactions():
        raise PermissionDenied
    values = {name: request.GET.get(name, "") for name in ("name", "table", "since", "until")}
    tables = tables_of(request, site)
    table = next((pages for pages in tables if str(pages.relation.oid) == values["table"]), None)
    if values["table"] and table is None:
        raise Http404
    before = whole_number(request.GET.get("before"))
    result, error = attempt(list_transactions, request, site, PER_PAGE, before, values["name"], table, values["since"], values["until"])
    found, older = result or ([], None)
    query = request.GET.copy()
    query["before"] = older
    return page(
        request,
        site,
        "transactions",
        title="Transactions",
        transactions=found,
        older=query.urlencode() if older else None,
        whole=len(found) == PER_PAGE,
        values=values,
        tables=[pages.relation for pages in tables],
        before=before,
        error=said(error),
    )


def one_transaction(request, site, id):
    """The changes of a transaction, page by page.  Versions have no index by transaction, so a
    page looks through a range of ids after its own."""
    if not may_transactions():
        raise PermissionDenied
    if id >= 2**63:
        raise Http404
    columns = ", ".join(f"t.{models.quoted(name)}::text" for name in granted("poser_transaction"))
    row = next(iter(run(f"SELECT {columns} FROM {models.poser('poser_transaction')} t WHERE t.id = %s", [id])), None)
    if row is None:
        raise Http404
    after = max(id, whole_number(request.GET.get("after")) or 0)
    end, last, found = after + SPAN, 0, []
    values = {"after": after, "end": end, "id": id}

    def within(past):
        return f"v.{past.change_id} > %(after)s AND v.{past.change_id} <= %(end)s AND v.{past.transaction_id} = %(id)s"

    def look(past):
        return f"SELECT (SELECT max({past.change_id}) FROM {past.sql}) AS last, EXISTS (SELECT FROM {past.sql} v WHERE {within(past)}) AS own"

    for pages, table in of_each(request, site, look, values):
        last = max(last, table.last or 0)
        if table.own:
            found += pages.recorded(request, within(pages.past(request)), "ASC", PER_PAGE + 1, **values)
    found.sort(key=lambda change: change.change_id)
    if len(found) > PER_PAGE:
        found, end = found[:PER_PAGE], found[PER_PAGE - 1].change_id
    return page(
        request,
        site,
        "transaction",
        title=f"Transaction {id}",
        transaction=list(vars(row).items()),
        changes=found,
        after=end if end < last else None,
        first=after == id,
        searched=SPAN,
    )


### Datasync

# The columns that need no counting.
STATUS = ("consumer", "last_confirmed_at", "attempts", "last_error", "last_failed_at", "failed_change_id")


def statuses(limit):
    """The consumers with their status.  The server cancels this after "limit"."""
    limit_time(limit)
    return undone(
        f"""
        SELECT s.*, date_trunc('second', s.age)::text AS age, date_trunc('second', s.oldest)::text AS oldest,
               date_trunc('second', s.last_confirmed_at)::text AS last_confirmed_at, date_trunc('second', s.last_failed_at)::text AS last_failed_at
          FROM {models.poser('poser_datasync_status')} s ORDER BY s.consumer
        """
    )


def datasync(request, site):
    """The consumers.  To count millions of pending changes takes seconds.  Then the page says
    so, and shows the rest."""
    if request.GET.get("consumer"):
        return HttpResponseRedirect(reverse("admin:consumer", args=[quote(request.GET["consumer"])]))
    error, consumers, may_status = None, None, "pending" in granted("poser_datasync_status")
    if may_status:
        consumers, error = attempt(statuses, f"{settings.PAGE_SECONDS}s" if "count" in request.GET else "700ms")
        if error is not None and sqlstate(error) != "57014":
            raise error
    if consumers is None and set(STATUS) <= set(granted("poser_datasync_consumer")):
        consumers = run(f"SELECT {', '.join(STATUS)} FROM {models.poser('poser_datasync_consumer')} ORDER BY consumer")
    for row in consumers or ():
        row.url = reverse("admin:consumer", args=[quote(row.consumer)])
    return page(request, site, "datasync", title="Datasync", consumers=consumers, may_status=may_status, uncounted=error is not None)


def next_changes(name):
    """The first changes that the consumer has not confirmed."""
    return undone(
        f"SELECT change_id, date_trunc('second', issued_at)::text AS issued_at, username, payload_type, payload_key, operation,"
        f" jsonb_pretty(payload) AS payload FROM {models.poser('poser_datasync_changes')}(%s, 20)",
        [name],
    )


def consumer(request, site, name):
    """A consumer: its next changes, and a form that skips the first one.

    The button that shows the changes is a POST, because poser_datasync_changes() records a
    delivery.  That is rolled back.  The form has the number of the change that was shown, and
    the database skips no other.
    """
    name = unquote(name)
    context = {"title": f"Consumer {name}", "consumer": name, "asked": request.method == "POST", "changes": None}
    if "skip" in request.POST:
        change, why = whole_number(request.POST["skip"]), request.POST.get("why", "").strip()
        if change is None or not why:
            messages.error(request, "Fill in the number of the change, and why.  The reason is kept with the change.")
        else:
            skipped, error = attempt(run, f"SELECT {models.poser('poser_datasync_skip')}(%s, %s, %s)", [name, change, why])
            if skipped:
                messages.success(request, f"Change {change} was skipped.")
                return HttpResponseRedirect(reverse("admin:consumer", args=[quote(name)]))
            moved = "Nothing was written: this is no longer the consumer's next change.  " if sqlstate(error) == "55000" else ""
            messages.error(request, moved + said(error))
    if context["asked"]:
        context["changes"], error = attempt(next_changes, name)
        context["error"] = said(error)
        context["may_skip"] = error is None or sqlstate(error) not in ("42501", "42704", "55P03", "42P01")
    return page(request, site, "datasync_consumer", **context)
