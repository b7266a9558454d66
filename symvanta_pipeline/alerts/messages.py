"""What a message says, before any target gives it a form. Pure: no database, no clock, no HTTP.

Belongs here: the words, the links, keeping addresses out. Does not belong here: markup (``rendering``).

No name enters: a customer is its partition key, a person at most a ``users.id`` in a sentence of the ledger's, which
holds no personal data. Whatever looks like an e-mail address is taken out all the same.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal
from urllib.parse import quote
from uuid import UUID, uuid4

from pydantic import BaseModel, ConfigDict

from symvanta_pipeline.alerts.changes import Change, Word

VERSION: Final = 1

MEANING: Final[dict[Word, str]] = {
    "held": "nothing was sent of them; Vanta keeps what it accepted last",
    "parked": "Vanta refused the connection; nothing is sent until somebody reconnects",
    "failing": "attempts to push fail; Vanta keeps what it accepted last",
    "late": "no push was accepted for over 90 minutes",
    "recovered": "Vanta has accepted a push since",
    "disconnected": "somebody ended the connection, and with it the trouble that was announced",
}

# Headings of docs/runbook.md, as its readers link to them.
RUNBOOK: Final[dict[Word, str]] = {
    "held": "held",
    "parked": "parked",
    "failing": "failing",
    "late": "late",
    "recovered": "states-of-a-customer",
    "disconnected": "a-customer-is-to-be-disconnected",
}

_ADDRESS = re.compile(r"\S*@\S*")


class _Content(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Trouble(_Content):
    """What was announced of a customer before.

    Attributes:
        state: such as ``held``.
        kind: the rule that held, or the kind of failure; blank where there is none.
        since: since when it was so.
    """

    state: str
    kind: str
    since: datetime


class Affected(_Content):
    """One customer of a message.

    Attributes:
        customer: the partition key.
        organization_id: ``organizations.id`` in Sym's database.
        since: since when it is so.
        before: what was announced of it before and lasted until now; None if nothing did.
        again: whether the same customer was in trouble within the last day.
        what: what happened, in one sentence.
        next_step: what happened and what to do, as ``symvanta customers`` says it.
        run: URL of the run of the latest attempt in Dagster; None if there was none.
        partition: URL of the customer's partition in Dagster.
    """

    customer: str
    organization_id: UUID
    since: datetime
    before: Trouble | None
    again: bool
    what: str
    next_step: str
    run: str | None
    partition: str


class Message(_Content):
    """What happened, to whom, since when, and what to do; its JSON is what the generic webhook is sent.

    Attributes:
        version: of these keys.
        id: the message's own, the same with every attempt and for every target.
        state: ``held``, ``parked``, ``failing``, ``late``, ``recovered`` or ``disconnected``.
        kind: the rule that held, or the kind of failure; blank where there is none.
        at: when it was written.
        title: all of it in one line.
        connected: how many customers there are that nobody disconnected.
        runbook: where it is explained: a URL, or a path in this project.
        customers: everybody whom it is about, by partition key.
        repeated: whether an earlier attempt to send this may have arrived.
    """

    version: Literal[1] = VERSION
    id: UUID
    state: Word
    kind: str
    at: datetime
    title: str
    connected: int
    runbook: str
    customers: tuple[Affected, ...]
    repeated: bool = False


@dataclass(frozen=True)
class Links:
    """Where a message leads to.

    Attributes:
        dagster: base URL of Dagster's UI.
        runbook: URL of the runbook's page, or its path in this project.
    """

    dagster: str
    runbook: str

    def run(self, run_id: str) -> str:
        """Return the URL of a run."""
        return f"{self.dagster}/runs/{quote(run_id, safe='')}"

    def partition(self, customer: str) -> str:
        """Return the URL of what Dagster knows of one customer's pushes."""
        return f"{self.dagster}/assets/vanta/user_account_sync?view=partitions&partition={quote(customer, safe='')}"


def message_of(group: Sequence[Change], links: Links, *, connected: int, now: datetime) -> Message:
    """Word one group of changes.

    Args:
        group: changes of one state and kind, at least one.
        links: where it leads to.
        connected: how many customers there are that nobody disconnected.
        now: the ledger's time.
    """
    state, kind = group[0].state, group[0].kind
    return Message(
        id=uuid4(),
        state=state,
        kind=kind,
        at=now,
        title=_title(state, kind, len(group), connected),
        connected=connected,
        runbook=f"{links.runbook}#{RUNBOOK[state]}",
        customers=tuple(_affected(change, links) for change in sorted(group, key=lambda c: c.record.customer)),
    )


def _title(state: Word, kind: str, count: int, connected: int) -> str:
    customers = "customer" if count == 1 else "customers"
    who = f"{count} {customers}" if state == "disconnected" else f"{count} of {connected} customers"
    return f"{who} {state}{f' ({kind})' if kind else ''}: {MEANING[state]}"


def _affected(change: Change, links: Links) -> Affected:
    record, before = change.record, change.before
    return Affected(
        customer=record.customer,
        organization_id=record.organization_id,
        since=change.since,
        before=Trouble(state=before.state, kind=before.kind, since=before.since) if before else None,
        again=change.announces.relapsed and change.before is None,
        what=_without_addresses(_what(change)),
        next_step=_without_addresses(change.next_step),
        run=links.run(change.run_id) if change.run_id else None,
        partition=links.partition(record.customer),
    )


def _what(change: Change) -> str:
    match change.state:
        case "held" | "failing":
            return change.record.sentence or "no reason was recorded"
        case "parked":
            return change.record.parked_reason or "no reason was recorded"
        case word:
            return MEANING[word]


def _without_addresses(text: str) -> str:
    return _ADDRESS.sub("(address removed)", text)


def utc(moment: datetime) -> str:
    """Return a time as people read it."""
    return f"{moment:%Y-%m-%d %H:%M} UTC"
