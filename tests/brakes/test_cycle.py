"""Many customers in one trouble: that cycle stops for everybody, and the next one starts afresh."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from symvanta_pipeline.ledger import connections
from symvanta_pipeline.sym.source import UsersSnapshot
from symvanta_pipeline.sync import CustomerResult
from symvanta_pipeline.vanta.session import ATTEMPTS
from tests.brakes.world import Company, World, nothing_sent
from tests.support.parts import clean


def now() -> datetime:
    return datetime.now(UTC)


def companies(world: World, count: int, *, members: int = 1) -> list[Company]:
    return [world.company(f"c{n:02}", members=members) for n in range(count)]


def slugs(of: list[Company]) -> list[str]:
    return [company.slug for company in of]


def ends(results: list[CustomerResult]) -> str:
    """Tell how each ended, in a letter: accepted, held, failing, refused, parked, or stopped with everybody."""
    return "".join(
        "a" if r.failure is None else "s" if not r.failure.is_attempt or "not tried" in r.failure.sentence
        else r.failure.outcome[0]
        for r in results
    )  # fmt: skip


def nobody_active(company: Company) -> None:
    """A brake that needs no push before it."""
    company.leave(99)


def test_thirty_percent_that_trip_stop_the_cycle_for_everybody_and_the_next_starts_afresh(world: World) -> None:
    everybody = companies(world, 20, members=4)
    tripping = everybody[1:12:2]  # six
    assert ends(world.run(*slugs(tripping))) == "a" * 6
    for company in tripping:
        company.leave(3)

    tick = now()
    first, rest = everybody[:6], everybody[6:]
    outcomes = [company.outcome() for company in rest]
    with nothing_sent(*rest):
        results = world.run(*slugs(everybody), tick=tick)
    assert ends(results) == "ahahah" + "s" * 14
    assert [company.puts() for company in first] == [1, 1] * 3
    assert [company.outcome() for company in rest] == outcomes  # nobody was tried
    message = (
        "this cycle was stopped for everybody: 3 of 20 customers are newly held by a brake (lost); "
        "look at one of them. The next cycle starts afresh"
    )
    told = [result.failure.sentence for result in results[6:] if result.failure]
    assert told == [message] + [f"not tried: {message}"] * 13
    assert [result.failure.of_all for result in results[6:] if result.failure] == [True] + [False] * 13

    # A retry of the same cycle's run stays stopped: who was accepted is left alone, and nobody else is tried.
    with nothing_sent(*everybody):
        retry = world.run(*slugs(everybody), tick=tick)
    assert (ends(retry), retry[0].already is not None) == ("a" + "s" * 19, True)

    # The three are not new any more; the other three are.
    results = world.run(*slugs(everybody), tick=now())
    assert ends(results) == "ahahahahahah" + "s" * 8
    results = world.run(*slugs(everybody[8:]), tick=now())
    assert ends(results) == "ahah" + "a" * 8
    assert all(company.arrived() for company in everybody if company not in tripping)
    assert all(company.puts() == 1 for company in tripping)


def test_exactly_a_tenth_stops_nothing_and_more_does(world: World) -> None:
    everybody = companies(world, 30)
    tripping, healthy = everybody[:6], everybody[6:]
    for company in tripping:
        nobody_active(company)
    assert ends(world.run(*slugs([*tripping[:3], healthy[0]]))) == "hhha"  # 3 of 30
    connections.mark_disconnected(world.parts.ledger, healthy[-1].id)
    with nothing_sent(healthy[0]):
        assert ends(world.run(*slugs([*tripping[3:], healthy[0]]))) == "hhhs"  # 3 of 29


def test_two_of_few_customers_stop_nothing(world: World) -> None:
    everybody = companies(world, 5)
    for company in everybody[:2]:
        nobody_active(company)
    assert ends(world.run(*slugs(everybody))) == "hhaaa"


def no_email(company: Company) -> None:
    company.parts.sym.execute("UPDATE users SET email = NULL WHERE organization_id = %s", company.id)


def refused(company: Company) -> None:
    company.fault("put", "status", status=400)


def not_answered(company: Company) -> None:
    company.fault("put", "status", status=503, times=ATTEMPTS)


def disconnected_at_vanta(company: Company) -> None:
    company.fault("put", "revoke")


TROUBLES: dict[str, tuple[Callable[[Company], None], str, str]] = {
    "brake": (nobody_active, "h", "held by a brake (nobody_active)"),
    "rows": (no_email, "h", "held for the same reason (rule email)"),
    "away": (not_answered, "f", "failing for the same reason (Unavailable)"),
    "grant": (disconnected_at_vanta, "p", "parked for the same reason (GrantRefused)"),
}


def test_whatever_it_is_that_many_came_into(world: World) -> None:
    """Each trouble in a cycle of its own; the fourth customer has none."""
    for name, (trouble, letter, words) in TROUBLES.items():
        four = [world.company(f"{name}{n}", members=1) for n in range(4)]
        for company in four[:3]:
            trouble(company)
        with nothing_sent(four[3]):
            results = world.run(*slugs(four))
        assert ends(results) == 3 * letter + "s", name
        failure = results[3].failure
        assert failure is not None
        assert f"3 of {len(connections.all_connections(world.parts.ledger))} customers are newly {words}" in (
            failure.sentence
        )
    assert fired(world) == [ATTEMPTS] * 3 + [1] * 3


def fired(world: World) -> list[int]:
    return [fault["fired"] for fault in world.parts.vanta.faults()]


def test_brakes_are_counted_together_whichever_they_are(world: World) -> None:
    """As one broken read trips one in this customer and another one in that."""
    everybody = companies(world, 20, members=40)
    assert ends(world.run(*slugs(everybody))) == "a" * 20
    everybody[0].leave(40)
    everybody[1].leave(9)
    everybody[2].vanish(3)
    with nothing_sent(*everybody[3:]):
        results = world.run(*slugs(everybody))
    assert ends(results) == "hhh" + "s" * 17
    failure = results[3].failure
    assert failure is not None
    assert "3 of 20 customers are newly held by a brake (lost, nobody_active, vanished);" in failure.sentence
    # Another brake for one that was held before makes it no news.
    everybody[1].leave(31)
    results = world.run(*slugs(everybody))
    assert ends(results) == "hhh" + "a" * 17
    assert results[1].failure is not None
    assert results[1].failure.kind == "nobody_active"


def test_troubles_of_different_kinds_are_not_counted_together(world: World) -> None:
    everybody = companies(world, 8)
    for company, trouble in zip(
        everybody, (nobody_active, no_email, refused, nobody_active, no_email, refused, no_email), strict=False
    ):
        trouble(company)
    mixed = [*everybody[:6], everybody[7]]
    assert ends(world.run(*slugs(mixed))) == "hhrhhra"
    assert fired(world) == [1, 1]


def test_runs_of_one_tick_share_the_stop_and_a_run_by_hand_does_not(world: World) -> None:
    everybody = companies(world, 9)
    for company in everybody[:3]:
        nobody_active(company)
    tick = now()
    one = world.cycle(tick=tick).results(["c00", "c01", "c05", "c06"])
    assert ends([clean(next(one)), clean(next(one))]) == "hh"
    # The other run begins when two are held already: it is the tick that they share, not when they began.
    two = world.cycle(tick=tick).results(["c02", "c07", "c08"])
    with nothing_sent(*everybody[3:]):
        assert ends([clean(next(run)) for run in (two, one, two)]) == "hss"
        assert ends([clean(result) for run in (one, two) for result in run]) == "ss"
        assert ends(world.run("c03", tick=tick)) == "s"
    assert ends(world.run("c04")) == "a"


def test_who_is_about_to_be_pushed_when_it_stops_is_not_pushed(world: World) -> None:
    """While this customer is read, three others come into one trouble in another run of the tick."""
    everybody = companies(world, 4)
    for company in everybody[1:]:
        nobody_active(company)
    tick = now()
    cycle = world.cycle(tick=tick)

    def read(organization_id: str) -> UsersSnapshot:
        snapshot = cycle.read_users(organization_id)
        assert ends(world.run("c01", "c02", "c03", tick=tick)) == "hhh"
        return snapshot

    with nothing_sent(everybody[0]):
        results = [clean(result) for result in replace(cycle, read_users=read).results(["c00"])]
    assert ends(results) == "s"
    assert results[0].accounts is not None
    assert everybody[0].outcome() is None
    assert world.parts.intents(everybody[0].id) == []


@pytest.mark.parametrize("tick", [True, False])
def test_who_was_in_trouble_before_the_cycle_is_not_news(world: World, *, tick: bool) -> None:
    everybody = companies(world, 5)
    for company in everybody[:4]:
        nobody_active(company)
    assert ends(world.run("c00", "c01")) == "hh"
    assert ends(world.run(*slugs(everybody), tick=now() if tick else None)) == "hhhha"
