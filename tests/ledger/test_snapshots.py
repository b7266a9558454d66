from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import cast
from uuid import UUID, uuid4

import psycopg
import pytest

from symvanta_pipeline.ledger import connections, database, snapshots
from symvanta_pipeline.ledger.connections import Connection
from symvanta_pipeline.ledger.snapshots import (
    Alike,
    Attempt,
    AttemptOutcome,
    IntentAlreadyResolved,
    IntentOutcome,
    Snapshot,
    SnapshotOutOfOrder,
    record_accepted,
    record_intent,
    resolve_intent,
)
from symvanta_pipeline.ledger.status import CustomerRecord

Connect = Callable[..., Connection]

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


def snapshot(organization_id: UUID, read_at: datetime = NOON, users: int = 5) -> Snapshot:
    return Snapshot(organization_id, "run", read_at, "ab" * 32, users, users - 1, 1)


def test_an_intent_is_open_until_it_is_resolved(ledger: psycopg.Connection, connected: Connect) -> None:
    organization = connected().organization_id
    sent = snapshot(organization)
    intent = record_intent(ledger, sent)
    [pending] = snapshots.unresolved_intents(ledger, organization)
    assert pending.id == intent
    assert {name: getattr(pending, name) for name in vars(sent)} == vars(sent)
    resolve_intent(ledger, intent, "refused")
    assert snapshots.unresolved_intents(ledger, organization) == []
    assert ledger.execute("SELECT outcome FROM intents WHERE resolved_at IS NOT NULL").fetchall() == [("refused",)]


def test_an_intent_is_resolved_once(ledger: psycopg.Connection, connected: Connect) -> None:
    organization = connected().organization_id
    outcomes: tuple[IntentOutcome, ...] = ("accepted", "refused", "unknown", "superseded")
    for outcome in outcomes:
        intent = record_intent(ledger, snapshot(organization))
        resolve_intent(ledger, intent, outcome)
        for late in (intent, intent + 1):
            with pytest.raises(IntentAlreadyResolved):
                resolve_intent(ledger, late, "unknown")
    assert ledger.execute("SELECT outcome FROM intents ORDER BY id").fetchall() == [(o,) for o in outcomes]


def test_what_is_accepted_is_what_was_announced(ledger: psycopg.Connection, connected: Connect) -> None:
    organization = connected().organization_id
    sent = snapshot(organization)
    accepted = record_accepted(ledger, record_intent(ledger, sent), token_generation=3)
    assert {name: getattr(accepted, name) for name in vars(sent)} == vars(sent)
    assert accepted.token_generation == 3
    assert snapshots.last_accepted(ledger, organization) == accepted
    assert snapshots.unresolved_intents(ledger, organization) == []


def test_an_acceptance_supersedes_what_a_crash_left_open(ledger: psycopg.Connection, connected: Connect) -> None:
    organization, bystander = (connected(slug).organization_id for slug in ("acme", "globex"))
    for whose in (organization, bystander):
        record_intent(ledger, snapshot(whose))
    record_accepted(ledger, record_intent(ledger, snapshot(organization)), token_generation=1)
    assert ledger.execute("SELECT outcome FROM intents ORDER BY id").fetchall() == [
        ("superseded",),
        (None,),
        ("accepted",),
    ]


def test_an_older_snapshot_is_never_accepted_after_a_newer_one(ledger: psycopg.Connection, connected: Connect) -> None:
    organization, bystander = (connected(slug).organization_id for slug in ("acme", "globex"))
    newer = record_accepted(ledger, record_intent(ledger, snapshot(organization)), token_generation=1)
    older = snapshot(organization, NOON - timedelta(microseconds=1))
    intent = record_intent(ledger, older)
    with pytest.raises(SnapshotOutOfOrder):
        record_accepted(ledger, intent, token_generation=1)
    assert snapshots.last_accepted(ledger, organization) == newer
    assert [i.id for i in snapshots.unresolved_intents(ledger, organization)] == [intent]
    record_accepted(ledger, record_intent(ledger, replace(older, organization_id=bystander)), token_generation=1)


