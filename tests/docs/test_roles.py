"""The SQL of docs/production.md, run on a real server as it stands: what each role can do then, and what it cannot."""

import re
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from symvanta_pipeline.doctor import ledger as ledger_checks
from symvanta_pipeline.doctor import source as source_checks
from symvanta_pipeline.ledger import database
from symvanta_pipeline.ledger.retention import prune
from symvanta_pipeline.sandbox.postgres import EmbeddedPostgres, program
from symvanta_pipeline.settings import RetentionSettings
from symvanta_pipeline.sym.source import read_users
from tests.conftest import SymRows
from tests.support.docs import PRODUCTION, blocks
from tests.support.parts import ago
from tests.support.site import Site, running_site

NAMES = re.compile(r"\b(symvanta(?:_app_reader|_reader|_app|_auditor|_dagster|_before)?|dagster)\b")
PASSWORD = "canary-password"


@dataclass(frozen=True)
class Servers:
    """Databases and roles as the docs make them; their names are this test's own, since a server has each once."""

    server: EmbeddedPostgres
    sym_name: str
    suffix: str

    def named(self, text: str) -> str:
        return NAMES.sub(rf"\1_{self.suffix}", text)

    def url(self, role: str, name: str) -> str:
        name = self.sym_name if name == "sym" else self.named(name)
        parts = urlsplit(self.server.url(name))
        return parts._replace(netloc=f"{self.named(role)}:{PASSWORD}@{parts.hostname}:{parts.port}").geturl()

    def superuser(self, name: str) -> str:
        return self.server.url(self.sym_name if name == "sym" else self.named(name))

    def run(self, sql: str, url: str) -> None:
        """Run a block as an operator does, each statement by itself."""
        text = self.named(sql).replace("'...'", f"'{PASSWORD}'")
        command = [str(program("psql")), "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--file=-", url]
        ended = subprocess.run(command, input=text, text=True, capture_output=True, check=False)
        assert ended.returncode == 0, ended.stderr


def block(beginning: str) -> str:
    """Return the one SQL block of the page that begins like this."""
    [found] = [sql for sql in blocks(PRODUCTION, "sql") if sql.startswith(beginning)]
    return found


@pytest.fixture(scope="module")
def servers(postgres: EmbeddedPostgres, sym_template: str) -> Iterator[Servers]:
    suffix = secrets.token_hex(4)
    made = Servers(postgres, f"sym_{suffix}", suffix)
    postgres.clone(sym_template, made.sym_name)
    made.run(block("CREATE ROLE symvanta_reader"), made.superuser("sym"))
    made.run(block("CREATE ROLE symvanta LOGIN"), postgres.url("postgres"))
    database.migrate(made.url("symvanta", "symvanta"))
    made.run(block("GRANT SELECT, INSERT, UPDATE ON connections"), made.url("symvanta", "symvanta"))
    yield made
    for name in (made.sym_name, *map(made.named, ("symvanta", "symvanta_before", "dagster"))):
        postgres.drop(name)
    roles = ("symvanta", *(f"symvanta_{role}" for role in ("app_reader", "reader", "app", "auditor", "dagster")))
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as admin:
        admin.execute(f"DROP ROLE {', '.join(map(made.named, roles))}".encode())


@pytest.fixture
def sym(servers: Servers) -> Iterator[SymRows]:
    with psycopg.connect(servers.superuser("sym"), autocommit=True) as connection:
        yield SymRows(connection)


def refused(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction)):
                connection.execute(statement.encode())


