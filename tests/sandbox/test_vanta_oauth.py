"""Consent, codes, rotation and the grace window; time is a variable where time decides."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from pydantic import SecretStr

from symvanta_pipeline.sandbox.vanta.config import VantaConfig
from symvanta_pipeline.sandbox.vanta.control import REDIRECT_URI, VantaServer, start_vanta
from symvanta_pipeline.sandbox.vanta.oauth import (
    READ,
    SCOPES,
    WRITE,
    Authorizations,
    Issued,
    OAuthError,
    problem_with_redirect,
)

CONFIG = VantaConfig(client_secret=SecretStr("shh"), expires_in=3600, refresh_grace_seconds=100)
CREDENTIALS = {"client_id": CONFIG.client_id, "client_secret": "shh"}


class Clock:
    """Time that stands still until told."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server(clock: Clock) -> Authorizations:
    return Authorizations(CONFIG, now=clock)


def _code(server: Authorizations, tenant: str = "t") -> str:
    return server.consent(source_id=tenant, redirect_uri=REDIRECT_URI, scopes=SCOPES)


def _exchange(server: Authorizations, code: str, **changes: str) -> Issued:
    body: Any = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": REDIRECT_URI,
        "source_id": "t",
        **CREDENTIALS,
        **changes,
    }
    return server.issue(body)


def _refresh(server: Authorizations, token: str) -> Issued:
    return server.issue(
        {"grant_type": "refresh_token", "refresh_token": token, "client_id": CONFIG.client_id, "client_secret": "shh"}
    )


def test_a_code_works_once_and_for_ten_minutes(server: Authorizations, clock: Clock) -> None:
    code, late = _code(server), _code(server)
    issued = _exchange(server, code)
    assert issued.access_token.startswith("vat_")
    assert issued.content()["token_type"] == "Bearer"
    with pytest.raises(OAuthError, match="used"):
        _exchange(server, code)
    clock.at += 600
    with pytest.raises(OAuthError, match="expired"):
        _exchange(server, late)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"redirect_uri": "http://127.0.0.1:3080/other"}, "invalid_grant"),
        ({"source_id": "another"}, "invalid_grant"),
        ({"client_secret": "wrong"}, "invalid_client"),
        ({"client_id": "vci_other"}, "invalid_client"),
    ],
)
def test_an_exchange_that_does_not_match_is_refused_and_spends_nothing(
    server: Authorizations, change: dict[str, str], error: str
) -> None:
    code = _code(server)
    with pytest.raises(OAuthError, match=error):
        _exchange(server, code, **change)
    assert _exchange(server, code)


def test_a_refresh_rotates_and_ends_the_earlier_access_token(server: Authorizations) -> None:
    first = _exchange(server, _code(server))
    second = _refresh(server, first.refresh_token)
    assert second.refresh_token != first.refresh_token
    assert server.access(first.access_token) is None
    access = server.access(second.access_token)
    assert access is not None
    assert access.tenant == "t"


def test_an_access_token_expires(server: Authorizations, clock: Clock) -> None:
    issued = _exchange(server, _code(server))
    clock.at += 3599
    assert server.access(issued.access_token)
    clock.at += 1
    assert server.access(issued.access_token) is None


def test_a_superseded_refresh_token_dies_after_the_grace_window_from_its_first_reuse(
    server: Authorizations, clock: Clock
) -> None:
    first = _exchange(server, _code(server))
    _refresh(server, first.refresh_token)
    clock.at += 5000
    _refresh(server, first.refresh_token)
    clock.at += 99
    latest = _refresh(server, first.refresh_token)
    clock.at += 1
    with pytest.raises(OAuthError, match="superseded too long ago"):
        _refresh(server, first.refresh_token)
    assert _refresh(server, latest.refresh_token)


def test_without_a_grace_window_no_refresh_token_works_twice() -> None:
    server = Authorizations(CONFIG.model_copy(update={"refresh_grace_seconds": 0.0}))
    first = _exchange(server, _code(server))
    latest = _refresh(server, first.refresh_token)
    with pytest.raises(OAuthError, match="superseded too long ago"):
        _refresh(server, first.refresh_token)
    assert _refresh(server, latest.refresh_token)


def test_every_secret_carries_the_marker() -> None:
    server = Authorizations(CONFIG.model_copy(update={"secret_marker": "Marked7"}))
    code = _code(server)
    first = _exchange(server, code)
    second = _refresh(server, first.refresh_token)
    issued = [code, first.access_token, first.refresh_token, second.access_token, second.refresh_token]
    assert all("Marked7" in secret for secret in issued)
    assert len(set(issued)) == 5


def test_a_reply_that_was_lost_costs_nothing_within_the_window(server: Authorizations) -> None:
    first = _exchange(server, _code(server))
    lost = _refresh(server, first.refresh_token)
    retried = _refresh(server, first.refresh_token)
    assert server.access(lost.access_token) is None
    assert server.access(retried.access_token)


