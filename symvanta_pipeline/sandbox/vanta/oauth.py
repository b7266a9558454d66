"""Consent, codes, tokens and their rotation: one authorization per customer (``source_id``).

Belongs here: which credential is good, for whom, until when. Does not belong here: HTTP, budgets, what a token may do
to accounts.

Rules (Vanta's documentation, or the strictest reading where it is silent): codes are single use and last ten minutes;
one set of tokens per customer, so a new consent ends the earlier set at once; each refresh returns a new refresh token
and ends the customer's earlier access token; a superseded refresh token stays usable for a grace window that starts
with its first reuse.
"""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from symvanta_pipeline.sandbox.vanta.config import VantaConfig
from symvanta_pipeline.sandbox.vanta.schema import ClientCredentials, CodeExchange, Refresh, Suspend

READ = "connectors.self:read-resource"
WRITE = "connectors.self:write-resource"
SCOPES = (WRITE, READ)
CODE_SECONDS = 600.0
OWN_TENANT = "self"


class OAuthError(Exception):
    """A refusal in the form of RFC 6749, section 5.2."""

    def __init__(self, status: int, error: str, description: str) -> None:
        super().__init__(f"{error}: {description}")
        self.status = status
        self.error = error
        self.description = description


@dataclass
class _Code:
    source_id: str
    redirect_uri: str
    scopes: tuple[str, ...]
    expires_at: float
    used: bool = False


@dataclass
class _RefreshToken:
    superseded: bool = False
    first_reuse_at: float | None = None


@dataclass
class _Grant:
    """A customer's authorization with its one set of tokens; without either it has been revoked."""

    source_id: str
    scopes: tuple[str, ...]
    refresh_tokens: dict[str, _RefreshToken] = field(default_factory=dict, repr=False)
    access_token: str = field(default="", repr=False)
    access_scopes: tuple[str, ...] = ()
    access_expires_at: float = 0.0


@dataclass(frozen=True)
class Issued:
    """A successful token reply; ``refresh_token`` is empty for client credentials."""

    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    expires_in: int
    scopes: tuple[str, ...]

    def content(self) -> dict[str, object]:
        """The reply's JSON."""
        refresh = {"refresh_token": self.refresh_token} if self.refresh_token else {}
        return {
            "access_token": self.access_token,
            **refresh,
            "expires_in": self.expires_in,
            "token_type": "Bearer",
            "scope": " ".join(self.scopes),
        }


@dataclass(frozen=True)
class Access:
    """What a good access token allows, and for whom."""

    tenant: str
    scopes: tuple[str, ...]


