"""Signing in through the stand-in for Sym's login, as a client does it with Authlib; and each of its faults."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest
import requests
from authlib.integrations.base_client import OAuthError
from authlib.integrations.requests_client import OAuth2Session
from joserfc import jwt
from joserfc.errors import (
    BadSignatureError,
    DecodeError,
    ExpiredTokenError,
    InvalidClaimError,
    InvalidKeyIdError,
    MissingClaimError,
    UnsupportedAlgorithmError,
)
from joserfc.jwk import KeySet
from pydantic import SecretStr

from symvanta_pipeline.sandbox.login.config import LoginConfig
from symvanta_pipeline.sandbox.login.control import LoginServer, start_login
from symvanta_pipeline.sandbox.login.faults import ENDPOINTS

REDIRECT_URI = "http://127.0.0.1:3080/auth/callback"
LOGOUT_URI = "http://127.0.0.1:3080/auth/logout"
SECRET = "a-secret-of-the-client"
ADA, BOB = "auth0|ada", "google-oauth2|bob"
VERIFIER = "verifier-of-43-to-128-unreserved-characters"
STATE, NONCE = "st&te", "n=nce"
DISCOVERY = "/.well-known/openid-configuration"


@pytest.fixture(scope="module")
def server() -> Iterator[LoginServer]:
    config = LoginConfig(
        client_secret=SecretStr(SECRET),
        redirect_uris=(REDIRECT_URI, f"{REDIRECT_URI}?keep=1"),
        logout_uris=(LOGOUT_URI,),
        people=[(ADA, "Ada Admin"), (BOB, "Bob <b>")],
    )
    with start_login(config) as running:
        yield running


@pytest.fixture
def login(server: LoginServer) -> Iterator[LoginServer]:
    """The module's server, with no fault on and nothing in its journal."""
    server.clear_faults()
    server.clear_journal()
    yield server
    server.clear_faults()


class Browser:
    """A browser with its own cookies, and the client that sent it."""

    def __init__(self, login: LoginServer, *, scope: str = "openid", method: str = "client_secret_basic") -> None:
        self.login = login
        self.http = requests.Session()
        self.client = OAuth2Session(
            login.config.client_id,
            SECRET,
            scope=scope,
            redirect_uri=REDIRECT_URI,
            token_endpoint_auth_method=method,
            code_challenge_method="S256",
        )

    def link(self, **extra: str) -> str:
        """Where the client sends the browser."""
        url, _ = self.client.create_authorization_url(
            f"{self.login.url}/authorize", state=STATE, nonce=NONCE, code_verifier=VERIFIER, **extra
        )
        return str(url)

    def open(self, url: str) -> requests.Response:
        return self.http.get(url, timeout=10, allow_redirects=False)

    def answer(self, url: str, **form: str) -> requests.Response:
        return self.http.post(url, form, timeout=10, allow_redirects=False)

    def sign_in(self, person: str = ADA, **extra: str) -> str:
        """Choose a person on the page; the address that the browser is sent back to."""
        url = self.link(**extra)
        page = self.open(url)
        assert (page.status_code, "Location" in page.headers) == (200, False)
        return self.answer(url, person=person).headers["Location"]

    def exchange(self, answer: str, **changes: str) -> dict[str, Any]:
        """What the client gets for the code."""
        parameters = {"state": STATE, "code_verifier": VERIFIER, **changes}
        token: dict[str, Any] = self.client.fetch_token(
            f"{self.login.url}/token", authorization_response=answer, timeout=10, **parameters
        )
        return token


def given(location: str) -> dict[str, str]:
    """The parameters that a browser is sent back with."""
    assert location.startswith(f"{REDIRECT_URI}?")
    return dict(parse_qsl(urlsplit(location).query))


def proven(login: LoginServer, id_token: str) -> dict[str, Any]:
    """The claims, if they hold against every check that a client must make."""
    keys = KeySet.import_key_set(requests.get(f"{login.url}/jwks", timeout=10).json())
    claims = jwt.decode(id_token, keys, algorithms=["RS256"]).claims
    jwt.JWTClaimsRegistry(
        iss={"essential": True, "value": login.url},
        aud={"essential": True, "value": login.config.client_id},
        nonce={"essential": True, "value": NONCE},
        sub={"essential": True},
        exp={"essential": True},
    ).validate(claims)
    return dict(claims)


