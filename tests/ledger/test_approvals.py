"""What is approved goes through exactly once, as it was, within its time."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from symvanta_pipeline.ledger import history, snapshots
from symvanta_pipeline.ledger.approvals import ApprovalRefused, approve, latest, of_push, usable, window_reset
from symvanta_pipeline.ledger.connections import Connection
from symvanta_pipeline.ledger.snapshots import AcceptedSnapshot, ApprovalUnusable
from tests.ledger.conftest import announce, backdate, push

Connect = Callable[..., Connection]

HELD, OTHER = "ab" * 32, "cd" * 32
WORDS: dict[str, Any] = {"rules": ["lost"], "reason": "the Berlin office closed", "by": "ops"}
ANN = ["ann", "ACTIVE", "ADMIN", "PASSWORD", "on"]


@pytest.fixture
def symvanta_url(ledger_url: str) -> str:
    """One database for all of these tests, emptied before each."""
    return ledger_url


def test_it_is_good_for_exactly_what_was_held(ledger: psycopg.Connection, connected: Connect) -> None:
    organization, bystander = (connected(slug).organization_id for slug in ("acme", "globex"))
    assert (latest(ledger, organization), usable(ledger, organization, HELD)) == (None, None)
    approval = approve(ledger, organization, HELD, rules=("lost", "admins"), reason=" two\nlines ", by=" ops ")
    assert (approval.organization_id, approval.hash, approval.rules) == (organization, HELD, ["lost", "admins"])
    assert (approval.reason, approval.approved_by) == ("two\nlines", "ops")
    assert approval.expires_at - approval.at == timedelta(hours=4)
    assert (approval.used_at, approval.used_by_run) == (None, None)
    assert usable(ledger, organization, HELD) == latest(ledger, organization) == approval
    assert usable(ledger, organization, OTHER) is None
    assert usable(ledger, bystander, HELD) is None


def test_it_is_good_for_one_push(ledger: psycopg.Connection, connected: Connect) -> None:
    organization = connected().organization_id
    approval = approve(ledger, organization, HELD, **WORDS)
    accepted = push(ledger, organization, [ANN], run_id="the run", approval_id=approval.id)
    assert usable(ledger, organization, HELD) is None
    used = latest(ledger, organization)
    assert used is not None
    assert (used.used_at, used.used_by_run) == (accepted.accepted_at, "the run")


def test_a_push_that_is_not_recorded_does_not_use_it(ledger: psycopg.Connection, connected: Connect) -> None:
    organization = connected().organization_id
    approval = approve(ledger, organization, HELD, **WORDS)
    with ledger.transaction(force_rollback=True):
        push(ledger, organization, [ANN], approval_id=approval.id)
        assert usable(ledger, organization, HELD) is None
    assert usable(ledger, organization, HELD) == approval


@pytest.mark.parametrize("pusher", ["acme", "globex"], ids=["used before", "another's"])
def test_a_push_cannot_use_what_is_not_its_own(ledger: psycopg.Connection, connected: Connect, pusher: str) -> None:
    ids = {slug: connected(slug).organization_id for slug in ("acme", "globex")}
    approval = approve(ledger, ids["acme"], HELD, **WORDS)
    if pusher == "acme":
        push(ledger, ids["acme"], [ANN], approval_id=approval.id)
    organization = ids[pusher]
    before = history.pushes(ledger, organization), history.changes(ledger, organization)
    intent = announce(ledger, organization, [ANN, ["bob", *ANN[1:]]])
    with pytest.raises(ApprovalUnusable):
        snapshots.record_accepted(ledger, intent, token_generation=1, approval_id=approval.id)
    assert [i.id for i in snapshots.unresolved_intents(ledger, organization)] == [intent]
    assert (history.pushes(ledger, organization)[:-1], history.changes(ledger, organization)) == before


def test_approving_twice_lets_nothing_through_twice(ledger: psycopg.Connection, connected: Connect) -> None:
    organization = connected().organization_id
    first = approve(ledger, organization, HELD, **WORDS)
    second = approve(ledger, organization, HELD, **WORDS)
    assert usable(ledger, organization, HELD) == second
    push(ledger, organization, [ANN], approval_id=second.id)
    assert usable(ledger, organization, HELD) is None
    assert first.used_at is None


def test_one_given_while_the_same_change_is_pushed_lets_nothing_through_after(
    ledger: psycopg.Connection, connected: Connect
) -> None:
    organization = connected().organization_id
    first = approve(ledger, organization, HELD, **WORDS)
    meanwhile = approve(ledger, organization, HELD, **WORDS)
    push(ledger, organization, [ANN], approval_id=first.id)
    assert usable(ledger, organization, HELD) is None
    assert latest(ledger, organization) == meanwhile
    after = approve(ledger, organization, HELD, **WORDS)
    assert usable(ledger, organization, HELD) == after


def test_one_of_another_change_or_organization_stays_good(ledger: psycopg.Connection, connected: Connect) -> None:
    acme, globex = (connected(slug).organization_id for slug in ("acme", "globex"))
    first = approve(ledger, acme, HELD, **WORDS)
    other, theirs = approve(ledger, acme, OTHER, **WORDS), approve(ledger, globex, HELD, **WORDS)
    push(ledger, acme, [ANN], approval_id=first.id)
    assert usable(ledger, acme, OTHER) == other
    assert usable(ledger, globex, HELD) == theirs


def test_the_one_of_a_push_is_found_though_another_was_given_since(
    ledger: psycopg.Connection, connected: Connect
) -> None:
    organization, bystander = (connected(slug).organization_id for slug in ("acme", "globex"))
    first = approve(ledger, organization, HELD, **WORDS)
    approve(ledger, organization, OTHER, **WORDS)
    later = approve(ledger, organization, HELD, **WORDS)
    between, moment = first.at + (later.at - first.at) / 2, timedelta(microseconds=1)
    assert of_push(ledger, organization, HELD, between) == first
    assert of_push(ledger, organization, HELD, later.at) == later
    for hash_, when in ((OTHER, first.at), (HELD, first.at - moment), (HELD, later.expires_at)):
        assert of_push(ledger, organization, hash_, when) is None
    assert of_push(ledger, bystander, HELD, between) is None
    push(ledger, organization, [ANN], approval_id=first.id)
    assert of_push(ledger, organization, HELD, between) is None


def test_the_latest_replaces_those_before(ledger: psycopg.Connection, connected: Connect) -> None:
    organization = connected().organization_id
    approve(ledger, organization, HELD, **WORDS)
    approve(ledger, organization, OTHER, **WORDS)
    assert usable(ledger, organization, HELD) is None
    assert usable(ledger, organization, OTHER) is not None
    approve(ledger, organization, HELD, **WORDS)
    assert usable(ledger, organization, HELD) is not None


def test_it_ends_by_the_databases_clock(ledger: psycopg.Connection, connected: Connect) -> None:
    organization = connected().organization_id
    approve(ledger, organization, HELD, **WORDS, lifetime=timedelta(days=1, seconds=60))
    backdate(ledger, days=1)
    late = latest(ledger, organization)
    assert usable(ledger, organization, HELD) == late is not None
    backdate(ledger, days=1)
    assert usable(ledger, organization, HELD) is None
    assert latest(ledger, organization) is not None


def test_a_push_that_began_in_time_may_be_recorded_after(ledger: psycopg.Connection, connected: Connect) -> None:
    organization = connected().organization_id
    approval = approve(ledger, organization, HELD, **WORDS)
    backdate(ledger, days=1)
    push(ledger, organization, [ANN], approval_id=approval.id)
    after = latest(ledger, organization)
    assert after is not None
    assert after.used_at is not None


def test_an_approved_push_begins_the_windows_of_its_rules_anew(ledger: psycopg.Connection, connected: Connect) -> None:
    organization, bystander = (connected(slug).organization_id for slug in ("acme", "globex"))
    assert window_reset(ledger, organization, "lost") is None
    accepted: list[AcceptedSnapshot] = []
    for rules in (["lost", "lost_in_a_day"], ["lost"]):
        approval = approve(ledger, organization, HELD, **WORDS | {"rules": rules})
        assert window_reset(ledger, organization, "lost") == (accepted[-1].accepted_at if accepted else None)
        accepted.append(push(ledger, organization, [ANN], approval_id=approval.id))
    assert window_reset(ledger, organization, "lost") == accepted[1].accepted_at
    assert window_reset(ledger, organization, "lost_in_a_day") == accepted[0].accepted_at
    assert window_reset(ledger, organization, "vanished") is None
    assert window_reset(ledger, bystander, "lost") is None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"reason": ""}, "the reason is blank"),
        ({"reason": " \n\t"}, "the reason is blank"),
        ({"reason": "x" * 501}, "the reason has 501 characters"),
        ({"by": "  "}, "who approves is blank"),
        ({"by": "x" * 501}, "who approves has 501"),
        ({"rules": []}, "no held change"),
        ({"change_hash": ""}, "no held change"),
        ({"change_hash": HELD[1:]}, "no held change"),
        ({"change_hash": HELD.upper()}, "no held change"),
    ],
)
def test_it_says_what_and_who_and_why(
    ledger: psycopg.Connection, connected: Connect, change: dict[str, Any], why: str
) -> None:
    organization = connected().organization_id
    with pytest.raises(ApprovalRefused, match=why):
        approve(ledger, organization, **{"change_hash": HELD, **WORDS} | change)
    assert latest(ledger, organization) is None
    assert ledger.execute("SELECT count(*) FROM audit_events").fetchone() == (0,)


@pytest.mark.parametrize(
    ("given", "kept"), [("a\0b", "a?b"), ("a\ud800b", "a?b"), ("'; --", "'; --"), ("x" * 500,) * 2]
)
def test_any_words_are_kept(ledger: psycopg.Connection, connected: Connect, given: str, kept: str) -> None:
    approval = approve(ledger, connected().organization_id, HELD, rules=["lost"], reason=given, by=given)
    assert (approval.reason, approval.approved_by) == (kept, kept)


def test_the_audit_log_tells_of_it(ledger: psycopg.Connection, connected: Connect) -> None:
    organization = connected().organization_id
    approve(ledger, organization, HELD, rules=["lost", "admins"], reason="Jane left", by="terminal:root")
    assert ledger.execute("SELECT event, organization_id, actor, detail FROM audit_events").fetchall() == [
        ("approved", organization, "terminal:root", f"lost, admins; change {HELD}")
    ]


def test_who_was_never_connected_has_nothing_to_approve(ledger: psycopg.Connection) -> None:
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        approve(ledger, uuid4(), HELD, **WORDS)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE approvals SET expires_at = expires_at + interval '1 day'",
        "UPDATE approvals SET reason = 'another', used_at = now(), used_by_run = 'run'",
        "UPDATE approvals SET hash = repeat('0', 64)",
        "UPDATE approvals SET used_at = now()",
        "UPDATE approvals SET used_at = NULL, used_by_run = NULL",
        "DELETE FROM approvals",
        "TRUNCATE approvals",
    ],
)
def test_the_database_itself_keeps_it_as_it_was_given(
    ledger: psycopg.Connection, connected: Connect, statement: str
) -> None:
    organization = connected().organization_id
    approval = approve(ledger, organization, HELD, **WORDS)
    with pytest.raises(psycopg.errors.CheckViolation):
        ledger.execute(statement.encode())
    assert latest(ledger, organization) == approval


def test_nor_is_a_used_one_ever_unused_again(ledger: psycopg.Connection, connected: Connect) -> None:
    organization = connected().organization_id
    push(ledger, organization, [ANN], approval_id=approve(ledger, organization, HELD, **WORDS).id)
    for statement in ("SET used_at = NULL, used_by_run = NULL", "SET used_at = now()", "SET used_by_run = 'another'"):
        with pytest.raises(psycopg.errors.CheckViolation, match="only goes from unused to used"):
            ledger.execute(f"UPDATE approvals {statement}".encode())
