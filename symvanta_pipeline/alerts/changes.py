"""What is worth a message: where customers differ from what was announced of them last. Pure: no database, no clock.

Belongs here: when a change counts, and which changes are told together. Does not belong here: words (``messages``).

Decided here, with the reason:

- `held` and `parked` count at once, and so does a refusal that no waiting changes: a person has to do something.
- `failing` for any other reason counts once the next attempt failed alike: what passes within an hour is no news.
  Attempts that fail differently each time count after `FAILING_FOR`, so that nobody fails in silence.
- `late` counts as it is, but not for a customer that was connected again a moment ago.
- Another rule that holds, or another kind of failure, is a change; the same one is not, however many hours it lasts.
- A trouble is over when Vanta has accepted a push since, not when it merely does not show. A customer that somebody
  disconnects is told of only to end what was announced: who disconnected it knows.
- Nothing is said twice of one trouble unless it lasted `SETTLED`, nor is the end of one that came back within
  `RELAPSE_WITHIN`: a customer that comes and goes every hour is announced as in trouble, and stays so until it rests.
- Changes of one kind are collected until nobody joined for `QUIET`, at the longest for `LONGEST_WAIT`: what befalls
  many in one cycle is one message. Vanta keeps the last accepted state meanwhile, so that nothing is lost by it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Literal
from uuid import UUID

from symvanta_pipeline.ledger.alerts import Announced, Facts
from symvanta_pipeline.ledger.status import LATE_AFTER, CustomerRecord, Status, status_of

CYCLE: Final = timedelta(hours=1)
FAILING_FOR: Final = LATE_AFTER + CYCLE
QUIET: Final = timedelta(minutes=5)
LONGEST_WAIT: Final = CYCLE
SETTLED: Final = 3 * CYCLE
RELAPSE_WITHIN: Final = timedelta(hours=24)

# Failures whose exception says by its kind that every customer meets it until somebody sets it right.
HOPELESS: Final = frozenset({"ApplicationRefused"})

# What holds a push and mostly is over an hour later: it counts as a failure does, once it lasts.
PASSING: Final = frozenset({"SourceBrokeOff"})

Word = Literal["held", "parked", "failing", "late", "recovered", "disconnected"]


@dataclass(frozen=True)
class Change:
    """One customer's change that is worth a message.

    Attributes:
        record: the customer.
        state: what is announced of it.
        kind: the rule that holds, or the kind of failure; blank where there is none.
        since: since when it is so.
        ripe_at: since when it is worth a message.
        next_step: what happened and what to do, in the ledger's own words.
        run_id: Dagster's run of the latest attempt.
        before: what was announced of it before, if that lasts until now.
        announces: what is written down once the message is.
    """

    record: CustomerRecord
    state: Word
    kind: str
    since: datetime
    ripe_at: datetime
    next_step: str
    run_id: str | None
    before: Announced | None
    announces: Announced


def due_groups(
    records: Iterable[CustomerRecord], facts: Mapping[UUID, Facts], announced: Mapping[UUID, Announced], now: datetime
) -> list[list[Change]]:
    """Return the changes that are to be told now, one group for each message.

    Args:
        records: all customers.
        facts: of each, by organization.
        announced: of those that have any, by organization.
        now: the ledger's time.
    """
    groups: dict[tuple[str, str], list[Change]] = {}
    for record in records:
        change = change_of(record, facts[record.organization_id], announced.get(record.organization_id), now)
        if change and change.ripe_at <= now:
            groups.setdefault((change.state, change.kind), []).append(change)
    return [group for _, group in sorted(groups.items()) if _is_due([change.ripe_at for change in group], now)]


def _is_due(ripe: list[datetime], now: datetime) -> bool:
    return now - max(ripe) >= QUIET or now - min(ripe) >= LONGEST_WAIT


@dataclass(frozen=True)
class _Customer:
    """All that is known of one customer, and how the ledger judges it."""

    record: CustomerRecord
    facts: Facts
    status: Status


def change_of(record: CustomerRecord, facts: Facts, announced: Announced | None, now: datetime) -> Change | None:
    """Return what is to be told of one customer, perhaps later; None where that is what was announced already."""
    customer = _Customer(record, facts, status_of(record, now))
    if announced and announced.closed_at is None:
        if customer.status.state == "disconnected":
            return _end(customer, announced, "disconnected", facts.disconnected_at or now, now)
        if customer.status.state == "healthy" and (since := _recovered_since(customer)):
            return _end(customer, announced, "recovered", since, now)
    return _trouble(customer, announced, now)


def _end(
    customer: _Customer, lasting: Announced, state: Literal["recovered", "disconnected"], since: datetime, now: datetime
) -> Change:
    must_settle = lasting.relapsed and state == "recovered"
    return Change(
        record=customer.record,
        state=state,
        kind="",
        since=since,
        ripe_at=since + SETTLED if must_settle else since,
        next_step=customer.status.next_step,
        run_id=customer.facts.run_id,
        before=lasting,
        announces=replace(lasting, closed_at=now),
    )


def _recovered_since(customer: _Customer) -> datetime | None:
    """Return since when each push is accepted again; None if none was since the trouble began."""
    record, accepted_at = customer.record, customer.facts.accepted_at
    if accepted_at and record.outcome == "accepted" and record.outcome_since:
        return max(accepted_at, record.outcome_since)
    return accepted_at


@dataclass(frozen=True)
class _Found:
    """A trouble that a customer is in.

    Attributes:
        since: since when, as people are told.
        began: since when it is this very one.
        ripe_at: since when it is worth a message.
    """

    state: Word
    kind: str
    since: datetime
    began: datetime
    ripe_at: datetime


def _trouble(customer: _Customer, announced: Announced | None, now: datetime) -> Change | None:
    lasting = announced if announced and announced.closed_at is None else None
    found = _found(customer, lasting)
    if found is None or (lasting and (lasting.state, lasting.kind) == (found.state, found.kind)):
        return None
    word = f"{found.state} {found.kind}".rstrip()
    told = lasting.told if lasting else []
    closed_at = announced.closed_at if announced else None
    return Change(
        record=customer.record,
        state=found.state,
        kind=found.kind,
        since=found.since,
        ripe_at=max(found.ripe_at, found.began + SETTLED) if word in told else found.ripe_at,
        next_step=customer.status.next_step,
        run_id=customer.facts.run_id,
        before=lasting,
        announces=Announced(
            organization_id=customer.record.organization_id,
            state=found.state,
            kind=found.kind,
            since=found.since,
            told=[*told, *([] if word in told else [word])],
            relapsed=lasting.relapsed if lasting else closed_at is not None and now - closed_at < RELAPSE_WITHIN,
            at=now,
        ),
    )


def _found(customer: _Customer, lasting: Announced | None) -> _Found | None:
    """Return the trouble that a customer is in; None where nothing is wrong."""
    record = customer.record
    usable_since = max(record.connected_at, record.last_accepted_at or record.connected_at)
    began = record.outcome_since or usable_since
    kind = record.outcome_kind or ""
    quiet_since = max(usable_since, lasting.at) if lasting else usable_since
    match customer.status.state:
        case "parked":
            began = customer.facts.parked_at or began
            return _Found("parked", "", began, began, began)
        case "held":
            since = record.held_since if record.change_hash and record.held_since else began
            ripe_at = _failing_ripe_at(record, began, quiet_since) if kind in PASSING else began
            return _Found("held", kind, since, began, ripe_at)
        case "failing":
            return _Found("failing", kind, began, began, _failing_ripe_at(record, began, quiet_since))
        case "late":
            return _Found("late", "", usable_since, usable_since, usable_since + LATE_AFTER)
        case _:
            return None


def _failing_ripe_at(record: CustomerRecord, began: datetime, quiet_since: datetime) -> datetime:
    """Return when a failure counts.

    Args:
        record: of the customer.
        began: since when attempts fail alike.
        quiet_since: when something was accepted, consented to or announced last.
    """
    if record.outcome == "refused" or record.outcome_kind in HOPELESS:
        return began
    at_last = quiet_since + FAILING_FOR
    is_repeated = record.outcome_at is not None and record.outcome_at > began
    return min(record.outcome_at or at_last, at_last) if is_repeated else at_last
