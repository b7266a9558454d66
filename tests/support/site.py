"""The connect app as its own process, between a stand-in for Sym's login and one for Vanta, all over real HTTP.

Belongs here: starting them, Sym's people, and a person's way through the pages. Does not belong here: any expectation.
"""

import base64
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import dagster as dg
import psycopg
import pytest
import requests
from dagster._core.instance.ref import InstanceRef
from psycopg.rows import dict_row
from pydantic import SecretStr

from symvanta_pipeline.ledger import connections, database
from symvanta_pipeline.ledger.connections import Connection
from symvanta_pipeline.ledger.vault import KeyRing, StoredToken, Vault
from symvanta_pipeline.sandbox.dagster_processes import DagsterProcess
from symvanta_pipeline.sandbox.dagster_stack import DagsterStack, free_port
from symvanta_pipeline.sandbox.login.config import LoginConfig
from symvanta_pipeline.sandbox.login.control import LoginServer, start_login
from symvanta_pipeline.sandbox.postgres import EmbeddedPostgres
from symvanta_pipeline.sandbox.vanta.config import VantaConfig
from symvanta_pipeline.sandbox.vanta.control import VantaServer, start_vanta
from tests.conftest import SymRows
from tests.support.stack import CHECKOUT, SYMVANTA, Stack, own_databases, settings_for
from tests.support.visitor import Page, Visitor

PATIENCE = 60.0
KEYS = "k1:" + base64.urlsafe_b64encode(bytes(range(32))).decode()
COMMAND = "symvanta_pipeline.cli"
VANTA = VantaConfig(token_requests_per_minute=1000, resource_requests_per_minute=1000)
LOGIN_SECRET = "sandbox-login-secret"


@dataclass
class Site:
    """The running parts.

    Attributes:
        url: of the connect app.
        env: every setting that it was started with.
        log: what it wrote.
    """

    url: str
    env: Mapping[str, str]
    log: Path
    sym: SymRows
    ledger: psycopg.Connection
    vanta: VantaServer
    login: LoginServer

    def organization(self, slug: str | None = None, **columns: Any) -> tuple[UUID, str]:
        """Add an organization; gives its id and slug."""
        slug = slug or f"org-{uuid4().hex[:10]}"
        organization = self.sym.organization(slug, **columns)
        self.vanta.name_tenant(str(organization), slug)
        return organization, slug

    def admin(self, *organizations: UUID, **columns: Any) -> str:
        """Add somebody who logs in to Sym, a user in each organization; gives the login's subject."""
        subject = f"auth0|{uuid4().hex[:24]}"
        for organization in organizations:
            self.sym.user(
                organization,
                **({"type": "admin"} | columns),
                identities=[self.sym.password(external_id=subject), self.sym.slack()],
            )
        self.login.add_person(subject, subject)
        return subject

    def stranger(self) -> str:
        """Add somebody who can log in and whom Sym does not know."""
        subject = f"auth0|{uuid4().hex[:24]}"
        self.login.add_person(subject, subject)
        return subject

    def sign_in(self, visitor: Visitor, page: Page, subject: str, *, until: str | None = None) -> Page:
        """Choose a person on the login's page."""
        assert page.url.startswith(self.login.url), page.url
        return visitor.submit(page, "Sign in", until=until, person=subject)

    def visit(self, path: str, subject: str, *, until: str | None = None) -> tuple[Visitor, Page]:
        """Open a page as somebody who signs in on the way."""
        visitor = Visitor()
        page = visitor.get(self.url + path, until=until)
        return visitor, self.sign_in(visitor, page, subject, until=until)

    def connected(self, slug: str, subject: str) -> tuple[Visitor, Page]:
        """Go the whole way: sign in, consent, and back to the page that shows it."""
        visitor, page = self.visit(f"/orgs/{slug}/vanta", subject)
        page = visitor.submit(page, "Connect Vanta")
        assert page.url.startswith(self.vanta.url), page.url
        return visitor, visitor.submit(page, "Allow")

    def connection(self, organization: UUID) -> Connection | None:
        return connections.find(self.ledger, organization)

    def token(self, organization: UUID) -> StoredToken | None:
        return Vault(self.ledger, KeyRing(self.env["SYMVANTA_TOKEN_KEYS"])).load(organization)

    def audit(self, organization: UUID) -> list[tuple[str, str | None]]:
        """List what was written down about an organization: event and detail, oldest first."""
        rows = self.ledger.execute(
            "SELECT event, detail FROM audit_events WHERE organization_id = %s ORDER BY id", [organization]
        )
        return rows.fetchall()

    def events_of(self, subject: str) -> list[dict[str, Any]]:
        """List what was written down about a person."""
        users = self.sym.connection.execute("SELECT user_id FROM identities WHERE external_id = %s", [subject])
        ids = [str(user) for (user,) in users.fetchall()]
        with self.ledger.cursor(row_factory=dict_row) as cursor:
            return cursor.execute("SELECT * FROM audit_events WHERE actor = ANY(%s) ORDER BY id", [ids]).fetchall()

    def codes_used(self, organization: UUID) -> int:
        """Count the exchanges of a code that the stand-in for Vanta saw for an organization."""
        calls = [entry for entry in self.vanta.journal("token") if entry["tenant"] == str(organization)]
        return sum(entry["grant_type"] == "authorization_code" for entry in calls)


