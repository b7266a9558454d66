"""One customer from Sym to Vanta: what is sent, what each failure means, and that nobody else is touched by it."""

import dataclasses
import re
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, get_args
from uuid import UUID

import pandas as pd
import psycopg
import pytest

from symvanta_pipeline import sync
from symvanta_pipeline.ledger import connections
from symvanta_pipeline.ledger.locks import customer_lock
from symvanta_pipeline.ledger.snapshots import Attempt, AttemptOutcome
from symvanta_pipeline.sandbox.postgres import EmbeddedPostgres
from symvanta_pipeline.sym.source import UsersSnapshot
from symvanta_pipeline.sync import OUTCOME_BY_ERROR, CustomerResult, Reach
from symvanta_pipeline.vanta import budget, session
from tests.conftest import SymRows
from tests.support.parts import (
    CANARY,
    RUN_ID,
    Parts,
    ago,
    clean,
    held,
    meanwhile,
    refusing_connections,
    sentences,
    until,
)

Break = Callable[[Parts, UUID], object]


def user_id(n: int) -> UUID:
    return UUID(f"00000000-0000-4000-8000-{n:012d}")


# What arrives.


def fill_with_telling_users(sym: SymRows, organization: UUID) -> None:
    berlin, kolkata = timezone(timedelta(hours=2)), timezone(timedelta(hours=5, minutes=30))
    created = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    password, federated, slack = sym.password, sym.federated, sym.slack

    def add(n: int, name: str | None, email: str, **columns: Any) -> None:
        sym.user(
            organization,
            **({"id": user_id(n), "name": name, "email": email, "created_at": created, "type": "admin"} | columns),
        )

    add(1, "Ada Otp", "ada@acme.example", identities=[password(mfa_factors=["otp"])])
    add(2, "Ben Without", "ben@acme.example", identities=[password(mfa_factors=[])])
    add(3, "Cleo Unknown", "cleo@acme.example", identities=[password(mfa_factors=None)])
    add(4, "Dan Recovery", "dan@acme.example", identities=[password(mfa_factors=["recovery-code"])])
    add(5, "Eva Keys", "eva@acme.example", identities=[password(mfa_factors=["webauthn-platform", "webauthn-roaming"])])
    add(6, "Finn Federated", "finn@acme.example", identities=[federated("okta-workforce", mfa_factors=["otp"])])
    add(7, "Gita Both", "gita@acme.example", identities=[slack(), password(mfa_factors=["sms", "push-notification"])])
    add(8, "Hugo Member", "hugo@acme.example", type="member", identities=[slack()])
    add(9, "Ines Guest", "ines@partner.example", type="guest", identities=[slack()])
    add(10, "Jon Demoted", "jon@acme.example", type="member", identities=[password(mfa_factors=["email"]), slack()])
    left = datetime(2026, 6, 30, 17, 0, 0, tzinfo=UTC)
    add(11, "Kim Departed", "kim@acme.example", type="member", deactivated_at=left, updated_at=left)
    add(12, None, " nameless@acme.example ", type="guest")
    add(13, "Łukasz 王秀英 👩🏽‍💻", "łukasz@bücher.example", type="member")
    micro: dict[str, Any] = {"created_at": datetime(2026, 1, 2, 3, 4, 5, 999_999, tzinfo=UTC)}
    login = {"last_login_at": datetime(2026, 11, 1, 23, 59, 59, 999_999, tzinfo=UTC)}
    reset = {"last_password_reset_at": datetime(2026, 10, 9, 8, 7, 6, 500_000, tzinfo=UTC)}
    add(14, "Mo Micro", "mo@acme.example", **micro, identities=[password(mfa_factors=["otp"], **login, **reset)])
    zoned: dict[str, Any] = {
        "created_at": datetime(2026, 1, 1, 1, 0, tzinfo=berlin),
        "updated_at": datetime(2026, 3, 1, tzinfo=kolkata),
    }
    later: dict[str, Any] = {
        "last_login_at": datetime(2026, 11, 1, 5, 30, tzinfo=kolkata),
        "last_password_reset_at": created,
    }
    earlier: dict[str, Any] = {"last_login_at": datetime(2026, 11, 1, 1, 30, tzinfo=berlin)}
    # A reset at a federated identity is not a reset of the password.
    add(15, "Nia Zones", "nia@acme.example", **zoned, identities=[federated(**later), slack(**earlier)])


