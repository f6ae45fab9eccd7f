"""The start page, findings, transactions, datasync, and the merge of two widgets."""
import re
from contextlib import contextmanager

from harness import DATABASE, connect, same, sql, test


@contextmanager
def granted(privilege, role):
    sql(f"GRANT {privilege} TO {role}")
    try:
        yield
    finally:
        sql(f"REVOKE {privilege} FROM {role}")


def start_page(browser):
    """Open the start page, again if the server was too busy to check all rows within the time limit of that page."""
    browser.wait(lambda: browser.open("/") or "The rows were not checked" not in browser.text("#findings"), "the check")


def last_transaction():
    return sql("SELECT max(id) FROM poser_transaction")[0][0]


@test
def the_start_page_has_groups_of_tables_with_their_comments(alice, bob):
    sql("CREATE TABLE lot (id int PRIMARY KEY, place text, seen_by name, CHECK (id < 1000))")
    sql("COMMENT ON TABLE lot IS 'Lots <b>on</b> the shelves'")
    sql("SELECT poser_track('lot')")
    sql("ALTER TABLE lot OWNER TO web_bob; ALTER TABLE lot_version OWNER TO web_bob; GRANT SELECT ON lot TO web_alice")
    alice.open("/")
    assert "Lots <b>on</b> the shelves" in alice.text("#group-tables")
    assert "poser_widget" in alice.text("#group-poser")
    same(alice.texts("#group-tables th a").count("lot"), 1)


def found(browser, table):
    """The findings about a table.  Other parts leave tables with findings, too."""
    return [text for text in browser.texts("#findings tr") if re.match(rf"(public\.)?{table}\b", text)]


@test
def findings_are_shown_to_those_that_may_check(alice, bob):
    sql("INSERT INTO lot VALUES (1, 'A'), (2, 'B')")
    sql("ALTER TABLE lot DISABLE TRIGGER USER")
    sql("UPDATE lot SET place = 'C' WHERE id = 2")
    alice.open("/")
    # Findings about the table's definition are for all roles that see it, those about its rows for its owner.
    assert "lot" in alice.text("#findings") and '{"id": 2}' not in alice.text()
    sql("ALTER TABLE lot ENABLE TRIGGER USER")
    sql("SELECT poser_record_versions('lot')")
    start_page(bob)
    assert "poser_check() finds nothing wrong" in bob.text("#findings")
    sql("ALTER TABLE lot DISABLE TRIGGER USER; UPDATE lot SET place = 'D' WHERE id = 2; ALTER TABLE lot ENABLE TRIGGER USER")
    start_page(bob)
    assert 'public.lot {"id": 2}' in bob.text("#findings")
    alice.open("/")
    same(found(alice, "lot"), [])
    sql("REVOKE EXECUTE ON FUNCTION poser_check FROM PUBLIC")
    try:
        bob.open("/")
        same(found(bob, "lot"), [])
        bob.open("/check/")
        assert "You may not" in bob.text()
    finally:
        sql("GRANT EXECUTE ON FUNCTION poser_check TO PUBLIC")
    bob.open("/check/")
    bob.click('#content [type="submit"]')
    assert 'public.lot {"id": 2}' in bob.text("#findings")
    sql("SELECT poser_record_versions('lot')")


@test
def a_check_that_takes_too_long_is_not_taken_for_good_news(alice, bob):
    with granted("postgres", "web_bob"):
        other = connect(DATABASE)
        other.autocommit = False
        try:
            other.cursor().execute("LOCK TABLE poser_component_count_delta")
            bob.open("/")
            found = bob.text("#findings")
            assert "The rows were not checked" in found and "nothing wrong" not in found
        finally:
            other.close()
        start_page(bob)


@test
def the_last_transactions_say_who_did_what_and_why(alice, bob):
    sql("INSERT INTO poser_widget VALUES ('op1', 'Fan', true), ('op2', 'Hook', true)")
    alice.open("/tables/poser_widget/op1/change/")
    alice.fill(description="Fan, white", why="op price list")
    alice.save()
    id = last_transaction()
    alice.open("/")
    same(len(alice.all("#recent")), 0)
    with granted("SELECT ON poser_transaction, poser_widget_version", "web_alice"):
        alice.open("/")
        row = alice.rows("#transactions tr")[1]
        same([row[0], *row[2:]], [str(id), "web_alice", "web_alice", "op price list", "poser_widget: 1"])
        alice.follow(str(id))
        same(alice.rows(".poser-change tbody tr"), [["description", "Fan", "Fan, white"]])
        alice.open("/transactions/?name=no_such_name")
        assert "op price list" not in alice.text()
        alice.open("/transactions/?name=web_al&since=yesterday&until=tomorrow")
        same(alice.rows("#transactions tr")[1][0], str(id))
        alice.open("/transactions/?since=never")
        assert "Invalid input syntax" in alice.text()
    alice.open(f"/transactions/{id}/")
    assert "You may not" in alice.text()


