"""What was about to be sent, what Vanta accepted, and how the latest attempt ended.

Belongs here: the statements on ``intents``, ``accepted_snapshots`` and ``outcomes``.
Does not belong here: users themselves (no name or e-mail ever enters these tables), judging (``ledger.status``).
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

import psycopg
from psycopg.rows import class_row, scalar_row

from symvanta_pipeline.ledger.database import LedgerError
from symvanta_pipeline.ledger.status import CustomerRecord

IntentOutcome = Literal["accepted", "refused", "unknown", "superseded"]
AttemptOutcome = Literal["accepted", "held", "refused", "parked", "failing", "busy"]


class SnapshotOutOfOrder(LedgerError):
    """A newer snapshot of this organization was accepted already, which only work without its lock can cause."""


class IntentAlreadyResolved(LedgerError):
    """An intent is resolved once; this one was, or does not exist."""


@dataclass(frozen=True)
class Snapshot:
    """One organization's users at one time, as a body that is about to be sent.

    Attributes:
        organization_id: whose users.
        run_id: Dagster's run.
        read_at: when they were read from Sym's database; with a time zone.
        body_sha256: of the body, 64 hexadecimal digits.
        users: how many records; more than 0, and the sum of the next two.
        active: how many of them are active.
        deactivated: how many are not.
    """

    organization_id: UUID
    run_id: str
    read_at: datetime
    body_sha256: str
    users: int
    active: int
    deactivated: int


@dataclass(frozen=True)
class Intent(Snapshot):
    """A snapshot that was possibly applied: recorded before its PUT and not resolved since."""

    id: int
    created_at: datetime


@dataclass(frozen=True)
class AcceptedSnapshot(Snapshot):
    """A snapshot that Vanta accepted, and with which generation of the token."""

    id: int
    accepted_at: datetime
    token_generation: int


_SNAPSHOT = "organization_id, run_id, read_at, body_sha256, users, active, deactivated"
_ACCEPTED = f"{_SNAPSHOT}, id, accepted_at, token_generation"


def record_intent(connection: psycopg.Connection, snapshot: Snapshot) -> int:
    """Record what is about to be sent, committed on return (unless the caller has a transaction open).

    Returns:
        The intent's id.
    """
    [(intent_id,)] = connection.execute(
        f"""
        INSERT INTO intents ({_SNAPSHOT})
        VALUES (%(organization_id)s, %(run_id)s, %(read_at)s, %(body_sha256)s, %(users)s, %(active)s, %(deactivated)s)
        RETURNING id
        """,  # noqa: S608 - a constant of this module
        vars(snapshot),
    ).fetchall()
    return int(intent_id)


def resolve_intent(connection: psycopg.Connection, intent_id: int, outcome: IntentOutcome) -> None:
    """Record what became of an intent.

    Raises:
        IntentAlreadyResolved: somebody did so before, or there is no such intent.
    """
    resolved = connection.execute(
        "UPDATE intents SET outcome = %s, resolved_at = clock_timestamp() WHERE id = %s AND resolved_at IS NULL",
        [outcome, intent_id],
    )
    if resolved.rowcount != 1:
        raise IntentAlreadyResolved(f"intent {intent_id} is not open any more")


def record_accepted(connection: psycopg.Connection, intent_id: int, *, token_generation: int) -> AcceptedSnapshot:
    """Record that Vanta accepted what an intent announced, and resolve it; all in one transaction.

    Earlier unresolved intents of the organization become ``superseded``: this push replaced whatever they did.

    Args:
        connection: to the pipeline's own database.
        intent_id: what ``record_intent`` returned.
        token_generation: of the token that the PUT carried.

    Raises:
        IntentAlreadyResolved: see ``resolve_intent``.
        SnapshotOutOfOrder: one with a later ``read_at`` is there already; nothing was recorded, the intent stays open.
    """
    with connection.transaction(), connection.cursor(row_factory=class_row(AcceptedSnapshot)) as cursor:
        resolve_intent(connection, intent_id, "accepted")
        # Two at once take turns here, so that the second one's INSERT sees the first one's row.
        cursor.execute(
            """
            SELECT FROM connections JOIN intents USING (organization_id) WHERE intents.id = %s
            FOR NO KEY UPDATE OF connections
            """,
            [intent_id],
        )
        accepted = cursor.execute(
            f"""
            INSERT INTO accepted_snapshots ({_SNAPSHOT}, token_generation)
            SELECT {_SNAPSHOT}, %(token_generation)s FROM intents AS sent
            WHERE id = %(intent_id)s AND NOT EXISTS (
                SELECT FROM accepted_snapshots AS held
                WHERE held.organization_id = sent.organization_id AND held.read_at > sent.read_at
            )
            RETURNING {_ACCEPTED}
            """,  # noqa: S608 - constants of this module
            {"intent_id": intent_id, "token_generation": token_generation},
        ).fetchone()
        if accepted is None:
            raise SnapshotOutOfOrder(f"intent {intent_id}: a snapshot that was read later is accepted already")
        cursor.execute(
            """
            UPDATE intents SET outcome = 'superseded', resolved_at = clock_timestamp()
            WHERE organization_id = %s AND id < %s AND resolved_at IS NULL
            """,
            [accepted.organization_id, intent_id],
        )
    return accepted


def last_accepted(connection: psycopg.Connection, organization_id: UUID) -> AcceptedSnapshot | None:
    """Give the snapshot that Vanta holds, as far as is known; ``None`` if none was ever accepted."""
    with connection.cursor(row_factory=class_row(AcceptedSnapshot)) as cursor:
        return cursor.execute(
            f"""
            SELECT {_ACCEPTED} FROM accepted_snapshots WHERE organization_id = %s
            ORDER BY read_at DESC, id DESC LIMIT 1
            """,  # noqa: S608 - a constant of this module
            [organization_id],
        ).fetchone()


def last_accepted_all(connection: psycopg.Connection) -> dict[UUID, AcceptedSnapshot]:
    """Give every organization's last accepted snapshot; those without one are left out."""
    with connection.cursor(row_factory=class_row(AcceptedSnapshot)) as cursor:
        # One index probe for each organization, however long its history is.
        rows = cursor.execute(
            f"""
            SELECT latest.* FROM connections CROSS JOIN LATERAL (
                SELECT {_ACCEPTED} FROM accepted_snapshots AS held
                WHERE held.organization_id = connections.organization_id
                ORDER BY read_at DESC, id DESC LIMIT 1
            ) AS latest
            """  # noqa: S608 - a constant of this module
        ).fetchall()
    return {row.organization_id: row for row in rows}


