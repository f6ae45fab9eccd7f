"""Forms: rows are added, changed and deleted, one by one, in line and in bulk; two users at once."""
from harness import DATABASE, connect, same, sql, test


def make(name, columns, *grants):
    """A tracked table that both users may change, unless other grants are given."""
    sql(f"CREATE TABLE {name} ({columns})")
    sql("SELECT poser_track(%s)", name)
    for grant in grants or (f"ALL ON {name}", f"SELECT ON {name}_version"):
        sql(f"GRANT {grant} TO web_alice, web_bob")


def line(browser, number, name):
    """The input of a line."""
    return browser.find(f'[name$="-{number}-{name}"][name^="lines-"]')


def say(browser, text):
    assert text in browser.text(), f"{text!r} is not on the page"


def put(element, text):
    element.clear()
    element.send_keys(text)


@test
def an_edit_is_in_the_history_with_name_and_reason(alice, bob):
    alice.open("/tables/poser_widget/")
    alice.follow("lamp1")
    alice.fill(description="Desk lamp, black", why="price list 2026-11")
    alice.save()
    say(alice, "Desk lamp, black")
    same(
        sql("SELECT username, role_name, comment, description FROM poser_widget_history('lamp1') LIMIT 1"),
        [("web_alice", "web_alice", "price list 2026-11", "Desk lamp, black")],
    )


@test
def the_second_editor_is_told_what_the_first_has_changed(alice, bob):
    sql("GRANT SELECT ON poser_widget_version, poser_transaction TO web_bob")
    try:
        for browser in (alice, bob):
            browser.open("/tables/poser_widget/lamp1/change/")
        alice.fill(description="Lamp of alice", why="her reason")
        alice.find('[name="active"]').click()
        alice.save()
        bob.fill(description="Lamp of bob")
        bob.save()
        said = bob.text(".field-description")
        assert "Meanwhile changed to: Lamp of alice, by web_alice at " in said and "(her reason)" in said, said
        assert "Meanwhile changed to: no" in bob.text(".field-active")
        same(sql("SELECT description FROM poser_widget WHERE uuid = 'lamp1'"), [("Lamp of alice",)])
        bob.save()
        # The column that only alice has changed keeps her value.
        same(sql("SELECT description, active FROM poser_widget WHERE uuid = 'lamp1'"), [("Lamp of bob", False)])
    finally:
        sql("REVOKE SELECT ON poser_widget_version, poser_transaction FROM web_bob")


@test
def a_row_that_is_gone_or_has_changed_is_not_deleted_unseen(alice, bob):
    sql("INSERT INTO poser_widget VALUES ('form1', 'one'), ('form2', 'two')")
    for path, change, told in (
        ("form1/delete/", "UPDATE poser_widget SET description = 'new' WHERE uuid = 'form1'", "The row form1 has changed meanwhile"),
        ("form2/change/", "DELETE FROM poser_widget WHERE uuid = 'form2'", "There is no row form2."),
    ):
        alice.open(f"/tables/poser_widget/{path}")
        sql(change)
        alice.click('#content form [type="submit"]')
        say(alice, told)
    alice.open("/tables/poser_widget/form1/delete/")
    say(alice, "new")
    alice.fill(why="no longer sold")
    alice.click('#content form [type="submit"]')
    same(sql("SELECT operation_type, comment FROM poser_widget_version JOIN poser_transaction t ON t.id = transaction_id"
             " WHERE uuid = 'form1' ORDER BY change_id DESC LIMIT 1"), [(2, "no longer sold")])