def test_a_new_consent_ends_the_earlier_set(server: Authorizations) -> None:
    first = _exchange(server, _code(server))
    second = _exchange(server, _code(server))
    assert server.access(first.access_token) is None
    with pytest.raises(OAuthError, match="invalid_grant"):
        _refresh(server, first.refresh_token)
    assert server.access(second.access_token)


def test_tenants_do_not_touch_each_other(server: Authorizations) -> None:
    one = _exchange(server, _code(server))
    other = _exchange(server, _code(server, "other"), source_id="other")
    server.revoke("other")
    assert server.access(other.access_token) is None
    assert server.access(one.access_token)


@pytest.mark.parametrize("which", ["access_token", "refresh_token"])
def test_suspending_either_token_ends_everything_and_can_be_repeated(server: Authorizations, which: str) -> None:
    issued = _exchange(server, _code(server))
    for _ in range(2):
        server.suspend({"token": getattr(issued, which), "client_id": CONFIG.client_id, "client_secret": "shh"})
    assert server.access(issued.access_token) is None
    assert not server.connected("t")
    with pytest.raises(OAuthError, match="revoked"):
        _refresh(server, issued.refresh_token)


def test_suspending_may_end_the_named_token_alone(server: Authorizations) -> None:
    first = _exchange(server, _code(server))
    second = _refresh(server, first.refresh_token)

    def suspend(token: str) -> None:
        server.suspend({"token": token, "client_id": CONFIG.client_id, "client_secret": "shh"}, named_only=True)

    for _ in range(2):
        suspend(first.refresh_token)
    assert server.access(second.access_token)
    with pytest.raises(OAuthError, match="revoked"):
        _refresh(server, first.refresh_token)
    third = _refresh(server, second.refresh_token)
    suspend(third.access_token)
    assert server.access(third.access_token) is None
    _refresh(server, third.refresh_token)


def test_suspending_wants_a_known_token_and_the_right_secret(server: Authorizations) -> None:
    issued = _exchange(server, _code(server))
    with pytest.raises(OAuthError, match="invalid_request"):
        server.suspend({"token": "vat_guess", "client_id": CONFIG.client_id, "client_secret": "shh"})
    with pytest.raises(OAuthError, match="invalid_client"):
        server.suspend({"token": issued.access_token, "client_id": CONFIG.client_id, "client_secret": "x"})
    assert server.access(issued.access_token)


def test_client_credentials_reach_the_applications_own_tenant_alone(server: Authorizations) -> None:
    issued = server.issue(
        {"grant_type": "client_credentials", "scope": WRITE, "client_id": CONFIG.client_id, "client_secret": "shh"}
    )
    assert "refresh_token" not in issued.content()
    access = server.access(issued.access_token)
    assert access is not None
    assert (access.tenant, access.scopes) == ("self", (WRITE,))
    with pytest.raises(OAuthError, match="invalid_scope"):
        server.issue(
            {"grant_type": "client_credentials", "scope": "all", "client_id": CONFIG.client_id, "client_secret": "shh"}
        )


@pytest.mark.parametrize(
    "uri", ["https://sym.example.com/vanta/callback", "http://localhost:1/cb?x=1", "http://127.0.0.1/cb"]
)
def test_good_redirects(uri: str) -> None:
    assert problem_with_redirect(uri) == ""


@pytest.mark.parametrize(
    "uri",
    [
        "http://sym.example.com/cb",
        "http://127.0.0.1.example.com/cb",
        "http://[::1]:80/cb",
        "https:///cb",
        "ftp://localhost/cb",
        "/cb",
        "javascript:alert(1)",
        "https://sym.example.com/cb#x",
        "https://sym.example.com/cb#",
        "https://sym.example.com:notaport/cb",
        "https://[bad",
    ],
)
def test_doubtful_redirects(uri: str) -> None:
    assert problem_with_redirect(uri)


def test_no_secret_shows_in_a_repr(server: Authorizations) -> None:
    issued = _exchange(server, _code(server))
    assert issued.access_token not in repr(issued)
    assert issued.refresh_token not in repr(issued)
    assert "shh" not in repr(CONFIG)


@pytest.fixture(scope="module")
def vanta() -> Iterator[VantaServer]:
    with start_vanta(VantaConfig(token_requests_per_minute=10_000)) as running:
        yield running


def _query(vanta: VantaServer, **changes: str) -> dict[str, str]:
    return {
        "client_id": vanta.config.client_id,
        "scope": " ".join(SCOPES),
        "state": "st&te",
        "redirect_uri": f"{REDIRECT_URI}?keep=1",
        "source_id": "tenant",
        "response_type": "code",
    } | changes


def _location(response: requests.Response) -> dict[str, list[str]]:
    assert response.headers["Location"].startswith(f"{REDIRECT_URI}?keep=1&")
    return parse_qs(urlsplit(response.headers["Location"]).query)


