"""A ledger that an ordinary role owns, as in production, beside the real parts.

Vanta's grace window, three hours there, is over after a second here.
"""

import os
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import psycopg.sql
import pytest

from symvanta_pipeline.ledger import database
from symvanta_pipeline.sandbox.postgres import EmbeddedPostgres, program
from symvanta_pipeline.sandbox.vanta.config import VantaConfig
from symvanta_pipeline.sandbox.vanta.control import VantaServer, start_vanta
from symvanta_pipeline.sync import CustomerResult
from tests.brakes.world import Company, World, named_in_ledger
from tests.support.docs import PRODUCTION, command
from tests.support.parts import CLIENT_SECRET, Parts, dagster_url, databases, environment, parts, sym_url
from tests.support.runs import instance

__all__ = ["dagster_url", "databases", "environment", "instance", "parts", "sym_url"]

GRACE = 1.0  # seconds


@pytest.fixture(scope="session")
def stand_in() -> Iterator[VantaServer]:
    config = VantaConfig.model_validate(
        {
            "client_secret": CLIENT_SECRET,
            "token_requests_per_minute": 100_000,
            "resource_requests_per_minute": 100_000,
            "refresh_grace_seconds": GRACE,
        }
    )
    with start_vanta(config) as running:
        yield running


@pytest.fixture
def symvanta_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A database of the test's own, made by its owner."""
    name = f"own_{secrets.token_hex(6)}"
    url = urlsplit(postgres.url(name))
    with _administration(postgres) as admin:
        execute(admin, "CREATE ROLE {} LOGIN PASSWORD 'canary-password'", name)
        execute(admin, "CREATE DATABASE {} OWNER {}", name, name)
    own = url._replace(netloc=f"{name}:canary-password@{url.hostname}:{url.port}").geturl()
    database.migrate(own)
    yield own
    postgres.drop(name)
    postgres.drop(f"{name}_before")
    with _administration(postgres) as admin:
        execute(admin, "DROP ROLE {}", name)


def _administration(postgres: EmbeddedPostgres) -> psycopg.Connection:
    return psycopg.connect(postgres.url("postgres"), autocommit=True)


def execute(connection: psycopg.Connection, statement: str, *names: str) -> None:
    composed = psycopg.sql.SQL(statement).format(*map(psycopg.sql.Identifier, names))
    connection.execute(composed)


@dataclass
class Yesterday:
    """The world, and a backup of the ledger that was taken and is put back by the commands of the docs."""

    world: World
    postgres: EmbeddedPostgres
    folder: Path

    @property
    def parts(self) -> Parts:
        return self.world.parts

    @property
    def name(self) -> str:
        return urlsplit(self.parts.ledger_url).path[1:]

    def back_up(self) -> None:
        self._run("pg_dump")

    def restore(self) -> None:
        """Put the backup in place; what was there stays beside it."""
        self.parts.ledger.close()
        with _administration(self.postgres) as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s", [self.name]
            )
            execute(admin, "ALTER DATABASE {} RENAME TO {}", self.name, f"{self.name}_before")
            execute(admin, "CREATE DATABASE {} OWNER {}", self.name, self.name)
        self._run("pg_restore")
        self.parts.ledger = database.connect(self.parts.ledger_url)

    def rights(self) -> dict[str, object]:
        """Tell who may do what with each table, and who owns it."""
        rows = self.parts.ledger.execute(
            "SELECT relname, relacl::text, relowner::regrole::text FROM pg_class"
            " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        )
        return {table: rest for table, *rest in rows}

    def run(self, *companies: Company) -> list[CustomerResult]:
        """Take customers to Vanta in a run of its own, as after a restart."""
        return self.parts.run(*(company.slug for company in companies))

    def tamper(self, statement: str) -> None:
        """Do to the ledger what its owner may not."""
        with psycopg.connect(self.postgres.url(self.name)) as connection:
            connection.execute("SET LOCAL session_replication_role = replica")
            connection.execute(statement.encode())

    def _run(self, name: str) -> None:
        path = f"{program(name).parent}{os.pathsep}{os.environ['PATH']}"
        variables = {"PATH": path, "SYMVANTA_DATABASE_URL": self.parts.ledger_url}
        shell = ["bash", "-euc", command(PRODUCTION, name)]
        subprocess.run(shell, cwd=self.folder, env=os.environ | variables, check=True)


@pytest.fixture
def yesterday(parts: Parts, postgres: EmbeddedPostgres, tmp_path: Path) -> Iterator[Yesterday]:
    parts.vanta.clear_faults()
    parts.vanta.clear_journal()
    with parts.sync() as built:
        world = World(parts, built)
    yield Yesterday(world, postgres, tmp_path)
    assert named_in_ledger(parts.ledger) == {}
