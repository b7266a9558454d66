"""Kill -9 of the run worker at each step of a customer, then the next tick: everything converges.

A worker is stopped at exactly one place by a lock that the test holds on what the next statement needs, or by a reply
that the stand-in holds back. What the databases and the stand-in's journal say then proves the place.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import dagster as dg
import pytest

from symvanta_pipeline.defs.assets import SYNC
from tests.support.parts import Hold, Parts, ago, held, until
from tests.support.runs import ASSETS, launch, of_tick, register, status, stretch

ROOT = Path(__file__).parents[2]


class Workers:
    """Starts run workers, one at a time, and kills them."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def start(self, environment: Mapping[str, str], home: Path, tags: Mapping[str, str]) -> int:
        """Start one and return its process id."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"environment": environment, "home": str(home), "tags": tags}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def kill(self, pid: int) -> None:
        """Kill it, and make sure that this is what ended it."""
        os.kill(pid, signal.SIGKILL)
        assert self._answer() == -signal.SIGKILL

    def _answer(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tests.faults.run_worker"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        yield Workers(process)
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)


@dataclass
class Crash:
    """One worker on its way to its death.

    Attributes:
        victim: whose sync is struck. Its token has to be refreshed first.
        other: the run's other customer.
    """

    parts: Parts
    instance: dg.DagsterInstance
    environment: dict[str, str]
    dagster_url: str
    workers: Workers
    victim: UUID
    other: UUID
    pid: int = 0

    def start(self, first: str = "victim") -> None:
        """Start a worker on both customers, this one first."""
        order = ("victim", "other") if first == "victim" else ("other", "victim")
        register(self.instance, *order)
        tags = stretch(*order) | of_tick(ago(minutes=30))
        self.pid = self.workers.start(self.environment, self.parts.folder / "dagster", tags)

    def kill(self, *holds: Hold) -> None:
        """Kill the worker, and what the databases would still do for it."""
        self.workers.kill(self.pid)
        for hold in holds:
            assert hold.end_waiting() == [True]
            hold.release()
        until(lambda: not self.parts.is_locked(self.victim), "the dead worker's lock is free")

    def hold(self, table: str, *, all_of_it: bool = False) -> Any:
        """Keep everybody from writing to a table of the ledger's, or from reading it as well."""
        mode = "ACCESS EXCLUSIVE" if all_of_it else "EXCLUSIVE"
        return held(self.parts.ledger_url, f"LOCK TABLE {table} IN {mode} MODE")

    def evidence(self) -> dict[str, Any]:
        """Tell how far the victim got, as everybody but the worker sees it."""
        parts, victim = self.parts, self.victim
        return {
            "locked": parts.is_locked(victim),
            "read": (parts.folder / f"data/sym/users/{victim}.parquet").exists(),
            "intents": parts.intents(victim),
            "refreshes": [entry["status"] for entry in parts.journal(victim, "token")],
            "generation": parts.token(victim).generation,
            "puts": [entry["status"] for entry in parts.puts(victim)],
            "applied": bool(parts.at_vanta(victim)),
            "accepted": len(parts.accepted(victim)),
            "outcome": parts.outcome(victim),
        }


NOTHING: dict[str, Any] = {
    "locked": False,
    "read": False,
    "intents": [],
    "refreshes": [],
    "generation": 1,
    "puts": [],
    "applied": False,
    "accepted": 0,
    "outcome": None,
}
LOCKED = NOTHING | {"locked": True}
READ = LOCKED | {"read": True}
REFRESHED = READ | {"intents": [None], "refreshes": [200]}
SAVED = REFRESHED | {"generation": 2}
APPLIED = SAVED | {"puts": [None], "applied": True}
ANSWERED = APPLIED | {"puts": [200]}
RECORDED = ANSWERED | {"intents": ["accepted"], "accepted": 1, "outcome": "accepted"}


def before_the_lock(crash: Crash) -> None:
    with crash.hold("rate_budgets", all_of_it=True) as slots:
        crash.start()
        slots.until_somebody_waits("rate_budgets")
        assert crash.evidence() == NOTHING
        crash.kill(slots)


def after_the_lock_before_the_read(crash: Crash) -> None:
    with held(crash.environment["SYM_DATABASE_URL"], "LOCK TABLE users IN ACCESS EXCLUSIVE MODE") as users:
        crash.start()
        users.until_somebody_waits("sym_users")
        assert crash.evidence() == LOCKED
        crash.kill(users)


def after_the_read(crash: Crash) -> None:
    with crash.hold("intents") as intents:
        crash.start()
        intents.until_somebody_waits("INSERT INTO intents")
        assert crash.evidence() == READ
        crash.kill(intents)


def after_the_look_before_a_first_push(crash: Crash) -> None:
    crash.parts.ledger.execute("DELETE FROM account_states WHERE organization_id = %s", [crash.victim])
    with crash.hold("intents") as intents:
        crash.start()
        intents.until_somebody_waits("INSERT INTO intents")
        assert crash.evidence() == READ | {"refreshes": [200], "generation": 2}
        assert len(crash.parts.journal(crash.victim, "list")) == 1
        crash.kill(intents)


