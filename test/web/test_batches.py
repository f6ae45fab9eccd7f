"""Export of a grid; import of a file, and the review and execution of its batch."""
import base64
import csv
import io
import re
import tempfile
import urllib.request
from pathlib import Path
from urllib.parse import urlencode

import openpyxl
from harness import same, sql, test

TABLE = "/tables/t_a_b_s_/"  # of T"a b%s'
FOLDER = Path(tempfile.mkdtemp(prefix="poser_web_files."))


def download(browser, path):
    """Click on a link to a file.  Returns the file's name and its bytes."""
    cookies = "; ".join(f"{cookie['name']}={cookie['value']}" for cookie in browser.driver.get_cookies())
    with urllib.request.urlopen(urllib.request.Request(browser.address + path, headers={"Cookie": cookies}), timeout=20) as answer:
        return answer.headers["Content-Disposition"].split("filename=")[-1].strip('"'), answer.read()


def upload(browser, table, data, name="rows.csv", why=""):
    """Upload a file.  Then the batch is shown, or the upload page with an error."""
    FOLDER.mkdir(exist_ok=True)
    file = FOLDER / name
    file.write_bytes(data if isinstance(data, bytes) else data.encode())
    browser.open(table + "import/")
    browser.find('[name="file"]').send_keys(str(file))
    browser.fill(why=why)
    browser.click('[type="submit"][value^="Upload"]')
    file.unlink()


def act(browser, action):
    browser.click(f'button[value="{action}"]')


def kinds(browser):
    return [text.split(":")[0] for text in browser.texts("tbody tr:first-child b")]


def correct(browser, column, value):
    """Correct the value of this column in a row of a batch."""
    label = next(label for label in browser.all(".form-row label") if label.text.startswith(column))
    field = browser.find(f'[id="{label.get_attribute("for")}"]')
    field.clear()
    field.send_keys(value)
    browser.click('[name="refresh"]')


def make_table():
    sql("GRANT SELECT, INSERT, UPDATE, DELETE ON poser_batch, poser_batch_row TO web_alice, web_bob")
    sql(
        """
        CREATE TABLE "T""a b%s'" (
            "ID" bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "pg_sleep(10)" text, "=cmd|x" numeric, "%s" jsonb, "a,b;c" int[],
            born date, seen timestamptz, "ok?" boolean, note varchar(9) NOT NULL DEFAULT '', double int GENERATED ALWAYS AS (2) STORED, x xml)
        """
    )
    sql("""SELECT poser_track('"T""a b%s''"')""")
    sql("""GRANT ALL ON "T""a b%s'" TO web_alice""")
    sql(
        """
        INSERT INTO "T""a b%%s'" ("pg_sleep(10)", "=cmd|x", "%%s", "a,b;c", born, seen, "ok?", note, x) VALUES
            ('=1+1', -5, '{"a": "=x"}', '{1,2}', '2026-01-02', '2026-01-02 03:04:05.678901+00', true, '@', '<a/>'),
            ('', 1.50, '"text"', '{}', '-infinity', 'infinity', false, %s, NULL),
            (NULL, 12345678901234567890.5, 'null', NULL, '0044-03-15 BC', NULL, NULL, '', NULL),
            (%s, 0, NULL, '{NULL}', NULL, NULL, NULL, '  "ä€"', NULL)
        """,
        "\r\n\t\x01",
        "'=x",
    )


@test
def an_export_has_the_rows_and_types_of_the_grid(alice, bob):
    make_table()
    alice.open(TABLE)
    assert alice.find('a[href^="export/csv/"]').is_displayed()
    name, data = download(alice, TABLE + "export/csv/?o=-1")
    same(name, "T_a_b_s_.csv")
    assert data.startswith(b"\xef\xbb\xbf")
    rows = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline="")))
    same(rows[0][:5], ["ID", "pg_sleep(10)", "'=cmd|x", "%s", "a,b;c"])
    same([row[0] for row in rows[1:]], ["4", "3", "2", "1"])
    same(rows[4][1:4] + rows[4][8:9], ["'=1+1", "-5", '{"a": "=x"}', "'@"])
    same(rows[1][1], "''=x")
    assert b'\n2,"",1.50,' in data and b"\n3,,1234" in data  # an empty text, and NULL
    name, data = download(alice, TABLE + "export/xlsx/?q=1%2B1")
    header, row = openpyxl.load_workbook(io.BytesIO(data)).active.iter_rows()
    same([cell.value for cell in row[:3]] + [cell.data_type for cell in row[:3]], [1, "'=1+1", -5, "n", "s", "n"])
    same([row[5].value.isoformat(), row[6].value, row[7].value], ["2026-01-02T00:00:00", "2026-01-02 03:04:05.678901+00", True])


