"""The stand-in as one ASGI application: API host and app host together, journal, budgets, faults and pages.

Belongs here: routes, and what happens around every call. Does not belong here: what an endpoint decides (``api``).
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

from pydantic import TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from typing_extensions import TypedDict  # pydantic needs this one below Python 3.12

from symvanta_pipeline.sandbox.server import Dropped, loopback_only
from symvanta_pipeline.sandbox.vanta import api, pages
from symvanta_pipeline.sandbox.vanta.api import Call, Reply, State
from symvanta_pipeline.sandbox.vanta.budget import SlidingWindow
from symvanta_pipeline.sandbox.vanta.config import InstallationUrl, VantaConfig
from symvanta_pipeline.sandbox.vanta.faults import ArmedFault, Fault
from symvanta_pipeline.sandbox.vanta.journal import Entry, fingerprint
from symvanta_pipeline.sandbox.vanta.openapi import document

PUT_PATHS = ("/v1/resources/user_account", "/v1/resources/user_account/sync_all")
LIST_PATHS = ("/v1/resources/user_account", "/v1/resources/user_account/list_all")
Handler = Callable[[State, Call], Reply | Response]
View = Callable[[Request], Awaitable[Response]]


class _Label(TypedDict):
    name: str


class _Installation(TypedDict):
    url: InstallationUrl


_LABEL = TypeAdapter(_Label)
_INSTALLATION = TypeAdapter(_Installation)


class Endpoint:
    """One endpoint of Vanta's, with all that stands around it: journal, budget, faults."""

    def __init__(self, state: State, name: str, handler: Handler, budget: SlidingWindow | None = None) -> None:
        self._state = state
        self._name = name
        self._handler = handler
        self._budget = budget

    async def view(self, request: Request) -> Response:
        """Answer one request and note in the journal what came of it."""
        entry = self._state.journal.open(endpoint=self._name, method=request.method, path=request.scope["path"])
        call = Call(request, await request.body())
        entry.tenant = api.tenant_of(self._state, call)
        api.describe(call, entry, self._state.journal)
        response = await self._answer(call, entry)
        entry.dropped = isinstance(response, Dropped)
        entry.status = None if entry.dropped else response.status_code
        return response

    async def _answer(self, call: Call, entry: Entry) -> Response:
        if self._budget and (wait := self._budget.take()):
            return _too_many_requests(wait, told=self._state.config.retry_after)
        armed = self._state.faults.due(self._name, entry.tenant)
        if armed is None:
            return _response(self._handler(self._state, call))
        if armed.fault.strikes_before:
            return await self._strike_before(armed, call, entry)
        return await self._strike_reply(armed, call, entry)

    async def _strike_before(self, armed: ArmedFault, call: Call, entry: Entry) -> Response:
        _fire(armed, entry)
        if canned := armed.fault.canned():
            return canned
        if armed.fault.kind == "revoke" and entry.tenant:
            self._state.authorizations.revoke(entry.tenant)
        await asyncio.sleep(armed.fault.delay)
        return _response(self._handler(self._state, call))

    async def _strike_reply(self, armed: ArmedFault, call: Call, entry: Entry) -> Response:
        """Do the request, then spoil the reply. A request that fails anyway leaves the fault for the next one."""
        reply = self._handler(self._state, replace(call, fault=armed.fault))
        if (reply.status if isinstance(reply, Reply) else reply.status_code) >= 400:  # noqa: PLR2004 - HTTP's own
            return _response(reply)
        _fire(armed, entry)
        if isinstance(reply, Reply):
            reply = replace(reply, content=armed.fault.rewrite(reply.content, count=entry.count or 0))
        return await _spoil(_response(reply), armed.fault)


