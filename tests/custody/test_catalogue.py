"""Every way known in which a customer's token could be lost, used twice, used for somebody else or mourned too early.

Numbered, in one order from the everyday to the disaster; each against the real stand-in and a real PostgreSQL, with
workers that are real processes where two meet, and all of it under the watch for leaks (``conftest``). A worker is
stopped at exactly one place by a lock that the test holds on what its next statement needs.
"""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any
from uuid import UUID

import dagster as dg
import psycopg
import pytest
import requests
from dagster._core.definitions.schedule_definition import ScheduleExecutionData
from dagster._grpc.impl import get_external_schedule_execution

from symvanta_pipeline import token_store
from symvanta_pipeline.connect.consent import Departure
from symvanta_pipeline.connect.office import leaving_desk
from symvanta_pipeline.connect.standing import standing_of
from symvanta_pipeline.definitions import defs
from symvanta_pipeline.ledger import connections, snapshots
from symvanta_pipeline.ledger.live_connection import LiveConnection
from symvanta_pipeline.ledger.locks import CustomerLock
from symvanta_pipeline.ledger.vault import Vault
from symvanta_pipeline.sandbox.postgres import EmbeddedPostgres
from symvanta_pipeline.sandbox.vanta.journal import fingerprint
from symvanta_pipeline.sandbox.vanta.oauth import READ, WRITE
from symvanta_pipeline.vanta import budget, oauth, session
from symvanta_pipeline.vanta.oauth import LONGEST_LIFETIME, Application
from symvanta_pipeline.vanta.session import ATTEMPTS
from tests.defs.test_sensor import asked, consent, evaluate
from tests.support.parts import (
    CLIENT_SECRET,
    KEYS,
    Hold,
    Parts,
    held,
    meanwhile,
    refusing_connections,
    sentences,
    until,
)
from tests.support.runs import launch, register, stretch

OwnStandIn = Callable[..., Any]
Start = Callable[..., Any]
Act = Callable[[Parts, UUID], object]

REFUSED_GRANT = "Vanta refused the grant (invalid_grant): consent has to be given again"
REFUSED_APPLICATION = (
    "Vanta refused our own application (invalid_client): check VANTA_CLIENT_ID and VANTA_CLIENT_SECRET"
)
TO_RECONNECT = "Connected, but the permission is not enough any more"
LOST_LOCK = "the connection of its lock is gone"


def left(parts: Parts, organization: UUID, **life: float) -> None:
    """Let the stored access token have just so much of its life left."""
    parts.ledger.execute(
        "UPDATE tokens SET expires_at = %s WHERE organization_id = %s",
        [datetime.now(UTC) + timedelta(**life), organization],
    )


def calls(parts: Parts, organization: UUID) -> list[tuple[str, int | None]]:
    """List what was asked of the stand-in for a customer since consent, and its answers; None is a lost one."""
    entries = [*parts.journal(organization, "token"), *parts.journal(organization, "put")]
    in_order = sorted(entries, key=lambda entry: int(entry["seq"]))
    return [("refresh" if entry["endpoint"] == "token" else "put", entry["status"]) for entry in in_order]


def fault(parts: Parts, organization: UUID, on: str, kind: str, **options: Any) -> None:
    parts.vanta.fault(on, kind, tenant=str(organization), **options)


def fired(parts: Parts, organization: UUID) -> list[int]:
    return [switch["fired"] for switch in parts.vanta.faults() if switch.get("tenant") == str(organization)]


def works(parts: Parts, organization: UUID) -> None:
    """Check that nothing was lost: what is stored still keeps the customer connected."""
    stored = parts.token(organization).refresh_token
    assert parts.vanta.token(grant_type="refresh_token", refresh_token=stored).status_code == 200


def sent_with_what_is_stored(parts: Parts, organization: UUID) -> bool:
    latest: str = parts.puts(organization)[-1]["token_fingerprint"]
    return latest == fingerprint(parts.token(organization).access_token)


def put_one(parts: Parts, organization: UUID, before_send: Callable[[], object] = lambda: None) -> int:
    """Make one PUT in a session of its own, without the customer's lock; return the generation of its token."""
    body = json.dumps({"resourceId": parts.vanta.config.resource_id, "resources": []}).encode()

    def look() -> None:
        before_send()

    with parts.sync() as built:
        assert built.destination is not None
        of_its_own = built.destination.session(organization)
        return of_its_own.call("PUT", built.destination.path, payload=body, before_send=look)[1].generation


# Where a worker is stopped: the tables that the test locks, one after the other, and the statement that then waits.
STOPS = {
    "before the load": [("intents", "INSERT INTO intents")],
    "before the refresh": [("intents", "INSERT INTO intents"), ("rate_budgets", "UPDATE rate_budgets")],
    "before the save": [("tokens", "UPDATE tokens")],
    "before the put": [("tokens", "UPDATE tokens"), ("rate_budgets", "UPDATE rate_budgets")],
}


@contextmanager
def stopped(parts: Parts, start: Start, place: str) -> Iterator[tuple[Any, Hold]]:
    """Start a worker that pushes for acme, and yield it where it is stopped, with the lock that stops it."""
    with ExitStack() as stack:
        worker, holds = None, list[Hold]()
        for table, statement in STOPS[place]:
            holds.append(stack.enter_context(held(parts.ledger_url, f"LOCK TABLE {table} IN EXCLUSIVE MODE")))
            worker = worker or start("acme")
            for passed in holds[:-1]:
                passed.release()
            holds[-1].until_somebody_waits(statement)
        yield worker, holds[-1]


# 1 to 3: when a token is refreshed.


@pytest.mark.parametrize("life", [{"hours": 1}, {"minutes": 5, "seconds": 20}], ids=["new", "outside the margin"])
def test_01_a_token_that_is_still_good_is_not_refreshed(parts: Parts, life: dict[str, float]) -> None:
    acme = parts.customer("acme", known=True)
    left(parts, acme, **life)
    assert sentences(parts.run("acme")) == {"acme": None}
    assert calls(parts, acme) == [("put", 200)]
    assert parts.token(acme).generation == 1


