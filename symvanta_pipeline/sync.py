"""One customer, end to end, under that customer's lock: read, map, brake, push, record, read back.

Belongs here: the order of these steps, what each failure means for the customer, and going on with the others.
Does not belong here: Dagster (``defs``), how any single step is done (``sym``, ``accounts``, ``vanta``, ``ledger``).

The lock is taken before the read and held until Vanta's answer is recorded, so that an older snapshot can never
overwrite a newer one. Slots of the rate budget are taken before the lock; a wait that would hold it for long gives
it up and starts again from the read.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from functools import partial
from typing import Final
from uuid import UUID

import pandas as pd
import psycopg

from symvanta_pipeline import parquet
from symvanta_pipeline.accounts import body as bodies
from symvanta_pipeline.accounts import brakes, schema
from symvanta_pipeline.accounts.body import Body
from symvanta_pipeline.accounts.mapping import to_accounts
from symvanta_pipeline.accounts.proof import Listed, Proof, prove
from symvanta_pipeline.accounts.schema import Accounts
from symvanta_pipeline.accounts.state import to_json
from symvanta_pipeline.accounts.summary import counts, deactivated_at, identities, shared_emails
from symvanta_pipeline.ledger import approvals, connections, history, snapshots
from symvanta_pipeline.ledger.approvals import Approval
from symvanta_pipeline.ledger.connections import Connection
from symvanta_pipeline.ledger.database import LedgerError
from symvanta_pipeline.ledger.history import Looked
from symvanta_pipeline.ledger.live_connection import LiveConnection
from symvanta_pipeline.ledger.locks import CustomerLock, LockBusy, Superseded, customer_lock
from symvanta_pipeline.ledger.snapshots import AcceptedSnapshot, Attempt, AttemptOutcome, Snapshot
from symvanta_pipeline.planning import Look, Plan, plan_of
from symvanta_pipeline.rules import RulesBroken, Violation
from symvanta_pipeline.sym import contract
from symvanta_pipeline.sym.source import (
    OrganizationGone,
    SourceBrokeOff,
    SourceChanged,
    SourceError,
    SourceStale,
    SourceUnavailable,
    UsersSnapshot,
)
from symvanta_pipeline.token_store import NoToken
from symvanta_pipeline.unforeseen import place_of
from symvanta_pipeline.vanta.budget import WouldWait
from symvanta_pipeline.vanta.client import Acceptance, list_accounts, put_accounts
from symvanta_pipeline.vanta.errors import (
    ApplicationRefused,
    BodyRefused,
    GrantRefused,
    Permanent,
    VantaError,
)
from symvanta_pipeline.vanta.session import ATTEMPTS, CustomerSession, Delivery

USERS = "sym/users"
ACCOUNTS = "vanta/user_accounts"
SENT = "vanta/user_account_sync"

BUSY_FOR = 900.0  # seconds after which a lock that never comes free fails its customer
BUSY_PAUSE = 1.0  # seconds between two looks, once only busy customers are left
ROUNDS = 5  # how often one customer starts again because a slot was too far away to hold its lock for it


# What each kind of error means for its customer; the first kind that fits decides. Their texts are safe to show.
OUTCOME_BY_ERROR: Final[dict[type[Exception], AttemptOutcome]] = {
    RulesBroken: "held",
    SourceBrokeOff: "held",
    SourceUnavailable: "failing",
    SourceStale: "held",
    SourceChanged: "held",
    OrganizationGone: "held",
    GrantRefused: "parked",
    ApplicationRefused: "failing",
    Permanent: "refused",
    VantaError: "failing",
    LedgerError: "failing",
}

# How the end of a consent shows, wherever it strikes; what a person did comes first, then what the error says.
CONSENT_ENDED: Final = (GrantRefused, NoToken, Superseded)


class Reach(IntEnum):
    """How far a customer is taken; each step includes those before it."""

    READ = 1
    MAP = 2
    PUSH = 3


@dataclass(frozen=True)
class Failure:
    """Why a customer's accounts did not reach Vanta.

    Attributes:
        outcome: what kind of trouble it is.
        sentence: what happened, safe to show.
        kind: what is alike between customers that end so: a rule, or a kind of error.
        change_hash: over exactly what a brake holds, if one does.
        of_all: every other customer would fail alike, so that the run stops.
        of_source: Sym's database did not give everybody, or not as of now.
        is_attempt: whether it says anything of this customer.
    """

    outcome: AttemptOutcome
    sentence: str
    kind: str | None = None
    change_hash: str | None = None
    of_all: bool = False
    of_source: bool = False
    is_attempt: bool = True


@dataclass(frozen=True)
class Push:
    """What Vanta accepted."""

    body: Body
    acceptance: Acceptance
    recorded: AcceptedSnapshot


@dataclass
class CustomerResult:
    """What became of one customer in one run.

    Attributes:
        customer: the partition key.
        reach: how far it was to be taken.
        organization_id: None where the ledger knows no such customer.
        generation: of its connection when this attempt began.
        users: what was read, if it was.
        accounts: what it was mapped to, if it could be.
        body: the same as it is sent, where it is to be sent.
        plan: what sending it changes at Vanta, and the brakes that this trips.
        approval: what lets a held change through, if something does.
        push: what Vanta accepted, if it did.
        proof: what reading it back showed; None where the rate budget left nothing for it, or Vanta did not answer.
        looked: what the reading back before that showed, if there was one.
        already: the push since the run's tick that makes another one unnecessary, if there was one.
        row_violations: the rules that the rows read from Sym break, if any.
        record_violations: the rules that the records made of them break, if any.
        failure: why the customer did not get as far as was asked; None on success.
        is_news: whether the attempt before ended otherwise; who is held for hours is told of once.
        before: the latest attempt to push before this run, if there was one.
        warnings: sentences worth a look that hold nothing.
        seconds: of each step, and of all waits for the rate budget, which are in no step.
        files: where what was read and sent lies, by asset.
    """

    customer: str
    reach: Reach
    organization_id: UUID | None = None
    generation: int | None = None
    users: UsersSnapshot | None = None
    accounts: Accounts | None = None
    body: Body | None = None
    plan: Plan | None = None
    approval: Approval | None = None
    push: Push | None = None
    proof: Proof | None = None
    looked: Looked | None = None
    already: AcceptedSnapshot | None = None
    row_violations: tuple[Violation, ...] = ()
    record_violations: tuple[Violation, ...] = ()
    failure: Failure | None = None
    is_news: bool = True
    before: Attempt | None = None
    warnings: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def timed(self, step: str, session: CustomerSession | None = None) -> Iterator[None]:
        """Add to the seconds of a step, however it ends, without what it waited for the rate budget."""
        started, waited = time.monotonic(), session.waited if session else 0.0
        try:
            yield
        finally:
            slept = session.waited - waited if session else 0.0
            self.seconds[step] = self.seconds.get(step, 0.0) + max(0.0, time.monotonic() - started - slept)


class Stopped(Exception):
    """This customer goes no further; carries the reason that is reported."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__(failure.sentence)


