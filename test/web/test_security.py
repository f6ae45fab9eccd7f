"""Security: sessions, passwords, limits of logins, code of other roles, and requests that no browser sends."""
import html
import http.client
import os
import re
import subprocess
import sys
import tempfile
import urllib.parse
from pathlib import Path

import psycopg2
from psycopg2.sql import SQL, Identifier, Literal

import harness
from harness import DATABASE, ROLES, WEB, make_database, remove_database, same, sql, test, web_server

LOGIN_PAGE = "/login/?next="


class Client:
    """A client that can send requests that a browser does not send."""

    def __init__(self, address):
        self.host, self.cookies, self.set = address.removeprefix("http://"), {}, {}

    def request(self, method, path, body=None, **headers):
        headers = {"Host": self.host, **{name.replace("_", "-"): value for name, value in headers.items()}}
        if self.cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        connection = http.client.HTTPConnection(self.host, timeout=harness.SECONDS)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        if body is not None:
            headers.setdefault("Content-Length", str(len(body)))
            headers.setdefault("Content-Type", "application/x-www-form-urlencoded")
        for name, value in headers.items():
            connection.putheader(name, value)
        try:
            connection.endheaders(body)
        except BrokenPipeError:
            pass  # the server has answered before it has read all
        response = connection.getresponse()
        response.text = response.read().decode()
        connection.close()
        for line in response.headers.get_all("Set-Cookie") or []:
            name, value = line.split(";")[0].split("=", 1)
            self.set[name] = line
            self.cookies[name] = value
            if not value.strip('"'):
                del self.cookies[name]
        return response

    def get(self, path, **headers):
        return self.request("GET", path, **headers)

    def post(self, path, fields=(), **headers):
        fields = {"csrfmiddlewaretoken": self.cookies.get("csrftoken", ""), **dict(fields)}
        return self.request("POST", path, urllib.parse.urlencode(fields).encode(), **headers)

    def log_in(self, role, password, next_page="/", **headers):
        """Send the form of the login page; the response."""
        if "csrftoken" not in self.cookies:
            self.get("/login/")
        return self.post("/login/", {"username": role, "password": password, "next": next_page}, **headers)

    def in_session(self):
        """Whether the start page is shown, and not the login page."""
        response = self.get("/")
        if response.status == 302:
            assert response.headers["Location"].startswith(LOGIN_PAGE), response.headers["Location"]
        return response.status == 200


def make_role(name, password, options="LOGIN"):
    sql(SQL("CREATE ROLE {} {} PASSWORD {}").format(Identifier(name), SQL(options), Literal(password)))
    sql(SQL("GRANT {} TO poser_web").format(Identifier(name)))


class role:
    """A role for one test."""

    def __init__(self, name, password="secret", options="LOGIN"):
        self.arguments = name, password, options

    def __enter__(self):
        make_role(*self.arguments)

    def __exit__(self, *error):
        sql(SQL("DROP OWNED BY {}").format(Identifier(self.arguments[0])))
        sql(SQL("DROP ROLE {}").format(Identifier(self.arguments[0])))


@test
def a_login_has_a_session_of_its_own_and_its_password_is_in_no_file(alice):
    client = Client(alice.address)
    client.log_in("web_alice", ROLES["web_alice"])
    planted = dict(client.cookies)
    client.log_in("web_alice", ROLES["web_alice"])
    for name in ("sessionid", "poser_key"):
        assert client.cookies[name] != planted[name], name
        for flag in ("HttpOnly", "SameSite=Lax"):
            assert flag in client.set[name], client.set[name]
    other = Client(alice.address)
    other.cookies = dict(planted)
    same(other.in_session(), False)
    other.cookies = {"sessionid": client.cookies["sessionid"]}  # half of it is worth nothing
    same(other.in_session(), False)
    state = alice.downloads.parents[1]
    for folder in (state, state / "sessions", state / "logins"):
        same(folder.stat().st_mode & 0o077, 0)
    files = list((state / "sessions").iterdir())
    assert any(client.cookies["sessionid"] in file.name for file in files)
    assert not any(planted["sessionid"] in file.name for file in files)
    for file in files:
        assert ROLES["web_alice"] not in file.read_text()
        same(file.stat().st_mode & 0o077, 0)


