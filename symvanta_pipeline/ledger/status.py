"""What state a customer is in, and what to do about it. Pure: no database, no clock.

Belongs here: the words of ``symvanta customers``. Does not belong here: reading the tables, printing.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

State = Literal["new", "healthy", "late", "held", "parked", "failing", "disconnected"]

# An hourly push may be late by half an hour before it is worth a word.
LATE_AFTER = timedelta(minutes=90)

# Kinds of failure that trying again hardly ever mends, and a new consent does.
NEEDS_RECONNECT = frozenset({"ScopeMissing", "TokenUnreadable", "NoToken"})


@dataclass(frozen=True)
class CustomerRecord:
    """All that the ledger knows about one connected organization; times have time zones.

    Attributes:
        customer: the partition key.
        organization_id: the organization.
        connection_state: ``connected``, ``parked`` or ``disconnected``.
        connected_at: when consent was last given.
        parked_reason: why it is parked, if it is.
        last_accepted_at: when Vanta last accepted a push; ``None`` if never.
        active: active users in that push.
        deactivated: deactivated users in that push.
        outcome: how the latest attempt ended: ``accepted``, ``held``, ``refused``, ``parked``, ``failing``, ``busy``.
        sentence: what happened in it, without personal data.
        outcome_at: when it ended.
        outcome_since: since when every attempt ended so.
        outcome_kind: the rule that held, or the kind of failure.
        change_hash: SHA-256 over exactly what was held, which an approval has to name.
        held_since: when a brake first held what was not accepted since, whatever attempts met in between.
        outcome_is_current: whether that attempt was made with the consent that stands; one that a reconnect overtook
            says nothing of it, whenever it ended.
    """

    customer: str
    organization_id: UUID
    connection_state: str
    connected_at: datetime
    parked_reason: str | None = None
    last_accepted_at: datetime | None = None
    active: int | None = None
    deactivated: int | None = None
    outcome: str | None = None
    sentence: str | None = None
    outcome_at: datetime | None = None
    outcome_since: datetime | None = None
    outcome_kind: str | None = None
    change_hash: str | None = None
    held_since: datetime | None = None
    outcome_is_current: bool = True

    @property
    def needs_reconnect(self) -> bool:
        """Whether the latest attempt failed for what only a new consent mends."""
        return self.outcome_kind in NEEDS_RECONNECT

    @property
    def is_tried(self) -> bool:
        """Whether an attempt has ended that was made with the consent that stands."""
        return self.outcome_at is not None and self.outcome_is_current


@dataclass(frozen=True)
class Status:
    """A customer's state and the one thing to do next, as a sentence."""

    state: State
    next_step: str


def status_of(record: CustomerRecord, now: datetime) -> Status:
    """Judge one customer: what a person ended or must do comes first, then the latest attempt, then its age."""
    state = _state(record, now)
    return Status(state, _next_step(state, record))


def _state(record: CustomerRecord, now: datetime) -> State:
    if record.connection_state == "disconnected":
        return "disconnected"
    if record.connection_state == "parked":
        return "parked"
    if _is_open(record) and record.outcome == "held":
        return "held"
    if _is_open(record) and record.outcome in ("refused", "failing"):
        return "failing"
    # Who reconnects after weeks has waited for its first push since then alone.
    if now - max(record.connected_at, record.last_accepted_at or record.connected_at) > LATE_AFTER:
        return "late"
    # A push with the consent before says nothing of this one.
    return "healthy" if record.last_accepted_at and record.last_accepted_at >= record.connected_at else "new"


def _is_open(record: CustomerRecord) -> bool:
    """Tell whether the latest attempt still counts: neither an accepted push nor a new consent came after it."""
    if record.outcome_at is None or not record.outcome_is_current:
        return False
    return record.outcome_at >= (record.last_accepted_at or record.connected_at)


def _next_step(state: State, record: CustomerRecord) -> str:
    reconnect = f"symvanta connect {record.customer}"
    what = (record.sentence or "no reason was recorded").rstrip(". ")
    reason = (record.parked_reason or what).rstrip(". ")
    sentences: dict[State, str] = {
        "new": "Nothing to do: the first push follows by itself within minutes.",
        "healthy": "Nothing to do.",
        "late": "No push was accepted for over 90 minutes: "
        "look whether dagster-daemon runs and hourly_user_account_sync is on.",
        "held": f"Nothing was sent: {what}."
        if record.change_hash
        else f"Nothing was sent ({what}): correct it, unless it passes by itself; the next hourly run tries again.",
        "failing": f"The last attempt failed ({what}): somebody must reconnect it: {reconnect}"
        if record.needs_reconnect
        else f"The last attempt failed ({what}): the next hourly run tries again; its log has the details.",
        "parked": f"Vanta refused the connection ({reason}): somebody must reconnect it: {reconnect}",
        "disconnected": f"Nothing is sent any more; to start again: {reconnect}",
    }
    return sentences[state]