@test
def components_in_line_are_added_changed_and_deleted_with_their_widget(alice, bob):
    alice.open("/tables/poser_widget/add/")
    alice.fill(uuid="form3", description="Table", why="catalogue")
    put(line(alice, 0, "item_code"), "leg")
    put(line(alice, 0, "description"), "Leg")
    put(line(alice, 1, "item_code"), "top")
    put(line(alice, 1, "description"), "Top")
    alice.save()
    components = "SELECT item_code, description FROM poser_component WHERE widget_uuid = 'form3' ORDER BY item_code"
    same(sql(components), [("leg", "Leg"), ("top", "Top")])
    same(sql("SELECT count(*) FROM poser_transaction WHERE comment = 'catalogue'"), [(1,)])

    for browser in (alice, bob):
        browser.open("/tables/poser_widget/form3/change/")
    put(line(bob, 0, "description"), "Oak leg")
    bob.tick(line(bob, 1, "DELETE"))
    bob.save()
    same(sql(components), [("leg", "Oak leg")])
    alice.tick(line(alice, 0, "DELETE"))
    put(line(alice, 1, "description"), "Oak top")
    alice.save()
    say(alice, "Meanwhile changed to: Oak leg")
    say(alice, "Save ignores this line")
    same(sql(components), [("leg", "Oak leg")])

    # An error of the database is at its line.
    alice.open("/tables/poser_widget/form3/change/")
    sql("ALTER TABLE poser_component ADD CONSTRAINT form_code CHECK (item_code <> 'bad')")
    try:
        put(line(alice, 0, "item_code"), "bad")
        alice.save()
        assert "form_code" in alice.text("tr.row-form-errors, .field-item_code .errorlist")
        put(line(alice, 0, "item_code"), "good")
        alice.save()
        same(sql(components), [("good", "Oak leg")])
    finally:
        sql("ALTER TABLE poser_component DROP CONSTRAINT form_code")


@test
def more_than_200_components_are_a_link_to_the_grid(alice, bob):
    sql("INSERT INTO poser_widget VALUES ('form4', 'Many')")
    sql("INSERT INTO poser_component (widget_uuid, item_code, description) SELECT 'form4', i, 'of form4' FROM generate_series(1, 201) i")
    alice.open("/tables/poser_widget/form4/change/")
    same(len(alice.all("[name^=lines-]")), 0)
    alice.follow("All rows of poser_component that refer to this one")
    same(set(alice.texts("#result_list tbody tr td.field-description")), {"of form4"})


@test
def many_rows_are_changed_and_deleted_at_once_or_none(alice, bob):
    sql("INSERT INTO poser_widget VALUES ('form5', 'a'), ('form6', 'b'), ('form7', 'c')")
    rows = "SELECT description, active FROM poser_widget WHERE uuid IN ('form5', 'form6', 'form7') ORDER BY uuid"
    alice.open("/tables/poser_widget/")
    alice.act("Change the selected rows", "form5", "form6", "form7")
    sql("UPDATE poser_widget SET description = 'B' WHERE uuid = 'form6'")
    alice.find('[name="new-description"]').send_keys("Same")
    alice.tick('[name="set"][value="active"]')  # to no
    alice.fill(why="all at once")
    alice.click('#content form [type="submit"]')
    say(alice, "The row form6 has changed meanwhile")
    same(sql(rows), [("a", True), ("B", True), ("c", True)])
    alice.click('#content form [type="submit"]')
    say(alice, "3 rows were changed.")
    same(sql(rows), [("Same", False)] * 3)
    versions = "poser_widget_version JOIN poser_transaction t ON t.id = transaction_id"
    same(sql(f"SELECT count(*) FROM {versions} WHERE comment = 'all at once'"), [(3,)])

    # If one row is referred to, none is deleted, and the page says so.
    sql("INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('form6', 'form6', 'x', 'x')")
    alice.open("/tables/poser_widget/")
    alice.act("Delete the selected rows", "form5", "form6", "form7")
    alice.click('#content form [type="submit"]')
    say(alice, "violates foreign key constraint")
    same(len(sql(rows)), 3)
    sql("DELETE FROM poser_component WHERE uuid = 'form6'")
    alice.click('#content form [type="submit"]')
    say(alice, "3 rows were deleted.")
    same(sql(rows), [])


