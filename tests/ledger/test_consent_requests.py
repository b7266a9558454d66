from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import UUID, uuid4

import psycopg
import pytest

from symvanta_pipeline.ledger import database, web_sessions
from symvanta_pipeline.ledger.consent_requests import (
    UNUSED_PER_SESSION,
    ConsentRequest,
    SessionEnded,
    remember,
    use,
)
from symvanta_pipeline.ledger.vault import KeyRing
from symvanta_pipeline.ledger.web_sessions import WebSession

ORGANIZATION = UUID("aaaaaaaa-0000-4000-8000-000000000001")
MINUTES = timedelta(minutes=10)


@pytest.fixture
def another(ledger: psycopg.Connection, keyring: KeyRing) -> WebSession:
    """Another browser of the same person."""
    return web_sessions.begin(ledger, keyring, "auth0|1", lifetime=timedelta(hours=1))


def expire(ledger: psycopg.Connection) -> None:
    ledger.execute(
        "UPDATE consent_requests SET created_at = now() - interval '2 s', expires_at = now() - interval '1 s'"
    )


def test_a_state_is_good_for_its_organization_once(ledger: psycopg.Connection, session: WebSession) -> None:
    other = uuid4()
    remember(ledger, session, "state", ORGANIZATION, lifetime=MINUTES)
    remember(ledger, session, "other", other, lifetime=MINUTES)
    assert use(ledger, session, "state") == ConsentRequest(ORGANIZATION, is_first_use=True)
    for _ in range(2):
        assert use(ledger, session, "state") == ConsentRequest(ORGANIZATION, is_first_use=False)
    assert use(ledger, session, "other") == ConsentRequest(other, is_first_use=True)


def test_the_time_of_its_first_use_stays(ledger: psycopg.Connection, session: WebSession) -> None:
    remember(ledger, session, "state", ORGANIZATION, lifetime=MINUTES)
    seen = set()
    for _ in range(2):
        assert use(ledger, session, "state")
        seen.update(ledger.execute("SELECT used_at FROM consent_requests").fetchall())
    assert len(seen) == 1
    assert None not in seen.pop()


@pytest.mark.parametrize("state", ["", "unknown", "STATE", "\0", "\ud800", "x" * 5_000_000], ids=lambda s: ascii(s[:9]))
def test_an_unknown_state_is_none(ledger: psycopg.Connection, session: WebSession, state: str) -> None:
    remember(ledger, session, "state", ORGANIZATION, lifetime=MINUTES)
    assert use(ledger, session, state) is None
    assert use(ledger, session, "state") == ConsentRequest(ORGANIZATION, is_first_use=True)


def test_another_browsers_state_is_none_and_not_spent(
    ledger: psycopg.Connection, session: WebSession, another: WebSession
) -> None:
    remember(ledger, session, "state", ORGANIZATION, lifetime=MINUTES)
    assert use(ledger, another, "state") is None
    assert use(ledger, session, "state") == ConsentRequest(ORGANIZATION, is_first_use=True)
    assert use(ledger, another, "state") is None


def test_an_expired_state_is_none_used_or_not(ledger: psycopg.Connection, session: WebSession) -> None:
    for state in ("used", "unused"):
        remember(ledger, session, state, ORGANIZATION, lifetime=MINUTES)
    assert use(ledger, session, "used")
    expire(ledger)
    assert [use(ledger, session, state) for state in ("used", "unused")] == [None, None]


def test_the_lifetime_is_the_one_that_was_asked_for(ledger: psycopg.Connection, session: WebSession) -> None:
    remember(ledger, session, "state", ORGANIZATION, lifetime=MINUTES)
    [(lifetime,)] = ledger.execute("SELECT expires_at - created_at FROM consent_requests").fetchall()
    assert abs(lifetime - MINUTES) < timedelta(seconds=5)


