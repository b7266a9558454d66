"""What a customer's admin reads, for each state that the ledger knows."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from symvanta_pipeline.connect.standing import shown_time, standing_of
from symvanta_pipeline.ledger.status import CustomerRecord

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


def ago(**parts: float) -> datetime:
    return NOW - timedelta(**parts)


def record(**changes: Any) -> CustomerRecord:
    plain: dict[str, Any] = {
        "customer": "acme",
        "organization_id": uuid4(),
        "connection_state": "connected",
        "connected_at": ago(days=9),
        "last_accepted_at": ago(minutes=20),
        "active": 4,
        "deactivated": 1,
        "outcome": "accepted",
        "outcome_at": ago(minutes=20),
    }
    return CustomerRecord(**plain | changes)


NEVER_SYNCED = {"last_accepted_at": None, "active": None, "deactivated": None, "outcome": None, "outcome_at": None}


@pytest.mark.parametrize(
    ("given", "kind", "title", "follows", "is_connected"),
    [
        (None, "none", "Not connected", False, False),
        ({}, "good", "Connected", False, True),
        (
            {"connected_at": ago(minutes=5), "last_accepted_at": ago(minutes=4), "outcome_at": ago(minutes=4)},
            "good",
            "Connected: first sync accepted",
            False,
            True,
        ),
        (
            {"connected_at": ago(seconds=5)} | NEVER_SYNCED,
            "syncing",
            "Connected: first sync is running",
            True,
            True,
        ),
        # Once more connected: what an attempt with the consent before met is no answer, whenever it ended.
        *[
            (
                {"connected_at": ago(seconds=5), "outcome_at": ended, "outcome_is_current": False, "outcome": outcome},
                "syncing",
                "Connected: first sync is running",
                True,
                True,
            )
            for ended in (ago(minutes=20), ago(seconds=1))
            for outcome in ("accepted", "held", "parked", "failing")
        ],
        (
            {"connected_at": ago(minutes=5), "outcome": "busy", "outcome_at": ago(minutes=1)},
            "trouble",
            "Connected: the last sync did not get through",
            False,
            True,
        ),
        (
            {"connected_at": ago(minutes=11)} | NEVER_SYNCED,
            "syncing",
            "Connected: the first sync takes longer than usual",
            False,
            True,
        ),
        (
            {"outcome": "held", "outcome_at": ago(minutes=1)},
            "trouble",
            "Connected: the sync is on hold",
            False,
            True,
        ),
        (
            {"connected_at": ago(minutes=5), "outcome": "held", "outcome_at": ago(minutes=1), "last_accepted_at": None},
            "trouble",
            "Connected: the sync is on hold",
            False,
            True,
        ),
        (
            {"outcome": "failing", "outcome_at": ago(minutes=1)},
            "trouble",
            "Connected: the last sync did not get through",
            False,
            True,
        ),
        (
            {"outcome": "refused", "outcome_at": ago(minutes=1), "last_accepted_at": None},
            "trouble",
            "Connected: the last sync did not get through",
            False,
            True,
        ),
        (
            {"last_accepted_at": ago(hours=2), "outcome_at": ago(hours=2)},
            "trouble",
            "Connected: the last sync did not get through",
            False,
            True,
        ),
        *[
            (
                {"outcome": outcome, "outcome_kind": kind, "outcome_at": ago(minutes=1)},
                "trouble",
                "Connected, but the permission is not enough any more",
                False,
                True,
            )
            for outcome, kind in (("refused", "ScopeMissing"), ("failing", "TokenUnreadable"), ("failing", "NoToken"))
        ],
        (
            {"connection_state": "parked", "parked_reason": "refused"},
            "trouble",
            "Vanta no longer accepts the connection",
            False,
            True,
        ),
        ({"connection_state": "disconnected"}, "ended", "Disconnected", False, False),
    ],
)
def test_each_state_has_its_words(
    given: dict[str, Any] | None, kind: str, title: str, follows: bool, is_connected: bool
) -> None:
    standing = standing_of(None if given is None else record(**given), NOW)
    assert (standing.kind, standing.title, standing.follows, standing.is_connected) == (
        kind,
        title,
        follows,
        is_connected,
    )
    assert standing.text.endswith(".")


@pytest.mark.parametrize("kind", ["ScopeMissing", "TokenUnreadable", "NoToken"])
def test_who_has_to_reconnect_is_not_told_to_wait(kind: str) -> None:
    standing = standing_of(record(outcome="failing", outcome_kind=kind, outcome_at=ago(minutes=1)), NOW)
    assert "until you reconnect" in standing.text
    assert "nothing to do" not in standing.text.lower()


def test_who_is_on_hold_reads_why() -> None:
    """An admin can mend a user without an e-mail address, but only one that is told."""
    sentence = "rule email (email) broken by 1: 6f1c"
    standing = standing_of(record(outcome="held", outcome_at=ago(minutes=1), sentence=sentence), NOW)
    assert sentence in standing.text


def test_times_are_shown_with_their_zone() -> None:
    assert shown_time(datetime.fromisoformat("2026-11-04T02:05:00+03:00")) == "3 November 2026, 23:05 UTC"
    assert shown_time(None) is None
