"""What the tests of connecting share: the stand-in for Vanta, and a ledger."""

from collections.abc import Iterator

import pytest

from symvanta_pipeline.sandbox.vanta.config import VantaConfig
from symvanta_pipeline.sandbox.vanta.control import VantaServer, start_vanta


def pytest_configure(config: pytest.Config) -> None:
    """Let the tests share one running connect app."""
    config.pluginmanager.import_plugin("tests.support.site")


@pytest.fixture(scope="session")
def vanta() -> Iterator[VantaServer]:
    """One stand-in for all tests of a worker: each has tenants of its own."""
    with start_vanta(VantaConfig(token_requests_per_minute=100_000, resource_requests_per_minute=100_000)) as running:
        yield running
