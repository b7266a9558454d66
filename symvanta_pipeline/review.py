"""Look, then approve: what ``symvanta plan`` shows of a push to come, and what ``symvanta approve`` lets through.

Belongs here: putting both together, and the words in which an operator is told. Does not belong here: what is compared
and what holds (``planning``, ``accounts.brakes``), sending, which neither of the two does.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final
from uuid import UUID

import psycopg
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from symvanta_pipeline.accounts.proof import Listed, Proof, alive_ids, prove
from symvanta_pipeline.accounts.schema import Accounts
from symvanta_pipeline.accounts.state import from_json
from symvanta_pipeline.ledger import approvals, connections, history, snapshots
from symvanta_pipeline.ledger.approvals import Approval
from symvanta_pipeline.ledger.connections import Connection
from symvanta_pipeline.ledger.live_connection import LiveConnection
from symvanta_pipeline.ledger.locks import CustomerLock, LockBusy, customer_lock
from symvanta_pipeline.ledger.snapshots import Intent
from symvanta_pipeline.planning import COUNTED, SHOWN_HASH, Plan, accounts_of, plan_of
from symvanta_pipeline.rules import RulesBroken
from symvanta_pipeline.sessions import Sessions
from symvanta_pipeline.settling import Settlement, settle
from symvanta_pipeline.vanta.client import list_accounts

LISTED_ONE_BY_ONE: Final = COUNTED[:-1]  # nobody wants to read who stays as he is
INDENT: Final = "  "
BUSY_FOR, BUSY_PAUSE = 3.0, 0.2  # seconds: how long a busy customer is waited for, and between two looks


class NotReviewed(Exception):
    """The push cannot be looked at, or not be approved; the text says why and what to do."""


@dataclass(frozen=True)
class Source:
    """Where accounts come from.

    Attributes:
        url: of Sym's database.
        app_url: base of each account's ``externalUrl``.
    """

    url: str = field(repr=False)
    app_url: str


@dataclass(frozen=True)
class Customer:
    """Whose push is looked at.

    Attributes:
        name: the partition key; before the first connection, the organization's slug.
        connection: None before the first connection.
    """

    organization_id: UUID
    name: str
    connection: Connection | None

    @classmethod
    def of(cls, connection: psycopg.Connection, organization_id: UUID, slug: str) -> "Customer":
        """Look up what the ledger knows of an organization."""
        known = connections.find(connection, organization_id)
        return cls(organization_id, known.customer if known else slug, known)

    def require_connected(self, otherwise: str) -> Connection:
        """Return its connection, if consent stands.

        Raises:
            NotReviewed: it does not; the text says so, and ``otherwise``.
        """
        if self.connection is None:
            raise NotReviewed(f"{self.name} was never connected: {otherwise}")
        if self.connection.state != "connected":
            again = f"to connect it again: symvanta connect {self.name}"
            raise NotReviewed(f"{self.name} is {self.connection.state}: {otherwise}; {again}")
        return self.connection


@dataclass(frozen=True)
class Held:
    """What an approval would let through now.

    Attributes:
        change_hash: over exactly what is held.
        rules: that hold it.
    """

    change_hash: str
    rules: tuple[str, ...]

    @classmethod
    def by(cls, connection: psycopg.Connection, organization_id: UUID, plan: Plan) -> "Held | None":
        """Return what is held; None if nothing is, as far as is known.

        A first push is compared with Vanta's list, by a run alone: of it, what the latest attempt held counts.
        """
        if not history.is_first(connection, organization_id):
            return cls(plan.change_hash, tuple(brake.rule for brake in plan.holding)) if plan.change_hash else None
        record = snapshots.customer_record(connection, organization_id)
        if record is None or record.outcome != "held" or not record.change_hash or not record.outcome_kind:
            return None
        return cls(record.change_hash, (record.outcome_kind,))


@dataclass(frozen=True)
class AgainstVanta:
    """What Vanta's own list showed.

    Attributes:
        alive: how many accounts it has, soft-deleted ones left out.
        proof: how they compare with the last accepted state; None where nothing was ever accepted.
        settlement: what they showed of pushes that were possibly applied, if there were any.
    """

    alive: int
    proof: Proof | None
    settlement: Settlement | None

    def content(self) -> dict[str, Any]:
        """Return what ``--json`` prints of it."""
        settled = self.settlement
        return {
            "listed": self.alive,
            "verdict": self.proof.verdict if self.proof else None,
            "findings": [asdict(finding) for finding in self.proof.findings] if self.proof else [],
            "possibly_applied": {"outcome": settled.outcome, "detail": settled.sentence} if settled else None,
        }

    def lines(self) -> Iterator[str]:
        """Tell the same to a person."""
        if self.settlement:
            yield f"A push was possibly applied. {self.settlement.sentence}."
        if self.proof is None:
            yield f"Vanta lists {self.alive} accounts; nothing that they could be compared with was ever accepted."
            return
        agrees = "as it accepted them last" if self.proof.verdict == "proved" else "not as it accepted them last"
        yield f"Vanta lists {self.alive} accounts, {agrees}: {self.proof.verdict}."
        yield from (f"{INDENT}{finding.severity} {finding}" for finding in self.proof.findings)


@dataclass(frozen=True)
class Review:
    """A customer's next push, looked at.

    Attributes:
        customer: the partition key.
        state: ``connected``, ``parked``, ``disconnected``; None before the first connection.
        plan: what it would change.
        held: what an approval would let through now; None where nothing is held.
        last_attempt: how the latest attempt says that a first push is held; None for any other.
        approval: the latest one, used or not.
        is_approved: whether it lets this very change through now.
        possibly_applied: pushes whose answer was never recorded.
        against_vanta: what Vanta's list showed, if it was asked.
        names: display names by unique id, of those who are in Sym now.
    """

    customer: str
    state: str | None
    plan: Plan
    held: Held | None
    last_attempt: str | None
    approval: Approval | None
    is_approved: bool
    possibly_applied: tuple[Intent, ...]
    against_vanta: AgainstVanta | None
    names: Mapping[str, str] = field(repr=False)

    def content(self, *, ids: bool) -> dict[str, Any]:
        """Return what ``--json`` prints: numbers, or lists of unique ids."""
        told = self.plan.content(self.customer, ids=ids)
        if self.held and self.last_attempt and not self.against_vanta:
            # Only the run that held it has seen Vanta's list; what it held is what can be approved.
            brakes = [{"rule": rule, "detail": self.last_attempt} for rule in self.held.rules]
            told |= {"hash": self.held.change_hash, "brakes": brakes}
        return told | {"against_vanta": self.against_vanta.content()} if self.against_vanta else told

    def lines(self, *, ids: bool, names: bool) -> Iterator[str]:
        """Tell the same to a person.

        Args:
            ids: list the unique ids of everybody whom something changes for.
            names: with the name that Sym has for each, for a terminal alone.
        """
        yield f"{self.customer}: what the next push would change at Vanta"
        yield from self._groups(ids=ids, names=names)
        yield from self._brakes()
        yield from self._next_steps()
        if self.against_vanta:
            yield from self.against_vanta.lines()

    def _groups(self, *, ids: bool, names: bool) -> Iterator[str]:
        for group in COUNTED:
            found: tuple[str, ...] = getattr(self.plan.difference, group)
            yield f"{INDENT}{group:<12}{len(found):>6}{_fields(self.plan, found, group)}"
            for unique_id in found if ids and group in LISTED_ONE_BY_ONE else ():
                name = f"  {self.names.get(unique_id, '(not in Sym any more)')}" if names else ""
                yield f"{INDENT * 2}{unique_id}{name}"
        if forgotten := len(self.plan.difference.forgotten):
            yield f"{INDENT}{forgotten} more were sent as deactivated and are not in Sym any more"

    def _brakes(self) -> Iterator[str]:
        for brake in self.plan.brakes:
            yield f"{'held by' if brake.holds else 'warning'} {brake.rule}: {brake.detail}"
        if self.plan.change_hash:
            yield f"hash {self.plan.change_hash}"
        elif not any(brake.rule == "first_push" for brake in self.plan.brakes):
            yield "No brake holds it."

    def _next_steps(self) -> Iterator[str]:
        if not self.against_vanta:
            yield from (_possibly_applied(self.customer, intent) for intent in self.possibly_applied)
        if self.last_attempt:
            yield f"The last attempt was {self.last_attempt}"
        if self.approval and (standing := _standing(self.approval, self.held, is_approved=self.is_approved)):
            yield standing
        if self.state != "connected":
            state = self.state or "not connected yet"
            yield f"It is {state}: no push follows before: symvanta connect {self.customer}"
        elif self.held is None and self.plan.change_hash:
            yield "It can be approved once a run was held by it."
        elif self.held and not self.is_approved and not self.last_attempt:
            short = self.held.change_hash[:SHOWN_HASH]
            yield "If it is wrong, correct it in Sym: the next run reads it afresh."
            yield f"If it is true: symvanta approve {self.customer} --hash {short} --reason TEXT"


def review(ledger: LiveConnection, customer: Customer, source: Source) -> Review:
    """Look at a customer's next push without asking Vanta.

    Raises:
        NotReviewed: the users cannot be sent as they are. SourceError: they cannot be read.
    """
    accounts = _accounts(customer, source)
    plan = plan_of(ledger.get(), customer.organization_id, accounts, look=None)
    return _reviewed(ledger.get(), customer, accounts, plan, None)


def review_against_vanta(ledger: LiveConnection, customer: Customer, source: Source, sessions: Sessions) -> Review:
    """Look at a customer's next push and at Vanta's list, by one call, and settle what was possibly applied.

    Raises:
        NotReviewed: as in `review`; the customer is not connected, or is being worked on.
        VantaError: the list cannot be had. SourceError: as in `review`.
    """
    organization_id = customer.organization_id
    connected = customer.require_connected("Vanta cannot be asked")
    session = sessions.of(organization_id)
    session.prepare()
    try:
        with _locked(ledger.url, organization_id) as lock:
            accounts = _accounts(customer, source)
            before_send = partial(lock.require_connected, connected.generation)
            listed = list_accounts(session, sessions.path, sessions.resource_id, before_send=before_send, attempts=1)
            generation = sessions.token_generation(organization_id)
            settlement = settle(ledger.get(), organization_id, listed, token_generation=generation)
            plan = plan_of(ledger.get(), organization_id, accounts, look=lambda: listed)
            against = AgainstVanta(len(alive_ids(listed)), _proof(ledger.get(), organization_id, listed), settlement)
            return _reviewed(ledger.get(), customer, accounts, plan, against)
    except LockBusy:
        raise NotReviewed(f"a run is working on {customer.name} right now: look again in a minute") from None


def approve(
    ledger: LiveConnection, customer: Customer, source: Source, *, reason: str, by: str, pinned: str | None
) -> Approval:
    """Let through exactly what is held now, once; sends nothing and asks Vanta nothing.

    Args:
        ledger: the pipeline's own database.
        customer: whose held change.
        source: where it is read from, afresh.
        reason: why.
        by: who.
        pinned: the first digits of the hash that was looked at; None takes what is held now.

    Raises:
        NotReviewed: nothing is held, it is another change, or no push would follow.
        ApprovalRefused: the reason or the name is blank or too long. SourceError: as in `review`.
    """
    customer.require_connected("no push would follow that could use an approval")
    looked = review(ledger, customer, source)
    if looked.held is None:
        raise NotReviewed(f"nothing of {customer.name} is held by a brake now: there is nothing to approve")
    if pinned and not looked.held.change_hash.startswith(pinned):
        raise NotReviewed(
            f"what is held of {customer.name} is another change now than {pinned[:SHOWN_HASH]}: "
            f"look again: symvanta plan {customer.name}"
        )
    return approvals.approve(
        ledger.get(),
        customer.organization_id,
        looked.held.change_hash,
        rules=looked.held.rules,
        reason=reason,
        by=by,
    )


def approved_lines(customer: str, approval: Approval) -> Iterator[str]:
    """Tell an operator what was approved, and what happens next."""
    yield f"{customer}: change {approval.hash[:SHOWN_HASH]}, held by {', '.join(approval.rules)}, is approved once."
    yield f"By {_printable(approval.approved_by)}, until {_utc(approval.expires_at)}: {_printable(approval.reason)}"
    yield (
        "Nothing was sent. The next hourly run uses it; to start one now, materialize vanta/user_account_sync for "
        f"the partition {customer} in the Dagster UI."
    )


@contextmanager
def _locked(url: str, organization_id: UUID) -> Iterator[CustomerLock]:
    """Hold the customer's lock, waiting a moment for it: most runs have it no longer than that."""
    attempts = Retrying(
        retry=retry_if_exception_type(LockBusy),
        stop=stop_after_delay(BUSY_FOR),
        wait=wait_fixed(BUSY_PAUSE),
        reraise=True,
    )
    with ExitStack() as opened:
        yield attempts(lambda: opened.enter_context(customer_lock(url, organization_id)))


