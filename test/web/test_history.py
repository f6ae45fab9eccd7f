"""The history of a row, revert, deleted rows, and the grid as of a time."""
import re

from harness import TEXT, same, sql, test

LEDGER = "/tables/ledger/"


def changes(browser):
    """The changes that a page shows, as pairs: the heading, and the cells."""
    shown = browser.script(TEXT + "return all('.poser-change').map(change => [text(change.querySelector('h3')), rows('tbody tr', change)])")
    return [(heading.split("00: ")[-1], cells) for heading, cells in shown]


def values(browser, column):
    return browser.texts(f"#result_list .field-{column}")


@test
def the_history_says_who_when_why_and_what(alice, bob):
    sql("GRANT SELECT ON poser_widget_version, poser_component_version TO web_alice")
    sql("INSERT INTO poser_widget (uuid, description) VALUES ('hist1', 'Bed'), ('hist2', 'Sofa')")
    sql("INSERT INTO poser_component (uuid, widget_uuid, item_code, description)"
        " VALUES ('hc1', 'hist1', '1', 'Leg'), ('hc2', 'hist1', '2', 'Slat')")
    sql("UPDATE poser_component SET widget_uuid = 'hist2' WHERE uuid = 'hc2'")
    sql("DELETE FROM poser_component WHERE uuid = 'hc1'")
    alice.open("/tables/poser_widget/hist1/change/")
    alice.fill(description="Bunk bed", why="two <b>children</b>")
    alice.save()
    alice.open("/tables/poser_widget/hist1/change/")
    alice.click(".historylink")
    shown = changes(alice)
    same(shown[0], ("update by web_alice", [["description", "Bed", "Bunk bed"]]))
    assert "Why: two <b>children</b>" in alice.text()
    same([what.split(" by ")[0] for what, cells in shown[1:]], [
        "delete of poser_component hc1", "update of poser_component hc2", "insert of poser_component hc2",
        "insert of poser_component hc1", "insert",
    ])
    same(shown[2][1], [["widget_uuid", "hist1", "hist2"]])
    same(len(alice.all('.poser-change a[href*="/transactions/"]')), 0)
    sql("GRANT SELECT ON poser_transaction TO web_alice")
    try:
        alice.open("/tables/poser_widget/hist1/history/")
        alice.click('.poser-change a[href*="/transactions/"]')
        assert "two <b>children</b>" in alice.text()
    finally:
        sql("REVOKE SELECT ON poser_transaction FROM web_alice")
    bob.open("/tables/poser_widget/hist1/change/")
    same(len(bob.all(".historylink")), 0)
    bob.open("/tables/poser_widget/hist1/history/")
    assert "You may not" in bob.text()


@test
def a_revert_shows_what_it_will_do_and_does_it(alice, bob):
    alice.open("/tables/poser_widget/hist1/history/")
    # the transaction that made the components
    alice.click(alice.all('[value="Revert to this…"]')[-2])
    same(sorted(changes(alice)), [
        ("poser_component hc1 will be inserted",
         [["uuid", "hc1"], ["widget_uuid", "hist1"], ["item_code", "1"], ["description", "Leg"], ["active", "true"]]),
        ("poser_component hc2 will be changed", [["widget_uuid", "hist2", "hist1"]]),
        ("poser_widget hist1 will be changed", [["description", "Bunk bed", "Bed"]]),
    ])
    same(sql("SELECT count(*) FROM poser_component WHERE widget_uuid = 'hist1'"), [(0,)])
    alice.click('[name="_other"]')
    same(changes(alice), [("poser_widget hist1 will be changed", [["description", "Bunk bed", "Bed"]])])
    alice.click('[name="_other"]')
    alice.fill(why="back to one")
    alice.click('[name="_revert"]')
    assert "was reverted to transaction" in alice.text()
    same(sql("SELECT uuid, widget_uuid FROM poser_component WHERE uuid LIKE 'hc%' ORDER BY uuid"), [("hc1", "hist1"), ("hc2", "hist1")])
    same(sql("SELECT DISTINCT username, comment FROM poser_widget_history('hist1', true)"
             " WHERE description IN ('Bed', 'Leg') AND username = 'web_alice'"),
         [("web_alice", "back to one")])


