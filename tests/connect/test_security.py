"""What an attacker would try: forged forms, foreign redirects, fixed sessions, oversized or odd requests."""

import http.client
import re
import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.cookies import Morsel, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import psycopg
import pytest
import requests

from symvanta_pipeline.connect.app import MOST_WAITING
from symvanta_pipeline.connect.server import MOST_CONNECTIONS
from symvanta_pipeline.ledger.consent_requests import UNUSED_PER_SESSION
from symvanta_pipeline.sandbox.dagster_stack import free_port
from symvanta_pipeline.sandbox.login.config import LoginConfig
from symvanta_pipeline.sandbox.login.control import LoginServer, start_login
from symvanta_pipeline.sandbox.postgres import EmbeddedPostgres
from tests.support.parts import refusing_connections, until
from tests.support.site import Site, connect_app, run_command
from tests.support.visitor import Page, Visitor

# Every page of the app, with what a stranger gets for it.
PAGES = {
    "/vanta/install": 303,
    "/vanta/callback": 400,
    "/orgs/acme/vanta": 303,
    "/auth/login": 303,
    "/auth/callback": 400,
    "/auth/logout": 200,
    "/healthz": 200,
    "/static/connect.css": 200,
    "/nowhere": 404,
}


def signed_in(site: Site) -> tuple[str, Visitor, Page]:
    organization, slug = site.organization()
    visitor, page = site.visit(f"/orgs/{slug}/vanta", site.admin(organization))
    assert page.status == 200
    return slug, visitor, page


# What is refused whoever asks, and how to ask for it.
REFUSED: list[tuple[int, str, str, dict[str, Any]]] = [
    (403, "POST", "/auth/logout", {"headers": {"Sec-Fetch-Site": "cross-site"}}),
    (405, "PUT", "/vanta/callback", {}),
    (405, "POST", "/vanta/install", {}),
    (413, "POST", "/orgs/acme/vanta", {"data": b"x" * 100_000}),
    (431, "GET", "/orgs/acme/vanta", {"headers": {"Cookie": "x" * 40_000}}),
    (400, "GET", "/vanta/install", {"headers": {"Host": "evil.example"}}),
]


def has_the_headers(headers: Mapping[str, str]) -> None:
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "base-uri 'none'" in policy
    assert "unsafe" not in policy
    assert "script-src" not in policy  # there is no script at all
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert "server" not in {name.lower() for name in headers}


def session_cookie(visitor: Visitor) -> str:
    return str(visitor.http.cookies["symvanta"])


class TestHeaders:
    @pytest.mark.parametrize(("path", "status"), PAGES.items())
    def test_every_answer_has_them(self, site: Site, path: str, status: int) -> None:
        answer = requests.get(site.url + path, timeout=60, allow_redirects=False)
        assert answer.status_code == status
        has_the_headers(answer.headers)

    @pytest.mark.parametrize(("status", "method", "path", "extra"), REFUSED)
    def test_every_refusal_has_them(
        self, site: Site, status: int, method: str, path: str, extra: dict[str, Any]
    ) -> None:
        answer = requests.request(method, site.url + path, timeout=60, allow_redirects=False, **extra)
        assert answer.status_code == status
        has_the_headers(answer.headers)

    def test_what_somebody_who_is_signed_in_sees_has_them(self, site: Site) -> None:
        (first, slug), (second, _) = site.organization(), site.organization()
        visitor, page = site.visit("/vanta/install", site.admin(first, second))
        assert page.heading == "Which organization do you want to connect?"
        has_the_headers(page.headers)
        for path, status in (
            (f"/orgs/{slug}/vanta", 200),
            (f"/orgs/{slug}/vanta?confirm=disconnect", 200),
            ("/orgs/somebody-else/vanta", 403),
            ("/vanta/callback?state=x&code=y", 400),
        ):
            page = visitor.get(site.url + path)
            assert page.status == status
            has_the_headers(page.headers)
        answer = visitor.http.post(f"{site.url}/orgs/{slug}/vanta", {"action": "connect"}, timeout=60)
        assert answer.status_code == 403
        has_the_headers(answer.headers)

    def test_forms_lead_only_to_https_and_to_the_stand_ins(self, site: Site) -> None:
        """A browser blocks without a word where a form's redirects lead elsewhere, as Vanta's own login may."""
        policy = requests.get(f"{site.url}/healthz", timeout=60).headers["Content-Security-Policy"]
        [allowed] = re.findall(r"form-action ([^;]+)", policy)
        assert set(allowed.split()) == {"'self'", "https:", site.vanta.url, site.login.url}

    def test_pages_hold_no_script_and_nothing_inline(self, site: Site) -> None:
        _, _, page = signed_in(site)
        assert not re.search(r"<script|<style|\sstyle=|\son\w+=|javascript:", page.html, re.IGNORECASE)


