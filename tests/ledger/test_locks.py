import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from symvanta_pipeline.ledger import connections, database
from symvanta_pipeline.ledger.connections import Connection, mark_disconnected, park
from symvanta_pipeline.ledger.database import LedgerUnavailable
from symvanta_pipeline.ledger.locks import LockBusy, LockLost, Superseded, consent_lock, customer_lock, lock_key

ORGANIZATION = UUID("aaaaaaaa-0000-4000-8000-000000000001")
HOLD = """
import sys, uuid
from symvanta_pipeline.ledger import locks
with getattr(locks, sys.argv[3])(sys.argv[1], uuid.UUID(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.read()
"""
Hold = Callable[..., "subprocess.Popen[str]"]
Connect = Callable[..., Connection]


@pytest.fixture
def hold(symvanta_url: str) -> Iterator[Hold]:
    """Start processes that hold a lock until their standard input ends."""
    processes: list[subprocess.Popen[str]] = []

    def start(organization_id: UUID, lock: str = "customer_lock") -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, symvanta_url, str(organization_id), lock],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def take_soon(url: str) -> None:
    """Take the lock as soon as the server has noticed that its holder is gone."""
    deadline = time.monotonic() + 20
    while True:
        try:
            with customer_lock(url, ORGANIZATION) as lock:
                return lock.check()
        except LockBusy:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def test_one_process_at_a_time(symvanta_url: str, hold: Hold) -> None:
    holder = hold(ORGANIZATION)
    with pytest.raises(LockBusy, match=str(ORGANIZATION)), customer_lock(symvanta_url, ORGANIZATION):
        pytest.fail("two hold it")
    with customer_lock(symvanta_url, uuid4()) as another:
        another.check()
    holder.communicate()
    assert holder.returncode == 0
    take_soon(symvanta_url)


def test_a_killed_holder_frees_it(symvanta_url: str, hold: Hold) -> None:
    holder = hold(ORGANIZATION)
    holder.kill()
    assert holder.wait(timeout=20) == -signal.SIGKILL
    take_soon(symvanta_url)


def test_it_is_free_after_an_exception_too(symvanta_url: str) -> None:
    with pytest.raises(ZeroDivisionError), customer_lock(symvanta_url, ORGANIZATION):
        raise ZeroDivisionError
    take_soon(symvanta_url)


def test_it_can_be_checked_again_and_again(symvanta_url: str) -> None:
    with customer_lock(symvanta_url, ORGANIZATION) as lock:
        for _ in range(3):
            lock.check()


def test_a_cut_connection_is_noticed(symvanta_url: str, ledger: psycopg.Connection) -> None:
    with customer_lock(symvanta_url, ORGANIZATION) as lock:
        ended = ledger.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_locks WHERE locktype = 'advisory' "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        ).fetchall()
        assert ended == [(True,)]
        with pytest.raises(LockLost, match=str(ORGANIZATION)):
            lock.check()
        take_soon(symvanta_url)


def test_a_lock_that_slipped_away_on_a_living_connection_is_noticed(symvanta_url: str) -> None:
    with customer_lock(symvanta_url, ORGANIZATION) as lock:
        lock._connection.execute("SELECT pg_advisory_unlock_all()")
        with pytest.raises(LockLost, match="not held any more"):
            lock.check()


def test_somebody_elses_lock_is_not_mistaken_for_it(symvanta_url: str, hold: Hold) -> None:
    with customer_lock(symvanta_url, ORGANIZATION) as lock:
        lock._connection.execute("SELECT pg_advisory_unlock_all()")
        hold(ORGANIZATION)
        lock._connection.execute("SELECT pg_advisory_lock(%s)", [lock_key(uuid4())])
        with pytest.raises(LockLost):
            lock.check()


def test_a_push_may_be_sent_while_the_consent_stands(
    symvanta_url: str, ledger: psycopg.Connection, connected: Connect
) -> None:
    begun = connected("acme", ORGANIZATION)
    with customer_lock(symvanta_url, ORGANIZATION) as lock:
        lock.require_connected(begun.generation)
        assert connected("acme", ORGANIZATION).generation > begun.generation  # reconnected in the meantime
        lock.require_connected(begun.generation)
        assert mark_disconnected(ledger, ORGANIZATION)
        with pytest.raises(Superseded, match=f"{ORGANIZATION}.*nothing was sent"):
            lock.require_connected(begun.generation)
        connected("acme", ORGANIZATION)
        lock.require_connected(begun.generation)
        lock.check()


def test_a_parked_connection_gets_nothing(symvanta_url: str, ledger: psycopg.Connection, connected: Connect) -> None:
    connected("acme", ORGANIZATION)
    with customer_lock(symvanta_url, ORGANIZATION) as lock:
        assert park(ledger, ORGANIZATION, "the grant was refused", token_generation=1)
        with pytest.raises(Superseded):
            lock.require_connected(1)


def test_no_connection_and_one_from_a_time_before_get_nothing(symvanta_url: str, connected: Connect) -> None:
    connected("globex")
    with customer_lock(symvanta_url, ORGANIZATION) as lock:
        with pytest.raises(Superseded):
            lock.require_connected(1)
        connected("acme", ORGANIZATION)
        with pytest.raises(Superseded):
            lock.require_connected(2)


