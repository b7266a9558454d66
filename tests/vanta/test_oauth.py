"""Sym's application at the real stand-in, which refuses forms, unknown keys and missing ones."""

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import pytest
import requests
from requests.adapters import HTTPAdapter

from symvanta_pipeline.sandbox.vanta.config import VantaConfig
from symvanta_pipeline.sandbox.vanta.control import REDIRECT_URI, VantaServer
from symvanta_pipeline.sandbox.vanta.oauth import READ
from symvanta_pipeline.settings import VantaSettings
from symvanta_pipeline.vanta import oauth
from symvanta_pipeline.vanta.errors import ApplicationRefused, GrantRefused, RateLimited, Refused, Unavailable
from symvanta_pipeline.vanta.oauth import DEFAULT_LIFETIME, LONGEST_LIFETIME, SCOPES, Application, TokenReply

CONFIG = VantaConfig()
SECRET = CONFIG.client_secret.get_secret_value()


class Recorder(HTTPAdapter):
    """Sends for real, and keeps what it sent."""

    def __init__(self) -> None:
        super().__init__(max_retries=0)
        self.sent: list[requests.PreparedRequest] = []

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        self.sent.append(request)
        return super().send(request, *args, **kwargs)


class Tenant:
    """A customer of the stand-in's, and the application as it talks for them."""

    def __init__(self, vanta: VantaServer) -> None:
        self.vanta = vanta
        self.id = str(uuid4())
        self.recorder = Recorder()
        self.application = Application(CONFIG.client_id, SECRET, vanta.url, vanta.url, self.recorder)

    def exchange(self, code: str | None = None) -> TokenReply:
        code = code or self.vanta.consent(self.id)
        return self.application.exchange(code=code, redirect_uri=REDIRECT_URI, source_id=self.id)

    def fault(self, kind: str, on: str = "token", **options: Any) -> None:
        self.vanta.fault(on, kind, tenant=self.id, **options)

    def fired(self) -> list[int]:
        return [fault["fired"] for fault in self.vanta.faults() if fault["tenant"] == self.id]

    def body(self) -> dict[str, Any]:
        """The latest request's, which has to be JSON."""
        request = self.recorder.sent[-1]
        assert request.headers["Content-Type"] == "application/json"
        assert request.headers["Accept"] in {"application/json", "*/*"}
        assert "Authorization" not in request.headers
        body: dict[str, Any] = json.loads(request.body or b"")
        return body

    def reads(self, access_token: str) -> int:
        return requests.get(
            f"{self.vanta.url}/v1/resources/user_account",
            {"resourceId": CONFIG.resource_id},
            headers={"Authorization": f"Bearer {access_token}"},
            timeout=10,
        ).status_code


@pytest.fixture
def tenant(vanta: VantaServer) -> Iterator[Tenant]:
    made = Tenant(vanta)
    yield made
    made.recorder.close()


def test_the_authorization_url_holds_exactly_what_is_documented() -> None:
    application = Application("vci_x", SECRET, "https://api.vanta.com", "https://app.vanta.com")
    url = application.authorization_url(state="s/+ &", redirect_uri="http://127.0.0.1:1/cb", source_id="o 1")
    parts = urlsplit(url)
    assert (parts.scheme, parts.netloc, parts.path) == ("https", "app.vanta.com", "/oauth/authorize")
    assert not parts.fragment
    assert parse_qs(parts.query, strict_parsing=True) == {
        "client_id": ["vci_x"],
        "scope": ["connectors.self:write-resource connectors.self:read-resource"],
        "state": ["s/+ &"],
        "redirect_uri": ["http://127.0.0.1:1/cb"],
        "source_id": ["o 1"],
        "response_type": ["code"],
    }
    assert SECRET not in url


def test_the_settings_become_the_application() -> None:
    settings = VantaSettings(
        vanta_client_id="vci_x",
        vanta_client_secret=SECRET,
        vanta_resource_id="r",
        vanta_api_url="https://api.vanta-gov.com",
        vanta_app_url="https://app.vanta-gov.com",
    )
    application = Application.from_settings(settings)
    assert application == Application("vci_x", SECRET, "https://api.vanta-gov.com", "https://app.vanta-gov.com")
    assert SECRET not in repr(application)


