"""What an auditor can be handed about one customer: every push that Vanta accepted, and every change of access.

Belongs here: the form in which the ledger's history is printed, and joining names from Sym for one print. Does not
belong here: how it is kept (``ledger.history``); names, which are written down nowhere.
"""

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import psycopg

from symvanta_pipeline.ledger import history
from symvanta_pipeline.sym.source import read_users

CHANGE_COLUMNS: Final = ("at", "unique_id", "field", "old", "new")
ACCESS_COLUMNS: Final = ("unique_id", "field", "value", "since")
# In the order in which a person wants to read them; findings and counts are for machines.
PUSH_COLUMNS: Final = (
    "at",
    "verdict",
    "proof",
    "users",
    "active",
    "deactivated",
    "unchanged",
    "read_at",
    "latency_seconds",
    "token_generation",
    "approved_by",
    "reason",
    "run_id",
    "source_id",
    "body_sha256",
    "counts",
    "findings",
)
SHOWN_COLUMNS: Final = PUSH_COLUMNS[:9]  # as many as fit a terminal


@dataclass(frozen=True)
class History:
    """One customer's history, oldest first, as rows of plain values; times are RFC 3339 in UTC, as Vanta is sent them.

    Attributes:
        pushes: a row a push, with the columns `PUSH_COLUMNS`.
        changes: a row a changed field of an account, with the columns `CHANGE_COLUMNS`, and ``name`` where it was
            asked for. ``old`` is None for an account that was not known before; ``new`` is ABSENT for one that is not
            told of any more.
        access_at_start: a row a field of each account that Vanta knew when this begins, with the columns
            `ACCESS_COLUMNS`, and ``name`` likewise: with the changes, it tells who had what at any time after.
    """

    organization_id: UUID
    pushes: list[dict[str, Any]]
    changes: list[dict[str, Any]] = field(repr=False)
    access_at_start: list[dict[str, Any]] = field(repr=False)

    @classmethod
    def of(cls, connection: psycopg.Connection, organization_id: UUID, *, since: datetime | None) -> "History":
        """Read it from the ledger."""
        pushes = [_plain(asdict(push)) for push in history.pushes(connection, organization_id, since=since)]
        changes = [_plain(asdict(change)) for change in history.changes(connection, organization_id, since=since)]
        started = [_plain(asdict(access)) for access in history.access_at(connection, organization_id, since)]
        return cls(
            organization_id,
            [{name: push[name] for name in PUSH_COLUMNS} for push in pushes],
            [{name: change[name] for name in CHANGE_COLUMNS} for change in changes],
            [{name: access[name] for name in ACCESS_COLUMNS} for access in started],
        )

    def with_names(self, sym_url: str) -> "History":
        """Return the same with a name beside each unique id, as Sym knows it today; empty for who is gone from there.

        Raises:
            SourceError: Sym's database did not answer.
        """
        people = read_users(sym_url, str(self.organization_id)).frame.drop_duplicates("user_id")
        called = people["name"].fillna("").str.strip().where(lambda name: name != "", people["email"].fillna(""))
        names = dict(zip(people["user_id"], called, strict=True))
        return replace(
            self,
            changes=[_named(change, names) for change in self.changes],
            access_at_start=[_named(access, names) for access in self.access_at_start],
        )

    def shown_pushes(self) -> list[dict[str, Any]]:
        """Return the pushes with the columns that fit a terminal."""
        return [{name: push[name] for name in SHOWN_COLUMNS} for push in self.pushes]

    def content(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {"pushes": self.pushes, "changes": self.changes, "access_at_start": self.access_at_start}

    def csv(self) -> str:
        """Return the changes as CSV with a header (RFC 4180); a cell that a spreadsheet would run is quoted with '.

        What was so when this begins comes first, each with the time since when it was, and nothing as ``old``.
        """
        started = [_as_change(access) for access in self.access_at_start]
        rows = [*started, *self.changes]
        columns = list(rows[0]) if rows else list(CHANGE_COLUMNS)
        text = io.StringIO()
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
        return text.getvalue()


def _named(row: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Put a name behind the unique id."""
    named: dict[str, Any] = {}
    for column, value in row.items():
        named |= {column: value} | ({"name": names.get(value, "")} if column == "unique_id" else {})
    return named


def _as_change(access: Mapping[str, Any]) -> dict[str, Any]:
    """Tell how something was in the columns of a change."""
    told = {**access, "at": access["since"], "old": None, "new": access["value"]}
    columns = ("at", "unique_id", "name", "field", "old", "new")
    return {column: told[column] for column in columns if column in told}


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _utc(value) if isinstance(value, datetime) else value for name, value in row.items()}


def _utc(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _cell(value: object) -> object:
    """Defuse what Excel takes for a formula: a name is anybody's to choose."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
