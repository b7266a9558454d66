"""What was announced of customers, and the outbox of messages: the tables ``announced`` and ``alerts``.

Belongs here: their statements. Does not belong here: what is worth a message and how it reads (``alerts.changes``,
``alerts.messages``), sending it (``alerts.delivery``).

A message is claimed in a committed statement before it is sent, and marked after it. A claim that is older than
`LEASE` was left behind by a process that is gone: nobody knows whether that message arrived.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

# Longer than any attempt takes, with all that is done to write its end down.
LEASE: Final = timedelta(seconds=60)

# Any fixed number does, as long as nothing else on this database uses it: "alerts" in ASCII.
_LOCK = int.from_bytes(b"alerts")


@dataclass(frozen=True)
class Facts:
    """What messages need to know of a customer beside its `CustomerRecord`.

    Attributes:
        organization_id: the organization.
        run_id: Dagster's run of the latest attempt; ``None`` if there was none.
        parked_at: since when it is parked.
        disconnected_at: since when it is disconnected.
        accepted_at: when a push was first accepted since its announced trouble began; ``None`` if none was, or if no
            trouble lasts.
    """

    organization_id: UUID
    run_id: str | None = None
    parked_at: datetime | None = None
    disconnected_at: datetime | None = None
    accepted_at: datetime | None = None


@dataclass(frozen=True)
class Announced:
    """One customer's latest announced trouble; columns as in the table, which explains them."""

    organization_id: UUID
    state: str
    kind: str
    since: datetime
    told: list[str]
    relapsed: bool
    at: datetime
    closed_at: datetime | None = None


@dataclass(frozen=True)
class Claim:
    """A message that this process alone may send to a target now.

    Attributes:
        id: the row's.
        message_id: the message's.
        target: its target.
        message: its content.
        claimed_at: since when it is claimed.
        attempts: how many were begun, this one included.
        unsure: whether an earlier one may have arrived.
    """

    id: int
    message_id: UUID
    target: str
    message: dict[str, Any]
    claimed_at: datetime
    attempts: int
    unsure: bool


@dataclass(frozen=True)
class Backlog:
    """What waits for one target.

    Attributes:
        target: which.
        waiting: how many messages.
        oldest: when the oldest of them was written.
        last_error: why the latest failed attempt failed; ``None`` if none was made.
    """

    target: str
    waiting: int
    oldest: datetime
    last_error: str | None


def now(connection: psycopg.Connection) -> datetime:
    """Give the database's time, by which everything here is judged."""
    [(moment,)] = connection.execute("SELECT clock_timestamp()").fetchall()
    assert isinstance(moment, datetime)  # noqa: S101 - narrows a type
    return moment


def try_lock(connection: psycopg.Connection) -> bool:
    """Be the only one who announces until the open transaction ends; ``False`` if somebody else is."""
    return connection.execute("SELECT pg_try_advisory_xact_lock(%s)", [_LOCK]).fetchone() == (True,)


def facts(connection: psycopg.Connection) -> dict[UUID, Facts]:
    """Gather the facts of every connection, by organization."""
    with connection.cursor(row_factory=class_row(Facts)) as cursor:
        # Nothing is accepted a day after it was read: so much of the index is enough, however long the history is.
        rows = cursor.execute(
            """
            SELECT organization_id, run_id, parked_at, disconnected_at, (
                SELECT min(accepted_at) FROM accepted_snapshots AS held
                WHERE announced.closed_at IS NULL AND held.organization_id = announced.organization_id
                  AND held.accepted_at > announced.since
                  AND held.read_at > announced.since - interval '1 day'
            ) AS accepted_at
            FROM connections
            LEFT JOIN outcomes USING (organization_id)
            LEFT JOIN announced USING (organization_id)
            """
        ).fetchall()
    return {row.organization_id: row for row in rows}


def announced(connection: psycopg.Connection) -> dict[UUID, Announced]:
    """Give each customer's latest announced trouble, by organization; those without any are left out."""
    with connection.cursor(row_factory=class_row(Announced)) as cursor:
        rows = cursor.execute(
            "SELECT organization_id, state, kind, since, told, relapsed, at, closed_at FROM announced"
        ).fetchall()
    return {row.organization_id: row for row in rows}