class TestForms:
    @pytest.mark.parametrize("token", ["", "0" * 64, "é", None])
    @pytest.mark.parametrize("action", ["connect", "disconnect"])
    def test_a_form_without_its_token_changes_nothing(self, site: Site, action: str, token: str | None) -> None:
        organization, slug = site.organization()
        visitor, _ = site.connected(slug, site.admin(organization))
        before = site.token(organization)
        content = {"action": action} | ({} if token is None else {"csrf": token})
        answer = visitor.http.post(f"{site.url}/orgs/{slug}/vanta", content, timeout=60, allow_redirects=False)
        assert answer.status_code == 403
        assert "Nothing was changed" in answer.text
        assert site.token(organization) == before

    def test_another_persons_token_is_no_token(self, site: Site) -> None:
        slug, visitor, _ = signed_in(site)
        _, _, foreign = signed_in(site)
        content = {"action": "connect", "csrf": foreign.form("Connect Vanta").fields["csrf"]}
        answer = visitor.http.post(f"{site.url}/orgs/{slug}/vanta", content, timeout=60, allow_redirects=False)
        assert answer.status_code == 403

    @pytest.mark.parametrize("where", ["cross-site", "same-site"])
    def test_a_form_that_another_site_sends_changes_nothing(self, site: Site, where: str) -> None:
        """Even with the right token, should it ever leak."""
        slug, visitor, page = signed_in(site)
        content = {"action": "connect", "csrf": page.form("Connect Vanta").fields["csrf"]}
        answer = visitor.http.post(
            f"{site.url}/orgs/{slug}/vanta",
            content,
            timeout=60,
            allow_redirects=False,
            headers={"Sec-Fetch-Site": where},
        )
        assert answer.status_code == 403

    def test_signing_out_needs_the_token_too(self, site: Site) -> None:
        slug, visitor, _ = signed_in(site)
        assert visitor.http.post(f"{site.url}/auth/logout", {}, timeout=60).status_code == 403
        assert visitor.get(f"{site.url}/orgs/{slug}/vanta").status == 200

    def test_another_site_cannot_sign_anybody_out(self, site: Site) -> None:
        """A cross-site form comes without the cookie: the answer must not take it away from the browser."""
        foreign = {"Sec-Fetch-Site": "cross-site"}
        for headers in (foreign, {}):
            answer = requests.post(f"{site.url}/auth/logout", headers=headers, timeout=60, allow_redirects=False)
            assert "Set-Cookie" not in answer.headers
            assert not answer.headers.get("Location", "").startswith(site.login.url)

    def test_a_token_of_one_form_is_none_for_another(self, site: Site) -> None:
        slug, visitor, page = signed_in(site)
        content = {"action": "connect", "csrf": page.form("Sign out").fields["csrf"]}
        answer = visitor.http.post(f"{site.url}/orgs/{slug}/vanta", content, timeout=60, allow_redirects=False)
        assert answer.status_code == 403

    def test_an_unknown_action_is_refused(self, site: Site) -> None:
        slug, visitor, page = signed_in(site)
        content = {"action": "delete", "csrf": page.form("Connect Vanta").fields["csrf"]}
        assert visitor.http.post(f"{site.url}/orgs/{slug}/vanta", content, timeout=60).status_code == 400

    def test_a_form_of_a_stranger_leads_to_the_login(self, site: Site) -> None:
        answer = requests.post(f"{site.url}/orgs/acme/vanta", {"action": "connect"}, timeout=60, allow_redirects=False)
        assert (answer.status_code, answer.headers["Location"]) == (303, "/auth/login?next=%2Forgs%2Facme%2Fvanta")


