"""The cookies: sealed, dated, bound to their purpose, and readable after a key was added in front."""

import base64
from datetime import timedelta
from http.cookies import Morsel, SimpleCookie

import pytest
from starlette.responses import Response

from symvanta_pipeline.connect import cookies
from symvanta_pipeline.connect.cookies import Cookies
from symvanta_pipeline.connect.login import Handshake
from symvanta_pipeline.ledger.vault import KeyRing

OLD = "k1:" + base64.urlsafe_b64encode(bytes(range(32))).decode()
NEW = "k2:" + base64.urlsafe_b64encode(bytes(range(32, 64))).decode()
SECURE = Cookies(KeyRing(OLD), secure=True)
HANDSHAKE = Handshake(state="a-state", nonce="a-nonce", code_verifier="a-verifier", then="/vanta/install")


def written(response: Response) -> dict[str, "Morsel[str]"]:
    jar: SimpleCookie = SimpleCookie()
    for name, value in response.headers.items():
        if name == "set-cookie":
            jar.load(value)
    return dict(jar)


def session_cookie(cookies: Cookies, session_id: str = "an-id") -> "Morsel[str]":
    response = Response()
    cookies.keep_session(response, session_id)
    [cookie] = written(response).values()
    return cookie


def handshake_cookie(cookies: Cookies, handshake: Handshake = HANDSHAKE) -> "Morsel[str]":
    response = Response()
    cookies.keep_handshake(response, handshake, {})
    [cookie] = written(response).values()
    return cookie


def test_attributes_keep_a_cookie_from_scripts_and_other_sites() -> None:
    for cookie in (session_cookie(SECURE), handshake_cookie(SECURE)):
        assert cookie.key.startswith("__Host-")
        assert (cookie["path"], cookie["domain"], cookie["samesite"]) == ("/", "", "lax")
        assert cookie["secure"]
        assert cookie["httponly"]
    assert session_cookie(SECURE)["max-age"] == "3600"
    assert handshake_cookie(SECURE)["max-age"] == "600"


def test_only_loopback_does_without_https() -> None:
    cookie = session_cookie(Cookies(KeyRing(OLD), secure=False))
    assert not cookie["secure"]
    assert not cookie.key.startswith("__Host-")


def test_a_session_comes_back() -> None:
    cookie = session_cookie(SECURE)
    assert SECURE.session_id({cookie.key: cookie.value}) == "an-id"
    assert "an-id" not in cookie.value


def test_a_handshake_comes_back_to_its_own_state_only() -> None:
    cookie = handshake_cookie(SECURE)
    assert SECURE.handshake({cookie.key: cookie.value}, "a-state") == HANDSHAKE
    assert SECURE.handshake({cookie.key: cookie.value}, "another") is None
    assert "a-verifier" not in cookie.value


@pytest.mark.parametrize("value", ["", "an-id", "gAAAAA", "é", "x" * 5000])
def test_what_was_not_sealed_here_is_nobody(value: str) -> None:
    assert SECURE.session_id({session_cookie(SECURE).key: value}) is None


def test_a_changed_cookie_is_nobody() -> None:
    cookie = session_cookie(SECURE)
    changed = cookie.value[:40] + ("A" if cookie.value[40] != "A" else "B") + cookie.value[41:]
    assert SECURE.session_id({cookie.key: changed}) is None


def test_a_cookie_of_another_purpose_is_nobody() -> None:
    """Otherwise whoever is handed a sign-in cookie could show it as a session."""
    assert SECURE.session_id({session_cookie(SECURE).key: handshake_cookie(SECURE).value}) is None


def test_an_old_cookie_is_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A browser may keep it for longer than it was told to."""
    cookie = session_cookie(SECURE)
    monkeypatch.setattr(cookies, "SESSION_LIFETIME", timedelta(seconds=-1))
    assert SECURE.session_id({cookie.key: cookie.value}) is None


def test_adding_a_key_in_front_signs_nobody_out() -> None:
    cookie = session_cookie(SECURE)
    rotated = Cookies(KeyRing(f"{NEW},{OLD}"), secure=True)
    assert rotated.session_id({cookie.key: cookie.value}) == "an-id"
    assert Cookies(KeyRing(NEW), secure=True).session_id({cookie.key: cookie.value}) is None


def test_many_sign_ins_do_not_outgrow_the_headers() -> None:
    kept = {f"__Host-symvanta-login-{n}": "x" for n in range(cookies.MOST_HANDSHAKES)}
    response = Response()
    SECURE.keep_handshake(response, HANDSHAKE, kept)
    taken_away = {name for name, cookie in written(response).items() if cookie["max-age"] == "0"}
    assert taken_away == set(kept)
    assert len(written(response)) == len(kept) + 1


def test_forgetting_takes_the_same_cookie_away() -> None:
    response = Response()
    SECURE.forget_session(response)
    SECURE.forget_handshake(response, HANDSHAKE.state)
    assert set(written(response)) == {session_cookie(SECURE).key, handshake_cookie(SECURE).key}
    assert {cookie["max-age"] for cookie in written(response).values()} == {"0"}