@test
def a_revert_overwrites_nothing_that_was_not_seen(alice, bob):
    sql("UPDATE poser_widget SET description = 'Cot' WHERE uuid = 'hist1'")
    alice.open("/tables/poser_widget/hist1/history/")
    alice.click(alice.all('[value="Revert to this…"]')[-1])
    same(changes(alice), [("poser_widget hist1 will be changed", [["description", "Cot", "Bed"]])])
    bob.open("/tables/poser_widget/hist1/change/")
    bob.fill(description="Hammock of bob")
    bob.save()
    alice.fill(why="old name")
    alice.click('[name="_revert"]')
    assert "These rows have changed meanwhile" in alice.text()
    same(changes(alice), [("poser_widget hist1 will be changed", [["description", "Hammock of bob", "Bed"]])])
    same(sql("SELECT description FROM poser_widget WHERE uuid = 'hist1'"), [("Hammock of bob",)])
    same(alice.find('[name="why"]').get_attribute("value"), "old name")
    alice.click('[name="_revert"]')
    same(sql("SELECT description FROM poser_widget WHERE uuid = 'hist1'"), [("Bed",)])


@test
def a_revert_is_possible_where_a_trigger_writes_the_time(alice, bob):
    sql("CREATE TABLE visit (id int PRIMARY KEY, guest text, at timestamptz)")
    sql("CREATE FUNCTION visit_at() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.at := clock_timestamp(); RETURN NEW; END'")
    sql("CREATE TRIGGER visit_at BEFORE INSERT OR UPDATE ON visit FOR EACH ROW EXECUTE FUNCTION visit_at()")
    sql("SELECT poser_track('visit')")
    sql("GRANT SELECT, INSERT, UPDATE, DELETE ON visit TO web_alice; GRANT SELECT ON visit_version TO web_alice")
    sql("INSERT INTO visit VALUES (1, 'Ann')")
    sql("UPDATE visit SET guest = 'Ben'")
    alice.open("/tables/visit/1/history/")
    alice.click(alice.all('[value="Revert to this…"]')[-1])
    alice.click('[name="_revert"]')
    assert "was reverted to transaction" in alice.text()
    same(sql("SELECT guest FROM visit"), [("Ann",)])


@test
def a_component_that_comes_meanwhile_is_not_lost(alice, bob):
    sql("INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('hc3', 'hist1', '3', 'Drawer')")
    sql("UPDATE poser_component SET description = 'Oak slat', widget_uuid = 'hist2' WHERE uuid = 'hc2'")
    alice.open("/tables/poser_widget/hist1/history/")
    alice.click(alice.all('[value="Revert to this…"]')[-2])
    assert {"poser_component hc3 will be deleted", "poser_component hc2 will be changed"} <= {what for what, cells in changes(alice)}
    # Meanwhile a component is added, and one that is now elsewhere is changed.
    sql("INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('hc4', 'hist1', '4', 'Lamp')")
    sql("UPDATE poser_component SET description = 'Ash slat' WHERE uuid = 'hc2'")
    alice.click('[name="_revert"]')
    assert "changed meanwhile" in alice.text()
    shown = dict(changes(alice))
    assert "poser_component hc4 will be deleted" in shown
    same(shown["poser_component hc2 will be changed"], [["widget_uuid", "hist2", "hist1"], ["description", "Ash slat", "Slat"]])
    same(sql("SELECT count(*) FROM poser_component WHERE uuid IN ('hc3', 'hc4')"), [(2,)])


