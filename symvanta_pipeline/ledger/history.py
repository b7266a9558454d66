"""What Vanta was told about accounts, now and at any time before: what brakes compare with and auditors ask for.

Belongs here: reading states, changes, pushes and proofs; writing a proof down.
Does not belong here: what a push changes in them (``ledger.snapshots``), names and addresses, which Sym alone keeps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Any, Literal
from uuid import UUID

import psycopg
from psycopg.rows import class_row, scalar_row
from psycopg.types.json import Jsonb

from symvanta_pipeline.ledger.audit import storable
from symvanta_pipeline.ledger.database import LedgerError

ProofVerdict = Literal["proved", "contradicted", "unreadable"]


class SnapshotUnknown(LedgerError):
    """A proof is of a snapshot that was accepted; this one was not."""


@dataclass(frozen=True)
class Push:
    """One push that Vanta accepted, or possibly applied. What an older version did not record is ``None``.

    Attributes:
        at: when its acceptance was recorded; of one possibly applied, when it was about to be sent.
        verdict: what Vanta said, in a word; ``possibly applied`` if its answer is not known.
        snapshot_id: of the accepted snapshot; ``None`` if possibly applied, like all that only an answer tells.
        source_id: the customer's id at Vanta: the organization's.
        run_id: Dagster's run.
        read_at: when the users were read from Sym's database.
        body_sha256: of the body, 64 hexadecimal digits.
        users: how many accounts.
        active: how many of them are active.
        deactivated: how many are not.
        token_generation: of the token that carried it.
        counts: how many accounts, by value, of each of status, level, login and mfa.
        latency_seconds: from the first byte of the PUT to Vanta's verdict.
        unchanged: whether the body was the same as the one accepted before it.
        approved_by: who let it through, if a brake held it.
        reason: why, in the operator's words.
        proof: what reading back said: ``proved``, ``contradicted``, ``unreadable``; ``None`` if it was not read back.
        proved_at: when that was.
        findings: each difference, as `record_proof` took it.
    """

    at: datetime
    verdict: str
    snapshot_id: int | None
    source_id: str
    run_id: str
    read_at: datetime
    body_sha256: str
    users: int
    active: int
    deactivated: int
    token_generation: int | None
    counts: dict[str, dict[str, int]] | None
    latency_seconds: float | None
    unchanged: bool | None
    approved_by: str | None
    reason: str | None
    proof: str | None
    proved_at: datetime | None
    findings: list[dict[str, Any]] | None


@dataclass(frozen=True)
class AccessChange:
    """One field of one account that a push changed at Vanta.

    Attributes:
        at: when Vanta accepted it.
        unique_id: ``users.id``.
        field: ``status``, ``level``, ``login`` or ``mfa``.
        old: what it was; ``None`` if the account was never sent before, status ``ABSENT`` if it was not any more.
        new: what it became; status ``ABSENT`` if the account was left out from then on.
    """

    at: datetime
    unique_id: str
    field: str
    old: str | None
    new: str


@dataclass(frozen=True)
class Access:
    """One field of one account as Vanta knew it at a moment.

    Attributes:
        unique_id: ``users.id``.
        field: ``status``, ``level``, ``login`` or ``mfa``.
        value: what it was.
        since: when Vanta accepted that; ``None`` if an older version pruned it.
    """

    unique_id: str
    field: str
    value: str
    since: datetime | None


def states(connection: psycopg.Connection, organization_id: UUID) -> list[list[str]]:
    """Give what Vanta accepted last: ``[unique_id, status, level, login, mfa]`` of each account in it, by unique id."""
    rows = connection.execute(
        """
        SELECT unique_id, status, level, login, mfa FROM account_states
        WHERE organization_id = %s AND status <> 'ABSENT' ORDER BY unique_id COLLATE "C"
        """,
        [organization_id],
    ).fetchall()
    return [list(row) for row in rows]


def possible(connection: psycopg.Connection, organization_id: UUID) -> list[list[list[str]]]:
    """Give what was possibly applied since: the states of each intent that is not resolved, oldest first."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        return cursor.execute(
            """
            SELECT states FROM intents
            WHERE organization_id = %s AND resolved_at IS NULL AND states IS NOT NULL ORDER BY id
            """,
            [organization_id],
        ).fetchall()


