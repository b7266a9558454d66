"""Where messages go: the log, a Slack webhook, any other webhook.

Belongs here: one attempt to send one message, and what its failure means. Does not belong here: when to try again
(``delivery``), the form of a message (``rendering``).

A webhook's URL is a secret: whoever has it can post. It stands in no exception, no ``repr`` and no log; urllib3 would
write its path, so that its loggers say nothing while a message is sent.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final, Protocol

import requests
from pydantic import SecretStr

from symvanta_pipeline.alerts import rendering
from symvanta_pipeline.alerts.messages import Message
from symvanta_pipeline.settings import AlertSettings

TIMEOUT = (5.0, 10.0)  # seconds to connect, and between bytes of an answer
LONGEST_RETRY_AFTER: Final = timedelta(hours=1)

# The target says that this very message is at fault; anything else it says is of itself.
REFUSES_THE_MESSAGE: Final = frozenset({400, 413, 422})
# Request time-out, too early, too many requests: as with 5xx, nothing is wrong with the URL.
PASSES: Final = frozenset({408, 425, 429})
# A gateway that gave up on the target does not know what became of the message.
UNSURE: Final = frozenset({408, 502, 504})

_sending: ContextVar[bool] = ContextVar("sending", default=False)


class _SilentWhileSending(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002 - whatever it says
        return not _sending.get()


_silent: Final = _SilentWhileSending()
for _name in ("urllib3.connectionpool", "urllib3.util.retry", "urllib3.poolmanager", "urllib3.connection"):
    logging.getLogger(_name).addFilter(_silent)


class NotDelivered(Exception):
    """An attempt failed; the text is safe to show.

    Attributes:
        retry_after: how long the target asked to be left alone; None if it did not.
        permanent: whether trying again changes nothing until somebody does something.
        of_message: whether the target refused this very message.
        unsure: whether the message may have arrived all the same.
    """

    def __init__(
        self,
        reason: str,
        *,
        retry_after: timedelta | None = None,
        permanent: bool = False,
        of_message: bool = False,
        unsure: bool = False,
    ) -> None:
        self.retry_after = retry_after
        self.permanent = permanent
        self.of_message = of_message
        self.unsure = unsure
        super().__init__(reason)


class Target(Protocol):
    """Somewhere that a message goes to."""

    @property
    def name(self) -> str:
        """What it is called in the outbox: a-z; it never changes."""

    def send(self, message: Message) -> None:
        """Make one attempt.

        Raises:
            NotDelivered: it failed.
        """


@dataclass(frozen=True)
class LogTarget:
    """The log, of the process and of the tick: one line a message.

    Attributes:
        log: takes level and text.
    """

    log: Callable[[int, str], object] = field(repr=False)
    name: str = "log"

    def send(self, message: Message) -> None:
        """Write the line: a warning, or for the end of a trouble an information."""
        is_over = message.state in ("recovered", "disconnected")
        self.log(logging.INFO if is_over else logging.WARNING, rendering.line(message))


@dataclass(frozen=True)
class WebTarget:
    """An HTTP endpoint that is posted JSON.

    The header ``Idempotency-Key`` holds the message's id, for receivers that know it; Slack does not.

    Attributes:
        name: of the target.
        url: a secret.
        render: gives a message its form.
    """

    name: str
    url: SecretStr
    render: Callable[[Message], Mapping[str, Any]] = field(repr=False)

    def send(self, message: Message) -> None:
        """Post the message; any 2xx is success, no redirect is followed, no answer's body is read.

        Raises:
            NotDelivered: it failed.
        """
        failure = self._attempt(message)
        if failure:
            # Raised out here so that an exception that quotes the URL is not chained to it.
            raise failure

    def _attempt(self, message: Message) -> NotDelivered | None:
        body = json.dumps(self.render(message)).encode()
        headers = {"Content-Type": "application/json; charset=utf-8", "Idempotency-Key": str(message.id)}
        try:
            with _unlogged(), requests.Session() as session:
                response = session.post(
                    self.url.get_secret_value(),
                    data=body,
                    headers=headers,
                    timeout=TIMEOUT,
                    allow_redirects=False,
                    stream=True,
                )
                return _failure_of(response)
        except requests.ConnectTimeout:
            return NotDelivered("no connection within 5 s")
        except requests.Timeout:
            return NotDelivered("no answer within 10 s", unsure=True)
        except requests.exceptions.SSLError:
            return NotDelivered("its certificate is not accepted")
        except requests.ConnectionError as error:
            return NotDelivered("it cannot be reached, or broke the connection off", unsure=not _never_connected(error))
        except (requests.RequestException, ValueError, OSError) as error:
            return NotDelivered(f"the request failed ({type(error).__name__})", unsure=True)


def targets_of(settings: AlertSettings, log: Callable[[int, str], object]) -> list[Target]:
    """Return the targets that are switched on; the log always is.

    Args:
        settings: which webhooks there are.
        log: takes level and text.
    """
    slack, webhook = settings.symvanta_alert_slack_webhook_url, settings.symvanta_alert_webhook_url
    targets: list[Target] = [LogTarget(log)]
    if slack:
        targets.append(WebTarget("slack", slack, rendering.slack))
    if webhook:
        targets.append(WebTarget("webhook", webhook, rendering.webhook))
    return targets


@contextmanager
def _unlogged() -> Iterator[None]:
    token = _sending.set(True)
    try:
        yield
    finally:
        _sending.reset(token)


def _failure_of(response: requests.Response) -> NotDelivered | None:
    """Return what a status means; None for success."""
    status = response.status_code
    match status // 100:
        case 2:
            return None
        case 3:
            return NotDelivered(f"it answered with a redirect ({status}), which is not followed", permanent=True)
        case 4 if status in REFUSES_THE_MESSAGE:
            return NotDelivered(f"it refused this message ({status})", permanent=True, of_message=True)
        case 4 if status not in PASSES:
            return NotDelivered(f"it refused ({status}): look whether its URL is still right", permanent=True)
        case _:
            reason = f"it cannot take messages now ({status})"
            return NotDelivered(reason, retry_after=_retry_after(response), unsure=status in UNSURE)


def _retry_after(response: requests.Response) -> timedelta | None:
    """Return what ``Retry-After`` asks for, in either of HTTP's two forms, bounded; None where it is not there."""
    value = response.headers.get("Retry-After", "").strip()
    try:
        wait = (
            timedelta(seconds=int(value))
            if value.isascii() and value.isdigit()
            else parsedate_to_datetime(value) - datetime.now(UTC)
        )
    except (TypeError, ValueError, OverflowError):
        return None
    return min(max(wait, timedelta(0)), LONGEST_RETRY_AFTER)


def _never_connected(error: requests.ConnectionError) -> bool:
    """Tell whether nothing can have arrived, since there never was a connection."""
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return type(reason).__name__ in ("NewConnectionError", "NameResolutionError", "ConnectTimeoutError")
