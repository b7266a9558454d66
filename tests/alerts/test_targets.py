"""One attempt at a real server, with each of its errors; the URL is told nowhere."""

import logging
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from pydantic import SecretStr

from symvanta_pipeline.alerts import rendering, targets
from symvanta_pipeline.alerts.messages import Message
from symvanta_pipeline.alerts.targets import LONGEST_RETRY_AFTER, LogTarget, NotDelivered, WebTarget, targets_of
from symvanta_pipeline.settings import AlertSettings
from tests.alerts.receiver import Fault, Receiver
from tests.alerts.test_messages import message
from tests.support.leaks import Canaries, Records, everything_logged, exceptions, find_leaks
from tests.support.parts import meanwhile

SECRET = "T0canary/B0canary/xcanaryx"
PATH = f"/slack/{SECRET}"
CANARIES = Canaries({"webhook": [SECRET, "querycanary"]})


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "TIMEOUT", (0.5, 0.5))


@pytest.fixture(autouse=True)
def logged() -> Iterator[Records]:
    """Whatever happens, no logger says the URL, and no exception holds it."""
    with everything_logged() as records:
        logging.getLogger("test").debug("the net is out")
        yield records
    assert "test" in records.loggers()
    assert find_leaks(CANARIES, records.places()) == []


def slack(receiver: Receiver) -> WebTarget:
    return WebTarget("slack", SecretStr(f"{receiver.url}{PATH}?token=querycanary"), rendering.slack)


def failure(target: WebTarget, told: Message | None = None) -> NotDelivered:
    with pytest.raises(NotDelivered) as caught:
        target.send(told or message())
    assert find_leaks(CANARIES, exceptions([caught.value])) == []
    assert "canary" not in repr(target)
    return caught.value


def test_a_message_arrives_as_it_is(receiver: Receiver) -> None:
    told = message()
    slack(receiver).send(told)
    WebTarget("webhook", SecretStr(f"{receiver.url}/webhook"), rendering.webhook).send(told)
    to_slack, to_webhook = receiver.got
    assert (to_slack.path, to_slack.content, to_slack.key) == (PATH, rendering.slack(told), str(told.id))
    assert (to_webhook.content, to_webhook.key) == (rendering.webhook(told), str(told.id))


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_any_success_is_one(receiver: Receiver, status: int) -> None:
    receiver.fail(PATH, Fault(status))
    slack(receiver).send(message())
    assert len(receiver.got) == 1


@pytest.mark.parametrize(
    ("status", "says", "permanent", "of_message", "unsure"),
    [
        (400, "it refused this message (400)", True, True, False),
        (413, "it refused this message (413)", True, True, False),
        (401, "it refused (401): look whether its URL is still right", True, False, False),
        (403, "it refused (403): look", True, False, False),
        (404, "it refused (404): look", True, False, False),
        (410, "it refused (410): look", True, False, False),
        (408, "it cannot take messages now (408)", False, False, True),
        (429, "it cannot take messages now (429)", False, False, False),
        (500, "it cannot take messages now (500)", False, False, False),
        (502, "it cannot take messages now (502)", False, False, True),
        (503, "it cannot take messages now (503)", False, False, False),
        (504, "it cannot take messages now (504)", False, False, True),
    ],
)
def test_what_a_status_means(
    receiver: Receiver, status: int, says: str, *, permanent: bool, of_message: bool, unsure: bool
) -> None:
    fault = Fault(status)
    receiver.fail(PATH, fault)
    told = failure(slack(receiver))
    assert receiver.fired == [fault]
    assert str(told).startswith(says)
    assert (told.permanent, told.of_message, told.unsure, told.retry_after) == (permanent, of_message, unsure, None)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(receiver: Receiver, status: int) -> None:
    fault = Fault(status, {"Location": f"{receiver.url}/elsewhere"})
    receiver.fail(PATH, fault)
    assert str(failure(slack(receiver))) == f"it answered with a redirect ({status}), which is not followed"
    assert (receiver.fired, len(receiver.got), receiver.followed) == ([fault], 1, 0)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("value", "seconds"),
    [("30", 30), ("0", 0), ("999999", 3600), ("later", None), ("-5", None), ("9" * 40, None), ("", None)],
)
def test_a_pause_that_is_asked_for_is_known(receiver: Receiver, status: int, value: str, seconds: float | None) -> None:
    receiver.fail(PATH, Fault(status, {"Retry-After": value}))
    assert failure(slack(receiver)).retry_after == (None if seconds is None else timedelta(seconds=seconds))


