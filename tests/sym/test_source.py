"""Reading a real PostgreSQL: everybody, at one moment, without a trace; or one clear error."""

import re
import socket
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pandas as pd
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from symvanta_pipeline.sandbox import demo_customers
from symvanta_pipeline.sym import database, source
from symvanta_pipeline.sym.contract import DTYPES, violations
from symvanta_pipeline.sym.source import (
    Organization,
    OrganizationGone,
    SourceBrokeOff,
    SourceChanged,
    SourceUnavailable,
    UsersSnapshot,
    find_organization,
    organization_of,
    organizations,
    read_users,
)

# These live in tests/conftest.py, which tests cannot import in pytest's importlib mode.
SymRows = Any
EmbeddedPostgres = Any

NAME_CANARY = "Canary Person"
EMAIL_CANARY = "canary@person.example"
Spoil = Callable[[str, str], None]


@pytest.fixture
def in_sql(monkeypatch: pytest.MonkeyPatch) -> Spoil:
    """Return a function that replaces a piece of users.sql, and makes sure that it was there."""

    def spoil(old: str, new: str) -> None:
        text = source.USERS_SQL.decode()
        assert old in text
        monkeypatch.setattr(source, "USERS_SQL", text.replace(old, new).encode())

    return spoil


@pytest.fixture(autouse=True)
def _closed(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test with a database, whatever its outcome, no connection of the reader is left."""
    urls = [request.getfixturevalue(n) for n in ("sym_url", "demo_sym_url") if n in request.fixturenames]
    yield
    for url in urls:
        with psycopg.connect(url, autocommit=True) as connection:
            # A backend ends a moment after its client has hung up.
            assert eventually(partial(nobody_reads, connection)), "the reader's connection is still open"


def nobody_reads(connection: "psycopg.Connection[Any]") -> bool:
    return not readers(connection)


def readers(connection: "psycopg.Connection[Any]") -> list[int]:
    """Return the process ids of the reader's connections to this database."""
    rows = connection.execute(
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'symvanta-pipeline' AND datname = current_database()"
    )
    return [pid for (pid,) in rows]


def eventually(happened: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def on_fetch(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], None]) -> list[int]:
    """Have rows fetched one by one and act before the given fetch; returns the list of fetches so far."""
    fetches: list[int] = []
    fetchmany = psycopg.ServerCursor.fetchmany

    def acting(self: Any, size: int = 0) -> list[Any]:
        fetches.append(size)
        if len(fetches) == number:
            act()
        return fetchmany(self, size)

    monkeypatch.setattr(source, "ROWS_PER_FETCH", 1)
    monkeypatch.setattr(psycopg.ServerCursor, "fetchmany", acting)
    return fetches


def fill(sym: SymRows, users: int = 5) -> str:
    organization = sym.organization("acme")
    for _ in range(users):
        sym.user(organization, name=NAME_CANARY, email=EMAIL_CANARY)
    return str(organization)


def refused(url: str, organization: str, error: type[Exception]) -> str:
    """Read, expect the error, and return its text once it is sure that it carries nobody's data and no other error."""
    with pytest.raises(error) as caught:
        read_users(url, organization)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    password = conninfo_to_dict(url).get("password") if "://" in url else None
    assert not [word for word in (NAME_CANARY, EMAIL_CANARY, password) if word and str(word) in shown]
    return str(caught.value)


# Everybody.


def test_everybody_in_every_demo_organization_is_read(demo_sym_url: str) -> None:
    with psycopg.connect(demo_sym_url) as connection:
        rows = connection.execute("SELECT organization_id::text, id::text FROM users").fetchall()
        without_auth0 = connection.execute(
            "SELECT id::text, type FROM users AS u WHERE NOT EXISTS"
            " (SELECT FROM identities AS i WHERE i.user_id = u.id AND i.service = 'auth0')"
        ).fetchall()
        slugs = connection.execute("SELECT slug FROM organizations WHERE deleted_at IS NULL").fetchall()
    known = organizations(demo_sym_url)
    assert sorted(o.slug for o in known) == sorted(slug for (slug,) in slugs)
    read = {o.id: read_users(demo_sym_url, o.id) for o in known}
    for organization_id, snapshot in read.items():
        expected = {user for owner, user in rows if owner == organization_id}
        assert set(snapshot.frame["user_id"]) == expected
        assert snapshot.users == len(expected)
    everybody = {user for snapshot in read.values() for user in snapshot.frame["user_id"]}
    assert len(everybody) == len(rows)
    assert {"member", "guest"} <= {kind for _, kind in without_auth0}
    assert {user for user, _ in without_auth0} <= everybody


