"""Every customer's session at Vanta, put together from the settings for whoever makes calls: runs, and commands.

Belongs here: that. Does not belong here: a session itself (``vanta.session``), consent, which has no session yet
(``connect``).
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from uuid import UUID

from symvanta_pipeline.ledger.live_connection import LiveConnection
from symvanta_pipeline.ledger.vault import KeyRing, Vault
from symvanta_pipeline.settings import KeySettings, VantaApiSettings, link_to_vanta, load
from symvanta_pipeline.token_store import VaultTokenStore
from symvanta_pipeline.vanta.budget import RateBudgets
from symvanta_pipeline.vanta.oauth import Application
from symvanta_pipeline.vanta.session import CustomerSession


@dataclass(frozen=True)
class Sessions:
    """Gives out sessions, each with the token of its own customer and of no other.

    Attributes:
        path: of the PUT, ``VANTA_USER_ACCOUNT_PATH``.
        resource_id: of Sym's UserAccount resource, ``VANTA_RESOURCE_ID``.
    """

    application: Application
    budgets: RateBudgets
    ledger: LiveConnection
    keyring: KeyRing
    path: str
    resource_id: str

    def of(self, organization_id: UUID) -> CustomerSession:
        """Return the session of one customer."""
        return CustomerSession(self.application, self._store(organization_id), self.budgets)

    def token_generation(self, organization_id: UUID) -> int:
        """Tell which token the customer's session uses now."""
        return self._store(organization_id).load().generation

    def _store(self, organization_id: UUID) -> VaultTokenStore:
        return VaultTokenStore(self.ledger, self.keyring, organization_id)


@contextmanager
def open_sessions(ledger: LiveConnection) -> Iterator[Sessions]:
    """Check the settings and every stored token's key, then open.

    Raises:
        SettingsError, LedgerError: something is missing; the text says what to do.
    """
    settings = load(VantaApiSettings)
    keyring = KeyRing(load(KeySettings).symvanta_token_keys.get_secret_value())
    Vault(ledger.get(), keyring).check_keys()
    application = Application(
        settings.vanta_client_id,
        settings.vanta_client_secret.get_secret_value(),
        settings.vanta_api_url,
        link_to_vanta(),  # no session asks for consent
    )
    with closing(application.adapter):
        yield Sessions(
            application=application,
            budgets=RateBudgets.from_settings(ledger.get, settings),
            ledger=ledger,
            keyring=keyring,
            path=settings.vanta_user_account_path,
            resource_id=settings.vanta_resource_id,
        )