class TestReading:
    """A GET changes nothing that anybody could mind, wherever a stranger's page sends a browser."""

    def test_a_button_that_is_pressed_by_a_link_is_not_pressed(self, site: Site) -> None:
        organization, slug = site.organization()
        visitor, _ = site.connected(slug, site.admin(organization))
        before = site.token(organization)
        question = visitor.get(f"{site.url}/orgs/{slug}/vanta?confirm=disconnect")
        fields = question.form("Disconnect Vanta").fields
        for action in ("disconnect", "connect"):
            page = visitor.get(f"{site.url}/orgs/{slug}/vanta?{urlencode({**fields, 'action': action})}")
            assert (page.status, page.path) == (200, f"/orgs/{slug}/vanta")
        connection = site.connection(organization)
        assert connection is not None
        assert (connection.state, connection.generation, site.token(organization)) == ("connected", 1, before)
        assert [event for event, _ in site.audit(organization)] == ["consent_asked", "connected"]

    def test_opening_the_installation_url_over_and_over_fills_no_table(self, site: Site) -> None:
        """Any page can send an admin's browser there; what is append-only must not grow by it."""
        organization, _ = site.organization()
        visitor, page = site.visit("/vanta/install", site.admin(organization))
        for _ in range(12):
            page = visitor.get(f"{site.url}/vanta/install")
            assert page.url.startswith(site.vanta.url)
        assert site.audit(organization) == [("consent_asked", None)]
        [(waiting,)] = site.ledger.execute(
            "SELECT count(*) FROM consent_requests WHERE organization_id = %s", [organization]
        ).fetchall()
        assert waiting == UNUSED_PER_SESSION
        assert visitor.submit(page, "Allow").status == 200


class TestRedirects:
    def test_signing_in_as_somebody_else_leads_to_our_own_pages_only(self, site: Site) -> None:
        (own, _), path = site.organization(), "/orgs/..%2f..%2fevil.example%2f/vanta"
        visitor, page = site.visit("/vanta/install", site.admin(own), until=site.vanta.url)
        page = visitor.get(site.url + path)
        assert page.status in (403, 404)
        login = visitor.get(f"{site.url}/auth/login?again&next={quote('//evil.example/vanta', safe='')}")
        page = site.sign_in(visitor, login, site.admin(own), until=f"{site.url}/vanta/install")
        assert page.via[-1] == f"{site.url}/vanta/install"

    @pytest.mark.parametrize(
        "wanted",
        [
            "https://evil.example/",
            "//evil.example/",
            "/\\evil.example/",
            "/orgs/../../evil.example/vanta",
            "/orgs/a/vanta/../../../evil",
            "/orgs/a/vanta?x=//evil.example",
            "/orgs/a/vanta#x",
            "/orgs//evil.example/vanta",
            "/vanta/install\r\nX-Evil: 1",
            "javascript:alert(1)",
            "/auth/logout",
            "",
        ],
    )
    def test_a_sign_in_leads_to_our_own_pages_only(self, site: Site, wanted: str) -> None:
        organization, _ = site.organization()
        visitor = Visitor()
        page = visitor.get(f"{site.url}/auth/login?next={quote(wanted, safe='')}")
        page = site.sign_in(visitor, page, site.admin(organization), until=f"{site.url}/vanta/install")
        assert page.via[-1] == f"{site.url}/vanta/install"

    def test_vanta_is_named_by_the_settings_alone(self, site: Site) -> None:
        slug, visitor, _ = signed_in(site)
        page = visitor.get(f"{site.url}/orgs/{slug}/vanta?redirect_uri=https://evil.example&next=//evil.example")
        page = visitor.submit(page, "Connect Vanta")
        assert "evil" not in page.url
        assert urlsplit(page.url).netloc == urlsplit(site.vanta.url).netloc