@test
def keys_and_values_that_the_database_makes(alice, bob):
    sql("CREATE DOMAIN form_grade AS text DEFAULT 'B' CHECK (VALUE IN ('A', 'B'))")
    sql("CREATE TYPE form_size AS ENUM ('small', 'large')")
    make(
        "form_made",
        """id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, number uuid NOT NULL DEFAULT gen_random_uuid(), size form_size,
           grade form_grade, height int DEFAULT 7, double int GENERATED ALWAYS AS (height * 2) STORED,
           at timestamptz NOT NULL DEFAULT now(), note text DEFAULT 'n'""",
    )
    alice.open("/tables/form_made/add/")
    same(len(alice.all('[name="id"], [name="double"]')), 0)
    alice.choose("size", "large")
    alice.fill(note="", grade="C")
    alice.save()
    assert "violates check constraint" in alice.text(".field-grade")
    alice.fill(grade="A")
    alice.save()
    same(sql("SELECT id, number IS NOT NULL, size, grade, height, double, at IS NOT NULL, note FROM form_made"),
         [(1, True, "large", "A", 7, 14, True, None)])


@test
def a_row_that_is_on_the_page_twice_has_one_new_value(alice):
    make("form_club", "id int PRIMARY KEY, name text")
    make("form_game", "id int PRIMARY KEY, home int REFERENCES form_club, guest int REFERENCES form_club, note text, goals int")
    sql("INSERT INTO form_club VALUES (1, 'Reds')")
    sql("INSERT INTO form_game VALUES (1, 1, 1, 'training', 0)")
    page = "/tables/form_club/1/change/"

    def save(*changes):
        """Change fields of both lines of the row: place, name and new value."""
        alice.open(page)
        for place, name, value in changes:
            field = alice.all(f'[name$="-0-{name}"]')[place]
            alice.tick(field) if value is None else put(field, value)
        alice.save()

    save((0, "note", "first"), (1, "note", "second"))
    say(alice, "This row is on the page twice, and its new value in the other place is: first")
    save((0, "DELETE", None), (1, "goals", "3"))
    say(alice, "This row is on the page twice: it is changed in one place, and deleted in the other.")
    same(sql("SELECT note, goals FROM form_game"), [("training", 0)])
    save((0, "note", "final"), (1, "note", "final"), (1, "goals", "3"))
    same(sql("SELECT note, goals FROM form_game"), [("final", 3)])
    save((0, "DELETE", None), (1, "DELETE", None))
    same(sql("SELECT * FROM form_game"), [])


@test
def values_come_and_go_unharmed(alice, bob):
    make(
        "form_value",
        """id int PRIMARY KEY, at timestamptz, day date, amount numeric(8,2), ratio float8, doc jsonb, plain json, list text[],
           span int4range, raw bytea, body text, name varchar(40), code char(6), yes boolean, wait interval, page xml""",
    )
    sql(
        r"""INSERT INTO form_value VALUES
            (1, '2026-01-02 03:04:05.123456+05', '0044-03-15 BC', 1.5, 'NaN', '{"b": [1, 2.50]}', '{"a" :1}', '{a,NULL,"b c"}', '[1,5)',
             '\x00ff', E'\n  one\r\ntwo\rthree  \n', E'  \U0001F600 ', 'xy', NULL, '1 day 2:03:04.5', '<a>1</a>'),
            (2, 'infinity', '-infinity', NULL, '-Infinity', NULL, NULL, NULL, NULL, NULL, '', '', NULL, true, NULL, NULL)"""
    )
    before = sql("SELECT v::text FROM form_value v ORDER BY id")
    for key in (1, 2):
        alice.open(f"/tables/form_value/{key}/change/")
        alice.save()
        say(alice, "Nothing was changed.")
    alice.open("/tables/form_value/1/change/")
    alice.fill(amount="1.50", doc='{"b":[1,2.50]}', at="2026-01-01 22:04:05.123456+00", list='{a, NULL, "b c"}')
    alice.save()
    say(alice, "Nothing was changed.")
    same(sql("SELECT v::text FROM form_value v ORDER BY id"), before)
    alice.open("/tables/form_value/1/change/")
    alice.fill(at="tomorrow or so", day="2026-02-30", amount="12345678.90", doc="{", list="{", span="[5,1)", raw="\\xq", page="<a>")
    alice.save()
    for name in ("at", "day", "amount", "doc", "list", "span", "raw", "page"):
        assert alice.all(f".field-{name} .errorlist"), f"no error at {name}"
    same(sql("SELECT v::text FROM form_value v ORDER BY id"), before)