def test_a_user_has_a_row_for_each_identity_and_every_column(sym_url: str, sym: SymRows) -> None:
    organization = sym.organization("acme")
    first, second = uuid.UUID(int=1), uuid.UUID(int=2)
    at = [datetime(2024, 1, day, 1, 2, 3, 456789, tzinfo=UTC) for day in range(1, 7)]
    password = sym.password(
        id=uuid.UUID(int=12), mfa_factors=["otp", "sms"], last_login_at=at[3], last_password_reset_at=at[4]
    )
    sym.user(
        organization,
        id=second,
        type="admin",
        name="Zo\u00eb \u5f20\u4f1f",
        email=" zoe@acme.example ",
        created_at=at[0],
        updated_at=at[1],
        deactivated_at=at[2],
        identities=[password, sym.slack(id=uuid.UUID(int=11), mfa_factors=[])],
    )
    sym.user(organization, id=first, name=None, email=None, created_at=at[5], identities=[])
    frame = read_users(sym_url, str(organization)).frame
    nobody = dict.fromkeys(DTYPES)
    of_second = {
        "organization_id": str(organization),
        "slug": "acme",
        "user_id": str(second),
        "type": "admin",
        "name": "Zo\u00eb \u5f20\u4f1f",
        "email": " zoe@acme.example ",
        "created_at": at[0],
        "updated_at": at[1],
        "deactivated_at": at[2],
    }
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == DTYPES
    assert frame.astype("object").where(frame.notna(), None).to_dict("records") == [
        nobody
        | {
            "organization_id": str(organization),
            "slug": "acme",
            "user_id": str(first),
            "type": "member",
            "created_at": at[5],
        },
        nobody | of_second | {"identity_id": str(uuid.UUID(int=11)), "service": "slack", "mfa_factors": []},
        nobody
        | of_second
        | {
            "identity_id": str(uuid.UUID(int=12)),
            "service": "auth0",
            "connection": "Username-Password-Authentication",
            "mfa_factors": ["otp", "sms"],
            "last_login_at": at[3],
            "last_password_reset_at": at[4],
        },
    ]


def test_only_this_organization_is_read(sym_url: str, sym: SymRows) -> None:
    other = sym.organization("other")
    sym.user(other)
    mine = fill(sym)
    snapshot = read_users(sym_url, mine)
    assert (snapshot.organization_id, snapshot.slug, snapshot.users) == (mine, "acme", 5)
    assert violations(snapshot.frame, mine) == []


def test_the_size_of_a_fetch_does_not_matter(sym_url: str, sym: SymRows, monkeypatch: pytest.MonkeyPatch) -> None:
    organization = fill(sym, users=6)
    whole = read_users(sym_url, organization).frame
    for rows_per_fetch in (1, 2, 5, 6, 7):
        monkeypatch.setattr(source, "ROWS_PER_FETCH", rows_per_fetch)
        pd.testing.assert_frame_equal(read_users(sym_url, organization).frame, whole)


def test_an_organization_without_users_is_an_empty_snapshot(sym_url: str, sym: SymRows) -> None:
    organization = fill(sym, users=0)
    snapshot = read_users(sym_url, organization)
    assert (snapshot.slug, snapshot.users, len(snapshot.frame)) == ("acme", 0, 0)
    assert {name: str(dtype) for name, dtype in snapshot.frame.dtypes.items()} == DTYPES
    assert [v.rule for v in violations(snapshot.frame, organization)] == ["nobody"]