@test
def transactions_come_page_by_page(alice, bob):
    sql("DO $$ BEGIN FOR i IN 1..120 LOOP PERFORM set_config('poser.comment', 'page ' || i, true);"
        " UPDATE lot SET place = i WHERE id = 1; END LOOP; END $$")
    with granted("SELECT ON poser_transaction, poser_widget_version", "web_bob"):
        bob.open(f"/transactions/?table={sql('SELECT %s::regclass::oid', 'lot')[0][0]}")
        shown = []
        for _ in range(3):
            shown += [row[4] for row in bob.rows("#transactions tr")[1:]]
            if bob.all('[rel="next"]'):
                bob.click('[rel="next"]')
        same([why for why in shown if why.startswith("page ")], [f"page {i}" for i in range(120, 0, -1)])
        same(len(shown), sql("SELECT count(DISTINCT transaction_id) FROM lot_version")[0][0])


@test
def a_transaction_shows_no_rows_that_are_hidden(alice, bob):
    sql("ALTER TABLE lot ENABLE ROW LEVEL SECURITY; CREATE POLICY mine ON lot USING (seen_by = CURRENT_USER)")
    sql("INSERT INTO lot VALUES (11, 'Front', 'web_alice'), (12, 'Safe', 'web_bob')")
    id = last_transaction()
    try:
        with granted("SELECT ON poser_transaction, lot_version", "web_alice"):
            alice.open(f"/transactions/{id}/")
            assert "Front" in alice.text() and "Safe" not in alice.text()
            same(len(alice.all(".poser-change")), 1)
            alice.open("/transactions/")
            same(alice.rows("#transactions tr")[1][5], "lot: 1")
    finally:
        sql("ALTER TABLE lot DISABLE ROW LEVEL SECURITY")


@test
def two_users_skip_the_same_change_and_only_it_is_skipped(alice, bob):
    sql("SELECT poser_datasync_add('op/erp')")
    sql("INSERT INTO poser_widget VALUES ('op3', 'Poison', true), ('op4', 'Tray', true)")
    alice.open("/datasync/")
    assert "op/erp" not in alice.text()
    with granted("SELECT ON poser_datasync_status", "web_alice"):
        alice.open("/datasync/")
        same(alice.rows("#consumers tr")[1][:2], ["op/erp", "2"])
        alice.follow("op/erp")
        alice.click('[name="show"]')
        assert "Permission denied" in alice.text()
        same(len(alice.all("#skip")), 0)
    for role in ("web_alice", "web_bob"):
        sql("SELECT poser_datasync_grant('op/erp', %s)", role)
    before = sql("SELECT to_snapshot, delivered FROM poser_datasync_consumer WHERE consumer = 'op/erp'")
    for browser in (alice, bob):
        browser.open("/datasync/op_2Ferp/")
        browser.click('[name="show"]')
        same([row[4] for row in browser.rows("#changes tr")[1:]], ["op3", "op4"])
        browser.fill(why=f"no use, {browser.driver.session_id}")
    # To look at the changes delivers none.
    same(sql("SELECT to_snapshot, delivered FROM poser_datasync_consumer WHERE consumer = 'op/erp'"), before)
    alice.click('#skip [type="submit"]')
    bob.click('#skip [type="submit"]')
    assert "Nothing was written: Change " in bob.text()
    same([row[4] for row in bob.rows("#changes tr")[1:]], ["op4"])
    same(
        sql("SELECT reason, username FROM poser_datasync_skipped WHERE consumer = 'op/erp'"),
        [(f"no use, {alice.driver.session_id}", "web_alice")],
    )
    sql("SELECT poser_datasync_drop('op/erp')")


def choose_both(browser, action="merge_selected"):
    browser.open("/tables/poser_widget/?q=opm")
    for box in browser.all("input.action-select"):
        box.click()
    browser.find(f'[name="action"] option[value="{action}"]').click()
    browser.click('[name="index"]')


