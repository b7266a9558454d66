"""One customer's place in the token vault, in the form that a Vanta session asks for.

Belongs here: the glue between ``vanta.session`` and ``ledger.vault``, which do not know each other.
"""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
from tenacity import RetryCallState, RetryError, Retrying, retry_if_exception_type, stop_after_delay, wait_exponential

from symvanta_pipeline.ledger.database import LedgerError, LedgerUnavailable
from symvanta_pipeline.ledger.live_connection import LiveConnection
from symvanta_pipeline.ledger.vault import KeyRing, StaleGeneration, StoredToken, Token, TokenUnreadable, Vault
from symvanta_pipeline.vanta.oauth import SCOPES, TokenReply
from symvanta_pipeline.vanta.session import HeldToken

SAVE_FOR = 120.0  # seconds that a refreshed token waits for the database; Vanta's grace window is three hours
FIRST_SAVE_WAIT, LAST_SAVE_WAIT = 1.0, 5.0  # seconds between attempts to save it

log = logging.getLogger(__name__)


class TokenNotSaved(LedgerError):
    """A refreshed token could not be saved; the one before, which is still stored, works for about three hours."""


class NoToken(LedgerError):
    """The customer has no token: it was never connected, or was disconnected."""


class VaultTokenStore:
    """The tokens of one customer and of no other; a ``vanta.session.TokenStore``."""

    def __init__(self, ledger: LiveConnection, keyring: KeyRing, organization_id: UUID) -> None:
        self._ledger = ledger
        self._keyring = keyring
        self._id = organization_id

    @property
    def organization_id(self) -> str:
        """Whose tokens these are."""
        return str(self._id)

    def load(self) -> StoredToken:
        """Return the newest token.

        Raises:
            NoToken: there is none.
            TokenUnreadable: it cannot be decrypted, or belongs elsewhere.
        """
        token = self._vault().load(self._id)
        if token is None:
            raise NoToken("there is no token for this customer: it has to be connected again")
        return token

    def save(self, reply: TokenReply, *, replaces: HeldToken) -> StoredToken | None:
        """Commit a refreshed token, waiting for the database if it is away: the old token may be dead already.

        Raises:
            TokenNotSaved: the database stayed away for ``SAVE_FOR``.
        """
        token = token_of(reply, previous_refresh_token=replaces.refresh_token)
        attempts = saving(SAVE_FOR, self._tell)
        try:
            attempts(lambda: self._vault().replace(self._id, token, expected_generation=replaces.generation))
        except StaleGeneration:
            return None
        except RetryError:
            raise self._given_up() from None
        return self.load()

    def is_empty(self) -> bool:
        """Tell whether there is no token any more, readable or not."""
        try:
            return self._vault().load(self._id) is None
        except TokenUnreadable:
            return False

    def _vault(self) -> Vault:
        return Vault(self._ledger.get(), self._keyring)

    def _tell(self, state: RetryCallState) -> None:
        log.warning(
            "organization %s: a refreshed token cannot be saved yet, attempt %d: is the pipeline's database up?",
            self._id,
            state.attempt_number,
        )

    def _given_up(self) -> TokenNotSaved:
        sentence = (
            f"a refreshed token could not be saved for {SAVE_FOR:.0f} s: bring the pipeline's own database back within "
            "three hours; until then the token before still works, after that the customer has to be connected again"
        )
        log.error("organization %s: %s", self._id, sentence)
        return TokenNotSaved(sentence)


def saving(seconds: float, tell: Callable[[RetryCallState], None]) -> Retrying:
    """Return what repeats the saving of a token that must not be lost.

    Args:
        seconds: how long; what fails after that is a ``RetryError``.
        tell: called before each wait.
    """
    return Retrying(
        # Whatever the database has against it now (away, read-only, full): nothing is lost by asking again.
        retry=retry_if_exception_type((psycopg.Error, LedgerUnavailable)),
        stop=stop_after_delay(seconds),
        wait=wait_exponential(FIRST_SAVE_WAIT, max=LAST_SAVE_WAIT),
        before_sleep=tell,
    )


def token_of(reply: TokenReply, *, previous_refresh_token: str = "") -> Token:
    """Turn a reply into what is stored; a reply without a refresh token keeps the one before."""
    return Token(
        access_token=reply.access_token,
        refresh_token=reply.refresh_token or previous_refresh_token,
        expires_at=datetime.now(UTC) + timedelta(seconds=reply.lifetime),
        scope=reply.scope or " ".join(SCOPES),
    )