def test_a_pause_until_a_time_is_known(receiver: Receiver) -> None:
    for until in (datetime.now(UTC) + timedelta(minutes=5), datetime.now(UTC) - timedelta(minutes=5)):
        receiver.fail(PATH, Fault(429, {"Retry-After": format_datetime(until, usegmt=True)}))
        wait = failure(slack(receiver)).retry_after
        assert wait is not None
        assert timedelta(0) <= wait <= max(until - datetime.now(UTC) + timedelta(seconds=30), timedelta(0))
        assert wait <= LONGEST_RETRY_AFTER


@pytest.mark.usefixtures("impatient")
def test_no_answer_in_time(receiver: Receiver) -> None:
    receiver.fail(PATH, Fault(200, way="hold"))
    told = failure(slack(receiver))
    assert len(receiver.fired) == 1
    assert (str(told), told.unsure) == ("no answer within 10 s", True)


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    told = failure(WebTarget("slack", SecretStr(f"http://127.0.0.1:{port}{PATH}"), rendering.slack))
    assert (str(told), told.unsure) == ("it cannot be reached, or broke the connection off", False)


def test_a_name_that_does_not_resolve() -> None:
    told = failure(WebTarget("slack", SecretStr(f"https://nobody.invalid{PATH}"), rendering.slack))
    assert not told.unsure


@pytest.mark.parametrize("fault", [Fault(way="drop"), Fault(way="garbage")])
def test_a_connection_that_breaks_off_leaves_open_whether_it_arrived(receiver: Receiver, fault: Fault) -> None:
    receiver.fail(PATH, fault)
    told = failure(slack(receiver))
    assert receiver.fired == [fault]
    assert told.unsure


def test_a_server_without_tls() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with server.accept()[0] as connection:
                connection.recv(1)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                connection.recv(65536)

        with meanwhile(answer):
            url = f"https://127.0.0.1:{server.getsockname()[1]}{PATH}"
            told = failure(WebTarget("slack", SecretStr(url), rendering.slack))
    assert (str(told), told.unsure) == ("its certificate is not accepted", False)


def test_malformed_headers_are_logged_by_nobody(receiver: Receiver, logged: Records) -> None:
    receiver.fail(PATH, Fault(200, {"X-Odd": "a\r\nno header at all"}))
    slack(receiver).send(message())
    assert not any("urllib3" in name for name in logged.loggers())


def test_urllib3_would_have_told_the_url(receiver: Receiver, logged: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets._SilentWhileSending, "filter", lambda *_: True)
    slack(receiver).send(message())
    assert find_leaks(CANARIES, logged.places())
    logged._kept[:] = [place for place in logged.places() if "urllib3" not in place.where]


def test_the_log_gets_a_line_of_fitting_weight() -> None:
    lines: list[tuple[int, str]] = []
    target = LogTarget(lambda level, text: lines.append((level, text)))
    target.send(message())
    target.send(message().model_copy(update={"state": "recovered"}))
    assert [level for level, _ in lines] == [logging.WARNING, logging.INFO]


@pytest.mark.parametrize(
    ("urls", "names"),
    [
        ({}, ["log"]),
        ({"slack": "https://hooks.example/a"}, ["log", "slack"]),
        ({"webhook": "https://hooks.example/b"}, ["log", "webhook"]),
        ({"slack": "https://hooks.example/a", "webhook": "https://hooks.example/b"}, ["log", "slack", "webhook"]),
    ],
)
def test_what_is_switched_on(urls: dict[str, str], names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, variable in (("slack", "SYMVANTA_ALERT_SLACK_WEBHOOK_URL"), ("webhook", "SYMVANTA_ALERT_WEBHOOK_URL")):
        monkeypatch.setenv(variable, urls.get(name, ""))
    assert [target.name for target in targets_of(AlertSettings(), print)] == names