class TestSessions:
    def test_the_id_changes_with_each_sign_in_and_the_old_one_is_dead(self, site: Site) -> None:
        """Session fixation: whoever planted or copied the cookie before a sign-in gains nothing by it."""
        organization, slug = site.organization()
        subject = site.admin(organization)
        visitor, _ = site.visit(f"/orgs/{slug}/vanta", subject)
        before = session_cookie(visitor)
        site.sign_in(visitor, visitor.get(f"{site.url}/auth/login?again"), subject)
        assert session_cookie(visitor) != before
        thief = Visitor()
        thief.http.cookies["symvanta"] = before
        assert thief.get(f"{site.url}/orgs/{slug}/vanta", until=site.login.url).url.startswith(site.login.url)

    def test_nobody_has_a_session_before_signing_in(self, site: Site) -> None:
        visitor = Visitor()
        visitor.get(f"{site.url}/vanta/install")
        assert "symvanta" not in visitor.http.cookies

    def test_signing_out_ends_it_for_a_copy_of_the_cookie_as_well(self, site: Site) -> None:
        slug, visitor, page = signed_in(site)
        copy = session_cookie(visitor)
        assert visitor.submit(page, "Sign out").heading == "You are signed out"
        assert "symvanta" not in visitor.http.cookies
        thief = Visitor()
        thief.http.cookies["symvanta"] = copy
        assert thief.get(f"{site.url}/orgs/{slug}/vanta", until=site.login.url).url.startswith(site.login.url)

    def test_signing_out_ends_it_at_the_login_too(self, site: Site) -> None:
        slug, visitor, page = signed_in(site)
        visitor.submit(page, "Sign out")
        assert visitor.get(f"{site.url}/orgs/{slug}/vanta").url.startswith(site.login.url)  # asks who it is

    def test_it_ends_after_an_hour(self, site: Site) -> None:
        slug, visitor, _ = signed_in(site)
        [(longest,)] = site.ledger.execute(
            "SELECT max(date_trunc('second', expires_at - created_at)) FROM web_sessions WHERE expires_at > now()"
        ).fetchall()
        assert longest.total_seconds() <= 3600
        site.ledger.execute("UPDATE web_sessions SET expires_at = now()")
        assert visitor.get(f"{site.url}/orgs/{slug}/vanta", until=site.login.url).url.startswith(site.login.url)

    def test_a_row_that_was_moved_lets_nobody_in(self, site: Site) -> None:
        """Write access to the table is no way in: the content is bound to the id that only the browser knows."""
        _, victim, _ = signed_in(site)
        slug, thief, _ = signed_in(site)
        site.ledger.execute(
            "UPDATE web_sessions SET content = (SELECT content FROM web_sessions ORDER BY created_at DESC OFFSET 1"
            " LIMIT 1) WHERE created_at = (SELECT max(created_at) FROM web_sessions)"
        )
        assert thief.get(f"{site.url}/orgs/{slug}/vanta", until=site.login.url).url.startswith(site.login.url)
        assert session_cookie(victim) != session_cookie(thief)


