"""One look: what changed goes into the outbox, and what waits there goes to its targets.

Belongs here: the order of these steps, and when a failed attempt is repeated. Does not belong here: Dagster
(``defs.alerts``), the statements (``ledger.alerts``).

First, in one transaction: which customers differ from what was announced of them, the messages of that, a row a
target, and that it is announced now. Then, outside of any transaction, target by target in order: claim (committed),
send, mark. Whatever ends the process, a message is written once, and stays until its target has taken it. It is sent
again only where an attempt was cut off after it began and before its mark; then it carries the same id and says so.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import psycopg
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from symvanta_pipeline.alerts.changes import due_groups
from symvanta_pipeline.alerts.messages import Links, Message, message_of
from symvanta_pipeline.alerts.targets import NotDelivered, Target
from symvanta_pipeline.ledger import alerts, snapshots
from symvanta_pipeline.ledger.alerts import Announced, Backlog, Claim
from symvanta_pipeline.ledger.database import LedgerUnavailable
from symvanta_pipeline.ledger.live_connection import LiveConnection
from symvanta_pipeline.unforeseen import place_of

FIRST_WAIT: Final = timedelta(minutes=1)
LONGEST_WAIT: Final = timedelta(minutes=15)
SET_ASIDE_FOR: Final = timedelta(hours=1)
MARK_FOR: Final = 15.0  # seconds that a lost connection to the ledger may take to come back, so that no mark is lost
BUSY_FOR: Final = 25.0  # seconds after which no further attempt is begun: a tick of Dagster's has 60 in all
LONG: Final = timedelta(hours=1)


@dataclass
class Report:
    """What one look did.

    Attributes:
        at: when it began, by the ledger's time.
        announced: titles of the messages that were written.
        is_alone: whether nobody else was announcing at the same moment.
        sent: how many messages each target took.
        failed: why the latest attempt at each target failed, of those that failed.
        backlog: what waits.
        targets: names of all targets.
    """

    at: datetime
    announced: list[str] = field(default_factory=list)
    is_alone: bool = True
    sent: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    backlog: list[Backlog] = field(default_factory=list)
    targets: tuple[str, ...] = ()

    def sentence(self) -> str:
        """Tell it in one line."""
        parts = [f"announced: {'; '.join(self.announced)}"] if self.announced else []
        parts += [] if self.is_alone else ["another process is announcing"]
        parts += [f"sent to {', '.join(f'{name} {n}' for name, n in self.sent.items())}"] if self.sent else []
        parts += [self._waiting(each) for each in self.backlog]
        return "; ".join(parts) or "no customer's state changed"

    def long_waiting(self) -> list[str]:
        """Say of each target what has waited for it too long."""
        return [self._waiting(each) for each in self.backlog if self.at - each.oldest > LONG]

    def _waiting(self, backlog: Backlog) -> str:
        messages = "message waits" if backlog.waiting == 1 else "messages wait"
        since = f"{backlog.waiting} {messages} for {backlog.target} since {backlog.oldest:%Y-%m-%d %H:%M} UTC"
        if backlog.target not in self.targets:
            return f"{since}: it is not switched on"
        return f"{since}: {backlog.last_error}" if backlog.last_error else since


def look(ledger: LiveConnection, targets: Sequence[Target], links: Links) -> Report:
    """Announce what changed, and send what waits; a target that is down stops no other one.

    Raises:
        LedgerUnavailable, psycopg.Error: the pipeline's own database failed.
    """
    connection = ledger.fresh()
    report = Report(alerts.now(connection), targets=tuple(target.name for target in targets))
    written = announce(connection, [target.name for target in targets], links, report.at)
    report.is_alone = written is not None
    report.announced = [message.title for message in written or ()]
    for target in targets:
        deliver(ledger, target, report, until=time.monotonic() + BUSY_FOR / len(targets))
    report.backlog = alerts.backlog(ledger.get())
    return report


def announce(
    connection: psycopg.Connection, targets: Sequence[str], links: Links, now: datetime
) -> list[Message] | None:
    """Write down what changed since the last announcement, and the messages of it: all or nothing.

    Returns:
        The messages; None where somebody else is doing so at this moment.
    """
    with connection.transaction():
        if not alerts.try_lock(connection):
            return None
        records = snapshots.customer_records(connection)
        groups = due_groups(records, alerts.facts(connection), alerts.announced(connection), now)
        connected = sum(record.connection_state != "disconnected" for record in records)
        messages = [message_of(group, links, connected=connected, now=now) for group in groups]
        announces: list[Announced] = [change.announces for group in groups for change in group]
        content = {message.id: message.model_dump(mode="json") for message in messages}
        alerts.write_down(connection, content, targets=targets, announces=announces)
    return messages


def deliver(ledger: LiveConnection, target: Target, report: Report, *, until: float) -> None:
    """Send what waits for one target, in order; its first failure ends that for this time.

    Args:
        ledger: the pipeline's own database.
        target: where to.
        report: is told what happened.
        until: on the monotonic clock; no attempt is begun after it.
    """
    while time.monotonic() < until:
        claimed = alerts.claim(ledger.get(), target.name)
        if claimed is None:
            return
        failure = _send(target, claimed)
        if failure is None:
            _insist(lambda: alerts.mark_sent(ledger.get(), claimed))  # noqa: B023 - called at once
            report.sent[target.name] = report.sent.get(target.name, 0) + 1
            continue
        _insist(lambda: _mark_failed(ledger.get(), claimed, failure))  # noqa: B023 - called at once
        report.failed[target.name] = str(failure)
        if not failure.of_message:
            return


def _send(target: Target, claimed: Claim) -> NotDelivered | None:
    try:
        message = Message.model_validate(claimed.message)
        target.send(message.model_copy(update={"repeated": claimed.unsure}))
    except NotDelivered as failure:
        return failure
    except Exception as error:  # noqa: BLE001 - a message that cannot be worded must not stop those after it
        # The text of an unforeseen error may quote anything, so it is not shown.
        return NotDelivered(f"unexpected {type(error).__name__} at {place_of(error)}", of_message=True, unsure=True)
    return None


def _mark_failed(connection: psycopg.Connection, claimed: Claim, failure: NotDelivered) -> None:
    alerts.mark_failed(
        connection,
        claimed,
        str(failure),
        wait=wait_after(failure, claimed.attempts),
        unsure=failure.unsure,
        set_aside=failure.of_message,
    )


def _insist(mark: Callable[[], None]) -> None:
    """Repeat a mark while the ledger is away: one that is lost sends a message again."""
    Retrying(
        retry=retry_if_exception_type((psycopg.OperationalError, LedgerUnavailable)),
        stop=stop_after_delay(MARK_FOR),
        wait=wait_fixed(0.5),
        reraise=True,
    )(mark)


def wait_after(failure: NotDelivered, attempts: int) -> timedelta:
    """Return how long a message waits for its next attempt.

    Args:
        failure: of the latest.
        attempts: how many there were.
    """
    if failure.of_message:
        return SET_ASIDE_FOR
    if failure.permanent:
        return LONGEST_WAIT
    backoff = min(FIRST_WAIT * int(2 ** min(attempts - 1, 10)), LONGEST_WAIT)
    return max(backoff, failure.retry_after) if failure.retry_after is not None else backoff
