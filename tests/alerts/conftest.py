"""What the tests of alerts share: the ledger with customers, and a receiver of webhooks."""

from collections.abc import Iterator

import pytest

from symvanta_pipeline.ledger import database
from tests.alerts.receiver import Receiver, receiving
from tests.alerts.world import EMPTY, World
from tests.support.parts import databases, environment, parts, stand_in, sym_url

__all__ = ["databases", "environment", "parts", "receiver", "stand_in", "sym_url", "world"]


@pytest.fixture
def world(ledger_url: str) -> Iterator[World]:
    with database.connect(ledger_url) as connection:
        connection.execute(EMPTY)
        yield World(ledger_url, connection)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running
