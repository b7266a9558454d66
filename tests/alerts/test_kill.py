"""Kill -9 at each step of a look, then another one: nothing is lost, and what is said twice says that it is.

A process is stopped at exactly one place: by a lock that the test holds on what the next statement writes, or by a
reply that the receiver holds back.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from symvanta_pipeline.ledger import alerts, database
from tests.alerts.receiver import Fault, Receiver
from tests.alerts.worker import targets_of
from tests.alerts.world import World
from tests.support.parts import held, until

ROOT = Path(__file__).parents[2]
HERE = 4242  # the advisory lock that a place waits for
PLACES = {
    "before the message is written": ("INSERT", "true"),
    "before it is claimed": ("UPDATE", "NEW.claimed_at IS NOT NULL"),
    "before it is marked": ("UPDATE", "NEW.sent_at IS NOT NULL"),
}


@pytest.fixture
def world(symvanta_url: str) -> Iterator[World]:
    """A database of the test's own, since it gets triggers; one customer is held and not announced yet."""
    with database.connect(symvanta_url) as connection:
        world = World(symvanta_url, connection)
        world.customer("acme")
        world.hold("acme")
        world.pass_time(minutes=6)
        yield world


@contextmanager
def started(world: World, receiver: Receiver) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.alerts.worker", world.url, receiver.url],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def kill(process: "subprocess.Popen[str]") -> str:
    """Kill it, make sure that this is what ended it, and return what it said."""
    os.kill(process.pid, signal.SIGKILL)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL
    return said


def killed_at(place: str, target: str, world: World, receiver: Receiver) -> str:
    """Kill a look immediately before a statement for one target, and return what it said."""
    event, condition = PLACES[place]
    world.ledger.execute(
        f"""
        CREATE FUNCTION wait_here() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_advisory_xact_lock({HERE}); RETURN NEW; END $$;
        CREATE TRIGGER wait_here BEFORE {event} ON alerts FOR EACH ROW
            WHEN (NEW.target = '{target}' AND {condition}) EXECUTE FUNCTION wait_here()
        """.encode()
    )
    with (
        held(world.url, f"SELECT pg_advisory_xact_lock({HERE})") as hold,
        started(world, receiver) as process,
    ):
        hold.until_somebody_waits("alerts")
        said = kill(process)
        assert hold.end_waiting() == [True]
    world.ledger.execute("DROP TRIGGER wait_here ON alerts")
    return said


def look_again(world: World, receiver: Receiver) -> str:
    """Look as the next process does, and return what it said."""
    lines: list[str] = []
    report = world.look(*targets_of(receiver.url, lines.append))
    return "\n".join([*lines, report.sentence()])


def log_lines(*said: str) -> list[str]:
    return [line for each in said for line in each.splitlines() if "| alert " in line]


TARGETS = ["log", "slack", "webhook"]


@pytest.mark.parametrize(
    ("place", "target"),
    [("before the message is written", "webhook"), ("before it is claimed", "slack")],
)
def test_before_it_is_sent_nothing_is_lost_and_nothing_said_twice(
    place: str, target: str, world: World, receiver: Receiver
) -> None:
    said = killed_at(place, target, world, receiver)
    before = {"log": len(log_lines(said)), "slack": len(receiver.at("/slack")), "webhook": len(receiver.at("/webhook"))}
    assert before[target] == 0
    again = look_again(world, receiver)
    assert len(log_lines(said, again)) == 1
    assert (len(receiver.at("/slack")), len(receiver.at("/webhook"))) == (1, 1)
    assert "repetition" not in again + receiver.at("/slack")[0].text
    assert not receiver.at("/webhook")[0].content["repeated"]
    assert look_again(world, receiver).strip() == "no customer's state changed"
    assert len(receiver.got) == 2


@pytest.mark.parametrize("target", TARGETS)
def test_between_the_answer_and_the_mark_it_is_said_again_and_says_so(
    target: str, world: World, receiver: Receiver
) -> None:
    said = killed_at("before it is marked", target, world, receiver)
    then_said_again(target, said, world, receiver)


@pytest.mark.parametrize("target", ["slack", "webhook"])
def test_before_the_answer_it_is_said_again_and_says_so(target: str, world: World, receiver: Receiver) -> None:
    receiver.fail(f"/{target}", Fault(200, way="hold"))
    with started(world, receiver) as process:
        until(lambda: receiver.fired, "the request has arrived")
        said = kill(process)
    receiver.release()
    then_said_again(target, said, world, receiver)


def then_said_again(target: str, said: str, world: World, receiver: Receiver) -> None:
    """Expect one repetition at one target, with the same id, once the claim of the dead is over."""
    early = look_again(world, receiver)
    assert f"1 message waits for {target}" in early, "whoever claimed it might still be at it"
    world.pass_time(minutes=alerts.LEASE.total_seconds() / 60)
    late = look_again(world, receiver)
    told = {"log": log_lines(said, early, late), **{p: [got.text for got in receiver.at(f"/{p}")] for p in TARGETS[1:]}}
    assert {name: len(texts) for name, texts in told.items()} == {name: 1 + (name == target) for name in TARGETS}
    first, second = told[target]
    assert ("repetition" in first, "repetition" in second) == (False, target != "webhook")
    if target != "log":
        sent, repeated = receiver.at(f"/{target}")
        assert sent.key == repeated.key
        assert (sent.content.get("repeated"), repeated.content.get("repeated")) in [(None, None), (False, True)]
    assert look_again(world, receiver).strip() == "no customer's state changed"
