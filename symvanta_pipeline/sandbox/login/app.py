"""The stand-in as one ASGI application: the provider's endpoints with journal and faults around them, and controls.

Belongs here: routes, and what happens around every call. Does not belong here: what an endpoint answers
(``endpoints``).
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable

from pydantic import TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from symvanta_pipeline.sandbox.login import endpoints, pages
from symvanta_pipeline.sandbox.login.config import LoginConfig, Person
from symvanta_pipeline.sandbox.login.endpoints import Call, State
from symvanta_pipeline.sandbox.login.faults import INSTEAD, Fault
from symvanta_pipeline.sandbox.server import Dropped, loopback_only

NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}
SUCCESSFUL = range(200, 300)
CHUNK = b" " * 65536
Handler = Callable[[Call], Response]
View = Callable[[Request], Awaitable[Response]]
_PERSON = TypeAdapter(Person)


def _endpoint(state: State, name: str, handler: Handler) -> View:
    """One of the provider's endpoints, with the journal and the faults around it."""

    async def view(request: Request) -> Response:
        entry = state.journal.open(endpoint=name, method=request.method)
        call = Call(state, request, await request.body(), entry)
        if slow := call.fire("slow"):
            await asyncio.sleep(slow.delay)
        response = _instead(call.fire(*INSTEAD), request) or handler(call)
        response.headers.update(NO_STORE)
        if response.status_code in SUCCESSFUL and (huge := call.fire("huge")):
            response = _huge(response, huge.size)
        entry.status = None if isinstance(response, Dropped) else response.status_code
        return response

    return view


def _instead(fault: Fault | None, request: Request) -> Response | None:
    """The answer that replaces all work."""
    if fault is None:
        return None
    if fault.kind == "redirect":
        return RedirectResponse(str(request.url), 307)
    if fault.kind == "drop":
        return Dropped()
    if fault.kind == "html":
        return HTMLResponse("<!DOCTYPE html><html lang=en><title>Welcome</title><h1>Welcome</h1></html>")
    return JSONResponse({"error": "server_error", "error_description": "injected fault"}, fault.status)


def _huge(response: Response, size: int) -> Response:
    """The same JSON object after that many bytes of white space, its length not told in advance."""

    async def body() -> AsyncIterator[bytes]:
        left = size
        while left > 0:
            yield CHUNK[:left]
            left -= len(CHUNK)
        yield bytes(response.body)

    return StreamingResponse(body(), response.status_code, media_type="application/json")


def build_app(config: LoginConfig) -> Starlette:
    """Build a provider with a fresh key and nobody signed in."""
    state = State(config)
    return Starlette(routes=[*_provider_routes(state), *_sandbox_routes(state)], middleware=[loopback_only()])


def _provider_routes(state: State) -> list[Route | Mount]:
    async def healthz(_request: Request) -> Response:
        return PlainTextResponse("ok")

    return [
        _route("/.well-known/openid-configuration", _endpoint(state, "discovery", endpoints.discovery), "GET"),
        _route("/jwks", _endpoint(state, "jwks", endpoints.jwks), "GET"),
        _route("/authorize", _endpoint(state, "authorize", endpoints.authorize), "GET", "POST"),
        _route("/token", _endpoint(state, "token", endpoints.token), "POST"),
        _route("/logout", _endpoint(state, "logout", endpoints.logout), "GET"),
        _route("/healthz", healthz, "GET"),
        Mount("/static", StaticFiles(directory=pages.STATIC)),
    ]


def _sandbox_routes(state: State) -> list[Route]:
    async def journal(_request: Request) -> Response:
        return JSONResponse(state.journal.content())

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

    async def add_person(request: Request) -> Response:
        state.provider.add(_PERSON.validate_json(await request.body()))
        return Response(status_code=204)

    async def rotate_keys(_request: Request) -> Response:
        state.keys.rotate()
        return Response(status_code=204)

    return [
        _route("/_sandbox/journal", journal, "GET"),
        _route("/_sandbox/journal", clear_journal, "DELETE"),
        _route("/_sandbox/faults", faults, "GET"),
        _route("/_sandbox/faults", _explained(arm_fault), "POST"),
        _route("/_sandbox/faults", clear_faults, "DELETE"),
        _route("/_sandbox/people", _explained(add_person), "POST"),
        _route("/_sandbox/keys", rotate_keys, "POST"),
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
