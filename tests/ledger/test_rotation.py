import base64
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from uuid import UUID, uuid4

import psycopg
import pytest

from symvanta_pipeline.ledger import database, vault
from symvanta_pipeline.ledger.connections import connect_customer
from symvanta_pipeline.ledger.vault import (
    KeyRing,
    Rotation,
    RotationIncomplete,
    StoredToken,
    Token,
    TokenUnreadable,
    UnknownTokenKey,
    Vault,
)

MakeToken = Callable[[str], Token]


def ring_text(*ids: str) -> str:
    """A ring with a key for each letter."""
    return ",".join(f"{i}:{base64.urlsafe_b64encode(i.encode() * 32).decode()}" for i in ids)


OLD, BOTH, NEW = (KeyRing(ring_text(*ids)) for ids in ("o", "no", "n"))


@pytest.fixture
def fill(ledger: psycopg.Connection, token: MakeToken) -> Callable[..., list[UUID]]:
    """Connect so many organizations, with tokens under the first key of a ring."""

    def connect(count: int, keyring: KeyRing = OLD) -> list[UUID]:
        ids = sorted(uuid4() for _ in range(count))
        for organization in ids:
            connect_customer(ledger, keyring, organization, f"c{organization}", token(str(organization)))
        return ids

    return connect


def stored(ledger: psycopg.Connection, keyring: KeyRing, organizations: list[UUID]) -> list[StoredToken | None]:
    return [Vault(ledger, keyring).load(organization) for organization in organizations]


def key_ids(ledger: psycopg.Connection) -> list[str | None]:
    return [key_id for (key_id,) in ledger.execute("SELECT key_id FROM tokens ORDER BY organization_id").fetchall()]


@pytest.mark.parametrize("batch", [1, 3, 7, 100])
def test_every_token_comes_under_the_first_key_and_stays_what_it_is(
    ledger: psycopg.Connection, fill: Callable[..., list[UUID]], batch: int
) -> None:
    organizations = [*fill(7), *fill(2, BOTH)]
    before = stored(ledger, BOTH, organizations)
    assert None not in before
    assert Vault(ledger, BOTH).rotate(batch=batch) == Rotation(rotated=7, already=2, unreadable=())
    assert key_ids(ledger) == ["n"] * 9
    assert stored(ledger, NEW, organizations) == before  # generation, saved_at, expiry and scope included
    Vault(ledger, NEW).check_keys()
    with pytest.raises(UnknownTokenKey, match="lacks: n"):
        Vault(ledger, OLD).check_keys()


def test_again_there_is_nothing_to_do(ledger: psycopg.Connection, fill: Callable[..., list[UUID]]) -> None:
    assert Vault(ledger, BOTH).rotate() == Rotation(0, 0, ())
    fill(3)
    assert Vault(ledger, BOTH).rotate() == Rotation(3, 0, ())
    rows = ledger.execute("SELECT * FROM tokens ORDER BY organization_id").fetchall()
    assert Vault(ledger, BOTH).rotate() == Rotation(0, 3, ())
    assert ledger.execute("SELECT * FROM tokens ORDER BY organization_id").fetchall() == rows


def test_erased_tokens_are_neither_counted_nor_touched(
    ledger: psycopg.Connection, fill: Callable[..., list[UUID]]
) -> None:
    first, second = fill(2)
    Vault(ledger, OLD).erase(first)
    assert Vault(ledger, BOTH).rotate() == Rotation(1, 0, ())
    assert stored(ledger, NEW, [first]) == [None]
    assert stored(ledger, NEW, [second]) != [None]


@pytest.mark.parametrize("batch", [1, 2, 100])
def test_what_cannot_be_read_is_named_and_left_as_it_is(
    ledger: psycopg.Connection, fill: Callable[..., list[UUID]], batch: int
) -> None:
    lost_key, moved, half, *good = fill(6)
    ledger.execute("UPDATE tokens SET key_id = 'x' WHERE organization_id = %s", [lost_key])
    ledger.execute(
        "UPDATE tokens SET access_token = o.access_token, refresh_token = o.refresh_token "
        "FROM tokens AS o WHERE tokens.organization_id = %s AND o.organization_id = %s",
        [moved, good[0]],
    )
    ledger.execute("UPDATE tokens SET refresh_token = access_token WHERE organization_id = %s", [half])
    unreadable = [lost_key, moved, half]
    query = "SELECT * FROM tokens WHERE organization_id = ANY(%s) ORDER BY organization_id"
    before = ledger.execute(query, [unreadable]).fetchall()
    for expected in (Rotation(3, 0, tuple(unreadable)), Rotation(0, 3, tuple(unreadable))):
        assert Vault(ledger, BOTH).rotate(batch=batch) == expected
    assert ledger.execute(query, [unreadable]).fetchall() == before
    assert None not in stored(ledger, NEW, good)
    for organization in unreadable:
        with pytest.raises(TokenUnreadable):
            Vault(ledger, BOTH).load(organization)