class Authorizations:
    """All codes and grants of the one registered application."""

    def __init__(self, config: VantaConfig, *, now: Callable[[], float] = time.time) -> None:
        self._config = config
        self._now = now
        self._codes: dict[str, _Code] = {}
        self._grants: dict[str, _Grant] = {}
        self._tenant_by_token: dict[str, str] = {}

    @property
    def tenants(self) -> tuple[str, ...]:
        """Every ``source_id`` that ever gave consent."""
        return tuple(self._grants)

    def connected(self, tenant: str) -> bool:
        """Whether that customer's authorization still stands."""
        return tenant in self._grants and bool(self._grants[tenant].access_token)

    def tenant_of(self, credential: str) -> str | None:
        """Whose code or token this is or was, dead ones included."""
        code = self._codes.get(credential)
        return code.source_id if code else self._tenant_by_token.get(credential)

    def consent(self, *, source_id: str, redirect_uri: str, scopes: tuple[str, ...]) -> str:
        """Give consent and return the authorization code."""
        code = self._config.secret_marker + secrets.token_urlsafe(24)
        self._codes[code] = _Code(source_id, redirect_uri, scopes, self._now() + CODE_SECONDS)
        return code

    def issue(self, request: CodeExchange | Refresh | ClientCredentials, *, narrowed_to: str = "") -> Issued:
        """Answer a token request.

        Args:
            request: a body of the right shape.
            narrowed_to: scopes that the access token shall carry instead of the granted ones.

        Raises:
            OAuthError: ``invalid_client`` (401), ``invalid_grant`` or ``invalid_scope`` (400).
        """
        self._authenticate(request["client_id"], request["client_secret"])
        if request["grant_type"] == "authorization_code":
            grant = self._exchange(request)
        elif request["grant_type"] == "refresh_token":
            grant = self._refresh(request)
        else:
            grant = self._own_grant(request)
        return self._renew(grant, scopes=tuple(narrowed_to.split()) or grant.scopes)

    def suspend(self, request: Suspend, *, named_only: bool = False) -> None:
        """End the whole authorization that the token, dead or alive, belongs to. Safe to repeat.

        Args:
            request: a body of the right shape.
            named_only: end that token alone, the other reading of what nobody has seen documented.

        Raises:
            OAuthError: ``invalid_client`` (401), or ``invalid_request`` (400) for a token never issued.
        """
        self._authenticate(request["client_id"], request["client_secret"])
        tenant = self._tenant_by_token.get(request["token"])
        if tenant is None:
            raise OAuthError(400, "invalid_request", "unknown token")
        if named_only:
            self._end_named(tenant, request["token"])
        else:
            self.revoke(tenant)

    def revoke(self, tenant: str) -> None:
        """End a customer's authorization, as a disconnect at Vanta's side does."""
        if grant := self._grants.get(tenant):
            grant.access_token = ""
            grant.refresh_tokens.clear()

    def alive(self, tenant: str) -> dict[str, list[str]]:
        """Which of a customer's tokens would be taken now, by kind."""
        grant = self._grants.get(tenant)
        if grant is None:
            return {"access": [], "refresh": []}
        return {
            "access": [grant.access_token] if self.access(grant.access_token) else [],
            "refresh": [value for value, token in grant.refresh_tokens.items() if self._is_usable(token)],
        }

    def _end_named(self, tenant: str, token: str) -> None:
        if grant := self._grants.get(tenant):
            grant.refresh_tokens.pop(token, None)
            grant.access_token = "" if grant.access_token == token else grant.access_token

    def access(self, token: str) -> Access | None:
        """What a token allows now; nothing where it is unknown, expired, superseded or revoked."""
        grant = self._grants.get(self._tenant_by_token.get(token, ""))
        if grant is None or grant.access_token != token or self._now() >= grant.access_expires_at:
            return None
        return Access(grant.source_id, grant.access_scopes)

    def _authenticate(self, client_id: str, client_secret: str) -> None:
        secret = self._config.client_secret.get_secret_value()
        if client_id != self._config.client_id or not secrets.compare_digest(client_secret.encode(), secret.encode()):
            raise OAuthError(401, "invalid_client", "unknown client, or wrong client secret")

    def _exchange(self, request: CodeExchange) -> _Grant:
        code = self._codes.get(request["code"])
        if code is None or code.used or self._now() >= code.expires_at:
            raise OAuthError(400, "invalid_grant", "the code is unknown, used or expired")
        if request["redirect_uri"] != code.redirect_uri:
            raise OAuthError(400, "invalid_grant", "redirect_uri is not the one that was authorized")
        if request["source_id"] != code.source_id:
            raise OAuthError(400, "invalid_grant", "source_id is not the one that was authorized")
        code.used = True
        self._grants[code.source_id] = _Grant(code.source_id, code.scopes)
        return self._grants[code.source_id]

    def _refresh(self, request: Refresh) -> _Grant:
        value = request["refresh_token"]
        grant = self._grants.get(self._tenant_by_token.get(value, ""))
        token = grant.refresh_tokens.get(value) if grant else None
        if grant is None or token is None:
            raise OAuthError(400, "invalid_grant", "the refresh token is unknown or revoked")
        if token.superseded:
            token.first_reuse_at = token.first_reuse_at or self._now()
        if not self._is_usable(token):
            raise OAuthError(400, "invalid_grant", "the refresh token was superseded too long ago")
        return grant

    def _is_usable(self, token: _RefreshToken) -> bool:
        if not token.superseded:
            return True
        return self._now() - (token.first_reuse_at or self._now()) < self._config.refresh_grace_seconds

    def _own_grant(self, request: ClientCredentials) -> _Grant:
        """A private application's grant: its own tenant, no refresh token."""
        scopes = tuple(request["scope"].split())
        if not scopes or set(scopes) - set(SCOPES):
            raise OAuthError(400, "invalid_scope", f"scope must be among: {' '.join(SCOPES)}")
        self._grants[OWN_TENANT] = _Grant(OWN_TENANT, scopes)
        return self._grants[OWN_TENANT]

    def _renew(self, grant: _Grant, *, scopes: tuple[str, ...]) -> Issued:
        grant.access_token = self._new_token("vat_", grant)
        grant.access_scopes = scopes
        grant.access_expires_at = self._now() + self._config.expires_in
        for token in grant.refresh_tokens.values():
            token.superseded = True
        refresh_token = ""
        if grant.source_id != OWN_TENANT:
            refresh_token = self._new_token("vrt_", grant)
            grant.refresh_tokens[refresh_token] = _RefreshToken()
        return Issued(grant.access_token, refresh_token, self._config.expires_in, scopes)

    def _new_token(self, prefix: str, grant: _Grant) -> str:
        token = prefix + self._config.secret_marker + secrets.token_urlsafe(32)
        self._tenant_by_token[token] = grant.source_id
        return token


def problem_with_redirect(uri: str) -> str:
    """Why Vanta would not register this redirect URI; an empty string where it would.

    Source: Vanta's documentation: https, or http for localhost and 127.0.0.1 with any port, and no fragment.
    """
    try:
        parts = urlsplit(uri)
        local = parts.scheme == "http" and parts.hostname in {"localhost", "127.0.0.1"}
        valid = parts.port is None or parts.port > 0
    except ValueError:
        return "redirect_uri is not a URL"
    if not valid or not parts.hostname or not (parts.scheme == "https" or local):
        return "redirect_uri must be https, or http on localhost or 127.0.0.1"
    return "redirect_uri must have no fragment" if "#" in uri else ""
