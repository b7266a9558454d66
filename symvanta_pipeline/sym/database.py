"""One read of Sym's database: its connection, its one transaction, and what can go wrong with it.

Belongs here: connecting, read-only and repeatable-read; time limits; the check of a result's columns; errors in words
that are safe to log. Does not belong here: any query (see the modules beside this one and their SQL files).

An error's text names tables and columns, never a value, an address of a person or the database's URL; the driver's own
error is not chained to it, since that one may carry all of them.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import psycopg

CONNECT_TIMEOUT_SECONDS: Final = 10
STATEMENT_TIMEOUT_SECONDS: Final = 60
# Longer than any slug or subject that exists: OpenID Connect Core 1.0 allows a subject 255 characters.
LONGEST_TEXT: Final = 1_000

_T = TypeVar("_T")


class SourceError(Exception):
    """Sym's database did not give what was asked for; the text is safe to show."""


class SourceUnavailable(SourceError):
    """Sym's database could not be reached, or a read broke off. Nothing is known then; try again."""


class SourceChanged(SourceError):
    """Sym's database does not answer as the SQL file says. Trying again does not help; a person has to look."""


def connect(database_url: str) -> "psycopg.Connection[tuple[Any, ...]]":
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


def begin(connection: "psycopg.Connection[tuple[Any, ...]]") -> datetime:
    """Open the transaction, with settings that last as long as it does; return when it began."""
    # In the transaction, not in the connection's options: a pooler in between passes this on.
    (began, *_) = connection.execute(
        "SELECT now(), set_config('statement_timeout', %s, true), set_config('TimeZone', 'UTC', true),"
        " set_config('DateStyle', 'ISO', true)",
        [f"{STATEMENT_TIMEOUT_SECONDS}s"],
    ).fetchall()[0]
    return began.astimezone(UTC)  # type: ignore[no-any-return] # a row's types are not known to psycopg


def check_columns(columns: Sequence[psycopg.Column], types: Mapping[str, str], file: str) -> None:
    """Refuse a result that lacks a column, has it twice or with another type.

    Args:
        columns: what a query returned.
        types: name and PostgreSQL type of every column that it has to return.
        file: where the query stands.

    Raises:
        SourceChanged: names the first that does not fit.
    """
    for name, type_name in types.items():
        found = [column for column in columns if column.name == name]
        if len(found) != 1:
            raise SourceChanged(f"{file} returns {len(found)} columns {name}: {where_to_look(file)}")
        if found[0].type_code != _oid(type_name):
            raise SourceChanged(
                f"{file} returns {name} as {found[0].type_display} and not as {type_name}: {where_to_look(file)}"
            )


def fetch(
    database_url: str, query: bytes, parameters: Mapping[str, object], *, types: Mapping[str, str], file: str
) -> list[dict[str, Any]]:
    """Read a few rows in one transaction, and close the connection.

    Args:
        database_url: Sym's PostgreSQL, as a libpq URL.
        query: what ``file`` says.
        parameters: of the query.
        types: as in `check_columns`; none of these columns may be NULL.
        file: where the query stands.

    Raises:
        SourceUnavailable: no connection, or it was lost, or the statement took over `STATEMENT_TIMEOUT_SECONDS`.
        SourceChanged: a table, a column or a permission is missing, or the result is not as it has to be.
    """
    rows = guarded(lambda: _rows(database_url, query, parameters, types, file), file)
    if missing := sorted({name for row in rows for name in types if row[name] is None}):
        raise SourceChanged(f"{file} returns rows without {', '.join(missing)}: {where_to_look(file)}")
    return rows


def is_storable(text: str) -> bool:
    """Whether a text from outside could stand in a column at all: there, not absurdly long, no NUL, real Unicode."""
    return 0 < len(text) <= LONGEST_TEXT and "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text)


def where_to_look(file: str) -> str:
    """Tell a person which file to change."""
    return f"adapt symvanta_pipeline/sym/{file}"


def guarded(read: Callable[[], _T], file: str) -> _T:
    """Run a read, and turn the driver's error into one that is safe to log.

    Args:
        read: makes its own connection.
        file: where its query stands.
    """
    try:
        return read()
    except psycopg.Error as error:
        failure = _explained(error, where_to_look(file))
    # Outside of the handler, so that Python does not chain the driver's error.
    raise failure


def _rows(
    database_url: str, query: bytes, parameters: Mapping[str, object], types: Mapping[str, str], file: str
) -> list[dict[str, Any]]:
    with connect(database_url) as connection:
        begin(connection)
        cursor = connection.execute(query, parameters)
        columns = cursor.description or []
        check_columns(columns, types, file)
        return [dict(zip([column.name for column in columns], row, strict=True)) for row in cursor]


def _oid(type_name: str) -> int:
    """Return PostgreSQL's number of a type or of an array of it."""
    info = psycopg.adapters.types[type_name.removesuffix("[]")]
    return info.array_oid if type_name.endswith("[]") else info.oid


def _explained(error: psycopg.Error, where_to_look: str) -> SourceUnavailable | SourceChanged:
    """Tell a database that answers otherwise from one that does not answer."""
    match error:
        case psycopg.errors.ReadOnlySqlTransaction():
            return SourceChanged(f"the query tries to write to Sym's database, which is refused: {where_to_look}")
        case (
            psycopg.errors.UndefinedTable() | psycopg.errors.UndefinedColumn() | psycopg.errors.InsufficientPrivilege()
        ):
            # These messages hold the names of tables and columns, nothing of a row.
            return SourceChanged(f"Sym's database says: {error.diag.message_primary}; grant it, or {where_to_look}")
        case psycopg.ProgrammingError() | psycopg.DataError() | psycopg.NotSupportedError() | psycopg.IntegrityError():
            return SourceChanged(f"Sym's database refuses the query ({_kind(error)}): {where_to_look}")
        case _:
            return SourceUnavailable(f"the read of Sym's database broke off ({_kind(error)})")


def _kind(error: psycopg.Error) -> str:
    """Name the error without its text: class and, where the server gave one, its code."""
    return f"{type(error).__name__} {error.sqlstate or ''}".strip()