def test_times_are_utc_whatever_the_server_prefers(sym_url: str, sym: SymRows) -> None:
    organization = sym.organization("acme")
    moments = [
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(2026, 2, 3, 4, 5, 6, 7, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    ]
    for moment in moments:
        sym.user(organization, created_at=moment)
    for setting in ("timezone = 'Asia/Kolkata'", "datestyle = 'SQL, DMY'"):
        sym.execute(f'ALTER DATABASE "{sym.connection.info.dbname}" SET {setting}')
    frame = read_users(sym_url, str(organization)).frame
    assert sorted(frame["created_at"]) == moments


def test_the_snapshot_bears_the_time_of_the_databases_clock(sym_url: str, sym: SymRows) -> None:
    organization = fill(sym)
    (before,) = sym.connection.execute("SELECT clock_timestamp()").fetchone()
    snapshot = read_users(sym_url, organization)
    (after,) = sym.connection.execute("SELECT clock_timestamp()").fetchone()
    assert before <= snapshot.read_at <= after
    assert snapshot.read_at.tzinfo is UTC


def test_a_snapshot_shows_nobody(sym_url: str, sym: SymRows) -> None:
    snapshot: UsersSnapshot = read_users(sym_url, fill(sym))
    assert (snapshot.frame["name"] == NAME_CANARY).all()
    assert not [word for word in (NAME_CANARY, EMAIL_CANARY) if word in f"{snapshot} {snapshot!r}"]
    assert replace(snapshot, users=0) != snapshot


def test_the_query_says_what_has_to_come_out_of_it() -> None:
    comment = re.findall(r"^--   (\w+) +(text\[\]|text|timestamptz) ", source.USERS_SQL.decode(), re.MULTILINE)
    assert dict(comment) == source.RESULT_TYPES


# At one moment, and never writing.


def test_the_transaction_is_read_only_repeatable_and_limited(sym_url: str, sym: SymRows, in_sql: Spoil) -> None:
    organization = fill(sym, users=1)
    in_sql("u.name::text", "current_setting('transaction_read_only')")
    in_sql("u.email::text", "current_setting('transaction_isolation')")
    in_sql("u.type::text", "current_setting('statement_timeout')")
    in_sql("i.connection::text", "current_setting('application_name')")
    (row,) = read_users(sym_url, organization).frame.to_dict("records")
    assert (row["name"], row["email"], row["type"], row["connection"]) == (
        "on",
        "repeatable read",
        "1min",
        "symvanta-pipeline",
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("u.name::text", "meddle()"),
        ("SELECT\n", "WITH gone AS (DELETE FROM identities RETURNING id) SELECT\n"),
        ("SELECT\n", "DELETE FROM identities; SELECT\n"),
    ],
)
def test_a_query_that_writes_is_refused(sym_url: str, sym: SymRows, in_sql: Spoil, old: str, new: str) -> None:
    organization = fill(sym)
    sym.execute(
        "CREATE FUNCTION meddle() RETURNS text LANGUAGE sql VOLATILE AS 'DELETE FROM identities RETURNING service'"
    )
    in_sql(old, new)
    assert "users.sql" in refused(sym_url, organization, SourceChanged)
    assert sym.connection.execute("SELECT count(*) FROM identities").fetchone() == (5,)
    if "meddle" in new:
        assert sym.connection.execute("SELECT meddle()").fetchone() == ("slack",)  # elsewhere it does write


def test_whoever_comes_while_it_reads_is_not_seen(sym_url: str, sym: SymRows, monkeypatch: pytest.MonkeyPatch) -> None:
    organization = fill(sym)
    fetches = on_fetch(monkeypatch, 3, lambda: fill_more(sym, organization))
    assert read_users(sym_url, organization).users == 5
    assert len(fetches) == 6
    assert read_users(sym_url, organization).users == 7