@test
def two_widgets_are_merged_and_nothing_is_lost_unseen(alice, bob):
    sql("INSERT INTO poser_widget VALUES ('opm1', 'Stool', true), ('opm2', 'Stool, oak', false)")
    sql("INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES"
        " ('opc1', 'opm1', '001', 'Leg'), ('opc2', 'opm2', '001', 'Leg, oak'), ('opc3', 'opm2', '002', 'Seat')")
    choose_both(alice)
    assert "1 of opm1, 2 of opm2" in alice.text()
    bob.open("/tables/poser_component/opc3/change/")
    bob.fill(description="Seat, round")
    bob.save()
    alice.find('[name="field-description"][value="b"]').click()
    alice.fill(why="the same stool")
    alice.click('#merge [type="submit"]')
    assert "these have changed meanwhile: rows of poser_component" in alice.text()
    same(sql("SELECT count(*) FROM poser_widget WHERE uuid LIKE 'opm_'"), [(2,)])
    alice.click('#merge [type="submit"]')
    assert "Merged opm2 into opm1." in alice.text()
    same(sql("SELECT * FROM poser_widget WHERE uuid LIKE 'opm_'"), [("opm1", "Stool, oak", True)])
    same(
        sql("SELECT uuid, description FROM poser_component WHERE widget_uuid = 'opm1' ORDER BY uuid"),
        [("opc1", "Leg"), ("opc2", "Leg, oak"), ("opc3", "Seat, round")],
    )
    id = last_transaction()
    same(sql("SELECT username, comment FROM poser_transaction WHERE id = %s", id), [("web_alice", "the same stool")])
    same(
        sql("SELECT (SELECT count(*) FROM poser_widget_version WHERE transaction_id = %s),"
            " (SELECT count(*) FROM poser_component_version WHERE transaction_id = %s)", id, id),
        [(2, 2)],
    )


@test
def a_merge_that_a_trigger_discards_says_so(alice, bob):
    sql("INSERT INTO poser_widget VALUES ('opd1', 'Rug', true), ('opd2', 'Rug, red', true)")
    sql("CREATE FUNCTION op_keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    try:
        for event, key in ("UPDATE", "a policy or a trigger keeps opd1"), ("DELETE", "a policy or a trigger keeps opd2"):
            sql(f"CREATE TRIGGER op_keep BEFORE {event} ON poser_widget FOR EACH ROW EXECUTE FUNCTION op_keep()")
            alice.open("/tables/poser_widget/merge/?a=opd1&b=opd2")
            alice.find('[name="field-description"][value="b"]').click()
            alice.click('#merge [type="submit"]')
            assert f"Nothing was written: {key}" in alice.text()
            same(sql("SELECT count(*) FROM poser_widget WHERE uuid LIKE 'opd_'"), [(2,)])
            sql("DROP TRIGGER op_keep ON poser_widget")
    finally:
        sql("DROP FUNCTION op_keep CASCADE")


@test
def a_merge_that_would_delete_what_cannot_be_moved_is_refused(alice, bob):
    sql("INSERT INTO poser_widget VALUES ('opm2', 'Stool', true)")
    sql("CREATE TABLE op_price (id int PRIMARY KEY, widget varchar REFERENCES poser_widget)")
    sql("INSERT INTO op_price VALUES (1, 'opm2')")
    try:
        choose_both(alice)
        alice.click('#merge [type="submit"]')
        assert 'still referenced from table "op_price"' in alice.text()
        sql("ALTER TABLE op_price DROP CONSTRAINT op_price_widget_fkey, ADD FOREIGN KEY (widget) REFERENCES poser_widget ON DELETE CASCADE")
        choose_both(alice)
        alice.click('#merge [type="submit"]')
        assert "to delete opm2 would delete or change rows of op_price" in alice.text()
        with granted("SELECT, UPDATE ON op_price", "web_alice"):
            choose_both(alice)
            alice.click('#merge [type="submit"]')
        same(sql("SELECT widget FROM op_price"), [("opm1",)])
        same(sql("SELECT uuid FROM poser_widget WHERE uuid LIKE 'opm_'"), [("opm1",)])
    finally:
        sql("DROP TABLE op_price")


@test
def a_merge_is_for_those_that_may_delete(alice, bob):
    sql("REVOKE DELETE ON poser_widget FROM web_bob")
    try:
        bob.open("/tables/poser_widget/")
        same(len(bob.all('option[value="merge_selected"]')), 0)
        bob.open("/tables/poser_widget/merge/")
        assert "You may not" in bob.text()
    finally:
        sql("GRANT DELETE ON poser_widget TO web_bob")
    bob.open("/tables/poser_widget/merge/")
    bob.fill(a="op1", b="op9")
    bob.click('#content [type="submit"]')
    assert "There is no poser_widget op9" in bob.text()
    bob.fill(b="op2")
    bob.click('#content [type="submit"]')
    same(bob.texts("#both th a"), ["op1", "op2"])
