"""The Vanta session of one customer and of no other: its token, kept fresh, and rate slots for every call.

Belongs here: when to refresh, what to retry, which slot a call takes. Does not belong here: how a token is
stored (a ``TokenStore`` is handed in), what is sent (``client``), what a status means (``errors``).

The order that keeps a rotating token alive: re-read, refresh only if still needed, save what came back in its
own committed transaction, use it only then. All of it happens while the caller holds the customer's lock.
"""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVar

import requests
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential, wait_none, wait_random
from tenacity.wait import wait_base

from symvanta_pipeline.vanta.budget import Budget, RateBudgets, Slot, WouldWait
from symvanta_pipeline.vanta.errors import (
    AccessTokenRefused,
    GrantRefused,
    RateLimited,
    ScopeMissing,
    Transient,
    Unavailable,
    VantaError,
    check_resource_reply,
)
from symvanta_pipeline.vanta.oauth import JSON, TIMEOUT, Application, TokenReply, missing_scopes, send

REFRESH_MARGIN = timedelta(minutes=5)  # an access token that ends sooner is refreshed before it is used
LONGEST_WAIT = 30.0  # seconds that a customer's lock may be held through waiting for a slot
LONGEST_WAIT_TO_END = 120.0  # the same where the customer was disconnected, so that nobody waits for its lock
ATTEMPTS = 4
FIRST_WAIT, LAST_WAIT = 1.0, 8.0  # seconds between attempts after a failure that may pass

log = logging.getLogger(__name__)

Result = TypeVar("Result")


class HeldToken(Protocol):
    """What a session needs to know of a stored token."""

    @property
    def access_token(self) -> str:
        """The access token."""

    @property
    def refresh_token(self) -> str:
        """The refresh token that follows it."""

    @property
    def expires_at(self) -> datetime:
        """When the access token ends, aware."""

    @property
    def scope(self) -> str:
        """What was granted, separated by spaces."""

    @property
    def generation(self) -> int:
        """Goes up with every token that is stored."""


class TokenStore(Protocol):
    """Where the tokens of one customer are kept."""

    @property
    def organization_id(self) -> str:
        """Whose tokens they are."""

    def load(self) -> HeldToken:
        """Return the newest token."""

    def save(self, reply: TokenReply, *, replaces: HeldToken) -> HeldToken | None:
        """Commit what the token endpoint answered; None where ``replaces`` is not the newest token any more."""

    def is_empty(self) -> bool:
        """Tell whether the customer has no token any more: it was disconnected."""


@dataclass
class Delivery:
    """How far a body got, attempt by attempt; what is true of it when its call has failed.

    Attributes:
        attempts: how many were sent.
        possibly_applied: of how many of them no answer said that Vanta did nothing with the body.
    """

    attempts: int = 0
    possibly_applied: int = 0

    def sent(self) -> None:
        """Count an attempt that is about to be made."""
        self.attempts += 1
        self.possibly_applied += 1

    def refused(self) -> None:
        """Take back that it was possibly applied: its answer says that it was not."""
        self.possibly_applied -= 1


