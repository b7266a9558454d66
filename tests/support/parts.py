"""The real parts of a sync, put together for one test: Sym's database, the ledger, a stand-in for Vanta.

Belongs here: what the tests of a customer's way from Sym to Vanta share. Does not belong here: any expectation.
"""

import base64
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from symvanta_pipeline.defs.resources import Ledger, SymDatabase, Vanta, customer_sync
from symvanta_pipeline.ledger import connections, database
from symvanta_pipeline.ledger.connections import Connection
from symvanta_pipeline.ledger.locks import lock_key
from symvanta_pipeline.ledger.vault import KeyRing, StoredToken, Vault
from symvanta_pipeline.sandbox.postgres import EmbeddedPostgres
from symvanta_pipeline.sandbox.vanta.config import VantaConfig
from symvanta_pipeline.sandbox.vanta.control import VantaServer, start_vanta
from symvanta_pipeline.sync import CustomerResult, CustomerSync, Reach
from symvanta_pipeline.token_store import token_of
from symvanta_pipeline.vanta import session
from symvanta_pipeline.vanta.oauth import TokenReply
from tests.conftest import SymRows

PATIENCE = 20.0
KEYS = "k1:" + base64.urlsafe_b64encode(bytes(range(32))).decode()
RUN_ID = "5ef1c1d2-0000-4000-8000-000000000000"
CLIENT_SECRET = "vcs_canary_9f2b"
# Everything that may stand in no sentence, log, event or table: names, addresses, tokens and our own secret.
CANARY = re.compile(r"canary|v(?:at|rt)_[\w-]{20}", re.IGNORECASE)


@dataclass
class Parts:
    """Everything that a customer's sync touches, and a view of what became of it."""

    sym: SymRows
    vanta: VantaServer
    ledger: psycopg.Connection
    ledger_url: str
    keyring: KeyRing
    folder: Path

    def customer(
        self, slug: str, *, people: int = 1, connected: bool = True, due: bool = False, known: bool = False
    ) -> UUID:
        """Make an organization with so many members, and its consent; a known one is not pushed for the first time."""
        organization = self.sym.organization(slug)
        for n in range(people):
            self.person(organization, email=f"canary{n}@{slug}.example")
        if connected:
            self.connect(organization, slug, due=due)
        if known:
            self.ledger.execute(
                "INSERT INTO account_states SELECT %s, unnest(%s::text[]), 'ACTIVE', 'BASE', 'SSO', 'sso', now(), 0",
                [organization, list(self.at_sym(organization))],
            )
        return organization

    def bystanders(self, count: int) -> None:
        """Make connected customers that no run touches, so that the trouble of a few is not everybody's."""
        self.ledger.execute(
            "INSERT INTO connections (organization_id, customer, state, generation, connected_at)"
            " SELECT gen_random_uuid(), 'bystander-' || n, 'connected', 1, now() FROM generate_series(1, %s) AS n",
            [count],
        )

    def person(self, organization: UUID, **columns: Any) -> UUID:
        """Add a user whose name and address may be seen nowhere but in Sym, in the body and in the Parquet."""
        return self.sym.user(organization, **({"name": "Canary Person"} | columns))

    def connect(
        self, organization: UUID, slug: str, *, due: bool = False, ledger: psycopg.Connection | None = None
    ) -> Connection:
        """Give consent and store the token; a due one has to be refreshed before it is used."""
        reply = self.vanta.connect(str(organization))
        lifetime = -1.0 if due else float(reply["expires_in"])
        token = token_of(TokenReply(reply["access_token"], reply["refresh_token"], lifetime, reply["scope"]))
        return connections.connect_customer(ledger or self.ledger, self.keyring, organization, slug, token)

    def age_token(self, organization: UUID) -> None:
        """Make the stored access token due."""
        self.ledger.execute("UPDATE tokens SET expires_at = now() WHERE organization_id = %s", [organization])

    def token(self, organization: UUID) -> StoredToken:
        stored = Vault(self.ledger, self.keyring).load(organization)
        assert stored is not None
        return stored

    @contextmanager
    def sync(
        self, *, reach: Reach = Reach.PUSH, tick: datetime | None = None, run_id: str = RUN_ID
    ) -> Iterator[CustomerSync]:
        """Put together what a run puts together, from the environment."""
        with customer_sync(SymDatabase(), Ledger(), Vanta(), reach=reach, run_id=run_id, tick=tick) as built:
            yield built

    def run(self, *customers: str, reach: Reach = Reach.PUSH, tick: datetime | None = None) -> list[CustomerResult]:
        """Take the customers as far as asked and return the results in the order in which they were known."""
        with self.sync(reach=reach, tick=tick) as built:
            return [clean(result) for result in built.results(customers)]

    def journal(self, organization: UUID, endpoint: str) -> list[dict[str, Any]]:
        """List what arrived with this organization's credential, its consent left out."""
        return [
            entry
            for entry in self.vanta.journal(endpoint)
            if entry["tenant"] == str(organization) and entry["grant_type"] != "authorization_code"
        ]

    def puts(self, organization: UUID) -> list[dict[str, Any]]:
        return self.journal(organization, "put")

    def body(self, organization: UUID) -> dict[str, Any]:
        """Return the latest body that arrived."""
        content: dict[str, Any] = json.loads(self.vanta.body(self.puts(organization)[-1]["seq"]))
        return content

    def at_vanta(self, organization: UUID) -> dict[str, str]:
        """Tell the status of everybody who is not soft-deleted, by id."""
        return {a["uniqueId"]: a["status"] for a in self.vanta.accounts(str(organization)) if not a["deletedAt"]}

    def at_sym(self, organization: UUID) -> dict[str, str]:
        """Tell what `at_vanta` should be, from Sym's own table."""
        rows = self.sym.connection.execute(
            "SELECT id::text, CASE WHEN deactivated_at IS NULL THEN 'ACTIVE' ELSE 'DEACTIVATED' END"
            " FROM users WHERE organization_id = %s",
            [organization],
        )
        return dict(rows.fetchall())

    def outcome(self, organization: UUID) -> str | None:
        row = self.ledger.execute("SELECT outcome FROM outcomes WHERE organization_id = %s", [organization]).fetchone()
        return row[0] if row else None

    def state(self, organization: UUID) -> str:
        found = connections.find(self.ledger, organization)
        assert found is not None
        return found.state

    def intents(self, organization: UUID) -> list[str | None]:
        """List the outcomes of all intents, oldest first; None is unresolved."""
        rows = self.ledger.execute("SELECT outcome FROM intents WHERE organization_id = %s ORDER BY id", [organization])
        return [outcome for (outcome,) in rows]

    def accepted(self, organization: UUID) -> list[datetime]:
        """List when each accepted snapshot was read, oldest first."""
        rows = self.ledger.execute(
            "SELECT read_at FROM accepted_snapshots WHERE organization_id = %s ORDER BY id", [organization]
        )
        return [read_at for (read_at,) in rows]

    def is_locked(self, organization: UUID) -> bool:
        """Tell whether somebody holds the customer's lock."""
        row = self.ledger.execute(
            """
            SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
              AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
              AND (classid::bigint << 32 | objid::bigint) = %s
            """,
            [lock_key(organization)],
        ).fetchone()
        return row is not None