def test_nor_when_both_are_recorded_at_once(
    symvanta_url: str, ledger: psycopg.Connection, connected: Connect, until_blocked: Callable[[int], None]
) -> None:
    organization = connected().organization_id
    newer = record_intent(ledger, snapshot(organization))
    older = record_intent(ledger, snapshot(organization, NOON - timedelta(hours=1)))

    def late() -> None:
        with database.connect(symvanta_url) as connection:
            record_accepted(connection, older, token_generation=1)

    with ThreadPoolExecutor(1) as pool:
        with ledger.transaction():
            record_accepted(ledger, newer, token_generation=1)
            recording = pool.submit(late)
            until_blocked(1)
        with pytest.raises(SnapshotOutOfOrder):
            recording.result(timeout=30)


def test_an_intent_that_is_resolved_cannot_be_accepted(ledger: psycopg.Connection, connected: Connect) -> None:
    organization = connected().organization_id
    intent = record_intent(ledger, snapshot(organization))
    resolve_intent(ledger, intent, "refused")
    with pytest.raises(IntentAlreadyResolved):
        record_accepted(ledger, intent, token_generation=1)
    assert snapshots.last_accepted(ledger, organization) is None


def test_an_empty_or_impossible_body_is_not_even_announced(ledger: psycopg.Connection, connected: Connect) -> None:
    good = snapshot(connected().organization_id)
    for impossible in (
        replace(good, users=0, active=0, deactivated=0),
        replace(good, users=9),
        replace(good, users=1, active=2, deactivated=-1),
        replace(good, body_sha256="x"),
    ):
        with pytest.raises(psycopg.errors.CheckViolation):
            record_intent(ledger, impossible)


def test_the_last_of_many_for_one_and_for_all(ledger: psycopg.Connection, connected: Connect) -> None:
    acme, globex, fresh = (connected(slug).organization_id for slug in ("acme", "globex", "fresh"))
    for hours in range(3):
        for whose in (acme, globex):
            sent = snapshot(whose, NOON + timedelta(hours=hours), users=10 + hours)
            record_accepted(ledger, record_intent(ledger, sent), token_generation=1)
    last = snapshots.last_accepted(ledger, acme)
    assert last is not None
    assert (last.read_at, last.users) == (NOON + timedelta(hours=2), 12)
    everybody = snapshots.last_accepted_all(ledger)
    assert set(everybody) == {acme, globex}
    assert everybody[acme] == last
    assert snapshots.last_accepted(ledger, fresh) is None


def test_of_two_with_one_time_the_later_row_counts(ledger: psycopg.Connection, connected: Connect) -> None:
    organization = connected().organization_id
    for users in (3, 4):
        record_accepted(ledger, record_intent(ledger, snapshot(organization, users=users)), token_generation=1)
    last = snapshots.last_accepted(ledger, organization)
    assert last is not None
    assert (last.users, snapshots.last_accepted_all(ledger)[organization]) == (4, last)


def test_the_latest_outcome_replaces_the_one_before(ledger: psycopg.Connection, connected: Connect) -> None:
    organization = connected().organization_id
    assert snapshots.latest_attempt(ledger, organization) is None
    outcomes: tuple[AttemptOutcome, ...] = ("accepted", "held", "refused", "parked", "failing", "busy")
    for outcome in outcomes:
        snapshots.record_outcome(ledger, organization, "failing", run_id="1", sentence="it broke")
        snapshots.record_outcome(ledger, organization, outcome, run_id="2")
        assert snapshots.latest_attempt(ledger, organization) == Attempt(outcome, "2")
        assert ledger.execute("SELECT outcome, sentence, run_id FROM outcomes").fetchall() == [(outcome, None, "2")]


HELD = "ab" * 32


