"""All pages: their links, without JavaScript, and with keys alone."""
import re
from collections import deque

from harness import ROLES, Keys, same, sql, test

LOG_OUT = "#logout-form button"
SUBMIT = '#content form [type="submit"]'
GRANT = """
GRANT SELECT ON poser_widget_version, poser_component_version, poser_transaction, poser_datasync_status TO web_alice;
GRANT SELECT, INSERT, UPDATE, DELETE ON poser_batch, poser_batch_row TO web_alice
"""

### Links


@test
def every_link_leads_to_a_page(alice):
    """The links on one page of each kind about the extension's tables."""
    sql(GRANT)
    sql("INSERT INTO poser_widget (uuid, description) VALUES ('link1', 'Links')")
    sql("INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('link1', '1', 'Link'), ('link1', '2', 'Link')")
    sql("UPDATE poser_widget SET description = 'Chain' WHERE uuid = 'link1'")
    sql("DELETE FROM poser_component WHERE widget_uuid = 'link1' AND item_code = '2'")
    left, known, wrong = deque(["/", "/tables/poser_widget/link1/change/", "/tables/poser_widget/link1/history/"]), set(), {}
    while left:
        path = left.popleft()
        alice.open(path)
        if alice.status() != 200:
            wrong[path] = alice.status(), alice.driver.title
        for link in alice.script("return [...document.links].map(link => link.href)"):
            link = link.partition("#")[0].removeprefix(alice.address)
            address, _, query = link.partition("?")
            kind = re.sub(r"/[^/]*[0-9][^/]*(?=/)", "/KEY", address), query.partition("=")[0]
            elsewhere = re.match("(?!/)|/tables/(?!poser_)|.*/export/|.*_changelist_filters|.*&", link)
            if kind not in known and not elsewhere:
                known.add(kind)
                left.append(link)
    same(wrong, {})
    assert len(known) > 20, known


### Without JavaScript


@test
def without_javascript_a_user_logs_in_and_out(plain):
    plain.open("/")
    plain.click(LOG_OUT)
    plain.open("/tables/poser_widget/")
    same(plain.all("#result_list"), [])
    plain.log_in("web_alice")
    assert "web_alice" in plain.find("#user-tools").get_attribute("textContent")


@test
def only_one_of_the_browsers_runs_scripts(alice, plain):
    for browser, kind in ((alice, "object"), (plain, "undefined")):
        browser.open("/tables/poser_widget/")
        same(browser.script("return typeof django"), kind)


@test
def without_javascript_a_grid_is_searched_filtered_and_sorted(plain):
    sql("INSERT INTO poser_widget (uuid, description, active) SELECT 'page' || n, 'Page ' || n, n < 3 FROM generate_series(1, 3) n")
    plain.open("/tables/poser_widget/")
    plain.fill(q="Page")
    plain.click('#changelist-search [type="submit"]')
    same(plain.texts("#result_list .field-description"), ["Page 1", "Page 2", "Page 3"])
    plain.follow("Yes")
    same(plain.texts("#result_list .field-description"), ["Page 1", "Page 2"])
    plain.click(".column-description .text a")
    plain.click(".column-description .text a")
    same(plain.texts("#result_list .field-description"), ["Page 2", "Page 1"])


@test
def without_javascript_a_row_is_changed(plain):
    plain.open("/tables/poser_widget/")
    plain.follow("page1")
    plain.fill(description="Sheet 1", why="the word")
    plain.tick("[name=active]", False)
    plain.save()
    same(
        sql("SELECT comment, description, active FROM poser_widget_history('page1') LIMIT 1"),
        [("the word", "Sheet 1", False)],
    )


