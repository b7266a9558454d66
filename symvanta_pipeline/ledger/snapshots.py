"""What was about to be sent, what Vanta accepted, and how the latest attempt ended.

Belongs here: the statements that write ``intents``, ``accepted_snapshots``, ``outcomes``, and what follows from an
acceptance: ``account_states`` and ``account_changes``.
Does not belong here: users themselves (no name or e-mail ever enters these tables), reading what accounts were
(``ledger.history``), judging (``ledger.status``).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

import psycopg
from psycopg.rows import class_row, scalar_row
from psycopg.types.json import Jsonb

from symvanta_pipeline.ledger.database import LedgerError
from symvanta_pipeline.ledger.status import CustomerRecord

IntentOutcome = Literal["accepted", "refused", "not_sent", "unknown", "superseded"]
AttemptOutcome = Literal["accepted", "held", "refused", "parked", "failing", "busy"]


class SnapshotOutOfOrder(LedgerError):
    """A newer snapshot of this organization was accepted already, which only work without its lock can cause."""


class IntentAlreadyResolved(LedgerError):
    """An intent is resolved once; this one was, or does not exist."""


class StatesUnfit(LedgerError):
    """The accounts' states are not those of the snapshot, or not in their form. The text quotes none of them."""


class ApprovalUnusable(LedgerError):
    """An approval is good for one push of its own organization; this one was used, or is another's."""


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
    """A snapshot that Vanta accepted. The attributes that may be None were not recorded by an older version.

    Attributes:
        id: its own.
        accepted_at: when its acceptance was recorded, by the database's clock.
        token_generation: of the token that carried it.
        counts: how many accounts, by value, of each of status, level, login and mfa, and whatever else was counted.
        latency_seconds: from the first byte of the PUT to Vanta's verdict.
        verdict: what Vanta said, in a word.
        unchanged: whether the body was the same as the one accepted before it.
        departure_seconds: from the deactivation in Sym to ``accepted_at``, of each account that it deactivated.
    """

    id: int
    accepted_at: datetime
    token_generation: int
    counts: dict[str, dict[str, int]] | None
    latency_seconds: float | None
    verdict: str | None
    unchanged: bool | None
    departure_seconds: list[float] | None = None


_SNAPSHOT = "organization_id, run_id, read_at, body_sha256, users, active, deactivated"
_ACCEPTED = f"""{_SNAPSHOT}, id, accepted_at, token_generation, counts, latency_seconds, verdict, unchanged,
               departure_seconds"""

# What can stand in a row of states: an id in visible ASCII without "@", so never an address; and words.
_STATE: Final = (
    re.compile(r"[!-?A-~]+"),
    re.compile(r"ACTIVE|DEACTIVATED"),
    *[re.compile(r"[A-Za-z_]+")] * 3,
)


def record_intent(connection: psycopg.Connection, snapshot: Snapshot, *, states: list[list[str]] | None = None) -> int:
    """Record what is about to be sent, committed on return (unless the caller has a transaction open).

    Args:
        connection: to the pipeline's own database.
        snapshot: the body's identity and size.
        states: its accounts, each once, as ``[unique_id, status, level, login, mfa]``.

    Returns:
        The intent's id.

    Raises:
        StatesUnfit: they are not in that form, or not as many as the snapshot says; nothing was recorded.
    """
    if states is not None:
        _require_fitting(states, snapshot)
    [(intent_id,)] = connection.execute(
        f"""
        INSERT INTO intents ({_SNAPSHOT}, states)
        VALUES (%(organization_id)s, %(run_id)s, %(read_at)s, %(body_sha256)s, %(users)s, %(active)s, %(deactivated)s,
                %(states)s)
        RETURNING id
        """,  # noqa: S608 - a constant of this module
        {**vars(snapshot), "states": None if states is None else Jsonb(states)},
    ).fetchall()
    return int(intent_id)


def _require_fitting(states: list[list[str]], snapshot: Snapshot) -> None:
    """Refuse before the PUT what could not be recorded after it."""
    whose = f"organization {snapshot.organization_id}"
    for row in states:
        if len(row) != len(_STATE) or not all(form.fullmatch(text) for form, text in zip(_STATE, row, strict=True)):
            raise StatesUnfit(f"{whose}: the state of an account is not in the form that the ledger keeps")
    active = sum(status == "ACTIVE" for _, status, *_ in states)
    distinct = len({unique_id for unique_id, *_ in states})
    if (distinct, len(states), active) != (snapshot.users, snapshot.users, snapshot.active):
        raise StatesUnfit(
            f"{whose}: {snapshot.users} accounts, {snapshot.active} of them active, are to be sent, "
            f"but there are {len(states)} states of {distinct} accounts, {active} of them active"
        )


