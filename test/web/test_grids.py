"""Grids: sorting, pages, search, filters, and no rows or columns that the role may not see."""
from urllib.parse import quote

from harness import same, sql, test


def column(browser, name):
    return browser.texts(f"#result_list .field-{name}")


def problems(browser):
    return browser.texts(".messagelist .error")


@test
def the_grid_shows_the_rows(alice, bob):
    alice.open("/tables/poser_widget/")
    same(column(alice, "description"), ["Desk lamp", "Chair"])


@test
def a_grid_for_the_tests_that_follow(alice, bob):
    sql("CREATE TYPE grid_mood AS ENUM ('sad', 'ok', 'happy')")
    sql("CREATE TABLE grid_kind (id int PRIMARY KEY, name text)")
    sql("INSERT INTO grid_kind VALUES (1, 'Lamps'), (2, 'Chairs'), (3, 'Hidden kind')")
    sql("ALTER TABLE grid_kind ENABLE ROW LEVEL SECURITY")
    sql("CREATE POLICY visible ON grid_kind USING (id < 3)")
    sql(
        "CREATE TABLE grid_item (id int PRIMARY KEY, name text, rank int, sold bool, born date, at timestamptz, mood grid_mood,"
        " kind int REFERENCES grid_kind, secret text, note text, extra json)"
    )
    sql(
        "INSERT INTO grid_item SELECT i, CASE WHEN i % 3 > 0 THEN 'item ' || i WHEN i % 2 > 0 THEN '' END,"
        " CASE WHEN i % 4 > 0 THEN i % 7 END,"
        " CASE WHEN i % 5 > 0 THEN i % 2 = 0 END, CASE WHEN i % 6 > 0 THEN date '2020-01-01' + i END,"
        " timestamptz '2020-01-01 12:00' + i * interval '1 day',"
        " (ARRAY['sad', 'ok', 'happy'])[1 + i % 3]::grid_mood, 1 + i % 3, 'secret ' || i, 'note ' || i FROM generate_series(1, 1205) i"
    )
    sql("UPDATE grid_item SET born = 'infinity', note = repeat('x', 1000000) || 'end' WHERE id = 1")
    sql("SELECT poser_track('grid_kind'), poser_track('grid_item')")
    sql("GRANT SELECT, UPDATE ON grid_kind, grid_item TO web_alice")
    sql("GRANT SELECT ON grid_kind TO web_bob")
    sql("GRANT SELECT (id, name, rank, kind) ON grid_item TO web_bob")
    sql("ANALYZE grid_item")
    alice.open("/tables/grid_item/")
    same(len(column(alice, "id")), 50)
    assert "1,205 rows" in alice.text()


def walk(browser, address, forward, name="id"):
    """The values of a column on all pages, which are reached by the links to the next or previous page."""
    values, link = [], "Next" if forward else "Previous"
    browser.open(address)
    while True:
        page = column(browser, name)
        values = values + page if forward else page + values
        if link not in browser.texts("nav.paginator a"):
            return values
        browser.follow(link)


@test
def pages_go_through_all_rows_in_the_order_of_several_columns_with_nulls(alice, bob):
    for parameters, order in (
        ("?id__lte=160&o=3.-2", "rank, name DESC, id"),
        ("?id__lte=160&o=-3.-1", "rank DESC, id DESC"),
    ):
        expected = [str(key) for (key,) in sql(f"SELECT id FROM grid_item WHERE id <= 160 ORDER BY {order}")]
        same(walk(alice, f"/tables/grid_item/{parameters}", True), expected)
        backward = walk(alice, f"/tables/grid_item/{parameters}&_before=[]", False)
        same(backward[-150:], expected[-150:])


@test
def a_page_stays_where_it_is_when_rows_before_it_come_and_go(alice, bob):
    alice.open("/tables/grid_item/?p=10")
    sql("DELETE FROM grid_item WHERE id <= 20")
    try:
        alice.follow("Next")
        same(column(alice, "id")[0], "501")
    finally:
        sql("INSERT INTO grid_item SELECT i, 'item ' || i FROM generate_series(1, 20) i")
        sql("UPDATE grid_item SET born = 'infinity', note = repeat('x', 1000000) || 'end' WHERE id = 1")