def fired(login: LoginServer) -> list[int]:
    return [fault["fired"] for fault in login.faults()]


class TestSigningIn:
    @pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
    def test_from_the_page_to_a_proven_subject(self, login: LoginServer, method: str) -> None:
        browser = Browser(login, method=method)
        answer = browser.sign_in(ADA)
        assert set(given(answer)) == {"code", "state"}
        assert given(answer)["state"] == STATE
        token = browser.exchange(answer)
        assert (token["token_type"], token["expires_in"], bool(token["access_token"])) == ("Bearer", 3600, True)
        claims = proven(login, token["id_token"])
        assert set(claims) == {"iss", "sub", "aud", "exp", "iat", "nonce", "auth_time"}
        assert (claims["sub"], claims["exp"] - claims["iat"]) == (ADA, 3600)
        [asked, answered] = login.journal("authorize")
        assert (asked["status"], answered["status"], answered["subject"]) == (200, 303, ADA)
        [exchanged] = login.journal("token")
        assert (exchanged["status"], exchanged["auth_method"], exchanged["subject"]) == (200, method, ADA)

    def test_discovery_names_what_is_there(self, login: LoginServer) -> None:
        document = requests.get(f"{login.url}{DISCOVERY}", timeout=10).json()
        assert document["issuer"] == login.url
        assert document["response_types_supported"] == ["code"]
        assert document["code_challenge_methods_supported"] == ["S256"]
        assert document["id_token_signing_alg_values_supported"] == ["RS256"]
        endpoints = {name: url for name, url in document.items() if name.endswith(("_endpoint", "_uri"))}
        assert set(endpoints) == {"authorization_endpoint", "token_endpoint", "jwks_uri", "end_session_endpoint"}
        assert all(requests.get(url, timeout=10).status_code != 404 for url in endpoints.values())

    def test_name_and_address_go_to_those_alone_who_ask(self, login: LoginServer) -> None:
        browser = Browser(login, scope="openid profile email")
        claims = proven(login, browser.exchange(browser.sign_in(ADA))["id_token"])
        assert claims["name"] == "Ada Admin"
        assert claims["email"].endswith("@people.example")
        assert [entry["scope"] for entry in login.journal("authorize")] == ["openid profile email"] * 2

    def test_the_page_offers_everybody_by_label_and_escapes_it(self, login: LoginServer) -> None:
        login.add_person("auth0|new", "Newcomer")
        page = Browser(login).open(Browser(login).link())
        assert page.headers["Cache-Control"] == "no-store"
        assert 'lang="en"' in page.text
        assert ">Ada Admin</label>" in page.text
        assert ">Bob &lt;b&gt;</label>" in page.text
        assert ">Newcomer</label>" in page.text
        browser = Browser(login)
        assert proven(login, browser.exchange(browser.sign_in("auth0|new"))["id_token"])["sub"] == "auth0|new"

    @pytest.mark.parametrize("form", [{}, {"person": "auth0|stranger"}])
    def test_nobody_chosen_is_asked_again(self, login: LoginServer, form: dict[str, str]) -> None:
        answer = Browser(login).answer(Browser(login).link(), **form)
        assert answer.status_code == 400
        assert 'role="alert">Choose who signs in.' in answer.text

    def test_cancel(self, login: LoginServer) -> None:
        browser = Browser(login)
        answer = browser.answer(browser.link(), decision="cancel", person=ADA)
        assert answer.status_code == 303
        assert given(answer.headers["Location"]) == {"error": "access_denied", "state": STATE}
        assert login.journal("authorize")[-1]["error"] == "access_denied"
        assert browser.open(browser.link()).status_code == 200  # cancelling has signed nobody in

    def test_a_query_of_the_redirect_uri_is_kept(self, login: LoginServer) -> None:
        browser = Browser(login)
        browser.client.redirect_uri = f"{REDIRECT_URI}?keep=1"
        answer = browser.sign_in()
        assert set(given(answer)) == {"keep", "code", "state"}
        assert browser.exchange(answer)["id_token"]

    def test_two_tabs_at_once(self, login: LoginServer) -> None:
        browser = Browser(login)
        tabs = [browser.link(), browser.link()]
        assert [browser.open(url).status_code for url in tabs] == [200, 200]
        answers = [
            browser.answer(url, person=who).headers["Location"] for url, who in zip(tabs, (ADA, BOB), strict=True)
        ]
        subjects = [proven(login, browser.exchange(answer)["id_token"])["sub"] for answer in reversed(answers)]
        assert subjects == [BOB, ADA]


