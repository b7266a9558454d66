"""Held changes that a person let through: exactly one change, for one push, for some hours.

Belongs here: writing approvals down and looking them up. Does not belong here: what is held and its hash
(``accounts.brakes``), using one up (``ledger.snapshots.record_accepted``).

A customer's latest approval replaces those before it, so that approving twice lets nothing through twice.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import psycopg
from psycopg.rows import class_row, scalar_row

from symvanta_pipeline.ledger import audit
from symvanta_pipeline.ledger.database import LedgerError

LIFETIME = timedelta(hours=4)
LONGEST_TEXT = 500  # characters, of a reason and of a name

_HASH = re.compile(r"[0-9a-f]{64}")


class ApprovalRefused(LedgerError):
    """An approval that says too little or too much; nothing was written down."""


@dataclass(frozen=True)
class Approval:
    """One approval; all times by the database's clock, with a time zone.

    Attributes:
        id: its own.
        organization_id: whose held change.
        hash: SHA-256 over exactly what was held, in hexadecimal.
        rules: the brakes that held it.
        reason: why, in the operator's words.
        approved_by: who, as the operator calls himself.
        at: when it was given.
        expires_at: until when it can be used.
        used_at: when the push that used it was accepted; ``None`` while unused.
        used_by_run: Dagster's run of that push.
    """

    id: int
    organization_id: UUID
    hash: str
    rules: list[str]
    reason: str
    approved_by: str
    at: datetime
    expires_at: datetime
    used_at: datetime | None
    used_by_run: str | None


_COLUMNS = "id, organization_id, hash, rules, reason, approved_by, at, expires_at, used_at, used_by_run"
_LATEST = f"SELECT {_COLUMNS} FROM approvals WHERE organization_id = %s ORDER BY id DESC LIMIT 1"  # noqa: S608 - a constant of this module


def approve(
    connection: psycopg.Connection,
    organization_id: UUID,
    change_hash: str,
    *,
    rules: Sequence[str],
    reason: str,
    by: str,
    lifetime: timedelta = LIFETIME,
) -> Approval:
    """Let one held change through, once; with the event ``approved`` in the audit log, both or neither.

    Args:
        connection: to the pipeline's own database.
        organization_id: whose change; it needs a row in ``connections``.
        change_hash: SHA-256 over exactly what is held, in hexadecimal.
        rules: the brakes that hold it, at least one.
        reason: why, up to `LONGEST_TEXT` characters.
        by: who, likewise.
        lifetime: how long it can be used.

    Raises:
        ApprovalRefused: nothing is held, or the reason or the name is blank or too long.
    """
    if not rules or not _HASH.fullmatch(change_hash):
        raise ApprovalRefused("there is no held change to approve")
    row = {
        "organization_id": organization_id,
        "hash": change_hash,
        "rules": list(rules),
        "reason": _words("the reason", reason),
        "approved_by": _words("the name of who approves", by),
        "lifetime": lifetime,
    }
    with connection.transaction(), connection.cursor(row_factory=class_row(Approval)) as cursor:
        [approval] = cursor.execute(
            f"""
            INSERT INTO approvals (organization_id, hash, rules, reason, approved_by, at, expires_at)
            SELECT %(organization_id)s, %(hash)s, %(rules)s, %(reason)s, %(approved_by)s, now, now + %(lifetime)s
            FROM clock_timestamp() AS now
            RETURNING {_COLUMNS}
            """,  # noqa: S608 - a constant of this module
            row,
        ).fetchall()
        audit.record(
            connection,
            "approved",
            organization_id=organization_id,
            actor=approval.approved_by,
            detail=f"{', '.join(rules)}; change {change_hash}",
        )
    return approval


def usable(connection: psycopg.Connection, organization_id: UUID, change_hash: str) -> Approval | None:
    """Give the approval that lets this very change through now: the latest, if it is for it, unused and not expired.

    One that was given while a push of the same change was under way is void: that push let the change through.
    """
    with connection.cursor(row_factory=class_row(Approval)) as cursor:
        return cursor.execute(
            f"""
            SELECT * FROM ({_LATEST}) AS latest
            WHERE hash = %s AND used_at IS NULL AND expires_at > clock_timestamp() AND NOT EXISTS (
                SELECT FROM approvals AS used
                WHERE used.organization_id = latest.organization_id AND used.hash = latest.hash
                  AND used.used_at >= latest.at
            )
            """,  # noqa: S608 - a constant of this module
            [organization_id, change_hash],
        ).fetchone()


def of_push(
    connection: psycopg.Connection, organization_id: UUID, change_hash: str, moment: datetime
) -> Approval | None:
    """Give the approval that let a change through which was sent at a moment, though nobody recorded that so far.

    Not the latest of all: whoever did not know that it was sent has perhaps approved it again since.
    """
    with connection.cursor(row_factory=class_row(Approval)) as cursor:
        return cursor.execute(
            f"""
            SELECT {_COLUMNS} FROM approvals
            WHERE organization_id = %(organization_id)s AND hash = %(hash)s AND used_at IS NULL
              AND at <= %(moment)s AND expires_at > %(moment)s
            ORDER BY id DESC LIMIT 1
            """,  # noqa: S608 - a constant of this module
            {"organization_id": organization_id, "hash": change_hash, "moment": moment},
        ).fetchone()


def latest(connection: psycopg.Connection, organization_id: UUID) -> Approval | None:
    """Give the latest approval, used, expired or not; it is for another change than the present one, perhaps."""
    with connection.cursor(row_factory=class_row(Approval)) as cursor:
        return cursor.execute(_LATEST.encode(), [organization_id]).fetchone()


def window_reset(connection: psycopg.Connection, organization_id: UUID, rule: str) -> datetime | None:
    """Tell when a rule's window was last begun anew: when Vanta accepted a push that an approval naming it let through.

    Returns:
        That snapshot's ``accepted_at``; ``None`` if there was none.
    """
    with connection.cursor(row_factory=scalar_row) as cursor:
        return cursor.execute(
            "SELECT max(used_at) FROM approvals WHERE organization_id = %s AND %s = ANY(rules)",
            [organization_id, rule],
        ).fetchone()


def _words(what: str, text: str) -> str:
    """Check an operator's own words; they are kept as they are, without what PostgreSQL takes no text with."""
    words = audit.storable(text).strip()
    if not words:
        raise ApprovalRefused(f"{what} is blank")
    if len(words) > LONGEST_TEXT:
        raise ApprovalRefused(f"{what} has {len(words)} characters; up to {LONGEST_TEXT} are kept")
    return words