@pytest.mark.parametrize("role", ["symvanta_reader", "symvanta_app_reader"])
def test_the_readers_read_and_cannot_write(
    servers: Servers, sym: SymRows, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    organization = sym.organization(f"acme-{role}")
    sym.user(organization)
    url = servers.url(role, "sym")
    assert read_users(url, str(organization)).users == 1
    write = "UPDATE users SET name = 'somebody else'"
    refused(url, write, "CREATE TABLE mine ()", "SET default_transaction_read_only = off; " + write)
    monkeypatch.setenv("SYM_DATABASE_URL", url)
    assert [source_checks.role().state, source_checks.readable().state, source_checks.index().state] == ["ok"] * 3


def test_the_owner_migrates_and_prunes_and_history_is_append_only_to_it_too(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = servers.url("symvanta", "symvanta")
    database.require_current(url)
    refused(url, "DELETE FROM accepted_snapshots", "UPDATE account_changes SET old = new", "TRUNCATE audit_events")
    with database.connect(url) as connection:
        prune(connection, keep_ledger=KEEP, keep_runs=KEEP)
    monkeypatch.setenv("SYMVANTA_DATABASE_URL", url)
    assert ledger_checks.role().state == "ok"


KEEP = ago(days=0) - ago(days=RetentionSettings.model_fields["symvanta_keep_ledger_days"].default)


def test_nobody_else_gets_in(servers: Servers) -> None:
    for role, name in (("symvanta_dagster", "symvanta"), ("symvanta", "dagster"), ("symvanta_app", "dagster")):
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            psycopg.connect(servers.url(role, name))
    with psycopg.connect(servers.url("symvanta_dagster", "dagster")) as connection:
        connection.execute("CREATE TABLE dagsters_own ()")


def test_the_auditor_reads_the_history_and_no_token(servers: Servers) -> None:
    url = servers.url("symvanta_auditor", "symvanta")
    with psycopg.connect(url) as connection:
        for table in ("accepted_snapshots", "account_changes", "approvals", "audit_events", "proofs"):
            connection.execute(f"SELECT * FROM {table}".encode())
    refused(url, "SELECT * FROM tokens", "SELECT * FROM web_sessions", "UPDATE connections SET state = 'parked'")


@pytest.fixture
def site(
    servers: Servers, sym: SymRows, sym_template: str, symvanta_template: str, dagster_template: str
) -> Iterator[Site]:
    """The connect app with its own roles at both databases."""
    at_sym, at_own = servers.url("symvanta_app_reader", "sym"), servers.url("symvanta_app", "symvanta")
    templates = {
        "SYM_DATABASE_URL": sym_template,
        "SYMVANTA_DATABASE_URL": symvanta_template,
        "DAGSTER_POSTGRES_URL": dagster_template,
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        running_site(
            servers.server, templates, Path(folder), SYM_DATABASE_URL=at_sym, SYMVANTA_DATABASE_URL=at_own
        ) as running,
        database.connect(servers.url("symvanta", "symvanta")) as ledger,
    ):
        yield replace(running, sym=sym, ledger=ledger)


def test_the_app_connects_and_disconnects_with_its_own_role_and_can_do_no_more(servers: Servers, site: Site) -> None:
    organization, slug = site.organization()
    subject = site.admin(organization)
    visitor, page = site.connected(slug, subject)
    assert "first sync is running" in page.text
    question = visitor.get(site.url + page.links["Disconnect…"])
    assert "Disconnected" in visitor.submit(question, "Disconnect Vanta").text
    assert [event for event, _ in site.audit(organization)] == ["consent_asked", "connected", "disconnected"]
    refused(
        servers.url("symvanta_app", "symvanta"),
        "SELECT * FROM approvals",
        "INSERT INTO accepted_snapshots (run_id) VALUES ('mine')",
        "DELETE FROM tokens",
        "DELETE FROM audit_events",
        "UPDATE account_states SET status = 'ACTIVE'",
        "SELECT prune_history(now() - interval '91 days')",
    )


def test_the_other_statements_run_where_the_page_says(servers: Servers, dagster_url: str) -> None:
    own = servers.url("symvanta", "symvanta")
    servers.run(block("SELECT customer, state"), own)
    servers.run(block("DELETE FROM web_sessions"), own)
    servers.run(block("SELECT count(*) FROM runs"), dagster_url.replace("+psycopg2", ""))
    servers.run(block("ALTER DATABASE symvanta RENAME"), servers.server.url("postgres"))
    with psycopg.connect(own) as connection:
        assert connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchall() == [(0,)]


def test_every_statement_of_the_page_is_run_here() -> None:
    tried = re.findall(r'block\("([^"]+)"\)', Path(__file__).read_text())
    beginnings = [sql.splitlines()[0].strip() for sql in blocks(PRODUCTION, "sql")]
    assert [line for line in beginnings if not line.startswith(tuple(tried))] == []


def test_a_statement_that_does_not_run_is_found(servers: Servers) -> None:
    with pytest.raises(AssertionError, match="does not exist"):
        servers.run("SELECT 1; GRANT SELECT ON no_such_table TO symvanta_app;", servers.url("symvanta", "symvanta"))