@test
def without_javascript_lines_are_added_changed_and_deleted(plain):
    """There is no button for another line, so the form has empty ones."""
    plain.open("/tables/poser_widget/page2/change/")
    for line, code in ((0, "a"), (1, "b")):
        plain.find(f"[name$='-{line}-item_code']").send_keys(code)
        plain.find(f"[name$='-{line}-description']").send_keys("Paper")
    plain.save()
    plain.open("/tables/poser_widget/page2/change/")
    plain.find("[name$='-0-description']").send_keys(" A4")
    plain.tick("[name$='-1-DELETE']")
    plain.save()
    same(sql("SELECT item_code, description FROM poser_component WHERE widget_uuid = 'page2'"), [("a", "Paper A4")])


@test
def without_javascript_rows_are_chosen_and_changed(plain):
    plain.open("/tables/poser_widget/?q=page")
    plain.act("Change the selected rows", "page1", "page3")
    plain.fill(**{"new-description": "Sheet"}, why="all the same")
    plain.click(SUBMIT)
    same(sql("SELECT DISTINCT description FROM poser_widget WHERE uuid IN ('page1', 'page3')"), [("Sheet",)])
    same(sql("SELECT comment FROM poser_widget_history('page3') LIMIT 1"), [("all the same",)])


@test
def without_javascript_a_row_is_reverted(plain):
    sql(GRANT)
    plain.open("/tables/poser_widget/page1/history/")
    plain.click(plain.all('[value="Revert to this…"]')[-1])
    same(sql("SELECT description FROM poser_widget WHERE uuid = 'page1'"), [("Sheet",)])
    plain.fill(why="back")
    plain.click('[name="_revert"]')
    same(sql("SELECT comment, description FROM poser_widget_history('page1') LIMIT 1"), [("back", "Page 1")])


@test
def without_javascript_rows_are_chosen_and_deleted_and_one_comes_back(plain):
    sql(GRANT)
    plain.open("/tables/poser_widget/?q=page")
    plain.act("Delete the selected rows", "page1", "page3")
    plain.fill(why="waste")
    plain.click(SUBMIT)
    same(sql("SELECT uuid FROM poser_widget WHERE uuid LIKE 'page%'"), [("page2",)])
    ((component,),) = sql("SELECT uuid FROM poser_component WHERE widget_uuid = 'page2'")
    plain.open(f"/tables/poser_component/{component}/change/")
    plain.click(".deletelink")
    plain.fill(why="waste")
    plain.click(SUBMIT)
    same(sql("SELECT comment FROM poser_component_history(%s) LIMIT 1", component), [("waste",)])
    plain.open("/tables/poser_component/")
    plain.follow("Deleted rows")
    plain.fill(q=component)
    plain.click('#content [value="Search"]')
    plain.click('[value="Undelete…"]')
    plain.click('[name="_revert"]')
    same(sql("SELECT uuid FROM poser_component WHERE widget_uuid = 'page2'"), [(component,)])


@test
def without_javascript_a_file_is_imported_and_exported(plain):
    sql(GRANT)
    plain.open("/tables/poser_widget/")
    plain.click('#content [href$="import/"]')
    plain.choose_file("uuid;description\npage2;Papier für Büros\npage4;Karton\n".encode("latin-1"))
    plain.click(SUBMIT)
    same([text for text in plain.texts("#content ins") if text in ("Papier für Büros", "Karton")], ["Papier für Büros", "Karton"])
    plain.fill(why="list")
    plain.click('[name="action"][value="execute"]')
    same(sql("SELECT uuid, description FROM poser_widget WHERE uuid LIKE 'page%' ORDER BY 1"), [("page2", "Papier für Büros"), ("page4", "Karton")])
    plain.open("/tables/poser_widget/?q=page")
    file = plain.download('[href*="export/csv"]')
    same([line.split(",")[1] for line in file.read_text("utf-8-sig").splitlines()], ['"description"', '"Papier für Büros"', '"Karton"'])


@test
def without_javascript_the_grid_is_shown_as_it_was(plain):
    sql(GRANT)
    ((then,),) = sql("SELECT clock_timestamp()::text")
    sql("UPDATE poser_widget SET description = 'Afterwards' WHERE uuid = 'page4'")
    plain.open("/tables/poser_widget/?q=page4")
    plain.fill(as_of=then)
    plain.click('.poser-as-of [type="submit"]')
    same(plain.texts("#result_list .field-description"), ["Karton"])