class TestSessionAtTheProvider:
    def test_the_second_sign_in_asks_nobody(self, login: LoginServer) -> None:
        browser = Browser(login)
        first = proven(login, browser.exchange(browser.sign_in())["id_token"])
        silent = browser.open(browser.link())
        assert silent.status_code == 302
        second = proven(login, browser.exchange(silent.headers["Location"])["id_token"])
        assert (second["sub"], second["auth_time"]) == (ADA, first["auth_time"])
        assert Browser(login).open(browser.link()).status_code == 200  # another browser is another matter

    @pytest.mark.parametrize("extra", [{"prompt": "login"}, {"prompt": "select_account"}, {"max_age": "0"}])
    def test_it_asks_again_where_it_is_told_to(self, login: LoginServer, extra: dict[str, str]) -> None:
        browser = Browser(login)
        browser.sign_in(ADA)
        answer = browser.sign_in(BOB, **extra)
        assert proven(login, browser.exchange(answer)["id_token"])["sub"] == BOB
        assert browser.open(browser.link(max_age="3600")).status_code == 302
        assert login.journal("authorize")[2]["prompt"] == extra.get("prompt")

    def test_prompt_none_shows_no_page(self, login: LoginServer) -> None:
        browser = Browser(login)
        refused = browser.open(browser.link(prompt="none"))
        assert given(refused.headers["Location"]) == {"error": "login_required", "state": STATE}
        browser.sign_in()
        assert "code" in given(browser.open(browser.link(prompt="none")).headers["Location"])

    def test_its_cookie(self, login: LoginServer) -> None:
        browser = Browser(login)
        first = browser.answer(browser.link(), person=ADA).headers["Set-Cookie"]
        assert "HttpOnly" in first
        assert "SameSite=lax" in first
        assert browser.answer(browser.link(prompt="login"), person=ADA).headers["Set-Cookie"] != first


class TestSigningOut:
    def test_with_the_client_id(self, login: LoginServer) -> None:
        browser = Browser(login)
        browser.sign_in()
        query = {"client_id": login.config.client_id, "post_logout_redirect_uri": LOGOUT_URI, "state": "s t"}
        out = self._out(browser, query)
        assert (out.status_code, out.headers["Location"]) == (302, f"{LOGOUT_URI}?state=s+t")
        assert login.journal("logout")[-1]["subject"] == ADA
        assert browser.open(browser.link()).status_code == 200

    def test_with_an_id_token_also_from_before_a_change_of_keys(self, login: LoginServer) -> None:
        browser = Browser(login)
        id_token = browser.exchange(browser.sign_in())["id_token"]
        login.rotate_keys()
        out = self._out(browser, {"id_token_hint": id_token, "post_logout_redirect_uri": LOGOUT_URI})
        assert out.headers["Location"] == LOGOUT_URI

    def test_without_a_place_to_go_to(self, login: LoginServer) -> None:
        browser = Browser(login)
        browser.sign_in()
        assert "You are signed out" in self._out(browser, {}).text
        assert browser.open(browser.link()).status_code == 200

    @pytest.mark.parametrize(
        "query",
        [
            {"client_id": "sym-connect-sandbox", "post_logout_redirect_uri": "http://127.0.0.1:3080/elsewhere"},
            {"client_id": "another", "post_logout_redirect_uri": LOGOUT_URI},
            {"post_logout_redirect_uri": LOGOUT_URI},
            {"id_token_hint": "not.an-id.token", "post_logout_redirect_uri": LOGOUT_URI},
            {"client_id": ["sym-connect-sandbox"] * 2, "post_logout_redirect_uri": LOGOUT_URI},
        ],
    )
    def test_a_doubtful_request_redirects_nobody_and_ends_nothing(
        self, login: LoginServer, query: dict[str, Any]
    ) -> None:
        browser = Browser(login)
        browser.sign_in()
        out = self._out(browser, query)
        assert (out.status_code, "Location" in out.headers) == (400, False)
        assert browser.open(browser.link()).status_code == 302

    def test_somebody_elses_id_token_signs_nobody_out(self, login: LoginServer) -> None:
        bob = Browser(login)
        of_bob = bob.exchange(bob.sign_in(BOB))["id_token"]
        browser = Browser(login)
        browser.sign_in(ADA)
        assert self._out(browser, {"id_token_hint": of_bob}).status_code == 400
        assert browser.open(browser.link()).status_code == 302

    @staticmethod
    def _out(browser: Browser, query: dict[str, Any]) -> requests.Response:
        return browser.http.get(f"{browser.login.url}/logout", params=query, timeout=10, allow_redirects=False)