def clean(result: CustomerResult) -> CustomerResult:
    """Return the result once it is seen to name no person and no secret."""
    said = [repr(result), *result.warnings, *(str(v) for v in (*result.row_violations, *result.record_violations))]
    for text in (*said, result.failure.sentence if result.failure else ""):
        assert not CANARY.search(text), text
    return result


def until(happened: Callable[[], object], what: str) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline, f"never saw that {what}"
        time.sleep(0.01)


class Hold:
    """Holds a table's lock, so that whoever needs it stops exactly there."""

    def __init__(self, url: str, statement: str) -> None:
        self.connection = psycopg.connect(url)
        self.connection.execute(statement.encode())
        self._watcher = psycopg.connect(url, autocommit=True)

    def waiting(self, statement: str = "") -> list[int]:
        """List the backends that wait for a lock within a statement that contains this."""
        rows = self._watcher.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            " AND query ILIKE %s",
            [f"%{statement}%"],
        )
        return [pid for (pid,) in rows]

    def until_somebody_waits(self, statement: str = "") -> None:
        until(lambda: self.waiting(statement), f"somebody waits in {statement or 'any statement'}")

    def end_waiting(self) -> list[bool]:
        """End the backends that wait, and what they would still have done."""
        return [
            ended
            for pid in self.waiting()
            for (ended,) in self._watcher.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])
        ]

    def release(self) -> None:
        """Let everybody on. Safe to repeat."""
        self.connection.close()
        self._watcher.close()


@contextmanager
def held(url: str, statement: str) -> Iterator[Hold]:
    """Hold a lock until the block ends, or its `release`."""
    hold = Hold(url, statement)
    try:
        yield hold
    finally:
        hold.release()