def test_whoever_comes_between_its_statements_is_not_seen(
    sym_url: str, sym: SymRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    organization = fill(sym)
    began: list[str] = []
    begin = database.begin

    def interrupted(connection: Any) -> datetime:
        read_at = begin(connection)
        fill_more(sym, organization)
        began.append("interrupted")
        return read_at

    with monkeypatch.context() as patch:
        patch.setattr(source, "begin", interrupted)
        assert read_users(sym_url, organization).users == 5
    assert began
    assert read_users(sym_url, organization).users == 7


def fill_more(sym: SymRows, organization: str) -> None:
    for last in (False, True):  # one sorts before everybody, one after
        sym.user(uuid.UUID(organization), id=uuid.UUID(int=2**128 - 1 if last else 1))


# Never half.


def test_a_read_that_breaks_off_half_way_is_no_empty_read(
    sym_url: str, sym: SymRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    organization = fill(sym)
    ended: list[bool] = []

    def terminate() -> None:
        for pid in readers(sym.connection):
            (done,) = sym.connection.execute("SELECT pg_terminate_backend(%s, 10000)", [pid]).fetchone()
            ended.append(done)

    fetches = on_fetch(monkeypatch, 3, terminate)
    message = refused(sym_url, organization, SourceBrokeOff)
    assert (ended, len(fetches)) == ([True], 3)
    assert message == "the read of Sym's database broke off (AdminShutdown 57P01)"


@pytest.mark.parametrize("how", ["pg_terminate_backend", "pg_cancel_backend"])
def test_a_statement_that_is_ended_is_no_empty_read(sym_url: str, sym: SymRows, in_sql: Spoil, how: str) -> None:
    organization = fill(sym)
    in_sql("u.name::text", "concat(u.name, pg_sleep(60))")
    ended: list[bool] = []

    def end() -> None:
        statement = sql.SQL(
            "SELECT {}(pid) FROM pg_stat_activity WHERE application_name = 'symvanta-pipeline'"
            " AND datname = current_database() AND wait_event = 'PgSleep'"
        ).format(sql.Identifier(how))
        with psycopg.connect(sym_url, autocommit=True) as connection:

            def one_ended() -> bool:
                ended.extend(done for (done,) in connection.execute(statement))
                return bool(ended)

            eventually(one_ended)

    ender = threading.Thread(target=end)
    ender.start()
    try:
        assert "broke off" in refused(sym_url, organization, SourceBrokeOff)
    finally:
        ender.join()
    assert ended == [True]


def test_a_statement_that_takes_too_long_is_no_empty_read(
    sym_url: str, sym: SymRows, in_sql: Spoil, monkeypatch: pytest.MonkeyPatch
) -> None:
    organization = fill(sym)
    in_sql("u.name::text", "concat(u.name, pg_sleep(60))")
    monkeypatch.setattr(database, "STATEMENT_TIMEOUT_SECONDS", 0.2)
    assert refused(sym_url, organization, SourceBrokeOff) == (
        "the read of Sym's database broke off (QueryCanceled 57014)"
    )


# Gone, changed, or not there.


def test_no_such_organization_is_not_an_empty_one(sym_url: str, sym: SymRows) -> None:
    fill(sym)
    missing = str(uuid.uuid4())
    assert missing in refused(sym_url, missing, OrganizationGone)


def test_a_deleted_organization_is_gone_with_all_its_users(sym_url: str, sym: SymRows) -> None:
    organization = fill(sym)
    sym.execute("UPDATE organizations SET deleted_at = now()")
    assert "deleted" in refused(sym_url, organization, OrganizationGone)


def test_a_deleted_organization_without_users_is_gone(sym_url: str, sym: SymRows) -> None:
    organization = str(sym.organization("acme", deleted_at=datetime(2999, 1, 1, tzinfo=UTC)))
    assert "deleted" in refused(sym_url, organization, OrganizationGone)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("ALTER TABLE users DROP COLUMN email", "email"),
        ("ALTER TABLE identities RENAME COLUMN mfa_factors TO factors", "mfa_factors"),
        ("ALTER TABLE identities RENAME TO logins", "identities"),
        ("ALTER TABLE users ALTER COLUMN created_at TYPE timestamp", "created_at as timestamp and not as timestamptz"),
    ],
)
def test_a_changed_database_is_named(sym_url: str, sym: SymRows, change: str, named: str) -> None:
    organization = fill(sym)
    sym.execute(change)
    message = refused(sym_url, organization, SourceChanged)
    assert named in message
    assert "users.sql" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("i.last_login_at,", ""), "returns 0 columns last_login_at"),
        (("i.last_login_at,", "i.last_login_at, NULL AS email,"), "returns 2 columns email"),
        (("u.name::text", "u.name::varchar(3)"), "returns name as varchar(3) and not as text"),
        (("i.mfa_factors::text[]", "to_jsonb(i.mfa_factors)"), "returns mfa_factors as jsonb and not as text[]"),
        (("FROM organizations AS o", "FRM organizations AS o"), "SyntaxError 42601"),
        (("u.name::text", "(u.email::integer)::text"), "InvalidTextRepresentation 22P02"),
        (("%(organization_id)s", "%(organisation_id)s"), "refuses the query (ProgrammingError)"),
    ],
)
def test_a_query_that_does_not_fit_is_named(
    sym_url: str, sym: SymRows, in_sql: Spoil, change: tuple[str, str], message: str
) -> None:
    organization = fill(sym)
    in_sql(*change)
    said = refused(sym_url, organization, SourceChanged)
    assert message in said
    assert "users.sql" in said