class TestRefusedRequests:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"client_id": "another"}, "client_id is not"),
            ({"redirect_uri": "http://127.0.0.1:3081/auth/callback"}, "redirect_uri is not registered"),
            ({"redirect_uri": "https://evil.example/"}, "redirect_uri is not registered"),
            ({"response_type": "token"}, "response_type must be code"),
            ({"response_type": "code id_token"}, "response_type must be code"),
            ({"response_mode": "fragment"}, "response_mode must be query"),
            ({"scope": "profile"}, "scope must hold openid"),
            ({"scope": "openid phone"}, "scope must hold openid"),
            ({"code_challenge_method": "plain"}, "code_challenge_method must be S256"),
            ({"code_challenge": "short"}, "code_challenge must be"),
            ({"prompt": "none login"}, "prompt must be"),
            ({"prompt": "create"}, "prompt must be"),
            ({"max_age": "-1"}, "max_age must be"),
            ({"request": "x"}, "request is not supported"),
        ],
    )
    def test_a_wrong_parameter_is_named_and_nobody_is_redirected(
        self, login: LoginServer, change: dict[str, str], words: str
    ) -> None:
        self._refused(login, change, words)

    @pytest.mark.parametrize(
        "name",
        [
            "client_id",
            "redirect_uri",
            "response_type",
            "scope",
            "state",
            "nonce",
            "code_challenge",
            "code_challenge_method",
        ],
    )
    @pytest.mark.parametrize("count", [0, 2])
    def test_every_parameter_is_demanded_once(self, login: LoginServer, name: str, count: int) -> None:
        self._refused(login, {name: parse_qs(urlsplit(Browser(login).link()).query)[name] * count}, f"{name} must be")

    @staticmethod
    def _refused(login: LoginServer, change: dict[str, Any], words: str) -> None:
        """Neither for a person who is asked, nor for one who answers, nor for one who is signed in."""
        browser = Browser(login)
        browser.sign_in()
        url, query = browser.link().split("?", 1)
        changed = requests.Request("GET", url, params=parse_qs(query) | change).prepare().url
        assert changed is not None
        for answer in (browser.open(changed), browser.answer(changed, person=ADA)):
            assert (answer.status_code, "Location" in answer.headers) == (400, False)
            assert words in answer.text