def is_first(connection: psycopg.Connection, organization_id: UUID) -> bool:
    """Tell whether nothing is known of what Vanta holds: no push with states was ever accepted."""
    row = connection.execute(
        "SELECT FROM account_states WHERE organization_id = %s LIMIT 1", [organization_id]
    ).fetchone()
    return row is None


def active_since(connection: psycopg.Connection, organization_id: UUID, moment: datetime) -> list[frozenset[str]]:
    """Give the unique ids that were ``ACTIVE`` at Vanta at a moment, then after each push since that changed them.

    A push accepted at that very moment is included in the first. Nobody was, before anything was accepted.
    """
    # From the present backwards: what is there needs no beginning, and changes are pruned one day.
    rows = connection.execute(
        """
        SELECT NULL::bigint AS id, NULL::bigint AS snapshot_id, unique_id, status AS old, NULL AS new
        FROM account_states WHERE organization_id = %(organization_id)s AND status = 'ACTIVE'
        UNION ALL
        SELECT id, snapshot_id, unique_id, old, new FROM account_changes
        WHERE organization_id = %(organization_id)s AND at > %(moment)s AND field = 'status'
        ORDER BY id DESC NULLS FIRST
        """,
        {"organization_id": organization_id, "moment": moment},
    ).fetchall()
    active: frozenset[str] = frozenset()
    found: list[frozenset[str]] = []
    for snapshot, changed in groupby(rows, key=itemgetter(1)):
        gained, lost = set[str](), set[str]()
        for _, _, unique_id, old, new in changed:
            if old == "ACTIVE":
                gained.add(unique_id)
            elif new == "ACTIVE":
                lost.add(unique_id)
        if snapshot is not None:
            found.append(active)
        active = active - lost | gained
    return [active, *reversed(found)]


def pushes(connection: psycopg.Connection, organization_id: UUID, *, since: datetime | None = None) -> list[Push]:
    """List the pushes that Vanta accepted or possibly applied, oldest first."""
    with connection.cursor(row_factory=class_row(Push)) as cursor:
        return cursor.execute(_PUSHES, {"organization_id": organization_id, "since": since}).fetchall()


def changes(
    connection: psycopg.Connection, organization_id: UUID, *, since: datetime | None = None
) -> list[AccessChange]:
    """List what pushes changed, oldest first, within a push by unique id and field."""
    with connection.cursor(row_factory=class_row(AccessChange)) as cursor:
        return cursor.execute(
            """
            SELECT at, unique_id, field, old, new FROM account_changes
            WHERE organization_id = %(organization_id)s AND (%(since)s::timestamptz IS NULL OR at >= %(since)s)
            ORDER BY id
            """,
            {"organization_id": organization_id, "since": since},
        ).fetchall()


def access_at(connection: psycopg.Connection, organization_id: UUID, moment: datetime | None) -> list[Access]:
    """List how each account was at Vanta just before a moment, by unique id and field; nothing of who was not there.

    Args:
        connection: to the pipeline's own database.
        organization_id: whose accounts.
        moment: a push accepted then comes after it. None: before all that is known.
    """
    with connection.cursor(row_factory=class_row(Access)) as cursor:
        # From the present backwards, so that nothing has to be known of the beginning.
        return cursor.execute(
            """
            WITH later AS (
                SELECT DISTINCT ON (unique_id, field) unique_id, field, old FROM account_changes
                WHERE organization_id = %(organization_id)s AND at >= %(moment)s ORDER BY unique_id, field, id
            ), earlier AS (
                SELECT unique_id, field, max(at) AS since FROM account_changes
                WHERE organization_id = %(organization_id)s AND at < %(moment)s GROUP BY unique_id, field
            ), told AS (
                SELECT unique_id, field, earlier.since, CASE WHEN later.field IS NULL THEN now ELSE old END AS value
                FROM account_states CROSS JOIN LATERAL (
                    VALUES ('level', level), ('login', login), ('mfa', mfa), ('status', status)
                ) AS fields (field, now)
                LEFT JOIN later USING (unique_id, field) LEFT JOIN earlier USING (unique_id, field)
                WHERE organization_id = %(organization_id)s
            )
            SELECT unique_id, field, value, since FROM told
            WHERE unique_id IN (
                SELECT unique_id FROM told WHERE field = 'status' AND value IN ('ACTIVE', 'DEACTIVATED')
            )
            ORDER BY unique_id COLLATE "C", field
            """,
            {"organization_id": organization_id, "moment": moment or "-infinity"},
        ).fetchall()