def resolve_intent(connection: psycopg.Connection, intent_id: int, outcome: IntentOutcome) -> None:
    """Record what became of an intent, and forget its states.

    Raises:
        IntentAlreadyResolved: somebody did so before, or there is no such intent.
    """
    resolved = connection.execute(
        """
        UPDATE intents SET outcome = %s, resolved_at = clock_timestamp(), states = NULL
        WHERE id = %s AND resolved_at IS NULL
        """,
        [outcome, intent_id],
    )
    if resolved.rowcount != 1:
        raise _not_open(intent_id)


def record_accepted(
    connection: psycopg.Connection,
    intent_id: int,
    *,
    token_generation: int,
    counts: Mapping[str, Mapping[str, int]] | None = None,
    latency_seconds: float | None = None,
    verdict: str = "accepted",
    approval_id: int | None = None,
    departed_at: Sequence[datetime] | None = None,
) -> AcceptedSnapshot:
    """Record that Vanta accepted what an intent announced, and resolve it; all in one transaction.

    Earlier unresolved intents of the organization become ``superseded``: this push replaced whatever they did. If the
    intent has states, they become the organization's, and what differs from those before is added to its changes.

    Args:
        connection: to the pipeline's own database.
        intent_id: what ``record_intent`` returned.
        token_generation: of the token that the PUT carried.
        counts: how many accounts, by value, of each of status, level, login and mfa, and whatever else was counted.
        latency_seconds: from the first byte of the PUT to Vanta's verdict.
        verdict: what Vanta said, in one word: a-z and underscores.
        approval_id: of the approval that let this push through, if one had to; it is used now.
        departed_at: when each account that this push deactivates was deactivated in Sym, with a time zone; a time to
            come counts as now. None where that is not known.

    Raises:
        IntentAlreadyResolved: see ``resolve_intent``.
        SnapshotOutOfOrder: one with a later ``read_at`` is there already; nothing was recorded, the intent stays open.
        ApprovalUnusable: it was used before, or is another organization's; likewise.
    """
    sent = {
        "intent_id": intent_id,
        "token_generation": token_generation,
        "counts": None if counts is None else Jsonb({name: dict(by_value) for name, by_value in counts.items()}),
        "latency_seconds": latency_seconds,
        "verdict": verdict,
        "departed_at": None if departed_at is None else list(departed_at),
    }
    with connection.transaction(), connection.cursor(row_factory=class_row(AcceptedSnapshot)) as cursor:
        has_states = _lock_open_intent(connection, intent_id)
        accepted = cursor.execute(_INSERT_ACCEPTED, sent).fetchone()
        if accepted is None:
            raise SnapshotOutOfOrder(f"intent {intent_id}: a snapshot that was read later is accepted already")
        at = {**sent, "organization_id": accepted.organization_id, "id": accepted.id, "at": accepted.accepted_at}
        if has_states:
            cursor.execute(_UPDATE_ACCOUNTS, at)
        if approval_id is not None:
            _use_approval(connection, approval_id, accepted)
        resolve_intent(connection, intent_id, "accepted")
        # With the push, not with the outcome: whoever dies between the two would leave windows counted from long ago.
        cursor.execute("UPDATE outcomes SET held_since = NULL WHERE organization_id = %(organization_id)s", at)
        cursor.execute(
            """
            UPDATE intents SET outcome = 'superseded', resolved_at = clock_timestamp(), states = NULL
            WHERE organization_id = %(organization_id)s AND id < %(intent_id)s AND resolved_at IS NULL
            """,
            at,
        )
    return accepted


def _lock_open_intent(connection: psycopg.Connection, intent_id: int) -> bool:
    """Keep an intent and its organization's history to this transaction; tells whether the intent has states."""
    # Two at once take turns here, so that the second one's INSERT sees the first one's row.
    connection.execute(
        """
        SELECT FROM connections JOIN intents USING (organization_id) WHERE intents.id = %s
        FOR NO KEY UPDATE OF connections
        """,
        [intent_id],
    )
    row = connection.execute(
        "SELECT states IS NOT NULL FROM intents WHERE id = %s AND resolved_at IS NULL FOR UPDATE", [intent_id]
    ).fetchone()
    if row is None:
        raise _not_open(intent_id)
    return bool(row[0])


def _use_approval(connection: psycopg.Connection, approval_id: int, accepted: AcceptedSnapshot) -> None:
    """Mark it used at the time of the push; whether it was still good was asked before the PUT."""
    used = connection.execute(
        """
        UPDATE approvals SET used_at = %s, used_by_run = %s
        WHERE id = %s AND organization_id = %s AND used_at IS NULL
        """,
        [accepted.accepted_at, accepted.run_id, approval_id, accepted.organization_id],
    )
    if used.rowcount != 1:
        raise ApprovalUnusable(f"approval {approval_id} cannot be used by organization {accepted.organization_id}")


