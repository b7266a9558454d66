"""Reading the users of one organization, and which organizations there are: never half.

Belongs here: these reads, and the frame that comes out. Does not belong here: the connection and its errors
(`database`), which columns there are (`users.sql`, `contract`), or what they mean.

Every read either returns everybody or raises.
"""

from dataclasses import dataclass, field
from datetime import datetime
from importlib.resources import files
from typing import Any, Final
from uuid import UUID

import pandas as pd
from psycopg.types.string import TextLoader

from symvanta_pipeline.rules import Violation
from symvanta_pipeline.sym.contract import DTYPES, TIMESTAMPS
from symvanta_pipeline.sym.database import (
    SourceBrokeOff,
    SourceChanged,
    SourceError,
    SourceStale,
    SourceUnavailable,
    begin,
    check_columns,
    connect,
    fetch,
    guarded,
    is_storable,
)

__all__ = [
    "Organization",
    "OrganizationGone",
    "SourceBrokeOff",
    "SourceChanged",
    "SourceError",
    "SourceStale",
    "SourceUnavailable",
    "UsersSnapshot",
    "find_organization",
    "organization_of",
    "organizations",
    "read_users",
]

USERS: Final = "users.sql"
USERS_SQL: Final = files(__package__).joinpath(USERS).read_bytes()
ORGANIZATIONS: Final = "organizations.sql"
ORGANIZATIONS_SQL: Final = files(__package__).joinpath(ORGANIZATIONS).read_bytes()

ROWS_PER_FETCH: Final = 2_000

_TYPE_BY_DTYPE: Final = {"str": "text", "datetime64[us, UTC]": "timestamptz", "object": "text[]"}
# Name and PostgreSQL type of every column that users.sql has to return.
RESULT_TYPES: Final = {name: _TYPE_BY_DTYPE[dtype] for name, dtype in DTYPES.items()} | {
    "organization_deleted_at": "timestamptz"
}
_ORGANIZATION_TYPES: Final = {"id": "text", "slug": "text", "name": "text"}


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
        read_at: aware, in UTC, by the clock of Sym's primary: every change that was committed before it is in the
            snapshot. When the transaction began; on a standby some minutes earlier, perhaps, never later; see
            `symvanta_pipeline.sym.database.begin`.
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
        SourceUnavailable: no connection.
        SourceBrokeOff: it was lost, or a statement took over
            `symvanta_pipeline.sym.database.STATEMENT_TIMEOUT_SECONDS`.
        SourceStale: Sym's database is a standby whose data is too old, or may be.
        SourceChanged: a table, a column or a permission is missing, a column has another type, or a time is not one
            between the years 1 and 9999.
        OrganizationGone: there is no such organization, or it is deleted.
    """
    read_at, names, rows = guarded(lambda: _rows(database_url, organization_id), USERS)
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
        SourceUnavailable, SourceStale: as in `read_users`.
        SourceChanged: as in `read_users`; the query is ``organizations.sql``.
    """
    return _organizations(database_url)


def find_organization(database_url: str, slug: str) -> Organization | None:
    """Return the organization that has this slug today and is not deleted, if there is one.

    Raises:
        SourceUnavailable, SourceStale: as in `read_users`.
        SourceChanged: as in `read_users`; the query is ``organizations.sql``.
    """
    return next(iter(_organizations(database_url, slug=slug)), None) if is_storable(slug) else None


def organization_of(database_url: str, organization_id: UUID | str) -> Organization | None:
    """Return the organization with this id as it is called today, if it exists and is not deleted.

    Raises:
        SourceUnavailable, SourceStale: as in `read_users`.
        SourceChanged: as in `read_users`; the query is ``organizations.sql``.
    """
    return next(iter(_organizations(database_url, organization_id=str(organization_id))), None)


def _rows(database_url: str, organization_id: str) -> tuple[datetime, list[str], list[tuple[Any, ...]]]:
    """Return the time of the snapshot, the names of the columns and all rows, times as text."""
    with connect(database_url) as connection:
        read_at = begin(connection)
        with connection.cursor(name="sym_users") as cursor:
            # As text, a time that Python's datetime cannot hold is found by column and user; see _moments.
            cursor.adapters.register_loader("timestamptz", TextLoader)
            cursor.execute(USERS_SQL, {"organization_id": organization_id})
            columns = cursor.description or []
            check_columns(columns, RESULT_TYPES, USERS)
            rows: list[tuple[Any, ...]] = []
            while fetched := cursor.fetchmany(ROWS_PER_FETCH):
                rows += fetched
    return read_at, [column.name for column in columns], rows


def _organizations(
    database_url: str, *, slug: str | None = None, organization_id: str | None = None
) -> list[Organization]:
    """List those that are not deleted, or the one that is asked for."""
    rows = fetch(
        database_url,
        ORGANIZATIONS_SQL,
        {"slug": slug, "organization_id": organization_id},
        types=_ORGANIZATION_TYPES,
        file=ORGANIZATIONS,
    )
    return [Organization(row["id"], row["slug"], row["name"]) for row in rows]


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
