import json
import logging
from typing import get_args
from uuid import UUID, uuid4

import psycopg
import pytest

from symvanta_pipeline.ledger import audit
from symvanta_pipeline.ledger.database import connect

Row = tuple[str, UUID | None, str | None, str | None]


def rows(ledger: psycopg.Connection) -> list[Row]:
    return ledger.execute("SELECT event, organization_id, actor, detail FROM audit_events ORDER BY id").fetchall()


def test_an_event_is_written_down_and_logged(ledger: psycopg.Connection, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    organization, actor = uuid4(), str(uuid4())
    audit.record(ledger, "refused", organization_id=organization, actor=actor, detail="deactivated")
    assert rows(ledger) == [("refused", organization, actor, "deactivated")]
    [(now, at)] = ledger.execute("SELECT clock_timestamp(), at FROM audit_events").fetchall()
    assert at <= now
    [told] = caplog.records
    assert (told.name, told.levelname) == ("symvanta.audit", "INFO")
    assert json.loads(told.getMessage()) == {
        "event": "refused",
        "organization_id": str(organization),
        "actor": actor,
        "detail": "deactivated",
    }


def test_what_is_not_known_is_null_and_left_out_of_the_log(
    ledger: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    audit.record(ledger, "keys_rotated")
    assert rows(ledger) == [("keys_rotated", None, None, None)]
    assert caplog.messages == ['{"event": "keys_rotated"}']


def test_every_event_can_be_written_down(ledger: psycopg.Connection) -> None:
    events = get_args(audit.Event)
    for event in events:
        audit.record(ledger, event, actor="terminal:root")
    assert [event for event, *_ in rows(ledger)] == list(events)


def test_an_organization_that_was_never_connected_can_be_named(ledger: psycopg.Connection) -> None:
    audit.record(ledger, "refused", organization_id=uuid4())
    assert len(rows(ledger)) == 1


@pytest.mark.parametrize(
    ("detail", "kept"),
    [
        ("two\nlines", "two\nlines"),
        ("a\0b", "a?b"),
        ("a\ud800b", "a?b"),
        ("x" * 1_000_000, "x" * audit.LONGEST_TEXT),
        ('"}\n{"event": "connected', '"}\n{"event": "connected'),
    ],
    ids=lambda text: ascii(text[:9]),
)
def test_no_words_lose_an_event_or_forge_one(
    ledger: psycopg.Connection, caplog: pytest.LogCaptureFixture, detail: str, kept: str
) -> None:
    caplog.set_level(logging.INFO)
    audit.record(ledger, "refused", actor=detail, detail=detail)
    assert rows(ledger) == [("refused", None, kept, kept)]
    [line] = caplog.messages
    assert "\n" not in line
    assert json.loads(line) == {"event": "refused", "actor": kept, "detail": kept}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_events SET detail = 'nothing happened'",
        "UPDATE audit_events SET detail = detail WHERE false",
        "DELETE FROM audit_events",
        "TRUNCATE audit_events",
        "TRUNCATE connections, tokens, intents, accepted_snapshots, outcomes, audit_events CASCADE",
        "INSERT INTO audit_events (id, event) OVERRIDING SYSTEM VALUE SELECT id, event FROM audit_events "
        "ON CONFLICT (id) DO UPDATE SET detail = 'nothing happened'",
        "INSERT INTO audit_events (event) VALUES ('Not a word')",
    ],
)
def test_the_database_itself_keeps_what_was_written(ledger: psycopg.Connection, statement: str) -> None:
    audit.record(ledger, "connected", detail="kept")
    with pytest.raises(psycopg.errors.CheckViolation):
        ledger.execute(statement.encode())
    assert rows(ledger) == [("connected", None, None, "kept")]


def test_it_goes_with_the_callers_transaction(ledger: psycopg.Connection, symvanta_url: str) -> None:
    with ledger.transaction(force_rollback=True):
        audit.record(ledger, "connected")
    assert rows(ledger) == []
    with connect(symvanta_url, autocommit=False) as connection:
        audit.record(connection, "connected")
    assert len(rows(ledger)) == 1


def test_an_event_that_cannot_be_written_down_is_not_silent(ledger: psycopg.Connection) -> None:
    ledger.execute("ALTER TABLE audit_events RENAME TO elsewhere")
    with pytest.raises(psycopg.errors.UndefinedTable):
        audit.record(ledger, "connected")