@pytest.mark.parametrize("life", [{"minutes": 4, "seconds": 59}, {"seconds": 0}, {"hours": -3}], ids=str)
def test_02_a_token_inside_the_margin_is_refreshed_once_and_saved_before_its_first_use(
    parts: Parts, life: dict[str, float]
) -> None:
    acme = parts.customer("acme", known=True)
    old = parts.token(acme)
    left(parts, acme, **life)
    at_send: list[tuple[int, list[tuple[str, int | None]]]] = []

    def look() -> None:
        # Over another connection than the session's: what it sees is committed.
        at_send.append((parts.token(acme).generation, calls(parts, acme)))

    used = put_one(parts, acme, look)
    saved = parts.token(acme)
    assert at_send == [(2, [("refresh", 200)])]
    assert used == saved.generation == 2
    assert sent_with_what_is_stored(parts, acme)
    assert (saved.access_token != old.access_token, saved.refresh_token != old.refresh_token) == (True, True)
    assert saved.expires_at - datetime.now(UTC) > timedelta(minutes=55)
    assert sentences(parts.run("acme")) == {"acme": None}
    assert calls(parts, acme) == [("refresh", 200), ("put", 200), ("put", 200)]


def test_03_a_refused_access_token_is_refreshed_once_and_the_same_bytes_sent_again(parts: Parts) -> None:
    acme = parts.customer("acme", known=True)
    fault(parts, acme, "put", "status", status=401)
    assert sentences(parts.run("acme")) == {"acme": None}
    assert fired(parts, acme) == [1]
    assert calls(parts, acme) == [("put", 401), ("refresh", 200), ("put", 200)]
    first, second = parts.puts(acme)
    assert first["sha256"] == second["sha256"]
    assert first["token_fingerprint"] != second["token_fingerprint"]
    assert sent_with_what_is_stored(parts, acme)


def test_03_a_second_refusal_of_the_access_token_fails_without_a_loop(parts: Parts) -> None:
    acme = parts.customer("acme", known=True)
    fault(parts, acme, "put", "status", status=401, times=99)
    assert sentences(parts.run("acme")) == {
        "acme": ("refused", "Vanta refused the customer's access token (401)"),
    }
    assert fired(parts, acme) == [2]
    assert calls(parts, acme) == [("put", 401), ("refresh", 200), ("put", 401)]
    assert parts.state(acme) == "connected"


def test_03_a_second_refusal_after_the_lock_was_given_up_in_between_is_the_second_all_the_same(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "LONGEST_WAIT", 0.0)
    acme = parts.customer("acme", known=True)
    fault(parts, acme, "put", "status", status=401)
    fault(parts, acme, "put", "status", status=429, retry_after=1)
    fault(parts, acme, "put", "status", status=401, times=99)
    told = sentences(parts.run("acme"))["acme"]
    assert told is not None
    assert told[0] == "refused"
    assert calls(parts, acme) == [("put", 401), ("refresh", 200), ("put", 429), ("put", 401)]


def test_03_a_refused_access_token_that_a_person_renewed_is_not_renewed_again(parts: Parts) -> None:
    acme = parts.customer("acme", known=True)
    once = iter([acme])
    assert put_one(parts, acme, lambda: [parts.connect(whose, "acme") for whose in once]) == 2
    assert calls(parts, acme) == [("put", 401), ("put", 200)]


# 4 to 6: what is lost after Vanta has rotated.