def test_of_many_unused_ones_the_oldest_go(
    ledger: psycopg.Connection, session: WebSession, another: WebSession
) -> None:
    remember(ledger, another, "of another", ORGANIZATION, lifetime=MINUTES)
    remember(ledger, session, "used", ORGANIZATION, lifetime=MINUTES)
    assert use(ledger, session, "used")
    states = [str(number) for number in range(UNUSED_PER_SESSION + 3)]
    for state in states:
        remember(ledger, session, state, ORGANIZATION, lifetime=MINUTES)
    kept = [state for state in states if use(ledger, session, state)]
    assert kept == states[3:]
    assert len(kept) == UNUSED_PER_SESSION == 10
    assert use(ledger, session, "used")
    assert use(ledger, another, "of another")


def test_expired_ones_do_not_pile_up(ledger: psycopg.Connection, session: WebSession) -> None:
    for state in ("used", "unused"):
        remember(ledger, session, state, ORGANIZATION, lifetime=MINUTES)
    assert use(ledger, session, "used")
    expire(ledger)
    remember(ledger, session, "new", ORGANIZATION, lifetime=MINUTES)
    assert ledger.execute("SELECT count(*) FROM consent_requests").fetchall() == [(1,)]


@pytest.mark.parametrize("over", ["ended", "replaced", "expired"])
def test_nothing_is_bound_to_a_session_that_is_over(
    ledger: psycopg.Connection, keyring: KeyRing, session: WebSession, over: str
) -> None:
    if over == "ended":
        web_sessions.end(ledger, session)
    elif over == "replaced":
        web_sessions.begin(ledger, keyring, session.subject, lifetime=MINUTES, replaces=session)
    else:
        ledger.execute(
            "UPDATE web_sessions SET created_at = now() - interval '2 s', expires_at = now() - interval '1 s'"
        )
    with pytest.raises(SessionEnded, match="sign in again"):
        remember(ledger, session, "state", ORGANIZATION, lifetime=MINUTES)
    assert ledger.execute("SELECT count(*) FROM consent_requests").fetchall() == [(0,)]


def test_of_several_at_once_exactly_one_is_the_first(
    symvanta_url: str, ledger: psycopg.Connection, session: WebSession, until_blocked: Callable[[int], None]
) -> None:
    remember(ledger, session, "state", ORGANIZATION, lifetime=MINUTES)

    def answer() -> ConsentRequest | None:
        with database.connect(symvanta_url) as connection:
            return use(connection, session, "state")

    with ThreadPoolExecutor(3) as pool:
        with ledger.transaction():
            ledger.execute("SELECT FROM consent_requests FOR UPDATE")
            racing = [pool.submit(answer) for _ in range(3)]
            until_blocked(3)
        answers = [future.result(timeout=30) for future in racing]
    assert sorted(answer.is_first_use for answer in answers if answer) == [False, False, True]


def test_several_at_once_do_not_get_past_the_bound(
    symvanta_url: str, ledger: psycopg.Connection, session: WebSession, until_blocked: Callable[[int], None]
) -> None:
    for number in range(UNUSED_PER_SESSION - 1):
        remember(ledger, session, str(number), ORGANIZATION, lifetime=MINUTES)

    def ask(state: str) -> None:
        with database.connect(symvanta_url) as connection:
            remember(connection, session, state, ORGANIZATION, lifetime=MINUTES)

    with ThreadPoolExecutor(4) as pool:
        with ledger.transaction():
            ledger.execute("SELECT FROM web_sessions FOR NO KEY UPDATE")
            racing = [pool.submit(ask, f"late {number}") for number in range(4)]
            until_blocked(4)
        for future in racing:
            future.result(timeout=30)
    assert ledger.execute("SELECT count(*) FROM consent_requests").fetchall() == [(UNUSED_PER_SESSION,)]


def test_no_state_stands_in_the_table(ledger: psycopg.Connection, session: WebSession) -> None:
    remember(ledger, session, "canary-of-a-state", ORGANIZATION, lifetime=MINUTES)
    [(row,)] = ledger.execute("SELECT row_to_json(c)::text FROM consent_requests AS c").fetchall()
    for secret in ("canary-of-a-state", session.id):
        assert secret not in row
        assert secret.encode().hex() not in row
