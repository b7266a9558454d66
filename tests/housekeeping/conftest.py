"""An instance with one run of the real job in it, and the means to write more of them, for the tests of this folder."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import dagster as dg
import psycopg
import pytest

from symvanta_pipeline import housekeeping
from symvanta_pipeline.ledger import retention
from symvanta_pipeline.sandbox.postgres import EmbeddedPostgres
from tests.housekeeping.past import CUSTOMERS, Past
from tests.support.parts import Parts, databases, environment, parts, stand_in, sym_url, symvanta_url
from tests.support.runs import instance as unpooled
from tests.support.runs import launch, register, stretch

__all__ = ["databases", "environment", "parts", "stand_in", "sym_url", "symvanta_url", "unpooled"]


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "PAUSE", 0)
    monkeypatch.setattr(retention, "PAUSE", 0)


@pytest.fixture(scope="session")
def recordings(postgres: EmbeddedPostgres) -> Iterator[list[str]]:
    """Names of databases that hold a real run: one, once a test has needed it."""
    names: list[str] = []
    yield names
    for name in names:
        postgres.drop(name)


@pytest.fixture
def recording(
    recordings: list[str],
    postgres: EmbeddedPostgres,
    dagster_template: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> str:
    """Name of a database of Dagster's with one run of the real job, in which every customer got through."""
    if not recordings:
        parts: Parts = request.getfixturevalue("parts")
        name = f"recording_{uuid4().hex[:12]}"
        postgres.clone(dagster_template, name)
        home = tmp_path / "recording"
        home.mkdir()
        url = for_dagster(postgres.url(name))
        storage = {"storage": {"postgres": {"postgres_url": url}}, "telemetry": {"enabled": False}}
        with dg.instance_for_test(overrides=storage, temp_dir=str(home)) as recorder:
            for customer in CUSTOMERS:
                parts.customer(customer, people=2)
            register(recorder, *CUSTOMERS)
            assert launch(recorder, stretch(CUSTOMERS[0], CUSTOMERS[-1])).success
        _leave(postgres, name)
        recordings.append(name)
    return recordings[0]


def _leave(postgres: EmbeddedPostgres, name: str) -> None:
    """End what a run in this process keeps connected to a database: nobody may be, when it is cloned."""
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", [name])


@pytest.fixture
def dagster_url(recording: str, postgres: EmbeddedPostgres) -> Iterator[str]:
    """As the fixture of all folders, but for that run."""
    name = f"{recording}_{uuid4().hex[:12]}"
    postgres.clone(recording, name)
    yield for_dagster(postgres.url(name))
    postgres.drop(name)


@pytest.fixture
def instance(unpooled: dg.DagsterInstance) -> dg.DagsterInstance:
    """As the fixture of all folders, with its connections kept as the webserver does: most of these tests only look."""
    unpooled.optimize_for_webserver(statement_timeout=60_000, pool_recycle=3600, max_overflow=20)
    return unpooled


@pytest.fixture
def past(dagster_url: str) -> Iterator[Past]:
    """A writer of runs for the instance behind `dagster_url`; the real one ended 100 days ago."""
    url = dagster_url.replace("+psycopg2", "")
    # Parameters as literals: one stands for a text in one place and for a varchar in another.
    with psycopg.connect(url, autocommit=True, cursor_factory=psycopg.ClientCursor) as connection:
        [(first,)] = connection.execute("SELECT run_id FROM runs").fetchall()
        written = Past(connection, first)
        written.age(first, days=100)
        yield written


def for_dagster(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg2://", 1)
