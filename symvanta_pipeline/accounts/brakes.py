"""What holds a push up although every record in it is valid.

Vanta's PUT replaces everything, so one valid but wrong body deactivates a whole company. Belongs here: the rules that
compare a new state with what was sent before, their limits, and the hash by which exactly one held change can be
approved; and the limits of the two brakes that look at no body, of the source and of many customers at once.
Does not belong here: approving, remembering, reading what is compared.

Decided here, with the reason:

- A push is compared with the last accepted state and with every state that Vanta may have instead (``possible``): the
  worst counts, since nobody knows which of them Vanta has.
- Every share is of those ACTIVE in the state compared with, "under 25 users" too: deactivated people would dilute it.
- "Above 20 %" is exceeded by more than 20 % only, "at least 5" is reached by 5. Shares are compared without rounding.
- Somebody is lost who was ACTIVE and is not now, vanished or not; `vanished` has stricter limits of its own, because
  whoever leaves is deactivated, and only a broken read makes people disappear.
- Under 25 users the week's limit is that of the hour and the day (50 %): 40 % would undo what those allow.
- A window is every state that Vanta accepted in it, and the one that it began with: the worst counts. The first one
  alone would not see a customer that grew and then lost the newcomers.
- A window holds only a push that takes somebody away itself: holding another keeps nothing from Vanta. What is held
  and approved is that push's own losses, so that a window moving on with the clock voids no approval.
- Nobody active holds also where nobody was before: it is never what a connected company looks like.
- Admins are ACTIVE accounts of level ADMIN and "3 more" is net; from no admin at all, any share is more than doubled.
- Without MFA means known to have none: ``unknown`` is no finding, and SSO has its MFA elsewhere.
- Growth past the tenfold holds also in the smallest customer, and from nobody active to anybody.
- A first push that Vanta's list cannot be had for is held: it might remove what somebody else put there.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from fractions import Fraction
from hashlib import sha256
from typing import Final

import pandas as pd

from symvanta_pipeline.rules import SHOWN_IDS

RULES: Final = (
    "nobody",
    "nobody_active",
    "lost",
    "lost_in_a_day",
    "lost_in_a_week",
    "vanished",
    "admins",
    "without_mfa",
    "growth",
    "first_push",
)
WINDOWS: Final = {"lost_in_a_day": "24 hours", "lost_in_a_week": "7 days"}


@dataclass(frozen=True)
class ShareLimit:
    """How many of a whole may come into something: held above ``percent`` of it, if at least ``minimum`` do."""

    percent: int
    minimum: int

    def exceeded(self, part: int, whole: int) -> bool:
        """Whether so many of so many are too many."""
        return part >= self.minimum and 100 * part > self.percent * whole

    def __str__(self) -> str:
        return f"limit {self.percent} % and {self.minimum}"


@dataclass(frozen=True)
class Limits:
    """Every threshold of the brakes. The reasons are in docs/brakes.md.

    Attributes:
        small: a customer with fewer ACTIVE accounts in the state compared with is small.
        lost: from one push to the next, in a customer that is not small.
        lost_in_a_day: over 24 hours, likewise.
        lost_in_a_week: over 7 days, likewise.
        lost_of_few: in a small customer, for each of the three.
        vanished: of those ACTIVE, not there at all any more.
        vanished_anyway: so many hold whatever their share.
        more_admins: so many more admins, together with one of the next two.
        admin_points: the share of admins rose by more than so many percentage points.
        admin_times: the share of admins is at least so many times what it was.
        without_mfa_points: a share of people without MFA that rose by more percentage points warns.
        growth_warns_times: more than so many times as many ACTIVE accounts warn,
        growth_warns_above: if there are now more than so many.
        growth_holds_times: more than so many times as many ACTIVE accounts hold.
        alike: of all customers, so many newly in one trouble stop the cycle for everybody.
        standby_lag_seconds: a standby of Sym's database may be so far behind, and no further.
        standby_quiet_seconds: nor may it have seen nothing committed for longer.
    """

    small: int = 25
    lost: ShareLimit = ShareLimit(percent=20, minimum=5)
    lost_in_a_day: ShareLimit = ShareLimit(percent=20, minimum=5)
    lost_in_a_week: ShareLimit = ShareLimit(percent=40, minimum=5)
    lost_of_few: ShareLimit = ShareLimit(percent=50, minimum=3)
    vanished: ShareLimit = ShareLimit(percent=5, minimum=3)
    vanished_anyway: int = 10
    more_admins: int = 3
    admin_points: int = 10
    admin_times: int = 2
    without_mfa_points: int = 20
    growth_warns_times: int = 3
    growth_warns_above: int = 50
    growth_holds_times: int = 10
    alike: ShareLimit = ShareLimit(percent=10, minimum=3)
    standby_lag_seconds: float = 300
    standby_quiet_seconds: float = 86_400


LIMITS: Final = Limits()


@dataclass(frozen=True)
class HeldChange:
    """One account's part in what is held; what an approval is for.

    Attributes:
        rule: the rule that looks at such a change; ``lost`` for each of the three that count losses.
        unique_id: whose; "" where the rule holds for a reason that no account in particular has.
        old: what the account was; "" for nothing.
        new: what it would be; "" for nothing.
    """

    rule: str
    unique_id: str
    old: str
    new: str


@dataclass(frozen=True)
class Brake:
    """One rule that a push trips.

    Attributes:
        rule: one of `RULES`.
        detail: one sentence with the numbers and up to five unique ids; no person.
        holds: whether the push may not go out; otherwise it is a warning.
        changes: what holds, sorted; empty for a warning.
        losses: all whom the push takes away, whichever rule holds it: nobody lets more people go than he looked at.
    """

    rule: str
    detail: str
    holds: bool
    changes: tuple[HeldChange, ...] = ()
    losses: tuple[HeldChange, ...] = ()


@dataclass(frozen=True, eq=False)
class Before:
    """What a push is compared with. States are as `symvanta_pipeline.accounts.state.states_of` returns them.

    Attributes:
        last: the last accepted state; empty if there never was one.
        possible: the states that Vanta may have instead, since a push of them after ``last`` has an unknown end.
        active_in_a_day: the ids that were ACTIVE when the window of 24 hours began, and in each state accepted since.
            It begins 24 hours ago or, if that is later, with the state that was pushed by the approval that last reset
            ``lost_in_a_day``.
        active_in_a_week: likewise for 7 days and ``lost_in_a_week``.
        at_vanta: the ids alive in Vanta's list; looked at on a first push only. None: the list could not be had.
        is_first: nothing was ever accepted, as far as is known.
    """

    last: pd.DataFrame
    possible: tuple[pd.DataFrame, ...]
    active_in_a_day: Sequence[frozenset[str]]
    active_in_a_week: Sequence[frozenset[str]]
    at_vanta: frozenset[str] | None
    is_first: bool


@dataclass(frozen=True)
class _State:
    """The ids of one state that the rules count."""

    everybody: frozenset[str]
    active: frozenset[str]
    admins: frozenset[str]
    without_mfa: frozenset[str]

    @property
    def share_of_admins(self) -> Fraction:
        return _share(self.admins, self.active)

    @property
    def share_without_mfa(self) -> Fraction:
        return _share(self.without_mfa, self.active)


def judge(new: pd.DataFrame, before: Before) -> list[Brake]:
    """Return the brakes that a push would trip, those that only warn included, in the order of `RULES`.

    Args:
        new: the state that would be pushed, as `symvanta_pipeline.accounts.state.states_of` returns it.
        before: what it is compared with.
    """
    now = _state_of(new)
    # An empty state was never sent, so there is nothing to compare with.
    earlier = [_state_of(states) for states in (before.last, *before.possible) if len(states)]
    judged = (
        _nobody(now, earlier),
        _nobody_active(now, earlier),
        _lost(now, earlier),
        _lost_since(now, earlier, "lost_in_a_day", LIMITS.lost_in_a_day, before.active_in_a_day),
        _lost_since(now, earlier, "lost_in_a_week", LIMITS.lost_in_a_week, before.active_in_a_week),
        _vanished(now, earlier),
        _admins(now, earlier),
        _without_mfa(now, earlier),
        _growth(now, earlier),
        _first_push(now, before),
    )
    losses = _losses("lost", now, earlier)
    return [replace(brake, losses=losses) if brake.holds else brake for brake in judged if brake is not None]


def held(brakes: Iterable[Brake]) -> list[Brake]:
    """Return those that hold the push, in the same order."""
    return [brake for brake in brakes if brake.holds]


def change_hash(brakes: Iterable[Brake]) -> str:
    """Return what an approval names: SHA-256, in hex, over everything that holds; "" if nothing does.

    It is taken over ASCII JSON: the sorted, distinct ``[rule, unique_id, old, new]`` of the held changes and of all
    losses. So it says nothing of any other account, of the order of rows, or of the time.
    """
    holding = held(brakes)
    if not holding:
        return ""
    changes = {
        (change.rule, change.unique_id, change.old, change.new)
        for brake in holding
        for change in (*(brake.changes or _standing(brake.rule)), *brake.losses)
    }
    return sha256(json.dumps(sorted(changes), separators=(",", ":")).encode()).hexdigest()


def is_of_everybody(alike: int, customers: int) -> bool:
    """Whether so many of all customers are newly in one trouble that it cannot be their own."""
    return LIMITS.alike.exceeded(alike, customers)


def is_recent(age: timedelta) -> bool:
    """Whether a proof of so many seconds ago, or ahead by a clock that disagrees, tells that a standby is complete."""
    return abs(age) <= timedelta(seconds=LIMITS.standby_lag_seconds)


def is_too_quiet(age: timedelta) -> bool:
    """Whether a standby that has seen nothing committed for so long may follow a server that is left behind."""
    return age > timedelta(seconds=LIMITS.standby_quiet_seconds)


def _state_of(states: pd.DataFrame) -> _State:
    """Sort a state's ids into what the rules count."""
    ids = states.index.to_numpy(dtype=object)
    active = (states["status"] == "ACTIVE").to_numpy(dtype=bool)
    admin = (states["level"] == "ADMIN").to_numpy(dtype=bool)
    mfa_off = (states["mfa"] == "off").to_numpy(dtype=bool)
    return _State(
        everybody=frozenset(ids),
        active=frozenset(ids[active]),
        admins=frozenset(ids[active & admin]),
        without_mfa=frozenset(ids[active & mfa_off]),
    )


