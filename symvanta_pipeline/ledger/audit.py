"""What people did with connections and keys, and what they were refused.

Belongs here: writing an event down, in the table ``audit_events`` and in the log. Does not belong here: deciding what
is allowed; the events of runs, which Dagster and ``ledger.snapshots`` keep.
"""

import json
import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import Literal
from uuid import UUID

import psycopg

Event = Literal[
    "signed_in",
    "signed_out",
    "refused",
    "consent_asked",
    "connected",
    "reconnected",
    "consent_failed",
    "disconnected",
    "suspension_failed",
    "approved",
    "keys_rotated",
]
LONGEST_TEXT = 500

log = logging.getLogger("symvanta.audit")


def record(
    connection: psycopg.Connection,
    event: Event,
    *,
    organization_id: UUID | None = None,
    actor: str | None = None,
    detail: str | None = None,
) -> None:
    """Add an event, in the caller's transaction if there is one, and log it as one line of JSON.

    Args:
        connection: to the pipeline's own database.
        event: what happened.
        organization_id: whose connection it was about.
        actor: ``users.id`` in Sym's database, or ``terminal:<OS user>``.
        detail: more, without personal data; cut after `LONGEST_TEXT` characters.
    """
    told = {
        "event": event,
        "organization_id": str(organization_id) if organization_id else None,
        "actor": _cut(actor),
        "detail": _cut(detail),
    }
    connection.execute(
        """
        INSERT INTO audit_events (event, organization_id, actor, detail)
        VALUES (%(event)s, %(organization_id)s, %(actor)s, %(detail)s)
        """,
        told,
    )
    log.info("%s", json.dumps({name: value for name, value in told.items() if value is not None}))


def count(connection: psycopg.Connection, organization_id: UUID, events: Sequence[Event], *, within: timedelta) -> int:
    """Count an organization's latest events of some kinds."""
    [(found,)] = connection.execute(
        """
        SELECT count(*) FROM audit_events
        WHERE organization_id = %s AND event = ANY(%s) AND at > clock_timestamp() - %s
        """,
        [organization_id, list(events), within],
    ).fetchall()
    return int(found)


def record_once(
    connection: psycopg.Connection,
    event: Event,
    *,
    organization_id: UUID | None,
    actor: str | None,
    detail: str | None = None,
    within: timedelta,
) -> None:
    """Add an event unless the same one was added a while ago: what anybody can repeat must not fill the table."""
    known = connection.execute(
        """
        SELECT FROM audit_events
        WHERE event = %s AND organization_id IS NOT DISTINCT FROM %s AND actor IS NOT DISTINCT FROM %s
          AND detail IS NOT DISTINCT FROM %s AND at > clock_timestamp() - %s
        LIMIT 1
        """,
        [event, organization_id, actor, detail, within],
    ).fetchone()
    if known is None:
        record(connection, event, organization_id=organization_id, actor=actor, detail=detail)


def storable(text: str) -> str:
    """Replace what PostgreSQL takes no text with."""
    return text.replace("\0", "?").encode(errors="replace").decode()


def _cut(text: str | None) -> str | None:
    """Cut what is too long: an event is never lost for its words."""
    return None if text is None else storable(text[:LONGEST_TEXT])
