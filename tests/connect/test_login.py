"""Sym's login seen from its client: what proves somebody's identity, and everything that does not."""

import traceback
from collections.abc import Iterator
from dataclasses import replace

import pytest

from symvanta_pipeline.connect import login as login_module
from symvanta_pipeline.connect.login import Handshake, Login, LoginError, LoginRefused, LoginUnavailable
from symvanta_pipeline.sandbox.login.config import LoginConfig
from symvanta_pipeline.sandbox.login.control import LoginServer, start_login
from tests.support.visitor import Visitor

REDIRECT_URI = "http://127.0.0.1:3080/auth/callback"
SECRET = "login-secret-canary"
SUBJECT = "auth0|5f7c8ec7c33c6c004bbafe82"


@pytest.fixture(scope="module")
def server() -> Iterator[LoginServer]:
    config = LoginConfig(client_secret=SECRET, redirect_uris=(REDIRECT_URI,), people=((SUBJECT, "An admin"),))
    with start_login(config) as running:
        yield running


@pytest.fixture(autouse=True)
def no_faults(server: LoginServer) -> Iterator[None]:
    yield
    server.clear_faults()


@pytest.fixture
def login(server: LoginServer) -> Login:
    return client(server)


def client(server: LoginServer, *, secret: str = SECRET) -> Login:
    return Login(server.url, server.config.client_id, secret, REDIRECT_URI)


def signed_in(login: Login) -> tuple[Handshake, str]:
    """Sign in as a person does; gives the handshake and the code that came back."""
    url, handshake = login.begin("/vanta/install")
    visitor = Visitor()
    answer = visitor.submit(visitor.get(url), "Sign in", until=REDIRECT_URI, person=SUBJECT)
    given = dict(pair.split("=", 1) for pair in answer.url.split("?", 1)[1].split("&"))
    assert given["state"] == handshake.state
    return handshake, given["code"]


def test_whoever_signs_in_is_known_by_the_subject(login: Login) -> None:
    handshake, code = signed_in(login)
    assert login.finish(handshake, code) == SUBJECT


def test_nothing_but_the_subject_is_asked_for(login: Login, server: LoginServer) -> None:
    """A name or an address that was never asked for can be leaked by nobody."""
    url, _ = login.begin("/vanta/install")
    assert "scope=openid&" in url
    assert "profile" not in url
    assert "email" not in url
    assert url.startswith(f"{server.url}/authorize")


def test_each_sign_in_has_secrets_of_its_own(login: Login) -> None:
    (url, one), (_, other) = login.begin("/"), login.begin("/")
    assert len({one.state, one.nonce, one.code_verifier, other.state, other.nonce, other.code_verifier}) == 6
    assert one.code_verifier not in url
    assert one.state not in repr(one)


def test_somebody_else_is_asked_who_they_are(login: Login) -> None:
    assert "prompt=login" in login.begin("/", as_somebody_else=True)[0]
    assert "prompt" not in login.begin("/")[0]


@pytest.mark.parametrize(
    "fault",
    [
        "wrong_nonce",
        "no_nonce",
        "wrong_issuer",
        "wrong_audience",
        "expired",
        "alg_none",
        "foreign_key",
        "hs256",
        "no_subject",
        "subject_not_text",
        "malformed",
        "no_id_token",
        "invalid_grant",
    ],
)
def test_what_proves_nobody_signs_nobody_in(login: Login, server: LoginServer, fault: str) -> None:
    handshake, code = signed_in(login)
    server.fault(fault)
    with pytest.raises(LoginRefused) as refused:
        login.finish(handshake, code)
    assert [f["fired"] for f in server.faults()] == [1]
    assert_names_no_secret(refused.value, handshake, code)


@pytest.mark.parametrize(("kind", "options"), [("status", {"status": 500}), ("html", {}), ("drop", {})])
@pytest.mark.parametrize("endpoint", ["token", "discovery", "jwks"])
def test_an_outage_is_told_apart(
    login: Login, server: LoginServer, endpoint: str, kind: str, options: dict[str, int]
) -> None:
    handshake, code = signed_in(login)
    fresh = client(server)  # has not asked for anything yet
    server.fault(kind, on=endpoint, **options)
    with pytest.raises(LoginUnavailable) as refused:
        fresh.finish(handshake, code)
    assert [f["fired"] for f in server.faults()] == [1]
    assert_names_no_secret(refused.value, handshake, code)