@test
def rows_that_refer_are_shown_on_demand(alice, bob):
    sql("CREATE TABLE shop (id int PRIMARY KEY, name text)")
    sql("CREATE TABLE sale (id int PRIMARY KEY, shop int REFERENCES shop, item text)")
    sql("SELECT poser_track('shop'), poser_track('sale')")
    sql("INSERT INTO shop VALUES (1, 'Corner')")
    sql("INSERT INTO sale VALUES (1, 1, 'Tea'), (2, NULL, 'Milk')")
    sql("UPDATE sale SET shop = NULL WHERE id = 1")
    sql("GRANT SELECT ON shop, shop_version, sale, sale_version TO web_alice")
    alice.open("/tables/shop/1/history/")
    same(len(changes(alice)), 1)
    alice.follow("With sale")
    same([what.split(" by ")[0] for what, cells in changes(alice)], ["update of sale 1", "insert of sale 1", "insert"])
    sql("REVOKE SELECT ON sale_version FROM web_alice")
    alice.open("/tables/shop/1/history/?with=sale")
    same(len(changes(alice)), 1)


@test
def deleted_rows_are_found_and_come_back(alice, bob):
    sql("""CREATE TABLE ledger (account int, line text, amount numeric, note text, big bytea, doc jsonb, tags text[], pin text,
               PRIMARY KEY (account, line))""")
    sql("SELECT poser_track('ledger', exclude => '{pin}')")
    sql(r"""INSERT INTO ledger VALUES (1, 'a/1', 1.10, '', '\x00ff', '{"k": 1.50}', '{x,NULL}', '1234'),
               (1, 'b', 2, 'Rent', NULL, NULL, NULL, NULL), (2, 'c', 3, 'Light', NULL, NULL, NULL, NULL)""")
    sql("DELETE FROM ledger WHERE account = 1")
    sql("GRANT SELECT, INSERT, UPDATE, DELETE ON ledger TO web_alice")
    sql("GRANT SELECT ON ledger_version TO web_alice")
    alice.open(LEDGER)
    alice.follow("Deleted rows")
    cells = {cells[1]: cells[:7] for cells in alice.rows("#deleted tbody tr")}
    same(cells, {
        "a/1": ["1", "a/1", "1.10", "empty", r"\x00ff", '{"k": 1.50}', '["x", null]'],
        "b": ["1", "b", "2", "Rent", "NULL", "NULL", "NULL"],
    })
    alice.fill(q="RENT")
    alice.click('[value="Search"]')
    same(len(alice.all("#deleted tbody tr")), 1)
    alice.fill(q="a/")
    alice.click('[value="Search"]')
    alice.click('[value="Undelete…"]')
    assert 'ledger [1, "a/1"] will be inserted' in alice.text()
    # Another row with this key is inserted first.
    sql("INSERT INTO ledger VALUES (1, 'a/1', 9)")
    alice.click('[name="_revert"]')
    assert "changed meanwhile" in alice.text()
    same(sql("SELECT amount, note FROM ledger WHERE line = 'a/1'"), [(9, None)])
    sql("DELETE FROM ledger WHERE line = 'a/1'")
    alice.open(LEDGER + "deleted/?q=rent")
    alice.click('[value="Undelete…"]')
    alice.fill(why="was needed")
    alice.click('[name="_revert"]')
    same(sql("SELECT operation, comment, new ->> 'note' FROM poser_history('ledger', '{\"line\": \"b\"}', 1)"),
         [("insert", "was needed", "Rent")])
    alice.open(LEDGER + "deleted/?q=rent")
    same(len(alice.all("#deleted")), 0)


