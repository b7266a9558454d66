"""Finds secrets and people where they have no business: planted values, and every place that is searched for them.

Belongs here: the forms that a value can take, the places, saying where one was found, and the watch over a test. Does
not belong here: what is done while it is watched.

A canary is a value that is planted on purpose: the stand-in's marker (in every token and code that it issues), our own
client secret, names and e-mail addresses in Sym's rows.
"""

import base64
import json
import logging
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, quote_plus

import psycopg
import pytest
from psycopg import sql

from symvanta_pipeline.sync import CustomerResult, CustomerSync, Failure
from symvanta_pipeline.vanta.oauth import QUIET_LOGGERS
from tests.support.parts import KEYS, Parts

# The vault's ciphertexts are the one place in our tables where a token belongs.
VAULT = frozenset({("tokens", "access_token"), ("tokens", "refresh_token")})


@dataclass(frozen=True)
class Place:
    """Something that is searched.

    Attributes:
        where: how a person finds it again.
        content: all of it.
    """

    where: str
    content: str | bytes


class Canaries:
    """Planted values, by what they are."""

    def __init__(self, values: Mapping[str, Iterable[str]]) -> None:
        """Take the values of each kind, such as ``{"token": [...], "e-mail": [...]}``."""
        forms = {
            form: (kind, name)
            for kind, planted in values.items()
            for value in planted
            for name, of_value in _forms(value).items()
            for form in of_value
        }
        # Base64 means another value in another case; everything else is looked for in any case.
        self._patterns = {
            name: re.compile(b"|".join(map(re.escape, found)), 0 if name == "base64" else re.IGNORECASE)
            for name in _FORMS
            if (found := sorted((form for form, (_, of) in forms.items() if of == name), key=len, reverse=True))
        }
        self._kinds = {form.lower(): kind for form, (kind, _) in forms.items()}
        if not self._patterns:
            raise ValueError("nothing was planted, so that nothing could be found")

    def in_content(self, content: str | bytes) -> Iterator[tuple[str, str, int]]:
        """Yield kind, form and byte offset of whatever is found."""
        searched = content if isinstance(content, bytes) else content.encode(errors="backslashreplace")
        for name, pattern in self._patterns.items():
            for found in pattern.finditer(searched):
                yield self._kinds[found[0].lower()], name, found.start()

    def removed_from(self, text: str) -> str:
        """Return the text with every canary replaced, so that a report of a leak is no leak."""
        searched = text.encode(errors="backslashreplace")
        for pattern in self._patterns.values():
            searched = pattern.sub(lambda found: f"<{self._kinds[found[0].lower()]}>".encode(), searched)
        return searched.decode()


_FORMS = ("plain", "JSON-escaped", "percent-encoded", "bytes-escaped", "base64", "hex")


def _forms(value: str) -> dict[str, set[bytes]]:
    raw = value.encode()
    forms = {
        "plain": {raw},
        "JSON-escaped": {json.dumps(value)[1:-1].encode()},
        "percent-encoded": {quote(value, safe="").encode(), quote_plus(value).encode()},
        "bytes-escaped": {repr(raw)[2:-1].encode()},
        "base64": {_in_base64(raw, offset, altchars) for offset in range(3) for altchars in (b"+/", b"-_")},
        "hex": {raw.hex().encode()},
    }
    return {name: found - (forms["plain"] if name != "plain" else set()) for name, found in forms.items()}


