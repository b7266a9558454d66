import base64
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest

from symvanta_pipeline.ledger import consent_requests, database, web_sessions
from symvanta_pipeline.ledger.vault import KeyRing
from symvanta_pipeline.ledger.web_sessions import WebSession

CANARY = "canary@person.example"
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


def ring(*bytes_: int) -> KeyRing:
    return KeyRing(",".join(f"k{b}:{base64.urlsafe_b64encode(bytes([b] * 32)).decode()}" for b in bytes_))


def expire(ledger: psycopg.Connection, session: WebSession) -> None:
    done = ledger.execute(
        "UPDATE web_sessions SET created_at = now() - interval '2 s', expires_at = now() - interval '1 s' "
        "WHERE id_sha256 = %s",
        [web_sessions.digest(session.id)],
    )
    assert done.rowcount == 1


def states_of(ledger: psycopg.Connection, session: WebSession, *states: str) -> list[bool]:
    """Tell which of these a session may still bring an answer for, without spending them."""
    with ledger.transaction(force_rollback=True):
        return [consent_requests.use(ledger, session, state) is not None for state in states]


def test_a_session_is_found_by_its_id_alone(ledger: psycopg.Connection, keyring: KeyRing) -> None:
    begun = web_sessions.begin(ledger, keyring, "auth0|1", lifetime=HOUR)
    other = web_sessions.begin(ledger, keyring, "auth0|2", lifetime=HOUR)
    assert web_sessions.find(ledger, keyring, begun.id) == begun
    assert web_sessions.find(ledger, keyring, other.id) == other
    assert (begun.subject, other.subject) == ("auth0|1", "auth0|2")
    [(now,)] = ledger.execute("SELECT clock_timestamp()").fetchall()
    assert timedelta(minutes=59) < begun.expires_at - now <= HOUR
    assert begun.expires_at.tzinfo is not None


def test_ids_are_long_and_never_the_same(ledger: psycopg.Connection, keyring: KeyRing) -> None:
    ids = {web_sessions.begin(ledger, keyring, "auth0|1", lifetime=HOUR).id for _ in range(20)}
    assert len(ids) == 20
    assert min(map(len, ids)) >= 43  # 256 bits


@pytest.mark.parametrize("subject", ["", "\0", "\ud800", "x" * 100_000, "auth0|\u5f20"], ids=lambda s: ascii(s[:9]))
def test_any_subject_comes_back_as_it_was(ledger: psycopg.Connection, keyring: KeyRing, subject: str) -> None:
    begun = web_sessions.begin(ledger, keyring, subject, lifetime=HOUR)
    found = web_sessions.find(ledger, keyring, begun.id)
    assert found is not None
    assert found.subject == subject


@pytest.mark.parametrize("session_id", ["", "unknown", "\0", "\ud800", "x" * 5_000_000], ids=lambda s: ascii(s[:9]))
def test_no_such_session_is_none(
    ledger: psycopg.Connection, keyring: KeyRing, session: WebSession, session_id: str
) -> None:
    assert web_sessions.find(ledger, keyring, session_id) is None
    assert web_sessions.find(ledger, keyring, session.id)


def test_an_expired_session_is_over_and_deleted_by_the_next_one(ledger: psycopg.Connection, keyring: KeyRing) -> None:
    over, lives = (web_sessions.begin(ledger, keyring, subject, lifetime=HOUR) for subject in ("auth0|1", "auth0|2"))
    consent_requests.remember(ledger, over, "state", uuid4(), lifetime=MINUTE)
    expire(ledger, over)
    assert web_sessions.find(ledger, keyring, over.id) is None
    third = web_sessions.begin(ledger, keyring, "auth0|3", lifetime=HOUR)
    assert ledger.execute("SELECT count(*) FROM web_sessions").fetchall() == [(2,)]
    assert ledger.execute("SELECT count(*) FROM consent_requests").fetchall() == [(0,)]
    assert web_sessions.find(ledger, keyring, lives.id)
    assert web_sessions.find(ledger, keyring, third.id)


def test_beginning_one_does_not_wait_for_an_expired_one_that_somebody_holds(
    ledger: psycopg.Connection, other: psycopg.Connection, keyring: KeyRing, session: WebSession
) -> None:
    expire(ledger, session)
    with other.transaction():
        assert other.execute("DELETE FROM web_sessions").rowcount == 1
        ledger.execute("SET lock_timeout = '1s'")
        begun = web_sessions.begin(ledger, keyring, "auth0|2", lifetime=HOUR)
    assert web_sessions.find(ledger, keyring, begun.id) == begun


def test_an_ended_session_is_over_and_may_end_again(
    ledger: psycopg.Connection, keyring: KeyRing, session: WebSession
) -> None:
    bystander = web_sessions.begin(ledger, keyring, "auth0|1", lifetime=HOUR)
    consent_requests.remember(ledger, session, "state", uuid4(), lifetime=MINUTE)
    for _ in range(2):
        web_sessions.end(ledger, session)
        assert web_sessions.find(ledger, keyring, session.id) is None
    assert ledger.execute("SELECT count(*) FROM consent_requests").fetchall() == [(0,)]
    assert web_sessions.find(ledger, keyring, bystander.id)


def test_signing_in_again_moves_the_consents_under_way_to_the_new_id(
    ledger: psycopg.Connection, keyring: KeyRing, session: WebSession
) -> None:
    for state in ("unused", "used"):
        consent_requests.remember(ledger, session, state, uuid4(), lifetime=MINUTE)
    assert consent_requests.use(ledger, session, "used")
    renewed = web_sessions.begin(ledger, keyring, session.subject, lifetime=2 * HOUR, replaces=session)
    assert renewed.id != session.id
    assert renewed.expires_at > session.expires_at + timedelta(minutes=50)
    assert web_sessions.find(ledger, keyring, session.id) is None
    assert web_sessions.find(ledger, keyring, renewed.id) == renewed
    assert states_of(ledger, session, "unused", "used") == [False, False]
    kept = consent_requests.use(ledger, renewed, "unused")
    spent = consent_requests.use(ledger, renewed, "used")
    assert kept is not None
    assert spent is not None
    assert (kept.is_first_use, spent.is_first_use) == (True, False)


