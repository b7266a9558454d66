"""What people did with connections and keys, and what they were refused.

Belongs here: writing an event down, in the table ``audit_events`` and in the log. Does not belong here: deciding what
is allowed; the events of runs, which Dagster and ``ledger.snapshots`` keep.
"""

import json
import logging
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
        "actor": _storable(actor),
        "detail": _storable(detail),
    }
    connection.execute(
        """
        INSERT INTO audit_events (event, organization_id, actor, detail)
        VALUES (%(event)s, %(organization_id)s, %(actor)s, %(detail)s)
        """,
        told,
    )
    log.info("%s", json.dumps({name: value for name, value in told.items() if value is not None}))


def _storable(text: str | None) -> str | None:
    """Cut what is too long and replace what PostgreSQL takes no text with: an event is never lost for its words."""
    if text is None:
        return None
    return text[:LONGEST_TEXT].replace("\0", "?").encode(errors="replace").decode()