class TestRefusedExchanges:
    def test_a_code_buys_one_token(self, login: LoginServer) -> None:
        browser = Browser(login)
        answer = browser.sign_in()
        browser.exchange(answer)
        with pytest.raises(OAuthError, match="used"):
            browser.exchange(answer)
        assert [entry["error"] for entry in login.journal("token")] == [None, "invalid_grant"]

    def test_whoever_lacks_the_verifier_gets_nothing(self, login: LoginServer) -> None:
        browser = Browser(login)
        with pytest.raises(OAuthError, match="invalid_grant"):
            browser.exchange(browser.sign_in(), code_verifier="w" * 43)

    @pytest.mark.parametrize(
        ("change", "status", "error"),
        [
            ({"client_secret": "wrong"}, 401, "invalid_client"),
            ({"client_id": "another"}, 401, "invalid_client"),
            ({"client_secret": ""}, 401, "invalid_client"),
            ({"grant_type": "password"}, 400, "unsupported_grant_type"),
            ({"grant_type": ""}, 400, "invalid_request"),
            ({"code": "guessed"}, 400, "invalid_grant"),
            ({"code": ["a", "b"]}, 400, "invalid_request"),
            ({"redirect_uri": f"{REDIRECT_URI}?keep=1"}, 400, "invalid_grant"),
            ({"redirect_uri": ""}, 400, "invalid_request"),
            ({"code_verifier": ""}, 400, "invalid_request"),
            ({"code_verifier": "short"}, 400, "invalid_request"),
        ],
    )
    def test_errors_are_those_of_rfc_6749(
        self, login: LoginServer, change: dict[str, Any], status: int, error: str
    ) -> None:
        form = self._form(Browser(login)) | change
        refused = requests.post(f"{login.url}/token", form, timeout=10)
        assert (refused.status_code, refused.json()["error"]) == (status, error)
        assert ("WWW-Authenticate" in refused.headers) == (status == 401)
        assert refused.headers["Cache-Control"] == "no-store"
        assert "id_token" not in refused.text

    def test_without_those_changes_it_is_accepted(self, login: LoginServer) -> None:
        assert requests.post(f"{login.url}/token", self._form(Browser(login)), timeout=10).status_code == 200

    @pytest.mark.parametrize("authorization", ["Basic !", "Basic bm90aGluZw==", "Bearer x", "Basic w7w6w7w="])
    def test_a_wrong_authorization_header(self, login: LoginServer, authorization: str) -> None:
        headers = {"Authorization": authorization}
        refused = requests.post(f"{login.url}/token", {"grant_type": "x"}, headers=headers, timeout=10)
        assert (refused.status_code, refused.json()["error"]) == (401, "invalid_client")

    def test_one_way_to_authenticate_and_one_kind_of_body(self, login: LoginServer) -> None:
        form = self._form(Browser(login))
        twice = requests.post(f"{login.url}/token", form, auth=(form["client_id"], SECRET), timeout=10)
        as_json = requests.post(f"{login.url}/token", json=form, timeout=10)
        assert [r.json()["error"] for r in (twice, as_json)] == ["invalid_request"] * 2

    @staticmethod
    def _form(browser: Browser) -> dict[str, Any]:
        return {
            "client_id": browser.login.config.client_id,
            "client_secret": SECRET,
            "grant_type": "authorization_code",
            "code": given(browser.sign_in())["code"],
            "redirect_uri": REDIRECT_URI,
            "code_verifier": VERIFIER,
        }