def test_a_missing_permission_is_named(sym_url: str, sym: SymRows) -> None:
    organization = fill(sym)
    role = f"reader_{uuid.uuid4().hex}"
    sym.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'pw'")
    try:
        sym.execute(f"GRANT SELECT ON organizations, identities TO {role}")
        message = refused(make_conninfo(sym_url, user=role, password="pw"), organization, SourceChanged)
        assert "permission denied for table users" in message
        sym.execute(f"GRANT SELECT ON users TO {role}")
        assert read_users(make_conninfo(sym_url, user=role, password="pw"), organization).users == 5
    finally:
        sym.execute(f"DROP OWNED BY {role}")
        sym.execute(f"DROP ROLE {role}")


def test_a_time_out_of_range_is_named_with_its_users(sym_url: str, sym: SymRows) -> None:
    organization = fill(sym)
    user = sym.user(uuid.UUID(organization))
    for column in ("created_at", "deactivated_at"):
        for moment in ("infinity", "-infinity", "10000-01-01", "0044-03-15 BC"):
            sym.execute(f"UPDATE users SET {column} = %s WHERE id = %s", moment, user)
            message = refused(sym_url, organization, SourceChanged)
            assert f"({column}) broken by 1: {user}" in message
        sym.execute(f"UPDATE users SET {column} = now()")


def test_an_organization_id_of_another_kind_is_refused(sym_url: str, sym: SymRows) -> None:
    fill(sym)
    assert "InvalidTextRepresentation" in refused(sym_url, "acme", SourceChanged)


def test_text_that_is_not_utf8_is_refused(postgres: EmbeddedPostgres) -> None:
    name = f"sym_ascii_{uuid.uuid4().hex[:12]}"
    organization = str(uuid.uuid4())
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as admin:
        create = "CREATE DATABASE {} ENCODING 'SQL_ASCII' LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0"
        admin.execute(sql.SQL(create).format(sql.Identifier(name)))
    try:
        demo_customers.create_schema(postgres.url(name))
        with psycopg.connect(postgres.url(name), client_encoding="sql_ascii") as connection:
            connection.execute(
                "INSERT INTO organizations (id, slug, name, created_at) VALUES (%s, 'acme', 'Acme', now())",
                [organization],
            )
            connection.execute(
                "INSERT INTO users (id, organization_id, type, name, created_at)"
                " SELECT gen_random_uuid(), id, 'member', E'Canary Person \\xff', now() FROM organizations"
            )
        assert "refuses the query" in refused(postgres.url(name), organization, SourceChanged)
    finally:
        postgres.drop(name)


@pytest.mark.parametrize(
    "change",
    [{"password": "wrong-canary"}, {"user": "nobody"}, {"dbname": "nothing"}, {"port": "1"}],
)
def test_a_database_that_does_not_let_in_is_unavailable(sym_url: str, sym: SymRows, change: dict[str, str]) -> None:
    organization = fill(sym)
    message = refused(make_conninfo(sym_url, **change), organization, SourceUnavailable)
    assert message.startswith("cannot connect to Sym's database")
    assert not [value for value in change.values() if len(value) > 1 and value in message]


