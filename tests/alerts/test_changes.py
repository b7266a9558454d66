"""When a change is worth a message, and which are told together."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symvanta_pipeline.alerts.changes import (
    LONGEST_WAIT,
    QUIET,
    RELAPSE_WITHIN,
    Change,
    change_of,
    due_groups,
)
from symvanta_pipeline.ledger.alerts import Announced, Facts
from symvanta_pipeline.ledger.status import CustomerRecord

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
HASH = "ab" * 32


@dataclass
class Life:
    """One customer's way through time; what attempts leave behind is as `record_outcome` writes it."""

    number: int = 1
    now: datetime = NOON
    announced: Announced | None = None
    said: list[tuple[datetime, str]] = field(default_factory=list)
    accepted: list[datetime] = field(default_factory=list)
    record: CustomerRecord = field(init=False)
    facts: Facts = field(init=False)

    def __post_init__(self) -> None:
        organization = UUID(int=self.number)
        self.record = CustomerRecord(f"c{self.number:03}", organization, "connected", self.now - 9 * HOUR)
        self.facts = Facts(organization, "run")
        self.attempt("accepted")

    def attempt(self, outcome: str, kind: str | None = None) -> None:
        before = self.record
        alike = (before.outcome, before.outcome_kind) == (outcome, kind)
        change_hash = HASH if outcome == "held" else None
        held_since = None if outcome == "accepted" else before.held_since or (self.now if change_hash else None)
        self.record = replace(
            before,
            outcome=outcome,
            outcome_kind=kind,
            outcome_at=self.now,
            outcome_is_current=True,
            outcome_since=before.outcome_since if alike else self.now,
            sentence=None if outcome == "accepted" else f"sentence of {kind}",
            last_accepted_at=self.now if outcome == "accepted" else before.last_accepted_at,
            change_hash=change_hash,
            held_since=held_since,
        )
        if outcome == "accepted":
            self.accepted.append(self.now)
        if outcome == "parked":
            self.record = replace(self.record, connection_state="parked", parked_reason="invalid_grant")
            self.facts = replace(self.facts, parked_at=self.now)

    def connect(self) -> None:
        self.record = replace(
            self.record,
            connection_state="connected",
            connected_at=self.now,
            parked_reason=None,
            outcome_is_current=False,
        )

    def disconnect(self) -> None:
        self.record = replace(self.record, connection_state="disconnected", parked_reason=None)
        self.facts = replace(self.facts, disconnected_at=self.now)

    def known(self) -> Facts:
        """Return the facts as the ledger gathers them."""
        if self.announced is None or self.announced.closed_at:
            return replace(self.facts, accepted_at=None)
        since = self.announced.since
        return replace(self.facts, accepted_at=min((at for at in self.accepted if at > since), default=None))

    def change(self) -> Change | None:
        return change_of(self.record, self.known(), self.announced, self.now)

    def let_pass(self, duration: timedelta, *, every: timedelta = 10 * MINUTE) -> list[str]:
        """Look again and again, with no attempt in between; returns what was told."""
        until, told = self.now + duration, list[str]()
        while self.now < until:
            self.now += every
            told += look_at([self])
        return told

    def hourly(self, *attempts: tuple[str, str | None]) -> list[str]:
        """Attempt once an hour, with looks in between; returns what was told."""
        told = list[str]()
        for outcome, kind in attempts:
            self.attempt(outcome, kind)
            told += self.let_pass(HOUR)
        return told


def look_at(lives: list[Life]) -> list[str]:
    """Announce what is due, a text for each message."""
    now = lives[0].now
    by_id = {life.record.organization_id: life for life in lives}
    announced = {id_: life.announced for id_, life in by_id.items() if life.announced}
    groups = due_groups([life.record for life in lives], {i: life.known() for i, life in by_id.items()}, announced, now)
    for group in groups:
        for change in group:
            life = by_id[change.record.organization_id]
            life.announced = change.announces
            life.said.append((now, word(change)))
    return [word(group[0]) + (f" x{len(group)}" if len(group) > 1 else "") for group in groups]


def word(change: Change) -> str:
    return f"{change.state} {change.kind}".rstrip()


OK = ("accepted", None)
LOST, VANISHED = ("held", "lost"), ("held", "vanished")
AWAY, SOURCE = ("failing", "Unavailable"), ("failing", "SourceUnavailable")
REFUSED, BROKE_OFF = ("refused", "BodyRefused"), ("held", "SourceBrokeOff")


