"""One installation that is well, each part of it real.

Belongs here: putting it together. Does not belong here: making it ill, any expectation.
"""

import os
import secrets
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid4

import psycopg
import pytest

from symvanta_pipeline.ledger import connections, database
from symvanta_pipeline.ledger.vault import KeyRing
from symvanta_pipeline.sandbox.dagster_processes import DAEMON, DagsterProcess
from symvanta_pipeline.sandbox.login.config import LoginConfig
from symvanta_pipeline.sandbox.login.control import LoginServer, start_login
from symvanta_pipeline.sandbox.postgres import EmbeddedPostgres
from symvanta_pipeline.sandbox.vanta.config import VantaConfig
from symvanta_pipeline.sandbox.vanta.control import VantaServer, start_vanta
from symvanta_pipeline.token_store import token_of
from symvanta_pipeline.vanta.oauth import TokenReply
from tests.conftest import SymRows
from tests.support.parts import KEYS
from tests.support.stack import CHECKOUT, until

PASSWORD = "canary-password"
CLIENT_SECRET = "vcs_canary_5c11"
LOGIN_SECRET = "canary-login-secret"
MARKER = "canarytoken"
CUSTOMERS = ("acme", "bravo")
WORKSPACE = """\
load_from:
  - python_module:
      module_name: symvanta_pipeline.definitions
      location_name: symvanta_pipeline
"""


@dataclass
class Installation:
    """Everything that is looked at.

    Attributes:
        env: all settings, as a process of the pipeline has them.
        sym_admin: Sym's database as its superuser.
        own_admin: the pipeline's own, likewise.
        reader: role of `SYM_DATABASE_URL`.
        owner: role of `SYMVANTA_DATABASE_URL`.
        ids: organizations by customer.
    """

    env: dict[str, str]
    server: EmbeddedPostgres
    sym_admin: str
    own_admin: str
    reader: str
    owner: str
    vanta: VantaServer
    login: LoginServer
    home: Path
    ids: dict[str, UUID]

    @property
    def dagster_admin(self) -> str:
        return self.env["DAGSTER_POSTGRES_URL"].replace("+psycopg2", "")


def execute(url: str, *statements: str) -> None:
    """Run statements, all of them in one transaction."""
    with psycopg.connect(url) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def let_daemon_live(dagster: str) -> None:
    """Renew the signs of life that the daemon left, so that no test hangs on how long those before it took."""
    execute(
        dagster,
        """
        UPDATE daemon_heartbeats SET timestamp = now() AT TIME ZONE 'UTC',
            body = regexp_replace(body, '"timestamp": [0-9.]+', '"timestamp": ' || extract(epoch FROM now()))
        """,
    )


