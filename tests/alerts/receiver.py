"""A receiver of webhooks: a real HTTP server on loopback, in a thread, that fails as it is told and keeps what it got.

Belongs here: its ways to answer, and its journal. Does not belong here: any expectation.
"""

import json
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Way = Literal["answer", "drop", "hold", "garbage"]
LONGEST_HOLD = 60.0  # seconds; a test that forgets to release ends all the same


@dataclass(frozen=True)
class Fault:
    """How one request is answered.

    Attributes:
        status: of the answer.
        headers: of it.
        way: ``drop`` breaks the connection off, ``hold`` waits for `Receiver.release` first, ``garbage`` is no HTTP.
    """

    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    way: Way = "answer"


@dataclass(frozen=True)
class Got:
    """One request as it came."""

    path: str
    key: str
    content: dict[str, Any]
    status: int | None

    @property
    def text(self) -> str:
        """All of it, to be searched."""
        return json.dumps(self.content)


class Receiver:
    """Takes messages at ``/slack`` and ``/webhook``, each with faults of its own."""

    def __init__(self) -> None:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                receiver.take(self)

            def do_GET(self) -> None:
                receiver.followed += 1
                self.send_error(418)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as in the base class
                pass

        self.got: list[Got] = []
        self.faults: dict[str, deque[Fault]] = {}
        self.fired: list[Fault] = []
        self.followed = 0
        self.arrived = threading.Semaphore(0)
        self._released = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def fail(self, path: str, *faults: Fault) -> None:
        """Answer the next requests at a path so, one after the other; those after them are taken."""
        self.faults.setdefault(path, deque()).extend(faults)

    def release(self) -> None:
        """Let go of whoever is held."""
        self._released.set()

    def wait(self) -> None:
        """Wait until a request has arrived."""
        assert self.arrived.acquire(timeout=120), "no request arrived"

    def at(self, path: str) -> list[Got]:
        """Return what a path has taken: that is, what it answered with success, or was about to."""
        return [got for got in self.got if got.path == path and got.status is not None and got.status < 300]

    def take(self, handler: BaseHTTPRequestHandler) -> None:
        """Read one request and answer it."""
        content = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        path = handler.path.partition("?")[0]
        waiting = self.faults.get(path)
        fault = waiting.popleft() if waiting else Fault(status=200)
        status = None if fault.way in ("drop", "garbage") else fault.status
        self.got.append(Got(path, handler.headers["Idempotency-Key"], content, status))
        if fault != Fault(status=200):
            self.fired.append(fault)
        self.arrived.release()
        if fault.way == "hold":
            self._released.wait(LONGEST_HOLD)
        handler.close_connection = True
        if fault.way == "drop":
            return
        if fault.way == "garbage":
            handler.wfile.write(b"this is no HTTP at all\r\n\r\n")
            return
        handler.send_response(fault.status)
        for name, value in {"Content-Length": "2", **fault.headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(b"ok")

    def close(self) -> None:
        """Stop listening."""
        self.release()
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Run one until the block ends."""
    receiver = Receiver()
    try:
        yield receiver
    finally:
        receiver.close()
