"""A customer's consent, from asking for it to a stored token and a registered partition; and taking it back.

Belongs here: what every way of connecting and disconnecting shares. Does not belong here: how a person is led through
it (``terminal`` and ``app``), who may do it (``office``).
"""

import hmac
import logging
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, TypeVar
from uuid import UUID

import psycopg
from tenacity import RetryCallState, RetryError, Retrying, retry_if_exception_type, stop_after_attempt

from symvanta_pipeline.ledger import audit, connections
from symvanta_pipeline.ledger.connections import Connection
from symvanta_pipeline.ledger.database import LedgerError
from symvanta_pipeline.ledger.live_connection import LiveConnection
from symvanta_pipeline.ledger.locks import consent_lock
from symvanta_pipeline.ledger.vault import KeyRing, StoredToken, Token, TokenUnreadable, Vault
from symvanta_pipeline.token_store import saving, token_of
from symvanta_pipeline.unforeseen import is_own
from symvanta_pipeline.vanta.budget import RateBudgets, WouldWait
from symvanta_pipeline.vanta.errors import RateLimited, Unavailable, VantaError
from symvanta_pipeline.vanta.oauth import Application, TokenReply

LONGEST_WAIT = 70.0  # seconds that a person is kept waiting for rate slots; Vanta's window is a minute
LOCK_WAIT = 3.0  # seconds to wait for somebody else's step on the same organization; two of them are rare
STORE_FOR = 45.0  # seconds that a new token waits for the database, and somebody in front of a browser with it
EXCHANGE_ATTEMPTS = 2  # a code works once, so trying again helps only where Vanta never got to it
# Whoever can sign in could otherwise use up the token budget of all customers with made-up codes.
MOST_ATTEMPTS, ATTEMPTS_WITHIN = 10, timedelta(minutes=10)
ATTEMPTS: Final[tuple[audit.Event, ...]] = ("connected", "reconnected", "consent_failed")

log = logging.getLogger(__name__)

_T = TypeVar("_T")


class ConsentError(Exception):
    """There is no consent, and nothing was stored; the text is safe to show."""


class NoLongerAllowed(ConsentError):
    """Whoever gave the consent may not do so any more; nothing was stored."""


class Overtaken(ConsentError):
    """Somebody else connected or disconnected the organization while Vanta was asked; nothing was stored."""


class NotStored(LedgerError):
    """The database stayed away, so that the token of a good consent was given up."""


class TooManyAttempts(ConsentError):
    """So many consents of one organization were tried that a pause is due; nothing was asked of Vanta."""


class NotRegistered(Exception):
    """The token is stored, but the partition is not registered yet; the text is safe to show."""


@dataclass(frozen=True)
class Candidate:
    """An organization that is to be connected.

    Attributes:
        organization_id: also the ``source_id`` at Vanta, for ever.
        slug: becomes the partition key at the first connection.
    """

    organization_id: UUID
    slug: str


@dataclass(frozen=True)
class Request:
    """A consent that was asked for and has not come back yet.

    Attributes:
        url: of Vanta's consent page, for the person's browser.
        state: ties the answer to this request; used once.
    """

    candidate: Candidate
    redirect_uri: str
    state: str = field(repr=False)
    url: str = field(repr=False)


@dataclass(frozen=True)
class Answer:
    """What Vanta's redirect brought back."""

    state: str = field(default="", repr=False)
    code: str = field(default="", repr=False)
    error: str = ""


@dataclass(frozen=True)
class Departure:
    """A customer that was disconnected.

    Attributes:
        trouble: why Vanta could not be told; None where it confirmed, or where there was nothing to tell.
    """

    connection: Connection
    trouble: str | None


