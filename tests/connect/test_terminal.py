"""The loopback server that waits for Vanta's redirect."""

import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
import requests

from symvanta_pipeline.connect.consent import ConsentError
from symvanta_pipeline.connect.terminal import CallbackServer, callback_server


@pytest.fixture
def server() -> Iterator[CallbackServer]:
    with callback_server(0) as running:
        yield running


def port_of(server: CallbackServer) -> int:
    port = urlsplit(server.redirect_uri).port
    assert port is not None
    return port


def test_the_redirect_uri_is_what_vanta_takes(server: CallbackServer) -> None:
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/vanta/callback", server.redirect_uri)


def test_the_answer_arrives_and_the_page_tells_nothing(server: CallbackServer) -> None:
    query = {"state": "canary s/+&", "code": "canary c%20=", "iss": "ignored"}
    response = requests.get(server.redirect_uri, query, timeout=10)
    answer = server.wait("canary s/+&", 10)
    assert (answer.state, answer.code, answer.error) == ("canary s/+&", "canary c%20=", "")
    assert (response.status_code, response.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "Back to the terminal" in response.text
    assert "canary" not in f"{response.text} {response.headers}"
    assert response.headers["Referrer-Policy"] == "no-referrer"
    assert response.headers["Cache-Control"] == "no-store"


def test_an_answer_to_another_request_is_passed_over(server: CallbackServer) -> None:
    """Any web page can make this browser open the address; an image is enough."""
    for stray in ({}, {"state": "other", "code": "canary"}, {"state": "☃"}, {"error": "access_denied"}):
        assert requests.get(server.redirect_uri, stray, timeout=10).status_code == 200
    requests.get(server.redirect_uri, {"state": "s", "code": "c"}, timeout=10)
    assert server.wait("s", 10).code == "c"


def test_strays_do_not_make_the_wait_longer(server: CallbackServer) -> None:
    began = time.monotonic()
    with ThreadPoolExecutor(1) as strays:
        for _ in range(20):
            strays.submit(requests.get, server.redirect_uri, {"state": "other"}, timeout=10)
        with pytest.raises(ConsentError, match="nobody answered"):
            server.wait("s", 0.3)
    assert time.monotonic() - began < 5


def test_a_denial_arrives(server: CallbackServer) -> None:
    response = requests.get(server.redirect_uri, {"state": "s", "error": "access_denied"}, timeout=10)
    answer = server.wait("s", 10)
    assert (answer.state, answer.code, answer.error) == ("s", "", "access_denied")
    assert "denied" not in response.text


@pytest.mark.parametrize("path", ["/", "/vanta/callback/", "/vanta/callbackx", "/vanta", "/x?code=canary"])
def test_other_paths_are_not_found_and_answer_nothing(server: CallbackServer, path: str) -> None:
    response = requests.get(f"http://127.0.0.1:{port_of(server)}{path}", timeout=10)
    assert response.status_code == 404
    assert "canary" not in response.text
    with pytest.raises(ConsentError):
        server.wait("s", 0.05)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_answer_nothing(server: CallbackServer, method: str) -> None:
    response = requests.request(method, server.redirect_uri, params={"code": "canary", "state": "s"}, timeout=10)
    assert response.status_code == 501
    assert "canary" not in response.text
    with pytest.raises(ConsentError):
        server.wait("s", 0.05)


def test_the_first_of_several_values_counts_and_a_huge_one_is_cut(server: CallbackServer) -> None:
    requests.get(f"{server.redirect_uri}?code=a&code=b&state=" + "s" * 5000, timeout=10)
    answer = server.wait("s" * 4096, 10)
    assert (answer.code, len(answer.state)) == ("a", 4096)


def test_markup_in_the_query_does_not_reach_the_page(server: CallbackServer) -> None:
    assert "<script" not in requests.get(server.redirect_uri, {"error": "<script>"}, timeout=10).text


def test_nobody_answers(server: CallbackServer) -> None:
    with pytest.raises(ConsentError, match="within 0 s: start again"):
        server.wait("s", 0.1)


def test_it_listens_on_loopback_only(server: CallbackServer) -> None:
    with socket.socket() as elsewhere:
        elsewhere.settimeout(5)
        # All of 127.0.0.0/8 is this machine: a server bound to every address would answer here.
        with pytest.raises(ConnectionRefusedError):
            elsewhere.connect(("127.0.0.2", port_of(server)))


def test_a_port_that_is_taken(server: CallbackServer) -> None:
    with pytest.raises(ConsentError, match=f"port {port_of(server)} .*--port"), callback_server(port_of(server)):
        pytest.fail("it listens")


def test_the_port_is_free_afterwards() -> None:
    with callback_server(0) as first:
        port = port_of(first)
        requests.get(first.redirect_uri, timeout=10)
    with callback_server(port) as second:
        assert port_of(second) == port


def test_it_ends_with_its_block() -> None:
    before = threading.active_count()
    with callback_server(0) as running:
        port = port_of(running)
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(("127.0.0.1", port))
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


def reset(connection: socket.socket) -> None:
    """Go away without a goodbye, as a crashed browser does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def test_a_browser_that_goes_away_says_nothing_and_stops_nobody(
    server: CallbackServer, capfd: pytest.CaptureFixture[str]
) -> None:
    for start in (b"", b"GET /vanta/call", b"GET / HTTP/1.1\r\nHost: x\r\n", b"nonsense\r\n\r\n"):
        connection = socket.create_connection(("127.0.0.1", port_of(server)), timeout=5)
        connection.sendall(start)
        reset(connection)
    connection = socket.create_connection(("127.0.0.1", port_of(server)), timeout=5)
    connection.sendall(b"GET /vanta/callback?code=canary&state=s HTTP/1.1\r\n\r\n")
    reset(connection)
    requests.get(server.redirect_uri, {"code": "c2", "state": "s2"}, timeout=10)
    assert server.wait("s2", 10).code == "c2"
    assert capfd.readouterr() == ("", "")