def test_the_exchange_sends_the_documented_keys_as_json(tenant: Tenant) -> None:
    code = tenant.vanta.consent(tenant.id)
    reply = tenant.exchange(code)
    assert tenant.body() == {
        "client_id": CONFIG.client_id,
        "client_secret": SECRET,
        "code": code,
        "redirect_uri": REDIRECT_URI,
        "source_id": tenant.id,
        "grant_type": "authorization_code",
    }
    assert tenant.reads(reply.access_token) == 200
    assert reply.refresh_token
    assert (reply.lifetime, reply.missing_scopes()) == (3600.0, [])


def test_the_refresh_sends_the_documented_keys_as_json(tenant: Tenant) -> None:
    first = tenant.exchange()
    assert first.refresh_token is not None
    second = tenant.application.refresh(first.refresh_token)
    assert tenant.body() == {
        "client_id": CONFIG.client_id,
        "client_secret": SECRET,
        "refresh_token": first.refresh_token,
        "grant_type": "refresh_token",
    }
    assert second.refresh_token not in {None, first.refresh_token}
    assert (tenant.reads(second.access_token), tenant.reads(first.access_token)) == (200, 401)


@pytest.mark.parametrize("odd", ["a+b/c=", "a%20b&grant_type=x", "é☃", '"quoted\\"'])
def test_odd_characters_arrive_as_they_are(tenant: Tenant, odd: str) -> None:
    with pytest.raises(GrantRefused):
        tenant.exchange(odd)
    assert tenant.body()["code"] == odd
    with pytest.raises(GrantRefused):
        tenant.application.refresh(odd)
    assert tenant.body()["refresh_token"] == odd


def test_nothing_of_a_reply_shows(tenant: Tenant) -> None:
    reply = tenant.exchange()
    shown = f"{reply!r} {tenant.application!r}"
    for secret in (reply.access_token, str(reply.refresh_token), SECRET):
        assert secret not in shown


LIFETIMES = [
    (3600, 3600.0),
    (1, 1.0),
    (86_400, LONGEST_LIFETIME),
    ("1800", 1800.0),
    ("1800.5", 1800.5),
    (1800.5, 1800.5),
    (0, DEFAULT_LIFETIME),
    (-1, DEFAULT_LIFETIME),
    (86_401, LONGEST_LIFETIME),
    (10**400, DEFAULT_LIFETIME),
    (1e300, LONGEST_LIFETIME),
    ("NaN", DEFAULT_LIFETIME),
    ("Infinity", LONGEST_LIFETIME),
    ("soon", DEFAULT_LIFETIME),
    ("", DEFAULT_LIFETIME),
    (None, DEFAULT_LIFETIME),
    (True, DEFAULT_LIFETIME),
    (False, DEFAULT_LIFETIME),
    ({"seconds": 1}, DEFAULT_LIFETIME),
    ([3600], DEFAULT_LIFETIME),
]


@pytest.mark.parametrize(("value", "lifetime"), LIFETIMES, ids=lambda value: repr(value)[:12])
def test_a_lifetime_may_be_anything(tenant: Tenant, value: object, lifetime: float) -> None:
    """The grant is rotated by then, so that no oddity may cost the reply."""
    first = tenant.exchange()
    tenant.fault("expires_in", value=value)
    reply = tenant.application.refresh(str(first.refresh_token))
    assert tenant.fired() == [1]
    assert reply.lifetime == lifetime
    assert reply.refresh_token not in {None, first.refresh_token}
    assert tenant.reads(reply.access_token) == 200


def test_a_lifetime_may_be_missing(tenant: Tenant) -> None:
    tenant.fault("expires_in")
    assert tenant.exchange().lifetime == DEFAULT_LIFETIME
    assert tenant.fired() == [1]


def answered(content: bytes, status: int = 200) -> TokenReply:
    """Refresh at a server that says just this: for replies that no sound JSON writer makes."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            """Stay silent."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        application = Application("vci_x", SECRET, url, url)
        try:
            return application.refresh("r1")
        finally:
            thread.join(timeout=10)
            application.adapter.close()