@test
def an_export_is_of_the_same_time_as_the_grid(alice, bob):
    sql("INSERT INTO poser_widget (uuid, description) VALUES ('exp1', 'Before')")
    ((at,),) = sql("SELECT clock_timestamp()::text")
    sql("UPDATE poser_widget SET description = 'After' WHERE uuid = 'exp1'")
    past = urlencode({"as_of": at, "q": "exp1"})
    sql("GRANT SELECT ON poser_widget_version TO web_alice")
    for query, description in (("q=exp1", "After"), (past, "Before")):
        alice.open(f"/tables/poser_widget/?{query}")
        link = alice.find('.object-tools a[href*="export/csv/"]').get_attribute("href")
        rows = list(csv.reader(io.StringIO(download(alice, link[len(alice.address) :])[1].decode("utf-8-sig"))))
        same(rows[1][:2], ["exp1", description])
    sql("REVOKE SELECT ON poser_widget_version FROM web_alice")
    sql("DELETE FROM poser_widget WHERE uuid = 'exp1'")


@test
def an_own_export_brings_the_same_values_back(alice, bob):
    for kind in ("csv", "xlsx"):
        upload(alice, TABLE, download(alice, f"{TABLE}export/{kind}/")[1], f"own.{kind}")
        assert "unchanged 4, errors and conflicts 0" in alice.text(), alice.text()
        assert "left out, because the database makes their values: double" in alice.text()


# The errors that the page shows after an upload of a file of these bytes, which are in Base64.
UPLOAD = """
const [bytes, done] = arguments, form = new FormData(document.querySelector('[name="file"]').form);
form.set('file', new File([Uint8Array.from(atob(bytes), letter => letter.charCodeAt(0))], 'rows.csv'));
fetch(location.href, {method: 'POST', body: form}).then(answer => answer.text())
    .then(page => done(new DOMParser().parseFromString(page, 'text/html').querySelector('.errorlist')?.textContent || page), error => done(String(error)));
"""


@test
def an_empty_text_of_another_type_is_not_null_after_an_export(alice):
    sql("CREATE TYPE size AS ENUM ('', 'small'); CREATE TABLE shirt (size size PRIMARY KEY, words tsvector, flags varbit, weight numeric)")
    sql("SELECT poser_track('shirt'); GRANT ALL ON shirt TO web_alice")
    sql("INSERT INTO shirt VALUES ('', '', '', NULL), ('small', NULL, NULL, 1)")
    upload(alice, "/tables/shirt/", download(alice, "/tables/shirt/export/csv/")[1])
    assert "unchanged 2, errors and conflicts 0" in alice.text(), alice.text()
    # A number cannot be an empty text.
    upload(alice, "/tables/shirt/", 'size,weight\n"small",""\n')
    same([row.text for row in alice.all(".batch-row tr")][1:], ["weight 1 NULL changed"])