@contextmanager
def meanwhile(act: Callable[[], object]) -> Iterator[None]:
    """Do something in a thread while the block runs; its failure is the test's."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as error:  # noqa: BLE001 - raised again below, in the test's own thread
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if failures:
        raise failures[0]


@contextmanager
def refusing_connections(url: str, server: Any) -> Iterator[None]:
    """End every connection to a database and refuse new ones, as an outage does, until the block ends."""
    name = url.rpartition("/")[2]
    with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false'.encode())
        # Who waits for a lock goes first, and does not get what another one's end sets free.
        admin.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM (SELECT pid FROM pg_stat_activity WHERE datname = %s"
            " ORDER BY wait_event_type = 'Lock' DESC NULLS LAST) AS connected",
            [name],
        )
        try:
            yield
        finally:
            admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true'.encode())


@pytest.fixture(scope="session")
def stand_in() -> Iterator[VantaServer]:
    """One stand-in for all tests: each has organizations of its own, and faults that strike those alone."""
    config = VantaConfig(
        client_secret=CLIENT_SECRET, token_requests_per_minute=100_000, resource_requests_per_minute=100_000
    )
    with start_vanta(config) as running:
        yield running


# Which migrations were made, and who the database is.
KEPT = ["symvanta_alembic_version", "alembic_version", "secondary_indexes", "instance_info"]


@pytest.fixture(scope="session")
def databases(
    postgres: EmbeddedPostgres, sym_template: str, symvanta_template: str, dagster_template: str
) -> Iterator[dict[str, str]]:
    """Three databases that a worker's tests use one after the other: emptying is far quicker than cloning."""
    names = {
        template: f"{template}_{uuid4().hex[:12]}" for template in (sym_template, symvanta_template, dagster_template)
    }
    for template, name in names.items():
        postgres.clone(template, name)
    yield {template: postgres.url(name) for template, name in names.items()}
    for name in names.values():
        postgres.drop(name)


def _emptied(url: str) -> str:
    """Empty every table of a database and return its URL."""
    with psycopg.connect(url, autocommit=True) as connection:
        tables = connection.execute(
            "SELECT format('%%I', tablename) FROM pg_tables WHERE schemaname = 'public' AND tablename <> ALL(%s)",
            [KEPT],
        ).fetchall()
        # What is append-only lets nothing be removed; as a replica, a superuser's session passes its triggers by.
        connection.execute("SET session_replication_role = replica")
        connection.execute(f"TRUNCATE {', '.join(name for (name,) in tables)}".encode())
    return url


@pytest.fixture
def sym_url(databases: dict[str, str], sym_template: str) -> str:
    """As the fixture of all folders; empty, though not fresh."""
    return _emptied(databases[sym_template])


@pytest.fixture
def symvanta_url(databases: dict[str, str], symvanta_template: str) -> str:
    """As the fixture of all folders; empty, though not fresh."""
    return _emptied(databases[symvanta_template])


@pytest.fixture
def dagster_url(databases: dict[str, str], dagster_template: str) -> str:
    """As the fixture of all folders; empty, though not fresh."""
    return _emptied(databases[dagster_template]).replace("postgresql://", "postgresql+psycopg2://")


@pytest.fixture
def environment(stand_in: VantaServer, sym_url: str, symvanta_url: str, tmp_path: Path) -> dict[str, str]:
    """The variables that describe the parts of this test."""
    return {
        "SYM_DATABASE_URL": sym_url,
        "SYMVANTA_DATABASE_URL": symvanta_url,
        "SYMVANTA_TOKEN_KEYS": KEYS,
        "SYMVANTA_DATA_URL": str(tmp_path / "data"),
        "VANTA_CLIENT_ID": stand_in.config.client_id,
        "VANTA_CLIENT_SECRET": CLIENT_SECRET,
        "VANTA_RESOURCE_ID": stand_in.config.resource_id,
        "VANTA_API_URL": stand_in.url,
        "VANTA_APP_URL": stand_in.url,
        "VANTA_TOKEN_REQUESTS_PER_MINUTE": "1000",
        "VANTA_RESOURCE_REQUESTS_PER_MINUTE": "1000",
    }


@pytest.fixture
def parts(
    stand_in: VantaServer, sym: SymRows, environment: dict[str, str], tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Parts]:
    """All parts, and the environment set; whatever is logged must name nobody and no secret."""
    monkeypatch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    caplog: pytest.LogCaptureFixture = request.getfixturevalue("caplog")
    ledger_url = environment["SYMVANTA_DATABASE_URL"]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)  # away from any .env
    # A failure that may pass is tried again after milliseconds.
    monkeypatch.setattr(session, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(session, "LAST_WAIT", 0.01)
    caplog.set_level("DEBUG")
    with database.connect(ledger_url) as ledger:
        yield Parts(sym, stand_in, ledger, ledger_url, KeyRing(KEYS), tmp_path)
    assert not CANARY.search(caplog.text)


def ago(**units: float) -> datetime:
    return datetime.now(UTC) - timedelta(**units)


def sentences(results: Sequence[CustomerResult]) -> dict[str, tuple[str, str] | None]:
    """Tell each customer's failure, as outcome and sentence."""
    return {r.customer: (r.failure.outcome, r.failure.sentence) if r.failure else None for r in results}
