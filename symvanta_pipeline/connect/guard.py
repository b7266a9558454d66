"""What holds for every request and every page of the connect app, whatever it is about.

Belongs here: limits, security headers, the log line, the end of an error that nobody foresaw. Does not belong here:
sessions and permissions (``app``).

Sources for the headers: OWASP's HTTP Headers and Content Security Policy cheat sheets.
"""

import logging
import time
from collections.abc import Callable, Iterable
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from symvanta_pipeline.unforeseen import place_of

MOST_BODY_BYTES: Final = 16 * 1024
MOST_HEADER_BYTES: Final = 16 * 1024
METHODS: Final = ("GET", "POST")
LONGEST_METHOD: Final = 10  # characters of it in the log

log = logging.getLogger(__name__)


def security_headers(*, forms_lead_to: Iterable[str], https: bool) -> dict[str, str]:
    """Return the headers of every answer.

    Browsers hold a form's whole chain of redirects to ``form-action``, and block it without a word: nobody can list the
    hosts that Vanta's or Sym's login redirect to in turn, so that any https one is allowed.

    Args:
        forms_lead_to: origins without https that a form may lead to: stand-ins on this machine.
        https: whether the app is reached by https.
    """
    policy = {
        "default-src": "'none'",
        "style-src": "'self'",
        "img-src": "'self'",
        "form-action": " ".join(["'self'", "https:", *sorted(o for o in forms_lead_to if o.startswith("http:"))]),
        "frame-ancestors": "'none'",
        "base-uri": "'none'",
    }
    headers = {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Cache-Control": "no-store",
    }
    return headers | ({"Strict-Transport-Security": "max-age=31536000"} if https else {})


def origin_of(url: str) -> str:
    """Return scheme, host and port of a URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


class ClientGone(Exception):
    """Whoever sent the request went away before it was complete."""


class Guard:
    """Bounds and refuses requests, completes answers, and logs one line each that holds no query and no name.

    Args:
        app: what is guarded.
        headers: of every answer.
        problem: renders the page for a status.
    """

    def __init__(self, app: ASGIApp, *, headers: dict[str, str], problem: Callable[[int], Response]) -> None:
        self._app = app
        self._headers = headers
        self._problem = problem

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            raise AssertionError("the connect app speaks HTTP alone")
        started = time.monotonic()
        status = 0

        async def completed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._answer(scope, receive, completed)
        except Exception as error:  # noqa: BLE001 - its text may quote anything, and uvicorn would log it whole
            log.error("unexpected %s at %s", type(error).__name__, place_of(error))  # noqa: TRY400 - likewise
            if not status:
                await self._problem(500)(scope, receive, completed)
        finally:
            # The page's name and not the path: its query holds codes and states.
            page = getattr(scope.get("endpoint"), "__name__", "static or unknown")
            log.info(
                "%s %s %d %.0f ms", scope["method"][:LONGEST_METHOD], page, status, 1000 * (time.monotonic() - started)
            )

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in METHODS:  # a HEAD, too, would use up a state
            refused = self._problem(405)
            refused.headers["Allow"] = ", ".join(METHODS)
            await refused(scope, receive, send)
            return
        # uvicorn bounds only headers that come in several pieces.
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MOST_HEADER_BYTES:
            await self._problem(431)(scope, receive, send)
            return
        try:
            body = await _bounded_body(receive)
        except ClientGone:
            return
        if body is None:
            await self._problem(413)(scope, receive, send)
            return
        scope["symvanta.body"] = body
        await self._app(scope, receive, send)


async def _bounded_body(receive: Receive) -> bytes | None:
    """Read the whole body; None where it is too large. What was cut off is none at all."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body += bytes(message.get("body", b""))
        if len(body) > MOST_BODY_BYTES:
            return None
        if not message.get("more_body"):
            return body
