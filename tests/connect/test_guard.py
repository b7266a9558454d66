"""What the guard does with an error that nobody foresaw, and with answers that have begun already."""

import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import requests
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from symvanta_pipeline.connect import guard, pages
from symvanta_pipeline.connect.app import ConnectApp, build_app
from symvanta_pipeline.connect.guard import Guard, origin_of, security_headers
from symvanta_pipeline.connect.login import Login
from symvanta_pipeline.settings import VantaSettings

SECRET = "vat_canary canary@customer.example"


@contextmanager
def served(app: ASGIApp) -> Iterator[str]:
    """Serve an app from a thread, so that its log is this process's."""
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", ws="none"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def guarded(handler: Route) -> ASGIApp:
    headers = security_headers(forms_lead_to=[], https=False)
    return Guard(Router([handler]), headers=headers, problem=pages.problem)


def until_logged(caplog: pytest.LogCaptureFixture, count: int) -> list[logging.LogRecord]:
    """Wait for the guard's lines: they follow the answer."""
    deadline = time.monotonic() + 10
    while True:
        ours = [record for record in caplog.records if record.name == guard.__name__]
        if len(ours) >= count:
            return ours
        assert time.monotonic() < deadline, caplog.text
        time.sleep(0.01)


class BrokenOffice:
    """Stands where the settings and databases would: every use of it fails as nobody foresaw."""

    vanta = VantaSettings(vanta_client_id="vci_1", vanta_client_secret="vcs_1", vanta_resource_id="r1")

    def desk(self) -> None:
        raise RuntimeError(SECRET)


def test_an_unforeseen_error_is_shown_and_logged_without_its_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    login = Login("https://login.example/", "c", "s", "http://127.0.0.1:3080/auth/callback")
    connect = ConnectApp(BrokenOffice(), login, None, "http://127.0.0.1:3080")  # type: ignore[arg-type] # broken
    with served(build_app(connect)) as url:
        answer = requests.get(f"{url}/vanta/install", timeout=10)
        ours = until_logged(caplog, 2)
    assert answer.status_code == 500
    assert "Something went wrong on our side" in answer.text
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert [record.levelno for record in ours] == [logging.ERROR, logging.INFO]
    assert ours[0].getMessage().startswith("unexpected RuntimeError at test_guard.py:")
    assert "canary" not in caplog.text
    assert all(record.exc_info is None for record in ours)


def test_an_answer_that_has_begun_is_not_begun_again(caplog: pytest.LogCaptureFixture) -> None:
    def broken(request: Request) -> Response:  # noqa: ARG001 - Starlette calls it with one
        def content() -> Iterator[bytes]:
            yield b"half"
            raise RuntimeError(SECRET)

        return StreamingResponse(content())

    with served(guarded(Route("/", broken))) as url:
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            requests.get(url, timeout=10)
        until_logged(caplog, 1)
    assert "canary" not in caplog.text


def test_the_log_names_the_page_and_not_the_address(caplog: pytest.LogCaptureFixture) -> None:
    def somewhere(request: Request) -> Response:  # noqa: ARG001 - Starlette calls it with one
        return PlainTextResponse("ok")

    caplog.set_level("INFO", guard.__name__)
    with served(guarded(Route("/x/{name}", somewhere))) as url:
        requests.get(f"{url}/x/secret-name?code=secret-code", timeout=10)
        [line] = until_logged(caplog, 1)
    assert line.getMessage().startswith("GET somewhere 200 ")
    assert "secret" not in line.getMessage()


def test_an_answer_may_say_more_strictly_what_it_wants() -> None:
    def own(request: Request) -> Response:  # noqa: ARG001 - Starlette calls it with one
        return PlainTextResponse("ok", headers={"Cache-Control": "private"})

    with served(guarded(Route("/", own))) as url:
        assert requests.get(url, timeout=10).headers["Cache-Control"] == "private"


def test_other_protocols_are_refused() -> None:
    app = Guard(Router([]), headers={}, problem=pages.problem)
    with pytest.raises(AssertionError, match="HTTP alone"):
        app({"type": "websocket"}, None, None).send(None)  # type: ignore[arg-type] # neither is used


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://app.vanta.com", "https://app.vanta.com"),
        ("https://sym.eu.auth0.com/", "https://sym.eu.auth0.com"),
        ("http://127.0.0.1:3000/x?y", "http://127.0.0.1:3000"),
    ],
)
def test_an_origin_is_scheme_host_and_port(url: str, origin: str) -> None:
    assert origin_of(url) == origin


def test_every_problem_has_a_page() -> None:
    for status in pages.PROBLEMS:
        assert pages.problem(status).status_code == status
