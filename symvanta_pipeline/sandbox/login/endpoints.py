"""The five endpoints: what each answers to a request, given the state.

Belongs here: the answer and its status code. Does not belong here: which request from a browser is good
(``authorization``), who is signed in and what a code buys (``provider``), signatures (``keys``), routes (``app``).
"""

import base64
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote_plus, urlencode, urlsplit, urlunsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from symvanta_pipeline.sandbox.login import pages
from symvanta_pipeline.sandbox.login.authorization import (
    PROMPTS,
    SCOPES,
    AuthorizationRequest,
    RequestRefused,
    parse_authorization,
    parse_logout,
)
from symvanta_pipeline.sandbox.login.config import HOST, LoginConfig
from symvanta_pipeline.sandbox.login.faults import ID_TOKEN, Fault, Faults
from symvanta_pipeline.sandbox.login.journal import Entry, Journal
from symvanta_pipeline.sandbox.login.keys import ALGORITHM, SigningKeys
from symvanta_pipeline.sandbox.login.provider import ID_TOKEN_SECONDS, GrantRefused, Provider, Session

# Cookies take no notice of ports, and the connect app and Vanta's stand-in may be on the same host.
COOKIE = "sandbox_login_session"
AUTH_METHODS = ("client_secret_basic", "client_secret_post")
FORM_TYPE = "application/x-www-form-urlencoded"
UNAUTHORIZED = 401
# RFC 7636, 4.1
_VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")


class TokenRefused(Exception):
    """A refusal in the form of RFC 6749, section 5.2."""

    def __init__(self, error: str, description: str, status: int = 400) -> None:
        super().__init__(f"{error}: {description}")
        self.error = error
        self.description = description
        self.status = status


class State:
    """All that one stand-in knows, in memory."""

    def __init__(self, config: LoginConfig) -> None:
        self.config = config
        self.provider = Provider(config.people)
        self.keys = SigningKeys(config.client_secret.get_secret_value())
        self.faults = Faults()
        self.journal = Journal()


@dataclass(frozen=True)
class Call:
    """A request with its whole body, and its line in the journal."""

    state: State
    request: Request
    raw: bytes = field(repr=False)
    entry: Entry

    @property
    def issuer(self) -> str:
        """The address that was announced, whatever name the request came in under."""
        return f"http://{HOST}:{self.request.scope['server'][1]}"

    @property
    def form(self) -> list[tuple[str, str]]:
        """The body's fields, repeated and empty ones included."""
        return parse_qsl(self.raw.decode(errors="replace"), keep_blank_values=True)

    @property
    def session(self) -> Session | None:
        """Who is signed in at the provider itself, in this browser."""
        return self.state.provider.session(self.request.cookies.get(COOKIE, ""))

    def fire(self, *kinds: str) -> Fault | None:
        """Let a fault of these kinds strike now, if one is due."""
        fault = self.state.faults.fire(self.entry.endpoint, kinds)
        if fault:
            self.entry.faults.append(fault.kind)
        return fault


def discovery(call: Call) -> Response:
    """``GET /.well-known/openid-configuration`` (OpenID Connect Discovery 1.0, 3)."""
    issuer = call.issuer
    document = {
        "issuer": "https://other-login.example" if call.fire("other_issuer") else issuer,
        "authorization_endpoint": f"{issuer}/authorize",
        "token_endpoint": f"{issuer}/token",
        "jwks_uri": f"{issuer}/jwks",
        "end_session_endpoint": f"{issuer}/logout",
        "scopes_supported": SCOPES,
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [ALGORITHM],
        "token_endpoint_auth_methods_supported": AUTH_METHODS,
        "code_challenge_methods_supported": ["S256"],
        "prompt_values_supported": PROMPTS,
        "request_parameter_supported": False,
        "request_uri_parameter_supported": False,
        "claims_parameter_supported": False,
    }
    if unsafe := call.fire("unsafe_endpoint"):
        document[unsafe.named] = "http://login.example/"
    return JSONResponse(document)