@pytest.mark.parametrize(
    ("attempts", "told"),
    [
        ([OK, OK], []),
        ([LOST], ["held lost"]),
        ([LOST] * 9, ["held lost"]),
        ([LOST, LOST, OK, OK], ["held lost", "recovered"]),
        ([LOST, VANISHED], ["held lost", "held vanished"]),
        ([REFUSED], ["failing BodyRefused"]),
        ([("failing", "ApplicationRefused")], ["failing ApplicationRefused"]),
        ([AWAY, OK, AWAY, OK], []),
        ([BROKE_OFF, OK, BROKE_OFF, OK], []),
        ([BROKE_OFF, BROKE_OFF, OK], ["held SourceBrokeOff", "recovered"]),
        ([("held", "SourceStale")], ["held SourceStale"]),
        ([AWAY, AWAY], ["failing Unavailable"]),
        ([AWAY] * 9, ["failing Unavailable"]),
        ([AWAY, AWAY, OK], ["failing Unavailable", "recovered"]),
        ([LOST, AWAY, LOST, LOST], ["held lost"]),
        ([LOST, AWAY, AWAY, AWAY], ["held lost", "failing Unavailable"]),
        ([("busy", None)], []),
        ([("busy", None)] * 3, ["late"]),
        ([("busy", None)] * 3 + [OK], ["late", "recovered"]),
        ([("parked", "GrantRefused")], ["parked"]),
        ([("parked", "GrantRefused")] * 9, ["parked"]),
        # Never twice alike, so never "the next attempt failed alike": told all the same.
        ([AWAY, SOURCE, AWAY], ["failing Unavailable"]),
        # What was said of this trouble before is said again once it lasts.
        ([LOST, VANISHED, LOST, VANISHED, LOST, VANISHED], ["held lost", "held vanished"]),
        ([LOST, VANISHED, LOST, LOST, LOST, LOST], ["held lost", "held vanished", "held lost"]),
        # Who comes and goes is in trouble, until it rests.
        ([LOST, OK] * 6, ["held lost", "recovered", "held lost"]),
        ([LOST, OK] * 3 + [OK] * 3, ["held lost", "recovered", "held lost", "recovered"]),
    ],
)
def test_what_hourly_attempts_announce(attempts: list[tuple[str, str | None]], told: list[str]) -> None:
    assert Life().hourly(*attempts) == told


def test_a_first_push_is_no_news_and_waiting_for_it_is_once_it_takes_too_long() -> None:
    new = Life()
    new.record = CustomerRecord("new", new.record.organization_id, "connected", new.now)
    assert new.let_pass(90 * MINUTE) == []
    assert new.let_pass(20 * MINUTE) == ["late"]
    assert new.hourly(OK) == ["recovered"]
    fresh = Life()
    fresh.record = CustomerRecord("fresh", fresh.record.organization_id, "connected", fresh.now)
    assert fresh.hourly(OK) == []


def test_a_reconnected_customer_has_recovered_once_something_is_accepted() -> None:
    life = Life()
    life.hourly(OK)
    life.attempt("parked", "GrantRefused")
    assert life.let_pass(HOUR) == ["parked"]
    life.connect()
    # For some minutes it looks healthy, and then late: neither is true of what happened since the consent.
    assert life.let_pass(80 * MINUTE) == []
    assert life.hourly(OK) == ["recovered"]


def test_a_reconnected_customer_that_is_not_pushed_is_late() -> None:
    life = Life()
    life.attempt("parked", "GrantRefused")
    life.let_pass(3 * HOUR)
    life.connect()
    assert life.let_pass(89 * MINUTE, every=MINUTE) == []
    assert life.let_pass(10 * MINUTE) == ["late"]


def test_disconnecting_ends_what_was_announced_and_is_no_news_otherwise() -> None:
    life = Life()
    life.disconnect()
    assert life.let_pass(9 * HOUR) == []
    life.connect()
    assert life.hourly(OK, LOST) == ["held lost"]
    life.disconnect()
    assert life.let_pass(9 * HOUR) == ["disconnected"]
    life.connect()
    assert life.hourly(OK, OK, LOST) == ["held lost"]