def _accounts(customer: Customer, source: Source) -> Accounts:
    try:
        return accounts_of(source.url, customer.organization_id, app_url=source.app_url)
    except RulesBroken as broken:
        sentence = f"{customer.name} cannot be sent as it is, which no approval changes; correct it in Sym: {broken}"
    raise NotReviewed(sentence)


def _reviewed(
    connection: psycopg.Connection,
    customer: Customer,
    accounts: Accounts,
    plan: Plan,
    against_vanta: AgainstVanta | None,
) -> Review:
    organization_id = customer.organization_id
    held = Held.by(connection, organization_id, plan)
    of_run = held is not None and held.change_hash != plan.change_hash
    record = snapshots.customer_record(connection, organization_id) if of_run else None
    names = zip(accounts.frame["uniqueId"], accounts.frame["displayName"].map(_printable), strict=True)
    return Review(
        customer=customer.name,
        state=customer.connection.state if customer.connection else None,
        plan=plan,
        held=held,
        last_attempt=record.sentence if record else None,
        approval=approvals.latest(connection, organization_id),
        is_approved=held is not None and approvals.usable(connection, organization_id, held.change_hash) is not None,
        possibly_applied=tuple(snapshots.unresolved_intents(connection, organization_id)),
        against_vanta=against_vanta,
        names=dict(names),
    )


