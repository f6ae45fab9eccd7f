"""Requests pages of a web server one after another, as a browser with a session.

    web_rate.py login ADDRESS COOKIES USER PASSWORD
    web_rate.py get ADDRESS COOKIES SECONDS ROWS PATH     prints requests for each second, and the longest, in ms

COOKIES is a file.  In PATH, {n} is the number of a row, and {key} is its key.
"""
import hashlib
import random
import sys
import time
from http.cookiejar import MozillaCookieJar
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, build_opener


def login(browser, address, user, password):
    browser.open(f"{address}/login/", timeout=60).read()
    token = next(cookie.value for cookie in cookies if cookie.name == "csrftoken")
    form = {"username": user, "password": password, "csrfmiddlewaretoken": token, "next": "/"}
    with browser.open(f"{address}/login/", urlencode(form).encode(), timeout=60) as page:
        if "login" in page.geturl():
            sys.exit("the login fails")


def get(browser, address, seconds, rows, path):
    random.seed(1)
    longest, requests, start = 0, 0, time.monotonic()
    while time.monotonic() < start + float(seconds):
        n = random.randint(1, int(rows))
        begin = time.monotonic()
        with browser.open(address + path.format(n=n, key=hashlib.md5(str(n).encode()).hexdigest()), timeout=60) as page:
            page.read()
            if "login" in page.geturl():
                sys.exit("the session has ended")
        longest, requests = max(longest, time.monotonic() - begin), requests + 1
    print(requests / (time.monotonic() - start), 1000 * longest)


command, address, file, *values = sys.argv[1:]
cookies = MozillaCookieJar(file)
if command == "get":
    cookies.load(ignore_discard=True)
{"login": login, "get": get}[command](build_opener(HTTPCookieProcessor(cookies)), address, *values)
cookies.save(ignore_discard=True)
