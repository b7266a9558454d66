"""What pushes leave behind: states, changes, pushes, proofs; and that a replay of the changes gives the states."""

import json
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from symvanta_pipeline.ledger import approvals, history, snapshots
from symvanta_pipeline.ledger.connections import Connection
from symvanta_pipeline.ledger.history import AccessChange, SnapshotUnknown
from symvanta_pipeline.ledger.snapshots import Snapshot, StatesUnfit, record_accepted, record_intent, resolve_intent
from tests.ledger.conftest import NOON, announce, push

Connect = Callable[..., Connection]
States = list[list[str]]
FIELDS = ("status", "level", "login", "mfa")
MICROSECOND = timedelta(microseconds=1)

ANN = ["ann", "ACTIVE", "ADMIN", "PASSWORD", "on"]
BOB = ["bob", "ACTIVE", "BASE", "SSO", "sso"]
EVE = ["eve", "DEACTIVATED", "BASE", "SSO", "sso"]


@pytest.fixture
def symvanta_url(ledger_url: str) -> str:
    """One database for all of these tests, emptied before each."""
    return ledger_url


def rows(ledger: psycopg.Connection, organization: UUID) -> dict[str, list[Any]]:
    """Return what the ledger holds about each account, absent ones included."""
    columns = "unique_id, status, level, login, mfa, since, snapshot_id"
    found = ledger.execute(
        f"SELECT {columns} FROM account_states WHERE organization_id = %s".encode(),
        [organization],
    )
    return {unique_id: rest for unique_id, *rest in found.fetchall()}


def told(ledger: psycopg.Connection, organization: UUID) -> list[tuple[str, str, str | None, str]]:
    return [(c.unique_id, c.field, c.old, c.new) for c in history.changes(ledger, organization)]


def test_the_first_push_is_all_new(ledger: psycopg.Connection, connected: Connect) -> None:
    organization, bystander = (connected(slug).organization_id for slug in ("acme", "globex"))
    assert history.is_first(ledger, organization)
    assert (history.states(ledger, organization), history.changes(ledger, organization)) == ([], [])
    accepted = push(ledger, organization, [EVE, ANN])
    assert not history.is_first(ledger, organization)
    assert history.states(ledger, organization) == [ANN, EVE]
    assert rows(ledger, organization) == {
        "ann": [*ANN[1:], accepted.accepted_at, accepted.id],
        "eve": [*EVE[1:], accepted.accepted_at, accepted.id],
    }
    assert told(ledger, organization) == [
        ("ann", "level", None, "ADMIN"),
        ("ann", "login", None, "PASSWORD"),
        ("ann", "mfa", None, "on"),
        ("ann", "status", None, "ACTIVE"),
        ("eve", "level", None, "BASE"),
        ("eve", "login", None, "SSO"),
        ("eve", "mfa", None, "sso"),
        ("eve", "status", None, "DEACTIVATED"),
    ]
    assert {change.at for change in history.changes(ledger, organization)} == {accepted.accepted_at}
    assert history.is_first(ledger, bystander)
    assert history.states(ledger, bystander) == []


def test_what_stays_the_same_is_left_alone(ledger: psycopg.Connection, connected: Connect) -> None:
    organization = connected().organization_id
    first = push(ledger, organization, [ANN, BOB])
    before, changes = rows(ledger, organization), told(ledger, organization)
    again = push(ledger, organization, [ANN, BOB])
    assert (first.unchanged, again.unchanged) == (False, True)
    assert (rows(ledger, organization), told(ledger, organization)) == (before, changes)
    moved = push(ledger, organization, [ANN, [*BOB[:4], "off"]])
    assert not moved.unchanged
    assert rows(ledger, organization) == before | {"bob": [*BOB[1:4], "off", moved.accepted_at, moved.id]}
    assert told(ledger, organization)[len(changes) :] == [("bob", "mfa", "sso", "off")]
    assert not push(ledger, organization, [ANN, BOB]).unchanged  # as the first one, but not as the one before