def record(n: int, name: str, email: str, **fields: Any) -> dict[str, Any]:
    """Write down an admin with a password; the fields that tell are given."""
    return {
        "uniqueId": f"00000000-0000-4000-8000-{n:012d}",
        "displayName": name,
        "fullName": name,
        "accountName": email,
        "email": email,
        "externalUrl": f"https://app.symops.com/orgs/acme/users/00000000-0000-4000-8000-{n:012d}",
        "permissionLevel": "ADMIN",
        "roleDescription": "Sym admin",
        "status": "ACTIVE",
        "createdTimestamp": "2026-01-02T03:04:05Z",
        "authMethod": "PASSWORD",
        "mfaMethods": [],
        "mfaEnabled": False,
    } | fields


MEMBER = {"permissionLevel": "BASE", "roleDescription": "Sym member", "authMethod": "SSO"}
GUEST = {"permissionLevel": "BASE", "roleDescription": "Sym guest", "authMethod": "SSO"}
EXPECTED = [
    record(1, "Ada Otp", "ada@acme.example", mfaMethods=["OTP"], mfaEnabled=True),
    record(2, "Ben Without", "ben@acme.example", mfaMethods=["DISABLED"]),
    record(3, "Cleo Unknown", "cleo@acme.example"),
    record(4, "Dan Recovery", "dan@acme.example", mfaMethods=["DISABLED"]),
    record(5, "Eva Keys", "eva@acme.example", mfaMethods=["HARDWARE_TOKEN"], mfaEnabled=True),
    record(6, "Finn Federated", "finn@acme.example", authMethod="SSO"),
    record(7, "Gita Both", "gita@acme.example", mfaMethods=["SMS", "PUSH_PROMPT"], mfaEnabled=True),
    record(8, "Hugo Member", "hugo@acme.example", **MEMBER),
    record(9, "Ines Guest", "ines@partner.example", **GUEST),
    record(
        10,
        "Jon Demoted",
        "jon@acme.example",
        **MEMBER | {"authMethod": "PASSWORD"},
        mfaMethods=["EMAIL"],
        mfaEnabled=True,
    ),
    record(
        11,
        "Kim Departed",
        "kim@acme.example",
        **MEMBER,
        status="DEACTIVATED",
        deactivatedTimestamp="2026-06-30T17:00:00Z",
        updatedTimestamp="2026-06-30T17:00:00Z",
    ),
    record(12, "nameless@acme.example", "nameless@acme.example", **GUEST),
    record(13, "Łukasz 王秀英 👩🏽‍💻", "łukasz@bücher.example", **MEMBER),
    record(
        14,
        "Mo Micro",
        "mo@acme.example",
        mfaMethods=["OTP"],
        mfaEnabled=True,
        lastLoginTimestamp="2026-11-01T23:59:59Z",
        lastPasswordResetTimestamp="2026-10-09T08:07:06Z",
    ),
    record(
        15,
        "Nia Zones",
        "nia@acme.example",
        createdTimestamp="2025-12-31T23:00:00Z",
        updatedTimestamp="2026-02-28T18:30:00Z",
        lastLoginTimestamp="2026-11-01T00:00:00Z",
        authMethod="SSO",
    ),
]


def test_what_arrives_equals_what_was_written_down_by_hand(parts: Parts) -> None:
    acme = parts.customer("acme", people=0)
    fill_with_telling_users(parts.sym, acme)
    [result] = parts.run("acme")
    assert result.failure is None
    body = parts.body(acme)
    assert set(body) == {"resourceId", "resources"}
    assert body["resourceId"] == parts.vanta.config.resource_id
    for received, expected in zip(body["resources"], EXPECTED, strict=True):
        assert received == expected
    [put] = parts.puts(acme)
    assert (put["status"], put["path"], put["method"]) == (200, "/v1/resources/user_account/sync_all", "PUT")
    assert parts.at_vanta(acme) == parts.at_sym(acme)


def test_what_is_recorded_of_an_accepted_push(parts: Parts) -> None:
    acme = parts.customer("acme", people=2)
    parts.person(acme, deactivated_at=ago(days=1))
    before = datetime.now(UTC)
    [result] = parts.run("acme")
    assert result.push is not None
    assert result.users is not None
    [put] = parts.puts(acme)
    recorded = result.push.recorded
    assert (recorded.users, recorded.active, recorded.deactivated) == (3, 2, 1)
    assert recorded.body_sha256 == put["sha256"] == result.push.body.sha256
    assert recorded.token_generation == parts.token(acme).generation == 1
    assert before < recorded.read_at == result.users.read_at < recorded.accepted_at
    assert (parts.outcome(acme), parts.intents(acme)) == ("accepted", ["accepted"])
    assert not parts.is_locked(acme)