def test_a_relapse_after_a_day_is_a_trouble_of_its_own() -> None:
    life = Life()
    life.hourly(LOST, OK)
    assert life.announced is not None
    assert life.announced.closed_at is not None
    life.hourly(*[OK] * (RELAPSE_WITHIN // HOUR))
    assert life.hourly(LOST, OK) == ["held lost", "recovered"]


def test_the_time_of_a_hold_is_that_of_its_beginning() -> None:
    life = Life()
    life.now += HOUR
    began = life.now
    life.attempt("held", "lost")
    life.now += HOUR
    life.attempt("failing", "Unavailable")
    life.now += HOUR
    life.attempt("held", "lost")
    change = life.change()
    assert change is not None
    assert (change.since, change.ripe_at) == (began, life.now)


class TestTogether:
    def lives(self, count: int) -> list[Life]:
        return [Life(n) for n in range(1, count + 1)]

    def told(self, lives: list[Life], minutes: int, events: dict[int, Any]) -> list[str]:
        """Tell what is said, minute by minute; events by minute."""
        found = []
        for minute in range(minutes):
            for life in lives:
                life.now = NOON + minute * MINUTE
            if minute in events:
                events[minute]()
            found += [f"{minute}: {text}" for text in look_at(lives)]
        return found

    def test_one_cycle_that_holds_many_is_one_message(self) -> None:
        lives = self.lives(30)
        events = {n: lambda life=life: life.attempt("held", "lost") for n, life in enumerate(lives, 1)}
        assert self.told(lives, 90, events) == ["35: held lost x30"]

    def test_different_kinds_are_different_messages(self) -> None:
        lives = self.lives(4)

        def attempts() -> None:
            for life, attempt in zip(lives, [LOST, LOST, VANISHED, REFUSED], strict=True):
                life.attempt(*attempt)

        assert self.told(lives, 60, {1: attempts}) == ["6: failing BodyRefused", "6: held lost x2", "6: held vanished"]

    def test_nobody_waits_longer_than_a_cycle_for_the_others(self) -> None:
        lives = self.lives(40)
        events = {2 * n: lambda life=life: life.attempt("held", "lost") for n, life in enumerate(lives)}
        assert self.told(lives, 120, events) == ["60: held lost x31", "83: held lost x9"]

    def test_an_outage_is_announced_once_and_its_end_once(self) -> None:
        """A cycle takes 48 minutes; the daemon is away for five hours; the next cycle takes 48 minutes again."""
        lives = self.lives(240)
        first, back = 0, 5 * 60
        events: dict[int, Any] = {}
        for n in range(48):
            some = lives[5 * n : 5 * n + 5]
            for begin in (first, back, back + 60):
                events[begin + n] = lambda some=some: [life.attempt("accepted") for life in some]
        assert self.told(lives, 7 * 60, events) == [f"{47 + 90 + 5}: late x240", f"{back + 47 + 5}: recovered x240"]

    def test_after_hours_of_silence_everybody_is_told_of_at_once(self) -> None:
        lives = self.lives(240)
        for life in lives:
            life.now += 5 * HOUR
        assert look_at(lives) == ["late x240"]


# Any history, by the hour.
ATTEMPTS = [OK, OK, OK, LOST, VANISHED, AWAY, SOURCE, REFUSED, ("busy", None), ("parked", "GrantRefused"), None]
histories = st.lists(st.sampled_from([*ATTEMPTS, "connect", "disconnect"]), max_size=40)


def live(life: Life, history: list[Any]) -> Iterator[str]:
    for step in history:
        if step == "connect":
            life.connect()
        elif step == "disconnect":
            life.disconnect()
        elif step and life.record.connection_state == "connected":
            life.attempt(*step)
        yield from life.let_pass(HOUR, every=7 * MINUTE)


ENDS = {"recovered", "disconnected"}


def needless(said: list[str]) -> list[tuple[str, str]]:
    """List what was said right after the same, or an end that followed no beginning."""
    pairs = zip(["recovered", *said], said, strict=False)
    return [(before, after) for before, after in pairs if before == after or (before in ENDS and after in ENDS)]


@given(history=histories)
def test_nothing_is_said_twice_in_a_row_and_an_end_only_of_a_beginning(history: list[Any]) -> None:
    assert needless(list(live(Life(), history))) == []


def test_what_is_needless_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert needless(["recovered"]) == [("recovered", "recovered")]
    forgetful = Life()
    monkeypatch.setattr(Life, "announced", property(lambda _: None, lambda _, __: None))
    said = list(live(forgetful, [LOST, LOST]))
    assert ("held lost", "held lost") in needless(said)


@given(history=histories, last=st.sampled_from([OK, LOST, AWAY, REFUSED, ("parked", "GrantRefused"), None]))
def test_whatever_was_before_what_lasts_is_what_was_said_last(history: list[Any], last: Any) -> None:
    life = Life()
    list(live(life, history))
    life.connect()
    for _ in range(5):  # nothing takes longer than SETTLED to be said, and then QUIET
        if last and life.record.connection_state == "connected":
            life.attempt(*last)
        life.let_pass(HOUR, every=7 * MINUTE)
    expected = {OK: None, None: "late", ("parked", "GrantRefused"): "parked", REFUSED: "failing BodyRefused"}.get(
        last, f"{last[0]} {last[1]}" if last else None
    )
    said = life.announced and life.announced.closed_at is None and f"{life.announced.state} {life.announced.kind}"
    if expected == "late" and said:
        # Without any attempt, what the latest one ended in stands, unless the consent is newer.
        assert said.rstrip().split()[0] in ("late", "failing", "held")
    else:
        assert (said.rstrip() if said else None) == expected


@given(trouble=st.sampled_from([LOST, REFUSED]), other=st.sampled_from([OK, VANISHED]), period=st.integers(1, 2))
def test_nobody_who_comes_and_goes_fills_the_channel(period: int, trouble: Any, other: Any) -> None:
    life = Life()
    list(live(life, ([trouble] * period + [other] * period) * 24))
    assert 2 <= len(life.said) <= 3


@settings(max_examples=30)
@given(st.lists(st.integers(0, 180), min_size=1, max_size=12))
def test_everybody_is_told_of_once_and_within_a_cycle(minutes: list[int]) -> None:
    lives = [Life(n) for n in range(len(minutes))]
    for minute in range(250):
        for life, at in zip(lives, minutes, strict=True):
            life.now = NOON + minute * MINUTE
            if minute == at:
                life.attempt("held", "lost")
        look_at(lives)
    for life, at in zip(lives, minutes, strict=True):
        told = [when for when, what in life.said if what == "held lost"]
        assert len(told) == 1
        assert QUIET <= told[0] - (NOON + at * MINUTE) <= LONGEST_WAIT