def test_who_is_left_out_is_absent_until_back(ledger: psycopg.Connection, connected: Connect) -> None:
    organization = connected().organization_id
    push(ledger, organization, [ANN, BOB])
    seen = len(told(ledger, organization))
    gone = push(ledger, organization, [ANN])
    assert history.states(ledger, organization) == [ANN]
    assert rows(ledger, organization)["bob"] == ["ABSENT", *BOB[2:], gone.accepted_at, gone.id]
    push(ledger, organization, [ANN])
    assert rows(ledger, organization)["bob"][4] == gone.accepted_at
    back = push(ledger, organization, [ANN, ["bob", "DEACTIVATED", "ADMIN", "SSO", "sso"]])
    assert rows(ledger, organization)["bob"] == ["DEACTIVATED", "ADMIN", "SSO", "sso", back.accepted_at, back.id]
    assert told(ledger, organization)[seen:] == [
        ("bob", "status", "ACTIVE", "ABSENT"),
        ("bob", "level", "BASE", "ADMIN"),
        ("bob", "status", "ABSENT", "DEACTIVATED"),
    ]


def test_a_push_without_states_says_nothing_about_accounts(ledger: psycopg.Connection, connected: Connect) -> None:
    organization = connected().organization_id
    push(ledger, organization, [ANN, BOB])
    before, changes = rows(ledger, organization), told(ledger, organization)
    intent = record_intent(ledger, Snapshot(organization, "run", NOON, "ab" * 32, 1, 1, 0))
    record_accepted(ledger, intent, token_generation=1)
    assert (rows(ledger, organization), told(ledger, organization)) == (before, changes)


def test_what_was_possibly_applied_is_known_until_it_is_settled(ledger: psycopg.Connection, connected: Connect) -> None:
    organization, bystander = (connected(slug).organization_id for slug in ("acme", "globex"))
    push(ledger, organization, [ANN])
    refused = announce(ledger, organization, [EVE])
    resolve_intent(ledger, refused, "refused")
    announce(ledger, organization, [BOB])
    record_intent(ledger, Snapshot(organization, "run", NOON, "ab" * 32, 1, 1, 0))
    announce(ledger, organization, [ANN, EVE])
    announce(ledger, bystander, [EVE])
    assert history.possible(ledger, organization) == [[BOB], [ANN, EVE]]
    assert history.states(ledger, organization) == [ANN]
    push(ledger, organization, [ANN, BOB])
    assert history.possible(ledger, organization) == []
    assert history.possible(ledger, bystander) == [[EVE]]
    left = ledger.execute("SELECT count(*) FROM intents WHERE states IS NOT NULL AND resolved_at IS NOT NULL")
    assert left.fetchone() == (0,)


@pytest.mark.parametrize(
    ("states", "why"),
    [
        ([ANN], "2 accounts"),
        ([ANN, ANN], "of 1 accounts"),
        ([ANN, BOB, EVE], "3 states"),
        ([ANN, BOB], "2 of them active"),
        ([ANN, ["eve@example.com", *EVE[1:]]], "form"),
        ([ANN, ["Eve Example", *EVE[1:]]], "form"),
        ([ANN, ["", *EVE[1:]]], "form"),
        ([ANN, ["e\0", *EVE[1:]]], "form"),
        ([ANN, ["e\ud800\u00a0", *EVE[1:]]], "form"),
        ([ANN, EVE[:4]], "form"),
        ([ANN, [*EVE, "more"]], "form"),
        ([ANN, ["eve", "ABSENT", *EVE[2:]]], "form"),
        ([ANN, [*EVE[:4], "eve@example.com"]], "form"),
        ([ANN, [*EVE[:4], ""]], "form"),
        ([ANN, []], "form"),
    ],
)
def test_states_that_could_not_be_recorded_are_not_even_announced(
    ledger: psycopg.Connection, connected: Connect, states: States, why: str
) -> None:
    organization = connected().organization_id
    sent = Snapshot(organization, "run", NOON, "ab" * 32, 2, 1, 1)
    with pytest.raises(StatesUnfit, match=why) as caught:
        record_intent(ledger, sent, states=states)
    assert not any(word in str(caught.value) for word in ("ann", "bob", "eve", "Eve"))
    assert snapshots.unresolved_intents(ledger, organization) == []
    record_intent(ledger, sent, states=[ANN, EVE])