@test
def rows_with_any_key_have_an_address_and_come_back(alice):
    keys = {
        "text": ["''", "'.'", "'..'", "'_2E'", "'a/../b'"],
        "text[]": ["'{}'", "'{NULL,\"a,b\"}'"],
        "jsonb": ["'{\"k\": 1.50}'"],
        "boolean": ["true"],
    }
    for number, (kind, values) in enumerate(keys.items()):
        table = f"motto{number}"
        sql(f"CREATE TABLE {table} (word {kind} PRIMARY KEY, meaning int DEFAULT 1)")
        sql(f"SELECT poser_track('{table}'); GRANT ALL ON {table} TO web_alice; GRANT SELECT ON {table}_version TO web_alice")
        sql(f"INSERT INTO {table} VALUES ({'), ('.join(values)})")
        before = sql(f"SELECT word::text FROM {table} ORDER BY word")
        for place in range(len(values)):
            alice.open(f"/tables/{table}/")
            alice.click(alice.all("#result_list tbody th a")[place])
            alice.fill(meaning="2")
            alice.save()
        same(sql(f"SELECT DISTINCT meaning FROM {table}"), [(2,)])
        alice.open(f"/tables/{table}/?as_of=now")
        same(len(alice.all("#result_list tbody tr")), len(values))
        for _ in values:
            alice.open(f"/tables/{table}/")
            alice.click("#result_list tbody th a")
            alice.follow("Delete")
            alice.click('[value="Delete"]')
        same(sql(f"SELECT * FROM {table}"), [])
        for _ in values:
            alice.open(f"/tables/{table}/deleted/")
            alice.click('[value="Undelete…"]')
            alice.click('[name="_revert"]')
        same(sql(f"SELECT word::text FROM {table} ORDER BY word"), before)


@test
def a_key_may_have_a_boolean_and_a_time(alice, bob):
    sql("CREATE TABLE shift (night boolean, begins timestamp, guard text, PRIMARY KEY (night, begins))")
    sql("SELECT poser_track('shift')")
    sql("INSERT INTO shift VALUES (true, '2026-01-02 03:04', 'Ann')")
    sql("UPDATE shift SET guard = 'Ben'")
    sql("GRANT SELECT, UPDATE ON shift TO web_alice; GRANT SELECT ON shift_version TO web_alice")
    alice.open("/tables/shift/")
    alice.click("#result_list tbody th a")
    alice.click(".historylink")
    alice.click(alice.all('[value="Revert to this…"]')[-1])
    same([cells for what, cells in changes(alice)], [[["guard", "Ben", "Ann"]]])
    alice.open("/tables/shift/?as_of=now")
    alice.click("#result_list tbody th a")
    assert "The row as it was" in alice.text()


@test
def a_revert_that_a_constraint_refuses_says_so(alice, bob):
    sql("CREATE UNIQUE INDEX ledger_note ON ledger (note) WHERE note <> ''")
    (number,), = sql("SELECT min(transaction_id) FROM poser_history('ledger', '{\"line\": \"b\"}')")
    try:
        sql("UPDATE ledger SET note = NULL WHERE line = 'b'")
        sql("UPDATE ledger SET note = 'Rent' WHERE line = 'c'")
        alice.open(LEDGER + "_5B1_2C%20_22b_22_5D/history/")
        alice.click(alice.all('[value="Revert to this…"]')[-1])
        assert "violates unique constraint" in alice.text(".errornote")
        same(len(alice.all('[name="_revert"]')), 0)
    finally:
        sql("DROP INDEX ledger_note")


@test
def the_grid_is_as_of_a_time(alice, bob):
    sql("CREATE TABLE yard (id int PRIMARY KEY, tree text NOT NULL, height int)")
    sql("SELECT poser_track('yard')")
    sql("INSERT INTO yard VALUES (1, 'Oak', 1), (2, 'Elm', 2)")
    sql("UPDATE yard SET height = 10 WHERE id = 1")
    sql("DELETE FROM yard WHERE id = 2")
    first, second = (at for at, in sql("SELECT DISTINCT issued_at::text FROM poser_history('yard') WHERE operation <> 'delete' ORDER BY 1"))
    sql("GRANT SELECT, INSERT, UPDATE, DELETE ON yard TO web_alice, web_bob")
    sql("GRANT SELECT ON yard_version TO web_alice")
    alice.open("/tables/yard/")
    same(values(alice, "tree"), ["Oak"])
    alice.fill(as_of=first)
    alice.click(".poser-as-of [type=submit]")
    same((values(alice, "tree"), values(alice, "height")), (["Oak", "Elm"], ["1", "2"]))
    assert "These are not the present rows" in alice.text() and "time zone UTC" in alice.text()
    same(len(alice.all('.object-tools .addlink, [name="action"]')), 0)
    alice.fill(q="elm")
    alice.click("#changelist-search [type=submit]")
    same(values(alice, "tree"), ["Elm"])
    alice.open(f"/tables/yard/?o=-2&as_of={second.replace('+', '%2B')}")
    same((values(alice, "tree"), values(alice, "height")), (["Oak", "Elm"], ["10", "2"]))
    alice.follow("2")
    assert "The row as it was" in alice.text()
    same(alice.rows("[aria-labelledby=then] tbody tr"), [["id", "2"], ["tree", "Elm"], ["height", "2"]])
    same([what.split(" by ")[0] for what, cells in changes(alice)], ["insert"])
    for at, says in (
        ("yesterdy", "Invalid input syntax for type timestamp"),
        ("1999-01-01", "The history of this table begins later, at 2"),
        ("1999-13-01", "out of range"),
    ):
        alice.open(f"/tables/yard/?as_of={at}")
        assert says in alice.text(".poser-as-of"), alice.text()
        same(values(alice, "tree"), [])
    bob.open("/tables/yard/")
    same(len(bob.all('[name="as_of"]')), 0)
    bob.open(f"/tables/yard/?as_of={first.replace('+', '%2B')}")
    same(values(bob, "tree"), [])
    assert "Permission denied" in bob.text()