@pytest.mark.parametrize(
    ("reply", "lifetime"),
    [
        (b'{"access_token": "a2", "refresh_token": "r2", "expires_in": NaN}', DEFAULT_LIFETIME),
        (b'{"access_token": "a2", "refresh_token": "r2", "expires_in": Infinity}', LONGEST_LIFETIME),
        (b'{"access_token": "a2", "refresh_token": "r2", "expires_in": 60, "error": ""}', 60.0),
        (b'{"access_token": "a2", "refresh_token": "r2", "expires_in": 60, "error": "invalid_grant"}', 60.0),
        (b'{"access_token": "a2", "refresh_token": "r2", "expires_in": 60, "scope": 7}', 60.0),
        (b'{"access_token": "a2", "refresh_token": "r2", "expires_in": 60, "scope": " "}', 60.0),
        (b'{"access_token": "a2", "refresh_token": "r2", "expires_in": 60, "expires_at": {}}', 60.0),
        (b'{"access_token": "a2", "refresh_token": "r2", "expires_in": 60, "token_type": 7}', 60.0),
        (b'\xef\xbb\xbf{"access_token": "a2", "refresh_token": "r2", "expires_in": 60}', 60.0),
    ],
)
def test_a_reply_with_both_tokens_is_never_lost(reply: bytes, lifetime: float) -> None:
    held = answered(reply)
    assert (held.access_token, held.refresh_token, held.lifetime, held.scope) == ("a2", "r2", lifetime, None)


@pytest.mark.parametrize("refresh_token", [b'""', b"null", b"7", b"[]"])
def test_a_reply_without_a_usable_refresh_token_says_so(refresh_token: bytes) -> None:
    assert answered(b'{"access_token": "a2", "refresh_token": ' + refresh_token + b"}").refresh_token is None


def test_a_reply_without_a_refresh_token(tenant: Tenant) -> None:
    tenant.fault("no_refresh_token")
    reply = tenant.exchange()
    assert tenant.fired() == [1]
    assert reply.refresh_token is None
    assert tenant.reads(reply.access_token) == 200


def test_a_narrowed_scope_is_told(tenant: Tenant) -> None:
    first = tenant.exchange()
    assert first.scope == " ".join(SCOPES)
    tenant.fault("scope")
    reply = tenant.application.refresh(str(first.refresh_token))
    assert (reply.scope, reply.missing_scopes()) == (READ, ["connectors.self:write-resource"])


@pytest.mark.parametrize("kind", ["no_access_token", "invalid_json", "no_verdict", "drop_before", "drop_after"])
def test_a_reply_that_is_lost_may_be_asked_for_again(tenant: Tenant, kind: str) -> None:
    first = tenant.exchange()
    tenant.fault(kind)
    with pytest.raises(Unavailable):
        tenant.application.refresh(str(first.refresh_token))
    assert tenant.fired() == [1]
    assert tenant.reads(tenant.application.refresh(str(first.refresh_token)).access_token) == 200


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_refused_and_not_followed(tenant: Tenant, status: int) -> None:
    first = tenant.exchange()
    elsewhere = f"{tenant.vanta.url}/healthz"
    for on in ("token", "token", "suspend"):
        tenant.fault("redirect", on, status=status, location=elsewhere)
    for call in (
        tenant.exchange,
        lambda: tenant.application.refresh(str(first.refresh_token)),
        lambda: tenant.application.suspend(first.access_token),
    ):
        before = len(tenant.recorder.sent)
        with pytest.raises(Refused, match="redirect"):
            call()
        assert len(tenant.recorder.sent) == before + 1
    assert tenant.fired() == [1, 1, 1]


