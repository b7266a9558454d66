"""Shared fixtures: the session's PostgreSQL, databases of their own for each test, the watch over processes.

Belongs here: what tests of several folders need. Does not belong here: what the tests of one folder need alone.

One server serves the whole session, all of pytest-xdist's workers included: whoever first needs it starts it, the
last user stops it. A test's databases are clones of templates, which are made once, and are dropped after the test.
"""

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import hypothesis
import psutil
import psycopg
import psycopg.sql
import pytest

from symvanta_pipeline.sandbox import demo_customers
from symvanta_pipeline.sandbox.postgres import EmbeddedPostgres

# Before any of them is imported: what a test's helper asserts should be explained like the test's own.
pytest.register_assert_rewrite("tests.support")

# Holds the session's folder. Every process that the tests start inherits it, and is found by it in the end.
SESSION_VARIABLE = "SYMVANTA_TEST_SESSION"
GRACE = 10.0  # seconds that a process has to end after the last test
# What is append-only lets nothing be removed; as a replica, a superuser's session passes its triggers by.
EMPTY_LEDGER = b"""
SET LOCAL session_replication_role = replica;
TRUNCATE connections, tokens, intents, accepted_snapshots, outcomes, rate_budgets, web_sessions, consent_requests,
         audit_events, proofs, account_states, account_changes, approvals, announced, alerts;
"""
PROCESSES_LEFT = pytest.StashKey[list[str]]()

# A busy machine is no failure. The rest, such as no randomness in CI, is hypothesis' own default.
hypothesis.settings.register_profile("symvanta", hypothesis.settings.default, deadline=None)
hypothesis.settings.load_profile("symvanta")


def _is_worker(config: pytest.Config) -> bool:
    """Say whether this process is one of pytest-xdist's workers, rather than the one that a person called."""
    return hasattr(config, "workerinput")


def pytest_configure(config: pytest.Config) -> None:
    """Name the session's folder, in the one process that workers inherit it from."""
    if not _is_worker(config):
        os.environ[SESSION_VARIABLE] = tempfile.mkdtemp(prefix="symvanta-tests-")


@pytest.hookimpl(trylast=True)  # after pytest-xdist has ended its workers
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Clear up, and fail the session where a process outlived the tests."""
    if _is_worker(session.config):
        return
    folder = os.environ[SESSION_VARIABLE]
    if left := processes_left(folder):
        session.config.stash[PROCESSES_LEFT] = [f"{p.pid} {p.name()}" for p in left]
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED
        for process in left:
            process.kill()
    shutil.rmtree(folder, ignore_errors=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Name the processes that outlived the tests."""
    if left := config.stash.get(PROCESSES_LEFT, None):
        terminalreporter.section("processes left behind by the tests", red=True)
        terminalreporter.line("\n".join(left))


