"""What the tests of connecting share: the stand-in for Vanta, and a ledger."""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from symvanta_pipeline.ledger import database
from symvanta_pipeline.sandbox.postgres import EmbeddedPostgres
from symvanta_pipeline.sandbox.vanta.config import VantaConfig
from symvanta_pipeline.sandbox.vanta.control import VantaServer, start_vanta


@pytest.fixture(scope="session")
def vanta() -> Iterator[VantaServer]:
    """One stand-in for all tests of a worker: each has tenants of its own."""
    with start_vanta(VantaConfig(token_requests_per_minute=100_000, resource_requests_per_minute=100_000)) as running:
        yield running


@pytest.fixture(scope="module")
def module_database(postgres: EmbeddedPostgres, symvanta_template: str) -> Iterator[str]:
    """One database for a module's tests: a clone for each would cost more than what they do in it."""
    name = f"{symvanta_template}_{uuid4().hex[:12]}"
    postgres.clone(symvanta_template, name)
    yield postgres.url(name)
    postgres.drop(name)


@pytest.fixture
def ledger_url(module_database: str) -> str:
    """The pipeline's own database with nothing in it."""
    with database.connect(module_database) as connection:
        connection.execute("TRUNCATE connections, tokens, intents, accepted_snapshots, outcomes, rate_budgets")
    return module_database