def test_signing_in_as_somebody_else_leaves_nothing_of_the_one_before(
    ledger: psycopg.Connection, keyring: KeyRing, session: WebSession
) -> None:
    consent_requests.remember(ledger, session, "state", uuid4(), lifetime=MINUTE)
    other = web_sessions.begin(ledger, keyring, "auth0|2", lifetime=HOUR, replaces=session)
    assert web_sessions.find(ledger, keyring, session.id) is None
    assert web_sessions.find(ledger, keyring, other.id) == other
    assert states_of(ledger, other, "state") == states_of(ledger, session, "state") == [False]
    assert ledger.execute("SELECT count(*) FROM consent_requests").fetchall() == [(0,)]


@pytest.mark.parametrize("over", ["expired", "ended"])
def test_signing_in_after_the_session_is_over_takes_nothing_along(
    ledger: psycopg.Connection, keyring: KeyRing, session: WebSession, over: str
) -> None:
    consent_requests.remember(ledger, session, "state", uuid4(), lifetime=MINUTE)
    if over == "expired":
        expire(ledger, session)
    else:
        web_sessions.end(ledger, session)
    renewed = web_sessions.begin(ledger, keyring, session.subject, lifetime=HOUR, replaces=session)
    assert web_sessions.find(ledger, keyring, renewed.id) == renewed
    assert states_of(ledger, renewed, "state") == [False]


def test_two_tabs_that_sign_in_again_at_once_both_get_a_session(
    symvanta_url: str,
    ledger: psycopg.Connection,
    keyring: KeyRing,
    session: WebSession,
    until_blocked: Callable[[int], None],
) -> None:
    def sign_in() -> WebSession:
        with database.connect(symvanta_url) as connection:
            return web_sessions.begin(connection, keyring, session.subject, lifetime=HOUR, replaces=session)

    with ThreadPoolExecutor(2) as pool:
        with ledger.transaction():
            ledger.execute("SELECT FROM web_sessions FOR UPDATE")
            tabs = [pool.submit(sign_in) for _ in range(2)]
            until_blocked(2)
        renewed = [tab.result(timeout=30) for tab in tabs]
    assert [web_sessions.find(ledger, keyring, tab.id) for tab in renewed] == renewed
    assert web_sessions.find(ledger, keyring, session.id) is None


def test_nothing_in_the_table_lets_anybody_in_or_names_anybody(ledger: psycopg.Connection, keyring: KeyRing) -> None:
    begun = web_sessions.begin(ledger, keyring, CANARY, lifetime=HOUR)
    [(row, id_sha256)] = ledger.execute("SELECT row_to_json(s)::text, id_sha256 FROM web_sessions AS s").fetchall()
    for secret in (begun.id, CANARY):
        for form in (secret, secret.encode().hex(), base64.b64encode(secret.encode()).decode()):
            assert form not in row
    assert id_sha256 == hashlib.sha256(begun.id.encode()).digest()
    assert web_sessions.find(ledger, keyring, id_sha256.hex()) is None


def test_a_row_that_was_moved_or_changed_lets_nobody_in(ledger: psycopg.Connection, keyring: KeyRing) -> None:
    mine, admins = (web_sessions.begin(ledger, keyring, subject, lifetime=HOUR) for subject in ("auth0|1", "auth0|2"))
    ids = {"mine": web_sessions.digest(mine.id), "admins": web_sessions.digest(admins.id), "free": bytes(32)}
    for meddle in (
        # Somebody else's content under an id that I know.
        "UPDATE web_sessions SET content = o.content FROM web_sessions AS o "
        "WHERE web_sessions.id_sha256 = %(mine)s AND o.id_sha256 = %(admins)s",
        "DELETE FROM web_sessions WHERE id_sha256 = %(mine)s; "
        "UPDATE web_sessions SET id_sha256 = %(mine)s WHERE id_sha256 = %(admins)s",
        "UPDATE web_sessions SET content = '' WHERE id_sha256 = %(mine)s",
        "UPDATE web_sessions SET content = substr(content, 1, 13) WHERE id_sha256 = %(mine)s",
        "UPDATE web_sessions SET key_id = 'unknown' WHERE id_sha256 = %(mine)s",
    ):
        with ledger.transaction(force_rollback=True):
            for statement in meddle.split("; "):
                assert ledger.execute(statement.encode(), ids).rowcount == 1
            assert web_sessions.find(ledger, keyring, mine.id) is None
    assert web_sessions.find(ledger, keyring, mine.id) == mine


def test_a_session_outlives_a_new_first_key_and_ends_with_its_own(ledger: psycopg.Connection) -> None:
    begun = web_sessions.begin(ledger, ring(1), "auth0|1", lifetime=HOUR)
    assert web_sessions.find(ledger, ring(2, 1), begun.id) == begun
    assert web_sessions.find(ledger, ring(2), begun.id) is None
    renewed = web_sessions.begin(ledger, ring(2, 1), "auth0|1", lifetime=HOUR, replaces=begun)
    assert web_sessions.find(ledger, ring(2), renewed.id) == renewed


def test_a_session_shows_neither_its_id_nor_who_it_is(session: WebSession) -> None:
    shown = repr(replace(session, subject=CANARY))
    assert session.id not in shown
    assert CANARY not in shown
    assert str(session.expires_at.year) in shown
