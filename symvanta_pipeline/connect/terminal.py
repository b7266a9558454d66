"""Consent from a terminal: a URL for the browser, and a loopback server that waits for Vanta's redirect.

Belongs here: that server and the wait. Does not belong here: what an answer means (``consent``). Vanta accepts
http redirects to 127.0.0.1 on any port (documented).
"""

import hmac
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from symvanta_pipeline.connect.consent import Answer, ConsentError

CALLBACK_PATH = "/vanta/callback"
LONGEST_VALUE = 4096

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Sym and Vanta</title>
<body style="font-family: system-ui; max-width: 40rem; margin: 4rem auto">
<h1>{title}</h1><p>{text}</p></body></html>"""


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that went away: a traceback is no answer to the person at the terminal."""


class CallbackServer:
    """Waits for the redirect that answers one request.

    Attributes:
        redirect_uri: exactly what Vanta has to be given.
    """

    def __init__(self, server: ThreadingHTTPServer, answers: "queue.SimpleQueue[Answer]") -> None:
        self.redirect_uri = f"http://127.0.0.1:{server.server_port}{CALLBACK_PATH}"
        self._answers = answers

    def wait(self, state: str, timeout: float) -> Answer:
        """Return the first answer with this state; others are passed over, since any web page can send a browser here.

        Raises:
            ConsentError: none came within ``timeout`` seconds.
        """
        until = time.monotonic() + timeout
        while (left := until - time.monotonic()) > 0:
            with suppress(queue.Empty):
                answer = self._answers.get(timeout=left)
                if hmac.compare_digest(answer.state.encode(), state.encode()):
                    return answer
        raise ConsentError(f"nobody answered the consent page within {timeout:.0f} s: start again")


@contextmanager
def callback_server(port: int) -> Iterator[CallbackServer]:
    """Listen on the loopback address until the block ends.

    Raises:
        ConsentError: the port cannot be used.
    """
    answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()

    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # seconds for a request to arrive in full

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            if parts.path != CALLBACK_PATH:
                self._reply(HTTPStatus.NOT_FOUND, "Nothing here", "This address only waits for Vanta's answer.")
                return
            query = {name: values[0][:LONGEST_VALUE] for name, values in parse_qs(parts.query).items()}
            try:
                self._reply(HTTPStatus.OK, "Back to the terminal", "It says how this ended; this page can be closed.")
            finally:  # a browser that does not wait for the page has answered all the same
                answers.put(Answer(query.get("state", ""), query.get("code", ""), query.get("error", "")))

        def _reply(self, status: HTTPStatus, title: str, text: str) -> None:
            content = PAGE.format(title=title, text=text).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("Referrer-Policy", "no-referrer")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            """Log nothing: the request line holds the authorization code."""

    try:
        server = _Server(("127.0.0.1", port), Handler)
    except OSError as error:
        raise ConsentError(
            f"port {port} of 127.0.0.1 cannot be used ({error.strerror}): choose another one with --port"
        ) from None
    with server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            yield CallbackServer(server, answers)
        finally:
            server.shutdown()
