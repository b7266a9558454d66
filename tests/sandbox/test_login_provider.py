"""What the provider remembers and for how long, and which redirect URIs it knows; time is a variable here."""

import base64
import hashlib

import pytest
from starlette.datastructures import QueryParams

from symvanta_pipeline.sandbox.login.authorization import (
    AuthorizationRequest,
    RequestRefused,
    parse_authorization,
    parse_logout,
)
from symvanta_pipeline.sandbox.login.config import LoginConfig, Person
from symvanta_pipeline.sandbox.login.provider import GrantRefused, Provider, Session

VERIFIER = "v" * 43
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
REDIRECT_URI = "http://127.0.0.1:3080/auth/callback"
REQUEST = AuthorizationRequest(REDIRECT_URI, ("openid",), state="s", nonce="n", code_challenge=CHALLENGE)
ADA = Person("auth0|ada", "Ada")
QUERY = {
    "client_id": LoginConfig().client_id,
    "redirect_uri": REDIRECT_URI,
    "response_type": "code",
    "scope": "openid",
    "state": "s",
    "nonce": "n",
    "code_challenge": CHALLENGE,
    "code_challenge_method": "S256",
}


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
def provider(clock: Clock) -> Provider:
    return Provider([ADA], now=clock)


def _signed_in(provider: Provider) -> Session:
    session = provider.sign_in(ADA.subject, instead_of=None)
    assert session is not None
    return session


def _redeem(provider: Provider, code: str, *, redirect_uri: str = REDIRECT_URI, verifier: str = VERIFIER) -> object:
    return provider.redeem(code, redirect_uri=redirect_uri, code_verifier=verifier)


def test_a_code_works_once_and_for_a_minute(provider: Provider, clock: Clock) -> None:
    session = _signed_in(provider)
    code, late = provider.grant(REQUEST, session), provider.grant(REQUEST, session)
    clock.at += 59
    assert _redeem(provider, code)
    with pytest.raises(GrantRefused):
        _redeem(provider, code)
    clock.at += 1
    with pytest.raises(GrantRefused):
        _redeem(provider, late)


@pytest.mark.parametrize("wrong", [{"redirect_uri": f"{REDIRECT_URI}/"}, {"verifier": "w" * 43}])
def test_a_refused_attempt_spends_the_code(provider: Provider, wrong: dict[str, str]) -> None:
    code = provider.grant(REQUEST, _signed_in(provider))
    with pytest.raises(GrantRefused):
        _redeem(provider, code, **wrong)
    with pytest.raises(GrantRefused, match="used"):
        _redeem(provider, code)


def test_the_time_of_sign_in_outlives_the_code(provider: Provider, clock: Clock) -> None:
    session = _signed_in(provider)
    clock.at += 500
    claims = provider.redeem(provider.grant(REQUEST, session), redirect_uri=REDIRECT_URI, code_verifier=VERIFIER)
    assert (claims["auth_time"], claims["iat"], claims["exp"]) == (1000, 1500, 5100)


def test_a_session_passes_until_it_is_too_old(provider: Provider, clock: Clock) -> None:
    session = _signed_in(provider)
    young = parse_authorization(QueryParams(QUERY | {"max_age": "60"}), LoginConfig())
    clock.at += 59
    assert provider.passes(session, young)
    clock.at += 1
    assert not provider.passes(session, young)
    assert provider.passes(session, REQUEST)
    assert not provider.passes(None, REQUEST)


def test_a_sign_in_ends_the_browsers_earlier_session(provider: Provider) -> None:
    first = _signed_in(provider)
    second = provider.sign_in(ADA.subject, instead_of=first)
    assert second is not None
    assert second.id != first.id
    assert provider.session(first.id) is None
    assert provider.sign_in("auth0|stranger", instead_of=second) is None
    assert provider.session(second.id) is second


def test_secrets_show_in_no_repr(provider: Provider) -> None:
    session = _signed_in(provider)
    assert session.id not in repr(session)
    assert CHALLENGE not in repr(REQUEST)
    assert "sandbox-login-secret" not in repr(LoginConfig())


@pytest.mark.parametrize(
    ("registered", "uri"),
    [
        ("https://sym.example/auth/callback", "https://sym.example/auth/callback"),
        ("http://127.0.0.1:3080/auth/callback?x=1", "http://127.0.0.1:45123/auth/callback?x=1"),
        ("http://127.0.0.1/cb", "http://127.0.0.1:45123/cb"),
        ("http://[::1]:1/cb", "http://[::1]:2/cb"),
    ],
)
def test_loopback_on_any_port(registered: str, uri: str) -> None:
    config = LoginConfig(redirect_uris=(registered,), logout_uris=(registered,), any_loopback_redirect=True)
    assert parse_authorization(QueryParams(QUERY | {"redirect_uri": uri}), config).redirect_uri == uri
    logout = {"client_id": config.client_id, "post_logout_redirect_uri": uri}
    assert parse_logout(QueryParams(logout), config, None) == uri


@pytest.mark.parametrize("any_port", [False, True])
@pytest.mark.parametrize(
    "uri",
    [
        f"{REDIRECT_URI}/",
        f"{REDIRECT_URI}?next=1",
        f"{REDIRECT_URI}#",
        "http://127.0.0.1:3081/other",
        "http://localhost:3080/auth/callback",
        "http://127.0.0.1.evil.example:3080/auth/callback",
        "http://127.0.0.1:3080@evil.example/auth/callback",
        "http://evil.example\\@127.0.0.1:3080/auth/callback",
        "http://user@127.0.0.1:3080/auth/callback",
        "http://127.0.0.1:/auth/callback",
        "http://127.0.0.1:port/auth/callback",
        "https://127.0.0.1:3080/auth/callback",
        "//127.0.0.1:3080/auth/callback",
        "http://[bad/auth/callback",
        "https://sym.example:444/auth/callback",
        "javascript:alert(1)",
    ],
)
def test_any_other_uri_is_a_strangers(uri: str, *, any_port: bool) -> None:
    config = LoginConfig(
        redirect_uris=(REDIRECT_URI, "https://sym.example/auth/callback"),
        logout_uris=(REDIRECT_URI,),
        any_loopback_redirect=any_port,
    )
    with pytest.raises(RequestRefused, match="redirect_uri"):
        parse_authorization(QueryParams(QUERY | {"redirect_uri": uri}), config)
    with pytest.raises(RequestRefused, match="post_logout_redirect_uri"):
        parse_logout(QueryParams({"client_id": config.client_id, "post_logout_redirect_uri": uri}), config, None)