class TestOddRequests:
    def test_a_large_body_is_refused(self, site: Site) -> None:
        answer = requests.post(f"{site.url}/orgs/acme/vanta", b"x" * 100_000, timeout=60)
        assert answer.status_code == 413

    def test_a_large_body_in_pieces_is_refused(self, site: Site) -> None:
        answer = requests.post(f"{site.url}/orgs/acme/vanta", iter([b"x" * 10_000] * 10), timeout=60)
        assert answer.status_code == 413

    def test_half_a_body_is_none(self, site: Site) -> None:
        """A connection that breaks in the middle of a form must not press its button."""
        organization, slug = site.organization()
        visitor, _ = site.connected(slug, site.admin(organization))
        page = visitor.get(f"{site.url}/orgs/{slug}/vanta?confirm=disconnect")
        token = page.form("Disconnect Vanta").fields["csrf"]
        cookie = "; ".join(f"{name}={value}" for name, value in visitor.http.cookies.items())
        content = f"csrf={token}&action=disconnect"
        lines = [f"POST /orgs/{slug}/vanta HTTP/1.1", "Host: 127.0.0.1", f"Cookie: {cookie}", "Content-Length: 5000"]
        with socket.create_connection(("127.0.0.1", urlsplit(site.url).port or 0)) as connection:
            connection.sendall("\r\n".join([*lines, "", content]).encode())
        assert requests.get(f"{site.url}/healthz", timeout=60).ok
        until(lambda: "POST static or unknown 0" in site.log.read_text(), "the request was dropped")
        assert site.token(organization) is not None

    def test_a_slash_at_the_end_leads_nowhere(self, site: Site) -> None:
        """A redirect to the address without it would be built from the Host that somebody sent, codes included."""
        answer = requests.get(
            f"{site.url}/vanta/callback/?code=secret",
            headers={"Host": "127.0.0.1:9"},
            timeout=60,
            allow_redirects=False,
        )
        assert answer.status_code == 404

    def test_a_state_that_is_no_ascii_is_refused(self, site: Site) -> None:
        _, visitor, _ = signed_in(site)
        assert visitor.http.get(f"{site.url}/auth/callback?state=%C3%A9&code=x", timeout=60).status_code == 400

    def test_large_headers_are_refused(self, site: Site) -> None:
        answer = requests.get(f"{site.url}/healthz", headers={"Cookie": "x" * 40_000}, timeout=60)
        assert answer.status_code == 431

    @pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
    def test_other_methods_are_refused(self, site: Site, method: str) -> None:
        """A HEAD of a link scanner must not use up a state."""
        assert requests.request(method, f"{site.url}/vanta/callback", timeout=60).status_code == 405

    @pytest.mark.parametrize("path", ["/vanta/install", "/vanta/callback", "/auth/callback", "/static/connect.css"])
    def test_a_post_where_none_belongs_is_refused(self, site: Site, path: str) -> None:
        assert requests.post(site.url + path, {"a": "b"}, timeout=60).status_code == 405

    @pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", ""])
    def test_a_foreign_host_is_refused(self, site: Site, host: str) -> None:
        """DNS rebinding would make a stranger's page the same origin as the app."""
        answer = requests.get(f"{site.url}/vanta/install", headers={"Host": host}, timeout=60, allow_redirects=False)
        assert answer.status_code == 400

    @pytest.mark.parametrize(
        "target",
        ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/orgs/%00/vanta", "/orgs/%ff/vanta"],
    )
    def test_odd_paths_lead_nowhere(self, site: Site, target: str) -> None:
        connection = http.client.HTTPConnection(urlsplit(site.url).netloc, timeout=60)
        connection.request("GET", target)  # as it stands: requests would tidy it up
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        assert answer.status in (303, 404)
        assert b"import" not in content

    def test_odd_cookies_are_nobody(self, site: Site) -> None:
        for value in ("x", "gAAAAA" * 50, "é", "a=b", '"'):
            answer = requests.get(
                f"{site.url}/orgs/acme/vanta",
                headers={"Cookie": f"symvanta={value}".encode()},
                timeout=60,
                allow_redirects=False,
            )
            assert answer.status_code == 303

    def test_a_parameter_given_twice_counts_as_none(self, site: Site) -> None:
        """Which of the two another program looks at is anybody's guess."""
        _, visitor, _ = signed_in(site)
        answer = visitor.http.get(f"{site.url}/vanta/callback?state=a&state=b&code=c", timeout=60)
        assert answer.status_code == 400

    def test_what_is_shown_is_escaped(self, site: Site) -> None:
        organization, slug = site.organization(name="<script>alert(1)</script>")
        _, page = site.visit(f"/orgs/{slug}/vanta", site.admin(organization))
        assert "<script>" not in page.html
        assert "&lt;script&gt;" in page.html


class TestOutages:
    def test_without_syms_database_nobody_is_let_in_and_it_says_so(
        self, site: Site, postgres: EmbeddedPostgres
    ) -> None:
        slug, visitor, _ = signed_in(site)
        with refusing_connections(site.env["SYM_DATABASE_URL"], postgres):
            page = visitor.get(f"{site.url}/orgs/{slug}/vanta")
            assert (page.status, page.heading) == (503, "Not available right now")
            has_the_headers(page.headers)
        site.sym.connection = psycopg.connect(site.env["SYM_DATABASE_URL"], autocommit=True)
        assert visitor.get(f"{site.url}/orgs/{slug}/vanta").status == 200