def jwks(call: Call) -> Response:
    """``GET /jwks``."""
    return JSONResponse(call.state.keys.published())


def authorize(call: Call) -> Response:
    """``/authorize``: GET asks who signs in unless the browser's session tells, POST is the person's answer."""
    query = call.request.query_params
    call.entry.scope, call.entry.prompt = query.get("scope"), query.get("prompt")
    try:
        wanted = parse_authorization(query, call.state.config)
    except RequestRefused as refused:
        return pages.problem_page(call.request, "This link cannot be used", str(refused))
    return _answered(call, wanted) if call.request.method == "POST" else _asked(call, wanted)


def _asked(call: Call, wanted: AuthorizationRequest) -> Response:
    session = call.session
    if session is not None and call.state.provider.passes(session, wanted):
        return _granted(call, wanted, session)
    if wanted.is_silent:
        return _sent_back(call, wanted, error="login_required")
    return pages.sign_in_page(call.request, call.state.provider.people)


def _answered(call: Call, wanted: AuthorizationRequest) -> Response:
    answer = dict(call.form)
    if answer.get("decision") == "cancel":
        return _sent_back(call, wanted, error="access_denied")
    session = call.state.provider.sign_in(answer.get("person", ""), instead_of=call.session)
    if session is None:
        problem = "Choose who signs in."
        return pages.sign_in_page(call.request, call.state.provider.people, problem=problem, status=400)
    response = _granted(call, wanted, session)
    response.set_cookie(COOKIE, session.id, httponly=True, samesite="lax")
    return response


def _granted(call: Call, wanted: AuthorizationRequest, session: Session) -> Response:
    call.entry.subject = session.person.subject
    if call.fire("server_error"):
        return _sent_back(call, wanted, error="server_error")
    return _sent_back(call, wanted, code=call.state.provider.grant(wanted, session))


def _sent_back(call: Call, wanted: AuthorizationRequest, **outcome: str) -> Response:
    call.entry.error = outcome.get("error")
    state = secrets.token_urlsafe() if call.fire("other_state") else wanted.state
    return _redirect(call, wanted.redirect_uri, {**outcome, "state": state})


def token(call: Call) -> Response:
    """``POST /token``: a code for an ID token (RFC 6749, 4.1.3; OpenID Connect Core 1.0, 3.1.3)."""
    try:
        form = _token_form(call)
        _authenticate(call, form)
        claims = _redeem(call, form)
    except TokenRefused as refused:
        call.entry.error = refused.error
        headers = {"WWW-Authenticate": 'Basic realm="token"'} if refused.status == UNAUTHORIZED else {}
        return JSONResponse({"error": refused.error, "error_description": refused.description}, refused.status, headers)
    call.entry.subject = claims["sub"]
    content: dict[str, Any] = {
        "access_token": secrets.token_urlsafe(32),
        "token_type": "Bearer",
        "expires_in": ID_TOKEN_SECONDS,
    }
    if not call.fire("no_id_token"):
        spoilt = call.fire(*ID_TOKEN)
        content["id_token"] = call.state.keys.sign(claims, spoilt.kind if spoilt else None)
    return JSONResponse(content)


def _token_form(call: Call) -> dict[str, str]:
    declared = call.request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if declared != FORM_TYPE:
        raise TokenRefused("invalid_request", f"Content-Type must be {FORM_TYPE}")
    form = dict(call.form)
    if len(form) < len(call.form):
        raise TokenRefused("invalid_request", "a parameter is given more than once")
    return form