def test_what_ends_alike_again_is_not_new(ledger: psycopg.Connection, connected: Connect) -> None:
    organization, bystander = (connected(slug).organization_id for slug in ("acme", "globex"))

    def record(outcome: AttemptOutcome, kind: str | None = None, change_hash: str | None = None) -> bool:
        return snapshots.record_outcome(ledger, organization, outcome, run_id="1", kind=kind, change_hash=change_hash)

    def kept() -> CustomerRecord:
        found = snapshots.customer_record(ledger, organization)
        assert found is not None
        return found

    ends: list[tuple[AttemptOutcome, str | None, str | None, bool]] = [
        ("held", "lost", HELD, True),
        ("held", "lost", HELD, False),
        ("held", "vanished", HELD, True),
        ("held", None, None, True),
        ("held", None, "", False),
        ("failing", None, None, True),
        ("accepted", None, None, True),
        ("accepted", None, None, False),
        ("held", "lost", HELD, True),
    ]
    for outcome, kind, change_hash, is_new in ends:
        before = snapshots.customer_record(ledger, organization)
        assert record(outcome, kind, change_hash) is is_new
        now = kept()
        assert (now.outcome, now.outcome_kind, now.change_hash) == (outcome, kind, change_hash or None)
        assert now.outcome_since == (now.outcome_at if is_new else before and before.outcome_since)
    assert snapshots.record_outcome(ledger, bystander, "held", run_id="1", kind="lost", change_hash=HELD)


def test_another_held_change_is_new_and_held_since_the_same_time(
    ledger: psycopg.Connection, connected: Connect
) -> None:
    """Somebody who approved the one before has to hear that it is void."""
    organization = connected().organization_id
    since = []
    for change_hash in (HELD, "cd" * 32):
        assert snapshots.record_outcome(ledger, organization, "held", run_id="1", kind="lost", change_hash=change_hash)
        record = snapshots.customer_record(ledger, organization)
        assert record is not None
        since.append(record.outcome_since)
    assert since[0] == since[1]


def test_what_a_killed_run_recorded_in_this_cycle_is_still_new_in_it(
    ledger: psycopg.Connection, connected: Connect
) -> None:
    """Its repetition by the daemon is the one that gets to say so."""
    organization = connected().organization_id
    [(tick,)] = ledger.execute("SELECT clock_timestamp()").fetchall()
    for _ in range(2):
        assert snapshots.record_outcome(ledger, organization, "held", run_id="1", kind="email", tick=tick)
    [(later,)] = ledger.execute("SELECT clock_timestamp()").fetchall()
    assert not snapshots.record_outcome(ledger, organization, "held", run_id="1", kind="email", tick=later)


def test_an_attempt_that_a_reconnect_overtook_says_nothing_of_the_new_consent(
    ledger: psycopg.Connection, connected: Connect
) -> None:
    """Its end may come after the consent, and even after the first sync with it: times do not tell."""
    organization = connected().organization_id

    def record(outcome: AttemptOutcome, generation: int) -> tuple[str | None, bool]:
        assert snapshots.record_outcome(ledger, organization, outcome, run_id="1", generation=generation)
        found = snapshots.customer_record(ledger, organization)
        assert found is not None
        return found.outcome, found.is_tried

    assert record("accepted", 1) == ("accepted", True)
    connected(organization_id=organization)
    assert record("parked", 1) == ("parked", False)
    assert record("accepted", 2) == ("accepted", True)
    assert record("parked", 1) == ("accepted", True)


def test_a_hash_that_is_none_is_refused(ledger: psycopg.Connection, connected: Connect) -> None:
    organization = connected().organization_id
    with pytest.raises(psycopg.errors.CheckViolation):
        snapshots.record_outcome(ledger, organization, "held", run_id="1", change_hash="eve@example.com")


def test_who_came_into_the_same_trouble_is_counted(ledger: psycopg.Connection, connected: Connect) -> None:
    slugs = (
        "held before",
        "held",
        "held otherwise",
        "failing",
        "fine",
        "never tried",
        "parked",
        "disconnected",
        "gone",
    )
    ids = {slug: connected(slug.replace(" ", "-")).organization_id for slug in slugs}

    def record(slug: str, outcome: AttemptOutcome, kind: str | None) -> None:
        snapshots.record_outcome(ledger, ids[slug], outcome, run_id="1", kind=kind)

    record("held before", "held", "lost")
    [(since,)] = ledger.execute("SELECT clock_timestamp()").fetchall()
    assert snapshots.most_alike(ledger, since=since) is None
    record("held before", "held", "lost")
    for slug, outcome, kind in (
        ("held", "held", "lost"),
        ("held otherwise", "held", "vanished"),
        ("failing", "failing", "lost"),
        ("fine", "accepted", None),
        ("parked", "parked", "GrantRefused"),
        ("gone", "held", "lost"),
    ):
        record(slug, cast("AttemptOutcome", outcome), kind)
    connections.park(ledger, ids["parked"], "invalid_grant", token_generation=1)
    for slug in ("disconnected", "gone"):
        connections.mark_disconnected(ledger, ids[slug])
    # Of 6 that are still connected; who came into it and is not connected any more is counted on both sides.
    assert snapshots.most_alike(ledger, since=since) == Alike("held", "lost", by_brake=False, customers=2, of=7)
    [(later,)] = ledger.execute("SELECT clock_timestamp()").fetchall()
    assert snapshots.most_alike(ledger, since=later) is None
    record("parked", "parked", "LostTwice")
    alone = Alike("parked", "LostTwice", by_brake=False, customers=1, of=7)
    assert snapshots.most_alike(ledger, since=later) == alone
    record("fine", "failing", None)
    assert snapshots.most_alike(ledger, since=later) == alone


