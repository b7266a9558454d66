"""Pushes whose end nobody knows: the same bytes again, and until that is settled both states count."""

import os
import signal
from collections.abc import Callable

import pytest

from symvanta_pipeline.ledger import history, snapshots
from symvanta_pipeline.vanta.session import ATTEMPTS
from tests.brakes.world import Company, World, nothing_sent, rules, worker
from tests.support.parts import until


@pytest.mark.parametrize(("kind", "options"), [("drop_after", {}), ("drop_after", {"times": ATTEMPTS - 1})])
def test_a_reply_lost_after_vanta_applied_the_put_is_asked_for_with_the_same_bytes(
    world: World, kind: str, options: dict[str, int]
) -> None:
    company = world.company(members=10).pushed()
    company.leave(2)
    company.hire(1)
    company.fault("put", kind, **options)
    result = company.push()
    times = options.get("times", 1)
    assert company.fired() == [times]
    assert result.failure is None
    puts = world.parts.puts(company.id)[1:]
    assert len({put["sha256"] for put in puts}) == 1
    assert [put["status"] for put in puts] == [None] * times + [200]
    assert company.arrived()
    assert world.parts.intents(company.id) == ["accepted", "accepted"]
    assert len(world.parts.accepted(company.id)) == len(history.pushes(world.parts.ledger, company.id)) == 2
    assert len(history.changes(world.parts.ledger, company.id)) == 10 * 4 + 2 + 4


@pytest.mark.parametrize(
    ("then", "options", "outcome"),
    [("status", {"status": 400}, "refused"), ("status", {"status": 403}, "refused"), ("revoke", {}, "parked")],
)
def test_a_put_that_was_applied_unheard_stays_possibly_applied_though_the_next_attempt_is_refused(
    world: World, then: str, options: dict[str, int], outcome: str
) -> None:
    company = world.company(members=10).pushed()
    company.leave(2)
    company.fault("put", "drop_after")
    company.fault("put", then, **options)
    result = company.push()
    assert result.failure is not None
    assert (result.failure.outcome, company.fired()) == (outcome, [1, 1])
    assert company.arrived()  # which nobody heard of
    assert world.parts.intents(company.id) == ["accepted", None]
    assert possibly_applied(world, company) == ["accepted", "possibly applied"]
    if outcome == "parked":
        world.parts.connect(company.id, company.slug)
    company.pushed()
    assert world.parts.intents(company.id) == ["accepted", "superseded", "accepted"]


@pytest.mark.parametrize(("kind", "options"), [("status", {"status": 400}), ("revoke", {})])
def test_a_put_that_is_refused_at_once_is_not_possibly_applied(
    world: World, kind: str, options: dict[str, int]
) -> None:
    company = world.company(members=10).pushed()
    company.leave(2)
    company.fault("put", kind, **options)
    assert company.push().failure is not None
    assert company.fired() == [1]
    assert world.parts.intents(company.id) == ["accepted", "refused"]


def killed_before_the_reply(company: Company, environment: dict[str, str]) -> None:
    """Push from another process, and kill that with SIGKILL once Vanta has applied the PUT and not answered."""
    parts = company.parts
    company.fault("put", "slow", delay=600)
    with worker(environment, parts.folder, company.slug) as process:
        until(company.arrived, "Vanta applied it")
        assert parts.is_locked(company.id)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL
    assert company.fired()[-1] == 1
    until(lambda: not parts.is_locked(company.id), "the dead process's lock is free")


def reply_never_arrives(company: Company) -> None:
    """Vanta applies every attempt; nobody hears of it."""
    company.fault("put", "drop_after", times=ATTEMPTS)
    result = company.push()
    assert result.failure is not None
    assert (result.failure.outcome, company.fired()[-1]) == ("failing", ATTEMPTS)
    assert company.arrived()


def never_applied(company: Company) -> None:
    """Vanta applies none of the attempts, which nobody knows."""
    company.fault("put", "drop_before", times=ATTEMPTS)
    result = company.push()
    assert result.failure is not None
    assert (result.failure.outcome, company.fired()[-1]) == ("failing", ATTEMPTS)


def possibly_applied(world: World, company: Company) -> list[str]:
    return [push.verdict for push in history.pushes(world.parts.ledger, company.id)]