@pytest.mark.parametrize("how", ["pg_advisory_unlock_all()", "pg_terminate_backend(pg_backend_pid())"])
def test_without_the_lock_nothing_is_sent_whatever_the_connection(
    symvanta_url: str, ledger: psycopg.Connection, connected: Connect, how: str
) -> None:
    connected("acme", ORGANIZATION)
    for disconnect in (False, True):
        with customer_lock(symvanta_url, ORGANIZATION) as lock:
            lock.require_connected(1)
            with suppress(psycopg.OperationalError):
                lock._connection.execute(f"SELECT {how}".encode())
            if disconnect:
                assert mark_disconnected(ledger, ORGANIZATION)
            with pytest.raises(LockLost, match=str(ORGANIZATION)):
                lock.require_connected(1)
        assert connections.find(ledger, ORGANIZATION)


def test_both_are_asked_in_one_statement_on_the_locks_own_connection(
    symvanta_url: str, ledger: psycopg.Connection, connected: Connect
) -> None:
    connected("acme", ORGANIZATION)
    with customer_lock(symvanta_url, ORGANIZATION) as lock:
        lock.require_connected(1)
        [(last,)] = ledger.execute(
            "SELECT query FROM pg_stat_activity WHERE pid = %s", [lock._connection.info.backend_pid]
        ).fetchall()
    assert "pg_locks" in last
    assert "FROM connections" in last


def test_no_transaction_stays_open(symvanta_url: str, ledger: psycopg.Connection) -> None:
    with customer_lock(symvanta_url, ORGANIZATION) as lock:
        lock.check()
        states = ledger.execute(
            "SELECT state, xact_start FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = 'symvanta customer lock'"
        ).fetchall()
    assert states == [("idle", None)]


def test_peoples_actions_on_one_organization_go_one_after_the_other(symvanta_url: str, hold: Hold) -> None:
    holder = hold(ORGANIZATION, "consent_lock")
    with (
        pytest.raises(LockBusy, match=f"{ORGANIZATION}.*right now"),
        consent_lock(symvanta_url, ORGANIZATION, wait=0.1),
    ):
        pytest.fail("two hold it")
    with consent_lock(symvanta_url, uuid4(), wait=0):
        pass
    holder.communicate()
    with consent_lock(symvanta_url, ORGANIZATION):
        pass


def test_whoever_waits_for_a_persons_action_gets_its_turn(
    symvanta_url: str, until_blocked: Callable[[int], None]
) -> None:
    order: list[str] = []

    def act() -> None:
        with consent_lock(symvanta_url, ORGANIZATION):
            order.append("second")

    with ThreadPoolExecutor(1) as pool:
        with consent_lock(symvanta_url, ORGANIZATION):
            waiting = pool.submit(act)
            until_blocked(1)
            order.append("first")
        waiting.result(timeout=30)
    assert order == ["first", "second"]


def test_no_wait_is_no_endless_wait(symvanta_url: str, hold: Hold) -> None:
    hold(ORGANIZATION, "consent_lock")
    with pytest.raises(LockBusy), consent_lock(symvanta_url, ORGANIZATION, wait=0):
        pytest.fail("two hold it")


def test_a_wait_may_be_longer_than_other_statements(symvanta_url: str, until_blocked: Callable[[int], None]) -> None:
    mark = "&" if "?" in symvanta_url else "?"

    def act() -> None:
        with consent_lock(f"{symvanta_url}{mark}options=-c%20statement_timeout%3D50ms", ORGANIZATION):
            pass

    with ThreadPoolExecutor(1) as pool, database.connect(symvanta_url) as watcher:
        with consent_lock(symvanta_url, ORGANIZATION):
            waiting = pool.submit(act)
            until_blocked(1)
            watcher.execute("SELECT pg_sleep(0.2)")
            until_blocked(1)
        waiting.result(timeout=30)


def test_a_person_does_not_wait_for_a_run_nor_a_run_for_a_person(symvanta_url: str) -> None:
    with consent_lock(symvanta_url, ORGANIZATION), customer_lock(symvanta_url, ORGANIZATION) as lock:
        lock.check()
    with customer_lock(symvanta_url, ORGANIZATION), consent_lock(symvanta_url, ORGANIZATION, wait=0):
        pass


def test_a_held_consent_lock_keeps_no_transaction_open(symvanta_url: str, ledger: psycopg.Connection) -> None:
    with consent_lock(symvanta_url, ORGANIZATION):
        states = ledger.execute(
            "SELECT state, xact_start FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = 'symvanta consent lock'"
        ).fetchall()
    assert states == [("idle", None)]


def test_a_killed_holder_frees_the_consent_lock(symvanta_url: str, hold: Hold) -> None:
    holder = hold(ORGANIZATION, "consent_lock")
    holder.kill()
    with consent_lock(symvanta_url, ORGANIZATION):
        pass


def test_no_server_no_lock() -> None:
    nowhere = "postgresql://somebody@127.0.0.1:1/nothing"
    for lock in (customer_lock, consent_lock):
        with pytest.raises(LedgerUnavailable), lock(nowhere, ORGANIZATION):
            pytest.fail("held without a server")


@given(st.sets(st.uuids(), min_size=2, max_size=20))
def test_keys_fit_and_differ(organizations: set[UUID]) -> None:
    keys = {lock_key(organization) for organization in organizations}
    assert len(keys) == len(organizations)
    assert all(-(2**63) <= key < 2**63 for key in keys)


def test_keys_of_either_sign_can_be_held(symvanta_url: str) -> None:
    organizations = [UUID(int=number) for number in range(8)]
    assert {lock_key(organization) < 0 for organization in organizations} == {True, False}
    for organization in organizations:
        with customer_lock(symvanta_url, organization) as lock:
            lock.check()