def _not_open(intent_id: int) -> IntentAlreadyResolved:
    return IntentAlreadyResolved(f"intent {intent_id} is not open any more")


_INSERT_ACCEPTED = f"""
INSERT INTO accepted_snapshots
    ({_SNAPSHOT}, accepted_at, token_generation, counts, latency_seconds, verdict, unchanged, departure_seconds)
SELECT {_SNAPSHOT}, now, %(token_generation)s, %(counts)s, %(latency_seconds)s, %(verdict)s,
       body_sha256 IS NOT DISTINCT FROM (
           SELECT body_sha256 FROM accepted_snapshots AS held WHERE held.organization_id = sent.organization_id
           ORDER BY read_at DESC, id DESC LIMIT 1
       ),
       CASE WHEN %(departed_at)s::timestamptz[] IS NOT NULL THEN ARRAY(
           SELECT greatest(0, extract(epoch FROM now - departed_at)::float8)
           FROM unnest(%(departed_at)s::timestamptz[]) AS departed_at ORDER BY departed_at
       ) END
FROM intents AS sent CROSS JOIN clock_timestamp() AS now
WHERE id = %(intent_id)s AND NOT EXISTS (
    SELECT FROM accepted_snapshots AS held
    WHERE held.organization_id = sent.organization_id AND held.read_at > sent.read_at
)
RETURNING {_ACCEPTED}
"""  # noqa: S608 - constants of this module

# A full join, since it is done by hashing whatever the planner believes about tables that just grew.
_UPDATE_ACCOUNTS = """
WITH sent AS (
    SELECT state ->> 0 AS unique_id, state ->> 1 AS status, state ->> 2 AS level, state ->> 3 AS login,
           state ->> 4 AS mfa
    FROM intents CROSS JOIN jsonb_array_elements(states) AS state WHERE id = %(intent_id)s
), held AS (
    SELECT * FROM account_states WHERE organization_id = %(organization_id)s
), compared AS MATERIALIZED (
    SELECT unique_id,
           held.status AS old_status, coalesce(sent.status, 'ABSENT') AS status,
           held.level AS old_level, coalesce(sent.level, held.level) AS level,
           held.login AS old_login, coalesce(sent.login, held.login) AS login,
           held.mfa AS old_mfa, coalesce(sent.mfa, held.mfa) AS mfa
    FROM sent FULL JOIN held USING (unique_id)
), changed AS (
    INSERT INTO account_changes (organization_id, snapshot_id, at, unique_id, field, old, new)
    SELECT %(organization_id)s, %(id)s, %(at)s, unique_id, field, old, new
    FROM compared CROSS JOIN LATERAL (
        VALUES ('level', old_level, level), ('login', old_login, login), ('mfa', old_mfa, mfa),
               ('status', old_status, status)
    ) AS fields (field, old, new)
    WHERE old IS DISTINCT FROM new
    ORDER BY unique_id, field
)
INSERT INTO account_states (organization_id, unique_id, status, level, login, mfa, since, snapshot_id)
SELECT %(organization_id)s, unique_id, status, level, login, mfa, %(at)s, %(id)s FROM compared
WHERE (old_status, old_level, old_login, old_mfa) IS DISTINCT FROM (status, level, login, mfa)
ON CONFLICT (organization_id, unique_id) DO UPDATE
SET status = excluded.status, level = excluded.level, login = excluded.login, mfa = excluded.mfa,
    since = excluded.since, snapshot_id = excluded.snapshot_id
"""


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


