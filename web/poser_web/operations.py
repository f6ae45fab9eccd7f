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
from django.urls import reverse

from . import errors, models
from .history import PER_PAGE
from .rights import all_pages, page
from .statements import attempt, may, run, whole_number


def undone(statement, values=()):
    """The rows of a statement.  Nothing that the savepoint has done stays: no change, no setting, no lock."""
    rows = run(statement, values)
    transaction.set_rollback(True)
    return rows


def limit_time(limit):
    run("SELECT pg_catalog.set_config('statement_timeout', %s, true)", [limit])


### The start page


def start(request):
    """The context of the start page: findings, transactions, versions."""
    checked, may_transactions = may_check(request), may("SELECT", "poser_transaction")
    found, error = attempt(findings, "500ms") if checked else ([], None)
    return {
        # poser_check() reports the others
        "problems": problems(request, [] if error else checked),
        "may_check": checked,
        "findings": found,
        "check_error": error and ("" if errors.sqlstate(error) == "57014" else errors.text_of(error)),
        "version": run("SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'poser'")[0].extversion,
        "may_batches": may("SELECT", "poser_batch", "poser_batch_row"),
        "may_transactions": may_transactions,
        "transactions": list_transactions(request, limit=10)[0] if may_transactions else [],
    }


def problems(request, checked):
    """Schemas that are left out of search_path, and the problems of tables and views that are not checked."""
    others = [p.relation.oid for p in all_pages(request) if p.relation not in checked and p.has_view_permission(request)]
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


def may_check(request):
    """The tables and views that the role may check: it has the privileges of their owner."""
    owned = run(
        """
        SELECT c.oid::int8
          FROM pg_catalog.pg_class c, pg_catalog.pg_extension e JOIN pg_catalog.pg_proc p ON p.pronamespace = e.extnamespace
         WHERE c.oid = ANY (%s::oid[]) AND pg_has_role(c.relowner, 'USAGE')
           AND e.extname = 'poser' AND p.proname = 'poser_check'
           AND has_schema_privilege(p.pronamespace, 'USAGE') AND has_function_privilege(p.oid, 'EXECUTE')
        """,
        [[pages.relation.oid for pages in all_pages(request)]],
    )
    owned = {row.oid for row in owned}
    relations = [pages.relation for pages in all_pages(request)]
    return [relation for relation in relations if relation.oid in owned and not (relation.own and relation.is_view)]


def findings(limit):
    """The findings of poser_check(), at most a thousand.  The server cancels it after "limit"; 0 means no limit."""
    limit_time(limit)
    return undone(f"SELECT object, problem FROM {models.poser('poser_check')}() LIMIT 1000")


def check(request):
    """The check without a time limit.  It reads all rows, so only a button starts it."""
    if not may_check(request):
        raise PermissionDenied
    context = {"title": "Check", "ran": request.method == "POST"}
    if context["ran"]:
        context["findings"], error = attempt(findings, "0")
        context["check_error"] = errors.text_of(error)
    return page(request, "check", **context)


### Transactions


WINDOW = 1000  # a list counts the changes among so many ids after a transaction's own
SPAN = 400000  # a page looks through so many ids

# Transactions and changes take their ids from one sequence.  So a range of ids limits the
# versions of all tables that are read.  The changes of a transaction have greater ids than it.


def tables_of(request):
    """The pages of the tables whose history the role may read."""
    listed = [(pages, pages.past(request)) for pages in all_pages(request)]
    return [pages for pages, past in listed if past.read and None not in past.key]


def of_each(request, statement, values):
    """One statement for each of these tables, run as a single one.  Returns the rows of all."""
    tables = tables_of(request)
    parts = [f"SELECT {number} AS number, t.* FROM ({statement(pages.past(request))}) t" for number, pages in enumerate(tables)]
    return [(tables[row.number], row) for row in run(" UNION ALL ".join(parts), values)] if parts else []


def count_changes(request, ids):
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
    for pages, row in of_each(request, count, {"ids": ids}):
        counts[row.id].append((pages.relation.name, row.count))
    return counts


def list_transactions(request, limit, before=None, name="", table=None, since="", until=""):
    """The last transactions before this id that meet the conditions, and the id where the next page begins, or None."""
    source, of_table = models.poser("poser_transaction"), "true"
    below = "t.id < COALESCE(%(before)s, 9223372036854775807) AND t.issued_at <= %(until)s::timestamptz"
    if table:
        past = table.past(request)
        of_table = (
            f"t.id IN (SELECT v.{past.transaction_id} FROM {past.sql} v WHERE v.{past.change_id} BETWEEN %(start)s"
            f" AND %(last)s + {SPAN} AND {past.visible})"
        )
    values = {"before": before, "since": since or "-infinity", "until": until or "infinity", "name": name, "limit": limit + 1}
    last = run(f"SELECT max(t.id) AS id FROM {source} t WHERE {below}", values)[0].id
    if last is None:
        return [], None
    values.update(last=last, start=last - SPAN)
    found = run(
        f"""
        SELECT t.id, date_trunc('second', t.issued_at)::text AS issued_at, t.username, t.role_name, t.comment
          FROM {source} t
         WHERE {below} AND t.id BETWEEN %(start)s AND %(last)s AND t.issued_at >= %(since)s::timestamptz
           AND (strpos(t.username, %(name)s) > 0 OR strpos(t.role_name::text, %(name)s) > 0) AND {of_table}
         ORDER BY t.id DESC LIMIT %(limit)s
        """,
        values,
    )
    if len(found) > limit:
        found = found[:limit]
        values["start"] = found[-1].id
    counts = count_changes(request, [row.id for row in found])
    for row in found:
        row.tables, row.more = counts[row.id], sum(count for table, count in counts[row.id]) == WINDOW
    # Times rise with ids, to within a second.
    more = run(
        f"SELECT FROM (SELECT t.issued_at FROM {source} t WHERE t.id < %(start)s ORDER BY t.id DESC LIMIT 1) t"
        " WHERE t.issued_at >= %(since)s::timestamptz - interval '1 second'",
        values,
    )
    return found, values["start"] if more else None


