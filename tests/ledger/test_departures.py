"""How long each departure took is measured by the database, and kept with the push that told of it."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from symvanta_pipeline.ledger import snapshots
from symvanta_pipeline.ledger.connections import Connection
from symvanta_pipeline.ledger.snapshots import AcceptedSnapshot
from tests.ledger.conftest import announce, backdate

Connect = Callable[..., Connection]

ANN = ["ann", "ACTIVE", "ADMIN", "PASSWORD", "on"]
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def accepted(
    ledger: psycopg.Connection, of: Connection, departed_at: list[datetime] | None, *, run_id: str = "run"
) -> AcceptedSnapshot:
    intent = announce(ledger, of.organization_id, [ANN], run_id=run_id)
    return snapshots.record_accepted(ledger, intent, token_generation=1, departed_at=departed_at)


def test_the_latency_is_up_to_the_acceptance_by_the_database_s_clock(
    ledger: psycopg.Connection, connected: Connect
) -> None:
    left = [datetime(2026, 5, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)]
    push = accepted(ledger, connected(), left)
    assert push.departure_seconds is not None
    expected = [max(0.0, (push.accepted_at - at).total_seconds()) for at in sorted(left)]
    assert push.departure_seconds == pytest.approx(expected, abs=0.001)
    assert push.departure_seconds[-1] == 0, "a deactivation that is still to come took no time"
    assert snapshots.last_accepted(ledger, push.organization_id) == push


def test_nobody_left_is_not_the_same_as_nobody_knows(ledger: psycopg.Connection, connected: Connect) -> None:
    customer = connected()
    assert accepted(ledger, customer, []).departure_seconds == []
    assert accepted(ledger, customer, None).departure_seconds is None


def test_the_fleet_s_departures_since_a_moment(ledger: psycopg.Connection, connected: Connect) -> None:
    acme, globex = connected("acme"), connected("globex")
    accepted(ledger, acme, [LONG_AGO])
    backdate(ledger, days=2)
    now = datetime.now(UTC)
    accepted(ledger, acme, [now - timedelta(minutes=30), now - timedelta(minutes=10)])
    accepted(ledger, globex, [now - timedelta(minutes=20)])
    accepted(ledger, globex, [])
    accepted(ledger, globex, None)
    minutes = [seconds / 60 for seconds in snapshots.departure_seconds(ledger, since=now - timedelta(days=1))]
    assert minutes == pytest.approx([10, 20, 30], abs=1)
    assert len(snapshots.departure_seconds(ledger, since=now - timedelta(days=3))) == 4
    assert snapshots.departure_seconds(ledger, since=now + timedelta(days=1)) == []


def test_no_negative_latency_can_be_written(ledger: psycopg.Connection, connected: Connect) -> None:
    accepted(ledger, connected(), [])
    columns = "organization_id, run_id, read_at, body_sha256, token_generation, users, active, deactivated"
    with pytest.raises(psycopg.errors.CheckViolation, match="departure_seconds"):
        ledger.execute(
            f"INSERT INTO accepted_snapshots ({columns}, departure_seconds)"
            f" SELECT {columns}, '{{5, -1}}' FROM accepted_snapshots".encode()
        )