@test
def what_the_database_refuses_is_said_at_the_field_or_on_top(alice, bob):
    make(
        "form_strict",
        """id int PRIMARY KEY, name text NOT NULL UNIQUE, low int, high int, room int4range,
           boss int REFERENCES form_strict DEFERRABLE INITIALLY DEFERRED, CHECK (low < high), EXCLUDE USING gist (room WITH &&)""",
    )
    sql(
        """CREATE FUNCTION form_strict() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN
               IF new.name = 'Late' THEN
                   RAISE EXCEPTION 'too late' USING detail = 'It is closed', hint = 'Come earlier', column = 'name';
               END IF;
               RETURN new;
           END $$;
           CREATE CONSTRAINT TRIGGER late AFTER INSERT OR UPDATE ON form_strict DEFERRABLE INITIALLY DEFERRED
               FOR EACH ROW EXECUTE FUNCTION form_strict()"""
    )
    sql("INSERT INTO form_strict VALUES (1, 'First', 1, 2, '[1,5)')")
    for values, place, text in (
        ({"name": ""}, ".field-name", "This field is required."),
        ({"name": "First"}, ".field-name", "Key (name)=(First) already exists."),
        ({"low": "9", "high": "1"}, ".errorlist.nonfield", "violates check constraint"),
        ({"low": "99999999999"}, ".field-low", "2147483647"),
        ({"room": "[2,3)"}, ".field-room", "conflicts with existing key"),
        ({"name": "Late"}, ".field-name", "Too late.  It is closed.  Come earlier."),
    ):
        alice.open("/tables/form_strict/add/")
        alice.fill(**{"id": "2", "name": "Second", **values})
        alice.save()
        said = alice.find(place).get_attribute("textContent")
        assert text in said, f"{text!r} is not in {said!r}"
    # Another transaction deletes the row that the form refers to.
    sql("INSERT INTO form_strict VALUES (8, 'Boss')")
    alice.open("/tables/form_strict/add/")
    alice.fill(id="2", name="Second")
    alice.choose("boss", "8 – Boss")
    sql("DELETE FROM form_strict WHERE id = 8")
    alice.save()
    assert "is not present in table" in alice.text(".field-boss")
    alice.open("/tables/form_strict/1/change/")
    sql("ALTER TABLE form_strict DROP COLUMN high, ADD COLUMN extra boolean NOT NULL DEFAULT true")
    alice.fill(name="Renamed", high="5")
    alice.save()
    say(alice, "high: this column was dropped")
    alice.save()
    same(sql("SELECT name, extra FROM form_strict WHERE id = 1"), [("Renamed", True)])