class Marketplace:
    """The page on which a customer finds the application, and where its Connect leads to."""

    def __init__(self, config: VantaConfig) -> None:
        self._application = config.application_name
        self._installation_url = config.installation_url

    async def view(self, request: Request) -> Response:
        """Show the page."""
        return pages.page(
            request, "marketplace", application=self._application, installation_url=self._installation_url
        )

    async def move(self, request: Request) -> Response:
        """Let Connect lead somewhere else from now on."""
        self._installation_url = _INSTALLATION.validate_json(await request.body())["url"]
        return Response(status_code=204)


async def _spoil(response: Response, fault: Fault) -> Response:
    if fault.kind == "drop_after":
        return Dropped()
    if fault.kind == "invalid_json":
        return Response('{"success": tr', media_type="application/json")
    await asyncio.sleep(fault.delay)
    return response


def _fire(armed: ArmedFault, entry: Entry) -> None:
    armed.fired += 1
    entry.fault = armed.fault.kind


def _response(reply: Reply | Response) -> Response:
    return JSONResponse(reply.content, reply.status, reply.headers) if isinstance(reply, Reply) else reply


def _too_many_requests(wait: float, *, told: bool) -> Response:
    headers = {"Retry-After": str(int(wait) + 1)} if told else {}
    return JSONResponse({"error": "Too many requests"}, 429, headers)


def authorize(state: State, call: Call) -> Response:
    """``/oauth/authorize``: GET asks, POST is the answer of the person who was asked; ``auto=1`` allows at once."""
    query = call.request.query_params
    if problem := pages.problem_with_consent(query, state.config.client_id):
        return pages.problem_page(call.request, "This link cannot be used", problem, status=400)
    answers = parse_qs(call.raw.decode(errors="replace")).get("decision", [])
    decision = "allow" if query.get("auto") == "1" else "".join(answers)
    if call.request.method == "GET" and decision != "allow":
        return pages.consent_page(
            call.request, application=state.config.application_name, tenant=state.label(query["source_id"])
        )
    if decision not in {"allow", "deny"}:
        return pages.problem_page(call.request, "No answer", "decision must be allow or deny", status=400)
    outcome = {"error": "access_denied"}
    if decision == "allow":
        code = state.authorizations.consent(
            source_id=query["source_id"],
            redirect_uri=query["redirect_uri"],
            scopes=tuple(query["scope"].split()),
        )
        outcome = {"code": code}
    target = _with_query(query["redirect_uri"], outcome | {"state": query["state"]})
    return RedirectResponse(target, 302 if call.request.method == "GET" else 303)


def _with_query(uri: str, added: dict[str, str]) -> str:
    parts = urlsplit(uri)
    query = "&".join(filter(None, [parts.query, urlencode(added)]))
    return urlunsplit(parts._replace(query=query))


def build_app(config: VantaConfig) -> Starlette:
    """Build a stand-in with nothing in it yet."""
    state = State(config)
    marketplace = Marketplace(config)
    return Starlette(
        routes=[
            *_vanta_routes(state),
            *_page_routes(state),
            *_sandbox_routes(state),
            _route("/marketplace", marketplace.view, "GET"),
            _route("/_sandbox/installation", _explained(marketplace.move), "PUT"),
        ],
        middleware=[loopback_only()],
    )


def _vanta_routes(state: State) -> list[Route]:
    token_budget = SlidingWindow(state.config.token_requests_per_minute)
    resource_budget = SlidingWindow(state.config.resource_requests_per_minute)
    consent = Endpoint(state, "authorize", authorize)
    token = Endpoint(state, "token", api.token, token_budget)
    suspend = Endpoint(state, "suspend", api.suspend, token_budget)
    put = Endpoint(state, "put", api.put, resource_budget)
    listing = Endpoint(state, "list", api.list_all, resource_budget)
    return [
        _route("/oauth/authorize", consent.view, "GET", "POST"),
        _route("/oauth/token", token.view, "POST"),
        _route("/v1/oauth/token/suspend", suspend.view, "POST"),
        *(_route(path, put.view, "PUT") for path in PUT_PATHS),
        *(_route(path, listing.view, "GET") for path in LIST_PATHS),
    ]