class TestFaults:
    @pytest.mark.parametrize(
        ("kind", "caught"),
        [
            ("wrong_nonce", InvalidClaimError),
            ("no_nonce", MissingClaimError),
            ("wrong_issuer", InvalidClaimError),
            ("wrong_audience", InvalidClaimError),
            ("expired", ExpiredTokenError),
            ("alg_none", UnsupportedAlgorithmError),
            ("foreign_key", BadSignatureError),
            ("hs256", UnsupportedAlgorithmError),
            ("no_subject", MissingClaimError),
            ("subject_not_text", InvalidClaimError),
            ("malformed", DecodeError),
        ],
    )
    def test_an_id_token_that_proves_nothing(self, login: LoginServer, kind: str, caught: type[Exception]) -> None:
        browser = Browser(login)
        login.fault(kind)
        with pytest.raises(caught):
            proven(login, browser.exchange(browser.sign_in())["id_token"])
        assert fired(login) == [1]
        assert login.journal("token")[-1]["faults"] == [kind]
        again = Browser(login)
        assert proven(login, again.exchange(again.sign_in())["id_token"])["sub"] == ADA

    def test_no_id_token(self, login: LoginServer) -> None:
        login.fault("no_id_token")
        browser = Browser(login)
        assert "id_token" not in browser.exchange(browser.sign_in())
        assert fired(login) == [1]

    def test_a_refused_grant_spends_the_code(self, login: LoginServer) -> None:
        login.fault("invalid_grant")
        browser = Browser(login)
        answer = browser.sign_in()
        for description in ("injected fault", "used"):
            with pytest.raises(OAuthError, match=description):
                browser.exchange(answer)
        assert fired(login) == [1]

    @pytest.mark.parametrize("on", ["discovery", "jwks", "authorize", "token", "logout"])
    def test_a_status_on_any_endpoint_as_often_as_it_was_asked_for(self, login: LoginServer, on: str) -> None:
        login.fault("status", times=2, on=on, status=503)
        login.fault("html", on=on)
        answers = [self._ask(login, on) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [503, 503, 200]
        assert answers[0].json()["error"] == "server_error"
        assert "<h1>Welcome</h1>" in answers[2].text
        assert fired(login) == [2, 1]
        assert [entry["faults"] for entry in login.journal(on)] == [["status"], ["status"], ["html"]]
        assert "Welcome" not in self._ask(login, on).text

    def test_a_failure_before_any_work_leaves_the_code_good(self, login: LoginServer) -> None:
        browser = Browser(login)
        answer = browser.sign_in()
        login.fault("status", on="token")
        with pytest.raises(requests.HTTPError):
            browser.exchange(answer)
        assert proven(login, browser.exchange(answer)["id_token"])["sub"] == ADA

    def test_slow(self, login: LoginServer) -> None:
        login.fault("slow", on="jwks", delay=30)
        with pytest.raises(requests.ReadTimeout):
            requests.get(f"{login.url}/jwks", timeout=0.2)
        assert fired(login) == [1]
        assert requests.get(f"{login.url}/jwks", timeout=10).status_code == 200

    def test_a_connection_that_breaks_off(self, login: LoginServer) -> None:
        login.fault("drop", on="discovery")
        with pytest.raises(requests.ConnectionError):
            self._ask(login, "discovery")
        assert fired(login) == [1]
        assert login.journal("discovery")[-1]["status"] is None

    @pytest.mark.parametrize("on", ["discovery", "jwks", "token"])
    def test_huge_and_still_valid(self, login: LoginServer, on: str) -> None:
        login.fault("huge", on=on, size=3_000_000)
        if on == "token":
            browser = Browser(login)
            assert browser.exchange(browser.sign_in())["id_token"]
        else:
            answer = self._ask(login, on)
            assert len(answer.content) > 3_000_000
            assert "Content-Length" not in answer.headers
            assert answer.json()
        assert fired(login) == [1]

    def test_an_issuer_of_another_name(self, login: LoginServer) -> None:
        login.fault("other_issuer")
        issuers = [self._ask(login, "discovery").json()["issuer"] for _ in range(2)]
        assert issuers == ["https://other-login.example", login.url]
        assert fired(login) == [1]

    def test_a_redirect_with_another_state(self, login: LoginServer) -> None:
        login.fault("other_state")
        answer = given(Browser(login).sign_in())  # the page that asks lets it wait
        assert "code" in answer
        assert answer["state"] != STATE
        assert fired(login) == [1]

    def test_a_redirect_with_an_error(self, login: LoginServer) -> None:
        login.fault("server_error")
        assert given(Browser(login).sign_in()) == {"error": "server_error", "state": STATE}
        assert fired(login) == [1]

    def test_a_new_key_is_published_alone(self, login: LoginServer) -> None:
        browser = Browser(login)
        old = browser.exchange(browser.sign_in())["id_token"]
        login.rotate_keys()
        with pytest.raises(InvalidKeyIdError):
            proven(login, old)
        new = Browser(login)
        assert proven(login, new.exchange(new.sign_in())["id_token"])["sub"] == ADA

    @pytest.mark.parametrize(
        "fault",
        [
            {"kind": "unheard_of"},
            {"kind": "status"},
            {"kind": "huge", "on": "logout"},
            {"kind": "wrong_nonce", "on": "jwks"},
            {"kind": "slow", "on": "token", "deley": 1},
            {"kind": "no_id_token", "times": 0},
        ],
    )
    def test_a_fault_that_cannot_be_is_refused(self, login: LoginServer, fault: dict[str, Any]) -> None:
        refused = requests.post(f"{login.url}/_sandbox/faults", json=fault, timeout=10)
        assert (refused.status_code, bool(refused.json()["error"])) == (400, True)
        assert login.faults() == []

    def test_every_kind_can_be_switched_on_everywhere_that_it_strikes(self, login: LoginServer) -> None:
        for kind, endpoints in ENDPOINTS.items():
            for endpoint in endpoints:
                login.fault(kind, on=endpoint)
        assert set(fired(login)) == {0}
        login.clear_faults()
        assert login.faults() == []

    @staticmethod
    def _ask(login: LoginServer, endpoint: str) -> requests.Response:
        if endpoint == "token":
            return requests.post(f"{login.url}/token", {"grant_type": "authorization_code"}, timeout=10)
        if endpoint == "authorize":
            return Browser(login).open(Browser(login).link())
        return requests.get(f"{login.url}{DISCOVERY if endpoint == 'discovery' else f'/{endpoint}'}", timeout=10)