def _in_base64(raw: bytes, offset: int, altchars: bytes) -> bytes:
    """Return the characters that stand for a value at that offset whatever comes before and after it."""
    first = -(-offset * 8 // 6)
    end = (offset + len(raw)) * 8 // 6
    return base64.b64encode(b"\0" * offset + raw, altchars=altchars)[first:end]


def find_leaks(canaries: Canaries, places: Iterable[Place]) -> list[str]:
    """Say where a canary was found, a line for each place, kind and form; the line itself holds none."""
    leaks: dict[str, None] = {}
    for place in places:
        told = set[tuple[str, str]]()
        for kind, form, offset in canaries.in_content(place.content):
            if (kind, form) not in told:
                told.add((kind, form))
                leaks[canaries.removed_from(f"{kind} ({form}) in {place.where}, at byte {offset}")] = None
    return list(leaks)


# Places.


def text(where: str, *texts: str) -> Iterator[Place]:
    """Give any text."""
    for each in texts:
        yield Place(where, each)


def files(folder: Path, *, apart_from: Sequence[Path] = ()) -> Iterator[Place]:
    """Give every file below a folder, name and content, apart from those in folders where the data belongs."""
    for path in sorted(folder.rglob("*")):
        if any(path.is_relative_to(other) for other in apart_from):
            continue
        yield Place("the name of a file", str(path))
        if path.is_file() and not path.is_symlink():
            yield Place(f"file {path}", path.read_bytes())


def tables(url: str, *, apart_from: frozenset[tuple[str, str]] = VAULT) -> Iterator[Place]:
    """Give every value of every row of every table of a database, bytes as they are.

    Args:
        url: as psycopg or SQLAlchemy takes it.
        apart_from: table and column.
    """
    with psycopg.connect(re.sub(r"\+\w+://", "://", url)) as connection:
        columns = connection.execute(
            """
            SELECT table_schema, table_name, column_name
            FROM information_schema.columns JOIN information_schema.tables USING (table_schema, table_name)
            WHERE table_type = 'BASE TABLE' AND table_schema NOT IN ('pg_catalog', 'information_schema')
            ORDER BY table_schema, table_name, ordinal_position
            """
        ).fetchall()
        for schema, table, column in columns:
            if (table, column) in apart_from:
                continue
            query = sql.SQL("SELECT ctid::text, {} FROM {}").format(
                sql.Identifier(column), sql.Identifier(schema, table)
            )
            for row_id, value in connection.execute(query):
                content = value if isinstance(value, bytes) else str(value)
                yield Place(f"table {table}, column {column}, row {row_id}", content)


def exceptions(errors: Iterable[BaseException]) -> Iterator[Place]:
    """Give what each error says, and what each of those that led to it says, also where a traceback would hide it."""
    seen = set[int]()
    waiting = list(errors)
    while waiting:
        error = waiting.pop()
        if id(error) in seen:
            continue
        seen.add(id(error))
        waiting += [other for other in (error.__cause__, error.__context__) if other]
        if isinstance(error, BaseExceptionGroup):
            waiting += error.exceptions
        formatted = "".join(traceback.format_exception(error, chain=False))
        yield Place(f"exception {type(error).__name__}", f"{error} {error!r} {error.args!r} {formatted}")


class Records(logging.Handler):
    """Keeps what was logged, ready to be searched."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self._kept: list[Place] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record as it would be shown, and everything it carries."""
        where = f"logger {record.name}, level {record.levelname}, message {record.msg!r}"
        self._kept.append(Place(where, f"{self.format(record)} {record.__dict__!r}"))

    def places(self) -> Iterator[Place]:
        """Give all that was logged."""
        yield from list(self._kept)

    def loggers(self) -> set[str]:
        """Tell who said something."""
        return {place.where.split(", ")[0].removeprefix("logger ") for place in self._kept}


@contextmanager
def everything_logged() -> Iterator[Records]:
    """Set every logger to DEBUG, but for those that the code itself keeps quiet, and keep what all of them say."""
    records = Records()
    with at_debug(records):
        yield records


def at_debug(handler: logging.Handler) -> ExitStack:
    """Do the same with a handler of any kind, until the stack that is returned is closed."""
    undo = ExitStack()
    root = logging.getLogger()
    named = [found for found in logging.Logger.manager.loggerDict.values() if isinstance(found, logging.Logger)]
    for logger in (root, *named):
        if not _kept_quiet(logger):
            undo.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.DEBUG)
        if logger is root or not logger.propagate:
            undo.callback(logger.removeHandler, handler)
            logger.addHandler(handler)
    return undo


def _kept_quiet(logger: logging.Logger) -> bool:
    return any(logger.name == quiet or logger.name.startswith(f"{quiet}.") for quiet in QUIET_LOGGERS)


# The watch over a test.


def canaries_of(parts: Parts, more: Mapping[str, Iterable[str]] | None = None) -> Canaries:
    """Return everything that was planted: what is in Sym by now, what the stand-in marks, our own secrets, and more."""
    people = parts.sym.connection.execute("SELECT name, email FROM users").fetchall()
    return Canaries(
        {
            "token or code": [parts.vanta.config.secret_marker],
            "client secret": [parts.vanta.config.client_secret.get_secret_value()],
            "key": [KEYS.partition(":")[2]],
            "name": {name for name, _ in people if name},
            "e-mail": {email for _, email in people if email},
            **(more or {}),
        }
    )


@contextmanager
def watched(
    parts: Parts, output: pytest.CaptureFixture[str], canaries: Callable[[Parts], Canaries] = canaries_of
) -> Iterator[None]:
    """Log everything while the block runs, then search everything that it left behind.

    Raises:
        AssertionError: a canary was found; names where.
    """
    errors: list[BaseException] = []
    results: list[str] = []
    judged, told = CustomerSync._failure_of, CustomerSync.results

    def keep_error(self: CustomerSync, error: Exception, result: CustomerResult) -> Failure:
        errors.append(error)
        return judged(self, error, result)

    def keep_results(self: CustomerSync, customers: Iterable[str]) -> Iterator[CustomerResult]:
        for result in told(self, customers):
            results.append(repr(result))
            yield result

    with pytest.MonkeyPatch.context() as patch, everything_logged() as records:
        # What befalls a customer shows as a sentence alone; what led to it must hold nothing either.
        patch.setattr(CustomerSync, "_failure_of", keep_error)
        patch.setattr(CustomerSync, "results", keep_results)
        yield
    printed, complained = output.readouterr()
    found = find_leaks(
        canaries(parts),
        [
            *records.places(),
            *exceptions(errors),
            *text("the result of a customer", *results),
            *text("standard output", printed),
            *text("standard error", complained),
            *files(parts.folder, apart_from=[parts.folder / "data"]),
            *tables(parts.ledger_url),
        ],
    )
    assert not found, "\n".join(["a secret or a person was found:", *found])