def departure_seconds(connection: psycopg.Connection, *, since: datetime) -> list[float]:
    """List how long each departure that Vanta accepted since a moment took from Sym to Vanta, shortest first."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        return cursor.execute(
            """
            SELECT seconds FROM accepted_snapshots CROSS JOIN unnest(departure_seconds) AS seconds
            WHERE accepted_at >= %s AND cardinality(departure_seconds) > 0 ORDER BY seconds
            """,
            [since],
        ).fetchall()


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
    generation: int | None = None,
    sentence: str | None = None,
    kind: str | None = None,
    change_hash: str | None = None,
    tick: datetime | None = None,
) -> bool:
    """Record how the latest attempt for an organization ended, in place of the one before.

    An attempt that ends after one with a newer consent did is not recorded: what it met is over.

    Args:
        connection: to the pipeline's own database.
        organization_id: which organization; it needs a row in ``connections``.
        outcome: how it ended.
        run_id: Dagster's run.
        generation: of the connection when the attempt began; the present one where not given.
        sentence: what happened, for an operator, without personal data.
        kind: what is alike between customers that ended so: the rule that held, or the kind of failure.
        change_hash: SHA-256 over exactly what was held, in hexadecimal; blank is none.
        tick: when the cycle began, if a run that was killed may have recorded the same in it already.

    Returns:
        Whether it is new in this cycle: the attempt before, if any, ended otherwise, was of another kind, or held
        another change; or it was not recorded.
    """
    recorded = connection.execute(
        """
        WITH before AS (SELECT hash FROM outcomes WHERE organization_id = %(organization_id)s)
        INSERT INTO outcomes AS held
            (organization_id, generation, at, since, outcome, kind, hash, held_since, sentence, run_id)
        SELECT %(organization_id)s, coalesce(
                   %(generation)s, (SELECT generation FROM connections WHERE organization_id = %(organization_id)s), 0
               ), now, now, %(outcome)s, %(kind)s, nullif(%(hash)s, ''),
               CASE WHEN %(hash)s <> '' THEN now END, %(sentence)s, %(run_id)s
        FROM clock_timestamp() AS now
        ON CONFLICT (organization_id) DO UPDATE
        SET generation = excluded.generation, at = excluded.at, outcome = excluded.outcome, kind = excluded.kind,
            hash = excluded.hash, sentence = excluded.sentence, run_id = excluded.run_id,
            held_since = CASE WHEN excluded.outcome <> 'accepted' THEN coalesce(held.held_since, excluded.held_since)
                         END,
            since = CASE WHEN (held.outcome, held.kind) IS NOT DISTINCT FROM (excluded.outcome, excluded.kind)
                         THEN held.since ELSE excluded.since END
        WHERE held.generation <= excluded.generation
        RETURNING since = at OR (since >= %(tick)s::timestamptz) IS TRUE
                  OR hash IS DISTINCT FROM (SELECT hash FROM before)
        """,
        {
            "organization_id": organization_id,
            "generation": generation,
            "outcome": outcome,
            "kind": kind,
            "hash": change_hash,
            "sentence": sentence,
            "run_id": run_id,
            "tick": tick,
        },
    ).fetchone()
    return recorded is None or bool(recorded[0])


@dataclass(frozen=True)
class Alike:
    """Customers that newly share one trouble.

    Attributes:
        outcome: of their latest attempt.
        kind: of it; each of them, where brakes hold.
        by_brake: whether brakes hold them: which one does is no difference, since one broken read trips several.
        customers: how many.
        of: of how many: those that are connected, and those of them that are not any more.
    """

    outcome: str
    kind: str
    by_brake: bool
    customers: int
    of: int


def most_alike(connection: psycopg.Connection, *, since: datetime) -> Alike | None:
    """Tell which trouble most customers came into together.

    Args:
        connection: to the pipeline's own database.
        since: when to count from; those that were in it before then are not new.

    Returns:
        The one with the most customers; None if nobody came into any that has a kind.
    """
    with connection.cursor(row_factory=class_row(Alike)) as cursor:
        return cursor.execute(
            """
            WITH connected AS (
                SELECT organization_id FROM connections WHERE state = 'connected'
            ), troubled AS (
                -- Held by a brake is the same trouble, and lasts, whichever brake it is by now.
                SELECT organization_id, outcome, kind, hash IS NOT NULL AS by_brake,
                       CASE WHEN hash IS NULL THEN kind END AS alone,
                       CASE WHEN hash IS NULL THEN since ELSE coalesce(held_since, since) END AS began
                FROM outcomes WHERE outcome IN ('held', 'refused', 'parked', 'failing') AND kind IS NOT NULL
            )
            SELECT outcome, string_agg(DISTINCT kind, ', ' ORDER BY kind) AS kind, by_brake, count(*) AS customers,
                   (SELECT count(*) FROM connected)
                   + count(*) FILTER (WHERE organization_id NOT IN (SELECT organization_id FROM connected)) AS of
            FROM troubled WHERE began >= %s
            GROUP BY outcome, by_brake, alone ORDER BY customers DESC, outcome, kind LIMIT 1
            """,
            [since],
        ).fetchone()


@dataclass(frozen=True)
class Attempt:
    """The latest attempt to push: how it ended, and Dagster's run."""

    outcome: AttemptOutcome
    run_id: str


def latest_attempt(connection: psycopg.Connection, organization_id: UUID) -> Attempt | None:
    """Tell of the latest attempt for an organization; ``None`` if there was none."""
    with connection.cursor(row_factory=class_row(Attempt)) as cursor:
        return cursor.execute(
            "SELECT outcome, run_id FROM outcomes WHERE organization_id = %s", [organization_id]
        ).fetchone()


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
       accepted_at AS last_accepted_at, active, deactivated, outcome, sentence, at AS outcome_at,
       since AS outcome_since, kind AS outcome_kind, hash AS change_hash, held_since,
       coalesce(outcomes.generation = connections.generation, true) AS outcome_is_current
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