def test_whatever_brakes_hold_is_one_trouble_that_lasts(ledger: psycopg.Connection, connected: Connect) -> None:
    ids = [connected(f"c{n}").organization_id for n in range(4)]

    def held(of: int, kind: str, change_hash: str | None = "ab" * 32) -> None:
        snapshots.record_outcome(ledger, ids[of], "held", run_id="1", kind=kind, change_hash=change_hash)

    held(0, "lost")
    [(since,)] = ledger.execute("SELECT clock_timestamp()").fetchall()
    held(0, "nobody_active")  # another brake holds it by now, which is not new
    assert snapshots.most_alike(ledger, since=since) is None
    held(1, "vanished")
    held(2, "lost")
    held(3, "lost", change_hash=None)  # held by no brake
    assert snapshots.most_alike(ledger, since=since) == Alike(
        "held", "lost, vanished", by_brake=True, customers=2, of=4
    )


def test_a_hold_lasts_until_an_acceptance_whatever_comes_between(
    ledger: psycopg.Connection, connected: Connect
) -> None:
    """Else a database that is away for an hour would begin a window anew, and waiting would release a brake."""
    organization = connected().organization_id

    def held_since(outcome: AttemptOutcome, change_hash: str | None = None) -> datetime | None:
        snapshots.record_outcome(ledger, organization, outcome, run_id="1", change_hash=change_hash)
        record = snapshots.customer_record(ledger, organization)
        assert record
        return record.held_since

    assert held_since("held") is None  # by a rule about rows, which no window looks at
    since = held_since("held", HELD)
    assert since
    assert held_since("failing") == since
    assert held_since("held", HELD[::-1]) == since
    assert held_since("accepted") is None


def test_counting_them_is_cheap(ledger: psycopg.Connection) -> None:
    plan = "EXPLAIN SELECT FROM outcomes WHERE outcome = 'held' AND kind = 'lost' AND since >= now()"
    with ledger.transaction():
        ledger.execute("SET LOCAL enable_seqscan = off")
        assert "outcomes_alike" in str(ledger.execute(plan.encode()).fetchall())


def test_nothing_is_recorded_for_an_unknown_organization(ledger: psycopg.Connection) -> None:
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        snapshots.record_outcome(ledger, uuid4(), "accepted", run_id="1")
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        record_intent(ledger, snapshot(uuid4()))


def test_the_records_that_a_status_is_judged_by(ledger: psycopg.Connection, connected: Connect) -> None:
    globex, acme = connected("globex"), connected("acme")
    for users in (3, 4):
        accepted = record_accepted(
            ledger, record_intent(ledger, snapshot(acme.organization_id, users=users)), token_generation=1
        )
    snapshots.record_outcome(ledger, acme.organization_id, "held", run_id="1", sentence="rule email")
    first, second = snapshots.customer_records(ledger)
    assert second == CustomerRecord("globex", globex.organization_id, "connected", globex.connected_at)
    assert (first.customer, first.active, first.deactivated) == ("acme", 3, 1)
    assert (first.outcome, first.sentence, first.last_accepted_at) == ("held", "rule email", accepted.accepted_at)
    assert first.outcome_at is not None
    assert first.outcome_at > accepted.accepted_at