def record_proof(
    connection: psycopg.Connection, snapshot_id: int, verdict: ProofVerdict, findings: Sequence[Mapping[str, object]]
) -> None:
    """Record what reading back from Vanta said of an accepted snapshot, beside what it said before.

    Args:
        connection: to the pipeline's own database.
        snapshot_id: ``AcceptedSnapshot.id``.
        verdict: ``proved``, ``contradicted``, or ``unreadable``: Vanta's list could not be had.
        findings: each difference as JSON values. What stands in Vanta's list can be anything, so a text in it that
            might be an e-mail address is recorded as ``(address)``.

    Raises:
        SnapshotUnknown: there is no such snapshot.
    """
    recorded = connection.execute(
        "INSERT INTO proofs (snapshot_id, verdict, findings) SELECT id, %s, %s FROM accepted_snapshots WHERE id = %s",
        [verdict, Jsonb([_without_addresses(finding) for finding in findings]), snapshot_id],
    )
    if recorded.rowcount != 1:
        raise SnapshotUnknown(f"snapshot {snapshot_id} was never accepted, so that nothing is proved of it")


@dataclass(frozen=True)
class Looked:
    """What the latest reading back from Vanta that could be done said of a customer.

    Attributes:
        verdict: ``proved`` or ``contradicted``.
        at: when.
        findings: how many accounts differed, by the finding's name.
    """

    verdict: str
    at: datetime
    findings: Mapping[str, int]


def latest_look(connection: psycopg.Connection, organization_id: UUID) -> Looked | None:
    """Return what the latest reading back said, of whichever accepted snapshot; None where there was none."""
    row = connection.execute(
        """
        SELECT proofs.verdict, proofs.at, findings FROM accepted_snapshots JOIN proofs ON snapshot_id = id
        WHERE organization_id = %s AND proofs.verdict <> 'unreadable' ORDER BY read_at DESC, proofs.at DESC LIMIT 1
        """,
        [organization_id],
    ).fetchone()
    if row is None:
        return None
    verdict, at, findings = row
    return Looked(verdict, at, {finding["name"]: finding["count"] for finding in findings})


def _without_addresses(value: object) -> object:
    match value:
        case str():
            return "(address)" if "@" in value else storable(value)
        case Mapping():
            return {_without_addresses(str(name)): _without_addresses(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_without_addresses(inner) for inner in value]
        case _:
            return value


_PUSHES = """
SELECT accepted_at AS at, coalesce(verdict, 'accepted') AS verdict, id AS snapshot_id,
       organization_id::text AS source_id, run_id, read_at, body_sha256, users, active, deactivated, token_generation,
       counts, latency_seconds, unchanged, approved_by, reason, proof, proved_at, findings
FROM accepted_snapshots AS accepted
LEFT JOIN LATERAL (
    SELECT approved_by, reason FROM approvals
    WHERE approvals.organization_id = accepted.organization_id AND used_at = accepted_at
    LIMIT 1
) AS approval ON true
LEFT JOIN LATERAL (
    SELECT proofs.verdict AS proof, at AS proved_at, findings FROM proofs
    WHERE snapshot_id = accepted.id ORDER BY at DESC LIMIT 1
) AS proof ON true
WHERE organization_id = %(organization_id)s AND (%(since)s::timestamptz IS NULL OR accepted_at >= %(since)s)
UNION ALL
SELECT created_at, 'possibly applied', NULL, organization_id::text, run_id, read_at, body_sha256, users, active,
       deactivated, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM intents
WHERE organization_id = %(organization_id)s AND resolved_at IS NULL
  AND (%(since)s::timestamptz IS NULL OR created_at >= %(since)s)
ORDER BY at, snapshot_id
"""