@pytest.mark.parametrize(
    "statement",
    [
        """UPDATE intents SET states = '[["eve@example.com", "ACTIVE", "BASE", "SSO", "sso"]]'""",
        "UPDATE intents SET states = '{}'",
        "UPDATE account_states SET unique_id = 'eve@example.com'",
        "UPDATE account_states SET unique_id = 'Eve Example'",
        "UPDATE account_states SET level = 'eve@example.com'",
        "INSERT INTO account_changes (organization_id, snapshot_id, at, unique_id, field, new)"
        " SELECT organization_id, id, accepted_at, 'eve@example.com', 'status', 'ACTIVE' FROM accepted_snapshots",
        "INSERT INTO account_changes (organization_id, snapshot_id, at, unique_id, field, new)"
        " SELECT organization_id, id, accepted_at, 'eve', 'email', 'x' FROM accepted_snapshots",
        "INSERT INTO account_changes (organization_id, snapshot_id, at, unique_id, field, new)"
        " SELECT organization_id, id, accepted_at, 'eve', 'status', 'Eve Example' FROM accepted_snapshots",
        """INSERT INTO proofs SELECT id, now(), 'proved', '["eve@example.com"]' FROM accepted_snapshots""",
    ],
)
def test_the_tables_themselves_take_no_name_and_no_address(
    ledger: psycopg.Connection, connected: Connect, statement: str
) -> None:
    organization = connected().organization_id
    push(ledger, organization, [ANN])
    announce(ledger, organization, [ANN])
    with pytest.raises(psycopg.errors.CheckViolation):
        ledger.execute(statement.encode())


# A naive ledger: every accepted state of everybody, kept whole.


Account = tuple[str, str, str, str]  # status, level, login, mfa
ACCOUNTS = st.tuples(
    st.sampled_from(["ACTIVE", "DEACTIVATED"]),
    st.sampled_from(["BASE", "ADMIN"]),
    st.sampled_from(["SSO", "PASSWORD"]),
    st.sampled_from(["sso", "on", "off", "unknown"]),
)
BODIES = st.dictionaries(st.sampled_from("abcdef"), ACCOUNTS, min_size=1)
FATES = st.sampled_from(["accepted", "accepted", "accepted", "refused", "lost", "recorded late"])


@dataclass
class Naive:
    """What was accepted, by time, and what was possibly applied since."""

    accepted: list[tuple[datetime, dict[str, Account]]] = field(default_factory=list)
    possible: list[dict[str, Account]] = field(default_factory=list)

    def last(self) -> dict[str, Account]:
        return self.accepted[-1][1] if self.accepted else {}

    def active_since(self, moment: datetime) -> list[set[str]]:
        bodies: list[dict[str, Account]] = [{}]
        for at, body in self.accepted:
            bodies = [body] if at <= moment else [*bodies, body]
        return [{unique_id for unique_id, account in body.items() if account[0] == "ACTIVE"} for body in bodies]

    def access_at(self, moment: datetime) -> list[tuple[str, str, str, datetime]]:
        known: dict[str, dict[str, tuple[str, datetime]]] = {}
        for at, body in self.accepted:
            if at >= moment:
                break
            for unique_id in known.keys() | body.keys():
                account = known.setdefault(unique_id, {})
                told = dict(zip(FIELDS, body[unique_id], strict=True)) if unique_id in body else {"status": "ABSENT"}
                for name, value in told.items():
                    if account.get(name, (None,))[0] != value:
                        account[name] = (value, at)
        return [
            (unique_id, name, *account[name])
            for unique_id, account in sorted(known.items())
            if account["status"][0] != "ABSENT"
            for name in sorted(FIELDS)
        ]


def as_states(body: dict[str, Account]) -> States:
    return [[unique_id, *account] for unique_id, account in sorted(body.items())]


def replayed(changes: list[AccessChange]) -> States:
    """Apply changes one after the other; each must start from what the ones before left."""
    held: dict[str, dict[str, str]] = {}
    for change in changes:
        account = held.setdefault(change.unique_id, {})
        assert account.get(change.field) == change.old, change
        account[change.field] = change.new
    return [
        [unique_id, account["status"], account["level"], account["login"], account["mfa"]]
        for unique_id, account in sorted(held.items())
        if account["status"] != "ABSENT"
    ]


