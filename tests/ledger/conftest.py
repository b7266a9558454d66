"""What the ledger's tests share: connections, keys, tokens, connected customers, pushes, and a view of who waits."""

import base64
import hashlib
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import psycopg
import pytest

from symvanta_pipeline.ledger import database, snapshots, web_sessions
from symvanta_pipeline.ledger.connections import Connection, connect_customer
from symvanta_pipeline.ledger.snapshots import AcceptedSnapshot, Snapshot
from symvanta_pipeline.ledger.vault import KeyRing, Token
from symvanta_pipeline.ledger.web_sessions import WebSession

PATIENCE = 20.0
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


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


def announce(ledger: psycopg.Connection, organization_id: UUID, states: list[list[str]], *, run_id: str = "run") -> int:
    """Record the intent of a push; the body's hash follows from the states."""
    active = sum(state[1] == "ACTIVE" for state in states)
    body = hashlib.sha256(repr(states).encode()).hexdigest()
    sent = Snapshot(organization_id, run_id, NOON, body, len(states), active, len(states) - active)
    return snapshots.record_intent(ledger, sent, states=states)


def push(
    ledger: psycopg.Connection,
    organization_id: UUID,
    states: list[list[str]],
    *,
    run_id: str = "run",
    approval_id: int | None = None,
) -> AcceptedSnapshot:
    """Record a push that Vanta accepted."""
    intent = announce(ledger, organization_id, states, run_id=run_id)
    return snapshots.record_accepted(ledger, intent, token_generation=1, approval_id=approval_id)


def backdate(ledger: psycopg.Connection, days: int) -> None:
    """Move what was accepted and approved so far into the past, which only a superuser's session can."""
    with ledger.transaction():
        ledger.execute("SET LOCAL session_replication_role = replica")
        for table, columns in {
            "accepted_snapshots": ("accepted_at",),
            "account_changes": ("at",),
            "account_states": ("since",),
            "proofs": ("at",),
            "approvals": ("at", "expires_at", "used_at"),
        }.items():
            moved = ", ".join(f"{column} = {column} - make_interval(days => %(days)s)" for column in columns)
            ledger.execute(f"UPDATE {table} SET {moved}".encode(), {"days": days})


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
