from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from symvanta_pipeline.ledger.status import CustomerRecord, status_of

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
CONNECTED = CustomerRecord(
    customer="acme",
    organization_id=UUID(int=1),
    connection_state="connected",
    connected_at=NOW - timedelta(days=9),
    last_accepted_at=NOW - 10 * MINUTE,
    outcome="accepted",
    outcome_at=NOW - 10 * MINUTE,
)
NEVER: dict[str, Any] = {"last_accepted_at": None, "outcome": None, "outcome_at": None}


def last(outcome: str, minutes: int, sentence: str | None = "rule email broken by 1.") -> dict[str, Any]:
    return {"outcome": outcome, "outcome_at": NOW - minutes * MINUTE, "sentence": sentence}


@pytest.mark.parametrize(
    ("change", "state", "says"),
    [
        ({}, "healthy", "Nothing to do."),
        ({"last_accepted_at": NOW - 90 * MINUTE}, "healthy", "Nothing to do."),
        ({"last_accepted_at": NOW - 90 * MINUTE - timedelta(seconds=1)}, "late", "dagster-daemon"),
        ({**NEVER, "connected_at": NOW - MINUTE}, "new", "follows by itself"),
        ({**NEVER}, "late", "hourly_user_account_sync"),
        # Connected again after weeks: nothing is late before its first push was due.
        ({"last_accepted_at": NOW - timedelta(days=5), "connected_at": NOW - 90 * MINUTE}, "new", "follows by itself"),
        ({"last_accepted_at": NOW - timedelta(days=5), "connected_at": NOW - 91 * MINUTE}, "late", "dagster-daemon"),
        ({**NEVER, "connected_at": NOW - 5 * MINUTE, **last("held", 1)}, "held", "(rule email broken by 1):"),
        (last("held", 1), "held", "correct it, unless it passes"),
        (last("held", 10), "held", "correct it, unless it passes"),
        (last("held", 11), "healthy", "Nothing to do."),
        ({**last("held", 1), "last_accepted_at": NOW - 900 * MINUTE}, "held", "correct it, unless it passes"),
        ({**last("held", 1), "connected_at": NOW - 5 * MINUTE, "outcome_is_current": False}, "new", "follows"),
        ({**NEVER, **last("failing", 1), "connected_at": NOW - 5 * MINUTE, "outcome_is_current": False}, "new", ""),
        (last("refused", 1), "failing", "rule email broken by 1"),
        (last("failing", 1, None), "failing", "no reason was recorded"),
        *[
            (
                {**last(outcome, 1, "it is of no use"), "outcome_kind": kind},
                "failing",
                "(it is of no use): somebody must reconnect it: symvanta connect acme",
            )
            for outcome, kind in (("refused", "ScopeMissing"), ("failing", "TokenUnreadable"), ("failing", "NoToken"))
        ],
        (last("busy", 1), "healthy", "Nothing to do."),
        ({**last("busy", 1), "last_accepted_at": NOW - 91 * MINUTE}, "late", "dagster-daemon"),
        (last("parked", 1), "healthy", "Nothing to do."),
        (
            {"connection_state": "parked", "parked_reason": "invalid_grant"},
            "parked",
            "(invalid_grant): somebody must reconnect it: symvanta connect acme",
        ),
        ({"connection_state": "parked", **last("held", 1)}, "parked", "symvanta connect acme"),
        ({"connection_state": "disconnected", **last("failing", 1)}, "disconnected", "symvanta connect acme"),
        ({"connection_state": "disconnected", **NEVER}, "disconnected", "symvanta connect acme"),
    ],
)
def test_state_and_next_step(change: dict[str, Any], state: str, says: str) -> None:
    status = status_of(replace(CONNECTED, **change), NOW)
    assert status.state == state
    assert says in status.next_step