@test
def a_session_ends_when_the_server_would_no_longer_let_the_role_in(alice):
    changes = {
        "ALTER ROLE web_eve PASSWORD 'another'": "ALTER ROLE web_eve PASSWORD 'secret'",
        "ALTER ROLE web_eve NOLOGIN": "ALTER ROLE web_eve LOGIN",
        "ALTER ROLE web_eve VALID UNTIL '2001-01-01'": "ALTER ROLE web_eve VALID UNTIL 'infinity'",
        "REVOKE web_eve FROM poser_web": "GRANT web_eve TO poser_web",
        "ALTER ROLE web_eve SUPERUSER": "ALTER ROLE web_eve NOSUPERUSER",
        "ALTER ROLE web_eve RENAME TO web_evelyn": "ALTER ROLE web_evelyn RENAME TO web_eve",
        "DROP ROLE web_eve": "CREATE ROLE web_eve LOGIN PASSWORD 'secret'",
    }
    with role("web_eve"):
        for change, back in changes.items():
            client = Client(alice.address)
            client.log_in("web_eve", "secret")
            same((change, client.in_session()), (change, True))
            sql(change)
            try:
                same((change, client.in_session()), (change, False))
                assert "You have to log in again" in client.get("/login/").text
            finally:
                sql(back)
        # A new role with the same name and password does not get the old role's session.
        same(client.in_session(), False)
        # In the other cases the role may still log in, and its session goes on.
        sql("GRANT web_eve TO poser_web")
        client.log_in("web_eve", "secret")
        sql("ALTER ROLE web_eve CONNECTION LIMIT 0")
        response = client.get("/")
        same(response.status, 503)
        assert "Too many connections for role" in response.text, response.text
        sql("ALTER ROLE web_eve CONNECTION LIMIT -1")
        same(client.in_session(), True)


@test
def only_the_button_logs_out(alice):
    client = Client(alice.address)
    client.log_in("web_alice", ROLES["web_alice"])
    same(client.get("/logout/").status, 405)
    same(client.in_session(), True)
    same(client.request("POST", "/logout/", b"").status, 403)  # another site cannot know the token
    before = dict(client.cookies)
    same(client.post("/logout/").headers["Location"], "/login/")
    assert "poser_key" not in client.cookies
    client.cookies = before
    same(client.in_session(), False)


@test
def code_of_a_role_cannot_act_as_another(alice):
    sql(
        """
        CREATE TABLE web_secret (id int PRIMARY KEY, word text);
        INSERT INTO web_secret VALUES (1, 'of bob alone');
        GRANT SELECT ON web_secret TO web_bob;
        CREATE TABLE web_trap (id int PRIMARY KEY, code text, said text);
        CREATE FUNCTION web_trap() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            EXECUTE NEW.code;
            SELECT string_agg(word, ', ') INTO NEW.said FROM web_secret;
            RETURN NEW;
        END $$;
        CREATE TRIGGER web_trap BEFORE INSERT ON web_trap FOR EACH ROW EXECUTE FUNCTION web_trap();
        SELECT poser_track('web_trap');
        GRANT ALL ON web_trap TO web_alice;
        """
    )
    client = Client(alice.address)
    client.log_in("web_alice", ROLES["web_alice"])
    codes = ["SET ROLE web_bob", "RESET ROLE; SET ROLE web_bob", "SET LOCAL SESSION AUTHORIZATION web_bob", "RESET SESSION AUTHORIZATION",
             "SELECT set_config('role', 'web_bob', true)", "SELECT set_config('role', 'none', false)"]  # fmt: skip
    for number, code in enumerate(codes):
        response = client.post("/tables/web_trap/add/", {"id": number, "code": code, "said": ""})
        assert response.status in (200, 403), response.status
        assert "permission denied" in response.text.lower(), response.text
    same(sql("SELECT * FROM web_trap"), [])
    same(sql("SELECT count(*) FROM pg_stat_activity WHERE usename = 'poser_web'"), [(0,)])


