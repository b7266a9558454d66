"""What has to hold for every history, found by hypothesis, and the rules written a second time."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import pandas as pd
import pytest
from hypothesis import given, settings

from symvanta_pipeline.accounts import brakes
from symvanta_pipeline.accounts.brakes import LIMITS, Before, Brake, ShareLimit, change_hash, held, judge
from symvanta_pipeline.accounts.state import from_json, to_json

LOSS = {"lost", "lost_in_a_day", "lost_in_a_week", "vanished"}


def active(states: pd.DataFrame) -> frozenset[str]:
    return frozenset(states.index[states["status"] == "ACTIVE"])


def before(last: pd.DataFrame, **columns: Any) -> Before:
    """Return a quiet week that ended in this state."""
    quiet = Before(last, (), [active(last)], [active(last)], at_vanta=None, is_first=False)
    return replace(quiet, **columns)


def rules(found: Iterable[Brake]) -> list[str]:
    return [brake.rule for brake in found]


PEOPLE = st.sampled_from(
    [
        None,
        ("ACTIVE", "BASE", "SSO", "sso"),
        ("ACTIVE", "BASE", "PASSWORD", "off"),
        ("ACTIVE", "ADMIN", "PASSWORD", "on"),
        ("DEACTIVATED", "BASE", "SSO", "sso"),
        ("DEACTIVATED", "ADMIN", "PASSWORD", "off"),
    ]
)


@st.composite
def states_of_one_company(draw: st.DrawFn, count: int) -> list[pd.DataFrame]:
    """Draw states of the same people, each either close to the one before or all new."""
    people = draw(st.integers(0, 60))
    drawn: list[list[Any]] = [[draw(PEOPLE)] * people]
    for _ in range(count):
        changed = draw(st.dictionaries(st.integers(0, max(people - 1, 0)), PEOPLE, max_size=people))
        stretch = draw(st.integers(0, people))
        row = draw(PEOPLE)
        drawn.append([changed.get(n, row if n < stretch else old) for n, old in enumerate(drawn[-1])])
    return [
        from_json([(f"u{n:02}", *person) for n, person in enumerate(people) if person is not None])
        for people in drawn[1:]
    ]


@given(states_of_one_company(1))
def test_a_state_that_does_not_change_holds_nothing(states: list[pd.DataFrame]) -> None:
    (same,) = states
    found = held(judge(same, before(same, possible=(same,))))
    expected = [] if len(active(same)) else ["nobody_active"] if len(same) else ["nobody"]
    assert rules(found) == expected


@given(states_of_one_company(4), st.integers(0, 1000))
@settings(max_examples=50)
def test_the_order_of_rows_changes_nothing(states: list[pd.DataFrame], seed: int) -> None:
    last, possible, earlier, new = states
    shuffled = [frame.sample(frac=1, random_state=seed) for frame in (last, possible, new)]
    windows = {"active_in_a_day": [active(earlier)], "active_in_a_week": [active(earlier), active(last)]}
    found = judge(new, before(last, possible=(possible,), **windows))
    assert judge(shuffled[2], before(shuffled[0], possible=(shuffled[1],), **windows)) == found


@given(states_of_one_company(4), st.booleans(), st.data())
def test_one_more_loss_never_releases_a_loss(states: list[pd.DataFrame], vanishes: bool, data: st.DataObject) -> None:
    last, possible, earlier, new = states
    old = before(last, possible=(possible,), active_in_a_day=[active(earlier)], active_in_a_week=[active(earlier)])
    remaining = sorted(active(new) & active(last))
    if not remaining:
        return
    leaving = data.draw(st.sampled_from(remaining))
    rows = [row for row in to_json(new) if row[0] != leaving]
    after = from_json(rows if vanishes else [*rows, [leaving, "DEACTIVATED", "BASE", "SSO", "sso"]])
    was, is_now = held(judge(new, old)), held(judge(after, old))
    assert LOSS.intersection(rules(was)) <= LOSS.intersection(rules(is_now))
    if "lost" in rules(was):
        assert change_hash(is_now) != change_hash(was)


# Hour by hour: how many come, how many leave, and whether those are the latest or the first who came.
HOURS = st.lists(
    st.tuples(st.sampled_from([0, 0, 1, 5, 40, 200]), st.integers(0, 30), st.booleans()), min_size=1, max_size=30
)
See = Callable[[Sequence[frozenset[str]]], Sequence[frozenset[str]]]


def live(hours: Iterable[tuple[int, int, bool]], see: See = tuple) -> None:
    """Let people come and leave, and see after each hour that no state of the last day lost too many of its own.

    Args:
        hours: what happens in each.
        see: what a brake is shown of the day.
    """
    names = (f"u{n:05}" for n in itertools.count())
    truth = list(itertools.islice(names, 60))
    everybody = [*truth]
    accepted = [as_states(truth, everybody)]  # what Vanta has, hour by hour
    for coming, leaving, latest in hours:
        kept = max(len(truth) - leaving, 0)
        hired = list(itertools.islice(names, coming))
        truth = (truth[:kept] if latest else truth[len(truth) - kept :]) + hired
        everybody += hired
        day = [active(states) for states in accepted[-24:]]
        push = as_states(truth, everybody)
        passes = not held(judge(push, before(accepted[-1], active_in_a_day=see(day))))
        accepted.append(push if passes else accepted[-1])
        for state in day:
            assert not too_many(len(state - active(accepted[-1])), len(state), 20)


def as_states(ids: Iterable[str], everybody: Iterable[str]) -> pd.DataFrame:
    here = frozenset(ids)
    return from_json([i, "ACTIVE" if i in here else "DEACTIVATED", "BASE", "SSO", "sso"] for i in everybody)


@given(HOURS)
@settings(max_examples=60)
def test_no_leak_takes_more_than_a_fifth_in_a_day(hours: list[tuple[int, int, bool]]) -> None:
    live(hours)


@pytest.mark.parametrize(
    ("hours", "see"),
    [
        pytest.param([(0, 9, True)] * 3, lambda day: day[-1:], id="the last hour alone"),
        pytest.param([(200, 0, True), *[(0, 30, True)] * 3], lambda day: day[:1], id="only who was there a day ago"),
    ],
)
def test_a_leak_that_a_brake_is_not_shown_is_caught(hours: list[tuple[int, int, bool]], see: See) -> None:
    live(hours)
    with pytest.raises(AssertionError):
        live(hours, see)


@given(states_of_one_company(5), st.booleans(), st.booleans())
def test_a_second_writing_of_the_rules_agrees(states: list[pd.DataFrame], is_first: bool, is_listed: bool) -> None:
    last, possible, day, week, new = states
    listed = frozenset(day.index) if is_listed else None
    old = Before(last, (possible,), [active(day)], [active(week), active(day)], listed, is_first)
    assert verdicts(new, old) == written_again(new, old)


# All who leave vanish, from none to half of a hundred, and a few of many.
COMPANY = [[f"u{n:03}", "ACTIVE", "BASE", "SSO", "sso"] for n in range(250)]


def some(count: int, *, gone: int = 0, admins: int = 0, off: int = 0) -> pd.DataFrame:
    """Return so many, of whom the last are deactivated, and the first are admins, or are without MFA."""
    return from_json(
        [
            f"u{n:03}",
            "ACTIVE" if n < count - gone else "DEACTIVATED",
            "ADMIN" if n < admins else "BASE",
            "PASSWORD",
            "off" if n < off else "on",
        ]
        for n in range(count)
    )


PUSHES = [
    *(
        (from_json(COMPANY[: size - leaving]), before(from_json(COMPANY[:size])))
        for size, most in ((100, 50), (250, 12))
        for leaving in range(most)
    ),
    *((some(size, gone=gone), before(some(size))) for size in (24, 25, 26) for gone in range(size + 1)),
    *((some(100, admins=now), before(some(100, admins=was))) for was in (0, 2, 20, 40) for now in range(60)),
    *((some(100, off=now), before(some(100, off=10))) for now in range(60)),
    *((some(now), before(some(was))) for was in (10, 17, 20) for now in range(was, 12 * was)),
    *(
        (some(5), before(some(0), at_vanta=listed, is_first=True))
        for listed in (None, frozenset(["u001"]), frozenset(["x"]))
    ),
    (from_json([]), before(some(5))),
]


def test_the_second_writing_agrees_where_nothing_is_at_fault() -> None:
    assert all(verdicts(*push) == written_again(*push) for push in PUSHES)


@pytest.mark.parametrize(
    "fault",
    [
        {"small": 24},
        {"small": 26},
        {"lost": ShareLimit(21, 5)},
        {"lost_in_a_day": ShareLimit(21, 5)},
        {"lost_in_a_week": ShareLimit(41, 5)},
        {"lost_of_few": ShareLimit(55, 3)},
        {"vanished": ShareLimit(6, 3)},
        {"vanished_anyway": 11},
        {"more_admins": 2},
        {"more_admins": 4},
        {"admin_points": 11},
        {"admin_times": 3},
        {"without_mfa_points": 21},
        {"growth_warns_times": 4},
        {"growth_warns_above": 51},
        {"growth_holds_times": 11},
    ],
    ids=str,
)
def test_the_second_writing_notices_a_fault(fault: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brakes, "LIMITS", replace(LIMITS, **fault))
    assert not all(verdicts(*push) == written_again(*push) for push in PUSHES)


@pytest.mark.parametrize("rule", brakes.RULES)
def test_the_second_writing_notices_a_rule_that_is_silent(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brakes, "_lost_since" if rule in brakes.WINDOWS else f"_{rule}", lambda *_: None)
    assert not all(verdicts(*push) == written_again(*push) for push in PUSHES)


def verdicts(new: pd.DataFrame, old: Before) -> dict[str, bool]:
    return {brake.rule: brake.holds for brake in judge(new, old)}


def written_again(new: pd.DataFrame, old: Before) -> dict[str, bool]:
    """Judge once more: one state with another, in floating point, straight from the sentences of the rules."""
    now = {row[0]: row[1:] for row in to_json(new)}
    found: dict[str, bool] = {}
    if not now:
        found["nobody"] = True
    elif not on(now):
        found["nobody_active"] = True
    states = [{row[0]: row[1:] for row in to_json(frame)} for frame in (old.last, *old.possible)]
    for state in states:
        if state:
            found |= {rule: found.get(rule, False) or holds for rule, holds in against(state, now).items()}
    if any(on(state) - on(now) for state in states):
        for rule, window, percent in [
            ("lost_in_a_day", old.active_in_a_day, 20),
            ("lost_in_a_week", old.active_in_a_week, 40),
        ]:
            if any(too_many(len(active - on(now)), len(active), percent) for active in window):
                found[rule] = True
    if old.is_first and (old.at_vanta is None or old.at_vanta - now.keys()):
        found["first_push"] = True
    return found


def against(state: dict[str, list[str]], now: dict[str, list[str]]) -> dict[str, bool]:
    found: dict[str, bool] = {}
    was, is_now = on(state), on(now)
    if too_many(len(was - is_now), len(was), 20):
        found["lost"] = True
    gone = len(was - now.keys())
    if gone >= 10 or (gone >= 3 and gone / len(was) > 0.05):
        found["vanished"] = True
    admins, admins_now = on(state, 1, "ADMIN"), on(now, 1, "ADMIN")
    share, share_now = len(admins) / (len(was) or 1), len(admins_now) / (len(is_now) or 1)
    up = share_now - share > 0.1 + 1e-9 or share_now >= 2 * share - 1e-9
    if len(admins_now) - len(admins) >= 3 and up:
        found["admins"] = True
    if len(on(now, 3, "off")) / (len(is_now) or 1) - len(on(state, 3, "off")) / (len(was) or 1) > 0.2 + 1e-9:
        found["without_mfa"] = False
    if len(is_now) > 10 * len(was):
        found["growth"] = True
    elif len(is_now) > max(3 * len(was), 50):
        found["growth"] = False
    return found


def too_many(lost: int, of: int, percent: int) -> bool:
    return lost >= 3 and lost / of > 0.5 if of < 25 else lost >= 5 and lost / of > percent / 100


def on(state: dict[str, list[str]], column: int = 0, value: str = "ACTIVE") -> set[str]:
    return {i for i, row in state.items() if row[0] == "ACTIVE" and row[column] == value}