class TestManyAtOnce:
    def test_those_who_wait_for_the_login_keep_nobody_else_waiting(
        self, site: Site, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """Strangers could stop the app for everybody while Sym's login hangs."""
        cold = {**site.env, "CONNECT_PORT": str(free_port())}
        with connect_app(cold, tmp_path_factory.mktemp("cold")) as url:
            site.login.fault("slow", on="discovery", times=2, delay=10)
            try:
                with ThreadPoolExecutor(30) as strangers:
                    asked = [strangers.submit(requests.get, f"{url}/auth/login", timeout=60) for _ in range(30)]
                    until(lambda: site.login.faults()[0]["fired"], "the login was asked")
                    assert requests.get(f"{url}/healthz", timeout=3).text == "ok\n"
                    assert requests.get(f"{url}/auth/logout", timeout=3).status_code == 200
                    statuses = {answer.result().status_code for answer in asked}
            finally:
                site.login.clear_faults()
            assert 503 in statuses  # told at once, and not after a queue

    def test_those_who_wait_for_vanta_keep_nobody_else_waiting(self, site: Site) -> None:
        """Few threads may wait for a token; whoever comes on top is told so at once, and may come again."""
        links = [link for _ in range(3) for link in answers(site, 10)]
        slug, reader, _ = signed_in(site)
        first, late = links[:MOST_WAITING], links[MOST_WAITING:]
        site.vanta.fault("token", "slow_before", times=len(links), delay=15)
        try:
            with ThreadPoolExecutor(len(links)) as people:
                waiting = [people.submit(visitor.get, link) for visitor, link in first]
                until(lambda: site.vanta.faults()[0]["fired"] == MOST_WAITING, "as many wait as may")
                turned_away = list(people.map(lambda answer: answer[0].get(answer[1]), late))
                assert requests.get(f"{site.url}/healthz", timeout=5).text == "ok\n"
                assert reader.http.get(f"{site.url}/orgs/{slug}/vanta", timeout=5).status_code == 200
                assert not any(answer.done() for answer in waiting)
                assert [answer.result().status for answer in waiting] == [200] * MOST_WAITING
        finally:
            site.vanta.clear_faults()
        assert [page.status for page in turned_away] == [503] * len(late)
        has_the_headers(turned_away[0].headers)
        visitor, link = late[0]
        assert visitor.get(link).status == 200  # the answer was not used up

    def test_so_many_connections_and_no_more(self, site: Site) -> None:
        address = ("127.0.0.1", urlsplit(site.url).port or 0)
        with ExitStack() as idle:
            for _ in range(MOST_CONNECTIONS):
                idle.enter_context(socket.create_connection(address))
            until(lambda: requests.get(f"{site.url}/healthz", timeout=5).status_code == 503, "it is full")
        until(lambda: requests.get(f"{site.url}/healthz", timeout=5).status_code == 200, "there is room again")

    def test_junk_codes_stop_before_they_use_up_the_budget(self, site: Site) -> None:
        organization, slug = site.organization()
        visitor, _ = site.visit(f"/orgs/{slug}/vanta", site.admin(organization))
        statuses = []
        for _ in range(12):
            page = visitor.submit(visitor.get(f"{site.url}/orgs/{slug}/vanta"), "Connect Vanta")
            state = parse_qs(urlsplit(page.url).query)["state"][0]
            statuses.append(visitor.get(f"{site.url}/vanta/callback?state={state}&code=junk").status)
        assert statuses == [400] * 10 + [429] * 2


def answers(site: Site, count: int) -> list[tuple[Visitor, str]]:
    """Let one person allow so many organizations at Vanta, and stop right before coming back with each."""
    organizations = [site.organization() for _ in range(count)]
    subject = site.admin(*(organization for organization, _ in organizations))
    visitor, page = site.visit("/vanta/install", subject)
    links = []
    for _, slug in organizations:
        page = visitor.submit(visitor.get(f"{site.url}/orgs/{slug}/vanta"), "Connect Vanta")
        links.append((visitor, visitor.submit(page, "Allow", until=f"{site.url}/vanta/callback").url))
    return links


PUBLIC = "https://connect.sym.example"


@pytest.fixture(scope="module")
def https_login(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoginServer]:
    """A login that knows the app by its public address."""
    config = LoginConfig(redirect_uris=(f"{PUBLIC}/auth/callback",), logout_uris=(f"{PUBLIC}/auth/logout",))
    with start_login(config, log=tmp_path_factory.mktemp("login") / "log") as running:
        yield running


@pytest.fixture(scope="module")
def https_site(site: Site, https_login: LoginServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The same site, as a proxy that ends TLS would reach it."""
    settings = {
        "SYMVANTA_PUBLIC_URL": PUBLIC,
        "CONNECT_PORT": str(free_port()),
        "SYM_OIDC_ISSUER": https_login.url,
        "SYM_OIDC_CLIENT_ID": https_login.config.client_id,
        "SYM_OIDC_CLIENT_SECRET": https_login.config.client_secret.get_secret_value(),
    }
    with connect_app({**site.env, **settings}, tmp_path_factory.mktemp("https")) as url:
        yield url


def through_the_proxy(url: str, cookies: Mapping[str, str]) -> requests.Response:
    """Ask as the proxy does: the name is the public one, and the browser's cookies are passed on."""
    cookie = "; ".join(f"{name}={value}" for name, value in cookies.items())
    headers = {"Host": urlsplit(PUBLIC).netloc} | ({"Cookie": cookie} if cookie else {})
    return requests.get(url, headers=headers, timeout=60, allow_redirects=False)


def set_cookies(answer: requests.Response) -> "dict[str, Morsel[str]]":
    jar: SimpleCookie = SimpleCookie()
    for line in answer.raw.headers.getlist("Set-Cookie"):
        jar.load(line)
    return dict(jar)


class TestBehindTls:
    def test_cookies_are_secure_and_browsers_are_told_to_stay_with_https(self, https_site: str) -> None:
        answer = requests.get(
            f"{https_site}/auth/login", headers={"Host": "connect.sym.example"}, timeout=60, allow_redirects=False
        )
        cookie = answer.headers["Set-Cookie"]
        assert cookie.startswith("__Host-symvanta-login-")
        assert {"Secure", "HttpOnly", "SameSite=lax", "Path=/"} <= {part.strip() for part in cookie.split(";")}
        assert "Domain" not in cookie
        assert "max-age=31536000" in answer.headers["Strict-Transport-Security"]

    def test_a_whole_sign_in_leaves_one_secure_cookie(
        self, site: Site, https_site: str, https_login: LoginServer
    ) -> None:
        organization, slug = site.organization()
        subject = site.admin(organization)
        https_login.add_person(subject, subject)
        path = f"/orgs/{slug}/vanta"
        begun = through_the_proxy(f"{https_site}/auth/login?next={quote(path, safe='')}", {})
        [handshake] = set_cookies(begun).values()
        person = Visitor()
        back = person.submit(
            person.get(begun.headers["Location"]), "Sign in", until=f"{PUBLIC}/auth/callback", person=subject
        )
        finished = through_the_proxy(back.url.replace(PUBLIC, https_site), {handshake.key: handshake.value})
        assert (finished.status_code, finished.headers["Location"]) == (303, path)
        cookies = set_cookies(finished)
        forgotten, session = cookies.pop(handshake.key), cookies.pop("__Host-symvanta")
        assert cookies == {}
        for cookie, lifetime in ((session, "3600"), (forgotten, "0")):
            assert cookie["max-age"] == lifetime
            assert (cookie["path"], cookie["domain"], cookie["samesite"].lower()) == ("/", "", "lax")
            assert cookie["secure"]
            assert cookie["httponly"]
        page = through_the_proxy(https_site + path, {session.key: session.value})
        assert page.status_code == 200
        assert page.headers["Strict-Transport-Security"] == "max-age=31536000"
        for other in ("symvanta", "__Secure-symvanta"):
            assert through_the_proxy(https_site + path, {other: session.value}).status_code == 303

    def test_the_loopback_name_is_foreign_there(self, https_site: str) -> None:
        assert requests.get(f"{https_site}/vanta/install", timeout=60).status_code == 400

    def test_a_load_balancer_may_look_by_any_name(self, https_site: str) -> None:
        assert requests.get(f"{https_site}/healthz", timeout=60).status_code == 200


class TestStarting:
    def test_a_missing_setting_is_named(self, site: Site) -> None:
        done = run_command(site, "connect-app", SYM_OIDC_ISSUER="")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("symvanta: SYM_OIDC_ISSUER is not set: it should hold")

    def test_an_unknown_key_stops_it(self, site: Site) -> None:
        organization, slug = site.organization()
        site.connected(slug, site.admin(organization))
        other = site.env["SYMVANTA_TOKEN_KEYS"].replace("k1:", "k9:")
        done = run_command(site, "connect-app", "--port", "0", SYMVANTA_TOKEN_KEYS=other)
        assert done.returncode == 1
        assert "SYMVANTA_TOKEN_KEYS lacks: k1" in done.stderr

    def test_a_taken_port_is_named(self, site: Site) -> None:
        done = run_command(site, "connect-app", "--port", site.env["CONNECT_PORT"])
        assert done.returncode == 1
        assert f"port {site.env['CONNECT_PORT']}" in done.stderr