def _nobody(now: _State, earlier: Sequence[_State]) -> Brake | None:
    """Hold a push of no accounts at all."""
    if now.everybody:
        return None
    detail = "There is nobody to send: Vanta would deactivate everybody"
    return Brake("nobody", detail, holds=True, changes=_losses("nobody", now, earlier) or _standing("nobody"))


def _nobody_active(now: _State, earlier: Sequence[_State]) -> Brake | None:
    """Hold a push of nothing but deactivated accounts."""
    if now.active or not now.everybody:
        return None
    lost = _lost_ids(now, earlier)
    detail = f"None of {len(now.everybody)} users would be active, and this push takes away {len(lost)}{_listed(lost)}"
    changes = _losses("nobody_active", now, earlier) or _standing("nobody_active")
    return Brake("nobody_active", detail, holds=True, changes=changes)


def _lost(now: _State, earlier: Sequence[_State]) -> Brake | None:
    """Hold a push that takes too many away at once."""
    over = [
        state
        for state in earlier
        if _limit(LIMITS.lost, state.active).exceeded(len(state.active - now.active), len(state.active))
    ]
    if not over:
        return None
    worst = max(over, key=lambda state: _share(state.active - now.active, state.active))
    lost = worst.active - now.active
    detail = (
        f"{len(lost)} of {len(worst.active)} active users would no longer be active "
        f"({_percent(_share(lost, worst.active))}, {_limit(LIMITS.lost, worst.active)}){_listed(lost)}"
    )
    return Brake("lost", detail, holds=True, changes=_losses("lost", now, earlier))