@test
def the_grid_as_of_a_time_has_pages_in_any_order(alice, bob):
    sql("CREATE TABLE forest (area int, n int, tree text COLLATE \"C\", height int, felled boolean, PRIMARY KEY (area, n))")
    sql("SELECT poser_track('forest')")
    sql("INSERT INTO forest SELECT g / 100, g % 100, 'tree ' || g % 7, nullif(g % 13, 5), g % 3 = 0 FROM generate_series(1, 180) AS g")
    for n in range(120):  # the first versions in the grid's order are those of few rows, which have other values later
        sql("UPDATE forest SET felled = NOT felled, tree = 'tree ' || (n + %s) %% 7 WHERE n < 20", n)
    sql("DELETE FROM forest WHERE n % 10 = 4")
    sql("SELECT pg_sleep(0.01)")
    (at,) = sql("SELECT clock_timestamp()::text")[0]
    sql("SELECT pg_sleep(0.01)")
    sql("UPDATE forest SET tree = 'z ' || tree, height = 100 - height")
    sql("INSERT INTO forest SELECT 0, -g, 'tree 0', 0, true FROM generate_series(1, 70) AS g")
    sql("GRANT SELECT ON forest, forest_version TO web_alice")
    for number, order, condition, search in (
        ("", "area, n", "true", ""),
        ("-0.-1", "area DESC, n DESC", "felled", "felled__exact=True"),
        ("2", "tree, area, n", "true", ""),
        ("-3.2", "height DESC, tree, area, n", "NOT felled", "felled__exact=False"),
        ("-2", "tree DESC, area, n", "tree ~ '5' OR n::text ~ '5'", "q=5"),
    ):
        expected = sql(f"SELECT area::text AS a, n::text AS b FROM poser_as_of(NULL::forest, %s) WHERE {condition} ORDER BY {order}", at)
        assert len(expected) > 20
        alice.open(f"/tables/forest/?as_of={at.replace('+', '%2B')}&o={number}&{search}")
        shown = list(zip(values(alice, "area"), values(alice, "n")))
        while "Next" in alice.texts("nav.paginator a"):
            alice.follow("Next")
            shown += zip(values(alice, "area"), values(alice, "n"))
        same(shown, expected)
    # The order stays when the time comes and goes, although the present grid has a column of actions, which has a number, too.
    sql("GRANT DELETE ON forest TO web_alice")
    for steps in ("", at), (at, ""):
        alice.open("/tables/forest/?o=-2" if steps[0] == "" else f"/tables/forest/?o=-1&as_of={at.replace('+', '%2B')}")
        if steps[1]:
            alice.fill(as_of=at)
            alice.click(".poser-as-of [type=submit]")
        else:
            alice.follow("Show the present rows")
        rows = [int(n) for n in values(alice, "n")]
        same(rows, sorted(rows, reverse=True))
        same((rows[0], rows[-1] < 90), (99, True))