def between_the_tokens_reply_and_its_save(crash: Crash) -> None:
    with crash.hold("tokens") as tokens:
        crash.start()
        tokens.until_somebody_waits("UPDATE tokens")
        assert crash.evidence() == REFRESHED
        crash.kill(tokens)


def after_the_save_before_the_put(crash: Crash) -> None:
    with crash.hold("tokens") as tokens:
        crash.start()
        tokens.until_somebody_waits("UPDATE tokens")
        with crash.hold("rate_budgets") as slots:
            tokens.release()
            slots.until_somebody_waits("UPDATE rate_budgets")
            assert crash.evidence() == SAVED
            crash.kill(slots)


def after_the_put_was_applied_before_its_reply(crash: Crash) -> None:
    """The victim comes second here: a killed worker does not forget who was done."""
    crash.parts.vanta.fault("put", "slow", tenant=str(crash.victim), delay=600)
    crash.start(first="other")
    until(lambda: crash.parts.at_vanta(crash.victim), "the PUT is applied")
    assert crash.evidence() == APPLIED
    crash.kill()
    assert [fault["fired"] for fault in crash.parts.vanta.faults() if fault["tenant"] == str(crash.victim)] == [1]
    for asset in ASSETS:
        assert crash.instance.get_materialized_partitions(asset) == {"other"}


def after_the_reply_before_the_record(crash: Crash) -> None:
    with crash.hold("accepted_snapshots") as snapshots:
        crash.start()
        snapshots.until_somebody_waits("INSERT INTO accepted_snapshots")
        assert crash.evidence() == ANSWERED
        crash.kill(snapshots)


def after_the_record_before_the_event(crash: Crash) -> None:
    with crash.hold("accepted_snapshots") as snapshots:
        crash.start()
        snapshots.until_somebody_waits("INSERT INTO accepted_snapshots")
        with held(crash.dagster_url, "LOCK TABLE event_logs IN EXCLUSIVE MODE") as events:
            snapshots.release()
            events.until_somebody_waits("INSERT INTO event_logs")
            assert crash.evidence() == RECORDED | {"locked": False}
            crash.kill(events)
    for asset in ASSETS:
        assert crash.instance.get_materialized_partitions(asset) == set()


POINTS: list[Callable[[Crash], None]] = [
    before_the_lock,
    after_the_lock_before_the_read,
    after_the_read,
    after_the_look_before_a_first_push,
    between_the_tokens_reply_and_its_save,
    after_the_save_before_the_put,
    after_the_put_was_applied_before_its_reply,
    after_the_reply_before_the_record,
    after_the_record_before_the_event,
]


@pytest.fixture
def crash(
    parts: Parts, instance: dg.DagsterInstance, environment: dict[str, str], dagster_url: str, workers: Workers
) -> Crash:
    victim = parts.customer("victim", people=3, due=True, known=True)
    other = parts.customer("other", people=2, known=True)
    url = dagster_url.replace("+psycopg2", "")
    return Crash(parts, instance, environment, url, workers, victim, other)


@pytest.mark.parametrize("kill_at", POINTS, ids=lambda point: point.__name__)
def test_after_a_kill_the_next_tick_puts_everything_right(crash: Crash, kill_at: Callable[[Crash], None]) -> None:
    parts, victim = crash.parts, crash.victim
    kill_at(crash)
    killed_at = datetime.now(UTC)
    accepted_before = len(parts.accepted(victim))
    parts.sym.execute("UPDATE users SET deactivated_at = now() WHERE email = 'canary0@victim.example'")
    parts.person(victim)

    first, *_, last = crash.instance.get_dynamic_partitions("customers")
    next_tick = launch(crash.instance, stretch(first, last) | of_tick(killed_at))

    assert next_tick.success
    assert set(next_tick.materialized()) == {"victim", "other"}
    for organization in (victim, crash.other):
        assert parts.at_vanta(organization) == parts.at_sym(organization) != {}
        assert (parts.state(organization), parts.outcome(organization)) == ("connected", "accepted")
        assert None not in parts.intents(organization)
        # No rotation was lost: what is stored still works.
        stored = parts.token(organization).refresh_token
        assert parts.vanta.token(grant_type="refresh_token", refresh_token=stored).status_code == 200
    newer = parts.accepted(victim)[accepted_before:]
    assert len(newer) == 1
    assert newer[0] > killed_at
    assert status(crash.instance, SYNC) == ({"victim", "other"}, set())


def test_a_rotation_that_is_lost_would_be_seen(parts: Parts) -> None:
    acme = parts.customer("acme")
    stored = parts.token(acme).refresh_token
    parts.vanta.fault("put", "revoke", tenant=str(acme))
    parts.run("acme")
    assert parts.vanta.token(grant_type="refresh_token", refresh_token=stored).status_code == 400