@pytest.mark.parametrize(
    ("kind", "delay"), [("drop_after", 0), ("no_access_token", 0), ("invalid_json", 0), ("slow", 2)]
)
def test_04_a_reply_that_was_lost_after_the_rotation_is_asked_for_again_with_the_stored_token(
    parts: Parts, kind: str, delay: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if delay:
        monkeypatch.setattr(oauth, "TIMEOUT", (5.0, 1.0))
    acme = parts.customer("acme", due=True, known=True)
    fault(parts, acme, "token", kind, delay=delay)
    assert sentences(parts.run("acme")) == {"acme": None}
    assert fired(parts, acme) == [1]
    assert [call for call, _ in calls(parts, acme)] == ["refresh", "refresh", "put"]
    assert parts.token(acme).generation == 2
    assert sent_with_what_is_stored(parts, acme)
    works(parts, acme)


def test_04_replies_lost_for_a_whole_run_are_recovered_by_the_next_one(parts: Parts) -> None:
    acme = parts.customer("acme", due=True, known=True)
    stored = parts.token(acme)
    fault(parts, acme, "token", "drop_after", times=ATTEMPTS)
    assert sentences(parts.run("acme")) == {"acme": ("failing", "Vanta did not answer (ConnectionError)")}
    assert fired(parts, acme) == [ATTEMPTS]
    assert (parts.token(acme).refresh_token, parts.state(acme)) == (stored.refresh_token, "connected")
    assert sentences(parts.run("acme")) == {"acme": None}
    assert parts.token(acme).generation == 2
    works(parts, acme)


def test_04_outside_of_the_grace_window_the_customer_is_parked_once_with_the_reason(
    parts: Parts, stand_in_with: OwnStandIn
) -> None:
    with stand_in_with(refresh_grace_seconds=0.0):
        acme = parts.customer("acme", due=True, known=True)
        fault(parts, acme, "token", "drop_after")
        assert sentences(parts.run("acme")) == {"acme": ("parked", REFUSED_GRANT)}
        assert fired(parts, acme) == [1]
        assert calls(parts, acme) == [("refresh", None), ("refresh", 400)]
        parked = connections.find(parts.ledger, acme)
        assert parked is not None
        assert (parked.state, parked.parked_reason) == ("parked", REFUSED_GRANT)
        parts.run("acme")
        assert len(calls(parts, acme)) == 2
        assert connections.find(parts.ledger, acme) == parked


@pytest.mark.parametrize(
    ("place", "generation", "refreshes"), [("before the save", 1, 2), ("before the put", 2, 1)], ids=["reply", "save"]
)
def test_05_a_worker_that_was_killed_after_the_rotation_costs_no_connection(
    parts: Parts, start: Start, place: str, generation: int, refreshes: int
) -> None:
    acme = parts.customer("acme", due=True, known=True)
    with stopped(parts, start, place) as (worker, hold):
        assert (calls(parts, acme), parts.token(acme).generation) == ([("refresh", 200)], generation)
        worker.kill()
        assert hold.end_waiting() == [True]
    until(lambda: not parts.is_locked(acme), "the dead worker's lock is free")
    assert sentences(parts.run("acme")) == {"acme": None}
    assert calls(parts, acme) == [("refresh", 200)] * refreshes + [("put", 200)]
    assert parts.token(acme).generation == 2
    works(parts, acme)


@contextmanager
def outage_between_reply_and_save(parts: Parts, postgres: EmbeddedPostgres, until_seen: str) -> Iterator[None]:
    """Take the database away once Vanta has rotated, and bring it back once this was logged."""
    said = Said(until_seen)
    with held(parts.ledger_url, "LOCK TABLE tokens IN EXCLUSIVE MODE") as tokens:

        def take_it_away() -> None:
            tokens.until_somebody_waits("UPDATE tokens")
            with refusing_connections(parts.ledger_url, postgres):
                until(said.enough, f"{until_seen!r} is logged")

        with said, meanwhile(take_it_away):
            yield
    parts.ledger = psycopg.connect(parts.ledger_url, autocommit=True)


class Said(logging.Handler):
    """Waits for a message of the token store's."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self.words = words
        self.levels: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if self.words in record.getMessage():
            self.levels.append(record.levelname)

    def enough(self) -> bool:
        return bool(self.levels)

    def __enter__(self) -> None:
        token_store.log.addHandler(self)

    def __exit__(self, *_: object) -> None:
        token_store.log.removeHandler(self)


def test_06_while_the_database_is_away_a_refreshed_token_waits_for_it_and_is_then_used(
    parts: Parts, postgres: EmbeddedPostgres, caplog: pytest.LogCaptureFixture
) -> None:
    """The session alone, without the customer's lock, which the outage takes away from a run: see the next one."""
    acme = parts.customer("acme", due=True, known=True)
    with outage_between_reply_and_save(parts, postgres, "cannot be saved yet, attempt 3"):
        used = put_one(parts, acme)
    assert calls(parts, acme) == [("refresh", 200), ("put", 200)]
    assert used == parts.token(acme).generation == 2
    assert sent_with_what_is_stored(parts, acme)
    loud = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    for attempt in (1, 2, 3):
        told = f"organization {acme}: a refreshed token cannot be saved yet, attempt {attempt}: "
        assert any(message.startswith(told) for message in loud)
    parts.ledger.close()


def test_06_a_run_saves_what_it_refreshed_and_leaves_the_put_to_the_next_one_since_its_lock_is_gone(
    parts: Parts, postgres: EmbeddedPostgres
) -> None:
    acme = parts.customer("acme", due=True, known=True)
    with outage_between_reply_and_save(parts, postgres, "cannot be saved yet, attempt 1"):
        told = sentences(parts.run("acme"))
    assert told == {"acme": ("failing", f"organization {acme}: {LOST_LOCK}")}
    assert (calls(parts, acme), parts.token(acme).generation) == ([("refresh", 200)], 2)
    assert sentences(parts.run("acme")) == {"acme": None}
    assert calls(parts, acme) == [("refresh", 200), ("put", 200)]
    assert sent_with_what_is_stored(parts, acme)
    parts.ledger.close()


def test_06_a_database_that_refuses_the_save_for_any_other_reason_is_asked_again_too(parts: Parts) -> None:
    """As one that takes no writes for a while: after a failover, or with its disk full."""
    acme = parts.customer("acme", due=True, known=True)
    refuse = """
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN RAISE EXCEPTION ''read-only'' USING ERRCODE = ''read_only_sql_transaction''; END';
        CREATE TRIGGER refuse BEFORE UPDATE ON tokens EXECUTE FUNCTION refuse()
    """
    said = Said("cannot be saved yet, attempt 2")
    with held(parts.ledger_url, "LOCK TABLE tokens IN SHARE ROW EXCLUSIVE MODE") as tokens:

        def refuse_for_a_while() -> None:
            tokens.until_somebody_waits("UPDATE tokens")
            tokens.connection.execute(refuse.encode())
            tokens.connection.commit()
            try:
                until(said.enough, "the save was refused twice")
            finally:
                parts.ledger.execute("DROP FUNCTION refuse CASCADE")

        with said, meanwhile(refuse_for_a_while):
            assert sentences(parts.run("acme")) == {"acme": None}
    assert said.levels == ["WARNING"]
    assert calls(parts, acme) == [("refresh", 200), ("put", 200)]
    assert parts.token(acme).generation == 2


def test_06_beyond_the_time_that_a_save_is_tried_for_the_next_run_recovers_with_the_stored_token(
    parts: Parts, postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_store, "SAVE_FOR", 0.2)
    acme = parts.customer("acme", due=True, known=True)
    with outage_between_reply_and_save(parts, postgres, "could not be saved for"):
        told = sentences(parts.run("acme"))["acme"]
    assert told is not None
    assert told[0] == "failing"
    assert "a refreshed token could not be saved for" in told[1]
    assert "within three hours" in told[1]
    assert (parts.token(acme).generation, parts.state(acme)) == (1, "connected")
    assert sentences(parts.run("acme")) == {"acme": None}
    assert calls(parts, acme) == [("refresh", 200), ("refresh", 200), ("put", 200)]
    works(parts, acme)
    parts.ledger.close()


# 7 to 10: two at once.


def test_07_two_processes_at_once_make_exactly_one_token_call(parts: Parts, start: Start) -> None:
    acme = parts.customer("acme", due=True, known=True)
    with held(parts.ledger_url, "LOCK TABLE rate_budgets IN ACCESS EXCLUSIVE MODE") as slots:
        workers = [start("acme"), start("acme")]
        until(lambda: len(slots.waiting("rate_budgets")) == 2, "both stand at the same place")
    assert [worker.ended()["generation"] for worker in workers] == [2, 2]
    # The watch reads what they logged; there is something to read.
    assert sum("POST /oauth/token" in worker.log.read_text() for worker in workers) == 1
    assert sorted(calls(parts, acme)) == [("put", 200), ("put", 200), ("refresh", 200)]
    assert parts.token(acme).generation == 2


def test_07_without_the_lock_two_processes_would_make_two(parts: Parts, start: Start) -> None:
    acme = parts.customer("acme", due=True, known=True)
    with held(parts.ledger_url, "LOCK TABLE rate_budgets IN ACCESS EXCLUSIVE MODE") as slots:
        workers = [start(str(acme), work="call"), start(str(acme), work="call")]
        until(lambda: len(slots.waiting("rate_budgets")) == 2, "both stand at the same place")
    for worker in workers:
        worker.ended()  # each may end the other's access token again and again
    assert len(parts.journal(acme, "token")) > 1
    works(parts, acme)  # even so, nothing is lost


def take_the_lock_away(parts: Parts) -> None:
    """End the connection that a worker's lock is held by, as the database does with a peer that is gone."""
    ended = parts.ledger.execute(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
        " WHERE application_name = 'symvanta customer lock' AND datname = current_database()"
    )
    assert ended.fetchall() == [(True,)]


def test_08_a_stalled_holder_that_wakes_up_cannot_overwrite_a_newer_generation_nor_send(
    parts: Parts, start: Start
) -> None:
    """It stalls with Vanta's reply in its hands, and the database gives up on its connections."""
    acme = parts.customer("acme", due=True, known=True)
    with stopped(parts, start, "before the save") as (stalled, hold):
        stalled.stall()
        assert hold.end_waiting() == [True]
        take_the_lock_away(parts)
    parts.person(acme)
    assert start("acme").ended() == {"outcome": "accepted", "sentence": "", "generation": 2}
    newer = parts.token(acme)
    stalled.go_on()
    lost = {"outcome": "failing", "sentence": f"organization {acme}: {LOST_LOCK}", "generation": None}
    assert stalled.ended() == lost
    assert parts.token(acme) == newer
    assert calls(parts, acme) == [("refresh", 200), ("refresh", 200), ("put", 200)]
    assert parts.at_vanta(acme) == parts.at_sym(acme)
    works(parts, acme)


def test_08_a_stalled_holder_with_an_older_body_in_its_hands_does_not_send_it(parts: Parts, start: Start) -> None:
    acme = parts.customer("acme", due=True, known=True)
    with stopped(parts, start, "before the put") as (stalled, hold):
        stalled.stall()
        assert hold.end_waiting() == [True]
        take_the_lock_away(parts)
    parts.person(acme)
    assert start("acme").ended()["outcome"] == "accepted"
    stalled.go_on()
    assert stalled.ended()["sentence"] == f"organization {acme}: {LOST_LOCK}"
    assert calls(parts, acme) == [("refresh", 200), ("put", 200)]
    assert parts.at_vanta(acme) == parts.at_sym(acme)


def test_09_a_late_loser_that_vanta_refuses_finds_the_newer_token_and_uses_it(
    parts: Parts, stand_in_with: OwnStandIn, start: Start
) -> None:
    """Without the customer's lock, under which there is no such loser."""
    with stand_in_with(refresh_grace_seconds=0.0):
        acme = parts.customer("acme", due=True, known=True)
        with held(parts.ledger_url, "LOCK TABLE rate_budgets IN ACCESS EXCLUSIVE MODE") as slots:
            late = start(str(acme), work="call")
            slots.until_somebody_waits("rate_budgets")
            late.stall()
        assert start(str(acme), work="call").ended() == {"status": 200, "generation": 2}
        late.go_on()
        assert late.ended() == {"status": 200, "generation": 2}
        assert calls(parts, acme) == [("refresh", 200), ("put", 200), ("refresh", 400), ("put", 200)]
        assert (parts.state(acme), parts.token(acme).generation) == ("connected", 2)


def test_09_a_late_loser_that_has_lost_its_lock_parks_nobody_and_does_not_send(
    parts: Parts, stand_in_with: OwnStandIn, start: Start
) -> None:
    with stand_in_with(refresh_grace_seconds=0.0):
        acme = parts.customer("acme", due=True, known=True)
        with stopped(parts, start, "before the refresh") as (late, _):
            late.stall()
            take_the_lock_away(parts)
        assert start("acme").ended()["generation"] == 2
        late.go_on()
        assert late.ended()["sentence"] == f"organization {acme}: {LOST_LOCK}"
        assert calls(parts, acme) == [("refresh", 200), ("put", 200), ("refresh", 400)]
        assert (parts.state(acme), parts.token(acme).generation) == ("connected", 2)


@pytest.mark.parametrize(
    ("place", "expected", "generation"),
    [
        ("before the load", [("put", 200)], 2),
        ("before the refresh", [("refresh", 400), ("put", 200)], 2),
        ("before the save", [("refresh", 200), ("put", 200)], 2),
        ("before the put", [("refresh", 200), ("put", 401), ("put", 200)], 3),
    ],
)
def test_10_a_reconnect_during_a_run_wins_over_it(
    parts: Parts,
    start: Start,
    instance: dg.DagsterInstance,
    place: str,
    *,
    expected: list[tuple[str, int]],
    generation: int,
) -> None:
    acme = parts.customer("acme", due=True, known=True)
    with stopped(parts, start, place) as (worker, hold):
        connected = parts.connect(acme, "acme", ledger=hold.connection)
        hold.connection.commit()
    assert worker.ended() == {"outcome": "accepted", "sentence": "", "generation": generation}
    assert calls(parts, acme) == expected
    assert sent_with_what_is_stored(parts, acme)
    assert connections.find(parts.ledger, acme) == connected
    assert connected.state == "connected"
    is_given_its_first_sync(parts, instance, acme)
    works(parts, acme)


def is_given_its_first_sync(parts: Parts, instance: dg.DagsterInstance, organization: UUID) -> None:
    """Check that a consent which an older attempt outlived is waited for, asked for, and then told as accepted."""
    register(instance, "acme")
    assert page(parts, organization) == "Connected: first sync is running"
    assert asked(evaluate(instance)) == {"acme": consent(parts, organization)}
    assert sentences(parts.run("acme")) == {"acme": None}
    assert asked(evaluate(instance)) == {}
    assert page(parts, organization) == "Connected: first sync accepted"


def page(parts: Parts, organization: UUID) -> str:
    """Return the title that the customer's admin reads."""
    return standing_of(snapshots.customer_record(parts.ledger, organization), datetime.now(UTC)).title


def test_10_a_reconnect_at_the_very_moment_of_parking_is_not_parked(parts: Parts, instance: dg.DagsterInstance) -> None:
    acme = parts.customer("acme", known=True)
    assert sentences(parts.run("acme")) == {"acme": None}
    fault(parts, acme, "put", "revoke")
    with held(parts.ledger_url, "SELECT FROM connections FOR NO KEY UPDATE") as hold:

        def reconnect() -> None:
            # The refused one stands before the row that parking it needs; the person's consent comes first.
            hold.until_somebody_waits("SELECT FROM connections")
            parts.connect(acme, "acme", ledger=hold.connection)
            hold.connection.commit()

        with meanwhile(reconnect):
            told = sentences(parts.run("acme"))
    assert told == {"acme": ("parked", REFUSED_GRANT)}
    assert fired(parts, acme) == [1]
    assert (parts.state(acme), parts.outcome(acme)) == ("connected", "parked")
    # That outcome is younger than the consent, and yet says nothing of it.
    is_given_its_first_sync(parts, instance, acme)


def test_10_a_disconnect_and_a_quick_reconnect_while_a_run_ends_are_followed_by_a_first_sync(
    parts: Parts, start: Start, instance: dg.DagsterInstance
) -> None:
    acme = parts.customer("acme", due=True, known=True)
    with (
        stopped(parts, start, "before the save") as (worker, hold),
        held(parts.ledger_url, "LOCK TABLE outcomes IN EXCLUSIVE MODE") as end,
    ):
        worker.stall()
        leave(acme, hold)
        worker.go_on()
        end.until_somebody_waits("INSERT INTO outcomes")
        parts.connect(acme, "acme")
    assert worker.ended()["outcome"] == "parked"
    assert (parts.state(acme), parts.outcome(acme)) == ("connected", "parked")
    is_given_its_first_sync(parts, instance, acme)


# 11 to 13: what a reply may say.


def test_11_a_reply_without_a_refresh_token_keeps_the_one_before(parts: Parts) -> None:
    acme = parts.customer("acme", due=True, known=True)
    old = parts.token(acme)
    fault(parts, acme, "token", "no_refresh_token")
    assert sentences(parts.run("acme")) == {"acme": None}
    assert fired(parts, acme) == [1]
    kept = parts.token(acme)
    assert (kept.refresh_token, kept.generation) == (old.refresh_token, 2)
    assert kept.access_token != old.access_token
    works(parts, acme)


LIFETIMES: dict[str, dict[str, Any]] = {
    "missing": {},
    "a string": {"value": "3600"},
    "no number": {"value": "abc"},
    "empty": {"value": ""},
    "zero": {"value": 0},
    "negative": {"value": -3600},
    "huge": {"value": 1e12},
    "infinite": {"value": "Infinity"},
    "not a number": {"value": "NaN"},
    "true": {"value": True},
    "null": {"value": None},
    "a list": {"value": [3600]},
}


def test_12_no_expires_in_breaks_a_run_or_makes_it_refresh_each_time(parts: Parts, subtests: pytest.Subtests) -> None:
    """All of them in one run; a token is never trusted for more than a day, nor for less than the reply must mean."""
    odd = {name: parts.customer(name.replace(" ", "-"), due=True) for name in LIFETIMES}
    for name, organization in odd.items():
        fault(parts, organization, "token", "expires_in", **LIFETIMES[name])
    slugs = [name.replace(" ", "-") for name in odd]
    first, second = sentences(parts.run(*slugs)), sentences(parts.run(*slugs))
    for name, organization in odd.items():
        with subtests.test(name):
            assert first[name.replace(" ", "-")] is second[name.replace(" ", "-")] is None
            assert fired(parts, organization) == [1]
            assert calls(parts, organization) == [("refresh", 200), ("put", 200), ("put", 200)]
            life = (parts.token(organization).expires_at - datetime.now(UTC)).total_seconds()
            assert 3500 < life <= LONGEST_LIFETIME


def spoilt(body: object) -> Act:
    """Answer 200 with this in the place of tokens; nothing is rotated."""

    def switch_on(parts: Parts, organization: UUID) -> None:
        fault(parts, organization, "token", "status", status=200, body=body, times=99)

    return switch_on


def after_rotation(kind: str) -> Act:
    return lambda parts, organization: fault(parts, organization, "token", kind, times=99)


NO_TOKENS: dict[str, Act] = {
    "no-access-token": after_rotation("no_access_token"),
    "cut-short": after_rotation("invalid_json"),
    "empty-access-token": spoilt({"access_token": "", "refresh_token": "vrt_x", "expires_in": 3600}),
    "null-access-token": spoilt({"access_token": None, "refresh_token": "vrt_x", "expires_in": 3600}),
    "number-access-token": spoilt({"access_token": 7, "refresh_token": "vrt_x", "expires_in": 3600}),
    "error-alone": spoilt({"error": "invalid_grant"}),
    "html": lambda parts, organization: fault(parts, organization, "token", "html", status=200, times=99),
    "list": spoilt([{"access_token": "vat_x"}]),
    "text": spoilt("vat_x"),
    "nothing": spoilt(""),
}


def test_13_a_200_without_an_access_token_is_neither_used_nor_the_end_of_the_connection(
    parts: Parts, subtests: pytest.Subtests
) -> None:
    odd = {slug: parts.customer(slug, due=True, known=True) for slug in NO_TOKENS}
    parts.bystanders(100)
    stored = {slug: parts.token(organization) for slug, organization in odd.items()}
    for slug, organization in odd.items():
        NO_TOKENS[slug](parts, organization)
    first = sentences(parts.run(*odd))
    struck = {slug: fired(parts, organization) for slug, organization in odd.items()}
    kept = {slug: parts.token(organization) for slug, organization in odd.items()}
    parts.vanta.clear_faults()
    second = sentences(parts.run(*odd))
    for slug, organization in odd.items():
        with subtests.test(slug):
            assert first[slug] == ("failing", "Vanta's token endpoint answered 200 without an access token")
            assert struck[slug] == [ATTEMPTS]
            assert kept[slug] == stored[slug]
            assert second[slug] is None
            assert calls(parts, organization) == [("refresh", 200)] * (ATTEMPTS + 1) + [("put", 200)]
            assert parts.state(organization) == "connected"


@pytest.mark.parametrize("odd", [{"error": "slow_down"}, {"expires_in": float("nan")}, {"token_type": "mac"}], ids=str)
def test_13_a_reply_with_tokens_and_something_odd_beside_them_is_saved_and_used(
    parts: Parts, odd: dict[str, Any]
) -> None:
    """By then the grant is rotated: to drop such a reply would be to lose the token."""
    acme = parts.customer("acme", due=True, known=True)
    reply = parts.vanta.token(grant_type="refresh_token", refresh_token=parts.token(acme).refresh_token).json() | odd
    # As text, since NaN is no JSON, although Python's own parser takes it.
    fault(parts, acme, "token", "status", status=200, body=json.dumps(reply))
    assert sentences(parts.run("acme")) == {"acme": None}
    assert fired(parts, acme) == [1]
    assert parts.token(acme).refresh_token == reply["refresh_token"]
    assert sent_with_what_is_stored(parts, acme)
    works(parts, acme)


# 14 to 20: what refuses.


def scheduled(instance: dg.DagsterInstance) -> set[str]:
    """Return the customers that the next tick would ask runs for."""
    tick = get_external_schedule_execution(
        defs.get_repository_def(),
        instance.get_ref(),
        "hourly_user_account_sync",
        datetime(2026, 11, 23, 22, tzinfo=UTC).timestamp(),
        "UTC",
        None,
    )
    assert isinstance(tick, ScheduleExecutionData)
    return {str(request.partition_key) for request in tick.run_requests or []}


def test_14_a_revoked_grant_is_parked_and_told_once_and_only_a_reconnect_brings_it_back(
    parts: Parts, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYMVANTA_CUSTOMERS_PER_RUN", "1")
    acme, _ = parts.customer("acme", known=True), parts.customer("other")
    register(instance, "acme", "other")
    fault(parts, acme, "put", "revoke")
    assert sentences(parts.run("acme", "other")) == {"acme": ("parked", REFUSED_GRANT), "other": None}
    assert fired(parts, acme) == [1]
    refused = [("put", 401), ("refresh", 400)]
    assert calls(parts, acme) == refused
    parked = connections.find(parts.ledger, acme)
    assert parked is not None
    assert (parked.state, parked.parked_reason) == ("parked", REFUSED_GRANT)
    # Told once: no tick brings it up again, and a person's own run says since when, without a call.
    assert scheduled(instance) == {"other"}
    [again] = parts.run("acme")
    assert again.failure is not None
    assert again.failure.outcome == "parked"
    assert again.failure.sentence == f"parked since {parked.parked_at:%Y-%m-%d %H:%M} UTC: {REFUSED_GRANT}"
    assert calls(parts, acme) == refused
    assert connections.find(parts.ledger, acme) == parked

    parts.connect(acme, "acme")
    assert scheduled(instance) == {"acme", "other"}
    assert sentences(parts.run("acme")) == {"acme": None}
    assert (parts.state(acme), parts.outcome(acme)) == ("connected", "accepted")


def test_15_our_own_secret_refused_stops_everything_with_one_message_and_parks_nobody(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    slugs = ["one", "two", "three", "four", "five"]
    organizations = [parts.customer(slug, due=True, known=True) for slug in slugs]
    monkeypatch.setenv("VANTA_CLIENT_SECRET", "vcs_canary_another")
    told = sentences(parts.run(*slugs))
    assert told == {
        "one": ("failing", REFUSED_APPLICATION),
        **dict.fromkeys(slugs[1:], ("failing", f"not tried: {REFUSED_APPLICATION}")),
    }
    assert [calls(parts, organization) for organization in organizations] == [[("refresh", 401)], [], [], [], []]
    assert [parts.state(organization) for organization in organizations] == ["connected"] * 5
    assert [parts.outcome(organization) for organization in organizations] == ["failing", None, None, None, None]
    monkeypatch.setenv("VANTA_CLIENT_SECRET", CLIENT_SECRET)
    assert sentences(parts.run(*slugs)) == dict.fromkeys(slugs)


def pauses(parts: Parts) -> dict[str, float]:
    """Return the seconds for which each budget is paused from now."""
    rows = parts.ledger.execute(
        "SELECT name, extract(epoch FROM paused_until - clock_timestamp())::float8 FROM rate_budgets"
        " WHERE paused_until > clock_timestamp()"
    )
    return dict(rows.fetchall())


def test_16_a_429_of_the_token_endpoint_is_waited_out_by_everybody_without_the_lock_and_parks_nobody(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "_LOOK_EVERY", 0.05)
    acme = parts.customer("acme", due=True, known=True)
    fault(parts, acme, "token", "status", status=429, retry_after=600)
    paused: list[dict[str, float]] = []

    def use_the_wait() -> None:
        until(lambda: calls(parts, acme) and not parts.is_locked(acme), "the lock is given up")
        paused.append(pauses(parts))
        parts.ledger.execute("UPDATE rate_budgets SET paused_until = now(), pauses = pauses + 1, slots = '{}'")

    with meanwhile(use_the_wait):
        assert sentences(parts.run("acme")) == {"acme": None}
    assert fired(parts, acme) == [1]
    [pause] = paused
    assert set(pause) == {"token_background", "token_interactive"}
    assert all(500 < seconds <= 600 for seconds in pause.values())
    assert calls(parts, acme) == [("refresh", 429), ("refresh", 200), ("put", 200)]
    assert (parts.state(acme), parts.token(acme).generation) == ("connected", 2)


def away(kind: str, **options: Any) -> Act:
    return lambda parts, organization: fault(parts, organization, "token", kind, times=99, **options)


AWAY: dict[str, tuple[Act, str]] = {
    "500": (away("status", status=500), "Vanta cannot answer now (500)"),
    "502-page": (away("html", status=502), "Vanta cannot answer now (502)"),
    "503-that-names-the-grant": (
        away("status", status=503, body={"error": "invalid_grant"}),
        "Vanta cannot answer now (503)",
    ),
    "503-that-names-us": (
        away("status", status=503, body={"error": "invalid_client"}),
        "Vanta cannot answer now (503)",
    ),
    "504": (away("status", status=504), "Vanta cannot answer now (504)"),
    "connection-broken": (away("drop_before"), "Vanta did not answer (ConnectionError)"),
    "no-answer": (away("slow_before", delay=1), "Vanta did not answer (ReadTimeout)"),
}


def test_17_a_token_endpoint_that_is_away_means_later_and_costs_nobody_the_connection(
    parts: Parts, subtests: pytest.Subtests, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = {slug: parts.customer(slug, due=True, known=True) for slug in AWAY}
    parts.bystanders(80)
    for slug, organization in broken.items():
        AWAY[slug][0](parts, organization)
    first = sentences(parts.run(*(slug for slug in broken if slug != "no-answer")))
    with monkeypatch.context() as hurried:
        hurried.setattr(oauth, "TIMEOUT", (5.0, 0.3))
        first |= sentences(parts.run("no-answer"))
    struck = {slug: fired(parts, organization) for slug, organization in broken.items()}
    parts.vanta.clear_faults()
    second = sentences(parts.run(*broken))
    for slug, organization in broken.items():
        with subtests.test(slug):
            assert first[slug] == ("failing", AWAY[slug][1])
            assert struck[slug] == [ATTEMPTS]
            assert len(parts.journal(organization, "token")) == ATTEMPTS + 1
            assert second[slug] is None
            assert (parts.state(organization), len(parts.puts(organization))) == ("connected", 1)
            works(parts, organization)


def shift_clock(monkeypatch: pytest.MonkeyPatch, minutes: float) -> None:
    """Let our own clock, as all that handles tokens reads it, be off; Vanta's and PostgreSQL's are right."""

    class Shifted(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override] # a plain datetime will do
            return datetime.now(tz) + timedelta(minutes=minutes)

    for module in (session, token_store):
        monkeypatch.setattr(module, "datetime", Shifted)


def has_ended(parts: Parts, organization: UUID) -> bool:
    """Tell whether Vanta takes the stored access token no more."""
    listing = requests.get(
        f"{parts.vanta.url}/v1/resources/user_account/list_all",
        {"resourceId": parts.vanta.config.resource_id},
        headers={"Authorization": f"Bearer {parts.token(organization).access_token}"},
        timeout=10,
    )
    return listing.status_code == 401


@pytest.mark.parametrize("ended", [False, True], ids=["good at Vanta", "ended at Vanta"])
@pytest.mark.parametrize("minutes", [-10, 10], ids=["slow", "fast"])
def test_18_a_clock_that_is_off_by_ten_minutes_costs_one_refresh_at_most(
    parts: Parts, stand_in_with: OwnStandIn, monkeypatch: pytest.MonkeyPatch, minutes: int, *, ended: bool
) -> None:
    with stand_in_with(expires_in=1 if ended else 3600):
        acme = parts.customer("acme", known=True)
        shift_clock(monkeypatch, minutes)
        if ended:
            # By our clock it has six minutes left, which is outside of the margin.
            left(parts, acme, minutes=minutes + 6)
            until(lambda: has_ended(parts, acme), "the end of the token's life")
        assert sentences(parts.run("acme")) == {"acme": None}
        expected = [("put", 401), ("refresh", 200), ("put", 200)] if ended else [("put", 200)]
        assert calls(parts, acme) == expected


def test_18_what_a_shifted_clock_saved_is_put_right_by_the_first_refusal(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token that was saved ten minutes too late ends before we think so; one saved too early is renewed early."""
    acme = parts.customer("acme", due=True, known=True)
    shift_clock(monkeypatch, 10)
    assert sentences(parts.run("acme")) == {"acme": None}
    assert parts.token(acme).expires_at - datetime.now(UTC) > timedelta(minutes=65)
    fault(parts, acme, "put", "status", status=401)  # as at minute 61
    assert sentences(parts.run("acme")) == {"acme": None}
    assert calls(parts, acme)[2:] == [("put", 401), ("refresh", 200), ("put", 200)]


SWAPS = {
    "both-of-another": "key_id = o.key_id, access_token = o.access_token, refresh_token = o.refresh_token",
    "access-of-another": "access_token = o.access_token",
    "refresh-of-another": "refresh_token = o.refresh_token",
    "one-kind-for-the-other": "access_token = tokens.refresh_token, refresh_token = tokens.access_token",
    "another-providers": "provider = 'other'",
    "changed": "access_token = set_byte(tokens.access_token, 20, get_byte(tokens.access_token, 20) # 1)",
    "cut-short": "refresh_token = substring(tokens.refresh_token FROM 1 FOR 5)",
}


@pytest.mark.parametrize("due", [False, True], ids=["good", "due"])
def test_19_a_token_that_was_planted_in_the_row_is_never_used(
    parts: Parts, subtests: pytest.Subtests, *, due: bool
) -> None:
    planted = {slug: parts.customer(slug, due=due, known=True) for slug in SWAPS}
    parts.bystanders(80)
    other = parts.customer("other", known=True)
    for slug, organization in planted.items():
        statement = f"UPDATE tokens SET {SWAPS[slug]} FROM tokens AS o"
        where = " WHERE tokens.organization_id = %s AND o.organization_id = %s"
        assert parts.ledger.execute((statement + where).encode(), [organization, other]).rowcount == 1
    told = sentences(parts.run(*planted, "other"))
    assert (told["other"], calls(parts, other)) == (None, [("put", 200)])
    for slug, organization in planted.items():
        with subtests.test(slug):
            failure = told[slug]
            assert failure is not None
            assert failure[0] == "failing"
            assert failure[1].startswith(f"organization {organization}: its stored ")
            assert failure[1].endswith("it was changed, or moved here from elsewhere; reconnect the customer")
            assert calls(parts, organization) == []
            assert page(parts, organization) == TO_RECONNECT
            parts.connect(organization, slug)
    assert sentences(parts.run(*planted)) == dict.fromkeys(planted)


def test_19_a_run_without_a_needed_key_does_not_begin_and_parks_nobody(
    parts: Parts, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that is dropped too early would look like everybody's tokens being spoilt."""
    slugs = ["acme", "other"]
    organizations = [parts.customer(slug, due=True, known=True) for slug in slugs]
    register(instance, *slugs)
    monkeypatch.setenv("SYMVANTA_TOKEN_KEYS", KEYS.replace("k1:", "k9:"))
    ended = launch(instance, stretch("acme", "other"))
    assert not ended.success
    assert ended.failure == "stored tokens need keys that SYMVANTA_TOKEN_KEYS lacks: k1; add them back"
    for organization in organizations:
        assert (calls(parts, organization), parts.outcome(organization)) == ([], None)
        assert parts.state(organization) == "connected"
    monkeypatch.setenv("SYMVANTA_TOKEN_KEYS", KEYS)
    assert sentences(parts.run(*slugs)) == dict.fromkeys(slugs)


def test_20_a_scope_that_was_narrowed_at_a_refresh_is_named_saved_and_not_used(parts: Parts) -> None:
    acme, _ = parts.customer("acme", due=True, known=True), parts.customer("other")
    fault(parts, acme, "token", "scope", scope=READ)
    told = sentences(parts.run("acme", "other"))
    missing = f"Vanta no longer grants {WRITE}: nothing is sent until the customer is connected again"
    assert told == {"acme": ("refused", missing), "other": None}
    assert page(parts, acme) == TO_RECONNECT
    assert fired(parts, acme) == [1]
    saved = parts.token(acme)
    assert (saved.generation, saved.scope) == (2, READ)  # the grant was rotated all the same
    assert (calls(parts, acme), parts.state(acme)) == ([("refresh", 200)], "connected")
    # While that token lasts, no call is made for it.
    assert sentences(parts.run("acme")) == {"acme": ("refused", missing)}
    assert calls(parts, acme) == [("refresh", 200)]
    parts.connect(acme, "acme")
    assert sentences(parts.run("acme")) == {"acme": None}


def test_20_a_scope_that_is_granted_again_at_the_next_refresh_is_used_again(parts: Parts) -> None:
    acme = parts.customer("acme", due=True, known=True)
    fault(parts, acme, "token", "scope", scope=WRITE)
    told = sentences(parts.run("acme"))["acme"]
    assert told is not None
    assert READ in told[1]
    parts.age_token(acme)
    assert sentences(parts.run("acme")) == {"acme": None}
    assert calls(parts, acme) == [("refresh", 200), ("refresh", 200), ("put", 200)]


# 21: a person ends it in the middle.


def leave(organization: UUID, hold: Hold | None = None) -> Departure:
    """Disconnect as the command does; over the connection of a hold, where it needs what that holds."""
    with leaving_desk() as desk, pytest.MonkeyPatch.context() as patched:
        if hold is None:
            return desk.leave(organization)
        suspend = Application.suspend

        def committed_first(application: Application, token: str) -> None:
            hold.connection.commit()  # which a transaction of its own would have been by now
            suspend(application, token)

        patched.setattr(Application, "suspend", committed_first)
        live = LiveConnection(desk.ledger.url)
        live._connection = hold.connection
        departure = replace(desk, ledger=live).leave(organization)
        hold.connection.commit()
        return departure


def left_in_the_middle(parts: Parts, start: Start, place: str, organization: UUID) -> tuple[Departure, dict[str, Any]]:
    """Disconnect while a worker is stopped somewhere, and tell how the worker ends."""
    with stopped(parts, start, place) as (worker, hold):
        worker.stall()
        if place == "before the save":  # its transaction goes on for as long as it is stalled
            departure = leave(organization, hold)
        else:
            hold.release()
            departure = leave(organization)
        worker.go_on()
        return departure, worker.ended()


@pytest.mark.parametrize("told", [True, False], ids=["Vanta told", "Vanta away"])
@pytest.mark.parametrize(
    ("place", "refreshed", "suspended"),
    [
        ("before the load", [], []),
        ("before the refresh", [400, 200], [200]),
        ("before the save", [200], [200]),
        ("before the put", [200], []),
    ],
)
def test_21_a_disconnect_while_a_run_is_under_way_sends_nothing_more_and_is_said_in_words(
    parts: Parts, start: Start, place: str, *, refreshed: list[int], suspended: list[int], told: bool
) -> None:
    """What the run holds of a token that the disconnect knows not is ended by the run."""
    acme = parts.customer("acme", due=True, known=True)
    if not told:
        fault(parts, acme, "suspend", "status", status=500)
    assert {kind: len(alive) for kind, alive in parts.vanta.tokens(str(acme)).items()} == {"access": 1, "refresh": 1}
    departure, ended = left_in_the_middle(parts, start, place, acme)
    assert departure.trouble == (None if told else "Vanta cannot answer now (500)")
    assert fired(parts, acme) == ([] if told else [1])
    now = connections.find(parts.ledger, acme)
    assert now is not None
    since = f"disconnected since {now.disconnected_at:%Y-%m-%d %H:%M} UTC: nothing is sent any more"
    assert ended == {"outcome": "parked", "sentence": since, "generation": None}
    assert [status for _, status in calls(parts, acme)] == (refreshed[:1] if told else refreshed[-1:])
    assert (now.state, now.parked_reason, parts.outcome(acme)) == ("disconnected", None, "parked")
    assert Vault(parts.ledger, parts.keyring).load(acme) is None  # no late save brought it back
    if told or suspended:
        assert parts.vanta.tokens(str(acme)) == {"access": [], "refresh": []}
    before = calls(parts, acme)
    assert sentences(parts.run("acme")) == {"acme": ("parked", since)}
    assert calls(parts, acme) == before
    by_the_run = suspended if not told or place == "before the save" else []
    assert [entry["status"] for entry in parts.journal(acme, "suspend")] == [200 if told else 500, *by_the_run]


def test_21_a_token_that_comes_after_the_disconnect_is_dead_also_where_vanta_ends_the_named_one_alone(
    parts: Parts, start: Start
) -> None:
    acme = parts.customer("acme", due=True, known=True)
    old = fingerprint(parts.token(acme).refresh_token)
    fault(parts, acme, "suspend", "named_only", times=9)
    departure, ended = left_in_the_middle(parts, start, "before the save", acme)
    assert (departure.trouble, ended["outcome"], calls(parts, acme)) == (None, "parked", [("refresh", 200)])
    first, second = (entry["token_fingerprint"] for entry in parts.journal(acme, "suspend"))
    assert (first, second != old, fired(parts, acme)) == (old, True, [2])
    assert parts.vanta.tokens(str(acme))["refresh"] == []


def test_21_a_disconnect_between_two_attempts_keeps_the_second_from_being_made(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = parts.customer("acme", known=True)
    fault(parts, acme, "put", "status", status=503, times=99)
    may_send, attempts = CustomerLock.require_connected, list[int]()

    def leave_before_the_second(lock: CustomerLock, generation: int) -> None:
        attempts.append(generation)
        if len(attempts) == 2:
            leave(acme)
        may_send(lock, generation)

    monkeypatch.setattr(CustomerLock, "require_connected", leave_before_the_second)
    told = sentences(parts.run("acme"))["acme"]
    assert told is not None
    assert told[1].startswith("disconnected since ")
    assert (len(attempts), calls(parts, acme)) == (2, [("put", 503)])
    assert parts.vanta.tokens(str(acme)) == {"access": [], "refresh": []}