def processes_left(session_folder: str) -> list[psutil.Process]:
    """Return the session's processes that do not end within the grace, daemonized ones included."""
    started = set(psutil.Process().children(recursive=True))
    for process in psutil.process_iter(["environ", "cmdline"]):
        if (process.info["environ"] or {}).get(SESSION_VARIABLE) == session_folder and process.pid != os.getpid():
            started.add(process)
        if any("multiprocessing.resource_tracker" in argument for argument in process.info["cmdline"] or ()):
            started.discard(process)  # Python's own: ends with its parent, which may be us
    _, alive = psutil.wait_procs(started, timeout=GRACE)
    return [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """The session's server, for tests that make databases themselves."""
    with EmbeddedPostgres.start(Path(os.environ[SESSION_VARIABLE]) / "postgres", durable=False) as server:
        yield server


def _ensure_template(server: EmbeddedPostgres, name: str, fill: Callable[[str], object]) -> str:
    """Make the template once, whichever worker comes first; it gets its name only when it is whole."""
    unfinished = f"{name}_unfinished"
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(hashtext(%s))", [name])
        if not connection.execute("SELECT FROM pg_database WHERE datname = %s", [name]).fetchall():
            server.drop(unfinished)
            server.ensure_databases(unfinished)
            fill(server.url(unfinished))
            server.rename(unfinished, name)
    return name


def _clone(server: EmbeddedPostgres, template: str) -> Iterator[str]:
    name = f"{template}_{uuid.uuid4().hex[:12]}"
    server.clone(template, name)
    yield server.url(name)
    server.drop(name)


@pytest.fixture(scope="session")
def sym_template(postgres: EmbeddedPostgres) -> str:
    return _ensure_template(postgres, "sym", demo_customers.create_schema)


@pytest.fixture(scope="session")
def demo_sym_template(postgres: EmbeddedPostgres) -> str:
    def fill(url: str) -> None:
        demo_customers.create_schema(url)
        demo_customers.load(url)

    return _ensure_template(postgres, "demo_sym", fill)


@pytest.fixture(scope="session")
def symvanta_template(postgres: EmbeddedPostgres) -> str:
    from symvanta_pipeline.ledger.database import migrate  # noqa: PLC0415 - pure tests need no SQLAlchemy

    return _ensure_template(postgres, "symvanta", migrate)


@pytest.fixture(scope="session")
def dagster_template(postgres: EmbeddedPostgres) -> str:
    return _ensure_template(postgres, "dagster", _fill_dagster)


def _fill_dagster(url: str) -> None:
    """Make Dagster's tables, as `dagster instance migrate` does on a fresh database."""
    from dagster_postgres import DagsterPostgresStorage  # noqa: PLC0415 - pure tests need no Dagster

    DagsterPostgresStorage(_for_dagster(url))  # it makes what is missing, and keeps no connection


def _for_dagster(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg2://", 1)


@pytest.fixture
def sym_url(postgres: EmbeddedPostgres, sym_template: str) -> Iterator[str]:
    """URL of a Sym database of the test's own: the three tables, empty. The `sym` fixture writes rows."""
    yield from _clone(postgres, sym_template)


@pytest.fixture
def demo_sym_url(postgres: EmbeddedPostgres, demo_sym_template: str) -> Iterator[str]:
    """URL of a Sym database of the test's own that holds the demo customers."""
    yield from _clone(postgres, demo_sym_template)


@pytest.fixture(scope="module")
def module_database(postgres: EmbeddedPostgres, symvanta_template: str) -> Iterator[str]:
    """One database for a module's tests: a clone for each would cost more than what they do in it."""
    yield from _clone(postgres, symvanta_template)


@pytest.fixture
def ledger_url(module_database: str) -> str:
    """The pipeline's own database with nothing in it."""
    with psycopg.connect(module_database) as connection:
        connection.execute(EMPTY_LEDGER)
    return module_database


@pytest.fixture
def symvanta_url(postgres: EmbeddedPostgres, symvanta_template: str) -> Iterator[str]:
    """URL of a database of the test's own with the pipeline's tables, migrated and empty."""
    yield from _clone(postgres, symvanta_template)


@pytest.fixture
def dagster_url(postgres: EmbeddedPostgres, dagster_template: str) -> Iterator[str]:
    """URL of a Dagster database of the test's own, migrated and empty, as dagster-postgres wants it."""
    yield from map(_for_dagster, _clone(postgres, dagster_template))


Identity = Mapping[str, object]  # column to value


class SymRows:
    """Writes rows of Sym's database tersely; each call commits. Whatever is not given is valid and plain.

    Identities are built by `password`, `federated` and `slack` (or are any mapping of column to value):
    ``sym.user(org, type="admin", identities=[sym.password(mfa_factors=["otp"]), sym.slack()])``.
    """

    CREATED = datetime(2026, 1, 1, tzinfo=UTC)

    def __init__(self, connection: psycopg.Connection) -> None:
        self.connection = connection

    def organization(self, slug: str, **columns: object) -> uuid.UUID:
        """Insert an organization and return its id. Columns: id, name, created_at, deleted_at."""
        row = {"name": slug.title(), "created_at": self.CREATED, "slug": slug} | columns
        return self._insert("organizations", row)

    def user(
        self, organization: uuid.UUID, *, identities: Sequence[Identity] | None = None, **columns: object
    ) -> uuid.UUID:
        """Insert a user and return the id.

        Args:
            organization: id of the organization.
            identities: None means one Slack identity; an empty list means none.
            columns: id, type (member), name, email, created_at, updated_at, deactivated_at, last_active_at.
        """
        unique = uuid.uuid4()
        row = {
            "id": unique,
            "organization_id": organization,
            "type": "member",
            "name": f"Person {unique.hex[:6]}",
            "email": f"{unique.hex[:6]}@customer.example",
            "created_at": self.CREATED,
        }
        user = self._insert("users", row | columns)
        for identity in [self.slack()] if identities is None else identities:
            self.identity(user, **identity)
        return user

    def identity(self, user: uuid.UUID, **columns: object) -> uuid.UUID:
        """Insert an identity of the user and return its id."""
        return self._insert("identities", {"user_id": user} | columns)

    @staticmethod
    def password(**columns: object) -> dict[str, object]:
        """Return an identity with a password kept by Auth0; mfa_factors stays NULL unless it is given."""
        return {
            "service": "auth0",
            "external_id": f"auth0|{uuid.uuid4().hex[:24]}",
            "connection": "Username-Password-Authentication",
        } | columns

    @staticmethod
    def federated(connection: str = "google-oauth2", **columns: object) -> dict[str, object]:
        """Return an identity that Auth0 federates to another login."""
        return {
            "service": "auth0",
            "external_id": f"{connection}|{uuid.uuid4().hex[:24]}",
            "connection": connection,
        } | columns

    @staticmethod
    def slack(**columns: object) -> dict[str, object]:
        """Return a Slack identity."""
        return {"service": "slack", "external_id": f"U{uuid.uuid4().hex[:10].upper()}"} | columns

    def execute(self, statement: str, *parameters: object) -> None:
        """Run any statement on the test's Sym database, e.g. an UPDATE."""
        self.connection.execute(statement.encode(), parameters)

    def _insert(self, table: str, row: Mapping[str, object]) -> uuid.UUID:
        row = {"id": uuid.uuid4()} | dict(row)
        statement = psycopg.sql.SQL("INSERT INTO {} ({}) VALUES ({}) RETURNING id").format(
            psycopg.sql.Identifier(table),
            psycopg.sql.SQL(", ").join(map(psycopg.sql.Identifier, row)),
            psycopg.sql.SQL(", ").join(map(psycopg.sql.Placeholder, row)),
        )
        inserted = self.connection.execute(statement, row).fetchone()
        assert inserted is not None
        unique: uuid.UUID = inserted[0]
        return unique


@pytest.fixture
def sym(sym_url: str) -> Iterator[SymRows]:
    """A writer of rows for the database behind `sym_url`."""
    with psycopg.connect(sym_url, autocommit=True) as connection:
        yield SymRows(connection)