def unresolved_intents(connection: psycopg.Connection, organization_id: UUID) -> list[Intent]:
    """List what was possibly applied, oldest first: left behind by a crash between the PUT and its record."""
    with connection.cursor(row_factory=class_row(Intent)) as cursor:
        return cursor.execute(
            f"""
            SELECT {_SNAPSHOT}, id, created_at FROM intents
            WHERE organization_id = %s AND resolved_at IS NULL ORDER BY id
            """,  # noqa: S608 - a constant of this module
            [organization_id],
        ).fetchall()


def record_outcome(
    connection: psycopg.Connection,
    organization_id: UUID,
    outcome: AttemptOutcome,
    *,
    run_id: str,
    sentence: str | None = None,
) -> None:
    """Record how the latest attempt for an organization ended, in place of the one before.

    Args:
        connection: to the pipeline's own database.
        organization_id: which organization; it needs a row in ``connections``.
        outcome: how it ended.
        run_id: Dagster's run.
        sentence: what happened, for an operator, without personal data.
    """
    connection.execute(
        """
        INSERT INTO outcomes AS held (organization_id, at, outcome, sentence, run_id)
        VALUES (%s, clock_timestamp(), %s, %s, %s)
        ON CONFLICT (organization_id) DO UPDATE
        SET at = clock_timestamp(), outcome = excluded.outcome, sentence = excluded.sentence, run_id = excluded.run_id
        """,
        [organization_id, outcome, sentence, run_id],
    )


def latest_outcome(connection: psycopg.Connection, organization_id: UUID) -> AttemptOutcome | None:
    """Tell how the latest attempt for an organization ended; ``None`` if there was none."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        return cursor.execute("SELECT outcome FROM outcomes WHERE organization_id = %s", [organization_id]).fetchone()


def customer_records(connection: psycopg.Connection) -> list[CustomerRecord]:
    """Gather all that ``ledger.status`` judges by, a record a connection, by partition key."""
    with connection.cursor(row_factory=class_row(CustomerRecord)) as cursor:
        return cursor.execute(_RECORDS, {"only": None}).fetchall()


def customer_record(connection: psycopg.Connection, organization_id: UUID) -> CustomerRecord | None:
    """Gather the same for one organization; ``None`` if it was never connected."""
    with connection.cursor(row_factory=class_row(CustomerRecord)) as cursor:
        return cursor.execute(_RECORDS, {"only": organization_id}).fetchone()


_RECORDS = """
SELECT customer, organization_id, state AS connection_state, connected_at, parked_reason,
       accepted_at AS last_accepted_at, active, deactivated, outcome, sentence, at AS outcome_at
FROM connections
LEFT JOIN outcomes USING (organization_id)
LEFT JOIN LATERAL (
    SELECT accepted_at, active, deactivated FROM accepted_snapshots AS held
    WHERE held.organization_id = connections.organization_id
    ORDER BY read_at DESC, id DESC LIMIT 1
) AS latest ON true
WHERE %(only)s::uuid IS NULL OR organization_id = %(only)s
ORDER BY customer COLLATE "C"
"""