# What each failure means. The healthy customers before and after the broken one are done each time.


def no_email(parts: Parts, organization: UUID) -> None:
    parts.person(organization, id=user_id(1), email=None)


def nobody_left(parts: Parts, organization: UUID) -> None:
    parts.sym.execute(
        "DELETE FROM identities USING users WHERE user_id = users.id AND organization_id = %s", organization
    )
    parts.sym.execute("DELETE FROM users WHERE organization_id = %s", organization)


def deleted(parts: Parts, organization: UUID) -> None:
    parts.sym.execute("UPDATE organizations SET deleted_at = now() WHERE id = %s", organization)


def infinite(parts: Parts, organization: UUID) -> None:
    parts.person(organization, id=user_id(2), created_at="infinity")


def at_vanta(kind: str, on: str = "put", **options: Any) -> Break:
    def switch_on(parts: Parts, organization: UUID) -> None:
        parts.vanta.fault(on, kind, tenant=str(organization), **options)

    return switch_on


def status(code: int, on: str = "put", **options: Any) -> Break:
    return at_vanta("status", on, status=code, **options)


def due_and(kind: Break) -> Break:
    def switch_on(parts: Parts, organization: UUID) -> None:
        parts.age_token(organization)
        kind(parts, organization)

    return switch_on


def moved_token(parts: Parts, organization: UUID) -> None:
    """Put another customer's ciphertext into the row, as a restore gone wrong would."""
    other = parts.customer("other")
    parts.ledger.execute(
        "UPDATE tokens SET access_token = o.access_token FROM tokens AS o"
        " WHERE tokens.organization_id = %s AND o.organization_id = %s",
        [organization, other],
    )


# name: what breaks, outcome, words of the sentence, PUTs that arrive, what becomes of the intents
FAILURES: dict[str, tuple[Break, AttemptOutcome, str, int, list[str | None]]] = {
    "missing e-mail": (no_email, "held", f"rule email (email) broken by 1: {user_id(1)}", 0, []),
    "empty organization": (nobody_left, "held", "rule nobody (user_id) broken by 0", 0, []),
    "deleted organization": (deleted, "held", "is deleted in Sym's database", 0, []),
    "not a time": (infinite, "held", f"rule time (created_at) broken by 1: {user_id(2)}", 0, []),
    "400 with an index": (
        status(400, body={"error": "resources[1].email: canary@person.example is no e-mail"}),
        "refused",
        "Vanta refused the body because of record 1, field email (400): users.id ",
        1,
        ["refused"],
    ),
    "400 with a strange index": (
        status(400, body={"error": "resources[7]: canary"}),
        "refused",
        "Vanta refused the body because of record 7 (400)",
        1,
        ["refused"],
    ),
    "403": (status(403), "refused", "wrong scope or application type", 1, ["refused"]),
    "404": (status(404), "refused", "VANTA_RESOURCE_ID", 1, ["refused"]),
    "redirect": (at_vanta("redirect"), "refused", "never followed", 1, ["refused"]),
    "success: false": (at_vanta("success_false"), "refused", "without saying that it accepted", 1, [None]),
    "some rejected": (at_vanta("rejected_some"), "refused", "rejected some records", 1, [None]),
    "no verdict": (at_vanta("no_verdict"), "refused", "without saying that it accepted", 1, [None]),
    "5xx": (status(503, times=9), "failing", "Vanta cannot answer now (503)", session.ATTEMPTS, [None]),
    "connection drops": (at_vanta("drop_before", times=9), "failing", "Vanta did not answer", session.ATTEMPTS, [None]),
    "5xx of the token endpoint": (
        due_and(status(500, "token", times=9)),
        "failing",
        "Vanta cannot answer now (500)",
        0,
        [],
    ),
    "revoked grant": (at_vanta("revoke"), "parked", "consent has to be given again", 1, ["refused"]),
    "moved token": (moved_token, "failing", "cannot be read", 0, []),
}


