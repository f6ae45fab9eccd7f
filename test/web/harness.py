"""The common part of the browser's tests: the database, the web server, the browsers, and test()."""
import os
import re
import secrets
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psycopg2
from psycopg2.sql import SQL, Identifier
from selenium import webdriver
from selenium.common.exceptions import ElementClickInterceptedException, WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

WEB = Path(__file__).resolve().parents[2] / "web"
DATABASE = "poser_web_test"
ROLES = {name: secrets.token_hex(8) for name in ("web_alice", "web_bob")}
SECONDS = 20  # time limit of each wait, in seconds
IMAGES = None  # the folder for images that are kept
LOOKED_AT = {}  # the pages that tests have opened, and their flaws
psql = None  # the superuser's connection

### The server


def connect(database):
    connection = psycopg2.connect(dbname=database)
    connection.autocommit = True
    return connection


def sql(statement, *values):
    """Run a statement as the superuser.  Returns its rows."""
    global psql
    if psql is None:
        psql = connect(DATABASE)
    with psql.cursor() as cursor:
        cursor.execute(statement, values or None)
        return cursor.fetchall() if cursor.description else []


def remove_database(database=DATABASE, roles=tuple(ROLES)):
    global psql
    if psql is not None and database == DATABASE:
        psql.close()
        psql = None
    connection = connect("postgres")
    cursor = connection.cursor()
    cursor.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
    for role in roles:
        cursor.execute(SQL("DROP ROLE IF EXISTS {}").format(Identifier(role)))
    connection.close()


def make_database(database, *arguments):
    """Make a database, and run psql there with these arguments, in the root of the tree."""
    connection = connect("postgres")
    connection.cursor().execute(f"CREATE DATABASE {database}")
    connection.close()
    command = ["psql", "-X", "-q", "-o", "/dev/null", "-v", "ON_ERROR_STOP=1", "-d", database, *arguments]
    subprocess.run(command, check=True, cwd=WEB.parent, stdout=subprocess.DEVNULL)


