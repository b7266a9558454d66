"""The child's side of a stand-in server: loopback only, announced, and gone when its parent is.

Belongs here: how a stand-in listens, ends and refuses strangers. Does not belong here: what it serves, nor how it is
started from another process (``process``).
"""

import asyncio
import ipaddress
import os
import signal
import socket
import threading
import time
from contextlib import suppress
from typing import cast

import click
import uvicorn
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

GRACE_SECONDS = 1
INSIST_AFTER_SECONDS = 3.0
_TRANSPORT = "transport"


def require_loopback(host: str) -> str:
    """Return the host if it names this machine alone.

    Raises:
        ValueError: for any other host; a stand-in has no business on a network.
    """
    with suppress(ValueError):
        if host == "localhost" or ipaddress.ip_address(host).is_loopback:
            return host
    raise ValueError(f"the sandbox runs on loopback only, not on {host!r}: use 127.0.0.1")


def loopback_only() -> Middleware:
    """Refuse (400) requests whose Host header is not loopback, so that no web page reaches a stand-in by rebinding."""
    return Middleware(
        TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]", "::1"], www_redirect=False
    )


class DroppableProtocol(H11Protocol):
    """HTTP/1.1 whose requests can reach their connection, so that a handler may break it off for real."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in the base class
        """Put the transport into the state of every request on this connection."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, _TRANSPORT: transport}


class Dropped(Response):
    """Closes the connection without a byte of reply."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - nothing is sent
        """Abort, then wait until the server has noticed, since it would otherwise answer 500 itself."""
        cast("asyncio.Transport", scope["state"][_TRANSPORT]).abort()
        while (await receive())["type"] != "http.disconnect":
            pass


def serve(app: ASGIApp, *, host: str, port: int, with_parent: bool = False) -> None:
    """Serve until a signal, or, with a parent, until standard input closes; prints the address once it listens.

    Args:
        app: an ASGI application without lifespan.
        host: a loopback host.
        port: 0 for any free one.
        with_parent: end when standard input closes.

    Raises:
        ValueError: the host is not loopback.
        OSError: the port is taken.
    """
    family = socket.AF_INET6 if ":" in require_loopback(host) else socket.AF_INET
    listener = socket.create_server((host, port), family=family)
    if with_parent:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    shown = f"[{host}]" if family == socket.AF_INET6 else host
    click.echo(f"http://{shown}:{listener.getsockname()[1]}")
    with suppress(KeyboardInterrupt):
        uvicorn.Server(_uvicorn_config(app)).run(sockets=[listener])


def _uvicorn_config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=DroppableProtocol,
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


def _end_with_stdin() -> None:
    """Wait for the end of standard input, ask this process to end, then insist."""
    # os.read takes no lock of the interpreter's own that its shutdown would wait for.
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(INSIST_AFTER_SECONDS)
    os._exit(1)
