import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from symvanta_pipeline.ledger.database import LedgerUnavailable
from symvanta_pipeline.ledger.locks import LockBusy, LockLost, customer_lock, lock_key

ORGANIZATION = UUID("aaaaaaaa-0000-4000-8000-000000000001")
HOLD = """
import sys, uuid
from symvanta_pipeline.ledger.locks import customer_lock
with customer_lock(sys.argv[1], uuid.UUID(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.read()
"""
Hold = Callable[[UUID], "subprocess.Popen[str]"]


@pytest.fixture
def hold(symvanta_url: str) -> Iterator[Hold]:
    """Start processes that hold a lock until their standard input ends."""
    processes: list[subprocess.Popen[str]] = []

    def start(organization_id: UUID) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, symvanta_url, str(organization_id)],
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


def test_no_transaction_stays_open(symvanta_url: str, ledger: psycopg.Connection) -> None:
    with customer_lock(symvanta_url, ORGANIZATION) as lock:
        lock.check()
        states = ledger.execute(
            "SELECT state, xact_start FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = 'symvanta customer lock'"
        ).fetchall()
    assert states == [("idle", None)]


def test_no_server_no_lock() -> None:
    with (
        pytest.raises(LedgerUnavailable),
        customer_lock("postgresql://somebody@127.0.0.1:1/nothing", ORGANIZATION),
    ):
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
