"""The real parts, for the tests of this folder; what the ledger keeps names nobody, whatever a test did."""

from collections.abc import Iterator

import pytest

from tests.brakes.world import World, named_in_ledger
from tests.support.parts import Parts, databases, environment, parts, stand_in, sym_url, symvanta_url

__all__ = ["databases", "environment", "parts", "stand_in", "sym_url", "symvanta_url", "world"]


@pytest.fixture
def world(parts: Parts) -> Iterator[World]:
    """All parts; every name and address in Sym's database is one that may be seen in no other."""
    parts.vanta.clear_faults()
    parts.vanta.clear_journal()  # a long one takes long to count in
    with parts.sync() as built:
        yield World(parts, built)
    assert named_in_ledger(parts.ledger) == {}
