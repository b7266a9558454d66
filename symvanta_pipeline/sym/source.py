"""Reading Sym's database: one organization at a time, never writing, never half.

Belongs here: the connection, the one transaction of a read, and what can go wrong with it in words that are safe to
log. Does not belong here: which columns there are (`users.sql`, `contract`), or what they mean.

Every read either returns everybody or raises. An error's text names tables and columns, never a value, an address of
a person or the database's URL; the driver's own error is not chained to it, since that one may carry all of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any, Final, TypeVar

import pandas as pd
import psycopg
from psycopg.types.string import TextLoader

from symvanta_pipeline.rules import Violation
from symvanta_pipeline.sym.contract import DTYPES, TIMESTAMPS

USERS_SQL: Final = files(__package__).joinpath("users.sql").read_bytes()
ORGANIZATIONS_SQL: Final = files(__package__).joinpath("organizations.sql").read_bytes()
WHERE_TO_LOOK: Final = "adapt symvanta_pipeline/sym/users.sql"

CONNECT_TIMEOUT_SECONDS: Final = 10
STATEMENT_TIMEOUT_SECONDS: Final = 60
ROWS_PER_FETCH: Final = 2_000

_TYPE_BY_DTYPE: Final = {"str": "text", "datetime64[us, UTC]": "timestamptz", "object": "text[]"}
# Name and PostgreSQL type of every column that users.sql has to return.
RESULT_TYPES: Final = {name: _TYPE_BY_DTYPE[dtype] for name, dtype in DTYPES.items()} | {
    "organization_deleted_at": "timestamptz"
}
_T = TypeVar("_T")


class SourceError(Exception):
    """Sym's database did not give what was asked for; the text is safe to show."""


class SourceUnavailable(SourceError):
    """Sym's database could not be reached, or a read broke off. Nothing is known about the users; try again."""


class SourceChanged(SourceError):
    """Sym's database does not answer as `users.sql` says. Trying again does not help; a person has to look."""


class OrganizationGone(SourceError):
    """There is no such organization, or it is deleted. That is not the same as one without users."""


@dataclass(frozen=True)
class Organization:
    """One customer of Sym's that is not deleted."""

    id: str
    slug: str
    name: str


@dataclass(frozen=True)
class UsersSnapshot:
    """All users of one organization at one moment.

    Attributes:
        organization_id: as it was asked for.
        slug: the organization's today.
        read_at: aware, in UTC: when the transaction began, by the clock of Sym's database. Every change that was
            committed before it is in the snapshot.
        frame: a row per user and identity, as `symvanta_pipeline.sym.contract.DTYPES` describes; empty for an
            organization without users, which the contract refuses as ``nobody``.
        users: how many users the frame holds.
    """

    organization_id: str
    slug: str
    read_at: datetime
    frame: pd.DataFrame = field(repr=False, compare=False)
    users: int


def read_users(database_url: str, organization_id: str) -> UsersSnapshot:
    """Read one organization's users in one read-only, repeatable-read transaction, and close the connection.

    Args:
        database_url: Sym's PostgreSQL, as a libpq URL.
        organization_id: ``organizations.id``.

    Raises:
        SourceUnavailable: no connection, or it was lost, or a statement took over `STATEMENT_TIMEOUT_SECONDS`.
        SourceChanged: a table, a column or a permission is missing, a column has another type, or a time is not one
            between the years 1 and 9999.
        OrganizationGone: there is no such organization, or it is deleted.
    """
    read_at, names, rows = _guarded(lambda: _rows(database_url, organization_id))
    raw = pd.DataFrame(rows, columns=names, dtype="object")
    if raw.empty:
        raise OrganizationGone(f"Sym's database has no organization {organization_id}")
    if raw["organization_deleted_at"].notna().any():
        raise OrganizationGone(f"the organization {organization_id} is deleted in Sym's database")
    frame = _frame(raw)
    return UsersSnapshot(
        organization_id=organization_id,
        slug=raw["slug"].iloc[0] or "",
        read_at=read_at,
        frame=frame,
        users=frame["user_id"].nunique(),
    )


def organizations(database_url: str) -> list[Organization]:
    """List every organization that is not deleted, by slug.

    Raises:
        SourceUnavailable: as in `read_users`.
        SourceChanged: as in `read_users`; the query is ``organizations.sql``.
    """
    return _guarded(lambda: _organizations(database_url, None))


def find_organization(database_url: str, slug: str) -> Organization | None:
    """Return the organization that has this slug today and is not deleted, if there is one.

    Raises:
        SourceUnavailable: as in `read_users`.
        SourceChanged: as in `read_users`; the query is ``organizations.sql``.
    """
    return next(iter(_guarded(lambda: _organizations(database_url, slug))), None)


def _rows(database_url: str, organization_id: str) -> tuple[datetime, list[str], list[tuple[Any, ...]]]:
    """Return the time of the snapshot, the names of the columns and all rows, times as text."""
    with _connect(database_url) as connection:
        read_at = _begin(connection)
        with connection.cursor(name="sym_users") as cursor:
            # As text, a time that Python's datetime cannot hold is found by column and user; see _moments.
            cursor.adapters.register_loader("timestamptz", TextLoader)
            cursor.execute(USERS_SQL, {"organization_id": organization_id})
            columns = cursor.description or []
            _check_columns(columns)
            rows: list[tuple[Any, ...]] = []
            while fetched := cursor.fetchmany(ROWS_PER_FETCH):
                rows += fetched
    return read_at, [column.name for column in columns], rows


