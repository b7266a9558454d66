"""What the tests of the calls to Vanta share: the stand-in, and customers who are really connected to it."""

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from symvanta_pipeline.accounts.body import Body
from symvanta_pipeline.ledger import connections, database
from symvanta_pipeline.ledger.connections import Connection, connect_customer
from symvanta_pipeline.ledger.live_connection import LiveConnection
from symvanta_pipeline.ledger.vault import KeyRing, StoredToken, Token, Vault
from symvanta_pipeline.sandbox.vanta.config import VantaConfig
from symvanta_pipeline.sandbox.vanta.control import VantaServer, start_vanta
from symvanta_pipeline.token_store import VaultTokenStore
from symvanta_pipeline.vanta import oauth, session
from symvanta_pipeline.vanta.budget import RateBudgets
from symvanta_pipeline.vanta.oauth import Application
from symvanta_pipeline.vanta.session import CustomerSession

KEYS = "k1:" + base64.urlsafe_b64encode(bytes(range(32))).decode()
CONFIG = VantaConfig(token_requests_per_minute=100_000, resource_requests_per_minute=100_000)
PATH = "/v1/resources/user_account/sync_all"


@pytest.fixture(scope="session")
def vanta() -> Iterator[VantaServer]:
    """One stand-in for all tests of a worker: each has tenants of its own."""
    with start_vanta(CONFIG) as running:
        yield running


@pytest.fixture
def application(vanta: VantaServer) -> Iterator[Application]:
    secret = CONFIG.client_secret.get_secret_value()
    made = Application(CONFIG.client_id, secret, vanta.url, vanta.url)
    yield made
    made.adapter.close()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits a minute for a time-out or seconds for the next attempt; how often it is tried stays as it is."""
    for module in (oauth, session):
        monkeypatch.setattr(module, "TIMEOUT", (5.0, 5.0))
    monkeypatch.setattr(session, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(session, "LAST_WAIT", 0.02)


@dataclass
class Customer:
    """A customer with a token in the vault, and everything that a session of theirs needs."""

    vanta: VantaServer
    ledger: psycopg.Connection
    live: LiveConnection
    keyring: KeyRing
    budgets: RateBudgets
    application: Application
    organization_id: UUID

    @property
    def tenant(self) -> str:
        return str(self.organization_id)

    def consent(self) -> Connection:
        """Give consent at the stand-in, and store what came of it, over a connection of its own."""
        reply = self.vanta.connect(self.tenant)
        expires_at = datetime.now(UTC) + timedelta(seconds=reply["expires_in"])
        token = Token(reply["access_token"], reply["refresh_token"], expires_at, reply["scope"])
        return connect_customer(self.ledger, self.keyring, self.organization_id, f"c-{self.tenant}", token)

    def expire(self, **left: float) -> None:
        """Let the stored access token have just so much of its life left."""
        self.ledger.execute(
            "UPDATE tokens SET expires_at = %s WHERE organization_id = %s",
            [datetime.now(UTC) + timedelta(**left), self.organization_id],
        )

    def stored(self) -> StoredToken:
        """What any other connection sees in the vault."""
        token = Vault(self.ledger, self.keyring).load(self.organization_id)
        assert token is not None
        return token

    def state(self) -> str:
        connection = connections.find(self.ledger, self.organization_id)
        assert connection is not None
        return connection.state

    def store(self) -> VaultTokenStore:
        return VaultTokenStore(self.live, self.keyring, self.organization_id)

    def session(self, store: VaultTokenStore | None = None) -> CustomerSession:
        return CustomerSession(self.application, store or self.store(), self.budgets)

    def body(self, *unique_ids: str) -> Body:
        return body_of(self.tenant, [account(unique_id) for unique_id in unique_ids or ("1",)])

    def put(self, store: VaultTokenStore | None = None, before_send: Callable[[], None] = lambda: None) -> Any:
        """One PUT of one account."""
        return self.session(store).call("PUT", PATH, payload=self.body().payload, before_send=before_send)

    def fault(self, on: str, kind: str, **options: Any) -> None:
        self.vanta.fault(on, kind, tenant=self.tenant, **options)

    def fired(self) -> list[int]:
        return [fault["fired"] for fault in self.vanta.faults() if fault["tenant"] == self.tenant]

    def calls(self) -> list[str]:
        """What was asked of the stand-in for this customer since consent was given, in order."""
        entries = [entry for entry in self.vanta.journal() if entry["tenant"] == self.tenant]
        return [
            "refresh" if entry["endpoint"] == "token" else entry["endpoint"]
            for entry in entries
            if entry["endpoint"] != "authorize" and entry["grant_type"] != "authorization_code"
        ]

    def puts(self) -> list[dict[str, Any]]:
        return [entry for entry in self.vanta.journal("put") if entry["tenant"] == self.tenant]


def account(unique_id: str, **changes: object) -> dict[str, object]:
    return {
        "displayName": "Ada",
        "uniqueId": unique_id,
        "externalUrl": "https://app.example.com/",
        "fullName": "Ada",
        "accountName": "ada@example.com",
        "email": "ada@example.com",
        "permissionLevel": "BASE",
        "createdTimestamp": "2026-01-01T00:00:00Z",
        "status": "ACTIVE",
        "mfaEnabled": False,
        "mfaMethods": [],
        "authMethod": "SSO",
    } | changes


def body_of(organization_id: str, accounts: list[dict[str, object]]) -> Body:
    """A body as ``accounts.body`` makes them, without its checks."""
    payload = json.dumps({"resourceId": CONFIG.resource_id, "resources": accounts}).encode()
    count = len(accounts)
    return Body(organization_id, CONFIG.resource_id, payload, sha256(payload).hexdigest(), count, count, 0)


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[psycopg.Connection]:
    with database.connect(ledger_url, application_name="test") as connection:
        yield connection


@pytest.fixture
def new_customer(
    vanta: VantaServer, application: Application, ledger: psycopg.Connection, ledger_url: str
) -> Iterator[Callable[[], Customer]]:
    """Make connected customers, all with the same budgets, as one run has them."""
    with (
        LiveConnection(ledger_url) as live,
        RateBudgets(
            lambda: database.connect(ledger_url),
            token_per_minute=1000,
            resource_per_minute=1000,
            window=timedelta(seconds=0.1),
        ) as budgets,
    ):

        def make() -> Customer:
            customer = Customer(vanta, ledger, live, KeyRing(KEYS), budgets, application, uuid4())
            customer.consent()
            return customer

        yield make


@pytest.fixture
def customer(new_customer: Callable[[], Customer]) -> Customer:
    return new_customer()


@pytest.fixture
def tight_budgets(ledger_url: str) -> Iterator[Callable[[int], RateBudgets]]:
    """Make budgets whose window is as long as Vanta's, with so many calls of the resource endpoints."""
    with ExitStack() as made:

        def make(resource_per_minute: int) -> RateBudgets:
            return made.enter_context(
                RateBudgets(
                    lambda: database.connect(ledger_url),
                    token_per_minute=1000,
                    resource_per_minute=resource_per_minute,
                )
            )

        yield make
