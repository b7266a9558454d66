"""One read of Sym's database: its connection, its one transaction, and what can go wrong with it.

Belongs here: connecting, read-only and repeatable-read; time limits; how old a standby's data may be; the check of a
result's columns; errors in words that are safe to log. Does not belong here: any query of Sym's tables (see the modules
beside this one and their SQL files).

An error's text names tables and columns, never a value, an address of a person or the database's URL; the driver's own
error is not chained to it, since that one may carry all of them.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

import psycopg
from psycopg.rows import class_row

from symvanta_pipeline.accounts import brakes

CONNECT_TIMEOUT_SECONDS: Final = 10
STATEMENT_TIMEOUT_SECONDS: Final = 60
# For a moment after it reconnects, a standby hears from its primary and has not heard of what it missed.
STANDBY_SECOND_LOOK_SECONDS: Final = 0.5
# Longer than any slug or subject that exists: OpenID Connect Core 1.0 allows a subject 255 characters.
LONGEST_TEXT: Final = 1_000

_T = TypeVar("_T")


class SourceError(Exception):
    """Sym's database did not give what was asked for; the text is safe to show."""


class SourceUnavailable(SourceError):
    """Sym's database could not be reached. Nothing is known then; try again."""


class SourceBrokeOff(SourceUnavailable):
    """A read began and did not finish: what came of it by then is not everybody, and is thrown away."""


class SourceChanged(SourceError):
    """Sym's database does not answer as the SQL file says. Trying again does not help; a person has to look."""


class SourceStale(SourceError):
    """Sym's database is a standby whose data is too old, or may be. A person has to look, unless it catches up."""


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
    """Open the transaction, with settings that last as long as it does.

    Returns:
        A moment in UTC: every change that was committed before it is seen. On a primary, when the transaction began.
        On a standby the moment is proven and may be minutes too early, never too late, and never goes back on one
        standby. So an older state shows as older wherever it was read, at the price of a push that a repeated run need
        not have made.

    Raises:
        SourceStale: this is a standby that is, or may be, too far behind, or that has seen nothing committed for too
            long: see `symvanta_pipeline.accounts.brakes.Limits`.
    """
    began, is_standby = _open(connection)
    if not is_standby:
        return began
    complete_until = _complete_until(connection)
    # The snapshot so far is older than the proof, so take another; chained, since a pooler then keeps to this server.
    connection.execute("COMMIT AND CHAIN")
    _open(connection)
    return complete_until


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
        SourceUnavailable: no connection. SourceBrokeOff: it was lost, or the statement took over
            `STATEMENT_TIMEOUT_SECONDS`.
        SourceStale: as in `begin`.
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


def _open(connection: "psycopg.Connection[tuple[Any, ...]]") -> tuple[datetime, bool]:
    """Open the transaction, or go on with a chained one; return when it began, and whether this is a standby."""
    # In the transaction, not in the connection's options: a pooler in between passes this on.
    (began, is_standby, *_) = connection.execute(
        "SELECT now(), pg_is_in_recovery(), set_config('statement_timeout', %s, true),"
        " set_config('TimeZone', 'UTC', true), set_config('DateStyle', 'ISO', true)",
        [f"{STATEMENT_TIMEOUT_SECONDS}s"],
    ).fetchall()[0]
    return began.astimezone(UTC), is_standby


@dataclass(frozen=True)
class _Standby:
    """What a standby knows of itself. The two proofs are by the clocks of the servers before it.

    Attributes:
        now: by its own clock.
        started: when it was.
        committed: when the last commit that it replayed was made: all earlier ones are here. Grows old on an idle
            primary, although nothing is missed. None if there was none since the start.
        heard: when the primary last sent a message, if all that its log held by then is replayed: the data was complete
            at that time. None if that is not so, not known, or there is no connection.
        is_hidden: whether a connection is there that the role may see nothing of.
    """

    now: datetime
    started: datetime
    committed: datetime | None
    heard: datetime | None
    is_hidden: bool

    @property
    def complete_until(self) -> datetime | None:
        """The proof that is young enough; a commit first, so that the moment never goes back."""
        return next((m for m in (self.committed, self.heard) if m and brakes.is_recent(self.now - m)), None)

    @property
    def quiet_for(self) -> timedelta:
        """How long nothing was committed, as far back as it knows."""
        return self.now - (self.committed or self.started)