def test_a_failure_is_told_in_words_and_touches_nobody_else(parts: Parts, subtests: pytest.Subtests) -> None:
    """All of them in one run, so that each has others before and after it."""
    slugs = {name: re.sub(r"\W+", "-", name) for name in FAILURES}
    broken = {name: parts.customer(slug, people=2) for name, slug in slugs.items()}
    healthy = [parts.customer(slug) for slug in ("first", "last")]
    parts.bystanders(20)
    for name, (break_it, *_) in FAILURES.items():
        break_it(parts, broken[name])
    told = sentences(parts.run("first", *slugs.values(), "last"))
    struck = {fault["tenant"]: fault["fired"] for fault in parts.vanta.faults() if "tenant" in fault}
    for name, (_, outcome, words, puts, intents) in FAILURES.items():
        with subtests.test(name):
            failure, organization = told[slugs[name]], broken[name]
            assert failure is not None
            assert failure[0] == outcome == parts.outcome(organization)
            assert words in failure[1]
            assert len(parts.puts(organization)) == puts
            assert (parts.intents(organization), parts.accepted(organization)) == (intents, [])
            assert struck.get(str(organization), 1) > 0
    for organization in healthy:
        assert parts.at_vanta(organization) == parts.at_sym(organization) != {}
        assert parts.outcome(organization) == "accepted"


def test_every_kind_of_error_has_a_failure_that_shows_it() -> None:
    """Each row of the table is met by real means, in this file's table, or in a test below or in ``tests/custody``."""
    own_tests = {"SourceBrokeOff", "SourceUnavailable", "SourceStale", "ApplicationRefused", "LedgerError"}
    shown = {"RulesBroken", "SourceChanged", "OrganizationGone", "GrantRefused", "Permanent", "VantaError"}
    assert {kind.__name__ for kind in OUTCOME_BY_ERROR} == own_tests | shown
    assert set(OUTCOME_BY_ERROR.values()) | {"accepted", "busy"} == set(get_args(AttemptOutcome))


def test_a_400_names_the_user_at_that_place_of_the_body(parts: Parts) -> None:
    acme = parts.customer("acme", people=3)
    status(400, body={"error": "resources[2].email: canary"})(parts, acme)
    [result] = parts.run("acme")
    assert result.failure is not None
    assert result.failure.sentence.endswith(f": users.id {parts.body(acme)['resources'][2]['uniqueId']}")


def test_a_held_customer_keeps_its_last_good_state(parts: Parts) -> None:
    acme = parts.customer("acme", people=2)
    parts.run("acme")
    good = parts.at_vanta(acme)
    for break_it, rule in ((no_email, "email"), (nobody_left, "nobody")):
        break_it(parts, acme)
        [result] = parts.run("acme")
        assert [violation.rule for violation in result.row_violations] == [rule]
        assert parts.at_vanta(acme) == good
    assert len(parts.puts(acme)) == 1


def test_what_was_read_before_what_vanta_has_is_not_sent(parts: Parts) -> None:
    """As of two replicas of Sym's database, one of which lags: an older state must not replace a newer one."""
    acme = parts.customer("acme", people=2)
    parts.run("acme")
    good = parts.at_vanta(acme)
    parts.person(acme, email="canary9@acme.example")
    with parts.sync() as built:

        def read(organization_id: str) -> UsersSnapshot:
            fresh = built.read_users(organization_id)
            return dataclasses.replace(fresh, read_at=fresh.read_at - timedelta(minutes=4))

        [result] = map(clean, dataclasses.replace(built, read_users=read).results(["acme"]))
    assert result.failure is not None
    assert (result.failure.outcome, result.failure.kind) == ("held", "older_than_accepted")
    assert "older than what Vanta accepted last" in result.failure.sentence
    assert (len(parts.puts(acme)), parts.at_vanta(acme)) == (1, good)
    assert parts.intents(acme) == ["accepted"]
    parts.run("acme")
    assert parts.at_vanta(acme) == parts.at_sym(acme) != good


def test_a_source_that_is_away_and_back(parts: Parts, postgres: EmbeddedPostgres, sym_url: str) -> None:
    first, second = parts.customer("first"), parts.customer("second")
    with parts.sync() as built:
        results = built.results(["first", "second"])
        with refusing_connections(sym_url, postgres):
            failure = clean(next(results)).failure
        assert failure is not None
        assert failure.outcome == "failing"
        assert failure.sentence == "cannot connect to Sym's database (OperationalError): check SYM_DATABASE_URL"
        parts.sym.connection = psycopg.connect(sym_url, autocommit=True)
        assert next(results).failure is None
    assert parts.puts(first) == []
    assert parts.at_vanta(second) == parts.at_sym(second)
    parts.sym.connection.close()


