"""Losses over a day and over a week: a slow leak is held, waiting releases nothing, an ordinary departure passes.

Hours pass by moving what the ledger remembers into the past.
"""

import pytest

from tests.brakes.world import Company, World, nothing_sent, rules, sentence

DAY = ["lost_in_a_day"]
WEEK = ["lost_in_a_week"]


def test_a_leak_of_fifteen_percent_an_hour_is_held_from_its_second_hour_on(world: World) -> None:
    """Each hour alone would pass; without a window, Vanta would be left with a quarter of the company."""
    company = world.company(members=100).pushed()
    held: list[list[str]] = []
    for _ in range(8):
        world.later(hours=1)
        company.leave(int(0.15 * len(company.active())) + 1)
        held.append(rules(company.push()))
    # What is held back adds up, until the hour's own limit and the week's hold it as well.
    assert held == [[], DAY, ["lost", *DAY], *[["lost", *DAY, *WEEK]] * 5]
    assert len(company.active()) < 28
    assert (company.active_at_vanta(), company.puts()) == (84, 2)


def test_a_leak_of_those_who_came_within_the_day_is_held_from_its_second_hour_on(world: World) -> None:
    """Compared with a day ago alone, when none of the newcomers was there, three quarters of them would go unseen."""
    company = world.company(members=30).pushed()
    world.later(hours=1)
    company.hire(170)
    assert [warning.split(":")[0] for warning in company.push().warnings] == ["growth"]
    held: list[list[str]] = []
    for _ in range(8):
        world.later(hours=1)
        company.leave_latest(int(0.15 * len(company.active())))
        held.append(rules(company.push()))
    assert held == [[], DAY, ["lost", *DAY], *[["lost", *DAY, *WEEK]] * 5]
    assert (company.active_at_vanta(), company.puts()) == (170, 3)


def test_a_leak_within_the_days_limit_is_held_by_the_weeks(world: World) -> None:
    company = world.company(members=100).pushed()
    for loss in (20, 16):  # a fifth of those who are there, each time
        world.later(hours=25)
        company.leave(loss)
        company.pushed()
    world.later(hours=25)
    company.leave(5)
    with nothing_sent(company):
        held = company.push()
    assert rules(held) == WEEK
    assert "41 of 100 active users would be lost over 7 days (41 %, limit 40 % and 5)" in sentence(held)
    company.come_back()
    company.leave(40)
    assert company.push().failure is None  # exactly 40 % of a week ago


@pytest.mark.parametrize(("hours", "holds"), [(23, True), (25, False)])
def test_a_loss_leaves_the_days_window_as_it_moves_on(world: World, hours: int, *, holds: bool) -> None:
    company = world.company(members=100).pushed()
    world.later(hours=1)
    company.leave(20)
    company.pushed()
    world.later(hours=hours)
    company.leave(1)
    assert rules(company.push()) == (DAY if holds else [])


def test_a_loss_leaves_the_weeks_window_as_it_moves_on(world: World) -> None:
    company = world.company(members=100).pushed()
    for loss, pause in ((20, 1), (16, 25)):
        world.later(hours=pause)
        company.leave(loss)
        company.pushed()
    world.later(hours=144)
    company.leave(5)  # as in the test above; the 20 went over a week ago
    company.pushed()


def test_a_window_holds_no_push_that_takes_nobody_away(world: World) -> None:
    company = world.company(members=25).pushed()
    world.later(hours=1)
    company.leave(5)
    company.pushed()
    company.leave(1)
    assert rules(company.push()) == DAY
    company.come_back()
    company.leave(5)
    company.hire(3)
    company.pushed()


# Waiting does not release.


def source_down(company: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setenv("SYM_DATABASE_URL", "postgresql://nobody:nothing@127.0.0.1:1/nowhere")
        assert "cannot connect to Sym's database" in sentence(company.push())


def bad_record(company: Company, _monkeypatch: pytest.MonkeyPatch) -> None:
    """Another reason to hold, which is no brake's and is mended again."""
    company.parts.person(company.id, email=None)
    assert "rule email" in sentence(company.push())
    company.parts.sym.execute(
        "DELETE FROM identities WHERE user_id IN (SELECT id FROM users WHERE email IS NULL)",
    )
    company.parts.sym.execute("DELETE FROM users WHERE email IS NULL")


def vanta_down(company: Company, _monkeypatch: pytest.MonkeyPatch) -> None:
    """Vanta is away in an hour in which the change is."""
    with company.undone():
        company.come_back()
        company.leave(5)
        company.fault("put", "status", status=503, times=4)
        result = company.push()
        assert result.failure is not None
        assert result.failure.outcome == "failing"
    assert company.fired() == [4]


def reconnected(company: Company, _monkeypatch: pytest.MonkeyPatch) -> None:
    company.parts.connect(company.id, company.slug)


def test_waiting_does_not_release_whatever_comes_in_between(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held for the day's window alone: Vanta was told of the first loss, and the second is small."""
    company = world.company(members=25).pushed()
    world.later(hours=1)
    company.leave(5)
    company.pushed()
    world.later(hours=1)
    company.leave(1)
    vanta = company.at_vanta()
    assert rules(company.push()) == DAY
    for meanwhile in (source_down, bad_record, vanta_down, reconnected):
        world.later(hours=20)
        meanwhile(company, monkeypatch)
        world.later(hours=20)
        assert rules(company.push()) == DAY, meanwhile.__name__
    assert company.at_vanta() == vanta


def test_what_was_accepted_since_begins_the_count_anew(world: World) -> None:
    """Held once and mended, a customer is compared with the last 24 hours again, not with a day long ago."""
    company = world.company(members=25).pushed()
    company.leave(6)
    assert rules(company.push()) == ["lost", *DAY]
    company.come_back()
    company.leave(5)
    company.pushed()
    world.later(hours=25)
    company.leave(1)
    company.pushed()


def test_an_accepted_push_whose_end_nobody_could_note_begins_the_count_anew(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies between the record of the push and the record of how the attempt ended."""
    company = world.company(members=25).pushed()
    company.leave(6)
    assert rules(company.push()) == ["lost", *DAY]
    company.come_back()
    company.leave(5)

    class Killed(BaseException):
        pass

    def die(*_args: object, **_kwargs: object) -> bool:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("symvanta_pipeline.ledger.snapshots.record_outcome", die)
        with pytest.raises(Killed):
            company.push()
    assert company.arrived()
    world.later(hours=25)
    company.leave(1)
    company.pushed()