@test
def a_search_finds_letters_of_either_case_and_quotes_make_one_word(alice, bob):
    sql("UPDATE grid_item SET note = 'Grüner Tee, 100%_\\' WHERE id = 30")
    tea = ["30"]
    for words, found in (("TEE grün", tea), ("GRÜN", tea), ('"grüner tee"', tea), ('"tee grün"', []), ("100%_\\", tea), ("1_0%", [])):
        alice.open(f"/tables/grid_item/?q={quote(words)}")
        same((words, column(alice, "id")), (words, found))
    alice.open("/tables/grid_item/")
    alice.fill(q="item 1204")
    alice.click('#changelist-search [type="submit"]')
    same(column(alice, "id"), ["1204"])
    # More columns than a function may have arguments.
    sql(f"CREATE TABLE grid_wide (id int PRIMARY KEY, {', '.join(f'c{n} text' for n in range(120))})")
    sql("SELECT poser_track('grid_wide')")
    sql("GRANT SELECT ON grid_wide TO web_alice")
    sql("INSERT INTO grid_wide (id, c119) VALUES (1, 'here'), (2, 'there')")
    alice.open("/tables/grid_wide/?q=there")
    same(column(alice, "id"), ["2"])


@test
def filters_of_dates_enums_and_booleans(alice, bob):
    alice.open("/tables/grid_item/")
    alice.fill(born__gte="2020-02-01", born__lte="2020-02-03")
    alice.click('[value="Filter by born"]')
    same(column(alice, "born"), ["2020-02-01", "2020-02-02", "2020-02-03"])
    alice.open("/tables/grid_item/?at__gte=2020-02-01&at__lte=2020-02-03")
    same(len(column(alice, "id")), 3)  # until the end of the day
    alice.open("/tables/grid_item/?born__gte=infinity")
    same(column(alice, "id"), ["1"])
    alice.open("/tables/grid_item/")
    alice.follow("happy")
    same(set(column(alice, "mood")), {"happy"})
    alice.open("/tables/grid_item/?mood__isnull=True")
    same(len(column(alice, "id")), 20)
    same(set(column(alice, "mood")), {"NULL"})
    alice.open("/tables/grid_item/?name__exact=")
    same(set(column(alice, "name")), {""})


@test
def a_filter_of_an_address_is_shown_and_can_be_taken_away(alice, bob):
    alice.open("/tables/grid_item/?rank__gte=6")
    same(set(column(alice, "rank")), {"6"})
    same([text for text in alice.texts("#changelist-filter .selected") if "6" in text], ["≥ 6"])
    alice.click('#changelist-filter a[href="?"]')
    assert "1,205 rows" in alice.text()


@test
def labels_and_filters_of_references_show_only_rows_that_the_role_may_read(alice, bob):
    alice.open("/tables/grid_item/?_columns=all&o=1&id__gte=21&id__lte=23")
    same(column(alice, "kind"), ["1 Lamps", "2 Chairs", "3"])
    assert "Hidden kind" not in alice.driver.page_source
    alice.open("/tables/grid_item/?_columns=all")
    same([text for text in alice.texts("#changelist-filter a") if text[:1] in "123"], ["1 Lamps", "2 Chairs"])
    sql("REVOKE SELECT ON grid_kind FROM web_bob")
    try:
        bob.open("/tables/grid_item/?id__gte=21&id__lte=23")
        same(column(bob, "kind"), ["1", "2", "3"])
        assert "Lamps" not in bob.driver.page_source
    finally:
        sql("GRANT SELECT ON grid_kind TO web_bob")


@test
def a_hidden_column_is_not_there_and_an_address_does_not_reach_it(alice, bob):
    bob.open("/tables/grid_item/?_columns=all")
    assert "secret" not in bob.find("#content").get_attribute("innerHTML").lower()
    bob.open("/tables/grid_item/?q=" + quote("secret 7"))
    same(column(bob, "id"), [])
    # A hidden column and a missing one give the same message.
    for name in ("secret__startswith", "secret", "secret__isnull", "nosuch", "kind__name", "kind__name__regex", "pk__in"):
        bob.open(f"/tables/grid_item/?{name}=True")
        same(problems(bob), [f"There is no filter {name}."])
    bob.open("/tables/grid_item/?o=9")
    same(problems(bob), ["There is no column 9 to sort by."])