@dataclass
class _Turn:
    """One customer's place in the queue of a run.

    Attributes:
        busy_since: when its lock was first found busy, on the monotonic clock.
        session: kept while the lock is busy, so that coming back costs no further slot.
    """

    customer: str
    busy_since: float | None = None
    session: CustomerSession | None = None

    def may_come_back(self) -> bool:
        """Tell whether a customer whose lock is busy is looked at again."""
        now = time.monotonic()
        self.busy_since = self.busy_since or now
        return now - self.busy_since < BUSY_FOR

    @contextmanager
    def lock(self, url: str, organization_id: UUID, result: CustomerResult) -> Iterator[CustomerLock]:
        """Hold the customer's lock; how long it was waited for, coming back included, is told."""
        asked = time.monotonic()
        with customer_lock(url, organization_id) as lock:
            before = result.seconds.get("lock", asked - (self.busy_since or asked))
            result.seconds["lock"] = before + time.monotonic() - asked
            yield lock


@dataclass(frozen=True)
class Destination:
    """Where and how accounts are sent.

    Attributes:
        session: returns the Vanta session of one organization and of no other.
        path: of the PUT.
        resource_id: of Sym's UserAccount resource.
    """

    session: Callable[[UUID], CustomerSession]
    path: str
    resource_id: str