def _lost_since(
    now: _State, earlier: Sequence[_State], rule: str, plain: ShareLimit, window: Sequence[frozenset[str]]
) -> Brake | None:
    """Hold a push that takes somebody away, if too many were taken away over a window together."""
    taken = _lost_ids(now, earlier)
    over = [active for active in window if _limit(plain, active).exceeded(len(active - now.active), len(active))]
    if not taken or not over:
        return None
    worst = max(over, key=lambda active: _share(active - now.active, active))
    lost = worst - now.active
    detail = (
        f"{len(lost)} of {len(worst)} active users would be lost over {WINDOWS[rule]} "
        f"({_percent(_share(lost, worst))}, {_limit(plain, worst)}), and this push takes away "
        f"{len(taken)}{_listed(taken)}"
    )
    return Brake(rule, detail, holds=True, changes=_losses("lost", now, earlier))


def _vanished(now: _State, earlier: Sequence[_State]) -> Brake | None:
    """Hold a push that leaves out people who were sent as ACTIVE."""
    over = [state for state in earlier if _too_many_vanished(len(state.active - now.everybody), len(state.active))]
    if not over:
        return None
    worst = max(over, key=lambda state: _share(state.active - now.everybody, state.active))
    vanished = worst.active - now.everybody
    share = _percent(_share(vanished, worst.active))
    detail = (
        f"{len(vanished)} of {len(worst.active)} active users would vanish, not even deactivated "
        f"({share}, {LIMITS.vanished}, or {LIMITS.vanished_anyway}){_listed(vanished)}"
    )
    changes = _held("vanished", _union(state.active - now.everybody for state in earlier), old="ACTIVE")
    return Brake("vanished", detail, holds=True, changes=changes)