def lived(ledger: psycopg.Connection, organization: UUID, pushes: list[tuple[dict[str, Account], str]]) -> Naive:
    """Push the bodies with their fates, and keep the naive ledger beside."""
    naive = Naive()
    for body, fate in pushes:
        intent = announce(ledger, organization, as_states(body))
        if fate == "refused":
            resolve_intent(ledger, intent, "refused")
        elif fate == "lost":
            naive.possible.append(body)
        else:
            if fate == "recorded late":  # a failure within the one transaction leaves nothing behind
                with pytest.raises(snapshots.ApprovalUnusable):
                    record_accepted(ledger, intent, token_generation=1, approval_id=0)
            accepted = record_accepted(ledger, intent, token_generation=1)
            naive.accepted.append((accepted.accepted_at, body))
            naive.possible.clear()
    return naive


def agree(ledger: psycopg.Connection, organization: UUID, naive: Naive) -> None:
    assert history.states(ledger, organization) == as_states(naive.last())
    assert replayed(history.changes(ledger, organization)) == as_states(naive.last())
    assert history.possible(ledger, organization) == [as_states(body) for body in naive.possible]
    assert history.is_first(ledger, organization) is not bool(naive.accepted)
    moments = [at + shift for at, _ in naive.accepted for shift in (-MICROSECOND, timedelta(), MICROSECOND)]
    for moment in [NOON - timedelta(days=999), *moments, NOON + timedelta(days=999)]:
        found = history.active_since(ledger, organization, moment)
        assert distinct(found) == distinct(naive.active_since(moment)), moment
        access = history.access_at(ledger, organization, moment)
        assert [(a.unique_id, a.field, a.value, a.since) for a in access] == naive.access_at(moment), moment
    assert history.access_at(ledger, organization, None) == []


def distinct(states: Sequence[Set[str]]) -> list[Set[str]]:
    """Leave out who is as the one before: a push that changes nobody's status adds nothing to compare with."""
    return [state for state, _ in groupby(states)]


@given(pushes=st.lists(st.tuples(BODIES, FATES), max_size=8))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_replay_gives_what_vanta_holds_at_every_moment(
    ledger: psycopg.Connection, connected: Connect, pushes: list[tuple[dict[str, Account], str]]
) -> None:
    organization = connected(uuid4().hex).organization_id
    agree(ledger, organization, lived(ledger, organization, pushes))


@pytest.mark.parametrize(
    "violation",
    [
        "UPDATE account_states SET status = 'DEACTIVATED' WHERE unique_id = 'b'",
        "UPDATE account_states SET status = 'ABSENT' WHERE unique_id = 'b'",
        "UPDATE account_changes SET new = 'ADMIN' WHERE unique_id = 'b' AND field = 'level'",
        "DELETE FROM account_changes WHERE unique_id = 'b' AND field = 'status' AND old IS NOT NULL",
        "UPDATE account_changes SET old = 'ABSENT' WHERE unique_id = 'b' AND new = 'ACTIVE'",
        "UPDATE account_changes SET at = at - interval '1 microsecond' WHERE unique_id = 'a' AND field = 'mfa'",
        "UPDATE account_changes SET at = at + interval '1 microsecond' WHERE unique_id = 'b' AND new = 'ACTIVE'",
        "UPDATE intents SET states = NULL",
    ],
)
def test_the_replay_sees_what_is_wrong(ledger: psycopg.Connection, connected: Connect, violation: str) -> None:
    """Planted, past the triggers."""
    active, inactive = ("ACTIVE", "BASE", "SSO", "sso"), ("DEACTIVATED", "BASE", "SSO", "sso")
    organization = connected().organization_id
    naive = lived(
        ledger,
        organization,
        [({"a": active, "b": inactive}, "accepted"), ({"a": active, "b": active}, "accepted"), ({"a": active}, "lost")],
    )
    agree(ledger, organization, naive)
    with ledger.transaction():
        ledger.execute("SET LOCAL session_replication_role = replica")
        assert ledger.execute(violation.encode()).rowcount > 0
    with pytest.raises(AssertionError):
        agree(ledger, organization, naive)


