"""Sym's OAuth application at Vanta: where consent is asked for, and the three calls of its token endpoint.

Belongs here: building those requests and reading their replies, once each, without retries. Does not belong
here: storing tokens, rate slots, deciding when to refresh (``session``).

Sources: Vanta's developer pages for the endpoints and the scopes; three independent code bases for the JSON
bodies and for ``source_id`` being mandatory at the exchange. See docs/vanta.md.
"""

import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import requests
from requests.adapters import HTTPAdapter
from requests_oauthlib import OAuth2Session

from symvanta_pipeline.settings import VantaSettings, is_loopback
from symvanta_pipeline.vanta.errors import Refused, Unavailable, VantaError, check_token_reply, json_object

SCOPES = ("connectors.self:write-resource", "connectors.self:read-resource")
TIMEOUT = (10.0, 60.0)  # seconds to connect, and between bytes of a reply
DEFAULT_LIFETIME = 3600.0  # seconds; what Vanta documents for an access token
LONGEST_LIFETIME = 86400.0  # seconds; a larger expires_in is a mistake, and a token is refreshed daily at least

JSON = "application/json"

# requests-oauthlib and oauthlib write whole tokens at DEBUG, so their loggers stay above it whatever the root says.
QUIET_LOGGERS = ("requests_oauthlib", "requests_oauthlib.oauth2_session", "oauthlib")
for _name in QUIET_LOGGERS:
    logging.getLogger(_name).setLevel(logging.INFO)


@dataclass(frozen=True)
class TokenReply:
    """What the token endpoint answered.

    Attributes:
        access_token: for resource calls.
        refresh_token: the next one; None where the reply holds none and the old one stays.
        lifetime: seconds that the access token lives, from now.
        scope: the scopes that were granted, separated by spaces; None where the reply does not say.
    """

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    lifetime: float
    scope: str | None

    def missing_scopes(self) -> list[str]:
        """Return the scopes that we need and that the reply says were not granted."""
        return [] if self.scope is None else missing_scopes(self.scope)


@dataclass(frozen=True)
class Application:
    """Sym's application at Vanta.

    Attributes:
        adapter: one pool of kept-alive connections for all customers; it carries no token, and never retries:
            a retry inside urllib3 would go round the rate budget.
    """

    client_id: str
    client_secret: str = field(repr=False)
    api_url: str
    app_url: str
    adapter: HTTPAdapter = field(default_factory=lambda: HTTPAdapter(max_retries=0), repr=False, compare=False)

    @classmethod
    def from_settings(cls, settings: VantaSettings) -> "Application":
        """Build the application that the environment describes."""
        return cls(
            settings.vanta_client_id,
            settings.vanta_client_secret.get_secret_value(),
            settings.vanta_api_url,
            settings.vanta_app_url,
        )

    def __post_init__(self) -> None:
        if is_loopback(self.api_url):
            # oauthlib demands https everywhere; http to this machine alone is what a local stand-in speaks.
            os.environ.setdefault("OAUTHLIB_INSECURE_TRANSPORT", "1")

    def authorization_url(self, *, state: str, redirect_uri: str, source_id: str) -> str:
        """Return the URL of Vanta's consent page.

        ``source_id`` must be the organization's id, always: a different one on reconnecting would leave a
        frozen set of accounts behind at Vanta (fleetdm/fleet #45371).
        """
        session = OAuth2Session(self.client_id, scope=list(SCOPES), redirect_uri=redirect_uri)
        url, _ = session.authorization_url(f"{self.app_url}/oauth/authorize", state=state, source_id=source_id)
        return str(url)

    def exchange(self, *, code: str, redirect_uri: str, source_id: str) -> TokenReply:
        """Exchange an authorization code, which works once.

        Raises:
            VantaError: as ``errors.check_token_reply``.
        """
        session = self.session(redirect_uri=redirect_uri)
        return self._token_call(
            session,
            lambda: session.fetch_token(
                self._token_url,
                code=code,
                source_id=source_id,
                include_client_id=True,
                client_secret=self.client_secret,
                timeout=TIMEOUT,
            ),
        )

    def refresh(self, refresh_token: str) -> TokenReply:
        """Exchange a refresh token; Vanta rotates it, and the old one dies some three hours after its reuse.

        Raises:
            VantaError: as ``errors.check_token_reply``.
        """
        session = self.session()
        return self._token_call(
            session,
            lambda: session.refresh_token(
                self._token_url,
                refresh_token=refresh_token,
                client_id=self.client_id,
                client_secret=self.client_secret,
                auth=_as_json,
                timeout=TIMEOUT,
            ),
        )

    def suspend(self, token: str) -> None:
        """Ask Vanta to end a customer's authorization. Seen in one code base only: see docs/vanta.md.

        Raises:
            VantaError: where Vanta did not answer with a 2xx.
        """
        body = {"token": token, "client_id": self.client_id, "client_secret": self.client_secret}
        session = requests.Session()
        session.mount(self.api_url, self.adapter)
        response: requests.Response = send(
            lambda: session.post(
                f"{self.api_url}/v1/oauth/token/suspend",
                json=body,
                timeout=TIMEOUT,
                allow_redirects=False,
            )
        )
        if not requests.codes.ok <= response.status_code < requests.codes.multiple_choices:
            check_token_reply(response)

    def session(self, **arguments: Any) -> OAuth2Session:
        """Return a requests session that follows no redirect and shares the application's connections.

        Closing it would close those for everybody: the application's adapter is what is closed in the end.
        """
        session = OAuth2Session(self.client_id, **arguments)
        session.max_redirects = 0
        session.mount(self.api_url, self.adapter)
        for moment, as_json in (
            ("access_token_request", _exchange_as_json),
            ("refresh_token_request", _refresh_as_json),
        ):
            session.register_compliance_hook(moment, as_json)  # type: ignore[call-overload] # stubs know replies only
        session.register_compliance_hook("access_token_response", check_token_reply)
        session.register_compliance_hook("refresh_token_response", check_token_reply)
        return session

    @property
    def _token_url(self) -> str:
        return f"{self.api_url}/oauth/token"

    def _token_call(self, session: OAuth2Session, call: Callable[[], Mapping[str, Any]]) -> TokenReply:
        replies: list[requests.Response] = []
        # The raw reply is read rather than oauthlib's copy of it, which mends and loses details.
        session.hooks["response"].append(lambda response, *_, **__: replies.append(response))
        try:
            send(call)
        except VantaError:
            raise
        except Exception:  # oauthlib refuses, in many ways, details that are mended below
            # By then the grant may be rotated or the code used up, so the reply must not be lost.
            if not replies:
                raise
        return _token_reply(json_object(check_token_reply(replies[-1])))


