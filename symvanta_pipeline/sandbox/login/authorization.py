"""What a browser brings along: the authorization request and the logout request, looked at before anything is done.

Belongs here: whether a request is one that may be answered. Does not belong here: who signs in (``provider``), HTTP.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.datastructures import QueryParams

from symvanta_pipeline.sandbox.login.config import LoginConfig

SCOPES = ("openid", "profile", "email")
PROMPTS = ("none", "login", "consent", "select_account")
REQUIRED = (
    "client_id",
    "redirect_uri",
    "response_type",
    "scope",
    "state",
    "nonce",
    "code_challenge",
    "code_challenge_method",
)
FIXED = {"response_type": "code", "response_mode": "query", "code_challenge_method": "S256"}
NOT_SUPPORTED = ("request", "request_uri", "registration", "claims")
LOOPBACK_HOSTS = ("127.0.0.1", "[::1]", "localhost")
# A SHA-256 in base64url without padding (RFC 7636, 4.2).
_S256_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")
_SECONDS = re.compile(r"[0-9]{1,9}")


class RequestRefused(Exception):
    """A request that nobody is redirected for; the text is for the page."""


@dataclass(frozen=True)
class AuthorizationRequest:
    """A request that may be answered at its redirect URI.

    Attributes:
        max_age: seconds since the person signed in, beyond which they are asked again.
    """

    redirect_uri: str
    scopes: tuple[str, ...]
    state: str = field(repr=False)
    nonce: str = field(repr=False)
    code_challenge: str = field(repr=False)
    prompts: frozenset[str] = frozenset()
    max_age: int | None = None

    @property
    def is_silent(self) -> bool:
        """Whether no page may be shown."""
        return "none" in self.prompts

    def accepts(self, *, seconds_since_sign_in: float) -> bool:
        """Whether an earlier sign-in of that age will do."""
        too_old = self.max_age is not None and seconds_since_sign_in >= self.max_age
        return not too_old and self.prompts <= {"none"}


def parse_authorization(query: QueryParams, config: LoginConfig) -> AuthorizationRequest:
    """Look at an authorization request; client and redirect URI first, since everything else is said in their name.

    Raises:
        RequestRefused: a parameter is missing, doubled, wrong, or not supported.
    """
    for name in REQUIRED:
        if not query.get(name, "").strip():
            raise RequestRefused(f"{name} must be given")
    _demand_single(query)
    _demand_client(query["client_id"], config)
    if not _is_registered(query["redirect_uri"], config.redirect_uris, any_port=config.any_loopback_redirect):
        raise RequestRefused("redirect_uri is not registered")
    _demand_supported(query)
    return AuthorizationRequest(
        redirect_uri=query["redirect_uri"],
        scopes=_scopes(query["scope"]),
        state=query["state"],
        nonce=query["nonce"],
        code_challenge=query["code_challenge"],
        prompts=_prompts(query.get("prompt", "")),
        max_age=_max_age(query.get("max_age")),
    )


def parse_logout(query: QueryParams, config: LoginConfig, hinted_client: str | None) -> str | None:
    """Look at a logout request; return where it goes on to, which is none where no URI is named.

    Args:
        query: of the request.
        config: with the registered URIs.
        hinted_client: the audience of a good ``id_token_hint``.

    Raises:
        RequestRefused: the client is wrong, or the URI is not registered, or nothing says whose it is.
    """
    _demand_single(query)
    clients = {client for client in (hinted_client, query.get("client_id")) if client is not None}
    for client in clients:
        _demand_client(client, config)
    uri = query.get("post_logout_redirect_uri")
    if uri is None:
        return None
    if not clients:
        raise RequestRefused("client_id or id_token_hint must be given with post_logout_redirect_uri")
    if not _is_registered(uri, config.logout_uris, any_port=config.any_loopback_redirect):
        raise RequestRefused("post_logout_redirect_uri is not registered")
    return uri


def _demand_single(query: QueryParams) -> None:
    """RFC 6749, 3.1: parameters must not be included more than once."""
    for name in query:
        if len(query.getlist(name)) > 1:
            raise RequestRefused(f"{name} must be given once")


def _demand_client(client_id: str, config: LoginConfig) -> None:
    if client_id != config.client_id:
        raise RequestRefused("client_id is not a registered client's")


def _demand_supported(query: QueryParams) -> None:
    for name, value in FIXED.items():
        if query.get(name, value) != value:
            raise RequestRefused(f"{name} must be {value}")
    for name in NOT_SUPPORTED:
        if name in query:
            raise RequestRefused(f"{name} is not supported")
    if not _S256_CHALLENGE.fullmatch(query["code_challenge"]):
        raise RequestRefused("code_challenge must be a SHA-256 in base64url, without padding")


def _scopes(value: str) -> tuple[str, ...]:
    scopes = tuple(dict.fromkeys(value.split()))
    if "openid" not in scopes or set(scopes) - set(SCOPES):
        raise RequestRefused(f"scope must hold openid, and may hold: {' '.join(SCOPES[1:])}")
    return scopes


def _prompts(value: str) -> frozenset[str]:
    prompts = frozenset(value.split())
    if prompts - set(PROMPTS) or ("none" in prompts and len(prompts) > 1):
        raise RequestRefused(f"prompt must be among: {' '.join(PROMPTS)}; none stands alone")
    return prompts


def _max_age(value: str | None) -> int | None:
    if value is None:
        return None
    if not _SECONDS.fullmatch(value):
        raise RequestRefused("max_age must be a number of seconds")
    return int(value)


def _is_registered(uri: str, registered: Iterable[str], *, any_port: bool) -> bool:
    if uri in registered:
        return True
    portless = _without_port(uri) if any_port else None
    return portless is not None and portless in map(_without_port, registered)


def _without_port(uri: str) -> str | None:
    """A loopback URI with its port left out; none for any other URI."""
    try:
        parts = urlsplit(uri)
        has_port = parts.port is not None
    except ValueError:
        return None
    host = parts.netloc.removesuffix(f":{parts.port}") if has_port else parts.netloc
    # The host as it is written, so that nothing hides before an @ or in an empty port.
    if parts.scheme != "http" or host not in LOOPBACK_HOSTS or "#" in uri:
        return None
    return parts._replace(netloc=host).geturl()