### Keys alone


def enter(browser, selector, *keys):
    """Go to a link or button with Tab, and press Enter or these keys.  This leads to another page."""
    browser.tab_to(selector)
    with browser.next_page():
        browser.press(*keys or [Keys.ENTER])


@test
def the_first_tab_leads_past_the_header(bob):
    bob.open("/tables/poser_widget/lamp1/change/")
    bob.script("document.activeElement.blur()")
    bob.tab_to(".skip-link, .skip-to-content-link", most=1)
    bob.press(Keys.ENTER, Keys.TAB)
    assert bob.script("return document.querySelector('#content').contains(document.activeElement)")


@test
def with_keys_alone_a_user_logs_in_and_changes_a_row(bob):
    sql("INSERT INTO poser_widget (uuid, description) SELECT 'key' || n, 'Keyboard ' || n FROM generate_series(1, 3) n")
    bob.open("/")
    enter(bob, LOG_OUT)
    bob.open("/")  # the focus is in the first field
    with bob.next_page():
        bob.press("web_bob", Keys.TAB, ROLES["web_bob"], Keys.ENTER)
    enter(bob, "#content a[href$='/tables/poser_widget/']")
    if bob.driver.switch_to.active_element.get_attribute("id") != "searchbar":  # where Django puts the focus, up to 3.2
        bob.tab_to("#searchbar")
    with bob.next_page():
        bob.press("Keyboard", Keys.ENTER)
    enter(bob, "#result_list a[href*='/key2/change/']")
    bob.tab_to("[name=description]")
    bob.press(Keys.END, " of bob")
    bob.tab_to("[name=active]")
    bob.press(Keys.SPACE)
    bob.tab_to("[name=why]")
    bob.press("keys alone")
    enter(bob, "[name=_save]", Keys.SPACE)
    same(
        sql("SELECT username, comment, description, active FROM poser_widget_history('key2') LIMIT 1"),
        [("web_bob", "keys alone", "Keyboard 2 of bob", False)],
    )


@test
def with_keys_alone_a_line_is_added(bob):
    """Django's script adds the line.  Lines of rows that are there can only be deleted by their boxes."""
    sql("INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('key2', 'there', 'Key')")
    bob.open("/tables/poser_widget/key2/change/")
    lines = len(bob.all(".inline-group tr.form-row:not(.empty-form)"))
    same(len(bob.all(".inline-group tr.form-row:not(.empty-form) .inline-deletelink")), lines - 1)
    bob.tab_to(".add-row a")
    bob.press(Keys.ENTER)
    bob.wait(lambda: len(bob.all(".inline-group tr.form-row:not(.empty-form)")) == lines + 1)
    bob.find(f"[name$='-{lines}-item_code']").send_keys("new")
    bob.find(f"[name$='-{lines}-description']").send_keys("Another key")
    bob.save()
    same(sql("SELECT item_code, active FROM poser_component WHERE widget_uuid = 'key2' ORDER BY item_code"), [("new", True), ("there", True)])


@test
def with_keys_alone_rows_are_chosen_and_deleted(bob):
    bob.open("/tables/poser_widget/?q=Keyboard")
    bob.tab_to("[name=action]")
    bob.press("Delete")
    for key in ("key1", "key3"):
        bob.tab_to(f"#result_list [value={key}]")
        bob.press(Keys.SPACE)
    enter(bob, ".actions [type=submit]")
    bob.tab_to("[name=why]")
    bob.press("not needed")
    enter(bob, SUBMIT)
    same(sql("SELECT uuid FROM poser_widget WHERE uuid LIKE 'key%'"), [("key2",)])
    same(sql("SELECT comment FROM poser_widget_history('key3') LIMIT 1"), [("not needed",)])