def _proof(connection: psycopg.Connection, organization_id: UUID, listed: list[Listed]) -> Proof | None:
    if history.is_first(connection, organization_id):
        return None
    return prove(from_json(history.states(connection, organization_id)), listed)


def _fields(plan: Plan, unique_ids: tuple[str, ...], group: str) -> str:
    """Say which fields change for a group of accounts, beside what the group's own name says."""
    if group == "added":
        return ""
    those = frozenset(unique_ids)
    counted = Counter(
        (change.field, change.old, change.new)
        for change in plan.difference.changes
        if change.unique_id in those and change.field != "status"
    )
    told = [f"{name} {old} to {new}: {n}" for (name, old, new), n in sorted(counted.items(), key=str)]
    return f"  ({', '.join(told)})" if told else ""


def _possibly_applied(customer: str, intent: Intent) -> str:
    return (
        f"A push of {_utc(intent.created_at)} was possibly applied: its answer is not known. Brakes compare with it, "
        f"too, until the next push settles it, or Vanta's list: symvanta plan {customer} --against-vanta"
    )


def _standing(approval: Approval, held: Held | None, *, is_approved: bool) -> str | None:
    """Say how the latest approval stands; nothing of one that was used, or that is over and was for something else."""
    given = f"approval of {_utc(approval.at)} by {_printable(approval.approved_by)}"
    if is_approved:
        return f"The {given} lets it through: the next run until {_utc(approval.expires_at)} uses it."
    if approval.used_at:
        return None
    is_over = approval.expires_at <= datetime.now(UTC)
    if held and approval.hash == held.change_hash:
        if is_over:
            return f"The {given} was until {_utc(approval.expires_at)} and is over."
        return f"The {given} is void: a push that was under way let the same change through."
    return None if is_over else f"The {given} is void: it was for another change."


def _printable(text: str) -> str:
    """Return a text without what a terminal would take for an instruction."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _utc(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
