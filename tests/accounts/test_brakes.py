"""The brakes: every limit just under, at and just over it, each rule alone and together, what is said and hashed."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from hashlib import sha256
from typing import Any

import pandas as pd
import pytest

from symvanta_pipeline.accounts import brakes
from symvanta_pipeline.accounts.brakes import (
    LIMITS,
    RULES,
    Before,
    Brake,
    HeldChange,
    ShareLimit,
    change_hash,
    held,
    judge,
)
from symvanta_pipeline.accounts.state import from_json, no_states, to_json

UUIDS = [f"1b000000-0000-4000-8000-00000000000{n}" for n in range(8)]


def company(active: int, *, gone: int = 0, admins: int = 0, off: int = 0) -> pd.DataFrame:
    """Return active accounts a0000, a0001, ..., of which the first are admins, and the first are without MFA."""
    people = [
        [f"a{n:04}", "ACTIVE", "ADMIN" if n < admins else "BASE", "PASSWORD", "off" if n < off else "on"]
        for n in range(active)
    ]
    return from_json(people + [[f"g{n:04}", "DEACTIVATED", "BASE", "SSO", "sso"] for n in range(gone)])


def deactivated(states: pd.DataFrame, count: int) -> pd.DataFrame:
    """Deactivate the last of those who are active."""
    leaving = sorted(active(states))[len(active(states)) - count :]
    return states.assign(status=states["status"].mask(states.index.isin(leaving), "DEACTIVATED"))


def without(states: pd.DataFrame, count: int) -> pd.DataFrame:
    """Leave out the last of the accounts."""
    return states.iloc[: len(states) - count]


def active(states: pd.DataFrame) -> frozenset[str]:
    return frozenset(states.index[states["status"] == "ACTIVE"])


def before(last: pd.DataFrame, **columns: Any) -> Before:
    """Return a quiet week that ended in this state."""
    quiet = Before(
        last=last,
        possible=(),
        active_in_a_day=[active(last)],
        active_in_a_week=[active(last)],
        at_vanta=None,
        is_first=False,
    )
    return replace(quiet, **columns)


def rules(found: Iterable[Brake]) -> list[str]:
    return [brake.rule for brake in found]


def only(found: Iterable[Brake], rule: str) -> Brake:
    (brake,) = [brake for brake in found if brake.rule == rule]
    return brake


@dataclass(frozen=True)
class Case:
    """A push, and what one rule has to say of it: "holds", "warns" or "passes"."""

    name: str
    rule: str
    expected: str
    new: pd.DataFrame
    before: Before

    def verdict(self) -> str:
        found = [brake for brake in judge(self.new, self.before) if brake.rule == self.rule]
        return ("holds" if found[0].holds else "warns") if found else "passes"


@dataclass(frozen=True)
class Compared:
    """A limit of no push: of the source, or of many customers at once."""

    name: str
    rule: str
    expected: str
    holds: Callable[[], bool]

    def verdict(self) -> str:
        return "holds" if self.holds() else "passes"


# Users before, and how many of them are lost: passes, or the brake holds.
PASSING_LOSSES = [
    (1, 1), (2, 1), (2, 2), (3, 2), (4, 2), (5, 2), (6, 3), (10, 5), (23, 11), (24, 12),
    (25, 5), (26, 5), (30, 6), (1000, 200),
]  # fmt: skip
HELD_LOSSES = [
    (3, 3), (4, 3), (5, 3), (6, 4), (10, 6), (23, 12), (24, 13), (24, 24),
    (25, 6), (25, 25), (26, 6), (30, 7), (1000, 201), (1000, 1000),
]  # fmt: skip
PASSING_WEEKS = [(1, 1), (2, 2), (3, 2), (6, 3), (10, 5), (24, 12), (25, 10), (30, 12), (1000, 400)]
HELD_WEEKS = [(3, 3), (4, 3), (6, 4), (10, 6), (23, 12), (24, 13), (25, 11), (30, 13), (1000, 401)]
PASSING_VANISHED = [
    (1, 1), (3, 2), (10, 2), (25, 2), (60, 3), (61, 3), (100, 5), (180, 9), (200, 9), (1000, 9),
]  # fmt: skip
HELD_VANISHED = [(3, 3), (10, 3), (25, 3), (59, 3), (99, 5), (100, 6), (179, 9), (200, 10), (1000, 10), (1000, 1000)]
# Active users and admins before, active users and admins now.
PASSING_ADMINS = [
    (1, 0, 1, 1), (1, 1, 1, 1), (1, 1, 4, 4), (3, 0, 3, 2), (10, 5, 10, 7), (25, 10, 25, 12),
    (1000, 300, 1000, 400), (1000, 100, 1000, 199), (1000, 2, 1000, 4), (1000, 4, 1000, 7), (1000, 6, 500, 5),
    (100, 30, 110, 33),
]  # fmt: skip
HELD_ADMINS = [
    (3, 0, 3, 3), (10, 1, 10, 10), (10, 5, 10, 8), (25, 10, 25, 13), (1000, 300, 1000, 401), (1000, 100, 1000, 200),
    (1000, 3, 1000, 6), (1000, 0, 1000, 3), (1000, 50, 1000, 1000),
]  # fmt: skip
# Active users, those without MFA before, those without MFA now.
PASSING_MFA = [(1, 1, 1), (6, 0, 1), (10, 0, 2), (10, 10, 0), (25, 0, 5), (1000, 100, 300)]
WARNED_MFA = [(1, 0, 1), (3, 0, 1), (10, 0, 3), (25, 0, 6), (1000, 100, 301), (1000, 0, 1000)]
# Active users before and now.
GROWTH = {
    "passes": [(1, 1), (1, 4), (1, 10), (3, 30), (10, 50), (17, 51), (25, 75), (1000, 3000)],
    "warns": [(10, 51), (17, 52), (10, 100), (25, 76), (25, 250), (1000, 3001), (1000, 10_000)],
    "holds": [(1, 11), (3, 31), (10, 101), (25, 251), (6, 61), (1000, 10_001)],
}


def loss(expected: str, size: int, lost: int) -> Case:
    last = company(size, gone=size)  # the departed are no part of any share
    new = deactivated(last, lost)
    return Case(f"{lost} of {size}", "lost", expected, new, before(last))


def vanished(expected: str, size: int, lost: int) -> Case:
    last = company(size, gone=size)
    new = last.drop(index=[f"a{n:04}" for n in range(lost)])
    return Case(f"{lost} of {size}", "vanished", expected, new, before(last))


def promotion(expected: str, size: int, admins: int, size_now: int, admins_now: int) -> Case:
    last, new = company(size, gone=9, admins=admins), company(size_now, gone=99, admins=admins_now)
    name = f"{admins} of {size} to {admins_now} of {size_now}"
    return Case(name, "admins", expected, new, before(last))


def mfa_off(expected: str, size: int, off: int, off_now: int) -> Case:
    last, new = company(size, gone=9, off=off), company(size, gone=99, off=off_now)
    return Case(f"{off} to {off_now} of {size}", "without_mfa", expected, new, before(last))


def growth(expected: str, size: int, size_now: int) -> Case:
    last, new = company(size, gone=99), company(size_now, gone=999)
    return Case(f"{size} to {size_now}", "growth", expected, new, before(last))


def over_a_window(rule: str, window: str, expected: str, size: int, lost: int) -> Case:
    """Lose one now, and all the others earlier in the window."""
    began_with = company(size, gone=size)
    last, new = deactivated(began_with, lost - 1), deactivated(began_with, lost)
    return Case(f"{lost} of {size}", rule, expected, new, before(last, **{window: [active(began_with), active(last)]}))


def grown_in_a_window(rule: str, window: str, expected: str, size: int, lost: int) -> Case:
    """Begin with nobody who leaves, grow within the window, and lose the newcomers as above."""
    grown = company(size, gone=size)
    began_with, last, new = company(size - lost), deactivated(grown, lost - 1), deactivated(grown, lost)
    accepted = [active(began_with), active(grown), active(last)]
    return Case(f"{lost} of {size}, grown", rule, expected, new, before(last, **{window: accepted}))


def cycle(expected: str, alike: int, customers: int) -> Compared:
    return Compared(f"{alike} of {customers}", "cycle", expected, lambda: brakes.is_of_everybody(alike, customers))


def lag(expected: str, seconds: float) -> Compared:
    return Compared(f"{seconds} s", "lag", expected, lambda: not brakes.is_recent(timedelta(seconds=seconds)))


def quiet(expected: str, seconds: float) -> Compared:
    return Compared(f"{seconds} s", "quiet", expected, lambda: brakes.is_too_quiet(timedelta(seconds=seconds)))


CASES: list[Case | Compared] = [
    *(loss("passes", *case) for case in PASSING_LOSSES),
    *(loss("holds", *case) for case in HELD_LOSSES),
    *(over_a_window("lost_in_a_day", "active_in_a_day", "passes", *case) for case in PASSING_LOSSES),
    *(over_a_window("lost_in_a_day", "active_in_a_day", "holds", *case) for case in HELD_LOSSES),
    *(over_a_window("lost_in_a_week", "active_in_a_week", "passes", *case) for case in PASSING_WEEKS),
    *(over_a_window("lost_in_a_week", "active_in_a_week", "holds", *case) for case in HELD_WEEKS),
    *(grown_in_a_window("lost_in_a_day", "active_in_a_day", "passes", *case) for case in PASSING_LOSSES),
    *(grown_in_a_window("lost_in_a_day", "active_in_a_day", "holds", *case) for case in HELD_LOSSES),
    *(grown_in_a_window("lost_in_a_week", "active_in_a_week", "passes", *case) for case in PASSING_WEEKS),
    *(grown_in_a_window("lost_in_a_week", "active_in_a_week", "holds", *case) for case in HELD_WEEKS),
    *(vanished("passes", *case) for case in PASSING_VANISHED),
    *(vanished("holds", *case) for case in HELD_VANISHED),
    *(promotion("passes", *case) for case in PASSING_ADMINS),
    *(promotion("holds", *case) for case in HELD_ADMINS),
    *(mfa_off("passes", *case) for case in PASSING_MFA),
    *(mfa_off("warns", *case) for case in WARNED_MFA),
    *(growth(expected, *case) for expected, sizes in GROWTH.items() for case in sizes),
    *(cycle("passes", *case) for case in [(1, 1), (2, 2), (2, 5), (3, 30), (100, 1000), (0, 0)]),
    *(cycle("holds", *case) for case in [(3, 3), (3, 29), (4, 39), (101, 1000), (1000, 1000)]),
    *(lag("passes", seconds) for seconds in (0, 300, -300)),
    *(lag("holds", seconds) for seconds in (300.1, 301, -301)),
    *(quiet("passes", seconds) for seconds in (0, 86_400)),
    *(quiet("holds", seconds) for seconds in (86_400.1, 86_401)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.rule}: {case.name}")
def test_every_limit(case: Case | Compared) -> None:
    assert case.verdict() == case.expected


def test_the_limits_are_those_that_were_agreed() -> None:
    assert {field.name: getattr(LIMITS, field.name) for field in fields(LIMITS)} == {
        "small": 25,
        "lost": ShareLimit(20, 5),
        "lost_in_a_day": ShareLimit(20, 5),
        "lost_in_a_week": ShareLimit(40, 5),
        "lost_of_few": ShareLimit(50, 3),
        "vanished": ShareLimit(5, 3),
        "vanished_anyway": 10,
        "more_admins": 3,
        "admin_points": 10,
        "admin_times": 2,
        "without_mfa_points": 20,
        "growth_warns_times": 3,
        "growth_warns_above": 50,
        "growth_holds_times": 10,
        "alike": ShareLimit(10, 3),
        "standby_lag_seconds": 300,
        "standby_quiet_seconds": 86_400,
    }


# A limit a notch away, for each. Where one notch makes no difference with whole people (25 users lose 6 before they
# lose "above 20 %", so that "at least 5" is always reached, and 12 of 23 is the least that is above half), it is the
# first notch that does.
MUTANTS: list[dict[str, Any]] = [
    {"small": 24}, {"small": 26},
    {"lost": ShareLimit(19, 5)}, {"lost": ShareLimit(21, 5)}, {"lost": ShareLimit(20, 7)},
    {"lost_in_a_day": ShareLimit(19, 5)}, {"lost_in_a_day": ShareLimit(21, 5)}, {"lost_in_a_day": ShareLimit(20, 7)},
    {"lost_in_a_week": ShareLimit(39, 5)}, {"lost_in_a_week": ShareLimit(41, 5)},
    {"lost_in_a_week": ShareLimit(40, 12)},
    {"lost_of_few": ShareLimit(49, 3)}, {"lost_of_few": ShareLimit(53, 3)},
    {"lost_of_few": ShareLimit(50, 2)}, {"lost_of_few": ShareLimit(50, 4)},
    {"vanished": ShareLimit(4, 3)}, {"vanished": ShareLimit(6, 3)},
    {"vanished": ShareLimit(5, 2)}, {"vanished": ShareLimit(5, 4)},
    {"vanished_anyway": 9}, {"vanished_anyway": 11},
    {"more_admins": 2}, {"more_admins": 4}, {"admin_points": 9}, {"admin_points": 11},
    {"admin_times": 1}, {"admin_times": 3},
    {"without_mfa_points": 19}, {"without_mfa_points": 21},
    {"growth_warns_times": 2}, {"growth_warns_times": 4}, {"growth_warns_above": 49}, {"growth_warns_above": 51},
    {"growth_holds_times": 9}, {"growth_holds_times": 11},
    {"alike": ShareLimit(9, 3)}, {"alike": ShareLimit(11, 3)}, {"alike": ShareLimit(10, 2)},
    {"alike": ShareLimit(10, 4)}, {"standby_lag_seconds": 299}, {"standby_lag_seconds": 301},
    {"standby_quiet_seconds": 86_399}, {"standby_quiet_seconds": 86_401},
]  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_the_table_notices_a_limit_that_moved(mutant: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brakes, "LIMITS", replace(LIMITS, **mutant))
    assert [case.name for case in CASES if case.verdict() != case.expected]


@pytest.mark.parametrize("states", [slice(0, 1), slice(1, None)], ids=["the first alone", "all but the first"])
def test_the_table_notices_a_window_of_which_not_every_state_counts(
    states: slice, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = brakes._lost_since

    def of_some(now: Any, earlier: Any, rule: str, plain: ShareLimit, window: Sequence[frozenset[str]]) -> Brake | None:
        return whole(now, earlier, rule, plain, window[states])

    monkeypatch.setattr(brakes, "_lost_since", of_some)
    assert {case.rule for case in CASES if case.verdict() != case.expected} == {"lost_in_a_day", "lost_in_a_week"}


def test_every_limit_has_mutants() -> None:
    assert {name for mutant in MUTANTS for name in mutant} == {field.name for field in fields(LIMITS)}


LOSS = ["lost", "lost_in_a_day", "lost_in_a_week"]


@pytest.mark.parametrize(
    ("last", "new", "expected"),
    [
        pytest.param(company(40), company(40), [], id="nothing"),
        pytest.param(company(40), deactivated(company(40), 1), [], id="somebody leaves"),
        pytest.param(company(40), company(41), [], id="somebody comes"),
        pytest.param(company(40, gone=20), company(40), [], id="the departed are forgotten"),
        pytest.param(company(1), deactivated(company(1), 1), ["nobody_active"], id="the only one leaves"),
        pytest.param(company(0, gone=3), company(0, gone=3), ["nobody_active"], id="nobody was active before either"),
        pytest.param(company(10), deactivated(company(10), 10), ["nobody_active", *LOSS], id="everybody leaves"),
        pytest.param(company(10), no_states(), ["nobody", *LOSS, "vanished"], id="an empty read"),
        pytest.param(company(1), no_states(), ["nobody"], id="an empty read of one"),
        pytest.param(company(100), deactivated(company(100), 30), LOSS[:2], id="a third leaves"),
        pytest.param(company(100), without(company(100), 6), ["vanished"], id="a few vanish"),
        pytest.param(company(100), without(company(100), 21), [*LOSS[:2], "vanished"], id="a fifth vanishes"),
        pytest.param(company(100), company(100, admins=100), ["admins"], id="the same count, but all admins"),
        pytest.param(company(100), company(100, off=100), ["without_mfa"], id="the same count, MFA off"),
        pytest.param(company(100), company(1001), ["growth"], id="a tenfold company"),
        pytest.param(
            company(100),
            without(company(100, admins=100, off=100), 50),
            [*LOSS, "vanished", "admins", "without_mfa"],
            id="everything at once",
        ),
        pytest.param(company(0, gone=1), company(1), ["growth"], id="from nobody active to somebody"),
        pytest.param(
            company(30), company(0, gone=30), ["nobody_active", *LOSS, "vanished"], id="all others than before"
        ),
    ],
)
def test_which_rules_trip_together(last: pd.DataFrame, new: pd.DataFrame, expected: list[str]) -> None:
    assert rules(judge(new, before(last))) == expected
    assert expected == sorted(expected, key=RULES.index)


def test_a_true_mfa_off_is_never_held() -> None:
    found = judge(company(1000, off=1000), before(company(1000)))
    assert rules(found) == ["without_mfa"]
    assert held(found) == []
    assert change_hash(found) == ""


def test_unknown_mfa_and_sso_are_not_without_mfa() -> None:
    rows = to_json(company(10))
    for mfa in ("unknown", "sso"):
        assert judge(from_json([[*row[:4], mfa] for row in rows]), before(company(10))) == []


def test_deactivated_admins_and_people_without_mfa_are_not_counted() -> None:
    departed = [[f"d{n}", "DEACTIVATED", "ADMIN", "PASSWORD", "off"] for n in range(50)]
    assert judge(from_json(to_json(company(10)) + departed), before(company(10))) == []


@pytest.mark.parametrize(
    ("rule", "last", "possible", "new"),
    [
        ("lost", company(80), company(100), company(79)),
        ("vanished", company(80), company(91), company(80)),
        ("admins", company(100, admins=90), company(100, admins=1), company(100, admins=90)),
        ("without_mfa", company(100, off=90), company(100), company(100, off=90)),
        ("growth", company(100), company(9), company(100)),
    ],
)
def test_the_worst_of_what_vanta_may_have_counts(
    rule: str, last: pd.DataFrame, possible: pd.DataFrame, new: pd.DataFrame
) -> None:
    assert rule not in rules(judge(new, before(last)))
    for states in ((possible,), (last, possible), (possible, last)):
        assert rule in rules(judge(new, before(last, possible=states)))
    assert rule in rules(judge(new, before(possible, possible=(last,))))


def test_a_state_that_vanta_may_have_counts_on_a_first_push_too() -> None:
    first = before(no_states(), possible=(company(100),), at_vanta=frozenset(company(100).index), is_first=True)
    assert rules(judge(deactivated(company(100), 21), first)) == ["lost"]


def test_the_loss_is_told_of_the_worst_and_held_of_all() -> None:
    last, possible = company(30), from_json([[f"p{n}", "ACTIVE", "BASE", "SSO", "sso"] for n in range(10)])
    found = judge(deactivated(last, 7), before(last, possible=(possible,)))
    lost, vanished = only(found, "lost"), only(found, "vanished")
    assert lost.detail.startswith("10 of 10 active users would no longer be active (100 %, limit 50 % and 3): p0, p1,")
    assert {change.unique_id for change in lost.changes} == {f"a{n:04}" for n in range(23, 30)} | set(possible.index)
    assert {change.unique_id for change in vanished.changes} == set(possible.index)


@pytest.mark.parametrize(
    ("rule", "new", "states", "detail"),
    [
        ("vanished", company(50), (company(100), company(200)), "150 of 200 active users would vanish"),
        ("admins", company(9, admins=9), (company(9, admins=3), company(9)), "Admins would go from 0 of 9"),
    ],
)
def test_other_rules_tell_of_the_worst_too(
    rule: str, new: pd.DataFrame, states: tuple[pd.DataFrame, pd.DataFrame], detail: str
) -> None:
    one, other = states
    for earlier in (before(one, possible=(other,)), before(other, possible=(one,))):
        assert only(judge(new, earlier), rule).detail.startswith(detail)


@pytest.mark.parametrize("window", ["active_in_a_day", "active_in_a_week"])
def test_a_window_does_not_hold_what_takes_nobody_away(window: str) -> None:
    earlier = [active(company(100))]
    assert judge(company(50), before(company(50), **{window: earlier})) == []
    assert judge(company(51), before(company(50), **{window: earlier})) == []
    assert held(judge(deactivated(company(50), 1), before(company(50), **{window: earlier})))


def test_the_worst_state_of_a_window_is_told_of() -> None:
    """That is the one with the largest share lost, whether or not most are lost of it."""
    states = [
        active(company(100)),
        active(company(100)) - active(company(45)),
        frozenset(sorted(active(company(9)))[:9]),
    ]
    found = judge(company(74), before(company(75), active_in_a_day=states))
    assert only(found, "lost_in_a_day").detail.startswith("26 of 55 active users would be lost over 24 hours (47.3 %, ")


def test_who_came_and_went_within_a_window_is_counted_where_he_was() -> None:
    """Fifteen of a hundred at a time: whatever state is compared with, no more than they are gone."""
    settled = active(company(85))
    window = [settled | {f"guest{n}-{hour}" for n in range(15)} for hour in range(24)]
    last = from_json([[unique, "ACTIVE", "BASE", "SSO", "sso"] for unique in window[-1]])
    quiet = before(last, active_in_a_day=window, active_in_a_week=window)
    guests_left = last.assign(status=last["status"].mask(~last.index.isin(settled), "DEACTIVATED"))
    assert judge(guests_left, quiet) == []
    assert rules(judge(deactivated(guests_left, 6), quiet)) == LOSS[:2]


def test_a_window_that_moves_on_voids_no_approval() -> None:
    last, new = company(78), deactivated(company(78), 2)
    hashes = {
        change_hash(
            judge(new, before(last, active_in_a_day=[active(company(day))], active_in_a_week=[active(company(week))]))
        )
        for day, week in [(100, 100), (100, 200), (96, 100), (96, 127), (78, 127)]
    }
    assert len(hashes) == 1
    assert hashes != {""}


See = Callable[[list[frozenset[str]]], list[frozenset[str]]]


def leak(states: list[pd.DataFrame], see: See = list) -> list[pd.DataFrame]:
    """Push each state an hour after the one before; returns what was accepted."""
    accepted = states[:1]
    for hour, truth in enumerate(states[1:], 1):
        window = see([active(state) for state in accepted])
        found = held(judge(truth, before(accepted[-1], active_in_a_day=window, active_in_a_week=window)))
        accepted += [] if found else [truth]
        if hour == 1:
            assert "lost" not in rules(found)
    return accepted


def require_four_fifths(accepted: list[pd.DataFrame]) -> None:
    """See that none of the states that Vanta had within the day lost more than a fifth by its end."""
    now = active(accepted[-1])
    for state in map(active, accepted):
        assert 100 * len(state & now) >= 80 * len(state)


def leaking(states: list[pd.DataFrame], percent: int) -> list[pd.DataFrame]:
    """Lose so many percent an hour until a day is full: at least one, and never more than an hour by itself may."""
    while len(states) <= 24:
        truth = states[-1]
        states = [*states, deactivated(truth, max(1, len(active(truth)) * percent // 100))]
    return states


@pytest.mark.parametrize("percent", [1, 5, 15, 20])
@pytest.mark.parametrize("size", [25, 100, 1000])
def test_a_slow_leak_is_held_within_the_day(size: int, percent: int) -> None:
    require_four_fifths(leak(leaking([company(size)], percent)))


@pytest.mark.parametrize("percent", [1, 5, 15, 20])
@pytest.mark.parametrize("growth", [[30, 200], [100, 1000], [30, 60, 90, 270, 600]], ids=str)
def test_a_slow_leak_of_those_who_came_within_the_day_is_held_within_it(growth: list[int], percent: int) -> None:
    require_four_fifths(leak(leaking([company(size) for size in growth], percent)))


@pytest.mark.parametrize(
    ("states", "see"),
    [
        pytest.param([company(100)], lambda window: window[-1:], id="the last hour alone"),
        pytest.param([company(100)], lambda _: [], id="no window"),
        pytest.param([company(30), company(200)], lambda window: window[:1], id="only who was there a day ago"),
    ],
)
def test_a_leak_that_no_window_sees_is_caught(states: list[pd.DataFrame], see: See) -> None:
    with pytest.raises(AssertionError):
        require_four_fifths(leak(leaking(states, 15), see))


@pytest.mark.parametrize("growth", [[1000], [300, 1000]], ids=str)
def test_a_leak_of_15_percent_for_eight_hours_is_held_in_the_second(growth: list[int]) -> None:
    states = [company(size) for size in growth]
    for _ in range(8):
        states.append(deactivated(states[-1], len(active(states[-1])) * 15 // 100))
    accepted = leak(states)
    assert [len(active(state)) for state in accepted] == [*growth, 850]


def first_push(at_vanta: Iterable[str] | None) -> Before:
    listed = None if at_vanta is None else frozenset(at_vanta)
    quiet = before(no_states())
    return replace(quiet, at_vanta=listed, is_first=True)


def test_a_first_push_onto_an_empty_list_goes_out() -> None:
    assert judge(company(1000, admins=500, off=500), first_push([])) == []


def test_a_first_push_onto_our_own_ids_goes_out() -> None:
    ours = company(3, gone=2)
    assert judge(ours, first_push(ours.index)) == []
    assert judge(ours, first_push(list(ours.index)[:2])) == []


def test_a_first_push_that_would_remove_foreign_ids_is_held() -> None:
    ours = from_json([[UUIDS[n], "ACTIVE", "BASE", "SSO", "sso"] for n in range(2)])
    (brake,) = judge(ours, first_push(UUIDS))
    assert brake == Brake(
        "first_push",
        "6 of 8 accounts that Vanta lists are not ours: " + ", ".join(UUIDS[2:7]) + " and 1 more",
        holds=True,
        changes=tuple(HeldChange("first_push", unique_id, "LISTED", "") for unique_id in UUIDS[2:]),
    )
    assert change_hash([brake]) != change_hash(judge(ours, first_push(UUIDS[:7])))


def test_a_first_push_whose_list_could_not_be_had_is_held() -> None:
    (brake,) = judge(company(3), first_push(None))
    assert (brake.rule, brake.holds, brake.changes) == ("first_push", True, (HeldChange("first_push", "", "", ""),))
    assert change_hash([brake]) not in {"", change_hash(judge(company(3), first_push(["x"])))}


def test_a_first_push_of_nobody_is_held() -> None:
    assert rules(judge(no_states(), first_push([]))) == ["nobody"]
    assert rules(judge(company(0, gone=1), first_push([]))) == ["nobody_active"]


def test_the_list_is_looked_at_on_a_first_push_only() -> None:
    assert judge(company(3), before(company(3), at_vanta=frozenset(["x"]))) == []


@pytest.mark.parametrize(
    ("new", "earlier", "detail"),
    [
        (
            deactivated(company(40), 12),
            before(company(40), active_in_a_day=[]),
            "12 of 40 active users would no longer be active (30 %, limit 20 % and 5): "
            "a0028, a0029, a0030, a0031, a0032 and 7 more",
        ),
        (
            deactivated(company(10), 6),
            before(company(10), active_in_a_day=[], active_in_a_week=[]),
            "6 of 10 active users would no longer be active (60 %, limit 50 % and 3): "
            "a0004, a0005, a0006, a0007, a0008 and 1 more",
        ),
        (
            deactivated(company(30), 1),
            before(company(30), active_in_a_day=[active(company(40))]),
            "11 of 40 active users would be lost over 24 hours (27.5 %, limit 20 % and 5), "
            "and this push takes away 1: a0029",
        ),
        (
            deactivated(company(30), 2),
            before(company(30), active_in_a_week=[active(company(48))]),
            "20 of 48 active users would be lost over 7 days (41.7 %, limit 40 % and 5), "
            "and this push takes away 2: a0028, a0029",
        ),
        (
            without(company(59), 3),
            before(company(59)),
            "3 of 59 active users would vanish, not even deactivated (5.1 %, limit 5 % and 3, or 10): "
            "a0056, a0057, a0058",
        ),
        (
            company(40, admins=6),
            before(company(40, admins=2)),
            "Admins would go from 2 of 40 active users (5 %) to 6 of 40 active users (15 %), "
            "limit 3 more and either 10 points up or 2 times the share: a0002, a0003, a0004, a0005",
        ),
        (
            company(40, off=9),
            before(company(40)),
            "People without MFA would go from 0 of 40 active users (0 %) to 9 of 40 active users (22.5 %), "
            "limit 20 points up: a0000, a0001, a0002, a0003, a0004 and 4 more",
        ),
        (
            company(101),
            before(company(10)),
            "10 active users would become 101, more than 10 times as many: "
            "a0010, a0011, a0012, a0013, a0014 and 86 more",
        ),
        (
            company(51),
            before(company(10)),
            "10 active users would become 51, more than 3 times as many: a0010, a0011, a0012, a0013, a0014 and 36 more",
        ),
        (
            deactivated(company(2), 2),
            before(company(2)),
            "None of 2 users would be active, and this push takes away 2: a0000, a0001",
        ),
        (
            company(0, gone=2),
            before(company(0, gone=2)),
            "None of 2 users would be active, and this push takes away 0",
        ),
        (no_states(), before(company(2)), "There is nobody to send: Vanta would deactivate everybody"),
        (
            company(2),
            first_push(None),
            "What Vanta lists could not be read, so what a first push would remove is not known",
        ),
    ],
)
def test_one_sentence_says_what_trips(new: pd.DataFrame, earlier: Before, detail: str) -> None:
    assert [brake.detail for brake in judge(new, earlier)] == [detail]


def hash_of(new: pd.DataFrame, earlier: Before) -> str:
    return change_hash(judge(new, earlier))


def test_the_hash_is_that_of_the_held_changes() -> None:
    last = company(10)
    new = without(deactivated(last, 6), 1)  # the last of those who leave
    assert judge(new, before(last))[0].changes == (
        *(HeldChange("lost", f"a000{n}", "ACTIVE", "DEACTIVATED") for n in range(4, 9)),
        HeldChange("lost", "a0009", "ACTIVE", ""),
    )
    written = (
        '[["lost","a0004","ACTIVE","DEACTIVATED"],["lost","a0005","ACTIVE","DEACTIVATED"],'
        '["lost","a0006","ACTIVE","DEACTIVATED"],["lost","a0007","ACTIVE","DEACTIVATED"],'
        '["lost","a0008","ACTIVE","DEACTIVATED"],["lost","a0009","ACTIVE",""]]'
    )
    assert hash_of(new, before(last)) == sha256(written.encode()).hexdigest()


def test_each_rule_holds_its_own_changes() -> None:
    promoted = only(judge(company(10, admins=8), before(company(10, admins=5))), "admins")
    assert promoted.changes == tuple(HeldChange("admins", f"a000{n}", "", "ADMIN") for n in (5, 6, 7))
    grown = only(judge(company(12, gone=1), before(company(1, gone=2))), "growth")
    assert grown.changes == tuple(HeldChange("growth", f"a{n:04}", "", "ACTIVE") for n in range(1, 12))
    gone = only(judge(without(company(40), 3), before(company(40))), "vanished")
    assert gone.changes == tuple(HeldChange("vanished", f"a{n:04}", "ACTIVE", "") for n in (37, 38, 39))
    emptied = only(judge(deactivated(company(2), 2), before(company(2))), "nobody_active")
    assert emptied.changes == tuple(HeldChange("nobody_active", f"a000{n}", "ACTIVE", "DEACTIVATED") for n in (0, 1))
    nobody = only(judge(no_states(), before(company(1))), "nobody")
    assert nobody.changes == (HeldChange("nobody", "a0000", "ACTIVE", ""),)
    still_nobody = only(judge(company(0, gone=1), before(company(0, gone=1))), "nobody_active")
    assert still_nobody.changes == (HeldChange("nobody_active", "", "", ""),)


def test_nothing_held_has_no_hash() -> None:
    assert hash_of(company(10), before(company(10))) == ""
    assert change_hash([]) == ""


def test_a_brake_without_changes_of_its_own_still_has_a_hash_of_its_own() -> None:
    found = {change_hash([Brake(rule, "", holds=True)]) for rule in ("replica_lag", "organization_gone")}
    assert len(found) == 2
    assert "" not in found


LAST = company(40, gone=5, admins=2)
HELD = deactivated(company(40, admins=2), 12)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda states: states.iloc[::-1], id="order"),
        pytest.param(lambda states: states.assign(mfa="off"), id="MFA"),
        pytest.param(lambda states: states.assign(login="SSO", mfa="sso"), id="login"),
        pytest.param(lambda states: with_row(states, ["a0000", "ACTIVE", "BASE", "SSO", "sso"]), id="level"),
        pytest.param(lambda states: with_row(states, ["new", "ACTIVE", "BASE", "SSO", "sso"]), id="a new hire"),
        pytest.param(lambda states: with_row(states, ["new", "DEACTIVATED", "BASE", "SSO", "sso"]), id="a new record"),
        pytest.param(lambda states: with_row(states, ["g0001", "ACTIVE", "BASE", "SSO", "sso"]), id="one comes back"),
        pytest.param(lambda states: with_row(states, ["a0039", "DEACTIVATED", "ADMIN", "SSO", "sso"]), id="a lost one"),
    ],
)
def test_what_is_no_loss_keeps_the_hash(change: Any) -> None:
    assert hash_of(change(HELD), before(LAST)) == hash_of(HELD, before(LAST)) != ""


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda states: deactivated(states, 1), id="one more"),
        pytest.param(lambda states: with_row(states, ["a0039", "ACTIVE", "BASE", "PASSWORD", "on"]), id="one less"),
        pytest.param(lambda states: without(states, 1), id="one vanished instead"),
        pytest.param(lambda states: with_row(states, ["a0000", "DEACTIVATED", "ADMIN", "SSO", "sso"]), id="an admin"),
        pytest.param(
            lambda states: with_row(
                with_row(states, ["a0039", "ACTIVE", "BASE", "PASSWORD", "on"]),
                ["a0010", "DEACTIVATED", "BASE", "PASSWORD", "on"],
            ),
            id="another instead",
        ),
        pytest.param(lambda states: states.assign(level="ADMIN"), id="another rule too"),
    ],
)
def test_another_loss_changes_the_hash(change: Any) -> None:
    assert hash_of(change(HELD), before(LAST)) not in {hash_of(HELD, before(LAST)), ""}


def with_row(states: pd.DataFrame, row: list[str]) -> pd.DataFrame:
    return from_json([old for old in to_json(states) if old[0] != row[0]] + [row])


@pytest.mark.parametrize(
    ("rule", "last", "new"),
    [
        pytest.param("vanished", company(60), without(company(60), 4), id="vanished"),
        pytest.param("admins", company(60), company(60, admins=10), id="admins"),
        pytest.param("growth", company(30), company(400), id="growth"),
        pytest.param("first_push", company(30), company(30), id="first push"),
    ],
)
def test_whatever_holds_another_loss_changes_the_hash(rule: str, last: pd.DataFrame, new: pd.DataFrame) -> None:
    is_first = rule == "first_push"
    old = before(last, at_vanta=frozenset([*last.index, "theirs"]) if is_first else None, is_first=is_first)
    one_less = with_row(new, ["a0005", "DEACTIVATED", "BASE", "PASSWORD", "on"])
    another = with_row(new, ["a0006", "DEACTIVATED", "BASE", "PASSWORD", "on"])
    found = [judge(states, old) for states in (new, one_less, another)]
    assert all(rules(held(each)) == [rule] for each in found)
    assert len({change_hash(each) for each in found}) == 3


def test_another_admin_or_another_hire_of_a_held_growth_changes_the_hash() -> None:
    last = company(100)
    assert hash_of(company(100, admins=50), before(last)) != hash_of(company(100, admins=51), before(last))
    assert hash_of(company(1001), before(last)) != hash_of(company(1002), before(last))