@test
def a_wrong_address_is_answered_in_words(alice, bob):
    for parameters, words in (
        ("p=abc", "Pages have the numbers"),
        ("p=999", "There is no page 999"),
        ("born=nonsense", 'Invalid input syntax for type date: "nonsense"'),
        ("born__gte=2020-13-45", "out of range"),
        ("rank=1.5x", "expected a number"),
        ("sold=perhaps", "must be either True"),
        ("sold__isnull=perhaps", "neither True nor False"),
        ("mood=angry", "angry"),
        ("id__nosuch=1", "There is no filter id__nosuch"),
        ("extra=1", "There is no filter extra"),  # json has no order
        ("_after=[1,2]", "is not understood"),
        ("_after=x", "is not understood"),
        ("_before=[%22x%22,1]", "is not understood"),
    ):
        alice.open(f"/tables/grid_item/?{parameters}")
        assert any(words in problem for problem in problems(alice)), (parameters, problems(alice))


@test
def long_values_are_cut_and_never_leave_the_database(alice, bob):
    alice.open("/tables/grid_item/?_columns=all&id=1")
    same(column(alice, "note"), ["x" * 100 + "…"])
    assert len(alice.driver.page_source) < 100000
    alice.follow("Fewer columns")
    same(column(alice, "note"), [])


@test
def widgets_are_sorted_by_the_counts_of_the_summary(alice, bob):
    sql("INSERT INTO poser_widget (uuid, description) SELECT 'grid' || i, 'Grid widget' FROM generate_series(1, 60) i")
    sql(
        "INSERT INTO poser_component (uuid, widget_uuid, item_code, description, active)"
        " SELECT 'grid' || w || '/' || i, 'grid' || w, 'x', 'x', i % 2 = 0 FROM generate_series(1, 60) w, generate_series(1, w % 4) i"
    )
    try:
        expected = [
            tuple(map(str, row))
            for row in sql(
                "SELECT uuid, component_count, active_component_count FROM poser_widget_summary WHERE description = 'Grid widget'"
                " ORDER BY component_count DESC, active_component_count, uuid"
            )
        ]
        alice.open("/tables/poser_widget/?description=Grid%20widget&o=-4.5")
        names = ("uuid", "component_count", "active_component_count")
        found = list(zip(*(column(alice, name) for name in names)))
        alice.follow("Next")
        same(found + list(zip(*(column(alice, name) for name in names))), expected)
    finally:
        sql("DELETE FROM poser_component WHERE widget_uuid LIKE 'grid%'")
        sql("DELETE FROM poser_widget WHERE uuid LIKE 'grid%'")


@test
def a_maintained_view_is_a_grid_also_where_its_rows_are_equal(alice, bob):
    sql("CREATE TABLE grid_box (id int PRIMARY KEY, name text)")
    sql("CREATE TABLE grid_thing (id int PRIMARY KEY, box int REFERENCES grid_box)")
    sql("INSERT INTO grid_box SELECT i, CASE WHEN i % 4 > 0 THEN 'box' END FROM generate_series(1, 130) i")
    sql("INSERT INTO grid_thing SELECT i, i FROM generate_series(1, 130, 7) i")
    sql(
        "CREATE VIEW grid_count AS"
        " SELECT b.name, count(t.id) AS things FROM grid_box b LEFT JOIN grid_thing t ON t.box = b.id GROUP BY b.id"
    )
    sql("SELECT poser_maintain('grid_count')")
    sql("GRANT SELECT ON grid_count, grid_box, grid_thing TO web_alice")
    expected = [tuple(map(str, row)) for row in sql("SELECT coalesce(name, 'NULL'), things FROM grid_count ORDER BY things DESC, 1")]
    found = []
    alice.open("/tables/grid_count/?o=-1")
    for last in (False, False, True):
        found += zip(column(alice, "name"), column(alice, "things"))
        if not last:
            alice.follow("Next")
    same(sorted(found), sorted(expected))


@test
def names_that_try_to_break_out(alice, bob):
    sql("""CREATE TABLE "Grid""a b%s'" ("pg_sleep(10)" int PRIMARY KEY, "%s" text, form text, q text, p int, "Cell_1" text, _after text)""")
    sql("""INSERT INTO "Grid""a b%s'" VALUES (1, '100%', 'f', 'q', 7, 'c', '1'), (2, NULL, '', NULL, NULL, NULL, NULL)""")
    sql("""SELECT poser_track('"Grid""a b%s''"')""")
    sql("""GRANT ALL ON "Grid""a b%s'" TO web_alice""")
    one = ("?q=100%25", "?p__exact=7", "?q__exact=q", "?column_2__isnull=True", "?column_2=100%25")
    for parameters, count in (("", 2), ("?o=2.-1", 2), *((parameters, 1) for parameters in one)):
        alice.open(f"/tables/grid_a_b_s_/{parameters}")
        same((parameters, len(column(alice, "column_1")), problems(alice)), (parameters, count, []))