@test
def what_another_role_has_planted_in_the_search_path_is_not_called(alice):
    """Columns of a text, so that an operator "=" of its very type would be preferred to the server's."""
    sql(
        """
        CREATE TABLE web_planted (id varchar(9) PRIMARY KEY, size int);
        INSERT INTO web_planted VALUES ('x', 1);
        CREATE TABLE web_planted_log (size int);
        CREATE FUNCTION web_planted_log() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
        BEGIN INSERT INTO web_planted_log VALUES (NEW.size); RETURN NEW; END $$;
        CREATE TRIGGER web_planted_log BEFORE UPDATE ON web_planted FOR EACH ROW EXECUTE FUNCTION web_planted_log();
        SELECT poser_track('web_planted');
        GRANT ALL ON web_planted TO web_alice;
        GRANT SELECT ON web_planted_version TO web_alice;
        REVOKE CREATE ON SCHEMA public FROM PUBLIC;
        """
    )
    client = Client(alice.address)
    client.log_in("web_alice", ROLES["web_alice"])
    page = "/tables/web_planted/x/change/"

    def save(size):
        seen = html.unescape(re.search('name="seen" value="([^"]*)"', client.get(page).text)[1])
        return client.post(page, {"size": size, "seen": seen, "_save": "1"})

    same(save(2).status, 302)  # a trigger without a search_path of its own finds its table
    assert "leaves it out" not in client.get("/").text
    sql("GRANT CREATE ON SCHEMA public TO PUBLIC")
    try:
        sql(
            """
            SET ROLE web_bob;
            CREATE FUNCTION public.web_equal(varchar, varchar) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RAISE 'foreign code'; END$$;
            CREATE OPERATOR public.= (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = public.web_equal);
            CREATE FUNCTION public.unnest(text[]) RETURNS SETOF text LANGUAGE plpgsql AS $$BEGIN RAISE 'foreign code'; END$$;
            CREATE FUNCTION public.jsonb_build_object(text, text) RETURNS jsonb LANGUAGE plpgsql AS $$BEGIN RAISE 'foreign code'; END$$;
            """
        )
        for path in ("?id=x", "?q=x", "?as_of=now", "x/change/", "x/history/", "deleted/", "export/csv/?id=x"):
            response = client.get("/tables/web_planted/" + path)
            same((path, response.status), (path, 200))
            assert "oreign code" not in response.text, path
        assert "leaves it out" in client.get("/").text
        assert "web_planted_log&quot; does not exist" in save(3).text
        sql("RESET ROLE")
        sql("ALTER FUNCTION web_planted_log() SET search_path = public")
        same(save(4).status, 302)
    finally:
        sql("RESET ROLE")
        sql("DROP OPERATOR public.= (varchar, varchar)")
        sql("DROP FUNCTION public.web_equal, public.unnest(text[]), public.jsonb_build_object(text, text)")
        sql("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    same(sql("SELECT size FROM web_planted_log"), [(2,), (4,)])


@test
def a_schema_of_the_search_path_is_left_out_only_if_all_may_create_there(alice):
    sql(
        """
        CREATE ROLE web_owner;
        CREATE SCHEMA web_shop AUTHORIZATION web_owner;
        CREATE SCHEMA web_alice AUTHORIZATION web_bob;
        ALTER ROLE web_alice SET search_path = "$user", web_shop, "web ""x%", public;
        CREATE SCHEMA "web ""x%";
        GRANT USAGE ON SCHEMA web_shop, web_alice, "web ""x%" TO web_alice;
        GRANT CREATE ON SCHEMA "web ""x%" TO web_alice;
        CREATE TABLE web_where (id int PRIMARY KEY, path text DEFAULT current_setting('search_path'));
        SELECT poser_track('web_where');
        GRANT ALL ON web_where TO web_alice;
        """
    )
    client = Client(alice.address)
    client.log_in("web_alice", ROLES["web_alice"])
    changes = ["SELECT 1", "ALTER SCHEMA web_alice OWNER TO web_alice", "GRANT CREATE ON SCHEMA web_shop TO web_bob",
               "GRANT CREATE ON SCHEMA web_shop, public TO PUBLIC"]  # fmt: skip
    try:
        for number, change in enumerate(changes):
            sql(change)
            client.post("/tables/web_where/add/", {"id": number})
        paths = [path for (path,) in sql("SELECT path FROM web_where ORDER BY id")]
        x, shop, own, public = '"web ""x%"', '"web_shop"', '"web_alice"', '"public"'
        expected = [[shop, x, public], [own, shop, x, public], [own, shop, x, public], [own, x]]
        same(paths, [", ".join(path) for path in expected])
    finally:
        sql("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        sql("ALTER ROLE web_alice RESET search_path")
        sql('DROP SCHEMA web_shop, web_alice, "web ""x%" CASCADE; DROP ROLE web_owner')


@test
def names_and_values_that_programs_stumble_over_are_shown(alice):
    """A template takes "items" for an item of a dict, if there is one.  Python reads no JSON that is nested deeply."""
    sql(
        """
        CREATE TABLE web_items (items int PRIMARY KEY, fields text);
        SELECT poser_track('web_items');
        GRANT ALL ON web_items TO web_alice;
        GRANT SELECT, INSERT, UPDATE, DELETE ON poser_batch, poser_batch_row TO web_alice;
        GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO web_alice;
        CREATE TABLE web_source AS SELECT 1 AS items, 'x' AS fields;
        """
    )
    client = Client(alice.address)
    client.log_in("web_alice", ROLES["web_alice"])
    deep = "[" * 3000
    for query in ("items=1", "items=1&as_of=now", f"_after={deep}", "q=" + "a+" * 1500):
        same((query[:20], client.get(f"/tables/web_items/?{query}").status), (query[:20], 200))
    response = client.post("/tables/poser_widget/merge/", {"a": "lamp1", "b": "seat1", "remains": "a", "seen": deep})
    assert "these have changed meanwhile" in response.text, response.text
    for params in ('"{0}"', "[1]", deep + "]" * 3000, '{"format": 1, "columns": 2}'):
        ((uuid,),) = sql("SELECT poser_batch_create('web_items', 'x', %s::jsonb)", params)
        sql("SELECT poser_batch_populate(%s, 'web_source', '{items}')", uuid)
        for text in ("x", f"was not there and is now {deep}", 'was not there and is now {"fields": "\\u0000"}', f"fields was {deep}"):
            sql("UPDATE poser_batch_row SET status = 'conflict', status_text = %s WHERE batch_uuid = %s", text, uuid)
            response = client.get(f"/batches/{str(uuid).replace('_', '_5F')}/")
            same((params[:9], text[:30], response.status), (params[:9], text[:30], 200))
            assert "items = 1" in response.text


@test
def an_error_in_the_middle_of_a_page_is_a_page_that_says_so(alice):
    """A policy of the table runs a statement from a setting, while the page reads the rows."""
    sql(
        """
        CREATE TABLE web_mine (id int PRIMARY KEY);
        INSERT INTO web_mine VALUES (1);
        CREATE FUNCTION web_mine() RETURNS boolean LANGUAGE plpgsql AS $$
        BEGIN EXECUTE current_setting('web.code'); RETURN true; END $$;
        ALTER TABLE web_mine ENABLE ROW LEVEL SECURITY;
        CREATE POLICY web_mine ON web_mine USING (web_mine());
        SELECT poser_track('web_mine');
        GRANT ALL ON web_mine TO web_alice;
        """
    )
    client = Client(alice.address)
    client.log_in("web_alice", ROLES["web_alice"])
    for code, status, says in [
        ("SELECT pg_terminate_backend(pg_backend_pid())", 503, "Try again"),
        ("INSERT INTO web_mine VALUES (2)", 503, "read-only"),
        ("SELECT 1 / 0", 200, "Division by zero"),  # may be the fault of what a filter asks for
        ("SELECT * FROM web_secret", 403, "You may not do this"),
        ("SELECT * FROM web_nothing", 409, "have changed meanwhile"),
        *((f"DO $$BEGIN RAISE 'x' USING ERRCODE = '{state}'; END$$", status, says) for state, status, says in [
            ("57014", 503, "too long"), ("55P03", 409, "holds a lock"), ("40P01", 409, "Another transaction"), ("40001", 409, "Another transaction"),
            ("53300", 503, "is out of connections"), ("25006", 503, "read-only"), ("57P03", 503, "stopped or restarted"), ("08006", 503, "does not answer"),
        ]),
    ]:  # fmt: skip
        sql(SQL("ALTER ROLE web_alice SET web.code = {}").format(Literal(code)))
        try:
            response = client.get("/tables/web_mine/")
            same((code, response.status), (code, status))
            assert says in response.text, (code, response.text)
            for hidden in ("PL/pgSQL", "CONTEXT", "EXECUTE"):
                assert hidden not in response.text, (code, response.text)
        finally:
            sql("ALTER ROLE web_alice SET web.code = 'SELECT 1'")
        same((code, client.get("/tables/web_mine/").status), (code, 200))


@test
def logins_that_fail_are_limited_for_a_name_and_an_address(alice):
    clients = [Client(alice.address) for _ in range(2)]
    with role("web_eve"):
        answers = set()
        for number in range(20):
            name = ("web_eve", "web_unknown")[number % 2]
            # POSER_WEB_PROXY is not set, so this header does not count.
            response = clients[0].log_in(name, "wrong", X_Forwarded_For=f"203.0.113.{number}")
            answers.add(re.sub(r'value="[^"]*"', "", response.text))
        same(len(answers), 1)  # the same for a role that is not there
        for name in ("web_eve", "web_unknown"):
            assert "Too many logins have failed" in clients[1].log_in(name, "secret").text
        same(clients[1].in_session(), False)
        same(clients[1].log_in("web_alice", ROLES["web_alice"]).status, 302)  # another name is free
    # A login that the server has not judged does not count.
    for name, password in (("", "x"), ("web_eve", ""), ("x" * 64, "x")):
        assert "The user or the password is wrong" in clients[0].log_in(name, password).text or "required" in clients[0].log_in(name, password).text


@test
def roles_and_passwords_of_any_characters_log_in(alice):
    names = ["Web Eve", 'web"eve', "web'eve", "web%s_eve", "web\\eve", "wéb_🙂", "w" * 63, "web;--", "<b>web</b>", "web  eve"]
    passwords = ["x" * 1000, "pässwörd 🙂", "a'b\"c\\d%s ", " ", "tab\tnew"]
    for number, name in enumerate(names):
        password = passwords[number % len(passwords)]
        with role(name, password):
            client = Client(alice.address)
            same((name, client.log_in(name, password).status), (name, 302))
            text = client.get("/").text
            assert name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;").replace("'", "&#x27;") in text, name


@test
def roles_that_may_not_be_here_are_not_let_in(alice):
    hba = Path(sql("SHOW hba_file")[0][0])
    rules = hba.read_text()
    make_role("web_super", "secret", "LOGIN SUPERUSER")
    make_role("web_nologin", "secret", "NOLOGIN")
    make_role("web_trusted", "secret")
    make_role("web_empty", "")
    sql("CREATE ROLE web_other LOGIN PASSWORD 'secret'")
    if sql("SELECT current_setting('server_version_num')::int >= 160000")[0][0]:
        sql("CREATE ROLE web_noset LOGIN PASSWORD 'secret'")
        sql("GRANT web_noset TO poser_web WITH SET FALSE, INHERIT TRUE")
        sql("CREATE ROLE web_noinherit LOGIN PASSWORD 'secret'")
        sql("GRANT web_noinherit TO poser_web WITH INHERIT FALSE")
        same(Client(alice.address).log_in("web_noinherit", "secret").status, 302)
    try:
        for name in ("web_super", "web_nologin", "web_other", "web_noset", "poser_web"):
            assert "The user or the password is wrong" in Client(alice.address).log_in(name, "secret").text, name
        client = Client(alice.address)
        client.log_in("web_trusted", "secret")
        same(client.in_session(), True)
        hba.write_text(f"local {DATABASE} web_trusted trust\n{rules}")
        sql("SELECT pg_reload_conf()")
        wait_for(lambda: can_connect("web_trusted"))
        same(client.in_session(), False)
        for password in ("secret", "wrong"):
            assert "The user or the password is wrong" in Client(alice.address).log_in("web_trusted", password).text
        assert "required" in Client(alice.address).log_in("web_empty", "").text
    finally:
        hba.write_text(rules)
        sql("SELECT pg_reload_conf()")
        wait_for(lambda: not can_connect("web_trusted"))
        for (name,) in sql("SELECT rolname FROM pg_roles WHERE rolname ~ '^web_(super|nologin|trusted|empty|other|noset|noinherit)$'"):
            sql(f"DROP ROLE {name}")


def can_connect(name):
    try:
        psycopg2.connect(dbname=DATABASE, user=name, password="wrong").close()
        return True
    except psycopg2.OperationalError:
        return False


def wait_for(condition):
    for _ in range(10 * harness.SECONDS):
        if condition():
            return
        sql("SELECT pg_sleep(0.1)")
    raise AssertionError("this has not come")


@test
def every_answer_has_the_headers_that_browsers_heed(alice):
    client = Client(alice.address)
    client.log_in("web_alice", ROLES["web_alice"])
    for path, status in [("/", 200), ("/login/", 302), ("/nothing/", 404), ("/static/admin/css/base.css", 200), ("/static/nothing", 404),
                         ("/logout/", 405), ("/tables/poser_widget/", 200), ("/jsi18n/", 200), ("/?x=%00", 400), ("/healthz", 200)]:  # fmt: skip
        response = client.get(path)
        same((path, response.status), (path, status))
        headers = response.headers
        for name, value in [("Content-Security-Policy", "default-src 'self'"), ("X-Content-Type-Options", "nosniff"), ("Referrer-Policy", "same-origin")]:
            assert headers.get(name, "").startswith(value), (path, name, headers[name])
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        if headers.get_content_type() == "text/html":
            assert "style=" not in response.text and "<style" not in response.text, path
        if path in ("/", "/tables/poser_widget/"):
            assert "no-store" in headers["Cache-Control"], (path, headers["Cache-Control"])
    same(client.get("/healthz").text, "ok\n")


@test
def requests_that_no_browser_sends_are_refused(alice):
    client = Client(alice.address)
    client.log_in("web_alice", ROLES["web_alice"])
    grid = "/tables/poser_widget/"
    for method in ("OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"):
        same((method, client.request(method, grid).status), (method, 405))
    same(client.request("HEAD", grid).status, 200)
    same(client.get(grid, Host="evil.example").status, 400)
    for path in ("/r/1/2/", "/password_change/", "/doc/", "/admin/", "/tables/poser_widget/%FF/change/"):
        assert client.get(path).status in (302, 404), path
    assert client.get("/autocomplete/?app_label=tables&model_name=role&field_name=oid").status in (403, 404)
    for query in ("?q=%FF%FE", "?q=%ED%A0%80", "?p=-1", "?p=x", "?o=99", "?o=x.y", "?nothing=1", "?uuid__nothing=1", "?e=1", "?" + "q=1&" * 300):
        assert client.get(grid + query).status < 500, query
    same(client.get(grid + "?q=%00").status, 400)
    token = b"csrfmiddlewaretoken=" + client.cookies["csrftoken"].encode()
    page = "/tables/poser_widget/add/"
    for body, kind, status in [
        (token + b"&description=%FF%FE&uuid=web_x&active=on&_save=1", "application/x-www-form-urlencoded", (200, 302)),
        (token + b"&description=%00", "application/x-www-form-urlencoded", (400,)),
        (token + b"&x=1" * 6000, "application/x-www-form-urlencoded", (400,)),
        (token + b"&x=" + b"x" * 11_000_000, "application/x-www-form-urlencoded", (413,)),
        (token, "application/x-www-form-urlencoded; charset=base64", (400,)),
        (token, "application/x-www-form-urlencoded; charset=utf-16", (400,)),
        (token, "multipart/form-data", (400, 403)),
        (b"--b\r\nContent-Disposition: form-data; name=", "multipart/form-data; boundary=b", (400, 403)),
        (token, "application/json", (403,)),
    ]:
        response = client.request("POST", page, body, Content_Type=kind)
        assert response.status in status, (kind, body[:80], response.status)
    same(client.request("POST", grid + "merge/", token + b"&seen=x", Content_Type="application/x-www-form-urlencoded").status, 200)
    same(client.request("POST", page, b"", Content_Length="x").status in (400, 403), True)
    # Without a login a request may have 100,000 bytes.
    same(Client(alice.address).request("POST", "/login/", b"x" * 200_000, Content_Type="multipart/form-data; boundary=b").status, 413)
    for cookies in ({"sessionid": "../../etc/passwd"}, {"sessionid": "x" * 4000}, {**client.cookies, "poser_key": "ä€"}, {**client.cookies, "poser_key": ""}):
        other = Client(alice.address)
        other.cookies = {name: urllib.parse.quote(value) for name, value in cookies.items()}
        same(other.in_session(), False)
    same(client.in_session(), True)


@test
def a_login_leads_to_no_other_site(alice):
    for target in ("https://evil.example/", "//evil.example/", "/\\evil.example", "javascript:alert(1)", "http:///evil.example"):
        response = Client(alice.address).log_in("web_alice", ROLES["web_alice"], target)
        same((target, response.status, response.headers["Location"]), (target, 302, "/"))
    same(Client(alice.address).log_in("web_alice", ROLES["web_alice"], "/tables/poser_widget/?q=x").headers["Location"], "/tables/poser_widget/?q=x")
    for path in ("//evil.example", "//evil.example/..", "/tables//evil.example"):
        location = Client(alice.address).get(path).headers["Location"] or "/"
        assert location.startswith("/login/?next="), location


@test
def logins_that_fail_are_limited_for_an_address_behind_a_proxy(alice):
    os.environ["POSER_WEB_PROXY"] = "1"
    try:
        with tempfile.TemporaryDirectory() as folder, web_server(Path(folder) / "state") as address:
            client = Client(address)
            for number in range(100):
                text = client.log_in(f"web_unknown{number}", "wrong", X_Forwarded_For="2001:db8::1").text
                assert "The user or the password is wrong" in text, number
            for known_by in ("2001:db8::2", "203.0.113.1, 2001:db8::1"):
                assert "Too many logins have failed" in client.log_in("web_alice", ROLES["web_alice"], X_Forwarded_For=known_by).text
            same(client.log_in("web_alice", ROLES["web_alice"], X_Forwarded_For="2001:db8::1, 203.0.113.1").status, 302)
    finally:
        del os.environ["POSER_WEB_PROXY"]


@test
def a_database_without_the_extension_is_a_page_that_says_so(alice):
    database = "poser_web_empty"
    remove_database(database, [])
    make_database(database, "-c", "SELECT 1")
    try:
        with tempfile.TemporaryDirectory() as folder, web_server(Path(folder) / "state", database) as address:
            client = Client(address)
            client.log_in("web_alice", ROLES["web_alice"])
            for statement, says in [("SELECT 1", "does not have the extension"), ("CREATE EXTENSION poser VERSION '1.4'", "has poser 1.4")]:
                connection = harness.connect(database)
                connection.cursor().execute(statement)
                connection.close()
                response = client.get("/")
                same(response.status, 503)
                assert says in response.text, response.text
    finally:
        remove_database(database, [])


@test
def the_settings_pass_the_check_for_deployment(alice):
    with tempfile.TemporaryDirectory() as folder:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "POSER_WEB"))}
        environment.update(POSER_WEB_STATE=f"{folder}/state", PYTHONDONTWRITEBYTECODE="1")
        command = [sys.executable, WEB / "manage.py", "check", "--deploy", "--fail-level", "INFO"]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, done.stdout
        secret = Path(folder) / "state" / "secret"
        same(secret.stat().st_mode & 0o777, 0o600)
        before = secret.read_text()
        subprocess.run(command, env=environment, check=True, capture_output=True)
        same(secret.read_text(), before)
        tree = subprocess.run(["grep", "-rl", "SECRET_KEY = [\"']", WEB], capture_output=True, text=True)
        same(tree.stdout, "")
