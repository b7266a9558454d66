"""What of the pipeline's own tables is old enough to go, and how it goes.

Belongs here: a statement for each table that grows with time. Does not belong here: how long anything is kept
(``settings``), Dagster's tables (``housekeeping``), tables that hold what is true now: they keep a row for each
organization, account or budget.
"""

import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from typing import Final

import psycopg

from symvanta_pipeline.ledger import alerts

BATCH: Final = 1000  # rows; each batch is a transaction of its own
PAUSE = 0.05  # seconds between two batches, so that whoever else needs the database gets a turn

# What an audit asks for: append-only, and these functions of its owner's are the one way out.
_HISTORY: Final[Mapping[str, str]] = {
    "accepted_snapshots": "SELECT prune_history(clock_timestamp() - %(keep)s, %(batch)s)",
    "audit_events": "SELECT prune_audit_events(clock_timestamp() - %(keep)s, %(batch)s)",
}
# What an attempt leaves behind. An intent that is not resolved was possibly applied, and stays however old it is.
_ATTEMPTS: Final[Mapping[str, str]] = {
    "intents": """
        DELETE FROM intents WHERE id IN (
            SELECT id FROM intents WHERE resolved_at < clock_timestamp() - %(keep)s ORDER BY id LIMIT %(batch)s
        )
        """,
}
# What is over by its own time, and would otherwise go only when somebody signs in; who uses it meanwhile is let be.
_EXPIRED: Final[Mapping[str, str]] = {
    "consent_requests": """
        DELETE FROM consent_requests WHERE state_sha256 IN (
            SELECT state_sha256 FROM consent_requests WHERE expires_at <= clock_timestamp()
            LIMIT %(batch)s FOR UPDATE SKIP LOCKED
        )
        """,
    "web_sessions": """
        DELETE FROM web_sessions WHERE id_sha256 IN (
            SELECT id_sha256 FROM web_sessions WHERE expires_at <= clock_timestamp()
            LIMIT %(batch)s FOR UPDATE SKIP LOCKED
        )
        """,
}


def prune(connection: psycopg.Connection, *, keep_ledger: timedelta, keep_runs: timedelta) -> dict[str, int]:
    """Remove what is older than it is kept, in batches, each committed on its own. Safe to repeat and to end early.

    Args:
        connection: to the pipeline's own database, in autocommit; its role owns the tables.
        keep_ledger: how long accepted snapshots stay, with their proofs and changes, approvals and audit events. Each
            customer's latest snapshot stays for ever. At least 90 days, or the database refuses.
        keep_runs: how long resolved intents and sent alerts stay.

    Returns:
        How many rows went, by table; the proofs, changes and approvals that go with snapshots are not counted.
    """
    plan = [(_HISTORY, keep_ledger), (_ATTEMPTS, keep_runs), (_EXPIRED, timedelta())]
    pruned = {
        table: _in_batches(partial(_delete, connection, statement, keep))
        for statements, keep in plan
        for table, statement in statements.items()
    }
    sent_before = alerts.now(connection) - keep_runs
    return pruned | {"alerts": _in_batches(lambda: alerts.prune(connection, sent_before, batch=BATCH))}


def _delete(connection: psycopg.Connection, statement: str, keep: timedelta) -> int:
    """Delete one batch and tell how many rows that were."""
    cursor = connection.execute(statement.encode(), {"keep": keep, "batch": BATCH})
    if cursor.description is None:
        return cursor.rowcount
    [(gone,)] = cursor.fetchall()
    return int(gone)


def _in_batches(delete: Callable[[], int]) -> int:
    """Repeat for as long as there is a whole batch to delete."""
    gone = pruned = delete()
    while gone == BATCH:
        time.sleep(PAUSE)
        gone = delete()
        pruned += gone
    return pruned