@contextmanager
def connect_app(env: Mapping[str, str], folder: Path, *, command: str = COMMAND) -> Iterator[str]:
    """Run ``symvanta connect-app`` as a process of its own and yield where it listens."""
    port = env["CONNECT_PORT"]
    log = folder / "connect-app.log"
    process = DagsterProcess.load("the connect app", command, env=env, log=log)
    try:
        process.begin("connect-app", "--port", port)
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + PATIENCE
        while not _is_up(url):
            process.require_running()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield url
    finally:
        process.stop()


def _is_up(url: str) -> bool:
    try:
        return requests.get(f"{url}/healthz", timeout=5).ok
    except requests.ConnectionError:
        return False


@contextmanager
def running_site(
    postgres: EmbeddedPostgres,
    templates: Mapping[str, str],
    folder: Path,
    *,
    vanta_config: VantaConfig = VANTA,
    login_secret: str = LOGIN_SECRET,
    command: str = COMMAND,
    **settings: str,
) -> Iterator[Site]:
    """Start everything that a person's way through the connect app needs, but no Dagster."""
    port = free_port()
    public_url = f"http://127.0.0.1:{port}"
    home = folder / "dagster"
    home.mkdir(parents=True)
    shutil.copyfile(CHECKOUT / "dagster.yaml", home / "dagster.yaml")
    login_config = LoginConfig(
        client_secret=SecretStr(login_secret),
        redirect_uris=(f"{public_url}/auth/callback",),
        logout_uris=(f"{public_url}/auth/logout",),
    )
    with ExitStack() as running:
        urls = running.enter_context(own_databases(postgres, templates))
        vanta = running.enter_context(start_vanta(vanta_config, log=folder / "vanta.log"))
        vanta.set_installation_url(f"{public_url}/vanta/install")
        login = running.enter_context(start_login(login_config, log=folder / "login.log"))
        env = {
            **urls,
            **settings_for(vanta),
            "SYMVANTA_TOKEN_KEYS": KEYS,
            "SYMVANTA_PUBLIC_URL": public_url,
            "SYM_OIDC_ISSUER": login.url,
            "SYM_OIDC_CLIENT_ID": login.config.client_id,
            "SYM_OIDC_CLIENT_SECRET": login.config.client_secret.get_secret_value(),
            "DAGSTER_HOME": str(home),
            "CONNECT_PORT": str(port),
            "NO_PROXY": "127.0.0.1",
            **settings,
        }
        url = running.enter_context(connect_app(env, folder, command=command))
        sym = running.enter_context(psycopg.connect(urls["SYM_DATABASE_URL"], autocommit=True))
        ledger = running.enter_context(database.connect(urls["SYMVANTA_DATABASE_URL"]))
        yield Site(url, env, folder / "connect-app.log", SymRows(sym), ledger, vanta, login)


@contextmanager
def running_dagster(site: Site) -> Iterator[Stack]:
    """Run Dagster on a site's databases, daemon included, so that a consent is followed by its first sync."""
    home = Path(site.env["DAGSTER_HOME"])
    with ExitStack() as running:
        dagster = DagsterStack(home, running, env=site.env)
        dagster.start_code_server()
        storage = {"storage": {"postgres": {"postgres_url": site.env["DAGSTER_POSTGRES_URL"]}}}
        reference = InstanceRef.from_dir(str(home), overrides=storage)
        instance = running.enter_context(dg.DagsterInstance.from_ref(reference))
        webserver = dagster.start_webserver()
        dagster.wait_until(webserver.is_up, "its webserver answers")
        stack = Stack(home, site.env, site.vanta, dagster, webserver, instance, first_seen={})
        stack.stop_schedule()
        dagster.start_daemon()
        yield stack


@pytest.fixture(scope="session")
def site(
    postgres: EmbeddedPostgres,
    sym_template: str,
    symvanta_template: str,
    dagster_template: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """One site for all tests: each has organizations and people of its own."""
    templates = {
        "SYM_DATABASE_URL": sym_template,
        "SYMVANTA_DATABASE_URL": symvanta_template,
        "DAGSTER_POSTGRES_URL": dagster_template,
    }
    with running_site(postgres, templates, tmp_path_factory.mktemp("site")) as running:
        yield running


def run_command(site: Site, *arguments: str, **changes: str) -> "subprocess.CompletedProcess[str]":
    """Run one of the commands with the site's settings."""
    return subprocess.run(
        [str(SYMVANTA), *arguments],
        env={**os.environ, **site.env, **changes},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