def _page_routes(state: State) -> list[Route | Mount]:
    async def healthz(_request: Request) -> Response:
        return PlainTextResponse("ok")

    async def openapi(_request: Request) -> Response:
        return JSONResponse(document(state.config))

    async def index(request: Request) -> Response:
        tenants = [
            {
                "id": tenant,
                "label": state.label(tenant),
                "connected": state.authorizations.connected(tenant),
                "counts": state.accounts.counts(tenant),
            }
            for tenant in state.tenants
        ]
        return pages.page(request, "index", tenants=sorted(tenants, key=lambda t: str(t["label"]).casefold()))

    async def access(request: Request) -> Response:
        tenant = request.path_params["tenant"]
        if tenant not in state.tenants:
            return pages.problem_page(request, "No such tenant", "Nobody connected under this id.", status=404)
        return pages.access_page(
            request, tenant=tenant, label=state.label(tenant), stored=state.accounts.stored(tenant)
        )

    return [
        _route("/healthz", healthz, "GET"),
        _route("/openapi.json", openapi, "GET"),
        _route("/", index, "GET"),
        _route("/access/{tenant:path}", access, "GET"),
        Mount("/static", StaticFiles(directory=pages.STATIC)),
    ]


def _sandbox_routes(state: State) -> list[Route]:
    async def journal(_request: Request) -> Response:
        return JSONResponse(state.journal.content())

    async def journal_body(request: Request) -> Response:
        body = state.journal.body(request.path_params["seq"])
        if body is None:
            return JSONResponse({"error": "no body is kept under this number"}, 404)
        return Response(body, media_type="application/json")

    async def clear_journal(_request: Request) -> Response:
        state.journal.clear()
        return Response(status_code=204)

    async def faults(_request: Request) -> Response:
        return JSONResponse(state.faults.content())

    async def arm_fault(request: Request) -> Response:
        state.faults.arm(Fault.model_validate_json(await request.body()))
        return Response(status_code=204)

    async def clear_faults(_request: Request) -> Response:
        state.faults.clear()
        return Response(status_code=204)

    return [
        _route("/_sandbox/journal", journal, "GET"),
        _route("/_sandbox/journal", clear_journal, "DELETE"),
        _route("/_sandbox/journal/{seq:int}/body", journal_body, "GET"),
        _route("/_sandbox/faults", faults, "GET"),
        _route("/_sandbox/faults", _explained(arm_fault), "POST"),
        _route("/_sandbox/faults", clear_faults, "DELETE"),
        *_tenant_routes(state),
    ]


def _tenant_routes(state: State) -> list[Route]:
    async def accounts(request: Request) -> Response:
        stored = state.accounts.stored(request.path_params["tenant"])
        return JSONResponse([record.content() for record in stored])

    async def tokens(request: Request) -> Response:
        alive = state.authorizations.alive(request.path_params["tenant"])
        return JSONResponse({kind: [fingerprint(token) for token in found] for kind, found in alive.items()})

    async def label(request: Request) -> Response:
        state.labels[request.path_params["tenant"]] = _LABEL.validate_json(await request.body())["name"]
        return Response(status_code=204)

    return [
        _route("/_sandbox/accounts/{tenant:path}", accounts, "GET"),
        _route("/_sandbox/tokens/{tenant:path}", tokens, "GET"),
        _route("/_sandbox/tenants/{tenant:path}", _explained(label), "PUT"),
    ]


def _route(path: str, view: View, *methods: str) -> Route:
    return Route(path, view, methods=list(methods))


def _explained(view: View) -> View:
    """Answer 400 with pydantic's own words where a body of the sandbox's controls is wrong."""

    async def explained(request: Request) -> Response:
        try:
            return await view(request)
        except ValidationError as error:
            return JSONResponse({"error": json.loads(error.json(include_url=False, include_context=False))}, 400)

    return explained