# latest_end_lsn is where the primary's log ended when it sent its last message. A receiver that has just started shows
# its own start as both times, beside the end from before (walreceiver.c). Without pg_read_all_stats only pid is shown.
_STANDBY_SQL: Final = """
SELECT clock_timestamp() AS now, pg_postmaster_start_time() AS started,
       pg_last_xact_replay_timestamp() AS committed,
       (SELECT last_msg_send_time FROM pg_stat_wal_receiver
        WHERE status = 'streaming' AND last_msg_send_time <> last_msg_receipt_time
          AND latest_end_lsn <= pg_last_wal_replay_lsn()) AS heard,
       EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status IS NULL) AS is_hidden
"""


def _complete_until(connection: "psycopg.Connection[tuple[Any, ...]]") -> datetime:
    """Return the moment up to which a standby certainly holds all that was committed, in UTC.

    Raises:
        SourceStale: as in `begin`.
    """
    standby = _look(connection)
    if standby and standby.complete_until != standby.committed:
        time.sleep(STANDBY_SECOND_LOOK_SECONDS)
        standby = _look(connection)
    if standby is None:
        raise SourceStale(f"{_CANNOT_TELL}: {_USE_THE_PRIMARY}")
    if standby.complete_until is None:
        raise SourceStale(_behind(standby))
    if brakes.is_too_quiet(standby.quiet_for):
        raise SourceStale(
            f"Sym's database is a standby that has seen nothing committed for {_whole_seconds(standby.quiet_for)}: "
            f"see that it follows the server that Sym works with, or {_USE_THE_PRIMARY}"
        )
    return min(standby.complete_until, standby.now).astimezone(UTC)


def _look(connection: "psycopg.Connection[tuple[Any, ...]]") -> _Standby | None:
    """Ask a standby; None where it has no such functions or lets nobody use them, as Aurora's readers."""
    with connection.cursor(row_factory=class_row(_Standby)) as cursor:
        try:
            return cursor.execute(_STANDBY_SQL).fetchone()
        except (psycopg.ProgrammingError, psycopg.NotSupportedError):
            return None


_CANNOT_TELL: Final = "Sym's database is a standby that does not tell how old its data is"
_USE_THE_PRIMARY: Final = "point SYM_DATABASE_URL at the primary"


def _behind(standby: _Standby) -> str:
    """Say by how much a standby may be behind, and what to do."""
    ages = [standby.now - proof for proof in (standby.committed, standby.heard) if proof]
    told = f"Sym's database is a standby whose data may be {_whole_seconds(min(ages))} old" if ages else _CANNOT_TELL
    hint = "; if its primary is merely idle, the role needs pg_read_all_stats to see so" if standby.is_hidden else ""
    return f"{told}: see that it is connected and replays, or {_USE_THE_PRIMARY}{hint}"


def _whole_seconds(length: timedelta) -> timedelta:
    """Drop the fraction; prints as ``[d days, ]h:mm:ss``."""
    return timedelta(seconds=int(length.total_seconds()))


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


def _explained(error: psycopg.Error, where_to_look: str) -> SourceBrokeOff | SourceChanged:
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
            return SourceBrokeOff(f"the read of Sym's database broke off ({_kind(error)})")


def _kind(error: psycopg.Error) -> str:
    """Name the error without its text: class and, where the server gave one, its code."""
    return f"{type(error).__name__} {error.sqlstate or ''}".strip()