@test
def a_file_says_why_it_cannot_be_read(alice, bob):
    key = '"uuid";"description"\n'
    for data, expected in (
        (b"", "The file is empty"),
        (b"\xef\xbb\xbf\r\n", "The file has no rows"),
        (key, "a header, but no rows"),
        ("uuid,colour\na,b\n", "There is no column “colour”"),
        ("uuid,description,Description\na,b,c\n", "Column \"description\" specified more than once"),
        ("description\na\n", "lacks columns of the key, by which rows are found: “uuid”"),
        (key + "a;b\nc\n", "Line 3: Missing data for column \"description\""),
        ("sep=;\n" + key + "a;b\nd;e;f\n", "Line 4: Extra data after last expected column"),
        (key.replace("\n", "\r\n") + 'a;"\n\n\r\n"\r\nc\r\n', "Line 6: Missing data"),
        (key + 'a;"b\n\nc', "Line 2: a quote is not closed"),
        (key + 'a;"b\n"c', "Line 2: a quote is not closed, or text follows the closing quote"),
        (key + "a;b\n\\.\nc;d\n", "Line 3: Missing data"),
        (key + "a;b\nc;d\re;f\n", "Line 3: Unquoted carriage return found in data"),
        (key + "a;b\n\nc;d\n", "Line 3: Missing data"),
        ("uuid,description,\na,b,\n", "Line 1: column 3 of the header has no name"),
        (key + "a;b\0", "Line 2: there is a character 0"),
        (key.encode() + b"a;\x81\n", "Line 2: the byte 0x81"),
        ("uuid;description\nä;ö\n".encode() + b"\xfc;u", "Line 3: the byte 0xFC is not text in UTF-8"),
        (b"PK\x03\x04", "cannot be read as XLSX"),
        (b"\x89PNG\r\n\x1a\n\0\0", "may not be a text file"),
    ):
        if data == b"":
            upload(alice, "/tables/poser_widget/", data)
            error = alice.text(".errorlist")
        else:  # from the same page, without a page for each
            data = data if isinstance(data, bytes) else data.encode()
            error = alice.driver.execute_async_script(UPLOAD, base64.b64encode(data).decode())
        assert expected in error, error
    upload(alice, "/tables/poser_widget/", key + 50_000_000 * "x")
    assert "At most 50,000,000 bytes are accepted" in alice.text()
    same(sql("SELECT count(*) FROM poser_batch WHERE target = 'poser_widget'::regclass"), [(0,)])


@test
def files_of_other_programs_are_read(alice, bob):
    for data, expected in (
        ('\ufeffuuid,description\r\nimp0,"Tür, ""breit""\r\nweiß"\r\n'.encode(), "UTF-8, fields between commas"),
        ("UUID ; Description\rimp0;Tür\r".encode("latin-1"), "Windows-1252 (Latin-1), fields between semicolons"),
        ("uuid\tdescription\nimp0\tTür\n".encode("utf-16"), "UTF-16, fields between tabs"),
        ("sep=|\nuuid|description\nimp0|Tür 5\"\nimp1|6\" x 7\"\n".encode(), "UTF-8, fields between “|”; 2 rows"),
    ):
        upload(alice, "/tables/poser_widget/", data)
        assert expected in alice.text(), alice.text()
        assert "Tür" in alice.text("ins")
        act(alice, "delete")
        assert "was deleted" in alice.text()


