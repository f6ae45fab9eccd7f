"""Tables that are tracked, altered and dropped while the web server runs, and privileges."""
from harness import same, sql, test


@test
def a_table_that_is_tracked_now_appears(alice, bob):
    sql("CREATE TABLE shelf (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE, depth int CHECK (depth > 0))")
    sql("SELECT poser_track('shelf')")
    sql("GRANT ALL ON shelf TO web_alice")
    alice.open("/")
    alice.follow("shelf")
    alice.open("/tables/shelf/add/")
    alice.fill(name="Oak", depth="-3")
    alice.save()
    assert "violates check constraint" in alice.text(".field-depth")
    alice.fill(depth="30", why="new")
    alice.save()
    same(sql("SELECT id, name, depth FROM shelf"), [(2, "Oak", 30)])
    bob.open("/")
    assert "shelf" not in bob.text()
    bob.open("/tables/shelf/")
    assert "You may not" in bob.text()


@test
def a_table_that_is_altered_now_shows_it(alice):
    sql("ALTER TABLE shelf ADD place varchar(12) DEFAULT 'cellar', ADD CONSTRAINT shelf_place CHECK (place <> 'street')")
    sql("COMMENT ON COLUMN shelf.place IS 'Where it stands'")
    sql("ALTER TABLE shelf RENAME depth TO centimetres")
    alice.open("/tables/shelf/2/change/")
    same(alice.find("[name=centimetres]").get_attribute("value"), "30")
    assert "Where it stands" in alice.text(".field-place")
    alice.fill(place="street", why="moved")
    alice.save()
    assert "violates check constraint" in alice.text(".field-place")
    same(alice.find("[name=place]").get_attribute("maxlength"), "12")
    alice.fill(place="attic")
    alice.save()
    same(sql("SELECT place, centimetres FROM shelf"), [("attic", 30)])


@test
def a_maintained_view_is_a_grid_that_cannot_be_changed(alice):
    sql("CREATE TABLE book (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, shelf_id bigint REFERENCES shelf, title text, pages int)")
    sql("CREATE VIEW shelf_books AS SELECT s.id, s.name, count(b.id) AS books, sum(b.pages) AS pages"
        " FROM shelf s LEFT JOIN book b ON b.shelf_id = s.id GROUP BY s.id")
    sql("SELECT poser_maintain('shelf_books')")
    sql("GRANT SELECT ON shelf_books TO web_alice")
    sql("INSERT INTO book (shelf_id, title, pages) VALUES (2, 'Trees', 120), (2, 'Birds', 80)")
    alice.open("/")
    alice.click("#content a[href$='/tables/shelf_books/']")
    same(alice.texts("#result_list tbody tr:first-child :is(td, th)")[-3:], ["Oak", "2", "200"])
    same(alice.all(".addlink[href*=shelf_books], .action-select, #result_list tbody a[href*=change]"), [])


@test
def a_table_that_is_dropped_is_gone_at_the_next_click(alice):
    sql("DROP TABLE book, shelf CASCADE")
    alice.open("/")
    assert "Shelf" not in alice.text()
    alice.open("/tables/shelf/")
    assert "There is no such page" in alice.text()


@test
def a_table_with_a_key_of_two_columns_and_hostile_names(alice):
    """Names with characters that mean something in SQL, HTML, format strings and addresses."""
    sql("""CREATE TABLE "T""a b%%s'<i>" ("pg_sleep(10)" bigint, "x""; --%%(y)s" text, "<b>&amp;" text, PRIMARY KEY ("pg_sleep(10)", "x""; --%%(y)s"))""", 0)
    table = """"T""a b%s'<i>\""""
    try:
        sql(f"SELECT poser_track('{table.replace(chr(39), chr(39) * 2)}')")
        sql(f"GRANT ALL ON {table} TO web_alice")
        alice.open("/")
        alice.click("#content a[href$='/tables/t_a_b_s__i_/']")
        alice.click("#content .addlink")
        alice.find(".form-row:nth-of-type(1) :is(input, textarea)").send_keys("7")
        alice.find(".form-row:nth-of-type(2) :is(input, textarea)").send_keys("a/b?c#d%20\"e'<u>")
        alice.find(".form-row:nth-of-type(3) :is(input, textarea)").send_keys("<script>alert(1)</script>")
        alice.fill(why="new")
        alice.save()
        same(sql(f"SELECT * FROM {table}"), [(7, "a/b?c#d%20\"e'<u>", "<script>alert(1)</script>")])
        alice.click("#result_list tbody a")
        alice.find(".form-row:nth-of-type(3) :is(input, textarea)").clear()
        alice.save()
        same(sql(f"SELECT * FROM {table}"), [(7, "a/b?c#d%20\"e'<u>", None)])
        alice.click("#result_list tbody a")
        alice.click(".deletelink")
        alice.click("#content form [type=submit]")
        same(sql(f"SELECT * FROM {table}"), [])
    finally:
        sql(f"DROP TABLE {table}")


@test
def a_revoke_works_at_the_next_click(bob):
    sql("REVOKE INSERT, UPDATE, DELETE ON poser_widget FROM web_bob")
    try:
        bob.open("/tables/poser_widget/lamp1/change/")
        same(len(bob.all('[name="_save"], .deletelink')), 0)
        assert "lamp1" in bob.text()
    finally:
        sql("GRANT INSERT, UPDATE, DELETE ON poser_widget TO web_bob")


