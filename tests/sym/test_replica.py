"""Reading a real standby: what the primary holds, or one clear refusal; and never taken for newer than it is.

No test waits for the limits that count: they are shrunk, and whatever has to age is watched until it has.
"""

import re
import traceback
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from symvanta_pipeline.accounts import brakes
from symvanta_pipeline.sandbox import demo_customers
from symvanta_pipeline.sym import database, source
from symvanta_pipeline.sym.people import memberships
from symvanta_pipeline.sym.source import (
    SourceBrokeOff,
    SourceStale,
    UsersSnapshot,
    find_organization,
    organizations,
    read_users,
)
from tests.support.parts import meanwhile, until
from tests.support.standby import RECEIVER_TIMEOUT, Pair, running_pair

# This lives in tests/conftest.py, which tests cannot import in pytest's importlib mode.
SymRows = Any

CANARY = "Canary Person"
ROLES = {"ordinary": "", "monitor": "IN ROLE pg_read_all_stats"}
GRANT_HINT = "the role needs pg_read_all_stats"
BEHIND = r"Sym's database is a standby whose data may be \d+:\d\d:\d\d old: see that it is connected and replays, or "
QUIET = r"Sym's database is a standby that has seen nothing committed for \d+:\d\d:\d\d: see that it follows "
USE_THE_PRIMARY = "point SYM_DATABASE_URL at the primary"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A primary with Sym's tables and a standby; two roles read them, one of which may also see the connection."""
    with running_pair(tmp_path_factory.mktemp("replication"), "sym") as running:
        demo_customers.create_schema(running.primary_url)
        for role, memberships_of_role in ROLES.items():
            running.on_primary(f"CREATE ROLE {role} LOGIN PASSWORD 'secret-{role}' {memberships_of_role}")
            running.on_primary(f"GRANT SELECT ON organizations, users, identities TO {role}")
        yield running


@pytest.fixture
def sym_url(pair: Pair) -> str:
    """The primary: the fixture `sym` writes there."""
    pair.on_primary("TRUNCATE organizations, users, identities")
    return pair.primary_url


@pytest.fixture
def organization(pair: Pair, sym: SymRows) -> str:
    """One with two users, at both servers."""
    made = sym.organization("acme")
    for _ in range(2):
        sym.user(made, name=CANARY)
    pair.catch_up()
    return str(made)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "STANDBY_SECOND_LOOK_SECONDS", 0.02)


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that shrinks a limit."""

    def shrink(*, lag: float | None = None, quiet: float | None = None) -> None:
        if lag is not None:
            monkeypatch.setattr(brakes, "LIMITS", replace(brakes.LIMITS, standby_lag_seconds=lag))
        if quiet is not None:
            monkeypatch.setattr(brakes, "LIMITS", replace(brakes.LIMITS, standby_quiet_seconds=quiet))

    return shrink


def at_standby(pair: Pair, role: str = "monitor") -> str:
    return make_conninfo(pair.standby_url, user=role, password=f"secret-{role}")


def attempt(pair: Pair, organization: str, role: str = "monitor") -> UsersSnapshot | SourceStale:
    """Read at the standby; a refusal is sure to say nothing of anybody, nor where the server is."""
    try:
        return read_users(at_standby(pair, role), organization)
    except SourceStale as stale:
        refusal = stale
    assert (refusal.__cause__, refusal.__context__) == (None, None)
    shown = "".join(traceback.format_exception(refusal)) + repr(refusal)
    assert not [word for word in (CANARY, "secret", "127.0.0.1", str(pair.standby.port), "sym?") if word in shown]
    return refusal


def until_read(pair: Pair, organization: str, role: str = "monitor") -> None:
    until(lambda: isinstance(attempt(pair, organization, role), UsersSnapshot), "the standby is read")


def until_refused(pair: Pair, organization: str, role: str = "monitor", *, because: str = BEHIND) -> str:
    said: list[str] = []

    def is_refused() -> bool:
        said.append(str(attempt(pair, organization, role)))
        return re.match(because, said[-1]) is not None

    until(is_refused, "the read is refused")
    return said[-1]


def moment(url: str) -> datetime:
    """Return the time by a server's clock."""
    with psycopg.connect(url) as connection:
        [(now,)] = connection.execute("SELECT clock_timestamp()").fetchall()
    assert isinstance(now, datetime)
    return now


# A standby that is well.


@pytest.mark.parametrize("role", ROLES)
def test_a_standby_that_has_caught_up_gives_what_its_primary_holds(
    pair: Pair, sym: SymRows, organization: str, role: str
) -> None:
    before = moment(pair.primary_url)
    sym.user(uuid.UUID(organization), identities=[sym.password(mfa_factors=["otp"]), sym.slack()])
    pair.catch_up()
    at_primary = read_users(pair.primary_url, organization)
    snapshot: UsersSnapshot = read_users(at_standby(pair, role), organization)
    assert snapshot.frame.equals(at_primary.frame)
    assert (snapshot.users, snapshot.slug) == (3, "acme")
    assert before <= snapshot.read_at <= moment(pair.standby_url)
    assert snapshot.read_at.utcoffset() == at_primary.read_at.utcoffset()
    assert [o.slug for o in organizations(at_standby(pair, role))] == ["acme"]