def missing_scopes(granted: str) -> list[str]:
    """Return the scopes that we need and that are not among those granted, which are separated by spaces."""
    return sorted(set(SCOPES) - set(granted.split()))


def send(call: Callable[[], Any]) -> Any:
    """Make one HTTP call and turn whatever breaks below HTTP into ``Unavailable``.

    The cause is dropped: its text can quote URLs and headers.
    """
    try:
        return call()
    except requests.TooManyRedirects:
        raise Refused("Vanta answered with a redirect, which is never followed with a token") from None
    except requests.RequestException as error:
        raise Unavailable(f"Vanta did not answer ({type(error).__name__})") from None


def _token_reply(content: Mapping[str, Any]) -> TokenReply:
    refresh_token, scope = content.get("refresh_token"), content.get("scope")
    return TokenReply(
        access_token=str(content["access_token"]),
        refresh_token=refresh_token if isinstance(refresh_token, str) and refresh_token else None,
        lifetime=_lifetime(content.get("expires_in")),
        scope=scope if isinstance(scope, str) and scope.strip() else None,
    )


def _lifetime(expires_in: object) -> float:
    if isinstance(expires_in, bool):
        return DEFAULT_LIFETIME
    try:
        seconds = float(expires_in)  # type: ignore[arg-type] # anything JSON may hold is caught below
    except (TypeError, ValueError, OverflowError):
        return DEFAULT_LIFETIME
    return min(seconds, LONGEST_LIFETIME) if seconds > 0 else DEFAULT_LIFETIME


def _exchange_as_json(
    url: str, headers: dict[str, str], request: dict[str, Any]
) -> tuple[str, dict[str, str], dict[str, Any]]:
    return url, {**headers, "Content-Type": JSON}, {"json": request["data"]}


def _refresh_as_json(url: str, headers: dict[str, str], body: str) -> tuple[str, dict[str, str], str]:
    return url, {**headers, "Content-Type": JSON}, body


def _as_json(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Turn the form that requests-oauthlib insists on building for a refresh into Vanta's JSON."""
    form = request.body or ""
    text = form.decode() if isinstance(form, bytes) else str(form)
    request.prepare_body(data=json.dumps(dict(parse_qsl(text, keep_blank_values=True))), files=None)
    return request