def test_the_consent_page_names_application_tenant_and_scopes(vanta: VantaServer) -> None:
    vanta.name_tenant("tenant", "Acme & Söhne")
    response = requests.get(f"{vanta.url}/oauth/authorize", _query(vanta), timeout=10)
    assert response.status_code == 200
    assert "Sym asks for access" in response.text
    assert "Acme &amp; Söhne" in response.text
    assert "Send the list of your users" in response.text
    assert "Read back the users" in response.text
    assert 'lang="en"' in response.text


@pytest.mark.parametrize(("decision", "key"), [("allow", "code"), ("deny", "error")])
def test_the_consent_pages_buttons(vanta: VantaServer, decision: str, key: str) -> None:
    response = requests.post(
        f"{vanta.url}/oauth/authorize", {"decision": decision}, params=_query(vanta), timeout=10, allow_redirects=False
    )
    assert response.status_code == 303
    query = _location(response)
    assert query["state"] == ["st&te"]
    assert {"code", "error"} & set(query) == {key}
    assert query.get("error") in (None, ["access_denied"])


def test_auto_allows_at_once_and_its_code_works(vanta: VantaServer) -> None:
    response = requests.get(f"{vanta.url}/oauth/authorize", _query(vanta, auto="1"), timeout=10, allow_redirects=False)
    assert response.status_code == 302
    code = _location(response)["code"][0]
    exchanged = vanta.exchange("tenant", code, redirect_uri=f"{REDIRECT_URI}?keep=1")
    assert exchanged.status_code == 200
    assert set(exchanged.json()) == {"access_token", "refresh_token", "expires_in", "token_type", "scope"}
    assert exchanged.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("name", ["client_id", "scope", "state", "redirect_uri", "source_id", "response_type"])
@pytest.mark.parametrize("value", [None, " ", ["a", "b"]])
def test_every_parameter_is_demanded_once(vanta: VantaServer, name: str, value: object) -> None:
    query: dict[str, Any] = _query(vanta, auto="1") | {name: value}
    response = requests.get(f"{vanta.url}/oauth/authorize", query, timeout=10, allow_redirects=False)
    assert response.status_code == 400
    assert f"{name} must be given once" in response.text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("client_id", "vci_other"),
        ("scope", f"{WRITE} vanta-api.all:read"),
        ("response_type", "token"),
        ("redirect_uri", "http://sym.example.com/cb"),
    ],
)
def test_a_wrong_parameter_is_named_and_nobody_is_redirected(vanta: VantaServer, name: str, value: str) -> None:
    query = _query(vanta, auto="1") | {name: value}
    response = requests.get(f"{vanta.url}/oauth/authorize", query, timeout=10, allow_redirects=False)
    assert response.status_code == 400
    assert name in response.text


@pytest.mark.parametrize("decision", [{}, {"decision": "maybe"}])
def test_no_answer_is_no_consent(vanta: VantaServer, decision: dict[str, str]) -> None:
    response = requests.post(
        f"{vanta.url}/oauth/authorize", decision, params=_query(vanta), timeout=10, allow_redirects=False
    )
    assert response.status_code == 400


@pytest.mark.parametrize("path", ["/oauth/token", "/v1/oauth/token/suspend"])
def test_a_form_is_refused(vanta: VantaServer, path: str) -> None:
    response = requests.post(f"{vanta.url}{path}", {"grant_type": "refresh_token"}, timeout=10)
    assert response.status_code == 400
    assert response.json()["error"] == "invalid_request"
    assert "application/json" in response.json()["error_description"]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ({}, "invalid_request"),
        ({"grant_type": "password"}, "unsupported_grant_type"),
        ({"grant_type": "refresh_token"}, "invalid_request"),
        ({"grant_type": "refresh_token", "refresh_token": "x", "scope": READ}, "invalid_request"),
        ({"grant_type": "refresh_token", "refresh_token": "x"}, "invalid_grant"),
        ({"grant_type": "authorization_code", "code": "x", "redirect_uri": REDIRECT_URI}, "invalid_request"),
    ],
)
def test_token_requests_of_the_wrong_shape(vanta: VantaServer, content: dict[str, str], error: str) -> None:
    response = vanta.token(**content)
    assert response.status_code == 400
    assert response.json()["error"] == error


def test_a_wrong_secret_is_401(vanta: VantaServer) -> None:
    response = vanta.token(grant_type="refresh_token", refresh_token="x", client_secret="x")
    assert response.status_code == 401
    assert response.json()["error"] == "invalid_client"


def test_suspend_over_http(vanta: VantaServer) -> None:
    tokens = vanta.connect("leaver")
    body = {"token": tokens["access_token"], "client_id": vanta.config.client_id, "client_secret": "vcs_sandbox"}
    url = f"{vanta.url}/v1/oauth/token/suspend"
    assert requests.post(url, json=body | {"extra": 1}, timeout=10).status_code == 400
    assert requests.post(url, json=body, timeout=10).status_code == 200
    assert vanta.token(grant_type="refresh_token", refresh_token=tokens["refresh_token"]).status_code == 400