@test
def columns_with_names_that_django_or_the_pages_use(alice):
    names = ["id", "pk", "objects", "relation", "save", "delete", "why", "seen", "action", "class", "self", "a__b", "_x", "x_", "Größe", "ab", "AB",
             "get_it", "column_3", "index", "key_columns", "csrfmiddlewaretoken", "full_clean", "DoesNotExist", "_meta", "7", " ", "q", "o", "p", "as_of"]
    columns = ", ".join(f'"{name}" text' for name in names[1:])
    sql(f"CREATE TABLE odd_names (id int PRIMARY KEY, {columns})")
    try:
        sql("SELECT poser_track('odd_names')")
        sql("GRANT ALL ON odd_names TO web_alice")
        alice.open("/tables/odd_names/add/")
        labels = [label.rstrip(":").strip().lower() for label in alice.texts(".form-row label")]
        same(labels[: len(names)], [name.strip().lower() for name in names])
        fields = alice.all(".form-row :is(input:not([type=hidden]), textarea)")
        for number in range(len(names)):
            fields[number].send_keys(str(number))
        alice.fill(why="odd")
        alice.save()
        same(sql("SELECT * FROM odd_names"), [(0, *map(str, range(1, len(names))))])
        alice.open("/tables/odd_names/?_columns=all&q=7")
        same(alice.rows("#result_list tbody tr")[0][-len(names) :], [*map(str, range(len(names)))])
        alice.open("/tables/odd_names/0/change/")
        alice.all(".form-row :is(input:not([type=hidden]), textarea)")[1].send_keys("!")
        alice.save()
        same(sql("SELECT pk, objects, relation FROM odd_names"), [("1", "2!", "3")])
    finally:
        sql("DROP TABLE odd_names")


@test
def tables_with_reserved_names_and_with_equal_names(alice):
    tables = ['"select"', '"user"', '"A-b"', '"a.b"', "odd.poser_widget", "public.poser_widget_", "odd.session"]
    sql("CREATE SCHEMA odd; GRANT USAGE ON SCHEMA odd TO web_alice")
    try:
        for number, table in enumerate(tables):
            sql(f"CREATE TABLE {table} (id int PRIMARY KEY, name text); INSERT INTO {table} VALUES ({number}, 'in {number}')")
            sql("SELECT poser_track(%s)", table)
            sql(f"GRANT ALL ON {table} TO web_alice")
        alice.open("/")
        links = [table.replace('"', "").removeprefix("public.") for table in tables]
        same([alice.texts("#content th a").count(link) for link in links], [1] * len(links))
        for number, link in enumerate(links):
            alice.open("/")
            alice.click(alice.driver.find_element("xpath", f"//th/a[normalize-space() = '{link}']"))
            same((link, alice.texts("#result_list .field-name")), (link, [f"in {number}"]))
    finally:
        for table in tables:
            sql(f"DROP TABLE IF EXISTS {table}")
        sql("DROP SCHEMA odd CASCADE")


@test
def references_to_the_own_table_and_in_a_circle(alice):
    sql("CREATE TABLE staff (id int PRIMARY KEY, name text, boss int REFERENCES staff, team int)")
    sql("CREATE TABLE team (id int PRIMARY KEY, lead int REFERENCES staff)")
    sql("ALTER TABLE staff ADD FOREIGN KEY (team) REFERENCES team")
    # Keys that refer to one another, and one that refers to itself
    sql("CREATE TABLE ring_a (id int PRIMARY KEY, self_ int UNIQUE REFERENCES ring_a)")
    sql("CREATE TABLE ring_b (id int PRIMARY KEY REFERENCES ring_a)")
    sql("ALTER TABLE ring_a ADD FOREIGN KEY (id) REFERENCES ring_b DEFERRABLE INITIALLY DEFERRED")
    try:
        for table in ("staff", "team", "ring_a", "ring_b"):
            sql(f"SELECT poser_track('{table}'); GRANT ALL ON {table} TO web_alice")
        sql("INSERT INTO staff VALUES (1, 'Ann', 1), (2, 'Ben', 1)")
        sql("BEGIN; INSERT INTO ring_a VALUES (1, 1); INSERT INTO ring_b VALUES (1); COMMIT")
        alice.open("/tables/staff/?o=3.-1")
        same(alice.texts(".field-boss"), ["1 Ann", "1 Ann"])
        alice.open("/tables/staff/2/change/")
        alice.find('[name="boss"] [value="2"]').click()
        alice.fill(why="moved")
        alice.save()
        same(sql("SELECT boss FROM staff WHERE id = 2"), [(2,)])
        for table in ("ring_a", "ring_b"):
            alice.open(f"/tables/{table}/?o=-1")
            same(alice.text(".field-id").split()[0], "1")
            alice.open(f"/tables/{table}/1/change/")
            same((alice.status(), alice.texts(".errornote")), (200, []))
    finally:
        sql("DROP TABLE ring_a, ring_b, staff, team CASCADE")


@test
def a_column_with_the_name_of_a_count_takes_its_place(alice):
    sql("ALTER TABLE poser_widget ADD component_count text DEFAULT 'of the owner'")
    try:
        alice.open("/tables/poser_widget/?o=4")
        same(set(alice.texts("#result_list .field-component_count")), {"of the owner"})
        same(len(alice.all("#result_list .field-active_component_count")), 0)
    finally:
        sql("ALTER TABLE poser_widget DROP component_count")
