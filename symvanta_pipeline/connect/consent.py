"""A customer's consent, from asking for it to a stored token and a registered partition; and taking it back.

Belongs here: what every way of connecting and disconnecting shares. Does not belong here: how a person is led through
it (``terminal`` and ``app``), who may do it (``office``).
"""

import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar
from uuid import UUID

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

from symvanta_pipeline.ledger import connections
from symvanta_pipeline.ledger.connections import Connection
from symvanta_pipeline.ledger.live_connection import LiveConnection
from symvanta_pipeline.ledger.locks import consent_lock
from symvanta_pipeline.ledger.vault import KeyRing, TokenUnreadable, Vault
from symvanta_pipeline.token_store import token_of
from symvanta_pipeline.vanta.budget import RateBudgets, WouldWait
from symvanta_pipeline.vanta.errors import RateLimited, Unavailable, VantaError
from symvanta_pipeline.vanta.oauth import Application, TokenReply

LONGEST_WAIT = 90.0  # seconds that a person is kept waiting for a rate slot; Vanta's window is a minute
EXCHANGE_ATTEMPTS = 2  # a code works once, so trying again helps only where Vanta never got to it
SUSPEND_ROUNDS = 3  # tokens that a run under way may save while they are being suspended

_T = TypeVar("_T")


class ConsentError(Exception):
    """There is no consent, and nothing was stored; the text is safe to show."""


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

    def take(self, request: Request, answer: Answer, *, connected_by: str | None = None) -> Connection:
        """Exchange the code, store the token, register the partition.

        The token is stored before the partition is registered: a registration that is lost is repaired by the
        sensor, a lost token is not.

        Raises:
            ConsentError: it was denied, the answer belongs to another request, scopes are missing, or the rate
                budget is paused for long.
            VantaError: the code was not accepted. LedgerError: nothing could be stored.
            NotRegistered: all is well but for the registration.
        """
        if not hmac.compare_digest(answer.state.encode(), request.state.encode()):
            raise ConsentError("the answer does not belong to this request (wrong state): start again")
        if answer.error:
            denied = answer.error == "access_denied"
            raise ConsentError("consent was denied" if denied else "Vanta's consent page reported an error")
        if not answer.code:
            raise ConsentError("Vanta's answer holds no authorization code: start again")
        organization_id = request.candidate.organization_id
        with consent_lock(self.ledger.url, organization_id):
            token = token_of(self._exchange(request, answer.code))
            connection = connections.connect_customer(
                self.ledger.get(),
                self.keyring,
                organization_id,
                request.candidate.slug,
                token,
                connected_by=connected_by,
            )
        try:
            self.register(connection.customer)
        except Exception as error:  # noqa: BLE001 - whatever Dagster's storage raises, the token is safe
            raise NotRegistered(
                f"{connection.customer} is connected, but its partition could not be registered "
                f"({type(error).__name__}): Dagster's own sensor does so as soon as it can"
            ) from None
        return connection

    def leave(self, organization_id: UUID) -> Departure:
        """Disconnect an organization: stop scheduling it, ask Vanta to end the grant, erase the token.

        The token is erased whatever Vanta answers; partition and history stay. Safe to repeat, and repeating finishes
        what a crash left half done.

        Raises:
            ConsentError: it was never connected. LedgerError: nothing could be stored.
        """
        with consent_lock(self.ledger.url, organization_id):
            # First, so that nothing is sent from here on, whatever becomes of the rest.
            connection = connections.mark_disconnected(self.ledger.get(), organization_id)
            if connection is None:
                raise ConsentError("this organization was never connected to Vanta")
            return Departure(connection, self._suspend_and_erase(organization_id))

    def _suspend_and_erase(self, organization_id: UUID) -> str | None:
        """Return why Vanta could not be told, if so."""
        vault = Vault(self.ledger.get(), self.keyring)
        trouble = None
        for _ in range(SUSPEND_ROUNDS):
            try:
                token = vault.load(organization_id)
            except TokenUnreadable:
                trouble = "its token cannot be read"
                break
            if token is None:
                return trouble
            trouble = self._suspend(token.refresh_token)
            # A run under way may have refreshed in between: then that newer token is still to be told of.
            if vault.erase(organization_id, expected_generation=token.generation):
                return trouble
        vault.erase(organization_id)
        return trouble

    def _suspend(self, token: str) -> str | None:
        try:
            self._within_budget(lambda: self.application.suspend(token))
        except (ConsentError, VantaError) as error:
            return str(error)
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
        if missing := reply.missing_scopes():
            raise ConsentError(f"Vanta granted less than is needed; missing: {', '.join(missing)}")
        if not reply.refresh_token:
            raise ConsentError("Vanta's answer holds no refresh token: start again")
        return reply

    def _within_budget(self, call: Callable[[], _T]) -> _T:
        """Make one call of the token endpoint, in a slot that the hourly runs cannot take."""
        budget = self.budgets.token_interactive
        try:
            budget.spend(budget.take(LONGEST_WAIT), LONGEST_WAIT)
        except WouldWait as busy:
            raise ConsentError(
                f"Vanta's rate limit leaves no room for {busy.seconds:.0f} s: start again after that"
            ) from None
        try:
            return call()
        except RateLimited as error:
            budget.pause(error.pause)
            raise