@test
def what_a_role_may_not_see_it_does_not_see_in_the_past(alice, bob):
    sql("CREATE TABLE payroll (id int PRIMARY KEY, owner text, pay int, note text)")
    sql("SELECT poser_track('payroll')")
    sql("INSERT INTO payroll VALUES (1, 'web_alice', 1111, 'n1'), (2, 'web_bob', 2222, 'n2'), (3, 'web_bob', 3333, 'n3')")
    sql("UPDATE payroll SET pay = pay + 1")
    sql("UPDATE payroll SET note = note || '!', pay = pay + 1")
    sql("DELETE FROM payroll WHERE id = 3")
    sql("GRANT SELECT (id, owner, note) ON payroll TO web_alice")
    sql("GRANT SELECT ON payroll TO web_bob")
    sql("GRANT SELECT ON payroll_version TO web_alice, web_bob")
    pages = ["/tables/payroll/1/history/", "/tables/payroll/3/history/", "/tables/payroll/deleted/", "/tables/payroll/?as_of=now",
             "/tables/payroll/1/history/?as_of=now", "/tables/payroll/deleted/?q=333"]
    for page in pages:
        alice.open(page)
        same(re.findall(r"\b(?:111[123]|333[345])\b", alice.text()), [])
    # A column is renamed, and another one gets its name.
    sql("ALTER TABLE payroll RENAME note TO remark")
    sql("ALTER TABLE payroll RENAME pay TO note")
    for page in pages:
        alice.open(page)
        same(re.findall(r"\b(?:111[123]|333[345])\b", alice.text()), [])
    alice.open(pages[0])
    same([(what.split(" by ")[0], cells) for what, cells in changes(alice)],
         [("update", [["remark", "n1", "n1!"]]), ("insert", [["id", "1"], ["owner", "web_alice"], ["remark", "n1"]])])
    # Row-level security in the table, and then also in its history.
    sql("GRANT SELECT ON payroll TO web_alice")
    sql("ALTER TABLE payroll ENABLE ROW LEVEL SECURITY")
    sql("CREATE POLICY own ON payroll USING (owner = current_user)")
    for page in ["/tables/payroll/2/history/", "/tables/payroll/3/history/", "/tables/payroll/deleted/", "/tables/payroll/?as_of=now"]:
        alice.open(page)
        # As whole words, since a time can have these digits, too.
        same(re.findall(r"web_bob|\b(?:222|333)\d\b", alice.text()), [])
    alice.open(pages[0])
    same([cells for what, cells in changes(alice)], [[["id", "1"], ["owner", "web_alice"], ["note", "1113"], ["remark", "n1!"]]])
    same(len(alice.all('[value="Revert to this…"]')), 0)
    sql("SELECT poser_track('payroll')")
    sql("CREATE POLICY own ON payroll_version FOR SELECT USING (owner = current_user)")
    alice.open(pages[0])
    same(len(changes(alice)), 3)
    alice.open("/tables/payroll/deleted/")
    same(len(alice.all("#deleted")), 0)
    bob.open("/tables/payroll/deleted/")
    same(len(bob.all("#deleted tbody tr")), 1)


@test
def a_long_history_is_read_page_by_page(alice, bob):
    sql("CREATE TABLE clock (id int PRIMARY KEY, n int)")
    sql("SELECT poser_track('clock')")
    sql("GRANT SELECT, UPDATE ON clock TO web_alice")
    sql("GRANT SELECT ON clock_version TO web_alice")
    sql("INSERT INTO clock VALUES (1, 0)")
    sql("DO $$BEGIN FOR i IN 1..120 LOOP UPDATE clock SET n = i; END LOOP; END$$")
    alice.open("/tables/clock/1/history/")
    numbers = []
    for page in range(3):
        numbers += [cells[-1][-1] for what, cells in changes(alice)]
        if page < 2:
            alice.follow("Older changes")
    same(numbers, [str(n) for n in range(120, -1, -1)])
    assert "Older changes" not in alice.texts("a")