def test_rows_that_are_locked_are_passed_over_committed_around_and_come_last(
    symvanta_url: str, ledger: psycopg.Connection, fill: Callable[..., list[UUID]]
) -> None:
    locked, *free = fill(5)

    def rotate() -> Rotation:
        with database.connect(symvanta_url) as connection:
            return Vault(connection, BOTH).rotate(batch=2)

    with ThreadPoolExecutor(1) as pool, database.connect(symvanta_url) as watcher:
        with ledger.transaction():
            ledger.execute("SELECT FROM tokens WHERE organization_id = %s FOR UPDATE", [locked])
            rotating = pool.submit(rotate)
            eventually(lambda: key_ids(watcher).count("n") == len(free))
            assert not rotating.done()
            assert stored(watcher, OLD, [locked]) != [None]
        assert rotating.result(timeout=30) == Rotation(5, 0, ())
    assert key_ids(ledger) == ["n"] * 5


def test_a_row_that_stays_locked_is_told_and_the_rest_is_done(
    ledger: psycopg.Connection,
    other: psycopg.Connection,
    fill: Callable[..., list[UUID]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vault, "ROTATION_PATIENCE", 0.3)
    locked, *_ = fill(4)
    with other.transaction():
        other.execute("SELECT FROM tokens WHERE organization_id = %s FOR UPDATE", [locked])
        with pytest.raises(RotationIncomplete, match=r"not rotated yet.*: 1; rotated: 3; run it again"):
            Vault(ledger, BOTH).rotate()
    assert Vault(ledger, BOTH).rotate() == Rotation(1, 3, ())


def test_progress_earns_more_patience(
    symvanta_url: str,
    ledger: psycopg.Connection,
    fill: Callable[..., list[UUID]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows that come free one by one, all of them together later than a single one would be waited for."""
    clock = [0.0]
    monkeypatch.setattr(vault, "ROTATION_PATIENCE", 10.0)
    organizations = fill(4)
    holders = [database.connect(symvanta_url, autocommit=False) for _ in organizations]
    for holder, organization in zip(holders, organizations, strict=True):
        holder.execute("SELECT FROM tokens WHERE organization_id = %s FOR UPDATE", [organization])

    def sleep(_: float) -> None:
        clock[0] += 9.0
        holder = holders.pop()
        holder.rollback()  # a lock that only ends with its connection is free some time later
        holder.close()

    with monkeypatch.context() as patch:
        patch.setattr(vault, "time", type("Clock", (), {"monotonic": lambda: clock[0], "sleep": sleep}))
        assert Vault(ledger, BOTH).rotate() == Rotation(4, 0, ())
    assert clock == [36.0]


def test_inside_a_transaction_it_is_refused(ledger: psycopg.Connection, fill: Callable[..., list[UUID]]) -> None:
    fill(1)
    with ledger.transaction(), pytest.raises(RuntimeError, match="committed at once"):
        Vault(ledger, BOTH).rotate()
    assert key_ids(ledger) == ["o"]


def test_it_is_committed_on_a_connection_without_autocommit(
    symvanta_url: str, ledger: psycopg.Connection, fill: Callable[..., list[UUID]]
) -> None:
    fill(2)
    with database.connect(symvanta_url, autocommit=False) as connection:
        assert Vault(connection, BOTH).rotate() == Rotation(2, 0, ())
        assert key_ids(ledger) == ["n", "n"]


# Processes, as they are in production.

START = "SELECT pg_advisory_lock_shared(1)"
ROTATE = f"""
import sys
from symvanta_pipeline.ledger import database
from symvanta_pipeline.ledger.vault import KeyRing, Vault
with database.connect(sys.argv[1]) as connection:
    vault = Vault(connection, KeyRing(sys.argv[2]))
    connection.execute("{START}")
    done = vault.rotate(batch=2)
    assert not done.unreadable
    print(done.rotated)
"""
# Refreshes every token so many times, each from the generation that it reads; a lost one would be a StaleGeneration.
REFRESH = f"""
import sys, uuid
from dataclasses import replace
from symvanta_pipeline.ledger import database
from symvanta_pipeline.ledger.vault import KeyRing, Token, Vault
with database.connect(sys.argv[1]) as connection:
    vault = Vault(connection, KeyRing(sys.argv[2]))
    ids = [row[0] for row in connection.execute("SELECT organization_id FROM tokens ORDER BY 1 DESC")]
    connection.execute("{START}")
    for _ in range(int(sys.argv[3])):
        for organization in ids:
            held = vault.load(organization)
            mark = f"{{organization}} {{held.generation + 1}}"
            token = Token(f"vat_{{mark}}", f"refresh_{{mark}}", held.expires_at, held.scope)
            vault.replace(organization, token, expected_generation=held.generation)
"""
# Forgets every token and takes a new consent for it, so many times; in the end every second one is forgotten.
CONSENT = f"""
import sys
from datetime import UTC, datetime
from symvanta_pipeline.ledger import database
from symvanta_pipeline.ledger.vault import KeyRing, Token, Vault
with database.connect(sys.argv[1]) as connection:
    vault = Vault(connection, KeyRing(sys.argv[2]))
    ids = [row[0] for row in connection.execute("SELECT organization_id FROM tokens ORDER BY 1 DESC")]
    connection.execute("{START}")
    for n in range(int(sys.argv[3])):
        for organization in ids:
            assert vault.erase(organization)
            mark = f"{{organization}} consent {{n}}"
            token = Token(f"vat_{{mark}}", f"refresh_{{mark}}", datetime(2030, 1, 1, tzinfo=UTC), "read write")
            vault.put_consented(organization, token)
    for organization in ids[::2]:
        assert vault.erase(organization)
"""
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(symvanta_url: str) -> Iterator[Start]:
    """Start processes that all wait for the lock of ``START``."""
    processes: list[subprocess.Popen[str]] = []

    def begin(code: str, *arguments: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", code, symvanta_url, *arguments]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def eventually(happened: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def test_two_rotations_and_a_process_of_refreshes_lose_nothing(
    *,
    ledger: psycopg.Connection,
    start: Start,
    fill: Callable[..., list[UUID]],
    until_blocked: Callable[[int], None],
) -> None:
    rounds, organizations = 5, fill(40)
    ledger.execute("SELECT pg_advisory_lock(1)")
    rotations = [start(ROTATE, ring_text("n", "o")) for _ in range(2)]
    refreshes = start(REFRESH, ring_text("n", "o"), str(rounds))
    until_blocked(3)
    ledger.execute("SELECT pg_advisory_unlock(1)")
    outputs = [process.communicate(timeout=90)[0] for process in rotations]
    refreshes.communicate(timeout=90)
    assert [process.returncode for process in (*rotations, refreshes)] == [0, 0, 0]
    assert 0 < sum(map(int, outputs)) <= len(organizations)
    assert key_ids(ledger) == ["n"] * len(organizations)
    for organization, held in zip(organizations, stored(ledger, NEW, organizations), strict=True):
        mark = f"{organization} {rounds + 1}"
        moment = datetime(2030, 1, 1, tzinfo=UTC)
        assert held is not None
        expected = StoredToken(f"vat_{mark}", f"refresh_{mark}", moment, "read write", rounds + 1, held.saved_at)
        assert held == expected


def test_a_rotation_beside_consents_and_disconnects_loses_none_and_brings_none_back(
    *,
    ledger: psycopg.Connection,
    start: Start,
    fill: Callable[..., list[UUID]],
    until_blocked: Callable[[int], None],
) -> None:
    rounds, organizations = 8, fill(40)
    ledger.execute("SELECT pg_advisory_lock(1)")
    processes = [start(ROTATE, ring_text("n", "o")), start(CONSENT, ring_text("n", "o"), str(rounds))]
    until_blocked(2)
    ledger.execute("SELECT pg_advisory_unlock(1)")
    rotated, _ = (process.communicate(timeout=90)[0] for process in processes)
    assert [process.returncode for process in processes] == [0, 0]
    assert int(rotated) <= len(organizations)
    for position, organization in enumerate(reversed(organizations)):
        [held] = stored(ledger, NEW, [organization])
        erased = position % 2 == 0
        [(generation,)] = ledger.execute(
            "SELECT generation FROM tokens WHERE organization_id = %s", [organization]
        ).fetchall()
        assert generation == 1 + 2 * rounds + erased
        assert (None if held is None else held.refresh_token) == (
            None if erased else f"refresh_{organization} consent {rounds - 1}"
        )


def test_two_rotations_alone_share_the_work(
    *,
    ledger: psycopg.Connection,
    start: Start,
    fill: Callable[..., list[UUID]],
    until_blocked: Callable[[int], None],
) -> None:
    organizations = fill(60)
    before = stored(ledger, BOTH, organizations)
    ledger.execute("SELECT pg_advisory_lock(1)")
    rotations = [start(ROTATE, ring_text("n", "o")) for _ in range(2)]
    until_blocked(2)
    ledger.execute("SELECT pg_advisory_unlock(1)")
    done = [int(process.communicate(timeout=90)[0]) for process in rotations]
    assert sum(done) == len(organizations)  # each token by exactly one of them
    assert stored(ledger, NEW, organizations) == before


def test_a_killed_rotation_leaves_whole_tokens_that_the_next_one_finishes(
    *, symvanta_url: str, ledger: psycopg.Connection, start: Start, fill: Callable[..., list[UUID]]
) -> None:
    *organizations, last = fill(6)
    before = stored(ledger, BOTH, [*organizations, last])
    with database.connect(symvanta_url, autocommit=False) as holder:
        holder.execute("SELECT FROM tokens WHERE organization_id = %s FOR UPDATE", [last])
        rotation = start(ROTATE, ring_text("n", "o"))
        eventually(lambda: key_ids(ledger).count("n") == len(organizations))
        rotation.kill()
        rotation.wait(timeout=30)
    assert stored(ledger, BOTH, [*organizations, last]) == before
    assert Vault(ledger, BOTH).rotate() == Rotation(1, 5, ())
    assert stored(ledger, NEW, [*organizations, last]) == before