class CustomerSession:
    """Makes calls to Vanta for one customer.

    Attributes:
        waited: seconds that the calls waited for rate slots so far.
    """

    def __init__(self, application: Application, store: TokenStore, budgets: RateBudgets) -> None:
        self._application = application
        self._store = store
        self._budgets = budgets
        self._slots: dict[Budget, deque[Slot]] = {}
        self._refused_generation: int | None = None
        self.waited = 0.0

    @property
    def organization_id(self) -> str:
        """The organization whose token this session uses."""
        return self._store.organization_id

    def prepare(self, *, calls: int = 1) -> None:
        """Wait, before the customer's lock is taken, for the slots that are expected to be needed under it.

        Args:
            calls: of the resource endpoints: the PUT, and a look at Vanta's list before a first one.
        """
        if self._is_due(self._store.load()):
            self._take(self._budgets.token_background, 1, max_wait=None)
        self._take(self._budgets.resource, calls, max_wait=None)

    def may_read_back(self) -> bool:
        """Reserve a slot for reading back what was pushed, if the budget has more than half of its slots to spare.

        The other half stays with the pushes: a read-back must not make one wait.
        """
        budget = self._budgets.resource
        if self._is_due(self._store.load()) or budget.spare() <= budget.per_window // 2:
            return False
        try:
            self._take(budget, 1, max_wait=0)
        except WouldWait:
            return False
        return True

    def refresh_if_due(self) -> None:
        """Make sure that the next call has a token that can be used.

        Raises:
            VantaError: there is none to be had. budget.WouldWait: as in `call`.
        """
        self._usable_token()

    def call(
        self,
        method: str,
        path: str,
        *,
        payload: bytes | None = None,
        before_send: Callable[[], None],
        attempts: int = ATTEMPTS,
        delivery: Delivery | None = None,
    ) -> tuple[requests.Response, HeldToken]:
        """Make one call with the customer's token and return the 200 and the token that it was made with.

        One refresh and one repetition follow a refused access token, once in a session's life. What may pass is
        tried again, the same bytes each time, a few seconds apart, up to ``attempts`` times in all; ``before_send``
        runs immediately before each. ``delivery`` tells, also where the last failure is another one, whether an earlier
        attempt was possibly applied.

        Raises:
            VantaError: whatever remains after that.
            budget.WouldWait: a slot is further away than the customer's lock should be held.
        """

        def send_with(token: HeldToken) -> requests.Response:
            return _retrying(
                lambda: self._send(token, method, path, payload=payload, before_send=before_send, delivery=known),
                attempts,
            )

        known = delivery or Delivery()
        token = self._usable_token()
        try:
            return send_with(token), token
        except AccessTokenRefused:
            if self._refused_generation is not None:
                raise
            self._refused_generation = token.generation
            token = self._usable_token()
            return send_with(token), token

    def _send(
        self,
        token: HeldToken,
        method: str,
        path: str,
        *,
        payload: bytes | None,
        before_send: Callable[[], None],
        delivery: Delivery,
    ) -> requests.Response:
        url = f"{self._application.api_url}{path}"
        bearer: dict[str, Any] = {"access_token": token.access_token, "token_type": "Bearer"}
        headers = {"Accept": JSON} | ({} if payload is None else {"Content-Type": JSON})

        session = self._application.session(token=bearer)
        self._spend(self._budgets.resource)
        before_send()
        delivery.sent()
        try:
            response: requests.Response = send(
                lambda: session.request(
                    method, url, data=payload, headers=headers, timeout=TIMEOUT, allow_redirects=False
                )
            )
            return self._checked(self._budgets.resource, lambda: check_resource_reply(response))
        except Unavailable:
            raise  # neither silence nor a 5xx says that nothing was done
        except VantaError:
            delivery.refused()
            raise

    def _usable_token(self) -> HeldToken:
        token = self._store.load()
        if self._is_due(token):
            token = self._refreshed(token)
        # Looked at only now: a refresh that grants less has rotated the grant all the same, and had to be saved.
        if missing := missing_scopes(token.scope):
            raise ScopeMissing(missing)
        return token

    def _is_due(self, token: HeldToken) -> bool:
        return token.generation == self._refused_generation or token.expires_at - REFRESH_MARGIN <= datetime.now(UTC)

    def _refreshed(self, token: HeldToken) -> HeldToken:
        try:
            reply = _retrying(lambda: self._refresh(token))
        except GrantRefused as refusal:
            # Another machine or a person may have won the race; only the newest token's refusal counts.
            newest = self._store.load()
            if newest.generation == token.generation:
                refusal.token_generation = token.generation
                raise
            return newest
        saved = self._store.save(reply, replaces=token)
        if saved is None and self._store.is_empty():
            self._end(reply)
        return saved or self._store.load()

    def _end(self, reply: TokenReply) -> None:
        """Ask Vanta to end a token that came for a customer who was disconnected meanwhile: whoever did knew it not."""

        def suspend() -> None:
            self._spend(self._budgets.token_background, LONGEST_WAIT_TO_END)
            token = reply.refresh_token or reply.access_token
            self._checked(self._budgets.token_background, lambda: self._application.suspend(token))

        try:
            _retrying(suspend)
        except (VantaError, WouldWait) as error:
            log.error(  # noqa: TRY400 - the sentence is all there is to say
                "organization %s: a token that nobody keeps could not be ended, remove Sym at Vanta, too: %s",
                self.organization_id,
                error,
            )

    def _refresh(self, token: HeldToken) -> TokenReply:
        self._spend(self._budgets.token_background)
        return self._checked(self._budgets.token_background, lambda: self._application.refresh(token.refresh_token))

    def _checked(self, budget: Budget, reply: Callable[[], Result]) -> Result:
        try:
            return reply()
        except RateLimited as error:
            budget.pause(error.pause)
            raise

    def _take(self, budget: Budget, slots: int, max_wait: float | None) -> None:
        """Take what is missing to have so many slots of a budget."""
        held = self._slots.setdefault(budget, deque())
        while len(held) < slots:
            slot = budget.take(max_wait=max_wait)
            self.waited += slot.waited
            held.append(slot)

    def _spend(self, budget: Budget, longest_wait: float | None = None) -> None:
        longest_wait = LONGEST_WAIT if longest_wait is None else longest_wait
        self._take(budget, 1, longest_wait)
        held = self._slots[budget]
        self.waited += budget.spend(held[0], max_wait=longest_wait)
        held.popleft()  # only now: a slot that could not be spent yet is still ours


class _Wait(wait_base):
    """Back off after a failure; after a 429 the budget's own pause is the wait."""

    def __init__(self) -> None:
        self._after_failure = wait_exponential(multiplier=FIRST_WAIT, max=LAST_WAIT) + wait_random(0, FIRST_WAIT)
        self._after_429 = wait_none()

    def __call__(self, retry_state: Any) -> float:
        limited = isinstance(retry_state.outcome.exception(), RateLimited)
        return (self._after_429 if limited else self._after_failure)(retry_state)


def _retrying(attempt: Callable[[], Result], attempts: int = ATTEMPTS) -> Result:
    return Retrying(
        retry=retry_if_exception_type(Transient),
        stop=stop_after_attempt(attempts),
        wait=_Wait(),
        reraise=True,
    )(attempt)