@test
def a_batch_is_reviewed_corrected_and_executed(alice, bob):
    sql("INSERT INTO poser_widget (uuid, description) VALUES ('imp1', 'Old'), ('imp2', 'Same'), ('imp5', 'Other')")
    lines = "uuid;description;active\nimp1;New;true\nimp2;Same;true\nimp3;Third;maybe\nimp4;Fourth;\nimp5;Changed;false\n"
    upload(alice, "/tables/poser_widget/", lines, why="spring list")
    same(kinds(alice), ["changed", "wrong", "wrong", "changed"])
    assert "1 row is the same" in alice.text()
    same(alice.text("tr.mark-changed").split(), ["description", "Old", "New", "changed"])
    same([alice.text("tr.mark-changed " + tag) for tag in ("del", "ins")], ["Old", "New"])
    assert 'invalid input syntax for type boolean: "maybe"' in alice.text()
    assert "violates not-null constraint" in alice.text()
    same(len(alice.all('button[value="execute"]')), 0)

    # A wrong correction has its error on top.
    alice.click(alice.all("tbody.kind-wrong a")[0])
    correct(alice, "active", "perhaps")
    assert 'column "active": invalid input syntax for type boolean: "perhaps"' in alice.text(".errornote")
    correct(alice, "active", "false")
    same(kinds(alice), ["changed", "new", "wrong", "changed"])

    # Rows are removed, and brought back.
    alice.follow("wrong (1)")
    alice.find('[name="row"]').click()
    act(alice, "remove")
    alice.follow("removed (1)")
    same(kinds(alice), ["removed"])
    alice.find('[name="all"]').click()
    act(alice, "restore")
    alice.follow("wrong (1)")
    alice.find('[name="all"]').click()
    act(alice, "remove")
    act(alice, "refresh")
    same(sql("SELECT description FROM poser_widget WHERE uuid = 'imp1'"), [("Old",)])

    # The row changes between review and execution.
    alice.open(alice.path().partition("?")[0])
    sql("UPDATE poser_widget SET description = 'By others' WHERE uuid = 'imp1'")
    alice.fill(why="spring list, reviewed")
    act(alice, "execute")
    assert 'description was "Old" and is now "By others"' in alice.text()
    same(kinds(alice), ["conflict", "new", "removed", "changed"])
    same(sql("SELECT count(*) FROM poser_widget WHERE uuid = 'imp3'"), [(0,)])
    alice.find('[name="row"]').click()
    act(alice, "overwrite")
    act(alice, "refresh")

    # Another user changes the batch meanwhile.
    bob.open(alice.path())
    alice.find('tbody:last-of-type [name="row"]').click()
    act(alice, "remove")
    act(bob, "execute")
    assert "have changed meanwhile" in bob.text()
    bob.fill(why="by bob")
    act(bob, "execute")
    assert "Executed: 1 new, 1 changed" in bob.text()
    alice.fill(why="by alice")
    act(alice, "execute")
    assert "web_bob has executed this batch" in alice.text()
    same(
        sql("SELECT uuid, description, active FROM poser_widget WHERE uuid LIKE 'imp%%' ORDER BY uuid", None),
        [("imp1", "New", True), ("imp2", "Same", True), ("imp3", "Third", False), ("imp5", "Other", True)],
    )
    same(sql("SELECT username, comment FROM poser_widget_history('imp3')"), [("web_bob", "by bob")])
    alice.open("/batches/?show=executed")
    assert "spring list" in alice.text() and "by web_bob" in alice.text()


@test
def values_of_any_type_are_corrected(alice, bob):
    upload(alice, TABLE, "ID,%s\n1,1\n2,{oops\n")
    assert "Line 3: Invalid input syntax for type json" in alice.text()
    upload(alice, TABLE, 'ID,%s,"a,b;c",x\n1,{"b": 1},{9},<b/>\n2,{},{oops},\n')
    same(kinds(alice), ["changed", "wrong"])
    for kind, name, value in (("changed", "a,b;c", "[3, 4]"), ("wrong", "a,b;c", "{1}"), ("changed:last-child", "%s", '{"c": [1, 2.50]}')):
        alice.click(alice.all(f"tbody.kind-{kind} a")[0])
        correct(alice, name, value)
    act(alice, "execute")
    rows = sql("""SELECT "%s"::text, "a,b;c" FROM "T""a b%s'" WHERE "ID" < 3 ORDER BY "ID" """)
    same(rows, [('{"b": 1}', [3, 4]), ('{"c": [1, 2.50]}', [1])])


@test
def row_level_security_hides_rows_and_batches(alice, bob):
    sql("CREATE TABLE secret (id int PRIMARY KEY, owner name DEFAULT current_user, v text)")
    sql("SELECT poser_track('secret')")
    sql("ALTER TABLE secret ENABLE ROW LEVEL SECURITY")
    sql("CREATE POLICY own ON secret USING (owner = current_user)")
    sql("GRANT ALL ON secret TO web_alice, web_bob")
    sql("INSERT INTO secret VALUES (1, 'web_alice', 'mine'), (2, 'web_bob', 'his')")
    rows = download(alice, "/tables/secret/export/csv/")[1].decode("utf-8-sig")
    same(rows.splitlines()[1:], ['1,"web_alice","mine"'])
    upload(alice, "/tables/secret/", "id,v\n1,changed\n3,new\n")
    same(kinds(alice), ["changed", "new"])
    address = alice.path()
    bob.open(address)
    assert "There is no such" in bob.text()
    bob.open("/batches/?show=all")
    assert address not in bob.find("#content").get_attribute("innerHTML")
    act(alice, "execute")
    same(sql("SELECT id, owner, v FROM secret ORDER BY id"), [(1, "web_alice", "changed"), (2, "web_bob", "his"), (3, "web_alice", "new")])