def _authenticate(call: Call, form: Mapping[str, str]) -> None:
    """One of the two ways of RFC 6749, 2.3.1, and not both."""
    header = call.request.headers.get("authorization")
    if header is not None and "client_secret" in form:
        raise TokenRefused("invalid_request", "the client authenticates in two ways")
    call.entry.auth_method = AUTH_METHODS[1] if header is None else AUTH_METHODS[0]
    given = (form.get("client_id", ""), form.get("client_secret", "")) if header is None else _basic(header)
    config = call.state.config
    expected = (config.client_id, config.client_secret.get_secret_value())
    if not all(secrets.compare_digest(a.encode(), b.encode()) for a, b in zip(given, expected, strict=True)):
        raise TokenRefused("invalid_client", "unknown client, or wrong client secret", UNAUTHORIZED)
    if form.get("client_id", config.client_id) != config.client_id:
        raise TokenRefused("invalid_request", "client_id is not the authenticated client's")


def _basic(header: str) -> tuple[str, str]:
    """Client id and secret, each form-encoded within (RFC 6749, 2.3.1); empty ones where the header is another."""
    scheme, _, encoded = header.partition(" ")
    try:
        decoded = base64.b64decode(encoded.strip(), validate=True).decode()
    except ValueError:
        return "", ""
    client_id, _, client_secret = decoded.partition(":")
    return (unquote_plus(client_id), unquote_plus(client_secret)) if scheme.lower() == "basic" else ("", "")


def _redeem(call: Call, form: Mapping[str, str]) -> dict[str, Any]:
    if form.get("grant_type") != "authorization_code":
        missing = not form.get("grant_type")
        raise TokenRefused(
            "invalid_request" if missing else "unsupported_grant_type", "grant_type must be authorization_code"
        )
    for name in ("code", "redirect_uri", "code_verifier"):
        if not form.get(name):
            raise TokenRefused("invalid_request", f"{name} must be given")
    if not _VERIFIER.fullmatch(form["code_verifier"]):
        raise TokenRefused("invalid_request", "code_verifier must be 43 to 128 unreserved characters")
    try:
        claims = call.state.provider.redeem(
            form["code"],
            redirect_uri=form["redirect_uri"],
            code_verifier=form["code_verifier"],
        )
    except GrantRefused as refused:
        raise TokenRefused("invalid_grant", str(refused)) from None
    if call.fire("invalid_grant"):
        raise TokenRefused("invalid_grant", "injected fault")
    return {"iss": call.issuer, "aud": call.state.config.client_id, **claims}


def logout(call: Call) -> Response:
    """``/logout``: ends the browser's session at the provider (RP-Initiated Logout 1.0); a refused one ends nothing."""
    query = call.request.query_params
    session = call.session
    try:
        hint = _hint(call, session)
        target = parse_logout(query, call.state.config, hint)
    except RequestRefused as refused:
        return pages.problem_page(call.request, "This link cannot be used", str(refused))
    if session is not None:
        call.entry.subject = session.person.subject
        call.state.provider.sign_out(session)
    state = {"state": query["state"]} if "state" in query else {}
    response = pages.signed_out_page(call.request) if target is None else _redirect(call, target, state)
    response.delete_cookie(COOKIE, httponly=True, samesite="lax")
    return response


def _hint(call: Call, session: Session | None) -> str | None:
    """The client that an ``id_token_hint`` was made for."""
    id_token = call.request.query_params.get("id_token_hint")
    if id_token is None:
        return None
    claims = call.state.keys.read_hint(id_token)
    if claims is None or claims.get("iss") != call.issuer:
        raise RequestRefused("id_token_hint is no ID token of this provider")
    if session is not None and claims.get("sub") != session.person.subject:
        raise RequestRefused("id_token_hint is about somebody who is not signed in here")
    return str(claims.get("aud"))


def _redirect(call: Call, uri: str, added: Mapping[str, str]) -> Response:
    parts = urlsplit(uri)
    query = "&".join(filter(None, [parts.query, urlencode(added)]))
    return RedirectResponse(urlunsplit(parts._replace(query=query)), 302 if call.request.method == "GET" else 303)