def test_a_read_that_breaks_off_is_no_empty_read(parts: Parts, sym_url: str) -> None:
    broken, healthy = parts.customer("broken", people=3), parts.customer("healthy")
    with held(sym_url, "LOCK TABLE users IN ACCESS EXCLUSIVE MODE") as hold:

        def end_the_read() -> None:
            hold.until_somebody_waits("sym_users")
            assert hold.end_waiting() == [True]
            hold.release()

        with meanwhile(end_the_read):
            told = sentences(parts.run("broken", "healthy"))
    assert told == {
        "broken": ("held", "the read of Sym's database broke off (AdminShutdown 57P01)"),
        "healthy": None,
    }
    assert parts.puts(broken) == []
    assert parts.at_vanta(healthy) == parts.at_sym(healthy)


def test_a_ledger_that_goes_away_in_the_middle(parts: Parts, postgres: EmbeddedPostgres) -> None:
    organizations = [parts.customer(slug) for slug in ("first", "second", "third", "fourth")]
    with parts.sync() as built:
        results = built.results(["first", "second", "third", "fourth"])
        assert next(results).failure is None
        with refusing_connections(parts.ledger_url, postgres):
            for _ in ("second", "third"):
                failure = clean(next(results)).failure
                assert failure is not None
                assert failure.outcome == "failing"
                assert "the pipeline's own database" in failure.sentence
        assert next(results).failure is None
    parts.ledger = psycopg.connect(parts.ledger_url, autocommit=True)
    assert [len(parts.puts(o)) for o in organizations] == [1, 0, 0, 1]
    assert [parts.outcome(o) for o in organizations] == ["accepted", None, None, "accepted"]
    parts.ledger.close()


def test_an_accepted_push_that_cannot_be_recorded_is_known_as_possibly_applied(parts: Parts, symvanta_url: str) -> None:
    acme = parts.customer("acme")
    with held(symvanta_url, "LOCK TABLE accepted_snapshots IN EXCLUSIVE MODE") as hold:

        def end_the_ledgers_connection() -> None:
            hold.until_somebody_waits("INSERT INTO accepted_snapshots")
            assert hold.end_waiting() == [True]
            hold.release()

        with meanwhile(end_the_ledgers_connection):
            told = sentences(parts.run("acme"))
    assert told == {"acme": ("failing", "the pipeline's own database failed (AdminShutdown)")}
    assert parts.at_vanta(acme) == parts.at_sym(acme)
    assert (parts.intents(acme), parts.accepted(acme)) == ([None], [])
    parts.run("acme")
    assert parts.intents(acme) == ["superseded", "accepted"]


def test_an_unknown_customer_is_told(parts: Parts) -> None:
    assert sentences(parts.run("nobody-knows")) == {
        "nobody-knows": ("failing", "the ledger knows no such customer: connect it first")
    }


def test_an_unforeseen_error_is_told_without_its_text(parts: Parts) -> None:
    broken, healthy = parts.customer("broken"), parts.customer("healthy")

    def read(organization_id: str) -> Any:
        if organization_id == str(broken):
            raise RuntimeError("canary@person.example")
        return built.read_users(organization_id)

    with parts.sync() as built:
        results = [clean(r) for r in dataclasses.replace(built, read_users=read).results(["broken", "healthy"])]
    assert results[0].failure is not None
    assert results[0].failure.sentence.startswith("unexpected RuntimeError at test_sync.py:")
    assert parts.at_vanta(healthy) == parts.at_sym(healthy)


# No customer's token is ever used with another's body.


def swapped_session(built: sync.CustomerSync, other: UUID) -> sync.CustomerSync:
    destination = built.destination
    assert destination is not None
    planted = dataclasses.replace(destination, session=lambda _: destination.session(other))
    return dataclasses.replace(built, destination=planted)


def swapped_body(built: sync.CustomerSync, other: UUID) -> sync.CustomerSync:
    return dataclasses.replace(built, read_users=lambda _: built.read_users(str(other)))


def swapped_both(built: sync.CustomerSync, other: UUID) -> sync.CustomerSync:
    return swapped_body(swapped_session(built, other), other)


@pytest.mark.parametrize(
    ("swap", "words"),
    [
        (swapped_session, "met the session of"),
        (swapped_body, "rule organization (organization_id) broken by 2"),
        (swapped_both, "rule organization (organization_id) broken by 2"),
    ],
)
def test_a_swap_is_refused_before_anything_is_sent(
    parts: Parts, swap: Callable[..., sync.CustomerSync], words: str
) -> None:
    mine, other = parts.customer("mine"), parts.customer("other", people=2)
    with parts.sync() as built:
        [result] = map(clean, swap(built, other).results(["mine"]))
    assert result.failure is not None
    assert words in result.failure.sentence
    assert [parts.puts(o) for o in (mine, other)] == [[], []]
    assert parts.accepted(mine) == []
    assert None not in parts.intents(mine)