@dataclass(frozen=True)
class CustomerSync:
    """Takes customers as far as a run asks for.

    Attributes:
        read_users: reads all users of one organization afresh.
        ledger: the pipeline's own database.
        app_url: base of each account's ``externalUrl``.
        data_url: where Parquet of what was read and sent goes.
        run_id: recorded with everything that is written down.
        reach: how far.
        began: when the cycle began, by the ledger's clock, where there is no tick: with this run or its backfill.
        tick: the hour this run stands for: who was accepted from a snapshot read since is not pushed again.
        destination: needed for ``Reach.PUSH`` only.
    """

    read_users: Callable[[str], UsersSnapshot]
    ledger: LiveConnection
    app_url: str
    data_url: str
    run_id: str
    reach: Reach
    began: datetime
    tick: datetime | None = None
    destination: Destination | None = None

    def results(self, customers: Iterable[str]) -> Iterator[CustomerResult]:
        """Yield what became of each customer, as soon as it is known; a busy one is come back to.

        Nothing that befalls one customer reaches another, except a failure that would befall all alike.
        """
        waiting = deque(map(_Turn, customers))
        while waiting:
            turn = waiting.popleft()
            result = self._result(turn)
            if result.failure and result.failure.outcome == "busy" and turn.may_come_back():
                waiting.append(turn)
                if all(other.busy_since for other in waiting):
                    time.sleep(BUSY_PAUSE)
                continue
            self._record_outcome(result)
            yield result
            if result.failure and result.failure.of_all:
                not_tried = Failure("failing", f"not tried: {result.failure.sentence}")
                yield from (CustomerResult(other.customer, self.reach, failure=not_tried) for other in waiting)
                return

    def _result(self, turn: _Turn) -> CustomerResult:
        """Return what became of one customer, as far as this look at it goes."""
        result = CustomerResult(turn.customer, self.reach)
        try:
            connection = self._connection(turn.customer)
            result.organization_id, result.generation = connection.organization_id, connection.generation
            result.before = snapshots.latest_attempt(self.ledger.get(), connection.organization_id)
            result.looked = history.latest_look(self.ledger.get(), connection.organization_id)
            if self.reach is Reach.PUSH:
                self._push_under_lock(connection, turn, result)
            else:
                self._read_and_map(connection, result)
                if result.accounts:
                    with result.timed("compare"):
                        self._compare(connection, result.accounts, result, look=None)
        except LockBusy:
            sentence = f"another run kept this customer busy for {BUSY_FOR / 60:.0f} minutes"
            result.failure = Failure("busy", sentence)
        except Stopped as stop:
            result.failure = stop.failure
        except Exception as error:  # noqa: BLE001 - one customer's trouble must not touch another
            result.failure = self._failure_of(error, result)
        return result

    def _push_under_lock(self, connection: Connection, turn: _Turn, result: CustomerResult) -> None:
        if self._pushed_since_tick(connection, result):
            return
        self._require_calm()
        session = turn.session = turn.session or self._destination().session(connection.organization_id)
        # A first push is preceded by a look at what Vanta has.
        calls = 2 if history.is_first(self.ledger.get(), connection.organization_id) else 1
        for _ in range(ROUNDS):
            # Before the lock, so that the lock is not held through the wait.
            session.prepare(calls=calls)
            try:
                with turn.lock(self.ledger.url, connection.organization_id, result) as lock:
                    # Looked at again: it may have changed while this run waited for its slots.
                    current = self._connection(connection.customer)
                    result.generation = current.generation
                    if not self._pushed_since_tick(current, result):
                        self._read_and_map(current, result)
                        self._push(current, session, lock, result)
                    return
            except WouldWait:
                continue
            finally:
                result.seconds["slot_wait"] = session.waited
        raise Stopped(Failure("failing", f"the rate budget put this customer off {ROUNDS} times"))

    def _require_calm(self) -> None:
        """Stop where too many customers came into one trouble in this cycle: it is nobody's own, and is everybody's."""
        alike = snapshots.most_alike(self.ledger.get(), since=self.tick or self.began)
        if alike and brakes.is_of_everybody(alike.customers, alike.of):
            why = "by a brake" if alike.by_brake else "for the same reason"
            sentence = (
                f"this cycle was stopped for everybody: {alike.customers} of {alike.of} customers are newly "
                f"{alike.outcome} {why} ({alike.kind}); look at one of them. The next cycle starts afresh"
            )
            raise Stopped(Failure("failing", sentence, of_all=True, is_attempt=False))

    def _connection(self, customer: str) -> Connection:
        """Return the customer's connection, if it may be used as far as this run goes."""
        connection = connections.by_customer(self.ledger.get(), customer)
        if connection is None:
            raise Stopped(Failure("failing", "the ledger knows no such customer: connect it first"))
        if self.reach is Reach.PUSH and connection.state != "connected":
            raise Stopped(Failure("parked", _not_connected(connection)))
        return connection

    def _pushed_since_tick(self, connection: Connection, result: CustomerResult) -> bool:
        """Tell whether a push since the tick, and since the latest consent, makes another one unnecessary."""
        if self.tick is not None:
            accepted = snapshots.last_accepted(self.ledger.get(), connection.organization_id)
            if accepted and accepted.read_at >= max(self.tick, connection.connected_at):
                result.already = accepted
        return result.already is not None

    def _read_and_map(self, connection: Connection, result: CustomerResult) -> None:
        """Read, check and, as far as it is asked for, map; nothing of an earlier round is kept."""
        result.users = result.accounts = result.body = result.plan = result.approval = None
        result.warnings.clear()
        with result.timed("read"):
            snapshot = result.users = self.read_users(str(connection.organization_id))
        self._keep(USERS, snapshot.frame, result)
        result.row_violations = tuple(contract.violations(snapshot.frame, str(connection.organization_id)))
        if result.row_violations:
            raise RulesBroken(result.row_violations)
        if self.reach is Reach.READ:
            return
        with result.timed("map"):
            accounts = result.accounts = self._mapped(connection, snapshot, result)
        self._keep(ACCOUNTS, accounts.frame, result)
        result.warnings.extend(_shared_email_warnings(accounts))

    def _mapped(self, connection: Connection, snapshot: UsersSnapshot, result: CustomerResult) -> Accounts:
        accounts = to_accounts(snapshot.frame, app_url=self.app_url)
        if self.reach is Reach.PUSH:
            # Building the body looks at every record by itself.
            result.body = bodies.build(
                accounts,
                organization_id=str(connection.organization_id),
                resource_id=self._destination().resource_id,
            )
        elif broken := schema.violations(accounts):
            raise RulesBroken(broken)
        return accounts

    def _push(
        self, connection: Connection, session: CustomerSession, lock: CustomerLock, result: CustomerResult
    ) -> None:
        users, accounts, body = result.users, result.accounts, result.body
        if users is None or accounts is None or body is None:
            raise AssertionError("nothing is pushed that was not read and mapped under this lock")
        before_send = partial(lock.require_connected, connection.generation)
        where = self._destination()

        def look(attempts: int = ATTEMPTS) -> list[Listed]:
            return list_accounts(session, where.path, where.resource_id, before_send=before_send, attempts=attempts)

        with result.timed("compare", session):
            plan = self._compare(connection, accounts, result, look=look)
            self._require_let_through(connection, plan, result.approval)
            self._require_newest(connection, users)
            self._require_calm()
        with result.timed("record"):
            intent = snapshots.record_intent(
                self.ledger.get(),
                _snapshot_of(body, connection.organization_id, self.run_id, users.read_at),
                states=to_json(plan.states),
            )
        delivery = Delivery()
        try:
            with result.timed("push", session):
                acceptance = put_accounts(session, where.path, body, before_send=before_send, delivery=delivery)
        except Exception as error:
            self._close(intent, delivery)
            if isinstance(error, BodyRefused):
                raise Stopped(_refusal(error, accounts)) from None
            raise
        with result.timed("record"):
            recorded = self._record(intent, acceptance, result)
        result.push = Push(body, acceptance, recorded)
        self._keep(SENT, accounts.frame, result)
        with result.timed("read_back", session):
            self._read_back(result.push, plan, session, partial(look, attempts=1), result)

    def _record(self, intent: int, acceptance: Acceptance, result: CustomerResult) -> AcceptedSnapshot:
        users, accounts, body, plan = result.users, result.accounts, result.body, result.plan
        if users is None or accounts is None or body is None or plan is None:
            raise AssertionError("nothing is accepted that was not read, mapped and compared")
        return snapshots.record_accepted(
            self.ledger.get(),
            intent,
            token_generation=acceptance.token_generation,
            counts={
                "body": {"bytes": len(body.payload)},
                **identities(users.frame),
                **counts(accounts),
                **plan.counts(),
            },
            latency_seconds=acceptance.seconds,
            approval_id=result.approval.id if result.approval else None,
            departed_at=deactivated_at(accounts, plan.difference.deactivated),
        )

    def _close(self, intent: int, delivery: Delivery) -> None:
        """Resolve the intent of a body that Vanta certainly did nothing with; any other stays open."""
        if not delivery.possibly_applied:
            with suppress(psycopg.Error, LedgerError):  # open, it is taken for the worse
                snapshots.resolve_intent(self.ledger.get(), intent, "refused" if delivery.attempts else "not_sent")

    def _require_newest(self, connection: Connection, users: UsersSnapshot) -> None:
        """Stop where something newer was accepted already: two replicas of Sym's database may differ in their lag."""
        accepted = snapshots.last_accepted(self.ledger.get(), connection.organization_id)
        if accepted and accepted.read_at > users.read_at:
            sentence = (
                f"what was read is of {users.read_at:%Y-%m-%d %H:%M:%S} UTC, older than what Vanta accepted last "
                f"({accepted.read_at:%H:%M:%S} UTC): the replica that was read lags, or a clock was set back"
            )
            raise Stopped(Failure("held", sentence, kind="older_than_accepted", of_source=True))

    def _compare(
        self, connection: Connection, accounts: Accounts, result: CustomerResult, *, look: Look | None
    ) -> Plan:
        """Find out what would change at Vanta, which brakes that trips, and what lets it through."""
        plan = result.plan = plan_of(self.ledger.get(), connection.organization_id, accounts, look=look)
        if plan.change_hash:
            result.approval = approvals.usable(self.ledger.get(), connection.organization_id, plan.change_hash)
        result.warnings.extend(plan.warnings)
        return plan

    def _require_let_through(self, connection: Connection, plan: Plan, approval: Approval | None) -> None:
        """Stop a held change that no approval is for."""
        if not plan.change_hash or approval:
            return
        latest = approvals.latest(self.ledger.get(), connection.organization_id)
        useless = _useless(latest, plan) if latest and latest.used_at is None else ""
        sentence = plan.held_sentence(connection.customer) + useless
        raise Stopped(Failure("held", sentence, kind=plan.holding[0].rule, change_hash=plan.change_hash))

    def _read_back(
        self,
        push: Push,
        plan: Plan,
        session: CustomerSession,
        look: Callable[[], list[Listed]],
        result: CustomerResult,
    ) -> None:
        """Compare what Vanta lists with what it accepted; whatever befalls this, the push is accepted."""
        try:
            if session.may_read_back():
                result.proof = self._proof(push, plan, look)
                result.warnings.extend(f"read back, {finding}" for finding in result.proof.findings)
        except Exception as error:  # noqa: BLE001 - nothing that happens from here on takes back what Vanta accepted
            result.warnings.append(f"what Vanta accepted could not be read back ({type(error).__name__})")

    def _proof(self, push: Push, plan: Plan, look: Callable[[], list[Listed]]) -> Proof:
        """Read back what was pushed, and write down what that showed."""
        try:
            proof = prove(plan.states, look())
        except VantaError:
            history.record_proof(self.ledger.get(), push.recorded.id, "unreadable", [])
            raise
        findings = [asdict(finding) for finding in proof.findings]
        history.record_proof(self.ledger.get(), push.recorded.id, proof.verdict, findings)
        return proof

    def _keep(self, asset: str, frame: pd.DataFrame, result: CustomerResult) -> None:
        try:
            with result.timed("write"):
                result.files[asset] = parquet.write(self.data_url, asset, str(result.organization_id), frame)
        except Exception as error:  # noqa: BLE001 - each object store has errors of its own
            # For people to look at, never read by a push: no reason to leave Vanta with yesterday's state.
            result.warnings.append(f"{asset} could not be written below SYMVANTA_DATA_URL ({type(error).__name__})")

    def _failure_of(self, error: Exception, result: CustomerResult) -> Failure:
        """Say what an exception means for its customer, in words that are safe to show."""
        if isinstance(error, RulesBroken) and not result.row_violations:
            result.record_violations = error.violations
        if isinstance(error, CONSENT_ENDED) and (ended := self._ended_meanwhile(result)):
            return ended
        if isinstance(error, GrantRefused):
            self._park(error, result)
        name = type(error).__name__
        for kind, outcome in OUTCOME_BY_ERROR.items():
            if isinstance(error, kind):
                alike = f"rule {error.violations[0].rule}" if isinstance(error, RulesBroken) else name
                return Failure(
                    outcome,
                    str(error),
                    kind=alike,
                    of_all=isinstance(error, ApplicationRefused),
                    of_source=isinstance(error, SourceError),
                )
        if isinstance(error, psycopg.Error):
            return Failure("failing", f"the pipeline's own database failed ({name})", kind=name)
        # The text of an unforeseen error may quote anybody, so it is not shown.
        return Failure("failing", f"unexpected {name} at {place_of(error)}", kind=name)

    def _ended_meanwhile(self, result: CustomerResult) -> Failure | None:
        """Say since when the consent does not stand any more, if it ended while this customer was worked on."""
        with suppress(psycopg.Error, LedgerError):
            current = result.organization_id and connections.find(self.ledger.get(), result.organization_id)
            if current and current.state != "connected":
                return Failure("parked", _not_connected(current))
        return None

    def _park(self, error: GrantRefused, result: CustomerResult) -> None:
        if result.organization_id and error.token_generation is not None:
            with suppress(psycopg.Error, LedgerError):  # unparked, it is refused and parked again next hour
                connections.park(
                    self.ledger.get(), result.organization_id, str(error), token_generation=error.token_generation
                )

    def _record_outcome(self, result: CustomerResult) -> None:
        """Write down how an attempt to push ended; what was only read or left alone is no attempt."""
        failure = result.failure
        if self.reach is not Reach.PUSH or result.organization_id is None or result.already:
            return
        if failure and not failure.is_attempt:
            return
        try:
            result.is_news = snapshots.record_outcome(
                self.ledger.get(),
                result.organization_id,
                failure.outcome if failure else "accepted",
                run_id=self.run_id,
                generation=result.generation,
                sentence=failure.sentence if failure else None,
                kind=failure.kind if failure else None,
                change_hash=failure.change_hash if failure else None,
                tick=self.tick,
            )
        except (psycopg.Error, LedgerError) as error:
            result.warnings.append(f"the outcome could not be recorded ({type(error).__name__})")

    def _destination(self) -> Destination:
        if self.destination is None:
            raise AssertionError("a run that pushes is built with a destination")
        return self.destination