def transactions(request):
    if not may("SELECT", "poser_transaction"):
        raise PermissionDenied
    values = {name: request.GET.get(name, "") for name in ("name", "table", "since", "until")}
    tables = tables_of(request)
    table = next((pages for pages in tables if str(pages.relation.oid) == values["table"]), None)
    if values["table"] and table is None:
        raise Http404
    before = whole_number(request.GET.get("before"))
    result, error = attempt(list_transactions, request, PER_PAGE, before, values["name"], table, values["since"], values["until"])
    found, older = result or ([], None)
    query = request.GET.copy()
    query["before"] = older
    return page(
        request,
        "transactions",
        title="Transactions",
        transactions=found,
        older=query.urlencode() if older else None,
        whole=len(found) == PER_PAGE,
        values=values,
        tables=[pages.relation for pages in tables],
        before=before,
        error=errors.text_of(error),
    )


def one_transaction(request, id):
    """The changes of a transaction, page by page.  Versions have no index by transaction, so a
    page looks through a range of ids after its own."""
    if not may("SELECT", "poser_transaction"):
        raise PermissionDenied
    if id >= 2**63:
        raise Http404
    source = models.poser("poser_transaction")
    fields = run(f"SELECT f.* FROM {source} t, pg_catalog.json_each_text(pg_catalog.row_to_json(t)) f WHERE t.id = %s", [id])
    if not fields:
        raise Http404
    after = max(id, whole_number(request.GET.get("after")) or 0)
    end, last, found = after + SPAN, 0, []
    values = {"after": after, "end": end, "id": id}

    def within(past):
        return f"v.{past.change_id} > %(after)s AND v.{past.change_id} <= %(end)s AND v.{past.transaction_id} = %(id)s"

    def look(past):
        last = f"(SELECT max({past.change_id}) FROM {past.sql}) AS last"
        return f"SELECT {last}, EXISTS (SELECT FROM {past.sql} v WHERE {within(past)}) AS own"

    for pages, table in of_each(request, look, values):
        last = max(last, table.last or 0)
        if table.own:
            found += pages.recorded(request, within(pages.past(request)), "ASC", PER_PAGE + 1, **values)
    found.sort(key=lambda change: change.change_id)
    if len(found) > PER_PAGE:
        found, end = found[:PER_PAGE], found[PER_PAGE - 1].change_id
    return page(
        request,
        "transaction",
        title=f"Transaction {id}",
        transaction=fields,
        changes=found,
        after=end if end < last else None,
        first=after == id,
        searched=SPAN,
    )


### Datasync

def statuses(limit):
    """The consumers with their status.  The server cancels this after "limit"."""
    limit_time(limit)
    return undone(
        f"""
        SELECT s.*, date_trunc('second', s.age)::text AS age, date_trunc('second', s.oldest)::text AS oldest,
               date_trunc('second', s.last_confirmed_at)::text AS last_confirmed_at,
               date_trunc('second', s.last_failed_at)::text AS last_failed_at
          FROM {models.poser('poser_datasync_status')} s ORDER BY s.consumer
        """
    )


def datasync(request):
    """The consumers.  To count millions of pending changes takes seconds.  Then the page says
    so, and shows the rest."""
    if request.GET.get("consumer"):
        return HttpResponseRedirect(reverse("admin:consumer", args=[quote(request.GET["consumer"])]))
    error, consumers, may_status = None, None, may("SELECT", "poser_datasync_status")
    if may_status:
        consumers, error = attempt(statuses, f"{settings.PAGE_SECONDS}s" if "count" in request.GET else "700ms")
        if error is not None and errors.sqlstate(error) != "57014":
            raise error
    if consumers is None and may("SELECT", "poser_datasync_consumer"):
        consumers = run(f"SELECT * FROM {models.poser('poser_datasync_consumer')} ORDER BY consumer")
    return page(request, "datasync", title="Datasync", consumers=consumers, may_status=may_status, uncounted=error is not None)


def next_changes(name):
    """The first changes that the consumer has not confirmed."""
    return undone(
        f"SELECT change_id, date_trunc('second', issued_at)::text AS issued_at, username, payload_type, payload_key, operation,"
        f" jsonb_pretty(payload) AS payload FROM {models.poser('poser_datasync_changes')}(%s, 20)",
        [name],
    )


def consumer(request, name):
    """A consumer: its next changes, and a form that skips the first one.

    The button that shows the changes is a POST, because poser_datasync_changes() records a
    delivery.  That is rolled back.  The form has the number of the change that was shown, and
    the database skips no other.
    """
    name = unquote(name)
    context = {"title": f"Consumer {name}", "consumer": name, "asked": request.method == "POST", "changes": None}
    if "skip" in request.POST:
        change, why = whole_number(request.POST["skip"]), request.POST.get("why", "").strip()
        skipped, error = attempt(run, f"SELECT {models.poser('poser_datasync_skip')}(%s, %s, %s)", [name, change, why or None])
        if skipped:
            messages.success(request, f"Change {change} was skipped.")
            return HttpResponseRedirect(reverse("admin:consumer", args=[quote(name)]))
        messages.error(request, f"Nothing was written: {errors.text_of(error)}")
    if context["asked"]:
        context["changes"], error = attempt(next_changes, name)
        context["error"] = errors.text_of(error)
    return page(request, "datasync_consumer", **context)