def write_down(
    connection: psycopg.Connection,
    messages: Mapping[UUID, Mapping[str, Any]],
    *,
    targets: Sequence[str],
    announces: Sequence[Announced],
) -> None:
    """Put messages into the outbox, once a target, and write down what they announce: all or nothing.

    Args:
        connection: to the pipeline's own database.
        messages: JSON objects by their ids.
        targets: names of all targets.
        announces: one for each customer that a message names.
    """
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO alerts (message_id, target, message) VALUES (%s, %s, %s)",
            [(message_id, target, Jsonb(content)) for message_id, content in messages.items() for target in targets],
        )
        cursor.executemany(
            """
            INSERT INTO announced (organization_id, state, kind, since, told, relapsed, at, closed_at)
            VALUES (%(organization_id)s, %(state)s, %(kind)s, %(since)s, %(told)s, %(relapsed)s, %(at)s, %(closed_at)s)
            ON CONFLICT (organization_id) DO UPDATE
            SET state = excluded.state, kind = excluded.kind, since = excluded.since, told = excluded.told,
                relapsed = excluded.relapsed, at = excluded.at, closed_at = excluded.closed_at
            """,
            [vars(each) for each in announces],
        )


# The first query keeps a target's order; what the target refused for itself is tried when nothing else waits.
_CLAIM: Final = """
WITH first AS (
    SELECT id FROM (
        (SELECT id, 1 AS turn FROM alerts
         WHERE target = %(target)s AND sent_at IS NULL AND NOT set_aside ORDER BY id LIMIT 1)
        UNION ALL
        (SELECT id, 2 FROM alerts
         WHERE target = %(target)s AND sent_at IS NULL AND set_aside AND due_at <= clock_timestamp()
         ORDER BY due_at, id LIMIT 1)
    ) AS waiting ORDER BY turn LIMIT 1
)
UPDATE alerts SET claimed_at = clock_timestamp(), attempts = attempts + 1, unsure = unsure OR claimed_at IS NOT NULL
FROM first
WHERE alerts.id = first.id AND sent_at IS NULL AND due_at <= clock_timestamp()
  AND (claimed_at IS NULL OR claimed_at <= clock_timestamp() - %(lease)s)
RETURNING alerts.id, message_id, target, message, claimed_at, attempts, unsure
"""


def claim(connection: psycopg.Connection, target: str) -> Claim | None:
    """Claim the next message of a target, committed on return.

    Returns:
        The oldest that waits; ``None`` if none does, it is not due yet, or somebody else is sending it.
    """
    with connection.cursor(row_factory=class_row(Claim)) as cursor:
        return cursor.execute(_CLAIM, {"target": target, "lease": LEASE}).fetchone()


def mark_sent(connection: psycopg.Connection, claimed: Claim) -> None:
    """Record that the target has taken a message; also where the claim was lost meanwhile. Safe to repeat."""
    connection.execute(
        """
        UPDATE alerts SET sent_at = clock_timestamp(), claimed_at = NULL, last_error = NULL
        WHERE id = %s AND sent_at IS NULL
        """,
        [claimed.id],
    )


def mark_failed(
    connection: psycopg.Connection,
    claimed: Claim,
    reason: str,
    *,
    wait: timedelta,
    unsure: bool = False,
    set_aside: bool = False,
) -> None:
    """Record that an attempt failed, unless the claim was lost meanwhile.

    Args:
        connection: to the pipeline's own database.
        claimed: what was to be sent.
        reason: why, without the target's address.
        wait: how long until the next attempt.
        unsure: whether it may have arrived all the same.
        set_aside: whether the target refused this very message, so that others may go before it.
    """
    connection.execute(
        """
        UPDATE alerts
        SET claimed_at = NULL, due_at = clock_timestamp() + %(wait)s, last_error = %(reason)s,
            unsure = unsure OR %(unsure)s, set_aside = %(set_aside)s
        WHERE id = %(id)s AND claimed_at = %(claimed_at)s
        """,
        {
            "id": claimed.id,
            "claimed_at": claimed.claimed_at,
            "wait": wait,
            "reason": reason,
            "unsure": unsure,
            "set_aside": set_aside,
        },
    )


def backlog(connection: psycopg.Connection) -> list[Backlog]:
    """Tell what waits for each target that anything waits for, by its name."""
    with connection.cursor(row_factory=class_row(Backlog)) as cursor:
        return cursor.execute(
            """
            SELECT target, count(*) AS waiting, min(created_at) AS oldest,
                   (array_agg(last_error ORDER BY due_at DESC) FILTER (WHERE last_error IS NOT NULL))[1] AS last_error
            FROM alerts WHERE sent_at IS NULL GROUP BY target ORDER BY target
            """
        ).fetchall()


def prune(connection: psycopg.Connection, before: datetime, *, batch: int = 10_000) -> int:
    """Remove up to a batch of messages that were sent before a time; what waits stays, however old.

    Returns:
        How many: call it until that is 0.
    """
    return connection.execute(
        "DELETE FROM alerts WHERE id IN (SELECT id FROM alerts WHERE sent_at < %s ORDER BY sent_at LIMIT %s)",
        [before, batch],
    ).rowcount