def _snapshot_of(body: Body, organization_id: UUID, run_id: str, read_at: datetime) -> Snapshot:
    return Snapshot(
        organization_id=organization_id,
        run_id=run_id,
        read_at=read_at,
        body_sha256=body.sha256,
        users=body.count,
        active=body.active,
        deactivated=body.deactivated,
    )


def _refusal(error: BodyRefused, accounts: Accounts) -> Failure:
    """Say whose record Vanta named, by id."""
    ids = accounts.frame["uniqueId"].sort_values()
    whose = f": users.id {ids.iloc[error.index]}" if error.index is not None and error.index < len(ids) else ""
    return Failure("refused", f"{error}{whose}", kind=type(error).__name__)


def _useless(approval: Approval, plan: Plan) -> str:
    """Say why an approval that nobody used does not let this change through; nothing of one that is past and gone."""
    given = f"{approval.at:%Y-%m-%d %H:%M} UTC"
    is_over = approval.expires_at <= datetime.now(UTC)
    if approval.hash != plan.change_hash:
        return "" if is_over else f". The approval of {given} is void: it was for another change"
    if is_over:
        return f". The approval of {given} was for four hours and is over"
    return f". The approval of {given} is void: a push that was under way let the same change through"


def _not_connected(connection: Connection) -> str:
    if connection.state == "parked":
        return f"parked since {connection.parked_at:%Y-%m-%d %H:%M} UTC: {connection.parked_reason}"
    return f"disconnected since {connection.disconnected_at:%Y-%m-%d %H:%M} UTC: nothing is sent any more"


def _shared_email_warnings(accounts: Accounts) -> list[str]:
    groups = shared_emails(accounts)
    shown = "; ".join(" and ".join(group) for group in groups[:5])
    return [f"{len(groups)} e-mail addresses are shared by several users, all of them sent: {shown}"] if groups else []