# The lock.


def test_a_busy_customer_is_come_back_to_after_the_others(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "BUSY_PAUSE", 0.02)
    busy, free = parts.customer("busy"), parts.customer("free")
    with parts.sync() as built:
        results = built.results(["busy", "free"])
        with customer_lock(parts.ledger_url, busy):
            assert next(results).customer == "free"
            assert parts.at_vanta(free) == parts.at_sym(free)
            assert parts.puts(busy) == []
        result = next(results)
    assert (result.customer, result.failure) == ("busy", None)
    assert parts.at_vanta(busy) == parts.at_sym(busy)


def test_a_lock_that_never_comes_free_fails_its_customer_alone(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "BUSY_FOR", 0.3)
    monkeypatch.setattr(sync, "BUSY_PAUSE", 0.02)
    busy, _ = parts.customer("busy"), parts.customer("free")
    with customer_lock(parts.ledger_url, busy):
        results = parts.run("busy", "free")
    assert [result.customer for result in results] == ["free", "busy"]
    failure = results[1].failure
    assert failure is not None
    assert failure.outcome == parts.outcome(busy) == "busy"
    assert "another run kept this customer busy" in failure.sentence
    assert parts.puts(busy) == []
    # Looking again and again at a busy lock must not eat everybody's rate budget.
    [(slots,)] = parts.ledger.execute("SELECT cardinality(slots) FROM rate_budgets WHERE name = 'resource'").fetchall()
    assert slots == 2 + 3  # a look and the push for each, and a read-back


def test_while_a_busy_customer_is_waited_for_the_other_run_may_do_it(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync, "BUSY_PAUSE", 0.02)
    busy, _ = parts.customer("busy"), parts.customer("free")
    tick = ago(seconds=1)
    with parts.sync(tick=tick) as built:
        results = built.results(["busy", "free"])
        with customer_lock(parts.ledger_url, busy):
            assert next(results).customer == "free"
        parts.run("busy", tick=tick)
        result = next(results)
    assert result.already is not None
    assert len(parts.puts(busy)) == 1


def test_a_long_wait_gives_the_lock_up_and_starts_again_from_the_read(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "_LOOK_EVERY", 0.05)
    acme = parts.customer("acme", people=2)
    parts.vanta.fault("put", "status", tenant=str(acme), status=429, retry_after=600)
    came: list[UUID] = []

    def use_the_wait() -> None:
        until(lambda: parts.puts(acme) and not parts.is_locked(acme), "the lock is given up")
        with customer_lock(parts.ledger_url, acme):  # another process can have it meanwhile
            came.append(parts.person(acme))
        parts.ledger.execute("UPDATE rate_budgets SET paused_until = now(), pauses = pauses + 1, slots = '{}'")

    with meanwhile(use_the_wait):
        [result] = parts.run("acme")
    assert result.failure is None
    assert [put["status"] for put in parts.puts(acme)] == [429, 200]
    assert str(came[0]) in {account["uniqueId"] for account in parts.body(acme)["resources"]}
    assert parts.at_vanta(acme) == parts.at_sym(acme)
    assert len(parts.accepted(acme)) == 1
    assert None not in parts.intents(acme)