def test_a_login_that_does_not_answer_is_waited_for_only_so_long(
    server: LoginServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(login_module, "TIMEOUT", (1.0, 0.3))
    server.fault("slow", on="discovery", delay=20)
    with pytest.raises(LoginUnavailable, match="ReadTimeout"):
        client(server).begin("/")


def test_an_issuer_of_another_name_is_refused(server: LoginServer) -> None:
    """OpenID Connect Discovery 1.0, 4.3: whoever answers for an issuer has to be that issuer, letter by letter."""
    server.fault("other_issuer")
    with pytest.raises(LoginUnavailable, match="SYM_OIDC_ISSUER"):
        client(server).begin("/")
    with pytest.raises(LoginUnavailable, match="SYM_OIDC_ISSUER"):
        Login(server.url + "/", server.config.client_id, SECRET, REDIRECT_URI).begin("/")


@pytest.mark.parametrize("named", ["authorization_endpoint", "token_endpoint", "jwks_uri", "end_session_endpoint"])
def test_an_endpoint_without_https_is_refused(server: LoginServer, named: str) -> None:
    """Somebody on the way could read the code and our secret, or publish keys of their own."""
    server.fault("unsafe_endpoint", named=named)
    with pytest.raises(LoginUnavailable, match=f"no usable {named}"):
        client(server).begin("/")
    assert [f["fired"] for f in server.faults()] == [1]
    client(server).begin("/")


@pytest.mark.parametrize("endpoint", ["discovery", "jwks", "token"])
def test_no_redirect_is_followed(login: Login, server: LoginServer, endpoint: str) -> None:
    """Whoever answers from elsewhere is not the issuer; the address that is pointed to would have answered well."""
    handshake, code = signed_in(login)
    fresh = client(server)
    before = len(server.journal(endpoint))
    server.fault("redirect", on=endpoint)
    with pytest.raises(LoginUnavailable) as refused:
        fresh.finish(handshake, code)
    assert [entry["status"] for entry in server.journal(endpoint)[before:]] == [307]
    assert_names_no_secret(refused.value, handshake, code)


def test_a_wrong_client_secret_is_our_own_trouble(server: LoginServer) -> None:
    wrong = client(server, secret="wrong-canary")
    handshake, code = signed_in(wrong)
    with pytest.raises(LoginUnavailable, match="SYM_OIDC_CLIENT_ID") as refused:
        wrong.finish(handshake, code)
    assert_names_no_secret(refused.value, handshake, code, "wrong-canary")


def test_a_code_works_for_its_own_handshake_only(login: Login) -> None:
    """PKCE and the nonce: a code that is injected into another browser's sign-in is worth nothing there."""
    _, code = signed_in(login)
    _, other = login.begin("/")
    with pytest.raises(LoginRefused):
        login.finish(other, code)


def test_a_code_works_once(login: Login) -> None:
    handshake, code = signed_in(login)
    assert login.finish(handshake, code) == SUBJECT
    with pytest.raises(LoginRefused):
        login.finish(handshake, code)


def test_an_error_in_place_of_a_code_signs_nobody_in(login: Login) -> None:
    _, handshake = login.begin("/")
    with pytest.raises(LoginRefused):
        login.finish(handshake, "")


def test_new_keys_are_fetched_when_they_are_met(
    login: Login, server: LoginServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The issuer may change its keys at any time; looking for them is bounded, or anybody could make us ask on."""
    handshake, code = signed_in(login)
    assert login.finish(handshake, code) == SUBJECT
    server.rotate_keys()
    handshake, code = signed_in(login)
    with pytest.raises(LoginRefused):
        login.finish(handshake, code)  # looked half a minute ago
    monkeypatch.setattr(login_module, "KEYS_PAUSE", 0.0)
    handshake, code = signed_in(login)
    assert login.finish(handshake, code) == SUBJECT


def test_discovery_is_asked_once(login: Login, server: LoginServer) -> None:
    before = len(server.journal("discovery"))
    for _ in range(3):
        login.begin("/")
    assert len(server.journal("discovery")) == before + 1


def test_signing_out_goes_by_the_login(login: Login, server: LoginServer) -> None:
    url = login.logout_url("http://127.0.0.1:3080/auth/logout")
    assert url is not None
    assert url.startswith(f"{server.url}/logout?client_id=")
    server.fault("status", on="discovery")
    assert client(server).logout_url("http://127.0.0.1:3080/auth/logout") is None


def assert_names_no_secret(error: LoginError, handshake: Handshake, *secrets: str) -> None:
    told = "".join(traceback.format_exception(error)) + repr(error) + repr(replace(handshake, then="/"))
    for secret in (SECRET, handshake.nonce, handshake.code_verifier, SUBJECT, *secrets):
        assert secret not in told