class TestPushes:
    def test_all_that_was_recorded_is_told(self, ledger: psycopg.Connection, connected: Connect) -> None:
        organization = connected().organization_id
        counts = {"status": {"ACTIVE": 2}, "level": {"ADMIN": 1, "BASE": 1}}
        approval = approvals.approve(ledger, organization, "cd" * 32, rules=["lost"], reason="a sale", by="ops")
        accepted = record_accepted(
            ledger,
            announce(ledger, organization, [ANN, BOB], run_id="first"),
            token_generation=7,
            counts=counts,
            latency_seconds=0.25,
            verdict="success",
            approval_id=approval.id,
        )
        assert (accepted.counts, accepted.latency_seconds, accepted.verdict) == (counts, 0.25, "success")
        assert snapshots.last_accepted(ledger, organization) == accepted
        history.record_proof(ledger, accepted.id, "unreadable", [])
        history.record_proof(ledger, accepted.id, "contradicted", [{"name": "foreign_ids", "count": 1}])
        [told] = history.pushes(ledger, organization)
        shared = ("run_id", "read_at", "body_sha256", "users", "active", "deactivated", "token_generation")
        for name in (*shared, "counts", "latency_seconds", "verdict", "unchanged"):
            assert getattr(told, name) == getattr(accepted, name), name
        assert (told.snapshot_id, told.at, told.source_id) == (accepted.id, accepted.accepted_at, str(organization))
        assert (told.approved_by, told.reason) == ("ops", "a sale")
        assert (told.proof, told.findings) == ("contradicted", [{"name": "foreign_ids", "count": 1}])
        assert told.proved_at is not None

    def test_what_was_possibly_applied_is_among_them(self, ledger: psycopg.Connection, connected: Connect) -> None:
        organization, bystander = (connected(slug).organization_id for slug in ("acme", "globex"))
        push(ledger, bystander, [ANN])
        push(ledger, organization, [ANN])
        resolve_intent(ledger, announce(ledger, organization, [BOB]), "refused")
        announce(ledger, organization, [ANN, BOB])
        first, second = history.pushes(ledger, organization)
        assert (first.verdict, first.users) == ("accepted", 1)
        assert (second.verdict, second.users, second.source_id) == ("possibly applied", 2, str(organization))
        assert (second.snapshot_id, second.token_generation, second.unchanged, second.proof) == (None,) * 4
        push(ledger, organization, [ANN, BOB])
        assert [told.verdict for told in history.pushes(ledger, organization)] == ["accepted", "accepted"]

    def test_a_beginning_can_be_given(self, ledger: psycopg.Connection, connected: Connect) -> None:
        organization = connected().organization_id
        push(ledger, organization, [ANN])
        second = push(ledger, organization, [BOB])
        announce(ledger, organization, [EVE])
        since = second.accepted_at
        assert [p.verdict for p in history.pushes(ledger, organization, since=since)] == [
            "accepted",
            "possibly applied",
        ]
        assert {c.at for c in history.changes(ledger, organization, since=since)} == {since}
        later = NOON + timedelta(days=999)
        assert history.pushes(ledger, organization, since=later) == []
        assert history.changes(ledger, organization, since=later) == []


class TestProofs:
    def test_only_what_was_accepted_can_be_proved(self, ledger: psycopg.Connection, connected: Connect) -> None:
        accepted = push(ledger, connected().organization_id, [ANN])
        with pytest.raises(SnapshotUnknown):
            history.record_proof(ledger, accepted.id + 1, "proved", [])
        assert ledger.execute("SELECT count(*) FROM proofs").fetchone() == (0,)

    def test_what_vanta_lists_brings_no_address_in(self, ledger: psycopg.Connection, connected: Connect) -> None:
        organization = connected().organization_id
        accepted = push(ledger, organization, [ANN])
        finding = {
            "name": "foreign_ids",
            "count": 3,
            "unique_ids": ["eve@example.com", "u\0\ud800", ("x", None, True)],
            "bob@example.com": 1.5,
        }
        history.record_proof(ledger, accepted.id, "contradicted", [finding])
        [told] = history.pushes(ledger, organization)
        assert told.findings == [
            {"name": "foreign_ids", "count": 3, "unique_ids": ["(address)", "u??", ["x", None, True]], "(address)": 1.5}
        ]
        assert "@" not in json.dumps(told.findings)
