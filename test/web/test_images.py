"""Six pages over the demo's rows, as images for the README.

With --images they are kept.  Times are set, so that an image changes only if its page does.
"""
import secrets
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import harness
from harness import Browser, make_database, remove_database, same, test, web_server

DATABASE = "poser_web_demo"
BARMAN = "1e7f0bbc56c5ba6791108be53a75f494"
EDIT = f"""
    BEGIN; SET LOCAL ROLE demo; SET LOCAL poser.runas = 'demo'; SET LOCAL poser.comment = 'as in the new release';
    UPDATE poser_widget SET description = 'barman: Backup, Recovery and Archive Manager for PostgreSQL' WHERE uuid = '{BARMAN}';
    UPDATE poser_component SET description = 'rsync (>= 3.2)', active = false WHERE widget_uuid = '{BARMAN}' AND item_code = 'rsync'; COMMIT;
"""
TIMES = """
    SET session_replication_role = replica;
    UPDATE poser_batch SET created = '2026-11-03 09:30';
    UPDATE poser_transaction SET issued_at = '2026-11-02 08:00'::timestamptz + number * interval '23 minutes'
    FROM (SELECT id, row_number() OVER (ORDER BY id) AS number FROM poser_transaction) AS n WHERE n.id = poser_transaction.id
"""


@test
def six_pages_of_the_demo_are_images():
    with tempfile.TemporaryDirectory(prefix="poser_web.") as folder, demo(Path(folder)) as browser:
        images = [Path(folder) / f"web-{name}.png" for name in PAGES]
        for image, open_page in zip(images, PAGES.values()):
            open_page(browser)
            same(browser.status(), 200)
            browser.screenshot(image)
        if harness.IMAGES:
            harness.IMAGES.mkdir(exist_ok=True)
            subprocess.run(["pngquant", "--force", "--ext", ".png", "64", *images], check=True)
            same([image.name for image in images if image.stat().st_size > 80000], [])
            for image in images:
                shutil.copy(image, harness.IMAGES)


@contextmanager
def demo(folder):
    """The demo's rows, a web server, and a browser in which the role demo is logged in."""
    remove_database(DATABASE, ["demo", "reader"])
    password = secrets.token_hex(8)
    make_database(DATABASE, "-f", "demo/demo.sql", "-f", "web/roles.sql", "-v", f"password={password}", "-f", "web/demo.sql", "-c", EDIT, "-c", TIMES)
    try:
        with web_server(folder / "state", DATABASE) as address:
            browser = Browser(address, folder / "demo")
            try:
                browser.log_in("demo", password)
                yield browser
            finally:
                browser.driver.quit()
    finally:
        remove_database(DATABASE, ["demo", "reader"])


def grid(browser):
    """Widgets by the number of their components."""
    browser.open("/tables/poser_widget/?q=postgresql")
    browser.find("#toggle-nav-sidebar").click()
    for _ in range(2):
        browser.click(".column-component_count .text a")


def row(browser):
    browser.open(f"/tables/poser_widget/{BARMAN}/change/")


def history(browser):
    browser.open(f"/tables/poser_widget/{BARMAN}/history/")


def revert(browser):
    browser.open(f"/tables/poser_widget/{BARMAN}/history/")
    browser.click(browser.all('[value="Revert to this…"]')[-1])


def batch(browser):
    browser.open("/batches/")
    browser.click("#result_list tbody a")


def transactions(browser):
    browser.open("/transactions/")


PAGES = {page.__name__: page for page in (grid, row, history, revert, batch, transactions)}