def _organizations(database_url: str, slug: str | None) -> list[Organization]:
    with _connect(database_url) as connection:
        _begin(connection)
        rows = connection.execute(ORGANIZATIONS_SQL, {"slug": slug}).fetchall()
    return [Organization(*row) for row in rows]


def _connect(database_url: str) -> "psycopg.Connection[tuple[Any, ...]]":
    """Connect so that every transaction may only read, and a dead peer is noticed within a minute."""
    try:
        connection = psycopg.connect(
            database_url,
            application_name="symvanta-pipeline",
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            client_encoding="utf8",
            keepalives=1,
            keepalives_idle=10,
            keepalives_interval=10,
            keepalives_count=3,
            tcp_user_timeout=40_000,
        )
    except psycopg.ProgrammingError:
        failure = SourceUnavailable("SYM_DATABASE_URL is not a PostgreSQL URL")
    except psycopg.Error as error:
        failure = SourceUnavailable(f"cannot connect to Sym's database ({_kind(error)}): check SYM_DATABASE_URL")
    else:
        connection.read_only = True
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        return connection
    raise failure


def _begin(connection: "psycopg.Connection[tuple[Any, ...]]") -> datetime:
    """Open the transaction, with settings that last as long as it does; return when it began."""
    # In the transaction, not in the connection's options: a pooler in between passes this on.
    (began, *_) = connection.execute(
        "SELECT now(), set_config('statement_timeout', %s, true), set_config('TimeZone', 'UTC', true),"
        " set_config('DateStyle', 'ISO', true)",
        [f"{STATEMENT_TIMEOUT_SECONDS}s"],
    ).fetchall()[0]
    return began.astimezone(UTC)  # type: ignore[no-any-return] # a row's types are not known to psycopg


def _check_columns(columns: Sequence[psycopg.Column]) -> None:
    """Refuse a result that lacks a column, has it twice or with another type."""
    for name, type_name in RESULT_TYPES.items():
        found = [column for column in columns if column.name == name]
        if len(found) != 1:
            raise SourceChanged(f"the query for users returns {len(found)} columns {name}: {WHERE_TO_LOOK}")
        if found[0].type_code != _oid(type_name):
            raise SourceChanged(
                f"the query for users returns {name} as {found[0].type_display} and not as {type_name}: {WHERE_TO_LOOK}"
            )


def _oid(type_name: str) -> int:
    """Return PostgreSQL's number of a type or of an array of it."""
    info = psycopg.adapters.types[type_name.removesuffix("[]")]
    return info.array_oid if type_name.endswith("[]") else info.oid


def _frame(raw: pd.DataFrame) -> pd.DataFrame:
    """Give every column of the contract its dtype; an organization without users becomes an empty frame."""
    nobody = len(raw) == 1 and raw["user_id"].isna().all()
    rows = raw.iloc[:0] if nobody else raw
    times = {name: _moments(rows[name], rows["user_id"]) for name in TIMESTAMPS}
    return rows.assign(**times).astype(DTYPES)[list(DTYPES)]


def _moments(texts: "pd.Series[str]", users: "pd.Series[str]") -> "pd.Series[pd.Timestamp]":
    """Turn a column's texts into times, refusing infinity and years before 1 or after 9999."""
    moments = pd.to_datetime(texts.astype("str"), format="ISO8601", utc=True, errors="coerce")
    unreadable = moments.isna() & texts.notna()
    if unreadable.any():
        broken = Violation.of("time", str(texts.name), users[unreadable])
        raise SourceChanged(f"Sym's database holds what is not a time between the years 1 and 9999: {broken}")
    return moments


def _guarded(read: Callable[[], _T]) -> _T:
    """Run a read, and turn the driver's error into one that is safe to log."""
    try:
        return read()
    except psycopg.Error as error:
        failure = _explained(error)
    # Outside of the handler, so that Python does not chain the driver's error.
    raise failure


def _explained(error: psycopg.Error) -> SourceUnavailable | SourceChanged:
    """Tell a database that answers otherwise from one that does not answer."""
    match error:
        case psycopg.errors.ReadOnlySqlTransaction():
            return SourceChanged(f"the query tries to write to Sym's database, which is refused: {WHERE_TO_LOOK}")
        case (
            psycopg.errors.UndefinedTable() | psycopg.errors.UndefinedColumn() | psycopg.errors.InsufficientPrivilege()
        ):
            # These messages hold the names of tables and columns, nothing of a row.
            return SourceChanged(f"Sym's database says: {error.diag.message_primary}; grant it, or {WHERE_TO_LOOK}")
        case psycopg.ProgrammingError() | psycopg.DataError() | psycopg.NotSupportedError() | psycopg.IntegrityError():
            return SourceChanged(f"Sym's database refuses the query ({_kind(error)}): {WHERE_TO_LOOK}")
        case _:
            return SourceUnavailable(f"the read of Sym's database broke off ({_kind(error)})")


def _kind(error: psycopg.Error) -> str:
    """Name the error without its text: class and, where the server gave one, its code."""
    return f"{type(error).__name__} {error.sqlstate or ''}".strip()