def test_what_a_killed_process_pushed_is_possibly_applied_until_the_next_push_settles_it(
    world: World, environment: dict[str, str]
) -> None:
    company = world.company(members=25).pushed()
    last = company.alive()
    company.leave(4)
    company.hire(1)
    killed_before_the_reply(company, environment)
    assert world.parts.intents(company.id) == ["accepted", None]
    assert possibly_applied(world, company) == ["accepted", "possibly applied"]
    assert company.alive() != last
    states = history.states(world.parts.ledger, company.id)
    assert {unique: (status, level) for unique, status, level, *_ in states} == last  # as long as nobody knows

    # One more of the 22 who may be active there, two more of the 25 who are: six of 25 are too many.
    with nothing_sent(company), company.undone():
        company.leave(2)
        assert rules(company.push()) == ["lost", "lost_in_a_day"]

    company.leave(1)
    company.pushed()
    assert world.parts.intents(company.id) == ["accepted", "superseded", "accepted"]
    assert possibly_applied(world, company) == ["accepted", "accepted"]
    assert len(history.states(world.parts.ledger, company.id)) == 26


@pytest.mark.parametrize("crash", [reply_never_arrives, never_applied])
def test_the_worse_of_both_states_counts_whichever_vanta_has(world: World, crash: Callable[[Company], None]) -> None:
    company = world.company(members=25).pushed()

    # Against what was accepted last: 5 of 25 went with the push of unknown end, and one more goes now.
    company.leave(5)
    crash(company)
    with nothing_sent(company), company.undone():
        company.leave(1)
        assert rules(company.push()) == ["lost", "lost_in_a_day"]
    company.pushed()

    # Against what was possibly applied: all of those who go now came with it.
    company.hire(10)
    crash(company)
    assert world.parts.intents(company.id)[-1] is None
    new = company.active()[-10:]
    with nothing_sent(company), company.undone():
        world.parts.sym.execute("UPDATE users SET deactivated_at = now() WHERE id = ANY(%s)", new)
        assert rules(company.push()) == ["lost"]
    with nothing_sent(company), company.undone():
        world.parts.sym.execute("DELETE FROM identities WHERE user_id = ANY(%s)", new[:3])
        world.parts.sym.execute("DELETE FROM users WHERE id = ANY(%s)", new[:3])
        assert rules(company.push()) == ["vanished"]
    company.pushed()
    assert None not in world.parts.intents(company.id)


def test_several_pushes_of_unknown_end_all_count_and_one_that_is_accepted_settles_them(world: World) -> None:
    company = world.company(members=25).pushed()
    for _ in range(2):
        company.hire(5)
        reply_never_arrives(company)
    assert len(snapshots.unresolved_intents(world.parts.ledger, company.id)) == 2
    last_hired = company.active()[-8:]
    with nothing_sent(company), company.undone():
        world.parts.sym.execute("UPDATE users SET deactivated_at = now() WHERE id = ANY(%s)", last_hired)
        assert rules(company.push()) == ["lost"]
    company.pushed()
    assert world.parts.intents(company.id) == ["accepted", "superseded", "superseded", "accepted"]


def test_a_first_push_of_unknown_end_is_compared_with_vantas_list(world: World) -> None:
    company = world.company(members=10)
    reply_never_arrives(company)
    assert history.is_first(world.parts.ledger, company.id)
    with nothing_sent(company), company.undone():
        company.leave(6)
        assert rules(company.push()) == ["lost"]
    company.pushed()


def test_an_approved_push_of_unknown_end_keeps_its_approval_for_the_same_change(world: World) -> None:
    company = world.company(members=25).pushed()
    company.leave(6)
    company.approve(company.push())
    reply_never_arrives(company)
    assert company.latest_approval().used_at is None
    # Vanta may still have the state before: the change is the same, and so is its hash.
    again = company.push()
    assert again.failure is None
    assert again.push is not None
    assert again.approval is not None
    assert company.latest_approval().used_at == again.push.recorded.accepted_at
    assert world.parts.intents(company.id) == ["accepted", "superseded", "accepted"]


def test_an_unchanged_body_is_sent_every_hour_and_recorded_as_such(world: World) -> None:
    company = world.company(members=3).pushed()
    company.pushed()
    company.hire(1)
    company.pushed()
    pushes = history.pushes(world.parts.ledger, company.id)
    assert [push.unchanged for push in pushes] == [False, True, False]
    assert company.puts() == 3