def _too_many_vanished(vanished: int, active: int) -> bool:
    """Whether so many of so many are too many to disappear."""
    return LIMITS.vanished.exceeded(vanished, active) or vanished >= LIMITS.vanished_anyway


def _admins(now: _State, earlier: Sequence[_State]) -> Brake | None:
    """Hold a push that makes many people admins: nobody promotes half a company within an hour."""
    over = [state for state in earlier if _too_many_admins(now, state)]
    if not over:
        return None
    worst = min(over, key=lambda state: state.share_of_admins)
    detail = (
        f"Admins would go from {_part(worst.admins, worst.active)} to {_part(now.admins, now.active)}, limit "
        f"{LIMITS.more_admins} more and either {LIMITS.admin_points} points up or {LIMITS.admin_times} times the share"
        f"{_listed(now.admins - worst.admins)}"
    )
    changes = _held("admins", _union(now.admins - state.admins for state in earlier), new="ADMIN")
    return Brake("admins", detail, holds=True, changes=changes)


def _too_many_admins(now: _State, state: _State) -> bool:
    """Whether too many are admins now who were not in that state."""
    was, is_now = state.share_of_admins, now.share_of_admins
    more = len(now.admins) - len(state.admins)
    return more >= LIMITS.more_admins and (
        100 * (is_now - was) > LIMITS.admin_points or is_now >= LIMITS.admin_times * was
    )


def _without_mfa(now: _State, earlier: Sequence[_State]) -> Brake | None:
    """Warn where MFA goes off for many; never hold, since a true "MFA off" must not be kept from the auditor."""
    worst = min(earlier, key=lambda state: state.share_without_mfa, default=None)
    if worst is None or 100 * (now.share_without_mfa - worst.share_without_mfa) <= LIMITS.without_mfa_points:
        return None
    detail = (
        f"People without MFA would go from {_part(worst.without_mfa, worst.active)} to "
        f"{_part(now.without_mfa, now.active)}, limit {LIMITS.without_mfa_points} points up"
        f"{_listed(now.without_mfa - worst.without_mfa)}"
    )
    return Brake("without_mfa", detail, holds=False)