@test
def privileges_and_policies_decide_what_is_for_reading_only(alice, bob):
    make(
        "form_account",
        "id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, owner name, note text, password text",
        "SELECT (id, owner, note), INSERT (owner, password), UPDATE (note, password), DELETE ON form_account",
    )
    sql("INSERT INTO form_account (owner, note, password) VALUES ('web_alice', 'hers', 'pw1'), ('web_bob', 'his', 'pw2')")
    sql("ALTER TABLE form_account ENABLE ROW LEVEL SECURITY")
    sql("CREATE POLICY seen ON form_account FOR SELECT USING (owner IN ('web_alice', 'web_bob'))")
    sql("CREATE POLICY made ON form_account FOR INSERT WITH CHECK (true)")
    sql("CREATE POLICY own ON form_account FOR UPDATE USING (owner = current_user)")
    sql("CREATE POLICY gone ON form_account FOR DELETE USING (owner = current_user AND note <> 'keep')")
    alice.open("/tables/form_account/2/change/")
    say(alice, "his")
    same(len(alice.all('[name="_save"], .deletelink, [name="note"]')), 0)
    alice.open("/tables/form_account/1/change/")
    same(len(alice.all('[name="owner"]')), 0)
    same(alice.find('[name="password"]').get_attribute("value"), "")
    alice.fill(note="keep", password="pw3")
    alice.save()
    same(sql("SELECT note, password FROM form_account WHERE id = 1"), [("keep", "pw3")])
    alice.open("/tables/form_account/1/change/")
    same(len(alice.all(".deletelink")), 0)
    same(len(alice.all('[name="_save"]')), 1)
    alice.open("/tables/form_account/")
    alice.act("Change the selected rows", 1, 2)
    alice.find('[name="new-note"]').send_keys("both")
    alice.click('#content form [type="submit"]')
    say(alice, "keeps 1 of 2 rows")
    same(sql("SELECT note FROM form_account ORDER BY id"), [("keep",), ("his",)])
    # A policy reads a column that alice may not read.
    make("form_secret", "id int PRIMARY KEY, owner name, note text", "SELECT (id, note), UPDATE (note) ON form_secret")
    sql("INSERT INTO form_secret VALUES (1, 'web_alice', 'hers'), (2, 'web_bob', 'his')")
    sql("ALTER TABLE form_secret ENABLE ROW LEVEL SECURITY")
    sql("CREATE POLICY seen ON form_secret FOR SELECT USING (true)")
    sql("CREATE POLICY own ON form_secret FOR UPDATE USING (owner = current_user)")
    for key, told in ((1, "was changed successfully"), (2, "nothing was written")):
        alice.open(f"/tables/form_secret/{key}/change/")
        alice.fill(note="new")
        alice.save()
        say(alice, told)
    same(sql("SELECT note FROM form_secret ORDER BY id"), [("new",), ("his",)])
    # A row that alice may add, but not see.
    alice.open("/tables/form_account/add/")
    same(len(alice.all('[name="note"]')), 0)
    alice.fill(owner="carol", password="pw4")
    alice.save()
    say(alice, "You may not see it.")
    same(sql("SELECT password FROM form_account WHERE owner = 'carol'"), [("pw4",)])
    make("form_entry", "id int PRIMARY KEY, account int REFERENCES form_account", "ALL ON form_entry")
    alice.open("/tables/form_account/add/")
    alice.fill(owner="dora", password="pw5")
    alice.find('[name^="lines-"][name$="-0-id"]').send_keys("1")
    alice.save()
    say(alice, "no rows can be added to it")
    same(sql("SELECT FROM form_account WHERE owner = 'dora'"), [])


@test
def a_reference_to_what_the_role_may_not_see_is_its_value(alice, bob):
    make("form_house", "id int PRIMARY KEY, street text", "INSERT ON form_house")
    make("form_flat", "id int PRIMARY KEY, house_id int REFERENCES form_house, name text", "SELECT ON form_flat")
    sql("INSERT INTO form_house VALUES (7, 'Low Lane')")
    sql("INSERT INTO form_flat VALUES (1, 7, 'attic')")
    sql("GRANT UPDATE (name) ON form_flat TO web_bob")
    for browser, writes in (alice, 0), (bob, 1):
        browser.open("/tables/form_flat/1/change/")
        same(browser.text(".field-house_id .readonly"), "7")
        same(len(browser.all('[name="_save"]')), writes)
    bob.fill(name="cellar")
    bob.save()
    same(sql("SELECT * FROM form_flat"), [(1, 7, "cellar")])
    # The row is hidden by a policy.
    sql("GRANT SELECT ON form_house TO web_bob")
    sql("ALTER TABLE form_house ENABLE ROW LEVEL SECURITY")
    bob.open("/tables/form_flat/1/change/")
    same(bob.text(".field-house_id .readonly"), "7")