@dataclass(frozen=True)
class Desk:
    """Everything that taking a consent, and taking it back, needs.

    Attributes:
        register: adds a partition; called once the token is stored.
    """

    application: Application
    budgets: RateBudgets
    ledger: LiveConnection
    keyring: KeyRing = field(repr=False)
    register: Callable[[str], None]

    def ask(self, candidate: Candidate, redirect_uri: str) -> Request:
        """Prepare the consent page for one organization.

        Raises:
            UnusablePartitionKey: the organization could not be connected under its slug.
        """
        if connections.find(self.ledger.get(), candidate.organization_id) is None:
            connections.require_usable(candidate.slug)
        state = secrets.token_urlsafe(32)
        url = self.application.authorization_url(
            state=state, redirect_uri=redirect_uri, source_id=str(candidate.organization_id)
        )
        return Request(candidate, redirect_uri, state, url)

    def take(
        self,
        request: Request,
        answer: Answer,
        *,
        actor: str | None = None,
        connected_by: str | None = None,
        still_allowed: Callable[[], bool] = lambda: True,
    ) -> Connection:
        """Exchange the code, store the token, register the partition; what came of it goes into the audit log.

        The token is stored before the partition is registered: a registration that is lost is repaired by the
        sensor, a lost token is not.

        Args:
            request: what was asked for.
            answer: what came back.
            actor: who did it, for the audit log.
            connected_by: ``users.id`` of who gave the consent; None from a terminal.
            still_allowed: asked immediately before the exchange and before storing, since both are waited for.

        Raises:
            ConsentError: it was denied, the answer belongs to another request, scopes are missing, it is tried too
                often or by somebody who may not any more, or the rate budget is paused for long.
            VantaError: the code was not accepted. LedgerError: nothing could be stored; see also ``LockBusy``.
            Exception: whatever ``still_allowed`` raises; nothing was stored then either.
            NotRegistered: all is well but for the registration.
        """
        try:
            connection = self._taken(request, answer, actor, connected_by, still_allowed)
        except BaseException as error:
            detail = str(error) if is_own(error) else type(error).__name__
            self._write_down("consent_failed", request.candidate.organization_id, actor, detail)
            raise
        try:
            self.register(connection.customer)
        except Exception as error:  # noqa: BLE001 - whatever Dagster's storage raises, the token is safe
            raise NotRegistered(
                f"{connection.customer} is connected, but its partition could not be registered "
                f"({type(error).__name__}): Dagster's own sensor does so as soon as it can"
            ) from None
        return connection

    def leave(self, organization_id: UUID, *, actor: str | None = None) -> Departure:
        """Disconnect an organization: stop scheduling it, erase its token, and ask Vanta to end the grant.

        The token is erased first and whatever Vanta answers, so that nothing can leave it behind; partition and
        history stay. Safe to repeat.

        Raises:
            ConsentError: it was never connected. LedgerError: nothing was changed; see also ``LockBusy``.
        """
        with consent_lock(self.ledger.url, organization_id, wait=LOCK_WAIT):
            before = connections.find(self.ledger.get(), organization_id)
            if before is None:
                raise ConsentError("this organization was never connected to Vanta")
            connection, trouble = self.ledger.get(), None
            with connection.transaction():
                departed = connections.mark_disconnected(connection, organization_id) or before
                try:
                    token = self._erased(Vault(connection, self.keyring), organization_id)
                except TokenUnreadable:
                    token, trouble = None, "its token cannot be read, so that it cannot be named to Vanta"
                    Vault(connection, self.keyring).erase(organization_id)
                if token or trouble or before.state != "disconnected":
                    audit.record(connection, "disconnected", organization_id=organization_id, actor=actor)
            trouble = self._suspend(token.refresh_token) if token else trouble
            if trouble:
                self._write_down("suspension_failed", organization_id, actor, trouble)
            return Departure(departed, trouble)

    def _taken(
        self,
        request: Request,
        answer: Answer,
        actor: str | None,
        connected_by: str | None,
        still_allowed: Callable[[], bool],
    ) -> Connection:
        _require_good(request, answer)
        organization_id = request.candidate.organization_id
        self.ledger.fresh()  # somebody at a terminal may have taken long to decide
        with consent_lock(self.ledger.url, organization_id, wait=LOCK_WAIT):
            known = self._require_possible(request.candidate)
            _require(still_allowed)
            reply = self._exchange(request, answer.code)
            try:
                token = _token(reply)
                _require(still_allowed)
                return self._stored(request.candidate, known, token, actor, connected_by)
            except BaseException:  # whatever it is, nobody keeps this token
                self._end(organization_id, known, reply, actor)
                raise

    def _require_possible(self, candidate: Candidate) -> Connection | None:
        """Refuse, before the code is used, what could not be stored, or is tried too often; return what is known."""
        known = connections.find(self.ledger.get(), candidate.organization_id)
        if known is None:
            connections.require_usable(candidate.slug)
        tried = audit.count(self.ledger.get(), candidate.organization_id, ATTEMPTS, within=ATTEMPTS_WITHIN)
        if tried >= MOST_ATTEMPTS:
            minutes = ATTEMPTS_WITHIN.total_seconds() / 60
            raise TooManyAttempts(f"{tried} consents were tried within {minutes:.0f} minutes: start again after that")
        return known

    def _stored(
        self, candidate: Candidate, known: Connection | None, token: Token, actor: str | None, connected_by: str | None
    ) -> Connection:
        """Store the token, waiting for the database if it is away: the code is used up, and works no second time."""

        def tell(state: RetryCallState) -> None:
            log.warning(
                "organization %s: the token of a new consent cannot be saved yet, attempt %d: is the pipeline's "
                "database up?",
                candidate.organization_id,
                state.attempt_number,
            )

        try:
            stored: Connection = saving(STORE_FOR, tell)(
                lambda: self._stored_at_once(candidate, known, token, actor, connected_by)
            )
        except RetryError:
            raise NotStored(
                f"the token of a new consent could not be saved for {STORE_FOR:.0f} s: bring the pipeline's own "
                "database back, then start again"
            ) from None
        return stored

    def _stored_at_once(
        self, candidate: Candidate, known: Connection | None, token: Token, actor: str | None, connected_by: str | None
    ) -> Connection:
        """Store the token and write down who connected, both or neither, unless somebody else was quicker.

        The lock does not tell: it goes where the connection that holds it breaks, and nobody hears of it.
        """
        ledger = self.ledger.get()
        with ledger.transaction():
            if not connections.is_unchanged(ledger, candidate.organization_id, known):
                return self._stored_before(candidate.organization_id, token)
            connection = connections.connect_customer(
                ledger, self.keyring, candidate.organization_id, candidate.slug, token, connected_by=connected_by
            )
            audit.record(
                ledger,
                "connected" if connection.generation == 1 else "reconnected",
                organization_id=candidate.organization_id,
                actor=actor,
            )
        return connection

    def _stored_before(self, organization_id: UUID, token: Token) -> Connection:
        """Return the connection if it has this very token, stored by an attempt whose answer was lost."""
        current, stored = connections.find(self.ledger.get(), organization_id), None
        with suppress(TokenUnreadable):
            stored = Vault(self.ledger.get(), self.keyring).load(organization_id)
        if current is None or stored is None or stored.refresh_token != token.refresh_token:
            raise Overtaken("somebody else connected or disconnected the organization in the meantime: look at it anew")
        return current

    def _end(self, organization_id: UUID, known: Connection | None, reply: TokenReply, actor: str | None) -> None:
        """Ask Vanta to end a grant that nobody keeps, but not while an earlier one stands, which that may end too."""
        with suppress(psycopg.Error, LedgerError):  # the database may be what failed; then that is the best guess
            known = connections.find(self.ledger.get(), organization_id)
        if known is not None and known.state != "disconnected":
            return
        if trouble := self._suspend(reply.refresh_token or reply.access_token):
            log.error("organization %s: a grant that nobody keeps could not be ended: %s", organization_id, trouble)
            self._write_down("suspension_failed", organization_id, actor, trouble)

    def _write_down(self, event: audit.Event, organization_id: UUID, actor: str | None, detail: str) -> None:
        """Put what went wrong into the audit log, if the database lets it; it is told in any case."""
        with suppress(psycopg.Error, LedgerError):
            audit.record(self.ledger.get(), event, organization_id=organization_id, actor=actor, detail=detail)

    def _erased(self, vault: Vault, organization_id: UUID) -> StoredToken | None:
        """Erase the token and return it: the very newest, which a run under way may just be saving."""
        while (token := vault.load(organization_id)) is not None:
            if vault.erase(organization_id, expected_generation=token.generation):
                return token
        return None

    def _suspend(self, token: str) -> str | None:
        """Ask Vanta to end a grant; return why it could not be told, if so."""
        try:
            self._within_budget(lambda: self.application.suspend(token))
        except (ConsentError, VantaError, LedgerError) as error:
            return str(error)
        except psycopg.Error as error:
            return f"the pipeline's own database failed ({type(error).__name__})"
        return None

    def _exchange(self, request: Request, code: str) -> TokenReply:
        attempts = Retrying(
            retry=retry_if_exception_type(Unavailable), stop=stop_after_attempt(EXCHANGE_ATTEMPTS), reraise=True
        )
        reply: TokenReply = attempts(
            lambda: self._within_budget(
                lambda: self.application.exchange(
                    code=code, redirect_uri=request.redirect_uri, source_id=str(request.candidate.organization_id)
                )
            )
        )
        return reply

    def _within_budget(self, call: Callable[[], _T]) -> _T:
        """Make one call of the token endpoint, in a slot that the hourly runs cannot take."""
        budget, until = self.budgets.token_interactive, time.monotonic() + LONGEST_WAIT
        try:
            slot = budget.take(LONGEST_WAIT)
            budget.spend(slot, max(0.0, until - time.monotonic()))
        except WouldWait as busy:
            raise ConsentError(
                f"Vanta's rate limit leaves no room for {busy.seconds:.0f} s: start again after that"
            ) from None
        try:
            return call()
        except RateLimited as error:
            budget.pause(error.pause)
            raise


def _require_good(request: Request, answer: Answer) -> None:
    """Refuse an answer that is none, or is another request's."""
    if not hmac.compare_digest(answer.state.encode(), request.state.encode()):
        raise ConsentError("the answer does not belong to this request (wrong state): start again")
    if answer.error:
        denied = answer.error == "access_denied"
        raise ConsentError("consent was denied" if denied else "Vanta's consent page reported an error")
    if not answer.code:
        raise ConsentError("Vanta's answer holds no authorization code: start again")


def _require(still_allowed: Callable[[], bool]) -> None:
    if not still_allowed():
        raise NoLongerAllowed("whoever gave this consent may not connect the organization any more")


def _token(reply: TokenReply) -> Token:
    """Turn a reply into what is stored, if it is enough to work with."""
    if missing := reply.missing_scopes():
        raise ConsentError(f"Vanta granted less than is needed; missing: {', '.join(missing)}")
    if not reply.refresh_token:
        raise ConsentError("Vanta's answer holds no refresh token: start again")
    return token_of(reply)