def _growth(now: _State, earlier: Sequence[_State]) -> Brake | None:
    """Warn of or hold a push that has many times as many people as before."""
    worst = min(earlier, key=lambda state: len(state.active), default=None)
    if worst is None:
        return None
    holds = len(now.active) > LIMITS.growth_holds_times * len(worst.active)
    warns = (
        len(now.active) > LIMITS.growth_warns_times * len(worst.active) and len(now.active) > LIMITS.growth_warns_above
    )
    if not holds and not warns:
        return None
    times = LIMITS.growth_holds_times if holds else LIMITS.growth_warns_times
    detail = (
        f"{len(worst.active)} active users would become {len(now.active)}, more than {times} times as many"
        f"{_listed(now.active - worst.active)}"
    )
    gained = _union(now.active - state.active for state in earlier)
    return Brake("growth", detail, holds=holds, changes=_held("growth", gained, new="ACTIVE") if holds else ())


def _first_push(now: _State, before: Before) -> Brake | None:
    """Hold a first push that would remove what Vanta lists, or where that is not known."""
    if not before.is_first:
        return None
    if before.at_vanta is None:
        detail = "What Vanta lists could not be read, so what a first push would remove is not known"
        return Brake("first_push", detail, holds=True, changes=_standing("first_push"))
    foreign = before.at_vanta - now.everybody
    if not foreign:
        return None
    detail = f"{len(foreign)} of {len(before.at_vanta)} accounts that Vanta lists are not ours{_listed(foreign)}"
    return Brake("first_push", detail, holds=True, changes=_held("first_push", foreign, old="LISTED"))


def _limit(limit: ShareLimit, active: frozenset[str]) -> ShareLimit:
    """Return the limit, or that of small customers if so few were active."""
    return LIMITS.lost_of_few if len(active) < LIMITS.small else limit


def _lost_ids(now: _State, earlier: Sequence[_State]) -> frozenset[str]:
    """Return all whom this push takes away, whichever state Vanta has."""
    return _union(state.active - now.active for state in earlier)


def _losses(rule: str, now: _State, earlier: Sequence[_State]) -> tuple[HeldChange, ...]:
    """Return all whom this push takes away, so that one more is another change, whichever limit tripped."""
    lost = _lost_ids(now, earlier)
    changes = [HeldChange(rule, i, "ACTIVE", "DEACTIVATED" if i in now.everybody else "") for i in sorted(lost)]
    return tuple(changes)


def _held(rule: str, ids: Iterable[str], *, old: str = "", new: str = "") -> tuple[HeldChange, ...]:
    """Return the same change for each of the ids."""
    return tuple(HeldChange(rule, unique_id, old, new) for unique_id in sorted(ids))


def _standing(rule: str) -> tuple[HeldChange, ...]:
    """Return what stands for a reason to hold that no account in particular has."""
    return (HeldChange(rule, "", "", ""),)


def _union(sets: Iterable[frozenset[str]]) -> frozenset[str]:
    return frozenset().union(*sets)


def _share(part: frozenset[str], whole: frozenset[str]) -> Fraction:
    """Return the share, exact; nobody is no share of nobody."""
    return Fraction(len(part), len(whole)) if whole else Fraction(0)


def _percent(share: Fraction) -> str:
    return f"{float(100 * share):.1f}".removesuffix(".0") + " %"


def _part(part: frozenset[str], whole: frozenset[str]) -> str:
    return f"{len(part)} of {len(whole)} active users ({_percent(_share(part, whole))})"


def _listed(ids: Iterable[str]) -> str:
    """List up to five ids, as the end of a sentence."""
    known = sorted(ids)
    if not known:
        return ""
    more = len(known) - SHOWN_IDS
    return f": {', '.join(known[:SHOWN_IDS])}" + (f" and {more} more" if more > 0 else "")