@test
def a_batch_shows_only_columns_that_the_role_may_read(alice, bob):
    sql("CREATE TABLE wage (id int PRIMARY KEY, name text, pay int)")
    sql("SELECT poser_track('wage'); GRANT ALL ON wage TO web_alice, web_bob")
    sql("INSERT INTO wage VALUES (1, 'Ann', 7111), (2, 'Ben', 7222), (3, 'Cid', 7333), (4, 'Dan', 7444)")
    upload(bob, "/tables/wage/", "id,name,pay\n1,Anna,7112\n2,Benn,7223\n3,Cid,7334\n4,Dan,7xxx\n")
    address = bob.path()
    sql("REVOKE ALL ON wage FROM web_bob; GRANT SELECT (id, name), UPDATE ON wage TO web_bob")
    sql("UPDATE wage SET name = 'Anne', pay = 7113 WHERE id = 1; UPDATE wage SET pay = 7224 WHERE id = 2; DELETE FROM wage WHERE id = 3")
    alice.open(address)
    act(alice, "refresh")
    for text in ('name was "Ann" and is now "Anne"; pay was 7111 and is now 7113', '"pay": 7333} and is gone', "7xxx"):
        assert text in alice.text(), text
    for page in (address, f"{address}1/", f"{address}4/"):
        bob.open(page)
        same(re.findall(r"\b(?:711\d|722\d|733\d|7444|7xxx)\b", bob.driver.page_source), [])
    bob.open(address)
    assert bob.text().count("You may not see all of it") == 4 and "Anna" in bob.text()
    # The form has other fields than the page that was shown, so its values are not those of these fields.
    bob.open(f"{address}2/")
    sql("REVOKE SELECT (name) ON wage FROM web_bob; GRANT SELECT (pay) ON wage TO web_bob")
    bob.click('[name="save"]')
    assert "Nothing was written" in bob.text(), bob.text()
    sql("REVOKE ALL ON wage FROM web_bob; GRANT SELECT (id, name), UPDATE ON wage TO web_bob")
    for change in ("ALTER TABLE wage RENAME pay TO salary", "SELECT poser_untrack('wage')"):
        sql(change)
        bob.open(address)
        assert "Anna" in bob.text() and "7112" not in bob.driver.page_source, change


@test
def what_a_role_may_not_do_is_not_offered(alice, bob):
    bob.open("/tables/poser_widget_summary/import/")
    assert "This is a view" in bob.text()
    sql("GRANT SELECT, INSERT, UPDATE (note) ON \"T\"\"a b%s'\" TO web_bob")
    sql("REVOKE INSERT ON \"T\"\"a b%s'\" FROM web_bob")
    upload(bob, TABLE, 'ID,note,born\n1,x,2026-01-01\n')
    assert "There is no column “born” that you may write" in bob.text()
    upload(bob, TABLE, "ID,note\n1,x\n77,y\n")
    same(kinds(bob), ["changed", "new"])
    act(bob, "execute")
    assert "permission denied" in bob.text().lower()
    sql("REVOKE INSERT ON poser_batch_row FROM web_bob")
    try:
        bob.open("/")
        same(len(bob.all('a[href="/batches/"]')), 1)
        bob.open("/tables/poser_widget/")
        same(len(bob.all('a[href="import/"]')), 0)
        bob.open("/tables/poser_widget/import/")
        assert "You may not make batches" in bob.text()
        sql("REVOKE SELECT ON poser_batch FROM web_bob")
        bob.open("/batches/")
        assert "You may not" in bob.text()
        bob.open("/")
        same(len(bob.all('a[href="/batches/"]')), 0)
    finally:
        sql("GRANT SELECT, INSERT, UPDATE, DELETE ON poser_batch, poser_batch_row TO web_alice, web_bob")
        sql("REVOKE ALL ON \"T\"\"a b%s'\" FROM web_bob")
        FOLDER.rmdir()