def test_a_time_out_is_a_failure_that_may_pass(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tenant.exchange()
    monkeypatch.setattr(oauth, "TIMEOUT", (5.0, 0.1))
    tenant.fault("slow", delay=1)
    with pytest.raises(Unavailable, match="ReadTimeout"):
        tenant.application.refresh(str(first.refresh_token))


def test_nobody_there_is_a_failure_that_may_pass() -> None:
    application = Application("vci_x", SECRET, "http://127.0.0.1:1", "http://127.0.0.1:1")
    for call in (
        lambda: application.refresh("canary"),
        lambda: application.exchange(code="canary", redirect_uri=REDIRECT_URI, source_id="o"),
        lambda: application.suspend("canary"),
    ):
        with pytest.raises(Unavailable) as caught:
            call()
        assert "canary" not in repr(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__


def test_refusals(tenant: Tenant) -> None:
    code = tenant.vanta.consent(tenant.id)
    tenant.exchange(code)
    with pytest.raises(GrantRefused):
        tenant.exchange(code)
    stranger = Application(CONFIG.client_id, "wrong", tenant.vanta.url, tenant.vanta.url)
    with pytest.raises(ApplicationRefused, match="VANTA_CLIENT_SECRET"):
        stranger.refresh("whatever")
    with pytest.raises(ApplicationRefused):
        stranger.suspend("whatever")
    tenant.fault("status", status=429, retry_after=7)
    with pytest.raises(RateLimited) as caught:
        tenant.exchange()
    assert caught.value.pause == 7.0


def test_suspending_ends_the_authorization(tenant: Tenant) -> None:
    reply = tenant.exchange()
    tenant.application.suspend(reply.access_token)
    assert tenant.body() == {"token": reply.access_token, "client_id": CONFIG.client_id, "client_secret": SECRET}
    assert tenant.reads(reply.access_token) == 401
    with pytest.raises(GrantRefused):
        tenant.application.refresh(str(reply.refresh_token))


@pytest.mark.parametrize(("status", "kind"), [(500, Unavailable), (304, Refused), (400, Refused), (429, RateLimited)])
def test_a_suspension_that_was_not_granted(tenant: Tenant, status: int, kind: type[Exception]) -> None:
    reply = tenant.exchange()
    tenant.fault("status", "suspend", status=status)
    with pytest.raises(kind):
        tenant.application.suspend(reply.access_token)
    assert tenant.fired() == [1]
    assert tenant.reads(reply.access_token) == 200


def test_all_calls_share_one_kept_connection(tenant: Tenant) -> None:
    reply = tenant.exchange()
    for _ in range(3):
        reply = tenant.application.refresh(str(reply.refresh_token))
    tenant.application.suspend(reply.access_token)
    pools = tenant.recorder.poolmanager.pools
    [pool] = [pools[key] for key in pools.keys()]  # noqa: SIM118 - no dict, and iterating it is not allowed
    assert (pool.num_connections, pool.num_requests) == (1, 5)


LOGGERS = ("requests_oauthlib", "requests_oauthlib.oauth2_session", "oauthlib")


def secrets_in_logs(tenant: Tenant, caplog: pytest.LogCaptureFixture) -> list[str]:
    """Make every call with the root logger at DEBUG; returns which secrets were logged."""
    caplog.set_level(logging.DEBUG)
    caplog.clear()
    code = tenant.vanta.consent(tenant.id)
    first = tenant.exchange(code)
    second = tenant.application.refresh(str(first.refresh_token))
    bearer = {"access_token": second.access_token, "token_type": "Bearer"}
    tenant.application.session(token=bearer).get(f"{tenant.vanta.url}/healthz", timeout=10)
    tenant.application.suspend(second.access_token)
    assert "POST /oauth/token" in caplog.text  # urllib3, at DEBUG
    secrets = {
        "code": code,
        "access token": first.access_token,
        "refresh token": str(first.refresh_token),
        "second access token": second.access_token,
        "second refresh token": str(second.refresh_token),
    }
    return [name for name, secret in secrets.items() if secret in caplog.text]


def test_no_secret_is_logged_whatever_the_root_says(tenant: Tenant, caplog: pytest.LogCaptureFixture) -> None:
    assert secrets_in_logs(tenant, caplog) == []
    assert "vcs_" not in caplog.text


def test_the_check_for_secrets_in_logs_finds_them(tenant: Tenant, caplog: pytest.LogCaptureFixture) -> None:
    for name in LOGGERS:
        caplog.set_level(logging.NOTSET, logger=name)
    assert len(secrets_in_logs(tenant, caplog)) == 5