def as_role(url: str, role: str, password: str = PASSWORD) -> str:
    """Return the same database's URL for another role."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{role}:{password}@{parts.hostname}:{parts.port}"))


@contextmanager
def running_installation(server: EmbeddedPostgres, templates: tuple[str, str], folder: Path) -> Iterator[Installation]:
    """Put it together; its daemon runs for a moment, so that all that it leaves behind is real.

    Args:
        server: where its databases are made.
        templates: of Sym's database and of Dagster's.
        folder: for everything else.
    """
    config = VantaConfig.model_validate({"client_secret": CLIENT_SECRET, "secret_marker": MARKER})
    login_config = LoginConfig.model_validate({"client_secret": LOGIN_SECRET})
    with ExitStack() as running:
        vanta = running.enter_context(start_vanta(config))
        login = running.enter_context(start_login(login_config))
        sym = running.enter_context(_sym(server, templates[0]))
        own = running.enter_context(_own(server))
        dagster = running.enter_context(_clone(server, templates[1]))
        home = folder / "dagster"
        home.mkdir()
        shutil.copyfile(CHECKOUT / "dagster.yaml", home / "dagster.yaml")
        data = folder / "data"
        data.mkdir(mode=0o700)
        reader, owner = f"reader_{urlsplit(sym).path[1:]}", f"owner_{urlsplit(own).path[1:]}"
        env = {
            "SYM_DATABASE_URL": as_role(sym, reader),
            "SYMVANTA_DATABASE_URL": as_role(own, owner),
            "DAGSTER_POSTGRES_URL": dagster.replace("postgresql://", "postgresql+psycopg2://", 1),
            "DAGSTER_HOME": str(home),
            "VANTA_CLIENT_ID": vanta.config.client_id,
            "VANTA_CLIENT_SECRET": CLIENT_SECRET,
            "VANTA_RESOURCE_ID": vanta.config.resource_id,
            "VANTA_API_URL": vanta.url,
            "VANTA_APP_URL": vanta.url,
            "SYMVANTA_TOKEN_KEYS": KEYS,
            "SYMVANTA_DATA_URL": str(data),
            "SYMVANTA_PUBLIC_URL": "https://connect.sym.example",
            "SYM_OIDC_ISSUER": login.url,
            "SYM_OIDC_CLIENT_ID": login.config.client_id,
            "SYM_OIDC_CLIENT_SECRET": LOGIN_SECRET,
            "NO_PROXY": "127.0.0.1,localhost",
        }
        daemon = DagsterProcess.load("the daemon", DAEMON, env=env, log=folder / "daemon.log")
        running.callback(daemon.stop)
        _let_run(daemon, env, folder)
        ids = _customers(sym, env["SYMVANTA_DATABASE_URL"], vanta)
        vanta.clear_journal()
        yield Installation(env, server, sym, own, reader, owner, vanta, login, home, ids)


@contextmanager
def _clone(server: EmbeddedPostgres, template: str) -> Iterator[str]:
    name = f"{template}_{secrets.token_hex(6)}"
    server.clone(template, name)
    try:
        yield server.url(name)
    finally:
        server.drop(name)


@contextmanager
def _sym(server: EmbeddedPostgres, template: str) -> Iterator[str]:
    """Sym's database with the role and the index of docs/production.md."""
    with _clone(server, template) as url:
        reader = f"reader_{urlsplit(url).path[1:]}"
        execute(
            url,
            f"CREATE ROLE {reader} LOGIN PASSWORD '{PASSWORD}' CONNECTION LIMIT 20",
            f"GRANT USAGE ON SCHEMA public TO {reader}",
            f"GRANT SELECT ON organizations, users, identities TO {reader}",
            f"ALTER ROLE {reader} SET default_transaction_read_only = on",
            "CREATE INDEX IF NOT EXISTS identities_external_id ON identities (external_id)",
        )
        try:
            yield url
        finally:
            execute(url, f"DROP OWNED BY {reader}", f"DROP ROLE {reader}")


@contextmanager
def _own(server: EmbeddedPostgres) -> Iterator[str]:
    """The pipeline's own database, owned by an ordinary role and migrated by it."""
    name = f"own_{secrets.token_hex(6)}"
    server.ensure_databases(name)
    url = server.url(name)
    execute(
        url, f"CREATE ROLE owner_{name} LOGIN PASSWORD '{PASSWORD}'", f"ALTER DATABASE {name} OWNER TO owner_{name}"
    )
    database.migrate(as_role(url, f"owner_{name}"))
    try:
        yield url
    finally:
        server.drop(name)
        execute(server.url("postgres"), f"DROP ROLE owner_{name}")


def _customers(sym: str, own: str, vanta: VantaServer) -> dict[str, UUID]:
    """Let some customers give their consent."""
    ids = {}
    with psycopg.connect(sym, autocommit=True) as at_sym, database.connect(own) as ledger:
        rows = SymRows(at_sym)
        for customer in CUSTOMERS:
            ids[customer] = rows.organization(customer)
            rows.user(ids[customer], name="Canary Person", email=f"canary-{uuid4().hex[:6]}@{customer}.example")
            reply = vanta.connect(str(ids[customer]))
            token = token_of(
                TokenReply(reply["access_token"], reply["refresh_token"], float(reply["expires_in"]), reply["scope"])
            )
            connections.connect_customer(ledger, KeyRing(KEYS), ids[customer], customer, token)
    return ids


def _let_run(daemon: DagsterProcess, env: dict[str, str], folder: Path) -> None:
    """Let dagster-daemon work until every part of it gave a sign of life and it has seen schedules and sensors."""
    workspace = folder / "workspace.yaml"
    workspace.write_text(WORKSPACE)
    daemon.begin("run", "-w", str(workspace))
    from symvanta_pipeline.doctor import instance  # noqa: PLC0415 - imports Dagster, while the daemon does

    def is_at_work() -> bool:
        daemon.require_running()
        return instance.daemon().state == "ok" and instance.schedules().state == "ok"

    with pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        until(is_at_work, "a daemon at work")
    # At once: whatever it still writes while it ends in good order would be a change under somebody's eyes.
    os.killpg(daemon.pid, signal.SIGKILL)
    daemon.stop()