def test_the_transaction_is_as_on_a_primary(pair: Pair, organization: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ("transaction_read_only", "transaction_isolation", "statement_timeout", "TimeZone", "DateStyle")
    seen: dict[str, list[str]] = {}
    begin = database.begin

    def looking(connection: "psycopg.Connection[tuple[Any, ...]]") -> datetime:
        read_at = begin(connection)
        for name in settings:
            seen.setdefault(name, []).extend(v for (v,) in connection.execute("SELECT current_setting(%s)", [name]))
        return read_at

    monkeypatch.setattr(source, "begin", looking)
    assert read_users(pair.primary_url, organization).users == read_users(at_standby(pair), organization).users
    assert seen == {name: [value] * 2 for name, (value, _) in seen.items()}
    assert [seen[name][0] for name in settings[:3]] == ["on", "repeatable read", "1min"]


def test_a_primary_is_asked_nothing_more(pair: Pair, organization: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(_: object) -> datetime:
        raise AssertionError("asked")

    monkeypatch.setattr(database, "_complete_until", ask)
    assert read_users(pair.primary_url, organization).users == 2
    with pytest.raises(AssertionError, match="asked"):
        read_users(pair.standby_url, organization)


def test_an_idle_primary_holds_nothing_where_the_role_sees_the_connection(
    pair: Pair, organization: str, limit: Callable[..., None]
) -> None:
    limit(lag=1)
    assert GRANT_HINT in until_refused(pair, organization, "ordinary")  # for it, the last commit alone counts
    until_read(pair, organization, "monitor")


def test_a_primary_that_is_idle_for_too_long_is_looked_at(
    pair: Pair, sym: SymRows, organization: str, limit: Callable[..., None]
) -> None:
    limit(lag=1, quiet=1.5)
    assert USE_THE_PRIMARY in until_refused(pair, organization, because=QUIET)
    limit(lag=300)
    sym.user(uuid.UUID(organization))
    pair.catch_up()
    assert read_users(at_standby(pair), organization).users == 3


# What is proven, and what is then read.


def test_what_is_replayed_while_it_is_asked_is_read(
    pair: Pair, sym: SymRows, organization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a snapshot from before the proof would pass for one from after it."""
    complete_until = database._complete_until

    def replaying(connection: "psycopg.Connection[tuple[Any, ...]]") -> datetime:
        pair.on_standby("SELECT pg_wal_replay_resume()")
        pair.catch_up()
        return complete_until(connection)

    with pair.paused():
        committed = moment(pair.primary_url)
        sym.user(uuid.UUID(organization))
        monkeypatch.setattr(database, "_complete_until", replaying)
        snapshot = read_users(at_standby(pair), organization)
    assert snapshot.read_at >= committed
    assert snapshot.users == 3


def test_a_proof_that_does_not_last_is_none(
    pair: Pair, sym: SymRows, organization: str, limit: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a connection has just come back: the primary is heard, and what was missed comes after."""
    looks: list[Any] = []
    look = database._look

    def interrupted(connection: "psycopg.Connection[tuple[Any, ...]]") -> object:
        looks.append(look(connection))
        if len(looks) == 1:
            sym.user(uuid.UUID(organization))
            end = pair.end_of_log()
            until(lambda: pair.has_received(end), "more is received")
        return looks[-1]

    limit(lag=1)
    with pair.paused():
        until_refused(pair, organization, "ordinary")
        until_read(pair, organization)
        monkeypatch.setattr(database, "_look", interrupted)
        assert isinstance(attempt(pair, organization), SourceStale)
    assert [standby.heard is not None for standby in looks] == [True, False]


def test_a_receiver_that_has_heard_nothing_yet_proves_nothing(pair: Pair) -> None:
    """Just started, it shows its own start for the times of a message, beside the end of the log from before."""
    columns = "status, last_msg_send_time, last_msg_receipt_time, latest_end_lsn"
    before = "now() - interval '1 ms'"
    for status, sent, proves in (
        ("streaming", "now()", False),
        ("waiting", before, False),
        ("streaming", before, True),
    ):
        shown = f"'{status}', {sent}, now(), pg_last_wal_replay_lsn()"
        receiver = f"(VALUES ({shown})) AS receiver ({columns})"
        [(_, _, _, heard, _)] = pair.on_standby(database._STANDBY_SQL.replace("pg_stat_wal_receiver", receiver))
        assert (heard is not None) is proves


# A standby that is behind.


@pytest.mark.parametrize("role", ROLES)
def test_a_paused_replay_is_refused_once_it_is_too_old(
    pair: Pair, sym: SymRows, organization: str, limit: Callable[..., None], role: str
) -> None:
    with pair.paused():
        missed = moment(pair.primary_url)
        user = sym.user(uuid.UUID(organization))
        until(lambda: pair.has_received(pair.end_of_log()), "it is received")
        behind = read_users(at_standby(pair, role), organization)  # within the limit
        assert str(user) not in set(behind.frame["user_id"])
        assert behind.read_at <= missed, "what it lacks is newer than it claims to be"
        limit(lag=0.5)
        said = until_refused(pair, organization, role)
        for read in (
            lambda: organizations(at_standby(pair, role)),
            lambda: find_organization(at_standby(pair, role), "acme"),
            lambda: memberships(at_standby(pair, role), "auth0|somebody"),
        ):
            with pytest.raises(SourceStale):
                read()
        assert read_users(pair.primary_url, organization).users == 3
    limit(lag=300)
    assert str(user) in set(read_users(at_standby(pair, role), organization).frame["user_id"])
    assert (GRANT_HINT in said) == (role == "ordinary")
    assert USE_THE_PRIMARY in said


def test_a_paused_replay_with_nothing_to_replay_is_read(
    pair: Pair, organization: str, limit: Callable[..., None]
) -> None:
    limit(lag=1)
    with pair.paused():
        until_refused(pair, organization, "ordinary")
        until_read(pair, organization, "monitor")


@pytest.mark.parametrize("role", ROLES)
def test_a_standby_that_is_cut_off_is_refused_once_it_is_too_old(
    pair: Pair, sym: SymRows, organization: str, limit: Callable[..., None], role: str
) -> None:
    with pair.cut_off():
        missed = moment(pair.primary_url)
        sym.user(uuid.UUID(organization))
        behind = read_users(at_standby(pair, role), organization)  # within the limit
        assert (behind.users, behind.read_at <= missed) == (2, True)
        limit(lag=0.5)
        said = until_refused(pair, organization, role)
        assert GRANT_HINT not in said, "there is nothing that it could see"
    limit(lag=300)
    assert read_users(at_standby(pair, role), organization).users == 3


def test_a_connection_on_which_nothing_comes_proves_nothing(
    pair: Pair, sym: SymRows, organization: str, limit: Callable[..., None]
) -> None:
    pair.configure("wal_receiver_timeout", "60s")  # until it gives up by itself
    try:
        with pair.silent():
            sym.user(uuid.UUID(organization))
            limit(lag=0.5)
            until_refused(pair, organization)
            assert pair.is_connected()
    finally:
        pair.configure("wal_receiver_timeout", RECEIVER_TIMEOUT)


def test_a_standby_that_does_not_tell_is_refused(pair: Pair, organization: str) -> None:
    pair.on_primary("REVOKE SELECT ON pg_stat_wal_receiver FROM PUBLIC")
    try:
        pair.catch_up()
        said = attempt(pair, organization, "ordinary")
        assert str(said) == f"Sym's database is a standby that does not tell how old its data is: {USE_THE_PRIMARY}"
    finally:
        pair.on_primary("GRANT SELECT ON pg_stat_wal_receiver TO PUBLIC")
        pair.catch_up()
    assert isinstance(attempt(pair, organization, "ordinary"), UsersSnapshot)


# A standby that ends a read.


def conflict(pair: Pair) -> str:
    """Remove at the primary what a read at the standby may still want; return where its log ends then."""
    pair.on_primary("DELETE FROM identities")
    pair.on_primary("VACUUM identities")
    return pair.end_of_log()


def test_a_read_in_the_way_of_replay_is_no_half_read(
    pair: Pair, organization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetches: list[int] = []
    fetchmany = psycopg.ServerCursor.fetchmany

    def conflicting(self: Any, size: int = 0) -> list[Any]:
        fetches.append(size)
        if len(fetches) == 2:
            end = conflict(pair)
            until(lambda: pair.has_replayed(end), "the read is out of the way")
        return fetchmany(self, size)

    monkeypatch.setattr(source, "ROWS_PER_FETCH", 1)
    monkeypatch.setattr(psycopg.ServerCursor, "fetchmany", conflicting)
    assert broken_off(pair, organization) == "SerializationFailure 40001"
    assert len(fetches) == 2


def test_a_statement_in_the_way_of_replay_is_no_half_read(
    pair: Pair, organization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = source.USERS_SQL.replace(b"u.name::text", b"concat(u.name, pg_sleep(60))")
    assert slow != source.USERS_SQL
    monkeypatch.setattr(source, "USERS_SQL", slow)

    def end_it() -> None:
        until(lambda: pair.on_standby("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"), "it is read")
        conflict(pair)

    with meanwhile(end_it):
        assert broken_off(pair, organization) == "SerializationFailure 40001"


def broken_off(pair: Pair, organization: str) -> str:
    """Read, and return the kind of error that broke it off."""
    with pytest.raises(SourceBrokeOff) as caught:
        read_users(at_standby(pair), organization)
    assert caught.value.__context__ is None
    said = re.fullmatch(r"the read of Sym's database broke off \((.*)\)", str(caught.value))
    assert said is not None
    return said[1]