@contextmanager
def web_server(state, database=DATABASE):
    """Start gunicorn on a free port.  Returns its address."""
    state.mkdir(exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "PGUSER": "poser_web",
        "PGDATABASE": database,
        "POSER_WEB_STATE": str(state),
        "POSER_WEB_HTTP": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-m", "gunicorn", "--chdir", WEB, "--config", WEB / "gunicorn.conf.py", "--bind", f"127.0.0.1:{port}"]
    with open(state / "log", "w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        for _ in range(10 * SECONDS):
            if socket.socket().connect_ex(("127.0.0.1", port)) == 0:
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(SECONDS)
        print("".join(f"# {line}" for line in open(state / "log") if re.match(r"\S.* ERROR |[\w.]+(Error|Exception)\b", line)), end="")


### The browser


class Browser:
    """One user's browser.  A click waits until the next page is there."""

    def __init__(self, address, folder, javascript=True):
        self.address, self.downloads = address, folder / "downloads"
        self.downloads.mkdir(parents=True)
        options = webdriver.ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", f"--user-data-dir={folder}/profile"):
            options.add_argument(argument)
        options.add_argument("--window-size=1200,900")
        preferences = {"download.default_directory": str(self.downloads)}
        if not javascript:
            preferences["profile.managed_default_content_settings.javascript"] = 2
        options.add_experimental_option("prefs", preferences)
        self.driver = webdriver.Chrome(service=Service("/usr/bin/chromedriver"), options=options)
        self.driver.set_page_load_timeout(SECONDS)
        self.driver.set_script_timeout(SECONDS)

    # Pages

    def open(self, path):
        self.driver.get(self.address + path)
        self.look()

    def script(self, script, *values):
        """Run a script in the page.  Returns what it returns."""
        return self.driver.execute_script(script, *values)

    def path(self):
        """The page's address, without the server's."""
        return self.driver.current_url[len(self.address) :]

    def status(self):
        """The status with which the server has answered."""
        return self.script("return performance.getEntriesByType('navigation')[0].responseStatus")

    def find(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector="body"):
        """What a user can read in the first element that the selector finds."""
        return self.script(TEXT + "return text(document.querySelector(arguments[0]))", selector)

    def texts(self, selector):
        """What a user can read in each of these elements.  One script, since each question to the driver takes its time."""
        return self.script(TEXT + "return all(arguments[0]).map(text)", selector)

    def rows(self, selector):
        """What a user can read in the cells of these rows of a table."""
        return self.script(TEXT + "return rows(arguments[0])", selector)

    def element(self, element):
        """An element itself, or the first that a selector finds."""
        return self.find(element) if isinstance(element, str) else element

    def wait(self, condition, what="what the test waits for"):
        """Wait until the condition is true.  Returns its value."""
        return WebDriverWait(self.driver, SECONDS, 0.05).until(lambda driver: condition(), f"{what} has not come")

    # Actions of a user

    def fill(self, **values):
        for name, value in values.items():
            field = self.find(f'[name="{name}"]')
            field.clear()
            field.send_keys(value)

    def choose(self, name, label):
        """Choose the option with this label from a list."""
        Select(self.find(f'select[name="{name}"]')).select_by_visible_text(label)

    def tick(self, element, on=True):
        element = self.element(element)
        if element.is_selected() != on:
            element.click()

    @contextmanager
    def next_page(self):
        """The block under "with" leads to another page."""
        self.script("window.isOld = true")
        yield
        # The driver can raise errors while the old page goes.  Then the wait goes on.
        WebDriverWait(self.driver, SECONDS, 0.05, [WebDriverException]).until(
            lambda driver: self.script("return !window.isOld && document.readyState === 'complete'"), "the next page has not come"
        )
        self.look()

    def click(self, element):
        """Click on a link or button that leads to another page."""
        with self.next_page():
            # A page that is still being laid out can move under the pointer.  Then the click is repeated.
            wait = WebDriverWait(self.driver, SECONDS, 0.05, [ElementClickInterceptedException])
            wait.until(lambda driver: self.element(element).click() or True, f"{element} is covered")

    def follow(self, text):
        self.click(self.driver.find_element(By.LINK_TEXT, text))

    def save(self):
        self.click('[name="_save"]')

    def log_in(self, role, password=None):
        self.open("/")
        self.fill(username=role, password=password or ROLES[role])
        self.click('[type="submit"]')

    def act(self, action, *keys, **values):
        """In a grid, select the rows with these keys, choose an action, and click Go.  values
        are for fields beside the action, such as why."""
        for key in keys:
            self.tick(f'#result_list .action-select[value="{key}"]')
        self.choose("action", action)
        self.fill(**values)
        self.click('button[name="index"], .actions [type="submit"]')

    def download(self, element):
        """Click on a link to a file, and wait for the file.  Returns its path."""
        before = set(self.downloads.iterdir())
        self.element(element).click()
        return self.wait(lambda: next(iter(self.complete() - before), None), "the file")

    def complete(self):
        return {file for file in self.downloads.iterdir() if not file.name.startswith(".") and file.suffix != ".crdownload"}

    def choose_file(self, content, file="rows.csv", field='[type="file"]'):
        """Choose a file of this content (bytes, or text as UTF-8) for an upload."""
        path = self.downloads.parent / file
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        self.find(field).send_keys(str(path))

    # The keyboard

    def press(self, *keys):
        ActionChains(self.driver).send_keys(*keys).perform()

    def focused(self):
        return self.driver.switch_to.active_element

    def tab_to(self, selector, most=300):
        """Press Tab until the element has the focus.  Each element on the way must show its focus."""
        for _ in range(most):
            self.press(Keys.TAB)
            is_it, shown, html = self.script(FOCUS, selector)
            assert shown, f"the focus cannot be seen on {html}"
            if is_it:
                return
        raise AssertionError(f"Tab does not reach {selector}")

    # Requirements on all pages

    @contextmanager
    def narrow(self, width=400, height=800):
        """Make the window another size, by default that of a telephone."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        try:
            yield
        finally:
            self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def look(self):
        """Look for flaws of a page, unless a test has opened it before."""
        url, errors = self.script("return [location.href, document.querySelector('.errorlist, .errornote') !== null]")
        path = re.sub(r"(?<=/)[^/]*[0-9][^/]*(?=/)", "KEY", url[len(self.address) :].partition("?")[0])
        if (path, errors) not in LOOKED_AT and url.startswith(self.address):
            LOOKED_AT[path, errors] = found = self.flaws()
            with self.narrow():
                found += [f"in a narrow window, {flaw}" for flaw in self.flaws() if flaw not in found]

    def flaws(self):
        """A list of sentences: what is wrong with the page in a narrow window, by keyboard, or
        with a screen reader."""
        return self.script(FLAWS)

    def screenshot(self, file, width=1200, height=720):
        """Write an image of the page's upper part."""
        with self.narrow(width, height):
            self.script("document.activeElement.blur()")
            self.driver.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
            self.driver.save_screenshot(str(file))

    def complaints(self):
        """The messages in the browser's console."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


# text(element): the text as it is shown, without spaces that are not; empty if the element is not shown.
TEXT = r"""
const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
const text = element => element.getClientRects().length ? element.innerText.replace(/[^\S\n]+/g, " ").replace(/ ?\n\s*/g, "\n").trim() : "";
const rows = (selector, inside = document) => all(selector, inside).map(row => [...row.cells].map(text));
"""

# Whether this element has the focus, whether the focus is visible, and the element that has it.
FOCUS = """
const element = document.activeElement, style = getComputedStyle(element);
return [element.matches(arguments[0]), element === document.body || style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1,
        element.outerHTML.slice(0, 200)];
"""

FLAWS = """
const found = [], all = selector => [...document.querySelectorAll(selector)];
const seen = element => element.offsetParent !== null, show = element => element.outerHTML.slice(0, 150);
const each = (selector, good, what) => all(selector).filter(e => seen(e) && !good(e)).forEach(e => found.push(what + ": " + show(e)));
const has = (element, name) => (element.getAttribute(name) || "").trim() !== "";
const named = e => e.textContent.trim() !== "" || has(e, "aria-label") || has(e, "title") || e.querySelector("img[alt]:not([alt=''])");
const root = document.documentElement;

if (!root.lang) found.push("the page has no language");
if (!document.title.trim()) found.push("the page has no title");
if (!all("h1").some(seen)) found.push("the page has no heading");
if (root.scrollWidth > innerWidth) {
    const wide = all("body *").filter(e => seen(e) && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.tagName + "." + e.className);
    found.push(`the page is ${root.scrollWidth} wide in a window of ${innerWidth}: ${wide.slice(0, 6)}`);
}
each("input:not([type=hidden]):not([type=submit]):not([type=button]), select, textarea",
     e => e.labels.length && [...e.labels].some(named) || has(e, "aria-label") || has(e, "aria-labelledby") || has(e, "title"),
     "a field without a label");
each("a[href], button", named, "a link or button without a name");
each("a:not([href])[onclick], [tabindex]:not([tabindex='0']):not([tabindex='-1'])", e => false, "not in the order of Tab");
each("select:not([multiple])", e => e.offsetWidth >= 60, "a list that is too narrow to read");
each(".form-row.hidden", e => false, "the label of a hidden field");
each("img", e => e.hasAttribute("alt"), "an image without a text");
each(".form-row.errors :is(input, select, textarea):not([type=hidden])", e => e.ariaInvalid === "true" && (e.title || has(e, "aria-describedby")),
     "a field that does not say its error");
each("thead th", e => e.closest(".inline-group") || has(e, "scope"), "a column's head without a scope");
each("tbody th", e => has(e, "scope") || e.closest("#result_list"), "a row's head without a scope");
const ids = all("[id]").map(e => e.id);
[...new Set(ids.filter((id, i) => ids.indexOf(id) !== i))].forEach(id => found.push("an id is there twice: " + id));
all("label[for]").filter(e => !document.getElementById(e.htmlFor)).forEach(e => found.push("a label of nothing: " + show(e)));
return found;
"""


class Browsers(dict):
    """The browsers, which start when a test asks for them:

    alice, bob    two users; the first tests log them in
    plain         without JavaScript; web_alice is logged in
    """

    def __init__(self, address, folder):
        super().__init__()
        self.address, self.folder = address, folder

    def __missing__(self, name):
        self[name] = browser = Browser(self.address, self.folder / name, javascript=name != "plain")
        if name == "plain":
            browser.log_in("web_alice")
        return browser

    def quit(self):
        for browser in self.values():
            browser.driver.quit()


### Tests

TESTS = []


def test(function):
    """A test.  Its parameters are the browsers that it needs."""
    TESTS.append(function)
    return function


def same(is_, expected):
    assert is_ == expected, f"{is_!r} is not {expected!r}"