@test
def a_look_up_returns_the_column_that_is_referred_to(alice):
    make("form_land", "id int PRIMARY KEY, code text UNIQUE", "SELECT ON form_land")
    make("form_town", "id int PRIMARY KEY, land text REFERENCES form_land (code)", "SELECT, UPDATE ON form_town")
    sql("INSERT INTO form_land SELECT n, 'code ' || n FROM generate_series(1, 201) AS n")
    sql("INSERT INTO form_town VALUES (1, 'code 1')")
    alice.open("/tables/form_town/1/change/")
    address = alice.find(".related-lookup").get_attribute("href")[len(alice.address) :]
    alice.open(f"{address}&_popup=1&q=77")
    same(alice.find("#result_list tbody th a").get_attribute("data-popup-opener"), "code 77")


@test
def a_key_of_any_types_is_that_of_the_page_of_a_new_row(alice):
    """The driver has objects of its own for the values that come back from an INSERT."""
    make("form_day", "day date, price money, size numeric, sent boolean, n int GENERATED ALWAYS AS IDENTITY, name text,"
         " PRIMARY KEY (day, price, size, sent, n)")
    make("form_file", "mark bytea PRIMARY KEY, name text")
    for table, key in (
        ("form_day", {"day": "2026-03-01", "price": "7", "size": "NaN"}),
        ("form_file", {"mark": "\\x00ff"}),
    ):
        alice.open(f"/tables/{table}/add/")
        alice.fill(name="new", **key)
        alice.click('[name="_continue"]')
        say(alice, "was added successfully")
        alice.fill(name="newer")
        alice.save()
        same(sql(f"SELECT name FROM {table}"), [("newer",)])
        alice.open(f"/tables/{table}/")
        alice.click("#result_list tbody a[href*=change]")
        alice.click(".historylink")
        say(alice, "newer")


@test
def a_trigger_that_discards_the_change_is_named(alice, bob):
    make("form_kept", "id int PRIMARY KEY, name text")
    sql("INSERT INTO form_kept VALUES (1, 'stays')")
    sql("CREATE FUNCTION form_kept() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    sql("CREATE TRIGGER kept BEFORE INSERT OR UPDATE OR DELETE ON form_kept FOR EACH ROW EXECUTE FUNCTION form_kept()")
    for path in ("add/", "1/change/"):
        alice.open(f"/tables/form_kept/{path}")
        alice.fill(name="other")
        if path == "add/":
            alice.fill(id="2")
        alice.save()
        say(alice, "nothing was written")
    alice.open("/tables/form_kept/1/delete/")
    alice.click('#content form [type="submit"]')
    say(alice, "keeps 1 of 1 rows")
    same(sql("SELECT * FROM form_kept"), [(1, "stays")])


@test
def a_deadlock_and_a_lock_that_stays_give_a_page_that_says_so(alice, bob):
    sql("INSERT INTO poser_widget VALUES ('form8', 'Deadlock')")
    sql("INSERT INTO poser_component VALUES ('form8', 'form8', 'x', 'x')")
    other = connect(DATABASE)
    other.autocommit = False
    cursor = other.cursor()
    try:
        alice.open("/tables/poser_widget/form8/change/")
        alice.fill(description="waits")
        cursor.execute("SELECT FROM poser_widget WHERE uuid = 'form8' FOR UPDATE")
        alice.save()
        say(alice, "Another transaction holds a lock on these rows.")
        other.rollback()
        alice.open("/tables/poser_widget/form8/change/")
        alice.fill(description="in the way")
        put(line(alice, 0, "description"), "y")
        cursor.execute("SET LOCAL deadlock_timeout = '1min'")  # the web's session finds the deadlock
        cursor.execute("SELECT FROM poser_component WHERE uuid = 'form8' FOR UPDATE")
        with alice.next_page():
            alice.script("setTimeout(() => document.querySelector('[name=_save]').click(), 100)")
            alice.wait(lambda: sql("SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"), "the wait for the component")
            cursor.execute("UPDATE poser_widget SET description = 'first' WHERE uuid = 'form8'")
        say(alice, "Another transaction has changed or locked the same rows.")
        other.commit()
        same(sql("SELECT description FROM poser_widget WHERE uuid = 'form8'"), [("first",)])
    finally:
        other.close()
