"""What the ledger's tests share: connections, keys, tokens, connected customers, and a view of who waits."""

import base64
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import psycopg
import pytest

from symvanta_pipeline.ledger import database, web_sessions
from symvanta_pipeline.ledger.connections import Connection, connect_customer
from symvanta_pipeline.ledger.vault import KeyRing, Token
from symvanta_pipeline.ledger.web_sessions import WebSession

PATIENCE = 20.0


@pytest.fixture
def ledger(symvanta_url: str) -> Iterator[psycopg.Connection]:
    with database.connect(symvanta_url) as connection:
        yield connection


@pytest.fixture
def other(symvanta_url: str) -> Iterator[psycopg.Connection]:
    with database.connect(symvanta_url) as connection:
        yield connection


@pytest.fixture
def keyring() -> KeyRing:
    return KeyRing("k1:" + base64.urlsafe_b64encode(bytes(range(32))).decode())


@pytest.fixture
def token() -> Callable[[str], Token]:
    def make(mark: str) -> Token:
        return Token(f"vat_{mark}", f"refresh_{mark}", datetime(2030, 1, 1, tzinfo=UTC), "read write")

    return make


@pytest.fixture
def connected(ledger: psycopg.Connection, keyring: KeyRing, token: Callable[[str], Token]) -> Callable[..., Connection]:
    def make(slug: str = "acme", organization_id: UUID | None = None) -> Connection:
        return connect_customer(ledger, keyring, organization_id or uuid4(), slug, token(slug))

    return make


@pytest.fixture
def session(ledger: psycopg.Connection, keyring: KeyRing) -> WebSession:
    """A signed-in browser."""
    return web_sessions.begin(ledger, keyring, "auth0|1", lifetime=timedelta(hours=1))


@pytest.fixture
def until_blocked(symvanta_url: str) -> Iterator[Callable[[int], None]]:
    """Wait until so many sessions of this test's database stand before a lock that another one holds."""
    with database.connect(symvanta_url) as watcher:

        def wait(sessions: int = 1) -> None:
            deadline = time.monotonic() + PATIENCE
            while time.monotonic() < deadline:
                [(waiting,)] = watcher.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                    "AND wait_event_type = 'Lock'"
                ).fetchall()
                if waiting == sessions:
                    return
                time.sleep(0.01)
            pytest.fail(f"never saw {sessions} sessions wait for a lock")

        yield wait