def test_a_database_that_does_not_answer_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "CONNECT_TIMEOUT_SECONDS", 2)  # libpq's least
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://user:canary-password@127.0.0.1:{silent.getsockname()[1]}/sym"
        assert "ConnectionTimeout" in refused(url, str(uuid.uuid4()), SourceUnavailable)


@pytest.mark.parametrize("url", ["postgresqll://u:canary@host/db", "host=h canary", "postgresql://u:canary@h:port/db"])
def test_what_is_no_url_is_said_so_and_not_shown(url: str) -> None:
    for read in (lambda: read_users(url, str(uuid.uuid4())), lambda: organizations(url)):
        with pytest.raises(SourceUnavailable) as caught:
            read()
        assert "canary" not in "".join(traceback.format_exception(caught.value))
        assert caught.value.__context__ is None


# Organizations.


def test_organizations_are_listed_by_slug_without_the_deleted(sym_url: str, sym: SymRows) -> None:
    second, first = sym.organization("zeta", name="Z\u00eata"), sym.organization("alpha", name="Alpha Inc.")
    sym.organization("gone", deleted_at=datetime(2026, 1, 1, tzinfo=UTC))
    assert organizations(sym_url) == [
        Organization(str(first), "alpha", "Alpha Inc."),
        Organization(str(second), "zeta", "Z\u00eata"),
    ]


def test_an_organization_is_found_by_its_slug(sym_url: str, sym: SymRows) -> None:
    sym.organization("gone", deleted_at=datetime(2026, 1, 1, tzinfo=UTC))
    acme = sym.organization("acme")
    assert find_organization(sym_url, "acme") == Organization(str(acme), "acme", "Acme")
    assert [find_organization(sym_url, slug) for slug in ("gone", "ACME", "", "' OR true --")] == [None] * 4


def test_an_organization_is_found_by_its_id_under_todays_slug(sym_url: str, sym: SymRows) -> None:
    gone = sym.organization("gone", deleted_at=datetime(2026, 1, 1, tzinfo=UTC))
    first = sym.organization("acme")
    sym.execute("UPDATE organizations SET slug = 'acme-old', name = 'Old Acme' WHERE id = %s", first)
    second = sym.organization("acme")
    assert organization_of(sym_url, first) == Organization(str(first), "acme-old", "Old Acme")
    assert organization_of(sym_url, str(second)) == Organization(str(second), "acme", "Acme")
    assert [organization_of(sym_url, missing) for missing in (gone, uuid.uuid4())] == [None, None]


@pytest.mark.parametrize(
    "slug", ["a\0b", "\0", "\ud800", "x" * 5_000_000], ids=["nul", "only nul", "surrogate", "long"]
)
def test_a_slug_that_no_database_could_hold_is_nobodys(sym_url: str, sym: SymRows, slug: str) -> None:
    sym.organization("acme")
    assert find_organization(sym_url, slug) is None


def test_organizations_of_a_changed_database_are_not_none(sym_url: str, sym: SymRows) -> None:
    acme = sym.organization("acme")
    for change, named in (
        ("ALTER COLUMN name TYPE varchar(10)", None),
        ("RENAME COLUMN slug TO handle", r"o\.slug"),
    ):
        sym.execute(f"ALTER TABLE organizations {change}")
        for read in (
            lambda: find_organization(sym_url, "acme"),
            lambda: organizations(sym_url),
            lambda: organization_of(sym_url, acme),
        ):
            if named is None:
                assert read()
            else:
                with pytest.raises(SourceChanged, match=rf"{named}.*organizations\.sql"):
                    read()


def test_an_organization_without_a_name_is_told(sym_url: str, sym: SymRows) -> None:
    sym.execute("ALTER TABLE organizations ALTER COLUMN name DROP NOT NULL")
    sym.organization("acme", name=None)
    with pytest.raises(SourceChanged, match=r"organizations\.sql returns rows without name: adapt"):
        find_organization(sym_url, "acme")
