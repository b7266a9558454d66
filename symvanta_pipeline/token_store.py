"""One customer's place in the token vault, in the form that a Vanta session asks for.

Belongs here: the glue between ``vanta.session`` and ``ledger.vault``, which do not know each other.
"""

import logging
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_delay, wait_exponential

from symvanta_pipeline.ledger.database import LedgerError, LedgerUnavailable
from symvanta_pipeline.ledger.live_connection import LiveConnection
from symvanta_pipeline.ledger.vault import KeyRing, StaleGeneration, StoredToken, Token, Vault
from symvanta_pipeline.vanta.oauth import SCOPES, TokenReply
from symvanta_pipeline.vanta.session import HeldToken

SAVE_FOR = 120.0  # seconds that a refreshed token waits for the database; Vanta's grace window is three hours

log = logging.getLogger(__name__)


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
        """Commit a refreshed token, waiting for the database if it is away: the old token may be dead already."""
        token = token_of(reply, previous_refresh_token=replaces.refresh_token)
        attempts = Retrying(
            retry=retry_if_exception_type((psycopg.OperationalError, LedgerUnavailable)),
            stop=stop_after_delay(SAVE_FOR),
            wait=wait_exponential(max=5),
            before_sleep=self._tell,
            reraise=True,
        )
        try:
            attempts(lambda: self._vault().replace(self._id, token, expected_generation=replaces.generation))
        except StaleGeneration:
            return None
        return self.load()

    def _vault(self) -> Vault:
        return Vault(self._ledger.get(), self._keyring)

    def _tell(self, state: RetryCallState) -> None:
        log.warning(
            "organization %s: a refreshed token cannot be saved yet, attempt %d: is the pipeline's database up?",
            self._id,
            state.attempt_number,
        )


def token_of(reply: TokenReply, *, previous_refresh_token: str = "") -> Token:
    """Turn a reply into what is stored; a reply without a refresh token keeps the one before."""
    return Token(
        access_token=reply.access_token,
        refresh_token=reply.refresh_token or previous_refresh_token,
        expires_at=datetime.now(UTC) + timedelta(seconds=reply.lifetime),
        scope=reply.scope or " ".join(SCOPES),
    )
