"""The four API endpoints: what each answers to a request, given the state.

Belongs here: the decision and its status code. Does not belong here: budgets, faults, journal, network (``app``).

Status codes, as far as known: 400 with ``error`` naming what is wrong, 401 for a token that is unknown, expired,
superseded or revoked, 403 for a missing scope, 404 for a resource id that is not the application's.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from symvanta_pipeline.sandbox.vanta.accounts import Accounts
from symvanta_pipeline.sandbox.vanta.config import VantaConfig
from symvanta_pipeline.sandbox.vanta.faults import Fault, Faults, cdn_page
from symvanta_pipeline.sandbox.vanta.journal import Entry, Journal, fingerprint
from symvanta_pipeline.sandbox.vanta.oauth import READ, WRITE, Access, Authorizations, OAuthError
from symvanta_pipeline.sandbox.vanta.schema import (
    SUSPEND,
    TOKEN_REQUEST,
    BodyError,
    UserAccount,
    parse,
    parse_accounts,
)


@dataclass
class State:
    """All that one stand-in knows, in memory.

    Attributes:
        labels: display names by tenant.
    """

    config: VantaConfig
    authorizations: Authorizations = field(init=False)
    accounts: Accounts = field(default_factory=Accounts)
    journal: Journal = field(default_factory=Journal)
    faults: Faults = field(default_factory=Faults)
    labels: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.authorizations = Authorizations(self.config)

    @property
    def tenants(self) -> list[str]:
        """Everybody who ever connected or was named, once each."""
        return list(dict.fromkeys([*self.labels, *self.authorizations.tenants, *self.accounts.tenants]))

    def label(self, tenant: str) -> str:
        """A tenant's display name, its id where it has none."""
        return self.labels.get(tenant, tenant)


@dataclass(frozen=True)
class Call:
    """A request with its whole body.

    Attributes:
        fault: that strikes the reply, and here only matters for what it keeps from being applied.
    """

    request: Request
    raw: bytes
    fault: Fault | None = None

    @property
    def bearer(self) -> str:
        """The bearer token; an empty string where there is none."""
        scheme, _, token = self.request.headers.get("authorization", "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" else ""

    @property
    def is_json(self) -> bool:
        """Whether the body is declared as JSON."""
        return self.request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"

    @cached_property
    def content(self) -> dict[str, Any]:
        """The body as a JSON object, whatever its shape; for the journal and for finding the tenant."""
        try:
            content = json.loads(self.raw)
        except (ValueError, RecursionError):
            return {}
        return content if isinstance(content, dict) else {}

    def text(self, key: str) -> str:
        """One of the body's top-level strings; an empty one where there is none."""
        value = self.content.get(key)
        return value if isinstance(value, str) else ""


@dataclass(frozen=True)
class Reply:
    """A JSON answer."""

    status: int
    content: dict[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)


GRANT_TYPES = frozenset({"authorization_code", "refresh_token", "client_credentials"})
NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}


def token(state: State, call: Call) -> Reply:
    """``POST /oauth/token``: three grants, JSON only."""
    try:
        request = parse(TOKEN_REQUEST, _json(call))
        narrowed = call.fault.scope if call.fault and call.fault.kind == "scope" else ""
        issued = state.authorizations.issue(request, narrowed_to=narrowed)
    except BodyError as error:
        known = error.kind != "union_tag_invalid"
        return _oauth_error(400, "invalid_request" if known else "unsupported_grant_type", str(error))
    except OAuthError as error:
        return _oauth_error(error.status, error.error, error.description)
    return Reply(200, issued.content(), NO_STORE)


def suspend(state: State, call: Call) -> Reply:
    """``POST /v1/oauth/token/suspend``: ends a customer's whole authorization."""
    named_only = call.fault is not None and call.fault.kind == "named_only"
    try:
        state.authorizations.suspend(parse(SUSPEND, _json(call)), named_only=named_only)
    except BodyError as error:
        return _oauth_error(400, "invalid_request", str(error))
    except OAuthError as error:
        return _oauth_error(error.status, error.error, error.description)
    return Reply(200, {"success": True})


def put(state: State, call: Call) -> Reply:
    """``PUT`` on either path: replaces the tenant's accounts, or refuses the whole body."""
    access = _access(state, call, WRITE)
    if isinstance(access, Reply):
        return access
    try:
        body = parse_accounts(_json(call))
    except BodyError as error:
        return Reply(400, {"error": str(error)})
    if body["resourceId"] != state.config.resource_id:
        return _unknown_resource()
    _apply(state.accounts, access.tenant, body["resources"], call.fault)
    return Reply(200, {"success": True})


def list_all(state: State, call: Call) -> Reply | Response:
    """``GET`` on either path: everything ever accepted for the tenant, soft-deleted accounts included."""
    if call.raw:
        return cdn_page(403)  # a GET that carries a body never reaches the API
    access = _access(state, call, READ)
    if isinstance(access, Reply):
        return access
    wanted = call.request.query_params.getlist("resourceId")
    if len(wanted) != 1 or not wanted[0]:
        return Reply(400, {"error": "resourceId: must be given once"})
    if wanted[0] != state.config.resource_id:
        return _unknown_resource()
    return Reply(200, {"resources": [record.content() for record in state.accounts.stored(access.tenant)]})


def tenant_of(state: State, call: Call) -> str | None:
    """Whose credential a call carries, whether or not it is still good."""
    credentials = (call.bearer, *(call.text(key) for key in ("code", "refresh_token", "token")))
    found = (state.authorizations.tenant_of(credential) for credential in credentials if credential)
    return next((tenant for tenant in found if tenant), call.request.query_params.get("source_id"))


def describe(call: Call, entry: Entry, journal: Journal) -> None:
    """Write into the journal what tests ask about; no credential goes there in clear."""
    if call.request.method == "PUT":
        journal.keep_body(entry, call.raw)
        resources = call.content.get("resources")
        entry.count = len(resources) if isinstance(resources, list) else None
    if call.text("grant_type") in GRANT_TYPES:
        entry.grant_type = call.text("grant_type")
    if named := call.bearer or call.text("token"):
        entry.token_fingerprint = fingerprint(named)


def _json(call: Call) -> bytes:
    if not call.is_json:
        raise BodyError("Content-Type must be application/json")
    return call.raw


def _oauth_error(status: int, error: str, description: str) -> Reply:
    return Reply(status, {"error": error, "error_description": description}, NO_STORE)


def _unknown_resource() -> Reply:
    return Reply(404, {"error": "resourceId: no such resource in this application"})


def _access(state: State, call: Call, scope: str) -> Access | Reply:
    access = state.authorizations.access(call.bearer)
    if access is None:
        headers = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
        return Reply(401, {"error": "Unauthorized: the access token is missing, unknown, expired or revoked"}, headers)
    if scope not in access.scopes:
        return Reply(403, {"error": f"Forbidden: the access token lacks the scope {scope}"})
    return access


def _apply(accounts: Accounts, tenant: str, resources: list[UserAccount], fault: Fault | None) -> None:
    kind = fault.kind if fault else ""
    if kind in {"success_false", "ignored"}:
        return
    rejected = min(fault.rejected, len(resources)) if fault and kind == "rejected_some" else 0
    accepted, left = resources[: len(resources) - rejected], resources[len(resources) - rejected :]
    accounts.put(tenant, accepted, untouched=frozenset(account["uniqueId"] for account in left))