def test_a_second_round_keeps_nothing_of_the_first(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """What broke between the two reads is what counts: no records of the first are shown or sent."""
    monkeypatch.setattr(budget, "_LOOK_EVERY", 0.05)
    acme = parts.customer("acme", people=2)
    parts.vanta.fault("put", "status", tenant=str(acme), status=429, retry_after=600)

    def break_it() -> None:
        until(lambda: parts.puts(acme) and not parts.is_locked(acme), "the lock is given up")
        no_email(parts, acme)
        parts.ledger.execute("UPDATE rate_budgets SET paused_until = now(), pauses = pauses + 1, slots = '{}'")

    with meanwhile(break_it):
        [result] = parts.run("acme")
    assert result.failure is not None
    assert result.failure.outcome == "held"
    assert result.accounts is None
    assert result.users is not None
    assert result.users.users == 3
    assert len(parts.puts(acme)) == 1


def test_a_customer_is_not_put_off_for_ever(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "LONGEST_WAIT", 0.0)
    acme = parts.customer("acme")
    parts.vanta.fault("put", "status", tenant=str(acme), status=429, retry_after=1, times=9)
    monkeypatch.setattr(sync, "ROUNDS", 2)
    assert sentences(parts.run("acme")) == {"acme": ("failing", "the rate budget put this customer off 2 times")}
    assert [put["status"] for put in parts.puts(acme)] == [429, 429]
    assert parts.intents(acme) == ["refused", "refused"]


def test_a_body_that_never_left_is_not_told_of_as_possibly_applied(
    parts: Parts, symvanta_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The budget is paused between the record of the intent and the PUT, which voids the slot that was kept for it."""
    monkeypatch.setattr(budget, "_LOOK_EVERY", 0.05)
    acme = parts.customer("acme")
    with held(symvanta_url, "LOCK TABLE intents IN EXCLUSIVE MODE") as hold:

        def pause_and_go_on() -> None:
            hold.until_somebody_waits("INSERT INTO intents")
            paused = "paused_until = now() + interval '10 minutes'"
            parts.ledger.execute(f"UPDATE rate_budgets SET {paused}, pauses = pauses + 1".encode())
            hold.release()
            until(lambda: parts.intents(acme) == ["not_sent"], "it is written down that nothing was sent")
            assert parts.puts(acme) == []
            parts.ledger.execute("UPDATE rate_budgets SET paused_until = now(), pauses = pauses + 1, slots = '{}'")

        with meanwhile(pause_and_go_on):
            [result] = parts.run("acme")
    assert result.failure is None
    assert parts.intents(acme) == ["not_sent", "accepted"]


def test_a_lock_that_is_lost_before_the_put_keeps_it_from_being_sent(parts: Parts, symvanta_url: str) -> None:
    lost, healthy = parts.customer("lost"), parts.customer("healthy")
    with held(symvanta_url, "LOCK TABLE intents IN EXCLUSIVE MODE") as hold:

        def end_the_locks_connection() -> None:
            hold.until_somebody_waits("INSERT INTO intents")
            assert parts.is_locked(lost)
            ended = parts.ledger.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
                " WHERE application_name = 'symvanta customer lock' AND datname = current_database()"
            )
            assert ended.fetchall() == [(True,)]
            hold.release()

        with meanwhile(end_the_locks_connection):
            told = sentences(parts.run("lost", "healthy"))
    assert told["lost"] == ("failing", f"organization {lost}: the connection of its lock is gone")
    assert (parts.puts(lost), told["healthy"]) == ([], None)
    assert parts.intents(lost) == ["not_sent"]
    assert parts.at_vanta(healthy) == parts.at_sym(healthy)


# The tick.


def test_who_was_read_since_the_tick_is_not_pushed_again(parts: Parts) -> None:
    done, _ = parts.customer("done"), parts.customer("open")
    tick = ago(minutes=1)
    [first] = parts.run("done")
    assert first.push is not None
    results = {r.customer: r for r in parts.run("done", "open", tick=tick)}
    assert results["done"].already == first.push.recorded
    assert (results["done"].push, results["done"].failure) == (None, None)
    assert results["open"].push is not None
    assert len(parts.puts(done)) == 1
    assert parts.outcome(done) == "accepted"


@pytest.mark.parametrize("tick", [None, "after the push"])
def test_a_persons_run_and_a_later_tick_push_again(parts: Parts, tick: str | None) -> None:
    acme = parts.customer("acme")
    parts.run("acme")
    [again] = parts.run("acme", tick=datetime.now(UTC) if tick else None)
    assert again.push is not None
    assert len(parts.puts(acme)) == 2


def test_who_reconnected_since_is_pushed_again(parts: Parts) -> None:
    acme = parts.customer("acme")
    tick = ago(minutes=1)
    parts.run("acme")
    parts.connect(acme, "acme")
    [again] = parts.run("acme", tick=tick)
    assert again.push is not None
    assert len(parts.puts(acme)) == 2


def test_equal_states_are_equal_bytes(parts: Parts) -> None:
    acme = parts.customer("acme", people=5)
    parts.run("acme")
    parts.run("acme")
    first, second = parts.puts(acme)
    assert parts.vanta.body(first["seq"]) == parts.vanta.body(second["seq"])


# Up to the records: nothing is sent, and no token is touched.


@pytest.mark.parametrize("reach", [Reach.READ, Reach.MAP])
@pytest.mark.parametrize("state", ["connected", "parked"])
def test_reading_and_mapping_send_nothing(
    parts: Parts, reach: Reach, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = parts.customer("acme", due=True)
    if state == "parked":
        assert connections.park(parts.ledger, acme, "refused", token_generation=1)
    for name in ("VANTA_CLIENT_ID", "VANTA_CLIENT_SECRET", "SYMVANTA_TOKEN_KEYS"):
        monkeypatch.delenv(name)  # what is not used need not be there
    with customer_lock(parts.ledger_url, acme):
        [result] = parts.run("acme", reach=reach)
    assert result.failure is None
    assert result.users is not None
    assert (result.accounts is None) == (reach is Reach.READ)
    assert [*parts.puts(acme), *parts.journal(acme, "token")] == []
    assert parts.outcome(acme) is None


@pytest.mark.parametrize("broken", [False, True])
def test_a_look_tells_how_the_latest_push_ended_whatever_it_finds_itself(parts: Parts, *, broken: bool) -> None:
    acme = parts.customer("acme")
    parts.run("acme")
    if broken:
        no_email(parts, acme)
    [result] = parts.run("acme", reach=Reach.MAP)
    assert (result.before, result.failure is None) == (Attempt("accepted", RUN_ID), not broken)
    assert parts.outcome(acme) == "accepted"


# What is written for people to look at.


def test_parquet_of_what_was_read_and_sent(parts: Parts) -> None:
    acme = parts.customer("acme", people=2)
    [result] = parts.run("acme")
    folder = parts.folder / "data"
    files = {
        name: folder / name / f"{acme}.parquet"
        for name in ("sym/users", "vanta/user_accounts", "vanta/user_account_sync")
    }
    assert {name: str(file) for name, file in files.items()} == result.files
    assert result.users is not None
    pd.testing.assert_frame_equal(pd.read_parquet(files["sym/users"]), result.users.frame, check_dtype=False)
    sent = pd.read_parquet(files["vanta/user_account_sync"])
    resources = parts.body(acme)["resources"]
    assert sent["uniqueId"].tolist() == [r["uniqueId"] for r in resources]
    assert sent["fullName"].tolist() == [r["fullName"] for r in resources]
    assert sent.equals(pd.read_parquet(files["vanta/user_accounts"]))
    for file in files.values():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        assert list(file.parent.iterdir()) == [file]

    parts.sym.execute("UPDATE users SET name = 'Canary Renamed'")
    parts.run("acme")
    for name, file in files.items():
        frame = pd.read_parquet(file)
        assert set(frame["name" if name == "sym/users" else "fullName"]) == {"Canary Renamed"}
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert list(file.parent.iterdir()) == [file]


def test_what_was_not_sent_is_not_written_as_sent(parts: Parts) -> None:
    acme = parts.customer("acme")
    status(403)(parts, acme)
    [result] = parts.run("acme")
    assert set(result.files) == {"sym/users", "vanta/user_accounts"}
    assert not (parts.folder / "data/vanta/user_account_sync").exists()


@pytest.mark.parametrize(
    ("url", "error"), [("file/data", "NotADirectoryError"), ("nosuchstore://bucket", "ValueError")]
)
def test_a_folder_that_cannot_be_written_is_a_warning_only(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, url: str, error: str
) -> None:
    acme = parts.customer("acme")
    (parts.folder / "file").touch()
    monkeypatch.setenv("SYMVANTA_DATA_URL", url)
    [result] = parts.run("acme")
    assert result.failure is None
    assert result.warnings == [
        f"{asset} could not be written below SYMVANTA_DATA_URL ({error})"
        for asset in ("sym/users", "vanta/user_accounts", "vanta/user_account_sync")
    ]
    assert parts.at_vanta(acme) == parts.at_sym(acme)
    assert parts.outcome(acme) == "accepted"


def test_two_people_with_one_address_are_both_sent_with_a_warning(parts: Parts) -> None:
    acme = parts.customer("acme", people=0)
    pair = sorted(str(parts.person(acme, email=f"{word}@acme.example")) for word in ("canary", "CANARY"))
    [result] = parts.run("acme")
    assert result.warnings == [
        f"1 e-mail addresses are shared by several users, all of them sent: {pair[0]} and {pair[1]}"
    ]
    assert set(parts.at_vanta(acme)) == set(pair)


def test_the_watch_for_names_and_secrets_catches_them() -> None:
    for said in ("Canary Person", "canary0@acme.example", "vat_" + "x" * 43, "vrt_" + "y-" * 20, "vcs_canary_9f2b"):
        with pytest.raises(AssertionError):
            clean(CustomerResult("acme", Reach.PUSH, warnings=[f"so {said}"]))
    assert not CANARY.search("vat_")
